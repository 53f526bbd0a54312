"""kill -9 and restart of a server, of publishers and of subscribers."""

from __future__ import annotations

import signal
import subprocess

import numpy as np
import pytest

from rtskel.engine import open_engine
from rtskel.refine import refine
from rtskel.wire import Flag
from tests.faults.processes import (
    PATIENCE,
    ROOT,
    Neighbour,
    Reader,
    ServerProcess,
    clip,
    publisher,
    python,
    rtskel,
    undisturbed,
    wait_for,
)

PUBLISH = f"""
import sys, time; sys.path.append({str(ROOT)!r})
from rtskel.client import Publisher
from tests.faults.processes import clip
with Publisher(sys.argv[1], stream=sys.argv[2], fps=25) as p:
    p.wait_for_subscriber(30)
    begin = time.monotonic()
    for n, xyz in enumerate(clip(2000)):
        time.sleep(max(0, begin + n / 25 - time.monotonic()))
        p.send(xyz, seq=n)
        if n == 0: print(flush=True)
"""

SUBSCRIBE = """
import sys
from rtskel.client import Subscriber
with Subscriber(sys.argv[1]) as s:
    for n, message in enumerate(s):
        if n == 0: print(flush=True)
        if sys.argv[2] == "reads nothing": sys.stdin.read()
"""


def running(code: str, *arguments: object) -> subprocess.Popen:
    """A process that has said that it works."""
    process = subprocess.Popen(python("-c", code, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def stopped(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("times", [1, 3])
def test_a_publisher_that_is_killed_and_comes_again(times):
    with ServerProcess("--slack-ms", 200) as server, Reader(server.refined, streams="other") as reader:
        for life in range(times):
            process = running(PUBLISH, server.raw, "other")
            reader.until(lambda reader, life=life: len(reader.select("other")) >= 20 * (life + 1))
            stopped(process)
            reader.until(lambda reader: reader.kinds("other")[-1] == "stale", "stale")
        process = running(PUBLISH, server.raw, "other")
        seen = len(reader.select("other"))
        reader.until(lambda reader: len(reader.select("other")) >= seen + 20)
        stopped(process)
        assert server.alive
        first = reader.select("other")[seen]
        assert first.flags & Flag.RESET
        assert first.source_seq == 0


def test_publishers_that_are_killed_do_not_disturb_others():
    with ServerProcess() as server, undisturbed(server) as neighbour:
        for n in range(3):
            process = running(PUBLISH, server.raw, f"other{n}")
            neighbour.served(5)
            stopped(process)


@pytest.mark.parametrize("kind", ["reads all", "reads nothing"])
def test_subscribers_that_are_killed_do_not_disturb_others(kind):
    with ServerProcess() as server, undisturbed(server) as neighbour:
        before = server.descriptors()
        for _ in range(3):
            process = running(SUBSCRIBE, server.refined, kind)
            neighbour.served(5)
            stopped(process)
        wait_for(lambda: server.descriptors() <= before, "its descriptors are given back")


def test_a_server_that_is_killed_and_comes_again():
    """Everybody goes on with the new one, and is told that it is another."""
    with ServerProcess() as first:
        raw, refined = first.raw, first.refined
        with Reader(refined) as reader, publisher(first, "a") as sender:
            for n in range(20):
                sender.send(clip(100)[n], seq=n)
            reader.until(lambda reader: len(reader.select("a", 4)) >= 16)
            epoch = reader.poses[0].epoch
            first.send(signal.SIGKILL)
            first.process.wait(PATIENCE)
            wait_for(lambda: not sender.has_subscriber, "the publisher knows")
            assert not sender.send(clip(100)[20], seq=20)
            assert sender.dropped >= 1  # and what the server had not said that it took
            with ServerProcess(raw=raw, refined=refined) as second:
                sender.wait_for_subscriber(PATIENCE)
                reader.until(lambda reader: reader.heartbeats[-1].epoch != epoch, "the new server's heartbeat")
                for n in range(21, 60):
                    sender.send(clip(100)[n], seq=n)
                sender.end()
                reader.until(lambda reader: "end" in reader.kinds("a"), "the end")
                kinds = [event.kind for event in reader.events if event.stream == "a" and event.epoch != epoch]
                assert kinds[0] == "start"
                for lookahead in (0, 4):
                    poses = [pose for pose in reader.select("a", lookahead) if pose.epoch != epoch]
                    assert poses[0].flags & Flag.RESET
                    slots = [pose.source_seq for pose in poses]
                    assert slots == list(range(slots[0], 60))
                    assert slots[0] in (0, 21 - lookahead)  # nothing is known before
                    came = np.full((60, 50, 3), np.nan, np.float32)
                    came[21:] = clip(100)[21:60]
                    with open_engine("null") as engine:
                        expected = refine(came, engine=engine, lookahead=lookahead)[slots[0] :]
                    np.testing.assert_array_equal(np.array([pose.xyz for pose in poses]), expected)
                assert second.alive


def test_a_reader_is_told_of_a_server_that_died_and_of_the_next():
    """`rtskel subscribe --until-end` does not wait for a server that is gone without a word."""
    with ServerProcess() as server:
        command = rtskel("subscribe", "--refined", server.refined, "--until-end", "--json")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            with publisher(server, "a") as sender:
                for n in range(10):
                    sender.send(clip(100)[n], seq=n)
                while '"pose"' not in process.stdout.readline():
                    pass
                server.send(signal.SIGKILL)
                server.process.wait(PATIENCE)
            try:
                process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
            assert process.returncode == 1


@pytest.mark.parametrize("port", ["raw", "refined"])
def test_a_second_server_does_not_take_the_path_of_a_living_one(port, tmp_path):
    raw, refined = f"ipc://{tmp_path}/raw", f"ipc://{tmp_path}/refined"
    with ServerProcess(raw=raw, refined=refined) as server, Neighbour(server) as neighbour:
        neighbour.served(10)
        neighbour.mark()
        with pytest.raises(RuntimeError, match="listens"), ServerProcess(**{port: f"ipc://{tmp_path}/{port}"}):
            pass
        neighbour.served(10)
        neighbour.check()
