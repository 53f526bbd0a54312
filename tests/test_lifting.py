"""2D streams in the server: lifted slot by slot, by the rules that hold for all streams."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import msgpack
import numpy as np
import pytest

from rtskel.errors import WireError
from rtskel.lift import Lifted, Lifter
from rtskel.refine import Put, RefinerBank, refine
from rtskel.serve import LiftingBank, StreamTable
from rtskel.skeleton import UPPER_BODY_50, from_canonical
from rtskel.wire import Flag, RawBatch, RawPose, decode, encode
from tests.oracles import streams_in_python
from tests.oracles.ring import ring_maker
from tests.test_lift import J, seen, streamed, truth
from tests.test_serve import Reader, publisher, serving
from tests.test_streams import FPS, PERIOD, BlendEngine, Rig, end

FRAMES = 24
LOOKAHEADS = (0, 4)
XY, CONFIDENCE = (array.astype(np.float32) for array in seen(FRAMES))


def lifted(came, lift_lookahead: int, frames: int = FRAMES) -> Lifted:
    """The slots of one stream, of which those frames came, lifted offline by the streaming lifter."""
    there = np.isin(np.arange(frames), list(came))
    confidence = np.where(there[:, None], CONFIDENCE[:frames], 0)
    return streamed(Lifter(lookahead=lift_lookahead, fps=FPS), XY[:frames], confidence, [frames])


def expected(came, lift_lookahead: int, lookahead: int, frames: int = FRAMES) -> np.ndarray:
    """And then refined."""
    poses = lifted(came, lift_lookahead, frames)
    return refine(poses.xyz, confidence=poses.confidence, engine=BlendEngine(), lookahead=lookahead)


def flat(number: int, *, stream: str = "a", epoch: int = 1, axes: str = "RDT", **changes) -> RawPose:
    """Frame `number` of a 2D stream."""
    xyz = from_canonical(np.concatenate([XY[number], np.zeros((J, 1), np.float32)], -1), axes)
    fields = {"skeleton": UPPER_BODY_50.id, "axes": axes, "dims": 2} | changes
    return RawPose(stream, epoch, number, number * PERIOD, "monotonic", FPS, xyz, CONFIDENCE[number], **fields)


class LiftRig(Rig):
    """A table that lifts; see `Rig`."""

    def __init__(self, *, lift_lookahead: int | None = 2, native: bool = True, **config):
        super().__init__(native=native, **config)
        options = {"lookahead": LOOKAHEADS, "streams": self.config.max_streams, "ahead": self.config.ahead}
        if lift_lookahead is not None:
            self.bank = LiftingBank(self.engine, lift_lookahead=lift_lookahead, ring=ring_maker(native), **options)
        with nullcontext() if native else streams_in_python():
            self.table = StreamTable(self.bank, self.config, epoch=77, model="blend")

    def check(self, came, lift_lookahead: int = 2, *, stream: str = "a", frames: int = FRAMES, skip: int = 0):
        """Every slot once at each lookahead, as offline; the first `skip` poses are of something else."""
        for lookahead in LOOKAHEADS:
            poses = [p for p in self.poses if p.stream == stream and p.lookahead == lookahead][skip:]
            assert [p.source_seq for p in poses] == list(range(frames))
            want = expected(came, lift_lookahead, lookahead, frames)
            assert np.abs(np.stack([p.xyz for p in poses]) - want).max() < 0.01
            assert [bool(p.flags & Flag.INTERPOLATED) for p in poses] == [
                k not in set(came) or not CONFIDENCE[k].any() for k in range(frames)
            ]
        return self


def in_time(came, **changes) -> list[tuple[float, RawPose]]:
    return [(k * PERIOD, flat(k, **changes)) for k in came]


# --- the bank ---


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("lift_lookahead", [0, 1, 4])
def test_lifted_and_refined_as_offline_in_whatever_order_frames_come(lift_lookahead, native):
    rng = np.random.default_rng(lift_lookahead)
    came = sorted(set(range(FRAMES)) - {3, 4, 11})
    bank = LiftingBank(
        BlendEngine(), lift_lookahead=lift_lookahead, lookahead=LOOKAHEADS, streams=3, ahead=32, ring=ring_maker(native)
    )
    bank.lift(1, FPS)
    deep = np.concatenate([XY, XY[..., :1] * 0], -1)
    order = sorted(came, key=lambda k: k + rng.uniform(0, 4))
    out = []
    for k in order:
        # Beside it a stream of 3D poses, which are left as they are.
        status = bank.put([1, 2], [k, k], deep[[k, k]] + [[[0, 0, 9]], [[0, 0, 0]]], CONFIDENCE[[k, k]])
        assert (status == Put.TAKEN).all()
        if k == order[len(order) // 2]:
            assert (bank.put([1], [k], deep[[k]], CONFIDENCE[[k]]) == Put.DUPLICATE).all()
        while bank.pending:
            out.append(bank.step())
    bank.end([1, 2], [FRAMES - 1, FRAMES - 1])
    while bank.pending:
        out.append(bank.step())
    assert bank.drained[[1, 2]].all()
    sure = np.where(np.isin(np.arange(FRAMES), came)[:, None], CONFIDENCE, 0)
    for lookahead in LOOKAHEADS:
        for place in (1, 2):
            rows = [part.select(lookahead=lookahead, stream=place) for part in out]
            assert np.concatenate([part.slot for part in rows]).tolist() == list(range(FRAMES))
            xyz = np.concatenate([part.xyz for part in rows])
            if place == 1:
                want = expected(came, lift_lookahead, lookahead)
            else:
                want = refine(deep, confidence=sure, engine=BlendEngine(), lookahead=lookahead)
            assert np.abs(xyz - want).max() < 0.01


@pytest.mark.parametrize("lift_lookahead", [0, 3])
def test_a_slot_leaves_when_its_lookaheads_are_there(lift_lookahead):
    bank = LiftingBank(BlendEngine(), lift_lookahead=lift_lookahead, lookahead=LOOKAHEADS)
    bank.lift(0, FPS)
    for k in range(12):
        bank.put([0], [k], np.concatenate([XY[k], XY[k, :, :1]], -1)[None], CONFIDENCE[k][None])
        assert bank.watermark[0] == bank.newest[0] == k
        assert bank.refinable[0] == max(k - lift_lookahead, -1)
        while bank.pending:
            out = bank.step()
            assert set(zip(out.slot.tolist(), out.lookahead.tolist(), strict=True)) == {
                (k - lift_lookahead - lookahead, lookahead)
                for lookahead in LOOKAHEADS
                if k >= lift_lookahead + lookahead
            }


def test_a_late_frame_takes_its_slot_unless_that_is_lifted():
    bank = LiftingBank(BlendEngine(), lift_lookahead=3, lookahead=0, radius=0)
    bank.lift(0, FPS)

    def put(k: int) -> int:
        return int(bank.put([0], [k], np.concatenate([XY[k], XY[k, :, :1]], -1)[None], CONFIDENCE[k][None])[0])

    given = []

    def give(place: int, first: int, poses: Lifted) -> None:
        if len(poses):
            given.append((first, poses))

    bank._give = give
    for k in range(20):
        if k in (6, 13):
            bank.settle([0], [k])
        else:
            assert put(k) == Put.TAKEN
        if k == 9:
            assert put(6) == Put.LATE, "6 is lifted by now"
        if k == 15:
            assert put(13) == Put.TAKEN, "12 is lifted, 13 is next"
            assert put(13) == put(12) == Put.DUPLICATE
    bank.end([0])
    assert put(19) == Put.DUPLICATE
    assert put(20) == Put.LATE
    assert [first for first, _ in given] == list(range(18)), "one by one, and the tail"
    xyz = np.concatenate([poses.xyz for _, poses in given])
    before, after = lifted(set(range(20)) - {6, 13}, 3, 20), lifted(set(range(20)) - {6}, 3, 20)
    assert np.array_equal(xyz[:13], before.xyz[:13])
    assert np.array_equal(xyz[13:], after.xyz[13:])
    assert not np.array_equal(before.xyz[13:], after.xyz[13:])


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("rows", [[1], [0, 1], [0, 0]])
def test_what_cannot_be_put_stores_nothing(rows, native):
    """Stream 1 is 2D, stream 0 is not."""
    bank = LiftingBank(BlendEngine(), lookahead=LOOKAHEADS, streams=2, ring=ring_maker(native))
    bank.lift(1, FPS)
    m = len(rows)
    xyz, sure = np.concatenate([XY, XY[..., :1] * 0], -1)[:m], CONFIDENCE[:m]
    good = np.arange(m)
    for slots, frames, confidence, named in (
        (good - m, xyz, sure, "negative"),
        (good[:0], xyz, sure, "slot"),
        (good, xyz[:0], sure[:0], "xyz"),
        (good, xyz[..., :2], sure, "xyz"),
        (good, xyz[:, :7], None, "xyz"),
        (good, xyz, sure[:, :7], "confidence"),
        (good, xyz, sure[0], "confidence"),
    ):
        with pytest.raises(ValueError, match=named):
            bank.put(rows, slots, frames, confidence)
        assert bank.newest.tolist() == bank.watermark.tolist() == [-1, -1]
    assert (bank.put(rows, good, xyz, sure) == Put.TAKEN).all()


def test_bad_lookaheads():
    with pytest.raises(ValueError, match="lift_lookahead must be at least 0"):
        LiftingBank(BlendEngine(), lift_lookahead=-1)
    with pytest.raises(ValueError, match="ahead must be at least lift_lookahead"):
        LiftingBank(BlendEngine(), lift_lookahead=8, ahead=8)


# --- streams ---


@pytest.mark.parametrize("lift_lookahead", [0, 2, 5])
@pytest.mark.parametrize("native", [True, False])
def test_dropped_frames_and_the_tail(lift_lookahead, native):
    came = sorted(set(range(FRAMES)) - {5, 6, 13})
    rig = LiftRig(lift_lookahead=lift_lookahead, native=native)
    rig.play([*in_time(came), (FRAMES * PERIOD, end(FRAMES))]).check(came, lift_lookahead)
    assert rig.table.counts == {"missing": 3}
    # While nothing is missing, a pose leaves with the frame that completes it.
    late = {(p.source_seq, p.lookahead) for p in rig.poses if p.source_seq + p.lookahead + lift_lookahead in range(5)}
    assert late == {(i, k) for k in LOOKAHEADS for i in range(5) if i + k + lift_lookahead < 5}


def test_frames_shuffled_within_the_slack_and_two_streams():
    rig = LiftRig(slack_s=0.2)
    order = [1, 0, 2, 5, 3, 4, *range(6, FRAMES)]
    schedule = [(place * PERIOD, flat(k)) for place, k in enumerate(order)]
    came = sorted(set(range(FRAMES)) - {9})
    rig.play([*schedule, *in_time(came, stream="b"), *((FRAMES * PERIOD, end(FRAMES, stream=name)) for name in "ab")])
    rig.check(range(FRAMES)).check(came, stream="b")


def test_a_frame_too_late_is_counted():
    rig = LiftRig(lift_lookahead=1)
    schedule = [*in_time(set(range(FRAMES)) - {8}), (12.5 * PERIOD, flat(8)), (FRAMES * PERIOD, end(FRAMES))]
    rig.play(schedule).check(sorted(set(range(FRAMES)) - {8}), 1)
    assert rig.table.counts == {"missing": 1, "late": 1}


def test_a_restart_begins_afresh():
    rig = LiftRig()
    first = in_time(range(10))
    second = [(k * PERIOD + 11 * PERIOD, flat(k, epoch=2)) for k in range(FRAMES)]
    rig.play([*first, *second]).stop().check(range(FRAMES), skip=11)  # slot 10: who goes on was not known
    assert [event.kind for event in rig.events] == ["start", "reset", "end"]
    assert [p.source_seq for p in rig.poses if p.lookahead == 0][:10] == list(range(10)), "the tail was not lost"


def test_a_stall_gives_the_tail():
    rig = LiftRig(max_gap=5, idle_s=20)
    rig.play(in_time(range(10))).until(10 * 1_000_000_000)
    rig.check(range(10), frames=15)
    assert [event.kind for event in rig.events] == ["start", "stale"]


def test_frames_far_ahead_of_the_engine_and_of_a_hole():
    rig = LiftRig(lift_lookahead=4, ahead=8, max_gap=6)
    rig.send(flat(0), flat(1), *(flat(k) for k in range(3, FRAMES)), flat(2)).send(end(FRAMES)).until(PERIOD)
    rig.check(range(FRAMES), 4)


@pytest.mark.parametrize("axes", ["RDT", "LUA"])
def test_axes_and_batches(axes):
    schedule = [*in_time(range(FRAMES), axes=axes), (FRAMES * PERIOD, end(FRAMES))]
    rig, group = LiftRig().play(schedule), LiftRig()
    for k in range(FRAMES):
        m = flat(k, axes=axes)
        two = np.stack([m.xyz] * 2), np.stack([m.confidence] * 2)
        group.until(k * PERIOD)
        group.send(RawBatch("g", ["a", "b"], 1, k, m.time_ns, "monotonic", FPS, *two, m.skeleton, axes, dims=2))
    group.stop()
    of_axes = from_canonical(expected(range(FRAMES), 2, 4), axes)
    for poses in (
        [p for p in rig.poses if p.lookahead == 4],
        *([p for p in group.poses if p.lookahead == 4 and p.stream == name] for name in "ab"),
    ):
        assert np.abs(np.stack([p.xyz for p in poses]) - of_axes).max() < 0.01


def test_another_fps_goes_on():
    rig = LiftRig()
    rig.play([(k * PERIOD, replace(flat(k), fps=25.0 if k < 10 else 50.0)) for k in range(FRAMES)]).stop()
    assert [p.source_seq for p in rig.poses if p.lookahead == 4] == list(range(FRAMES))
    assert rig.table.counts == {}


def test_refused_without_lifting():
    rig = LiftRig(lift_lookahead=None).play(in_time(range(8)))
    assert isinstance(rig.bank, RefinerBank)
    assert not rig.poses
    assert rig.table.counts["flat"] == 8
    (event,) = [e for e in rig.events if e.kind == "error"]
    assert "2D" in event.detail


def test_an_estimator_that_learns_depth_starts_afresh():
    deep = [replace(flat(k), xyz=truth(8)[k].astype(np.float32), dims=3) for k in range(4, 8)]
    rig = LiftRig().play([*in_time(range(4)), *((m.seq * PERIOD, m) for m in deep)]).stop()
    flags = [bool(p.flags & Flag.RESET) for p in rig.poses if p.lookahead == 4]
    assert flags == [True, False, False, False] * 2
    resets = [event.detail for event in rig.events if event.kind == "reset"]
    assert resets == ["axes RDT, numbered after axes RDT, numbered, 2D"]


def test_a_joint_that_is_no_number_is_counted():
    message = flat(1)
    message.xyz[5] = np.nan
    rig = LiftRig().send(flat(0), message, flat(2)).stop()
    assert rig.table.counts["nonfinite"] == 1
    (pose,) = [p for p in rig.poses if p.source_seq == 1 and p.lookahead == 4]
    assert np.isfinite(pose.xyz).all()
    assert pose.missing[5]


# --- over sockets ---


def test_publishers_of_2d_are_served():
    """Two of them, with dropped frames; one starts again."""
    came = {"a": sorted(set(range(FRAMES)) - {4, 5, 17}), "b": list(range(FRAMES))}
    with serving(config={"lift": 3}, slack_s=0.5) as server, Reader(server) as reader:
        for round_ in range(2):
            for name in "ab"[round_:]:
                with publisher(server, name, FPS) as sender:
                    for k in came[name]:
                        sender.send(XY[k], CONFIDENCE[k], seq=k, block=True)
                    sender.end(FRAMES)
            reader.until_ended(2 + round_)
    for lookahead in LOOKAHEADS:
        for name, rounds in (("a", 1), ("b", 2)):
            poses = reader.select(name, lookahead)
            assert [pose.source_seq for pose in poses] == [*range(FRAMES)] * rounds
            xyz = np.stack([pose.xyz for pose in poses])
            want = np.concatenate([expected(came[name], 3, lookahead)] * rounds)
            assert np.abs(xyz - want).max() < 0.01
            assert [k for k, pose in enumerate(poses) if pose.flags & Flag.RESET] == [0, FRAMES][:rounds]


# --- on the wire ---


def test_the_wire_says_that_there_is_no_depth():
    pose = flat(0)
    assert decode(*encode(pose)).dims == 2
    assert decode(*encode(replace(pose, dims=3))).dims == 3
    assert b"dims" not in encode(replace(pose, dims=3))[1]
    two = np.stack([pose.xyz, pose.xyz]), np.stack([pose.confidence, pose.confidence])
    batch = RawBatch("g", ["a", "b"], 1, 0, 0, "m", 25.0, *two, UPPER_BODY_50.id, dims=2)
    assert [p.dims for p in decode(*encode(batch)).poses()] == [2, 2]
    for change in ({"dims": 4}, {"dims": True}, {"axes": "TRD"}):
        with pytest.raises(WireError, match="dims"):
            encode(replace(pose, **change))
    body = msgpack.unpackb(encode(pose)[1]) | {"dims": 1}
    with pytest.raises(WireError, match="dims is 1"):
        decode(encode(pose)[0], msgpack.packb(body))
