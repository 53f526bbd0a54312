"""MediaPipe: result objects of Holistic and of the Tasks, their JSON, and landmarks as arrays.

MediaPipe gives pose and hand landmarks in the image, each with a depth (the body's relative to the hips, a hand's
relative to its wrist, in about the unit of x), and "world" landmarks of the body alone, in metres. Here a hand's depth
starts at the body's wrist. In world coordinates, hands are the image's hands: scaled by the metres per pixel at the
shoulders (median of the last 25 frames that show both) and attached to the body's wrist. What has no hands (Pose,
PoseLandmarker) leaves them missing. Where no landmark has a visibility (None or 0, as on the web and Android), all
landmarks count as seen, with confidence 1.

JSON is a list of results, an object that holds one (`frames`, `results`, ...), one result, one per line, or a folder
with one per frame; a result is what the Tasks or `solutions` return, in snake_case or camelCase, of one person or
several. Coordinates are 0..1 of an image whose size the file or the caller states; frame rate or times likewise.

An `.npz` of landmarks has `pose` [F, 33, D], and may have `left_hand` and `right_hand` [F, 21, D]: x, y in pixels or
0..1, and with D of 3 z, of 4 a confidence; missing is NaN or confidence 0. For several clips one after another it has
`length` [C] in frames, and may have `clip` [C] names, `fps` [C] or one value, and `width_height` [C, 2] or [2]. In
pixels, the file does not state the unit of z (toolkits often keep MediaPipe's image widths): `depth_scale` gives its
pixels; without it recordings are 2D.

Every frame is a row, whether or not anybody was found in it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.frames import check_span, clips_of, values_of
from rtskel.formats.mappings import HOLISTIC, HOLISTIC_WORLD, Layout, gather
from rtskel.formats.parsing import (
    BOM,
    DEPTH,
    Format,
    Options,
    Unfinished,
    listed,
    load_npz,
    named,
    npz_names,
    numbers,
    parse_json,
    shown,
    text,
)
from rtskel.formats.people import recordings_of_people
from rtskel.formats.recording import Recording
from rtskel.rates import reconcile
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, UPPER_BODY_50

AXES = "RDA"

SCALE_FRAMES = 25
"""Frames over which the metres per pixel are averaged."""

NORMALISED = 2.0
"""Coordinates whose largest is not above this are fractions of the image: nobody is two pixels large."""

_POSE, _LEFT, _RIGHT = HOLISTIC.components
(_WORLD,) = HOLISTIC_WORLD.components
_HANDS = tuple(
    (UPPER_BODY_50.names.index(f"{side}_wrist"), list(UPPER_BODY_50.groups[f"{side}_hand"]))
    for side in ("left", "right")
)
_POINTS = {**HOLISTIC.components, **HOLISTIC_WORLD.components}
_NAMES = {  # as the Tasks and `solutions` call them, and as toolkits do
    _POSE: ("pose_landmarks", "poseLandmarks", "landmarks", "pose"),
    _LEFT: ("left_hand_landmarks", "leftHandLandmarks", "left_hand"),
    _RIGHT: ("right_hand_landmarks", "rightHandLandmarks", "right_hand"),
    _WORLD: ("pose_world_landmarks", "poseWorldLandmarks", "worldLandmarks", "world_landmarks"),
}
_NO_VISIBILITY = "landmarks have no visibility: all are used, with confidence 1"


class Assembler:
    """Turns Holistic's landmarks into the 50 joints, image after image; keeps the metres per pixel between images."""

    def __init__(self, *, world: bool = False) -> None:
        """
        Args:
            world: in metres from the hip centre, from world landmarks; else in pixels of the image.
        """
        self.unit = "m" if world else "px"
        self._meters_per_pixel: deque[float] = deque(maxlen=SCALE_FRAMES)

    def joints(
        self, points: Mapping[str, NDArray[np.floating]], confidence: Mapping[str, NDArray[np.floating]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Positions [50, 3] along `AXES` and confidences [50], both 0 where missing.

        Args:
            points: [P, 3] of each component that was found: of `HOLISTIC` in pixels, and for metres of
                `HOLISTIC_WORLD` too.
            confidence: [P] of the same components.
        """
        image, seen = _found(HOLISTIC, points, confidence)
        if self.unit == "px":
            return with_depth(image, seen, 1.0)
        return self.place(*_found(HOLISTIC_WORLD, points, confidence), image, seen)

    def place(
        self,
        body: NDArray[np.float32],
        sure: NDArray[np.float32],
        image: NDArray[np.float32],
        seen: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """World joints [50, 3] and confidences [50], with hands taken from the image."""
        widths = _shoulder_width(body, sure), _shoulder_width(image, seen)
        if min(widths) > 0:
            self._meters_per_pixel.append(widths[0] / widths[1])
        scale = float(np.median(self._meters_per_pixel)) if self._meters_per_pixel else 0.0
        xyz, confidence = body.copy(), sure.copy()
        for wrist, hand in _HANDS:
            there = (seen[hand] > 0) & (seen[hand[0]] > 0) & (sure[wrist] > 0) & (scale > 0)
            placed = body[wrist] + (image[hand] - image[hand[0]]) * np.float32(scale)
            xyz[hand] = np.where(there[:, None], placed, np.float32(0))
            confidence[hand] = np.where(there, seen[hand], np.float32(0))
        return xyz, confidence


def _found(
    layout: Layout, points: Mapping[str, NDArray[np.floating]], confidence: Mapping[str, NDArray[np.floating]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    parts = [part for part in layout.components if part in points]
    if not parts:
        return np.zeros((UPPER_BODY_50.joints, 3), np.float32), np.zeros(UPPER_BODY_50.joints, np.float32)
    return gather(layout, {part: points[part] for part in parts}, {part: confidence[part] for part in parts})


def _shoulder_width(xyz: NDArray[np.float32], confidence: NDArray[np.float32]) -> float:
    """Seen by the camera (x and y only); 0: unknown."""
    right, left = xyz[[RIGHT_SHOULDER, LEFT_SHOULDER], :2]
    both = confidence[RIGHT_SHOULDER] > 0 and confidence[LEFT_SHOULDER] > 0
    return float(np.linalg.norm(right - left)) if both else 0.0


def from_holistic(
    results: Iterable[Any],
    *,
    fps: float,
    image_size: tuple[int, int] | Sequence[tuple[int, int]],
    name: str = "mediapipe",
    world: bool = False,
) -> Recording:
    """A recording of MediaPipe's results, frame by frame.

    Args:
        results: objects with `pose_landmarks`, `left_hand_landmarks`, `right_hand_landmarks` and, for `world`,
            `pose_world_landmarks`, from `solutions`, or from the `HolisticLandmarker` or `PoseLandmarker` task; each
            None, empty, landmarks, an object whose `landmark` are those, or a list of people (the first is taken).
        fps: frames a second.
        image_size: (width, height) in pixels of the images, or of each image.
        name: of the recording.
        world: in metres from the hip centre instead of in pixels.

    Returns:
        A recording whose confidences are the visibility of body landmarks, or 1 where there is none, and 1 for the
        landmarks of a found hand. Its `notes` say what was doubtful.

    Raises:
        FormatError: no results, images of several sizes, or another number of landmarks.
    """
    sizes = np.unique(np.reshape(image_size, (-1, 2)), axis=0).tolist()
    if len(sizes) != 1:
        what = f"images of several sizes: {sizes[0]} and {sizes[1]}" if sizes else "no image size"
        raise FormatError(f"{name}: {what}")
    size = (int(sizes[0][0]), int(sizes[0][1]))
    assembler = Assembler(world=world)
    options = Options()
    poses = [assembler.joints(*landmarks(result, size, options)) for result in results]
    if not poses:
        raise FormatError(f"{name}: no results")
    if not any(sure.any() for _, sure in poses):
        options.note("nobody is found in any frame")
    return Recording(
        np.stack([xyz for xyz, _ in poses]),
        fps,
        name,
        confidence=np.stack([sure for _, sure in poses]),
        axes=AXES,
        unit=assembler.unit,
        image_size=size,
        notes=tuple(options.notes),
    )


_Found = tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]


def landmarks(result: Any, image_size: tuple[int, int], options: Options | None = None) -> _Found:
    """Points [P, 3] and confidences [P] of each component of a result, as `Assembler.joints` takes them.

    Args:
        options: takes notes of what is doubtful.
    """
    people = _people(result, options or Options())
    if len(people) > 1 and options is not None:
        options.note("frames show several people: the first is read")
    return _in_pixels(people[0], image_size) if people else ({}, {})


def _in_pixels(person: _Found, image_size: tuple[int, int]) -> _Found:
    width, height = image_size
    points = {part: array * (1.0 if part == _WORLD else (width, height, width)) for part, array in person[0].items()}
    return points, person[1]


def _people(result: Any, options: Options) -> list[_Found]:
    """The people in a result: points [P, 3] as they are, and confidences [P]. Hands belong to the first."""
    people: list[_Found] = []
    for part, names in _NAMES.items():
        for at, found in enumerate(_lists(_field(result, names))):
            if len(found) != len(_POINTS[part]):
                raise FormatError(f"{names[0]}: {len(found)} landmarks, {len(_POINTS[part])} expected")
            while at >= len(people):
                people.append(({}, {}))
            points, sure = _numbers_of(names[0], found)
            if "HAND" in part:  # hands have no visibility
                if at == 0 and not points.any():
                    options.note("hands with every landmark at exactly 0 are taken as not found")
                    continue
                sure = np.ones(len(points))
            elif not (sure > 0).any():
                options.note(_NO_VISIBILITY)
                sure = np.ones(len(points))
            people[at][0][part], people[at][1][part] = points, sure
    return people


def _field(result: Any, names: Iterable[str]) -> Any:
    for name in names:
        value = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
        if value is not None:
            return value
    return None


def _lists(found: Any) -> list[Any]:
    """The landmarks of each person: of a list, an object that has them, or a list of either."""
    found = _field(found, ("landmark", "landmarks")) if _field(found, ("landmark", "landmarks")) is not None else found
    if found is None or not hasattr(found, "__len__") or len(found) == 0 or isinstance(found, (str, Mapping)):
        return []
    first = found[0]
    nested = isinstance(first, (list, tuple)) and len(first) > 0 and not isinstance(first[0], (int, float))
    if nested or _field(first, ("landmark", "landmarks")) is not None:
        return [person for group in found for person in _lists(group)]
    return [found]


def _numbers_of(place: str, found: Iterable[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [P, 3] and visibilities [P] of landmarks; 1 where one has none, all 0 where none has."""
    rows = []
    for mark in found:
        if isinstance(mark, (list, tuple)):
            row = (*mark, *[0.0] * (3 - len(mark)), None)[:4]
        elif isinstance(mark, Mapping):
            seen = mark.get("visibility")
            row = (mark.get("x"), mark.get("y"), mark.get("z", 0.0), seen if seen else mark.get("presence", seen))
        else:
            seen = mark.visibility
            row = (mark.x, mark.y, mark.z, seen if seen else getattr(mark, "presence", seen))
        rows.append(row)
    array = numbers(place, rows)
    if array.ndim != 2:
        raise FormatError(f"{place}: x, y, z of each landmark expected, found {shown(rows)}")
    sure = array[:, 3]
    unstated = np.isnan(sure)
    if unstated.all():
        return array[:, :3], np.zeros(len(array))
    return array[:, :3], np.where(unstated, 1.0, sure)


def with_depth(
    xyz: NDArray[np.float32], confidence: NDArray[np.float32], scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints [..., 50, 3] with depth in pixels, hands' relative to the body's wrist; without it, a hand is missing."""
    xyz, confidence = xyz * np.array([1.0, 1.0, scale], np.float32), confidence.copy()
    for wrist, hand in _HANDS:
        lost = (confidence[..., wrist] == 0) | (confidence[..., hand[0]] == 0)
        xyz[..., hand, 2] += (xyz[..., wrist, 2] - xyz[..., hand[0], 2])[..., None]
        confidence[..., hand] = np.where(lost[..., None], np.float32(0), confidence[..., hand])
    return np.where(confidence[..., None] > 0, xyz, np.float32(0)), confidence


# JSON of results

_FRAMES = ("frames", "results", "data", "detections", "landmarks_per_frame", "frameResults")
_NUMBER = ("frame", "frame_id", "frame_index", "frameIndex", "frame_number", "frameNumber", "frame_idx")
_TIME_MS = ("timestamp_ms", "timestampMs", "timestampMillis", "time_ms", "timestamp_in_ms")
_TIME = ("timestamp", "time", "time_s", "t")


def read_mediapipe(path: Path, options: Options) -> list[Recording]:
    if path.is_dir():
        recordings = []
        for name, files in clips_of(path, options).items():
            found = list(values_of(files, options))
            results = [{"frame": number, "result": value} for number, _, value in found]
            recordings += _of_results(path, name, {}, results, options)
        return recordings
    source = text(path, options)
    try:
        value = parse_json(path, source)
    except Unfinished:
        raise
    except FormatError:
        lines = [line for line in source.split("\n") if line.strip()]
        if len(lines) < 2:
            raise
        value = [parse_json(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]
    header = value if isinstance(value, dict) else {}
    held = next((value[key] for key in _FRAMES if isinstance(value.get(key), (list, dict))), None) if header else value
    if held is None and header and all(key.isascii() and key.isdigit() and len(key) < 18 for key in header):
        held = header  # results by frame number
    if isinstance(held, dict):
        held = [{"frame": int(key), "result": result} for key, result in held.items() if key.isdigit()]
    if held is None or (isinstance(held, list) and len(held) == len(_POINTS[_POSE]) and _is_mark(held[0])):
        held = [value]
    if not isinstance(held, list):
        raise FormatError(f"{path}: not MediaPipe's JSON: a list of results expected")
    return _of_results(path, path.stem, header, held, options)


def _is_mark(value: Any) -> bool:
    return isinstance(value, Mapping) and "x" in value and "y" in value


def _of_results(
    path: Path, name: str, header: Mapping[str, Any], results: list[Any], options: Options
) -> list[Recording]:
    """Recordings of the results of frames, each of which may state its number and time."""
    frames: list[list[_Found]] = []
    for at, result in enumerate(results):
        try:
            frames.append(_people(_inner(result), options))
        except FormatError as error:
            raise FormatError(f"{path}, frame {at}: {error}") from None
    if not any(frames):
        raise FormatError(f"{path}: nobody is found in any frame, or these are not MediaPipe's results")
    slot = _frame_numbers(path, results)
    clock = reconcile(options.fps or _rate(header), slot, _times(path, results))
    if clock.note:
        options.note(clock.note)
    fps = clock.fps or options.need(path, "fps", "the file states neither times nor how many frames a second")
    slot = np.arange(len(frames), dtype=np.int64) if clock.slot is None else clock.slot
    size = options.image_size or _size(header)
    image = [array for people in frames for points, _ in people for part, array in points.items() if part != _WORLD]
    if image and max(np.nanmax(np.abs(array[:, :2]), initial=0.0) for array in image) > NORMALISED:
        frames = [[_as_fractions(person, size) for person in people] for people in frames]
    elif image and size is None and not options.world:
        world = any(_WORLD in points for people in frames for points, _ in people)
        what = "landmarks are fractions of the image, whose size is unknown" + (
            " (--world reads metres)" if world else ""
        )
        options.need(path, "image_size", what)
    if options.world and not any(_WORLD in points for people in frames for points, _ in people):
        raise FormatError(f"{path}: has no world landmarks")
    if size is None and options.world and image and any(_LEFT in p[0] or _RIGHT in p[0] for f in frames for p in f):
        options.note("hands are left out: their size needs the image's (--image-size)")
        frames = [[_without_hands(person) for person in people] for people in frames]
    return _assembled(path, name, frames, slot, clock.time_ns, fps, size, options)


def _assembled(
    path: Path,
    name: str,
    frames: list[list[_Found]],
    slot: NDArray[np.int64],
    time_ns: NDArray[np.int64] | None,
    fps: float,
    size: tuple[int, int] | None,
    options: Options,
) -> list[Recording]:
    fields: dict[str, Any] = {"fps": fps, "axes": AXES, "unit": "m" if options.world else "px", "image_size": size}
    if max(map(len, frames)) <= 1:
        assembler = Assembler(world=options.world)
        poses = [
            assembler.joints(*(_in_pixels(people[0], size or (1, 1)) if people else ({}, {}))) for people in frames
        ]
        xyz, sure = np.stack([pose[0] for pose in poses]), np.stack([pose[1] for pose in poses])
        return [named(path, Recording, xyz, name=name, confidence=sure, slot=slot, time_ns=time_ns, **fields)]
    rows = [
        (number, *Assembler(world=options.world).joints(*_in_pixels(person, size or (1, 1))))
        for number, people in zip(slot.tolist(), frames, strict=True)
        for person in people
    ]
    frame = np.array([row[0] for row in rows], np.int64)
    xyz, sure = np.stack([row[1] for row in rows]), np.stack([row[2] for row in rows])
    recordings = recordings_of_people(path, name, frame, xyz, sure, note=options.note, **fields)
    if time_ns is None:
        return recordings
    times = dict(zip(slot.tolist(), time_ns.tolist(), strict=True))
    return [with_times(recording, times) for recording in recordings]


def with_times(recording: Recording, times: Mapping[int, int]) -> Recording:
    """The recording with the time of each of its slots."""
    return replace(recording, time_ns=np.array([times[slot] for slot in recording.slots.tolist()], np.int64))


def _as_fractions(person: _Found, size: tuple[int, int] | None) -> _Found:
    """Landmarks that a program has brought to pixels already, as fractions of the image again."""
    width, height = size or (1, 1)
    scaled = {part: array / (1.0 if part == _WORLD else (width, height, width)) for part, array in person[0].items()}
    return scaled, person[1]


def _without_hands(person: _Found) -> _Found:
    kept = [part for part in person[0] if "HAND" not in part]
    return {part: person[0][part] for part in kept}, {part: person[1][part] for part in kept}


def _inner(result: Any) -> Any:
    """A result without what programs wrap around it; bare landmarks are a body's."""
    for _ in range(4):
        if isinstance(result, Mapping):
            inner = _field(result, ("result", "results", "landmarks"))
            if not isinstance(inner, Mapping) or "landmark" in inner:
                inner = result.get("result")
            if inner is None:
                return result
            result = inner
        elif isinstance(result, list):
            return {"pose_landmarks": result}
        else:
            return result
    return result


def _stated(results: list[Any], keys: Iterable[str], kinds: tuple[type, ...]) -> list[Any]:
    """The value of each result under the first of the keys; none unless every result has one of that kind."""
    found = [_field(result, keys) if isinstance(result, Mapping) else None for result in results]
    return found if all(isinstance(value, kinds) and not isinstance(value, bool) for value in found) else []


def _frame_numbers(path: Path, results: list[Any]) -> NDArray[np.int64] | None:
    found: list[int] = _stated(results, _NUMBER, (int,))
    if not found:
        return None
    first = min(found)
    check_span(path, first, max(found), len(found))
    back = next((number for before, number in itertools.pairwise(found) if number <= before), None)
    if back is not None:
        raise FormatError(f"{path}: frame numbers do not ascend (at {back})")
    return np.array([number - first for number in found], np.int64)


def _times(path: Path, results: list[Any]) -> NDArray[np.int64] | None:
    """Times in ns; where the key does not tell the unit, the one in which frames are 2 to 1000 ms apart."""
    for keys, unit in ((_TIME_MS, 1e6), (("timestamp_us", "timestampUs"), 1e3), (_TIME, 0.0)):
        found = _stated(results, keys, (int, float))
        if not found:
            continue
        seconds = numbers(f"{path}, {keys[0]}", found)
        steps = np.diff(seconds)
        step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
        if not unit:
            unit = next((each for each in (1e9, 1e6, 1e3, 1.0) if 0.002 <= step * each / 1e9 <= 1.0), 0.0)
        if not unit or not np.isfinite(seconds).all() or np.abs(seconds).max() * unit >= 2.0**62:
            return None
        first = round(float(seconds[0]) * unit)
        whole: NDArray[np.int64] = first + np.rint((seconds - seconds[0]) * unit).astype(np.int64)
        return whole
    return None


def _rate(header: Mapping[str, Any]) -> float | None:
    value = _field(header, ("fps", "frame_rate", "frameRate", "framerate"))
    return (
        float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1000 else None
    )


def _size(header: Mapping[str, Any]) -> tuple[int, int] | None:
    for holder in (
        header,
        *(header[key] for key in ("video", "meta", "metadata", "video_info") if isinstance(header.get(key), dict)),
    ):
        pair = _field(holder, ("image_size", "width_height", "imageSize", "resolution"))
        width = _field(holder, ("image_width", "imageWidth", "width"))
        height = _field(holder, ("image_height", "imageHeight", "height"))
        pair = pair if isinstance(pair, list) else [width, height]
        if len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair):
            return pair[0], pair[1]
    return None


# Arrays of landmarks

_KNOWN_ARRAYS = {name for names in _NAMES.values() for name in names} | {
    "length",
    "clip",
    "fps",
    "width_height",
    "image_size",
}


def read_holistic(path: Path, options: Options) -> list[Recording]:
    """Recordings of the arrays of an `.npz` file, one per clip."""
    unused = npz_names(path) - _KNOWN_ARRAYS
    if unused:
        options.note(f"unused arrays: {listed(unused)}")
    columns = load_npz(path, _KNOWN_ARRAYS)
    found = {part: next((name for name in names if name in columns), None) for part, names in _NAMES.items()}
    name_of = {part: name for part, name in found.items() if name is not None}
    if _POSE not in name_of:
        raise FormatError(f"{path}: no array 'pose' (found: {listed(npz_names(path))})")
    pose = columns[name_of[_POSE]]
    frames = len(pose) if pose.ndim else 0
    points, sure = {}, {}
    for part, name in name_of.items():
        array = columns[name]
        wanted = (
            frames,
            len(_POINTS[part]),
            array.shape[-1] if array.ndim == 3 and array.shape[-1] in (2, 3, 4, 5) else 4,
        )
        if array.dtype.kind not in "fiu" or array.shape != wanted or not frames:
            raise FormatError(f"{path}: {name} is {array.dtype} {list(array.shape)}, numbers {list(wanted)} expected "
                              "(there is no array 'xyz' either)")  # fmt: skip
        points[part], sure[part] = split(part, array, options)
    if options.world and _WORLD not in points:
        raise FormatError(f"{path}: has no world landmarks")
    clips = _clips(path, columns, frames, options)
    xyz, confidence, dims = joints_of(path, points, sure, options, [rows for rows, _, _, _ in clips])
    return [
        named(
            path, Recording, xyz[rows], fps, name, confidence=confidence[rows],
            axes=AXES, unit="m" if options.world else "px", dims=dims, image_size=size,
        )
        for rows, name, fps, size in clips
    ]  # fmt: skip


def split(part: str, array: NDArray[Any], options: Options) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [F, P, 3] and confidences [F, P] of landmarks [F, P, D]; D: x, y, z, visibility, presence, or fewer."""
    array = array.astype(np.float64)
    points = array[..., :3] if array.shape[-1] > 2 else np.concatenate([array, np.zeros_like(array[..., :1])], axis=-1)
    if array.shape[-1] < 4:
        sure = np.isfinite(points).all(axis=-1).astype(np.float64)
    else:
        sure = array[..., 3]
        placed = np.isfinite(points).all(axis=-1) & points.any(axis=-1)
        if not (sure > 0).any() and placed.any():
            options.note(_NO_VISIBILITY)
            sure = placed.astype(np.float64)
    if "HAND" in part:
        absent = (points == 0).all(axis=(1, 2)) & (sure > 0).any(axis=1)
        if absent.any():
            options.note("hands with every landmark at exactly 0 are taken as not found")
            sure = np.where(absent[:, None], 0.0, sure)
    return points, sure


def joints_of(
    path: Path,
    points: dict[str, NDArray[np.float64]],
    sure: dict[str, NDArray[np.float64]],
    options: Options,
    clips: list[slice],
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Joints [F, 50, 3], confidences and dims of landmarks in pixels, or as fractions of the image."""
    image = {part: array for part, array in points.items() if part != _WORLD}
    scale = options.depth_scale
    with np.errstate(invalid="ignore"):
        largest = max(
            float(
                np.max(
                    np.abs(array[..., :2]), initial=0.0, where=(sure[part] > 0)[..., None] & np.isfinite(array[..., :2])
                )
            )
            for part, array in image.items()
        )
    if 0 < largest <= NORMALISED and options.image_size is not None:
        options.note("coordinates are fractions of the image: scaled to its size")
        width, height = options.image_size
        image = {part: array * (width, height, width) for part, array in image.items()}
        scale = 1.0 if scale is None else scale
    if options.world:
        image_xyz, seen = gather(HOLISTIC, image, {part: sure[part] for part in image})
        image_xyz = image_xyz * np.array([1.0, 1.0, 1.0 if scale is None else scale], np.float32)
        body = gather(HOLISTIC_WORLD, {_WORLD: points[_WORLD]}, {_WORLD: sure[_WORLD]})
        poses = []
        for rows in clips:
            assembler = Assembler(world=True)
            of_clip = zip(body[0][rows], body[1][rows], image_xyz[rows], seen[rows], strict=True)
            poses += [assembler.place(*row) for row in of_clip]
        return np.stack([pose[0] for pose in poses]), np.stack([pose[1] for pose in poses]), 3
    if scale is None:
        xyz, confidence = gather(
            HOLISTIC, {part: array[..., :2] for part, array in image.items()}, {p: sure[p] for p in image}
        )
        return np.concatenate([xyz, np.zeros_like(xyz[..., :1])], axis=-1), confidence, 2
    return *with_depth(*gather(HOLISTIC, image, {part: sure[part] for part in image}), scale), 3


_Clip = tuple[slice, str, float, tuple[int, int] | None]


def _clips(path: Path, columns: Mapping[str, NDArray[Any]], frames: int, options: Options) -> list[_Clip]:
    """Frames, name, fps and image size of each clip."""
    length = columns.get("length", np.array([frames]))
    lengths = length.tolist() if length.ndim == 1 and length.dtype.kind in "iu" else [0]
    if min(lengths, default=0) < 1 or sum(lengths) != frames:
        raise FormatError(f"{path}: length does not part the {frames} frames into clips")
    clips = len(lengths)
    names = columns.get("clip", np.array([f"{path.stem}-{k}" if clips > 1 else path.stem for k in range(1, clips + 1)]))
    if names.shape != (clips,) or names.dtype.kind != "U":
        raise FormatError(f"{path}: clip is {names.dtype} {list(names.shape)}, {clips} names expected")
    if "fps" not in columns:
        options.need(path, "fps", "the file does not say how many frames a second")
    fps = _of_each_clip(path, "fps", columns.get("fps", np.array(options.fps)), clips, ())
    stated: list[tuple[int, int] | None] = [options.image_size] * clips
    key = "width_height" if "width_height" in columns else "image_size"
    if key in columns:
        sizes = _of_each_clip(path, key, columns[key], clips, (2,))
        if not (np.isfinite(sizes) & (sizes > 0) & (sizes < 1e6)).all():
            raise FormatError(f"{path}: image size {sizes[0][0]:g} x {sizes[0][1]:g}: pixels expected")
        stated = [options.image_size or (int(width), int(height)) for width, height in sizes.tolist()]
    ends = np.cumsum(lengths).tolist()
    return [
        (slice(end - count, end), str(name), float(rate), size)
        for end, count, name, rate, size in zip(ends, lengths, names, fps, stated, strict=True)
    ]


def _of_each_clip(path: Path, key: str, values: NDArray[Any], clips: int, shape: tuple[int, ...]) -> NDArray[Any]:
    if values.dtype.kind not in "fiu" or values.shape not in (shape, (clips, *shape)):
        raise FormatError(f"{path}: {key} is {values.dtype} {list(values.shape)}, numbers {[clips, *shape]} expected")
    return np.broadcast_to(values, (clips, *shape))


FORMAT = Format(
    "holistic",
    (".npz",),
    read_holistic,
    arrays=lambda names: bool(names & {"pose", "pose_landmarks"}) and not names & {"xyz", "keypoints"},
    takes=DEPTH,
)
RESULTS = Format(
    "mediapipe",
    (".json",),
    read_mediapipe,
    mark=BOM + rb'\s*[\[{].*"(?:(?:pose|left_?[hH]and|right_?[hH]and)(?:_w|W|_l|L)[a-z_A-Z]*andmarks'
    rb'|(?:worldL|world_l|l)andmarks?|visibility)"\s*:',
    takes=DEPTH,
    folders=True,
)
