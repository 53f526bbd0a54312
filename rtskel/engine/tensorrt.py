"""Plan files on NVIDIA GPUs: TensorRT or TensorRT-RTX, whichever built the plan, through one code path.

The two modules share their API; features that only one of them has are looked up by name. Every execution slot has a
context of its own, because changing a context after a graph was captured from it is undefined. The contexts share one
block of activation memory: they never run at the same time.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from rtskel.engine.base import USUAL_POSITIONS, bucket
from rtskel.engine.cuda_engine import ExecutionSlot
from rtskel.engine.device_ring import RingEngine
from rtskel.engine.metadata import EngineInfo, PlanHeader, read_plan
from rtskel.errors import EngineError

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""Which extra of rtskel installs each module."""


class PlanEngine(RingEngine):
    """Runs a plan that `rtskel build` made.

    Args:
        path: the file.
        max_batch: the most windows of one `run`; less if the plan was built for less.
        device: index of the GPU.
        graphs: True: every run is a CUDA graph, and an engine that cannot be captured is an error; False: never; None
            (default): where it can be captured.
        warm_up: prepare every batch size (1, 2, 4, ... max_batch) in the first run that asks for a new number of
            positions (1, 2, 4, ...), so that no later run has to. Without it, a size is prepared when it is first used,
            which may take seconds with TensorRT-RTX: it compiles for the GPU.
        rings: keep the rings of `rtskel.refine` on the GPU too, so that windows never travel.

    Raises:
        EngineError: damaged file, no driver, no GPU, a module that is not installed, a plan for other GPUs or another
            version, not enough memory.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_batch: int = 64,
        device: int = 0,
        graphs: bool | None = None,
        warm_up: bool = True,
        rings: bool = False,
    ) -> None:
        path = Path(path)
        header, plan = read_plan(path)
        info = EngineInfo.from_metadata("plan", str(path), header.metadata, **header.details())
        self._engine: Any = None
        self._activations = 0
        self._runtime_config: Any = None
        options: Any = {"device": device, "graphs": graphs, "warm_up": warm_up, "rings": rings}
        super().__init__(info, min(max_batch, header.max_batch), **options)
        try:
            self._open(header, plan)
            self.slot(1, bucket(USUAL_POSITIONS, self.window) if self.selects else 0)  # fails now if it cannot run
        except BaseException:
            self.close()
            raise
        self.info = replace(info, builder=f"{header.module} {self._trt.__version__}")

    def _open(self, header: PlanHeader, plan: bytes) -> None:
        path, cuda = self.info.path, self.cuda
        self._trt = trt = load_tensorrt(header.module, path)
        self._logger = error_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"{path}: {self._why_not(header, plan)}")
        self.selects = _check_tensors(path, trt, self._engine, self.info)

        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            # TensorRT-RTX compiles kernels for each shape at run time, by default in the background, and uses slower
            # ones until then. A captured graph would keep the slower ones for ever, so it compiles before the capture.
            self._runtime_config = self._engine.create_runtime_config()
            self._runtime_config.set_execution_context_allocation_strategy(strategy)
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
            self._runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the graphs are ours
        # A context gets at least one byte: a null pointer would mean "none given".
        self._activation_bytes = max(int(self._engine.device_memory_size_v2), 1)
        self._activations = cuda.call("cudaMalloc", self._activation_bytes)

    def _why_not(self, header: PlanHeader, plan: bytes) -> str:
        """Why TensorRT gave back no engine: what it logged, beside what the plan was built for."""
        reasons = []
        here = self.cuda.capability
        if here not in header.compute_capabilities:
            wanted = ", ".join(header.compute_capabilities)
            reasons.append(f"built for GPUs of compute capability {wanted}, this is {here}")
        if header.module_version != self._trt.__version__:
            reasons.append(f"built by {header.module} {header.module_version}, installed is {self._trt.__version__}")
        if hasattr(self._runtime, "get_engine_validity"):
            _, diagnostics = self._runtime.get_engine_validity(plan)
            members = self._trt.EngineInvalidityDiagnostics.__members__
            reasons += [name for name, flag in members.items() if int(diagnostics) & int(flag)]
        return "; ".join(["this plan does not run here", *reasons, *list(self._logger.errors)[:1]])

    def _prepare(self, slot: ExecutionSlot) -> None:
        if self._runtime_config is None:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy=strategy)
        else:
            context = self._engine.create_execution_context(runtime_config=self._runtime_config)
        if context is None:
            raise self._failed("create_execution_context")
        context.set_device_memory(self._activations, self._activation_bytes)
        for name, shape, address in slot.tensors():
            if shape is not None and not context.set_input_shape(name, shape):
                raise self._failed(f"set_input_shape {name} {list(shape)}")
            if not context.set_tensor_address(name, address):
                raise self._failed(f"set_tensor_address {name}")
        slot.network = context

    def enqueue_network(self, slot: ExecutionSlot) -> None:
        """Puts the network alone on the stream."""
        if not slot.network.execute_async_v3(int(self.stream)):
            raise self._failed("execute_async_v3")

    def _capturable(self, slot: ExecutionSlot) -> bool:
        asked = getattr(slot.network, "is_stream_capturable", None)
        return asked is None or asked(int(self.stream))

    def _failed(self, what: str) -> EngineError:
        logged = f" ({self._logger.errors[-1]})" if self._logger.errors else ""
        return EngineError(f"{self.info.path}: {self._trt.__name__} failed in {what}{logged}")

    def _release_network(self) -> None:
        self._runtime_config = self._engine = self._runtime = None
        if self._activations:
            with contextlib.suppress(EngineError):
                self.cuda.call("cudaFree", self._activations)
        self._activations = 0


def load_tensorrt(module: str, path: str) -> Any:
    """The TensorRT module of that name; EngineError says what to install."""
    if module not in EXTRAS:
        raise EngineError(f"{path}: unknown TensorRT module {module!r}")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f": {error}"
        raise EngineError(f"{path}: needs {module} (pip install 'rtskel[{EXTRAS[module]}]'){reason}") from None


def error_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the last errors in `errors`, one line each, instead of writing to stderr."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(msg.split())[:300])

    return Logger()


def _check_tensors(path: str, trt: Any, engine: Any, info: EngineInfo) -> bool:
    """EngineError unless the plan's tensors are what its header says; whether it takes positions (older ones: no)."""
    window, joints = info.window, info.joints
    inputs = {
        "x": (trt.TensorIOMode.INPUT, trt.DataType.FLOAT, (-1, window, joints, 3)),
        "missing": (trt.TensorIOMode.INPUT, trt.DataType.BOOL, (-1, window, joints)),
    }
    older = {**inputs, "y": (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (-1, window, joints, 3))}
    expected = {
        **inputs,
        "positions": (trt.TensorIOMode.INPUT, trt.DataType.INT64, (-1,)),
        "y": (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (-1, -1, joints, 3)),
    }
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)))
        for name in names
    }
    if found not in (expected, older):
        raise EngineError(
            f"{path}: its tensors are not those of windows of {window} frames and {joints} joints as it says"
        )
    return found == expected
