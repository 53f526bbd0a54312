"""What does a window cost in each engine and precision, what does precision cost, and what would others take?

Everything computes the same weights, in a process of its own that may use all cores. Ours are asked for the positions
that a server with `--lookahead 0,4` reads; the others compute all, as a user would write or export the network first:
PyTorch eager and compiled, ONNX Runtime and OpenVINO with their defaults on a plain export. The ceiling is the fastest
square matrix product in PyTorch or OpenVINO; the share of it counts the FLOPs of the products that the positions asked
for need.

Errors are those of raw predictions beside PyTorch's in float32, in canonical units (shoulders are 1/3 apart), and of a
refined clip beside the truth. CPU time is that of all threads: on a busy machine its ratios hold better than those of
the clock.

    python bench/engine.py --save engine
    python bench/engine.py --profile NAME --runs 200    # OpenVINO's own time of each operation, on one thread
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import (
    WEIGHTS,
    apart,
    arguments,
    counts,
    flops,
    keep_profile,
    names,
    percentiles,
    report,
    ring_config,
    unavailable,
)
from numpy.typing import NDArray
from peers import synthetic

from rtskel.cli import positive
from rtskel.engine import Engine, EngineInfo, describe, open_engine
from rtskel.refine import refine
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER

RADIUS, LOOKAHEADS = 2, (0, 4)
MAX_BATCH = 64
WINDOWS = 16
"""How many windows predictions are compared over."""

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Positions = NDArray[np.int64]


class Files(NamedTuple):
    """The same weights in three files."""

    weights: str  # .safetensors
    graph: str  # .onnx, as `rtskel export` writes it
    plain: str  # .onnx, as PyTorch's exporter makes it of the network


class Whole(Engine):
    """An engine that computes all positions whatever is asked for: what a user would write."""

    def __init__(self, files: Files, builder: str, function: Callable[[Floats, Mask], Floats], precision: str) -> None:
        info: EngineInfo = replace(describe(files.weights), precision=precision, builder=builder)
        super().__init__(info, MAX_BATCH)
        self._function = function

    def _run(self, x: Floats, missing: Mask, positions: Positions) -> Floats:
        return self._chosen(self._function(x, missing), positions)


def ours(precision: str) -> Callable[[Files], Engine]:
    """The graph in our engine."""
    return lambda files: open_engine(files.graph, precision=precision)


def safetensors(files: Files) -> Engine:
    """The weights in our engine."""
    return open_engine(files.weights)


def eager(files: Files, compiled: bool = False) -> Engine:
    """PyTorch."""
    import torch

    from rtskel.engine.weights import load_weights

    model: Any = load_weights(files.weights)
    if compiled:
        model = torch.compile(model)

    def run(x: Floats, missing: Mask) -> Floats:
        with torch.inference_mode():
            y: Floats = model(torch.from_numpy(x), torch.from_numpy(missing)).contiguous().numpy()
        return y

    return Whole(files, f"torch {torch.__version__}", run, "fp32")


def onnx_runtime(files: Files) -> Engine:
    """ONNX Runtime, on the plain export."""
    import onnxruntime

    session = onnxruntime.InferenceSession(files.plain, providers=["CPUExecutionProvider"])

    def run(x: Floats, missing: Mask) -> Floats:
        y: Floats = session.run(None, {"x": x, "missing": missing})[0]
        return y

    return Whole(files, f"onnxruntime {onnxruntime.__version__}", run, "fp32")


def openvino_plain(files: Files) -> Engine:
    """OpenVINO with its defaults, on the plain export; it decides on the precision."""
    import openvino

    compiled = openvino.Core().compile_model(files.plain, "CPU")
    precision = {"f32": "fp32"}.get(name := compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(), name)

    def run(x: Floats, missing: Mask) -> Floats:
        y: Floats = compiled({"x": x, "missing": missing})[0]
        return y

    return Whole(files, f"openvino {openvino.__version__.split('-')[0]}", run, precision)


OPPONENTS: dict[str, Callable[[Files], Engine]] = {
    "rtskel onnx fp32": ours("fp32"),
    "rtskel onnx bf16": ours("bf16"),
    "rtskel onnx int8": ours("int8"),
    "rtskel safetensors": safetensors,
    "torch eager": eager,
    "torch.compile": lambda files: eager(files, compiled=True),
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino_plain,
}


def inputs(batch: int, window: int) -> tuple[Floats, Mask]:
    """Windows of a signer as an estimator sees him, in canonical units."""
    seen = synthetic((batch + window) / 25.0 + 1.0, seed=3)
    neck, width = seen.truth[:, NECK].mean(0), seen.truth[:, LEFT_SHOULDER] - seen.truth[:, RIGHT_SHOULDER]
    rows = np.arange(batch)[:, None] + np.arange(window)
    x = (seen.xyz - neck) / (3.0 * np.linalg.norm(width, axis=-1).mean())
    missing = seen.missing[rows]
    return np.where(missing[..., None], 0.0, x[rows]).astype(np.float32), missing


def wanted(window: int) -> Positions:
    """The positions that a server asks for."""
    return ring_config(window, LOOKAHEADS, RADIUS).positions


def prepare(files: Files, control: Connection) -> None:
    """Exports the network plainly; sends reference predictions, and the FLOPs of a window by positions asked for."""
    import torch

    from rtskel.engine.weights import load_weights

    model = load_weights(files.weights)
    window = model.config.window
    x, missing = (torch.from_numpy(array) for array in inputs(WINDOWS, window))
    with torch.inference_mode():
        expected = model(x, missing).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        batch = {0: torch.export.Dim("B", min=1, max=4096)}
        program = torch.onnx.export(
            model, (x[:2], missing[:2]), input_names=["x", "missing"], output_names=["y"],
            dynamic_shapes={"x": batch, "missing": batch}, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(files.plain)
    control.send((expected, {"asked": flops(model, wanted(window)), "all": flops(model)}))


def measure(name: str, files: Files, options: Namespace, expected: Floats, control: Connection) -> None:
    """One opponent: times by batch, and errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with OPPONENTS[name](files) as engine:
                control.send(_measured(engine, options, expected))
        except Exception as error:
            control.send(unavailable(error))


