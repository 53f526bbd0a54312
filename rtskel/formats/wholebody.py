"""Keypoints without names, of body or whole body: MMPose's JSON, and arrays of RTMW, rtmlib and others.

MMPose writes a list of frames, or `{"meta_info": ..., "instance_info": [frames]}`; a frame is `{"frame_id": 7,
"instances": [{"keypoints": [[x, y], ...], "keypoint_scores": [...]}, ...]}`. For a single image it writes the list of
instances alone; a folder of those is read too (`rtskel.formats.frames`). Frame numbers count from the smallest.
Keypoints may be objects with x, y and score (TensorFlow.js), or one object of such lists (Ultralytics).

An `.npz` of arrays has `keypoints` [F, P, D], or [F, N, P, D] for N people in each of F frames, and `scores` (or
`keypoint_scores`) of the same shape without D; it may have `fps`, `image_size` (width, height) and `track_id` [F, N].

The number of points P tells the layout: 17 (COCO), 26, 68 or 136 (Halpe), 133 (COCO-WholeBody), 33 (BlazePose). D is 2
(pixels) or 3, in a unit and axes that the caller states; without scores, a third number in 0..1 is the score. The frame
rate must be stated, unless there is an array `fps`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.errors import FormatError
from rtskel.formats.frames import check_span, clips_of, values_of
from rtskel.formats.mappings import BY_POINTS, OPENPOSE_18, Layout, by_names, gather, stated_confidence
from rtskel.formats.parsing import (
    BOM,
    NUMBER_KEYS,
    Format,
    Options,
    identity,
    integer,
    listed,
    load_npz,
    npz_names,
    numbers,
    rate,
    read_json,
    shown,
)
from rtskel.formats.people import recordings_of_people
from rtskel.formats.recording import Recording
from rtskel.skeleton import CANONICAL_AXES, NECK

_KNOWN_OF_INSTANCE = {"keypoints", "keypoint_scores", "track_id", "bbox", "bbox_score", "bbox_scores"}
_KNOWN_OF_INSTANCE |= {"keypoints_visible", "track_bbox", "transformed_keypoints"}
_KNOWN_OF_INSTANCE |= set(NUMBER_KEYS)
_KNOWN_OF_INSTANCE |= {"score", "box", "name", "class", "confidence"}  # TensorFlow.js, Ultralytics
_CROWD = 8
"""In arrays with more people than that, and than frames, people may come first."""

_KNOWN_ARRAYS = {"keypoints", "scores", "keypoint_scores", "fps", "image_size", "track_id", "person_id"}


class Row(NamedTuple):
    """A person in a frame: points [P, D] and scores [P]."""

    frame: int
    points: NDArray[np.float64]
    scores: NDArray[np.float64]
    identity: int


def from_wholebody(
    frames: Iterable[tuple[ArrayLike, ArrayLike | None]],
    *,
    fps: float,
    name: str = "wholebody",
    unit: str | None = None,
    axes: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> list[Recording]:
    """Recordings of what a keypoint estimator such as RTMW returns, one for each person.

    Args:
        frames: for each frame keypoints [N, P, 2 or 3] and scores [N, P] (None: all 1) of the N people in it, or
            [P, 2 or 3] and [P] of one. No people: N = 0. P is one of those above.
        fps: frames a second.
        name: of the recordings; for tracking see `rtskel.formats.people`.
        unit, axes: of 3D keypoints; 2D keypoints are in pixels.
        image_size: (width, height) of the image.

    Raises:
        FormatError: another shape, nobody in any frame, 3D keypoints without unit or axes.
    """
    rows = []
    for number, (keypoints, scores) in enumerate(frames):
        points = np.asarray(keypoints, np.float64)
        points = points[None] if points.ndim == 2 else points
        sure = np.ones(points.shape[:-1]) if scores is None else np.asarray(scores, np.float64)
        sure = sure[None] if sure.ndim == 1 else sure
        if points.size:
            rows += checked(f"{name}, frame {number}", number, points, sure)
    return recordings_of(name, name, rows, Options(fps=fps, unit=unit, axes=axes, image_size=image_size))


def checked(place: str, frame: int, points: NDArray[np.float64], scores: NDArray[np.float64]) -> list[Row]:
    """The people of a frame, from points [N, P, D] and scores [N, P]."""
    if points.ndim != 3 or points.shape[1] not in _LAYOUTS or points.shape[2] not in (2, 3):
        known = ", ".join(f"{count} ({layout.id})" for count, layout in _LAYOUTS.items())
        raise FormatError(f"{place}: keypoints have shape {list(points.shape)}, [people, points, 2 or 3] expected; "
                          f"points known: {known}")  # fmt: skip
    if scores.shape != points.shape[:-1]:
        raise FormatError(f"{place}: scores have shape {list(scores.shape)}, {list(points.shape[:-1])} expected")
    return [Row(frame, person, score, -1) for person, score in zip(points, scores, strict=True)]


_LAYOUTS = {**BY_POINTS, 18: OPENPOSE_18}


def recordings_of(
    path: Path | str, name: str, rows: list[Row], options: Options, layout: Layout | None = None
) -> list[Recording]:
    """Recordings of rows, one for each person."""
    if not rows:
        raise FormatError(f"{path}: nobody is found in any frame")
    fps = options.need(path, "fps", "the file does not say how many frames a second")
    shapes = {row.points.shape for row in rows}
    if len({points for points, _ in shapes}) > 1:
        raise FormatError(
            f"{path}: people of {' and of '.join(str(points) for points, _ in sorted(shapes)[:2])} points"
        )
    if len(shapes) > 1:
        raise FormatError(f"{path}: some keypoints are 2D, some are 3D")
    ((count, dims),) = shapes
    if layout is None and (count, dims) == (17, 3):
        options.note("17 points in 3D without names are taken for COCO's (Human3.6M's are in another order)")
    unit, axes = "px", CANONICAL_AXES
    if dims == 3:
        unit = options.need(path, "unit", "the file does not say in what its 3D keypoints are")
        axes = options.need(path, "axes", "the file does not say where x, y and z of its 3D keypoints grow")
    layout = layout or _LAYOUTS[count]
    (component, *_) = layout.components
    points = {component: np.stack([row.points for row in rows])}
    scores = stated_confidence(points, {component: np.stack([row.scores for row in rows])}, options)
    xyz, confidence = gather(layout, points, scores)
    frame, identity = (np.array([row[at] for row in rows], np.int64) for at in (0, 3))
    return recordings_of_people(
        path, name, frame, xyz, confidence, identity,
        note=options.note, who=options.person, fps=fps, unit=unit, axes=axes, image_size=options.image_size,
    )  # fmt: skip


def _scores_split(
    points: NDArray[np.float64], scores: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and scores [...]; scores may be the third number of each point in pixels, if it is within 0..1."""
    if scores is not None:
        return points, scores
    if points.ndim >= 2 and points.shape[-1] == 3 and points.size:
        third, beside = points[..., 2], points[..., :2]
        if ((third >= 0) & (third <= 1) | np.isnan(third)).all() and (np.abs(beside) > 2).any():
            return beside, third
    return points, np.ones(points.shape[:-1])


