"""Which slot a frame without a number is for, judged by its capture time. No clock of its own.

A camera that says 30 frames a second gives 29.97, its times jitter by some milliseconds or are rounded, or it claims a
rate that is plainly wrong. So slots are not counted from the first frame on: they follow the phase of the frames.

- In order of time every frame gets a slot of its own: the nearest one to its time, but at least the next.
- The phase moves by the share `FOLLOW` of each frame's error, the period by `LEARN` of it.
- Where the median of the times between frames contradicts the period for a second, the period becomes that median.
"""

from __future__ import annotations

import numpy as np

from rtskel.wire import RawPose

SECOND = 1_000_000_000

FOLLOW = 0.1
"""Share of a frame's error by which the phase moves."""

LEARN = 0.005
"""Share of a frame's error, per slot, by which the period moves."""

DRIFT = 1.08
"""Factor by which the period may move away from what was claimed or corrected."""

TOLERANCE = 1.12
"""A median that differs from the period by more than this factor contradicts it."""

MIN_FPS, MAX_FPS = 0.1, 1000.0
"""Rates that a camera may turn out to have."""


class Phase:
    """The slots of one stream.

    Args:
        first: the frame of slot `slot`.

    Attributes:
        period: ns a slot.
    """

    def __init__(self, first: RawPose, slot: int) -> None:
        self.period = self._base = SECOND / first.fps
        self._slot, self._time = slot, float(first.time_ns)
        self._newest = first
        self._between: list[int] = []  # ns between frames, of about a second, and their sum
        self._span = 0

    def slot(self, msg: RawPose) -> int:
        """The slot of a frame."""
        slots = round((msg.time_ns - self._time) / self.period)
        if msg.time_ns > self._newest.time_ns or (
            msg.time_ns == self._newest.time_ns and not np.array_equal(msg.xyz, self._newest.xyz, equal_nan=True)
        ):
            slots = max(slots, 1)
        return self._slot + slots

    def follow(self, msg: RawPose, slot: int) -> None:
        """That frame was taken for a slot; the newest one sets the phase."""
        slots = slot - self._slot
        if slots <= 0:
            return
        self._between.append(msg.time_ns - self._newest.time_ns)
        self._span += self._between[-1]
        self._slot, self._newest = slot, msg
        self._time += slots * self.period
        error = msg.time_ns - self._time
        if abs(error) > 2 * slots * self.period:  # times and rate have nothing to do with each other
            self._time += error
            return
        self._time += FOLLOW * error
        learned = self.period + LEARN * error / slots
        self.period = min(max(learned, self._base / DRIFT), self._base * DRIFT)

    def contradicted(self) -> float:
        """The period that the frames of the last second have, if that is another one; else 0."""
        if self._span < SECOND or len(self._between) < (3 if self._span >= 3 * SECOND else 8):
            return 0.0
        median = float(sorted(self._between)[len(self._between) // 2])
        self._between, self._span = [], 0
        if not SECOND / MAX_FPS <= median <= SECOND / MIN_FPS:
            return 0.0
        return median if max(median, self._base) > TOLERANCE * min(median, self._base) else 0.0

    def agrees(self, held: RawPose, msg: RawPose) -> float:
        """The period by the last taken frame, one that leapt and the next, if these are evenly spaced; else 0."""
        first, second = held.time_ns - self._newest.time_ns, msg.time_ns - held.time_ns
        even = 0 < second <= 1.5 * first and first <= 1.5 * second
        period = (first + second) / 2
        return period if even and SECOND / MAX_FPS <= period <= SECOND / MIN_FPS else 0.0

    def correct(self, period: float, complete: int) -> None:
        """From the newest frame on the period is another one, and the next slot is after the last `complete` one."""
        self.period = self._base = period
        self._slot = max(self._slot, complete)
        self._time = float(self._newest.time_ns)
        self._between, self._span = [], 0
