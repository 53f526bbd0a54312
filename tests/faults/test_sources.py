"""Publishers that send out of order, twice, late, rubbish, at other rates, of other bodies, by clocks that jump.

The stream itself goes on and says what it did; a steady neighbour does not notice.
"""

from __future__ import annotations

import collections
import itertools
import threading
import time

import numpy as np
import pytest

from rtskel import wire
from rtskel.wire import Flag
from tests.faults.processes import JOINTS, SECOND, Reader, ServerProcess, clip, undisturbed, wait_for
from tests.hostile.zmtp import Peer

FPS = 25


def raw(n: int, **changes) -> tuple[bytes, bytes]:
    fields = dict(
        stream="odd",
        epoch=1,
        seq=n,
        time_ns=n * SECOND // FPS,
        clock="monotonic",
        fps=float(FPS),
        xyz=clip(400)[n % 400],
        confidence=np.ones(JOINTS, np.float32),
        skeleton="upper-body-50",
    )
    return wire.encode(wire.RawPose(**fields | changes))


class Odd:
    """Sends messages of a stream of its own at 25 a second."""

    names = itertools.count()

    def __init__(self, server: ServerProcess) -> None:
        self.peer = Peer(server.raw, "XPUB")
        self.name = f"odd{next(self.names)}"
        self.due = time.monotonic()

    def raw(self, n: int, **changes) -> tuple[bytes, bytes]:
        return raw(n, stream=self.name, **changes)

    def send(self, *messages: tuple[bytes, bytes]) -> None:
        self.due += 1 / FPS
        threading.Event().wait(max(0.0, self.due - time.monotonic()))
        for message in messages:
            assert self.peer.send(self.peer.message(*message))


@pytest.fixture(scope="module")
def server():
    """A server that fills in after 300 ms, for all of these streams; they do not disturb each other either."""
    with ServerProcess("--slack-ms", 300) as made:
        yield made


@pytest.fixture
def served(server):
    odd = Odd(server)
    with Reader(server.refined, streams=odd.name) as reader:
        reader.before = collections.Counter(reader.beats(1).counts())
        yield odd, reader
        odd.peer.close()
        assert server.alive


def poses(reader: Reader, lookahead: int = 0) -> list[wire.RefinedPose]:
    return [pose for pose in reader.poses if pose.lookahead == lookahead]


def slots(reader: Reader, lookahead: int = 0) -> list[int]:
    return [pose.source_seq for pose in poses(reader, lookahead)]


def until_counted(reader: Reader, kind: str, count: int) -> None:
    """So many more than before."""
    reader.until(lambda reader: reader.counts().get(kind, 0) == reader.before[kind] + count, f"{count} {kind}")


def kinds(reader: Reader) -> list[str]:
    return [event.kind for event in reader.events if event.stream]


def test_out_of_order_and_twice(served):
    odd, reader = served
    order = [0, 1, 3, 2, 4, 6, 6, 5, 7, 9, 8, 8, 10, 11, 12]
    for n in order:
        odd.send(odd.raw(n))
    reader.until(lambda reader: len(slots(reader, 4)) >= 9)
    until_counted(reader, "duplicate", 2)
    assert slots(reader, 4)[:9] == list(range(9))
    assert all(pose.receive_ns for pose in poses(reader, 4)[:9])


def test_far_too_late(served):
    odd, reader = served
    for n in [*range(20), *range(30, 40)]:
        odd.send(odd.raw(n))
    reader.until(lambda reader: 30 in slots(reader))
    odd.send(odd.raw(22), odd.raw(23))
    for n in range(40, 45):
        odd.send(odd.raw(n))
    reader.until(lambda reader: 44 in slots(reader))
    until_counted(reader, "late", 2)
    assert slots(reader)[:45] == list(range(45))


def test_coordinates_that_are_no_numbers(served):
    odd, reader = served
    for n in range(30):
        topic, body = odd.raw(n)
        if n in (10, 11, 20):
            value = np.float32(np.nan if n < 20 else np.inf).tobytes()
            at = body.index(clip(400)[n].tobytes())
            body = body[:at] + value * 3 + body[at + 12 :]
        odd.send((topic, body))
    reader.until(lambda reader: 29 in slots(reader))
    until_counted(reader, "nonfinite", 3)
    assert slots(reader)[:30] == list(range(30))
    assert [pose.source_seq for pose in poses(reader) if pose.missing[0]][:3] == [10, 11, 20]


@pytest.mark.parametrize(
    ("kind", "changes"), [("skeleton", {"skeleton": "other"}), ("flat", {"dims": 2})], ids=["skeleton", "no depth"]
)
def test_frames_of_another_body_are_refused_and_the_stream_goes_on(served, kind, changes):
    odd, reader = served
    for n in range(30):
        odd.send(odd.raw(n, **(changes if 10 <= n < 13 else {})))
    reader.until(lambda reader: 29 in slots(reader))
    until_counted(reader, kind, 3)
    assert slots(reader)[:30] == list(range(30))
    filled = [pose.source_seq for pose in poses(reader) if pose.flags & Flag.INTERPOLATED]
    assert filled[:3] == [10, 11, 12]


@pytest.mark.parametrize("changes", [{"axes": "RUA"}, {"mirrored": True}, {"epoch": 2, "axes": "RDA"}])
def test_other_axes_begin_afresh(served, changes):
    odd, reader = served
    for n in range(40):
        odd.send(odd.raw(n, **(changes if n >= 20 else {})))
    reader.until(lambda reader: 39 in slots(reader))
    reader.until(lambda reader: "reset" in kinds(reader))
    assert slots(reader)[slots(reader).index(39) - 19 :][:20] == list(range(20, 40))


