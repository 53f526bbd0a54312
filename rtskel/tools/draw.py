"""Pictures of recordings: skeletons by frame, one row a recording, and joints over time; still or moving.

The layout is that of figures 3 to 7 of the Skeletor paper (Jiang, Camgoz, Bowden, CVPRW 2021): what the estimator saw
above what was made of it, frame by frame. A joint that is missing is not drawn; one that refinement has filled in
is drawn lighter.

    figure([raw, refined], traces=["right_wrist.y"]).savefig("refined.png")
    animate([raw, refined], "refined.mp4")

Recordings are drawn in canonical axes, seen from the camera. Those that show the same person at the same place in the
same unit share one scale and place, so that differences between them are seen where they are; others are brought to the
same size. Over a video, recordings must be in its pixels.

Needs matplotlib (`pip install 'rtskel[draw]'`); no window is ever opened.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from rtskel.errors import FormatError, RtskelError
from rtskel.formats import MM_PER_UNIT, SHOULDER_WIDTH_MM, Recording
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, Skeleton, skeleton, to_canonical
from rtskel.tools.video import Image, Video, write_mp4

COLORS = ("#d1495b", "#1d6fa5", "#2a9d8f", "#d98a2b", "#7b5ea7", "#4f5d75")
"""Of the recordings, in their order."""

TRUTH = "#8d99ae"
GHOST = "#e3e6ec"  # the truth, where it lies behind a pose
FILLED = 0.45  # opacity of what is filled in

STILL = (".png", ".pdf", ".svg", ".jpg")
MOVING = (".gif", ".mp4")
"""File suffixes of `figure(...).savefig` and of `animate` that rtskel vouches for."""

MOST_ROWS = 12

HEAD = 0
"""The joint that is drawn as a head."""

SHORTEST_GIF_S = 0.02
"""Viewers show frames of a .gif that are shorter much slower."""

_DIRECTION = {"x": "right", "y": "down", "z": "toward the camera"}


def figure(
    recordings: Sequence[Recording],
    *,
    labels: Sequence[str] | None = None,
    slots: Sequence[int] | None = None,
    columns: int = 10,
    span: tuple[int, int] | None = None,
    traces: Sequence[str] = (),
    truth: Recording | None = None,
    video: str | Path | None = None,
) -> Figure:
    """Skeletons by frame, a row for each recording, and below them joints over time.

    Args:
        recordings: what to compare, of one skeleton.
        labels: one for each. Default: their names, and the lookahead of those that are refined.
        slots: the frame numbers to show. Default: `columns` of them, evenly over `span`.
        span: first frame number, and the one behind the last, of the traces. Default: from the first to the last frame.
        traces: what to follow: joints by name, such as "right_wrist", or one coordinate of a joint: "right_wrist.y".
            Shaded: where a recording lacks the joint that is not refined, or else where it was filled in.
        truth: drawn in grey behind every pose and trace.
        video: file whose frames lie behind the poses, which are then in its pixels.

    Raises:
        RtskelError: nothing to draw, too many rows, recordings of different skeletons, an unknown joint, a frame number
            beyond every recording or the video, poses over a video that are not in pixels.
    """
    tracks, ghost = _tracks(recordings, labels, truth, pixels=video is not None)
    followed = _parse_traces(traces, tracks[0].tree)
    within = _span(tracks, span)
    if slots is None:
        slots = sorted({int(slot) for slot in np.linspace(within.start, within.stop - 1, columns).round()})
    end = max(track.slots for track in tracks)
    if not slots:
        raise RtskelError("nothing to draw: no frames")
    for slot in slots:
        if not 0 <= slot < end:
            raise RtskelError(f"frame {slot}: frame numbers in 0..{end - 1} expected")
    images = dict(_images(video, slots)) if video is not None else {}
    bounds = _bounds([*tracks, ghost] if ghost else tracks, images[slots[0]] if images else None)

    cell = max(1.4 if video is None else 2.2, 7.0 / len(slots))
    height = cell * min(bounds.height / bounds.width, 2.0)
    plot, panels, below = _layout(len(tracks), len(slots), cell, height, len(followed))
    for track, row in zip(tracks, panels, strict=True):
        for axes, slot in zip(row, slots, strict=True):
            _Pose(axes, track, ghost, bounds, cell).show(slot, images.get(slot))
        row[0].set_title(track.label, color=track.color, fontsize=12, weight="bold", loc="left")
    for axes, slot in zip(panels[-1], slots, strict=True):
        axes.text(0.5, -0.02, str(slot), transform=axes.transAxes, ha="center", va="top", fontsize=8)
    _draw_traces(below, followed, tracks, ghost, within)
    return plot


def animate(
    recordings: Sequence[Recording],
    path: str | Path,
    *,
    labels: Sequence[str] | None = None,
    span: tuple[int, int] | None = None,
    traces: Sequence[str] = (),
    truth: Recording | None = None,
    video: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """The recordings side by side as a .gif or .mp4 at their own speed, over traces with a cursor.

    Arguments and errors are those of `figure`, but for:

    Args:
        path: the file to write. A .gif has at most 50 frames a second: others are left out.
        progress: called with how many frames are done, and how many there are.

    Raises:
        FormatError: another suffix; the file cannot be written; .mp4, and no OpenCV.
    """
    path = Path(path)
    if path.suffix.lower() not in MOVING:
        raise FormatError(f"{path}: unknown animation format {path.suffix!r} (known: {', '.join(MOVING)})")
    tracks, ghost = _tracks(recordings, labels, truth, pixels=video is not None)
    followed = _parse_traces(traces, tracks[0].tree)
    within = _span(tracks, span)
    fps = tracks[0].fps
    gif = path.suffix.lower() == ".gif"
    shown = within[:: max(1, math.ceil(fps * SHORTEST_GIF_S))] if gif else within
    images = _images(video, shown) if video is not None else iter([])
    first_image = next(images, None)
    bounds = _bounds([*tracks, ghost] if ghost else tracks, None if first_image is None else first_image[1])

    cell = 4.0
    height = cell * min(bounds.height / bounds.width, 1.5)
    plot, [row], below = _layout(1, len(tracks), cell, height, len(followed))
    poses = [_Pose(axes, track, ghost, bounds, cell) for axes, track in zip(row, tracks, strict=True)]
    for axes, track in zip(row, tracks, strict=True):
        axes.set_title(track.label, color=track.color, fontsize=12, weight="bold", loc="left")
    _draw_traces(below, followed, tracks, ghost, within)
    cursors = [axes.axvline(within.start / fps, color="black", lw=0.8) for axes in below]

    def frames() -> Iterator[Image]:
        canvas: Any = FigureCanvasAgg(plot)
        pictures = itertools.chain([] if first_image is None else [first_image], images)
        for number, slot in enumerate(shown, 1):
            _, image = next(pictures, (slot, None))
            for pose in poses:
                pose.show(slot, image)
            for cursor in cursors:
                cursor.set_xdata([slot / fps, slot / fps])
            canvas.draw()
            yield np.array(canvas.buffer_rgba())[..., :3]
            if progress is not None:
                progress(number, len(shown))

    try:
        if gif:
            _write_gif(path, frames(), fps / shown.step, len(shown))
        else:
            write_mp4(path, frames(), fps)
    except OSError as error:
        raise FormatError(f"{path}: cannot be written ({error.strerror or error})") from None


def _layout(
    rows: int, columns: int, width: float, height: float, traces: int
) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """A figure of rows of axes of this size, in inches, above so many traces; room for titles and ticks between."""
    title, ticks, margin = 0.32, 0.3, 0.55
    size = columns * width + 1.2 * margin, rows * (title + height) + 0.2 + traces * (title + 1.1 + ticks) + 0.15
    plot = Figure(figsize=size, dpi=100)

    def place(left: float, top: float, width: float, height: float) -> Axes:
        box = left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]
        return plot.add_axes(box)

    panels = [
        [place(margin + column * width, row * (title + height) + title, width, height) for column in range(columns)]
        for row in range(rows)
    ]
    below = rows * (title + height) + 0.2
    return (
        plot,
        panels,
        [place(margin, below + row * (title + 1.1 + ticks) + title, columns * width, 1.1) for row in range(traces)],
    )


# What is drawn


@dataclass(frozen=True, eq=False)
class _Track:
    """A recording on its slots, in drawing coordinates: millimetres from the usual place of the neck, or pixels.

    Attributes:
        xyz: [S, J, 3], along canonical axes.
        came: [S], slots that the recording has.
        there: [S, J], joints to draw.
        filled: [S, J], those of them that the estimator lacked.
        refined: what is not there was filled in.
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

    @property
    def slots(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True)
