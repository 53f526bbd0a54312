"""Draws the README's picture: the bundled recording as the estimator saw it, as refined by rtskel, and the truth.

    python bench/picture.py -o bench/results/refined.png

Needs matplotlib.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.resources import as_file, files

import numpy as np

from rtskel import Refiner, open_engine, read
from rtskel.cli import positive
from rtskel.refine import Refined
from rtskel.tools.draw import figure


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("-o", "--out", default="bench/results/refined.png")
    parser.add_argument("--first", type=int, default=100, help="first slot of the strip")
    parser.add_argument("--every", type=positive, default=3, help="slots between its skeletons")
    parser.add_argument("--lookahead", type=int, default=4)
    options = parser.parse_args()

    with as_file(files("rtskel") / "assets" / "demo.npz") as path:
        truth, raw = read(path)
    xyz, confidence = np.zeros_like(truth.xyz), np.zeros_like(truth.confidence)
    xyz[raw.slots], confidence[raw.slots] = raw.xyz, raw.confidence
    with open_engine() as engine:
        refiner = Refiner(engine, lookahead=options.lookahead)
        refined = Refined.concatenate([refiner.push(xyz, confidence), refiner.flush()])
    output = replace(raw, xyz=refined.xyz, confidence=refined.confidence, slot=None, lookahead=options.lookahead)

    shown = options.first + options.every * np.arange(10)
    figure(
        [raw, output],
        labels=["raw", "refined"],
        slots=shown.tolist(),
        span=(options.first - 30, options.first + 90),
        traces=["right_wrist.y", "left_index_4.x"],
        truth=truth,
    ).savefig(options.out)
    print(f"{options.out}: lookahead {options.lookahead}, slots {shown[0]} to {shown[-1]}")


if __name__ == "__main__":
    main()
