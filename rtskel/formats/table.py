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
    fps, skeleton, axes, mirrored, unit     defaults 25, "upper-body-50", "RDT", False, "m" in `.npz`; in the others
                           fps and unit must be in the file, or stated
    dims        int        2: z is 0 and unknown; default 3, but 2 where `.csv` or `.jsonl` have no z
    image_width, image_height   int     size of the image in pixels; -1 (default): unknown
    format      text       "rtskel-recording-1" (default); `.npz` only
Rows with the same stream and lookahead are one recording, in row order.

`.npz` has one array per column, never pickled. `.csv` has a header line; each joint has its own columns `nose_x`,
`nose_y`, `nose_z`, `nose_confidence`, `nose_sigma`, `neck_x`, ... (a joint without x and y is missing); an empty cell
is the column's default. `.jsonl` has one object per line with the columns as keys, `xyz` as [J][x, y, z] or [J][x, y],
and null for a default. It reads the lines of `rtskel subscribe --json` too, which state no unit; their flags are words
and are left out, and objects of another `kind` than "pose" are skipped.
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
from rtskel.formats.parsing import Format, Options, load_npz, named, numbers, parse_json, replace_file, shown, text
from rtskel.formats.recording import Recording
from rtskel.skeleton import CANONICAL_AXES, skeleton

NPZ_FORMAT = "rtskel-recording-1"


@dataclass(frozen=True)
class _Column:
    """A column.

    Attributes:
        kinds: accepted dtype kinds.
        per: what has a value of its own: "joint" [M, J], "row" [M], or "stream" (one for all rows, or [M]).
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
_STATED = ("fps", "skeleton", "axes", "mirrored", "unit", "dims", "image_width", "image_height")


def recordings_of(path: Path, columns: dict[str, NDArray[Any]], defaults: Mapping[str, Any]) -> list[Recording]:
    """The recordings of a file's columns.

    Args:
        defaults: values of columns that the file lacks, where they differ from Recording's.
    """
    if "xyz" not in columns:
        raise FormatError(f"{path}: no array 'xyz' (found: {', '.join(sorted(columns)) or 'nothing'})")
    xyz = columns["xyz"]
    if xyz.dtype.kind not in "fiu":
        raise FormatError(f"{path}: xyz has dtype {xyz.dtype}: numbers expected")
    if xyz.ndim != 3 or xyz.shape[-1] != 3:
        raise FormatError(f"{path}: xyz has shape {list(xyz.shape)}: [frames, joints, 3] expected")
    if len(xyz) == 0:
        raise FormatError(f"{path}: xyz has no frames")
    rows: dict[str, NDArray[Any]] = {}
    for key, column in _COLUMNS.items():
        if key not in columns:
            continue
        array = columns[key]
        if array.dtype.kind not in column.kinds:
            raise FormatError(f"{path}: {key} has dtype {array.dtype}")
        if column.per == "stream" and array.ndim == 0:
            array = np.full(len(xyz), array)
        shape = xyz.shape[:2] if column.per == "joint" else xyz.shape[:1]
        if array.shape != shape:
            raise FormatError(f"{path}: {key} has shape {list(array.shape)}: {list(shape)} expected, like xyz")
        rows[key] = array

    members: dict[tuple[str, int], list[int]] = {}
    streams = rows.get("stream", np.full(len(xyz), path.stem))
    lookaheads = rows.get("lookahead", np.full(len(xyz), -1))
    for row, key_of_row in enumerate(zip(streams.tolist(), lookaheads.tolist(), strict=True)):
        members.setdefault(key_of_row, []).append(row)
    recordings = []
    for (stream, lookahead), of_stream in members.items():
        at = np.array(of_stream)
        fields: dict[str, Any] = dict(defaults)
        for key in _STATED:
            if key in rows:
                values = np.unique(rows[key][at])
                if len(values) > 1:
                    raise FormatError(f"{path}: stream {stream!r} has {key} {values[0]} and {values[1]}")
                fields[key] = values[0].item()
        for key in _OPTIONAL:
            if key in rows and not _absent(rows[key][at], _COLUMNS[key].default):
                fields[key] = rows[key][at]
        if "confidence" in rows:
            fields["confidence"] = rows["confidence"][at]
        size = fields.pop("image_width", -1), fields.pop("image_height", -1)
        fields["image_size"] = None if size == (-1, -1) else size
        recordings.append(
            named(path, Recording, xyz[at], name=stream, lookahead=None if lookahead == -1 else lookahead, **fields)
        )
    return recordings


def columns_of(path: Path, recordings: list[Recording]) -> dict[str, NDArray[Any]]:
    """The columns [M, ...] of recordings, without those for which no recording has a value."""
    seen: set[tuple[str, int | None]] = set()
    joints = recordings[0].xyz.shape[1]
    for recording in recordings:
        if (recording.name, recording.lookahead) in seen:
            raise FormatError(f"{path}: two recordings are called {recording.name!r}")
        if recording.xyz.shape[1] != joints:
            raise FormatError(f"{path}: {recording.name!r} has {recording.xyz.shape[1]} joints, others have {joints}")
        seen.add((recording.name, recording.lookahead))
    frames = [recording.frames for recording in recordings]
    columns: dict[str, NDArray[Any]] = {}
    for key in ("stream", "lookahead", *_STATED):
        columns[key] = np.repeat(np.array([_stated(recording, key) for recording in recordings]), frames)
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
    columns = load_npz(path)
    form = columns.pop("format", np.array(NPZ_FORMAT))
    if str(form) != NPZ_FORMAT:
        raise FormatError(f"{path}: format {str(form)!r}: {NPZ_FORMAT!r} expected")
    return recordings_of(path, columns, {"fps": _COLUMNS["fps"].default})


def write_npz(path: Path, recordings: list[Recording]) -> None:
    columns = {"format": np.array(NPZ_FORMAT)} | columns_of(path, recordings)
    for key in ("lookahead", *_STATED):
        if (columns[key] == columns[key][0]).all():
            columns[key] = np.array(columns[key][0])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)  # type: ignore[arg-type]  # the keys are arrays, not numpy's own options
    replace_file(path, buffer.getvalue())


# .csv and .jsonl

_PARTS = {"x": 0, "y": 1, "z": 2}


def _asked(path: Path, columns: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Frame rate and unit, which have no default in text."""
    return {
        key: options.need(path, key, f"the file does not say its {key}")
        for key in ("fps", "unit")
        if key not in columns
    }


