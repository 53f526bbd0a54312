"""The server: raw poses in, refined poses, events and heartbeats out. Sockets and one loop around `rtskel.serve.table`.

One thread does everything, so that a heartbeat means that poses are being refined. Each turn of its loop reads
what has come, gives it to the streams, runs engine batches, which the streams share fairly, and acts on deadlines
that have passed. What this bounds, beyond the rules in `rtskel.serve.table`:

- *Queueing.* No wait is added to fill a batch unless `batch_wait_s` asks for it. A frame waits for the engine
  call that is running, and then for its turn: with P windows pending, at most ceil(P / max_batch) calls.
- *Overload.* Where frames come faster than the engine refines them, the newest of each live stream come first: the
  engine leaves out windows that have waited for long, and what it left out is flagged and counted (`overload`), see
  `rtskel.serve.table`. Streams of publishers that wait for room (`lossless`) lose nothing: `most_waiting` frames wait
  in the server, then it stops reading; ZeroMQ's queues fill up, and publishers see theirs full, wait or count what
  they drop. The server itself drops no frame.
- *Slow readers.* Up to `send_queue` messages wait for a reader; then ZeroMQ drops what is newer until it reads
  again. The holes in `seq` tell it.
- *A failing engine* does not end the stream of poses: those it should have refined are passed through as they
  came, joints that were missing at the neck, flagged PASSTHROUGH, with an `error` event and a count in the
  heartbeats. It is called again with the next batch. An engine that fails before the first frame ends the
  server with one clear error.
- *The end.* `stop` (SIGTERM and SIGINT do the same): what ZeroMQ has received by then is refined, every stream
  is ended, its tail and its `end` are published, and up to `linger_s` are left to send them. A second signal
  ends at once.
"""

from __future__ import annotations

import gc
import math
import os
import re
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import zmq
from numpy.typing import NDArray

from rtskel import wire
from rtskel.curve import ServerKeys, check_bind
from rtskel.engine import Engine
from rtskel.errors import EngineError, RtskelError, ServeError
from rtskel.refine import RefinerBank
from rtskel.serve.lifting_bank import LiftingBank
from rtskel.serve.table import CLOCK, SECOND, Emission, StreamConfig, StreamTable, whole_pose
from rtskel.wire.fast import PoseWriter

REFINE_NS = 10_000_000
"""Time after which a turn reads again although windows are still pending."""

UNREAD_NS = SECOND
"""How long a frame can have waited unread while the server cannot keep up with reading: deadlines lag by this then."""

DRAIN_NS = 2 * SECOND
"""How long the end goes on reading what ZeroMQ has, if publishers go on sending."""

MAX_MESSAGE = 1 << 24
"""Bytes of a part for which ZeroMQ disconnects its sender. Far above what is valid, so that offenders can be named."""

ZMTP_HEARTBEAT_MS = 5000
"""Finds hosts that have vanished without closing their connections."""


