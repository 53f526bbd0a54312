"""What engines/native/module.cpp binds. Arrays must be C-contiguous, with exactly these types."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Int32 = NDArray[np.int32]
_Int64 = NDArray[np.int64]
_Float32 = NDArray[np.float32]

class Ring:
    """See `rtskel.refine.ring.HostRing`."""

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
    def put(
        self, stream: _Int32, slot: _Int64, xyz: _Float32, confidence: _Float32, status: NDArray[np.uint8]
    ) -> None: ...
    def settle(self, stream: _Int32, slot: _Int64) -> None: ...
    def end(self, stream: _Int32, last: _Int64) -> None: ...
    def reset(self, stream: _Int32) -> None: ...
    def gather(self, x: _Float32, missing: NDArray[np.bool_]) -> int: ...
    def average(self, y: _Float32, /, *columns: NDArray[Any]) -> None: ...
    def skip(self, stream: _Int32, window: _Int64, /, *columns: NDArray[Any]) -> None: ...
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

class RawReader:
    """The inner part of `rtskel.wire.fast.RawReader`."""

    def __init__(self, joints: int) -> None: ...
    def add(self, template: Any, places: list[int]) -> None: ...
    def remove(self, template: Any) -> None: ...
    def match(self, topics: list[bytes], bodies: list[bytes]) -> tuple[int, list[int]]: ...
    def take(self, frames: Any) -> bool: ...

class PoseWriter:
    """The inner part of `rtskel.wire.fast.PoseWriter`."""

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
    """The inner part of `rtskel.serve.arrays.StreamArrays`."""

    def __init__(self, books: Any, clock: Any, follow: float, memory: float, tolerance: float) -> None: ...
    def slots(self, place: _Int32, number: _Int64, time: _Int64, jump: int, most: int, out: _Int64) -> bool: ...
    def accept(self, place: _Int32, slots: _Int64, read: _Int64) -> None: ...
    def came(
        self,
        place: _Int32,
        slots: _Int64,
        read: _Int64,
        taken_at: _Int64,
        before: _Int64,
        status: NDArray[np.uint8],
        watermark: _Int64,
    ) -> None: ...
    def deadlines(self, used: int, watermark: _Int64, slack: float, out: NDArray[np.float64]) -> None: ...
    def turned(self, place: _Int32) -> bool: ...
    def turn_in(self, place: _Int32, xyz: _Float32) -> None: ...
    def turn_out(self, place: _Int32, xyz: _Float32) -> None: ...
    def behind(self, used: int, following: _Int64, watermark: _Int64, limit: float, out: _Int64) -> int: ...
    def numbers(
        self, place: _Int32, slots: _Int64, windows: _Int32, flags: NDArray[np.uint32], out: _Int64
    ) -> None: ...

class FastPath:
    """Raw messages into a ring in one call, for frames that just follow; see engines/native/fast_path.h."""

    def __init__(self, reader: RawReader, books: StreamArrays, ring: Ring, jump: int, most: int) -> None: ...
    def take(self, topics: list[bytes], bodies: list[bytes], read: list[int]) -> int: ...
