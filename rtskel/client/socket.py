"""What publishers and subscribers share: a ZeroMQ socket with its context, and deadlines."""

from __future__ import annotations

import time
from typing import Any, Self, TypeAlias

import zmq

from rtskel.curve import ClientKeys
from rtskel.errors import WireError

Context: TypeAlias = "zmq.Context[Any] | None"

_ZMTP_HEARTBEAT_MS = 5000  # detects hosts that vanish without closing their connections


class Closing:
    """A context manager that calls `close` at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees what is held."""
        raise NotImplementedError


class Socket:
    """A ZeroMQ socket and, unless a context is given, a context of its own.

    Attributes:
        zmq: the socket itself.
    """

    def __init__(self, kind: int, context: Context) -> None:
        # Only terminating a context waits until everything is sent.
        self._own: zmq.Context[Any] | None = None
        if context is None:
            context = self._own = zmq.Context()
        self.zmq: zmq.Socket[bytes] = context.socket(kind)

    def connect(self, endpoint: str, keys: ClientKeys | None) -> None:
        """Begins to connect; WireError if the endpoint is not valid."""
        try:
            self.zmq.heartbeat_ivl = _ZMTP_HEARTBEAT_MS
            self.zmq.ipv6 = "[" in endpoint
            if keys is not None:
                keys.apply(self.zmq)
            self.zmq.connect(endpoint)
        except zmq.ZMQError as error:
            self.close(0)
            raise WireError(f"cannot connect to {endpoint}: {error}") from None

    def close(self, linger: float) -> None:
        """Waits up to `linger` seconds until everything is sent, if the context is the socket's own."""
        self.zmq.close(round(1000 * linger))
        if self._own is not None:
            self._own.term()


def deadline_of(timeout: float | None) -> float | None:
    """The time at which a timeout ends; None waits for ever."""
    return None if timeout is None else time.monotonic() + timeout


def remaining_ms(deadline: float | None) -> int:
    """Milliseconds until a deadline, rounded up, for ZeroMQ: -1 waits for ever."""
    return -1 if deadline is None else max(0, -int(-1000 * (deadline - time.monotonic()) // 1))
