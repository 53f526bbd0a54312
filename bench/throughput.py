"""How many frames a second does a server refine, and what does everything around the engine cost a frame?

A publisher process sends the frames of many streams as fast as the server takes them; a subscriber process takes every
refined pose. With the engine `null`, which returns its input, what is left is the cost of receiving, decoding, the
ring, windows, averages, encoding and publishing; with a real engine, the question is which share of what the engine
alone does, at its best batch, gets through. `--people 16` sends the people of 16 streams in one message and takes
poses in batches; `--people 1` sends and takes every pose in a message of its own.

The server's CPU time is the operating system's own figure, so that it holds although the three processes share the
cores; the wall time includes waiting for the other two.

A real engine's batch is the one at which it is fastest alone; its rate is measured again before every round, and a
round's share is of that, so that a change of the machine between rounds meets both. Cases in which a stream would have
fewer than 40 frames are left out.

    python bench/throughput.py --save throughput            # about five minutes
    python bench/throughput.py --engine null --streams 1000 --people 1 --rounds 1 --profile profile-server-after
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np
import zmq
from harness import SPAWN, arguments, bare_engine, counts, numbers, report, serving, share_the_last_core

from rtskel.cli import positive
from rtskel.serve import ServeConfig, StreamConfig
from rtskel.skeleton import UPPER_BODY_50
from rtskel.wire import (
    EVENT_PREFIX,
    REFINED_BATCH_PREFIX,
    RawBatch,
    RawPose,
    StreamEnd,
    encode,
    event_topic,
    refined_batch_topic,
    refined_topic,
)

FPS = 30.0
JOINTS = UPPER_BODY_50.joints
JITTER = np.random.default_rng(1).normal(0, 0.005, (61, JOINTS, 3)).astype(np.float32)
"""What an estimator's poses jitter by, in canonical units (a shoulder width is 1/3)."""


def body() -> np.ndarray[Any, Any]:
    """A pose with the bones of a person."""
    rng = np.random.default_rng(0)
    bones = rng.normal(size=(JOINTS, 3))
    bones *= np.array(UPPER_BODY_50.bone_length)[:, None] / np.linalg.norm(bones, axis=1, keepdims=True)
    pose = np.zeros((JOINTS, 3), np.float32)
    for joint in UPPER_BODY_50.order[1:]:
        pose[joint] = pose[UPPER_BODY_50.parents[joint]] + bones[joint]
    return pose


def frame(streams: tuple[str, ...], number: int, pose: np.ndarray[Any, Any]) -> tuple[bytes, bytes]:
    """One frame of these streams, s0, s1 and so on: a message of its own for one, a batch for several."""
    xyz = pose + JITTER[[(number + 7 * int(name[1:])) % len(JITTER) for name in streams]]
    confidence = np.ones(xyz.shape[:2], np.float32)
    source = 1, number, 0, "bench", FPS
    view = UPPER_BODY_50.id, "RDT", False, True  # lossless: the server is saturated on purpose
    if len(streams) == 1:
        return encode(RawPose(streams[0], *source, xyz[0], confidence[0], *view))
    return encode(RawBatch(streams[0], streams, *source, xyz, confidence, *view))


def publish(endpoint: str, streams: int, people: int, frames: int, warm_up: int, control: Connection) -> None:
    """Send `frames` frames of every stream, interleaved, as fast as the server takes them; serialised beforehand."""
    share_the_last_core()
    pose, names = body(), [f"s{s}" for s in range(streams)]
    groups = [tuple(names[first : first + people]) for first in range(0, streams, people)]
    messages = [frame(group, k, pose) for k in range(frames) for group in groups]
    context = zmq.Context()
    with context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.XPUB_NODROP, 1)  # wait for the server instead of dropping
        socket.setsockopt(zmq.SNDHWM, 1000)
        socket.connect(endpoint)
        socket.recv()  # the server's subscription
        control.send("ready")
        control.recv()
        for k, message in enumerate(messages):
            if k == warm_up * len(groups):
                control.send("warm")
            socket.send_multipart(message, copy=False)
        for name in names:
            socket.send_multipart(encode(StreamEnd(name, 1, frames, 0, "bench")))
        control.recv()
    context.term()


def subscribe(
    endpoint: str, streams: int, people: int, lookaheads: list[int], warm_up: int, expected: int, control: Connection
) -> None:
    """Count the refined poses of all streams without decoding them; tell when the warm-up's are there, and all."""
    share_the_last_core()
    context = zmq.Context()
    with context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SNDHWM, 0)  # subscriptions are messages too: what is above the mark would be lost
        for s in range(streams):
            socket.subscribe(event_topic(f"s{s}"))
        for lookahead in lookaheads:
            for topic in [refined_topic(f"s{s}", lookahead) for s in range(streams)] if people == 1 else ():
                socket.subscribe(topic)
            if people > 1:
                socket.subscribe(refined_batch_topic(lookahead))
        socket.connect(endpoint)
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
                if topic.startswith(EVENT_PREFIX):
                    ends += msgpack.unpackb(data)["event"] == "end"
                    continue
                got += msgpack.unpackb(data)["batch"][2] if topic.startswith(REFINED_BATCH_PREFIX) else 1
                if got >= warm_up and not warm:
                    warm = True
                    control.send(time.monotonic_ns())
        control.send((time.monotonic_ns(), expected - got))
    context.term()


