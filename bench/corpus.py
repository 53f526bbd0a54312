"""Does training from a corpus far larger than memory take a bounded amount of it?

Writes a corpus of 25 million frames (synthetic signing, each clip turned a little so that no two are alike), draws
training batches from all over it, and prints the memory that the process holds meanwhile.

    python bench/corpus.py FOLDER [--frames N] [--batches N]

FOLDER takes 600 bytes a frame and is removed afterwards unless it held a corpus before.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from harness import arguments, report
from numpy.typing import NDArray

from rtskel.cli import positive
from rtskel.training.data import Corpus, Sequence, Windows, write_corpus
from rtskel.training.synthesize import synthesize

Array = NDArray[np.float32]


def clips(frames: int, length: int = 2000, different: int = 20) -> Iterator[tuple[Sequence, Array]]:
    """Clips of `length` frames until there are `frames` of them."""
    made = [synthesize(length / 25.0, 25.0, seed).canonical()[:length] for seed in range(different)]
    for k in range(-(-frames // length)):
        xyz = made[k % different][: min(length, frames - k * length)]
        yield Sequence(f"clip-{k}", "synthetic", "train", 25.0, 0, 0), xyz * np.float32(1 + 1e-5 * k)


def resident() -> dict[str, float]:
    """Memory that this process holds, in MiB: in all, of its own, and of mapped files."""
    status = Path("/proc/self/status").read_text()
    values = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("Rss", "VmRSS"))}
    return {name: int(values[key]) / 1024 for name, key in (("all", "VmRSS"), ("own", "RssAnon"), ("file", "RssFile"))}


def main() -> int:
    """Build, draw, print."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the corpus goes")
    parser.add_argument("--frames", type=positive, default=25_000_000, help="frames of the corpus")
    parser.add_argument("--batches", type=positive, default=3000, help="batches of 32 windows of 32 frames to draw")
    options = parser.parse_args()
    keep = (options.folder / "index.json").exists()
    began = time.monotonic()
    try:
        if not keep:
            write_corpus(options.folder, clips(options.frames))
        built, before = time.monotonic() - began, resident()
        windows = Windows(Corpus(options.folder), 32, generator=torch.Generator().manual_seed(0))
        size = (options.folder / "xyz.npy").stat().st_size / 2**20
        most, began = dict.fromkeys(before, 0.0), time.monotonic()
        for _ in range(options.batches):
            windows.draw(32)
            most = {key: max(value, resident()[key]) for key, value in most.items()}
        drawn = time.monotonic() - began
    finally:
        if not keep:
            shutil.rmtree(options.folder, ignore_errors=True)
    result = {
        "bench": "corpus", "frames": options.frames, "mib": size, "build_s": built, "batches": options.batches,
        "draw_ms": drawn / options.batches * 1e3, "resident_before_mib": before, "resident_most_mib": most,
    }  # fmt: skip
    lines = [
        f"corpus: {options.frames:,} frames, {size:,.0f} MiB on disk, written in {built:.0f} s",
        f"{options.batches} batches of 32 windows from all over it, {result['draw_ms']:.1f} ms each",
        f"memory held: {before['all']:.0f} MiB before, at most {most['all']:.0f} MiB while drawing "
        f"(its own {most['own']:.0f}, mapped files {most['file']:.0f})",
    ]
    report(result, lines, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
