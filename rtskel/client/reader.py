"""One server as a reader knows it: its connection, its life, what has come from it and what was lost on the way."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import zmq

from rtskel import wire
from rtskel.client.missed import Missed
from rtskel.client.slots import Key, Slots
from rtskel.client.socket import Context, Socket
from rtskel.curve import ClientKeys
from rtskel.errors import WireError

_DRAIN = 4096  # messages that one call takes at most, so that it returns however fast they come

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
        endpoint: of the server: which one, where there are several.
    """

    epoch: int | None
    silent_s: float
    endpoint: str = field(default="", compare=False)


@dataclass(frozen=True)
class ServerBack:
    """Something comes from the server again, or for the first time after `ServerGone`, or from a new one.

    Attributes:
        epoch: the server's.
        restarted: it is another one than before, which knows nothing of the earlier streams. Their poses start at slot
            0 again, the first of them flagged `Flag.RESET`.
        endpoint: of the server: which one, where there are several.
    """

    epoch: int
    restarted: bool
    endpoint: str = field(default="", compare=False)


_now = time.monotonic

Given: TypeAlias = wire.Message | ServerGone | ServerBack
"""What a subscriber gives."""


@dataclass(frozen=True)
class Wishes:
    """What is to be received, and given. The fields are arguments of `rtskel.client.Subscriber`, checked.

    Attributes:
        topics: subscriptions, but for that to heartbeats.
        suffixes: ends of the topics of poses that are read; None: all.
    """

    topics: Sequence[bytes]
    suffixes: tuple[bytes, ...] | None
    events: bool
    heartbeats: bool
    latest: bool
    everything: bool
    batches: bool
    when_gone: str
    raw: bool
    keys: ClientKeys | None
    queue: int


@dataclass
class Tally:
    """What went wrong on the way, of all readers together; see `rtskel.client.Subscriber`."""

    lost: Counter[Key] = field(default_factory=Counter)
    skipped: Counter[Key] = field(default_factory=Counter)
    errors: int = 0
    last_error: WireError | None = None


