"""Recordings as `rtskel draw` draws them: by slot, in shared coordinates, with the area that they fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import RtskelError
from rtskel.formats import MM_PER_UNIT, SHOULDER_WIDTH_MM, Recording
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, Skeleton, skeleton, to_canonical
from rtskel.tools.video import Image

COLORS = ("#d1495b", "#1d6fa5", "#2a9d8f", "#d98a2b", "#7b5ea7", "#4f5d75")
"""Of the recordings, in their order."""

TRUTH = "#8d99ae"

MAX_ROWS = 12

VIEWS: Mapping[str, list[int]] = MappingProxyType({"front": [0, 1], "side": [2, 1], "top": [0, 2]})
"""Which canonical coordinates a view shows to the right and down: as the camera sees it; from the side, with the camera
at the right; from above, with the camera at the bottom.
"""


@dataclass(frozen=True, eq=False)
class Track:
    """A recording by slot, in drawing coordinates: millimetres from the median position of the neck, or pixels.

    Attributes:
        xyz: [S, J, 3], along canonical axes.
        came: [S], slots that the recording has.
        there: [S, J], joints to draw.
        filled: [S, J], those of them that the estimator lacked.
        refined: whether refinement filled in what was missing.
        flat: 2D.
    """

    label: str
    color: str
    fps: float
    tree: Skeleton
    xyz: NDArray[np.float32]
    came: NDArray[np.bool_]
    there: NDArray[np.bool_]
    filled: NDArray[np.bool_]
    refined: bool
    unit: str
    flat: bool

    @property
    def slots(self) -> int:
        """Number of slots, S."""
        return len(self.xyz)


@dataclass(frozen=True)
class _Place:
    """A recording's median neck, in canonical axes, and its median shoulder width, in its own unit."""

    neck: NDArray[np.float64]
    width: float

    def same(self, other: _Place) -> bool:
        """Whether both could be of the same person, camera and unit."""
        near = float(np.abs(self.neck - other.neck).max()) < 0.5 * self.width
        return near and 0.75 < other.width / self.width < 1 / 0.75


def _place(recording: Recording) -> _Place:
    xyz = recording.canonical().astype(np.float64)
    seen = ~recording.missing if recording.lookahead is None else np.ones_like(recording.missing)
    if not seen.any():
        return _Place(np.zeros(3), 1.0)
    both = seen[:, RIGHT_SHOULDER] & seen[:, LEFT_SHOULDER]
    width = np.linalg.norm(xyz[both, RIGHT_SHOULDER] - xyz[both, LEFT_SHOULDER], axis=-1)
    usual = float(np.median(width)) if width.size else 0.0
    neck = np.median(xyz[seen[:, NECK], NECK] if seen[:, NECK].any() else xyz[seen], axis=0)
    return _Place(neck, usual if usual > 0 else float(np.ptp(xyz[seen], axis=0).max()) / 3 or 1.0)


def label_of(recording: Recording) -> str:
    """What a recording is called in a picture."""
    kind = ", 2D" if recording.dims == 2 else ""
    return recording.name + kind + ("" if recording.lookahead is None else f", lookahead {recording.lookahead}")


def _check_comparable(everything: Sequence[Recording], pixels: bool) -> None:
    for recording in everything[1:]:
        if recording.skeleton != everything[0].skeleton:
            raise RtskelError(
                f"recording {recording.name!r} has skeleton {recording.skeleton!r}, "
                f"{everything[0].name!r} has {everything[0].skeleton!r}"
            )
    for recording in everything if pixels else ():
        if recording.unit in MM_PER_UNIT:
            raise RtskelError(
                f"recording {recording.name!r} is in {recording.unit}: over a video, poses in its pixels are expected"
            )


