"""Refinement and lifting as users call them: of recordings, or of arrays in any axes.

In: a `Recording`, or arrays and their axes. Out: a recording, or arrays, in the axes and unit of the input.
`rtskel.refine` and `rtskel.lift` (the packages) work on arrays in canonical axes only; everything is converted here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel import skeleton as skeletons
from rtskel.errors import RtskelError
from rtskel.flags import Flag
from rtskel.formats import Recording
from rtskel.lift import LiftConfig, Lifted, Lifter
from rtskel.lift import lift as lift_canonical
from rtskel.refine import BulkRefiner, Refined, WindowEngine
from rtskel.refine import Refiner as CanonicalRefiner
from rtskel.refine import refine as refine_canonical
from rtskel.skeleton import CANONICAL_AXES, UPPER_BODY_50, Skeleton, from_canonical, to_canonical

CHUNK = 64
"""Frames between two calls of `progress`."""


class Refiner(CanonicalRefiner):
    """Refines one stream, frame by frame, in the stream's own axes.

    The state is this object: `push` frames as they come and take what is ready, `flush` at the end for the tail (the
    refiner is then fresh again), `reset` to forget.

    Args:
        engine, lookahead, radius, min_confidence, hop: as in `rtskel.RefinerBank`.
        axes: where x, y and z of pushed arrays grow, see `rtskel.skeleton.axes_matrix`; refined poses are in them, too.
            Default: canonical axes, or those of the recording that is pushed.
        mirrored: the image was mirrored.

    Raises:
        ValueError: an argument out of range.
        RtskelError: invalid axes.

    Example:
        >>> refiner = rtskel.Refiner(rtskel.open_engine(), lookahead=4, axes="RDA")  # MediaPipe's axes
        >>> for xyz, confidence in camera:                              # [50, 3], [50]
        ...     for pose in refiner.push(xyz, confidence).xyz:          # none for the first 4 frames, then one each
        ...         show(pose)
        >>> tail = refiner.flush()                                      # the last 4
    """

    def __init__(
        self,
        engine: WindowEngine,
        *,
        lookahead: int | Sequence[int] | None = 4,
        radius: int = 2,
        min_confidence: float = 0.0,
        hop: int = 1,
        axes: str | None = None,
        mirrored: bool = False,
    ) -> None:
        skeletons.axes_matrix(axes or CANONICAL_AXES)
        self._skeleton = engine.info.skeleton_id
        self._given = (axes or CANONICAL_AXES, mirrored), axes is not None or mirrored
        self._space, self._fixed = self._given
        self._slots = 0
        super().__init__(engine, lookahead=lookahead, radius=radius, min_confidence=min_confidence, hop=hop)

    def push(self, xyz: ArrayLike | Recording, confidence: ArrayLike | None = None) -> Refined:
        """Take the next frames and return the poses that are complete now, in the same axes.

        Args:
            xyz: a frame [J, 3], frames [n, J, 3], or a recording: a whole one, or the next part of one, whose dropped
                frames count as missing. A dropped frame is pushed as NaN or with confidence 0.
            confidence: [J] or [n, J] in 0..1, 0 = missing; None: every joint with finite coordinates is there. A
                recording has its own.

        Raises:
            ValueError: wrong shape, slots that were pushed before, or a recording in other axes than the frames before
                it; then nothing was taken.
            RtskelError: a recording that is 2D or of another skeleton.
        """
        if isinstance(xyz, Recording):
            if confidence is not None:
                raise ValueError(f"recording {xyz.name!r}: a recording has its own confidence")
            frames, confidence = self._frames_of(xyz)
        else:
            frames = to_canonical(_frames(xyz), *self._space)
        refined = super().push(frames, confidence)
        self._slots += 1 if frames.ndim == 2 else len(frames)
        self._fixed = True
        return self._turned(refined)

    def _frames_of(self, recording: Recording) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A recording's canonical positions and confidence by slot, from the next slot on."""
        _check_refinable(recording, self._skeleton)
        space = recording.axes, recording.mirrored
        if self._fixed and space != self._space:
            raise ValueError(f"recording {recording.name!r} has axes {_words(space)}, expected {_words(self._space)}")
        first = 0 if recording.slot is None else self._slots
        if recording.slots[0] < first:
            raise ValueError(f"recording {recording.name!r}: slot {recording.slots[0]} was pushed before")
        self._space = space
        return recording.by_slot(recording.canonical(), first), recording.by_slot(recording.confidence, first)

    def flush(self) -> Refined:
        """The sequence is over: return the poses still due, padded with the last frame. The refiner is fresh
        afterwards.
        """
        space = self._space
        refined = super().flush()
        return replace(refined, xyz=from_canonical(refined.xyz, *space))

    def reset(self) -> None:
        """Forget everything, poses still due included: as if newly made."""
        super().reset()
        self._space, self._fixed = self._given
        self._slots = 0

    def _turned(self, refined: Refined) -> Refined:
        return replace(refined, xyz=from_canonical(refined.xyz, *self._space))


