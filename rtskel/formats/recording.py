"""`Recording`: one person's poses, and what their numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError, RtskelError
from rtskel.skeleton import (
    CANONICAL_AXES,
    LEFT_SHOULDER,
    RIGHT_SHOULDER,
    SHOULDER_WIDTH,
    axes_matrix,
    skeleton,
    to_canonical,
)

T = TypeVar("T", bound=np.generic)

SKELS_UNIT = "3-shoulder-widths"
"""The unit of `.skels` files: one unit is three shoulder widths, about 1.1 m."""

SHOULDER_WIDTH_MM = 370.0
"""The shoulder width assumed for recordings without a metric unit."""

MM_PER_UNIT: Mapping[str, float] = MappingProxyType({"m": 1000.0, "cm": 10.0, "mm": 1.0})
"""Millimetres in each metric unit."""

MM_PER_CANONICAL_UNIT = SHOULDER_WIDTH_MM / SHOULDER_WIDTH
"""Millimetres in one unit of the canonical frame, in which the shoulders are `SHOULDER_WIDTH` apart."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One person's sequence of N poses of J joints, in three dimensions or, from an image alone, in two.

    A joint with a NaN or infinite coordinate is missing: it is kept as 0 with confidence 0.

    A recording with `dims` 2 has no depth: `xyz[..., 2]` is 0 everywhere, and only the first two letters of `axes`
    matter (the third is T or A). Its unit is usually "px", with the origin at the top left corner of an image of
    `image_size`. `rtskel.lift` turns it into 3D. 3D may be in "px" too: MediaPipe's depth is.

    Attributes:
        xyz: float32 [N, J, 3], positions in `unit` along `axes`.
        fps: frames a second of the frame clock.
        name: of the sequence.
        confidence: float32 [N, J] in 0..1, 0 = missing; in refined output, missing in the input: `xyz` is filled in.
            Default: 1 for every finite joint.
        skeleton: id of the skeleton, see `rtskel.skeleton`.
        axes: directions of x, y and z, see `rtskel.skeleton.axes_matrix`.
        mirrored: the image was mirrored.
        unit: "m", "cm", "mm", "px", SKELS_UNIT, or any other name.
        slot: int64 [N], frame numbers on the frame clock, strictly ascending, from 0; a hole is a dropped frame.
            None: 0, 1, ..., N - 1.
        time_ns: int64 [N], when each frame was taken, on the estimator's clock. None: unknown.
        lookahead: frames of lookahead if this is refined output, else None.
        sigma: float32 [N, J], spread of the averaged predictions in `unit` (refined output).
        windows: int32 [N], how many predictions were averaged (refined output).
        flags: int32 [N], `rtskel.wire.Flag` bits (refined output).
        dims: 3, or 2 where depth is unknown.
        image_size: (width, height) in pixels of the image in which the poses were found. None: unknown.
        person: who it is, as the file names its people. None: unknown.
        view: which camera it is, as the file names its cameras. None: unknown.
        notes: what the reader dropped or doubted, one line each. They are about the file, not part of the recording:
            not written, and not a dataclass field.

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
    person: str | None = None
    view: str | None = None
    if TYPE_CHECKING:
        notes: tuple[str, ...] = ()
    else:
        notes: InitVar[tuple[str, ...]] = ()  # `dataclasses.replace` keeps it

    def __post_init__(self, notes: tuple[str, ...] = ()) -> None:  # noqa: RUF033  see above
        object.__setattr__(self, "notes", tuple(notes))
        try:
            self._check_values()
            self._check_poses()
            self._check_columns()
        except RtskelError as error:
            name = self.name if len(self.name) <= 80 else self.name[:77] + "..."
            raise FormatError(f"recording {name!r}: {error}") from None

    def _check_values(self) -> None:
        axes_matrix(self.axes)
        if not (np.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise FormatError(f"fps {self.fps}: a number in (0, 1000] expected")
        object.__setattr__(self, "fps", float(self.fps))
        if self.lookahead is not None and self.lookahead < 0:
            raise FormatError(f"lookahead {self.lookahead}: 0 or more frames expected")
        if self.dims not in (2, 3):
            raise FormatError(f"dims {self.dims}: 2 or 3 expected")
        if self.dims == 2 and self.axes[2] not in "TA":
            raise FormatError(f"axes {self.axes!r}: x and y of a 2D recording lie in the image (such as "
                              f"{CANONICAL_AXES!r})")  # fmt: skip
        if self.image_size is not None:
            width, height = self.image_size
            if not (width == int(width) > 0 and height == int(height) > 0):
                raise FormatError(f"image size {width} x {height}: pixels expected")
            object.__setattr__(self, "image_size", (int(width), int(height)))

    def _check_poses(self) -> None:
        """Sets positions and confidences; non-finite joints become missing."""
        frames = np.shape(self.xyz)[0] if np.ndim(self.xyz) else 0
        if frames == 0:
            raise FormatError("no frames")
        joints = skeleton(self.skeleton).joints
        xyz = self._column("xyz", (frames, joints, 3), np.float32)
        lost = ~np.isfinite(xyz).all(axis=-1)
        if np.size(self.confidence) == 0:
            object.__setattr__(self, "confidence", np.ones((frames, joints), np.float32))
        confidence = self._column("confidence", (frames, joints), np.float32)
        wrong = ~((confidence >= 0) & (confidence <= 1))
        if wrong.any():
            at, joint = np.argwhere(wrong)[0]
            raise FormatError(f"frame {at}, joint {joint}: confidence {confidence[at, joint]}, "
                              "a number in 0..1 expected")  # fmt: skip
        if lost.any():
            object.__setattr__(self, "xyz", np.where(lost[..., None], np.float32(0), xyz))
            object.__setattr__(self, "confidence", np.where(lost, np.float32(0), confidence))
        if self.dims == 2 and self.xyz[..., 2].any():
            at, joint = np.argwhere(self.xyz[..., 2])[0]
            raise FormatError(f"frame {at}, joint {joint}: z {self.xyz[at, joint, 2]} in a 2D recording, 0 expected")

    def _check_columns(self) -> None:
        """Sets what is optional: frame numbers, times, and the columns of refined output."""
        frames, joints, _ = self.xyz.shape
        columns: dict[str, type[np.generic]] = {
            "slot": np.int64,
            "time_ns": np.int64,
            "windows": np.int32,
            "flags": np.int32,
        }
        for key, dtype in columns.items():
            if getattr(self, key) is not None:
                self._column(key, (frames,), dtype)
        if self.sigma is not None:
            self._column("sigma", (frames, joints), np.float32)
        if self.slot is not None:
            if self.slot[0] < 0:
                raise FormatError(f"slot {self.slot[0]} of frame 0 is negative")
            back = np.flatnonzero(np.diff(self.slot) <= 0)
            if back.size:
                at = int(back[0]) + 1
                raise FormatError(f"frame {at} has slot {self.slot[at]} after slot {self.slot[at - 1]}: ascending "
                                  "slots expected")  # fmt: skip

    def _column(self, key: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Sets an attribute to a contiguous array of that type, after checks."""
        array = np.asarray(getattr(self, key))
        wanted = "fiu" if np.issubdtype(dtype, np.floating) else "iu"
        if array.dtype.kind not in wanted:
            kind = "numbers" if wanted == "fiu" else "integers"
            raise FormatError(f"{key} has dtype {array.dtype}: {kind} expected")
        if array.shape != shape:
            raise FormatError(f"{key} has shape {list(array.shape)}: {list(shape)} expected")
        with np.errstate(over="ignore"):  # beyond float32 is infinite, so the joint is missing
            array = np.ascontiguousarray(array, dtype=dtype)
        object.__setattr__(self, key, array)
        return array

    @property
    def frames(self) -> int:
        """Number of frames, N, without dropped ones."""
        return len(self.xyz)

    @property
    def slots(self) -> NDArray[np.int64]:
        """int64 [N]: `slot`, or 0..N-1 where the recording has none."""
        return np.arange(self.frames, dtype=np.int64) if self.slot is None else self.slot

    @property
    def dropped(self) -> int:
        """Number of dropped frames: holes in `slots`, including those before the first frame."""
        return int(self.slots[-1]) + 1 - self.frames

    @property
    def seconds(self) -> float:
        """Length on the frame clock, dropped frames included."""
        return (self.frames + self.dropped) / self.fps

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Joints with confidence 0, bool [N, J]."""
        return np.equal(self.confidence, 0)

    def by_slot(self, values: NDArray[T], first: int = 0) -> NDArray[T]:
        """Values [N, ...] by frame as values [S, ...] by slot, from slot `first` to the last; 0 for dropped frames."""
        slots = np.zeros((int(self.slots[-1]) + 1 - first, *values.shape[1:]), values.dtype)
        slots[self.slots - first] = values
        return slots

    def canonical(self) -> NDArray[np.float32]:
        """Positions [N, J, 3] in canonical axes (unit unchanged; missing joints stay 0)."""
        return to_canonical(self.xyz, self.axes, self.mirrored)

    def mm_per_unit(self) -> float:
        """Millimetres per unit: of metric units by name, of others so that the median shoulder width is 370 mm.

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
    """The recording with left and right joints exchanged, for files with swapped labels."""
    mirror = list(skeleton(recording.skeleton).mirror)
    sigma = None if recording.sigma is None else recording.sigma[:, mirror]
    return replace(recording, xyz=recording.xyz[:, mirror], confidence=recording.confidence[:, mirror], sigma=sigma)


def sides_look_swapped(recording: Recording) -> bool:
    """Whether, in most frames that show both shoulders, the right one is further to the image's right.

    For a person who faces the camera that means a mirrored image or swapped sides.
    """
    both = ~recording.missing[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].any(axis=1)
    x = recording.canonical()[both, :, 0]
    return bool(len(x)) and bool(np.mean(x[:, RIGHT_SHOULDER] > x[:, LEFT_SHOULDER]) > 0.5)
