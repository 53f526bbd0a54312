"""What do shards give, and what would a broker cost? Frames a second, CPU time a frame, and latency.

Servers of the engine `null`, as `rtskel serve` starts them, in these arrangements:

    alone       one server, as clients reach it without shards
    2 shards    two of them behind one pair of endpoints; clients go to the stream's own
    broker      one server behind libzmq's proxy, as all streams would pass through: the hop that shards go without

*Throughput*: a publisher and a subscriber for each server, in processes of their own, as fast as the server takes the
frames; these share the cores with the servers, so wall time says what this machine does with all of them, and CPU time
of the servers what each frame costs, wherever it runs. The first quarter warms up and does not count. *Latency*: the
clients of the library, at the camera's rate; from the time a frame was due to its pose of lookahead 0 at the reader.
The arrangements are measured in turn, so that a change of the machine's load affects all of them.

    python bench/shards.py --save shards                  # some ten minutes
    python bench/shards.py --frames 20000 --seconds 3 --rounds 1        # to see that it works
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np
import zmq
from measure.loads import Messages, publish, subscribed
from measure.poses import body, frame
from measure.processes import Service, command_line, started
from measure.report import arguments, percentiles, report, table

from rtskel import wire
from rtskel.cli import positive
from rtskel.client import Publisher, Subscriber
from rtskel.wire import RefinedPose

ARRANGEMENTS = {"alone": 1, "2 shards": 2, "broker": 1}
"""How many servers each has."""

FPS = 25.0


@contextmanager
def serving(arrangement: str, streams: int, lookahead: int) -> Iterator[Service]:
    """Servers in that arrangement."""
    options = "--engine", "null", "--slack-ms", 5000, "--max-streams", streams, "--lookahead", lookahead
    with command_line(*options, "--shards", ARRANGEMENTS[arrangement]) as service:
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


# --- throughput -------------------------------------------------------------------------------------------------------


def frames_of(names: Sequence[str], frames: int) -> Messages:
    """`frames` frames of these streams, a message each, interleaved, encoded beforehand; and the streams' ends."""
    pose = body()
    messages = [frame((name,), k, pose) for k in range(frames) for name in names]
    messages += [wire.encode(wire.StreamEnd(name, 1, frames, 0, "bench")) for name in names]
    return ((message, 0) for message in messages)


def count_poses(endpoint: str, names: Sequence[str], lookahead: int, warm_up: int, control: Connection) -> None:
    """Takes the poses without decoding them; tells when those of the warm-up have come, and all."""
    topics = [topic for name in names for topic in (wire.event_topic(name), wire.refined_topic(name, lookahead))]
    with subscribed(endpoint, [*topics, wire.HEARTBEAT_TOPIC]) as socket:
        for _ in range(2):  # heartbeats; at the second one all other subscriptions are in force, in whatever order
            socket.recv_multipart()
        control.send("ready")
        got, ends, warm = 0, 0, False
        while ends < len(names) and socket.poll(60_000):
            topic, data = socket.recv_multipart()
            if topic.startswith(wire.EVENT_PREFIX):
                ends += msgpack.unpackb(data)["event"] == "end"
            elif topic.startswith(wire.REFINED_PREFIX):
                got += 1
                if got >= warm_up and not warm:
                    warm = True
                    control.send(time.monotonic())
        control.send((time.monotonic(), got))


