"""Folders with one JSON file per frame, and single files of that kind.

Files are named `<clip>_<number><words>.json`, as `take_000000000012_keypoints.json`; a folder may hold several clips.
Frame numbers count from the smallest one of the clip; an absent number is a dropped frame. If no name has a number,
files are taken in name order. Hidden files (`._*` of macOS) and an unfinished last file are skipped and reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rtskel.errors import FormatError
from rtskel.formats.parsing import Options, Unfinished, read_json
from rtskel.rates import MOST_SLOTS, too_far_apart


def names_in(folder: Path, options: Options | None = None) -> list[str]:
    """The names of the JSON files in a folder, sorted; FormatError if there are none."""
    every = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    shown = [name for name in every if not name.startswith(".")]
    if options is not None and len(shown) < len(every):
        hidden = next(name for name in every if name.startswith("."))
        options.note(f"hidden files skipped: {len(every) - len(shown)} ({hidden}, ...)")
    if (named := [name for name in shown if name.endswith("keypoints.json")]) and len(named) < len(shown):
        if options is not None:
            other = next(name for name in shown if not name.endswith("keypoints.json"))
            options.note(f"files not called ..._keypoints.json skipped: {len(shown) - len(named)} ({other}, ...)")
        shown = named
    if not shown:
        below = sum(1 for path in folder.glob("*/*.json") if not path.name.startswith("."))
        where = f" ({below} in its subfolders: read those one by one)" if below else ""
        raise FormatError(f"{folder}: directory without OpenPose's *_keypoints.json, or other JSON per frame{where}")
    return shown


def check_span(path: Path | str, first: int, last: int, frames: int) -> None:
    """FormatError if numbers from `first` to `last` cannot be those of so few frames."""
    if too_far_apart(first, last, frames):
        raise FormatError(f"{path}: {frames} frames with numbers from {first} to {last}: no frame numbers")


_NUMBER = re.compile(r"(.*?)(\d+)\D*?(?:\.[^.]*)?", re.ASCII)
"""A name with a frame number: its clip, and the number, the last one before the suffix."""


def clips_of(path: Path, options: Options) -> dict[str, dict[int, str]]:
    """For each clip, by the name of its recording: the paths of its files by frame number, ascending from 0."""
    folder, names = (path, names_in(path, options)) if path.is_dir() else (path.parent, [path.name])
    matches = [_NUMBER.fullmatch(name) for name in names]
    clips: dict[str, dict[int, str]] = {}
    for place, (name, match) in enumerate(zip(names, matches, strict=True)):
        if match is None and any(matches):
            numbered = next(other for other, found in zip(names, matches, strict=True) if found)
            raise FormatError(f"{path}: {numbered} has a frame number, {name} has none")
        clip, number = (match[1].rstrip("_-. "), int(match[2][-18:])) if match else ("", place)
        clash = clips.setdefault(clip, {}).setdefault(number, name)
        if clash is not name:
            raise FormatError(f"{path}: {clash} and {name} are the same frame")
    named = {}
    for clip, frames in clips.items():
        first, last = min(frames), max(frames)
        if last - first > MOST_SLOTS * len(frames):
            raise FormatError(f"{path}: {len(frames)} files with numbers from {first} to {last}: "
                              "no frame numbers (rename the files)")  # fmt: skip
        name = clip if len(clips) > 1 and clip else path.name if path.is_dir() else path.stem
        named[name] = {number - first: os.path.join(folder, frames[number]) for number in sorted(frames)}
    return named


def values_of(files: dict[int, str], options: Options) -> Iterator[tuple[int, str, Any]]:
    """Frame number, file and JSON value of each file of a clip."""
    last = max(files)
    for number, file in files.items():
        try:
            value = read_json(file, options)
        except Unfinished:
            if number != last or number == 0:
                raise
            options.note(f"unfinished last file skipped: {os.path.basename(file)}")
            return
        yield number, file, value