@overload
def refine(
    xyz: Recording,
    *,
    engine: WindowEngine,
    lookahead: int | None = None,
    radius: int = 2,
    min_confidence: float = 0.0,
) -> Recording: ...
@overload
def refine(
    xyz: ArrayLike,
    *,
    engine: WindowEngine,
    confidence: ArrayLike | None = None,
    axes: str = CANONICAL_AXES,
    mirrored: bool = False,
    lookahead: int | None = None,
    radius: int = 2,
    min_confidence: float = 0.0,
) -> NDArray[np.float32]: ...
def refine(
    xyz: ArrayLike | Recording,
    *,
    engine: WindowEngine,
    confidence: ArrayLike | None = None,
    axes: str | None = None,
    mirrored: bool = False,
    lookahead: int | None = None,
    radius: int = 2,
    min_confidence: float = 0.0,
) -> NDArray[np.float32] | Recording:
    """Refine a whole sequence.

    Args:
        xyz: a recording, such as `rtskel.read(path)[0]`; or positions [N, J, 3] in any unit, anywhere in space, along
            `axes`, NaN where missing.
        engine: an open engine, such as `rtskel.open_engine()`.
        confidence: of an array, [N, J] in 0..1, 0 = missing; None: every joint with finite coordinates is there.
        axes: of an array, where x, y and z grow, see `rtskel.skeleton.axes_matrix`. Default: canonical axes "RDT": x to
            the image's right, y down, z toward the camera.
        mirrored: of an array, whether its image was mirrored.
        lookahead: frames of the future that the output of a slot may use; None: the paper's offline protocol (section
            4.2).
        radius: 2 radius + 1 predictions are averaged where the lookahead allows.
        min_confidence: joints below it count as missing.

    Returns:
        Of a recording the refined recording, with its dropped frames filled in: same axes, unit, times, name and
        whatever else it states. Of an array [N, J, 3] float32 in the axes, unit and place of the input.

    Raises:
        ValueError: wrong shapes, an argument out of range, or confidence or axes beside a recording.
        RtskelError: a recording that is 2D or of another skeleton; invalid axes.
    """
    options: dict[str, Any] = {
        "engine": engine,
        "lookahead": lookahead,
        "radius": radius,
        "min_confidence": min_confidence,
    }
    if isinstance(xyz, Recording):
        _has_its_own(xyz, confidence=confidence, axes=axes, mirrored=mirrored or None)
        return refine_recording(xyz, **options)
    space = axes or CANONICAL_AXES, mirrored
    frames = to_canonical(_frames(xyz), *space)
    return from_canonical(refine_canonical(frames, confidence=confidence, **options), *space)


