"""Stand-ins for the CUDA runtime and for TensorRT, so that the logic of the plan engine runs without a GPU.

They are stricter than the real ones where a mistake would only show on some GPU, some day: nothing on a stream happens
before it is waited for, memory must be live and large enough, a context must not change once a graph was captured from
it, must have run once before, and every call must come from a thread on which the right device is current.

Every public name of a stand-in is one of the real modules (`test_engine.py` compares them where those are installed).
"""

import ctypes
import enum
import hashlib
import json
import shutil
import subprocess
import sysconfig
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rtskel.engine.metadata import PlanHeader, write_plan
from rtskel.skeleton import UPPER_BODY_50

KERNELS = Path(__file__).resolve().parents[1] / "engines" / "native" / "device.cu"


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


OK = (cudaError_t.cudaSuccess,)
INVALID = cudaError_t.cudaErrorInvalidValue


class Handle:
    """A stream, an event, a graph or an executable graph; a library of kernels or one of them."""

    def __init__(self, kind, name=""):
        self.kind, self.name, self.work, self.capturing = kind, name, [], None

    def __int__(self):
        return id(self)

    def __call__(self):
        """What an event does when the stream comes to it."""


class Recorded:
    """Keeps the name and the arguments of every call of its functions cu...() in `_calls`; those named in `_refused`
    fail, wherever a caller has them from.
    """

    def __init__(self):
        self._calls: list[tuple[str, tuple]] = []
        self._refused: set[str] = set()

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if not name.startswith("cu") or not callable(value) or isinstance(value, type):
            return value

        def recorded(*arguments):
            self._calls.append((name, arguments))
            return (INVALID,) if name in self._refused else value(*arguments)

        return recorded


class FakeRuntime(Recorded):
    """`cuda.bindings.runtime` with one or more GPUs, of compute capability 8.9."""

    cudaError_t, cudaMemcpyKind, cudaDeviceAttr = cudaError_t, cudaMemcpyKind, cudaDeviceAttr
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

    def __init__(self, devices=1, memory=1 << 30, status=cudaError_t.cudaSuccess):
        super().__init__()
        self._devices, self._free, self._status = devices, memory, status
        self._blocks: dict[int, ctypes.Array] = {}
        self._sides: dict[int, str] = {}
        self._handles: list[Handle] = []
        self._current = threading.local()
        self._used_on: set[int] = set()  # devices that work was given to

    # what a test asks

    def _live(self):
        """What was not given back: memory blocks and handles."""
        return len(self._blocks), len(self._handles)

    def _range(self, address, count, side):
        for start, block in self._blocks.items():
            if start <= address and address + count <= start + len(block):
                assert self._sides[start] == side, f"{side} address expected"
                return (ctypes.c_uint8 * count).from_buffer(block, address - start)
        raise AssertionError(f"{count} bytes at {address:#x} are not live {side} memory")

    def _do(self, stream, work):
        self._used_on.add(getattr(self._current, "device", 0))
        (stream.work if stream.capturing is None else stream.capturing).append(work)

    def _allocate(self, size, side):
        if size > self._free:
            return cudaError_t.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * size)(*([0xFF] * min(size, 64)))
        address = ctypes.addressof(block)
        self._blocks[address], self._sides[address] = block, side
        self._free -= size
        return cudaError_t.cudaSuccess, address

    def _release(self, address, side):
        if address not in self._blocks or self._sides[address] != side:
            return (INVALID,)
        self._free += len(self._blocks.pop(address))
        return OK

    # devices

    def cudaGetDeviceCount(self):
        return (self._status, None) if self._status else (cudaError_t.cudaSuccess, self._devices)

    def cudaSetDevice(self, device):
        self._current.device = device
        return OK

    def cudaDeviceGetAttribute(self, attribute, device):
        return cudaError_t.cudaSuccess, 8 if attribute == cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor else 9

    def cudaGetErrorString(self, status):
        return cudaError_t.cudaSuccess, status.name.encode()

    # memory

    def cudaMalloc(self, size):
        return self._allocate(size, "device")

    def cudaMallocHost(self, size):
        return self._allocate(size, "host")

    def cudaFree(self, address):
        return self._release(address, "device")

    def cudaFreeHost(self, address):
        return self._release(address, "host")

    def cudaMemcpyAsync(self, target, source, count, kind, stream):
        assert stream.kind == "stream"
        of, to = kind.name.removeprefix("cudaMemcpy").lower().split("to")
        self._range(target, count, to), self._range(source, count, of)

        def copy():
            ctypes.memmove(self._range(target, count, to), self._range(source, count, of), count)

        self._do(stream, copy)
        return OK

    def cudaMemsetAsync(self, address, value, count, stream):
        self._range(address, count, "device")
        self._do(stream, lambda: ctypes.memset(address, value, count))
        return OK

    # streams, events and graphs

    def cudaEventCreateWithFlags(self, flags):
        return cudaError_t.cudaSuccess, self._handle("event")

    def cudaEventRecord(self, event, stream):
        event.capturing = stream
        self._do(stream, event)
        return OK

    def cudaEventSynchronize(self, event):
        while event in event.capturing.work:
            event.capturing.work.pop(0)()
        return OK

    def cudaEventDestroy(self, event):
        return self._destroy(event, "event")

    def _handle(self, kind, name=""):
        handle = Handle(kind, name)
        self._handles.append(handle)
        return handle

    def _destroy(self, handle, kind):
        assert handle.kind == kind
        self._handles.remove(handle)
        return OK

    def cudaStreamCreateWithFlags(self, flags):
        return cudaError_t.cudaSuccess, self._handle("stream")

    def cudaStreamDestroy(self, stream):
        return self._destroy(stream, "stream")

    def cudaStreamSynchronize(self, stream):
        if stream.capturing is not None:
            return (cudaError_t.cudaErrorStreamCaptureInvalidated,)
        while stream.work:
            stream.work.pop(0)()
        return OK

    def cudaStreamBeginCapture(self, stream, mode):
        stream.capturing = []
        return OK

    def cudaStreamEndCapture(self, stream):
        captured, stream.capturing = stream.capturing, None
        graph = self._handle("graph")
        graph.work = captured
        return cudaError_t.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph, flags):
        executable = self._handle("executable")
        executable.work = list(graph.work)
        return cudaError_t.cudaSuccess, executable

    def cudaGraphDestroy(self, graph):
        return self._destroy(graph, "graph")

    def cudaGraphExecDestroy(self, executable):
        return self._destroy(executable, "executable")

    def cudaGraphLaunch(self, executable, stream):
        for work in executable.work:
            self._do(stream, work)
        return OK


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NOT_FOUND = 500


