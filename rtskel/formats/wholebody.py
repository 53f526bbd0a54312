"""COCO-WholeBody-133: MMPose's JSON, and RTMW's output arrays.

MMPose writes a list of frames, or `{"meta_info": ..., "instance_info": [frames]}`; a frame is `{"frame_id": 7,
"instances": [{"keypoints": [[x, y], ...], "keypoint_scores": [...]}, ...]}`. For a single image it writes the list of
instances alone. Frame numbers count from the smallest.

An `.npz` of arrays has `keypoints` [F, 133, D], or [F, P, 133, D] for P people in each of F frames, and `scores` (or
`keypoint_scores`) of the same shape without D; it may have `fps` and `image_size` (width, height).

D is 2 (pixels) or 3, in a unit and axes that the caller states. So is the frame rate, unless there is an array `fps`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.errors import FormatError
from rtskel.formats.mappings import WHOLEBODY_133, gather
from rtskel.formats.parsing import Format, Options, integer, load_npz, numbers, parse_json, shown, text
from rtskel.formats.people import recordings_of_people
from rtskel.formats.recording import Recording
from rtskel.skeleton import CANONICAL_AXES

POINTS = WHOLEBODY_133.points


def from_wholebody(
    frames: Iterable[tuple[ArrayLike, ArrayLike | None]],
    *,
    fps: float,
    name: str = "wholebody",
    unit: str | None = None,
    axes: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> list[Recording]:
    """Recordings of what a COCO-WholeBody estimator such as RTMW returns, one for each person.

    Args:
        frames: for each frame keypoints [P, 133, 2 or 3] and scores [P, 133] (None: all 1) of the P people in it, or
            [133, 2 or 3] and [133] of one. No people: P = 0.
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
            rows += _checked(f"{name}, frame {number}", number, points, sure)
    return _recordings(name, name, rows, Options(fps=fps, unit=unit, axes=axes, image_size=image_size))


_Row = tuple[int, NDArray[np.float64], NDArray[np.float64], int]  # frame, keypoints, scores, identity


def _checked(place: str, frame: int, points: NDArray[np.float64], sure: NDArray[np.float64]) -> list[_Row]:
    if points.ndim != 3 or points.shape[1] != POINTS or points.shape[2] not in (2, 3):
        raise FormatError(
            f"{place}: keypoints have shape {list(points.shape)}, [people, {POINTS}, 2 or 3] expected (COCO-WholeBody)"
        )
    if sure.shape != points.shape[:-1]:
        raise FormatError(f"{place}: scores have shape {list(sure.shape)}, {list(points.shape[:-1])} expected")
    return [(frame, person, score, -1) for person, score in zip(points, sure, strict=True)]


def _recordings(path: Path | str, name: str, rows: list[_Row], options: Options) -> list[Recording]:
    if not rows:
        raise FormatError(f"{path}: nobody is found in any frame")
    fps = options.need(path, "fps", "the file does not say how many frames a second")
    dims = {row[1].shape[-1] for row in rows}
    if len(dims) > 1:
        raise FormatError(f"{path}: some keypoints are 2D, some are 3D")
    unit, axes = "px", CANONICAL_AXES
    if dims == {3}:
        unit = options.need(path, "unit", "the file does not say in what its 3D keypoints are")
        axes = options.need(path, "axes", "the file does not say where x, y and z of its 3D keypoints grow")
    xyz, confidence = gather(
        WHOLEBODY_133,
        {"keypoints": np.stack([row[1] for row in rows])},
        {"keypoints": np.stack([row[2] for row in rows])},
    )
    frame, identity = (np.array([row[at] for row in rows], np.int64) for at in (0, 3))
    return recordings_of_people(
        path, name, frame, xyz, confidence, identity, fps=fps, unit=unit, axes=axes, image_size=options.image_size
    )


def read_wholebody(path: Path, options: Options) -> list[Recording]:
    return _read_arrays(path, options) if zipfile.is_zipfile(path) else _read_json(path, options)


