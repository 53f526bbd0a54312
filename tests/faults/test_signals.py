"""The end: what was received is refined and sent, within a time that is stated; a second signal ends at once."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from rtskel.client import GroupPublisher, Subscriber
from rtskel.engine import open_engine
from rtskel.refine import refine
from tests.faults import faulty
from tests.faults.processes import ANY, PATIENCE, Reader, ServerProcess, clip, publisher, python, rtskel, wait_for
from tests.faults.test_overload import slow_server


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


def test_a_reader_that_never_reads_does_not_hold_up_the_end():
    """What it does not take is given up after the time for the last messages; others have everything."""
    with (
        ServerProcess() as server,
        Subscriber(server.refined, queue=1, heartbeats=True) as dead,
        Reader(server.refined, batches=True) as reader,
    ):
        dead.wait_for_server(PATIENCE)
        with GroupPublisher(server.raw, group="g", fps=25) as sender:
            sender.wait_for_subscriber(PATIENCE)
            names = [f"s{k}" for k in range(64)]
            for n in range(100):
                assert sender.send(names, np.stack([clip(100)[n]] * 64), seq=n, block=True)
            reader.until(lambda reader: len(reader.select("s63", 0)) == 100)
        server.send(signal.SIGTERM)
        reader.until(lambda reader: sum(event.kind == "end" for event in reader.events) == 64, "all ends")
        server.process.wait(PATIENCE)
        assert server.process.returncode == 0
        for name in names:
            assert [pose.seq for pose in reader.select(name, 4)] == list(range(100))


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("fault", ["hangs", "hangs with the GIL"])
def test_a_signal_while_the_engine_hangs_at_the_start(number, fault, tmp_path):
    """Before the server is there, it ends the process at once."""
    control = tmp_path / "control"
    faulty.demand(control, fault)
    command = python(faulty.__file__, control, "serve", "--raw", ANY, "--refined", ANY, "--engine", "null")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: not control.exists(), "the hang")
            process.send_signal(number)
            _, said = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, said) == (-number, "")


def _backlog(server: ServerProcess, reader: Reader, frames: int) -> None:
    """Two streams of so many frames, all of them received, of which the engine has refined few; then SIGTERM."""
    with GroupPublisher(server.raw, group="g", fps=25) as sender:
        sender.wait_for_subscriber(PATIENCE)
        for n in range(frames):
            assert sender.send(["a", "b"], np.stack([clip(frames)[n]] * 2), seq=n, block=True)
        reader.until(lambda reader: reader.heartbeats and reader.heartbeats[-1].frames_in == 2 * frames, "all are read")
        server.send(signal.SIGTERM)
        server.process.wait(PATIENCE)


def test_a_backlog_is_refined_within_the_time_for_it():
    frames = 150
    with slow_server(0.02, "--slack-ms", 5000) as server, Reader(server.refined, batches=True) as reader:
        _backlog(server, reader, frames)
        reader.until(lambda reader: sum(event.kind == "end" for event in reader.events) == 2, "all ends")
        assert server.process.returncode == 0
        for lookahead in (0, 4):
            with open_engine("null") as engine:
                expected = refine(clip(frames), engine=engine, lookahead=lookahead)
            for name in ("a", "b"):
                poses = reader.select(name, lookahead)
                assert [pose.source_seq for pose in poses] == list(range(frames))
                np.testing.assert_array_equal(np.array([pose.xyz for pose in poses]), expected)


def test_what_is_left_when_the_time_is_over_is_counted():
    with (
        slow_server(0.02, "--slack-ms", 5000, "--drain-s", 0.2) as server,
        Reader(server.refined, batches=True) as reader,
    ):
        _backlog(server, reader, 150)
        assert server.process.returncode == 1
        assert server.process.stderr is not None
        said = server.process.stderr.read()
        left = re.search(r"(\d+) windows and messages were left after 0.2 s", said)
        assert left is not None, said
        reader.until(lambda reader: any(event.counts.get("undrained") for event in reader.events), "the count")
        counted = max(event.counts.get("undrained", 0) for event in reader.events)
        assert counted == int(left[1]) > 0


def test_publishers_that_go_on_do_not_keep_it_from_ending():
    """What had come by the signal is refined, and then the streams end, though frames are there at every moment."""
    names = [f"s{k}" for k in range(4)]
    stop = threading.Event()

    def flood(sender: GroupPublisher) -> None:
        n = 0
        while not stop.is_set():
            n += sender.send(names, np.stack([clip(400)[n % 400]] * 4), seq=n)

    with (
        slow_server(0.002, "--slack-ms", 5000, "--behind-ms", "inf") as server,
        Reader(server.refined, batches=True) as reader,
        GroupPublisher(server.raw, group="g", fps=25, linger=0.0) as sender,
    ):
        sender.wait_for_subscriber(PATIENCE)
        thread = threading.Thread(target=flood, args=(sender,))
        thread.start()
        try:
            reader.until(lambda reader: len(reader.select("s3", 0)) >= 100)
            server.send(signal.SIGTERM)
            reader.until(lambda reader: sum(event.kind == "end" for event in reader.events) == 4, "all ends")
            server.process.wait(PATIENCE)
        finally:
            stop.set()
            thread.join()
        assert server.process.returncode == 0
        for name in names:
            for lookahead in (0, 4):
                seqs = [pose.seq for pose in reader.select(name, lookahead)]
                assert seqs == list(range(len(seqs)))
            assert len(reader.select(name, 0)) == len(reader.select(name, 4))
