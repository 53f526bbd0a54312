"""The connection of publishers to a server."""

from __future__ import annotations

from collections import Counter

import zmq

from rtskel.client.socket import Context, Socket, remaining_ms
from rtskel.curve import ClientKeys


class Uplink:
    """The XPUB socket of one or more publishers. It knows what the server has subscribed to.

    Attributes:
        endpoint: of the server.
        linger: seconds that closing may take.
        socket: the ZeroMQ socket.
    """

    def __init__(self, endpoint: str, keys: ClientKeys | None, queue: int, linger: float, context: Context) -> None:
        self.endpoint = endpoint
        self.linger = linger
        self._users = 1
        self._subscriptions: Counter[bytes] = Counter()
        self._socket = Socket(zmq.XPUB, context)
        self.socket = self._socket.zmq
        self.socket.xpub_verboser = True  # report every subscription and its end, so that the count is exact
        self.socket.xpub_nodrop = True  # a full queue is an error that can be counted, not a silent loss
        self.socket.immediate = True  # a server that has gone is no subscriber: its queue ends with the connection
        self.socket.sndhwm = queue
        self._socket.connect(endpoint, keys)

    def shared(self) -> Uplink:
        """The same connection for one more publisher."""
        self._users += 1
        return self

    def close(self) -> None:
        """The last publisher closes the socket."""
        self._users -= 1
        if not self._users:
            self._socket.close(self.linger)

    def reaches(self, topic: bytes) -> bool:
        """Whether the server has subscribed to that topic, as far as is known now."""
        while int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            message = self.socket.recv(zmq.NOBLOCK)
            if message[:1] == b"\1":
                self._subscriptions[message[1:]] += 1
            elif message[:1] == b"\0":
                self._subscriptions -= Counter([message[1:]])  # removes what is no longer subscribed to
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    def wait(self, topic: bytes, deadline: float | None) -> bool:
        """Waits until the server subscribes to that topic; False if the deadline passes."""
        while not self.reaches(topic):
            if not self.socket.poll(remaining_ms(deadline), zmq.POLLIN):
                return self.reaches(topic)
        return True

    def send(self, topic: bytes, body: bytes, deadline: float | None) -> bool:
        """Whether both parts were queued for a server before the deadline."""
        while self.wait(topic, deadline):
            if self._queue(topic, body, zmq.NOBLOCK):
                return True
            left = remaining_ms(deadline)
            if left == 0:
                return False
            # An XPUB socket always polls as writable, so the sending call itself has to wait for room. It also returns
            # without an error if the server goes away meanwhile; then nobody has the message, and we wait for another.
            self.socket.sndtimeo = left
            if self._queue(topic, body, 0) and self.reaches(topic):
                return True
        return False

    def _queue(self, topic: bytes, body: bytes, flags: int) -> bool:
        try:
            self.socket.send_multipart((topic, body), flags)
        except zmq.Again:
            return False
        return True
