"""What the page receives: descriptions and events as JSON text, poses as binary packets.

A packet holds N poses of one track (one stream, raw or refined at one lookahead), little-endian, without gaps:

| type | shape | |
|---|---|---|
| u32 | 4 | track, N, joints J, 0 |
| f64 | N | time of the frame in ms, on the clock of its source |
| f64 | N | when the pose was published in ms, on the clock of the view; 0 in recordings |
| f64 | N | age of the pose when it reached the view, in ms; NaN where the clocks cannot be compared |
| f32 | N, J, 3 | positions in canonical axes, in the unit of the stream |
| f32 | N, J | sigma in that unit; 0 for raw poses |
| u8 | N, J | confidence times 255, rounded up: only 0 is missing |
| u8 | N | flags, see `rtskel.Flag` |

and zeros up to a multiple of 8 bytes, so that packets can be joined into one message.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = struct.Struct("<4I")


@dataclass(frozen=True)
class Track:
    """One sequence of poses, as the page knows it.

    Attributes:
        id: its number in packets.
        stream: whose poses.
        lookahead: in frames; None: raw poses.
        fps: frames a second.
        skeleton: id of the skeleton.
    """

    id: int
    stream: str
    lookahead: int | None
    fps: float
    skeleton: str

    def describe(self) -> str:
        """The message that announces this track."""
        return text("track", **asdict(self))


def text(type: str, /, **fields: Any) -> str:
    """A text message for the page."""
    return json.dumps({"type": type, **fields}, allow_nan=False)


def pack(
    track: int,
    time_ms: Sequence[float] | NDArray[np.float64],
    published_ms: Sequence[float] | NDArray[np.float64],
    age_ms: Sequence[float] | NDArray[np.float64],
    xyz: NDArray[np.float32],
    sigma: NDArray[np.float32] | None,
    confidence: NDArray[np.float32],
    flags: Sequence[int] | NDArray[np.int32],
) -> bytes:
    """A packet of N poses; see this module for its layout.

    Args:
        track: number of the track.
        time_ms, published_ms, age_ms, flags: [N].
        xyz: [N, J, 3] in canonical axes.
        sigma: [N, J]; None: raw poses.
        confidence: [N, J] in 0..1.
    """
    frames, joints = confidence.shape
    parts = [HEADER.pack(track, frames, joints, 0)]
    parts += [np.asarray(column, "<f8").tobytes() for column in (time_ms, published_ms, age_ms)]
    parts += [xyz.astype("<f4", copy=False).tobytes()]
    parts += [bytes(4 * frames * joints) if sigma is None else sigma.astype("<f4", copy=False).tobytes()]
    parts += [np.ceil(confidence * 255).astype(np.uint8).tobytes(), np.asarray(flags).astype(np.uint8).tobytes()]
    size = sum(map(len, parts))
    return b"".join([*parts, bytes(-size % 8)])
