"""Streams that make the server wait: their frames are bounded, and nobody else's reading stops."""

from __future__ import annotations

import pytest

from tests.faults.processes import Reader, ServerProcess, undisturbed
from tests.hostile.test_numbers import raw
from tests.hostile.zmtp import Peer


@pytest.mark.parametrize(
    ("fps", "streams", "frames"),
    [
        (1e-3, 1, 1300),
        (0.1, 1, 1300),
        (0.1, 60, 100),
        (25.0, 200, 30),
    ],
    ids=["out of bounds", "the slowest", "many of the slowest", "many"],
)
def test_frames_after_a_hole(fps, streams, frames):
    """Slot 1 never comes, and its deadline is far away: what follows it waits, within bounds."""
    with (
        ServerProcess() as server,
        undisturbed(server, after=40) as neighbour,
        Reader(server.refined) as reader,
        Peer(server.raw, "XPUB") as peer,
    ):
        before = server.memory()
        for n in [0, *range(2, frames)]:
            assert peer.send(b"".join(peer.message(*raw(n, fps, n, stream=f"bad{k}")) for k in range(streams)))
        neighbour.served(40)
        reader.beats()
        assert server.memory() < before + 150


def test_a_stream_that_waits_for_ever_is_ended():
    """Gone, its place is free again: one slow stream for each place does not shut everybody else out."""
    with (
        ServerProcess("--max-streams", 9, "--idle", 2) as server,
        undisturbed(server),
        Reader(server.refined) as reader,
    ):
        with Peer(server.raw, "XPUB") as peer:
            for k in range(8):
                for n in (0, 2, 3, 4):
                    assert peer.send(peer.message(*raw(n, 0.1, n, stream=f"bad{k}")))
            reader.until(lambda reader: reader.streams == 9, "all places taken")
        reader.until(lambda reader: reader.streams == 1, "the slow ones are gone")


@pytest.mark.parametrize("parts", [3, 40])
def test_messages_of_too_many_parts_at_a_high_rate(parts):
    """They hold no frames; reading them is bounded in a turn all the same."""
    with ServerProcess() as server, undisturbed(server) as neighbour, Reader(server.refined) as reader:
        with Peer(server.raw, "XPUB") as peer:
            block = peer.message(*[b"rts1/raw/x/"] * parts) * 2000
            for _ in range(10):
                assert peer.send(block)
                neighbour.served(2)
        reader.until_counted("malformed", 20_000)
