import pickle
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.formats import (
    FORMATS,
    SKELS_UNIT,
    Recording,
    check_writable,
    exchange_sides,
    read,
    recognise,
    sides_look_swapped,
    write,
    write_apart,
)
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50
from tests.shared_data import shared_data

J = UPPER_BODY_50.joints


def poses(frames: int = 7, seed: int = 0) -> np.ndarray:
    xyz = np.random.default_rng(seed).normal(0, 0.3, (frames, J, 3)).astype(np.float32)
    xyz[:, NECK] = 0
    return xyz


def same(a: Recording, b: Recording) -> None:
    for key in (field.name for field in fields(Recording)):
        left, right = getattr(a, key), getattr(b, key)
        if isinstance(left, np.ndarray):
            assert right is not None, key
            np.testing.assert_array_equal(left, right, err_msg=key)
            assert left.dtype == right.dtype, key
        else:
            assert left == right, key


# Recording


def test_recording_defaults() -> None:
    recording = Recording(poses(), 25, "a")
    assert recording.frames == 7
    assert recording.dropped == 0
    assert recording.seconds == pytest.approx(7 / 25)
    assert recording.slots.tolist() == list(range(7))
    assert not recording.missing.any()
    assert recording.xyz.dtype == recording.confidence.dtype == np.float32


def test_recording_takes_what_is_not_finite_for_missing() -> None:
    xyz = poses()
    xyz[2, 5, 1] = np.nan
    xyz[3, 6, 0] = np.inf
    recording = Recording(xyz, 25, "a", confidence=np.full((7, J), 0.5))
    assert np.argwhere(recording.missing).tolist() == [[2, 5], [3, 6]]
    assert not recording.xyz[2, 5].any()
    assert np.isnan(xyz[2, 5, 1]), "the caller's array is left alone"
    assert Recording(np.full((1, J, 3), 1e300), 25, "huge").missing.all()


def test_what_is_known_by_slot() -> None:
    recording = Recording(poses()[:3], 25, "x", slot=np.array([2, 3, 6]))
    xyz, there = recording.by_slot(recording.xyz), recording.by_slot(~recording.missing)
    assert np.array_equal(xyz[[2, 3, 6]], recording.xyz)
    assert not xyz[[0, 1, 4, 5]].any()
    assert (xyz.dtype, there.dtype, there.shape) == (np.float32, np.bool_, (7, 50))
    assert there.any(1).tolist() == [False, False, True, True, False, False, True]
    assert np.array_equal(recording.by_slot(recording.xyz, 2), xyz[2:])


