"""Draws the README's picture: the bundled recording as the estimator saw it, as refined by rtskel, and the truth.

Needs matplotlib.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.resources import as_file, files

import numpy as np

from rtskel import Refiner, open_engine, read
from rtskel.refine import Refined
from rtskel.tools.draw import figure

LOOKAHEAD, FIRST = 4, 100


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("-o", "--out", default="bench/results/refined.png")
    options = parser.parse_args()

    with as_file(files("rtskel") / "assets" / "demo.npz") as path:
        truth, raw = read(path)
    xyz, confidence = np.zeros_like(truth.xyz), np.zeros_like(truth.confidence)
    xyz[raw.slots], confidence[raw.slots] = raw.xyz, raw.confidence
    with open_engine() as engine:
        refiner = Refiner(engine, lookahead=LOOKAHEAD)
        refined = Refined.concatenate([refiner.push(xyz, confidence), refiner.flush()])
    output = replace(raw, xyz=refined.xyz, confidence=refined.confidence, slot=None, lookahead=LOOKAHEAD)

    shown = FIRST + 3 * np.arange(10)
    figure(
        [raw, output],
        labels=["raw", "refined"],
        slots=shown.tolist(),
        span=(FIRST - 30, FIRST + 90),
        traces=["right_wrist.y", "left_index_4.x"],
        truth=truth,
    ).savefig(options.out)
    print(f"{options.out}: lookahead {LOOKAHEAD}, slots {shown[0]} to {shown[-1]}")


if __name__ == "__main__":
    main()
