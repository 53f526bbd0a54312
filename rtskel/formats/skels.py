"""`.skels`: text, one sequence a line (the Progressive Transformers and Skeletor papers).

3 J + 1 numbers per frame: x y z of each joint, then a counter that grows from 0 toward 1. Neck at the origin, shoulder
width 1/3, y down, z toward the camera. A file of the same name with the suffix `.files` names the sequences, line by
line. The format has no frame rate (its data has 25), no frame numbers and no confidence: a joint at exactly 0 is
missing, except the neck of a frame with other joints.

In the PHOENIX14T files the right shoulder lies at +x: the image is mirrored or the sides are swapped. Values are read
unchanged; `mirrored=True` declares the former, `swap_sides=True` undoes the latter, and `sides_look_swapped(recording)`
tells whether a recording needs one of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.parsing import Format, Options, replace_file, text
from rtskel.formats.recording import SKELS_UNIT, Recording
from rtskel.skeleton import NECK, Skeleton, skeleton

SKELS_SKELETON = "upper-body-50"
SKELS_FPS = 25.0


def read_skels(path: Path, options: Options) -> list[Recording]:
    """Read a .skels file, one sequence a line."""
    body = skeleton(SKELS_SKELETON)
    width = 3 * body.joints + 1
    whole_text = text(path, options, "ascii")
    lines = whole_text.rstrip("\n").split("\n")
    if not whole_text.strip():
        raise FormatError(f"{path}: empty file")
    names = _names_beside(path, len(lines))
    recordings = []
    for number, (line, name) in enumerate(zip(lines, names, strict=True), 1):
        place = f"{path}, sequence {number} ({name})"
        tokens = line.split()
        numbers = _numbers(place, tokens, width, body)
        if not tokens:
            raise FormatError(f"{place}: empty line")
        if len(tokens) % width:
            raise FormatError(
                f"{place}: {len(tokens)} numbers, not a multiple of the {width} of a frame "
                f"({body.joints} joints x 3 + counter): truncated, or of another skeleton"
            )
        frames = numbers.reshape(-1, width)
        whole = number < len(lines) or whole_text.endswith("\n")
        _check_counter(place, frames[:, -1], whole)
        xyz = frames[:, :-1].reshape(len(frames), body.joints, 3).astype(np.float32)
        present = (xyz != 0).any(axis=-1)
        present[:, NECK] |= present.any(axis=1)  # the neck is the origin: 0 is where it is
        recordings.append(
            Recording(xyz, SKELS_FPS, name, confidence=present.astype(np.float32), skeleton=body.id, unit=SKELS_UNIT)
        )
    return recordings


def _numbers(place: str, tokens: list[str], width: int, body: Skeleton) -> NDArray[np.float64]:
    """Tokens as numbers that fit float32; FormatError names the first that does not, and its place."""
    try:
        numbers = np.array(tokens, dtype=np.float64)
    except ValueError:
        numbers = np.full(len(tokens), np.nan)
        for at, token in enumerate(tokens):
            try:
                numbers[at] = float(token)
            except ValueError:
                break  # the rest stays NaN: the first NaN is reported
    wrong = np.flatnonzero(~(np.abs(numbers) <= np.finfo(np.float32).max))
    if wrong.size:
        frame, column = divmod(int(wrong[0]), width)
        what = "counter" if column == width - 1 else f"{'xyz'[column % 3]} of joint {column // 3}"
        if column < width - 1:
            what += f" ({body.names[column // 3]})"
        raise FormatError(f"{place}, frame {frame}, {what}: {tokens[wrong[0]][:40]!r} is not a finite number")
    return numbers


def _check_counter(place: str, counter: NDArray[np.float64], whole: bool) -> None:
    wrong = np.flatnonzero((counter < 0) | (counter > 1))
    if wrong.size:
        raise FormatError(
            f"{place}, frame {wrong[0]}: counter {counter[wrong[0]]:g}, a number in 0..1 expected (wrong column count?)"
        )
    # A file cut between two frames has whole frames: only the counter shows that some are absent.
    frames = len(counter)
    if not whole and frames > 1 and counter[-1] < (frames - 1) / frames - 2e-3:
        raise FormatError(f"{place}: ends at counter {counter[-1]:g} without a line end: truncated")


def _names_beside(path: Path, count: int) -> list[str]:
    beside = path.with_suffix(".files")
    if not beside.exists():
        return [path.stem] if count == 1 else [f"{path.stem}-{number}" for number in range(1, count + 1)]
    try:
        names = [line.strip() for line in beside.read_text(encoding="utf-8").rstrip("\n").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{beside}: cannot be read ({error})") from None
    if len(names) != count:
        raise FormatError(f"{beside}: {len(names)} names for the {count} sequences of {path.name}")
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            raise FormatError(f"{beside}, line {number}: name {name!r} is {'repeated' if name else 'empty'}")
    return names


def write_skels(path: Path, recordings: list[Recording]) -> None:
    """Write recordings as a .skels file, one sequence a line."""
    lines = []
    for recording in recordings:
        if recording.dims == 2:
            raise FormatError(f"{path}: recording {recording.name!r} is 2D, .skels holds 3D")
        if recording.skeleton != SKELS_SKELETON:
            raise FormatError(f"{path}: recording {recording.name!r} has skeleton {recording.skeleton!r}, "
                              f".skels holds {SKELS_SKELETON!r}")  # fmt: skip
        if recording.lookahead is not None and len({r.lookahead for r in recordings}) > 1:
            raise FormatError(f"{path}: .skels cannot hold several lookaheads: write one, or an .npz")
        if "\n" in recording.name or not recording.name.strip():
            raise FormatError(f"{path}: {recording.name!r} cannot be a line of a .files file")
        slots = int(recording.slots[-1]) + 1
        frames = np.zeros((slots, recording.xyz[0].size + 1), np.float32)
        kept = recording.xyz
        if recording.lookahead is None:  # refined poses: missing joints have been filled in
            kept = np.where(recording.missing[..., None], np.float32(0), kept)
        frames[recording.slots, :-1] = kept.reshape(recording.frames, -1)
        frames[:, -1] = np.arange(slots) / slots
        lines.append(" ".join(frames.ravel().astype(str)))  # the shortest digits that read back as the same float32
    replace_file(path, "\n".join(lines) + "\n")
    names = "\n".join(recording.name for recording in recordings) + "\n"
    replace_file(path.with_suffix(".files"), names)


FORMAT = Format(
    "skels",
    (".skels",),
    read_skels,
    write_skels,
    mark=rb"\A[-+0-9.eE]+ [-+0-9.eE]+ [-+0-9.eE]+ ",
    lacks="frame rate, unit, axes, times, confidence, and of refined poses lookahead, sigma and flags",
    together="lookahead",
)
