"""What is told about streams: events as they happen, offences counted and told at most once a second."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

from rtskel.wire import Event

SECOND = 1_000_000_000

REPORT_EVERY = SECOND
"""Shortest time between two `error` events of one kind about one stream."""

MAX_NOTES = 4096
"""Offenders (stream and kind) that are remembered; of more the longest silent one is forgotten."""


@dataclass
class _Note:
    """Offences of one kind by one stream."""

    count: int = 0
    last: int = 0  # how many of these at last
    told: int = 0  # how many the last event counted
    next_ns: int = 0  # when the next event may go out
    detail: str = ""


class Reports:
    """Collects events; see `take`.

    Args:
        epoch: of the server, for events.

    Attributes:
        counts: offences by kind.
    """

    def __init__(self, epoch: int) -> None:
        self.counts: Counter[str] = Counter()
        self._epoch = epoch
        self._events: list[Event] = []
        self._notes: OrderedDict[tuple[str, str], _Note] = OrderedDict()
        self._untold: dict[tuple[str, str], _Note] = {}

    def take(self) -> list[Event]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def event(self, stream: str, kind: str, detail: str, seq: int, now: int) -> None:
        """Something happened to a stream, from output number `seq` on."""
        self._events.append(Event(stream, kind, self._epoch, seq, now, detail))

    def offend(self, stream: str, kind: str, detail: str, now: int, count: int = 1) -> None:
        """Count an offence of that kind by that stream ("": the server's own, or nobody known), and say so at times."""
        self.counts[kind] += count
        key = (stream, kind)
        note = self._notes.get(key)
        if note is None:
            note = self._notes[key] = _Note()
            if len(self._notes) > MAX_NOTES:
                forgotten, _ = self._notes.popitem(last=False)
                self._untold.pop(forgotten, None)
        else:
            self._notes.move_to_end(key)
        note.count += count
        note.last = count
        note.detail = detail
        if now >= note.next_ns:
            self._tell(key, note, now)
        else:
            self._untold[key] = note

    def tell(self, now: int, *, everything: bool = False) -> None:
        """Tell of the offences whose second has passed, or of everything that is not told yet."""
        for key, note in list(self._untold.items()):
            if everything or now >= note.next_ns:
                self._tell(key, note, now)

    def next_deadline(self) -> float:
        """When `tell` has something to tell, in ns; infinity if never."""
        return min((note.next_ns for note in self._untold.values()), default=math.inf)

    def _tell(self, key: tuple[str, str], note: _Note, now: int) -> None:
        more = note.count - note.told - note.last
        note.told = note.count
        note.next_ns = now + REPORT_EVERY
        self._untold.pop(key, None)
        stream, kind = key
        detail = f"{note.detail} (and {more} more)" if more else note.detail
        self._events.append(Event(stream, "error", self._epoch, None, now, detail, {kind: note.count}))
