"""Subscribers receive refined poses, events and heartbeats from a server.

A subscriber belongs to the thread that made it, like its ZeroMQ socket. Make it after a fork, never before: ZeroMQ's
threads do not survive one.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import zmq

from rtskel import wire
from rtskel.client.missed import Missed
from rtskel.client.slots import Key, Slots
from rtskel.client.socket import Context, Socket, deadline_of, remaining_ms
from rtskel.closing import Closing
from rtskel.curve import ClientKeys
from rtskel.errors import WireError

_DRAIN = 4096  # messages that one call takes at most, so that it returns however fast they come

_SLICE_MS = 250  # a single wait; a process that was stopped meanwhile has waited no longer than that

LAG_S = 1.0
"""A reader that is so far behind, and has not caught up after as long, goes on with the newest poses."""

PATIENCE_S = 5.0
"""How long a reader waits for the first heartbeat before it takes the server to be gone."""

SILENCE_S = 2.0
"""Shortest silence that means that a server is gone, however often its heartbeats come."""


@dataclass(frozen=True)
class ServerGone:
    """The server has stopped: nothing came from it for three of its heartbeats, and for two seconds.

    Attributes:
        epoch: the server's; None if there never was one.
        silent_s: seconds for which the reader waited.
    """

    epoch: int | None
    silent_s: float


@dataclass(frozen=True)
class ServerBack:
    """Something comes from the server again, or for the first time after `ServerGone`, or from a new one.

    Attributes:
        epoch: the server's.
        restarted: it is another one than before, which knows nothing of the earlier streams. Their poses start at slot
            0 again, the first of them flagged `Flag.RESET`.
    """

    epoch: int
    restarted: bool


_now = time.monotonic

Given: TypeAlias = wire.Message | ServerGone | ServerBack
"""What a subscriber gives."""


class Subscriber(Closing):
    """Receives refined poses, events and heartbeats from a server.

    Iterating gives `wire.RefinedPose` (or `wire.RefinedBatch`) and, as asked for, `wire.Event` and `wire.Heartbeat`
    objects, and `ServerGone` and `ServerBack` when the server stops or starts.

    By default a reader that keeps up gets every pose, also after a pause of its own. One that stays more than a second
    behind goes on with the newest pose of each stream: live poses are worth nothing when they are old. `latest` gives
    only the newest poses from the start, `everything` all of them however old they are.

    Attributes:
        lost: poses missed on the way, by (stream, lookahead): holes in `seq`, because the reader was too slow, the
            connection broke, or a new server had begun before the reader was connected.
        skipped: poses left out because newer ones had come, by (stream, lookahead).
        errors: malformed messages, which are skipped.
        last_error: the newest of those errors.
        heartbeat: the newest heartbeat.
        epoch: the server's; None before the first message.
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
            endpoint: where the server publishes refined poses.
            streams: stream ids; None: every stream.
            lookahead: those of the server's lookaheads (frames) to receive; None: all of them.
            events: give events of these streams and of the server, too.
            heartbeats: give heartbeats, too.
            latest: of the waiting poses, give only the newest of each stream and lookahead.
            everything: give all poses, however far behind the reader is, such as for a recording.
            batches: receive the poses of all streams together, as `wire.RefinedBatch`, for readers of hundreds of them;
                all of them are given.
            when_gone: what happens when the server stops: "tell": `ServerGone` is given, and the reader goes on waiting
                for the next server; "end": it is given, and iterating ends; "wait": nothing, the reader waits.
            raw: give the raw poses of these streams, too, as the server received them: `wire.RawPose`, `wire.RawBatch`
                (which holds everybody whom its estimator sent together) and `wire.StreamEnd`.
            keys: of this client, for a server with CURVE keys.
            queue: messages that may wait for this reader before the server drops more; default: 10000, and 256 with
                `latest`.
            context: to share one (inproc endpoints need that); `close` does not terminate it.

        Raises:
            WireError: a stream id is not valid.
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

        self.endpoint = endpoint
        self._raw = raw
        self.lost: Counter[Key] = Counter()
        self.skipped: Counter[Key] = Counter()
        self.errors = 0
        self.last_error: WireError | None = None
        self.heartbeat: wire.Heartbeat | None = None
        self.epoch: int | None = None
        self._heartbeat_came = 0.0
        self._silence = 0.0  # seconds that were waited since something came
        self._gone = False
        self._when_gone = when_gone
        self._events, self._heartbeats = events, heartbeats
        self._latest, self._batches, self._all = latest, batches, everything or batches
        self._behind_since: float | None = None
        self._newest_ns = 0  # when the newest pose was published
        # Without stream ids, topics cannot select the lookahead: ZeroMQ matches prefixes, and the stream comes first.
        self._suffixes = None if lookaheads is None or batches else tuple(b"/L%d/" % number for number in lookaheads)
        self._slots = Slots()
        self._connections = 1
        self._started: set[str] = set()  # streams whose start was told in this life of the server
        # Messages to be given, each with the poses that were lost just before it.
        self._ready: OrderedDict[object, tuple[Given, list[tuple[Key, int]]]] = OrderedDict()
        self._socket = Socket(zmq.SUB, endpoint, keys, context)
        self._zmq = self._socket.zmq
        with self._socket.closed_on_error():
            self._zmq.rcvhwm = (256 if latest else 10_000) if queue is None else queue
            self._zmq.sndhwm = 0  # subscriptions are messages, too: those above the mark would never reach the server
            self._missed = Missed(self._zmq, topics, self._suffixes)
            self._socket.connect()
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
        return time.monotonic() - self._heartbeat_came < 3e-9 * self.heartbeat.interval_ns

    def wait_for_server(self, timeout: float | None = None) -> wire.Heartbeat:
        """Returns the server's next heartbeat, or the last one while it is fresh. What the server publishes from then
        on will be received. Messages that come meanwhile are kept for `recv`.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: none came in that time.
            AccessError: the server does not admit this client.
        """
        deadline = deadline_of(timeout)
        while not self.connected:
            if not self._take():
                if remaining_ms(deadline) == 0:
                    raise TimeoutError(f"no heartbeat from a server at {self.endpoint}")
                self._socket.wait(remaining_ms(deadline))
        assert self.heartbeat is not None
        return self.heartbeat

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
            self._recover()
            for _ in range(_DRAIN):
                if (self._ready and self._all) or not self._take():
                    break
            if self._ready:
                self._catch_up()
                return self._pop(next(iter(self._ready)))
            left = remaining_ms(deadline)
            if left == 0:
                raise TimeoutError(f"no message from a server at {self.endpoint}")
            wait = min(ms for ms in (left, remaining_ms(self._missed.deadline), _SLICE_MS) if ms >= 0)
            before = time.monotonic()
            self._socket.wait(wait)
            self._silence += min(time.monotonic() - before, wait / 1000)
            if self._silence > self._patience and not self._gone and not self._zmq.poll(0):
                self._gone = True
                if self._when_gone != "wait":
                    return ServerGone(self.epoch, self._silence)

    def __iter__(self) -> Iterator[Given]:
        while not self._zmq.closed:
            message = self.recv()
            yield message
            if self._when_gone == "end" and isinstance(message, ServerGone):
                return

    def close(self) -> None:
        """Disconnects. Messages that were not received are discarded."""
        self._socket.close(0)

    @property
    def _patience(self) -> float:
        return PATIENCE_S if self.heartbeat is None else max(SILENCE_S, 3e-9 * self.heartbeat.interval_ns)

    def _pop(self, place: object) -> Given:
        message, lost = self._ready.pop(place)
        for key, poses in lost:
            self.lost[key] += poses
        return message

    def _catch_up(self) -> None:
        """Leaves out old poses if the reader has been too far behind for too long."""
        head = next(iter(self._ready.values()))[0]
        if self._all or not isinstance(head, wire.RefinedPose):
            return
        if 1e-9 * (self._newest_ns - head.publish_ns) < LAG_S:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = _now()
        elif _now() - self._behind_since > LAG_S:
            self._behind_since = None
            poses = [(place, each) for place, (each, _) in self._ready.items() if isinstance(each, wire.RefinedPose)]
            newest = {(pose.stream, pose.lookahead): place for place, pose in poses}
            for place, pose in poses:
                if newest[pose.stream, pose.lookahead] is not place:
                    self._pop(place)
                    self.skipped[pose.stream, pose.lookahead] += 1

    def _take(self) -> bool:
        """Moves one message that has come to those ready to be given; False if there is none."""
        try:
            parts = self._zmq.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._silence = 0.0
        try:
            if len(parts) != 2:
                raise WireError(f"message of {len(parts)} parts, not topic and body")
            topic, body = parts
            if topic.startswith(wire.AGAIN_PREFIX):
                self._keep_again(wire.decode_answer(body))
            elif self._suffixes is None or not topic.startswith(wire.REFINED_PREFIX) or topic.endswith(self._suffixes):
                self._keep(wire.decode(topic, body))
        except WireError as error:
            self.errors += 1
            self.last_error = error
        return True

    def _keep(self, message: wire.Message) -> None:
        if isinstance(message, (wire.RawPose, wire.RawBatch, wire.StreamEnd)) and self._raw:
            self._ready[object()] = message, []  # of an estimator: its epoch is not the server's
            return
        if not isinstance(message, (wire.RefinedPose, wire.RefinedBatch, wire.Event, wire.Heartbeat)):
            raise WireError(f"{type(message).__name__} is not for readers")
        if isinstance(message, wire.RefinedPose) and (message.epoch != self.epoch or self._slots.missed(message)):
            self._recover()  # perhaps it comes by another connection
        self._notice(message.epoch)
        if isinstance(message, wire.Heartbeat):
            self.heartbeat = message
            self._heartbeat_came = time.monotonic()
            if self._heartbeats:
                self._ready[object()] = message, []
        elif isinstance(message, wire.RefinedBatch):
            batch, lost, first = self._slots.take_batch(message)
            for stream in first:
                self._start(stream, batch.epoch, None, batch.publish_ns, batch.clock)
            self._ready[object()] = batch, lost
        elif self._missed.deadline is not None:
            self._missed.hold(message)
        elif isinstance(message, wire.RefinedPose):
            self._give_pose(message)
        else:
            self._give_event(message)

    def _give_pose(self, pose: wire.RefinedPose, *, once: bool = False) -> None:
        """Makes a pose ready to be given; `once`: unless it was given before."""
        got = self._slots.take(pose, once=once)
        if got is None:
            return
        self._newest_ns, key = pose.publish_ns, (pose.stream, pose.lookahead)
        if got.first:
            self._start(pose.stream, pose.epoch, pose.seq, pose.publish_ns, pose.clock)
        lost = [(key, got.lost)] if got.lost else []
        place: object = object()
        if self._latest:
            place = key
            if key in self._ready:  # a newer pose takes the place of an older one, so that no stream starves
                lost += self._ready[key][1]
                self.skipped[key] += 1
        self._ready[place] = got.pose, lost

    def _give_event(self, event: wire.Event) -> None:
        if not self._missed.is_new(event):
            return
        if event.kind == "start":
            self._started.add(event.stream)
        elif event.kind == "evicted":
            self._slots.evicted(event.stream)
        self._ready[object()] = event, []

    def _start(self, stream: str, epoch: int, seq: int | None, time_ns: int, clock: str) -> None:
        """A stream goes on at a new server; its own event of that came before this reader was connected."""
        if self._events and stream not in self._started:
            self._started.add(stream)
            what = "seen first after the server was started again"
            self._ready[object()] = wire.Event(stream, "start", epoch, seq, time_ns, what, {}, clock), []

    def _notice(self, epoch: int) -> None:
        """A message of the server with that epoch has come."""
        restarted = self.epoch is not None and epoch != self.epoch
        if restarted:
            self._give_once(self._missed.release())
            self._slots.restart()
            self._started.clear()
        if (restarted or self._gone) and self._when_gone != "wait":
            self._ready[object()] = ServerBack(epoch, restarted), []
        self.epoch, self._gone = epoch, False

    def _recover(self) -> None:
        """Asks again for what was missed if there is another connection; gives what was held back if that is over."""
        if self._socket.connections > self._connections:
            self._connections = self._socket.connections
            if not (self._latest or self._batches):
                self._give_once(self._missed.begin())
        if self._missed.deadline is not None and time.monotonic() >= self._missed.deadline:
            self._give_once(self._missed.end())

    def _keep_again(self, message: wire.Message) -> None:
        """Something that the server sends again; a heartbeat says that this was all."""
        if isinstance(message, wire.Heartbeat):
            if self._missed.deadline is not None and self._missed.answered():
                self._give_once(self._missed.end())
        elif isinstance(message, (wire.RefinedPose, wire.Event)) and self._missed.wanted(message):
            self._notice(message.epoch)
            self._give_once([message])

    def _give_once(self, messages: Iterable[wire.RefinedPose | wire.Event]) -> None:
        """Makes messages ready to be given, unless they were given before."""
        for message in messages:
            if isinstance(message, wire.RefinedPose):
                self._give_pose(message, once=True)
            else:
                self._give_event(message)


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
