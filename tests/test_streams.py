"""The rules of streams: slots, deadlines, restarts, ends and offenders, on an injected clock."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rtskel.refine import RefinerBank, refine
from rtskel.serve import StreamConfig, StreamTable
from rtskel.serve.reports import MAX_NOTES
from rtskel.skeleton import UPPER_BODY_50, from_canonical
from rtskel.wire import About, Event, Flag, RawBatch, RawPose, RefinedEncoder, RefinedPose, StreamEnd, encode
from tests.oracles import streams_in_python
from tests.oracles.ring import ring_maker

JOINTS = UPPER_BODY_50.joints
MS = 1_000_000
FPS = 25.0
PERIOD = 40 * MS
SLACK = 50 * MS
LOOKAHEADS = (0, 4)
WINDOW = 8
START = 10**15  # any time will do


class BlendEngine:
    """Cheap, and every frame, position and missing joint of a window matters to all of its output, nonlinearly."""

    may_hang = True

    def __init__(self, window: int = WINDOW, max_batch: int = 7) -> None:
        rng = np.random.default_rng(0)
        self.window, self.joints, self.max_batch = window, JOINTS, max_batch
        self.info = SimpleNamespace(skeleton_id=UPPER_BODY_50.id, model_id="blend", kind="blend", path="")
        self._time = rng.normal(size=(window, window)).astype(np.float32) / window
        self._place = rng.normal(size=(window, 3 * JOINTS)).astype(np.float32) / 10

    def run(self, x: np.ndarray, missing: np.ndarray, positions: np.ndarray) -> np.ndarray:
        flat = (x + np.float32(0.05) * missing[..., None]).reshape(len(x), self.window, -1)
        return (x + np.tanh(self._time @ flat + self._place).reshape(x.shape))[:, positions]

    def ring(self, config: object) -> None:
        return None


def recording(frames: int, seed: int = 0) -> np.ndarray:
    """Something that moves: [frames, 50, 3] float32."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(size=(JOINTS, 3)).astype(np.float32)
    pose[[1, 2, 5]] = [[0, 0, 0], [-0.17, 0, 0], [0.17, 0, 0]]
    return pose + np.cumsum(rng.normal(size=(frames, JOINTS, 3)), axis=0).astype(np.float32) * 0.01


CLIP = recording(400)


def frame(number: int, *, stream="a", epoch=1, at: int | None = None, **changes) -> RawPose:
    """Frame `number` of CLIP (modulo its length), captured when that number is due."""
    fields = dict(
        stream=stream,
        epoch=epoch,
        seq=number,
        time_ns=number * PERIOD if at is None else at,
        clock="monotonic",
        fps=FPS,
        xyz=CLIP[number % len(CLIP)],
        confidence=np.ones(JOINTS, np.float32),
        skeleton="upper-body-50",
        axes="RDT",
        mirrored=False,
    )
    return RawPose(**(fields | changes))


def end(frames: int | None, *, stream="a", epoch=1, at: int | None = None) -> StreamEnd:
    return StreamEnd(stream, epoch, frames, (frames or 0) * PERIOD if at is None else at, "monotonic")


def feed(table: StreamTable, messages: Iterable[tuple[RawPose | RawBatch | StreamEnd, int]]) -> None:
    """Messages that go the plain way, each with the time at which it was read."""
    for message, now in messages:
        for pose in message.poses() if isinstance(message, RawBatch) else [message]:
            table._feed(pose, now)
    table._intake.put()
    table._progress(None)


def step(table: StreamTable, clock, engine_times=None, *, crowded=False) -> list[RefinedPose]:
    """One engine batch; its poses, each stamped with `clock()`."""
    poses = []

    def deliver(emission):
        rows = zip(emission.place.tolist(), emission.lookahead.tolist(), emission.numbers.tolist(), strict=True)
        for row, (place, lookahead, (seq, source_seq, captured, received, windows, flags)) in enumerate(rows):
            poses.append(
                replace(
                    table.sample(place, lookahead),
                    seq=seq,
                    source_seq=None if source_seq < 0 else source_seq,
                    source_time_ns=captured,
                    receive_ns=received,
                    infer_start_ns=emission.infer_start_ns,
                    infer_end_ns=emission.infer_end_ns,
                    publish_ns=clock(),
                    windows=windows,
                    flags=Flag(flags),
                    xyz=emission.xyz[row],
                    confidence=emission.confidence[row],
                    missing=emission.missing[row],
                    sigma=emission.sigma[row],
                )
            )

    table.run(deliver, clock, engine_times, crowded=crowded)
    return poses


class Rig:
    """A table under a clock that the test moves, with an engine that takes no time."""

    def __init__(self, *, lookaheads=LOOKAHEADS, engine=None, native=True, **config):
        self.engine = engine or BlendEngine()
        self.config = StreamConfig(**({"max_streams": 8} | config))
        self.bank = RefinerBank(
            self.engine,
            lookahead=lookaheads,
            streams=self.config.max_streams,
            ahead=self.config.ahead,
            ring=ring_maker(native),
        )
        with nullcontext() if native else streams_in_python():
            self.table = StreamTable(self.bank, self.config, epoch=77, model="blend")
        self.now = START
        self.poses: list[RefinedPose] = []
        self.events: list[Event] = []
        self.out: list[RefinedPose | Event] = []

    def _take(self):
        for event in self.table.take_events():
            self.events.append(event)
            self.out.append(event)

    def _work(self):
        self._take()
        while self.table.pending:
            for pose in step(self.table, lambda: self.now):
                self.poses.append(pose)
                self.out.append(pose)
            self._take()

    def until(self, time: float) -> Rig:
        """Let the clock run to `time` ns after the start, waking at every deadline."""
        target = START + time
        wakes = 0
        while (deadline := self.table.next_deadline()) <= target:
            self.now = max(self.now, int(np.ceil(deadline)))
            self.table.advance(self.now)
            self._work()
            wakes += 1
            assert wakes < 10_000, "the table asks to be woken without end"
        self.now = max(self.now, int(target))
        return self

    def send(self, *messages: RawPose | StreamEnd) -> Rig:
        """Messages that arrive now, together."""
        feed(self.table, [(message, self.now) for message in messages])
        self._work()
        return self

    def play(self, schedule: Iterable[tuple[float, RawPose | StreamEnd]]) -> Rig:
        """Messages, each at its own time in ns after the start."""
        for time, message in sorted(schedule, key=lambda entry: entry[0]):
            self.until(time).send(message)
        return self

    def stop(self) -> Rig:
        self.table.shutdown(self.now)
        self._work()
        assert self.table.idle
        return self

    def slots(self, lookahead=4, stream="a") -> list[int | None]:
        return [p.source_seq for p in self.select(lookahead, stream)]

    def select(self, lookahead=4, stream="a") -> list[RefinedPose]:
        return [p for p in self.poses if (p.stream, p.lookahead) == (stream, lookahead)]

    def kinds(self, stream="a") -> list[str]:
        return [e.kind for e in self.events if e.stream == stream]

    def xyz(self, lookahead=4, stream="a") -> np.ndarray:
        return np.array([p.xyz for p in self.select(lookahead, stream)])

    def check_order(self):
        """Every output number once and in order, at each lookahead of each stream; from 0 again only with a reset."""
        for stream in {p.stream for p in self.poses}:
            for lookahead in self.bank.lookaheads:
                expected = 0
                for pose in self.select(lookahead, stream):
                    if pose.flags & Flag.RESET and pose.seq == 0:
                        expected = 0
                    assert pose.seq == expected
                    expected += 1


def expected(numbers: Iterable[int], frames: int, lookahead: int, first: int = 0) -> np.ndarray:
    """`refine` of a stream of slots first..frames - 1 in which only those numbers came."""
    xyz = np.full((frames - first, JOINTS, 3), np.nan, np.float32)
    for number in numbers:
        xyz[number - first] = CLIP[number % len(CLIP)]
    return refine(xyz, engine=BlendEngine(), lookahead=lookahead)


def on_time(numbers: Iterable[int], **changes) -> list[tuple[float, RawPose]]:
    return [(number * PERIOD, frame(number, **changes)) for number in numbers]


