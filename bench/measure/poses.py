"""Synthetic poses: as messages, and as what a live estimator sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.synthesize import estimator_errors, synthesize
from rtskel.wire import RawBatch, RawPose, encode

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FPS = 30.0
JOINTS = UPPER_BODY_50.joints
POSES = np.random.default_rng(0).normal(0, 0.1, (61, JOINTS, 3)).astype(np.float32)
"""What a frame costs does not depend on where its joints are."""


def groups_of(names: Sequence[str], people: int) -> list[tuple[str, ...]]:
    """Streams by the message that they share."""
    return [tuple(names[first : first + people]) for first in range(0, len(names), people)]


def frame(streams: tuple[str, ...], number: int) -> tuple[bytes, bytes]:
    """One frame of these streams: a message of its own for one, a batch for several."""
    xyz = POSES[[(number + 7 * int(name[1:])) % len(POSES) for name in streams]]
    confidence = np.ones(xyz.shape[:2], np.float32)
    source = 1, number, 0, "bench", FPS
    view = UPPER_BODY_50.id, "RDT", False, True  # lossless: the server is saturated on purpose
    if len(streams) == 1:
        return encode(RawPose(streams[0], *source, xyz[0], confidence[0], *view))
    return encode(RawBatch(streams[0], streams, *source, xyz, confidence, *view))


class Example(NamedTuple):
    """A corrupted sequence: truth [N, J, 3], xyz [N, J, 3] and missing [N, J]."""

    truth: Array
    xyz: Array
    missing: Mask


def synthetic(seconds: float, seed: int) -> Example:
    """A signer and what a live estimator makes of it, in metres, with dropped frames as missing ones."""
    clean = synthesize(seconds, seed=seed)
    seen = estimator_errors(clean, seed)
    xyz, missing = np.zeros(clean.xyz.shape), np.ones(clean.xyz.shape[:2], np.bool_)
    xyz[seen.slots], missing[seen.slots] = seen.xyz, seen.missing
    return Example(clean.xyz.astype(np.float64), xyz, missing)
