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
- `streams`: windows a second, one new frame of each stream a step, two steps in flight; us of host a window; share of
  the GPU's largest bf16 product.
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
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure.engines import flops, ring_config
from measure.report import WEIGHTS, arguments, bench, percentiles, unavailable
from numpy.typing import NDArray

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
JOINTS, WINDOW, LOOKAHEAD = UPPER_BODY_50.joints, 32, 4
SHOULDERS_MM = 370.0
MOST = "batch 1024"
TARGETS: dict[str, tuple[str, float, tuple[str, ...]]] = {
    "right: mm RMS from float32 on the CPU": ("at most", 0.1, ("right", "bf16, against float32 on the CPU", "mm RMS")),
    "start: seconds, second start": ("at most", 10.0, ("second start", "s")),
    "stream: us, p50": ("at most", 200.0, ("stream", "us", "p50")),
    "stream: us around the network, p50": ("at most", 60.0, ("stream", "us around the network", "p50")),
    "streams: windows a second, batch 1024": ("at least", 400_000.0, ("streams", "ours", MOST, "windows_per_second")),
    "streams: us of host a window, batch 1024": ("at most", 1.0, ("streams", "ours", MOST, "us of host")),
    "bulk: frames a second": ("at least", 600_000.0, ("bulk", "frames a second", "windows_per_second")),
    "training: share of drawing, batch 1024": ("at most", 0.25, ("training", MOST, "share of drawing")),
    "training: windows a second, batch 1024": ("at least", 15_000.0, ("training", MOST, "windows")),
}
"""What is wanted, and where the figure is."""

SIZES: dict[str, Any] = {
    "batches": [16, 64, 1024],  # streams in a step
    "bulk": 4096,  # windows in a step of many recordings
    "recordings": (320, 1000),  # how many, and how long
    "training": [1024, 32],  # windows in a batch
    "frames": 2000,  # for latency
    "sequence": 60,  # frames that are compared
    "start_batch": 64,  # largest batch of a start
    "seconds": 1.0,  # for throughput, each batch
    "steps": 20,  # of training
    "limit_s": 165.0,  # for the suite
}
TINY: dict[str, Any] = {
    "batches": [2], "bulk": 2, "recordings": (2, 4), "training": [8], "frames": 8, "sequence": 8, "start_batch": 2,
    "seconds": 0.0, "steps": 1, "limit_s": 1200.0,
}  # fmt: skip

EAGER: dict[str, Any] = {"compiled": False, "kernels": False}


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
    return RefinerBank(engine, lookahead=LOOKAHEAD, streams=streams)


Opener = Callable[[int], Engine]
"""Opens an engine for batches up to some size."""


def difference(one: Opener, other: Opener, frames: int, streams: int = 3) -> dict[str, Any]:
    """Differences between two engines' poses, in their unit and with shoulders 370 mm apart; are the books equal?"""
    xyz, confidence = clips(streams, frames)
    found = []
    for open_it in (one, other):
        with open_it(8) as engine, BulkRefiner(engine, lookahead=LOOKAHEAD, streams=streams) as refiner:
            given = [refiner.submit(xyz[:, stream], confidence[:, stream]) for stream in range(streams)]
            found.append(Refined.concatenate([each.result() for each in given]))
    a, b = found
    across = np.linalg.norm(xyz[:, :, LEFT_SHOULDER] - xyz[:, :, RIGHT_SHOULDER], axis=-1)
    mm = SHOULDERS_MM / float(np.median(across)) * np.linalg.norm(a.xyz - b.xyz, axis=-1)
    books = ("slot", "lookahead", "windows", "flags", "confidence")
    return {
        "poses": len(a),
        "xyz": float(np.abs(a.xyz - b.xyz).max()),
        "sigma": float(np.abs(a.sigma - b.sigma).max()),
        "mm RMS": float(np.sqrt(np.square(mm).mean())),
        "mm RMS of the worst pose": float(np.sqrt(np.square(mm).mean(1)).max()),
        "books equal": all(np.array_equal(getattr(a, name), getattr(b, name)) for name in books),
    }


def latency(open_it: Opener, frames: int) -> dict[str, float]:
    """Time in us from one frame in host memory to the pose that it completes in host memory."""
    xyz, confidence = clips(1, frames)
    times = []
    with open_it(1) as engine:
        bank = bank_of(engine, 1)
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


