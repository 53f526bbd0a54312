"""What engines/native/module.cpp binds. Arrays must be C-contiguous, with exactly these types."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Int32 = NDArray[np.int32]
_Int64 = NDArray[np.int64]
_Float32 = NDArray[np.float32]

class RingState:
    """What the rings have in common: see `rtskel.refine.ring.HostRing`."""

    def __init__(
        self,
        *,
        streams: int,
        window: int,
        joints: int,
        radius: int,
        ahead: int,
        hop: int,
        min_confidence: float,
        shoulder_width: float,
        far: float,
        disagree: float,
        lookaheads: list[int],
        reach: list[int],
        count: list[int],
        positions: list[int],
        parents: list[int],
        bone_length: list[float],
        steady: list[int],
        neck: int,
        right_shoulder: int,
        left_shoulder: int,
    ) -> None: ...
    def settle(self, stream: _Int32, slot: _Int64) -> None: ...
    def end(self, stream: _Int32, last: _Int64) -> None: ...
    @property
    def outputs(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def watermark(self) -> _Int64: ...
    @property
    def newest(self) -> _Int64: ...
    @property
    def next(self) -> _Int64: ...
    @property
    def ended(self) -> NDArray[np.bool_]: ...
    @property
    def group(self) -> _Int32: ...

class Ring(RingState):
    """See `rtskel.refine.ring.HostRing`."""

    def put(
        self, stream: _Int32, slot: _Int64, xyz: _Float32, confidence: _Float32, status: NDArray[np.uint8]
    ) -> None: ...
    def reset(self, stream: _Int32) -> None: ...
    def gather(self, x: _Float32, missing: NDArray[np.bool_]) -> int: ...
    def average(self, y: _Float32, /, *columns: NDArray[Any]) -> None: ...
    def skip(self, stream: _Int32, window: _Int64, /, *columns: NDArray[Any]) -> None: ...

class StagedStep:
    """Memory of one step of a ring on a GPU, and what the step completes: that many rows."""

    def __init__(
        self,
        counts: _Int64,
        frames: _Int64,
        frame_xyz: _Float32,
        frame_confidence: _Float32,
        windows: _Int64,
        rows: _Int64,
        row_lookahead: _Int64,
        averaged: _Int64,
        xyz: _Float32,
        sigma: _Float32,
        confidence: _Float32,
        /,
    ) -> None: ...
    def __len__(self) -> int: ...

class DeviceRing(RingState):
    """The host's side of `rtskel.engine.device_ring.DeviceRing`; see engines/native/device_ring.h."""

    def put(
        self,
        stream: _Int32,
        slot: _Int64,
        xyz: _Float32,
        confidence: _Float32,
        status: NDArray[np.uint8],
        begin: int,
        most: int,
        /,
    ) -> int: ...
    def reset(self, stream: _Int32) -> None: ...
    def plan_next(self, room: int, /) -> int: ...
    def plan_skipped(self, stream: _Int32, window: _Int64, room: int, /) -> int: ...
    def pack_frames(self, step: StagedStep, /) -> None: ...
    def frames_sent(self) -> None: ...
    def pack(self, step: StagedStep, skipped: bool, /) -> None: ...
    def sent(self) -> None: ...
    def unpack(self, step: StagedStep, begin: int, /, *columns: NDArray[Any]) -> int: ...
    @property
    def waiting(self) -> int: ...

class RawReader:
    """The compiled part of `rtskel.wire.fast.RawReader`."""

    def __init__(self, joints: int) -> None: ...
    def add(self, template: Any, places: list[int]) -> None: ...
    def remove(self, template: Any) -> None: ...
    def read(self, topics: list[bytes], bodies: list[bytes]) -> Any: ...

class PoseWriter:
    """The compiled part of `rtskel.wire.fast.PoseWriter`."""

    def __init__(self, joints: int) -> None: ...
    def add(self, encoder: Any) -> int: ...
    def discard(self, kind: int) -> None: ...
    def write(
        self,
        kinds: list[int],
        numbers: _Int64,
        infer_start_ns: int,
        infer_end_ns: int,
        publish_ns: int,
        xyz: _Float32,
        confidence: _Float32,
        sigma: _Float32,
    ) -> list[bytes]: ...

class StreamArrays:
    """The compiled part of `rtskel.serve.arrays.StreamArrays`; its arrays are live views."""

    def __init__(
        self, places: int, ring: int, lookaheads: int, follow: float, memory: float, tolerance: float
    ) -> None: ...
    def __getattr__(self, name: str) -> Any: ...

class FastPath:
    """Raw messages into a ring, for frames that just follow; see engines/native/fast_path.h."""

    def __init__(
        self,
        reader: RawReader,
        arrays: StreamArrays,
        ring: Ring | None,
        jump: int,
        ahead: int,
        furthest: int,
        largest: int,
    ) -> None: ...
    def __getattr__(self, name: str) -> Any: ...

def valid_rows(stream: _Int32, slot: _Int64, streams: int) -> bool:
    """Whether all of these are streams of a ring of so many, and slots from 0."""

def within(values: _Float32, limit: float) -> bool:
    """Whether no value is further from 0 than that, nor is no number."""

def guard_signals(numbers: list[int], patience: int) -> None:
    """In front of the handlers of these signals, without Python: the first one starts an alarm of `patience` seconds,
    which ends the process with status 1; a second one ends it at once.
    """

class HoardWatch:
    """A thread that hangs up on connections that this process has accepted on a TCP port of a numeric address, if
    messages without end come by them; see engines/native/hoards.h.
    """

    def __init__(
        self, host: str, port: int, unfinished: int, most: int, memory: int, interval: float, waker: int
    ) -> None: ...
    def read(self, descriptors: list[int], all: bool) -> None:
        """Whole messages were read that came by these descriptors; `all`: and now there are no others."""

    def found(self) -> int:
        """How many were hung up on since the last call."""

    def stop(self) -> None: ...
