"""Which slots of each stream a reader has received, and what was lost before them. No sockets."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeAlias

from rtskel.wire import Flag, RefinedBatch, RefinedPose

MAX_KEYS = 1 << 17
"""Streams and lookaheads of which the next slot is known. Of more, the ones that came first are forgotten."""

Key: TypeAlias = tuple[str, int]
"""Stream and lookahead."""


class Got(NamedTuple):
    """A pose that goes to the reader.

    Attributes:
        lost: slots that were lost before it.
        first: it is the first one of its stream and lookahead after the server restarted.
    """

    pose: RefinedPose
    lost: int
    first: bool


class Slots:
    """The slots of every stream and lookahead."""

    def __init__(self) -> None:
        self._expected: dict[Key, int] = {}
        self._restarted = False

    def missed(self, pose: RefinedPose) -> bool:
        """Whether there is a hole before this pose."""
        return pose.seq > self._expected.get((pose.stream, pose.lookahead), 0 if self._restarted else pose.seq)

    def take(self, pose: RefinedPose, *, once: bool = False) -> Got | None:
        """A pose that has come. `once`: None if it, or a later one, has come before."""
        key = pose.stream, pose.lookahead
        first, lost = self._next(key, pose.seq)
        if once and lost < 0:
            return None
        self._expect(key, pose.seq + 1)
        return Got(replace(pose, flags=pose.flags | Flag.RESET) if first else pose, max(0, lost), first)

    def take_batch(self, batch: RefinedBatch) -> tuple[RefinedBatch, list[tuple[Key, int]], list[str]]:
        """A batch as it is to be given, what was lost before its poses, and streams whose first ones they are."""
        numbers, missed, begun = batch.numbers, [], []
        for row, (source, seq) in enumerate(zip(batch.sources, batch.numbers[:, 0].tolist(), strict=True)):
            key = source.stream, batch.lookahead
            first, lost = self._next(key, seq)
            self._expect(key, seq + 1)
            if lost > 0:
                missed.append((key, lost))
            if first:
                begun.append(source.stream)
                numbers = numbers.copy() if numbers is batch.numbers else numbers
                numbers[row, 5] |= Flag.RESET
        return batch if numbers is batch.numbers else replace(batch, numbers=numbers), missed, begun

    def restart(self) -> None:
        """Another server publishes from now on: all of its streams begin at slot 0."""
        self._expected.clear()
        self._restarted = True

    def evicted(self, stream: str) -> None:
        """The stream begins at slot 0 again."""
        for key in [key for key in self._expected if key[0] == stream]:
            del self._expected[key]

    def _next(self, key: Key, seq: int) -> tuple[bool, int]:
        """Whether this is the first slot of a stream of a new server, and how many are missing before it."""
        first = self._restarted and key not in self._expected
        return first, seq - self._expected.get(key, 0 if first else seq)

    def _expect(self, key: Key, slot: int) -> None:
        self._expected[key] = slot
        if len(self._expected) > MAX_KEYS:
            del self._expected[next(iter(self._expected))]
