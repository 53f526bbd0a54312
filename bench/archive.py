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
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from measure.processes import rtskel
from measure.report import arguments, bench, table

from rtskel.cli import positive
from rtskel.formats import write
from rtskel.manifest import MANIFEST
from rtskel.training.synthesize import estimator_errors, synthesize

HOW = {"one process": ["--workers", "1"], "2 workers": ["--workers", "2"], "Ray, 2 actors": ["--workers", "2", "--ray"]}
SEEDS = 500
"""Different ones, of a second at 25 fps; more files are the same motion under other names."""
WRONG = ("other bytes", "recorded twice", "made again", "lost", "left over")


def make(folder: Path, files: int) -> None:
    """Files of synthetic people as a live estimator sees them, in 100 folders."""
    paths = [folder / f"{k % 100:02}" / f"take-{k:05}.npz" for k in range(files)]
    for k, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if k < SEEDS:
            write(path, [estimator_errors(synthesize(1.0, seed=k), k)])
        else:
            shutil.copyfile(paths[k % SEEDS], path)


def recorded(out: Path) -> list[dict[str, Any]]:
    """Complete lines of the manifest that name results."""
    path = out / MANIFEST
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def digests(out: Path) -> dict[str, str]:
    """Every result by its name."""
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.npz")}


def killed_and_resumed(command: list[str], out: Path, files: int) -> dict[str, Any]:
    """Killed with all its processes once half is recorded; then continued."""
    process = subprocess.Popen(command, cwd=out.parent, start_new_session=True, stderr=subprocess.DEVNULL)
    while len(recorded(out)) < files // 2 and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {entry["result"]: (out / entry["result"]).stat().st_mtime_ns for entry in recorded(out)}
    subprocess.run(command, cwd=out.parent, check=True)
    times = Counter(entry["result"] for entry in recorded(out) if entry["status"] == "done")
    again = [name for name, when in before.items() if (out / name).stat().st_mtime_ns != when]
    return {
        "recorded before the kill": len(before),
        "recorded twice": sum(count > 1 for count in times.values()),
        "made again": len(again),
        "lost": files - len(times),
        "left over": sum(path.name.endswith(".part") for path in out.rglob("*") if path.is_file()),
    }


def measure(files: int, folder: Path) -> dict[str, dict[str, Any]]:
    """All ways."""
    make(folder / "in", files)
    expected: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, how in HOW.items():
        if "--ray" in how and importlib.util.find_spec("ray") is None:
            continue
        outs = [folder / f"out{len(rows)}", folder / f"out{len(rows)}-killed"]
        whole, killed = (rtskel("refine", folder / "in", "--out", out, "--engine", "null", *how) for out in outs)
        begin = time.monotonic()
        subprocess.run(whole, cwd=folder, check=True)  # elsewhere than the source tree, which Ray's actors would import
        seconds = time.monotonic() - begin
        expected = expected or digests(outs[0])
        rows[name] = {"seconds": seconds, "ms a file": 1000 * seconds / files}
        if len(rows) > 1:
            rows[name] |= killed_and_resumed(killed, outs[1], files)
        rows[name]["other bytes"] = sum(len(expected.items() ^ digests(out).items()) for out in outs if out.exists())
        for out in outs:
            shutil.rmtree(out, ignore_errors=True)
    return rows


def run(options: argparse.Namespace) -> dict[str, Any]:
    """In a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return {"files": options.files, "engine": "null", "rows": measure(options.files, Path(folder))}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as a table."""
    return table(f"{result['files']} files", result["rows"], ".1f")


def good(result: dict[str, Any]) -> bool:
    """Whether nothing was lost, made twice, or other than from one process."""
    return not any(row.get(name) for row in result["rows"].values() for name in WRONG)


def main() -> int:
    """Command line; the exit status is 1 if the result is not good."""
    parser = arguments(__doc__)
    parser.add_argument("--files", type=positive, default=20_000)
    return bench("archive", parser.parse_args(), run, lines, good)


if __name__ == "__main__":
    raise SystemExit(main())
