"""From 2D to 3D: a skeleton of constant bones whose image is what the estimator saw.

The uplift of Zelinka and Kanis ("Neural Sign Language Synthesis: Words Are Our Glosses", WACV 2020, section on 2D to
3D), for whole recordings (`lift`) and for live streams with bounded look-ahead (`Lifter`). The camera is orthographic:
lifted poses keep the unit and the place of the image, and gain a depth along +z, toward the camera. An image does not
tell the distance of the person, so depth is relative to the neck, whose z is 0.

1. Missing joints are interpolated, as bones, between the frames that have them. Frames that show too little of the body
   are masked: all their joints count as missing.
2. Initial bone lengths are the average 2D lengths over the sequence, shared between symmetric bones, or a share of the
   typical lengths where the average is far below them.
3. The head starts at its 2D target. Along the tree, every other joint is placed where its bone's length puts it in
   front of or behind its 2D target or, where the bone is too short, as near to the target as possible.
4. L-BFGS over head positions, bone directions and bone lengths, all frames at once, minimises

       sum  confidence |image(joint) - target|^2                reprojection
     + trajectory  |joint(t) - joint(t - 1)|^2                  path from frame to frame
     + lengths  length of the bones that hold the joint         sum of bone lengths
     + depth  (z of bone - typical z of bone)^2                 not in the paper, see `LiftConfig.depth`

   in units of the shoulder width.

The paper does not say on which side of the image plane a bone lies; its authors' programs always take the same side.
Here the typical depth of each bone (`initial.typical_depth`) decides, and a bone keeps its side until it lies in the
plane.

The streaming form solves the same problem over the last lookahead + 1 frames. It starts from the last solution, and the
frame before them, already given out, is held fixed. Its law:

- The poses depend on the frames alone, not on how they were chunked: bit for bit.
- Pose i uses frames up to i + L only, is given once, and does not change afterwards. `reset` and `flush` leave the
  lifter as if new. NaN and infinite coordinates are missing joints and never come out.
- Unlike refinement, a pose is no function of a window: learned bone lengths and the pose before are state. No L makes
  it equal to `lift`; `bench/lifting.py` measures the difference. Bones are only as constant as what is known of them:
  lengths change with each frame, the less the more frames they were learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtskel.lift.config import LiftConfig
from rtskel.lift.initial import first_lengths, place, sides_of, targets, typical_depth
from rtskel.lift.objective import Objective, minimise
from rtskel.lift.tree import Array, Tree, tree_of
from rtskel.skeleton import UPPER_BODY_50, Skeleton

FIRST = 10.0
"""The lengths with which a stream begins, averages over its first few frames, weigh as much as this many frames."""

WORTH = 0.3
"""Weight of each frame from which a stream's lengths were learned.

