"""Files as people really have them: what programs state wrongly, number anew, find twice, or call otherwise."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.formats import Recording, from_holistic, read, recognise, write, write_apart
from rtskel.formats.people import follow
from rtskel.skeleton import BODY, NECK, UPPER_BODY_50, from_canonical
from tests import person
from tests.person import pixels

FPS = 25.0
HANDS = slice(8, 50)


def said(recordings: list[Recording], *words: str) -> None:
    """Fails unless one note holds each of the words."""
    for recording in recordings:
        for word in words:
            assert any(word in note for note in recording.notes), (word, recording.notes)
        assert all("\n" not in note for note in recording.notes)


def right(recording: Recording, frames: int, *, hands: bool = True, atol: float = 0.6) -> None:
    """Fails unless these are all frames of the person in the middle of the image, at 25 a second, in pixels."""
    assert recording.slots.tolist() == list(range(frames))
    assert (recording.unit, recording.fps) == ("px", FPS)
    joints = slice(0, 50) if hands else slice(0, 8)
    assert not recording.missing[:, joints].any()
    assert hands or recording.missing[:, HANDS].all()
    wanted = np.stack([pixels(n / FPS) for n in range(frames)])
    wanted[:, NECK] = (
        wanted[:, [2, 5]].mean(axis=1) if abs(recording.xyz[0, NECK, 1] - wanted[0, NECK, 1]) > 1 else wanted[:, NECK]
    )
    np.testing.assert_allclose(recording.xyz[:, joints, :2], wanted[:, joints], atol=atol)


# Identities


def mmpose(n: int, **more: Any) -> dict[str, Any]:
    p = person.wholebody_133(pixels(n / FPS))
    return {"keypoints": p.tolist(), "keypoint_scores": [0.7] * len(p), **more}


IDS = {
    "a new one in every frame from the tenth on": lambda n: 0 if n < 10 else n - 9,
    "a new one every fifth frame": lambda n: n // 5,
    "a new one in every frame, from a large counter": lambda n: 1_000_000 + 7 * n,
    "two by turns": lambda n: n % 2 + 3,
    "a few at random": lambda n: [4, 9, 1, 7][(n * n + n // 3) % 4],
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_one_person_whose_id_changes_stays_one(tmp_path: Path, ids: Any) -> None:
    folder = person.openpose_folder(
        tmp_path / "op", ([person.openpose(pixels(n / FPS), person_id=[ids(n)])] for n in range(50))
    )
    path = tmp_path / "mmpose.json"
    path.write_text(json.dumps([{"frame_id": n, "instances": [mmpose(n, track_id=ids(n))]} for n in range(50)]))
    arrays = tmp_path / "rtm.npz"
    points = np.stack([person.wholebody_133(pixels(n / FPS)) for n in range(50)])
    np.savez(
        arrays,
        keypoints=points[:, None],
        scores=np.ones((50, 1, 133)),
        track_id=np.array([[ids(n)] for n in range(50)]),
    )
    alpha = tmp_path / "alpha.json"
    halpe = [person.with_scores(person.halpe_136(pixels(n / FPS))) for n in range(50)]
    people = [{"image_id": f"{n}.jpg", "keypoints": halpe[n], "idx": [float(ids(n))]} for n in range(50)]
    alpha.write_text(json.dumps(people))
    for source in (folder, path, arrays, alpha):
        found = read(source, fps=FPS)
        assert len(found) == 1
        right(found[0], 50)
        said(found, "track ids do not last")
        assert found[0].person is None


@pytest.mark.parametrize("write_id", [str, float, lambda k: [k], lambda k: [float(k)], lambda k: None])
def test_ids_in_other_spellings(tmp_path: Path, write_id: Any) -> None:
    frames = [{"instances": [mmpose(n, track_id=write_id(3))]} for n in range(10)]
    (tmp_path / "a.json").write_text(json.dumps(frames))
    (found,) = read(tmp_path / "a.json", fps=FPS)
    assert found.person == (None if write_id(3) is None else "3")


def test_one_id_with_lost_frames_and_a_break(tmp_path: Path) -> None:
    """An id that lasts says who is who, also after a minute; lost frames beside a new id do not part a person."""
    frames = [[person.openpose(pixels(n / FPS, x=640 + n), person_id=[8])] if n % 7 else [] for n in range(1, 100)]
    (found,) = read(person.openpose_folder(tmp_path / "a", frames), fps=FPS)
    assert (found.frames, found.person, found.notes) == (85, "8", ())
    frames = [[person.openpose(pixels(n / FPS), person_id=[n // 9])] if n % 4 else [] for n in range(1, 60)]
    (found,) = read(person.openpose_folder(tmp_path / "b", frames), fps=FPS)
    assert found.frames == 45


@pytest.mark.parametrize("order", ["by turns", "at random"])
def test_ids_that_number_the_list_say_nothing(tmp_path: Path, order: str) -> None:
    """Two people who stand still, listed now in this order, now in that; the file's ids are places in the list."""
    frames = []
    for n in range(40):
        two = [person.openpose(pixels(n / FPS, x=300)), person.openpose(pixels(n / FPS, x=900, phase=2.0))]
        swap = n % 2 if order == "by turns" else [0, 1, 1, 0, 1, 0, 0][n % 7]
        frames.append([{**p, "person_id": [k]} for k, p in enumerate(two[::-1] if swap else two)])
    found = read(person.openpose_folder(tmp_path / "a", frames), fps=FPS)
    assert [recording.frames for recording in found] == [40, 40]
    assert all(np.ptp(recording.xyz[:, NECK, 0]) < 1 for recording in found)
    said(found, "track ids are not used")


def test_people_who_cross_keep_ids_that_last(tmp_path: Path) -> None:
    frames = [
        [
            person.openpose(pixels(n / FPS, x=300 + 15 * n), person_id=[0]),
            person.openpose(pixels(n / FPS, x=900 - 15 * n), person_id=[1]),
        ]
        for n in range(40)
    ]
    found = read(person.openpose_folder(tmp_path / "a", frames), fps=FPS)
    assert [(recording.frames, recording.person, recording.notes) for recording in found] == [
        (40, "0", ()),
        (40, "1", ()),
    ]
    np.testing.assert_allclose(np.diff(found[0].xyz[:, NECK, 0]), 15, atol=0.01)


# Doubles

DOUBLES = {
    "shoulders and neck": [1, 2, 5],
    "neck and right arm": [1, 2, 3, 4],
    "head and neck": [0, 1],
    "the body without hands": list(range(8)),
    "everything": list(range(50)),
    "one wrist": [4],
    "a hand": list(range(29, 50)),
}


@pytest.mark.parametrize("off", [0.0, 5.0, 15.0])
@pytest.mark.parametrize("shown", DOUBLES.values(), ids=DOUBLES.keys())
def test_who_is_found_twice_stays_one(shown: list[int], off: float) -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        frame, xy, confidence, own = [], [], [], []
        for n in range(100):
            rows = [(np.ones(50), 0.0, True)]
            if n in (20, 21, 45, 70):
                rows.insert(int(random.integers(2)), (np.isin(np.arange(50), shown) * 0.9, off, False))
            for sure, beside, whole in rows:
                frame.append(n)
                xy.append((pixels(n / FPS) + random.normal(0, 2, (50, 2)) + beside) * (sure > 0)[:, None])
                confidence.append(sure)
                own.append(whole)
        stream = follow(np.array(frame), np.array(xy, np.float32), np.array(confidence, np.float32))
        assert (stream[np.array(own)] == 0).all()
        assert (stream[~np.array(own)] == -1).all()


def test_a_double_far_off_does_not_take_over() -> None:
    """A false detection beside a person is a short second one, and the person goes on as the first."""
    frame, xy, confidence = [], [], []
    for n in range(100):
        for beside in (0.0, 60.0) if 40 <= n < 44 else (0.0,):
            frame.append(n)
            xy.append(pixels(n / FPS, x=500 + 6 * n) + beside)
            confidence.append(np.ones(50) if not beside else np.isin(np.arange(50), [1, 2, 3, 5]))
    sure = np.array(confidence, np.float32)
    stream = follow(np.array(frame), np.array(xy, np.float32) * (sure > 0)[..., None], sure)
    assert np.bincount(stream + 1).tolist() == [0, 100, 4]


