"""Processes that are stopped for a while: SIGSTOP and SIGCONT, as a suspended laptop or a debugger does."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.faults.processes import Neighbour, Reader, ServerProcess, clip, publisher
from tests.faults.test_kills import PUBLISH, SUBSCRIBE, running, stopped


def pause(seconds: float) -> None:
    """The length of the fault itself: nothing is waited for."""
    threading.Event().wait(seconds)


def test_a_publisher_and_a_subscriber_for_ten_seconds():
    with ServerProcess() as server, Neighbour(server) as neighbour, Reader(server.refined, streams="other") as reader:
        others = [running(PUBLISH, server.raw, "other"), running(SUBSCRIBE, server.refined, "reads all")]
        try:
            neighbour.served(10)
            neighbour.mark()
            for process in others:
                process.send_signal(signal.SIGSTOP)
            neighbour.served(250)
            for process in others:
                process.send_signal(signal.SIGCONT)
            reader.until(lambda reader: "stale" in reader.kinds("other"), "stale")
            seen = len(reader.poses)
            reader.until(lambda reader: len(reader.poses) > seen + 20, "poses again")
            assert all(process.poll() is None for process in others)
            neighbour.check()
        finally:
            for process in others:
                stopped(process)


@pytest.mark.parametrize("seconds", [1.5, 3.0])
def test_a_server_loses_nothing_that_waited_for_it(seconds):
    """Frames that were sent meanwhile are neither late nor missing: only the time in which the server ran counts."""
    with ServerProcess("--slack-ms", 300) as server, Reader(server.refined) as reader, publisher(server, "a") as sender:
        frames = clip(400)
        for n in range(20):
            sender.send(frames[n], seq=n)
        reader.until(lambda reader: len(reader.select("a", 0)) == 20)
        server.send(signal.SIGSTOP)
        for n in range(20, 20 + round(25 * seconds)):
            pause(1 / 25)
            sender.send(frames[n], seq=n)
        server.send(signal.SIGCONT)
        for k in range(n + 1, n + 11):
            sender.send(frames[k], seq=k)
        sender.end()
        reader.until(lambda reader: "end" in reader.kinds("a"), "the end")
        for lookahead in (0, 4):
            poses = reader.select("a", lookahead)
            assert [pose.source_seq for pose in poses] == list(range(n + 11))
            assert all(pose.receive_ns for pose in poses), "frames that waited were given up"
        assert reader.counts().get("late", 0) == 0


def test_a_server_for_three_seconds_beside_a_steady_neighbour():
    with ServerProcess() as server, Neighbour(server) as neighbour:
        neighbour.served(10)
        server.send(signal.SIGSTOP)
        pause(3)
        server.send(signal.SIGCONT)
        neighbour.served(30)
        neighbour.mark()
        neighbour.served(10)
        neighbour.check()
