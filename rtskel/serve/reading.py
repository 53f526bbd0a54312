"""What publishers send, as it is read, and how far reading lags behind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from rtskel import wire
from rtskel.errors import WireError
from rtskel.serve.announcements import Announcements
from rtskel.serve.config import ServeConfig
from rtskel.serve.outlet import Outlet
from rtskel.serve.reports import SECOND
from rtskel.serve.sockets import Inbox, Sockets
from rtskel.serve.table import StreamTable

UNREAD_NS = SECOND
"""How long a frame can have waited unread while the server cannot keep up with reading: deadlines lag by this then."""

LOOK_EVERY = SECOND // 10
"""How often it is asked which publishers have gone, and who was cut off for a message without end."""


class Reading:
    """Reads messages as far as there is room for frames, and gives them to the streams.

    Args:
        config, clock, table, sockets, outlet, announce, epoch: the server's.
        max_batch: frames of one call of the engine, for `batch_wait_s`.

    Attributes:
        frames: how many were taken.
        unread: messages are waiting in the socket.
        look_at: when `watch_publishers` has something to do, in ns.
    """

    def __init__(
        self,
        config: ServeConfig,
        clock: Callable[[], int],
        table: StreamTable,
        sockets: Sockets,
        outlet: Outlet,
        announce: Announcements,
        *,
        epoch: int,
        max_batch: Callable[[], int],
    ) -> None:
        self._config, self._clock, self._epoch, self._max_batch = config, clock, epoch, max_batch
        self._table, self._sockets, self._outlet, self._announce = table, sockets, outlet, announce
        self.frames = 0
        self.unread = False
        self.look_at = now = clock()
        self._unread_since = now  # and ever since then, if so: frames, not only what is refused
        self._empty_at = now  # when nothing was waiting in the socket
        self._read_up_to = now  # all that had come by then has been read
        self._last: Counter[int] | None = None  # at the end: messages with poses read since, by publisher
        self._last_others = 0  # and others

    @property
    def room(self) -> int:
        """How many more frames may wait for the engine."""
        return self._config.max_waiting - self._table.waiting

    @property
    def lags(self) -> bool:
        """Whether frames may have been unread for so long that live streams need the newest first."""
        return self.unread and self._clock() - self._unread_since > self._config.streams.patience_s * SECOND

    def waited(self) -> None:
        """The server waited for messages: none was in the socket."""
        self._empty_at = self._clock()

    def read(self) -> None:
        """Give the streams what publishers have sent, as far as there is room for it."""
        inbox = Inbox()
        room, refused = self.room, self._table.counts.total()
        self._receive(inbox, room)
        if self._config.batch_wait_s and inbox.poses:
            until = inbox.read[0] + round(self._config.batch_wait_s * SECOND)
            room = min(room, self._max_batch())
            while inbox.poses < room and (left := until - self._clock()) > 0:
                if self._sockets.wait_for_frames(math.ceil(left / 1e6)):
                    self._receive(inbox, room + inbox.others)
        self._take_in(inbox)
        if 2 * (self._table.counts.total() - refused) >= len(inbox.topics) + inbox.others:
            # ZeroMQ reads from all publishers in turn: whoever sends what is refused does not make others lag.
            self._unread_since = self._clock()

    def read_on(self) -> bool:
        """Likewise, at once; whether there was room for frames."""
        inbox, room = Inbox(), self.room
        self._receive(inbox, room)
        self._take_in(inbox)
        return room > 0

    def end(self) -> None:
        """What ZeroMQ has received by now is `unread`, and from now on what comes later is not."""
        self.unread = True
        self._last = Counter()

    def answer_all(self) -> None:
        """Tell publishers at once what has been taken, if they have asked."""
        self._sockets.answer(self._epoch, self._clock(), at_once=True)

    def count_unread(self, until: int) -> int:
        """The messages that still wait in the socket, read but not taken; of those that go on coming, until then."""
        unread = 0
        while self.unread and self._clock() < until:
            inbox = Inbox()
            self._receive(inbox, self._config.max_waiting)
            unread += len(inbox.topics)
        return unread

    def up_to(self, now: int) -> int:
        """The time by which every frame that had come was read: deadlines after it have not passed."""
        if not self.unread or self.give_up_holes():
            self._read_up_to = now
        return max(self._read_up_to, now - UNREAD_NS)

    def give_up_holes(self) -> bool:
        """If nothing can be read, for all that waits does so for frames that are behind what is unread."""
        if blocked := self.room <= 0 and not self._table.pending:
            self._table.give_up_holes()
        return blocked

    def watch_publishers(self, now: int) -> None:
        """Who has gone; and who sent messages that never end, and was cut off before they fill the memory."""
        if now < self.look_at:
            return
        self.look_at = now + LOOK_EVERY
        if gone := self._sockets.publishers_gone():
            self._table.left(gone)
        if found := self._sockets.endless():
            self._table.offend("", "hoarding", "a publisher sent a message without end: disconnected", now, found)

    def _receive(self, inbox: Inbox, room: int) -> None:
        if not self.unread:
            self._unread_since = self._empty_at
        self.unread = self._sockets.receive(inbox, room, self._clock, self._refuse)
        if self._last is not None:
            # ZeroMQ reads from all publishers in turn: once as much as may wait for one of them is read, all that did
            # wait is read.
            self._last.update(inbox.sources)
            self._last_others += inbox.others
            queue = self._config.receive_queue
            if max(self._last.values(), default=0) >= queue or self._last_others >= queue * self._sockets.publishers:
                self.unread = False
        if not self.unread:
            self._empty_at = self._clock()

    def _take_in(self, inbox: Inbox) -> None:
        refused: set[int] = set()

        def refuse(which: int, error: WireError) -> None:
            refused.add(which)
            self._offend(inbox.topics[which], error.kind, str(error), inbox.read[which], inbox.sources[which])

        self.frames += self._table.receive(inbox.topics, inbox.bodies, inbox.read, refuse, inbox.sources)
        self._sockets.send(self._outlet.raw(inbox.topics, inbox.bodies, refused))
        self._announce.tell()  # first, so that a publisher hears what was refused before it hears that all is taken
        self._sockets.answer(self._epoch, self._clock())

    def _refuse(self, topic: bytes, kind: str, detail: str, source: int) -> None:
        self._offend(topic, kind, detail, self._clock(), source)

    def _offend(self, topic: bytes, kind: str, detail: str, now: int, source: int) -> None:
        self._table.offend(wire.stream_of(topic) or "", kind, detail, now, source=source)