def test_recording_counts_dropped_frames() -> None:
    recording = Recording(poses(3), 25, "a", slot=np.array([1, 2, 9]))
    assert recording.dropped == 7
    assert recording.seconds == pytest.approx(10 / 25)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"xyz": np.zeros((3, 49, 3))}, ["xyz", "49", "50"]),
        ({"xyz": np.zeros((3, J, 2))}, ["xyz", "2"]),
        ({"xyz": np.zeros((0, J, 3))}, ["no frames"]),
        ({"xyz": np.float32(1)}, ["no frames"]),
        ({"xyz": np.zeros((3, J, 3), complex)}, ["xyz", "complex"]),
        ({"confidence": np.ones((3, 49))}, ["confidence", "49"]),
        ({"confidence": np.full((3, J), 1.5)}, ["frame 0", "joint 0", "1.5"]),
        ({"confidence": np.full((3, J), np.nan)}, ["confidence nan"]),
        ({"slot": np.array([0, 2, 2])}, ["frame 2", "slot 2"]),
        ({"slot": np.array([-1, 2, 3])}, ["-1", "negative"]),
        ({"slot": np.array([0.0, 1, 2])}, ["slot", "float64", "integers"]),
        ({"time_ns": np.zeros(2, int)}, ["time_ns", "2"]),
        ({"fps": 0}, ["fps 0"]),
        ({"fps": float("nan")}, ["fps nan"]),
        ({"axes": "RDX"}, ["axes 'RDX'"]),
        ({"skeleton": "body-17"}, ["body-17"]),
        ({"lookahead": -2}, ["lookahead -2"]),
        ({"sigma": np.zeros((3, 4))}, ["sigma"]),
        ({"windows": np.zeros((3, 1), int)}, ["windows"]),
        ({"flags": np.zeros(3)}, ["flags", "float64"]),
        ({"dims": 4}, ["dims 4"]),
        ({"dims": 2}, ["frame 0, joint 0: z", "2D"]),
        ({"dims": 2, "axes": "TRD", "xyz": np.zeros((3, J, 3))}, ["axes 'TRD'", "2D"]),
        ({"image_size": (1280, 0)}, ["1280 x 0"]),
        ({"image_size": (1280.5, 720)}, ["1280.5 x 720"]),
    ],
)
def test_recording_names_the_offender(change: dict, words: list[str]) -> None:
    with pytest.raises(FormatError) as error:
        replace(Recording(poses(3), 25, "take 5"), **change)
    for word in ["take 5", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_sides_and_mirrors() -> None:
    xyz = poses()
    xyz[:, RIGHT_SHOULDER, 0], xyz[:, LEFT_SHOULDER, 0] = 0.17, -0.17
    recording = Recording(xyz, 25, "a")
    assert sides_look_swapped(recording)
    assert not sides_look_swapped(replace(recording, mirrored=True))
    assert not sides_look_swapped(replace(recording, axes="LDT"))
    swapped = exchange_sides(recording)
    assert not sides_look_swapped(swapped)
    same(exchange_sides(swapped), recording)
    np.testing.assert_array_equal(swapped.xyz[:, 8:29], recording.xyz[:, 29:50])
    nobody = replace(recording, confidence=np.zeros((7, J), np.float32))
    assert not sides_look_swapped(nobody)


def test_millimetres() -> None:
    xyz = poses()
    assert Recording(xyz, 25, "a", unit="m").mm_per_unit() == 1000
    xyz[:, RIGHT_SHOULDER], xyz[:, LEFT_SHOULDER] = (-1 / 6, 0, 0), (1 / 6, 0, 0)
    assert Recording(xyz, 25, "a", unit=SKELS_UNIT).mm_per_unit() == pytest.approx(1110)
    with pytest.raises(FormatError, match=r"px.*|shoulders"):
        Recording(xyz, 25, "a", unit="px", confidence=np.zeros((7, J))).mm_per_unit()


# .skels


def test_skels_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "some.skels"
    originals = [
        Recording(poses(5, 1), 25, "dev/one-1", unit=SKELS_UNIT),
        Recording(poses(1, 2), 25, "dev/two-2", unit=SKELS_UNIT),
    ]
    write(path, originals)
    assert path.with_suffix(".files").read_text() == "dev/one-1\ndev/two-2\n"
    for original, again in zip(originals, read(path), strict=True):
        same(original, again)
    assert {len(line.split()) % 151 for line in path.read_text().splitlines()} == {0}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["some.files", "some.skels"]


def test_skels_zeros_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "gaps.skels"
    confidence = np.ones((3, J), np.float32)
    confidence[1, 8:29] = 0
    write(path, Recording(poses(3), 25, "a", confidence=confidence, slot=np.array([1, 2, 4])))
    (again,) = read(path)
    assert again.frames == 5
    assert again.missing.all(axis=1).tolist() == [True, False, False, True, False]
    assert np.flatnonzero(again.missing[2]).tolist() == list(range(8, 29))
    assert not again.missing[[1, 2, 4], NECK].any()


def test_skels_keep_what_was_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "refined.skels"
    refined = Recording(poses(3), 25, "a", confidence=np.zeros((3, J)), lookahead=4)
    write(path, refined)
    (again,) = read(path)
    np.testing.assert_array_equal(again.xyz, refined.xyz)
    assert not again.missing.any()


def test_skels_options_and_names(tmp_path: Path) -> None:
    path = tmp_path / "x.skels"
    write(path, [Recording(poses(2, k), 25, f"n{k}") for k in range(2)])
    path.with_suffix(".files").unlink()
    assert [r.name for r in read(path)] == ["x-1", "x-2"]
    plain, stated = read(path)[0], read(path, fps=30, axes="RUT", mirrored=True, unit="m")[0]
    assert (stated.fps, stated.axes, stated.mirrored, stated.unit) == (30, "RUT", True, "m")
    np.testing.assert_array_equal(plain.xyz, stated.xyz)
    swapped = read(path, swap_sides=True)[0]
    np.testing.assert_array_equal(swapped.xyz, exchange_sides(plain).xyz)
    with pytest.raises(FormatError, match=r"x\.skels.*n?.*axes 'XYZ'"):
        read(path, axes="XYZ")


FRAME = " ".join(["0.5"] * 150)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty file"]),
        (b"\n\n", ["empty file"]),
        (f"{FRAME} 0\n{FRAME} 0.0 0.5\n".encode(), ["sequence 2", "152", "151"]),
        (f"{FRAME} 0 {FRAME}".encode(), ["sequence 1", "301", "truncated"]),
        (f"{FRAME} 0\n\n{FRAME} 0\n".encode(), ["sequence 2", "empty line"]),
        (f"{FRAME} 0 nan {FRAME[4:]} 0.5\n".encode(), ["sequence 1", "frame 1", "x of joint 0 (nose)", "'nan'"]),
        (f"{FRAME} 0\n0.5 inf {FRAME[8:]} 0\n".encode(), ["sequence 2", "frame 0", "y of joint 0", "'inf'"]),
        (f"{FRAME} 0\n0.5 0.5 abc {FRAME[12:]} 0\n".encode(), ["sequence 2", "z of joint 0", "'abc'"]),
        (f"1e39 {FRAME[4:]} 0\n".encode(), ["frame 0", "'1e39'"]),
        (f"{FRAME} 1.5\n".encode(), ["frame 0", "counter 1.5"]),
        (f"{FRAME} 0 {FRAME} 0.25".encode(), ["counter 0.25", "truncated"]),
        (b"\x93NUMPY\x01\x00", ["not a text file", "0x93"]),
        ("0,5 " * 151, ["'0,5'"]),
    ],
)
def test_skels_errors_name_place_and_value(tmp_path: Path, content: bytes | str, words: list[str]) -> None:
    path = tmp_path / "bad.skels"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError) as error:
        read(path)
    for word in ["bad.skels", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_skels_names_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.skels"
    write(path, [Recording(poses(2, k), 25, f"n{k}") for k in range(2)])
    for text, word in (("a\n", "1 names for the 2"), ("a\na\n", "'a' is repeated"), ("a\n \n", "empty")):
        path.with_suffix(".files").write_text(text)
        with pytest.raises(FormatError, match=word):
            read(path)


def test_skels_truncated_anywhere_between_frames_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.skels"
    write(path, Recording(poses(20), 25, "a"))
    tokens = path.read_text().split()
    for frames in range(2, 20):
        path.write_text(" ".join(tokens[: frames * 151]))
        with pytest.raises(FormatError, match="truncated"):
            read(path)


def test_skels_cannot_hold_everything(tmp_path: Path) -> None:
    path = tmp_path / "x.skels"
    recording = Recording(poses(), 25, "a")
    with pytest.raises(FormatError, match="no recordings"):
        write(path, [])
    with pytest.raises(FormatError, match="several lookaheads"):
        write(path, [replace(recording, lookahead=0), replace(recording, lookahead=4)])
    with pytest.raises(FormatError, match="files file"):
        write(path, replace(recording, name="a\nb"))
    assert not any(tmp_path.iterdir())


# .npz


def test_npz_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "all.npz"
    rng = np.random.default_rng(3)
    confidence = rng.random((4, J)).astype(np.float32)
    refined = Recording(
        poses(4, 2),
        25,
        "cam1",
        confidence=confidence,
        unit="mm",
        slot=np.array([0, 1, 2, 3]),
        time_ns=np.array([5_000_000_000, 5_040_000_000, 5_080_000_001, 5_120_000_000]),
        lookahead=0,
        sigma=rng.random((4, J)).astype(np.float32),
        windows=np.array([1, 1, 1, 1], np.int32),
        flags=np.array([1, 0, 0, 64], np.int32),
    )
    originals = [
        Recording(poses(7, 1), 29.97, "plain"),
        refined,
        replace(refined, lookahead=4),
        Recording(poses(3, 4), 30, "dropped ü", axes="RDA", mirrored=True, slot=np.array([2, 3, 9])),
        Recording(poses(3, 5) * np.float32([1, 1, 0]), 30, "flat", unit="px", dims=2, image_size=(1280, 720)),
    ]
    write(path, originals)
    for original, again in zip(originals, read(path), strict=True):
        same(original, again)
    write(path, originals[0])
    same(originals[0], read(path)[0])


def test_npz_needs_only_positions(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    xyz = poses().astype(np.float64)
    xyz[1, 2] = np.nan
    np.savez(path, xyz=xyz)
    (recording,) = read(path)
    assert (recording.name, recording.fps, recording.axes, recording.unit) == ("mine", 25, "RDT", "m")
    assert np.argwhere(recording.missing).tolist() == [[1, 2]]
    np.savez(path, xyz=xyz, fps=60, unit="cm", mirrored=True)
    (recording,) = read(path)
    assert (recording.fps, recording.unit, recording.mirrored) == (60.0, "cm", True)


def test_npz_rows_may_be_interleaved(tmp_path: Path) -> None:
    path = tmp_path / "live.npz"
    xyz = poses(6)
    np.savez(path, xyz=xyz, stream=np.array(list("abbaab")), slot=np.array([0, 0, 1, 1, 5, 2]))
    a, b = read(path)
    assert (a.name, a.slots.tolist(), b.name, b.slots.tolist()) == ("a", [0, 1, 5], "b", [0, 1, 2])
    np.testing.assert_array_equal(a.xyz, xyz[[0, 3, 4]])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pose": np.zeros(3)}, ["no array 'xyz'", "pose"]),
        ({"xyz": np.zeros((3, 49, 3))}, ["49"]),
        ({"xyz": np.zeros((3, 150))}, ["[3, 150]"]),
        ({"xyz": np.zeros((0, J, 3))}, ["no frames"]),
        ({"xyz": np.array(["a"])}, ["xyz has dtype"]),
        ({"xyz": np.zeros((3, J, 3), complex)}, ["complex"]),
        ({"xyz": poses(3), "confidence": np.ones((2, J))}, ["confidence", "[2, 50]", "[3, 50]"]),
        ({"xyz": poses(3), "confidence": np.full((3, J), -1.0)}, ["confidence -1"]),
        ({"xyz": poses(3), "slot": np.array([0, 1, 1])}, ["slot 1"]),
        ({"xyz": poses(3), "slot": np.array([0.0, 1, 2])}, ["slot has dtype float64"]),
        ({"xyz": poses(3), "fps": np.array([25, 25, 30])}, ["fps 25 and 30"]),
        ({"xyz": poses(3), "fps": 0}, ["fps 0"]),
        ({"xyz": poses(3), "stream": np.arange(3)}, ["stream has dtype"]),
        ({"xyz": poses(3), "skeleton": "mano"}, ["mano"]),
        ({"xyz": poses(3), "format": "rtskel-recording-2"}, ["rtskel-recording-2"]),
    ],
)
def test_npz_errors_name_the_key(tmp_path: Path, arrays: dict, words: list[str]) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(FormatError) as error:
        read(path)
    for word in ["bad.npz", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("unpickled",))


