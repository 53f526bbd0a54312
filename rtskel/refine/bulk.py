"""Whole sequences side by side: for engines that are only fast in large batches."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.closing import Closing
from rtskel.refine.bank import RefinerBank, WindowEngine
from rtskel.refine.config import Refined

STREAMS = 64
"""Sequences that are refined at once."""


class _Sequence:
    """A sequence on its way: its frames, and room for every pose of it."""

    def __init__(self, xyz: NDArray[np.float32], confidence: NDArray[np.float32]) -> None:
        self.xyz, self.confidence = xyz, confidence
        self.out = Refined.empty(len(xyz), xyz.shape[1])
        self.fed = self.kept = 0
        self.done: Future[Refined] = Future()


class BulkRefiner(Closing):
    """Refines whole sequences side by side, in one bank.

    Any number of threads call `refine`; each waits for its own sequence, while a thread of this object fills the
    engine's batches from all of them. Where the engine keeps the rings, frames go up once, windows, network and
    averages stay on its device, and the next step is packed while one runs.

    Poses are those of `rtskel.refine.refine`, bit for bit where the engine computes a window alike in batches of any
    size, as engines on a CPU do. On a GPU the last bits may differ with what else is in the batch's size.

    Args:
        engine, lookahead, radius, min_confidence: as in `RefinerBank`; one lookahead.
        streams: sequences that are refined at once; others wait.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        engine: WindowEngine,
        *,
        lookahead: int | None = None,
        radius: int = 2,
        min_confidence: float = 0.0,
        streams: int = STREAMS,
    ) -> None:
        self.engine = engine
        self._ahead = max(64, 4 * engine.max_batch // max(streams, 1))
        self._bank = RefinerBank(
            engine,
            lookahead=lookahead,
            radius=radius,
            streams=streams,
            min_confidence=min_confidence,
            ahead=self._ahead,
        )
        self._running: dict[int, _Sequence] = {}
        self._free = list(range(streams))
        self._flying = 0
        self._waiting: deque[_Sequence] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._drive, name="bulk refinement", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; sequences that are not done fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def submit(self, xyz: ArrayLike, confidence: ArrayLike | None = None) -> Future[Refined]:
        """As `refine`, without waiting."""
        frames = np.ascontiguousarray(xyz, np.float32)
        joints = self._bank.joints
        if frames.ndim != 3 or frames.shape[1:] != (joints, 3):
            raise ValueError(f"xyz has shape {frames.shape}, expected [N, {joints}, 3]")
        given = np.ones(frames.shape[:2], np.float32) if confidence is None else confidence
        sure = np.ascontiguousarray(given, np.float32)
        if sure.shape != frames.shape[:2]:
            raise ValueError(f"confidence has shape {sure.shape}, expected {frames.shape[:2]}")
        sequence = _Sequence(frames, sure)
        if not len(frames):
            sequence.done.set_result(sequence.out)
            return sequence.done
        with self._changed:
            if self._closed:
                raise ValueError("the refiner is closed")
            self._waiting.append(sequence)
            self._changed.notify()
        return sequence.done

    def refine(self, xyz: ArrayLike, confidence: ArrayLike | None = None) -> Refined:
        """Refine a whole sequence: every pose of it, slots 0 to N - 1.

        Args:
            xyz: [N, J, 3] positions in any unit, in canonical axes. NaN: missing.
            confidence: [N, J] in 0..1, 0 = missing; None: every joint with finite coordinates is there.

        Raises:
            ValueError: wrong shapes, or this refiner is closed.
            EngineError: the engine failed.
        """
        return self.submit(xyz, confidence).result()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        while self._admit():
            try:
                self._feed()
                self._keep(self._step())
            except Exception as error:
                self._fail(error)
        self._fail(ValueError("the refiner was closed"))

    def _admit(self) -> bool:
        """Gives waiting sequences a stream, and waits while there is none; False: it is closed."""
        with self._changed:
            while not (self._running or self._waiting or self._closed):
                self._changed.wait()
            while self._waiting and self._free:
                self._running[self._free.pop()] = self._waiting.popleft()
            return not self._closed

    def _feed(self) -> None:
        """Puts frames, no more than a batch has room for: first those of streams that have the fewest waiting, as many
        as these may have.
        """
        bank, room = self._bank, self._bank.engine.max_batch
        next_window = bank.next_window
        hungry = [(sequence.fed - int(next_window[stream]), stream) for stream, sequence in self._running.items()]
        for _, stream in sorted(hungry):
            sequence = self._running[stream]
            total = len(sequence.xyz)
            end = min(total, int(next_window[stream]) + self._ahead, sequence.fed + room)
            if (count := end - sequence.fed) <= 0:
                continue
            part = slice(sequence.fed, end)
            bank.put(
                np.full(count, stream, np.int32),
                np.arange(part.start, end),
                sequence.xyz[part],
                sequence.confidence[part],
            )
            sequence.fed, room = end, room - count
            if end == total:
                bank.end(stream)
            if not room:
                return

    def _step(self) -> Refined:
        """What a step completes; where the engine keeps the rings, the next step is on its way by then."""
        bank = self._bank
        if not bank.on_device:
            return bank.step()
        submitted = bank.submit()
        self._flying += submitted
        if self._flying == 2 or (self._flying and not submitted):
            self._flying -= 1
            return bank.collect()
        return Refined.empty(0, bank.joints)

    def _keep(self, out: Refined) -> None:
        """Puts poses in their places, and hands out what is complete."""
        if not len(out):
            return
        breaks = np.flatnonzero((np.diff(out.stream) != 0) | (np.diff(out.slot) != 1)) + 1
        for first, end in pairwise([0, *breaks.tolist(), len(out)]):
            stream, slot = int(out.stream[first]), int(out.slot[first])
            sequence = self._running[stream]
            for to, column in zip(sequence.out.columns, out.columns, strict=True):
                to[slot : slot + end - first] = column[first:end]
            sequence.kept += end - first
            if sequence.kept == len(sequence.xyz):
                self._bank.reset(stream)
                self._free.append(stream)
                del self._running[stream]
                sequence.out.stream[:] = 0
                sequence.done.set_result(sequence.out)

    def _fail(self, error: Exception) -> None:
        """Sequences that run fail; where the engine keeps the rings, nothing is known of them any more: all fail."""
        with self._changed:
            self._closed = self._closed or self._bank.on_device
            failed = [*self._running.values()]
            if self._closed:
                failed += self._waiting
                self._waiting.clear()
            else:
                self._bank.reset(list(self._running))
            self._free += self._running
            self._running.clear()
        for sequence in failed:
            sequence.done.set_exception(error)
