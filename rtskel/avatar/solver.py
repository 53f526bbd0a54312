"""Positions to rotations: where each bone points (swing), and how it turns about itself (twist).

What an upper body shows decides each bone:

- *Hips and spine* turn with the line of the shoulders: the hips about the vertical, the spine the rest. How far a
  person leans forward cannot be seen from the shoulders: the spine stays as upright as their line allows.
- *Head, shoulders, thumbs* point where they point, by the smallest turn from what carries them.
- *Fingers* bend about the axis across the palm, by any angle, and as little as can be to the side.
- *Upper arms* also turn about themselves, so that the elbow bends as elbows do: forward, where the arms are held out
  with the palms down. As the arm is stretched the direction of the bend is lost, and the twist fades out.
- *Hands* turn as the palm does: the rotation that brings the finger bases closest to where they are (Kabsch).
- *Forearms* take half of the hand's twist about the forearm, as theirs is the bone that turns the hand.

Every bone points exactly where it does in the positions, but for the finger bases: a palm is rigid in an avatar. So
forward kinematics give the positions back, up to changes of bone lengths and of the palm's shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtskel.avatar.rig import BONE, BONES, FINGERS, Rig, unit
from rtskel.avatar.rotation import F64, about, apply, closest, swing, twist
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50

FOREARM_SHARE = 0.5
"""Of the hand's twist about the forearm, what the forearm takes; the wrist takes the rest."""

STRAIGHT, BENT = np.sin(np.radians((10.0, 30.0)))
"""Sines of an elbow's bend below which its direction says nothing, and above which it decides the upper arm's twist."""


_NECK = [BONE[name] for name in ("head", "leftShoulder", "rightShoulder")]
_UPPER, _LOWER, _HANDS = (
    [BONE[f"{side}{part}"] for side in ("left", "right")] for part in ("UpperArm", "LowerArm", "Hand")
)
_FINGERS = [
    (
        [BONE[f"{side}ThumbMetacarpal"] + number for side in ("left", "right")],
        [BONE[f"{side}{name}Proximal"] + number for side in ("left", "right") for name in FINGERS if name != "Thumb"],
    )
    for number in range(3)
]
"""Bones of one kind on both sides, which are solved together: of the fingers, thumbs and the others, from the palm."""


@dataclass(frozen=True, eq=False)
class Motion:
    """N poses of an avatar with B bones (`BONES`).

    Attributes:
        rotation: [N, B, 3, 3] of each bone relative to the bone that carries it; none in the rest pose.
        neck: [N, 3] where the neck is, in the unit and axes of the positions.
        rig: the rest pose.
    """

    rotation: F64
    neck: F64
    rig: Rig

    @property
    def world(self) -> F64:
        """[N, B, 3, 3] rotation of each bone in the world."""
        world = np.empty_like(self.rotation)
        for number, bone in enumerate(BONES):
            carried = self.rotation[:, number]
            world[:, number] = world[:, bone.parent] @ carried if bone.parent >= 0 else carried
        return world

    @property
    def hips(self) -> F64:
        """[N, 3] where the hips are."""
        world, torso = self.world, self.rig.torso
        hips: F64 = self.neck - world[:, BONE["hips"]] @ torso[0] - world[:, BONE["spine"]] @ torso[1]
        return hips

    def positions(self) -> F64:
        """Forward kinematics: [N, J, 3] the joints, from the rotations and the rest pose alone."""
        world, body = self.world, UPPER_BODY_50
        driver = {joint: number for number, bone in enumerate(BONES) for joint in bone.drives}
        places = np.empty((len(world), body.joints, 3))
        places[:, NECK] = self.neck
        for joint in body.order[1:]:
            places[:, joint] = places[:, body.parents[joint]] + world[:, driver[joint]] @ self.rig.offsets[joint]
        return places


