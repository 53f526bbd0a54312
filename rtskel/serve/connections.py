"""Who is connected to a socket of the server: by file descriptor.

ZeroMQ does not bound what a reader says of its subscriptions. So the server keeps its own account by connection, and
hangs up on whoever harms others. ZeroMQ says by which descriptor a message came (ZMQ_SRCFD), and its monitor tells of
connections that come and go. The order is that of its I/O thread: a connection is told of before its first message is
there, and told to be gone before its descriptor is given to another.
"""

from __future__ import annotations

import socket as sockets
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import zmq

_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


class Connections:
    """The connections of one socket.

    Args:
        stack: closes what is opened here.
        context, socket: of ZeroMQ; not bound yet.
        name: another one for each socket of the context.

    Attributes:
        open: their descriptors, as far as `changed` has told.
        failed: handshakes that failed, as far as `changed` has told: no keys, or another server's.
    """

    def __init__(self, stack: ExitStack, context: zmq.Context[Any], socket: zmq.Socket[Any], name: str) -> None:
        self.open: set[int] = set()
        self.failed = 0
        endpoint = f"inproc://connections-{name}"
        socket.monitor(endpoint, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _FAILED)
        self._events: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        stack.callback(self._events.close, 0)
        # Never full, or ZeroMQ's I/O thread would wait for room.
        self._events.rcvhwm = self._events.sndhwm = 0
        self._events.connect(endpoint)

    def wait(self, seconds: float) -> bool:
        """Until `changed` has something to tell; whether it has."""
        return bool(self._events.poll(round(1000 * seconds)))

    def changed(self) -> Iterator[tuple[int, bool]]:
        """Descriptors of connections that have come (True) or gone since the last call, in order."""
        while readable(self._events):
            event, _ = self._events.recv_multipart(zmq.NOBLOCK)
            kind, descriptor = struct.unpack("=Hi", event)
            if kind & _FAILED:
                self.failed += 1
                continue
            came = kind == zmq.EVENT_ACCEPTED
            (self.open.add if came else self.open.discard)(descriptor)
            yield descriptor, came


def readable(socket: zmq.Socket[Any]) -> bool:
    """Whether a message is there. Far cheaper than the error of a `recv` that finds none."""
    return bool(_get(socket, _EVENTS) & _READABLE)


def hang_up(descriptor: int) -> None:
    """Ends a connection: ZeroMQ finds it closed by its peer, and frees all that it holds of it. The descriptor stays
    ZeroMQ's. Nothing happens if the connection is gone.
    """
    with suppress(OSError):
        connection = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM, 0, fileno=descriptor)
        try:
            connection.shutdown(sockets.SHUT_RDWR)
        finally:
            connection.detach()


# The method of pyzmq's compiled base class and plain integers: those of its Socket and its flags cost far more.
_get: Any = zmq.backend.Socket.get
_EVENTS = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)
