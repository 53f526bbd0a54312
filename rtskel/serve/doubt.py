"""Frames whose number or time leaps ahead or goes back: one message may be wrong, so the next ones tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtskel.serve.common import NEVER, Common, Message, State
from rtskel.serve.reports import SECOND
from rtskel.wire import RawPose, StreamEnd

if TYPE_CHECKING:
    from rtskel.serve.stream import Stream

MAX_BACK = 64
"""Frames that go back in a burst, of which more are no new beginning."""


class Leap:
    """The frame whose number leapt ahead, while the stream is HELD: either frames were lost, or its number is wrong."""

    __slots__ = ("_common", "_held", "_stream")

    def __init__(self, stream: Stream, common: Common) -> None:
        self._stream, self._common = stream, common
        self._held: tuple[RawPose, int] | None = None  # with when it was read

    def __bool__(self) -> bool:
        return self._held is not None

    def sends(self, msg: RawPose, slot: int, now: int) -> bool:
        """A frame that leaps to that slot. False if it follows the one that is held: the leap is real, and it waits."""
        stream, common, arrays = self._stream, self._common, self._common.arrays
        if self._held is not None:
            if self._is_followed_by(slot):
                return self.confirm(msg, now)
            if period := stream.segment.agrees(self._held[0], msg):
                (held, read), self._held = self._held, None
                stream.state = State.OPEN
                arrays.until[stream.place] = NEVER
                stream.correct_rate(period, now)
                taken = stream.take(held, read, at_once=True)
                if self._held is not None:  # it leaps all the same: it states a rate of its own
                    return self.confirm(msg, now)
                return taken and stream.take(msg, now)
            self.drop(now)
        stream.state = State.HELD
        self._held = (msg, now)
        stream.leave_fast_way()
        stream.segment.hear(now)
        arrays.until[stream.place] = now + arrays.arrival.period(stream.place) + common.slack
        return True

    def _is_followed_by(self, slot: int) -> bool:
        assert self._held is not None
        return 0 < slot - self._stream.segment.slot(self._held[0]) <= self._common.jump

    def ends(self, msg: StreamEnd, slots: int | None, now: int) -> bool:
        """Whether an end after so many slots (None: not said) confirms the leap and has to wait; else it drops that."""
        if self._held is None:
            return False
        if slots is not None and self._is_followed_by(slots):
            self.confirm(msg, now)
            return True
        self.drop(now)
        return False

    def confirm(self, msg: Message | None, now: int) -> bool:
        """The leap was real: start afresh with the held frame. False, for the message that confirmed it follows it."""
        assert self._held is not None
        stream = self._stream
        if not stream.settled(msg):
            return False
        (held, read), self._held = self._held, None
        segment = stream.segment
        detail = f"frames {segment.origin + segment.newest + 1}..{segment.number(held) - 1} did not come"
        stream.restart(msg, now, "gap", detail)
        stream.wait_first([(held, read)])
        return False

    def drop(self, now: int) -> None:
        """The number was wrong: the stream goes on where it was."""
        if self._held is None:
            return
        stream, segment = self._stream, self._stream.segment
        number = segment.number(self._held[0])
        stream.state, self._held = State.OPEN, None
        self._common.arrays.until[stream.place] = NEVER
        detail = f"frame {number} of stream {stream.name} follows {segment.origin + segment.newest}: dropped"
        self._common.reports.offend(stream.name, "jump", detail, now, epoch=segment.like.epoch)


class Return:
    """The last frames in a row that went back in number or in time: either stragglers, or the source began again."""

    __slots__ = ("_common", "_frames", "_stream")

    def __init__(self, stream: Stream, common: Common) -> None:
        self._stream, self._common = stream, common
        self._frames: list[tuple[RawPose, int]] = []  # with when each was read

    def __bool__(self) -> bool:
        return bool(self._frames)

    def sends(self, msg: RawPose, slot: int, now: int) -> bool:
        """A frame that cannot be taken where its number says. False if it begins the stream again, and has to wait."""
        stream, segment = self._stream, self._stream.segment
        newest = segment.newest
        moved_on = msg.seq is not None and msg.time_ns > segment.captured(newest)
        self.add(msg, now)
        if not self.is_proven(newest - slot, moved_on):
            stream.leave_fast_way()
            return True
        self._frames.pop()  # it waits by itself
        back = self.take()
        number = segment.origin + newest
        detail = f"frame {segment.number(back[0][0])} after {number}: counting starts again"
        stream.restart(msg, now, "reset", detail)
        stream.wait_first(back)
        return False

    def add(self, msg: RawPose, now: int) -> None:
        """One more frame that goes back, if it follows the others, which else are stragglers."""
        segment = self._stream.segment
        if self._frames:
            last = self._frames[-1][0]
            slots = segment.number(msg) - segment.number(last)
            later = msg.time_ns > last.time_ns if msg.seq is None else slots > 0
            if not later or slots > self._common.jump:
                self.drop()
        if len(self._frames) > MAX_BACK:
            self.drop()
        self._frames.append((msg, now))
        self._common.suspects[self._stream.name] = self._stream

    def is_proven(self, slots_back: int, moved_on: bool) -> bool:
        """Whether enough frames in a row went back: two, but more where they may be stragglers; and not in a burst, for
        then they were sent twice.
        """
        took = self._frames[-1][1] - self._frames[0][1]
        enough = len(self._frames) >= (2 if moved_on or slots_back > self._common.jump else 5)
        return enough and (moved_on or took >= (len(self._frames) - 1) * min(self._stream.segment.period, SECOND) / 2)

    def take(self) -> list[tuple[RawPose, int]]:
        """They are a new beginning."""
        frames, self._frames = self._frames, []
        return frames

    @property
    def until(self) -> float:
        """When they are held to be stragglers, if none follows them."""
        return self._frames[-1][1] + max(SECOND / 2, 2 * self._stream.segment.period) if self._frames else NEVER

    def drop(self) -> None:
        """They were stragglers: late, or duplicates."""
        stream, frames = self._stream, self.take()
        self._common.suspects.pop(stream.name, None)
        for msg, now in frames:
            self._common.intake.count_nonfinite(stream, msg, now)
            if stream.segment.has(stream.segment.slot(msg)):
                stream.duplicate(msg, now)
            else:
                stream.late(msg, now)
