"""Arrays without names (`.npy`), and freemocap's files: `..._body_3d_xyz.csv` or `.npy`, beside files of both hands.

freemocap writes MediaPipe's points in mm, z up: a `.csv` with columns `left_shoulder_x`, ... (and `timestamp`), and a
`.npy` [F, P, 3], for the body (33 points), each hand (21) and all (body, right hand, left hand, face). A file of the
body is read with the hands that lie beside it, and written with them.

Any other `.npy` is [F, P, D], or [F, N, P, D] for N people: the number of points tells the layout, as in
`rtskel.formats.wholebody` and `.mediapipe_arrays`; 50 are rtskel's joints. Where several orders of body and hands have
the same number of points, the order is taken in which hands lie at their wrists. D is x, y, and z or a confidence.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats import mediapipe, mediapipe_arrays, wholebody
from rtskel.formats.mappings import BY_POINTS, HOLISTIC, by_names
from rtskel.formats.markers import in_unit, of_named_points, one_of
from rtskel.formats.parsing import (
    BOM,
    DEPTH,
    NO_VALUE,
    Format,
    Options,
    array_of,
    cells_of,
    check_width,
    content,
    named,
    replace_file,
)
from rtskel.formats.recording import Recording
from rtskel.rates import in_ns
from rtskel.skeleton import CANONICAL_AXES, UPPER_BODY_50

AXES, UNIT = "RAU", "mm"
_BODY, _LEFT, _RIGHT = HOLISTIC.components.values()
_NAMES = {
    "body": [name.lower() for name in _BODY],
    "right_hand": [f"right_hand_{name.lower()}" for name in _RIGHT],
    "left_hand": [f"left_hand_{name.lower()}" for name in _LEFT],
}
_ORDERS = {  # which parts an array of so many points may hold
    33: ("p",),
    75: ("plr", "prl"),
    543: ("flpr", "pflr", "plrf"),
    553: ("prlg", "plrg", "gplr"),
}
_COUNTS = {"p": 33, "l": 21, "r": 21, "f": 468, "g": 478}
_PARTS = {"p": "POSE_LANDMARKS", "l": "LEFT_HAND_LANDMARKS", "r": "RIGHT_HAND_LANDMARKS"}


def _beside(path: Path, part: str) -> Path:
    """The file of another part of the body beside that of the body."""
    before, _, after = path.name.rpartition("body")
    return path.with_name(before + part + after)


def _is_body(path: Path) -> bool:
    return path.stem.endswith("body_3d_xyz")


# .csv


def read_csv(path: Path, options: Options) -> list[Recording]:
    """Read FreeMoCap's body_3d_xyz.csv with the hands' files beside it."""
    names, points, time_ns = _columns(path, options)
    for part in ("right_hand", "left_hand"):
        other = _beside(path, part)
        if _is_body(path) and other.exists():
            of_hand, hand, _ = _columns(other, options)
            if len(hand) != len(points):
                raise FormatError(f"{other}: {len(hand)} frames, {len(points)} in {path.name}")
            names += [name if name.startswith(part) else f"{part}_{name}" for name in of_hand]
            points = np.concatenate([points, hand], axis=1)
    return [of_named_points(path, names, points, options, unit=UNIT, axes=AXES, fps=None, time_ns=time_ns)]


def _columns(path: Path, options: Options) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64] | None]:
    """The names of points, their positions [F, P, 3], and the time of each frame, if there is a `timestamp`."""
    header, rows, lines = cells_of(path, options)
    check_width(path, header, rows, lines)
    at = {name: column for column, name in enumerate(header)}
    names = [name[:-2] for name in at if name.endswith("_x") and f"{name[:-2]}_y" in at and f"{name[:-2]}_z" in at]
    columns = [at[f"{name}_{axis}"] for name in names for axis in "xyz"]
    columns += [at["timestamp"]] if "timestamp" in at else []
    values = np.full((len(rows), len(columns)), np.nan)
    for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
        cells = [row[column] for column in columns]
        try:
            values[number] = [np.nan if cell.strip().lower() in NO_VALUE else float(cell) for cell in cells]
        except ValueError as error:
            raise FormatError(f"{path}, line {line}: {str(error).rpartition(': ')[2]} is no number") from None
    points = values[:, : 3 * len(names)].reshape(len(values), len(names), 3)
    return names, points, in_ns(values[:, -1]) if "timestamp" in at else None


# .npy


def read_npy(path: Path, options: Options) -> list[Recording]:
    """Read FreeMoCap's arrays of 3D points."""
    array = array_of(f"{path}: the file", content(path))
    if (
        array.dtype.kind not in "fiu"
        or array.ndim not in (3, 4)
        or not array.size
        or array.shape[-1] not in (2, 3, 4, 5)
    ):
        raise FormatError(f"{path}: {array.dtype} {list(array.shape)}: numbers [frames, points, 2 to 5] expected, "
                          "or [frames, people, points, 2 or 3]")  # fmt: skip
    count = array.shape[-2]
    if array.ndim == 3 and count in _ORDERS:
        return [_mediapipe(path, array.astype(np.float64), options)]
    if array.ndim == 3 and count == UPPER_BODY_50.joints:
        return [_own(path, array, options)]
    if array.ndim == 3 and array.shape[-1] == 4:
        array = array[:, None]  # x, y, z and a confidence, below
    if count in BY_POINTS or count == 18:
        return wholebody.of_arrays(path, {"keypoints": array}, options)
    known = sorted({*_ORDERS, *BY_POINTS, UPPER_BODY_50.joints})
    raise FormatError(f"{path}: {count} points; known: {', '.join(map(str, known))}")


