"""Frame rates and frame numbers, measured from the times at which frames were taken.

In: times in ns, the frame numbers and the rate that a file, video or camera states. Out: a `Clock` whose rate agrees
with its times. What must hold: times win over a stated rate, frames keep their own times, and every correction is
stated in one line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_FPS, MOST_FPS = 0.001, 1000.0
"""Rates outside of these are not frame rates."""

TOLERANCE = 0.01
"""A stated rate holds as long as the measured one differs by less than this share."""

MOST_SLOTS = 100
"""Frame numbers per frame: beyond that, and `FREE_SLOTS`, numbers are dates or counters of something else."""

FREE_SLOTS = 10_000

_UNITS = {1e3: "microseconds", 1e6: "milliseconds", 1e9: "seconds"}
_USUAL_FPS = 5.0, 500.0


@dataclass(frozen=True, eq=False)
class Clock:
    """A recording's frame clock.

    Attributes:
        fps: slots per second; None: neither stated nor measurable.
        slot: int64 [N], strictly ascending; None: 0, 1, ..., N - 1.
        time_ns: int64 [N]; None: there are no times that can be used.
        note: what was corrected, in one line; empty: nothing.
    """

    fps: float | None
    slot: NDArray[np.int64] | None
    time_ns: NDArray[np.int64] | None
    note: str = ""


def too_far_apart(first: int, last: int, frames: int) -> bool:
    """Whether the numbers from `first` to `last` cannot be the frame numbers of so few frames."""
    return last - first > MOST_SLOTS * frames + FREE_SLOTS


class Placer:
    """Frame numbers of frames by the times at which they were taken, one after another: a pause becomes a hole.

    It follows the phase of the frames with `FOLLOW` of each deviation, and every frame advances by at least one number,
    so that jitter and a rate that is nearly right neither drop nor invent frames.
    """

    FOLLOW = 0.3

    def __init__(self, period: float) -> None:
        """
        Args:
            period: seconds from frame to frame.
        """
        self.period = period
        self._number = -1
        self._due = 0.0

    def place(self, seconds: float) -> int:
        """The number of the next frame, taken at that time; the first is 0."""
        if self._number < 0:
            steps, self._due = 1, seconds
        else:
            steps = max(round(min((seconds - self._due) / self.period, 2.0**40)), 1)
            self._due += steps * self.period
            self._due += self.FOLLOW * (seconds - self._due)
        self._number += steps
        return self._number


def frame_numbers(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Frame numbers [N] from 0 by times [N] that do not descend, see `Placer`; the times tell the period.

    Where many times are alike, they do not tell where a frame is absent: frames are numbered as they come.
    """
    steps = np.diff(seconds)
    positive = steps[steps > 0]
    if positive.size < 0.75 * len(steps) or not positive.size:  # bursts, or a clock too coarse to place frames by
        return np.arange(len(seconds), dtype=np.int64)
    period = float(np.mean(positive[positive < 1.5 * np.median(positive)]))
    for _ in range(2):  # the second time with the period that the first one tells
        placer = Placer(period)
        numbers = np.array([placer.place(time) for time in seconds.tolist()], np.int64)
        period = float(seconds[-1] - seconds[0]) / float(numbers[-1])
    return numbers


def in_ns(times: NDArray[np.float64], unit: float = 0.0) -> NDArray[np.int64] | None:
    """Times in ns.

    Args:
        times: [N] of a clock.
        unit: ns in theirs; 0: unknown, so the one in which frames are 2 to 1000 ms apart.

    Returns:
        None if they are in no such unit, not finite, or too far away.
    """
    steps = np.diff(times)
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if not unit:
        unit = next((each for each in (1e9, 1e6, 1e3, 1.0) if 0.002 <= step * each / 1e9 <= 1.0), 0.0)
    if not unit or not np.isfinite(times).all() or np.abs(times).max() * unit >= 2.0**62:
        return None
    whole: NDArray[np.int64] = round(float(times[0]) * unit) + np.rint((times - times[0]) * unit).astype(np.int64)
    return whole


def measured(seconds: NDArray[np.float64], slot: NDArray[np.int64]) -> float | None:
    """Slots per second from the first to the last frame; None where times do not ascend."""
    span = float(seconds[-1] - seconds[0]) if len(seconds) > 1 else 0.0
    return float(f"{float(slot[-1] - slot[0]) / span:.9g}") if span > 0 else None


def agree(a: float, b: float) -> bool:
    """Whether two rates are the same, to `TOLERANCE`."""
    return abs(a - b) <= TOLERANCE * min(a, b)


