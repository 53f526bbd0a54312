"""Rings on the GPU: only new frames go up and only finished poses come down; windows never travel.

A `RingEngine` makes them. `DeviceRing` keeps the books of many streams on the host, and their frames and predictions
on the engine's GPU. One step is one CUDA graph:

    upload of new frames -> store -> gather windows -> network -> average -> download of what is complete

The kernels are in engines/native/device.cu, compiled if nvcc is found when rtskel is built. Every bucket (prepared
size) has two staging buffers of page-locked memory with a graph each, so that the next step can be packed and enqueued
before the last one is collected: `submit`, then `collect`; `step` does both.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel import native
from rtskel.engine.base import bucket, buckets
from rtskel.engine.cuda import SHARED_BYTES, Cuda, Parts, Resources, layout, pinned, views
from rtskel.engine.cuda_engine import CudaEngine, ExecutionSlot
from rtskel.engine.metadata import EngineInfo
from rtskel.errors import EngineError
from rtskel.refine.canonical import DISAGREE, FAR, steady_bones
from rtskel.refine.config import Refined, RingConfig
from rtskel.refine.ring import EngineRing, ring_arguments
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH

THREADS = 256
"""Threads in a block, which has one frame, one window or the windows of one stream."""

RING = (
    *("window", "joints", "capacity", "max_windows", "positions", "answers", "steady"),
    *("neck", "right_shoulder", "left_shoulder"),
)
LIMITS = ("min_confidence", "shoulder_width", "far", "disagree")
TABLES = ("parents", "bone_length", "steady_bones", "reach", "count", "asked", "column", "kept")
STATE = ("slot_tag", "xyz", "confidence", "window_tag", "predicted")
FRAME = ("frame_stream", "frame_slot", "frame_base")
WINDOW = ("stream", "base", "window", "last", "following", "first", "skipped")
STEP = ("counts", *FRAME, "frame_xyz", "frame_confidence", *WINDOW, "rows", "row_lookahead")
LENT = ("x", "missing", "positions", "y")
WORK = ("origin", "scale", "known")
OUT = ("windows", "out_xyz", "out_sigma", "out_confidence")


class RingArguments(ctypes.Structure):
    """`Ring` of engines/native/device.cu."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in RING),
        *((name, ctypes.c_double) for name in LIMITS),
        *((name, ctypes.c_void_p) for name in TABLES + STATE),
    ]


class StepArguments(ctypes.Structure):
    """`Step` of engines/native/device.cu."""

    _fields_ = [(name, ctypes.c_void_p) for name in STEP + LENT + WORK + OUT]


def compiled() -> Path:
    """The file of the compiled kernels; EngineError if rtskel was built without nvcc."""
    path = native.FOLDER / "device.fatbin"
    if not path.is_file():
        raise EngineError("rings on the GPU: rtskel was built where no nvcc was found; install it again where there is")
    return path


def load_kernels(cuda: Cuda, memory: Resources) -> dict[str, Any]:
    """The kernels by their names, on the GPU."""
    library = memory.hold(
        "cuLibraryUnload", cuda.call("cuLibraryLoadData", compiled().read_bytes(), [], [], 0, [], [], 0)
    )
    names = ("store", "gather", "average", "prepare", "finish")
    found = {name: cuda.call("cuLibraryGetKernel", library, f"rtskel_{name}".encode()) for name in names}
    return {name: cuda.driver.CUfunction(int(kernel)) for name, kernel in found.items()}


