"""ONNX files on the CPU, run by OpenVINO: the engine that needs no GPU.

Three choices, measured with `bench/engine.py`. Graphs are compiled for fixed batches, because a graph for any batch
size takes twice as long. Batches are cut into pieces, each computed by one thread, because threads that share a piece
wait for each other at each of its two hundred operations. Only the trunk (matrix products and what lies between them)
is computed in less than float32: it takes most of the time, and the poses themselves would lose accuracy.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.engine.base import USUAL_POSITIONS, Engine, bucket
from rtskel.engine.metadata import EngineInfo, check_onnx, describe
from rtskel.errors import EngineError

PIECES = (8, 4, 2, 1)
"""Windows that one thread computes at once. With 16, each would take a tenth less time."""

GROUP = 64
"""Neighbouring activations that share a scale in int8."""

_PRECISIONS = {"fp32": ("fp32", "bf16", "int8"), "fp16": ("fp32",), "bf16": ("bf16",)}
"""Precisions that files of each precision can be computed in."""


class OnnxEngine(Engine):
    """Runs an ONNX file that `rtskel export` wrote.

    Args:
        path: the file.
        max_batch: the most windows of one `run`.
        precision: what the network's trunk computes in; everything around it is always float32. "fp32" (default for
            fp32 and fp16 files); "bf16" (default for bf16 files), up to twice as fast where the processor has it;
            "int8", a little faster still: weights are integers, activations are rounded at run time. fp16
            files are for GPUs and computed in fp32, bf16 files in bf16 (in fp32 if the processor lacks it).
        threads: how many to compute with; default: as many as there are cores. Below float32, a single window gets one
            thread, which is faster than several that synchronise.

    Raises:
        EngineError: a file that is unreadable or not of this kind, or a precision that this processor lacks.
    """

    def __init__(
        self, path: str | Path, *, max_batch: int = 64, precision: str | None = None, threads: int | None = None
    ) -> None:
        info = describe(path)
        if precision not in (None, "fp32", "bf16", "int8"):
            raise EngineError(f"{path}: precision {precision!r} cannot be had on a CPU (fp32, bf16 or int8)")
        if precision is not None and precision not in _PRECISIONS[info.precision]:
            raise EngineError(f"{path}: its precision is {info.precision}, not {precision}")
        try:
            import openvino as ov
            import openvino.passes  # not always imported with it
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "openvino":
                raise EngineError(f"{path}: OpenVINO is not installed: pip install 'rtskel[serve]'") from None
            raise EngineError(f"{path}: OpenVINO cannot be loaded ({_one_line(error)})") from None
        super().__init__(info, max_batch)
        self._ov: Any = ov
        self._requests: dict[tuple[int, int], list[Any]] = {}
        self._threads = threads or _cores()
        self._sizes = [size for size in PIECES if size <= largest_piece(max_batch, self._threads)]
        try:
            self._core = ov.Core()
            native = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if precision == "bf16" and not native:
                raise EngineError(f"{path}: this processor does not compute in bf16")
            computes = precision or ("bf16" if info.precision == "bf16" and native else "fp32")
            check_onnx(path)
            self._model = self._core.read_model(str(path))
            _check_tensors(path, self._model, info)
            if len(self._model.inputs) == 2:
                self._model = _answer_for_positions(ov, self._model)
            if computes == "int8":
                _quantise(path, ov, self._model)
            elif computes == "bf16" and info.precision != "bf16":
                _halve(path, ov, self._model)
            self.info = replace(
                info,
                precision=computes,
                builder=f"openvino {ov.__version__.split('-')[0]}",
                extra={**info.extra, "file_precision": info.precision, "threads": str(self._threads)},
            )
            self._prepared(1, bucket(USUAL_POSITIONS, self.window))  # fails now if it cannot run
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO cannot open it ({_one_line(error)})") from None

    def _prepared(self, size: int, wanted: int) -> list[Any]:
        """Requests for `size` windows and `wanted` positions of each, which may run at the same time.

        Each has a graph of its own. With one graph for all (NUM_STREAMS = threads) and tensors on the caller's memory,
        one answer in about 10,000 batches was wrong on a busy machine; the cause is unknown. To reproduce: compile one
        model with NUM_STREAMS=3, start three requests of it at a time under load, and compare each answer with that of
        the same window alone.
        """
        if (size, wanted) not in self._requests:
            together = size == 1 and self.info.precision == "fp32"  # all threads on one window
            properties = {
                "INFERENCE_PRECISION_HINT": "f32",  # where the graph does not ask for less
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP if self.info.precision == "int8" else 0,
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": self._threads if together else 1,
                # Pinned threads of two processes end up on the same cores; alone, unpinned threads are as fast.
                "ENABLE_CPU_PINNING": False,
            }
            frames = [size, self.window, self.joints]
            self._model.reshape({"x": [*frames, 3], "missing": frames, "positions": [wanted]})

            def compiled(_: int) -> Any:
                return self._core.compile_model(self._model, "CPU", properties).create_infer_request()

            count = 1 if together else min(self._threads, -(-self.max_batch // size))
            with ThreadPoolExecutor(count) as pool:
                self._requests[size, wanted] = list(pool.map(compiled, range(count)))
        return self._requests[size, wanted]

    def _run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        wanted = bucket(len(positions), self.window)
        asked = np.resize(positions, wanted)  # repeats some if more are computed than are wanted
        y = np.empty((len(x), len(positions), self.joints, 3), np.float32)
        running: dict[Any, slice] = {}

        def finish(request: Any) -> None:
            request.wait()
            y[running.pop(request)] = request.get_tensor("y").data[:, : len(positions)]

        try:
            for size in self._sizes:  # also those that only a later batch needs
                self._prepared(size, wanted)
            for number, piece in enumerate(pieces(len(x), self._threads)):
                requests = self._prepared(piece.stop - piece.start, wanted)
                request = requests[number % len(requests)]
                if request in running:
                    finish(request)
                # Into OpenVINO's own memory: caller's memory would have to outlive the request.
                request.get_tensor("x").data[:] = x[piece]
                request.get_tensor("missing").data[:] = missing[piece]
                request.get_tensor("positions").data[:] = asked
                running[request] = piece
                if len(x) == 1:
                    request.infer()  # saves a change of threads
                else:
                    request.start_async()
            for request in list(running):
                finish(request)
        except RuntimeError as error:
            raise EngineError(f"{self.info.path}: OpenVINO failed ({_one_line(error)})") from None
        finally:  # if one failed, others may still be running
            for request in running:
                with suppress(RuntimeError):
                    request.wait()
        return y

    def _close(self) -> None:
        self._requests.clear()
        del self._model, self._core


def largest_piece(batch: int, threads: int) -> int:
    """The smallest of `PIECES` that gives each thread at most one, or the largest piece."""
    return bucket(-(-batch // threads), PIECES[0])


def pieces(batch: int, threads: int) -> list[slice]:
    """The pieces of a batch: large ones while every thread gets one, smaller ones for the rest."""
    largest, cut, begin = largest_piece(batch, threads), list[slice](), 0
    while begin < batch:
        size = next(size for size in PIECES if size <= min(largest, batch - begin))
        cut.append(slice(begin, begin + size))
        begin += size
    return cut


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _answer_for_positions(ov: Any, model: Any) -> Any:
    """Adds the input `positions` to a graph without it, as older files have."""
    every = model.outputs[0].get_node().input_value(0)
    positions = ov.opset13.parameter([-1], np.int64, name="positions")
    chosen = ov.opset13.gather(every, positions, np.int64(1))
    every.set_names(set())
    for output, name in ((positions.output(0), "positions"), (chosen.output(0), "y")):
        output.set_names({name})
    return ov.Model([chosen], [*model.get_parameters(), positions], "rtskel")


def _trunk(path: str | Path, model: Any) -> tuple[dict[str, Any], list[Any]]:
    """The operations from the embedding to the outputs, by name and in order, and the last ones among them.

    They are found by the parameter names of `rtskel.model.Trunk`, which exported files keep.
    """

    def takes(operation: Any, *parameters: str) -> bool:
        names = (value.get_node().get_friendly_name().removesuffix(".cast") for value in operation.input_values())
        return any(name in parameters for name in names)

    order = model.get_ordered_ops()
    bias = next((operation for operation in order if takes(operation, "trunk.embed.bias")), None)
    if bias is None:
        raise EngineError(f"{path}: only files that `rtskel export` wrote can be computed in less than fp32")
    first = bias.input_value(0).get_node()
    inside = {first.get_friendly_name(): first}
    ends: dict[str, Any] = {}
    for operation in order:
        sources = {value.get_node().get_friendly_name() for value in operation.input_values()}
        if sources & (inside.keys() - ends.keys()):
            inside[operation.get_friendly_name()] = operation
            if takes(operation, "trunk.out.bias", "trunk.early.bias"):
                ends[operation.get_friendly_name()] = operation
    return inside, list(ends.values())


def _halve(path: str | Path, ov: Any, model: Any) -> None:
    """Makes the trunk compute in bf16."""
    inside, ends = _trunk(path, model)
    for operation in ends:
        takers = operation.output(0).get_target_inputs()
        _give(takers, ov.opset13.convert(operation.output(0), "f32"))
    for operation in inside.values():
        for port in operation.inputs():
            source = port.get_source_output()
            if source.get_node().get_friendly_name() not in inside and source.get_element_type() == ov.Type.f32:
                port.replace_source_output(ov.opset13.convert(source, "bf16").output(0))
    model.validate_nodes_and_infer_types()


def _quantise(path: str | Path, ov: Any, model: Any) -> None:
    """Makes the weights of the trunk's matrix products int8, with a scale per column."""
    passes = ov.passes.Manager()
    passes.register_pass(ov.passes.ConstantFolding())  # weights are cast and sliced in the graph
    passes.run_passes(model)
    for operation in _trunk(path, model)[0].values():
        if operation.get_type_name() != "MatMul" or operation.input_value(1).get_node().get_type_name() != "Constant":
            continue
        weight = operation.input_value(1).get_node().data.T
        scale = np.maximum(np.abs(weight).max(1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        whole = ov.opset13.convert(ov.opset13.constant(np.round(weight / scale).astype(np.int8)), "f32")
        restored = ov.opset13.multiply(whole, ov.opset13.constant(scale.astype(np.float32)))
        product = ov.opset13.matmul(operation.input_value(0), restored, False, True)
        _give(operation.output(0).get_target_inputs(), product)
    model.validate_nodes_and_infer_types()


def _give(takers: Any, operation: Any) -> None:
    """Connects these inputs to the result of this operation."""
    for taker in takers:
        taker.replace_source_output(operation.output(0))


def _check_tensors(path: str | Path, model: Any, info: EngineInfo) -> None:
    """EngineError unless the graph's inputs and outputs are what its metadata says: others could crash the runtime."""
    window, joints = info.window, info.joints
    selects = len(model.inputs) == 3  # older files answer for all positions
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "x": ("f32", (window, joints, 3)),
        "missing": ("boolean", (window, joints)),
        "y": ("f32", (-1 if selects else window, joints, 3)),
    }
    if selects:
        expected["positions"] = ("i64", ())
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for port in [*model.inputs, *model.outputs]:
        shape = port.get_partial_shape()
        rest = (
            tuple(dim.get_length() if dim.is_static else -1 for dim in list(shape)[1:]) if shape.rank.is_static else ()
        )
        for name in port.get_names() & expected.keys():
            found[name] = (port.get_element_type().get_type_name(), rest)
    if len(model.inputs) != len(expected) - 1 or len(model.outputs) != 1 or found != expected:
        raise EngineError(
            f"{path}: its tensors are not those of windows of {window} frames and {joints} joints as it says"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
