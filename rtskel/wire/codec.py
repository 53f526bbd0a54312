"""The wire format, version 1: pure functions between message objects and bytes. No sockets, no clocks.

`encode(message)` gives the two ZeroMQ parts (topic, body) and `decode(topic, body)` the object again. The format is
specified in WIRE.md, from which a client in another language can be written; what this module does and that page does
not say is a defect of that page. Everything that is wrong with a message, whoever wrote it, is a WireError of one line
that names the stream and the field; nothing else is ever raised for foreign bytes.

Both directions share one check of every field, so that rtskel never sends what it would refuse. Numbers are never NaN
or infinite on the wire, with one exception in reading: a raw pose of a foreign client decodes whatever its coordinates
are, so that the receiver can count the offender and treat the joint as missing (`clean_joints`), instead of losing the
other joints of the frame with it.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from itertools import permutations, product
from operator import itemgetter
from types import NoneType
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from rtskel.errors import WireError
from rtskel.flags import Flag

VERSION: Final = 1
"""Major version: the number in `v` and in the topics' `rts1`. Additions do not change it, so a reader ignores fields,
and elements behind the known ones of an array, that it does not know."""

MAX_BODY: Final = 65536
"""Longest body in bytes. A pose of MAX_JOINTS joints takes less than a third of it."""

MAX_JOINTS: Final = 1024
MAX_TEXT: Final = 128
"""Longest clock, skeleton, model and event name, in characters."""

MAX_COUNT: Final = 2**63 - 1
"""Every integer on the wire is 0..MAX_COUNT, so that languages without unsigned integers can hold it."""

MAX_FPS: Final = 10_000.0

MAX_ELEMENTS: Final = 256
"""Most elements of a msgpack array or map, and so most poses of a batch."""

RAW_PREFIX: Final = b"rts1/raw/"
RAW_BATCH_PREFIX: Final = b"rts1/raw_batch/"
REFINED_PREFIX: Final = b"rts1/refined/"
REFINED_BATCH_PREFIX: Final = b"rts1/refined_batch/"
EVENT_PREFIX: Final = b"rts1/event/"
HEARTBEAT_TOPIC: Final = b"rts1/heartbeat/"

F32: TypeAlias = NDArray[np.float32]
I64: TypeAlias = NDArray[np.int64]

_M = TypeVar("_M", bound="Message")

_F4 = np.dtype("<f4")
_I8 = np.dtype("<i8")
_NATIVE_F4 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class RawPose:
    """One frame from a pose estimator.

    Attributes:
        stream: stream id, 1..64 of [A-Za-z0-9._-].
        epoch: drawn at random by the estimator at each start; another epoch starts the stream afresh.
        seq: frame number, 0, 1, 2, ... on the camera's clock, a dropped frame leaving a hole; None: the frame is placed
            by its time and `fps`.
        time_ns: when the frame was captured, in ns of `clock`.
        clock: which clock that is: "monotonic", "unix", or a name of the estimator's own.
        fps: frames per second of the camera.
        xyz: float32 [J, 3] positions in any unit, along `axes`.
        confidence: float32 [J] in 0..1; 0 = missing, and `xyz` then means nothing (but is finite).
        skeleton: skeleton id, such as "upper-body-50".
        axes: where x, y and z grow, see `rtskel.skeleton.axes_matrix`.
        mirrored: the image was mirrored, as selfie cameras do.
        lossless: every frame counts, as in a recording: an overloaded server lets this stream wait, where it takes the
            newest frames of a live one first.
        dims: 3, or 2 where the estimator knows no depth: z then means nothing.
    """

    stream: str
    epoch: int
    seq: int | None
    time_ns: int
    clock: str
    fps: float
    xyz: F32
    confidence: F32
    skeleton: str
    axes: str = "RDT"
    mirrored: bool = False
    lossless: bool = False
    dims: int = 3


@dataclass(frozen=True, slots=True, eq=False)
class RawBatch:
    """One camera frame that shows several people: a raw pose of each, in one message.

    Who is not in sight is left out, or better sent with confidence 0: then nobody waits for the frame.

    Attributes:
        group: what sends it, such as a camera; the same characters as a stream id.
        streams: K different stream ids, one a person.
        epoch, seq, time_ns, clock, fps, skeleton, axes, mirrored, lossless, dims: as in `RawPose`, the same for all.
        xyz: float32 [K, J, 3].
        confidence: float32 [K, J].
    """

    group: str
    streams: Sequence[str]
    epoch: int
    seq: int | None
    time_ns: int
    clock: str
    fps: float
    xyz: F32
    confidence: F32
    skeleton: str
    axes: str = "RDT"
    mirrored: bool = False
    lossless: bool = False
    dims: int = 3

    def poses(self) -> list[RawPose]:
        """The same as messages of one person each; their arrays are views."""
        source = self.epoch, self.seq, self.time_ns, self.clock, self.fps
        space = self.skeleton, self.axes, self.mirrored, self.lossless, self.dims
        people = zip(self.streams, self.xyz, self.confidence, strict=True)
        return [_make_raw(stream, *source, xyz, confidence, *space) for stream, xyz, confidence in people]


@dataclass(frozen=True, slots=True, eq=False)
class StreamEnd:
    """The estimator's last word on a stream, on its raw topic.

    Attributes:
        seq: how many slots the stream has, which is the next frame number; None: it ended with the last frame sent.
    """

    stream: str
    epoch: int
    seq: int | None
    time_ns: int
    clock: str


@dataclass(frozen=True, slots=True, eq=False)
class RefinedPose:
    """One refined slot at one lookahead.

    Attributes:
        lookahead: how many frames later than this slot the refinement could see.
        epoch: drawn at random by the server at each start.
        seq: counts this stream's slots in the output, 0, 1, 2, ... per epoch: a hole means that the reader lost poses.
        source_epoch, source_seq, source_time_ns, source_clock, fps: those of the raw frame. For an interpolated slot:
            the number (None for streams without numbers) and the time that its frame would have had.
        receive_ns: when the server read the raw frame, in ns of `clock`; 0 if none came.
        infer_start_ns, infer_end_ns: around the engine call that completed this pose.
        publish_ns: just before it was sent.
        clock: of those four times: "monotonic" is the server's CLOCK_MONOTONIC.
        windows: how many predictions were averaged.
        flags: a set of `Flag`.
        model: id of the engine's weights.
        xyz: float32 [J, 3], in the unit, axes and place of the raw pose.
        confidence: float32 [J] as received, 0 where the joint is filled in.
        missing: bool [J], the joint was not seen, so xyz is the model's alone.
        sigma: float32 [J] spread of the averaged predictions, in the unit of xyz.
    """

    stream: str
    lookahead: int
    epoch: int
    seq: int
    source_epoch: int
    source_seq: int | None
    source_time_ns: int
    source_clock: str
    fps: float
    receive_ns: int
    infer_start_ns: int
    infer_end_ns: int
    publish_ns: int
    clock: str
    windows: int
    flags: Flag
    skeleton: str
    model: str
    axes: str
    mirrored: bool
    xyz: F32
    confidence: F32
    missing: NDArray[np.bool_]
    sigma: F32


class Source(NamedTuple):
    """Whose pose it is, in a batch: what `RefinedPose` says in the attributes of these names (`source_epoch`, ...)."""

    stream: str
    epoch: int
    clock: str
    fps: float
    axes: str
    mirrored: bool


@dataclass(frozen=True, slots=True, eq=False)
class RefinedBatch:
    """Refined poses of many streams at one lookahead, in one message: for readers that want all of them.

    Attributes:
        lookahead, epoch, infer_start_ns, infer_end_ns, publish_ns, clock, skeleton, model: as in `RefinedPose`, the
            same for all.
        sources: K of `Source`. A stream may come more than once, in the order of its slots.
        numbers: int64 [K, 6]: seq, source_seq (-1 for None), source_time_ns, receive_ns, windows and flags of each.
        xyz: float32 [K, J, 3].
        confidence: float32 [K, J].
        missing: bool [K, J].
        sigma: float32 [K, J].
    """

    lookahead: int
    epoch: int
    infer_start_ns: int
    infer_end_ns: int
    publish_ns: int
    clock: str
    skeleton: str
    model: str
    sources: Sequence[Source]
    numbers: I64
    xyz: F32
    confidence: F32
    missing: NDArray[np.bool_]
    sigma: F32

    def poses(self) -> list[RefinedPose]:
        """The same as messages of one pose each; their arrays are views."""
        return [
            _make_refined(
                source.stream,
                self.lookahead,
                self.epoch,
                seq,
                source.epoch,
                None if source_seq < 0 else source_seq,
                source_time_ns,
                source.clock,
                source.fps,
                receive_ns,
                self.infer_start_ns,
                self.infer_end_ns,
                self.publish_ns,
                self.clock,
                windows,
                _flags(flags),
                self.skeleton,
                self.model,
                source.axes,
                source.mirrored,
                *arrays,
            )
            for source, (seq, source_seq, source_time_ns, receive_ns, windows, flags), *arrays in zip(
                self.sources, self.numbers.tolist(), self.xyz, self.confidence, self.missing, self.sigma, strict=True
            )
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something that happened to a stream, or to the server itself when `stream` is empty.

    Attributes:
        kind: "start", "gap", "stale", "end", "reset", "evicted", "error", or one that a later version adds.
        epoch: the server's.
        seq: the output's slot from which it holds, None if it is about no slot.
        detail: one line for people.
        counts: numbers for programs, by name, such as {"late": 3}.
    """

    stream: str
    kind: str
    epoch: int
    seq: int | None
    time_ns: int
    detail: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    clock: str = "monotonic"


