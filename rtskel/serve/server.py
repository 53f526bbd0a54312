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
- *Publishers* that ask are answered when the server has taken everything they sent before (`wire.Taken`); they also
  get its heartbeats and what it refuses of their streams.
- *Readers that come back* are sent again what was published in the last two seconds, see `rtskel.serve.kept`.
- *Slow readers.* Up to `send_queue` messages wait for a reader; then ZeroMQ drops what is newer until it reads
  again. The holes in `seq` tell it.
- *A failing engine* does not end the stream of poses: if it raises, answers something that is no pose, or takes longer
  than `engine_timeout_s`, the poses of that batch pass through as they came, joints that were missing at the neck,
  flagged PASSTHROUGH, with an `error` event and a count in the heartbeats. It is called again with the next batch, or
  after a hang once that call has returned, or once another engine was opened in its place (`reopen`; `reload` does so
  on request). An engine that fails before the first frame ends the server with an error.
- *Pauses.* Deadlines count only the time in which the loop ran: a server that was stopped drops nothing as late.
- *The end.* `stop` (SIGTERM and SIGINT do the same): what ZeroMQ has received by then is refined, however much
  publishers go on sending, every stream is ended, its tail and its `end` are published, within `drain_s`; what is left
  then is counted (`undrained`). Up to `linger_s` are left to send them. A second signal ends at once.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from rtskel import wire
from rtskel.closing import Closing
from rtskel.engine import Engine, EngineInfo
from rtskel.errors import ServeError
from rtskel.refine import RefinerBank
from rtskel.serve.announcements import Announcements
from rtskel.serve.config import ServeConfig
from rtskel.serve.emission import Emission
from rtskel.serve.kept import Kept, Wanted
from rtskel.serve.lifting_bank import LiftingBank
from rtskel.serve.outlet import Outlet
from rtskel.serve.reading import Reading
from rtskel.serve.reports import SECOND
from rtskel.serve.sockets import Sockets
from rtskel.serve.subscriptions import Subscriptions
from rtskel.serve.table import StreamTable
from rtskel.serve.watched import WatchedEngine

REFINE_NS = 10_000_000
"""Time after which a turn reads again although windows are still pending."""

CATCH_UP_NS = SECOND // 10
"""How long a turn reads on where frames have been unread for too long."""

REOPEN_EVERY = 30 * SECOND
"""Shortest time between two attempts to replace an engine that hangs."""

PAUSE_NS = SECOND // 10
"""A wait that takes so much longer than it should was a pause of the process, and not of its publishers."""

MAX_TURN_NS = SECOND
"""A turn that takes longer was a pause, too, by as much as it was longer."""


_AGAIN = b"\1" + wire.AGAIN_PREFIX

MAX_PATIENCE_S = 20.0
"""How long the end waits for one call of the engine."""


