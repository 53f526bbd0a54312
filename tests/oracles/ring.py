"""The ring of `rtskel.refine.ring` in numpy: the specification that the tests compare the C++ and GPU rings with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.flags import Flag
from rtskel.refine.canonical import FAR, canonical_frames
from rtskel.refine.config import Refined, RingConfig
from rtskel.refine.ring import RingState, native_ring
from rtskel.skeleton import NECK


def ring_maker(native: bool) -> type[NumpyRing] | Any:
    """What a `RefinerBank` is given as `ring`: C++ or the specification."""
    return native_ring if native else NumpyRing


@dataclass
class _Frames:
    """Frames and predictions of one stream in `NumpyRing`."""

    xyz: NDArray[np.float32]  # [C, J, 3]
    confidence: NDArray[np.float32]  # [C, J], 0 for a missing joint
    predicted: NDArray[np.float32]  # [2r+1, P, J, 3] of window e at e % (2r+1)
    usable: NDArray[np.bool_]  # [2r+1] whether that window's prediction counts


class NumpyRing(RingState):
    """The ring in numpy: see `rtskel.refine.ring.HostRing` for its methods."""

    def __init__(self, config: RingConfig) -> None:
        super().__init__(config)
        self._positions = config.positions
        self._frames = [self._empty() for _ in range(config.streams)]
        self._plan: list[tuple[int, int]] = []  # (stream, window) in the order of the gathered batch
        self._origin = np.zeros((0, 3), np.float32)
        self._scale = np.zeros(0, np.float32)
        self._known = np.zeros(0, np.bool_)

    def _empty(self) -> _Frames:
        c, joints = self.config.capacity, self.config.skeleton.joints
        return _Frames(
            xyz=np.zeros((c, joints, 3), np.float32),
            confidence=np.zeros((c, joints), np.float32),
            predicted=np.zeros((self.config.max_windows, len(self._positions), joints, 3), np.float32),
            usable=np.zeros(self.config.max_windows, np.bool_),
        )

    def put(
        self,
        stream: NDArray[np.int32],
        slot: NDArray[np.int64],
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        status: NDArray[np.uint8],
    ) -> None:
        """Store M frames; writes what became of each into `status`."""
        for row in self._take_all(stream, slot, status).tolist():
            frames, at, sure = self._frames[stream[row]], slot[row] % self.config.capacity, confidence[row]
            valid = np.isfinite(xyz[row]).all(axis=-1) & (sure > 0) & (sure >= self.config.min_confidence)
            frames.xyz[at] = np.where(valid[:, None], xyz[row], 0)
            frames.confidence[at] = np.where(valid, np.minimum(sure, 1), 0)

    def reset(self, stream: NDArray[np.int32]) -> None:
        """Forget everything about these streams."""
        super().reset(stream)
        for s in stream.tolist():
            self._frames[s] = self._empty()

    def gather(self, x: NDArray[np.float32], missing: NDArray[np.bool_]) -> int:
        """Fill up to B canonical windows, x [B, W, J, 3] and missing [B, W, J], streams sharing the batch fairly.

        Returns how many were filled. Nothing is decided until `average`: without it, the same windows come again.
        """
        self._plan = self._share(len(x))
        if not self._plan:
            return 0
        w = self.config.window
        frames = np.empty((len(self._plan), w, *x.shape[2:]), np.float32)
        valid = np.empty((len(self._plan), w, x.shape[2]), np.bool_)
        for row, (s, e) in enumerate(self._plan):
            st, kept = self._streams[s], self._frames[s]
            slots = np.arange(e - w + 1, e + 1).clip(0, st.last if st.ended else None)
            at = slots % self.config.capacity
            here = st.slot[at] == slots
            valid[row] = here[:, None] & (kept.confidence[at] > 0)
            frames[row] = np.where(valid[row][..., None], kept.xyz[at], 0)
        self._origin, self._scale, self._known = canonical_frames(frames, valid, self.config.skeleton)
        n = len(self._plan)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = (frames - self._origin[:, None, None]) * self._scale[:, None, None, None]
            valid &= (np.abs(moved) <= FAR).all(axis=-1)
        self._known &= valid.any(axis=(1, 2))
        x[:n] = np.where(valid[..., None], moved, 0)
        missing[:n] = ~valid
        return n

    @property
    def outputs(self) -> int:
        """How many outputs the gathered windows complete."""
        return sum(len(self._completed(s, e)) for s, e in self._plan)

    def average(self, y: NDArray[np.float32], /, *columns: NDArray[Any]) -> None:
        """Take the predictions y [B, P, J, 3] of the gathered windows at `RingConfig.positions` and write the `outputs`
        rows they complete.
        """
        out, row = Refined(*columns), 0
        for b, (s, e) in enumerate(self._plan):
            kept, at = self._frames[s], e % self.config.max_windows
            with np.errstate(over="ignore", invalid="ignore"):
                kept.predicted[at] = y[b] / self._scale[b] + self._origin[b]
            kept.usable[at] = self._known[b] and bool(np.isfinite(kept.predicted[at]).all())
            for lookahead in self._completed(s, e):
                self._write(s, e, lookahead, out, row)
                row += 1
            self._pass(s, e)
        self._plan = []

    def _write(self, s: int, e: int, lookahead: int, out: Refined, row: int) -> None:
        cfg, st, kept = self.config, self._streams[s], self._frames[s]
        reach, count = cfg.reach(lookahead), cfg.windows(lookahead)
        i = e - reach
        ends = np.arange(e - count + 1, e + 1)
        ends = ends[kept.usable[ends % cfg.max_windows]]
        column = np.searchsorted(self._positions, cfg.window - 1 - (ends - i))
        predictions = kept.predicted[ends % cfg.max_windows, column].astype(np.float64)  # [n, J, 3]
        if len(ends):
            mean = predictions.mean(axis=0)
            out.xyz[row] = mean
            sigma = np.sqrt(np.square(predictions - mean).sum(axis=-1).mean(axis=0))
            out.sigma[row] = np.minimum(sigma, np.finfo(np.float32).max)  # further apart than any float says
        else:
            out.xyz[row] = 0
            out.sigma[row] = 0
        at = i % cfg.capacity
        out.confidence[row] = kept.confidence[at] if st.slot[at] == i else 0
        out.stream[row], out.slot[row], out.lookahead[row], out.windows[row] = s, i, lookahead, len(ends)
        flags = self._flags(s, e, count)
        if not out.confidence[row].any():
            flags |= Flag.INTERPOLATED
        if len(ends) < count:
            flags |= Flag.PARTIAL_AVERAGE
        out.flags[row] = flags

    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], /, *columns: NDArray[Any]) -> None:
        """Of these streams, windows before `window` that have not run will not: write what they complete.

        Averages take the windows that did run. Where there is none, the frame passes through as it came, its missing
        joints at the neck; where nothing came either, the last one in which somebody was seen.
        """
        out, row = Refined(*columns), 0
        for s, end in zip(stream.tolist(), window.tolist(), strict=True):
            for e in range(self._streams[s].next, end):
                self._frames[s].usable[e % self.config.max_windows] = False
                for lookahead in self._completed(s, e):
                    self._write(s, e, lookahead, out, row)
                    if not out.windows[row]:
                        self._pass_through(s, e - self.config.reach(lookahead), out, row)
                    row += 1
                self._pass(s, e)

    def _pass_through(self, s: int, i: int, out: Refined, row: int) -> None:
        st, kept = self._streams[s], self._frames[s]
        for j in range(i, max(-1, i - self.config.window), -1):
            at = j % self.config.capacity
            if st.slot[at] == j and kept.confidence[at].any():
                there = kept.confidence[at] > 0
                out.xyz[row] = np.where(there[:, None], kept.xyz[at], kept.xyz[at, NECK])
                break
        out.flags[row] |= Flag.PASSTHROUGH
