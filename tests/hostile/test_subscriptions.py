"""Readers that harm other readers: subscriptions that are not theirs, twice, without end, too many, too long."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import pytest

from rtskel import wire
from tests.faults.processes import ROOT, Neighbour, Reader, ServerProcess, publisher, python, undisturbed, wait_for
from tests.hostile.zmtp import Peer

TOPICS = (wire.REFINED_PREFIX, wire.EVENT_PREFIX, wire.HEARTBEAT_TOPIC, b"rts1/refined/steady/L0/", b"")


@contextmanager
def attacker(code: str, endpoint: str, *arguments: object):
    """A process that has `a`, a Peer at the endpoint, and runs the code until it is killed."""
    start = f"import sys; sys.path.append({str(ROOT)!r}); from tests.hostile.zmtp import Peer; a = Peer(sys.argv[1])\n"
    command = python("-c", start + "print(flush=True)\n" + code, endpoint, *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is connected
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("topics", [TOPICS[:3], TOPICS], ids=["prefixes", "all"])
def test_unsubscribing_what_was_never_subscribed(topics):
    with ServerProcess() as server, undisturbed(server), Reader(server.refined) as reader, Peer(server.refined) as peer:
        for _ in range(50):
            for topic in topics:
                assert peer.send(peer.frame(b"\0" + topic))
        reader.beats()


def test_frames_that_are_no_subscriptions():
    with ServerProcess() as server, undisturbed(server), Reader(server.refined) as reader, Peer(server.refined) as peer:
        for data in (b"", b"\2", b"\xff" * 40, b"\0", b"hello", *(bytes([k]) * 3 for k in range(2, 30))):
            peer.send(peer.frame(data))
        peer.send(peer.message(b"\1rts1/", b"\1rts1/", b""))
        reader.beats()


@pytest.mark.parametrize("leaves", ["by unsubscribing", "by closing"])
def test_subscribing_twice_and_leaving(leaves):
    """Whoever comes, subscribes twice and leaves does not touch who subscribes to the same."""
    with ServerProcess() as server, undisturbed(server), Reader(server.refined) as reader:
        for _ in range(20):
            with Peer(server.refined) as peer:
                for topic in TOPICS:
                    peer.send(peer.frame(b"\1" + topic) * 2)
                if leaves == "by unsubscribing":
                    for topic in TOPICS:
                        peer.send(peer.frame(b"\0" + topic) * 3)
        reader.beats()


TOGGLE = """
topic = sys.argv[2].encode()
block = b"".join([a.frame(b"\\1" + topic), a.frame(b"\\0" + topic)]) * 2000
while True:
    if not a.send(block):
        try: a = Peer(sys.argv[1])
        except OSError: pass
"""

MANY = """
n = 0
while True:
    block = b"".join(a.frame(b"\\1rts1/refined/%d-%s/" % (n + k, sys.argv[2].encode())) for k in range(1000))
    n += 1000
    if not a.send(block):
        try: a = Peer(sys.argv[1])
        except OSError: pass
"""

AGAIN = """
block = a.frame(b"\\1" + sys.argv[2].encode()) * 4000
while True:
    if not a.send(block):
        try: a = Peer(sys.argv[1])
        except OSError: pass
"""


@pytest.mark.parametrize(
    ("code", "text"),
    [(TOGGLE, "zzz"), (TOGGLE, "rts1/heartbeat/"), (AGAIN, "rts1/refined/"), (MANY, "x")],
    ids=["toggling", "toggling heartbeats", "the same again and again", "ever new ones"],
)
def test_floods(code, text):
    """Others are served during the flood and after it, and the server does not grow."""
    with ServerProcess() as server, Neighbour(server) as neighbour, Reader(server.refined) as reader:
        neighbour.served(15)
        before = server.memory()
        neighbour.mark()
        with attacker(code, server.refined, text):
            neighbour.served(60)
            reader.until_counted("subscriptions")
            during = server.memory()
        neighbour.served(15)
        reader.beats()
        neighbour.check()
        assert during < before + 150, f"{before:.0f} MiB before, {during:.0f} during the flood"


@pytest.mark.parametrize("length", [200, 60_000])
def test_topics_that_are_too_long_for_any(length):
    """Nothing can be published on them: the reader is cut off, and told of in an event."""
    with ServerProcess() as server, undisturbed(server), Reader(server.refined) as reader:
        before = server.memory()
        for k in range(50):
            with Peer(server.refined) as peer:
                peer.send(peer.frame(b"\1" + b"%06d" % k + b"x" * (length - k)) * 2)
                assert peer.wait_closed(20)
        reader.beats()
        assert server.memory() < before + 100


def test_what_nobody_reads_any_more_is_forgotten():
    """Readers come and go; in the end the poses that only they wanted are not even encoded: the server says so."""
    with ServerProcess() as server, Neighbour(server) as neighbour, Reader(server.refined, streams="steady") as reader:
        for _ in range(30):
            with Peer(server.refined) as peer:
                peer.send(b"".join(peer.frame(b"\1rts1/refined/s%d/" % k) for k in range(100)))
        with publisher(server, "lonely") as sender:
            wait_for(lambda: sender.has_subscriber, "a server")
        reader.beats()
        neighbour.served(10)
        neighbour.mark()
        neighbour.check()
