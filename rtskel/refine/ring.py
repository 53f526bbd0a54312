"""Time-slotted ring of many streams: frames in, canonical windows out to the engine, averaged predictions back.

A slot is one tick of a stream's frame clock; slots count from 0. Window `e` holds the `window` consecutive slots that
end with slot e. Slots before 0 repeat frame 0; once a stream has ended, slots after its last repeat its last frame.

One number per stream orders everything: its *watermark*, the last slot up to which every frame has come or was settled
(declared missing). Window e may run once the watermark has reached e. Running it completes the output of slot
e - reach(L) for every lookahead L, the average of the last windows up to e as `RingConfig.windows` counts them.

A frame that comes after the watermark passed its slot is still taken while some lookahead has not emitted that slot:
the windows that hold it run again, as far as later outputs need them.

Three rings do this: `native_ring` (C++, engines/native/ring.h), `rtskel.engine.device_ring.DeviceRing` (its books on
the host, engines/native/device_ring.h, its numbers on a GPU), and the specification in numpy, tests/oracles/ring.py,
which the tests compare with. The first two keep their books by the same code, engines/native/ring_state.h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rtskel.refine.canonical import DISAGREE, FAR, steady_bones
from rtskel.refine.config import Refined, RingConfig
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH

if TYPE_CHECKING:
    from rtskel import _native


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

    return native.Ring(**ring_arguments(config))


def ring_arguments(config: RingConfig) -> dict[str, Any]:
    """What the compiled rings are made of."""
    skeleton = config.skeleton
    return {
        "streams": config.streams,
        "window": config.window,
        "joints": skeleton.joints,
        "radius": config.radius,
        "ahead": config.ahead,
        "hop": config.hop,
        "min_confidence": config.min_confidence,
        "shoulder_width": SHOULDER_WIDTH,
        "far": FAR,
        "disagree": DISAGREE,
        "lookaheads": list(config.lookaheads),
        "reach": [config.reach(lookahead) for lookahead in config.lookaheads],
        "count": [config.windows(lookahead) for lookahead in config.lookaheads],
        "positions": config.positions.tolist(),
        "parents": list(skeleton.parents),
        "bone_length": list(skeleton.bone_length),
        "steady": steady_bones(skeleton),
        "neck": NECK,
        "right_shoulder": RIGHT_SHOULDER,
        "left_shoulder": LEFT_SHOULDER,
    }


class EngineRing(ABC):
    """A ring whose frames and predictions an engine keeps on its device: windows never leave it. Its books are on the
    host. What is not said here is as in `HostRing`.

    Args:
        books: which frames have come, which windows can run, and what they complete.
    """

    def __init__(self, config: RingConfig, books: _native.DeviceRing) -> None:
        self.config, self.books = config, books

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
    def submit(self, room: int) -> bool:
        """Start a step of up to `room` windows and do not wait for it; False if no window can run.

        Raises:
            ValueError: two steps are in flight.
        """

    @abstractmethod
    def collect(self) -> Refined:
        """Wait for the oldest step in flight: what it completes.

        Raises:
            ValueError: none is in flight.
        """

    def settle(self, stream: NDArray[np.int32], slot: NDArray[np.int64]) -> None:
        """See `HostRing.settle`."""
        self.books.settle(stream, slot)

    def end(self, stream: NDArray[np.int32], last: NDArray[np.int64]) -> None:
        """See `HostRing.end`."""
        self.books.end(stream, last)

    def reset(self, stream: NDArray[np.int32]) -> None:
        """See `HostRing.reset`."""
        self.books.reset(stream)

    @abstractmethod
    def step(self, room: int) -> Refined:
        """Run up to `room` windows, shared as in `HostRing.gather`: what they complete."""

    @abstractmethod
    def skip(self, stream: NDArray[np.int32], window: NDArray[np.int64], /, *columns: NDArray[Any]) -> None:
        """See `HostRing.skip`."""

    @property
    def pending(self) -> int:
        """See `HostRing.pending`."""
        return self.books.pending

    @property
    def watermark(self) -> NDArray[np.int64]:
        """See `HostRing.watermark`."""
        return self.books.watermark

    @property
    def newest(self) -> NDArray[np.int64]:
        """See `HostRing.newest`."""
        return self.books.newest

    @property
    def next(self) -> NDArray[np.int64]:
        """See `HostRing.next`."""
        return self.books.next

    @property
    def ended(self) -> NDArray[np.bool_]:
        """See `HostRing.ended`."""
        return self.books.ended

    @property
    def group(self) -> NDArray[np.int32]:
        """See `HostRing.group`."""
        return self.books.group
