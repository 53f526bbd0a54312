"""What would a user pick instead, what does it take a frame, and what error remains at the same look-ahead?

A signer as seen by a live estimator goes frame by frame through each opponent, on one thread of its own: rtskel,
Casiez's filter from its package, and SciPy's polynomials. The filters get missing joints where they were last seen, and
are tuned to the least squared error on another clip at that look-ahead.

    python bench/instead.py --save instead
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from measure.poses import Array, Example, Mask, synthetic
from measure.processes import apart
from measure.report import WEIGHTS, arguments, bench, names, percentiles, table, unavailable
from peers import OneEuro, SavitzkyGolay, Setting
from scipy.signal import savgol_coeffs, savgol_filter

from rtskel.cli.options import frames_list
from rtskel.engine import describe, open_engine
from rtskel.filters import fill_in_time, one_euro, weighted
from rtskel.refine import Refiner
from rtskel.training.score import errors

WARM_UP = 20
"""Frames that are not timed."""


def held(example: Example) -> Array:
    """The sequence with every missing joint where it was last seen (0 before that)."""
    return fill_in_time(example.xyz, example.missing, 0, np.zeros(example.xyz.shape[1:]))


class Opponent(NamedTuple):
    """What is measured.

    Attributes:
        push: takes frame i, xyz [J, 3] with missing joints where they were last seen, and missing [J]; returns the
            estimate [J, 3] of frame i - lookahead; the first frame stands for those before it.
        setting: what it is tuned to.
    """

    push: Callable[[Array, Mask], Array]
    setting: Setting = None


def recent(size: int) -> Callable[[Any], deque[Any]]:
    """A function that keeps the last `size` of what it is given, and returns them."""
    kept: deque[Any] = deque(maxlen=size)

    def keep(item: Any) -> deque[Any]:
        kept.extend([item] * max(1, size - len(kept)))
        return kept

    return keep


def tuned(
    settings: Iterable[Setting], estimate: Callable[..., Array], lookahead: int, options: Namespace
) -> tuple[float, ...]:
    """The setting with the least squared error on another clip, without the last frames, whose future never came.

    Args:
        estimate: maps held frames and a setting to poses.
    """
    clip = synthetic(options.clip, seed=12)
    seen, end = held(clip), len(clip.truth) - lookahead
    return min(filter(None, settings), key=lambda s: np.square(estimate(seen, *s)[:end] - clip.truth[:end]).mean())


def hold(lookahead: int, options: Namespace) -> Opponent:
    """Every joint where it was last seen."""
    keep = recent(1 + lookahead)
    return Opponent(lambda frame, missing: keep(frame)[0])


def one_euro_package(lookahead: int, options: Namespace) -> Opponent:
    """The 1 Euro filter, one of the package OneEuroFilter for each coordinate."""
    from OneEuroFilter import OneEuroFilter

    def estimate(seen: Array, least: float, beta: float, speed: float, back: float) -> Array:
        return np.roll(one_euro(seen, least, beta, speed), -int(back), 0)

    *setting, back = found = tuned(
        (s for s in OneEuro.settings if s and s[3] <= lookahead), estimate, lookahead, options
    )
    filters: list[Any] = []
    keep = recent(1 + lookahead - int(back))

    def push(frame: Array, missing: Mask) -> Array:
        filters.extend(OneEuroFilter(1.0, *setting) for _ in range(frame.size - len(filters)))
        out = [filter_(value) for filter_, value in zip(filters, frame.ravel().tolist(), strict=True)]
        return np.asarray(keep(np.reshape(out, frame.shape))[0])

    return Opponent(push, found)


def savitzky_golay(lookahead: int, options: Namespace) -> Opponent:
    """scipy.signal.savgol_filter over the last frames."""

    def estimate(seen: Array, past: float, order: float) -> Array:
        taps = savgol_coeffs(int(past) + 1 + lookahead, int(order), pos=int(past), use="dot")
        out = weighted([np.roll(seen, shift, 0) for shift in range(int(past), -lookahead - 1, -1)], taps)
        out[: int(past)] = seen[: int(past)]
        return out

    past, order = map(int, setting := tuned(SavitzkyGolay.settings, estimate, lookahead, options))
    keep = recent(past + 1 + lookahead)

    def push(frame: Array, missing: Mask) -> Array:
        frames = np.stack(keep(frame))
        return np.asarray(savgol_filter(frames, len(frames), order, axis=0)[past])

    return Opponent(push, setting)


def ours(lookahead: int, options: Namespace, precision: str | None = None) -> Opponent:
    """rtskel; the frame as it is while there is no estimate yet."""
    engine = open_engine(options.engine, precision=precision, max_batch=1, threads=1)
    refiner = Refiner(engine, lookahead=lookahead)

    def push(xyz: Array, missing: Mask) -> Array:
        done = refiner.push(xyz, ~missing).xyz
        return np.asarray(done[0] if len(done) else xyz, np.float64)

    return Opponent(push)


OPPONENTS: dict[str, Callable[[int, Namespace], Opponent]] = {
    "hold last": hold,
    "One-Euro (OneEuroFilter)": one_euro_package,
    "Savitzky-Golay (SciPy)": savitzky_golay,
    "rtskel": ours,
    "rtskel bf16": partial(ours, precision="bf16"),
}


def measure(name: str, lookahead: int, options: Namespace, control: Connection) -> None:
    """One opponent at one look-ahead: errors, and microseconds a frame."""
    example = synthetic(options.clip, seed=11)
    truth = example.truth
    try:
        opponent = OPPONENTS[name](lookahead, options)
    except Exception as failure:
        control.send(unavailable(failure))
        return
    out, wall, cpu = [], [], []
    for x, m in zip(held(example), example.missing, strict=True):
        start, used = time.perf_counter(), time.process_time()
        out.append(opponent.push(x, m))
        wall.append(1e6 * (time.perf_counter() - start))
        cpu.append(1e6 * (time.process_time() - used))
    end = len(truth) - lookahead
    poses, true = (1e3 * np.asarray(x, np.float32) for x in (out[lookahead:], truth[:end]))  # mm
    found: dict[str, Any] = errors([poses], [true], range(truth.shape[1]))._asdict()
    found |= {"us": percentiles(wall[WARM_UP:]), "cpu_us": float(np.mean(cpu[WARM_UP:])), "setting": opponent.setting}
    control.send(found)


def run(options: Namespace) -> dict[str, Any]:
    """Every opponent at every look-ahead."""
    found = {
        str(lookahead): {name: apart(measure, name, lookahead, options) for name in options.only}
        for lookahead in options.lookaheads
    }
    return {"model": describe(options.engine).model_id, "clip": options.clip, "lookaheads": found}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as tables."""
    out, titles = [], {"mse": "MSE mm^2", "mpjpe": "MPJPE mm", "acceleration": "jitter mm"}
    for lookahead, opponents in result["lookaheads"].items():
        rows: dict[str, dict[str, Any]] = {}
        for name, found in opponents.items():
            if "us" not in found:
                out.append(f"{name}: {found['unavailable']}")
                continue
            rows[name] = {"us a frame p50": found["us"]["p50"], "p99": found["us"]["p99"], "CPU us": found["cpu_us"]}
            rows[name] |= {title: found[key] for key, title in titles.items()}
        out += [*table(f"lookahead {lookahead}", rows, ".2f"), ""]
    return out


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    graph = str(WEIGHTS.with_suffix(".onnx"))
    parser.add_argument("--engine", default=graph, help="an engine file")
    parser.add_argument("--lookaheads", type=frames_list, default=[0, 4], help="with commas between")
    parser.add_argument("--clip", type=float, default=24.0, help="seconds of the clip")
    parser.add_argument("--only", type=names(OPPONENTS), default=[*OPPONENTS], help="opponents, with commas between")
    return bench("instead", parser.parse_args(), run, lines)


if __name__ == "__main__":
    raise SystemExit(main())
