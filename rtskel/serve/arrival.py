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

Times are float64 in ns: exact up to 2**53 ns, 104 days, and good to a microsecond for centuries.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FOLLOW = 0.25
"""Share of its lateness by which a late arrival moves what is due."""

PACE_MEMORY = 8
"""Slots over which a stream's own pace is averaged."""

PACE_TOLERANCE = 1.1
"""A stream slower than its claimed fps by more than this factor is due at its own pace."""

Places: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
Slots: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[np.float64]


class ArrivalClock:
    """The due times of the streams at places 0..places-1."""

    def __init__(self, places: int) -> None:
        self._slot = np.zeros(places)  # this slot is due ...
        self._time = np.zeros(places)  # ... at this time
        self._period = np.ones(places)  # ns from one slot's due time to the next one's
        self._claimed = np.ones(places)  # ns a slot by the stream's fps
        self._pace = np.ones(places)  # ns a slot as measured
        self._measured = np.zeros(places)  # how often
        self._newest = np.zeros(places, np.int64)
        self._newest_time = np.zeros(places)  # when the newest slot's frame arrived

    def start(self, place: int, slot: int, time: float, *, newest: int, period: float) -> None:
        """A stream begins that claims a slot every `period` ns: at `time` `newest` arrived, and `slot` is due."""
        self._slot[place], self._time[place] = slot, time
        self._newest[place], self._newest_time[place] = newest, time
        self._claim(place, period)

    def retime(self, place: int, slot: int, period: float) -> None:
        """From that slot on the stream claims another period."""
        self._turn(np.array([place]), np.array([slot]))
        self._claim(place, period)

    def _claim(self, place: int, period: float) -> None:
        self._claimed[place] = self._pace[place] = self._period[place] = period
        self._measured[place] = 0

    def period(self, place: int) -> float:
        """Time in ns from one slot's due time to the next one's."""
        return float(self._period[place])

    def last_arrival(self, place: int) -> float:
        """When the newest slot's frame arrived."""
        return float(self._newest_time[place])

    def due(self, place: Places | slice, slot: Slots) -> Times:
        """[M] when these slots [M] of the streams at these places [M] are due."""
        due: Times = self._time[place] + (slot - self._slot[place]) * self._period[place]
        return due

    def due_until(self, place: int, time: float) -> int:
        """The last slot that is due by that time."""
        slots = (time - float(self._time[place])) / float(self._period[place])
        # A little more: at its own due time, rounding must not make a slot a little too early.
        return math.floor(slots + 1e-4) + int(self._slot[place])

    def arrived(self, place: Places, newest: Slots, time: Times, complete: Slots) -> None:
        """Frames up to slot `newest` [M] have arrived at `time` [M] (places [M], each once): measure the pace.

        `complete` [M] is the slot whose due time stays where it is when the period changes.
        """
        slots = newest - self._newest[place]
        newer = slots > 0
        if not newer.all():
            if not newer.any():
                return
            place, newest, time, complete = place[newer], newest[newer], time[newer], complete[newer]
            slots = slots[newer]
        pace = self._pace[place]
        # One long pause is no pace: what a sample can say is bounded.
        sample = np.minimum((time - self._newest_time[place]) / slots, 2 * pace)
        pace += np.maximum(np.minimum(slots / PACE_MEMORY, 1), 1 / (2 + self._measured[place])) * (sample - pace)
        self._pace[place] = pace
        self._measured[place] += 1
        self._newest[place] = newest
        self._newest_time[place] = time
        claimed = self._claimed[place]
        period = np.where(pace > PACE_TOLERANCE * claimed, pace, claimed)
        if (changed := period != self._period[place]).any():
            self._turn(place[changed], complete[changed])
            self._period[place] = period

    def _turn(self, place: Places, slot: Slots) -> None:
        self._time[place] = self.due(place, slot)
        self._slot[place] = slot

    def follow(self, place: Places, slot: Slots, time: Times | Slots, early: float = 1.0) -> None:
        """Slots [M] were complete at `time` [M]. Of several for one place, the last one counts.

        `early` is the share by which those that were complete before they were due move it.
        """
        if len(place):
            due = self.due(place, slot)
            error = time - due
            self._time[place] = due + np.where(error > 0, FOLLOW, early) * error
            self._slot[place] = slot
