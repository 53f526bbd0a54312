"""Which server a stream belongs to, lists of servers, and how clients follow what a front tells them."""

import contextlib
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import zmq

from rtskel import GroupPublisher, Publisher, Subscriber, WireError, wire
from rtskel.client import ServerBack, ServerGone
from rtskel.client import reader as reader_module
from rtskel.client.servers import RAW, REFINED, servers
from rtskel.errors import ServeError
from rtskel.serve import ServeConfig
from rtskel.serve.front import Front, announced, shard_endpoint
from rtskel.wire.shards import SHARDS_PREFIX, check_shards, told_shards
from tests.sockets import TIMEOUT, RawReceiver, RefinedSender, no_socket_left_open
from tests.test_wire import REFINED as POSE

J = 50
BATCHES = wire.RAW_BATCH_PREFIX
STREAMS = [f"camera-{k}" for k in range(20_000)]


@pytest.fixture(autouse=True)
def _sockets(monkeypatch):
    with no_socket_left_open(monkeypatch):
        yield


# --- which one --------------------------------------------------------------------------------------------------------


def test_the_choice_is_that_of_the_specification():
    """As other programs compute it from WIRE.md: it may never change."""
    chosen = [wire.choose(stream, ("0", "1", "2")) for stream in ("cam1", "cam2", "steady")]
    assert chosen == [0, 0, 2]
    assert wire.choose("cam1", ("tcp://a:5555", "tcp://b:5555")) == 1
    assert wire.choose("cam1", ("tcp://b:5555", "tcp://a:5555")) == 0


@pytest.mark.parametrize("count", [2, 3, 7, 16])
def test_every_server_has_its_share(count):
    names = wire.shard_names(count)
    share = Counter(wire.choose(stream, names) for stream in STREAMS)
    assert len(share) == count
    expected = len(STREAMS) / count
    assert max(abs(each - expected) for each in share.values()) < 5 * expected**0.5


def test_a_server_more_moves_only_its_own_streams():
    before, after = wire.shard_names(7), wire.shard_names(8)
    moved = [stream for stream in STREAMS if wire.choose(stream, before) != wire.choose(stream, after)]
    assert {wire.choose(stream, after) for stream in moved} == {7}
    assert len(moved) < 1.1 * len(STREAMS) / 8


# --- what is said of them ---------------------------------------------------------------------------------------------


def test_a_list_of_shards_is_a_subscription():
    endpoints = "tcp://*:5557", "tcp://*:5559"
    topic = wire.shards_topic(endpoints)
    assert topic == b"rts1/shards/\x92\xactcp://*:5557\xactcp://*:5559"
    assert told_shards(topic) == endpoints


