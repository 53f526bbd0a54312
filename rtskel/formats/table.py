"""rtskel's own formats: the same columns as `.npz` (numpy), `.csv` and `.jsonl`, one row per frame.

Every column but the positions is optional:
    xyz         [M, J, 3]  positions, in `unit`; float32 is written, any real type is read
    confidence  [M, J]     0 (missing) to 1; default 1. A joint with NaN or infinite coordinates is missing
    slot        [M] int    frame number on the frame clock, ascending within a recording; a hole is a dropped frame;
                           default 0, 1, 2, ...
    time_ns     [M] int    when the frame was taken, in ns of the estimator's clock; -1: unknown
    sigma       [M, J]     refined output: spread of the averaged predictions, in `unit`; NaN: unknown
    windows     [M] int    refined output: how many predictions were averaged; -1: unknown
    flags       [M] int    refined output: `rtskel.wire.Flag` bits; -1: unknown
    Either one value for all rows, or [M]:
    stream      text       which sequence the row belongs to; default: the file's name without its suffix
    lookahead   int        lookahead of refined output in frames; -1 (default): not refined output
    person, view text      who it is, and from which camera, as others name them; default "": unknown
    fps, skeleton, axes, mirrored, unit     defaults 25, "upper-body-50", "RDT", False, "m" in `.npz`; in the others
                           fps and unit must be in the file, or stated
    dims        int        2: z is 0 and unknown; default 3, but 2 where `.csv` or `.jsonl` have no z
    image_width, image_height   int     size of the image in pixels; -1 (default): unknown
    format      text       "rtskel-recording-1" (default); `.npz` only
Rows with the same stream, lookahead, person and view are one recording, in row order. Without fps, times tell it.

`.npz` has one array per column, never pickled. `.csv` has a header line; each joint has columns `nose_x`,
`nose_y`, `nose_z`, `nose_confidence`, `nose_sigma`, `neck_x`, ... (a joint without x and y is missing); an empty cell
is the column's default. Cells may be parted by `;` or tabs, with decimal commas, as spreadsheets write them. `.jsonl`
has one object per line with the columns as keys, `xyz` as [J][x, y, z] or [J][x, y],
and null for a default. It reads the lines of `rtskel subscribe --json` too; their flags are words
and are left out, and objects of another `kind` than "pose" are skipped. Unknown columns and keys are noted.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError, RtskelError
from rtskel.formats.parsing import (
    BOM,
    NO_VALUE,
    Format,
    Options,
    Unfinished,
    cells_of,
    check_width,
    listed,
    load_npz,
    named,
    npz_names,
    numbers,
    parse_json,
    rate,
    replace_file,
    shown,
    text,
)
from rtskel.formats.recording import Recording
from rtskel.rates import MOST_FPS, reconcile
from rtskel.skeleton import CANONICAL_AXES, UPPER_BODY_50, Skeleton, skeleton

NPZ_FORMAT = "rtskel-recording-1"


@dataclass(frozen=True)
class _Column:
    """A column.

    Attributes:
        kinds: accepted dtype kinds.
        per: what has its own value: "joint" [M, J], "row" [M], or "stream" (one for all rows, or [M]).
        default: written where a recording has no value.
    """

    kinds: str
    per: str
    default: Any


_COLUMNS: Mapping[str, _Column] = MappingProxyType(
    {
        "confidence": _Column("fiu", "joint", 1.0),
        "slot": _Column("iu", "row", -1),
        "time_ns": _Column("iu", "row", -1),
        "sigma": _Column("fiu", "joint", np.nan),
        "windows": _Column("iu", "row", -1),
        "flags": _Column("iu", "row", -1),
        "stream": _Column("U", "stream", ""),
        "lookahead": _Column("iu", "stream", -1),
        "person": _Column("U", "stream", ""),
        "view": _Column("U", "stream", ""),
        "fps": _Column("fiu", "stream", 25.0),
        "skeleton": _Column("U", "stream", "upper-body-50"),
        "axes": _Column("U", "stream", CANONICAL_AXES),
        "mirrored": _Column("b", "stream", False),
        "unit": _Column("U", "stream", "m"),
        "dims": _Column("iu", "stream", 3),
        "image_width": _Column("iu", "stream", -1),
        "image_height": _Column("iu", "stream", -1),
    }
)
_OPTIONAL = ("slot", "time_ns", "sigma", "windows", "flags")  # attributes of Recording that may be None
_MAYBE = ("lookahead", "image_width", "image_height", "person", "view")  # likewise, one value for a recording
_STATED = ("fps", "skeleton", "axes", "mirrored", "unit", "dims", "image_width", "image_height")


_Columns = dict[str, Any]
"""Columns by name: arrays, or lists of strings where one long string must not widen the others."""


class _Coded:
    """A column with few different values: those values, and which of them each row has."""

    def __init__(self, column: Any, rows: int) -> None:
        values = column.tolist() if isinstance(column, np.ndarray) else column
        self.values: list[Any] = values if isinstance(values, list) else [values]
        self.codes = np.zeros(rows, np.int64)
        if isinstance(values, list):
            known: dict[Any, int] = {}
            self.codes = np.array([known.setdefault(value, len(known)) for value in values], np.int64)
            self.values = list(known)

    def of(self, rows: NDArray[np.int64]) -> list[Any]:
        """The different values of these rows."""
        return [self.values[code] for code in np.unique(self.codes[rows]).tolist()]


def recordings_of(path: Path, columns: _Columns, options: Options, fps: float | None = None) -> list[Recording]:
    """The recordings of a file's columns.

    Args:
        fps: of a file that states neither fps nor times; None: it must be stated.
    """
    xyz = columns["xyz"]
    if xyz.dtype.kind not in "fiu":
        raise FormatError(f"{path}: xyz has dtype {xyz.dtype}: numbers expected")
    if xyz.ndim != 3 or xyz.shape[-1] != 3:
        raise FormatError(f"{path}: xyz has shape {list(xyz.shape)}: [frames, joints, 3] expected")
    if len(xyz) == 0:
        raise FormatError(f"{path}: xyz has no frames")
    rows: dict[str, NDArray[Any]] = {}
    coded: dict[str, _Coded] = {"stream": _Coded(path.stem, len(xyz))}
    for key, column in _COLUMNS.items():
        if key not in columns:
            continue
        values = columns[key]
        shape: tuple[int, ...] = (len(values),) if isinstance(values, list) else values.shape
        if isinstance(values, np.ndarray) and values.dtype.kind not in column.kinds:
            raise FormatError(f"{path}: {key} has dtype {values.dtype}")
        wanted = xyz.shape[:2] if column.per == "joint" else xyz.shape[:1]
        if shape != wanted and not (column.per == "stream" and shape == ()):
            raise FormatError(f"{path}: {key} has shape {list(shape)}: {list(wanted)} expected, like xyz")
        if column.per == "stream":
            coded[key] = _Coded(values, len(xyz))
        else:
            rows[key] = values
    return [_recording(path, xyz, rows, coded, at, options, fps) for at in _members(coded, len(xyz))]


_WHICH = ("stream", "lookahead", "person", "view")  # what tells recordings apart


def _members(coded: Mapping[str, _Coded], count: int) -> list[NDArray[np.int64]]:
    """The rows of each recording, in the order of their first ones."""
    codes = np.stack([coded[key].codes if key in coded else np.zeros(count, np.int64) for key in _WHICH])
    _, first, group = np.unique(codes, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(first[group.ravel()], kind="stable")
    return np.split(order, np.flatnonzero(np.diff(first[group.ravel()][order])) + 1)


def _recording(
    path: Path,
    xyz: NDArray[Any],
    rows: Mapping[str, NDArray[Any]],
    coded: Mapping[str, _Coded],
    at: NDArray[np.int64],
    options: Options,
    fps: float | None,
) -> Recording:
    (stream,) = coded["stream"].of(at)
    fields: dict[str, Any] = {}
    for key in (*_WHICH[1:], *_STATED):
        if key in coded:
            values = coded[key].of(at)
            if len(values) > 1:
                low, high = sorted(values)[:2]
                raise FormatError(f"{path}: stream {shown(stream)} has {key} {low} and {high}")
            if values[0] != _COLUMNS[key].default or key in _STATED:
                fields[key] = values[0]
    for key in _OPTIONAL:
        if key in rows and not _absent(rows[key][at], _COLUMNS[key].default):
            fields[key] = rows[key][at]
    if "confidence" in rows:
        fields["confidence"] = rows["confidence"][at]
    size = fields.pop("image_width", -1), fields.pop("image_height", -1)
    fields["image_size"] = None if size == (-1, -1) else size
    if options.fps is not None:
        fields["fps"] = options.fps
    elif "fps" in fields and "time_ns" in fields and not 0 < fields["fps"] <= MOST_FPS:
        options.note(f"{fields['fps']:g} frames per second are stated, which cannot be: the times hold")
        del fields["fps"]
    if "fps" not in fields:
        clock = reconcile(options.fps, fields.get("slot"), fields.get("time_ns"))
        fields["fps"] = clock.fps or fps or options.need(path, "fps", "the file does not say its fps")
    return named(path, Recording, xyz[at], name=stream, **fields)


def columns_of(path: Path, recordings: list[Recording]) -> dict[str, NDArray[Any]]:
    """The columns [M, ...] of recordings, without those for which no recording has a value."""
    seen: set[tuple[Any, ...]] = set()
    joints = recordings[0].xyz.shape[1]
    for recording in recordings:
        which = recording.name, recording.lookahead, recording.person, recording.view
        if which in seen:
            raise FormatError(f"{path}: two recordings are called {recording.name!r}")
        if recording.xyz.shape[1] != joints:
            raise FormatError(f"{path}: {recording.name!r} has {recording.xyz.shape[1]} joints, others have {joints}")
        seen.add(which)
    frames = [recording.frames for recording in recordings]
    columns: dict[str, NDArray[Any]] = {}
    for key in ("stream", "lookahead", "person", "view", *_STATED):
        values = [_stated(recording, key) for recording in recordings]
        if key in ("person", "view") and not any(values):
            continue
        columns[key] = np.repeat(np.array(values), frames)
    for key in _OPTIONAL:
        values = [getattr(recording, key) for recording in recordings]
        given = next((value for value in values if value is not None), None)
        if given is not None:
            filler = _COLUMNS[key].default
            columns[key] = np.concatenate(
                [
                    np.full((recording.frames, *given.shape[1:]), filler, given.dtype) if value is None else value
                    for recording, value in zip(recordings, values, strict=True)
                ]
            )
    columns["xyz"] = np.concatenate([recording.xyz for recording in recordings])
    columns["confidence"] = np.concatenate([recording.confidence for recording in recordings])
    return columns


def _stated(recording: Recording, key: str) -> Any:
    """A recording's value of a key that holds for all its rows, or the key's default."""
    if key in ("image_width", "image_height"):
        value = recording.image_size and recording.image_size[key == "image_height"]
    else:
        value = getattr(recording, "name" if key == "stream" else key)
    return _COLUMNS[key].default if value is None else value


def _absent(values: NDArray[Any], default: Any) -> bool:
    return bool((np.isnan(values) if default != default else values == default).all())


def read_npz(path: Path, options: Options) -> list[Recording]:
    """Read recordings from an .npz file."""
    wanted = {"format", "xyz", *_COLUMNS}
    unused = npz_names(path) - wanted
    columns: _Columns = dict(load_npz(path, wanted))
    form = columns.pop("format", np.array(NPZ_FORMAT))
    if form.shape != () or str(form) != NPZ_FORMAT:
        raise FormatError(f"{path}: format {shown(str(form))}: {NPZ_FORMAT!r} expected")
    if "xyz" not in columns:
        found = listed({*columns, *unused})
        raise FormatError(f"{path}: no array 'xyz', nor 'keypoints' or 'pose' (found: {found})")
    if unused:
        options.note(f"unused arrays: {listed(unused)}")
    if "fps" in columns and columns["fps"].shape == () and rate(columns["fps"].item()) is not None:
        columns["fps"] = np.array(rate(columns["fps"].item()))
    for key in ("person", "view"):
        if key in columns and columns[key].dtype.kind in "iu":
            columns[key] = columns[key].astype(str)
    return recordings_of(path, columns, options, _COLUMNS["fps"].default)


def write_npz(path: Path, recordings: list[Recording]) -> None:
    """Write recordings as an .npz file."""
    columns = {"format": np.array(NPZ_FORMAT)} | columns_of(path, recordings)
    for key in ("lookahead", "person", "view", *_STATED):
        if key in columns and (columns[key] == columns[key][0]).all():
            columns[key] = np.array(columns[key][0])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)  # type: ignore[arg-type]  # the keys are arrays, not numpy's own options
    replace_file(path, buffer.getvalue())


# .csv and .jsonl

_PARTS = {"x": 0, "y": 1, "z": 2}


def _ask(path: Path, columns: Mapping[str, Any], options: Options) -> None:
    """Text has no defaults for frame rate and unit."""
    if "fps" not in columns and "time_ns" not in columns:
        options.need(path, "fps", "the file does not say its fps")
    if "unit" not in columns:
        options.need(path, "unit", "the file does not say its unit")


def _value(place: str, key: str, value: Any) -> Any:
    """A row's value of a column, from JSON; null is the default."""
    column = _COLUMNS[key]
    if value is None:
        return column.default
    if column.kinds == "U" and isinstance(value, str):
        return value
    if key in ("person", "view") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if column.kinds == "b" and isinstance(value, bool):
        return value
    if column.kinds == "iu" and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    if key == "fps" and isinstance(value, str) and rate(value) is not None:
        return rate(value)
    if column.kinds == "fiu" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(numbers(f"{place}, {key}", value))
    raise FormatError(f"{place}, {key}: {shown(value)} is not {_KINDS[column.kinds]}")


