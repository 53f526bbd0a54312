"""What must hold of every session, whatever is in it. Each check raises AssertionError, or lets through what it finds.

- `decode` gives a message or one `WireError` of one line; what it gives, `encode` takes, and the bytes mean the same.
- The C++ reader and its Python twin find the same frames, and none that `decode` would refuse or read otherwise.
- The table in C++ (reader, fast path, ring, books) and the one in Python say the same: frames, refusals, events,
  counts, deadlines and poses; and each pose can be published: the message that is made of it is one that `decode`
  takes.
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from typing import Any

import numpy as np

from rtskel import wire
from rtskel.errors import WireError
from rtskel.refine import RefinerBank
from rtskel.serve import Emission, StreamConfig, StreamTable
from rtskel.wire.fast import PoseWriter, RawReader
from tests.fuzz.sessions import JOINTS, Message, Session
from tests.oracles import streams_in_python
from tests.oracles.messages import OracleReader, OracleWriter
from tests.oracles.ring import ring_maker
from tests.test_streams import BlendEngine

MOST_WAKES = 20_000
"""How often a table may ask to be woken within one turn. A second of 60 slots of a few streams is far below it."""

START = 10**15


def check(session: Session, *, twin: bool = True) -> None:
    """All of it. `twin`: also the table in Python, which takes three quarters of the time."""
    for _, messages in session:
        for topic, body in messages:
            check_message(topic, body)
    check_reader(session)
    check_table(session, twin=twin)


# --- one message ---


def decoded(topic: bytes, body: bytes) -> wire.Message | None:
    """The message, or None if it is refused as it should be."""
    try:
        return wire.decode(topic, body)
    except WireError as error:
        text = str(error)
        assert text.isprintable(), f"a refusal that no terminal should see: {text[:600]!r}"
        assert len(text) < 500
        return None


def check_message(topic: bytes, body: bytes) -> None:
    """One message alone."""
    message = decoded(topic, body)
    if message is None:
        return
    if isinstance(message, (wire.RawPose, wire.RawBatch)):
        xyz, confidence, _ = wire.clean_joints(message.xyz, message.confidence)
        message = dataclasses.replace(message, xyz=xyz, confidence=confidence)
    again = wire.decode(*wire.encode(message))
    assert plain(again) == plain(message)


def plain(message: object) -> dict[str, object]:
    """A message's fields, comparable bit for bit."""
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}  # type: ignore[arg-type]
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in fields.items()}


# --- the reader ---


def check_reader(session: Session) -> None:
    """Both readers over all turns; every message that is accepted is expected from then on."""
    readers = [RawReader(JOINTS), OracleReader(JOINTS)]
    for _, messages in session:
        topics, bodies = [topic for topic, _ in messages], [body for _, body in messages]
        rows, rows_2 = [reader.compiled.read(topics, bodies) for reader in readers]
        assert list(map(tuple, rows)) == list(map(tuple, rows_2))
        read = {row[0] for row in rows}
        for k in range(len(messages)):
            message = decoded(topics[k], bodies[k])
            if k not in read:
                _expect(readers, topics[k], bodies[k], message)
                continue
            assert isinstance(message, (wire.RawPose, wire.RawBatch)), f"message {k} is read, and decode refuses it"
            poses = [message] if isinstance(message, wire.RawPose) else message.poses()
            expected = [(p.seq, p.time_ns, p.xyz.tobytes(), p.confidence.tobytes()) for p in poses]
            assert [tuple(row[2:]) for row in rows if row[0] == k] == expected
            cut = [bodies[k][:length] for length in range(min(len(bodies[k]), 160))]
            for reader in readers:  # none of them is read, nor anything beyond its end
                assert not reader.compiled.read([topics[k]] * len(cut), cut)


def _expect(readers: list[RawReader], topic: bytes, body: bytes, message: wire.Message | None) -> None:
    if isinstance(message, (wire.RawPose, wire.RawBatch)) and message.seq is not None:
        people = 1 if isinstance(message, wire.RawPose) else len(message.streams)
        if message.xyz.shape[-2] == JOINTS:
            for reader in readers:
                reader.expect(topic, body, range(people))


# --- the table ---


