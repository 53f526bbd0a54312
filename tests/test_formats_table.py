"""rtskel's own formats as text, and round trips between all formats: nothing is lost that both can hold."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtskel.errors import FormatError
from rtskel.formats import SKELS_UNIT, Recording, read, recognise, write
from rtskel.skeleton import NECK, UPPER_BODY_50
from tests.shared_data import shared_data

J = UPPER_BODY_50.joints
WHOLE = ("npz", "csv", "jsonl")
"""Formats that hold all that a recording is."""


def same(a: Recording, b: Recording) -> None:
    for field in fields(Recording):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right, err_msg=field.name)
            assert left.dtype == right.dtype, field.name
        else:
            assert left == right, field.name


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(FormatError) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@st.composite
def recordings(draw: st.DrawFn, name: str | None = None) -> Recording:
    frames = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = np.float32(draw(st.sampled_from([1e-30, 1e-3, 1, 1e3, 1e30])))
    xyz = rng.normal(0, 1, (frames, J, 3)).astype(np.float32) * scale
    xyz[rng.random((frames, J)) < 0.2] = draw(st.sampled_from([0, np.nan, np.inf]))
    xyz[0, 0] = draw(st.tuples(finite, finite, finite))
    dims = draw(st.sampled_from([2, 3]))
    if dims == 2:
        xyz[..., 2] = 0
    refined = draw(st.booleans())
    maybe = st.booleans()
    slot = np.cumsum(rng.integers(1, 5, frames)) if draw(maybe) else None
    fps = draw(st.sampled_from([24.0, 25.0, 29.97002997, 1 / 3, 1000.0]))
    numbers = np.arange(frames) if slot is None else slot
    times = draw(st.integers(0, 2**61)) + np.rint(numbers * (1e9 / fps)).astype(np.int64)
    return Recording(
        xyz,
        fps,
        draw(words) if name is None else name,
        confidence=rng.choice(np.float32([0, 1e-7, 0.3, 1]), (frames, J)),
        axes=draw(st.sampled_from(["RDT", "RDA", "RUA", "LUT"])),
        mirrored=draw(maybe),
        unit=draw(st.sampled_from(["m", "mm", "px", SKELS_UNIT, "unknown", 'ü, "x"'])),
        slot=slot,
        time_ns=times if draw(maybe) else None,
        lookahead=draw(st.integers(0, 99)) if refined else None,
        sigma=rng.random((frames, J)).astype(np.float32) if refined and draw(maybe) else None,
        windows=rng.integers(0, 9, frames).astype(np.int32) if refined and draw(maybe) else None,
        flags=rng.integers(0, 99, frames).astype(np.int32) if refined and draw(maybe) else None,
        dims=dims,
        image_size=draw(st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999))),
    )


several = st.lists(
    recordings(), min_size=1, max_size=3, unique_by=lambda recording: (recording.name, recording.lookahead)
)
thorough = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@thorough
@given(originals=several, chain=st.permutations(WHOLE))
def test_nothing_is_lost_whatever_the_way(tmp_path: Path, originals: list[Recording], chain: list[str]) -> None:
    """Through all of rtskel's own formats one after another, several recordings in a file: all stays as it was."""
    found = originals
    for suffix in chain:
        path = tmp_path / f"x.{suffix}"
        write(path, found)
        assert recognise(path) == suffix
        found = read(path)
        for original, again in zip(originals, found, strict=True):
            same(original, again)


