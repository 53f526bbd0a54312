"""Synthetic recordings: signing-like motion, and what a live pose estimator makes of it.

`synthesize(seconds, fps, seed)` moves a random body through random signs: a hand moves to a place in signing space,
makes a stroke there (a line, an arc, taps, a circle, a twist, a change of hand shape), holds, and moves on, alone or
with the other hand as its mirror image, in alternation, or as its base. Every movement is a minimum-jerk submovement
(Flash and Hogan, "The coordination of arm movements", J. Neurosci. 1985). Submovements may overlap, which rounds the
paths. Arms are posed by two-bone inverse kinematics, hands by anatomical angles within joint limits, positions by
forward kinematics over the tree of `rtskel.skeleton`. The motion has no meaning in any sign language.

`estimator_errors(recording, seed)` turns such a truth into what a live monocular estimator would deliver, for demos and
tests: one recording, in numpy. Training corrupts batches with `rtskel.training.corrupt`.

`python -m rtskel.training.synthesize OUT.npz` makes the recording that `rtskel demo` replays: the truth and the
estimator's version.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rtskel.formats import Recording, write
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50

Array = NDArray[np.float64]

SKELETON = UPPER_BODY_50
SIGN_OF_X = {"left": 1.0, "right": -1.0}
"""Each side of a person who faces the camera, unmirrored."""

# Range of wrist positions relative to the neck, in a frame that turns with the trunk, in shoulder widths: lateral
# (toward the hand's own side), down, toward the camera.
PLACES: Mapping[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = MappingProxyType(
    {
        "neutral": ((0.05, 0.50), (0.35, 0.95), (0.55, 0.95)),
        "chest": ((-0.05, 0.30), (0.40, 0.75), (0.38, 0.52)),
        "mouth": ((0.05, 0.30), (0.02, 0.25), (0.45, 0.62)),
        "temple": ((0.35, 0.60), (-0.35, -0.05), (0.28, 0.45)),
        "forehead": ((0.15, 0.40), (-0.40, -0.15), (0.42, 0.60)),
        "aside": ((0.60, 0.95), (-0.10, 0.50), (0.45, 0.80)),
        "low": ((0.10, 0.55), (0.90, 1.20), (0.50, 0.80)),
        "rest": ((0.10, 0.30), (1.25, 1.38), (0.38, 0.50)),
    }
)
PLACE_WEIGHTS = {
    "neutral": 0.45, "chest": 0.12, "mouth": 0.12, "temple": 0.07, "forehead": 0.06, "aside": 0.1, "low": 0.08,
}  # fmt: skip

# Hand shapes in degrees: flexion at the first and second joint of index, middle, ring and little finger; spread of the
# fingers; the thumb's radial and palmar angle of the metacarpal, and flexion at its first and second joint.
_FIST = (82, 95)
_STRAIGHT = (2, 5)
_ACROSS = (12, 55, 35, 40)
_ASIDE = (28, 15, 8, 10)
HAND_SHAPES: Mapping[str, Array] = MappingProxyType(
    {
        name: np.array([value for finger in fingers for value in finger] + [spread, *thumb], float)
        for name, fingers, spread, thumb in (
            ("flat", (_STRAIGHT,) * 4, 0, _ASIDE),
            ("open", ((0, 2),) * 4, 10, (58, 20, 2, 2)),
            ("fist, thumb beside", (_FIST,) * 4, 0, (32, 22, 18, 15)),
            ("fist, thumb across", (_FIST,) * 4, 0, _ACROSS),
            ("index", (_STRAIGHT, _FIST, _FIST, _FIST), 0, _ACROSS),
            ("two apart", (_STRAIGHT, _STRAIGHT, _FIST, _FIST), 12, _ACROSS),
            ("two together", (_STRAIGHT, _STRAIGHT, _FIST, _FIST), 0, _ACROSS),
            ("three", (_STRAIGHT, _STRAIGHT, _FIST, _FIST), 10, (60, 15, 2, 2)),
            ("three fingers", (_STRAIGHT, _STRAIGHT, _STRAIGHT, _FIST), 8, _ACROSS),
            ("thumb and little", (_FIST, _FIST, _FIST, _STRAIGHT), 5, (62, 10, 2, 2)),
            ("little", (_FIST, _FIST, _FIST, _STRAIGHT), 0, _ACROSS),
            ("thumb and index", (_STRAIGHT, _FIST, _FIST, _FIST), 0, (65, 10, 2, 2)),
            ("cup", ((35, 40),) * 4, 2, (38, 58, 12, 15)),
            ("ring", ((50, 52),) * 4, 0, (30, 62, 22, 25)),
            ("claw", ((18, 62),) * 4, 10, (50, 38, 12, 32)),
            ("pinch", ((48, 58), (10, 12), (6, 8), (2, 5)), 8, (30, 60, 22, 25)),
            ("bent", ((72, 6),) * 4, 0, _ASIDE),
            ("hook", ((20, 88), _FIST, _FIST, _FIST), 0, _ACROSS),
            ("relaxed", ((20, 25), (28, 30), (33, 32), (36, 30)), 2, (35, 30, 14, 15)),
        )
    }
)
_SHAPE_LOW = np.array([-8, 0] * 4 + [-3, 5, 0, -5, -5], float)
_SHAPE_HIGH = np.array([90, 105] * 4 + [15, 70, 70, 55, 70], float)

# Turn of the hand in degrees: pronation (0 = thumb up when the elbow is bent, 90 = palm down), flexion, radial
# deviation.
TURN_LOW = np.array([-75, -55, -28], float)
TURN_HIGH = np.array([88, 60, 18], float)

# Of index, middle, ring and little finger:
_FAN = np.radians((17, 4, -9, -22))  # of the metacarpals, toward the thumb
_SPLAY = np.radians((3, 0, -3, -7))  # of the straight fingers at spread 0
_SPREAD = np.array((1.0, 0.15, -0.5, -1.1))  # angle of each finger at spread 1
_ARCH = np.radians((0, 0, 4, 9))  # of the metacarpals, toward the palm


@dataclass(frozen=True, eq=False)
class Body:
    """A person to move.

    Attributes:
        bone: [50] length of the bone that ends in each joint, in metres.
        shoulder_width: distance between the shoulders at rest, in metres.
        slope: angle by which the shoulders lie below the neck, in radians.
        nose: unit vector from the neck to the nose, head straight, canonical axes.
    """

    bone: Array
    shoulder_width: float
    slope: float
    nose: Array


def random_body(rng: np.random.Generator) -> Body:
    """A body whose size and proportions vary as among adults (about 5% each); left and right are equal."""
    shoulder_width = rng.normal(0.37, 0.02)
    bone = np.array(SKELETON.bone_length) * 3 * shoulder_width  # the table is in thirds of a shoulder width
    # One factor for each arm bone, one for the hand as a whole, one for each finger segment. The skeleton's typical
    # lengths are those of pose estimators, with a slightly short forearm.
    factor = np.exp(rng.normal(0, 0.04, SKELETON.joints))
    hand = np.exp(rng.normal(0, 0.05))
    for name, joint in ((name, joint) for joint, name in enumerate(SKELETON.names) if name.startswith("left_")):
        mirror = SKELETON.mirror[joint]
        factor[joint] *= hand if joint in SKELETON.groups["left_hand"] else 1.0
        if name == "left_elbow":
            factor[joint] *= 0.86
        if name == "left_hand_root":
            factor[joint] *= 0.4
        factor[mirror] = factor[joint]
    slope = np.clip(rng.normal(0.12, 0.06), 0.0, 0.3)
    factor[[RIGHT_SHOULDER, LEFT_SHOULDER]] = 1 / np.cos(slope)
    nose = np.array([0.0, -np.cos(0.38), np.sin(0.38)])
    return Body(bone * factor, shoulder_width, float(slope), nose)


def minimum_jerk(phase: Array) -> Array:
    """Progress 0..1 of a minimum-jerk movement at a phase (0 before it, 1 after it)."""
    s = np.clip(phase, 0, 1)
    return np.asarray(s**3 * (10 - 15 * s + 6 * s**2))


class Track:
    """A value of D numbers that moves from target to target; overlapping movements add up."""

    def __init__(self, start: Array) -> None:
        self.start = start
        self.last = start
        self._moves: list[tuple[float, float, Array, Array]] = []

    def move(self, begin: float, duration: float, target: Array, bulge: Array | None = None) -> None:
        """Move to `target` between `begin` and `begin + duration` (s), with a detour of `bulge` at half the way."""
        self._moves.append((begin, duration, target - self.last, np.zeros_like(target) if bulge is None else bulge))
        self.last = target

    def at(self, time: Array) -> Array:
        """The value [N, D] at times [N] (s)."""
        value = np.tile(self.start, (len(time), 1))
        if self._moves:
            begin, duration, step, bulge = (np.array(column) for column in zip(*self._moves, strict=True))
            phase = np.clip((time[:, None] - begin) / duration, 0, 1)
            value += minimum_jerk(phase) @ step + (64 * (phase * (1 - phase)) ** 3) @ bulge
        return value


@dataclass(frozen=True, eq=False)
class ArmPath:
    """What one arm does in N frames.

    Attributes:
        place: [N, 3] of the wrist, in the units of PLACES.
        turn: [N, 3] pronation, flexion and deviation of the hand in degrees, within `TURN_LOW` and `TURN_HIGH`.
        shape: [N, 13] as HAND_SHAPES.
        swivel: [N, 1] of the elbow about the line from shoulder to wrist in degrees; positive is outward and up.
    """

    place: Array
    turn: Array
    shape: Array
    swivel: Array


@dataclass(frozen=True)
class _Arm:
    """The tracks of one arm, which `ArmPath` explains."""

    place: Track
    turn: Track
    shape: Track
    swivel: Track

    def path(self, time: Array) -> ArmPath:
        """What it does at times [N] (s)."""
        return ArmPath(*(track.at(time) for track in (self.place, self.turn, self.shape, self.swivel)))


def synthesize(seconds: float, fps: float = 25.0, seed: int = 0) -> Recording:
    """Random signing: `round(seconds * fps)` clean poses in metres, canonical axes, 50 joints.

    The neck moves about the origin by a few centimetres. Bone lengths are constant. The same arguments give the same
    recording, up to rounding.

    Raises:
        ValueError: not a single frame.
    """
    frames = round(seconds * fps)
    if frames < 1:
        raise ValueError(f"{seconds} s at {fps} frames a second is no frame")
    rng = np.random.default_rng(seed)
    body = random_body(rng)
    script = _script(rng, seconds)
    time = np.arange(frames) / fps
    trunk, head = sway(rng, seconds, time)
    left, right = (arm.path(time) for arm in script)
    xyz = pose(body, (left, right), trunk, head)
    return Recording(xyz.astype(np.float32), fps, f"signing-{seed}", skeleton=SKELETON.id)


# The script: which arm does what, and when


def _script(rng: np.random.Generator, seconds: float) -> tuple[_Arm, _Arm]:
    """The dominant and the other arm's tracks, as (left, right)."""
    arms = tuple(
        _Arm(
            Track(_between(rng, PLACES["rest"])),
            Track(np.array([45.0, 12.0, 0.0])),
            Track(random_shape(rng, "relaxed")),
            Track(np.array([5.0])),
        )
        for _ in SIGN_OF_X
    )
    strong, weak = (0, 1) if rng.random() < 0.1 else (1, 0)  # nine in ten are right-handed
    time = rng.uniform(0.0, 0.2)
    signs_left = int(rng.integers(6, 14))
    while time < seconds:
        if signs_left == 0:
            signs_left = int(rng.integers(6, 14))
            begin = time
            for arm in arms:
                time = max(time, _go(rng, arm, begin + rng.uniform(0, 0.1), _between(rng, PLACES["rest"]), "relaxed"))
            time += rng.uniform(0.2, 0.8)
            continue
        signs_left -= 1
        time = _sign(rng, arms[strong], arms[weak], time)
    return arms[0], arms[1]


