"""What engines on a GPU have in common: execution slots and CUDA graphs.

For a batch that fits a prepared size, one `run` is:

    copy the windows into pinned memory -> one CUDA graph (upload, network, download) -> wait -> a view of pinned
    memory
"""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.engine.base import Engine, bucket, buckets
from rtskel.engine.cuda import Cuda, Parts, layout, pinned, views
from rtskel.engine.metadata import EngineInfo
from rtskel.errors import EngineError


class ExecutionSlot:
    """What batches of one size run on: memory on both sides, the network prepared for that size, and a graph.

    The inputs lie in one block, so that one copy uploads them all. Host memory is freed with the last array that shows
    it, not when the engine closes: a result kept too long is stale, but never a dangling pointer.

    Args:
        positions: how many positions of each window; 0 if the network takes none and answers for all.

    Attributes:
        network: what the engine runs for this size.
        graph: upload, network and download; None without CUDA graphs.
    """

    def __init__(self, cuda: Cuda, batch: int, window: int, joints: int, positions: int) -> None:
        self.network: Any = None
        self.graph: Any = None
        parts: Parts = {"x": ((batch, window, joints, 3), np.float32), "missing": ((batch, window, joints), np.bool_)}
        if positions:
            parts["positions"] = ((positions,), np.int64)
        offsets, self.bytes_in = layout(parts)
        answer = (batch, positions or window, joints, 3)
        self.bytes_out = 4 * math.prod(answer)
        self.device_in = self.device_out = 0
        inputs, outputs = pinned(cuda, self.bytes_in), pinned(cuda, self.bytes_out)
        self.host_in, self.host_out = inputs.ctypes.data, outputs.ctypes.data
        shown = views(inputs, parts)
        self.x, self.missing = shown["x"], shown["missing"]
        self.positions = shown.get("positions", np.zeros(0, np.int64))
        self.y = outputs.view(np.float32).reshape(answer)
        self._inputs = [(name, shape, offsets[name]) for name, (shape, _) in parts.items()]
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
        """Gives back graph, network and device memory."""
        with contextlib.suppress(EngineError):
            if self.graph is not None:
                cuda.call("cudaGraphExecDestroy", self.graph)
        self.graph = self.network = None
        for address in (self.device_in, self.device_out):
            with contextlib.suppress(EngineError):
                if address:
                    cuda.call("cudaFree", address)
        self.device_in = self.device_out = 0


class CudaEngine(Engine):
    """An engine whose network runs on a CUDA stream. Subclasses prepare and enqueue the network.

    Args:
        selects: whether the network takes positions; may be set later, before the first slot.
        graphs: True: every run is a CUDA graph, and a network that cannot be captured is an error; False: never; None:
            where it can be captured.
        warm_up: prepare every batch size in the first run that asks for a new number of positions.

    Attributes:
        growth: a batch size that is prepared is so many times the one before.

    Raises:
        EngineError: see `Cuda`.
    """

    growth = 2

    def __init__(
        self,
        info: EngineInfo,
        max_batch: int,
        *,
        device: int = 0,
        selects: bool = True,
        graphs: bool | None = None,
        warm_up: bool = True,
    ) -> None:
        super().__init__(info, max_batch)
        self.selects, self.warms_up = selects, warm_up
        self._slots: dict[tuple[int, int], ExecutionSlot] = {}
        self._graphs, self._required = graphs is not False, graphs is True
        self.stream: Any = None
        self.cuda = Cuda(info.path, device)
        self.stream = self.cuda.call("cudaStreamCreateWithFlags", self.cuda.api.cudaStreamNonBlocking)

    @abstractmethod
    def _prepare(self, slot: ExecutionSlot) -> None:
        """Sets `slot.network` to what runs on the slot's tensors."""

    @abstractmethod
    def enqueue_network(self, slot: ExecutionSlot) -> None:
        """Puts the network alone on the stream."""

    def _capturable(self, slot: ExecutionSlot) -> bool:
        """Whether the network can be captured, as far as it says."""
        return True

    def _release_network(self) -> None:
        """Releases what the network holds besides the slots. Called once."""

    @property
    def captured(self) -> tuple[tuple[int, int], ...]:
        """Sizes, windows and positions of each, that run as a CUDA graph so far."""
        return tuple(size for size, slot in sorted(self._slots.items()) if slot.graph is not None)

    @property
    def closed(self) -> bool:
        """Whether nothing can run any more."""
        return self._closed

    def prepare(self, wanted: int) -> int:
        """Prepares what runs that ask for so many positions need: how many a slot of theirs has."""
        count = bucket(wanted, self.window) if self.selects else 0
        if self.warms_up and (self.max_batch, count) not in self._slots:
            for each in buckets(self.max_batch, self.growth):
                self.slot(each, count)
        return count

    def slot(self, batch: int, positions: int) -> ExecutionSlot:
        """The slot for batches of up to `batch` windows and `positions` positions; made on first use."""
        size = batch, positions
        if size not in self._slots:
            slot = ExecutionSlot(self.cuda, batch, self.window, self.joints, positions)
            try:
                self._prepare(slot)
                self._enqueue(slot)  # what happens only in a first run must not happen under capture
                self.wait()
                slot.graph = self.capture(slot, lambda: self._enqueue(slot))
            except BaseException:
                slot.release(self.cuda)
                raise
            self._slots[size] = slot
        return self._slots[size]

    def _enqueue(self, slot: ExecutionSlot) -> None:
        """Puts one batch on the stream: upload, network, download."""
        self.cuda.upload(slot.device_in, slot.host_in, slot.bytes_in, self.stream)
        self.enqueue_network(slot)
        self.cuda.download(slot.host_out, slot.device_out, slot.bytes_out, self.stream)

    def capture(self, slot: ExecutionSlot, enqueue: Callable[[], None]) -> Any:
        """A graph of what `enqueue` puts on the stream, which has run before; None without graphs.

        If it cannot be captured, graphs are given up or, where they are required, EngineError.
        """
        cuda = self.cuda
        if not self._graphs:
            return None
        if not self._capturable(slot):
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
        count = self.prepare(wanted)
        slot = self.slot(bucket(batch, self.max_batch, self.growth), count)
        # Rows beyond the batch keep what an earlier run left there; no row depends on another.
        np.copyto(slot.x[:batch], x)
        np.copyto(slot.missing[:batch], missing)
        if self.selects:
            slot.positions[:wanted] = positions
        if slot.graph is None:
            self._enqueue(slot)
        else:
            self.cuda.call("cudaGraphLaunch", slot.graph, self.stream)
        self.wait()
        y = slot.y[:batch]
        return np.ascontiguousarray(y[:, :wanted]) if self.selects else self._chosen(y, positions)

    def wait(self) -> None:
        """Until all that is on the stream is done."""
        self.cuda.call("cudaStreamSynchronize", self.stream)

    def _close(self) -> None:
        # A device in a failed state refuses these calls too; nothing can be done about that.
        with contextlib.suppress(EngineError):
            self.cuda.use()
            if self.stream is not None:
                self.wait()
        for slot in self._slots.values():
            slot.release(self.cuda)
        self._slots.clear()
        self._release_network()
        if self.stream is not None:
            with contextlib.suppress(EngineError):
                self.cuda.call("cudaStreamDestroy", self.stream)
        self.stream = None
