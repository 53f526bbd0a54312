"""Time-slotted ring of many streams: frames in, canonical windows out to the engine, averaged predictions back.

A slot is one tick of a stream's frame clock; slots count from 0. Window `e` holds the `window` consecutive slots that
end with slot e. Slots before 0 repeat frame 0; once a stream has ended, slots behind its last repeat that last frame.

One number per stream orders everything: its *watermark*, the last slot up to which every frame has come or was settled
(declared missing). Window e may run once the watermark has reached e, and running it completes the output of slot e -
reach(L) for every lookahead L, where reach(L) = min(L, window // 2 + radius): it averages the windows e, e-1, ...
as far as the law of `rtskel.refine` says; this module keeps the books and does the arithmetic.

A frame that comes after the watermark passed its slot is still taken while some lookahead has not emitted that slot:
the windows it touches, as far as outputs to come need them, run again.

There are two implementations of one interface, `NativeRing` in C++ (engines/native/ring.h) and `NumpyRing` here,
which is the specification in short; the same tests run both. A third, `rtskel.engine.device_ring.DeviceRing`, has the
books of `NumpyRing` and its numbers on a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from rtskel.flags import Flag
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH, Skeleton

FAR = 100.0
"""A joint more than this many canonical units (300 shoulder widths) from its window's origin counts as missing
there.
"""

DISAGREE = 2.0
"""A shoulder width that differs from what the other bones say by more than this factor is not believed."""


WARM_UP, FLUSHED = int(Flag.WARM_UP), int(Flag.FLUSHED)  # as plain numbers, which are faster


class Put(IntEnum):
    """What became of a frame."""

    TAKEN = 0
    DUPLICATE = 1  # the slot already has a frame: first wins
    LATE = 2  # the slot was emitted at every lookahead, or lies behind the end of the stream
    AHEAD = 3  # too far beyond the watermark to be kept: settle, step and put it again


UNSETTLED = 3
"""Predictions that saw fewer frames than this beyond their slot are averaged with none that saw more.