def _sign(rng: np.random.Generator, strong: _Arm, weak: _Arm, time: float) -> float:
    """Script one sign; returns the time when the next may begin."""
    kind = rng.choice(["one", "mirror", "alternate", "base"], p=[0.33, 0.32, 0.15, 0.20])
    names = list(PLACE_WEIGHTS)
    where = str(rng.choice(names, p=np.array(list(PLACE_WEIGHTS.values()))))
    shape = str(rng.choice(list(HAND_SHAPES)))
    turn = _turn(rng, where)
    place = _between(rng, PLACES[where])
    arms = [strong]
    if kind == "one":
        # The other hand stays where it is, or sinks.
        if rng.random() < 0.25 and weak.place.last[1] < 1.2:
            _go(rng, weak, time + rng.uniform(0, 0.2), _between(rng, PLACES["rest"]), "relaxed")
    elif kind == "base":
        base = _between(rng, ((0.05, 0.2), (0.65, 0.9), (0.6, 0.85)))
        flat = str(rng.choice(["flat", "fist, thumb across", "index", "cup"]))
        _go(rng, weak, time, base, flat, np.array([rng.choice([-35.0, 10.0, 80.0]), 0.0, 0.0]))
        # A contact: the dominant hand comes from above, its wrist beside the other's (coordinates of its own side).
        place = np.array([-base[0] + rng.uniform(0.25, 0.45), base[1] - rng.uniform(0.05, 0.3), base[2]])
    else:
        place[0] = max(place[0], 0.18)  # otherwise the hands would overlap
        arms.append(weak)
    arrived = time
    for arm in arms:
        bulge = rng.normal(0, 0.06, 3)
        arrived = max(arrived, _go(rng, arm, time, place, shape, turn, bulge))
    end = arrived
    phase = rng.uniform(0.15, 0.25) if kind == "alternate" else 0.0
    stroke = str(rng.choice(["hold", "line", "arc", "tap", "circle", "twist", "open", "wiggle"]))
    extent = rng.normal(0, 1, 3) * (0.3, 0.27, 0.22)
    twist = rng.normal(0, 1, 3) * (40, 25, 10)
    shape2 = str(rng.choice(list(HAND_SHAPES)))
    beats = int(rng.integers(2, 4))
    pace = rng.uniform(0.85, 1.2)
    for number, arm in enumerate(arms):
        begin = arrived - rng.uniform(0.0, 0.06) + number * phase
        end = max(end, _stroke(rng, arm, begin, stroke, extent, twist, shape2, beats, pace))
    return float(end + rng.choice([0.0, rng.uniform(0.0, 0.25)]))


