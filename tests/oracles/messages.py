"""What the compiled part does with messages, in Python: class for class what is in engines/native/bulk.h."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtskel.wire import MAX_BODY, MAX_COUNT, MAX_SPAN_S, MAX_TIME, MIN_FPS, RawTemplate, RefinedEncoder
from rtskel.wire.fast import PoseWriter, RawReader


class PythonReader:
    """`RawReader` of the compiled part."""

    def __init__(self, joints: int) -> None:
        self._joints = joints
        self._expected: dict[bytes, list[tuple[RawTemplate, list[int]]]] = {}

    def add(self, template: RawTemplate, places: list[int]) -> None:
        """Messages of the template are of these places."""
        self._expected.setdefault(template.topic, []).append((template, places))

    def remove(self, template: RawTemplate) -> None:
        """Undoes `add`."""
        kept = [entry for entry in self._expected[template.topic] if entry[0] != template]
        if kept:
            self._expected[template.topic] = kept
        else:
            del self._expected[template.topic]

    def find(self, topic: bytes, body: bytes) -> tuple[list[int], int, int, bytes, bytes] | None:
        """Places, seq, time_ns, xyz and confidence of a message, if it is expected."""
        for template, places in self._expected.get(topic, ()) if len(body) <= MAX_BODY else ():
            if (found := _split(template, body)) is not None:
                return places, *found
        return None

    def read(self, topics: list[bytes], bodies: list[bytes]) -> list[tuple[int, int, int, int, bytes, bytes]]:
        """The frames of all expected messages: message, place, seq, time_ns, xyz and confidence."""
        frames = []
        for m, (topic, body) in enumerate(zip(topics, bodies, strict=True)):
            if (found := self.find(topic, body)) is not None:
                places, seq, time_ns, xyz, confidence = found
                size = 4 * self._joints
                for k, place in enumerate(places):
                    arrays = xyz[3 * size * k : 3 * size * (k + 1)], confidence[size * k : size * (k + 1)]
                    frames.append((m, place, seq, time_ns, *arrays))
        return frames


def _split(template: RawTemplate, body: bytes) -> tuple[int, int, bytes, bytes] | None:
    """seq, time_ns, xyz and confidence of a message, if it is one of the template."""
    found: dict[str, Any] = {}
    at = 0
    for piece, name in zip(template.pieces, (*template.varying, ""), strict=True):
        if not body.startswith(piece, at):
            return None
        at += len(piece)
        if name == "numbers":
            seq, at = _unsigned(body, at)
            time_ns, at = _unsigned(body, at)
            if not 0 <= seq <= MIN_FPS * MAX_SPAN_S or not 0 <= time_ns <= MAX_TIME:
                return None
            found[name] = seq, time_ns
        elif name:
            size = 4 * template.cells * (3 if name == "xyz" else 1)
            found[name] = body[at : at + size]
            at += size
    return (*found["numbers"], found["xyz"], found["confidence"]) if at == len(body) else None


def _unsigned(body: bytes, at: int) -> tuple[int, int]:
    """A msgpack integer of at least 0 and where it ends; -1 if there is none."""
    first = body[at] if 0 <= at < len(body) else 0xC0
    if first < 0x80:
        return first, at + 1
    if not (0xCC <= first <= 0xCF or 0xD0 <= first <= 0xD3):
        return -1, -1
    size = 1 << (first & 3)
    digits = body[at + 1 : at + 1 + size]
    value = int.from_bytes(digits, "big", signed=first >= 0xD0)
    return (value, at + 1 + size) if len(digits) == size and 0 <= value <= MAX_COUNT else (-1, -1)


class PythonWriter:
    """`PoseWriter` of the compiled part."""

    def __init__(self) -> None:
        self._encoders: list[RefinedEncoder | None] = []
        self._free: list[int] = []

    def add(self, encoder: RefinedEncoder) -> int:
        """See `PoseWriter`."""
        if not self._free:
            self._free.append(len(self._encoders))
            self._encoders.append(None)
        kind = self._free.pop()
        self._encoders[kind] = encoder
        return kind

    def discard(self, kind: int) -> None:
        """See `PoseWriter`."""
        self._encoders[kind] = None
        self._free.append(kind)

    def write(
        self,
        kinds: list[int],
        numbers: np.ndarray,
        infer_start_ns: int,
        infer_end_ns: int,
        publish_ns: int,
        xyz: np.ndarray,
        confidence: np.ndarray,
        sigma: np.ndarray,
    ) -> list[bytes]:
        """See `PoseWriter`."""
        bodies = []
        for k, row, *arrays in zip(kinds, numbers.tolist(), xyz, confidence, confidence == 0, sigma, strict=True):
            seq, source_seq, source_time_ns, receive_ns, windows, flags = row
            source = None if source_seq < 0 else source_seq, source_time_ns
            times = receive_ns, infer_start_ns, infer_end_ns, publish_ns
            encoder = self._encoders[k]
            assert encoder is not None
            bodies.append(encoder(seq, *source, *times, windows, flags, *arrays))
        return bodies


class OracleReader(RawReader):
    """A `RawReader` that compares in Python."""

    _made = staticmethod(PythonReader)


class OracleWriter(PoseWriter):
    """A `PoseWriter` that writes in Python."""

    _made = staticmethod(lambda joints: PythonWriter())
