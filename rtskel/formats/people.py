"""Tracking people from frame to frame, in files that list people anew in every frame.

The rule, in this order:

1. Where every person of every frame has an identity of the file's own (OpenPose's `person_id`, MMPose's `track_id`,
   never -1, and no two alike in a frame), that says who is who.
2. Otherwise a person is taken for the nearest stream that is free in that frame and within reach; pairs are made in the
   order of their distance, so the order within the file does not matter. The distance is the median over the body's
   joints (over all joints if no body joint is in common) that both show, from where the stream was last seen; it counts
   in sizes, where the size is the diagonal of the box around the joints of the larger of the two. Within reach is 0.5
   sizes, and 0.1 more for every frame in which the stream was not seen, up to 1.5: who vanishes and returns nearby
   goes on as the same stream, however long that took.
3. Who is nobody's within reach begins a stream.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.parsing import named
from rtskel.formats.recording import Recording
from rtskel.skeleton import BODY

REACH, REACH_A_FRAME, LARGEST_REACH = 0.5, 0.1, 1.5


def follow(
    frame: NDArray[np.int64],
    xyz: NDArray[np.float32],
    confidence: NDArray[np.float32],
    identity: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Which stream each of K people belongs to, by the rule above.

    Args:
        frame: [K] frame number, ascending; as many rows with the same number as people in that frame.
        xyz: [K, J, D] positions.
        confidence: [K, J], 0 = missing.
        identity: [K] the file's own; -1: none.

    Returns:
        [K] stream numbers 0, 1, ... in the order in which streams begin.
    """
    if identity is not None and (identity >= 0).all() and _all_differ(frame, identity):
        return _in_order_of_appearance(identity)
    present = confidence > 0
    low = np.where(present[..., None], xyz, np.inf).min(axis=1)
    high = np.where(present[..., None], xyz, -np.inf).max(axis=1)
    size = np.where(present.any(axis=1), np.linalg.norm(high - low, axis=-1), 0.0)

    stream = np.zeros(len(frame), np.int64)
    last: list[int] = []  # of each stream, the row in which it was last seen
    largest: list[float] = []  # and the largest size in which it was seen
    for rows in np.split(np.arange(len(frame)), np.flatnonzero(np.diff(frame)) + 1):
        pairs = []
        for row in rows.tolist():
            for number, seen in enumerate(last):
                apart = _apart(xyz, present, row, seen) / max(size[row], largest[number], 1e-9)
                gone = int(frame[row] - frame[seen]) - 1
                if apart <= min(REACH + REACH_A_FRAME * gone, LARGEST_REACH):
                    pairs.append((apart, row, number))
        placed: dict[int, int] = {}
        for _, row, number in sorted(pairs):
            if row not in placed and number not in placed.values():
                placed[row] = number
        for row in rows.tolist():
            if row not in placed:
                placed[row] = len(last)
                last.append(row)
                largest.append(0.0)
            number = stream[row] = placed[row]
            last[number] = row
            largest[number] = max(largest[number], float(size[row]))
    return stream


def _apart(xyz: NDArray[np.float32], present: NDArray[np.bool_], a: int, b: int) -> float:
    both = present[a] & present[b]
    if both[: len(BODY)].any():
        both = both & (np.arange(len(both)) < len(BODY))
    if not both.any():
        return float("inf")
    return float(np.median(np.linalg.norm(xyz[a, both] - xyz[b, both], axis=-1)))


def _all_differ(frame: NDArray[np.int64], identity: NDArray[np.int64]) -> bool:
    return len(set(zip(frame.tolist(), identity.tolist(), strict=True))) == len(frame)


def _in_order_of_appearance(identity: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(identity, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def recordings_of_people(
    path: Path | str,
    name: str,
    frame: NDArray[np.int64],
    xyz: NDArray[np.float32],
    confidence: NDArray[np.float32],
    identity: NDArray[np.int64] | None = None,
    **fields: Any,
) -> list[Recording]:
    """A recording for each person, called `name`, or `name-1`, `name-2`, ... if there are several.

    Rows without a joint are nobody. A frame in which a person is not found is a hole in its recording's `slot`, and a
    recording ends with the last frame in which its person is found.

    Args:
        path: what errors name.
        frame, xyz, confidence, identity: as for `follow`; D is 2 or 3.
        fields: the other fields of the recordings.

    Raises:
        FormatError: nobody is found in any frame.
    """
    somebody = (confidence > 0).any(axis=1)
    if not somebody.any():
        raise FormatError(f"{path}: nobody is found in any frame")
    frame, xyz, confidence = frame[somebody], xyz[somebody], confidence[somebody]
    identity = None if identity is None else identity[somebody]
    stream = follow(frame, xyz, confidence, identity)
    dims = xyz.shape[-1]
    if dims == 2:
        xyz = np.concatenate([xyz, np.zeros_like(xyz[..., :1])], axis=-1)
    count = int(stream.max()) + 1
    return [
        named(
            path,
            Recording,
            xyz[stream == number],
            name=f"{name}-{number + 1}" if count > 1 else name,
            confidence=confidence[stream == number],
            slot=frame[stream == number],
            dims=dims,
            **fields,
        )
        for number in range(count)
    ]
