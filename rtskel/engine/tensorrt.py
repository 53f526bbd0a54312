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
import functools
import importlib
import math
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.engine.base import USUAL_POSITIONS, Engine, EngineInfo, fitting, sizes
from rtskel.engine.metadata import PlanHeader, read_plan
from rtskel.errors import EngineError
from rtskel.refine.config import RingConfig
from rtskel.refine.ring import EngineRing

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
        rings: keep the rings of `rtskel.refine` on the GPU too (`rtskel.engine.device_ring`), so that windows never
        travel.

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
        super().__init__(info, min(max_batch, header.max_batch))
        self._lanes: dict[tuple[int, int], _Lane] = {}
        self.warms_up = warm_up
        self.kernels: dict[str, Any] = {}  # of rings
        self._rings, self._ring_memory = rings, list[RingMemory]()
        self._graphs, self._required = graphs is not False, graphs is True
        self.cuda = Cuda(str(path), device)
        self._engine: Any = None
        self.stream: Any = None
        self._activations = 0
        self._runtime_config: Any = None
        try:
            self._open(header, plan)
            self.lane(1, fitting(USUAL_POSITIONS, self.window) if self.selects else 0)  # what cannot run is found now
        except BaseException:
            self.close()
            raise
        self.info = replace(info, builder=f"{header.module} {self._trt.__version__}")

    @property
    def captured(self) -> tuple[tuple[int, int], ...]:
        """Sizes, windows and positions of each, that run as a CUDA graph so far."""
        return tuple(size for size, lane in sorted(self._lanes.items()) if lane.graph is not None)

    @property
    def closed(self) -> bool:
        """Whether nothing can run any more."""
        return self._closed

    def ring(self, config: RingConfig) -> EngineRing | None:
        """A ring on the GPU, for who refines with this engine; None where rings are to stay on the host."""
        if not self._rings:
            return None
        if self.closed:
            raise EngineError(f"{self.info.path}: the engine is closed")
        self.cuda.use()
        for memory in [memory for memory in self._ring_memory if memory.abandoned]:
            self._ring_memory.remove(memory)
            memory.release()
        from rtskel.engine.device_ring import DeviceRing, load_kernels  # which need this module

        self._ring_memory.append(memory := RingMemory(self.cuda))
        try:
            if not self.kernels:
                self.kernels = load_kernels(self.cuda, memory)
                self._ring_memory.append(memory := RingMemory(self.cuda))
            ring = DeviceRing(self, config, memory)
        except BaseException:
            memory.abandon()
            raise
        weakref.finalize(ring, memory.abandon).atexit = False
        return ring

    def _open(self, header: PlanHeader, plan: bytes) -> None:
        path, cuda = self.info.path, self.cuda
        self._trt = trt = load_tensorrt(header.module, path)
        self._logger = error_logger(trt)
        self.stream = cuda.call("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"{path}: {self._why_not(header, plan)}")
        self.selects = _check_tensors(path, trt, self._engine, self.info)

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

    def lane(self, batch: int, wanted: int) -> _Lane:
        """What runs batches of up to `batch` windows for up to `wanted` positions; made on first use."""
        size = batch, wanted
        if size not in self._lanes:
            lane = _Lane(self.cuda, self._context(), batch, self.window, self.joints, wanted)
            try:
                for name, shape, address in lane.tensors():
                    if shape is not None and not lane.context.set_input_shape(name, shape):
                        raise self._failed(f"set_input_shape {name} {list(shape)}")
                    if not lane.context.set_tensor_address(name, address):
                        raise self._failed(f"set_tensor_address {name}")
                self._enqueue(lane)  # whatever TensorRT puts off until a first run, it must not do under capture
                self.wait()
                lane.graph = self.capture(lane.context, lambda: self._enqueue(lane))
            except BaseException:
                lane.release(self.cuda)
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
        self.cuda.upload(lane.device_in, lane.host_in, lane.bytes_in, self.stream)
        self.enqueue_network(lane.context)
        self.cuda.download(lane.host_out, lane.device_out, lane.bytes_out, self.stream)

    def enqueue_network(self, context: Any) -> None:
        """Puts the network alone on the stream."""
        if not context.execute_async_v3(int(self.stream)):
            raise self._failed("execute_async_v3")

    def capture(self, context: Any, enqueue: Callable[[], None]) -> Any:
        """A graph of what `enqueue` puts on the stream, which has run before; None where there are to be no graphs.

        Where there can be none, graphs are given up, or missed if required.
        """
        cuda = self.cuda
        if not self._graphs:
            return None
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(self.stream)):
            self._no_graphs("TensorRT says that it cannot be captured")
            return None
        # Other threads may go on using CUDA meanwhile (thread-local mode).
        mode = cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        graph, failure = None, ""
        cuda.call("cudaStreamBeginCapture", self.stream, mode)
        cuda.capturing = True
        try:
            enqueue()
        except EngineError as error:
            failure = str(error)
        finally:  # the stream must leave capture mode, whatever happened
            try:
                graph = cuda.call("cudaStreamEndCapture", self.stream)
            except EngineError as error:
                failure = failure or str(error)
            cuda.capturing = False
            cuda.free_host()
        try:
            if failure:
                self._no_graphs(failure)
                return None
            return cuda.call("cudaGraphInstantiate", graph, 0)
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
        self.cuda.use()
        size, count = fitting(batch, self.max_batch), fitting(wanted, self.window) if self.selects else 0
        if self.warms_up and (self.max_batch, count) not in self._lanes:
            for each in sizes(self.max_batch):
                self.lane(each, count)
        lane = self.lane(size, count)
        # Rows beyond the batch keep what an earlier run left there; no row depends on another.
        np.copyto(lane.x[:batch], x)
        np.copyto(lane.missing[:batch], missing)
        if self.selects:
            lane.positions[:wanted] = positions
        if lane.graph is None:
            self._enqueue(lane)
        else:
            self.cuda.call("cudaGraphLaunch", lane.graph, self.stream)
        self.wait()
        y = lane.y[:batch]
        return np.ascontiguousarray(y[:, :wanted]) if self.selects else self._chosen(y, positions)

    def wait(self) -> None:
        """Until all that is on the stream is done."""
        self.cuda.call("cudaStreamSynchronize", self.stream)

    def _failed(self, what: str) -> EngineError:
        logged = f" ({self._logger.errors[-1]})" if self._logger.errors else ""
        return EngineError(f"{self.info.path}: {self._trt.__name__} failed in {what}{logged}")

    def _close(self) -> None:
        # A device in a failed state refuses these calls too; there is nothing left to be done about it then.
        cuda, ignore = self.cuda, contextlib.suppress(EngineError)
        with ignore:
            cuda.use()
            if self.stream is not None:
                self.wait()
        for memory in reversed(self._ring_memory):  # the kernels were the first
            memory.release()
        self._ring_memory.clear()
        self.kernels = {}
        for lane in self._lanes.values():
            lane.release(cuda)
        self._lanes.clear()
        self._runtime_config = self._engine = self._runtime = None
        if self._activations:
            with ignore:
                cuda.call("cudaFree", self._activations)
        if self.stream is not None:
            with ignore:
                cuda.call("cudaStreamDestroy", self.stream)
        self._activations, self.stream = 0, None