class Tables:
    """A table under a clock of the session's own, with an engine that takes no time."""

    def __init__(self, *, native: bool) -> None:
        config = StreamConfig(max_streams=6, max_gap=25, ahead=40)
        options = {"lookahead": (0, 3), "radius": 1, "streams": 6, "ahead": config.ahead}
        bank = RefinerBank(BlendEngine(window=4), ring=ring_maker(native), **options)
        with nullcontext() if native else streams_in_python():
            self.table = StreamTable(bank, config, epoch=77, model="blend")
        self.writer = PoseWriter(JOINTS) if native else OracleWriter(JOINTS)
        self.kinds: dict[tuple[int, int], int] = {}  # as the server keeps them
        self.now = START
        self.said: list[object] = []
        self.poses: list[tuple[Any, ...]] = []

    def turn(self, wait: int, messages: list[Message]) -> None:
        """Let the clock run, then read the messages."""
        until, wakes = self.now + wait, 0
        while (deadline := self.table.next_deadline()) <= until:
            assert not math.isnan(deadline)
            self.now = max(self.now, math.ceil(deadline))
            self.table.advance(self.now)
            self._work()
            wakes += 1
            assert wakes < MOST_WAKES, "the table asks to be woken without end"
        self.now = until
        topics, bodies = [topic for topic, _ in messages], [body for _, body in messages]
        refused: list[tuple[int, str]] = []

        def refuse(which: int, error: WireError) -> None:
            refused.append((which, str(error)))
            self.table.offend(wire.stream_of(topics[which]) or "", error.kind, str(error), self.now)

        frames = self.table.receive(topics, bodies, [self.now] * len(messages), refuse)
        self.said.append((frames, sorted(refused)))
        self._work()
        self.table.advance(self.now)
        self._work()
        self.said.append((dict(self.table.counts), self.table.streams, self.table.backlog, self.table.next_deadline()))

    def shutdown(self) -> None:
        """End all; nothing may be left."""
        self.table.shutdown(self.now)
        self._work()
        assert self.table.idle, "the table is not done at the end"

    def _work(self) -> None:
        self._tell()
        while self.table.pending:
            self.table.run(self._deliver, lambda: self.now)
            self._tell()

    def _tell(self) -> None:
        for event in self.table.take_events():
            assert plain(wire.decode(*wire.encode(event))) == plain(event)
            self.said.append(plain(event))

    def _deliver(self, emission: Emission) -> None:
        for place in self.table.take_changed():
            for lookahead in self.table.bank.lookaheads:
                if (kind := self.kinds.pop((place, lookahead), None)) is not None:
                    self.writer.discard(kind)
        kinds = []
        for pose in zip(emission.place.tolist(), emission.lookahead.tolist(), strict=True):
            if pose not in self.kinds:
                self.kinds[pose] = self.writer.add(self.table.sample(*pose))
            kinds.append(self.kinds[pose])
        times = emission.infer_start_ns, emission.infer_end_ns, self.now
        bodies = self.writer.write(kinds, emission.numbers, *times, emission.xyz, emission.confidence, emission.sigma)
        for kind, body in zip(kinds, bodies, strict=True):
            pose = wire.decode(self.writer.topics[kind], body)
            assert isinstance(pose, wire.RefinedPose)
            self.said.append((pose.stream, pose.lookahead, pose.seq, pose.source_seq, pose.source_time_ns))
            self.said.append(
                (pose.receive_ns, pose.windows, pose.flags, pose.fps, pose.axes, pose.mirrored, pose.about)
            )
            self.poses.append((pose.xyz, pose.confidence, pose.sigma))


def check_table(session: Session, *, twin: bool = True) -> None:
    """A table in C++, and one in Python beside it."""
    both = [Tables(native=True), *([Tables(native=False)] if twin else [])]
    for wait, messages in session:
        for tables in both:
            tables.turn(wait, messages)
        _compare(both)
    for tables in both:
        tables.shutdown()
    _compare(both)


def _compare(both: list[Tables]) -> None:
    native, other = both[0], both[-1]
    for ours, theirs in zip(native.said, other.said, strict=True):
        assert repr(ours) == repr(theirs), f"C++ says {str(ours)[:300]}, Python {str(theirs)[:300]}"
    if native.poses:
        (xyz, confidence, sigma), *rest = (list(map(np.array, zip(*tables.poses, strict=True))) for tables in both)
        for xyz_2, confidence_2, sigma_2 in rest:
            assert xyz.tobytes() == xyz_2.tobytes(), "xyz differs"
            assert confidence.tobytes() == confidence_2.tobytes(), "confidence differs"
            np.testing.assert_allclose(sigma, sigma_2, rtol=1e-5)
    for tables in both:
        tables.said.clear()
        tables.poses.clear()
