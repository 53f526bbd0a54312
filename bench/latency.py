"""How long after its capture does a refined pose reach the subscriber, and what of that does rtskel add?

Open loop: a publisher process sends at the camera's rate whatever the server does, and every frame's clock starts at
the moment it was due to be sent, so that a server that falls behind cannot hide it. The lookahead, a choice of the
user's, is reported apart: a pose at lookahead L waits for frame i + L, and what is measured is the time from that
frame's being due to the pose's arrival. Where it goes:

    transport   the publisher's lateness and its clock to the server's reading, and from sending to the subscriber
    queue       in the server, until its windows are assembled
    ring        storing, assembling windows, averaging, encoding
    engine      the engine call

Beside it, on the same machine one after another, what somebody would write without rtskel: `relay`, pyzmq alone, which
forwards every message with as many bytes as a refined pose has, and `relay+engine`, which runs the engine on one window
in between.

    python bench/latency.py --engine null --fps 25,60,120 --streams 1,16,256
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np
import zmq
from harness import SPAWN, arguments, numbers, opened, percentiles, report, serving
from numpy.typing import NDArray

from rtskel import Publisher, Subscriber
from rtskel.refine import RefinerBank
from rtskel.serve import ServeConfig
from rtskel.skeleton import UPPER_BODY_50
from rtskel.streams import StreamConfig
from rtskel.synthesize import synthesize
from rtskel.wire import RAW_PREFIX, Event, Flag, RefinedPose, refined_topic

PARTS = ("transport", "queue", "ring", "engine")
REFINED_BYTES = 1263
"""Bytes of a refined pose of 50 joints."""


def publish(endpoint: str, streams: int, fps: float, seconds: float, control: Connection) -> None:
    """Send every stream's frames at the camera's rate, streams spread over the frame's time as cameras would be."""
    motion = synthesize(min(seconds, 20.0), fps, 1)
    frames = round(seconds * fps)
    first = Publisher(endpoint, stream="camera0", fps=fps, queue=10_000)
    writers = [first, *(first.sibling(f"camera{s}") for s in range(1, streams))]
    first.wait_for_subscriber(30)
    control.send("ready")
    control.recv()
    period = 1e9 / fps
    start = time.monotonic_ns() + 200_000_000
    for k in range(frames):
        at = k % len(motion.xyz)
        for s, writer in enumerate(writers):
            due = start + round((k + s / streams) * period)
            wait = due - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            writer.send(motion.xyz[at], motion.confidence[at], seq=k, time_ns=due)
    for writer in writers:
        writer.end(frames)
    control.send(sum(writer.dropped for writer in writers))
    for writer in writers:
        writer.close()


def subscribe(endpoint: str, streams: int, lookaheads: list[int], control: Connection) -> None:
    """Take every pose of every stream and the time it had arrived."""
    rows = []
    with Subscriber(endpoint, lookahead=lookaheads) as subscriber:
        subscriber.wait_for_server(30)
        control.send("ready")
        ends = 0
        while ends < streams:
            message = subscriber.recv(timeout=60)
            now = time.monotonic_ns()
            if isinstance(message, RefinedPose):
                stream, slot = int(message.stream.removeprefix("camera")), message.source_seq
                server = message.receive_ns, message.infer_start_ns, message.infer_end_ns, message.publish_ns
                rows.append((stream, message.lookahead, slot, message.flags, message.source_time_ns, *server, now))
            elif isinstance(message, Event) and message.kind == "end":
                ends += 1
    control.send_bytes(np.array(rows, np.int64).tobytes())


