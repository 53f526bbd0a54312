"""`.bvh` (Biovision hierarchy), written only: one recording as rotations of a rest pose.

The rest pose is a T pose (arms out, palms down, head up) with the recording's own bone lengths, each the median over
its frames. Every bone of a chain points exactly where it does in the recording; a joint that carries several bones
(neck, hand root) turns as they do on average (Kabsch's least squares), and no bone turns about itself beyond what its
parent does. What rotations of rigid bones cannot hold is lost: changes of a bone's length, and of the angles between
the bones of one joint. The root's position is exact. Coordinates are in centimetres, x to the image's right, y up, z
toward the camera.

A joint that is missing keeps the direction that it had, or will have first; the same goes for dropped frames: the
format has no gaps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.files import replace_file
from rtskel.formats.recording import Recording
from rtskel.skeleton import Skeleton, from_canonical, skeleton

AXES = "RUT"
_ORDER = "ZXY"


def rest_pose(body: Skeleton) -> NDArray[np.float64]:
    """[J, 3] directions of the bones that end in each joint in a T pose, along axes "RUT"; the root's is 0."""
    directions = np.zeros((body.joints, 3))
    fan = {
        "index": 0.35,
        "middle": 0.12,
        "ring": -0.12,
        "little": -0.35,
    }  # toward the camera, where the palms face down
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
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = directions / np.where(length > 0, length, 1.0)
    return unit


def write_bvh(path: Path, recordings: list[Recording]) -> None:
    if len(recordings) > 1:
        names = ", ".join(repr(recording.name) for recording in recordings[:5])
        raise FormatError(f"{path}: .bvh holds one recording, these are {len(recordings)} ({names}, ...): choose one")
    (recording,) = recordings
    if recording.dims == 2:
        raise FormatError(f"{path}: recording {recording.name!r} is 2D, .bvh holds 3D")
    body = skeleton(recording.skeleton)
    position, lengths, rotations = _pose(path, recording, body)
    offsets = rest_pose(body) * lengths[:, None]

    lines = ["HIERARCHY"]
    channels: list[int] = []  # joints in the order of their numbers in the motion

    def describe(joint: int, depth: int) -> None:
        pad = "  " * depth
        root = joint == body.root
        children = [child for child in range(body.joints) if body.parents[child] == joint]
        turns = " ".join(f"{axis}rotation" for axis in _ORDER)
        lines.append(f"{pad}{'ROOT' if root else 'JOINT'} {body.names[joint]}")
        lines.append(f"{pad}{{")
        lines.append(f"{pad}  OFFSET {_text(offsets[joint])}")
        lines.append(f"{pad}  CHANNELS {f'6 Xposition Yposition Zposition {turns}' if root else f'3 {turns}'}")
        channels.append(joint)
        for child in children:
            if any(parent == child for parent in body.parents):
                describe(child, depth + 1)
            else:  # the last of a chain carries no bone, and so has nothing to turn
                lines.append(f"{pad}  End Site")
                lines.append(f"{pad}  {{")
                lines.append(f"{pad}    OFFSET {_text(offsets[child])}")
                lines.append(f"{pad}  }}")
        lines.append(f"{pad}}}")

    describe(body.root, 0)
    degrees = _euler(rotations[:, channels])
    motion = np.concatenate([position, degrees.reshape(len(degrees), -1)], axis=1)
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / recording.fps:.9f}"]
    lines += [_text(row) for row in motion]
    replace_file(path, ("\n".join(lines) + "\n").encode("ascii"))


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.6f}" for value in values + 0.0)


