"""What would a user pick instead, what does it take a frame, and what error remains at the same look-ahead?

A signer as seen by a live estimator goes frame by frame through each opponent, on one thread of its own: rtskel,
Casiez's filter from its package, SciPy's polynomials, the same network in a plain loop in PyTorch, and SmoothNet's
network likewise. Opponents without a notion of missing joints get them where they were last seen. The filters are tuned
to the least squared error on another clip at that look-ahead. SmoothNet's error needs weights, such as
`bench/accuracy.py --runs` keeps.

    python bench/instead.py --smoothnet FILE --save instead
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from measure.poses import Array, Example, Mask, synthetic
from measure.processes import apart
from measure.report import WEIGHTS, arguments, names, numbers, percentiles, report, table, unavailable
from peers import OneEuro, SavitzkyGolay, fill_in_time, one_euro, weighted
from scipy.signal import savgol_coeffs, savgol_filter

from rtskel.engine import describe, open_engine
from rtskel.refine import Refiner
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER

WARM_UP = 20
"""Frames that are not timed."""
SMOOTHNET = "SmoothNet (PyTorch)"


def held(example: Example) -> Array:
    """The sequence with every missing joint where it was last seen (0 before that)."""
    return fill_in_time(example.xyz, example.missing, 0, np.zeros(example.xyz.shape[1:]))


def error(estimate: Array, truth: Array, lookahead: int) -> float:
    """Mean squared error of a coordinate, without the last frames, whose future never came."""
    end = len(truth) - lookahead
    return float(np.square(estimate[:end] - truth[:end]).mean())


class Hold:
    """Every joint where it was last seen; the base of opponents without a notion of missing joints.

    `push` takes frame i, xyz [J, 3] and missing [J], and returns the estimate [J, 3] of frame i - lookahead; the first
    frame stands for those before it.
    """

    def __init__(self, lookahead: int, options: Namespace) -> None:
        self.lookahead = lookahead
        self._last: Array | None = None
        self._frames: deque[Array] = deque(maxlen=1 + lookahead)

    def push(self, xyz: Array, missing: Mask) -> Array:
        """See the class."""
        last = np.zeros_like(xyz) if self._last is None else self._last
        self._last = np.where(missing[:, None], last, xyz)
        return self.filtered(self._last)

    def kept(self, frame: Array) -> deque[Array]:
        """The last frames up to this one."""
        while len(self._frames) < (self._frames.maxlen or 0) - 1:
            self._frames.append(frame)
        self._frames.append(frame)
        return self._frames

    def filtered(self, frame: Array) -> Array:
        """The estimate, given the newest frame without missing joints."""
        return self.kept(frame)[0]


class OneEuroPackage(Hold):
    """The 1 Euro filter, one of the package OneEuroFilter for each coordinate."""

    def __init__(self, lookahead: int, options: Namespace) -> None:
        from OneEuroFilter import OneEuroFilter

        super().__init__(lookahead, options)
        tuning = synthetic(options.clip, seed=12)
        seen = held(tuning)

        def estimate(least: float, beta: float, speed: float, back: float) -> Array:
            return np.roll(one_euro(seen, least, beta, speed), -int(back), 0)

        choices = [s for s in OneEuro.settings if s is not None and s[3] <= lookahead]
        *setting, back = self.setting = min(choices, key=lambda s: error(estimate(*s), tuning.truth, lookahead))
        self._filters = [OneEuroFilter(1.0, *setting) for _ in range(seen[0].size)]
        self._frames = deque(maxlen=1 + lookahead - int(back))

    def filtered(self, frame: Array) -> Array:
        out = [filter_(value) for filter_, value in zip(self._filters, frame.ravel().tolist(), strict=True)]
        return self.kept(np.reshape(out, frame.shape))[0]


class SavitzkyGolayScipy(Hold):
    """scipy.signal.savgol_filter over the last frames."""

    def __init__(self, lookahead: int, options: Namespace) -> None:
        super().__init__(lookahead, options)
        tuning = synthetic(options.clip, seed=12)
        seen = held(tuning)

        def estimate(past: float, order: float) -> Array:
            taps = savgol_coeffs(int(past) + 1 + lookahead, int(order), pos=int(past), use="dot")
            out = weighted([np.roll(seen, shift, 0) for shift in range(int(past), -lookahead - 1, -1)], taps)
            out[: int(past)] = seen[: int(past)]
            return out

        choices = [s for s in SavitzkyGolay.settings if s is not None]
        self.setting = min(choices, key=lambda s: error(estimate(*s), tuning.truth, lookahead))
        self._past, self._order = map(int, self.setting)
        self._frames = deque(maxlen=self._past + 1 + lookahead)

    def filtered(self, frame: Array) -> Array:
        frames = np.stack(self.kept(frame))
        return np.asarray(savgol_filter(frames, len(frames), self._order, axis=0)[self._past])


class PlainTorch:
    """The network in PyTorch over the last window, read at the frame that it is for."""

    def __init__(self, lookahead: int, options: Namespace) -> None:
        import torch

        from rtskel.engine.weights import load_weights

        self._torch, self._at = torch, -1 - lookahead
        self._model = load_weights(Path(options.engine).with_suffix(".safetensors"))
        self._frames: deque[tuple[Array, Mask]] = deque(maxlen=self._model.config.window)

    def push(self, xyz: Array, missing: Mask) -> Array:
        """As `Hold.push`."""
        while len(self._frames) < (self._frames.maxlen or 0) - 1:
            self._frames.append((xyz, missing))
        self._frames.append((xyz, missing))
        x, gone = (np.stack(values) for values in zip(*self._frames, strict=True))
        there = ~gone[:, [NECK, LEFT_SHOULDER, RIGHT_SHOULDER]].any(1)
        trunk = x[there] if there.any() else x
        origin = np.median(trunk[:, NECK], 0)
        size = 3.0 * np.median(np.linalg.norm(trunk[:, LEFT_SHOULDER] - trunk[:, RIGHT_SHOULDER], axis=-1))
        canonical = np.where(gone[..., None], 0.0, (x - origin) / size).astype(np.float32)
        with self._torch.inference_mode():
            y = self._model(self._torch.from_numpy(canonical)[None], self._torch.from_numpy(gone)[None])
        return np.asarray(y[0, self._at].double().numpy() * size + origin)


class SmoothNetTorch(Hold):
    """SmoothNet over the last window of every coordinate, read at the frame that it is for."""

    def __init__(self, lookahead: int, options: Namespace) -> None:
        import torch
        from safetensors.torch import load_file
        from smoothnet import WINDOW, SmoothNet

        super().__init__(lookahead, options)
        self._torch, self._network = torch, SmoothNet().eval()
        if options.smoothnet:
            self._network.load_state_dict(load_file(options.smoothnet))
        self._frames = deque(maxlen=WINDOW)

    def filtered(self, frame: Array) -> Array:
        rows = np.stack(self.kept(frame), -1).reshape(frame.size, -1).astype(np.float32)
        with self._torch.inference_mode():
            out = self._network(self._torch.from_numpy(rows)).double().numpy()
        return np.asarray(out[:, -1 - self.lookahead].reshape(frame.shape))


class Ours:
    """rtskel: nothing is returned before the look-ahead is there."""

    precision: ClassVar[str | None] = None

    def __init__(self, lookahead: int, options: Namespace) -> None:
        engine = open_engine(options.engine, precision=self.precision, max_batch=1, threads=1)
        self._refiner = Refiner(engine, lookahead=lookahead)

    def push(self, xyz: Array, missing: Mask) -> Array:
        """As `Hold.push`; the frame as it is while there is no estimate yet."""
        done = self._refiner.push(xyz, ~missing).xyz
        return np.asarray(done[0] if len(done) else xyz, np.float64)


class OursInBf16(Ours):
    """rtskel with `--precision bf16`."""

    precision = "bf16"


OPPONENTS: dict[str, Any] = {
    "hold last": Hold,
    "One-Euro (OneEuroFilter)": OneEuroPackage,
    "Savitzky-Golay (SciPy)": SavitzkyGolayScipy,
    SMOOTHNET: SmoothNetTorch,
    "sliding window (PyTorch)": PlainTorch,
    "rtskel": Ours,
    "rtskel bf16": OursInBf16,
}


def measure(name: str, lookahead: int, options: Namespace, control: Connection) -> None:
    """One opponent at one look-ahead: errors, and microseconds a frame."""
    if "PyTorch" in name:
        import torch

        torch.set_num_threads(1)
    truth, xyz, missing = synthetic(options.clip, seed=11)
    try:
        opponent = OPPONENTS[name](lookahead, options)
    except Exception as failure:
        control.send(unavailable(failure))
        return
    out, wall, cpu = [], [], []
    for x, m in zip(xyz, missing, strict=True):
        start, used = time.perf_counter(), time.process_time()
        out.append(opponent.push(x, m))
        wall.append(1e6 * (time.perf_counter() - start))
        cpu.append(1e6 * (time.process_time() - used))
    off = 1e3 * (np.stack(out[lookahead:]) - truth[: len(truth) - lookahead])  # mm
    found: dict[str, Any] = {"us": percentiles(wall[WARM_UP:]), "cpu_us": float(np.mean(cpu[WARM_UP:]))}
    found["setting"] = getattr(opponent, "setting", None)
    if name != SMOOTHNET or options.smoothnet:
        found["mse"] = float(np.square(off).mean())
        found["mpjpe"] = float(np.linalg.norm(off, axis=-1).mean())
        found["acceleration"] = float(np.linalg.norm(np.diff(off, 2, axis=0), axis=-1).mean())
    control.send(found)


def lines(result: dict[str, Any]) -> list[str]:
    """The result as tables."""
    out = []
    for lookahead, opponents in result["lookaheads"].items():
        rows = {}
        for name, found in opponents.items():
            if "us" not in found:
                out.append(f"{name}: {found['unavailable']}")
                continue
            row = {"us a frame p50": found["us"]["p50"], "p99": found["us"]["p99"], "CPU us": found["cpu_us"]}
            titles = {"mse": "MSE mm^2", "mpjpe": "MPJPE mm", "acceleration": "jitter mm"}
            rows[name] = row | {title: found.get(key) for key, title in titles.items()}
        out += [*table(f"lookahead {lookahead}", rows, ".2f"), ""]
    return out


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    graph = str(WEIGHTS.with_suffix(".onnx"))
    parser.add_argument("--engine", default=graph, help="an .onnx file with its .safetensors beside it")
    parser.add_argument("--lookaheads", type=numbers, default=[0, 4], help="with commas between")
    parser.add_argument("--clip", type=float, default=24.0, help="seconds of the clip")
    parser.add_argument("--only", type=names(OPPONENTS), default=[*OPPONENTS], help="opponents, with commas between")
    parser.add_argument("--smoothnet", help="weights of SmoothNet; without them only its time is measured")
    options = parser.parse_args()
    found = {
        str(lookahead): {name: apart(measure, name, lookahead, options) for name in options.only}
        for lookahead in options.lookaheads
    }
    model = describe(options.engine).model_id
    result = {"bench": "instead", "model": model, "clip": options.clip, "lookaheads": found}
    report(result, lines(result), options)


if __name__ == "__main__":
    main()
