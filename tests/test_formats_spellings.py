"""The same person as other programs, other versions and other countries write him down: read rightly, or refused."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.formats import Recording, from_holistic, read, recognise, write
from rtskel.formats.jointmap import mediapipe_map
from rtskel.skeleton import BODY, from_canonical
from tests import person
from tests.person import pixels
from tests.test_formats_cases import FPS, as_object, mmpose, one, right, said

N = 20


def dump(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


# Ids


@pytest.mark.parametrize("who", ["person_1", "a1b2-c3", "Anna Müller", ["left"]])
def test_ids_that_are_texts(tmp_path: Path, who: Any) -> None:
    """Two people change places in the list, and their ids tell who is who."""
    names = [who, "somebody else"]
    frames = []
    for n in range(N):
        two = [person.openpose(pixels(n / FPS, x=x), person_id=name) for x, name in zip((300, 900), names, strict=True)]
        frames.append(two[:: -1 if n % 3 else 1])
    found = read(person.openpose_folder(tmp_path / "op", frames), fps=FPS)
    wanted = who[0] if isinstance(who, list) else who
    assert {(r.person, round(float(r.xyz[0, 1, 0]))) for r in found} == {(wanted, 300), ("somebody else", 900)}
    (only,) = read(dump(tmp_path / "a.json", [{"instances": [mmpose(n, track_id=who)]} for n in range(N)]), fps=FPS)
    assert only.person == wanted
    right(only, N)


@pytest.mark.parametrize("nobody", ["", "-1", " ", "None", "null", ["-1"], [], None])
def test_ids_that_say_that_there_is_none(tmp_path: Path, nobody: Any) -> None:
    folder = person.openpose_folder(
        tmp_path / "op", ([person.openpose(pixels(n / FPS), person_id=nobody)] for n in range(N))
    )
    (found,) = read(folder, fps=FPS, strict=True)
    assert found.person is None
    right(found, N)


def test_ids_that_are_texts_and_new_in_every_frame(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.json", [{"instances": [mmpose(n, track_id=f"id-{n}")]} for n in range(N)])
    found = read(path, fps=FPS)
    right(found[0], N)
    said(found, "track ids do not last (20 ids for 1 person)")
    points = np.stack([person.wholebody_133(pixels(n / FPS)) for n in range(N)])[:, None]
    np.savez(tmp_path / "a.npz", keypoints=points, scores=np.ones((N, 1, 133)), track_id=np.full((N, 1), "x7"))
    assert [r.person for r in read(tmp_path / "a.npz", fps=FPS)] == ["x7"]


@pytest.mark.parametrize("exchanges", [(20,), (15, 30)])
def test_ids_that_are_exchanged_now_and_then(tmp_path: Path, exchanges: tuple[int, ...]) -> None:
    """As trackers do when people meet or turn: nobody jumps to where the other one stands."""
    frames, ids = [], [3, 8]
    for n in range(45):
        ids = ids[::-1] if n in exchanges else ids
        two = [person.openpose(pixels(n / FPS, x=x), person_id=[k]) for x, k in zip((300, 900), ids, strict=True)]
        frames.append(two)
    found = read(person.openpose_folder(tmp_path / "a", frames), fps=FPS)
    assert [(r.frames, r.person) for r in found] == [(45, None), (45, None)]
    assert all(np.ptp(r.xyz[:, 1, 0]) < 1 for r in found)
    said(found, "track ids do not last (2 ids for 2 people)")


def test_one_id_for_everybody_is_nobodys(tmp_path: Path) -> None:
    frames = [[person.openpose(pixels(n / FPS, x=x), person_id=[3]) for x in (300, 900)] for n in range(N)]
    found = read(person.openpose_folder(tmp_path / "a", frames), fps=FPS)
    assert [(r.frames, r.person) for r in found] == [(N, None), (N, None)]


def test_an_object_of_people_by_name(tmp_path: Path) -> None:
    """Their own ids say nothing (-1): the keys tell who is who."""
    people = [
        {"anna": person.openpose(pixels(n / FPS, x=300)), "ben": person.openpose(pixels(n / FPS, x=900))}
        for n in range(N)
    ]
    found = read(person.openpose_folder(tmp_path / "a", people), fps=FPS)
    assert [(r.person, r.frames) for r in found] == [("anna", N), ("ben", N)]


def test_one_person_of_whom_other_points_are_marked_in_every_image(tmp_path: Path) -> None:
    """Annotations mark what an annotator sees: visibility 0, 1 or 2 of COCO, here of few points."""
    random = np.random.default_rng(0)
    images = [{"id": n, "file_name": f"{n:06}.jpg", "width": 1280, "height": 720} for n in range(40)]
    annotations = []
    for n in range(40):
        points = np.c_[person.coco_17(pixels(n / FPS)), random.choice([0, 1, 2], 17)]
        annotations.append({"id": n, "image_id": n, "keypoints": points.ravel().tolist()})
    (found,) = read(dump(tmp_path / "a.json", {"images": images, "annotations": annotations}), fps=FPS)
    assert 35 <= found.frames <= 40
    for joint in (3, 4, 6, 7):
        seen = ~found.missing[:, joint]
        wanted = np.stack([pixels(n / FPS)[joint] for n in found.slots[seen]])
        np.testing.assert_allclose(found.xyz[seen, joint, :2], wanted, atol=0.1)


# Nobody, and points that are not there


def test_people_without_keypoints_are_nobody(tmp_path: Path) -> None:
    for nothing in (None, []):
        lost = {"keypoints": nothing, "keypoint_scores": nothing}
        frames = [{"instances": [lost, mmpose(n)] if n % 3 else [lost]} for n in range(N)]
        (found,) = read(dump(tmp_path / "a.json", frames), fps=FPS)
        assert found.slots.tolist() == [n - 1 for n in range(N) if n % 3] or found.frames == 13
        coco = [
            {"image_id": f"{n}.jpg", "keypoints": person.with_scores(person.coco_17(pixels(n / FPS)))} for n in range(N)
        ]
        coco[3]["keypoints"] = coco[4]["keypoints"] = nothing
        (found,) = read(dump(tmp_path / "b.json", coco), fps=FPS)
        assert found.slots.tolist() == [n for n in range(N) if n not in (3, 4)]


def test_points_at_minus_one(tmp_path: Path) -> None:
    frames = []
    for n in range(N):
        found = mmpose(n)
        found["keypoints"][10] = [-1, -1]  # the right wrist
        frames.append({"instances": [found]})
    (recording,) = found = read(dump(tmp_path / "a.json", frames), fps=FPS)
    assert np.flatnonzero(recording.missing.any(axis=0)).tolist() == [4]
    said(found, "points at (-1, -1) are taken as not found (20)")


# Nesting

NESTED: dict[str, Callable[[list[Any]], dict[str, Any]]] = {
    "one level deeper": lambda p: {"keypoints": [p], "keypoint_scores": [[0.7] * len(p)]},
    "two levels deeper": lambda p: {"keypoints": [[p]], "keypoint_scores": [0.7] * len(p)},
    "flat, x and y": lambda p: {"keypoints": np.ravel(p).tolist(), "keypoint_scores": [0.7] * len(p)},
    "flat, x, y and score": lambda p: {"keypoints": np.c_[p, np.full(len(p), 0.7)].ravel().tolist()},
    "flat and deeper": lambda p: {"keypoints": [np.c_[p, np.full(len(p), 0.7)].ravel().tolist()]},
    "a score in a list": lambda p: {"keypoints": p, "keypoint_scores": [[0.7]] * len(p)},
}


@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED.keys())
@pytest.mark.parametrize("layout", [person.wholebody_133, person.halpe_136, person.coco_17, person.halpe_26])
def test_keypoints_nested_otherwise(tmp_path: Path, nested: Any, layout: Any) -> None:
    frames = [{"instances": [nested(layout(pixels(n / FPS)).tolist())]} for n in range(N)]
    (found,) = read(dump(tmp_path / "a.json", frames), fps=FPS, strict=True)
    right(found, N, hands=layout in (person.wholebody_133, person.halpe_136), atol=7)
    assert found.confidence[0, 4] == pytest.approx(0.7)


def test_openpose_nested_otherwise(tmp_path: Path) -> None:
    keys = ("pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")
    for number, change in enumerate([lambda v: [np.reshape(v, (-1, 3)).tolist()], lambda v: [v], lambda v: [[v]]]):
        people = [person.openpose(pixels(n / FPS)) for n in range(N)]
        frames = [[each | {key: change(each[key]) for key in keys}] for each in people]
        right(read(person.openpose_folder(tmp_path / f"{number}", frames), fps=FPS, strict=True)[0], N)


def test_people_with_their_frame_number_in_one_list(tmp_path: Path) -> None:
    """A list of people in which each states his frame, of two people in some, and with a frame left out."""
    people = [{"frame": n, **mmpose(n)} for n in range(N) if n != 5]
    right_of_him = person.wholebody_133(pixels(0.0, x=1100))
    people += [{"frame": n, "keypoints": right_of_him.tolist(), "keypoint_scores": [0.5] * 133} for n in range(8)]
    for frame in ("frame", "frame_id", "frameIndex"):
        path = dump(tmp_path / "a.json", [{frame: one.pop("frame", None), **one} for one in map(dict, people)])
        first, second = read(path, fps=FPS, strict=True)
        assert first.slots.tolist() == [n for n in range(N) if n != 5]
        np.testing.assert_allclose(first.xyz[:, 4, :2], [pixels(n / FPS)[4] for n in first.slots], atol=0.01)
        assert second.frames == 8
    by_number = {str(n): [mmpose(n)] for n in range(N)}
    right(read(dump(tmp_path / "b.json", by_number), fps=FPS, strict=True)[0], N)
    texts = [{"frame_id": str(n), "instances": [mmpose(n)]} for n in range(N)]
    right(read(dump(tmp_path / "c.json", texts), fps=FPS, strict=True)[0], N)


def test_people_by_the_name_of_their_image(tmp_path: Path) -> None:
    """AlphaPose's tracker PoseFlow; nobody in one image."""
    people = [
        [{"keypoints": person.with_scores(person.halpe_136(pixels(n / FPS))), "scores": 2.1, "idx": 4}]
        for n in range(N)
    ]
    people[6] = []
    path = dump(tmp_path / "tracked.json", {f"{n}.PNG": found for n, found in enumerate(people)})
    assert recognise(path) == "alphapose"
    (found,) = read(path, fps=FPS, strict=True)
    assert (found.person, found.slots.tolist()) == ("4", [n for n in range(N) if n != 6])
    np.testing.assert_allclose(found.xyz[:, 30, :2], [pixels(n / FPS)[30] for n in found.slots], atol=0.01)