@thorough
@given(original=recordings("a"), suffix=st.sampled_from(WHOLE))
def test_positions_go_through_skels_and_back(tmp_path: Path, original: Recording, suffix: str) -> None:
    """What `.skels` can hold of a recording: positions, and which frames and joints are not there."""
    xyz = original.xyz + np.float32([0, 0, original.dims == 2])
    xyz[:, NECK] = 0
    xyz[np.abs(xyz) > 1e38] = 1
    original = replace(original, dims=3, xyz=xyz, lookahead=None, sigma=None)
    whole = original.missing | (xyz == 0).all(axis=-1)
    original = replace(original, confidence=np.where(whole, 0, 1).astype(np.float32))
    write(tmp_path / f"x.{suffix}", original)
    write(tmp_path / "x.skels", read(tmp_path / f"x.{suffix}"))
    (again,) = read(tmp_path / "x.skels")
    assert again.frames == original.slots[-1] + 1
    np.testing.assert_array_equal(again.xyz[original.slots], np.where(original.missing[..., None], 0, xyz))
    joints = np.arange(J) != NECK
    np.testing.assert_array_equal(again.missing[original.slots][:, joints], original.missing[:, joints])


@pytest.mark.parametrize("suffix", WHOLE)
def test_real_recordings_go_through(tmp_path: Path, suffix: str) -> None:
    """Estimators' recordings in pixels, 2D, with several clips: what was read is what is written and read again."""
    originals = read(shared_data("mediapipe_holistic/holistic.npz"))[:20] + read(
        shared_data("pose_files/SOUP_mmpose_wholebody133.json"), fps=25
    )
    write(tmp_path / f"x.{suffix}", originals)
    for original, again in zip(originals, read(tmp_path / f"x.{suffix}"), strict=True):
        same(original, again)


# Text that others wrote