def _go(
    rng: np.random.Generator,
    arm: _Arm,
    time: float,
    place: Array,
    shape: str,
    turn: Array | None = None,
    bulge: Array | None = None,
) -> float:
    """Move an arm to a place; the hand takes its shape and turn on the way. Returns the time of arrival."""
    place = _clear_of_trunk(place)
    far = float(np.linalg.norm(place - arm.place.last))
    duration = (0.17 + 0.27 * far) * rng.uniform(0.9, 1.15)
    arm.place.move(time, duration, place, bulge)
    # Shape and turn are complete a little before the hand arrives.
    arm.shape.move(time + 0.1 * duration, max(0.16, 0.75 * duration), random_shape(rng, shape))
    arm.turn.move(time + 0.05 * duration, max(0.18, 0.85 * duration), _turn(rng, "rest") if turn is None else turn)
    arm.swivel.move(time, duration, np.array([np.clip(rng.normal(12 if turn is not None else 4, 10), -10, 45)]))
    return time + duration


def _stroke(
    rng: np.random.Generator,
    arm: _Arm,
    time: float,
    stroke: str,
    extent: Array,
    twist: Array,
    shape: str,
    beats: int,
    pace: float,
) -> float:
    place, turn, hand = arm.place.last, arm.turn.last, arm.shape.last
    if stroke in ("line", "arc"):
        duration = float(0.18 + 0.35 * np.linalg.norm(extent)) * pace
        bulge = np.cross(extent, (0.3, 0.5, 0.8)) * 0.5 if stroke == "arc" else None
        arm.place.move(time, duration, _clear_of_trunk(place + extent), bulge)
        arm.turn.move(time, duration, _limit(turn + 0.5 * twist, TURN_LOW, TURN_HIGH))
        return time + duration
    if stroke == "tap":
        beat = 0.17 * pace
        for number in range(beats):
            arm.place.move(time + 2 * number * beat, beat * 1.15, _clear_of_trunk(place + 0.5 * extent))
            arm.place.move(time + (2 * number + 1) * beat, beat * 1.15, place)
        return time + 2 * beats * beat
    if stroke == "circle":
        side = np.cross(extent, (0.3, 0.5, 0.8))
        quarter = 0.13 * pace
        for number in range(4 * beats):
            angle = (number + 1) * np.pi / 2
            target = place + 0.45 * ((1 - np.cos(angle)) * extent + np.sin(angle) * side)
            arm.place.move(time + number * quarter, 2 * quarter, _clear_of_trunk(target))  # overlap makes it round
        return time + (4 * beats + 1) * quarter
    if stroke == "twist":
        beat = 0.2 * pace
        for number in range(beats):
            arm.turn.move(time + 2 * number * beat, beat, _limit(turn + twist, TURN_LOW, TURN_HIGH))
            arm.turn.move(time + (2 * number + 1) * beat, beat, turn)
        return time + 2 * beats * beat
    if stroke == "open":
        arm.shape.move(time, 0.28 * pace, random_shape(rng, shape))
        return time + 0.28 * pace
    if stroke == "wiggle":
        beat = 0.12
        for number in range(2 * beats):
            bent = hand.copy()
            bent[:8] += 22 * np.sin(np.arange(4) * 1.6 + number * 2.2).repeat(2) + 8
            arm.shape.move(time + number * beat, 1.6 * beat, _limit(bent, _SHAPE_LOW, _SHAPE_HIGH))
        arm.place.move(time, 2 * beats * beat, _clear_of_trunk(place + 0.4 * extent))
        return time + 2 * beats * beat
    return time + 0.2 * pace  # hold