class RingEngine(CudaEngine):
    """A `CudaEngine` that can keep the rings of `rtskel.refine` on its GPU.

    Args:
        rings: whether it keeps them.
        options: as in `CudaEngine`.
    """

    def __init__(self, info: EngineInfo, max_batch: int, *, rings: bool = False, **options: Any) -> None:
        self.kernels: dict[str, Any] = {}
        self._rings, self._held = rings, list[Resources]()
        super().__init__(info, max_batch, **options)

    def ring(self, config: RingConfig) -> DeviceRing | None:
        """A ring on the GPU, or None if rings are to stay on the host; ready for what it asks of the network."""
        if self.closed:
            raise EngineError(f"{self.info.path}: the engine is closed")
        self.cuda.use()
        with self.lock:  # no other thread may put work on a stream while a graph of it is captured
            if self._rings:
                return self._ring(config)
            self.prepare(len(config.positions))
        return None

    def _ring(self, config: RingConfig) -> DeviceRing:
        for resources in [resources for resources in self._held if resources.abandoned]:
            self._held.remove(resources)
            resources.release()
        self.load_kernels()
        self._held.append(resources := Resources(self.cuda))
        try:
            ring = DeviceRing(self, config, resources)
        except BaseException:
            resources.abandon()
            raise
        weakref.finalize(ring, resources.abandon).atexit = False
        return ring

    def load_kernels(self) -> None:
        """Loads rtskel's own kernels, once.

        Raises:
            EngineError: none were compiled, or none for this GPU.
        """
        if not self.kernels:
            self._held.append(resources := Resources(self.cuda))
            self.kernels = load_kernels(self.cuda, resources)

    def hold(self) -> Resources:
        """Accounts for memory on the GPU that is given back when the engine closes, before the kernels."""
        self._held.append(resources := Resources(self.cuda))
        return resources

    def _close(self) -> None:
        with contextlib.suppress(EngineError):
            self.cuda.use()
            if self.stream is not None:
                self.wait()
        for resources in reversed(self._held):  # the kernels were the first
            resources.release()
        self._held.clear()
        self.kernels = {}
        super()._close()


class _StagingBuffer:
    """Page-locked memory of one step in flight, both ways, and its graph.

    Attributes:
        step: the same memory, as the books pack and unpack it.
        launch: puts its graph on the stream; None without one.
        record: puts an event behind it.
        wait: until that is reached.
    """

    def __init__(self, memory: Resources, cuda: Cuda, stream: Any, parts_in: Parts, parts_out: Parts) -> None:
        self.given, self.taken = pinned(cuda, layout(parts_in)[1]), pinned(cuda, layout(parts_out)[1])
        shown = (*views(self.given, parts_in).values(), *views(self.taken, parts_out).values())
        self.step = native.StagedStep(*shown)
        create, flag = "cudaEventCreateWithFlags", cuda.api.cudaEventDisableTiming
        done = memory.hold("cudaEventDestroy", cuda.call(create, flag))
        self.record, self.wait = cuda.bound("cudaEventRecord", done, stream), cuda.bound("cudaEventSynchronize", done)
        self.launch: Callable[[], None] | None = None
        self.busy = False


class _Bucket:
    """Steps of up to `size` windows and as many new frames: their staging buffers and their memory on the GPU.

    Args:
        ring: the ring that they belong to.
        slot: the engine's execution slot of that size; None for steps that run no windows.
        in_flight: steps that may be in flight at once.
    """

    def __init__(self, ring: DeviceRing, size: int, slot: ExecutionSlot | None, in_flight: int) -> None:
        self.size, self._slot = size, slot
        cuda, joints = ring.engine.cuda, ring.config.skeleton.joints
        rows = size * len(ring.config.lookaheads)
        self._in: Parts = {
            "counts": ((2,), np.int64),
            "frames": ((len(FRAME), size), np.int64),
            "frame_xyz": ((size, joints, 3), np.float32),
            "frame_confidence": ((size, joints), np.float32),
            "windows": ((len(WINDOW), size), np.int64),
            "rows": ((size + 1,), np.int64),
            "row_lookahead": ((rows,), np.int64),
        }
        self._out: Parts = {
            "windows": ((rows,), np.int64),
            "out_xyz": ((rows, joints, 3), np.float32),
            "out_sigma": ((rows, joints), np.float32),
            "out_confidence": ((rows, joints), np.float32),
        }
        work: Parts = {"origin": ((size, 3), np.float32), "scale": ((size,), np.float32), "known": ((size,), np.int64)}
        self._arguments = StepArguments()
        self._blocks = []
        for parts in (self._in, work, self._out):
            places, count = layout(parts)
            block = ring.memory.hold("cudaFree", cuda.call("cudaMalloc", count))
            self._blocks.append((block, count))
            together = {"frames": FRAME, "windows": WINDOW} if parts is self._in else {}
            for name, place in places.items():
                for k, each in enumerate(together.get(name, (name,))):
                    setattr(self._arguments, each, block + place + 8 * k * size)
        if slot is not None:
            for name, _, address in slot.tensors():
                setattr(self._arguments, name, address)
        stream = ring.engine.stream
        self.staging = [_StagingBuffer(ring.memory, cuda, stream, self._in, self._out) for _ in range(in_flight)]
        if slot is None:
            return
        for staging in self.staging:
            self.enqueue(ring, staging)  # empty: what happens only in a first run must not happen under capture
            ring.engine.wait()
            graph = ring.engine.capture(slot, partial(self.enqueue, ring, staging))
            if graph is not None:
                staging.launch = cuda.bound("cudaGraphLaunch", ring.memory.hold("cudaGraphExecDestroy", graph), stream)

    def free(self) -> _StagingBuffer:
        """A buffer that is not in flight."""
        for staging in self.staging:
            if not staging.busy:
                return staging
        raise ValueError("two steps are in flight: collect one")

    def enqueue(self, ring: DeviceRing, staging: _StagingBuffer) -> None:
        """Puts one step on the stream."""
        size, cuda, stream = self.size, ring.engine.cuda, ring.engine.stream
        (given, count), _, (taken, results) = self._blocks
        cuda.upload(given, staging.given.ctypes.data, count, stream)
        ring.launch("store", size, self._arguments)
        if self._slot is not None:
            ring.launch("gather", size, self._arguments)
            ring.engine.enqueue_network(self._slot)
        ring.launch("average", size, self._arguments)
        cuda.download(staging.taken.ctypes.data, taken, results, stream)