@pytest.mark.parametrize("fps", [15.0, 30.0, 50.0])
def test_another_rate_is_followed(served, fps):
    odd, reader = served
    for n in range(60):
        odd.send(odd.raw(n, fps=fps if n >= 20 else float(FPS)))
    reader.until(lambda reader: 59 in slots(reader))
    assert all(pose.receive_ns for pose in poses(reader)[:60]), "a frame that came was given up"


def longest_silence(reader: Reader) -> float:
    times = [pose.publish_ns for pose in poses(reader)]
    return float(np.diff(times).max()) / SECOND


@pytest.mark.parametrize("to", [0, 3, 50], ids=["the first", "an early one", "not so far"])
def test_numbers_that_go_back_are_a_new_life(served, to):
    odd, reader = served
    for n in [*range(100), *range(to, to + 50)]:
        odd.send(odd.raw(n, time_ns=n * SECOND // FPS))
    reader.until(lambda reader: slots(reader).count(to + 49) == 1 + (to + 49 < 100), patience=10)
    again = len(slots(reader)) - slots(reader)[::-1].index(to + 49)
    assert slots(reader)[again - 40 : again] == list(range(to + 10, to + 50))
    assert longest_silence(reader) < 1.5
    reader.until(lambda reader: "reset" in kinds(reader), "reset", patience=10)


@pytest.mark.parametrize("step", [-0.2, -10.0, -3600.0, 3600.0], ids=lambda step: f"{step:g} s")
def test_clocks_that_are_set(served, step):
    """Frames that are placed by their times: every one that comes after the step comes out, within two frames."""
    odd, reader = served
    begin = 10**13
    for n in range(100):
        time_ns = begin + n * SECOND // FPS + (round(step * SECOND) if n >= 50 else 0)
        odd.send(odd.raw(n, seq=None, time_ns=time_ns))
    last = begin + 99 * SECOND // FPS + round(step * SECOND)

    def out(reader: Reader) -> bool:
        return any(pose.source_time_ns == last for pose in poses(reader))

    reader.until(out, "the last frame", patience=10)
    came = {pose.source_time_ns for pose in poses(reader) if pose.receive_ns}
    after = [begin + n * SECOND // FPS + round(step * SECOND) for n in range(50, 100)]
    assert len([time_ns for time_ns in after if time_ns in came]) >= 48
    assert longest_silence(reader) < 1.5


RUBBISH = {
    "malformed": [(b"rts1/raw/odd/", b"\x81\xa1v\x01"), (b"rts1/raw/odd/", b"\xdf\xff\xff\xff\xff"), (b"", b"")],
    "oversize": [(b"rts1/raw/odd/", bytes(66_000)), (b"rts1/raw/odd/", bytes(65_537))],
    "version": [(b"rts1/raw/odd/", b"\x81\xa1v\x02")],
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_at_a_high_rate(kind):
    with (
        ServerProcess() as server,
        undisturbed(server) as neighbour,
        Reader(server.refined) as reader,
        Peer(server.raw, "XPUB") as peer,
    ):
        block = b"".join(peer.message(*message) for message in RUBBISH[kind]) * 20
        for _ in range(10):
            assert peer.send(block * 5)
            neighbour.served(1)
        reader.until_counted(kind, 10 * 5 * 20)


def test_a_new_name_with_every_frame():
    """A tracker that never recognises anybody: its streams are bounded, a neighbour's poses neither late nor lost."""
    with (
        ServerProcess("--max-streams", 32) as server,
        undisturbed(server) as neighbour,
        Reader(server.refined) as reader,
    ):
        with Peer(server.raw, "XPUB") as peer:
            for n in range(50):
                block = b"".join(peer.message(*raw(0, stream=f"ghost{n}-{k}", time_ns=n)) for k in range(4))
                assert peer.send(block)
                neighbour.served(1)
        wait_for(lambda: reader.beats(1).heartbeats[-1].streams <= 33, "few streams")


def test_two_hundred_names_in_one_message():
    with ServerProcess() as server, undisturbed(server) as neighbour, Peer(server.raw, "XPUB") as peer:
        people = 70
        for part in range(3):
            fields = dict(
                group="g",
                epoch=1,
                seq=0,
                time_ns=0,
                clock="unix",
                fps=float(FPS),
                streams=[f"ghost{part}-{k}" for k in range(people)],
                skeleton="upper-body-50",
                xyz=clip(people),
                confidence=np.ones((people, JOINTS), np.float32),
            )
            assert peer.send(peer.message(*wire.encode(wire.RawBatch(**fields))))
        neighbour.served(40)


def test_a_newcomer_beside_one_that_holds_all_places():
    """Twenty ids at 25 frames a second by one connection, eight places: it has to leave one to whoever comes."""
    with ServerProcess("--max-streams", 8) as server, Peer(server.raw, "XPUB") as peer:
        stop = threading.Event()

        def crowd() -> None:
            for n in itertools.count():
                assert peer.send(b"".join(peer.message(*raw(n, stream=f"crowd{k}")) for k in range(20)))
                if stop.wait(1 / FPS):
                    return

        with Reader(server.refined) as reader:
            thread = threading.Thread(target=crowd)
            thread.start()
            try:
                reader.until(lambda reader: reader.streams == 8, "all places are taken")
                reader.until_counted("refused", 200)
                newcomer = Odd(server)
                for n in range(75):
                    newcomer.send(newcomer.raw(n))
                reader.until(lambda reader: any(pose.source_seq == 74 for pose in reader.select(newcomer.name)))
            finally:
                stop.set()
                thread.join()
                newcomer.peer.close()
        came = [pose.source_seq for pose in reader.select(newcomer.name) if pose.receive_ns]
        print(f"the first frame that came out: {came[0]}")
        assert came == list(range(came[0], 75))
        assert came[0] <= 25
        assert server.alive