@dataclass(frozen=True)
class ServeConfig:
    """What a server does.

    Attributes:
        raw: endpoint to bind for raw poses; port * or 0 is chosen by the system.
        refined: endpoint to bind for refined poses, events and heartbeats.
        lookaheads: output delays in frames, each published on topics of its own.
        radius: 2 radius + 1 predictions are averaged where the lookahead allows.
        min_confidence: joints below it count as missing.
        hop: the engine runs every that many frames of a stream, for the windows of all of them in one batch: the same
            poses, up to hop - 1 frames later.
        streams: how streams are treated.
        lift: give streams of 2D poses a depth, with this lookahead in frames, which comes on top of the others
            (`rtskel.serve.lifting_bank`); None: they are refused.
        batch_wait_s: how long a first frame waits for others to fill the engine's batch.
        heartbeat_s: interval of the heartbeats.
        receive_queue: messages that may wait unread for each publisher.
        send_queue: messages that may wait for each reader.
        most_waiting: frames that may wait for the engine, all streams together.
        linger_s: how long the last messages may take to be sent at the end.
        keys: CURVE keys; both endpoints then let in only the clients on their list.
        insecure: bind addresses that other machines can reach without keys.
    """

    raw: str = "tcp://127.0.0.1:5555"
    refined: str = "tcp://127.0.0.1:5556"
    lookaheads: tuple[int, ...] = (4,)
    radius: int = 2
    min_confidence: float = 0.0
    hop: int = 1
    streams: StreamConfig = field(default_factory=StreamConfig)
    lift: int | None = None
    batch_wait_s: float = 0.0
    heartbeat_s: float = 1.0
    receive_queue: int = 1000
    send_queue: int = 10_000
    most_waiting: int = 1024
    linger_s: float = 2.0
    keys: ServerKeys | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        for name in ("heartbeat_s", "receive_queue", "send_queue", "most_waiting"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("batch_wait_s", "linger_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


class Server:
    """A server that has bound its endpoints. `run` serves until `stop`; closing it is the caller's (a `with` block).

    Attributes:
        raw_endpoint, refined_endpoint: as bound, with the real port.
        epoch: random, in every message of this server.

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
        self._engine = _WatchedEngine(engine, clock)
        try:
            bank = (RefinerBank if config.lift is None else partial(LiftingBank, lift_lookahead=config.lift))(
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
        self._table = StreamTable(bank, config.streams, epoch=self.epoch, model=engine.info.model_id, output=whole_pose)
        self._subscriptions = Subscriptions()
        self._outlet = Outlet(self._table, bank.lookaheads, bank.joints, self._subscriptions)
        self._least_pose = 16 * bank.joints  # bytes, and a raw message has hardly more for each of its poses
        self._stopping = False
        self._frames_in = 0
        self._heartbeats = 0
        self._heartbeat_at = clock()
        self._last_heartbeat = (clock(), 0)  # when, and frames read until then
        self._unread = False  # messages are waiting in the socket
        self._read_up_to = clock()  # all that had come by then has been read

        with ExitStack() as stack:
            self._wake, self._waker = os.pipe()
            stack.callback(os.close, self._wake)
            stack.callback(os.close, self._waker)
            for end in (self._wake, self._waker):
                os.set_blocking(end, False)
            context = zmq.Context()
            stack.callback(context.term)
            for endpoint in (config.raw, config.refined):
                check_bind(endpoint, config.keys, config.insecure)
            if config.keys is not None:
                stack.enter_context(config.keys.admission(context))
            self._raw = _socket(stack, context, zmq.SUB, config.raw, config.keys, linger_s=0)
            self._raw.rcvhwm = config.receive_queue
            self._raw.maxmsgsize = MAX_MESSAGE
            # Everything, so that who sends other things can be named; the others are what clients wait for.
            for prefix in (wire.RAW_BATCH_PREFIX, wire.RAW_PREFIX, b""):
                self._raw.subscribe(prefix)
            self._refined = _socket(stack, context, zmq.XPUB, config.refined, config.keys, config.linger_s)
            self._refined.sndhwm = config.send_queue
            self._refined.maxmsgsize = wire.MAX_BODY
            self._refined.xpub_verboser = True  # every subscription is told, so that counting is exact
            if not bank.on_device:
                self._engine.try_out(bank.config.positions)
            self.raw_endpoint = _bind(self._raw, config.raw)
            self.refined_endpoint = _bind(self._refined, config.refined)
            self._poller, self._deaf = zmq.Poller(), zmq.Poller()  # the second one does not hear publishers
            self._poller.register(self._raw, zmq.POLLIN)
            for poller in (self._poller, self._deaf):
                poller.register(self._refined, zmq.POLLIN)
                poller.register(self._wake, zmq.POLLIN)
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the endpoints, after up to `linger_s` for what is still to be sent."""
        self._resources.close()

    def stop(self) -> None:
        """Let `run` end every stream and return. May be called from a signal handler or another thread, and twice."""
        self._stopping = True
        with suppress(BlockingIOError):  # full of such calls already
            os.write(self._waker, b"!")

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
            (self._poller if reading else self._deaf).poll(math.ceil(left / 1e6))

    def _room(self) -> int:
        """How many more frames may wait for the engine."""
        return self.config.most_waiting - self._table.backlog - self._table.pending

    def _read(self) -> None:
        """Give the streams what publishers have sent, as far as there is room for it."""
        inbox = _Inbox()
        room = self._room()
        self._receive(inbox, room)
        if self.config.batch_wait_s and inbox.poses:
            until = inbox.read[0] + round(self.config.batch_wait_s * SECOND)
            room = min(room, self._engine.max_batch)
            while inbox.poses < room and (left := until - self._clock()) > 0:
                if self._raw.poll(math.ceil(left / 1e6)):
                    self._receive(inbox, room)
        self._take_in(inbox)

    def _receive(self, inbox: _Inbox, room: int) -> None:
        recv, get, raw, clock, least = _recv, _get, self._raw, self._clock, self._least_pose
        self._unread = True
        while inbox.poses < room:
            try:
                topic = recv(raw, _NOBLOCK, False)
            except zmq.Again:
                self._unread = False
                return
            # The parts of a message are there together or not at all.
            body = recv(raw, 0, False) if topic.more else topic
            if body.more or body is topic:
                self._refuse_parts(topic, body, clock())
                continue
            data = body.bytes
            inbox.topics.append(topic.bytes)
            inbox.bodies.append(data)
            inbox.read.append(clock())
            inbox.poses += len(data) // least or 1
            # To ask is cheaper than to catch an error, which is cheaper than to ask each time.
            if len(inbox.topics) == 1 and not get(raw, _EVENTS) & _READABLE:
                self._unread = False
                return

    def _take_in(self, inbox: _Inbox) -> None:
        def refuse(which: int, why: str) -> None:
            self._refuse(inbox.topics[which], len(inbox.bodies[which]), why, inbox.read[which])

        self._frames_in += self._table.receive(inbox.topics, inbox.bodies, inbox.read, refuse)

    def _refuse_parts(self, topic: zmq.Frame, body: zmq.Frame, now: int) -> None:
        parts = 1 if body is topic else 2
        while body.more:
            body = _recv(self._raw, 0, False)
            parts += 1
        name = topic.bytes
        self._refuse(name, 0, f"message on {ascii(name[:100])[1:]}: {parts} parts, not topic and body", now)

    def _refuse(self, topic: bytes, size: int, detail: str, now: int) -> None:
        if size > wire.MAX_BODY:
            kind = "oversize"
        elif _ANOTHER_VERSION.search(detail):
            kind = "version"
        else:
            kind = "malformed"
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
        self._send(self._outlet.messages(emission, self._clock()))

    def _send(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        send, refined = _send, self._refined
        for topic, body in messages:
            send(refined, topic, _FIRST_PART)
            send(refined, body, _NOBLOCK)

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
            self._send([(topic, body)])

    def _take_subscriptions(self) -> None:
        changed = False
        while True:
            try:
                message = _recv(self._refined, _NOBLOCK)
            except zmq.Again:
                break
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
            self._take_subscriptions()
            inbox = _Inbox()
            self._receive(inbox, self._room())
            self._take_in(inbox)
            self._tell()
            self._refine()
            if self._room() <= 0 and not self._table.pending:
                break  # the rest waits for holes, which are given up now
        self._table.shutdown(self._clock())
        self._tell()
        while self._table.pending:
            self._step()
        assert self._table.idle


def run_server(
    config: ServeConfig,
    engine: Engine,
    on_ready: Callable[[Server], None],
    *,
    clock: Callable[[], int] = time.monotonic_ns,
) -> int:
    """Serve until SIGTERM or SIGINT, then end every stream and return. For the main thread of a process.

    Args:
        config: what to do.
        engine: an open engine; borrowed.
        on_ready: called with the server once its endpoints are bound and signals are taken care of.
        clock: see `Server`.

    Returns:
        Which signal it was; 0 if `Server.stop` was called without one.

    Raises:
        ServeError, EngineError: see `Server`.
    """
    with Server(config, engine, clock=clock) as server, _signals(server.stop) as received, _few_collections():
        on_ready(server)
        server.run()
        return received[0] if received else 0


@contextmanager
def _few_collections() -> Iterator[None]:
    """Keeps the garbage collector from walking all that is loaded again whenever many messages are in hand."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """The first SIGTERM or SIGINT calls `stop` and is put on the list; a second one ends the process at once."""
    both = (signal.SIGTERM, signal.SIGINT)
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in both:
            signal.signal(each, signal.SIG_DFL)
        stop()

    before = {number: signal.signal(number, handle) for number in both}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _socket(
    stack: ExitStack, context: zmq.Context[Any], kind: int, endpoint: str, keys: ServerKeys | None, linger_s: float
) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    stack.callback(socket.close, round(1000 * linger_s))
    socket.heartbeat_ivl = ZMTP_HEARTBEAT_MS
    socket.ipv6 = "[" in endpoint
    if keys is not None:
        keys.apply(socket)
    return socket


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ServeError(f"{endpoint}: {str(error).lower()}") from None
    bound = socket.last_endpoint
    assert isinstance(bound, bytes)
    return bound.rstrip(b"\0").decode()


class _Inbox:
    """Messages as they were read."""

    def __init__(self) -> None:
        self.topics: list[bytes] = []
        self.bodies: list[bytes] = []
        self.read: list[int] = []
        self.poses = 0
        """About how many they hold."""


class Subscriptions:
    """What readers have subscribed to, as an XPUB socket tells it."""

    def __init__(self) -> None:
        self._count: Counter[bytes] = Counter()
        self._lengths: Counter[int] = Counter()

    def take(self, message: bytes) -> bool:
        """A message from the socket; whether it changes what is wanted."""
        prefix = message[1:]
        before = self._count[prefix]
        if message[:1] == b"\1":
            self._count[prefix] = before + 1
        elif message[:1] == b"\0":
            self._count[prefix] = before - 1
        if self._count[prefix] <= 0:
            del self._count[prefix]
        changed = (prefix in self._count) - (before > 0)
        if changed:
            self._lengths[len(prefix)] += changed
            self._lengths = +self._lengths
        return changed != 0

    def want(self, topic: bytes) -> bool:
        """Whether anybody reads that topic; what nobody reads is not even encoded."""
        return any(topic[:length] in self._count for length in self._lengths)

    def want_some(self, prefix: bytes) -> bool:
        """Whether anybody reads topics that begin so."""
        return self.want(prefix) or any(known.startswith(prefix) for known in self._count)


class Outlet:
    """Refined poses on their way out: encoded for those topics that somebody reads."""

    def __init__(
        self, table: StreamTable[Any], lookaheads: Sequence[int], joints: int, subscriptions: Subscriptions
    ) -> None:
        self._table = table
        self._lookaheads = lookaheads
        self._subscriptions = subscriptions
        self._writer = PoseWriter(joints)
        # By place and lookahead: which kind of the writer's the poses are; and, once that was asked, whether they are
        # wanted: the same number, or _UNWANTED.
        self._kinds: dict[tuple[int, int], int] = {}
        self._wanted: dict[tuple[int, int], int] = {}
        # By place: the packed `wire.Source`. By lookahead: what packs batches; and which lookaheads are wanted so.
        self._sources: dict[int, bytes] = {}
        self._encoders: dict[int, wire.RefinedBatchEncoder] = {}
        self._in_batches: list[int] = []
        self._singly = False  # whether any poses are wanted in messages of their own

    def subscribed(self) -> None:
        """The subscriptions have changed."""
        self._wanted.clear()
        want = self._subscriptions.want
        self._in_batches = [lookahead for lookahead in self._lookaheads if want(wire.refined_batch_topic(lookahead))]
        self._singly = self._subscriptions.want_some(wire.REFINED_PREFIX)

    def messages(self, emission: Emission, now: int) -> Iterator[tuple[bytes, bytes]]:
        """What is to be sent of these poses at `now`."""
        for place in self._table.take_changed():
            self._forget(place)
        if self._singly:
            yield from self._alone(emission, now)
        for lookahead in self._in_batches:
            rows = emission.lookahead == lookahead
            if rows.any():
                yield from self._batches(lookahead, emission if rows.all() else emission.select(rows), now)

    def _alone(self, emission: Emission, now: int) -> Iterator[tuple[bytes, bytes]]:
        # Of few poses, and most often there are few, lists are read faster than arrays.
        poses = list(zip(emission.place.tolist(), emission.lookahead.tolist(), strict=True))
        kinds = [kind if (kind := self._wanted.get(pose)) is not None else self._ask(pose) for pose in poses]
        if min(kinds) == _UNWANTED:
            emission = emission.select(np.array(kinds) != _UNWANTED)
            kinds = [kind for kind in kinds if kind != _UNWANTED]
        if kinds:
            times = emission.infer_start_ns, emission.infer_end_ns, now
            arrays = emission.xyz, emission.confidence, emission.sigma
            bodies = self._writer.write(kinds, emission.numbers, *times, *arrays)
            yield from zip(map(self._writer.topics.__getitem__, kinds), bodies, strict=True)

    def _forget(self, place: int) -> None:
        """The poses of that place are of another kind than before."""
        for pose in [(place, lookahead) for lookahead in self._lookaheads]:
            self._wanted.pop(pose, None)
            if (kind := self._kinds.pop(pose, None)) is not None:
                self._writer.discard(kind)
        self._sources.pop(place, None)

    def _ask(self, pose: tuple[int, int]) -> int:
        """The kind of the poses of that place and lookahead, if they are wanted."""
        sample = self._table.sample(*pose)
        self._wanted[pose] = _UNWANTED
        if self._subscriptions.want(wire.refined_topic(sample.stream, sample.lookahead)):
            if pose not in self._kinds:
                self._kinds[pose] = self._writer.add(sample)
            self._wanted[pose] = self._kinds[pose]
        return self._wanted[pose]

    def _batches(self, lookahead: int, emission: Emission, now: int) -> Iterator[tuple[bytes, bytes]]:
        encoder = self._encoders.get(lookahead)
        if encoder is None:
            encoder = self._encoders[lookahead] = wire.RefinedBatchEncoder(self._sample(emission))
        known = self._sources
        sources = [known.get(place) or self._packed_source(place) for place in emission.place.tolist()]
        most = encoder.most(sources)
        parts = -(-len(sources) // most)
        edges = [len(sources) * part // parts for part in range(parts + 1)]  # of about the same size
        for first, end in pairwise(edges):
            rows = slice(first, end)
            body = encoder(
                *(emission.infer_start_ns, emission.infer_end_ns, now, sources[rows], emission.numbers[rows]),
                *(emission.xyz[rows], emission.confidence[rows], emission.missing[rows], emission.sigma[rows]),
            )
            yield encoder.topic, body

    def _packed_source(self, place: int) -> bytes:
        pose = self._table.sample(place, 0)
        source = wire.Source(pose.stream, pose.source_epoch, pose.source_clock, pose.fps, pose.axes, pose.mirrored)
        packed = self._sources[place] = wire.RefinedBatchEncoder.source(source)
        return packed

    def _sample(self, emission: Emission) -> wire.RefinedBatch:
        """A batch with one of these poses."""
        pose = self._table.sample(int(emission.place[0]), int(emission.lookahead[0]))
        return wire.RefinedBatch(
            pose.lookahead,
            pose.epoch,
            *(0, 0, 0, pose.clock, pose.skeleton, pose.model),
            [wire.Source(pose.stream, pose.source_epoch, pose.source_clock, pose.fps, pose.axes, pose.mirrored)],
            np.zeros((1, 6), np.int64),
            *(emission.xyz[:1], emission.confidence[:1], emission.missing[:1], emission.sigma[:1]),
        )


_UNWANTED = -1


class _WatchedEngine:
    """The engine, its last call timed; where it fails, its input is the answer and `error` says why.

    Rings that the engine keeps are its own: where those fail, there are no frames left to answer with.
    """

    def __init__(self, engine: Engine, clock: Callable[[], int]) -> None:
        self._inner = engine
        self._clock = clock
        self.window = engine.window
        self.joints = engine.joints
        self.max_batch = engine.max_batch
        self.info = engine.info
        self.ring = engine.ring
        self.started = self.ended = 0
        self.error = ""

    def try_out(self, positions: NDArray[np.int64]) -> None:
        """One window: an engine that cannot run is found before the first frame. EngineError says why."""
        shape = (1, self.window, self.joints)
        try:
            self._inner.run(np.zeros((*shape, 3), np.float32), np.ones(shape, np.bool_), positions)
        except RtskelError:
            raise
        except Exception as error:
            raise EngineError(f"{self.info.path or self.info.kind}: the engine does not run: {error}") from error

    def run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `Engine.run`; never raises."""
        self.started = self._clock()
        self.error = ""
        try:
            return self._inner.run(x, missing, positions)
        except Exception as error:  # whatever a runtime throws: the streams go on
            self.error = " ".join(str(error).split())[:200] or type(error).__name__
            return np.take(x, positions, axis=1)
        finally:
            self.ended = self._clock()


_ANOTHER_VERSION = re.compile(r"version v is \d")
"""How `wire.decode` says that a message is of another version: one that says no version at all is just malformed."""

# The methods of pyzmq's compiled base class: those of its Socket add several times the cost of the call itself.
_recv: Any = zmq.backend.Socket.recv
_send: Any = zmq.backend.Socket.send
_get: Any = zmq.backend.Socket.get
# Plain integers: pyzmq's flags cost as much as the call itself.
_EVENTS = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)
_NOBLOCK = int(zmq.NOBLOCK)
_FIRST_PART = int(zmq.NOBLOCK | zmq.SNDMORE)