def check_equal(rig: Rig, numbers: Iterable[int], frames: int, stream="a", first=0, lookaheads=LOOKAHEADS):
    rig.check_order()
    for lookahead in lookaheads:
        want = expected(numbers, frames, lookahead, first)
        known = np.flatnonzero(want.any(axis=(1, 2)))  # where nothing is, the last known pose is held
        last = known[np.searchsorted(known, np.arange(known[0], len(want)), "right") - 1]
        assert rig.slots(lookahead, stream) == list(range(first + known[0], frames))
        np.testing.assert_array_equal(rig.xyz(lookahead, stream), want[last])
        held = [bool(pose.flags & Flag.HELD) for pose in rig.select(lookahead, stream)]
        assert held == (last != np.arange(known[0], len(want))).tolist()


# --- slots ---


def test_a_stream_comes_out_as_refine_says():
    rig = Rig().play([*on_time(range(30)), (30 * PERIOD, end(30))])
    check_equal(rig, range(30), 30)
    assert rig.kinds() == ["start", "end"]
    assert rig.table.idle
    assert not rig.table.counts
    poses = rig.select(4)
    assert [p.source_time_ns for p in poses] == [i * PERIOD for i in range(30)]
    assert [p.receive_ns - START for p in poses] == [i * PERIOD for i in range(30)]
    assert [p.seq for p in poses if p.flags & Flag.RESET] == [0]
    assert not any(p.flags & (Flag.INTERPOLATED | Flag.GAP_BEFORE | Flag.PASSTHROUGH) for p in poses)
    assert [bool(p.flags & Flag.FLUSHED) for p in poses] == [False] * 26 + [True] * 4
    # In step with the frames: no deadline was waited for.
    assert [p.publish_ns - START for p in poses] == [min(i + 4, 30) * PERIOD for i in range(30)]
    assert {(p.epoch, p.source_epoch, p.model, p.clock, p.fps) for p in poses} == {(77, 1, "blend", "monotonic", FPS)}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("came", "frames"),
    [
        pytest.param([0, 1, 2, 4, 5, 6, 7, 8], 9, id="one dropped"),
        pytest.param([3, 4, 5, 6, 7, 8], 9, id="first ones dropped"),
        pytest.param([25, 26], 27, id="as many dropped first as is filled in"),
        pytest.param([0, 1, 2, 3], 8, id="last ones dropped"),
        pytest.param([0, 26, 27], 28, id="longest gap that is filled in"),
        pytest.param([2], 5, id="one frame"),
        pytest.param(range(0, 40, 2), 40, id="every other dropped"),
    ],
)
def test_dropped_frames_are_filled_in(came, frames, native):
    came = list(came)
    rig = Rig(native=native).play([*on_time(came), (frames * PERIOD, end(frames))]).until(2 * frames * PERIOD)
    check_equal(rig, came, frames)
    assert rig.kinds() == ["start", "end"]
    assert rig.table.counts == {"missing": frames - len(came)}
    for pose in rig.poses:
        filled = pose.source_seq not in came
        assert bool(pose.flags & Flag.INTERPOLATED) == filled
        assert pose.missing.all() == filled
        assert pose.source_time_ns == pose.source_seq * PERIOD


@pytest.mark.parametrize("first", [26, 1000, 7 * 10**10, 2**61])
def test_a_stream_that_runs_already_starts_where_it_is(first):
    rig = Rig().play([((n - first) * PERIOD, frame(n, at=n)) for n in range(first, first + 12)])
    rig.send(end(first + 12))
    check_equal(rig, range(first, first + 12), first + 12, first=first)


def test_duplicates_first_wins():
    other = CLIP[7] + 5
    schedule = [*on_time(range(20)), *((n * PERIOD + MS, frame(n, xyz=other)) for n in range(20))]
    rig = Rig().play([*schedule, (20 * PERIOD, end(20))])
    check_equal(rig, range(20), 20)
    assert rig.table.counts == {"duplicate": 20}


def test_frames_out_of_order_within_the_slack():
    order = [1, 0, 2, 4, 3, 5, 6, 7, 9, 8, 10, 11]
    schedule = [(k * PERIOD, frame(n)) for k, n in enumerate(order)]
    rig = Rig().play([*schedule, (12 * PERIOD, end(12))])
    check_equal(rig, range(12), 12)
    assert not rig.table.counts


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("speed", "slack_s"), [(1.0, 0.2), (4.0, 0.05), (1000.0, 0.05)])
def test_frames_shuffled_within_the_lookahead(seed, speed, slack_s):
    rng = np.random.default_rng(seed)
    order = [int(n) for block in np.arange(100).reshape(-1, 5) for n in rng.permutation(block)]
    schedule = [(k * PERIOD / speed, frame(n)) for k, n in enumerate(order)]
    rig = Rig(slack_s=slack_s).play([*schedule, (100 * PERIOD / speed, end(100))])
    check_equal(rig, range(100), 100)
    assert not rig.table.counts


def test_a_late_frame_takes_its_slot_where_it_is_not_out():
    # Frame 10 comes two frames late: out at lookahead 0, in time for lookahead 4.
    schedule = [(n * PERIOD + (2 * PERIOD + SLACK if n == 10 else 0), frame(n)) for n in range(30)]
    rig = Rig().play([*schedule, (31 * PERIOD, end(30))])
    rig.check_order()
    np.testing.assert_array_equal(rig.xyz(4)[10:], expected(range(30), 30, 4)[10:])
    assert rig.select(0)[10].flags & Flag.INTERPOLATED
    assert not rig.select(4)[10].flags & Flag.INTERPOLATED
    assert "late" not in rig.table.counts


def test_a_frame_whose_slot_is_out_is_dropped_and_counted():
    schedule = [(n * PERIOD + (8 * PERIOD if n == 10 else 0), frame(n)) for n in range(30)]
    rig = Rig().play([*schedule, (31 * PERIOD, end(30))])
    check_equal(rig, set(range(30)) - {10}, 30)
    assert rig.table.counts == {"missing": 1, "late": 1}
    assert rig.kinds() == ["start", "error", "end"]
    assert "frame 10 of stream a" in rig.events[1].detail
    assert rig.events[1].counts == {"late": 1}


# --- slots by time ---


def test_slots_by_time():
    rng = np.random.default_rng(1)
    jitter = rng.integers(-12 * MS, 12 * MS, 40)
    jitter[0] = 0
    came = [n for n in range(40) if n not in (5, 6, 20)]
    schedule = [
        (n * PERIOD + 15 * MS + jitter[n], frame(n, seq=None, at=int(10**9 + n * PERIOD + jitter[n]))) for n in came
    ]
    rig = Rig().play([*schedule, (41 * PERIOD, end(None))])
    rig.check_order()
    for lookahead in LOOKAHEADS:
        np.testing.assert_array_equal(rig.xyz(lookahead), expected(came, 40, lookahead))
    assert rig.slots() == [None] * 40
    assert rig.kinds() == ["start", "end"]


