"""Subscribers receive refined poses, events and heartbeats from a server.

A subscriber belongs to the thread that made it, like its ZeroMQ socket. Make it after a fork, never before: ZeroMQ's
threads do not survive one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from rtskel import wire
from rtskel.client.reader import Given, Reader, ServerGone, Tally, Wishes
from rtskel.client.servers import REFINED, servers
from rtskel.client.slots import Key
from rtskel.client.socket import Context, deadline_of, poller_of, remaining_ms, wait_for_any
from rtskel.closing import Closing
from rtskel.curve import ClientKeys
from rtskel.errors import WireError

_SLICE_MS = 250  # a single wait; a process that was stopped meanwhile has waited no longer than that


class Subscriber(Closing):
    """Receives refined poses, events and heartbeats from a server, or from all servers that an endpoint stands for.

    Iterating gives `wire.RefinedPose` (or `wire.RefinedBatch`) and, as asked for, `wire.Event` and `wire.Heartbeat`
    objects, and `ServerGone` and `ServerBack` when the server stops or starts.

    By default a reader that keeps up gets every pose, also after a pause of its own. One that stays more than a second
    behind goes on with the newest pose of each stream: live poses are worth nothing when they are old. `latest` gives
    only the newest poses from the start, `everything` all of them however old they are.

    Attributes:
        endpoint: as given.
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
        everything: bool = False,
        batches: bool = False,
        when_gone: str = "tell",
        raw: bool = False,
        keys: ClientKeys | None = None,
        queue: int | None = None,
        context: Context = None,
    ) -> None:
        """Begins to connect; returns at once, whether or not a server is there.

        Args:
            endpoint: where the server publishes refined poses. Of several servers, with commas between them or in a
                file (`file:servers.txt`, see `rtskel.client.servers`), the poses of all are received.
            streams: stream ids; None: every stream.
            lookahead: those of the server's lookaheads (frames) to receive; None: all of them.
            events: give events of these streams and of the server, too.
            heartbeats: give heartbeats, too.
            latest: of the waiting poses, give only the newest of each stream and lookahead.
            everything: give all poses, however far behind the reader is, such as for a recording.
            batches: receive the poses of all streams together, as `wire.RefinedBatch`, for readers of hundreds of them;
                all of them are given.
            when_gone: what happens when the server stops: "tell": `ServerGone` is given, and the reader goes on waiting
                for the next server; "end": it is given, and iterating ends (once all have stopped, if there are
                several); "wait": nothing, the reader waits.
            raw: give the raw poses of these streams, too, as the server received them: `wire.RawPose`, `wire.RawBatch`
                (which holds everybody whom its estimator sent together) and `wire.StreamEnd`.
            keys: of this client, for a server with CURVE keys.
            queue: messages that may wait for this reader before the server drops more; default: 10000, and 256 with
                `latest`.
            context: to share one (inproc endpoints need that); `close` does not terminate it.

        Raises:
            WireError: a stream id or an endpoint is not valid.
            ValueError: a lookahead is negative, `when_gone` is none of the three, or options exclude each other.
        """
        if batches and (streams is not None or latest):
            raise ValueError("batches hold every pose of all streams: neither streams nor latest can choose among them")
        if latest and everything:
            raise ValueError("latest and everything exclude each other")
        if when_gone not in ("tell", "end", "wait"):
            raise ValueError(f"when_gone is {when_gone!r}, not 'tell', 'end' or 'wait'")
        ids = (streams,) if isinstance(streams, str) else streams
        lookaheads = (lookahead,) if isinstance(lookahead, int) else lookahead
        if lookaheads is not None and min(lookaheads, default=0) < 0:
            raise ValueError(f"lookahead {min(lookaheads)} is negative")
        topics = _subscriptions(ids, lookaheads, events, batches)
        if raw:
            topics += [wire.RAW_BATCH_PREFIX, *([wire.RAW_PREFIX] if ids is None else map(wire.raw_topic, ids))]

        # Without stream ids, topics cannot select the lookahead: ZeroMQ matches prefixes, and the stream comes first.
        suffixes = None if lookaheads is None or batches else tuple(b"/L%d/" % number for number in lookaheads)
        most = (256 if latest else 10_000) if queue is None else queue
        given = events, heartbeats, latest, everything, batches, when_gone, raw
        self.endpoint = endpoint
        self._wishes = Wishes(topics, suffixes, *given, keys, most)
        self._tally = Tally()
        self._turn = 0  # which reader was the last to give something
        self._counted = time.monotonic()  # up to when the silence of each of several servers was counted
        self._closed = False
        self._shards: dict[str, Reader] = {}  # by endpoint
        self._servers: list[Reader] = []
        self._context = context
        try:
            for each in servers(endpoint, REFINED):
                self._servers.append(self._reader(each))
            self._use(self._servers)
        except BaseException:
            self.close()
            raise

    # --- which servers ------------------------------------------------------------------------------------------------

    def _reader(self, endpoint: str) -> Reader:
        """A new reader. All share one context: that of the first, unless one was given."""
        context = self._context or (self._servers[0].socket.context if self._servers else None)
        return Reader(endpoint, self._wishes, self._tally, context)

    def _use(self, readers: list[Reader]) -> None:
        """Receives from these."""
        self._readers = readers
        self._sockets = [reader.socket for reader in {*readers, *self._servers}]
        self._poller = poller_of(self._sockets)
        self._told = [server.shards for server in self._servers]

    def _look(self) -> None:
        """Fronts may tell of other shards than before, or of none."""
        for server in self._servers:
            if server.shards:
                server.collect()
        if self._told == [server.shards for server in self._servers]:
            return
        readers, shards = [], {}
        for server in self._servers:
            for shard in server.shards:
                endpoint = wire.reached(shard, server.endpoint)
                shards[endpoint] = self._shards.get(endpoint) or self._reader(endpoint)
                readers.append(shards[endpoint])
            readers += [server] if not server.shards else []
        for endpoint, reader in self._shards.items():
            if endpoint not in shards:
                reader.close()
        self._shards = shards
        self._use(readers)

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> Counter[Key]:
        """Poses missed on the way, by (stream, lookahead): holes in `seq`, because the reader was too slow, the
        connection broke, or a new server had begun before the reader was connected.
        """
        return self._tally.lost

    @property
    def skipped(self) -> Counter[Key]:
        """Poses left out because newer ones had come, by (stream, lookahead)."""
        return self._tally.skipped

    @property
    def errors(self) -> int:
        """Malformed messages, which are skipped."""
        return self._tally.errors

    @property
    def last_error(self) -> WireError | None:
        """The newest of those errors."""
        return self._tally.last_error

    @property
    def _newest(self) -> Reader:
        return max(self._readers, key=lambda reader: reader.came)

    @property
    def heartbeat(self) -> wire.Heartbeat | None:
        """The newest heartbeat, of whichever server."""
        return self._newest.heartbeat

    @property
    def epoch(self) -> int | None:
        """The server's, or that of the server of the newest heartbeat; None before the first message."""
        return self._newest.epoch

    @property
    def connected(self) -> bool:
        """Whether all servers are alive: a heartbeat of each came within the last three of its intervals.

        Known only as far as messages were received: a reader that does not read is not connected in this sense.
        """
        return all(reader.connected and not reader.shards for reader in self._readers)

    def wait_for_server(self, timeout: float | None = None) -> wire.Heartbeat:
        """Returns the server's next heartbeat, or the last one while it is fresh; of several servers, once there is one
        of each. What they publish from then on will be received. Messages that come meanwhile are kept for `recv`.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: none came in that time.
            AccessError: the server does not admit this client.
        """
        deadline = deadline_of(timeout)
        while not self.connected:
            if not any([reader.take() for reader in self._readers]):
                if remaining_ms(deadline) == 0:
                    raise TimeoutError(f"no heartbeat from a server at {self.endpoint}")
                wait_for_any(self._sockets, remaining_ms(deadline), self._poller)
            self._look()
        assert self.heartbeat is not None
        return self.heartbeat

    # --- what comes ---------------------------------------------------------------------------------------------------

    def recv(self, timeout: float | None = None) -> Given:
        """The next message.

        Args:
            timeout: seconds; None waits for ever, 0 gives only what is there.

        Raises:
            TimeoutError: none came in that time.
            AccessError: the server does not admit this client.
        """
        deadline = deadline_of(timeout)
        while True:
            self._look()
            if len(self._readers) > 1 and (gone := self._silence(self._uncounted())):
                return gone
            for _ in self._readers:
                self._turn = (self._turn + 1) % len(self._readers)
                reader = self._readers[self._turn]
                if reader.collect():
                    return reader.give()
            self._look()  # it may have become a front
            left = remaining_ms(deadline)
            if left == 0:
                raise TimeoutError(f"no message from a server at {self.endpoint}")
            until = min((remaining_ms(reader.missed.deadline) for reader in self._readers), default=-1)
            wait = min(ms for ms in (left, until, _SLICE_MS) if ms >= 0)
            before = time.monotonic()
            wait_for_any(self._sockets, wait, self._poller)
            spent = min(time.monotonic() - before, wait / 1000)
            if len(self._readers) == 1 and (gone := self._silence(spent)):
                return gone

    def _silence(self, seconds: float) -> ServerGone | None:
        """Nothing came for so long from those of whom nothing came; tells of one that is gone."""
        return next((gone for reader in self._readers if (gone := reader.waited(seconds))), None)

    def _uncounted(self) -> float:
        """Seconds since the last call. One of several servers may be silent while nobody waits: others speak."""
        before, self._counted = self._counted, time.monotonic()
        return min(self._counted - before, _SLICE_MS / 1000)

    def __iter__(self) -> Iterator[Given]:
        while not self._closed:
            message = self.recv()
            yield message
            ends = self._wishes.when_gone == "end" and isinstance(message, ServerGone)
            if ends and all(reader.gone for reader in self._readers):
                return

    def close(self) -> None:
        """Disconnects. Messages that were not received are discarded."""
        self._closed = True
        for reader in reversed((*self._servers, *self._shards.values())):  # the first one's context is that of all
            reader.close()


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