def sway(rng: np.random.Generator, seconds: float, time: Array) -> tuple[Array, Array]:
    """Turns of trunk and head [N, 3] in radians: yaw (to the person's left), pitch (forward), roll (to the left)."""

    def wander(spread: tuple[float, float, float], pace: tuple[float, float]) -> Array:
        track = Track(rng.normal(0, 0.5, 3) * spread)
        at = rng.uniform(-0.5, 0.2)
        while at < seconds:
            duration = rng.uniform(*pace)
            track.move(at, duration, np.clip(rng.normal(0, 1, 3), -2, 2) * spread)
            at += duration * rng.uniform(0.6, 1.3)
        return np.radians(track.at(time))

    return wander((6, 3, 3), (0.7, 1.8)), wander((13, 9, 8), (0.25, 0.7))


def _between(rng: np.random.Generator, place: Sequence[tuple[float, float]]) -> Array:
    return np.array([rng.uniform(low, high) for low, high in place])


def _clear_of_trunk(place: Array) -> Array:
    """The nearest place that is neither inside the trunk or head nor far on the other side of the body."""
    lateral, down, front = place
    front = max(front, 0.36 if down > -0.1 else 0.25)
    return np.array([np.clip(lateral, -0.25, 1.1), np.clip(down, -0.6, 1.4), min(front, 1.1)])


