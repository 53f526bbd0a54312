"""The demo's live display: errors over the last two seconds, and what has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rtskel.tools.collect import Latency, slot_of
from rtskel.tools.demo.truth import Truth
from rtskel.wire import RefinedPose

if TYPE_CHECKING:
    from rich.console import Group


class View:
    """Running figures, by lookahead.

    Args:
        streams: what to compare with.
        joints: those that count.
        recent: number of poses over which errors and latencies are averaged.
        lookaheads: in frames.
    """

    HEADER = ("lookahead", "poses", "filled joints", "raw error mm", "refined error mm", "latency ms")

    def __init__(self, streams: list[Truth], joints: list[int], recent: int, lookaheads: tuple[int, ...]) -> None:
        self._streams, self._joints, self._recent = streams, np.array(joints), recent
        self._total = sum(len(stream.xyz) for stream in streams)
        self._poses = dict.fromkeys(lookaheads, 0)
        self._filled = dict.fromkeys(lookaheads, 0)
        self._errors: dict[int, list[tuple[float, float]]] = {lookahead: [] for lookahead in lookaheads}
        self._latencies: dict[int, list[float]] = {lookahead: [] for lookahead in lookaheads}

    def add(self, number: int, pose: RefinedPose, spent: Latency | None) -> None:
        """Take a pose of stream `number`."""
        stream, slot = self._streams[number], slot_of(pose)
        self._poses[pose.lookahead] += 1
        self._filled[pose.lookahead] += int(pose.missing.sum())
        if spent is not None:
            self._latencies[pose.lookahead].append(spent.total)
        if slot < len(stream.xyz):
            known = self._joints[~stream.missing[slot, self._joints]]
            if len(known):
                truth = stream.xyz[slot, known]
                before, after = (
                    float(np.linalg.norm(xyz[known] - truth, axis=-1).mean()) * stream.mm
                    for xyz in (stream.raw[slot], pose.xyz)
                )
                self._errors[pose.lookahead].append((before, after))

    def lines(self) -> list[str]:
        """A line for each lookahead."""
        return [
            f"lookahead {lookahead}: {poses} poses, {filled} joints filled in, error {before} -> {after} mm, "
            f"latency {spent} ms"
            for lookahead, poses, filled, before, after, spent in self._cells()
        ]

    def _cells(self) -> list[list[str]]:
        """A row for each lookahead, under HEADER."""
        rows = []
        for lookahead, of_poses in self._errors.items():
            before, after = np.mean(of_poses[-self._recent :], axis=0) if of_poses else (0.0, 0.0)
            latest = self._latencies[lookahead][-self._recent :]
            rows.append(
                [
                    str(lookahead),
                    f"{self._poses[lookahead]}/{self._total}",
                    str(self._filled[lookahead]),
                    f"{before:.1f}",
                    f"{after:.1f}",
                    f"{np.median(latest):.1f}" if latest else "-",
                ]
            )
        return rows

    def render(self) -> Group:
        """As a table."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, title="live (last 2 s)", title_justify="left", title_style="")
        for name in self.HEADER:
            table.add_column(name, justify="right")
        for row in self._cells():
            table.add_row(*row)
        return Group(table)
