"""The raw port's memory: messages without end, topics and bodies far too large, and queues that nobody reads.

What the server promises (SECURITY.md): however much one publisher sends, the server holds at most PER_PUBLISHER of it.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack, contextmanager

import pytest

from tests.faults import faulty
from tests.faults.processes import (
    ROOT,
    Neighbour,
    Reader,
    ServerProcess,
    clip,
    publisher,
    python,
    undisturbed,
    wait_for,
)
from tests.faults.test_engine import serving
from tests.hostile.zmtp import Peer

PER_PUBLISHER = 160
"""MiB. The most is held of a message of empty parts, of which each takes 64 bytes here and 2 on the wire."""

SLACK = 60
"""MiB that a server may grow whatever happens."""

START = """
import sys; sys.path.append(sys.argv[2]); from tests.hostile.zmtp import Peer
def connect():
    while True:
        try: return Peer(sys.argv[1], "XPUB")
        except OSError: pass
a = connect()
first, again = b"", b""
size = int(sys.argv[3])
"""

SEND = """
print(flush=True)
while True:
    ok = a.send(first)
    while ok: ok = a.send(again)
    a = connect()
"""

KINDS = {
    "parts without end": (
        "first = a.frame(b'rts1/raw/x/', True)\nagain = a.frame(bytes(size), True) * max(1, 65536 // (size + 2))"
    ),
    "topics": "first = again = a.message(b'rts1/raw/x/' + bytes(size), b'x')",
    "bodies": "first = again = a.message(b'rts1/raw/x/', bytes(size))",
    "many parts": "first = again = a.message(*[b'rts1/raw/x/'] * 60, bytes(size))",
}


@contextmanager
def attackers(server: ServerProcess, kind: str, size: int, count: int = 1):
    """Processes that send as fast as they can until they are killed; they come again when they are cut off."""
    command = python("-c", START + KINDS[kind] + SEND, server.raw, ROOT, size)
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


@pytest.mark.parametrize(
    ("kind", "size", "count"),
    [
        ("parts without end", 0, 1),
        ("parts without end", 1, 2),
        ("parts without end", 60_000, 1),
        ("parts without end", 1 << 20, 1),
        ("topics", 60_000, 2),
        ("topics", 16 << 20, 2),
        ("bodies", 65_000, 1),
        ("bodies", 66_000, 1),
        ("bodies", 16 << 20, 2),
        ("many parts", 1000, 1),
    ],
)
def test_a_publisher_is_held_to_its_share(kind, size, count):
    with ServerProcess() as server, Neighbour(server) as neighbour, Reader(server.refined) as reader:
        neighbour.served(10)
        before = server.memory()
        neighbour.mark()
        with attackers(server, kind, size, count):
            neighbour.served(60)
        neighbour.served(10)
        reader.beats()
        most = server.peak()
        print(f"{kind} of {size}, {count} publishers: {before:.0f} MiB before, {most:.0f} at most")
        neighbour.check()
        assert most < before + SLACK + count * PER_PUBLISHER


@pytest.mark.parametrize(("kind", "size"), [("parts without end", 0), ("bodies", 65_000)])
def test_a_publisher_is_held_to_its_share_while_the_engine_hangs(kind, size, tmp_path):
    """Nothing is read meanwhile, so that a message without end is not known by what is read beside it."""
    control = tmp_path / "control"
    with serving(control, "--engine-timeout", 6) as server, Reader(server.refined) as reader:
        with publisher(server, "a") as sender:
            before = server.memory()
            faulty.demand(control, "hangs")
            sender.send(clip(1)[0], seq=0)
            wait_for(lambda: not control.exists(), "the hang")
            with attackers(server, kind, size):
                reader.until_counted("engine")
            most = server.peak()
        print(f"{kind} of {size}: {before:.0f} MiB before, {most:.0f} at most")
        assert most < before + SLACK + PER_PUBLISHER


@pytest.mark.parametrize(("kind", "size"), [("many parts", 0), ("bodies", 100)])
def test_a_flood_does_not_hold_up_the_end(kind, size):
    """The server reads what comes for as long as it may, and says how much was left: then it ends, whoever goes on."""
    with ServerProcess("--drain-s", 0.5) as server, Neighbour(server) as neighbour:
        with attackers(server, kind, size, 2):
            neighbour.served(10)
            status, said = server.end()
        assert status == 0, said


def test_a_message_without_end_is_told():
    with ServerProcess() as server, undisturbed(server), Reader(server.refined) as reader:
        with attackers(server, "parts without end", 100):
            reader.until_counted("hoarding")
        wait_for(lambda: any("hoarding" in event.counts for event in reader.beats(1).events), "an event")


def test_a_large_message_is_named_and_small_ones_after_it_are_read():
    """Just above what is valid: refused by name; what comes after it on the same connection is read."""
    with (
        ServerProcess() as server,
        undisturbed(server),
        Reader(server.refined) as reader,
        Peer(server.raw, "XPUB") as peer,
    ):
        assert peer.send(peer.message(b"rts1/raw/x/", bytes(65_537)))
        assert peer.send(peer.message(b"rts1/raw/x/", b"nothing"))
        reader.until_counted("oversize").until_counted("malformed")


def test_publishers_that_send_a_little_of_a_message_and_wait():
    """Hundreds of connections with a part each, and never the next one: nothing is read in vain, nobody is delayed."""
    with ServerProcess() as server, undisturbed(server), ExitStack() as stack:
        for _ in range(200):
            peer = stack.enter_context(Peer(server.raw, "XPUB"))
            assert peer.send(peer.frame(b"rts1/raw/x/", True) + peer.frame(bytes(1000), True))
        assert server.memory() < 2000


def test_connections_that_say_nothing():
    """No handshake, half of one, and rubbish instead of one."""
    import socket

    with ServerProcess() as server, undisturbed(server), ExitStack() as stack:
        for endpoint in (server.raw, server.refined):
            host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
            for data in (
                b"",
                b"\xff",
                b"\xff" + bytes(8) + b"\x7f\x03",
                b"GET / HTTP/1.1\r\n\r\n" * 100,
                bytes(10_000),
            ):
                for _ in range(10):
                    connection = stack.enter_context(socket.create_connection((host, int(port))))
                    connection.sendall(data)
        time.sleep(0)  # they stay open while the neighbour is served