def _limit(value: Array, low: Array, high: Array) -> Array:
    return np.asarray(np.clip(value, low, high))


def random_shape(rng: np.random.Generator, name: str) -> Array:
    """One person's version of a hand shape."""
    return _limit(HAND_SHAPES[name] + rng.normal(0, 4, 13), _SHAPE_LOW, _SHAPE_HIGH)


def _turn(rng: np.random.Generator, where: str) -> Array:
    centre = {"rest": (40, 12, 0), "temple": (30, 5, 0), "aside": (45, 0, 0)}.get(where, (20, 5, -3))
    return _limit(rng.normal(centre, (12, 8, 5) if where == "rest" else (38, 22, 9)), TURN_LOW, TURN_HIGH)


# From the script to joint positions


def pose(body: Body, arms: tuple[ArmPath, ArmPath], trunk: Array, head: Array) -> Array:
    """Joint positions [N, 50, 3] in metres, canonical axes.

    Args:
        body: whose bones move.
        arms: left and right.
        trunk, head: [N, 3] turns in radians, as `sway` has them.
    """
    joint = {name: number for number, name in enumerate(SKELETON.names)}
    width = body.shoulder_width
    xyz = np.zeros((len(trunk), SKELETON.joints, 3))
    turned = _rotation(trunk)
    # The trunk turns about the hips, 1.35 shoulder widths below the neck.
    hips = np.array([0.0, 1.35 * width, 0.0])
    xyz[:, NECK] = hips - np.einsum("nij,j->ni", turned, hips)
    looking = turned @ _rotation(head)
    xyz[:, 0] = xyz[:, NECK] + body.bone[0] * (looking @ body.nose)
    for (name, sign), arm in zip(SIGN_OF_X.items(), arms, strict=True):
        place = arm.place
        # The shoulder follows the hand: up if the hand is high, forward if it is far.
        lift = body.slope - 0.2 * (1 + np.tanh((0.15 - place[:, 1]) / 0.35)) / 2
        reach = 0.15 * (1 + np.tanh((place[:, 2] - 0.85) / 0.2)) / 2
        along = np.stack([sign * np.cos(lift) * np.cos(reach), np.sin(lift), np.cos(lift) * np.sin(reach)], axis=-1)
        shoulder = body.bone[joint[f"{name}_shoulder"]] * along
        wrist = place * (sign * width, width, width)
        elbow, wrist = _reach(
            shoulder,
            wrist,
            float(body.bone[joint[f"{name}_elbow"]]),
            float(body.bone[joint[f"{name}_wrist"]]),
            np.radians(arm.swivel[:, 0]),
            sign,
        )
        hand = _hand(body, name, sign, elbow - shoulder, wrist - elbow, np.radians(arm.turn), arm.shape)
        for part, value in (("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist)):
            xyz[:, joint[f"{name}_{part}"]] = xyz[:, NECK] + np.einsum("nij,nj->ni", turned, value)
        root = joint[f"{name}_hand_root"]
        xyz[:, root : root + 21] = xyz[:, NECK, None] + np.einsum("nij,nkj->nki", turned, wrist[:, None] + hand)
    return xyz


def _reach(shoulder: Array, wrist: Array, upper: float, fore: float, swivel: Array, sign: float) -> tuple[Array, Array]:
    """Elbow and wrist [N, 3] of an arm that reaches for a place.

    The elbow lies below, outside and behind the line from shoulder to wrist, turned outward by `swivel`, at the
    distance that the two bone lengths determine. Places that the arm cannot reach without stretching (97% of its
    length) or folding (35 degrees at the elbow) are moved into reach smoothly.
    """
    line = wrist - shoulder
    distance = np.linalg.norm(line, axis=-1)
    line = line / distance[:, None]
    longest = 0.97 * (upper + fore)
    shortest = np.sqrt(upper**2 + fore**2 - 2 * upper * fore * np.cos(np.radians(35)))
    soft = 0.02
    distance = longest - soft * np.logaddexp(0, (longest - distance) / soft)
    distance = shortest + soft * np.logaddexp(0, (distance - shortest) / soft)
    pole = np.array([0.45 * sign, 0.85, -0.3])
    down = pole - (line @ pole)[:, None] * line
    down /= np.linalg.norm(down, axis=-1, keepdims=True)
    outward = -sign * np.cross(line, down)
    bent = np.cos(swivel)[:, None] * down + np.sin(swivel)[:, None] * outward
    along = (upper**2 + distance**2 - fore**2) / (2 * distance)
    across = np.sqrt(upper**2 - along**2)
    elbow = shoulder + along[:, None] * line + across[:, None] * bent
    return elbow, shoulder + distance[:, None] * line


def _hand(body: Body, name: str, sign: float, upper: Array, fore: Array, turn: Array, shape: Array) -> Array:
    """The 21 joints of a hand [N, 21, 3] relative to the wrist.

    The forearm's own frame is that of the elbow's hinge: with the elbow bent and the forearm not turned, the thumb
    points to where the elbow bends, and the palm faces the body's middle.
    """
    fore = fore / np.linalg.norm(fore, axis=-1, keepdims=True)
    thumb = np.sum(upper * fore, axis=-1, keepdims=True) * fore - upper
    thumb = thumb / np.linalg.norm(thumb, axis=-1, keepdims=True)
    palm = -sign * np.cross(fore, thumb)
    pronation, flexion, deviation = turn.T[..., None]
    thumb, palm = _turned(thumb, palm, pronation)
    fingers, palm = _turned(fore, palm, flexion)
    fingers, thumb = _turned(fingers, thumb, deviation)

    first = SKELETON.names.index(f"{name}_hand_root")
    bone = body.bone[first : first + 21]
    xyz = np.zeros((len(fore), 21, 3))
    root = bone[0] * fore  # a body model's wrist and a hand model's are a little apart
    xyz[:, 0] = root
    angles = np.radians(shape)
    for number in range(4):
        flex, bend = angles[:, 2 * number, None], angles[:, 2 * number + 1, None]
        metacarpal = _turned(_turned(fingers, thumb, _FAN[number])[0], palm, _ARCH[number])[0]
        spread = angles[:, 8, None] * _SPREAD[number] * np.cos(flex)
        straight = _turned(fingers, thumb, _SPLAY[number] + spread)[0]
        at = root + bone[5 + 4 * number] * metacarpal
        xyz[:, 5 + 4 * number] = at
        for segment, curl in enumerate(
            (flex, flex + bend, flex + 1.65 * bend), 1
        ):  # the last joint follows the middle one
            at = at + bone[5 + 4 * number + segment] * _turned(straight, palm, curl)[0]
            xyz[:, 5 + 4 * number + segment] = at
    radial, palmar, flex, bend = (angles[:, number, None] for number in range(9, 13))
    base = _turned(_turned(fingers, thumb, np.radians(48))[0], palm, np.radians(20))[0]
    metacarpal = _turned(_turned(fingers, thumb, radial)[0], palm, palmar)[0]
    # The thumb bends across the palm, toward the base of the little finger.
    across = 0.35 * palm - thumb - 0.2 * fingers
    across -= np.sum(across * metacarpal, axis=-1, keepdims=True) * metacarpal
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    at = root + bone[1] * base
    xyz[:, 1] = at
    for segment, curl in enumerate((np.zeros_like(flex), flex, flex + bend), 2):
        at = at + bone[segment] * _turned(metacarpal, across, curl)[0]
        xyz[:, segment] = at
    return xyz


def _turned(first: Array, second: Array, angle: Array | float) -> tuple[Array, Array]:
    """Two orthogonal unit vectors [N, 3] turned in their plane, the first toward the second."""
    return np.cos(angle) * first + np.sin(angle) * second, np.cos(angle) * second - np.sin(angle) * first


def _rotation(angles: Array) -> Array:
    """Rotations [N, 3, 3] of column vectors: yaw turns the front to +x, pitch the head forward, roll it to +x."""
    zero, one = np.zeros(len(angles)), np.ones(len(angles))
    (cy, cp, cr), (sy, sp, sr) = np.cos(angles).T, np.sin(angles).T
    yaw = np.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], axis=-1).reshape(-1, 3, 3)
    pitch = np.stack([one, zero, zero, zero, cp, sp, zero, -sp, cp], axis=-1).reshape(-1, 3, 3)
    roll = np.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
    return np.asarray(yaw @ pitch @ roll)


