"""Who is connected to a socket of the server, and what the kernel says of each: by file descriptor.

ZeroMQ bounds how many messages of a connection wait. It bounds neither the parts of a message that never ends nor what
a reader says of its subscriptions. So the server keeps its own account by connection, and hangs up on whoever harms
others. ZeroMQ says by which descriptor a message came (ZMQ_SRCFD), and its monitor tells of connections that come and
go. The order is that of its I/O thread: a connection is told of before its first message is there, and told to be gone
before its descriptor is given to another.
"""

from __future__ import annotations

import fcntl
import socket as sockets
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import zmq

MAX_UNFINISHED = 1 << 20
"""Bytes that ZeroMQ may hold of a connection although every whole message was read: far above a valid message."""

MAX_HELD = 1 << 23
"""Bytes that it may hold of one while the server does not read: far above a full queue of valid messages."""

_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL

_T = TypeVar("_T")


class Connections:
    """The connections of one socket.

    Args:
        stack: closes what is opened here.
        context, socket: of ZeroMQ; not bound yet.
        name: another one for each socket of the context.

    Attributes:
        open: their descriptors, as far as `changed` has told.
        heard: add to it the descriptors by which whole messages come, see `endless`.
        failed: handshakes that failed, as far as `changed` has told: no keys, or another server's.
    """

    def __init__(self, stack: ExitStack, context: zmq.Context[Any], socket: zmq.Socket[Any], name: str) -> None:
        self.open: set[int] = set()
        self.heard: set[int] = set()
        self.failed = 0
        self._whole: dict[int, int] = {}  # bytes taken from each when the last whole message was known to be read
        self._suspects: set[int] = set()
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
            self._whole.pop(descriptor, None)
            self._suspects.discard(descriptor)
            yield descriptor, came

    def endless(self, *, all_read: bool) -> list[int]:
        """Connections by which much has come, and no end of it: their messages have ever more parts, of which ZeroMQ
        keeps them all. To be asked a few times a second.

        Args:
            all_read: every message that is there was read, so what a connection holds is a part of one.
        """
        found = []
        suspects, self._suspects = self._suspects, set()
        for descriptor in self.open:
            taken = bytes_taken(descriptor)
            if descriptor in self.heard:
                self._whole[descriptor] = taken
            held = taken - self._whole.setdefault(descriptor, 0)
            if held > MAX_HELD or (all_read and held > MAX_UNFINISHED and descriptor in suspects):
                found.append(descriptor)
            elif all_read and held > MAX_UNFINISHED:
                self._suspects.add(descriptor)  # the I/O thread may be busy: asked once more
        self.heard.clear()
        return found


def readable(socket: zmq.Socket[Any]) -> bool:
    """Whether a message is there. Far cheaper than the error of a `recv` that finds none."""
    return bool(_get(socket, _EVENTS) & _READABLE)


def hang_up(descriptor: int) -> None:
    """Ends a connection: ZeroMQ finds it closed by its peer, and frees all that it holds of it."""
    _ask(descriptor, lambda connection: connection.shutdown(sockets.SHUT_RDWR))


def bytes_taken(descriptor: int) -> int:
    """Bytes that have come by a TCP connection since it was made, and that ZeroMQ has taken from the kernel; 0 where
    the kernel does not say.
    """
    return _ask(descriptor, _bytes_taken) or 0


def _bytes_taken(connection: sockets.socket) -> int:
    info = connection.getsockopt(sockets.IPPROTO_TCP, _TCP_INFO, _INFO_SIZE)
    if len(info) < _INFO_SIZE:
        return 0
    (received,) = struct.unpack_from("=Q", info, _RECEIVED_AT)
    (left,) = struct.unpack("=i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
    return int(received - left)


def _ask(descriptor: int, question: Callable[[sockets.socket], _T]) -> _T | None:
    """A question to a connection; None if it is gone, or of another kind. It stays ZeroMQ's."""
    try:
        connection = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM, 0, fileno=descriptor)
    except OSError:
        return None
    try:
        return question(connection)
    except OSError:
        return None
    finally:
        connection.detach()


# The method of pyzmq's compiled base class and plain integers: those of its Socket and its flags cost far more.
_get: Any = zmq.backend.Socket.get
_EVENTS = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)

_TCP_INFO = getattr(sockets, "TCP_INFO", 11)
# In struct tcp_info of Linux, tcpi_bytes_received is here since 4.1; what is shorter does not have it.
_RECEIVED_AT = 128
_INFO_SIZE = 136
