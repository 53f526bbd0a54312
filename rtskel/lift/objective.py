"""What lifting minimises, and L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rtskel.lift.config import LiftConfig
from rtskel.lift.tree import Array, Tree

PAIRS = 8
"""Steps that L-BFGS remembers."""


class Objective:
    """The objective with its gradient, over points y [3, N, J] and logarithms of bone lengths q [C].

    Bone directions are those between the points, and the head is the point of the head. A pose with the right bone
    lengths represents itself, and moving one point moves its joint but hardly those further down the tree: the problem
    is far better conditioned than in angles or directions.

    Args:
        x, w: targets [2, N, J] and weights [N, J].
        typical: typical depths [N, B].
        anchor: bone lengths [C] known before, and the number of frames that they weigh as much as.
        before: pose [3, J] of the frame before the first, held fixed.
        dtype: float32, or float64 to check the gradient.
    """

    def __init__(
        self,
        tree: Tree,
        x: Array,
        w: Array,
        typical: Array,
        config: LiftConfig,
        fps: float,
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
        # Weighted by how often a joint is seen: the paths of joints never seen would hold back the others.
        presence = (w > 0).mean(axis=0)
        self._presence = (config.trajectory * (fps / 25.0) ** 2 * presence).astype(dtype)
        # Each joint pays for the bones between the head and itself, in proportion to how much it was seen.
        self._per_length = config.lengths * tree.by_kind(tree.down @ w.sum(axis=0, dtype=np.float64))
        self._before = None if before is None else before.astype(dtype)
        self.moved = tree.by_kind(np.minimum(tree.down.sum(axis=1), tree.joints - tree.down.sum(axis=1)))
        # The distance between points is free; holding it near the lengths keeps every direction defined.
        self._size = anchor[0][tree.kind].astype(dtype)
        self._known, self._weight = np.log(anchor[0]), anchor[1] * np.bincount(tree.kind) * anchor[0] ** 2

    def pose(self, y: Array, q: Array) -> Array:
        """The pose [3, N, J] that the variables stand for."""
        return self._pose(y, np.exp(q))[0]

    def _pose(self, y: Array, lengths: Array) -> tuple[Array, Array, Array, Array]:
        """The pose [3, N, J], bone directions [3, N, B], bones [3, N, B], distances of the points [N, B]."""
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

    def _by_pose(self, pose: Array) -> tuple[float, Array]:
        """Reprojection and path: their value, and half of their gradient by the pose."""
        by_pose = np.zeros_like(pose)
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
        return value, by_pose

    def __call__(self, y: Array, q: Array) -> tuple[float, Array, Array]:
        """Value, gradient by y [3, N, J], gradient by q [C]."""
        tree, lengths = self.tree, np.exp(q)
        size = lengths[tree.kind].astype(self.dtype)
        pose, along, bones, norm = self._pose(y, lengths)
        value, by_pose = self._by_pose(pose)

        deep = bones[2] - self._typical * size
        value += float(self._depth) * float(np.vdot(deep, deep))
        deep *= self._depth

        by_bones = np.empty_like(bones)  # half of the gradient, as by_pose is
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


def minimise(
    objective: Objective,
    pose: Array,
    lengths: Array,
    iterations: int,
    tolerance: float,
    progress: Callable[[int], None] | None = None,
) -> tuple[Array, Array]:
    """Poses [3, N, J] and lengths [C] with a lower objective than the given ones, by L-BFGS.

    Nocedal and Wright, "Numerical Optimization", algorithm 7.4, with steps that are halved until they gain enough.
    """
    # One length moves many joints: scaled so that its curvature is like that of a point.
    scale = np.sqrt(pose.shape[1] * objective.moved) * lengths

    def evaluate(v: Array) -> tuple[float, Array]:
        value, by_y, by_q = objective(v[: pose.size].reshape(pose.shape), v[pose.size :] / scale)
        return value, np.concatenate([by_y.ravel(), by_q / scale], dtype=objective.dtype)

    at = np.concatenate([pose.ravel(), np.log(lengths) * scale], dtype=objective.dtype)
    value, gradient = evaluate(at)
    pairs: list[tuple[Array, Array, float]] = []  # steps, differences of gradients, 1 / their product
    for iteration in range(1, iterations + 1):
        direction = _direction(gradient, pairs)
        slope = float(gradient @ direction)
        if not slope < 0:
            break
        length = 1.0
        for _ in range(10):
            there = at + length * direction
            with np.errstate(over="ignore", invalid="ignore"):  # a step that is too long is taken back
                new_value, new_gradient = evaluate(there)
            if new_value <= value + 1e-4 * length * slope:
                break
            length *= 0.5
        else:
            break
        s, y = there - at, new_gradient - gradient
        product = float(s @ y)
        if product > 1e-10 * float(y @ y):
            pairs = [*pairs[1 - PAIRS :], (s, y, 1 / product)]
        gain = value - new_value
        at, value, gradient = there, new_value, new_gradient
        if progress is not None:
            progress(iteration)
        if gain <= tolerance * value:
            break
    q = at[pose.size :].astype(np.float64) / scale
    return objective.pose(at[: pose.size].reshape(pose.shape), q), np.exp(q)


def _direction(gradient: Array, pairs: list[tuple[Array, Array, float]]) -> Array:
    """Where to go: the two-loop recursion of L-BFGS."""
    direction = -gradient
    shares = []
    for s, y, r in reversed(pairs):
        shares.append(r * float(s @ direction))
        direction -= shares[-1] * y
    direction *= 1 / (pairs[-1][2] * float(pairs[-1][1] @ pairs[-1][1])) if pairs else 0.25
    for (s, y, r), share in zip(pairs, reversed(shares), strict=True):
        direction += (share - r * float(y @ direction)) * s
    return direction
