"""How long after its capture does a refined pose reach the subscriber, and what does rtskel add to it?

Open loop: a publisher sends at the camera's rate whatever the server does, and every frame's clock starts when it was
due to be sent, so that a server that falls behind cannot hide it. The look-ahead, chosen by the user, is left out: a
pose at look-ahead L needs frame i + L, and the time is from that frame's due time to the pose's arrival. Its parts:

    transport   lateness of the publisher, from its clock to the server's reading, from sending to the subscriber
    server      waiting, storing, assembling windows, averaging, encoding
    engine      the engine call
    around      everything but the engine call

Measured alternately: `relay`, pyzmq alone, which forwards every message with as many bytes as a refined pose has, and
`relay+engine`, which also runs the engine on one window. What rtskel adds is the difference to `relay+engine`, which
includes the engine's own variation, and around the engine the difference to `relay`. Percentiles are over all rounds.

Left out are cases that need more than half of the windows a second of the engine alone, and `relay+engine` above half
of what the engine does one window at a time.

    python bench/latency.py --save latency      # about a quarter of an hour
    python bench/latency.py --streams 1 --fps 60 --rounds 8 --save latency-60fps        # the main case
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Sequence
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np
import zmq
from measure.engines import bare_engine, opened, ring_config
from measure.loads import Messages, load, publish, subscribed
from measure.processes import serving, started
from measure.report import arguments, bench, counts, percentiles, table
from numpy.typing import NDArray

from rtskel import wire
from rtskel.cli import positive
from rtskel.cli.options import frames_list
from rtskel.flags import Flag
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.synthesize import synthesize

PARTS = ("transport", "server", "engine", "around")
REFINED_BYTES = 1263
"""Bytes of a refined pose of 50 joints."""
COLUMNS = ("p50", "p90", "p99", "p99.9", "max")


def cameras(streams: int, fps: float, seconds: float) -> Messages:
    """Every stream's frames at the camera's rate, streams spread over the period; numbers go into prepared bytes."""
    motion = synthesize(min(seconds, 10.0), fps, 1)
    frames = round(seconds * fps)
    arrays = [(xyz.tobytes(), conf.tobytes()) for xyz, conf in zip(motion.xyz, motion.confidence, strict=True)]
    names = [f"camera{s}" for s in range(streams)]
    view = motion.xyz[0], motion.confidence[0], UPPER_BODY_50.id, "RDT", False
    made = [wire.encode(wire.RawPose(name, 1, 0, 0, "monotonic", fps, *view)) for name in names]
    parts = [(topic, *template.pieces[:3]) for topic, body in made if (template := wire.raw_template(topic, body))]
    period = 1e9 / fps
    start = time.monotonic_ns() + 200_000_000
    for k in range(frames):
        xyz, confidence = arrays[k % len(arrays)]
        number = msgpack.packb(k)
        for s, (topic, head, middle, tail) in enumerate(parts):
            due = start + round((k + s / streams) * period)
            if (wait := due - time.monotonic_ns()) > 0:
                time.sleep(wait / 1e9)
            yield (topic, b"".join((head, number, msgpack.packb(due), middle, xyz, tail, confidence))), zmq.NOBLOCK
    for name in names:
        yield wire.encode(wire.StreamEnd(name, 1, frames, 0, "monotonic")), 0


def fields(body: bytes) -> dict[str, Any]:
    """The fields of a message before its arrays."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(body)
    found: dict[str, Any] = {}
    for _ in range(unpacker.read_map_header()):
        name = unpacker.unpack()
        if name == "xyz":
            break
        found[name] = unpacker.unpack()
    return found


def subscribe(endpoint: str, topics: Sequence[bytes], heartbeats: int, streams: int, control: Connection) -> None:
    """Every pose, or every frame that a relay forwards, up to the ends of all streams: its header, when it arrived."""
    got, rows = [], []
    with subscribed(endpoint, topics, heartbeats) as socket:
        control.send("ready")
        while streams and socket.poll(60_000):
            _, body = socket.recv_multipart()
            got.append((time.monotonic_ns(), body[:400]))
            streams -= b"\xa3end" in body[:80]
    for now, body in got:
        header = fields(body)
        if header["kind"] in ("raw", "refined"):
            lookahead, *_, flags = header.get("slot", (0, 0))
            _, slot, captured, *_ = header["source"]
            times = header.get("times", (0, 0, 0, 0))[:4]
            rows.append((int(header["stream"].removeprefix("camera")), lookahead, slot, flags, captured, *times, now))
    control.send_bytes(np.array(rows, np.int64).tobytes())


