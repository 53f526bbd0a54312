from dataclasses import replace

import numpy as np
import pytest

from rtskel.formats import read, write
from rtskel.formats.capture import Collector
from rtskel.tools.collect import filled, latency, percentiles
from rtskel.wire import About, Flag, RefinedPose

MS = 1_000_000


def pose(seq: int, stream: str = "cam", lookahead: int = 0, **fields) -> RefinedPose:
    rng = np.random.default_rng(seq)
    usual = RefinedPose(
        stream=stream,
        lookahead=lookahead,
        epoch=7,
        seq=seq,
        source_epoch=1,
        source_seq=seq + 100,
        source_time_ns=seq * 40 * MS,
        source_clock="monotonic",
        fps=25.0,
        receive_ns=seq * 40 * MS + 1 * MS,
        infer_start_ns=(seq + lookahead) * 40 * MS + 2 * MS,
        infer_end_ns=(seq + lookahead) * 40 * MS + 7 * MS,
        publish_ns=(seq + lookahead) * 40 * MS + 8 * MS,
        clock="monotonic",
        windows=1,
        flags=Flag(0),
        skeleton="upper-body-50",
        model="m",
        axes="RDA",
        mirrored=True,
        xyz=rng.normal(size=(50, 3)).astype(np.float32),
        confidence=np.ones(50, np.float32),
        missing=np.zeros(50, bool),
        sigma=rng.random(50).astype(np.float32),
    )
    return replace(usual, **fields)


def test_poses_become_recordings(tmp_path) -> None:
    collector = Collector()
    for seq in range(5):
        for lookahead in (0, 4):
            collector.add(pose(seq, lookahead=lookahead, flags=Flag.WARM_UP if seq == 0 else Flag(0)))
        collector.add(pose(seq, "other", source_seq=None))
    write(tmp_path / "out.npz", collector.recordings())
    near, far, other = read(tmp_path / "out.npz")
    assert [(r.name, r.lookahead) for r in (near, far, other)] == [("cam", 0), ("cam", 4), ("other", 0)]
    assert near.slots.tolist() == [100, 101, 102, 103, 104]
    assert other.slots.tolist() == [0, 1, 2, 3, 4], "streams without numbers: the output's own"
    assert (near.axes, near.mirrored, near.fps) == ("RDA", True, 25)
    np.testing.assert_array_equal(near.xyz, np.stack([pose(seq).xyz for seq in range(5)]))
    np.testing.assert_array_equal(near.sigma, np.stack([pose(seq).sigma for seq in range(5)]))
    assert near.flags.tolist() == [1, 0, 0, 0, 0]
    assert near.windows.tolist() == [1] * 5
    assert near.time_ns.tolist() == [k * 40 * MS for k in range(5)]


def test_what_is_lost_or_repeated_is_seen_in_the_numbers() -> None:
    collector = Collector()
    for seq in (3, 4, 4, 7):
        collector.add(pose(seq))
    assert [(r.name, r.slots.tolist()) for r in collector.recordings()] == [
        ("cam", [103, 104]),
        ("cam@2", [104, 107]),
    ]


def test_recordings_say_what_the_poses_are_of() -> None:
    collector = Collector()
    told = About("mm", "Ann", "left", (640, 480))
    for seq in range(6):
        collector.add(pose(seq, about=About() if seq < 2 else told if seq < 4 else replace(told, person="Ben")))
    assert [(r.name, r.unit, r.person, r.view, r.image_size) for r in collector.recordings()] == [
        ("cam", "unknown", None, None, None),
        ("cam@2", "mm", "Ann", "left", (640, 480)),
        ("cam@3", "mm", "Ben", "left", (640, 480)),
    ]


def test_a_stream_that_starts_afresh_is_another_recording() -> None:
    collector = Collector()
    for seq in range(4):
        collector.add(pose(seq, source_epoch=seq // 2, source_seq=seq))
    collector.add(pose(0, epoch=8, source_epoch=1, source_seq=4))  # the server was restarted, the estimator was not
    assert [(r.name, r.slots.tolist()) for r in collector.recordings()] == [("cam", [0, 1]), ("cam@2", [2, 3, 4])]


def test_latency_parts_add_up() -> None:
    parts = latency(pose(3, lookahead=4), arrived_ns=(3 + 4) * 40 * MS + 10 * MS)
    assert parts is not None
    assert parts.total == pytest.approx(170)
    assert parts.lookahead == pytest.approx(160)
    assert parts.engine == pytest.approx(5)
    assert parts.transport == pytest.approx(1 + 2)
    assert parts.queue == pytest.approx(2)


def test_latency_where_something_is_unknown() -> None:
    absent = latency(pose(3, receive_ns=0), arrived_ns=3 * 40 * MS + 60 * MS)
    assert absent is not None
    assert absent.transport == pytest.approx(52)
    flushed = latency(
        pose(3, lookahead=4, **{f"{k}_ns": 130 * MS for k in ("infer_start", "infer_end", "publish")}), 130 * MS
    )
    assert flushed is not None
    assert flushed.queue == pytest.approx(0)
    assert flushed.total == pytest.approx(10)
    assert latency(pose(3, source_clock="unix"), 0) is None


def test_percentiles() -> None:
    rows = [latency(pose(k), k * 40 * MS + (8 + k % 10) * MS) for k in range(100)]
    table = percentiles([row for row in rows if row])
    assert set(table) == {"total", "lookahead", "queue", "engine", "transport"}
    assert table["engine"] == {"p50": 5.0, "p99": 5.0}
    assert table["total"]["p50"] == pytest.approx(12.5)
    assert table["total"]["p99"] == pytest.approx(17)
    assert percentiles([])["total"] == {"p50": 0.0, "p99": 0.0}


def test_filled() -> None:
    missing = np.arange(50) < 8
    poses = [pose(0), pose(1, missing=missing), pose(2, missing=np.ones(50, bool), flags=Flag.INTERPOLATED)]
    assert filled(poses) == (58, 1)
