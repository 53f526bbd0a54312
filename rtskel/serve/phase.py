"""Which slot a frame without a number is for, judged by its capture time. No clock of its own.

A camera that says 30 frames a second gives 29.97, its times jitter by some milliseconds or are rounded, or it claims a
rate that is plainly wrong. So slots are not counted from the first frame on: they follow the phase of the frames.

- In order of time every frame gets a slot of its own: the nearest one to its time, but at least the next.
- The phase moves by the share `FOLLOW` of each frame's error, the period by `LEARN` of it. Where times are coarser than
  the frames (whole seconds, tenths), so that several have the same, only the first of these says something.
- Where the times between frames contradict the period for a second, the period becomes their median: where most are
  shorter, or three in four are longer (when frames are lost, some are longer, but not all). Of coarse times the mean
  is taken, over several of their steps.
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
"""Times between frames that differ from the period by more than this factor contradict it."""

COARSE_TOLERANCE = 1.5
"""So much longer it has to be where times are coarse, for their mean is also longer if frames are lost."""

STEPS = 5
"""Steps of coarse times that are waited for."""

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
        again = msg.time_ns == self._newest.time_ns
        self._slot, self._newest = slot, msg
        self._time += slots * self.period
        if again:
            return
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
        between = np.array(self._between, float)
        coarse = not between.all()
        if coarse and self._span < STEPS * between.max():
            return 0.0
        self._between, self._span = [], 0
        typical = float(between.mean() if coarse else np.median(between))
        least, tolerance = (typical, COARSE_TOLERANCE) if coarse else (float(np.quantile(between, 0.25)), TOLERANCE)
        contradicts = typical * TOLERANCE < self._base or least > tolerance * self._base
        return typical if contradicts and SECOND / MAX_FPS <= typical <= SECOND / MIN_FPS else 0.0

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
