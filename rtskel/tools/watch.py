"""Refined streams for people and programs: a live table, and JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rtskel.client import ServerBack, ServerGone
from rtskel.client.reader import Given
from rtskel.formats.capture import slot_of
from rtskel.skeleton import SKELETONS
from rtskel.text import printable
from rtskel.tools.collect import Beats, latency
from rtskel.wire import About, Event, Flag, Heartbeat, RefinedPose

if TYPE_CHECKING:
    from rich.console import Console, Group

RECENT = 256
"""Number of poses over which a row of the table computes rates and percentiles."""


def as_json(message: Given, arrived_ns: int) -> dict[str, Any]:
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
            "skeleton": message.skeleton,
            "unit": message.about.unit or "unknown",
            **_known(message.about),
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
    if isinstance(message, ServerGone):
        gone = {"kind": "server", "event": "gone", "epoch": message.epoch, "silent_s": round(message.silent_s, 3)}
        return gone | _which(message)
    if isinstance(message, ServerBack):
        back = {"kind": "server", "event": "back", "epoch": message.epoch, "restarted": message.restarted}
        return back | _which(message)
    raise TypeError(f"{type(message).__name__} does not come from a server")


def _which(change: ServerGone | ServerBack) -> dict[str, str]:
    return {"endpoint": change.endpoint} if change.endpoint else {}


def _known(about: About) -> dict[str, Any]:
    """Person and camera, as far as they are known; the keys are the columns of `.jsonl` recordings."""
    width, height = about.image_size or (None, None)
    said = {"person": about.person, "view": about.view, "image_width": width, "image_height": height}
    return {name: value for name, value in said.items() if value is not None}


def in_words(change: ServerGone | ServerBack) -> str:
    """What became of the server."""
    if isinstance(change, ServerBack):
        return "a new server is there, its streams start afresh" if change.restarted else "the server is back"
    return f"no {'sign of the' if change.epoch is not None else ''} server for {change.silent_s:.0f} s".replace(
        "  ", " "
    )


def _numbers(values: NDArray[np.float32]) -> list[Any]:
    flat = [float(f"{value:.9g}") for value in values.ravel().tolist()]
    return flat if values.ndim == 1 else [flat[first : first + 3] for first in range(0, len(flat), 3)]


def console() -> Console:
    """A rich console that prints text verbatim; 140 columns wide where it is not a terminal."""
    from rich.console import Console

    made = Console(highlight=False, markup=False)
    if not made.is_terminal:
        made.width = 140
    return made


class JsonLines:
    """Prints messages as JSON lines; a line with the names of a skeleton's joints comes before its first pose."""

    def __init__(self) -> None:
        self._skeletons: set[str] = set()

    def add(self, message: Given, arrived_ns: int) -> None:
        """Print a message that arrived at that time on the monotonic clock."""
        if isinstance(message, RefinedPose) and message.skeleton not in self._skeletons:
            self._skeletons.add(message.skeleton)
            if message.skeleton in SKELETONS:
                tree = SKELETONS[message.skeleton]
                about = {"kind": "skeleton", "skeleton": tree.id, "joints": tree.names, "parents": tree.parents}
                print(json.dumps(about, allow_nan=False))
        print(json.dumps(as_json(message, arrived_ns), allow_nan=False))
        if not isinstance(message, RefinedPose):
            sys.stdout.flush()


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

    @property
    def live(self) -> bool:
        """Whether the view is shown while it changes."""
        return self._console.is_terminal

    def __enter__(self) -> Self:
        if self.live:
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

    def update(self, view: View, before: Callable[[], None] | None = None) -> None:
        """The view has changed. Drawing takes some ms, so it happens four times a second, after a call of `before`."""
        self._view = view
        now = time.monotonic()
        if now < self._due:
            return
        if before is not None:
            before()
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
    spent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    note: str = ""

    def add(self, pose: RefinedPose, arrived_ns: int) -> None:
        self.poses += 1
        self.joints += len(pose.missing)
        self.filled += int(pose.missing.sum())
        self.interpolated += Flag.INTERPOLATED in pose.flags
        self.arrived.append(arrived_ns)
        self.note = ""
        spent = latency(pose, arrived_ns)
        if spent is not None:
            self.spent.append(spent.total)

    def cells(self) -> list[str]:
        span = (self.arrived[-1] - self.arrived[0]) / 1e9
        rate = (len(self.arrived) - 1) / span if span > 0 else 0.0
        p50, p99 = (f"{np.percentile(self.spent, share):.1f}" if self.spent else "-" for share in (50, 99))
        filled = f"{self.filled / self.joints:.1%}"
        return [str(self.poses), f"{rate:.1f}", filled, str(self.interpolated), str(self.lost), p50, p99, self.note]