def split(
    rows: NDArray[np.int64], stamps: NDArray[np.int64], lookahead: int, reach: int, warm_up: int
) -> dict[str, dict[str, float]]:
    """Percentiles in ms of the time beyond the lookahead, and of its parts."""
    frames = {(stream, slot): (due, read) for stream, _, slot, _, due, read, *_ in rows.tolist()}
    # The server reads its clock when it begins a batch and next when the engine begins.
    begun = dict(zip(stamps[1:].tolist(), stamps[:-1].tolist(), strict=True))
    found = defaultdict(list)
    for stream, ahead, slot, flags, _, _, start, end, sent, arrived in rows.tolist():
        last = frames.get((stream, slot + reach))  # the frame that this pose waited for
        if ahead != lookahead or last is None or slot < warm_up or flags & Flag.FLUSHED:
            continue
        due, read = last
        began = begun[start]
        found["total"].append(arrived - due)
        found["transport"].append(read - due + arrived - sent)
        found["queue"].append(began - read)
        found["ring"].append(start - began + sent - end)
        found["engine"].append(end - start)
    return {part: percentiles(np.array(found[part]) / 1e6) for part in ("total", *PARTS)}


def run(engine: str, fps: float, streams: int, lookaheads: list[int], radius: int, seconds: float) -> dict[str, Any]:
    """rtskel, one run at the camera's rate; its first second does not count."""
    config = ServeConfig(lookaheads=tuple(lookaheads), radius=radius, streams=StreamConfig(max_streams=streams))
    with opened(engine) as opened_:
        bank = RefinerBank(opened_, lookahead=lookaheads, radius=radius).config
    with serving(engine, config, record=True) as server:
        rows, dropped = loads(server.raw, server.refined, subscribe, streams, fps, seconds, lookaheads)
    rows = rows.reshape(-1, 10)
    reach = {ahead: bank.reach(ahead) for ahead in lookaheads}
    return {
        "poses_lost": streams * round(seconds * fps) * len(lookaheads) - len(rows),
        "frames_dropped": dropped,
        "lookaheads": {
            str(ahead): {
                "lookahead_ms": reach[ahead] / fps * 1e3,
                "ms": split(rows, server.stamps, ahead, reach[ahead], round(fps)),
            }
            for ahead in lookaheads
        },
    }


def loads(
    raw: str, refined: str, reader: Any, streams: int, fps: float, seconds: float, lookaheads: list[int]
) -> tuple[NDArray[np.int64], int]:
    """A subscriber and a publisher process; what the one got, and how many frames the other dropped."""
    to_publisher, publisher_end = SPAWN.Pipe()
    to_subscriber, subscriber_end = SPAWN.Pipe()
    subscriber = SPAWN.Process(target=reader, args=(refined, streams, lookaheads, subscriber_end))
    publisher = SPAWN.Process(target=publish, args=(raw, streams, fps, seconds, publisher_end))
    subscriber.start()
    publisher.start()
    to_subscriber.recv()
    to_publisher.recv()
    to_publisher.send("go")
    dropped = to_publisher.recv()
    rows = np.frombuffer(to_subscriber.recv_bytes(), np.int64)
    publisher.join()
    subscriber.join()
    return rows, dropped


def relay(engine: str | None, radius: int, lookaheads: list[int], control: Connection) -> None:
    """Forward every raw message, with as many bytes as a refined pose has; behind the engine, if there is one."""
    context = zmq.Context()
    raw, refined = context.socket(zmq.SUB), context.socket(zmq.XPUB)
    raw.subscribe(RAW_PREFIX)
    raw.rcvhwm = refined.sndhwm = 100_000
    raw.bind("tcp://127.0.0.1:*")
    refined.bind("tcp://127.0.0.1:*")
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    control.send([bytes(socket.last_endpoint).rstrip(b"\0").decode() for socket in (raw, refined)])  # type: ignore[arg-type]
    refined.recv()  # the subscription
    opened_ = None if engine is None else opened(engine)
    if opened_ is not None:
        positions = RefinerBank(opened_, lookahead=lookaheads, radius=radius).config.positions
        x = np.zeros((1, opened_.window, UPPER_BODY_50.joints, 3), np.float32)
        missing = np.zeros(x.shape[:3], np.bool_)
    while going:
        if not raw.poll(100):
            continue
        _, body = raw.recv_multipart()
        if opened_ is not None:
            opened_.run(x, missing, positions)
        refined.send_multipart((refined_topic("camera0", 0), body.ljust(REFINED_BYTES)))
    context.destroy(linger=0)


