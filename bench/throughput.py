"""How many frames a second does a server refine, and what does everything around the engine cost a frame?

A publisher process sends the frames of many streams as fast as the server takes them; a subscriber process takes every
refined pose. With the engine `null`, which returns its input, what is left is the cost of receiving, decoding, the
ring, windows, averages, encoding and publishing. The server's CPU time is the operating system's own figure, so that it
holds although the three processes share the cores; the wall time includes waiting for the other two.

    python bench/throughput.py --engine null --streams 256
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq
from harness import arguments, report, server

from rtskel.skeleton import UPPER_BODY_50
from rtskel.wire import RawPose, StreamEnd, encode, event_topic, refined_topic

FPS = 30.0
JOINTS = UPPER_BODY_50.joints


def share_the_last_core() -> None:
    """The two loads stay on one core, so that they do not push the server off the others."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])


def publish(endpoint: str, streams: int, frames: int, warm_up: int, control: Connection) -> None:
    """Send `frames` frames of every stream, interleaved, as fast as the server takes them; serialised beforehand."""
    share_the_last_core()
    rng = np.random.default_rng(0)
    bones = np.array(UPPER_BODY_50.bone_length)[:, None] * rng.normal(size=(JOINTS, 3))
    pose = np.zeros((JOINTS, 3), np.float32)
    for joint in UPPER_BODY_50.order[1:]:
        pose[joint] = pose[UPPER_BODY_50.parents[joint]] + bones[joint]
    confidence = np.ones(JOINTS, np.float32)
    messages = [
        encode(RawPose(f"s{s}", 1, k, 0, "bench", FPS, pose + np.float32(0.01 * (k % 7)), confidence, UPPER_BODY_50.id))
        for k in range(frames)
        for s in range(streams)
    ]
    context = zmq.Context()
    with context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.XPUB_NODROP, 1)  # wait for the server instead of dropping
        socket.setsockopt(zmq.SNDHWM, 1000)
        socket.connect(endpoint)
        socket.recv()  # the server's subscription
        control.send("ready")
        control.recv()
        for k, message in enumerate(messages):
            if k == warm_up * streams:
                control.send(time.monotonic_ns())
            socket.send_multipart(message, copy=False)
        for s in range(streams):
            socket.send_multipart(encode(StreamEnd(f"s{s}", 1, frames, 0, "bench")))
        control.recv()
    context.term()


def subscribe(
    endpoint: str, streams: int, lookaheads: list[int], warm_up: int, expected: int, control: Connection
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
                socket.subscribe(refined_topic(f"s{s}", lookahead))
        socket.connect(endpoint)
        control.send("ready")
        got, ends = 0, 0
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        while ends < streams and poller.poll(60_000):
            while True:
                try:
                    topic, body = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if topic.startswith(b"rts1/event/"):
                    ends += b"end" in body
                else:
                    got += 1
                    if got == warm_up:
                        control.send(time.monotonic_ns())
        control.send((time.monotonic_ns(), expected - got))
    context.term()


def run(engine: str, streams: int, frames: int, lookahead: str, radius: int) -> dict[str, Any]:
    """One run to saturation; the first quarter of it warms up and does not count."""
    lookaheads = [int(part) for part in lookahead.split(",")]
    warm_up = frames // 4
    spawn = multiprocessing.get_context("spawn")
    options = ["--lookahead", lookahead, "--radius", str(radius), "--max-streams", str(streams)]
    options += [] if engine == "bundled" else ["--engine", engine]
    with server(*options, "--slack-ms", "5000") as serving:
        to_publisher, publisher_end = spawn.Pipe()
        to_subscriber, subscriber_end = spawn.Pipe()
        expected = streams * frames * len(lookaheads)
        subscriber = spawn.Process(
            target=subscribe,
            args=(serving.refined, streams, lookaheads, streams * warm_up * len(lookaheads), expected, subscriber_end),
        )
        publisher = spawn.Process(target=publish, args=(serving.raw, streams, frames, warm_up, publisher_end))
        subscriber.start()
        to_subscriber.recv()
        publisher.start()
        to_publisher.recv()
        to_publisher.send("go")
        start = to_subscriber.recv()
        before = serving.cpu_seconds()
        end, lost = to_subscriber.recv()
        after = serving.cpu_seconds()
        to_publisher.send("done")
        publisher.join()
        subscriber.join()
    counted = streams * (frames - warm_up)
    wall = (end - start) / 1e9
    return {
        "engine": engine,
        "streams": streams,
        "lookaheads": lookaheads,
        "radius": radius,
        "frames": counted,
        "poses_lost": lost,
        "frames_per_second": counted / wall,
        "wall_us_per_frame": wall / counted * 1e6,
        "server_cpu_us_per_frame": (after["process"] - before["process"]) / counted * 1e6,
        "loop_cpu_us_per_frame": (after["loop"] - before["loop"]) / counted * 1e6,
    }


def main() -> None:
    """Command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--engine", default="null", help="null, bundled, or the path of an engine")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--frames", type=int, default=400, help="frames of each stream")
    parser.add_argument("--lookahead", default="4", help="lookahead, or several with commas")
    parser.add_argument("--radius", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="servers measured, one after another")
    options = parser.parse_args()
    rounds = [
        run(options.engine, options.streams, options.frames, options.lookahead, options.radius)
        for _ in range(options.rounds)
    ]

    def row(name: str, unit: str) -> str:
        values = sorted(result[name] for result in rounds)
        middle = statistics.median(values)
        return f"  {middle:10.1f} ({values[0]:.1f} to {values[-1]:.1f}) {unit}"

    lines = [
        f"engine {options.engine}, {options.streams} streams, lookahead {options.lookahead}: "
        f"median of {options.rounds} rounds (least to most)",
        row("frames_per_second", "frames a second"),
        row("wall_us_per_frame", "us a frame, wall (publisher, server and subscriber share the cores)"),
        row("server_cpu_us_per_frame", "us a frame, CPU time of the server, all threads"),
        row("loop_cpu_us_per_frame", "us a frame, CPU time of its loop alone"),
        f"  {sum(result['poses_lost'] for result in rounds):10d} poses lost",
    ]
    report({"bench": "throughput", "rounds": rounds}, lines, options)


if __name__ == "__main__":
    main()
