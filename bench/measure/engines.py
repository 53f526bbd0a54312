"""Engines by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel import Engine, open_engine
from rtskel.refine import RingConfig
from rtskel.skeleton import UPPER_BODY_50


def opened(engine: str, max_batch: int = 64) -> Engine:
    """An engine by its name in the benches: "null", "bundled" or a path."""
    return open_engine(None if engine == "bundled" else engine, max_batch=max_batch)


RADIUS = 2
"""2 RADIUS + 1 predictions are averaged: what servers do unless told otherwise."""


def ring_config(window: int, lookaheads: Sequence[int]) -> RingConfig:
    """The ring of a server with one stream: its `positions` are those that a server asks an engine for."""
    return RingConfig(1, window, tuple(lookaheads), RADIUS, ahead=1, min_confidence=0.0, skeleton=UPPER_BODY_50)


def seconds_of(function: Callable[[], Any], least: int, seconds: float) -> list[float]:
    """Times of calls, in seconds: at least so many, for at least so long."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def flops(model: Any, positions: NDArray[np.int64] | None = None) -> int:
    """Floating-point operations of one window in a `Skeletor`, for all positions or for these."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, model.config.window, model.config.joints, 3)
    asked = None if positions is None else torch.from_numpy(positions)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(x, torch.zeros(x.shape[:3], dtype=torch.bool), asked)
    return int(counter.get_total_flops())


def bare_engine(engine: str, batches: Sequence[int], lookaheads: Sequence[int]) -> dict[int, float]:
    """Windows a second of the engine alone at each batch size, for the positions that a server asks for."""
    rng = np.random.default_rng(0)
    rates = {}
    with opened(engine, max(batches)) as engine_:
        positions = ring_config(engine_.window, lookaheads).positions
        x = rng.normal(size=(max(batches), engine_.window, engine_.joints, 3)).astype(np.float32)
        missing = np.zeros(x.shape[:3], np.bool_)
        for batch in batches:
            times = seconds_of(lambda b=batch: engine_.run(x[:b], missing[:b], positions), 8, 1.0)  # type: ignore[misc]
            rates[batch] = batch / float(np.median(times[len(times) // 4 :]))
    return rates