What follows a lost frame says most about it. With 15% of the frames lost, the squared error of a prediction falls to a
fifth with the first frame of lookahead, and by a quarter of that with the second; where frames are lost in bursts, by a
tenth with each. Averaging the earlier predictions in costs more than it steadies: with a floor of 2, an average at
lookahead 4 is up to 5% worse in bursts than its most central prediction alone, with 3 at most 2%.
"""


_Slots = TypeVar("_Slots", int, NDArray[np.int64])


@dataclass(frozen=True)
class RingConfig:
    """What a ring needs to know.

    Attributes:
        streams: S, how many streams it holds.
        window: slots a window, n1 of the paper.
        lookaheads: output delays in frames, each once.
        radius: r of the paper; 2r + 1 windows are averaged where the lookahead allows.
        ahead: how many slots beyond the next window to run a frame may lie.
        min_confidence: joints below it count as missing.
        skeleton: joints, tree and typical bone lengths.
        hop: windows of a stream run that many together: those that end at slots hop-1, 2 hop-1, ..., and the tail.
    """

    streams: int
    window: int
    lookaheads: tuple[int, ...]
    radius: int
    ahead: int
    min_confidence: float
    skeleton: Skeleton
    hop: int = 1

    def __post_init__(self) -> None:
        if self.streams < 1:
            raise ValueError(f"streams must be at least 1, got {self.streams}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if self.radius < 0 or 2 * self.radius + 1 > self.window:
            raise ValueError(
                f"radius must be 0..{(self.window - 1) // 2} for a window of {self.window}, got {self.radius}"
            )
        if not self.lookaheads or min(self.lookaheads) < 0 or len(set(self.lookaheads)) != len(self.lookaheads):
            raise ValueError(f"lookaheads must be different numbers of frames from 0 up, got {self.lookaheads}")
        if self.hop < 1:
            raise ValueError(f"hop must be at least 1, got {self.hop}")
        if self.ahead < self.hop:
            raise ValueError(f"ahead must be at least 1 and the hop ({self.hop}), got {self.ahead}")
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ValueError(f"min_confidence must be within 0..1, got {self.min_confidence}")

    @property
    def full_lookahead(self) -> int:
        """The lookahead from which on more changes nothing: the paper's offline protocol."""
        return self.window // 2 + self.radius

    @property
    def most_windows(self) -> int:
        """Windows a full average takes, 2r + 1."""
        return 2 * self.radius + 1

    def reach(self, lookahead: int) -> int:
        """Slots by which the last window of an average ends after the slot it is for."""
        return min(lookahead, self.full_lookahead)

    def windows(self, lookahead: int) -> int:
        """Windows that the average of that lookahead takes: those within r of the most central one that it allows."""
        central = min(lookahead, self.window // 2)
        unsettled = min(lookahead, UNSETTLED, self.window // 2 - self.radius)
        return self.reach(lookahead) - max(central - self.radius, unsettled) + 1

    def whole_hops(self, watermark: _Slots) -> _Slots:
        """The last window that may run, of a stream that goes on, when everything has come up to that slot."""
        return watermark - (watermark + 1) % self.hop

    @property
    def positions(self) -> NDArray[np.int64]:
        """[P] where in a window lie the predictions that some average takes, ascending."""
        last = self.window - 1
        found = {last - self.reach(look) + k for look in self.lookaheads for k in range(self.windows(look))}
        return np.array(sorted(found))

    @property
    def latency(self) -> int:
        """Frames that come after a slot, at the most, before the longest lookahead has its output."""
        return max(map(self.reach, self.lookaheads)) + self.hop - 1

    @property
    def capacity(self) -> int:
        """Slots kept a stream: those of windows that may run again, and those that may come early."""
        return self.window + self.most_windows + self.ahead


# A type such as np.int32 is looked up for each array again, its dtype is not.
_INT32, _INT64, _UINT32, _FLOAT32 = map(np.dtype, (np.int32, np.int64, np.uint32, np.float32))


@dataclass(frozen=True)
class Refined:
    """Refined poses, a row for each (stream, slot, lookahead), slots ascending for each stream and lookahead.

    Attributes:
        stream: [M] int32. slot: [M] int64. lookahead: [M] int32, in frames.
        xyz: [M, J, 3] float32, mean of the predictions in the units and place of the stream.
        sigma: [M, J] float32, root mean square distance of the predictions from their mean (0 where only one was
            averaged).
        confidence: [M, J] float32, as it came; 0 where the joint was missing and is filled in.
        windows: [M] int32, predictions averaged; 0 where nothing was known (xyz is 0 then) or, flagged PASSTHROUGH,
            every window was skipped.
        flags: [M] uint32, those bits of `rtskel.wire.Flag` that concern one stream's books: WARM_UP, INTERPOLATED,
            PARTIAL_AVERAGE, FLUSHED, PASSTHROUGH.
    """

    stream: NDArray[np.int32]
    slot: NDArray[np.int64]
    lookahead: NDArray[np.int32]
    xyz: NDArray[np.float32]
    sigma: NDArray[np.float32]
    confidence: NDArray[np.float32]
    windows: NDArray[np.int32]
    flags: NDArray[np.uint32]

    @classmethod
    def empty(cls, rows: int, joints: int) -> Refined:
        """Room for that many rows."""
        return cls(
            np.empty(rows, _INT32),
            np.empty(rows, _INT64),
            np.empty(rows, _INT32),
            np.empty((rows, joints, 3), _FLOAT32),
            np.empty((rows, joints), _FLOAT32),
            np.empty((rows, joints), _FLOAT32),
            np.empty(rows, _INT32),
            np.empty(rows, _UINT32),
        )

    def __len__(self) -> int:
        return len(self.slot)

    def select(self, *, lookahead: int | None = None, stream: int | None = None) -> Refined:
        """The rows of one lookahead, of one stream, or of both."""
        rows = np.ones(len(self), np.bool_)
        if lookahead is not None:
            rows &= self.lookahead == lookahead
        if stream is not None:
            rows &= self.stream == stream
        return Refined(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Refined]) -> Refined:
        """The rows of one or more parts, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )


@dataclass
class _Stream:
    """RingState of one stream."""

    slot: NDArray[np.int64]  # [C] the slot whose frame lies at slot % C, -1 for none
    watermark: int = -1  # every slot up to here has come or was settled
    newest: int = -1  # the last slot put or settled
    next: int = 0  # the first window that has not run
    stale: int = 0  # windows from here up to `next` must run again; == next if none
    last: int = -1  # last slot of an ended stream
    ended: bool = False


class RingState:
    """Which frames have come, which windows can run, and what they complete: all of a ring but its numbers."""

    def __init__(self, config: RingConfig) -> None:
        self.config = config
        self._reach = [config.reach(lookahead) for lookahead in config.lookaheads]
        self._streams = [self._opened() for _ in range(config.streams)]
        self._turn = 0

    def _opened(self) -> _Stream:
        return _Stream(np.full(self.config.capacity, -1, np.int64))

    # -- frames in ---------------------------------------------------------------------------------------------------

    def _take(self, s: int, j: int) -> Put:
        """Whether a frame for slot j of stream s is to be stored; if so, it counts as come."""
        st = self._streams[s]
        at = j % self.config.capacity
        if st.slot[at] == j:
            return Put.DUPLICATE
        if j + max(self._reach) < st.next or (st.ended and j > st.last):
            return Put.LATE
        if j >= st.next + self.config.ahead:
            return Put.AHEAD
        st.slot[at] = j
        st.stale = min(st.stale, j)
        st.newest = max(st.newest, j)
        self._advance(st)
        return Put.TAKEN

    def _take_all(
        self, stream: NDArray[np.int32], slot: NDArray[np.int64], status: NDArray[np.uint8]
    ) -> NDArray[np.intp]:
        """Which of the frames are to be stored; writes what became of each into `status`."""
        for row, (s, j) in enumerate(zip(stream.tolist(), slot.tolist(), strict=True)):
            status[row] = self._take(s, j)
        return np.flatnonzero(status == Put.TAKEN)

    def _advance(self, st: _Stream) -> None:
        while st.slot[(st.watermark + 1) % self.config.capacity] == st.watermark + 1:
            st.watermark += 1

    def settle(self, stream: NDArray[np.int32], slot: NDArray[np.int64]) -> None:
        """Every slot of these streams up to the given one counts as come."""
        for s, j in zip(stream.tolist(), slot.tolist(), strict=True):
            st = self._streams[s]
            if st.ended:
                j = min(j, st.last)
            st.newest = max(st.newest, j)
            st.watermark = max(st.watermark, j)
            self._advance(st)

    def end(self, stream: NDArray[np.int32], last: NDArray[np.int64]) -> None:
        """No frame behind `last` (-1: behind the newest) will come; slots up to it are settled and the tail may run."""
        for s, j in zip(stream.tolist(), last.tolist(), strict=True):
            st = self._streams[s]
            st.last = max(j, st.newest)
            st.ended = True
            st.newest = st.watermark = st.last

    def reset(self, stream: NDArray[np.int32]) -> None:
        """Forget everything about these streams."""
        for s in stream.tolist():
            self._streams[s] = self._opened()

    # -- windows out -------------------------------------------------------------------------------------------------

    def _ready(self, st: _Stream) -> range:
        """The windows that can run now, in order: those to repeat, then new ones up to the last whole hop within the
        watermark, or up to the end of the padded tail.
        """
        limit = self.config.whole_hops(st.watermark)
        if st.ended and st.last >= 0:
            limit = st.last + max(self._reach)
        first = st.next
        if st.stale < st.next <= limit:  # only windows that a coming average still takes
            first = max(st.stale, st.next - self.config.most_windows + 1)
        return range(first, limit + 1)

    @property
    def pending(self) -> int:
        """How many windows can run now."""
        return sum(len(self._ready(st)) for st in self._streams)

    def _share(self, room: int) -> list[tuple[int, int]]:
        ready = [(s, self._ready(st)) for s, st in enumerate(self._streams)]
        ready = [(s, windows) for s, windows in ready if windows]
        ready = [entry for entry in ready if entry[0] >= self._turn] + [
            entry for entry in ready if entry[0] < self._turn
        ]
        plan: list[tuple[int, int]] = []
        while ready and len(plan) < room:
            share = max(1, (room - len(plan)) // len(ready))
            for s, windows in ready:
                take = windows[: min(share, room - len(plan))]
                plan += [(s, e) for e in take]
                if take:
                    self._turn = (s + 1) % self.config.streams
            ready = [(s, windows[share:]) for s, windows in ready if len(windows) > share]
        return plan

    def _completed(self, s: int, e: int) -> list[int]:
        """The lookaheads whose output window e of stream s completes, none if it has run before."""
        st = self._streams[s]
        if e < st.next:
            return []
        return [
            lookahead
            for lookahead, reach in zip(self.config.lookaheads, self._reach, strict=True)
            if e - reach >= 0 and not (st.ended and e - reach > st.last)
        ]

    def _pass(self, s: int, e: int) -> None:
        """Window e of stream s has run, or never will."""
        st = self._streams[s]
        st.stale = e + 1
        st.next = max(st.next, e + 1)

    def _flags(self, s: int, e: int, count: int) -> int:
        """What is known, without the numbers, of the output that window e completes, of `count` windows at the most."""
        st = self._streams[s]
        flags = WARM_UP if e - count + 1 < self.config.window - 1 else 0
        return flags | FLUSHED if st.ended and e > st.last else flags

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> NDArray[np.int64]:
        """[S] the last slot up to which every frame has come or was settled."""
        return np.array([st.watermark for st in self._streams], np.int64)

    @property
    def newest(self) -> NDArray[np.int64]:
        """[S] the last slot put or settled."""
        return np.array([st.newest for st in self._streams], np.int64)

    @property
    def next(self) -> NDArray[np.int64]:
        """[S] the first window that has not run: slot i is emitted at lookahead L once next > i + reach(L)."""
        return np.array([st.next for st in self._streams], np.int64)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[S] whether the stream has ended."""
        return np.array([st.ended for st in self._streams], np.bool_)


class EngineRing(RingState, ABC):
    """A ring whose numbers an engine keeps beside its own: windows never leave the device that they run on."""

    @abstractmethod
    def put(
        self,
        stream: NDArray[np.int32],
        slot: NDArray[np.int64],
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        status: NDArray[np.uint8],
    ) -> None:
        """See `NumpyRing.put`."""

    @abstractmethod
    def step(self, room: int) -> Refined:
        """Run up to `room` windows, streams sharing the batch fairly: what they complete."""

    @abstractmethod
    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], out: Refined) -> None:
        """See `NumpyRing.skip`."""


