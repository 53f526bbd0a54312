"""Time-slotted ring of many streams: frames in, canonical windows out to the engine, averaged predictions back.

A slot is one tick of a stream's frame clock; slots count from 0. Window `e` holds the `window` consecutive slots that
end with slot e. Slots before 0 repeat frame 0; once a stream has ended, slots after its last repeat its last frame.

One number per stream orders everything: its *watermark*, the last slot up to which every frame has come or was settled
(declared missing). Window e may run once the watermark has reached e. Running it completes the output of slot
e - reach(L) for every lookahead L, the average of the last windows up to e as `RingConfig.windows` counts them.

A frame that comes after the watermark passed its slot is still taken while some lookahead has not emitted that slot:
the windows that hold it run again, as far as later outputs need them.

Three rings do this: `native_ring` (C++, engines/native/ring.h), `rtskel.engine.device_ring.DeviceRing` (the state here
on the host, the numbers on a GPU), and the specification in numpy, tests/oracles/ring.py, which the tests compare with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rtskel.flags import Flag
from rtskel.refine.canonical import DISAGREE, FAR, steady_bones
from rtskel.refine.config import Put, Refined, RingConfig
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH

if TYPE_CHECKING:
    from rtskel import _native

WARM_UP, FLUSHED = int(Flag.WARM_UP), int(Flag.FLUSHED)  # as plain numbers, which are faster


class HostRing(Protocol):
    """A ring whose windows go through `WindowEngine.run`. `columns` are `Refined.columns`, written in place."""

    def put(
        self,
        stream: NDArray[np.int32],
        slot: NDArray[np.int64],
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        status: NDArray[np.uint8],
    ) -> None:
        """Store M frames; writes what became of each, a `Put`, into `status`."""

    def settle(self, stream: NDArray[np.int32], slot: NDArray[np.int64]) -> None:
        """Every slot of these streams up to the given one counts as come."""

    def end(self, stream: NDArray[np.int32], last: NDArray[np.int64]) -> None:
        """No frame after `last` (-1: after the newest) will come: slots up to it are settled and the tail may run."""

    def reset(self, stream: NDArray[np.int32]) -> None:
        """Forget everything about these streams."""

    def gather(self, x: NDArray[np.float32], missing: NDArray[np.bool_]) -> int:
        """Fill up to B canonical windows, x [B, W, J, 3] and missing [B, W, J], in equal shares of what is ready. Where
        not all of it fits, each `group` has a share, and its streams share that.

        Returns how many were filled. Nothing is decided until `average`: without it, the same windows come again.
        """

    def average(self, y: NDArray[np.float32], /, *columns: NDArray[Any]) -> None:
        """Take the predictions y [B, P, J, 3] of the gathered windows at `RingConfig.positions` and write the `outputs`
        rows that they complete.

        Predictions that are not finite where the stream is are left out. If that leaves none of a frame that came, the
        frame passes through as in `skip`.
        """

    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], /, *columns: NDArray[Any]) -> None:
        """Of these streams, windows before `window` that have not run will not: write what they complete.

        Averages take the windows that did run. Without any, the frame passes through as it came, its missing joints at
        the neck; without a frame either, the last one in which a joint was seen.
        """

    @property
    def outputs(self) -> int:
        """How many rows the gathered windows complete."""

    @property
    def pending(self) -> int:
        """How many windows can run now."""

    @property
    def watermark(self) -> NDArray[np.int64]:
        """[S] the last slot up to which every frame has come or was settled, -1 at first."""

    @property
    def newest(self) -> NDArray[np.int64]:
        """[S] the last slot put or settled, -1 at first."""

    @property
    def next(self) -> NDArray[np.int64]:
        """[S] the first window that has not run: slot i is emitted at lookahead L once next > i + reach(L)."""

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[S] whether the stream has ended."""

    @property
    def group(self) -> NDArray[np.int32]:
        """[S] which group each stream belongs to, 0..S-1, all 0 at first: see `gather`. May be written."""


