"""What time decides about streams: slots are given up, leaps and contests are over, streams are stale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtskel.serve.arrival import EARLY_IF_UNSURE
from rtskel.serve.common import MAX_NUMBER, NEVER, Common, State
from rtskel.serve.reports import SECOND
from rtskel.serve.room import YOUNG
from rtskel.serve.stream import Stream

MAX_HOLE = SECOND
"""How long a slot is waited for after a frame behind it came, beside the slack, in ns: slow streams wait no longer."""


class Deadlines:
    """The deadlines of all streams; the rules are in `rtskel.serve.table`."""

    def __init__(self, common: Common) -> None:
        self._common, self._bank, self._arrays = common, common.bank, common.arrays

    def next(self) -> float:
        """When `expire` has something to do at the latest, in ns; infinity if never."""
        deadline = min((stream.returning.until for stream in self._common.suspects.values()), default=NEVER)
        return min(deadline, float(self._due().min())) if self._common.places.used else deadline

    def _due(self) -> NDArray[np.float64]:
        """[used places] when the first slot that is not there has to be given up, or something else be decided."""
        common, watermark = self._common, self._bank.watermark
        used, gap = common.places.used, common.config.max_gap
        return self._arrays.deadlines(used, watermark, common.slack, MAX_HOLE, YOUNG, gap)

    def expire(self, now: int) -> None:
        """Act on the deadlines up to `now`."""
        common = self._common
        if common.places.used:
            expired = np.flatnonzero(self._due() <= now).tolist()
            if expired:
                self.decide([common.places[place] for place in expired], now)
        for stream in list(common.suspects.values()):
            if now >= stream.returning.until:
                stream.returning.drop()
            elif stream.returning.until == NEVER:
                del common.suspects[stream.name]

    def decide(self, streams: list[Stream], now: int) -> None:
        """Of these streams, give up what is overdue, and decide what is open."""
        settled = [(stream.place, last) for stream in streams if (last := self._give_up_overdue(stream, now)) >= 0]
        if settled:
            self._settle(settled)
        for stream in streams:
            self._decide(stream, now)

    def _give_up_overdue(self, stream: Stream, now: int) -> int:
        """The last slot that was given up; -1 if none was."""
        arrays, segment, slack = self._arrays, stream.segment, self._common.slack
        last = self._overdue(stream, now)
        if stream.state is State.ENDING:
            last = segment.end_slot if now >= arrays.until[stream.place] else min(last, segment.end_slot)
        else:
            last = min(last, segment.newest + segment.filled)
        complete = int(self._bank.watermark[stream.place])
        last = max(last, arrays.overtaken(stream.place, complete, now - slack - MAX_HOLE))
        first = complete + 1
        for slot in stream.waiting_slots():  # they came: not missing, only too early for the ring
            if first < slot <= last:
                last = slot - 1
        if last < first:
            return -1
        segment.give_up(first, last)
        return last

    def _overdue(self, stream: Stream, now: int) -> int:
        """The last slot whose deadline has passed."""
        if self._common.stopping:  # nothing else will come
            return MAX_NUMBER
        return self._arrays.arrival.due_until(stream.place, now - self._common.slack)

    def _decide(self, stream: Stream, now: int) -> None:
        arrays = self._arrays
        if stream.waiting or stream.state not in (State.OPEN, State.HELD):
            if stream.state is not State.ENDING:
                arrays.until[stream.place] = NEVER  # what waits decides
            return
        silent = self._overdue(stream, now) > stream.segment.newest + self._common.config.max_gap
        stale = silent and not stream.segment.like.lossless
        decided = now >= arrays.until[stream.place]
        if decided and stream.contest:
            stream.contest.decide(now)
        elif stream.state is State.HELD and (stale or decided):
            stream.leap.confirm(None, now)
        elif stream.state is State.OPEN and stale:
            silence = (now - arrays.arrival.last_arrival(stream.place)) / SECOND
            stream.close("stale", f"no frame for {silence:.1f} s")

    def _settle(self, settled: list[tuple[int, int]]) -> None:
        """Of each place, all up to that slot counts as come."""
        arrays = self._arrays
        self._bank.settle(*np.array(settled, np.int64).T)
        watermark = self._bank.watermark
        for place, _ in settled:
            # Where frames were waiting after the hole, the last of them says when the slots up to it were complete.
            reached = int(watermark[place])
            at = reached % arrays.ring
            if arrays.slot[place, at] == reached:
                # What was given up may still be on its way, unless much has overtaken it, as in a replay at full speed.
                sure = arrays.newest[place] - reached > 2 * self._common.furthest
                early = 1.0 if sure else EARLY_IF_UNSURE
                arrays.arrival.follow(place, reached, float(arrays.received[place, at]), early)

    def give_up_hole(self, stream: Stream) -> None:
        """Much came after a slot that did not: it is not waited for until its deadline."""
        place, arrays, bank = stream.place, self._arrays, self._bank
        first = int(bank.watermark[place]) + 1
        came = arrays.slot[place][arrays.slot[place] > first]
        if len(came) and bank.next_window[place] > bank.config.whole_hops(int(bank.refinable[place])):
            last = int(came.min()) - 1
            stream.segment.give_up(first, last)
            self._settle([(place, last)])
