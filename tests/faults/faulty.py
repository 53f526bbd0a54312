"""`rtskel serve --engine null` with an engine that does wrong on demand:

    python tests/faults/faulty.py CONTROL serve --engine null ...

What the file CONTROL names is done by the next batch; then the file is removed. FAULTS says what there is.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def _raise(error: BaseException) -> Any:
    raise error


def _deadlock(library: Any) -> None:
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def _some(y: np.ndarray, value: float) -> np.ndarray:
    y = y.copy()
    y[0, -1, 7] = value
    return y


FAULTS: dict[str, Callable[[np.ndarray], Any]] = {
    "raises": lambda y: _raise(RuntimeError("on demand")),
    "has no memory": lambda y: _raise(MemoryError()),
    "exits": lambda y: _raise(SystemExit(3)),
    "is interrupted": lambda y: _raise(KeyboardInterrupt()),
    "none": lambda y: None,
    "text": lambda y: "pose",
    "nan": lambda y: np.full_like(y, np.nan),
    "one nan": lambda y: _some(y, np.nan),
    "infinity": lambda y: _some(y, np.inf),
    "huge": lambda y: _some(y, 3e38),
    "1e30": lambda y: np.full_like(y, 1e30),
    "fewer windows": lambda y: y[:0],
    "fewer joints": lambda y: y[:, :, :-1],
    "two coordinates": lambda y: y[..., :2],
    "flat": lambda y: y.ravel(),
    "complex": lambda y: y.astype(np.complex64),
    "sleeps 1.5 s": lambda y: (time.sleep(1.5), y)[1],
    "hangs": lambda y: (_deadlock(ctypes.CDLL(None)), y)[1],
    "hangs with the GIL": lambda y: (_deadlock(ctypes.PyDLL(None)), y)[1],
}


def main() -> None:
    from rtskel.cli import main as command_line
    from rtskel.engine import open_engine

    control = Path(sys.argv[1])
    engine = type(open_engine("null"))
    run = engine._run

    def faulty(self: Any, *arguments: Any) -> Any:
        y = run(self, *arguments)
        try:
            fault = control.read_text()
            control.unlink()
        except FileNotFoundError:
            return y
        return FAULTS[fault](y)

    engine._run = faulty  # type: ignore[method-assign]
    engine.may_hang = True
    sys.argv[:] = ["rtskel", *sys.argv[2:]]
    sys.exit(command_line())


def demand(control: Path, fault: str) -> None:
    """Let the next batch do that; returns as soon as one has begun."""
    new = control.with_suffix(".new")
    new.write_text(fault)
    os.replace(new, control)


if __name__ == "__main__":
    main()
