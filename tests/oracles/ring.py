"""The rings of `rtskel.refine.ring` in Python: the specification that the tests compare the C++ and GPU rings with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.flags import Flag
from rtskel.refine.canonical import FAR, canonical_frames
from rtskel.refine.config import Put, Refined, RingConfig
from rtskel.refine.ring import native_ring
from rtskel.skeleton import NECK

WARM_UP, FLUSHED = int(Flag.WARM_UP), int(Flag.FLUSHED)


def ring_maker(native: bool) -> type[NumpyRing] | Any:
    """What a `RefinerBank` is given as `ring`: C++ or the specification."""
    return native_ring if native else NumpyRing


@dataclass
class _Stream:
    """State of one stream."""

    slot: NDArray[np.int64]  # [C] the slot whose frame lies at slot % C, -1 for none
    watermark: int = -1  # every slot up to here has come or was settled
    newest: int = -1  # the last slot put or settled
    next: int = 0  # the first window that has not run
    stale: int = 0  # windows from here up to `next` must run again; == next if none
    last: int = -1  # last slot of an ended stream
    ended: bool = False


class RingState:
    """Which frames have come, which windows can run, and what they complete: all of a ring but its numbers.

    Methods and properties are as in `HostRing`.
    """

    def __init__(self, config: RingConfig) -> None:
        self.config = config
        self._reach = [config.reach(lookahead) for lookahead in config.lookaheads]
        self.group = np.zeros(config.streams, np.int32)
        self._streams = [self._opened() for _ in range(config.streams)]
        self._turn = self._group_turn = 0
        self._group_turns = [0] * config.streams

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
        """See `HostRing.end`."""
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
        """The windows that can run now, in order: those to repeat, then new ones up to the last whole hop, or up to the
        end of the padded tail.
        """
        limit = self.config.whole_hops(st.watermark)
        if st.ended and st.last >= 0:
            limit = st.last + max(self._reach)
        first = st.next
        if st.stale < st.next <= limit:  # only windows that a coming average still takes
            first = max(st.stale, st.next - self.config.max_windows + 1)
        return range(first, limit + 1)

    @property
    def pending(self) -> int:
        """How many windows can run now."""
        return sum(len(self._ready(st)) for st in self._streams)

    def _share(self, room: int) -> list[tuple[int, int]]:
        """The next batch, at most `room` (stream, window), see `HostRing.gather`."""
        ready = {s: windows for s, st in enumerate(self._streams) if (windows := self._ready(st))}
        groups: dict[int, dict[int, range]] = {}
        for s, windows in ready.items():
            groups.setdefault(int(self.group[s]), {})[s] = windows
        sizes = {g: range(sum(map(len, members.values()))) for g, members in sorted(groups.items())}
        if len(groups) <= 1 or sum(map(len, sizes.values())) <= room:
            plan, self._turn = self._deal(ready, room, self._turn)
            return plan
        units, self._group_turn = self._deal(sizes, room, self._group_turn)
        plan = []
        for g, quota in sorted(Counter(g for g, _ in units).items()):
            part, self._group_turns[g] = self._deal(groups[g], quota, self._group_turns[g])
            plan += part
        return plan

    def _deal(self, ready: dict[int, range], room: int, turn: int) -> tuple[list[tuple[int, int]], int]:
        """Up to `room` of what is ready, each with as much as the others or all it has; and whose turn is next."""
        waiting = sorted(ready.items(), key=lambda entry: (entry[0] < turn, entry[0]))
        taken: list[tuple[int, int]] = []
        while waiting and len(taken) < room:
            share = max(1, (room - len(taken)) // len(waiting))
            for who, units in waiting:
                take = units[: min(share, room - len(taken))]
                taken += [(who, unit) for unit in take]
                if take:
                    turn = (who + 1) % self.config.streams
            waiting = [(who, units[share:]) for who, units in waiting if len(units) > share]
        return taken, turn

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
        """Those flags of the output that window e completes, a full average of `count`, which need no numbers."""
        st = self._streams[s]
        flags = WARM_UP if e - count + 1 < self.config.window - 1 else 0
        return flags | FLUSHED if st.ended and e > st.last else flags

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> NDArray[np.int64]:
        """See `HostRing.watermark`."""
        return np.array([st.watermark for st in self._streams], np.int64)

    @property
    def newest(self) -> NDArray[np.int64]:
        """See `HostRing.newest`."""
        return np.array([st.newest for st in self._streams], np.int64)

    @property
    def next(self) -> NDArray[np.int64]:
        """See `HostRing.next`."""
        return np.array([st.next for st in self._streams], np.int64)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """See `HostRing.ended`."""
        return np.array([st.ended for st in self._streams], np.bool_)


@dataclass
class _Frames:
    """Frames and predictions of one stream in `NumpyRing`."""

    xyz: NDArray[np.float32]  # [C, J, 3]
    confidence: NDArray[np.float32]  # [C, J], 0 for a missing joint
    predicted: NDArray[np.float32]  # [2r+1, P, J, 3] of window e at e % (2r+1)
    usable: NDArray[np.bool_]  # [2r+1] whether that window's prediction counts


class NumpyRing(RingState):
    """The ring in numpy: see `rtskel.refine.ring.HostRing` for its methods."""

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
            predicted=np.zeros((self.config.max_windows, len(self._positions), joints, 3), np.float32),
            usable=np.zeros(self.config.max_windows, np.bool_),
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

    def average(self, y: NDArray[np.float32], /, *columns: NDArray[Any]) -> None:
        """Take the predictions y [B, P, J, 3] of the gathered windows at `RingConfig.positions` and write the `outputs`
        rows they complete.
        """
        out, row = Refined(*columns), 0
        for b, (s, e) in enumerate(self._plan):
            kept, at = self._frames[s], e % self.config.max_windows
            with np.errstate(over="ignore", invalid="ignore"):
                kept.predicted[at] = y[b] / self._scale[b] + self._origin[b]
            kept.usable[at] = self._known[b] and bool(np.isfinite(kept.predicted[at]).all())
            for lookahead in self._completed(s, e):
                self._write(s, e, lookahead, out, row)
                if not out.windows[row] and out.confidence[row].any():
                    self._pass_through(s, e - self.config.reach(lookahead), out, row)
                row += 1
            self._pass(s, e)
        self._plan = []

    def _write(self, s: int, e: int, lookahead: int, out: Refined, row: int) -> None:
        cfg, st, kept = self.config, self._streams[s], self._frames[s]
        reach, count = cfg.reach(lookahead), cfg.windows(lookahead)
        i = e - reach
        ends = np.arange(e - count + 1, e + 1)
        ends = ends[kept.usable[ends % cfg.max_windows]]
        column = np.searchsorted(self._positions, cfg.window - 1 - (ends - i))
        predictions = kept.predicted[ends % cfg.max_windows, column].astype(np.float64)  # [n, J, 3]
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

    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], /, *columns: NDArray[Any]) -> None:
        """Of these streams, windows before `window` that have not run will not: write what they complete.

        Averages take the windows that did run. Where there is none, the frame passes through as it came, its missing
        joints at the neck; where nothing came either, the last one in which somebody was seen.
        """
        out, row = Refined(*columns), 0
        for s, end in zip(stream.tolist(), window.tolist(), strict=True):
            for e in range(self._streams[s].next, end):
                self._frames[s].usable[e % self.config.max_windows] = False
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
