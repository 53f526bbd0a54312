"""What was published in the last seconds, for readers that have missed it and ask for it again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from rtskel import wire
from rtskel.serve.reports import SECOND

KEEP_NS = 2 * SECOND
"""How long messages are kept, and how long they go on being encoded for a reader that has left."""

MAX_KEPT = 64 << 20
"""Bytes that are kept at most."""

ANSWER_NS = SECOND // 10
"""Shortest time between two answers. Each goes through all that is kept."""

MAX_ASKED = 1024
"""Requests that one answer is for."""


class Kept:
    """Keeps messages of single poses, by the time of their sending."""

    def __init__(self) -> None:
        self._sent: deque[tuple[int, int, list[tuple[bytes, bytes]]]] = deque()  # when, bytes, and messages
        self._bytes = 0
        self._asked: dict[bytes, bytes] = {}  # the topic to answer on, and that of the poses
        self._answer_at = 0

    def add(self, messages: list[tuple[bytes, bytes]], now: int) -> None:
        """These messages are sent now."""
        if messages:
            size = len(messages) * len(messages[0][1])  # those of one engine call are about equally long
            self._bytes += size
            self._sent.append((now, size, messages))
        while self._sent and (now - self._sent[0][0] > KEEP_NS or self._bytes > MAX_KEPT):
            self._bytes -= self._sent.popleft()[1]

    def ask(self, topic: bytes) -> None:
        """A reader has subscribed to that topic, on which it wants poses again."""
        poses = wire.asked_again(topic)
        if poses is not None and len(self._asked) < MAX_ASKED:
            self._asked[topic] = poses

    def answer_due(self) -> float:
        """When `answers` has something to say, in ns; infinity if nobody has asked."""
        return self._answer_at if self._asked else math.inf

    def answers(self, now: int) -> Iterator[tuple[bytes, bytes]]:
        """The messages to send to those who asked, oldest first."""
        if not self._asked or now < self._answer_at:
            return
        self._answer_at = now + ANSWER_NS
        readers: dict[bytes, list[bytes]] = {}
        for topic, poses in self._asked.items():
            readers.setdefault(poses, []).append(topic)
        self._asked.clear()
        for _, _, messages in self._sent:
            for poses, body in messages:
                for topic in readers.get(poses, ()):
                    yield topic, body


def singles(messages: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those messages that hold a single pose."""
    return [message for message in messages if message[0].startswith(wire.REFINED_PREFIX)]
