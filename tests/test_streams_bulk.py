"""Every rule of streams once more, with messages as they come off the wire: read in bulk, or decoded one by one."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import msgpack
import numpy as np
import pytest

from rtskel.errors import WireError
from rtskel.refine import refine
from rtskel.serve.intake import Intake
from rtskel.skeleton import from_canonical
from rtskel.wire import MAX_FPS, MAX_SPAN_S, MAX_TIME, MIN_FPS, RawBatch, RawPose, StreamEnd, encode
from tests import test_streams
from tests.test_streams import *  # noqa: F403 (its tests are run here too)
from tests.test_streams import CLIP, JOINTS, PERIOD, BlendEngine, Rig, check_equal, end, frame, on_time

READ = Counter()
"""How many frames took the fast way, and how many messages the plain one."""


def parts(message) -> tuple[bytes, bytes]:
    """`encode`, also of coordinates that it refuses."""
    fps = getattr(message, "fps", MAX_FPS)
    if fps < MIN_FPS or message.time_ns > MAX_TIME or (message.seq or 0) > fps * MAX_SPAN_S:
        pytest.skip("no message can say such a number")
    try:
        return encode(message)
    except WireError:
        nothing = {name: np.zeros_like(getattr(message, name)) for name in ("xyz", "confidence")}
        topic, body = encode(dataclasses.replace(message, **nothing))
        arrays = {name: getattr(message, name).tobytes() for name in nothing}
        return topic, msgpack.packb(msgpack.unpackb(body) | arrays)


def receive(self: Rig, *messages) -> Rig:
    """As `Rig.send`, but the engine does not run."""
    topics, bodies = map(list, zip(*map(parts, messages), strict=True))
    self.table.receive(topics, bodies, [self.now] * len(messages), lambda k, why: pytest.fail(str(why)))
    return self


def send_bytes(self: Rig, *messages) -> Rig:
    receive(self, *messages)._work()
    return self


MODE = {"native": True}
"""Whether tables that are made now work in C++."""


@pytest.fixture(autouse=True, scope="module", params=["native", "python"])
def _as_bytes(request):
    """Rigs send bytes while the tests of this module run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rig, "send", send_bytes)
        take_all, unexpected, take = Intake.take_all, Intake.unexpected, Intake.take

        def counted_take_all(self, topics, bodies, read):
            count = take_all(self, topics, bodies, read)
            READ["fast"] += max(0, count)
            return count

        def counted_unexpected(self, topics, bodies):
            others = unexpected(self, topics, bodies)
            READ["plain"] += len(others)
            return others

        def counted_take(self, read, busy):
            count, left = take(self, read, busy)
            READ["fast"] += count
            READ["plain"] += len(left)
            return count, left

        patch.setattr(Intake, "take_all", counted_take_all)
        patch.setattr(Intake, "unexpected", counted_unexpected)
        patch.setattr(Intake, "take", counted_take)
        init = Rig.__init__

        def made(self, *args, native=True, **options):
            init(self, *args, native=native and MODE["native"], **options)

        patch.setattr(Rig, "__init__", made)
        patch.setitem(MODE, "native", request.param == "native")
        yield


def test_nearly_all_frames_take_the_fast_way():
    READ.clear()
    check_equal(Rig().play([*on_time(range(50)), (50 * PERIOD, end(50))]), range(50), 50)
    assert READ == {"fast": 49, "plain": 2}


def test_many_frames_of_one_stream_are_taken_at_once():
    rig = Rig().send(frame(0)).send(frame(1))
    READ.clear()
    rig.send(*[frame(number) for number in range(2, 60)], *[frame(number, stream="b") for number in range(3)])
    assert READ == {"fast": 58, "plain": 3}
    READ.clear()
    rig.send(*[frame(number) for number in range(60, 110)], *[frame(number, stream="b") for number in range(3, 40)])
    assert +READ == {"fast": 50 + 37}
    rig.send(end(110), end(40, stream="b"))
    check_equal(rig, range(110), 110)
    check_equal(rig, range(40), 40, "b")


def plain(message: object) -> dict[str, object]:
    """A message's fields, comparable."""
    fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}


@pytest.mark.parametrize("seed", range(16))
def test_whatever_comes_the_compiled_parts_do_as_the_oracles(seed, monkeypatch):
    both = []
    for native in True, False:
        monkeypatch.setitem(MODE, "native", native)
        READ.clear()
        both.append([plain(message) for message in test_streams.at_random(seed)[0].out])
        assert READ["fast"] > 0
    assert both[0] == both[1]


def test_frames_too_early_for_the_ring_are_turned_once_and_told_once():
    lost = CLIP[:40].copy()
    lost[35, 7] = np.nan
    view = {"axes": "RUA", "mirrored": True}
    seen = [frame(n, xyz=from_canonical(pose, "RUA", True), **view) for n, pose in enumerate(lost)]
    rig = Rig(ahead=26).send(seen[0]).send(seen[1])
    receive(rig, *seen[2:20])
    receive(rig, *seen[20:])._work()
    rig.stop()
    want = refine(lost, engine=BlendEngine(), lookahead=4)
    np.testing.assert_array_equal(rig.xyz(4), from_canonical(want, "RUA", True))
    assert rig.table.counts == {"nonfinite": 1}


