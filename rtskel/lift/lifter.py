"""From 2D to 3D: a skeleton of constant bones whose image is what the estimator saw.

The uplift of Zelinka and Kanis ("Neural Sign Language Synthesis: Words Are Our Glosses", WACV 2020, section on 2D to
3D), for whole recordings (`lift`) and for live streams with bounded lookahead (`Lifter`). The camera is orthographic:
lifted poses keep the unit and the place of the image, and gain a depth along +z, toward the camera. No image says how
far the person is, so depth is counted from the neck, whose z is 0.

1. Missing points are interpolated, as bones, between the frames that have them; frames that show too little of the body
   are masked: all their joints count as missing.
2. Bone lengths start as the average 2D length over the sequence, shared between symmetric bones, or as what is typical
   where that is far below.
3. The head starts at its 2D target; along the tree, every other joint is placed where its bone's length puts it in
   front of or behind its 2D target or, where the bone is too short, as near to it as it comes.
4. L-BFGS over head positions, bone directions and bone lengths, all frames at once, minimises

       sum  confidence |image(joint) - target|^2                reprojection
     + trajectory  |joint(t) - joint(t - 1)|^2                  path from frame to frame
     + lengths  length of the bones that hold the joint         sum of bone lengths
     + depth  (z of bone - typical z of bone)^2                 not in the paper, see `LiftConfig.depth`

   in units of the shoulder width.

What the paper leaves to chance is on which side of the image plane a bone lies; its authors' programs take the same
side always. Here the typical depth of each bone (`_typical_depth`) decides, and a bone keeps its side until it lies in
the plane.

The streaming form solves the same problem over the last lookahead + 1 frames, with the frame before them, which is out
already, held fixed, warm-started from the last solution. Its law:

- The poses that come out depend on the frames alone, not on how they were chunked: bit for bit.
- Pose i uses frames up to i + L only, is given once, and does not change afterwards; `reset` or `flush` leaves the
  lifter as if new; NaN and infinite coordinates are missing joints and never come out.
- Unlike refinement it is no function of a window: what it knows of bone lengths, and the pose before, goes on. So no L
  makes it equal to `lift`; `bench/lifting.py` measures by how much they differ. And bones are only as constant as what
  is known of them: lengths move with each frame, the less the more frames they were learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.skeleton import SHOULDER_WIDTH, UPPER_BODY_50, Skeleton

Array = NDArray[Any]
"""Of the objective's own floating type: float32, or float64 where its gradient is checked."""


