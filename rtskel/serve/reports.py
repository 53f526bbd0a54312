"""What is told about streams: events as they happen, offences counted and told at most once a second."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

from rtskel.wire import Event

SECOND = 1_000_000_000

REPORT_EVERY = SECOND
"""Shortest time between two `error` events of one kind about one stream."""

MAX_NAMED = 16
"""Of how many streams and kinds a publisher's offences are told each for itself; the rest is told together."""

NAMED_FOR = 10 * SECOND
"""How long after its last offence a stream and kind is one of these, if there are others."""

MAX_NOTES = 4096
"""Offenders (stream and kind) that are remembered; of more the longest silent one is forgotten."""

UNKNOWN = -1
"""The publisher of what no message is to blame for."""


_Key = tuple[str | int, str]


@dataclass
class _Note:
    """Offences of one kind by one stream, or by a publisher."""

    count: int = 0
    last: int = 0  # how many of these at last
    told: int = 0  # how many the last event counted
    next_ns: int = 0  # when the next event may go out
    detail: str = ""
    epoch: int | None = None  # of those that are not told, if they are of one


class Reports:
    """Collects events; see `take`.

    Args:
        epoch: of the server, for events.

    Attributes:
        counts: offences by kind.
        source: the publisher (a number) whose message is being taken, or UNKNOWN.
    """

    def __init__(self, epoch: int) -> None:
        self.counts: Counter[str] = Counter()
        self.source = UNKNOWN
        self._epoch = epoch
        self._events: list[Event] = []
        self._notes: OrderedDict[_Key, _Note] = OrderedDict()
        self._untold: dict[_Key, _Note] = {}
        # By publisher: the streams and kinds that are told each for itself, and when each offended last.
        self._named: OrderedDict[int, dict[_Key, int]] = OrderedDict()

    def take(self) -> list[Event]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def event(self, stream: str, kind: str, detail: str, seq: int | None, now: int) -> None:
        """Something happened to a stream ("": to the server), from output number `seq` on."""
        self._events.append(Event(stream, kind, self._epoch, seq, now, detail))

    def offend(
        self, stream: str, kind: str, detail: str, now: int, count: int = 1, *, epoch: int | None = None
    ) -> None:
        """Count an offence of that kind by a stream ("": by none, or none that is known), and by that epoch of it.

        The first of a stream and kind is told at once, those of the next second together. A publisher (`source`) that
        offends with many names is told of under a few of them; all others are told together, as the server's own.
        """
        self.counts[kind] += count
        key: _Key = (stream, kind)
        if self.source != UNKNOWN and not self._is_named(self.source, key, now):
            key = (self.source, kind)
        note = self._notes.get(key)
        if note is None:
            note = self._notes[key] = _Note()
            if len(self._notes) > MAX_NOTES:
                forgotten, _ = self._notes.popitem(last=False)
                self._untold.pop(forgotten, None)
        else:
            self._notes.move_to_end(key)
        note.epoch = epoch if note.count == note.told or note.epoch == epoch else None
        note.count += count
        note.last = count
        note.detail = detail
        if now >= note.next_ns:
            self._tell(key, note, now)
        else:
            self._untold[key] = note

    def _is_named(self, source: int, key: _Key, now: int) -> bool:
        named = self._named.setdefault(source, {})
        self._named.move_to_end(source)
        if len(self._named) > MAX_NOTES:
            self._named.popitem(last=False)
        if key not in named and len(named) >= MAX_NAMED:
            silent = min(named, key=named.__getitem__)
            if now < named[silent] + NAMED_FOR:
                return False
            del named[silent]
        named[key] = now
        return True

    def tell(self, now: int, *, everything: bool = False) -> None:
        """Tell of the offences whose second has passed, or of everything that is not told yet."""
        for key, note in list(self._untold.items()):
            if everything or now >= note.next_ns:
                self._tell(key, note, now)

    def next_deadline(self) -> float:
        """When `tell` has something to tell, in ns; infinity if never."""
        return min((note.next_ns for note in self._untold.values()), default=math.inf)

    def _tell(self, key: _Key, note: _Note, now: int) -> None:
        more = note.count - note.told - note.last
        note.told = note.count
        note.next_ns = now + REPORT_EVERY
        self._untold.pop(key, None)
        whose, kind = key
        stream = whose if isinstance(whose, str) else ""
        detail = f"{note.detail} (and {more} more)" if more else note.detail
        counts = {kind: note.count}
        self._events.append(Event(stream, "error", self._epoch, None, now, detail, counts, source_epoch=note.epoch))
