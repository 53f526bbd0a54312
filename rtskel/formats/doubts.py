"""What is doubtful about a recording, whatever its file: corrected where that is safe, and always reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.parsing import Options
from rtskel.formats.recording import MM_PER_UNIT, Recording
from rtskel.rates import reconcile, too_far_apart
from rtskel.skeleton import BODY, CANONICAL_AXES, LEFT_SHOULDER, NECK, RIGHT_SHOULDER, skeleton
from rtskel.text import printable

NORMALISED = 2.0
"""Pixel coordinates whose largest is not above this are fractions of the image: nobody is two pixels large."""

_USUAL_FPS = 1.0, 500.0
_FEW = 5

_SHOULDERS_MM = 100.0, 1000.0
"""Nobody's are narrower or wider."""

LATEST_START = 1_000_000
"""Frame number up to which a recording may begin; the frames before it count as dropped."""


def examined(recording: Recording, options: Options, *, own: bool, by_convention: bool) -> Recording:
    """The recording with certain mistakes corrected, and `notes` of those and of what looks wrong.

    Args:
        options: what the caller stated; its `notes` are of the whole file.
        own: the format is rtskel's, whose numbers mean what it says.
        by_convention: the axes are those of a format whose files do not state them.

    Raises:
        FormatError: impossible frame numbers.
    """
    notes: list[str] = []
    recording = _clock(recording, notes, options.fps is not None)
    if recording.lookahead is None:
        recording = _present(recording, notes, own)
        recording = in_pixels(recording, options.image_size, notes)
        if recording.dims == 3 and (strange := _impossible_size(recording)):
            notes.append(strange)
        unstated = options.axes is None and not (own and recording.axes != CANONICAL_AXES)
        if unstated and (strange := _strangely_turned(recording)):
            convention = f"axes {recording.axes} are only a convention here (else state --axes)"
            notes.append(f"{strange}: {convention if by_convention else f'are the axes {recording.axes} (--axes)?'}")
    every = dict.fromkeys((*recording.notes, *options.notes, *notes))
    return replace(recording, notes=tuple(printable(words) for words in every))


def _clock(recording: Recording, notes: list[str], stated: bool) -> Recording:
    """Possible frame numbers, and a rate that agrees with the times, which the caller has stated, or the file."""
    slots = recording.slots
    first, last = int(slots[0]), int(slots[-1])
    if too_far_apart(first, last, recording.frames):
        raise FormatError(f"recording {recording.name!r}: {recording.frames} frames with slots {first} to {last}: "
                          "no frame numbers")  # fmt: skip
    if first > LATEST_START:
        notes.append(f"frame numbers begin at {first}: counted from there")
        recording = replace(recording, slot=slots - first)
    step = int(np.gcd.reduce(np.diff(slots))) if recording.frames > _FEW else 1
    if step > 1:
        notes.append(f"frame numbers go up by {step}: the frames between them count as dropped")
    if recording.time_ns is None and not stated and not _USUAL_FPS[0] <= recording.fps <= _USUAL_FPS[1]:
        notes.append(f"{recording.fps:g} frames per second are stated, and no times confirm that (else state --fps)")
    if recording.time_ns is None or recording.lookahead is not None:  # refined poses are on rtskel's own clock
        return recording
    clock = reconcile(recording.fps, recording.slot, recording.time_ns)
    if clock.note:
        notes.append(clock.note)
    if clock.note or clock.fps != recording.fps:
        recording = replace(recording, fps=clock.fps or recording.fps, slot=clock.slot, time_ns=clock.time_ns)
    return recording


def _present(recording: Recording, notes: list[str], own: bool) -> Recording:
    """Which joints are there, where confidences say nothing."""
    placed: NDArray[np.bool_] = np.asarray(recording.xyz.any(axis=-1))
    confidence: NDArray[np.float32] = recording.confidence
    if not confidence.any():
        if not placed.any():
            notes.append("no joint is there in any frame")
            return recording
        notes.append("every confidence is 0: joints with a position are used, with confidence 1")
        confidence = placed.astype(np.float32)
    lost = np.zeros(placed.shape, np.bool_)
    for group, joints in skeleton(recording.skeleton).groups.items():
        if "hand" in group:
            at = list(joints)
            empty = ~placed[:, at].any(axis=1) & (confidence[:, at] > 0).any(axis=1)
            lost[:, at] = np.asarray(empty)[:, None]
    if lost.any():
        notes.append("whole hands at exactly 0 are taken as not found")
    if not own and recording.unit == "px":  # the corner of the image
        corner = ~placed & (confidence > 0) & ~lost
        if corner.any():
            notes.append(f"joints at exactly 0 are taken as not found ({int(corner.sum())})")
        lost |= corner
    confidence = np.where(lost, 0, confidence).astype(np.float32)
    if (confidence == recording.confidence).all():
        return recording
    return replace(recording, confidence=confidence)


def in_pixels(recording: Recording, size: tuple[int, int] | None, notes: list[str]) -> Recording:
    """Pixels, where coordinates are fractions of an image of known size."""
    seen = recording.xyz[~recording.missing][:, :2]
    if recording.unit != "px" or not len(seen) or np.abs(seen).max() > NORMALISED:
        return recording
    centred = bool(np.quantile(seen, 0.1) < 0)
    what = "-1..1" if centred else "0..1"
    if size is None:
        notes.append(f"every coordinate is within {what}, as fractions of an image are (if so, state --image-size)")
        return recording
    width, height = size
    notes.append(f"every coordinate is within {what}: taken as fractions of the image of {width} x {height}")
    xyz: NDArray[np.float32] = recording.xyz.copy()
    if centred:
        xyz[..., :2] = (xyz[..., :2] + 1) / 2
        xyz[..., 2] /= 2
    xyz = np.where(recording.missing[..., None], 0, xyz * np.array([width, height, width], np.float32))
    return replace(recording, xyz=xyz.astype(np.float32))


def _impossible_size(recording: Recording) -> str:
    """Why the unit looks wrong for a person; empty if it does not."""
    size = MM_PER_UNIT.get(recording.unit)
    both = ~recording.missing[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].any(axis=1)
    if size is None or not both.any():
        return ""
    xyz = recording.xyz[both].astype(np.float64)
    width = float(np.median(np.linalg.norm(xyz[:, RIGHT_SHOULDER] - xyz[:, LEFT_SHOULDER], axis=-1)))
    if _SHOULDERS_MM[0] <= width * size <= _SHOULDERS_MM[1]:
        return ""
    return f"shoulders are {width:.3g} {recording.unit} apart: is that the unit (else state --unit)?"


def _strangely_turned(recording: Recording) -> str:
    """Why the axes look wrong for a person who stands or sits before a camera; empty if they do not."""
    canonical = np.where(recording.missing[..., None], np.nan, recording.canonical())
    body = canonical[:, : len(BODY)] - canonical[:, NECK : NECK + 1]
    front = [BODY.index(name) for name in ("nose", "right_wrist", "left_wrist")]
    above, ahead = body[:, 0, 1], body[:, front, 2]
    if np.isfinite(above).any() and np.nanmedian(above) > 0:
        return "the head is not above the neck"
    if recording.dims == 3 and np.isfinite(ahead).any() and np.nanmedian(ahead) < 0:
        return "head and hands lie behind the shoulders"
    return ""
