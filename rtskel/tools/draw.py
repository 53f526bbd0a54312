"""Pictures of recordings: skeletons by frame, one row a recording, and joints over time; still or moving.

The layout is that of figures 3 to 7 of the Skeletor paper (Jiang, Camgoz, Bowden, CVPRW 2021): the estimator's poses
above the refined ones, frame by frame. Missing joints are not drawn; joints that refinement filled in are lighter.

    figure([raw, refined], traces=["right_wrist.y"]).savefig("refined.png")
    animate([raw, refined], "refined.mp4")

Recordings are drawn in canonical axes, seen from the camera. Those that show the same person at the same place in the
same unit share one scale and origin, so that differences between them are visible; others are scaled to the same size.
Over a video, recordings must be in its pixels.

Needs matplotlib (`pip install 'rtskel[draw]'`); no window is ever opened.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording
from rtskel.tools.panels import FILLED, GHOST, Panel, draw_traces, layout, parse_traces
from rtskel.tools.tracks import COLORS, TRUTH, VIEWS, Bounds, Track, bounds_of, span_of, tracks_of
from rtskel.tools.video import Image, Video, write_mp4

__all__ = ["COLORS", "FILLED", "GHOST", "MOVING", "STILL", "TRUTH", "VIEWS", "animate", "figure"]

STILL = (".png", ".pdf", ".svg", ".jpg")
"""Suffixes for `figure(...).savefig`."""

MOVING = (".gif", ".mp4")
"""Suffixes for `animate`."""

SHORTEST_GIF_S = 0.02
"""Viewers slow down a .gif whose frames are shorter than this."""


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
    views: Sequence[str] = ("front",),
) -> Figure:
    """Skeletons by frame, a row for each recording, and below them joints over time.

    Args:
        recordings: what to compare, of one skeleton.
        labels: one for each. Default: their names, and the lookahead of those that are refined.
        slots: the frame numbers to show. Default: `columns` of them, evenly over `span`.
        span: first frame number of the traces, and the one after the last. Default: all frames.
        traces: joints to follow, such as "right_wrist", or one coordinate of a joint, such as "right_wrist.y". Shaded:
            frames in which the raw recordings lack the joint (without a raw recording: in which it was filled in).
        truth: drawn in grey behind every pose and trace.
        video: file whose frames are drawn behind the poses, which are in its pixels.
        views: "front" (as the camera sees it), "side" and "top"; each view of each recording is a row.

    Raises:
        RtskelError: nothing to draw, too many rows, recordings of different skeletons, an unknown joint, a frame number
            beyond every recording or the video, poses over a video that are not in pixels, another view of a 2D
            recording or over a video.
    """
    tracks, ghost = tracks_of(recordings, labels, truth, pixels=video is not None)
    followed = parse_traces(traces, tracks[0].tree)
    within = span_of(tracks, span)
    if slots is None:
        slots = sorted({int(slot) for slot in np.linspace(within.start, within.stop - 1, columns).round()})
    end = max(track.slots for track in tracks)
    if not slots:
        raise RtskelError("nothing to draw: no frames")
    for slot in slots:
        if not 0 <= slot < end:
            raise RtskelError(f"frame {slot}: frame numbers in 0..{end - 1} expected")
    images = dict(_images(video, slots)) if video is not None else {}
    bounds = _bounds(tracks, ghost, images[slots[0]] if images else None, views)

    cell = max(1.4 if video is None else 2.2, 7.0 / len(slots))
    height = cell * min(max(plane.height / plane.width for plane in bounds.values()), 2.0)
    plot, panels, below = layout(len(tracks) * len(views), len(slots), cell, height, len(followed))
    for (track, view), row in zip(itertools.product(tracks, views), panels, strict=True):
        for axes, slot in zip(row, slots, strict=True):
            Panel(axes, track, ghost, bounds[view], cell, view).show(slot, images.get(slot))
        _title(row[0], track, view, views)
    for axes, slot in zip(panels[-1], slots, strict=True):
        axes.text(0.5, -0.02, str(slot), transform=axes.transAxes, ha="center", va="top", fontsize=8)
    draw_traces(below, followed, tracks, ghost, within)
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
    views: Sequence[str] = ("front",),
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The recordings side by side as a .gif or .mp4 at their own speed, over traces with a cursor.

    Arguments and errors are those of `figure`, and:

    Args:
        path: the file to write. A .gif has at most 50 frames a second; further frames are left out.
        progress: called with how many frames are done, and how many there are.

    Returns:
        A warning about players that cannot show it; empty for a .gif or an .mp4 in H.264.

    Raises:
        FormatError: another suffix; the file cannot be written; .mp4, and no OpenCV.
    """
    path = Path(path)
    if path.suffix.lower() not in MOVING:
        raise FormatError(f"{path}: unknown animation format {path.suffix!r} (known: {', '.join(MOVING)})")
    tracks, ghost = tracks_of(recordings, labels, truth, pixels=video is not None)
    followed = parse_traces(traces, tracks[0].tree)
    within = span_of(tracks, span)
    fps = tracks[0].fps
    gif = path.suffix.lower() == ".gif"
    shown = within[:: max(1, math.ceil(fps * SHORTEST_GIF_S))] if gif else within
    images = _images(video, shown) if video is not None else iter([])
    first_image = next(images, None)
    bounds = _bounds(tracks, ghost, None if first_image is None else first_image[1], views)

    cell = 4.0
    height = cell * min(max(plane.height / plane.width for plane in bounds.values()), 1.5)
    plot, [row], below = layout(1, len(tracks) * len(views), cell, height, len(followed))
    panels = []
    for (track, view), axes in zip(itertools.product(tracks, views), row, strict=True):
        panels.append(Panel(axes, track, ghost, bounds[view], cell, view))
        _title(axes, track, view, views)
    draw_traces(below, followed, tracks, ghost, within)
    cursors = [axes.axvline(within.start / fps, color="black", lw=0.8) for axes in below]

    pictures = itertools.chain([] if first_image is None else [first_image], images)
    frames = _frames(plot, panels, cursors, shown, fps, pictures, progress)
    try:
        if not gif:
            return write_mp4(path, frames, fps)
        _write_gif(path, frames, fps / shown.step, len(shown))
        return ""
    except OSError as error:
        raise FormatError(f"{path}: cannot be written ({error.strerror or error})") from None