def _own(path: Path, array: NDArray[np.generic], options: Options) -> Recording:
    xyz = np.zeros((*array.shape[:2], 3), np.float32)
    xyz[..., : min(array.shape[-1], 3)] = array[..., :3]
    unit = options.need(path, "unit", "the file does not say its unit")
    fps = options.need(path, "fps", "the file does not say how many frames a second")
    return named(
        path, Recording, xyz, fps, path.stem,
        unit=unit, axes=options.axes or CANONICAL_AXES, dims=2 if array.shape[-1] == 2 else 3,
    )  # fmt: skip


def _mediapipe(path: Path, array: NDArray[np.float64], options: Options) -> Recording:
    parts = _parted(array)
    if path.stem.endswith("_3d_xyz"):
        for part, letter in (("right_hand", "r"), ("left_hand", "l")):
            other = _beside(path, part)
            if _is_body(path) and letter not in parts and other.exists():
                parts[letter] = array_of(f"{other}: the file", content(other)).astype(np.float64)
                if parts[letter].shape != (len(array), 21, array.shape[-1]):
                    raise FormatError(f"{other}: {list(parts[letter].shape)}: [{len(array)}, 21, 3] expected")
    spatial = array.shape[-1] == 3 and (options.unit not in (None, "px") or "3d" in path.stem.lower())
    if spatial:
        letters = {"p": "body", "r": "right_hand", "l": "left_hand"}
        names = [name for letter in parts if letter in letters for name in _NAMES[letters[letter]]]
        points = np.concatenate([parts[letter] for letter in parts if letter in letters], axis=1)
        return of_named_points(path, names, points, options, unit=UNIT, axes=AXES, fps=None)
    if options.world:
        raise FormatError(f"{path}: has no world landmarks")
    found = {
        _PARTS[letter]: mediapipe_arrays.split(_PARTS[letter], part, options)
        for letter, part in parts.items()
        if letter in _PARTS
    }
    points_of, sure = {key: pair[0] for key, pair in found.items()}, {key: pair[1] for key, pair in found.items()}
    fps = options.need(path, "fps", "the file does not say how many frames a second")
    xyz, confidence, dims = mediapipe_arrays.joints_of(path, points_of, sure, options, [slice(0, len(array))])
    return named(
        path, Recording, xyz, fps, path.stem,
        confidence=confidence, axes=mediapipe.AXES, unit="px", dims=dims, image_size=options.image_size,
    )  # fmt: skip


def _parted(array: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The parts of an array of MediaPipe's points, in the order in which hands lie at their wrists."""
    found: list[tuple[int, float, int, dict[str, NDArray[np.float64]]]] = []
    for order in _ORDERS[array.shape[1]]:
        cuts = np.cumsum([_COUNTS[letter] for letter in order])[:-1]
        parts = dict(zip(order, np.split(array, cuts, axis=1), strict=True))
        hidden, apart = 0, 0.0
        for letter, wrist in (("l", 15), ("r", 16)):
            if letter in parts:
                both = np.stack([parts[letter][:, 0, :2], parts["p"][:, wrist, :2]])
                seen = np.isfinite(both).all(axis=(0, 2)) & both.any(axis=2).all(axis=0)
                hidden += not seen.any()
                distances = np.linalg.norm(both[0, seen] - both[1, seen], axis=-1)
                apart += float(np.median(distances)) if seen.any() else 0.0
        found.append((hidden, apart, len(found), parts))
    return min(found, key=lambda one: one[:3])[3]


# Writing


def _arrays(path: Path, recordings: list[Recording]) -> dict[str, NDArray[np.float64]]:
    """Positions [S, P, 3] of each part of the body, NaN where missing."""
    recording = one_of(path, recordings)
    xyz, _ = in_unit(path, recording, AXES, UNIT)
    arrays = {}
    for part, names in _NAMES.items():
        sources = by_names(names).sources
        arrays[part] = np.full((len(xyz), len(names), 3), np.nan)
        for joint, points in enumerate(sources):
            if len(points) == 1:
                arrays[part][:, names.index(points[0][1])] = xyz[:, joint]
    return arrays


def write_npy(path: Path, recordings: list[Recording]) -> None:
    """Write a recording as FreeMoCap's arrays of 3D points."""
    arrays = _arrays(path, recordings)
    if _is_body(path):
        for part, array in arrays.items():
            _save(_beside(path, part), array)
    else:
        _save(path, np.concatenate(list(arrays.values()), axis=1))


def _save(path: Path, array: NDArray[np.float64]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    replace_file(path, buffer.getvalue())


def write_csv(path: Path, recordings: list[Recording]) -> None:
    """The three files of freemocap, for a path that ends in `body_3d_xyz.csv`."""
    for part, array in _arrays(path, recordings).items():
        lines = [",".join(f"{name}_{axis}" for name in _NAMES[part] for axis in "xyz")]
        lines += [
            ",".join("" if value != value else f"{value:.9g}" for value in row)
            for row in array.reshape(len(array), -1).tolist()
        ]
        replace_file(_beside(path, part), "\n".join(lines) + "\n")


_LACKS = "frame rate, axes, unit, neck, times, confidence, and of refined poses lookahead, sigma and flags"
NPY = Format(
    "npy", (".npy",), read_npy, write_npy, mark=rb"\A\x93NUMPY.{4,6}\{", takes=DEPTH, lacks=_LACKS, together="one"
)
CSV = Format(
    "freemocap",
    ("body_3d_xyz.csv",),
    read_csv,
    write_csv,
    mark=BOM + rb"[^\r\n]*(?:_eye_inner_x|body_nose_x|_hand_wrist_x)",
    lacks=_LACKS,
    together="one",
    convention=True,
)