@dataclass(frozen=True, slots=True, eq=False)
class Heartbeat:
    """The server's inference loop is alive. Sent by that loop, so it stops when the loop hangs.

    Attributes:
        epoch, seq: the server's epoch; how many heartbeats it has sent before.
        interval_ns: the next heartbeat is due this much later.
        streams: how many are active.
        frames_in, frames_out: raw frames received and refined poses published since the start, all streams.
        counts: totals of what went wrong since the start, by name, such as {"late": 3, "malformed": 1}.
        model, skeleton: of the engine.
        lookaheads: those that are published.
        loop_fps: raw frames per second through the loop since the last heartbeat.
    """

    epoch: int
    seq: int
    time_ns: int
    interval_ns: int
    streams: int
    frames_in: int
    frames_out: int
    counts: Mapping[str, int]
    model: str
    skeleton: str
    lookaheads: Sequence[int]
    loop_fps: float
    clock: str = "monotonic"


Message: TypeAlias = RawPose | RawBatch | StreamEnd | RefinedPose | RefinedBatch | Event | Heartbeat


# --- topics -----------------------------------------------------------------------------------------------------------

_STREAM_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@lru_cache(maxsize=4096)
def raw_topic(stream: str) -> bytes:
    """Topic of a stream's raw poses. WireError names a bad stream id; so do the other topics."""
    return b"%b%b/" % (RAW_PREFIX, _stream_bytes(stream))


@lru_cache(maxsize=4096)
def raw_batch_topic(group: str) -> bytes:
    """Topic of the raw poses of several people that a camera sees together."""
    return b"%b%b/" % (RAW_BATCH_PREFIX, _stream_bytes(group, "group"))