_KINDS = {"U": "a text", "b": "true or false", "iu": "a whole number", "fiu": "a number"}


_OF_THE_WIRE = {"kind", "seq", "clock", "latency_ms", "model", "missing", "event", "detail", "counts"}
"""Keys of `rtskel subscribe --json` that are no columns."""


def read_jsonl(path: Path, options: Options) -> list[Recording]:
    """Read recordings from a .jsonl file."""
    rows, places = _objects(path, options)
    columns: _Columns = {}
    for key in ("xyz", *(key for key, column in _COLUMNS.items() if column.per == "joint")):
        if any(key in row for row in rows):
            columns[key] = _of_joints(key, rows, places)
    unused = {key for row in rows for key in row} - {"xyz", *_COLUMNS} - _OF_THE_WIRE
    if unused:
        options.note(f"unused keys: {listed(unused)}")
    for key, column in _COLUMNS.items():
        if column.per != "joint" and any(key in row for row in rows):
            values = [
                _value(place, key, None if key == "flags" and isinstance(row.get(key), list) else row.get(key))
                for place, row in zip(places, rows, strict=True)
            ]
            columns[key] = values if column.kinds == "U" else np.array(values)
    _ask(path, columns, options)
    return recordings_of(path, columns, options)


def _objects(path: Path, options: Options) -> tuple[list[dict[str, Any]], list[str]]:
    """The poses in the lines of a file, and what errors call each."""
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    source = text(path, options)
    lines = source.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = parse_json(place, line)
        except Unfinished:
            if not rows or number < len(lines):  # the last line has no line end
                raise
            options.note(f"unfinished last line skipped: {number}")
            break
        if not isinstance(row, dict):
            raise FormatError(f"{place}: an object expected, found {shown(row)}")
        if row.get("kind", "pose") == "pose":
            if "xyz" not in row:
                raise FormatError(f"{place}: no xyz (found: {listed(row.keys())})")
            rows.append(row)
            places.append(place)
    if not rows:
        raise FormatError(f"{path}: {'no poses' if source.strip() else 'empty file'}")
    return rows, places