def native_ring(config: RingConfig) -> _native.Ring:
    """The ring in C++, which releases the GIL. Its arrays of state are live read-only views.

    Raises:
        ImportError: rtskel's compiled part is missing.
    """
    from rtskel import native

    skeleton = config.skeleton
    return native.Ring(
        streams=config.streams,
        window=config.window,
        joints=skeleton.joints,
        radius=config.radius,
        ahead=config.ahead,
        hop=config.hop,
        min_confidence=config.min_confidence,
        shoulder_width=SHOULDER_WIDTH,
        far=FAR,
        disagree=DISAGREE,
        lookaheads=list(config.lookaheads),
        reach=[config.reach(lookahead) for lookahead in config.lookaheads],
        count=[config.windows(lookahead) for lookahead in config.lookaheads],
        positions=config.positions.tolist(),
        parents=list(skeleton.parents),
        bone_length=list(skeleton.bone_length),
        steady=steady_bones(skeleton),
        neck=NECK,
        right_shoulder=RIGHT_SHOULDER,
        left_shoulder=LEFT_SHOULDER,
    )


@dataclass
class _Stream:
    """State of one stream."""

    slot: NDArray[np.int64]  # [C] the slot whose frame lies at slot % C, -1 for none
    watermark: int = -1  # every slot up to here has come or was settled
    newest: int = -1  # the last slot put or settled
    next: int = 0  # the first window that has not run
    stale: int = 0  # windows from here up to `next` must run again; == next if none
    last: int = -1  # last slot of an ended stream
    ended: bool = False


