"""How do memory and CPU time a frame grow with the number of streams?

The server's loop without its sockets, each case in its own process: messages as bytes in, windows through the engine
`null`, poses as bytes out, one frame of every stream a turn. CPU time is that of the thread, so that it holds on a busy
machine. Memory is the growth of the process with all streams running.

    python bench/scale.py --save scale      # about three minutes
"""

from __future__ import annotations

import gc
import time
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

from measure.poses import JOINTS, body, frame, groups_of
from measure.processes import apart, resident
from measure.report import arguments, counts, report, table

from rtskel import open_engine, wire
from rtskel.cli import positive
from rtskel.refine import RefinerBank
from rtskel.serve import Emission, Outlet, StreamConfig, StreamTable, Subscriptions

PARTS = ("read", "refine", "engine", "write")
LOOKAHEADS, PEOPLE = [4], (1, 16)
"""`PEOPLE`: streams that share a message."""


class TimedEngine:
    """An engine that adds up its own CPU time."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.seconds = engine, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, *arguments: Any) -> Any:
        """See `rtskel.Engine.run`."""
        start = time.thread_time()
        y = self._engine.run(*arguments)
        self.seconds += time.thread_time() - start
        return y


def measure(streams: int, people: int, frames: int, control: Connection) -> None:
    """One case: CPU time in us a frame by part, and bytes of memory a stream."""
    engine = TimedEngine(open_engine("null"))
    pose, groups, clock = body(), groups_of(streams, people), time.monotonic_ns

    gc.collect()
    before = resident()
    bank: Any = RefinerBank(engine, lookahead=LOOKAHEADS, streams=streams)
    table = StreamTable(bank, StreamConfig(max_streams=streams, slack_s=60.0), epoch=1, model="null")
    wanted = Subscriptions()
    wanted.take(b"\1" + (wire.REFINED_PREFIX if people == 1 else wire.REFINED_BATCH_PREFIX))
    outlet = Outlet(table, bank.lookaheads, JOINTS, wanted)
    outlet.subscribed()
    spent = dict.fromkeys(PARTS, 0.0)
    poses = 0

    def deliver(emission: Emission) -> None:
        nonlocal poses
        start = time.thread_time()
        for _ in outlet.messages(emission, clock()):
            pass
        spent["write"] += time.thread_time() - start
        poses += len(emission)

    def turn(k: int) -> None:
        messages, now = [frame(group, k, pose) for group in groups], clock()
        topics, bodies = [topic for topic, _ in messages], [data for _, data in messages]
        start = time.thread_time()
        table.receive(topics, bodies, [now] * len(topics), lambda which, why: None)
        table.advance(now)
        spent["read"] += time.thread_time() - start
        start, others = time.thread_time(), engine.seconds + spent["write"]
        while table.pending:
            table.run(deliver, clock)
        spent["refine"] += time.thread_time() - start - (engine.seconds + spent["write"] - others)

    full = bank.window + 8  # frames until every window is full
    for k in range(full):
        turn(k)
    gc.collect()
    memory = resident() - before
    spent |= dict.fromkeys(PARTS, 0.0)
    engine.seconds, poses = 0.0, 0
    for k in range(full, full + frames):
        turn(k)
    spent["engine"] = engine.seconds
    assert poses == streams * frames * len(LOOKAHEADS)
    us = {part: seconds / (streams * frames) * 1e6 for part, seconds in spent.items()}
    case = {"streams": streams, "people": people, "frames": frames}
    control.send({**case, "bytes_per_stream": memory / streams, "us": us})


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--streams", type=counts, default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--frames", type=positive, default=40_000, help="of all streams together, about")
    options = parser.parse_args()
    results, rows = [], {}
    for people, streams in product(PEOPLE, options.streams):
        together = min(people, streams)
        found = apart(measure, streams, together, max(4, min(2000, options.frames // streams)))
        results.append(found)
        name = f"{streams} streams, {together} a message"
        rows[name] = {"all": sum(found["us"].values()), **found["us"], "memory": found["bytes_per_stream"] / 1e3}
    lines = table("us of CPU a frame, kB a stream", rows, ".2f")
    report({"bench": "scale", "cases": results}, lines, options)


if __name__ == "__main__":
    main()
