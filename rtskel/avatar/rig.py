"""The bones of VRM's humanoid that an upper body moves, their rest pose, and where joints are in them.

The rest pose is VRM's T pose: arms out, palms down, face toward +z, the left hand at +x, y up. These are the axes
"RUT" of a person who faces the camera, and those of glTF. Every bone's rest rotation is none, so that rotations fit any
avatar in VRM's T pose, whatever its proportions. Names are VRM 1.0's
(github.com/vrm-c/vrm-specification, VRMC_vrm-1.0, humanoid).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtskel.avatar.rotation import F64, closest
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, UPPER_BODY_50, Skeleton

AXES = "RUT"

TORSO = 1.4
"""Shoulder widths from the hips to the neck. An upper body does not show its hips: they hang below the neck."""


@dataclass(frozen=True)
class Bone:
    """A bone of the avatar.

    Attributes:
        name: in VRM 1.0.
        parent: index of the bone that carries it; -1: none.
        joint: the joint of the skeleton at its origin, about which it turns; -1: none, it hangs below the neck.
        drives: the joints whose place this bone's rotation decides.
    """

    name: str
    parent: int
    joint: int
    drives: tuple[int, ...]


FINGERS = ("Thumb", "Index", "Middle", "Ring", "Little")


def _bones(body: Skeleton) -> tuple[Bone, ...]:
    at = body.names.index
    bones = [Bone("hips", -1, -1, ()), Bone("spine", 0, -1, (at("neck"),)), Bone("head", 1, at("neck"), (at("nose"),))]
    for side in ("left", "right"):
        shoulder, elbow, wrist = (at(f"{side}_{part}") for part in ("shoulder", "elbow", "wrist"))
        root = at(f"{side}_hand_root")
        bases = tuple(at(f"{side}_{finger.lower()}_1") for finger in FINGERS)
        first = len(bones)
        bones += [
            Bone(f"{side}Shoulder", 1, at("neck"), (shoulder,)),
            Bone(f"{side}UpperArm", first, shoulder, (elbow,)),
            Bone(f"{side}LowerArm", first + 1, elbow, (wrist,)),
            Bone(f"{side}Hand", first + 2, wrist, (root, *bases)),
        ]
        for finger, base in zip(FINGERS, bases, strict=True):
            parts = (
                ("Metacarpal", "Proximal", "Distal") if finger == "Thumb" else ("Proximal", "Intermediate", "Distal")
            )
            for number, part in enumerate(parts):
                carrier = len(bones) - 1 if number else first + 3
                bones.append(Bone(f"{side}{finger}{part}", carrier, base + number, (base + number + 1,)))
    return tuple(bones)


BONES = _bones(UPPER_BODY_50)
"""The bones of `UPPER_BODY_50`, each after the bone that carries it."""

BONE = {bone.name: number for number, bone in enumerate(BONES)}
"""Index of each bone by name."""


def rest_directions(body: Skeleton = UPPER_BODY_50) -> F64:
    """[J, 3] unit directions of the bones in the rest pose, by the joint that each ends in; the root's is 0."""
    directions = np.zeros((body.joints, 3))
    # Toward the camera, where the palms face down.
    fan = {"index": 0.35, "middle": 0.12, "ring": -0.12, "little": -0.35}
    for joint, name in enumerate(body.names):
        side = 1.0 if name.startswith("left_") else -1.0
        part = name.removeprefix("left_").removeprefix("right_")
        finger = part.partition("_")[0]
        if body.parents[joint] < 0:
            continue
        if part == "nose":
            directions[joint] = (0.0, 1.0, 0.3)
        elif finger == "thumb":
            directions[joint] = (side, 0.0, 1.2) if part == "thumb_1" else (side, 0.0, 0.6)
        elif finger in fan and part.endswith("_1"):
            directions[joint] = (side, 0.0, fan[finger])
        else:
            directions[joint] = (side, 0.0, 0.0)
    return unit(directions)


@dataclass(frozen=True, eq=False)
class Rig:
    """A person's proportions: the rest pose that rotations are relative to.

    Attributes:
        offsets: [J, 3] from each joint's parent to the joint in the rest pose, in any unit; the neck's is 0.
    """

    offsets: F64

    @staticmethod
    def standard() -> Rig:
        """Typical proportions, in the skeleton's unit (a shoulder width is 1/3)."""
        return Rig(rest_directions() * np.array(UPPER_BODY_50.bone_length)[:, None])

    @staticmethod
    def of(xyz: F64, known: NDArray[np.bool_]) -> Rig:
        """The proportions of a person: median bone lengths, and the mean shape of his palms.

        Args:
            xyz: [N, J, 3] positions along `AXES`, in any unit.
            known: [N, J] joints that have a position.
        """
        body, standard = UPPER_BODY_50, Rig.standard()
        bones = xyz - xyz[:, body.parents_or_self]
        seen = known & known[:, body.parents_or_self]
        length = np.linalg.norm(bones, axis=-1)
        usual = np.linalg.norm(standard.offsets, axis=-1)
        median = np.array(
            [np.median(length[seen[:, j], j]) if seen[:, j].any() else np.nan for j in range(body.joints)]
        )
        ratios = (median / np.where(usual > 0, usual, np.nan))[np.isfinite(median) & (usual > 0)]
        lengths = np.where(np.isfinite(median), median, usual * (np.median(ratios) if ratios.size else 1.0))
        offsets = rest_directions() * lengths[:, None]
        for side in ("left", "right"):
            root, *bases = palm = list(BONES[BONE[f"{side}Hand"]].drives)
            whole = seen[:, palm].all(axis=1)
            if whole.any():  # in the hand's own axes, as far as one rotation of the rest pose can bring them there
                turned = closest(rest_directions()[bases], unit(bones[whole][:, bases]))
                shape = np.swapaxes(turned, -1, -2) @ np.swapaxes(bones[whole][:, [root, *bases]], -1, -2)
                mean = np.median(shape, axis=0).T
                offsets[palm] = unit(mean) * lengths[palm, None]
        return Rig(offsets)

    @property
    def shoulder_width(self) -> float:
        """Distance between the shoulders in the rest pose, in the unit of the offsets."""
        return float(np.linalg.norm(self.offsets[LEFT_SHOULDER] - self.offsets[RIGHT_SHOULDER]))

    @property
    def torso(self) -> F64:
        """[2, 3] from the hips to the spine's origin, and from there to the neck."""
        length = TORSO * self.shoulder_width
        return np.array([[0.0, 0.25 * length, 0.0], [0.0, 0.75 * length, 0.0]])

    @property
    def origins(self) -> F64:
        """[B, 3] from the origin of the bone that carries each bone to its own, in the rest pose; the hips' is where
        they are if the neck is at 0.
        """
        places = self.positions
        neck = self.torso.sum(axis=0)
        own = [
            (-neck, -neck + self.torso[0])[k] if bone.joint < 0 else places[bone.joint] for k, bone in enumerate(BONES)
        ]
        return np.array([own[k] - (own[bone.parent] if bone.parent >= 0 else 0) for k, bone in enumerate(BONES)])

    @property
    def positions(self) -> F64:
        """[J, 3] joints in the rest pose, the neck at 0."""
        places = np.zeros_like(self.offsets)
        for joint in UPPER_BODY_50.order[1:]:
            places[joint] = places[UPPER_BODY_50.parents[joint]] + self.offsets[joint]
        return places


def unit(vectors: F64) -> F64:
    """Vectors [..., 3] of length 1; those of length 0 stay so."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: F64 = vectors / np.where(length > 0, length, 1.0)
    return scaled