class _Place:
    """Where a recording usually has its neck, in canonical axes, and how wide its shoulders are, in its own unit."""

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


def _tracks(
    recordings: Sequence[Recording], labels: Sequence[str] | None, truth: Recording | None, pixels: bool
) -> tuple[list[_Track], _Track | None]:
    if not recordings:
        raise RtskelError("nothing to draw: no recordings")
    if len(recordings) > MOST_ROWS:
        raise RtskelError(f"{len(recordings)} recordings: at most {MOST_ROWS} can be drawn together")
    if labels is None:
        labels = [r.name if r.lookahead is None else f"{r.name}, lookahead {r.lookahead}" for r in recordings]
    if len(labels) != len(recordings):
        raise RtskelError(f"{len(labels)} labels for {len(recordings)} recordings")
    everything = list(recordings) if truth is None else [*recordings, truth]
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
    colors = [COLORS[row % len(COLORS)] for row in range(len(recordings))]
    if truth is not None:
        colors, labels = [*colors, TRUTH], [*labels, "truth"]
    places = [_place(recording) for recording in everything]
    tracks = []
    for recording, place, label, color in zip(everything, places, labels, colors, strict=True):
        # Those that are alike share the place and scale of the first of them.
        alike = [other for other in range(len(everything)) if places[other].same(place)]
        shared = places[alike[0]]
        metric = [everything[other].unit for other in alike if everything[other].unit in MM_PER_UNIT]
        scale = MM_PER_UNIT[metric[0]] if metric else SHOULDER_WIDTH_MM / shared.width
        tree = skeleton(recording.skeleton)
        if pixels:  # a mirrored image is the image that the poses lie in
            xyz = to_canonical(recording.xyz, recording.axes)
        else:
            xyz = ((recording.canonical() - shared.neck) * scale).astype(np.float32)
        xyz, seen = recording.by_slot(xyz), recording.by_slot(~recording.missing)
        came = recording.by_slot(np.ones(recording.frames, np.bool_))
        refined = recording.lookahead is not None
        there = np.broadcast_to(came[:, None], seen.shape) if refined else seen
        unit = "px" if pixels else "mm"
        tracks.append(_Track(label, color, recording.fps, tree, xyz, came, there, there & ~seen, refined, unit))
    return (tracks, None) if truth is None else (tracks[:-1], tracks[-1])


