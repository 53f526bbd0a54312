"""Refinement of one stream (`Refiner`) or one whole sequence (`refine`), and the law that both keep.

The law, for a sequence of N frames, windows of W = n1 slots, radius r and lookahead L:

- Offline (Jiang et al., CVPRW 2021, section 4.2): the output of slot i is the mean of the predictions for i in the
  2r + 1 windows closest to being centred on i; the sequence is padded with copies of its first frame before it and of
  its last frame after it.
- Bounded lookahead: of the windows that contain i and end at or before slot i + L, the one closest to being centred on
  i (ties: the later) and those within r windows of it; but where L falls short of the offline protocol, none that ends
  before slot i + min(L, 3) (`rtskel.refine.config.MIN_SEEN` says why). So L = 0 to L = 3 take exactly one, and nothing
  after frame i + L is used.

Consequences that the tests check for every engine:

- `refine(x, lookahead=L)` equals pushing the frames through `Refiner(lookahead=L)` in any chunks and flushing it.
- `refine(x, lookahead=L)` equals `refine(x, lookahead=None)`, the offline protocol, for every L >= W // 2 + r. (For
  even W the two middle positions are equally central and the later window wins, so one frame more is read than
  W // 2 - 1 + r.)
- The output is equivariant to translation and uniform scale: every window is moved to its own canonical frame and back.
- A bad frame is forgotten once W clean frames have followed it.

A window in which no joint is known predicts nothing and is not averaged; where that leaves no window, the output is 0
and `windows` says 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.refine.bank import RefinerBank, WindowEngine
from rtskel.refine.config import Refined, RingConfig
from rtskel.refine.ring import HostRing, native_ring


class Refiner:
    """Refines one stream, frame by frame.

    The state is this object: `push` frames as they come and take what is ready, `flush` at the end for the tail (the
    refiner is then fresh again), `reset` to forget.

    Args:
        engine, lookahead, radius, min_confidence, hop, ring: as in `RefinerBank`.

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
        ring: Callable[[RingConfig], HostRing] = native_ring,
    ) -> None:
        self._max_put = max(64, engine.max_batch)  # frames put at once; as many again as a hop may be waiting already
        self._bank = RefinerBank(
            engine,
            lookahead=lookahead,
            radius=radius,
            min_confidence=min_confidence,
            ahead=self._max_put + hop,
            hop=hop,
            ring=ring,
        )
        self._pushed = 0
        if not self._bank.on_device:
            # Engines prepare with the first run for these positions: not on a user's first frame.
            nothing = np.zeros((1, engine.window, engine.joints, 3), np.float32)
            engine.run(nothing, np.ones(nothing.shape[:3], np.bool_), self._bank.config.positions)

    @property
    def lookaheads(self) -> tuple[int, ...]:
        """Lookaheads in frames, in the order given."""
        return self._bank.lookaheads

    @property
    def latency(self) -> int:
        """The most frames between a pose's own frame and the push that completes it, at the longest lookahead.

        A lookahead of L frames costs L / fps seconds: 4 frames at 25 fps are 160 ms. The engine's time for one window
        comes on top. Lookaheads above W // 2 + r wait no longer than that, because more would change nothing. A hop of
        h adds h - 1 frames for the first of the h slots that come out together, none for the last.
        """
        return self._bank.config.latency

    def push(self, xyz: ArrayLike, confidence: ArrayLike | None = None) -> Refined:
        """Take the next frame [J, 3] or frames [n, J, 3] (confidence [J] or [n, J]); return the poses complete now.

        A dropped frame is pushed as NaN or with confidence 0. Slots count from 0 since the refiner was fresh.

        Raises:
            ValueError: wrong shape; then nothing was taken.
        """
        joints = self._bank.joints
        frames = np.asarray(xyz, np.float32)
        confidences = None if confidence is None else np.asarray(confidence, np.float32)
        if frames.ndim == 2:
            frames = frames[None]
            confidences = None if confidences is None else confidences[None]
        if frames.ndim != 3 or frames.shape[1:] != (joints, 3):
            raise ValueError(f"xyz has shape {np.asarray(xyz).shape}, expected [{joints}, 3] or [n, {joints}, 3]")
        if confidences is None:
            confidences = np.ones(frames.shape[:2], np.float32)
        elif confidences.shape != frames.shape[:2]:
            raise ValueError(f"confidence has shape {confidences.shape}, expected {frames.shape[:2]}")
        done = [Refined.empty(0, joints)]
        for first in range(0, len(frames), self._max_put):
            chunk = slice(first, first + self._max_put)
            slots = np.arange(self._pushed, self._pushed + len(frames[chunk]))
            self._bank.put(np.zeros(len(slots), np.int32), slots, frames[chunk], confidences[chunk])
            self._pushed += len(slots)
            done += self._run()
        return Refined.concatenate(done)

    def flush(self) -> Refined:
        """End the sequence: return the poses still due, padded with the last frame. The refiner is then fresh."""
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
    ring: Callable[[RingConfig], HostRing] = native_ring,
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
        ring: see `RefinerBank`.

    Returns:
        [N, J, 3] float32 in the units and place of the input.

    Raises:
        ValueError: wrong shapes or an argument out of range.
    """
    frames = np.asarray(xyz, np.float32)
    if frames.ndim != 3:
        raise ValueError(f"xyz has shape {frames.shape}, expected [N, J, 3]")
    refiner = Refiner(engine, lookahead=lookahead, radius=radius, min_confidence=min_confidence, ring=ring)
    return np.concatenate([refiner.push(frames, confidence).xyz, refiner.flush().xyz])
