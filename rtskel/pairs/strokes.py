"""Fast arms: drumming, clapping, punching, shaking and conducting, one to 4.5 strokes a second.

Signing is slow beside them. Arms reach for places as those of `rtskel.training.synthesize` do; what differs is the
path: an impact or a swing that repeats, with accents, pauses, a tempo that wanders and places that change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rtskel.pairs.retarget import unit
from rtskel.training.synthesize import (
    HAND_SHAPES,
    TURN_HIGH,
    TURN_LOW,
    ArmPath,
    Track,
    pose,
    random_body,
    random_shape,
    sway,
)

F64 = NDArray[np.float64]

KINDS: Mapping[str, float] = MappingProxyType(
    {"drum": 0.42, "clap": 0.20, "punch": 0.13, "shake": 0.15, "conduct": 0.10}
)
"""Kinds of strokes, and how often they occur."""

SLOWEST, FASTEST = 1.0, 4.5
"""Strokes a second of one arm."""

TOP_SPEED = 4.2
"""Metres a second that a wrist reaches in mid-stroke at most."""

LOWEST, HIGHEST = np.array([-0.25, -0.7, 0.25]), np.array([1.2, 1.4, 1.15])
"""Places that arms reach for, in the units of `rtskel.training.synthesize.PLACES`; below the chin, 0.36 in front."""


def strokes(random: np.random.Generator, seconds: float, fps: float) -> tuple[str, F64]:
    """One of `KINDS`, and its motion [N, 50, 3]: metres, canonical axes, a body of its own."""
    kind = str(random.choice(list(KINDS), p=list(KINDS.values())))
    body = random_body(random)
    beats = _Beats(random, seconds, fps, body.shoulder_width)
    together = kind == "clap" or random.random() < 0.25
    offset = np.zeros(2) if kind == "clap" else random.uniform(-0.06, 0.06, 2)
    first = beats.at(float(offset[0]))
    second = beats.at(float(offset[1]) + (0.0 if together else 0.5), kind == "drum" and random.random() < 0.3)
    left, right = _ARMS[kind](beats, (first, second))
    trunk, head = sway(random, seconds, beats.time)
    nod = 0.05 * random.uniform(0, 1.5) * first.swing
    return kind, pose(body, (left, right), trunk + nod * [0.1, 0.5, 0.1], head + nod * [0.2, 1.0, 0.2])


@dataclass(frozen=True, eq=False)
class Beat:
    """The strokes of one arm.

    Attributes:
        impact: [N, 1] how far the arm is from where it hits, 0 to 1.
        swing: [N, 1] to and fro, -1 to 1.
        double: [N, 1] the same, twice as often.
    """

    impact: F64
    swing: F64
    double: F64


class _Beats:
    """The tempo of a clip of N frames, and random values that change now and then within it.

    Attributes:
        time: [N] in seconds.
        size: of strokes, in shoulder widths.
    """

    def __init__(self, random: np.random.Generator, seconds: float, fps: float, shoulder_width: float) -> None:
        self.random, self._seconds = random, seconds
        self.time = np.arange(round(seconds * fps)) / fps
        rate = float(np.exp(random.uniform(np.log(SLOWEST), np.log(FASTEST))))
        tempo = rate * (1 + 0.12 * self.slow([-1], [1], (0.6, 2.0))[:, 0])
        self._phase = np.cumsum(tempo) / fps
        self._accents = random.uniform(0.35, 1.0, 2 * int(self._phase[-1]) + 4)
        self._sharpness = random.uniform(0.8, 2.2)
        self._awake = np.clip(self.slow([-0.25], [1.6], (0.2, 0.6)), 0, 1)  # strokes pause now and then
        self.size = min(random.uniform(0.25, 1.3), TOP_SPEED / (np.pi * rate * shoulder_width))

    def slow(self, low: list[float], high: list[float], pace: tuple[float, float]) -> F64:
        """[N, D] within [D] and [D]: at rest, then on to the next value within `pace` seconds, and so on."""
        track = Track(self.random.uniform(low, high))
        at = self.random.uniform(0, 0.5)
        while at < self._seconds:
            duration = self.random.uniform(*pace)
            track.move(at, duration, self.random.uniform(low, high))
            at += duration * self.random.uniform(1.0, 3.0)
        return track.at(self.time)

    def at(self, offset: float, other_rate: bool = False) -> Beat:
        """An arm whose strokes come that much of a stroke later, or at half or twice the rate."""
        phase = self._phase + offset + 1
        if other_rate:
            phase = phase * self.random.choice([0.5, 2.0])
        phase = phase - np.floor(phase.min())
        accent = self._accents[np.minimum(phase.astype(np.int64), len(self._accents) - 1)]
        impact = np.abs(np.sin(np.pi * phase)) ** self._sharpness * accent
        swing, double = np.sin(2 * np.pi * phase), np.sin(4 * np.pi * phase + self.random.uniform(0, 2 * np.pi))
        return Beat(*(value[:, None] * self._awake for value in (impact, swing, double)))

    def arm(self, place: F64, turn: F64, shape: str) -> ArmPath:
        """An arm of one hand shape: [N, 3] places and turns, within what arms can do."""
        place = np.clip(place, LOWEST, HIGHEST)
        place[:, 2] = np.maximum(place[:, 2], np.where(place[:, 1] > -0.1, 0.36, LOWEST[2]))
        form = np.tile(random_shape(self.random, shape), (len(place), 1))
        swivel = self.slow([0], [35], (0.5, 2))
        return ArmPath(place, np.clip(turn, TURN_LOW, TURN_HIGH), form, swivel)


Pair = tuple[Beat, Beat]
Arms = tuple[ArmPath, ArmPath]


def _drum(beats: _Beats, pair: Pair) -> Arms:
    """From place to place every few strokes; the wrist lifts with the arm."""
    arms = []
    for beat in pair:
        base = beats.slow([0.05, 0.75, 0.5], [0.8, 1.15, 0.95], (0.15, 0.35))
        lift = beats.size * np.array([0.1, -0.8, 0.25 * beats.random.uniform(-1, 1)])
        shape = str(beats.random.choice(["fist, thumb beside", "fist, thumb across", "pinch", "relaxed", "flat"]))
        arms.append(beats.arm(base + beat.impact * lift, [70.0, 5, 0] + beat.impact * [0, -40.0, 0], shape))
    return arms[0], arms[1]


def _clap(beats: _Beats, pair: Pair) -> Arms:
    """Both hands, each as the other's mirror image."""
    base = beats.slow([0.17, 0.15, 0.65], [0.24, 0.9, 1.0], (0.4, 1.2))
    shape = str(beats.random.choice(["flat", "open", "cup"]))
    place = base + min(beats.size, 0.7) * pair[0].impact * [1.0, 0.1, 0]
    turn = np.tile([10.0, 0, 0], (len(place), 1))
    return beats.arm(place, turn, shape), beats.arm(place, turn, shape)


