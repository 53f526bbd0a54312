"""MediaPipe's landmarks as arrays, as toolkits keep them.

An `.npz` of landmarks has `pose` [F, 33, D], and may have `left_hand` and `right_hand` [F, 21, D] (or MediaPipe's own
names, `pose_landmarks`, ...): x, y in pixels or fractions of the image, and with D of 3 z, of 4 a confidence; missing
is NaN or confidence 0. For several clips one after another it has `length` [C] in frames, and may have `clip` [C]
names, `fps` [C] or one value, and `width_height` [C, 2] or [2]. In pixels, the file does not state the unit of z
(toolkits often keep MediaPipe's image widths): `depth_scale` gives its pixels; without it recordings are 2D.

Every frame is a row, whether or not anybody was found in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.doubts import NORMALISED
from rtskel.formats.mappings import HOLISTIC, HOLISTIC_WORLD, gather
from rtskel.formats.mediapipe import (
    AXES,
    BEYOND,
    MOST_VISIBLE,
    NAMES,
    NO_VISIBILITY,
    POINTS,
    POSE,
    WORLD,
    Assembler,
    with_depth,
)
from rtskel.formats.parsing import (
    DEPTH,
    Format,
    Options,
    listed,
    load_npz,
    named,
    npz_names,
)
from rtskel.formats.recording import Recording

_KNOWN_ARRAYS = {name for names in NAMES.values() for name in names} | {
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
    found = {part: next((name for name in names if name in columns), None) for part, names in NAMES.items()}
    name_of = {part: name for part, name in found.items() if name is not None}
    if POSE not in name_of:
        raise FormatError(f"{path}: no array 'pose' (found: {listed(npz_names(path))})")
    pose = columns[name_of[POSE]]
    frames = len(pose) if pose.ndim else 0
    points, sure = {}, {}
    for part, name in name_of.items():
        array = columns[name]
        wanted = (
            frames,
            len(POINTS[part]),
            array.shape[-1] if array.ndim == 3 and array.shape[-1] in (2, 3, 4, 5) else 4,
        )
        if array.dtype.kind not in "fiu" or array.shape != wanted or not frames:
            raise FormatError(f"{path}: {name} is {array.dtype} {list(array.shape)}, numbers {list(wanted)} expected "
                              "(there is no array 'xyz' either)")  # fmt: skip
        points[part], sure[part] = split(part, array, options)
    if options.world and WORLD not in points:
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
            options.note(NO_VISIBILITY)
            sure = placed.astype(np.float64)
        elif "HAND" not in part and ((sure < 0).any() or (sure > MOST_VISIBLE).any()):
            options.note(BEYOND)
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
    image = {part: array for part, array in points.items() if part != WORLD}
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
        body = gather(HOLISTIC_WORLD, {WORLD: points[WORLD]}, {WORLD: sure[WORLD]})
        poses = []
        for rows in clips:
            assembler = Assembler(world=True, corrected=options.corrected)
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
    if "fps" not in columns and options.fps is None:
        options.need(path, "fps", "the file does not say how many frames a second")
    fps = columns["fps"] if options.fps is None else np.array(options.fps)
    fps = _of_each_clip(path, "fps", fps, clips, ())
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
