"""When the slots of many streams are due, judged by when frames arrive. No clock of its own, no rules of streams.

A live estimator's frames arrive a roughly constant time after the camera took them, plus some jitter; a file is
replayed as fast as it can be read; a camera that claims 30 frames a second gives 24 in the dark. So what is due
when is learned, stream by stream:

    due(slot) = due(k) + (slot - k) * period

for the last slot k that is known to be complete: it came, and so did all before it (or they were given up).
Completed early, due(k) moves there at once; completed late, by the share `FOLLOW` of its lateness: an envelope
below the arrivals that forgets within a few frames. Because a slot counts when all before it are there, the
disorder of an estimator that works on several frames at once is part of what is usual. The period is the
stream's claim, or its measured pace where that is slower by more than `PACE_TOLERANCE`.

Times are float64 in ns: exact up to 2**53 ns, 104 days, and good to a microsecond for centuries. The arithmetic is in
engines/native/arrival.h.
"""

from __future__ import annotations

from typing import Protocol

FOLLOW = 0.25
"""Share of its lateness by which a late arrival moves what is due."""

PACE_MEMORY = 8
"""Slots over which a stream's own pace is averaged."""

PACE_TOLERANCE = 1.1
"""A stream slower than its claimed fps by more than this factor is due at its own pace."""

EARLY_IF_UNSURE = 1 / 16
"""Share by which frames that came early, after a slot that was given up, move what is due."""


class ArrivalClock(Protocol):
    """The due times of the streams at places 0..places-1; times in ns."""

    def start(self, place: int, slot: int, time: float, newest: int, period: float, /) -> None:
        """A stream begins that claims a slot every `period` ns: at `time` `newest` arrived, and `slot` is due."""

    def retime(self, place: int, slot: int, period: float, /) -> None:
        """From that slot on the stream claims another period."""

    def period(self, place: int, /) -> float:
        """Time from one slot's due time to the next one's."""

    def last_arrival(self, place: int, /) -> float:
        """When the newest slot's frame arrived."""

    def due_until(self, place: int, time: float, /) -> int:
        """The last slot that is due by that time."""

    def follow(self, place: int, slot: int, time: float, early: float, /) -> None:
        """That slot was complete at `time`. If it was not due yet, the share `early` of that moves what is due."""