class Server(Closing):
    """A server that has bound its endpoints. `run` serves until `stop`; closing it is the caller's (a `with` block).

    Attributes:
        raw_endpoint, refined_endpoint: as bound, with the real port.
        epoch: random, in every message of this server.
        on_progress: called again and again while `run` ends.
        on_poses: called with refined poses and the time in ns when they are sent.
        undrained: windows and messages that could not be refined within `drain_s`, once `run` has returned.

    Args:
        config: what to do.
        engine: an open engine for a known skeleton; borrowed, not closed unless `reopen` replaces it.
        clock: time in ns; CLOCK_MONOTONIC unless a test says otherwise.
        reopen: opens another engine for `reload`, and after a call that hangs.

    Raises:
        ServeError: an endpoint cannot be bound, or must not be without keys; lookaheads or radius do not fit the
            engine's window.
        EngineError: the engine does not run.
    """

    def __init__(
        self,
        config: ServeConfig,
        engine: Engine,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        reopen: Callable[[], Engine] | None = None,
    ) -> None:
        self.config = config
        self.epoch = secrets.randbits(48)
        self._clock = clock
        self._engine = WatchedEngine(engine, clock, config.engine_timeout_s)
        self._reopen = reopen
        self._reload = False
        self._reopen_at = clock()  # after a hang, not before that
        bank = _bank(config, self._engine)
        self._model, self._skeleton = engine.info.model_id[: wire.MAX_TEXT], engine.info.skeleton_id
        self._table = StreamTable(bank, config.streams, epoch=self.epoch, model=self._model)
        self._subscriptions, self._kept = Subscriptions(), Kept()
        self._wanted = Wanted(self._subscriptions, clock())
        self._outlet = Outlet(self._table, bank.lookaheads, bank.joints, self._wanted)
        self._outlet.subscribed()
        self.undrained = 0
        self._stopping = False
        self.on_progress: Callable[[], None] = lambda: None
        self.on_poses: list[Callable[[Emission, int], None]] = []
        with ExitStack() as stack:
            stack.callback(self._engine.release)
            self._sockets = Sockets(config, joints=bank.joints)
            stack.callback(self._sockets.close)
            given = self._table, self._sockets, self._subscriptions, self._kept
            self._announce = Announcements(config, clock, *given, epoch=self.epoch, skeleton=self._skeleton)
            reads = self._table, self._sockets, self._outlet, self._announce
            self._reading = Reading(config, clock, *reads, epoch=self.epoch, max_batch=lambda: self._engine.max_batch)
            if not bank.on_device:
                self._engine.try_out(bank.config.positions)
            self.raw_endpoint, self.refined_endpoint = self._sockets.bind()
            stack.pop_all()

    def close(self) -> None:
        """Frees the endpoints, after up to `linger_s` for what is still to be sent."""
        self._sockets.close()
        self._engine.release()

    @property
    def patience_s(self) -> float:
        """Seconds without `on_progress` after which a server that ends is stuck."""
        return 1.0 + max(min(self._engine.limit_s(), MAX_PATIENCE_S), self.config.linger_s)

    def unhealthy(self) -> str:
        """Why the loop does not turn as it should; "" if it does. May be called from any thread."""
        return "" if self._stopping else self._announce.overdue()

    def unready(self) -> str:
        """Why frames are not refined now; "" if they are. May be called from any thread."""
        if self._stopping:
            return "the server is ending"
        return f"the engine failed: {error}" if (error := self._engine.error) else self.unhealthy()

    @property
    def last_heartbeat(self) -> wire.Heartbeat | None:
        """The newest one; None before the first."""
        return self._announce.last

    @property
    def on_heartbeat(self) -> list[Callable[[wire.Heartbeat], None]]:
        """What is called with every heartbeat."""
        return self._announce.on_heartbeat

    @property
    def engine_info(self) -> EngineInfo:
        """Of the engine that runs."""
        return self._engine.info

    def reload(self) -> None:
        """Open the engine anew (`reopen`) beside the one that runs, which it then replaces between two batches.

        If it cannot be opened, or does not fit, nothing changes but an event says so. May be called from a signal
        handler or another thread.
        """
        self._reload = True
        self._sockets.wake()

    def stop(self) -> None:
        """Let `run` end every stream and return. May be called from a signal handler or another thread, and twice."""
        self._stopping = True
        self._sockets.wake()

    def run(self) -> None:
        """Serve until `stop`, and then until all that is due is published."""
        while not self._stopping:
            limit = self._wait()
            now = self._clock()
            if now - limit > PAUSE_NS:
                self._table.pause(int(now - limit))
            self._read()
            self._announce.tell()
            self._refine()  # at once: what else there is to do can wait for it
            self._take_subscriptions()
            self._reading.watch_publishers(now)
            self._replace_engine(now)
            self._table.advance(self._reading.up_to(now))
            self._announce.tell()
            if now >= self._announce.due:
                self._heartbeat(now)
            if (over := self._clock() - now - MAX_TURN_NS) > 0:
                self._table.pause(over)
        self._drain()

    # --- one turn of the loop -----------------------------------------------------------------------------------------

    def _wait(self) -> float:
        """Until there is something to do; gives when it should be over at the latest."""
        reading = self._reading.room > 0
        now = self._clock()
        if self._table.pending or (reading and self._reading.unread):
            return now
        answers = min(self._sockets.answer_due(), self._kept.answer_due())
        until = min(self._table.next_deadline(), self._announce.due, self._reading.look_at, answers)
        if until > now:
            self._sockets.wait(math.ceil((until - now) / 1e6), reading=reading)
            if reading:
                self._reading.waited()
        return max(until, now) + 2e6  # polls count in ms

    def _read(self) -> None:
        """Give the streams what publishers have sent; where that lags, read on, and leave out windows for that."""
        self._reading.read()
        until = self._clock() + CATCH_UP_NS
        catching_up = self._reading.lags
        while catching_up and self._reading.unread and (now := self._clock()) < until:
            self._table.leave_out(self._deliver, now)
            self._announce.tell()
            catching_up = self._reading.read_on()

    def _refine(self) -> None:
        until = self._clock() + REFINE_NS
        while self._table.pending:
            self._step()
            if self._clock() >= until:
                return

    def _step(self) -> None:
        times = None if self._table.bank.on_device else self._engine_times
        self._table.run(self._deliver, self._clock, times, crowded=self._reading.room <= 0 or self._reading.lags)
        self._announce.tell()

    def _replace_engine(self, now: int) -> None:
        """Where that is asked for, or the engine hangs: another one is opened beside it, and takes its place."""
        hangs = self._engine.hangs and self._reopen is not None and now >= self._reopen_at
        if self._reload or hangs:
            self._reload = False
            self._reopen_at = now + REOPEN_EVERY
            if self._reopen is None or self._table.bank.on_device:
                self._table.offend("", "reload", "the engine of this server cannot be replaced", now)
            else:
                self._engine.open_another(self._reopen, self._table.bank.config.positions, self._sockets.wake)
        problem = self._engine.take_over()
        if problem:
            self._table.offend("", "reload", f"the engine stays as it is: {problem}", now)
        elif problem is not None:
            self._model = self._engine.info.model_id[: wire.MAX_TEXT]
            self._table.model_changed(self._model, now)
            self._outlet.model_changed()

    def _deliver(self, emission: Emission) -> None:
        now = self._clock()
        for told in self.on_poses:
            told(emission, now)
        messages = self._outlet.messages(emission, now)
        self._kept.add(messages, now)
        if self._wanted.lingering:  # some of it is for readers that may come back
            messages = [message for message in messages if self._subscriptions.want(message[0])]
        self._sockets.send(messages)

    def _engine_times(self) -> tuple[int, int]:
        if self._engine.error:
            self._table.engine_failed(self._engine.error, self._engine.ended)
        return self._engine.started, self._engine.ended

    def _take_subscriptions(self) -> None:
        now = self._clock()
        for message, reader, why in self._subscriptions.follow(*self._sockets.subscriptions(), now):
            if why:
                self._sockets.cut_off(reader)
                self._table.offend("", "subscriptions", f"a reader was disconnected: {why}", now)
            elif message.startswith(_AGAIN):
                self._kept.ask(message[1:])
            elif message == b"\1" + wire.HEARTBEAT_TOPIC:
                self._announce.hasten()
        if self._wanted.update(now):
            self._outlet.subscribed()
        self._sockets.send(self._kept.answers(now, self._announce.last_body))

    def _heartbeat(self, now: int) -> None:
        self._announce.heartbeat(now, self._reading.frames, self._model)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Refine what has come, end every stream: all within `drain_s`."""
        until = self._clock() + round(self.config.drain_s * SECOND)
        self._reading.end()
        while self._reading.unread and self._clock() < until:
            self.on_progress()
            self._take_subscriptions()
            self._reading.read_on()
            self._announce.tell()
            self._refine()
            self._reading.give_up_holes()
            self._announce.tell()
        self._reading.answer_all()
        self._table.shutdown(self._clock())
        self._announce.tell()
        while self._table.pending and self._clock() < until:
            self.on_progress()
            self._step()
        self.on_progress()
        self._count_undrained()

    def _count_undrained(self) -> None:
        """What could not be refined in time: windows, messages that wait, and messages that were not even read."""
        # Whoever goes on sending does not keep the server from ending.
        unread = self._reading.count_unread(self._clock() + SECOND)
        self.undrained = self._table.pending + self._table.backlog + unread
        if self.undrained:
            detail = f"{self.undrained} windows and messages were left when {self.config.drain_s:g} s were over"
            self._table.offend("", "undrained", detail, self._clock(), self.undrained)
            self._announce.tell()


def _bank(config: ServeConfig, engine: WatchedEngine) -> RefinerBank:
    try:
        return (RefinerBank if config.lift is None else partial(LiftingBank, lift_lookahead=config.lift))(
            engine,
            lookahead=config.lookaheads,
            radius=config.radius,
            streams=config.streams.max_streams,
            min_confidence=config.min_confidence,
            ahead=config.streams.ahead,
            hop=config.hop,
        )
    except ValueError as error:
        raise ServeError(str(error)) from None