def test_npz_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez(path, xyz=np.array([Bomb()], dtype=object))
    with pytest.raises(FormatError, match="pickled"):
        read(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FormatError, match=r"pickled Python objects.*save their arrays as \.npz"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xyz", b"no array at all")
    with pytest.raises(FormatError, match="'xyz' is not an array"):
        read(path)


def test_npz_truncated_or_damaged_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write(path, Recording(poses(4), 25, "a"))
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"x\.npz"):
            read(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read(path)  # damage in unread zip fields goes unnoticed, and may
        except FormatError as error:
            assert "x.npz" in str(error)  # noqa: PT017


def test_npz_names_must_differ(tmp_path: Path) -> None:
    recording = Recording(poses(), 25, "a")
    with pytest.raises(FormatError, match="two recordings are called 'a'"):
        write(tmp_path / "x.npz", [recording, recording])
    write(tmp_path / "x.npz", [recording, replace(recording, lookahead=0)])


def collected() -> list[Recording]:
    """Refined poses of two streams at two lookaheads, as a subscriber saves them who came late."""
    one = Recording(poses(), 30, "one", unit="unknown", slot=np.arange(1000, 1000 + len(poses())), lookahead=0)
    return [replace(one, name=name, lookahead=k, xyz=one.xyz + k) for name in ("one", "two") for k in (0, 4)]


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".jsonl"])
def test_one_file_holds_all(tmp_path: Path, suffix: str) -> None:
    assert check_writable(tmp_path / f"out{suffix}") == ""
    assert write_apart(tmp_path / f"out{suffix}", collected()) == [tmp_path / f"out{suffix}"]
    back = {(recording.name, recording.lookahead): recording for recording in read(tmp_path / f"out{suffix}")}
    for recording in collected():
        got = back.pop((recording.name, recording.lookahead))
        assert np.array_equal(got.xyz, recording.xyz)
        assert np.array_equal(got.slots, recording.slots)
    assert not back


