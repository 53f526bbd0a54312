"""OpenPose's JSON: a folder with one file a frame, or one such file.

Files are named `<clip>_<number>_keypoints.json`; a folder may hold several clips. Frame numbers count from the smallest
one of the clip; an absent number is a dropped frame. If no name has a number, files are taken in name order. Keypoints
are 2D, in pixels, with confidences; the format states neither frame rate nor image size.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.mappings import OPENPOSE_18, OPENPOSE_25, OPENPOSE_135, Layout, gather
from rtskel.formats.parsing import Format, Options, integer, numbers, parse_json, shown, text
from rtskel.formats.people import recordings_of_people
from rtskel.formats.recording import Recording

LAYOUTS = {layout.points: layout for layout in (OPENPOSE_135,)} | {
    len(layout.components["pose_keypoints_2d"]): layout for layout in (OPENPOSE_25, OPENPOSE_18)
}
"""The layout by the number of points in `pose_keypoints_2d`."""

PARTS = ("pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")
LARGEST_SPAN = 100
"""Frame numbers per file: beyond that, the numbers in the names are dates or the like."""


def files_in(folder: Path) -> list[Path]:
    """OpenPose's files in a folder, by name; FormatError if there are none."""
    found = sorted(path for path in folder.glob("*.json") if path.stem.endswith("keypoints"))
    found = found or sorted(folder.glob("*.json"))
    if not found:
        below = sum(1 for _ in folder.glob("*/*keypoints.json"))
        where = f" ({below} in its subfolders: read those one by one)" if below else ""
        raise FormatError(f"{folder}: directory without OpenPose's *_keypoints.json{where}")
    return found


def read_openpose(path: Path, options: Options) -> list[Recording]:
    clips: dict[str, dict[int, Path]] = {}
    files = files_in(path) if path.is_dir() else [path]
    matches = [re.fullmatch(r"(.*?)(\d+)(?:_keypoints)?", file.stem) for file in files]
    for place, (file, match) in enumerate(zip(files, matches, strict=True)):
        if match is None and any(matches):
            numbered = next(other for other, found in zip(files, matches, strict=True) if found)
            raise FormatError(f"{path}: {numbered.name} has a frame number, {file.name} has none")
        clip, number = (match[1].rstrip("_-. "), int(match[2])) if match else ("", place)
        clash = clips.setdefault(clip, {}).setdefault(number, file)
        if clash is not file:
            raise FormatError(f"{path}: {clash.name} and {file.name} are the same frame")
    fps = options.need(path, "fps", "OpenPose's files do not say how many frames a second")
    recordings = []
    for clip, frames in clips.items():
        span = max(frames) - min(frames)
        if span > LARGEST_SPAN * len(frames):
            raise FormatError(f"{path}: {len(frames)} files with numbers from {min(frames)} to {max(frames)}: "
                              "no frame numbers (rename the files)")  # fmt: skip
        name = clip if len(clips) > 1 and clip else path.name if path.is_dir() else path.stem
        recordings += _clip(path, name, frames, fps)
    return recordings


def _clip(path: Path, name: str, files: dict[int, Path], fps: float) -> list[Recording]:
    first = min(files)
    layout: Layout | None = None
    frames, identities, rows = [], [], []
    for number in sorted(files):
        file = files[number]
        value = parse_json(file, text(file))
        people = value.get("people") if isinstance(value, dict) else None
        if not isinstance(people, list):
            raise FormatError(f"{file}: not OpenPose's JSON: no list of people")
        for at, person in enumerate(people):
            place = f"{file}, person {at}"
            parts, identity = _person(place, person)
            found = _layout(place, parts[PARTS[0]])
            if layout not in (None, found):
                raise FormatError(f"{place}: {found.id}, but {layout.id} before")
            layout = found
            frames.append(number - first)
            identities.append(identity)
            rows.append(parts)
    if layout is None:
        raise FormatError(f"{path}: nobody is found in any frame")
    points = {part: np.stack([_padded(row[part], length) for row in rows]) for part, length in _lengths(layout)}
    if layout is OPENPOSE_135:
        points = {"BODY_135": points[PARTS[0]]}
    xyz, confidence = gather(
        layout,
        {key: value[..., :2] for key, value in points.items()},
        {key: value[..., 2] for key, value in points.items()},
    )
    return recordings_of_people(path, name, np.array(frames), xyz, confidence, np.array(identities), fps=fps, unit="px")


def _lengths(layout: Layout) -> list[tuple[str, int]]:
    if layout is OPENPOSE_135:
        return [(PARTS[0], layout.points)]
    return [(part, len(layout.components[part])) for part in PARTS]


def _layout(place: str, body: NDArray[np.float64]) -> Layout:
    try:
        return LAYOUTS[len(body)]
    except KeyError:
        known = ", ".join(f"{count} ({layout.id})" for count, layout in LAYOUTS.items())
        raise FormatError(f"{place}: a body of {len(body)} points; known: {known}") from None


def _padded(points: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    return points if len(points) else np.zeros((length, 3))  # OpenPose leaves hands empty without --hand


def _person(place: str, person: Any) -> tuple[dict[str, NDArray[np.float64]], int]:
    """The parts [P, 3] of a person, and its identity, -1 if it has none."""
    if not isinstance(person, dict):
        raise FormatError(f"{place}: an object expected, found {shown(person)}")
    parts = {}
    for part in PARTS:
        values = numbers(f"{place}, {part}", person.get(part, []))
        hand = part != PARTS[0]
        if values.ndim != 1 or len(values) % 3 or (hand and len(values) not in (0, 63)):
            expected = "63 numbers" if hand else "x, y, confidence of each point"
            raise FormatError(f"{place}, {part}: {values.size} numbers, {expected} expected")
        parts[part] = values.reshape(-1, 3)
    identity = person.get("person_id", -1)
    if isinstance(identity, list):
        identity = identity[0] if len(identity) == 1 else -1
    return parts, integer(f"{place}, person_id", identity)


FORMAT = Format("openpose", (".json",), read_openpose, mark=rb'\A\s*\{.*"people"\s*:')
