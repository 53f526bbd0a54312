"""Refinement: windows through an engine, overlapping predictions averaged, with a bounded lookahead.

The law, for a sequence of N frames, windows of W = n1 slots, radius r and lookahead L:

- Offline (Jiang et al., CVPRW 2021, section 4.2): the output of slot i is the mean of the predictions for i in the
  2r + 1 windows closest to being centred on i; the sequence is padded with copies of its first frame in front and of
  its last frame behind.
- Bounded lookahead: of the windows that contain i and end at or before slot i + L, the one closest to being centred on
  i (ties: the later) and those within r windows of it; but none that ends before slot i + min(L, 3) where L falls
  short of the offline protocol (`rtskel.refine.ring.UNSETTLED` says why). So L = 0 to L = 3 take exactly one, and
  nothing behind frame i + L is used.

Consequences that the tests check for every engine:

- `refine(x, lookahead=L)` equals pushing the frames through `Refiner(lookahead=L)` in any chunks and flushing it.
- `refine(x, lookahead=L)` equals `refine(x, lookahead=None)`, the offline protocol, for every L >= W // 2 + r. (For
  even W the two middle positions are equally central and the later window wins, so one frame more is read than
  W // 2 - 1 + r.)
- The output is equivariant to translation and uniform scale: every window is brought to its own canonical frame and
  back.
- A bad frame is forgotten once W clean frames have followed it.

A window in which no joint is known predicts nothing and takes no part; where that leaves no window, the output is 0 and
`windows` says 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.refine.ring import EngineRing, NativeRing, NumpyRing, Put, Refined, RingConfig
from rtskel.skeleton import skeleton

__all__ = ["Put", "Refined", "Refiner", "RefinerBank", "WindowEngine", "refine"]


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
    ) -> NDArray[np.float32]:
        """Canonical windows [B, W, J, 3] and which joints are missing [B, W, J] to predictions [B, P, J, 3] of the
        frames at `positions` [P] of each window.
        """

    def ring(self, config: RingConfig, /) -> EngineRing | None:
        """A ring beside the network; None where rings are the caller's."""


