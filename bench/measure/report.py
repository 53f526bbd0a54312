"""A bench's command line, its figures, tables and JSON, and the machine that was measured."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtskel.cli import positive
from rtskel.errors import RtskelError

RESULTS = Path(__file__).resolve().parents[1] / "results"
WEIGHTS = RESULTS.parents[1] / "engines" / "skeletor-realtime.safetensors"
"""The released weights, with their graph skeletor-realtime.onnx in the same folder."""

DATA = Path(os.environ.get("RTSKEL_DATA", "../shared/data"))
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def arguments(doc: str | None, data: bool = False) -> argparse.ArgumentParser:
    """A parser with the options of every bench, described by the first line of a docstring; `data`: with --data."""
    description = str(doc).splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--save", metavar="NAME", help="also keep the JSON as bench/results/NAME.json")
    if data:
        parser.add_argument("--data", type=Path, default=DATA, help="folder of the recordings")
    return parser


def counts(text: str) -> list[int]:
    """Comma-separated numbers of 1 or more."""
    return [positive(part) for part in text.split(",")]


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """Comma-separated names out of these."""

    def parsed(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r} (known: {', '.join(known)})")
        return found

    return parsed


def machine() -> dict[str, Any]:
    """Processor, system and versions."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {
            each.name: each.version
            for each in importlib.metadata.distributions()
            if each.name in ("rtskel", "numpy", "pyzmq", "msgpack", "openvino", "torch", "onnxruntime")
        },
    }


def bench(
    name: str,
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    lines: Callable[[dict[str, Any]], Sequence[str]],
    good: Callable[[dict[str, Any]], bool] = lambda result: True,
) -> int:
    """Measures, prints the result as lines or, with --json, as JSON, and keeps it with --save; gives an exit status.

    A `RtskelError` is one line on stderr and status 2; a result that is not `good` is status 1.
    """
    try:
        result = {"bench": name, **measure(options), "machine": machine()}
    except RtskelError as error:
        print(f"rtskel: error: {error}", file=sys.stderr)
        return 2
    if options.save:
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if options.json else "\n".join(lines(result)))
    return 0 if good(result) else 1


def unavailable(error: BaseException) -> dict[str, str]:
    """The result of what does not run here: the reason, in one line."""
    return {"unavailable": " ".join(str(error).split())[:300] or type(error).__name__}


def percentiles(ms: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    """p50, p90, p99, p99.9, maximum and size of a sample."""
    values = np.asarray(ms, np.float64)
    found = {f"p{p:g}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {**found, "max": float(values.max()), "n": len(values)}


def table(title: str, rows: Mapping[str, Mapping[str, Any]], form: str = ".3f") -> list[str]:
    """Lines of a table: one row a key, one column for each key of any row; numbers in a format, absent cells as "-"."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))

    def cell(value: Any) -> str:
        return "-" if value is None else value if isinstance(value, str) else format(value, form)

    cells = [[title, *columns]] + [[name, *(cell(row.get(c)) for c in columns)] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        row[0].ljust(widths[0])
        + "".join(text.rjust(width + 2) for text, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]