# MMPose's JSON


def read_wholebody(path: Path, options: Options) -> list[Recording]:
    """Read whole-body keypoints as JSON: one file, or a folder of them."""
    if path.is_dir():
        recordings = []
        for name, files in clips_of(path, options).items():
            rows = [
                row
                for number, file, value in values_of(files, options)
                for row in _picture(number, file, value, options)
            ]
            recordings += recordings_of(path, name, rows, options)
        return recordings
    return _read_arrays(path, options) if zipfile.is_zipfile(path) else _read_json(path, options)


def _picture(number: int, file: str, value: Any, options: Options) -> list[Row]:
    """The people of a file that holds one picture."""
    found = _frames(file, value)
    if len(found) > 1:
        raise FormatError(f"{file}: holds {len(found)} frames, one picture expected")
    return [row for frame in found for row in _people(f"{file}", number, frame["instances"], options)]


def _frames(path: Path | str, value: Any) -> list[dict[str, Any]]:
    frames: Any = value
    if isinstance(value, dict):
        frames = next((value[key] for key in ("instance_info", "instances", "predictions") if key in value), None)
        if frames is None and value and all(re.fullmatch("[0-9]{1,17}", key) for key in value):
            frames = [{"frame_id": int(key), "instances": people} for key, people in value.items()]
    if not isinstance(frames, list):
        keys = f" (found: {listed(value.keys())})" if isinstance(value, dict) else ""
        raise FormatError(f"{path}: not MMPose's JSON: a list of frames, or instance_info, expected{keys}")
    while len(frames) == 1 and isinstance(frames[0], list):  # of MMPose's inferencer: a batch of one picture
        frames = frames[0]
    if frames and isinstance(frames[0], dict) and "keypoints" in frames[0]:
        frames = _by_number(path, frames)
    elif frames and all(isinstance(frame, list) for frame in frames):
        frames = [{"instances": frame} for frame in frames]
    for at, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("instances"), list):
            raise FormatError(f"{path}, frame {at}: not MMPose's JSON: no list of instances, found {shown(frame)}")
    return list(frames)


