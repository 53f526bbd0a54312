"""Which slots of each stream a reader has got: what was lost, and what it asks for again. No sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from rtskel.wire import Flag, RefinedBatch, RefinedPose

AGAIN_S = 0.5
"""How long poses of a stream are held back while those that were missed before them are asked for again."""

MAX_ASKED = 256
"""Streams and lookaheads that are asked for at once."""

MAX_HOLE = 4096
"""Longest hole that is asked for, in slots: a server keeps two seconds."""

MAX_KEYS = 1 << 17
"""Streams and lookaheads of which the next slot is known. Of more, the ones that came first are forgotten."""

Key: TypeAlias = tuple[str, int]
"""Stream and lookahead."""


class Got(NamedTuple):
    """A pose that is to be given.

    Attributes:
        lost: slots that were lost before it.
        first: it is the first one of its stream and lookahead after the server was started again.
    """

    pose: RefinedPose
    lost: int
    first: bool


@dataclass
class _Hole:
    """Poses that were missed and asked for again, slots `first` to `end`. Those after them are held back.

    Attributes:
        deadline: when it is given up.
        found: poses of the hole, by slot.
        held: poses after it.
    """

    first: int
    end: int
    deadline: float
    found: dict[int, RefinedPose] = field(default_factory=dict)
    held: list[RefinedPose] = field(default_factory=list)


class Slots:
    """The slots of every stream and lookahead.

    A hole is asked for again if it comes from a connection that broke or from a server that was started again. What a
    slow reader has lost is not: that would make it slower.

    Args:
        ask: called with a key whose last poses are to be sent again, and when they are no longer needed; None: nothing
            is asked for.
    """

    def __init__(self, ask: Callable[[Key, bool], None] | None) -> None:
        self._ask = ask
        self._expected: dict[Key, tuple[int, int]] = {}  # the next slot, and the connection on which it is expected
        self._holes: dict[Key, _Hole] = {}
        self._restarted = False

    @property
    def deadline(self) -> float | None:
        """When `overdue` has something to do."""
        return min((hole.deadline for hole in self._holes.values()), default=None)

    def take(self, pose: RefinedPose, connection: Callable[[], int], now: float) -> Iterator[Got]:
        """A pose has come, by that connection (asked only if needed); those that can be given now."""
        key = pose.stream, pose.lookahead
        if key in self._holes:
            self._holes[key].held.append(pose)
            return
        expected, before = self._expected.get(key, (0 if self._restarted else pose.seq, -1))
        missed = pose.seq - expected
        if 0 < missed <= MAX_HOLE and self._ask is not None and len(self._holes) < MAX_ASKED and before != connection():
            self._holes[key] = _Hole(expected, pose.seq, now + AGAIN_S, held=[pose])
            self._ask(key, True)
            return
        yield self._got(key, pose, connection)

    def found(self, pose: RefinedPose, connection: Callable[[], int]) -> Iterator[Got]:
        """A pose has come again, for this reader."""
        key = pose.stream, pose.lookahead
        hole = self._holes.get(key)
        if hole is not None and hole.first <= pose.seq < hole.end:
            hole.found[pose.seq] = pose
            if len(hole.found) == hole.end - hole.first:
                yield from self._close(key, connection)

    def overdue(self, connection: Callable[[], int], now: float) -> Iterator[Got]:
        """Poses that were held back for too long."""
        for key in [key for key, hole in self._holes.items() if hole.deadline <= now]:
            yield from self._close(key, connection)

    def batch(self, batch: RefinedBatch) -> tuple[RefinedBatch, list[tuple[Key, int]], list[str]]:
        """A batch as it is to be given, what was lost before its poses, and streams whose first ones they are."""
        numbers, lost, first = batch.numbers, [], []
        for row, (source, seq) in enumerate(zip(batch.sources, batch.numbers[:, 0].tolist(), strict=True)):
            key = source.stream, batch.lookahead
            expected, _ = self._expected.get(key, (0 if self._restarted else seq, 0))
            if seq > expected:
                lost.append((key, seq - expected))
            if self._restarted and key not in self._expected:
                first.append(source.stream)
                numbers = numbers.copy() if numbers is batch.numbers else numbers
                numbers[row, 5] |= Flag.RESET
            self._expect(key, seq + 1, 0)
        return batch if numbers is batch.numbers else replace(batch, numbers=numbers), lost, first

    def restart(self, connection: Callable[[], int]) -> Iterator[Got]:
        """Another server publishes from now on: all its streams begin at slot 0."""
        for key in [*self._holes]:
            yield from self._close(key, connection)
        self._expected.clear()
        self._restarted = True

    def evicted(self, stream: str) -> None:
        """The stream begins at slot 0 again."""
        for key in [key for key in self._expected if key[0] == stream]:
            del self._expected[key]

    def _close(self, key: Key, connection: Callable[[], int]) -> Iterator[Got]:
        hole = self._holes.pop(key)
        assert self._ask is not None
        self._ask(key, False)
        for pose in [*(hole.found[slot] for slot in sorted(hole.found)), *hole.held]:
            yield self._got(key, pose, connection)

    def _got(self, key: Key, pose: RefinedPose, connection: Callable[[], int]) -> Got:
        first = self._restarted and key not in self._expected
        expected, before = self._expected.get(key, (0 if first else pose.seq, -1))
        self._expect(key, pose.seq + 1, before if before >= 0 and pose.seq == expected else connection())
        if first:
            pose = replace(pose, flags=pose.flags | Flag.RESET)
        return Got(pose, max(0, pose.seq - expected), first)

    def _expect(self, key: Key, slot: int, connection: int) -> None:
        self._expected[key] = slot, connection
        if len(self._expected) > MAX_KEYS:
            del self._expected[next(iter(self._expected))]
