"""Files that mean harm, or are damaged: one FormatError, no memory beyond what is there, no time beyond its size."""

import io
import json
import re
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtskel.errors import FormatError
from rtskel.formats import FORMATS, Recording, read, write
from rtskel.rates import LEAST_FPS, MOST_FPS
from tests import person
from tests.person import pixels

KEYPOINTS = [[1.0, 2.0]] * 133
ANY: dict[str, Any] = {"fps": 25.0, "unit": "m"}
SPARE = 2 << 30  # bytes of address space that a reader may take beyond what the process has


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Little memory: what a file declares and does not have cannot be allocated."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def refused(path: Path, **options: Any) -> str:
    """The error of a file that is refused, in little time and memory."""
    before = time.process_time()
    with pytest.raises(FormatError) as error:
        read(path, **{**ANY, **options})
    assert time.process_time() - before < 10
    words = str(error.value)
    assert str(path) in words
    assert words.isprintable()
    assert "unlike any" not in words, "the reader itself says what is wrong"
    return words


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str) -> bytes:
    padded = text.encode() + b" " * ((64 - (11 + len(text)) % 64) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(padded)) + padded


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def whole(frames: int = 4) -> np.ndarray:
    return np.stack([person.joints(n / 25) for n in range(frames)]).astype(np.float32)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_archives(tmp_path: Path, method: int) -> None:
    path = archive(tmp_path / "x.npz", {"xyz.npy": npy(whole())}, method)
    data = bytearray(path.read_bytes())
    for at in range(60, 100):
        data[at] ^= 0x5A
    path.write_bytes(data)
    assert "damaged" in refused(path)


def test_flags_and_methods_that_are_not_known(tmp_path: Path) -> None:
    for local, central, value in ((6, 8, 1), (8, 10, 99)):
        path = archive(tmp_path / "x.npz", {"xyz.npy": npy(whole())})
        data = bytearray(path.read_bytes())
        data[local] = value
        data[data.rindex(b"PK\1\2") + central] = value
        path.write_bytes(data)
        refused(path)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "-" * 9000 + "1,)}",
        "(" * 9000,
        "[" * 400 + "]" * 400,
        "{'descr': [1,2], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 50, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1000000000, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 1000000000000000000, 3)}",
        "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (4, 50, 3)}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': 7, 'shape': ()}",
        "\0\0\0\0",
    ],
    ids=range(12),
)
def test_headers_of_arrays(tmp_path: Path, text: str) -> None:
    refused(archive(tmp_path / "x.npz", {"xyz.npy": header(text) + bytes(600)}))
    (tmp_path / "x.npy").write_bytes(header(text) + bytes(600))
    refused(tmp_path / "x.npy", format="npy")
    refused(archive(tmp_path / "x.npz", {"keypoints.npy": header(text) + bytes(600)}))
    refused(archive(tmp_path / "x.npz", {"pose.npy": header(text) + bytes(600)}))


def test_members_that_no_column_needs_are_not_unpacked(tmp_path: Path) -> None:
    zeros = header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({1 << 29},)}}")
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("xyz.npy", npy(whole()))
        with file.open("junk.npy", "w", force_zip64=True) as member:
            member.write(zeros)
            for _ in range(64):
                member.write(bytes(32 << 20))
    (found,) = read(path)
    assert found.frames == 4
    assert any("unused arrays: junk" in note for note in found.notes)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_packs_more_than_data_does(tmp_path: Path, method: int) -> None:
    array = npy(np.zeros((40_000, 50, 3), np.float32))
    path = archive(tmp_path / "x.npz", {"xyz.npy": array}, method)
    assert path.stat().st_size < 10_000
    assert "declares" in refused(path)