@lru_cache(maxsize=4096)
def refined_topic(stream: str, lookahead: int) -> bytes:
    """Topic of a stream's refined poses at one lookahead (frames)."""
    return b"%b%b/L%d/" % (REFINED_PREFIX, _stream_bytes(stream), lookahead)


def refined_batch_topic(lookahead: int) -> bytes:
    """Topic of the refined poses of all streams together at one lookahead (frames)."""
    return b"%bL%d/" % (REFINED_BATCH_PREFIX, lookahead)


@lru_cache(maxsize=4096)
def event_topic(stream: str) -> bytes:
    """Topic of a stream's events; of the server's own events for the empty id."""
    return b"%b%b/" % (EVENT_PREFIX, _stream_bytes(stream) if stream else b"")


def stream_of(topic: bytes) -> str | None:
    """The stream (or group) that a topic names, to count an offender whose body cannot be read; None if it has none."""
    parts = topic.split(b"/")
    if len(parts) < 4 or parts[0] != b"rts1" or parts[1] not in (b"raw", b"raw_batch", b"refined", b"event"):
        return None
    stream = parts[2].decode("ascii", "replace")
    return stream if _STREAM_ID.fullmatch(stream) else None


def _stream_bytes(stream: str, what: str = "stream") -> bytes:
    if not _STREAM_ID.fullmatch(stream):
        raise WireError(f"{what} id {_show(stream)}: 1 to 64 of A-Z a-z 0-9 . _ - expected")
    return stream.encode("ascii")


# --- what every field must be -----------------------------------------------------------------------------------------

_Types: TypeAlias = tuple[type, ...]
_Body: TypeAlias = dict[str, Any]

_COUNT = (int,)
_COUNT_OR_NIL = (int, NoneType)
_REAL = (float, int)  # some languages write 25.0 as an integer
_TEXT = (str,)
_BOOL = (bool,)
_NAMES = {int: "an integer", NoneType: "nil", float: "a number", str: "a string", bool: "a boolean"}

_AXES = frozenset("".join(code) for pairs in permutations(("RL", "DU", "TA")) for code in product(*pairs))

_FRAME = {"epoch": _COUNT, "seq": _COUNT_OR_NIL, "time_ns": _COUNT, "clock": _TEXT}
_SOURCE = {**_FRAME, "fps": _REAL}
_SLOT = {"lookahead": _COUNT, "epoch": _COUNT, "seq": _COUNT, "windows": _COUNT, "flags": _COUNT}
_TIMES = {"receive_ns": _COUNT, "infer_start_ns": _COUNT, "infer_end_ns": _COUNT, "publish_ns": _COUNT, "clock": _TEXT}
_SPACE = {"skeleton": _TEXT, "joints": _COUNT, "axes": _TEXT, "mirrored": _BOOL}
_BATCH = {"lookahead": _COUNT, "epoch": _COUNT, "poses": _COUNT}
_BATCH_TIMES = {"infer_start_ns": _COUNT, "infer_end_ns": _COUNT, "publish_ns": _COUNT, "clock": _TEXT}
_BATCH_SPACE = {"skeleton": _TEXT, "joints": _COUNT}
_BATCH_SOURCE = dict(zip(Source._fields, (_TEXT, _COUNT, _TEXT, _REAL, _TEXT, _BOOL), strict=True))


class _Header:
    """The arrays of a body that hold its header: which fields, in which order, of which types.

    One look at all types, one at the range of all integers and one at the length of all texts pass what is good. What
    they stop is looked at field by field, to name the offender or to find that it was good after all: a nil, or an
    array that a later version has made longer.
    """

    def __init__(self, kind: str, **arrays: Mapping[str, _Types]) -> None:
        self.kind = kind
        self._arrays = arrays
        fields = [types for array in arrays.values() for types in array.values()]
        self._usual = [types[0] for types in fields]
        self._counts = itemgetter(*[k for k, types in enumerate(fields) if types in (_COUNT, _COUNT_OR_NIL)])
        texts = [k for k, types in enumerate(fields) if types == _TEXT]
        self._texts = itemgetter(*texts, texts[0])  # of a single index it would not give a tuple

    def check(self, stream: object, *arrays: list[Any]) -> list[Any]:
        """All fields of the arrays, in order; WireError if one is not what it must be."""
        try:
            values: list[Any] = sum(arrays, [])  # noqa: RUF017 (four short ones)
        except TypeError:  # one is no array
            return self._check_each(stream, arrays)
        if [*map(type, values)] == self._usual:
            counts = self._counts(values)
            if min(counts) >= 0 and max(counts) <= MAX_COUNT and max(map(len, self._texts(values))) <= MAX_TEXT:
                return values
        return self._check_each(stream, arrays)

    def _check_each(self, stream: object, arrays: tuple[Any, ...]) -> list[Any]:
        values: list[Any] = []
        for (name, fields), elements in zip(self._arrays.items(), arrays, strict=True):
            if type(elements) is not list or len(elements) < len(fields):
                raise _offence(self.kind, stream, f"{name} is {_show(elements)}, not [{', '.join(fields)}]")
            for (field_name, types), value in zip(fields.items(), elements, strict=False):
                values.append(_checked(value, types, self.kind, stream, f"{name}.{field_name}"))
        return values


_RAW = _Header("raw", source=_SOURCE, space=_SPACE)
_RAW_BATCH = _Header("raw_batch", source=_SOURCE, space=_SPACE)
_END = _Header("end", source=_FRAME)
_REFINED = _Header("refined", slot=_SLOT, source=_SOURCE, times=_TIMES, space=_SPACE)
_REFINED_BATCH = _Header("refined_batch", batch=_BATCH, times=_BATCH_TIMES, space=_BATCH_SPACE)


