"""Room for streams where it is short: places, the engine's turns and remembered names, in equal shares by publisher.

A publisher is a connection, however many ids it uses: a tracker with a new id in every frame, or a wall of two hundred
cameras, has no more than the single camera beside it. Streams whose connection is not known (it has ended, or is in
this process) count as those of one publisher. Nothing is reserved or computed while there is room for all:

- *Places.* Where all are held, a publisher that asks for one takes it from the publisher with the most, as long as that
  leaves this one with no fewer: its youngest stream (that of the fewest slots) ends as `stale`, and its place is kept
  for the one that asked. So whoever has no more than an equal share keeps every stream, and all beyond is refused.
- *The engine.* Where more windows wait than fit in a batch, each publisher has an equal share of it, or all that it has
  waiting (`rtskel.refine.RefinerBank.group`). Where windows have to be left out, they are those of publishers that have
  at least as many waiting as publishers have on average.
- *Names.* Of closed streams, so that their numbers go on if they come back, the oldest one of the publisher with the
  most names is forgotten first.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rtskel.refine import RefinerBank
from rtskel.serve.arrays import PlaceTable, StreamArrays
from rtskel.serve.reports import SECOND, UNKNOWN, Reports

if TYPE_CHECKING:
    from rtskel.serve.stream import Stream

YOUNG = 3
"""A stream of fewer slots is not filled in before a later frame comes, others by as many slots as they have."""

SILENT = SECOND // 5
"""After so long without a frame, beside the slack, such a stream gives its place to another, if there is no other."""


class Room:
    """Who holds what.

    Args:
        bank, arrays, places, reports: of the streams.
        slack: how long a frame may come after it was due, in ns.
    """

    def __init__(
        self, bank: RefinerBank, arrays: StreamArrays, places: PlaceTable, reports: Reports, slack: float
    ) -> None:
        self._bank, self._arrays, self._places, self._reports, self._slack = bank, arrays, places, reports, slack
        most = bank.config.streams
        # Publishers that hold places are groups of the bank; by group, how many.
        self._group: dict[int, int] = {}
        self._unused = list(range(most))
        self._held = np.zeros(most, np.int64)
        self._claims: dict[int, int] = {}  # publishers for which a place is kept, and until when
        self._names: Counter[int] = Counter()

    # --- places -------------------------------------------------------------------------------------------------------

    def admits(self, stream: str, publisher: int, fps: float, draining: int, now: int) -> bool:
        """Whether that publisher may take a place for another stream; else it is refused, and room is made for its next
        frame, if others have more. `draining` streams are on their way out.
        """
        held = self._held_by(publisher)
        self._claims = {other: until for other, until in self._claims.items() if now < until}
        first = sum(self._held_by(other) < held for other in self._claims)
        if self._places.free > first:
            self._claims.pop(publisher, None)
            return True
        detail = f"stream {stream} refused: {len(self._places)} streams are served already (max_streams)"
        self._reports.offend(stream, "refused", detail, now)
        self._claims[publisher] = now + SECOND + round(2 * SECOND / fps)
        waiting = sum(self._held_by(other) <= held for other in self._claims)
        if not self._silent_leaves(held, now) and draining < waiting:
            self._richest_gives(held, now)
        return False

    def _held_by(self, publisher: int) -> int:
        group = self._group.get(publisher)
        return 0 if group is None else int(self._held[group])

    def _silent_leaves(self, held: int, now: int) -> bool:
        """A young stream that is silent ends, unless its publisher holds fewer places than that."""
        arrays, used = self._arrays, slice(self._places.used)
        young = arrays.live[used] & ~arrays.lossless[used] & (arrays.newest[used] - arrays.first[used] + 1 < YOUNG)
        young &= self._held[self._bank.group[used]] >= held
        heard = np.where(young, arrays.heard[used], now)
        place = int(heard.argmin())
        if heard[place] + self._slack + SILENT >= now:
            return False
        return self._places[place].give_way("its place is for another", now, patient=True)

    def _richest_gives(self, held: int, now: int) -> None:
        """The youngest stream of the publisher with the most places ends, if that has at least two more than `held`."""
        arrays, used = self._arrays, slice(self._places.used)
        richest = int(self._held.argmax())
        if self._held[richest] >= held + 2:
            slots = arrays.newest[used] - arrays.first[used]
            theirs = arrays.live[used] & (self._bank.group[used] == richest)
            if theirs.any():
                slots = np.where(theirs, slots, slots.max() + 1)
                place = len(slots) - 1 - int(slots[::-1].argmin())  # of several, probably the one that came last
                detail = f"its publisher holds {self._held[richest]} of {len(self._places)} places, others fewer"
                self._places[place].give_way(detail, now)

    def take(self, stream: Stream) -> int:
        """A place for that stream."""
        place = self._places.take(stream)
        self._join(place, stream.publisher)
        return place

    def give_back(self, stream: Stream) -> None:
        """Its place is free."""
        self._leave(stream.publisher)
        self._places.give_back(stream.place)

    def _join(self, place: int, publisher: int) -> None:
        group = self._group.get(publisher)
        if group is None:
            group = self._group[publisher] = heapq.heappop(self._unused)
        self._held[group] += 1
        self._bank.group[place] = group

    def _leave(self, publisher: int) -> None:
        group = self._group[publisher]
        self._held[group] -= 1
        if not self._held[group]:
            del self._group[publisher]
            heapq.heappush(self._unused, group)

    # --- whose streams they are ---------------------------------------------------------------------------------------

    def named(self, stream: Stream) -> None:
        """A stream is new."""
        self._names[stream.publisher] += 1

    def forgotten(self, stream: Stream) -> None:
        """It is remembered no longer."""
        self._names[stream.publisher] -= 1
        if not self._names[stream.publisher]:
            del self._names[stream.publisher]

    def to_forget(self, streams: Iterable[Stream]) -> Stream:
        """Of these, from the oldest on, the first closed one of the publisher with the most names; else of any."""
        richest = max(self._names, key=self._names.__getitem__)
        closed = [stream for stream in streams if stream.place < 0]
        return next((stream for stream in closed if stream.publisher == richest), closed[0])

    def belongs(self, stream: Stream, publisher: int) -> None:
        """Its publisher is another one from now on."""
        self.forgotten(stream)
        if stream.place >= 0:
            self._leave(stream.publisher)
            self._join(stream.place, publisher)
        stream.publisher = publisher
        self.named(stream)

    def left(self, streams: Iterable[Stream], publishers: Collection[int]) -> list[Stream]:
        """Those publishers are gone; gives those of the streams that were theirs."""
        theirs = [stream for stream in streams if stream.publisher in publishers]
        for stream in theirs:
            self.belongs(stream, UNKNOWN)
        for publisher in publishers:
            self._claims.pop(publisher, None)
        return theirs

    # --- the engine ---------------------------------------------------------------------------------------------------

    def beyond(self, waiting: NDArray[np.int64], tails: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[used places] which streams have as many windows `waiting` as those of their publisher have on average, or
        more, if their publisher has as many as publishers have on average, or more, with the `tails` of its streams.
        """
        group = self._bank.group[: len(waiting)]
        windows, streams = np.bincount(group, waiting), np.bincount(group, waiting > 0)
        of_publisher = np.bincount(group, waiting + tails)
        many = of_publisher >= of_publisher.sum() / max(1, np.count_nonzero(of_publisher))
        return np.asarray(many[group] & (waiting >= (windows / np.maximum(streams, 1))[group]))
