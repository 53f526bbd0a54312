"""`.bvh` (Biovision hierarchy), written only: one recording as rotations of a rest pose.

The joints are those that MotionBuilder, Blender's retargeters and Mixamo expect: Hips, Spine, Neck, Head, LeftShoulder,
LeftArm, LeftForeArm, LeftHand, LeftHandIndex1 to 3, ..., and the same on the right. The rest pose, which the offsets
state, is a T pose (arms out, palms down, head up) with the recording's bone lengths, each the median over its frames.
Rotations come from `rtskel.avatar`. Every bone keeps its length and its exact direction: joints that avatars do not
have, LeftWrist before LeftHand, LeftInHandIndex before LeftHandIndex1 and so on, aim the short bones from the body's
wrist to the hand and in the palm. Where the neck is is exact, too; the hips hang below it.
The head has no rotation of its own, and legs, which MotionBuilder asks for, stay at rest: neither is seen.
Coordinates are in centimetres, x to the image's right, y up, z toward the camera.

The format has no gaps: a missing joint, or a dropped frame, keeps the last known direction, or that of the rest pose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.avatar import BONES, Motion, Rig, Solver
from rtskel.avatar.rotation import swing
from rtskel.avatar.solver import held
from rtskel.errors import FormatError
from rtskel.formats.markers import one_of
from rtskel.formats.parsing import Format, replace_file, shown, text
from rtskel.formats.recording import Recording
from rtskel.formats.vrma import metres
from rtskel.skeleton import UPPER_BODY_50

_ORDER = "ZXY"
_LIMBS = {"UpperArm": "Arm", "LowerArm": "ForeArm"}
_PARTS = {"Metacarpal": 1, "Proximal": 1, "Intermediate": 2, "Distal": 3}
_LEGS = (("UpLeg", (0.25, -0.1, 0.0)), ("Leg", (0.0, -1.1, 0.0)), ("Foot", (0.0, -1.1, 0.0)), ("", (0.0, -0.2, 0.35)))
"""Joints of a leg, and how far each is from the one before, to the left, up and ahead, in shoulder widths."""


def bvh_name(bone: str) -> str:
    """What MotionBuilder calls a bone of VRM 1.0."""
    side = next((side for side in ("left", "right") if bone.startswith(side)), "")
    part = bone.removeprefix(side)
    finger = re.fullmatch(r"(Thumb|Index|Middle|Ring|Little)(\w+)", part)
    if finger:
        name = "Pinky" if finger[1] == "Little" else finger[1]
        number = 2 if finger[0] == "ThumbProximal" else _PARTS[finger[2]]  # a thumb begins with its metacarpal
        return f"{side.capitalize()}Hand{name}{number}"
    if not side:
        return {"head": "Neck"}.get(part, part.capitalize())
    return side.capitalize() + _LIMBS.get(part, part)


@dataclass(eq=False)
class _Joint:
    """A joint of the file, or the end of a chain, which has no name.

    Attributes:
        offset: [3] from its parent in the rest pose, in cm.
        turn: [S, 3, 3] its rotation relative to its parent; None: it stays at rest.
    """

    name: str
    offset: NDArray[np.float64]
    turn: NDArray[np.float64] | None = None
    children: list[_Joint] = field(default_factory=list)


def write_bvh(path: Path, recordings: list[Recording]) -> None:
    """Write one 3D recording as BVH motion."""
    recording = one_of(path, recordings)
    xyz, known = metres(path, recording)
    played = Solver(Rig.of(xyz, known)).push(xyz, known)
    lines, turns = ["HIERARCHY"], list[NDArray[np.float64]]()

    def describe(joint: _Joint, depth: int) -> None:
        pad = "  " * depth
        kind = f"{'JOINT' if depth else 'ROOT'} {joint.name}" if joint.name else "End Site"
        lines.extend([f"{pad}{kind}", f"{pad}{{", f"{pad}  OFFSET {_text(joint.offset)}"])
        if joint.name:
            moves = "3" if depth else "6 Xposition Yposition Zposition"
            lines.append(f"{pad}  CHANNELS {moves} {' '.join(f'{axis}rotation' for axis in _ORDER)}")
            turns.append(np.tile(np.eye(3), (len(xyz), 1, 1)) if joint.turn is None else joint.turn)
        for child in joint.children:
            describe(child, depth + 1)
        lines.append(pad + "}")

    describe(_body(played, xyz, known), 0)
    degrees = _euler(np.stack(turns, axis=1))
    columns = np.concatenate([100 * played.hips, degrees.reshape(len(degrees), -1)], axis=1)
    lines += ["MOTION", f"Frames: {len(columns)}", f"Frame Time: {1 / recording.fps:.9f}"]
    lines += [_text(row) for row in columns]
    replace_file(path, "\n".join(lines) + "\n")


def _body(played: Motion, xyz: NDArray[np.float64], known: NDArray[np.bool_]) -> _Joint:
    """The hips, and all that hangs on them."""
    rig = played.rig
    origins, ends = 100 * rig.origins, 100 * rig.offsets
    joints = [_Joint(bvh_name(bone.name), origins[k], played.rotation[:, k]) for k, bone in enumerate(BONES)]
    for number, bone in enumerate(BONES[1:], 1):
        joint, carrier = joints[number], joints[bone.parent]
        if bone.name == "head":
            half = ends[bone.drives[0]] / 2
            joint.children.append(_Joint("Head", half, children=[_Joint("", half)]))
        elif bone.name.endswith("Hand"):
            joint = _aimed(joint, number, bone.drives[0], joint.offset, played, xyz, known)
        elif BONES[bone.parent].name.endswith("Hand"):
            joint = _aimed(joint, number, bone.joint, np.zeros(3), played, xyz, known)
        elif bone.name.endswith("Distal"):
            joint.children.append(_Joint("", ends[bone.drives[0]]))
        carrier.children.append(joint)
    hips = joints[0]
    hips.offset = np.zeros(3)
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        above = hips
        for part, step in _LEGS:
            below = _Joint(part and side + part, 100 * rig.shoulder_width * np.array(step) * (sign, 1.0, 1.0))
            above.children.append(below)
            above = below
    return hips


def _aimed(
    carried: _Joint,
    number: int,
    end: int,
    offset: NDArray[np.float64],
    played: Motion,
    xyz: NDArray[np.float64],
    known: NDArray[np.bool_],
) -> _Joint:
    """The joint before a hand or a finger, which an avatar does not have: it aims the short bone that leads there.

    Args:
        carried: what it carries, that bone's length further on.
        number: of the bone that turns that.
        end: the joint of the skeleton that it points to.
        offset: [3] where it is.
        played, xyz, known: the recording.
    """
    start = UPPER_BODY_50.parents[end]
    bone = played.rig.offsets[end]
    rest = bone / max(float(np.linalg.norm(bone)), 1e-9)
    carrier, turned = (played.world[:, k] for k in (BONES[number].parent, number))
    vector = xyz[:, end] - xyz[:, start]
    length = np.linalg.norm(vector, axis=-1)
    seen = known[:, end] & known[:, start] & (length > 1e-9)
    points = held(vector / np.maximum(length, 1e-9)[:, None], seen, rest)
    aimed = swing(carrier @ rest, points) @ carrier
    side, _, part = carried.name.partition("Hand")
    name = f"{side}InHand{part.rstrip('1')}" if part else f"{side}Wrist"
    carried.offset, carried.turn = 100 * bone, np.swapaxes(aimed, -1, -2) @ turned
    return _Joint(name, offset, np.swapaxes(carrier, -1, -2) @ aimed, [carried])


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.6f}" for value in values + 0.0)


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
