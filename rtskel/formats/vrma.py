"""`.vrma` (VRM Animation 1.0) and `.glb`, written only: one recording as an animation of VRM's humanoid bones.

Both are binary glTF 2.0 with the extension VRMC_vrm_animation: any VRM avatar plays them, and programs that only know
glTF see moving nodes. The nodes' rest pose is VRM's T pose in the proportions of the recording, in metres, the face
toward +z; rotations come from `rtskel.avatar`. The hips start above the origin and move as the neck does.
A dropped frame, or a joint that is missing, keeps its pose: the format has no gaps.
Specifications: registry.khronos.org/glTF, github.com/vrm-c/vrm-specification (VRMC_vrm_animation-1.0).
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.avatar import AXES, BONES, Motion, Rig, Solver, quaternions
from rtskel.errors import FormatError
from rtskel.formats.markers import one_of
from rtskel.formats.parsing import Format, replace_file
from rtskel.formats.recording import Recording
from rtskel.skeleton import NECK, from_canonical

HIPS_HEIGHT = 2.4
"""Shoulder widths from the floor to the hips in the rest pose."""

_FLOAT = 5126  # glTF's number for float32


def write_vrma(path: Path, recordings: list[Recording]) -> None:
    """Write one 3D recording as a VRM animation."""
    recording = one_of(path, recordings)
    replace_file(path, _glb(*_document(recording.name, motion(path, recording), recording.fps)))


def motion(path: Path, recording: Recording) -> Motion:
    """The rotations of a recording, one frame a slot, in metres along `AXES`."""
    xyz, known = metres(path, recording)
    return Solver(Rig.of(xyz, known)).push(xyz, known)


def metres(path: Path, recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Positions [S, J, 3] of a recording by slot along `AXES`, and which are known [S, J], the neck at least once."""
    positions = from_canonical(recording.canonical(), AXES) * (recording.mm_per_unit() / 1000)
    xyz = recording.by_slot(positions.astype(np.float64))
    known = recording.by_slot(~recording.missing | (recording.lookahead is not None))
    if not known[:, NECK].any():
        raise FormatError(f"{path}: recording {recording.name!r} never shows the neck")
    return xyz, known


def _document(name: str, motion: Motion, fps: float) -> tuple[dict[str, Any], bytes]:
    """The JSON of glTF, and the buffer that it refers to."""
    nodes: list[dict[str, Any]] = []
    height = HIPS_HEIGHT * motion.rig.shoulder_width
    for number, (bone, origin) in enumerate(zip(BONES, motion.rig.origins, strict=True)):
        rest = [0.0, height, 0.0] if bone.parent < 0 else origin.tolist()
        nodes.append({"name": bone.name, "translation": rest})
        if bone.parent >= 0:
            nodes[bone.parent].setdefault("children", []).append(number)

    parts: list[bytes] = []
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []

    def add(values: NDArray[np.float64], kind: str, **more: Any) -> int:
        data = values.astype("<f4").tobytes()
        views.append({"buffer": 0, "byteOffset": sum(map(len, parts)), "byteLength": len(data)})
        parts.append(data)
        view = {"bufferView": len(views) - 1, "componentType": _FLOAT, "count": len(values), "type": kind}
        accessors.append(view | more)
        return len(accessors) - 1

    seconds = np.arange(len(motion.neck)) / fps
    span = {"min": [float(np.float32(seconds[0]))], "max": [float(np.float32(seconds[-1]))]}
    times = add(seconds, "SCALAR", **span)
    moves = motion.hips - motion.hips[0] + (0.0, height, 0.0)
    outputs = [(0, "translation", add(moves, "VEC3"))]
    turns = _continuous(quaternions(motion.rotation))
    outputs += [(bone, "rotation", add(turns[:, bone], "VEC4")) for bone in range(len(BONES))]
    humanoid = {"humanBones": {bone.name: {"node": number} for number, bone in enumerate(BONES)}}
    document = {
        "asset": {"version": "2.0", "generator": "rtskel"},
        "extensionsUsed": ["VRMC_vrm_animation"],
        "extensions": {"VRMC_vrm_animation": {"specVersion": "1.0", "humanoid": humanoid}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes,
        "animations": [
            {
                "name": name,
                "samplers": [{"input": times, "output": output, "interpolation": "LINEAR"} for _, _, output in outputs],
                "channels": [
                    {"sampler": number, "target": {"node": node, "path": path}}
                    for number, (node, path, _) in enumerate(outputs)
                ],
            }
        ],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": sum(map(len, parts))}],
    }
    return document, b"".join(parts)


def _continuous(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quaternions [N, B, 4] with the sign that is closer to the frame before: between frames, readers interpolate."""
    flips = (turns[1:] * turns[:-1]).sum(axis=-1) < 0
    sign = np.concatenate([np.ones_like(turns[:1, :, 0]), np.cumprod(np.where(flips, -1.0, 1.0), axis=0)])
    continuous: NDArray[np.float64] = turns * sign[..., None]
    return continuous


def _glb(document: dict[str, Any], buffer: bytes) -> bytes:
    """The container of binary glTF: a header and two chunks, each padded to a multiple of four bytes."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    buffer += bytes(-len(buffer) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


_LACKS = "how bones' lengths change, times, confidence, and of refined poses lookahead, sigma and flags"
VRMA = Format("vrma", (".vrma",), write=write_vrma, lacks=_LACKS, together="one")
GLB = Format("glb", (".glb",), write=write_vrma, lacks=_LACKS, together="one")
