"""On a GPU: are the results right, what does a frame take, how many windows a second, how far from the limits?

    python bench/gpu.py --out gpu.json       # under five minutes on a machine with an NVIDIA GPU; no network
    python bench/gpu.py --minutes 9          # with the training's network compiled, and plans
    python bench/gpu.py --smoke              # every part on the CPU, tiny: that it runs, not how fast

Each part runs in a process of its own, with a time limit: what fails, hangs or breaks the GPU's context loses its own
figures only. --out is written after every part. Figures that have a target stand beside it, and beside PyTorch eager
(the same engine, its network not compiled) in the same run.

- the law and the engines' conformance suite (`tests`), while the first start compiles;
- `right`: the largest difference to float32 on the CPU.
- `first start`, `second start`: seconds from the start of a process to its first pose, kernels not compiled before, and
  compiled before.
- `stream`: us from a frame in host memory to its refined pose there, whole and with a network that copies its input.
- `streams`: windows a second, one new frame of each stream a step, two steps in flight; us of host a window; shares of
  the GPU's largest bf16 product and of the roofline (the time that the FLOPs or the bytes alone would take).
- `bulk`: frames a second of many recordings of a thousand frames, side by side.
- `training`: a step, and the share that drawing the batch takes.
- `plans`: the same of every plan of TensorRT and TensorRT-RTX that builds and runs here.

With --smoke the GPU is the stand-in of `tests/fake_gpu.py`: kernels and network run on the CPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from rtskel.engine.torch_cuda import CACHE, TorchEngine
from rtskel.errors import EngineError
from rtskel.refine import BulkRefiner, Refined, RefinerBank
from rtskel.refine.ring import EngineRing
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, UPPER_BODY_50
from rtskel.training.synthesize import synthesize

ROOT = Path(__file__).resolve().parents[1]
JOINTS, WINDOW, LOOKAHEAD, RADIUS = UPPER_BODY_50.joints, 32, 4, 2
SHOULDERS_MM = 370.0
TARGETS = {
    "right: mm RMS from float32 on the CPU": ("at most", 0.1),
    "start: seconds, second start": ("at most", 10.0),
    "stream: us, p50": ("at most", 200.0),
    "stream: us around the network, p50": ("at most", 60.0),
    "streams: windows a second, batch 1024": ("at least", 400_000.0),
    "streams: us of host a window, batch 1024": ("at most", 1.0),
    "bulk: frames a second": ("at least", 600_000.0),
    "training: share of drawing, batch 1024": ("at most", 0.25),
    "training: windows a second, batch 1024": ("at least", 15_000.0),
}


COPIES = ", a network that copies"


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
    signers = [synthesize(frames / 25.0 + 1.0, seed=seed).xyz[:frames] for seed in range(min(streams, 8))]
    whole = np.stack([signers[s % len(signers)] for s in range(streams)], 1)
    confidence = rng.uniform(0.2, 1.0, whole.shape[:3]).astype(np.float32)
    confidence[rng.uniform(size=whole.shape[:3]) < 0.1] = 0
    confidence[rng.uniform(size=whole.shape[:2]) < 0.05] = 0
    return whole.astype(np.float32), confidence


def bank_of(engine: Engine, streams: int) -> RefinerBank:
    """The bank that a server would use."""
    return RefinerBank(engine, lookahead=LOOKAHEAD, radius=RADIUS, streams=streams)


def difference(one: Engine, other: Engine, streams: int, frames: int) -> dict[str, Any]:
    """Differences between two engines' poses, in their unit and with shoulders 370 mm apart; are the books equal?"""
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
    across = np.linalg.norm(xyz[:, :, LEFT_SHOULDER] - xyz[:, :, RIGHT_SHOULDER], axis=-1)
    mm = SHOULDERS_MM / float(np.median(across)) * np.linalg.norm(a.xyz - b.xyz, axis=-1)
    books = ("stream", "slot", "lookahead", "windows", "flags", "confidence")
    return {
        "poses": len(a),
        "xyz": float(np.abs(a.xyz - b.xyz).max()),
        "sigma": float(np.abs(a.sigma - b.sigma).max()),
        "mm RMS": float(np.sqrt(np.square(mm).mean())),
        "mm RMS of the worst pose": float(np.sqrt(np.square(mm).mean(1)).max()),
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


@contextlib.contextmanager
def waiting(engine: Any) -> Iterator[list[float]]:
    """A list that grows by the seconds of each wait for the GPU, of rings that are made meanwhile."""
    waits: list[float] = []
    if not isinstance(engine, RingEngine):
        yield waits
        return
    call, bound = engine.cuda.call, engine.cuda.bound

    def timed(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
        def again(*given: Any) -> Any:
            start = time.perf_counter()
            try:
                return made(*given)
            finally:
                waits.append(time.perf_counter() - start)

        return again if name.endswith("Synchronize") else made

    engine.cuda.call = lambda name, *given: timed(name, functools.partial(call, name))(*given)  # type: ignore[method-assign]
    engine.cuda.bound = lambda name, *given: timed(name, bound(name, *given))  # type: ignore[method-assign]
    try:
        yield waits
    finally:
        del engine.cuda.call, engine.cuda.bound


def throughput(engine: Engine, batch: int, seconds: float, each: int = 1) -> dict[str, float]:
    """Windows a second, and us of host a window; rings on the GPU have two steps in flight.

    Args:
        batch: windows in a step.
        each: new frames of each stream in a step.
    """
    streams, taken = batch // each, 0
    xyz, confidence = (array.swapaxes(0, 1) for array in clips(streams, 48))
    of, slots = np.repeat(np.arange(streams), each), np.tile(np.arange(each), streams)
    given = []  # by step, until they repeat: a caller has its frames at hand, to put them together is no part of a step
    for step in range(48 // math.gcd(48, each)):
        new = of, (slots + step * each) % 48
        given.append((np.ascontiguousarray(xyz[new]), np.ascontiguousarray(confidence[new])))
    warm, step = 20, 0
    start = until = time.perf_counter()
    with waiting(engine) as waits:
        bank = bank_of(engine, streams)
        ring: Any = bank._ring
        ahead = isinstance(ring, EngineRing)
        while step < warm + 10 or time.perf_counter() < until:
            if step == warm:
                start, taken = time.perf_counter(), 0
                until = start + seconds
                waits.clear()
            bank.put(of, slots + step * each, *given[step % len(given)])
            if not ahead:
                taken += len(bank.step())
            else:
                ring.submit(streams * each)
                if step:
                    taken += len(ring.collect())
            step += 1
        elapsed = time.perf_counter() - start
        host = {"us of host": 1e6 * (elapsed - sum(waits)) / taken} if waits else {}
        if ahead:
            ring.collect()
    return {"windows_per_second": taken / elapsed, "us": 1e6 * elapsed / taken, **host}


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


# -- parts: one process each -------------------------------------------------------------------------------------------


def weights(options: Namespace, batch: int, **how: Any) -> Engine:
    """PyTorch's engine on the GPU, rings beside it; each batch size is prepared when it is used."""
    return TorchEngine(options.weights, max_batch=batch, **{"warm_up": False, "rings": True, "graphs": True} | how)


def suite(options: Namespace) -> dict[str, Any]:
    """The law and the engines' conformance suite on this GPU, the network not compiled."""
    chosen = ["-k", "what_the_reference or late_frames"] if options.smoke else ["-k", "cuda"]
    files = ["tests/test_torch_cuda.py", *([] if options.smoke else ["tests/test_engine.py"])]
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--no-header", "-p", "no:cacheprovider", *files, *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=options.suite_s, check=False)
    told = re.compile(r"FAILED|ERROR|contract|.*(passed|failed|error)")
    return {"status": done.returncode, "lines": list(filter(told.match, done.stdout.splitlines()))[-12:]}


def right(options: Namespace) -> dict[str, Any]:
    """Differences to the reference."""
    found: dict[str, Any] = {}

    def against(one: Engine, other: Engine) -> dict[str, Any]:
        with one as a, other as b:
            return difference(a, b, 3, options.sequence)

    null, eager = NullEngine(window=WINDOW, max_batch=8), {"compiled": False, "kernels": False}
    attempt(found, "a network that copies, rings on the GPU against the host's", lambda: against(Copying(8), null))
    for name, how in {"bf16": {}, "bf16, eager": eager, "fp32": {}}.items():
        precision = name.split(",")[0]

        def compared(how: Any = how, precision: str = precision) -> dict[str, Any]:
            reference = open_engine(options.weights, max_batch=8)
            return against(weights(options, 8, precision=precision, **how), reference)

        attempt(found, f"{name}, against float32 on the CPU", compared)
    return found


def first_start(options: Namespace) -> dict[str, Any]:
    """Seconds to the first pose in a new process, kernels not compiled before. The suite runs beside it."""
    return started(options)


def second_start(options: Namespace) -> dict[str, Any]:
    """The same, kernels compiled before; nothing runs beside it."""
    return started(options)


def started(options: Namespace) -> dict[str, Any]:
    """Seconds to the first pose in a new process, and of which until engine and rings are open."""
    began = time.monotonic()
    done = part_in_a_process("open", options, 200.0)
    return {"s": done.get("unavailable") or time.monotonic() - began, "of which to open, s": done.get("open, s", "")}


def opened(options: Namespace) -> dict[str, Any]:
    """What a process does until its first pose (part of the starts)."""
    began = time.monotonic()
    with weights(options, options.start_batch, warm_up=True) as engine:
        bank = bank_of(engine, options.start_batch)
        found = {"open, s": time.monotonic() - began}
        xyz, confidence = clips(1, LOOKAHEAD + 1)
        bank.put(np.zeros(len(xyz), int), np.arange(len(xyz)), xyz[:, 0], confidence[:, 0])
        while not len(bank.step()):
            pass
    return found


def stream(options: Namespace) -> dict[str, Any]:
    """Latency of one stream."""
    found: dict[str, Any] = {}
    engines: dict[str, Callable[[], Engine]] = {
        "us": lambda: weights(options, 1),
        "us around the network": lambda: Copying(1),
        "us, eager in a graph": lambda: weights(options, 1, compiled=False, kernels=False),
        "us, eager": lambda: weights(options, 1, compiled=False, kernels=False, graphs=False, rings=False),
        "us, fp32": lambda: weights(options, 1, precision="fp32"),
    }
    for name, open_it in engines.items():

        def measured(open_it: Callable[[], Engine] = open_it) -> dict[str, float]:
            with open_it() as engine:
                return latency(engine, options.frames)

        attempt(found, name, measured)
    return found


def streams(options: Namespace) -> dict[str, Any]:
    """Windows a second by batch, each in the smallest size that is prepared for it, as a server does."""
    found: dict[str, Any] = {}
    limit: dict[str, float] = {}
    attempt(found, "limits", lambda: limit.update(limits(options.weights)) or limit)
    most = max(options.batches)
    engines: dict[str, Callable[[], Engine]] = {
        "": lambda: weights(options, most),
        ", eager in a graph": lambda: weights(options, most, compiled=False, kernels=False),
        COPIES: lambda: Copying(most),
    }

    def of(name: str, open_it: Callable[[], Engine]) -> str:
        def measured(batch: int) -> dict[str, float]:
            rates = throughput(engine, batch, options.seconds)
            return rates | ({} if name == COPIES else shares(limit, batch, rates["windows_per_second"]))

        with open_it() as engine:
            for batch in sorted(options.batches, reverse=True)[: None if name in ("", COPIES) else 1]:
                attempt(found, f"batch {batch}{name}", measured, batch)
        return "done"

    for name, open_it in engines.items():
        attempt(found, f"all batches{name}", of, name, open_it)
    return found


def bulk(options: Namespace) -> dict[str, Any]:
    """Frames a second of many recordings, side by side as `rtskel refine --gpu` refines them."""
    found: dict[str, Any] = {}
    batch, length = options.bulk, 4 if options.smoke else 1000
    count = 2 if options.smoke else 320
    xyz, confidence = clips(count, min(length, 1000))

    def measured(how: dict[str, Any]) -> dict[str, float]:
        given = [(np.ascontiguousarray(xyz[:, k]), np.ascontiguousarray(confidence[:, k])) for k in range(count)]
        with weights(options, batch, **how) as engine, BulkRefiner(engine, lookahead=LOOKAHEAD, streams=64) as refiner:
            refiner.refine(*given[0])  # prepares and warms up
            for each in [refiner.submit(*each) for each in given[: count // 4]]:
                each.result()
            began = time.perf_counter()
            for each in [refiner.submit(*each) for each in given]:
                each.result()
            elapsed = time.perf_counter() - began
        return {"windows_per_second": count * len(xyz) / elapsed, "frames": float(count * len(xyz))}

    eager = {"compiled": False, "kernels": False}
    for name, how in {"frames a second": {}, "frames a second, eager": eager}.items():
        attempt(found, name, measured, how)
    return found


def training(options: Namespace) -> dict[str, Any]:
    """Steps of training: milliseconds, and of which drawing, loss with its gradient, and the update; windows a second.

    Kernel by kernel first, then with network and loss compiled, where that seems to end within 75 s.
    """
    from dataclasses import replace

    import torch

    from rtskel.training.config import RECIPES
    from rtskel.training.data import Corpus, Sequence, write_corpus
    from rtskel.training.train import Trainer

    found: dict[str, Any] = {}
    device = "cpu" if options.smoke else "cuda"
    steps = 1 if options.smoke else 20
    began = time.perf_counter()

    def timed(function: Callable[[], Any]) -> float:
        """Seconds of a call that another one follows at once."""
        function()
        since = ready()
        for _ in range(steps):
            function()
        return (ready() - since) / steps

    def ready() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def measured(batch: int, other: dict[str, Any]) -> dict[str, float]:
        changes: dict[str, Any] = {"batch": batch, "sources": {"synthetic": 1.0}, "pairs": "", "init": ""} | other
        trainer = Trainer(replace(RECIPES["realtime"], **changes), corpus, device)
        since = ready()
        for _ in range(1 if options.smoke else 3):
            trainer.step()
        first = ready() - since
        drawn = trainer.batches.draw()
        step, draw = timed(trainer.step), timed(trainer.batches.draw)
        loss, update = timed(lambda: torch.autograd.backward(trainer.measure(drawn))), timed(trainer.update)
        parts = {"drawing": draw, "loss and backward": loss, "update": update}
        of_parts = {f"ms, {name}": 1e3 * seconds for name, seconds in parts.items()}
        shares = {"share of drawing": draw / step, "s, first steps": first}
        return {"ms": 1e3 * step, **of_parts, **shares, "windows": batch / step}

    with tempfile.TemporaryDirectory() as folder:
        made = [synthesize(8.0, seed=seed).xyz.astype(np.float32) for seed in range(2 if options.smoke else 16)]
        splits = [(Sequence(str(k), "synthetic", "train", 25.0, 0, 0), xyz) for k, xyz in enumerate(made)]
        write_corpus(folder, splits)
        corpus = Corpus(folder)
        for batch in options.training:
            attempt(found, f"batch {batch}, eager", measured, batch, {})
        most = sorted(options.training, key=lambda batch: (batch != 1024, -batch))[:2]
        if not options.smoke:
            attempt(found, f"batch {most[0]}, eager, drawn kernel by kernel", measured, most[0], {"graph": False})
        compiling = 30.0
        for batch in [] if options.smoke else most:
            since = time.perf_counter()
            if since - began + compiling > 75.0:
                found[f"batch {batch}"] = {"unavailable": "no time was left to compile"}
                continue
            attempt(found, f"batch {batch}", measured, batch, {"compile": True})
            compiling = time.perf_counter() - since
        corpus.release()
    return found


def of_plans(options: Namespace) -> dict[str, Any]:
    """Every plan that runs here."""
    measured: dict[str, Any] = {}
    limit: dict[str, float] = {}
    attempt(measured, "limits", lambda: limit.update(limits(options.weights)) or limit)

    def compared(one: Opener, other: Opener) -> dict[str, Any]:
        with one(4) as a, other(4) as b:
            return difference(a, b, 3, options.sequence)

    def reference(batch: int) -> Engine:
        return open_engine(options.weights, max_batch=batch)

    with tempfile.TemporaryDirectory() as folder:
        built: dict[str, Any] = {}
        attempt(built, "plans", plans, Path(folder), options, Cuda("bench/gpu.py", 0).capability)
        if "unavailable" in built["plans"]:
            return measured | built
        for name, path in built["plans"].items():
            if isinstance(path, EngineError):
                measured[name] = unavailable(path)
                continue
            on_gpu, on_host = opener(path, True), opener(path, False)
            attempt(measured, f"{name}: rings on the GPU against the host's", compared, on_gpu, on_host)
            attempt(measured, f"{name}: against PyTorch in float32 on the CPU", compared, on_gpu, reference)
            attempt(measured, f"{name}: rings on the GPU", of_engine, on_gpu, limit, options)
            attempt(measured, f"{name}: rings on the host", of_engine, on_host, limit, options)
    return measured


Part = Callable[[Namespace], dict[str, Any]]
PARTS: dict[str, tuple[Part, float]] = {
    "first start": (first_start, 120.0),
    "second start": (second_start, 60.0),
    "stream": (stream, 90.0),
    "streams": (streams, 150.0),
    "bulk": (bulk, 60.0),
    "training": (training, 240.0),
    "right": (right, 60.0),
    "plans": (of_plans, 120.0),
}
"""What is measured, in order, and the most seconds that it may take. What is measured first compiles for the rest."""

SUITE_S = 170.0


def part_in_a_process(name: str, options: Namespace, seconds: float) -> dict[str, Any]:
    """The result of a part, run in a process of its own with the same options; or why there is none."""
    command = [sys.executable, __file__, *options.given, "--part", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"unavailable": f"not done after {seconds:.0f} s"}
    except (ValueError, IndexError):
        return unavailable(RuntimeError(f"status {done.returncode}: {done.stderr.strip()[-250:]}"))
    return found


def stand_ins(folder: str) -> None:
    """Puts the CPU in the GPU's place."""
    sys.path.append(str(ROOT))
    from rtskel.engine import device_ring, torch_cuda

    fake_gpu: Any = importlib.import_module("tests.fake_gpu")
    cuda = fake_gpu.FakeRuntime()
    kernels = fake_gpu.host_kernels(folder)
    sys.modules["cuda.bindings.runtime"] = cuda
    sys.modules["cuda.bindings.driver"] = fake_gpu.FakeDriver(cuda, kernels)
    torch_cuda.TorchCuda = fake_gpu.fake_torch(cuda)  # type: ignore[misc]
    (image := Path(folder) / "device.fatbin").write_bytes(b"kernels")
    device_ring.compiled = lambda: image


def beside_targets(measured: dict[str, Any]) -> dict[str, Any]:
    """Each figure that has a target, with that and whether it was met; None where it was not measured."""

    def figure(*path: str) -> float | None:
        value: Any = measured
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, (int, float)) else None

    most = "batch 1024"
    trained = next((name for name in (most, f"{most}, eager") if figure("training", name, "ms")), most)
    figures = dict(
        zip(
            TARGETS,
            (
                figure("right", "bf16, against float32 on the CPU", "mm RMS"),
                figure("second start", "s"),
                figure("stream", "us", "p50"),
                figure("stream", "us around the network", "p50"),
                figure("streams", most, "windows_per_second"),
                figure("streams", most, "us of host"),
                figure("bulk", "frames a second", "windows_per_second"),
                figure("training", trained, "share of drawing"),
                figure("training", trained, "windows"),
            ),
            strict=True,
        )
    )
    found = {}
    for name, (sense, target) in TARGETS.items():
        value = figures[name]
        met = None if value is None else value <= target if sense == "at most" else value >= target
        found[name] = {"measured": value, "target": f"{sense} {target:g}", "met": met}
    return found


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


def options_of(given: list[str]) -> Namespace:
    """Command line; with --smoke whatever is not said is tiny."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", default=str(WEIGHTS), help="weights to run, and to export")
    parser.add_argument("--graph", help="an exported .onnx, if there is no PyTorch to export with")
    parser.add_argument("--batches", type=counts, default=[16, 64, 1024], help="streams in a step")
    parser.add_argument("--bulk", type=positive, default=4096, help="windows in a step of many recordings")
    parser.add_argument("--training", type=counts, default=[32, 1024], help="windows in a batch of training")
    parser.add_argument("--frames", type=positive, default=2000, help="for latency")
    parser.add_argument("--sequence", type=positive, default=60, help="frames that are compared")
    parser.add_argument("--start-batch", type=positive, default=64, help="largest batch of a start")
    parser.add_argument("--seconds", type=float, default=1.0, help="for throughput, each batch")
    parser.add_argument("--minutes", type=float, default=4.8, help="parts that would begin later are left out")
    parser.add_argument("--out", metavar="FILE", help="write the JSON here, after every part")
    parser.add_argument("--smoke", action="store_true", help="all parts on the CPU, tiny")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas between them")
    parser.add_argument("--part", choices=[*PARTS, "open", "suite"], help="only this one, in this process, as JSON")
    options = parser.parse_args(given)
    options.given, options.suite_s = given, SUITE_S - 5
    if options.smoke:
        tiny = {
            "batches": [2],
            "training": [8],
            "frames": 8,
            "sequence": 8,
            "start_batch": 2,
            "seconds": 0.0,
            "bulk": 2,
        }
        for name, value in tiny.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
        options.minutes, options.suite_s = 60.0, 1200.0
    return options


def one_part(options: Namespace) -> None:
    """Prints one part's result as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        if options.smoke:
            stand_ins(folder)
        others: dict[str, Part] = {"open": opened, "suite": suite}
        part = others.get(options.part) or PARTS[options.part][0]
        print(json.dumps(part(options)))


def main() -> None:
    """Command line."""
    options = options_of(sys.argv[1:])
    if options.part:
        one_part(options)
        return
    gpu = "none: the CPU in its place"
    try:
        if not options.smoke:
            gpu = Cuda("bench/gpu.py", 0).capability
    except EngineError as error:
        print(f"rtskel: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    measured: dict[str, Any] = {"GPU": gpu}
    result: dict[str, Any] = {"bench": "gpu", "smoke": options.smoke, "measured": measured}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(1) as aside:
        os.environ[CACHE] = cache  # empty, so that the first start is one
        # Beside the first start, which compiles and is not timed against anything; it must end before what is.
        tested = aside.submit(part_in_a_process, "suite", options, 1800.0 if options.smoke else SUITE_S)
        for name in options.parts.split(","):
            if name != "first start":
                measured["law and conformance"] = tested.result()
            most = PARTS[name][1] if not options.smoke else 1800.0
            left = 60 * options.minutes - (time.monotonic() - began)
            if left < 5:
                measured[name] = {"unavailable": "no time was left"}
            else:
                measured[name] = part_in_a_process(name, options, min(most, left))
            result["targets"] = {} if options.smoke else beside_targets(measured)
            if options.out:
                Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
            print(f"{name}: done after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    report(result, [*lines(measured), *lines({"targets": result["targets"]})], options)


if __name__ == "__main__":
    main()
