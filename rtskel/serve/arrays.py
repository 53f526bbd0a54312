"""What the server keeps of its streams by place, so that whole batches of frames are dealt with at once.

A place is the index of a stream in the bank's ring and in these arrays, as long as frames of it come. The arrays belong
to the compiled part (engines/native/stream_arrays.h), which does what is done for every frame; here are views of them,
which the streams read and write where they begin, end or change.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rtskel.flags import Flag
from rtskel.refine import Refined
from rtskel.serve.arrival import FOLLOW, PACE_MEMORY, PACE_TOLERANCE, ArrivalClock

if TYPE_CHECKING:
    from rtskel.serve.stream import Stream

Places: TypeAlias = NDArray[np.int32]
"""[M] places."""

Slots: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[np.float64]


_HELD, _UNSEEN = int(Flag.HELD), int(Flag.UNSEEN)


class StreamArrays:
    """The streams at places 0..places-1.

    Args:
        places: how many.
        ring: how many slots are remembered of each.
        lookaheads: how many there are.

    Attributes:
        arrival: when the streams' slots are due.
        live: whether deadlines apply.
        until: when an end or a held frame is decided, in ns.
        newest: last slot for which a frame came.
        first: slot of the first frame that came.
        heard: when the last accepted message was read.
        origin: frame number of slot 0.
        timed: whether slots come from timestamps.
        lossless: whether every frame counts: windows run however late, and no slot is given up before a later one came.
        base: number in the output of slot 0.
        flags: of slot 0.
        faulty: outputs completed by windows up to this one are not refined.
        axes: [places, 3], see `rtskel.skeleton.signed_axes`.
        slot, received, captured: [places, ring], by slot % ring, for slots not yet emitted: the slot whose frame came,
            when it was read and when it was captured.
        compiled: the compiled part.
    """

    def __init__(self, places: int, ring: int, lookaheads: int) -> None:
        self.compiled = self._made(places, ring, lookaheads)
        self.ring = ring
        self.arrival: ArrivalClock = self.compiled.clock
        self.live: NDArray[np.bool_] = self.compiled.live.view(np.bool_)
        self.timed: NDArray[np.bool_] = self.compiled.timed.view(np.bool_)
        self.lossless: NDArray[np.bool_] = self.compiled.lossless.view(np.bool_)
        self.until: Times = self.compiled.until
        self.newest: Slots = self.compiled.newest
        self.first: Slots = self.compiled.first
        self.heard: Slots = self.compiled.heard
        self.origin: Slots = self.compiled.origin
        self.base: Slots = self.compiled.base
        self.faulty: Slots = self.compiled.faulty
        self.flags: NDArray[np.uint32] = self.compiled.flags
        self.axes: NDArray[np.int8] = self.compiled.axes
        self.slot: Slots = self.compiled.slot
        self.received: Slots = self.compiled.received
        self.captured: Slots = self.compiled.captured

    @staticmethod
    def _made(places: int, ring: int, lookaheads: int) -> Any:
        from rtskel import native

        return native.StreamArrays(places, ring, lookaheads, FOLLOW, PACE_MEMORY, PACE_TOLERANCE)

    def came(
        self,
        place: Places,
        slot: Slots,
        read: Slots,
        captured: Slots,
        before: Slots,
        status: NDArray[np.uint8],
        watermark: Slots,
    ) -> None:
        """Accepted frames [M] were given to the ring, which said `status` (see `rtskel.refine.Put`): remember those
        that it took, and let the arrival of all set the clocks. `before` [M] and `watermark` [places] are the last
        complete slots before and now.
        """
        self.compiled.came(place, slot, read, captured, before, status, watermark)

    def deadlines(self, used: int, watermark: Slots, slack: float, hole: float, young: int, gap: int) -> Times:
        """[used] when the first slot that is not complete has to be given up, or something else be decided.

        Where no later frame came, streams have at most `gap` slots given up, and no more than they had, none if these
        are fewer than `young`; then they wait until `gap` slots are over, and those of a recording for ever. Where one
        came, they wait for `hole` (and the slack) after it at the longest.
        """
        deadlines = np.empty(used)
        self.compiled.deadlines(used, watermark, slack, hole, young, gap, deadlines)
        return deadlines

    def overtaken(self, place: int, complete: int, time: float) -> int:
        """The last slot that is waited for no longer, because a frame behind it came by that time; `complete`, the last
        complete one, if there is none.
        """
        return int(self.compiled.overtaken(place, complete, time))

    def pause(self, ns: int) -> None:
        """That long nothing could be read: all that was due then is due later."""
        self.compiled.pause(float(ns))

    def turn_in(self, place: Places, xyz: NDArray[np.float32]) -> None:
        """Turn poses [M, J, 3] from the axes of their streams [M] into canonical ones, in place."""
        self.compiled.turn_in(place, xyz)

    def behind(self, used: int, following: Slots, watermark: Slots, limit: float) -> Slots:
        """The places, below `used`, of live streams that have several windows waiting, `following` to `watermark`
        [places], and read the first frame that came of these before the time `limit`. Where none came, all of them
        were given up, and the stream's last frame counts.
        """
        places = np.empty(used, np.int64)
        return places[: self.compiled.behind(used, following, watermark, limit, places)]

    def waiting(self, used: int, following: Slots, last: Slots) -> int:
        """How many windows wait to run at the places below `used`, `following` to `last` [places], but for those after
        the last frame that came.
        """
        return int(self.compiled.waiting(used, following, last))

    def emit(
        self, refined: Refined, lookaheads: Sequence[int], gap: int, *, unseen: bool
    ) -> tuple[Slots, NDArray[np.bool_] | None]:
        """What is said of poses [M] that come out at some of these lookaheads; they are turned into the axes of their
        streams, in place.

        Where nothing is known of a slot, the last known pose takes its place, flagged HELD, for at most `gap` slots.

        Returns:
            [M, 6] the columns of `rtskel.wire.RefinedBatch.numbers`, and [M] which of the poses there are, None: all.
            Where nothing is known for longer there is none, and no number is used; or, where poses are `unseen`, one
            without coordinates, flagged UNSEEN.
        """
        numbers = np.empty((len(refined), 6), np.int64)
        left = self.compiled.emit(*refined.columns, lookaheads, gap, _HELD, _UNSEEN if unseen else 0, numbers)
        return numbers, np.array(self.compiled.kept(), np.bool_) if left else None


class PlaceTable:
    """Which stream holds which place."""

    def __init__(self, places: int) -> None:
        self._streams: list[Stream | None] = [None] * places
        self._free = list(range(places))  # a heap: low places first, so that loops over the used ones stay short
        self.used = 0
        """Places from here up are free."""

    def __len__(self) -> int:
        return len(self._streams) - len(self._free)

    def __getitem__(self, place: int) -> Stream:
        stream = self._streams[place]
        assert stream is not None
        return stream

    @property
    def free(self) -> int:
        """How many places nobody holds."""
        return len(self._free)

    def take(self, stream: Stream) -> int:
        """The lowest free place, for that stream."""
        place = heapq.heappop(self._free)
        self._streams[place] = stream
        self.used = max(self.used, place + 1)
        return place

    def give_back(self, place: int) -> None:
        """It is free for another."""
        self._streams[place] = None
        heapq.heappush(self._free, place)
        while self.used and self._streams[self.used - 1] is None:
            self.used -= 1
