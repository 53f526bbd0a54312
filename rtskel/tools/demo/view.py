"""The demo's live display: errors of all poses so far, and what has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rtskel.formats.capture import slot_of
from rtskel.tools.collect import Latency
from rtskel.tools.demo.truth import Truth
from rtskel.wire import RefinedPose

if TYPE_CHECKING:
    from rich.console import Group


class View:
    """Running figures, by lookahead.

    Args:
        streams: what to compare with.
        joints: those that count.
        recent: number of poses over which latencies are averaged.
        lookaheads: in frames.
    """

    HEADER = ("lookahead", "poses", "filled joints", "raw error mm", "refined error mm", "latency ms")

    def __init__(self, streams: list[Truth], joints: list[int], recent: int, lookaheads: tuple[int, ...]) -> None:
        self._streams, self._joints, self._recent = streams, np.array(joints), recent
        self._total = sum(len(stream.xyz) for stream in streams)
        self._poses = dict.fromkeys(lookaheads, 0)
        self._filled = dict.fromkeys(lookaheads, 0)
        self._errors = {lookahead: np.zeros(2) for lookahead in lookaheads}  # sums over poses, before and after
        self._compared = dict.fromkeys(lookaheads, 0)
        self._latencies: dict[int, list[float]] = {lookahead: [] for lookahead in lookaheads}

    def add(self, number: int, pose: RefinedPose, spent: Latency | None) -> None:
        """Take a pose of stream `number`."""
        stream, slot = self._streams[number], slot_of(pose)
        self._poses[pose.lookahead] += 1
        self._filled[pose.lookahead] += int(pose.missing.sum())
        if spent is not None:
            self._latencies[pose.lookahead].append(spent.total)
        if slot < len(stream.xyz):
            known = ~stream.missing[slot, self._joints]  # joints that the truth lacks count as right on both sides
            off = np.stack([stream.raw[slot], pose.xyz])[:, self._joints] - stream.xyz[slot, self._joints]
            self._errors[pose.lookahead] += (np.linalg.norm(off, axis=-1) * known).mean(axis=-1) * stream.mm
            self._compared[pose.lookahead] += 1

    def lines(self) -> list[str]:
        """A line for each lookahead."""
        return [
            f"lookahead {lookahead}: {poses} poses, {filled} joints filled in, MPJPE so far {before} -> {after} mm, "
            f"latency {spent} ms"
            for lookahead, poses, filled, before, after, spent in self._cells()
        ]

    def _cells(self) -> list[list[str]]:
        """A row for each lookahead, under HEADER."""
        rows = []
        for lookahead, sums in self._errors.items():
            before, after = sums / max(self._compared[lookahead], 1)
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

        table = Table(
            box=box.SIMPLE_HEAD,
            title="live: mean errors (MPJPE) so far, latency of the last 2 s",
            title_justify="left",
            title_style="",
        )
        for name in self.HEADER:
            table.add_column(name, justify="right")
        for row in self._cells():
            table.add_row(*row)
        return Group(table)
