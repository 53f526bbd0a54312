"""The contract of engines, which map windows of poses to refined windows.

The public `run` checks its arguments and the answer, `_run` computes; every engine kind implements `_run` (and
`_close`) only. Engines are synchronous: one call at a time, from any thread; others wait for `lock`.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rtskel.closing import Closing
from rtskel.engine.metadata import EngineInfo
from rtskel.errors import EngineError
from rtskel.refine.answer import check_answer
from rtskel.skeleton import UPPER_BODY_50

if TYPE_CHECKING:
    from rtskel.refine.config import RingConfig
    from rtskel.refine.ring import EngineRing

USUAL_POSITIONS = 4
"""Positions of a window that engines prepare for before they are told which: lookaheads 0 and 4 need so many."""


CLOSE_WAIT_S = 1.0
"""How long closing an engine waits for a run in another thread."""


class Engine(Closing, ABC):
    """Maps a batch of canonical windows to refined windows. A context manager; closing it releases what it holds.

    Attributes:
        info: what the engine is.
        max_batch: the most windows that one `run` takes.
        lock: held by `run`. Hold it (it is reentrant) while using an answer if other threads use the engine as well.
        may_hang: whether a call may never return, as those of a device or a library may: a server then watches it.
    """

    may_hang = True

    def __init__(self, info: EngineInfo, max_batch: int) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {max_batch}")
        self.info = info
        self.window = info.window
        self.joints = info.joints
        self.max_batch = max_batch
        self.lock = threading.RLock()
        self._closed = False
        self._every = np.arange(self.window)  # what `_run` gets if all positions are wanted
        self._checked: bytes | None = None  # the last positions that were valid

    def run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Refines B windows, 1 <= B <= max_batch; no window's result depends on the others in its batch.

        Args:
            x: [B, W, J, 3] float32, windows in their canonical frames (`rtskel.refine`); missing joints are 0. Any
                strides; C-contiguous arrays are not copied.
            missing: [B, W, J] bool, which joints are missing.
            positions: [P] int64 in 0..W-1, 1 <= P <= W: the frames of each window whose predictions are wanted. The
                engine saves what work it can on others. None: all of them.

        Returns:
            [B, P, J, 3] float32, C-contiguous. The engine owns this buffer: it is valid until the next `run` or
            `close`; copy what must live longer.

        Raises:
            ValueError: wrong type, dtype or shape; the message names the offending array.
            EngineError: the engine is closed, it failed, or its answer makes no sense (see `check_answer`).
        """
        with self.lock:
            return self._checked_run(x, missing, positions)

    def _checked_run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        if self._closed:
            raise EngineError(f"{self.info.name}: the engine is closed")
        self._check("x", x, np.float32, (self.window, self.joints, 3))
        self._check("missing", missing, np.bool_, (self.window, self.joints))
        if len(x) != len(missing):
            raise ValueError(f"x holds {len(x)} windows but missing holds {len(missing)}")
        if not 1 <= len(x) <= self.max_batch:
            raise ValueError(f"batch of {len(x)} windows: this engine takes 1 to {self.max_batch}")
        if positions is None:
            positions = self._every
        else:
            self._check_positions(positions)
        try:
            y = self._run(np.ascontiguousarray(x), np.ascontiguousarray(missing), np.ascontiguousarray(positions))
        except EngineError:
            raise
        except (Exception, SystemExit) as error:  # whatever a runtime raises
            reason = " ".join(str(error).split())[:200]
            raise EngineError(f"{self.info.name}: the engine failed ({type(error).__name__}: {reason})") from error
        return check_answer(y, (len(x), len(positions), self.joints, 3), self.info.name)

    def ring(self, config: RingConfig) -> EngineRing | None:
        """The engine's own ring on its device; None (as here) if callers keep the ring."""
        return None

    def close(self) -> None:
        """Releases what the engine holds; `run` raises afterwards. Closing twice is allowed.

        If another thread's `run` has not returned after `CLOSE_WAIT_S`, what the engine holds stays with it.
        """
        idle = self.lock.acquire(timeout=CLOSE_WAIT_S)
        try:
            closed, self._closed = self._closed, True
            if idle and not closed:
                self._close()
        finally:
            if idle:
                self.lock.release()

    @staticmethod
    def _check(name: str, array: object, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} must be a numpy array, not {type(array).__name__}")
        if array.dtype != dtype:
            raise ValueError(f"{name} must be {np.dtype(dtype)}, not {array.dtype}")
        if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
            raise ValueError(f"{name} must be [B, {', '.join(map(str, shape))}], not {list(array.shape)}")

    def _check_positions(self, positions: object) -> None:
        if not isinstance(positions, np.ndarray) or positions.dtype != np.int64 or positions.ndim != 1:
            raise ValueError("positions must be a numpy array of int64, [P]")
        if (key := positions.tobytes()) != self._checked:  # nearly always those of the last run
            if not (1 <= len(positions) <= self.window and positions.min() >= 0 and positions.max() < self.window):
                raise ValueError(f"positions must be 1 to {self.window} of 0..{self.window - 1}, not {positions}")
            self._checked = key

    def _chosen(self, y: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, P, J, 3] of all predictions y [B, W, J, 3], for engines that always compute all."""
        return y if positions is self._every else np.take(y, positions, axis=1)

    @abstractmethod
    def _run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Computes. Shapes and dtypes are right and all arrays C-contiguous, though not necessarily writable."""

    def _close(self) -> None:
        """Releases what the engine holds. Called once."""


def buckets(largest: int, growth: int = 2) -> list[int]:
    """Sizes that an engine prepares for: the powers of `growth` (a power of two) below `largest`, and `largest`."""
    step = growth.bit_length() - 1
    return [1 << k for k in range(0, (largest - 1).bit_length(), step)] + [largest]


def bucket(size: int, largest: int, growth: int = 2) -> int:
    """The smallest of `buckets(largest, growth)` that holds `size`."""
    step = growth.bit_length() - 1
    return min(1 << -(-(size - 1).bit_length() // step) * step, largest)


class NullEngine(Engine):
    """The identity: for measuring everything around an engine."""

    may_hang = False

    def __init__(self, *, window: int = 32, joints: int = UPPER_BODY_50.joints, max_batch: int = 64) -> None:
        if window < 1 or joints < 1:
            raise ValueError(f"window and joints must be at least 1, not {window} and {joints}")
        skeleton_id = UPPER_BODY_50.id if joints == UPPER_BODY_50.joints else f"any-{joints}"
        super().__init__(EngineInfo("null", "null", window, joints, skeleton_id, "", "fp32", "", "rtskel"), max_batch)
        self._y = np.empty(max_batch * window * joints * 3, np.float32)

    def _run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        shape = (len(x), len(positions), self.joints, 3)
        y = self._y[: math.prod(shape)].reshape(shape)
        return np.take(x, positions, axis=1, out=y, mode="clip")  # "raise" would go through a copy