def subscribe_to_relay(endpoint: str, streams: int, lookaheads: list[int], control: Connection) -> None:
    """When each frame was due, its slot, and when it was here."""
    context = zmq.Context()
    got = []
    with context.socket(zmq.SUB) as socket:
        socket.rcvhwm = 100_000
        socket.subscribe(b"")
        socket.connect(endpoint)
        control.send("ready")
        ends = 0
        while ends < streams and socket.poll(60_000):
            _, body = socket.recv_multipart()
            got.append((time.monotonic_ns(), body))
            ends += b"\xa3end" in body[:40]
    context.term()
    rows = []
    for now, body in got:
        unpacker = msgpack.Unpacker()
        unpacker.feed(body)  # and what pads it
        fields = unpacker.unpack()
        if fields["kind"] == "raw":
            rows.append((fields["source"][2], fields["source"][1], now))
    control.send_bytes(np.array(rows, np.int64).tobytes())


def run_relay(
    engine: str | None, fps: float, streams: int, lookaheads: list[int], radius: int, seconds: float
) -> dict[str, float]:
    """What pyzmq alone takes in ms, or pyzmq with the engine."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=relay, args=(engine, radius, lookaheads, theirs))
    process.start()
    try:
        raw, refined = ours.recv()
        rows, _ = loads(raw, refined, subscribe_to_relay, streams, fps, seconds, lookaheads)
    finally:
        process.terminate()
        process.join()
    due, slot, arrived = rows.reshape(-1, 3).T
    return percentiles((arrived - due)[slot >= round(fps)] / 1e6)


COLUMNS = ("p50", "p90", "p99", "p99.9", "max")


def main() -> None:
    """Command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--engine", default="bundled", help="bundled, null, or the path of an engine")
    parser.add_argument("--fps", type=numbers, default=[60], help="the camera's rate, or several with commas")
    parser.add_argument("--streams", type=numbers, default=[1], help="how many; likewise")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lookahead", type=numbers, default=[0, 4], help="lookahead, or several with commas")
    parser.add_argument("--radius", type=int, default=2)
    options = parser.parse_args()

    def row(name: str, figures: dict[str, float]) -> str:
        return f"{name:24}" + "".join(f"{figures[column]:9.3f}" for column in COLUMNS)

    cases, lines = [], []
    for fps, streams in product(options.fps, options.streams):
        how = options.lookahead, options.radius, options.seconds
        found = run(options.engine, fps, streams, *how)
        peers = {
            "relay": run_relay(None, fps, streams, *how),
            "relay+engine": run_relay(options.engine, fps, streams, *how),
        }
        lines.append(f"{options.engine}, {streams} streams at {fps:g} fps; ms beyond the lookahead")
        lines.append(" " * 24 + "".join(f"{column:>9}" for column in COLUMNS))
        for ahead, figures in found["lookaheads"].items():
            lines.append(row(f"lookahead {ahead} (+{figures['lookahead_ms']:.0f} ms)", figures["ms"]["total"]))
            lines += [row(f"  {part}", figures["ms"][part]) for part in PARTS]
        lines += [row(name, figures) for name, figures in peers.items()]
        least = found["lookaheads"][str(min(options.lookahead))]["ms"]["total"]
        added = {column: least[column] - peers["relay+engine"][column] for column in COLUMNS}
        lines.append(row("added to relay+engine", added))
        lines.append(f"{found['poses_lost']} poses lost, {found['frames_dropped']} frames dropped by the publisher\n")
        cases.append({"fps": fps, "streams": streams, **found, "peers_ms": peers, "added_ms": added})
    report({"bench": "latency", "engine": options.engine, "radius": options.radius, "cases": cases}, lines, options)


if __name__ == "__main__":
    main()