Most bones do not lie in the image plane and say less about their length than a weight of 1 would claim: with 1, a
stream's lengths hardly move from the initial ones.
"""


@dataclass(frozen=True)
class Lifted:
    """Lifted poses of one sequence, in order.

    Attributes:
        xyz: [N, J, 3] float32 in canonical axes; x and y in the unit and place of the image, z relative to the neck.
            Missing joints are where the optimisation puts them.
        confidence: [N, J] float32 as given; 0 where the joint was missing or its frame masked.
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

    Memory: about 25 times that of the result in float32, 15 kB a frame.

    Args:
        xy: [N, J, 2] positions in the image, x to its right, y down. NaN: missing.
        confidence: [N, J] in 0..1, 0 = missing; None: every joint with finite coordinates is present.
        fps: frames a second.
        min_confidence: joints below it count as missing.
        progress: called after each iteration with its number, from 1 to at most `config.iterations`.

    Returns:
        All N poses. If no frame shows enough of a body, they are 0 with confidence 0.

    Raises:
        ValueError: wrong shapes, or an argument out of range.
    """
    config = config or LiftConfig()
    tree = tree_of(skeleton)
    x, w = _checked(xy, confidence, tree, min_confidence, config)
    unit, lengths = first_lengths(tree, x, w)
    if not w.any():
        return Lifted.empty(*w.shape)
    x = targets(tree, x / unit, w, lengths)
    typical = typical_depth(tree, x, lengths)
    placed = place(tree, x, lengths, sides_of(tree, x, lengths, typical)[0])
    objective = Objective(tree, x, w, typical, config, fps, (tree.typical, config.proportions))
    pose, _ = minimise(objective, placed, lengths, config.iterations, config.tolerance, progress)
    return Lifted(_to_frames(pose * unit), w)


class Lifter:
    """Lifts one stream, frame by frame.

    The state is this object: `push` frames as they come and take the poses that are complete, `flush` at the end for
    the last ones (the lifter is then fresh again), `reset` to forget.

    Args:
        lookahead: L, how many later frames a pose may use. It costs L / fps seconds; with 0 each frame is lifted at
            once.
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
        self._tree = tree_of(skeleton)
        self.skeleton = skeleton
        self.fps = fps
        self._min_confidence = min_confidence
        self.reset()

    @property
    def latency(self) -> int:
        """Frames between a pose's own frame and the push that completes it: the look-ahead."""
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
        for k in range(len(w)):  # one solution a frame, whatever the chunks: the law
            self._x = np.concatenate([self._x, x[:, k : k + 1]], axis=1)
            self._w = np.concatenate([self._w, w[k : k + 1]])
            if len(self._w) > self.lookahead:
                self._solve()
                done.append(self._take(1))
        return Lifted.concatenate(done)

    def flush(self) -> Lifted:
        """End of the sequence: return the poses still due. The lifter is fresh afterwards."""
        if len(self._w) > self._pose.shape[1]:  # fewer frames than one window: nothing was solved yet
            self._solve()
        tail = self._take(len(self._w))
        self.reset()
        return tail

    def reset(self) -> None:
        """Forget everything, including poses still due: as if newly made."""
        joints = self._tree.joints
        # Frames that are not out yet: as given, and the last solution in units, which may lack the newest ones.
        self._x = np.zeros((2, 0, joints))
        self._w = np.zeros((0, joints), np.float32)
        self._targets = np.zeros((2, 0, joints))
        self._pose = np.zeros((3, 0, joints))
        self._before: tuple[Array, Array] | None = None  # targets [2, J] and pose [3, J], in units, of the last one out
        self._unit = 0.0  # shoulder width in the image's unit, 0 until a body was seen
        self._lengths = self._tree.typical
        self._sides: tuple[Array, Array] | None = None  # see `sides_of`
        self._seen = 0.0  # frames from which the lengths were learned

    def _take(self, frames: int) -> Lifted:
        """Give out the oldest frames: they do not change any more."""
        out = Lifted(_to_frames(self._pose[:, :frames] * self._unit), self._w[:frames])
        if self._unit and frames:
            self._before = self._targets[:, frames - 1], self._pose[:, frames - 1]
            seen = int(out.confidence.any(axis=1).sum())
            self._seen = min(self._seen + seen, self.config.memory_s * self.fps)
        self._x, self._w, self._pose = self._x[:, frames:], self._w[frames:], self._pose[:, frames:]
        return out

    def _solve(self) -> None:
        """Solve for all frames that are not out."""
        tree, config, x, w = self._tree, self.config, self._x, self._w
        if not self._unit:
            if not w.any():
                self._pose = np.zeros((3, len(w), tree.joints))
                return
            self._unit, self._lengths = first_lengths(tree, x, w)
        x, lengths = x / self._unit, self._lengths
        if self._before is None:
            fixed, new = None, slice(None)
            x = targets(tree, x, w, lengths)
        else:  # missing joints continue from the frame before
            fixed, new = self._before[1], slice(self._pose.shape[1], None)  # `new`: frames without a solution
            x = np.concatenate([self._before[0][:, None], x], axis=1)
            x = targets(tree, x, np.concatenate([np.ones((1, tree.joints)), w]), lengths)[:, 1:]
        self._targets = x
        typical = typical_depth(tree, x, lengths)
        sides, self._sides = sides_of(tree, x[:, new], lengths, typical[new], self._sides)
        placed = place(tree, x[:, new], lengths, sides)
        start = np.concatenate([self._pose[:, : len(w) - placed.shape[1]], placed], axis=1)
        anchor = lengths, len(w) * max(WORTH * self._seen, FIRST)  # each frame is in len(w) windows
        objective = Objective(tree, x, w, typical, config, self.fps, anchor, before=fixed)
        self._pose, self._lengths = minimise(
            objective, start, lengths, config.stream_iterations, config.stream_tolerance
        )


def _checked(
    xy: ArrayLike, confidence: ArrayLike | None, tree: Tree, min_confidence: float, config: LiftConfig
) -> tuple[Array, NDArray[np.float32]]:
    """Targets [2, N, J] and weights [N, J], 0 where missing or masked."""
    points = np.asarray(xy, np.float64)
    if points.ndim != 3 or points.shape[1:] != (tree.joints, 2):
        raise ValueError(f"xy has shape {points.shape}, expected [N, {tree.joints}, 2]")
    given = np.ones(points.shape[:2]) if confidence is None else np.asarray(confidence, np.float64)
    if given.shape != points.shape[:2]:
        raise ValueError(f"confidence has shape {given.shape}, expected {points.shape[:2]}")
    seen = np.isfinite(points).all(axis=-1) & (given > 0) & (given >= min_confidence)
    weights = np.where(seen, np.minimum(given, 1), 0)
    weights[weights[:, tree.body].mean(axis=1) < config.least_body] = 0
    present = np.where(weights[..., None] > 0, points, 0)
    return np.ascontiguousarray(present.transpose(2, 0, 1)), weights.astype(np.float32)


def _to_frames(pose: Array) -> NDArray[np.float32]:
    """[3, N, J] to [N, J, 3]."""
    return np.ascontiguousarray(pose.transpose(1, 2, 0), dtype=np.float32)
