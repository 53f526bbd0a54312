"""Readers of what pose estimators write, on small files made here, and on real ones."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.formats import (
    FORMATS,
    Recording,
    from_holistic,
    from_wholebody,
    read,
    recognise,
    sides_look_swapped,
    write,
)
from rtskel.formats.mappings import BY_COMPONENT, HOLISTIC, HOLISTIC_WORLD, OPENPOSE_25, OPENPOSE_135, Layout
from rtskel.formats.mediapipe import Assembler
from tests.shared_data import shared_data

RNG = np.random.default_rng(5)
BODY_25 = RNG.uniform(100, 500, (25, 2))
LEFT = RNG.uniform(100, 500, (21, 2))
RIGHT = RNG.uniform(100, 500, (21, 2))
JOINTS = np.concatenate([BODY_25[:8], LEFT, RIGHT])


def moved(points: np.ndarray, x: float) -> np.ndarray:
    return points + np.array([x, 0.0])


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(FormatError) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def apart(recording: Recording, a: int, b: int) -> float:
    """Median distance of two joints in the image, over the frames that show both."""
    both = ~recording.missing[:, [a, b]].any(axis=1)
    return float(np.median(np.linalg.norm((recording.xyz[:, a] - recording.xyz[:, b])[both, :2], axis=-1)))


def hands_are_at_their_wrists(recording: Recording, within: float) -> None:
    """Fails if hands or sides are swapped: on real files a hand root lies near its own wrist and far from the other."""
    shoulders = apart(recording, 2, 5)
    for wrist, own, other in ((4, 29, 8), (7, 8, 29)):
        if not recording.missing[:, own].all():
            assert apart(recording, wrist, own) < within * shoulders
        if not recording.missing[:, other].all():
            assert apart(recording, wrist, other) > 0.4 * shoulders
    assert not sides_look_swapped(recording)


def test_any_file_read_as_any_format_is_an_error_or_a_recording(tmp_path: Path) -> None:
    """Whatever a file is taken for, and whatever is stated about it, nothing but FormatError comes of it."""
    files = [openpose_folder(tmp_path / "openpose", {0: [openpose_person()]}), tmp_path / "nothing", tmp_path]
    for suffix in (".npz", ".csv", ".jsonl", ".skels"):
        files.append(tmp_path / f"own{suffix}")
        write(files[-1], Recording(np.random.default_rng(0).normal(0, 1, (2, 50, 3)), 25, "a"))
    files += [tmp_path / "m.json", tmp_path / "w.npz", tmp_path / "h.npz", tmp_path / "p.pose", tmp_path / "empty"]
    files[-5].write_text(json.dumps([{"instances": [instance()]}]))
    np.savez(files[-4], keypoints=POINTS[None], scores=np.ones((1, 133)), fps="fast")
    np.savez(files[-3], **holistic_arrays())
    files[-2].write_bytes(pose_bytes(HOLISTIC, [[pose_person(HOLISTIC, dims=3)]], form="XYZC"))
    files[-1].write_bytes(b"")
    read_well = 0
    for file in files:
        for form in (None, *FORMATS):
            for options in ({}, {"fps": 25, "unit": "px"}, {"world": True}, {"depth_scale": 2.0}, {"fps": -1.0}):
                try:
                    read_well += bool(read(file, format=form, **options))
                except FormatError as error:
                    assert str(tmp_path) in str(error)  # noqa: PT017
                    assert "\n" not in str(error)  # noqa: PT017
    assert read_well > 20


# OpenPose


def with_scores(points: np.ndarray, scores: float | np.ndarray = 0.5) -> list[float]:
    scores = np.broadcast_to(scores, len(points))
    return np.concatenate([points, scores[:, None]], axis=1).ravel().tolist()


def openpose_person(
    shift: float = 0.0, *, body: np.ndarray = BODY_25, hands: bool = True, **more: Any
) -> dict[str, Any]:
    return {
        "pose_keypoints_2d": with_scores(moved(body, shift)),
        "hand_left_keypoints_2d": with_scores(moved(LEFT, shift), 0.25) if hands else [],
        "hand_right_keypoints_2d": with_scores(moved(RIGHT, shift), 0.75) if hands else [],
        **more,
    }


def openpose_folder(folder: Path, frames: dict[int | str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, people in frames.items():
        name = f"clip_{number:012}_keypoints.json" if isinstance(number, int) else number
        (folder / name).write_text(
            people if isinstance(people, str) else json.dumps({"version": 1.3, "people": people})
        )
    return folder


def test_openpose(tmp_path: Path) -> None:
    folder = openpose_folder(tmp_path / "take", {7: [openpose_person()], 8: [openpose_person(3)]})
    assert recognise(folder) == "openpose"
    (recording,) = read(folder, fps=24, image_size=(1280, 720))
    np.testing.assert_allclose(recording.xyz[1, :, :2], moved(JOINTS, 3), rtol=1e-6)
    assert recording.confidence[0].tolist() == [0.5] * 8 + [0.25] * 21 + [0.75] * 21
    assert (recording.name, recording.fps, recording.unit, recording.dims) == ("take", 24, "px", 2)
    assert recording.slots.tolist() == [0, 1], "frame numbers count from the first file"
    assert recording.image_size == (1280, 720)
    assert read(folder / "clip_000000000008_keypoints.json", fps=24)[0].frames == 1
    swapped = read(folder, fps=24, swap_sides=True)[0]
    np.testing.assert_allclose(swapped.xyz[0, 8:29, :2], RIGHT, rtol=1e-6)


def test_openpose_asks_for_the_frame_rate(tmp_path: Path) -> None:
    words = error_of(openpose_folder(tmp_path / "a", {0: [openpose_person()]}))
    assert "frames a second" in words
    assert "--fps" in words


def test_openpose_bodies(tmp_path: Path) -> None:
    coco = openpose_folder(tmp_path / "coco", {0: [openpose_person(body=BODY_25[:18], hands=False)]})
    (recording,) = read(coco, fps=24)
    np.testing.assert_allclose(recording.xyz[0, :8, :2], BODY_25[:8], rtol=1e-6)
    assert recording.missing[0].tolist() == [False] * 8 + [True] * 42
    points = RNG.uniform(1, 9, (OPENPOSE_135.points, 2))
    whole = openpose_folder(tmp_path / "whole", {0: [openpose_person(body=points, hands=False)]})
    (recording,) = read(whole, fps=24)
    np.testing.assert_allclose(recording.xyz[0, [0, 4, 7, 8, 29], :2], points[[0, 10, 9, 9, 10]], rtol=1e-6)
    np.testing.assert_allclose(recording.xyz[0, 1, :2], points[[5, 6]].mean(axis=0), rtol=1e-6)
    mixed = openpose_folder(tmp_path / "mixed", {0: [openpose_person()], 1: [openpose_person(body=BODY_25[:18])]})
    assert "COCO-18, but OpenPose BODY_25 before" in error_of(mixed, fps=24)
    assert "14 points" in error_of(openpose_folder(tmp_path / "x", {0: [openpose_person(body=BODY_25[:14])]}), fps=24)


def test_openpose_frames_without_people_and_lost_files(tmp_path: Path) -> None:
    """Somebody vanishes in frames 3 and 4 (no people; all zeros), frame 5 has no file: one stream with a gap."""
    nobody = openpose_person()
    for part in nobody:
        nobody[part] = [0.0] * len(nobody[part])
    frames = {2: [openpose_person()], 3: [], 4: [nobody], 6: [openpose_person(10)], 7: []}
    (recording,) = read(openpose_folder(tmp_path / "a", frames), fps=24)
    assert recording.slots.tolist() == [0, 4]
    assert recording.dropped == 3
    assert "nobody" in error_of(openpose_folder(tmp_path / "b", {0: [], 1: []}), fps=24)
    assert "nobody" in error_of(openpose_folder(tmp_path / "c", {0: [nobody]}), fps=24)


def test_openpose_two_people_who_swap_order(tmp_path: Path) -> None:
    a, b = openpose_person(0), openpose_person(800)
    frames = {0: [a, b], 1: [b, a], 2: [b], 3: [b], 4: [a, b]}
    left, right = read(openpose_folder(tmp_path / "a", frames), fps=24)
    assert (left.name, left.slots.tolist()) == ("a-1", [0, 1, 4])
    assert (right.name, right.slots.tolist()) == ("a-2", [0, 1, 2, 3, 4])
    assert (left.xyz[..., 0] < 600).all()
    assert (right.xyz[..., 0] > 600).all()


def test_openpose_identities(tmp_path: Path) -> None:
    frames = {
        0: [openpose_person(0, person_id=[4]), openpose_person(800, person_id=[2])],
        1: [openpose_person(0, person_id=[2]), openpose_person(800, person_id=[4])],
    }
    one, _ = read(openpose_folder(tmp_path / "a", frames), fps=24)
    assert one.xyz[:, 0, 0].tolist() == pytest.approx([BODY_25[0, 0], BODY_25[0, 0] + 800])


def test_openpose_folders(tmp_path: Path) -> None:
    folder = openpose_folder(
        tmp_path / "two",
        {f"{clip}_{k:03}_keypoints.json": json.dumps({"people": [openpose_person()]}) for clip in "ab" for k in (5, 6)},
    )
    assert [r.name for r in read(folder, fps=24)] == ["a", "b"]
    unnumbered = {f"{name}_keypoints.json": json.dumps({"people": [openpose_person()]}) for name in ("x", "y")}
    assert read(openpose_folder(tmp_path / "names", unnumbered), fps=24)[0].slots.tolist() == [0, 1]
    (tmp_path / "empty").mkdir()
    assert "directory without OpenPose's" in error_of(tmp_path / "empty", fps=24)
    assert "6 in its subfolders" in error_of(tmp_path, fps=24)
    assert "same frame" in error_of(
        openpose_folder(tmp_path / "d", {"a_1_keypoints.json": "", "a_01_keypoints.json": ""})
    )
    assert "has none" in error_of(openpose_folder(tmp_path / "e", {"a_1_keypoints.json": "", "b_keypoints.json": ""}))
    dates = {f"a_{date}_keypoints.json": "" for date in (20200101, 20210101)}
    assert "no frame numbers" in error_of(openpose_folder(tmp_path / "f", dates), fps=24)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"people": [', ["not JSON", "line 1"]),
        ('{"version": 1.3}', ["no list of people"]),
        ('{"people": 7}', ["no list of people"]),
        ('{"people": [7]}', ["person 0", "object expected", "7"]),
        ('{"people": [{"": 1}]}', ["person 0", "no pose_keypoints_2d", "found: "]),
        ('{"people": [{"pose2d": [1], "id": 3}]}', ["person 0", "no pose_keypoints_2d", "found: id, pose2d"]),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', ["pose_keypoints_2d", "2 numbers"]),
        ('{"people": [{"pose_keypoints_2d": ["a"]}]}', ["pose_keypoints_2d", "numbers expected", "'a'"]),
        ('{"people": [{"pose_keypoints_2d": [[1, 2, 3], [4]]}]}', ["pose_keypoints_2d", "numbers expected"]),
        (json.dumps({"people": [openpose_person(hand_left_keypoints_2d=[1, 2, 3])]}), ["hand_left", "63"]),
        (json.dumps({"people": [openpose_person(person_id=1.5)]}), ["person_id", "1.5"]),
        ("[" * 100_000, ["not JSON"]),
    ],
)
def test_openpose_wrong_json_is_named(tmp_path: Path, content: str, words: list[str]) -> None:
    folder = openpose_folder(tmp_path / "a", {0: [openpose_person()], 1: content, 2: [openpose_person()]})
    message = error_of(folder, fps=24)
    for word in ["clip_000000000001_keypoints.json", *words]:
        assert word in message


def test_openpose_nan_is_missing(tmp_path: Path) -> None:
    person = openpose_person()
    person["pose_keypoints_2d"][3:5] = [float("nan"), 1.0]
    person["pose_keypoints_2d"][8] = None
    (recording,) = read(openpose_folder(tmp_path / "a", {0: [person]}), fps=24)
    assert np.flatnonzero(recording.missing[0]).tolist() == [1, 2]


def test_openpose_real() -> None:
    for clip in sorted(shared_data("how2sign_openpose").iterdir()):
        (recording,) = read(clip, fps=24)
        assert recording.frames == len(list(clip.iterdir()))
        hands_are_at_their_wrists(recording, within=0.15)
        assert 0.3 < recording.confidence[:, 8:].mean() < 0.7
    (recording,) = read(shared_data("pose_files/openpose_json"), fps=24)
    assert recording.frames == 9
    hands_are_at_their_wrists(recording, within=0.1)


def test_openpose_swapped_hands_would_be_noticed(tmp_path: Path) -> None:
    """The check itself: on a real clip with its hands exchanged it fails."""
    clip = sorted(shared_data("how2sign_openpose").iterdir())[0]
    exchanged = tmp_path / "clip"
    exchanged.mkdir()
    for file in clip.iterdir():
        text = file.read_text().replace("hand_left_", "hand_x_").replace("hand_right_", "hand_left_")
        (exchanged / file.name).write_text(text.replace("hand_x_", "hand_right_"))
    with pytest.raises(AssertionError):
        hands_are_at_their_wrists(read(exchanged, fps=24)[0], within=0.15)
    with pytest.raises(AssertionError):
        hands_are_at_their_wrists(read(clip, fps=24, swap_sides=True)[0], within=0.15)


# COCO-WholeBody

POINTS = RNG.uniform(100, 500, (133, 2))
WHOLE = np.concatenate(
    [POINTS[:1], POINTS[[5, 6]].mean(axis=0)[None], POINTS[[6, 8, 10, 5, 7, 9]], POINTS[91:112], POINTS[112:133]]
)


def instance(shift: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"keypoints": moved(POINTS, shift).tolist(), "keypoint_scores": [0.5] * 132 + [1.2], **more}


def test_wholebody_json(tmp_path: Path) -> None:
    path = tmp_path / "take.json"
    frames = [{"frame_id": k, "instances": [instance(k)]} for k in (1, 2, 5)]
    for value in (frames, {"meta_info": {"dataset_name": "coco_wholebody"}, "instance_info": frames}, frames[::-1]):
        path.write_text(json.dumps(value))
        assert recognise(path) == "wholebody"
        (recording,) = read(path, fps=30)
        assert (recording.slots.tolist(), recording.name, recording.unit) == ([0, 1, 4], "take", "px")
        np.testing.assert_allclose(recording.xyz[2, :, :2], moved(WHOLE, 5), rtol=1e-6)
        assert recording.confidence[0, [0, 49]].tolist() == [0.5, 1]
    assert "--fps" in error_of(path)
    path.write_text(json.dumps([instance()]))  # of a single image
    assert read(path, fps=30)[0].frames == 1


def test_wholebody_people(tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    frames = [[instance(0), instance(900)], [instance(900), instance(0)], [], [instance(900)]]
    path.write_text(json.dumps([{"instances": people} for people in frames]))
    a, b = read(path, fps=30)
    assert (a.slots.tolist(), b.slots.tolist()) == ([0, 1], [0, 1, 3])
    tracked = [
        {"instances": [instance(0, track_id=1), instance(900, track_id=0)]},
        {"instances": [instance(0, track_id=0)]},
    ]
    path.write_text(json.dumps(tracked))
    a, b = read(path, fps=30)
    assert (a.frames, b.frames) == (1, 2)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"instances": [{"keypoints": [[1, 2]] * 14, "keypoint_scores": [1] * 14}]}], ["frame 0", "14", "133"]),
        ([{"instances": [{"keypoints": [[1, 2]] * 133, "keypoint_scores": [1] * 17}]}], ["scores", "17"]),
        ([{"instances": [{"keypoints": "none"}]}], ["frame 0, person 0, keypoints", "numbers", "none"]),
        ([{"instances": [{}]}], ["person 0", "keypoints"]),
        ([{"instances": []}, {"frame_id": 3}], ["frame 1", "no list of instances"]),
        ([{"frame_id": 3, "instances": []}, {"frame_id": 3, "instances": []}], ["frame 1", "comes twice"]),
        ([{"frame_id": "x", "instances": []}], ["frame 0, frame_id", "'x'"]),
        ([{"instances": []}], ["nobody"]),
        ({"instance_info": 3}, ["list of frames"]),
    ],
)
def test_wholebody_wrong_json_is_named(tmp_path: Path, value: Any, words: list[str]) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(value))
    message = error_of(path, fps=30)
    for word in ["bad.json", *words]:
        assert word in message


def test_wholebody_arrays(tmp_path: Path) -> None:
    path = tmp_path / "rtmw.npz"
    points = np.stack([POINTS, POINTS + 1, POINTS + 2])
    scores = np.full((3, 133), 0.5)
    points[1, 0] = np.nan
    np.savez(path, keypoints=points, scores=scores, fps=25, image_size=(640, 480))
    assert recognise(path) == "wholebody"
    (recording,) = read(path)
    np.testing.assert_allclose(recording.xyz[2, :, :2], WHOLE + 2, rtol=1e-6)
    assert (recording.fps, recording.image_size, recording.dims) == (25, (640, 480), 2)
    assert np.argwhere(recording.missing).tolist() == [[1, 0]]
    people = np.stack([points, points + 900], axis=1)
    np.savez(path, keypoints=people, scores=np.ones(people.shape[:-1]))
    assert "--fps" in error_of(path)
    assert len(read(path, fps=30)) == 2
    deep = np.concatenate([points, np.ones((3, 133, 1))], axis=-1)
    np.savez(path, keypoints=deep, scores=scores, fps=25)
    assert "--unit" in error_of(path)
    assert "--axes" in error_of(path, unit="m")
    (recording,) = read(path, unit="m", axes="RDA")
    assert (recording.dims, recording.unit, recording.axes) == (3, "m", "RDA")
    np.savez(path, keypoints=points, scores=scores, fps=25, image_size=[(640, 480), (640, 480), (64, 48)])
    assert "one (width, height)" in error_of(path)
    np.savez(path, keypoints=points[:, :14], scores=scores[:, :14], fps=25)
    assert "14" in error_of(path)
    np.savez(path, keypoints=points, scores=scores[:2], fps=25)
    assert "[2, " in error_of(path)
    np.savez(path, keypoints=points, fps=[25, 30])
    assert "one number" in error_of(path)


def test_wholebody_in_python() -> None:
    """As RTMW is called: one image after another, each with the people in it."""
    both, nobody = np.stack([POINTS, POINTS + 900]), (np.zeros((0, 133, 2)), np.zeros((0, 133)))
    ones = np.ones((2, 133))
    a, b = from_wholebody([(both, ones), nobody, (both[::-1], ones), (POINTS, None)], fps=30, name="cam")
    assert (a.slots.tolist(), b.slots.tolist()) == ([0, 2, 3], [0, 2])
    np.testing.assert_allclose(b.xyz[1, :, :2], WHOLE + 900, rtol=1e-6)
    with pytest.raises(FormatError, match=r"cam, frame 0: keypoints have shape \[2, 14, 2\]"):
        from_wholebody([(both[:, :14], ones)], fps=30, name="cam")
    with pytest.raises(FormatError, match="cam: nobody"):
        from_wholebody([nobody], fps=30, name="cam")


def test_wholebody_real() -> None:
    (recording,) = read(shared_data("pose_files/SOUP_mmpose_wholebody133.json"), fps=25)
    assert recording.frames == 41
    hands_are_at_their_wrists(recording, within=0.05)


# MediaPipe Holistic


def marks(points: np.ndarray, visibility: float | None = 0.0, *, nested: bool = True) -> Any:
    found = [SimpleNamespace(x=x, y=y, z=z, visibility=visibility) for x, y, z in points.tolist()]
    return SimpleNamespace(landmark=found) if nested else found


def test_holistic_results() -> None:
    pose, left, right = RNG.uniform(0.2, 0.8, (33, 3)), RNG.uniform(0.2, 0.8, (21, 3)), RNG.uniform(0.2, 0.8, (21, 3))
    size = np.array([640, 480, 640])
    for nested in (True, False):  # of solutions.holistic, of the task
        results = [
            SimpleNamespace(
                pose_landmarks=marks(pose, 0.5, nested=nested),
                left_hand_landmarks=marks(left, 0.0 if nested else None, nested=nested),
                right_hand_landmarks=None if nested else [],
            ),
            SimpleNamespace(pose_landmarks=None, left_hand_landmarks=None, right_hand_landmarks=marks(right)),
        ]
        recording = from_holistic(results, fps=30, image_size=(640, 480))
        assert (recording.frames, recording.axes, recording.unit, recording.dims) == (2, "RDA", "px", 3)
        assert recording.confidence[0].tolist() == [0.5] * 8 + [1] * 21 + [0] * 21
        assert recording.missing[1].all(), "a hand without a body has no depth"
        np.testing.assert_allclose(recording.xyz[0, 2], pose[12] * size, rtol=1e-5)
        np.testing.assert_allclose(recording.xyz[0, 8:29, :2], (left * size)[:, :2], rtol=1e-5)
        depth = pose[15, 2] + left[:, 2] - left[0, 2]
        np.testing.assert_allclose(recording.xyz[0, 8:29, 2], depth * 640, rtol=1e-4)


def test_holistic_world() -> None:
    pose, hand = RNG.uniform(0.2, 0.8, (33, 3)), RNG.uniform(0.2, 0.8, (21, 3))
    world = pose * [0.9, 0.9, 0.9]  # metres; the image is square, so that 900 mm are 500 pixels
    result = SimpleNamespace(
        pose_landmarks=marks(pose, 1.0),
        left_hand_landmarks=None,
        right_hand_landmarks=marks(hand),
        pose_world_landmarks=marks(world, 0.9),
    )
    recording = from_holistic([result], fps=30, image_size=(500, 500), world=True)
    assert (recording.unit, recording.axes) == ("m", "RDA")
    np.testing.assert_allclose(recording.xyz[0, 4], world[16], rtol=1e-5)
    np.testing.assert_allclose(recording.xyz[0, 29:], world[16] + 0.9 * (hand - hand[0]), rtol=1e-4)
    assert recording.confidence[0].tolist() == pytest.approx([0.9] * 8 + [0] * 21 + [1] * 21)


def test_holistic_size_of_a_pixel_is_remembered() -> None:
    """Where shoulders are not seen, hands keep the size that they had."""
    points = {part: RNG.uniform(100, 200, (len(names), 3)) for part, names in HOLISTIC.components.items()}
    (world,) = HOLISTIC_WORLD.components
    points[world] = points["POSE_LANDMARKS"] / 1000
    sure = {part: np.ones(len(array)) for part, array in points.items()}
    assembler = Assembler(world=True)
    hidden = {part: array.copy() for part, array in sure.items()}
    hidden["POSE_LANDMARKS"][11] = 0
    assert (assembler.joints(points, hidden)[1][8:] == 0).all(), "not known yet"
    first, _ = assembler.joints(points, sure)
    again, confidence = assembler.joints(points, hidden)
    assert (confidence[8:] == 1).all()
    np.testing.assert_array_equal(first[8:], again[8:])


def test_holistic_mistakes() -> None:
    result = SimpleNamespace(pose_landmarks=marks(np.zeros((32, 3))))
    with pytest.raises(FormatError, match="pose_landmarks: 32 landmarks, 33"):
        from_holistic([result], fps=30, image_size=(640, 480))
    with pytest.raises(FormatError, match="several sizes"):
        from_holistic([result, result], fps=30, image_size=[(640, 480), (320, 240)])
    with pytest.raises(FormatError, match="no results"):
        from_holistic([], fps=30, image_size=(640, 480))


def holistic_arrays(frames: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    arrays = {"pose": (33,), "left_hand": (21,), "right_hand": (21,)}
    return {key: rng.uniform(0.1, 1, (frames, *count, 4)).astype(np.float32) for key, count in arrays.items()}


def test_holistic_arrays(tmp_path: Path) -> None:
    path = tmp_path / "holistic.npz"
    arrays = holistic_arrays()
    arrays["left_hand"][1] = np.nan
    arrays["pose"][2, :, 3] = 0
    clips = {"length": np.array([2, 3]), "clip": np.array(["a", "b"]), "fps": np.array([25.0, 30])}
    np.savez(path, **arrays, **clips, width_height=np.array([(500, 500), (640, 360)]))
    assert recognise(path) == "holistic"
    a, b = read(path)
    assert (a.name, a.fps, a.image_size, a.dims) == ("a", 25, (500, 500), 2)
    assert (b.name, b.fps, b.image_size, b.frames) == ("b", 30, (640, 360), 3)
    np.testing.assert_allclose(a.xyz[0, 4, :2], arrays["pose"][0, 16, :2])
    np.testing.assert_allclose(a.confidence[0, 4], arrays["pose"][0, 16, 3])
    assert a.missing[1, 8:29].all()
    assert b.missing[0, :8].all()
    assert not b.missing[0, 8:].any(), "in the image, hands need no body"
    deep = read(path, depth_scale=100)[0]
    assert deep.dims == 3
    depth = arrays["pose"][0, 16, 2] + arrays["right_hand"][0, :, 2] - arrays["right_hand"][0, 0, 2]
    np.testing.assert_allclose(deep.xyz[0, 29:, 2], 100 * depth, rtol=1e-4)
    np.savez(path, **arrays)
    assert "--fps" in error_of(path)
    (recording,) = read(path, fps=25)
    assert (recording.name, recording.frames, recording.image_size) == ("holistic", 5, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"left_hand": np.zeros((4, 21, 4))}, ["left_hand", "[4, 21, 4]", "[5, 21, 4]"]),
        ({"pose": np.zeros((5, 25, 4))}, ["pose", "25", "33"]),
        ({"pose": np.zeros((5, 33, 4), complex)}, ["pose", "complex"]),
        ({"length": np.array([2, 2])}, ["length", "5 frames"]),
        ({"clip": np.array(["a", "b"])}, ["clip", "1 names"]),
        ({"width_height": np.zeros(3)}, ["width_height"]),
        ({"width_height": np.zeros(2, int)}, ["0 x 0"]),
    ],
)
def test_holistic_arrays_mistakes(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **(holistic_arrays() | {"fps": np.array(25)} | change))
    message = error_of(path)
    for word in ["bad.npz", *words]:
        assert word in message


def test_holistic_real() -> None:
    recordings = read(shared_data("mediapipe_holistic/holistic.npz"))
    assert len(recordings) == 535
    assert sum(recording.frames for recording in recordings) == 13983
    assert {recording.image_size for recording in recordings} >= {(500, 500), (640, 360), (3840, 2160)}
    assert {recording.dims for recording in recordings} == {2}
    right = np.array([~r.missing[:, 29] for r in recordings], object)
    assert np.concatenate(right).mean() == pytest.approx(0.92, abs=0.02)
    # one clip alone may have its hand at its face; all of them together tell sides apart
    whole = Recording(
        np.concatenate([r.xyz for r in recordings]),
        25,
        "all",
        confidence=np.concatenate([r.confidence for r in recordings]),
        unit="px",
        dims=2,
    )
    hands_are_at_their_wrists(whole, within=0.1)


# .pose


def pose_bytes(
    layout: Layout,
    frames: list[list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]],
    *,
    version: float = 0.2,
    fps: float = 25.0,
    form: str = "XYC",
    size: tuple[int, int] = (640, 480),
) -> bytes:
    """A .pose file of people, each with points [P, D] and confidences [P] by component."""

    def text(words: str) -> bytes:
        return struct.pack("<H", len(words)) + words.encode()

    parts = list(layout.components)
    data = struct.pack("<fHHHH", version, *size, 0, len(parts))
    for part in parts:
        names = layout.components[part]
        data += text(part) + text(form) + struct.pack("<HHH", len(names), 1, 1)
        data += b"".join(map(text, names)) + struct.pack("<5H", 0, 1, 255, 0, 0)
    if version == 0.0:
        data += struct.pack("<HH", round(fps), len(frames))
        for people in frames:
            data += struct.pack("<H", len(people))
            for points, sure in people:
                rows = [np.concatenate([points[part], sure[part][:, None]], axis=1) for part in parts]
                data += struct.pack("<h", -1) + np.concatenate(rows).astype("<f4").tobytes()
        return data
    count = max(map(len, frames))
    data += (
        struct.pack("<HHH", round(fps), 0, count) if version == 0.1 else struct.pack("<fIH", fps, len(frames), count)
    )
    nobody = {part: np.zeros((len(layout.components[part]), len(form) - 1)) for part in parts}
    rows = [person for people in frames for person in [*people, *[(nobody, {})] * (count - len(people))]]
    data += b"".join(np.concatenate([row[0][part] for part in parts]).astype("<f4").tobytes() for row in rows)
    return data + b"".join(
        np.concatenate([row[1].get(part, np.zeros(len(layout.components[part]))) for part in parts])
        .astype("<f4")
        .tobytes()
        for row in rows
    )


def pose_person(layout: Layout, shift: float = 0.0, dims: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(3)
    points = {part: rng.uniform(100, 400, (len(names), dims)) + shift for part, names in layout.components.items()}
    return points, {part: rng.uniform(0.2, 1, len(names)) for part, names in layout.components.items()}


@pytest.mark.parametrize("version", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("layout", BY_COMPONENT.values(), ids=lambda layout: layout.id)
def test_pose_by_name(tmp_path: Path, layout: Layout, version: float) -> None:
    path = tmp_path / "take.pose"
    frames = [[pose_person(layout, k)] for k in range(4)]
    path.write_bytes(pose_bytes(layout, frames, version=version))
    assert recognise(path) == "pose"
    (recording,) = read(path)
    assert (recording.frames, recording.fps, recording.image_size, recording.dims) == (4, 25, (640, 480), 2)
    assert not recording.missing.any()
    points, sure = frames[2][0]
    for joint, sources in enumerate(layout.sources):
        at = [(part, layout.components[part].index(name)) for part, name in sources]
        np.testing.assert_allclose(
            recording.xyz[2, joint, :2], np.mean([points[part][k] for part, k in at], axis=0), rtol=1e-5
        )
        assert recording.confidence[2, joint] == pytest.approx(min(sure[part][k] for part, k in at))


@pytest.mark.parametrize("version", [0.0, 0.1, 0.2])
def test_pose_people(tmp_path: Path, version: float) -> None:
    a, b = pose_person(OPENPOSE_25), pose_person(OPENPOSE_25, 900)
    path = tmp_path / "two.pose"
    path.write_bytes(pose_bytes(OPENPOSE_25, [[a, b], [b, a], [], [b]], version=version, fps=29.97))
    first, second = read(path)
    assert (first.slots.tolist(), second.slots.tolist()) == ([0, 1], [0, 1, 3])
    assert first.fps == pytest.approx(29.97 if version == 0.2 else 30)
    nobody = a[0], {part: 0 * sure for part, sure in a[1].items()}
    path.write_bytes(pose_bytes(OPENPOSE_25, [[nobody]], version=version))
    assert "nobody" in error_of(path)


def test_pose_depth(tmp_path: Path) -> None:
    path = tmp_path / "deep.pose"
    person = pose_person(HOLISTIC, dims=3)
    path.write_bytes(pose_bytes(HOLISTIC, [[person]], form="XYZC"))
    (flat,) = read(path)
    assert (flat.dims, flat.axes) == (2, "RDA")
    (deep,) = read(path, depth_scale=2)
    assert (deep.dims, deep.unit) == (3, "px")
    pose, right = person[0]["POSE_LANDMARKS"], person[0]["RIGHT_HAND_LANDMARKS"]
    assert deep.xyz[0, 4, 2] == pytest.approx(2 * pose[16, 2], rel=1e-5)
    np.testing.assert_allclose(deep.xyz[0, 29:, 2], 2 * (pose[16, 2] + right[:, 2] - right[0, 2]), rtol=1e-3)
    path.write_bytes(pose_bytes(HOLISTIC, [[pose_person(HOLISTIC)]]))
    assert "no depth" in error_of(path, depth_scale=2)
    assert "no world landmarks" in error_of(path, world=True)


def test_pose_world(tmp_path: Path) -> None:
    path = tmp_path / "world.pose"
    both = Layout("both", {**HOLISTIC.components, **HOLISTIC_WORLD.components}, HOLISTIC.sources)
    points, sure = pose_person(both, dims=3)
    points["POSE_WORLD_LANDMARKS"] = points["POSE_LANDMARKS"] / 1000
    path.write_bytes(pose_bytes(both, [[(points, sure)]], form="XYZC"))
    assert "--depth-scale" in error_of(path, world=True)
    (recording,) = read(path, world=True, depth_scale=1)
    assert (recording.unit, recording.dims) == ("m", 3)
    np.testing.assert_allclose(recording.xyz[0, 7], points["POSE_LANDMARKS"][15] / 1000, rtol=1e-5)
    hand = points["LEFT_HAND_LANDMARKS"]
    np.testing.assert_allclose(
        recording.xyz[0, 8:29], (points["POSE_LANDMARKS"][15] + hand - hand[0]) / 1000, rtol=1e-3, atol=1e-5
    )


def test_pose_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.pose"
    for version in (0.0, 0.1, 0.2):
        whole = pose_bytes(OPENPOSE_25, [[pose_person(OPENPOSE_25)]] * 2, version=version)
        for size in range(0, len(whole), 53):
            path.write_bytes(whole[:size])
            assert "x.pose" in error_of(path)
        for at in range(0, 600, 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            try:
                read(path)
            except FormatError as error:
                assert "x.pose" in str(error)  # noqa: PT017
    path.write_bytes(pose_bytes(OPENPOSE_25, [[pose_person(OPENPOSE_25)]], version=0.3))
    assert "version" in error_of(path, format="pose")
    path.write_bytes(pose_bytes(Layout("x", {"LEGS": ("knee",)}, ()), [[({"LEGS": np.ones((1, 2))}, {})]]))
    assert "components LEGS" in error_of(path)
    path.write_bytes(pose_bytes(OPENPOSE_25, [[pose_person(OPENPOSE_25)]], fps=0))
    assert "--fps" in error_of(path)


def test_pose_real() -> None:
    for name, frames, size in (("mediapipe", 170, 1250), ("mediapipe_long", 278, 1250), ("openpose", 93, 1000)):
        (recording,) = read(shared_data(f"pose_files/{name}.pose"))
        assert (recording.frames + recording.dropped, recording.fps) == (frames, 24)
        assert (recording.image_size, recording.dims) == ((size, size), 2)
        assert recording.missing[:, 0].all() == (name != "openpose"), "MediaPipe's was left out of these files"
        hands_are_at_their_wrists(recording, within=0.1)
    deep = read(shared_data("pose_files/mediapipe.pose"), depth_scale=1250)[0]
    assert deep.dims == 3
