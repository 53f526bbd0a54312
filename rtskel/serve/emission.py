"""Engine batches: which windows run, which are left out in overload, and what comes out of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtskel.refine import Refined
from rtskel.serve.common import Common
from rtskel.serve.reports import SECOND
from rtskel.serve.stream import Stream
from rtskel.wire import Flag

_LOOK_EVERY = SECOND // 100
"""How often at the most it is asked which streams are behind."""


@dataclass(slots=True)
class Emission:
    """The refined poses that one engine batch completed, a row each; see `rtskel.wire.RefinedBatch`.

    Attributes:
        place: [M] int32, see `StreamTable.sample`.
        lookahead: [M] int32.
        numbers: [M, 6] int64.
        xyz: [M, J, 3] float32. confidence, sigma: [M, J] float32.
        infer_start_ns, infer_end_ns: around the engine's run.
    """

    place: NDArray[np.int32]
    lookahead: NDArray[np.int32]
    numbers: NDArray[np.int64]
    xyz: NDArray[np.float32]
    confidence: NDArray[np.float32]
    sigma: NDArray[np.float32]
    infer_start_ns: int
    infer_end_ns: int

    def __len__(self) -> int:
        return len(self.place)

    @property
    def missing(self) -> NDArray[np.bool_]:
        """[M, J] the joints that were not seen."""
        return np.equal(self.confidence, 0)

    def select(self, rows: NDArray[np.bool_]) -> Emission:
        """Some of the rows."""
        return Emission(
            *(self.place[rows], self.lookahead[rows], self.numbers[rows], self.xyz[rows], self.confidence[rows]),
            *(self.sigma[rows], self.infer_start_ns, self.infer_end_ns),
        )


class Batches:
    """Runs the bank's engine batches.

    Args:
        common: the streams.

    Attributes:
        frames_out: poses that came out.
    """

    def __init__(self, common: Common) -> None:
        self._common, self._bank, self._arrays = common, common.bank, common.arrays
        self.frames_out = 0
        self._behind = common.config.behind_s * SECOND
        self._look_at = 0.0 if self._behind < math.inf else math.inf  # when to see again who is behind
        self._hurried = False  # windows were left out, and the engine has not been done with all since
        self._failed = False  # whether the engine ever did
        self._unseen: dict[int, Stream] = {}  # streams in which nobody has been seen for long, by place
        self._reach = {lookahead: self._bank.config.reach(lookahead) for lookahead in self._bank.lookaheads}

    def run(
        self,
        deliver: Callable[[Emission], None],
        clock: Callable[[], int],
        engine_times: Callable[[], tuple[int, int]] | None,
        crowded: bool,
    ) -> int:
        """See `StreamTable.run`; returns when the batch ended, in ns."""
        start = clock()
        if start >= self._look_at and self._bank.pending > 1:  # one alone is the newest
            skipped = self._leave_out(start, hurry=crowded or self._hurried)
            if skipped is not None:
                self._deliver(skipped, start, start, deliver)
        refined = self._bank.step()
        end = clock()
        if engine_times is not None:
            start, end = engine_times()
        self._deliver(refined, start, end, deliver)
        return end

    def leave_out(self, deliver: Callable[[Emission], None], now: int) -> None:
        """See `StreamTable.leave_out`."""
        if self._behind < math.inf and (skipped := self._leave_out(now, hurry=True)) is not None:
            self._deliver(skipped, now, now, deliver)

    def _deliver(self, refined: Refined, start: int, end: int, deliver: Callable[[Emission], None]) -> None:
        if len(refined) and len(emission := self._emission(refined, start, end)):
            deliver(emission)

    def rest(self) -> None:
        """A turn is over: where the engine has caught up, nothing is hurried any more."""
        self._hurried = self._hurried and self._bank.pending > 0

    def failed(self, error: str, now: int) -> None:
        """The engine did not refine its batch: what these windows complete, now or later, is flagged PASSTHROUGH."""
        self._failed = True
        used = slice(self._common.places.used)
        # Any window that could run may have been in that batch; the outputs of the 2r following windows average it in.
        tail = np.where(self._arrays.live[used], 0, self._common.furthest)
        self._arrays.faulty[used] = self._bank.refinable[used] + tail + 2 * self._bank.radius
        detail = f"engine failed, poses pass through unrefined: {error}"
        self._common.reports.offend("", "engine", detail, now)

    def _leave_out(self, now: int, *, hurry: bool) -> Refined | None:
        """Of live streams whose next window has waited for that long, the newest first: what older ones complete. In a
        hurry, also of streams that have more than their share waiting (`Room.beyond`), however short a time.
        """
        bank, used = self._bank, self._common.places.used
        self._look_at = now + _LOOK_EVERY
        following, refinable = bank.next_window, bank.refinable
        places = self._arrays.behind(used, following, refinable, now - self._behind)
        if hurry:
            waiting = np.maximum(refinable[:used] + 1 - following[:used], 0)
            some = self._arrays.behind(used, following, refinable, now)
            tails = np.zeros_like(waiting)
            for stream in self._common.draining:
                tails[stream.place] = (
                    stream.segment.last + self._common.furthest - max(following[stream.place] - 1, stream.segment.last)
                )
            places = np.union1d(places, some[self._common.room.beyond(waiting, tails)[some]])
        if not len(places):
            return None
        before = bank.next_window[places]
        skipped = bank.skip(places)
        if windows := int((bank.next_window[places] - before).sum()):
            self._hurried = True
            detail = f"the engine is behind: {windows} windows of {len(places)} streams left out for newer ones"
            self._common.reports.offend("", "overload", detail, now, windows)
        return skipped

    def _emission(self, refined: Refined, start: int, end: int) -> Emission:
        arrays, place, slot = self._arrays, refined.stream, refined.slot
        if self._failed:  # looked at once a batch: for hundreds of streams this is most of what Python does
            reach = np.array([self._reach[lookahead] for lookahead in refined.lookahead.tolist()], np.int64)
            failed = slot + reach <= arrays.faulty[place]
            np.bitwise_or(refined.flags, np.uint32(Flag.PASSTHROUGH), out=refined.flags, where=failed)
        config = self._common.config
        numbers, keep = arrays.emit(refined, self._bank.lookaheads, config.max_gap, unseen=config.unseen)
        xyz, confidence, sigma = refined.xyz, refined.confidence, refined.sigma
        emission = Emission(place, refined.lookahead, numbers, xyz, confidence, sigma, start, end)
        if self._unseen or keep is not None:
            keep = np.ones(len(slot), np.bool_) if keep is None else keep
            self._tell_unseen(emission, slot, keep, end)
            emission = emission.select(keep)
        self.frames_out += len(emission)
        return emission

    def _tell_unseen(self, emission: Emission, slot: NDArray[np.int64], keep: NDArray[np.bool_], now: int) -> None:
        """Events `lost` and `found`, by the shortest lookahead, from the first frame on."""
        first = (emission.lookahead == min(self._bank.lookaheads)) & (slot >= self._arrays.first[emission.place])
        for row in np.flatnonzero(first).tolist():
            place = int(emission.place[row])
            stream = self._common.places[place]
            unseen = self._unseen.get(place) is stream
            if keep[row] == (not unseen):
                continue
            kind, detail = ("lost", "nobody is seen") if not keep[row] else ("found", "somebody is seen again")
            self._common.reports.event(stream.name, kind, detail, int(emission.numbers[row, 0]), now)
            if keep[row]:
                del self._unseen[place]
            else:
                self._unseen[place] = stream
