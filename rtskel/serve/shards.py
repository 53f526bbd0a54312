"""Several servers behind one pair of endpoints: started, watched, and started again by a parent that refines nothing.

Each shard is a whole server in a process of its own, with its own engine: whatever happens to it, the others never
notice. Streams are divided among the shards by their clients (`wire.choose`), whom the parent tells where the shards
are (`rtskel.serve.front`). A shard that dies, or whose loop stands still, is started again at the same endpoints; its
streams start afresh there, as with any server that was started again.

Shards lead sessions of their own, so that Ctrl-C reaches the parent only, which passes on what it is told: to end, or
to replace the engines. A shard whose parent has died ends in order.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeAlias

from rtskel.closing import Closing
from rtskel.errors import RtskelError, ServeError
from rtskel.serve.config import ServeConfig
from rtskel.serve.front import Front, shard_endpoint
from rtskel.serve.process import ENDS, RELOAD

LOOK_MS = 50
"""How often it is looked after the shards."""

SILENT_S = 20.0
"""A shard that has not turned its loop for so long is killed, and started again."""

MAX_DELAY_S = 10.0
"""Longest time until a shard is started again that dies again and again."""

GRACE_S = 30.0
"""How much longer than `drain_s` a shard may take to end."""

SPAWN = multiprocessing.get_context("spawn")

log = logging.getLogger("rtskel.serve")


class Ready(NamedTuple):
    """What a shard says once it serves.

    Attributes:
        raw, refined: endpoints as bound.
        model, skeleton, runs_on: of the engine.
        metrics: URL; "" without.
    """

    raw: str
    refined: str
    model: str
    skeleton: str
    runs_on: str
    metrics: str = ""


class Link:
    """A shard's line to its parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ready(self, ready: Ready) -> None:
        """It serves."""
        self._connection.send(ready)

    def beat(self) -> None:
        """Its loop turns. Never waits for a parent that does not listen."""
        with suppress(OSError):
            if os.name != "posix" or select.select([], [self._connection], [], 0)[1]:
                self._connection.send(None)

    def end(self, undrained: int) -> None:
        """It ends, and so much was left."""
        with suppress(OSError):
            self._connection.send(undrained)


Serve: TypeAlias = Callable[[ServeConfig, Link], None]
"""Serves until a signal comes; can be pickled, and runs in a process of its own."""


def _run(serve: Serve, config: ServeConfig, connection: Connection) -> None:
    """A shard's process."""
    with suppress(AttributeError, OSError):
        os.setsid()
    threading.Thread(target=_end_with_parent, name="rtskel-parent", daemon=True).start()
    try:
        serve(config, Link(connection))
    except RtskelError as error:
        with suppress(OSError):
            connection.send(str(error))
        raise SystemExit(2) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass
