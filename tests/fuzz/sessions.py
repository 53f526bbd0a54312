"""Hostile sessions: what publishers of all kinds might send to the raw port, message by message.

A session is a list of turns; a turn is how many ns pass before it, and the messages (topic, body) that are read
together in it. All randomness comes from one `random.Random`, so that a session is known by its seed.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from rtskel import wire

Message = tuple[bytes, bytes]
Turn = tuple[int, list[Message]]
Session = list[Turn]

JOINTS = 50
SECOND = 1_000_000_000
CORPUS = Path(__file__).with_name("corpus")

INTEGERS = [
    *(0, 1, 2, 3, 24, 25, 26, 27, 64, 127, 128, 255, 256, 1000, 65535, 65536, 10**6, 10**9, 10**10),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62 - 26, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**64 - 1),
    *(-1, -32, -33, -(2**31), -(2**62), -(2**63)),
]
REALS = [
    *(0.0, -0.0, 5e-324, 1e-310, 1e-100, 1e-10, 1e-9, 1e-3, 0.09, 0.1, 1.0, 15.0, 24.0, 25.0, 29.97, 30.0, 60.0),
    *(240.0, 999.9, 1000.0, 1001.0, 1e4, 10001.0, 1e9, 1e300, 1.7e308, -1.0, -1e-310, math.inf, -math.inf, math.nan),
]
FLOATS = [0.0, -0.0, 1e-45, 1e-38, 1e-3, 1.0, 1e3, 1e15, 1e19, 1e30, 3e38, -3.4e38, math.inf, -math.inf, math.nan]
TEXTS = [
    "",
    "a",
    "x" * 64,
    "x" * 65,
    "x" * 128,
    "x" * 129,
    "x" * 5000,
    "a/b",
    "../..",
    "\x1b]0;t\x07\n",
    "\u00e4",
    "RDT",
]
AXES = ["RDT", "RDA", "RUA", "RUT", "LDT", "DRT", "TRD", "RRT", "rdt"]
ABOUTS: list[Any] = [
    {"unit": "mm"},
    {"unit": "px", "image_size": [1280, 720], "person": "Ann", "view": "left"},
    {"image_size": [640, 480], "lens": "wide"},
    {"person": "\x1b[2J"},
    {"image_size": [0, 2**62]},
    {},
]
OTHERS: list[Any] = [None, True, False, b"", b"\x00" * 12, [], [[]], {}, {"v": 1}, 1.5, "1"]


# --- writing msgpack in every form that it allows ---


def packed(value: Any, rng: random.Random, plain: float = 0.9) -> bytes:
    """msgpack of a value; each part in its shortest form with probability `plain`, else in any that can hold it."""
    if rng.random() < plain and type(value) not in (list, dict):
        return msgpack.packb(value)
    if type(value) is int:
        return _integer(value, rng)
    if type(value) is float:
        short = struct.pack(">f", value) if not math.isfinite(value) or abs(value) < 3e38 else b""
        return rng.choice([b"\xcb" + struct.pack(">d", value), *([b"\xca" + short] if short else [])])
    if type(value) is str:
        data = value.encode()
        return _sized(len(data), (b"\xd9", b"\xda", b"\xdb"), rng) + data
    if type(value) is bytes:
        return _sized(len(value), (b"\xc4", b"\xc5", b"\xc6"), rng) + value
    if type(value) is list:
        return _head(len(value), 0x90, (b"\xdc", b"\xdd"), rng, plain) + b"".join(packed(v, rng, plain) for v in value)
    if type(value) is dict:
        items = (packed(k, rng, plain) + packed(v, rng, plain) for k, v in value.items())
        return _head(len(value), 0x80, (b"\xde", b"\xdf"), rng, plain) + b"".join(items)
    return msgpack.packb(value)


def _integer(value: int, rng: random.Random) -> bytes:
    forms = []
    for code, size, signed in (
        *((0xCC, 1, False), (0xCD, 2, False), (0xCE, 4, False), (0xCF, 8, False)),
        *((0xD0, 1, True), (0xD1, 2, True), (0xD2, 4, True), (0xD3, 8, True)),
    ):
        low, high = (-(1 << 8 * size - 1), 1 << 8 * size - 1) if signed else (0, 1 << 8 * size)
        if low <= value < high:
            forms.append(bytes([code]) + value.to_bytes(size, "big", signed=signed))
    return rng.choice(forms)


def _sized(length: int, codes: tuple[bytes, bytes, bytes], rng: random.Random) -> bytes:
    fits = [k for k in range(3) if length < 1 << (8 << k)]
    which = rng.choice(fits)
    return codes[which] + length.to_bytes(1 << which, "big")


def _head(length: int, short: int, codes: tuple[bytes, bytes], rng: random.Random, plain: float) -> bytes:
    if length < 16 and rng.random() < plain:
        return bytes([short + length])
    which = 1 if length >= 1 << 16 or rng.random() < 0.5 else 0
    return codes[which] + length.to_bytes(2 << which, "big")


# --- publishers ---


@dataclass
class Publisher:
    """Sends messages of one stream or group; what it says of itself is drawn once, and changed at times."""

    rng: random.Random
    names: list[str]
    group: str | None
    style: int
    fps: float = 25.0
    seq: int | None = 0
    time: int = 10**12
    fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, rng: random.Random) -> Publisher:
        people = rng.choice([1, 1, 1, 2, 3, 5])
        group = rng.choice(["g", "h"]) if people > 1 or rng.random() < 0.2 else None
        names = rng.sample(["a", "b", "c", "d", "e", "f", "x" * 64, ".", "-"], people)
        usual = rng.random() < 0.7
        made = cls(rng, names, group, style=rng.getrandbits(32))
        made.fps = rng.choice([25.0, 30.0, 60.0]) if usual else rng.choice(REALS)
        made.seq = rng.choice([0, 0, 0, 3, 100, None]) if usual else rng.choice([*INTEGERS, None])
        made.time = 10**12 if usual else rng.choice(INTEGERS)
        made.fields = {
            "epoch": rng.choice([1, 2, 2**48 - 1]),
            "clock": rng.choice(["monotonic", "unix", "film"]),
            "skeleton": "upper-body-50",
            "axes": "RDT" if usual else rng.choice(AXES),
            "mirrored": rng.random() < 0.2,
            "lossless": rng.random() < 0.2,
            "dims": 3,
            "about": None if usual and rng.random() < 0.7 else rng.choice(ABOUTS),
        }
        return made

    def change(self) -> None:
        """Something that real publishers do now and then, and something that none should."""
        rng = self.rng
        what = rng.choice(
            ["epoch", "fps", "seq", "time", "clock", "axes", "mirrored", "lossless", "style", "timed", "dims", "about"]
        )
        if what == "fps":
            self.fps = rng.choice(REALS)
        elif what == "seq":
            leap = rng.choice([-100, -5, -1, 2, 5, 20, 27, 64, 500])
            self.seq = rng.choice(INTEGERS) if self.seq is None or rng.random() < 0.5 else _sayable(self.seq + leap)
        elif what == "time":
            leap = rng.choice([-1, 1, 60]) * SECOND
            self.time = rng.choice([rng.choice(INTEGERS), _sayable(self.time + leap)])
        elif what == "style":
            self.style = rng.getrandbits(32)
        elif what == "timed":
            self.seq = 0 if self.seq is None else None
        else:
            draw: dict[str, Callable[[], Any]] = {
                "epoch": lambda: rng.choice([1, 2, 3, 2**48 - 1]),
                "clock": lambda: rng.choice(["monotonic", "unix", "film"]),
                "axes": lambda: rng.choice(AXES),
                "mirrored": lambda: rng.random() < 0.5,
                "lossless": lambda: rng.random() < 0.5,
                "dims": lambda: rng.choice([2, 3]),
                "about": lambda: rng.choice([None, *ABOUTS]),
            }
            self.fields[what] = draw[what]()

    def frame(self) -> Message:
        """The next frame."""
        rng, f = self.rng, self.fields
        people = len(self.names)
        xyz = np.frombuffer(rng.randbytes(people * JOINTS * 3 * 2), np.uint16).astype(np.float32) / 65536 - 0.5
        confidence = np.ones(people * JOINTS, np.float32)
        if rng.random() < 0.15:
            for _ in range(rng.choice([1, 3, people * JOINTS])):
                array = rng.choice([xyz, confidence])
                array[rng.randrange(len(array))] = np.float32(rng.choice(FLOATS))
        if rng.random() < 0.1:
            confidence[rng.randrange(people * JOINTS) :] = 0
        body: dict[str, Any] = {"v": 1, "kind": "raw" if self.group is None else "raw_batch"}
        if self.group is None:
            body["stream"] = self.names[0]
        else:
            body |= {"group": self.group, "streams": list(self.names)}
        body["source"] = [f["epoch"], self.seq, self.time, f["clock"], self.fps]
        body["space"] = [f["skeleton"], JOINTS, f["axes"], f["mirrored"]]
        if f["lossless"]:
            body["lossless"] = True
        if f["dims"] != 3:
            body["dims"] = f["dims"]
        if f["about"] is not None:
            body["about"] = f["about"]
        body |= {"xyz": xyz.tobytes(), "confidence": confidence.tobytes()}
        if self.seq is not None:
            self.seq = _sayable(self.seq + 1)
        self.time = _sayable(self.time + round(SECOND / (self.fps if 0.1 <= self.fps <= 1000 else 25.0)))
        return self._topic(), packed(body, random.Random(self.style), 1 - 0.1 * (self.style % 4))

    def end(self) -> Message:
        """The end of one of its streams."""
        rng = self.rng
        stated = self.seq if rng.random() < 0.7 else rng.choice([*INTEGERS, None])
        stream = rng.choice(self.names)
        body = {"v": 1, "kind": "end", "stream": stream, "source": [self.fields["epoch"], stated, self.time, "unix"]}
        return b"rts1/raw/%b/" % stream.encode(), packed(body, rng)

    def _topic(self) -> bytes:
        if self.group is None:
            return b"rts1/raw/%b/" % self.names[0].encode()
        return b"rts1/raw_batch/%b/" % self.group.encode()


def _sayable(number: int) -> int:
    """The nearest integer that msgpack can say."""
    return min(max(number, -(2**63)), 2**64 - 1)


# --- mutation ---


def mutated(message: Message, others: list[Message], rng: random.Random) -> Message:
    """A message with something changed in it: a field, a length, a byte, its topic."""
    topic, body = message
    how = rng.random()
    if how < 0.55:
        try:
            fields = msgpack.unpackb(body, strict_map_key=False)
        except Exception:
            return topic, _bytes_changed(body, rng)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            fields = _value_changed(fields, rng)
        try:
            return topic, packed(fields, rng)
        except (ValueError, OverflowError, TypeError, UnicodeEncodeError):
            return topic, body
    if how < 0.85:
        for _ in range(rng.choice([1, 1, 2, 8])):
            body = _bytes_changed(body, rng)
        return topic, body
    if how < 0.95:
        other = rng.choice(others)
        at, other_at = rng.randrange(len(body) + 1), rng.randrange(len(other[1]) + 1)
        return rng.choice([topic, other[0]]), rng.choice([body[:at] + other[1][other_at:], other[1], body + other[1]])
    parts = rng.choice(
        [b"rts1/raw/", b"rts1/raw_batch/", b"rts1/refined/", b"rts2/raw/", b"rts1/event/", b"", b"\xff/"]
    )
    return parts + rng.choice([b"a/", b"a", b"", b"g/", b"\x00/", b"x" * 300 + b"/"]), body


def _value_changed(value: Any, rng: random.Random) -> Any:
    if type(value) is dict and value and rng.random() < 0.9:
        changed = dict(value)
        key = rng.choice(list(changed))
        how = rng.random()
        if how < 0.08:
            del changed[key]
        elif how < 0.14:
            changed[rng.choice(["extra", "v", "kind", "lossless", "dims", "about", "streams", key])] = rng.choice(
                OTHERS
            )
        elif how < 0.17:
            return dict(rng.sample(list(changed.items()), len(changed)))
        else:
            changed[key] = _value_changed(changed[key], rng)
        return changed
    if type(value) is list and value and rng.random() < 0.9:
        changed_list = list(value)
        at = rng.randrange(len(value))
        how = rng.random()
        if how < 0.08:
            del changed_list[at]
        elif how < 0.16:
            changed_list.insert(at, rng.choice(OTHERS))
        elif how < 0.2:
            changed_list *= rng.choice([0, 2, 300])
        else:
            changed_list[at] = _value_changed(value[at], rng)
        return changed_list
    if type(value) is bytes and rng.random() < 0.8:
        how = rng.random()
        if how < 0.5 and len(value) >= 4:
            at = 4 * rng.randrange(len(value) // 4)
            return value[:at] + struct.pack("<f", rng.choice(FLOATS[:9] + FLOATS[12:])) + value[at + 4 :]
        return rng.choice([value[:-1], value + b"\0", value * 2, value[: len(value) // 2], value[4:]])
    usual = (
        INTEGERS if type(value) is int else REALS if type(value) is float else TEXTS if type(value) is str else OTHERS
    )
    return rng.choice(usual if rng.random() < 0.8 else [*INTEGERS, *REALS, *TEXTS, *OTHERS])


def _bytes_changed(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return rng.randbytes(rng.choice([0, 1, 9]))
    at = rng.randrange(min(len(data), 160) if rng.random() < 0.7 else len(data))  # headers come first
    how = rng.random()
    if how < 0.4:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if how < 0.6:
        return (
            data[:at]
            + bytes([rng.choice([0, 0x7F, 0x80, 0xC0, 0xC1, 0xC6, 0xCF, 0xD3, 0xDD, 0xDF, 0xFF])])
            + data[at + 1 :]
        )
    if how < 0.75:
        return data[:at]
    if how < 0.9:
        return data[:at] + data[min(len(data), at + rng.choice([1, 2, 4, 8])) :]
    return data[:at] + rng.randbytes(rng.choice([1, 4, 8, 70_000 if rng.random() < 0.02 else 2])) + data[at:]


def session(seed: str) -> Session:
    """A session by its seed: a few publishers, most frames good, so that what is bad meets every state."""
    rng = random.Random(seed)
    publishers = [Publisher.draw(rng) for _ in range(rng.choice([1, 1, 2, 3]))]
    wild = rng.choice([0.0, 0.02, 0.1, 0.5])
    turns: Session = []
    sent: list[Message] = [(b"rts1/raw/a/", b"\x80")]
    for _ in range(rng.choice([3, 8, 20, 40])):
        messages: list[Message] = []
        for publisher in publishers:
            for _ in range(rng.choice([0, 1, 1, 1, 2, 5])):
                if rng.random() < 0.04:
                    publisher.change()
                messages.append(publisher.end() if rng.random() < 0.02 else publisher.frame())
                if rng.random() < wild:
                    messages[-1] = mutated(messages[-1], sent, rng)
        if len(messages) > 1 and rng.random() < 0.1:
            rng.shuffle(messages)
        if messages and rng.random() < 0.1:
            messages.append(rng.choice(messages))
        if rng.random() < 0.05:
            messages.append(rng.choice(sent))
        sent = (sent + messages)[-20:]
        turns.append((rng.choice([0, 10**6, 4 * 10**7, 4 * 10**7, 10**8, rng.choice([1, 5, 31]) * SECOND]), messages))
    return turns


# --- the corpus ---


def save(path: Path, turns: Session) -> None:
    """Keep a session as a file."""
    path.write_bytes(msgpack.packb(turns))


def load(path: Path) -> Session:
    """A session that was kept."""
    return [
        (wait, [(topic, body) for topic, body in messages]) for wait, messages in msgpack.unpackb(path.read_bytes())
    ]


def good(names: str = "a", frames: int = 30, fps: float = 25.0, **changes: Any) -> Session:
    """Frames as they should be, one of each stream a turn."""
    turns: Session = []
    rng = np.random.default_rng(0)
    for n in range(frames):
        messages = []
        for name in names:
            fields: dict[str, Any] = {
                "stream": name,
                "epoch": 1,
                "seq": n,
                "time_ns": n * 40_000_000,
                "clock": "monotonic",
                "fps": fps,
                "xyz": rng.random((JOINTS, 3), np.float32),
                "confidence": np.ones(JOINTS, np.float32),
                "skeleton": "upper-body-50",
            }
            messages.append(wire.encode(wire.RawPose(**fields | changes)))
        turns.append((40_000_000, messages))
    return turns
