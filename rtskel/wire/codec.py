"""`encode` and `decode`: messages to the two ZeroMQ parts (topic, body) and back. Pure functions.

WIRE.md specifies the format, so that clients in other languages can be written from it. Behaviour of this module that
the page does not mention is a defect of the page. An invalid message raises a `WireError` of one line that names the
stream and the field; foreign bytes never raise anything else.

Both directions share one check of every field, so rtskel never sends what it would refuse. Numbers on the wire are
finite. There is one exception in reading: a raw pose of a foreign client decodes whatever its coordinates are, so that
the receiver can count the sender's fault, treat the joint as missing (`clean_joints`) and keep the other joints.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

import msgpack
import numpy as np

from rtskel.errors import WireError
from rtskel.wire import fields as f
from rtskel.wire import topics
from rtskel.wire.messages import (
    I64,
    NOTHING,
    ROW,
    Event,
    Heartbeat,
    Message,
    RawBatch,
    RawPose,
    RefinedBatch,
    RefinedPose,
    Source,
    StreamEnd,
    Sync,
    Taken,
    make_raw,
    make_refined,
    to_flags,
)
from rtskel.wire.shards import check_shards

_Parts: TypeAlias = tuple[bytes, f.Body]

# --- raw --------------------------------------------------------------------------------------------------------------

_raw_fields = itemgetter("source", "space", "xyz", "confidence")


def _encode_raw(pose: RawPose) -> _Parts:
    body = _named("raw", "stream", pose.stream)
    joints = f.leading_shape("raw", pose.stream, pose.xyz)
    return topics.raw_topic(pose.stream), body | _raw_body(f.RAW, pose.stream, pose, joints)


def _encode_raw_batch(batch: RawBatch) -> _Parts:
    body = _named("raw_batch", "group", batch.group)
    streams = _people(batch.group, list(batch.streams))
    each = f.leading_shape("raw_batch", batch.group, batch.xyz, len(streams))
    body |= {"streams": streams, **_raw_body(f.RAW_BATCH, batch.group, batch, each)}
    return topics.raw_batch_topic(batch.group), body


def _named(kind: str, what: str, name: Any) -> f.Body:
    """The first fields of a body about a stream or a group."""
    if type(name) is not str:
        raise f.offence(kind, None, f"{what} is {f.show(name)}, not a string")
    return {"v": f.VERSION, "kind": kind, what: name}


def _raw_body(header: f.Header, name: str, raw: RawPose | RawBatch, each: tuple[int, ...]) -> f.Body:
    source = [raw.epoch, raw.seq, raw.time_ns, raw.clock, raw.fps]
    space = [raw.skeleton, each[-1], raw.axes, raw.mirrored]
    header.check(name, source, space)
    f.check_view(header.kind, name, raw.fps, raw.axes)
    f.check_place(header.kind, name, raw.seq, raw.time_ns, raw.fps)
    f.check_joints(header.kind, name, each[-1])
    body = {"source": source, "space": space}
    if f.checked(raw.lossless, f.BOOL, header.kind, name, "lossless"):
        body["lossless"] = True
    if f.check_dims(header.kind, name, raw.dims, raw.axes) != 3:
        body["dims"] = raw.dims
    if about := f.pack_about(header.kind, name, raw.about):
        body["about"] = about
    return body | f.pack_floats(header.kind, name, each, raw, "xyz", "confidence")


def _people(group: str, streams: Any) -> list[str]:
    f.check_elements("raw_batch", group, "streams", streams)
    for stream in streams:
        if not topics.is_id(stream):
            raise f.offence("raw_batch", group, f"streams holds {f.show(stream)}, which is not a stream id")
    if len(set(streams)) < len(streams):
        raise f.offence("raw_batch", group, "streams names one twice")
    return streams  # type: ignore[no-any-return]


def _decode_raw(body: f.Body) -> tuple[bytes, RawPose]:
    stream = body["stream"]
    _named("raw", "stream", stream)
    topic = topics.raw_topic(stream)
    return topic, make_raw(stream, *_raw_values(f.RAW, stream, body, ()))


def _decode_raw_batch(body: f.Body) -> tuple[bytes, RawBatch]:
    group = body["group"]
    _named("raw_batch", "group", group)
    topic = topics.raw_batch_topic(group)
    streams = tuple(_people(group, body["streams"]))
    return topic, RawBatch(group, streams, *_raw_values(f.RAW_BATCH, group, body, (len(streams),)))


def _raw_values(header: f.Header, name: str, body: f.Body, lead: tuple[int, ...]) -> tuple[Any, ...]:
    """The attributes of a raw message from `epoch` on; its arrays are [*lead, J, 3] and [*lead, J]."""
    source, space, xyz, confidence = _raw_fields(body)
    try:  # nearly every frame of a stream: all numbers are there, and `space` has not changed
        epoch, seq, time_ns, clock, fps = source
        skeleton, joints, axes, mirrored = f.usual_space(*space)
        usual = type(epoch) is type(seq) is type(time_ns) is int and type(fps) is float and type(clock) is str
        usual = usual and 0 <= min(epoch, seq, time_ns) <= max(epoch, seq, time_ns) <= f.MAX_COUNT
        usual = usual and len(clock) <= f.MAX_TEXT
    except (TypeError, ValueError, WireError):
        usual = False
    if not usual:
        epoch, seq, time_ns, clock, fps, skeleton, joints, axes, mirrored = header.check(name, source, space)
    f.check_view(header.kind, name, fps, axes)
    f.check_place(header.kind, name, seq, time_ns, fps)
    f.check_joints(header.kind, name, joints)
    each = (*lead, joints)
    cells = math.prod(each)
    f.check_length(header.kind, name, "xyz", xyz, 12 * cells)
    f.check_length(header.kind, name, "confidence", confidence, 4 * cells)
    lossless = f.checked(body.get("lossless", False), f.BOOL, header.kind, name, "lossless")
    arrays = np.frombuffer(xyz, f.F4).reshape(*each, 3), np.frombuffer(confidence, f.F4).reshape(each)
    dims = f.check_dims(header.kind, name, body.get("dims", 3), axes)
    about = f.read_about(header.kind, name, body["about"]) if "about" in body else NOTHING
    return epoch, seq, time_ns, clock, float(fps), *arrays, skeleton, axes, mirrored, lossless, dims, about


def _encode_end(end: StreamEnd) -> _Parts:
    body = _named("end", "stream", end.stream)
    body["source"] = f.END.check(end.stream, [end.epoch, end.seq, end.time_ns, end.clock])
    f.check_place("end", end.stream, end.seq, end.time_ns)
    return topics.raw_topic(end.stream), body


def _decode_end(body: f.Body) -> tuple[bytes, StreamEnd]:
    stream = body["stream"]
    _named("end", "stream", stream)
    end = StreamEnd(stream, *f.END.check(stream, body["source"]))
    f.check_place("end", stream, end.seq, end.time_ns)
    return topics.raw_topic(stream), end


# --- refined ----------------------------------------------------------------------------------------------------------

_refined_fields = itemgetter(
    "stream", "slot", "source", "times", "space", "model", "xyz", "confidence", "sigma", "missing"
)


def encode_refined(pose: RefinedPose) -> _Parts:
    """Topic and body, not yet packed."""
    stream = pose.stream
    body = _named("refined", "stream", stream)
    (joints,) = each = f.leading_shape("refined", stream, pose.xyz)
    header: dict[str, list[Any]] = {
        "slot": [pose.lookahead, pose.epoch, pose.seq, pose.windows, int(pose.flags)],
        "source": [pose.source_epoch, pose.source_seq, pose.source_time_ns, pose.source_clock, pose.fps],
        "times": [pose.receive_ns, pose.infer_start_ns, pose.infer_end_ns, pose.publish_ns, pose.clock],
        "space": [pose.skeleton, joints, pose.axes, pose.mirrored],
    }
    f.REFINED.check(stream, *header.values())
    f.check_view("refined", stream, pose.fps, pose.axes)
    f.check_joints("refined", stream, joints)
    body |= {**header, "model": f.checked(pose.model, f.TEXT, "refined", stream, "model")}
    if about := f.pack_about("refined", stream, pose.about):
        body["about"] = about
    f.check_array("refined", stream, "missing", pose.missing, each, np.bool_)
    body |= f.pack_floats("refined", stream, each, pose, "xyz", "confidence", "sigma")
    body["missing"] = f.pack_bits(pose.missing.tobytes())
    return topics.refined_topic(stream, pose.lookahead), body


def _decode_refined(body: f.Body) -> tuple[bytes, RefinedPose]:
    stream, slot, source, times, space, model, xyz, confidence, sigma, missing = _refined_fields(body)
    values = f.REFINED.check(stream, slot, source, times, space)
    lookahead, epoch, seq, windows, flags, *header = values[:15]
    skeleton, joints, axes, mirrored = values[15:]
    f.check_view("refined", stream, header[4], axes)
    f.check_joints("refined", stream, joints)
    f.check_length("refined", stream, "xyz", xyz, 12 * joints)
    f.check_length("refined", stream, "confidence", confidence, 4 * joints)
    f.check_length("refined", stream, "missing", missing, (joints + 7) // 8)
    f.check_length("refined", stream, "sigma", sigma, 4 * joints)
    floats = f.finite_floats("refined", stream, {"xyz": xyz, "confidence": confidence, "sigma": sigma})
    points, trust, spread = floats[: 3 * joints].reshape(joints, 3), floats[3 * joints : -joints], floats[-joints:]
    f.checked(model, f.TEXT, "refined", stream, "model")
    _named("refined", "stream", stream)
    header[4] = float(header[4])  # fps
    slot = stream, lookahead, epoch, seq
    view = skeleton, model, axes, mirrored
    arrays = points, trust, f.unpack_bits(missing, joints), spread
    about = f.read_about("refined", stream, body["about"]) if "about" in body else NOTHING
    return topics.refined_topic(stream, lookahead), make_refined(
        *slot, *header, windows, to_flags(flags), *view, *arrays, about
    )


_LEAST = np.array([-1 if name == "source_seq" else 0 for name in ROW])


def encode_refined_batch(batch: RefinedBatch) -> _Parts:
    """Topic and body, not yet packed."""
    kind, poses = "refined_batch", len(batch.sources)
    each = f.leading_shape(kind, None, batch.xyz, poses)
    header: dict[str, list[Any]] = {
        "batch": [batch.lookahead, batch.epoch, poses],
        "times": [batch.infer_start_ns, batch.infer_end_ns, batch.publish_ns, batch.clock],
        "space": [batch.skeleton, each[1]],
    }
    f.REFINED_BATCH.check(None, *header.values())
    f.check_joints(kind, None, each[1])
    numbers = f.check_array(kind, None, "numbers", batch.numbers, (poses, len(ROW)), np.int64)
    missing = f.check_array(kind, None, "missing", batch.missing, each, np.bool_)
    return topics.refined_batch_topic(batch.lookahead), {
        "v": f.VERSION,
        "kind": kind,
        **header,
        "model": f.checked(batch.model, f.TEXT, kind, None, "model"),
        "sources": [source_body(source) for source in _sources(batch.sources, poses)],
        "numbers": _check_numbers(numbers).astype(f.I8, copy=False).tobytes(),
        **f.pack_floats(kind, None, each, batch, "xyz", "confidence", "sigma"),
        "missing": np.packbits(missing, axis=1).tobytes(),
    }


def _decode_refined_batch(body: f.Body) -> tuple[bytes, RefinedBatch]:
    kind = "refined_batch"
    lookahead, epoch, poses, *rest = f.REFINED_BATCH.check(None, body["batch"], body["times"], body["space"])
    start, end, publish, clock, skeleton, joints = rest
    f.check_joints(kind, None, joints)
    sources = [_read_source(source) for source in _sources(body["sources"], poses)]
    packed = {name: body[name] for name in ("xyz", "confidence", "sigma")}
    cells, bits = poses * joints, (joints + 7) // 8
    for name, data in packed.items():
        f.check_length(kind, None, name, data, (12 if name == "xyz" else 4) * cells)
    numbers, missing = body["numbers"], body["missing"]
    f.check_length(kind, None, "numbers", numbers, 8 * poses * len(ROW))
    f.check_length(kind, None, "missing", missing, poses * bits)
    xyz, confidence, sigma = np.split(f.finite_floats(kind, None, packed), [3 * cells, 4 * cells])
    unpacked = np.unpackbits(np.frombuffer(missing, np.uint8).reshape(poses, bits), axis=1, count=joints)
    rows = np.frombuffer(numbers, f.I8).reshape(poses, len(ROW))
    model = f.checked(body["model"], f.TEXT, kind, None, "model")
    return topics.refined_batch_topic(lookahead), RefinedBatch(
        *(lookahead, epoch, start, end, publish, clock, skeleton, model, sources, _check_numbers(rows)),
        *(xyz.reshape(poses, joints, 3), confidence.reshape(poses, joints)),
        *(unpacked.view(np.bool_), sigma.reshape(poses, joints)),
    )


def _sources(sources: Any, poses: int) -> Sequence[Any]:
    f.check_elements("refined_batch", None, "sources", sources)
    if len(sources) != poses:
        raise f.offence("refined_batch", None, f"sources is {f.show(sources)}, not one for each of {poses} poses")
    return sources  # type: ignore[no-any-return]


def source_body(source: Source) -> list[Any]:
    """The element of `sources` that says this; WireError if it cannot be said."""
    *known, _ = _known_source(source)
    about = f.pack_about("refined_batch", source.stream, source.about)
    return [*known, about] if about else known


def _read_source(element: Any) -> Source:
    """An element of `sources`, trailing elements left out."""
    source = _known_source(element)
    if len(element) == len(f.BATCH_SOURCE):
        return source
    return source._replace(about=f.read_about("refined_batch", source.stream, element[len(f.BATCH_SOURCE)]))


def _known_source(element: Any) -> Source:
    try:
        return _usual_source(*element[: len(f.BATCH_SOURCE)])
    except TypeError:
        expected = ", ".join(f.BATCH_SOURCE)
        raise f.offence("refined_batch", None, f"sources holds {f.show(element)}, not [{expected}]") from None


@lru_cache(maxsize=4096, typed=True)
def _usual_source(*values: Any) -> Source:
    if len(values) != len(f.BATCH_SOURCE):
        raise TypeError
    kind, stream = "refined_batch", values[0]
    for (name, types), value in zip(f.BATCH_SOURCE.items(), values, strict=True):
        f.checked(value, types, kind, stream, f"sources.{name}")
    source = Source(*values)._replace(fps=float(values[3]))
    topics.id_bytes(source.stream)
    f.check_view(kind, source.stream, source.fps, source.axes)
    return source


def _check_numbers(numbers: I64) -> I64:
    bad = (numbers < _LEAST).any(axis=0)
    if bad.any():
        raise f.offence("refined_batch", None, f"numbers holds a negative {ROW[int(bad.argmax())]}")
    return numbers


# --- events and heartbeats --------------------------------------------------------------------------------------------

_EVENT = {"event": f.TEXT, "epoch": f.COUNT, "seq": f.COUNT_OR_NIL, "time_ns": f.COUNT, "clock": f.TEXT}
_HEARTBEAT = {
    "epoch": f.COUNT,
    "seq": f.COUNT,
    "time_ns": f.COUNT,
    "clock": f.TEXT,
    "interval_ns": f.COUNT,
    "streams": f.COUNT,
    "frames_in": f.COUNT,
    "frames_out": f.COUNT,
    "model": f.TEXT,
    "skeleton": f.TEXT,
    "loop_fps": f.REAL,
}


def _encode_event(event: Event) -> _Parts:
    body = _named("event", "stream", event.stream) | {"event": event.kind}
    body |= {name: getattr(event, name) for name in (*_EVENT, "detail") if name != "event"}
    body["counts"] = dict(event.counts)
    if event.source_epoch is not None:
        body["source_epoch"] = event.source_epoch
    return _decode_event(body)[0], body


def _decode_event(body: f.Body) -> tuple[bytes, Event]:
    stream, detail = body["stream"], body["detail"]
    _named("event", "stream", stream)
    if type(detail) is not str:
        raise f.offence("event", stream, f"detail is {f.show(detail)}, not a string")
    kind, epoch, seq, time_ns, clock = (
        f.checked(body[name], types, "event", stream, name) for name, types in _EVENT.items()
    )
    counts = f.check_counts("event", stream, body["counts"])
    whose = f.checked(body.get("source_epoch"), f.COUNT_OR_NIL, "event", stream, "source_epoch")
    return topics.event_topic(stream), Event(stream, kind, epoch, seq, time_ns, detail, counts, clock, whose)


def _encode_heartbeat(beat: Heartbeat) -> _Parts:
    body = {"v": f.VERSION, "kind": "heartbeat", **{name: getattr(beat, name) for name in _HEARTBEAT}}
    body |= {"counts": dict(beat.counts), "lookaheads": list(beat.lookaheads)}
    if beat.shards:
        body["shards"] = list(beat.shards)
    return _decode_heartbeat(body)[0], body


def _decode_heartbeat(body: f.Body) -> tuple[bytes, Heartbeat]:
    kind = "heartbeat"
    values = {name: f.checked(body[name], types, kind, None, name) for name, types in _HEARTBEAT.items()}
    if not 0 <= values["loop_fps"] < math.inf:  # NaN too
        raise f.offence(kind, None, f"loop_fps is {f.show(values['loop_fps'])}, not a finite rate")
    values["loop_fps"] = float(values["loop_fps"])
    values["counts"] = f.check_counts(kind, None, body["counts"])
    lookaheads = f.check_elements(kind, None, "lookaheads", body["lookaheads"], least=0)
    values["lookaheads"] = tuple(f.checked(value, f.COUNT, kind, None, "lookaheads") for value in lookaheads)
    if "shards" in body:
        values["shards"] = check_shards(body["shards"])
    return topics.HEARTBEAT_TOPIC, Heartbeat(**values)


_SYNC = ("client", "number")


def _encode_sync(sync: Sync) -> _Parts:
    body = {"v": f.VERSION, "kind": "sync", "client": sync.client, "number": sync.number}
    return _decode_sync(body)[0], body


def _decode_sync(body: f.Body) -> tuple[bytes, Sync]:
    return topics.SYNC_TOPIC, Sync(*(f.checked(body[name], f.COUNT, "sync", None, name) for name in _SYNC))


def _encode_taken(taken: Taken) -> _Parts:
    numbers = f.check_array("taken", None, "numbers", taken.numbers, (len(taken.numbers), 2), np.int64)
    packed = numbers.astype(f.I8, copy=False).tobytes()
    body = {"v": f.VERSION, "kind": "taken", "epoch": taken.epoch, "numbers": packed}
    return _decode_taken(body)[0], body


def _decode_taken(body: f.Body) -> tuple[bytes, Taken]:
    epoch, numbers = f.checked(body["epoch"], f.COUNT, "taken", None, "epoch"), body["numbers"]
    f.check_length("taken", None, "numbers", numbers, len(numbers) // 16 * 16 if type(numbers) is bytes else 16)
    rows = np.frombuffer(numbers, f.I8).reshape(-1, 2)
    if (rows < 0).any():
        raise f.offence("taken", None, "numbers holds a negative number")
    return topics.TAKEN_TOPIC, Taken(epoch, rows)


# --- any message ------------------------------------------------------------------------------------------------------

_ENCODERS: dict[type, Callable[[Any], _Parts]] = {
    RawPose: _encode_raw,
    RawBatch: _encode_raw_batch,
    StreamEnd: _encode_end,
    RefinedPose: encode_refined,
    RefinedBatch: encode_refined_batch,
    Event: _encode_event,
    Heartbeat: _encode_heartbeat,
    Sync: _encode_sync,
    Taken: _encode_taken,
}
_DECODERS: dict[str, Callable[[f.Body], tuple[bytes, Message]]] = {
    "raw": _decode_raw,
    "raw_batch": _decode_raw_batch,
    "end": _decode_end,
    "refined": _decode_refined,
    "refined_batch": _decode_refined_batch,
    "event": _decode_event,
    "heartbeat": _decode_heartbeat,
    "sync": _decode_sync,
    "taken": _decode_taken,
}


class _Packing(threading.local):
    """A packer per thread: a new one per message costs half as much as packing, and a shared one is not safe."""

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer(buf_size=f.MAX_BODY).pack


packing = _Packing()


def encode(message: Message) -> tuple[bytes, bytes]:
    """The two parts, topic and body, of a message.

    Raises:
        WireError: a field is not valid. Nothing is encoded that `decode` would refuse.
    """
    encoder = _ENCODERS.get(type(message))
    if encoder is None:
        raise WireError(f"{f.show(message)} is no rtskel message")
    topic, body = encoder(message)
    try:
        packed = packing.pack(body)
    except (ValueError, TypeError, OverflowError) as error:  # such as a lone surrogate in a text
        raise WireError(f"{body['kind']} message cannot be packed: {f.show_error(error)}") from None
    if len(packed) > f.MAX_BODY:
        raise WireError(f"{body['kind']} message of {len(packed)} bytes, more than {f.MAX_BODY}", "oversize")
    return topic, packed


def decode(topic: bytes, body: bytes) -> Message:
    """The message of these two parts.

    Arrays are read-only views of the unpacked bytes. A RawPose may hold NaN or infinity (see `clean_joints`); no other
    message does.

    Raises:
        WireError: this is not a message of this version. One line names the sender and the fault.
    """
    own_topic, message = _decode(topic, body)
    if own_topic != topic:
        raise _refusal(topic, f"its body belongs on {f.show_topic(own_topic)}")
    return message


def decode_answer(body: bytes) -> Message:
    """The message of a body that the server sent to publishers on the raw socket, without a topic; errors as above."""
    return _decode(b"(answer)", body)[1]


def streams_of(topic: bytes, body: bytes) -> list[str]:
    """The streams that a raw message is about, whether or not the rest of it is valid."""
    if not topic.startswith(topics.RAW_BATCH_PREFIX):
        stream = topics.stream_of(topic)
        return [] if stream is None else [stream]
    try:
        streams = msgpack.unpackb(body, max_array_len=f.MAX_ELEMENTS, max_map_len=f.MAX_ELEMENTS)["streams"]
        return [stream for stream in streams if topics.is_id(stream)]
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException):
        return []  # `decode` refuses it


def _decode(topic: bytes, body: bytes) -> tuple[bytes, Message]:
    if len(body) > f.MAX_BODY:
        raise _refusal(topic, f"{len(body)} bytes, more than {f.MAX_BODY}", "oversize")
    try:
        # Declared lengths are believed only up to these limits, so that a few bytes cannot make us allocate much.
        fields = msgpack.unpackb(body, max_array_len=f.MAX_ELEMENTS, max_map_len=f.MAX_ELEMENTS)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise _refusal(topic, f"not msgpack ({f.show_error(error)})") from None
    if type(fields) is not dict:
        raise _refusal(topic, f"{f.show(fields)}, not a map")
    version = fields.get("v")
    if type(version) is not int or version != f.VERSION:
        shown = f.show(version) if "v" in fields else "absent"
        fault = "version" if type(version) is int else "malformed"
        raise _refusal(topic, f"version v is {shown}, this is version {f.VERSION}", fault)
    kind = fields.get("kind")
    decoder = _DECODERS.get(kind) if type(kind) is str else None
    if decoder is None:
        raise _refusal(topic, f"unknown kind {f.show(kind)}")
    try:
        return decoder(fields)
    except KeyError as absent:
        raise f.offence(str(kind), fields.get("stream"), f"{absent.args[0]} is absent") from None


def _refusal(topic: bytes, what: str, kind: str = "malformed") -> WireError:
    return WireError(f"message on {f.show_topic(topic)}: {what}", kind)
