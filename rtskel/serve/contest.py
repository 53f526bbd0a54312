"""Whose an id is: frames of another epoch are of an estimator that was started again, or of a stranger."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rtskel.serve.common import NEVER, Common, Message, State
from rtskel.serve.reports import SECOND
from rtskel.wire import RawPose, StreamEnd

if TYPE_CHECKING:
    from rtskel.serve.stream import Stream


class Contest:
    """The messages of another epoch than the present one, of which nothing was heard since. What keeps arriving tells.

    They are kept until the present epoch has been silent for a frame and the slack, and then take the stream over; or
    until it goes on, and then they are dropped, and counted.
    """

    __slots__ = ("_common", "_messages", "_past", "_stream")

    def __init__(self, stream: Stream, common: Common) -> None:
        self._stream, self._common = stream, common
        self._messages: list[tuple[Message, int]] = []  # with when each was read
        self._past: deque[int] = deque(maxlen=8)  # epochs that a newer one has replaced

    def __bool__(self) -> bool:
        return bool(self._messages)

    def sends(self, msg: RawPose, now: int) -> bool:
        """A frame of another epoch. False if it takes the stream over, and has to wait."""
        stream, common = self._stream, self._common
        if stream.state is State.ENDING or not stream.settled(msg):
            return False
        if self._messages and self._messages[0][0].epoch != msg.epoch:
            self.drop(now)
        if now >= self._until or len(self._messages) >= common.jump:
            self._take_over(msg, now)
            return False
        self._messages.append((msg, now))
        stream.leave_fast_way()
        common.arrays.until[stream.place] = min(common.arrays.until[stream.place], self._until)
        return True

    def ends(self, msg: StreamEnd, now: int) -> bool:
        """Whether an end is of that epoch: it ends its frames, if they take over."""
        if not self._messages or msg.epoch != self._messages[0][0].epoch:
            return False
        self._messages.append((msg, now))
        return True

    @property
    def _until(self) -> float:
        """When another epoch takes over, if no frame comes of the present one."""
        period = min(self._common.arrays.arrival.period(self._stream.place), float(SECOND))
        return float(self._stream.segment.heard) + period + self._common.slack

    def decide(self, now: int) -> None:
        """The other epoch takes over, if the present one has been silent for long enough."""
        if now >= self._until:
            self.win(now)
        else:
            self._common.arrays.until[self._stream.place] = self._until

    def win(self, now: int) -> None:
        """The other epoch takes over."""
        self._take_over(None, now)

    def _take_over(self, msg: RawPose | None, now: int) -> None:
        stream, (messages, self._messages) = self._stream, (self._messages, [])
        epoch = msg.epoch if msg is not None else messages[0][0].epoch
        stream.restart(msg, now, "reset", f"epoch {epoch} after {stream.segment.like.epoch}")
        stream.wait_first(messages)

    def drop(self, now: int) -> None:
        """The present epoch goes on: the others are strangers."""
        if not self._messages:
            return
        stream, (messages, self._messages) = self._stream, (self._messages, [])
        epoch = messages[0][0].epoch
        kind = "old_epoch" if epoch in self._past else "other_epoch"
        frames = sum(not isinstance(msg, StreamEnd) for msg, _ in messages)
        which = f"{frames} frames of stream {stream.name}: epoch {epoch}"
        detail = f"{which}, but {stream.segment.like.epoch} goes on"
        self._common.reports.offend(stream.name, kind, detail, now, frames, epoch=epoch)
        if frames < len(messages):
            stream.unexpected_end(epoch, now)
        if stream.state is State.OPEN:
            self._common.arrays.until[stream.place] = NEVER

    def over(self) -> None:
        """The segment is closed: nobody is left whom the others could disturb."""
        messages, self._messages = self._messages, []
        self._stream.wait_first(messages)

    def replaced(self, epoch: int) -> None:
        """A newer epoch has replaced this one."""
        self._past.append(epoch)
