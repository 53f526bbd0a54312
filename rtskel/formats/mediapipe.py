"""MediaPipe: its landmarks as the 50 joints, and recordings of its result objects.

MediaPipe gives pose and hand landmarks in the image, each with a depth (the body's relative to the hips, a hand's
relative to its wrist, in about the unit of x), and "world" landmarks of the body alone, in metres. Here a hand's depth
starts at the body's wrist. In world coordinates, hands are the image's hands: scaled by the metres per pixel at the
shoulders (median of the last 25 frames that show both) and attached to the body's wrist. What has no hands (Pose,
PoseLandmarker) leaves them missing. Where no landmark has a visibility (None or 0, as on the web and Android), all
landmarks count as seen, with confidence 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.jointmap import mediapipe_map
from rtskel.formats.mappings import HOLISTIC, HOLISTIC_WORLD, Layout, gather
from rtskel.formats.parsing import (
    Options,
    numbers,
    shown,
)
from rtskel.formats.recording import Recording
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, UPPER_BODY_50

AXES = "RDA"

SCALE_FRAMES = 25
"""Frames over which the metres per pixel are averaged."""

POSE, LEFT, RIGHT = HOLISTIC.components
(WORLD,) = HOLISTIC_WORLD.components
_HANDS = tuple(
    (UPPER_BODY_50.names.index(f"{side}_wrist"), list(UPPER_BODY_50.groups[f"{side}_hand"]))
    for side in ("left", "right")
)
POINTS = {**HOLISTIC.components, **HOLISTIC_WORLD.components}
NAMES = {  # as the Tasks and `solutions` call them, and as toolkits do
    POSE: ("pose_landmarks", "poseLandmarks", "landmarks", "pose"),
    LEFT: ("left_hand_landmarks", "leftHandLandmarks", "left_hand", "leftHand"),
    RIGHT: ("right_hand_landmarks", "rightHandLandmarks", "right_hand", "rightHand"),
    WORLD: ("pose_world_landmarks", "poseWorldLandmarks", "worldLandmarks", "world_landmarks"),
}
BEYOND, MOST_VISIBLE = "visibilities are not within 0..1: below 0 counts as not found, above 1 as 1", 1.5
NO_VISIBILITY = "landmarks have no visibility: all are used, with confidence 1"


class Assembler:
    """Turns Holistic's landmarks into the 50 joints, image after image; keeps the metres per pixel between images."""

    def __init__(self, *, world: bool = False, corrected: bool = False) -> None:
        """
        Args:
            world: in metres from the hip centre, from world landmarks; else in pixels of the image.
            corrected: of world landmarks, where the body has its joints, not where MediaPipe puts them
                (`rtskel.formats.jointmap`).
        """
        self.unit = "m" if world else "px"
        self._map = mediapipe_map() if world and corrected else None
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
        if self._map is not None:
            xyz = self._map.apply(xyz[None], confidence[None] == 0)[0]
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
    corrected: bool = False,
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
        corrected: of `world`, joints where bodies have them, not where MediaPipe puts them, as in `rtskel.read`.

    Returns:
        A recording whose confidences are the visibility of body landmarks, or 1 where there is none, and 1 for the
        landmarks of a found hand. Its `notes` say what was doubtful.

    Raises:
        FormatError: no results, images of several sizes, or another number of landmarks.
    """
    if corrected and not world:
        raise FormatError(f"{name}: corrected moves joints of world landmarks: state world, too")
    sizes = np.unique(np.reshape(image_size, (-1, 2)), axis=0).tolist()
    if len(sizes) != 1:
        what = f"images of several sizes: {sizes[0]} and {sizes[1]}" if sizes else "no image size"
        raise FormatError(f"{name}: {what}")
    size = (int(sizes[0][0]), int(sizes[0][1]))
    assembler = Assembler(world=world, corrected=corrected)
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


Found = tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]


def landmarks(result: Any, image_size: tuple[int, int], options: Options | None = None) -> Found:
    """Points [P, 3] and confidences [P] of each component of a result, as `Assembler.joints` takes them.

    Args:
        options: takes notes of what is doubtful.
    """
    people = people_in(result, options or Options())
    if len(people) > 1 and options is not None:
        options.note("frames show several people: the first is read")
    return in_pixels(people[0], image_size) if people else ({}, {})


def in_pixels(person: Found, image_size: tuple[int, int]) -> Found:
    """Landmarks in pixels: image coordinates, which MediaPipe gives as shares of the size, are scaled."""
    width, height = image_size
    points = {part: array * (1.0 if part == WORLD else (width, height, width)) for part, array in person[0].items()}
    return points, person[1]


def people_in(result: Any, options: Options) -> list[Found]:
    """The people in a result: points [P, 3] as they are, and confidences [P]. Hands belong to the first."""
    people: list[Found] = []
    for part, names in NAMES.items():
        for at, found in enumerate(_lists(field_of(result, names))):
            if part == POSE and len(found) == len(POINTS[LEFT]):
                raise FormatError(f"{names[0]}: {len(found)} landmarks, those of a hand alone: a body is needed")
            if isinstance(found[0], (int, float)):  # x, y, z, visibility of one landmark after another
                width = next((width for width in (2, 3, 4) if len(found) == width * len(POINTS[part])), len(found))
                found = [found[first : first + width] for first in range(0, len(found), width)]
            if len(found) != len(POINTS[part]):
                raise FormatError(f"{names[0]}: {len(found)} landmarks, {len(POINTS[part])} expected")
            while at >= len(people):
                people.append(({}, {}))
            points, sure = _numbers_of(names[0], found)
            if "HAND" in part:  # hands have no visibility
                if at == 0 and not points.any():
                    options.note("hands with every landmark at exactly 0 are taken as not found")
                    continue
                sure = np.ones(len(points))
            elif (sure < 0).any() or (sure > MOST_VISIBLE).any():
                options.note(BEYOND)
            elif not (sure > 0).any():
                options.note(NO_VISIBILITY)
                sure = np.ones(len(points))
            people[at][0][part], people[at][1][part] = points, sure
    return people


def field_of(result: Any, names: Iterable[str]) -> Any:
    """The first of these fields that a result has, as a mapping or an object; None if it has none."""
    for name in names:
        value = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
        if value is not None:
            return value
    return None


def _lists(found: Any) -> list[Any]:
    """The landmarks of each person: of a list, an object that has them, or a list of either."""
    inner = field_of(found, ("landmark", "landmarks"))
    found = found if inner is None else inner
    if found is None or not hasattr(found, "__len__") or len(found) == 0 or isinstance(found, (str, Mapping)):
        return []
    first = found[0]
    several = isinstance(first, (list, tuple)) and not 1 <= len(first) <= 5  # a landmark has 2 to 5 numbers
    nested = several or (isinstance(first, (list, tuple)) and not isinstance(first[0], (int, float)))
    if nested or field_of(first, ("landmark", "landmarks")) is not None:
        return [person for group in found for person in _lists(group)]
    return [found]


def _unwrapped(value: Any) -> Any:
    """A number that may be missing: itself, or what Java's Optional becomes in JSON, an object with or without one."""
    return value.get("value") if isinstance(value, Mapping) else value


def _numbers_of(place: str, found: Iterable[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [P, 3] and visibilities [P] of landmarks; 1 where one has none, all 0 where none has."""
    rows = []
    for mark in found:
        if isinstance(mark, (list, tuple)):
            row = (*mark, *[0.0] * (3 - len(mark)), None)[:4]
        elif isinstance(mark, Mapping):
            seen, presence = (_unwrapped(mark.get(name)) for name in ("visibility", "presence"))
            row = (mark.get("x"), mark.get("y"), mark.get("z", 0.0), seen if seen or presence is None else presence)
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
