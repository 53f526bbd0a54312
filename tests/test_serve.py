"""The server on real sockets: every slot once, what goes wrong is named, and nothing is lost at the end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
import zmq

from rtskel import wire
from rtskel.client import GroupPublisher, Publisher, Subscriber
from rtskel.curve import ClientKeys, ServerKeys, keygen
from rtskel.engine import open_engine
from rtskel.errors import EngineError, ServeError
from rtskel.refine import refine
from rtskel.serve import ServeConfig, Server, StreamConfig, sockets
from rtskel.wire import Event, Flag, Heartbeat, RefinedBatch, RefinedPose
from tests.test_streams import JOINTS, BlendEngine, recording

ANY = "tcp://127.0.0.1:*"
PATIENCE = 30.0  # seconds after which a test gives up; nothing waits that long when all is well


def expected(xyz: np.ndarray, came, frames: int, lookahead: int) -> np.ndarray:
    sparse = np.full((frames, JOINTS, 3), np.nan, np.float32)
    sparse[list(came)] = xyz[list(came)]
    return refine(sparse, engine=BlendEngine(), lookahead=lookahead)


@contextmanager
def serving(engine=None, *, config=None, clock=time.monotonic_ns, reopen=None, **streams):
    """A server in a thread; on the way out it ends as by SIGTERM.

    However busy the machine is, a frame that was sent is not late here; a dropped one is waited for that long, though.
    """
    fields = {"raw": ANY, "refined": ANY, "lookaheads": (0, 4), "heartbeat_s": 0.2} | (config or {})
    streams = {"max_streams": 80, "slack_s": PATIENCE} | streams
    config = ServeConfig(**fields, streams=StreamConfig(**streams))
    with Server(config, engine or BlendEngine(), clock=clock, reopen=reopen) as server:
        failures = []

        def run():
            try:
                server.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()
            assert not failures, failures


class Reader:
    """What a subscriber of everything got, however busy the machine is."""

    def __init__(self, server, **options):
        options = {"everything": not options.get("latest")} | options
        self.subscriber = Subscriber(server.refined_endpoint, heartbeats=True, **options)
        self.poses: list[RefinedPose] = []
        self.events: list[Event] = []
        self.heartbeats: list[Heartbeat] = []
        self.subscriber.wait_for_server(PATIENCE)

    def until(self, done) -> Reader:
        give_up = time.monotonic() + PATIENCE
        while not done(self):
            message = self.subscriber.recv(give_up - time.monotonic())
            if isinstance(message, RefinedPose):
                self.poses.append(message)
            elif isinstance(message, RefinedBatch):
                self.poses += message.poses()
            elif isinstance(message, Event):
                self.events.append(message)
            else:
                self.heartbeats.append(message)
        return self

    def until_ended(self, streams: int = 1) -> Reader:
        return self.until(lambda reader: sum(event.kind == "end" for event in reader.events) == streams)

    def until_counted(self, **counts: int) -> Reader:
        """Until a heartbeat says at least that."""

        def said(reader):
            last = reader.heartbeats[-1].counts if reader.heartbeats else {}
            return all(last.get(kind, 0) >= count for kind, count in counts.items())

        return self.until(said)

    def until_read(self, frames: int) -> Reader:
        """Until a heartbeat says that the server has read so many."""
        return self.until(lambda reader: reader.heartbeats and reader.heartbeats[-1].frames_in >= frames)

    def select(self, stream: str, lookahead: int) -> list[RefinedPose]:
        return [pose for pose in self.poses if (pose.stream, pose.lookahead) == (stream, lookahead)]

    def errors(self, stream: str) -> list[str]:
        return [event.detail for event in self.events if event.kind == "error" and event.stream == stream]

    def check(self, stream: str, xyz, came, frames: int, lookaheads=(0, 4)):
        """Every slot once, in order, equal to `refine` on the frames that came."""
        for lookahead in lookaheads:
            poses, want = self.select(stream, lookahead), expected(xyz, came, frames, lookahead)
            first = int(np.flatnonzero(want.any(axis=(1, 2)))[0])  # nothing is known before
            assert [pose.source_seq for pose in poses] == list(range(first, frames))
            assert [pose.seq for pose in poses] == list(range(frames - first))
            np.testing.assert_array_equal(np.array([pose.xyz for pose in poses]), want[first:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.subscriber.close()


def publisher(server, stream="a", fps=25.0, **options) -> Publisher:
    made = Publisher(server.raw_endpoint, stream=stream, fps=fps, **options)
    try:
        made.wait_for_subscriber(PATIENCE)
    except BaseException:
        made.close()
        raise
    return made


# --- every slot once ---


def test_every_slot_once_with_dropped_frames_and_the_tail():
    xyz = recording(120)
    came = [n for n in range(120) if n % 7 != 3 and n != 119]
    with serving(slack_s=1) as server, Reader(server) as reader, publisher(server) as sender:
        for n in came:
            sender.send(xyz[n], seq=n, block=True)
        sender.end(120)
        reader.until_ended()
        reader.check("a", xyz, came, 120)
        filled = [pose.source_seq for pose in reader.select("a", 4) if pose.flags & Flag.INTERPOLATED]
        assert filled == [n for n in range(120) if n not in came]
        assert [event.kind for event in reader.events] == ["start", "end"]
        for pose in reader.poses:
            assert pose.epoch == server.epoch
            assert pose.model == "blend"
            times = [pose.receive_ns, pose.infer_start_ns, pose.infer_end_ns, pose.publish_ns]
            assert times == sorted(times)
            assert (pose.receive_ns == 0) == bool(pose.flags & Flag.INTERPOLATED)


def test_frames_shuffled_within_the_lookahead_and_duplicates():
    xyz = recording(100)
    rng = np.random.default_rng(0)
    order = [int(n) for block in np.arange(100).reshape(-1, 5) for n in rng.permutation(block)]
    with serving() as server, Reader(server) as reader, publisher(server) as sender:
        for n in order:
            sender.send(xyz[n], seq=n, block=True)
            sender.send(xyz[n] + 1, seq=n, block=True)
        sender.end(100)
        reader.until_ended().until_counted(duplicate=100)
        reader.check("a", xyz, range(100), 100)
        assert reader.heartbeats[-1].counts == {"duplicate": 100}


def test_64_streams_at_once():
    clips = {f"s{k}": recording(60, seed=k) for k in range(64)}
    came = {name: [n for n in range(60) if (n + k) % 9] for k, name in enumerate(clips)}
    with serving(BlendEngine(max_batch=32), slack_s=2) as server, Reader(server) as reader:
        first = publisher(server, "s0")
        senders = {name: first if name == "s0" else first.sibling(name) for name in clips}
        for n in range(60):
            for name, sender in senders.items():
                if n in came[name]:
                    sender.send(clips[name][n], seq=n, block=True)
        for sender in senders.values():
            sender.end(60)
            sender.close()
        reader.until_ended(64)
        for name, xyz in clips.items():
            reader.check(name, xyz, came[name], 60)
        assert max(beat.streams for beat in reader.heartbeats) == 64


def test_one_sequence_after_the_other():
    clips = [recording(frames, seed=frames) for frames in (1, 2, 7, 8, 9, 40)]
    with serving() as server, Reader(server) as reader, publisher(server) as sender:
        for xyz in clips:
            for pose in xyz:
                sender.send(pose, block=True)
            sender.end()
        reader.until_ended(len(clips))
    for lookahead in (0, 4):
        poses = reader.select("a", lookahead)
        assert [pose.seq for pose in poses] == list(range(sum(map(len, clips))))
        want = [refine(xyz, engine=BlendEngine(), lookahead=lookahead) for xyz in clips]
        np.testing.assert_array_equal(np.array([pose.xyz for pose in poses]), np.concatenate(want))


def test_what_is_refused_of_another_publisher_with_the_same_id_is_not_ones_own():
    xyz = recording(9)
    with serving() as server, Reader(server) as reader, publisher(server) as owner, publisher(server) as stranger:
        for n in range(8):
            owner.send(xyz[n], block=True)
        reader.until_read(8)
        for n in range(2):
            stranger.send(xyz[n], block=True)
        reader.until_read(10)
        owner.send(xyz[8], block=True)
        owner.end()
        reader.until_ended().until_counted(other_epoch=2)
        reader.check("a", xyz, range(9), 9)
        for sender in (owner, stranger):
            sender.close()
        assert (owner.refusals, stranger.refusals["other_epoch"]) == ({}, 2)
        assert [event.source_epoch for event in reader.events if "other_epoch" in event.counts] == [stranger.epoch]


def test_frames_without_numbers():
    xyz = recording(40)
    with serving() as server, Reader(server) as reader, publisher(server) as sender:
        for n in range(40):
            sender.send(xyz[n], time_ns=10**12 + n * 40_000_000, block=True)
        sender.end()
        reader.until_ended()
    out = np.array([pose.xyz for pose in reader.select("a", 4)])
    np.testing.assert_array_equal(out, expected(xyz, range(40), 40, 4))
    assert {pose.source_seq for pose in reader.poses} == {None}


def test_axes_of_the_source():
    xyz = recording(20)
    with serving() as server, Reader(server) as reader:
        with publisher(server, "unity", axes="RUA") as sender:
            for pose in xyz * np.float32([1, -1, -1]):
                sender.send(pose, block=True)
        reader.until_ended()
    out = np.array([pose.xyz for pose in reader.select("unity", 4)])
    np.testing.assert_array_equal(out * np.float32([1, -1, -1]), expected(xyz, range(20), 20, 4))


def test_a_subscriber_gets_what_it_asked_for():
    xyz = recording(20)
    with serving() as server, Reader(server, streams="b", lookahead=0, events=False) as reader, Reader(server) as all_:
        first = publisher(server)
        with first, first.sibling("b") as second, first.sibling("bb") as third:
            for n in range(20):
                for sender in (first, second, third):
                    sender.send(xyz[n], block=True)
        all_.until_ended(3)
        reader.until(lambda reader: len(reader.poses) == 20)
    assert {(pose.stream, pose.lookahead) for pose in reader.poses} == {("b", 0)}
    assert len(all_.poses) == 120


# --- time ---


def test_a_stall_does_not_stall_readers():
    with serving(max_gap=3, slack_s=1) as server, Reader(server) as reader, publisher(server, fps=200) as sender:
        for pose in recording(10):
            sender.send(pose)
        reader.until(lambda reader: any(event.kind == "stale" for event in reader.events))
        assert [pose.source_seq for pose in reader.select("a", 4)] == list(range(13))


def test_idle_streams_are_evicted_and_their_places_used_again():
    with serving(max_streams=1, idle_s=0.5) as server, Reader(server) as reader, publisher(server) as first:
        for pose in recording(5):
            first.send(pose)
        with first.sibling("b") as second:
            second.send(recording(5)[0])
            reader.until(lambda reader: any(event.kind == "evicted" for event in reader.events))
            assert "max_streams" in reader.errors("b")[0]
            second.send(recording(5)[1])
            reader.until(lambda reader: any(e.kind == "start" and e.stream == "b" for e in reader.events))
        reader.until_counted(refused=1)
    assert [pose.source_seq for pose in reader.select("a", 0)][:5] == list(range(5))


def test_heartbeats():
    with serving() as server, Reader(server) as reader:
        reader.until(lambda reader: len(reader.heartbeats) == 4)
        first, *_, last = reader.heartbeats
        assert last.seq - first.seq == 3
        assert last.time_ns > first.time_ns
        assert (last.epoch, last.interval_ns, last.lookaheads) == (server.epoch, 200_000_000, (0, 4))
        assert (last.model, last.skeleton, last.streams, last.frames_in) == ("blend", "upper-body-50", 0, 0)


def test_every_new_reader_gets_a_heartbeat_at_once():
    with serving(config={"heartbeat_s": 3600.0}) as server:
        readers = [Reader(server) for _ in range(3)]  # each waits for one
        for reader in readers:
            reader.subscriber.close()


def test_batch_wait_refines_streams_together():
    sizes = []
    blend = BlendEngine(max_batch=8)
    run = blend.run
    blend.run = lambda x, missing, positions: sizes.append(len(x)) or run(x, missing, positions)
    with serving(blend, config={"batch_wait_s": 60.0}) as server, Reader(server) as reader:
        first = publisher(server, "s0")
        senders = [first] + [first.sibling(f"s{k}") for k in range(1, 8)]
        for sender in senders:
            sender.send(recording(1)[0], block=True)
            first._uplink._ask()  # questions do not fill a batch
        reader.until(lambda reader: len(reader.poses) == 8)
        for sender in senders:
            sender.close()  # 8 ends
        reader.until_ended(8)
    assert sizes[1] == 8  # the first one tried the engine out


def test_nobody_in_view():
    """Poses, events and numbers as a reader gets them: no hole is taken for a loss."""
    xyz = recording(200)
    with serving() as server, Reader(server) as reader, publisher(server) as sender:
        for n in range(200):
            seen = 60 <= n < 70 or n >= 150
            sender.send(xyz[n], None if seen else np.zeros(JOINTS, np.float32), seq=n, block=True)
        sender.end(200)
        reader.until_ended()
        assert all(pose.xyz.any() for pose in reader.poses)
        assert [event.kind for event in reader.events] == ["start", "lost", "found", "lost", "found", "end"]
        assert not reader.subscriber.lost
        for lookahead in (0, 4):
            assert [pose.seq for pose in reader.select("a", lookahead)] == list(
                range(len(reader.select("a", lookahead)))
            )


# --- several people in one message ---


def test_groups_in_and_batches_out_beside_single_messages():
    people = ["ann", "ben", "cid"]
    clips = {name: recording(60, seed=k) for k, name in enumerate(people)}
    came = {name: [n for n in range(60) if (n + 5 * k) % 9] for k, name in enumerate(people)}
    with (
        serving(slack_s=2) as server,
        Reader(server) as single,
        Reader(server, batches=True) as batched,
        Reader(server, batches=True, lookahead=4) as later,
        Reader(server, streams="ben", lookahead=0) as ben,
        GroupPublisher(server.raw_endpoint, group="room", fps=25) as camera,
    ):
        camera.wait_for_subscriber(PATIENCE)
        for n in range(60):
            here = [name for name in people if n in came[name]]
            camera.send(here, np.stack([clips[name][n] for name in here]), seq=n, block=True)
        for name in people:
            camera.end(name, 60)
        for reader in (single, batched, later):
            reader.until_ended(3)
        ben.until_ended()
        for name in people:
            single.check(name, clips[name], came[name], 60)
            batched.check(name, clips[name], came[name], 60)
            later.check(name, clips[name], came[name], 60, (4,))
        ben.check("ben", clips["ben"], came["ben"], 60, (0,))
        assert {pose.lookahead for pose in later.poses} == {4}
        assert {(pose.stream, pose.lookahead) for pose in ben.poses} == {("ben", 0)}
        for pose in batched.poses:
            twin = single.select(pose.stream, pose.lookahead)[pose.seq]
            for name in (
                "source_seq",
                "source_time_ns",
                "source_epoch",
                "fps",
                "flags",
                "windows",
                "axes",
                "receive_ns",
            ):
                assert getattr(pose, name) == getattr(twin, name)
            for name in ("confidence", "missing", "sigma"):
                np.testing.assert_array_equal(getattr(pose, name), getattr(twin, name))


@pytest.mark.parametrize(
    ("options", "topics"),
    [
        ({"batches": True, "lookahead": 4}, {b"rts1/refined_batch/L4/"}),
        ({"batches": True}, {b"rts1/refined_batch/L0/", b"rts1/refined_batch/L4/"}),
        ({"streams": "b", "lookahead": 0}, {b"rts1/refined/b/L0/"}),
        ({"streams": []}, set()),
    ],
)
def test_nothing_is_sent_that_nobody_reads(options, topics, monkeypatch):
    sent = Counter()
    send = sockets._send
    monkeypatch.setattr(sockets, "_send", lambda socket, part, flags: sent.update([part]) or send(socket, part, flags))
    nothing = {"streams": ("a", "b"), "lookahead": 9}  # but events
    with serving() as server, Reader(server, **options) as reader, Reader(server, **nothing) as events:
        first = publisher(server, "a")
        for sender in first, first.sibling("b"):
            for pose in recording(20):
                sender.send(pose, block=True)
            sender.close()
        events.until_ended(2)
        del reader
    assert {topic for topic in sent if topic.startswith((wire.REFINED_PREFIX, wire.REFINED_BATCH_PREFIX))} == topics


def test_a_reader_that_comes_or_goes_changes_what_is_sent():
    xyz = recording(60)
    with serving() as server, Reader(server) as always, publisher(server) as sender:
        for n in range(20):
            sender.send(xyz[n], seq=n, block=True)
        always.until(lambda reader: len(reader.select("a", 0)) == 20)
        with Reader(server, batches=True) as batched, Reader(server, streams="a", lookahead=0) as single:
            for n in range(20, 40):
                sender.send(xyz[n], seq=n, block=True)
            for reader in (batched, single):
                reader.until(lambda reader: reader.poses[-1:] and reader.poses[-1].source_seq == 39)
            assert [pose.source_seq for pose in single.poses] == list(range(20, 40))
            assert [pose.source_seq for pose in batched.select("a", 0)] == list(range(20, 40))
        for n in range(40, 60):
            sender.send(xyz[n], seq=n, block=True)
        sender.end()
        always.until_ended()
        always.check("a", xyz, range(60), 60)


# --- overload and failures ---


def test_more_frames_than_can_wait_are_held_back_and_none_is_lost():
    xyz = recording(300)
    came = [n for n in range(300) if n % 10 != 5]
    config = {"max_waiting": 16, "receive_queue": 4}
    with serving(config=config, slack_s=1) as server, Reader(server) as reader, publisher(server, queue=4) as sender:
        for n in came:
            sender.send(xyz[n], seq=n, block=True)
        sender.end(300)
        reader.until_ended()
        reader.check("a", xyz, came, 300)
        assert sender.dropped == 0


def test_a_reader_that_does_not_read_holds_nobody_up():
    xyz = recording(20)
    with (
        serving(config={"send_queue": 200}) as server,
        Reader(server, queue=1),
        Reader(server) as reader,
        publisher(server) as sender,
    ):
        for n in range(4000):  # more than what ZeroMQ and the system keep for the one that does not read
            sender.send(xyz[n % 20], block=True)
            if n % 20 == 19:  # no faster than the other one reads
                reader.until(lambda reader, n=n: reader.poses[-1:] and reader.poses[-1].source_seq >= n - 4)
        sender.end()
        reader.until_ended()
        for lookahead in (0, 4):
            assert [pose.source_seq for pose in reader.select("a", lookahead)] == list(range(4000))


def test_a_failing_engine_lets_poses_through_and_says_so():
    xyz = recording(30)
    blend = BlendEngine()
    run, fail = blend.run, threading.Event()

    def sometimes(*arguments):
        if fail.is_set():
            raise RuntimeError("out of\nmemory")
        return run(*arguments)

    blend.run = sometimes
    with serving(blend) as server, Reader(server) as reader, publisher(server) as sender:
        for n in range(30):
            (fail.set if 10 <= n < 13 else fail.clear)()
            sender.send(xyz[n], seq=n, block=True)
            reader.until(lambda reader, n=n: len(reader.select("a", 0)) == n + 1)
        sender.end()
        reader.until_ended().until_counted(engine=3)
        raw = reader.select("a", 0)
        assert [bool(pose.flags & Flag.PASSTHROUGH) for pose in raw[10:13]] == [True] * 3
        for n in (10, 11, 12):
            np.testing.assert_allclose(raw[n].xyz, xyz[n], atol=1e-5)
        assert reader.errors("")[0].endswith("unrefined: out of memory")
        for lookahead in (0, 4):
            poses = reader.select("a", lookahead)
            clean = [n for n, pose in enumerate(poses) if not pose.flags & Flag.PASSTHROUGH]
            assert len(clean) >= 15
            out = np.array([pose.xyz for pose in poses])
            np.testing.assert_array_equal(out[clean], expected(xyz, range(30), 30, lookahead)[clean])


def test_an_engine_that_never_runs_is_one_clear_error():
    broken = BlendEngine()
    broken.run = lambda x, missing, positions: 1 / 0
    with pytest.raises(EngineError, match="blend: the engine does not run: division by zero"):
        Server(ServeConfig(raw=ANY, refined=ANY), broken)


# --- bad input ---


def pose_body(**changes) -> bytes:
    xyz = np.zeros((JOINTS, 3), np.float32)
    raw = wire.RawPose("evil", 1, 0, 0, "monotonic", 25.0, xyz, xyz[:, 0] + 1, "upper-body-50")
    body = msgpack.unpackb(wire.encode(raw)[1])
    for name, value in changes.items():
        place, _, index = name.partition("_")
        if index:
            body[place][int(index)] = value
        else:
            body[place] = value
    return msgpack.packb(body)


TOPIC = wire.raw_topic("evil")
NAN = np.full((JOINTS, 3), np.nan, np.float32)
OTHER = wire.encode(wire.Event("evil", "start", 1, 0, 0))

BATTERY = {  # name: (parts, kind of offence, stream that is named, text in the error)
    "garbage": ([TOPIC, b"\xc1\x00garbage"], "malformed", "evil", "not msgpack"),
    "garbage topic": ([b"\xff\xfe", b"\x80"], "malformed", "", "version"),
    "empty": ([b"", b""], "malformed", "", ""),
    "no body": ([TOPIC], "malformed", "evil", "1 parts"),
    "three parts": ([TOPIC, pose_body(), b"x"], "malformed", "evil", "3 parts"),
    "too long": ([TOPIC, pose_body(more=b"x" * 70_000)], "oversize", "evil", "more than 65536"),
    "a megabyte": ([TOPIC, bytes(1 << 20)], "oversize", "evil", "more than 65536"),
    "version 2": ([TOPIC, pose_body(v=2)], "version", "evil", "version v is 2"),
    "version 2 by topic": ([b"rts2/raw/evil/", pose_body(v=2)], "version", "", "version v is 2"),
    "another stream's topic": ([wire.raw_topic("good"), pose_body()], "malformed", "good", "belongs on"),
    "not a raw pose": ([*OTHER], "malformed", "evil", "Event where raw poses belong"),
    "wrong length": ([TOPIC, pose_body(xyz=b"abc")], "malformed", "evil", "xyz"),
    "wrong type": ([TOPIC, pose_body(xyz=[0.0] * 150)], "malformed", "evil", "xyz"),
    "negative seq": ([TOPIC, pose_body(source_1=-1)], "malformed", "evil", "-1"),
    "text seq": ([TOPIC, pose_body(source_1="7")], "malformed", "evil", "seq"),
    "fps 0": ([TOPIC, pose_body(source_4=0.0)], "malformed", "evil", "fps"),
    "axes": ([TOPIC, pose_body(space_2="RRT")], "malformed", "evil", "axes"),
    "33 joints": (
        [TOPIC, pose_body(space_1=33, xyz=bytes(33 * 12), confidence=bytes(33 * 4))],
        "joints",
        "evil",
        "33 joints",
    ),
    "another skeleton": ([TOPIC, pose_body(space_0="hand-21")], "skeleton", "evil", "hand-21"),
    "huge seq": ([TOPIC, pose_body(source_1=2**63 - 1)], "malformed", "evil", "source.seq"),
    "NaN": ([TOPIC, pose_body(xyz=NAN.tobytes())], "nonfinite", "evil", "50 joints are NaN"),
}


@pytest.fixture(scope="module")
def clean_run() -> list[bytes]:
    return good_stream([])[1]


def good_stream(bad: list[list[bytes]]) -> tuple[Reader, list[bytes]]:
    """A good stream, each frame followed by bad messages from another connection; what came of it, as bytes."""
    xyz = recording(25)
    with (
        serving() as server,
        zmq.Context() as context,
        context.socket(zmq.XPUB) as evil,
        Reader(server) as reader,
        publisher(server, "good") as sender,
    ):
        evil.linger = 0
        evil.connect(server.raw_endpoint)
        evil.rcvtimeo = round(PATIENCE * 1000)
        assert {evil.recv(), evil.recv()} == {b"\1", b"\1rts1/raw/"}
        for n in range(25):
            sender.send(xyz[n], seq=n, block=True)
            for parts in bad:
                evil.send_multipart(parts)
            reader.until(lambda reader, n=n: len(reader.select("good", 0)) == n + 1)
        sender.end()
        reader.until(lambda reader: any(event.kind == "end" and event.stream == "good" for event in reader.events))
        kinds = Counter(kind for parts, kind, *_ in BATTERY.values() if parts in bad)
        reader.until_counted(**{kind: count * 25 for kind, count in kinds.items()})
    good = [pose for pose in reader.poses if pose.stream == "good"]
    return reader, [b"".join([pose.xyz.tobytes(), pose.sigma.tobytes(), pose.confidence.tobytes()]) for pose in good]


@pytest.mark.parametrize("name", BATTERY)
def test_bad_input_is_named_and_others_are_untouched(name, clean_run):
    parts, kind, stream, text = BATTERY[name]
    reader, out = good_stream([parts])
    assert out == clean_run
    named = [error for error in reader.errors(stream) if text in error]
    assert named, reader.events
    assert all("\n" not in error for error in named)
    assert reader.heartbeats[-1].counts[kind] >= 25


def test_all_bad_input_at_once(clean_run):
    reader, out = good_stream([parts for parts, *_ in BATTERY.values()])
    assert out == clean_run
    assert {event.stream for event in reader.events if event.kind == "error"} == {"evil", "good", ""}


# --- addresses ---


def test_a_port_in_use_is_named():
    with serving() as server:
        for config in (
            {"raw": server.raw_endpoint, "refined": ANY},
            {"raw": ANY, "refined": server.refined_endpoint},
        ):
            taken = next(value for value in config.values() if value != ANY)
            with pytest.raises(ServeError, match=f"{taken}: address already in use"):
                Server(ServeConfig(**config), BlendEngine())


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:*", "tcp://*:*", "tcp://127.0.0.1", "http://127.0.0.1:80", ""])
@pytest.mark.parametrize("which", ["raw", "refined"])
def test_addresses_that_are_refused(which, endpoint):
    with pytest.raises(ServeError, match=r".+" if not endpoint else endpoint.replace("*", r"\*")):
        Server(ServeConfig(**({"raw": ANY, "refined": ANY} | {which: endpoint})), BlendEngine())


def test_port_0_is_chosen_by_the_system_too():
    with Server(ServeConfig(raw="tcp://127.0.0.1:0", refined="tcp://127.0.0.1:0"), BlendEngine()) as server:
        ports = {endpoint.rpartition(":")[2] for endpoint in (server.raw_endpoint, server.refined_endpoint)}
        assert len(ports) == 2
        assert "0" not in ports


def test_with_keys_only_known_clients_get_in(tmp_path):
    keygen(tmp_path, ["friend", "stranger"])
    (tmp_path / "server/clients/stranger.key").unlink()
    keys = ServerKeys.load(tmp_path / "server")
    friend, stranger = ClientKeys.load(tmp_path / "friend"), ClientKeys.load(tmp_path / "stranger")
    xyz = recording(10)
    with serving(config={"keys": keys}) as server, Reader(server, keys=friend) as reader:
        outside = Publisher(server.raw_endpoint, stream="x", fps=25, keys=stranger)
        plain = Publisher(server.raw_endpoint, stream="y", fps=25)
        with Publisher(server.raw_endpoint, stream="a", fps=25, keys=friend) as sender:
            sender.wait_for_subscriber(PATIENCE)
            for pose in xyz:
                sender.send(pose, block=True)
        reader.until_ended()
        for refused in (outside, plain):
            assert not refused.has_subscriber
            refused.close()
    assert len(reader.select("a", 4)) == 10


@pytest.mark.parametrize("field", ["heartbeat_s", "receive_queue", "send_queue", "max_waiting"])
def test_configuration_is_checked(field):
    with pytest.raises(ValueError, match=field):
        ServeConfig(**{field: 0})


def test_a_radius_that_does_not_fit_the_engine_is_named():
    with pytest.raises(ServeError, match=r"radius must be 0\.\.3 for a window of 8, got 4"):
        Server(ServeConfig(raw=ANY, refined=ANY, radius=4), BlendEngine())


# --- the end ---

SCRIPT = """
import sys, threading
from rtskel.engine import open_engine
from rtskel.serve import ServeConfig, StreamConfig, run_server

