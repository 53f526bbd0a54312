"""The server's two sockets, and a pipe that wakes it: opened, bound, read and written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import zmq

from rtskel import wire
from rtskel.curve import ServerKeys, check_bind
from rtskel.errors import ServeError
from rtskel.serve.config import ServeConfig

MAX_MESSAGE = 1 << 24
"""Bytes of a part for which ZeroMQ disconnects its sender. Far above what is valid, so that offenders can be named."""

ZMTP_HEARTBEAT_MS = 5000
"""Finds hosts that have vanished without closing their connections."""

WrongParts = Callable[[bytes, str], None]
"""Told the topic of a message that is not topic and body, and what it is."""


@dataclass
class Inbox:
    """Messages as they were read."""

    topics: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    poses: int = 0
    """About how many they hold."""


class Sockets:
    """Raw poses in, refined poses, events and heartbeats out. `bind` opens the doors; closing is the caller's.

    Args:
        config: endpoints, queues and keys.
        joints: of a pose.

    Raises:
        ServeError: an endpoint must not be bound without keys.
    """

    def __init__(self, config: ServeConfig, *, joints: int) -> None:
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
            if config.keys is not None:
                stack.enter_context(config.keys.admission(context))
            self._raw = _socket(stack, context, zmq.SUB, config.raw, config.keys, linger_s=0)
            self._raw.rcvhwm = config.receive_queue
            self._raw.maxmsgsize = MAX_MESSAGE
            # Everything, so that whoever sends other things can be named; the others are what clients wait for.
            for prefix in (wire.RAW_BATCH_PREFIX, wire.RAW_PREFIX, b""):
                self._raw.subscribe(prefix)
            self._refined = _socket(stack, context, zmq.XPUB, config.refined, config.keys, config.linger_s)
            self._refined.sndhwm = config.send_queue
            self._refined.maxmsgsize = wire.MAX_BODY
            self._refined.xpub_verboser = True  # every subscription is told, so that counting is exact
            self._poller, self._deaf = zmq.Poller(), zmq.Poller()  # the second one does not hear publishers
            self._poller.register(self._raw, zmq.POLLIN)
            for poller in (self._poller, self._deaf):
                poller.register(self._refined, zmq.POLLIN)
                poller.register(self._wake, zmq.POLLIN)
            self._resources = stack.pop_all()

    def bind(self) -> tuple[str, str]:
        """Bind both endpoints; gives them with their real ports. ServeError names the one that cannot be bound."""
        return _bind(self._raw, self._config.raw), _bind(self._refined, self._config.refined)

    def close(self) -> None:
        """Frees the endpoints, after up to `linger_s` for what is still to be sent."""
        self._resources.close()

    def wake(self) -> None:
        """Ends the `wait` that is going on, or the next one. For signal handlers and other threads."""
        with suppress(BlockingIOError):  # full of such calls already
            os.write(self._waker, b"!")

    def wait(self, timeout_ms: int, *, reading: bool) -> None:
        """Until there is something to do, or that time is over; not `reading`: frames are left in the socket."""
        (self._poller if reading else self._deaf).poll(timeout_ms)

    def wait_for_frames(self, timeout_ms: int) -> bool:
        """Until there is something to read."""
        return bool(self._raw.poll(timeout_ms))

    def receive(self, inbox: Inbox, room: int, clock: Callable[[], int], wrong: WrongParts) -> bool:
        """Reads messages until the inbox holds `room` poses, each stamped with `clock()`; whether more may be waiting.

        Messages that are not topic and body are told to `wrong`.
        """
        recv, get, raw, size = _recv, _get, self._raw, self._min_pose
        while inbox.poses < room:
            try:
                topic = recv(raw, _NOBLOCK, False)
            except zmq.Again:
                return False
            # The parts of a message are there together or not at all.
            body = recv(raw, 0, False) if topic.more else topic
            if body.more or body is topic:
                self._refuse(topic, body, wrong)
                continue
            data = body.bytes
            inbox.topics.append(topic.bytes)
            inbox.bodies.append(data)
            inbox.read.append(clock())
            inbox.poses += len(data) // size or 1
            # To ask is cheaper than to catch an error, which is cheaper than to ask each time.
            if len(inbox.topics) == 1 and not get(raw, _EVENTS) & _READABLE:
                return False
        return True

    def _refuse(self, topic: zmq.Frame, body: zmq.Frame, wrong: WrongParts) -> None:
        parts = 1 if body is topic else 2
        while body.more:
            body = _recv(self._raw, 0, False)
            parts += 1
        name = topic.bytes
        wrong(name, f"message on {ascii(name[:100])[1:]}: {parts} parts, not topic and body")

    def subscriptions(self) -> Iterator[bytes]:
        """What readers have subscribed to since the last call, as the XPUB socket tells it."""
        while True:
            try:
                yield _recv(self._refined, _NOBLOCK)
            except zmq.Again:
                return

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


# The methods of pyzmq's compiled base class: those of its Socket add several times the cost of the call itself.
_recv: Any = zmq.backend.Socket.recv
_send: Any = zmq.backend.Socket.send
_get: Any = zmq.backend.Socket.get
# Plain integers: pyzmq's flags cost as much as the call itself.
_EVENTS = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)
_NOBLOCK = int(zmq.NOBLOCK)
_FIRST_PART = int(zmq.NOBLOCK | zmq.SNDMORE)