class RefinerBank:
    """Refines many streams at once; every step runs one engine batch that the streams share.

    Streams are indices 0..S-1, and frames carry slots: this is what a server builds on. `Refiner` is the simple face
    for one stream. Of each window's predictions the engine is asked only for those that some average takes.

    Args:
        engine: an open engine for a known skeleton; borrowed, not closed.
        lookahead: output delay or delays in frames; None is the offline protocol (the most that helps).
        radius: r; 2r + 1 windows are averaged, fewer where the lookahead allows no more.
        streams: S, how many streams are held.
        min_confidence: joints below it count as missing, as do those with confidence 0 or a NaN or infinite coordinate.
        ahead: how many slots ahead of the next window a frame may come.
        hop: windows of a stream run that many together, every `hop` frames, in one batch: the same output, up to
            hop - 1 frames later, for less time of the engine where few streams would not fill its batches.
        native: True for the C++ ring, False for its numpy twin; an engine that keeps rings itself has its own.

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
        native: bool = True,
    ) -> None:
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
        self._ring: EngineRing | NativeRing | NumpyRing = engine.ring(self.config) or (
            NativeRing if native else NumpyRing
        )(self.config)
        room = 0 if self.on_device else engine.max_batch
        self._x = np.zeros((room, self.window, self.joints, 3), np.float32)
        self._missing = np.zeros((room, self.window, self.joints), np.bool_)
        self._positions = self.config.positions
        self._furthest = max(map(self.config.reach, self.config.lookaheads))

    lifts = False
    """Whether streams may be 2D, see `lift`."""

    def lift(self, stream: int, fps: float) -> None:
        """That stream is 2D: ValueError, for this bank takes 3D poses only."""
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
        """Whether the engine keeps the rings, and windows never pass through `WindowEngine.run`."""
        return isinstance(self._ring, EngineRing)

    @property
    def compiled_ring(self) -> Any:
        """The ring, if it is in C++ and takes frames as they are given to `put`; else None."""
        return self._ring.compiled if isinstance(self._ring, NativeRing) else None

    @property
    def watermark(self) -> NDArray[np.int64]:
        """[S] the last slot up to which every frame has come or was settled, -1 at first."""
        return self._ring.watermark

    @property
    def refinable(self) -> NDArray[np.int64]:
        """[S] the last window that can run, once its hop is whole: the `watermark`, where nothing holds frames back."""
        return self._ring.watermark

    @property
    def newest(self) -> NDArray[np.int64]:
        """[S] the last slot put or settled, -1 at first."""
        return self._ring.newest

    @property
    def next_window(self) -> NDArray[np.int64]:
        """[S] the first window that has not run: (slot i, lookahead L) is out once it exceeds i + min(L, W // 2 +
        r).
        """
        return self._ring.next

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[S] whether `end` was called since the last reset."""
        return self._ring.ended

    @property
    def drained(self) -> NDArray[np.bool_]:
        """[S] whether the stream has ended and all of its output is out."""
        return self.ended & ((self._ring.next > self.newest + self._furthest) | (self.newest < 0))

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
        streams, slots, frames, sure = self._checked(stream, slot, xyz, confidence)
        status = np.empty(len(streams), np.uint8)
        self._ring.put(streams, slots, frames, sure, status)
        return status

    def _checked(
        self, stream: ArrayLike, slot: ArrayLike, xyz: ArrayLike, confidence: ArrayLike | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """The arguments of `put` as arrays; ValueError."""
        streams, slots = self._rows(stream), np.atleast_1d(np.asarray(slot, np.int64))
        xyz = np.ascontiguousarray(xyz, np.float32)
        m = len(streams)
        if slots.shape != (m,) or xyz.shape != (m, self.joints, 3):
            raise ValueError(f"slot {slots.shape} and xyz {xyz.shape} do not match {m} streams of {self.joints} joints")
        if m and slots.min() < 0:
            raise ValueError(f"slot {slots.min()} is negative")
        sure = (
            np.ones((m, self.joints), np.float32)
            if confidence is None
            else np.ascontiguousarray(confidence, np.float32)
        )
        if sure.shape != (m, self.joints):
            raise ValueError(f"confidence has shape {sure.shape}, expected {(m, self.joints)}")
        return streams, slots, xyz, sure

    def settle(self, stream: ArrayLike, slot: ArrayLike) -> None:
        """Every slot up to and including [M] `slot` of [M] `stream` counts as come; absent frames count as missing."""
        streams = self._rows(stream)
        self._ring.settle(streams, self._slots(slot, streams))

    def end(self, stream: ArrayLike, last: ArrayLike | None = None) -> None:
        """No more frames for [M] `stream` behind slot [M] `last` (default: the newest): what is due comes out, flagged
        FLUSHED.
        """
        streams = self._rows(stream)
        self._ring.end(streams, np.full(len(streams), -1, np.int64) if last is None else self._slots(last, streams))

    def reset(self, stream: ArrayLike) -> None:
        """Forget everything about [M] `stream`, output still due included: the next frame starts afresh at slot 0."""
        self._ring.reset(self._rows(stream))

    def step(self, max_windows: int | None = None) -> Refined:
        """Run one engine batch of at most `max_windows` (and `engine.max_batch`) pending windows; returns what it
        completes.

        If the engine raises, nothing has changed: the same windows are still pending.
        """
        most = self.engine.max_batch
        room = most if max_windows is None else min(max_windows, most)
        if isinstance(self._ring, EngineRing):
            return self._ring.step(room)
        n = self._ring.gather(self._x[:room], self._missing[:room])
        out = Refined.empty(self._ring.outputs, self.joints)
        if n:
            y = self.engine.run(self._x[:n], self._missing[:n], self._positions)
            if y.shape != (n, len(self._positions), self.joints, 3):
                raise ValueError(f"the engine's answer is {list(y.shape)}, not [{n}, {len(self._positions)}, ...]")
            self._ring.average(y, out)
        return out

    def skip(self, stream: ArrayLike) -> Refined:
        """Of [M] `stream` (each once), let the newest windows that can run be the next: those before them never run,
        and what they complete comes out now, averaged over fewer windows, or over none and flagged PASSTHROUGH.

        For who cannot keep up, so that the newest frames come first. Not for streams that have ended.
        """
        streams = self._rows(stream)
        first = self._ring.next[streams]
        window = np.maximum(first, self.config.whole_hops(self._ring.watermark[streams]) - self.config.hop + 1)
        reach = np.array([self.config.reach(lookahead) for lookahead in self.config.lookaheads])[:, None]
        out = Refined.empty(int(np.maximum(window - np.maximum(first, reach), 0).sum()), self.joints)
        self._ring.skip(streams, window, out)
        return out

    def _rows(self, stream: ArrayLike) -> NDArray[np.int32]:
        streams = np.atleast_1d(np.asarray(stream, np.int32))
        if streams.ndim != 1:
            raise ValueError(f"stream has shape {streams.shape}, expected one index a frame")
        if len(streams) and not (streams.min() >= 0 and streams.max() < self.config.streams):
            raise ValueError(
                f"stream {streams.min()}..{streams.max()} out of range, this bank holds {self.config.streams}"
            )
        return streams

    @staticmethod
    def _slots(slot: ArrayLike, streams: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(slot, np.int64), streams.shape))


