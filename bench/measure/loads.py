"""Publishers and subscribers as load for servers, each in a process of its own."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np
import zmq

from measure.poses import frame, groups_of
from measure.processes import Service, started
from rtskel import wire
from rtskel.client import GroupPublisher
from rtskel.training.synthesize import estimator_errors, synthesize

Messages = Iterable[tuple[Sequence[Any], int]]
"""Messages, as parts, and the flags to send them with; NOBLOCK: a message that does not fit is dropped and counted."""

Function = tuple[Any, ...]
"""A function and its arguments, for a process that says when it is ready; its last argument, a connection, is added."""


@contextmanager
def load(*ends: tuple[Function, Function]) -> Iterator[tuple[list[Connection], list[Connection]]]:
    """Publishers and subscribers, in pairs, once all are ready and the publishers were told to send."""
    with ExitStack() as stack:
        readers = [stack.enter_context(started(*reader))[1] for _, reader in ends]
        for each in readers:
            each.recv()
        writers = [stack.enter_context(started(*writer))[1] for writer, _ in ends]
        for each in writers:
            each.recv()
        for each in writers:
            each.send("go")
        yield writers, readers
        for each in writers:
            each.send("done")


def publish(endpoint: str, messages: Callable[..., Messages], given: tuple[Any, ...], high: int, control: Any) -> None:
    """Send messages once the server has subscribed and we are told to; send how many were dropped."""
    made = messages(*given)
    context = zmq.Context()
    gc.disable()
    with context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.setsockopt(zmq.SNDHWM, high)
        socket.connect(endpoint)
        socket.recv()  # the server's subscription
        control.send("ready")
        control.recv()
        dropped = 0
        for parts, flags in made:
            try:
                socket.send_multipart(parts, flags, copy=False)
            except zmq.Again:
                dropped += 1
        control.send(dropped)
        control.recv()
    context.term()


@contextmanager
def subscribed(endpoint: str, topics: Sequence[bytes], heartbeats: int = 2) -> Iterator[zmq.Socket[bytes]]:
    """A socket without high-water marks (for subscriptions too) that subscribes to these topics.

    Args:
        heartbeats: to wait for; at the second one all other subscriptions are in force, in whatever order they went.
    """
    context = zmq.Context()
    gc.disable()
    with context.socket(zmq.SUB) as socket:
        socket.rcvhwm = socket.sndhwm = 0
        for topic in [*topics, wire.HEARTBEAT_TOPIC] if heartbeats else topics:
            socket.subscribe(topic)
        socket.connect(endpoint)
        for _ in range(heartbeats):
            socket.recv_multipart()
        yield socket
    context.term()


# As fast as servers take the frames


def saturated(
    service: Service, streams: int, people: int, frames: int, lookaheads: list[int], *, aside: bool = False
) -> dict[str, float]:
    """Frames a second, CPU time of the servers in us a frame (of their main threads: `loop_us`), and poses lost.

    Each server has a publisher and a subscriber of its own. The first quarter of the frames warms up and does not
    count.

    Args:
        people: streams that share a message; with several, poses are taken in batches, too.
        frames: of each stream.
        aside: publishers and subscribers share the last core, so that they leave the others to the server.
    """
    names, shards = [f"s{k}" for k in range(streams)], wire.shard_names(len(service.servers))
    ends: list[tuple[Function, Function]] = []
    for which, (raw, refined) in enumerate(service.servers):
        share = [name for name in names if wire.choose(name, shards) == which]
        warm_up = len(share) * len(lookaheads) * (frames // 4)
        reader = count, refined, share, people, lookaheads, warm_up, aside
        ends.append(((publish, raw, frames_of, (share, people, frames, aside), 1000), reader))
    with load(*ends) as (_, readers):
        begin = max(reader.recv() for reader in readers)
        before = service.cpu_seconds()
        last, got = zip(*(reader.recv() for reader in readers), strict=True)
        after = service.cpu_seconds()
    counted, seconds = streams * (frames - frames // 4), max(last) - begin
    return {
        "frames": counted,
        "poses_lost": streams * frames * len(lookaheads) - sum(got),
        "frames_per_second": counted / seconds,
        "wall_us": seconds / counted * 1e6,
        "cpu_us": (after["process"] - before["process"]) / counted * 1e6,
        "loop_us": (after["loop"] - before["loop"]) / counted * 1e6,
    }


def stay(aside: bool) -> None:
    """Keeps this process on the last core, if it is to be aside."""
    if aside:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])


def frames_of(names: Sequence[str], people: int, frames: int, aside: bool) -> Messages:
    """`frames` frames of these streams, interleaved, encoded beforehand; and the streams' ends."""
    stay(aside)
    groups = groups_of(names, people)
    messages = [frame(group, k) for k in range(frames) for group in groups]
    messages += [wire.encode(wire.StreamEnd(name, 1, frames, 0, "bench")) for name in names]
    return ((message, 0) for message in messages)


