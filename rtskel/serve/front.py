"""One pair of endpoints at which clients learn where the shards are that do the work. No pose goes through it.

A publisher that connects is told by a subscription where the shards take raw poses, a reader by heartbeats where they
publish refined ones ("Several servers" in WIRE.md).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence

from rtskel import wire
from rtskel.closing import Closing
from rtskel.errors import ServeError
from rtskel.serve.config import ServeConfig
from rtskel.serve.reports import SECOND
from rtskel.serve.sockets import Inbox, Sockets
from rtskel.serve.subscriptions import Subscriptions
from rtskel.wire.shards import ANY_HOST

MAX_READ = 256
"""Messages that are read, and thrown away, in one turn: nobody should send any."""

log = logging.getLogger("rtskel.serve")


class Front(Closing):
    """The pair of endpoints. `turn` is to be called again and again.

    Attributes:
        raw_endpoint, refined_endpoint: as bound, with the real port.

    Args:
        config: endpoints, keys, and how often there are heartbeats.
        clock: time in ns.

    Raises:
        ServeError: an endpoint cannot be bound, or must not be without keys.
    """

    def __init__(self, config: ServeConfig, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._interval = round(config.heartbeat_s * SECOND)
        self._epoch = secrets.randbits(48)
        self._subscriptions = Subscriptions()
        self._beats = 0
        self._beat_at = 0
        self._about: tuple[str, str, Sequence[int]] = "", "", ()
        self._shards: Sequence[str] = ()
        self._refused = 0
        self._sockets = Sockets(config, joints=1, takes=())
        try:
            self.raw_endpoint, self.refined_endpoint = self._sockets.bind()
        except BaseException:
            self.close()
            raise

    def announce(self, raw: Sequence[str], refined: Sequence[str], about: tuple[str, str, Sequence[int]]) -> None:
        """From now on clients are told of these shards. To be called once.

        Args:
            raw, refined: endpoints of the shards, as bound.
            about: their model, skeleton and lookaheads.
        """
        self._sockets.take(wire.shards_topic([*map(announced, raw)]))
        self._shards, self._about = [*map(announced, refined)], about

    def close(self) -> None:
        """Frees the endpoints."""
        self._sockets.close()

    def wake(self) -> None:
        """Ends the `turn` that is waiting, or the next one. For signal handlers."""
        self._sockets.wake()

    def turn(self, timeout_ms: int) -> None:
        """Waits for clients as long as that, and does what they ask for."""
        self._sockets.wait(timeout_ms, reading=True)
        self._sockets.receive(Inbox(), MAX_READ, self._clock, lambda *_: None)
        now = self._clock()
        self._take_subscriptions(now)
        if self._shards and now >= self._beat_at:
            self._beat_at = now + self._interval
            self._heartbeat(now)

    def _take_subscriptions(self, now: int) -> None:
        for message, reader, why in self._subscriptions.follow(*self._sockets.subscriptions(), now):
            if why:
                self._sockets.cut_off(reader)
            elif message == b"\1" + wire.HEARTBEAT_TOPIC:
                self._beat_at = 0  # so that a new reader knows at once

    def _heartbeat(self, now: int) -> None:
        admission = self._sockets.admission
        if admission is not None:
            admission.check(self._sockets.failed_handshakes())
            if (refused := admission.refused.total()) > self._refused:
                log.warning("%d clients were refused: %s", refused, ", ".join(admission.refused))
                self._refused = refused
        self._sockets.endless()
        model, skeleton, lookaheads = self._about
        beat = wire.Heartbeat(
            epoch=self._epoch,
            seq=self._beats,
            time_ns=now,
            interval_ns=self._interval,
            streams=0,
            frames_in=0,
            frames_out=0,
            counts={},
            model=model,
            skeleton=skeleton,
            lookaheads=lookaheads,
            loop_fps=0.0,
            shards=self._shards,
        )
        self._beats += 1
        self._sockets.send([wire.encode(beat)])


def shard_endpoint(endpoint: str, which: int) -> str:
    """Where that shard binds if the front is to bind that: TCP ports two further on for each, or another path.

    Raises:
        ServeError: there is none.
    """
    transport, _, address = endpoint.partition("://")
    if transport == "ipc":
        return f"{endpoint}-{which}"
    host, _, port = address.rpartition(":")
    if transport != "tcp" or not (port == "*" or port.isdigit()):
        raise ServeError(f"{endpoint}: shards need tcp://HOST:PORT or ipc://PATH")
    if port in ("*", "0"):
        return endpoint
    if int(port) + 2 * which + 2 > 65535:
        raise ServeError(f"{endpoint}: no port is left for shard {which}")
    return f"tcp://{host}:{int(port) + 2 * which + 2}"


def announced(endpoint: str) -> str:
    """A shard's endpoint, as bound, as clients are told of it: they know by which host they reach the front."""
    return ANY_HOST + endpoint.rpartition(":")[2] if endpoint.startswith("tcp://") else endpoint