class Refiner:
    """Refines one stream, frame by frame.

    The state is this object: `push` frames as they come and take what is ready, `flush` at the end for the tail (the
    refiner is then fresh again), `reset` to forget.

    Args:
        engine, lookahead, radius, min_confidence, hop, native: as in `RefinerBank`.

    Example:
        >>> refiner = Refiner(rtskel.open_engine(), lookahead=4)
        >>> for xyz, confidence in camera:                              # [50, 3], [50]
        ...     for pose in refiner.push(xyz, confidence).xyz:          # none for the first 4 frames, then one each
        ...         show(pose)
        >>> tail = refiner.flush()                                      # the last 4
    """

    def __init__(
        self,
        engine: WindowEngine,
        *,
        lookahead: int | Sequence[int] | None = 4,
        radius: int = 2,
        min_confidence: float = 0.0,
        hop: int = 1,
        native: bool = True,
    ) -> None:
        self._most = max(64, engine.max_batch)  # frames put at once; as many again as a hop may be waiting already
        self._bank = RefinerBank(
            engine,
            lookahead=lookahead,
            radius=radius,
            min_confidence=min_confidence,
            ahead=self._most + hop,
            hop=hop,
            native=native,
        )
        self._pushed = 0
        if not self._bank.on_device:
            # Engines get ready with the first run for these positions: not on a user's first frame.
            nothing = np.zeros((1, engine.window, engine.joints, 3), np.float32)
            engine.run(nothing, np.ones(nothing.shape[:3], np.bool_), self._bank.config.positions)

    @property
    def lookaheads(self) -> tuple[int, ...]:
        """Lookaheads in frames, in the order given."""
        return self._bank.lookaheads

    @property
    def latency(self) -> int:
        """Frames between a pose's own frame and the push that completes it, at the longest lookahead and at the most.

        A lookahead of L frames costs L / fps seconds: 4 frames at 25 fps are 160 ms. What is computed on top is the
        engine's time for one window. Lookaheads above W // 2 + r wait no longer than that, for more would change
        nothing. A hop of h adds h - 1 frames for the first of the h slots that come out together, none for the last.
        """
        return self._bank.config.latency

    def push(self, xyz: ArrayLike, confidence: ArrayLike | None = None) -> Refined:
        """Take the next frame [J, 3] or frames [n, J, 3] (confidence [J] or [n, J]) and return the poses that are
        complete now.

        A dropped frame is pushed as NaN or with confidence 0. Slots count from 0 since the refiner was fresh.

        Raises:
            ValueError: wrong shape; then nothing was taken.
        """
        frames = np.asarray(xyz, np.float32)
        sure = None if confidence is None else np.asarray(confidence, np.float32)
        if frames.ndim == 2:
            frames = frames[None]
            sure = None if sure is None else sure[None]
        if frames.ndim != 3 or frames.shape[1:] != (self._bank.joints, 3):
            raise ValueError(
                f"xyz has shape {np.asarray(xyz).shape}, expected [{self._bank.joints}, 3] or "
                f"[n, {self._bank.joints}, 3]"
            )
        if sure is not None and sure.shape != frames.shape[:2]:
            raise ValueError(f"confidence has shape {sure.shape}, expected {frames.shape[:2]}")
        done = [Refined.empty(0, self._bank.joints)]
        for first in range(0, len(frames), self._most):
            chunk = slice(first, first + self._most)
            slots = np.arange(self._pushed, self._pushed + len(frames[chunk]))
            self._bank.put(np.zeros(len(slots), np.int32), slots, frames[chunk], None if sure is None else sure[chunk])
            self._pushed += len(slots)
            done += self._run()
        return Refined.concatenate(done)

    def flush(self) -> Refined:
        """The sequence is over: return the poses still due, padded with the last frame. The refiner is fresh
        afterwards.
        """
        self._bank.end(0)
        tail = self._run()
        self.reset()
        return Refined.concatenate([Refined.empty(0, self._bank.joints), *tail])

    def reset(self) -> None:
        """Forget everything, poses still due included: as if newly made."""
        self._bank.reset(0)
        self._pushed = 0

    def _run(self) -> list[Refined]:
        done = []
        while self._bank.pending:
            done.append(self._bank.step())
        return done


def refine(
    xyz: ArrayLike,
    *,
    engine: WindowEngine,
    confidence: ArrayLike | None = None,
    lookahead: int | None = None,
    radius: int = 2,
    min_confidence: float = 0.0,
    native: bool = True,
) -> NDArray[np.float32]:
    """Refine a whole sequence.

    Args:
        xyz: [N, J, 3] positions in any unit, anywhere in space, in canonical axes (`rtskel.skeleton.to_canonical`).
            NaN: missing.
        engine: an open engine, such as `rtskel.open_engine()`.
        confidence: [N, J] in 0..1, 0 = missing; None: every joint with finite coordinates is there.
        lookahead: frames of the future that the output of a slot may use; None: the paper's offline protocol (section
            4.2).
        radius: 2 radius + 1 predictions are averaged where the lookahead allows.
        min_confidence: joints below it count as missing.

    Returns:
        [N, J, 3] float32 in the units and place of the input.

    Raises:
        ValueError: wrong shapes or an argument out of range.
    """
    frames = np.asarray(xyz, np.float32)
    if frames.ndim != 3:
        raise ValueError(f"xyz has shape {frames.shape}, expected [N, J, 3]")
    refiner = Refiner(engine, lookahead=lookahead, radius=radius, min_confidence=min_confidence, native=native)
    return np.concatenate([refiner.push(frames, confidence).xyz, refiner.flush().xyz])