def reconcile(fps: float | None, slot: NDArray[np.int64] | None, time_ns: NDArray[np.int64] | None) -> Clock:
    """The clock of a recording whose stated rate, frame numbers and times may contradict each other.

    Args:
        fps: stated rate; None or not in `LEAST_FPS` to `MOST_FPS`: unknown.
        slot: int64 [N] stated frame numbers, strictly ascending; None: the file has none.
        time_ns: int64 [N]; -1: unknown.
    """
    if time_ns is None:
        return Clock(fps, slot, None)
    known = time_ns != -1
    if known.sum() < 2:
        return Clock(fps, slot, time_ns)
    slots = np.arange(len(time_ns), dtype=np.int64) if slot is None else slot
    at = slots[known]
    first = int(time_ns[known][0])
    seconds = (time_ns[known].astype(np.float64) - first) / 1e9
    back = np.flatnonzero(np.diff(seconds) < 0)
    if len(back) > len(seconds) // 10 or seconds[-1] == seconds[0]:
        where = f" (frame {int(np.flatnonzero(known)[back[0]]) + 1} lies before the one before it)" if back.size else ""
        return Clock(fps, slot, None, f"its times do not ascend{where}: left out")
    if back.size:
        return _with_steps_back(fps, slot, time_ns, at, seconds, int(np.flatnonzero(known)[back[0]]) + 1)
    rate = measured(seconds, at)
    assert rate is not None
    unit = _unit(fps, rate)
    note = ""
    if unit != 1:
        if np.abs(time_ns[known].astype(np.float64)).max() * unit >= 2.0**63:
            return Clock(fps, slot, None, f"its times mean {rate:.6g} frames per second: left out")
        time_ns = np.where(known, time_ns * np.int64(unit), -1)
        seconds, rate, note = seconds * unit, rate / unit, f"its times are in {_UNITS[unit]}, not nanoseconds"
    if not LEAST_FPS <= rate <= MOST_FPS * (1 + TOLERANCE):
        return Clock(fps, slot, None, f"its times mean {rate:.6g} frames per second: left out")
    if fps is not None and agree(rate, fps):
        return Clock(fps, slot, time_ns, note)
    clock = _by_times(fps, slots, slot is None, time_ns, known, seconds)
    return Clock(clock.fps, clock.slot, time_ns, "; ".join(filter(None, (note, clock.note))))


def _by_times(
    fps: float | None,
    slots: NDArray[np.int64],
    implicit: bool,
    time_ns: NDArray[np.int64],
    known: NDArray[np.bool_],
    seconds: NDArray[np.float64],
) -> Clock:
    """The rate by ascending times, and frame numbers by them where the stated ones do not follow the times."""
    at = slots[known]
    placed = frame_numbers(seconds) + at[0]
    if (
        not known.all()
        or not LEAST_FPS <= (measured(seconds, placed) or 0) <= MOST_FPS * (1 + TOLERANCE)
        or _apart(at, seconds) <= 1.5 * _apart(placed, seconds)
        or too_far_apart(int(placed[0]), int(placed[-1]), len(placed))
    ):
        placed = at
    holes = int(placed[-1] - placed[0]) - int(at[-1] - at[0])
    rate = measured(seconds, placed)
    assert rate is not None
    rate = min(rate, MOST_FPS)
    said = []
    if fps is not None and agree(rate, fps):
        rate = fps
    elif fps is not None:
        said.append(f"{fps:g} frames per second are stated, its times say {rate:.6g}: the times hold")
    if holes:
        said.append(f"its times have pauses: {holes} frames were dropped" if holes > 0 else "frames numbered by time")
    moved = not np.array_equal(placed, at)
    return Clock(rate, placed if moved else None if implicit else slots, time_ns, "; ".join(said))


def _apart(slot: NDArray[np.int64], seconds: NDArray[np.float64]) -> float:
    """Root mean square distance in seconds of times from the line through the first and last frame."""
    line = seconds[0] + (slot - slot[0]) * ((seconds[-1] - seconds[0]) / float(slot[-1] - slot[0]))
    return float(np.sqrt(np.mean((seconds - line) ** 2))) + 1e-9


def _with_steps_back(
    fps: float | None,
    slot: NDArray[np.int64] | None,
    time_ns: NDArray[np.int64],
    at: NDArray[np.int64],
    seconds: NDArray[np.float64],
    frame: int,
) -> Clock:
    """A clock that was set back now and then: the median interval tells the rate."""
    steps = np.diff(seconds)
    rate = 1.0 / float(np.median((steps / np.diff(at))[steps > 0]))
    note = f"its times go back at frame {frame}"
    if not LEAST_FPS <= rate <= MOST_FPS * (1 + TOLERANCE):
        return Clock(fps, slot, None, f"{note}: left out")
    if fps is not None and not agree(rate, fps):
        note += f"; {fps:g} frames per second are stated, its times say {rate:.6g}: the times hold"
    return Clock(fps if fps is not None and agree(rate, fps) else min(rate, MOST_FPS), slot, time_ns, note)


def _unit(fps: float | None, rate: float) -> float:
    """Nanoseconds in the unit of times that mean `rate` frames per second if they are nanoseconds."""
    for unit in _UNITS:
        if fps is not None and abs(rate / unit / fps - 1) < 0.2 and not abs(rate / fps - 1) < 0.2:
            return unit
    if rate > MOST_FPS * (1 + TOLERANCE):
        for unit in _UNITS:
            if _USUAL_FPS[0] <= rate / unit <= _USUAL_FPS[1]:
                return unit
    return 1