def _read_json(path: Path, options: Options) -> list[Recording]:
    value = parse_json(path, text(path))
    frames = value.get("instance_info") if isinstance(value, dict) else value
    if not isinstance(frames, list):
        raise FormatError(f"{path}: not MMPose's JSON: a list of frames, or instance_info, expected")
    if frames and isinstance(frames[0], dict) and "keypoints" in frames[0]:
        frames = [{"instances": frames}]
    seen: set[int] = set()
    rows: list[_Row] = []
    for at, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("instances"), list):
            raise FormatError(f"{path}, frame {at}: not MMPose's JSON: no list of instances, found {shown(frame)}")
        number = integer(f"{path}, frame {at}, frame_id", frame.get("frame_id", at))
        if number in seen:
            raise FormatError(f"{path}, frame {at}: frame_id {number} comes twice")
        seen.add(number)
        for person, instance in enumerate(frame["instances"]):
            rows.append(_instance(f"{path}, frame {at}, person {person}", number, instance))
    first = min(seen, default=0)
    rows = sorted(((row[0] - first, *row[1:]) for row in rows), key=lambda row: row[0])
    return _recordings(path, path.stem, rows, options)


def _instance(place: str, frame: int, instance: Any) -> _Row:
    if not isinstance(instance, dict) or "keypoints" not in instance:
        raise FormatError(f"{place}: an object with keypoints expected, found {shown(instance)}")
    points = numbers(f"{place}, keypoints", instance["keypoints"])
    sure = instance.get("keypoint_scores")
    scores = np.ones(points.shape[:1]) if sure is None else numbers(f"{place}, keypoint_scores", sure)
    ((_, points, scores, _),) = _checked(place, frame, points[None], scores[None])
    return frame, points, scores, integer(f"{place}, track_id", instance.get("track_id", -1))


def _read_arrays(path: Path, options: Options) -> list[Recording]:
    columns = load_npz(path)
    if "keypoints" not in columns:
        raise FormatError(f"{path}: no array 'keypoints' (found: {', '.join(sorted(columns)) or 'nothing'})")
    points = columns["keypoints"]
    sure = columns.get("scores", columns.get("keypoint_scores", np.ones(points.shape[:-1])))
    for key, array in (("keypoints", points), ("scores", sure)):
        if array.dtype.kind not in "fiu":
            raise FormatError(f"{path}: {key} has dtype {array.dtype}: numbers expected")
    if points.ndim == 3:
        points, sure = points[:, None], sure[:, None]
    if points.ndim != 4 or sure.shape[:2] != points.shape[:2]:
        raise FormatError(f"{path}: keypoints {list(points.shape)} and scores {list(sure.shape)}: [frames, "
                          f"{POINTS}, 2 or 3] and [frames, {POINTS}] expected, or [frames, people, ...]")  # fmt: skip
    rows: list[_Row] = []
    for number, (people, scores) in enumerate(zip(points.astype(np.float64), sure.astype(np.float64), strict=True)):
        rows += _checked(f"{path}, frame {number}", number, people, scores)
    size = columns.get("image_size")
    if size is not None and (size.dtype.kind not in "iu" or size.shape != (2,)):
        raise FormatError(f"{path}: image_size {shown(size.tolist())}: one (width, height) in pixels expected")
    rate = columns.get("fps")
    if rate is not None and (rate.dtype.kind not in "fiu" or rate.shape != ()):
        raise FormatError(f"{path}: fps {shown(rate.tolist())}: one number expected")
    stated = Options(
        fps=options.fps if rate is None else float(rate),
        unit=options.unit,
        axes=options.axes,
        image_size=None if size is None else (int(size[0]), int(size[1])),
    )
    return _recordings(path, path.stem, rows, stated)


FORMAT = Format(
    "wholebody",
    (".json", ".npz"),
    read_wholebody,
    mark=rb'\A\s*[\[{].*"(?:instance_info|instances|meta_info|keypoints)"\s*:',
    arrays=lambda names: "keypoints" in names and "xyz" not in names,
)
