"""Publisher and Subscriber over real sockets: what arrives, what is counted, and what is never silent."""

import contextlib
import dataclasses
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import zmq

from rtskel import GroupPublisher, Publisher, Subscriber, WireError, wire
from rtskel.client import ServerBack, ServerGone
from rtskel.client import publisher as publisher_module
from rtskel.client import reader as reader_module
from rtskel.client import uplink as uplink_module
from rtskel.skeleton import UPPER_BODY_50
from tests.sockets import TIMEOUT, RawReceiver, RefinedSender, no_socket_left_open
from tests.test_wire import REFINED, REFINED_BATCH

J = UPPER_BODY_50.joints
POSE = np.arange(3 * J, dtype=np.float32).reshape(J, 3)


@pytest.fixture(autouse=True)
def _sockets(monkeypatch):
    with no_socket_left_open(monkeypatch):
        yield


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The clock of clients: of an estimator that stands still, of a reader that is slow. A busy machine is neither."""
    now = [100.0]
    for module in publisher_module, reader_module:
        monkeypatch.setattr(module, "_now", lambda: now[0])
    return now


@pytest.fixture
def impatient(monkeypatch):
    """Readers that take a server to be gone after three heartbeats, however short they are."""
    monkeypatch.setattr(reader_module, "SILENCE_S", 0.0)


NOWHERE = {"endpoint": "tcp://127.0.0.1:9", "wait": 0}


# --- Publisher --------------------------------------------------------------------------------------------------------


def test_frames_arrive_in_order_and_the_tail_with_the_end():
    with RawReceiver() as server:
        with Publisher(server.endpoint, stream="cam1", fps=25, axes="RDA", mirrored=True) as publisher:
            publisher.wait_for_subscriber(TIMEOUT)
            assert publisher.has_subscriber
            for k in range(200):
                assert publisher.send(POSE + k, np.full(J, 0.5))
            epoch = publisher.epoch
            assert (publisher.sent, publisher.dropped) == (200, 0)
        *frames, end = server.take(201)
    for k, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.xyz, POSE + k)
        assert (frame.seq, frame.epoch, frame.fps) == (k, epoch, 25.0)
        assert (frame.axes, frame.mirrored, frame.skeleton) == ("RDA", True, "upper-body-50")
    assert all(a.time_ns <= b.time_ns <= time.monotonic_ns() for a, b in pairwise(frames))
    assert isinstance(end, wire.StreamEnd)
    assert (end.stream, end.epoch, end.seq) == ("cam1", epoch, 200)


def test_numbers_and_times():
    with RawReceiver() as server, Publisher(server.endpoint, stream="a", fps=25) as publisher:
        publisher.wait_for_subscriber(TIMEOUT)
        publisher.send(POSE, seq=np.int64(5))
        publisher.send(POSE)
        publisher.send(POSE, seq=9, time_ns=123)
        publisher.send(POSE, time_ns=456)
        publisher.end()
        publisher.send(POSE)
        publisher.end(seq=3)
        publisher.send(POSE, seq=8)
        publisher.send(POSE, seq=6)
        publisher.send(POSE)
        publisher.end()
        publisher.send(POSE, time_ns=1)
        publisher.send(POSE)
        frames = server.take(13)
    assert [frame.seq for frame in frames] == [5, 6, 9, None, None, 0, 3, 8, 6, 9, 10, None, None]
    assert [frame.time_ns for frame in frames[2:4]] == [123, 456]
    assert len({frame.epoch for frame in frames}) == 4
    assert frames[4].epoch != frames[5].epoch


def test_without_a_server_frames_are_counted_as_dropped():
    with Publisher(**NOWHERE, stream="a", fps=25) as publisher:
        assert not publisher.has_subscriber
        with pytest.raises(TimeoutError, match=r"'a'.*tcp://127.0.0.1:9"):
            publisher.wait_for_subscriber(0.01)
        assert not publisher.send(POSE)
        assert (publisher.sent, publisher.dropped) == (0, 1)
        assert not publisher.end()
        assert publisher.end(), "there is nothing left to end"
        assert publisher.dropped == 2


def test_a_full_queue_is_counted_and_waiting_helps():
    big = np.zeros((1000, 3), np.float32)
    with RawReceiver(hwm=1) as server:
        with Publisher(server.endpoint, stream="a", fps=25, skeleton="big", queue=4) as publisher:
            publisher.wait_for_subscriber(TIMEOUT)
            server.pause()
            while publisher.send(big):
                assert publisher.sent < 100_000
            full = publisher.sent
            assert publisher.dropped == 1
            reader = threading.Timer(0.05, server.read)
            reader.start()
            assert publisher.send(big, block=True)
            reader.join()
            assert publisher.dropped == 1
        numbers = [frame.seq for frame in server.take(full + 2)]
    assert numbers == [*range(full), full + 1, full + 2]


def test_a_server_that_hangs_cannot_hold_a_publisher():
    big = np.zeros((1000, 3), np.float32)
    with RawReceiver(hwm=1) as server:
        with Publisher(server.endpoint, stream="a", fps=25, skeleton="big", queue=4, linger=0.05) as publisher:
            publisher.wait_for_subscriber(TIMEOUT)
            server.pause()
            while publisher.send(big):
                assert publisher.sent < 100_000
        assert publisher.dropped in (1, 2), "a frame, and the end of the stream if it found no room either"


def test_waiting_for_a_server_that_comes_later():
    with RawReceiver() as server:
        endpoint = server.endpoint
    servers = []
    starter = threading.Timer(0.05, lambda: servers.append(RawReceiver(endpoint)))
    with Publisher(endpoint, stream="a", fps=25) as publisher:
        starter.start()
        assert publisher.send(POSE, block=True)
        starter.join()
        assert publisher.dropped == 0
        with servers[0] as server:
            assert server.next().seq == 0


def test_a_server_that_goes_is_noticed_and_another_found():
    with Publisher(**NOWHERE, stream="a", fps=25):
        pass  # closes although it never connected
    with RawReceiver() as server:
        publisher = Publisher(server.endpoint, stream="a", fps=25)
        publisher.wait_for_subscriber(TIMEOUT)
    with publisher:
        deadline = time.monotonic() + TIMEOUT
        while publisher.has_subscriber:
            publisher._uplink.socket.poll(100)
            assert time.monotonic() < deadline
        assert not publisher.send(POSE)
        with RawReceiver(publisher._uplink.endpoint) as server:
            publisher.wait_for_subscriber(TIMEOUT)
            assert publisher.send(POSE)
            assert server.next().seq == 1


def test_siblings_share_a_socket():
    with RawReceiver() as server:
        first = Publisher(server.endpoint, stream="a", fps=25)
        second = first.sibling("b", fps=30)
        first.wait_for_subscriber(TIMEOUT)
        assert second.has_subscriber
        for publisher in first, second, second:
            publisher.send(POSE)
        first.close()
        first.close()
        with pytest.raises(ValueError, match="closed"):
            first.send(POSE)
        assert second.send(POSE)
        second.close()
        came = [(type(m).__name__, m.stream, m.seq) for m in server.take(6)]
    assert (first.sent, second.sent) == (2, 4)
    assert came == [
        ("RawPose", "a", 0),
        ("RawPose", "b", 0),
        ("RawPose", "b", 1),
        ("StreamEnd", "a", 1),
        ("RawPose", "b", 2),
        ("StreamEnd", "b", 3),
    ]
    assert first.epoch != second.epoch


def test_what_poses_are_of_is_said_by_each_stream():
    with RawReceiver() as server:
        options = {"unit": "mm", "view": "left", "image_size": np.array([640, 480])}
        with (
            Publisher(server.endpoint, stream="a", fps=25, person="Ann", **options) as first,
            first.sibling("b", person="Ben") as second,
            first.sibling("c") as third,
        ):
            for publisher in first, second, third:
                publisher.send(POSE)
            came = {frame.stream: frame.about for frame in server.take(3)}
    people = {"a": "Ann", "b": "Ben", "c": None}
    said = {stream: wire.About("mm", person, "left", (640, 480)) for stream, person in people.items()}
    assert came == said


def test_joints_that_are_not_finite_are_sent_as_missing():
    xyz = POSE.astype(np.float64)
    xyz[3, 1] = np.nan
    xyz[4, 0] = 1e300  # more than float32 holds
    confidence = np.full(J, 2.0)
    confidence[5] = -np.inf
    confidence[6] = -1.0
    with RawReceiver() as server, Publisher(server.endpoint, stream="a", fps=25) as publisher:
        publisher.wait_for_subscriber(TIMEOUT)
        assert publisher.send(xyz, confidence)
        assert publisher.send(POSE.tolist())
        assert publisher.non_finite == 3
        cleaned, untouched = server.take(2)
    assert set(np.flatnonzero(cleaned.confidence == 0)) == {3, 4, 5, 6}
    assert cleaned.confidence.max() == 1
    np.testing.assert_array_equal(cleaned.xyz[3:6], 0)
    np.testing.assert_array_equal(cleaned.xyz[6:], POSE[6:])
    np.testing.assert_array_equal(untouched.xyz, POSE)
    np.testing.assert_array_equal(untouched.confidence, 1)


@pytest.mark.parametrize(
    ("xyz", "confidence", "named"),
    [
        (POSE[:49], None, "xyz has shape"),
        (POSE[:, :1], None, "xyz has shape"),
        (POSE[None], None, "xyz has shape"),
        (1.0, None, "xyz has shape"),
        (POSE.astype(str), None, "type"),
        (POSE.astype(object), None, "type"),
        (POSE.astype(complex), None, "type"),
        (POSE, POSE, "confidence has shape"),
        (POSE, ["high"] * J, "type"),
    ],
)
def test_wrong_arrays_are_named(xyz, confidence, named):
    with Publisher(**NOWHERE, stream="a", fps=25) as publisher:
        with pytest.raises(ValueError, match=named):
            publisher.send(xyz, confidence)
        assert (publisher.sent, publisher.dropped) == (0, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stream": "a/b"}, "stream id"),
        ({"fps": 0}, "fps"),
        ({"axes": "XYZ"}, "axes"),
        ({"unit": ""}, r"stream 'a'.*about\.unit"),
        ({"person": "a\nb"}, r"about\.person is 'a\\nb'"),
        ({"view": 3}, r"about\.view"),
        ({"image_size": 640}, r"about\.image_size is 640, not \[width, height\]"),
        ({"image_size": "640x480"}, r"about\.image_size is \('6', '4'"),
        ({"image_size": (0, 480)}, r"about\.image_size is \(0, 480\)"),
        ({"endpoint": "nonsense"}, "nonsense"),
        ({"endpoint": "tcp://127.0.0.1"}, "127.0.0.1"),
    ],
)
def test_wrong_arguments_are_named_at_once(change, named):
    with pytest.raises(WireError, match=named):
        Publisher(**{"endpoint": "tcp://127.0.0.1:9", "stream": "a", "fps": 25} | change)


def test_another_clock():
    with (
        RawReceiver() as server,
        Publisher(server.endpoint, stream="a", fps=25, clock="unix") as publisher,
        Publisher(server.endpoint, stream="b", fps=25, clock="camera") as camera,
    ):
        publisher.wait_for_subscriber(TIMEOUT)
        publisher.send(POSE)
        frame = server.next()
        with pytest.raises(ValueError, match="camera"):
            camera.send(POSE)
        camera.wait_for_subscriber(TIMEOUT)
        camera.send(POSE, seq=0, time_ns=7)
        other = server.next()
    assert frame.clock == "unix"
    assert abs(frame.time_ns - time.time_ns()) < 60e9
    assert (other.clock, other.time_ns) == ("camera", 7)


def test_negative_numbers_are_named():
    with Publisher(**NOWHERE, stream="a", fps=25) as publisher:
        with pytest.raises(WireError, match=r"'a'.*seq"):
            publisher.send(POSE, seq=-1)
        with pytest.raises(WireError, match=r"'a'.*time_ns"):
            publisher.send(POSE, time_ns=-1)
        with pytest.raises(TypeError):
            publisher.send(POSE, seq=1.5)


def test_a_shared_context():
    with zmq.Context() as context, RawReceiver("inproc://raw", context=context) as server:
        with Publisher("inproc://raw", stream="a", fps=25, context=context) as publisher:
            publisher.wait_for_subscriber(TIMEOUT)
            publisher.send(POSE)
        assert server.next().seq == 0


def test_what_blocks_counts_every_frame():
    with RawReceiver() as server, Publisher(server.endpoint, stream="a", fps=25) as publisher:
        publisher.wait_for_subscriber(TIMEOUT)
        publisher.send(POSE, block=True)
        publisher.send(POSE)
        assert [frame.lossless for frame in server.take(2)] == [True, False]


def test_poses_without_depth():
    with RawReceiver() as server, Publisher(server.endpoint, stream="a", fps=25) as publisher:
        publisher.wait_for_subscriber(TIMEOUT)
        publisher.send(POSE[:, :2])
        publisher.send(POSE)
        flat, deep = server.take(2)
    assert (flat.dims, deep.dims) == (2, 3)
    assert np.array_equal(flat.xyz, POSE * np.float32([1, 1, 0]))


def test_a_bad_end_changes_nothing():
    with RawReceiver() as server, Publisher(server.endpoint, stream="a", fps=25) as publisher:
        publisher.wait_for_subscriber(TIMEOUT)
        publisher.send(POSE)
        with pytest.raises(WireError, match="seq"):
            publisher.end(-1)
        publisher.send(POSE)
        first, second = server.take(2)
    assert (first.epoch, first.seq + 1) == (second.epoch, second.seq)


# --- GroupPublisher ---------------------------------------------------------------------------------------------------

PEOPLE = np.stack([POSE, 2 * POSE, 3 * POSE])


def test_a_group_in_one_message_and_its_ends():
    with RawReceiver(prefix=wire.RAW_BATCH_PREFIX) as server:
        with GroupPublisher(server.endpoint, group="room", fps=25, axes="RDA", mirrored=True) as camera:
            camera.wait_for_subscriber(TIMEOUT)
            assert camera.send(["a", "b", "c"], PEOPLE, np.full((3, J), 2.0))
            assert camera.send(["c", "a"], PEOPLE[[2, 0]], seq=5, time_ns=77, block=True)
            assert camera.send([], PEOPLE[:0])
            assert camera.end("b")
            assert camera.end("nobody")
            assert (camera.sent, camera.dropped) == (6, 0)
            epoch = camera.epoch
            camera.send(["d"], PEOPLE[:1])
        first, second, b, third, *ends = server.take(7)
    assert [(m.group, list(m.streams), m.seq, m.lossless) for m in (first, second, third)] == [
        ("room", ["a", "b", "c"], 0, False),
        ("room", ["c", "a"], 5, True),
        ("room", ["d"], 6, False),
    ]
    assert {m.epoch for m in (first, second, b, third, *ends)} == {epoch}
    assert (first.axes, first.mirrored, first.fps, second.time_ns) == ("RDA", True, 25.0, 77)
    np.testing.assert_array_equal(second.xyz, PEOPLE[[2, 0]])
    np.testing.assert_array_equal(first.confidence, np.ones((3, J)))
    assert (b.stream, b.seq) == ("b", 1)
    assert {(end.stream, end.seq) for end in ends} == {("a", 6), ("c", 6), ("d", 7)}


@pytest.mark.parametrize("about", [{}, {"unit": "\U0001f600" * 128, "view": "\U0001f600" * 128, "image_size": (9, 9)}])
def test_a_crowd_takes_several_messages(about):
    streams = [f"{k:064}" for k in range(200)]
    crowd = np.arange(200, dtype=np.float32)[:, None, None] * np.ones((J, 3), np.float32)
    with RawReceiver(prefix=wire.RAW_BATCH_PREFIX) as server:
        with GroupPublisher(server.endpoint, group="hall", fps=25, **about) as camera:
            camera.wait_for_subscriber(TIMEOUT)
            assert camera.send(streams, crowd)
            assert camera.sent == 200
            with pytest.raises(WireError, match="twice"):
                camera.send([*streams, streams[0]], np.concatenate([crowd, crowd[:1]]))
            assert camera.sent == 200
        poses = []
        while len(poses) < 200:
            message = server.next()
            assert message.seq == 0
            poses += message.poses()
    assert [pose.stream for pose in poses] == streams
    assert [pose.xyz[0, 0] for pose in poses] == list(range(200))
    assert {pose.about for pose in poses} == {wire.About(**about)}


def test_a_group_without_a_server_counts_what_it_drops():
    with GroupPublisher(**NOWHERE, group="room", fps=25) as camera:
        assert not camera.has_subscriber
        with pytest.raises(TimeoutError, match="'room'"):
            camera.wait_for_subscriber(0.01)
        assert not camera.send(["a", "b"], PEOPLE[:2])
        assert (camera.sent, camera.dropped) == (0, 2)


@pytest.mark.parametrize(
    ("streams", "xyz", "confidence", "error", "named"),
    [
        (["a", "b"], PEOPLE, None, ValueError, r"'room'.*xyz has shape \[3, 50, 3\], not \[2, 50, 3\]"),
        (["a"], POSE, None, ValueError, "xyz has shape"),
        (["a"], PEOPLE[:1], np.ones(J), ValueError, "confidence has shape"),
        (["a", "a"], PEOPLE[:2], None, WireError, "streams names one twice"),
        (["a", "x/y"], PEOPLE[:2], None, WireError, r"room.*x/y"),
    ],
)
def test_wrong_groups_are_named(streams, xyz, confidence, error, named):
    with GroupPublisher(**NOWHERE, group="room", fps=25) as camera:
        with pytest.raises(error, match=named):
            camera.send(streams, xyz, confidence)
        assert (camera.sent, camera.dropped) == (0, 0)
    with pytest.raises(WireError, match="group id"):
        GroupPublisher(**NOWHERE, group="a/b", fps=25)


def test_missing_joints_of_a_group_are_counted():
    xyz = PEOPLE.copy()
    xyz[1, 3, 1] = np.nan
    with RawReceiver(prefix=wire.RAW_BATCH_PREFIX) as server:
        with GroupPublisher(server.endpoint, group="room", fps=25) as camera:
            camera.wait_for_subscriber(TIMEOUT)
            camera.send(["a", "b", "c"], xyz)
            assert camera.non_finite == 1
        batch = server.next()
    assert batch.confidence[1, 3] == 0
    assert batch.confidence.sum() == 3 * J - 1


# --- what the server has taken ----------------------------------------------------------------------------------------


def test_sent_means_taken_by_a_server_that_says_so():
    with RawReceiver(epoch=7) as server:
        with Publisher(server.endpoint, stream="a", fps=25) as publisher:
            publisher.wait_for_subscriber(TIMEOUT)
            for _ in range(200):
                assert publisher.send(POSE)
            assert publisher.sent == 200
        assert (publisher.sent, publisher.unconfirmed, publisher.dropped) == (201, 0, 0)
        assert len(server.take(201)) == 201, "all of it was read before the publisher ended"


def test_what_a_hung_server_has_not_taken_is_counted_and_said(caplog):
    with RawReceiver(hwm=1, epoch=7) as server:
        with Publisher(server.endpoint, stream="a", fps=25, linger=0.05) as publisher:
            publisher.wait_for_subscriber(TIMEOUT)
            publisher.send(POSE)
            while publisher.unconfirmed:
                publisher._uplink._ask()
                publisher._uplink.socket.poll(100)
                assert publisher.has_subscriber
            server.pause()
            for _ in range(20):
                assert publisher.send(POSE)
            assert (publisher.sent, publisher.unconfirmed) == (21, 20)
        assert (publisher.sent, publisher.unconfirmed, publisher.dropped) == (1, 0, 20 + 1)
    assert "21 messages of stream 'a' did not reach a server" in caplog.text


def test_what_was_on_the_way_when_a_server_died_is_counted():
    with RawReceiver(hwm=1, epoch=7) as server:
        publisher = Publisher(server.endpoint, stream="a", fps=25)
        publisher.wait_for_subscriber(TIMEOUT)
        server.pause()
        for _ in range(20):
            assert publisher.send(POSE)
    with publisher:
        while publisher.has_subscriber:
            publisher._uplink.socket.poll(100)
        assert (publisher.sent, publisher.unconfirmed, publisher.dropped) == (0, 0, 20)


def test_lossless_frames_are_sent_again_to_the_next_server():
    with RawReceiver(hwm=1, epoch=7) as server:
        endpoint = server.endpoint
        publisher = Publisher(endpoint, stream="a", fps=25)
        publisher.wait_for_subscriber(TIMEOUT)
        server.pause()
        for _ in range(20):
            assert publisher.send(POSE, block=True)
    with RawReceiver(endpoint, epoch=8) as server:
        with publisher:
            assert publisher.send(POSE, block=True)
        assert (publisher.sent, publisher.unconfirmed, publisher.dropped) == (22, 0, 0)
        *frames, end = server.take(22)
    assert [frame.seq for frame in frames] == [*range(21)]
    assert (end.seq, end.epoch) == (21, frames[0].epoch)


def test_a_publisher_of_lossless_frames_waits_as_long_as_the_server_is_connected(monkeypatch, caplog):
    monkeypatch.setattr(uplink_module, "SILENCE_S", 0.0)
    with RawReceiver(hwm=1, epoch=7) as server:
        publisher = Publisher(server.endpoint, stream="a", fps=25, linger=0.0)
        publisher.wait_for_subscriber(TIMEOUT)
        server.pause()
        assert publisher.send(POSE, block=True)
        asked = threading.Event()
        monkeypatch.setattr(publisher._uplink, "_ask", lambda ask=publisher._uplink._ask: (ask(), asked.set()))
        thread = threading.Thread(target=lambda: asked.wait(TIMEOUT) and server.read())
        thread.start()
        publisher.close()
        thread.join()
        assert (publisher.sent, publisher.dropped) == (2, 0)


def test_a_server_that_hangs_is_given_up_also_by_publishers_of_lossless_frames(monkeypatch, caplog):
    monkeypatch.setattr(uplink_module, "SILENCE_S", 0.0)
    monkeypatch.setattr(uplink_module, "HANG_S", 0.1)
    with RawReceiver(hwm=1, epoch=7) as server:
        with Publisher(server.endpoint, stream="a", fps=25, linger=0.0) as publisher:
            publisher.wait_for_subscriber(TIMEOUT)
            server.pause()
            assert publisher.send(POSE, block=True)
        assert (publisher.sent, publisher.dropped) == (0, 2)
    assert "waiting until the server" in caplog.text


def test_siblings_are_confirmed_each_for_itself():
    with RawReceiver(epoch=7) as server:
        first = Publisher(server.endpoint, stream="a", fps=25)
        second = first.sibling("b")
        with first, second:
            first.wait_for_subscriber(TIMEOUT)
            first.send(POSE)
            second.send(POSE)
            second.send(POSE)
        assert (first.sent, first.unconfirmed, second.sent, second.unconfirmed) == (2, 0, 3, 0)


def test_what_the_server_refuses_is_counted_and_said(caplog):
    refusal = wire.Event("a", "error", 7, None, 0, "2D poses, and this server does not lift", {"flat": 3})
    with RawReceiver(epoch=7) as server, Publisher(server.endpoint, stream="a", fps=25) as publisher:
        publisher.wait_for_subscriber(TIMEOUT)
        publisher.send(POSE)
        server.say(refusal)
        server.say(dataclasses.replace(refusal, stream="b"))
        server.say(dataclasses.replace(refusal, counts={"flat": 5}))
        server.say(dataclasses.replace(refusal, counts={"late": 1}, detail="late frames"))
        while "late" not in publisher.refusals:
            publisher._uplink.socket.poll(100)
            assert publisher.has_subscriber
        assert publisher.refusals == {"flat": 5, "late": 1}
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "does not lift" in text] == [said[0]], "once for each reason"
    assert len(said) == 2


def test_answers_of_a_later_version_are_ignored():
    with RawReceiver(epoch=7) as server, Publisher(server.endpoint, stream="a", fps=25) as publisher:
        publisher.wait_for_subscriber(TIMEOUT)
        server._command(b"say\x82nonsense")
        server.say(BEAT)
        while publisher._uplink.heartbeat is None:
            publisher._uplink.socket.poll(100)
            assert publisher.has_subscriber


def test_a_publisher_without_a_server_says_so_once_and_counts(caplog):
    with Publisher(**NOWHERE, stream="a", fps=25) as publisher:
        for _ in range(5):
            publisher.send(POSE)
    first, last = [record.getMessage() for record in caplog.records]
    assert "no server takes raw poses of stream 'a' at tcp://127.0.0.1:9" in first
    assert "6 messages of stream 'a' did not reach a server" in last


def test_entering_the_block_waits_for_the_server():
    with RawReceiver() as server, Publisher(server.endpoint, stream="a", fps=25, wait=TIMEOUT) as publisher:
        assert publisher.send(POSE), "not a frame is lost for want of a connection"


def test_the_count_goes_on_while_the_estimator_stands_still(clock):
    with RawReceiver() as server, Publisher(server.endpoint, stream="a", fps=25) as publisher:
        publisher.wait_for_subscriber(TIMEOUT)
        for pause in 0.04, 0.04, 0.15, 1.0, 0.04, 0.04:  # jitter is not a pause
            clock[0] += pause
            publisher.send(POSE)
        for pause in 0.04, 2.0:  # a recording does not stand still, however slowly it is taken
            clock[0] += pause
            publisher.send(POSE, block=True)
        clock[0] += 1.0
        publisher.send(POSE, seq=100)
        clock[0] += 0.04
        publisher.send(POSE)
        numbers = [frame.seq for frame in server.take(10)]
    assert numbers == [0, 1, 2, 27, 28, 29, 30, 31, 100, 101]


def test_a_group_counts_on_too(clock):
    with RawReceiver(prefix=wire.RAW_BATCH_PREFIX) as server:
        with GroupPublisher(server.endpoint, group="room", fps=25) as camera:
            camera.wait_for_subscriber(TIMEOUT)
            camera.send(["a", "b"], PEOPLE[:2])
            clock[0] += 1.0
            camera.send(["a", "b"], PEOPLE[:2])
        assert [batch.seq for batch in server.take(2)] == [0, 25]


# --- Subscriber -------------------------------------------------------------------------------------------------------


def pose(stream="cam1", lookahead=4, seq=0, epoch=1):
    zeros = np.zeros(J, np.float32)
    return dataclasses.replace(
        REFINED,
        stream=stream,
        lookahead=lookahead,
        seq=seq,
        epoch=epoch,
        xyz=POSE,
        confidence=zeros,
        missing=zeros > 0,
        sigma=zeros,
    )


def event(stream="cam1", kind="start"):
    return wire.Event(stream, kind, 1, 0, 0)


BEAT = wire.Heartbeat(1, 0, 0, 60 * 10**9, 1, 2, 3, {}, "null", "upper-body-50", (0, 4), 25.0)


def received(messages, **options):
    """What a Subscriber gives of these messages, and that Subscriber."""
    with RefinedSender() as server, Subscriber(server.endpoint, **options) as subscriber:
        server.wait_for_subscriptions()
        for message in messages:
            server.socket.send_multipart(message if isinstance(message, list) else wire.encode(message))
        server.send(BEAT)
        subscriber.wait_for_server(TIMEOUT)  # which comes last, so that all the others are here
        came = []
        while True:
            try:
                came.append(subscriber.recv(timeout=0))
            except TimeoutError:
                return came, subscriber


def test_thousands_of_subscriptions_reach_the_server():
    streams = [f"s{k}" for k in range(1500)]
    with RefinedSender() as server, Subscriber(server.endpoint, streams=streams, lookahead=4):
        assert len(server.wait_for_subscriptions()) == 2 * 1500 + 2


def test_batches_are_of_all_streams():
    for options in {"streams": "cam1"}, {"streams": []}, {"latest": True}:
        with pytest.raises(ValueError, match="batches"):
            Subscriber(batches=True, **options)


@pytest.mark.parametrize(("lookahead", "came"), [(None, [0, 4, 12]), (4, [4]), ([0, 12], [0, 12]), (1, [])])
def test_batches_of_a_lookahead(lookahead, came):
    batches = [dataclasses.replace(REFINED_BATCH, lookahead=number, epoch=1) for number in (0, 4, 12)]
    got, subscriber = received([pose(), *batches], batches=True, lookahead=lookahead, events=False)
    assert [batch.lookahead for batch in got] == came
    assert all(isinstance(batch, wire.RefinedBatch) for batch in got)
    assert not subscriber.errors


def test_poses_lost_with_batches_are_counted():
    def batch(ann, ben, epoch=1):
        numbers = REFINED_BATCH.numbers.copy()
        numbers[:, 0] = ann, ben
        return dataclasses.replace(REFINED_BATCH, numbers=numbers, epoch=epoch)

    _, subscriber = received([batch(7, 0), batch(8, 3), batch(11, 4), batch(50, 50, epoch=2)], batches=True)
    assert subscriber.lost == {("ann", 4): 2 + 50, ("ben", 4): 2 + 50}, "the new server began at slot 0"


def names(messages):
    return [
        (m.stream, m.lookahead, m.seq) if isinstance(m, wire.RefinedPose) else getattr(m, "kind", "beat")
        for m in messages
    ]


SENT = [
    event("", "error"),
    event("cam1"),
    event("cam10"),
    pose("cam1", 0, 0),
    pose("cam1", 4, 0),
    pose("cam1", 12, 0),
    pose("cam10", 4, 0),
    pose("cam2", 4, 0),
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, names(SENT)),
        ({"heartbeats": True}, [*names(SENT), "beat"]),
        ({"streams": "cam1"}, ["error", "start", ("cam1", 0, 0), ("cam1", 4, 0), ("cam1", 12, 0)]),
        ({"streams": "cam1", "lookahead": 4}, ["error", "start", ("cam1", 4, 0)]),
        ({"streams": ["cam1"], "lookahead": [0, 4], "events": False}, [("cam1", 0, 0), ("cam1", 4, 0)]),
        ({"streams": ["cam2", "cam10"], "events": False}, [("cam10", 4, 0), ("cam2", 4, 0)]),
        ({"lookahead": 0}, ["error", "start", "start", ("cam1", 0, 0)]),
        ({"lookahead": 1, "events": False}, []),
        ({"streams": [], "events": False}, []),
    ],
)
def test_only_what_was_asked_for_is_given(options, expected):
    came, subscriber = received(SENT, **options)
    assert names(came) == expected
    assert subscriber.errors == 0
    assert not subscriber.lost


def test_a_pose_comes_as_it_was_sent():
    (came,), _ = received([pose()])
    np.testing.assert_array_equal(came.xyz, POSE)
    assert came.windows == REFINED.windows


def test_latest_gives_the_newest_pose_of_each_stream_and_every_event():
    sent = []
    for seq in range(5):
        for stream in "a", "b":
            sent += [pose(stream, 0, seq), pose(stream, 4, seq)] if (stream, seq) != ("b", 4) else [event("b")]
    came, subscriber = received(sent, latest=True)
    assert names(came) == [("a", 0, 4), ("a", 4, 4), ("b", 0, 3), ("b", 4, 3), "start"]
    assert subscriber.skipped == {("a", 0): 4, ("a", 4): 4, ("b", 0): 3, ("b", 4): 3}
    assert not subscriber.lost


def test_latest_drains_again_at_each_call():
    with RefinedSender() as server, Subscriber(server.endpoint, latest=True, heartbeats=True) as subscriber:
        server.wait_for_subscriptions()
        server.send(pose("a", seq=0), pose("b", seq=0), BEAT)
        subscriber.wait_for_server(TIMEOUT)
        assert names([subscriber.recv(0)]) == [("a", 4, 0)]
        server.send(pose("b", seq=1), dataclasses.replace(BEAT, seq=1))
        while subscriber.heartbeat.seq == 0:
            assert subscriber._readers[0].socket.zmq.poll(1000 * TIMEOUT)
            subscriber._readers[0].take()
        assert names([subscriber.recv(0), subscriber.recv(0)]) == [("b", 4, 1), "beat"]


def test_holes_are_counted_by_stream_and_lookahead():
    sent = [pose("a", 0, seq) for seq in (3, 4, 7, 8, 10)]
    sent += [pose("a", 4, seq) for seq in (0, 2)]
    sent += [pose("a", 0, 0, epoch=2), pose("a", 0, 1, epoch=2), pose("a", 0, 0, epoch=2), pose("a", 0, 2, epoch=2)]
    came, subscriber = received(sent)
    assert len([m for m in came if isinstance(m, wire.RefinedPose)]) == len(sent)
    assert subscriber.lost == {("a", 0): 4, ("a", 4): 1}


def test_malformed_messages_are_skipped_and_counted():
    topic, body = wire.encode(pose("cam1", 4, 1))
    sent = [
        pose(seq=0),
        [topic, body[:-1]],
        [topic],
        [topic, body, body],
        [wire.refined_topic("cam1", 0), body],
        [b"rts1/event/cam1/", b"\xff"],
        [b"rts1/refined/", b""],
        pose(seq=1),
    ]
    came, subscriber = received(sent)
    assert names(came) == [("cam1", 4, 0), ("cam1", 4, 1)]
    assert subscriber.errors == 6
    assert "rts1/refined/" in str(subscriber.last_error)
    assert not subscriber.lost


def test_a_reader_that_is_too_slow_knows_what_it_missed():
    total = 3000
    big = np.zeros((1000, 3), np.float32)
    zeros = big[:, 0]
    large = dataclasses.replace(pose(), xyz=big, confidence=zeros, sigma=zeros, missing=zeros > 0, skeleton="big")
    with RefinedSender(hwm=2) as server, Subscriber(server.endpoint, queue=2, events=False) as subscriber:
        server.wait_for_subscriptions()
        for seq in range(total):
            server.send(dataclasses.replace(large, seq=seq))
        seen = [subscriber.recv(TIMEOUT)]
        seq = total
        while seen[-1].seq < total:  # what is sent now finds room again, sooner or later
            server.send(dataclasses.replace(large, seq=seq))
            seq += 1
            seen.append(subscriber.recv(TIMEOUT))
        lost = subscriber.lost["cam1", 4]
    assert seen[0].seq == 0
    assert lost > 0
    assert len(seen) + lost == seen[-1].seq + 1


def test_waiting_for_a_server():
    with Subscriber("tcp://127.0.0.1:9") as subscriber:
        assert not subscriber.connected
        with pytest.raises(TimeoutError, match=r"tcp://127\.0\.0\.1:9"):
            subscriber.wait_for_server(0.01)
        with pytest.raises(TimeoutError, match=r"tcp://127\.0\.0\.1:9"):
            subscriber.recv(0.01)
    with RefinedSender() as server, Subscriber(server.endpoint) as subscriber:
        server.wait_for_subscriptions()
        server.send(pose(seq=0), BEAT, pose(seq=1))
        assert subscriber.wait_for_server(TIMEOUT).lookaheads == (0, 4)
        assert subscriber.connected
        assert subscriber.wait_for_server(0) is subscriber.heartbeat
        assert names([subscriber.recv(TIMEOUT), subscriber.recv(TIMEOUT)]) == [("cam1", 4, 0), ("cam1", 4, 1)]
        server.send(dataclasses.replace(BEAT, interval_ns=0), event(kind="end"))
        assert subscriber.recv(TIMEOUT).kind == "end"
        assert not subscriber.connected, "its next heartbeat is overdue"


def test_iterating():
    with RefinedSender() as server, Subscriber(server.endpoint) as subscriber:
        server.wait_for_subscriptions()
        server.send(pose(seq=0), pose(seq=1))
        came = []
        for message in subscriber:
            came.append(message)
            if len(came) == 2:
                subscriber.close()
    assert names(came) == [("cam1", 4, 0), ("cam1", 4, 1)]


def test_wrong_subscriptions_are_named():
    with pytest.raises(WireError, match="stream id"):
        Subscriber(streams="a/b")
    with pytest.raises(ValueError, match="-1"):
        Subscriber(lookahead=[0, -1])
    with pytest.raises(WireError, match="nonsense"):
        Subscriber("nonsense")


def wait_until(subscriber, condition):
    """Takes what comes until the condition holds; gives it."""
    came = []
    deadline = time.monotonic() + TIMEOUT
    while not condition(came):
        assert time.monotonic() < deadline, names(came)
        with contextlib.suppress(TimeoutError):
            came.append(subscriber.recv(0.1))
    return came


QUICK = dataclasses.replace(BEAT, interval_ns=10**8)


def test_a_server_that_is_gone_and_back_is_told(impatient):
    with RefinedSender() as server, Subscriber(server.endpoint) as subscriber:
        server.wait_for_subscriptions()
        server.send(pose(seq=0), QUICK)
        first, gone = wait_until(subscriber, lambda came: len(came) == 2)
        assert (first.seq, gone.epoch) == (0, 1)
        assert isinstance(gone, ServerGone)
        assert gone.silent_s >= 0.3
        with pytest.raises(TimeoutError):
            subscriber.recv(0.5)  # told once
        server.send(pose(seq=1), QUICK)
        back, second = subscriber.recv(TIMEOUT), subscriber.recv(TIMEOUT)
        assert (back, second.seq) == (ServerBack(1, restarted=False), 1)
        assert not subscriber.lost


def test_a_new_server_is_told_with_what_was_lost():
    other = dataclasses.replace
    sent = [pose(seq=7), pose(seq=8), event("cam2")]
    sent += [pose(seq=3, epoch=2), pose(seq=5, epoch=2), pose("cam2", seq=0, epoch=2), other(BEAT, epoch=2)]
    with RefinedSender() as server, Subscriber(server.endpoint) as subscriber:
        server.wait_for_subscriptions()
        server.send(*sent)
        came = wait_until(subscriber, lambda came: len(came) == 9)
    assert names(came[:3]) == [("cam1", 4, 7), ("cam1", 4, 8), "start"]
    assert came[3] == ServerBack(2, restarted=True)
    assert names(came[4:]) == ["start", ("cam1", 4, 3), ("cam1", 4, 5), "start", ("cam2", 4, 0)]
    flagged = [m for m in came if isinstance(m, wire.RefinedPose) and wire.Flag.RESET in m.flags]
    assert names(flagged) == [("cam1", 4, 3), ("cam2", 4, 0)]
    assert (came[4].epoch, came[4].stream, came[4].seq) == (2, "cam1", 3)
    assert subscriber.lost == {("cam1", 4): 3 + 1}, "a new server's streams begin at slot 0"
    assert subscriber.epoch == 2


@contextlib.contextmanager
def connected_again(endpoint, subscriber, requests):
    """Another server at that endpoint, to which the subscriber is connected, and what it asks of it."""
    with RefinedSender(endpoint) as server:
        asked = {}
        while len(asked) < requests:
            subscriber._readers[0]._recover()
            subscriber._readers[0].take()  # a socket subscribes again while it is used
            topic = server.socket.recv() if server.socket.poll(10) else b""
            if topic[:1] == b"\1" and (prefix := wire.asked_again(topic[1:])):
                asked[prefix] = topic[1:]
        yield server, asked


def again(server, topic, *messages):
    """Answers a request."""
    for message in messages:
        server.socket.send_multipart([topic, wire.encode(message)[1]])


@pytest.fixture
def reconnected(request):
    """A subscriber that has got slot 7 and the start of its stream, and is connected again."""
    options = getattr(request, "param", {})
    with RefinedSender() as server, Subscriber(server.endpoint, **options) as subscriber:
        server.wait_for_subscriptions()
        server.send(event(), pose(seq=7), BEAT)
        subscriber.wait_for_server(TIMEOUT)
        assert names([subscriber.recv(0), subscriber.recv(0)]) == ["start", ("cam1", 4, 7)]
        server.close()
        with connected_again(server.endpoint, subscriber, 2) as (server, asked):
            yield server, asked, subscriber


def test_after_a_broken_connection_what_was_missed_is_asked_for_again(reconnected):
    server, asked, subscriber = reconnected
    assert set(asked) == {wire.REFINED_PREFIX, wire.EVENT_PREFIX}
    server.send(pose(seq=10), event(kind="gap"), pose(seq=11))  # meanwhile
    again(server, asked[wire.REFINED_PREFIX], pose(seq=6), pose(seq=7), pose(seq=8), pose(seq=10), BEAT)
    again(server, asked[wire.EVENT_PREFIX], event(), event(kind="stale"), event(kind="gap"), BEAT)
    came = wait_until(subscriber, lambda came: len(came) == 5)
    assert names(came) == [("cam1", 4, 8), ("cam1", 4, 10), "stale", "gap", ("cam1", 4, 11)]
    assert subscriber.lost == {("cam1", 4): 1}
    while server.socket.poll(100):
        assert server.socket.recv()[1:] in asked.values()
    server.send(pose(seq=13))
    assert subscriber.recv(TIMEOUT).seq == 13, "what a slow reader has lost is not asked for again"
    assert subscriber.lost == {("cam1", 4): 2}


def test_a_server_that_does_not_answer_is_not_waited_for_long(reconnected):
    server, asked, subscriber = reconnected
    server.send(pose(seq=10), event(kind="gap"))
    came = wait_until(subscriber, lambda came: len(came) == 2)
    assert names(came) == [("cam1", 4, 10), "gap"]
    assert subscriber.lost == {("cam1", 4): 2}
    again(server, asked[wire.REFINED_PREFIX], pose(seq=8), BEAT)
    server.send(pose(seq=11))
    assert subscriber.recv(TIMEOUT).seq == 11, "too late"


def test_a_new_servers_first_poses_are_asked_for_again(reconnected):
    server, asked, subscriber = reconnected
    new = [pose(seq=k, epoch=2) for k in range(6)]
    start = dataclasses.replace(event(), epoch=2)
    server.send(dataclasses.replace(BEAT, epoch=2), new[4], new[5])
    again(server, asked[wire.EVENT_PREFIX], start, BEAT)
    again(server, asked[wire.REFINED_PREFIX], *new[:5], BEAT)
    came = wait_until(subscriber, lambda came: len(came) == 8)
    assert came[0] == ServerBack(2, restarted=True)
    assert names(came[1:]) == ["start", *(("cam1", 4, k) for k in range(6))]
    assert came[1].detail == "", "its own"
    assert [wire.Flag.RESET in m.flags for m in came[2:]] == [True] + 5 * [False]
    assert not subscriber.lost


@pytest.mark.parametrize("reconnected", [{"streams": "cam1", "lookahead": 4}], indirect=True)
def test_only_what_is_read_is_asked_for(reconnected):
    server, asked, subscriber = reconnected
    assert set(asked) <= {wire.refined_topic("cam1", 4), wire.event_topic("cam1"), wire.event_topic("")}
    for topic in asked.values():
        again(server, topic, pose("cam2", seq=0), pose(seq=8, lookahead=0), event("cam2"))
    again(server, next(iter(asked.values())), pose(seq=8))
    assert names([subscriber.recv(TIMEOUT)]) == [("cam1", 4, 8)]
    with pytest.raises(TimeoutError):
        subscriber.recv(0.1)


def test_a_start_that_was_received_is_not_made_up():
    start = dataclasses.replace(event("cam1"), epoch=2)
    with RefinedSender() as server, Subscriber(server.endpoint) as subscriber:
        server.wait_for_subscriptions()
        server.send(pose(seq=7), start, pose(seq=0, epoch=2), pose(seq=1, epoch=2))
        came = wait_until(subscriber, lambda came: len(came) == 5)
    assert names(came) == [("cam1", 4, 7), "beat", "start", ("cam1", 4, 0), ("cam1", 4, 1)]


def test_batches_of_a_new_server_are_flagged():
    new = dataclasses.replace(REFINED_BATCH, epoch=301)
    got, subscriber = received([REFINED_BATCH, new, new], batches=True, events=False, when_gone="wait")
    flags = [[bool(pose.flags & wire.Flag.RESET) for pose in batch.poses()] for batch in got]
    assert flags == [[False, False], [True, True], [False, False]]
    assert subscriber.lost == {("ann", 4): 5, ("ben", 4): 9}


def test_a_stream_that_was_evicted_begins_anew_without_a_loss():
    sent = [pose(seq=7), event("cam1", "evicted"), pose(seq=0), pose(seq=1)]
    _, subscriber = received(sent)
    assert not subscriber.lost


def test_iterating_ends_when_the_server_is_gone(impatient):
    with RefinedSender() as server, Subscriber(server.endpoint, when_gone="end") as subscriber:
        server.wait_for_subscriptions()
        server.send(pose(seq=0), QUICK)
        came = list(subscriber)
    assert names(came[:1]) == [("cam1", 4, 0)]
    assert isinstance(came[1], ServerGone)
    assert len(came) == 2


def test_a_server_that_never_was_is_gone(monkeypatch):
    monkeypatch.setattr(reader_module, "PATIENCE_S", 0.1)
    with Subscriber("tcp://127.0.0.1:9", when_gone="end") as subscriber:
        (gone,) = subscriber
    assert gone.epoch is None


def test_who_wants_to_wait_is_told_nothing(impatient):
    with RefinedSender() as server, Subscriber(server.endpoint, when_gone="wait") as subscriber:
        server.wait_for_subscriptions()
        server.send(pose(seq=0), QUICK)
        assert subscriber.recv(TIMEOUT).seq == 0
        with pytest.raises(TimeoutError):
            subscriber.recv(1.0)
        server.send(pose(seq=0, epoch=2))
        assert subscriber.recv(TIMEOUT).kind == "start"
        assert wire.Flag.RESET in subscriber.recv(TIMEOUT).flags


def late(seq, seconds):
    return dataclasses.replace(pose(seq=seq), publish_ns=round(1e9 * seconds))


def backlog(subscriber, server, poses):
    """Sends these poses, and returns when all of them have come."""
    server.send(*poses, dataclasses.replace(BEAT, seq=poses[-1].seq))
    while subscriber.heartbeat is None or subscriber.heartbeat.seq != poses[-1].seq:
        assert subscriber._readers[0].socket.zmq.poll(1000 * TIMEOUT)
        subscriber._readers[0].take()


def given(subscriber, clock, seconds):
    """The slots of what is given to a reader that takes so many seconds for each pose."""
    seqs = []
    with contextlib.suppress(TimeoutError):
        while True:
            message = subscriber.recv(0)
            seqs += [message.seq] * isinstance(message, wire.RefinedPose)
            clock[0] += seconds
    return seqs


@pytest.mark.parametrize(
    ("seconds", "everything", "expected"),
    [
        (0.1, False, [*range(11), 99]),  # a second to catch up, then the newest
        (0.1, True, [*range(100)]),
        (0.005, False, [*range(100)]),  # it was stopped for four seconds, and catches up: nothing is left out
    ],
)
def test_a_reader_that_stays_behind_goes_on_with_the_newest(clock, seconds, everything, expected):
    with RefinedSender() as server, Subscriber(server.endpoint, everything=everything) as subscriber:
        server.wait_for_subscriptions()
        backlog(subscriber, server, [late(k, k / 25) for k in range(100)])
        assert given(subscriber, clock, seconds) == expected
        assert subscriber.skipped == ({("cam1", 4): 100 - len(expected)} if len(expected) < 100 else {})
        assert not subscriber.lost


def test_what_is_lost_is_counted_with_the_pose_after_it():
    with RefinedSender() as server, Subscriber(server.endpoint) as subscriber:
        server.wait_for_subscriptions()
        backlog(subscriber, server, [pose(seq=0), pose(seq=5), pose(seq=9)])
        for seq, lost in (0, 0), (5, 4), (9, 7):
            assert subscriber.recv(0).seq == seq
            assert subscriber.lost["cam1", 4] == lost


@pytest.mark.parametrize("options", [{"when_gone": "never"}, {"latest": True, "everything": True}])
def test_options_that_do_not_fit_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Subscriber(**options)
