"""`.bvh` (Biovision hierarchy), written only: one recording as rotations of a rest pose.

The rest pose is a T pose (arms out, palms down, head up) with the recording's bone lengths, each the median over its
frames. Every bone keeps its exact direction. A joint with several child bones (neck, hand root) takes their mean
rotation (Kabsch's least squares), and an extra joint at the same place, `neck_to_left_shoulder` and so on, turns each
bone the rest of the way. Bones get no twist of their own. Changes of bone length are lost; the root position is exact.
Coordinates are in centimetres, x to the image's right, y up, z toward the camera.

The format has no gaps: a missing joint, or a dropped frame, keeps the last known direction, or takes the first known.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.avatar import rest_directions
from rtskel.avatar.rotation import closest, swing
from rtskel.avatar.solver import held
from rtskel.errors import FormatError
from rtskel.formats.markers import one_of
from rtskel.formats.parsing import Format, replace_file, shown, text
from rtskel.formats.recording import Recording
from rtskel.skeleton import Skeleton, from_canonical, skeleton

AXES = "RUT"
_ORDER = "ZXY"


def write_bvh(path: Path, recordings: list[Recording]) -> None:
    """Write one 3D recording as BVH motion."""
    recording = one_of(path, recordings)
    body = skeleton(recording.skeleton)
    position, lengths, own, aimed = _pose(path, recording, body)
    offsets = rest_directions(body) * lengths[:, None]
    children = _children(body)

    lines = ["HIERARCHY"]
    turns: list[NDArray[np.float64]] = []  # [S, 3, 3] of each joint, in the order of the motion's columns
    rotation = " ".join(f"{axis}rotation" for axis in _ORDER)

    def begin(kind: str, offset: NDArray[np.float64], depth: int, turn: NDArray[np.float64] | None) -> None:
        pad = "  " * depth
        lines.extend([f"{pad}{kind}", f"{pad}{{", f"{pad}  OFFSET {_text(offset)}"])
        if turn is not None:
            moves = "6 Xposition Yposition Zposition" if kind.startswith("ROOT") else "3"
            lines.append(f"{pad}  CHANNELS {moves} {rotation}")
            turns.append(turn)

    def describe(joint: int, depth: int) -> None:
        name = body.names[joint]
        if not children[joint]:  # the end of a chain has no bone to turn
            begin("End Site", offsets[joint], depth, None)
        else:
            begin(f"{'ROOT' if joint == body.root else 'JOINT'} {name}", offsets[joint], depth, own[:, joint])
        for child in children[joint]:
            if len(children[joint]) > 1:
                begin(f"JOINT {name}_to_{body.names[child]}", np.zeros(3), depth + 1, aimed[:, child])
                describe(child, depth + 2)
                lines.append("  " * (depth + 1) + "}")
            else:
                describe(child, depth + 1)
        lines.append("  " * depth + "}")

    describe(body.root, 0)
    degrees = _euler(np.stack(turns, axis=1))
    motion = np.concatenate([position, degrees.reshape(len(degrees), -1)], axis=1)
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / recording.fps:.9f}"]
    lines += [_text(row) for row in motion]
    replace_file(path, "\n".join(lines) + "\n")


def _children(body: Skeleton) -> list[list[int]]:
    return [[child for child, parent in enumerate(body.parents) if parent == joint] for joint in range(body.joints)]


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.6f}" for value in values + 0.0)


def _pose(
    path: Path, recording: Recording, body: Skeleton
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Root positions [S, 3] and bone lengths [J] in cm, then rotations [S, J, 3, 3], both relative to the parent: of
    each joint, and of the extra joint before each child of a joint with several bones.
    """
    centimetres = from_canonical(recording.canonical(), AXES) * (recording.mm_per_unit() / 10)
    xyz = recording.by_slot(centimetres.astype(np.float64))
    there = recording.by_slot(~recording.missing | (recording.lookahead is not None))
    if not there[:, body.root].any():
        raise FormatError(f"{path}: recording {recording.name!r} never shows the {body.names[body.root]}")

    parents = body.parents_or_self
    bones = xyz - xyz[:, parents]
    known = there & there[:, parents]
    length = np.linalg.norm(bones, axis=-1)
    lengths = np.array([np.median(length[known[:, j], j]) if known[:, j].any() else 0.0 for j in range(body.joints)])
    unseen = (lengths == 0) & (np.arange(body.joints) != body.root)
    scale = np.median([lengths[j] / body.bone_length[j] for j in np.flatnonzero(lengths)] or [0.0])
    lengths[unseen] = np.array(body.bone_length)[unseen] * scale
    known &= length > 1e-9

    rest = rest_directions(body)
    directions = np.where(known[..., None], bones / np.maximum(length, 1e-9)[..., None], 0.0)
    for joint in range(body.joints):
        directions[:, joint] = _held(directions[:, joint], known[:, joint], rest[joint])
    position = _held(xyz[:, body.root], there[:, body.root], np.zeros(3))

    own = np.tile(np.eye(3), (len(xyz), body.joints, 1, 1))
    aimed = own.copy()
    carrier = own.copy()  # world rotation of the joint that carries each joint
    children = _children(body)
    for joint in body.order:
        below = children[joint]
        turned = carrier[:, joint]
        seen = [child for child in below if known[:, child].any()]
        if len(below) > 1 and len(seen) > 1:
            turned = closest(rest[seen], directions[:, seen])
        elif len(below) == 1 and seen:
            turned = swing(turned @ rest[seen[0]], directions[:, seen[0]]) @ turned
        own[:, joint] = np.swapaxes(carrier[:, joint], -1, -2) @ turned
        for child in below:
            carrier[:, child] = turned
            if len(below) > 1 and child in seen:
                carrier[:, child] = swing(turned @ rest[child], directions[:, child]) @ turned
                aimed[:, child] = np.swapaxes(turned, -1, -2) @ carrier[:, child]
    return position, lengths, own, aimed