def run(
    engine: str,
    streams: int,
    people: int,
    batch: int,
    frames: int,
    lookaheads: list[int],
    radius: int,
    profile: str | None = None,
) -> dict[str, Any]:
    """One run to saturation; the first quarter of it warms up and does not count."""
    warm_up = frames // 4
    config = ServeConfig(
        lookaheads=tuple(lookaheads),
        radius=radius,
        streams=StreamConfig(max_streams=streams, slack_s=5.0),
    )
    with serving(engine, config, max_batch=batch) as server:
        to_publisher, publisher_end = SPAWN.Pipe()
        to_subscriber, subscriber_end = SPAWN.Pipe()
        expected = streams * frames * len(lookaheads)
        warm = streams * warm_up * len(lookaheads)
        subscriber = SPAWN.Process(
            target=subscribe, args=(server.refined, streams, people, lookaheads, warm, expected, subscriber_end)
        )
        publisher = SPAWN.Process(target=publish, args=(server.raw, streams, people, frames, warm_up, publisher_end))
        subscriber.start()
        to_subscriber.recv()
        publisher.start()
        to_publisher.recv()
        to_publisher.send("go")
        start = to_subscriber.recv()
        before = server.cpu_seconds()
        with server.profiled(profile):
            end, lost = to_subscriber.recv()
        after = server.cpu_seconds()
        to_publisher.send("done")
        publisher.join()
        subscriber.join()
    counted = streams * (frames - warm_up)
    wall = (end - start) / 1e9
    return {
        "engine": engine,
        "streams": streams,
        "people": people,
        "batch": batch,
        "lookaheads": lookaheads,
        "radius": radius,
        "frames": counted,
        "poses_lost": lost,
        "frames_per_second": counted / wall,
        "wall_us": wall / counted * 1e6,
        "cpu_us": (after["process"] - before["process"]) / counted * 1e6,
        "loop_us": (after["loop"] - before["loop"]) / counted * 1e6,
    }


FIGURES = ("frames_per_second", "share", "wall_us", "cpu_us", "loop_us")
FEWEST = 40
"""Frames of a stream: with fewer, its beginning and end would be what is measured."""


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
    for turn in range(options.rounds):
        alone.append(bare_engine(engine, [best], options.lookahead, options.radius)[best])
        for case in cases:  # interleaved, so that a change of the machine's load meets them all
            profile = options.profile if (turn, case) == (options.rounds - 1, cases[-1]) else None
            frames = total // case[0]
            found = run(engine, *case, frames, options.lookahead, options.radius, profile)
            rounds.append({**found, "share": found["frames_per_second"] / alone[-1]})

    bare = statistics.median(alone)
    lines = [
        f"engine {engine}, lookahead {','.join(map(str, options.lookahead))}; medians of {options.rounds} "
        "rounds (least to most)",
        f"the engine alone: {bare:.0f} windows a second at its best batch, {best}",
        "us a frame: wall, CPU of the server's threads, CPU of its loop alone",
        f"{'streams':>8}{'people':>8}{'batch':>7}{'frames/s':>10}{'of bare':>26}{'wall us':>22}{'cpu us':>22}"
        f"{'loop us':>22}{'lost':>6}",
    ]
    for case in cases:
        of_case = [found for found in rounds if (found["streams"], found["people"], found["batch"]) == case]
        figures = {name: sorted(found[name] for found in of_case) for name in FIGURES}
        middle = {name: statistics.median(values) for name, values in figures.items()}
        line = f"{case[0]:8}{case[1]:8}{case[2]:7}{middle['frames_per_second']:10.0f}"
        share, least, most = middle["share"], figures["share"][0], figures["share"][-1]
        line += f"{f'{share:.1%} ({least:.1%} to {most:.1%})':>26}"
        for name in FIGURES[2:]:
            line += f"{f'{middle[name]:.1f} ({figures[name][0]:.1f} to {figures[name][-1]:.1f})':>22}"
        lines.append(f"{line}{sum(found['poses_lost'] for found in of_case):6}")
    return {"engine": engine, "alone": rates, "alone_by_round": alone, "best_batch": best, "rounds": rounds}, lines


def main() -> None:
    """Command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--engine", default="null,bundled", help="null, bundled, or paths of engines, with commas")
    parser.add_argument("--streams", type=counts, default=[16, 256, 1000], help="how many, or several with commas")
    parser.add_argument("--people", type=counts, default=[1, 16], help="streams that share a message; likewise")
    parser.add_argument(
        "--batch", type=counts, help="most windows of one engine call; likewise; else the best of 1..64"
    )
    parser.add_argument("--frames", type=positive, default=120_000, help="of all streams together, about")
    parser.add_argument("--seconds", type=float, default=15.0, help="fewer frames where the engine alone takes longer")
    parser.add_argument("--lookahead", type=numbers, default=[4], help="lookahead, or several with commas")
    parser.add_argument("--radius", type=int, default=2)
    parser.add_argument("--rounds", type=positive, default=3, help="servers measured, one after another")
    parser.add_argument("--profile", metavar="NAME", help="keep a profile of the last server as bench/results/NAME.txt")
    options = parser.parse_args()
    found = [measure(engine, options) for engine in options.engine.split(",")]
    lines = [line for _, of_engine in found for line in of_engine]
    report({"bench": "throughput", "engines": [result for result, _ in found]}, lines, options)


if __name__ == "__main__":
    main()
