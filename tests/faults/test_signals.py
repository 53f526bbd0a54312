"""The end: what was received is refined and sent, within a time that is stated; a second signal ends at once."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress

import numpy as np
import pytest

from rtskel.client import GroupPublisher
from rtskel.engine import open_engine
from rtskel.refine import refine
from tests.faults.processes import ANY, PATIENCE, Reader, ServerProcess, clip, publisher, rtskel


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_what_was_received_comes_out(number):
    frames = 40
    with ServerProcess() as server, Reader(server.refined, batches=True) as reader:
        with GroupPublisher(server.raw, group="g", fps=25, linger=0.1) as sender:
            sender.wait_for_subscriber(PATIENCE)
            names = [f"s{k}" for k in range(32)]
            for n in range(frames):
                assert sender.send(names, np.stack([clip(60)[n]] * 32), seq=n, block=True)
            reader.until(lambda reader: len(reader.select("s31", 0)) == frames)
            server.send(number)
            reader.until(lambda reader: sum(event.kind == "end" for event in reader.events) == 32, "all ends")
            server.process.wait(PATIENCE)
        assert server.process.returncode == (130 if number == signal.SIGINT else 0)
        for lookahead in (0, 4):
            with open_engine("null") as engine:
                expected = refine(clip(60)[:frames], engine=engine, lookahead=lookahead)
            for name in names:
                poses = reader.select(name, lookahead)
                assert [pose.seq for pose in poses] == list(range(frames))
                np.testing.assert_array_equal(np.array([pose.xyz for pose in poses]), expected)


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_second_signal_ends_at_once(numbers):
    with ServerProcess() as server, publisher(server, "a") as sender:
        sender.send(clip(1)[0], seq=0)
        began = time.monotonic()
        for number in numbers:
            server.send(number)
        server.process.wait(PATIENCE)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("after", [0.1, 0.6])
def test_a_signal_while_it_starts(number, after):
    """It ends and says no more than one line, whatever it was doing at that moment."""
    with subprocess.Popen(
        rtskel("serve", "--raw", ANY, "--refined", ANY, "--engine", "null", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(after)
        process.send_signal(number)
        try:
            _, said = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert "Traceback" not in said
    assert process.returncode in (0, -number), said
