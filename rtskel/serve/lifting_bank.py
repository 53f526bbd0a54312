"""A bank that lifts: streams of 2D poses get a depth (`rtskel.lift`) slot by slot, in front of refinement.

A 2D stream's slots are lifted in their order, each once it is settled: it came, or it counts as missing. So order,
drops and late frames obey the rules that 3D streams obey, and what comes out is what `rtskel.lift.Lifter` and then
`rtskel.refine.Refiner` make of the same slots, bit for bit:

- Slot i is lifted once slot i + `lift_lookahead` is settled, and refined at lookahead L once slot
  i + `lift_lookahead` + L is: a pose waits for that many frames in all.
- A frame that comes after its slot was given up takes its slot unless that is lifted already: the stream then goes on
  as if the frame had been in time. Else it is late.
- At the end, what is left is lifted with what there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.lift import Lifted, Lifter
from rtskel.refine import Put, RefinerBank, WindowEngine


class LiftingBank(RefinerBank):
    """A `RefinerBank` whose streams may be 2D: see `lift`.

    Lifting runs where a slot is settled, in `put`, `settle` and `end`, and takes some milliseconds a slot.

    Args:
        engine, options: as in `RefinerBank`.
        lift_lookahead: frames of the future that lifting may use.

    Raises:
        ValueError: an argument out of range.
        RtskelError: the engine's skeleton is unknown.
    """

    lifts = True

    def __init__(self, engine: WindowEngine, *, lift_lookahead: int = 0, **options: Any) -> None:
        super().__init__(engine, **options)
        if lift_lookahead < 0:
            raise ValueError(f"lift_lookahead must be at least 0, got {lift_lookahead}")
        if self.config.ahead < lift_lookahead + self.config.hop:
            raise ValueError(
                f"ahead must be at least lift_lookahead + hop, {lift_lookahead + self.config.hop}, "
                f"got {self.config.ahead}"
            )
        self.lift_lookahead = lift_lookahead
        self._flat: dict[int, _FlatStream] = {}

    def lift(self, stream: int, fps: float) -> None:
        """That fresh stream is 2D until its `reset`, of that many frames a second: the third of its coordinates means
        nothing. May be called again to change fps.
        """
        if stream in self._flat:
            self._flat[stream].fps = fps
            return
        lifter = Lifter(
            lookahead=self.lift_lookahead,
            fps=fps,
            skeleton=self.config.skeleton,
            min_confidence=self.config.min_confidence,
        )
        self._flat[stream] = _FlatStream(lifter, self.config.capacity)

    @property
    def compiled_ring(self) -> None:
        """None: frames of 2D streams are lifted on the way."""

    @property
    def watermark(self) -> NDArray[np.int64]:
        """See `RefinerBank.watermark`."""
        return self._with_flat(self._ring.watermark, lambda flat: flat.pushed - 1)

    @property
    def newest(self) -> NDArray[np.int64]:
        """See `RefinerBank.newest`."""
        return self._with_flat(self._ring.newest, lambda flat: flat.newest)

    def put(
        self, stream: ArrayLike, slot: ArrayLike, xyz: ArrayLike, confidence: ArrayLike | None = None
    ) -> NDArray[np.uint8]:
        """See `RefinerBank.put`."""
        flat = self._are_flat(self._rows(stream))
        if not flat.any():
            return super().put(stream, slot, xyz, confidence)
        streams, slots, frames, sure = self._checked(stream, slot, xyz, confidence)
        status = np.empty(len(streams), np.uint8)
        status[~flat] = super().put(streams[~flat], slots[~flat], frames[~flat], sure[~flat])
        for row in np.flatnonzero(flat).tolist():
            status[row] = self._put(int(streams[row]), int(slots[row]), frames[row, :, :2], sure[row])
        return status

    def settle(self, stream: ArrayLike, slot: ArrayLike) -> None:
        """See `RefinerBank.settle`."""
        streams = self._rows(stream)
        slots = self._slots(slot, streams)
        flat = self._are_flat(streams)
        super().settle(streams[~flat], slots[~flat])
        for row in np.flatnonzero(flat).tolist():
            self._settle(int(streams[row]), int(slots[row]))

    def end(self, stream: ArrayLike, last: ArrayLike | None = None) -> None:
        """See `RefinerBank.end`."""
        streams = self._rows(stream)
        lasts = self.newest[streams] if last is None else np.maximum(self._slots(last, streams), self.newest[streams])
        for row in np.flatnonzero(self._are_flat(streams)).tolist():
            place = int(streams[row])
            self._settle(place, int(lasts[row]))
            flat = self._flat[place]
            self._give(place, flat.pushed - flat.lifter.due, flat.lifter.flush())
        super().end(streams, lasts)

    def reset(self, stream: ArrayLike) -> None:
        """See `RefinerBank.reset`."""
        super().reset(stream)
        for place in self._rows(stream).tolist():
            self._flat.pop(place, None)

    def _are_flat(self, streams: NDArray[np.int32]) -> NDArray[np.bool_]:
        return np.fromiter((place in self._flat for place in streams.tolist()), np.bool_, len(streams))

    def _with_flat(self, of_ring: NDArray[np.int64], of_flat: Callable[[_FlatStream], int]) -> NDArray[np.int64]:
        """[S] what the ring says of its streams; of flat ones, whose frames are in front of it, what they say."""
        if not self._flat:
            return of_ring
        slots = of_ring.copy()
        for place, flat in self._flat.items():
            slots[place] = of_flat(flat)
        return slots

    def _put(self, place: int, slot: int, xy: NDArray[np.float32], confidence: NDArray[np.float32]) -> Put:
        flat = self._flat[place]
        if flat.came(slot):
            return Put.DUPLICATE
        if slot < flat.pushed - self.lift_lookahead or self._ring.ended[place]:
            return Put.LATE
        if slot >= self._ring.next[place] + self.config.ahead:
            return Put.AHEAD
        flat.keep(slot, xy, confidence)
        if slot < flat.pushed:
            flat.again(slot)
        else:
            self._settle(place, flat.pushed - 1)
        return Put.TAKEN

    def _settle(self, place: int, slot: int) -> None:
        """All up to `slot` is settled, and what came right behind it."""
        flat = self._flat[place]
        if self._ring.ended[place]:
            return
        first = flat.pushed - flat.lifter.due
        lifted = []
        while flat.pushed <= slot or flat.came(flat.pushed):
            lifted.append(flat.push())
        if lifted:
            self._give(place, first, Lifted.concatenate(lifted))

    def _give(self, place: int, first: int, lifted: Lifted) -> None:
        """Lifted slots from `first` on, to be refined."""
        if not len(lifted):
            return
        slots = np.arange(first, first + len(lifted))
        there = lifted.confidence.any(axis=1)
        super().put(np.full(there.sum(), place), slots[there], lifted.xyz[there], lifted.confidence[there])
        super().settle(place, slots[-1])


class _FlatStream:
    """A 2D stream: its frames by slot, and what lifts them.

    Attributes:
        fps: frames a second, from the next slot on.
        lifter: as the slots before `pushed` left it.
        pushed: how many slots were given to the lifter.
        newest: the last slot that came or was given to the lifter, -1 at first.
    """

    def __init__(self, lifter: Lifter, capacity: int) -> None:
        joints = lifter.skeleton.joints
        self.fps = lifter.fps
        self.lifter = lifter
        self.pushed = 0
        self.newest = -1
        self._slot = np.full(capacity, -1, np.int64)
        self._xy = np.zeros((capacity, joints, 2), np.float32)
        self._confidence = np.zeros((capacity, joints), np.float32)
        self._before: deque[Lifter] = deque(maxlen=lifter.lookahead)  # the lifter in front of each of the last slots

    def came(self, slot: int) -> bool:
        """Whether there is a frame of that slot, as far as that is remembered."""
        return bool(self._slot[slot % len(self._slot)] == slot)

    def keep(self, slot: int, xy: NDArray[np.float32], confidence: NDArray[np.float32]) -> None:
        """A frame has come."""
        self.newest = max(slot, self.newest)
        at = slot % len(self._slot)
        self._slot[at], self._xy[at], self._confidence[at] = slot, xy, confidence

    def push(self) -> Lifted:
        """Give the lifter the next slot."""
        at = self.pushed % len(self._slot)
        self._before.append(copy(self.lifter))  # its state is arrays that never change: this is all of it
        self.lifter.fps = self.fps
        sure = self._confidence[at] if self.came(self.pushed) else np.zeros_like(self._confidence[at])
        self.newest = max(self.pushed, self.newest)
        self.pushed += 1
        return self.lifter.push(self._xy[at], sure)

    def again(self, slot: int) -> None:
        """The frame of a slot that was missing has come: as if it had been there. What is lifted stays as it is."""
        until = self.pushed
        while self.pushed > slot:
            self.lifter = self._before.pop()
            self.pushed -= 1
        while self.pushed < until:
            self.push()
