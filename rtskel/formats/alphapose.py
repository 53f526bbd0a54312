"""AlphaPose's JSON, and COCO's keypoint results and annotations.

It reads a list of people, `{"image_id": "7.jpg", "keypoints": [x, y, confidence, ...]}`, with `idx` where they are
tracked; such a list as `annotations` of an object with `images` (COCO, Halpe); and, by image name or one file per
image, lists of people (of PoseFlow, its tracker), or objects with `bodies` (`joints`) or `people`
(`pose_keypoints_2d`). COCO-WholeBody puts feet, face and hands beside `keypoints` (`lefthand_kpts`, ...).

Frame numbers come from image names, counted from the smallest: the last number in the name that no two images share.
The number of points tells the layout, as in `rtskel.formats.wholebody`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rtskel.errors import FormatError
from rtskel.formats.frames import check_span, clips_of, values_of
from rtskel.formats.parsing import BOM, Format, Options, identity, listed, numbers, read_json, shown
from rtskel.formats.recording import Recording
from rtskel.formats.wholebody import checked, recordings_of

_PARTS = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
"""Where COCO-WholeBody has its 133 points, in their order."""

_KNOWN = {"image_id", "category_id", "keypoints", "score", "scores", "idx", "track_id", "box", "bbox", "joints"}
_KNOWN |= {"pose_keypoints_2d", "id", "area", "iscrowd", "num_keypoints", "segmentation", *_PARTS}
_KNOWN |= {f"{part}_{what}" for part in ("foot", "face", "lefthand", "righthand") for what in ("valid", "box")}


def read_alphapose(path: Path, options: Options) -> list[Recording]:
    """Read AlphaPose's JSON: one file, or a folder of them."""
    frames: list[str] = []
    if path.is_dir():
        images = [
            (str(number), found)
            for _, files in clips_of(path, options).items()
            for number, file, value in values_of(files, options)
            for found in _bodies(str(file), value)
        ]
    else:
        value = read_json(path, options)
        if isinstance(value, dict) and isinstance(value.get("annotations"), list):
            value, frames, options = _annotations(path, value, options)
        if isinstance(value, dict) and {"image_id", "keypoints"} <= value.keys():
            value = [value]
        if isinstance(value, list):
            images = [(_image(f"{path}, person {at}", person), person) for at, person in enumerate(value)]
        elif isinstance(value, dict):
            images = [(image, found) for image, frame in value.items() for found in _bodies(f"{path}, {image}", frame)]
        else:
            raise FormatError(f"{path}: not AlphaPose's JSON: a list of people, or people by image, expected")
    number_of = _frame_numbers(path, dict.fromkeys([*frames, *(image for image, _ in images)]), options)
    rows = []
    for at, (image, person) in enumerate(images):
        place = f"{path}, person {at}"
        if person.get("keypoints", 0) in (None, []):
            continue
        if not _KNOWN.issuperset(person):
            options.note(f"unused keys: {listed(person.keys() - _KNOWN)}")
        points = numbers(f"{place}, keypoints", _keypoints(place, person))
        if points.ndim != 1 or len(points) % 3:
            raise FormatError(f"{place}, keypoints: {points.size} numbers, x, y, confidence of each point expected")
        points = points.reshape(1, -1, 3)
        (row,) = checked(place, number_of[image], points[..., :2], points[..., 2])
        who = identity(f"{place}, idx", person.get("idx", person.get("track_id")), options)
        rows.append(row._replace(identity=who))
    rows.sort(key=lambda row: row.frame)
    return recordings_of(path, path.name if path.is_dir() else path.stem, rows, options)


def _keypoints(place: str, person: dict[str, Any]) -> Any:
    found = next((person[key] for key in ("keypoints", "joints", "pose_keypoints_2d") if key in person), None)
    if _PARTS[-1] not in person:
        return found
    parts = [person.get(part) for part in _PARTS]
    if not all(isinstance(part, list) for part in parts):
        raise FormatError(f"{place}: {', '.join(_PARTS)} expected, found {listed(person.keys())}")
    return [value for part in parts for value in part or ()]


def _annotations(path: Path, value: dict[str, Any], options: Options) -> tuple[list[Any], list[str], Options]:
    """The people of a COCO data set, with the names of their images; all those names; and options with their size."""
    images = {str(i["id"]): i for i in value.get("images") or [] if isinstance(i, dict) and "id" in i}
    names = {key: str(image.get("file_name", key)) for key, image in images.items()}
    if len(set(names.values())) < len(names):
        names = {key: key for key in images}
    people = []
    for at, person in enumerate(value["annotations"]):
        image = _image(f"{path}, annotation {at}", person)
        people.append(person | {"image_id": names.get(image, image)})
    sizes = {(image.get("width"), image.get("height")) for image in images.values()}
    (width, height), *others = sizes or [(None, None)]
    if options.image_size is None and not others and type(width) is type(height) is int and min(width, height) > 0:
        options = replace(options, image_size=(width, height))
    return people, list(names.values()), options


def _image(place: str, person: Any) -> str:
    if not isinstance(person, dict) or "image_id" not in person or "keypoints" not in person:
        raise FormatError(f"{place}: an object with image_id and keypoints expected, found {shown(person)}")
    return str(person["image_id"])


def _bodies(place: str, frame: Any) -> list[dict[str, Any]]:
    people = frame.get("bodies", frame.get("people")) if isinstance(frame, dict) else frame
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise FormatError(f"{place}: not AlphaPose's JSON: no list of bodies")
    return people


def _frame_numbers(path: Path, images: Iterable[str], options: Options) -> dict[str, int]:
    """Frame numbers, from 0, of image names or ids; in the order of appearance where those have no numbers."""
    names = list(images)
    groups = [re.findall(r"\d+", re.sub(r"\.[A-Za-z]\w{0,4}$", "", name), re.ASCII) for name in names]
    for place in range(1, min(map(len, groups), default=0) + 1):
        found = [int(group[-place][-18:]) for group in groups]
        if len(set(found)) == len(names):
            first = min(found)
            check_span(path, first, max(found), len(names))
            return {name: number - first for name, number in zip(names, found, strict=True)}
    if len(names) > 1:
        options.note("image names tell no frame numbers: frames are taken in the order of the file")
    return {name: at for at, name in enumerate(names)}


FORMAT = Format(
    "alphapose",
    (".json",),
    read_alphapose,
    mark=BOM
    + rb'\s*(?:\[\s*\{.*"image_id"\s*:|\{[^{}\n]*"image_id"\s*:'
    + rb'|\{\s*"[^"]*\.(?i:jpe?g|png|bmp)"\s*:\s*\['
    + rb'|\{.{0,400}"(?:version"\s*:\s*"AlphaPose|bodies"\s*:\s*\[\s*(?:\]|\{\s*"joints"\s*:\s*\[))'
    + rb'|\{.*(?:"annotations"\s*:\s*\[\s*\{.*"image_id"|"images"\s*:\s*\[\s*\{.*"file_name"))',
    folders=True,
)
