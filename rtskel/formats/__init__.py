"""Recordings of poses, and the files they live in.

A `Recording` is one person's sequence: positions, confidences, the frame clock, and what its numbers mean (unit, axes,
skeleton, whether there is depth). `read(path)` gives the recordings of a file or folder, whose format it recognises by
what is in it; `write(path, recordings)` makes a file, whose format is its suffix's.

| format | what | read | write | to be stated |
|---|---|---|---|---|
| `npz`, `csv`, `jsonl` | rtskel's own: all of a recording (`.table`) | yes | yes | in text: fps, unit if absent |
| `skels` | text of Progressive Transformers and Skeletor (`.skels`) | yes | yes | |
| `openpose` | OpenPose's JSON, a folder or one file (`.openpose`) | yes | | fps |
| `wholebody` | COCO-WholeBody-133: MMPose's JSON, RTMW's arrays (`.wholebody`) | yes | | fps; in 3D unit and axes |
| `holistic` | MediaPipe Holistic's landmarks as arrays (`.mediapipe`) | yes | | fps if absent; depth_scale for 3D |
| `pose` | `.pose` files, mapped by their points' names (`.posefile`) | yes | | depth_scale for 3D |
| `bvh` | rotations of a rest pose (`.bvh`) | | yes | |

`from_wholebody` and `from_holistic` take what these estimators return in Python.

Several people in one file are several recordings; who is who from frame to frame is told by `rtskel.formats.people`.
What a file does not say and rtskel cannot know is asked for, with the name of the option. Everything wrong with a file
is one `FormatError` that names the file, the place and the value.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rtskel.errors import FormatError
from rtskel.formats.bvh import write_bvh
from rtskel.formats.mediapipe import from_holistic, read_holistic_arrays
from rtskel.formats.openpose import files_in, read_openpose
from rtskel.formats.parsing import Options, named, parse_json, text
from rtskel.formats.posefile import read_pose
from rtskel.formats.recording import (
    MM_PER_UNIT,
    SHOULDER_WIDTH_MM,
    SKELS_UNIT,
    Recording,
    exchange_sides,
    sides_look_swapped,
)
from rtskel.formats.skels import read_skels, write_skels
from rtskel.formats.table import load_npz, read_csv, read_jsonl, read_npz, write_csv, write_jsonl, write_npz
from rtskel.formats.wholebody import from_wholebody, read_wholebody_arrays, read_wholebody_json

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
    "write",
    "write_apart",
]


@dataclass(frozen=True)
class _Format:
    """How a format is read and written.

    Attributes:
        suffixes: of its files; the first one that `write` knows it by.
        read, write: None where rtskel does not.
        takes: the options that mean something to it only.
        lacks: what of a recording is not in a file of it.
        together: which recordings one file holds: "all", those of one "lookahead", or only "one".
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, Options], list[Recording]] | None = None
    write: Callable[[Path, list[Recording]], None] | None = None
    takes: frozenset[str] = frozenset()
    lacks: str = ""
    together: str = "all"


def _read_wholebody(path: Path, options: Options) -> list[Recording]:
    if zipfile.is_zipfile(path):
        return read_wholebody_arrays(path, load_npz(path), options)
    return read_wholebody_json(path, options)


def _read_holistic(path: Path, options: Options) -> list[Recording]:
    return read_holistic_arrays(path, load_npz(path), options)


_DEPTH = frozenset({"depth_scale", "world"})
_FORMATS: Mapping[str, _Format] = MappingProxyType(
    {
        "skels": _Format(
            (".skels",),
            read_skels,
            write_skels,
            lacks="frame rate, unit, axes, times, confidence, and of refined poses lookahead, sigma and flags",
            together="lookahead",
        ),
        "npz": _Format((".npz",), read_npz, write_npz),
        "csv": _Format((".csv",), read_csv, write_csv),
        "jsonl": _Format((".jsonl",), read_jsonl, write_jsonl),
        "openpose": _Format((".json",), read_openpose),
        "wholebody": _Format((".json", ".npz"), _read_wholebody),
        "holistic": _Format((".npz",), _read_holistic, takes=_DEPTH),
        "pose": _Format((".pose",), read_pose, takes=_DEPTH),
        "bvh": _Format(
            (".bvh",),
            write=write_bvh,
            lacks="how bones' lengths change, times, confidence, and of refined poses lookahead, sigma and flags",
            together="one",
        ),
    }
)

FORMATS = tuple(name for name, form in _FORMATS.items() if form.read)
"""What `read` can be told that a file is."""

SUFFIXES = tuple(dict.fromkeys(suffix for form in _FORMATS.values() if form.read for suffix in form.suffixes))
"""The suffixes of files that `read` knows."""

