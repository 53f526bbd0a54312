"""JSON in OpenPose's format: of OpenPose, and of the many programs that write "in OpenPose format".

It reads a folder with one file per frame, or one such file (`rtskel.formats.frames`), which may hold a list of frames
(ComfyUI and others that use DWPose, which also state the image's size). `people` is a list, an object of people by id,
or one person. A person has `pose_keypoints_2d`, `hand_left_keypoints_2d` and `hand_right_keypoints_2d`, or, of OpenPose
before 1.2, these without `_2d` (before 1.1 `body_parts`): x, y, confidence of each point. The number of points of the
body tells the layout: OpenPose's own, or that of RTMPose, RTMW, AlphaPose, MediaPipe as Pose2Sim and Sports2D write
them, with all points in `pose_keypoints_2d` (`rtskel.formats.mappings`).

Where `..._keypoints_3d` (x, y, z, confidence) are filled, they are read instead: unit and axes as stated, else the unit
that makes the shoulders as wide as people's, and the camera's axes. `unit="px"` asks for 2D.

The format states neither frame rate nor image size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.doubts import in_pixels
from rtskel.formats.frames import clips_of, values_of
from rtskel.formats.mappings import (
    BY_POINTS,
    OPENPOSE_15,
    OPENPOSE_18,
    OPENPOSE_25,
    OPENPOSE_25B,
    OPENPOSE_135,
    Layout,
    gather,
    stated_confidence,
)
from rtskel.formats.parsing import BOM, Format, Options, identity, listed, numbers, shown
from rtskel.formats.people import recordings_of_people
from rtskel.formats.recording import MM_PER_UNIT, Recording
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER

LAYOUTS = {layout.points: layout for layout in (OPENPOSE_135,)} | {
    len(layout.components["pose_keypoints_2d"]): layout for layout in (OPENPOSE_25, OPENPOSE_18, OPENPOSE_15)
}
LAYOUTS = {**LAYOUTS, **BY_POINTS}
"""The layout by the number of points of the body."""

AXES_3D = "RDA"
"""Axes of OpenPose's 3D reconstruction: those of the first camera."""

PARTS = ("pose", "hand_left", "hand_right")
_POINT_KEYS = {f"{part}_keypoints{dims}" for part in PARTS for dims in ("_2d", "_3d", "")}
_POINT_KEYS |= {"body_parts"}
_KNOWN = {f"{part}_keypoints{dims}" for part in (*PARTS, "face") for dims in ("_2d", "_3d", "")}
_KNOWN |= {"person_id", "body_parts"}
_SIZE = ("canvas_width", "canvas_height")
_KNOWN_OF_FILE = {"version", "people", "part_candidates", *_SIZE}
_HAND_POINTS = 21
_ADULT_SHOULDERS_MM = 150.0, 750.0

_NOTHING = {width: np.zeros((0, width), np.float32) for width in (3, 4)}
_Parts = list[NDArray[np.float32]]  # points [P, 3 or 4] of each of PARTS; P = 0: not there


class _Row(NamedTuple):
    frame: int
    place: str
    identity: int
    flat: _Parts
    deep: _Parts


def read_openpose(path: Path, options: Options) -> list[Recording]:
    """Read folders of OpenPose's JSON files, one file a frame."""
    clips = clips_of(path, options)
    fps = options.need(path, "fps", "OpenPose's files do not say how many frames a second")
    recordings = []
    for name, files in clips.items():
        sizes: set[Any] = set()
        with np.errstate(over="ignore"):  # beyond float32 is infinite, so the point is missing
            values = (frame for found in values_of(files, options) for frame in _frames(*found, alone=len(files) == 1))
            rows = [row for number, place, value in values for row in _people(number, place, value, options, sizes)]
        recordings += _clip(path, name, rows, fps, options, sizes)
    return recordings


def _frames(number: int, file: str, value: Any, *, alone: bool) -> list[tuple[int, str, Any]]:
    """Number, place and value of each frame in a file: one, or in a file that is `alone` a list of them."""
    if not isinstance(value, list) or not value:
        return [(number, file, value)]
    if len(value) > 1 and not alone:
        raise FormatError(f"{file}: holds {len(value)} frames, one expected in each file of a folder")
    return [(number + at, f"{file}, frame {at}", frame) for at, frame in enumerate(value)]


