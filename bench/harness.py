"""What the benches share: a server process, figures, and where they were measured."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every bench has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--save", metavar="NAME", help="also keep the JSON as bench/results/NAME.json")
    return parser


def machine() -> dict[str, Any]:
    """Where and with what the figures were measured."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    versions = {}
    for package in ("rtskel", "numpy", "pyzmq", "msgpack", "openvino", "torch", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def report(result: dict[str, Any], lines: Sequence[str], options: argparse.Namespace) -> None:
    """Print a result as a table's lines or, if asked to, as JSON; keep it if asked to."""
    result = {**result, "machine": machine()}
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if options.json else "\n".join(lines))


def percentiles(ms: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    """p50, p90, p99, p99.9 and the worst of a sample."""
    values = np.asarray(ms, np.float64)
    found = {f"p{p:g}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {**found, "max": float(values.max()), "n": len(values)}


@dataclass
class ServerProcess:
    """A running `rtskel serve`."""

    process: subprocess.Popen[str]
    raw: str
    refined: str

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time used so far by the whole process and by its main thread alone (the loop, without ZeroMQ's I/O
        thread).
        """
        pid = self.process.pid
        return {"process": _cpu(f"/proc/{pid}/stat"), "loop": _cpu(f"/proc/{pid}/task/{pid}/stat")}


def _cpu(stat: str) -> float:
    fields = Path(stat).read_text().rsplit(")", 1)[1].split()  # utime and stime are fields 14 and 15, two before ")"
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(*options: str) -> Iterator[ServerProcess]:
    """`rtskel serve` in its own process, on ports that the system chooses; ended by SIGTERM."""
    command = [sys.executable, "-P", "-m", "rtskel.cli", "serve", "--json"]
    command += ["--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            raise SystemExit("rtskel serve did not start: see its message above")
        endpoints = json.loads(ready)
        yield ServerProcess(process, endpoints["raw"], endpoints["refined"])
    finally:
        process.terminate()
        process.communicate(timeout=60)
