"""The server: raw poses in, refined poses, events and heartbeats out. Sockets and one loop around `rtskel.serve.table`.

One thread does everything, so that a heartbeat means that poses are being refined. Each turn of its loop reads
what has come, gives it to the streams, runs engine batches, which the streams share fairly, and acts on deadlines
that have passed. What this bounds, beyond the rules in `rtskel.serve.table`:

- *Queueing.* No wait is added to fill a batch unless `batch_wait_s` asks for it. A frame waits for the engine
  call that is running, and then for its turn: with P windows pending, at most ceil(P / max_batch) calls.
- *Overload.* Where frames come faster than the engine refines them, the newest of each live stream come first: the
  engine leaves out windows that have waited for long, and what it left out is flagged and counted (`overload`), see
  `rtskel.serve.table`. Streams of publishers that wait for room (`lossless`) lose nothing: `max_waiting` frames wait
  in the server, then it stops reading; ZeroMQ's queues fill up, and publishers see theirs full, wait or count what
  they drop. The server itself drops no frame.
- *Slow readers.* Up to `send_queue` messages wait for a reader; then ZeroMQ drops what is newer until it reads
  again. The holes in `seq` tell it.
- *A failing engine* does not end the stream of poses: if it raises, answers something that is no pose, or takes longer
  than `engine_timeout_s`, the poses of that batch pass through as they came, joints that were missing at the neck,
  flagged PASSTHROUGH, with an `error` event and a count in the heartbeats. It is called again with the next batch, or
  after a hang once that call has returned. An engine that fails before the first frame ends the server with an error.
- *The end.* `stop` (SIGTERM and SIGINT do the same): what ZeroMQ has received by then is refined, every stream
  is ended, its tail and its `end` are published, and up to `linger_s` are left to send them. A second signal
  ends at once.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

from rtskel import wire
from rtskel.engine import Engine
from rtskel.errors import ServeError, WireError
from rtskel.refine import RefinerBank
from rtskel.serve.config import ServeConfig
from rtskel.serve.emission import Emission
from rtskel.serve.lifting_bank import LiftingBank
from rtskel.serve.outlet import Outlet, Subscriptions
from rtskel.serve.reports import SECOND
from rtskel.serve.sockets import Inbox, Sockets
from rtskel.serve.table import CLOCK, StreamTable
from rtskel.serve.watched import WatchedEngine

REFINE_NS = 10_000_000
"""Time after which a turn reads again although windows are still pending."""

UNREAD_NS = SECOND
"""How long a frame can have waited unread while the server cannot keep up with reading: deadlines lag by this then."""

DRAIN_NS = 2 * SECOND
"""How long the end goes on reading what ZeroMQ has, if publishers go on sending."""


MAX_PATIENCE_S = 20.0
"""How long the end waits for one call of the engine."""


class Server:
    """A server that has bound its endpoints. `run` serves until `stop`; closing it is the caller's (a `with` block).

    Attributes:
        raw_endpoint, refined_endpoint: as bound, with the real port.
        epoch: random, in every message of this server.
        on_progress: called again and again while `run` ends.

    Args:
        config: what to do.
        engine: an open engine for a known skeleton; borrowed, not closed.
        clock: time in ns; CLOCK_MONOTONIC unless a test says otherwise.

    Raises:
        ServeError: an endpoint cannot be bound, or must not be without keys; lookaheads or radius do not fit the
            engine's window.
        EngineError: the engine does not run.
    """

    def __init__(self, config: ServeConfig, engine: Engine, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.config = config
        self.epoch = secrets.randbits(48)
        self._clock = clock
        self._engine = WatchedEngine(engine, clock, config.engine_timeout_s)
        bank = self._bank()
        self._table = StreamTable(bank, config.streams, epoch=self.epoch, model=engine.info.model_id)
        self._subscriptions = Subscriptions()
        self._outlet = Outlet(self._table, bank.lookaheads, bank.joints, self._subscriptions)
        self._stopping = False
        self.on_progress: Callable[[], None] = lambda: None
        self._frames_in = 0
        self._heartbeats = 0
        self._heartbeat_at = clock()
        self._last_heartbeat = (clock(), 0)  # when, and frames read until then
        self._unread = False  # messages are waiting in the socket
        self._read_up_to = clock()  # all that had come by then has been read
        with ExitStack() as stack:
            stack.callback(self._engine.release)
            self._sockets = Sockets(config, joints=bank.joints)
            stack.callback(self._sockets.close)
            if not bank.on_device:
                self._engine.try_out(bank.config.positions)
            self.raw_endpoint, self.refined_endpoint = self._sockets.bind()
            stack.pop_all()

    def _bank(self) -> RefinerBank:
        config = self.config
        try:
            return (RefinerBank if config.lift is None else partial(LiftingBank, lift_lookahead=config.lift))(
                self._engine,
                lookahead=config.lookaheads,
                radius=config.radius,
                streams=config.streams.max_streams,
                min_confidence=config.min_confidence,
                ahead=config.streams.ahead,
                hop=config.hop,
            )
        except ValueError as error:
            raise ServeError(str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the endpoints, after up to `linger_s` for what is still to be sent."""
        self._sockets.close()
        self._engine.release()

    @property
    def patience_s(self) -> float:
        """Seconds without `on_progress` after which a server that ends is stuck."""
        return 1.0 + max(min(self._engine.limit_s(), MAX_PATIENCE_S), self.config.linger_s)

    def stop(self) -> None:
        """Let `run` end every stream and return. May be called from a signal handler or another thread, and twice."""
        self._stopping = True
        self._sockets.wake()

    def run(self) -> None:
        """Serve until `stop`, and then until all that is due is published."""
        while not self._stopping:
            self._wait()
            now = self._clock()
            self._read()
            self._tell()
            self._refine()  # at once: what else there is to do can wait for it
            self._take_subscriptions()
            self._advance(now)
            self._tell()
            if now >= self._heartbeat_at:
                self._heartbeat(now)
        self._drain()

    # --- one turn of the loop -----------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until there is something to do."""
        reading = self._room() > 0
        if self._table.pending or (reading and self._unread):
            return
        left = min(self._table.next_deadline(), self._heartbeat_at) - self._clock()
        if left > 0:
            self._sockets.wait(math.ceil(left / 1e6), reading=reading)

    def _room(self) -> int:
        """How many more frames may wait for the engine."""
        return self.config.max_waiting - self._table.backlog - self._table.pending

    def _read(self) -> None:
        """Give the streams what publishers have sent, as far as there is room for it."""
        inbox = Inbox()
        room = self._room()
        self._receive(inbox, room)
        if self.config.batch_wait_s and inbox.poses:
            until = inbox.read[0] + round(self.config.batch_wait_s * SECOND)
            room = min(room, self._engine.max_batch)
            while inbox.poses < room and (left := until - self._clock()) > 0:
                if self._sockets.wait_for_frames(math.ceil(left / 1e6)):
                    self._receive(inbox, room)
        self._take_in(inbox)

    def _receive(self, inbox: Inbox, room: int) -> None:
        self._unread = self._sockets.receive(inbox, room, self._clock, self._wrong_parts)

    def _take_in(self, inbox: Inbox) -> None:
        def refuse(which: int, error: WireError) -> None:
            self._offend(inbox.topics[which], error.kind, str(error), inbox.read[which])

        self._frames_in += self._table.receive(inbox.topics, inbox.bodies, inbox.read, refuse)

    def _wrong_parts(self, topic: bytes, detail: str) -> None:
        self._offend(topic, "malformed", detail, self._clock())

    def _offend(self, topic: bytes, kind: str, detail: str, now: int) -> None:
        self._table.offend(wire.stream_of(topic) or "", kind, detail, now)

    def _advance(self, now: int) -> None:
        """Act on deadlines, of which only those have passed by which every frame that had come was read."""
        if not self._unread:
            self._read_up_to = now
        elif self._room() <= 0 and not self._table.pending:
            self._read_up_to = now  # what waits, waits for holes to be given up, and so does all that is unread
        self._table.advance(max(self._read_up_to, now - UNREAD_NS))

    def _refine(self) -> None:
        until = self._clock() + REFINE_NS
        while self._table.pending:
            self._step()
            if self._clock() >= until:
                return

    def _step(self) -> None:
        times = None if self._table.bank.on_device else self._engine_times
        self._table.run(self._deliver, self._clock, times, crowded=self._room() <= 0)
        self._tell()

    def _deliver(self, emission: Emission) -> None:
        self._sockets.send(self._outlet.messages(emission, self._clock()))

    def _engine_times(self) -> tuple[int, int]:
        if self._engine.error:
            self._table.engine_failed(self._engine.error, self._engine.ended)
        return self._engine.started, self._engine.ended

    def _tell(self) -> None:
        for event in self._table.take_events():
            self._publish(event)

    def _publish(self, message: wire.Message) -> None:
        topic, body = wire.encode(message)
        if self._subscriptions.want(topic):
            self._sockets.send([(topic, body)])

    def _take_subscriptions(self) -> None:
        changed = False
        for message in self._sockets.subscriptions():
            changed |= self._subscriptions.take(message)
            if message == b"\1" + wire.HEARTBEAT_TOPIC:
                self._heartbeat_at = 0  # at once: it tells the reader that its subscriptions are in force
        if changed:
            self._outlet.subscribed()

    def _heartbeat(self, now: int) -> None:
        since, frames = self._last_heartbeat
        interval = round(self.config.heartbeat_s * SECOND)
        self._publish(
            wire.Heartbeat(
                epoch=self.epoch,
                seq=self._heartbeats,
                time_ns=now,
                interval_ns=interval,
                streams=self._table.streams,
                frames_in=self._frames_in,
                frames_out=self._table.frames_out,
                counts=dict(self._table.counts),
                model=self._engine.info.model_id,
                skeleton=self._engine.info.skeleton_id,
                lookaheads=self.config.lookaheads,
                loop_fps=(self._frames_in - frames) * SECOND / max(1, now - since),
                clock=CLOCK,
            )
        )
        self._heartbeats += 1
        self._last_heartbeat = (now, self._frames_in)
        self._heartbeat_at = now + interval

    # --- the end ------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        until = self._clock() + DRAIN_NS
        self._unread = True
        while self._unread and self._clock() < until:
            self.on_progress()
            self._take_subscriptions()
            inbox = Inbox()
            self._receive(inbox, self._room())
            self._take_in(inbox)
            self._tell()
            self._refine()
            if self._room() <= 0 and not self._table.pending:
                break  # the rest waits for holes, which are given up now
        self._table.shutdown(self._clock())
        self._tell()
        while self._table.pending:
            self.on_progress()
            self._step()
        self.on_progress()
        assert self._table.idle
