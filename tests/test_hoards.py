"""Messages that never end: by which connections they come, and who is cut off."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress

import pytest

from rtskel import native
from tests.sockets import TIMEOUT

MOST, UNFINISHED = 1 << 20, 1 << 16


class Taken:
    """A port of which this test is the server: it accepts, takes bytes and asks who is cut off."""

    def __init__(self, host="127.0.0.1", port=0, family=socket.AF_INET, watched=None, memory=1 << 40):
        self.listener = socket.create_server((host, port), family=family)
        self.wake, self.waker = os.pipe()
        port = self.listener.getsockname()[1]
        self.watch = native.HoardWatch(watched or host, port, UNFINISHED, MOST, memory, 0.001, self.waker)

    def connection(self):
        peer = socket.create_connection(self.listener.getsockname()[:2])
        return peer, self.listener.accept()[0]

    @staticmethod
    def send(pair, size):
        """That many bytes are sent and taken, or as many as it may before it is cut off."""
        peer, own = pair
        with suppress(ConnectionError):
            while size:
                size -= peer.send(bytes(min(size, 1 << 14)))
                while select.select([own], [], [], 0)[0] and own.recv(1 << 20):
                    pass

    def is_cut(self, pair, read=()):
        """Whether it is, before the server has read everything twenty times more."""
        for _ in range(20):
            self.watch.read([own.fileno() for own in read], True)
            select.select([self.wake], [], [], 0.02)
            pair[0].settimeout(0.01)
            try:
                return pair[0].recv(1) == b""
            except TimeoutError:
                pass
        return False

    def told(self):
        """Waits until it is told how many were cut off."""
        until = time.monotonic() + TIMEOUT
        while not (found := self.watch.found()):
            assert time.monotonic() < until
            time.sleep(0.001)
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.watch.stop()
        os.close(self.wake)
        os.close(self.waker)
        self.listener.close()


def test_a_message_without_end_is_cut_off_and_no_other():
    with Taken() as server:
        pairs = endless, steady, little = [server.connection() for _ in range(3)]
        server.send(little, UNFINISHED // 2)
        for _ in range(10):
            server.send(endless, UNFINISHED // 8)
            server.send(steady, UNFINISHED // 8)
            server.watch.read([steady[1].fileno()], True)  # whole messages come by it
        assert server.is_cut(endless, read=[steady[1]])
        assert server.told() == 1
        assert not server.is_cut(steady, read=[steady[1]])
        assert not server.is_cut(little)
        assert server.watch.found() == 0
        for ends in pairs:
            for end in ends:
                end.close()


@pytest.mark.parametrize(
    ("host", "watched", "family"),
    [
        ("127.0.0.1", "0.0.0.0", socket.AF_INET),
        ("::1", "::1", socket.AF_INET6),
        ("::1", "::", socket.AF_INET6),
        ("127.0.0.1", "localhost", socket.AF_INET),  # what is no number means all
    ],
)
def test_addresses(host, watched, family):
    try:
        server = Taken(host, family=family, watched=watched)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with server:
        pair = server.connection()
        server.send(pair, 2 * MOST)
        assert server.told() == 1
        for end in pair:
            end.close()


def test_what_waits_unread_is_bounded_though_the_server_does_not_read():
    with Taken() as server:
        waits, floods = server.connection(), server.connection()
        server.send(waits, MOST // 2)
        server.send(floods, 2 * MOST)
        floods[0].settimeout(TIMEOUT)
        assert floods[0].recv(1) == b""
        assert os.read(server.wake, 1) == b"!"  # the server is told to read
        waits[0].settimeout(0.1)
        with pytest.raises(TimeoutError):
            waits[0].recv(1)
        assert server.told() == 1
        for end in *waits, *floods:
            end.close()


def test_what_a_message_makes_of_memory_is_bounded_though_the_server_does_not_read():
    """Parts without content are kept in 32 times the bytes that they have on the way."""
    with Taken(memory=8 << 20) as server:
        waits, floods = server.connection(), server.connection()
        server.send(waits, MOST // 2)
        kept = []
        while not select.select([floods[0]], [], [], 0.002)[0] and len(kept) < 300:
            server.send(floods, MOST // 400)
            kept.append(b"1" * (1 << 20))
        floods[0].settimeout(TIMEOUT)
        assert floods[0].recv(1) == b""
        waits[0].settimeout(0.1)
        with pytest.raises(TimeoutError):  # nothing came by it while memory was taken
            waits[0].recv(1)
        assert server.told() == 1
        for end in *waits, *floods:
            end.close()


def test_connections_of_other_ports_are_nobody_s_business():
    with Taken() as server, Taken("127.0.0.2", server.listener.getsockname()[1]) as other:
        pair = other.connection()
        other.watch.stop()
        server.send(pair, 2 * MOST)
        assert not server.is_cut(pair)
        for end in pair:
            end.close()


def test_another_connection_by_the_same_descriptor_is_another():
    """That the one before it was cut off does not count."""
    with Taken() as server:
        peer, own = server.connection()
        server.send((peer, own), 2 * MOST)
        assert server.told() == 1
        number = own.fileno()
        peer.close()
        again = socket.create_connection(server.listener.getsockname())
        accepted = server.listener.accept()[0]
        os.dup2(accepted.fileno(), number)
        accepted.close()
        assert not server.is_cut((again, own))
        server.send((again, own), 2 * MOST)
        assert server.told() == 1
        for end in own, again:
            end.close()