def test_one_long_text_for_many_rows(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", xyz=np.zeros((100_000, 1, 3), np.float32), stream=np.array("x" * 100_000))
    assert len(refused(tmp_path / "x.npz")) < 1000
    rows = [{"xyz": person.joints(0).tolist(), "stream": "x" * 1_000_000}]
    rows += [{"xyz": person.joints(0).tolist(), "stream": "y"}] * 2_000
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [len(recording.name) for recording in read(tmp_path / "x.jsonl", **ANY)] == [1_000_000, 1]


def name(words: str) -> bytes:
    return struct.pack("<H", len(words)) + words.encode()


def pose_file(components: list[tuple[str, str, list[str]]], tail: bytes, version: float = 0.2) -> bytes:
    out = struct.pack("<fHHHH", version, 640, 480, 0, len(components))
    for component, form, points in components:
        out += name(component) + name(form) + struct.pack("<HHH", len(points), 0, 0) + b"".join(map(name, points))
    return out + tail


@pytest.mark.parametrize(
    ("points", "tail", "version"),
    [
        ([], struct.pack("<fIH", 25, 2**32 - 1, 1), 0.2),
        ([], struct.pack("<fIH", 25, 2**32 - 1, 65535), 0.2),
        ([], struct.pack("<fIH", 25, 10**7, 1) + bytes(8), 0.2),
        ([], struct.pack("<HH", 25, 65535) + struct.pack("<H", 65535) * 9, 0.0),
        (["NOSE"], struct.pack("<fIH", 25, 2**32 - 1, 65535), 0.2),
        (["NOSE"], struct.pack("<HHH", 25, 1, 65535), 0.1),
        (["NOSE"], struct.pack("<HH", 25, 65535), 0.0),
    ],
)
def test_pose_files_that_declare_more_than_they_have(
    tmp_path: Path, points: list[str], tail: bytes, version: float
) -> None:
    (tmp_path / "x.pose").write_bytes(pose_file([("POSE_LANDMARKS", "XYZC", points)], tail, version))
    refused(tmp_path / "x.pose", format="pose")


def slotted(path: Path, slots: list[int]) -> Path:
    np.savez(path, xyz=whole(len(slots)), slot=np.array(slots))
    return path


def test_frame_numbers_that_cannot_be(tmp_path: Path) -> None:
    far = 10**9
    assert "no frame numbers" in refused(slotted(tmp_path / "a.npz", [0, far]))
    row = {"xyz": person.joints(0).tolist()}
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({**row, "slot": slot}) for slot in (0, far)))
    (tmp_path / "a.csv").write_text(f"slot,nose_x,nose_y\n0,1,2\n{far},1,2\n")
    (tmp_path / "a.json").write_text(
        json.dumps([{"frame_id": k, "instances": [{"keypoints": KEYPOINTS}]} for k in (-(2**63), 2**63 - 1)])
    )
    (tmp_path / "b.json").write_text(
        json.dumps([{"frame": k, "pose_landmarks": person.landmarks(np.ones((33, 2)), 1.0)} for k in (0, 2**62)])
    )
    (tmp_path / "c.json").write_text(
        json.dumps([{"image_id": k, "keypoints": [1.0, 2.0, 0.5] * 17} for k in (0, 2**62)])
    )
    write(tmp_path / "a.trc", Recording(whole(2), 25, "a"))
    text = (tmp_path / "a.trc").read_text()
    (tmp_path / "a.trc").write_text(text.replace("\n2\t", f"\n{far}\t"))
    for file in ("a.jsonl", "a.csv", "a.json", "b.json", "c.json", "a.trc"):
        assert "no frame numbers" in refused(
            tmp_path / file, **({"image_size": (640, 480)} if file == "b.json" else {})
        )
    folder = person.folder_of(tmp_path / "op", [{"people": []}], first=0)
    (folder / f"clip_{far}_keypoints.json").write_text('{"people": []}')
    assert "no frame numbers" in refused(folder)
    late = read(slotted(tmp_path / "late.npz", [far, far + 1, far + 4]))
    assert late[0].slots.tolist() == [0, 1, 4]
    assert any("counted from there" in note for note in late[0].notes)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '[{"instances":[{"keypoints":' + "[" * 900 + "]" * 900 + "}]}]",
        '[{"instances":[{"keypoints":' + "[" * 60 + "1" + "]" * 60 + "}]}]",
        '{"people":[{"pose_keypoints_2d":[' + "1" * 5000 + "]}]}",
        '{"people":[{"pose_keypoints_2d":' + json.dumps([1, 2, 3] * 25).replace("1", "1" * 400, 1) + "}]}",
        json.dumps({"people": [{"person_id": [2**63], "pose_keypoints_2d": [1, 2, 3] * 25}]}),
        '{"\\u001b]0;x\\u0007\\nsecond line": 1, "people": [{"\\u001b[31m": 1}]}',
        json.dumps([{"image_id": "1.jpg", "keypoints": [1e400] * 51, "idx": 2**70}]),
        json.dumps({"frames": [{"pose_landmarks": [{"x": {}, "y": []}] * 33}]}),
        json.dumps({"frames": [{"pose_landmarks": [[[[[[1]]]]]]}]}),
        '{"kind":"pose","\\u001b]0;x\\u0007":1}',
    ],
    ids=range(11),
)
def test_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    refused(tmp_path / "x.json", image_size=(640, 480))


