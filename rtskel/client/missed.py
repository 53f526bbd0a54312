"""What a reader missed while it was not connected: asks the server for it, and holds back what arrives meanwhile."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import zmq

from rtskel import wire

AGAIN_S = 0.5
"""How long messages are held back while those that were missed before them are asked for again."""

MAX_PREFIXES = 64
"""Subscriptions for which it is asked one by one."""

Told: TypeAlias = wire.RefinedPose | wire.Event


class Missed:
    """Asks for what the server has kept, see "Again" in WIRE.md. Idle until `begin`.

    Attributes:
        deadline: when to stop waiting for the server's answer; None while nothing was asked for.

    Args:
        socket: the reader's.
        topics: its subscriptions.
        suffixes: ends of the topics of poses that it reads; None: all.
    """

    def __init__(self, socket: zmq.Socket[bytes], topics: Sequence[bytes], suffixes: tuple[bytes, ...] | None) -> None:
        self.deadline: float | None = None
        self._socket = socket
        self._prefixes = [topic for topic in topics if topic.startswith((wire.REFINED_PREFIX, wire.EVENT_PREFIX))]
        self._suffixes = suffixes
        self._asked: list[bytes] = []
        self._answered = 0
        self._held: list[Told] = []
        self._given: deque[tuple[object, ...]] = deque(maxlen=256)  # the last events

    def begin(self) -> list[Told]:
        """There is a new connection: asks again. Returns what was held back so far."""
        held = self.end()
        reader = f"{secrets.randbits(64):x}"  # another one each time, so that no older answer is taken for this one
        prefixes = self._prefixes
        if len(prefixes) > MAX_PREFIXES:
            prefixes = [wire.REFINED_PREFIX, wire.EVENT_PREFIX]
        self._asked = [wire.again_topic(reader, prefix) for prefix in prefixes]
        self.deadline = time.monotonic() + AGAIN_S
        for topic in self._asked:
            self._socket.subscribe(topic)
        return held

    def end(self) -> list[Told]:
        """The server has answered, or the wait is over. Returns what was held back."""
        for topic in self._asked:
            self._socket.unsubscribe(topic)
        self._asked, self._answered, self.deadline = [], 0, None
        return self.release()

    def release(self) -> list[Told]:
        """Returns what was held back; what comes from now on is held back."""
        held, self._held = self._held, []
        return held

    def hold(self, message: Told) -> None:
        """A message that has come meanwhile."""
        self._held.append(message)

    def answered(self) -> bool:
        """One request is answered; whether it was the last."""
        self._answered += 1
        return self._answered == len(self._asked)

    def wanted(self, message: Told) -> bool:
        """Whether the reader has subscribed to a message that was sent again."""
        if isinstance(message, wire.Event):
            topic = wire.event_topic(message.stream)
        else:
            topic = wire.refined_topic(message.stream, message.lookahead)
            if self._suffixes is not None and not topic.endswith(self._suffixes):
                return False
        return any(topic.startswith(prefix) for prefix in self._prefixes)

    def is_new(self, event: wire.Event) -> bool:
        """Whether this event was not given before; it is from now on."""
        what = event.epoch, event.stream, event.kind, event.seq, event.time_ns, event.detail
        if what in self._given:
            return False
        self._given.append(what)
        return True
