"""What the server keeps of its streams by place, so that whole batches of frames are dealt with at once.

The arrays are here; `rtskel.serve.table` reads and writes them where a stream begins, ends or changes. What is done for
every frame is a method, in C++ (engines/native/stream_arrays.h) or in numpy, which is the specification; the same
tests run both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.refine import Put
from rtskel.serve.arrival import FOLLOW, PACE_MEMORY, PACE_TOLERANCE, ArrivalClock, Slots, Times
from rtskel.skeleton import turned_in, turned_out

Rows = NDArray[np.int32]
"""[M] places."""

_CANONICAL = (1, 2, 3)


class StreamArrays:
    """The books of the streams at places 0..places-1.

    Args:
        places: how many.
        ring: how many slots are remembered of each.
        native: in C++, or in numpy.

    Attributes:
        arrival: when the streams' slots are due.
        live: whether deadlines apply.
        until: when an end or a held frame is decided, in ns.
        newest: last slot for which a frame came.
        heard: when the last accepted message was read.
        origin: frame number of slot 0.
        timed: whether slots come from timestamps.
        lossless: whether every window counts, however late.
        base: number in the output of slot 0.
        flags: of slot 0.
        faulty: outputs completed by windows up to this one are not refined.
        axes: [places, 3], see `rtskel.skeleton.signed_axes`.
        compiled: the inner part, if it is in C++.
        slot, received, captured: [places, ring], by slot % ring, for slots not yet emitted: the slot whose frame came,
            when it was read and when it was captured.
    """

    def __init__(self, places: int, ring: int, *, native: bool = True) -> None:
        self.arrival = ArrivalClock(places)
        self.live = np.zeros(places, np.bool_)
        self.until = np.full(places, math.inf)
        self.newest = np.full(places, -1, np.int64)
        self.heard = np.zeros(places, np.int64)
        self.origin = np.zeros(places, np.int64)
        self.timed = np.zeros(places, np.bool_)
        self.lossless = np.zeros(places, np.bool_)
        self.base = np.zeros(places, np.int64)
        self.flags = np.zeros(places, np.uint32)
        self.faulty = np.full(places, -1, np.int64)
        self.axes = np.tile(np.array(_CANONICAL, np.int8), (places, 1))
        self.ring = ring
        self.slot = np.full((places, ring), -1, np.int64)
        self.received = np.zeros((places, ring), np.int64)
        self.captured = np.zeros((places, ring), np.int64)
        self.compiled: Any = None
        if native:
            from rtskel import _native

            self.compiled = _native.StreamArrays(self, self.arrival, FOLLOW, PACE_MEMORY, PACE_TOLERANCE)
        self._each = self.compiled or _NumpyStreamArrays(self)

    def slots(self, place: Rows, number: Slots, time: Slots, jump: int, most: int) -> tuple[Slots, bool]:
        """[M] the slots of numbered frames, and whether all of them just follow: none is before slot 0 or more than
        `jump` beyond the stream's newest, and no number or time is above `most`.
        """
        slots = np.empty(len(place), np.int64)
        return slots, bool(self._each.slots(place, number, time, jump, most, slots))

    def follow(self, place: Rows, slot: Slots, number: Slots, time: Slots, jump: int, most: int) -> NDArray[np.bool_]:
        """[M] which of the frames just follow, see `slots`."""
        within = (slot >= 0) & (slot <= self.newest[place] + jump)
        return np.asarray(within & (np.maximum(number, time) <= most))

    def accept(self, place: Rows, slot: Slots, read: Slots) -> None:
        """Frames [M] were read at these times."""
        self._each.accept(place, slot, read)

    def came(
        self,
        place: Rows,
        slot: Slots,
        read: Slots,
        captured: Slots,
        before: Slots,
        status: NDArray[np.uint8],
        watermark: Slots,
    ) -> None:
        """Accepted frames [M] were given to the ring, which said `status` (see `rtskel.refine.ring.Put`): remember
        those that it took, and let the arrival of all set the clocks. `before` [M] and `watermark` [places] are the
        last complete slots before and now.
        """
        self._each.came(place, slot, read, captured, before, status, watermark)

    def deadlines(self, used: int, watermark: Slots, slack: float) -> Times:
        """[used] when the first slot that is not complete has to be given up, or something else be decided."""
        deadlines = np.empty(used)
        self._each.deadlines(used, watermark, slack, deadlines)
        return deadlines

    def turned(self, place: Rows) -> bool:
        """Whether any of these streams has axes that are not canonical."""
        return bool(self._each.turned(place))

    def turn_in(self, place: Rows, xyz: NDArray[np.float32]) -> None:
        """Turn poses [M, J, 3] from the axes of their streams [M] into canonical ones, in place."""
        self._each.turn_in(place, xyz)

    def turn_out(self, place: Rows, xyz: NDArray[np.float32]) -> None:
        """The inverse of `turn_in`."""
        self._each.turn_out(place, xyz)

    def behind(self, used: int, following: Slots, watermark: Slots, limit: float) -> Slots:
        """The places, below `used`, of live streams that have several windows waiting, `following` to `watermark`
        [places], and read the newest frame of the first of them before the time `limit`.
        """
        places = np.empty(used, np.int64)
        return places[: self._each.behind(used, following, watermark, limit, places)]

    def numbers(self, place: Rows, slot: Slots, windows: NDArray[np.int32], flags: NDArray[np.uint32]) -> Slots:
        """[M, 6] the columns of `rtskel.wire.RefinedBatch.numbers` for slots that come out; slot 0's own flags are
        added to these.
        """
        numbers = np.empty((len(place), 6), np.int64)
        self._each.numbers(place, slot, windows, flags, numbers)
        return numbers


class _NumpyStreamArrays:
    """What `StreamArrays` does for every frame, in numpy."""

    def __init__(self, books: StreamArrays) -> None:
        self._books = books

    def slots(self, place: Rows, number: Slots, time: Slots, jump: int, most: int, out: Slots) -> bool:
        np.subtract(number, self._books.origin[place], out=out)
        return bool(self._books.follow(place, out, number, time, jump, most).all())

    def accept(self, place: Rows, slot: Slots, read: Slots) -> None:
        self._books.heard[place] = read
        np.maximum.at(self._books.newest, place, slot)

    def came(
        self,
        place: Rows,
        slot: Slots,
        read: Slots,
        captured: Slots,
        before: Slots,
        status: NDArray[np.uint8],
        watermark: Slots,
    ) -> None:
        books = self._books
        taken = status == Put.TAKEN
        at = slot[taken] % books.ring
        books.slot[place[taken], at] = slot[taken]
        books.received[place[taken], at] = read[taken]
        books.captured[place[taken], at] = captured[taken]
        # One sample a stream: of several rows, the last.
        _, last = np.unique(place[::-1], return_index=True)
        last = len(place) - 1 - last
        who = place[last]
        time = read[last].astype(np.float64)
        reached = watermark[who]
        books.arrival.arrived(who, books.newest[who], time, reached)
        moved = reached > before[last]
        books.arrival.follow(who[moved], reached[moved], time[moved])
        # Where nothing new is complete, what was late says how late the stream's frames can be.
        late = (slot <= before) & (status != Put.DUPLICATE) & ~np.isin(place, who[moved])
        books.arrival.follow(place[late], slot[late], read[late])

    def deadlines(self, used: int, watermark: Slots, slack: float, out: Times) -> None:
        books = self._books
        due = books.arrival.due(slice(used), watermark[:used] + 1) + slack
        out[:] = np.where(books.live[:used], np.minimum(due, books.until[:used]), math.inf)

    def turned(self, place: Rows) -> bool:
        return bool((self._books.axes[place] != _CANONICAL).any())

    def turn_in(self, place: Rows, xyz: NDArray[np.float32]) -> None:
        for row, signed in enumerate(self._books.axes[place].tolist()):
            xyz[row] = turned_in(xyz[row], signed)

    def turn_out(self, place: Rows, xyz: NDArray[np.float32]) -> None:
        for row, signed in enumerate(self._books.axes[place].tolist()):
            xyz[row] = turned_out(xyz[row], signed)

    def behind(self, used: int, following: Slots, watermark: Slots, limit: float, out: Slots) -> int:
        books, first = self._books, following[:used]
        place, at = np.arange(used), first % books.ring
        waits = (watermark[:used] > first) & books.live[:used] & ~books.lossless[:used]
        found = np.flatnonzero(waits & (books.slot[place, at] == first) & (books.received[place, at] < limit))
        out[: len(found)] = found
        return len(found)

    def numbers(
        self, place: Rows, slot: Slots, windows: NDArray[np.int32], flags: NDArray[np.uint32], out: Slots
    ) -> None:
        books, at = self._books, slot % self._books.ring
        out[:, 0] = books.base[place] + slot
        out[:, 1] = np.where(books.timed[place], -1, books.origin[place] + slot)
        out[:, 2] = books.captured[place, at]
        out[:, 3] = books.received[place, at]
        out[:, 4] = windows
        out[:, 5] = flags | np.where(slot == 0, books.flags[place], np.uint32(0))