def _checked(value: Any, types: _Types, kind: str, stream: object, name: str) -> Any:
    if type(value) not in types:  # not isinstance: True is no count
        expected = " or ".join(map(_NAMES.__getitem__, types))
        raise _offence(kind, stream, f"{name} is {_show(value)}, not {expected}")
    if type(value) is int and not 0 <= value <= MAX_COUNT:
        raise _offence(kind, stream, f"{name} is {_show(value)}, not in 0..2**63-1")
    if type(value) is str and len(value) > MAX_TEXT:
        raise _offence(kind, stream, f"{name} has {len(value)} characters, more than {MAX_TEXT}")
    return value


def _stream(kind: str, stream: Any, what: str = "stream") -> str:
    if type(stream) is not str:
        raise _offence(kind, None, f"{what} is {_show(stream)}, not a string")
    return stream


def _check_ranges(kind: str, stream: str, fps: float, joints: int, axes: str) -> None:
    _check_view(kind, stream, fps, axes)
    _check_joints(kind, stream, joints)


def _check_view(kind: str, stream: str, fps: float, axes: str) -> None:
    if not 0 < fps <= MAX_FPS:  # NaN too
        raise _offence(kind, stream, f"source.fps is {_show(fps)}, not above 0 and at most {MAX_FPS:g}")
    if axes not in _AXES:
        raise _offence(kind, stream, f"space.axes is {_show(axes)}, not one letter of each of R/L, D/U, T/A")


def _check_joints(kind: str, stream: str | None, joints: int) -> None:
    if not 0 < joints <= MAX_JOINTS:
        raise _offence(kind, stream, f"space.joints is {_show(joints)}, not in 1..{MAX_JOINTS}")


def _offence(kind: str, stream: object, what: str) -> WireError:
    whose = f" of {'group' if kind == 'raw_batch' else 'stream'} {_show(stream)}" if stream else ""
    return WireError(f"{kind} message{whose}: {what}")


def _show(value: object) -> str:
    """A foreign value for people to read: one line, never long."""
    if isinstance(value, (bytes, list, tuple, dict)):
        return f"{type(value).__name__} of length {len(value)}"
    return _short(ascii(value))


def _show_topic(topic: bytes) -> str:
    return _short(ascii(topic)[1:])


def _show_error(error: Exception) -> str:
    return _short(" ".join(str(error).split()) or type(error).__name__)


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


# --- arrays -----------------------------------------------------------------------------------------------------------


def clean_joints(xyz: F32, confidence: F32) -> tuple[F32, F32, int]:
    """Makes every joint that holds a NaN or an infinity a missing one.

    Args:
        xyz: float32 [..., J, 3].
        confidence: float32 [..., J].

    Returns:
        xyz and confidence with zeros in those joints, and how many they are. Without any, these are the arrays that
        were given, not copies.
    """
    if _all_finite(xyz) and _all_finite(confidence):
        return xyz, confidence, 0
    good = np.isfinite(xyz).all(axis=-1) & np.isfinite(confidence)
    return np.where(good[..., None], xyz, 0), np.where(good, confidence, 0), int((~good).sum())


def _all_finite(array: F32) -> bool:
    return 0 not in np.isfinite(array).tobytes()  # a third of the time of .all()


def _shape(kind: str, stream: str | None, xyz: F32, poses: int | None = None) -> tuple[int, ...]:
    """[J] of one pose, or [K, J] of a batch of that many."""
    lead = () if poses is None else (poses,)
    if type(xyz) is not np.ndarray or xyz.ndim != len(lead) + 2 or xyz.shape[: len(lead)] != lead:
        raise _offence(
            kind, stream, f"xyz is {_show_array(xyz)}, not float32 [{', '.join([*map(str, lead), 'J', '3'])}]"
        )
    return xyz.shape[:-1]


def _pack_floats(kind: str, stream: str | None, each: tuple[int, ...], arrays: dict[str, F32]) -> dict[str, bytes]:
    """float32 [..., J, 3] or [..., J] each, as bytes."""
    packed = {}
    for name, array in arrays.items():
        shape = (*each, 3) if name == "xyz" else each
        if type(array) is not np.ndarray or array.dtype != _NATIVE_F4 or array.shape != shape:
            raise _offence(kind, stream, f"{name} is {_show_array(array)}, not float32 {list(shape)}")
        packed[name] = array.astype(_F4, copy=False).tobytes()
    _finite_floats(kind, stream, packed)
    return packed


def _finite_floats(kind: str, stream: str | None, packed: dict[str, bytes]) -> F32:
    """All arrays in one, one behind the other."""
    floats = np.frombuffer(b"".join(packed.values()), _F4)
    if 0 in np.isfinite(floats).tobytes():  # .all() takes three times as long
        name = next(name for name, data in packed.items() if not np.isfinite(np.frombuffer(data, _F4)).all())
        raise _offence(kind, stream, f"{name} holds a NaN or an infinity")
    return floats


def _check_length(kind: str, stream: str | None, name: str, data: bytes, length: int) -> None:
    if type(data) is not bytes or len(data) != length:
        raise _offence(kind, stream, f"{name} is {_show(data)}, not bytes of length {length}")


# The same joints are missing for many frames on end, so both directions remember what they did last.


@lru_cache(maxsize=1024)
def _pack_bits(bools: bytes) -> bytes:
    return np.packbits(np.frombuffer(bools, np.bool_)).tobytes()


@lru_cache(maxsize=1024)
def _unpack_bits(data: bytes, length: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=length).view(np.bool_)
    bits.flags.writeable = False
    return bits


def _show_array(array: object) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else _show(array)


