"""Recordings of poses, and the files they live in.

A `Recording` is one person's sequence: positions, confidences, the frame clock, and what its numbers mean (unit, axes,
skeleton). `read(path)` gives the recordings of a file, `write(path, recordings)` makes one; the suffix says the format:

`.skels` (text, from the Progressive Transformers and Skeletor papers): one sequence a line, and 3 J + 1 numbers a
    frame, x y z of each joint, then a counter that grows from 0 toward 1. Neck at the origin, shoulder width 1/3, y
    down, z toward the camera. A file of the same name with the suffix `.files` names the sequences, line by line. The
    format has no frame rate (25 is assumed), no frame numbers and no confidence: a joint of which all coordinates are
    exactly 0 is missing, the neck excepted as long as another joint of its frame is there.

    In the PHOENIX14T files the right shoulder lies at +x, so their image is mirrored or their sides are swapped. Values
    are handed over as they stand in the file; `mirrored=True` states the first, `swap_sides=True` undoes the second,
    and `sides_look_swapped(recording)` tells whether a recording needs either.

`.npz` (numpy): all recordings of the file row by row, one row a frame. Every key but `xyz` may be left out:
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
    fps, skeleton, axes, mirrored, unit     defaults 25, "upper-body-50", "RDT", False, "m"
    dims        int        2: z is 0 and unknown; default 3
    image_width, image_height   int     size of the image in pixels; -1 (default): unknown
    format      text       "rtskel-recording-1" (default)
    Rows with the same stream and lookahead are one recording, in the order in which they stand. Never pickled.

Everything wrong with a file is one `FormatError` that names the file, the place and the value.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError, RtskelError
from rtskel.skeleton import (
    CANONICAL_AXES,
    LEFT_SHOULDER,
    NECK,
    RIGHT_SHOULDER,
    Skeleton,
    axes_matrix,
    skeleton,
    to_canonical,
)

SKELS_UNIT = "3-shoulder-widths"
"""The unit of `.skels` files: one unit is three shoulder widths, about 1.1 m."""

SHOULDER_WIDTH_MM = 370.0
"""The shoulder width by which recordings without a metric unit are brought to millimetres."""

MM_PER_UNIT: Mapping[str, float] = MappingProxyType({"m": 1000.0, "cm": 10.0, "mm": 1.0})

NPZ_FORMAT = "rtskel-recording-1"


@dataclass(frozen=True, eq=False)
class Recording:
    """One person's sequence of N poses of J joints, in three dimensions or, from an image alone, in two.

    A joint whose coordinates are not all finite is missing: it is kept as 0 with confidence 0.

    A recording with `dims` 2 says where joints lie in an image and nothing about depth: `xyz[..., 2]` is 0 everywhere,
    which is no measurement, and only the first two letters of `axes` mean anything (the third is T or A). Its unit is
    "px" as a rule, with the origin at the image's top left corner, and `image_size` is that image's. `rtskel.lift`
    turns it into one with `dims` 3. A recording of `dims` 3 may be in "px" too: MediaPipe estimates a depth in pixels.

    Attributes:
        xyz: float32 [N, J, 3], positions in `unit` along `axes`.
        fps: frames a second of the frame clock.
        name: what the sequence is called.
        confidence: float32 [N, J] in 0..1, 0 = missing; in refined output, missing before: `xyz` is filled in. Default:
            1 for every finite joint.
        skeleton: id of the skeleton, see `rtskel.skeleton`.
        axes: where x, y and z grow, see `rtskel.skeleton.axes_matrix`.
        mirrored: x is that of a mirrored image.
        unit: "m", "cm", "mm", "px", SKELS_UNIT, or whatever the maker of the recording calls it.
        slot: int64 [N], frame numbers on the frame clock, strictly ascending and not negative; a hole is a dropped
            frame. None: 0, 1, ..., N - 1.
        time_ns: int64 [N], when each frame was taken, on the estimator's clock. None: unknown.
        lookahead: frames of lookahead if this is refined output, else None.
        sigma: float32 [N, J], spread of the averaged predictions in `unit` (refined output).
        windows: int32 [N], how many predictions were averaged (refined output).
        flags: int32 [N], `rtskel.wire.Flag` bits (refined output).
        dims: 3, or 2 where depth is unknown.
        image_size: (width, height) in pixels of the image in which the poses were found. None: unknown.

    Raises:
        FormatError: an array of another shape or type, a confidence beyond 0..1, frame numbers that do not ascend, an
            impossible fps, an unknown skeleton or axes code, a depth in a 2D recording, an impossible image size. The
            message names the recording and the offender.
    """

    xyz: NDArray[np.float32]
    fps: float
    name: str
    confidence: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    skeleton: str = "upper-body-50"
    axes: str = CANONICAL_AXES
    mirrored: bool = False
    unit: str = "m"
    slot: NDArray[np.int64] | None = None
    time_ns: NDArray[np.int64] | None = None
    lookahead: int | None = None
    sigma: NDArray[np.float32] | None = None
    windows: NDArray[np.int32] | None = None
    flags: NDArray[np.int32] | None = None
    dims: int = 3
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        def fail(what: str) -> FormatError:
            return FormatError(f"recording {self.name!r}: {what}")

        try:
            joints = skeleton(self.skeleton).joints
            axes_matrix(self.axes)
        except RtskelError as error:
            raise fail(str(error)) from None
        if not (np.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise fail(f"fps {self.fps}: a number in (0, 1000] expected")
        object.__setattr__(self, "fps", float(self.fps))
        if self.lookahead is not None and self.lookahead < 0:
            raise fail(f"lookahead {self.lookahead}: 0 or more frames expected")
        if self.dims not in (2, 3):
            raise fail(f"dims {self.dims}: 2 or 3 expected")
        if self.dims == 2 and self.axes[2] not in "TA":
            raise fail(f"axes {self.axes!r}: x and y of a 2D recording lie in the image (such as {CANONICAL_AXES!r})")
        if self.image_size is not None:
            width, height = self.image_size
            if not (width == int(width) > 0 and height == int(height) > 0):
                raise fail(f"image size {width} x {height}: pixels expected")
            object.__setattr__(self, "image_size", (int(width), int(height)))

        def column(key: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
            array = np.asarray(getattr(self, key))
            wanted = "fiu" if np.issubdtype(dtype, np.floating) else "iu"
            if array.dtype.kind not in wanted:
                kind = "numbers" if wanted == "fiu" else "integers"
                raise fail(f"{key} has dtype {array.dtype}: {kind} expected")
            if array.shape != shape:
                raise fail(f"{key} has shape {list(array.shape)}: {list(shape)} expected")
            with np.errstate(over="ignore"):  # beyond float32 is infinite: missing, like any other infinity
                array = np.ascontiguousarray(array, dtype=dtype)
            object.__setattr__(self, key, array)
            return array

        frames = np.shape(self.xyz)[0] if np.ndim(self.xyz) else 0
        if frames == 0:
            raise fail("no frames")
        xyz = column("xyz", (frames, joints, 3), np.float32)
        lost = ~np.isfinite(xyz).all(axis=-1)
        if np.size(self.confidence) == 0:
            object.__setattr__(self, "confidence", np.ones((frames, joints), np.float32))
        confidence = column("confidence", (frames, joints), np.float32)
        wrong = ~((confidence >= 0) & (confidence <= 1))
        if wrong.any():
            at, joint = np.argwhere(wrong)[0]
            raise fail(f"frame {at}, joint {joint}: confidence {confidence[at, joint]}, a number in 0..1 expected")
        if lost.any():
            object.__setattr__(self, "xyz", np.where(lost[..., None], np.float32(0), xyz))
            object.__setattr__(self, "confidence", np.where(lost, np.float32(0), confidence))
        if self.dims == 2 and self.xyz[..., 2].any():
            at, joint = np.argwhere(self.xyz[..., 2])[0]
            raise fail(f"frame {at}, joint {joint}: z {self.xyz[at, joint, 2]} in a 2D recording, 0 expected")

        if self.slot is not None:
            slot = column("slot", (frames,), np.int64)
            if slot[0] < 0:
                raise fail(f"slot {slot[0]} of frame 0 is negative")
            back = np.flatnonzero(np.diff(slot) <= 0)
            if back.size:
                at = int(back[0]) + 1
                raise fail(f"frame {at} has slot {slot[at]} after slot {slot[at - 1]}: ascending slots expected")
        if self.time_ns is not None:
            column("time_ns", (frames,), np.int64)
        if self.sigma is not None:
            column("sigma", (frames, joints), np.float32)
        if self.windows is not None:
            column("windows", (frames,), np.int32)
        if self.flags is not None:
            column("flags", (frames,), np.int32)

    @property
    def frames(self) -> int:
        """Number of frames that are there, N."""
        return len(self.xyz)

    @property
    def slots(self) -> NDArray[np.int64]:
        """int64 [N]: `slot`, or 0..N-1 where the recording has none."""
        return np.arange(self.frames, dtype=np.int64) if self.slot is None else self.slot

    @property
    def dropped(self) -> int:
        """Number of dropped frames: holes in `slots` before the last frame, those before the first included."""
        return int(self.slots[-1]) + 1 - self.frames

    @property
    def seconds(self) -> float:
        """Length on the frame clock, dropped frames included."""
        return (self.frames + self.dropped) / self.fps

    @property
    def missing(self) -> NDArray[np.bool_]:
        """bool [N, J]: joints with confidence 0."""
        return np.equal(self.confidence, 0)

    def canonical(self) -> NDArray[np.float32]:
        """Positions [N, J, 3] in canonical axes (unit unchanged; missing joints stay 0)."""
        return to_canonical(self.xyz, self.axes, self.mirrored)

    def mm_per_unit(self) -> float:
        """Millimetres in one unit: by name for metric units, else such that the median shoulder width is 370 mm.

        Raises:
            FormatError: the unit is not metric and no frame has two shoulders apart from each other.
        """
        if self.unit in MM_PER_UNIT:
            return MM_PER_UNIT[self.unit]
        both = ~self.missing[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].any(axis=1)
        width = np.linalg.norm(self.xyz[both, RIGHT_SHOULDER] - self.xyz[both, LEFT_SHOULDER], axis=-1)
        median = float(np.median(width)) if width.size else 0.0
        if median <= 0:
            raise FormatError(f"recording {self.name!r}: no shoulders to tell the size of a {self.unit!r} from")
        return SHOULDER_WIDTH_MM / median


def exchange_sides(recording: Recording) -> Recording:
    """The recording with left and right joints exchanged, for files whose labels are on the wrong side."""
    mirror = list(skeleton(recording.skeleton).mirror)
    sigma = None if recording.sigma is None else recording.sigma[:, mirror]
    return replace(recording, xyz=recording.xyz[:, mirror], confidence=recording.confidence[:, mirror], sigma=sigma)


def sides_look_swapped(recording: Recording) -> bool:
    """Whether the right shoulder lies at the image's right of the left one in most frames that show both.

    For a person who faces the camera that means a mirrored image or swapped sides.
    """
    both = ~recording.missing[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].any(axis=1)
    x = recording.canonical()[both, :, 0]
    return bool(len(x)) and bool(np.mean(x[:, RIGHT_SHOULDER] > x[:, LEFT_SHOULDER]) > 0.5)


def read(
    path: str | Path,
    *,
    fps: float | None = None,
    axes: str | None = None,
    mirrored: bool | None = None,
    unit: str | None = None,
    swap_sides: bool = False,
) -> list[Recording]:
    """The recordings of a file, in its order; at least one.

    Args:
        path: a `.skels` or `.npz` file.
        fps, axes, mirrored, unit: what the file does not say, or says wrongly. None: as the file says, else the
            format's own convention.
        swap_sides: exchange left and right joints.

    Raises:
        FormatError: unknown suffix, unreadable, truncated or damaged file, wrong number of columns or joints, text that
            is no finite number; the message names file, place and value.
    """
    path = Path(path)
    recordings = _format_of(path).read(path)
    stated: dict[str, Any] = {"fps": fps, "axes": axes, "mirrored": mirrored, "unit": unit}
    stated = {key: value for key, value in stated.items() if value is not None}
    if stated:
        recordings = [_named(path, replace, recording, **stated) for recording in recordings]
    return [exchange_sides(recording) for recording in recordings] if swap_sides else recordings


def write(path: str | Path, recordings: Recording | Iterable[Recording]) -> None:
    """Write recordings into one file; it is complete under its name, or not there.

    A `.skels` file holds positions only, as they are: origin, unit, axes, fps and confidences above 0 are the caller's
    affair. Dropped frames and missing joints become zeros, which is what its readers take for missing.

    Raises:
        FormatError: unknown suffix, no recordings, a recording the format cannot hold, a file that cannot be written.
    """
    path = Path(path)
    recordings = [recordings] if isinstance(recordings, Recording) else list(recordings)
    if not recordings:
        raise FormatError(f"{path}: no recordings to write")
    _format_of(path).write(path, recordings)


# .skels

SKELS_SKELETON = "upper-body-50"
SKELS_FPS = 25.0


def _read_skels(path: Path) -> list[Recording]:
    body = skeleton(SKELS_SKELETON)
    width = 3 * body.joints + 1
    try:
        text = path.read_bytes().decode("ascii")
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file (byte {error.object[error.start]:#04x} at {error.start})") from None
    lines = text.rstrip("\n").split("\n")
    if not text.strip():
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
        whole = number < len(lines) or text.endswith("\n")
        _check_counter(place, frames[:, -1], whole)
        xyz = frames[:, :-1].reshape(len(frames), body.joints, 3).astype(np.float32)
        present = (xyz != 0).any(axis=-1)
        present[:, NECK] |= present.any(axis=1)  # the neck is the origin: 0 is where it is
        recordings.append(
            Recording(xyz, SKELS_FPS, name, confidence=present.astype(np.float32), skeleton=body.id, unit=SKELS_UNIT)
        )
    return recordings


def _numbers(place: str, tokens: list[str], width: int, body: Skeleton) -> NDArray[np.float64]:
    """Tokens as numbers that fit a float32; the first that is none of those is named with its place."""
    try:
        numbers = np.array(tokens, dtype=np.float64)
    except ValueError:
        numbers = np.full(len(tokens), np.nan)
        for at, token in enumerate(tokens):
            try:
                numbers[at] = float(token)
            except ValueError:
                break  # the rest stays NaN; the first NaN is what gets named
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
    # A file that was cut between two frames still has whole frames: only the counter knows how many there were.
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


def _write_skels(path: Path, recordings: list[Recording]) -> None:
    lines = []
    for recording in recordings:
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
        if recording.lookahead is None:  # else what was missing has been filled in
            kept = np.where(recording.missing[..., None], np.float32(0), kept)
        frames[recording.slots, :-1] = kept.reshape(recording.frames, -1)
        frames[:, -1] = np.arange(slots) / slots
        lines.append(" ".join(frames.ravel().astype(str)))  # the shortest digits that read back as the same float32
    _replace_file(path, ("\n".join(lines) + "\n").encode("ascii"))
    names = "\n".join(recording.name for recording in recordings) + "\n"
    _replace_file(path.with_suffix(".files"), names.encode("utf-8"))


# .npz


@dataclass(frozen=True)
class _Column:
    """A key of the `.npz` layout.

    Attributes:
        kinds: dtype kinds it is read from.
        per: what has a value of its own: "joint" [M, J], "row" [M], or "stream" (one for all rows, or [M]).
        default: what is written where a recording has no value.
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


