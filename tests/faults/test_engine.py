"""An engine that raises, gives no poses, or hangs: the streams go on, and what it should have refined is flagged."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from rtskel.engine import open_engine
from rtskel.refine import refine
from rtskel.wire import Flag
from tests.faults import faulty
from tests.faults.processes import (
    ANY,
    LOOKAHEADS,
    Reader,
    ServerProcess,
    clip,
    publisher,
    python,
    wait_for,
)

WRONG = {
    "raises": ["raises", "has no memory"],
    "ends Python": ["exits"],
    "not finite": ["nan", "one nan", "infinity", "huge", "1e30"],
    "of no shape": ["none", "text", "fewer windows", "fewer joints", "two coordinates", "flat", "complex"],
}


def serving(control: Path, *options: object) -> ServerProcess:
    """A server with an engine that does as the file says."""
    command = ("serve", "--json", "--raw", ANY, "--refined", ANY, "--engine", "null", "--slack-ms", 3000)
    return ServerProcess(program=python(faulty.__file__, control, *command, "--lookahead", "0,4", *options))


class Played:
    """Frames of `clip` sent one by one, each when the pose of the one before it is there."""

    def __init__(self, server: ServerProcess, reader: Reader, stream: str = "a") -> None:
        self.reader, self.stream, self.sent = reader, stream, 0
        self.sender = publisher(server, stream)

    def send(self, frames: int, wait: bool = True) -> None:
        for _ in range(frames):
            assert self.sender.send(clip(400)[self.sent], seq=self.sent)
            self.sent += 1
            if wait:
                self.reader.until(lambda reader: len(reader.select(self.stream, 0)) >= self.sent)

    def end(self) -> None:
        self.sender.close()
        self.reader.until(lambda reader: "end" in reader.kinds(self.stream), "the end")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.linger = 0.0  # the server may be dead by now
        self.sender.close()

    def check(self, least: int = 1, most: int = 10**9) -> None:
        """Every slot once; what is not flagged is bit for bit what `refine` gives, what is flagged the raw pose, or an
        average that it is part of."""
        xyz = clip(400)[: self.sent]
        for lookahead in LOOKAHEADS:
            poses = self.reader.select(self.stream, lookahead)
            assert [pose.source_seq for pose in poses] == list(range(self.sent))
            with open_engine("null") as engine:
                expected = refine(xyz, engine=engine, lookahead=lookahead)
            flagged = [pose for pose in poses if pose.flags & (Flag.PASSTHROUGH | Flag.PARTIAL_AVERAGE)]
            assert least <= len(flagged) <= most
            for pose in poses:
                assert np.isfinite(pose.xyz).all()
                if pose in flagged:
                    np.testing.assert_allclose(pose.xyz, xyz[pose.source_seq], atol=0.2)
                else:
                    np.testing.assert_array_equal(pose.xyz, expected[pose.source_seq])


@pytest.mark.parametrize("group", WRONG)
def test_what_is_no_answer_is_a_failed_batch(group, tmp_path):
    control = tmp_path / "control"
    with serving(control) as server, Reader(server.refined) as reader, Played(server, reader) as played:
        played.send(12)
        for count, fault in enumerate(WRONG[group], 1):
            faulty.demand(control, fault)
            played.send(12)
            assert server.alive, fault
            reader.until_counted("engine", count)
        played.end()
        assert any("engine" in event.counts for event in reader.events)
        played.check(least=len(WRONG[group]), most=8 * len(WRONG[group]))
        assert server.end()[0] == 0


def test_a_short_hang_delays_and_loses_nothing(tmp_path):
    control = tmp_path / "control"
    with serving(control) as server, Reader(server.refined) as reader, Played(server, reader) as played:
        played.send(20)
        faulty.demand(control, "sleeps 1.5 s")
        played.send(20)
        played.end()
        played.check(least=0)


@pytest.mark.parametrize("fault", ["hangs", "hangs with the GIL"])
def test_a_hang_is_told_passed_by_and_ended_by_sigterm(fault, tmp_path):
    control = tmp_path / "control"
    with serving(control) as server, Reader(server.refined) as reader, Played(server, reader) as played:
        played.send(20)
        faulty.demand(control, fault)
        played.send(1, wait=False)
        wait_for(lambda: not control.exists(), "the fault")
        if fault == "hangs":
            played.send(20)  # they come out, one by one
            reader.until_counted("engine")
            late = [pose for pose in reader.select("a", 0) if pose.source_seq > 20]
            assert late[0].flags & Flag.PASSTHROUGH  # and so on until another engine was opened in its place
        began = time.monotonic()
        server.send(signal.SIGTERM)
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            os.kill(server.process.pid, signal.SIGKILL)
            raise AssertionError("SIGTERM does not end it") from None
        print(f"ended {time.monotonic() - began:.1f} s after SIGTERM with {server.process.returncode}")
        if fault == "hangs with the GIL":
            assert server.process.returncode != 0, "poses were lost, and it says that all is well"
