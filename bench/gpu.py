"""On a GPU: are the results right, what does a frame take, how many windows a second, how far from the limits?

Needs a machine with an NVIDIA GPU, no network; without a GPU it says so and exits with 2. Four questions:

- Do rings on the GPU (`rtskel.engine.device_ring`) give the same results as rings on the host? With a network that
  copies its input, which needs no TensorRT, and with every plan that runs here.
- How long from a frame in host memory to its refined pose in host memory, one stream, rings on the GPU and on the host?
- How many windows a second by batch size, one new frame of each stream a step, two steps in flight; which share of the
  GPU's largest bf16 product, and of the roofline (the time that the FLOPs or the bytes alone would take)?
- Does a plan of TensorRT-RTX run on this GPU, even if its support list omits it?

For comparison PyTorch with CUDA graphs, windows up and predictions down, as the plan's engine does without rings.

    python bench/gpu.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure.engines import flops, ring_config
from measure.report import WEIGHTS, arguments, counts, percentiles, report, unavailable
from numpy.typing import NDArray

from rtskel.cli import positive
from rtskel.engine import Engine, EngineInfo, NullEngine, open_engine
from rtskel.engine.cuda import Cuda
from rtskel.engine.cuda_engine import ExecutionSlot
from rtskel.engine.device_ring import RingEngine
from rtskel.engine.tensorrt_build import build_plan
from rtskel.errors import EngineError
from rtskel.refine import Refined, RefinerBank
from rtskel.refine.ring import EngineRing
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.synthesize import synthesize

JOINTS, WINDOW, LOOKAHEAD, RADIUS = UPPER_BODY_50.joints, 32, 4, 2
TARGETS = {"batch 1, us": 150.0, "share of the bf16 peak": 0.5}


class Copying(RingEngine):
    """Rings on the GPU around a network that copies its input: right and fast wherever CUDA is, TensorRT or not."""

    def __init__(self, max_batch: int, window: int = WINDOW) -> None:
        info = EngineInfo("plan", "copy", window, JOINTS, UPPER_BODY_50.id, "", "fp32", "", "rtskel", "bench/gpu.py")
        super().__init__(info, max_batch, selects=False, graphs=True, rings=True)

    def _prepare(self, slot: ExecutionSlot) -> None:
        (_, _, x), *_ = slot.tensors()
        slot.network = slot.device_out, x, slot.bytes_out, self.cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToDevice

    def enqueue_network(self, slot: ExecutionSlot) -> None:
        """Puts the copy on the stream."""
        self.cuda.call("cudaMemcpyAsync", *slot.network, self.stream)


def clips(streams: int, frames: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Poses [n, S, J, 3] of signers with missing joints and frames, and confidence [n, S, J]."""
    rng = np.random.default_rng(0)
    whole = np.stack([synthesize(frames / 25.0 + 1.0, seed=s % 8).xyz[:frames] for s in range(streams)], 1)
    confidence = rng.uniform(0.2, 1.0, whole.shape[:3]).astype(np.float32)
    confidence[rng.uniform(size=whole.shape[:3]) < 0.1] = 0
    confidence[rng.uniform(size=whole.shape[:2]) < 0.05] = 0
    return whole.astype(np.float32), confidence


def bank_of(engine: Engine, streams: int) -> RefinerBank:
    """The bank that a server would use."""
    return RefinerBank(engine, lookahead=LOOKAHEAD, radius=RADIUS, streams=streams)


def difference(one: Engine, other: Engine, streams: int, frames: int) -> dict[str, Any]:
    """Largest difference between two engines' poses, in their unit; whether everything else is equal."""
    xyz, confidence = clips(streams, frames)
    found = []
    for engine in (one, other):
        bank, parts = bank_of(engine, streams), []
        for slot in range(frames):
            bank.put(range(streams), [slot] * streams, xyz[slot], confidence[slot])
            while bank.pending:
                parts.append(bank.step())
        bank.end(range(streams))
        while bank.pending:
            parts.append(bank.step())
        found.append(Refined.concatenate(parts))
    a, b = found
    books = ("stream", "slot", "lookahead", "windows", "flags", "confidence")
    return {
        "poses": len(a),
        "xyz": float(np.abs(a.xyz - b.xyz).max()),
        "sigma": float(np.abs(a.sigma - b.sigma).max()),
        "books equal": all(np.array_equal(getattr(a, name), getattr(b, name)) for name in books),
    }


