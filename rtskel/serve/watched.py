"""The engine as the server sees it: timed, never raising, given up on when it hangs, replaced while it runs."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.engine import Engine
from rtskel.errors import EngineError, RtskelError

MARGIN = 4
"""A batch may take this many times as long as so many windows usually do before it counts as a hang."""

MEMORY = 0.1
"""Weight of the latest call in what a window usually takes."""


class WatchedEngine:
    """An engine, its last call timed. If the call fails or hangs, there is no answer and `error` says why.

    With a timeout an engine that `may_hang` runs in a thread of its own, which costs some 50 us a call. After a call
    that hangs, the engine is not called again until that call returns; its answer is dropped.

    Rings that the engine keeps are its own: if those fail there are no frames left to answer with, and nothing guards
    against their hanging.

    Another engine can be opened beside it (`open_another`) and take its place between two batches (`take_over`).

    Args:
        engine: borrowed, until another one takes its place: then it is closed.
        clock: time in ns.
        timeout_s: after which a call counts as hanging, unless so many windows usually take longer; 0: never.

    Attributes:
        info: of the engine that runs.
    """

    def __init__(self, engine: Engine, clock: Callable[[], int], timeout_s: float = 0.0) -> None:
        self._clock = clock
        self.window = engine.window
        self.joints = engine.joints
        self.max_batch = engine.max_batch
        self.ring = engine.ring
        self.lock = threading.RLock()  # not the engine's: a call that hangs holds that one
        self._timeout_s = timeout_s
        self.started = self.ended = 0
        self.error = ""
        self._opening: threading.Thread | None = None
        self._opened: Engine | Exception | None = None
        self._released = False
        self._own: Engine | None = None  # the engine, if it was opened here
        self._use(engine)

    def _use(self, engine: Engine) -> None:
        self._engine, self._run, self.info = engine, engine.run, engine.info
        self._usual_s = 0.0  # a window
        self._worker = _Worker(engine.run) if self._timeout_s and engine.may_hang else None

    def try_out(self, positions: NDArray[np.int64]) -> None:
        """Run one window: an engine that cannot run is found before the first frame. EngineError says why."""
        _try_out(self._engine, positions)

    @property
    def hangs(self) -> bool:
        """Whether a call has not returned that was given up on."""
        return self._worker is not None and self._worker.busy

    def open_another(self, make: Callable[[], Engine], positions: NDArray[np.int64], done: Callable[[], None]) -> None:
        """Open another engine and try it out, in a thread of its own; then `take_over` has something to do.

        Where one is being opened already, that one it is.

        Args:
            make: opens it.
            positions: to try it with, see `Engine.run`.
            done: called in that thread once it is open, or has failed.
        """
        if self._opening is not None:
            return

        def opening() -> None:
            engine = None
            try:
                engine = make()
                self._check_fits(engine)
                _try_out(engine, positions)
                self._opened = engine
                if self._released:
                    engine.close()
            except Exception as error:
                if engine is not None:
                    engine.close()
                self._opened = error
            if not self._released:
                done()

        self._opening = threading.Thread(target=opening, name="rtskel-opening", daemon=True)
        self._opening.start()

    def take_over(self) -> str | None:
        """Runs the engine that was opened from now on; the one before is closed once its call has returned.

        Returns:
            None if there is none; else why there is none, "" if it runs.
        """
        if self._opening is None or self._opened is None:
            return None
        opened, self._opened = self._opened, None
        self._opening.join()
        self._opening = None
        if isinstance(opened, Exception):
            return " ".join(str(opened).split())[:200] or type(opened).__name__
        before, self._own = self._engine, opened
        if self._worker is not None:
            self._worker.end()
        self._use(opened)
        threading.Thread(target=before.close, name="rtskel-closing", daemon=True).start()  # it may have to wait
        return ""

    def _check_fits(self, engine: Engine) -> None:
        for name in ("window", "joints"):
            if (new := getattr(engine, name)) != (old := getattr(self, name)):
                raise EngineError(f"{engine.info.name}: its {name} is {new}, that of the running engine {old}")
        if engine.info.skeleton_id != self.info.skeleton_id:
            raise EngineError(f"{engine.info.name}: another skeleton, {engine.info.skeleton_id}")
        if engine.max_batch < self.max_batch:
            raise EngineError(f"{engine.info.name}: it takes {engine.max_batch} windows, not {self.max_batch}")

    def run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32] | None:
        """See `Engine.run`; never raises. None: there is no answer."""
        self.started = self._clock()
        self.error = ""
        try:
            if self._worker is None:
                return self._run(x, missing, positions)
            return self._call(self._worker, x, missing, positions)
        except BaseException as error:  # the streams go on
            if self._worker is None and _is_users(error):
                raise
            self.error = " ".join(str(error).split())[:200] or type(error).__name__
            return None
        finally:
            self.ended = self._clock()

    def limit_s(self, windows: int | None = None) -> float:
        """Seconds that a call for so many windows (default: a full batch) may take; inf without a timeout."""
        if self._worker is None:
            return math.inf
        return max(self._timeout_s, MARGIN * (windows or self.max_batch) * self._usual_s)

    def release(self) -> None:
        """The engine is not run again; it stays open if it was not opened here."""
        self._released = True
        if self._worker is not None:
            self._worker.end()
        if self._own is not None:
            self._own.close()

    def _call(
        self, worker: _Worker, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        start = time.perf_counter()
        y: NDArray[np.float32]
        y = worker.call(self.limit_s(len(x)), x, missing, positions)
        each = (time.perf_counter() - start) / len(x)
        # One slow call says little: it counts for MARGIN times the usual at most.
        self._usual_s += MEMORY * (min(each, MARGIN * self._usual_s or each) - self._usual_s)
        return y


def _try_out(engine: Engine, positions: NDArray[np.int64]) -> None:
    shape = (1, engine.window, engine.joints)
    try:
        engine.run(np.zeros((*shape, 3), np.float32), np.ones(shape, np.bool_), positions)
    except RtskelError:
        raise
    except Exception as error:
        raise EngineError(f"{engine.info.path or engine.info.kind}: the engine does not run: {error}") from error


def _is_users(error: BaseException) -> bool:
    """Whether it may be Ctrl-C, and not of the engine's making: a process that handles SIGINT never gets one."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


class _Worker:
    """Calls a function in a thread of its own, so that the caller can give up on it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._arguments: tuple[Any, ...] = ()
        self._result: Any = None
        self._error: BaseException | None = None
        self._ending = False
        self.busy = False  # with a call whose caller gave up on it
        # Locks that one side releases and the other acquires: the cheapest hand-over between threads.
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        threading.Thread(target=self._loop, name="rtskel-engine", daemon=True).start()

    def call(self, timeout_s: float, *arguments: Any) -> Any:
        """What the function returns or raises; EngineError if it takes longer, or an earlier call has not returned."""
        if self.busy:
            if not self._done.acquire(blocking=False):
                raise EngineError("the engine still hangs")
            self.busy = False
        self._arguments = arguments
        self._go.release()
        if not self._done.acquire(timeout=timeout_s):
            self.busy = True
            raise EngineError(f"the engine hangs: no answer within {timeout_s:.3g} s")
        result, error, self._result, self._error = self._result, self._error, None, None
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """There are no more calls: the thread ends, as soon as the function has returned."""
        self._ending = True
        self._go.release()

    def _loop(self) -> None:
        while True:
            self._go.acquire()
            if self._ending:
                return
            try:
                self._result, self._error = self._function(*self._arguments), None
            except BaseException as error:
                self._result, self._error = None, error
            self._done.release()