class LiveTable:
    """What has arrived so far, a row for each stream and lookahead, as rich can print it.

    The `SHOWN` rows that changed last are shown, of at most `MAX_ROWS` that are kept, however many streams there are.
    """

    SHOWN = 40
    MAX_ROWS = 1000

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._rows: OrderedDict[tuple[str, int], _Row] = OrderedDict()  # the one that changed last comes last
        self._forgotten = 0
        self._lookaheads: set[int] = set()
        self._events: deque[str] = deque(maxlen=5)
        self._beats = Beats()
        self._heartbeat_came = 0

    def add(self, message: Given, arrived_ns: int) -> None:
        """Take a message that arrived at that time on the monotonic clock."""
        self._beats.add(message, arrived_ns)
        if isinstance(message, RefinedPose):
            key = message.stream, message.lookahead
            row = self._rows.get(key)
            if row is None:
                row = self._rows[key] = _Row()
                self._lookaheads.add(message.lookahead)
                if len(self._rows) > self.MAX_ROWS:
                    self._rows.popitem(last=False)
                    self._forgotten += 1
            row.add(message, arrived_ns)
            self._rows.move_to_end(key)
        elif isinstance(message, Event):
            what = message.kind if message.detail in ("", message.kind) else f"{message.kind} ({message.detail})"
            self._events.append(f"{message.stream or 'server'}: {what}")
            if message.kind in ("end", "stale"):
                for lookahead in self._lookaheads:
                    if (message.stream, lookahead) in self._rows:
                        self._rows[message.stream, lookahead].note = "ended" if message.kind == "end" else "stale"
        elif isinstance(message, Heartbeat):
            self._heartbeat_came = arrived_ns
        elif isinstance(message, (ServerGone, ServerBack)):
            self._events.append(in_words(message))

    def lost(self, counts: Mapping[tuple[str, int], int]) -> None:
        """Set how many poses were lost, by stream and lookahead."""
        for key, row in self._rows.items():
            row.lost = counts.get(key, 0)

    def render(self, now_ns: int | None = None) -> Group:
        """The table as of now, at most 80 columns wide unless names are long."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        parts: list[Any] = [Text(self._server(now_ns))]
        if self._rows:
            table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
            table.add_column("stream", overflow="fold")
            for name in ("look-\nahead", "poses", "per s", "filled\njoints", "filled\nframes", "lost"):
                table.add_column(name, justify="right")
            table.add_column("latency\nms p50", justify="right")
            table.add_column("p99", justify="right")
            table.add_column("")
            shown = sorted(list(self._rows)[-self.SHOWN :])
            for stream, lookahead in shown:
                table.add_row(printable(stream), str(lookahead), *self._rows[stream, lookahead].cells())
            parts.append(table)
            if more := len(self._rows) + self._forgotten - len(shown):
                parts.append(Text(f"and {more} more rows, which changed before these"))
        return Group(*parts, *(Text(printable(event), style="dim") for event in self._events))

    def _server(self, now_ns: int) -> str:
        beat = self._beats.together(now_ns)
        if beat is None:
            return f"waiting for a server at {printable(self._endpoint)} ..."
        silent = (now_ns - self._heartbeat_came) / 1e9
        if now_ns - self._heartbeat_came > 3 * beat.interval_ns:
            return f"no sign of the server at {printable(self._endpoint)} for {silent:.0f} s"
        facts = [beat.model, f"lookahead {', '.join(map(str, beat.lookaheads))}", f"{beat.streams} streams"]
        facts += [f"{beat.loop_fps:.0f} frames/s", *(f"{name} {count}" for name, count in beat.counts.items() if count)]
        return printable(f"{self._endpoint}: {', '.join(facts)}")
