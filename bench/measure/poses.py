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
JITTER = np.random.default_rng(1).normal(0, 0.005, (61, JOINTS, 3)).astype(np.float32)
"""An estimator's jitter, in canonical units (a shoulder width is 1/3)."""


def body() -> NDArray[np.float32]:
    """A pose with the bones of a person."""
    bones = np.random.default_rng(0).normal(size=(JOINTS, 3))
    bones *= np.array(UPPER_BODY_50.bone_length)[:, None] / np.linalg.norm(bones, axis=1, keepdims=True)
    pose = np.zeros((JOINTS, 3), np.float32)
    for joint in UPPER_BODY_50.order[1:]:
        pose[joint] = pose[UPPER_BODY_50.parents[joint]] + bones[joint]
    return pose


def groups_of(names: Sequence[str], people: int) -> list[tuple[str, ...]]:
    """Streams by the message that they share."""
    return [tuple(names[first : first + people]) for first in range(0, len(names), people)]


def frame(streams: tuple[str, ...], number: int, pose: NDArray[np.float32]) -> tuple[bytes, bytes]:
    """One frame of these streams: a message of its own for one, a batch for several."""
    xyz = pose + JITTER[[(number + 7 * int(name[1:])) % len(JITTER) for name in streams]]
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
