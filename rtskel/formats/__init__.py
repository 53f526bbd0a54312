"""Recordings of poses, and the files they are stored in.

In: a file or folder of any supported program. Out: `Recording`s, one per person: positions, confidences, the frame
clock, and what the numbers mean (unit, axes, skeleton, 2D or 3D). What must hold: content decides the format; if the
file lacks a value, the error names the option that states it; any defect is one `FormatError` that names file, place
and value.

| format | what | read | write | must be stated |
|---|---|---|---|---|
| `npz`, `csv`, `jsonl` | rtskel's own, all of a recording (`.table`) | yes | yes | in text fps or times, unit |
| `skels` | text of Progressive Transformers and Skeletor (`.skels`) | yes | yes | |
| `openpose` | OpenPose's JSON, also of Pose2Sim, Sports2D, AI-Hub (`.openpose`) | yes | | fps |
| `wholebody` | MMPose's JSON, RTMW's arrays (`.wholebody`) | yes | | fps; in 3D unit and axes |
| `alphapose` | AlphaPose's JSON, COCO's results and annotations (`.alphapose`) | yes | | fps |
| `holistic` | MediaPipe's landmarks as arrays (`.mediapipe_arrays`) | yes | | fps if absent; depth_scale for 3D |
| `mediapipe` | MediaPipe's results as JSON (`.mediapipe_json`) | yes | | fps or times, image_size |
| `pose` | `.pose` files, mapped by point names (`.posefile`) | yes | | depth_scale for 3D |
| `trc`, `c3d` | OpenSim, Pose2Sim, optical systems (`.markers`) | yes | yes | axes if unusual |
| `freemocap` | freemocap's `..._body_3d_xyz.csv`, with hands (`.freemocap`) | yes | yes | fps |
| `npy` | freemocap's arrays, others by layout (`.freemocap`) | yes | yes | fps, unit, axes or image_size |
| `bvh` | rotations of a rest pose (`.bvh`) | | yes | |
| `vrma`, `glb` | animation of VRM's humanoid bones, glTF (`.vrma`) | | yes | |
| `mcap` | messages with time stamps (`.mcap`) | | yes | |
| `capture` | `.part`, what `rtskel subscribe --save` leaves if it dies (`.capture`) | yes | | |

To add a reader:

1. Write a module with `read_x(path, options) -> list[Recording]`. `parsing` has what readers share: `text`,
   `parse_json`, `load_npz`, `options.need` for what the file does not say. Map points to joints with a `Layout` of
   `mappings` and `gather`; where a file lists people anew in every frame, end with `people.recordings_of_people`.
   Report what is dropped or doubted with `options.note`; `doubts` has the checks that apply to every recording.
2. Describe it in a `Format` at the end of the module: name, suffixes, and the mark by which content is recognised.
3. Add that `Format` to `_FORMATS` below, before formats whose marks are weaker, and a line to the table above.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rtskel.errors import FormatError
from rtskel.formats import (
    alphapose,
    bvh,
    capture,
    frames,
    freemocap,
    markers,
    mcap,
    mediapipe_arrays,
    mediapipe_json,
    openpose,
    posefile,
    skels,
    table,
    vrma,
    wholebody,
)
from rtskel.formats.dataframes import to_frame, to_xarray
from rtskel.formats.doubts import examined
from rtskel.formats.mediapipe import from_holistic
from rtskel.formats.parsing import Format, Options, head_of, listed, named, npz_names, read_json, reason, zipped
from rtskel.formats.recording import (
    MM_PER_UNIT,
    SHOULDER_WIDTH_MM,
    SKELS_UNIT,
    Recording,
    exchange_sides,
    sides_look_swapped,
)
from rtskel.formats.wholebody import from_wholebody
from rtskel.text import printable

__all__ = [
    "FORMATS",
    "MM_PER_UNIT",
    "SHOULDER_WIDTH_MM",
    "SKELS_UNIT",
    "SUFFIXES",
    "WRITTEN",
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
    capture.FORMAT,
    posefile.FORMAT,
    markers.TRC,
    freemocap.NPY,
    table.JSONL,
    alphapose.FORMAT,
    openpose.FORMAT,
    wholebody.FORMAT,
    mediapipe_json.FORMAT,
    freemocap.CSV,
    table.CSV,
    skels.FORMAT,
    table.NPZ,
    mediapipe_arrays.FORMAT,
    markers.C3D,
    bvh.FORMAT,
    vrma.VRMA,
    vrma.GLB,
    mcap.FORMAT,
)

FORMATS = tuple(form.name for form in _FORMATS if form.read)
"""The names that `read(format=...)` accepts."""

SUFFIXES = (".skels", ".npz", ".csv", ".jsonl", ".json", ".pose", ".npy", ".trc", ".c3d")
"""The suffixes of files that `read` knows."""


def recognise(path: str | Path) -> str:
    """The format of a file or folder, one of `FORMATS`: by its content, else by its suffix.

    Raises:
        FormatError: no such file, or no known format.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    head = head_of(path)
    _refuse(path, head)
    if head.startswith(b"PK"):
        names = npz_names(path)
        return next((form.name for form in _FORMATS if form.arrays(names)), table.NPZ.name)
    marked = _marked(head)
    if marked is not None:
        return marked.name
    suffix = path.suffix.lower()
    if suffix == ".json":
        value = read_json(path, Options())
        first = value[0] if isinstance(value, list) and value else value
        keys = listed(first.keys()) if isinstance(first, dict) else f"a {type(value).__name__}"
        raise FormatError(f"{path}: JSON, but neither OpenPose's (people), nor MMPose's (instances), nor AlphaPose's "
                          f"(image_id), nor MediaPipe's (landmarks), nor rtskel's (xyz); found: {keys}")  # fmt: skip
    for form in _FORMATS:
        if form.read and suffix == form.suffixes[0]:
            return form.name
    known = "a folder of OpenPose's, " + ", ".join(SUFFIXES)
    raise FormatError(f"{path}: unknown recording format {path.suffix!r} (known: {known})")


