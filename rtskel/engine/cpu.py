"""ONNX files on the CPU, by OpenVINO: the engine that needs nothing but a processor.

Chosen by measurement. Preset `realtime` on one Zen 5 core, a window alone and a window in a batch of 64: 3.0 and 2.3 ms
in fp32, 2.1 and 1.7 ms in bf16; ONNX Runtime 3.9 and 3.1 ms, and it has no bf16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.engine.base import USUAL_POSITIONS, Engine, EngineInfo, fitting
from rtskel.engine.files import describe
from rtskel.errors import EngineError

SIZES = (1, 4, 16)
"""Batches that graphs are compiled for; others are made of these. A graph for any batch size takes twice as long."""


class OnnxEngine(Engine):
    """Runs an ONNX file that `rtskel export` wrote.

    Args:
        path: the file.
        max_batch: the most windows of one `run`. A batch size costs some milliseconds the first time it is seen.
        precision: "fp32" (default for fp32 and fp16 files) or "bf16" (default for bf16 files), up to twice as fast
            where the processor has it. Files of less precision keep the rounding of their weights.
        threads: how many to compute with; default: as many as there are cores.

    Raises:
        EngineError: unreadable or unfitting file, or a precision that this processor lacks.
    """

    def __init__(
        self, path: str | Path, *, max_batch: int = 64, precision: str | None = None, threads: int | None = None
    ) -> None:
        info = describe(path)
        if precision not in (None, "fp32", "bf16"):
            raise EngineError(f"{path}: precision {precision!r} cannot be had on a CPU (fp32 or bf16)")
        if precision == "fp32" and info.precision == "bf16":
            raise EngineError(f"{path}: its precision is bf16, not fp32")
        bf16 = "bf16" in (precision, info.precision)
        try:
            import openvino as ov
        except ImportError as error:
            raise EngineError(f"{path}: OpenVINO cannot be loaded ({_one_line(error)})") from None
        properties: dict[str, Any] = {
            # bf16 would be the default of processors that have it.
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            # One request at a time: all threads work on the one batch. The throughput hint gives a thread to each
            # of several requests and measures slower at every batch size, 1 to 64.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Pinned threads of two processes end up on the same cores; unpinned ones measure the same alone.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        super().__init__(info, max_batch)
        self._ov: Any = ov
        self._properties = properties
        self._lanes: dict[tuple[int, int], _Lane] = {}
        try:
            self._core = ov.Core()
            self._model = self._core.read_model(str(path))
            _check_tensors(path, self._model, info)
            if len(self._model.inputs) == 2:
                self._model = _answer_for_positions(ov, self._model)
            compiled = self._lane(1, fitting(USUAL_POSITIONS, self.window)).compiled
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO cannot open it ({_one_line(error)})") from None
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision == "bf16" and used != "bf16":
            raise EngineError(f"{path}: this processor does not compute in bf16")
        details = {"file_precision": info.precision, "threads": str(compiled.get_property("INFERENCE_NUM_THREADS"))}
        self.info = replace(
            info,
            precision="bf16" if used == "bf16" else "fp32",
            builder=f"openvino {ov.__version__.split('-')[0]}",
            extra={**info.extra, **details},
        )

    def _lane(self, batch: int, wanted: int) -> _Lane:
        """What runs `batch` windows for `wanted` positions; compiled on first use."""
        size = batch, wanted
        if size not in self._lanes:
            frames = [batch, self.window, self.joints]
            self._model.reshape({"x": [*frames, 3], "missing": frames, "positions": [wanted]})
            self._lanes[size] = _Lane(self._core.compile_model(self._model, "CPU", self._properties))
        return self._lanes[size]

    def _run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        # OpenVINO shares no read-only memory, though it would only read it. It keeps no reference either: what it is
        # given must live in this frame until it is done.
        x = x if x.flags.writeable else x.copy()
        missing = missing if missing.flags.writeable else missing.copy()
        wanted = fitting(len(positions), self.window)
        asked = np.resize(positions, wanted)  # which repeats some where more are computed than are wanted
        y = np.empty((len(x), wanted, self.joints, 3), np.float32)
        tensor = self._ov.Tensor
        begin = 0
        try:
            while begin < len(x):
                size = max(size for size in SIZES if size <= len(x) - begin)
                part = slice(begin, begin + size)
                request = self._lane(size, wanted).request
                request.set_tensor("x", tensor(x[part], shared_memory=True))
                request.set_tensor("missing", tensor(missing[part], shared_memory=True))
                request.set_tensor("positions", tensor(asked, shared_memory=True))
                request.set_tensor("y", tensor(y[part], shared_memory=True))
                request.infer()
                begin += size
        except RuntimeError as error:
            raise EngineError(f"{self.info.path}: OpenVINO failed ({_one_line(error)})") from None
        return np.ascontiguousarray(y[:, : len(positions)])

    def _close(self) -> None:
        self._lanes.clear()
        del self._model, self._core


class _Lane:
    """The graph compiled for batches of one size."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()


def _answer_for_positions(ov: Any, model: Any) -> Any:
    """A graph that answers for all positions, as those of older files do, with an input that says for which."""
    every = model.outputs[0].get_node().input_value(0)
    positions = ov.opset13.parameter([-1], np.int64, name="positions")
    chosen = ov.opset13.gather(every, positions, np.int64(1))
    every.set_names(set())
    for output, name in ((positions.output(0), "positions"), (chosen.output(0), "y")):
        output.set_names({name})
    return ov.Model([chosen], [*model.get_parameters(), positions], "rtskel")


def _check_tensors(path: str | Path, model: Any, info: EngineInfo) -> None:
    """The graph's inputs and outputs are what its metadata says; a file edited by hand must not crash the runtime."""
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