def host_kernels(folder):
    """rtskel's kernels compiled for the host: functions of the same names over (blocks, ring, step)."""
    compiler = shutil.which((sysconfig.get_config_var("CXX") or "").split(" ")[0] or "c++") or shutil.which("c++")
    if compiler is None or not KERNELS.exists():
        return None
    path = Path(folder) / "kernels.so"
    options = ["-x", "c++", "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, str(KERNELS), "-o", str(path)], check=True, timeout=250)
    return ctypes.CDLL(str(path))


class FakeDriver(Recorded):
    """`cuda.bindings.driver` beside a FakeRuntime, as far as kernels go: they run on the host.

    As on a GPU, a kernel's arguments are copied when it is launched, and it runs when its stream gets to it.
    """

    def __init__(self, runtime, kernels):
        super().__init__()
        self._runtime, self._kernels = runtime, kernels

    def _sizes(self, kernel):
        """Bytes of the two arguments of a kernel."""
        first = 2 if kernel in ("rtskel_prepare", "rtskel_finish") else 0
        return self._kernels.rtskel_sizes(first), self._kernels.rtskel_sizes(first + 1)

    def CUfunction(self, address):
        return next(handle for handle in self._runtime._handles if int(handle) == address)

    CUstream = CUfunction

    def cuLibraryLoadData(self, code, jitOptions, jitOptionsValues, numJitOptions, options, values, numLibraryOptions):
        assert isinstance(code, bytes)
        return CUresult.CUDA_SUCCESS, self._runtime._handle("library")

    def cuLibraryGetKernel(self, library, name):
        assert library.kind == "library"
        if not hasattr(self._kernels, name.decode()):
            return CUresult.CUDA_ERROR_NOT_FOUND, None
        found = self._runtime._handle("kernel", name.decode())
        library.work.append(found)
        return CUresult.CUDA_SUCCESS, found

    def cuLibraryUnload(self, library):
        for kernel in library.work:
            self._runtime._destroy(kernel, "kernel")
        self._runtime._destroy(library, "library")
        return (CUresult.CUDA_SUCCESS,)

    def cuLaunchKernel(self, f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        assert f.kind == "kernel"
        assert (gy, gz, by, bz, extra) == (1, 1, 1, 1, 0)
        assert gx > 0
        assert 0 < bx <= 1024
        assert shared < 48 << 10
        pointers = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))
        copies = [
            ctypes.create_string_buffer(ctypes.string_at(pointers[k], size), size)
            for k, size in enumerate(self._sizes(f.name))
        ]

        def run():
            getattr(self._kernels, f.name)(ctypes.c_int64(gx), *copies)

        self._runtime._do(stream, run)
        return (CUresult.CUDA_SUCCESS,)