def _span(tracks: Sequence[_Track], span: tuple[int, int] | None) -> range:
    end = max(track.slots for track in tracks)
    if span is None:
        return range(min(int(track.came.argmax()) for track in tracks), end)
    if not 0 <= span[0] < span[1] <= end:
        raise RtskelError(f"frames {span[0]}:{span[1]}: two frame numbers within 0:{end} expected")
    return range(*span)


@dataclass(frozen=True)
class _Bounds:
    """The part of the plane that is drawn; y grows downward."""

    left: float
    right: float
    top: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


def _bounds(tracks: Sequence[_Track], image: Image | None) -> _Bounds:
    extremes = []
    for track in tracks:
        rows = track.there.any(axis=1)
        xy, there = track.xyz[rows, :, :2], track.there[rows, :, None]
        extremes.append([np.where(there, xy, np.inf).min(axis=1), np.where(there, xy, -np.inf).max(axis=1)])
    low, high = (np.concatenate(of_tracks) for of_tracks in zip(*extremes, strict=True))
    if not len(low):
        return _Bounds(-1.0, 1.0, -1.0, 1.0)
    # A joint that an estimator threw far away now and then must not make all the rest small.
    low, high = np.percentile(low, 2, axis=0), np.percentile(high, 98, axis=0)
    size = max(float((high - low).max()), 1e-6)
    low, high = low - (0.06 * size, 0.12 * size), high + 0.06 * size
    if image is not None:  # the part of it in which somebody is
        height, width, _ = image.shape
        low, high = (
            np.clip(low - 0.1 * size, 0, (width - 1, height - 1)),
            np.clip(high + 0.1 * size, 1, (width, height)),
        )
    return _Bounds(float(low[0]), float(high[0]), float(low[1]), float(high[1]))


