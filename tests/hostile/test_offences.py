"""What is wrong is counted, and told so seldom that the telling does no harm."""

from __future__ import annotations

import numpy as np
import pytest

from rtskel import wire
from rtskel.client import GroupPublisher
from tests.faults.processes import JOINTS, PATIENCE, Reader, ServerProcess, publisher, undisturbed
from tests.hostile.zmtp import Peer

FEW = 40
"""Events that thousands of offences may make in the few seconds of a test."""

POSE = np.zeros((JOINTS, 3), np.float32)


def raw(stream: str, seq: int, **changes) -> tuple[bytes, bytes]:
    fields = dict(
        stream=stream,
        epoch=1,
        seq=seq,
        time_ns=seq * 40_000_000,
        clock="monotonic",
        fps=25.0,
        xyz=POSE,
        confidence=np.ones(JOINTS, np.float32),
        skeleton="upper-body-50",
    )
    return wire.encode(wire.RawPose(**fields | changes))


def errors_of(reader: Reader) -> list:
    return [event for event in reader.events if event.kind == "error" and event.stream != "steady"]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("skeleton", {"skeleton": "other"}), ("flat", {"dims": 2})],
)
def test_many_bad_poses_in_a_message_are_few_events(kind, changes):
    people, messages = 80, 40
    fields = dict(
        group="g",
        epoch=1,
        seq=0,
        time_ns=0,
        clock="unix",
        fps=25.0,
        skeleton="upper-body-50",
        xyz=np.stack([POSE] * people),
        confidence=np.ones((people, JOINTS), np.float32),
    )
    with ServerProcess() as server, undisturbed(server), Reader(server.refined) as reader:
        with Peer(server.raw, "XPUB") as peer:
            for n in range(messages):
                streams = [f"n{n}-{k}" for k in range(people)]
                assert peer.send(peer.message(*wire.encode(wire.RawBatch(**fields | {"streams": streams} | changes))))
            reader.until_counted(kind, people * messages).beats(2)
        told = errors_of(reader)
        assert 1 <= len(told) <= FEW, f"{len(told)} events"
        assert max(event.counts[kind] for event in told) > people * messages - FEW


def test_ever_new_names_with_rubbish_are_few_events():
    with ServerProcess() as server, undisturbed(server), Reader(server.refined) as reader:
        with Peer(server.raw, "XPUB") as peer:
            for k in range(0, 10_000, 100):
                block = b"".join(peer.message(b"rts1/raw/n%d/" % n, b"rubbish") for n in range(k, k + 100))
                assert peer.send(block)
            reader.until_counted("malformed", 10_000).beats(2)
        assert 1 <= len(errors_of(reader)) <= FEW


def test_ever_new_names_beyond_max_streams_are_few_events():
    with ServerProcess("--max-streams", 8) as server, undisturbed(server), Reader(server.refined) as reader:
        with Peer(server.raw, "XPUB") as peer:
            assert peer.send(b"".join(peer.message(*raw(f"n{k}", 0)) for k in range(2000)))
            reader.until_counted("refused", 1900).beats(2)
        assert 1 <= len(errors_of(reader)) <= FEW


def test_ten_thousand_names_then_idle():
    """The memory of names that are gone is given back, to 5% and what an allocator keeps back one time or another."""
    with ServerProcess("--idle", 1, "--max-gap", 2) as server, undisturbed(server), Reader(server.refined) as reader:

        def names(first: int) -> None:
            with GroupPublisher(server.raw, group="crowd", fps=25, queue=4096) as crowd:
                crowd.wait_for_subscriber(PATIENCE)
                for k in range(first, first + 5000, 50):
                    people = [f"n{n}" for n in range(k, k + 50)]
                    crowd.send(people, np.stack([POSE] * 50), block=True)
            reader.until(lambda reader: 0 <= reader.streams <= 1, "the crowd is forgotten").beats(2)

        reader.beats(1)
        names(0)
        names(5000)
        before = server.memory()
        names(10_000)
        names(15_000)
        assert server.memory() < 1.05 * before + 4


def test_a_stream_that_is_wrong_hears_of_itself():
    """The first offence of a stream that has none beside it comes under its own name."""
    with (
        ServerProcess() as server,
        undisturbed(server),
        Reader(server.refined) as reader,
        publisher(server, "mine") as sender,
    ):
        sender.send(POSE, seq=0)
        with Peer(server.raw, "XPUB") as peer:
            assert peer.send(peer.message(b"rts1/raw/mine/", b"\x93"))
            reader.until(lambda reader: any(event.stream == "mine" and event.counts for event in reader.events))
