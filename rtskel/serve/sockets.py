"""The server's two sockets, and a pipe that wakes it: opened, bound, read and written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

from rtskel import wire
from rtskel.curve import PUBLISH, SUBSCRIBE, Admission, ServerKeys, check_bind, prepare
from rtskel.errors import ServeError
from rtskel.serve.config import ServeConfig
from rtskel.serve.connections import Connections, hang_up, readable

MAX_MESSAGE = (1 << 20) + 1024
"""Bytes of a part for which ZeroMQ disconnects a publisher: enough above what is valid that most who send too much are
named instead.
"""

MAX_UNFINISHED = 1 << 20
"""Bytes that ZeroMQ may hold of a publisher although every whole message was read: far above a valid message."""

MAX_GROWTH = 112 << 20
"""Bytes by which the process may grow for what ZeroMQ holds of a publisher. Valid messages, all of the queue, take a
fifth of that; a message of empty parts takes 32 times its size.
"""

WATCH_S = 0.01
"""How often it is looked how much it holds of each."""

MAX_TOPIC = 128
"""Longest topic of any message, in bytes; nothing is published on a longer one, and nothing longer is read."""

MAX_SUBSCRIPTION = 1024
"""Bytes of a part for which ZeroMQ disconnects a reader: also of its handshake."""

SUBSCRIPTION_QUEUE = 4
"""Subscriptions of one reader that ZeroMQ takes in before others have their turn."""

MAX_SUBSCRIPTIONS = 256
"""Subscriptions that are acted on in one turn of the server."""

ANSWER_NS = 2_000_000
"""Time after an answer to publishers in which there is no other one, for each of those that it was for: it goes to all
of them.
"""

LISTENING_NS = 10_000_000_000
"""How long publishers are told of heartbeats and refusals after one of them has asked something."""

MAX_ANSWERS = 256
"""Publishers that one answer is for."""

Refuse = Callable[[bytes, str, str, int], None]
"""Told the topic of a message that is refused unread, the kind of its offence, a line for people, and the publisher."""


@dataclass
class Inbox:
    """Messages as they were read."""

    topics: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)  # the publisher each is from, as a number; -1: in this process
    poses: int = 0
    """About how many they hold."""
    others: int = 0
    """Messages that were read and are none of these: questions, and what was refused."""


class Sockets:
    """Raw poses in, refined poses, events and heartbeats out. `bind` opens the doors; closing is the caller's.

    Args:
        config: endpoints, queues and keys.
        joints: of a pose.
        takes: prefixes of the topics that publishers are told to send.

    Raises:
        ServeError: an endpoint must not be bound without keys.
    """

    # Everything, so that whoever sends other things can be named; the others are what clients wait for.
    TAKES = (wire.RAW_BATCH_PREFIX, wire.SYNC_TOPIC, wire.RAW_PREFIX, b"")

    def __init__(self, config: ServeConfig, *, joints: int, takes: Sequence[bytes] = TAKES) -> None:
        self._config = config
        self._min_pose = 16 * joints  # bytes, and a raw message has hardly more for each of its poses
        with ExitStack() as stack:
            self._wake, self._waker = os.pipe()
            for end in (self._wake, self._waker):
                stack.callback(os.close, end)
                os.set_blocking(end, False)
            context = zmq.Context()
            stack.callback(context.term)
            for endpoint in (config.raw, config.refined):
                check_bind(endpoint, config.keys, config.insecure)
            keys = config.keys
            self.admission = None if keys is None else stack.enter_context(keys.admission(context))
            self._asked: dict[int, int] = {}  # the last question of each publisher that waits for an answer
            self._asked_at, self._answer_at = -LISTENING_NS, 0  # when one came last; when an answer may go out
            self._raw = _socket(stack, context, zmq.XSUB, config.raw, config.keys, min(config.linger_s, 0.5))
            self._raw.rcvhwm = config.receive_queue
            self._raw.sndhwm = MAX_ANSWERS  # to publishers that do not listen
            self._raw.maxmsgsize = MAX_MESSAGE
            self._publishers = Connections(stack, context, self._raw, "raw")
            self._gone: set[int] = set()
            self._hoards: Any = None
            stack.callback(lambda: self._hoards and self._hoards.stop())
            for prefix in takes:
                self.take(prefix)
            self._refined = _socket(stack, context, zmq.XPUB, config.refined, config.keys, config.linger_s)
            self._refined.sndhwm = config.send_queue
            self._refined.rcvhwm = SUBSCRIPTION_QUEUE
            self._refined.maxmsgsize = MAX_SUBSCRIPTION
            self._refined.xpub_verbose = True  # see Subscriptions
            self._readers = Connections(stack, context, self._refined, "refined")
            self._poller, self._deaf = zmq.Poller(), zmq.Poller()  # the second one does not hear publishers
            self._poller.register(self._raw, zmq.POLLIN)
            for poller in (self._poller, self._deaf):
                poller.register(self._refined, zmq.POLLIN)
                poller.register(self._wake, zmq.POLLIN)
            self._resources = stack.pop_all()

    def bind(self) -> tuple[str, str]:
        """Bind both endpoints; gives them with their real ports. ServeError names the one that cannot be bound."""
        raw = _bind(self._raw, self._config.raw)
        if raw.startswith("tcp:"):
            from rtskel import native

            # More than a valid publisher can have unread: a full queue of the largest messages, and a quarter.
            most = max(2 * MAX_UNFINISHED, 5 * self._config.receive_queue * (wire.MAX_BODY + MAX_TOPIC) // 4)
            host, _, port = raw.removeprefix("tcp://").rpartition(":")
            bounds = MAX_UNFINISHED, most, MAX_GROWTH
            self._hoards = native.HoardWatch(host.strip("[]"), int(port), *bounds, WATCH_S, self._waker)
        return raw, _bind(self._refined, self._config.refined)

    def take(self, prefix: bytes) -> None:
        """Publishers are told to send what is on topics that begin so."""
        self._raw.send(b"\1" + prefix)

    def close(self) -> None:
        """Frees the endpoints, after up to `linger_s` for what is still to be sent."""
        self._resources.close()

    def wake(self) -> None:
        """Ends the `wait` that is going on, or the next one. For signal handlers and other threads."""
        with suppress(BlockingIOError):  # full of such calls already
            os.write(self._waker, b"!")

    def wait(self, timeout_ms: int, *, reading: bool) -> None:
        """Until there is something to do, or that time is over; not `reading`: frames are left in the socket."""
        if any(socket == self._wake for socket, _ in (self._poller if reading else self._deaf).poll(timeout_ms)):
            os.read(self._wake, 4096)

    def wait_for_frames(self, timeout_ms: int) -> bool:
        """Until there is something to read."""
        return bool(self._raw.poll(timeout_ms))

    def receive(self, inbox: Inbox, room: int, clock: Callable[[], int], refuse: Refuse) -> bool:
        """Reads messages until the inbox holds `room` poses and others, each stamped with `clock()`; whether more may
        be waiting.

        What is not topic and body, or comes from somebody who may not send it, is refused. Questions are kept for
        `answer`.
        """
        before, others = len(inbox.sources), set[int]()
        more = self._receive(inbox, room, clock, refuse, others)
        if self._hoards is not None:
            self._hoards.read([*others.union(inbox.sources[before:])], not more)
        return more

    def _receive(self, inbox: Inbox, room: int, clock: Callable[[], int], refuse: Refuse, others: set[int]) -> bool:
        """`others`: who sent what does not go into the inbox."""
        recv, raw, size, admission, get = _recv, self._raw, self._min_pose, self.admission, _get_property
        topics, bodies, read, sources = inbox.topics, inbox.bodies, inbox.read, inbox.sources
        left = room - inbox.poses - inbox.others
        while left > 0:
            try:
                topic = recv(raw, _NOBLOCK, False)
            except zmq.Again:
                return False
            # The parts of a message are there together or not at all.
            body = recv(raw, 0, False) if topic.more else topic
            try:
                source = get(topic, _SRCFD)  # as `_source`, which costs twice as much
            except zmq.ZMQError:
                source = -1
            name, data = topic.bytes, body.bytes
            if body.more or body is topic or len(name) > MAX_TOPIC:
                self._refuse(topic, body, source, refuse)
            elif name == _SYNC:
                self._ask(data, clock(), source, refuse)
            elif admission is not None and (why := _forbidden(admission, topic, data, self._config.shard)):
                refuse(name, "forbidden", f"message on {ascii(name[:100])[1:]}: {why}", source)
            else:
                topics.append(name)
                bodies.append(data)
                read.append(clock())
                sources.append(source)
                poses = len(data) // size or 1
                inbox.poses += poses
                left -= poses
                # To ask is cheaper than to catch an error, which is cheaper than to ask each time.
                if len(topics) == 1 and not readable(raw):
                    return False
                continue
            others.add(source)
            inbox.others += 1
            left -= 1
        return True

    def _refuse(self, topic: zmq.Frame, body: zmq.Frame, source: int, refuse: Refuse) -> None:
        parts = 1 if body is topic else 2
        while body.more:
            body = _recv(self._raw, 0, False)
            parts += 1
        what = f"{parts} parts, not topic and body" if parts != 2 else f"a topic of {len(topic)} bytes"
        name = topic.bytes[:MAX_TOPIC]
        refuse(name, "malformed", f"message on {ascii(name[:100])[1:]}: {what}", source)

    # --- answers to publishers ----------------------------------------------------------------------------------------

    def _ask(self, body: bytes, now: int, source: int, refuse: Refuse) -> None:
        try:
            question = wire.decode(_SYNC, body)
        except wire.WireError as error:
            refuse(_SYNC, error.kind, str(error), source)
            return
        assert isinstance(question, wire.Sync)
        self._asked_at = now
        if len(self._asked) < MAX_ANSWERS or question.client in self._asked:  # others ask again
            self._asked[question.client] = question.number

    def answer_due(self) -> float:
        """When `answer` has something to say, in ns; infinity if nobody has asked."""
        return self._answer_at if self._asked else math.inf

    def answer(self, epoch: int, now: int, *, at_once: bool = False) -> None:
        """Tells publishers that what they sent before their last question was taken, if that is due or `at_once`."""
        if self._asked and (at_once or now >= self._answer_at):
            numbers = np.array([*self._asked.items()], np.int64)
            self._asked.clear()
            self._answer_at = now + len(numbers) * ANSWER_NS
            self.tell_publishers(wire.encode(wire.Taken(epoch, numbers))[1], now)

    def tell_publishers(self, body: bytes, now: int) -> None:
        """Says something to all publishers, if any of them listens. Who does not read it in time misses it."""
        if now - self._asked_at < LISTENING_NS:
            self._raw.send(body, zmq.NOBLOCK)

    # --- readers ------------------------------------------------------------------------------------------------------

    def subscriptions(self) -> tuple[list[tuple[int, bool]], list[tuple[bytes, int]]]:
        """Readers that have come (True) or gone since the last call, and after them what the XPUB socket tells of
        subscriptions, with the reader each is from (-1: from ZeroMQ itself, or a reader in this process).
        """
        told: list[tuple[bytes, int]] = []
        while len(told) < MAX_SUBSCRIPTIONS and readable(self._refined):
            message = _recv(self._refined, _NOBLOCK, False)
            if self.admission is not None:
                self.admission.key_of(message, SUBSCRIBE)  # so that the connection can be cut with its key
            told.append((message.bytes, _source(message)))
        # Asked for after the messages were read: whoever one of them is from, has come before.
        return list(self._readers.changed()), told

    def cut_off(self, reader: int) -> None:
        """Disconnect a reader, if it has not left: its descriptor may be another's then."""
        if reader in self._readers.open:
            hang_up(reader)

    def failed_handshakes(self) -> int:
        """How many clients have failed to connect since the last call, because they showed no key or the wrong one."""
        both = self._publishers, self._readers
        failed = sum(connections.failed for connections in both)
        for connections in both:
            connections.failed = 0
        return failed

    @property
    def publishers(self) -> int:
        """How many are connected, as far as is known."""
        return len(self._publishers.open)

    def publishers_gone(self) -> set[int]:
        """The connections of publishers that have ended since the last call."""
        self._watch_publishers()
        gone, self._gone = self._gone, set()
        return gone

    def endless(self) -> int:
        """How many publishers were cut off since the last call, because they sent a message without end."""
        self._watch_publishers()
        return int(self._hoards.found()) if self._hoards is not None else 0

    def _watch_publishers(self) -> None:
        self._gone.update(descriptor for descriptor, came in self._publishers.changed() if not came)

    def send(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Publish messages."""
        send, refined = _send, self._refined
        for topic, body in messages:
            send(refined, topic, _FIRST_PART)
            send(refined, body, _NOBLOCK)


def _socket(
    stack: ExitStack, context: zmq.Context[Any], kind: int, endpoint: str, keys: ServerKeys | None, linger_s: float
) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    stack.callback(socket.close, round(1000 * linger_s))
    prepare(socket, endpoint, keys)
    return socket


def _forbidden(admission: Admission, topic: zmq.Frame, body: bytes, shard: tuple[int, int] | None) -> str:
    """Why a message is not taken from whoever sent it; "" if it is."""
    key = admission.key_of(topic, PUBLISH)
    if key is None:
        return "its sender is no longer on the list of clients"
    for stream in wire.streams_of(topic.bytes, body):
        if shard is not None and (its := wire.choose(stream, wire.shard_names(shard[1]))) != shard[0]:
            return f"stream {stream} belongs to shard {its}"
        if not admission.owns(key, stream):
            return f"stream {stream} belongs to another client's key"
    return ""


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ServeError(f"{endpoint}: {str(error).lower()}") from None
    bound = socket.last_endpoint
    assert isinstance(bound, bytes)
    return bound.rstrip(b"\0").decode()


def _source(frame: zmq.Frame) -> int:
    """The connection that a frame came by, as a number; -1: none."""
    try:
        return _get_property(frame, _SRCFD)  # type: ignore[no-any-return]
    except zmq.ZMQError:
        return -1


# The methods of pyzmq's compiled base class: those of its Socket add several times the cost of the call itself.
_recv: Any = zmq.backend.Socket.recv
_send: Any = zmq.backend.Socket.send
_SYNC = wire.SYNC_TOPIC
_get_property: Any = zmq.backend.Frame.get
# Plain integers: pyzmq's flags cost as much as the call itself.
_SRCFD = int(zmq.SRCFD)
_NOBLOCK = int(zmq.NOBLOCK)
_FIRST_PART = int(zmq.NOBLOCK | zmq.SNDMORE)