@pytest.mark.parametrize(
    "body", [b"", b"\x90", b"\xc0", b"\x91\x01", b"\x92\xa1a", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xc1"]
)
def test_what_is_no_list_of_shards(body):
    with pytest.raises(WireError):
        told_shards(SHARDS_PREFIX + body)


def test_limits_of_a_list_of_shards():
    assert len(check_shards(["a"] * 256)) == 256
    for bad in (["a"] * 257, [], ["a" * 129], "a", [1], None):
        with pytest.raises(WireError):
            check_shards(bad)


def beat(**values):
    given = {"epoch": 1, "seq": 0, "time_ns": 0, "interval_ns": 10**9, "streams": 0, "frames_in": 0, "frames_out": 0}
    given |= {"counts": {}, "model": "m", "skeleton": "s", "lookaheads": (0,), "loop_fps": 0.0}
    return wire.Heartbeat(**given | values)


def test_only_a_fronts_heartbeat_names_shards():
    alone, front = wire.encode(beat()), wire.encode(beat(shards=("tcp://*:1",)))
    assert b"shards" not in alone[1]
    assert wire.decode(*alone).shards == ()
    assert wire.decode(*front).shards == ("tcp://*:1",)


@pytest.mark.parametrize(
    ("shard", "front", "expected"),
    [
        ("tcp://*:5557", "tcp://10.0.0.5:5555", "tcp://10.0.0.5:5557"),
        ("tcp://*:5557", "tcp://rtskel.example:5555", "tcp://rtskel.example:5557"),
        ("tcp://*:5557", "tcp://[::1]:5555", "tcp://[::1]:5557"),
        ("ipc:///run/raw-1", "ipc:///run/raw", "ipc:///run/raw-1"),
        ("tcp://10.0.0.6:5557", "tcp://10.0.0.5:5555", "tcp://10.0.0.6:5557"),
    ],
)
def test_where_a_client_finds_a_shard(shard, front, expected):
    assert wire.reached(shard, front) == expected


def test_where_shards_listen():
    assert [shard_endpoint("tcp://127.0.0.1:5555", which) for which in (0, 1)] == [
        "tcp://127.0.0.1:5557",
        "tcp://127.0.0.1:5559",
    ]
    assert shard_endpoint("tcp://[::1]:5556", 0) == "tcp://[::1]:5558"
    assert shard_endpoint("tcp://127.0.0.1:*", 3) == "tcp://127.0.0.1:*"
    assert shard_endpoint("ipc:///run/raw", 1) == "ipc:///run/raw-1"
    for bad in ("tcp://127.0.0.1:65534", "inproc://a", "tcp://127.0.0.1", "udp://127.0.0.1:1"):
        with pytest.raises(ServeError, match=bad):
            shard_endpoint(bad, 0)
    assert announced("tcp://0.0.0.0:5557") == "tcp://*:5557"
    assert announced("tcp://[::]:5557") == "tcp://*:5557"
    assert announced("ipc:///run/raw-1") == "ipc:///run/raw-1"


# --- lists of servers -------------------------------------------------------------------------------------------------


def test_lists(tmp_path):
    assert servers("tcp://a:1", RAW) == ("tcp://a:1",)
    assert servers("tcp://a:1,tcp://b:1", RAW) == ("tcp://a:1", "tcp://b:1")
    file = tmp_path / "servers.txt"
    file.write_text("# raw            refined\n\ntcp://a:1 tcp://a:2   # the first\ntcp://b:1\ttcp://b:2\n")
    assert servers(f"file:{file}", RAW) == ("tcp://a:1", "tcp://b:1")
    assert servers(f"file:{file}", REFINED) == ("tcp://a:2", "tcp://b:2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no server in this list"),
        ("# nothing\n", "no server in this list"),
        ("tcp://a:1\n", "'tcp://a:1': the raw and the refined endpoint of a server expected"),
        ("tcp://a:1 tcp://a:2 tcp://a:3\n", "the raw and the refined endpoint"),
        ("a b\n", "the raw and the refined endpoint"),
        ("tcp://a:1 tcp://a:2\ntcp://a:1 tcp://b:2\n", "named twice"),
        (b"\xff\xfe", "servers.txt: "),
        (None, "servers.txt: No such file"),
    ],
)
def test_what_is_no_list(tmp_path, text, words):
    file = tmp_path / "servers.txt"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WireError, match=words):
        Publisher(f"file:{file}", stream="a", fps=25)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1,tcp://127.0.0.1:1", "tcp://127.0.0.1:1,nonsense", ","])
def test_a_wrong_endpoint_among_several_leaves_nothing_open(endpoint):
    for client in (Publisher, Subscriber):
        with pytest.raises(WireError):
            client(endpoint, **({"stream": "a", "fps": 25} if client is Publisher else {}))


def streams_of(which, names, count=1):
    mine = (stream for stream in STREAMS if wire.choose(stream, names) == which)
    return [next(mine) for _ in range(count)]


def test_streams_are_shared_among_servers():
    """Siblings, a group, and ends: each at the server of its stream, a group in a message for each server."""
    with (
        RawReceiver(epoch=1, prefix=BATCHES) as one,
        RawReceiver(epoch=2, prefix=BATCHES) as two,
    ):
        names = one.endpoint, two.endpoint
        (a,), (b,) = streams_of(0, names), streams_of(1, names)
        with Publisher(",".join(names), stream=a, fps=25) as first, first.sibling(b) as second:
            for sender in (first, second):
                sender.wait_for_subscriber(TIMEOUT)
                assert sender.send(np.zeros((J, 3)))
        assert (first.sent, first.dropped, second.sent, second.dropped) == (2, 0, 2, 0)
        assert [(type(m), m.stream) for m in one.take(2)] == [(wire.RawPose, a), (wire.StreamEnd, a)]
        assert [(type(m), m.stream) for m in two.take(2)] == [(wire.RawPose, b), (wire.StreamEnd, b)]
        people = [*streams_of(0, names, 3), *streams_of(1, names, 2)]
        xyz = np.arange(5 * J * 3, dtype=np.float32).reshape(5, J, 3)
        with GroupPublisher(",".join(names), group="g", fps=25) as group:
            group.wait_for_subscriber(TIMEOUT)
            assert group.has_subscriber
            assert group.send(people[::-1], xyz[::-1])
        assert (group.sent, group.dropped) == (10, 0)
        got = one.next(), two.next()
        assert [[*batch.streams] for batch in got] == [people[2::-1], people[:2:-1]]
        np.testing.assert_array_equal(np.concatenate([batch.xyz for batch in got]), [*xyz[2::-1], *xyz[:2:-1]])
        assert {one.next().stream for _ in range(3)} == {*people[:3]}


