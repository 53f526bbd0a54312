"""What would a user pick instead, what does it take a frame, and what error is left at the same lookahead?

A signer as a live estimator sees him goes frame by frame through each of them, in a process of its own on one thread:
what rtskel does in one call, Casiez's filter from its package, SciPy's polynomials, the same network in a plain loop in
PyTorch, and SmoothNet's network likewise. Those that know no missing joints get them where they were last seen. The
filters are set to what leaves the least squared error of another clip at that lookahead. SmoothNet's error needs
weights, such as `bench/accuracy.py --runs` keeps.

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
from harness import WEIGHTS, apart, arguments, names, numbers, percentiles, report, unavailable
from numpy.typing import NDArray
from peers import Array, Example, Mask, OneEuro, SavitzkyGolay, fill_in_time, one_euro, synthetic, weighted
from scipy.signal import savgol_coeffs, savgol_filter

from rtskel.engine import describe, open_engine
from rtskel.refine import Refiner
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER

WARM_UP = 20
"""Frames that are not timed."""


def held(example: Example) -> Array:
    """The sequence with every missing joint where it was last seen (0 before that)."""
    return fill_in_time(example.xyz, example.missing, 0, np.zeros(example.xyz.shape[1:]))


class Hold:
    """Every joint where it was last seen, and the base of what knows no missing joints.

    `push` takes frame i and returns the estimate of frame i - lookahead.
    """

    def __init__(self, lookahead: int, options: Namespace) -> None:
        self.lookahead = lookahead
        self._last: Array | None = None
        self._frames: deque[Array] = deque(maxlen=1 + lookahead)

    def push(self, xyz: Array, missing: Mask) -> Array:
        """xyz [J, 3], missing [J] -> [J, 3]; the first frame stands for those before it."""
        last = np.zeros_like(xyz) if self._last is None else self._last
        self._last = np.where(missing[:, None], last, xyz)
        return self.filtered(self._last)

    def kept(self, frame: Array) -> deque[Array]:
        """The frames up to this one, as many as are kept."""
        while len(self._frames) < (self._frames.maxlen or 0) - 1:
            self._frames.append(frame)
        self._frames.append(frame)
        return self._frames

    def filtered(self, frame: Array) -> Array:
        """The estimate, once the newest frame is known in whole."""
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
        made = range(seen[0].size)
        self._filters = [OneEuroFilter(1.0, *setting) for _ in made]
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
            size = int(past) + 1 + lookahead
            taps = savgol_coeffs(size, int(order), pos=int(past), use="dot")
            frames = [np.roll(seen, shift, 0) for shift in range(int(past), -lookahead - 1, -1)]
            out = weighted(frames, taps)
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
            out: NDArray[np.float32] = self._network(self._torch.from_numpy(rows)).numpy()
        return out[:, -1 - self.lookahead].reshape(frame.shape).astype(np.float64)


class Ours:
    """rtskel: nothing comes out before the lookahead is there."""

    precision: ClassVar[str | None] = None

    def __init__(self, lookahead: int, options: Namespace) -> None:
        self._refiner = Refiner(
            open_engine(options.engine, precision=self.precision, max_batch=1, threads=1), lookahead=lookahead
        )

    def push(self, xyz: Array, missing: Mask) -> Array:
        """As `Hold.push`; while there is no estimate yet, the frame as it came."""
        done = self._refiner.push(xyz, ~missing).xyz
        return np.asarray(done[0] if len(done) else xyz, np.float64)


class OursInBf16(Ours):
    """rtskel in less precision."""

    precision = "bf16"


OPPONENTS: dict[str, Any] = {
    "hold last": Hold,
    "One-Euro (OneEuroFilter)": OneEuroPackage,
    "Savitzky-Golay (SciPy)": SavitzkyGolayScipy,
    "SmoothNet (PyTorch)": SmoothNetTorch,
    "sliding window (PyTorch)": PlainTorch,
    "rtskel": Ours,
    "rtskel bf16": OursInBf16,
}


def error(estimate: Array, truth: Array, lookahead: int) -> float:
    """Mean squared error of a coordinate, without the frames at the end whose future never came."""
    end = len(truth) - lookahead
    return float(np.square(estimate[:end] - truth[:end]).mean())


def measure(name: str, lookahead: int, options: Namespace, control: Connection) -> None:
    """One opponent at one lookahead: errors, and microseconds a frame."""
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
    estimate, truth = np.stack(out[lookahead:]), truth[: len(truth) - lookahead]
    off = 1e3 * (estimate - truth)  # mm
    found: dict[str, Any] = {"us": percentiles(wall[WARM_UP:]), "cpu_us": float(np.mean(cpu[WARM_UP:]))}
    found["setting"] = getattr(opponent, "setting", None)
    if name != "SmoothNet (PyTorch)" or options.smoothnet:
        found["mse"] = float(np.square(off).mean())
        found["mpjpe"] = float(np.linalg.norm(off, axis=-1).mean())
        found["acceleration"] = float(np.linalg.norm(np.diff(off, 2, axis=0), axis=-1).mean())
    control.send(found)


def lines(result: dict[str, Any]) -> list[str]:
    """The result as a table."""
    columns = ("us a frame p50", "p99", "CPU us", "MSE mm^2", "MPJPE mm", "jitter mm")
    table = []
    for lookahead, opponents in result["lookaheads"].items():
        table.append(f"{'lookahead ' + lookahead:<28}" + "".join(f"{column:>16}" for column in columns))
        for name, found in opponents.items():
            if "us" not in found:
                table.append(f"{name:<28}{found['unavailable']}")
                continue
            row = f"{name:<28}{found['us']['p50']:>16.0f}{found['us']['p99']:>16.0f}{found['cpu_us']:>16.0f}"
            errors = [f"{found[key]:>16.2f}" for key in ("mse", "mpjpe", "acceleration") if key in found]
            table.append(row + ("".join(errors) or f"{'(no weights)':>16}"))
        table.append("")
    return table


def main() -> None:
    """Command line."""
    parser = arguments(str(__doc__).splitlines()[0])
    graph = str(WEIGHTS.with_suffix(".onnx"))
    parser.add_argument("--engine", default=graph, help="an .onnx file, its .safetensors beside it")
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