def tracks_of(
    recordings: Sequence[Recording], labels: Sequence[str] | None, truth: Recording | None, pixels: bool
) -> tuple[list[Track], Track | None]:
    """The recordings, and the truth if there is one, as tracks; `pixels`: they are drawn over an image. RtskelError."""
    if not recordings:
        raise RtskelError("nothing to draw: no recordings")
    if len(recordings) > MAX_ROWS:
        raise RtskelError(f"{len(recordings)} recordings: at most {MAX_ROWS} can be drawn together")
    if labels is None:
        labels = [label_of(recording) for recording in recordings]
    if len(labels) != len(recordings):
        raise RtskelError(f"{len(labels)} labels for {len(recordings)} recordings")
    everything = list(recordings) if truth is None else [*recordings, truth]
    _check_comparable(everything, pixels)
    colors = [COLORS[row % len(COLORS)] for row in range(len(recordings))]
    if truth is not None:
        colors, labels = [*colors, TRUTH], [*labels, "truth"]
    places = [_place(recording) for recording in everything]
    tracks = []
    for recording, place, label, color in zip(everything, places, labels, colors, strict=True):
        # Recordings that are alike share the origin and scale of the first of them.
        alike = [other for other in range(len(everything)) if places[other].same(place)]
        shared = places[alike[0]]
        metric = [everything[other].unit for other in alike if everything[other].unit in MM_PER_UNIT]
        scale = MM_PER_UNIT[metric[0]] if metric else SHOULDER_WIDTH_MM / shared.width
        tree = skeleton(recording.skeleton)
        if pixels:  # over an image the poses stay as they are, mirrored or not
            xyz = to_canonical(recording.xyz, recording.axes)
        else:
            xyz = ((recording.canonical() - shared.neck) * scale).astype(np.float32)
        xyz, seen = recording.by_slot(xyz), recording.by_slot(~recording.missing)
        came = recording.by_slot(np.ones(recording.frames, np.bool_))
        refined = recording.lookahead is not None
        there = np.broadcast_to(came[:, None], seen.shape) if refined else seen
        unit = "px" if pixels else "mm"
        tracks.append(
            Track(
                label, color, recording.fps, tree, xyz, came, there, there & ~seen, refined, unit, recording.dims == 2
            )
        )
    return (tracks, None) if truth is None else (tracks[:-1], tracks[-1])


def span_of(tracks: Sequence[Track], span: tuple[int, int] | None) -> range:
    """The slots of a span, checked; by default from the first frame of any track to the last. RtskelError."""
    end = max(track.slots for track in tracks)
    if span is None:
        return range(min(int(track.came.argmax()) for track in tracks), end)
    if not 0 <= span[0] < span[1] <= end:
        raise RtskelError(f"frames {span[0]}:{span[1]}: two frame numbers within 0:{end} expected")
    return range(*span)


@dataclass(frozen=True)
class Bounds:
    """The part of the plane that is drawn; y grows downward."""

    left: float
    right: float
    top: float
    bottom: float

    @property
    def width(self) -> float:
        """Right - left."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Bottom - top."""
        return self.bottom - self.top


def bounds_of(tracks: Sequence[Track], image: Image | None, view: str = "front") -> Bounds:
    """The area of a view's plane (of the image, if there is one) that the tracks fill."""
    extremes = []
    for track in tracks:
        rows = track.there.any(axis=1)
        xy, there = track.xyz[rows][..., VIEWS[view]], track.there[rows, :, None]
        extremes.append([np.where(there, xy, np.inf).min(axis=1), np.where(there, xy, -np.inf).max(axis=1)])
    low, high = (np.concatenate(of_tracks) for of_tracks in zip(*extremes, strict=True))
    if not len(low):
        return Bounds(-1.0, 1.0, -1.0, 1.0)
    # A few outliers of an estimator must not make everything else small.
    low, high = np.percentile(low, 2, axis=0), np.percentile(high, 98, axis=0)
    size = max(float((high - low).max()), 1e-6)
    low, high = low - (0.06 * size, 0.12 * size), high + 0.06 * size
    if image is not None:  # only the part with a person
        height, width, _ = image.shape
        low, high = (
            np.clip(low - 0.1 * size, 0, (width - 1, height - 1)),
            np.clip(high + 0.1 * size, 1, (width, height)),
        )
    return Bounds(float(low[0]), float(high[0]), float(low[1]), float(high[1]))