def test_wide_and_odd_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(",".join(f"a{k}_x" for k in range(60_000)) + "\n" + ",".join(["1"] * 60_000) + "\n")
    refused(path)
    path.write_text(
        "nose_x,nose_y," + ",".join(f"a{k}" for k in range(60_000)) + "\n" + ",".join(["1"] * 60_002) + "\n"
    )
    assert len(read(path, **ANY)[0].notes[0]) < 200
    for rows in ("nose_x,nose_y\n1,2\n\0,1\n", "slot,nose_x,nose_y\n" + "1" * 5000 + ",1,2\n"):
        path.write_text(rows)
        refused(path)
    (tmp_path / "x.skels").write_text("1 " * 150 + "9" * 100_000)
    refused(tmp_path / "x.skels")


def test_crowds(tmp_path: Path) -> None:
    """Strangers in frames of their own, and in one frame: time grows with their number."""
    points = np.random.default_rng(0).random((1500, 1, 133, 2)) + 1000 * np.arange(1500)[:, None, None, None]
    np.savez(tmp_path / "a.npz", keypoints=points.astype(np.float32), scores=np.ones((1500, 1, 133)), fps=25.0)
    np.savez(tmp_path / "b.npz", keypoints=points[None, :, 0], scores=np.ones((1, 1500, 133)), fps=25.0)
    np.savez(tmp_path / "c.npz", keypoints=0 * points[None, :, 0] + 5, scores=np.ones((1, 1500, 133)), fps=25.0)
    before = time.process_time()
    assert [len(read(tmp_path / f"{which}.npz")) for which in "abc"] == [1500, 1500, 1]
    assert time.process_time() - before < 20


# Whatever a reader accepts, it accepts whole


