"""Disks that are full and descriptors that are used up."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
from contextlib import ExitStack

import pytest

import rtskel as library
from rtskel.client import Publisher
from tests.faults.processes import PATIENCE, Neighbour, Reader, ServerProcess, clip, publisher, rtskel, undisturbed


def descriptors(most: int):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    return limit


@pytest.mark.parametrize("port", ["raw", "refined"])
def test_descriptors_used_up(port):
    """Whoever is served goes on to be; when there is room again, newcomers are let in."""
    with ServerProcess(before=descriptors(64)) as server, Neighbour(server) as neighbour:
        neighbour.served(10)
        neighbour.mark()
        host, number = getattr(server, port).removeprefix("tcp://").rsplit(":", 1)
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection((host, int(number)), timeout=5))
            neighbour.served(25)
        with Reader(server.refined) as reader, Publisher(server.raw, stream="late", fps=25) as sender:
            sender.wait_for_subscriber(PATIENCE)
            sender.send(clip(1)[0], seq=0)
            reader.until(lambda reader: reader.select("late", 0))
        neighbour.check()


def file_size(most: int):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return limit


@pytest.mark.parametrize("suffix", [".npz", ".jsonl", ".csv"])
def test_a_disk_that_is_full(suffix, tmp_path):
    """It is said, and the exit status is an error's; what is written stays readable; the server does not notice."""
    path = tmp_path / f"out{suffix}"
    with ServerProcess() as server, undisturbed(server), publisher(server, "a") as sender:
        with subprocess.Popen(
            rtskel("subscribe", "--refined", server.refined, "--save", path, "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=file_size(20_000),
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            for n in range(60):
                sender.send(clip(100)[n], seq=n)
            poses = 0
            while poses < 100 and (line := process.stdout.readline()):
                poses += '"pose"' in line and '"a"' in line
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode in (1, 2)
        assert "Traceback" not in said
        assert str(path) in said or path.name in said
        if path.exists():
            assert library.read(path)
