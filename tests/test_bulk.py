"""Messages in bulk against messages one by one: what `decode` and `encode` say, in C++ and in Python."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings

from rtskel import wire
from rtskel.wire import About, Flag, RawBatch, RawPose, StreamEnd, decode, encode
from rtskel.wire.fast import MAX_EXPECTED, PoseWriter, RawReader
from tests.oracles.messages import OracleReader, OracleWriter
from tests.test_wire import REFINED, refined_batches

J = 3
RNG = np.random.default_rng(0)
READERS = pytest.mark.parametrize("made", [RawReader, OracleReader], ids=["native", "python"])
WRITERS = pytest.mark.parametrize("made", [PoseWriter, OracleWriter], ids=["native", "python"])
NUMBERS = [0, 1, 127, 128, 255, 256, 65535, 65536, 3 * 10**8]
TIMES = [*NUMBERS, 2**32 - 1, 2**32, wire.MAX_TIME]


def raw(stream="a", seq=0, time_ns=0, **changes) -> RawPose:
    xyz, confidence = RNG.normal(size=(J, 3)).astype(np.float32), RNG.random(J).astype(np.float32)
    return RawPose(
        **dict(stream=stream, epoch=1, seq=seq, time_ns=time_ns, clock="monotonic", fps=25.0, skeleton="three")
        | dict(xyz=xyz, confidence=confidence)
        | changes
    )


def batch(streams=("a", "b"), seq=0, time_ns=0, group="room", **changes) -> RawBatch:
    xyz = RNG.normal(size=(len(streams), J, 3)).astype(np.float32)
    fields = {field.name: getattr(raw(), field.name) for field in dataclasses.fields(RawPose) if field.name != "stream"}
    changed = dict(seq=seq, time_ns=time_ns, xyz=xyz, confidence=np.abs(xyz[..., 0])) | changes
    return RawBatch(group, streams, **fields | changed)


class Frames:
    """What a reader found in messages: an array each of which message, place, seq, time_ns, xyz and confidence."""

    def __init__(self, reader: RawReader, topics: list[bytes], bodies: list[bytes]):
        rows = reader.compiled.read(topics, bodies)
        message, place, seq, time_ns, xyz, confidence = zip(*rows, strict=True) if rows else ([],) * 6
        self.message, self.place = np.array(message, np.int64), np.array(place, np.int64)
        self.seq, self.time_ns = np.array(seq, np.int64), np.array(time_ns, np.int64)
        self.xyz = np.array([np.frombuffer(each, "<f4").reshape(J, 3) for each in xyz])
        self.confidence = np.array([np.frombuffer(each, "<f4") for each in confidence])
        self.others = [k for k in range(len(topics)) if k not in message]

    def __len__(self) -> int:
        return len(self.place)


def read_bytes(reader: RawReader, topics: list[bytes], bodies: list[bytes]) -> tuple[Frames, list[int]]:
    """The frames of messages that are expected, and which messages are not."""
    frames = Frames(reader, topics, bodies)
    return frames, frames.others


def check(frames: Frames, messages: list[RawPose | RawBatch], numbers: list[int], places: dict[str, int]):
    """The frames are the poses of those messages."""
    poses = [
        (k, pose) for k in numbers for pose in (messages[k].poses() if type(messages[k]) is RawBatch else [messages[k]])
    ]
    assert frames.message.tolist() == [k for k, _ in poses]
    assert frames.place.tolist() == [places[pose.stream] for _, pose in poses]
    assert frames.seq.tolist() == [pose.seq for _, pose in poses]
    assert frames.time_ns.tolist() == [pose.time_ns for _, pose in poses]
    for row, (_, pose) in enumerate(poses):
        np.testing.assert_array_equal(frames.xyz[row], pose.xyz)
        np.testing.assert_array_equal(frames.confidence[row], pose.confidence)


def expect(reader: RawReader, sample: RawPose | RawBatch, places: list[int]) -> None:
    reader.expect(*encode(sample), places)


def read(reader: RawReader, messages) -> tuple[Frames, list[int]]:
    return read_bytes(reader, *map(list, zip(*map(encode, messages), strict=True)))


@READERS
def test_expected_messages_are_read_and_others_are_left(made):
    reader = made(J)
    places = {"a": 4, "b": 0, "c": 9}
    expect(reader, raw("a"), [4])
    expect(reader, batch(("a", "b")), [4, 0])
    expect(reader, batch(("c", "b"), group="hall"), [9, 0])
    messages = [
        raw("a", 5, 7),
        raw("b"),  # alone it was never seen
        batch(("a", "b"), 6, 8),
        batch(("b", "a"), 6, 8),  # in another order
        StreamEnd("a", 1, 7, 0, "monotonic"),
        raw("a", 8, 9),
        batch(("c", "b"), 300, 10**15, group="hall"),
        batch(("c",), group="hall"),
        batch(("a", "b"), group="hall"),
    ]
    frames, others = read(reader, messages)
    assert others == [1, 3, 4, 7, 8]
    check(frames, messages, [0, 2, 5, 6], places)


@READERS
def test_a_body_that_its_numbers_make_too_long_is_left_to_be_refused(made):
    joints, people = 50, 80

    def crowd(padding: int) -> tuple[bytes, bytes]:
        names = [f"{k:02d}" + "x" * min(62, max(0, padding - 62 * k)) for k in range(people)]
        arrays = {"xyz": np.ones((people, joints, 3), np.float32), "confidence": np.ones((people, joints), np.float32)}
        return encode(RawBatch("room", names, 1, 1, 0, "monotonic", 25.0, skeleton="fifty", **arrays))

    padding = next(n for n in range(62 * people) if len(crowd(n)[1]) >= wire.MAX_BODY - 8)
    topic, body = crowd(padding)
    at = body.index(b"\x95\x01\x01\x00") + 2  # source: epoch 1, seq 1, time 0
    longer = body[:at] + b"\xcf" + bytes(7) + b"\x02" + b"\xcf" + bytes(8) + body[at + 2 :]
    assert len(body) <= wire.MAX_BODY < len(longer)
    with pytest.raises(wire.WireError, match="more than 65536"):
        decode(topic, longer)
    reader = made(joints)
    reader.expect(topic, body, list(range(people)))
    assert {row[0] for row in reader.compiled.read([topic, topic], [body, longer])} == {0}


@READERS
@pytest.mark.parametrize("seq", NUMBERS)
def test_numbers_of_every_length(made, seq):
    reader = made(J)
    expect(reader, raw(), [0])
    messages = [raw(seq=seq, time_ns=time_ns) for time_ns in TIMES]
    frames, others = read(reader, messages)
    assert others == []
    check(frames, messages, list(range(len(messages))), {"a": 0})


@READERS
def test_numbers_that_some_stream_must_not_say_are_left_to_decode(made):
    reader = made(J)
    expect(reader, raw(), [0])
    topic, body = encode(raw())
    fields = msgpack.unpackb(body)
    bodies = []
    for seq, time_ns in (3 * 10**8 + 1, 0), (2**63 - 1, 0), (0, wire.MAX_TIME + 1), (0, 2**63 - 1), (1, 1):
        fields["source"][1:3] = seq, time_ns
        bodies.append(msgpack.packb(fields))
    frames = Frames(reader, [topic] * 5, bodies)
    assert (frames.message.tolist(), frames.seq.tolist()) == ([4], [1])


@READERS
@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2},
        {"fps": 30.0},
        {"clock": "unix"},
        {"axes": "RDA"},
        {"mirrored": True},
        {"lossless": True},
        {"skeleton": "other"},
        {"seq": None},
        {"about": About(unit="mm")},
        {"xyz": np.zeros((2, 3), np.float32), "confidence": np.zeros(2, np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_different_is_not_expected(made, change):
    reader = made(J)
    expect(reader, raw(), [0])
    expect(reader, batch(), [0, 1])
    frames, others = read(reader, [raw(**change), raw()])
    assert (len(frames), others) == (1, [0])
    if "xyz" in change:
        change = {name: np.zeros((2, *array.shape), np.float32) for name, array in change.items()}
    frames, others = read(reader, [batch(**change), batch()])
    assert (len(frames), others) == (2, [0])


@READERS
@pytest.mark.parametrize("sample", [raw(seq=300, time_ns=2**40), batch(seq=300, time_ns=2**40)], ids=["pose", "batch"])
def test_truncated_and_flipped_bodies(made, sample):
    """What is expected decodes to the same; what does not decode is not expected."""
    reader = made(J)
    expect(reader, sample, [0] if type(sample) is RawPose else [0, 1])
    topic, body = encode(sample)
    broken = [body[:length] for length in range(len(body))] + [body + b"\0", body + body, b""]
    for flip in 1, 2, 0x40, 0x80, 0xFF:
        broken += [body[:k] + bytes([body[k] ^ flip]) + body[k + 1 :] for k in range(len(body))]
    frames, others = read_bytes(reader, [topic] * len(broken), broken)
    came = [k for k in range(len(broken)) if k not in others]
    assert came
    messages = {k: decode(topic, broken[k]) for k in came}  # would raise
    check(frames, messages, came, {"a": 0, "b": 1})


@READERS
def test_integers_are_read_in_every_form_that_decode_takes(made):
    reader = made(J)
    sample = raw(seq=5)
    expect(reader, sample, [0])
    topic, body = encode(sample)
    at = body.index(b"\x95\x01\x05") + 2
    forms = [b"\xcc\x05", b"\xcd\x00\x05", b"\xce\x00\x00\x00\x05", b"\xcf" + bytes(7) + b"\x05"]
    forms += [b"\xd0\x05", b"\xd1\x00\x05", b"\xd2\x00\x00\x00\x05", b"\xd3" + bytes(7) + b"\x05"]
    bodies = [body[:at] + form + body[at + 1 :] for form in forms]
    assert all(decode(topic, other).seq == 5 for other in bodies)
    frames, others = read_bytes(reader, [topic] * len(bodies), bodies)
    assert others == []
    check(frames, [sample] * len(bodies), list(range(len(bodies))), {"a": 0})
    others = [b"\xff", b"\xd0\x85", b"\xd1\x80\x05", b"\xcf" + b"\xff" * 8, b"\xd3" + b"\xff" * 8, b"\xc0"]
    for wrong in *others, b"\xca" + bytes(4):
        assert read_bytes(reader, [topic], [body[:at] + wrong + body[at + 1 :]])[1] == [0]


@READERS
def test_a_client_may_write_its_fields_in_any_order_and_form(made):
    reader = made(J)
    messages = [raw(seq=number, time_ns=2**33 * number) for number in range(5)]
    topic = encode(messages[0])[0]
    names = list(msgpack.unpackb(encode(messages[0])[1]))
    rng = np.random.default_rng(0)
    for _ in range(20):
        rng.shuffle(names)
        fields = [msgpack.unpackb(encode(message)[1]) for message in messages]
        bodies = [msgpack.packb({name: each[name] for name in names}) for each in fields]
        assert read_bytes(reader, [topic] * 5, bodies)[1] == [0, 1, 2, 3, 4]
        reader.expect(topic, bodies[3], [0])
        frames, others = read_bytes(reader, [topic] * 5, bodies)
        assert others == []
        check(frames, messages, list(range(5)), {"a": 0})
        reader.forget(0)
    whole = [encode(dataclasses.replace(message, fps=25)) for message in messages]  # as JavaScript writes 25.0
    reader.expect(*whole[0], [0])
    assert read_bytes(reader, *map(list, zip(*whole, strict=True)))[1] == []


@READERS
@pytest.mark.parametrize("about", [About("mm", None, "left", (1280, 720)), About(unit="px")])
def test_what_poses_are_of_is_compared(made, about):
    reader = made(J)
    expect(reader, raw(about=about), [3])
    expect(reader, batch(about=about), [3, 4])
    messages = [raw(seq=5, about=about), batch(seq=6, about=about)]
    frames, others = read(reader, messages)
    assert others == []
    check(frames, messages, [0, 1], {"a": 3, "b": 4})
    for other in About(), replace(about, unit="cm"), replace(about, image_size=(1, 1)), replace(about, view="right"):
        assert read(reader, [raw(about=other), batch(about=other)])[1] == [0, 1]


@READERS
def test_fields_of_later_versions_are_left_to_decode(made):
    """They may vary, and each message would be another one to expect."""
    reader = made(J)
    topic, body = encode(raw())
    fields = msgpack.unpackb(body)
    longer = [{name: [*fields[name], 0.5]} for name in ("source", "space")]
    for change in {"quality": 0.5}, {"about": {"unit": "m", "quality": 0.5}}, *longer:
        later = msgpack.packb(fields | change)
        assert decode(topic, later).fps == 25.0
        reader.expect(topic, later, [0])
        assert read_bytes(reader, [topic], [later])[1] == [0]


@READERS
def test_a_field_that_comes_twice_is_left_to_decode(made):
    reader = made(J)
    topic, body = encode(raw())
    again = bytes([body[0] + 1]) + body[1:] + msgpack.packb("confidence") + msgpack.packb(bytes(4 * J))
    assert not decode(topic, again).confidence.any()  # the last one counts
    reader.expect(topic, again, [0])
    assert read_bytes(reader, [topic], [again])[1] == [0]


@READERS
def test_what_is_forgotten_is_not_expected(made):
    reader = made(J)
    expect(reader, raw("a"), [0])
    expect(reader, raw("b"), [1])
    expect(reader, batch(("a", "b")), [0, 1])
    expect(reader, batch(("b", "c")), [1, 2])
    messages = [raw("a"), raw("b"), batch(("a", "b")), batch(("b", "c"))]
    reader.forget(0)
    assert read(reader, messages)[1] == [0, 2]
    reader.forget(7)
    expect(reader, raw("a"), [5])
    frames, others = read(reader, messages)
    assert others == [2]
    assert frames.place.tolist() == [5, 1, 1, 2]
    reader.forget(2)
    assert read(reader, messages)[1] == [2, 3]


@READERS
def test_a_stream_at_another_place(made):
    reader = made(J)
    expect(reader, raw("a"), [0])
    expect(reader, raw("a"), [0])
    reader.forget(0)
    expect(reader, raw("a"), [3])
    frames, others = read(reader, [raw("a")])
    assert (frames.place.tolist(), others) == ([3], [])


@READERS
def test_the_oldest_of_too_many_is_forgotten(made):
    reader = made(J)
    most = MAX_EXPECTED
    groups = [batch((f"s{k}", "a"), group="room") for k in range(most + 2)]
    for k, group in enumerate(groups):
        expect(reader, group, [k + 1, 0])
    assert read(reader, groups)[1] == [0, 1]
    expect(reader, groups[0], [1, 0])
    assert read(reader, groups)[1] == [1, 2]
    halls = [batch(("x",), group=f"g{k}") for k in range(2 * most)]
    for hall in halls:
        expect(reader, hall, [500])
    assert len(read(reader, halls)[1]) == most


@READERS
def test_what_is_not_finite_comes_through(made):
    reader = made(J)
    expect(reader, raw(), [0])
    topic, body = encode(raw())
    fields = msgpack.unpackb(body)
    fields["xyz"] = np.full(3 * J, np.nan, np.float32).tobytes()
    fields["confidence"] = np.full(J, np.inf, np.float32).tobytes()
    frames, others = read_bytes(reader, [topic] * 3, [body, msgpack.packb(fields), body])
    assert others == []
    assert np.isnan(frames.xyz[1]).all()
    assert np.isposinf(frames.confidence[1]).all()
    assert np.isfinite(frames.xyz[[0, 2]]).all()
    for name in "xyz", "confidence":
        one = np.frombuffer(fields[name], np.float32).copy()
        one[:-1] = 0
        lone = msgpack.packb(msgpack.unpackb(body) | {name: one.tobytes()})
        assert not np.isfinite(getattr(read_bytes(reader, [topic], [lone])[0], name)).all()


# --- poses out --------------------------------------------------------------------------------------------------------


@WRITERS
@settings(deadline=None, max_examples=40)
@given(sample=refined_batches())
def test_poses_are_written_as_encode_does(made, sample):
    seen = np.where(sample.missing, np.float32(0), sample.confidence)
    sample = dataclasses.replace(sample, confidence=seen, missing=seen == 0)
    joints = sample.xyz.shape[1]
    writer = made(joints)
    poses = sample.poses()
    kinds = [writer.add(dataclasses.replace(pose, seq=0, windows=0, flags=Flag(0), source_seq=None)) for pose in poses]
    assert len(set(kinds)) == len(kinds)
    bodies = writer.write(
        kinds,
        sample.numbers,
        sample.infer_start_ns,
        sample.infer_end_ns,
        sample.publish_ns,
        *(sample.xyz, sample.confidence, sample.sigma),
    )
    for pose, kind, body in zip(poses, kinds, bodies, strict=True):
        assert (writer.topics[kind], body) == encode(pose)


@WRITERS
def test_numbers_of_kinds_are_used_again(made):
    writer = made(2)
    first, second = writer.add(REFINED), writer.add(dataclasses.replace(REFINED, stream="cam2"))
    writer.discard(first)
    assert writer.add(dataclasses.replace(REFINED, stream="cam3")) == first
    assert writer.topics[first] == wire.refined_topic("cam3", 4)
    assert writer.topics[second] == wire.refined_topic("cam2", 4)
    numbers = np.array([[5, 7, 1000, 1100, 3, 3]] * 2)
    pose = dataclasses.replace(REFINED, missing=REFINED.confidence == 0)
    arrays = [array[None].repeat(2, 0) for array in (pose.xyz, pose.confidence, pose.sigma)]
    bodies = writer.write([second, first], numbers, 1200, 1300, 1400, *arrays)
    assert bodies == [encode(dataclasses.replace(pose, stream=stream))[1] for stream in ("cam2", "cam3")]


@settings(deadline=None, max_examples=40)
@given(sample=refined_batches())
def test_batches_are_written_as_encode_does(sample):
    encoder = wire.RefinedBatchEncoder(sample)
    sources = [encoder.source(source) for source in sample.sources]
    assert encoder.most(sources) >= 1
    body = encoder(
        *(sample.infer_start_ns, sample.infer_end_ns, sample.publish_ns, sources, sample.numbers),
        *(sample.xyz, sample.confidence, sample.missing, sample.sigma),
    )
    assert (encoder.topic, body) == encode(sample)


@pytest.mark.parametrize("joints", [1, 50, 1024])
def test_as_many_poses_as_are_said_fit_in_a_batch(joints):
    def made(poses):
        xyz = np.zeros((poses, joints, 3), np.float32)
        return wire.RefinedBatch(
            *(4, wire.MAX_COUNT, *[wire.MAX_COUNT] * 3, "m" * 128, "k" * 128, "w" * 128),
            [wire.Source("s" * 64, wire.MAX_COUNT, "c" * 128, 25.0, "RDT", True)] * poses,
            np.full((poses, 6), wire.MAX_COUNT),
            *(xyz, xyz[..., 0], xyz[..., 0] == 0, xyz[..., 0]),
        )

    encoder = wire.RefinedBatchEncoder(dataclasses.replace(made(1), epoch=wire.MAX_COUNT))
    most = encoder.most([encoder.source(made(1).sources[0])])
    assert most >= 3
    assert len(decode(*encode(made(most))).sources) == most
    with pytest.raises(wire.WireError):
        encode(made(most + 2))
