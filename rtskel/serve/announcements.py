"""What a server says of its streams and of itself: events, lines in its log, and heartbeats."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from rtskel import wire
from rtskel.serve.config import ServeConfig
from rtskel.serve.kept import Kept
from rtskel.serve.reports import SECOND
from rtskel.serve.sockets import Sockets
from rtskel.serve.subscriptions import Subscriptions
from rtskel.serve.table import CLOCK, StreamTable

SOON = SECOND // 50
"""A reader that asks for heartbeats gets one at once, but not within that time of the last one."""

MAX_LATE = 3
"""Heartbeats that may be overdue before the server counts as unhealthy."""

MAX_LINES = 50
"""Errors that are logged in all."""

MAX_TOLD = 256
"""Refusals that publishers are told of between two heartbeats."""

log = logging.getLogger("rtskel.serve")


class Announcements:
    """Tells readers and publishers what happens.

    Args:
        config, clock, table, sockets, subscriptions, kept: the server's.
        epoch, skeleton: for heartbeats.

    Attributes:
        due: when the next heartbeat is.
        last: the newest one; None before the first. May be read by any thread.
        last_body: its bytes.
        on_heartbeat: called with every heartbeat.
    """

    def __init__(
        self,
        config: ServeConfig,
        clock: Callable[[], int],
        table: StreamTable,
        sockets: Sockets,
        subscriptions: Subscriptions,
        kept: Kept,
        *,
        epoch: int,
        skeleton: str,
    ) -> None:
        self._config, self._clock = config, clock
        self._table, self._sockets, self._subscriptions, self._kept = table, sockets, subscriptions, kept
        self._epoch, self._skeleton = epoch, skeleton
        self.due = clock()
        self.last: wire.Heartbeat | None = None
        self.last_body = b""
        self.on_heartbeat: list[Callable[[wire.Heartbeat], None]] = []
        self._heartbeats = 0
        self._since = (clock(), 0)  # when the last one was, and frames read until then
        self._told = 0  # refusals that publishers were told of since then
        self._refused: Counter[str] = Counter()  # clients, as far as was told
        self._logged: set[tuple[str, str]] = set()  # stream and kind of error

    # --- events -------------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Publish the events of the table; publishers hear of errors, too."""
        for event in self._table.take_events():
            body = self._publish(event)
            self._kept.add([(wire.event_topic(event.stream), body)], self._clock())
            if event.kind == "error":
                self._told += 1
                self._log(event)
                if event.stream and self._told <= MAX_TOLD:
                    self._sockets.tell_publishers(body, self._clock())

    def _log(self, event: wire.Event) -> None:
        """Every kind of error of every stream once, as far as a person can read that many."""
        if len(self._logged) > MAX_LINES or not (new := {(event.stream, kind) for kind in event.counts} - self._logged):
            return
        self._logged |= new
        more = "; more are told in events and counted in heartbeats" * (len(self._logged) > MAX_LINES)
        log.warning("%s%s", event.detail, more)

    def _publish(self, message: wire.Message) -> bytes:
        topic, body = wire.encode(message)
        if self._subscriptions.want(topic):
            self._sockets.send([(topic, body)])
        return body

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def hasten(self) -> None:
        """A reader has asked for heartbeats: one tells it that its subscriptions are in force."""
        self.due = min(self.due, self._since[0] + SOON)

    def heartbeat(self, now: int, frames_in: int, model: str) -> None:
        """Publish one; so many frames were read until now, and that engine refines."""
        since, frames = self._since
        interval = round(self._config.heartbeat_s * SECOND)
        self._check_clients(now)
        beat = self.last = wire.Heartbeat(
            epoch=self._epoch,
            seq=self._heartbeats,
            time_ns=now,
            interval_ns=interval,
            streams=self._table.streams,
            frames_in=frames_in,
            frames_out=self._table.frames_out,
            counts=dict(self._table.counts),
            model=model,
            skeleton=self._skeleton,
            lookaheads=self._config.lookaheads,
            loop_fps=(frames_in - frames) * SECOND / max(1, now - since),
            clock=CLOCK,
        )
        for told in self.on_heartbeat:
            told(beat)
        self.last_body = self._publish(beat)
        self._sockets.tell_publishers(self.last_body, now)
        self._heartbeats, self._told = self._heartbeats + 1, 0
        self._since = (now, frames_in)
        self.due = now + interval

    def overdue(self) -> str:
        """Why the heartbeats are not as they should be; "" if they are. May be called from any thread."""
        beat = self.last
        if beat is None:
            return "no heartbeat yet"
        late = self._clock() - beat.time_ns - beat.interval_ns
        return f"the last heartbeat is {late / SECOND:.1f} s late" if late > MAX_LATE * beat.interval_ns else ""

    def _check_clients(self, now: int) -> None:
        """Clients that have no key, or are no longer on the list."""
        admission = self._sockets.admission
        if admission is None:
            return
        admission.check(self._sockets.failed_handshakes())
        for reason, count in (admission.refused - self._refused).items():
            self._table.offend("", "refused", f"a client was refused: {reason}", now, count)
        self._refused = admission.refused.copy()
        for problem in admission.problems:
            self._table.offend("", "key_file", f"the list of clients: {problem}", now)