def fake_torch(cuda):
    """A class in place of `TorchCuda` that computes on the CPU, uncompiled, in the memory and on the streams of `cuda`.

    As on a GPU, tensors show live device memory, and nothing happens before its stream gets to it; a network must have
    run once before it is captured.
    """

    from rtskel.engine import torch_cuda

    class FakeTorch:
        builder = "torch on the stand-in"

        def __init__(self, torch, path, device):
            self._torch, self.device, self._ran = torch, torch.device("cpu"), set()

        def compiled(self, network):
            return network

        def fuse_attention(self, model):
            assert not any(parameter.device.type != "cpu" for parameter in model.parameters())

        widened = torch_cuda.TorchCuda.widened

        def tensor(self, address, shape, kind):
            typestr = "<i2" if kind == "bf16" else kind
            count = int(np.prod(shape)) * np.dtype(typestr).itemsize
            block = np.frombuffer(cuda._range(address, count, "device"), typestr).reshape(shape)
            tensor = self._torch.from_numpy(block)
            return tensor.view(self._torch.bfloat16) if kind == "bf16" else tensor

        def enqueue(self, stream, work):
            assert stream.capturing is None or work in self._ran, "must have run once before it is captured"
            self._ran.add(work)

            def run():
                with self._torch.inference_mode():
                    work()

            cuda._do(stream, run)

    return FakeTorch


class DataType(enum.Enum):
    FLOAT = 0
    BOOL = 4
    INT64 = 8


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    USER_MANAGED = 2


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    EAGER = 1


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    MALFORMED_ENGINE = 32


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

    def log(self, severity, msg):
        raise NotImplementedError


def network(x, missing):
    """What every fake plan computes: something of each window alone, [B, W, J, 3] and [B, W, J] to [B, W, J, 3]."""
    return (np.tanh(x + x.mean(1, keepdims=True)) + 0.5 * missing[..., None]).astype(np.float32)


class IRuntimeConfig:
    cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = None

    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = strategy


class IExecutionContext:
    def __init__(self, trt, engine):
        self._trt, self._engine = trt, engine
        self._shapes, self._addresses, self._memory = {}, {}, 0
        self._warm = self._captured = False

    def _change(self):
        assert not self._captured, "a context must not change once a graph was captured from it"

    def set_device_memory(self, memory, size):
        self._change()
        assert size >= self._engine.device_memory_size_v2
        self._memory = memory
        self._trt._cuda._range(memory, size, "device")

    def set_input_shape(self, name, shape):
        self._change()
        self._shapes[name] = shape
        most = self._engine._plan["window" if name == "positions" else "max_batch"]
        return 1 <= shape[0] <= most and shape[1:] == self._engine._shapes[name][1:]

    def set_tensor_address(self, name, memory):
        self._change()
        self._addresses[name] = memory
        return name in self._engine._shapes and memory % 4 == 0

    def execute_async_v3(self, stream_handle):
        cuda = self._trt._cuda
        stream = next(handle for handle in cuda._handles if int(handle) == stream_handle)
        if stream.capturing is not None:
            if not self._trt._capturable:
                self._trt._log(ILogger.ERROR, "not permitted\nwhile capturing")
                return False
            assert self._warm, "must have run once before it is captured"
            self._captured = True
        tensors = self._engine.num_io_tensors
        assert (self._memory > 0, len(self._shapes), len(self._addresses)) == (True, tensors - 1, tensors)
        shapes = dict(self._shapes)
        batch, window, joints, _ = shapes["x"]
        shapes["y"] = (batch, shapes["positions"][0] if "positions" in shapes else window, joints, 3)
        types = {"x": np.float32, "missing": np.bool_, "positions": np.int64, "y": np.float32}

        def run():
            tensors = {}
            for name, shape in shapes.items():
                size = int(np.prod(shape)) * np.dtype(types[name]).itemsize
                memory = cuda._range(self._addresses[name], size, "device")
                tensors[name] = np.frombuffer(memory, types[name]).reshape(shape)
            y = network(tensors["x"], tensors["missing"])
            tensors["y"][:] = y[:, tensors["positions"]] if "positions" in tensors else y

        self._warm = True
        cuda._do(stream, run)
        return True