class DeviceRing(EngineRing):
    """The ring of many streams on a GPU, made by `RingEngine.ring`.

    After an EngineError from the GPU itself its state there is unknown: open the engine again.

    Args:
        engine: runs the network; borrowed. Closing it gives back what the ring holds on the GPU.
        memory: accounts for it.

    Raises:
        EngineError: no compiled kernels, or none for this GPU; windows too long; not enough memory.
    """

    def __init__(self, engine: RingEngine, config: RingConfig, memory: Resources) -> None:
        super().__init__(config, native.DeviceRing(**ring_arguments(config)))
        self.engine, self.memory = engine, memory
        self._flying: deque[_StagingBuffer] = deque()
        cuda, skeleton, positions = engine.cuda, config.skeleton, config.positions
        if (shared := self._shared_bytes) > SHARED_BYTES:
            raise EngineError(
                f"{engine.info.path}: windows of {config.window} frames are too long for rings on the GPU "
                f"({shared} bytes of {SHARED_BYTES})"
            )
        self._stream = cuda.driver.CUstream(int(engine.stream))
        wanted = len(positions)
        answers = bucket(wanted, config.window) if engine.selects else config.window
        kept = np.zeros(config.window, np.int64)
        kept[positions] = np.arange(wanted)
        bones = steady_bones(skeleton)
        tables = {
            "parents": np.array(skeleton.parents),
            "bone_length": np.array(skeleton.bone_length, np.float64),
            "steady_bones": np.array(bones),
            "reach": np.array([config.reach(lookahead) for lookahead in config.lookaheads]),
            "count": np.array([config.windows(lookahead) for lookahead in config.lookaheads]),
            "asked": np.resize(positions, answers),
            "column": np.arange(wanted) if engine.selects else positions,
            "kept": kept,
        }
        s, c, m, joints = config.streams, config.capacity, config.max_windows, skeleton.joints
        state: Parts = {
            "slot_tag": ((s, c), np.int64),
            "xyz": ((s, c, joints, 3), np.float32),
            "confidence": ((s, c, joints), np.float32),
            "window_tag": ((s, m), np.int64),
            "predicted": ((s, m, wanted, joints, 3), np.float32),
        }
        self._arguments = RingArguments(
            *(config.window, joints, c, m, wanted, answers, len(bones)),
            *(NECK, RIGHT_SHOULDER, LEFT_SHOULDER, config.min_confidence, SHOULDER_WIDTH, FAR, DISAGREE),
        )
        parts: Parts = {name: (table.shape, table.dtype.type) for name, table in tables.items()}
        for each in (parts, state):
            places, count = layout(each)
            block = memory.hold("cudaFree", cuda.call("cudaMalloc", count))
            for name, place in places.items():
                setattr(self._arguments, name, block + place)
            if each is parts:
                upload = pinned(cuda, count)
                for name, view in views(upload, parts).items():
                    view[:] = tables[name]
                cuda.upload(block, upload.ctypes.data, count, engine.stream)
            else:
                cuda.call("cudaMemsetAsync", block, 0xFF, count, engine.stream)  # no tag is negative
        engine.wait()

        most = engine.max_batch
        self._buckets: dict[int, _Bucket] = {}
        self._aside = _Bucket(self, max(64, most), None, 1)  # for frames beyond what a step takes, and skipped windows
        for size in buckets(most, engine.growth) if engine.warms_up else (1,):
            self._bucket(size)

    @property
    def _shared_bytes(self) -> int:
        window = self.config.window
        return 8 * window + 4 * window * self.config.skeleton.joints

    def launch(self, name: str, blocks: int, step: StepArguments) -> None:
        """Puts a kernel on the stream."""
        shared = self._shared_bytes if name == "gather" else 0
        kernel = self.engine.kernels[name]
        self.engine.cuda.launch(kernel, blocks, THREADS, shared, self._stream, self._arguments, step)

    def _bucket(self, windows: int) -> _Bucket:
        size = bucket(windows, self.engine.max_batch, self.engine.growth)
        if size not in self._buckets:
            wanted = bucket(len(self.config.positions), self.config.window) if self.engine.selects else 0
            self._buckets[size] = _Bucket(self, size, self.engine.slot(size, wanted), 2)
        return self._buckets[size]

    # -- frames in ---------------------------------------------------------------------------------------------------

    def put(
        self,
        stream: NDArray[np.int32],
        slot: NDArray[np.int64],
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        status: NDArray[np.uint8],
    ) -> None:
        """See `HostRing.put`; frames go up with the next step, or earlier if there are more than a step takes."""
        begin = 0
        while (begin := self.books.put(stream, slot, xyz, confidence, status, begin, self._aside.size)) < len(stream):
            self._store()

    def _store(self) -> None:
        """Sends the waiting frames up without a step, and waits."""
        (staging,) = self._aside.staging
        self.books.pack_frames(staging.step)
        self._run_aside(staging)
        self.books.frames_sent()

    def _run_aside(self, staging: _StagingBuffer) -> None:
        self._ready_to_run()
        self._aside.enqueue(self, staging)
        self.engine.wait()

    # -- windows through the network -----------------------------------------------------------------------------------

    def step(self, room: int) -> Refined:
        """Run up to `room` windows, streams sharing the batch fairly: what they complete."""
        return self._collected() if self.submit(room) else Refined.empty(0, self.config.skeleton.joints)

    def submit(self, room: int) -> bool:
        """Put a step of up to `room` windows on the GPU and do not wait; False if no window can run.

        The host state then already reflects this step. If it raises, nothing has changed.

        Raises:
            ValueError: two steps are in flight.
        """
        if len(self._flying) == 2:
            raise ValueError("two steps are in flight: collect one")
        if not (windows := self.books.plan_next(min(room, self.engine.max_batch))):
            return False
        self._ready_to_run()
        step = self._bucket(windows)
        if self.books.waiting > step.size:
            self._store()
        staging = step.free()
        self.books.pack(staging.step, False)
        if staging.launch is None:
            step.enqueue(self, staging)
        else:
            staging.launch()
        staging.record()
        self.books.sent()
        staging.busy = True
        self._flying.append(staging)
        return True

    def collect(self) -> Refined:
        """Wait for the oldest step in flight: what it completes.

        Raises:
            ValueError: none is in flight.
        """
        if not self._flying:
            raise ValueError("no step is in flight: submit one")
        self.engine.cuda.use()
        return self._collected()

    def _collected(self) -> Refined:
        staging = self._flying.popleft()
        staging.wait()
        staging.busy = False
        out = Refined.empty(len(staging.step), self.engine.joints)
        self.books.unpack(staging.step, 0, *out.columns)
        return out

    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], /, *columns: NDArray[Any]) -> None:
        """See `HostRing.skip`."""
        row, (staging,) = 0, self._aside.staging
        while self.books.plan_skipped(stream, window, self._aside.size):
            self.books.pack(staging.step, True)
            self._run_aside(staging)
            self.books.sent()
            row += self.books.unpack(staging.step, row, *columns)

    def _ready_to_run(self) -> None:
        if self.engine.closed:
            raise EngineError(f"{self.engine.info.path}: the engine is closed")
        self.engine.cuda.use()
