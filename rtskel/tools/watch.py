"""Refined streams for people and programs: a live table, and JSON lines."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rtskel.tools.collect import Latency, latency, slot_of
from rtskel.wire import Event, Flag, Heartbeat, Message, RefinedPose

if TYPE_CHECKING:
    from rich.console import Console, Group

RECENT = 256
"""Number of poses over which a row of the table computes rates and percentiles."""


def as_json(message: Message, arrived_ns: int) -> dict[str, Any]:
    """A message from the server as JSON values; numbers are exact for float32, positions are [J][x, y, z]."""
    if isinstance(message, RefinedPose):
        spent = latency(message, arrived_ns)
        return {
            "kind": "pose",
            "stream": message.stream,
            "lookahead": message.lookahead,
            "slot": slot_of(message),
            "seq": message.seq,
            "time_ns": message.source_time_ns,
            "clock": message.source_clock,
            "fps": message.fps,
            "latency_ms": None if spent is None else round(spent.total, 3),
            "windows": message.windows,
            "flags": [flag.name.lower() for flag in Flag if flag in message.flags and flag.name],
            "model": message.model,
            "axes": message.axes,
            "mirrored": message.mirrored,
            "missing": np.flatnonzero(message.missing).tolist(),
            "confidence": _numbers(message.confidence),
            "sigma": _numbers(message.sigma),
            "xyz": _numbers(message.xyz),
        }
    if isinstance(message, Event):
        return {
            "kind": "event",
            "stream": message.stream,
            "event": message.kind,
            "seq": message.seq,
            "time_ns": message.time_ns,
            "detail": message.detail,
            "counts": dict(message.counts),
        }
    if isinstance(message, Heartbeat):
        return {
            "kind": "heartbeat",
            "seq": message.seq,
            "time_ns": message.time_ns,
            "model": message.model,
            "lookaheads": list(message.lookaheads),
            "streams": message.streams,
            "frames_in": message.frames_in,
            "frames_out": message.frames_out,
            "counts": dict(message.counts),
        }
    raise TypeError(f"{type(message).__name__} does not come from a server")


def _numbers(values: NDArray[np.float32]) -> list[Any]:
    flat = [float(f"{value:.9g}") for value in values.ravel().tolist()]
    return flat if values.ndim == 1 else [flat[first : first + 3] for first in range(0, len(flat), 3)]


def console(stderr: bool = False) -> Console:
    """A rich console that prints text verbatim; 140 columns wide where it is not a terminal."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal:
        made.width = 140
    return made


class View(Protocol):
    """Something that changes and can be displayed."""

    def render(self) -> Group:
        """As of now."""


class Display:
    """Shows a view while it changes: in place on a terminal, elsewhere as lines of text.

    Args:
        console: where to show it.
        lines: without a terminal, these lines are printed once a second; None: the whole view, once, at the end.
    """

    def __init__(self, console: Console, lines: Callable[[], Iterable[str]] | None = None) -> None:
        self._console, self._lines = console, lines
        self._live: Any = None
        self._view: View | None = None
        self._due = time.monotonic() + 1.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False)
            self._live.__enter__()
            self._due = 0.0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            if self._view is not None:
                self._live.update(self._view.render(), refresh=True)
            self._live.__exit__(kind, error, trace)
        elif self._view is not None and self._lines is None:
            self._console.print(self._view.render())

    def update(self, view: View) -> None:
        """The view has changed. Drawing takes some ms, so it is done four times a second."""
        self._view = view
        now = time.monotonic()
        if now < self._due:
            return
        if self._live is not None:
            self._live.update(view.render(), refresh=True)
            self._due = now + 0.25
        elif self._lines is not None:
            for line in self._lines():
                self._console.print(line)
            self._due = now + 1.0


@dataclass
class _Row:
    """One stream at one lookahead."""

    poses: int = 0
    joints: int = 0
    filled: int = 0
    interpolated: int = 0
    lost: int = 0
    arrived: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    spent: deque[Latency] = field(default_factory=lambda: deque(maxlen=RECENT))
    note: str = ""


class LiveTable:
    """What has arrived so far, a row for each stream and lookahead, as rich can print it."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._rows: dict[tuple[str, int], _Row] = {}
        self._events: deque[str] = deque(maxlen=5)
        self._heartbeat: Heartbeat | None = None
        self._heartbeat_came = 0

    def add(self, message: Message, arrived_ns: int) -> None:
        """Take a message that arrived at that time on the monotonic clock."""
        if isinstance(message, RefinedPose):
            row = self._rows.setdefault((message.stream, message.lookahead), _Row())
            row.poses += 1
            row.joints += len(message.missing)
            row.filled += int(message.missing.sum())
            row.interpolated += Flag.INTERPOLATED in message.flags
            row.arrived.append(arrived_ns)
            row.note = ""
            spent = latency(message, arrived_ns)
            if spent is not None:
                row.spent.append(spent)
        elif isinstance(message, Event):
            what = message.kind if message.detail in ("", message.kind) else f"{message.kind} ({message.detail})"
            self._events.append(f"{message.stream or 'server'}: {what}")
            if message.kind in ("end", "stale"):
                for (stream, _), row in self._rows.items():
                    if stream == message.stream:
                        row.note = "ended" if message.kind == "end" else "stale"
        elif isinstance(message, Heartbeat):
            self._heartbeat, self._heartbeat_came = message, arrived_ns

    def lost(self, counts: dict[tuple[str, int], int]) -> None:
        """Set how many poses were lost, by stream and lookahead."""
        for key, count in counts.items():
            if key in self._rows:
                self._rows[key].lost = count

    def render(self, now_ns: int | None = None) -> Group:
        """The table as of now."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("stream", overflow="fold")
        for name in ("lookahead", "poses", "per s", "filled joints", "filled frames", "lost", "latency ms p50", "p99"):
            table.add_column(name, justify="right")
        table.add_column("")
        for (stream, lookahead), row in sorted(self._rows.items()):
            span = (row.arrived[-1] - row.arrived[0]) / 1e9
            rate = (len(row.arrived) - 1) / span if span > 0 else 0.0
            total = [spent.total for spent in row.spent]
            p50, p99 = (f"{np.percentile(total, share):.1f}" if total else "-" for share in (50, 99))
            table.add_row(
                stream,
                str(lookahead),
                str(row.poses),
                f"{rate:.1f}",
                f"{row.filled / row.joints:.1%}",
                str(row.interpolated),
                str(row.lost),
                p50,
                p99,
                row.note,
            )
        parts: list[Any] = [Text(self._server(now_ns)), table] if self._rows else [Text(self._server(now_ns))]
        return Group(*parts, *(Text(event, style="dim") for event in self._events))

    def _server(self, now_ns: int) -> str:
        beat = self._heartbeat
        if beat is None:
            return f"waiting for a server at {self._endpoint} ..."
        silent = (now_ns - self._heartbeat_came) / 1e9
        if now_ns - self._heartbeat_came > 3 * beat.interval_ns:
            return f"no sign of the server at {self._endpoint} for {silent:.0f} s"
        facts = [beat.model, f"lookahead {', '.join(map(str, beat.lookaheads))}", f"{beat.streams} streams"]
        facts += [f"{beat.loop_fps:.0f} frames/s", *(f"{name} {count}" for name, count in beat.counts.items() if count)]
        return f"{self._endpoint}: {', '.join(facts)}"
