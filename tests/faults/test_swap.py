"""The engine is replaced while it refines, on request and after a hang: no slot is lost, a bad one changes nothing."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from rtskel.engine import NullEngine
from rtskel.errors import EngineError
from rtskel.refine import refine
from rtskel.wire import Flag
from tests.faults import processes
from tests.faults.processes import Neighbour, ServerProcess, wait_for
from tests.test_serve import PATIENCE, Reader, publisher, serving
from tests.test_streams import recording

LOOKAHEADS = (0, 4)


class Named(NullEngine):
    """The identity, of some name; hangs for as long as `hanging` is set."""

    may_hang = True

    def __init__(self, name: str, hanging: threading.Event | None = None, **size: int) -> None:
        super().__init__(**{"window": 8} | size)
        self.info = replace(self.info, model_id=name)
        self.hanging = hanging
        self.closed = threading.Event()

    def _run(self, x, missing, positions):
        if self.hanging is not None:
            self.hanging.wait()
        return super()._run(x, missing, positions)

    def _close(self) -> None:
        self.closed.set()


def replaced(reader: Reader) -> list[str]:
    """What the events say of engines that took over."""
    return [event.detail for event in reader.events if event.kind == "engine"]


def test_fifty_times_under_64_streams():
    """Every slot once and in order, none flagged, each pose with the model that refined it; old ones are closed."""
    clips = {f"s{n}": recording(120, seed=n) for n in range(64)}
    first = Named("model 0")
    made = [first]

    def reopen():
        made.append(Named(f"model {len(made)}"))
        return made[-1]

    with serving(first, reopen=reopen, behind_s=PATIENCE) as server, Reader(server) as reader, ExitStack() as stack:
        one = stack.enter_context(publisher(server, "s0"))
        senders = {"s0": one} | {name: stack.enter_context(one.sibling(name)) for name in clips if name != "s0"}
        for k in range(100):
            for name, sender in senders.items():
                assert sender.send(clips[name][k], seq=k, block=True)
            if k % 2:
                server.reload()
                reader.until(lambda reader, n=k // 2 + 1: len(replaced(reader)) == n)
        for sender in senders.values():
            sender.end()
        reader.until_ended(64)
        assert server.engine_info.model_id == "model 50"
    assert replaced(reader) == [f"the engine was replaced: model {n}" for n in range(1, 51)]
    assert all(engine.closed.wait(PATIENCE) for engine in made)
    for name, clip in clips.items():
        for lookahead in LOOKAHEADS:
            poses = reader.select(name, lookahead)
            assert [(pose.seq, pose.source_seq) for pose in poses] == [(k, k) for k in range(100)]
            assert not any(pose.flags & Flag.PASSTHROUGH for pose in poses)
            wanted = refine(clip[:100], engine=Named("any"), lookahead=lookahead)
            np.testing.assert_array_equal([pose.xyz for pose in poses], wanted)
            models = [int(pose.model.split()[1]) for pose in poses]
            assert models == sorted(models)
            assert models[-1] >= 49  # the last request comes after the last frames
            assert len(set(models)) > 40


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: (_ for _ in ()).throw(EngineError("a.onnx: no engine")), "a.onnx: no engine"),
        (lambda: (_ for _ in ()).throw(MemoryError()), "MemoryError"),
        (lambda: Named("wide", window=16), "its window is 16, that of the running engine 8"),
        (lambda: Named("small", max_batch=1), "it takes 1 windows, not 64"),
        (lambda: Named("people", joints=17), "joints is 17"),
    ],
)
def test_a_bad_one_changes_nothing(bad, words):
    clip = recording(30)
    engine = Named("good")
    with (
        serving(engine, reopen=bad, behind_s=PATIENCE) as server,
        Reader(server) as reader,
        publisher(server) as sender,
    ):
        for k in range(20):
            assert sender.send(clip[k], seq=k, block=True)
            if k == 9:
                server.reload()
                reader.until(lambda reader: reader.errors(""))
        sender.end()
        reader.until_ended()
        assert "the engine stays as it is: " in reader.errors("")[0]
        assert words in reader.errors("")[0]
        assert not engine.closed.is_set()
    for lookahead in LOOKAHEADS:
        poses = reader.select("a", lookahead)
        assert [(pose.seq, pose.model) for pose in poses] == [(k, "good") for k in range(20)]
        np.testing.assert_array_equal(
            [pose.xyz for pose in poses], refine(clip[:20], engine=Named("any"), lookahead=lookahead)
        )


def test_nothing_to_open():
    with serving(Named("only")) as server, Reader(server) as reader:
        server.reload()
        reader.until(lambda reader: reader.errors(""))
        assert reader.errors("") == ["the engine of this server cannot be replaced"]


def test_an_engine_that_hangs_for_ever_is_replaced():
    clip = recording(60)
    go = threading.Event()
    go.set()
    hanging, fresh = Named("hanging", go), Named("fresh")
    opened = threading.Event()

    def reopen():
        assert opened.wait(PATIENCE)
        return fresh

    try:
        config = {"engine_timeout_s": 0.2}
        with serving(hanging, reopen=reopen, config=config, behind_s=PATIENCE) as server, Reader(server) as reader:
            with publisher(server) as sender:
                for k in range(20):
                    assert sender.send(clip[k], seq=k, block=True)
                    reader.until(lambda reader, k=k: len(reader.select("a", 0)) == k + 1)
                    if k == 4:
                        go.clear()
                    if k == 9:
                        opened.set()
                        reader.until(replaced)
                sender.end()
                reader.until_ended()
            poses = reader.select("a", 0)
            assert [pose.seq for pose in poses] == list(range(20))
            assert all(pose.flags & Flag.PASSTHROUGH for pose in poses[5:10])
            assert not any(pose.flags & Flag.PASSTHROUGH for pose in poses[:5] + poses[14:])
            assert {pose.model for pose in poses[:10]} == {"hanging"}
            assert {pose.model for pose in poses[10:]} == {"fresh"}
    finally:
        go.set()


def test_what_is_still_being_opened_at_the_end_is_closed():
    late = Named("late")
    go = threading.Event()

    def reopen():
        assert go.wait(PATIENCE)
        return late

    with serving(Named("first"), reopen=reopen) as server, Reader(server):
        server.reload()
        wait_for(lambda: any(thread.name == "rtskel-opening" for thread in threading.enumerate()), "the opening")
    go.set()
    assert late.closed.wait(PATIENCE)


def test_a_signal_replaces_the_engine_of_a_process():
    with ServerProcess() as server, Neighbour(server) as neighbour, processes.Reader(server.refined) as reader:
        neighbour.served(10)
        neighbour.mark()
        server.send(signal.SIGUSR1)
        reader.until(lambda reader: any(event.kind == "engine" for event in reader.events), "the engine's event")
        neighbour.served(20)
        neighbour.check()
