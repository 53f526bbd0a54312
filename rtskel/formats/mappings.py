"""Tables from estimators' points to the joints of `upper-body-50`, and how they are applied.

A `Layout` names one estimator's points, in components as its files have them, and gives for each joint the point that
it equals, or the points whose mean it is. Sides are the person's own: left is the person's left.

| layout | is |
|---|---|
| OPENPOSE_25, 25B, 18, 15 | OpenPose's BODY_25, BODY_25B, COCO or MPI body, and its hands |
| OPENPOSE_135 | OpenPose's BODY_135, whose hands begin at the body's wrists |
| COCO_17, HALPE_26, BLAZEPOSE_33 | bodies in one component, with hands in two more if a file has them |
| HALPE_68, WHOLEBODY_133, HALPE_136 | body and hands in one component; by several components: see BY_COMPONENT |
| HOLISTIC, HOLISTIC_WORLD | MediaPipe Holistic in the image, and in metres (which has no hands) |
| `by_names(names)` | points that a file names (`.trc`, `.c3d`, freemocap) |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rtskel.formats.parsing import Options
from rtskel.skeleton import BODY, FINGERS, SIDES, UPPER_BODY_50

Point = tuple[str, str]
"""A component and the name of a point in it."""


@dataclass(frozen=True, eq=False)
class Layout:
    """An estimator's points.

    Attributes:
        id: its name in errors.
        components: the point names of each component, in array order.
        sources: [50] for each joint the points whose mean it is; empty: the layout has no such joint.
    """

    id: str
    components: Mapping[str, tuple[str, ...]]
    sources: tuple[tuple[Point, ...], ...]

    @property
    def points(self) -> int:
        """Number of points of all components."""
        return sum(map(len, self.components.values()))


HAND = ("hand_root", *(f"{finger}_{k}" for finger in FINGERS for k in range(1, 5)))
"""The 21 joints of a hand without their side: the order of every estimator's hand model."""


def _layout(
    name: str, components: Mapping[str, tuple[str, ...]], body: Mapping[str, Sequence[Point]], hands: Sequence[Point]
) -> Layout:
    """A layout from the points of each body joint, and the points of both hands, left first, if it has hands."""
    sources = {joint: tuple(points) for joint, points in body.items()}
    sources |= {
        f"{side}_{joint}": (hands[21 * s + k],) if hands else ()
        for s, side in enumerate(SIDES)
        for k, joint in enumerate(HAND)
    }
    return Layout(name, MappingProxyType(dict(components)), tuple(sources[joint] for joint in UPPER_BODY_50.names))


def _both(component: str, points: Sequence[str]) -> list[Point]:
    return [(component, point) for point in points]


# OpenPose

