"""Many messages at once: frames out of raw messages, messages out of refined poses.

All messages of a stream are alike but for a few numbers and their arrays (`rtskel.wire.raw_template`,
`rtskel.wire.RefinedEncoder`), whatever order and forms a client writes its fields in. Once one of them was decoded or
encoded with every check, the others need only be compared with it or copied from it. `RawReader` and `PoseWriter` do
that for a whole batch in one call, in C++ (engines/native/bulk.h) or in Python, which is the specification; the same
tests run both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rtskel.wire.fields import MAX_COUNT
from rtskel.wire.messages import RefinedPose
from rtskel.wire.templates import RawTemplate, RefinedEncoder, raw_template

MOST_EXPECTED = 64
"""How many different messages are expected on one topic, and of one stream: no sender fills the memory. Of more, the
oldest are forgotten.
"""


@dataclass(frozen=True)
class RawFrames:
    """Frames that were expected, a row each, in the order in which they came.

    Attributes:
        place: [M] int32, of the stream.
        message: [M] int32, which of the messages it was in; ascending.
        seq: [M] int64.
        time_ns: [M] int64.
        xyz: [M, J, 3] float32, as it came: NaN and infinity included.
        confidence: [M, J] float32.
        finite: there is no NaN and no infinity in them.
    """

    place: NDArray[np.int32]
    message: NDArray[np.int32]
    seq: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    xyz: NDArray[np.float32]
    confidence: NDArray[np.float32]
    finite: bool = True

    @classmethod
    def empty(cls, rows: int, joints: int) -> RawFrames:
        """Room for that many rows."""
        return cls(
            np.empty(rows, np.int32),
            np.empty(rows, np.int32),
            np.empty(rows, np.int64),
            np.empty(rows, np.int64),
            np.empty((rows, joints, 3), np.float32),
            np.empty((rows, joints), np.float32),
        )

    def __len__(self) -> int:
        return len(self.place)

    def select(self, rows: NDArray[np.bool_]) -> RawFrames:
        """Some of the rows."""
        numbers = self.place[rows], self.message[rows], self.seq[rows], self.time_ns[rows]
        return RawFrames(*numbers, self.xyz[rows], self.confidence[rows], self.finite)


class _Reader(Protocol):
    """What `RawReader` computes with."""

    def add(self, template: RawTemplate, places: list[int]) -> None: ...
    def remove(self, template: RawTemplate) -> None: ...
    def match(self, topics: list[bytes], bodies: list[bytes]) -> tuple[int, list[int]]: ...
    def take(self, frames: RawFrames) -> bool: ...


class RawReader:
    """Reads raw messages of streams that are known: each is compared with a message that was accepted before.

    Args:
        joints: of a pose, J.
        native: in C++, or in Python.

    Attributes:
        compiled: the inner part, if it is in C++.
    """

    def __init__(self, joints: int, *, native: bool = True) -> None:
        self._joints = joints
        self.compiled: Any = _native().RawReader(joints) if native else None
        self._reader: _Reader = self.compiled or _PythonReader(joints)
        self._expected: dict[RawTemplate, list[int]] = {}  # places
        self._by_topic: defaultdict[bytes, dict[RawTemplate, None]] = defaultdict(dict)  # oldest first
        self._by_place: defaultdict[int, dict[RawTemplate, None]] = defaultdict(dict)

    def expect(self, topic: bytes, body: bytes, places: Sequence[int]) -> None:
        """From now on, messages like this one, but for seq, time_ns and arrays, are of the streams at these places.

        Its poses have J joints, and a place each.
        """
        template = raw_template(topic, body)
        if template is None or template in self._expected:
            return
        assert template.cells == len(places) * self._joints
        for others in self._by_topic[topic], *(self._by_place[place] for place in places):
            if len(others) == MOST_EXPECTED:
                self._drop(next(iter(others)))
        self._expected[template] = list(places)
        self._reader.add(template, self._expected[template])
        self._by_topic[topic][template] = None
        for place in places:
            self._by_place[place][template] = None

    def forget(self, place: int) -> None:
        """Expect no messages of that place any more."""
        for template in list(self._by_place.get(place, ())):
            self._drop(template)

    def _drop(self, template: RawTemplate) -> None:
        places = self._expected.pop(template)
        self._reader.remove(template)
        indices: list[tuple[Any, Any]] = [(self._by_topic, template.topic)]
        for index, entry in [*indices, *((self._by_place, place) for place in places)]:
            del index[entry][template]
            if not index[entry]:
                del index[entry]

    def read(self, topics: list[bytes], bodies: list[bytes]) -> tuple[RawFrames, list[int]]:
        """The frames of those messages that are expected, and which messages (ascending) are not: `rtskel.wire.decode`
        says what they are.
        """
        rows, others = self._reader.match(topics, bodies)
        frames = RawFrames.empty(rows, self._joints)
        if rows and not self._reader.take(frames):
            frames = replace(frames, finite=False)
        return frames, others


class _PythonReader:
    """The inner part of `RawReader` in Python: the specification."""

    def __init__(self, joints: int) -> None:
        self._joints = joints
        self._expected: dict[bytes, list[tuple[RawTemplate, list[int]]]] = {}
        self._matched: list[tuple[int, list[int], int, int, bytes, bytes]] = []

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

    def match(self, topics: list[bytes], bodies: list[bytes]) -> tuple[int, list[int]]:
        """How many frames are expected, which `take` gives next, and which messages are not."""
        self._matched.clear()
        others = []
        for message, (topic, body) in enumerate(zip(topics, bodies, strict=True)):
            for template, places in self._expected.get(topic, ()):
                if (found := _split(template, body)) is not None:
                    self._matched.append((message, places, *found))
                    break
            else:
                others.append(message)
        return sum(len(places) for _, places, *_ in self._matched), others

    def take(self, frames: RawFrames) -> bool:
        """The frames that `match` found; whether all are finite."""
        row = 0
        for message, places, seq, time_ns, xyz, confidence in self._matched:
            rows = slice(row, row := row + len(places))
            frames.place[rows] = places
            frames.message[rows], frames.seq[rows], frames.time_ns[rows] = message, seq, time_ns
            frames.xyz[rows] = np.frombuffer(xyz, "<f4").reshape(-1, self._joints, 3)
            frames.confidence[rows] = np.frombuffer(confidence, "<f4").reshape(-1, self._joints)
        self._matched.clear()
        return bool(np.isfinite(frames.xyz).all() and np.isfinite(frames.confidence).all())


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
            if seq < 0 or time_ns < 0:
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


class _Writer(Protocol):
    """What `PoseWriter` computes with."""

    def add(self, encoder: RefinedEncoder) -> int: ...
    def discard(self, kind: int) -> None: ...
    def write(
        self,
        kinds: list[int],
        numbers: NDArray[np.int64],
        infer_start_ns: int,
        infer_end_ns: int,
        publish_ns: int,
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        sigma: NDArray[np.float32],
    ) -> list[bytes]: ...


class PoseWriter:
    """Encodes refined poses: those of each stream and lookahead alike but for what varies, see `RefinedEncoder`.

    Args:
        joints: of a pose, J.
        native: in C++, or in Python.
    """

    def __init__(self, joints: int, *, native: bool = True) -> None:
        self._writer: _Writer = _native().PoseWriter(joints) if native else _PythonWriter()
        self.topics: list[bytes] = []
        """By kind."""

    def add(self, sample: RefinedPose) -> int:
        """A kind of poses, by one of them; what `write` is told. WireError if it cannot be encoded."""
        encoder = RefinedEncoder(sample)
        kind = self._writer.add(encoder)
        if kind == len(self.topics):
            self.topics.append(encoder.topic)
        else:
            self.topics[kind] = encoder.topic
        return kind

    def discard(self, kind: int) -> None:
        """There are no more poses of that kind; its number may be given to another."""
        self._writer.discard(kind)

    def write(
        self,
        kinds: list[int],
        numbers: NDArray[np.int64],
        infer_start_ns: int,
        infer_end_ns: int,
        publish_ns: int,
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        sigma: NDArray[np.float32],
    ) -> list[bytes]:
        """The bodies of M poses. Nothing is checked, as in `RefinedEncoder`.

        Args:
            kinds: [M], as `add` gave them.
            numbers: [M, 6], the columns of `RefinedBatch.numbers`.
            xyz: [M, J, 3], and the others [M, J]. Joints of confidence 0 are those that are missing.
        """
        return self._writer.write(kinds, numbers, infer_start_ns, infer_end_ns, publish_ns, xyz, confidence, sigma)


class _PythonWriter:
    """`PoseWriter` in Python: the specification."""

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
        numbers: NDArray[np.int64],
        infer_start_ns: int,
        infer_end_ns: int,
        publish_ns: int,
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        sigma: NDArray[np.float32],
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


def _native() -> Any:
    from rtskel import _native  # type: ignore[attr-defined]

    return _native
