"""What do shards give, and what would a broker cost? Frames a second, CPU time a frame, and latency.

Servers of the engine `null`, as `rtskel serve` starts them, in these arrangements:

    alone       one server, as clients reach it without shards
    2 shards    two of them behind one pair of endpoints; clients go to the stream's own
    broker      one server behind libzmq's proxy, as all streams would pass through: the hop that shards go without

*Throughput*: a publisher and a subscriber for each server, in processes of their own, as fast as the server takes the
frames; they share the cores with the servers, so wall time says what this machine does with all of them, and CPU time
of the servers what each frame costs, wherever it runs. *Latency*: the clients of the library, at the camera's rate;
from the time a frame was due to its pose of lookahead 0 at the reader. The arrangements are measured in turn, so that a
change of the machine's load affects all of them.

    python bench/shards.py --save shards                  # some ten minutes
    python bench/shards.py --frames 20000 --seconds 3 --rounds 1        # to see that it works
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq
from measure.loads import live, load, saturated
from measure.poses import groups_of
from measure.processes import Service, serving, started
from measure.report import arguments, bench, percentiles, table

from rtskel import wire
from rtskel.cli import positive
from rtskel.client import Subscriber
from rtskel.wire import RefinedPose

ARRANGEMENTS = {"alone": 1, "2 shards": 2, "broker": 1}
"""How many servers each has."""

FPS = 25.0


@contextmanager
def arranged(arrangement: str, streams: int, lookahead: int) -> Iterator[Service]:
    """Servers in that arrangement."""
    options = "--slack-ms", 5000, "--shards", ARRANGEMENTS[arrangement]
    with serving("null", [lookahead], streams, *options) as service:
        if arrangement != "broker":
            yield service
            return
        with started(broker, service.raw, service.refined) as (proxy, connection):
            raw, refined = connection.recv()
            yield Service(raw, refined, [(raw, refined)], [*service.processes, proxy.pid])
            proxy.terminate()


def broker(raw: str, refined: str, control: Connection) -> None:
    """The proxy of libzmq before a server: frames one way, poses the other."""
    context = zmq.Context()
    ends = []
    for kinds, server in (((zmq.XSUB, zmq.XPUB), raw), ((zmq.XPUB, zmq.XSUB), refined)):
        front, back = map(context.socket, kinds)
        for socket in (front, back):
            socket.sndhwm = socket.rcvhwm = 10_000
            if socket.type == zmq.XPUB:
                socket.xpub_nodrop = True
        front.bind("tcp://127.0.0.1:*")
        back.connect(server)
        ends.append(bytes(front.last_endpoint).rstrip(b"\0").decode())  # type: ignore[arg-type]
        threading.Thread(target=zmq.proxy, args=(front, back), daemon=True).start()
    control.send((ends[0], ends[1]))
    threading.Event().wait()


def throughput(arrangement: str, streams: int, frames: int) -> dict[str, float]:
    """One run at saturation."""
    with arranged(arrangement, streams, 4) as service:
        return saturated(service, streams, 1, frames, [4])


def read(refined: str, streams: int, control: Connection) -> None:
    """When each pose has come, in ms after its frame was due; those of the first second left out."""
    late, ended = [], 0
    with Subscriber(refined, lookahead=0, everything=True) as subscriber:
        subscriber.wait_for_server(30)
        control.send("ready")
        while ended < streams:
            message = subscriber.recv(60)
            if isinstance(message, RefinedPose):
                if message.seq >= FPS:
                    late.append((time.monotonic_ns() - message.source_time_ns) / 1e6)
            elif isinstance(message, wire.Event):
                ended += message.kind == "end"
        control.send((late, sum(subscriber.lost.values())))


def latency(arrangement: str, streams: int, seconds: float) -> dict[str, Any]:
    """One run at the cameras' rate: milliseconds, and what was lost."""
    groups = groups_of([f"s{k}" for k in range(streams)], 1)
    with arranged(arrangement, streams, 0) as service:
        cameras = live, service.raw, groups, FPS, round(seconds * FPS), 0.0
        with load((cameras, (read, service.refined, streams))) as ((sent,), (received,)):
            _, _, dropped = sent.recv()
            late, lost = received.recv()
    return {"ms": late, "poses_lost": lost + dropped}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All arrangements in turn, and what the hop through the broker costs."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ARRANGEMENTS}
    times: dict[str, list[dict[str, Any]]] = {name: [] for name in ARRANGEMENTS}
    for _ in range(options.rounds):
        for name in ARRANGEMENTS:
            rounds[name].append(throughput(name, options.streams, max(40, options.frames // options.streams)))
            times[name].append(latency(name, options.cameras, options.seconds))
    return {"streams": options.streams, "cameras": options.cameras, **summary(rounds, times)}


def summary(rates: dict[str, list[dict[str, float]]], times: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of the rounds at saturation, percentiles of all poses at the cameras' rate."""
    late = {name: percentiles(np.concatenate([each["ms"] for each in of])) for name, of in times.items()}
    rows = {
        name: {
            "frames/s": statistics.median(each["frames_per_second"] for each in rounds),
            "CPU us/frame": statistics.median(each["cpu_us"] for each in rounds),
            "p50 ms": late[name]["p50"],
            "p99 ms": late[name]["p99"],
            "lost": sum(each["poses_lost"] for each in (*rounds, *times[name])),
        }
        for name, rounds in rates.items()
    }
    hop = {column: rows["broker"][column] - rows["alone"][column] for column in ("CPU us/frame", "p50 ms", "p99 ms")}
    return {"rows": rows, "hop": hop, "rounds": rates, "latency_ms": late}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as a table."""
    title = f"{result['streams']} streams at saturation, {result['cameras']} at {FPS:g} fps"
    return table(title, result["rows"] | {"a hop through the broker": result["hop"]}, ".2f")


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--streams", type=positive, default=64, help="of the throughput")
    parser.add_argument("--frames", type=positive, default=120_000, help="of all streams together, about")
    parser.add_argument("--cameras", type=positive, default=16, help="streams of the latency")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a round of latency")
    parser.add_argument("--rounds", type=positive, default=5, help="of each arrangement, in turn")
    return bench("shards", parser.parse_args(), measure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
