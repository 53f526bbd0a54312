"""Motion capture files that name their points: `.trc` (OpenSim, Pose2Sim, Sports2D) and `.c3d`.

Points are mapped to joints by their names (`rtskel.formats.mappings.by_names`); a point that is absent, NaN or, except
for the neck, at exactly 0 is missing. The files state unit and frame rate, and `.trc` the time of each frame. They do
not state axes: `.trc` has OpenSim's (x forward, y up, z to the person's right, who faces the camera), `.c3d` those of
most laboratories (z up), unless `axes` says otherwise. A `.trc` in which no point ever changes its z comes from one
camera (Sports2D) and is read as 2D: x to the image's right, y up, or pixels with y down, which such files call metres.
The 50 joints are written in metres; dropped frames are frames without points.

`.c3d` needs ezc3d: `pip install 'rtskel[c3d]'`.
"""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.frames import check_span
from rtskel.formats.mappings import by_names, gather
from rtskel.formats.parsing import Format, Options, content, listed, named, reason, replace_file, shown, text
from rtskel.formats.recording import MM_PER_UNIT, Recording
from rtskel.rates import reconcile
from rtskel.skeleton import BODY, CANONICAL_AXES, LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50, from_canonical
from rtskel.text import printable

TRC_AXES, C3D_AXES = "TUL", "RAU"

FEWEST_STILL = 10
"""In so many frames, the z of a point that is measured changes."""

TALLEST_MM = 5000.0
"""Nobody is taller."""

NAMES = tuple(
    joint.capitalize() if "_" not in joint
    else joint[0].upper() + joint.partition("_")[2].replace("hand_root", "hand").title().replace("_", "")
    for joint in UPPER_BODY_50.names
)  # fmt: skip
"""What the 50 joints are called in files: Nose, Neck, RShoulder, ..., LHand, LThumb1, ..., as OpenPose and Pose2Sim."""


def of_named_points(
    path: Path,
    names: list[str],
    points: NDArray[np.float64],
    options: Options,
    *,
    unit: str,
    axes: str,
    fps: float | None,
    dims: int = 3,
    slot: NDArray[np.int64] | None = None,
    time_ns: NDArray[np.int64] | None = None,
) -> Recording:
    """A recording of points [F, P, 3] that a file names; frames without any are dropped frames."""
    layout = by_names(names)
    if not any(layout.sources[joint] for joint in (NECK, RIGHT_SHOULDER, LEFT_SHOULDER)):
        raise FormatError(f"{path}: no point is a shoulder or neck (found: {listed(set(names))})")
    absent = [name for joint, name in enumerate(BODY) if not layout.sources[joint]]
    if absent:
        options.note(f"no point is a {', '.join(absent)} (found: {listed(set(names))})")
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=-1))
    present: NDArray[np.bool_] = np.asarray(finite & points.any(axis=-1))
    for _, name in layout.sources[NECK]:  # where others are seen, the neck may be the origin
        at = names.index(name)
        present[:, at] = finite[:, at] & present.any(axis=1)
    xyz, confidence = gather(layout, {"points": points}, {"points": np.asarray(present, np.float64)})
    somebody = confidence.any(axis=1)
    if not somebody.any():
        raise FormatError(f"{path}: nobody is found in any frame")
    slot = np.arange(len(xyz), dtype=np.int64) if slot is None else slot
    check_span(path, int(slot[0]), int(slot[-1]), len(slot))
    if (np.diff(slot) <= 0).any():
        raise FormatError(f"{path}: frame numbers do not ascend")
    clock = reconcile(options.fps or fps, slot, time_ns)
    if clock.note:
        options.note(clock.note)
    rate = clock.fps or options.need(path, "fps", "the file does not say how many frames a second")
    slot = slot if clock.slot is None else clock.slot
    return named(
        path, Recording, xyz[somebody], rate, path.stem, dims=dims,
        confidence=confidence[somebody], unit=options.unit or unit, axes=options.axes or axes,
        slot=slot[somebody] - slot[0], time_ns=None if clock.time_ns is None else clock.time_ns[somebody],
    )  # fmt: skip


