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
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from measure.processes import Service, command_line, resident, serving, started
from measure.report import arguments, report

from rtskel.cli import positive
from rtskel.client import GroupPublisher, Subscriber
from rtskel.serve import ServeConfig, StreamConfig
from rtskel.skeleton import UPPER_BODY_50
from rtskel.wire import Event, RefinedBatch, RefinedPose

JOINTS = UPPER_BODY_50.joints
GROUP = 16  # people in one message
DROPPED = 0.05
LOOKAHEADS = (0, 4)
FLAT = 0.02


def publish(endpoint: str, streams: int, fps: float, seconds: float, seed: int, link: Connection) -> None:
    """All streams in real time; a frame of a stream is left out with probability DROPPED."""
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(61, JOINTS, 3)).astype(np.float32)
    groups = [[f"s{k}" for k in range(first, min(first + GROUP, streams))] for first in range(0, streams, GROUP)]
    dropped = 0
    publishers = [GroupPublisher(endpoint, group=f"g{k}", fps=fps) for k in range(len(groups))]
    for publisher in publishers:
        publisher.wait_for_subscriber(30)
    frames = round(seconds * fps)
    begin = time.monotonic()
    for n in range(frames):
        time.sleep(max(0.0, begin + n / fps - time.monotonic()))
        for publisher, names in zip(publishers, groups, strict=True):
            # The first and the last frame of each are sent, so that all streams have the same slots.
            here = [name for name in names if rng.random() >= DROPPED or n in (0, frames - 1)]
            dropped += len(names) - len(here)
            if here:
                publisher.send(here, np.broadcast_to(poses[n % 61], (len(here), JOINTS, 3)), seq=n)
    unsent = sum(publisher.dropped for publisher in publishers)
    for publisher in publishers:
        publisher.close()
    link.send((frames, dropped, unsent))


def subscribe(endpoint: str, streams: int, lookaheads: int, link: Connection) -> None:
    """Every pose: how many, and how many were out of turn, from there to the ends of all streams."""
    following: Counter[tuple[str, int]] = Counter()
    out_of_turn = filled = ended = 0
    with Subscriber(endpoint, batches=True) as subscriber:
        subscriber.wait_for_server(30)
        link.send("ready")
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
    complete = len(following) == streams * lookaheads and len(slots) == 1
    link.send({"slots": slots, "complete": complete, "out of turn": out_of_turn, "filled in": filled, "lost": lost})


@contextmanager
def servers(args: argparse.Namespace) -> Iterator[Service]:
    """One server, or shards."""
    if args.shards == 1:
        config = ServeConfig(lookaheads=LOOKAHEADS, streams=StreamConfig(max_streams=args.streams, slack_s=args.slack))
        with serving(args.engine, config) as server:
            yield Service(server.raw, server.refined, [(server.raw, server.refined)], [server.pid])
        return
    options: list[object] = ["--lookahead", ",".join(map(str, LOOKAHEADS)), "--max-streams", args.streams]
    options += ["--slack-ms", 1000 * args.slack, "--shards", args.shards]
    options += [] if args.engine == "bundled" else ["--engine", args.engine]
    with command_line(*options) as service:
        yield service


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    seconds = 60 * args.minutes
    rows: list[dict[str, float]] = []
    with (
        servers(args) as server,
        started(subscribe, server.refined, args.streams, len(LOOKAHEADS)) as (_, received),
    ):
        received.recv()
        with started(publish, server.raw, args.streams, args.fps, seconds, args.seed) as (_, sent):
            processes, begin = [Path(f"/proc/{pid}") for pid in server.processes], time.monotonic()
            while not sent.poll(args.every):
                mib = sum(map(resident, server.processes)) / 2**20
                row = {"s": round(time.monotonic() - begin, 1), "MiB": round(mib, 2)}
                for name, folder in (("descriptors", "fd"), ("threads", "task")):
                    row[name] = sum(len(list((process / folder).iterdir())) for process in processes)
                rows.append(row)
            frames, dropped, unsent = sent.recv()
        got = received.recv()
    steady = [row["MiB"] for row in rows if row["s"] >= 60 * args.warm_up]
    middle = statistics.median(steady)
    return {
        "shards": args.shards,
        "streams": args.streams,
        "frames of each": frames,
        "left out": dropped,
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
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--slack", type=float, default=1.0, help="seconds that a frame may be late")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between looks at the server's memory")
    parser.add_argument("--seed", type=int, default=0, help="of the frames that are left out")
    options = parser.parse_args()
    result = soak(options)
    lines = [f"{name}: {value}" for name, value in result.items() if name != "samples"]
    report({"bench": "soak", **result}, lines, options)
    return 0 if result["every slot once"] and result["memory flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