Parts = dict[str, tuple[tuple[int, ...], type[np.generic]]]
"""Shapes and types of arrays that share one block of memory."""


def layout(parts: Parts) -> tuple[dict[str, int], int]:
    """Where each array begins in their block, in bytes, and the block's size."""
    places, end = {}, 0
    for name, (shape, dtype) in parts.items():
        places[name] = -(-end // ALIGNMENT) * ALIGNMENT
        end = places[name] + math.prod(shape) * np.dtype(dtype).itemsize
    return places, end


def views(block: NDArray[np.uint8], parts: Parts) -> dict[str, NDArray[Any]]:
    """The arrays in a block of host memory."""
    places, _ = layout(parts)
    return {
        name: block[places[name] :][: math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
        for name, (shape, dtype) in parts.items()
    }


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
        parts: Parts = {"x": ((size, window, joints, 3), np.float32), "missing": ((size, window, joints), np.bool_)}
        if wanted:
            parts["positions"] = ((wanted,), np.int64)
        places, self.bytes_in = layout(parts)
        answer = (size, wanted or window, joints, 3)
        self.bytes_out = 4 * math.prod(answer)
        self.device_in = self.device_out = 0
        inputs, outputs = pinned(cuda, self.bytes_in), pinned(cuda, self.bytes_out)
        self.host_in, self.host_out = inputs.ctypes.data, outputs.ctypes.data
        shown = views(inputs, parts)
        self.x, self.missing = shown["x"], shown["missing"]
        self.positions = shown.get("positions", np.zeros(0, np.int64))
        self.y = outputs.view(np.float32).reshape(answer)
        self._inputs = [(name, shape, places[name]) for name, (shape, _) in parts.items()]
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


class RingMemory:
    """What a ring on the GPU holds there. Given back by the engine: a ring may be forgotten in the midst of anything,
    of the capture of a graph for one, where nothing may be freed.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.abandoned = False
        self._cuda = cuda
        self._held: list[tuple[str, Any]] = []

    def hold(self, release: str, what: Any) -> Any:
        """Returns `what`, which the CUDA function `release` gives back."""
        self._held.append((release, what))
        return what

    def abandon(self) -> None:
        """The ring is gone: what it holds may be given back."""
        self.abandoned = True

    def release(self) -> None:
        """Gives everything back, the last first."""
        while self._held:
            with contextlib.suppress(EngineError):
                self._cuda.call(*self._held.pop())


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
        self.capturing = False
        self._unused: list[int] = []
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
        """Calls a function of the CUDA runtime, or of the driver if it is named cu...: its one result, or None if it
        has none. EngineError if it fails.
        """
        runtime = name.startswith("cuda")
        status, *results = getattr(self.api if runtime else self.driver, name)(*arguments)
        if int(status):
            raise EngineError(f"{self.path}: {name} failed ({self._say(status) if runtime else status.name})")
        return results[0] if results else None

    def upload(self, device: int, host: int, count: int, stream: Any) -> None:
        """Puts a copy of `count` bytes from page-locked host memory on a stream."""
        self.call("cudaMemcpyAsync", device, host, count, self.api.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def download(self, host: int, device: int, count: int, stream: Any) -> None:
        """Puts a copy of `count` bytes to page-locked host memory on a stream."""
        self.call("cudaMemcpyAsync", host, device, count, self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def free_host(self, *addresses: int) -> None:
        """Frees page-locked host memory, once no graph is being captured; nothing may be freed meanwhile."""
        self._unused += addresses
        while self._unused and not self.capturing:
            self.api.cudaFreeHost(self._unused.pop())

    @functools.cached_property
    def driver(self) -> Any:
        """The CUDA driver's own interface, which launches kernels."""
        return importlib.import_module("cuda.bindings.driver")

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
        weakref.finalize(self, cuda.free_host, address).atexit = False


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