def test_one_of_several_servers_is_away():
    with RawReceiver() as there, RawReceiver() as away:
        names = there.endpoint, away.endpoint
    (a,), (b,) = streams_of(0, names), streams_of(1, names)
    with RawReceiver(there.endpoint) as there:
        with Publisher(",".join(names), stream=a, fps=25, linger=0.1) as first, first.sibling(b, fps=25) as second:
            first.wait_for_subscriber(TIMEOUT)
            assert first.has_subscriber
            assert not second.has_subscriber
            assert first.send(np.zeros((J, 3)))
            assert not second.send(np.zeros((J, 3)))
            with pytest.raises(TimeoutError):
                second.wait_for_subscriber(0.01)
        assert [m.stream for m in there.take(2)] == [a, a]
        assert (first.dropped, second.dropped) == (0, 2)


def test_poses_of_several_servers_in_turn(monkeypatch):
    """One that floods does not keep another from being read; one that is silent is gone, though the other speaks."""
    monkeypatch.setattr(reader_module, "SILENCE_S", 0.0)
    with RefinedSender() as one, RefinedSender() as two, Subscriber(f"{one.endpoint},{two.endpoint}") as subscriber:
        for server in (one, two):
            server.wait_for_subscriptions()
        one.send(beat(epoch=1))
        with pytest.raises(TimeoutError):
            subscriber.wait_for_server(0.05)
        two.send(beat(epoch=2, interval_ns=10**8))
        subscriber.wait_for_server(TIMEOUT)
        pose = POSE
        one.send(*[_of(pose, "a", 1, k) for k in range(500)])
        two.send(_of(pose, "b", 2, 0))
        deadline, seen = time.monotonic() + TIMEOUT, []
        while not (seen and isinstance(seen[-1], ServerGone)):
            assert time.monotonic() < deadline
            one.send(beat(epoch=1))
            seen.append(subscriber.recv(TIMEOUT))
        streams = [message.stream for message in seen if isinstance(message, wire.RefinedPose)]
        assert streams.count("b") == 1
        assert (seen[-1].epoch, seen[-1].endpoint) == (2, two.endpoint)
        two.send(beat(epoch=3))
        while not isinstance(back := subscriber.recv(TIMEOUT), ServerBack):
            pass
        assert back == ServerBack(3, restarted=True)
        assert back.endpoint == two.endpoint
        assert subscriber.lost == {}


def _of(pose, stream, epoch, seq):
    return replace(pose, stream=stream, epoch=epoch, seq=seq)


def test_iterating_ends_when_all_servers_are_gone(monkeypatch):
    monkeypatch.setattr(reader_module, "PATIENCE_S", 0.05)
    endpoint = "tcp://127.0.0.1:9,tcp://127.0.0.1:10"
    with Subscriber(endpoint, when_gone="end") as subscriber:
        assert {message.endpoint for message in subscriber} == {*endpoint.split(",")}


# --- fronts -----------------------------------------------------------------------------------------------------------


class Turning:
    """A front that is at work while something is waited for."""

    def __init__(self, stack, raw_shards, refined_shards, **endpoints):
        config = ServeConfig(
            **{"raw": "tcp://127.0.0.1:*", "refined": "tcp://127.0.0.1:*"} | endpoints, heartbeat_s=0.1
        )
        self.front = stack.enter_context(Front(config))
        self.front.announce(raw_shards, refined_shards, ("m", "s", (0,)))

    def until(self, done):
        deadline = time.monotonic() + TIMEOUT
        while not done():
            assert time.monotonic() < deadline
            self.front.turn(1)


def test_a_publisher_follows_a_front():
    with (
        RawReceiver(epoch=1, prefix=BATCHES) as one,
        RawReceiver(epoch=2, prefix=BATCHES) as two,
        ExitStack() as stack,
    ):
        turning = Turning(stack, [one.endpoint, two.endpoint], ["tcp://127.0.0.1:9"] * 2)
        (a,), (b,) = streams_of(0, ("0", "1")), streams_of(1, ("0", "1"))
        with Publisher(turning.front.raw_endpoint, stream=a, fps=25, wait=0) as first, first.sibling(b) as second:
            for sender in (first, second):
                turning.until(lambda sender=sender: sender.has_subscriber)
                assert sender.send(np.zeros((J, 3)))
        assert [m.stream for m in one.take(2)] == [a, a]
        assert [m.stream for m in two.take(2)] == [b, b]
        with GroupPublisher(turning.front.raw_endpoint, group="g", fps=25, wait=0) as group:
            turning.until(lambda: group.has_subscriber)
            assert group.send([a, b], np.zeros((2, J, 3)), block=True)
        assert [*one.next().streams] == [a]
        assert [*two.next().streams] == [b]