def _of_joints(key: str, rows: list[dict[str, Any]], places: list[str]) -> NDArray[np.float64]:
    """The values of a column that has one per joint [M, J], or positions [M, J, 3]; sets `dims` of 2D rows."""
    arrays: list[NDArray[np.float64]] = []
    for place, row in zip(places, rows, strict=True):
        value = row.get(key)
        if value is None and key != "xyz":
            joints = len(arrays[0]) if arrays else len(row["xyz"])
            arrays.append(np.full(joints, _COLUMNS[key].default))
            continue
        if isinstance(value, list) and None in value:  # a joint that is not there
            width = next((len(joint) for joint in value if isinstance(joint, list)), 3)
            value = [[np.nan] * width if joint is None and key == "xyz" else joint for joint in value]
        array = numbers(f"{place}, {key}", value)
        if key == "xyz":
            if array.ndim != 2 or array.shape[1] not in (2, 3):
                raise FormatError(f"{place}, xyz: x, y, z (or x, y) of each joint expected, found {shown(value)}")
            if array.shape[1] == 2:
                array = np.pad(array, ((0, 0), (0, 1)))
                row.setdefault("dims", 2)
        if arrays and array.shape != arrays[0].shape:
            raise FormatError(f"{place}: {key} has shape {list(array.shape)}, {list(arrays[0].shape)} before")
        arrays.append(array)
    return np.stack(arrays)