def test_doubles_in_a_file(tmp_path: Path) -> None:
    frames = []
    for n in range(60):
        p = pixels(n / FPS)
        double = person.openpose(p + 3.0, hand_left_keypoints_2d=[], hand_right_keypoints_2d=[0.0] * 63, person_id=[n])
        frames.append([double, person.openpose(p)] if n in (20, 21, 40) else [person.openpose(p)])
    found = read(person.openpose_folder(tmp_path / "op", frames), fps=FPS)
    assert len(found) == 1
    right(found[0], 60)
    said(found, "found twice in a frame: 3 dropped")
    path = tmp_path / "mm.json"
    path.write_text(
        json.dumps([{"instances": [mmpose(n), mmpose(n)] if n % 10 == 3 else [mmpose(n)]} for n in range(40)])
    )
    (again,) = read(path, fps=FPS)
    right(again, 40)


# Layouts in OpenPose's format


@pytest.mark.parametrize(
    ("layout", "hands"),
    [
        (person.wholebody_133, True),
        (person.halpe_136, True),
        (lambda p: np.concatenate([person.halpe_26(p), p[8:50]]), True),
        (person.halpe_26, False),
        (person.coco_17, False),
        (person.blazepose_33, False),
        (person.body_25, False),
        (lambda p: person.body_25(p)[:18], False),
    ],
    ids=["133", "136", "68", "26", "17", "33", "25", "18"],
)
def test_layouts_are_told_by_their_points(tmp_path: Path, layout: Any, hands: bool) -> None:
    """As Pose2Sim and Sports2D write them: all points in `pose_keypoints_2d`, hands and face empty."""
    empty = {f"{part}_keypoints_2d": [] for part in ("face", "hand_left", "hand_right")}
    frames = [
        [person.openpose(p, **empty | {"pose_keypoints_2d": person.with_scores(layout(p))})]
        for p in (pixels(n / FPS) for n in range(30))
    ]
    folder = person.openpose_folder(tmp_path / "cam01_json", frames, name="cam01_{:06}.json", first=1)
    assert recognise(folder) == "openpose"
    (found,) = read(folder, fps=FPS)
    right(found, 30, hands=hands, atol=7)
    assert found.notes == ()


def openpose_134(p: np.ndarray) -> np.ndarray:
    """COCO-WholeBody as rtmlib and DWPose bring it into OpenPose's order."""
    return np.concatenate([person.body_25(p)[:8], np.repeat(p[1:2], 10, axis=0), person.wholebody_133(p)[17:]])


def test_whole_bodies_in_the_order_of_openpose(tmp_path: Path) -> None:
    empty = {f"{part}_keypoints_2d": [] for part in ("face", "hand_left", "hand_right")}
    points = [openpose_134(pixels(n / FPS)) for n in range(20)]
    frames = [
        [person.openpose(pixels(0.0), **empty | {"pose_keypoints_2d": person.with_scores(each)})] for each in points
    ]
    right(read(person.openpose_folder(tmp_path / "rtmlib", frames), fps=FPS)[0], 20)
    np.savez(tmp_path / "rtm.npz", keypoints=np.stack(points), scores=np.full((20, 134), 0.7))
    right(read(tmp_path / "rtm.npz", fps=FPS)[0], 20)


@pytest.mark.parametrize("fractions", [False, True])
def test_frames_with_the_size_of_their_image(tmp_path: Path, fractions: bool) -> None:
    """ComfyUI's and ControlNet's DWPose: a list of frames in one file, or one in each file; hands null if not found."""
    canvas = {"canvas_width": person.IMAGE[0], "canvas_height": person.IMAGE[1]}
    scale = np.divide(1, person.IMAGE) if fractions else np.ones(2)
    frames = []
    for n in range(20):
        p = pixels(n / FPS)
        parts = {"pose": person.body_25(p)[:18], "hand_left": p[8:29], "hand_right": p[29:50]}
        keys = {f"{part}_keypoints_2d": person.with_scores(points * scale) for part, points in parts.items()}
        frames.append({"people": [keys | {"face_keypoints_2d": None}], "animals": [], **canvas})
    path = tmp_path / "poses.json"
    path.write_text(json.dumps(frames))
    assert recognise(path) == "openpose"
    each = person.folder_of(tmp_path / "each", [[frame] for frame in frames], name="pose_{:05}.json")
    for found in read(path, fps=FPS), read(each, fps=FPS):
        right(found[0], 20)
        assert found[0].image_size == person.IMAGE
        said(found, "unused keys: animals", *(["within 0..1: taken as fractions"] if fractions else []))
    both = person.folder_of(tmp_path / "both", [frames[:10], frames[10:]], name="pose_{:05}.json")
    with pytest.raises(FormatError, match=r"pose_00000\.json: holds 10 frames, one expected"):
        read(both, fps=FPS)
    path.write_text(json.dumps([*frames[:-1], frames[-1] | {"canvas_width": 640}]))
    assert read(path, fps=FPS)[0].image_size is None, "of several sizes, none is told"


def test_two_layouts_of_25_points(tmp_path: Path) -> None:
    """BODY_25B begins with nose, eyes and ears; BODY_25 with nose, neck and an arm."""
    people = []
    for n in range(20):
        p = pixels(n / FPS)
        body = np.concatenate([person.coco_17(p), np.repeat(p[1:2], 8, axis=0)])
        people.append([person.openpose(p, pose_keypoints_2d=person.with_scores(body))])
    found = read(person.openpose_folder(tmp_path / "a", people), fps=FPS)
    right(found[0], 20, atol=7)
    said(found, "BODY_25B")


def test_keys_of_old_versions(tmp_path: Path) -> None:
    """OpenPose before 1.2 wrote the keys without `_2d`; some programs nest the points."""
    both = [{key: v for key, v in person.openpose(pixels(n / FPS)).items() if "2d" in key} for n in range(20)]
    old = [[{key.removesuffix("_2d"): value for key, value in each.items()}] for each in both]
    (found,) = read(person.openpose_folder(tmp_path / "old", old), fps=FPS)
    right(found, 20)
    oldest = [[{"body_parts": each["pose_keypoints_2d"]}] for each in both]
    (found,) = read(person.openpose_folder(tmp_path / "oldest", oldest), fps=FPS)
    right(found, 20, hands=False)
    nested = [[{key: np.reshape(value, (-1, 3)).tolist() for key, value in each.items()}] for each in both]
    (found,) = read(person.openpose_folder(tmp_path / "nested", nested), fps=FPS)
    right(found, 20)


def test_people_as_an_object(tmp_path: Path) -> None:
    people = [person.openpose(pixels(n / FPS), person_id=-1) for n in range(20)]
    (found,) = read(person.openpose_folder(tmp_path / "one", people), fps=FPS)
    right(found, 20)
    (found,) = read(person.openpose_folder(tmp_path / "by_id", [{"7": {**p, "person_id": 7}} for p in people]), fps=FPS)
    right(found, 20)
    assert found.person == "7"
    two = [
        {"0": person.openpose(pixels(n / FPS, x=300)), "1": person.openpose(pixels(n / FPS, x=900))} for n in range(20)
    ]
    assert [recording.frames for recording in read(person.openpose_folder(tmp_path / "two", two), fps=FPS)] == [20, 20]
    (found,) = read(person.folder_of(tmp_path / "bare", people), fps=FPS)  # without `people`
    right(found, 20)
    some = [people[0], {}, None, [], *people[4:20]]
    (found,) = read(person.openpose_folder(tmp_path / "nobody", some), fps=FPS)
    assert found.frames == 17


def test_people_who_are_not_in_view(tmp_path: Path) -> None:
    """Pose2Sim's `pose-associated` keeps everybody's place in the list: who is not in view is an empty object."""
    left, right_ = ([person.openpose(pixels(n / FPS, x=x)) for n in range(30)] for x in (300, 1000))
    frames = [[{} if n in (7, 8) else left[n], {} if n in (0, 29) else right_[n]] for n in range(30)]
    found = read(person.openpose_folder(tmp_path / "pose-associated", [*frames, [{}, {}]]), fps=FPS)
    slots = [[n for n in range(30) if n not in (7, 8)], list(range(1, 29))]
    assert [recording.slots.tolist() for recording in found] == slots
    nobody = person.openpose_folder(tmp_path / "nobody", [[{}], [{}]])
    with pytest.raises(FormatError, match="nobody is found"):
        read(nobody, fps=FPS)