def test_3d_without_confidences(tmp_path: Path) -> None:
    frames = []
    for n in range(N):
        xyz = person.joints(n / FPS) * (1, 1, -1) + (0, 0, 2)
        xyz[[4, 30]] = 0  # not found
        parts = {"pose": person.body_25(xyz), "hand_left": xyz[8:29], "hand_right": xyz[29:50]}
        deep = {f"{part}_keypoints_3d": points.ravel().tolist() for part, points in parts.items()}
        frames.append([person.openpose(pixels(n / FPS)) | deep])
    found = read(person.openpose_folder(tmp_path / "a", frames), fps=FPS)
    assert (found[0].unit, found[0].dims) == ("m", 3)
    assert np.flatnonzero(found[0].missing.any(axis=0)).tolist() == [4, 30]
    np.testing.assert_allclose(found[0].xyz[3, 7], person.joints(3 / FPS)[7] * (1, 1, -1) + (0, 0, 2), atol=1e-4)
    said(found, "pose_keypoints_3d have no confidence")
    frames[2][0]["pose_keypoints_3d"] = [1.0, 2.0]
    folder = person.openpose_folder(tmp_path / "b", frames)
    with pytest.raises(FormatError, match=r"pose_keypoints_3d: 2 numbers, x, y, z, confidence of each point expected"):
        read(folder, fps=FPS)