def _by_number(path: Path | str, people: list[Any]) -> list[dict[str, Any]]:
    """Frames of a list of people: those that state the same frame number, or all of one picture if none is stated."""
    key = next((key for key in NUMBER_KEYS if key in people[0]), None)
    if key is None:
        return [{"instances": people}]
    frames: dict[int, list[Any]] = {}
    for at, person in enumerate(people):
        number = person.get(key) if isinstance(person, dict) else None
        frames.setdefault(integer(f"{path}, person {at}, {key}", number), []).append(person)
    return [{"frame_id": number, "instances": frames[number]} for number in sorted(frames)]


def _read_json(path: Path, options: Options) -> list[Recording]:
    value = read_json(path, options)
    seen: set[int] = set()
    rows: list[Row] = []
    for at, frame in enumerate(_frames(path, value)):
        number = integer(f"{path}, frame {at}, frame_id", frame.get("frame_id", at))
        if number in seen:
            raise FormatError(f"{path}, frame {at}: frame_id {number} comes twice")
        seen.add(number)
        rows += _people(f"{path}, frame {at}", number, frame["instances"], options)
    first = min(seen, default=0)
    check_span(path, first, max(seen, default=0), len(seen))
    rows = sorted((row._replace(frame=row.frame - first) for row in rows), key=lambda row: row.frame)
    return recordings_of(path, path.stem, rows, options, _layout_of(value, rows, options))


def _people(place: str, frame: int, instances: list[Any], options: Options) -> list[Row]:
    seen = ((at, one) for at, one in enumerate(instances) if not _empty(one))
    return [_instance(f"{place}, person {at}", frame, instance, options) for at, instance in seen]


def _empty(instance: Any) -> bool:
    """Whether an instance is nobody: without keypoints, as trackers leave whom they have lost."""
    return isinstance(instance, dict) and instance.get("keypoints", 0) in (None, [])


def _instance(place: str, frame: int, instance: Any, options: Options) -> Row:
    if not isinstance(instance, dict) or "keypoints" not in instance:
        raise FormatError(f"{place}: an object with keypoints expected, found {shown(instance)}")
    if not _KNOWN_OF_INSTANCE.issuperset(instance):
        options.note(f"unused keys: {listed(instance.keys() - _KNOWN_OF_INSTANCE)}")
    found, sure = _spelled(instance["keypoints"], instance.get("keypoint_scores"))
    points = numbers(f"{place}, keypoints", found)
    scores = None if sure is None else numbers(f"{place}, keypoint_scores", sure)
    points, scores = _scores_split(*_shaped(points, scores))
    (row,) = checked(place, frame, points[None], scores[None])
    return row._replace(identity=identity(f"{place}, track_id", instance.get("track_id"), options))