def test_csv_of_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("neck_x,neck_y,nose_x,nose_y,nose_confidence\r\n1,2,3,4,0.5\r\n5,,7,8,\r\n")
    assert recognise(path) == "csv"
    assert "--fps" in error_of(path)
    assert "--unit" in error_of(path, fps=25)
    (recording,) = read(path, fps=25, unit="px")
    assert (recording.name, recording.dims, recording.frames) == ("mine", 2, 2)
    assert recording.xyz[0, :2].tolist() == [[3, 4, 0], [1, 2, 0]]
    assert recording.missing[:, :2].tolist() == [[False, False], [False, True]]
    assert recording.confidence[:, 0].tolist() == [0.5, 1]
    assert recording.missing[:, 2:].all(), "joints without columns"
    path.write_text("\ufeff" + path.read_text())
    same(read(path, fps=25, unit="px")[0], recording)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["empty file"]),
        ("nose_x,nose_y\n", ["no poses"]),
        ("nose_x,nose_y\n1\n", ["line 2", "1 cells, 2"]),
        ("nose_x,nose_y\n1,2\n3,x\n", ["line 3", "nose_y", "'x'", "number"]),
        ("nose_x,nose_y,slot\n1,2,0.5\n", ["line 2", "slot", "'0.5'", "whole"]),
        ("nose_x,nose_y,time_ns\n1,2,99999999999999999999\n", ["line 2", "time_ns"]),
        ("nose_x,nose_y,mirrored\n1,2,maybe\n", ["mirrored", "'maybe'", "true or false"]),
        ("nose_x,nose_x\n1,2\n", ["'nose_x'", "twice"]),
        ("nose_x,nsoe_y\n1,2\n", ["'nsoe_y'", "unknown column"]),
        ("nose_x,nose_y,fps\n1,2,25\n1,2,30\n", ["fps", "25", "30"]),
        ("nose_x,nose_y,slot\n1,2,1\n1,2,1\n", ["slot 1"]),
        ("nose_x,nose_y,image_width,image_height\n1,2,640,480\n1,2,64,48\n", ["image_", "640", "64"]),
        ('nose_x,nose_y\n"1,2\n', ["line"]),
        ("slot\n1\n", ["no positions"]),
        ("nose_x,nose_y,skeleton\n1,2,mano\n", ["mano"]),
    ],
)
def test_csv_mistakes_are_named(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    message = error_of(path, fps=25, unit="px")
    for word in ["bad.csv", *words]:
        assert word in message


def test_jsonl_of_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    row = {"xyz": [[1, 2]] * J}
    path.write_text(json.dumps(row) + "\n\n" + json.dumps(row | {"xyz": [[None, 2]] + [[3, 4]] * (J - 1)}) + "\n")
    assert recognise(path) == "jsonl"
    assert "--fps" in error_of(path)
    (recording,) = read(path, fps=25, unit="px")
    assert (recording.name, recording.dims) == ("mine", 2)
    assert np.argwhere(recording.missing).tolist() == [[1, 0]]


def test_jsonl_of_a_subscriber(tmp_path: Path) -> None:
    """What `rtskel subscribe --json` prints: poses of several streams among events and heartbeats."""
    path = tmp_path / "live.jsonl"
    pose = {
        "kind": "pose",
        "lookahead": 4,
        "fps": 30.0,
        "axes": "RDA",
        "mirrored": True,
        "windows": 5,
        "flags": ["warm_up"],
    }
    pose |= {"xyz": [[1, 2, 3]] * J, "confidence": [0.5] * J, "sigma": [0.1] * J, "latency_ms": 3.5, "missing": [2]}
    lines = [{"kind": "heartbeat", "seq": 1}]
    lines += [pose | {"stream": stream, "slot": slot, "time_ns": slot} for slot in (3, 4) for stream in ("a", "b")]
    lines += [{"kind": "event", "stream": "a", "event": "end", "detail": '"xyz"'}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    a, b = read(path, unit="mm")
    assert (a.name, b.name, a.lookahead, a.axes, a.mirrored) == ("a", "b", 4, "RDA", True)
    assert a.slots.tolist() == [3, 4]
    assert a.windows is not None
    assert a.flags is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["empty file"]),
        ([{"kind": "event"}], ["no poses"]),
        (["{"], ["line 1", "not JSON"]),
        ([{"xyz": [[1, 2, 3]] * J}, [1]], ["line 2", "object"]),
        ([{"xyz": [[1, 2, 3]] * J}, {"stream": "a"}], ["line 2", "no xyz"]),
        ([{"xyz": [[1, 2, 3]] * J}, {"xyz": [[1, 2, 3]] * 7}], ["line 2", "[7, 3]", "[50, 3]"]),
        ([{"xyz": [[1, 2, 3]] * 7}], ["7", "50"]),
        ([{"xyz": "here"}], ["line 1, xyz", "'here'"]),
        ([{"xyz": None}], ["line 1, xyz"]),
        ([{"xyz": [[1, 2, 3]] * J, "slot": 1.5}], ["line 1, slot", "1.5", "whole"]),
        ([{"xyz": [[1, 2, 3]] * J, "mirrored": 1}], ["mirrored"]),
        ([{"xyz": [[1, 2, 3]] * J, "unit": 1}], ["unit", "text"]),
        ([{"xyz": [[1, 2, 3]] * J, "confidence": [2] * J}], ["confidence 2"]),
        ([{"xyz": [[1, 2, 3]] * J, "confidence": 1}], ["confidence"]),
        ([{"xyz": [[1, 2, 3]] * J, "fps": "fast"}], ["fps", "'fast'"]),
        (
            [{"xyz": [[1, 2]] * J, "image_width": w, "image_height": 480} for w in (640, 320)],
            ["image_width", "320", "640"],
        ),
    ],
)
def test_jsonl_mistakes_are_named(tmp_path: Path, lines: list[Any], words: list[str]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    message = error_of(path, fps=25, unit="px")
    for word in ["bad.jsonl", *words]:
        assert word in message


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_damaged_anywhere(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    write(path, Recording(np.random.default_rng(0).random((3, J, 3)), 25, "a"))
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(whole[: int(rng.integers(len(whole)))] if rng.random() < 0.5 else whole)
        for at in rng.integers(0, max(len(damaged), 1), 3 if damaged else 0):
            damaged[at] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            read(path)
        except FormatError as error:
            assert f"x.{suffix}" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
