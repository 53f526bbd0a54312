"""`.mcap`, written only: recordings as time-stamped messages for robotics tools, and as a scene for Foxglove.

Each recording has two channels: `/NAME/pose` with everything that the recording holds of a frame (`rtskel.Pose`), and
`/NAME/scene` with its bones and joints in metres (`foxglove.SceneUpdate`). Both are JSON. Recordings of one name and
several lookaheads are `/NAME/L4/pose` and so on. A message's time is the recording's own, or, where that is unknown,
its place on the frame clock counted from 0. Scenes are in Foxglove's axes: z up, x toward the camera.
Specification: mcap.dev/spec. Needs the package mcap (extra `mcap`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.parsing import Format, replace_file
from rtskel.formats.recording import Recording
from rtskel.skeleton import from_canonical, skeleton

FRAME = "rtskel"
"""The frame of reference of scenes."""

_NUMBERS = {"type": "array", "items": {"type": "number"}}
POSE_SCHEMA = {
    "title": "rtskel.Pose",
    "type": "object",
    "properties": {
        "slot": {"type": "integer"},
        "xyz": {"type": "array", "items": _NUMBERS, "description": "[J, 3], in unit, along axes"},
        "confidence": _NUMBERS | {"description": "[J] in 0..1; 0: missing"},
        "sigma": _NUMBERS | {"description": "[J] spread of the averaged predictions, in unit; refined poses only"},
        "flags": {"type": "integer"},
        "lookahead": {"type": ["integer", "null"]},
        "skeleton": {"type": "string"},
        "unit": {"type": "string"},
        "axes": {"type": "string"},
        "mirrored": {"type": "boolean"},
    },
}

_TIME = {"type": "object", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}}


def _objects(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "object", "properties": properties}}


def _numbers(letters: str) -> dict[str, Any]:
    return {"type": "object", "properties": {letter: {"type": "number"} for letter in letters}}


_PLACE = {"type": "object", "properties": {"position": _numbers("xyz"), "orientation": _numbers("xyzw")}}
_LINES = _objects(
    type={"type": "integer"},
    pose=_PLACE,
    thickness={"type": "number"},
    scale_invariant={"type": "boolean"},
    points=_objects(**_numbers("xyz")["properties"]),
    color=_numbers("rgba"),
)
SCENE_SCHEMA = {
    "title": "foxglove.SceneUpdate",
    "type": "object",
    "properties": {
        "entities": _objects(
            timestamp=_TIME,
            frame_id={"type": "string"},
            id={"type": "string"},
            lifetime=_TIME,
            frame_locked={"type": "boolean"},
            lines=_LINES,
            spheres=_objects(pose=_PLACE, size=_numbers("xyz"), color=_numbers("rgba")),
        )
    },
}


def write_mcap(path: Path, recordings: list[Recording]) -> None:
    """Write recordings as an MCAP file."""
    try:
        from mcap.writer import Writer
    except ModuleNotFoundError:
        raise FormatError(f"{path}: .mcap needs the package mcap: pip install 'rtskel[mcap]'") from None
    file = io.BytesIO()
    writer = Writer(file)
    writer.start(library="rtskel")
    schemas = {
        name: writer.register_schema(name, "jsonschema", json.dumps(schema).encode())
        for name, schema in (("rtskel.Pose", POSE_SCHEMA), ("foxglove.SceneUpdate", SCENE_SCHEMA))
    }
    names = [recording.name for recording in recordings]
    for recording in recordings:
        topic = f"/{recording.name}"
        if names.count(recording.name) > 1:
            topic += "/raw" if recording.lookahead is None else f"/L{recording.lookahead}"
        pose = writer.register_channel(f"{topic}/pose", "json", schemas["rtskel.Pose"], {"fps": f"{recording.fps:g}"})
        scene = writer.register_channel(f"{topic}/scene", "json", schemas["foxglove.SceneUpdate"])
        for number, (time, *messages) in enumerate(_messages(recording, topic)):
            for channel, message in zip((pose, scene), messages, strict=True):
                data = json.dumps(message, allow_nan=False).encode()
                writer.add_message(channel, time, data, time, number)
    writer.finish()  # type: ignore[no-untyped-call]
    replace_file(path, file.getvalue())


def _messages(recording: Recording, topic: str) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Time in ns, pose and scene of each frame."""
    body = skeleton(recording.skeleton)
    times = recording.time_ns
    if times is None:
        times = np.round(recording.slots * (1e9 / recording.fps)).astype(np.int64)
    metres = from_canonical(recording.canonical(), "TRU") * (recording.mm_per_unit() / 1000)
    # Refined joints are always there; raw joints without confidence are not.
    shown = ~recording.missing | (recording.lookahead is not None)
    same = {name: getattr(recording, name) for name in ("lookahead", "skeleton", "unit", "axes", "mirrored")}
    for row, time in enumerate(times.tolist()):
        pose: dict[str, Any] = {"slot": int(recording.slots[row]), "xyz": _plain(recording.xyz[row])}
        pose["confidence"] = _plain(recording.confidence[row])
        if recording.sigma is not None:
            pose["sigma"] = _plain(recording.sigma[row])
        if recording.flags is not None:
            pose["flags"] = int(recording.flags[row])
        yield time, pose | same, _scene(topic, time, metres[row], shown[row], recording.missing[row], body.parents)


def _scene(
    topic: str,
    time: int,
    metres: NDArray[np.float32],
    shown: NDArray[np.bool_],
    filled: NDArray[np.bool_],
    parents: tuple[int, ...],
) -> dict[str, Any]:
    at = [dict(zip("xyz", _plain(place), strict=True)) for place in metres]
    here = {"position": {"x": 0, "y": 0, "z": 0}, "orientation": {"x": 0, "y": 0, "z": 0, "w": 1}}
    bones = [(parent, joint) for joint, parent in enumerate(parents) if parent >= 0 and shown[joint] and shown[parent]]
    lines = {
        "type": 2,  # LINE_LIST
        "pose": here,
        "thickness": 0.012,
        "scale_invariant": False,
        "points": [at[joint] for bone in bones for joint in bone],
        "color": {"r": 0.18, "g": 0.33, "b": 0.82, "a": 1},
    }
    size = {"x": 0.018, "y": 0.018, "z": 0.018}
    colours = ({"r": 0.18, "g": 0.33, "b": 0.82, "a": 1}, {"r": 0.85, "g": 0.47, "b": 0.02, "a": 1})
    spheres = [
        {"pose": here | {"position": at[joint]}, "size": size, "color": colours[int(filled[joint])]}
        for joint in np.flatnonzero(shown).tolist()
    ]
    stamp = {"sec": time // 1_000_000_000, "nsec": time % 1_000_000_000}
    never = {"sec": 0, "nsec": 0}
    entity = {"timestamp": stamp, "frame_id": FRAME, "id": topic, "lifetime": never, "frame_locked": False}
    return {"entities": [entity | {"lines": [lines], "spheres": spheres}]}


def _plain(values: NDArray[np.float32]) -> Any:
    """Numbers as JSON has them, exact for float32."""
    if values.ndim == 2:
        return [_plain(row) for row in values]
    return [float(f"{value:.9g}") for value in values.tolist()]


FORMAT = Format("mcap", (".mcap",), write=write_mcap)