def _pose(
    path: Path, recording: Recording, body: Skeleton
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Root positions [S, 3] in cm, bone lengths [J] in cm, and each joint's rotation [S, J, 3, 3] in its parent's."""
    slots = int(recording.slots[-1]) + 1
    xyz = np.zeros((slots, body.joints, 3))
    there = np.zeros((slots, body.joints), bool)
    xyz[recording.slots] = from_canonical(recording.canonical(), AXES) * (recording.mm_per_unit() / 10)
    there[recording.slots] = True if recording.lookahead is not None else ~recording.missing
    if not there[:, body.root].any():
        raise FormatError(f"{path}: recording {recording.name!r} never shows the {body.names[body.root]}")

    parents = np.array(body.parents)
    parents[body.root] = body.root
    bones = xyz - xyz[:, parents]
    known = there & there[:, parents]
    length = np.linalg.norm(bones, axis=-1)
    lengths = np.array([np.median(length[known[:, j], j]) if known[:, j].any() else 0.0 for j in range(body.joints)])
    unseen = (lengths == 0) & (np.arange(body.joints) != body.root)
    scale = np.median([lengths[j] / body.bone_length[j] for j in np.flatnonzero(lengths)] or [0.0])
    lengths[unseen] = np.array(body.bone_length)[unseen] * scale
    known &= length > 1e-9

    rest = rest_pose(body)
    directions = np.where(known[..., None], bones / np.maximum(length, 1e-9)[..., None], 0.0)
    for joint in range(body.joints):
        directions[:, joint] = _held(directions[:, joint], known[:, joint], rest[joint])
    position = _held(xyz[:, body.root], there[:, body.root], np.zeros(3))

    world = np.broadcast_to(np.eye(3), (slots, body.joints, 3, 3)).copy()
    local = world.copy()
    for joint in body.order:
        children = [child for child in range(body.joints) if body.parents[child] == joint]
        parent = world[:, parents[joint]] if joint != body.root else np.broadcast_to(np.eye(3), (slots, 3, 3))
        seen = [child for child in children if known[:, child].any()]
        if len(seen) == 1:
            aim = directions[:, seen[0]]
            world[:, joint] = _swing(parent @ rest[seen[0]], aim) @ parent
        elif seen:
            world[:, joint] = _kabsch(rest[seen], directions[:, seen])
        else:
            world[:, joint] = parent
        local[:, joint] = np.swapaxes(parent, -1, -2) @ world[:, joint]
    return position, lengths, local


def _held(values: NDArray[np.float64], known: NDArray[np.bool_], otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values [S, 3] where unknown ones repeat the last known one, or before that the first."""
    if not known.any():
        return np.broadcast_to(otherwise, values.shape).copy()
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    held: NDArray[np.float64] = values[np.where(last < 0, int(np.argmax(known)), last)]
    return held


def _swing(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest rotations [S, 3, 3] that turn unit vectors start into end, both [S, 3] (Rodrigues)."""
    axis = np.cross(start, end)
    cosine = (start * end).sum(axis=-1)
    skew = np.zeros((len(start), 3, 3))
    skew[:, 0, 1], skew[:, 0, 2], skew[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    skew -= np.swapaxes(skew, -1, -2)
    opposite = cosine < -1 + 1e-9
    factor = 1 / np.where(opposite, 1.0, 1 + cosine)
    turn = np.eye(3) + skew + skew @ skew * factor[:, None, None]
    if opposite.any():  # half a turn about any axis across
        across = np.cross(start, np.eye(3)[np.argmin(np.abs(start), axis=-1)])
        across /= np.linalg.norm(across, axis=-1, keepdims=True)
        half = 2 * across[:, :, None] * across[:, None, :] - np.eye(3)
        turn = np.where(opposite[:, None, None], half, turn)
    return turn


def _kabsch(rest: NDArray[np.float64], directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotations [S, 3, 3] that bring rest directions [B, 3] closest to the directions [S, B, 3]."""
    u, _, vt = np.linalg.svd(np.swapaxes(directions, -1, -2) @ rest)
    sign = np.sign(np.linalg.det(u @ vt))
    u[..., -1] *= sign[:, None]
    rotation: NDArray[np.float64] = u @ vt
    return rotation


def _euler(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles [..., 3] in degrees about z, then x, then y (intrinsic), of rotations [..., 3, 3]: R = Rz Rx Ry."""
    x = np.arcsin(np.clip(rotations[..., 2, 1], -1, 1))
    z = np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1])
    y = np.arctan2(-rotations[..., 2, 0], rotations[..., 2, 2])
    locked = np.abs(rotations[..., 2, 1]) > 1 - 1e-12  # x is a quarter turn: y is z's, and taken as 0
    z = np.where(locked, np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0]), z)
    y = np.where(locked, 0.0, y)
    degrees: NDArray[np.float64] = np.degrees(np.stack([z, x, y], axis=-1))
    return degrees
