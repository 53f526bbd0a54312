"""Cameras: where one stands before a body in motion, and where it sees points.

Bodies' axes: x to the person's left, y backward, z up. What a camera sees is RDA: x to the right, y down, z away from
it, in metres from its centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtskel.pairs.retarget import unit

F64 = NDArray[np.float64]

SIZES = (
    (256, 256),
    (320, 240),
    (320, 320),
    (480, 360),
    (640, 480),
    (480, 480),
    (640, 360),
    (360, 480),
    (720, 540),
    (420, 520),
)
"""Width and height of pictures, small ones above all: they are what estimators are bad at, and are rendered fast."""

SIZE_WEIGHTS = (0.05, 0.10, 0.16, 0.20, 0.09, 0.14, 0.08, 0.11, 0.02, 0.05)

NEAR, FAR = 0.05, 20.0
"""Metres between which something is seen."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        width, height: of its picture, in pixels.
        focal: length, in pixels.
        eye: [3] its centre.
        axes: [3, 3], in rows: to the right, down, and away in its picture.
        settings: how it was drawn.
    """

    width: int
    height: int
    focal: float
    eye: F64
    axes: F64
    settings: dict[str, float | bool]

    @classmethod
    def drawn(cls, random: np.random.Generator, joints: F64) -> Camera:
        """A camera that sees a body whose joints move as [N, 50, 3] do; one in four cuts off what is at the edge."""

        def between(low: float, high: float) -> float:
            return float(random.uniform(low, high))

        width, height = SIZES[int(random.choice(len(SIZES), p=SIZE_WEIGHTS))]
        cropped = bool(random.uniform() < 0.25)
        view, pitch = np.radians(between(28, 65)), np.radians(between(-12, 16))
        roll = np.radians(random.normal(0, 1.5))
        straight = random.uniform() < 0.8
        yaw = np.radians(between(-30, 30) if straight else float(random.choice([-1, 1])) * between(30, 60))
        low, high = np.percentile(joints.reshape(-1, 3), [1, 99], axis=0)
        target = (low + high) / 2 + [between(-0.05, 0.05), 0, between(-0.1, 0.08)]
        back = np.array([np.sin(yaw) * np.cos(pitch), -np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
        right = unit(np.cross(-back, [0.0, 0.0, 1.0]))
        up = np.cross(right, -back)
        right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
        axes = np.stack([right, -up, -back])
        focal = height / 2 / np.tan(view / 2)
        seen = np.concatenate([joints, joints[:, [0]] + [0, 0, 0.14]], axis=1)  # up to the crown of the head
        distance = _distance(seen, target, back, axes, 0.47 * width / focal, 0.47 * height / focal)
        distance *= between(0.72, 0.92) if cropped else between(1.0, 1.35)
        settings = {
            "fov_deg": float(np.degrees(view)),
            "focal_px": float(focal),
            "yaw_deg": float(np.degrees(yaw)),
            "pitch_deg": float(np.degrees(pitch)),
            "distance_m": float(distance),
            "cropped": cropped,
        }
        return cls(width, height, float(focal), target + distance * back, axes, settings)

    def seen(self, points: F64) -> F64:
        """Points [..., 3] of the body's axes in the camera's."""
        return (points - self.eye) @ self.axes.T

    def pixels(self, seen: F64) -> F64:
        """Where in the picture [..., 2] the camera's points [..., 3] are; the first pixel's corner is 0."""
        at: F64 = seen[..., :2] / seen[..., 2:] * self.focal + [self.width / 2, self.height / 2]
        return at

    @property
    def matrix(self) -> F64:
        """OpenGL's [4, 4]: from the body's axes to clip space."""
        view = np.eye(4)
        view[:3, :3] = self.axes * [[1], [-1], [-1]]
        view[:3, 3] = -view[:3, :3] @ self.eye
        project = np.zeros((4, 4))
        project[0, 0], project[1, 1] = 2 * self.focal / self.width, 2 * self.focal / self.height
        project[2, 2:] = -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
        project[3, 2] = -1
        return project @ view


def _distance(points: F64, target: F64, back: F64, axes: F64, wide: float, high: float) -> float:
    """The smallest distance in metres from which points [N, J, 3] are seen within tangents `wide` and `high`."""
    found = 0.0
    for found in np.arange(0.5, 6, 0.05):
        x, y, z = np.moveaxis((points - target - found * back) @ axes.T, -1, 0)
        if z.min() < 0.15:
            continue
        if (np.abs(x / z) < wide).mean() > 0.995 and (np.abs(y / z) < high).mean() > 0.995:
            break
    return float(found)
