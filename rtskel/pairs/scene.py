"""What a picture shows besides the body's shape: skin, hair, clothes, light and what is behind, drawn at random.

Clothes and hair stand off the skin unevenly, as real ones do: an estimator sees them, and the joints are beneath.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.pairs.body import Body
from rtskel.pairs.retarget import unit

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

CLOTHED = ("spine", "pelvis", "leg", "foot", "toe", "clavicle", "shoulder", "root", "breast", "upperarm01")
SLEEVES = ((), ("upperarm02",), ("upperarm02", "lowerarm01"), ("upperarm02", "lowerarm01", "lowerarm02"))
"""Bones that sleeves of each length cover in addition."""


@dataclass(frozen=True, eq=False)
class Looks:
    """Of one body with V vertices.

    Attributes:
        color: [V, 3], 0 to 1.
        dressed: [V] which vertices are clothes.
        thickness: [V] metres by which clothes and hair stand off the skin.
        settings: how they were drawn.
    """

    color: F64
    dressed: NDArray[np.bool_]
    thickness: F64
    settings: dict[str, Any]

    @classmethod
    def drawn(cls, random: np.random.Generator, body: Body) -> Looks:
        """Random looks."""

        def between(low: float, high: float) -> float:
            return float(random.uniform(low, high))

        tone = [between(0.25, 1.05), between(0.92, 1.04), between(0.85, 1.1)]
        skin = np.clip(np.array([0.92, 0.70, 0.58]) * tone[0] * [1, tone[1], tone[2]], 0.05, 1)
        cloth, trousers = random.uniform(0.03, 0.9, 3), random.uniform(0.03, 0.7, 3)
        hair = between(0.02, 0.5) * np.array([1, between(0.6, 1), between(0.3, 0.9)])
        sleeve = int(random.choice(3, p=[0.2, 0.4, 0.4]))
        if sleeve == 2:
            sleeve = int(random.integers(2, 4))
        share = body.share_of(body.rig.named((*CLOTHED, *SLEEVES[sleeve])))
        dressed = share > 0.5
        color = np.where(dressed[:, None], cloth, skin)
        color = np.where((body.share_of(body.rig.named(("leg", "foot", "toe"))) > 0.5)[:, None], trousers, color)
        hairy = _hairy(random, body)
        color = np.where(hairy[:, None], hair, color)
        loose, thick = abs(float(random.normal(0, 0.008))), abs(float(random.normal(0, 0.012)))
        folds = np.clip(1 + 0.7 * _lumps(random, body.vertices, 0.12), 0, 3)
        curls = np.clip(1 + 0.5 * _lumps(random, body.vertices, 0.05), 0.2, 2.5)
        thickness = np.clip(share * 2 - 1, 0, 1) * loose * folds + hairy * thick * curls
        return cls(
            color, dressed, thickness, {"sleeve": sleeve, "skin": skin.tolist(), "loose_m": loose, "hair_m": thick}
        )


def _hairy(random: np.random.Generator, body: Body) -> NDArray[np.bool_]:
    """Which vertices [V] carry hair, if any does: what is high on the head, or behind."""
    up = body.vertices[:, 2] - body.vertices[body.nose, 2]
    back = body.vertices[:, 1] - body.vertices[body.nose, 1]
    high = up > random.uniform(0.06, 0.09)
    behind = (back > random.uniform(0.09, 0.12)) & (up > random.uniform(-0.1, 0.0))
    bald = random.uniform() >= 0.88
    hairy: NDArray[np.bool_] = (body.share_of([body.rig["head"]]) > 0.5) & (high | behind) & (not bald)
    return hairy


def _lumps(random: np.random.Generator, at: F64, size: float) -> F64:
    """Smooth noise [V] of about unit size at points [V, 3], whose lumps are about `size` metres wide."""
    waves = 12
    direction = random.normal(0, 1 / size, (waves, 3))
    noise: F64 = np.sin(at @ direction.T + random.uniform(0, 6.3, waves)).sum(axis=1) / np.sqrt(waves / 2)
    return noise


@dataclass(frozen=True, eq=False)
class Light:
    """A key light, a weaker one from the other side, and light from everywhere.

    Attributes:
        key, fill, ambient: how strong they are.
        key_from, fill_from: [3] unit vectors toward them, body's axes.
        tint: [3] color of all light.
    """

    key_from: F64
    fill_from: F64
    tint: F64
    ambient: float
    key: float
    fill: float

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Light:
        """A random light, from in front."""
        key_from = unit(np.array([random.uniform(-1, 1), -random.uniform(0.4, 1.2), random.uniform(0.1, 1.5)]))
        fill_from = unit(np.array([-key_from[0], -0.6, random.uniform(-0.3, 0.6)]))
        tint = np.clip(random.normal(1, 0.06, 3), 0.8, 1.2)
        ambient, key, fill = (float(random.uniform(*of)) for of in ((0.3, 0.6), (0.35, 0.85), (0, 0.3)))
        return cls(key_from, fill_from, tint, ambient, key, fill)

    @property
    def settings(self) -> dict[str, float]:
        """As numbers."""
        return {"ambient": self.ambient, "key": self.key, "fill": self.fill}


def weave(random: np.random.Generator) -> tuple[float, float, float, float]:
    """Stripes of clothes: a wave vector, often 0 in some directions, and how strong they are."""
    x, y, z = random.normal(0, 60, 3) * (random.uniform(size=3) < 0.5)
    strong = random.uniform(0.05, 0.3) if random.uniform() < 0.5 else 0.02
    return float(x), float(y), float(z), float(strong)


def backdrop(random: np.random.Generator, width: int, height: int) -> tuple[str, NDArray[np.uint8]]:
    """What is behind the person: its kind, and uint8 [height, width, 3]."""
    cv2: Any = importlib.import_module("cv2")
    kind = str(random.choice(["plain", "gradient", "noise", "blocks"], p=[0.35, 0.25, 0.25, 0.15]))
    base = random.uniform(40, 220, 3)
    picture: Any = np.tile(base, (height, width, 1)).astype(np.float32)
    if kind == "gradient":
        corners = np.clip(base + random.normal(0, 40, (2, 2, 3)), 0, 255).astype(np.float32)
        picture = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    elif kind == "noise":
        for cells, strong in ((3, 35), (8, 25), (24, 15), (80, 8)):
            noise = random.normal(0, strong, (cells, cells, 3)).astype(np.float32)
            picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    elif kind == "blocks":
        for _ in range(int(random.integers(5, 14))):
            x, y = int(random.integers(0, width)), int(random.integers(0, height))
            end = x + int(random.integers(20, width // 2)), y + int(random.integers(20, height // 2))
            cv2.rectangle(picture, (x, y), end, tuple(float(value) for value in random.uniform(30, 230, 3)), -1)
        picture = cv2.GaussianBlur(picture, (0, 0), 2)
    return kind, np.clip(picture, 0, 255).astype(np.uint8)