# The estimator's version


@dataclass(frozen=True)
class EstimatorErrors:
    """How large a live estimator's errors are. Millimetres are for (x, y, z), shares are of all frames.

    The defaults are those of a good monocular estimator in good light: slow drift (larger in depth), a little jitter,
    three times that in bad frames, whole hands lost for a while, single joints lost for a frame, a frame dropped now
    and then. Against motion capture, wrists and elbows of MediaPipe Pose drift by 17, 17 and 100 mm and jitter by 5, 5
    and 13 mm.

    Attributes:
        drift_mm: standard deviation of the drift of a wrist; smaller near the trunk.
        drift_memory: correlation of the drift from frame to frame.
        jitter_mm: standard deviation of the white error of body joints, again for a wrist.
        finger_mm: standard deviation of the white error of hand joints, in addition to the wrist's error.
        bad_frames: share of frames in which jitter is `bad_factor` times as large.
        hand_lost: share of the time for which each hand is missing, in runs of `hand_run` frames.
        joint_lost: share of single joints missing.
        frame_dropped: share of frames dropped. The first and the last never are, and the first is complete.
    """

    drift_mm: tuple[float, float, float] = (6.0, 6.0, 15.0)
    drift_memory: tuple[float, float, float] = (0.96, 0.96, 0.99)
    jitter_mm: tuple[float, float, float] = (5.0, 5.0, 12.0)
    finger_mm: tuple[float, float, float] = (2.5, 2.5, 5.0)
    bad_frames: float = 0.08
    bad_factor: float = 3.0
    hand_lost: float = 0.12
    hand_run: tuple[int, int] = (5, 15)
    joint_lost: float = 0.03
    frame_dropped: float = 0.08

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = min(value) if isinstance(value, tuple) else value
            if not 0 <= least < np.inf:
                raise ValueError(f"{field.name} is {value}: 0 or more expected")
        for share in (self.bad_frames, self.hand_lost, self.joint_lost, self.frame_dropped, *self.drift_memory):
            if share > 1:
                raise ValueError(f"a share of {share} is more than 1")


