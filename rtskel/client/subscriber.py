"""Subscribers receive refined poses, events and heartbeats from a server.

A subscriber belongs to the thread that made it, like its ZeroMQ socket. Make it after a fork, never before: ZeroMQ's
threads do not survive one.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence

import zmq

from rtskel import wire
from rtskel.client.socket import Closing, Context, Socket, deadline_of, remaining_ms
from rtskel.curve import ClientKeys
from rtskel.errors import WireError

_DRAIN = 4096  # messages that one call takes at most, so that it returns however fast they come


class Subscriber(Closing):
    """Receives refined poses, events and heartbeats from a server.

    Iterating gives `wire.RefinedPose` (or `wire.RefinedBatch`) and, as asked for, `wire.Event` and `wire.Heartbeat`
    objects for ever.

    Attributes:
        lost: poses missed on the way, by (stream, lookahead): holes in `seq`, because the reader was too slow or the
            connection broke.
        skipped: poses left out on purpose by `latest=True`, by (stream, lookahead).
        errors: malformed messages, which are skipped.
        last_error: the newest of those errors.
        heartbeat: the newest heartbeat.
    """

    def __init__(
        self,
        endpoint: str = wire.REFINED_ENDPOINT,
        *,
        streams: str | Sequence[str] | None = None,
        lookahead: int | Sequence[int] | None = None,
        events: bool = True,
        heartbeats: bool = False,
        latest: bool = False,
        batches: bool = False,
        raw: bool = False,
        keys: ClientKeys | None = None,
        queue: int | None = None,
        context: Context = None,
    ) -> None:
        """Begins to connect; returns at once, whether or not a server is there.

        Args:
            endpoint: where the server publishes refined poses.
            streams: stream ids; None: every stream.
            lookahead: those of the server's lookaheads (frames) to receive; None: all of them.
            events: give events of these streams and of the server, too.
            heartbeats: give heartbeats, too.
            latest: for a reader that must not lag, such as a display: of the waiting poses, give only the newest of
                each stream and lookahead.
            batches: receive the poses of all streams together, as `wire.RefinedBatch`, for readers of hundreds of them.
            raw: give the raw poses of these streams, too, as the server received them: `wire.RawPose`, `wire.RawBatch`
                (which holds everybody whom its estimator sent together) and `wire.StreamEnd`.
            keys: of this client, for a server with CURVE keys.
            queue: messages that may wait for this reader before the server drops more; default: 10000, and 256 with
                `latest`.
            context: to share one (inproc endpoints need that); `close` does not terminate it.

        Raises:
            WireError: a stream id is not valid.
            ValueError: a lookahead is negative, or batches are combined with `streams` or `latest`.
        """
        if batches and (streams is not None or latest):
            raise ValueError("batches hold every pose of all streams: neither streams nor latest can choose among them")
        ids = (streams,) if isinstance(streams, str) else streams
        lookaheads = (lookahead,) if isinstance(lookahead, int) else lookahead
        if lookaheads is not None and min(lookaheads, default=0) < 0:
            raise ValueError(f"lookahead {min(lookaheads)} is negative")
        topics = _subscriptions(ids, lookaheads, events, batches)
        if raw:
            topics += [wire.RAW_BATCH_PREFIX, *([wire.RAW_PREFIX] if ids is None else map(wire.raw_topic, ids))]

        self.endpoint = endpoint
        self.lost: Counter[tuple[str, int]] = Counter()
        self.skipped: Counter[tuple[str, int]] = Counter()
        self.errors = 0
        self.last_error: WireError | None = None
        self.heartbeat: wire.Heartbeat | None = None
        self._heartbeat_came = 0.0
        self._heartbeats = heartbeats
        self._latest = latest
        # Without stream ids, topics cannot select the lookahead: ZeroMQ matches prefixes, and the stream comes first.
        self._suffixes = None if lookaheads is None or batches else tuple(b"/L%d/" % number for number in lookaheads)
        self._expected: dict[tuple[str, int], tuple[int, int]] = {}  # (epoch, seq) of the next pose
        self._ready: OrderedDict[object, wire.Message] = OrderedDict()
        self._socket = Socket(zmq.SUB, context)
        self._zmq = self._socket.zmq
        self._zmq.rcvhwm = (256 if latest else 10_000) if queue is None else queue
        self._zmq.sndhwm = 0  # subscriptions are messages, too: those above the mark would never reach the server
        self._socket.connect(endpoint, keys)
        for topic in topics:
            self._zmq.subscribe(topic)
        # Last, so that when a heartbeat comes, the server knows the other subscriptions.
        self._zmq.subscribe(wire.HEARTBEAT_TOPIC)

    @property
    def connected(self) -> bool:
        """Whether the server is alive: a heartbeat came within the last three of its intervals.

        Known only as far as messages were received: a reader that does not read is not connected in this sense.
        """
        if self.heartbeat is None:
            return False
        return time.monotonic() - self._heartbeat_came < 3 * self.heartbeat.interval_ns * 1e-9

    def wait_for_server(self, timeout: float | None = None) -> wire.Heartbeat:
        """Returns the server's next heartbeat, or the last one while it is fresh. What the server publishes from then
        on will be received. Messages that come meanwhile are kept for `recv`.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: none came in that time.
        """
        deadline = deadline_of(timeout)
        while not self.connected:
            if not self._take() and not self._zmq.poll(remaining_ms(deadline)):
                raise TimeoutError(f"no heartbeat from a server at {self.endpoint}")
        assert self.heartbeat is not None
        return self.heartbeat

    def recv(self, timeout: float | None = None) -> wire.Message:
        """The next message.

        Args:
            timeout: seconds; None waits for ever, 0 gives only what is there.

        Raises:
            TimeoutError: none came in that time.
        """
        deadline = deadline_of(timeout)
        while True:
            for _ in range(_DRAIN):
                if (self._ready and not self._latest) or not self._take():
                    break
            if self._ready:
                return self._ready.popitem(last=False)[1]
            left = remaining_ms(deadline)
            if left == 0 or not self._zmq.poll(left):
                raise TimeoutError(f"no message from a server at {self.endpoint}")

    def __iter__(self) -> Iterator[wire.Message]:
        while not self._zmq.closed:
            yield self.recv()

    def close(self) -> None:
        """Disconnects. Messages that were not received are discarded."""
        self._socket.close(0)

    def _take(self) -> bool:
        """Moves one message that has come to those ready to be given; False if there is none."""
        try:
            parts = self._zmq.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        try:
            if len(parts) != 2:
                raise WireError(f"message of {len(parts)} parts, not topic and body")
            topic, body = parts
            if self._suffixes is None or not topic.startswith(wire.REFINED_PREFIX) or topic.endswith(self._suffixes):
                self._keep(wire.decode(topic, body))
        except WireError as error:
            self.errors += 1
            self.last_error = error
        return True

    def _keep(self, message: wire.Message) -> None:
        place: object = object()
        if isinstance(message, wire.RefinedBatch):
            for source, seq in zip(message.sources, message.numbers[:, 0].tolist(), strict=True):
                self._account((source.stream, message.lookahead), message.epoch, seq)
        elif isinstance(message, wire.RefinedPose):
            key = message.stream, message.lookahead
            self._account(key, message.epoch, message.seq)
            if self._latest:
                place = key
                self.skipped[key] += key in self._ready
        elif isinstance(message, wire.Heartbeat):
            self.heartbeat = message
            self._heartbeat_came = time.monotonic()
            if not self._heartbeats:
                return
        # A newer pose takes the place of the one it replaces, so that no stream starves.
        self._ready[place] = message

    def _account(self, key: tuple[str, int], epoch: int, seq: int) -> None:
        before, expected = self._expected.get(key, (epoch, seq))
        if epoch == before and seq > expected:
            self.lost[key] += seq - expected
        self._expected[key] = epoch, seq + 1


def _subscriptions(
    streams: Sequence[str] | None, lookaheads: Sequence[int] | None, events: bool, batches: bool
) -> list[bytes]:
    if batches:
        chosen = [wire.REFINED_BATCH_PREFIX] if lookaheads is None else map(wire.refined_batch_topic, lookaheads)
        return [*chosen] + [wire.EVENT_PREFIX] * events
    if streams is None:
        return [wire.REFINED_PREFIX] + [wire.EVENT_PREFIX] * events
    topics = []
    for stream in streams:
        if lookaheads is None:
            topics.append(wire.refined_topic(stream, 0).removesuffix(b"L0/"))
        else:
            topics += [wire.refined_topic(stream, number) for number in lookaheads]
        if events:
            topics.append(wire.event_topic(stream))
    return topics + [wire.event_topic("")] * events
