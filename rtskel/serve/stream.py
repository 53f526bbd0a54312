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
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

from rtskel.refine import RefinerBank
from rtskel.serve.arrays import PlaceTable, StreamArrays
from rtskel.serve.config import StreamConfig
from rtskel.serve.phase import Phase
from rtskel.serve.reports import SECOND, UNKNOWN, Reports
from rtskel.serve.room import YOUNG, Room
from rtskel.skeleton import signed_axes
from rtskel.wire import About, Flag, RawPose, StreamEnd

if TYPE_CHECKING:
    from rtskel.serve.intake import Intake

MAX_NUMBER = 2**62
"""Largest frame number and source time taken: what is derived from them stays within 64 bits."""

MIN_FPS = 0.1
"""Lowest rate taken: deadlines are counted in frames."""

MAX_BACK = 64
"""Frames that go back in a burst, of which more are no new beginning."""

NEVER = float("inf")

_NO_FLAGS = Flag(0)

Message: TypeAlias = RawPose | StreamEnd
"""What one stream is sent; a `RawBatch` is taken as its poses."""


class State(Enum):
    """See above."""

    OPEN = auto()
    HELD = auto()
    ENDING = auto()
    DRAINING = auto()
    CLOSED = auto()


@dataclass
class Common:
    """What all streams of a table share.

    Attributes:
        furthest: slots by which the last window of an average ends after the slot it is for.
        ending: streams that are ENDING. draining: those that are DRAINING.
        blocked: those with messages that wait, by name.
        backlog: how many messages wait.
        suspects: streams with frames that went back, by name.
        changed: places whose poses are of another kind than before.
        stopping: nothing else will come.
    """

    bank: RefinerBank
    config: StreamConfig
    arrays: StreamArrays
    places: PlaceTable
    reports: Reports
    intake: Intake
    room: Room
    furthest: int
    ending: list[Stream] = field(default_factory=list)
    draining: list[Stream] = field(default_factory=list)
    blocked: OrderedDict[str, Stream] = field(default_factory=OrderedDict)
    backlog: int = 0
    suspects: dict[str, Stream] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)
    stopping: bool = False

    @property
    def jump(self) -> int:
        """A frame may be this many slots after the newest one."""
        return self.config.max_gap + 1

    @property
    def slack(self) -> float:
        """How long a frame may come after it was due, in ns."""
        return self.config.slack_s * SECOND

    def acceptable(self, msg: RawPose, now: int) -> bool:
        """Whether the bank can refine such frames; else the offender is named."""
        skeleton, joints = self.bank.config.skeleton.id, self.bank.joints
        if msg.skeleton != skeleton:
            kind, what = "skeleton", f"skeleton {msg.skeleton!r}, the engine refines {skeleton!r}"
        elif len(msg.xyz) != joints:
            kind, what = "joints", f"{len(msg.xyz)} joints, the engine refines {joints}"
        elif max(msg.seq or 0, msg.time_ns) > MAX_NUMBER:
            kind, what = "number", f"seq {msg.seq} or time {msg.time_ns} beyond 2**62"
        elif msg.fps < MIN_FPS:
            kind, what = "fps", f"{msg.fps:.4g} frames a second, less than {MIN_FPS}"
        elif msg.dims == 2 and not self.bank.lifts:
            kind, what = "flat", "2D poses, which are served with --lift only"
        else:
            return True
        self.reports.offend(msg.stream, kind, f"frame {msg.seq} of stream {msg.stream}: {what}", now)
        return False


