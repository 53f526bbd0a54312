"""Draws README's picture: the bundled recording as the estimator saw it, as rtskel refines it, and as it was.

    python bench/picture.py -o bench/results/refined.png

Needs matplotlib.
"""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from rtskel import UPPER_BODY_50, Flag, Recording, Refiner, open_engine, read

RIGHT_WRIST = UPPER_BODY_50.names.index("right_wrist")
LEFT_INDEX_TIP = UPPER_BODY_50.names.index("left_index_4")

RAW, REFINED, TRUTH = "#d1495b", "#1d6fa5", "#8d99ae"


def on_slots(recording: Recording, slots: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Positions [slots, J, 3] and which joints are there [slots, J], dropped frames as missing."""
    xyz = np.zeros((slots, UPPER_BODY_50.joints, 3), np.float32)
    there = np.zeros(xyz.shape[:2], np.bool_)
    xyz[recording.slots], there[recording.slots] = recording.xyz, ~recording.missing
    return xyz, there


def draw_skeleton(axes: Any, xyz: NDArray[np.float32], there: NDArray[np.bool_], color: str) -> None:
    """One pose from the front."""
    for joint, parent in enumerate(UPPER_BODY_50.parents):
        if parent >= 0 and there[joint] and there[parent]:
            width = 2.2 if joint < 8 else 0.9
            axes.plot(*xyz[[joint, parent], :2].T, color=color, lw=width, solid_capstyle="round")
    if there[0]:
        axes.plot(*xyz[0, :2], "o", color=color, ms=7)
    axes.set_axis_off()
    axes.set_aspect("equal")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", default="bench/results/refined.png")
    parser.add_argument("--first", type=int, default=100, help="first slot of the strip")
    parser.add_argument("--every", type=int, default=3, help="slots between its skeletons")
    parser.add_argument("--lookahead", type=int, default=4)
    options = parser.parse_args()

    with as_file(files("rtskel") / "recordings" / "demo.npz") as path:
        truth, estimate = read(path)
    raw, there = on_slots(estimate, truth.frames)
    with open_engine() as engine:
        refiner = Refiner(engine, lookahead=options.lookahead)
        parts = [refiner.push(raw, there.astype(np.float32)), refiner.flush()]
    refined = np.concatenate([part.xyz for part in parts])
    dropped = np.concatenate([part.flags for part in parts]) & Flag.INTERPOLATED > 0

    columns = 10
    shown = options.first + options.every * np.arange(columns)
    figure = plt.figure(figsize=(14, 7.2), dpi=100)
    grid = figure.add_gridspec(4, columns, height_ratios=[3, 3, 1.8, 1.8], hspace=0.45, wspace=0.02)
    left, right = truth.xyz[..., 0].min() - 0.05, truth.xyz[..., 0].max() + 0.05
    top, bottom = truth.xyz[..., 1].min() - 0.05, truth.xyz[..., 1].max() + 0.05
    for row, (name, poses, valid, color) in enumerate(
        (("raw", raw, there, RAW), ("refined", refined, np.ones_like(there), REFINED))
    ):
        for column, slot in enumerate(shown):
            axes = figure.add_subplot(grid[row, column])
            draw_skeleton(axes, truth.xyz[slot], np.ones_like(there[slot]), "#e3e6ec")
            draw_skeleton(axes, poses[slot], valid[slot], color)
            axes.set(xlim=(left, right), ylim=(bottom, top))
            if column == 0:
                axes.text(0, 1.02, name, transform=axes.transAxes, color=color, fontsize=13, weight="bold")
            if row == 0 and not valid[slot].any():
                axes.text(0.5, 0.5, "dropped", transform=axes.transAxes, ha="center", color=RAW, fontsize=11)

    span = slice(options.first - 30, options.first + 90)
    time = np.arange(truth.frames)[span] / truth.fps
    for row, (joint, axis, name) in enumerate(
        ((RIGHT_WRIST, 1, "right wrist, down (mm)"), (LEFT_INDEX_TIP, 0, "left index tip, right (mm)"))
    ):
        axes = figure.add_subplot(grid[2 + row, :])
        scale = truth.mm_per_unit()
        seen = np.where(there[:, joint], raw[:, joint, axis], np.nan) * scale
        axes.plot(time, truth.xyz[span, joint, axis] * scale, color=TRUTH, lw=3, label="truth")
        axes.plot(time, seen[span], ".-", color=RAW, lw=0.8, ms=3, label="raw (gaps: missing)")
        axes.plot(time, refined[span, joint, axis] * scale, color=REFINED, lw=1.5, label="refined")
        for slot in np.flatnonzero(dropped[span]):
            axes.axvspan(time[slot] - 0.5 / truth.fps, time[slot] + 0.5 / truth.fps, color=RAW, alpha=0.08, lw=0)
        axes.set_title(name, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
        if row == 0:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3, fontsize=9, frameon=False)
    axes.set_xlabel("seconds", fontsize=8)
    figure.savefig(options.out, bbox_inches="tight")
    print(f"{options.out}: lookahead {options.lookahead}, slots {shown[0]} to {shown[-1]}")


if __name__ == "__main__":
    main()
