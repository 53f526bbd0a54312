"""Tracking people from frame to frame: in files that list people anew in every frame (`follow`), and live (`Follower`).

The rule, in this order:

1. Somebody found twice in a frame is one person. Of two rows whose common joints lie within `SAME` sizes of each other,
   the one with more and surer joints stays. (ByteTrack drops duplicate tracks likewise, by overlap and age.)
2. An identity of the file (OpenPose's `person_id`, MMPose's `track_id`) counts where every row has one, no two of a
   frame are alike, and following it does not make people jump across the image: some programs number the list. Where
   one that has lasted jumps to somebody else's place now and then, two were exchanged, and people keep their places.
3. A row with an unknown identity, or in a file without them, continues the nearest free stream within reach. The
   distance is the median over the body's joints (all joints if no body joint is in common) that both show, from where
   the stream was last seen; if they show no joint in common, that of the middles of both. It counts in sizes: the
   diagonal of the box around the joints of the larger of the two.
   Within reach is 0.5 sizes, and 0.1 more for every frame in which the stream was not seen, up to 1.5: who vanishes
   and returns nearby goes on as the same stream. A new identity continues a stream that lost its own within
   `SHORT_GAP` frames: trackers that lose their state number the same person anew.
   Pairs are made in the order of distance, with a handicap for streams seen only briefly or with other joints, so that
   a false detection does not take over a person (as unconfirmed tracks come last in ByteTrack and norfair).
4. Anybody else begins a stream.

Live, identities are an estimator's, which follows people from image to image and numbers anew whom it has lost: they
count while they last. Of two that are found at one place, the one who came there from farther away is not shown, and
given up if they stay at one place for more than `SHORT_GAP` frames: then only one of them is seen, twice.
Looks decide before places do: people whose colours have nothing in common are `UNLIKE` sizes farther apart, and half of
that is out of reach. An identity that looks so different, and like somebody else, for more than `SHORT_GAP` frames has
changed over to him. Where the number of people is known, no more streams begin: who comes when all have begun
continues, wherever that was, the stream of whoever looked like him, or the nearest that nobody has continued for `GONE`
frames.
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
GONE = 50
HANDICAP = 0.1
UNLIKE, MOST_UNLIKE = 2.0, 0.5
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
    if identity is not None and streams.renamed:
        people = "1 person" if streams.count == 1 else f"{streams.count} people"
        note(f"track ids do not last ({len(np.unique(identity))} ids for {people}): "
             "where an id is new or jumps, people are followed by distance")  # fmt: skip
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
        """Median distance [P] of joints common to rows a and b [P]: the body's, or all; else that of their middles."""
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
        apart = np.where(count > 0, middle, np.inf)
        if len(none := np.flatnonzero((count == 0) & self.present[a].any(axis=1) & self.present[b].any(axis=1))):
            middles = self.low[a[none]] + self.high[a[none]] - self.low[b[none]] - self.high[b[none]]
            apart[none] = np.linalg.norm(middles, axis=-1) / 2
        return apart

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
            same = _same(rows, row, kept)
            if lasting[row] and identity is not None:  # two people who meet
                same &= ~lasting[kept] | (identity[kept] == identity[row])
            if same.any():
                double[row] = True
            else:
                kept = np.append(kept, row)
    return double


