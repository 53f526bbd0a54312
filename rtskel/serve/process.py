"""A server as a process: signals, and a garbage collector that stays out of the way."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rtskel.engine import Engine
from rtskel.serve.config import ServeConfig
from rtskel.serve.server import Server


def run_server(
    config: ServeConfig,
    engine: Engine,
    on_ready: Callable[[Server], None],
    *,
    on_end: Callable[[Server], None] | None = None,
    clock: Callable[[], int] = time.monotonic_ns,
) -> int:
    """Serve until SIGTERM or SIGINT, then end every stream and return. For the main thread of a process.

    Args:
        config: what to do.
        engine: an open engine; borrowed.
        on_ready: called with the server once its endpoints are bound and signals are taken care of.
        on_end: called with the server once it has published all that it will.
        clock: see `Server`.

    Returns:
        Which signal it was; 0 if `Server.stop` was called without one.

    Raises:
        ServeError, EngineError: see `Server`.
    """
    with Server(config, engine, clock=clock) as server, _signals(server.stop) as received, _few_collections():
        on_ready(server)
        server.run()
        if on_end is not None:
            on_end(server)
        return received[0] if received else 0


@contextmanager
def _few_collections() -> Iterator[None]:
    """Keeps the garbage collector from walking all that is loaded again whenever many messages are in hand."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """The first SIGTERM or SIGINT calls `stop` and is put on the list; a second one ends the process at once."""
    both = (signal.SIGTERM, signal.SIGINT)
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in both:
            signal.signal(each, signal.SIG_DFL)
        stop()

    before = {number: signal.signal(number, handle) for number in both}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
