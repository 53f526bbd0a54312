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

from rtskel.engine.base import Engine, EngineInfo
from rtskel.engine.files import describe
from rtskel.errors import EngineError


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
        try:
            core = ov.Core()
            model = core.read_model(str(path))
            _check_tensors(path, model, info)
            compiled = core.compile_model(model, "CPU", properties)
            used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            self._request = compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO cannot open it ({_one_line(error)})") from None
        if precision == "bf16" and used != "bf16":
            raise EngineError(f"{path}: this processor does not compute in bf16")
        details = {"file_precision": info.precision, "threads": str(compiled.get_property("INFERENCE_NUM_THREADS"))}
        super().__init__(
            replace(
                info,
                precision="bf16" if used == "bf16" else "fp32",
                builder=f"openvino {ov.__version__.split('-')[0]}",
                extra={**info.extra, **details},
            ),
            max_batch,
        )
        self._tensor = ov.Tensor
        self._x, self._missing = (_index(model.inputs, name) for name in ("x", "missing"))
        self._y = np.zeros((max_batch, self.window, self.joints, 3), np.float32)
        # Results are written straight into our buffer; a tensor over its first B windows is made once for each B.
        self._outputs: dict[int, Any] = {}
        # The first run compiles kernels: not on a user's first frame.
        self.run(np.zeros_like(self._y[:1]), np.zeros((1, self.window, self.joints), np.bool_))

    def _run(self, x: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
        batch, request = len(x), self._request
        # OpenVINO shares no read-only memory, though it would only read it. It keeps no reference either: what it is
        # given must live in this frame until it is done.
        x = x if x.flags.writeable else x.copy()
        missing = missing if missing.flags.writeable else missing.copy()
        if batch not in self._outputs:
            self._outputs[batch] = self._tensor(self._y[:batch], shared_memory=True)
        try:
            request.set_input_tensor(self._x, self._tensor(x, shared_memory=True))
            request.set_input_tensor(self._missing, self._tensor(missing, shared_memory=True))
            request.set_output_tensor(0, self._outputs[batch])
            request.infer()
        except RuntimeError as error:
            raise EngineError(f"{self.info.path}: OpenVINO failed ({_one_line(error)})") from None
        return self._y[:batch]

    def _close(self) -> None:
        del self._request
        self._outputs.clear()


def _check_tensors(path: str | Path, model: Any, info: EngineInfo) -> None:
    """The graph's inputs and outputs are what its metadata says; a file edited by hand must not crash the runtime."""
    window, joints = info.window, info.joints
    expected = {
        "x": ("f32", (window, joints, 3)),
        "missing": ("boolean", (window, joints)),
        "y": ("f32", (window, joints, 3)),
    }
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for port in [*model.inputs, *model.outputs]:
        shape = port.get_partial_shape()
        rest = (
            tuple(dim.get_length() if dim.is_static else -1 for dim in list(shape)[1:]) if shape.rank.is_static else ()
        )
        for name in port.get_names() & expected.keys():
            found[name] = (port.get_element_type().get_type_name(), rest)
    if len(model.inputs) != 2 or len(model.outputs) != 1 or found != expected:
        raise EngineError(f"{path}: its tensors are not x, missing and y of [B, {window}, {joints}, 3] as it says")


def _index(ports: Any, name: str) -> int:
    return next(index for index, port in enumerate(ports) if name in port.get_names())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