def _same(rows: _Rows, row: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of other rows [S] are at the place of a row, within `SAME`, with half of the joints in common."""
    scale = np.maximum(rows.size[others], rows.size[row]) * SAME
    same: NDArray[np.bool_] = _between(rows.low[row], rows.high[row], rows.low[others], rows.high[others]) <= scale
    near = others[same]
    at = np.full(len(near), row)
    same[same] = (rows.apart(at, near) <= scale[same]) & (rows.common(at, near, np.minimum) >= 0.5)
    return same


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

    def __init__(
        self,
        rows: _Rows,
        identity: NDArray[np.int64] | None,
        known: NDArray[np.float64] | None = None,
        looks: NDArray[np.float32] | None = None,
    ) -> None:
        self.rows, self.looks = rows, looks
        self.identity = None if identity is None else identity.tolist()
        self.of_row = np.full(len(rows.frame), -1, np.int64)
        self.count = 0 if known is None else known.shape[1]
        self.renamed = 0  # people whose identity had changed, if there are identities
        self._by_identity: dict[int, int] = {}
        self._known = np.zeros((3, 16))  # last row, largest size and times seen, of each stream
        if known is not None:
            self._known = np.concatenate([known, self._known], axis=1)

    @property
    def known(self) -> NDArray[np.float64]:
        """[3, S] of each stream that has begun: its last row, its largest size, and how often it was seen."""
        return self._known[:, : self.count]

    def place(self, start: int, end: int) -> None:
        """Assign the rows of one frame."""
        if end - start == 1 and self._only_one(start):
            return
        free = list(range(start, end))
        taken: set[int] = set()
        if self.identity is not None:
            self._continue_identities(free, taken, jumping=False)
        self.renamed += self.continue_nearest(free, taken)
        if self.identity is not None:
            self._continue_identities(free, taken, jumping=True)
        for row in free:
            self.see(row, self.count)

    def _continue_identities(self, free: list[int], taken: set[int], *, jumping: bool) -> None:
        """Assign those of the free rows whose identity is a stream's; only those that do not jump, or all."""
        assert self.identity is not None
        for row in list(free):
            number = self._by_identity.get(self.identity[row])
            if number is not None and number not in taken and (jumping or not self._jumps(row, number)):
                self.see(row, number)
                taken.add(number)
                free.remove(row)

    def _jumps(self, row: int, number: int) -> bool:
        """Whether a row lies out of reach of a stream that was seen a moment ago, and for some time."""
        last = int(self._known[0, number])
        gone = int(self.rows.frame[row] - self.rows.frame[last]) - 1
        if gone > SHORT_GAP or self._known[2, number] <= SHORT_GAP:
            return False
        scale = max(float(self.rows.size[row]), float(self._known[1, number]), 1e-9)
        apart = float(self.rows.apart(np.array([row]), np.array([last]))[0])
        return apart > (REACH + REACH_A_FRAME * gone) * scale

    def continue_nearest(self, free: list[int], taken: set[int], gone: int | None = None) -> int:
        """Assign those of the free rows of a frame that continue a stream, which are taken off the list; how many.

        Args:
            taken: streams that are not free, which grows.
            gone: instead of streams within reach, wherever they were, those of known looks that are alike (0), or all
                that were not seen for so many frames (`GONE`).
        """
        before = len(free)
        for row, number in self._pairs(free, gone) if free and self.count else ():
            if number not in taken and self.of_row[row] < 0:
                self.see(row, number)
                taken.add(number)
                free.remove(row)
        return before - len(free)

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
        self.see(row, 0)
        return True

    def see(self, row: int, number: int) -> None:
        """Assign a row to a stream, which may be the next to begin."""
        if number == self._known.shape[1]:
            self._known = np.concatenate([self._known, np.zeros_like(self._known)], axis=1)
        self.count = max(self.count, number + 1)
        self.of_row[row] = number
        self._known[:, number] = row, max(self._known[1, number], self.rows.size[row]), self._known[2, number] + 1
        if self.identity is not None:
            self._by_identity[self.identity[row]] = number

    def _pairs(self, free: list[int], absent: int | None) -> list[tuple[int, int]]:
        """Rows and streams within reach of each other, or all streams absent for so many frames, the best first."""
        rows = self.rows
        last = self._known[0, : self.count].astype(np.int64)
        largest, seen = self._known[1, : len(last)], self._known[2, : len(last)]
        gone = rows.frame[free[0]] - rows.frame[last] - 1
        reach = np.minimum(REACH + REACH_A_FRAME * gone, LARGEST_REACH)
        if absent is not None:
            reach = np.where(gone >= absent, np.inf, -1.0)
        elif self.identity is not None:
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
        if self.looks is not None:
            looks, others = self.looks[who], self.looks[last[of]]
            differ = unlike(looks, others)
            apart = apart + UNLIKE * differ
            near &= (differ <= MOST_UNLIKE) | (absent == GONE)
            if absent == 0:
                near &= looks.any(axis=1) & others.any(axis=1)
        who, of, apart = who[near], of[near], apart[near]
        cost = apart + HANDICAP / seen[of] + HANDICAP * (1 - rows.common(who, last[of], np.maximum))
        order = np.lexsort((of, who, cost))
        return list(zip(who[order].tolist(), of[order].tolist(), strict=True))


def unlike(looks: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much people's looks [..., F], histograms whose sum is 1, differ: 0..1; 0 where one is unknown (all 0)."""
    known = looks.any(axis=-1) & others.any(axis=-1)
    difference: NDArray[np.float32] = 0.5 * np.abs(looks - others).sum(axis=-1) * known
    return difference


class Follower:
    """The same rule live: told frame by frame who is found, it says which stream each of them continues.

    Args:
        most: how many streams begin at most; None: any number.
    """

    HIDDEN = -2
    """Somebody found at another one's place, who may only be passing him."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self._of_track: dict[int, int] = {}
        self._hidden: dict[int, int] = {}  # for how many frames each track has been hidden
        self._strange: dict[int, int] = {}  # and for how many it has not looked like its stream
        self._frame = np.zeros(0, np.int64)  # of each stream the last row, and what `_Streams` knows
        self._xyz = np.zeros((0, 0, 0), np.float32)
        self._confidence = np.zeros((0, 0), np.float32)
        self._known = np.zeros((3, 0))
        self._looks = np.zeros((0, 0), np.float32)

    @property
    def streams(self) -> int:
        """How many streams have begun."""
        return len(self._frame)

    def place(
        self,
        frame: int,
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        track: NDArray[np.int64] | None = None,
        looks: NDArray[np.float32] | None = None,
    ) -> NDArray[np.int64]:
        """The stream of each of the K people of the next frame, by the rule above.

        Args:
            frame: its number, larger than that of the frame before.
            xyz: [K, J, D] positions in the image.
            confidence: [K, J], 0 = missing.
            track: [K] different numbers by which an estimator follows people; None: it does not.
            looks: [K, F] a histogram of the colours of each person, whose sum is 1, or all 0; None: not known.

        Returns:
            [K] stream numbers; `HIDDEN` for somebody who is to be followed on and not to be shown; -1 for a person
            found a second time, and for people who are too many.
        """
        begun, found = self.streams, len(xyz)
        if not found:
            return np.zeros(0, np.int64)
        looks = np.zeros((found, 1), np.float32) if looks is None else looks
        if begun:
            xyz, confidence = np.concatenate([self._xyz, xyz]), np.concatenate([self._confidence, confidence])
            looks = np.concatenate([self._looks, looks])
        rows = _Rows(np.append(self._frame, np.full(found, frame)), xyz, confidence)
        streams = _Streams(rows, None, self._known, looks)
        track_of = dict(enumerate([] if track is None else track.tolist(), begun))
        known = {row: self._of_track[number] for row, number in track_of.items() if number in self._of_track}
        changed = self._changed_over(known, track_of, looks)
        hidden, free = self._hidden, self._once(rows, known, track_of)
        taken: set[int] = set()
        for row in sorted(set(free) & known.keys(), key=lambda row: track_of[row] in hidden):
            if known[row] not in taken:
                streams.see(row, known[row])
                taken.add(known[row])
                free.remove(row)
        streams.continue_nearest([row for row in free if row in changed], taken, 0)
        free = [row for row in free if streams.of_row[row] < 0]
        streams.continue_nearest(free, taken)
        while free and (self.most is None or streams.count < self.most):
            taken.add(streams.count)
            streams.see(free.pop(0), streams.count)
        streams.continue_nearest(free, taken, 0)
        streams.continue_nearest(free, taken, GONE)

        of_row = streams.of_row
        for row, number in track_of.items():
            if number in self._hidden:
                of_row[row] = self.HIDDEN
        self._of_track = {
            number: known[row] if number in self._hidden else int(of_row[row])
            for row, number in track_of.items()
            if of_row[row] != -1
        }
        last = streams.known[0].astype(np.int64)
        self._frame, self._xyz, self._confidence = rows.frame[last], xyz[last], confidence[last]
        self._looks = _remembered(self._looks, looks[last])
        self._known = np.concatenate([np.arange(len(last))[None], streams.known[1:]])
        return of_row[begun:]

    def _changed_over(self, known: dict[int, int], track_of: dict[int, int], looks: NDArray[np.float32]) -> list[int]:
        """Rows that look like other streams than theirs for so long that they are taken off those that are known."""
        strange = []
        for row, stream in known.items():
            differ = unlike(looks[row], self._looks)
            if differ[stream] > MOST_UNLIKE and (differ[self._looks.any(axis=1)] <= MOST_UNLIKE).any():
                strange.append(row)
        self._strange = {track_of[row]: self._strange.get(track_of[row], 0) + 1 for row in strange}
        changed = [row for row in strange if self._strange[track_of[row]] > SHORT_GAP]
        for row in strange:
            if row in changed:
                del known[row]
            else:
                looks[row] = 0  # perhaps that other one is only before him
        return changed

    def _once(self, rows: _Rows, known: dict[int, int], track_of: dict[int, int]) -> list[int]:
        """Rows of this frame, without those of people whom another row shows, too: who is new, or came from farther."""
        new = np.arange(self.streams, len(rows.frame))
        came = np.full(len(new), np.inf)
        followed = np.array(sorted(known), np.int64)
        came[followed - self.streams] = rows.apart(followed, np.array([known[row] for row in followed], np.int64))
        late = [track_of.get(row) in self._hidden for row in new.tolist()]
        before, self._hidden = self._hidden, {}
        kept = new[:0]
        for row in new[np.lexsort((came, np.array(late)))].tolist():
            if rows.present[row].any() and not _same(rows, row, kept).any():
                kept = np.append(kept, row)
            elif row in known and (frames := before.get(track_of[row], 0)) < SHORT_GAP:
                self._hidden[track_of[row]] = frames + 1
        return sorted(kept.tolist())


def _remembered(before: NDArray[np.float32], now: NDArray[np.float32]) -> NDArray[np.float32]:
    """Looks [S, F] of streams, of which the first had begun before, as they mostly were."""
    mean = now.copy()
    if len(before):
        own = mean[: len(before)]
        known, seen = before.any(axis=-1, keepdims=True), own.any(axis=-1, keepdims=True)
        own[:] = np.where(known & seen, 0.95 * before + 0.05 * own, np.where(known, before, own))
    return mean


def recordings_of_people(
    path: Path | str,
    name: str,
    frame: NDArray[np.int64],
    xyz: NDArray[np.float32],
    confidence: NDArray[np.float32],
    identity: NDArray[np.int64] | None = None,
    *,
    note: Callable[[str], None] = _ignore,
    who: Callable[[int], str] = str,
    place: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    **fields: Any,
) -> list[Recording]:
    """A recording for each person, called `name`, or `name-1`, `name-2`, ... if there are several.

    Rows without a joint are nobody. A frame in which a person is not found is a hole in its recording's `slot`, and a
    recording ends with the last frame in which its person is found.

    Args:
        path: what errors name.
        frame, xyz, confidence, identity, note: as for `follow`; D is 2 or 3.
        who: what the file calls the person of an identity.
        place: [K, J, D] positions and [K, J] confidences by which people are followed, if not by `xyz`.
        fields: the other fields of the recordings.

    Raises:
        FormatError: nobody is found in any frame.
    """
    somebody = (confidence > 0).any(axis=1)
    if not somebody.any():
        raise FormatError(f"{path}: nobody is found in any frame")
    frame, xyz, confidence = frame[somebody], xyz[somebody], confidence[somebody]
    identity = None if identity is None else identity[somebody]
    where, seen = (xyz, confidence) if place is None else (place[0][somebody], place[1][somebody])
    stream = follow(frame, where, seen, identity, note)
    dims = xyz.shape[-1]
    if dims == 2:
        xyz = np.concatenate([xyz, np.zeros_like(xyz[..., :1])], axis=-1)
    order = np.argsort(stream, kind="stable")[int((stream < 0).sum()) :]
    members = np.split(order, np.flatnonzero(np.diff(stream[order])) + 1)
    recordings = []
    every = [set[int]() if identity is None else set(identity[rows].tolist()) for rows in members]
    for number, rows in enumerate(members):
        ids = every[number] if sum(every[number] <= other for other in every) == 1 else set()  # nobody else's
        recordings.append(
            named(
                path,
                Recording,
                xyz[rows],
                name=f"{name}-{number + 1}" if len(members) > 1 else name,
                confidence=confidence[rows],
                slot=frame[rows],
                dims=dims,
                person=who(min(ids)) if len(ids) == 1 and min(ids) >= 0 else None,
                **fields,
            )
        )
    return recordings