@dataclass
class _Frames:
    """Frames and predictions of one stream in `NumpyRing`."""

    xyz: NDArray[np.float32]  # [C, J, 3]
    confidence: NDArray[np.float32]  # [C, J], 0 for a missing joint
    predicted: NDArray[np.float32]  # [2r+1, P, J, 3] of window e at e % (2r+1)
    usable: NDArray[np.bool_]  # [2r+1] whether that window's prediction counts


class NumpyRing(RingState):
    """The ring in numpy: the specification, and the fallback where the extension is not built."""

    def __init__(self, config: RingConfig) -> None:
        super().__init__(config)
        self._positions = config.positions
        self._frames = [self._empty() for _ in range(config.streams)]
        self._plan: list[tuple[int, int]] = []  # (stream, window) in the order of the gathered batch
        self._origin = np.zeros((0, 3), np.float32)
        self._scale = np.zeros(0, np.float32)
        self._known = np.zeros(0, np.bool_)

    def _empty(self) -> _Frames:
        c, joints = self.config.capacity, self.config.skeleton.joints
        return _Frames(
            xyz=np.zeros((c, joints, 3), np.float32),
            confidence=np.zeros((c, joints), np.float32),
            predicted=np.zeros((self.config.most_windows, len(self._positions), joints, 3), np.float32),
            usable=np.zeros(self.config.most_windows, np.bool_),
        )

    def put(
        self,
        stream: NDArray[np.int32],
        slot: NDArray[np.int64],
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        status: NDArray[np.uint8],
    ) -> None:
        """Store M frames; writes what became of each into `status`."""
        for row in self._take_all(stream, slot, status).tolist():
            frames, at, sure = self._frames[stream[row]], slot[row] % self.config.capacity, confidence[row]
            valid = np.isfinite(xyz[row]).all(axis=-1) & (sure > 0) & (sure >= self.config.min_confidence)
            frames.xyz[at] = np.where(valid[:, None], xyz[row], 0)
            frames.confidence[at] = np.where(valid, np.minimum(sure, 1), 0)

    def reset(self, stream: NDArray[np.int32]) -> None:
        """Forget everything about these streams."""
        super().reset(stream)
        for s in stream.tolist():
            self._frames[s] = self._empty()

    def gather(self, x: NDArray[np.float32], missing: NDArray[np.bool_]) -> int:
        """Fill up to B canonical windows, x [B, W, J, 3] and missing [B, W, J], streams sharing the batch fairly.

        Returns how many were filled. Nothing is decided until `average`: without it, the same windows come again.
        """
        self._plan = self._share(len(x))
        if not self._plan:
            return 0
        w = self.config.window
        frames = np.empty((len(self._plan), w, *x.shape[2:]), np.float32)
        valid = np.empty((len(self._plan), w, x.shape[2]), np.bool_)
        for row, (s, e) in enumerate(self._plan):
            st, kept = self._streams[s], self._frames[s]
            slots = np.arange(e - w + 1, e + 1).clip(0, st.last if st.ended else None)
            at = slots % self.config.capacity
            here = st.slot[at] == slots
            valid[row] = here[:, None] & (kept.confidence[at] > 0)
            frames[row] = np.where(valid[row][..., None], kept.xyz[at], 0)
        self._origin, self._scale, self._known = canonical_frames(frames, valid, self.config.skeleton)
        n = len(self._plan)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = (frames - self._origin[:, None, None]) * self._scale[:, None, None, None]
            valid &= (np.abs(moved) <= FAR).all(axis=-1)
        self._known &= valid.any(axis=(1, 2))
        x[:n] = np.where(valid[..., None], moved, 0)
        missing[:n] = ~valid
        return n

    @property
    def outputs(self) -> int:
        """How many outputs the gathered windows complete."""
        return sum(len(self._completed(s, e)) for s, e in self._plan)

    def average(self, y: NDArray[np.float32], out: Refined) -> None:
        """Take the predictions y [B, P, J, 3] of the gathered windows at `RingConfig.positions` and write the `outputs`
        rows they complete.
        """
        row = 0
        for b, (s, e) in enumerate(self._plan):
            kept, at = self._frames[s], e % self.config.most_windows
            with np.errstate(over="ignore", invalid="ignore"):
                kept.predicted[at] = y[b] / self._scale[b] + self._origin[b]
            kept.usable[at] = self._known[b] and bool(np.isfinite(kept.predicted[at]).all())
            for lookahead in self._completed(s, e):
                self._write(s, e, lookahead, out, row)
                row += 1
            self._pass(s, e)
        self._plan = []

    def _write(self, s: int, e: int, lookahead: int, out: Refined, row: int) -> None:
        cfg, st, kept = self.config, self._streams[s], self._frames[s]
        reach, count = cfg.reach(lookahead), cfg.windows(lookahead)
        i = e - reach
        ends = np.arange(e - count + 1, e + 1)
        ends = ends[kept.usable[ends % cfg.most_windows]]
        column = np.searchsorted(self._positions, cfg.window - 1 - (ends - i))
        predictions = kept.predicted[ends % cfg.most_windows, column].astype(np.float64)  # [n, J, 3]
        if len(ends):
            mean = predictions.mean(axis=0)
            out.xyz[row] = mean
            sigma = np.sqrt(np.square(predictions - mean).sum(axis=-1).mean(axis=0))
            out.sigma[row] = np.minimum(sigma, np.finfo(np.float32).max)  # further apart than any float says
        else:
            out.xyz[row] = 0
            out.sigma[row] = 0
        at = i % cfg.capacity
        out.confidence[row] = kept.confidence[at] if st.slot[at] == i else 0
        out.stream[row], out.slot[row], out.lookahead[row], out.windows[row] = s, i, lookahead, len(ends)
        flags = self._flags(s, e, count)
        if not out.confidence[row].any():
            flags |= Flag.INTERPOLATED
        if len(ends) < count:
            flags |= Flag.PARTIAL_AVERAGE
        out.flags[row] = flags

    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], out: Refined) -> None:
        """Of these streams, windows before `window` that have not run will not: write what they complete.

        Averages take the windows that did run. Where there is none, the frame passes through as it came, its missing
        joints at the neck; where nothing came either, the last one in which somebody was seen.
        """
        row = 0
        for s, end in zip(stream.tolist(), window.tolist(), strict=True):
            for e in range(self._streams[s].next, end):
                self._frames[s].usable[e % self.config.most_windows] = False
                for lookahead in self._completed(s, e):
                    self._write(s, e, lookahead, out, row)
                    if not out.windows[row]:
                        self._pass_through(s, e - self.config.reach(lookahead), out, row)
                    row += 1
                self._pass(s, e)

    def _pass_through(self, s: int, i: int, out: Refined, row: int) -> None:
        st, kept = self._streams[s], self._frames[s]
        for j in range(i, max(-1, i - self.config.window), -1):
            at = j % self.config.capacity
            if st.slot[at] == j and kept.confidence[at].any():
                there = kept.confidence[at] > 0
                out.xyz[row] = np.where(there[:, None], kept.xyz[at], kept.xyz[at, NECK])
                break
        out.flags[row] |= Flag.PASSTHROUGH