class RingState:
    """Which frames have come, which windows can run, and what they complete: all of a ring but its numbers.

    Methods and properties are as in `HostRing`.
    """

    def __init__(self, config: RingConfig) -> None:
        self.config = config
        self._reach = [config.reach(lookahead) for lookahead in config.lookaheads]
        self.group = np.zeros(config.streams, np.int32)
        self._streams = [self._opened() for _ in range(config.streams)]
        self._turn = self._group_turn = 0
        self._group_turns = [0] * config.streams

    def _opened(self) -> _Stream:
        return _Stream(np.full(self.config.capacity, -1, np.int64))

    # -- frames in ---------------------------------------------------------------------------------------------------

    def _take(self, s: int, j: int) -> Put:
        """Whether a frame for slot j of stream s is to be stored; if so, it counts as come."""
        st = self._streams[s]
        at = j % self.config.capacity
        if st.slot[at] == j:
            return Put.DUPLICATE
        if j + max(self._reach) < st.next or (st.ended and j > st.last):
            return Put.LATE
        if j >= st.next + self.config.ahead:
            return Put.AHEAD
        st.slot[at] = j
        st.stale = min(st.stale, j)
        st.newest = max(st.newest, j)
        self._advance(st)
        return Put.TAKEN

    def _take_all(
        self, stream: NDArray[np.int32], slot: NDArray[np.int64], status: NDArray[np.uint8]
    ) -> NDArray[np.intp]:
        """Which of the frames are to be stored; writes what became of each into `status`."""
        for row, (s, j) in enumerate(zip(stream.tolist(), slot.tolist(), strict=True)):
            status[row] = self._take(s, j)
        return np.flatnonzero(status == Put.TAKEN)

    def _advance(self, st: _Stream) -> None:
        while st.slot[(st.watermark + 1) % self.config.capacity] == st.watermark + 1:
            st.watermark += 1

    def settle(self, stream: NDArray[np.int32], slot: NDArray[np.int64]) -> None:
        """Every slot of these streams up to the given one counts as come."""
        for s, j in zip(stream.tolist(), slot.tolist(), strict=True):
            st = self._streams[s]
            if st.ended:
                j = min(j, st.last)
            st.newest = max(st.newest, j)
            st.watermark = max(st.watermark, j)
            self._advance(st)

    def end(self, stream: NDArray[np.int32], last: NDArray[np.int64]) -> None:
        """See `HostRing.end`."""
        for s, j in zip(stream.tolist(), last.tolist(), strict=True):
            st = self._streams[s]
            st.last = max(j, st.newest)
            st.ended = True
            st.newest = st.watermark = st.last

    def reset(self, stream: NDArray[np.int32]) -> None:
        """Forget everything about these streams."""
        for s in stream.tolist():
            self._streams[s] = self._opened()

    # -- windows out -------------------------------------------------------------------------------------------------

    def _ready(self, st: _Stream) -> range:
        """The windows that can run now, in order: those to repeat, then new ones up to the last whole hop, or up to the
        end of the padded tail.
        """
        limit = self.config.whole_hops(st.watermark)
        if st.ended and st.last >= 0:
            limit = st.last + max(self._reach)
        first = st.next
        if st.stale < st.next <= limit:  # only windows that a coming average still takes
            first = max(st.stale, st.next - self.config.max_windows + 1)
        return range(first, limit + 1)

    @property
    def pending(self) -> int:
        """How many windows can run now."""
        return sum(len(self._ready(st)) for st in self._streams)

    def _share(self, room: int) -> list[tuple[int, int]]:
        """The next batch, at most `room` (stream, window), see `HostRing.gather`."""
        ready = {s: windows for s, st in enumerate(self._streams) if (windows := self._ready(st))}
        groups: dict[int, dict[int, range]] = {}
        for s, windows in ready.items():
            groups.setdefault(int(self.group[s]), {})[s] = windows
        sizes = {g: range(sum(map(len, members.values()))) for g, members in sorted(groups.items())}
        if len(groups) <= 1 or sum(map(len, sizes.values())) <= room:
            plan, self._turn = self._deal(ready, room, self._turn)
            return plan
        units, self._group_turn = self._deal(sizes, room, self._group_turn)
        plan = []
        for g, quota in sorted(Counter(g for g, _ in units).items()):
            part, self._group_turns[g] = self._deal(groups[g], quota, self._group_turns[g])
            plan += part
        return plan

    def _deal(self, ready: dict[int, range], room: int, turn: int) -> tuple[list[tuple[int, int]], int]:
        """Up to `room` of what is ready, each with as much as the others or all it has; and whose turn is next."""
        waiting = sorted(ready.items(), key=lambda entry: (entry[0] < turn, entry[0]))
        taken: list[tuple[int, int]] = []
        while waiting and len(taken) < room:
            share = max(1, (room - len(taken)) // len(waiting))
            for who, units in waiting:
                take = units[: min(share, room - len(taken))]
                taken += [(who, unit) for unit in take]
                if take:
                    turn = (who + 1) % self.config.streams
            waiting = [(who, units[share:]) for who, units in waiting if len(units) > share]
        return taken, turn

    def _completed(self, s: int, e: int) -> list[int]:
        """The lookaheads whose output window e of stream s completes, none if it has run before."""
        st = self._streams[s]
        if e < st.next:
            return []
        return [
            lookahead
            for lookahead, reach in zip(self.config.lookaheads, self._reach, strict=True)
            if e - reach >= 0 and not (st.ended and e - reach > st.last)
        ]

    def _pass(self, s: int, e: int) -> None:
        """Window e of stream s has run, or never will."""
        st = self._streams[s]
        st.stale = e + 1
        st.next = max(st.next, e + 1)

    def _flags(self, s: int, e: int, count: int) -> int:
        """Those flags of the output that window e completes, a full average of `count`, which need no numbers."""
        st = self._streams[s]
        flags = WARM_UP if e - count + 1 < self.config.window - 1 else 0
        return flags | FLUSHED if st.ended and e > st.last else flags

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> NDArray[np.int64]:
        """See `HostRing.watermark`."""
        return np.array([st.watermark for st in self._streams], np.int64)

    @property
    def newest(self) -> NDArray[np.int64]:
        """See `HostRing.newest`."""
        return np.array([st.newest for st in self._streams], np.int64)

    @property
    def next(self) -> NDArray[np.int64]:
        """See `HostRing.next`."""
        return np.array([st.next for st in self._streams], np.int64)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """See `HostRing.ended`."""
        return np.array([st.ended for st in self._streams], np.bool_)


class EngineRing(RingState, ABC):
    """A ring whose frames and predictions an engine keeps on its device: windows never leave it."""

    @abstractmethod
    def put(
        self,
        stream: NDArray[np.int32],
        slot: NDArray[np.int64],
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        status: NDArray[np.uint8],
    ) -> None:
        """See `HostRing.put`."""

    @abstractmethod
    def step(self, room: int) -> Refined:
        """Run up to `room` windows, shared as in `HostRing.gather`: what they complete."""

    @abstractmethod
    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], /, *columns: NDArray[Any]) -> None:
        """See `HostRing.skip`."""
