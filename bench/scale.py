"""What do memory and CPU time a frame do as streams grow, and as the window, the radius and the lookaheads do?

The server's loop without its sockets, in a process of its own for each case: messages as bytes in, windows through the
engine `null`, poses as bytes out, one frame of every stream a turn. CPU time is that of the thread, so that it holds on
a busy machine, as far as others leave it the caches. Memory is the growth of the process with all streams running.

    python bench/scale.py --save scale      # about three minutes
"""

from __future__ import annotations

import gc
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from harness import apart, arguments, counts, numbers, report
from throughput import JOINTS, body, frame

from rtskel import open_engine
from rtskel.cli import positive
from rtskel.refine import RefinerBank
from rtskel.serve import Emission, Outlet, StreamConfig, StreamTable, Subscriptions
from rtskel.wire import REFINED_BATCH_PREFIX, REFINED_PREFIX

PARTS = ("read", "refine", "engine", "write")


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TimedEngine:
    """An engine that adds up its own CPU time."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.window, self.joints, self.max_batch, self.info = (
            engine.window,
            engine.joints,
            engine.max_batch,
            engine.info,
        )
        self.seconds = 0.0

    def run(self, *arguments: Any) -> Any:
        """See `rtskel.Engine.run`."""
        start = time.thread_time()
        y = self._engine.run(*arguments)
        self.seconds += time.thread_time() - start
        return y

    def ring(self, config: Any) -> Any:
        """See `rtskel.Engine.ring`."""
        return self._engine.ring(config)


def measure(case: dict[str, Any], control: Connection) -> None:
    """One case: us of CPU time a frame by part, and bytes of memory a stream."""
    streams, people, frames = case["streams"], case["people"], case["frames"]
    engine = TimedEngine(open_engine("null", window=case["window"]))
    pose, names = body(), [f"s{s}" for s in range(streams)]
    groups = [tuple(names[first : first + people]) for first in range(0, streams, people)]
    clock = time.monotonic_ns

    gc.collect()
    before = resident()
    bank = RefinerBank(engine, lookahead=case["lookaheads"], radius=case["radius"], streams=streams)
    table = StreamTable(bank, StreamConfig(max_streams=streams, slack_s=60.0), epoch=1, model="null")
    wanted = Subscriptions()
    wanted.take(b"\1" + (REFINED_PREFIX if people == 1 else REFINED_BATCH_PREFIX))
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

    def turn(messages: list[tuple[bytes, bytes]]) -> None:
        now = clock()
        topics, bodies = [topic for topic, _ in messages], [data for _, data in messages]
        start = time.thread_time()
        table.receive(topics, bodies, [now] * len(topics), lambda which, why: None)
        table.advance(now)
        spent["read"] += time.thread_time() - start
        start, others = time.thread_time(), engine.seconds + spent["write"]
        while table.pending:
            table.run(deliver, clock)
        spent["refine"] += time.thread_time() - start - (engine.seconds + spent["write"] - others)

    full = case["window"] + 8  # frames until every window is
    for k in range(full):
        turn([frame(group, k, pose) for group in groups])
    gc.collect()
    memory = resident() - before
    spent |= dict.fromkeys(PARTS, 0.0)
    engine.seconds, poses = 0.0, 0
    for k in range(full, full + frames):
        turn([frame(group, k, pose) for group in groups])
    spent["engine"] = engine.seconds
    assert poses == streams * frames * len(case["lookaheads"])
    control.send(
        {
            **case,
            "bytes_per_stream": memory / streams,
            "us": {part: seconds / (streams * frames) * 1e6 for part, seconds in spent.items()},
        }
    )


def run(frames: int, **case: Any) -> dict[str, Any]:
    """One case in a process of its own."""
    usual: dict[str, Any] = {"streams": 256, "people": 16, "window": 32, "radius": 2, "lookaheads": [4]}
    case = usual | case
    case["people"] = min(case["people"], case["streams"])
    case["frames"] = max(4, min(2000, frames // case["streams"]))
    found: dict[str, Any] = apart(measure, case)
    return found


def main() -> None:
    """Command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--streams", type=counts, default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--window", type=counts, default=[8, 16, 32, 64, 128])
    parser.add_argument("--radius", type=numbers, default=[0, 2, 5])
    parser.add_argument(
        "--lookaheads", type=positive, default=4, help="1 to so many at once: 4, then also 0, 8, 12, ..."
    )
    parser.add_argument("--frames", type=positive, default=40_000, help="of all streams together, about")
    options = parser.parse_args()
    ladder = [4, 0, *range(8, 4 * options.lookaheads, 4)]
    cases = [
        *(("streams", {"streams": streams, "people": people}) for people in (1, 16) for streams in options.streams),
        *(("window", {"window": window}) for window in options.window),
        *(("radius", {"radius": radius}) for radius in options.radius),
        *(("lookaheads", {"lookaheads": ladder[:count]}) for count in range(1, options.lookaheads + 1)),
    ]
    lines, results = [], []
    lines.append(
        "CPU time in us a frame of one stream; memory in kB a stream; 256 streams, 16 to a message, window 32,"
    )
    lines.append("radius 2 and lookahead 4 where nothing else is said")
    grown = None
    for what, case in cases:
        found = run(options.frames, **case)
        results.append({"grows": what, **found})
        if what != grown:
            lines.append(f"{'':34}{'all':>9}" + "".join(f"{part:>9}" for part in PARTS) + f"{'memory':>10}")
            grown = what
        said = ", ".join(f"{name} {','.join(map(str, np.atleast_1d(value)))}" for name, value in case.items())
        line = f"{said:34}{sum(found['us'].values()):9.2f}" + "".join(f"{found['us'][part]:9.2f}" for part in PARTS)
        lines.append(f"{line}{found['bytes_per_stream'] / 1e3:10.1f}")
    report({"bench": "scale", "cases": results}, lines, options)


if __name__ == "__main__":
    main()
