"""Recordings of poses, and the files they are stored in.

In: a file or folder of any supported program. Out: `Recording`s, one per person: positions, confidences, the frame
clock, and what the numbers mean (unit, axes, skeleton, 2D or 3D). What must hold: content decides the format, a value
that the file lacks is asked for by option name, and any defect is one `FormatError` that names file, place and value.

| format | what | read | write | must be stated |
|---|---|---|---|---|
| `npz`, `csv`, `jsonl` | rtskel's own: all of a recording (`.table`) | yes | yes | text: fps, unit if absent |
| `skels` | text of Progressive Transformers and Skeletor (`.skels`) | yes | yes | |
| `openpose` | OpenPose's JSON, a folder or one file (`.openpose`) | yes | | fps |
| `wholebody` | COCO-WholeBody-133: MMPose's JSON, RTMW's arrays (`.wholebody`) | yes | | fps; in 3D unit and axes |
| `holistic` | MediaPipe Holistic's landmarks as arrays (`.mediapipe`) | yes | | fps if absent; depth_scale for 3D |
| `pose` | `.pose` files, mapped by point names (`.posefile`) | yes | | depth_scale for 3D |
| `bvh` | rotations of a rest pose (`.bvh`) | | yes | |
| `vrma`, `glb` | animation of VRM's humanoid bones, glTF (`.vrma`) | | yes | |
| `mcap` | messages with time stamps (`.mcap`) | | yes | |

To add a reader:

1. Write a module with `read_x(path, options) -> list[Recording]`. `parsing` has what readers share: `text`,
   `parse_json`, `load_npz`, `options.need` for what the file does not say. Map points to joints with a `Layout` of
   `mappings` and `gather`; where a file lists people anew in every frame, end with `people.recordings_of_people`.
2. Describe it in a `Format` at the end of the module: name, suffixes, and the mark by which content is recognised.
3. Add that `Format` to `_FORMATS` below, before formats whose marks are weaker, and a line to the table above.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rtskel.errors import FormatError
from rtskel.formats import bvh, mcap, mediapipe, openpose, posefile, skels, table, vrma, wholebody
from rtskel.formats.dataframes import to_frame, to_xarray
from rtskel.formats.mediapipe import from_holistic
from rtskel.formats.parsing import Format, Options, content, named, parse_json, text
from rtskel.formats.recording import (
    MM_PER_UNIT,
    SHOULDER_WIDTH_MM,
    SKELS_UNIT,
    Recording,
    exchange_sides,
    sides_look_swapped,
)
from rtskel.formats.wholebody import from_wholebody

__all__ = [
    "FORMATS",
    "MM_PER_UNIT",
    "SHOULDER_WIDTH_MM",
    "SKELS_UNIT",
    "SUFFIXES",
    "Recording",
    "check_writable",
    "exchange_sides",
    "from_holistic",
    "from_wholebody",
    "read",
    "recognise",
    "sides_look_swapped",
    "to_frame",
    "to_xarray",
    "write",
    "write_apart",
]

_FORMATS = (  # in the order in which marks are looked for
    posefile.FORMAT,
    table.JSONL,
    openpose.FORMAT,
    wholebody.FORMAT,
    table.CSV,
    skels.FORMAT,
    table.NPZ,
    mediapipe.FORMAT,
    bvh.FORMAT,
    vrma.VRMA,
    vrma.GLB,
    mcap.FORMAT,
)

FORMATS = tuple(form.name for form in _FORMATS if form.read)
"""The names that `read(format=...)` accepts."""

SUFFIXES = (".skels", ".npz", ".csv", ".jsonl", ".json", ".pose")
"""The suffixes of files that `read` knows."""


def recognise(path: str | Path) -> str:
    """The format of a file or folder, one of `FORMATS`: by its content, else by its suffix.

    Raises:
        FormatError: no such file, or no known format.
    """
    path = Path(path)
    if path.is_dir():
        if path.suffix.lower() in SUFFIXES:
            raise FormatError(f"{path}: is a directory")
        openpose.files_in(path)
        return openpose.FORMAT.name
    head = content(path, 1 << 16)
    if head.startswith(b"PK"):
        names = _array_names(path)
        return next((form.name for form in _FORMATS if form.arrays(names)), table.NPZ.name)
    for form in _FORMATS:
        if form.mark and re.search(form.mark, head, re.DOTALL):
            return form.name
    suffix = path.suffix.lower()
    if suffix == ".json":
        parse_json(path, text(path))
        raise FormatError(
            f"{path}: JSON, but neither OpenPose's (people), nor MMPose's (instances), nor rtskel's (xyz)"
        )
    for form in _FORMATS:
        if form.read and suffix == form.suffixes[0]:
            return form.name
    known = "a folder of OpenPose's, " + ", ".join(SUFFIXES)
    raise FormatError(f"{path}: unknown recording format {path.suffix!r} (known: {known})")


def _array_names(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return set()  # the reader of `.npz` says what is wrong


def read(
    path: str | Path,
    *,
    format: str | None = None,
    fps: float | None = None,
    axes: str | None = None,
    mirrored: bool | None = None,
    unit: str | None = None,
    swap_sides: bool = False,
    image_size: tuple[int, int] | None = None,
    depth_scale: float | None = None,
    world: bool = False,
) -> list[Recording]:
    """The recordings of a file or folder, in file order; at least one.

    Args:
        path: a recording in any of `FORMATS`.
        format: its format. Default: recognised, see `recognise`.
        fps, axes, mirrored, unit, image_size: replace what the file says. None: as the file says, else the format's
            convention; where there is none, FormatError asks for the value.
        swap_sides: exchange left and right joints.
        depth_scale: pixels per unit of z in MediaPipe's landmarks, which files do not state. None: read as 2D.
        world: read MediaPipe's world landmarks, in metres, instead of those in the image.

    Raises:
        FormatError: unknown format, unreadable, truncated or damaged file, wrong number of columns or joints, text that
            is no finite number, a value that must be stated; the message names file, place and value.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise FormatError(f"{path}: unknown format {format!r} (known: {', '.join(FORMATS)})")
    name = recognise(path) if format is None else format
    form = next(form for form in _FORMATS if form.name == name)
    assert form.read is not None
    for option, given in (("depth_scale", depth_scale is not None), ("world", world)):
        if given and option not in form.takes:
            raise FormatError(f"{path}: --{option.replace('_', '-')} is for MediaPipe's landmarks, this is {name}")
    options = Options(fps=fps, unit=unit, axes=axes, image_size=image_size, depth_scale=depth_scale, world=world)
    recordings = form.read(path, options)
    stated: dict[str, Any] = {"fps": fps, "axes": axes, "mirrored": mirrored, "unit": unit, "image_size": image_size}
    stated = {key: value for key, value in stated.items() if value is not None}
    if stated:
        recordings = [named(path, replace, recording, **stated) for recording in recordings]
    return [exchange_sides(recording) for recording in recordings] if swap_sides else recordings