def deep(n: int, scale: float, flat: bool, **more: Any) -> dict[str, Any]:
    xyz = person.joints(n / FPS) * [scale, scale, -scale]  # OpenPose's z points away from the camera
    parts = {"pose": person.body_25(xyz), "hand_left": xyz[8:29], "hand_right": xyz[29:50]}
    found = person.openpose(pixels(n / FPS)) if flat else {f"{part}_keypoints_2d": [] for part in parts}
    return found | {f"{part}_keypoints_3d": person.with_scores(points) for part, points in parts.items()} | more


@pytest.mark.parametrize(("unit", "scale"), [("m", 1.0), ("cm", 100.0), ("mm", 1000.0)])
@pytest.mark.parametrize("flat", [True, False])
def test_3d_where_it_is_filled(tmp_path: Path, unit: str, scale: float, flat: bool) -> None:
    folder = person.openpose_folder(tmp_path / "a", [deep(n, scale, flat) for n in range(10)])
    for found in (read(folder, fps=FPS), read(folder, fps=FPS, unit=unit)):
        (recording,) = found
        assert (recording.unit, recording.dims, recording.axes) == (unit, 3, "RDA")
        wanted = np.stack([person.joints(n / FPS) for n in range(10)])
        np.testing.assert_allclose(recording.canonical() / scale, wanted, atol=1e-3)
    said(read(folder, fps=FPS), "by the shoulders' width")
    if flat:
        said(found, "pose_keypoints_2d are not")
        (recording,) = read(folder, fps=FPS, unit="px")
        right(recording, 10)
        said([recording], "pose_keypoints_3d are not read")


def test_3d_of_no_known_unit(tmp_path: Path) -> None:
    only = person.openpose_folder(tmp_path / "a", [deep(n, 7.0, False) for n in range(5)])
    with pytest.raises(FormatError, match=r"unknown unit.*--unit"):
        read(only, fps=FPS)
    (recording,) = read(only, fps=FPS, unit="lab")
    assert (recording.unit, recording.dims) == ("lab", 3)
    both = person.openpose_folder(tmp_path / "b", [deep(n, 7.0, True, camparam={}) for n in range(5)])
    found = read(both, fps=FPS)
    right(found[0], 5)
    said(found, "pose_keypoints_3d are not read: their unit is unknown", "unused keys: camparam")


# MMPose, AlphaPose, arrays


def test_a_picture_a_file(tmp_path: Path) -> None:
    """MMPose's predictions of a folder of pictures: a list of instances each, nobody in some."""
    frames: list[Any] = [[mmpose(n, bbox=[[0, 0, 9, 9]], bbox_score=0.9)] for n in range(12)]
    folder = person.folder_of(tmp_path / "predictions", [[], *frames], name="img_{:04}.json")
    assert recognise(folder) == "wholebody"
    (found,) = read(folder, fps=FPS)
    assert found.slots.tolist() == list(range(1, 13))
    np.testing.assert_allclose(found.xyz[:, 4, :2], [pixels(n / FPS)[4] for n in range(12)], atol=1e-3)
    wrapped = person.folder_of(tmp_path / "b", [{"meta_info": {}, "instance_info": frame} for frame in frames])
    assert read(wrapped, fps=FPS)[0].frames == 12
    batched = person.folder_of(tmp_path / "c", [{"predictions": [frame]} for frame in frames])
    right(read(batched, fps=FPS)[0], 12)
    (folder / "img_0005.json").write_text(json.dumps([{"instances": frames[0]}, {"instances": frames[1]}]))
    with pytest.raises(FormatError, match=r"img_0005\.json: holds 2 frames"):
        read(folder, fps=FPS)


def test_keypoints_in_other_spellings(tmp_path: Path) -> None:
    """As MoveNet and PoseNet in a browser, and YOLO, write them: lists of people per frame."""
    points = [person.coco_17(pixels(n / FPS)).tolist() for n in range(12)]
    objects = [[{"keypoints": [{"x": x, "y": y, "score": 0.6} for x, y in each], "score": 0.9}] for each in points]
    posenet = [
        [{"keypoints": [{"part": "x", "score": 0.6, "position": {"x": x, "y": y}} for x, y in each]}] for each in points
    ]
    yolo = [
        [{"name": "person", "track_id": 3, "keypoints": {"x": x, "y": y, "visible": [0.6] * 17}}]
        for x, y in (np.transpose(each).tolist() for each in points)
    ]
    for value in (objects, posenet, yolo):
        (tmp_path / "a.json").write_text(json.dumps(value))
        assert recognise(tmp_path / "a.json") == "wholebody"
        (found,) = read(tmp_path / "a.json", fps=FPS)
        right(found, 12, hands=False, atol=7)
        assert found.confidence[0, 4] == pytest.approx(0.6)
        folder = person.folder_of(tmp_path / f"f{len(value[0][0])}", value)
        right(read(folder, fps=FPS)[0], 12, hands=False, atol=7)
    (tmp_path / "a.json").write_text(json.dumps([[each[0] | {"keypoints3D": []}] for each in objects]))
    said(read(tmp_path / "a.json", fps=FPS), "unused keys: keypoints3D")


@pytest.mark.parametrize("layout", [person.coco_17, person.halpe_26, person.halpe_136, person.wholebody_133])
def test_alphapose(tmp_path: Path, layout: Any) -> None:
    hands = layout in (person.halpe_136, person.wholebody_133)
    path = tmp_path / "alphapose-results.json"
    points = [person.with_scores(layout(pixels(n / FPS))) for n in range(3, 30)]
    rest = {"category_id": 1, "score": 2.9, "box": [1, 2, 3, 4]}
    people = [{"image_id": f"frame_{n}.jpg", "keypoints": points[n - 3], **rest} for n in range(3, 30)]
    path.write_text(json.dumps(people))
    assert recognise(path) == "alphapose"
    (found,) = read(path, fps=FPS)
    assert (found.frames, found.missing[:, HANDS].all()) == (27, not hands)
    np.testing.assert_allclose(found.xyz[:, 7, :2], [pixels(n / FPS)[7] for n in range(3, 30)], atol=1e-3)
    path.write_text(json.dumps([one | {"image_id": 3 * at} for at, one in enumerate(people)]))  # COCO's results
    assert read(path, fps=FPS)[0].slots.tolist() == list(range(0, 81, 3))


def test_alphapose_by_image(tmp_path: Path) -> None:
    bodies = [[{"joints": person.with_scores(person.body_25(pixels(n / FPS))[:18])}] for n in range(20)]
    frames = {f"{n}.jpg": {"version": "AlphaPose v0.3", "bodies": each} for n, each in enumerate(bodies)}
    path = tmp_path / "cmu.json"
    path.write_text(json.dumps(frames))
    assert recognise(path) == "alphapose"
    right(read(path, fps=FPS)[0], 20, hands=False)
    folder = person.folder_of(tmp_path / "sep-json", frames.values(), name="{:04}.json")
    assert recognise(folder) == "alphapose"
    right(read(folder, fps=FPS)[0], 20, hands=False)


def test_frames_of_many_workers_are_put_in_order(tmp_path: Path) -> None:
    """The number that tells images apart is the frame's, wherever it stands in the name."""
    order = np.random.default_rng(0).permutation(30).tolist()
    points = [person.with_scores(person.coco_17(pixels(n / FPS))) for n in range(30)]
    path = tmp_path / "alphapose-results.json"
    for name in ("clip_{}_1080p.jpg", "{}", "cam2.take3-{:04}.png", "{}_of_30.jpeg"):
        path.write_text(json.dumps([{"image_id": name.format(n), "keypoints": points[n]} for n in order]))
        (found,) = read(path, fps=FPS)
        right(found, 30, hands=False, atol=7)
        assert found.notes == ()
    path.write_text(json.dumps([{"image_id": f"{'abc'[n % 3]}_{n // 3}", "keypoints": points[n]} for n in range(30)]))
    found = read(path, fps=FPS)
    right(found[0], 30, hands=False, atol=7)
    said(found, "image names tell no frame numbers")


def coco_wholebody(n: int) -> dict[str, Any]:
    points = person.wholebody_133(pixels(n / FPS))
    cuts = {"keypoints": 17, "foot_kpts": 23, "face_kpts": 91, "lefthand_kpts": 112, "righthand_kpts": 133}
    starts = [0, *cuts.values()]
    return {key: person.with_scores(points[first:end]) for (key, end), first in zip(cuts.items(), starts, strict=False)}