def throughput(engine: Engine, batch: int, seconds: float) -> dict[str, float]:
    """Windows a second of as many streams as a batch has windows, and us of host a window; rings on the GPU have two
    steps in flight.
    """
    given = [tuple(map(np.ascontiguousarray, each)) for each in zip(*clips(batch, 48), strict=True)]
    streams, warm, step, taken = np.arange(batch), 20, 0, 0
    start = until = time.perf_counter()
    with waiting(engine) as waits:
        bank = bank_of(engine, batch)
        ring: Any = bank._ring
        ahead = isinstance(ring, EngineRing)
        while step < warm + 10 or time.perf_counter() < until:
            if step == warm:
                start, taken = time.perf_counter(), 0
                until = start + seconds
                waits.clear()
            bank.put(streams, np.full(batch, step), *given[step % 48])
            if not ahead:
                taken += len(bank.step())
            else:
                ring.submit(batch)
                if step:
                    taken += len(ring.collect())
            step += 1
        elapsed = time.perf_counter() - start
        host = {"us of host": 1e6 * (elapsed - sum(waits)) / taken} if waits else {}
        if ahead:
            ring.collect()
    return {"windows_per_second": taken / elapsed, "us": 1e6 * elapsed / taken, **host}


def limits(weights: str) -> dict[str, float]:
    """FLOPs of a window, and FLOP/s of this GPU's largest bf16 product."""
    import torch

    from rtskel.engine.weights import load_weights

    model = load_weights(weights)
    found = {"FLOPs a window": float(flops(model, ring_config(model.config.window, [LOOKAHEAD]).positions))}
    if torch.cuda.is_available():
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        for run in range(13):  # of which 3 warm up
            if run == 3:
                torch.cuda.synchronize()
                start = time.perf_counter()
            a @ b
        torch.cuda.synchronize()
        found["FLOP/s"] = 10 * 2 * 8192**3 / (time.perf_counter() - start)
    return found


def share(limit: dict[str, float], windows_per_second: float) -> dict[str, float]:
    """Share of the largest bf16 product, if it was measured."""
    return {"peak": windows_per_second * limit["FLOPs a window"] / limit["FLOP/s"]} if "FLOP/s" in limit else {}


def attempt(measured: dict[str, Any], name: str, measure: Callable[..., Any], *given: Any) -> None:
    """Keeps the result of a measurement or, if it does not run here, the reason."""
    try:
        measured[name] = measure(*given)
    except Exception as error:
        measured[name] = unavailable(error)


def by_batch(open_it: Opener, batches: list[int], limit: dict[str, float], seconds: float) -> dict[str, Any]:
    """Throughput of an engine, and its share of the limit, by batch."""
    found: dict[str, Any] = {}
    with open_it(max(batches)) as engine:

        def measured(batch: int) -> dict[str, float]:
            rates = throughput(engine, batch, seconds)
            return rates | share(limit, rates["windows_per_second"])

        for batch in sorted(batches, reverse=True):
            attempt(found, f"batch {batch}", measured, batch)
    return found


# -- parts: one process each -------------------------------------------------------------------------------------------


def ours(options: Namespace, **how: Any) -> Opener:
    """PyTorch's engine on the GPU, rings beside it; each batch size is prepared when it is used."""
    how = {"warm_up": False, "rings": True, "graphs": True} | how
    return lambda batch: TorchEngine(options.weights, max_batch=batch, **how)


def on_the_cpu(options: Namespace) -> Opener:
    """The reference: PyTorch in float32."""
    return lambda batch: open_engine(options.weights, max_batch=batch)


def suite(options: Namespace) -> dict[str, Any]:
    """The law and the engines' conformance suite on this GPU, the network not compiled."""
    chosen = ["-k", "what_the_reference or late_frames"] if options.smoke else ["-k", "cuda"]
    files = ["tests/test_torch_cuda.py", *([] if options.smoke else ["tests/test_engine.py"])]
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--no-header", "-p", "no:cacheprovider", *files, *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=options.limit_s, check=False)
    told = re.compile(r"FAILED|ERROR|contract|.*(passed|failed|error)")
    return {"status": done.returncode, "lines": list(filter(told.match, done.stdout.splitlines()))[-12:]}


def right(options: Namespace) -> dict[str, Any]:
    """Differences to the reference."""
    found: dict[str, Any] = {}

    def null(batch: int) -> Engine:
        return NullEngine(window=WINDOW, max_batch=batch)

    copies = "a network that copies, rings on the GPU against the host's"
    attempt(found, copies, difference, Copying, null, options.sequence)
    for name, how in {"bf16": {}, "bf16, eager": EAGER, "fp32": {}}.items():
        tried = ours(options, precision=name.split(",")[0], **how)
        attempt(found, f"{name}, against float32 on the CPU", difference, tried, on_the_cpu(options), options.sequence)
    return found