class Reader:
    """Receives from one server.

    Attributes:
        endpoint: of the server.
        socket: the connection.
        heartbeat: the newest heartbeat.
        came: when it came, in s.
        epoch: the server's; None before the first message.
        shards: if the server is a front, where its shards publish; nothing of a front's is given.
        missed: asks for what was missed.
        tally: what went wrong on the way.
    """

    def __init__(self, endpoint: str, wishes: Wishes, tally: Tally, context: Context) -> None:
        self.endpoint = endpoint
        self.tally = tally
        self.heartbeat: wire.Heartbeat | None = None
        self.epoch: int | None = None
        self.shards: Sequence[str] = ()
        self.came = 0.0
        self._wishes = wishes
        self._silence = 0.0  # seconds that were waited since something came
        self._gone = False
        self._all = wishes.everything or wishes.batches
        self._behind_since: float | None = None
        self._newest_ns = 0  # when the newest pose was published
        self._slots = Slots()
        self._connections = 1
        self._started: set[str] = set()  # streams whose start was told in this life of the server
        # Messages to be given, each with the poses that were lost just before it.
        self._ready: OrderedDict[object, tuple[Given, list[tuple[Key, int]]]] = OrderedDict()
        self.socket = Socket(zmq.SUB, endpoint, wishes.keys, context)
        self._zmq = self.socket.zmq
        with self.socket.closed_on_error():
            self._zmq.rcvhwm = wishes.queue
            self._zmq.sndhwm = 0  # subscriptions are messages, too: those above the mark would never reach the server
            self.missed = Missed(self._zmq, wishes.topics, wishes.suffixes)
            self.socket.connect()
            for topic in wishes.topics:
                self._zmq.subscribe(topic)
            # Last, so that when a heartbeat comes, the server knows the other subscriptions.
            self._zmq.subscribe(wire.HEARTBEAT_TOPIC)

    @property
    def connected(self) -> bool:
        """A heartbeat came within the last three of the server's intervals."""
        if self.heartbeat is None:
            return False
        return time.monotonic() - self.came < 3e-9 * self.heartbeat.interval_ns

    @property
    def gone(self) -> bool:
        """The server has stopped, as far as is known."""
        return self._gone

    def collect(self) -> bool:
        """Takes what has come; whether something is ready to be given."""
        self._recover()
        for _ in range(_DRAIN):
            if (self._ready and self._all) or not self.take():
                break
        return bool(self._ready)

    def give(self) -> Given:
        """The next message that is ready."""
        self._catch_up()
        return self._pop(next(iter(self._ready)))

    def waited(self, seconds: float) -> ServerGone | None:
        """It was waited so long for something to come; tells once if that means that the server is gone."""
        self._silence += seconds
        if self._silence <= self._patience or self._gone or self._ready or self._zmq.poll(0):
            return None
        self._gone = True
        return None if self._wishes.when_gone == "wait" else ServerGone(self.epoch, self._silence, self.endpoint)

    def close(self) -> None:
        """Disconnects. Messages that were not received are discarded."""
        self.socket.close(0)

    @property
    def _patience(self) -> float:
        return PATIENCE_S if self.heartbeat is None else max(SILENCE_S, 3e-9 * self.heartbeat.interval_ns)

    def _pop(self, place: object) -> Given:
        message, lost = self._ready.pop(place)
        for key, poses in lost:
            self.tally.lost[key] += poses
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
                    self.tally.skipped[pose.stream, pose.lookahead] += 1

    def take(self) -> bool:
        """Moves one message that has come to those ready to be given; False if there is none."""
        try:
            parts = self._zmq.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._silence = 0.0
        suffixes = self._wishes.suffixes
        try:
            if len(parts) != 2:
                raise WireError(f"message of {len(parts)} parts, not topic and body")
            topic, body = parts
            if topic.startswith(wire.AGAIN_PREFIX):
                self._keep_again(wire.decode_answer(body))
            elif suffixes is None or not topic.startswith(wire.REFINED_PREFIX) or topic.endswith(suffixes):
                self._keep(wire.decode(topic, body))
        except WireError as error:
            self.tally.errors += 1
            self.tally.last_error = error
        return True

    def _keep(self, message: wire.Message) -> None:
        if isinstance(message, (wire.RawPose, wire.RawBatch, wire.StreamEnd)) and self._wishes.raw:
            self._ready[object()] = message, []  # of an estimator: its epoch is not the server's
            return
        if not isinstance(message, (wire.RefinedPose, wire.RefinedBatch, wire.Event, wire.Heartbeat)):
            raise WireError(f"{type(message).__name__} is not for readers")
        if isinstance(message, wire.Heartbeat):
            self._keep_heartbeat(message)
            return
        if isinstance(message, wire.RefinedPose) and (message.epoch != self.epoch or self._slots.missed(message)):
            self._recover()  # perhaps it comes by another connection
        self._notice(message.epoch)
        if isinstance(message, wire.RefinedBatch):
            batch, lost, first = self._slots.take_batch(message)
            for stream in first:
                self._start(stream, batch.epoch, None, batch.publish_ns, batch.clock)
            self._ready[object()] = batch, lost
        elif self.missed.deadline is not None:
            self.missed.hold(message)
        elif isinstance(message, wire.RefinedPose):
            self._give_pose(message)
        else:
            self._give_event(message)

    def _keep_heartbeat(self, beat: wire.Heartbeat) -> None:
        self.heartbeat, self.came, self.shards = beat, time.monotonic(), beat.shards
        if beat.shards:  # what is to be known of the servers behind it, they tell themselves
            self.epoch, self._gone = beat.epoch, False
            return
        self._notice(beat.epoch)
        if self._wishes.heartbeats:
            self._ready[object()] = beat, []

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
        if self._wishes.latest:
            place = key
            if key in self._ready:  # a newer pose takes the place of an older one, so that no stream starves
                lost += self._ready[key][1]
                self.tally.skipped[key] += 1
        self._ready[place] = got.pose, lost

    def _give_event(self, event: wire.Event) -> None:
        if not self.missed.is_new(event):
            return
        if event.kind == "start":
            self._started.add(event.stream)
        elif event.kind == "evicted":
            self._slots.evicted(event.stream)
        self._ready[object()] = event, []

    def _start(self, stream: str, epoch: int, seq: int | None, time_ns: int, clock: str) -> None:
        """A stream goes on at a new server; its own event of that came before this reader was connected."""
        if self._wishes.events and stream not in self._started:
            self._started.add(stream)
            what = "seen first after the server was started again"
            self._ready[object()] = wire.Event(stream, "start", epoch, seq, time_ns, what, {}, clock), []

    def _notice(self, epoch: int) -> None:
        """A message of the server with that epoch has come."""
        restarted = self.epoch is not None and epoch != self.epoch
        if restarted:
            self._give_once(self.missed.release())
            self._slots.restart()
            self._started.clear()
        if (restarted or self._gone) and self._wishes.when_gone != "wait":
            self._ready[object()] = ServerBack(epoch, restarted, self.endpoint), []
        self.epoch, self._gone = epoch, False

    def _recover(self) -> None:
        """Asks again for what was missed if there is another connection; gives what was held back if that is over."""
        if self.socket.connections > self._connections:
            self._connections = self.socket.connections
            if not (self._wishes.latest or self._wishes.batches):
                self._give_once(self.missed.begin())
        if self.missed.deadline is not None and time.monotonic() >= self.missed.deadline:
            self._give_once(self.missed.end())

    def _keep_again(self, message: wire.Message) -> None:
        """Something that the server sends again; a heartbeat says that this was all."""
        if isinstance(message, wire.Heartbeat):
            if self.missed.deadline is not None and self.missed.answered():
                self._give_once(self.missed.end())
        elif isinstance(message, (wire.RefinedPose, wire.Event)) and self.missed.wanted(message):
            self._notice(message.epoch)
            self._give_once([message])

    def _give_once(self, messages: Iterable[wire.RefinedPose | wire.Event]) -> None:
        """Makes messages ready to be given, unless they were given before."""
        for message in messages:
            if isinstance(message, wire.RefinedPose):
                self._give_pose(message, once=True)
            else:
                self._give_event(message)
