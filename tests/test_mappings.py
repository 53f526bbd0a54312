import numpy as np
import pytest

from rtskel.formats.mappings import (
    BY_COMPONENT,
    BY_POINTS,
    HAND,
    HOLISTIC,
    HOLISTIC_WORLD,
    OPENPOSE_15,
    OPENPOSE_18,
    OPENPOSE_25,
    OPENPOSE_25B,
    OPENPOSE_135,
    WHOLEBODY_133,
    WHOLEBODY_134,
    Layout,
    by_names,
    gather,
)
from rtskel.skeleton import UPPER_BODY_50

LAYOUTS = [OPENPOSE_25, OPENPOSE_18, OPENPOSE_135, WHOLEBODY_133, HOLISTIC, HOLISTIC_WORLD, *BY_COMPONENT.values()]
LAYOUTS += [OPENPOSE_25B, OPENPOSE_15, *(layout for layout in BY_POINTS.values() if layout is not WHOLEBODY_133)]


def numbered(layout: Layout) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Points whose x is their place in their component, and whose y is the component's place."""
    points = {
        part: np.stack([np.arange(len(names)), np.full(len(names), at)], axis=-1)
        for at, (part, names) in enumerate(layout.components.items())
    }
    return points, {part: np.ones(len(names)) for part, names in layout.components.items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_tables_are_whole(layout: Layout) -> None:
    for part, names in layout.components.items():
        assert len(set(names)) == len(names), part
    for joint, sources in zip(UPPER_BODY_50.names, layout.sources, strict=True):
        assert sources or (layout is HOLISTIC_WORLD and joint not in UPPER_BODY_50.names[:8]), joint
        for part, name in sources:
            assert name in layout.components[part], joint


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_sides_are_the_persons_own(layout: Layout) -> None:
    """Whatever a left joint comes from is called left, or lies in a component that is."""
    for joint, sources in zip(UPPER_BODY_50.names, layout.sources, strict=True):
        side = joint.partition("_")[0]
        for part, name in sources if side in ("left", "right") else ():
            words = f"{part}/{name}".lower()
            if part in ("pose_keypoints_2d", "BODY_135"):
                assert name[0].lower() == side[0], joint
            else:
                assert side in words, joint
                assert {"left": "right", "right": "left"}[side] not in words, joint


@pytest.mark.parametrize(
    ("layout", "body", "hands"),
    [
        # as the data's own documentation has it: indices of [nose, neck, right arm, left arm], first points of hands
        (OPENPOSE_25, [0, 1, 2, 3, 4, 5, 6, 7], ((0, 1), (0, 2))),
        (OPENPOSE_18, [0, 1, 2, 3, 4, 5, 6, 7], ((0, 1), (0, 2))),
        (WHOLEBODY_133, [0, 5.5, 6, 8, 10, 5, 7, 9], ((91, 0), (112, 0))),
        (WHOLEBODY_134, [0, 1, 2, 3, 4, 5, 6, 7], ((92, 0), (113, 0))),
        (HOLISTIC, [0, 11.5, 12, 14, 16, 11, 13, 15], ((0, 1), (0, 2))),
    ],
    ids=lambda value: value.id if isinstance(value, Layout) else "",
)
def test_indices(layout: Layout, body: list[float], hands: tuple[tuple[int, int], ...]) -> None:
    xyz, confidence = gather(layout, *numbered(layout))
    assert (confidence == 1).all()
    assert xyz[:8].tolist() == [[point, 0] for point in body]
    for (first, part), start in zip(hands, (8, 29), strict=True):
        assert xyz[start : start + 21].tolist() == [[first + k, part] for k in range(21)]


def test_fingers_are_in_order() -> None:
    of = {joint: sources[0][1] for joint, sources in zip(UPPER_BODY_50.names, OPENPOSE_135.sources, strict=True)}
    assert of["left_hand_root"] == "LWrist"
    assert of["right_thumb_1"] == "RThumb1CMC"
    assert of["right_little_4"] == "RPinky4FingerTip"
    of = {joint: sources[0][1] for joint, sources in zip(UPPER_BODY_50.names, HOLISTIC.sources, strict=True)}
    assert of["left_thumb_4"] == "THUMB_TIP"
    assert of["left_ring_2"] == "RING_FINGER_PIP"
    assert UPPER_BODY_50.names[8:29] == tuple(f"left_{joint}" for joint in HAND)


def test_a_mean_needs_all_its_points() -> None:
    points, sure = numbered(WHOLEBODY_133)
    sure["keypoints"][5] = 0.25
    assert gather(WHOLEBODY_133, points, sure)[1][[1, 2, 5]].tolist() == [0.25, 1, 0.25]
    sure["keypoints"][5] = 0
    xyz, confidence = gather(WHOLEBODY_133, points, sure)
    assert confidence[[1, 2, 5]].tolist() == [0, 1, 0]
    assert not xyz[[1, 5]].any()


def test_what_is_no_number_is_missing_and_confidence_is_cut() -> None:
    points, sure = numbered(OPENPOSE_25)
    points = {part: array.astype(float) for part, array in points.items()}
    points["pose_keypoints_2d"][3, 1] = np.nan
    points["pose_keypoints_2d"][4, 0] = np.inf
    sure["pose_keypoints_2d"][[0, 2, 6]] = [1.3, np.nan, -0.5]
    xyz, confidence = gather(OPENPOSE_25, points, sure)
    assert confidence[:8].tolist() == [1, 1, 0, 0, 0, 1, 0, 1]
    assert not xyz[[2, 3, 4, 6]].any()


def test_by_name_whatever_the_order_and_with_parts_left_out() -> None:
    names = {"POSE_LANDMARKS": ["RIGHT_WRIST", "LEFT_SHOULDER", "RIGHT_SHOULDER", "NOT_OURS"]}
    points = {"POSE_LANDMARKS": np.array([[16.0, 0], [11, 0], [12, 0], [99, 0]])}
    xyz, confidence = gather(HOLISTIC, points, {"POSE_LANDMARKS": np.ones(4)}, names)
    assert np.flatnonzero(confidence).tolist() == [1, 2, 4, 5]
    assert xyz[[1, 2, 4, 5], 0].tolist() == [11.5, 12, 16, 11]


@pytest.mark.parametrize(
    ("points", "body", "hands"),
    [
        (17, [0, 5.5, 6, 8, 10, 5, 7, 9], None),
        (26, [0, 18, 6, 8, 10, 5, 7, 9], None),
        (33, [0, 11.5, 12, 14, 16, 11, 13, 15], None),
        (68, [0, 18, 6, 8, 10, 5, 7, 9], (26, 47)),
        (133, [0, 5.5, 6, 8, 10, 5, 7, 9], (91, 112)),
        (136, [0, 18, 6, 8, 10, 5, 7, 9], (94, 115)),
    ],
)
def test_indices_by_number_of_points(points: int, body: list[float], hands: tuple[int, int] | None) -> None:
    x = np.arange(points, dtype=float)[:, None]
    xyz, confidence = gather(BY_POINTS[points], {"keypoints": x}, {"keypoints": np.ones(points)})
    assert xyz[:8, 0].tolist() == body
    if hands is None:
        assert not confidence[8:].any()
    else:
        assert xyz[8:, 0].tolist() == [first + k for first in hands for k in range(21)]


NAMED = {
    "rtskel": UPPER_BODY_50.names,
    "OpenPose BODY_135": OPENPOSE_135.components["BODY_135"],
    "Pose2Sim": (
        *("Hip", "Neck", "Nose", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist"),
        *(f"{side}{finger}{k}" for side in "RL" for finger in ("Middle", "Ring") for k in "1234"),
        *(f"{side}{name}" for side in "RL" for name in ("Thumb1", "Thumb", "Thumb3", "Thumb4")),
        *(f"{side}{finger}{k}" for side in "RL" for finger in ("Index", "Pinky") for k in ("", "2", "3", "4")),
    ),
    "MediaPipe": (
        *HOLISTIC.components["POSE_LANDMARKS"],
        *(f"{side}_HAND_{name}" for side in ("LEFT", "RIGHT") for name in HOLISTIC.components["LEFT_HAND_LANDMARKS"]),
    ),
}


@pytest.mark.parametrize("names", NAMED.values(), ids=NAMED.keys())
def test_names_of_programs(names: tuple[str, ...]) -> None:
    layout = by_names(names)
    assert all(layout.sources)
    for joint, sources in zip(UPPER_BODY_50.names, layout.sources, strict=True):
        side = joint.partition("_")[0]
        if side in ("left", "right"):
            assert all(name.lower().startswith(side[0]) for _, name in sources), joint


def test_names_that_mean_less() -> None:
    """Rough points of a hand are no joints; an optical system's markers make some."""
    of = dict(zip(UPPER_BODY_50.names, by_names(HOLISTIC.components["POSE_LANDMARKS"]).sources, strict=True))
    assert of["left_index_1"] == of["right_thumb_2"] == ()
    assert [name for _, name in of["neck"]] == ["LEFT_SHOULDER", "RIGHT_SHOULDER"]
    markers = [f"subject:{code}" for code in ("LFHD", "RFHD", "LSHO", "RSHO", "LELB", "RELB", "LWRA", "LWRB", "LTOE")]
    of = dict(zip(UPPER_BODY_50.names, by_names(markers).sources, strict=True))
    assert [joint for joint, sources in of.items() if sources] == [
        *("nose", "neck", "right_shoulder", "right_elbow", "left_shoulder", "left_elbow", "left_wrist"),
    ]
    assert [name for _, name in of["left_wrist"]] == ["subject:LWRA", "subject:LWRB"]
