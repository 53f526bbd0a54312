"""How frames get from messages into the ring: the fast way, and the frames that the plain way accepted.

Nearly every message is one that just follows: like the last one of its stream but for seq, time and arrays. The
compiled `FastPath` compares it with that one and puts its frames into the ring, in one call for all that was read.
Every other message goes the plain way, which is the specification: `rtskel.wire.decode`, then `Stream.take`. Of those
that were read together, all of one stream go the same way, for their order matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import WireError
from rtskel.refine import Put, RefinerBank
from rtskel.serve.arrays import Places, PlaceTable, Slots, StreamArrays
from rtskel.serve.common import MAX_NUMBER, Message
from rtskel.serve.reports import Reports
from rtskel.serve.stream import Stream
from rtskel.wire import RawBatch, RawPose, StreamEnd, decode
from rtskel.wire.fast import RawReader


class Intake:
    """Fills a bank's ring; `put` gives it what the plain way accepted.

    Args:
        bank, arrays, places, reports: of the streams.
        jump: slots by which a frame may be after its stream's newest one.
        furthest: slots by which the last window of an average ends after the slot it is for.
    """

    def __init__(
        self,
        bank: RefinerBank,
        arrays: StreamArrays,
        places: PlaceTable,
        reports: Reports,
        *,
        jump: int,
        furthest: int,
    ) -> None:
        self._bank, self._arrays, self._places, self._reports = bank, arrays, places, reports
        self._reader = RawReader(bank.joints)
        self._fast = _fast_path(self._reader, arrays, bank, jump, furthest)
        self._stores: bool = self._fast.stores
        # Accepted: stream, message, slot, when it was read, and the publisher it is from.
        self._rows: list[tuple[Stream, RawPose, int, int, int]] = []

    # --- the fast way -------------------------------------------------------------------------------------------------

    def take_all(self, topics: list[bytes], bodies: list[bytes], read: list[int]) -> int:
        """Take these messages, read at these times, if all of them just follow: how many frames; -1: not, and nothing
        has changed.
        """
        if self._stores:
            return self._fast.take_all(topics, bodies, read, None)  # type: ignore[no-any-return]
        count: int = self._fast.take_all(topics, bodies, read, self._bank.next_window)
        if count > 0:
            self._store_rows()
        return count

    def unexpected(self, topics: list[bytes], bodies: list[bytes]) -> list[int]:
        """Which of these messages are not like others before; `take` takes of the rest what just follows."""
        others: list[int] = self._fast.match(topics, bodies)
        return others

    def take(self, read: list[int], busy: list[int]) -> tuple[int, list[int]]:
        """Take what just follows of the messages given to `unexpected`, read at these times, but for the streams at
        the `busy` places. Returns how many frames were taken, and which of the expected messages were not.
        """
        count, left = self._fast.take(read, busy, None if self._stores else self._bank.next_window)
        if count and not self._stores:
            self._store_rows()
        return count, left

    def _store_rows(self) -> None:
        status = self._store(*self._fast.rows())
        assert not status.any(), "frames that just follow are taken"

    def expect(self, topic: bytes, body: bytes, places: Sequence[int]) -> None:
        """Messages like this one, of the streams at these places, may take the fast way from now on."""
        self._reader.expect(topic, body, places)

    def forget(self, place: int) -> None:
        """Messages of the stream at that place go the plain way until further notice."""
        self._reader.forget(place)

    # --- the plain way ------------------------------------------------------------------------------------------------

    def accept(self, stream: Stream, msg: RawPose, slot: int, now: int) -> None:
        """A frame is for that slot of its stream."""
        arrays, place = self._arrays, stream.place
        arrays.heard[place] = now
        arrays.newest[place] = max(arrays.newest[place], slot)
        self._rows.append((stream, msg, slot, now, self._reports.source))

    def put(self) -> None:
        """Give the bank all accepted frames in one call."""
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        shape = (len(rows), self._bank.joints)
        place = np.array([stream.place for stream, *_ in rows], np.int32)
        slot, read, captured = np.array([(slot, now, msg.time_ns) for _, msg, slot, now, _ in rows], np.int64).T.copy()
        xyz = np.concatenate([msg.xyz for _, msg, *_ in rows]).reshape(*shape, 3)
        confidence = np.concatenate([msg.confidence for _, msg, *_ in rows]).reshape(shape)
        status = self._store(place, slot, read, captured, xyz, confidence)
        if not (np.isfinite(xyz).all() and np.isfinite(confidence).all()):
            for (stream, msg, _, now, self._reports.source), put in zip(rows, status.tolist(), strict=True):
                if put != Put.AHEAD:  # it comes again
                    self.count_nonfinite(stream, msg, now)
        for row in np.flatnonzero(status).tolist():
            stream, msg, _, now, self._reports.source = rows[row]
            if status[row] == Put.AHEAD:
                stream.wait(msg, now)
            elif status[row] == Put.DUPLICATE:
                stream.duplicate(msg, now)
            else:
                stream.late(msg, now)

    def count_nonfinite(self, stream: Stream, msg: RawPose, now: int) -> None:
        """Names a stream whose frame has joints that are no numbers."""
        bad = int((~(np.isfinite(msg.xyz).all(axis=1) & np.isfinite(msg.confidence))).sum())
        if bad:
            detail = f"frame {stream.segment.number(msg)} of stream {stream.name}: {bad} joints are NaN or infinite"
            self._reports.offend(stream.name, "nonfinite", f"{detail}, taken as missing", now, epoch=msg.epoch)

    def _store(
        self,
        place: Places,
        slot: Slots,
        read: Slots,
        captured: Slots,
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
    ) -> NDArray[np.uint8]:
        """Give the bank frames [M], and let their arrival set the clocks; what became of each."""
        self._arrays.turn_in(place, xyz)
        before = self._bank.watermark[place]
        status = self._bank.put(place, slot, xyz, confidence)
        self._arrays.came(place, slot, read, captured, before, status, self._bank.watermark)
        return status


def decoded(
    which: list[int], topics: list[bytes], bodies: list[bytes], refuse: Callable[[int, WireError], None]
) -> dict[int, Message | RawBatch]:
    """Those messages, by index; `refuse` is told which make no sense here, and why."""
    messages: dict[int, Message | RawBatch] = {}
    for k in which:
        try:
            message = decode(topics[k], bodies[k])
            if not isinstance(message, RawPose | RawBatch | StreamEnd):
                raise WireError(f"{type(message).__name__} where raw poses belong")
            messages[k] = message
        except WireError as error:
            refuse(k, error)
    return messages


def _fast_path(reader: RawReader, arrays: StreamArrays, bank: RefinerBank, jump: int, furthest: int) -> Any:
    """The compiled fast path; it `stores` frames itself where the ring is compiled, too."""
    from rtskel import native

    limits = jump, bank.config.ahead, furthest, MAX_NUMBER
    return native.FastPath(reader.compiled, arrays.compiled, bank.compiled_ring, *limits)
