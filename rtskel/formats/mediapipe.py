"""MediaPipe Holistic: its result objects, and its landmarks as arrays.

MediaPipe gives pose landmarks and hand landmarks in the image, with a depth of each (of the body relative to the hips,
of a hand relative to its wrist, in about the unit of x), and "world" landmarks in metres of the body alone. Here a
hand's depth begins at its body's wrist. In world landmarks, hands are those of the image, in metres by the size of the
body there and here (root mean square over the body's joints, along x and y), and begin at the body's wrist.

An `.npz` of landmarks has `pose` [F, 33, 4], `left_hand` and `right_hand` [F, 21, 4]: x and y in pixels, z, and a
confidence; missing is NaN or confidence 0. It may have, of several clips one after another, `length` [C] in frames,
`clip` [C] names, `fps` [C] or one for all, and `width_height` [C, 2] or [2]. What the unit of z is, such a file does
not say (often it is not the pixel: toolkits keep MediaPipe's own z, in image widths): `depth_scale` states how many
pixels it is, and without it z is left out and recordings are 2D.

Every frame is a row, whether or not anybody was found in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.files import Options, named
from rtskel.formats.recording import Recording
from rtskel.mappings import BODY, HOLISTIC, HOLISTIC_WORLD, gather
from rtskel.skeleton import UPPER_BODY_50

AXES = "RDA"

_POSE, _LEFT, _RIGHT = HOLISTIC.components
_HANDS = tuple(
    (UPPER_BODY_50.names.index(f"{side}_wrist"), list(UPPER_BODY_50.groups[f"{side}_hand"]))
    for side in ("left", "right")
)


def holistic_pose(
    result: Any, image_size: tuple[int, int], *, world: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The joints of one result of MediaPipe Holistic, from `solutions.holistic` or the `HolisticLandmarker` task.

    Args:
        result: an object with `pose_landmarks`, `left_hand_landmarks`, `right_hand_landmarks` and, for `world`,
            `pose_world_landmarks`; each None, empty, landmarks, or an object whose `landmark` are those.
        image_size: (width, height) of its image in pixels.
        world: in metres from the hips instead of in pixels.

    Returns:
        [50, 3] positions along axes "RDA", 0 where missing, and [50] confidences (a body landmark's visibility; 1 for
        the landmarks of a hand that was found).
    """
    width, height = image_size
    pixels = np.array([width, height, width], np.float64)
    points, sure = {}, {}
    for part, names in HOLISTIC.components.items():
        points[part], sure[part] = _landmarks(result, part.lower(), len(names))
        points[part] = points[part] * pixels
    xyz, confidence = gather(HOLISTIC, points, sure)
    if not world:
        return with_depth(xyz, confidence, 1.0)
    (part,) = HOLISTIC_WORLD.components
    meters, visible = _landmarks(result, part.lower(), len(HOLISTIC_WORLD.components[part]))
    body = gather(HOLISTIC_WORLD, {part: meters}, {part: visible})
    return with_world(*body, xyz, confidence, 1.0)


def from_holistic(
    results: Iterable[Any],
    *,
    fps: float,
    image_size: tuple[int, int] | Sequence[tuple[int, int]],
    name: str = "mediapipe",
    world: bool = False,
) -> Recording:
    """A recording of MediaPipe Holistic's results frame by frame; see `holistic_pose`.

    Raises:
        FormatError: no results, or images of several sizes.
    """
    sizes = np.unique(np.reshape(image_size, (-1, 2)), axis=0).tolist()
    if len(sizes) != 1:
        raise FormatError(
            f"{name}: images of several sizes: {sizes[0]} and {sizes[1]}" if sizes else f"{name}: no image size"
        )
    size = (int(sizes[0][0]), int(sizes[0][1]))
    poses = [holistic_pose(result, size, world=world) for result in results]
    if not poses:
        raise FormatError(f"{name}: no results")
    return Recording(
        np.stack([xyz for xyz, _ in poses]),
        fps,
        name,
        confidence=np.stack([sure for _, sure in poses]),
        axes=AXES,
        unit="m" if world else "px",
        image_size=size,
    )


def _landmarks(result: Any, attribute: str, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found = getattr(result, attribute, None)
    found = getattr(found, "landmark", found)
    if found is None or len(found) == 0:
        return np.zeros((count, 3)), np.zeros(count)
    if len(found) == 1 and isinstance(found[0], Sequence):  # a task that lists people
        found = found[0]
    if len(found) < count:
        raise FormatError(f"{attribute}: {len(found)} landmarks, {count} expected")
    xyz = np.array([[mark.x, mark.y, mark.z] for mark in found[:count]], np.float64)
    if "hand" in attribute:  # hand landmarks have no visibility of their own
        return xyz, np.ones(count)
    return xyz, np.array([mark.visibility for mark in found[:count]], np.float64)


def with_depth(
    xyz: NDArray[np.float32], confidence: NDArray[np.float32], scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints [..., 50, 3] with depth in pixels, hands from their wrist on; a hand without a wrist is missing."""
    xyz, confidence = xyz.astype(np.float64), confidence.copy()
    xyz[..., 2] *= scale
    for wrist, hand in _HANDS:
        lost = (confidence[..., wrist] == 0) | (confidence[..., hand[0]] == 0)
        xyz[..., hand, 2] += (xyz[..., wrist, 2] - xyz[..., hand[0], 2])[..., None]
        confidence[..., hand] = np.where(lost[..., None], 0.0, confidence[..., hand])
    xyz[confidence == 0] = 0
    return xyz.astype(np.float32), confidence


def with_world(
    world: NDArray[np.float32],
    world_confidence: NDArray[np.float32],
    image: NDArray[np.float32],
    image_confidence: NDArray[np.float32],
    scale: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """World joints [..., 50, 3] in metres, with hands from the joints in the image (z in `scale` pixels)."""
    body = slice(0, len(BODY))
    both = ((world_confidence[..., body] > 0) & (image_confidence[..., body] > 0))[..., None]
    meters, pixels = (_spread(joints[..., body, :2].astype(np.float64), both) for joints in (world, image))
    with np.errstate(divide="ignore", invalid="ignore"):
        meters_per_pixel = np.where(pixels > 0, meters / pixels, np.nan)
    xyz, confidence = world.astype(np.float64), world_confidence.copy()
    for wrist, hand in _HANDS:
        there = (confidence[..., wrist] > 0) & (image_confidence[..., hand[0]] > 0) & np.isfinite(meters_per_pixel)
        offset = (image[..., hand, :] - image[..., hand[:1], :]) * np.array([1.0, 1.0, scale])
        at = xyz[..., wrist, :][..., None, :] + offset * meters_per_pixel[..., None, None]
        xyz[..., hand, :] = np.where(there[..., None, None], at, 0.0)
        confidence[..., hand] = np.where(there[..., None], image_confidence[..., hand], 0.0)
    xyz[confidence == 0] = 0
    return xyz.astype(np.float32), confidence


def _spread(points: NDArray[np.float64], both: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Root mean square distance [...] of the points [..., P, 2] that count from their mean."""
    count = np.maximum(both.sum(axis=-2), 1)
    mean = np.where(both, points, 0).sum(axis=-2) / count
    squares = (np.where(both, points - mean[..., None, :], 0) ** 2).sum(axis=(-1, -2))
    spread: NDArray[np.float64] = np.sqrt(squares / count[..., 0])
    return spread


def read_holistic_arrays(path: Path, columns: Mapping[str, NDArray[Any]], options: Options) -> list[Recording]:
    """Recordings of the arrays of an `.npz` file, one for each clip."""
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
