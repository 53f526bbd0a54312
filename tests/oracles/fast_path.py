"""What the compiled fast path does, in Python: see engines/native/fast_path.h."""

from __future__ import annotations

import numpy as np


class PythonFastPath:
    """Gives the frames to the caller, as the compiled one does where the ring is not compiled."""

    stores = False

    def __init__(self, reader, arrays, jump, ahead, furthest, largest):
        self._reader, self._arrays, self._jump = reader, arrays, jump
        self._ahead, self._furthest, self._largest = ahead, furthest, largest
        self._found = []
        self._rows = []

    def take_all(self, topics, bodies, read, following):
        """Nothing: all messages go by `match` and `take`."""
        return -1

    def match(self, topics, bodies):
        """Which of these messages are not expected."""
        self._found = [self._reader.find(topic, body) for topic, body in zip(topics, bodies, strict=True)]
        return [m for m, found in enumerate(self._found) if found is None]

    def take(self, read, busy, following):
        """How many frames just follow, and which expected messages are left to the plain way."""
        plain = set(busy)
        while True:
            newest = dict(enumerate(self._arrays.newest.tolist()))
            more = set()
            asked: dict[int, int] = {}
            for found in self._found:
                if found is None:
                    continue
                if plain.isdisjoint(found[0]) and self._follows(found, newest, asked, following):
                    continue
                more |= set(found[0]) - plain
                plain |= more
            if not more:
                break
        self._rows, left = [], []
        for m, found in enumerate(self._found):
            if found is None:
                continue
            places, seq, time_ns, xyz, confidence = found
            if not plain.isdisjoint(places):
                left.append(m)
                continue
            joints = len(confidence) // (4 * len(places))
            poses = (
                np.frombuffer(xyz, "<f4").reshape(-1, joints, 3),
                np.frombuffer(confidence, "<f4").reshape(-1, joints),
            )
            for place, *pose in zip(places, *poses, strict=True):
                slot = seq - int(self._arrays.origin[place])
                self._arrays.heard[place] = read[m]
                self._arrays.newest[place] = max(self._arrays.newest[place], slot)
                self._rows.append((place, slot, read[m], time_ns, *pose))
        return len(self._rows), left

    def rows(self):
        """The frames that were taken."""
        place, slot, read, captured, xyz, confidence = zip(*self._rows, strict=True)
        numbers = (np.array(column, np.int64) for column in (slot, read, captured))
        return np.array(place, np.int32), *numbers, np.array(xyz, np.float32), np.array(confidence, np.float32)

    def _follows(self, found, newest, asked, following):
        places, seq, time_ns, xyz, confidence = found
        if max(seq, time_ns) > self._largest or not np.isfinite(np.frombuffer(xyz + confidence, "<f4")).all():
            return False
        for place in places:
            slot, first = seq - int(self._arrays.origin[place]), int(following[place])
            if not 0 <= slot <= newest[place] + self._jump or slot <= asked.get(place, -1):
                return False
            if not first - self._furthest <= slot < first + self._ahead:
                return False
            if self._arrays.slot[place, slot % self._arrays.ring] == slot:
                return False
            asked[place] = slot
            newest[place] = max(newest[place], slot)
        return True
