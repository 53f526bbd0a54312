"""What the compiled part keeps of streams, in numpy: method for method what is in stream_arrays.h and arrival.h."""

from __future__ import annotations

import math

import numpy as np

from rtskel.refine import Put
from rtskel.serve.arrival import FOLLOW, PACE_MEMORY, PACE_TOLERANCE
from rtskel.skeleton import turned_in, turned_out


class NumpyStreamArrays:
    """See `rtskel.serve.arrays.StreamArrays`; the arrays are of numpy."""

    def __init__(self, places: int, ring: int, looks: int) -> None:
        self.looks, self.lines = looks, {}
        self.clock = NumpyArrivalClock(places)
        self.live, self.timed, self.lossless = np.zeros((3, places), np.bool_)
        self.until = np.full(places, math.inf)
        self.first, self.heard, self.origin, self.base = np.zeros((4, places), np.int64)
        self.newest, self.faulty = np.full((2, places), -1, np.int64)
        self.flags = np.zeros(places, np.uint32)
        self.axes = np.tile(np.array((1, 2, 3), np.int8), (places, 1))
        self.ring = ring
        self.slot = np.full((places, ring), -1, np.int64)
        self.received, self.captured = np.zeros((2, places, ring), np.int64)

    def came(self, place, slot, read, captured, before, status, watermark):
        taken = status == Put.TAKEN
        at = slot[taken] % self.ring
        self.slot[place[taken], at] = slot[taken]
        self.received[place[taken], at] = read[taken]
        self.captured[place[taken], at] = captured[taken]
        # One sample a stream: of several rows, the last.
        _, last = np.unique(place[::-1], return_index=True)
        last = len(place) - 1 - last
        who = place[last]
        time = read[last].astype(np.float64)
        reached = watermark[who]
        self.clock.arrived(who, self.newest[who], time, reached)
        moved = reached > before[last]
        self.clock.follow(who[moved], reached[moved], time[moved])
        # Where nothing new is complete, what was late says how late the stream's frames can be.
        late = (slot <= before) & (status != Put.DUPLICATE) & ~np.isin(place, who[moved])
        self.clock.follow(place[late], slot[late], read[late])

    def pause(self, ns):
        self.clock._time += ns
        self.clock._newest_time += ns
        self.until += ns
        self.heard += int(ns)

    def _overtaking(self, place, complete):
        slots = np.arange(complete + 1, min(self.newest[place], complete + self.ring) + 1)
        came = slots[self.slot[place, slots % self.ring] == slots]
        return (int(came[0]), self.received[place, came[0] % self.ring]) if len(came) else (complete, math.inf)

    def overtaken(self, place, complete, time):
        slot, came = self._overtaking(place, complete)
        return slot - 1 if came <= time else complete

    def deadlines(self, used, watermark, slack, hole, young, gap, out):
        complete, newest = watermark[:used], self.newest[:used]
        holes = newest > complete
        slots, given_up = newest - self.first[:used] + 1, complete - newest
        earned = np.where(slots < young, 0, np.minimum(slots, gap))
        patience = np.where(~holes & (given_up >= earned), gap - given_up, 0)
        due = self.clock.due(slice(used), complete + 1 + patience)
        due = np.where(self.lossless[:used] & ~holes, math.inf, due)
        given_up = [self._overtaking(p, int(complete[p]))[1] + hole if holes[p] else math.inf for p in range(used)]
        due = np.minimum(due, given_up) + slack
        out[:] = np.where(self.live[:used], np.minimum(due, self.until[:used]), math.inf)

    def turn_in(self, place, xyz):
        for row, signed in enumerate(self.axes[place].tolist()):
            xyz[row] = turned_in(xyz[row], signed)

    def turn_out(self, place, xyz):
        for row, signed in enumerate(self.axes[place].tolist()):
            xyz[row] = turned_out(xyz[row], signed)

    def behind(self, used, following, watermark, limit, out):
        waits = (watermark[:used] > following[:used]) & self.live[:used] & ~self.lossless[:used]
        found = [p for p in np.flatnonzero(waits) if self._waits_since(p, following[p], watermark[p]) < limit]
        out[: len(found)] = found
        return len(found)

    def waiting(self, used, following, last):
        came = np.minimum(last[:used], self.newest[:used])
        return int(np.maximum(came + 1 - following[:used], 0).sum())

    def _waits_since(self, place, first, last):
        slots = np.arange(first, last + 1)
        came = slots[self.slot[place, slots % self.ring] == slots]
        return self.received[place, came[0] % self.ring] if len(came) else self.heard[place]

    def emit(self, place, slot, lookahead, xyz, sigma, confidence, windows, flags, lookaheads, gap, held, unseen, out):
        self.turn_out(place, xyz)
        self._keep = [True] * len(place)
        for row, (p, look, s) in enumerate(zip(place.tolist(), lookahead.tolist(), slot.tolist(), strict=True)):
            line, at = self.lines[p, lookaheads.index(look)], s % self.ring
            if windows[row] > 0 or confidence[row].any():
                line["last"] = s, xyz[row].copy(), sigma[row].copy()
            elif line["last"] is not None and s - line["last"][0] <= gap:
                known, pose, spread = line["last"]
                about = pose.astype(np.float64) - pose[0]
                size = np.sqrt(np.square(about - about.mean(axis=0)).sum() / len(pose))
                xyz[row], sigma[row] = pose, spread + 0.01 * (s - known) * size
                flags[row] |= np.uint32(held)
            elif unseen:
                xyz[row], sigma[row] = 0, 0
                flags[row] |= np.uint32(unseen)
            else:
                out[row, 0] = self.base[p] + s - line["dropped"]
                line["dropped"] += 1
                self._keep[row] = False
                continue
            number = -1 if self.timed[p] else self.origin[p] + s
            fresh, line["fresh"] = int(self.flags[p]) if line["fresh"] else 0, False
            times = self.captured[p, at], self.received[p, at]
            out[row] = self.base[p] + s - line["dropped"], number, *times, windows[row], int(flags[row]) | fresh
        return self._keep.count(False)

    def kept(self):
        return self._keep

    def begin(self, place, dropped):
        for k, count in enumerate(dropped):
            self.lines[place, k] = {"last": None, "dropped": count, "fresh": True}

    def dropped(self, place):
        return [self.lines[place, k]["dropped"] for k in range(self.looks)]