def started(options: Namespace) -> dict[str, Any]:
    """Seconds to the first pose in a new process, and of which until engine and rings are open.

    Beside the first start the suite runs; nothing runs beside the second one, with kernels compiled before.
    """
    began = time.monotonic()
    done = part_in_a_process("open", options, 200.0)
    return {"s": done.get("unavailable") or time.monotonic() - began, "of which to open, s": done.get("open, s", "")}


def opened(options: Namespace) -> dict[str, Any]:
    """What a process does until its first pose (part of the starts)."""
    began = time.monotonic()
    with ours(options, warm_up=True)(options.start_batch) as engine:
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
    engines: dict[str, Opener] = {
        "us": ours(options),
        "us around the network": Copying,
        "us, eager in a graph": ours(options, **EAGER),
        "us, eager": ours(options, **EAGER, graphs=False, rings=False),
        "us, fp32": ours(options, precision="fp32"),
    }
    for name, open_it in engines.items():
        attempt(found, name, latency, open_it, options.frames)
    return found


def streams(options: Namespace) -> dict[str, Any]:
    """Windows a second by batch, each in the smallest size that is prepared for it, as a server does."""
    found: dict[str, Any] = {}
    attempt(found, "limits", limits, options.weights)
    most, limit = [max(options.batches)], found["limits"]
    attempt(found, "ours", by_batch, ours(options), options.batches, limit, options.seconds)
    attempt(found, "eager in a graph", by_batch, ours(options, **EAGER), most, limit, options.seconds)
    attempt(found, "a network that copies", by_batch, Copying, options.batches, {}, options.seconds)
    return found


