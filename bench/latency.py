"""How long after its capture does a refined pose reach the subscriber, and what of that does rtskel add?

Open loop: a publisher process sends at the camera's rate whatever the server does, and every frame's clock starts at
the moment it was due to be sent, so that a server that falls behind cannot hide it. The lookahead, a choice of the
user's, is reported apart: a pose at lookahead L waits for frame i + L, and what is measured is the time from that
frame's being due to the pose's arrival. Where it goes:

    transport   the publisher's lateness and its clock to the server's reading, and from sending to the subscriber
    queue       in the server, until its windows are assembled
    ring        storing, assembling windows, averaging, encoding
    engine      the engine call
    around      all but the engine call

Beside it, on the same machine one after another, what somebody would write without rtskel: `relay`, pyzmq alone, which
forwards every message with as many bytes as a refined pose has, and `relay+engine`, which runs the engine on one window
in between. The ends are the same for all of them: the publisher puts numbers into bytes prepared beforehand, and the
subscriber keeps bytes, which are read when all is over.

    python bench/latency.py --save latency      # about a quarter of an hour
    python bench/latency.py --streams 1 --fps 60 --rounds 8 --save latency-60fps        # the case that matters most

What rtskel adds is given twice: to `relay+engine`, where a real engine's own time differs by more from round to round
than everything else takes; and around the engine, to `relay`, which leaves that out.

The server and its peers take turns, several rounds of each, so that what else the machine does falls on all of them;
percentiles are over all rounds.

A case that asks an engine for more than half of the windows a second that it can do alone is left out: what a server
does then is bench/throughput.py's question. `relay+engine`, which runs one window at a time, is left out where that is
more than half of what the engine does so, and with it what rtskel adds to it.
"""

from __future__ import annotations

import gc
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np
import zmq
from harness import (
    SPAWN,
    arguments,
    bare_engine,
    counts,
    numbers,
    opened,
    percentiles,
    report,
    ring_config,
    serving,
)
from numpy.typing import NDArray

from rtskel.cli import positive
from rtskel.serve import ServeConfig, StreamConfig
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.synthesize import synthesize
from rtskel.wire import (
    EVENT_PREFIX,
    HEARTBEAT_TOPIC,
    RAW_PREFIX,
    REFINED_PREFIX,
    Flag,
    RawPose,
    StreamEnd,
    encode,
    event_topic,
    raw_template,
    refined_topic,
)

PARTS = ("transport", "queue", "ring", "engine", "around")
REFINED_BYTES = 1263
"""Bytes of a refined pose of 50 joints."""


def publish(endpoint: str, streams: int, fps: float, seconds: float, control: Connection) -> None:
    """Send every stream's frames at the camera's rate, streams spread over the frame's time as cameras would be."""
    motion = synthesize(min(seconds, 10.0), fps, 1)
    frames = round(seconds * fps)
    arrays = [(xyz.tobytes(), sure.tobytes()) for xyz, sure in zip(motion.xyz, motion.confidence, strict=True)]
    names = [f"camera{s}" for s in range(streams)]
    view = motion.xyz[0], motion.confidence[0], UPPER_BODY_50.id, "RDT", False
    made = [encode(RawPose(name, 1, 0, 0, "monotonic", fps, *view)) for name in names]
    parts = [(topic, *template.pieces[:3]) for topic, body in made if (template := raw_template(topic, body))]
    pack = msgpack.packb
    context = zmq.Context()
    gc.disable()
    with context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.XPUB_NODROP, 1)  # what does not fit is counted
        socket.setsockopt(zmq.SNDHWM, 10_000)
        socket.connect(endpoint)
        socket.recv()  # a subscription
        control.send("ready")
        control.recv()
        period = 1e9 / fps
        start = time.monotonic_ns() + 200_000_000
        dropped = 0
        for k in range(frames):
            xyz, confidence = arrays[k % len(arrays)]
            number = pack(k)
            for s, (topic, head, middle, tail) in enumerate(parts):
                due = start + round((k + s / streams) * period)
                wait = due - time.monotonic_ns()
                if wait > 0:
                    time.sleep(wait / 1e9)
                body = b"".join((head, number, pack(due), middle, xyz, tail, confidence))
                try:
                    socket.send_multipart((topic, body), zmq.NOBLOCK)
                except zmq.Again:
                    dropped += 1
        for name in names:
            socket.send_multipart(encode(StreamEnd(name, 1, frames, 0, "monotonic")))
        control.send(dropped)
    context.term()