def write_jsonl(path: Path, recordings: list[Recording]) -> None:
    """Write recordings as a .jsonl file."""
    columns = columns_of(path, recordings)
    flat = columns["dims"] == 2
    values = {key: _shortest(array).tolist() for key, array in columns.items()}
    lines = []
    for row in range(len(flat)):
        fields: dict[str, Any] = {"kind": "pose"}
        for key, column in values.items():
            value = column[row]
            if key == "xyz":
                value = [xyz[:2] for xyz in value] if flat[row] else value
            elif key == "sigma":
                value = None if all(map(np.isnan, value)) else [None if np.isnan(one) else one for one in value]
            elif key in _OPTIONAL or key in _MAYBE:
                value = None if value == _COLUMNS[key].default else value
            fields[key] = value
        lines.append(json.dumps(fields, ensure_ascii=False, allow_nan=False))
    replace_file(path, "\n".join(lines) + "\n")


def _shortest(array: NDArray[Any]) -> NDArray[Any]:
    """float32 as the float64 with the fewest digits that reads back as the same float32."""
    return array.astype(str).astype(np.float64) if array.dtype == np.float32 else array


def read_csv(path: Path, options: Options) -> list[Recording]:
    """Read recordings from a .csv file."""
    header, rows, lines = cells_of(path, options)
    if not any(name.rpartition("_")[2] in _PARTS for name in header):
        raise FormatError(f"{path}: no positions (columns such as {UPPER_BODY_50.names[0]}_x; found: {listed(header)})")
    check_width(path, header, rows, lines)
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise FormatError(f"{path}: column {min(repeated)!r} comes twice")
    cells = zip(*rows, strict=True)
    of_column = dict(zip(header, cells, strict=True))

    def parsed(name: str) -> Any:
        column = _COLUMNS.get(name, _COLUMNS["confidence"])
        if column.kinds == "U":
            return list(of_column[name])
        default = _COLUMNS[name].default if name in _COLUMNS else np.nan
        values = []
        for cell, line in zip(of_column[name], lines, strict=True):
            try:
                stated = rate(cell) if name == "fps" else None
                values.append(_from_cell(column, cell, default) if stated is None else stated)
            except (ValueError, OverflowError):
                what = _KINDS[column.kinds]
                raise FormatError(f"{path}, line {line}, {name}: {shown(cell)} is not {what}") from None
        return np.array(values)

    columns: _Columns = {name: parsed(name) for name in header if name in _COLUMNS and _COLUMNS[name].per != "joint"}
    try:
        body = skeleton(columns["skeleton"][0] if "skeleton" in columns else UPPER_BODY_50.id)
    except RtskelError as error:
        raise FormatError(f"{path}: {error}") from None
    points, unknown = _points_of(header, body)
    unknown -= columns.keys()
    strange = min((name for name in unknown if name.rpartition("_")[2] in _PARTS), default=None)
    if strange is not None:
        known = [name for name, column in _COLUMNS.items() if column.per != "joint"]
        raise FormatError(f"{path}: unknown column {shown(strange)} (a joint of {body.id} with _x, _y, _z, "
                          f"_confidence or _sigma, or one of {', '.join(known)})")  # fmt: skip
    if unknown:
        options.note(f"unused columns: {listed(unknown)}")
    shape = len(lines), body.joints
    arrays = {part: np.full(shape, np.nan) for part in (*_PARTS, "sigma")} | {"confidence": np.ones(shape)}
    for (joint, part), name in points.items():
        arrays[part][:, body.names.index(joint)] = parsed(name)
    parts = {part for _, part in points}
    if parts.isdisjoint(_PARTS):
        raise FormatError(f"{path}: no positions (columns such as {body.names[0]}_x; found: {listed(header)})")
    if "z" not in parts:
        arrays["z"] = np.where(np.isfinite(arrays["x"]) & np.isfinite(arrays["y"]), 0.0, np.nan)
        columns.setdefault("dims", np.full(len(lines), 2))
    columns["xyz"] = np.stack([arrays[part] for part in _PARTS], axis=-1)
    columns["confidence"] = np.where(np.isnan(arrays["confidence"]), 1.0, arrays["confidence"])
    columns["sigma"] = arrays["sigma"]
    _ask(path, columns, options)
    return recordings_of(path, columns, options)


