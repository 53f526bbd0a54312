"""Joints, tree, sides and axes of the skeletons that rtskel refines.

The one skeleton of the released weights is `UPPER_BODY_50`: head, neck, arms and both hands, the 50 joints of the
Skeletor paper (Jiang, Camgoz, Bowden, CVPRW 2021, from OpenPose's BODY_25 and hand models).

Canonical axes are those of a camera image: x to the image's right, y down, z toward the camera. The left hand of a
person who faces the camera is then at +x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import RtskelError

NECK = 1
RIGHT_SHOULDER = 2
LEFT_SHOULDER = 5

SHOULDER_WIDTH = 1.0 / 3.0
"""Distance between the shoulders in the canonical frame, by the training convention."""

SIDES = ("left", "right")
"""Sides of the body, in the order of the skeleton's hands."""

FINGERS = ("thumb", "index", "middle", "ring", "little")

CANONICAL_AXES = "RDT"


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A tree of named joints.

    Attributes:
        id: what recordings, engines and messages call this skeleton.
        names: J joint names.
        parents: [J] index of each joint's parent, -1 for the root.
        mirror: [J] the joint that takes each joint's place when left and right are exchanged.
        groups: joint indices by body part; the groups partition the joints.
        bone_length: [J] typical length of the bone that ends in each joint, in shoulder widths / 3 (the root's is 0).
            It only steadies the scale of windows without a valid shoulder pair, so proportions need not be exact.
    """

    id: str
    names: tuple[str, ...]
    parents: tuple[int, ...]
    mirror: tuple[int, ...]
    groups: Mapping[str, tuple[int, ...]]
    bone_length: tuple[float, ...]

    @property
    def joints(self) -> int:
        """Number of joints, J."""
        return len(self.names)

    @property
    def root(self) -> int:
        """Index of the joint without a parent."""
        return self.parents.index(-1)

    @property
    def order(self) -> tuple[int, ...]:
        """Every joint once, parents before their children."""
        order = [self.root]
        for joint in order:  # breadth first: the list grows during the walk
            order.extend(child for child, parent in enumerate(self.parents) if parent == joint)
        return tuple(order)

    @cached_property
    def parents_or_self(self) -> NDArray[np.int64]:
        """[J] index of each joint's parent; the root is its own: `xyz - xyz[..., parents_or_self, :]` are bones."""
        own = np.arange(self.joints, dtype=np.int64)
        return _constant(np.where(np.less(self.parents, 0), own, self.parents))

    @cached_property
    def chain(self) -> NDArray[np.float32]:
        """[J, J] 1 where the second joint is the first or above it in the tree: `chain @ bones` are positions."""
        chain = np.eye(self.joints, dtype=np.float32)
        for joint in self.order:
            if self.parents[joint] >= 0:
                chain[joint] += chain[self.parents[joint]]
        return _constant(chain)


_T = TypeVar("_T", bound=np.generic)


def _constant(array: NDArray[_T]) -> NDArray[_T]:
    array.flags.writeable = False  # every caller gets the same array
    return array


def _upper_body_50() -> Skeleton:
    names = ["nose", "neck"]
    parents = [1, -1]
    lengths = [0.214, 0.0]
    for side in reversed(SIDES):
        first = len(names)
        names += [f"{side}_{part}" for part in ("shoulder", "elbow", "wrist")]
        parents += [NECK, first, first + 1]
        lengths += [SHOULDER_WIDTH / 2, 0.306, 0.221]
    finger_lengths = (
        (0.030, 0.038, 0.029, 0.027),
        (0.073, 0.038, 0.024, 0.022),
        (0.066, 0.040, 0.023, 0.021),
        (0.059, 0.036, 0.022, 0.019),
        (0.056, 0.029, 0.017, 0.016),
    )
    for side, wrist in zip(SIDES, (7, 4), strict=True):
        hand = len(names)
        names.append(f"{side}_hand_root")
        parents.append(wrist)
        lengths.append(0.047)
        for finger, segments in zip(FINGERS, finger_lengths, strict=True):
            base = len(names)
            names += [f"{side}_{finger}_{k}" for k in range(1, 5)]
            parents += [hand, base, base + 1, base + 2]
            lengths += segments

    def other_side(name: str) -> str:
        if name.startswith("left_"):
            return "right_" + name.removeprefix("left_")
        return "left_" + name.removeprefix("right_") if name.startswith("right_") else name

    return Skeleton(
        id="upper-body-50",
        names=tuple(names),
        parents=tuple(parents),
        mirror=tuple(names.index(other_side(name)) for name in names),
        groups=MappingProxyType(
            {"body": tuple(range(8)), "left_hand": tuple(range(8, 29)), "right_hand": tuple(range(29, 50))}
        ),
        bone_length=tuple(lengths),
    )


UPPER_BODY_50 = _upper_body_50()

BODY = tuple(UPPER_BODY_50.names[joint] for joint in UPPER_BODY_50.groups["body"])
"""Names of the eight joints of head, neck and arms, the first of the skeleton."""

SKELETONS: Mapping[str, Skeleton] = MappingProxyType({UPPER_BODY_50.id: UPPER_BODY_50})


def skeleton(skeleton_id: str) -> Skeleton:
    """The skeleton of that id; RtskelError names an id that rtskel does not know."""
    try:
        return SKELETONS[skeleton_id]
    except KeyError:
        raise RtskelError(f"unknown skeleton {skeleton_id!r} (known: {', '.join(SKELETONS)})") from None


_DIRECTIONS = {
    "R": (1.0, 0.0, 0.0),
    "L": (-1.0, 0.0, 0.0),
    "D": (0.0, 1.0, 0.0),
    "U": (0.0, -1.0, 0.0),
    "T": (0.0, 0.0, 1.0),
    "A": (0.0, 0.0, -1.0),
}


def axes_matrix(axes: str) -> NDArray[np.float32]:
    """The matrix M [3, 3] such that `xyz @ M` is in canonical axes.

    Args:
        axes: three letters, the directions in which x, y and z grow: R or L (the image's right or left), D or U (down
            or up), T or A (toward the camera or away). Canonical is "RDT", MediaPipe "RDA", Unity "RUA", Blender "RAU".

    Raises:
        RtskelError: not three letters, or a direction is missing.
    """
    rows = [_DIRECTIONS.get(letter) for letter in axes]
    if len(rows) != 3 or any(row is None for row in rows):
        raise RtskelError(f"axes {axes!r}: three letters of R/L, D/U, T/A expected, such as {CANONICAL_AXES!r}")
    matrix = np.array(rows, np.float32)
    if abs(np.linalg.det(matrix)) < 0.5:
        raise RtskelError(f"axes {axes!r}: one letter of each pair R/L, D/U, T/A expected")
    return matrix


def to_canonical(xyz: NDArray[np.float32], axes: str, mirrored: bool = False) -> NDArray[np.float32]:
    """Positions [..., 3] given in `axes`, and seen in a mirror if `mirrored`, in canonical axes (units unchanged)."""
    return turned_in(xyz, signed_axes(axes, mirrored))


def from_canonical(xyz: NDArray[np.float32], axes: str, mirrored: bool = False) -> NDArray[np.float32]:
    """The inverse of `to_canonical`: canonical positions [..., 3] in the user's axes."""
    return turned_out(xyz, signed_axes(axes, mirrored))


def signed_axes(axes: str, mirrored: bool = False) -> tuple[int, int, int]:
    """For each canonical coordinate the coordinate of `axes` that it equals, counted from 1; negative if negated.

    Canonical axes are (1, 2, 3).
    """
    x, y, z = (axes_matrix(axes).T @ (1, 2, 3)).astype(int).tolist()
    return (-x if mirrored else x), y, z


def turned_in(xyz: NDArray[np.float32], signed: Sequence[int]) -> NDArray[np.float32]:
    """As `to_canonical`, for axes given by `signed_axes`."""
    # Index and sign instead of a product: exact, and a NaN in one coordinate stays in that coordinate.
    source, sign = np.abs(signed) - 1, np.sign(signed).astype(np.float32)
    return np.ascontiguousarray(xyz[..., source] * sign, dtype=np.float32)


def turned_out(xyz: NDArray[np.float32], signed: Sequence[int]) -> NDArray[np.float32]:
    """As `from_canonical`, for axes given by `signed_axes`."""
    inverse = np.argsort(np.abs(signed)) + 1
    return turned_in(xyz, (inverse * np.sign(signed)[inverse - 1]).tolist())