class NativeRing:
    """The ring in C++: as `NumpyRing`, for thousands of streams, with the GIL released.

    Attributes:
        compiled: the inner part.
    """

    def __init__(self, config: RingConfig) -> None:
        try:
            from rtskel import _native  # type: ignore[attr-defined]
        except ImportError as error:
            raise ImportError(
                f"rtskel's compiled part is not beside {__file__}: run `pip install .` and import rtskel from "
                "elsewhere than its source tree, or pass native=False"
            ) from error

        skeleton = config.skeleton
        self.config = config
        self.compiled = _native.Ring(
            streams=config.streams,
            window=config.window,
            joints=skeleton.joints,
            radius=config.radius,
            ahead=config.ahead,
            hop=config.hop,
            min_confidence=config.min_confidence,
            shoulder_width=SHOULDER_WIDTH,
            far=FAR,
            disagree=DISAGREE,
            lookaheads=list(config.lookaheads),
            reach=[config.reach(lookahead) for lookahead in config.lookaheads],
            count=[config.windows(lookahead) for lookahead in config.lookaheads],
            positions=config.positions.tolist(),
            parents=list(skeleton.parents),
            bone_length=list(skeleton.bone_length),
            steady=steady_bones(skeleton),
            neck=NECK,
            right_shoulder=RIGHT_SHOULDER,
            left_shoulder=LEFT_SHOULDER,
        )
        self.put = self.compiled.put
        self.settle = self.compiled.settle
        self.end = self.compiled.end
        self.reset = self.compiled.reset
        self.gather = self.compiled.gather

    def average(self, y: NDArray[np.float32], out: Refined) -> None:
        """See `NumpyRing.average`."""
        self.compiled.average(y, *_columns(out))

    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], out: Refined) -> None:
        """See `NumpyRing.skip`."""
        self.compiled.skip(stream, window, *_columns(out))

    @property
    def pending(self) -> int:
        """See `NumpyRing.pending`."""
        return int(self.compiled.pending)

    @property
    def outputs(self) -> int:
        """See `NumpyRing.outputs`."""
        return int(self.compiled.outputs)

    @property
    def watermark(self) -> NDArray[np.int64]:
        """See `NumpyRing.watermark`; a live read-only view."""
        return cast("NDArray[np.int64]", self.compiled.watermark)

    @property
    def newest(self) -> NDArray[np.int64]:
        """See `NumpyRing.newest`; a live read-only view."""
        return cast("NDArray[np.int64]", self.compiled.newest)

    @property
    def next(self) -> NDArray[np.int64]:
        """See `NumpyRing.next`; a live read-only view."""
        return cast("NDArray[np.int64]", self.compiled.next)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """See `NumpyRing.ended`; a live read-only view."""
        return cast("NDArray[np.bool_]", self.compiled.ended).view(np.bool_)


