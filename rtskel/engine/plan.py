"""Plan files on NVIDIA GPUs: TensorRT or TensorRT-RTX, whichever built the plan, through one code path.

The two modules share their API; what only one of them has is asked for by name. Memory, streams and graphs come from
cuda-python, so that serving needs no torch. One `run` is, for a batch that fits a prepared size:

    copy the windows into pinned memory -> one CUDA graph (upload, network, download) -> wait -> a view of pinned
    memory

Every prepared size, so many windows and so many positions of them, has an execution context of its own, because
changing a context after a graph was captured from it is undefined. The contexts share one block of activation memory:
they never run at the same time.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import weakref
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.engine.base import USUAL_POSITIONS, Engine, EngineInfo, fitting, sizes
from rtskel.engine.files import PlanHeader, read_plan
from rtskel.errors import EngineError

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""Which extra of rtskel installs each module."""

ALIGNMENT = 256
"""TensorRT wants its tensors at multiples of this many bytes; cudaMalloc gives at least that."""


class PlanEngine(Engine):
    """Runs a plan that `rtskel build` made.

    Args:
        path: the file.
        max_batch: the most windows of one `run`; less if the plan was built for less.
        device: index of the GPU.
        graphs: True: every run is a CUDA graph, and an engine that cannot be captured is an error; False: never; None
            (default): where it can be captured.
        warm_up: prepare every batch size (1, 2, 4, ... max_batch) with the first run that asks for so many positions
            (1, 2, 4, ...), so that no later one has to. Without it, a size is prepared when it is first used, which
            may take seconds with TensorRT-RTX: it compiles for the GPU.

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
    ) -> None:
        path = Path(path)
        header, plan = read_plan(path)
        info = EngineInfo.from_metadata("plan", str(path), header.metadata, **header.details())
        super().__init__(info, min(max_batch, header.max_batch))
        self._lanes: dict[tuple[int, int], _Lane] = {}
        self._warm_up = warm_up
        self._graphs, self._required = graphs is not False, graphs is True
        self._cuda = Cuda(str(path), device)
        self._engine: Any = None
        self._stream: Any = None
        self._activations = 0
        self._runtime_config: Any = None
        try:
            self._open(header, plan)
            self._lane(1, fitting(USUAL_POSITIONS, self.window) if self._selects else 0)  # what cannot run is found now
        except BaseException:
            self.close()
            raise
        self.info = replace(info, builder=f"{header.module} {self._trt.__version__}")

    @property
    def captured(self) -> tuple[tuple[int, int], ...]:
        """Sizes, windows and positions of each, that run as a CUDA graph so far."""
        return tuple(size for size, lane in sorted(self._lanes.items()) if lane.graph is not None)

    def _open(self, header: PlanHeader, plan: bytes) -> None:
        path, cuda = self.info.path, self._cuda
        self._trt = trt = load_tensorrt(header.module, path)
        self._logger = error_logger(trt)
        self._stream = cuda.call("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"{path}: {self._why_not(header, plan)}")
        self._selects = _check_tensors(path, trt, self._engine, self.info)

        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            # TensorRT-RTX compiles kernels for each shape at run time; by default in the background, with slower
            # ones until then. A graph would keep the slower ones for ever, so it has to compile before the graph is
            # captured.
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
        here = self._cuda.capability
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

    def _lane(self, batch: int, wanted: int) -> _Lane:
        """What runs batches of up to `batch` windows for up to `wanted` positions; made on first use."""
        size = batch, wanted
        if size not in self._lanes:
            lane = _Lane(self._cuda, self._context(), batch, self.window, self.joints, wanted if self._selects else 0)
            try:
                for name, shape, address in lane.tensors():
                    if shape is not None and not lane.context.set_input_shape(name, shape):
                        raise self._failed(f"set_input_shape {name} {list(shape)}")
                    if not lane.context.set_tensor_address(name, address):
                        raise self._failed(f"set_tensor_address {name}")
                self._enqueue(lane)  # whatever TensorRT puts off until a first run, it must not do under capture
                self._wait()
                if self._graphs:
                    self._capture(lane)
            except BaseException:
                lane.release(self._cuda)
                raise
            self._lanes[size] = lane
        return self._lanes[size]

    def _context(self) -> Any:
        if self._runtime_config is None:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy=strategy)
        else:
            context = self._engine.create_execution_context(runtime_config=self._runtime_config)
        if context is None:
            raise self._failed("create_execution_context")
        context.set_device_memory(self._activations, self._activation_bytes)
        return context

    def _enqueue(self, lane: _Lane) -> None:
        """Puts one batch on the stream: upload, network, download."""
        call, stream, kinds = self._cuda.call, self._stream, self._cuda.api.cudaMemcpyKind
        call("cudaMemcpyAsync", lane.device_in, lane.host_in, lane.bytes_in, kinds.cudaMemcpyHostToDevice, stream)
        if not lane.context.execute_async_v3(int(stream)):
            raise self._failed("execute_async_v3")
        call("cudaMemcpyAsync", lane.host_out, lane.device_out, lane.bytes_out, kinds.cudaMemcpyDeviceToHost, stream)

    def _capture(self, lane: _Lane) -> None:
        """Makes a graph of what `_enqueue` does. Where that cannot be, graphs are given up, or missed if required."""
        cuda, context = self._cuda, lane.context
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(self._stream)):
            self._no_graphs("TensorRT says that it cannot be captured")
            return
        # Other threads may go on using CUDA meanwhile (thread-local mode).
        mode = cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda.call("cudaStreamBeginCapture", self._stream, mode)
        graph, failure = None, ""
        try:
            self._enqueue(lane)
        except EngineError as error:
            failure = str(error)
        finally:  # the stream must leave capture mode, whatever happened
            try:
                graph = cuda.call("cudaStreamEndCapture", self._stream)
            except EngineError as error:
                failure = failure or str(error)
        try:
            if failure:
                self._no_graphs(failure)
            else:
                lane.graph = cuda.call("cudaGraphInstantiate", graph, 0)
        finally:
            if graph is not None and int(graph):
                cuda.call("cudaGraphDestroy", graph)

    def _no_graphs(self, reason: str) -> None:
        if self._required:
            raise EngineError(f"{self.info.path}: no CUDA graph ({reason})")
        self._graphs = False

    def _run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        batch, wanted = len(x), len(positions)
        self._cuda.use()
        size, count = fitting(batch, self.max_batch), fitting(wanted, self.window) if self._selects else 0
        if self._warm_up and (self.max_batch, count) not in self._lanes:
            for each in sizes(self.max_batch):
                self._lane(each, count)
        lane = self._lane(size, count)
        # Rows beyond the batch keep what an earlier run left there; no row depends on another.
        np.copyto(lane.x[:batch], x)
        np.copyto(lane.missing[:batch], missing)
        if self._selects:
            lane.positions[:wanted] = positions
        if lane.graph is None:
            self._enqueue(lane)
        else:
            self._cuda.call("cudaGraphLaunch", lane.graph, self._stream)
        self._wait()
        y = lane.y[:batch]
        return np.ascontiguousarray(y[:, :wanted]) if self._selects else self._chosen(y, positions)

    def _wait(self) -> None:
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def _failed(self, what: str) -> EngineError:
        logged = f" ({self._logger.errors[-1]})" if self._logger.errors else ""
        return EngineError(f"{self.info.path}: {self._trt.__name__} failed in {what}{logged}")

    def _close(self) -> None:
        # A device in a failed state refuses these calls too; there is nothing left to be done about it then.
        cuda, ignore = self._cuda, contextlib.suppress(EngineError)
        with ignore:
            cuda.use()
            if self._stream is not None:
                self._wait()
        for lane in self._lanes.values():
            lane.release(cuda)
        self._lanes.clear()
        self._runtime_config = self._engine = self._runtime = None
        if self._activations:
            with ignore:
                cuda.call("cudaFree", self._activations)
        if self._stream is not None:
            with ignore:
                cuda.call("cudaStreamDestroy", self._stream)
        self._activations, self._stream = 0, None


class _Lane:
    """What batches of one size run on: a context, its memory on both sides, and its graph.

    The inputs lie in one block, so that one copy uploads them all. Host memory is freed when the last array that shows
    it is gone, not when the engine closes: a result kept too long is stale, but never a dangling pointer.

    Args:
        wanted: for how many positions of each window; 0 where the network knows no positions and answers for all.
    """

    def __init__(self, cuda: Cuda, context: Any, size: int, window: int, joints: int, wanted: int) -> None:
        self.context = context
        self.graph: Any = None
        parts = {"x": ((size, window, joints, 3), np.float32), "missing": ((size, window, joints), np.bool_)}
        if wanted:
            parts["positions"] = ((wanted,), np.int64)
        places: dict[str, tuple[int, int]] = {}  # where each begins and ends in the block
        self.bytes_in = 0
        for name, (shape, dtype) in parts.items():
            begin = -(-self.bytes_in // ALIGNMENT) * ALIGNMENT
            self.bytes_in = begin + math.prod(shape) * np.dtype(dtype).itemsize
            places[name] = begin, self.bytes_in
        answer = (size, wanted or window, joints, 3)
        self.bytes_out = 4 * math.prod(answer)
        self.device_in = self.device_out = 0
        inputs, outputs = pinned(cuda, self.bytes_in), pinned(cuda, self.bytes_out)
        self.host_in, self.host_out = inputs.ctypes.data, outputs.ctypes.data
        shown: dict[str, NDArray[Any]] = {
            name: inputs[slice(*places[name])].view(dtype).reshape(shape) for name, (shape, dtype) in parts.items()
        }
        self.x, self.missing = shown["x"], shown["missing"]
        self.positions = shown.get("positions", np.zeros(0, np.int64))
        self.y = outputs.view(np.float32).reshape(answer)
        self._inputs = [(name, shape, places[name][0]) for name, (shape, _) in parts.items()]
        try:
            self.device_in = cuda.call("cudaMalloc", self.bytes_in)
            self.device_out = cuda.call("cudaMalloc", self.bytes_out)
        except EngineError:
            self.release(cuda)
            raise

    def tensors(self) -> list[tuple[str, tuple[int, ...] | None, int]]:
        """Name, shape (None for the output) and device address of every tensor."""
        inputs = [(name, shape, self.device_in + offset) for name, shape, offset in self._inputs]
        return [*inputs, ("y", None, self.device_out)]

    def release(self, cuda: Cuda) -> None:
        """Gives back graph, context and device memory."""
        with contextlib.suppress(EngineError):
            if self.graph is not None:
                cuda.call("cudaGraphExecDestroy", self.graph)
        self.graph = self.context = None
        for address in (self.device_in, self.device_out):
            with contextlib.suppress(EngineError):
                if address:
                    cuda.call("cudaFree", address)
        self.device_in = self.device_out = 0


class Cuda:
    """The CUDA runtime, errors raised, on one GPU.

    Args:
        path: what the calls are made for; errors name it.
        device: index of the GPU.

    Raises:
        EngineError: cuda-python, the driver or the GPU is missing.
    """

    def __init__(self, path: str, device: int) -> None:
        self.path, self.device = path, device
        try:
            self.api: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            raise EngineError(
                f"{path}: running a plan needs cuda-python (pip install 'rtskel[tensorrt]' or 'rtskel[tensorrt-rtx]')"
            ) from None
        try:
            status, count = self.api.cudaGetDeviceCount()
        except RuntimeError as error:  # cuda-python found no library to load
            raise EngineError(f"{path}: running a plan needs an NVIDIA driver ({error})") from None
        if int(status):
            raise EngineError(f"{path}: running a plan needs an NVIDIA GPU and its driver ({self._say(status)})")
        if not 0 <= device < count:
            raise EngineError(f"{path}: there is no GPU {device} ({count} found)")
        self.use()

    def use(self) -> None:
        """Makes the GPU current for the calling thread, in which others may have chosen another since."""
        self.call("cudaSetDevice", self.device)

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the CUDA runtime: its one result, or None if it has none. EngineError if it fails."""
        status, *results = getattr(self.api, name)(*arguments)
        if int(status):
            raise EngineError(f"{self.path}: {name} failed ({self._say(status)})")
        return results[0] if results else None

    @property
    def capability(self) -> str:
        """The GPU's compute capability, such as "8.9"."""
        attributes = self.api.cudaDeviceAttr
        major = self.call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, self.device)
        minor = self.call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, self.device)
        return f"{major}.{minor}"

    def _say(self, status: Any) -> str:
        _, text = self.api.cudaGetErrorString(status)
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


class _Pinned:
    """Page-locked host memory that numpy can show. Freed when nothing shows it any more."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        address = int(cuda.call("cudaMallocHost", size))
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}
        # At exit the process frees it, and the CUDA runtime may be gone before this is.
        weakref.finalize(self, cuda.api.cudaFreeHost, address).atexit = False


def pinned(cuda: Cuda, size: int) -> NDArray[np.uint8]:
    """`size` zero bytes of page-locked host memory, which the GPU reads and writes without the processor."""
    array: NDArray[np.uint8] = np.asarray(_Pinned(cuda, size))
    array[:] = 0
    return array


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
    """The plan's inputs and outputs are what its header says; whether it takes positions, as older ones do not."""
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