def _people(number: int, file: str, value: Any, options: Options, sizes: set[Any]) -> list[_Row]:
    """The people of one frame; the size of its image, if it is stated, is added to `sizes`."""
    if not isinstance(value, dict) or ("people" not in value and _KNOWN.isdisjoint(value)):
        raise FormatError(f"{file}: not OpenPose's JSON: no list of people")
    people = value.get("people", value)  # one person, without the list
    if "people" in value and not _KNOWN_OF_FILE.issuperset(value):
        options.note(f"unused keys: {listed(value.keys() - _KNOWN_OF_FILE)}")
    if _SIZE[0] in value:
        sizes.add(tuple(value.get(side) for side in _SIZE))
    if isinstance(people, dict):
        by_id = bool(people) and _KNOWN.isdisjoint(people) and all(isinstance(one, dict) for one in people.values())
        people = [_with_id(*item) for item in people.items()] if by_id else [people] if people else []
    if people is None:
        people = []
    if not isinstance(people, list):
        raise FormatError(f"{file}: not OpenPose's JSON: no list of people")
    seen = ((at, person) for at, person in enumerate(people) if person != {})  # {}: Pose2Sim, out of view
    return [_person(number, f"{file}, person {at}", person, options) for at, person in seen]


def _with_id(key: str, person: dict[str, Any]) -> dict[str, Any]:
    """A person of an object by ids; his own id counts before, if he has one."""
    return person if person and person.get("person_id") not in (None, -1, [-1], []) else person | {"person_id": key}


def _person(number: int, place: str, person: Any, options: Options) -> _Row:
    if not isinstance(person, dict):
        raise FormatError(f"{place}: an object expected, found {shown(person)}")
    if _POINT_KEYS.isdisjoint(person):
        raise FormatError(f"{place}: no pose_keypoints_2d (found: {listed(person.keys())})")
    if not _KNOWN.issuperset(person):
        options.note(f"unused keys: {listed(person.keys() - _KNOWN)}")
    flat, deep = [], []
    for part in PARTS:
        key = f"{part}_keypoints_2d" if f"{part}_keypoints_2d" in person else f"{part}_keypoints"
        key = "body_parts" if part == PARTS[0] and key not in person and "body_parts" in person else key
        flat.append(_points(place, part, key, person.get(key), 3))
        key = f"{part}_keypoints_3d"
        deep.append(_points(place, part, key, _with_confidence(person.get(key), part, options), 4))
    return _Row(number, place, identity(f"{place}, person_id", person.get("person_id"), options), flat, deep)


def _with_confidence(found: Any, part: str, options: Options) -> Any:
    """Points in 3D; where they have no confidence, 1 for those with a position."""
    if not isinstance(found, list) or not found or len(found) % 3 or isinstance(found[0], (list, dict, str)):
        return found
    if len(found) != 3 * _HAND_POINTS if part != PARTS[0] else len(found) % 4 == 0:
        return found
    options.note("pose_keypoints_3d have no confidence: 1 for points with a position")
    points = [found[first : first + 3] for first in range(0, len(found), 3)]
    return [value for point in points for value in (*point, float(any(point)))]


def _points(place: str, part: str, key: str, found: Any, width: int) -> NDArray[np.float32]:
    if found is None or found == []:
        return _NOTHING[width]
    values = numbers(f"{place}, {key}", found)
    if values.ndim > 1 and (values.shape[-1] == width or values.shape[-1] == values.size):  # however it is nested
        values = values.ravel()
    hand = part != PARTS[0]
    if values.ndim != 1 or len(values) % width or (hand and len(values) != width * _HAND_POINTS):
        expected = (
            f"{width * _HAND_POINTS} numbers"
            if hand
            else f"{'x, y, z' if width == 4 else 'x, y'}, confidence of each point"
        )
        raise FormatError(f"{place}, {key}: {values.size} numbers, {expected} expected")
    return values.astype(np.float32).reshape(-1, width)