class Solver:
    """Turns positions into rotations, frame by frame or many at once, with the same result.

    A bone whose joints are not known keeps the direction that it had; before it was ever known, its rest direction.

    Args:
        rig: the person's proportions; only the shape of the palms changes rotations.
    """

    def __init__(self, rig: Rig | None = None) -> None:
        self.rig = rig or Rig.standard()
        self._rest = unit(self.rig.offsets)
        self.reset()

    def reset(self) -> None:
        """Forgets what was known of earlier frames."""
        self._direction = self._rest.copy()
        self._neck = np.zeros(3)

    def push(self, xyz: F64, known: NDArray[np.bool_]) -> Motion:
        """Rotations of the next N frames.

        Args:
            xyz: [N, J, 3] positions along `AXES` ("RUT"), in any unit.
            known: [N, J] joints that have a position.
        """
        body = UPPER_BODY_50
        bones = np.asarray(xyz, np.float64) - xyz[:, body.parents_or_self]
        length = np.linalg.norm(bones, axis=-1)
        seen = known & known[:, body.parents_or_self] & (length > 1e-9)
        direction = bones / np.maximum(length, 1e-9)[..., None]
        for joint in range(body.joints):
            direction[:, joint] = held(direction[:, joint], seen[:, joint], self._direction[joint])
        neck = held(np.asarray(xyz[:, NECK], np.float64), known[:, NECK], self._neck)
        if len(direction):
            self._direction, self._neck = direction[-1].copy(), neck[-1].copy()
        world = self._world(direction)
        local = world.copy()
        for number, bone in enumerate(BONES):
            if bone.parent >= 0:
                local[:, number] = np.swapaxes(world[:, bone.parent], -1, -2) @ world[:, number]
        return Motion(local, neck, self.rig)

    def _world(self, direction: F64) -> F64:
        """[N, B, 3, 3] rotations in the world of bones that point in these directions [N, J, 3]."""
        world = np.empty((len(direction), len(BONES), 3, 3))
        world[:, BONE["hips"]], world[:, BONE["spine"]] = self._torso(direction)

        def aimed(bones: list[int]) -> F64:
            """The smallest turns from what carries these bones to where they point: [N, K, 3, 3]."""
            carrier = world[:, [BONES[bone].parent for bone in bones]]
            ends = [BONES[bone].drives[0] for bone in bones]
            return swing(apply(carrier, self._rest[ends]), direction[:, ends]) @ carrier

        world[:, _NECK] = aimed(_NECK)
        elbows = [BONES[bone].drives[0] for bone in _UPPER]
        wrists = [BONES[bone].drives[0] for bone in _LOWER]
        world[:, _UPPER] = _bend(aimed(_UPPER), direction[:, elbows], direction[:, wrists])
        forearm = aimed(_LOWER)
        bases = [list(BONES[hand].drives[1:]) for hand in _HANDS]
        world[:, _HANDS] = closest(self._rest[bases], direction[:, bases])
        turn = twist(np.swapaxes(forearm, -1, -2) @ world[:, _HANDS], self._rest[wrists])
        world[:, _LOWER] = about(direction[:, wrists], FOREARM_SHARE * turn) @ forearm
        for thumbs, others in _FINGERS:
            world[:, thumbs] = aimed(thumbs)
            world[:, others] = self._hinged(world, direction, others)
        return world

    def _hinged(self, world: F64, direction: F64, bones: list[int]) -> F64:
        """Bones that bend about the z axis of what carries them, by any angle, and as little as can be to the side."""
        carrier = world[:, [BONES[bone].parent for bone in bones]]
        ends = [BONES[bone].drives[0] for bone in bones]
        rest, points = self._rest[ends], apply(np.swapaxes(carrier, -1, -2), direction[:, ends])
        angle = np.arctan2(points[..., 1], points[..., 0]) - np.arctan2(rest[..., 1], rest[..., 0])
        bent = about(np.broadcast_to((0.0, 0.0, 1.0), points.shape), angle)
        return carrier @ bent @ swing(rest, apply(np.swapaxes(bent, -1, -2), points))

    def _torso(self, direction: F64) -> tuple[F64, F64]:
        """Rotations of the hips and of the spine in the world, by the line from the right to the left shoulder."""
        lengths = np.linalg.norm(self.rig.offsets, axis=-1)
        across = (
            direction[:, LEFT_SHOULDER] * lengths[LEFT_SHOULDER]
            - direction[:, RIGHT_SHOULDER] * lengths[RIGHT_SHOULDER]
        )
        flat = np.hypot(across[:, 0], across[:, 2])
        ahead = np.stack([-across[:, 2], np.zeros_like(flat), across[:, 0]], axis=-1) / np.maximum(flat, 1e-9)[:, None]
        ahead[flat < 1e-9] = (0.0, 0.0, 1.0)
        across = np.where((flat < 1e-9)[:, None], (1.0, 0.0, 0.0), across)
        across /= np.linalg.norm(across, axis=-1, keepdims=True)
        upright = np.broadcast_to((0.0, 1.0, 0.0), ahead.shape)
        hips = np.stack([np.cross(upright, ahead), upright, ahead], axis=-1)
        spine = np.stack([across, np.cross(ahead, across), ahead], axis=-1)
        return hips, spine


def _bend(upper: F64, along: F64, forearm: F64) -> F64:
    """Upper arms [..., 3, 3] turned about themselves (`along`, [..., 3]) so that forearms bend toward their own +z."""
    across = forearm - along * (along * forearm).sum(axis=-1, keepdims=True)
    bent = np.linalg.norm(across, axis=-1)
    forward = upper[..., :, 2]
    angle = np.arctan2((along * np.cross(forward, across)).sum(axis=-1), (forward * across).sum(axis=-1))
    share = np.clip((bent - STRAIGHT) / (BENT - STRAIGHT), 0.0, 1.0)
    return about(along, share * share * (3 - 2 * share) * angle) @ upper


def held(values: F64, known: NDArray[np.bool_], before: F64) -> F64:
    """Values [N, 3] where unknown ones repeat the last known one, `before` to begin with."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    held: F64 = np.where((last < 0)[:, None], before, values[np.maximum(last, 0)])
    return held
