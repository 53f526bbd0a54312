"""What readers have subscribed to, counted by connection, so that no reader can speak for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rtskel.serve.reports import SECOND
from rtskel.serve.sockets import MAX_SUBSCRIPTIONS, MAX_TOPIC

MAX_TOPICS = 4096
"""Topics that one reader may subscribe to."""

MAX_BURST = 2 * MAX_TOPICS
"""Subscriptions, and their ends, that one reader may send at once ..."""

RATE = 1000
"""... and in a second, in the long run."""

DOUBT_NS = 100_000_000
"""After which a reader is cut off for what another one may have sent that had its number before, and then left: ZeroMQ
would have taken it back by now.
"""

NOBODY = -1
"""For a reader inside this process: ZeroMQ does not tell these apart."""


@dataclass(slots=True)
class _Reader:
    topics: set[bytes] = field(default_factory=set)
    budget: float = MAX_BURST
    since: int = 0  # when the budget was that


class Subscriptions:
    """What readers have subscribed to, as an `xpub_verbose` XPUB socket tells it.

    Such a socket tells of every subscription, of the end of one that it holds for nobody any more, and of ends that a
    reader has made up. So who holds a topic here is at least who holds it there: a reader's own word only ever takes
    back what it said itself. When the last one that held a topic disconnects, the socket says so in its own name.
    """

    def __init__(self) -> None:
        self._readers: dict[int, _Reader] = {}
        self._holders: Counter[bytes] = Counter()
        self._lengths: Counter[int] = Counter()
        self._cut: set[int] = set()  # readers that are to be cut off, and have not left yet
        self._doubtful: dict[int, tuple[bytes, int]] = {}  # what they or those before them sent, and when it was read
        self.changed = False
        """Whether what is wanted has changed; the caller sets it back."""
        self.ended: list[bytes] = []
        """Topics that nobody holds any more; the caller empties it."""

    def follow(
        self, readers: list[tuple[int, bool]], messages: list[tuple[bytes, int]], now: int
    ) -> Iterator[tuple[bytes, int, str]]:
        """Takes what `Sockets.subscriptions` gives: each message with its reader, and why that is to be cut off.

        Readers that are to be cut off for what was in doubt come last, with an empty message.
        """
        for reader, _ in readers:
            self.forget(reader)
        gone = {reader for reader, came in readers if not came}
        for message, reader in messages:
            yield message, reader, self.take(message, reader, now, fresh=reader in gone)
        if len(messages) < MAX_SUBSCRIPTIONS:  # all were taken
            for reader, why in self.overdue(now):
                yield b"", reader, why

    def take(self, message: bytes, reader: int = NOBODY, now: int = 0, *, fresh: bool = False) -> str:
        """A message from the socket, from that reader. `fresh`: another reader may just have had that number.

        Returns:
            Why the reader is to be cut off; empty if it is not.
        """
        kind, topic = message[:1], message[1:]
        if kind == b"\0" and reader == NOBODY:
            for each in list(self._readers):
                self._end(each, topic)
            self._doubtful = {each: doubt for each, doubt in self._doubtful.items() if doubt[0] != topic}
            return ""
        if reader in self._cut:
            return ""
        known = self._readers.setdefault(reader, _Reader(since=now))
        known.budget = min(MAX_BURST, known.budget + (now - known.since) * RATE / SECOND) - 1
        known.since = now
        if kind == b"\0":
            self._end(reader, topic)
        elif kind == b"\1" and len(topic) <= MAX_TOPIC and topic not in known.topics:
            known.topics.add(topic)
            self._holders[topic] += 1
            if self._holders[topic] == 1:
                self._lengths[len(topic)] += 1
                self.changed = True
        if reader == NOBODY:
            return ""
        if len(topic) > MAX_TOPIC and fresh:
            self._doubtful[reader] = topic, now
            return ""
        if len(topic) > MAX_TOPIC:
            why = _too_long(topic)
        elif len(known.topics) > MAX_TOPICS:
            why = f"more than {MAX_TOPICS} subscriptions"
        elif known.budget < 0:
            why = f"more than {RATE} subscriptions a second"
        else:
            return ""
        self._expect_end(reader)
        return why

    def overdue(self, now: int) -> Iterator[tuple[int, str]]:
        """Readers that are to be cut off for what was in doubt, and why. To be asked when all messages were taken."""
        for reader, (topic, since) in list(self._doubtful.items()):
            if now - since > DOUBT_NS:
                self._expect_end(reader)
                yield reader, _too_long(topic)

    def _expect_end(self, reader: int) -> None:
        self.forget(reader)
        self._cut.add(reader)  # what it has said before it hears of it does not count

    def forget(self, reader: int) -> None:
        """That reader has left, or it is another one from now on."""
        self._cut.discard(reader)
        self._doubtful.pop(reader, None)
        if (known := self._readers.get(reader)) is not None:
            for topic in list(known.topics):
                self._end(reader, topic)
            del self._readers[reader]

    def _end(self, reader: int, topic: bytes) -> None:
        known = self._readers.get(reader)
        if known is None or topic not in known.topics:
            return
        known.topics.remove(topic)
        self._holders[topic] -= 1
        if not self._holders[topic]:
            del self._holders[topic]
            self._lengths[len(topic)] -= 1
            self._lengths = +self._lengths
            self.ended.append(topic)
            self.changed = True

    def want(self, topic: bytes) -> bool:
        """Whether anybody reads that topic; what nobody reads is not even encoded."""
        return any(topic[:length] in self._holders for length in self._lengths)

    def want_some(self, prefix: bytes) -> bool:
        """Whether anybody reads topics that begin so."""
        return self.want(prefix) or any(known.startswith(prefix) for known in self._holders)


def _too_long(topic: bytes) -> str:
    return f"a subscription of {len(topic)} bytes, more than any topic has"