def write(path: str | Path, recordings: Recording | Iterable[Recording]) -> None:
    """Write recordings into one file, whose suffix decides the format. A file is written whole or not at all.

    `.npz`, `.csv` and `.jsonl` hold everything, and any number of recordings. `.skels` holds positions only, unchanged;
    dropped frames and missing joints become zeros, which its readers take as missing. For `.bvh` see
    `rtskel.formats.bvh`.

    Raises:
        FormatError: unknown suffix, no recordings, a recording the format cannot hold, a file that cannot be written.
    """
    path = Path(path)
    recordings = [recordings] if isinstance(recordings, Recording) else list(recordings)
    if not recordings:
        raise FormatError(f"{path}: no recordings to write")
    writer = _written(path).write
    assert writer is not None
    writer(path, recordings)


def write_apart(path: str | Path, recordings: Iterable[Recording]) -> list[Path]:
    """As `write`, but into as many files as the format needs, named `out.L4.skels` or `out.cam1.L4.bvh`.

    In these files the first frame of a recording comes first: frames before it, of a stream that was already running,
    are left out.

    Returns:
        The files.

    Raises:
        FormatError: as `write`.
    """
    path, recordings = Path(path), list(recordings)
    together = _written(path).together
    if together == "all" or not recordings:
        write(path, recordings)
        return [path]
    by_name = together == "one" and len({recording.name for recording in recordings}) > 1
    by_lookahead = len({recording.lookahead for recording in recordings}) > 1
    files: dict[Path, list[Recording]] = {}
    for recording in recordings:
        words = [path.stem]
        if by_name:
            words.append(recording.name)
        if by_lookahead:
            words.append("offline" if recording.lookahead is None else f"L{recording.lookahead}")
        name = ".".join(words) + path.suffix
        if by_name and ("/" in recording.name or "\0" in recording.name):
            raise FormatError(f"{path}: recording {recording.name!r} cannot be part of a file's name")
        recording = replace(recording, slot=recording.slots - recording.slots[0])
        files.setdefault(path.with_name(name), []).append(recording)
    for file, of_file in files.items():
        write(file, of_file)
    return list(files)


def check_writable(path: str | Path) -> str:
    """Check, before recordings exist, that they can be written there.

    Returns:
        What of a recording the format cannot hold; empty if it holds everything.

    Raises:
        FormatError: unknown suffix, or a place where no file can be written.
    """
    path = Path(path)
    form = _written(path)
    if not os.access(path.parent, os.W_OK) or path.is_dir():
        raise FormatError(f"{path}: cannot be written")
    return form.lacks


def _written(path: Path) -> Format:
    writable = {form.suffixes[0]: form for form in _FORMATS if form.write}
    try:
        return writable[path.suffix.lower()]
    except KeyError:
        known = ", ".join(writable)
        raise FormatError(f"{path}: unknown recording format {path.suffix!r} to write (known: {known})") from None
