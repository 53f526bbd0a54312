"""What `rtskel draw` draws with: a layout of axes, a skeleton in a pair of them, joints over time. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from rtskel.errors import RtskelError
from rtskel.skeleton import Skeleton
from rtskel.tools.tracks import VIEWS, Bounds, Track
from rtskel.tools.video import Image

GHOST = "#e3e6ec"  # the truth behind a pose
FILLED = 0.45  # opacity of what was filled in

HEAD = 0
"""The joint that is drawn as a head."""

_DIRECTION = {"x": "right", "y": "down", "z": "toward the camera"}


def layout(
    rows: int, columns: int, width: float, height: float, traces: int
) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """A figure with a grid of panels (`width` by `height` inches each) above the axes of the traces."""
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


class Panel:
    """One recording in one pair of axes, at one slot after another."""

    def __init__(
        self, axes: Axes, track: Track, ghost: Track | None, bounds: Bounds, inches: float, view: str = "front"
    ) -> None:
        """Empty axes; `inches`: their width."""
        self._track = track
        self._axes = axes
        clip = track.unit == "px"  # do not draw beyond the image
        self._layers = [_Layer(axes, ghost, GHOST, inches, clip, 1, view)] if ghost else []
        self._layers += [_Layer(axes, track, track.color, inches, clip, 2, view)]
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

    def __init__(self, axes: Axes, track: Track, color: str, inches: float, clip: bool, zorder: int, view: str) -> None:
        self._track, self._color, self._view = track, color, VIEWS[view]
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
        xy, there = track.xyz[slot][:, self._view], track.there[slot]
        color = [to_rgba(self._color, FILLED if filled else 1.0) for filled in track.filled[slot]]
        ends = [j for j, parent in enumerate(tree.parents) if parent >= 0 and there[j] and there[parent]]
        self._bones.set_segments([xy[[tree.parents[j], j]] for j in ends])
        self._bones.set_color([color[j] for j in ends])
        self._bones.set_linewidth([2.0 if j in self._body else 0.8 for j in ends])
        self._head.set_visible(bool(there[HEAD]))
        self._head.set_offsets(xy[[HEAD]])
        self._head.set_color([color[HEAD]])


@dataclass(frozen=True)
class Trace:
    """One coordinate of one joint over time."""

    joint: int
    coordinate: int
    title: str


def parse_traces(traces: Sequence[str], tree: Skeleton) -> list[Trace]:
    """Traces from their names, such as "right_wrist" or "right_wrist.y"; RtskelError."""
    parsed = []
    for trace in traces:
        name, dot, coordinates = trace.partition(".")
        if name not in tree.names:
            raise RtskelError(f"unknown joint {name!r} (such as {', '.join(tree.names[:5])})")
        if dot and coordinates not in _DIRECTION:
            raise RtskelError(f"{trace!r}: x, y or z expected after the joint, such as {name}.y")
        for coordinate in coordinates or _DIRECTION:
            title = f"{name.replace('_', ' ')}, {_DIRECTION[coordinate]}"
            parsed.append(Trace(tree.names.index(name), "xyz".index(coordinate), title))
    return parsed


def draw_traces(
    axes: Sequence[Axes], traces: Sequence[Trace], tracks: Sequence[Track], ghost: Track | None, span: range
) -> None:
    """Draw each trace in its own axes."""
    for row, (ax, trace) in enumerate(zip(axes, traces, strict=True)):
        for track in [ghost, *tracks] if ghost else tracks:
            slots = np.arange(span.start, min(span.stop, track.slots))
            value = np.where(track.there[slots, trace.joint], track.xyz[slots, trace.joint, trace.coordinate], np.nan)
            # A dot on every frame: a single frame between two missing ones has no line.
            style: dict[str, Any] = {"lw": 1.5}
            if track is ghost:
                style = {"lw": 3.0}
            elif not track.refined:
                style = {"lw": 0.8, "marker": ".", "ms": 3.0}
            ax.plot(slots / track.fps, value, color=track.color, label=track.label, **style)
        # Refinement fills in what the raw recording lacks: shade it once.
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
