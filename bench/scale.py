"""How do memory and CPU time a frame grow with the number of streams?

The server's loop without its sockets, each case in its own process: messages as bytes in, windows through the engine
`null`, poses as bytes out, one frame of every stream a turn. CPU time is that of the thread, so that it holds on a busy
machine. Memory is the growth of the process with all streams running.

    python bench/scale.py --save scale      # about three minutes
"""

from __future__ import annotations

import argparse
import gc
import time
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

from measure.poses import JOINTS, frame, groups_of
from measure.processes import apart, resident
from measure.report import arguments, bench, counts, table

from rtskel import open_engine, wire
from rtskel.cli import positive
from rtskel.refine import RefinerBank
from rtskel.serve import Emission, Outlet, StreamConfig, StreamTable, Subscriptions

LOOKAHEAD, PEOPLE = 4, (1, 16)
"""`PEOPLE`: streams that share a message."""


def measure(streams: int, people: int, frames: int, control: Connection) -> None:
    """One case: CPU time in us a frame, and bytes of memory a stream."""
    groups, clock = groups_of([f"s{k}" for k in range(streams)], people), time.monotonic_ns
    gc.collect()
    before = resident()
    bank: Any = RefinerBank(open_engine("null"), lookahead=LOOKAHEAD, streams=streams)
    table = StreamTable(bank, StreamConfig(max_streams=streams, slack_s=60.0), epoch=1, model="null")
    wanted = Subscriptions()
    wanted.take(b"\1" + (wire.REFINED_PREFIX if people == 1 else wire.REFINED_BATCH_PREFIX))
    outlet = Outlet(table, bank.lookaheads, JOINTS, wanted)
    outlet.subscribed()
    poses = 0

    def deliver(emission: Emission) -> None:
        nonlocal poses
        poses += len(emission)
        for _ in outlet.messages(emission, clock()):
            pass

    def turns(first: int, last: int) -> float:
        """Seconds of frames [first, last) of all streams."""
        spent = 0.0
        for k in range(first, last):
            topics, bodies = map(list, zip(*(frame(group, k) for group in groups), strict=True))
            start, now = time.thread_time(), clock()
            table.receive(topics, bodies, [now] * len(topics), lambda which, why: None)
            table.advance(now)
            while table.pending:
                table.run(deliver, clock)
            spent += time.thread_time() - start
        return spent

    full = bank.window + 8  # frames until every window is full
    turns(0, full)
    gc.collect()
    memory, poses = resident() - before, 0
    seconds = turns(full, full + frames)
    assert poses == streams * frames
    case = {"streams": streams, "people": people, "frames": frames}
    control.send({**case, "bytes_per_stream": memory / streams, "us": seconds / (streams * frames) * 1e6})


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All cases."""
    return {
        "cases": [
            apart(measure, streams, min(people, streams), max(4, min(2000, options.frames // streams)))
            for people, streams in product(PEOPLE, options.streams)
        ]
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The result as a table."""
    rows = {
        f"{case['streams']} streams, {case['people']} a message": {
            "us of CPU a frame": case["us"],
            "kB a stream": case["bytes_per_stream"] / 1e3,
        }
        for case in result["cases"]
    }
    return table("engine null", rows, ".2f")


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--streams", type=counts, default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--frames", type=positive, default=40_000, help="of all streams together, about")
    return bench("scale", parser.parse_args(), run, lines)


if __name__ == "__main__":
    raise SystemExit(main())
