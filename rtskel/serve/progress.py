"""What becomes possible when the engine has run, or frames have come: ends, free places, messages that waited."""

from __future__ import annotations

from collections.abc import Callable

from rtskel.serve.common import Common, State
from rtskel.serve.deadlines import Deadlines
from rtskel.serve.stream import Stream

MAX_EARLY = 256
"""Frames of a stream that may wait behind a hole."""


class Progress:
    """Takes streams further, where they wait for the engine or for each other.

    Args:
        common: the streams.
        deadlines: of theirs.
        forget: forgets a stream: why, and when.
        stop: ends a stream of which nothing waits any more, once nothing else will come.

    Attributes:
        overloaded: windows were left out, and the engine has not been done with all since.
    """

    def __init__(
        self,
        common: Common,
        deadlines: Deadlines,
        forget: Callable[[Stream, str, int], None],
        stop: Callable[[Stream, int], None],
    ) -> None:
        self._common, self._bank, self._deadlines = common, common.bank, deadlines
        self._forget, self._stop = forget, stop
        self.overloaded = False

    def make(self, now: int | None) -> None:
        """Finish what has become possible: ends all of whose frames are there, drained segments, waiting messages."""
        while True:
            self._close_ended()
            drained = self._finish_drained(now)
            if not self._resume() and not drained:
                return

    def _close_ended(self) -> None:
        common = self._common
        if not common.ending:
            return
        watermark = self._bank.watermark
        for stream in common.ending:
            complete = stream.state is State.ENDING and watermark[stream.place] >= stream.segment.end_slot
            if complete and not self._may_leave_out(stream):
                stream.close("end", "end", stream.segment.end_slot)
        common.ending = [stream for stream in common.ending if stream.state is State.ENDING]

    def _may_leave_out(self, stream: Stream) -> bool:
        """Whether older windows of the stream wait, which overload may leave out as long as it is not closed."""
        bank = self._bank
        if not self.overloaded or self._common.stopping or stream.segment.like.lossless:
            return False
        last = bank.config.whole_hops(int(bank.refinable[stream.place]))
        return last - int(bank.next_window[stream.place]) >= bank.config.hop

    def _finish_drained(self, now: int | None) -> bool:
        """Whether there were any."""
        common = self._common
        if not common.draining:
            return False
        following = self._bank.next_window
        drained = [s for s in common.draining if following[s.place] > s.segment.last + common.furthest]
        for stream in drained:
            common.draining.remove(stream)
            at = stream.segment.heard if now is None else now
            stream.finish(at)
            if stream.evict and not stream.waiting:
                self._forget(stream, stream.why_closed, at)
        return bool(drained)

    def _resume(self) -> bool:
        """Take waiting messages as far as possible; whether there was any."""
        common = self._common
        if not common.blocked:
            return False
        taken = False
        room = self._bank.next_window + self._bank.config.ahead  # a step moves it, nothing here does
        for stream in list(common.blocked.values()):
            if common.stopping and stream.place >= 0 and common.arrays.live[stream.place]:
                self._deadlines.decide([stream], stream.segment.heard)
            while stream.waiting and stream.state is not State.DRAINING:
                slot = next(stream.waiting_slots(), -1)
                if stream.place >= 0 and room[stream.place] <= slot <= stream.segment.newest + common.jump:
                    taken |= self._take_in_reach(stream, int(room[stream.place]))
                    if len(stream.waiting) > MAX_EARLY:
                        self._deadlines.give_up_hole(stream)
                    break  # the first one is still too far ahead of the engine
                first = stream.waiting[0]
                if not stream.take(*first):
                    if stream.waiting[0] is first:
                        break
                    continue  # others wait before it now
                stream.waiting.popleft()
                common.backlog -= 1
                taken = True
            if not stream.waiting:
                del common.blocked[stream.name]
                if common.stopping:
                    self._stop(stream, stream.segment.heard)
        common.intake.put()
        return taken

    def _take_in_reach(self, stream: Stream, room: int) -> bool:
        """Take waiting frames below slot `room`, though others wait before them: the engine may be waiting for one."""
        refinable = self._bank.config.whole_hops(int(self._bank.refinable[stream.place]))
        if self._bank.next_window[stream.place] <= refinable:
            return False  # it has other work, and order is kept
        within = [slot < room for slot in stream.waiting_slots()]
        count = len(stream.waiting)
        for message, reaches in zip(list(stream.waiting), within, strict=False):
            if reaches and stream.take(*message, at_once=True):
                stream.waiting.remove(message)
        self._common.backlog -= count - len(stream.waiting)
        return len(stream.waiting) < count

    def give_up_holes(self) -> None:
        """Whatever waits behind a slot that did not come, waits no longer."""
        for stream in list(self._common.blocked.values()):
            if stream.place >= 0:
                self._deadlines.give_up_hole(stream)
        self.make(None)