def collect(
    endpoint: str,
    topics: list[bytes],
    ready: bytes | None,
    ends: Callable[[bytes, bytes], bool],
    count: int,
    control: Connection,
) -> list[tuple[int, bytes, bytes]]:
    """Every message of these topics and the time it was here, until `count` of them were ends; no arrays."""
    context = zmq.Context()
    got = []
    gc.disable()
    with context.socket(zmq.SUB) as socket:
        socket.rcvhwm = 0
        for topic in topics:
            socket.subscribe(topic)
        if ready is not None:
            socket.subscribe(ready)
        socket.connect(endpoint)
        if ready is not None:
            socket.recv_multipart()  # it tells that the subscriptions are in force
        control.send("ready")
        ended = 0
        while ended < count and socket.poll(60_000):
            topic, body = socket.recv_multipart()
            got.append((time.monotonic_ns(), topic, body[:400]))
            ended += ends(topic, body)
    context.term()
    return got


def fields(body: bytes) -> dict[str, Any]:
    """The fields of a message in front of its arrays."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(body)
    found: dict[str, Any] = {}
    for _ in range(unpacker.read_map_header()):
        name = unpacker.unpack()
        if name == "xyz":
            break
        found[name] = unpacker.unpack()
    return found


def subscribe(endpoint: str, streams: int, lookaheads: list[int], control: Connection) -> None:
    """Take every pose of every stream and the time it had arrived."""
    topics = [refined_topic(f"camera{s}", lookahead) for lookahead in lookaheads for s in range(streams)]
    topics += [event_topic(f"camera{s}") for s in range(streams)]

    def ends(topic: bytes, body: bytes) -> bool:
        return topic.startswith(EVENT_PREFIX) and msgpack.unpackb(body)["event"] == "end"

    got = collect(endpoint, topics, HEARTBEAT_TOPIC, ends, streams, control)
    rows = []
    for now, topic, body in got:
        if topic.startswith(REFINED_PREFIX):
            said = fields(body)
            lookahead, _, _, _, flags = said["slot"]
            _, slot, captured, _, _ = said["source"]
            received, start, end, sent, _ = said["times"]
            stream = int(said["stream"].removeprefix("camera"))
            rows.append((stream, lookahead, slot, flags, captured, received, start, end, sent, now))
    control.send_bytes(np.array(rows, np.int64).tobytes())


def split(
    rows: NDArray[np.int64], stamps: NDArray[np.int64], lookahead: int, reach: int, warm_up: int
) -> dict[str, list[float]]:
    """The time beyond the lookahead in ms, and its parts."""
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
        found["around"].append(arrived - due - (end - start))
    return {part: (np.array(found[part]) / 1e6).tolist() for part in ("total", *PARTS)}


def run(engine: str, fps: float, streams: int, lookaheads: list[int], radius: int, seconds: float) -> dict[str, Any]:
    """rtskel, one round at the camera's rate; its first second does not count."""
    config = ServeConfig(lookaheads=tuple(lookaheads), radius=radius, streams=StreamConfig(max_streams=streams))
    with opened(engine) as opened_:
        ring = ring_config(opened_.window, lookaheads, radius)
    with serving(engine, config, record=True) as server:
        rows, dropped = loads(server.raw, server.refined, subscribe, streams, fps, seconds, lookaheads)
    rows = rows.reshape(-1, 10)
    reach = {ahead: ring.reach(ahead) for ahead in lookaheads}
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


