"""A made-up person who waves, and how programs write such a person down."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

LEFT_HAND, RIGHT_HAND = slice(8, 29), slice(29, 50)
IMAGE = (1280, 720)


def joints(t: float, phase: float = 0.0) -> np.ndarray:
    """[50, 3] metres at t seconds: x to the image's right, y down, z toward the camera; faces the camera."""
    a, b = np.sin(4.4 * t + phase), np.cos(3.1 * t + phase)
    xyz = np.zeros((50, 3))
    xyz[0] = (0.01 * a, -0.21, 0.07)
    for shoulder, side in ((2, -1), (5, 1)):
        xyz[shoulder] = (0.18 * side, 0.01, 0.0)
        xyz[shoulder + 1] = (side * (0.25 + 0.02 * a), 0.28, 0.05 + 0.02 * b)
        xyz[shoulder + 2] = (side * (0.13 + 0.07 * b), 0.13 - 0.1 * a, 0.25)
    for root, wrist, side in ((8, 7, 1), (29, 4, -1)):
        xyz[root] = xyz[wrist] + (0.0, -0.01, 0.01)
        for finger in range(5):
            angle = side * (0.25 * finger - 0.5)
            for k in range(4):
                reach = 0.06 + 0.025 * k
                xyz[root + 1 + 4 * finger + k] = xyz[root] + (reach * np.sin(angle), -reach * np.cos(angle), 0.01 * k)
    return xyz


def pixels(t: float, x: float = 640.0, y: float = 300.0, scale: float = 600.0, phase: float = 0.0) -> np.ndarray:
    """[50, 2] where the person's joints lie in an image of `IMAGE`."""
    return joints(t, phase)[:, :2] * scale + (x, y)


def with_scores(points: np.ndarray, score: float = 0.8) -> list[float]:
    """x, y, (z,) confidence one after another."""
    return np.concatenate([points, np.full((len(points), 1), score)], axis=1).round(4).ravel().tolist()


def body_25(p: np.ndarray) -> np.ndarray:
    """BODY_25 of 50 joints [50, D], with hips and legs below."""
    legs = p[1] + np.arange(1, 18)[:, None] * np.eye(p.shape[1])[1] * (0.03 * np.ptp(p[:, 1]))
    return np.concatenate([p[:8], legs])


def coco_17(p: np.ndarray) -> np.ndarray:
    """COCO's 17 points of 50 joints."""
    points = np.repeat(p[1:2], 17, axis=0) + np.eye(p.shape[1])[1] * np.ptp(p[:, 1])
    points[0], points[1:5] = p[0], p[0] + np.eye(p.shape[1])[1] * -0.01
    points[[5, 6, 7, 8, 9, 10]] = p[[5, 2, 6, 3, 7, 4]]
    return points


def halpe_26(p: np.ndarray) -> np.ndarray:
    """Halpe's 26 points."""
    return np.concatenate([coco_17(p), p[:1], p[1:2], np.repeat(p[1:2], 7, axis=0)])


def halpe_136(p: np.ndarray) -> np.ndarray:
    return np.concatenate([halpe_26(p), np.repeat(p[:1], 68, axis=0), p[LEFT_HAND], p[RIGHT_HAND]])


def wholebody_133(p: np.ndarray) -> np.ndarray:
    return np.concatenate([coco_17(p), np.repeat(p[1:2], 74, axis=0), p[LEFT_HAND], p[RIGHT_HAND]])


def blazepose_33(p: np.ndarray) -> np.ndarray:
    points = np.repeat(p[1:2], 33, axis=0) + np.eye(p.shape[1])[1] * np.ptp(p[:, 1])
    points[0], points[1:11] = p[0], p[0]
    points[[11, 12, 13, 14, 15, 16]] = p[[5, 2, 6, 3, 7, 4]]
    return points


def openpose(p: np.ndarray, score: float = 0.8, **more: Any) -> dict[str, Any]:
    """A person as OpenPose writes one."""
    unused = ("face_keypoints_2d", "pose_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d")
    return {
        "person_id": [-1],
        "pose_keypoints_2d": with_scores(body_25(p), score),
        "hand_left_keypoints_2d": with_scores(p[LEFT_HAND], score),
        "hand_right_keypoints_2d": with_scores(p[RIGHT_HAND], score),
        **{key: [] for key in unused},
        **more,
    }


def folder_of(folder: Path, frames: Iterable[Any], name: str = "clip_{:012}_keypoints.json", first: int = 0) -> Path:
    """A folder with one JSON file per frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, value in enumerate(frames, first):
        (folder / name.format(number)).write_text(json.dumps(value))
    return folder


def openpose_folder(folder: Path, people: Iterable[Any], **how: Any) -> Path:
    """A folder of OpenPose's JSON, of the `people` in each frame."""
    return folder_of(folder, ({"version": 1.3, "people": each} for each in people), **how)


def landmarks(points: np.ndarray, visibility: float | None, **more: Any) -> list[dict[str, Any]]:
    """MediaPipe's landmarks of points [P, 2 or 3], as fractions of `IMAGE`."""
    size = np.array([*IMAGE, IMAGE[0]])[: points.shape[1]]
    rows = np.pad(points / size, ((0, 0), (0, 3 - points.shape[1])))
    return [{"x": x, "y": y, "z": z, "visibility": visibility, **more} for x, y, z in rows.tolist()]
