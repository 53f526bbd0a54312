"""Refinement of many streams at once: `RefinerBank`, and what it asks of an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.refine.answer import check_answer
from rtskel.refine.config import Refined, RingConfig
from rtskel.refine.ring import EngineRing, HostRing, native_ring
from rtskel.skeleton import skeleton

if TYPE_CHECKING:
    from rtskel import _native


# A type such as np.int32 is looked up for each array again, its dtype is not.
_INT32, _INT64, _FLOAT32, _UINT8 = map(np.dtype, (np.int32, np.int64, np.float32, np.uint8))
_NO_SLOTS = np.zeros(0, np.int64)


def _vector(values: ArrayLike, dtype: np.dtype[Any]) -> NDArray[Any]:
    """As an array of at least one dimension, itself if it is one already."""
    return np.array(values, dtype, ndmin=1, copy=None)


class _Info(Protocol):
    @property
    def skeleton_id(self) -> str: ...


class WindowEngine(Protocol):
    """What refinement asks of an engine; `rtskel.engine.Engine` is one."""

    window: int
    joints: int
    max_batch: int

    @property
    def info(self) -> _Info:
        """Says which skeleton the engine is for."""

    def run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64], /
    ) -> NDArray[np.float32] | None:
        """Canonical windows [B, W, J, 3] and which joints are missing [B, W, J] to predictions [B, P, J, 3] of the
        frames at `positions` [P] of each window. None, of one that checks itself: there is no answer, and
        the windows pass through.
        """

    def ring(self, config: RingConfig, /) -> EngineRing | None:
        """The engine's own ring on its device; None if the caller keeps the ring."""


