"""Many files: does it matter who makes the results, and what if they are killed? And what does Ray cost?

Files of the project's own synthesis are refined by `rtskel refine --out`: by one process, by `--workers 2`, and, where
Ray Data is installed, by `--ray` with two actors. The latter two also run another time, in which they are killed by
SIGKILL once half of the results are recorded, and the same call continues. What must come out: the same bytes as from
one process for every file, every result recorded once, and none made again that was recorded before the kill. The times
are of the runs without a kill; the start of processes, and of Ray, counts.

    python bench/archive.py --save archive                  # 20,000 files
    python bench/archive.py --files 200                     # to see that it works
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from measure.report import arguments, report, table

from rtskel.cli import positive
from rtskel.formats import write
from rtskel.manifest import MANIFEST
from rtskel.training.synthesize import estimator_errors, synthesize

HOW = {"one process": ["--workers", "1"], "2 workers": ["--workers", "2"], "Ray, 2 actors": ["--workers", "2", "--ray"]}
SEEDS = 500
"""Different ones; more files are the same motion under other names."""


def make(folder: Path, files: int, seconds: float) -> int:
    """Files of synthetic people as a live estimator sees them, in 100 folders; gives the number of their frames."""
    paths = [folder / f"{k % 100:02}" / f"take-{k:05}.npz" for k in range(files)]
    frames = []
    for k, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if k < SEEDS:
            seen = estimator_errors(synthesize(seconds, seed=k), k)
            write(path, [seen])
            frames.append(seen.frames)
        else:
            shutil.copyfile(paths[k % SEEDS], path)
    return sum(frames[k % SEEDS] for k in range(files))


def call(source: Path, out: Path, how: list[str], engine: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-P", "-m", "rtskel", "refine", str(source), "--out", str(out), "--engine", engine, *how]


def recorded(out: Path) -> list[dict[str, Any]]:
    """Complete lines of the manifest that name results."""
    path = out / MANIFEST
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def digests(out: Path) -> dict[str, str]:
    """Every result by its name."""
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.npz")}


def killed_and_resumed(source: Path, out: Path, how: list[str], engine: str, files: int) -> dict[str, Any]:
    """Killed with all its processes once half is recorded; then continued."""
    process = subprocess.Popen(call(source, out, how, engine), start_new_session=True, stderr=subprocess.DEVNULL)
    while len(recorded(out)) < files // 2 and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {entry["result"]: (out / entry["result"]).stat().st_mtime_ns for entry in recorded(out)}
    subprocess.run(call(source, out, how, engine), check=True)
    times = Counter(entry["result"] for entry in recorded(out) if entry["status"] == "done")
    again = [name for name, when in before.items() if (out / name).stat().st_mtime_ns != when]
    return {
        "recorded before the kill": len(before),
        "recorded twice": sum(count > 1 for count in times.values()),
        "made again": len(again),
        "lost": files - len(times),
        "left over": sum(path.name.endswith(".part") for path in out.rglob("*") if path.is_file()),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """All ways."""
    source = folder / "in"
    frames = make(source, options.files, options.seconds)
    expected: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, how in HOW.items():
        if "--ray" in how and importlib.util.find_spec("ray") is None:
            continue
        out = folder / name.replace(" ", "-").replace(",", "")
        begin = time.monotonic()
        subprocess.run(call(source, out, how, options.engine), check=True)
        seconds = time.monotonic() - begin
        found = digests(out)
        expected = expected or found
        rows[name] = {"seconds": seconds, "ms a file": 1000 * seconds / options.files, "frames": frames}
        rows[name]["other bytes"] = len(expected.items() ^ found.items())
        if len(rows) > 1:
            again = folder / f"{out.name}-killed"
            rows[name] |= killed_and_resumed(source, again, how, options.engine, options.files)
            rows[name]["other bytes"] += len(expected.items() ^ digests(again).items())
            shutil.rmtree(again)
        shutil.rmtree(out)
    return rows


def main() -> int:
    """Command line; the exit status is 1 if anything was lost, made twice, or other than from one process."""
    parser = arguments(__doc__)
    parser.add_argument("--files", type=positive, default=20_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each file, at 25 fps")
    parser.add_argument("--engine", default="null", help="null, which leaves what is around it, or a path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    wrong = ("other bytes", "recorded twice", "made again", "lost", "left over")
    bad = sum(row.get(name, 0) for row in rows.values() for name in wrong)
    lines = table(f"{options.files} files", rows, ".1f")
    report({"bench": "archive", "files": options.files, "engine": options.engine, "rows": rows}, lines, options)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
