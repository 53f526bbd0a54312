"""CUDA without torch: the runtime's calls (cuda-python), memory on both sides, and arrays laid out in one block."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import EngineError

ALIGNMENT = 256
"""TensorRT wants its tensors at multiples of this many bytes; cudaMalloc gives at least that."""

Parts = dict[str, tuple[tuple[int, ...], type[np.generic]]]
"""Shapes and types of arrays that share one block of memory."""


def layout(parts: Parts) -> tuple[dict[str, int], int]:
    """The offset of each array in its block, in bytes, and the block's size."""
    offsets, end = {}, 0
    for name, (shape, dtype) in parts.items():
        offsets[name] = -(-end // ALIGNMENT) * ALIGNMENT
        end = offsets[name] + math.prod(shape) * np.dtype(dtype).itemsize
    return offsets, end


def views(block: NDArray[np.uint8], parts: Parts) -> dict[str, NDArray[Any]]:
    """The arrays in a block of host memory."""
    offsets, _ = layout(parts)
    return {
        name: block[offsets[name] :][: math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
        for name, (shape, dtype) in parts.items()
    }


SHARED_BYTES = 47 << 10
"""Shared memory that every GPU has for a block, less what rtskel's kernels declare themselves."""


class Cuda:
    """The CUDA runtime on one GPU; a call that fails raises EngineError.

    Args:
        path: the engine file that the calls are for; errors name it.
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
                f"{path}: this needs cuda-python (pip install 'rtskel[cuda]', for weights, or "
                "'rtskel[tensorrt]' or 'rtskel[tensorrt-rtx]', for plans)"
            ) from None
        try:
            status, count = self.api.cudaGetDeviceCount()
        except RuntimeError as error:  # cuda-python found no library to load
            raise EngineError(f"{path}: this needs an NVIDIA driver ({error})") from None
        if int(status):
            raise EngineError(f"{path}: this needs an NVIDIA GPU and its driver ({self._say(status)})")
        if not 0 <= device < count:
            raise EngineError(f"{path}: there is no GPU {device} ({count} found)")
        self._choose = self.bound("cudaSetDevice", device)
        self.use()

    def use(self) -> None:
        """Makes the GPU current for the calling thread, where other code may have chosen another one."""
        self._choose()

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the CUDA runtime ("cuda...") or of the driver ("cu..."): its one result, or None."""
        status, *results = self._function(name)(*arguments)
        if int(status):
            raise self._failed(name, status)
        return results[0] if results else None

    def bound(self, name: str, *arguments: Any) -> Callable[[], None]:
        """A call that is made again and again, and has no result."""
        function = self._function(name)

        def again() -> None:
            (status,) = function(*arguments)
            if status:
                raise self._failed(name, status)

        return again

    def _function(self, name: str) -> Any:
        return getattr(self.api if name.startswith("cuda") else self.driver, name)

    def _failed(self, name: str, status: Any) -> EngineError:
        reason = self._say(status) if name.startswith("cuda") else status.name
        return EngineError(f"{self.path}: {name} failed ({reason})")

    def upload(self, device: int, host: int, count: int, stream: Any) -> None:
        """Puts a copy of `count` bytes from page-locked host memory on a stream."""
        self.call("cudaMemcpyAsync", device, host, count, self.api.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def download(self, host: int, device: int, count: int, stream: Any) -> None:
        """Puts a copy of `count` bytes to page-locked host memory on a stream."""
        self.call("cudaMemcpyAsync", host, device, count, self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def launch(
        self, kernel: Any, blocks: int, threads: int, shared: int, stream: Any, *arguments: ctypes.Structure
    ) -> None:
        """Puts a kernel on a stream of the driver; `shared`: bytes of shared memory a block."""
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self.call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, shared, stream, ctypes.addressof(pointers), 0)

    def free_host(self, *addresses: int) -> None:
        """Frees page-locked host memory: now, or after the capture of a graph, during which nothing may be freed."""
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


class Resources:
    """What a ring holds on the GPU, given back by the engine.

    A ring may be garbage-collected at any time, even while a graph is captured, when nothing may be freed.
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
