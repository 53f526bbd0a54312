"""What an engine may answer: anything else is a fault, not a pose."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import EngineError
from rtskel.refine.canonical import FAR

_FLOAT32 = np.dtype(np.float32)  # quicker to compare with

MAX_ANSWER = 10 * FAR
"""No prediction is this many canonical units from its window's origin. Input is within FAR; fits may leave it."""


def check_answer(y: Any, shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """The answer y of the engine `name`: float32 of that shape, finite, within `MAX_ANSWER`; else EngineError."""
    if not isinstance(y, np.ndarray):
        raise EngineError(f"{name}: the engine answered with {type(y).__name__}, not with an array")
    if y.shape != shape or y.dtype != _FLOAT32:
        raise EngineError(f"{name}: the engine's answer is {y.dtype} {list(y.shape)}, not float32 {list(shape)}")
    from rtskel import native

    answer: NDArray[np.float32] = np.ascontiguousarray(y)
    if not native.within(answer, MAX_ANSWER):
        kind = "too large" if np.isfinite(answer).all() else "not finite"
        raise EngineError(f"{name}: numbers in the engine's answer are {kind}")
    return answer