class _Pose:
    """One recording in one pair of axes, at one slot after another."""

    def __init__(self, axes: Axes, track: _Track, ghost: _Track | None, bounds: _Bounds, inches: float) -> None:
        """Empty axes; `inches`: their width."""
        self._track = track
        self._axes = axes
        clip = track.unit == "px"  # over an image nothing is drawn beyond it
        self._layers = [_Layer(axes, ghost, GHOST, inches, clip, 1)] if ghost else []
        self._layers += [_Layer(axes, track, track.color, inches, clip, 2)]
        self._image: AxesImage | None = None
        self._note = axes.text(0.5, 0.5, "", transform=axes.transAxes, ha="center", color=track.color, fontsize=10)
        axes.set_axis_off()
        axes.set(xlim=(bounds.left, bounds.right), ylim=(bounds.bottom, bounds.top), aspect="equal")

    def show(self, slot: int, image: Image | None = None) -> None:
        """Draw the pose of that slot, over an image if there is one."""
        if image is not None:
            if self._image is None:
                limits = self._axes.get_xlim(), self._axes.get_ylim()
                self._image = self._axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
                self._axes.set(xlim=limits[0], ylim=limits[1])
            self._image.set_data(image)
        for layer in self._layers:
            layer.show(slot)
        track = self._track
        if slot >= track.slots or track.there[slot].any():
            self._note.set_text("")
        else:
            self._note.set_text("nobody" if track.came[slot] else "dropped")


class _Layer:
    """One recording's bones and head in axes that others may share."""

    def __init__(self, axes: Axes, track: _Track, color: str, inches: float, clip: bool, zorder: int) -> None:
        self._track, self._color = track, color
        self._bones = LineCollection([], capstyle="round", clip_on=clip, zorder=zorder)
        axes.add_collection(self._bones)
        self._head = axes.scatter([0.0], [0.0], s=min(20.0 * inches, 60.0), linewidths=0, zorder=zorder)
        self._body = track.tree.groups["body"]

    def show(self, slot: int) -> None:
        track, tree = self._track, self._track.tree
        if slot >= track.slots:
            self._bones.set_segments([])
            self._head.set_visible(False)
            return
        xyz, there = track.xyz[slot], track.there[slot]
        color = [to_rgba(self._color, FILLED if filled else 1.0) for filled in track.filled[slot]]
        ends = [j for j, parent in enumerate(tree.parents) if parent >= 0 and there[j] and there[parent]]
        self._bones.set_segments([xyz[[tree.parents[j], j], :2] for j in ends])
        self._bones.set_color([color[j] for j in ends])
        self._bones.set_linewidth([2.0 if j in self._body else 0.8 for j in ends])
        self._head.set_visible(bool(there[HEAD]))
        self._head.set_offsets(xyz[[HEAD], :2])
        self._head.set_color([color[HEAD]])


