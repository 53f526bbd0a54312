"""Slow and dead readers: they lose poses, and nobody else notices."""

from __future__ import annotations

import numpy as np
import pytest

from rtskel import wire
from tests.faults.processes import Neighbour, Reader, ServerProcess, clip, publisher
from tests.faults.test_kills import SUBSCRIBE, running, stopped
from tests.hostile.zmtp import Peer

SLOW = """
import sys, time
from rtskel.client import Subscriber
with Subscriber(sys.argv[1], queue=16) as s:
    for n, message in enumerate(s):
        if n == 0: print(flush=True)
        time.sleep(0.2)
"""


@pytest.mark.parametrize("kind", ["reads nothing", "reads slowly", "reads nothing from the socket"])
def test_a_reader_that_does_not_keep_up(kind):
    with ServerProcess() as server, Neighbour(server) as neighbour, publisher(server, "fast", fps=500) as sender:
        neighbour.served(10)
        process = peer = None
        if kind == "reads nothing from the socket":
            peer = Peer(server.refined)
            peer.send(peer.frame(b"\1" + wire.REFINED_PREFIX))
        else:
            process = running(SLOW if kind == "reads slowly" else SUBSCRIBE, server.refined, kind)
        neighbour.mark()
        sent = 0
        frames, memory = clip(400), []
        for _ in range(50):
            for _ in range(40):
                sender.send(frames[sent % 400], seq=sent)
                sent += 1
            neighbour.served(1)
            memory.append(server.memory())
        assert memory[-1] < memory[25] + 60
        neighbour.check()
        if process is not None:
            stopped(process)
        if peer is not None:
            peer.close()


def test_many_readers_come_and_go():
    with ServerProcess() as server, Neighbour(server) as neighbour, Reader(server.refined) as reader:
        neighbour.served(10)
        neighbour.mark()
        descriptors, memory = server.descriptors(), server.memory()
        for _ in range(10):
            for peer in [Peer(server.refined) for _ in range(30)]:
                peer.send(peer.frame(b"\1" + wire.REFINED_PREFIX))
                peer.close()
            neighbour.served(2)
        reader.until(lambda _: server.descriptors() <= descriptors, "descriptors are given back")
        assert server.memory() < memory + 50
        neighbour.check()


def test_a_reader_that_comes_back_says_what_it_missed():
    with ServerProcess() as server, publisher(server, "a") as sender:
        with Reader(server.refined, lookahead=0) as first:
            for n in range(10):
                sender.send(clip(100)[n], seq=n)
            first.until(lambda reader: len(reader.select("a", 0)) == 10)
        with Reader(server.refined, lookahead=0) as second:
            for n in range(10, 20):
                sender.send(clip(100)[n], seq=n)
            second.until(lambda reader: 19 in [pose.source_seq for pose in reader.select("a", 0)])
            assert np.all(np.diff([pose.seq for pose in second.select("a", 0)]) == 1)