def consistent(found: list[Recording]) -> None:
    """The promise of every reader."""
    assert found
    for recording in found:
        assert np.isfinite(recording.xyz).all()
        assert np.isfinite(recording.confidence).all()
        assert LEAST_FPS / 2 <= recording.fps <= MOST_FPS
        assert not recording.missing.all() or recording.notes
        assert all(note.isprintable() for note in recording.notes)
        span = int(recording.slots[-1] - recording.slots[0])
        assert span <= 100 * recording.frames + 10_000
        known = np.zeros(0, bool) if recording.time_ns is None else recording.time_ns != -1
        if recording.time_ns is not None and known.sum() > 1:
            slots, times = recording.slots[known], recording.time_ns[known]
            seconds = (times - times[0]) / 1e9
            steps = np.diff(seconds)
            if (steps >= 0).all():
                assert (slots[-1] - slots[0]) / recording.fps == pytest.approx(seconds[-1], rel=0.0101)
            else:
                rates = np.diff(slots)[steps > 0] / steps[steps > 0]
                assert recording.fps == pytest.approx(np.median(rates), rel=0.0101)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of each kind, by name."""
    folder = tmp_path_factory.mktemp("samples")
    people = [person.openpose(pixels(n / 25)) for n in range(3)]
    whole_body = [person.wholebody_133(pixels(n / 25)) for n in range(3)]
    original = Recording(whole(5), 25, "a", time_ns=np.arange(5) * 40_000_000, person="p", view="v")
    paths = [folder / f"x.{suffix}" for suffix in ("npz", "csv", "jsonl", "skels", "trc", "npy")]
    for path in paths:
        write(path, original)
    write(folder / "f_body_3d_xyz.csv", original)
    texts = {
        "openpose.json": {"people": people},
        "mmpose.json": [{"instances": [{"keypoints": p.tolist(), "track_id": 4}]} for p in whole_body],
        "alphapose.json": [
            {"image_id": f"{n}.jpg", "keypoints": person.with_scores(p)} for n, p in enumerate(whole_body)
        ],
        "tasks.json": [
            {"timestampMs": 40 * n, "poseLandmarks": person.landmarks(person.blazepose_33(pixels(n / 25)), 0.9)}
            for n in range(3)
        ],
    }
    for file, value in texts.items():
        (folder / file).write_text(json.dumps(value))
    lines = [{"frame_id": f"{n}", "instances": [{"keypoints": [p.tolist()]}]} for n, p in enumerate(whole_body)]
    (folder / "lines.json").write_text("\n".join(map(json.dumps, lines)))
    (folder / "cells.csv").write_text((folder / "x.csv").read_text().replace(",", ";").replace(".", ","))
    np.savez(folder / "rtmw.npz", keypoints=np.stack(whole_body), scores=np.ones((3, 133)), fps=25.0)
    np.savez(folder / "holistic.npz", pose=np.ones((3, 33, 4)), left_hand=np.ones((3, 21, 4)), fps=25.0)
    tail = struct.pack("<fIH", 25, 2, 1) + np.arange(1, 9, dtype="<f4").tobytes()
    (folder / "x.pose").write_bytes(pose_file([("POSE_LANDMARKS", "XYZC", ["NOSE"])], tail))
    names = [
        *texts,
        "lines.json",
        "cells.csv",
        "rtmw.npz",
        "holistic.npz",
        "x.pose",
        "f_body_3d_xyz.csv",
        *(path.name for path in paths),
    ]
    return {file: (folder / file).read_bytes() for file in names}


many = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "fps": st.sampled_from([25.0, 29.97, 1000.0, 0.5]),
        "unit": st.sampled_from(["m", "mm", "px"]),
        "axes": st.sampled_from(["RDA", "TUL"]),
        "image_size": st.just((640, 480)),
        "world": st.booleans(),
        "corrected": st.booleans(),
        "depth_scale": st.just(2.0),
        "format": st.sampled_from([None, *(form for form in FORMATS if form != "c3d")]),  # whose parser is ezc3d's
    },
)


def attempt(path: Path, options: dict[str, Any]) -> bool:
    """Whether the file is read; then what was read is consistent, else it is a FormatError on one line."""
    try:
        found = read(path, **options)
    except FormatError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert "unlike any" not in str(error), error.__cause__  # noqa: PT017
        return False
    consistent(found)
    return True


@many
@given(data=st.data())
def test_damage_anywhere(
    tmp_path_factory: pytest.TempPathFactory, samples: dict[str, bytes], data: st.DataObject
) -> None:
    """A byte, a stretch or a number of a file changed, doubled or cut; with whatever is stated about it."""
    which, options = data.draw(st.sampled_from(sorted(samples))), data.draw(OPTIONS)
    raw, path = samples[which], tmp_path_factory.mktemp("x") / which
    change: Callable[[], bytes] = data.draw(st.sampled_from([
        lambda: raw,
        lambda: raw[: data.draw(st.integers(0, len(raw)))],
        lambda: _replaced(raw, data.draw(st.integers(0, len(raw))), data.draw(st.binary(max_size=4))),
        lambda: _number_changed(raw, data.draw(st.integers(0, 10**6)), data.draw(NUMBERS)),
        lambda: raw + raw[data.draw(st.integers(0, len(raw))) :],
    ]))  # fmt: skip
    path.write_bytes(change())
    attempt(path, options)


NUMBERS = st.sampled_from(["0", "-1", "1e400", "NaN", "null", "[]", '"x"', "1e-320", str(2**63), str(10**9), "true"])


def _replaced(raw: bytes, at: int, by: bytes) -> bytes:
    return raw[:at] + by + raw[at + len(by) :]


def _number_changed(raw: bytes, at: int, by: str) -> bytes:
    """Text in which one number is another value."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", raw))
    if not found:
        return raw
    match = found[at % len(found)]
    return raw[: match.start()] + by.encode() + raw[match.end() :]