def _measured(engine: Engine, options: Namespace, expected: Floats) -> dict[str, Any]:
    positions, batches = wanted(engine.window), {}
    x, missing = inputs(WINDOWS, engine.window)
    off = engine.run(x, missing, positions) - expected[:, positions]
    for batch in options.batches:
        x, missing = inputs(batch, engine.window)
        for _ in range(3):
            engine.run(x, missing, positions)
        wall: list[float] = []
        cpu, until = time.process_time(), time.perf_counter() + options.seconds
        while len(wall) < options.runs or time.perf_counter() < until:
            start = time.perf_counter()
            engine.run(x, missing, positions)
            wall.append(1e3 * (time.perf_counter() - start))
        cpu = (time.process_time() - cpu) / len(wall)
        batches[str(batch)] = {**percentiles(wall), "cpu": 1e3 * cpu}
    seen = synthetic(options.clip, seed=11)
    confidence = (~seen.missing).astype(np.float32)
    refined = refine(seen.xyz, engine=engine, confidence=confidence, lookahead=LOOKAHEADS[-1], radius=RADIUS)
    return {
        "builder": engine.info.builder,
        "precision": engine.info.precision,
        "asked": "all" if isinstance(engine, Whole) else "asked",
        "error": {"max": float(np.abs(off).max()), "rms": float(np.sqrt(np.square(off).mean()))},
        "clip_mse": float(np.square(1e3 * (refined - seen.truth)).mean()),
        "ms": batches,
    }


