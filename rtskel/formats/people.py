"""Tracking people from frame to frame, in files that list people anew in every frame.

The rule, in this order:

1. Somebody found twice in a frame is one person. Of two rows whose common joints lie within `SAME` sizes of each other,
   the one with more and surer joints stays. (ByteTrack drops duplicate tracks likewise, by overlap and age.)
2. An identity of the file (OpenPose's `person_id`, MMPose's `track_id`) counts where every row has one, no two of a
   frame are alike, and following it does not make people jump across the image: some programs number the list.
3. A row with an unknown identity, or in a file without them, continues the nearest free stream within reach. The
   distance is the median over the body's joints (all joints if no body joint is in common) that both show, from where
   the stream was last seen. It counts in sizes: the diagonal of the box around the joints of the larger of the two.
   Within reach is 0.5 sizes, and 0.1 more for every frame in which the stream was not seen, up to 1.5: who vanishes
   and returns nearby goes on as the same stream. A new identity continues a stream that lost its own within
   `SHORT_GAP` frames: trackers that lose their state number the same person anew.
   Pairs are made in the order of distance, with a handicap for streams seen only briefly or with other joints, so that
   a false detection does not take over a person (as unconfirmed tracks come last in ByteTrack and norfair).
4. Anybody else begins a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.parsing import named
from rtskel.formats.recording import Recording
from rtskel.skeleton import BODY

REACH, REACH_A_FRAME, LARGEST_REACH = 0.5, 0.1, 1.5
SAME = 0.07
SHORT_GAP = 10
HANDICAP = 0.1
_MOST_JUMPS = 2, 0.1  # identities may make people jump so many times, or in that share of frames


def _ignore(words: str) -> None:
    pass


def follow(
    frame: NDArray[np.int64],
    xyz: NDArray[np.float32],
    confidence: NDArray[np.float32],
    identity: NDArray[np.int64] | None = None,
    note: Callable[[str], None] = _ignore,
) -> NDArray[np.int64]:
    """The stream to which each of K rows belongs, by the rule above.

    Args:
        frame: [K] frame number, ascending; as many rows with the same number as people in that frame.
        xyz: [K, J, D] positions.
        confidence: [K, J], 0 = missing.
        identity: [K] the file's own; -1: none.
        note: called with one line for each thing that was dropped or doubted.

    Returns:
        [K] stream numbers 0, 1, ... in the order in which streams begin; -1 for a person found a second time.
    """
    rows = _Rows(frame, xyz, confidence)
    kept = ~_doubles(rows, identity)
    if not kept.all():
        note(f"people found twice in a frame: {np.sum(~kept)} dropped, the one seen better is kept")
        rows = _Rows(frame[kept], xyz[kept], confidence[kept])
        identity = None if identity is None else identity[kept]
    if identity is not None and (identity < 0).all():
        identity = None
    if identity is not None:
        useless = _why_useless(rows, identity)
        if useless:
            note(f"track ids are not used ({useless}): people are followed by distance")
            identity = None
    streams = _Streams(rows, identity)
    for start, end in zip(rows.starts, [*rows.starts[1:], len(rows.frame)], strict=True):
        streams.place(start, end)
    if streams.renamed:
        assert identity is not None
        people = "1 person" if streams.count == 1 else f"{streams.count} people"
        note(f"track ids do not last ({len(np.unique(identity))} ids for {people}): "
             "where an id is new, people are followed by distance")  # fmt: skip
    stream = np.full(len(kept), -1, np.int64)
    stream[kept] = streams.of_row
    return stream


class _Rows:
    """People as found in frames, with what tracking asks of them."""

    def __init__(self, frame: NDArray[np.int64], xyz: NDArray[np.float32], confidence: NDArray[np.float32]) -> None:
        self.frame, self.xyz, self.present = frame, xyz, confidence > 0
        self.sure = confidence.sum(axis=1)
        shown = self.present[..., None]
        self.low = np.where(shown, xyz, np.inf).min(axis=1)
        self.high = np.where(shown, xyz, -np.inf).max(axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            self.size = np.where(self.present.any(axis=1), np.linalg.norm(self.high - self.low, axis=-1), 0.0)
        self.starts = [0, *(np.flatnonzero(np.diff(frame)) + 1).tolist()] if len(frame) else []
        previous = np.arange(len(frame) - 1)
        self.from_previous = np.concatenate([[np.inf], self.apart(previous + 1, previous)])

    def apart(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Median distance [P] of the joints common to rows a and b [P]: the body's, or all; infinite without any."""
        distances = np.full(len(a), np.inf)
        for at in range(0, len(a), 4096):
            part = slice(at, at + 4096)
            distances[part] = self._apart(a[part], b[part])
        return distances

    def _apart(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        both = self.present[a] & self.present[b]
        body = both[:, : len(BODY)].any(axis=1)
        both[body, len(BODY) :] = False
        with np.errstate(over="ignore", invalid="ignore"):
            each = np.linalg.norm(self.xyz[a].astype(np.float64) - self.xyz[b], axis=-1)
        each = np.sort(np.where(both, each, np.inf), axis=1)
        count = both.sum(axis=1)
        rows = np.arange(len(a))
        middle = (each[rows, np.maximum(count - 1, 0) // 2] + each[rows, np.minimum(count // 2, each.shape[1] - 1)]) / 2
        return np.where(count > 0, middle, np.inf)

    def common(self, a: NDArray[np.int64], b: NDArray[np.int64], of: Callable[..., Any]) -> NDArray[np.float64]:
        """Share [P] of joints that rows a and b have in common, of the fewer or more (`of`) that one of them shows."""
        shown = of(self.present[a].sum(axis=1), self.present[b].sum(axis=1))
        share: NDArray[np.float64] = (self.present[a] & self.present[b]).sum(axis=1) / np.maximum(shown, 1)
        return share


def _doubles(rows: _Rows, identity: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Rows [K] of people who are found better by another row of the frame; none of two people with lasting ids."""
    lasting = np.zeros(len(rows.frame), np.bool_)
    if identity is not None:
        _, code, count = np.unique(identity, return_inverse=True, return_counts=True)
        lasting = (identity >= 0) & (count[code] > SHORT_GAP)
    double = np.zeros(len(rows.frame), np.bool_)
    for start, end in zip(rows.starts, [*rows.starts[1:], len(rows.frame)], strict=True):
        if end - start == 1:
            continue
        best = start + np.argsort(-rows.sure[start:end], kind="stable")
        kept = best[:1]
        for row in best[1:]:
            scale = np.maximum(rows.size[kept], rows.size[row]) * SAME
            near = kept[_between(rows.low[row], rows.high[row], rows.low[kept], rows.high[kept]) <= scale]
            at = np.full(len(near), row)
            same = rows.apart(at, near) <= np.maximum(rows.size[near], rows.size[row]) * SAME
            if lasting[row] and identity is not None:  # two people who meet
                same &= ~lasting[near] | (identity[near] == identity[row])
            if (same & (rows.common(at, near, np.minimum) >= 0.5)).any():
                double[row] = True
            else:
                kept = np.append(kept, row)
    return double


def _between(
    low: NDArray[np.floating], high: NDArray[np.floating], lows: NDArray[np.floating], highs: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Distance [S] of a box from others; joints in them are no closer."""
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.maximum(np.maximum(lows - high, low - highs), 0).astype(np.float64)
        distance: NDArray[np.float64] = np.nan_to_num(np.linalg.norm(gap, axis=-1), nan=np.inf)
    return distance


def _why_useless(rows: _Rows, identity: NDArray[np.int64]) -> str:
    """Why identities of the file say nothing; empty if they do."""
    if (identity < 0).any():
        return "some people have none"
    order = np.lexsort((identity, rows.frame))
    if ((np.diff(rows.frame[order]) == 0) & (np.diff(identity[order]) == 0)).any():
        return "two people of a frame share one"
    order = np.lexsort((rows.frame, identity))
    a, b = order[:-1], order[1:]
    gone = rows.frame[b] - rows.frame[a] - 1
    sizes = np.diff([*rows.starts, len(identity)])
    crowd = np.repeat(sizes > 1, sizes)
    linked = (identity[a] == identity[b]) & (gone <= SHORT_GAP) & (crowd[a] | crowd[b])
    a, b, gone = a[linked], b[linked], gone[linked]
    if not len(a):
        return ""
    far = rows.apart(a, b) > (REACH + REACH_A_FRAME * gone) * np.maximum(rows.size[a], rows.size[b])
    jumps = int(far.sum())
    position = np.arange(len(identity)) - np.repeat(rows.starts, sizes)
    lists = np.array_equal(identity - identity.min(), position) and bool((sizes > 1).any())
    if jumps and lists:
        return "they number the list of each frame"
    if jumps > _MOST_JUMPS[0] and jumps > _MOST_JUMPS[1] * len(a):
        return f"with them people jump {jumps} times"
    return ""


class _Streams:
    """The streams that have begun, each with the row in which it was last seen."""

    def __init__(self, rows: _Rows, identity: NDArray[np.int64] | None) -> None:
        self.rows = rows
        self.identity = None if identity is None else identity.tolist()
        self.of_row = np.full(len(rows.frame), -1, np.int64)
        self.count = 0
        self.renamed = 0
        self._by_identity: dict[int, int] = {}
        self._known = np.zeros((3, 16))  # last row, largest size and times seen, of each stream

    def place(self, start: int, end: int) -> None:
        """Assign the rows of one frame."""
        if end - start == 1 and self._only_one(start):
            return
        free = list(range(start, end))
        taken: set[int] = set()
        if self.identity is not None:
            for row in range(start, end):
                number = self._by_identity.get(self.identity[row])
                if number is not None and number not in taken:
                    self._see(row, number)
                    taken.add(number)
                    free.remove(row)
        for row, number in self._pairs(free) if free and self.count else ():
            if number not in taken and self.of_row[row] < 0:
                self._see(row, number)
                taken.add(number)
                free.remove(row)
                self.renamed += self.identity is not None
        for row in free:
            self._see(row, self.count)

    def _only_one(self, row: int) -> bool:
        """The usual case, without ceremony: the one person of the file, who was there in the frame before."""
        if self.count != 1 or self._known[0, 0] != row - 1:
            return False
        if self.identity is not None and self._by_identity.get(self.identity[row]) != 0:
            return False
        gone = int(self.rows.frame[row] - self.rows.frame[row - 1]) - 1
        reach = min(REACH + REACH_A_FRAME * gone, LARGEST_REACH)
        scale = max(float(self.rows.size[row]), float(self._known[1, 0]), 1e-9)
        if self.identity is None and not self.rows.from_previous[row] <= reach * scale:
            return False
        self._see(row, 0)
        return True

    def _see(self, row: int, number: int) -> None:
        if number == self._known.shape[1]:
            self._known = np.concatenate([self._known, np.zeros_like(self._known)], axis=1)
        self.count = max(self.count, number + 1)
        self.of_row[row] = number
        self._known[:, number] = row, max(self._known[1, number], self.rows.size[row]), self._known[2, number] + 1
        if self.identity is not None:
            self._by_identity[self.identity[row]] = number

    def _pairs(self, free: list[int]) -> list[tuple[int, int]]:
        """Rows and streams within reach of each other, the best first."""
        rows = self.rows
        last = self._known[0, : self.count].astype(np.int64)
        largest, seen = self._known[1, : len(last)], self._known[2, : len(last)]
        gone = rows.frame[free[0]] - rows.frame[last] - 1
        reach = np.minimum(REACH + REACH_A_FRAME * gone, LARGEST_REACH)
        if self.identity is not None:
            reach = np.where(gone <= SHORT_GAP, REACH, -1.0)
        low, high = rows.low[last], rows.high[last]
        found = []
        for row in free:
            scale = np.maximum(np.maximum(largest, rows.size[row]), 1e-9)
            number = np.flatnonzero(_between(rows.low[row], rows.high[row], low, high) <= reach * scale)
            if number.size:
                found.append((np.full(len(number), row), number, scale[number]))
        if not found:
            return []
        who, of, sizes = (np.concatenate(each) for each in zip(*found, strict=True))
        apart = rows.apart(who, last[of]) / sizes
        near = apart <= reach[of]
        who, of, apart = who[near], of[near], apart[near]
        cost = apart + HANDICAP / seen[of] + HANDICAP * (1 - rows.common(who, last[of], np.maximum))
        order = np.lexsort((of, who, cost))
        return list(zip(who[order].tolist(), of[order].tolist(), strict=True))


def recordings_of_people(
    path: Path | str,
    name: str,
    frame: NDArray[np.int64],
    xyz: NDArray[np.float32],
    confidence: NDArray[np.float32],
    identity: NDArray[np.int64] | None = None,
    *,
    note: Callable[[str], None] = _ignore,
    **fields: Any,
) -> list[Recording]:
    """A recording for each person, called `name`, or `name-1`, `name-2`, ... if there are several.

    Rows without a joint are nobody. A frame in which a person is not found is a hole in its recording's `slot`, and a
    recording ends with the last frame in which its person is found.

    Args:
        path: what errors name.
        frame, xyz, confidence, identity, note: as for `follow`; D is 2 or 3.
        fields: the other fields of the recordings.

    Raises:
        FormatError: nobody is found in any frame.
    """
    somebody = (confidence > 0).any(axis=1)
    if not somebody.any():
        raise FormatError(f"{path}: nobody is found in any frame")
    frame, xyz, confidence = frame[somebody], xyz[somebody], confidence[somebody]
    identity = None if identity is None else identity[somebody]
    stream = follow(frame, xyz, confidence, identity, note)
    dims = xyz.shape[-1]
    if dims == 2:
        xyz = np.concatenate([xyz, np.zeros_like(xyz[..., :1])], axis=-1)
    order = np.argsort(stream, kind="stable")[int((stream < 0).sum()) :]
    members = np.split(order, np.flatnonzero(np.diff(stream[order])) + 1)
    recordings = []
    for number, rows in enumerate(members):
        ids = set() if identity is None else set(identity[rows].tolist())
        recordings.append(
            named(
                path,
                Recording,
                xyz[rows],
                name=f"{name}-{number + 1}" if len(members) > 1 else name,
                confidence=confidence[rows],
                slot=frame[rows],
                dims=dims,
                person=str(min(ids)) if len(ids) == 1 and min(ids) >= 0 else None,
                **fields,
            )
        )
    return recordings