def _punch(beats: _Beats, pair: Pair) -> Arms:
    """Fists, forward."""
    arms = []
    for beat in pair:
        base = beats.slow([0.1, 0.15, 0.4], [0.4, 0.6, 0.5], (0.5, 1.5))
        place = base + beats.size * beat.impact * [-0.15, -0.15, 1.0]
        arms.append(beats.arm(place, [30.0, 0, 0] + beat.impact * [45.0, 0, 0], "fist, thumb across"))
    return arms[0], arms[1]


def _shake(beats: _Beats, pair: Pair) -> Arms:
    """To and fro in any direction, as in waving."""
    arms = []
    for beat in pair:
        base = beats.slow([0.2, -0.4, 0.4], [1.0, 0.7, 0.85], (0.4, 1.2))
        way = unit(beats.random.normal(0, 1, 3) * [1, 0.8, 0.4])
        turn = [30.0, 0, 0] + beat.swing * (beats.random.normal(0, 1, 3) * [35, 25, 12])
        arms.append(beats.arm(base + 0.5 * beats.size * beat.swing * way, turn, _any_shape(beats)))
    return arms[0], arms[1]


def _conduct(beats: _Beats, pair: Pair) -> Arms:
    """Figures of two beats."""
    arms = []
    for beat in pair:
        base = beats.slow([0.3, 0.2, 0.5], [0.7, 0.6, 0.8], (0.6, 2.0))
        figure = beat.swing * [0.8, 0.2, 0.2] + beat.double * [0.15, 0.5, 0.1]
        shape = str(beats.random.choice(["index", "pinch", "relaxed", "flat"]))
        arms.append(beats.arm(base + 0.5 * beats.size * figure, [60.0, 0, 0] + beat.swing * [15.0, 20, 10], shape))
    return arms[0], arms[1]


def _any_shape(beats: _Beats) -> str:
    return str(beats.random.choice(list(HAND_SHAPES)))


_ARMS: Mapping[str, Callable[[_Beats, Pair], Arms]] = MappingProxyType(
    {"drum": _drum, "clap": _clap, "punch": _punch, "shake": _shake, "conduct": _conduct}
)
