"""What does a window cost in each engine and precision, what does precision cost, and what do other runtimes take?

Everything computes the same weights, each in its own process that may use all cores. Our engines compute the positions
that a server with `--lookahead 0,4` reads; the others compute all, as a user would first write or export the network:
PyTorch eager and compiled, ONNX Runtime and OpenVINO with their defaults on a plain export. The ceiling is the fastest
square matrix product in PyTorch or OpenVINO; shares of it count the FLOPs that the requested positions need.

Errors are those of raw predictions against PyTorch in float32, in canonical units (shoulders are 1/3 apart). CPU time
is that of all threads: on a busy machine its ratios are more reliable.

    python bench/engine.py --save engine
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure.engines import flops, ring_config, seconds_of
from measure.poses import synthetic
from measure.processes import apart
from measure.report import WEIGHTS, arguments, bench, counts, names, percentiles, table, unavailable
from numpy.typing import NDArray

from rtskel.cli import positive
from rtskel.engine import Engine, describe, open_engine
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER

LOOKAHEADS = (0, 4)
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
    """An engine that always computes all positions, as a user would write it."""

    def __init__(self, files: Files, builder: str, function: Callable[[Floats, Mask], Floats], precision: str) -> None:
        super().__init__(replace(describe(files.weights), precision=precision, builder=builder), MAX_BATCH)
        self._function = function

    def _run(self, x: Floats, missing: Mask, positions: Positions) -> Floats:
        return self._chosen(self._function(x, missing), positions)


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
    builder = f"onnxruntime {onnxruntime.__version__}"
    return Whole(files, builder, lambda x, missing: session.run(None, {"x": x, "missing": missing})[0], "fp32")


def openvino_plain(files: Files) -> Engine:
    """OpenVINO with its defaults, on the plain export; it decides on the precision."""
    import openvino

    compiled = openvino.Core().compile_model(files.plain, "CPU")
    precision = {"f32": "fp32"}.get(name := compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(), name)
    builder = f"openvino {openvino.__version__.split('-')[0]}"
    return Whole(files, builder, lambda x, missing: compiled({"x": x, "missing": missing})[0], precision)


OPPONENTS: dict[str, Callable[[Files], Engine]] = {
    "rtskel onnx fp32": lambda files: open_engine(files.graph, precision="fp32"),
    "rtskel onnx bf16": lambda files: open_engine(files.graph, precision="bf16"),
    "rtskel onnx int8": lambda files: open_engine(files.graph, precision="int8"),
    "rtskel safetensors": lambda files: open_engine(files.weights),
    "torch eager": eager,
    "torch.compile": lambda files: eager(files, compiled=True),
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino_plain,
}


def inputs(batch: int, window: int) -> tuple[Floats, Mask]:
    """Windows of a signer as seen by an estimator, in canonical units."""
    seen = synthetic((batch + window) / 25.0 + 1.0, seed=3)
    neck, width = seen.truth[:, NECK].mean(0), seen.truth[:, LEFT_SHOULDER] - seen.truth[:, RIGHT_SHOULDER]
    rows = np.arange(batch)[:, None] + np.arange(window)
    x = (seen.xyz - neck) / (3.0 * np.linalg.norm(width, axis=-1).mean())
    missing = seen.missing[rows]
    return np.where(missing[..., None], 0.0, x[rows]).astype(np.float32), missing


def wanted(window: int) -> Positions:
    """The positions that a server asks for."""
    return ring_config(window, LOOKAHEADS).positions


def prepare(files: Files, control: Connection) -> None:
    """Exports the network plainly; sends reference predictions, and the FLOPs of a window by requested positions."""
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
        run = partial(engine.run, x, missing, positions)
        cpu = time.process_time()
        wall = seconds_of(run, options.runs, options.seconds)
        cpu = (time.process_time() - cpu) / len(wall)
        batches[str(batch)] = {**percentiles(1e3 * np.array(wall)), "cpu": 1e3 * cpu}
    return {
        "builder": engine.info.builder,
        "precision": engine.info.precision,
        "asked": "all" if isinstance(engine, Whole) else "asked",
        "error": {"max": float(np.abs(off).max()), "rms": float(np.sqrt(np.square(off).mean()))},
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
            several = partial(torch.matmul, a, b), _openvino_product(size, name)
            rates += [2 * size**3 / float(np.median(seconds_of(multiply, 8, 0.0)[2:])) for multiply in several]
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


def add_shares(measured: dict[str, Any], operations: dict[str, int], ceilings: dict[str, float]) -> None:
    """Adds each engine's share of the ceiling in its precision, by batch."""
    for found in measured.values():
        peak = ceilings.get(found.get("precision", ""))
        for batch, ms in found.get("ms", {}).items():
            ms["share"] = operations[found["asked"]] * int(batch) / (ms["p50"] * 1e-3) / peak if peak else None


def run(options: Namespace) -> dict[str, Any]:
    """Every opponent, then the ceiling."""
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(options.engine).with_suffix(".safetensors"))
        files = Files(weights, options.engine, str(Path(folder, "plain.onnx")))
        expected, operations = apart(prepare, files)
        measured = {name: apart(measure, name, files, options, expected) for name in options.only}
    ceilings = apart(ceiling, options.gemm)
    add_shares(measured, operations, ceilings)
    info = describe(options.engine)
    asked = len(wanted(info.window))
    found = {"model": info.model_id, "batches": options.batches, "positions": asked, "flops": operations}
    return {**found, "ceiling": ceilings, "opponents": measured}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as a table."""
    flops = {asked: f"{operations / 1e6:.0f}" for asked, operations in result["flops"].items()}
    out = [
        f"{result['model']}: {flops['asked']} MFLOP a window for {result['positions']} requested positions, "
        f"{flops['all']} for all",
        "fastest product: " + ", ".join(f"{rate / 1e9:.0f} GFLOP/s {p}" for p, rate in result["ceiling"].items()),
    ]
    rows = {}
    for name, found in result["opponents"].items():
        if "ms" not in found:
            out.append(f"{name}: {found['unavailable']}")
            continue
        row = {}
        for batch, ms in found["ms"].items():
            share = f" {ms['share']:4.0%}" if ms["share"] else ""
            row[f"batch {batch}"] = f"{ms['p50']:.2f} ({ms['p90']:.2f}, {ms['p99']:.2f}){share}"
        row |= {f"{measure} error": f"{value:.1e}" for measure, value in found["error"].items()}
        rows[f"{name} ({found['builder']}, {found['precision']})"] = row
    return [*out, "", *table("ms a run: p50 (p90, p99), share of the ceiling", rows)]


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    graph = str(WEIGHTS.with_suffix(".onnx"))
    parser.add_argument("--engine", default=graph, help="an .onnx file with its .safetensors beside it")
    parser.add_argument(
        "--batches", type=counts, default=[1, 4, 16, 64], help=f"up to {MAX_BATCH}, with commas between"
    )
    parser.add_argument("--only", type=names(OPPONENTS), default=[*OPPONENTS], help="opponents, with commas between")
    parser.add_argument("--seconds", type=float, default=1.0, help="least, for each opponent and batch")
    parser.add_argument("--runs", type=positive, default=10, help="least, for each opponent and batch")
    parser.add_argument("--gemm", type=counts, default=[512, 1024, 2048, 4096], help="sizes of the ceiling's products")
    return bench("engine", parser.parse_args(), run, lines)


if __name__ == "__main__":
    raise SystemExit(main())
