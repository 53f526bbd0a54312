"""The engine as the server sees it: timed, and never raising."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rtskel.engine import Engine
from rtskel.errors import EngineError, RtskelError


class WatchedEngine:
    """An engine, its last call timed; where it fails, its input is the answer and `error` says why.

    Rings that the engine keeps are its own: where those fail, there are no frames left to answer with.
    """

    def __init__(self, engine: Engine, clock: Callable[[], int]) -> None:
        self._inner = engine
        self._clock = clock
        self.window = engine.window
        self.joints = engine.joints
        self.max_batch = engine.max_batch
        self.info = engine.info
        self.ring = engine.ring
        self.started = self.ended = 0
        self.error = ""

    def try_out(self, positions: NDArray[np.int64]) -> None:
        """One window: an engine that cannot run is found before the first frame. EngineError says why."""
        shape = (1, self.window, self.joints)
        try:
            self._inner.run(np.zeros((*shape, 3), np.float32), np.ones(shape, np.bool_), positions)
        except RtskelError:
            raise
        except Exception as error:
            raise EngineError(f"{self.info.path or self.info.kind}: the engine does not run: {error}") from error

    def run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `Engine.run`; never raises."""
        self.started = self._clock()
        self.error = ""
        try:
            return self._inner.run(x, missing, positions)
        except Exception as error:  # whatever a runtime throws: the streams go on
            self.error = " ".join(str(error).split())[:200] or type(error).__name__
            return np.take(x, positions, axis=1)
        finally:
            self.ended = self._clock()