# --- messages ---------------------------------------------------------------------------------------------------------


def _maker(cls: type[_M]) -> Callable[..., _M]:
    """A constructor of a frozen, slotted dataclass that takes a quarter of the time of its own.

    A frozen dataclass initialises itself by one call for each field. Its twin of the same layout that is not frozen
    stores them directly, and is frozen afterwards by changing its class.
    """
    twin: Any = make_dataclass(cls.__name__, [f.name for f in dataclass_fields(cls)], slots=True, eq=False)

    def make(*values: Any) -> _M:
        message = twin(*values)
        message.__class__ = cls
        return message  # type: ignore[no-any-return]

    return make


_make_raw = _maker(RawPose)
_make_refined = _maker(RefinedPose)

# Every combination of the known flags: looking one up is far cheaper than Flag(bits).
_FLAGS = [Flag(bits) for bits in range(2 * Flag.FLUSHED)]

_raw_fields = itemgetter("stream", "source", "space", "xyz", "confidence")
_refined_fields = itemgetter(
    "stream", "slot", "source", "times", "space", "model", "xyz", "confidence", "missing", "sigma"
)


def _flags(bits: int) -> Flag:
    return _FLAGS[bits] if bits < len(_FLAGS) else Flag(bits)


def _encode_raw(pose: RawPose) -> tuple[bytes, _Body]:
    stream = _stream("raw", pose.stream)
    each = _shape("raw", stream, pose.xyz)
    return raw_topic(stream), {"v": VERSION, "kind": "raw", "stream": stream, **_raw_body(_RAW, stream, pose, each)}


def _encode_raw_batch(batch: RawBatch) -> tuple[bytes, _Body]:
    group = _stream("raw_batch", batch.group, "group")
    streams = _people(group, list(batch.streams))
    each = _shape("raw_batch", group, batch.xyz, len(streams))
    body = _raw_body(_RAW_BATCH, group, batch, each)
    return raw_batch_topic(group), {"v": VERSION, "kind": "raw_batch", "group": group, "streams": streams, **body}


def _raw_body(header: _Header, name: str, raw: RawPose | RawBatch, each: tuple[int, ...]) -> _Body:
    kind, joints = header.kind, each[-1]
    source = [raw.epoch, raw.seq, raw.time_ns, raw.clock, raw.fps]
    space = [raw.skeleton, joints, raw.axes, raw.mirrored]
    header.check(name, source, space)
    _check_ranges(kind, name, raw.fps, joints, raw.axes)
    lossless = _checked(raw.lossless, _BOOL, kind, name, "lossless")
    dims = _dims(raw.dims, raw.axes, kind, name)
    return {
        "source": source,
        "space": space,
        **({"lossless": True} if lossless else {}),
        **({"dims": dims} if dims != 3 else {}),
        **_pack_floats(kind, name, each, {"xyz": raw.xyz, "confidence": raw.confidence}),
    }


def _dims(dims: Any, axes: str, kind: str, name: str) -> int:
    if type(dims) is not int or dims not in (2, 3):
        raise _offence(kind, name, f"dims is {_show(dims)}, not 2 or 3")
    if dims == 2 and axes[2] not in "TA":
        raise _offence(kind, name, f"dims is 2, and axes {axes} do not have x and y in the image")
    return dims


def _people(group: str, streams: Any) -> list[str]:
    if type(streams) is not list or not 0 < len(streams) <= MAX_ELEMENTS:
        raise _offence("raw_batch", group, f"streams is {_show(streams)}, not an array of 1 to {MAX_ELEMENTS}")
    for stream in streams:
        if type(stream) is not str or not _STREAM_ID.fullmatch(stream):
            raise _offence("raw_batch", group, f"streams holds {_show(stream)}, which is no stream id")
    if len(set(streams)) < len(streams):
        raise _offence("raw_batch", group, "streams names one twice")
    return streams


@lru_cache(maxsize=256, typed=True)  # typed, or 1 would pass for True
def _usual_space(*space: Any) -> list[Any]:
    return [_checked(value, types, "", None, name) for (name, types), value in zip(_SPACE.items(), space, strict=True)]


_Origin: TypeAlias = tuple[int, int | None, int, str, float]
_View: TypeAlias = tuple[str, str, bool]


def _raw_header(header: _Header, name: str, source: Any, space: Any) -> tuple[_Origin, int, _View]:
    """The fields of a raw message as its attributes go: up to fps, the number of joints, and from the skeleton on."""
    try:  # nearly every frame of a stream: all numbers are there, and its space is the one before
        epoch, seq, time_ns, clock, fps = source
        skeleton, joints, axes, mirrored = _usual_space(*space)
        usual = type(epoch) is type(seq) is type(time_ns) is int and type(fps) is float and type(clock) is str
        usual = (
            usual and 0 <= min(epoch, seq, time_ns) <= max(epoch, seq, time_ns) <= MAX_COUNT and len(clock) <= MAX_TEXT
        )
    except (TypeError, ValueError, WireError):
        usual = False
    if not usual:
        epoch, seq, time_ns, clock, fps, skeleton, joints, axes, mirrored = header.check(name, source, space)
    _check_ranges(header.kind, name, fps, joints, axes)
    return (epoch, seq, time_ns, clock, float(fps)), joints, (skeleton, axes, mirrored)


def _decode_raw(body: _Body) -> tuple[bytes, RawPose]:
    stream, source, space, xyz, confidence = _raw_fields(body)
    topic = raw_topic(_stream("raw", stream))
    header, joints, view = _raw_header(_RAW, stream, source, space)
    _check_length("raw", stream, "xyz", xyz, 12 * joints)
    _check_length("raw", stream, "confidence", confidence, 4 * joints)
    lossless = _checked(body.get("lossless", False), _BOOL, "raw", stream, "lossless")
    points, trust = np.frombuffer(xyz, _F4).reshape(joints, 3), np.frombuffer(confidence, _F4)
    dims = _dims(body.get("dims", 3), view[1], "raw", stream)
    return topic, _make_raw(stream, *header, points, trust, *view, lossless, dims)


