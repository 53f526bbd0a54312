"""JSON of MediaPipe's results, of the Tasks and of `solutions`, in Python's or JavaScript's spelling.

Read are a list of results, an object that holds one (`frames`, `results`, ...) or results by frame number, one result,
results one per line, or a folder with one per file; each of one person or several. A result may state its frame number
and time, and the object that holds them frame rate and image size. Coordinates are fractions of the image, whose size
must be stated if the file does not; z is in image widths. `world` reads world landmarks, in metres.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.doubts import NORMALISED
from rtskel.formats.frames import check_span, clips_of, values_of
from rtskel.formats.mediapipe import (
    AXES,
    LEFT,
    NAMES,
    POINTS,
    POSE,
    RIGHT,
    WORLD,
    Assembler,
    Found,
    field_of,
    in_pixels,
    people_in,
)
from rtskel.formats.parsing import (
    BOM,
    DEPTH,
    NUMBER_KEYS,
    Format,
    Options,
    listed,
    named,
    numbers,
    rate,
    read_json,
    shown,
)
from rtskel.formats.people import recordings_of_people
from rtskel.formats.recording import Recording
from rtskel.rates import MOST_FPS, in_ns, reconcile

_FRAMES = ("frames", "results", "data", "detections", "landmarks_per_frame", "frameResults")
_TIME_MS = ("timestamp_ms", "timestampMs", "timestampMillis", "time_ms", "timestamp_in_ms")
_TIME = ("timestamp", "time", "time_s", "t")


def read_mediapipe(path: Path, options: Options) -> list[Recording]:
    """Read MediaPipe's results as JSON: one file, or a folder of them."""
    if path.is_dir():
        recordings = []
        for name, files in clips_of(path, options).items():
            found = list(values_of(files, options))
            results = [_numbered(number, value) for number, _, value in found]
            first = next((value for _, _, value in found if isinstance(value, dict)), {})
            recordings += _of_results(path, name, first, results, options)
        return recordings
    value = read_json(path, options)
    header = value if isinstance(value, dict) else {}
    held = next((value[key] for key in _FRAMES if isinstance(value.get(key), (list, dict))), None) if header else value
    if held is None and header and all(key.isascii() and key.isdigit() and len(key) < 18 for key in header):
        held = header  # results by frame number
    if isinstance(held, dict):
        held = [_numbered(int(key), result) for key, result in held.items() if key.isdigit()]
    if held is None or (isinstance(held, list) and len(held) == len(POINTS[POSE]) and _is_mark(held[0])):
        held = [value]
    if not isinstance(held, list):
        raise FormatError(f"{path}: not MediaPipe's JSON: a list of results expected")
    return _of_results(path, path.stem, header, held, options)


def _numbered(number: int, result: Any) -> dict[str, Any]:
    """The result of the frame with this number, whatever number it states itself."""
    keys = result if isinstance(result, dict) else {"result": result}
    return {key: value for key, value in keys.items() if key not in NUMBER_KEYS} | {"frame": number}


def _is_mark(value: Any) -> bool:
    return isinstance(value, Mapping) and "x" in value and "y" in value


def _of_results(
    path: Path, name: str, header: Mapping[str, Any], results: list[Any], options: Options
) -> list[Recording]:
    """Recordings of the results of frames, each of which may state its number and time."""
    frames: list[list[Found]] = []
    for at, result in enumerate(results):
        try:
            frames.append(people_in(_inner(result), options))
        except FormatError as error:
            raise FormatError(f"{path}, frame {at}: {error}") from None
    unused = {key for result in results for key in _keys(result) if _plain(key) not in _KNOWN}
    if unused:
        options.note(f"unused keys: {listed(unused)}")
    if not any(frames):
        raise FormatError(f"{path}: nobody is found in any frame, or these are not MediaPipe's results")
    slot = _frame_numbers(path, results)
    stated = _rate(header)
    possible = stated is not None and 0 < stated <= MOST_FPS
    clock = reconcile(options.fps or (stated if possible else None), slot, _times(path, results, options))
    if stated is not None and not possible and clock.fps and options.fps is None:
        options.note(f"{stated:g} frames per second are stated, which cannot be: the times hold")
    if clock.note:
        options.note(clock.note)
    fps = clock.fps or options.need(path, "fps", "the file states neither times nor how many frames a second")
    slot = np.arange(len(frames), dtype=np.int64) if clock.slot is None else clock.slot
    size = options.image_size or _size(header)
    image = [array for people in frames for points, _ in people for part, array in points.items() if part != WORLD]
    if image and max(np.nanmax(np.abs(array[:, :2]), initial=0.0) for array in image) > NORMALISED:
        frames = [[_as_fractions(person, size) for person in people] for people in frames]
    elif image and size is None and not options.world:
        world = any(WORLD in points for people in frames for points, _ in people)
        what = "landmarks are fractions of the image, whose size is unknown" + (
            " (--world reads metres)" if world else ""
        )
        options.need(path, "image_size", what)
    if not image and not options.world:
        raise FormatError(f"{path}: has world landmarks alone: --world reads them (in Python world=True)")
    if options.world and not any(WORLD in points for people in frames for points, _ in people):
        raise FormatError(f"{path}: has no world landmarks")
    if size is None and options.world and image and any(LEFT in p[0] or RIGHT in p[0] for f in frames for p in f):
        options.note("hands are left out: their size needs the image's (--image-size)")
        frames = [[_without_hands(person) for person in people] for people in frames]
    return _assembled(path, name, frames, slot, clock.time_ns, fps, size, options)