def _value(place: str, key: str, value: Any) -> Any:
    """A row's value of a column, from JSON; null is the default."""
    column = _COLUMNS[key]
    if value is None:
        return column.default
    if column.kinds == "U" and isinstance(value, str):
        return value
    if column.kinds == "b" and isinstance(value, bool):
        return value
    if column.kinds == "iu" and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    if column.kinds == "fiu" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(numbers(f"{place}, {key}", value))
    raise FormatError(f"{place}, {key}: {shown(value)} is not {_KINDS[column.kinds]}")


_KINDS = {"U": "a text", "b": "true or false", "iu": "a whole number", "fiu": "a number"}


def read_jsonl(path: Path, options: Options) -> list[Recording]:
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    for number, line in enumerate(text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        row = parse_json(place, line)
        if not isinstance(row, dict):
            raise FormatError(f"{place}: an object expected, found {shown(row)}")
        if row.get("kind", "pose") == "pose":
            if "xyz" not in row:
                raise FormatError(f"{place}: no xyz (found: {', '.join(row) or 'nothing'})")
            rows.append(row)
            places.append(place)
    if not rows:
        raise FormatError(f"{path}: {'no poses' if text(path).strip() else 'empty file'}")
    columns: dict[str, NDArray[Any]] = {}
    for key in ("xyz", *(key for key, column in _COLUMNS.items() if column.per == "joint")):
        if not any(key in row for row in rows):
            continue
        arrays: list[NDArray[np.float64]] = []
        for place, row in zip(places, rows, strict=True):
            value = row.get(key)
            if value is None and key != "xyz":
                arrays.append(np.full(len(arrays[0]) if arrays else len(row["xyz"]), _COLUMNS[key].default))
                continue
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
        columns[key] = np.stack(arrays)
    for key, column in _COLUMNS.items():
        if column.per != "joint" and any(key in row for row in rows):
            values = [
                _value(place, key, None if key == "flags" and isinstance(row.get(key), list) else row.get(key))
                for place, row in zip(places, rows, strict=True)
            ]
            columns[key] = np.array(values)
    return recordings_of(path, columns, _asked(path, columns, options))


def write_jsonl(path: Path, recordings: list[Recording]) -> None:
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
            elif key in _OPTIONAL or key in ("lookahead", "image_width", "image_height"):
                value = None if value == _COLUMNS[key].default else value
            fields[key] = value
        lines.append(json.dumps(fields, ensure_ascii=False, allow_nan=False))
    replace_file(path, "\n".join(lines) + "\n")


def _shortest(array: NDArray[Any]) -> NDArray[Any]:
    """float32 as the float64 with the fewest digits that reads back as the same float32."""
    return array.astype(str).astype(np.float64) if array.dtype == np.float32 else array


def read_csv(path: Path, options: Options) -> list[Recording]:
    header, cells, lines = _cells(path)

    def parsed(name: str) -> NDArray[Any]:
        column = _COLUMNS.get(name, _COLUMNS["confidence"])
        default = _COLUMNS[name].default if name in _COLUMNS else np.nan
        values = []
        for cell, line in zip(cells[header.index(name)], lines, strict=True):
            try:
                values.append(_from_cell(column, cell, default))
            except (ValueError, OverflowError):
                what = _KINDS[column.kinds]
                raise FormatError(f"{path}, line {line}, {name}: {shown(cell)} is not {what}") from None
        return np.array(values)

    columns = {name: parsed(name) for name in header if name in _COLUMNS and _COLUMNS[name].per != "joint"}
    ids = np.unique(columns.get("skeleton", np.array("upper-body-50"))).tolist()
    try:
        joints = skeleton(ids[0]).names
    except RtskelError as error:
        raise FormatError(f"{path}: {error}") from None
    shape = len(lines), len(joints)
    xyz = np.full((*shape, 3), np.nan)
    of_joints = {"confidence": np.ones(shape), "sigma": np.full(shape, np.nan)}
    found = set()
    for name in header:
        joint, _, part = name.rpartition("_")
        if joint in joints and part in _PARTS:
            xyz[:, joints.index(joint), _PARTS[part]] = parsed(name)
            found.add(part)
        elif joint in joints and part in of_joints:
            of_joints[part][:, joints.index(joint)] = parsed(name)
        elif name not in columns:
            known = [name for name, column in _COLUMNS.items() if column.per != "joint"]
            raise FormatError(f"{path}: unknown column {name!r} (a joint of {ids[0]} with _x, _y, _z, _confidence or "
                              f"_sigma, or one of {', '.join(known)})")  # fmt: skip
    if not found:
        raise FormatError(f"{path}: no positions (columns such as {joints[0]}_x)")
    if "z" not in found:
        xyz[..., 2] = np.where(np.isfinite(xyz[..., :2]).all(axis=-1), 0.0, np.nan)
        columns.setdefault("dims", np.full(len(lines), 2))
    confidence = of_joints["confidence"]
    columns |= {"xyz": xyz, "confidence": np.where(np.isnan(confidence), 1.0, confidence), "sigma": of_joints["sigma"]}
    return recordings_of(path, columns, _asked(path, columns, options))


def _cells(path: Path) -> tuple[list[str], list[tuple[str, ...]], list[int]]:
    """Column names, the cells of each column, and the line number of each row."""
    table = csv.reader(io.StringIO(text(path).removeprefix("\ufeff"), newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in table:
            if row:
                rows.append(row)
                lines.append(table.line_num)
    except csv.Error as error:
        raise FormatError(f"{path}, line {table.line_num}: {error}") from None
    if len(rows) < 2:
        raise FormatError(f"{path}: {'no poses' if rows else 'empty file'}")
    header = rows[0]
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise FormatError(f"{path}, line {line}: {len(row)} cells, {len(header)} expected")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise FormatError(f"{path}: column {min(repeated)!r} comes twice")
    return header, list(zip(*rows[1:], strict=True)), lines[1:]


def _from_cell(column: _Column, cell: str, default: Any) -> Any:
    if column.kinds == "U":
        return cell
    if not cell.strip():
        return default
    if column.kinds == "b":
        if cell.strip().lower() not in ("true", "false"):
            raise ValueError(cell)
        return cell.strip().lower() == "true"
    if column.kinds == "iu":
        return int(np.int64(int(cell)))
    return float(cell)


def write_csv(path: Path, recordings: list[Recording]) -> None:
    columns = columns_of(path, recordings)
    joints = skeleton(recordings[0].skeleton).names
    cells: dict[str, list[str]] = {}
    for key, array in columns.items():
        if key in ("xyz", "confidence", "sigma"):
            continue
        default = _COLUMNS[key].default
        optional = key in _OPTIONAL or key in ("lookahead", "image_width", "image_height")
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


NPZ = Format("npz", (".npz",), read_npz, write_npz)
CSV = Format(
    "csv",
    (".csv",),
    read_csv,
    write_csv,
    mark=rb"\A(?:\xef\xbb\xbf)?[^\r\n]*(?<=[A-Za-z0-9])_[xyz]\"?(?:,|\r|\n|\Z)",
)
JSONL = Format("jsonl", (".jsonl",), read_jsonl, write_jsonl, mark=rb'\A\s*\{[^\n]*"(?:xyz|kind)"\s*:')