class RtxExecutionContext(IExecutionContext):
    def is_stream_capturable(self, stream):
        return self._trt._capturable


class ICudaEngine:
    device_memory_size_v2 = 4096

    def __init__(self, trt, plan):
        self._trt, self._plan = trt, plan
        frame = (-1, plan["window"], plan["joints"])
        self._shapes = {"missing": frame, "x": (*frame, 3), "y": (*frame, 3)}
        if plan["selects"]:
            self._shapes |= {"positions": (-1,), "y": (-1, -1, plan["joints"], 3)}

    @property
    def num_io_tensors(self):
        return len(self._shapes)

    def get_tensor_name(self, index):
        return list(self._shapes)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.OUTPUT if name == "y" else TensorIOMode.INPUT

    def get_tensor_dtype(self, name):
        return {"missing": DataType.BOOL, "positions": DataType.INT64}.get(name, DataType.FLOAT)

    def get_tensor_shape(self, name):
        return self._shapes[name]

    def create_execution_context(self, strategy=None, runtime_config=None):
        rtx = hasattr(self._trt, "IRuntimeConfig")
        if rtx:
            assert runtime_config.dynamic_shapes_kernel_specialization_strategy is not None
            strategy = runtime_config._strategy
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return (RtxExecutionContext if rtx else IExecutionContext)(self._trt, self)

    def create_runtime_config(self):
        return IRuntimeConfig()


class Runtime:
    def __init__(self, trt, logger):
        self._trt, self._logger = trt, logger
        trt._log = logger.log

    def deserialize_cuda_engine(self, serialized_engine):
        if not self._trt._runs:
            self._logger.log(ILogger.WARNING, "hm")
            self._logger.log(ILogger.ERROR, "does not\n fit")
            return None
        return ICudaEngine(self._trt, json.loads(serialized_engine))


class RtxRuntime(Runtime):
    def get_engine_validity(self, buffer):
        return 2, 3


def fake_tensorrt(cuda, *, rtx, runs=True, capturable=True):
    """A TensorRT module on the fake CUDA runtime `cuda`; TensorRT-RTX if `rtx`."""
    trt = SimpleNamespace(
        __name__="tensorrt_rtx" if rtx else "tensorrt",
        __version__="1.0.0",
        _cuda=cuda,
        _runs=runs,
        _capturable=capturable,
        DataType=DataType,
        TensorIOMode=TensorIOMode,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
        EngineInvalidityDiagnostics=EngineInvalidityDiagnostics,
        ILogger=ILogger,
    )
    trt.Runtime = lambda logger: (RtxRuntime if rtx else Runtime)(trt, logger)
    if rtx:
        trt.IRuntimeConfig = IRuntimeConfig
        trt.CudaGraphStrategy = CudaGraphStrategy
        trt.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
    return trt


def fake_plan(window=12, joints=50, max_batch=16, selects=True):
    """Plan bytes that the fake modules run; without `selects`, one as it was built before plans knew positions."""
    return json.dumps({"window": window, "joints": joints, "max_batch": max_batch, "selects": selects}).encode()


def fake_metadata(window=12, joints=50):
    """What a model of that size says of itself."""
    said = {"format": "1", "name": "tiny", "window": window, "joints": joints, "skeleton": UPPER_BODY_50.id}
    said |= {"preset": "custom", "precision": "fp32", "weights_hash": "0" * 64}
    return {f"rtskel.{key}": str(value) for key, value in said.items()}


def write_fake_plan(path, metadata, module="tensorrt", plan=None, **changes):
    """A plan's file around `fake_plan`; `changes` are to its header."""
    plan = fake_plan() if plan is None else plan
    header = {
        "metadata": metadata,
        "module": module,
        "module_version": "1.0.0",
        "compute_capabilities": ("8.9",),
        "max_batch": 16,
        "opt_batch": 4,
        "plan_bytes": len(plan),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
    }
    write_plan(path, PlanHeader(**header | changes), plan)


# the real modules, where there is no GPU

REFUSED = ("cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorInvalidValue")
"""What the real runtime answers to a call whose arguments' types it takes."""


def genuine(value, module, kinds):
    """An argument that a stand-in was given, as the real module has it: `kinds` names its type of a handle's kind."""
    if isinstance(value, Handle):
        return getattr(module, kinds[value.kind])(0)
    return getattr(getattr(module, type(value).__name__), value.name) if hasattr(value, "name") else value
