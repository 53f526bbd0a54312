"""What was published in the last seconds, for readers that have missed it and ask for it again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from rtskel import wire
from rtskel.serve.reports import SECOND
from rtskel.serve.subscriptions import MAX_TOPICS, Subscriptions

KEEP_NS = 2 * SECOND
"""How long messages are kept, and how long they go on being encoded for a reader that has left."""

MAX_KEPT = 64 << 20
"""Bytes that are kept at most."""

ANSWER_NS = SECOND // 10
"""Shortest time between two answers. Each goes through all that is kept."""

MAX_ASKED = 64
"""Requests that one answer is for, of MAX_WAITING that may wait."""

MAX_WAITING = 4096

MAX_ANSWER = 20_000
"""Messages of one answer."""


class Wanted:
    """What is encoded: what readers have subscribed to, and for `KEEP_NS` what the last reader of it has left, who may
    come back and ask for what it has missed. At first everything: readers of an earlier server may ask.
    """

    def __init__(self, subscriptions: Subscriptions, now: int) -> None:
        self._subscriptions = subscriptions
        self._left = {wire.REFINED_PREFIX: now + KEEP_NS}  # until when, by topic

    def update(self, now: int) -> bool:
        """Notices topics that have lost their last reader; whether what is wanted may have changed."""
        gone = [topic for topic, until in self._left.items() if until <= now]
        for topic in gone:
            del self._left[topic]
        ended, self._subscriptions.ended = self._subscriptions.ended, []
        for topic in ended:
            if len(self._left) < MAX_TOPICS:
                self._left[topic] = now + KEEP_NS
        changed, self._subscriptions.changed = self._subscriptions.changed, False
        return changed or bool(gone)

    @property
    def lingering(self) -> bool:
        """Whether anything is encoded that nobody reads."""
        return bool(self._left)

    def want(self, topic: bytes) -> bool:
        """Whether a message on that topic is encoded."""
        return self._subscriptions.want(topic) or any(topic.startswith(left) for left in self._left)

    def want_some(self, prefix: bytes) -> bool:
        """Whether any messages on topics that begin so are encoded."""
        return self._subscriptions.want_some(prefix) or any(
            left.startswith(prefix) or prefix.startswith(left) for left in self._left
        )


class Kept:
    """Keeps single poses and events, by the time of their sending."""

    def __init__(self) -> None:
        # When, topics, bodies and their lengths. Of what is sent at once the bodies are copied together: so their own
        # memory is free again as soon as they are sent, and the next ones are written where the cache has it.
        self._sent: deque[tuple[int, tuple[bytes, ...], bytes, list[int]]] = deque()
        self._bytes = 0
        self._asked: dict[bytes, bytes] = {}  # the topic to answer on, and the prefix that is asked for
        self._answer_at = 0

    def add(self, messages: list[tuple[bytes, bytes]], now: int) -> None:
        """These messages are published now; batches come last."""
        if messages and messages[-1][0].startswith(wire.REFINED_BATCH_PREFIX):
            messages = [message for message in messages if not message[0].startswith(wire.REFINED_BATCH_PREFIX)]
        if messages:
            topics, bodies = zip(*messages, strict=True)
            together = b"".join(bodies)
            self._bytes += len(together)
            self._sent.append((now, topics, together, [*map(len, bodies)]))
        while self._sent and (now - self._sent[0][0] > KEEP_NS or self._bytes > MAX_KEPT):
            self._bytes -= len(self._sent.popleft()[2])

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        """All that is kept, oldest first."""
        for _, topics, together, lengths in self._sent:
            end = 0
            for topic, length in zip(topics, lengths, strict=True):
                start, end = end, end + length
                yield topic, together[start:end]

    def ask(self, topic: bytes) -> None:
        """A reader has subscribed to that topic, on which it wants messages again."""
        prefix = wire.asked_again(topic)
        if prefix is not None and len(self._asked) < MAX_WAITING:
            self._asked[topic] = prefix

    def answer_due(self) -> float:
        """When `answers` has something to say, in ns; infinity if nobody has asked."""
        return self._answer_at if self._asked else math.inf

    def answers(self, now: int, last: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The messages to send to those who asked, oldest first, and the body `last` at the end."""
        if not self._asked or now < self._answer_at:
            return
        self._answer_at = now + ANSWER_NS
        asked = [(answer, self._asked.pop(answer)) for answer in [*self._asked][:MAX_ASKED]]
        wanted: dict[bytes, list[bytes]] = {}  # where to send messages of a topic again
        left = MAX_ANSWER
        for topic, body in self._messages():
            if topic not in wanted:
                wanted[topic] = [answer for answer, prefix in asked if topic.startswith(prefix)]
            for answer in wanted[topic][: max(0, left)]:
                yield answer, body
                left -= 1
        for answer, _ in asked:
            yield answer, last
