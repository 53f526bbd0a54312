"""AlphaPose's JSON, and COCO's keypoint results.

Read are a list of people, `{"image_id": "7.jpg", "keypoints": [x, y, confidence, ...]}`, with `idx` where they are
tracked; and, by image name or one file per image, objects with `bodies` (`joints`) or `people` (`pose_keypoints_2d`).
Frame numbers are those in image names, from the smallest; layouts are told by their points as in
`rtskel.formats.wholebody`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rtskel.errors import FormatError
from rtskel.formats.frames import check_span, clips_of, values_of
from rtskel.formats.parsing import BOM, Format, Options, identity, numbers, read_json, shown
from rtskel.formats.recording import Recording
from rtskel.formats.wholebody import checked, recordings_of


def read_alphapose(path: Path, options: Options) -> list[Recording]:
    """Read AlphaPose's JSON: one file, or a folder of them."""
    if path.is_dir():
        images = [
            (str(number), found)
            for _, files in clips_of(path, options).items()
            for number, file, value in values_of(files, options)
            for found in _bodies(str(file), value)
        ]
    else:
        value = read_json(path, options)
        if isinstance(value, list):
            images = [(_image(f"{path}, person {at}", person), person) for at, person in enumerate(value)]
        elif isinstance(value, dict):
            images = [(image, found) for image, frame in value.items() for found in _bodies(f"{path}, {image}", frame)]
        else:
            raise FormatError(f"{path}: not AlphaPose's JSON: a list of people, or people by image, expected")
    number_of = _frame_numbers(path, dict.fromkeys(image for image, _ in images))
    rows = []
    for at, (image, person) in enumerate(images):
        place = f"{path}, person {at}"
        found = next((person[key] for key in ("keypoints", "joints", "pose_keypoints_2d") if key in person), None)
        points = numbers(f"{place}, keypoints", found)
        if points.ndim != 1 or len(points) % 3:
            raise FormatError(f"{place}, keypoints: {points.size} numbers, x, y, confidence of each point expected")
        points = points.reshape(1, -1, 3)
        (row,) = checked(place, number_of[image], points[..., :2], points[..., 2])
        rows.append(row._replace(identity=identity(f"{place}, idx", person.get("idx", person.get("track_id")))))
    rows.sort(key=lambda row: row.frame)
    return recordings_of(path, path.name if path.is_dir() else path.stem, rows, options)


def _image(place: str, person: Any) -> str:
    if not isinstance(person, dict) or "image_id" not in person or "keypoints" not in person:
        raise FormatError(f"{place}: an object with image_id and keypoints expected, found {shown(person)}")
    return str(person["image_id"])


def _bodies(place: str, frame: Any) -> list[dict[str, Any]]:
    people = frame.get("bodies", frame.get("people")) if isinstance(frame, dict) else None
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise FormatError(f"{place}: not AlphaPose's JSON: no list of bodies")
    return people


def _frame_numbers(path: Path, images: Iterable[str]) -> dict[str, int]:
    """Frame numbers from 0 of image names or ids; in the order of appearance where a name has no number."""
    names = list(images)
    found = [re.search(r"(\d{1,18})\D*$", name, re.ASCII) for name in names]
    numbers_of = [int(match[1]) for match in found if match]
    if len(set(numbers_of)) < len(names):
        return {name: at for at, name in enumerate(names)}
    first = min(numbers_of, default=0)
    check_span(path, first, max(numbers_of, default=0), len(names))
    return {name: number - first for name, number in zip(names, numbers_of, strict=True)}


FORMAT = Format(
    "alphapose",
    (".json",),
    read_alphapose,
    mark=BOM + rb'\s*(?:\[\s*\{.*"image_id"\s*:|\{.{0,400}"(?:version"\s*:\s*"AlphaPose|bodies"\s*:))',
    folders=True,
)
