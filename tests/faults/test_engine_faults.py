"""Engines that answer nonsense, fail or hang: their poses pass through, flagged, counted and told; the server lives."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rtskel.engine import NullEngine
from rtskel.errors import ServeError
from rtskel.refine import refine
from rtskel.serve import ServeConfig, Server
from rtskel.wire import Flag
from tests.faults.faulty_server import FAULTS
from tests.test_serve import ANY, PATIENCE, Reader, publisher
from tests.test_streams import recording

HERE = Path(__file__).parent
LOOKAHEADS = (0, 4)


@pytest.fixture
def faulty(tmp_path):
    """A server process and the file that its engine obeys; killed if the test leaves it."""
    started = []

    def start(**fields):
        control = tmp_path / "control"
        command = [sys.executable, "-P", str(HERE / "faulty_server.py"), str(control), json.dumps(fields)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        where = json.loads(process.stdout.readline())
        return SimpleNamespace(
            process=process, control=control, raw_endpoint=where["raw"], refined_endpoint=where["refined"]
        )

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Session:
    """Two streams, frame by frame: `send` returns once their poses at lookahead 0 are out."""

    def __init__(self, server):
        self.clips = {"a": recording(200, seed=1), "b": recording(200, seed=2)}
        self.reader = Reader(server)
        self.senders = {"a": publisher(server, "a")}
        self.senders["b"] = self.senders["a"].sibling("b")
        self.sent = 0

    def send(self, frames=1):
        for _ in range(frames):
            for name, sender in self.senders.items():
                sender.send(self.clips[name][self.sent], seq=self.sent, block=True)
            self.sent += 1
            self.reader.until(lambda reader: all(len(reader.select(name, 0)) == self.sent for name in self.clips))
        return [self.reader.select(name, 0)[-1] for name in self.clips]

    def end(self):
        for sender in self.senders.values():
            sender.end()
        self.reader.until_ended(2)

    def check(self):
        """Every slot once, with the values that it should have; the slots that are flagged PASSTHROUGH."""
        flagged = set()
        for name, xyz in self.clips.items():
            for lookahead in LOOKAHEADS:
                poses = self.reader.select(name, lookahead)
                assert [pose.source_seq for pose in poses] == list(range(self.sent))
                want = refine(xyz[: self.sent], engine=NullEngine(window=8), lookahead=lookahead)
                np.testing.assert_array_equal([pose.xyz for pose in poses], want)
                flagged |= {pose.source_seq for pose in poses if pose.flags & Flag.PASSTHROUGH}
        return flagged

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.subscriber.close()
        for sender in self.senders.values():
            sender.close()


def stop(server):
    """SIGTERM; the exit status and what was said on stderr, but for the log of failed engine calls."""
    server.process.send_signal(signal.SIGTERM)
    _, said = server.process.communicate(timeout=PATIENCE)
    return server.process.returncode, beside_failures(said)


def beside_failures(said):
    """What a server said beside its log of failed engine calls."""
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("engine failed, poses pass through unrefined: "))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("timeout", [0.0, 20.0])
def test_a_failed_batch_passes_through(fault, timeout, faulty):
    """In the server's thread and in the engine's own: flagged, one count, one event, and right again afterwards."""
    server = faulty(engine_timeout_s=timeout)
    with Session(server) as session:
        session.send(10)
        server.control.write_text(fault)
        session.send(1)
        session.reader.until_counted(engine=1)
        session.send(20)
        session.end()
        flagged = session.check()
        assert 10 in flagged
        assert flagged <= set(range(6, 20))
        assert [event.kind for event in session.reader.events if event.kind == "error"] == ["error"]
        (detail,) = session.reader.errors("")
        failed = "KeyboardInterrupt" if fault == "interrupt" else "null: "
        assert f"engine failed, poses pass through unrefined: {failed}" in detail
    assert stop(server) == (0, "")


@pytest.mark.parametrize("fault", ["hang", "hang and write"])
def test_a_hang_is_given_up_on(fault, faulty):
    """Poses pass through and heartbeats go on while the engine hangs; once it is back, it refines again."""
    server = faulty(engine_timeout_s=0.3)
    with Session(server) as session:
        session.send(10)
        server.control.write_text(fault)
        assert all(pose.flags & Flag.PASSTHROUGH for pose in session.send(1))
        session.reader.until_counted(engine=1)
        assert "the engine hangs: no answer within" in session.reader.errors("")[0]
        beats = len(session.reader.heartbeats)
        for _ in range(10):
            assert all(pose.flags & Flag.PASSTHROUGH for pose in session.send(1))
        session.reader.until(lambda reader: len(reader.heartbeats) >= beats + 3)
        Path(f"{server.control}.go").touch()
        while any(pose.flags & Flag.PASSTHROUGH for pose in session.send(1)):
            assert session.sent < 190, "the engine does not come back"
        session.send(10)
        session.end()
        flagged = session.check()
        assert set(range(10, 21)) <= flagged
        assert not flagged & set(range(5))
        assert session.sent - 1 not in flagged
    assert stop(server) == (0, "")


def test_a_signal_during_a_hang(faulty):
    """One SIGTERM ends the streams and the process, though the engine never returns."""
    server = faulty(engine_timeout_s=0.3)
    with Session(server) as session:
        session.send(10)
        server.control.write_text("hang")
        session.send(3)
        server.process.send_signal(signal.SIGTERM)
        session.reader.until_ended(2)
        assert {10, 11, 12} <= session.check()
    _, said = server.process.communicate(timeout=PATIENCE)
    assert (server.process.returncode, beside_failures(said)) == (0, "")


def test_a_server_that_is_closed_leaves_no_thread():
    config = ServeConfig(raw=ANY, refined=ANY, engine_timeout_s=1.0)
    before = set(threading.enumerate())
    with NullEngine(window=8) as engine:
        engine.may_hang = True
        with Server(config, engine):
            (worker,) = set(threading.enumerate()) - before
        worker.join(PATIENCE)
        assert not worker.is_alive()
        with pytest.raises(ServeError), Server(ServeConfig(raw="tcp://nowhere:1", refined=ANY, insecure=True), engine):
            pass
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize(("fault", "timeout"), [("hang with the lock", 0.3), ("hang", 0.0)])
def test_a_signal_ends_a_process_in_which_python_cannot_run(fault, timeout, signals, faulty):
    """The engine holds Python's lock, or the only thread for ever: one signal ends it soon, a second one at once."""
    server = faulty(engine_timeout_s=timeout, linger_s=0.0)
    with Session(server) as session:
        session.send(10)
        server.control.write_text(fault)
        session.senders["a"].send(session.clips["a"][10], seq=10)
        give_up = time.monotonic() + PATIENCE
        while server.control.exists():  # which the engine removes when it hangs
            assert time.monotonic() < give_up
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        while signals == 2 and server.process.poll() is None:  # two at once would count as one
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        _, said = server.process.communicate(timeout=PATIENCE)
    if signals == 1:
        assert server.process.returncode == 1
        assert said == "rtskel: error: no progress after a signal to end (does the engine hang?): ended at once\n"
    else:
        assert (server.process.returncode, said) == (-signal.SIGTERM, "")
