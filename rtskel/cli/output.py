"""What commands print: notes on stderr, JSON, tables, and a progress line."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rtskel.text import printable

_as_json = False


def note(text: str) -> None:
    """A line for the user on stderr."""
    line = f"rtskel: {printable(text)}"
    if _as_json:
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "message": printable(text)})
    print(line, file=sys.stderr, flush=True)


def log_json() -> None:
    """From now on notes are JSON objects, one a line: `time` in ISO 8601 and `message`."""
    global _as_json
    _as_json = True


class _Notes(logging.Handler):
    """Shows the library's warnings as any other note."""

    def __init__(self, before: str) -> None:
        super().__init__(logging.WARNING)
        self._before = before

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(BrokenPipeError):
            note(self._before + record.getMessage())


_handlers: list[logging.Handler] = []


def notes(before: str = "") -> None:
    """From now on the library's warnings are notes, each with that before it."""
    log = logging.getLogger("rtskel")
    while _handlers:
        log.removeHandler(_handlers.pop())
    _handlers.append(_Notes(before))
    log.addHandler(_handlers[0])


def undelivered(endpoint: str, dropped: int, refusals: Mapping[str, Mapping[str, int]]) -> str:
    """A line about what the server did not take; empty if it took everything.

    Args:
        dropped: messages that did not reach it.
        refusals: what it refused, by stream and reason.
    """
    words = [f"{dropped} messages did not reach it"] if dropped else []
    for stream, counts in refusals.items():
        words.append(f"it refused stream {stream!r} ({', '.join(f'{name} {count}' for name, count in counts.items())})")
    return f"the server at {endpoint}: {'; '.join(words)}" if words else ""


def print_json(value: Any) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(value, allow_nan=False), flush=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; columns of numbers are right-aligned."""
    cells = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = [all(re.fullmatch(r"[\d.]+%?|-", row[column]) for row in cells[1:]) for column in range(len(header))]
    print(printable(title))
    for number, row in enumerate(cells):
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        )
        print("  ".join(aligned).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


class Progress:
    """A line on stderr that shows a command's progress; where stderr is not a terminal, only what it waits for.

    Args:
        unit: what is counted.
        total: how many there are; None: unknown.
    """

    def __init__(self, unit: str, total: int | None = None) -> None:
        self._unit, self._total = unit, total
        self._text, self._done, self._drawn = "", 0, 0.0
        self._terminal = sys.stderr.isatty()

    def update(self, text: str | None = None, done: int | None = None, total: int | None = None) -> None:
        """Show another text, or another count; at most ten times a second."""
        self._text = self._text if text is None else printable(text)
        self._done = self._done if done is None else done
        self._total = self._total if total is None else total
        if self._terminal and time.monotonic() - self._drawn > 0.1:
            self._draw()

    def waiting(self, text: str) -> None:
        """Say at once what the command waits for."""
        if self._terminal:
            self._text = printable(text)
            self._draw()
        else:
            note(text)

    def _draw(self) -> None:
        of = f"/{self._total}" if self._total else ""
        count = f" {self._done}{of} {self._unit}" if self._done or self._total else ""
        print(f"\r\x1b[K{self._text}{count}", end="", file=sys.stderr, flush=True)
        self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal and self._drawn:
            self._draw()
            print(file=sys.stderr)
