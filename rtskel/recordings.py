"""Refines and lifts recordings, in their own axes and unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rtskel.errors import RtskelError
from rtskel.formats import Recording
from rtskel.lift import LiftConfig, Lifted, Lifter, lift
from rtskel.refine import Refined, Refiner, WindowEngine
from rtskel.skeleton import from_canonical, skeleton

CHUNK = 64
"""Frames between two calls of `progress`."""


def refine_recording(
    recording: Recording,
    *,
    engine: WindowEngine,
    lookahead: int | None = None,
    radius: int = 2,
    min_confidence: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> Recording:
    """Refine a recording; dropped frames are filled in.

    Args:
        recording: with `dims` 3, of the engine's skeleton.
        engine, lookahead, radius, min_confidence: as in `rtskel.refine`.
        progress: called with the number of frames that are done, dropped ones included.

    Returns:
        The refined recording: every slot from 0 to the last, with a position for every joint, in the axes and unit of
        the input. `confidence` is the estimator's, 0 where a joint was filled in.

    Raises:
        RtskelError: the recording is 2D, or of another skeleton.
        ValueError: an argument out of range.
    """
    if recording.dims == 2:
        raise RtskelError(f"recording {recording.name!r} is 2D, 3D is refined (see rtskel lift)")
    if recording.skeleton != engine.info.skeleton_id:
        raise RtskelError(
            f"recording {recording.name!r} has skeleton {recording.skeleton!r}, "
            f"the engine refines {engine.info.skeleton_id!r}"
        )
    refiner = Refiner(engine, lookahead=lookahead, radius=radius, min_confidence=min_confidence)
    # Dropped frames become slots without a joint.
    xyz, confidence = recording.by_slot(recording.canonical()), recording.by_slot(recording.confidence)
    parts: list[Refined] = []
    for first in range(0, len(xyz), CHUNK):
        chunk = slice(first, first + CHUNK)
        parts.append(refiner.push(xyz[chunk], confidence[chunk]))
        if progress is not None:
            progress(first + len(xyz[chunk]))
    refined = Refined.concatenate([*parts, refiner.flush()])
    return Recording(
        from_canonical(refined.xyz, recording.axes, recording.mirrored),
        recording.fps,
        recording.name,
        confidence=refined.confidence,
        skeleton=recording.skeleton,
        axes=recording.axes,
        mirrored=recording.mirrored,
        unit=recording.unit,
        slot=refined.slot,
        lookahead=int(refined.lookahead[0]),
        sigma=refined.sigma,
        windows=refined.windows,
        flags=refined.flags.astype(np.int32),
        image_size=recording.image_size,
    )


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
        min_confidence, config: as in `rtskel.lift`.
        progress: called with the number of frames that are done, dropped ones included; ascending estimates.

    Raises:
        RtskelError: the recording is not 2D.
    """
    if recording.dims != 2:
        raise RtskelError(f"recording {recording.name!r} has depth already: lifting is for 2D")
    first = int(recording.slots[0])
    body = skeleton(recording.skeleton)
    xy = recording.by_slot(recording.canonical()[..., :2], first)
    confidence = recording.by_slot(recording.confidence, first)
    config = config or LiftConfig()
    tell = progress or (lambda done: None)
    if lookahead is None:
        share = len(xy) / max(1, config.iterations)
        lifted = lift(
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