def _assembled(
    path: Path,
    name: str,
    frames: list[list[Found]],
    slot: NDArray[np.int64],
    time_ns: NDArray[np.int64] | None,
    fps: float,
    size: tuple[int, int] | None,
    options: Options,
) -> list[Recording]:
    fields: dict[str, Any] = {"fps": fps, "axes": AXES, "unit": "m" if options.world else "px", "image_size": size}
    if max(map(len, frames)) <= 1:
        assembler = Assembler(world=options.world, corrected=options.corrected)
        poses = [assembler.joints(*(in_pixels(people[0], size or (1, 1)) if people else ({}, {}))) for people in frames]
        xyz, sure = np.stack([pose[0] for pose in poses]), np.stack([pose[1] for pose in poses])
        return [named(path, Recording, xyz, name=name, confidence=sure, slot=slot, time_ns=time_ns, **fields)]
    people = [(number, person) for number, found in zip(slot.tolist(), frames, strict=True) for person in found]
    if not all(POSE in person[0] for _, person in people):
        raise FormatError(f"{path}: has several people, of whom world landmarks alone do not tell who is who")
    frame = np.array([number for number, _ in people], np.int64)
    image, seen = _joints([person for _, person in people], size, Options())
    place, xyz, sure = (image[..., :2], seen), image, seen
    if options.world:  # in which everybody is at the origin
        xyz, sure = _joints([person for _, person in people], size, options)
    recordings = recordings_of_people(path, name, frame, xyz, sure, place=place, note=options.note, **fields)
    if time_ns is None:
        return recordings
    times = dict(zip(slot.tolist(), time_ns.tolist(), strict=True))
    return [with_times(recording, times) for recording in recordings]