def crowd(number: int, people: str = "abc", group: str = "room", **changes) -> RawBatch:
    """Everybody's frame `number` in one message."""
    poses = [frame(number, stream=name, **changes) for name in people]
    fields = {field.name: getattr(poses[0], field.name) for field in dataclasses.fields(RawPose)}
    fields["xyz"] = np.stack([pose.xyz for pose in poses])
    fields["confidence"] = np.stack([pose.confidence for pose in poses])
    del fields["stream"]
    return RawBatch(group, tuple(people), **fields)


def ends(frames: int, people: str = "abc") -> list[StreamEnd]:
    return [end(frames, stream=name) for name in people]


def test_several_people_in_one_message():
    READ.clear()
    rig = Rig()
    for number in range(30):
        rig.until(number * PERIOD).send(crowd(number))
    rig.until(30 * PERIOD).send(*ends(30))
    for stream in "abc":
        check_equal(rig, range(30), 30, stream)
        assert rig.kinds(stream) == ["start", "end"]
    assert not rig.table.counts
    assert READ["fast"] == 3 * 29


def test_people_come_and_go_and_are_alone_by_turns():
    rig = Rig()
    came: dict[str, list[int]] = {name: [] for name in "abcd"}
    rng = random.Random(1)
    for number in range(120):
        people = "".join(rng.sample("abcd", rng.randint(1, 4)))
        for name in people:
            came[name].append(number)
        apart = rng.random() < 0.3
        messages = [frame(number, stream=name) for name in people] if apart else [crowd(number, people)]
        rig.until(number * PERIOD).send(*messages)
    rig.until(120 * PERIOD).send(*ends(120, "abcd")).until(125 * PERIOD)
    for stream in "abcd":
        check_equal(rig, came[stream], 120, stream)


def test_one_of_a_group_restarts_or_ends_and_the_others_go_on():
    rig = Rig()
    for number in range(10):
        rig.until(number * PERIOD).send(crowd(number))
    rig.send(end(10, stream="b"))
    for number in range(10, 20):
        rig.until(number * PERIOD).send(crowd(number, "ac"))
    rig.send(frame(0, stream="c", epoch=2), frame(1, stream="c", epoch=2), end(2, stream="c", epoch=2))
    for number in range(20, 30):
        rig.until(number * PERIOD).send(crowd(number, "a"))
    rig.until(30 * PERIOD).send(end(30, stream="a"))
    check_equal(rig, range(30), 30, "a")
    check_equal(rig, range(10), 10, "b")
    assert rig.kinds("c") == ["start", "reset", "start", "end"] or rig.kinds("c") == ["start", "reset", "end"]
    # Slot 20 is filled in while it is not decided whose the stream is.
    assert [p.source_seq for p in rig.select(0, "c")] == [*range(21), 0, 1]


def test_messages_of_one_stream_keep_their_order_in_a_batch_of_bytes():
    """What is read in bulk does not overtake what is not."""
    rig = Rig()
    rig.send(*[frame(number) for number in range(3)])
    rig.send(
        *[frame(number, stream="b") for number in range(3)],
        *[frame(number) for number in range(3, 6)],
        end(6),
        *[frame(number, stream="b") for number in range(3, 5)],
        *[frame(number, epoch=2) for number in range(4)],
        end(5, stream="b"),
        end(4, epoch=2),
    )
    assert rig.slots(0) == [*range(6), *range(4)]
    check_equal(rig, range(5), 5, "b")
    assert rig.kinds() == ["start", "end", "start", "end"]


def test_frames_that_wait_for_the_engine_keep_their_order():
    """A copy that is sent again, with a new time, is no second life of its stream, though the ring has no room."""
    rig = Rig(ahead=30, max_gap=5)
    receive(rig, *[frame(number) for number in range(30)])
    again = [frame(number, at=time) for time, number in enumerate((31, 31, 30, 30), 30 * PERIOD)]
    receive(rig, *again)
    assert rig.table.backlog == 4
    rig._work()
    rig.send(*[frame(number) for number in range(32, 40)], end(40))
    check_equal(rig, range(40), 40)
    assert rig.table.counts == {"duplicate": 2}
    assert rig.kinds() == ["start", "error", "end"]


def test_a_stream_too_many_in_a_group_is_refused_and_the_others_served():
    rig = Rig(max_streams=2)
    for number in range(10):
        rig.until(number * PERIOD).send(crowd(number))
    rig.send(*ends(10, "ab"))
    check_equal(rig, range(10), 10, "a")
    check_equal(rig, range(10), 10, "b")
    assert rig.table.counts == {"refused": 10}
    assert not rig.select(0, "c")


@pytest.mark.parametrize("joints", [JOINTS - 1, JOINTS + 1])
def test_a_group_with_other_joints_is_named(joints):
    rig = Rig()
    batch = crowd(0)
    cut = np.zeros((3, joints, 3), np.float32)
    rig.send(dataclasses.replace(batch, xyz=cut, confidence=cut[..., 0]))
    assert rig.table.counts == {"joints": 3}
    assert rig.kinds("a") == ["error"]


def test_what_is_refused_is_told():
    rig = Rig()
    topic, body = encode(frame(0))
    refused = []
    heartbeat = encode(test_streams.Event("a", "start", 1, 0, 0))
    count = rig.table.receive(
        [topic, topic, b"?", heartbeat[0]],
        [body[:-1], body, body, heartbeat[1]],
        [rig.now] * 4,
        lambda k, why: refused.append((k, str(why))),
    )
    assert count == 1
    assert [k for k, _ in refused] == [0, 2, 3]
    assert "Event where raw poses belong" in refused[-1][1]