def _columns(out: Refined) -> tuple[NDArray[Any], ...]:
    """The arrays in the order in which the extension takes them."""
    return out.stream, out.slot, out.lookahead, out.xyz, out.sigma, out.confidence, out.windows, out.flags


def canonical_frames(
    xyz: NDArray[np.float32], valid: NDArray[np.bool_], skeleton: Skeleton
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Origin [B, 3], scale [B] and whether anything is known [B] of windows xyz [B, W, J, 3] with valid [B, W, J].

    Canonical positions are (xyz - origin) * scale. The origin is the median of the valid necks, else of the middles
    between valid shoulders, else of all valid joints. The scale brings the median shoulder width to 1/3; where no frame
    has both shoulders, or the width differs by more than `DISAGREE` from what the median of the nose, upper-arm and
    forearm bones says, those bones' typical lengths set the scale, else all bones', else it is 1. Medians are over the
    window, so single bad frames do not move it.
    """
    neck = xyz[:, :, NECK]
    right, left = xyz[:, :, RIGHT_SHOULDER], xyz[:, :, LEFT_SHOULDER]
    pair = valid[:, :, RIGHT_SHOULDER] & valid[:, :, LEFT_SHOULDER]
    origin, known = _median(neck, valid[:, :, NECK])
    for points, mask in (
        (np.float32(0.5) * right + np.float32(0.5) * left, pair),
        (xyz.reshape(len(xyz), -1, 3), valid.reshape(len(xyz), -1)),
    ):
        fallback, found = _median(points, mask)
        origin = np.where(known[:, None], origin, fallback)
        known = known | found

    with np.errstate(over="ignore", invalid="ignore"):
        width = _median_of(np.sqrt(np.square(right - left).sum(axis=-1)), pair) / np.float32(SHOULDER_WIDTH)
        child = np.array([j for j in range(skeleton.joints) if skeleton.parents[j] >= 0])
        parent = np.array([skeleton.parents[j] for j in child])
        length = np.sqrt(np.square(xyz[:, :, child] - xyz[:, :, parent]).sum(axis=-1))
        ratio = length / np.array(skeleton.bone_length, np.float32)[child]
    both = valid[:, :, child] & valid[:, :, parent]
    every_bone = _median_of(ratio.reshape(len(xyz), -1), both.reshape(len(xyz), -1))
    steady = np.isin(child, steady_bones(skeleton))
    some_bones = _median_of(ratio[:, :, steady].reshape(len(xyz), -1), both[:, :, steady].reshape(len(xyz), -1))

    size = np.where(some_bones > 0, some_bones, every_bone)
    agree = (width > 0) & ~((some_bones > 0) & ((width > DISAGREE * some_bones) | (some_bones > DISAGREE * width)))
    size = np.where(agree, width, size)
    scale = np.where((size > 0) & np.isfinite(size), np.float32(1) / np.where(size > 0, size, 1), 1).astype(np.float32)
    return origin.astype(np.float32), scale, known


def steady_bones(skeleton: Skeleton) -> list[int]:
    """Joints whose bones check the shoulder width: those of the body but the shoulders themselves."""
    shoulders = (RIGHT_SHOULDER, LEFT_SHOULDER)
    return [j for j in skeleton.groups["body"] if skeleton.parents[j] >= 0 and j not in shoulders]


def _median(points: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Coordinate-wise median [B, 3] of the masked points [B, N, 3], and whether there was any [B]."""
    middle = np.stack([_median_of(points[..., k], mask) for k in range(3)], axis=-1)
    return middle, np.asarray(mask.any(axis=1))


def _median_of(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Median [B] of the masked values [B, N], 0 where there is none: the mean of the two middle ones if even."""
    count = mask.sum(axis=1)
    ordered = np.sort(np.where(mask, values, np.inf), axis=1)
    row = np.arange(len(values))
    low, high = ordered[row, (count - 1).clip(0) // 2], ordered[row, count // 2]  # count // 2 < N, for N >= 1
    return np.where(count > 0, np.float32(0.5) * low + np.float32(0.5) * high, 0).astype(np.float32)