class RefinerBank:
    """Refines many streams at once; every step runs one engine batch that the streams share.

    Streams are indices 0..S-1, and frames carry slots: a server builds on this. `Refiner` is the simple interface for
    one stream. The engine is asked only for those predictions of each window that some average takes.

    Threads may share a bank, and banks in different threads an engine: calls wait for each other. The arrays that
    properties return are views that change with the next call.

    Args:
        engine: an open engine for a known skeleton; borrowed, not closed.
        lookahead: output delay or delays in frames; None is the offline protocol (the most that helps).
        radius: r; 2r + 1 windows are averaged, fewer where the lookahead allows no more.
        streams: S, how many streams are held.
        min_confidence: joints below it count as missing, as do those with confidence 0 or a NaN or infinite coordinate.
        ahead: how many slots ahead of the next window a frame may come.
        hop: every `hop` frames, that many windows of a stream run together in one batch. The output is the same, up to
            hop - 1 frames later, and takes less engine time where few streams would not fill a batch.
        ring: makes the ring, unless the engine has its own.

    Raises:
        ValueError: an argument out of range.
        RtskelError: the engine's skeleton is unknown.
    """

    def __init__(
        self,
        engine: WindowEngine,
        *,
        lookahead: int | Sequence[int] | None = 4,
        radius: int = 2,
        streams: int = 1,
        min_confidence: float = 0.0,
        ahead: int = 64,
        hop: int = 1,
        ring: Callable[[RingConfig], HostRing] = native_ring,
    ) -> None:
        from rtskel import native

        self.engine = engine
        self.window: int = engine.window
        self.joints: int = engine.joints
        if lookahead is None:
            lookahead = self.window // 2 + radius
        self.config = RingConfig(
            streams=streams,
            window=self.window,
            lookaheads=tuple(lookahead) if isinstance(lookahead, Sequence) else (int(lookahead),),
            radius=radius,
            ahead=ahead,
            min_confidence=min_confidence,
            skeleton=skeleton(engine.info.skeleton_id),
            hop=hop,
        )
        if self.config.skeleton.joints != self.joints:
            raise ValueError(
                f"engine has {self.joints} joints, its skeleton {engine.info.skeleton_id!r} has "
                f"{self.config.skeleton.joints}"
            )
        self._lock = threading.RLock()
        self._valid_rows = native.valid_rows
        # An `Engine` checks its answers, and they are valid until its next run: its lock is held until they are used.
        self._checks_itself = hasattr(engine, "lock")
        self._engine_lock = getattr(engine, "lock", self._lock)
        self._ring: EngineRing | HostRing = engine.ring(self.config) or ring(self.config)
        self._on_device = isinstance(self._ring, EngineRing)
        # The engine's own rings put work on its device whenever frames come.
        self._ring_lock = self._engine_lock if self._on_device else self._lock
        room = 0 if self._on_device else engine.max_batch
        self._x = np.zeros((room, self.window, self.joints, 3), np.float32)
        self._missing = np.zeros((room, self.window, self.joints), np.bool_)
        self._positions = self.config.positions
        self._max_reach = max(map(self.config.reach, self.config.lookaheads))

    lifts = False
    """Whether streams may be 2D, see `lift`."""

    def lift(self, stream: int, fps: float) -> None:
        """That stream is 2D: ValueError, because this bank takes 3D poses only."""
        raise ValueError(f"stream {stream} is 2D, this bank takes 3D poses only")

    @property
    def lookaheads(self) -> tuple[int, ...]:
        """Lookaheads in frames, in the order given."""
        return self.config.lookaheads

    @property
    def radius(self) -> int:
        """r: 2r + 1 windows are averaged."""
        return self.config.radius

    @property
    def on_device(self) -> bool:
        """Whether the engine keeps the rings, so that windows never pass through `WindowEngine.run`."""
        return self._on_device

    @property
    def compiled_ring(self) -> _native.Ring | None:
        """The ring, if it is in C++ and takes frames as they are given to `put`; else None."""
        from rtskel import native

        return self._ring if isinstance(self._ring, native.Ring) else None

    @property
    def watermark(self) -> NDArray[np.int64]:
        """[S] the last slot up to which every frame has come or was settled, -1 at first."""
        return self._ring.watermark

    @property
    def refinable(self) -> NDArray[np.int64]:
        """[S] the last window that can run, once its hop is whole: the `watermark`, unless frames are held back."""
        return self._ring.watermark

    @property
    def newest(self) -> NDArray[np.int64]:
        """[S] the last slot put or settled, -1 at first."""
        return self._ring.newest

    @property
    def next_window(self) -> NDArray[np.int64]:
        """[S] the first window that has not run: slot i is out at lookahead L once above i + min(L, W // 2 + r)."""
        return self._ring.next

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[S] whether `end` was called since the last reset."""
        return self._ring.ended

    @property
    def group(self) -> NDArray[np.int32]:
        """[S] which group each stream belongs to, 0..S-1, all 0 at first; may be written. Where more is ready than fits
        in a batch, each group has an equal share of it, and its streams share that.
        """
        return self._ring.group

    @property
    def drained(self) -> NDArray[np.bool_]:
        """[S] whether the stream has ended and all of its output is out."""
        return self.ended & ((self._ring.next > self.newest + self._max_reach) | (self.newest < 0))

    @property
    def pending(self) -> int:
        """How many windows can run now."""
        return self._ring.pending

    def put(
        self, stream: ArrayLike, slot: ArrayLike, xyz: ArrayLike, confidence: ArrayLike | None = None
    ) -> NDArray[np.uint8]:
        """Store frames; nothing runs yet.

        Args:
            stream: [M] stream index of each frame.
            slot: [M] slot of each frame, from 0.
            xyz: [M, J, 3] positions in any unit.
            confidence: [M, J] in 0..1, 0 = missing; None: every joint with finite coordinates is there.

        Returns:
            [M] uint8, a `Put` each: what became of the frame.

        Raises:
            ValueError: wrong shape, a stream out of range or a negative slot; then no frame was stored.
        """
        frames = self._checked(stream, slot, xyz, confidence)
        status = np.empty(len(frames[0]), _UINT8)
        with self._lock:
            self._ring.put(*frames, status)
        return status

    def _checked(
        self, stream: ArrayLike, slot: ArrayLike, xyz: ArrayLike, confidence: ArrayLike | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """The arguments of `put` as arrays; ValueError."""
        slots = _vector(slot, _INT64)
        streams = self._rows(stream, slots)
        xyz = np.ascontiguousarray(xyz, _FLOAT32)
        m = len(streams)
        if slots.shape != (m,) or xyz.shape != (m, self.joints, 3):
            raise ValueError(f"slot {slots.shape} and xyz {xyz.shape} do not match {m} streams of {self.joints} joints")
        given = np.ones((m, self.joints), _FLOAT32) if confidence is None else confidence
        confidences = np.ascontiguousarray(given, _FLOAT32)
        if confidences.shape != (m, self.joints):
            raise ValueError(f"confidence has shape {confidences.shape}, expected {(m, self.joints)}")
        return streams, slots, xyz, confidences

    def settle(self, stream: ArrayLike, slot: ArrayLike) -> None:
        """Every slot up to and including [M] `slot` of [M] `stream` counts as come; absent frames count as missing."""
        streams = self._rows(stream)
        with self._lock:
            self._ring.settle(streams, self._slots(slot, streams))

    def end(self, stream: ArrayLike, last: ArrayLike | None = None) -> None:
        """[M] `stream` ends with slot [M] `last` (default: the newest): what is due comes out, flagged FLUSHED."""
        streams = self._rows(stream)
        with self._lock:
            self._ring.end(streams, self._slots(-1 if last is None else last, streams))

    def reset(self, stream: ArrayLike) -> None:
        """Forget everything about [M] `stream`, including output still due: the next frame is slot 0 again."""
        with self._lock:
            self._ring.reset(self._rows(stream))

    def step(self, max_windows: int | None = None) -> Refined:
        """Run one engine batch of at most `max_windows` (and `engine.max_batch`) pending windows, see `group`; returns
        what it completes.

        If the engine raises, nothing has changed: the same windows are still pending.

        Raises:
            EngineError: the engine's answer makes no sense: another shape or type, numbers that are not finite or far
                off. Nothing has changed.
        """
        room = self.engine.max_batch if max_windows is None else min(max_windows, self.engine.max_batch)
        with self._engine_lock, self._lock:
            if isinstance(self._ring, EngineRing):
                return self._ring.step(room)
            n = self._ring.gather(self._x[:room], self._missing[:room])
            out = Refined.empty(self._ring.outputs, self.joints)
            if n:
                y = self.engine.run(self._x[:n], self._missing[:n], self._positions)
                if not self._checks_itself:
                    y = check_answer(y, (n, len(self._positions), self.joints, 3), type(self.engine).__name__)
                elif y is None:
                    y = self._unrefined(self._ring, room)
                self._ring.average(y, *out.columns)
            return out

    def _unrefined(self, ring: HostRing, room: int) -> NDArray[np.float32]:
        """The gathered windows once more, as the answer: the engine may have written into those that it was given."""
        # And may still do so, if its call has not returned.
        self._x, self._missing = np.zeros_like(self._x), np.zeros_like(self._missing)
        n = ring.gather(self._x[:room], self._missing[:room])
        return np.take(self._x[:n], self._positions, axis=1)

    def submit(self, max_windows: int | None = None) -> bool:
        """Start a step and do not wait for it: `step` in two, for banks that are `on_device`. Two may be in flight.

        Returns:
            False if no window can run.

        Raises:
            ValueError: two are in flight, or the bank is not on a device.
        """
        room = self.engine.max_batch if max_windows is None else min(max_windows, self.engine.max_batch)
        with self._engine_lock, self._lock:
            return self._of_device().submit(room)

    def collect(self) -> Refined:
        """Wait for the oldest step in flight: what it completes.

        Raises:
            ValueError: none is in flight, or the bank is not on a device.
        """
        with self._engine_lock, self._lock:
            return self._of_device().collect()

    def _of_device(self) -> EngineRing:
        if not isinstance(self._ring, EngineRing):
            raise ValueError("this bank is not on a device: use step()")
        return self._ring

    def skip(self, stream: ArrayLike) -> Refined:
        """Jump to the newest windows of [M] `stream` (each once) that can run; earlier ones never run.

        Returns what the skipped windows complete, averaged over fewer windows, or over none and flagged PASSTHROUGH.
        Overloaded callers use this to put the newest frames first. Not for streams that have ended.
        """
        with self._ring_lock, self._lock:
            return self._skip(self._rows(stream))

    def _skip(self, streams: NDArray[np.int32]) -> Refined:
        first = self._ring.next[streams]
        window = np.maximum(first, self.config.whole_hops(self._ring.watermark[streams]) - self.config.hop + 1)
        reach = np.array([self.config.reach(lookahead) for lookahead in self.config.lookaheads])[:, None]
        out = Refined.empty(int(np.maximum(window - np.maximum(first, reach), 0).sum()), self.joints)
        self._ring.skip(streams, window, *out.columns)
        return out

    def _rows(self, stream: ArrayLike, slots: NDArray[np.int64] = _NO_SLOTS) -> NDArray[np.int32]:
        """[M] streams that there are; ValueError. So is a slot below 0."""
        streams = _vector(stream, _INT32)
        if streams.ndim != 1:
            raise ValueError(f"stream has shape {streams.shape}, expected one index a frame")
        if not self._valid_rows(streams, slots, self.config.streams):
            if streams.min() >= 0 and streams.max() < self.config.streams:
                raise ValueError(f"slot {slots.min()} is negative")
            raise ValueError(
                f"stream {streams.min()}..{streams.max()} out of range, this bank holds {self.config.streams}"
            )
        return streams

    @staticmethod
    def _slots(slot: ArrayLike, streams: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(slot, np.int64), streams.shape))