def _read_npz(path: Path) -> list[Recording]:
    columns = _load_npz(path)
    if "xyz" not in columns:
        raise FormatError(f"{path}: no array 'xyz' (found: {', '.join(sorted(columns)) or 'nothing'})")
    xyz = columns.pop("xyz")
    if xyz.dtype.kind not in "fiu":
        raise FormatError(f"{path}: xyz has dtype {xyz.dtype}: numbers expected")
    if xyz.ndim != 3 or xyz.shape[-1] != 3:
        raise FormatError(f"{path}: xyz has shape {list(xyz.shape)}: [frames, joints, 3] expected")
    if len(xyz) == 0:
        raise FormatError(f"{path}: xyz has no frames")
    form = columns.pop("format", np.array(NPZ_FORMAT))
    if str(form) != NPZ_FORMAT:
        raise FormatError(f"{path}: format {str(form)!r}: {NPZ_FORMAT!r} expected")
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
        fields: dict[str, Any] = {}
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
        fields.setdefault("fps", _COLUMNS["fps"].default)
        size = fields.pop("image_width", -1), fields.pop("image_height", -1)
        fields["image_size"] = None if size == (-1, -1) else size
        recordings.append(
            _named(path, Recording, xyz[at], name=stream, lookahead=None if lookahead == -1 else lookahead, **fields)
        )
    return recordings