def test_results_of_coco_wholebody_have_hands(tmp_path: Path) -> None:
    """Hands lie beside the body's keypoints there."""
    path = tmp_path / "results.json"
    people = [{"image_id": 500 + n, "category_id": 1, "score": 0.9, **coco_wholebody(n)} for n in range(20)]
    path.write_text(json.dumps(people))
    (found,) = read(path, fps=FPS)
    right(found, 20, atol=7)
    assert found.notes == ()
    path.write_text(json.dumps([one | {"pred_xyz_jts": [0.0]} for one in people]))
    said(read(path, fps=FPS), "unused keys: pred_xyz_jts")
    path.write_text(json.dumps([{key: one[key] for key in one if key != "face_kpts"} for one in people]))
    with pytest.raises(FormatError, match=r"person 0: keypoints, foot_kpts, .* expected, found"):
        read(path, fps=FPS)


@pytest.mark.parametrize("layout", [person.coco_17, person.halpe_136, None])
def test_annotations_of_data_sets(tmp_path: Path, layout: Any) -> None:
    """COCO's, Halpe's and COCO-WholeBody's: people beside the images that they are in, with visibility 0, 1 or 2."""
    images = [{"id": 900 - n, "file_name": f"v_{n:06}.jpg", "width": 1280, "height": 720} for n in range(30)]
    annotations = []
    for n in range(30):
        keypoints = coco_wholebody(n) if layout is None else {}
        if layout is not None:
            points = layout(pixels(n / FPS))
            keypoints = {"keypoints": np.c_[points, np.full(len(points), 2)].ravel().tolist()}
        if n != 7:
            annotations.append({"id": n, "image_id": 900 - n, "category_id": 1, "bbox": [0, 0, 9, 9], **keypoints})
    path = tmp_path / "train.json"
    for value in ({"images": images, "annotations": annotations}, {"annotations": annotations[::-1], "images": images}):
        path.write_text(json.dumps({"info": {}, "licenses": [], **value, "categories": []}))
        assert recognise(path) == "alphapose"
        (found,) = read(path, fps=FPS)
        assert found.slots.tolist() == [n for n in range(30) if n != 7]
        assert (found.image_size, found.notes) == (person.IMAGE, ())
        assert found.missing[:, HANDS].all() == (layout is person.coco_17)
        np.testing.assert_allclose(found.xyz[:, 7, :2], [pixels(n / FPS)[7] for n in found.slots], atol=1e-2)
    path.write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(FormatError, match=r"nobody is found"):
        read(path, fps=FPS)


def test_arrays_whose_third_number_is_a_score(tmp_path: Path) -> None:
    points = np.stack([np.c_[person.coco_17(pixels(n / FPS)), np.full(17, 0.6)] for n in range(20)])
    np.savez(tmp_path / "yolo.npz", keypoints=points)
    np.save(tmp_path / "yolo.npy", points)
    for name in ("yolo.npz", "yolo.npy"):
        (found,) = read(tmp_path / name, fps=FPS)
        right(found, 20, hands=False, atol=7)
        assert found.confidence[0, 4] == pytest.approx(0.6)


# Normalised coordinates


@pytest.mark.parametrize("scale", ["0..1", "-1..1"])
def test_fractions_of_the_image(tmp_path: Path, scale: str) -> None:
    """OpenPose's --keypoint_scale 3 and 4, and others."""
    size = np.array(person.IMAGE)
    fractions = [pixels(n / FPS) / size for n in range(20)]
    values = [2 * p - 1 for p in fractions] if scale == "-1..1" else fractions
    folder = person.openpose_folder(tmp_path / "op", ([person.openpose(p)] for p in values))
    (tmp_path / "mm.json").write_text(
        json.dumps(
            [
                {"instances": [{"keypoints": person.wholebody_133(p).tolist(), "keypoint_scores": [1.0] * 133}]}
                for p in values
            ]
        )
    )
    np.savez(tmp_path / "own.npz", xyz=np.pad(np.stack(values), ((0, 0), (0, 0), (0, 1))), unit="px", dims=2, fps=FPS)
    for source in (folder, tmp_path / "mm.json", tmp_path / "own.npz"):
        right(read(source, fps=FPS, image_size=person.IMAGE)[0], 20, atol=7)
        found = read(source, fps=FPS)
        said(found, f"within {scale}", "--image-size")
        assert np.abs(found[0].xyz).max() < 2


# MediaPipe


def holistic(n: int, visibility: float | None, **more: Any) -> dict[str, Any]:
    p = pixels(n / FPS)
    return {
        "pose_landmarks": person.landmarks(person.blazepose_33(p), visibility, **more),
        "left_hand_landmarks": person.landmarks(p[8:29], None),
        "right_hand_landmarks": person.landmarks(p[29:50], 0.0),
    }


def as_object(value: Any) -> Any:
    if isinstance(value, list):
        return [as_object(each) for each in value]
    return SimpleNamespace(**{k: as_object(v) for k, v in value.items()}) if isinstance(value, dict) else value


@pytest.mark.parametrize("visibility", [0.99, None, 0.0])
@pytest.mark.parametrize("nested", [False, True])
def test_results_without_visibility(visibility: float | None, nested: bool) -> None:
    results = [holistic(n, visibility) for n in range(20)]
    for result in results if nested else ():
        result["pose_landmarks"] = [result["pose_landmarks"]]
    found = from_holistic([as_object(result) for result in results], fps=FPS, image_size=person.IMAGE)
    right(found, 20, atol=7)
    assert found.confidence[0, 4] == pytest.approx(visibility or 1.0)
    assert bool(found.notes) == (not visibility)
    if not visibility:
        said([found], "no visibility")


def test_results_with_presence_only() -> None:
    found = from_holistic([as_object(holistic(0, None, presence=0.7))], fps=FPS, image_size=person.IMAGE)
    assert found.confidence[0, 4] == pytest.approx(0.7)


def test_nobody_in_any_result() -> None:
    nobody = SimpleNamespace(pose_landmarks=None, left_hand_landmarks=[], right_hand_landmarks=None)
    said([from_holistic([nobody] * 3, fps=FPS, image_size=person.IMAGE)], "nobody is found")


def camel(result: dict[str, Any]) -> dict[str, Any]:
    return {key.split("_")[0] + "".join(map(str.title, key.split("_")[1:])): value for key, value in result.items()}


RESULTS = {
    "a list": lambda frames: frames,
    "a list in camelCase, with times": lambda frames: [
        camel(f) | {"timestampMs": 40 * n} for n, f in enumerate(frames)
    ],
    "lists of people": lambda frames: [{key: [value] for key, value in f.items()} for f in frames],
    "an object of frames": lambda frames: {"fps": 25, "image_width": 1280, "image_height": 720, "frames": frames},
    "wrapped, with numbers": lambda frames: [{"frame": 100 + n, "result": f} for n, f in enumerate(frames)],
    "by frame number": lambda frames: {str(n): f for n, f in enumerate(frames)},
    "with a face before it": lambda frames: [{"face_landmarks": [{"x": 0.5, "y": 0.5}] * 900, **f} for f in frames],
    "optional numbers of Java": lambda frames: [
        {key: [each | {"visibility": {"value": 0.9}, "presence": {}} for each in f[key]] for key in f} for f in frames
    ],
    "several people, who have one hand list": lambda frames: [{key: [f[key], []] for key in f} for f in frames],
    "landmark inside": lambda frames: [{key: {"landmark": value} for key, value in f.items()} for f in frames],
}


@pytest.mark.parametrize("form", RESULTS.values(), ids=RESULTS.keys())
def test_json_of_results(tmp_path: Path, form: Any) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(form([holistic(n, 0.9) for n in range(20)])))
    assert recognise(path) == "mediapipe"
    (found,) = read(path, fps=FPS, image_size=person.IMAGE)
    right(found, 20, atol=7)
    assert (found.dims, found.axes, found.image_size) == (3, "RDA", person.IMAGE)


def test_hands_alone_are_named(tmp_path: Path) -> None:
    hand = person.landmarks(pixels(0.0)[8:29], 0.0)
    result = {"landmarks": [hand], "handedness": [[{"categoryName": "Left"}]]}
    (tmp_path / "hands.json").write_text(json.dumps([result]))
    with pytest.raises(FormatError, match="21 landmarks, those of a hand alone: a body is needed"):
        read(tmp_path / "hands.json", fps=FPS, image_size=person.IMAGE)