_OPENPOSE_HEAD_AND_ARMS = ("Nose", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist")
_OPENPOSE_HAND = (  # as `.pose` files call them
    *("BASE", "T_STT", "T_BCMC", "T_MCP", "T_IP"),
    *(f"{finger}_{joint}" for finger in "IMRP" for joint in ("CMC", "MCP", "PIP", "DIP")),
)


_HAND_PARTS = ("hand_left_keypoints_2d", "hand_right_keypoints_2d")


def _openpose(name: str, rest: tuple[str, ...]) -> Layout:
    body, (left, right) = "pose_keypoints_2d", _HAND_PARTS
    return _layout(
        name,
        {body: _OPENPOSE_HEAD_AND_ARMS + rest, left: _OPENPOSE_HAND, right: _OPENPOSE_HAND},
        {joint: [(body, point)] for joint, point in zip(BODY, _OPENPOSE_HEAD_AND_ARMS, strict=True)},
        _both(left, _OPENPOSE_HAND) + _both(right, _OPENPOSE_HAND),
    )


OPENPOSE_25 = _openpose(
    "OpenPose BODY_25",
    (
        *("MidHip", "RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar"),
        *("LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel"),
    ),
)
_OPENPOSE_18_REST = ("RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar")
OPENPOSE_18 = _openpose("OpenPose COCO-18", _OPENPOSE_18_REST)
OPENPOSE_15 = _openpose("OpenPose MPI-15", ("RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "Chest"))


def _openpose_135() -> Layout:
    part = "BODY_135"
    body = (
        *("Nose", "LEye", "REye", "LEar", "REar", "LShoulder", "RShoulder", "LElbow", "RElbow", "LWrist", "RWrist"),
        *("LHip", "RHip", "LKnee", "RKnee", "LAnkle", "RAnkle", "UpperNeck", "HeadTop"),
        *("LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel"),
    )
    fingers = tuple(f"Thumb{k}" for k in ("1CMC", "2Knuckles", "3IP", "4FingerTip")) + tuple(
        f"{finger}{k}"
        for finger in ("Index", "Middle", "Ring", "Pinky")
        for k in ("1Knuckles", "2PIP", "3DIP", "4FingerTip")
    )
    hands = [f"{side}{point}" for side in "LR" for point in ("Wrist", *fingers)]
    return _layout(
        "OpenPose BODY_135",
        {
            part: body
            + tuple(f"{side}{point}" for side in "LR" for point in fingers)
            + tuple(f"face-{k}" for k in range(70))
        },
        {
            "nose": [(part, "Nose")],
            "neck": _both(part, ("LShoulder", "RShoulder")),  # its UpperNeck lies higher than a neck elsewhere
            **{
                f"{side}_{joint}": [(part, side[0].upper() + joint.capitalize())]
                for side in SIDES
                for joint in ("shoulder", "elbow", "wrist")
            },
        },
        _both(part, hands),
    )


OPENPOSE_135 = _openpose_135()

# COCO-WholeBody

_COCO_BODY = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee"),
    *("left_ankle", "right_ankle"),
)
_COCO_FEET = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")
_COCO_HAND = tuple(f"hand_{k}" for k in range(21))


def _coco_body(part: str) -> dict[str, list[Point]]:
    return {joint: _both(part, ("left_shoulder", "right_shoulder") if joint == "neck" else (joint,)) for joint in BODY}


_COCO_HANDS = tuple(f"{side}_{point}" for side in SIDES for point in _COCO_HAND)
_FACE = tuple(f"face-{k}" for k in range(68))
_HALPE_BODY = (*_COCO_BODY, "head", "neck", "hip", *_COCO_FEET)


def _keypoints(name: str, points: tuple[str, ...], body: Mapping[str, Sequence[Point]]) -> Layout:
    """Points in one component `keypoints`; hands are in it, or in OpenPose's components."""
    if _COCO_HANDS[0] in points:
        return _layout(name, {"keypoints": points}, body, _both("keypoints", _COCO_HANDS))
    hands = [point for part in _HAND_PARTS for point in _both(part, _OPENPOSE_HAND)]
    return _layout(name, {"keypoints": points, **dict.fromkeys(_HAND_PARTS, _OPENPOSE_HAND)}, body, hands)


_WITH_MEAN_NECK = _coco_body("keypoints")
_LOWER = ("upper_neck", "head_top", *_COCO_FEET)
_WITH_NECK = _WITH_MEAN_NECK | {"neck": [("keypoints", "neck")]}
OPENPOSE_25B = _keypoints("OpenPose BODY_25B", (*_COCO_BODY, *_LOWER), _WITH_MEAN_NECK)
COCO_17 = _keypoints("COCO-17", _COCO_BODY, _WITH_MEAN_NECK)
HALPE_26 = _keypoints("Halpe-26", _HALPE_BODY, _WITH_NECK)
HALPE_68 = _keypoints("Halpe-68", (*_HALPE_BODY, *_COCO_HANDS), _WITH_NECK)
WHOLEBODY_133 = _keypoints("COCO-WholeBody", (*_COCO_BODY, *_COCO_FEET, *_FACE, *_COCO_HANDS), _WITH_MEAN_NECK)
WHOLEBODY_134 = _keypoints(
    "OpenPose-134",  # of rtmlib and DWPose: COCO-WholeBody in OpenPose's order
    (*BODY, *_OPENPOSE_18_REST, *_COCO_FEET, *_FACE, *_COCO_HANDS),
    {joint: [("keypoints", joint)] for joint in BODY},
)
HALPE_136 = _keypoints("Halpe-136", (*_HALPE_BODY, *_FACE, *_COCO_HANDS), _WITH_NECK)

# MediaPipe

_MEDIAPIPE_POSE = (
    *("NOSE", "LEFT_EYE_INNER", "LEFT_EYE", "LEFT_EYE_OUTER", "RIGHT_EYE_INNER", "RIGHT_EYE", "RIGHT_EYE_OUTER"),
    *("LEFT_EAR", "RIGHT_EAR", "MOUTH_LEFT", "MOUTH_RIGHT"),
    *(
        f"{side}_{joint}"
        for joint in (
            *("SHOULDER", "ELBOW", "WRIST", "PINKY", "INDEX", "THUMB"),
            *("HIP", "KNEE", "ANKLE", "HEEL", "FOOT_INDEX"),
        )
        for side in ("LEFT", "RIGHT")
    ),
)
_MEDIAPIPE_HAND = (
    *("WRIST", "THUMB_CMC", "THUMB_MCP", "THUMB_IP", "THUMB_TIP"),
    *(
        f"{finger}_{joint}"
        for finger in ("INDEX_FINGER", "MIDDLE_FINGER", "RING_FINGER", "PINKY")
        for joint in ("MCP", "PIP", "DIP", "TIP")
    ),
)


def _holistic(name: str, pose: str, hands: tuple[str, ...]) -> Layout:
    return _layout(
        name,
        {pose: _MEDIAPIPE_POSE, **dict.fromkeys(hands, _MEDIAPIPE_HAND)},
        {
            joint: _both(pose, ("LEFT_SHOULDER", "RIGHT_SHOULDER") if joint == "neck" else (joint.upper(),))
            for joint in BODY
        },
        [point for hand in hands for point in _both(hand, _MEDIAPIPE_HAND)],
    )


BLAZEPOSE_33 = _keypoints(
    "BlazePose-33",
    tuple(point.lower() for point in _MEDIAPIPE_POSE),
    _WITH_MEAN_NECK,
)
HOLISTIC = _holistic("MediaPipe Holistic", "POSE_LANDMARKS", ("LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS"))
HOLISTIC_WORLD = _holistic("MediaPipe world landmarks", "POSE_WORLD_LANDMARKS", ())


def _named_wholebody(suffix: str) -> Layout:
    """COCO-WholeBody as `.pose` files have it: a component for the body and one for each hand."""
    body, left, right = (f"{part}{suffix}" for part in ("BODY", "LEFT_HAND", "RIGHT_HAND"))
    return _layout(
        f"COCO-WholeBody {body}",
        {body: _COCO_BODY, left: _COCO_HAND, right: _COCO_HAND},
        _coco_body(body),
        _both(left, _COCO_HAND) + _both(right, _COCO_HAND),
    )


BY_COMPONENT: Mapping[str, Layout] = MappingProxyType(
    {
        "POSE_LANDMARKS": HOLISTIC,
        "pose_keypoints_2d": OPENPOSE_25,
        "BODY_135": OPENPOSE_135,
        "BODY": _named_wholebody(""),
        "BODY_133": _named_wholebody("_133"),
        "BODY_136": _named_wholebody("_136"),
    }
)
"""Layouts of files that name their points, by the component that holds the body."""


BY_POINTS: Mapping[int, Layout] = MappingProxyType(
    {
        len(layout.components["keypoints"]): layout
        for layout in (COCO_17, HALPE_26, BLAZEPOSE_33, HALPE_68, WHOLEBODY_133, WHOLEBODY_134, HALPE_136)
    }
)
"""Layouts of files that do not name their points, by the number of points."""


# Points that a file names

_FINGER_NAMES = "thumb|index|fore|middle|ring|little|pinky"
_SEGMENTS = {"thumb": ("cmc", "mcp", "ip", "tip"), "finger": ("mcp", "pip", "dip", "tip")}
_MARKERS = {  # the Plug-in Gait marker set of optical systems
    "nose": ("lfhd", "rfhd"),
    **{
        f"{side}_{joint}": (f"{side[0]}{code}",)
        for side in SIDES
        for joint, code in (("shoulder", "sho"), ("elbow", "elb"))
    },
    **{f"{side}_wrist": (f"{side[0]}wra", f"{side[0]}wrb") for side in SIDES},
}


def _joint_named(name: str) -> tuple[str, bool] | None:
    """The joint that a program's name means, and whether it means that in complete hands only."""
    word = re.sub(r"[^a-z0-9]", "", name.rpartition(":")[2].lower())
    word = re.sub(r"^body(?=nose|left|right)", "", word)
    if word in ("nose", "neck"):
        return word, False
    match = re.match(r"(left|right|l|r)(.*)|(.*?)(left|right|l|r)$", word)
    if match is None:
        return None
    side = "left" if (match[1] or match[4])[0] == "l" else "right"
    rest = match[2] if match[1] else match[3]
    if rest in ("shoulder", "elbow", "wrist"):
        return f"{side}_{rest}", False
    if rest in ("hand", "handroot", "handwrist"):
        return f"{side}_hand_root", False
    match = re.match(rf"(?:hand)?({_FINGER_NAMES})(?:finger)?(?:(cmc|mcp|pip|dip|ip|tip)|([1-4])\D*)?$", rest)
    if match is None:
        return None
    finger = {"pinky": "little", "fore": "index"}.get(match[1], match[1])
    if match[2]:
        segments = _SEGMENTS["thumb" if finger == "thumb" else "finger"]
        return (f"{side}_{finger}_{segments.index(match[2]) + 1}", False) if match[2] in segments else None
    # Pose2Sim leaves the number out of the joint that it uses; BlazePose calls rough points of the hand alike.
    return f"{side}_{finger}_{match[3] or (2 if finger == 'thumb' else 1)}", not match[3]


def by_names(names: Sequence[str]) -> Layout:
    """The layout of one component `points` whose points the file names; joints without a point are missing.

    It understands rtskel's own names, those of OpenPose, MediaPipe, freemocap and Pose2Sim, and Plug-in Gait's markers.
    Without a neck, the middle of the shoulders is taken; without a hand root, the wrist if the hand has fingers.
    """
    found: dict[str, tuple[str, ...]] = {}
    doubtful: dict[str, str] = {}
    for name in names:
        joint = _joint_named(name)
        if joint is not None:
            (doubtful if joint[1] else found).setdefault(joint[0], name if joint[1] else (name,))  # type: ignore[arg-type]
    for joint_name, name in doubtful.items():
        side, finger, _ = joint_name.split("_")
        if f"{side}_{finger}_3" in found:
            found.setdefault(joint_name, (name,))
    lower = {name.rpartition(":")[2].lower(): name for name in names}
    for joint_name, markers in _MARKERS.items():
        if joint_name not in found and all(marker in lower for marker in markers):
            found[joint_name] = tuple(lower[marker] for marker in markers)
    if "nose" not in found and "head" in lower:
        found["nose"] = (lower["head"],)
    shoulders = [found.get(f"{side}_shoulder") for side in SIDES]
    if "neck" not in found and all(shoulders):
        found["neck"] = tuple(name for points in shoulders for name in points or ())
    for side in SIDES:
        if f"{side}_middle_1" in found and f"{side}_wrist" in found:
            found.setdefault(f"{side}_hand_root", found[f"{side}_wrist"])
    sources = tuple(tuple(("points", name) for name in found.get(joint, ())) for joint in UPPER_BODY_50.names)
    return Layout("named points", MappingProxyType({"points": tuple(names)}), sources)


_ROWS = 4096


def stated_confidence(
    points: Mapping[str, NDArray[np.floating]], confidence: Mapping[str, NDArray[np.floating]], options: Options
) -> Mapping[str, NDArray[np.floating]]:
    """Confidences of a whole file's points, both as for `gather`: 1 for points with a position where all are 0."""
    confidence = _found(points, in_shares(confidence, options), options)
    if any((array > 0).any() for array in confidence.values()):
        return confidence
    placed = {part: np.isfinite(array).all(axis=-1) & array.any(axis=-1) for part, array in points.items()}
    if any(array.any() for array in placed.values()):
        what = "no confidence is above 0" if any((array < 0).any() for array in confidence.values()) else _ALL_ZERO
        options.note(f"{what}: points with a position are used, with confidence 1")
    return {part: array.astype(np.float64) for part, array in placed.items()}


def _found(
    points: Mapping[str, NDArray[np.floating]], confidence: Mapping[str, NDArray[np.floating]], options: Options
) -> Mapping[str, NDArray[np.floating]]:
    """Confidences as they are, but 0 for points at (-1, -1), as some programs place those that they have not found."""
    lost = {part: (array[..., :2] == -1).all(axis=-1) & (confidence[part] > 0) for part, array in points.items()}
    if not any(array.any() for array in lost.values()):
        return confidence
    if max(float(np.nanmax(np.abs(array), initial=0)) for array in points.values()) <= 2:  # fractions of the image
        return confidence
    options.note(f"points at (-1, -1) are taken as not found ({sum(int(array.sum()) for array in lost.values())})")
    return {part: np.where(lost[part], 0, array) for part, array in confidence.items()}


def in_shares(confidence: Mapping[str, NDArray[np.floating]], options: Options) -> Mapping[str, NDArray[np.floating]]:
    """Confidences of a whole file as shares, where they are percent; what else is not within 0..1 is said.

    Scores of SimCC are a little above 1, and COCO's annotations have 0, 1 and 2: neither is worth a word.
    """
    known = [array[np.isfinite(array)] for array in confidence.values()]
    low, high = (float(of(list(map(of, filter(np.size, known))) or [0.0])) for of in (np.min, np.max))
    if low >= 0 and _LEAST_PERCENT < high <= 100:
        options.note(f"confidences reach {high:.4g}: taken as percent")
        return {part: array / 100 for part, array in confidence.items()}
    if high > _MOST_SURE and not (low >= 0 and all(np.isin(array, (0, 1, 2)).all() for array in known)):
        options.note(f"confidences reach {high:.4g}: 1 and more count as 1")
    if low < 0 < high:
        share = sum(int((array < 0).sum()) for array in known) / max(sum(map(np.size, known)), 1)
        options.note(f"confidences are as low as {low:.4g}: points below 0 ({share:.0%}) count as not found")
    return confidence


_ALL_ZERO = "every confidence is 0"
_MOST_SURE, _LEAST_PERCENT = 1.5, 20.0


def gather(
    layout: Layout,
    points: Mapping[str, NDArray[np.floating]],
    confidence: Mapping[str, NDArray[np.floating]],
    names: Mapping[str, Sequence[str]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The 50 joints from an estimator's points.

    A joint that is the mean of several points needs all of them and gets the lowest of their confidences. A joint whose
    component or point is absent is missing. Confidences are clipped to 0..1 (SimCC scores exceed 1); a point with a
    NaN or infinite value is missing.

    Args:
        points: [..., P, D] of each component that is present.
        confidence: [..., P] of the same components.
        names: point names of each component, if the file states them. Default: the layout's.

    Returns:
        [..., 50, D] positions, 0 where missing, and [..., 50] confidences.
    """
    names = layout.components if names is None else names
    rows = len(next(iter(points.values())))
    if rows > _ROWS and all(array.ndim > 2 for array in points.values()):  # bounds the memory of intermediate results
        parts = [
            gather(
                layout,
                {part: array[at : at + _ROWS] for part, array in points.items()},
                {part: array[at : at + _ROWS] for part, array in confidence.items()},
                names,
            )
            for at in range(0, rows, _ROWS)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    first: dict[str, int] = {}
    total = 0
    for component, array in points.items():
        first[component] = total
        total += array.shape[-2]
    where = {(part, name): first[part] + k for part in points for k, name in enumerate(names[part])}
    width = max(map(len, layout.sources))
    index = np.full((len(layout.sources), width), total)  # one past the last row: a point that is always missing
    for joint, sources in enumerate(layout.sources):
        if sources:
            found = [where.get(source, total) for source in sources]
            index[joint] = [*found, *found[:1] * (width - len(found))] if len(found) < width else found
    flat = np.concatenate([*points.values()], axis=-2, dtype=np.float64)
    sure = np.concatenate([*confidence.values()], axis=-1, dtype=np.float64)
    sure = np.where(np.isfinite(flat).all(axis=-1) & (sure > 0), np.minimum(sure, 1.0), 0.0)
    flat = np.where(sure[..., None] > 0, flat, 0.0)
    flat = np.concatenate([flat, np.zeros_like(flat[..., :1, :])], axis=-2)
    sure = np.concatenate([sure, np.zeros_like(sure[..., :1])], axis=-1)
    joints_sure = sure[..., index].min(axis=-1)
    joints = np.where(joints_sure[..., None] > 0, flat[..., index, :].mean(axis=-2), 0.0)
    with np.errstate(over="ignore"):
        return joints.astype(np.float32), joints_sure.astype(np.float32)