@pytest.mark.parametrize(
    ("true", "stated", "jitter_ms"),
    [
        *((30, 30, 0), (30, 30, 8), (29.97, 30, 0), (29.97, 30, 5), (29.97, 30, 10), (30.03, 30, 5), (59.94, 60, 4)),
        *((25, 30, 0), (15, 30, 0), (30, 25, 0), (30, 15, 0), (60, 30, 0), (24, 25, 5), (28, 1000, 5), (12.5, 30, 8)),
        *((30, 5, 4), (1, 25, 3)),
    ],
)
def test_no_frame_is_refused_for_its_rate(true, stated, jitter_ms):
    """Frames placed by time: what came is there, and little is invented."""
    rng = np.random.default_rng(0)
    taken = np.arange(round(40 * true)) / true + rng.uniform(-1, 1, round(40 * true)) * jitter_ms / 1000 + 1
    rig = Rig().play(
        (t * SECOND + 10 * MS, frame(n, seq=None, fps=float(stated), at=round(t * SECOND))) for n, t in enumerate(taken)
    )
    rig.stop()
    rig.check_order()
    poses = rig.select(0)
    assert sum(p.receive_ns > 0 for p in poses) == len(taken)
    assert not rig.table.counts.keys() - {"missing"}
    assert sum(p.receive_ns == 0 for p in poses) <= 100
    assert sum(p.receive_ns == 0 for p in poses[-len(taken) // 2 :]) == 0
    wrong = max(true, stated) > 1.1 * min(true, stated)
    assert ("rate" in rig.kinds()) == wrong
    if wrong:
        assert poses[-1].fps == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("unit", [1_000, 1_000_000])
def test_times_in_another_unit_refuse_no_frame(unit):
    times = [10**15 + n * PERIOD // unit for n in range(200)]
    rig = Rig().play((n * PERIOD, frame(n, seq=None, at=t)) for n, t in enumerate(times)).stop()
    assert sum(p.receive_ns > 0 for p in rig.select(0)) == 200


def test_times_that_are_rounded_or_stand_still_refuse_no_frame():
    for rounding in (MS, 100 * MS):
        times = [10**13 + n * PERIOD // rounding * rounding for n in range(200)]
        rig = Rig().play((n * PERIOD, frame(n, seq=None, at=t)) for n, t in enumerate(times)).stop()
        assert sum(p.receive_ns > 0 for p in rig.select(0)) == 200


@pytest.mark.parametrize("fps", [12, 25, 29.97, 60])
@pytest.mark.parametrize("step_ms", [10, 100, 1000])
def test_coarse_times_invent_no_slot(fps, step_ms):
    """Times in tenths or whole seconds: several frames have the same, and still each is the next one."""
    captured = [n / fps * SECOND for n in range(300)]
    times = [10**13 + int(t) // (step_ms * MS) * step_ms * MS for t in captured]
    came = (frame(n, seq=None, fps=float(fps), at=t) for n, t in enumerate(times))
    rig = Rig().play(zip(map(int, captured), came, strict=True)).stop()
    poses = rig.select(0)
    assert len(poses) == 300
    assert all(p.receive_ns > 0 for p in poses)
    assert rig.kinds() == ["start", "end"]


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_rate_stands_where_frames_are_dropped_at_random(share):
    """A third of the frames is lost at random: the times between the others do not say that the rate is another."""
    rng = np.random.default_rng(3)
    came = [n for n in range(500) if n == 0 or rng.random() > share]
    times = [10**12 + n * PERIOD for n in came]
    rig = Rig().play((n * PERIOD, frame(n, seq=None, at=t)) for n, t in zip(came, times, strict=True)).stop()
    assert [k for k, p in enumerate(rig.select(0)) if p.receive_ns > 0] == came
    assert "rate" not in rig.kinds()


def test_dropped_frames_leave_holes_in_time():
    rng = np.random.default_rng(2)
    came = [n for n in range(300) if n % 11 not in (4, 5) or n == 0]
    times = {n: 10**12 + n * PERIOD + int(rng.integers(-8 * MS, 8 * MS)) for n in came}
    rig = Rig().play((n * PERIOD, frame(n, seq=None, at=times[n])) for n in came).stop()
    filled = [k for k, p in enumerate(rig.select(0)) if p.receive_ns == 0]
    assert filled == [n for n in range(max(came)) if n not in came]


def test_slots_by_time_with_another_fps_midway():
    times = [n * PERIOD for n in range(10)] + [10 * PERIOD + n * PERIOD // 2 for n in range(10)]
    schedule = [(t, frame(n, seq=None, at=t, fps=FPS if n < 10 else 2 * FPS)) for n, t in enumerate(times)]
    schedule[10] = (times[9] + PERIOD // 2, frame(10, seq=None, at=times[9] + PERIOD // 2, fps=2 * FPS))
    schedule[11:] = [
        (t := times[9] + (n - 9) * PERIOD // 2, frame(n, seq=None, at=t, fps=2 * FPS)) for n in range(11, 20)
    ]
    rig = Rig().play(schedule).stop()
    for lookahead in LOOKAHEADS:
        np.testing.assert_array_equal(rig.xyz(lookahead), expected(range(20), 20, lookahead))
    assert rig.kinds() == ["start", "end"]


# --- time ---


def test_deadlines():
    """Slot i at lookahead L leaves by due(i) + L / fps + slack, whatever else comes."""
    rng = np.random.default_rng(2)
    came = [0, 1, 2] + [n for n in range(3, 300) if rng.random() > 0.3]
    rig = Rig().play([*on_time(came), (300 * PERIOD, end(300))]).until(400 * PERIOD)
    check_equal(rig, came, 300)
    for pose in rig.poses:
        assert pose.publish_ns - START <= (pose.source_seq + pose.lookahead) * PERIOD + SLACK + 2
        assert pose.publish_ns - START >= min(300, pose.source_seq + pose.lookahead) * PERIOD


@pytest.mark.parametrize("fps", [5.0, 12.0, 20.0, 24.0, 30.0, 60.0, 1000.0])
def test_a_wrong_fps_does_not_make_frames_late(fps):
    """Frames come at another pace than the stream claims: after a few, all are in time at every lookahead."""
    schedule = [(n * SECOND / fps, frame(n)) for n in range(120)]
    rig = Rig().play([*schedule, (119 * SECOND / fps + 1, end(120))])
    rig.check_order()
    for lookahead in LOOKAHEADS:
        assert not any(p.flags & Flag.INTERPOLATED for p in rig.select(lookahead)[32:])
        assert rig.slots(lookahead) == list(range(120))
    assert rig.table.counts.get("late", 0) <= 4


def test_a_drifting_clock_with_jitter():
    rng = np.random.default_rng(3)
    schedule = [(n * PERIOD * 1.02 + rng.integers(0, 30 * MS), frame(n)) for n in range(300)]
    rig = Rig().play([*schedule, (schedule[-1][0] + 1, end(300))])
    check_equal(rig, range(300), 300)


@pytest.mark.parametrize("drift", [0.98, 1.0, 1.02])
def test_every_other_frame_dropped_on_a_drifting_clock(drift):
    """No two slots in a row ever come, so what is given up has to set the clock as well."""
    came = range(0, 400, 2)
    rig = Rig().play([*((n * PERIOD * drift, frame(n)) for n in came), (399 * PERIOD * drift, end(400))])
    rig.until(410 * PERIOD)
    check_equal(rig, came, 400)


def test_an_estimator_that_works_on_two_frames_at_once():
    """Every other frame takes longer than the slack: once that is known, none counts as missing."""
    schedule = [(n * PERIOD + 90 * MS * (n % 2), frame(n)) for n in range(200)]
    rig = Rig().play([*schedule, (schedule[-1][0] + 1, end(200))])
    rig.check_order()
    for lookahead in LOOKAHEADS:
        assert not any(p.flags & Flag.INTERPOLATED for p in rig.select(lookahead)[40:])


def test_an_estimator_that_pauses_and_goes_on_counting_where_it_was():
    """Its frames are late at first; the clock follows within a few of them."""
    schedule = [(n * PERIOD + (0 if n < 30 else 500 * MS), frame(n)) for n in range(100)]
    rig = Rig().play([*schedule, (schedule[-1][0] + 1, end(100))])
    rig.check_order()
    assert rig.slots() == list(range(100))
    assert not any(p.flags & Flag.INTERPOLATED for p in rig.select(0)[50:])
    assert "stale" not in rig.kinds()


def test_a_stall_is_filled_in_at_the_deadlines_then_the_stream_is_stale():
    rig = Rig(max_gap=10).play(on_time(range(20)))
    rig.until(100 * PERIOD)
    check_equal(rig, range(20), 30)
    for pose in rig.poses:
        assert pose.publish_ns - START <= (pose.source_seq + pose.lookahead) * PERIOD + SLACK + 2
    assert [bool(p.flags & Flag.INTERPOLATED) for p in rig.select(0)] == [False] * 20 + [True] * 10
    assert rig.kinds() == ["start", "stale"]
    assert rig.events[-1].seq == 30
    assert rig.table.streams == 0


@pytest.mark.parametrize(("frames", "filled"), [(1, 0), (2, 0), (3, 3), (7, 7), (10, 10), (30, 10)])
@pytest.mark.parametrize("native", [True, False], ids=["native", "numpy"])
def test_no_more_is_filled_in_than_came(frames, filled, native):
    """A tracker that gives a new id to every frame or two causes little work beside that for its frames."""
    rig = Rig(max_gap=10, native=native).play(on_time(range(frames)))
    rig.until((frames + 9.5) * PERIOD)
    assert "stale" not in rig.kinds()
    rig.until(100 * PERIOD)
    check_equal(rig, range(frames), frames + filled)
    assert rig.kinds() == ["start", "stale"]
    assert rig.table.streams == 0


@pytest.mark.parametrize(("ghosts", "admitted"), [(1, 2), (2, 2), (3, None)])
def test_streams_that_were_one_frame_make_room_for_newcomers(ghosts, admitted):
    """Eight places, all taken by streams of so many frames that are silent; and one of them is steady."""
    rig = Rig(max_streams=8)
    for n in range(40):
        rig.until(n * PERIOD)
        rig.send(frame(n, stream="steady"), *(frame(n, stream=f"ghost{k}") for k in range(7) if n < ghosts))
        if n >= 10:
            rig.send(frame(n, stream="newcomer"))
    came = [pose.source_seq for pose in rig.select(0, "newcomer") if pose.receive_ns]
    if admitted is None:  # they have earned their places, for as long as their slots may be missing
        assert came[0] > 25
    else:
        assert came[: 30 - admitted] == list(range(10 + admitted - 1, 40 - 1))
        assert rig.table.counts["refused"] == admitted - 1
    assert [pose.source_seq for pose in rig.select(0, "steady")] == list(range(40))


def test_a_short_stream_that_goes_on_after_a_pause_has_every_slot_once():
    rig = Rig(max_gap=10).play([*on_time(range(3)), *on_time(range(9, 40)), (40 * PERIOD, end(40))]).until(60 * PERIOD)
    check_equal(rig, [*range(3), *range(9, 40)], 40)
    assert rig.kinds() == ["start", "end"]


@pytest.mark.parametrize("resumed", [31, 45, 10_000])
def test_a_stale_stream_that_comes_back_starts_afresh(resumed):
    rig = Rig(max_gap=10).play(on_time(range(20)))
    rig.until(100 * PERIOD).send(*(frame(n) for n in range(resumed, resumed + 9)), end(resumed + 9))
    rig.check_order()
    assert rig.kinds() == ["start", "stale", "gap", "end"]
    assert rig.slots() == [*range(30), *range(resumed, resumed + 9)]
    first = rig.select()[30]
    assert first.flags & Flag.RESET
    assert first.flags & Flag.GAP_BEFORE
    assert not rig.select()[31].flags & (Flag.RESET | Flag.GAP_BEFORE)
    np.testing.assert_array_equal(rig.xyz()[30:], expected(range(resumed, resumed + 9), resumed + 9, 4, resumed))


@pytest.mark.parametrize(("resumed", "detail"), [(2, "no frame came for long"), (4, "frames 2..3 did not come")])
def test_the_event_of_a_stale_stream_that_comes_back_says_what_did_not_come(resumed, detail):
    """Of a young stream nothing was filled in: it may go on without a hole."""
    rig = Rig(max_gap=10).play(on_time(range(2)))
    rig.until(100 * PERIOD).send(*(frame(n) for n in range(resumed, resumed + 9)), end(resumed + 9))
    rig.check_order()
    assert rig.kinds() == ["start", "stale", "gap", "end"]
    assert next(event.detail for event in rig.events if event.kind == "gap") == detail


def test_a_stale_stream_that_goes_on_where_it_was_is_late_until_it_is_past_what_was_filled_in():
    rig = Rig(max_gap=10).play(on_time(range(20)))
    for n in range(20, 50):
        rig.until((n + 80) * PERIOD).send(frame(n))
    rig.stop()
    rig.check_order()
    assert rig.slots() == list(range(50))
    assert rig.table.counts["late"] == 10


def test_a_stale_stream_whose_estimator_counts_from_0_again_in_the_same_epoch():
    rig = Rig(max_gap=10).play(on_time(range(20)))
    rig.until(100 * PERIOD).send(frame(3, at=START))  # a straggler would have been captured before
    rig.send(frame(4, at=START + 1)).stop()
    assert rig.slots() == [*range(30), 0, 1, 2, 3, 4]
    assert rig.kinds() == ["start", "stale", "reset", "end"]
    rig.check_order()


# --- starting afresh ---


@pytest.mark.parametrize("gap", [26, 27, 5000])
def test_a_gap_that_is_too_long_starts_the_stream_afresh(gap):
    numbers = [*range(20), *range(20 + gap, 40 + gap)]
    rig = Rig()
    rig.send(*(frame(n) for n in numbers)).send(end(40 + gap))
    rig.check_order()
    assert rig.slots() == numbers
    assert rig.kinds() == ["start", "gap", "end"]
    for lookahead in LOOKAHEADS:
        np.testing.assert_array_equal(rig.xyz(lookahead)[:20], expected(range(20), 20, lookahead))
        after = expected(range(20 + gap, 40 + gap), 40 + gap, lookahead, 20 + gap)
        np.testing.assert_array_equal(rig.xyz(lookahead)[20:], after)
        first = rig.select(lookahead)[20]
        assert first.flags & Flag.RESET
        assert first.flags & Flag.GAP_BEFORE
    assert rig.out.index(next(e for e in rig.events if e.kind == "gap")) < rig.out.index(rig.select(0)[20])


@pytest.mark.parametrize("leap", [1000, 7 * 10**10, 2**61, 2**62])
def test_one_absurd_number_does_no_harm(leap):
    schedule = [*on_time(range(40)), (20.5 * PERIOD, frame(leap, at=0)), (40 * PERIOD, end(40))]
    rig = Rig().play(schedule)
    check_equal(rig, range(40), 40)
    assert rig.table.counts == {"jump": 1}
    assert rig.kinds() == ["start", "error", "end"]
    assert f"frame {leap} of stream a" in rig.events[1].detail


def test_a_number_beyond_what_is_taken_is_named():
    rig = Rig().play([*on_time(range(10)), (10 * PERIOD, frame(2**63 - 1, at=0)), (11 * PERIOD, end(10))])
    check_equal(rig, range(10), 10)
    assert rig.table.counts == {"number": 1}


def test_random_numbers_do_no_harm():
    rng = np.random.default_rng(4)
    rig = Rig()
    for n in range(300):
        rig.until(n * PERIOD / 4).send(frame(int(rng.integers(0, 7 * 10**10)), at=n))
    rig.stop()
    rig.check_order()


def test_leaps_that_state_different_rates_end():
    """Evenly spaced by time, but each by its own rate far away from the one before: it is not asked without end."""
    rig = Rig()
    for k, fps in enumerate((25.0, 25.0, 1000.0, 25.0, 1000.0)):
        rig.send(frame(0, seq=None, at=2 * k * SECOND, fps=fps)).until(2 * (k + 1) * PERIOD)
    rig.until(4 * SECOND).stop()
    rig.check_order()
    assert sum(not p.flags & Flag.INTERPOLATED for p in rig.select(4)) + rig.table.counts["jump"] == 5


def test_a_leap_is_believed_when_nothing_else_comes():
    rig = Rig().play([*on_time(range(10)), (10 * PERIOD, frame(500))]).until(11 * PERIOD + SLACK - 1)
    assert rig.slots(0) == [*range(10), 10]  # it went on while nobody knew
    rig.until(11 * PERIOD + SLACK + 1)
    assert rig.slots(0) == [*range(10), 10, 11, 500]
    rig.stop()
    assert rig.kinds() == ["start", "gap", "end"]


@pytest.mark.parametrize("finish", ["stop", "end"])
def test_a_leap_is_believed_at_the_end(finish):
    rig = Rig().play([*on_time(range(10)), (10 * PERIOD, frame(500))])
    if finish == "stop":
        rig.stop()
    else:
        rig.send(end(501))
    assert rig.slots() == [*range(10), 500]


def test_another_epoch_takes_over_from_one_that_is_silent_and_the_old_one_is_ignored():
    rig = Rig().play(on_time(range(10)))
    rig.until(12 * PERIOD).send(*(frame(n, epoch=2) for n in range(6)))
    rig.send(frame(10), frame(11), end(12))
    rig.send(*(frame(n, epoch=2) for n in range(6, 12)), end(12, epoch=2))
    rig.check_order()
    assert rig.slots() == [*range(11), *range(12)]  # nobody knew yet at the deadline of slot 10
    assert [p.source_epoch for p in rig.select()] == [1] * 11 + [2] * 12
    assert rig.kinds() == ["start", "reset", "error", "error", "end"]
    assert rig.table.counts == {"old_epoch": 2, "unexpected_end": 1, "missing": 1}
    assert rig.select()[11].flags & Flag.RESET
    assert not rig.select()[11].flags & Flag.GAP_BEFORE
    np.testing.assert_array_equal(rig.xyz(), np.concatenate([expected(range(10), 11, 4), expected(range(12), 12, 4)]))


ABOUTS = [About(unit="mm"), About(person="Ben"), About(view="left"), About(image_size=(640, 480))]


@pytest.mark.parametrize(
    "change",
    [{"axes": "RUA"}, {"mirrored": True}, {"seq": None}, *({"about": about} for about in ABOUTS)],
    ids=lambda change: str(next(iter(change.values()))),
)
def test_other_axes_start_afresh(change):
    rig = Rig()
    rig.send(*(frame(n) for n in range(10)), *(frame(n, **change) for n in range(10, 20))).stop()
    rig.check_order()
    assert len(rig.select()) == 20
    assert rig.kinds() == ["start", "reset", "end"]
    said = {"about": About()} | {name: value for name, value in change.items() if name != "seq"}
    assert [getattr(rig.select()[-1], name) for name in said] == list(said.values())
    assert rig.select()[0].about == About()


@pytest.mark.parametrize(
    ("axes", "mirrored"), [("RDA", False), ("RUA", True), ("RAU", False), ("DTR", True), ("ALU", False)]
)
def test_axes_are_those_of_the_source(axes, mirrored):
    rig = Rig()
    for n in range(20):  # two streams in one call, of which one is in other axes
        seen = from_canonical(CLIP[n], axes, mirrored)
        rig.send(frame(n), frame(n, stream="b", xyz=seen, axes=axes, mirrored=mirrored))
    rig.stop()
    check_equal(rig, range(20), 20)
    np.testing.assert_array_equal(rig.xyz(4, "b"), from_canonical(rig.xyz(4, "a"), axes, mirrored))
    assert {(p.axes, p.mirrored) for p in rig.select(4, "b")} == {(axes, mirrored)}


def test_another_fps_goes_on():
    schedule = [(n * PERIOD, frame(n, fps=FPS + n % 3)) for n in range(30)]
    rig = Rig().play([*schedule, (30 * PERIOD, end(30))])
    check_equal(rig, range(30), 30)
    assert [p.fps for p in rig.select(0)] == [FPS + n % 3 for n in range(30)]


# --- ends ---


def test_an_end_before_late_frames_waits_for_them():
    rig = Rig().play([*on_time(range(10)), (9 * PERIOD + 1, end(12)), (9 * PERIOD + 30 * MS, frame(11))])
    assert rig.kinds() == ["start"]
    rig.until(9 * PERIOD + 40 * MS).send(frame(10))
    assert rig.kinds() == ["start", "end"]  # at once: all 12 are there
    check_equal(rig, range(12), 12)


def test_an_end_waits_no_longer_than_the_slack():
    rig = Rig().play([*on_time(range(10)), (10 * PERIOD, end(15))]).until(10 * PERIOD + SLACK - 1)
    assert rig.kinds() == ["start"]
    rig.until(10 * PERIOD + SLACK + 1)
    assert rig.kinds() == ["start", "end"]
    check_equal(rig, range(10), 15)


@pytest.mark.parametrize("stated", [0, 5, 36, 2**62])
def test_an_end_that_cannot_be_is_named(stated):
    rig = Rig().play([*on_time(range(10)), (10 * PERIOD, end(stated))]).until(20 * PERIOD)
    check_equal(rig, range(10), 10)
    assert rig.kinds() == ["start", "error", "end"]


def test_an_end_of_nothing():
    rig = Rig().send(end(3))
    assert rig.kinds() == ["error"]
    assert rig.table.idle


def test_an_end_said_twice():
    rig = Rig().send(*(frame(n) for n in range(5)), end(5), end(5)).send(end(5))
    check_equal(rig, range(5), 5)
    assert rig.kinds() == ["start", "end"]


def test_an_end_of_a_stale_stream():
    rig = Rig(max_gap=10).play(on_time(range(20))).until(100 * PERIOD).send(end(20))
    assert rig.kinds() == ["start", "stale", "end"]


@pytest.mark.parametrize("again", [True, False])
def test_after_an_end(again):
    """The same epoch goes on counting, counts again, or another one begins: one sequence after the other."""
    second = [(0, n) for n in range(10, 16)] if not again else [(10, n) for n in range(6)]
    rig = Rig().send(*(frame(n) for n in range(10)), end(10))
    rig.send(*(frame(n, at=(n + shift) * PERIOD + 1) for shift, n in second), end(16 if not again else 6, at=10**12))
    rig.send(*(frame(n, epoch=2) for n in range(7)), end(7, epoch=2))
    rig.check_order()
    assert rig.slots() == [*range(10), *(n for _, n in second), *range(7)]
    assert rig.kinds() == ["start", "end"] * 3
    assert [p.seq for p in rig.select() if p.flags & Flag.RESET] == [0, 10, 16]


def test_a_straggler_after_an_end_is_late():
    rig = Rig().send(*(frame(n) for n in range(10)), end(10)).send(frame(4)).until(SECOND)
    check_equal(rig, range(10), 10)
    assert rig.table.counts == {"late": 1}


def test_everything_at_once():
    """Many short sequences of many streams in one call: nothing is lost or mixed up, whatever waits for what."""
    messages = []
    for epoch in range(6):
        for n in range(9):
            messages += [frame(n + 30 * s, stream=f"s{s}", epoch=epoch, at=n) for s in range(8)]
        messages += [end(9 + 30 * s, stream=f"s{s}", epoch=epoch) for s in range(8)]
    rig = Rig().send(*messages)
    rig.check_order()
    for s in range(8):
        first = 30 * s
        assert rig.slots(4, f"s{s}") == 6 * list(range(first, first + 9))
        one = expected(range(first, first + 9), first + 9, 4, first)
        np.testing.assert_array_equal(rig.xyz(4, f"s{s}"), np.concatenate(6 * [one]))
    assert rig.table.idle


# --- back in number or time ---


def lives(rig: Rig, lookahead: int = 0, stream: str = "a") -> list[list[int | None]]:
    """The source's numbers, from one fresh start to the next."""
    found: list[list[int | None]] = []
    for pose in rig.select(lookahead, stream):
        if pose.flags & Flag.RESET:
            found.append([])
        found[-1].append(pose.source_seq)
    return found


@pytest.mark.parametrize("clip", [10, 25, 60, 300])
@pytest.mark.parametrize("numbers", ["go on in time", "go back in time, too"])
def test_a_clip_in_a_loop_starts_afresh_each_time(clip, numbers):
    """Within two frames where that is certain, else within five; and none of its frames is lost."""
    loops = 4
    schedule = [
        (k * PERIOD, frame(k % clip, at=(k if numbers == "go on in time" else k % clip) * PERIOD))
        for k in range(loops * clip)
    ]
    rig = Rig().play(schedule).stop()
    rig.check_order()
    assert [[n for n in life if n < clip] for life in lives(rig)] == loops * [list(range(clip))]
    assert rig.kinds() == ["start", *["reset"] * (loops - 1), "end"]
    assert rig.table.counts.keys() <= {"missing"}
    assert max(np.diff([p.publish_ns for p in rig.select(0)])) <= 6 * PERIOD


@pytest.mark.parametrize("back_s", [0.5, 2, 10, 3600])
@pytest.mark.parametrize("numbered", [True, False])
def test_a_clock_that_is_set_back(back_s, numbered):
    times = [10**13 + n * PERIOD - (n >= 100) * round(back_s * SECOND) for n in range(200)]
    rig = Rig().play((n * PERIOD, frame(n, at=t, **({} if numbered else {"seq": None}))) for n, t in enumerate(times))
    rig.stop()
    rig.check_order()
    came = [p for p in rig.select(0) if p.receive_ns]
    assert max(np.diff([p.publish_ns for p in came])) <= 6 * PERIOD
    assert len(came) == 200
    assert rig.kinds() == ["start", "end"] if numbered else ["start", "reset", "end"]


def test_stragglers_do_not_start_a_stream_afresh():
    """Some frames come seconds late, between those that are in time."""
    schedule = [(n * PERIOD + (n % 7 == 3 and n < 140) * 2 * SECOND, frame(n)) for n in range(200)]
    rig = Rig().play(schedule).stop()
    rig.check_order()
    assert rig.kinds().count("reset") == 0
    assert rig.slots(0) == list(range(200))
    assert rig.table.counts["late"] == 20


def test_a_stale_stream_whose_clock_was_set_back():
    rig = Rig(max_gap=10).play(on_time(range(300))).until(400 * PERIOD)
    assert rig.kinds() == ["start", "stale"]
    rig.play((400 * PERIOD + n * PERIOD, frame(n)) for n in range(30)).stop()
    assert lives(rig)[-1] == list(range(30))


# --- who owns an id ---


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_few_frames_of_another_epoch_do_not_shut_the_owner_out(frames):
    schedule = [(n * PERIOD, frame(n)) for n in range(200)]
    schedule += [(100.3 * PERIOD + k * MS, frame(k, epoch=9)) for k in range(frames)]
    rig = Rig().play(schedule).stop()
    check_equal(rig, range(200), 200)
    assert rig.table.counts == {"other_epoch": frames}
    assert rig.kinds() == ["start", "error", "end"]


def test_two_that_send_the_same_id_all_the_time():
    schedule = [(n * PERIOD, frame(n)) for n in range(200)]
    schedule += [((n + 0.5) * PERIOD, frame(n - 50, epoch=9)) for n in range(50, 150)]
    rig = Rig().play(schedule).stop()
    check_equal(rig, range(200), 200)
    assert rig.table.counts == {"other_epoch": 100}


@pytest.mark.parametrize("pause", [0, 1, 2, 10])
def test_an_estimator_that_was_started_again_loses_no_frame(pause):
    """Its new frames wait until the old epoch is silent for a frame and the slack."""
    schedule = [(n * PERIOD, frame(n)) for n in range(50)]
    schedule += [((50 + pause + n) * PERIOD, frame(n, epoch=2)) for n in range(50)]
    rig = Rig().play(schedule).stop()
    rig.check_order()
    assert [p.source_epoch for p in rig.select(0) if p.receive_ns] == 50 * [1] + 50 * [2]
    assert rig.kinds() == ["start", "reset", "end"]
    first = next(p for p in rig.select(0) if p.source_epoch == 2)
    assert first.publish_ns - START <= (49 + max(pause + 1, 3)) * PERIOD + SLACK


def test_an_owner_that_was_shut_out_comes_back():
    """It paused, a stranger took the id and went silent."""
    schedule = [(n * PERIOD, frame(n)) for n in [*range(50), *range(60, 200)]]
    schedule += [((52 + n) * PERIOD, frame(n, epoch=9)) for n in range(4)]
    rig = Rig().play(schedule).stop()
    rig.check_order()
    owned = [p.source_seq for p in rig.select(0) if p.source_epoch == 1 and p.receive_ns]
    assert owned[-140:] == list(range(60, 200))


def test_shutdown_ends_every_stream_with_its_tail():
    rig = Rig()
    rig.send(*(frame(n, stream=s) for n in range(11) if n != 7 for s in "abc"), end(12, stream="c")).stop()
    for s, frames in (("a", 11), ("b", 11), ("c", 12)):
        check_equal(rig, set(range(11)) - {7}, frames, stream=s)
        assert rig.kinds(s) == ["start", "end"]
    assert [e.detail for e in rig.events if e.kind == "end"] == ["shutdown", "shutdown", "end"]


# --- overload ---


def test_frames_far_ahead_of_the_engine_wait():
    rig = Rig(ahead=30, max_gap=5)
    feed(rig.table, [(frame(n), rig.now) for n in range(400)])
    assert rig.table.backlog == 370
    rig._work()
    rig.send(end(400))
    check_equal(rig, range(400), 400)
    assert rig.table.backlog == 0
    assert not rig.table.counts


def test_frames_far_ahead_of_a_hole_wait_until_it_is_settled():
    came = [n for n in range(400) if n % 37 != 20]
    rig = Rig(ahead=30, max_gap=5)
    rig.send(*(frame(n) for n in came), end(400))
    assert rig.table.backlog > 200
    rig.until(20 * SLACK)
    check_equal(rig, came, 400)
    assert rig.kinds() == ["start", "end"]


def test_restarts_while_frames_wait():
    rig = Rig(ahead=30, max_gap=5)
    rig.send(
        *(frame(n) for n in range(100)),
        *(frame(n) for n in range(200, 300)),
        *(frame(n, epoch=2) for n in range(100)),
        *(frame(n, epoch=2, axes="RUA") for n in range(100, 200)),
        end(200, epoch=2),
        *(frame(n, epoch=3) for n in range(100)),
    ).stop()
    rig.check_order()
    assert rig.slots() == [*range(100), *range(200, 300), *range(200), *range(100)]
    assert rig.kinds() == ["start", "gap", "reset", "reset", "end", "start", "end"]


def test_shutdown_while_frames_wait_behind_a_hole():
    came = [n for n in range(200) if n % 37 != 20]
    rig = Rig(ahead=30, max_gap=5)
    rig.send(*(frame(n) for n in came))
    assert rig.table.backlog
    rig.stop()
    check_equal(rig, came, 200)
    assert rig.kinds() == ["start", "end"]


def test_shutdown_of_a_stale_stream_says_that_it_ends():
    rig = Rig(max_gap=5).send(frame(0)).until(50 * PERIOD).stop()
    assert rig.kinds() == ["start", "stale", "end"]
    assert rig.events[-1].detail == "shutdown"


def test_a_stream_of_one_frame_is_not_filled_in():
    """A tracker's mistake costs one pose at each lookahead, not a second of them."""
    rig = Rig().send(*(frame(7, stream=f"ghost{k}") for k in range(5))).until(10 * SECOND)
    for k in range(5):
        assert rig.slots(0, f"ghost{k}") == [7]
        assert rig.kinds(f"ghost{k}") == ["start", "stale"]


@pytest.mark.parametrize("pause_s", [2, 20])
@pytest.mark.parametrize("speed", [1, 1000])
def test_a_recording_loses_nothing_in_a_pause(pause_s, speed):
    times = [n * PERIOD / speed + (n >= 150) * pause_s * SECOND for n in range(300)]
    rig = Rig().play((t, frame(n, lossless=True)) for n, t in enumerate(times))
    rig.send(end(300))
    check_equal(rig, range(300), 300)
    assert not rig.table.counts
    assert rig.kinds() == ["start", "end"]


def test_slots_of_a_recording_that_were_left_out_are_missing():
    came = [n for n in range(200) if n % 9 not in (3, 4)]
    rig = Rig().play((n * PERIOD, frame(n, lossless=True)) for n in came).send(end(200)).until(210 * PERIOD)
    check_equal(rig, came, 200)
    assert rig.table.counts == {"missing": 200 - len(came)}


@pytest.mark.parametrize("fps", [0.1, 1.0])
def test_many_frames_behind_a_hole_do_not_wait_for_long(fps):
    """A stream that claims a low rate and leaves out slots."""
    rig = Rig()
    rig.send(*(frame(2 * n, fps=fps) for n in range(700)))
    assert rig.table.backlog <= 700 - 300
    rig.until(300 * SECOND / fps / 10).stop()
    assert rig.table.idle


@pytest.mark.parametrize("fps", [1e-310, 1e-9, 1e-3, 0.09])
def test_a_rate_that_no_camera_has_is_refused(fps):
    rig = Rig().play(on_time(range(20)))
    rig.send(*(frame(5 + 2 * n, stream="b", fps=fps) for n in range(4))).send(frame(20, fps=fps)).stop()
    assert rig.table.counts == {"fps": 5}
    check_equal(rig, range(20), 20)


def test_deadlines_do_not_count_the_time_in_which_the_server_stood_still():
    still, clean = Rig(), Rig().play(on_time(range(60))).stop()
    still.play(on_time(range(30)))
    still.now += 20 * PERIOD  # stopped; then all that came meanwhile is read at once
    still.table.pause(20 * PERIOD)
    still.send(*(frame(n) for n in range(30, 50)))
    still.play((n * PERIOD, frame(n)) for n in range(50, 60)).stop()
    assert not still.table.counts
    np.testing.assert_array_equal(still.xyz(), clean.xyz())


# --- nobody in view ---


NOBODY = {"confidence": np.zeros(JOINTS, np.float32), "xyz": np.zeros((JOINTS, 3), np.float32)}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("there", [(75, 150), (0, 100), (0, 5), (250, 275), (3, 4)])
@pytest.mark.parametrize("came", [True, False])
def test_nobody_in_view_is_no_body_at_the_origin(there, came, native):
    """The last pose is held for a second, then there is none; whether frames come that show nobody, or none come."""
    first, last = there
    schedule = [(n * PERIOD, frame(n, **({} if first <= n < last else NOBODY))) for n in range(400)]
    schedule += [(n * PERIOD, frame(n)) for n in range(400, 420)]
    if not came:  # but a few, that keep the stream alive
        schedule = [(t, m) for t, m in schedule if m.confidence.any() or m.seq % 20 == 0]
    rig = Rig(native=native).play(schedule).stop()
    rig.check_order()
    for lookahead in LOOKAHEADS:
        poses = rig.select(lookahead)
        assert all(p.xyz.any() for p in poses)
        slots = [p.source_seq for p in poses]
        ring = rig.bank.config
        earliest = ring.reach(lookahead) - ring.windows(lookahead) + 1  # slots by which its first window ends after it
        reach = range(first - lookahead, last + WINDOW - 1 - earliest + 25)
        assert set(slots) == {n for n in reach if 0 <= n < 400} | set(range(400 - lookahead, 420))
        held = [p for p in poses if p.flags & Flag.HELD]
        assert held
        for pose in held:
            assert not pose.confidence.any()
            assert pose.missing.all()
            before = next(p for p in reversed(poses) if p.source_seq < pose.source_seq)
            np.testing.assert_array_equal(pose.xyz, before.xyz)
            assert (pose.sigma > before.sigma).all()
    kinds = [kind for kind in rig.kinds() if kind in ("lost", "found")]
    assert kinds == ["lost", "found"] * (1 if first == 0 else 2)


def test_poses_without_coordinates_where_nobody_is_seen():
    schedule = [(n * PERIOD, frame(n, **({} if n < 50 else NOBODY))) for n in range(200)]
    rig = Rig(unseen=True).play(schedule).stop()
    rig.check_order()
    for lookahead in LOOKAHEADS:
        poses = rig.select(lookahead)
        assert [p.source_seq for p in poses] == list(range(200))
        for pose in poses:
            assert bool(pose.flags & Flag.UNSEEN) == (not pose.xyz.any())
        assert sum(bool(p.flags & Flag.UNSEEN) for p in poses) > 100


def test_a_stream_that_shows_nobody_at_all():
    rig = Rig().play((n * PERIOD, frame(n, **NOBODY)) for n in range(100)).stop()
    assert not rig.poses
    assert rig.kinds() == ["start", "lost", "end"]


# --- places ---


def test_idle_streams_are_forgotten():
    rig = Rig(idle_s=5).play(on_time(range(10)))
    rig.until(9 * PERIOD + 5 * SECOND - 1)
    assert rig.kinds() == ["start", "stale"]
    rig.until(9 * PERIOD + 5 * SECOND)
    assert rig.kinds() == ["start", "stale", "end", "evicted"]
    assert {e.detail for e in rig.events[2:]} == {"idle"}
    rig.send(frame(50)).stop()
    assert rig.kinds()[4:] == ["start", "end"]
    assert rig.select()[-1].flags & Flag.RESET
    assert rig.select()[-1].seq == 0


def test_an_idle_stream_at_a_low_rate_gives_its_tail():
    rig = Rig(idle_s=3)
    rig.send(*(frame(n, fps=0.5) for n in range(6))).until(4 * SECOND)
    check_equal(rig, range(6), len(rig.select()))
    assert rig.kinds() == ["start", "end", "evicted"]
    assert rig.table.idle


def test_an_ended_stream_is_forgotten_too():
    rig = Rig(idle_s=3).send(frame(0), end(1)).until(4 * SECOND)
    assert rig.kinds() == ["start", "end", "evicted"]
    assert not rig.table._streams


def test_one_stream_too_many_is_refused_until_there_is_room():
    rig = Rig(max_streams=2)
    for n in range(30):
        rig.until(n * PERIOD).send(*(frame(n, stream=s) for s in "abc"))
    assert rig.kinds("c") == ["error", "error"]  # at once, and a second later
    assert rig.events[-1].counts == {"refused": 25}
    assert rig.table.streams == 2
    rig.send(end(30)).send(*(frame(n, stream="c") for n in range(30, 40))).stop()
    check_equal(rig, range(30), 30)
    check_equal(rig, range(30), 30, stream="b")
    assert rig.slots(4, "c") == list(range(30, 40))


def test_places_are_used_again_without_a_trace():
    rig = Rig(max_streams=1)
    for k in range(20):
        rig.send(*(frame(n, stream=f"s{k}") for n in range(12)), end(12, stream=f"s{k}"))
    for k in range(20):
        check_equal(rig, range(12), 12, stream=f"s{k}")
    assert len(rig.table._streams) <= 3


# --- offenders ---


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"skeleton": "hand-21"}, "skeleton", "'hand-21', the engine refines 'upper-body-50'"),
        ({"xyz": np.zeros((33, 3), np.float32), "confidence": np.ones(33, np.float32)}, "joints", "33 joints"),
        ({"seq": 2**63 - 1}, "number", "2**62"),
        ({"time_ns": 2**63 - 1}, "number", "2**62"),
    ],
)
def test_offenders_are_named_and_nobody_else_is_touched(change, kind, text):
    clean = Rig().play([*on_time(range(30)), *on_time(range(30), stream="b")]).stop()
    schedule = [*on_time(range(30)), *on_time(range(30), stream="b")]
    schedule += [(n * PERIOD + MS, frame(n, stream="b", **change)) for n in range(30)]
    schedule += [(n * PERIOD + MS, frame(n, stream="c", **change)) for n in range(30)]
    rig = Rig().play(schedule).stop()
    for stream in "ab":
        for lookahead in LOOKAHEADS:
            np.testing.assert_array_equal(rig.xyz(lookahead, stream), clean.xyz(lookahead, stream))
    assert rig.table.counts[kind] == 60
    for stream in "bc":
        errors = [e for e in rig.events if e.stream == stream and e.kind == "error"]
        # The first at once, more after a second, the rest at the end.
        assert [e.counts[kind] for e in errors] == [1, 25, 30]
        assert text in errors[0].detail
        assert f"stream {stream}" in errors[0].detail
    assert rig.kinds("a") == ["start", "end"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_no_numbers_are_missing_and_counted(value):
    broken = CLIP[7].copy()
    broken[30, 1] = value
    confidence = np.ones(JOINTS, np.float32)
    confidence[30] = 0
    schedule = [(n * PERIOD, frame(n, **({"xyz": broken} if n == 7 else {}))) for n in range(20)]
    meant = [(n * PERIOD, frame(n, **({"confidence": confidence} if n == 7 else {}))) for n in range(20)]
    rig, clean = Rig().play(schedule).stop(), Rig().play(meant).stop()
    for lookahead in LOOKAHEADS:
        np.testing.assert_array_equal(rig.xyz(lookahead), clean.xyz(lookahead))
        assert np.isfinite(rig.xyz(lookahead)).all()
    assert rig.table.counts == {"nonfinite": 1}
    assert rig.select(4)[7].missing[30]


@pytest.mark.parametrize("native", [True, False])
def test_huge_coordinates_stay_finite(native):
    schedule = [(n * PERIOD, frame(n, xyz=CLIP[n] * np.float32(3e37) * (-1) ** n)) for n in range(20)]
    rig = Rig(native=native).play(schedule).stop()
    assert all(np.isfinite(p.xyz).all() and np.isfinite(p.sigma).all() for p in rig.poses)


def test_offences_are_counted_at_the_latest_a_second_later():
    rig = Rig().send(frame(0)).until(10 * MS).send(frame(0), frame(0))
    assert rig.events[-1].counts == {"duplicate": 1}
    rig.until(20 * MS).send(frame(0))
    assert len(rig.events) == 2
    rig.until(10 * MS + SECOND)
    assert [e.counts for e in rig.events if e.kind == "error"] == [{"duplicate": 1}, {"duplicate": 3}]
    assert "(and 1 more)" in rig.events[-1].detail or "(and 1 more)" in rig.events[2].detail


def test_offenders_do_not_fill_the_memory():
    rig = Rig(max_streams=1).send(frame(0))
    for k in range(5000):
        rig.send(frame(0, stream=f"s{k}"), frame(0, stream=f"s{k}"))
    assert len(rig.table._reports._notes) <= MAX_NOTES
    assert len(rig.table._reports._untold) <= MAX_NOTES
    assert len(rig.table._streams) == 1
    assert rig.table.counts["refused"] == 10000


# --- what becomes of poses ---


def test_encoded_poses_are_those_that_encode_gives():
    rng = np.random.default_rng(5)
    schedule = [
        (n * PERIOD, frame(n, confidence=(rng.random(JOINTS) > 0.3).astype(np.float32), fps=FPS + (n > 20)))
        for n in range(40)
        if n % 7
    ]
    schedule += [(n * PERIOD, frame(n, stream="b", seq=None, axes="RUA", mirrored=True)) for n in range(40)]
    rig = Rig().play(schedule).stop()
    encoders = {}
    for pose in rig.poses:
        key = (pose.stream, pose.lookahead, pose.fps)
        encoder = encoders.setdefault(key, RefinedEncoder(pose))
        body = encoder(
            *(getattr(pose, name) for name in inspect.signature(RefinedEncoder.__call__).parameters if name != "self")
        )
        assert (encoder.topic, body) == encode(pose)
    assert len(encoders) == 6


# --- a failing engine ---


def test_poses_of_a_failed_engine_are_flagged():
    """The caller gives raw windows for the prediction: everything they touch says so, nothing else does."""
    engine = BlendEngine()
    rig = Rig(engine=engine)
    run = engine.run
    for n in range(40):
        failing = 15 <= n < 18
        engine.run = (lambda x, missing, positions: x[:, positions]) if failing else run
        rig.until(n * PERIOD)
        feed(rig.table, [(frame(n), rig.now)])
        if failing:
            rig.table.engine_failed("out of memory", rig.now)
        rig._work()
    rig.stop()
    rig.check_order()
    for lookahead in LOOKAHEADS:
        poses = rig.select(lookahead)
        touched = [bool(p.flags & Flag.PASSTHROUGH) for p in poses]
        # (i, L) averages windows up to i + L; windows 15..17 failed.
        least = [any(15 <= e <= 17 for e in range(max(i, i + lookahead - 4), i + lookahead + 1)) for i in range(40)]
        assert all(flagged for flagged, must in zip(touched, least, strict=True) if must)
        assert sum(touched) <= sum(least) + 4
        clean = [k for k, flagged in enumerate(touched) if not flagged]
        np.testing.assert_allclose(rig.xyz(lookahead)[clean], expected(range(40), 40, lookahead)[clean], atol=1e-6)
    assert [e.counts for e in rig.events if e.kind == "error" and not e.stream] == [{"engine": 1}, {"engine": 3}]
    assert rig.table.counts == {"engine": 3}


# --- anything that estimators and networks do within the slack ---


@st.composite
def disorder(draw):
    frames = draw(st.integers(1, 60))
    dropped = draw(st.sets(st.integers(0, frames - 1), max_size=frames // 2))
    delays = draw(st.lists(st.integers(0, 45 * MS), min_size=frames, max_size=frames))
    again = draw(st.sets(st.integers(0, frames - 1), max_size=10))
    speed = draw(st.sampled_from([1, 1, 2, 50, 10**9]))
    late = draw(st.booleans())
    return frames, dropped, delays, again, speed, late


@settings(max_examples=60, deadline=None)
@given(disorder(), st.sampled_from([True, False]))
def test_any_disorder_within_the_slack(case, native):
    """Every slot exactly once per lookahead, in order, equal to `refine` on the frames that came."""
    frames, dropped, delays, again, speed, late = case
    came = [n for n in range(frames) if n not in dropped]
    schedule = [(n * PERIOD / speed + delays[n] / speed, frame(n)) for n in came]
    schedule += [(n * PERIOD / speed + 46 * MS, frame(n, xyz=CLIP[n] + 1)) for n in again if n not in dropped]
    schedule += [(frames * PERIOD / speed - (0 if late else PERIOD / 2 / speed), end(frames))]
    # An end that comes before every frame of its stream is refused, for nobody knows the stream then.
    assume(not came or min(at for at, _ in schedule[:-1]) < schedule[-1][0])
    rig = Rig(native=native).play(schedule).until(frames * PERIOD + 10 * SECOND)
    if not came:
        assert rig.kinds() == ["error"]
        return
    check_equal(rig, came, frames)
    assert rig.kinds().count("start") == rig.kinds().count("end") == 1
    assert "late" not in rig.table.counts or again
    assert rig.table.idle


def at_random(seed: int) -> tuple[Rig, int]:
    """Estimators that restart, jump, repeat, end, change their minds; and how many frames they sent."""
    rng = random.Random(seed)
    rig = Rig(
        native=seed % 4 != 0,
        lookaheads=rng.choice([(0,), (4,), (0, 4), (2, 12, 40)]),
        max_streams=rng.choice([1, 2, 4]),
        max_gap=rng.choice([0, 3, 25]),
        ahead=rng.choice([30, 64]),
        idle_s=rng.choice([0.5, 3, 30]),
        slack_s=rng.choice([0, 0.05, 0.5]),
    )
    number, epoch = dict.fromkeys("abcd", 0), dict.fromkeys("abcd", 1)
    source = {s: {"fps": FPS, "axes": "RDT", "mirrored": False} for s in "abcd"}
    time = sent = 0

    def message() -> RawPose | StreamEnd:
        s = rng.choice("abcd")
        what = rng.random()
        if what < 0.02:
            epoch[s], number[s] = epoch[s] + 1, rng.choice([0, 0, 3, 100])
        elif what < 0.03:
            source[s]["fps"] = rng.choice([5.0, 25.0, 30.0, 1000.0, 0.1, 240.0])
        elif what < 0.04:
            source[s].update(axes=rng.choice(["RDT", "RUA"]), mirrored=rng.random() < 0.5)
        elif what < 0.06:
            number[s] = max(0, number[s] + rng.choice([1, 3, 20, 40, 1000, -5, -50, 10**6]))
        elif what < 0.09:
            stated = rng.choice([number[s], number[s] + 2, 0, None, number[s] + 100])
            return end(stated, stream=s, epoch=rng.choice([epoch[s], epoch[s], epoch[s] - 1]), at=rng.choice([0, time]))
        n = rng.choice([number[s]] * 12 + [max(0, number[s] - rng.randint(0, 10)), number[s] + rng.randint(0, 8)])
        number[s] += rng.choice([1] * 8 + [0, 2])
        timed = {"seq": None} if source[s]["mirrored"] and rng.random() < 0.9 else {}
        old = rng.random() < 0.05
        return frame(n, stream=s, epoch=epoch[s] - old, at=rng.choice([time, n * PERIOD % 2**61]), **source[s], **timed)

    for _ in range(150):
        time += rng.choice([0, 0, 0, 1, 5, 40, 40, 40, 200, 2000]) * MS
        messages = [message() for _ in range(rng.choice([1, 1, 1, 1, rng.randint(2, 60)]))]
        sent += sum(isinstance(m, RawPose) for m in messages)
        rig.until(time).send(*messages)
        streams = rig.table._streams.values()
        assert rig.table.backlog == sum(len(s.waiting) for s in streams)
        assert len(streams) <= 2 * rig.config.max_streams
    return rig.stop(), sent


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_every_frame_is_accounted_for(seed):
    """A frame is either in the output or counted."""
    rig, sent = at_random(seed)
    assert not rig.table._streams
    rig.check_order()
    most = max(rig.bank.lookaheads)
    out = sum(p.lookahead == most and not p.flags & Flag.INTERPOLATED for p in rig.poses)
    counted = sum(
        rig.table.counts[k]
        for k in ("late", "duplicate", "jump", "old_epoch", "other_epoch", "refused", "number", "fps")
    )
    assert sent == out + counted
    seen = [p for p in rig.poses if not p.flags & Flag.INTERPOLATED]
    # The same frames at each lookahead, but for those of which nothing is known without the next ones.
    counts = [sum(p.lookahead == lookahead for p in seen) for lookahead in sorted(rig.bank.lookaheads)]
    assert counts == sorted(counts)


SECOND = 1000 * MS