def test_times_and_rates_of_results(tmp_path: Path) -> None:
    """What is stated wrongly is measured from the times, whatever they are in, and said."""
    path = tmp_path / "x.json"
    size = {"width": person.IMAGE[0], "height": person.IMAGE[1]}
    bodies = [{"landmarks": [person.landmarks(person.blazepose_33(pixels(n / FPS)), 0.9)]} for n in range(20)]
    clocks: list[Any] = [lambda n: 1732860000.5 + n / FPS, lambda n: 4096.7 + 40 * n, lambda n: 10**18 + n * 40_000_000]
    clocks += [lambda n: f"2026-03-01T12:00:{n * 0.04:09.6f}Z"]
    for clock in clocks:
        path.write_text(json.dumps([body | {"timestamp": clock(n)} for n, body in enumerate(bodies)]))
        (found,) = read(path, image_size=person.IMAGE)
        assert (found.fps, found.time_ns is not None) == (pytest.approx(FPS, rel=1e-6), True)
        right(replace(found, fps=FPS), 20, hands=False, atol=7)
    for rate in (0, -1, 1000, 1e6):
        frames = [body | {"timestamp": clocks[3](n)} for n, body in enumerate(bodies)]
        path.write_text(json.dumps({"fps": rate, **size, "frames": frames}))
        found = read(path)
        assert found[0].fps == FPS
        said(found, f"{rate:g} frames per second are stated")
    path.write_text(json.dumps([body | {"timestamp": "noon"} for body in bodies]))
    with pytest.raises(FormatError, match=r"states neither times nor how many frames a second"):
        read(path, image_size=person.IMAGE)


def test_json_of_the_pose_landmarker(tmp_path: Path) -> None:
    """Body alone, of one person or two, with world landmarks; and one result a line, or a file."""
    path = tmp_path / "pose.json"
    one = [person.landmarks(person.blazepose_33(pixels(n / FPS)), 0.9) for n in range(20)]
    two = [person.landmarks(person.blazepose_33(pixels(n / FPS, x=1000)), 0.9) for n in range(20)]
    points = [person.blazepose_33(person.joints(n / FPS)).tolist() for n in range(20)]
    metres = [[{"x": x, "y": y, "z": -z, "visibility": 0.9} for x, y, z in each] for each in points]
    path.write_text(
        json.dumps([{"landmarks": [body], "worldLandmarks": [w]} for body, w in zip(one, metres, strict=True)])
    )
    right(read(path, fps=FPS, image_size=person.IMAGE)[0], 20, hands=False, atol=7)
    with pytest.raises(FormatError, match=r"--image-size"):
        read(path, fps=FPS)
    (found,) = read(path, fps=FPS, world=True)
    assert (found.unit, found.missing[:, HANDS].all()) == ("m", True)
    np.testing.assert_allclose(found.canonical()[:, 4], [person.joints(n / FPS)[4] for n in range(20)], atol=1e-4)
    pairs = [{"landmarks": [b, a] if n % 3 else [a, b]} for n, (a, b) in enumerate(zip(one, two, strict=True))]
    path.write_text(json.dumps(pairs))
    assert [recording.frames for recording in read(path, fps=FPS, image_size=person.IMAGE)] == [20, 20]
    lines = [json.dumps({"pose_landmarks": body, "timestamp": n / FPS}) for n, body in enumerate(one)]
    path.write_text("\n".join(lines))
    right(read(path, image_size=person.IMAGE)[0], 20, hands=False, atol=7)
    folder = person.folder_of(tmp_path / "frames", ({"poseLandmarks": body} for body in one), name="f{:03}.json")
    assert recognise(folder) == "mediapipe"
    right(read(folder, fps=FPS, image_size=person.IMAGE)[0], 20, hands=False, atol=7)
    path.write_text(json.dumps(one[0]))  # bare landmarks
    assert read(path, fps=FPS, image_size=person.IMAGE)[0].frames == 1


@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_arrays_of_landmarks(tmp_path: Path, width: int) -> None:
    """Pose alone, or with hands; in pixels, or as fractions; with visibility and presence, or without."""
    p = np.stack([pixels(n / FPS) for n in range(20)])
    parts = {"pose_landmarks": np.stack([person.blazepose_33(each) for each in p])}
    parts |= {"left_hand_landmarks": p[:, 8:29], "right_hand_landmarks": p[:, 29:50]}
    arrays = {}
    for key, points in parts.items():
        arrays[key] = np.ones((*points.shape[:2], width)) * 0.9
        deep = np.pad(points / person.IMAGE, ((0, 0), (0, 0), (0, 1)))
        arrays[key][..., : min(width, 3)] = deep[..., : min(width, 3)]
    np.savez(tmp_path / "all.npz", **arrays, fps=FPS)
    right(read(tmp_path / "all.npz", image_size=person.IMAGE)[0], 20, atol=7)
    said(read(tmp_path / "all.npz"), "--image-size")
    np.savez(tmp_path / "body.npz", pose=arrays["pose_landmarks"], fps=FPS)
    right(read(tmp_path / "body.npz", image_size=person.IMAGE)[0], 20, hands=False, atol=7)
    np.save(tmp_path / "body.npy", arrays["pose_landmarks"])
    right(read(tmp_path / "body.npy", image_size=person.IMAGE, fps=FPS)[0], 20, hands=False, atol=7)
    for name, order in (("prl", (0, 2, 1)), ("plr", (0, 1, 2))):
        np.save(tmp_path / f"{name}.npy", np.concatenate([list(arrays.values())[k] for k in order], axis=1))
        right(read(tmp_path / f"{name}.npy", image_size=person.IMAGE, fps=FPS)[0], 20, atol=7)


def test_arrays_without_visibility_or_with_empty_hands(tmp_path: Path) -> None:
    p = np.stack([pixels(n / FPS) for n in range(6)])
    pose = np.zeros((6, 33, 4))
    pose[..., :2] = [person.blazepose_33(each) for each in p]
    hand = np.zeros((6, 21, 4))
    hand[..., :2], hand[..., 3] = p[:, 8:29], 1
    hand[2:4, :, :3] = 0
    empty = np.zeros_like(hand)
    empty[..., 3] = 1
    np.savez(tmp_path / "a.npz", pose=pose, left_hand=hand, right_hand=empty, fps=FPS)
    found = read(tmp_path / "a.npz")
    said(found, "no visibility", "hands with every landmark at exactly 0")
    assert found[0].missing[:, :8].sum() == 0
    assert found[0].missing[:, 8].tolist() == [False, False, True, True, False, False]
    assert found[0].missing[:, 29:].all()


# Doubts that any file may raise


def test_confidences_that_are_all_zero(tmp_path: Path) -> None:
    zero = [[person.openpose(pixels(n / FPS), score=0.0)] for n in range(9)]
    scores = {"keypoint_scores": [0.0] * 133}
    (tmp_path / "mm.json").write_text(json.dumps([{"instances": [mmpose(n) | scores]} for n in range(9)]))
    np.savez(
        tmp_path / "own.npz", xyz=np.stack([person.joints(n / FPS) for n in range(9)]), confidence=np.zeros((9, 50))
    )
    for source in (person.openpose_folder(tmp_path / "op", zero), tmp_path / "mm.json", tmp_path / "own.npz"):
        found = read(source, fps=FPS)
        said(found, "every confidence is 0")
        assert found[0].missing[:, 2:].sum() == 0
        with pytest.raises(FormatError, match="every confidence is 0"):
            read(source, fps=FPS, strict=True)


def test_whole_hands_at_zero_and_nothing_at_all(tmp_path: Path) -> None:
    xyz = np.stack([person.joints(n / FPS) for n in range(9)])
    xyz[3:5, 8:29] = 0
    np.savez(tmp_path / "own.npz", xyz=xyz)
    found = read(tmp_path / "own.npz")
    said(found, "whole hands at exactly 0")
    assert np.flatnonzero(found[0].missing[:, 8]).tolist() == [3, 4]
    np.savez(tmp_path / "none.npz", xyz=np.full((4, 50, 3), np.nan))
    said(read(tmp_path / "none.npz"), "no joint is there")
    hands = {"hand_left_keypoints_2d": person.with_scores(np.zeros((21, 2)))}
    folder = person.openpose_folder(tmp_path / "op", [[person.openpose(pixels(n / FPS)) | hands] for n in range(4)])
    said(read(folder, fps=FPS), "whole hands at exactly 0")