def count(
    endpoint: str,
    names: Sequence[str],
    people: int,
    lookaheads: list[int],
    warm_up: int,
    aside: bool,
    control: Connection,
) -> None:
    """Takes poses without decoding them; tells when those of the warm-up have come, and when all, and how many."""
    stay(aside)
    topics = [wire.event_topic(name) for name in names]
    for lookahead in lookaheads:
        single = [wire.refined_topic(name, lookahead) for name in names]
        topics += single if people == 1 else [wire.refined_batch_topic(lookahead)]
    with subscribed(endpoint, topics) as socket:
        control.send("ready")
        got, ends, warm = 0, 0, False
        while ends < len(names) and socket.poll(60_000):
            topic, data = socket.recv_multipart()
            if topic.startswith(wire.EVENT_PREFIX):
                ends += msgpack.unpackb(data)["event"] == "end"
            elif topic.startswith(wire.REFINED_BATCH_PREFIX):
                got += msgpack.unpackb(data)["batch"][2]
            elif topic.startswith(wire.REFINED_PREFIX):
                got += 1
            if got >= warm_up and not warm:
                warm = True
                control.send(time.monotonic())
        control.send((time.monotonic(), got))


# In real time


def live(
    endpoint: str, groups: list[tuple[str, ...]], fps: float, frames: float, dropped: float, control: Connection
) -> None:
    """People as cameras and estimators deliver them, from "go" on: so many frames, or until told to end.

    A group shares a message; groups are spread over the period. Sends how many frames of each stream there were, how
    many were left out, and how many could not be sent.

    Args:
        dropped: probability that a frame of a stream is left out. The first and the last frame of each are sent, so
            that all streams have the same slots.
    """
    takes = [estimator_errors(synthesize(10, fps, seed), seed) for seed in range(min(8, max(map(len, groups))))]
    length = min(take.frames for take in takes)
    xyz, confidence = (
        np.stack([getattr(take, of)[:length] for take in takes], 1) for of in ("xyz", "confidence")
    )  # [N, P, J, 3], [N, P, J]
    random, left_out, n = np.random.default_rng(0), 0, 0
    with ExitStack() as stack:
        publishers = [stack.enter_context(GroupPublisher(endpoint, group=names[0], fps=fps)) for names in groups]
        for publisher in publishers:
            publisher.wait_for_subscriber(30)
        control.send("ready")
        control.recv()
        begin = time.monotonic_ns() + 100_000_000
        while n < frames and not control.poll():
            for k, (publisher, names) in enumerate(zip(publishers, groups, strict=True)):
                due = begin + round((n + k / len(groups)) / fps * 1e9)
                time.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
                here = [j for j in range(len(names)) if random.random() >= dropped or n == 0 or n + 1 == frames]
                left_out += len(names) - len(here)
                if here:
                    who = np.array(here) % len(takes)
                    poses = xyz[n % length, who], confidence[n % length, who]
                    publisher.send([names[j] for j in here], *poses, seq=n, time_ns=due)
            n += 1
        unsent = sum(publisher.dropped for publisher in publishers)
    control.send((n, left_out, unsent))
    control.recv()
