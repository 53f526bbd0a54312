"""What a ring is told (`RingConfig`), what it answers to a frame (`Put`) and what comes out of it (`Refined`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rtskel.skeleton import Skeleton


class Put(IntEnum):
    """What became of a frame. engines/native/module.h has the same values."""

    TAKEN = 0
    DUPLICATE = 1  # the slot already has a frame: first wins
    LATE = 2  # the slot was emitted at every lookahead, or lies beyond the end of the stream
    AHEAD = 3  # too far beyond the watermark to be kept: settle, step and put it again


MIN_SEEN = 3
"""Predictions that saw fewer frames than this after their slot are not averaged with those that saw more.

The first frames after a lost one say most about it. With 15% of the frames lost, one frame of lookahead reduces the
squared error of a prediction to a fifth, and a second frame by another quarter; where frames are lost in bursts, each
of them by a tenth. Averaging the earlier predictions costs more than it steadies: with a minimum of 2, the average at
lookahead 4 is up to 5% worse in bursts than its most central prediction alone, with 3 at most 2%.
"""

_Slots = TypeVar("_Slots", int, NDArray[np.int64])


@dataclass(frozen=True)
class RingConfig:
    """Configuration of a ring, and what follows from it: which windows each output averages.

    Attributes:
        streams: S, how many streams it holds.
        window: slots in a window, W (n1 of the paper).
        lookaheads: output delays in frames, all different.
        radius: r of the paper; 2r + 1 windows are averaged where the lookahead allows.
        ahead: how many slots beyond the next window to run a frame may lie.
        min_confidence: joints below it count as missing.
        skeleton: joints, tree and typical bone lengths.
        hop: how many windows of a stream run together: they end at slots hop-1, 2 hop-1, ..., or are the tail.
    """

    streams: int
    window: int
    lookaheads: tuple[int, ...]
    radius: int
    ahead: int
    min_confidence: float
    skeleton: Skeleton
    hop: int = 1

    def __post_init__(self) -> None:
        for name in ("streams", "window", "hop"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.radius < 0 or 2 * self.radius + 1 > self.window:
            raise ValueError(
                f"radius must be 0..{(self.window - 1) // 2} for a window of {self.window}, got {self.radius}"
            )
        if not self.lookaheads or min(self.lookaheads) < 0 or len(set(self.lookaheads)) != len(self.lookaheads):
            raise ValueError(f"lookaheads must be different numbers of frames from 0 up, got {self.lookaheads}")
        if self.ahead < self.hop:
            raise ValueError(f"ahead must be at least 1 and the hop ({self.hop}), got {self.ahead}")
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ValueError(f"min_confidence must be within 0..1, got {self.min_confidence}")

    @property
    def full_lookahead(self) -> int:
        """The lookahead above which nothing changes: the paper's offline protocol."""
        return self.window // 2 + self.radius

    @property
    def max_windows(self) -> int:
        """Windows in a full average, 2r + 1."""
        return 2 * self.radius + 1

    def reach(self, lookahead: int) -> int:
        """Slots from a slot to the end of the last window that its average takes."""
        return min(lookahead, self.full_lookahead)

    def windows(self, lookahead: int) -> int:
        """Windows in an average at that lookahead: those within r of the most central one that it allows."""
        central = min(lookahead, self.window // 2)
        least = min(lookahead, MIN_SEEN, self.window // 2 - self.radius)
        return self.reach(lookahead) - max(central - self.radius, least) + 1

    def whole_hops(self, watermark: _Slots) -> _Slots:
        """The last window that may run while a stream is live and everything up to `watermark` has come."""
        return watermark - (watermark + 1) % self.hop

    @property
    def positions(self) -> NDArray[np.int64]:
        """[P] positions in a window whose predictions some average takes, ascending."""
        last = self.window - 1
        found = {last - self.reach(look) + k for look in self.lookaheads for k in range(self.windows(look))}
        return np.array(sorted(found))

    @property
    def latency(self) -> int:
        """The most frames after a slot's own before its output at the longest lookahead is complete."""
        return max(map(self.reach, self.lookaheads)) + self.hop - 1

    @property
    def capacity(self) -> int:
        """Slots kept for each stream: those of windows that may run again, and those that may come early."""
        return self.window + self.max_windows + self.ahead


# A type such as np.int32 is looked up for each array again, its dtype is not.
_INT32, _INT64, _UINT32, _FLOAT32 = map(np.dtype, (np.int32, np.int64, np.uint32, np.float32))


@dataclass(frozen=True)
class Refined:
    """Refined poses, a row for each (stream, slot, lookahead), slots ascending for each stream and lookahead.

    Attributes:
        stream: [M] int32. slot: [M] int64. lookahead: [M] int32, in frames.
        xyz: [M, J, 3] float32, mean of the predictions in the units and place of the stream.
        sigma: [M, J] float32, root mean square distance of the predictions from their mean (0 for a single one).
        confidence: [M, J] float32, as received; 0 where the joint was missing and is filled in.
        windows: [M] int32, predictions averaged; 0 where nothing was known (xyz is 0 then) or, flagged PASSTHROUGH, no
            window ran.
        flags: [M] uint32, bits of `rtskel.Flag`: WARM_UP, INTERPOLATED, PARTIAL_AVERAGE, FLUSHED, PASSTHROUGH.
    """

    stream: NDArray[np.int32]
    slot: NDArray[np.int64]
    lookahead: NDArray[np.int32]
    xyz: NDArray[np.float32]
    sigma: NDArray[np.float32]
    confidence: NDArray[np.float32]
    windows: NDArray[np.int32]
    flags: NDArray[np.uint32]

    @classmethod
    def empty(cls, rows: int, joints: int) -> Refined:
        """Uninitialised memory for that many rows."""
        return cls(
            np.empty(rows, _INT32),
            np.empty(rows, _INT64),
            np.empty(rows, _INT32),
            np.empty((rows, joints, 3), _FLOAT32),
            np.empty((rows, joints), _FLOAT32),
            np.empty((rows, joints), _FLOAT32),
            np.empty(rows, _INT32),
            np.empty(rows, _UINT32),
        )

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """The arrays, in the order of the attributes."""
        return (
            *(self.stream, self.slot, self.lookahead, self.xyz),
            *(self.sigma, self.confidence, self.windows, self.flags),
        )

    def select(self, *, lookahead: int | None = None, stream: int | None = None) -> Refined:
        """The rows of one lookahead, of one stream, or of both."""
        rows = np.ones(len(self), np.bool_)
        if lookahead is not None:
            rows &= self.lookahead == lookahead
        if stream is not None:
            rows &= self.stream == stream
        return Refined(*(column[rows] for column in self.columns))

    @classmethod
    def concatenate(cls, parts: Sequence[Refined]) -> Refined:
        """The rows of one or more parts, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*map(np.concatenate, zip(*(part.columns for part in parts), strict=True)))
