"""A skeleton as a tree of bones below the head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.skeleton import SHOULDER_WIDTH, Skeleton

Array = NDArray[Any]

HEAD = "nose"
"""The joint from which the skeleton is placed."""


@dataclass(frozen=True, eq=False)
class Tree:
    """A skeleton's J joints as a tree of B = J - 1 bones below the head. Bone i leads from parent[i] to joint[i].

    Attributes:
        head, neck: indices of these joints. body: [8] joints of the body.
        names: [B] name of each bone's joint.
        joint, parent: [B], ordered so that the bone to a joint comes before the bones that start there.
        above: [B] the bone that leads to bone i's parent, -1 for bones that start at the head.
        twin: [B] the same bone on the other side of the body, or the bone itself.
        levels: bones by their distance from the head.
        kind: [B] index into the C bone lengths; symmetric bones share one.
        typical: [C] typical lengths in shoulder widths.
        down: [B, J] which joints a bone moves: root + bones @ down are the joints.
        down_z: [B, J] the same relative to the neck, where depth is 0.
        across: [J, B] joints @ across are the bones.
    """

    joints: int
    head: int
    neck: int
    body: NDArray[np.int64]
    names: tuple[str, ...]
    joint: NDArray[np.int64]
    parent: NDArray[np.int64]
    above: NDArray[np.int64]
    twin: NDArray[np.int64]
    levels: tuple[NDArray[np.int64], ...]
    kind: NDArray[np.int64]
    typical: Array
    down: Array
    down_z: Array
    across: Array

    def by_kind(self, of_bones: Array) -> Array:
        """[..., B] summed over the bones that share a length: [..., C]."""
        return of_bones @ np.eye(len(self.typical))[self.kind]


@lru_cache(maxsize=8)
def tree_of(skeleton: Skeleton) -> Tree:
    """The tree of a skeleton."""
    head, neck = skeleton.names.index(HEAD), skeleton.root
    above_of = np.full(skeleton.joints, -1)
    order, depth = [head], np.zeros(skeleton.joints, np.int64)
    for j in order:  # breadth first; grows during the loop
        for other in range(skeleton.joints):
            if other not in order and (skeleton.parents[other] == j or skeleton.parents[j] == other):
                above_of[other] = j
                depth[other] = depth[j] + 1
                order.append(other)
    joint = np.array(order[1:])
    parent = above_of[joint]
    bones = np.arange(len(joint))
    bone_to = {int(j): i for i, j in enumerate(joint)}
    above = np.array([bone_to.get(int(p), -1) for p in parent])
    twin = np.array([bone_to.get(skeleton.mirror[j], i) for i, j in enumerate(joint)])
    _, kind = np.unique(np.minimum(bones, twin), return_inverse=True)
    down = np.zeros((len(joint), skeleton.joints))
    for i, j in enumerate(joint):
        if above[i] >= 0:
            down[:, j] = down[:, parent[i]]
        down[i, j] = 1
    across = np.zeros((skeleton.joints, len(joint)))
    across[joint, bones] = 1
    across[parent, bones] = -1
    # The skeleton states the length of the bone above a joint; between head and neck this tree runs the other way.
    below = [j if skeleton.parents[j] == p else p for j, p in zip(joint.tolist(), parent.tolist(), strict=True)]
    typical = np.array(skeleton.bone_length)[below] / SHOULDER_WIDTH
    return Tree(
        joints=skeleton.joints,
        head=head,
        neck=neck,
        body=np.array(skeleton.groups["body"]),
        names=tuple(skeleton.names[j] for j in joint),
        joint=joint,
        parent=parent,
        above=above,
        twin=twin,
        levels=tuple(np.flatnonzero(depth[joint] == level) for level in range(1, depth.max() + 1)),
        kind=kind,
        typical=np.bincount(kind, typical) / np.bincount(kind),
        down=down,
        down_z=down - down[:, [neck]],
        across=across,
    )