def _joints(
    people: list[Found], size: tuple[int, int] | None, options: Options
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints [K, 50, 3] and confidences [K, 50] of people who are not known from one frame to the next."""
    assemblers = (Assembler(world=options.world, corrected=options.corrected) for _ in people)
    poses = [one.joints(*in_pixels(person, size or (1, 1))) for one, person in zip(assemblers, people, strict=True)]
    return np.stack([pose[0] for pose in poses]), np.stack([pose[1] for pose in poses])


def with_times(recording: Recording, times: Mapping[int, int]) -> Recording:
    """The recording with the time of each of its slots."""
    return replace(recording, time_ns=np.array([times[slot] for slot in recording.slots.tolist()], np.int64))


def _as_fractions(person: Found, size: tuple[int, int] | None) -> Found:
    """Landmarks that a program has brought to pixels already, as fractions of the image again."""
    width, height = size or (1, 1)
    scaled = {part: array / (1.0 if part == WORLD else (width, height, width)) for part, array in person[0].items()}
    return scaled, person[1]


def _without_hands(person: Found) -> Found:
    kept = [part for part in person[0] if "HAND" not in part]
    return {part: person[0][part] for part in kept}, {part: person[1][part] for part in kept}


def _keys(result: Any) -> set[str]:
    """The keys of a result, and of what it is wrapped in."""
    inner = _inner(result)
    return {str(key) for each in (result, inner) if isinstance(each, Mapping) for key in each}


def _plain(key: str) -> str:
    return key.replace("_", "").lower()


_KNOWN = {_plain(name) for names in (*NAMES.values(), NUMBER_KEYS, _TIME_MS, _TIME) for name in names}
_KNOWN |= {"timestampus", "result", "results", "face", "facelandmarks", "faceblendshapes", "handedness", "handednesses"}
_KNOWN |= {"segmentationmask", "segmentationmasks", "lefthandworldlandmarks", "righthandworldlandmarks", "image", "fps"}
_KNOWN |= {"width", "height", "imagewidth", "imageheight", "close"}


def _inner(result: Any) -> Any:
    """A result without what programs wrap around it; bare landmarks are a body's."""
    for _ in range(4):
        if isinstance(result, Mapping):
            inner = field_of(result, ("result", "results", "landmarks"))
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
    found = [field_of(result, keys) if isinstance(result, Mapping) else None for result in results]
    return found if all(isinstance(value, kinds) and not isinstance(value, bool) for value in found) else []


def _frame_numbers(path: Path, results: list[Any]) -> NDArray[np.int64] | None:
    found: list[int] = _stated(results, NUMBER_KEYS, (int,))
    texts = _stated(results, NUMBER_KEYS, (str,))
    if texts and all(re.fullmatch("[0-9]{1,18}", one, re.ASCII) for one in texts):
        found = [int(one) for one in texts]
    if not found:
        return None
    first = min(found)
    check_span(path, first, max(found), len(found))
    back = next((number for before, number in itertools.pairwise(found) if number <= before), None)
    if back is not None:
        raise FormatError(f"{path}: frame numbers do not ascend (at {back})")
    return np.array([number - first for number in found], np.int64)


def _times(path: Path, results: list[Any], options: Options) -> NDArray[np.int64] | None:
    """Times in ns; where the key does not tell the unit, the one in which frames are 2 to 1000 ms apart."""
    for keys, unit in ((_TIME_MS, 1e6), (("timestamp_us", "timestampUs"), 1e3), (_TIME, 0.0)):
        found = _stated(results, keys, (int, float))
        if found:
            return in_ns(numbers(f"{path}, {keys[0]}", found), unit)
        found = _stated(results, keys, (str,))
        if found and all(re.fullmatch(r"\s*\d+(\.\d*)?\s*", one, re.ASCII) for one in found):
            return in_ns(np.array([float(one) for one in found]), unit)
    texts = _stated(results, _TIME, (str,))
    dates = _dates(texts)
    if texts and dates is None:
        options.note(f"times such as {shown(texts[0])} are not understood: left out")
    return dates


def _dates(texts: list[str]) -> NDArray[np.int64] | None:
    """Dates, and times of a day or recording, as JavaScript and Python write them (ISO 8601), in ns."""
    try:
        if all(re.match(r"\d{1,2}:\d\d:\d\d", text, re.ASCII) for text in texts):
            texts = [f"1970-01-01T{'0' if text[1] == ':' else ''}{text}+00:00" for text in texts]
        days = [datetime.fromisoformat(text) for text in texts]
        steps = [(day - days[0]) // timedelta(microseconds=1) for day in days]
        first = round((days[0].timestamp() if days else 0.0) * 1e6)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return np.array([(first + step) * 1000 for step in steps], np.int64) if steps else None


def _rate(header: Mapping[str, Any]) -> float | None:
    return rate(field_of(header, ("fps", "frame_rate", "frameRate", "framerate")))


def _size(header: Mapping[str, Any]) -> tuple[int, int] | None:
    for holder in (
        header,
        *(header[key] for key in ("video", "meta", "metadata", "video_info") if isinstance(header.get(key), dict)),
    ):
        pair = field_of(holder, ("image_size", "width_height", "imageSize", "resolution"))
        width = field_of(holder, ("image_width", "imageWidth", "width"))
        height = field_of(holder, ("image_height", "imageHeight", "height"))
        pair = pair if isinstance(pair, list) else str(pair).split("x") if pair else [width, height]
        sides = [int(float(side)) for side in pair if re.fullmatch(r"\s*\d{1,6}(\.0*)?\s*", str(side), re.ASCII)]
        if len(pair) == len(sides) == 2 and min(sides) > 0:
            return sides[0], sides[1]
    return None


FORMAT = Format(
    "mediapipe",
    (".json",),
    read_mediapipe,
    mark=BOM
    + rb'\s*[\[{](?i:.*"(?:(?:pose|face|left_?hand|right_?hand)_?)?(?:(?:world_?)?landmarks?|visibility)"\s*:)',
    takes=DEPTH,
    folders=True,
)