_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
_OTHERS = (  # how files begin, how they are called, and what to do with them
    (b"\x89HDF", (".h5", ".hdf5", ".slp", ".nc"), "HDF5: save its arrays as .npz (keypoints [F, P, D], scores [F, P])"),
    (b"\x80\x04\x95", (".pkl", ".pickle", ".pt", ".pth", ".joblib"), "pickled Python objects, which are never read: "
     "save their arrays as .npz (keypoints [F, P, D], scores [F, P])"),
    (b"PAR1", (".parquet",), "a table in Parquet: save it as .csv, with columns such as nose_x"),
    (b"HIERARCHY", (".bvh",), ".bvh is written, not read: export the positions of joints as .trc or .c3d"),
    (b"Kaydara FBX", (".fbx",), "FBX is not read: export the positions of joints as .trc or .c3d"),
    (b"NO_OF_FRAMES", (".tsv", ".qtm"), "a table of Qualisys: export .c3d or .trc"),
    (b"", (".mp4", ".mov", ".avi", ".webm", ".mkv", ".m4v"), "a video: rtskel estimate finds poses in it"),
)  # fmt: skip


def _refuse(path: Path, head: bytes) -> None:
    """FormatError, with a way out, for files that people have and rtskel does not read."""
    suffix = path.suffix.lower()
    if head.startswith(_PACKED):
        raise FormatError(f"{path}: packed: unpack it first")
    if head.startswith(b"PK"):
        if suffix == ".npz" or any(name.endswith(".npy") for name in zipped(path)):
            return
        raise FormatError(f"{path}: a zip archive: unpack it first")
    for begin, suffixes, words in _OTHERS:
        if (begin and head.startswith(begin)) or (suffix in suffixes and _marked(head) is None):
            raise FormatError(f"{path}: {words}")


def _marked(head: bytes, folders: bool = False) -> Format | None:
    for form in _FORMATS:
        if form.mark and (form.folders or not folders) and re.search(form.mark, head, re.DOTALL):
            return form
    return None


