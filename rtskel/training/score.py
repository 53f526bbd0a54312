"""How far poses are from the truth: the errors by which everything in rtskel is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel.formats import SHOULDER_WIDTH_MM
from rtskel.skeleton import SHOULDER_WIDTH, skeleton

CANONICAL_MM = SHOULDER_WIDTH_MM / SHOULDER_WIDTH
"""Millimetres in a canonical unit: shoulders 370 mm apart."""


class Errors(NamedTuple):
    """Errors over frames and joints, in the unit of the poses.

    Attributes:
        mse: mean squared error of a coordinate.
        mpjpe: mean distance of a joint from where it should be.
        acceleration: mean norm of the second difference of the error, in units per frame squared.
    """

    mse: float
    mpjpe: float
    acceleration: float


def errors(
    poses: Sequence[NDArray[np.float32]],
    truth: Sequence[NDArray[np.float32]],
    joints: Sequence[int],
    where: Sequence[NDArray[np.bool_]] | None = None,
) -> Errors:
    """Errors of sequences [N, J, 3] against the truth, pooled over their frames and the listed joints.

    Args:
        where: [N, J] for each sequence, which joints of which frames count; None: all. An acceleration counts where the
            middle one of its three frames does. An error over nothing is 0.
    """
    squared, distance, bend = 0.0, 0.0, 0.0
    entries = bends = 0
    for k, (pose, true) in enumerate(zip(poses, truth, strict=True)):
        off = (pose - true)[:, list(joints)].astype(np.float64)
        length = np.sqrt(np.square(off).sum(-1))
        curve = np.linalg.norm(np.diff(off, 2, axis=0), axis=-1)
        if where is not None:
            counts = where[k][:, list(joints)]
            length, curve = length[counts], curve[counts[1:-1]]
        squared, distance, bend = squared + float((length**2).sum()), distance + length.sum(), bend + curve.sum()
        entries, bends = entries + length.size, bends + curve.size
    return Errors(squared / max(3 * entries, 1), float(distance) / max(entries, 1), float(bend) / max(bends, 1))


def aligned(poses: NDArray[np.float32], truth: NDArray[np.float32], joints: Sequence[int]) -> NDArray[np.float32]:
    """Every frame of poses [N, J, 3] moved, turned and scaled so that its listed joints fit the truth's best.

    The similarity with the least squared distance (Umeyama, PAMI 1991), never a reflection. The MPJPE of the result is
    PA-MPJPE, which may exceed MPJPE: one joint far off pulls the others along. If all listed joints lie in one point,
    they are put at the truth's centroid.
    """
    p, t = (x.astype(np.float64) for x in (poses, truth))
    chosen, wanted = p[:, list(joints)], t[:, list(joints)]
    origin, target = chosen.mean(1, keepdims=True), wanted.mean(1, keepdims=True)
    chosen, wanted = chosen - origin, wanted - target
    left, size, right = np.linalg.svd(np.swapaxes(wanted, 1, 2) @ chosen)  # [N, 3, 3], [N, 3], [N, 3, 3]
    sign = np.ones_like(size)
    sign[:, 2] = np.sign(np.linalg.det(left @ right))
    rotation = (left * sign[:, None]) @ right
    extent = np.square(chosen).sum((1, 2))
    scale = np.divide((size * sign).sum(-1), extent, out=np.zeros_like(extent), where=extent > 1e-12)
    moved: NDArray[np.float64] = scale[:, None, None] * (p - origin) @ np.swapaxes(rotation, 1, 2) + target
    return moved.astype(np.float32)


def log_mean(values: Sequence[float]) -> float:
    """The geometric mean; values below 1e-15 count as that."""
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-15)))))


def joint_groups(skeleton_id: str) -> dict[str, list[int]]:
    """The scored joints: all but the root, those of the body, those of the hands."""
    tree = skeleton(skeleton_id)
    body = [joint for joint in tree.groups["body"] if joint != tree.root]
    hands = [*tree.groups["left_hand"], *tree.groups["right_hand"]]
    return {"all": body + hands, "body": body, "hands": hands}


def held(xyz: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What a consumer of a raw stream sees: every joint [N, J, 3] where it was last seen.

    Args:
        xyz: [N, J, 3], one row a slot.
        missing: [N, J], joints without coordinates (all joints of a dropped frame).

    Returns:
        [N, J, 3]; 0 for joints that were not seen yet.
    """
    frames = np.arange(len(xyz))[:, None]
    newest = np.maximum.accumulate(np.where(missing, -1, frames), axis=0)
    out = xyz[np.maximum(newest, 0), np.arange(xyz.shape[1])]
    return np.where((newest >= 0)[..., None], out, np.float32(0))