def bulk(options: Namespace) -> dict[str, Any]:
    """Frames a second of many recordings, side by side as `rtskel refine --gpu` refines them."""
    found: dict[str, Any] = {}
    count, length = options.recordings
    given = [
        tuple(map(np.ascontiguousarray, each))
        for each in zip(*(x.swapaxes(0, 1) for x in clips(count, length)), strict=True)
    ]

    def measured(how: dict[str, Any]) -> dict[str, float]:
        with (
            ours(options, **how)(options.bulk) as engine,
            BulkRefiner(engine, lookahead=LOOKAHEAD, streams=64) as refiner,
        ):
            refiner.refine(*given[0])  # prepares and warms up
            for recordings in (given[: count // 4], given):
                began = time.perf_counter()
                for each in [refiner.submit(*each) for each in recordings]:
                    each.result()
            elapsed = time.perf_counter() - began
        return {"windows_per_second": count * length / elapsed, "frames": float(count * length)}

    for name, how in {"frames a second": {}, "frames a second, eager": EAGER}.items():
        attempt(found, name, measured, how)
    return found


def training(options: Namespace) -> dict[str, Any]:
    """Steps of training: milliseconds, and of which drawing; windows a second.

    Kernel by kernel first, then with network and loss compiled, where that seems to end within 75 s.
    """
    import torch

    from rtskel.training.config import RECIPES
    from rtskel.training.data import Corpus, Sequence, write_corpus
    from rtskel.training.train import Trainer

    found: dict[str, Any] = {}
    device = "cpu" if options.smoke else "cuda"
    began = time.perf_counter()

    def ready() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(function: Callable[[], Any]) -> float:
        """Seconds of a call that another one follows at once."""
        function()
        since = ready()
        for _ in range(options.steps):
            function()
        return float((ready() - since) / options.steps)

    def measured(batch: int, **other: Any) -> dict[str, float]:
        changes: dict[str, Any] = {"batch": batch, "sources": {"synthetic": 1.0}, "pairs": "", "init": ""} | other
        trainer = Trainer(replace(RECIPES["realtime"], **changes), corpus, device)
        for _ in range(min(3, options.steps)):
            trainer.step()
        step, draw = timed(trainer.step), timed(trainer.batches.draw)
        of_drawing = {"ms, drawing": 1e3 * draw, "share of drawing": draw / step}
        return {"ms": 1e3 * step, **of_drawing, "windows": batch / step}

    with tempfile.TemporaryDirectory() as folder:
        made = [synthesize(8.0, seed=seed).xyz.astype(np.float32) for seed in range(16)]
        write_corpus(folder, [(Sequence(str(k), "synthetic", "train", 25.0, 0, 0), xyz) for k, xyz in enumerate(made)])
        corpus = Corpus(folder)
        for batch in options.training:
            attempt(found, f"batch {batch}, eager", measured, batch)
        compiling = 30.0
        for batch in [] if options.smoke else options.training:
            since = time.perf_counter()
            if since - began + compiling > 75.0:
                found[f"batch {batch}"] = {"unavailable": "no time was left to compile"}
                continue
            attempt(found, f"batch {batch}", functools.partial(measured, compile=True), batch)
            compiling = time.perf_counter() - since
        corpus.release()
    return found


def plans(folder: Path, options: Namespace, here: str) -> dict[str, str | EngineError]:
    """A plan for this GPU by each module that is installed, and TensorRT-RTX's for the GPUs of its list; or why not."""
    from rtskel.engine.onnx_export import export_onnx

    export_onnx(options.weights, graph := str(folder / "bf16.onnx"), precision="bf16")
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


def of_plans(options: Namespace) -> dict[str, Any]:
    """Every plan that runs here."""
    measured: dict[str, Any] = {}
    attempt(measured, "limits", limits, options.weights)
    with tempfile.TemporaryDirectory() as folder:
        attempt(measured, "plans", lambda: plans(Path(folder), options, Cuda("bench/gpu.py", 0).capability))
        if "unavailable" in measured["plans"]:
            return measured
        for name, path in measured.pop("plans").items():
            if isinstance(path, EngineError):
                measured[name] = unavailable(path)
                continue
            gpu, host = (functools.partial(opened_plan, path, rings) for rings in (True, False))
            attempt(measured, f"{name}: against the host's rings", difference, gpu, host, options.sequence)
            reference = difference, gpu, on_the_cpu(options), options.sequence
            attempt(measured, f"{name}: against PyTorch in float32 on the CPU", *reference)
            attempt(measured, f"{name}: us a frame, one stream", latency, gpu, options.frames)
            rates = by_batch, gpu, options.batches, measured["limits"], options.seconds
            attempt(measured, f"{name}: streams", *rates)
    return measured


def opened_plan(plan: str, rings: bool, batch: int) -> Engine:
    """A plan, with rings on the GPU or on the host."""
    return open_engine(plan, max_batch=batch, rings=rings)


Part = Callable[[Namespace], dict[str, Any]]
PARTS: dict[str, tuple[Part, float]] = {
    "first start": (started, 120.0),
    "second start": (started, 60.0),
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
    """Each figure that has a target, with that and whether it was met; None where it was not measured.

    Of training, those of the compiled network if there are any, else those of the other.
    """

    def figure(part: str, *path: str) -> float | None:
        value: Any = measured.get(part, {})
        if part == "training" and "ms" not in value.get(path[0], {}):
            path = (f"{path[0]}, eager", *path[1:])
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, (int, float)) else None

    found = {}
    for name, (sense, target, path) in TARGETS.items():
        value = figure(*path)
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
    """Command line, and the sizes of what is measured."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", default=str(WEIGHTS), help="weights to run, and to export")
    parser.add_argument("--minutes", type=float, default=4.8, help="parts that would begin later are left out")
    parser.add_argument("--out", metavar="FILE", help="write the JSON here, after every part")
    parser.add_argument("--smoke", action="store_true", help="all parts on the CPU, tiny")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas between them")
    parser.add_argument("--part", choices=[*PARTS, "open", "suite"], help="only this one, in this process, as JSON")
    options = parser.parse_args(given)
    if options.smoke:
        options.minutes = 60.0
    return Namespace(**vars(options), **(TINY if options.smoke else SIZES), given=given)


def one_part(options: Namespace) -> None:
    """Prints one part's result as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        if options.smoke:
            stand_ins(folder)
        others: dict[str, Part] = {"open": opened, "suite": suite}
        part = others.get(options.part) or PARTS[options.part][0]
        print(json.dumps(part(options)))


def run(options: Namespace) -> dict[str, Any]:
    """Every part, each in a process of its own."""
    measured: dict[str, Any] = {"GPU": "none: the CPU in its place"}
    if not options.smoke:
        measured["GPU"] = Cuda("bench/gpu.py", 0).capability
    result: dict[str, Any] = {"smoke": options.smoke, "measured": measured}
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
                Path(options.out).write_text(json.dumps({"bench": "gpu", **result}, indent=1) + "\n")
            print(f"{name}: done after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return result


def main() -> int:
    """Command line."""
    options = options_of(sys.argv[1:])
    if options.part:
        one_part(options)
        return 0
    return bench("gpu", options, run, lambda result: lines({**result["measured"], "targets": result["targets"]}))


if __name__ == "__main__":
    raise SystemExit(main())
