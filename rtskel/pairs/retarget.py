"""A motion of 50 joints, done by a body with bones of its own length: bones are aimed, one after the other.

Motion is in the axes of the skeleton (RDT: x to the image's right, which is the person's left; y down; z toward the
camera). Bodies stand in axes of their own: x to the person's left, y backward, z up. A turn is what rotates a bone out
of its rest, in the body's axes. Bones have the names of MakeHuman's default rig.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel.avatar.rotation import about, apply, quaternions, swing, twist

F64 = NDArray[np.float64]

TRUNK_TURN = 0.7
"""Radians by which the trunk turns at most, so that the motion's shoulders are followed but not their jumps."""

WAIST_TURN = 0.25
"""The same, of the bones between pelvis and chest."""

HEAD_TURN = 0.6
"""The same, of the head against the trunk."""

FOREARM = (("lowerarm01", 0.25), ("lowerarm02", 0.7))
"""Bones of the forearm, and their shares of the hand's twist."""


class Side(NamedTuple):
    """One arm.

    Attributes:
        suffix: of its bones.
        shoulder: its joint; elbow and wrist follow.
        hand: joint of the hand's root; 20 joints of fingers follow.
    """

    suffix: str
    shoulder: int
    hand: int


SIDES = (Side("R", 2, 29), Side("L", 5, 8))


@dataclass(frozen=True, eq=False)
class Rig:
    """Bones at rest.

    Attributes:
        labels: name of each bone.
        parents: number of each bone's parent, which comes before it; -1: the root.
        heads: [B, 3] where each bone begins.
    """

    labels: tuple[str, ...]
    parents: tuple[int, ...]
    heads: F64

    def __getitem__(self, label: str) -> int:
        return self.labels.index(label)

    def named(self, words: Sequence[str]) -> list[int]:
        """The bones whose names contain one of these words."""
        return [bone for bone, label in enumerate(self.labels) if any(word in label for word in words)]

    def along(self, start: str, end: str) -> F64:
        """The vector [3] from one bone's head to another's."""
        vector: F64 = self.heads[self[end]] - self.heads[self[start]]
        return vector


def unit(vectors: F64) -> F64:
    """Vectors [..., 3] of length 1."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normed: F64 = vectors / np.maximum(length, 1e-9)
    return normed


def aim(start: F64, end: F64) -> F64:
    """The smallest rotations [..., 3, 3] that turn vectors [..., 3] of any length."""
    start, end = np.broadcast_arrays(unit(start), unit(end))
    return swing(start, end)


def limited(turn: F64, most: float) -> F64:
    """Rotations [..., 3, 3] about the same axes, by at most that many radians."""
    quaternion = quaternions(turn)
    sine = np.linalg.norm(quaternion[..., :3], axis=-1)
    angle = 2 * np.arctan2(sine, quaternion[..., 3])
    axis = np.where(sine[..., None] > 1e-12, quaternion[..., :3], [1.0, 0.0, 0.0])
    return about(unit(axis), np.minimum(angle, most))


def body_axes(xyz: F64) -> F64:
    """Motion [..., 3] in the body's axes."""
    return np.stack([xyz[..., 0], -xyz[..., 2], -xyz[..., 1]], axis=-1)


def facing_camera(xyz: F64) -> F64:
    """A motion [N, 50, 3], turned about the vertical so that the shoulders lie across the image on average."""
    across = (xyz[:, 5] - xyz[:, 2]).mean(axis=0)
    angle = np.arctan2(across[2], across[0])
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.stack([cosine * x + sine * z, y, -sine * x + cosine * z], axis=-1)


def turned_away(xyz: F64) -> float:
    """The largest angle in radians, about the vertical, between the shoulders [N, 50, 3] and the image."""
    across = xyz[:, 5] - xyz[:, 2]
    return float(np.abs(np.arctan2(across[:, 2], across[:, 0])).max())


