"""Folders with one JSON file per frame, and single files of that kind.

Files are named `<clip>_<number><words>.json`, as `take_000000000012_keypoints.json`; a folder may hold several clips.
The number is the last one; where that is part of a word (`000012_cam1.json`, `take_000012_1080p.json`) and tells fewer
files apart than one before it that stands alone, it is that one. Frame numbers count from the smallest one of the clip;
an absent number is a dropped frame. If no name has a number, files are taken in name order. Hidden files (`._*` of
macOS) and an unfinished last file are skipped and reported.
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
    every = sorted(name for name in os.listdir(folder) if name.lower().endswith(".json"))
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


_NUMBER = re.compile(r"\d+", re.ASCII)


def _parted(names: list[str]) -> list[tuple[str, int] | None]:
    """Of each name its clip and its frame number; None: it has none."""
    stems = [re.sub(r"(?:_keypoints)?\.[^.]*$", "", name) for name in names]
    found = [list(_NUMBER.finditer(stem)) for stem in stems]
    place = _place(stems, found)
    parted: list[tuple[str, int] | None] = []
    for stem, numbers in zip(stems, found, strict=True):
        if len(numbers) < place:
            parted.append(None)
            continue
        number = numbers[-place]
        after = stem[number.end() :] if place > 1 else ""  # of the last number, words after it tell nothing
        clip = stem[: number.start()].rstrip("_-. ") + after
        parted.append((clip.lstrip("_-. ") if place > 1 else clip, int(number[0][-18:])))
    return parted


def _place(stems: list[str], found: list[list[re.Match[str]]]) -> int:
    """Which of the numbers in names is the frame's, counted from the last one, 1."""
    count = len(found[0])
    if count < 2 or len({_NUMBER.sub("0", stem) for stem in stems}) > 1:
        return 1
    first = stems[0]
    beside = [first[max(at.start() - 1, 0) : at.start()] + first[at.end() : at.end() + 1] for at in reversed(found[0])]
    alone = [not re.search("[A-Za-z]", letters) for letters in beside]
    kinds = [len({numbers[-place][0] for numbers in found}) for place in range(1, count + 1)]
    better = [place for place in range(2, count + 1) if alone[place - 1] and kinds[place - 1] > kinds[0]]
    return better[0] if better and not alone[0] else 1


def clips_of(path: Path, options: Options) -> dict[str, dict[int, str]]:
    """For each clip, by the name of its recording: the paths of its files by frame number, ascending from 0."""
    folder, names = (path, names_in(path, options)) if path.is_dir() else (path.parent, [path.name])
    parted = _parted(names)
    clips: dict[str, dict[int, str]] = {}
    for place, (name, parts) in enumerate(zip(names, parted, strict=True)):
        if parts is None and any(parted):
            numbered = next(other for other, found in zip(names, parted, strict=True) if found)
            raise FormatError(f"{path}: {numbered} has a frame number, {name} has none")
        clip, number = parts or ("", place)
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
