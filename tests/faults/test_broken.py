"""Connections that break while what they brought is still unread."""

from __future__ import annotations

import socket
import struct

import pytest
import zmq

from rtskel.curve import prepare
from tests.hostile.zmtp import Peer

PATIENCE = 20_000  # ms


@pytest.mark.parametrize("kind", [zmq.XSUB, zmq.SUB])
def test_what_a_broken_connection_brought_is_read(kind):
    """Its queue is full, its peer resets it. ZMTP's heartbeats would end the process here, some time later."""
    with zmq.Context() as context, context.socket(kind) as receiver:
        receiver.linger = 0
        receiver.rcvhwm = 2
        prepare(receiver, "tcp://127.0.0.1:*", None)
        assert receiver.heartbeat_ivl == 0
        port = receiver.bind_to_random_port("tcp://127.0.0.1")
        (receiver.send if kind == zmq.XSUB else receiver.subscribe)(b"\1" if kind == zmq.XSUB else b"")
        with Peer(f"tcp://127.0.0.1:{port}", "XPUB") as peer:
            assert peer.send(peer.message(b"topic", b"body") * 20)
            assert receiver.poll(PATIENCE)
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for _ in range(20):
            assert receiver.poll(PATIENCE)
            assert receiver.recv_multipart() == [b"topic", b"body"]
