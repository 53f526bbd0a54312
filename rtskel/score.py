"""How far poses are from the truth: the three errors that everything in rtskel is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel.skeleton import skeleton


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


def errors(poses: Sequence[NDArray[np.float32]], truth: Sequence[NDArray[np.float32]], joints: Sequence[int]) -> Errors:
    """Errors of sequences [N, J, 3] against the truth, pooled over their frames and the listed joints."""
    offs = [(p - t)[:, list(joints)].astype(np.float64) for p, t in zip(poses, truth, strict=True)]
    off = np.concatenate(offs)
    bends = [np.linalg.norm(np.diff(o, 2, axis=0), axis=-1).ravel() for o in offs]
    bend = np.concatenate(bends)
    return Errors(
        mse=float((off**2).mean()),
        mpjpe=float(np.linalg.norm(off, axis=-1).mean()),
        acceleration=float(bend.mean()) if bend.size else 0.0,
    )


def joint_groups(skeleton_id: str) -> dict[str, list[int]]:
    """The joints that are scored: all but the root, those of the body, those of the hands."""
    tree = skeleton(skeleton_id)
    body = [joint for joint in tree.groups["body"] if joint != tree.root]
    hands = [*tree.groups["left_hand"], *tree.groups["right_hand"]]
    return {"all": body + hands, "body": body, "hands": hands}


def held(xyz: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What a consumer of a raw stream has: every joint [N, J, 3] where it was last seen.

    Args:
        xyz: [N, J, 3], one row a slot.
        missing: [N, J], joints (of dropped frames: all) whose coordinates mean nothing.

    Returns:
        [N, J, 3]; 0 for joints that were not seen yet.
    """
    frames = np.arange(len(xyz))[:, None]
    newest = np.maximum.accumulate(np.where(missing, -1, frames), axis=0)
    out = xyz[np.maximum(newest, 0), np.arange(xyz.shape[1])]
    return np.where((newest >= 0)[..., None], out, np.float32(0))
