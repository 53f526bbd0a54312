"""A server as a process: signals, which end it whatever hangs, and a garbage collector that stays out of the way."""

from __future__ import annotations

import gc
import math
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
    reopen: Callable[[], Engine] | None = None,
) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, then end every stream and return. For the main thread of a process.

    SIGUSR1 replaces the engine (`Server.reload`).

    A process that makes no progress after the signal ends by itself, with status 1 and a line on stderr: also where the
    engine hangs and holds Python's lock. A second signal ends it at once.

    Args:
        config: what to do.
        engine: an open engine; borrowed.
        on_ready: called with the server once its endpoints are bound and signals are taken care of.
        on_end: called with the server once it has published all that it will.
        clock, reopen: see `Server`.

    Returns:
        Which signal it was; 0 if `Server.stop` was called without one.

    Raises:
        ServeError, EngineError: see `Server`.
    """
    with Server(config, engine, clock=clock, reopen=reopen) as server, _signals(server) as received, _few_collections():
        server.on_progress = lambda: _expect_progress(server.patience_s) if received else None
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
def _signals(server: Server) -> Iterator[list[int]]:
    """The first SIGTERM or SIGINT stops the server and is put on the list; a second one ends the process at once.

    From the first one on, the process ends if `_expect_progress` is not called again in time.
    """
    from rtskel import native

    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if _ALARM is None:
            for each in ENDS:
                signal.signal(each, signal.SIG_DFL)
        _expect_progress(server.patience_s)
        server.stop()

    taken = ENDS if _ALARM is None else (*ENDS, _ALARM)
    before = {number: signal.signal(number, handle) for number in taken}
    if RELOAD is not None:
        before[RELOAD] = signal.signal(RELOAD, lambda *_: server.reload())
    native.guard_signals(list(ENDS), math.ceil(server.patience_s))
    try:
        yield received
    finally:
        _expect_progress(0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""What ends a server in order; Windows has no SIGHUP."""

RELOAD = getattr(signal, "SIGUSR1", None)
"""What has the engine replaced; Windows has none."""

_ALARM = getattr(signal, "SIGALRM", None)
"""Windows has none, and no guard either."""


def _expect_progress(patience_s: float) -> None:
    """The process ends unless this is called again in so many seconds; 0: it does not."""
    if _ALARM is not None:
        signal.alarm(math.ceil(patience_s))