def _decode_raw_batch(body: _Body) -> tuple[bytes, RawBatch]:
    group, streams = _stream("raw_batch", body["group"], "group"), body["streams"]
    topic = raw_batch_topic(group)
    source, space, xyz, confidence = body["source"], body["space"], body["xyz"], body["confidence"]
    poses = len(_people(group, streams))
    header, joints, view = _raw_header(_RAW_BATCH, group, source, space)
    _check_length("raw_batch", group, "xyz", xyz, 12 * poses * joints)
    _check_length("raw_batch", group, "confidence", confidence, 4 * poses * joints)
    lossless = _checked(body.get("lossless", False), _BOOL, "raw_batch", group, "lossless")
    points, trust = np.frombuffer(xyz, _F4).reshape(poses, joints, 3), np.frombuffer(confidence, _F4)
    dims = _dims(body.get("dims", 3), view[1], "raw_batch", group)
    return topic, RawBatch(group, tuple(streams), *header, points, trust.reshape(poses, joints), *view, lossless, dims)


def _encode_end(end: StreamEnd) -> tuple[bytes, _Body]:
    source = [end.epoch, end.seq, end.time_ns, end.clock]
    topic = raw_topic(_stream("end", end.stream))
    _END.check(end.stream, source)
    return topic, {"v": VERSION, "kind": "end", "stream": end.stream, "source": source}


def _decode_end(body: _Body) -> tuple[bytes, StreamEnd]:
    stream = body["stream"]
    return raw_topic(_stream("end", stream)), StreamEnd(stream, *_END.check(stream, body["source"]))


def _encode_refined(pose: RefinedPose) -> tuple[bytes, _Body]:
    stream, fps, axes = _stream("refined", pose.stream), pose.fps, pose.axes
    each = _shape("refined", stream, pose.xyz)
    joints = each[0]
    slot = [pose.lookahead, pose.epoch, pose.seq, pose.windows, int(pose.flags)]
    source = [pose.source_epoch, pose.source_seq, pose.source_time_ns, pose.source_clock, fps]
    times = [pose.receive_ns, pose.infer_start_ns, pose.infer_end_ns, pose.publish_ns, pose.clock]
    space = [pose.skeleton, joints, axes, pose.mirrored]
    _REFINED.check(stream, slot, source, times, space)
    _check_ranges("refined", stream, fps, joints, axes)
    _checked(pose.model, _TEXT, "refined", stream, "model")
    missing = pose.missing
    if type(missing) is not np.ndarray or missing.dtype != np.bool_ or missing.shape != (joints,):
        raise _offence("refined", stream, f"missing is not an array of {joints} booleans")
    return refined_topic(stream, pose.lookahead), {
        "v": VERSION,
        "kind": "refined",
        "stream": stream,
        "slot": slot,
        "source": source,
        "times": times,
        "space": space,
        "model": pose.model,
        **_pack_floats("refined", stream, each, {"xyz": pose.xyz, "confidence": pose.confidence, "sigma": pose.sigma}),
        "missing": _pack_bits(missing.tobytes()),
    }