def in_unit(path: Path, recording: Recording, axes: str, unit: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Positions [S, 50, 3] of every slot from the first frame on, NaN where missing, and those slots from 0."""
    if recording.skeleton != UPPER_BODY_50.id:
        raise FormatError(f"{path}: recording {recording.name!r} has skeleton {recording.skeleton!r}")
    xyz = from_canonical(recording.canonical(), axes).astype(np.float64) * (recording.mm_per_unit() / MM_PER_UNIT[unit])
    if recording.lookahead is None:  # in refined poses, missing joints have been filled in
        xyz[recording.missing] = np.nan
    slots = recording.slots - recording.slots[0]
    every = np.full((int(slots[-1]) + 1, *xyz.shape[1:]), np.nan)
    every[slots] = xyz
    return every, slots


def one_of(path: Path, recordings: list[Recording]) -> Recording:
    """The recording of a file that holds one, in 3D."""
    if len(recordings) > 1:
        names = listed([recording.name for recording in recordings], 5)
        raise FormatError(
            f"{path}: {path.suffix} holds one recording, these are {len(recordings)} ({names}): choose one"
        )
    (recording,) = recordings
    if recording.dims == 2:
        raise FormatError(f"{path}: recording {recording.name!r} is 2D, {path.suffix} holds 3D")
    return recording


# .trc


def read_trc(path: Path, options: Options) -> list[Recording]:
    """Read marker trajectories from a .trc file."""
    whole_text = text(path, options)
    lines = whole_text.splitlines()
    if len(lines) < 6 or not lines[0].startswith("PathFileType"):
        raise FormatError(f"{path}: not a .trc file, or truncated ({len(lines)} lines)")
    header = dict(zip(lines[1].split(), lines[2].split(), strict=False))
    names = [name.strip() for name in lines[3].split("\t")[2:] if name.strip()] or lines[3].split()[2:]
    fps = _number(path, "DataRate", header.get("DataRate", header.get("CameraRate", "")))
    unit = _unit(header.get("Units", ""))
    if unit not in (*MM_PER_UNIT, "px") and options.unit is None:
        options.need(path, "unit", f"Units is {shown(unit)}")
    rows = [(number, line) for number, line in enumerate(lines[5:], 6) if line.strip()]
    if len(rows) > 1 and not whole_text.endswith(("\n", "\r")) and rows[-1][1].count("\t") < rows[-2][1].count("\t"):
        options.note(f"unfinished last line skipped: {rows.pop()[0]}")
    stated = header.get("NumFrames", "")
    if stated.isascii() and stated.isdigit() and int(stated) > len(rows):
        options.note(f"{int(stated)} frames are stated, {len(rows)} are there")
    numbers, times, values = [], [], []
    for number, line in rows:
        place = f"{path}, line {number}"
        cells = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if len(cells) > 2 + 3 * len(names) and any(map(str.strip, cells[2 + 3 * len(names) :])):
            raise FormatError(f"{place}: {len(cells)} cells, {2 + 3 * len(names)} expected ({len(names)} points)")
        found = [_number(place, "a coordinate", cell, np.nan) for cell in cells[2 : 2 + 3 * len(names)]]
        values.append(found + [np.nan] * (3 * len(names) - len(found)))
        numbers.append(_number(place, "Frame#", cells[0]))
        times.append(_nanoseconds(place, cells[1] if len(cells) > 1 else ""))
    if not values:
        raise FormatError(f"{path}: no frames")
    if not all(number.is_integer() and 0 <= number < 2**53 for number in numbers):
        raise FormatError(f"{path}: Frame# is no whole number")
    points = np.array(values).reshape(len(values), len(names), 3)
    space: dict[str, Any] = {"unit": unit, "axes": TRC_AXES}
    if _is_flat(points):
        space, points = _of_an_image(points, unit, options), points * (1.0, 1.0, 0.0)
    return [
        of_named_points(
            path, names, points, options, **space, fps=fps if 0 < fps <= 1000 else None,
            slot=np.array(numbers, np.int64), time_ns=np.array(times, np.int64),
        )
    ]  # fmt: skip


def _unit(word: str) -> str:
    """A unit as files spell it: mm, MM, meters, millimetres."""
    word = word.strip().lower()
    short = {"milli": "mm", "centi": "cm", "": "m"}
    found = re.fullmatch(r"(milli|centi|)met(?:er|re)s?", word)
    return short[found[1]] if found else word


def _is_flat(points: NDArray[np.float64]) -> bool:
    """Whether the z of points [F, P, 3] is 0 or never changes: it was not measured."""
    z = points[..., 2]
    z = z[:, np.isfinite(z).any(axis=0)]
    still = bool(z.size) and bool((np.nanmax(z, axis=0) == np.nanmin(z, axis=0)).all())
    return still and (len(points) >= FEWEST_STILL or not np.nan_to_num(z).any())


def _of_an_image(points: NDArray[np.float64], unit: str, options: Options) -> dict[str, Any]:
    """The unit of flat points: Sports2D says metres for pixels as well."""
    tall = np.nanmedian(np.nanmax(points[..., 1], axis=1) - np.nanmin(points[..., 1], axis=1))
    if unit == "px" or tall * MM_PER_UNIT.get(unit, 0.0) > TALLEST_MM:
        words = "" if unit == "px" else f", {tall:.0f} {unit} tall: taken as pixels"
        options.note(f"z never changes: read as 2D{words}")
        return {"unit": "px", "axes": CANONICAL_AXES, "dims": 2}
    options.note("z never changes: read as 2D, x to the image's right and y up")
    return {"unit": unit, "axes": "RUT", "dims": 2}


def _number(place: Path | str, what: str, cell: str, default: float | None = None) -> float:
    if default is not None and not cell.strip():
        return default
    try:
        return float(cell)
    except ValueError:
        raise FormatError(f"{place}: {what} is {shown(cell)}, a number expected") from None


def _nanoseconds(place: str, cell: str) -> int:
    try:
        nanoseconds = Decimal(cell.strip()) * 10**9
        if not abs(nanoseconds) < 2**62:
            raise InvalidOperation
        return round(nanoseconds)
    except (InvalidOperation, ValueError):
        raise FormatError(f"{place}: Time is {shown(cell)}, seconds expected") from None


def write_trc(path: Path, recordings: list[Recording]) -> None:
    """Write one recording as marker trajectories in a .trc file."""
    recording = one_of(path, recordings)
    xyz, slots = in_unit(path, recording, TRC_AXES, "m")
    times = np.arange(len(xyz)) * (1e9 / recording.fps)
    if recording.time_ns is not None and (np.diff(recording.time_ns) > 0).all() and recording.time_ns[0] >= 0:
        first = int(recording.time_ns[0])
        relative = np.interp(np.arange(len(xyz)), slots, (recording.time_ns - first).astype(np.float64))
        stamps = [first + round(time) for time in relative.tolist()]
    else:
        stamps = [round(time) for time in times.tolist()]
    rate = f"{recording.fps:.9g}"
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{path.name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{len(xyz)}\t{len(NAMES)}\tm\t{rate}\t1\t{len(xyz)}",
        "Frame#\tTime\t" + "\t\t\t".join(NAMES) + "\t\t",
        "\t\t" + "\t".join(f"X{k}\tY{k}\tZ{k}" for k in range(1, len(NAMES) + 1)),
    ]
    for number, (stamp, frame) in enumerate(zip(stamps, xyz.reshape(len(xyz), -1).tolist(), strict=True), 1):
        cells = ["" if value != value else f"{value:.9g}" for value in frame]
        lines.append(f"{number}\t{stamp // 10**9}.{stamp % 10**9:09}\t" + "\t".join(cells))
    replace_file(path, "\n".join(lines) + "\n")


# .c3d


def _ezc3d(path: Path) -> Any:
    try:
        import ezc3d
    except ImportError:
        raise FormatError(f"{path}: .c3d needs ezc3d, which is not installed: pip install 'rtskel[c3d]'") from None
    return ezc3d


_CHILD = """
import sys, numpy, ezc3d
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
except (ImportError, ValueError, OSError):
    pass
file = ezc3d.c3d(sys.argv[1])
about = file["parameters"]["POINT"]
units = about["UNITS"]["value"]
numpy.savez(sys.stdout.buffer, xyz=file["data"]["points"][:3], names=numpy.array(about["LABELS"]["value"], str),
            lost=file["data"]["meta_points"]["residuals"][0] < 0, rate=about["RATE"]["value"][0],
            unit=str(units[0]) if units else "")
"""
_CHILD_BYTES, _CHILD_SECONDS = 4 << 30, 120

_Read = tuple[NDArray[np.float64], NDArray[np.bool_], list[str], float, str]


def _read_apart(path: Path) -> _Read:
    """Points [F, P, 3], which of them are lost, their names, the rate and the unit; read in a process of its own.

    ezc3d crashes on some damaged files, which would end this process.
    """
    command = [sys.executable, "-c", _CHILD, str(path), str(_CHILD_BYTES)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_CHILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FormatError(f"{path}: ezc3d cannot read it ({reason(error)})") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        words = printable(lines[-1][:120]) if lines and done.returncode > 0 else "it crashes"
        raise FormatError(f"{path}: not a .c3d file that ezc3d can read ({words})")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as found:
        xyz = np.moveaxis(found["xyz"].astype(np.float64), (0, 1, 2), (2, 1, 0))
        unit = _unit(str(found["unit"]))
        return xyz, found["lost"].T, found["names"].tolist(), float(found["rate"]), unit


def read_c3d(path: Path, options: Options) -> list[Recording]:
    """Read marker trajectories from a .c3d file."""
    head, size = content(path, 512), path.stat().st_size
    if len(head) < 512 or head[1] != 0x50:
        raise FormatError(f"{path}: not a .c3d file, or truncated ({size} bytes)")
    points, _, first, last = struct.unpack_from("<4H", head, 2)
    if points * (last - first + 1) * 8 > size and last < 0xFFFF:  # beyond, files state their length elsewhere
        raise FormatError(f"{path}: truncated: {last - first + 1} frames of {points} points in {size} bytes")
    _ezc3d(path)
    xyz, lost, names, rate, unit = _read_apart(path)
    if xyz.shape[1] != len(names) or lost.shape != xyz.shape[:2]:
        raise FormatError(f"{path}: {len(names)} labels for points {list(xyz.shape)}")
    xyz[lost] = np.nan
    if unit not in MM_PER_UNIT and options.unit is None:
        options.need(path, "unit", f"POINT:UNITS is {shown(unit)}")
    return [
        of_named_points(path, names, xyz, options, unit=unit, axes=C3D_AXES, fps=rate if 0 < rate <= 1000 else None)
    ]


def write_c3d(path: Path, recordings: list[Recording]) -> None:
    """Write one recording as marker trajectories in a .c3d file."""
    recording = one_of(path, recordings)
    ezc3d = _ezc3d(path)
    xyz, _ = in_unit(path, recording, C3D_AXES, "m")
    file = ezc3d.c3d()
    about = file["parameters"]["POINT"]
    about["UNITS"]["value"], about["RATE"]["value"], about["LABELS"]["value"] = ["m"], [recording.fps], list(NAMES)
    missing = np.isnan(xyz).any(axis=-1)
    points = np.ones((4, len(NAMES), len(xyz)))
    points[:3] = np.moveaxis(xyz, -1, 0).swapaxes(1, 2)
    file["data"]["points"] = points
    file["data"]["meta_points"]["residuals"] = np.where(missing.T, -1.0, 0.0)[None]
    part = path.with_name(f".{path.stem}.part.c3d")
    try:
        try:
            file.write(str(part))
            data = part.read_bytes()
        finally:
            part.unlink(missing_ok=True)
    except Exception as error:  # as above
        raise FormatError(f"{path}: cannot be written ({reason(error)})") from None
    replace_file(path, data)


_LACKS = "image, confidence, and of refined poses lookahead, sigma and flags"
TRC = Format(
    "trc",
    (".trc",),
    read_trc,
    write_trc,
    mark=rb"\A(?:\xef\xbb\xbf)?PathFileType",
    lacks=_LACKS,
    together="one",
    convention=True,
)
C3D = Format("c3d", (".c3d",), read_c3d, write_c3d, lacks=f"times, {_LACKS}", together="one", convention=True)