def refine_recording(
    recording: Recording,
    *,
    engine: WindowEngine,
    lookahead: int | None = None,
    radius: int = 2,
    min_confidence: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> Recording:
    """Refine a recording, as `refine` does.

    Args:
        progress: called with the number of frames that are done, dropped ones included.

    Returns:
        Every slot from 0 to the last, with a position for every joint. `confidence` is the estimator's, 0 where a joint
        was filled in. Filled-in frames have the times at which they would have been taken. Where nobody is seen for
        longer than a window can fill, the last pose is held for `MAX_HELD` slots, flagged HELD, and later slots are
        left out, as a server publishes no pose for them.

    Raises:
        RtskelError: the recording is 2D, of another skeleton, or nobody is seen in it.
        ValueError: an argument out of range.
    """
    _check_refinable(recording, engine.info.skeleton_id)
    refiner = CanonicalRefiner(engine, lookahead=lookahead, radius=radius, min_confidence=min_confidence)
    xyz, confidence = _by_slot(recording)
    parts: list[Refined] = []
    for first in range(0, len(xyz), CHUNK):
        chunk = slice(first, first + CHUNK)
        parts.append(refiner.push(xyz[chunk], confidence[chunk]))
        if progress is not None:
            progress(first + len(xyz[chunk]))
    return _refined_recording(recording, Refined.concatenate([*parts, refiner.flush()]))


def refine_in_bulk(recording: Recording, refiner: BulkRefiner) -> Recording:
    """Refine a recording, as `refine_recording` does, beside those of other threads."""
    _check_refinable(recording, refiner.engine.info.skeleton_id)
    return _refined_recording(recording, refiner.refine(*_by_slot(recording)))


def _by_slot(recording: Recording) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Canonical positions and confidence; dropped frames become slots without a joint."""
    return recording.by_slot(recording.canonical()), recording.by_slot(recording.confidence)


def _refined_recording(recording: Recording, refined: Refined) -> Recording:
    known = _hold_last(refined)
    refined = Refined(*(column[known] for column in refined.columns))
    if not len(refined):
        raise RtskelError(f"recording {recording.name!r}: nobody is seen in it")
    return replace(
        recording,
        xyz=from_canonical(refined.xyz, recording.axes, recording.mirrored),
        confidence=refined.confidence,
        slot=refined.slot,
        time_ns=_times(recording, refined.slot),
        lookahead=int(refined.lookahead[0]),
        sigma=refined.sigma,
        windows=refined.windows,
        flags=refined.flags.astype(np.int32),
    )


MAX_HELD = 25
"""Slots for which a recording holds the last pose where nobody is seen; a server's default `max_gap`."""


def _hold_last(refined: Refined) -> NDArray[np.bool_]:
    """Holds the last pose where no window knows anything, in place; which rows have a pose."""
    row = np.arange(len(refined))
    known = (refined.windows > 0) | refined.confidence.any(axis=1)
    last = np.maximum.accumulate(np.where(known, row, -1))
    held = np.flatnonzero(~known & (last >= 0) & (row - last <= MAX_HELD))
    source = last[held]
    pose = refined.xyz[source]
    refined.xyz[held] = pose
    size = np.sqrt(np.square(pose - pose.mean(axis=1, keepdims=True)).sum(axis=2).mean(axis=1))
    refined.sigma[held] = refined.sigma[source] + (0.01 * (held - source) * size)[:, None]
    refined.flags[held] |= np.uint32(Flag.HELD)
    known[held] = True
    return known


def _times(recording: Recording, slots: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The times of `slots`: the frames' own, and between them and before the first in proportion."""
    if recording.time_ns is None:
        return None
    own, first = recording.slots, int(recording.time_ns[0])
    times = np.interp(slots, own, recording.time_ns - first)
    times = np.where(slots < own[0], (slots - own[0]) * 1e9 / recording.fps, times)
    whole = first + np.round(times).astype(np.int64)
    whole[np.isin(slots, own)] = recording.time_ns[np.isin(own, slots)]  # exact, whatever float64 can hold
    return whole


@overload
def lift(
    xy: Recording,
    *,
    min_confidence: float = 0.0,
    config: LiftConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> Recording: ...
@overload
def lift(
    xy: ArrayLike,
    confidence: ArrayLike | None = None,
    *,
    axes: str = CANONICAL_AXES,
    mirrored: bool = False,
    fps: float = 25.0,
    skeleton: Skeleton = UPPER_BODY_50,
    min_confidence: float = 0.0,
    config: LiftConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> Lifted: ...
def lift(
    xy: ArrayLike | Recording,
    confidence: ArrayLike | None = None,
    *,
    axes: str | None = None,
    mirrored: bool = False,
    fps: float | None = None,
    skeleton: Skeleton | None = None,
    min_confidence: float = 0.0,
    config: LiftConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> Lifted | Recording:
    """Lift a whole 2D sequence to 3D.

    Memory: about 25 times that of the result, 15 kB a frame.

    Args:
        xy: a recording with `dims` 2; or positions [N, J, 2] in the image, NaN where missing.
        confidence: of an array, [N, J] in 0..1, 0 = missing; None: every joint with finite coordinates is there.
        axes: of an array, where x, y and, in the result, z grow, see `rtskel.skeleton.axes_matrix`. Default: canonical
            axes "RDT": x to the image's right, y down, z toward the camera.
        mirrored: of an array, whether its image was mirrored.
        fps: of an array, frames a second (default 25).
        skeleton: of an array (default: the 50 joints of the paper).
        min_confidence: joints below it count as missing.
        progress: of a recording, called with the number of frames that are done; of an array, after each iteration with
            its number, from 1 to at most `config.iterations`.

    Returns:
        Of a recording the lifted recording: the same frames, unit, axes and place. Of an array all N poses, in the axes
        of the input.

    Raises:
        ValueError: wrong shapes, an argument out of range, or an option that a recording states itself.
        RtskelError: a recording that is not 2D; invalid axes, or axes whose x and y do not lie in the image.
    """
    if isinstance(xy, Recording):
        _has_its_own(xy, confidence=confidence, axes=axes, mirrored=mirrored or None, fps=fps, skeleton=skeleton)
        return lift_recording(xy, min_confidence=min_confidence, config=config, progress=progress)
    space = axes or CANONICAL_AXES, mirrored
    skeletons.axes_matrix(space[0])
    if space[0][2] not in "TA":
        raise RtskelError(f"axes {axes!r}: x and y of 2D poses lie in the image (such as {CANONICAL_AXES!r})")
    points = np.asarray(xy)
    if points.ndim == 3 and points.shape[-1] == 2:
        flat = np.concatenate([points, np.zeros_like(points[..., :1])], axis=-1)
        points = _turned_in_plane(flat, space)[..., :2]
    lifted = lift_canonical(
        points,
        confidence,
        fps=25.0 if fps is None else fps,
        skeleton=UPPER_BODY_50 if skeleton is None else skeleton,
        min_confidence=min_confidence,
        config=config,
        progress=progress,
    )
    return replace(lifted, xyz=from_canonical(lifted.xyz, *space))


def _turned_in_plane(points: NDArray[Any], space: tuple[str, bool]) -> NDArray[Any]:
    """As `to_canonical`, in the precision of the input: pixels of large images need more than float32 at times."""
    signed = np.array(skeletons.signed_axes(*space))
    turned: NDArray[Any] = points[..., np.abs(signed) - 1] * np.sign(signed)
    return turned


def lift_recording(
    recording: Recording,
    *,
    lookahead: int | None = None,
    min_confidence: float = 0.0,
    config: LiftConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> Recording:
    """Lift a 2D recording to 3D: the same frames, unit, axes and place.

    Args:
        recording: with `dims` 2. Dropped frames are bridged, and stay dropped.
        lookahead: frames of the future that a pose may use, as live; None: all.
        min_confidence, config: as in `lift`.
        progress: called with the number of frames that are done, dropped ones included; ascending estimates.

    Raises:
        RtskelError: the recording is not 2D.
    """
    if recording.dims != 2:
        raise RtskelError(f"recording {recording.name!r} has depth already: lifting is for 2D")
    first = int(recording.slots[0])
    body = skeletons.skeleton(recording.skeleton)
    xy = recording.by_slot(recording.canonical()[..., :2], first)
    confidence = recording.by_slot(recording.confidence, first)
    config = config or LiftConfig()
    tell = progress or (lambda done: None)
    if lookahead is None:
        share = len(xy) / max(1, config.iterations)
        lifted = lift_canonical(
            xy,
            confidence,
            fps=recording.fps,
            skeleton=body,
            min_confidence=min_confidence,
            config=config,
            progress=lambda iterations: tell(int(iterations * share)),
        )
    else:
        lifter = Lifter(
            lookahead=lookahead, fps=recording.fps, skeleton=body, min_confidence=min_confidence, config=config
        )
        parts = []
        for frame in range(len(xy)):
            parts.append(lifter.push(xy[frame], confidence[frame]))
            tell(frame)
        lifted = Lifted.concatenate([*parts, lifter.flush()])
    tell(len(xy))
    rows = recording.slots - first
    return replace(
        recording,
        xyz=from_canonical(lifted.xyz[rows], recording.axes, recording.mirrored),
        confidence=lifted.confidence[rows],
        dims=3,
    )


def _check_refinable(recording: Recording, skeleton_id: str) -> None:
    if recording.dims == 2:
        raise RtskelError(f"recording {recording.name!r} is 2D, 3D is refined (see rtskel lift)")
    if recording.skeleton != skeleton_id:
        raise RtskelError(
            f"recording {recording.name!r} has skeleton {recording.skeleton!r}, the engine refines {skeleton_id!r}"
        )


def _has_its_own(recording: Recording, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}: recording {recording.name!r} has its own (dataclasses.replace changes it)")


def _frames(xyz: ArrayLike) -> NDArray[np.float32]:
    frames = np.asarray(xyz, np.float32)
    if frames.ndim not in (2, 3) or frames.shape[-1] != 3:
        raise ValueError(f"xyz has shape {frames.shape}, expected [J, 3] or [N, J, 3]")
    return frames


def _words(space: tuple[str, bool]) -> str:
    return space[0] + (", mirrored" if space[1] else "")