def turns(xyz: F64, rig: Rig) -> F64:
    """How much each bone turns [N, B, 3, 3] so that the body does what the motion [N, 50, 3] does.

    Joints at exactly 0 are unknown: the bone of a finger that ends in one goes on as the bone before it.
    """
    there = np.abs(xyz).sum(axis=-1) > 0
    w = body_axes(xyz)
    turn = np.zeros((len(w), len(rig.labels), 3, 3))
    trunk = limited(aim(rig.along("upperarm01.R", "upperarm01.L"), w[:, 5] - w[:, 2]), TRUNK_TURN)
    turn[:] = trunk[:, None]
    turn[:, [0, *rig.named(("leg", "foot", "toe", "pelvis"))]] = np.eye(3)
    turn[:, rig.named(("spine05", "spine04"))] = limited(trunk, WAIST_TURN)[:, None]
    turn[:, rig.named(("neck02", "neck03", "head", "eye."))] = _head(w, trunk)[:, None]
    for side in SIDES:
        _arm(turn, w, there, rig, side, trunk)
    return turn


def _head(w: F64, trunk: F64) -> F64:
    """The nose's motion about its mean place before the trunk: where a body's nose is differs, and does not matter."""
    nose = w[:, 0] - w[:, 1]
    usual = unit(np.einsum("nji,nj->ni", trunk, nose)).mean(axis=0)
    return limited(aim(apply(trunk, np.broadcast_to(usual, nose.shape)), nose), HEAD_TURN) @ trunk


def _arm(turn: F64, w: F64, there: NDArray[np.bool_], rig: Rig, side: Side, trunk: F64) -> None:
    s, shoulder, root = side
    base = w[:, [root + 1 + 4 * finger for finger in range(5)]]
    upper = _aimed(trunk, rig.along(f"upperarm01.{s}", f"lowerarm01.{s}"), w[:, shoulder + 1] - w[:, shoulder])
    fore = w[:, shoulder + 2] - w[:, shoulder + 1]
    lower = _aimed(upper, rig.along(f"lowerarm01.{s}", f"wrist.{s}"), fore)
    at_rest = _frame(rig.along(f"wrist.{s}", f"finger3-1.{s}"), rig.along(f"finger2-1.{s}", f"finger5-1.{s}"))
    hand = _frame(base[:, 2] - w[:, root], base[:, 4] - base[:, 1]) @ at_rest.T
    angle = twist(hand @ np.swapaxes(lower, -1, -2), unit(fore))
    turn[:, rig.named((f"upperarm01.{s}", f"upperarm02.{s}"))] = upper[:, None]
    for bone, share in FOREARM:
        turn[:, rig[f"{bone}.{s}"]] = about(unit(fore), share * angle) @ lower
    turn[:, [rig[f"wrist.{s}"], *_of_side(rig, "metacarpal", s)]] = hand[:, None]
    for finger in range(5):
        so_far = hand
        for segment in range(3):
            joint = root + 1 + 4 * finger + segment
            first = min(segment, 1)  # the last segment's own end is no bone's head
            rest = rig.along(f"finger{finger + 1}-{first + 1}.{s}", f"finger{finger + 1}-{first + 2}.{s}")
            known = (there[:, joint] & there[:, joint + 1])[:, None]
            now = np.einsum("nij,j->ni", so_far, rest)
            so_far = aim(now, np.where(known, w[:, joint + 1] - w[:, joint], now)) @ so_far
            turn[:, rig[f"finger{finger + 1}-{segment + 1}.{s}"]] = so_far


def _of_side(rig: Rig, word: str, suffix: str) -> list[int]:
    return [bone for bone in rig.named((word,)) if rig.labels[bone].endswith(f".{suffix}")]


def _aimed(parent: F64, rest: F64, toward: F64) -> F64:
    """A bone that its parent has turned, turned on toward vectors [N, 3]."""
    return aim(np.einsum("nij,j->ni", parent, rest), toward) @ parent


def _frame(along: F64, across: F64) -> F64:
    """Orthonormal axes [..., 3, 3] in columns: along a vector, and about the normal of both."""
    x = unit(along)
    z = unit(np.cross(x, across))
    return np.stack([x, np.cross(z, x), z], axis=-1)


def bone_heads(turn: F64, rig: Rig) -> F64:
    """Where bones begin [N, B, 3], for turns [N, B, 3, 3]: the root stays where it is at rest."""
    heads = np.empty((*turn.shape[:2], 3))
    for bone, parent in enumerate(rig.parents):
        if parent < 0:
            heads[:, bone] = rig.heads[bone]
        else:
            heads[:, bone] = heads[:, parent] + turn[:, parent] @ (rig.heads[bone] - rig.heads[parent])
    return heads