def _frames(
    plot: Figure,
    panels: Sequence[Panel],
    cursors: Sequence[Line2D],
    slots: range,
    fps: float,
    pictures: Iterator[tuple[int, Image]],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Image]:
    """The figure at one slot after another, over the pictures of a video if there are any."""
    canvas: Any = FigureCanvasAgg(plot)
    for number, slot in enumerate(slots, 1):
        _, image = next(pictures, (slot, None))
        for panel in panels:
            panel.show(slot, image)
        for cursor in cursors:
            cursor.set_xdata([slot / fps, slot / fps])
        canvas.draw()
        yield np.array(canvas.buffer_rgba())[..., :3]
        if progress is not None:
            progress(number, len(slots))


def _bounds(
    tracks: Sequence[Track], ghost: Track | None, image: Image | None, views: Sequence[str]
) -> dict[str, Bounds]:
    """What each view shows; RtskelError."""
    for view in views:
        if view not in VIEWS:
            raise RtskelError(f"unknown view {view!r} (known: {', '.join(VIEWS)})")
        if view != "front" and image is not None:
            raise RtskelError(f"view {view!r}: over a video only the front view can be drawn")
        for track in tracks if view != "front" else ():
            if track.flat:
                raise RtskelError(f"view {view!r}: {track.label!r} has no depth, only its front view can be drawn")
    return {view: bounds_of([*tracks, ghost] if ghost else tracks, image, view) for view in views}


def _title(axes: Axes, track: Track, view: str, views: Sequence[str]) -> None:
    label = track.label if len(views) == 1 else f"{track.label}, {view}"
    axes.set_title(label, color=track.color, fontsize=12, weight="bold", loc="left")


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

    # In hundredths of a second, so that rounding errors do not add up.
    ticks = np.diff(np.round(np.arange(frames + 1) * 100 / fps).astype(int))
    pictures = (Pillow.fromarray(image).quantize(128) for image in images)
    first = next(pictures)
    first.save(path, save_all=True, append_images=pictures, duration=[int(tick) * 10 for tick in ticks], loop=0)