class NumpyArrivalClock:
    """See `rtskel.serve.arrival.ArrivalClock`."""

    def __init__(self, places: int) -> None:
        self._slot = np.zeros(places)  # this slot is due ...
        self._time = np.zeros(places)  # ... at this time
        self._period = np.ones(places)  # ns from one slot's due time to the next one's
        self._claimed = np.ones(places)  # ns a slot by the stream's fps
        self._pace = np.ones(places)  # ns a slot as measured
        self._measured = np.zeros(places)  # how often
        self._newest = np.zeros(places, np.int64)
        self._newest_time = np.zeros(places)  # when the newest slot's frame arrived

    def start(self, place: int, slot: int, time: float, newest: int, period: float) -> None:
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

    def due(self, place, slot):
        """[M] when these slots [M] of the streams at these places [M] are due."""
        due = self._time[place] + (slot - self._slot[place]) * self._period[place]
        return due

    def due_until(self, place: int, time: float) -> int:
        """The last slot that is due by that time."""
        slots = (time - float(self._time[place])) / float(self._period[place])
        # A little more: at its own due time, rounding must not make a slot a little too early.
        return math.floor(slots + 1e-4) + int(self._slot[place])

    def arrived(self, place, newest, time, complete) -> None:
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

    def _turn(self, place, slot) -> None:
        self._time[place] = self.due(place, slot)
        self._slot[place] = slot

    def follow(self, place, slot, time, early: float = 1.0) -> None:
        """Slots [M] were complete at `time` [M]. Of several for one place, the last one counts.

        `early` is the share by which those that were complete before they were due move it.
        """
        due = self.due(place, slot)
        error = time - due
        self._time[place] = due + np.where(error > 0, FOLLOW, early) * error
        self._slot[place] = slot