def test_as_many_files_as_it_takes(tmp_path: Path) -> None:
    assert "confidence" in check_writable(tmp_path / "out.skels")
    files = write_apart(tmp_path / "out.skels", collected())
    assert [file.name for file in files] == ["out.L0.skels", "out.L4.skels"]
    for file, lookahead in zip(files, (0, 4), strict=True):
        one, two = read(file)
        assert (one.name, two.name) == ("one", "two")
        assert one.frames == len(poses()), "nothing in front of the first frame"
        assert np.array_equal(one.xyz, collected()[0].xyz + lookahead)
    assert "length" in check_writable(tmp_path / "out.bvh")
    files = write_apart(tmp_path / "out.bvh", collected())
    assert [file.name for file in files] == ["out.one.L0.bvh", "out.one.L4.bvh", "out.two.L0.bvh", "out.two.L4.bvh"]
    assert all(f"Frames: {len(poses())}\n" in file.read_text() for file in files)
    assert write_apart(tmp_path / "alone.bvh", collected()[:1]) == [tmp_path / "alone.bvh"]


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".jsonl", ".skels", ".bvh"])
def test_nothing_is_not_written_apart_either(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(FormatError, match="no recordings to write"):
        write_apart(tmp_path / f"out{suffix}", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cam/1", "cam\0"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    one, _, two, _ = collected()
    with pytest.raises(FormatError, match="cannot be part of a file's name") as error:
        write_apart(tmp_path / "out.bvh", [one, replace(two, name=name)])
    assert repr(name) in str(error.value)
    assert not list(tmp_path.iterdir()), "found out before anything is written"
    assert write_apart(tmp_path / "out.bvh", [replace(one, name=name)]) == [tmp_path / "out.bvh"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.npz").mkdir()
    for name in ("a.npz", "no/such/a.csv"):
        with pytest.raises(FormatError, match=f"{name}: cannot be written"):
            check_writable(tmp_path / name)
    with pytest.raises(FormatError, match=r"unknown recording format '\.json' to write \(known: .*\.bvh"):
        check_writable(tmp_path / "a.json")


# Any file


def test_files_that_are_not_there_or_unknown(tmp_path: Path) -> None:
    for name in ("none.skels", "none.npz"):
        with pytest.raises(FormatError, match=f"{name}.*No such file"):
            read(tmp_path / name)
        (tmp_path / name).mkdir()
        with pytest.raises(FormatError, match=f"{name}.*directory"):
            read(tmp_path / name)
    (tmp_path / "a.bvh").write_text("HIERARCHY")
    with pytest.raises(FormatError, match=r"\.bvh is written, not read: export .*\.trc or \.c3d"):
        read(tmp_path / "a.bvh")
    with pytest.raises(FormatError, match=r"no/such/a\.npz.*cannot be written"):
        write(tmp_path / "no/such/a.npz", Recording(poses(), 25, "a"))


def test_what_is_in_a_file_decides(tmp_path: Path) -> None:
    recording = Recording(poses(), 25, "a")
    for suffix, name in ((".npz", "npz"), (".csv", "csv"), (".jsonl", "jsonl"), (".skels", "skels")):
        write(tmp_path / f"x{suffix}", recording)
        for other in (suffix, ".json", ".pose", ".skels", ".txt", ""):
            path = tmp_path / f"y{other}"
            path.write_bytes((tmp_path / f"x{suffix}").read_bytes())
            assert recognise(path) == name
            np.testing.assert_array_equal(read(path)[0].xyz, recording.xyz)
    path = tmp_path / "x.json"
    for content, words in (
        ("[1, 2]", "neither OpenPose"),
        ('{"a": 1}', "neither OpenPose"),
        ("[1, 2", "not JSON"),
        ("", "not JSON"),
    ):
        path.write_text(content)
        with pytest.raises(FormatError, match=words):
            read(path)
    (tmp_path / "notes.txt").write_text("hello, world")
    with pytest.raises(FormatError, match=r"notes\.txt: unknown recording format '\.txt' \(known: .*OpenPose"):
        recognise(tmp_path / "notes.txt")
    assert set(FORMATS) >= {"openpose", "wholebody", "holistic", "pose", "skels", "npz", "csv", "jsonl"}


def test_a_format_can_be_stated(tmp_path: Path) -> None:
    path = tmp_path / "x.skels"
    write(path, Recording(poses(), 25, "a"))
    assert read(path, format="skels")[0].frames == 7
    with pytest.raises(FormatError, match=r"x\.skels: not an \.npz file"):
        read(path, format="npz")
    with pytest.raises(FormatError, match="unknown format 'bvh'"):
        read(path, format="bvh")


def test_options_that_mean_nothing_to_a_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write(path, Recording(poses(), 25, "a"))
    with pytest.raises(FormatError, match=r"--depth-scale is for MediaPipe.*this is npz"):
        read(path, depth_scale=2)
    with pytest.raises(FormatError, match=r"--world is for MediaPipe"):
        read(path, world=True)
    assert read(path, image_size=(640, 480))[0].image_size == (640, 480)


def test_2d_does_not_fit_everywhere(tmp_path: Path) -> None:
    flat = Recording(poses() * np.float32([1, 1, 0]), 25, "a", dims=2)
    with pytest.raises(FormatError, match="'a' is 2D"):
        write(tmp_path / "x.skels", flat)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl"):
        with pytest.raises(FormatError, match="is no text"):
            write(tmp_path / f"x{suffix}", Recording(poses(), 25, "bytes \udcff"))
    assert not any(tmp_path.iterdir())


# Real files


def test_phoenix() -> None:
    recordings = read(shared_data("phoenix14t/dev.skels"))
    assert [r.frames for r in recordings] == [42, 111, 148, 142, 93]
    assert recordings[0].name == "dev/11August_2010_Wednesday_tagesschau-2"
    for recording in recordings:
        assert not recording.missing.any()
        assert not recording.xyz[:, NECK].any()
        assert recording.unit == SKELS_UNIT
        assert recording.mm_per_unit() == pytest.approx(1110, rel=2e-3)
        assert sides_look_swapped(recording)
        assert not sides_look_swapped(replace(recording, mirrored=True))
        assert not sides_look_swapped(exchange_sides(recording))


def test_phoenix_survives_both_formats(tmp_path: Path) -> None:
    recordings = read(shared_data("phoenix14t/dev.skels"))
    for name in ("again.skels", "again.npz"):
        write(tmp_path / name, recordings)
        for original, again in zip(recordings, read(tmp_path / name), strict=True):
            same(original, again)
