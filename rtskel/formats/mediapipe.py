"""MediaPipe Holistic: its result objects, and its landmarks as arrays.

MediaPipe gives pose and hand landmarks in the image, each with a depth (the body's relative to the hips, a hand's
relative to its wrist, in about the unit of x), and "world" landmarks of the body alone, in metres. Here a hand's depth
starts at the body's wrist. In world coordinates, hands are the image's hands: scaled by the metres per pixel at the
shoulders (median of the last 25 frames that show both) and attached to the body's wrist.

An `.npz` of landmarks has `pose` [F, 33, 4], `left_hand` and `right_hand` [F, 21, 4]: x and y in pixels, z, and a
confidence; missing is NaN or confidence 0. For several clips one after another it has `length` [C] in frames, and
may have `clip` [C] names, `fps` [C] or one value, and `width_height` [C, 2] or [2]. The file does not state the unit
of z (toolkits often keep MediaPipe's image widths): `depth_scale` gives its pixels; without it recordings are 2D.

Every frame is a row, whether or not anybody was found in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.mappings import HOLISTIC, HOLISTIC_WORLD, Layout, gather
from rtskel.formats.parsing import DEPTH, Format, Options, load_npz, named
from rtskel.formats.recording import Recording
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, UPPER_BODY_50

AXES = "RDA"

SCALE_FRAMES = 25
"""Frames over which the metres per pixel are averaged."""

_POSE, _LEFT, _RIGHT = HOLISTIC.components
_HANDS = tuple(
    (UPPER_BODY_50.names.index(f"{side}_wrist"), list(UPPER_BODY_50.groups[f"{side}_hand"]))
    for side in ("left", "right")
)


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
    """A recording of MediaPipe Holistic's results, frame by frame.

    Args:
        results: objects with `pose_landmarks`, `left_hand_landmarks`, `right_hand_landmarks` and, for `world`,
            `pose_world_landmarks`, from `solutions.holistic` or the `HolisticLandmarker` task; each None, empty,
            landmarks, or an object whose `landmark` are those.
        fps: frames a second.
        image_size: (width, height) in pixels of the images, or of each image.
        name: of the recording.
        world: in metres from the hip centre instead of in pixels.

    Returns:
        A recording whose confidences are the visibility of body landmarks, and 1 for the landmarks of a found hand.

    Raises:
        FormatError: no results, images of several sizes, or another number of landmarks.
    """
    sizes = np.unique(np.reshape(image_size, (-1, 2)), axis=0).tolist()
    if len(sizes) != 1:
        what = f"images of several sizes: {sizes[0]} and {sizes[1]}" if sizes else "no image size"
        raise FormatError(f"{name}: {what}")
    size = (int(sizes[0][0]), int(sizes[0][1]))
    assembler = Assembler(world=world)
    poses = [assembler.joints(*landmarks(result, size)) for result in results]
    if not poses:
        raise FormatError(f"{name}: no results")
    return Recording(
        np.stack([xyz for xyz, _ in poses]),
        fps,
        name,
        confidence=np.stack([sure for _, sure in poses]),
        axes=AXES,
        unit=assembler.unit,
        image_size=size,
    )


def landmarks(
    result: Any, image_size: tuple[int, int]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Points [P, 3] and confidences [P] of each component of a result, as `Assembler.joints` takes them."""
    width, height = image_size
    points, sure = {}, {}
    for part, names in {**HOLISTIC.components, **HOLISTIC_WORLD.components}.items():
        found = getattr(result, part.lower(), None)
        found = getattr(found, "landmark", found)
        if found is None or len(found) == 0:
            continue
        if len(found) != len(names):
            raise FormatError(f"{part.lower()}: {len(found)} landmarks, {len(names)} expected")
        rows = np.array([(mark.x, mark.y, mark.z, mark.visibility or 0.0) for mark in found], np.float64)
        points[part] = rows[:, :3] * (1.0 if part in HOLISTIC_WORLD.components else (width, height, width))
        sure[part] = np.ones(len(rows)) if "HAND" in part else rows[:, 3]  # hands have no visibility
    return points, sure


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


def read_holistic(path: Path, options: Options) -> list[Recording]:
    """Recordings of the arrays of an `.npz` file, one per clip."""
    columns = load_npz(path)
    absent = {"pose", "left_hand", "right_hand"} - columns.keys()
    if absent:
        raise FormatError(f"{path}: no array {min(absent)!r} (found: {', '.join(sorted(columns)) or 'nothing'})")
    points, sure = {}, {}
    frames = len(columns["pose"]) if columns["pose"].ndim else 0
    for key, part in (("pose", _POSE), ("left_hand", _LEFT), ("right_hand", _RIGHT)):
        array = columns[key]
        shape = (frames, len(HOLISTIC.components[part]), 4)
        if array.dtype.kind not in "fiu" or array.shape != shape or not frames:
            raise FormatError(f"{path}: {key} is {array.dtype} {list(array.shape)}, numbers {list(shape)} expected")
        points[part], sure[part] = array[..., :3], array[..., 3]
    if options.world:
        raise FormatError(f"{path}: has no world landmarks")
    if options.depth_scale is None:
        points = {part: array[..., :2] for part, array in points.items()}
    xyz, confidence = gather(HOLISTIC, points, sure)
    if options.depth_scale is None:
        xyz = np.concatenate([xyz, np.zeros_like(xyz[..., :1])], axis=-1)
    else:
        xyz, confidence = with_depth(xyz, confidence, options.depth_scale)

    length = columns.get("length", np.array([frames]))
    if length.ndim != 1 or length.dtype.kind not in "iu" or (length < 1).any() or int(length.sum()) != frames:
        raise FormatError(f"{path}: length does not part the {frames} frames into clips")
    clips = len(length)
    several = clips > 1
    names = columns.get("clip", np.array([f"{path.stem}-{k}" if several else path.stem for k in range(1, clips + 1)]))
    if names.shape != (clips,) or names.dtype.kind != "U":
        raise FormatError(f"{path}: clip is {names.dtype} {list(names.shape)}, {clips} names expected")
    if "fps" not in columns:
        options.need(path, "fps", "the file does not say how many frames a second")
    fps = _of_each_clip(path, "fps", columns.get("fps", np.array(options.fps)), clips, ())
    sizes = None
    if "width_height" in columns:
        sizes = _of_each_clip(path, "width_height", columns["width_height"], clips, (2,))
    recordings = []
    for k, end in enumerate(np.cumsum(length).tolist()):
        rows = slice(end - int(length[k]), end)
        recordings.append(
            named(
                path,
                Recording,
                xyz[rows],
                float(fps[k]),
                str(names[k]),
                confidence=confidence[rows],
                axes=AXES,
                unit="px",
                dims=2 if options.depth_scale is None else 3,
                image_size=None if sizes is None else tuple(sizes[k].tolist()),
            )
        )
    return recordings


def _of_each_clip(path: Path, key: str, values: NDArray[Any], clips: int, shape: tuple[int, ...]) -> NDArray[Any]:
    if values.dtype.kind not in "fiu" or values.shape not in (shape, (clips, *shape)):
        raise FormatError(f"{path}: {key} is {values.dtype} {list(values.shape)}, numbers {[clips, *shape]} expected")
    return np.broadcast_to(values, (clips, *shape))


FORMAT = Format(
    "holistic",
    (".npz",),
    read_holistic,
    arrays=lambda names: {"pose", "left_hand", "right_hand"} <= names and "xyz" not in names,
    takes=DEPTH,
)