engine = open_engine("null", window=8)
if "hang" in sys.argv:
    run, calls = engine._run, []
    def hang(*arguments):
        calls.append(0)
        if len(calls) > 1:
            print("hangs", flush=True)
            threading.Event().wait()
        return run(*arguments)
    engine._run = hang
streams = StreamConfig(slack_s=30)
config = ServeConfig(raw="tcp://127.0.0.1:*", refined="tcp://127.0.0.1:*", lookaheads=(0, 4), streams=streams)
number = run_server(config, engine, lambda server: print(server.raw_endpoint, server.refined_endpoint, flush=True))
print("done", number, flush=True)
"""


@contextmanager
def server_process(*arguments: str):
    command = [sys.executable, "-P", "-c", SCRIPT, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            raw, refined = process.stdout.readline().split()
            yield process, SimpleNamespace(raw_endpoint=raw, refined_endpoint=refined)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_stream_with_its_tail(number):
    xyz = recording(20)
    with server_process() as (process, server), Reader(server) as reader:
        first = publisher(server, "a")
        with first.sibling("b") as second:
            for n in range(20):
                first.send(xyz[n], seq=n, block=True)
                if n != 13:
                    second.send(xyz[n], seq=n, block=True)
            reader.until(lambda reader: len(reader.select("a", 0)) == 20 and len(reader.select("b", 0)) >= 13)
            process.send_signal(number)
            reader.until_ended(2)
            for stream in "ab":
                for lookahead in (0, 4):
                    assert [pose.source_seq for pose in reader.select(stream, lookahead)] == list(range(20))
            assert process.wait(PATIENCE) == 0
            assert process.stdout.read() == f"done {int(number)}\n"
        first.close()


def test_a_second_signal_ends_at_once():
    with server_process("hang") as (process, server), publisher(server) as sender:
        sender.send(recording(1)[0])
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGTERM)
        # The first one lets the engine finish, which it never does.
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_stop_refines_what_has_come_and_closes():
    xyz = recording(50)
    config = ServeConfig(raw=ANY, refined=ANY, lookaheads=(0, 4), streams=StreamConfig(slack_s=PATIENCE))
    with Server(config, BlendEngine()) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        with Reader(server) as reader, publisher(server) as sender:
            for n in range(50):
                sender.send(xyz[n], seq=n, block=True)
            reader.until(lambda reader: len(reader.select("a", 0)) == 50)
            server.stop()
            server.stop()
            reader.until_ended()
            thread.join(PATIENCE)
            assert not thread.is_alive()
            server.close()  # else the publisher waits for it
        reader.check("a", xyz, range(50), 50)
        assert reader.events[-1].detail == "shutdown"


def test_the_null_engine_gives_back_what_came():
    xyz = recording(50)
    with open_engine("null", window=16) as null, serving(null) as server, Reader(server) as reader:
        with publisher(server) as sender:
            for pose in xyz:
                sender.send(pose, block=True)
        reader.until_ended()
    for lookahead in (0, 4):
        out = np.array([pose.xyz for pose in reader.select("a", lookahead)])
        np.testing.assert_allclose(out, xyz, atol=1e-5)