def _stated(recording: Recording, key: str) -> Any:
    """A recording's value of a key that is stated once, or the key's default."""
    if key in ("image_width", "image_height"):
        value = recording.image_size and recording.image_size[key == "image_height"]
    else:
        value = getattr(recording, "name" if key == "stream" else key)
    return _COLUMNS[key].default if value is None else value


def _absent(values: NDArray[Any], default: Any) -> bool:
    return bool((np.isnan(values) if default != default else values == default).all())


# What zipfile, zlib and numpy raise on bytes that are not what they claim to be.
_DAMAGE = (
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        content = path.read_bytes()
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise FormatError(f"{path}: not an .npz file, or truncated ({len(content)} bytes)")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            columns = {key: archive[key] for key in archive.files}
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None
    except _DAMAGE as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in text:
            text = "holds pickled Python objects, which are never read"
        raise FormatError(f"{path}: {text}") from None
    for key, array in columns.items():
        if not isinstance(array, np.ndarray):  # numpy hands over members that are no arrays as bytes
            raise FormatError(f"{path}: member {key!r} is not an array")
    return columns


def _write_npz(path: Path, recordings: list[Recording]) -> None:
    seen: set[tuple[str, int | None]] = set()
    joints = recordings[0].xyz.shape[1]
    for recording in recordings:
        if (recording.name, recording.lookahead) in seen:
            raise FormatError(f"{path}: two recordings are called {recording.name!r}")
        if recording.xyz.shape[1] != joints:
            raise FormatError(f"{path}: {recording.name!r} has {recording.xyz.shape[1]} joints, others have {joints}")
        seen.add((recording.name, recording.lookahead))
    columns: dict[str, NDArray[Any]] = {
        "format": np.array(NPZ_FORMAT),
        "xyz": np.concatenate([recording.xyz for recording in recordings]),
        "confidence": np.concatenate([recording.confidence for recording in recordings]),
    }
    for key in _OPTIONAL:
        values = [getattr(recording, key) for recording in recordings]
        given = next((value for value in values if value is not None), None)
        if given is not None:  # else the key is left out
            filler = _COLUMNS[key].default
            columns[key] = np.concatenate(
                [
                    np.full((recording.frames, *given.shape[1:]), filler, given.dtype) if value is None else value
                    for recording, value in zip(recordings, values, strict=True)
                ]
            )
    for key in ("stream", "lookahead", *_STATED):
        values = [_stated(recording, key) for recording in recordings]
        if len(set(values)) == 1 and key != "stream":
            columns[key] = np.array(values[0])
        else:
            columns[key] = np.repeat(np.array(values), [recording.frames for recording in recordings])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)  # type: ignore[arg-type]  # the keys are arrays, not numpy's own options
    _replace_file(path, buffer.getvalue())


# Any format


@dataclass(frozen=True)
class _Format:
    read: Callable[[Path], list[Recording]]
    write: Callable[[Path, list[Recording]], None]


_FORMATS: Mapping[str, _Format] = MappingProxyType(
    {".skels": _Format(_read_skels, _write_skels), ".npz": _Format(_read_npz, _write_npz)}
)

SUFFIXES = tuple(_FORMATS)
"""The file suffixes that `read` and `write` know."""


def _format_of(path: Path) -> _Format:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise FormatError(f"{path}: unknown recording format {path.suffix!r} (known: {', '.join(SUFFIXES)})") from None


def _named(path: Path, make: Callable[..., Recording], *args: Any, **fields: Any) -> Recording:
    """`make(...)`, with the file's name in front of what it finds wrong."""
    try:
        return make(*args, **fields)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _replace_file(path: Path, content: bytes) -> None:
    """Put content under that name in one step, so that nobody ever sees half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise FormatError(f"{path}: cannot be written ({error.strerror or error})") from None
