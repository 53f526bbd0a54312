"""How long after its capture does a refined pose reach the subscriber?

Open loop: publisher processes send at the camera's rate whatever the server does, and every frame's clock starts at the
moment it was due to be sent, so that a server that falls behind cannot hide it. The lookahead, a choice of the user's,
is reported apart: a pose at lookahead L waits for frame i + L, and what is measured here is the time from that frame's
being due to the pose's arrival:

    up        publisher's clock to the server's reading it
    queue     waiting for the engine
    engine    the engine call
    publish   ring, averages, encoding, up to sending it
    down      to the subscriber's having decoded it

    python bench/latency.py --fps 30 --streams 1 --lookahead 0,4
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from harness import arguments, percentiles, report, server

from rtskel import Publisher, Subscriber, open_engine
from rtskel.skeleton import UPPER_BODY_50
from rtskel.synthesize import synthesize
from rtskel.wire import Event, Flag, RefinedPose

PARTS = ("up", "queue", "engine", "publish", "down")


def publish(endpoint: str, streams: int, fps: float, seconds: float, control: Connection) -> None:
    """Send every stream's frames at the camera's rate, streams spread over the frame's time as cameras would be."""
    motion = synthesize(min(seconds, 20.0), fps, 1)
    frames = round(seconds * fps)
    writers = [Publisher(endpoint, stream=f"camera{s}", fps=fps) for s in range(streams)]
    for writer in writers:
        writer.wait_for_subscriber(30)
    control.send("ready")
    control.recv()
    period = 1e9 / fps
    start = time.monotonic_ns() + 200_000_000
    for k in range(frames):
        for s, writer in enumerate(writers):
            due = start + round((k + s / streams) * period)
            wait = due - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            at = k % len(motion.xyz)
            writer.send(motion.xyz[at], motion.confidence[at], seq=k, time_ns=due)
    for writer in writers:
        writer.end(frames)
    control.send([writer.dropped for writer in writers])
    for writer in writers:
        writer.close()


def subscribe(endpoint: str, streams: int, lookaheads: list[int], control: Connection) -> None:
    """Take every pose of every stream and the time it had arrived."""
    rows: list[tuple[Any, ...]] = []
    with Subscriber(endpoint, lookahead=lookaheads) as subscriber:
        control.send("ready")
        ends = 0
        while ends < streams:
            message = subscriber.recv(timeout=60)
            now = time.monotonic_ns()
            if isinstance(message, RefinedPose):
                what = (message.stream, message.lookahead, message.source_seq, message.flags)
                server = (message.receive_ns, message.infer_start_ns, message.infer_end_ns, message.publish_ns)
                rows.append((*what, message.source_time_ns, *server, now))
            elif isinstance(message, Event) and message.kind == "end":
                ends += 1
    control.send(rows)


def split(rows: list[tuple[Any, ...]], lookahead: int, reach: int, warm_up: int) -> dict[str, dict[str, float]]:
    """Percentiles in ms of the time beyond the lookahead, and of its parts."""
    due, read = {}, {}
    for stream, _, seq, _, captured, received, *_ in rows:
        due[stream, seq], read[stream, seq] = captured, received
    found = defaultdict(list)
    for stream, ahead, seq, flags, _, _, start, end, sent, arrived in rows:
        last = (stream, seq + reach)  # the frame that this pose waited for
        if ahead != lookahead or last not in due or seq < warm_up or flags & Flag.FLUSHED:
            continue
        steps = (due[last], read[last], start, end, sent, arrived)
        for part, a, b in zip(PARTS, steps[:-1], steps[1:], strict=True):
            found[part].append((b - a) / 1e6)
        found["total"].append((arrived - due[last]) / 1e6)
    return {part: percentiles(found[part]) for part in ("total", *PARTS)}


def run(engine: str, fps: float, streams: int, lookahead: str, radius: int, seconds: float) -> dict[str, Any]:
    """One run at the camera's rate; its first second does not count."""
    lookaheads = [int(part) for part in lookahead.split(",")]
    spawn = multiprocessing.get_context("spawn")
    with open_engine(None if engine == "bundled" else engine) as opened:
        window, model = opened.window, opened.info.model_id
        x = np.zeros((1, window, UPPER_BODY_50.joints, 3), np.float32)
        missing = np.zeros(x.shape[:3], np.bool_)
        bare = []
        for _ in range(200):
            before = time.perf_counter()
            opened.run(x, missing)
            bare.append((time.perf_counter() - before) * 1e3)
    options = ["--lookahead", lookahead, "--radius", str(radius), "--max-streams", str(streams)]
    with server(*options, *([] if engine == "bundled" else ["--engine", engine])) as serving:
        to_publisher, publisher_end = spawn.Pipe()
        to_subscriber, subscriber_end = spawn.Pipe()
        subscriber = spawn.Process(target=subscribe, args=(serving.refined, streams, lookaheads, subscriber_end))
        publisher = spawn.Process(target=publish, args=(serving.raw, streams, fps, seconds, publisher_end))
        subscriber.start()
        publisher.start()
        to_subscriber.recv()
        to_publisher.recv()
        to_publisher.send("go")
        dropped = sum(to_publisher.recv())
        rows = to_subscriber.recv()
        publisher.join()
        subscriber.join()
    reach = {ahead: min(ahead, window // 2 + radius) for ahead in lookaheads}
    expected = streams * round(seconds * fps) * len(lookaheads)
    return {
        "engine": engine,
        "model": model,
        "fps": fps,
        "streams": streams,
        "radius": radius,
        "poses_lost": expected - len(rows),
        "frames_dropped": dropped,
        "bare_engine_ms": percentiles(bare[20:]),
        "lookaheads": {
            str(ahead): {"lookahead_ms": reach[ahead] / fps * 1e3, "ms": split(rows, ahead, reach[ahead], round(fps))}
            for ahead in lookaheads
        },
    }


def main() -> None:
    """Command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--engine", default="bundled", help="bundled, null, or the path of an engine")
    parser.add_argument("--fps", type=float, default=30.0, help="the camera's rate")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lookahead", default="0,4", help="lookahead, or several with commas")
    parser.add_argument("--radius", type=int, default=2)
    options = parser.parse_args()
    result = run(options.engine, options.fps, options.streams, options.lookahead, options.radius, options.seconds)
    columns = ("p50", "p90", "p99", "p99.9", "max")

    def row(name: str, figures: dict[str, float]) -> str:
        return f"{name:24}" + "".join(f"{figures[column]:9.2f}" for column in columns)

    what = f"engine {result['engine']} ({result['model']}), {result['streams']} streams at {result['fps']:g} fps"
    lines = [f"{what}; ms beyond the lookahead", " " * 24 + "".join(f"{column:>9}" for column in columns)]
    for ahead, figures in result["lookaheads"].items():
        lines.append(f"lookahead {ahead} (+{figures['lookahead_ms']:.0f} ms)")
        lines += [row(f"  {part}", values) for part, values in figures["ms"].items()]
    lines.append(row("bare engine, 1 window", result["bare_engine_ms"]))
    lines.append(f"{result['poses_lost']} poses lost, {result['frames_dropped']} frames dropped by the publisher")
    report({"bench": "latency", **result}, lines, options)


if __name__ == "__main__":
    main()