class _Shard:
    """A shard, through all its lives."""

    config: ServeConfig
    process: Any = None
    connection: Connection | None = None
    ready: Ready | None = None  # in this life
    problem: str = ""  # with which it ended
    heard: float = 0.0  # when it last said something
    born: float = 0.0
    start_at: float = 0.0
    delay: float = 0.0
    restarts: int = 0
    undrained: int = 0

    def start(self, serve: Serve, now: float) -> None:
        self.connection, theirs = SPAWN.Pipe()
        name = f"rtskel shard {self.config.shard[0]}" if self.config.shard else None
        self.process = SPAWN.Process(target=_run, args=(serve, self.config, theirs), name=name)
        self.process.start()
        theirs.close()
        self.ready, self.problem, self.born, self.heard = None, "", now, now

    def listen(self, now: float) -> None:
        """What it has said since."""
        with suppress(EOFError, OSError):
            while self.connection is not None and self.connection.poll():
                said = self.connection.recv()
                self.heard = now
                if isinstance(said, Ready):
                    self.ready = said
                    # It comes back at the same place.
                    self.config = replace(self.config, raw=said.raw, refined=said.refined)
                elif isinstance(said, str):
                    self.problem = said
                elif isinstance(said, int):
                    self.undrained = said

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.exitcode is None

    def send(self, number: int) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def bury(self) -> None:
        """Free what a process that has ended leaves."""
        if self.process is not None:
            self.process.join()
            self.process = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Shards(Closing):
    """The parent. Making it starts all shards, and returns once they serve.

    Attributes:
        raw_endpoint, refined_endpoint: of the front.
        first: what the first shard has said of itself at the start.
        undrained: windows and messages that all of them could not refine at the end, once `run` has returned.

    Args:
        config: of the front; the shards' differ in their endpoints only.
        count: of shards.
        serve: what a shard does.
        clock: time in s.

    Raises:
        RtskelError: an endpoint cannot be bound, or a shard does not start.
    """

    def __init__(
        self, config: ServeConfig, count: int, serve: Serve, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._serve, self._drain_s = clock, serve, config.drain_s
        self._shards = [_Shard(_of_shard(config, which, count)) for which in range(count)]
        self._stopping: float | None = None  # when the end began
        self._turned = clock()
        self.undrained = 0
        self._front = Front(config)
        try:
            self.raw_endpoint, self.refined_endpoint = self._front.raw_endpoint, self._front.refined_endpoint
            self._start(config)
        except BaseException:
            self.close()
            raise

    def _start(self, config: ServeConfig) -> None:
        for shard in self._shards:
            shard.start(self._serve, self._clock())
        while not all(shard.ready for shard in self._shards):
            self._front.turn(LOOK_MS)
            for which, shard in enumerate(self._shards):
                shard.listen(self._clock())
                if not shard.alive:
                    raise ServeError(shard.problem or f"shard {which} ended with status {shard.process.exitcode}")
        told = [shard.ready for shard in self._shards if shard.ready]
        about = told[0].model, told[0].skeleton, config.lookaheads
        self._front.announce([ready.raw for ready in told], [ready.refined for ready in told], about)
        self.first = told[0]

    @property
    def serving(self) -> Mapping[int, tuple[int, Ready]]:
        """The shards that serve now: process, and what it has said of itself."""
        return {
            which: (shard.process.pid, shard.ready)
            for which, shard in enumerate(self._shards)
            if shard.alive and shard.ready
        }

    def figures(self) -> list[tuple[str, int]]:
        """Of each shard: where its metrics are ("": nowhere now), and how often it was started again."""
        return [(shard.ready.metrics if shard.ready else "", shard.restarts) for shard in self._shards]

    def unhealthy(self) -> str:
        """Why the parent does not look after its shards; "" if it does. May be called from any thread."""
        silent = self._clock() - self._turned
        return f"the loop has not turned for {silent:.1f} s" if silent > SILENT_S else ""

    def unready(self) -> str:
        """Why not all frames are refined now; "" if they are. May be called from any thread."""
        if self._stopping is not None:
            return "the shards are ending"
        away = [str(which) for which, shard in enumerate(self._shards) if not shard.ready]
        return f"shard {', '.join(away)}: not there now" if away else self.unhealthy()

    def run(self, on_turn: Callable[[], None] = lambda: None) -> int:
        """Look after the shards until SIGTERM, SIGINT or SIGHUP; then have them complete their streams, and return.

        SIGUSR1 replaces all engines. For the main thread of a process.

        Returns:
            Which signal it was.
        """
        passed = 0
        with self._signals() as received:
            while self._stopping is None or any(shard.alive for shard in self._shards):
                self._front.turn(LOOK_MS)
                self._turned = self._clock()
                for number in received[passed:]:
                    self._pass_on(number)
                    passed += 1
                for which, shard in enumerate(self._shards):
                    self._look_after(which, shard, self._turned)
                on_turn()
        for shard in self._shards:
            shard.listen(self._clock())
        self.undrained = sum(shard.undrained for shard in self._shards)
        return next(number for number in received if number != RELOAD)

    def close(self) -> None:
        """Ends what is left of the shards, and frees the endpoints."""
        for shard in self._shards:
            shard.send(signal.SIGTERM)
        for shard in self._shards:
            if shard.process is not None:
                shard.process.join(self._drain_s + GRACE_S)
            shard.send(signal.SIGKILL)
            shard.bury()
        self._front.close()

    # --- looking after them -------------------------------------------------------------------------------------------

    def _look_after(self, which: int, shard: _Shard, now: float) -> None:
        shard.listen(now)
        if self._stopping is not None:
            if now - self._stopping > self._drain_s + GRACE_S:
                shard.send(signal.SIGKILL)
        elif shard.alive:
            if shard.ready and now - shard.heard > SILENT_S:
                log.warning("shard %d has stood still for %.0f s: it is killed", which, now - shard.heard)
                shard.send(signal.SIGKILL)
        elif shard.process is not None:
            self._died(which, shard, now)
        elif now >= shard.start_at:
            shard.start(self._serve, now)

    def _died(self, which: int, shard: _Shard, now: float) -> None:
        why = shard.problem or f"status {shard.process.exitcode}"
        shard.delay = 0.0 if now - shard.born > MAX_DELAY_S else min(MAX_DELAY_S, 2 * shard.delay + 0.1)
        log.warning("shard %d ended (%s): it is started again in %.1f s", which, why, shard.delay)
        shard.bury()
        shard.ready = None
        shard.restarts += 1
        shard.start_at = now + shard.delay

    def _pass_on(self, number: int) -> None:
        """What the parent is told, the shards are told: to end (a second time: at once), or to replace engines."""
        if number != RELOAD and self._stopping is None:
            self._stopping = self._clock()
        for shard in self._shards:
            # One that does not serve yet would die of it, and opens the engine's file now anyhow.
            if number != RELOAD:
                shard.send(signal.SIGTERM)
            elif shard.ready:
                shard.send(number)

    @contextmanager
    def _signals(self) -> Iterator[list[int]]:
        """Signals that have come."""
        received: list[int] = []

        def handle(number: int, _: object) -> None:
            received.append(number)
            self._front.wake()

        taken = ENDS if RELOAD is None else (*ENDS, RELOAD)
        before = {number: signal.signal(number, handle) for number in taken}
        try:
            yield received
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _of_shard(config: ServeConfig, which: int, count: int) -> ServeConfig:
    raw, refined = shard_endpoint(config.raw, which), shard_endpoint(config.refined, which)
    return replace(config, raw=raw, refined=refined, shard=(which, count))


def threads_of_each(count: int) -> int:
    """CPU threads of each shard's engine, so that all shards together have one for each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // count)