def _clip(path: Path, name: str, rows: list[_Row], fps: float, options: Options, sizes: set[Any]) -> list[Recording]:
    rows = [row for row in rows if any(map(len, row.flat)) or any(map(len, row.deep))]
    if not rows:
        raise FormatError(f"{path}: nobody is found in any frame")
    deep = any(part.any() for row in rows for part in row.deep)
    flat = any(part.any() for row in rows for part in row.flat)
    size = next(iter(sizes)) if len(sizes) == 1 else (None,)
    sure = all(type(side) is int and side > 0 for side in size)
    fields: dict[str, Any] = {"unit": "px", "image_size": size if sure else None}
    if deep and options.unit != "px":
        xyz, confidence = _joints([(row.place, row.deep) for row in rows], options)
        unit = options.unit or _unit_of(xyz, confidence)
        if unit:
            fields |= {"unit": unit, "axes": options.axes or AXES_3D}
            if flat:
                options.note("pose_keypoints_3d are read, pose_keypoints_2d are not (--unit px reads those)")
            if options.unit is None:
                options.note(f"pose_keypoints_3d state no unit: {unit}, by the shoulders' width (else state --unit)")
        elif flat:
            options.note("pose_keypoints_3d are not read: their unit is unknown (state --unit)")
        else:
            options.need(path, "unit", "only pose_keypoints_3d are filled, in an unknown unit")
    elif deep:
        options.note("pose_keypoints_3d are not read: 2D is asked for")
    if fields["unit"] == "px":
        xyz, confidence = _joints([(row.place, row.flat) for row in rows], options)
    frame, identity = (np.array([row[at] for row in rows], np.int64) for at in (0, 2))
    asked: dict[str, Any] = {"note": options.note, "who": options.person}
    found = recordings_of_people(path, name, frame, xyz, confidence, identity, fps=fps, **asked, **fields)
    return found if fields["image_size"] is None else [in_pixels(one, one.image_size, options.notes) for one in found]


def _joints(rows: list[tuple[str, _Parts]], options: Options) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints [K, 50, D] and confidences of people, all of one layout."""
    layout: Layout | None = None
    for place, parts in rows:
        if not len(parts[0]):  # hands alone
            continue
        found = LAYOUTS.get(len(parts[0]))
        if found is None:
            known = ", ".join(f"{count} ({layout.id})" for count, layout in LAYOUTS.items())
            raise FormatError(f"{place}: a body of {len(parts[0])} points; known: {known}")
        if layout not in (None, found):
            raise FormatError(f"{place}: {found.id}, but {layout.id} before")
        layout = found
    layout = layout or OPENPOSE_25
    if layout is OPENPOSE_25 and _eyes_follow([parts[0] for _, parts in rows if len(parts[0])]):
        options.note("bodies of 25 points whose eyes come second are read as BODY_25B")
        layout = OPENPOSE_25B
    points = {}
    for at, (component, names) in enumerate(layout.components.items()):
        empty = np.zeros((len(names), rows[0][1][0].shape[1]), np.float32)
        each = [parts[at] if len(parts[at]) else empty for _, parts in rows]
        points[component] = np.concatenate(each).reshape(len(rows), *empty.shape)
    sure = {component: array[..., -1] for component, array in points.items()}
    points = {component: array[..., :-1] for component, array in points.items()}
    return gather(layout, points, stated_confidence(points, sure, options))


def _eyes_follow(bodies: list[NDArray[np.float32]]) -> bool:
    """Whether points 1 to 4 lie around the nose, as eyes and ears in BODY_25B, and not along an arm, as in BODY_25.

    Both have 25 points. Points 5 and 6 are the shoulders there, and a shoulder and elbow here.
    """
    points = np.stack(bodies) if bodies else np.zeros((0, 25, 3), np.float32)
    seen = points[(points[:, :7, -1] > 0).all(axis=1), :7, :-1].astype(np.float64)
    if not len(seen):
        return False
    face = np.linalg.norm(seen[:, 1:5] - seen[:, :1], axis=-1).max(axis=1)
    return bool(np.mean(face < 0.8 * np.linalg.norm(seen[:, 5] - seen[:, 6], axis=-1)) > 0.8)


def _unit_of(xyz: NDArray[np.float32], confidence: NDArray[np.float32]) -> str | None:
    """The unit in which the shoulders are as wide as an adult's; None: no such unit."""
    both = (confidence[:, [LEFT_SHOULDER, RIGHT_SHOULDER]] > 0).all(axis=1)
    if not both.any():
        return None
    width = float(np.median(np.linalg.norm(xyz[both, LEFT_SHOULDER] - xyz[both, RIGHT_SHOULDER], axis=-1)))
    low, high = _ADULT_SHOULDERS_MM
    return next((unit for unit, size in MM_PER_UNIT.items() if low <= width * size <= high), None)


FORMAT = Format(
    "openpose",
    (".json",),
    read_openpose,
    mark=BOM + rb'\s*(?:\[\s*)?\{.*"(?:people|(?:pose|hand_left|hand_right)_keypoints(?:_[23]d)?)"\s*:',
    folders=True,
    convention=True,
)
