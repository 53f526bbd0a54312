"""What publishers and subscribers share: a ZeroMQ socket that knows whether the server admits it, and deadlines."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import zmq

from rtskel.curve import ClientKeys, prepare
from rtskel.errors import AccessError, WireError

Context: TypeAlias = "zmq.Context[Any] | None"

_RETRY_S = 1.0  # between attempts to connect to a server that refused this client

_REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_HANDSHAKES = _REFUSALS | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_SUCCEEDED

_numbers = itertools.count()


class Socket:
    """A ZeroMQ socket that connects to one server, and, unless a context is given, a context of its own.

    Attributes:
        endpoint: of the server.
        zmq: the socket itself.
        context: of the socket.
    """

    def __init__(self, kind: int, endpoint: str, keys: ClientKeys | None, context: Context) -> None:
        self.endpoint = endpoint
        self._keys = keys
        # Only terminating a context waits until everything is sent.
        self._own: zmq.Context[Any] | None = None
        with ExitStack() as stack:  # what fails leaves nothing open
            if context is None:
                context = self._own = zmq.Context()
                stack.callback(context.term)
            self.context = context
            self.zmq: zmq.Socket[bytes] = context.socket(kind)
            stack.callback(self.zmq.close, 0)
            address = f"inproc://rtskel-handshakes-{next(_numbers)}"
            self.zmq.monitor(address, _HANDSHAKES)
            self._monitor = context.socket(zmq.PAIR)
            stack.callback(self._monitor.close, 0)
            self._monitor.connect(address)
            stack.pop_all()
        self._connections = 0  # so far
        self._why = ""  # the server has refused this client
        self._failures = 0  # handshakes that failed without a reason, in a row
        self._retry_at: float | None = None
        self._poller = poller_of([self])

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """If the owner of this socket fails before it is complete, nothing stays open."""
        try:
            yield
        except BaseException:
            self.close(0)
            raise

    def connect(self) -> None:
        """Begins to connect; WireError if the endpoint is not valid."""
        try:
            prepare(self.zmq, self.endpoint, self._keys)
            self.zmq.connect(self.endpoint)
        except zmq.ZMQError as error:
            raise WireError(f"cannot connect to {self.endpoint}: {error}") from None

    def wait(self, timeout_ms: int) -> None:
        """Waits until a message has come, the time is over, or something else has changed.

        Raises:
            AccessError: the server does not admit this client.
        """
        wait_for_any([self], timeout_ms, self._poller)

    @property
    def retry_ms(self) -> int:
        """Milliseconds until it connects again to a server that refused this client; -1: it is not about to."""
        return remaining_ms(self._retry_at)

    @property
    def connections(self) -> int:
        """How many connections there have been: another number means that the one before has broken."""
        self._watch()
        return self._connections

    def refusal(self) -> str:
        """Why the server has refused this client since the last call; "" if it has not. Then tries again."""
        self._watch()
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._retry_at = None
            self.zmq.disconnect(self.endpoint)
            self.zmq.connect(self.endpoint)
        why, self._why = self._why, ""
        return why

    def _watch(self) -> None:
        while self._monitor.poll(0):
            # pyzmq's parser of these messages imports asyncio, which takes longer than all of the rest.
            event, _ = struct.unpack("=HI", self._monitor.recv_multipart()[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connections, self._failures, self._why = self._connections + 1, 0, ""
            elif event & _REFUSALS:
                self._why = self._reason(event)
                self._retry_at = time.monotonic() + _RETRY_S  # ZeroMQ itself does not try again
            else:  # no reason given: a server that went away, unless it happens again and again
                self._failures += 1
                if self._failures % 3 == 0:
                    self._why = self._reason(event)

    def _reason(self, event: int) -> str:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f"the server at {self.endpoint} refused this client: its key is not on the server's list"
        if self._keys is None:
            what = "it admits only clients with keys, or it is not an rtskel server"
        else:
            what = "it has another key than this client expects, or none"
        return f"the server at {self.endpoint} breaks off the handshake: {what}"

    def close(self, linger: float) -> None:
        """Waits up to `linger` seconds until everything is sent, if the context is the socket's own."""
        self.zmq.close(round(1000 * linger))
        self._monitor.close(0)
        if self._own is not None:
            self._own.term()


def poller_of(sockets: Iterable[Socket]) -> zmq.Poller:
    """Polls all of them, and their monitors."""
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket.zmq, zmq.POLLIN)
        poller.register(socket._monitor, zmq.POLLIN)
    return poller


def wait_for_any(sockets: Sequence[Socket], timeout_ms: int, poller: zmq.Poller) -> None:
    """`Socket.wait` for several, with the `poller_of` them."""
    poller.poll(min((ms for ms in (timeout_ms, *(socket.retry_ms for socket in sockets)) if ms >= 0), default=-1))
    for socket in sockets:
        if refusal := socket.refusal():
            raise AccessError(refusal)


def deadline_of(timeout: float | None) -> float | None:
    """The time at which a timeout ends; None waits for ever."""
    return None if timeout is None else time.monotonic() + timeout


def remaining_ms(deadline: float | None) -> int:
    """Milliseconds until a deadline, rounded up, for ZeroMQ: -1 waits for ever."""
    return -1 if deadline is None else max(0, -int(-1000 * (deadline - time.monotonic()) // 1))