def _shaped(
    points: NDArray[np.float64], scores: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Points [P, D] and scores [P] of a person, where they are nested deeper or not at all."""
    while points.ndim > 2 and len(points) == 1:
        points = points[0]
    if points.ndim > 1 and points.shape[-1] == points.size:
        points = points.ravel()
    if points.ndim == 1 and points.size:
        counts = [scores.size] if scores is not None else list(_LAYOUTS)
        widths = [points.size // count for count in counts if count and points.size in (2 * count, 3 * count)]
        points = points.reshape(-1, widths[0]) if widths else points
    if scores is not None and points.ndim == 2 and scores.size == len(points):
        scores = scores.ravel()
    return points, scores


def _spelled(points: Any, scores: Any) -> tuple[Any, Any]:
    """Keypoints and scores as lists: MMPose's, TensorFlow.js' list of objects, or Ultralytics' object of lists."""
    if isinstance(points, list) and points and all(isinstance(point, dict) for point in points):
        sure = [point.get("score", point.get("confidence", 1.0)) for point in points]
        held = [(point, point.get("position")) for point in points]  # by PoseNet
        places = [place if isinstance(place, dict) else point for point, place in held]
        return [[place.get("x"), place.get("y")] for place in places], sure
    if isinstance(points, dict) and isinstance(points.get("x"), list) and isinstance(points.get("y"), list):
        pairs = [list(pair) for pair in zip(points["x"], points["y"], strict=False)]
        return pairs, points.get("visible", points.get("confidence", scores))
    return points, scores


def _layout_of(value: Any, rows: list[Row], options: Options) -> Layout | None:
    """The layout by the names that MMPose gives its keypoints, where their number alone does not tell it."""
    if not rows or rows[0].points.shape != (17, 3):
        return None  # by the number of points
    meta = value.get("meta_info") if isinstance(value, dict) else None
    named = meta.get("keypoint_id2name") if isinstance(meta, dict) else None
    if isinstance(named, dict) and len(named) == len(rows[0].points):
        layout = by_names([str(named.get(str(at), at)) for at in range(len(named))])
        if layout.sources[NECK]:
            return layout
    return None


# Arrays


def _read_arrays(path: Path, options: Options) -> list[Recording]:
    unused = npz_names(path) - _KNOWN_ARRAYS
    if unused:
        options.note(f"unused arrays: {listed(unused)}")
    return of_arrays(path, load_npz(path, _KNOWN_ARRAYS), options)


def of_arrays(path: Path, columns: dict[str, NDArray[Any]], options: Options) -> list[Recording]:
    """Recordings of arrays by name, as above."""
    if "keypoints" not in columns:
        raise FormatError(f"{path}: no array 'keypoints' (found: {listed(columns.keys())})")
    for key, kinds in (
        ("keypoints", "fiu"),
        ("scores", "fiub"),
        ("keypoint_scores", "fiub"),
        ("track_id", "iuU"),
        ("person_id", "iuU"),
    ):
        if key in columns and columns[key].dtype.kind not in kinds:
            raise FormatError(f"{path}: {key} has dtype {columns[key].dtype}: numbers expected")
    points, scores = _scores_split(columns["keypoints"], columns.get("scores", columns.get("keypoint_scores")))
    if points.ndim == 3 and scores.ndim == 2:
        points, scores = points[:, None], scores[:, None]
    if points.ndim == 4 and points.shape[1] > max(len(points), _CROWD):
        options.note(f"{len(points)} frames of {points.shape[1]} people: if people come first, exchange the first two")
    if points.ndim != 4 or scores.ndim != 3 or scores.shape[:2] != points.shape[:2]:
        raise FormatError(f"{path}: keypoints {list(points.shape)} and scores {list(scores.shape)}: [frames, points, "
                          "2 or 3] and [frames, points] expected, or [frames, people, ...]")  # fmt: skip
    ids = columns.get("track_id", columns.get("person_id"))
    if ids is not None and ids.size == points.shape[0] * points.shape[1]:
        ids = ids.reshape(points.shape[:2])
    elif ids is not None:
        raise FormatError(f"{path}: track_id has shape {list(ids.shape)}, {list(points.shape[:2])} expected")
    rows: list[Row] = []
    for number, (people, sure) in enumerate(zip(points.astype(np.float64), scores.astype(np.float64), strict=True)):
        of_frame = checked(f"{path}, frame {number}", number, people, sure)
        if ids is not None:
            place = f"{path}, frame {number}, track_id"
            who = [identity(place, one, options) for one in ids[number].tolist()]
            of_frame = [row._replace(identity=one) for row, one in zip(of_frame, who, strict=True)]
        rows += of_frame
    stated = _stated(path, columns, options)
    return recordings_of(path, path.stem, rows, stated)


def _stated(path: Path, columns: dict[str, NDArray[Any]], options: Options) -> Options:
    """The options, with what the arrays state."""
    size = columns.get("image_size")
    if size is not None and (size.dtype.kind not in "iu" or size.shape != (2,)):
        raise FormatError(f"{path}: image_size {shown(size.tolist())}: one (width, height) in pixels expected")
    stated = columns.get("fps")
    fps: Any = stated.item() if stated is not None and stated.size == 1 else None
    fps = rate(fps) if isinstance(fps, str) else fps
    if stated is not None and fps is None:
        raise FormatError(f"{path}: fps {shown(stated.tolist())}: one number expected")
    return replace(
        options,
        fps=options.fps or fps,
        image_size=None if size is None else (int(size[0]), int(size[1])),
    )


FORMAT = Format(
    "wholebody",
    (".json", ".npz"),
    read_wholebody,
    mark=BOM + rb'\s*[\[{].*"(?:instance_info|instances|meta_info|keypoints)"\s*:',
    arrays=lambda names: "keypoints" in names and "xyz" not in names,
    folders=True,
)