def estimator_errors(recording: Recording, seed: int, errors: EstimatorErrors | None = None) -> Recording:
    """What a live estimator would have delivered of a clean recording: noisier, with gaps, and fewer frames.

    Dropped frames are gaps in the result's `slot`; missing joints are 0 with confidence 0. Joints missing in the
    recording stay missing. The same arguments give the same errors, up to rounding.
    """
    errors = errors or EstimatorErrors()
    rng = np.random.default_rng(seed)
    frames, joints = recording.confidence.shape
    # Errors are smallest at the trunk and largest at the wrists: by the number of bones from the neck.
    scale = np.minimum(0.4 + 0.2 * (SKELETON.chain.sum(1, dtype=np.float64) - 1), 1.0)[:, None]

    memory = np.array(errors.drift_memory)
    drift = np.empty((frames, joints, 3))
    drift[0] = rng.normal(0, 1, (joints, 3))
    fresh = rng.normal(0, 1, (frames, joints, 3)) * np.sqrt(1 - memory**2)
    for frame in range(1, frames):
        drift[frame] = memory * drift[frame - 1] + fresh[frame]
    bad = np.where(rng.random(frames) < errors.bad_frames, errors.bad_factor, 1.0)[:, None, None]
    jitter = rng.normal(0, 1, (frames, joints, 3)) * bad
    error = scale * (drift * errors.drift_mm + jitter * errors.jitter_mm)
    for wrist, hand in SKELETON.hands:
        # A hand is found where its wrist is believed to be: it takes over the wrist's error.
        error[:, hand] = error[:, wrist, None] + jitter[:, hand] * errors.finger_mm

    missing = np.less(rng.random((frames, joints)), errors.joint_lost)
    missing[0] = False
    for _, hand in SKELETON.hands:
        for begin, end in _runs(rng, frames, errors.hand_lost, errors.hand_run):
            missing[begin:end, hand] = True
    missing |= recording.missing
    kept = np.greater_equal(rng.random(frames), errors.frame_dropped)
    kept[[0, -1]] = True  # so that the result is as long as the recording
    confidence = np.clip(rng.normal(0.9, 0.05, (frames, joints)) - 0.1 * (bad[..., 0] - 1), 0.3, 1.0)
    xyz = recording.xyz + error / recording.mm_per_unit()
    return replace(
        recording,
        xyz=np.where(missing[..., None], 0, xyz)[kept].astype(np.float32),
        confidence=np.where(missing, 0, confidence)[kept].astype(np.float32),
        slot=recording.slots[kept],
        time_ns=None if recording.time_ns is None else recording.time_ns[kept],
    )