def test_hidden_files_marks_and_half_files(tmp_path: Path) -> None:
    folder = person.openpose_folder(tmp_path / "op", ([person.openpose(pixels(n / FPS))] for n in range(12)))
    for file in list(folder.glob("clip*")):
        (folder / f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        \xb0")
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    found = read(folder, fps=FPS)
    right(found[0], 12)
    said(found, "hidden files skipped: 12", "byte order mark")
    last = sorted(folder.glob("clip*"))[-1]
    whole = last.read_bytes()
    for size in (0, 3, 20, 300, len(whole) - 1):
        last.write_bytes(whole[:size])
        found = read(folder, fps=FPS)
        right(found[0], 11)
        said(found, f"unfinished last file skipped: {last.name}")
    with pytest.raises(FormatError, match="hidden files"):
        read(folder, fps=FPS, strict=True)
    for other in ("meta.json", "clip_000000000003_keypoints (1).json"):
        (folder / other).write_bytes(whole)
    said(read(folder, fps=FPS), "files not called ..._keypoints.json skipped: 2 (clip_000000000003_keypoints (1).json")
    middle = sorted(folder.glob("clip*"))[5]
    middle.write_bytes(whole[:50])
    with pytest.raises(FormatError, match=f"{middle.name}: not JSON, or truncated"):
        read(folder, fps=FPS)


def test_unfinished_last_lines(tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl"):
        path = tmp_path / f"x.{suffix}"
        write(path, one(6))
        whole = path.read_text().rstrip()
        last = whole.rfind("\n") + 1
        for cut in (last + 5, last + 100):
            path.write_text(whole[:cut])
            found = read(path)
            assert found[0].frames == 5
            said(found, "unfinished last line skipped")
        path.write_text(whole[: last + 100] + "\n" + whole[last:])
        with pytest.raises(FormatError, match=r"line [67]"):
            read(path)


def test_utf_16(tmp_path: Path) -> None:
    """As PowerShell redirects what a program prints."""
    write(tmp_path / "x.csv", one())
    (tmp_path / "y.json").write_text(json.dumps([{"instances": [mmpose(n)]} for n in range(4)]))
    for name in ("x.csv", "y.json"):
        plain = read(tmp_path / name, fps=FPS)[0]
        (tmp_path / name).write_bytes((tmp_path / name).read_text().encode("utf-16"))
        np.testing.assert_array_equal(read(tmp_path / name, fps=FPS)[0].xyz, plain.xyz)


def test_a_byte_order_mark_anywhere(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", one())
    write(tmp_path / "x.jsonl", one())
    write(tmp_path / "x.skels", one())
    write(tmp_path / "x.trc", one())
    (tmp_path / "x.json").write_text(json.dumps([{"instances": [mmpose(n)]} for n in range(4)]))
    for name in ("x.csv", "x.jsonl", "x.json", "x.trc", "x.skels"):
        data = (tmp_path / name).read_bytes()
        plain = read(tmp_path / name, fps=FPS)[0]
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + data)
        found = read(tmp_path / name, fps=FPS)
        np.testing.assert_array_equal(found[0].xyz, plain.xyz)
        said(found, "byte order mark")


def test_unused_keys_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", xyz=np.stack([person.joints(0)]), betas=np.zeros(10), gender="f")
    said(read(tmp_path / "a.npz"), "unused arrays: betas, gender")
    row = {"xyz": person.joints(0).tolist(), "unit": "m", "fps": 25, "label": "HELLO"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    said(read(tmp_path / "a.jsonl"), "unused keys: label")
    (tmp_path / "a.csv").write_text("nose_x,nose_y,gloss\n1,2,HELLO\n")
    said(read(tmp_path / "a.csv", fps=FPS, unit="px"), "unused columns: gloss")
    found = read(person.openpose_folder(tmp_path / "a", [[person.openpose(pixels(0), tag="x")]]), fps=FPS)
    said(found, "unused keys: tag")
    (tmp_path / "a.json").write_text(json.dumps([{"instances": [mmpose(0, area=3)]}]))
    said(read(tmp_path / "a.json", fps=FPS), "unused keys: area")


def test_who_and_which_camera_are_kept(tmp_path: Path) -> None:
    originals = [one(name="take", person=who, view=view) for who in ("anna", "ben") for view in ("left", "right")]
    for suffix in ("npz", "csv", "jsonl"):
        write(tmp_path / f"x.{suffix}", originals)
        again = read(tmp_path / f"x.{suffix}")
        assert [(each.name, each.person, each.view) for each in again] == [
            ("take", r.person, r.view) for r in originals
        ]


def test_who_and_which_camera_as_numbers(tmp_path: Path) -> None:
    xyz = np.concatenate([one(3).xyz, one(3).xyz])
    np.savez(tmp_path / "a.npz", xyz=xyz, person=np.array([4, 4, 4, 9, 9, 9]), view=2)
    assert [(r.name, r.person, r.view, r.frames) for r in read(tmp_path / "a.npz")] == [
        ("a", "4", "2", 3),
        ("a", "9", "2", 3),
    ]


# Rates and times


def one(frames: int = 12, **fields: Any) -> Recording:
    fields = {"fps": FPS, "name": "x"} | fields
    return Recording(np.stack([person.joints(n / FPS) for n in range(frames)]), **fields)


def browser_times(frames: int = 41) -> np.ndarray:
    """Times in ns as a browser's recorder gives them: irregular, with one pause."""
    random = np.random.default_rng(0)
    steps = [600 if n == 20 else int(random.choice([33, 34, 40, 27, 50])) for n in range(frames - 1)]
    return np.concatenate([[0], np.cumsum(steps)]) * 1_000_000


@pytest.mark.parametrize("suffix", ["npz", "csv", "jsonl"])
@pytest.mark.parametrize("stated", [1000.0, 0.5, 29.0, 60.0])
def test_times_win_over_a_stated_rate(tmp_path: Path, suffix: str, stated: float) -> None:
    times = np.rint(np.arange(90) * (1e9 / 29.97)).astype(np.int64) + 5_000_000_000
    write(tmp_path / f"x.{suffix}", one(90, fps=stated, time_ns=times))
    for options in ({}, {"fps": stated}):
        found = read(tmp_path / f"x.{suffix}", **options)
        assert found[0].fps == pytest.approx(29.97, rel=1e-3)
        np.testing.assert_array_equal(found[0].time_ns, times)
        said(found, f"{stated:g} frames per second are stated")
    with pytest.raises(FormatError, match="are stated"):
        read(tmp_path / f"x.{suffix}", strict=True)


@pytest.mark.parametrize("stated", [0.0, -1.0, float("nan"), float("inf"), 90_000.0])
def test_a_rate_that_cannot_be(tmp_path: Path, stated: float) -> None:
    """Times tell it, or the caller; otherwise it is named."""
    times = np.arange(9) * 40_000_000
    np.savez(tmp_path / "x.npz", xyz=one(9).xyz, fps=stated, time_ns=times)
    found = read(tmp_path / "x.npz")
    assert found[0].fps == 25
    said(found, "which cannot be")
    points = np.stack([person.wholebody_133(pixels(n / FPS)) for n in range(9)])
    np.savez(tmp_path / "x.npz", xyz=one(9).xyz, fps=stated)
    np.savez(tmp_path / "y.npz", keypoints=points, scores=np.ones((9, 133)), fps=stated)
    np.savez(tmp_path / "z.npz", pose=np.ones((9, 33, 4)), fps=stated)
    for name in ("x.npz", "y.npz", "z.npz"):
        assert read(tmp_path / name, fps=25)[0].fps == 25
        with pytest.raises(FormatError, match="fps"):
            read(tmp_path / name)


def test_a_rate_that_is_nearly_right_is_left_alone(tmp_path: Path) -> None:
    times = np.rint(np.arange(90) * (1e9 / 29.97)).astype(np.int64)
    write(tmp_path / "x.npz", one(90, fps=30.0, time_ns=times))
    (found,) = read(tmp_path / "x.npz", strict=True)
    assert found.fps == 30


@pytest.mark.parametrize("stated", [1000.0, 15.0, 240.0])
def test_pauses_and_jitter(tmp_path: Path, stated: float) -> None:
    times = browser_times()
    write(tmp_path / "x.npz", one(41, fps=stated, time_ns=times))
    (found,) = read(tmp_path / "x.npz")
    assert 25 < found.fps < 31
    assert (found.slots[-1] - found.slots[0]) / found.fps == pytest.approx(times[-1] / 1e9, rel=0.01)
    assert np.flatnonzero(np.diff(found.slots) != 1).tolist() == [20], "the pause, and nothing else, is a hole"
    np.testing.assert_array_equal(found.time_ns, times)
    write(tmp_path / "y.jsonl", found)
    (again,) = read(tmp_path / "y.jsonl", strict=True)
    np.testing.assert_array_equal(again.slots, found.slots)


def test_webcam_jitter_invents_and_drops_nothing(tmp_path: Path) -> None:
    """29.97 Hz stated as 15 with 5 ms of jitter: no frame number is skipped, and dropped frames are found."""
    random = np.random.default_rng(3)
    kept = np.sort(random.choice(400, 370, replace=False))
    kept -= kept[0]
    times = np.rint(kept * (1e9 / 29.97) + random.normal(0, 5e6, len(kept))).astype(np.int64)
    write(tmp_path / "x.npz", one(len(kept), fps=15.0, time_ns=times))
    (found,) = read(tmp_path / "x.npz")
    assert found.fps == pytest.approx(29.97, rel=0.01)
    assert np.abs(found.slots - kept).max() <= 2
    assert (np.diff(found.slots) == np.diff(kept)).mean() > 0.97
    write(tmp_path / "y.npz", one(len(kept), fps=15.0, time_ns=times, slot=kept))  # numbered: then the numbers hold
    (found,) = read(tmp_path / "y.npz")
    np.testing.assert_array_equal(found.slots, kept)


@pytest.mark.parametrize(("unit", "scale"), [("milliseconds", 1e-6), ("microseconds", 1e-3)])
def test_times_in_another_unit(tmp_path: Path, unit: str, scale: float) -> None:
    times = np.rint(np.arange(300) * (1e9 / 25) * scale).astype(np.int64)
    np.savez(tmp_path / "x.npz", xyz=one(300).xyz, time_ns=times, fps=25.0)
    np.savez(tmp_path / "y.npz", xyz=one(300).xyz, time_ns=times)
    for name in ("x.npz", "y.npz"):
        found = read(tmp_path / name)
        assert (found[0].fps, found[0].time_ns[1]) == (25, 40_000_000)
        said(found, unit)


def test_times_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    for times, words in (
        ([5, 6, 7, 8], "frames per second: left out"),
        ([0, 0, 0, 0], "do not ascend"),
        ([9, 4, 7, 1], "do not ascend"),
    ):
        np.savez(tmp_path / "x.npz", xyz=one(4).xyz, time_ns=np.array(times), fps=25.0)
        found = read(tmp_path / "x.npz")
        assert (found[0].fps, found[0].time_ns) == (25, None)
        said(found, words)


def test_text_with_times_needs_no_rate(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("time_ns,nose_x,nose_y\n" + "".join(f"{40_000_000 * n},1,2\n" for n in range(9)))
    assert read(tmp_path / "x.csv", unit="px")[0].fps == 25
    (tmp_path / "y.csv").write_text("time_ns,nose_x,nose_y\n7,1,2\n")
    with pytest.raises(FormatError, match="--fps"):
        read(tmp_path / "y.csv", unit="px")


# .trc, .c3d, .npy and freemocap


def posed(frames: int = 30, **fields: Any) -> Recording:
    """A recording with dropped frames, missing joints, and the neck between the shoulders."""
    kept = np.delete(np.arange(frames), [4, 5, 11])
    xyz = np.stack([person.joints(n / FPS) for n in kept]).astype(np.float32)
    xyz[:, NECK] = xyz[:, [2, 5]].mean(axis=1)
    confidence = np.ones(xyz.shape[:2], np.float32)
    confidence[3, 8:29] = confidence[7:9, 4] = 0
    return Recording(xyz, FPS, "x", confidence=confidence, slot=kept, **fields)


@pytest.mark.parametrize("name", ["x.trc", "x.c3d", "x.npy", "x_body_3d_xyz.csv", "x_body_3d_xyz.npy"])
@pytest.mark.parametrize("axes", ["RDT", "RUA"])
def test_what_is_written_for_others_is_read_again(tmp_path: Path, name: str, axes: str) -> None:
    if name.endswith("c3d"):
        pytest.importorskip("ezc3d")
    path = tmp_path / ("3d_" + name)
    original = posed()
    write(path, Recording(from_canonical(original.xyz, axes) * 100, FPS, "x", confidence=original.confidence,
                          slot=original.slot, unit="cm", axes=axes))  # fmt: skip
    (found,) = read(path, fps=FPS) if "trc" not in name and "c3d" not in name else read(path)
    assert (found.fps, found.dims, found.unit) == (FPS, 3, "mm" if "np" in name or "csv" in name else "m")
    np.testing.assert_array_equal(found.slots, original.slots)
    np.testing.assert_array_equal(found.missing, original.missing)
    metres = found.canonical() * found.mm_per_unit() / 1000
    np.testing.assert_allclose(metres, np.where(original.missing[..., None], 0, original.xyz), atol=1e-5)
    assert not any("head" in note for note in found.notes)


def test_several_recordings_into_files_for_others(tmp_path: Path) -> None:
    pair = [one(name="ann"), one(name="ben")]
    for name, wanted in (
        ("out.trc", ["out.ann.trc", "out.ben.trc"]),
        ("out_body_3d_xyz.csv", ["ann.out_body_3d_xyz.csv", "ben.out_body_3d_xyz.csv"]),
    ):
        files = write_apart(tmp_path / name, pair)
        assert [file.name for file in files] == wanted
        assert all(recognise(file) in ("trc", "freemocap") for file in files)
        with pytest.raises(FormatError, match="holds one recording"):
            write(tmp_path / name, pair)
    flat = Recording(one().xyz * np.float32([1, 1, 0]), FPS, "flat", dims=2)
    with pytest.raises(FormatError, match="'flat' is 2D"):
        write(tmp_path / "out.trc", flat)


@pytest.mark.parametrize("suffix", ["trc", "c3d"])
def test_a_neck_at_the_origin_is_there(tmp_path: Path, suffix: str) -> None:
    if suffix == "c3d":
        pytest.importorskip("ezc3d")
    original = one(5)
    assert not original.xyz[:, NECK].any()
    write(tmp_path / f"x.{suffix}", original)
    assert not read(tmp_path / f"x.{suffix}")[0].missing.any()


def test_trc_keeps_times(tmp_path: Path) -> None:
    original = posed()
    times = 1_700_000_000_123_456_789 + original.slots * 40_000_000
    write(tmp_path / "x.trc", posed(time_ns=times))
    np.testing.assert_array_equal(read(tmp_path / "x.trc", strict=True)[0].time_ns, times)


@pytest.mark.parametrize(
    ("stated", "unit", "axes"), [("px", "px", "RDT"), ("m", "px", "RDT"), ("m", "m", "RUT")], ids=["px", "m?", "m"]
)
@pytest.mark.parametrize("depth", [0.0, 0.07])
def test_trc_of_one_camera(tmp_path: Path, stated: str, unit: str, axes: str, depth: float) -> None:
    """Sports2D: z is 0, or a constant of each point; pixels are called metres, too."""
    joints = {"Neck": 1, "Nose": 0, "RShoulder": 2, "RElbow": 3, "RWrist": 4, "LShoulder": 5, "LElbow": 6, "LWrist": 7}
    rows = []
    for n in range(30):
        p = pixels(n / FPS) if unit == "px" else person.joints(n / FPS)[:, :2] * (1, -1) + (0, 1.2)
        cells = [f"{value:.6f}" for k, j in enumerate(joints.values()) for value in (*p[j], depth * k)]
        rows.append("\t".join([str(n), f"{n / FPS:.6f}", *cells]))
    header = [
        "PathFileType\t4\t(X/Y/Z)\tdemo_Sports2D_px_person00.trc",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"25\t25\t30\t{len(joints)}\t{stated}\t25\t0\t30",
        "Frame#\tTime\t" + "\t\t\t".join(joints) + "\t\t\t",
        "\t\t" + "\t".join(f"X{k}\tY{k}\tZ{k}" for k in range(1, len(joints) + 1)),
    ]
    path = tmp_path / "x.trc"
    path.write_text("\n".join([*header, *rows]) + "\n")
    found = read(path)
    said(found, "z never changes: read as 2D", *(["taken as pixels"] if (stated, unit) == ("m", "px") else []))
    assert (found[0].dims, found[0].unit, found[0].axes) == (2, unit, axes)
    assert (found[0].canonical()[:, 0, 1] < found[0].canonical()[:, 1, 1]).all(), "the head is above the neck"
    if unit == "px":
        right(found[0], 30, hands=False)


def test_trc_of_pose2sim(tmp_path: Path) -> None:
    """Halpe's points by name, y up, times to a millisecond, a rate that is wrong, empty cells."""
    names = ["Hip", "RHip", "Neck", "Head", "Nose", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist"]
    joint = {"Neck": 1, "Nose": 0, "RShoulder": 2, "RElbow": 3, "RWrist": 4, "LShoulder": 5, "LElbow": 6, "LWrist": 7}
    lines = [
        "PathFileType\t4\t(X/Y/Z)\tdemo.trc",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"60\t60\t40\t{len(names)}\tmm\t60\t0\t40",
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t\t",
        "\t\t" + "\t".join(f"X{k}\tY{k}\tZ{k}" for k in range(1, len(names) + 1)) + "\t",
        "",
    ]
    for n in range(40):
        xyz = from_canonical(person.joints(n / FPS).astype(np.float32), "TUL") * 1000 + 2000
        cells = [f"{v:.3f}" for name in names for v in (xyz[joint[name]] if name in joint else (9, 9, 9))]
        cells[7 * 3 : 8 * 3] = ["", "", ""] if n == 3 else cells[7 * 3 : 8 * 3]
        lines.append(f"{n}\t{n / FPS:.3f}\t" + "\t".join(cells))
    (tmp_path / "x.trc").write_text("\n".join(lines) + "\n")
    found = read(tmp_path / "x.trc")
    assert (found[0].fps, found[0].unit, found[0].axes) == (25, "mm", "TUL")
    said(found, "60 frames per second are stated")
    assert np.argwhere(found[0].missing[:, : len(BODY)]).tolist() == [[3, 4]]
    moved = found[0].canonical()[0, :8] - found[0].canonical()[0, NECK]
    np.testing.assert_allclose(moved, person.joints(0)[:8] * 1000, atol=0.01)
    (tmp_path / "x.trc").write_text("\n".join(lines).replace("Shoulder", "Sholder").replace("Neck", "Nick"))
    with pytest.raises(FormatError, match=r"no point is a shoulder or neck \(found: Head, Hip"):
        read(tmp_path / "x.trc")
    (tmp_path / "x.trc").write_text("\n".join([*lines[:8], lines[8].replace("0.080", "0.08x")]))
    with pytest.raises(FormatError, match=r"x\.trc, line 9: Time is '0.08x'"):
        read(tmp_path / "x.trc")


def test_axes_that_cannot_be_are_doubted(tmp_path: Path) -> None:
    """A file whose z is up although the format's is y, and one whose depth is reversed."""
    path = tmp_path / "x.trc"
    for axes, words in (("TLU", "the head is not above the neck"), ("AUL", "lie behind the shoulders"), ("TUL", "")):
        write(path, Recording(from_canonical(posed().xyz, axes) + 1, FPS, "x", axes="TUL"))
        notes = read(path)[0].notes
        assert [words in note and "--axes" in note for note in notes] == ([True] if words else [])
        assert read(path, axes=axes)[0].notes == ()


@pytest.mark.parametrize("nanoseconds", [False, True])
def test_freemocaps_own_times(tmp_path: Path, nanoseconds: bool) -> None:
    """`..._by_trajectory.csv` has everybody's points in one file, and the time of each frame."""
    points = {"body_nose": 0, "body_left_shoulder": 5, "body_right_shoulder": 2, "body_left_wrist": 7}
    points |= {"right_hand_wrist": 29, "right_hand_thumb_cmc": 30, "right_hand_middle_finger_mcp": 38}
    header = ["timestamp", "timestamp_by_camera", *(f"{name}_{axis}" for name in points for axis in "xyz")]
    lines = [",".join(header)]
    for n in range(20):
        j = from_canonical(person.joints(n / FPS), "RAU") * 1000
        time = 5_000_000_000 + 40_000_000 * n if nanoseconds else f"{5 + n / FPS:.6f}"
        lines.append(f"{time},\"{{'a': 1, 'b': 2}}\"," + ",".join(f"{v:.3f}" for k in points.values() for v in j[k]))
    path = tmp_path / "session_by_trajectory.csv"
    path.write_text("\n".join(lines) + "\n")
    assert recognise(path) == "freemocap"
    (found,) = read(path)
    assert found.time_ns is not None
    assert (found.fps, found.unit, found.time_ns[[0, -1]].tolist()) == (FPS, "mm", [5_000_000_000, 5_760_000_000])
    np.testing.assert_allclose(
        found.canonical()[:, 30] / 1000, [person.joints(n / FPS)[30] for n in range(20)], atol=1e-3
    )
    said(read(path, fps=60), "60 frames per second are stated, its times say 25")
    path.write_text("\n".join([lines[0], *(line.replace(line.partition(",")[0], "", 1) for line in lines[1:])]) + "\n")
    with pytest.raises(FormatError, match="--fps"):
        read(path)


def test_freemocap(tmp_path: Path) -> None:
    """Its own files: body and hands apart, in mm, z up, with NaN."""
    xyz = from_canonical(np.stack([person.joints(n / FPS) for n in range(20)]).astype(np.float32), "RAU") * 1000
    body = np.stack([person.blazepose_33(each) for each in xyz])
    body[3, 15] = np.nan
    names = "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear"
    names += " mouth_left mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist"
    header = ",".join(f"{name}_{axis}" for name in names.split() for axis in "xyz")
    rows = [",".join("" if v != v else f"{v:.6f}" for v in frame[:17].ravel()) for frame in body]
    (tmp_path / "mediapipe_body_3d_xyz.csv").write_text("\n".join([header, *rows]) + "\n")
    (found,) = read(tmp_path / "mediapipe_body_3d_xyz.csv", fps=FPS)
    assert (found.unit, found.axes, found.missing[:, HANDS].all()) == ("mm", "RAU", True)
    assert np.argwhere(found.missing[:, :8]).tolist() == [[3, 7]]
    np.testing.assert_allclose(found.canonical()[0, 4] / 1000, person.joints(0)[4], atol=1e-4)
    np.save(tmp_path / "mediapipe_body_3d_xyz.npy", body)
    np.save(tmp_path / "mediapipe_right_hand_3d_xyz.npy", xyz[:, 29:])
    np.save(tmp_path / "mediapipe_left_hand_3d_xyz.npy", xyz[:, 8:29])
    (found,) = read(tmp_path / "mediapipe_body_3d_xyz.npy", fps=FPS)
    np.testing.assert_allclose(found.canonical()[0, 8:] / 1000, person.joints(0)[8:], atol=1e-4)
    face = np.zeros((20, 478, 3))
    whole = np.concatenate([body, xyz[:, 29:], xyz[:, 8:29], face], axis=1)
    np.save(tmp_path / "mediaPipeSkel_3d_body_hands_face.npy", whole)
    (found,) = read(tmp_path / "mediaPipeSkel_3d_body_hands_face.npy", fps=FPS)
    np.testing.assert_allclose(found.canonical()[0, 8:] / 1000, person.joints(0)[8:], atol=1e-4)


def test_npy_of_joints(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", posed().xyz)
    with pytest.raises(FormatError, match="--unit"):
        read(tmp_path / "x.npy")
    (found,) = read(tmp_path / "x.npy", unit="m", fps=FPS)
    np.testing.assert_array_equal(found.xyz, posed().xyz)
    np.save(tmp_path / "x.npy", np.zeros((4, 51, 3)))
    with pytest.raises(FormatError, match="51 points; known: 17"):
        read(tmp_path / "x.npy", unit="m", fps=FPS)
    assert UPPER_BODY_50.joints == 50