def _decode_refined(body: _Body) -> tuple[bytes, RefinedPose]:
    stream, slot, source, times, space, model, xyz, confidence, missing, sigma = _refined_fields(body)
    lookahead, epoch, seq, windows, flags, *source_times_space = _REFINED.check(stream, slot, source, times, space)
    source_epoch, source_seq, source_time_ns, source_clock, fps, *times_space = source_times_space
    receive_ns, infer_start_ns, infer_end_ns, publish_ns, clock, skeleton, joints, axes, mirrored = times_space
    _check_ranges("refined", stream, fps, joints, axes)
    _check_length("refined", stream, "xyz", xyz, 12 * joints)
    _check_length("refined", stream, "confidence", confidence, 4 * joints)
    _check_length("refined", stream, "missing", missing, (joints + 7) // 8)
    _check_length("refined", stream, "sigma", sigma, 4 * joints)
    floats = _finite_floats("refined", stream, {"xyz": xyz, "confidence": confidence, "sigma": sigma})
    return refined_topic(_stream("refined", stream), lookahead), _make_refined(
        stream,
        lookahead,
        epoch,
        seq,
        source_epoch,
        source_seq,
        source_time_ns,
        source_clock,
        float(fps),
        receive_ns,
        infer_start_ns,
        infer_end_ns,
        publish_ns,
        clock,
        windows,
        _flags(flags),
        skeleton,
        _checked(model, _TEXT, "refined", stream, "model"),
        axes,
        mirrored,
        floats[: 3 * joints].reshape(joints, 3),
        floats[3 * joints : 4 * joints],
        _unpack_bits(missing, joints),
        floats[4 * joints :],
    )


_ROW = ("seq", "source_seq", "source_time_ns", "receive_ns", "windows", "flags")
"""The columns of `RefinedBatch.numbers`."""

_LEAST = np.array([-1 if name == "source_seq" else 0 for name in _ROW])


def _encode_refined_batch(batch: RefinedBatch) -> tuple[bytes, _Body]:
    kind, poses = "refined_batch", len(batch.sources)
    each = _shape(kind, None, batch.xyz, poses)
    joints = each[1]
    header = [batch.lookahead, batch.epoch, poses]
    times = [batch.infer_start_ns, batch.infer_end_ns, batch.publish_ns, batch.clock]
    space = [batch.skeleton, joints]
    _REFINED_BATCH.check(None, header, times, space)
    _check_joints(kind, None, joints)
    numbers, missing = batch.numbers, batch.missing
    if type(numbers) is not np.ndarray or numbers.dtype != np.int64 or numbers.shape != (poses, len(_ROW)):
        raise _offence(kind, None, f"numbers is {_show_array(numbers)}, not int64 {[poses, len(_ROW)]}")
    if type(missing) is not np.ndarray or missing.dtype != np.bool_ or missing.shape != each:
        raise _offence(kind, None, f"missing is not an array of {poses} times {joints} booleans")
    return refined_batch_topic(batch.lookahead), {
        "v": VERSION,
        "kind": kind,
        "batch": header,
        "times": times,
        "space": space,
        "model": _checked(batch.model, _TEXT, kind, None, "model"),
        "sources": [list(_source(source)) for source in _checked_length(batch.sources, poses)],
        "numbers": _check_numbers(numbers).astype(_I8, copy=False).tobytes(),
        **_pack_floats(kind, None, each, {"xyz": batch.xyz, "confidence": batch.confidence, "sigma": batch.sigma}),
        "missing": np.packbits(missing, axis=1).tobytes(),
    }


def _decode_refined_batch(body: _Body) -> tuple[bytes, RefinedBatch]:
    kind = "refined_batch"
    lookahead, epoch, poses, *rest = _REFINED_BATCH.check(None, body["batch"], body["times"], body["space"])
    infer_start_ns, infer_end_ns, publish_ns, clock, skeleton, joints = rest
    _check_joints(kind, None, joints)
    sources = [_source(source) for source in _checked_length(body["sources"], poses)]
    packed = {name: body[name] for name in ("xyz", "confidence", "sigma")}
    for name, data in packed.items():
        _check_length(kind, None, name, data, (12 if name == "xyz" else 4) * poses * joints)
    bits = (joints + 7) // 8
    numbers, missing = body["numbers"], body["missing"]
    _check_length(kind, None, "numbers", numbers, 8 * poses * len(_ROW))
    _check_length(kind, None, "missing", missing, poses * bits)
    floats = _finite_floats(kind, None, packed)
    xyz, confidence, sigma = np.split(floats, [3 * poses * joints, 4 * poses * joints])
    each = np.frombuffer(missing, np.uint8).reshape(poses, bits)
    return refined_batch_topic(lookahead), RefinedBatch(
        lookahead,
        epoch,
        infer_start_ns,
        infer_end_ns,
        publish_ns,
        clock,
        skeleton,
        _checked(body["model"], _TEXT, kind, None, "model"),
        sources,
        _check_numbers(np.frombuffer(numbers, _I8).reshape(poses, len(_ROW))),
        xyz.reshape(poses, joints, 3),
        confidence.reshape(poses, joints),
        np.unpackbits(each, axis=1, count=joints).view(np.bool_),
        sigma.reshape(poses, joints),
    )


def _checked_length(sources: Any, poses: int) -> Sequence[Any]:
    if not isinstance(sources, (list, tuple)) or len(sources) != poses or not 0 < poses <= MAX_ELEMENTS:
        raise _offence(
            "refined_batch", None, f"sources is {_show(sources)}, not an array of 1 to {MAX_ELEMENTS}, as many as poses"
        )
    return sources


def _source(source: Any) -> Source:
    try:
        return _usual_source(*source[: len(Source._fields)])
    except TypeError:
        raise _offence(
            "refined_batch", None, f"sources holds {_show(source)}, not [{', '.join(Source._fields)}]"
        ) from None


@lru_cache(maxsize=4096, typed=True)
def _usual_source(*values: Any) -> Source:
    if len(values) != len(Source._fields):
        raise TypeError
    kind, stream = "refined_batch", values[0]
    for (name, types), value in zip(_BATCH_SOURCE.items(), values, strict=True):
        _checked(value, types, kind, stream, f"sources.{name}")
    source = Source(*values)._replace(fps=float(values[3]))
    _stream_bytes(source.stream)
    _check_view(kind, source.stream, source.fps, source.axes)
    return source


def _check_numbers(numbers: I64) -> I64:
    bad = (numbers < _LEAST).any(axis=0)
    if bad.any():
        raise _offence("refined_batch", None, f"numbers holds a negative {_ROW[int(bad.argmax())]}")
    return numbers


def _encode_event(event: Event) -> tuple[bytes, _Body]:
    stream = _stream("event", event.stream)
    body = {
        "v": VERSION,
        "kind": "event",
        "stream": stream,
        "event": event.kind,
        "epoch": event.epoch,
        "seq": event.seq,
        "time_ns": event.time_ns,
        "clock": event.clock,
        "detail": event.detail,
        "counts": dict(event.counts),
    }
    _decode_event(body)
    return event_topic(stream), body


def _decode_event(body: _Body) -> tuple[bytes, Event]:
    stream = body["stream"]

    def read(name: str, types: _Types) -> Any:
        return _checked(body[name], types, "event", stream, name)

    if type(body["detail"]) is not str:
        raise _offence("event", stream, f"detail is {_show(body['detail'])}, not a string")
    return event_topic(_stream("event", stream)), Event(
        stream=stream,
        kind=read("event", _TEXT),
        epoch=read("epoch", _COUNT),
        seq=read("seq", _COUNT_OR_NIL),
        time_ns=read("time_ns", _COUNT),
        detail=body["detail"],
        counts=_counts("event", stream, body["counts"]),
        clock=read("clock", _TEXT),
    )


_HEARTBEAT = {
    "epoch": _COUNT,
    "seq": _COUNT,
    "time_ns": _COUNT,
    "clock": _TEXT,
    "interval_ns": _COUNT,
    "streams": _COUNT,
    "frames_in": _COUNT,
    "frames_out": _COUNT,
    "model": _TEXT,
    "skeleton": _TEXT,
    "loop_fps": _REAL,
}


def _encode_heartbeat(beat: Heartbeat) -> tuple[bytes, _Body]:
    body = {"v": VERSION, "kind": "heartbeat", **{name: getattr(beat, name) for name in _HEARTBEAT}}
    body["counts"] = dict(beat.counts)
    body["lookaheads"] = list(beat.lookaheads)
    _decode_heartbeat(body)
    return HEARTBEAT_TOPIC, body


def _decode_heartbeat(body: _Body) -> tuple[bytes, Heartbeat]:
    fields = {name: _checked(body[name], types, "heartbeat", None, name) for name, types in _HEARTBEAT.items()}
    if not 0 <= fields["loop_fps"] < math.inf:  # NaN too
        raise _offence("heartbeat", None, f"loop_fps is {_show(fields['loop_fps'])}, not a finite rate")
    fields["loop_fps"] = float(fields["loop_fps"])
    lookaheads = body["lookaheads"]
    if type(lookaheads) is not list or len(lookaheads) > MAX_ELEMENTS:
        raise _offence("heartbeat", None, f"lookaheads is {_show(lookaheads)}, not an array of at most {MAX_ELEMENTS}")
    return HEARTBEAT_TOPIC, Heartbeat(
        **fields,
        counts=_counts("heartbeat", None, body["counts"]),
        lookaheads=tuple(_checked(value, _COUNT, "heartbeat", None, "lookaheads") for value in lookaheads),
    )


def _counts(kind: str, stream: object, counts: Any) -> dict[str, int]:
    if type(counts) is not dict or len(counts) > MAX_ELEMENTS:
        raise _offence(kind, stream, f"counts is {_show(counts)}, not a map of at most {MAX_ELEMENTS}")
    for name, value in counts.items():
        _checked(name, _TEXT, kind, stream, "a name in counts")
        _checked(value, _COUNT, kind, stream, f"counts.{name}")
    return counts


_ENCODERS: dict[type, Callable[[Any], tuple[bytes, _Body]]] = {
    RawPose: _encode_raw,
    RawBatch: _encode_raw_batch,
    StreamEnd: _encode_end,
    RefinedPose: _encode_refined,
    RefinedBatch: _encode_refined_batch,
    Event: _encode_event,
    Heartbeat: _encode_heartbeat,
}
_DECODERS: dict[str, Callable[[_Body], tuple[bytes, Message]]] = {
    "raw": _decode_raw,
    "raw_batch": _decode_raw_batch,
    "end": _decode_end,
    "refined": _decode_refined,
    "refined_batch": _decode_refined_batch,
    "event": _decode_event,
    "heartbeat": _decode_heartbeat,
}


class _Packing(threading.local):
    """A packer for each thread: a new one for each message would take half as long again, a shared one is not safe."""

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer(buf_size=MAX_BODY).pack


_packing = _Packing()


def encode(message: Message) -> tuple[bytes, bytes]:
    """The two parts, topic and body, of a message.

    Raises:
        WireError: a field is not what the format asks for; nothing that `decode` would refuse is ever sent.
    """
    encoder = _ENCODERS.get(type(message))
    if encoder is None:
        raise WireError(f"{_show(message)} is no rtskel message")
    topic, body = encoder(message)
    try:
        packed = _packing.pack(body)
    except (ValueError, TypeError, OverflowError) as error:  # such as a lone surrogate in a text
        raise WireError(f"{body['kind']} message cannot be packed: {_show_error(error)}") from None
    if len(packed) > MAX_BODY:
        raise WireError(f"{body['kind']} message of {len(packed)} bytes, more than {MAX_BODY}", "oversize")
    return topic, packed


def decode(topic: bytes, body: bytes) -> Message:
    """The message whose two parts these are.

    Arrays are read-only views of the unpacked bytes. A RawPose may hold NaN or infinity (see `clean_joints`); no other
    message does.

    Raises:
        WireError: these are not the parts of a message of this version, with one line that names the offender.
    """
    if len(body) > MAX_BODY:
        raise WireError(f"message on {_show_topic(topic)}: {len(body)} bytes, more than {MAX_BODY}", "oversize")
    try:
        # A declared length is believed only up to these limits, so that no few bytes make us allocate much.
        fields = msgpack.unpackb(body, max_array_len=MAX_ELEMENTS, max_map_len=MAX_ELEMENTS)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"message on {_show_topic(topic)}: not msgpack ({_show_error(error)})") from None
    if type(fields) is not dict:
        raise WireError(f"message on {_show_topic(topic)}: {_show(fields)}, not a map")
    if type(fields.get("v")) is not int or fields["v"] != VERSION:
        version = _show(fields["v"]) if "v" in fields else "absent"
        other = "version" if type(fields.get("v")) is int else "malformed"  # no version at all is no other version
        raise WireError(f"message on {_show_topic(topic)}: version v is {version}, this is version {VERSION}", other)
    kind = fields.get("kind")
    decoder = _DECODERS.get(kind) if type(kind) is str else None
    if decoder is None:
        raise WireError(f"message on {_show_topic(topic)}: unknown kind {_show(kind)}")
    try:
        own_topic, message = decoder(fields)
    except KeyError as absent:
        raise _offence(str(kind), fields.get("stream"), f"{absent.args[0]} is absent") from None
    if own_topic != topic:
        raise WireError(f"message on {_show_topic(topic)}: its body belongs on {_show_topic(own_topic)}")
    return message