def _of_folder(path: Path) -> str:
    if path.suffix.lower() in SUFFIXES:
        raise FormatError(f"{path}: is a directory")
    for name in frames.names_in(path)[:100]:  # pictures with nobody in them tell nothing
        marked = _marked(head_of(path / name), folders=True)
        if marked is not None:
            return marked.name
    return openpose.FORMAT.name


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
    corrected: bool = False,
    strict: bool = False,
) -> list[Recording]:
    """The recordings of a file or folder, in file order; at least one. Their `notes` say what was dropped or doubted.

    Where a file has times, they take precedence over a rate, whether the file or the caller states it.

    Args:
        path: a recording in any of `FORMATS`.
        format: its format. Default: recognised, see `recognise`.
        fps, axes, mirrored, unit, image_size: replace what the file says. None: as the file says, else the format's
            convention; where there is none, FormatError asks for the value.
        swap_sides: exchange left and right joints.
        depth_scale: pixels per unit of z in MediaPipe's landmarks, which files do not state. None: read as 2D.
        world: read MediaPipe's world landmarks, in metres, instead of those in the image.
        corrected: move their joints from where MediaPipe puts them to where bodies have them, as `rtskel estimate`
            does (`rtskel.formats.jointmap`). For landmarks as MediaPipe gives them, in frames with a whole upper body.
        strict: a FormatError instead of notes.

    Raises:
        FormatError: unknown format, unreadable, truncated or damaged file, wrong number of columns or joints, text that
            is not a finite number, a value that must be stated; the message names file, place and value.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise FormatError(f"{path}: unknown format {format!r} (known: {', '.join(FORMATS)})")
    name = recognise(path) if format is None else format
    form = next(form for form in _FORMATS if form.name == name)
    assert form.read is not None
    for option, given in (("depth_scale", depth_scale is not None), ("world", world), ("corrected", corrected)):
        if given and option not in form.takes:
            raise FormatError(f"{path}: --{option.replace('_', '-')} is for MediaPipe's landmarks, this is {name}")
    if corrected and not world:
        raise FormatError(f"{path}: --corrected moves joints of world landmarks: state --world, too")
    options = Options(
        fps=fps,
        unit=unit,
        axes=axes,
        image_size=image_size,
        depth_scale=depth_scale,
        world=world,
        corrected=corrected,
    )
    stated: dict[str, Any] = {"fps": fps, "axes": axes, "mirrored": mirrored, "unit": unit, "image_size": image_size}
    stated = {key: value for key, value in stated.items() if value is not None}
    by_convention = form.convention and axes is None
    try:
        recordings = [named(path, replace, recording, **stated) for recording in form.read(path, options)]
        recordings = [
            named(path, examined, recording, options, own=form.own, by_convention=by_convention)
            for recording in recordings
        ]
    except FormatError as error:
        raise FormatError(printable(str(error))) from error.__cause__
    except Exception as error:  # a file that its reader cannot handle must fail this read only
        raise FormatError(f"{path}: damaged, or unlike any {name} file ({reason(error)})") from error
    notes = list(dict.fromkeys(note for recording in recordings for note in recording.notes))
    if strict and notes:
        raise FormatError(f"{path}: {printable('; '.join(notes))}")
    return [exchange_sides(recording) for recording in recordings] if swap_sides else recordings


def write(path: str | Path, recordings: Recording | Iterable[Recording]) -> None:
    """Write recordings into one file, whose suffix decides the format. It is written completely or not at all.

    `.npz`, `.csv` and `.jsonl` hold everything, and any number of recordings. `.skels` holds positions only, unchanged;
    dropped frames and missing joints become zeros, which its readers take as missing. For other formats, see:
    `.bvh`, `.trc` and `.c3d` (`markers`), `.npy` and `..._body_3d_xyz.csv` (`freemocap`).

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
    form = _written(path)
    together = form.together
    if together == "all" or not recordings:
        write(path, recordings)
        return [path]
    by_name = together == "one" and len({recording.name for recording in recordings}) > 1
    by_lookahead = len({recording.lookahead for recording in recordings}) > 1
    files: dict[Path, list[Recording]] = {}
    for recording in recordings:
        words = []
        if by_name:
            words.append(recording.name)
        if by_lookahead:
            words.append("offline" if recording.lookahead is None else f"L{recording.lookahead}")
        fixed = not form.suffixes[0].startswith(".")  # the end of the name says what is in the file
        name = ".".join([*words, path.name] if fixed else [path.stem, *words]) + ("" if fixed else path.suffix)
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
        The parts of a recording that the format cannot hold; empty if it holds everything.

    Raises:
        FormatError: unknown suffix, or a place where no file can be written.
    """
    path = Path(path)
    form = _written(path)
    if not path.parent.is_dir():
        raise FormatError(f"{path}: cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise FormatError(f"{path}: cannot be written: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise FormatError(f"{path}: cannot be written")
    return form.lacks


WRITTEN = (".skels", ".npz", ".csv", ".jsonl", ".bvh", ".trc", ".c3d", ".npy")
"""The suffixes of files that `write` makes; `..._body_3d_xyz.csv` is freemocap's."""


def _written(path: Path) -> Format:
    writable = {form.suffixes[0]: form for form in _FORMATS if form.write}
    fitting = [suffix for suffix in writable if path.name.lower().endswith(suffix)]
    if not fitting:
        known = ", ".join(WRITTEN)
        raise FormatError(f"{path}: unknown recording format {path.suffix!r} to write (known: {known})")
    return writable[max(fitting, key=len)]