def test_a_last_file_of_zero_bytes_is_unfinished(tmp_path: Path) -> None:
    """As a machine leaves it that lost its power; and one cut within a number."""
    folder = person.openpose_folder(tmp_path / "a", ([person.openpose(pixels(n / FPS))] for n in range(N)))
    last = folder / f"clip_{N - 1:012}_keypoints.json"
    whole = last.read_bytes()
    for content in (bytes(4096), whole[: whole.index(b"0.8") + 2], whole[: whole.index(b"[")] + b"-", b" \n"):
        last.write_bytes(content)
        found = read(folder, fps=FPS)
        right(found[0], N - 1)
        said(found, f"unfinished last file skipped: {last.name}")


# Confidences


@pytest.mark.parametrize(
    ("scores", "sure", "words"),
    [
        (np.linspace(5, 95, 133), lambda s: s / 100, "confidences reach 95: taken as percent"),
        (np.linspace(0.2, 1.1, 133), lambda s: np.minimum(s, 1), ""),  # SimCC
        (np.linspace(0.2, 9, 133), lambda s: np.minimum(s, 1), "confidences reach 9: 1 and more count as 1"),
        (np.linspace(10, 255, 133), lambda s: s * 0 + 1, "confidences reach 255: 1 and more count as 1"),
        (np.linspace(-3, 1, 133), lambda s: np.maximum(s, 0), "points below 0 (74%) count as not found"),
        (np.linspace(-9, -1, 133), lambda s: s * 0 + 1, "no confidence is above 0"),
    ],
    ids=["percent", "SimCC", "raw SimCC", "bytes", "logits", "log likelihoods"],
)
def test_confidences_of_other_kinds(tmp_path: Path, scores: np.ndarray, sure: Any, words: str) -> None:
    frames = [{"instances": [mmpose(n) | {"keypoint_scores": scores.tolist()}]} for n in range(4)]
    points = np.stack([person.wholebody_133(pixels(n / FPS)) for n in range(4)])
    np.savez(tmp_path / "a.npz", keypoints=points, scores=np.tile(scores, (4, 1)))
    for path in (dump(tmp_path / "a.json", frames), tmp_path / "a.npz"):
        found = read(path, fps=FPS)
        wanted = sure(scores)
        assert found[0].confidence[0, [4, 7, 49]] == pytest.approx(wanted[[10, 9, 132]], abs=1e-6)
        if words:
            said(found, words)
        else:
            assert found[0].notes == ()


def test_visibilities_beyond_0_and_1(tmp_path: Path) -> None:
    body = [person.landmarks(person.blazepose_33(pixels(n / FPS)), 4.0) for n in range(N)]
    for mark in body[3]:
        mark["visibility"] = -2.5
    found = read(dump(tmp_path / "a.json", [{"pose_landmarks": b} for b in body]), fps=FPS, image_size=person.IMAGE)
    said(found, "visibilities are not within 0..1")
    assert np.flatnonzero(found[0].missing[:, :8].all(axis=1)).tolist() == [3]