_WRITTEN = {form.suffixes[0]: form for form in _FORMATS.values() if form.write}


def recognise(path: str | Path) -> str:
    """The format of a file or folder, one of `FORMATS`, by what is in it; its suffix decides where that says nothing.

    Raises:
        FormatError: no such file, or nothing that rtskel knows.
    """
    path = Path(path)
    if path.is_dir():
        if path.suffix.lower() in SUFFIXES:
            raise FormatError(f"{path}: is a directory")
        files_in(path)
        return "openpose"
    head = _head(path)
    if head.startswith(b"PK"):
        return _arrays(path)
    for name, pattern in _MARKS.items():
        if re.search(pattern, head, re.DOTALL):
            return name
    suffix = path.suffix.lower()
    if suffix == ".json":
        parse_json(path, text(path))
        raise FormatError(
            f"{path}: JSON, but neither OpenPose's (people), nor MMPose's (instances), nor rtskel's (xyz)"
        )
    for name, form in _FORMATS.items():
        if form.read and suffix in form.suffixes:
            return name
    known = "a folder of OpenPose's, " + ", ".join(SUFFIXES)
    raise FormatError(f"{path}: unknown recording format {path.suffix!r} (known: {known})")


_FIRST_LINE = rb"\A(?:\xef\xbb\xbf)?[^\r\n]*"
_MARKS: Mapping[str, bytes] = MappingProxyType(
    {
        "pose": rb"\A(?:\0\0\0\0|\xcd\xcc\xcc\x3d|\xcd\xcc\x4c\x3e).{6}[\1-\x20]\0[\1-\x40]\0[A-Za-z_]",
        "jsonl": rb'\A\s*\{[^\n]*"(?:xyz|kind)"\s*:',
        "openpose": rb'\A\s*\{.*"people"\s*:',
        "wholebody": rb'\A\s*[\[{].*"(?:instance_info|instances|meta_info|keypoints)"\s*:',
        "csv": _FIRST_LINE + rb"(?<=[A-Za-z0-9])_[xyz]\"?(?:,|\r|\n|\Z)",
        "skels": rb"\A[-+0-9.eE]+ [-+0-9.eE]+ [-+0-9.eE]+ ",
    }
)
"""What is found in the beginning of a file of each format, in the order in which it is looked for."""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None


def _arrays(path: Path) -> str:
    """The format of an `.npz` file, by the names of its arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return "npz"  # whose reader says what is wrong
    if "xyz" not in keys:
        if {"pose", "left_hand", "right_hand"} <= keys:
            return "holistic"
        if "keypoints" in keys:
            return "wholebody"
    return "npz"


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
    """The recordings of a file or folder, in its order; at least one.

    Args:
        path: a recording in any of `FORMATS`.
        format: which one it is. Default: recognised, see `recognise`.
        fps, axes, mirrored, unit, image_size: what the file does not say, or says wrongly. None: as the file says, else
            the format's own convention; where there is none, FormatError asks for it.
        swap_sides: exchange left and right joints.
        depth_scale: pixels in one unit of the z of MediaPipe's landmarks, which files do not say. None: such a file is
            read as 2D.
        world: MediaPipe's world landmarks, in metres, instead of those in the image.

    Raises:
        FormatError: unknown format, unreadable, truncated or damaged file, wrong number of columns or joints, text that
            is no finite number, a value that must be stated; the message names file, place and value.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise FormatError(f"{path}: unknown format {format!r} (known: {', '.join(FORMATS)})")
    name = recognise(path) if format is None else format
    form = _FORMATS[name]
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
    """Write recordings into one file; it is complete under its name, or not there.

    `.npz`, `.csv` and `.jsonl` hold all that a recording is, and any number of them. A `.skels` file holds positions
    only, as they are: origin, unit, axes, fps and confidences above 0 are the caller's affair. Dropped frames and
    missing joints become zeros, which is what its readers take for missing. What a `.bvh` file holds says
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
    """As `write`, but into as many files as the format needs, called `out.L4.skels` or `out.cam1.L4.bvh` then.

    Formats that have no frame numbers begin with the first frame: one who joined a running stream has no use for the
    frames before.

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
    """Before there is something to write: whether recordings can be written there.

    Returns:
        What of a recording the format does not hold; nothing if it holds all.

    Raises:
        FormatError: unknown suffix, or a place where no file can be written.
    """
    path = Path(path)
    form = _written(path)
    if not os.access(path.parent, os.W_OK) or path.is_dir():
        raise FormatError(f"{path}: cannot be written")
    return form.lacks


def _written(path: Path) -> _Format:
    try:
        return _WRITTEN[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_WRITTEN)
        raise FormatError(f"{path}: unknown recording format {path.suffix!r} to write (known: {known})") from None