class Stream:
    """One stream.

    Attributes:
        name: its id.
        publisher: the connection that it counts for, see `rtskel.serve.room`.
        state: see above.
        place: in the bank and the arrays; -1 while CLOSED.
        like: a message like all of the segment, but for seq, time_ns and arrays.
        base: number in the output of the segment's slot 0.
        origin: frame number of slot 0.
        end_slot: last slot, once an end said so.
        last: last slot, once DRAINING.
        waiting: messages that cannot be taken yet, in order, each with when it was read.
        evict: forget the stream once it is drained.
        ended: closed by an end.
    """

    __slots__ = (
        *("_back", "_closed_time", "_closing", "_common", "_corrected", "_dropped", "_first", "_held", "_last_number"),
        *("_next_number", "_past", "_phase", "_restarting", "_rivals", "_silent_since", "base", "end_slot", "ended"),
        *("evict", "last", "like", "name", "origin", "place", "publisher", "state", "waiting"),
    )

    def __init__(self, name: str, common: Common, publisher: int = UNKNOWN) -> None:
        self.name = name
        self.publisher = publisher
        self.state = State.CLOSED
        self.place = -1
        self.like: RawPose | None = None
        self.base = 0
        self.origin = 0
        self.end_slot = self.last = -1
        self.waiting: deque[tuple[Message, int]] = deque()
        self.evict = self.ended = False
        self._common = common
        self._past: deque[int] = deque(maxlen=8)  # epochs that a newer one has replaced
        self._held: tuple[RawPose, int] | None = None  # the number that leapt, while HELD, and when it was read
        self._back: list[tuple[RawPose, int]] = []  # the last frames in a row that went back
        self._rivals: list[tuple[Message, int]] = []  # frames of another epoch since the present one was heard
        self._first = (0, 0)  # slot and source time of the first frame that came
        self._dropped = [0] * len(common.bank.lookaheads)  # slots without a pose before this segment, by lookahead
        self._phase: Phase | None = None  # where slots come from timestamps
        self._corrected = 0.0  # frames a second, where the claim was wrong
        self._restarting: tuple[str, str, Flag] | None = None  # event kind, detail and flags of a fresh start under way
        self._closing = ("", "")  # event kind and detail for when the segment is drained
        # Of the closed segment: the next frame number, that of the last frame, its source time, when it was heard.
        self._next_number = self._last_number = self._closed_time = self._silent_since = 0

    # --- what others ask ----------------------------------------------------------------------------------------------

    @property
    def source(self) -> RawPose:
        """What the segment's messages have in common."""
        assert self.like is not None
        return self.like

    @property
    def newest(self) -> int:
        """Last slot for which a frame came, of a stream that has a place."""
        return int(self._common.arrays.newest[self.place])

    @property
    def heard(self) -> int:
        """When the last accepted message was read, in ns."""
        return self._silent_since if self.place < 0 else int(self._common.arrays.heard[self.place])

    @property
    def timed(self) -> bool:
        """Whether slots come from timestamps."""
        return self.source.seq is None

    @property
    def period(self) -> float:
        """Nanoseconds a slot, as claimed."""
        return self._phase.period if self._phase is not None else SECOND / self.source.fps

    @property
    def fps(self) -> float:
        """Frames a second, as claimed, or as they turned out to come."""
        return self._corrected or self.source.fps

    @property
    def filled(self) -> int:
        """How many slots are filled in where no later frame has come: none of a recording, whose next frame is waited
        for, nor of a young stream, which may be somebody's mistake; of others as many as there were before.
        """
        slots = self.newest - self._first[0] + 1
        return 0 if self.source.lossless or slots < YOUNG else min(slots, self._common.config.max_gap)

    def number(self, msg: RawPose) -> int:
        """The frame number of a message: as sent, or by its time."""
        if msg.seq is not None:
            return msg.seq
        return self._phase.slot(msg) if self._phase is not None else 0

    def expects(self, msg: RawPose) -> bool:
        """Whether frames like this one may take the fast way: nothing has to be decided before the next."""
        undecided = self.waiting or self._back or self._rivals
        usual = self.state is State.OPEN and not undecided and msg.seq is not None and msg.dims == 3
        return usual and _kind(msg) == _kind(self.source)

    def waiting_slots(self) -> Iterator[int]:
        """The slots of the waiting frames that belong to the present segment, in the order in which they came."""
        for msg, _ in self.waiting:
            if isinstance(msg, StreamEnd) or msg.epoch != self.source.epoch or _view(msg) != _view(self.source):
                return
            yield self.number(msg) - self.origin

    # --- messages -----------------------------------------------------------------------------------------------------

    def take(self, msg: Message, now: int) -> bool:
        """Act on one message; False if it has to wait until the segment is drained or the engine catches up."""
        if isinstance(msg, StreamEnd):
            return self._take_end(msg, now)
        common = self._common
        if not common.acceptable(msg, now):
            return True
        if self.state is State.DRAINING:
            return False
        if self.state is State.CLOSED:
            self._reopen(msg, now)
            return True
        source = self.source
        if msg.epoch != source.epoch:
            return self._rival_sends(msg, now)
        self._drop_rivals(now)
        if _view(msg) != _view(source):
            return self._restart(msg, now, "reset", f"{_show_view(msg)} after {_show_view(source)}")
        self._follow_changes(msg)
        slot = self.number(msg) - self.origin
        newest = self.newest
        if slot <= newest and self.state is not State.ENDING and self._settled(msg) and self._is_out(slot):
            return self._goes_back(msg, slot, now)
        if self._back:
            self._drop_back()
        if slot < 0:
            self.late(msg, now)
            return True
        if self.state is State.ENDING and slot > self.end_slot:
            return False
        if slot > newest + common.jump:
            return self._leap(msg, slot, now)
        if self.state is State.HELD and slot > newest:
            self._drop_held(now)
        common.intake.accept(self, msg, slot, now)
        if self._phase is not None:
            self._phase.follow(msg, slot)
            if period := self._phase.contradicted():
                self._correct(period, now)
        return True

    def _correct(self, period: float, now: int) -> None:
        """Frames placed by time come at another rate than they claim."""
        assert self._phase is not None
        common, before = self._common, self.fps
        common.intake.put()
        self._phase.correct(period, int(common.bank.watermark[self.place]))
        self._corrected = SECOND / period
        common.changed.append(self.place)
        self._lift()
        common.arrays.arrival.retime(self.place, self.newest, period)
        self.event("rate", f"{before:.6g} frames a second were stated, {self.fps:.4g} come", now)

    def wait(self, msg: Message, now: int) -> None:
        """A message cannot be taken yet."""
        common = self._common
        self.waiting.append((msg, now))
        common.backlog += 1
        common.blocked[self.name] = self
        self._leave_fast_way()

    def duplicate(self, msg: RawPose, now: int) -> None:
        """A frame came before."""
        detail = f"frame {self.number(msg)} of stream {self.name} came before"
        self._common.reports.offend(self.name, "duplicate", detail, now)

    def late(self, msg: RawPose, now: int) -> None:
        """A frame came after its slot was out."""
        detail = f"frame {self.number(msg)} of stream {self.name} came after its slot was out"
        self._common.reports.offend(self.name, "late", detail, now)

    def _leave_fast_way(self) -> None:
        if self.place >= 0:
            self._common.intake.forget(self.place)

    def _settled(self, msg: Message | None) -> bool:
        """Whether the bank has all frames that came before `msg`; else some wait for the engine, and so must it."""
        self._common.intake.put()
        return not self.waiting or self.waiting[0][0] is msg

    def _follow_changes(self, msg: RawPose) -> None:
        """What may change within a segment is from now on what this message says."""
        source, common = self.source, self._common
        if msg.fps == source.fps and msg.clock == source.clock and msg.lossless is source.lossless:
            return
        if msg.fps != source.fps:
            common.intake.put()
        self._announce(msg)
        common.arrays.lossless[self.place] = msg.lossless
        if msg.fps != source.fps:  # slots go on, the clock ticks differently from the newest slot on
            self._lift()
            if self._phase is not None:
                self._phase.correct(SECOND / msg.fps, self.newest)
            self._corrected = 0.0
            common.arrays.arrival.retime(self.place, self.newest, self.period)

    def _announce(self, msg: RawPose) -> None:
        """What the stream's messages have in common, and so its poses, is from now on what this one says."""
        self.like = msg
        self._common.changed.append(self.place)
        self._leave_fast_way()

    def _lift(self) -> None:
        if self.source.dims == 2:
            self._common.bank.lift(self.place, self.fps)

    def _captured(self, slot: int) -> int:
        arrays = self._common.arrays
        return int(arrays.captured[self.place, slot % arrays.ring])

    # A number that leaps ahead is either real (frames were lost) or a defect of one message; the next frame tells.

    def _leap(self, msg: RawPose, slot: int, now: int) -> bool:
        arrays = self._common.arrays
        if self._held is not None:
            if 0 < slot - (self.number(self._held[0]) - self.origin) <= self._common.jump:
                return self.confirm_held(msg, now)
            if self._phase is not None and (period := self._phase.agrees(self._held[0], msg)):
                (held, read), self._held = self._held, None
                self.state = State.OPEN
                arrays.until[self.place] = NEVER
                self._correct(period, now)
                return self.take(held, read) and self.take(msg, now)
            self._drop_held(now)
        self.state = State.HELD
        self._held = (msg, now)
        self._leave_fast_way()
        arrays.heard[self.place] = now
        arrays.until[self.place] = now + arrays.arrival.period(self.place) + self._common.slack
        return True

    def confirm_held(self, msg: Message | None, now: int) -> bool:
        """The leap was real: start afresh with the held frame. False, for the message that confirmed it follows it."""
        assert self._held is not None
        if not self._settled(msg):
            return False
        (held, read), self._held = self._held, None
        detail = f"frames {self.origin + self.newest + 1}..{self.number(held) - 1} did not come"
        self._restart(msg, now, "gap", detail)
        self._wait_first([(held, read)])
        return False

    def _drop_held(self, now: int) -> None:
        assert self._held is not None
        number = self.number(self._held[0])
        self.state, self._held = State.OPEN, None
        self._common.arrays.until[self.place] = NEVER
        detail = f"frame {number} of stream {self.name} follows {self.origin + self.newest}: dropped"
        self._common.reports.offend(self.name, "jump", detail, now)

    # A number or a time that goes back is either a straggler, or the source began again; the next frame tells.

    def _is_out(self, slot: int) -> bool:
        """Whether a frame came for that slot, or it is out at every lookahead."""
        arrays = self._common.arrays
        if slot < 0 or slot + self._common.furthest < self._common.bank.next_window[self.place]:
            return True
        return bool(arrays.slot[self.place, slot % arrays.ring] == slot)

    def _goes_back(self, msg: RawPose, slot: int, now: int) -> bool:
        """A frame that cannot be taken where its number says. False if it begins the stream again, and has to wait."""
        newest = self.newest
        moved_on = msg.seq is not None and msg.time_ns > self._captured(newest)
        self._suspect(msg, now)
        if not self._proven(newest - slot, moved_on):
            self._leave_fast_way()
            return True
        self._back.pop()  # it waits by itself
        back, self._back = self._back, []
        number = self.origin + newest
        self._restart(msg, now, "reset", f"frame {self.number(back[0][0])} after {number}: counting starts again")
        self._wait_first(back)
        return False

    def _suspect(self, msg: RawPose, now: int) -> None:
        """Adds a frame to those that go back, if it follows them."""
        if self._back:
            last = self._back[-1][0]
            slots = self.number(msg) - self.number(last)
            later = msg.time_ns > last.time_ns if msg.seq is None else slots > 0
            if not later or slots > self._common.jump:
                self._drop_back()
        if len(self._back) > MAX_BACK:
            self._drop_back()
        self._back.append((msg, now))
        self._common.suspects[self.name] = self

    @property
    def suspect_until(self) -> float:
        """When frames that went back are held to be stragglers, if none follows them."""
        return self._back[-1][1] + max(SECOND / 2, 2 * self.period) if self._back else NEVER

    def clear(self) -> None:
        """The frames that went back were stragglers."""
        self._drop_back()

    def _proven(self, slots_back: int, moved_on: bool) -> bool:
        """Whether enough frames in a row went back: two, but more where they may be stragglers; and not in a burst, for
        then they were sent twice.
        """
        took = self._back[-1][1] - self._back[0][1]
        enough = len(self._back) >= (2 if moved_on or slots_back > self._common.jump else 5)
        return enough and (moved_on or took >= (len(self._back) - 1) * min(self.period, SECOND) / 2)

    def _drop_back(self) -> None:
        """The frames that went back were stragglers: late, or duplicates."""
        back, self._back = self._back, []
        self._common.suspects.pop(self.name, None)
        arrays = self._common.arrays
        for msg, now in back:
            self._common.intake.count_nonfinite(self, msg, now)
            slot = self.number(msg) - self.origin
            if self.place >= 0 and slot >= 0 and arrays.slot[self.place, slot % arrays.ring] == slot:
                self.duplicate(msg, now)
            else:
                self.late(msg, now)

    # Frames of another epoch are of an estimator that was started again, or of a stranger; what keeps arriving tells.

    def _rival_sends(self, msg: RawPose, now: int) -> bool:
        """A frame of another epoch. False if it takes the stream over, and has to wait."""
        if self.state is State.ENDING:
            return False
        if not self._settled(msg):
            return False
        if self._rivals and self._rivals[0][0].epoch != msg.epoch:
            self._drop_rivals(now)
        if now >= self._rivals_at or len(self._rivals) >= self._common.jump:
            self._take_over(msg, now)
            return False
        self._rivals.append((msg, now))
        self._leave_fast_way()
        until = self._common.arrays.until
        until[self.place] = min(until[self.place], self._rivals_at)
        return True

    @property
    def _rivals_at(self) -> float:
        """When another epoch takes over, if no frame comes of the present one."""
        arrays = self._common.arrays
        period = min(arrays.arrival.period(self.place), float(SECOND))
        return float(arrays.heard[self.place]) + period + self._common.slack

    def _take_over(self, msg: RawPose | None, now: int) -> None:
        rivals, self._rivals = self._rivals, []
        epoch = msg.epoch if msg is not None else rivals[0][0].epoch
        self._restart(msg, now, "reset", f"epoch {epoch} after {self.source.epoch}")
        self._wait_first(rivals)

    def _drop_rivals(self, now: int) -> None:
        """The present epoch goes on: the others are strangers."""
        if not self._rivals:
            return
        rivals, self._rivals = self._rivals, []
        kind = "old_epoch" if rivals[0][0].epoch in self._past else "other_epoch"
        frames = sum(not isinstance(msg, StreamEnd) for msg, _ in rivals)
        which = f"{frames} frames of stream {self.name}: epoch {rivals[0][0].epoch}"
        detail = f"{which}, but {self.source.epoch} goes on"
        self._common.reports.offend(self.name, kind, detail, now, frames)
        if frames < len(rivals):
            self._unexpected_end(rivals[0][0].epoch, now)
        if self.place >= 0 and self.state is State.OPEN:
            self._common.arrays.until[self.place] = NEVER

    def _wait_first(self, messages: Sequence[tuple[Message, int]]) -> None:
        """These messages wait before all others."""
        if messages:
            self.waiting.extendleft(reversed(messages))
            self._common.backlog += len(messages)
            self._common.blocked[self.name] = self

    def _take_end(self, msg: StreamEnd, now: int) -> bool:
        common = self._common
        if self.state is State.DRAINING or not self._settled(msg):
            return False
        if self._rivals and msg.epoch == self._rivals[0][0].epoch:
            self._rivals.append((msg, now))  # it ends them, if they take over
            return True
        if msg.epoch != self.source.epoch:
            self._unexpected_end(msg.epoch, now)
            return True
        if self.state is State.CLOSED:
            self._silent_since = now
            if not self.ended:  # stale: its tail is out
                self.ended = True
                self._closed_time = msg.time_ns
                self.event("end", "end", now)
            return True
        common.arrays.heard[self.place] = now
        if self.state is State.ENDING:
            return True  # said twice
        stated = None if msg.seq is None or self.timed else msg.seq - self.origin  # slots, by the message
        if self._held is not None:
            if stated is not None and 0 < stated - (self.number(self._held[0]) - self.origin) <= common.jump:
                return self.confirm_held(msg, now)
            self._drop_held(now)
        newest = self.newest
        if stated is not None and not 0 <= stated - 1 - newest <= common.config.max_gap:
            detail = f"end of stream {self.name}: {msg.seq} frames stated, the last one was {self.origin + newest}"
            common.reports.offend(self.name, "unexpected_end", detail, now)
            stated = None
        self.state = State.ENDING
        self.end_slot = newest if stated is None else stated - 1
        self._closed_time = msg.time_ns
        self._leave_fast_way()
        common.ending.append(self)
        common.arrays.until[self.place] = now + common.slack
        return True

    def _unexpected_end(self, epoch: int, now: int) -> None:
        detail = f"end of stream {self.name} at epoch {epoch}, not {self.source.epoch}"
        self._common.reports.offend(self.name, "unexpected_end", detail, now)

    # --- segments -----------------------------------------------------------------------------------------------------

    def _reopen(self, msg: RawPose, now: int) -> None:
        """A frame for a stream that is closed: it starts afresh, unless the frame is an old one."""
        common = self._common
        if not common.room.admits(self.name, self.publisher, msg.fps, len(common.draining), now):
            return
        same = msg.epoch == self.source.epoch
        kind = "start" if self.ended else "reset"
        number = self.number(msg)
        if self._restarting is not None:
            kind, detail, flags = self._restarting
            self.start(msg, now, base=None if same else 0, kind=kind, detail=detail, flags=flags)
        elif not same:
            self.start(msg, now, base=0, kind=kind, detail=f"epoch {msg.epoch} after {self.source.epoch}")
        elif number >= self._next_number and self.ended:
            self.start(msg, now, base=self._next_number, kind="start")
        elif number >= self._next_number:
            detail = f"frames {self._last_number + 1}..{number - 1} did not come"
            self.start(msg, now, base=None, kind="gap", detail=detail, flags=Flag.GAP_BEFORE)
        else:
            self._reopen_back(msg, number, kind, now)

    def _reopen_back(self, msg: RawPose, number: int, kind: str, now: int) -> None:
        """A frame with a number that the closed segment had: the source began again, or it is a straggler."""
        moved_on = msg.time_ns > self._closed_time and (self.ended or number <= self._last_number)
        if not moved_on:
            if number > self._last_number and not self.ended:  # filled in while it was on its way
                self.late(msg, now)
                return
            self._suspect(msg, now)
            if not self._proven(self._last_number - number, moved_on):
                return
            msg, now = self._back.pop(0)
            number = self.number(msg)
        back, self._back = self._back, []
        detail = f"frame {number} after {self._next_number - 1}: counting starts again"
        self.start(msg, now, base=0, kind=kind, detail=detail)
        for other, read in back:
            if moved_on:
                self.late(other, read)
            else:
                self.take(other, read)

    def start(
        self, msg: RawPose, now: int, *, base: int | None, kind: str, detail: str = "", flags: Flag = _NO_FLAGS
    ) -> None:
        """Open a segment with its first frame. `base`: the number it would have started with if nothing was lost."""
        common = self._common
        if self.like is not None and msg.epoch != self.like.epoch:
            self._past.append(self.like.epoch)
        self._phase = Phase(msg, 0) if msg.seq is None else None
        self._corrected = 0.0
        number = self.number(msg)
        lost = 0 if base is None or msg.seq is None else number - base
        slot = lost if 0 <= lost <= common.config.max_gap else 0
        self.origin = number - slot
        self._first = (slot, msg.time_ns)
        self._restarting = self._held = None
        self.ended = self.evict = False
        self.state = State.OPEN

        arrays = common.arrays
        place = self.place = common.room.take(self)
        arrays.newest[place] = arrays.first[place] = slot
        arrays.live[place] = True
        arrays.until[place] = NEVER
        arrays.origin[place] = self.origin
        arrays.timed[place] = msg.seq is None
        arrays.lossless[place] = msg.lossless
        arrays.base[place] = self.base
        arrays.flags[place] = flags | Flag.RESET
        arrays.faulty[place] = -1
        arrays.axes[place] = signed_axes(msg.axes, msg.mirrored)
        arrays.slot[place] = -1
        arrays.compiled.begin(place, self._dropped)
        self._announce(msg)
        self._lift()
        # Frames before the first one may be on their way, shuffled within the lookahead: they are not overdue yet.
        arrays.arrival.start(place, max(0, slot - common.furthest), now, slot, self.period)
        self.event(kind, detail, now)
        common.intake.accept(self, msg, slot, now)

    def _restart(self, msg: Message | None, now: int, kind: str, detail: str) -> bool:
        """The segment is over because another one begins; False, for the message that begins it has to wait."""
        if self.state is State.ENDING or not self._settled(msg):
            return False
        if self._held is not None:
            self._drop_held(now)
        self.close(kind, detail)
        self._restarting = (kind, detail, Flag.GAP_BEFORE if kind == "gap" else _NO_FLAGS)
        return False

    def close(self, kind: str, detail: str, last: int = -1) -> None:
        """No more frames for this segment: what is due comes out with the next steps. `last`: as an end said."""
        common, place = self._common, self.place
        common.intake.put()
        if self._back:
            self._drop_back()
        if self._rivals:  # nobody is left whom they could disturb
            rivals, self._rivals = self._rivals, []
            self._wait_first(rivals)
        last = max(last, int(common.bank.newest[place]))
        self.give_up(int(common.bank.watermark[place]) + 1, last)
        common.bank.end(place, last)
        self.last = last
        self.state = State.DRAINING
        self._leave_fast_way()
        self._closing = (kind, detail)
        self._next_number = self.origin + last + 1
        if kind != "end":
            self._closed_time = self._captured(self.newest)
        common.arrays.live[place] = False
        common.draining.append(self)

    def give_way(self, why: str, now: int, *, patient: bool = False) -> bool:
        """Its place is for another, if frames of it still come in; if that is `patient`, and nothing is undecided."""
        if self.state not in (State.OPEN, State.HELD) or (patient and (self.waiting or self.state is State.HELD)):
            return False
        if self._held is not None:
            self._drop_held(now)
        self.close("stale", why)
        return True

    def finish(self, now: int) -> None:
        """The segment's output is out: its place is free."""
        common, place = self._common, self.place
        self._last_number, self._silent_since = self.origin + self.newest, self.heard
        self._dropped = common.arrays.compiled.dropped(place)
        common.bank.reset(place)
        common.room.give_back(self)
        self.place = -1
        self.state = State.CLOSED
        self.base += self.last + 1
        kind, detail = self._closing
        self.ended = kind == "end"
        if kind in ("end", "stale"):
            self.event(kind, detail, now)

    @property
    def why_closed(self) -> str:
        """Detail of the event that closed the last segment."""
        return self._closing[1]

    def give_up(self, first: int, last: int) -> None:
        """Slots first..last count as missing where no frame came: note the time that their frames would have had."""
        arrays, place, period = self._common.arrays, self.place, self.period
        slots, received, captured = arrays.slot[place], arrays.received[place], arrays.captured[place]
        first_slot, first_time = self._first
        for slot in range(first, last + 1):
            at = slot % arrays.ring
            if slots[at] == slot:
                continue
            if slot < first_slot:
                time = first_time - round((first_slot - slot) * period)
            else:
                time = int(captured[(slot - 1) % arrays.ring]) + round(period)
            received[at] = 0
            captured[at] = max(0, time)
            self._common.reports.counts["missing"] += 1

    def settle_contest(self, now: int) -> None:
        """Another epoch takes over, if the present one has been silent for long enough."""
        if now >= self._rivals_at:
            self._take_over(None, now)
        else:
            self._common.arrays.until[self.place] = self._rivals_at

    @property
    def contested(self) -> bool:
        """Whether frames of another epoch came since the present one was heard."""
        return bool(self._rivals)

    def stop(self, now: int) -> None:
        """Nothing else will come."""
        match self.state:
            case State.ENDING:
                self.evict = True
                self.close("end", "end", self.end_slot)
            case State.HELD:  # no other frame can say any more that it was wrong
                self.confirm_held(None, now)
            case State.OPEN if self._rivals:
                self._take_over(None, now)
            case State.OPEN:
                self.evict = True
                self.close("end", "shutdown")

    def event(self, kind: str, detail: str, now: int) -> None:
        """Something happened to the stream."""
        self._common.reports.event(self.name, kind, detail, self.base, now)


def _kind(msg: RawPose) -> tuple[object, ...]:
    """What the messages of a stream that take the fast way have in common."""
    return (
        *(msg.epoch, msg.clock, msg.fps, msg.skeleton, msg.axes, msg.mirrored, msg.lossless, msg.dims, msg.about),
        *(msg.seq is None, len(msg.xyz)),
    )


def _view(msg: RawPose) -> tuple[str, bool, bool, int, About]:
    """What may not change within a segment beside the epoch: axes, mirrored, whether slots come from timestamps,
    whether the estimator knows depths, and what the poses are of.
    """
    return msg.axes, msg.mirrored, msg.seq is None, msg.dims, msg.about


def _show_view(msg: RawPose) -> str:
    axes, mirrored, timed, dims, about = _view(msg)
    view = f"axes {axes}{' mirrored' if mirrored else ''}, {'timed' if timed else 'numbered'}"
    said = [(name, getattr(about, name)) for name in ("unit", "person", "view", "image_size")]
    known = [f"{name} {value!r}" for name, value in said if value is not None]
    return ", ".join([view, *(["2D"] if dims == 2 else []), *known])