def split(rows: NDArray[np.int64], lookahead: int, reach: int, warm_up: int) -> dict[str, NDArray[np.float64]]:
    """The time beyond the look-ahead and its parts, in ms."""
    frames = {(stream, slot): (due, read) for stream, _, slot, _, due, read, *_ in rows.tolist()}
    found = []
    for stream, ahead, slot, flags, _, _, start, end, sent, arrived in rows.tolist():
        last = frames.get((stream, slot + reach))  # the frame that this pose waited for
        if ahead == lookahead and last is not None and slot >= warm_up and not flags & Flag.FLUSHED:
            found.append((*last, start, end, sent, arrived))
    due, read, start, end, sent, arrived = np.array(found).reshape(-1, 6).T / 1e6
    engine, total = end - start, arrived - due
    parts = (total - (sent - read), sent - read - engine, engine, total - engine)
    return {"total": total, **dict(zip(PARTS, parts, strict=True))}


def measured(
    raw: str, refined: str, topics: Sequence[bytes], heartbeats: int, streams: int, fps: float, seconds: float
) -> tuple[NDArray[np.int64], int]:
    """The rows of `subscribe` [N, 10], and how many frames the publisher dropped."""
    publisher = publish, raw, cameras, (streams, fps, seconds), 10_000
    with load((publisher, (subscribe, refined, topics, heartbeats, streams))) as ((sent,), (received,)):
        dropped = sent.recv()
        return np.frombuffer(received.recv_bytes(), np.int64).reshape(-1, 10), dropped


def run(
    engine: str, fps: float, streams: int, lookaheads: Sequence[int], seconds: float
) -> tuple[NDArray[np.int64], int]:
    """One round of rtskel at the camera's rate."""
    names = [f"camera{s}" for s in range(streams)]
    topics = [wire.refined_topic(name, lookahead) for lookahead in lookaheads for name in names]
    with serving(engine, lookaheads, streams) as server:
        return measured(server.raw, server.refined, [*topics, *map(wire.event_topic, names)], 2, streams, fps, seconds)


def relay(engine: str | None, lookaheads: Sequence[int], control: Connection) -> None:
    """Forward every raw message with as many bytes as a refined pose has, after running the engine if there is one."""
    context = zmq.Context()
    raw, refined = context.socket(zmq.SUB), context.socket(zmq.XPUB)
    raw.subscribe(wire.RAW_PREFIX)
    raw.rcvhwm = refined.sndhwm = 100_000
    raw.bind("tcp://127.0.0.1:*")
    refined.bind("tcp://127.0.0.1:*")
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    opened_ = None if engine is None else opened(engine)
    if opened_ is not None:
        positions = ring_config(opened_.window, lookaheads).positions
        x = np.zeros((1, opened_.window, UPPER_BODY_50.joints, 3), np.float32)
        missing = np.zeros(x.shape[:3], np.bool_)
        opened_.run(x, missing, positions)  # some engines prepare in their first run
    control.send([bytes(socket.last_endpoint).rstrip(b"\0").decode() for socket in (raw, refined)])  # type: ignore[arg-type]
    refined.recv()  # the subscription
    while going:
        if not raw.poll(100):
            continue
        _, body = raw.recv_multipart()
        if opened_ is not None:
            opened_.run(x, missing, positions)
        refined.send_multipart((wire.refined_topic("camera0", 0), body.ljust(REFINED_BYTES)))
    context.destroy(linger=0)


def run_relay(
    engine: str | None, fps: float, streams: int, lookaheads: Sequence[int], seconds: float
) -> NDArray[np.float64]:
    """One round of pyzmq alone, or of pyzmq with the engine, in ms."""
    with started(relay, engine, lookaheads) as (process, connection):
        try:
            raw, refined = connection.recv()
            rows, _ = measured(raw, refined, [b""], 0, streams, fps, seconds)
        finally:
            process.terminate()
    _, _, slot, _, due, *_, arrived = rows.T
    return np.asarray((arrived - due)[slot >= round(fps)] / 1e6)