def throughput(arrangement: str, streams: int, frames: int, lookahead: int) -> dict[str, float]:
    """One run at saturation."""
    names = [f"s{k}" for k in range(streams)]
    with serving(arrangement, streams, lookahead) as servers, ExitStack() as stack:
        numbers = wire.shard_names(len(servers.servers))
        shares = [[name for name in names if wire.choose(name, numbers) == which] for which in range(len(numbers))]
        readers, writers = [], []
        for (raw, refined), share in zip(servers.servers, shares, strict=True):
            warm_up = len(share) * (frames // 4)
            readers.append(stack.enter_context(started(count_poses, refined, share, lookahead, warm_up))[1])
            writers.append(stack.enter_context(started(publish, raw, frames_of, (share, frames), 1000))[1])
        for each in (*readers, *writers):
            each.recv()
        for each in writers:
            each.send("go")
        begin = max(reader.recv() for reader in readers)
        before = servers.cpu_seconds()
        ends = [reader.recv() for reader in readers]
        used = servers.cpu_seconds() - before
        for each in writers:
            each.recv()
            each.send("done")
    counted = streams * (frames - frames // 4)
    return {
        "frames_per_second": counted / (max(end for end, _ in ends) - begin),
        "cpu_us": used / counted * 1e6,
        "poses_lost": streams * frames - sum(got for _, got in ends),
    }


# --- latency ----------------------------------------------------------------------------------------------------------


def cameras(raw: str, streams: int, seconds: float, control: Connection) -> None:
    """Every stream at the camera's rate, spread over the period."""
    pose = body()
    with ExitStack() as stack:
        first = stack.enter_context(Publisher(raw, stream="s0", fps=FPS))
        senders = [first, *(stack.enter_context(first.sibling(f"s{k}")) for k in range(1, streams))]
        for sender in senders:
            sender.wait_for_subscriber(30)
        control.send("ready")
        control.recv()
        begin = time.monotonic_ns() + 100_000_000
        for n in range(round(seconds * FPS)):
            for k, sender in enumerate(senders):
                due = begin + round((n + k / streams) / FPS * 1e9)
                time.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
                sender.send(pose, seq=n, time_ns=due)
    control.send(sum(sender.dropped for sender in senders))


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
        lost = sum(subscriber.lost.values())
    control.send((late, lost))


def latency(arrangement: str, streams: int, seconds: float) -> dict[str, Any]:
    """One run at the cameras' rate: milliseconds, and what was lost."""
    with serving(arrangement, streams, 0) as servers, started(read, servers.refined, streams) as (_, received):
        received.recv()
        with started(cameras, servers.raw, streams, seconds) as (_, sent):
            sent.recv()
            sent.send("go")
            dropped = sent.recv()
        late, lost = received.recv()
    return {"ms": late, "poses_lost": lost, "frames_dropped": dropped}


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--streams", type=positive, default=64, help="of the throughput")
    parser.add_argument("--frames", type=positive, default=120_000, help="of all streams together, about")
    parser.add_argument("--cameras", type=positive, default=16, help="streams of the latency")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a round of latency")
    parser.add_argument("--rounds", type=positive, default=5, help="of each arrangement, in turn")
    options = parser.parse_args()
    rates: dict[str, list[dict[str, float]]] = defaultdict(list)
    times: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(options.rounds):
        for name in ARRANGEMENTS:
            rates[name].append(throughput(name, options.streams, max(40, options.frames // options.streams), 4))
            times[name].append(latency(name, options.cameras, options.seconds))
    result, lines = summary(rates, times, options)
    report({"bench": "shards", **result}, lines, options)


def summary(
    rates: dict[str, list[dict[str, float]]], times: dict[str, list[dict[str, Any]]], options: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """All rounds as a result and as lines of a table."""
    rows, late = {}, {}
    for name, rounds in rates.items():
        late[name] = percentiles(np.concatenate([each["ms"] for each in times[name]]))
        late[name]["poses_lost"] = sum(each["poses_lost"] + each["frames_dropped"] for each in times[name])
        cpu = statistics.median(each["cpu_us"] for each in rounds)
        rows[name] = {
            "frames/s": statistics.median(each["frames_per_second"] for each in rounds),
            "CPU us/frame": cpu,
            "frames/s a core": 1e6 / cpu,
            "p50 ms": late[name]["p50"],
            "p99 ms": late[name]["p99"],
            "lost": sum(each["poses_lost"] for each in rounds) + late[name]["poses_lost"],
        }
    hop = {
        "cpu_us": rows["broker"]["CPU us/frame"] - rows["alone"]["CPU us/frame"],
        "p50_ms": rows["broker"]["p50 ms"] - rows["alone"]["p50 ms"],
        "p99_ms": rows["broker"]["p99 ms"] - rows["alone"]["p99 ms"],
    }
    lines = [
        f"engine null; {options.streams} streams at saturation, {options.cameras} at {FPS:g} fps; medians of "
        f"{options.rounds} rounds",
        *table("arrangement", rows, ".1f"),
        f"a hop through a broker: {hop['cpu_us']:.1f} us of CPU a frame, {hop['p50_ms']:.2f} ms p50, "
        f"{hop['p99_ms']:.2f} ms p99",
    ]
    return {"rows": rows, "hop": hop, "rounds": rates, "latency_ms": late}, lines


if __name__ == "__main__":
    main()
