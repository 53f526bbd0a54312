"""What commands print: JSON, tables, progress bars, and notes on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


def note(text: str) -> None:
    """A line for the user on stderr."""
    print(f"rtskel: {text}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(value, allow_nan=False), flush=True)


def show_table(title: str | None, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; columns of numbers are right-aligned."""
    from rich import box
    from rich.table import Table

    from rtskel.tools.watch import console

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for column, name in enumerate(header):
        numbers = all(re.fullmatch(r"[\d.]+%?|-", row[column]) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def progress(unit: str) -> Progress:
    """A progress bar on stderr; silent where stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rtskel.tools.watch import console

    err = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