# Frame numbers in names


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("v_{}_keypoints.json", 1),
        ("{}.json", 7),
        ("frame {}.json", 0),
        ("v2_take10_{:03}_1080p.json", 0),
        ("{:06}_cam1.json", 0),
        ("clip.mp4_{:06}_rgb8.json", 1),
        ("V_{:04}.JSON", 0),
        ("2026-03-01_{}_keypoints.json", 9),
    ],
)
def test_names_of_files(tmp_path: Path, name: str, first: int) -> None:
    folder = person.openpose_folder(
        tmp_path / "a", ([person.openpose(pixels(n / FPS))] for n in range(N)), name=name, first=first
    )
    right(read(folder, fps=FPS, strict=True)[0], N)


@pytest.mark.parametrize("name", ["cam{}_{{:06}}.json", "{{:06}}_cam{}.json", "{{}}_view{}_keypoints.json"])
def test_files_of_several_cameras(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a"
    for camera in (1, 2, 3):
        people = ([person.openpose(pixels(n / FPS, x=400 + 100 * camera))] for n in range(N))
        person.openpose_folder(folder, people, name=name.format(camera))
    found = read(folder, fps=FPS)
    assert [(r.name[-1], r.frames, round(float(r.xyz[0, 1, 0]))) for r in found] == [
        (str(camera), N, 400 + 100 * camera) for camera in (1, 2, 3)
    ]


def test_numbers_that_go_up_in_steps_are_doubted(tmp_path: Path) -> None:
    """Every fifth frame, or milliseconds."""
    for step, first in ((5, 0), (40, 1_700_000_000_000)):
        folder = tmp_path / str(step)
        folder.mkdir()
        for n in range(N):
            dump(folder / f"{first + step * n}.json", {"people": [person.openpose(pixels(n / FPS))]})
        found = read(folder, fps=FPS)
        assert found[0].dropped == (N - 1) * (step - 1)
        said(found, f"frame numbers go up by {step}")


def test_what_else_lies_in_a_folder(tmp_path: Path) -> None:
    folder = person.openpose_folder(tmp_path / "a", ([person.openpose(pixels(n / FPS))] for n in range(N)))
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt", "clip.mp4"):
        (folder / name).write_bytes(b"\0\1\2")
    (folder / "loop").symlink_to(folder)
    (folder / "below").mkdir()
    right(read(folder, fps=FPS, strict=True)[0], N)
    (folder / "clip_000000000099_keypoints.json").symlink_to(folder / "gone")
    with pytest.raises(FormatError, match=r"clip_000000000099_keypoints\.json: No such file"):
        read(folder, fps=FPS)
    itself = tmp_path / "itself.json"
    itself.symlink_to(itself)
    with pytest.raises(FormatError, match=r"itself\.json: .*symbolic links"):
        read(itself, fps=FPS)


# Text


def table() -> str:
    """The lines of a `.csv` of a recording with all kinds of numbers."""
    return "\n".join(
        [
            "unit,fps,time_ns,nose_x,nose_y,nose_z,left_wrist_x,left_wrist_y,left_wrist_z",
            *(f"m,25,{40_000_000 * n},{0.01 * n - 0.05:.4f},{-0.2:.4f},1e-2,0.5,{n},0.25" for n in range(10)),
        ]
    )


@pytest.mark.parametrize("between", [";", "\t", ", "])
@pytest.mark.parametrize("comma", [False, True])
def test_cells_parted_otherwise(tmp_path: Path, between: str, comma: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text(table())
    (plain,) = read(path)
    if comma and between == ", ":
        return
    path.write_text(table().replace(",", between).replace(".", "," if comma else "."))
    found = read(path)
    np.testing.assert_array_equal(found[0].xyz, plain.xyz)
    assert (found[0].fps, found[0].unit, found[0].missing.sum()) == (25, "m", plain.missing.sum())
    if between != ", ":
        said(found, f"cells are parted by {'semicolons' if between == ';' else 'tabs'}")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("word", ["nan", "NaN", "null", "None", "NA", "N/A", "#N/A", "-", "", "inf", "-Infinity"])
def test_words_for_no_number(tmp_path: Path, word: str, ends: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(table().replace("0.5,3,", f"{word},3,").replace("\n", ends).encode())
    (found,) = read(path)
    assert np.argwhere(found.missing[:, [0, 7]]).tolist() == [[3, 1]]


def test_tables_of_others_say_what_is_in_them(tmp_path: Path) -> None:
    """DeepLabCut, SLEAP, Kinect, motion capture: refused, with what was found."""
    tables = {
        "scorer,DLC,DLC\nbodyparts,nose,nose\ncoords,x,y\n0,1,2\n": "DLC, DLC, scorer",
        "track,frame_idx,nose.x,nose.y\na,0,1,2\n": "frame_idx, nose.x, nose.y, track",
        "Trajectories\n100\n,,Subj:LFHD,,\nFrame,Sub Frame,X,Y,Z\n": "Trajectories",
        "Time,ShoulderLeft_X\n0,1\n": "ShoulderLeft_X, Time",
    }
    for content, words in tables.items():
        (tmp_path / "a.csv").write_text(content)
        with pytest.raises(FormatError, match=r"no positions \(columns such as nose_x; found: ") as error:
            read(tmp_path / "a.csv", fps=25, unit="m")
        assert words in str(error.value)


def test_freemocap_as_a_spreadsheet_saves_it(tmp_path: Path) -> None:
    names = [f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist") for side in ("left", "right")]
    joints = [5, 2, 6, 3, 7, 4]
    lines = [";".join(f"{name}_{axis}" for name in ("nose", "left_eye_inner", *names) for axis in "xyz")]
    for n in range(N):
        xyz = from_canonical(person.joints(n / FPS)[[0, 0, *joints]], "RAU") * 1000
        cells = [f"{value:.3f}".replace(".", ",") for value in xyz.ravel()]
        lines.append(";".join(["null"] * len(cells) if n == 4 else cells))
    path = tmp_path / "a_body_3d_xyz.csv"
    path.write_text("\n".join([*lines, lines[-1][:40]]))
    found = read(path, fps=FPS)
    assert found[0].slots.tolist() == [n for n in range(N) if n != 4]
    np.testing.assert_allclose(found[0].canonical()[0, 4] / 1000, person.joints(0)[4], atol=1e-5)
    said(found, "semicolons", "unfinished last line skipped: 22")


def jsonl(**fields: Any) -> str:
    rows = [{"xyz": person.joints(n / FPS).tolist(), "unit": "m", "fps": FPS} | fields for n in range(6)]
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def test_joints_that_are_null(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for nothing in (None, [None, None, None], [float("nan")] * 3, [float("inf"), 0.0, 0.0]):
        xyz = person.joints(0).tolist()
        xyz[4] = nothing
        path.write_text(jsonl(xyz=xyz))
        (found,) = read(path)
        assert np.flatnonzero(found.missing[0]).tolist() == [4]
    xyz[4] = ["0.5", 0.0, 0.0]
    path.write_text(jsonl(xyz=xyz))
    with pytest.raises(FormatError, match=r"a\.jsonl, line 1, xyz: numbers expected, found '0\.5'"):
        read(path)


@pytest.mark.parametrize(
    ("stated", "fps"),
    [("30/1", 30), ("30000/1001", 29.97003), ("29.97", 29.97), (" 25 fps", 25), ("24000 / 1001", 23.976024)],
)
def test_rates_as_text(tmp_path: Path, stated: str, fps: float) -> None:
    body = [{"pose_landmarks": person.landmarks(person.blazepose_33(pixels(n / FPS)), 0.9)} for n in range(N)]
    dump(tmp_path / "a.json", {"fps": stated, "resolution": "1280x720", "frames": body})
    (tmp_path / "b.jsonl").write_text(jsonl(fps=stated))
    (tmp_path / "c.csv").write_text(
        table().replace("m,25,", f"m,{stated},").replace("time_ns", "slot").replace("0000000", "")
    )
    np.savez(
        tmp_path / "d.npz", keypoints=np.stack([person.wholebody_133(pixels(n / FPS)) for n in range(4)]), fps=stated
    )
    np.savez(tmp_path / "e.npz", xyz=np.stack([person.joints(n / FPS) for n in range(4)]), fps=stated)
    for path in sorted(tmp_path.iterdir()):
        assert read(path)[0].fps == pytest.approx(fps, rel=1e-6), path


@pytest.mark.parametrize("stated", ["variable", "0/0", "0", "", None, True, [30]])
def test_texts_that_are_no_rate(tmp_path: Path, stated: Any) -> None:
    body = [{"pose_landmarks": person.landmarks(person.blazepose_33(pixels(n / FPS)), 0.9)} for n in range(N)]
    dump(tmp_path / "a.json", {"fps": stated, "frames": body})
    with pytest.raises(FormatError, match=r"a\.json: the file states neither times nor how many .* \(--fps"):
        read(tmp_path / "a.json", image_size=person.IMAGE)


def test_a_rate_that_no_camera_has_is_doubted(tmp_path: Path) -> None:
    for stated, doubtful in ((1000.0, True), (0.02, True), (240.0, False), (12.5, False)):
        write(tmp_path / "a.npz", one(12, fps=stated))
        found = read(tmp_path / "a.npz")
        assert any(f"{stated:g} frames per second are stated" in note for note in found[0].notes) == doubtful
        assert read(tmp_path / "a.npz", fps=stated, strict=True)[0].fps == stated


@pytest.mark.parametrize(
    "clock",
    [
        lambda n: f"{n / FPS:.3f}",
        lambda n: f"00:00:{n / FPS:06.3f}",
        lambda n: f"0:00:{n / FPS:09.6f}",
        lambda n: f"{1_700_000_000_000 + 40 * n}",
    ],
    ids=["seconds", "h:m:s", "as Python's timedelta", "ms since 1970"],
)
def test_times_as_text(tmp_path: Path, clock: Any) -> None:
    body = [person.landmarks(person.blazepose_33(pixels(n / FPS)), 0.9) for n in range(N)]
    dump(tmp_path / "a.json", [{"pose_landmarks": b, "timestamp": clock(n)} for n, b in enumerate(body)])
    (found,) = read(tmp_path / "a.json", image_size=person.IMAGE, strict=True)
    assert found.fps == pytest.approx(FPS)
    assert found.time_ns is not None
    assert np.diff(found.time_ns).tolist() == [40_000_000] * (N - 1)


def test_times_that_are_not_understood_are_named(tmp_path: Path) -> None:
    body = person.landmarks(person.blazepose_33(pixels(0)), 0.9)
    dump(tmp_path / "a.json", [{"pose_landmarks": body, "timestamp": f"frame {n}"} for n in range(9)])
    said(read(tmp_path / "a.json", fps=FPS, image_size=person.IMAGE), "times such as 'frame 0' are not understood")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_frame_a_line(tmp_path: Path, suffix: str) -> None:
    """JSON Lines of every program; the last line may be unfinished."""
    halpe = [
        {"image_id": f"{n}.jpg", "keypoints": person.with_scores(person.halpe_136(pixels(n / FPS)))} for n in range(N)
    ]
    lines: list[list[Any]] = [
        [{"people": [person.openpose(pixels(n / FPS))]} for n in range(N)],
        [{"frame_id": n, "instances": [mmpose(n)]} for n in range(N)],
        halpe,
    ]
    path = tmp_path / f"a.{suffix}"
    for frames in lines:
        path.write_text("\n".join(map(json.dumps, frames)) + "\n")
        right(read(path, fps=FPS, strict=True)[0], N, atol=7)
        path.write_text("\n".join(map(json.dumps, frames))[:-50])
        found = read(path, fps=FPS)
        right(found[0], N - 1, atol=7)
        said(found, "unfinished last line skipped: 20")
        path.write_text("\r\n\r\n".join(map(json.dumps, frames)))
        right(read(path, fps=FPS)[0], N, atol=7)
    path.write_text("\n".join([*map(json.dumps, lines[1][:3]), '{"frame_id": 3,}', json.dumps(lines[1][4])]))
    with pytest.raises(FormatError, match=r"line 4: not JSON"):
        read(path, fps=FPS)


@pytest.mark.parametrize("text", ['[{"instances": []},]', "[{'instances': []}]", '[{"instances": [],}]'])
def test_what_is_nearly_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FormatError, match=r"a\.json: not JSON.*line 1, column"):
        read(tmp_path / "a.json", fps=FPS)


# Files that are not read


def test_packed_files(tmp_path: Path) -> None:
    content = json.dumps([{"instances": [mmpose(0)]}]).encode()
    for name in ("a.json.gz", "a.json"):
        (tmp_path / name).write_bytes(gzip.compress(content))
        with pytest.raises(FormatError, match="packed: unpack it first"):
            read(tmp_path / name, fps=FPS)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("clip_000000000000_keypoints.json", content)
    with pytest.raises(FormatError, match="a zip archive: unpack it first"):
        read(tmp_path / "a.zip", fps=FPS)


@pytest.mark.parametrize(
    ("name", "begin", "words"),
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5.*npz"),
        ("tracks.slp", b"\x89HDF\r\n\x1a\n", "HDF5.*npz"),
        ("a.nc", b"CDF\1", "HDF5.*npz"),
        ("wham_output.pkl", b"\x80\x04\x95", "never read.*npz"),
        ("a.parquet", b"PAR1", "Parquet.*csv"),
        ("walk.bvh", b"HIERARCHY\nROOT Hips", r"\.trc or \.c3d"),
        ("a.fbx", b"Kaydara FBX Binary", r"\.trc or \.c3d"),
        ("a.tsv", b"NO_OF_FRAMES\t20", r"\.c3d or \.trc"),
        ("a.MP4", b"\0\0\0\x20ftypisom", "rtskel estimate"),
    ],
)
def test_foreign_files_are_refused_with_a_way_out(tmp_path: Path, name: str, begin: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(begin + bytes(99))
    with pytest.raises(FormatError, match=words) as error:
        read(tmp_path / name, fps=FPS)
    assert str(error.value).isprintable()
    write(tmp_path / "x.npz", one())
    (tmp_path / name).write_bytes((tmp_path / "x.npz").read_bytes())
    assert recognise(tmp_path / name) == "npz", "content decides"


@pytest.mark.parametrize(
    "value",
    [
        [{"frame": 0, "joints": {"neck_1_joint": {"x": 0.5, "y": 0.6, "confidence": 0.9}}}],  # Vision
        {"joint_names": ["PELVIS"], "frames": [{"bodies": [{"body_id": 1, "joint_positions": [[0, 0, 1]]}]}]},  # Kinect
        {"0": {"object_list": [{"id": 0, "keypoint": [[0, 0, 1]]}]}},  # ZED
        {"version": 0.7, "univTime": 1.5, "bodies": [{"id": 0, "joints19": [0.0] * 76}]},  # Panoptic
        {"labels": [{"frame_idx": 0, "_instances": []}], "skeletons": []},  # SLEAP
    ],
    ids=["Vision", "Kinect", "ZED", "Panoptic", "SLEAP"],
)
def test_json_of_others_says_what_is_in_it(tmp_path: Path, value: Any) -> None:
    with pytest.raises(FormatError, match=r"a\.json: JSON, but neither OpenPose's.* found: [a-z0]"):
        read(dump(tmp_path / "a.json", value), fps=FPS)


# Units, axes, and arrays that may be something else


@pytest.mark.parametrize(("unit", "scale", "doubtful"), [("mm", 1.0, True), ("m", 1000.0, True), ("cm", 100.0, False)])
def test_units_that_make_giants_or_dwarfs(tmp_path: Path, unit: str, scale: float, doubtful: bool) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, xyz=np.stack([person.joints(n / FPS) for n in range(N)]) * scale, unit=unit)
    (found,) = read(path)
    assert any("apart: is that the unit (else state --unit)" in note for note in found.notes) == doubtful
    assert read(path, unit="m" if scale == 1 else "mm" if scale == 1000 else "cm", strict=True)[0].notes == ()


def test_y_up_that_nobody_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", xyz=np.stack([person.joints(n / FPS) for n in range(N)]) * (1, -1, 1))
    said(read(tmp_path / "a.npz"), "the head is not above the neck: are the axes RDT (--axes)?")
    assert read(tmp_path / "a.npz", axes="RUT", strict=True)
    up = [{"instances": [mmpose(n)]} for n in range(N)]
    for frame in up:
        frame["instances"][0]["keypoints"] = (720 - np.array(frame["instances"][0]["keypoints"]) * (-1, 1)).tolist()
    said(read(dump(tmp_path / "a.json", up), fps=FPS), "the head is not above the neck")


@pytest.mark.parametrize(("word", "unit"), [("meters", "m"), ("MM", "mm"), ("Millimetres", "mm"), ("centimeter", "cm")])
def test_units_as_words(tmp_path: Path, word: str, unit: str) -> None:
    write(tmp_path / "a.trc", one(N))
    path = tmp_path / "b.trc"
    path.write_text((tmp_path / "a.trc").read_text().replace("\tm\t", f"\t{word}\t"))
    assert read(path)[0].unit == unit


def test_trc_that_was_cut_off(tmp_path: Path) -> None:
    write(tmp_path / "a.trc", one(N))
    whole = (tmp_path / "a.trc").read_text()
    (tmp_path / "a.trc").write_text(whole[:-200])
    found = read(tmp_path / "a.trc")
    assert found[0].frames == N - 1
    said(found, "unfinished last line skipped: 25", "20 frames are stated, 19 are there")


def test_joints_without_a_point_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.trc", one(N))
    text = (tmp_path / "a.trc").read_text().replace("RElbow", "RUpperArm").replace("LWrist", "LLowerArm")
    (tmp_path / "a.trc").write_text(text)
    (found,) = recordings = read(tmp_path / "a.trc")
    said(recordings, "no point is a right_elbow, left_wrist (found: ")
    assert np.flatnonzero(found.missing[0, : len(BODY)]).tolist() == [3, 7]


def test_arrays_that_may_be_something_else(tmp_path: Path) -> None:
    """Human3.6M's 17 points in another order, and MMAction2's people before frames."""
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(0, 0.2, (N, 17, 3)))
    said(read(tmp_path / "a.npy", fps=FPS, unit="m", axes="RDA"), "17 points in 3D without names are taken for COCO's")
    people_first = np.stack([person.wholebody_133(pixels(n / FPS)) for n in range(N)])[None]
    np.save(tmp_path / "b.npy", people_first)
    said(read(tmp_path / "b.npy", fps=FPS), "1 frames of 20 people: if people come first")
    np.save(tmp_path / "b.npy", people_first.swapaxes(0, 1))
    right(read(tmp_path / "b.npy", fps=FPS, strict=True)[0], N)


# MediaPipe


def both(n: int) -> dict[str, Any]:
    """Landmarks in the image and in metres, of the same body, with hands."""
    p = pixels(n / FPS)
    metres = person.blazepose_33(person.joints(n / FPS))
    return {
        "pose_landmarks": person.landmarks(person.blazepose_33(p), 0.9),
        "pose_world_landmarks": [{"x": x, "y": y, "z": -z, "visibility": 0.9} for x, y, z in metres.tolist()],
        "left_hand_landmarks": person.landmarks(p[8:29], None),
        "right_hand_landmarks": person.landmarks(p[29:50], None),
    }


def test_landmarks_one_after_another(tmp_path: Path) -> None:
    """Numbers without names, as `flatten()` leaves them, of body and hands."""
    frames = []
    for n in range(N):
        named = both(n)
        flat = {key: [v for mark in named[key] for v in mark.values()] for key in ("pose_landmarks",)}
        hands = {key: [mark[axis] for mark in named[key] for axis in "xyz"] for key in named if "hand" in key}
        frames.append(flat | hands)
    right(read(dump(tmp_path / "a.json", frames), fps=FPS, image_size=person.IMAGE, strict=True)[0], N, atol=7)
    people = [{"landmarks": [frame["pose_landmarks"]]} for frame in frames]
    (found,) = read(dump(tmp_path / "a.json", people), fps=FPS, image_size=person.IMAGE, strict=True)
    right(found, N, hands=False, atol=7)


def test_keys_that_are_not_read_are_named(tmp_path: Path) -> None:
    """Hands under a name that is not known would be missing without a word."""
    frames = [{"poseLandmarks": both(n)["pose_landmarks"], "multiHandLandmarks": []} for n in range(N)]
    said(read(dump(tmp_path / "a.json", frames), fps=FPS, image_size=person.IMAGE), "unused keys: multiHandLandmarks")
    known = {"leftHand": "left_hand_landmarks", "rightHand": "right_hand_landmarks", "pose": "pose_landmarks"}
    frames = [{key: both(n)[name] for key, name in known.items()} | {"face": [], "frame": n} for n in range(N)]
    right(read(dump(tmp_path / "a.json", frames), fps=FPS, image_size=person.IMAGE, strict=True)[0], N, atol=7)


def test_two_people_in_metres_are_told_apart_by_the_image(tmp_path: Path) -> None:
    """World landmarks have everybody at the origin."""
    frames: list[dict[str, Any]] = []
    for n in range(N):
        metres = both(n)["pose_world_landmarks"]
        bodies = [person.landmarks(person.blazepose_33(pixels(n / FPS, x=x)), 0.9) for x in (300, 900)]
        other = [mark | {"y": mark["y"] + 0.5} for mark in metres]
        frames.append({"landmarks": bodies, "worldLandmarks": [metres, other]})
        if n % 3 == 0:
            frames[n] = {key: value[::-1] for key, value in frames[n].items()}
    found = read(dump(tmp_path / "a.json", frames), fps=FPS, world=True)
    assert [r.frames for r in found] == [N, N]
    assert [float(np.ptp(r.xyz[:, 1, 1])) for r in found] == pytest.approx([0, 0], abs=1e-3)
    assert sorted(round(float(r.xyz[0, 1, 1]), 2) for r in found) == [0.01, 0.51]
    for frame in frames:
        del frame["landmarks"]
    with pytest.raises(FormatError, match="world landmarks alone do not tell who is who"):
        read(dump(tmp_path / "a.json", frames), fps=FPS, world=True)


def test_frames_apart_keep_their_times_and_numbers(tmp_path: Path) -> None:
    """In a file each, or by number: with the times, rate and size that each states."""
    results = [{"poseLandmarks": both(n)["pose_landmarks"], "timestampMs": 50 * n, "frame": 0} for n in range(N)]
    about = {"width": 1280, "height": 720}
    for source in (
        person.folder_of(tmp_path / "a", (result | about for result in results), name="f_{:03}.json"),
        dump(tmp_path / "b.json", about | {"frames": {str(n): result for n, result in enumerate(results)}}),
    ):
        (found,) = read(source)
        assert (found.fps, found.image_size) == (20, person.IMAGE)
        assert found.time_ns is not None
        assert found.time_ns[-1] == (N - 1) * 50_000_000
    numbered = [{"frame": str(3 * n), "poseLandmarks": r["poseLandmarks"]} for n, r in enumerate(results)]
    (found,) = read(dump(tmp_path / "c.json", numbered), fps=FPS, image_size=person.IMAGE)
    assert found.slots.tolist() == list(range(0, 3 * N, 3))


def test_world_landmarks_alone_are_named(tmp_path: Path) -> None:
    frames = [{"poseWorldLandmarks": both(n)["pose_world_landmarks"]} for n in range(N)]
    with pytest.raises(FormatError, match=r"has world landmarks alone: --world reads them"):
        read(dump(tmp_path / "a.json", frames), fps=FPS)
    assert read(tmp_path / "a.json", fps=FPS, world=True)[0].unit == "m"


def test_world_landmarks_are_corrected_as_estimate_does(tmp_path: Path) -> None:
    """In every kind of file, and in a program of one's own."""
    frames = [both(n) for n in range(N)]
    dump(tmp_path / "a.json", frames)
    arrays = {
        key: np.array([[[m["x"], m["y"], m["z"], 0.9] for m in frame[key]] for frame in frames]) for key in frames[0]
    }
    np.savez(tmp_path / "b.npz", **arrays, fps=FPS)
    results = [as_object(frame) for frame in frames]
    options: dict[str, Any] = {"fps": FPS, "image_size": person.IMAGE, "world": True}
    for path in (tmp_path / "a.json", tmp_path / "b.npz", None):
        plain, mended = (
            from_holistic(results, **options, corrected=corrected)
            if path is None
            else read(path, **options, corrected=corrected)[0]
            for corrected in (False, True)
        )
        wanted = mediapipe_map().apply(plain.xyz, plain.missing)
        np.testing.assert_allclose(mended.xyz, wanted, atol=1e-6)
        assert np.abs(mended.xyz - plain.xyz)[:, : len(BODY)].max() > 0.005
        np.testing.assert_array_equal(mended.confidence, plain.confidence)
    with pytest.raises(FormatError, match=r"--corrected .*: state --world, too"):
        read(tmp_path / "a.json", fps=FPS, image_size=person.IMAGE, corrected=True)
    with pytest.raises(FormatError, match=r"corrected .*: state world, too"):
        from_holistic(results, fps=FPS, image_size=person.IMAGE, corrected=True)
    write(tmp_path / "x.npz", Recording(np.stack([person.joints(0)]), FPS, "x"))
    with pytest.raises(FormatError, match=r"--corrected is for MediaPipe's landmarks, this is npz"):
        read(tmp_path / "x.npz", corrected=True)
