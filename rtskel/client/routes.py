"""The connections of publishers: each stream by that to its server. Usually there is one server, and so one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from rtskel import wire
from rtskel.client.servers import RAW, servers
from rtskel.client.socket import Context
from rtskel.client.uplink import Frame, Sender, Uplink, log
from rtskel.curve import ClientKeys

MAX_LINES = 5
"""Lines that are logged of what servers refuse, and of what has not reached them."""


class Routes:
    """Connections to all servers that an endpoint stands for (see `servers`), and to the shards of those of them that
    are fronts.

    Streams are divided among them by `wire.choose`: among servers by their endpoints, then among shards by numbers.
    The first connection's context is that of all.

    Attributes:
        senders: who sends which stream; filled in by the publishers.
    """

    def __init__(self, endpoint: str, keys: ClientKeys | None, queue: int, context: Context) -> None:
        self.senders: dict[str, Sender] = {}
        self._joined: list[Sender] = []
        self._open = 0
        self._said = 0
        self._options = keys, queue
        self._names = servers(endpoint, RAW)
        self._shards: dict[str, Uplink] = {}  # by endpoint
        with ExitStack() as stack:
            self._servers: list[Uplink] = []
            for name in self._names:
                self._servers.append(Uplink(name, keys, queue, context, self.senders))
                stack.callback(self._servers[-1].close, 0)
                context = context or self._servers[0].context
            stack.pop_all()
        # Of each server: the shards that it has told of, and the connections that lead to it or to them.
        self._found: list[tuple[tuple[str, ...], list[Uplink]]] = [((), [server]) for server in self._servers]

    def join(self, sender: Sender) -> Routes:
        """The same connections for one more publisher."""
        self._joined.append(sender)
        self._open += 1
        return self

    def close(self, linger: float) -> None:
        """One publisher is done. The last one waits as `Uplink.close` does, and closes all."""
        self._open -= 1
        if self._open:
            return
        until = time.monotonic() + linger

        def close(uplink: Uplink) -> None:
            uplink.close(max(0.0, until - time.monotonic()))

        try:
            with ExitStack() as stack:  # the last one first: the first one's context is that of all
                for uplink in (*self._servers, *self._shards.values()):
                    stack.callback(close, uplink)
        finally:
            self._said = 0
            for sender in self._joined:
                if line := sender.summary():
                    self.say(line)

    def say(self, line: str) -> None:
        """Logs a line, unless there were too many of them."""
        self._said += 1
        if self._said <= MAX_LINES:
            log.warning("%s", line)
        elif self._said == MAX_LINES + 1:
            log.warning("and more of that kind, which is only counted")

    # --- which way ----------------------------------------------------------------------------------------------------

    def of(self, stream: str) -> Uplink:
        """The connection to the stream's server, as far as is known now."""
        ends = self._ends(wire.choose(stream, self._names))
        return ends[wire.choose(stream, wire.shard_names(len(ends)))]

    def all(self, stream: str | None) -> list[Uplink]:
        """The connection to the stream's server; None: those to all servers."""
        if stream is not None:
            return [self.of(stream)]
        return [end for which in range(len(self._servers)) for end in self._ends(which)]

    def _ends(self, which: int) -> list[Uplink]:
        """The connection to a server, or if it is a front, those to its shards."""
        server = self._servers[which]
        if server.shards:
            server.listen()
        told, ends = self._found[which]
        if server.shards != told:
            endpoints = [wire.reached(shard, server.endpoint) for shard in server.shards]
            for endpoint in endpoints:
                if endpoint not in self._shards:
                    self._shards[endpoint] = Uplink(endpoint, *self._options, self._servers[0].context, self.senders)
            ends = [self._shards[endpoint] for endpoint in endpoints] or [server]
            self._found[which] = server.shards, ends
            self._move()
        return ends

    def _move(self) -> None:
        """Frames that wait to be sent again go where they belong now."""
        for uplink in (*self._servers, *list(self._shards.values())):
            for frame in uplink.recall():
                self.of(frame.stream).take_over([frame])

    def split(self, streams: Sequence[str]) -> list[list[int]]:
        """Streams by the server that they belong to, as their places in the sequence."""
        if len(self.all(None)) == 1:
            return [[*range(len(streams))]]
        parts: dict[Uplink, list[int]] = {}
        for place, stream in enumerate(streams):
            parts.setdefault(self.of(stream), []).append(place)
        return [*parts.values()]

    # --- what an uplink does ------------------------------------------------------------------------------------------

    def reaches(self, topic: bytes, stream: str | None) -> bool:
        """Whether the stream's server, or all servers, have subscribed to that topic, as far as is known now."""
        return all([uplink.reaches(topic) for uplink in self.all(stream)])

    def wait(self, topic: bytes, stream: str | None, deadline: float | None) -> bool:
        """Waits until the stream's server, or all servers, subscribe to that topic; False if the deadline passes.

        Raises:
            AccessError: a server does not admit this client.
        """
        while True:
            uplinks = self.all(stream)
            if all([uplink.wait(topic, deadline) for uplink in uplinks]):
                return True
            if uplinks == self.all(stream):
                return False

    def wait_to_split(self, topic: bytes) -> None:
        """Waits until it is known which server every stream belongs to.

        Raises:
            AccessError: a server does not admit this client.
        """
        for server in self._servers:
            while not (server.shards or server.known):
                server.wait(topic, None)

    def send(self, frame: Frame, deadline: float | None) -> bool:
        """`Uplink.send` by the connection to the frame's server."""
        while not (uplink := self.of(frame.stream)).send(frame, deadline):
            if uplink is self.of(frame.stream):
                return False
        return True

    def refusal(self) -> str:
        """Why a server has refused this client since the last call; "" if none has."""
        return next((why for uplink in (*self._servers, *self._shards.values()) if (why := uplink.refusal())), "")