def latency(engine: Engine, frames: int) -> dict[str, float]:
    """Time in us from one frame in host memory to the pose that it completes in host memory."""
    xyz, confidence = clips(1, frames)
    bank, times = bank_of(engine, 1), []
    for slot in range(frames):
        start = time.perf_counter()
        bank.put(0, slot, xyz[slot], confidence[slot])
        out = bank.step()
        times.append(1e6 * (time.perf_counter() - start))
        assert len(out) == (slot >= LOOKAHEAD)
    return percentiles(times[min(len(times) // 4, 200) :])


def throughput(engine: Engine, batch: int, seconds: float) -> dict[str, float]:
    """Windows a second, one new frame of each of `batch` streams a step; with rings on the GPU two steps in flight."""
    xyz, confidence = clips(batch, 50)
    bank, slot, taken = bank_of(engine, batch), 0, 0
    ring: Any = bank._ring
    ahead = isinstance(ring, EngineRing)
    streams = np.arange(batch)
    start = until = time.perf_counter()
    warm = 20
    while slot < warm + 10 or time.perf_counter() < until:
        if slot == warm:
            start, taken = time.perf_counter(), 0
            until = start + seconds
        bank.put(streams, np.full(batch, slot), xyz[slot % 50], confidence[slot % 50])
        if not ahead:
            taken += len(bank.step())
        else:
            ring.submit(batch)
            if slot:
                taken += len(ring.collect())
        slot += 1
    elapsed = time.perf_counter() - start
    if ahead:
        ring.collect()
    return {"windows_per_second": taken / elapsed, "us": 1e6 * elapsed / taken}


def gpu_seconds(function: Callable[[], Any], runs: int = 10) -> float:
    """Seconds that the GPU takes for a call, the mean of many in a row."""
    import torch

    for run in range(runs + 3):
        if run == 3:
            torch.cuda.synchronize()
            start = time.perf_counter()
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / runs


def limits(weights: str) -> dict[str, float]:
    """What limits a window: FLOPs of a window, bytes of the weights and of a window, FLOP/s and bytes/s of this GPU."""
    import torch

    from rtskel.engine.weights import load_weights

    model = load_weights(weights)
    window, positions = model.config.window, ring_config(model.config.window, [LOOKAHEAD], RADIUS).positions
    found = {
        "FLOPs a window": float(flops(model, positions)),
        "bytes of weights": 2.0 * sum(parameter.numel() for parameter in model.parameters()),
        "bytes a window": float(window * JOINTS * (12 + 1) + len(positions) * JOINTS * 12),
    }
    if torch.cuda.is_available():
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        found["FLOP/s"] = 2 * 8192**3 / gpu_seconds(lambda: a @ b)
        here, there = (torch.zeros(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
        found["bytes/s"] = 2.0 * len(here) / gpu_seconds(lambda: there.copy_(here), 20)
    return found


def shares(limit: dict[str, float], batch: int, windows_per_second: float) -> dict[str, float]:
    """Share of the bf16 peak, and of what the roofline allows at that batch."""
    if not {"FLOP/s", "bytes/s"} <= limit.keys():
        return {}
    compute = limit["FLOPs a window"] * batch / limit["FLOP/s"]
    memory = (limit["bytes of weights"] + limit["bytes a window"] * batch) / limit["bytes/s"]
    return {
        "peak": windows_per_second * limit["FLOPs a window"] / limit["FLOP/s"],
        "roofline": windows_per_second * max(compute, memory) / batch,
    }


def torch_graphs(weights: str, batches: list[int], runs: int) -> dict[str, Any]:
    """PyTorch in bf16 with CUDA graphs: us from windows in pinned host memory to predictions there, by batch."""
    import torch

    from rtskel.engine.weights import load_weights

    model = load_weights(weights).cuda().eval()
    model.trunk.to(torch.bfloat16)
    positions = torch.from_numpy(ring_config(model.config.window, [LOOKAHEAD], RADIUS).positions).cuda()
    found = {}
    for batch in batches:
        host = torch.randn(batch, model.config.window, JOINTS, 3).pin_memory()
        gone = torch.zeros(host.shape[:3], dtype=torch.bool).pin_memory()
        x, missing, graph = host.cuda(), gone.cuda(), torch.cuda.CUDAGraph()
        answer = torch.zeros(batch, len(positions), JOINTS, 3).pin_memory()

        def step(x: Any = x, missing: Any = missing, host: Any = host, gone: Any = gone, answer: Any = answer) -> None:
            x.copy_(host, non_blocking=True)
            missing.copy_(gone, non_blocking=True)
            answer.copy_(model(x, missing, positions), non_blocking=True)

        with torch.inference_mode():
            cuda: Any = torch.cuda  # whose types are incomplete
            with cuda.stream(cuda.Stream()):
                for _ in range(3):
                    step()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                step()
            times = []
            for _ in range(runs):
                start = time.perf_counter()
                graph.replay()
                torch.cuda.synchronize()
                times.append(1e6 * (time.perf_counter() - start))
        found[str(batch)] = percentiles(times[len(times) // 4 :])
    return found


def plans(folder: Path, options: Namespace, here: str) -> dict[str, str | EngineError]:
    """A plan for this GPU by each module that is installed, and TensorRT-RTX's for the GPUs of its list; or why not."""
    graph = options.graph
    if graph is None:
        from rtskel.engine.onnx_export import export_onnx

        graph = str(folder / "bf16.onnx")
        export_onnx(options.weights, graph, precision="bf16")
    wanted: dict[str, dict[str, Any]] = {
        "tensorrt": {"backend": "tensorrt"},
        f"tensorrt_rtx for {here}": {"backend": "tensorrt_rtx", "compute_capabilities": [here]},
        "tensorrt_rtx for its default GPUs": {"backend": "tensorrt_rtx"},
    }
    found: dict[str, str | EngineError] = {}
    for number, (name, how) in enumerate(wanted.items()):
        path = folder / f"{number}.plan"
        try:
            build_plan(graph, path, max_batch=max(options.batches), **how)
            with open_engine(path, max_batch=1):
                found[name] = str(path)
        except EngineError as error:
            found[name] = error
    return found


def attempt(measured: dict[str, Any], name: str, measure: Callable[..., Any], *given: Any) -> None:
    """Keeps the result of a measurement or, if it does not run here, the reason."""
    try:
        measured[name] = measure(*given)
    except Exception as error:
        measured[name] = unavailable(error)


Opener = Callable[[int], Engine]
"""Opens an engine for batches up to some size."""


def opener(plan: str, rings: bool) -> Opener:
    """Of a plan, with rings on the GPU or on the host."""
    return lambda batch: open_engine(plan, max_batch=batch, rings=rings)


def of_engine(open_it: Opener, limit: dict[str, float], options: Namespace) -> dict[str, Any]:
    """Latency of one stream, and throughput by batch."""
    found: dict[str, Any] = {}
    with open_it(1) as engine:
        found["us a frame, one stream"] = latency(engine, options.frames)
    for batch in options.batches:
        with open_it(batch) as engine:
            rates = throughput(engine, batch, options.seconds)
        found[f"batch {batch}"] = rates | shares(limit, batch, rates["windows_per_second"])
    return found


def run(cuda: Cuda, options: Namespace) -> dict[str, Any]:
    """Everything that can be measured here."""
    measured: dict[str, Any] = {"GPU": cuda.capability}
    limit: dict[str, float] = {}
    attempt(measured, "limits", lambda: limit.update(limits(options.weights)) or limit)

    def right(one: Opener, other: Opener) -> dict[str, Any]:
        with one(4) as a, other(4) as b:
            return difference(a, b, 3, 60)

    def null(batch: int) -> Engine:
        return NullEngine(window=WINDOW, max_batch=batch)

    def reference(batch: int) -> Engine:
        return open_engine(options.weights, max_batch=batch)

    attempt(measured, "rings on the GPU against the host's, a network that copies", right, Copying, null)
    attempt(measured, "rings on the GPU, a network that copies", of_engine, Copying, {}, options)
    with tempfile.TemporaryDirectory() as folder:
        built: dict[str, Any] = {}
        attempt(built, "plans", plans, Path(folder), options, cuda.capability)
        if "unavailable" in built["plans"]:
            return measured | built
        for name, path in built["plans"].items():
            if isinstance(path, EngineError):
                measured[name] = unavailable(path)
                continue
            on_gpu, on_host = opener(path, True), opener(path, False)
            attempt(measured, f"{name}: rings on the GPU against the host's", right, on_gpu, on_host)
            attempt(measured, f"{name}: against PyTorch in float32 on the CPU", right, on_gpu, reference)
            attempt(measured, f"{name}: rings on the GPU", of_engine, on_gpu, limit, options)
            attempt(measured, f"{name}: rings on the host", of_engine, on_host, limit, options)
    name, sizes = "PyTorch with CUDA graphs, us a run from windows to predictions", [1, *options.batches]
    attempt(measured, name, torch_graphs, options.weights, sizes, options.frames)
    return measured


def lines(measured: dict[str, Any], indent: str = "") -> list[str]:
    """The result as indented lines."""
    found = []
    for name, value in measured.items():
        if isinstance(value, dict) and not {"p50", "unavailable"} & value.keys():
            found += [f"{indent}{name}", *lines(value, indent + "  ")]
            continue
        if isinstance(value, dict):
            value = value.get("unavailable") or f"p50 {value['p50']:.1f}, p99 {value['p99']:.1f}"
        found.append(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return found


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", default=str(WEIGHTS), help="weights to export, and for PyTorch")
    parser.add_argument("--graph", help="an exported .onnx, if there is no PyTorch to export with")
    parser.add_argument("--batches", type=counts, default=[16, 64, 256, 1024], help="streams in a step")
    parser.add_argument("--frames", type=positive, default=2000, help="for latency")
    parser.add_argument("--seconds", type=float, default=1.0, help="for throughput, each batch")
    options = parser.parse_args()
    try:
        cuda = Cuda("bench/gpu.py", 0)
    except EngineError as error:
        print(f"rtskel: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    measured = run(cuda, options)
    targets = "targets: " + ", ".join(f"{name}: {value:g}" for name, value in TARGETS.items())
    report({"bench": "gpu", "measured": measured, "targets": TARGETS}, [*lines(measured), targets], options)


if __name__ == "__main__":
    main()