def test_frames_that_wait_go_to_the_shards_of_now():
    """A front that comes back with other shards: what was to be sent again goes where it belongs now."""
    with RawReceiver(epoch=1, prefix=BATCHES) as old:
        (a,) = streams_of(1, ("0", "1"))
        with ExitStack() as stack:
            turning = Turning(stack, [old.endpoint], ["tcp://127.0.0.1:9"])
            raw, refined = turning.front.raw_endpoint, turning.front.refined_endpoint
            sender = Publisher(raw, stream=a, fps=25, wait=0)
            turning.until(lambda: sender.has_subscriber)
            old.pause()
            for _ in range(3):
                assert sender.send(np.zeros((J, 3)), block=True)
    with (
        sender,
        RawReceiver(epoch=2, prefix=BATCHES) as one,
        RawReceiver(epoch=3) as two,
        ExitStack() as stack,
    ):
        deadline = time.monotonic() + TIMEOUT
        while sender.has_subscriber:
            assert time.monotonic() < deadline
        turning = Turning(stack, [one.endpoint, two.endpoint], ["tcp://127.0.0.1:9"] * 2, raw=raw, refined=refined)
        turning.until(lambda: sender.has_subscriber)
        assert sender._uplink.endpoint == two.endpoint
        assert sender.send(np.zeros((J, 3)), block=True)
        assert [m.seq for m in two.take(4)] == [0, 1, 2, 3]
        assert sender.dropped == 0


def test_a_subscriber_follows_a_front_and_what_comes_after_it():
    with ExitStack() as stack:
        one, two = stack.enter_context(RefinedSender()), stack.enter_context(RefinedSender())
        with ExitStack() as life:
            turning = Turning(life, ["tcp://127.0.0.1:9"] * 2, [one.endpoint, two.endpoint])
            refined = turning.front.refined_endpoint
            subscriber = stack.enter_context(Subscriber(refined, heartbeats=True))

            def followed():
                subscriber._readers[0].take()
                subscriber._look()
                return len(subscriber._readers) == 2

            turning.until(followed)
            for epoch, server in enumerate((one, two)):
                server.wait_for_subscriptions()
                server.send(beat(epoch=epoch + 1))
            assert subscriber.wait_for_server(TIMEOUT).epoch in (1, 2)
            assert {subscriber.recv(TIMEOUT).epoch for _ in range(2)} == {1, 2}, "those of the shards, not the front's"
            one.send(_of(POSE, "a", 1, 0))
            assert subscriber.recv(TIMEOUT).stream == "a"
        with RefinedSender(refined) as alone:  # the same endpoint, without shards
            while not alone.socket.poll(0):
                with contextlib.suppress(TimeoutError):
                    subscriber.recv(0.01)  # a socket subscribes again while it is used
            alone.wait_for_subscriptions()
            alone.send(beat(epoch=9), _of(POSE, "b", 9, 0))
            deadline = time.monotonic() + TIMEOUT
            while not isinstance(message := subscriber.recv(TIMEOUT), wire.RefinedPose):
                assert time.monotonic() < deadline
            assert message.stream == "b"
            assert [reader.endpoint for reader in subscriber._readers] == [refined]


def test_a_front_throws_away_what_is_sent_to_it():
    """Nobody should send it anything; who subscribes to more than a topic has is cut off."""
    with ExitStack() as stack:
        turning = Turning(stack, ["tcp://127.0.0.1:9"], ["tcp://127.0.0.1:9"])
        context = stack.enter_context(zmq.Context())
        pub, sub = stack.enter_context(context.socket(zmq.XPUB)), stack.enter_context(context.socket(zmq.SUB))
        pub.linger = sub.linger = 0
        pub.connect(turning.front.raw_endpoint)
        turning.until(lambda: pub.poll(0))
        assert pub.recv() == b"\1" + wire.shards_topic(["tcp://*:9"])
        sub.subscribe(b"x" * 300)
        sub.subscribe(b"rts1/heartbeat/")
        monitor = sub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        sub.connect(turning.front.refined_endpoint)
        turning.until(lambda: monitor.poll(0))
        sub.disable_monitor()
        monitor.close()