def ceiling(sizes: list[int], control: Connection) -> None:
    """FLOP/s of the fastest square matrix product of these sizes, by PyTorch or OpenVINO, in each precision."""
    import torch

    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rates = []
        for size in sizes:
            a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
            for multiply in (lambda a=a, b=b: a @ b, _openvino_product(size, name)):
                times: list[float] = []
                while len(times) < 8:
                    start = time.perf_counter()
                    multiply()
                    times.append(time.perf_counter() - start)
                rates.append(2 * size**3 / float(np.median(times[2:])))
        found[name] = max(rates)
    control.send(found)


def _openvino_product(size: int, precision: str) -> Callable[[], Any]:
    import openvino as ov

    weights = np.random.default_rng(0).standard_normal((size, size), np.float32)
    x = ov.opset13.parameter([size, size], np.float32)
    product = ov.opset13.matmul(x, ov.opset13.constant(weights), False, True)
    hints = {"INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else precision, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(ov.Model([product], [x], "product"), "CPU", hints).create_infer_request()
    request.set_input_tensor(ov.Tensor(weights))
    return lambda: request.infer()


def compare(measured: dict[str, Any], operations: dict[str, int], ceilings: dict[str, float]) -> dict[str, Any]:
    """Adds each one's share of the ceiling; returns the ratios that targets are about."""
    there = {name: found for name, found in measured.items() if "ms" in found}
    for found in there.values():
        peak = ceilings.get(found["precision"])
        for batch, ms in found["ms"].items():
            ms["share"] = operations[found["asked"]] * int(batch) / (ms["p50"] * 1e-3) / peak if peak else None
    ratios: dict[str, Any] = {}
    other = there.get("ONNX Runtime", {"ms": {}})["ms"].get("1")
    for name, found in there.items():
        if name.startswith("rtskel onnx") and other and "1" in found["ms"]:
            ratios[f"{name} / ONNX Runtime, batch 1"] = {k: found["ms"]["1"][k] / other[k] for k in ("p50", "cpu")}
    best = there.get("rtskel onnx bf16", {"ms": {}})["ms"].get("16")
    if best:
        ratios["rtskel onnx bf16, share of the bf16 ceiling, batch 16"] = {"p50": best["share"]}
    return ratios


def lines(result: dict[str, Any]) -> list[str]:
    """The result as a table."""
    batches = result["batches"]
    gflops = {name: f"{rate / 1e9:.0f}" for name, rate in result["ceiling"].items()}
    table = [
        f"{result['model']}: {result['flops']['asked'] / 1e6:.0f} MFLOP a window asked for "
        f"{result['positions']} positions, {result['flops']['all'] / 1e6:.0f} for all",
        f"fastest product: {gflops['fp32']} GFLOP/s fp32, {gflops['bf16']} bf16",
        "",
        f"{'ms a run: p50 (p90, p99), share of the ceiling':<48}" + "".join(f"{f'batch {b}':>30}" for b in batches),
    ]
    for name, found in result["opponents"].items():
        if "ms" not in found:
            table.append(f"{name:<48}{found['unavailable']}")
            continue
        row = f"{name + ' (' + found['builder'] + ', ' + found['precision'] + ')':<48}"
        for ms in found["ms"].values():
            share = f" {ms['share']:4.0%}" if ms["share"] else "     "
            row += f"{ms['p50']:10.2f} ({ms['p90']:.2f}, {ms['p99']:.2f})".rjust(25) + share
        table.append(row)
    table += ["", f"{'error':<48}{'max':>10}{'rms':>12}{'MSE of a clip, mm^2':>24}"]
    for name, found in result["opponents"].items():
        if "ms" in found:
            error = found["error"]
            table.append(f"{name:<48}{error['max']:>10.1e}{error['rms']:>12.1e}{found['clip_mse']:>24.4f}")
    table.append("")
    for name, ratio in result["ratios"].items():
        cpu = f", CPU time {ratio['cpu']:.2f}" if "cpu" in ratio else ""
        target = "at least 0.70" if "share" in name else "at most 0.50"
        table.append(f"{name}: {ratio['p50']:.2f}{cpu} (target: {target})")
    return table


def profile(graph: str, runs: int, control: Connection) -> None:
    """OpenVINO's own time of each operation: the least of many runs, on one thread, so that it holds on a busy machine.

    The engine's own graphs are compiled again with counters: for a window alone, and for the largest piece.
    """
    text = ["OpenVINO's own time of each operation: the least of many runs, on one thread", ""]
    for precision in ("fp32", "bf16", "int8"):
        for batch in (1, 8):
            with open_engine(graph, precision=precision, threads=1, max_batch=batch) as engine:
                inner: Any = engine
                inner._requests.clear()
                inner._core.set_property("CPU", {"PERF_COUNT": True})
                positions, (x, missing) = wanted(engine.window), inputs(batch, engine.window)
                request = inner._prepared(batch, len(positions))[0]
                best: dict[tuple[str, str, str], float] = {}
                for _ in range(runs):
                    engine.run(x, missing, positions)
                    for node in request.profiling_info:
                        if node.status == node.Status.EXECUTED:
                            key = node.node_type, node.exec_type, node.node_name
                            best[key] = min(best.get(key, np.inf), 1e6 * node.real_time.total_seconds())
            total, kinds = sum(best.values()), defaultdict[str, list[float]](list)
            for (kind, how, _), us in best.items():
                kinds[f"{kind} {how}"].append(us)
            text.append(f"{precision}, {batch} windows: {total:.0f} us in {len(best)} operations")
            for kind, times in sorted(kinds.items(), key=lambda item: -sum(item[1]))[:16]:
                text.append(f"{sum(times):9.0f} us {sum(times) / total:6.1%} {len(times):4d}  {kind}")
            text.append("  of these:")
            text += [
                f"{us:9.0f} us  {' '.join(key)}" for key, us in sorted(best.items(), key=lambda item: -item[1])[:12]
            ]
            text.append("")
    control.send("\n".join(text))


def main() -> None:
    """Command line."""
    parser = arguments(str(__doc__).splitlines()[0])
    graph = str(WEIGHTS.with_suffix(".onnx"))
    parser.add_argument("--engine", default=graph, help="an .onnx file, its .safetensors beside it")
    parser.add_argument("--batches", type=counts, default=[1, 4, 16, 64], help="with commas between")
    parser.add_argument("--only", type=names(OPPONENTS), default=[*OPPONENTS], help="opponents, with commas between")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each opponent and batch at least")
    parser.add_argument("--runs", type=positive, default=10, help="for each opponent and batch at least")
    parser.add_argument("--clip", type=float, default=12.0, help="seconds of the clip that errors are of")
    parser.add_argument("--gemm", type=counts, default=[512, 1024, 2048, 4096], help="sizes of the ceiling's products")
    parser.add_argument("--profile", metavar="NAME", help="only profile our graph, into bench/results/NAME.txt")
    options = parser.parse_args()
    if options.profile:
        text = apart(profile, options.engine, options.runs)
        keep_profile(options.profile, text)
        print(text, end="")
        return
    if not 1 <= min(options.batches) <= max(options.batches) <= MAX_BATCH:
        parser.error(f"--batches: from 1 to {MAX_BATCH}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(options.engine).with_suffix(".safetensors"))
        files = Files(weights, options.engine, str(Path(folder, "plain.onnx")))
        expected, operations = apart(prepare, files)
        measured = {name: apart(measure, name, files, options, expected) for name in options.only}
    ceilings = apart(ceiling, options.gemm)
    info = describe(options.engine)
    result = {
        "bench": "engine",
        "model": info.model_id,
        "batches": options.batches,
        "positions": len(wanted(info.window)),
        "flops": operations,
        "ceiling": ceilings,
        "ratios": compare(measured, operations, ceilings),
        "opponents": measured,
        "seconds": time.monotonic() - began,
    }
    report(result, lines(result), options)


if __name__ == "__main__":
    main()
