"""Does a server stay as it is for hours? 64 streams with dropped frames, every slot once, memory flat.

With `--shards N`, N of them behind one pair of endpoints: memory, descriptors and threads are of all together.

A publisher process sends the frames of many streams in real time and leaves some out; a subscriber process takes every
refined pose and sees that each slot of each stream came once, in order, filled in where its frame was left out. The
server's memory, descriptors and threads are read every few seconds. After the warm-up the memory must stay within 2% of
its median, or the exit status is 1.

    python bench/soak.py --save soak                              # half an hour
    python bench/soak.py --shards 2 --save soak-shards
    python bench/soak.py --minutes 1 --streams 8 --warm-up 0.2    # to see that it works
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from measure.loads import live, load
from measure.poses import groups_of
from measure.processes import resident, serving
from measure.report import arguments, bench

from rtskel.cli import positive
from rtskel.client import Subscriber
from rtskel.wire import Event, RefinedBatch, RefinedPose

PEOPLE, FPS, DROPPED = 16, 25.0, 0.05
"""`PEOPLE`: streams that share a message."""
LOOKAHEADS = [0, 4]
FLAT = 0.02


def subscribe(endpoint: str, streams: int, control: Connection) -> None:
    """Every pose: how many, and how many were out of turn, from there to the ends of all streams."""
    following: Counter[tuple[str, int]] = Counter()
    out_of_turn = filled = ended = 0
    with Subscriber(endpoint, batches=True) as subscriber:
        subscriber.wait_for_server(30)
        control.send("ready")
        while ended < streams:
            message = subscriber.recv(60)
            if isinstance(message, Event):
                ended += message.kind == "end"
            poses = message.poses() if isinstance(message, RefinedBatch) else []
            for pose in [message] if isinstance(message, RefinedPose) else poses:
                key = pose.stream, pose.lookahead
                out_of_turn += pose.source_seq != following[key]
                following[key] += 1
                filled += pose.receive_ns == 0
        lost = sum(subscriber.lost.values())
    slots = sorted(set(following.values()))
    complete = len(following) == streams * len(LOOKAHEADS) and len(slots) == 1
    control.send({"slots": slots, "complete": complete, "out of turn": out_of_turn, "filled in": filled, "lost": lost})


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    groups, rows = groups_of([f"s{k}" for k in range(args.streams)], PEOPLE), list[dict[str, float]]()
    options = "--slack-ms", 1000 * args.slack, "--shards", args.shards
    with serving(args.engine, LOOKAHEADS, args.streams, *options) as server:
        publisher = live, server.raw, groups, FPS, round(60 * args.minutes * FPS), DROPPED
        with load((publisher, (subscribe, server.refined, args.streams))) as ((sent,), (received,)):
            processes, begin = [Path(f"/proc/{pid}") for pid in server.processes], time.monotonic()
            while not sent.poll(args.every):
                mib = sum(map(resident, server.processes)) / 2**20
                row = {"s": round(time.monotonic() - begin, 1), "MiB": round(mib, 2)}
                for name, folder in (("descriptors", "fd"), ("threads", "task")):
                    row[name] = sum(len(list((process / folder).iterdir())) for process in processes)
                rows.append(row)
            frames, left_out, unsent = sent.recv()
            got = received.recv()
    steady = [row["MiB"] for row in rows if row["s"] >= 60 * args.warm_up]
    middle = statistics.median(steady)
    return {
        "shards": args.shards,
        "streams": args.streams,
        "frames of each": frames,
        "left out": left_out,
        "not sent": unsent,
        **got,
        "every slot once": got["complete"] and got["slots"] == [frames] and not got["out of turn"],
        "memory MiB": {"least": min(steady), "median": middle, "most": max(steady)},
        "memory flat": max(steady) - middle <= FLAT * middle and middle - min(steady) <= FLAT * middle,
        "descriptors": sorted({row["descriptors"] for row in rows}),
        "threads": sorted({row["threads"] for row in rows}),
        "samples": rows,
    }


def main() -> int:
    """Command line; the exit status is 1 if a slot did not come once, or the memory was not flat."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="null", help="null, bundled, or the path of an engine")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=3.0, help="minutes before memory counts")
    parser.add_argument("--shards", type=positive, default=1)
    parser.add_argument("--streams", type=positive, default=64)
    parser.add_argument("--slack", type=float, default=1.0, help="seconds that a frame may be late")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between looks at the server's memory")
    return bench("soak", parser.parse_args(), soak, lines, lambda of: of["every slot once"] and of["memory flat"])


def lines(result: dict[str, Any]) -> list[str]:
    """Everything but the samples."""
    return [f"{name}: {value}" for name, value in result.items() if name not in ("samples", "machine")]


if __name__ == "__main__":
    raise SystemExit(main())
