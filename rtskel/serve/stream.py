"""One stream: the state machine that its messages and deadlines drive. No sockets, no clock of its own.

A *segment* is what lies between two fresh starts: slots 0, 1, ... at one place of the bank. A stream is one segment
after the other:

                    frame                      end N
    (new) CLOSED ------------> OPEN --------------------------> ENDING
             ^                 |  ^                               |
             |       a number  |  | the next frame goes on        | slots up to N are complete,
             |       leaps     v  | where the stream was          | or the slack is over
             |                 HELD                               |
             |                 |  the leap is confirmed by the    |
             |                 |  next frame, an end, or time     |
             |                 v                                  |
             |   another epoch or view, stale, idle, shutdown     |
             |   (from OPEN and HELD)                             |
             |                 v                                  |
             +------------- DRAINING <----------------------------+
            its tail is out

What each message and each clock does:

              frame                                     end                       time
    CLOSED    opens a segment; late if it is old        said twice, or `end`      idle: forgotten
    OPEN      accepted; leaps: HELD; goes back for      ENDING                    gives up slots; stale, idle: DRAINING
              sure, another view, or an epoch that
              outlasts the present one: DRAINING
    HELD      goes on: the leap is dropped, OPEN;       confirms or drops the     the leap is believed: DRAINING
              follows the leap: DRAINING                leap, then as OPEN
    ENDING    accepted up to N; else it waits           said twice                gives up what is missing: DRAINING
    DRAINING  waits                                     waits                     nothing

Messages that wait are taken in their order once the segment is drained, or the engine has caught up (the ring, a jitter
buffer of `ahead` slots, takes no frame that is further ahead). What a user can rely on is in `rtskel.serve.table`.

Here is what each message does. Where one is not enough to decide, it is kept: in `rtskel.serve.doubt` if its number or
time leaps or goes back, in `rtskel.serve.contest` if it is of another epoch. `rtskel.serve.segment` is one segment,
`rtskel.serve.deadlines` what time does, `rtskel.serve.progress` what becomes possible when the engine has run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from rtskel.serve.common import Common, Message, State
from rtskel.serve.contest import Contest
from rtskel.serve.doubt import Leap, Return
from rtskel.serve.reports import UNKNOWN
from rtskel.serve.segment import Segment, kind, show_view, view
from rtskel.wire import Flag, RawPose, StreamEnd

_NO_FLAGS = Flag(0)


class Stream:
    """One stream. It begins with `start`.

    Attributes:
        name: its id.
        publisher: the connection that it counts for, see `rtskel.serve.room`.
        state: see above.
        segment: the present one; while CLOSED the last one.
        base: number in the output of the segment's slot 0.
        leap, returning, contest: frames of which it is not decided what they are.
        waiting: messages that cannot be taken yet, in order, each with when it was read.
        evict: forget the stream once it is drained.
        ended: closed by an end.
    """

    __slots__ = (
        *("_closing", "_common", "_dropped", "_restarting", "base", "contest", "ended", "evict", "leap", "name"),
        *("publisher", "returning", "segment", "state", "waiting"),
    )

    def __init__(self, name: str, common: Common, publisher: int = UNKNOWN) -> None:
        self.name, self.publisher = name, publisher
        self.state = State.CLOSED
        self.segment: Segment
        self.base = 0
        self.leap, self.returning, self.contest = Leap(self, common), Return(self, common), Contest(self, common)
        self.waiting: deque[tuple[Message, int]] = deque()
        self.evict = self.ended = False
        self._common = common
        self._dropped = [0] * len(common.bank.lookaheads)  # slots without a pose before this segment, by lookahead
        self._restarting: tuple[str, str, Flag] | None = None  # event kind, detail and flags of a fresh start under way
        self._closing = ("", "")  # event kind and detail for when the segment is drained

    @property
    def place(self) -> int:
        """In the bank and the arrays; -1 while CLOSED."""
        return -1 if self.state is State.CLOSED else self.segment.place

    # --- messages -----------------------------------------------------------------------------------------------------

    def take(self, msg: Message, now: int, *, at_once: bool = False) -> bool:
        """Act on one message; False if it has to wait until the segment is drained or the engine catches up. `at_once`:
        it does not wait for others that do.
        """
        if isinstance(msg, StreamEnd):
            return self._take_end(msg, now)
        common, segment = self._common, self.segment
        if not common.acceptable(msg, now):
            return True
        if self.state is State.DRAINING:
            return False
        if self.state is State.CLOSED:
            return self._reopen(msg, now)
        if msg.epoch != segment.like.epoch:
            return self.contest.sends(msg, now)
        self.contest.drop(now)
        if view(msg) != view(segment.like):
            return self.restart(msg, now, "reset", f"{show_view(msg)} after {show_view(segment.like)}")
        segment.follow_changes(msg)
        slot = segment.slot(msg)
        newest = segment.newest
        goes_back = slot <= newest and self.state is not State.ENDING and not at_once
        if goes_back:
            common.intake.put()
        if not at_once and not self._is_next(msg):
            return False  # a frame before it was found to wait
        if goes_back and segment.is_out(slot):
            return self.returning.sends(msg, slot, now)
        if self.returning:
            self.returning.drop()
        if slot < 0:
            self.late(msg, now)
            return True
        if self.state is State.ENDING and slot > segment.end_slot:
            return False
        if slot > newest + common.jump:
            return self.leap.sends(msg, slot, now)
        if self.state is State.HELD and slot > newest:
            self.leap.drop(now)
        common.intake.accept(self, msg, slot, now)
        if period := segment.follow(msg, slot):
            self.correct_rate(period, now)
        return True

    def correct_rate(self, period: float, now: int) -> None:
        """Frames placed by time come every `period` ns, and not as they claim."""
        before = self.segment.fps
        self.segment.correct(period)
        self.event("rate", f"{before:.6g} frames a second were stated, {self.segment.fps:.4g} come", now)

    def _take_end(self, msg: StreamEnd, now: int) -> bool:
        common, segment = self._common, self.segment
        if self.state is State.DRAINING or not self.settled(msg):
            return False
        if self.contest.ends(msg, now):
            return True
        if msg.epoch != segment.like.epoch:
            self.unexpected_end(msg.epoch, now)
            return True
        segment.hear(now)
        if self.state is State.CLOSED:
            if not self.ended:  # stale: its tail is out
                self.ended = True
                segment.end_ns = msg.time_ns
                self.event("end", "end", now)
            return True
        if self.state is State.ENDING:
            return True  # said twice
        stated = None if msg.seq is None or segment.timed else msg.seq - segment.origin  # slots, by the message
        if self.leap.ends(msg, stated, now):
            return False
        newest = segment.newest
        if stated is not None and not 0 <= stated - 1 - newest <= common.config.max_gap:
            detail = f"end of stream {self.name}: {msg.seq} frames stated, the last one was {segment.origin + newest}"
            common.reports.offend(self.name, "unexpected_end", detail, now, epoch=msg.epoch)
            stated = None
        self.state = State.ENDING
        segment.end_slot = newest if stated is None else stated - 1
        segment.end_ns = msg.time_ns
        self.leave_fast_way()
        common.ending.append(self)
        common.arrays.until[self.place] = now + common.slack
        return True

    # --- the ways a message can go ------------------------------------------------------------------------------------

    def expects(self, msg: RawPose) -> bool:
        """Whether frames like this one may take the fast way: nothing has to be decided before the next."""
        undecided = self.waiting or self.returning or self.contest
        usual = self.state is State.OPEN and not undecided and msg.seq is not None and msg.dims == 3
        return usual and kind(msg) == kind(self.segment.like)

    def leave_fast_way(self) -> None:
        """Something has to be decided, or counted, with the next message."""
        if self.place >= 0:
            self._common.intake.forget(self.place)

    def settled(self, msg: Message | None) -> bool:
        """Whether the bank has all frames that came before `msg`; else some wait for the engine, and so must it."""
        self._common.intake.put()
        return self._is_next(msg)

    def _is_next(self, msg: Message | None) -> bool:
        """Whether no message before it waits, as far as is known: the bank may still refuse what it was not given."""
        return not self.waiting or self.waiting[0][0] is msg

    def wait(self, msg: Message, now: int) -> None:
        """A message cannot be taken yet."""
        self.waiting.append((msg, now))
        self._common.backlog += 1
        self._common.blocked[self.name] = self
        self.leave_fast_way()

    def wait_first(self, messages: Sequence[tuple[Message, int]]) -> None:
        """These messages wait before all others."""
        if messages:
            self.waiting.extendleft(reversed(messages))
            self._common.backlog += len(messages)
            self._common.blocked[self.name] = self

    def waiting_slots(self) -> Iterator[int]:
        """The slots of the waiting frames that belong to the present segment, in the order in which they came."""
        like = self.segment.like
        for msg, _ in self.waiting:
            if isinstance(msg, StreamEnd) or msg.epoch != like.epoch or view(msg) != view(like):
                return
            yield self.segment.slot(msg)

    def duplicate(self, msg: RawPose, now: int) -> None:
        """A frame came before."""
        detail = f"frame {self.segment.number(msg)} of stream {self.name} came before"
        self._common.reports.offend(self.name, "duplicate", detail, now, epoch=msg.epoch)

    def late(self, msg: RawPose, now: int) -> None:
        """A frame came after its slot was out."""
        detail = f"frame {self.segment.number(msg)} of stream {self.name} came after its slot was out"
        self._common.reports.offend(self.name, "late", detail, now, epoch=msg.epoch)

    def unexpected_end(self, epoch: int, now: int) -> None:
        """An end came that cannot be."""
        detail = f"end of stream {self.name} at epoch {epoch}, not {self.segment.like.epoch}"
        self._common.reports.offend(self.name, "unexpected_end", detail, now, epoch=epoch)

    def event(self, kind: str, detail: str, now: int) -> None:
        """Something happened to the stream."""
        self._common.reports.event(self.name, kind, detail, self.base, now)

    # --- segments begin -----------------------------------------------------------------------------------------------

    def start(
        self, msg: RawPose, now: int, *, base: int | None, kind: str, detail: str = "", flags: Flag = _NO_FLAGS
    ) -> None:
        """Open a segment with its first frame. `base`: the number it would have started with if nothing was lost."""
        common = self._common
        self._restarting = None
        self.ended = self.evict = False
        place = common.room.take(self)
        self.segment = Segment(
            common, place, msg, now, expected=base, base=self.base, dropped=self._dropped, flags=flags
        )
        self.state = State.OPEN
        self.event(kind, detail, now)
        common.intake.accept(self, msg, self.segment.slot(msg), now)

    def _reopen(self, msg: RawPose, now: int) -> bool:
        """A frame for a stream that is closed: it starts afresh, unless the frame is an old one. False if it waits."""
        common, closed = self._common, self.segment
        if not common.room.admits(self.name, self.publisher, msg.fps, len(common.draining), now):
            return True
        same = msg.epoch == closed.like.epoch
        if not same:
            self.contest.replaced(closed.like.epoch)
        kind = "start" if self.ended else "reset"
        number = closed.number(msg)
        if self._restarting is not None:
            kind, detail, flags = self._restarting
            self.start(msg, now, base=None if same else 0, kind=kind, detail=detail, flags=flags)
        elif not same:
            self.start(msg, now, base=0, kind=kind, detail=f"epoch {msg.epoch} after {closed.like.epoch}")
        elif number >= closed.next_number and self.ended:
            self.start(msg, now, base=closed.next_number, kind="start")
        elif number >= closed.next_number:
            missed = f"frames {closed.last_number + 1}..{number - 1} did not come"
            detail = missed if number > closed.last_number + 1 else "no frame came for long"
            self.start(msg, now, base=None, kind="gap", detail=detail, flags=Flag.GAP_BEFORE)
        else:
            return self._reopen_back(msg, number, kind, now)
        return True

    def _reopen_back(self, msg: RawPose, number: int, kind: str, now: int) -> bool:
        """A frame with a number that the closed segment had: the source began again, or it is a straggler."""
        closed = self.segment
        moved_on = msg.time_ns > closed.end_ns and (self.ended or number <= closed.last_number)
        if moved_on:
            first, stragglers = (msg, now), self.returning.take()
        elif number > closed.last_number and not self.ended:  # filled in while it was on its way
            self.late(msg, now)
            return True
        else:
            self.returning.add(msg, now)
            if not self.returning.is_proven(closed.last_number - number, moved_on):
                return True
            first, *between, _ = self.returning.take()
            stragglers = []
        number = closed.number(first[0])
        detail = f"frame {number} after {closed.next_number - 1}: counting starts again"
        self.start(*first, base=0, kind=kind, detail=detail)
        for straggler in stragglers:
            self.late(*straggler)
        if moved_on:
            return True
        self.wait_first(between)  # it waits behind them; what one of them decides may be for the others
        return not between and self.take(msg, now, at_once=True)

    # --- segments end -------------------------------------------------------------------------------------------------

    def restart(self, msg: Message | None, now: int, kind: str, detail: str) -> bool:
        """The segment is over because another one begins; False, for the message that begins it has to wait."""
        if self.state is State.ENDING or not self.settled(msg):
            return False
        self.leap.drop(now)
        self.close(kind, detail)
        self._restarting = (kind, detail, Flag.GAP_BEFORE if kind == "gap" else _NO_FLAGS)
        return False

    def close(self, kind: str, detail: str, last: int = -1) -> None:
        """No more frames for this segment: what is due comes out with the next steps. `last`: as an end said."""
        segment = self.segment
        self._common.intake.put()
        if self.returning:
            self.returning.drop()
        self.contest.over()
        segment.close(last)
        if kind != "end":
            segment.end_ns = segment.captured(segment.newest)
        self.state = State.DRAINING
        self._closing = (kind, detail)
        self._common.draining.append(self)

    def give_way(self, why: str, now: int, *, patient: bool = False) -> bool:
        """Its place is for another, if frames of it still come in; if that is `patient`, and nothing is undecided."""
        if self.state not in (State.OPEN, State.HELD) or (patient and (self.waiting or self.state is State.HELD)):
            return False
        self.leap.drop(now)
        self.close("stale", why)
        return True

    def finish(self, now: int) -> None:
        """The segment's output is out: its place is free."""
        self._common.room.give_back(self)
        self._dropped = self.segment.leave()
        self.state = State.CLOSED
        self.base += self.segment.last + 1
        kind, detail = self._closing
        self.ended = kind == "end"
        if kind in ("end", "stale"):
            self.event(kind, detail, now)

    @property
    def why_closed(self) -> str:
        """Detail of the event that closed the last segment."""
        return self._closing[1]

    def stop(self, now: int) -> None:
        """Nothing else will come."""
        match self.state:
            case State.ENDING:
                self.evict = True
                self.close("end", "end", self.segment.end_slot)
            case State.HELD:  # no other frame can say any more that it was wrong
                self.leap.confirm(None, now)
            case State.OPEN if self.contest:
                self.contest.win(now)
            case State.OPEN:
                self.evict = True
                self.close("end", "shutdown")
