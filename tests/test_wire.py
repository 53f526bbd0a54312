"""The wire format against WIRE.md: golden bytes, a second implementation in few lines, every way to be malformed."""

import dataclasses
import struct
import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtskel import wire
from rtskel.errors import WireError
from rtskel.skeleton import UPPER_BODY_50
from rtskel.wire import (
    About,
    Event,
    Flag,
    Heartbeat,
    RawBatch,
    RawPose,
    RefinedBatch,
    RefinedPose,
    Source,
    StreamEnd,
    decode,
    encode,
)

# --- a client in a language that has msgpack and nothing else, written from WIRE.md alone -----------------------------


def pack_floats(values):
    return struct.pack(f"<{len(values)}f", *values)


def unpack_floats(data):
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def foreign_raw(stream, number, time_ns, points, confidence):
    body = {
        "v": 1,
        "kind": "raw",
        "stream": stream,
        "source": [11, number, time_ns, "monotonic", 25],
        "space": ["two", len(points), "RDT", False],
        "xyz": pack_floats([x for point in points for x in point]),
        "confidence": pack_floats(confidence),
    }
    return b"rts1/raw/" + stream.encode() + b"/", msgpack.packb(body)


def foreign_refined(parts):
    body = msgpack.unpackb(parts[1])
    assert body["v"] == 1
    assert body["kind"] == "refined"
    lookahead, _, seq, windows, flags = body["slot"][:5]
    joints = body["space"][1]
    xyz = unpack_floats(body["xyz"])
    bits = body["missing"]
    return {
        "stream": body["stream"],
        "lookahead": lookahead,
        "seq": seq,
        "source_seq": body["source"][1],
        "windows": windows,
        "interpolated": bool(flags & 2),
        "xyz": [xyz[3 * j : 3 * j + 3] for j in range(joints)],
        "confidence": unpack_floats(body["confidence"]),
        "sigma": unpack_floats(body["sigma"]),
        "missing": [bool(bits[j // 8] & (128 >> j % 8)) for j in range(joints)],
    }


def foreign_raw_batch(group, people, number, time_ns):
    body = {
        "group": group,
        "kind": "raw_batch",
        "v": 1,
        "source": [11, number, time_ns, "monotonic", 25],
        "space": ["two", 2, "RDT", False],
        "streams": list(people),
        "confidence": b"".join(pack_floats(confidence) for _, confidence in people.values()),
        "xyz": b"".join(pack_floats([x for point in points for x in point]) for points, _ in people.values()),
    }
    return b"rts1/raw_batch/" + group.encode() + b"/", msgpack.packb(body)


def foreign_refined_batch(parts):
    body = msgpack.unpackb(parts[1])
    assert body["v"] == 1
    assert body["kind"] == "refined_batch"
    lookahead, _, poses = body["batch"][:3]
    joints = body["space"][1]
    numbers = struct.unpack(f"<{6 * poses}q", body["numbers"])
    xyz, sigma, bits = unpack_floats(body["xyz"]), unpack_floats(body["sigma"]), (joints + 7) // 8
    return [
        {
            "stream": body["sources"][k][0],
            "lookahead": lookahead,
            "seq": numbers[6 * k],
            "source_seq": numbers[6 * k + 1],
            "interpolated": bool(numbers[6 * k + 5] & 2),
            "last": xyz[3 * joints * (k + 1) - 3 : 3 * joints * (k + 1)],
            "sigma": sigma[joints * k : joints * (k + 1)],
            "missing": [bool(body["missing"][bits * k + j // 8] & (128 >> j % 8)) for j in range(joints)],
        }
        for k in range(poses)
    ]


# --- golden bytes -----------------------------------------------------------------------------------------------------


def f32(*values):
    return np.array(values, np.float32)


RAW = RawPose("cam1", 11, 7, 1000, "monotonic", 25.0, f32([1, 2, 3], [0, 0, 0]), f32(1, 0), "two")
RAW_BATCH = RawBatch(
    "room",
    ("ann", "ben"),
    11,
    7,
    1000,
    "monotonic",
    25.0,
    f32([[1, 2, 3], [0, 0, 0]], [[4, 5, 6], [7, 8, 9]]),
    f32([1, 0], [1, 0.5]),
    "two",
)
END = StreamEnd("cam1", 11, 8, 2000, "monotonic")
ABOUT = About("mm", "Ann", "left camera", (1280, 720))
REFINED = RefinedPose(
    stream="cam1",
    lookahead=4,
    epoch=300,
    seq=5,
    source_epoch=11,
    source_seq=7,
    source_time_ns=1000,
    source_clock="monotonic",
    fps=25.0,
    receive_ns=1100,
    infer_start_ns=1200,
    infer_end_ns=1300,
    publish_ns=1400,
    clock="monotonic",
    windows=3,
    flags=Flag.WARM_UP | Flag.INTERPOLATED,
    skeleton="two",
    model="tiny-0123456789ab",
    axes="RUA",
    mirrored=True,
    xyz=f32([1, 2, 3], [-0.5, 0, 0.25]),
    confidence=f32(1, 0),
    missing=np.array([False, True]),
    sigma=f32(0.5, 2),
)
REFINED_BATCH = RefinedBatch(
    lookahead=4,
    epoch=300,
    infer_start_ns=1200,
    infer_end_ns=1300,
    publish_ns=1400,
    clock="monotonic",
    skeleton="two",
    model="tiny-0123456789ab",
    sources=[Source("ann", 11, "monotonic", 25.0, "RUA", True), Source("ben", 12, "camera", 30.0, "RDT", False)],
    numbers=np.array([[5, 7, 1000, 1100, 3, 3], [9, -1, 2000, 0, 5, 2]]),
    xyz=f32([[1, 2, 3], [-0.5, 0, 0.25]], [[0, 1, 2], [3, 4, 5]]),
    confidence=f32([1, 0], [0, 0]),
    missing=np.array([[False, True], [True, True]]),
    sigma=f32([0.5, 2], [0, 1]),
)
EVENT = Event("cam1", "gap", 300, 9, 5000, "70 frames missing", {"missing": 70})
HEARTBEAT = Heartbeat(
    epoch=300,
    seq=2,
    time_ns=6000,
    interval_ns=10**9,
    streams=1,
    frames_in=100,
    frames_out=200,
    counts={"late": 3},
    model="tiny-0123456789ab",
    skeleton="two",
    lookaheads=(0, 4),
    loop_fps=25.0,
)

SYNC = wire.Sync(client=77, number=3)
TAKEN = wire.Taken(epoch=300, numbers=np.array([[77, 3], [78, 1]]))

GOLDEN = [
    (
        RAW,
        b"rts1/raw/cam1/",
        "87a17601a46b696e64a3726177a673747265616da463616d31a6736f75726365950b07cd03e8a96d6f6e6f746f6e6963cb40"
        "39000000000000a5737061636594a374776f02a3524454c2a378797ac4180000803f00000040000040400000000000000000"
        "00000000aa636f6e666964656e6365c4080000803f00000000",
    ),
    (
        RAW_BATCH,
        b"rts1/raw_batch/room/",
        "88a17601a46b696e64a97261775f6261746368a567726f7570a4726f6f6da773747265616d7392a3616e6ea362656ea6736f"
        "75726365950b07cd03e8a96d6f6e6f746f6e6963cb4039000000000000a5737061636594a374776f02a3524454c2a378797a"
        "c4300000803f0000004000004040000000000000000000000000000080400000a0400000c0400000e0400000004100001041"
        "aa636f6e666964656e6365c4100000803f000000000000803f0000003f",
    ),
    (
        END,
        b"rts1/raw/cam1/",
        "84a17601a46b696e64a3656e64a673747265616da463616d31a6736f75726365940b08cd07d0a96d6f6e6f746f6e6963",
    ),
    (
        REFINED,
        b"rts1/refined/cam1/L4/",
        "8ca17601a46b696e64a7726566696e6564a673747265616da463616d31a4736c6f749504cd012c050303a6736f7572636595"
        "0b07cd03e8a96d6f6e6f746f6e6963cb4039000000000000a574696d657395cd044ccd04b0cd0514cd0578a96d6f6e6f746f"
        "6e6963a5737061636594a374776f02a3525541c3a56d6f64656cb174696e792d303132333435363738396162a378797ac418"
        "0000803f0000004000004040000000bf000000000000803eaa636f6e666964656e6365c4080000803f00000000a57369676d"
        "61c4080000003f00000040a76d697373696e67c40140",
    ),
    (
        REFINED_BATCH,
        b"rts1/refined_batch/L4/",
        "8ca17601a46b696e64ad726566696e65645f6261746368a562617463689304cd012c02a574696d657394cd04b0cd0514cd05"
        "78a96d6f6e6f746f6e6963a5737061636592a374776f02a56d6f64656cb174696e792d303132333435363738396162a7736f"
        "75726365739296a3616e6e0ba96d6f6e6f746f6e6963cb4039000000000000a3525541c396a362656e0ca663616d657261cb"
        "403e000000000000a3524454c2a76e756d62657273c46005000000000000000700000000000000e8030000000000004c0400"
        "0000000000030000000000000003000000000000000900000000000000ffffffffffffffffd0070000000000000000000000"
        "00000005000000000000000200000000000000a378797ac4300000803f0000004000004040000000bf000000000000803e00"
        "0000000000803f0000004000004040000080400000a040aa636f6e666964656e6365c4100000803f00000000000000000000"
        "0000a57369676d61c4100000003f00000040000000000000803fa76d697373696e67c40240c0",
    ),
    (
        EVENT,
        b"rts1/event/cam1/",
        "8aa17601a46b696e64a56576656e74a673747265616da463616d31a56576656e74a3676170a565706f6368cd012ca3736571"
        "09a774696d655f6e73cd1388a5636c6f636ba96d6f6e6f746f6e6963a664657461696cb13730206672616d6573206d697373"
        "696e67a6636f756e747381a76d697373696e6746",
    ),
    (
        HEARTBEAT,
        b"rts1/heartbeat/",
        "8fa17601a46b696e64a9686561727462656174a565706f6368cd012ca373657102a774696d655f6e73cd1770a5636c6f636b"
        "a96d6f6e6f746f6e6963ab696e74657276616c5f6e73ce3b9aca00a773747265616d7301a96672616d65735f696e64aa6672"
        "616d65735f6f7574ccc8a56d6f64656cb174696e792d303132333435363738396162a8736b656c65746f6ea374776fa86c6f"
        "6f705f667073cb4039000000000000a6636f756e747381a46c61746503aa6c6f6f6b616865616473920004",
    ),
    (SYNC, b"rts1/sync/", "84a17601a46b696e64a473796e63a6636c69656e744da66e756d62657203"),
    (
        TAKEN,
        b"rts1/taken/",
        "84a17601a46b696e64a574616b656ea565706f6368cd012ca76e756d62657273c4204d0000000000000003000000000000004e00"
        "0000000000000100000000000000",
    ),
]
ERROR = Event("cam1", "error", 300, None, 5000, "frame 1 came before", {"duplicate": 1}, source_epoch=11)
KINDS = [type(message).__name__ for message, _, _ in GOLDEN]


def assert_same(message, other):
    assert type(message) is type(other)
    for field in dataclasses.fields(message):
        value, back = getattr(message, field.name), getattr(other, field.name)
        if isinstance(value, np.ndarray):
            assert value.dtype == back.dtype, field.name
            np.testing.assert_array_equal(value, back, err_msg=field.name, strict=True)
        else:
            assert value == back, field.name


@pytest.mark.parametrize(("message", "topic", "body"), GOLDEN, ids=KINDS)
def test_golden_bytes(message, topic, body):
    assert encode(message) == (topic, bytes.fromhex(body))
    assert_same(message, decode(topic, bytes.fromhex(body)))


def test_a_foreign_writer_is_understood():
    topic, body = foreign_raw("cam1", 7, 1000, [[1, 2, 3], [0, 0, 0]], [1, 0])
    assert_same(RAW, decode(topic, body))


def test_a_foreign_reader_understands():
    assert foreign_refined(encode(REFINED)) == {
        "stream": "cam1",
        "lookahead": 4,
        "seq": 5,
        "source_seq": 7,
        "windows": 3,
        "interpolated": True,
        "xyz": [[1, 2, 3], [-0.5, 0, 0.25]],
        "confidence": [1, 0],
        "sigma": [0.5, 2],
        "missing": [False, True],
    }


def test_foreign_batches_are_understood():
    people = {"ann": ([[1, 2, 3], [0, 0, 0]], [1, 0]), "ben": ([[4, 5, 6], [7, 8, 9]], [1, 0.5])}
    assert_same(RAW_BATCH, decode(*foreign_raw_batch("room", people, 7, 1000)))
    ann, ben = foreign_refined_batch(encode(REFINED_BATCH))
    assert (ann["stream"], ann["lookahead"], ann["seq"], ann["source_seq"]) == ("ann", 4, 5, 7)
    assert (ben["stream"], ben["lookahead"], ben["seq"], ben["source_seq"]) == ("ben", 4, 9, -1)
    assert (ann["last"], ann["sigma"], ann["missing"]) == ([-0.5, 0, 0.25], [0.5, 2], [False, True])
    assert (ben["last"], ben["sigma"], ben["missing"]) == ([3, 4, 5], [0, 1], [True, True])
    assert ann["interpolated"]
    assert ben["interpolated"]


def test_the_page_says_what_the_module_does():
    page = (Path(wire.__file__).parent / "WIRE.md").read_text()
    for flag in Flag:
        assert f"| `{flag.name.lower()}` | {flag.value} |" in page
    for message in (
        RAW,
        dataclasses.replace(RAW, lossless=True),
        dataclasses.replace(RAW, dims=2),
        dataclasses.replace(RAW, about=ABOUT),
        RAW_BATCH,
        END,
        REFINED,
        REFINED_BATCH,
        EVENT,
        ERROR,
        HEARTBEAT,
        SYNC,
        TAKEN,
    ):
        for name in msgpack.unpackb(encode(message)[1]):
            assert f"`{name}`" in page
    for field in dataclasses.fields(ABOUT):
        assert f"| `{field.name}` |" in page
    for limit in (
        wire.MAX_BODY,
        wire.MAX_ELEMENTS,
        wire.MAX_JOINTS,
        wire.MAX_TEXT,
        wire.MAX_SIDE,
        wire.MAX_SPAN_S,
        f"{wire.MIN_FPS:g} to {wire.MAX_FPS:.0f}",
    ):
        assert str(limit) in page
    skeleton = page.partition("## Skeleton `upper-body-50`")[2].partition("## ")[0]
    for joint, (name, parent) in enumerate(zip(UPPER_BODY_50.names, UPPER_BODY_50.parents, strict=True)):
        assert f" {joint} {name}" + (f" → {parent}" if parent >= 0 else "") in skeleton
    example = page.rpartition("## Example")[2]
    assert "".join(line.strip() for line in example.splitlines() if line.startswith("    ")) == GOLDEN[0][2]


# --- round trip -------------------------------------------------------------------------------------------------------

stream_ids = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
counts = st.integers(0, wire.MAX_COUNT)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=wire.MAX_TEXT)
rates = st.floats(wire.MIN_FPS, wire.MAX_FPS)
times = st.integers(0, wire.MAX_TIME)
frame_numbers = st.integers(0, int(wire.MIN_FPS * wire.MAX_SPAN_S))
axes = st.sampled_from(["RDT", "RDA", "RUA", "RAU", "TLU"])
about_texts = st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=wire.MAX_TEXT)
sizes = st.none() | st.tuples(*[st.integers(1, wire.MAX_SIDE)] * 2)
abouts = st.just(About()) | st.builds(About, about_texts, about_texts, about_texts, sizes)
joint_counts = st.sampled_from([1, 2, 7, 8, 9, 50, 1024])


@st.composite
def floats(draw, *shape):
    # A few drawn numbers, repeated: what must be varied is their range, not each element.
    some = draw(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
    return np.resize(np.array(some, np.float32), shape)


@st.composite
def raw_poses(draw):
    joints = draw(joint_counts)
    return RawPose(
        draw(stream_ids),
        draw(counts),
        draw(st.none() | frame_numbers),
        draw(times),
        draw(texts),
        draw(rates),
        draw(floats(joints, 3)),
        draw(floats(joints)),
        draw(texts),
        draw(axes),
        draw(st.booleans()),
        draw(st.booleans()),
        about=draw(abouts),
    )


@st.composite
def raw_batches(draw):
    streams = draw(st.lists(stream_ids, min_size=1, max_size=5, unique=True))
    pose = draw(raw_poses().filter(lambda pose: len(pose.xyz) < 1000))
    fields = {field.name: getattr(pose, field.name) for field in dataclasses.fields(pose) if field.name != "stream"}
    turn = np.arange(1, len(streams) + 1, dtype=np.float32) / 8
    changed = {"xyz": pose.xyz * turn[:, None, None], "confidence": pose.confidence * turn[:, None]}
    changed["about"] = dataclasses.replace(pose.about, person=None)
    return RawBatch(pose.stream, tuple(streams), **fields | changed)


@st.composite
def refined_batches(draw):
    poses = draw(st.integers(1, 5))
    joints = draw(st.sampled_from([1, 7, 8, 9, 50]))
    sources = st.builds(Source, stream_ids, counts, texts, rates, axes, st.booleans(), abouts)
    row = st.tuples(counts, st.integers(-1, wire.MAX_COUNT), *[counts] * 4)
    return RefinedBatch(
        *[draw(counts) for _ in range(5)],
        draw(texts),
        draw(texts),
        draw(texts),
        draw(st.lists(sources, min_size=poses, max_size=poses)),
        np.array(draw(st.lists(row, min_size=poses, max_size=poses)), np.int64),
        draw(floats(poses, joints, 3)),
        draw(floats(poses, joints)),
        np.resize(draw(st.lists(st.booleans(), min_size=1, max_size=11)), (poses, joints)),
        draw(floats(poses, joints)),
    )


@st.composite
def refined_poses(draw):
    joints = draw(joint_counts)
    return RefinedPose(
        stream=draw(stream_ids),
        lookahead=draw(counts),
        epoch=draw(counts),
        seq=draw(counts),
        source_epoch=draw(counts),
        source_seq=draw(st.none() | counts),
        source_time_ns=draw(counts),
        source_clock=draw(texts),
        fps=draw(rates),
        receive_ns=draw(counts),
        infer_start_ns=draw(counts),
        infer_end_ns=draw(counts),
        publish_ns=draw(counts),
        clock=draw(texts),
        windows=draw(counts),
        flags=Flag(draw(st.integers(0, 2**20))),
        skeleton=draw(texts),
        model=draw(texts),
        axes=draw(axes),
        mirrored=draw(st.booleans()),
        xyz=draw(floats(joints, 3)),
        confidence=draw(floats(joints)),
        missing=np.resize(draw(st.lists(st.booleans(), min_size=1, max_size=11)), joints),
        sigma=draw(floats(joints)),
        about=draw(abouts),
    )


pairs = st.lists(st.tuples(counts, counts), max_size=9).map(lambda rows: np.array(rows, np.int64).reshape(-1, 2))
count_maps = st.dictionaries(texts, counts, max_size=5)
messages = st.one_of(
    raw_poses(),
    raw_batches(),
    refined_poses(),
    refined_batches(),
    st.builds(StreamEnd, stream_ids, counts, st.none() | frame_numbers, times, texts),
    st.builds(
        Event,
        *(st.just("") | stream_ids, texts, counts, st.none() | counts, counts, texts, count_maps, texts),
        st.none() | counts,
    ),
    st.builds(
        Heartbeat, *[counts] * 7, count_maps, texts, texts, st.lists(counts, max_size=5).map(tuple), rates, texts
    ),
    st.builds(wire.Sync, counts, counts),
    st.builds(wire.Taken, counts, pairs),
)


@given(messages)
def test_round_trip(message):
    topic, body = encode(message)
    assert_same(message, decode(topic, body))
    assert encode(decode(topic, body)) == (topic, body)


@given(raw_batches())
def test_a_raw_batch_is_its_poses(batch):
    for k, pose in enumerate(batch.poses()):
        assert (pose.stream, pose.lossless, pose.about) == (batch.streams[k], batch.lossless, batch.about)
        np.testing.assert_array_equal(pose.xyz, batch.xyz[k])
        assert_same(pose, decode(*encode(pose)))


@given(refined_batches())
def test_a_refined_batch_is_its_poses(batch):
    for source, numbers, pose in zip(batch.sources, batch.numbers.tolist(), batch.poses(), strict=True):
        assert_same(pose, decode(*encode(pose)))
        origin = pose.stream, pose.source_epoch, pose.source_clock, pose.fps
        assert source == Source(*origin, pose.axes, pose.mirrored, pose.about)
        source_seq = -1 if pose.source_seq is None else pose.source_seq
        assert numbers == [*(pose.seq, source_seq, pose.source_time_ns, pose.receive_ns, pose.windows, int(pose.flags))]


def test_as_many_poses_as_fit():
    poses, joints = 56, 50
    xyz = np.zeros((poses, joints, 3), np.float32)
    batch = dataclasses.replace(
        REFINED_BATCH,
        sources=[Source(f"{k:064}", wire.MAX_COUNT, "monotonic", 25.0, "RDT", False) for k in range(poses)],
        numbers=np.full((poses, 6), wire.MAX_COUNT),
        xyz=xyz,
        confidence=xyz[..., 0],
        missing=xyz[..., 0] == 0,
        sigma=xyz[..., 0],
    )
    assert len(decode(*encode(batch)).sources) == poses
    names = ("numbers", "xyz", "confidence", "missing", "sigma")
    twice = {name: np.concatenate([getattr(batch, name)] * 2) for name in names}
    with pytest.raises(WireError, match="bytes"):
        encode(dataclasses.replace(batch, sources=2 * batch.sources, **twice))


def test_arrays_of_any_layout_are_sent_and_views_are_read():
    xyz = np.arange(300, dtype=np.float32).reshape(3, 100).T[::2]
    pose = decode(*encode(dataclasses.replace(RAW, xyz=xyz, confidence=xyz[:, 0])))
    np.testing.assert_array_equal(pose.xyz, xyz)
    assert not pose.xyz.flags.writeable


def test_messages_are_frozen():
    for message in decode(*encode(RAW)), decode(*encode(REFINED)), RAW_BATCH, REFINED_BATCH, EVENT:
        assert not hasattr(message, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            message.epoch = 0


# --- topics -----------------------------------------------------------------------------------------------------------


def test_a_topic_is_no_prefix_of_another_streams():
    assert not wire.raw_topic("cam10").startswith(wire.raw_topic("cam1"))
    assert not wire.refined_topic("cam1", 12).startswith(wire.refined_topic("cam1", 1))
    assert not wire.refined_batch_topic(12).startswith(wire.refined_batch_topic(1))
    assert not wire.raw_batch_topic("room").startswith(wire.RAW_PREFIX)
    assert not wire.refined_batch_topic(1).startswith(wire.REFINED_PREFIX)
    assert not wire.event_topic("cam1").startswith(wire.event_topic(""))


@pytest.mark.parametrize("stream", ["", "a/b", "a b", "\u00e9", "a" * 65, "a\n"])
def test_bad_stream_ids_are_named(stream):
    with pytest.raises(WireError, match="stream id"):
        wire.raw_topic(stream)
    with pytest.raises(WireError, match="stream id"):
        encode(dataclasses.replace(RAW, stream=stream))
    with pytest.raises(WireError, match="group id"):
        encode(dataclasses.replace(RAW_BATCH, group=stream))
    with pytest.raises(WireError, match=r"room.*streams"):
        encode(dataclasses.replace(RAW_BATCH, streams=("ann", stream)))
    with pytest.raises(WireError, match="stream id"):
        encode(dataclasses.replace(REFINED_BATCH, sources=[REFINED_BATCH.sources[0]._replace(stream=stream)] * 2))


@pytest.mark.parametrize(
    ("topic", "stream"),
    [
        (b"rts1/raw/cam1/", "cam1"),
        (b"rts1/refined/cam1/L4/", "cam1"),
        (b"rts1/raw_batch/room/", "room"),
        (b"rts1/refined_batch/L4/", None),
        (b"rts1/event//", None),
        (b"rts1/heartbeat/", None),
        (b"rts1/raw/cam1", None),
        (b"rts2/raw/cam1/", None),
        (b"rts1/raw/\xff/", None),
        (b"", None),
    ],
)
def test_the_stream_of_a_topic(topic, stream):
    assert wire.stream_of(topic) == stream


# --- malformed --------------------------------------------------------------------------------------------------------


def refuses(topic, body, *named):
    with pytest.raises(WireError) as refusal:
        decode(topic, body)
    text = str(refusal.value)
    assert "\n" not in text
    assert len(text) < 400
    for name in named:
        assert name in text, text


@pytest.mark.parametrize(("message", "topic", "body"), GOLDEN, ids=KINDS)
def test_every_truncation_and_any_tail_is_refused(message, topic, body):
    body = bytes.fromhex(body)
    for length in range(len(body)):
        refuses(topic, body[:length], topic.decode())
    for tail in b"\0", b"\xc0", body:
        refuses(topic, body + tail, topic.decode())


@given(st.binary(max_size=300))
@example(b"\x81\xd6\xff\0\0\0\0\x01")  # a timestamp as a key
@example(b"\x81\xa1v\xd7\xff" + b"\xff" * 8)  # a timestamp that does not exist
@example(b"\x81\xa1v\xa1\xff")  # not UTF-8
@example(b"\x82\xa1v\x01\xa4kind\x91\x01")  # a kind that is an array
def test_garbage_is_refused(body):
    refuses(b"rts1/raw/cam1/", body)


@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_read(kind, place, flip):
    _, topic, body = GOLDEN[kind]
    broken = bytearray.fromhex(body)
    broken[place % len(broken)] ^= flip
    try:
        decode(topic, bytes(broken))
    except WireError as error:
        assert "\n" not in str(error)  # noqa: PT017


def fields_of(body):
    """Every field and element of a body: (path, how to set it, how to delete it)."""
    for name, value in body.items():
        yield (name,), value
        if isinstance(value, list):
            yield from (((name, k), element) for k, element in enumerate(value))


def changed(body, path, value):
    """A copy of a body in which the field at a path has another value."""
    body = {name: list(field) if isinstance(field, list) else field for name, field in body.items()}
    holder = body
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    return msgpack.packb(body)


@pytest.mark.parametrize(("message", "topic", "body"), GOLDEN, ids=KINDS)
def test_every_field_of_a_wrong_type_or_range_is_named(message, topic, body):
    body = msgpack.unpackb(bytes.fromhex(body))
    nullable = {("source", 1), ("seq",)} if topic != wire.HEARTBEAT_TOPIC else set()
    if "sources" in body:  # arrays in an array
        for k in range(6):
            for bad in [[1], {"a": 1}, b"abc", float("nan"), -1, None, *([True] if k != 5 else [1])]:
                row = [*body["sources"][1][:k], bad, *body["sources"][1][k + 1 :]]
                refuses(topic, changed(body, ("sources", 1), row), "source")
    checked = 0
    for path, value in fields_of(body):
        wrong = [[1], {"a": 1}, b"abc", float("nan"), -1, 2**63]
        if type(value) is not bool:
            wrong += [True]
        if path not in nullable:
            wrong += [None]
        if type(value) is not str:
            wrong += ["text"]
        elif path[0] not in ("stream", "detail"):
            wrong += ["x" * (wire.MAX_TEXT + 1)]
        for bad in wrong:
            if path == ("lookaheads",) and bad == [1]:
                continue
            if path == ("counts",) and bad == {"a": 1}:
                continue
            refuses(topic, changed(body, path, bad), path[0])
            checked += 1
    assert checked > 30


@pytest.mark.parametrize(("message", "topic", "body"), GOLDEN, ids=KINDS)
def test_every_absent_field_is_named(message, topic, body):
    body = msgpack.unpackb(bytes.fromhex(body))
    for name, value in body.items():
        refuses(topic, msgpack.packb({other: body[other] for other in body if other != name}), name)
        if name in ("source", "slot", "times", "space", "batch", "sources"):
            refuses(topic, changed(body, (name,), value[:-1]), name)


@pytest.mark.parametrize(("message", "topic", "body"), GOLDEN, ids=KINDS)
def test_what_a_later_version_adds_is_ignored(message, topic, body):
    body = msgpack.unpackb(bytes.fromhex(body))
    body["sources"] = [[*source, {}, "more"] for source in body["sources"]] if "sources" in body else 0
    for name in {"source", "slot", "times", "space", "batch"} & set(body):
        body[name] = [*body[name], "more", {"even": ["more"]}]
    body["added"] = {"nested": [1, 2, b"3"]}
    assert_same(message, decode(topic, msgpack.packb(body)))


def test_what_poses_are_of_is_said_in_few_bytes_and_only_where_it_is_known():
    body = msgpack.unpackb(encode(dataclasses.replace(RAW, about=ABOUT))[1])
    assert body["about"] == {"unit": "mm", "person": "Ann", "view": "left camera", "image_size": [1280, 720]}
    assert encode(dataclasses.replace(RAW, about=About())) == encode(RAW)
    for message in RAW, REFINED:
        topic, packed = encode(dataclasses.replace(message, about=About(unit="m")))
        assert msgpack.unpackb(packed)["about"] == {"unit": "m"}
        assert decode(topic, packed).about == About(unit="m")
        later = changed(msgpack.unpackb(packed), ("about",), {"unit": "m", "lens": [1, 2]})
        assert decode(topic, later).about == About(unit="m")
        assert decode(topic, changed(msgpack.unpackb(packed), ("about",), {})).about == About()


@pytest.mark.parametrize(
    ("about", "name"),
    [
        (None, "about"),
        ([], "about"),
        ("mm", "about"),
        *(({name: bad}, name) for name in ("unit", "person", "view") for bad in (None, 1, b"m", [], "", "x" * 129)),
        *(({name: f"a{bad}"}, name) for name in ("unit", "person", "view") for bad in "\0\n\x1b\x7f\x9b"),
        *(({"image_size": bad}, "image_size") for bad in (None, 640, "640x480", [640], [640, 480, 3], {"w": 1})),
        *(({"image_size": [640, bad]}, "image_size") for bad in (0, -1, 480.0, True, None, "480", 1_000_001, [480])),
    ],
)
def test_what_poses_are_of_is_checked_at_the_door(about, name):
    for message in RAW, RAW_BATCH, REFINED:
        if name == "person" and message is RAW_BATCH:
            continue
        topic, body = encode(message)
        whole = msgpack.packb(msgpack.unpackb(body) | {"about": about})
        refuses(topic, whole, "about" if name == "about" else f"about.{name}")
    topic, body = encode(REFINED_BATCH)
    body = msgpack.unpackb(body)
    refuses(topic, changed(body, ("sources", 1), [*body["sources"][1], about]), "'ben'", name)
    if isinstance(about, dict) and about[name] is not None:
        for message in RAW, REFINED:
            with pytest.raises(WireError, match=rf"cam1.*about\.{name}"):
                encode(dataclasses.replace(message, about=About(**about)))


def test_a_batch_names_no_person():
    with pytest.raises(WireError, match=r"room.*about\.person"):
        encode(dataclasses.replace(RAW_BATCH, about=ABOUT))
    topic, body = encode(RAW_BATCH)
    refuses(topic, msgpack.packb(msgpack.unpackb(body) | {"about": {"person": "Ann"}}), "room", "about.person")


def test_an_unknown_flag_is_kept():
    body = msgpack.unpackb(encode(REFINED)[1])
    pose = decode(wire.refined_topic("cam1", 4), changed(body, ("slot", 4), 2 | 1 << 40))
    assert pose.flags == 2 | 1 << 40
    assert Flag.INTERPOLATED in pose.flags


@pytest.mark.parametrize("version", [0, 2, 1.0, True, "1", None, [1]])
def test_another_version_is_refused(version):
    for _, topic, body in GOLDEN:
        refuses(topic, changed(msgpack.unpackb(bytes.fromhex(body)), ("v",), version), "version", topic.decode())


def test_an_unknown_kind_is_refused():
    for kind in "pose", "", None, 1, ["raw"]:
        refuses(b"rts1/raw/cam1/", changed(msgpack.unpackb(encode(RAW)[1]), ("kind",), kind), "kind")


def test_a_message_on_the_wrong_topic_is_refused():
    for _, _, body in GOLDEN:
        for topic in b"", b"rts1/raw/cam2/", b"rts2/raw/cam1/", b"rts1/refined/cam1/L5/", b"rts1/event//", b"\xff\n":
            refuses(topic, bytes.fromhex(body))


def test_what_is_declared_is_not_allocated():
    claims = [
        b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xc6\xff\xff\xff\xff",  # binary
        b"\xdb\xff\xff\xff\xff",  # a string
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
        b"\xdd\0\0\x40\0" * 13_000,  # arrays in arrays, each of as many as bytes are left at first
        b"\xdc\x01\0" * 20_000,  # arrays of 256 in arrays
        b"\x91" * wire.MAX_BODY,
        b"\x81\xa1v" * 20_000,
        changed(msgpack.unpackb(encode(RAW)[1]), ("space", 1), 2**62),
        changed(msgpack.unpackb(encode(RAW)[1]), ("space", 1), wire.MAX_JOINTS),
    ]
    tracemalloc.start()
    try:
        for body in claims:
            refuses(b"rts1/raw/cam1/", body)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_an_oversized_body_is_refused_unread():
    body = changed(msgpack.unpackb(encode(RAW)[1]), ("added",), b"x" * wire.MAX_BODY)
    refuses(b"rts1/raw/cam1/", body, "rts1/raw/cam1/", str(len(body)))
    with pytest.raises(WireError, match="bytes"):
        encode(dataclasses.replace(EVENT, detail="x" * wire.MAX_BODY))
    for message, name, many in [
        (EVENT, "counts", {str(k): k for k in range(257)}),
        (HEARTBEAT, "counts", {str(k): k for k in range(257)}),
        (HEARTBEAT, "lookaheads", range(257)),
    ]:
        with pytest.raises(WireError, match=name):
            encode(dataclasses.replace(message, **{name: many}))


@pytest.mark.parametrize("joints", [0, wire.MAX_JOINTS + 1])
def test_joint_counts_out_of_range(joints):
    with pytest.raises(WireError, match=r"cam1.*joints"):
        encode(dataclasses.replace(RAW, xyz=np.zeros((joints, 3), np.float32), confidence=np.zeros(joints, np.float32)))


@pytest.mark.parametrize("fps", [0, -25.0, float("nan"), float("inf"), 1e-310, 0.09, wire.MAX_FPS + 1])
def test_impossible_rates_are_named(fps):
    for message in RAW, REFINED:
        with pytest.raises(WireError, match=r"cam1.*fps"):
            encode(dataclasses.replace(message, fps=fps))
    with pytest.raises(WireError, match=r"room.*fps"):
        encode(dataclasses.replace(RAW_BATCH, fps=fps))
    with pytest.raises(WireError, match=r"ben.*fps"):
        encode(dataclasses.replace(REFINED_BATCH, sources=[REFINED_BATCH.sources[1]._replace(fps=fps)] * 2))


@pytest.mark.parametrize("change", [{"time_ns": wire.MAX_TIME + 1}, {"seq": 25 * wire.MAX_SPAN_S + 1}])
def test_numbers_and_times_that_could_overflow_are_refused(change):
    (name,) = change
    for message in RAW, RAW_BATCH, END:
        if message is END and name == "seq":
            change = {"seq": 1000 * wire.MAX_SPAN_S + 1}
        with pytest.raises(WireError, match=name):
            encode(dataclasses.replace(message, **change))
        topic, body = encode(message)
        path = ("source", 1 if name == "seq" else 2)
        refuses(topic, changed(msgpack.unpackb(body), path, change[name]), name)


@given(times, rates, st.floats(0, 1))
def test_the_time_of_every_slot_fits_into_64_bits(time_ns, fps, share):
    seq = int(fps * wire.MAX_SPAN_S * share)
    pose = decode(*encode(dataclasses.replace(RAW, time_ns=time_ns, fps=fps, seq=seq)))
    assert pose.time_ns + pose.seq / pose.fps * 1e9 < 2**63


@pytest.mark.parametrize("code", ["", "RD", "RDTT", "RRT", "rdt", "RLT"])
def test_impossible_axes_are_named(code):
    with pytest.raises(WireError, match=r"cam1.*axes"):
        encode(dataclasses.replace(RAW, axes=code))


@pytest.mark.parametrize("name", ["xyz", "confidence", "sigma", "missing"])
def test_wrong_arrays_are_not_sent(name):
    array = getattr(REFINED, name)
    for wrong in array[:1], array.astype(np.float64), array.astype(object), array.tolist(), None, np.float32(1):
        with pytest.raises(WireError, match=r"cam1.*(xyz|" + name + ")" if name != "xyz" else "cam1"):
            encode(dataclasses.replace(REFINED, **{name: wrong}))
        with pytest.raises(WireError, match=name):
            encode(dataclasses.replace(REFINED_BATCH, **{name: wrong}))
        if hasattr(RAW_BATCH, name):
            with pytest.raises(WireError, match=rf"room.*{name}"):
                encode(dataclasses.replace(RAW_BATCH, **{name: wrong}))


@pytest.mark.parametrize(
    "change",
    [{"seq": -1}, {"seq": np.int64(1)}, {"seq": 1.0}, {"epoch": 2**63}, {"clock": "\ud800"}, {"stream": None}],
)
def test_what_would_be_refused_is_not_sent(change):
    for message in RAW, END, EVENT, RAW_BATCH:
        with pytest.raises(WireError):
            encode(
                dataclasses.replace(
                    message, **{"group" if k == "stream" and message is RAW_BATCH else k: v for k, v in change.items()}
                )
            )


def test_only_messages_can_be_sent():
    with pytest.raises(WireError, match="no rtskel message"):
        encode({"v": 1})


# --- NaN and infinity -------------------------------------------------------------------------------------------------

NOT_FINITE = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("name", ["xyz", "confidence", "sigma"])
def test_not_finite_numbers_are_never_sent(bad, name):
    for message in RAW, REFINED, RAW_BATCH, REFINED_BATCH:
        if hasattr(message, name):
            array = getattr(message, name).copy()
            array.flat[-1] = bad
            with pytest.raises(WireError, match=name):
                encode(dataclasses.replace(message, **{name: array}))


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("name", ["xyz", "confidence", "sigma"])
def test_a_refined_pose_with_them_is_refused(bad, name):
    body = msgpack.unpackb(encode(REFINED)[1])
    refuses(wire.refined_topic("cam1", 4), changed(body, (name,), body[name][:-4] + pack_floats([bad])), "cam1", name)


@pytest.mark.parametrize("bad", [-1, -2])
@pytest.mark.parametrize("column", range(6))
def test_negative_numbers_in_a_batch(column, bad):
    numbers = REFINED_BATCH.numbers.copy()
    numbers[1, column] = bad
    body = msgpack.unpackb(encode(REFINED_BATCH)[1]) | {"numbers": numbers.tobytes()}
    batch, topic = dataclasses.replace(REFINED_BATCH, numbers=numbers), wire.refined_batch_topic(4)
    if (column, bad) == (1, -1):
        assert batch.poses()[1].source_seq is None
        assert encode(batch) == (topic, msgpack.packb(body))
        return
    with pytest.raises(WireError, match=r"numbers.*" + wire.ROW[column]):
        encode(batch)
    refuses(topic, msgpack.packb(body), "numbers", wire.ROW[column])


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_foreign_raw_pose_with_them_is_read_and_cleaned(bad):
    points = [[1.0, 2.0, 3.0], [4.0, bad, 6.0], [7.0, 8.0, 9.0], [1e38, -1e38, 1e38]]
    pose = decode(*foreign_raw("cam1", 0, 0, points, [1, 1, bad, 1]))
    xyz, confidence, count = wire.clean_joints(pose.xyz, pose.confidence)
    assert count == 2
    np.testing.assert_array_equal(xyz, f32(points[0], [0, 0, 0], [0, 0, 0], points[3]), strict=True)
    np.testing.assert_array_equal(confidence, f32(1, 0, 0, 1), strict=True)


def test_clean_joints_are_left_alone():
    assert wire.clean_joints(RAW.xyz, RAW.confidence) == (RAW.xyz, RAW.confidence, 0)