def _runs(rng: np.random.Generator, frames: int, share: float, length: tuple[int, int]) -> list[tuple[int, int]]:
    """Random spans [begin, end) that cover about that share of the frames, never frame 0."""
    runs, covered = [], 0
    while frames > 1 and covered < round(share * frames):
        begin = int(rng.integers(1, frames))
        end = min(begin + int(rng.integers(length[0], length[1] + 1)), frames)
        runs.append((begin, end))
        covered += end - begin
    return runs


# The recording that the demo replays

DEMO_SECONDS = 12.0
DEMO_FPS = 25.0
DEMO_SEED = 5


def demo_recording() -> list[Recording]:
    """Truth and estimator's version, called "truth" and "estimate", as bundled in `rtskel/assets/demo.npz`.

    Coordinates are rounded to 2^-14 m (0.06 mm), which makes the file small.
    """
    truth = replace(synthesize(DEMO_SECONDS, DEMO_FPS, DEMO_SEED), name="truth")
    estimate = replace(estimator_errors(truth, DEMO_SEED), name="estimate")
    return [
        replace(r, xyz=_rounded(r.xyz, 2**-14), confidence=_rounded(r.confidence, 2**-6)) for r in (truth, estimate)
    ]


def _rounded(values: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    return (np.round(values / step) * step).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m rtskel.training.synthesize OUT.npz`: write the demo's recording."""
    parser = argparse.ArgumentParser(prog="python -m rtskel.training.synthesize", description=main.__doc__)
    parser.add_argument("out", help="an .npz file, such as rtskel/assets/demo.npz")
    write(parser.parse_args(argv).out, demo_recording())


if __name__ == "__main__":
    main()