def measure(engine: str, fps: float, streams: int, one_at_a_time: float, options: Any) -> dict[str, Any]:
    """One case, `rounds` times: rtskel and its opponents alternately; the first second of each does not count."""
    seconds = max(options.seconds / streams, min(options.seconds, 4.0))
    how = fps, streams, options.lookahead, seconds
    opponents = {"relay": None} | ({"relay+engine": engine} if streams * fps <= one_at_a_time / 2 else {})
    turns, dropped, theirs = [], 0, {name: list[NDArray[np.float64]]() for name in opponents}
    for number in range(options.rounds):
        rows, more = run(engine, *how)
        turns.append(rows + np.eye(10, dtype=np.int64)[0] * number * streams)  # streams of their own
        dropped += more
        for name, with_engine in opponents.items():
            theirs[name].append(run_relay(with_engine, *how))
    rows, peers = np.concatenate(turns), {name: percentiles(np.concatenate(ms)) for name, ms in theirs.items()}
    lost = options.rounds * streams * round(seconds * fps) * len(options.lookahead) - len(rows)
    case = {"engine": engine, "fps": fps, "streams": streams, "poses_lost": lost, "frames_dropped": dropped}
    with opened(engine) as opened_:
        ring = ring_config(opened_.window, options.lookahead)
    of_ours: dict[str, dict[str, Any]] = {}
    for ahead in options.lookahead:
        parts = split(rows, ahead, ring.reach(ahead), round(fps))
        ms = {part: percentiles(times) for part, times in parts.items()}
        of_ours[str(ahead)] = {"lookahead_ms": ring.reach(ahead) / fps * 1e3, "ms": ms}
    least = of_ours[str(min(options.lookahead))]["ms"]
    added = {"around": ("added_around_ms", "relay"), "total": ("added_ms", "relay+engine")}
    return {**case, "lookaheads": of_ours, "peers_ms": peers} | {
        name: {column: least[part][column] - peers[peer][column] for column in COLUMNS}
        for part, (name, peer) in added.items()
        if peer in peers
    }


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """All cases that no engine is too slow for."""
    cases, left_out = [], []
    for engine in options.engine.split(","):
        rates = bare_engine(engine, [1, 16], options.lookahead)
        most = max(rates.values())
        for streams, fps in product(options.streams, options.fps):
            if streams * fps <= most / 2:
                cases.append(measure(engine, fps, streams, rates[1], options))
            else:
                why = f"left out, for the engine alone does {most:.0f} windows a second"
                left_out.append(f"{engine}, {streams} streams at {fps:g} fps: {why}")
    return {"cases": cases, "left_out": left_out}


def lines(result: dict[str, Any]) -> list[str]:
    """A table for each case."""
    text = []
    for case in result["cases"]:
        rows = {}
        for ahead, figures in case["lookaheads"].items():
            rows[f"lookahead {ahead} (+{figures['lookahead_ms']:.0f} ms)"] = figures["ms"]["total"]
            rows |= {f"  {part}{' ' * int(ahead)}": figures["ms"][part] for part in PARTS}
        rows |= case["peers_ms"] | {"added around, to relay": case["added_around_ms"]}
        rows |= {"added to relay+engine": case["added_ms"]} if "added_ms" in case else {}
        rows = {name: {column: row[column] for column in COLUMNS} for name, row in rows.items()}
        title = f"{case['engine']}, {case['streams']} streams at {case['fps']:g} fps; ms beyond the lookahead"
        lost = f"{case['poses_lost']} poses lost, {case['frames_dropped']} frames dropped by the publisher"
        text += [*table(title, rows), lost, ""]
    return [*text, *result["left_out"]]


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="null,bundled", help="null, bundled, or paths of engines, with commas")
    parser.add_argument("--fps", type=counts, default=[25, 60, 120], help="the camera's rate, or several with commas")
    parser.add_argument("--streams", type=counts, default=[1, 16, 256], help="number of streams; likewise")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round of one stream; of more: 4 or as many")
    parser.add_argument("--rounds", type=positive, default=3, help="of the server and of each opponent, alternately")
    parser.add_argument("--lookahead", type=frames_list, default=[0, 4], help="lookahead, or several with commas")
    return bench("latency", parser.parse_args(), measure_all, lines)


if __name__ == "__main__":
    raise SystemExit(main())