@dataclass(frozen=True)
class _Trace:
    """One coordinate of one joint, to be followed."""

    joint: int
    coordinate: int
    title: str


def _parse_traces(traces: Sequence[str], tree: Skeleton) -> list[_Trace]:
    parsed = []
    for trace in traces:
        name, dot, coordinates = trace.partition(".")
        if name not in tree.names:
            raise RtskelError(f"unknown joint {name!r} (such as {', '.join(tree.names[:5])})")
        if dot and coordinates not in _DIRECTION:
            raise RtskelError(f"{trace!r}: x, y or z expected behind the joint, such as {name}.y")
        for coordinate in coordinates or _DIRECTION:
            title = f"{name.replace('_', ' ')}, {_DIRECTION[coordinate]}"
            parsed.append(_Trace(tree.names.index(name), "xyz".index(coordinate), title))
    return parsed


def _draw_traces(
    axes: Sequence[Axes], traces: Sequence[_Trace], tracks: Sequence[_Track], ghost: _Track | None, span: range
) -> None:
    """Every trace in axes of its own."""
    for row, (ax, trace) in enumerate(zip(axes, traces, strict=True)):
        for track in [ghost, *tracks] if ghost else tracks:
            slots = np.arange(span.start, min(span.stop, track.slots))
            value = np.where(track.there[slots, trace.joint], track.xyz[slots, trace.joint, trace.coordinate], np.nan)
            # A dot on every frame: one between two missing ones would be no line.
            style: dict[str, Any] = {"lw": 1.5}
            if track is ghost:
                style = {"lw": 3.0}
            elif not track.refined:
                style = {"lw": 0.8, "marker": ".", "ms": 3.0}
            ax.plot(slots / track.fps, value, color=track.color, label=track.label, **style)
        # What refinement filled in is what the raw recording beside it lacks: shaded once.
        raw = [track for track in tracks if not track.refined] or tracks
        for track in raw:
            slots = np.arange(span.start, min(span.stop, track.slots))
            lost = ~track.there[slots, trace.joint] | track.filled[slots, trace.joint]
            edges = np.flatnonzero(np.diff(np.concatenate([[False], lost, [False]]).astype(np.int8)))
            for first, end in edges.reshape(-1, 2) + span.start:
                ax.axvspan((first - 0.5) / track.fps, (end - 0.5) / track.fps, color=track.color, alpha=0.1, lw=0)
        ax.set_title(f"{trace.title} ({tracks[0].unit})", fontsize=9, loc="left")
        ax.tick_params(labelsize=8)
        ax.set_xlim(span.start / tracks[0].fps, max(span.stop - 1, span.start + 1) / tracks[0].fps)
        ax.spines[["top", "right"]].set_visible(False)
        if row == 0:
            ax.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=4, fontsize=8, frameon=False)
        if row == len(axes) - 1:
            ax.set_xlabel("seconds", fontsize=8)


# Files


def _images(video: str | Path, slots: Sequence[int]) -> Iterator[tuple[int, Image]]:
    """The frames of a video with these numbers, in ascending order."""
    wanted = sorted(set(slots))
    with Video(video) as frames:
        last = -1
        for frame in frames:
            last = frame.number
            if last == wanted[0]:
                yield wanted.pop(0), frame.image
            if not wanted:
                return
        raise FormatError(f"{video}: {last + 1} frames, so there is no frame {wanted[0]}")


def _write_gif(path: Path, images: Iterator[Image], fps: float, frames: int) -> None:
    from PIL import Image as Pillow  # matplotlib needs it, too

    # In hundredths of a second, such that rounding does not add up.
    ticks = np.diff(np.round(np.arange(frames + 1) * 100 / fps).astype(int))
    pictures = (Pillow.fromarray(image).quantize(128) for image in images)
    first = next(pictures)
    first.save(path, save_all=True, append_images=pictures, duration=[int(tick) * 10 for tick in ticks], loop=0)