def pooled(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What `run` gave, several times, as one: losses added up, percentiles of all times."""
    first = rounds[0]
    return {
        **{name: sum(each[name] for each in rounds) for name in ("poses_lost", "frames_dropped")},
        "lookaheads": {
            ahead: {
                "lookahead_ms": figures["lookahead_ms"],
                "ms": {
                    part: percentiles([ms for each in rounds for ms in each["lookaheads"][ahead]["ms"][part]])
                    for part in figures["ms"]
                },
            }
            for ahead, figures in first["lookaheads"].items()
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
    opened_ = None if engine is None else opened(engine)
    if opened_ is not None:
        positions = ring_config(opened_.window, lookaheads, radius).positions
        x = np.zeros((1, opened_.window, UPPER_BODY_50.joints, 3), np.float32)
        missing = np.zeros(x.shape[:3], np.bool_)
        opened_.run(x, missing, positions)  # some get ready with their first run
    control.send([bytes(socket.last_endpoint).rstrip(b"\0").decode() for socket in (raw, refined)])  # type: ignore[arg-type]
    refined.recv()  # the subscription
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
    got = collect(endpoint, [b""], None, lambda _, body: b"\xa3end" in body[:40], streams, control)
    rows = []
    for now, _, body in got:
        said = fields(body)
        if said["kind"] == "raw":
            rows.append((said["source"][2], said["source"][1], now))
    control.send_bytes(np.array(rows, np.int64).tobytes())


def run_relay(
    engine: str | None, fps: float, streams: int, lookaheads: list[int], radius: int, seconds: float
) -> list[float]:
    """What pyzmq alone takes in ms, or pyzmq with the engine; one round."""
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
    taken: list[float] = ((arrived - due)[slot >= round(fps)] / 1e6).tolist()
    return taken


COLUMNS = ("p50", "p90", "p99", "p99.9", "max")


def main() -> None:
    """Command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--engine", default="null,bundled", help="null, bundled, or paths of engines, with commas")
    parser.add_argument("--fps", type=counts, default=[25, 60, 120], help="the camera's rate, or several with commas")
    parser.add_argument("--streams", type=counts, default=[1, 16, 256], help="how many; likewise")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of a round of one stream; of more at least 4, or as many frames"
    )
    parser.add_argument("--rounds", type=positive, default=3, help="of the server and of each peer, in turns")
    parser.add_argument("--lookahead", type=numbers, default=[0, 4], help="lookahead, or several with commas")
    parser.add_argument("--radius", type=int, default=2)
    options = parser.parse_args()

    def row(name: str, figures: dict[str, float]) -> str:
        return f"{name:24}" + "".join(f"{figures[column]:9.3f}" for column in COLUMNS)

    cases, lines = [], []
    for engine in options.engine.split(","):
        rates = bare_engine(engine, [1, 16], options.lookahead, options.radius)
        alone = max(rates.values())
        for streams, fps in product(options.streams, options.fps):
            if streams * fps > alone / 2:
                why = f"left out, for the engine alone does {alone:.0f} windows a second"
                lines.append(f"{engine}, {streams} streams at {fps:g} fps: {why}\n")
                continue
            seconds = max(options.seconds / streams, min(options.seconds, 4.0))
            how = options.lookahead, options.radius, seconds
            opponents = {"relay": None} | ({"relay+engine": engine} if streams * fps <= rates[1] / 2 else {})
            turns, theirs = [], {name: list[float]() for name in opponents}
            for _ in range(options.rounds):
                turns.append(run(engine, fps, streams, *how))
                for name, with_engine in opponents.items():
                    theirs[name] += run_relay(with_engine, fps, streams, *how)
            found, peers = pooled(turns), {name: percentiles(ms) for name, ms in theirs.items()}
            lines.append(f"{engine}, {streams} streams at {fps:g} fps; ms beyond the lookahead")
            lines.append(" " * 24 + "".join(f"{column:>9}" for column in COLUMNS))
            for ahead, figures in found["lookaheads"].items():
                lines.append(row(f"lookahead {ahead} (+{figures['lookahead_ms']:.0f} ms)", figures["ms"]["total"]))
                lines += [row(f"  {part}", figures["ms"][part]) for part in PARTS]
            lines += [row(name, figures) for name, figures in peers.items()]
            case = {"engine": engine, "fps": fps, "streams": streams, **found, "peers_ms": peers}
            least = found["lookaheads"][str(min(options.lookahead))]["ms"]
            around = {column: least["around"][column] - peers["relay"][column] for column in COLUMNS}
            case["added_around_ms"] = around
            lines.append(row("added around, to relay", around))
            if "relay+engine" in peers:
                case["added_ms"] = {
                    column: least["total"][column] - peers["relay+engine"][column] for column in COLUMNS
                }
                lines.append(row("added to relay+engine", case["added_ms"]))
            else:
                why = f"the engine alone does {rates[1]:.0f} windows a second one at a time"
                lines.append(f"relay+engine left out, for {why}")
            lines.append(
                f"{found['poses_lost']} poses lost, {found['frames_dropped']} frames dropped by the publisher\n"
            )
            cases.append(case)
    report({"bench": "latency", "radius": options.radius, "cases": cases}, lines, options)


if __name__ == "__main__":
    main()