def _points_of(header: list[str], body: Skeleton) -> tuple[dict[tuple[str, str], str], set[str]]:
    """Column names by joint and part (x, y, z, confidence, sigma), and the names that are no such columns."""
    joints = set(body.names)
    points: dict[tuple[str, str], str] = {}
    unknown: set[str] = set()
    for name in header:
        joint, _, part = name.rpartition("_")
        if joint in joints and part in (*_PARTS, "confidence", "sigma"):
            points[joint, part] = name
        else:
            unknown.add(name)
    return points, unknown


def _from_cell(column: _Column, cell: str, default: Any) -> Any:
    if column.kinds == "U":
        return cell
    if cell.strip().lower() in NO_VALUE:
        return default
    if column.kinds == "b":
        if cell.strip().lower() not in ("true", "false"):
            raise ValueError(cell)
        return cell.strip().lower() == "true"
    if column.kinds == "iu":
        return int(np.int64(int(cell)))
    return float(cell)


def write_csv(path: Path, recordings: list[Recording]) -> None:
    """Write recordings as a .csv file."""
    columns = columns_of(path, recordings)
    joints = skeleton(recordings[0].skeleton).names
    cells: dict[str, list[str]] = {}
    for key, array in columns.items():
        if key in ("xyz", "confidence", "sigma"):
            continue
        default = _COLUMNS[key].default
        optional = key in _OPTIONAL or key in _MAYBE
        cells[key] = ["" if optional and value == default else str(value) for value in array.tolist()]
    parts = {"x": columns["xyz"][..., 0], "y": columns["xyz"][..., 1], "z": columns["xyz"][..., 2]}
    if (columns["dims"] == 2).all():
        del parts["z"]
    parts |= {key: columns[key] for key in ("confidence", "sigma") if key in columns}
    for at, joint in enumerate(joints):
        for part, array in parts.items():
            cells[f"{joint}_{part}"] = ["" if cell == "nan" else cell for cell in array[:, at].astype(str).tolist()]
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(cells)
    table.writerows(zip(*cells.values(), strict=True))
    replace_file(path, buffer.getvalue())


NPZ = Format("npz", (".npz",), read_npz, write_npz, own=True)
CSV = Format(
    "csv",
    (".csv",),
    read_csv,
    write_csv,
    mark=BOM + rb"[^\r\n]*(?<=[A-Za-z0-9])_[xyz]\"?[ ]*(?:[,;\t\r\n]|\Z)",
    own=True,
)
JSONL = Format("jsonl", (".jsonl",), read_jsonl, write_jsonl, mark=BOM + rb'\s*\{[^\n]*"(?:xyz|kind)"\s*:', own=True)