def _held(values: NDArray[np.float64], known: NDArray[np.bool_], otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values [S, 3] where unknown ones repeat the last known one, or the first known one, or else `otherwise`."""
    return held(values, known, values[int(np.argmax(known))] if known.any() else otherwise)


def _euler(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles [..., 3] in degrees about z, then x, then y (intrinsic), of rotations [..., 3, 3]: R = Rz Rx Ry."""
    x = np.arcsin(np.clip(rotations[..., 2, 1], -1, 1))
    z = np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1])
    y = np.arctan2(-rotations[..., 2, 0], rotations[..., 2, 2])
    locked = np.abs(rotations[..., 2, 1]) > 1 - 1e-12  # gimbal lock: y is taken as 0
    z = np.where(locked, np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0]), z)
    y = np.where(locked, 0.0, y)
    degrees: NDArray[np.float64] = np.degrees(np.stack([z, x, y], axis=-1))
    return degrees


def describe_bvh(path: Path) -> dict[str, Any]:
    """Joints, channels, frames, fps and seconds of a `.bvh` file, which rtskel does not read otherwise.

    Raises:
        FormatError: no such file, or no `.bvh`.
    """
    words = text(path)
    joints = len(re.findall(r"^\s*(?:ROOT|JOINT)\s", words, re.MULTILINE))
    frames = re.search(r"^\s*Frames:\s*(\d{1,9})\s*$", words, re.MULTILINE)
    period = re.search(r"^\s*Frame Time:\s*([\d.eE+-]+)\s*$", words, re.MULTILINE)
    if not joints or not frames or not period:
        raise FormatError(f"{path}: not a .bvh file, or truncated ({len(words)} characters)")
    try:
        seconds = float(period[1])
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise FormatError(f"{path}: Frame Time is {shown(period[1])}, seconds expected")
    channels = sum(map(int, re.findall(r"^\s*CHANNELS\s+(\d{1,3})\s", words, re.MULTILINE)))
    count = int(frames[1])
    facts = {"joints": joints, "channels": channels, "frames": count, "fps": round(1 / seconds, 6)}
    return facts | {"seconds": round(count * seconds, 3)}


FORMAT = Format(
    "bvh",
    (".bvh",),
    write=write_bvh,
    lacks="how bones' lengths change, times, confidence, and of refined poses lookahead, sigma and flags",
    together="one",
)
