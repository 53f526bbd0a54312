"""How many frames a second does a server refine, and what does everything around the engine cost a frame?

A publisher sends the frames of many streams as fast as the server takes them; a subscriber takes every refined pose.
With the engine `null`, which returns its input, what remains is receiving, decoding, the ring, windows, averages,
encoding and publishing. With a real engine, the question is which share of the engine's own throughput, at its best
batch, the server reaches. `--people 16` sends 16 streams in one message and takes poses in batches; `--people 1` sends
and takes every pose in its own message.

CPU time is the operating system's figure for the server alone; wall time includes waiting for the other two processes,
which share the cores.

The batch of a real engine is the one at which it is fastest alone. Its rate is measured again before every round, and a
round's share is of that. Cases with fewer than 40 frames a stream are left out.

    python bench/throughput.py --save throughput            # about five minutes
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import zmq
from measure.engines import bare_engine
from measure.loads import Messages, load, publish, subscribed
from measure.poses import body, frame, groups_of
from measure.processes import serving
from measure.report import arguments, counts, numbers, report, table

from rtskel import wire
from rtskel.cli import positive
from rtskel.serve import ServeConfig, StreamConfig


def share_the_last_core() -> None:
    """Keeps loads on one core, so that they leave the others to the server."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])


def frames_of_all(streams: int, people: int, frames: int) -> Messages:
    """`frames` frames of every stream, interleaved, encoded beforehand."""
    share_the_last_core()
    pose, groups = body(), groups_of(streams, people)
    messages = [frame(group, k, pose) for k in range(frames) for group in groups]
    messages += [wire.encode(wire.StreamEnd(f"s{s}", 1, frames, 0, "bench")) for s in range(streams)]
    return ((message, 0) for message in messages)


def subscribe(
    endpoint: str, streams: int, people: int, lookaheads: list[int], warm_up: int, expected: int, control: Connection
) -> None:
    """Count the poses of all streams without decoding them; tell when those of the warm-up have come, and all."""
    share_the_last_core()
    topics = [wire.event_topic(f"s{s}") for s in range(streams)]
    for lookahead in lookaheads:
        topics += [wire.refined_topic(f"s{s}", lookahead) for s in range(streams)] if people == 1 else []
        topics += [wire.refined_batch_topic(lookahead)] if people > 1 else []
    with subscribed(endpoint, topics) as socket:
        control.send("ready")
        got, ends, warm = 0, 0, False
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        while ends < streams and poller.poll(60_000):
            while True:
                try:
                    topic, data = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if topic.startswith(wire.EVENT_PREFIX):
                    ends += msgpack.unpackb(data)["event"] == "end"
                    continue
                got += msgpack.unpackb(data)["batch"][2] if topic.startswith(wire.REFINED_BATCH_PREFIX) else 1
                if got >= warm_up and not warm:
                    warm = True
                    control.send(time.monotonic_ns())
        control.send((time.monotonic_ns(), expected - got))


def run(
    engine: str, streams: int, people: int, batch: int, frames: int, lookaheads: list[int], radius: int
) -> dict[str, Any]:
    """One run at saturation; the first quarter warms up and does not count."""
    warm_up, poses = frames // 4, streams * len(lookaheads)
    streams_config = StreamConfig(max_streams=streams, slack_s=5.0)
    config = ServeConfig(lookaheads=tuple(lookaheads), radius=radius, streams=streams_config)
    with serving(engine, config, max_batch=batch) as server:
        publisher = publish, server.raw, frames_of_all, (streams, people, frames), 1000
        subscriber = subscribe, server.refined, streams, people, lookaheads, poses * warm_up, poses * frames
        with load(publisher, subscriber) as (_, received):
            start = received.recv()
            before = server.cpu_seconds()
            end, lost = received.recv()
            after = server.cpu_seconds()
    counted = streams * (frames - warm_up)
    wall = (end - start) / 1e9
    return {
        "engine": engine, "streams": streams, "people": people, "batch": batch, "lookaheads": lookaheads,
        "radius": radius, "frames": counted, "poses_lost": lost, "frames_per_second": counted / wall,
        "wall_us": wall / counted * 1e6, "cpu_us": (after["process"] - before["process"]) / counted * 1e6,
        "loop_us": (after["loop"] - before["loop"]) / counted * 1e6,
    }  # fmt: skip


FEWEST = 40
"""Frames of a stream: with fewer, its start and end would be measured."""


def measure(engine: str, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """All cases with one engine: the result and the table's lines."""
    batches = options.batch or [1 << k for k in range(7)]
    rates = bare_engine(engine, batches, options.lookahead, options.radius)
    best = max(rates, key=rates.__getitem__)
    total = min(options.frames, round(rates[best] * options.seconds))
    cases = [
        (streams, min(people, streams), batch)
        for streams, people, batch in product(options.streams, options.people, options.batch or [best])
        if total >= FEWEST * streams
    ]
    rounds, alone = [], []
    for _ in range(options.rounds):
        alone.append(bare_engine(engine, [best], options.lookahead, options.radius)[best])
        for case in cases:  # interleaved, so that a change of the machine's load affects all of them
            found = run(engine, *case, total // case[0], options.lookahead, options.radius)
            rounds.append({**found, "share": found["frames_per_second"] / alone[-1]})

    rows = {}
    for case in cases:
        of_case = [found for found in rounds if (found["streams"], found["people"], found["batch"]) == case]

        def spread(name: str, form: str, of_case: list[dict[str, Any]] = of_case) -> str:
            values = [found[name] for found in of_case]
            return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

        row = {"frames/s": f"{statistics.median(found['frames_per_second'] for found in of_case):.0f}"}
        row["of bare"] = spread("share", ".1%")
        row |= {f"{name} us": spread(f"{name}_us", ".1f") for name in ("wall", "cpu", "loop")}
        row["lost"] = str(sum(found["poses_lost"] for found in of_case))
        rows[f"{case[0]} streams, {case[1]} a message, batch {case[2]}"] = row
    lines = [
        f"engine {engine}, lookahead {','.join(map(str, options.lookahead))}; medians of {options.rounds} rounds "
        "(least to most)",
        f"the engine alone: {statistics.median(alone):.0f} windows a second at its best batch, {best}",
        *table("us a frame: wall, CPU of the server, of its loop", rows),
    ]
    return {"engine": engine, "alone": rates, "alone_by_round": alone, "best_batch": best, "rounds": rounds}, lines


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="null,bundled", help="null, bundled, or paths of engines, with commas")
    parser.add_argument("--streams", type=counts, default=[16, 256, 1000], help="how many, or several with commas")
    parser.add_argument("--people", type=counts, default=[1, 16], help="streams that share a message; likewise")
    parser.add_argument("--batch", type=counts, help="largest engine batch; likewise; else the best of 1..64")
    parser.add_argument("--frames", type=positive, default=120_000, help="of all streams together, about")
    parser.add_argument("--seconds", type=float, default=15.0, help="fewer frames where the engine alone takes longer")
    parser.add_argument("--lookahead", type=numbers, default=[4], help="lookahead, or several with commas")
    parser.add_argument("--radius", type=int, default=2)
    parser.add_argument("--rounds", type=positive, default=3, help="servers measured, one after another")
    options = parser.parse_args()
    found = [measure(engine, options) for engine in options.engine.split(",")]
    lines = [line for _, of_engine in found for line in of_engine]
    report({"bench": "throughput", "engines": [result for result, _ in found]}, lines, options)


if __name__ == "__main__":
    main()
