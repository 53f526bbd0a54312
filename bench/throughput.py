"""How many frames a second does a server refine, and what does everything around the engine cost a frame?

A publisher sends the frames of many streams as fast as the server takes them; a subscriber takes every refined pose.
With the engine `null`, which returns its input, what remains is receiving, decoding, the ring, windows, averages,
encoding and publishing. With a real engine, the question is which share of the engine's own throughput, at its best
batch, the server reaches. `--people 16` sends 16 streams in one message and takes poses in batches; `--people 1` sends
and takes every pose in its own message.

CPU time is the operating system's figure for the server alone; wall time includes waiting for the other two processes,
which share the cores. The engine's own rate is measured again before every round, and a round's share is of that. Cases
with fewer than 40 frames a stream are left out.

    python bench/throughput.py --save throughput            # about five minutes
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from typing import Any

from measure.engines import bare_engine
from measure.loads import saturated
from measure.processes import serving
from measure.report import arguments, bench, counts, table

from rtskel.cli import positive

LOOKAHEADS = [4]
BATCHES = [1 << k for k in range(7)]
FEWEST = 40
"""Frames of a stream: with fewer, its start and end would be measured."""


def run(engine: str, streams: int, people: int, frames: int) -> dict[str, Any]:
    """One case, once."""
    with serving(engine, LOOKAHEADS, streams, "--slack-ms", 5000) as service:
        return {
            "streams": streams,
            "people": people,
            **saturated(service, streams, people, frames, LOOKAHEADS, aside=True),
        }


def measure(engine: str, options: argparse.Namespace) -> dict[str, Any]:
    """All cases with one engine."""
    rates = bare_engine(engine, BATCHES, LOOKAHEADS)
    best = max(rates, key=rates.__getitem__)
    total = min(options.frames, round(rates[best] * options.seconds))
    rounds, alone = [], []
    for _ in range(options.rounds):
        alone.append(bare_engine(engine, [best], LOOKAHEADS)[best])
        for streams, people in product(options.streams, options.people):
            if total >= FEWEST * streams:
                found = run(engine, streams, min(people, streams), total // streams)
                rounds.append({**found, "share": found["frames_per_second"] / alone[-1]})
    return {"engine": engine, "alone": rates, "alone_by_round": alone, "best_batch": best, "rounds": rounds}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as tables: medians, least and most of the rounds."""
    text = []
    for of_engine in result["engines"]:
        rows: dict[str, dict[str, str]] = {}
        cases = dict.fromkeys((found["streams"], found["people"]) for found in of_engine["rounds"])
        for streams, people in cases:
            rounds = [
                found for found in of_engine["rounds"] if (found["streams"], found["people"]) == (streams, people)
            ]

            def spread(name: str, form: str, rounds: list[dict[str, Any]] = rounds) -> str:
                values = [found[name] for found in rounds]
                return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

            row = {"frames/s": spread("frames_per_second", ".0f"), "of bare": spread("share", ".1%")}
            row |= {f"{name} us": spread(f"{name}_us", ".1f") for name in ("wall", "cpu", "loop")}
            row["lost"] = str(sum(found["poses_lost"] for found in rounds))
            rows[f"{streams} streams, {people} a message"] = row
        alone = (
            f"{statistics.median(of_engine['alone_by_round']):.0f} windows a second, batch {of_engine['best_batch']}"
        )
        text += [f"engine {of_engine['engine']}, alone: {alone}", *table("us a frame", rows), ""]
    return text


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="null,bundled", help="null, bundled, or paths of engines, with commas")
    parser.add_argument("--streams", type=counts, default=[16, 256, 1000], help="how many, or several with commas")
    parser.add_argument("--people", type=counts, default=[1, 16], help="streams that share a message; likewise")
    parser.add_argument("--frames", type=positive, default=120_000, help="of all streams together, about")
    parser.add_argument("--seconds", type=float, default=15.0, help="fewer frames where the engine alone takes longer")
    parser.add_argument("--rounds", type=positive, default=3, help="servers measured, one after another")

    def run_all(options: argparse.Namespace) -> dict[str, Any]:
        return {"engines": [measure(engine, options) for engine in options.engine.split(",")]}

    return bench("throughput", parser.parse_args(), run_all, lines)


if __name__ == "__main__":
    raise SystemExit(main())