@dataclass(frozen=True)
class LiftConfig:
    """Weights of the objective, and how long to minimise it.

    Attributes:
        trajectory: of the squared path from frame to frame, at 25 frames a second. It grows with the square of the
            frame rate, so that movements are smoothed over the same time.
        lengths: of the sum of bone lengths.
        depth: of the squared difference of a bone's depth from what is typical. Its length does not say much about the
            depth of a bone that lies near the image plane (an error of 1% in length is one of 14% in depth), and
            nothing about its sign. 0: the paper's objective.
        proportions: for how many frames typical bone lengths count, against the recording's own.
        iterations: at most, of L-BFGS over a recording.
        tolerance: stop when an iteration gains less than this share of the objective.
        stream_iterations, stream_tolerance: the same, for each frame of a stream.
        memory_s: seconds over which a stream's bone lengths are learned.
        least_body: frames whose mean confidence over the joints of the body is lower are masked.
    """

    trajectory: float = 0.1
    lengths: float = 1e-4
    depth: float = 0.03
    proportions: float = 10.0
    iterations: int = 200
    tolerance: float = 1e-6
    stream_iterations: int = 15
    stream_tolerance: float = 1e-4
    memory_s: float = 10.0
    least_body: float = 0.3

    def __post_init__(self) -> None:
        for name in ("trajectory", "lengths", "depth", "proportions", "tolerance", "stream_tolerance", "least_body"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("iterations", "stream_iterations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.memory_s > 0:
            raise ValueError(f"memory_s must be above 0, got {self.memory_s}")


@dataclass(frozen=True)
class Lifted:
    """Lifted poses of one sequence, in order.

    Attributes:
        xyz: [N, J, 3] float32 in canonical axes; x and y in the unit and place of the image, z from the neck. Joints
            that were missing are where the optimisation puts them.
        confidence: [N, J] float32 as it came; 0 where the joint was missing or its frame masked.
    """

    xyz: NDArray[np.float32]
    confidence: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.xyz)

    @classmethod
    def empty(cls, frames: int, joints: int) -> Lifted:
        """Frames of which nothing is known."""
        return cls(np.zeros((frames, joints, 3), np.float32), np.zeros((frames, joints), np.float32))

    @classmethod
    def concatenate(cls, parts: Sequence[Lifted]) -> Lifted:
        """All poses of at least one part, in order."""
        return cls(np.concatenate([part.xyz for part in parts]), np.concatenate([part.confidence for part in parts]))


def lift(
    xy: ArrayLike,
    confidence: ArrayLike | None = None,
    *,
    fps: float = 25.0,
    skeleton: Skeleton = UPPER_BODY_50,
    min_confidence: float = 0.0,
    config: LiftConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> Lifted:
    """Lift a whole sequence.

    Memory: about 25 times that of `xyz` in float32, 15 kB a frame.

    Args:
        xy: [N, J, 2] positions in the image, x to its right, y down. NaN: missing.
        confidence: [N, J] in 0..1, 0 = missing; None: every joint with finite coordinates is there.
        fps: frames a second.
        min_confidence: joints below it count as missing.
        progress: called after each iteration with its number, from 1 to at most `config.iterations`.

    Returns:
        All N poses. Where no frame shows enough of a body they are 0 with confidence 0.

    Raises:
        ValueError: wrong shapes, or an argument out of range.
    """
    config = config or LiftConfig()
    tree = _tree(skeleton)
    x, w = _checked(xy, confidence, tree, min_confidence, config)
    unit, lengths = _first_lengths(tree, x, w)
    if not w.any():
        return Lifted.empty(*w.shape)
    x = _targets(tree, x / unit, w, lengths)
    typical = _typical_depth(tree, x, lengths)
    placed = _place(tree, x, lengths, _sides(tree, x, lengths, typical)[0])
    objective = _Objective(tree, x, w, typical, config, fps, (w > 0).mean(axis=0), (tree.typical, config.proportions))
    pose, _ = _minimise(objective, placed, lengths, config.iterations, config.tolerance, progress)
    return Lifted(_to_frames(pose * unit), w)


FIRST = 10.0
"""For how many frames the lengths count with which a stream begins: averages over its first few frames."""

WORTH = 0.3
"""For how much of a frame each frame counts from which lengths were learned, when they are learned on.

Most bones do not lie in the image plane, and say less of their length than those that would hold them for known. With 1
a stream's lengths hardly leave those that it began with.
"""


class Lifter:
    """Lifts one stream, frame by frame.

    The state is this object: `push` frames as they come and take what is ready, `flush` at the end for the tail (the
    lifter is then fresh again), `reset` to forget.

    Args:
        lookahead: L, how many frames later than its own a pose may use. It costs L / fps seconds; with 0 each frame is
            lifted at once.
        fps, skeleton, min_confidence, config: as in `lift`.

    Attributes:
        fps: may be set between frames.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> lifter = Lifter(lookahead=4, fps=30)
        >>> for xy, confidence in camera:                               # [50, 2], [50]
        ...     for pose in lifter.push(xy, confidence).xyz:            # none for the first 4 frames, then one each
        ...         show(pose)
        >>> tail = lifter.flush()                                       # the last 4
    """

    _x: Array
    _w: NDArray[np.float32]

    def __init__(
        self,
        *,
        lookahead: int = 4,
        fps: float = 25.0,
        skeleton: Skeleton = UPPER_BODY_50,
        min_confidence: float = 0.0,
        config: LiftConfig | None = None,
    ) -> None:
        if lookahead < 0:
            raise ValueError(f"lookahead must be at least 0, got {lookahead}")
        if not 0 < fps < np.inf:
            raise ValueError(f"fps must be above 0, got {fps}")
        self.lookahead = lookahead
        self.config = config or LiftConfig()
        self._tree = _tree(skeleton)
        self.skeleton = skeleton
        self.fps = fps
        self._min_confidence = min_confidence
        self.reset()

    @property
    def latency(self) -> int:
        """Frames between a pose's own frame and the push that completes it: the lookahead."""
        return self.lookahead

    @property
    def due(self) -> int:
        """How many poses `flush` would give."""
        return len(self._w)

    def push(self, xy: ArrayLike, confidence: ArrayLike | None = None) -> Lifted:
        """Take the next frame [J, 2] or frames [n, J, 2] (confidence [J] or [n, J]) and return the poses that are
        complete now.

        A dropped frame is pushed as NaN or with confidence 0.

        Raises:
            ValueError: wrong shape; then nothing was taken.
        """
        frames = np.asarray(xy)
        if frames.ndim == 2:
            frames = frames[None]
            confidence = None if confidence is None else np.asarray(confidence)[None]
        x, w = _checked(frames, confidence, self._tree, self._min_confidence, self.config)
        done = [Lifted.empty(0, self._tree.joints)]
        for k in range(len(w)):  # one solution a frame, however they come: this is what makes chunks not matter
            self._x = np.concatenate([self._x, x[:, k : k + 1]], axis=1)
            self._w = np.concatenate([self._w, w[k : k + 1]])
            if len(self._w) > self.lookahead:
                self._solve()
                done.append(self._take(1))
        return Lifted.concatenate(done)

    def flush(self) -> Lifted:
        """The sequence is over: return the poses still due. The lifter is fresh afterwards."""
        if len(self._w) > self._pose.shape[1]:  # fewer frames than one window: nothing was solved yet
            self._solve()
        tail = self._take(len(self._w))
        self.reset()
        return tail

    def reset(self) -> None:
        """Forget everything, poses still due included: as if newly made."""
        joints = self._tree.joints
        # Frames that are not out: as they came, and the last solution in units, which the newest ones may lack.
        self._x = np.zeros((2, 0, joints))
        self._w = np.zeros((0, joints), np.float32)
        self._targets = np.zeros((2, 0, joints))
        self._pose = np.zeros((3, 0, joints))
        self._before: tuple[Array, Array] | None = None  # targets [2, J] and pose [3, J] in units: the last frame out
        self._unit = 0.0  # of the image's, 0 until a body was seen
        self._lengths = self._tree.typical
        self._sides: tuple[Array, Array] | None = None  # see `_sides`
        self._seen = 0.0  # frames from which the lengths were learned

    def _take(self, frames: int) -> Lifted:
        """Give out the oldest frames: they will not change any more."""
        out = Lifted(_to_frames(self._pose[:, :frames] * self._unit), self._w[:frames])
        if self._unit and frames:
            self._before = self._targets[:, frames - 1], self._pose[:, frames - 1]
            seen = int(out.confidence.any(axis=1).sum())
            self._seen = min(self._seen + seen, self.config.memory_s * self.fps)
        self._x, self._w, self._pose = self._x[:, frames:], self._w[frames:], self._pose[:, frames:]
        return out

    def _solve(self) -> None:
        tree, x, w = self._tree, self._x, self._w
        if not self._unit:
            if not w.any():
                self._pose = np.zeros((3, len(w), tree.joints))
                return
            self._unit, self._lengths = _first_lengths(tree, x, w)
        x, lengths, before = x / self._unit, self._lengths, self._before
        if before is None:
            x = self._targets = _targets(tree, x, w, lengths)
            new = slice(None)
        else:  # what is missing goes on from the frame before
            x = np.concatenate([before[0][:, None], x], axis=1)
            x = _targets(tree, x, np.concatenate([np.ones((1, tree.joints)), w]), lengths)[:, 1:]
            self._targets = x
            new = slice(self._pose.shape[1], None)  # no solution yet
        typical = _typical_depth(tree, x, lengths)
        sides, self._sides = _sides(tree, x[:, new], lengths, typical[new], self._sides)
        placed = _place(tree, x[:, new], lengths, sides)
        start = np.concatenate([self._pose[:, : len(w) - placed.shape[1]], placed], axis=1)
        objective = _Objective(
            tree,
            x,
            w,
            typical,
            self.config,
            self.fps,
            (w > 0).mean(axis=0),
            # Each frame is in as many windows as a window has frames.
            (lengths, len(w) * max(WORTH * self._seen, FIRST)),
            before=None if before is None else before[1],
        )
        self._pose, self._lengths = _minimise(
            objective, start, lengths, self.config.stream_iterations, self.config.stream_tolerance
        )


def _checked(
    xy: ArrayLike, confidence: ArrayLike | None, tree: _Tree, min_confidence: float, config: LiftConfig
) -> tuple[Array, NDArray[np.float32]]:
    """Targets [2, N, J] and weights [N, J], 0 for what is missing or masked."""
    points = np.asarray(xy, np.float64)
    if points.ndim != 3 or points.shape[1:] != (tree.joints, 2):
        raise ValueError(f"xy has shape {points.shape}, expected [N, {tree.joints}, 2]")
    sure = np.ones(points.shape[:2]) if confidence is None else np.asarray(confidence, np.float64)
    if sure.shape != points.shape[:2]:
        raise ValueError(f"confidence has shape {sure.shape}, expected {points.shape[:2]}")
    seen = np.isfinite(points).all(axis=-1) & (sure > 0) & (sure >= min_confidence)
    weights = np.where(seen, np.minimum(sure, 1), 0)
    weights[weights[:, tree.body].mean(axis=1) < config.least_body] = 0
    targets = np.where(weights[..., None] > 0, points, 0)
    return np.ascontiguousarray(targets.transpose(2, 0, 1)), weights.astype(np.float32)


def _to_frames(pose: Array) -> NDArray[np.float32]:
    """[3, N, J] to [N, J, 3]."""
    return np.ascontiguousarray(pose.transpose(1, 2, 0), dtype=np.float32)


# The tree, from the head down


@dataclass(frozen=True, eq=False)
class _Tree:
    """A skeleton's joints as a tree of B = J - 1 bones below the head. Bone i leads from parent[i] to joint[i].

    Attributes:
        joint, parent: [B], in an order in which bones that lead to a joint come before those that lead on.
        above: [B] the bone that leads to bone i's parent, -1 for those that start at the head.
        twin: [B] the bone on the other side, or the bone itself.
        levels: bones by their distance from the head.
        kind: [B] which of the C bone lengths is bone i's: those of symmetric bones are one.
        typical: [C] lengths in shoulder widths.
        down: [B, J] which joints a bone moves: root + bones @ down are the joints.
        down_z: [B, J] the same from the neck, at which depth is 0.
        across: [J, B] joints @ across are the bones.
        bones: [C] how many joints, all bones of that length together, they move.
    """

    joints: int
    head: int
    neck: int
    body: NDArray[np.int64]
    names: tuple[str, ...]
    joint: NDArray[np.int64]
    parent: NDArray[np.int64]
    above: NDArray[np.int64]
    twin: NDArray[np.int64]
    levels: tuple[NDArray[np.int64], ...]
    kind: NDArray[np.int64]
    typical: Array
    down: Array
    down_z: Array
    across: Array

    def by_kind(self, of_bones: Array) -> Array:
        """[..., B] summed over bones of one length: [..., C]."""
        return of_bones @ np.eye(len(self.typical))[self.kind]


HEAD = "nose"
"""The joint from which the skeleton is placed."""


@lru_cache(maxsize=8)
def _tree(skeleton: Skeleton) -> _Tree:
    head, neck = skeleton.names.index(HEAD), skeleton.root
    above_of = np.full(skeleton.joints, -1)
    order, depth = [head], np.zeros(skeleton.joints, np.int64)
    for j in order:  # grows while it is walked: breadth first
        for other in range(skeleton.joints):
            if other not in order and (skeleton.parents[other] == j or skeleton.parents[j] == other):
                above_of[other] = j
                depth[other] = depth[j] + 1
                order.append(other)
    joint = np.array(order[1:])
    parent = above_of[joint]
    bone_to = {int(j): i for i, j in enumerate(joint)}
    mirror = np.array(skeleton.mirror)
    twin = np.array([bone_to.get(int(mirror[j]), i) for i, j in enumerate(joint)])
    _, kind = np.unique(np.minimum(np.arange(len(joint)), twin), return_inverse=True)
    down = np.zeros((len(joint), skeleton.joints))
    for i, j in enumerate(joint):
        above = bone_to.get(int(parent[i]))
        if above is not None:
            down[:, j] = down[:, parent[i]]
        down[i, j] = 1
    across = np.zeros((skeleton.joints, len(joint)))
    across[joint, np.arange(len(joint))] = 1
    across[parent, np.arange(len(joint))] = -1
    # A typical length is that of the bone above a joint of the skeleton; between head and root, above is below here.
    below = [j if skeleton.parents[j] == p else p for j, p in zip(joint.tolist(), parent.tolist(), strict=True)]
    typical = np.array(skeleton.bone_length)[below] / SHOULDER_WIDTH
    return _Tree(
        joints=skeleton.joints,
        head=head,
        neck=neck,
        body=np.array(skeleton.groups["body"]),
        names=tuple(skeleton.names[j] for j in joint),
        joint=joint,
        parent=parent,
        above=np.array([bone_to.get(int(p), -1) for p in parent]),
        twin=twin,
        levels=tuple(np.flatnonzero(depth[joint] == level) for level in range(1, depth.max() + 1)),
        kind=kind,
        typical=np.bincount(kind, typical) / np.bincount(kind),
        down=down,
        down_z=down - down[:, [neck]],
        across=across,
    )


# Before the optimisation


LEAST = 0.9
"""Share of their typical lengths that bones have at least in the beginning."""


def _first_lengths(tree: _Tree, x: Array, w: Array) -> tuple[float, Array]:
    """The shoulder width in the image's unit, and for each kind of bone in shoulder widths the average 2D length.

    An average of foreshortened lengths is too short, and by much for signers' forearms, which seldom lie in the image
    plane: what is below `LEAST` of what goes with such shoulders is taken for that.
    """
    bones = np.sqrt(((x @ tree.across) ** 2).sum(axis=0))
    sure = np.minimum(w[:, tree.joint], w[:, tree.parent])
    weight = tree.by_kind(sure.sum(axis=0))
    mean = tree.by_kind((bones * sure).sum(axis=0)) / np.where(weight > 0, weight, 1)
    # The shoulder width by what each bone of the body says, where it is least foreshortened.
    known = np.flatnonzero(np.isin(tree.joint, tree.body) & (sure > 0).any(axis=0))
    longest = [np.quantile(bones[sure[:, bone] > 0, bone], 0.9) / tree.typical[tree.kind[bone]] for bone in known]
    unit = float(np.median(longest)) if len(known) else 0.0
    unit = unit if unit > 0 else 1.0
    return unit, np.maximum(mean / unit, LEAST * tree.typical)


def _targets(tree: _Tree, x: Array, w: Array, lengths: Array) -> Array:
    """Targets [2, N, J] with what is missing filled in, so that missing joints move along with the others.

    What is interpolated are the bones: a lost hand follows its wrist. A bone that is never seen is its twin's mirror
    image, or else goes on in the direction of the one above it.
    """
    seen = w > 0
    whole = seen[:, tree.joint] & seen[:, tree.parent]
    bones = _interpolated(x @ tree.across, whole)
    never = np.equal(whole.sum(axis=0), 0)
    mirrored = np.flatnonzero(never & ~never[tree.twin])
    bones[:, :, mirrored] = bones[:, :, tree.twin[mirrored]] * np.array([-1.0, 1.0])[:, None, None]
    for level in tree.levels:
        blind = level[(never & never[tree.twin])[level]]
        if len(blind):
            onward = bones[:, :, tree.above[blind]]
            onward = np.where(tree.above[blind] >= 0, onward, np.array([0.0, 1.0])[:, None, None])
            size = np.maximum(np.sqrt((onward**2).sum(axis=0)), 1e-9)
            bones[:, :, blind] = onward / size * lengths[tree.kind[blind]]

    out = np.zeros_like(x)
    first = tree.levels[0][0]
    near, head = tree.joint[first], tree.head
    held = _interpolated(x[:, :, [head]], seen[:, [head]])[:, :, 0]
    held = np.where(seen[:, near], x[:, :, near] - bones[:, :, first], held)
    out[:, :, head] = np.where(seen[:, head], x[:, :, head], held)
    for level in tree.levels:
        joint, parent = tree.joint[level], tree.parent[level]
        out[:, :, joint] = np.where(seen[:, joint], x[:, :, joint], out[:, :, parent] + bones[:, :, level])
    return out


def _interpolated(values: Array, known: NDArray[np.bool_]) -> Array:
    """[2, N, K] with what is not known [N, K] interpolated along N; beyond the first and last known value, these."""
    n, k = known.shape
    rows, columns = np.arange(n)[:, None], np.arange(k)
    before = np.maximum.accumulate(np.where(known, rows, -1), axis=0)
    behind = np.minimum.accumulate(np.where(known, rows, n)[::-1], axis=0)[::-1]
    before, behind = np.where(before < 0, behind, before), np.where(behind >= n, before, behind)
    before, behind = before.clip(0, n - 1), behind.clip(0, n - 1)  # where nothing is known, anything
    share = (rows - before) / np.maximum(behind - before, 1)
    out: Array = values[:, before, columns] * (1 - share) + values[:, behind, columns] * share
    return out


def _typical_depth(tree: _Tree, x: Array, lengths: Array) -> Array:
    """Where bones usually lead in depth, for people who face the camera: [N, B], in shares of their lengths.

    The nose is in front of the neck. The body turns to where the nose points, so that one shoulder comes forward as
    the other goes back. The elbow of a raised hand is in front of its shoulder, that of a hanging one behind it.
    Forearms, hands and fingers point toward the camera.

    The numbers are least squares over motion capture, rounded.
    """
    out = np.full((x.shape[1], len(tree.joint)), 0.3)
    bone = {name: i for i, name in enumerate(tree.names)}
    flat = x @ tree.across
    size = lengths[tree.kind]
    out[:, bone["neck"]] = -0.5
    turn = (-flat[0, :, bone["neck"]] / (2 * size[bone["right_shoulder"]])).clip(-1, 1)
    for side, sign in (("right", 1.0), ("left", -1.0)):
        shoulder, elbow, wrist = (bone[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist"))
        out[:, shoulder] = sign * turn
        out[:, elbow] = 0.1 - 0.3 * (flat[1, :, wrist] / size[wrist]).clip(-1, 1)
        out[:, wrist] = 0.4
    return out


PLANE = 0.25
"""A bone whose depth is less than this share of its length lies in the image plane, and may change sides."""


def _sides(
    tree: _Tree, x: Array, lengths: Array, typical: Array, before: tuple[Array, Array] | None = None
) -> tuple[Array, tuple[Array, Array]]:
    """On which side of the image plane each bone is placed: [N, B], 1 (toward the camera) or -1.

    A bone can change sides only where it lies in the plane. From one such moment to the next it keeps the side for
    which typical depths vote. A stream goes on from `before`, depths [B] and counts of votes so far [B] of the frame
    before; the second thing returned is that of the last frame.
    """
    depth = np.sqrt(np.maximum(1 - ((x @ tree.across) ** 2).sum(axis=0) / lengths[tree.kind] ** 2, 0))
    votes = typical * depth
    if before is not None:
        depth, votes = np.concatenate([before[0][None], depth]), np.concatenate([before[1][None], votes])
    n, bones = depth.shape
    turns = np.zeros((n, bones), np.int64)
    turns[1:] = np.diff(depth > PLANE, axis=0)
    run = np.cumsum(turns, axis=0) + n * np.arange(bones)
    tally = np.where(depth > PLANE, np.bincount(run.ravel(), votes.ravel())[run], votes)
    return np.where(tally < 0, -1.0, 1.0)[before is not None :], (depth[-1], tally[-1])


def _place(tree: _Tree, x: Array, lengths: Array, side: Array) -> Array:
    """Poses [3, N, J] of the given bone lengths over targets [2, N, J], bones on the given sides of the image plane."""
    size = lengths[tree.kind]
    pose = np.zeros((3, *x.shape[1:]))
    pose[:2, :, tree.head] = x[:, :, tree.head]
    for level in tree.levels:
        joint, parent, length = tree.joint[level], tree.parent[level], size[level]
        flat = x[:, :, joint] - pose[:2, :, parent]
        flat *= np.minimum(1, length / np.maximum(np.sqrt((flat**2).sum(axis=0)), 1e-9))
        depth = np.sqrt(np.maximum(length**2 - (flat**2).sum(axis=0), 0))
        pose[:2, :, joint] = pose[:2, :, parent] + flat
        pose[2][:, joint] = pose[2][:, parent] + side[:, level] * depth
    pose[2] -= pose[2][:, [tree.neck]]
    return pose


# The optimisation


class _Objective:
    """What is minimised, with its gradient, over points y [3, N, J] and logarithms of bone lengths q [C].

    Bone directions are those between the points, and the head is the point of the head. A pose of the right lengths
    stands for itself, and moving one of its points moves the same joint and hardly those below it, so that the problem
    is far better conditioned than in directions.

    Args:
        x, w, typical: targets [2, N, J], weights [N, J], typical depths [N, B].
        presence: [J] share of the frames in which each joint is seen: the paths of joints that never are count nothing,
            or they would hold back the others.
        anchor: lengths [C] known before, and from how many frames.
        before: pose [3, J] in front of the first frame, held fixed.
    """

    def __init__(
        self,
        tree: _Tree,
        x: Array,
        w: Array,
        typical: Array,
        config: LiftConfig,
        fps: float,
        presence: Array,
        anchor: tuple[Array, float],
        *,
        before: Array | None = None,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        self.tree = tree
        self.dtype = dtype
        self._x, self._w, self._typical = x.astype(dtype), w.astype(dtype), typical.astype(dtype)
        self._down, self._down_z, self._across = (m.astype(dtype) for m in (tree.down, tree.down_z, tree.across))
        self._depth = dtype(config.depth)
        self._presence = (config.trajectory * (fps / 25.0) ** 2 * presence).astype(dtype)
        # Each joint pays for the bones between the head and itself, as far as it was seen.
        self._per_length = config.lengths * tree.by_kind(tree.down @ w.sum(axis=0, dtype=np.float64))
        self._before = None if before is None else before.astype(dtype)
        self.moved = tree.by_kind(np.minimum(tree.down.sum(axis=1), tree.joints - tree.down.sum(axis=1)))
        # How far apart the points are is free; kept near the lengths, no direction becomes undefined.
        self._size = anchor[0][tree.kind].astype(dtype)
        self._known, self._weight = np.log(anchor[0]), anchor[1] * np.bincount(tree.kind) * anchor[0] ** 2

    def pose(self, y: Array, q: Array) -> Array:
        """The pose [3, N, J] that the variables stand for."""
        return self._pose(y, np.exp(q))[0]

    def _pose(self, y: Array, lengths: Array) -> tuple[Array, Array, Array, Array]:
        size = lengths[self.tree.kind].astype(self.dtype)
        along = y @ self._across
        norm = np.maximum(np.sqrt(np.einsum("cnb,cnb->nb", along, along)), self.dtype(1e-6))
        along /= norm
        bones = along * size
        pose = np.empty_like(y)
        np.matmul(bones[:2], self._down, out=pose[:2])
        pose[:2] += y[:2, :, self.tree.head, None]
        np.matmul(bones[2], self._down_z, out=pose[2])
        return pose, along, bones, norm

    def __call__(self, y: Array, q: Array) -> tuple[float, Array, Array]:
        """Value, gradient by y [3, N, J], gradient by q [C]."""
        tree, lengths = self.tree, np.exp(q)
        size = lengths[tree.kind].astype(self.dtype)
        pose, along, bones, norm = self._pose(y, lengths)

        by_pose = np.zeros_like(pose)  # half of the gradient, here and below
        off = pose[:2] - self._x
        np.multiply(off, self._w, out=by_pose[:2])
        value = float(np.vdot(by_pose[:2], off))

        step = np.diff(pose, axis=1)
        force = step * self._presence
        value += float(np.vdot(force, step))
        by_pose[:, :-1] -= force
        by_pose[:, 1:] += force
        if self._before is not None:
            first = pose[:, 0] - self._before
            force = first * self._presence
            value += float(np.vdot(force, first))
            by_pose[:, 0] += force

        deep = bones[2] - self._typical * size
        value += float(self._depth) * float(np.vdot(deep, deep))
        deep *= self._depth

        by_bones = np.empty_like(bones)
        np.matmul(by_pose[:2], self._down.T, out=by_bones[:2])
        np.matmul(by_pose[2], self._down_z.T, out=by_bones[2])
        by_bones[2] += deep
        lengthwise = np.einsum("cnb,cnb->nb", by_bones, along)
        by_size = (lengthwise - deep * self._typical).sum(axis=0, dtype=np.float64)
        by_q = (2 * tree.by_kind(by_size) + self._per_length) * lengths
        value += float(self._per_length @ lengths)
        value += float(self._weight @ (q - self._known) ** 2)
        by_q += 2 * self._weight * (q - self._known)

        stretch = norm - self._size
        value += float(np.vdot(stretch, stretch))
        by_bones -= lengthwise * along
        by_bones *= 2 * size / norm
        by_bones += (2 * stretch) * along
        by_y = by_bones @ self._across.T
        by_y[:2, :, tree.head] += 2 * by_pose[:2].sum(axis=-1)
        return value, by_y, by_q


def _minimise(
    objective: _Objective,
    pose: Array,
    lengths: Array,
    iterations: int,
    tolerance: float,
    progress: Callable[[int], None] | None = None,
) -> tuple[Array, Array]:
    """Poses [3, N, J] and lengths [C] from where the objective is lower than at the given ones, by L-BFGS.

    Nocedal and Wright, "Numerical Optimization", algorithm 7.4, with steps that are halved until they gain enough.
    """
    # A length moves many joints: scaled so that its curvature is like that of a point.
    scale = np.sqrt(pose.shape[1] * objective.moved) * lengths

    def evaluate(v: Array) -> tuple[float, Array]:
        value, by_y, by_q = objective(v[: pose.size].reshape(pose.shape), v[pose.size :] / scale)
        return value, np.concatenate([by_y.ravel(), by_q / scale], dtype=objective.dtype)

    at = np.concatenate([pose.ravel(), np.log(lengths) * scale], dtype=objective.dtype)
    value, gradient = evaluate(at)
    pairs: list[tuple[Array, Array, float]] = []  # steps, differences of gradients, 1 / their product
    for iteration in range(1, iterations + 1):
        direction = -gradient
        shares = []
        for s, y, r in reversed(pairs):
            shares.append(r * float(s @ direction))
            direction -= shares[-1] * y
        direction *= 1 / (pairs[-1][2] * float(pairs[-1][1] @ pairs[-1][1])) if pairs else 0.25
        for (s, y, r), share in zip(pairs, reversed(shares), strict=True):
            direction += (share - r * float(y @ direction)) * s
        slope = float(gradient @ direction)
        if not slope < 0:
            break
        length = 1.0
        for _ in range(10):
            there = at + length * direction
            with np.errstate(over="ignore", invalid="ignore"):  # a step too far into long bones is taken back
                new_value, new_gradient = evaluate(there)
            if new_value <= value + 1e-4 * length * slope:
                break
            length *= 0.5
        else:
            break
        s, y = there - at, new_gradient - gradient
        product = float(s @ y)
        if product > 1e-10 * float(y @ y):
            pairs = [*pairs[-7:], (s, y, 1 / product)]
        gain = value - new_value
        at, value, gradient = there, new_value, new_gradient
        if progress is not None:
            progress(iteration)
        if gain <= tolerance * value:
            break
    q = at[pose.size :].astype(np.float64) / scale
    return objective.pose(at[: pose.size].reshape(pose.shape), q), np.exp(q)