@many
@given(
    times=st.lists(st.integers(-(2**40), 2**62), min_size=1, max_size=6)
    | st.tuples(st.integers(0, 2**60), st.lists(st.integers(0, 10**9), max_size=40)).map(
        lambda start: [start[0] + sum(start[1][:k]) for k in range(len(start[1]) + 1)]
    ),
    fps=st.sampled_from([0.01, 25.0, 30.0, 1000.0]),
    seed=st.none() | st.integers(0, 9),
    suffix=st.sampled_from(["npz", "csv", "jsonl"]),
)
def test_any_times_and_numbers(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], fps: float, seed: int | None, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("x") / f"x.{suffix}"
    slot = None if seed is None else np.cumsum(np.random.default_rng(seed).integers(1, 30, len(times)))
    write(path, Recording(whole(len(times)), fps, "a", slot=slot, time_ns=np.array(times, np.int64)))
    assert attempt(path, {})


POINTS = [7, 17, 18, 26, 33, 50, 68, 75, 133, 136, 543, 553]


@many
@given(
    shape=st.tuples(
        st.integers(1, 3), st.sampled_from([17, 26, 33, 50, 68, 75, 133, 136, 543, 553, 18, 7]), st.integers(2, 5)
    ),
    fill=st.sampled_from([0.0, 0.4, -0.7, 300.0, 1e30, np.nan, np.inf]),
    noise=st.sampled_from([0.0, 0.3, 100.0]),
    options=OPTIONS,
)
def test_any_array(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], fill: float, noise: float, options: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(0, 1, shape) * noise + fill)
    attempt(path, options | {"format": None})


@pytest.mark.parametrize("seed", range(4))
def test_damaged_c3d_ends_no_more_than_its_reading(tmp_path: Path, seed: int) -> None:
    """Some damage makes ezc3d crash."""
    pytest.importorskip("ezc3d")
    path = tmp_path / "x.c3d"
    write(path, Recording(whole(8) + 1, 25, "a"))
    raw = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(0, 1500, 4):
        raw[at] = int(random.integers(256))
    path.write_bytes(raw[: len(raw) // 2] if seed == 3 else raw)
    attempt(path, {"format": "c3d", "unit": "m", "fps": 25.0})


def test_c3d_that_crashes_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ezc3d")
    path = tmp_path / "x.c3d"
    write(path, Recording(whole(8) + 1, 25, "a"))
    monkeypatch.setattr("rtskel.formats.markers._CHILD", "import os; os.abort()")
    assert "it crashes" in refused(path)
    monkeypatch.setattr("rtskel.formats.markers._CHILD", "raise ValueError('no\\x1b[31m')")
    assert "ValueError: no" in refused(path)
