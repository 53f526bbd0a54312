"""Where the optimisation starts: bone lengths, targets for every joint, and a pose of that skeleton near them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtskel.lift.tree import Array, Tree

LEAST = 0.9
"""Initial bone lengths are at least this share of the typical ones."""

PLANE = 0.25
"""A bone whose depth is less than this share of its length lies in the image plane, and may change sides."""


def first_lengths(tree: Tree, x: Array, w: Array) -> tuple[float, Array]:
    """The shoulder width in the image's unit, and the average 2D length [C] of each kind of bone in shoulder widths.

    The average of foreshortened lengths is too short, and by much for signers' forearms, which seldom lie in the image
    plane: lengths below `LEAST` of the typical ones are raised to that.
    """
    bones = np.sqrt(((x @ tree.across) ** 2).sum(axis=0))
    confidence = np.minimum(w[:, tree.joint], w[:, tree.parent])
    weight = tree.by_kind(confidence.sum(axis=0))
    mean = tree.by_kind((bones * confidence).sum(axis=0)) / np.where(weight > 0, weight, 1)
    # Every bone of the body gives an estimate of the shoulder width where it is least foreshortened.
    seen = confidence > 0
    known = np.flatnonzero(np.isin(tree.joint, tree.body) & seen.any(axis=0))
    longest = [np.quantile(bones[seen[:, bone], bone], 0.9) / tree.typical[tree.kind[bone]] for bone in known]
    unit = float(np.median(longest)) if len(known) else 0.0
    unit = unit if unit > 0 else 1.0
    return unit, np.maximum(mean / unit, LEAST * tree.typical)


def targets(tree: Tree, x: Array, w: Array, lengths: Array) -> Array:
    """Targets [2, N, J] with missing joints filled in so that they move along with the others.

    Bones are interpolated, not joints: a lost hand follows its wrist. A bone that is never seen is its twin's mirror
    image, or continues in the direction of the bone above it.
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
    """[2, N, K] with unknown entries interpolated along N, known [N, K]; the first and last known value are held."""
    n, k = known.shape
    rows, columns = np.arange(n)[:, None], np.arange(k)
    before = np.maximum.accumulate(np.where(known, rows, -1), axis=0)
    after = np.minimum.accumulate(np.where(known, rows, n)[::-1], axis=0)[::-1]
    before, after = np.where(before < 0, after, before), np.where(after >= n, before, after)
    before, after = before.clip(0, n - 1), after.clip(0, n - 1)  # where nothing is known: any value
    share = (rows - before) / np.maximum(after - before, 1)
    out: Array = values[:, before, columns] * (1 - share) + values[:, after, columns] * share
    return out


def typical_depth(tree: Tree, x: Array, lengths: Array) -> Array:
    """Typical depth of each bone [N, B] for people who face the camera, in shares of its length.

    The nose is in front of the neck. The body turns to where the nose points, so that one shoulder comes forward as
    the other goes back. The elbow of a raised hand is in front of its shoulder, that of a hanging hand is further from
    the camera. Forearms, hands and fingers point toward the camera. The numbers are rounded least-squares fits to
    motion capture.
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


def sides_of(
    tree: Tree, x: Array, lengths: Array, typical: Array, before: tuple[Array, Array] | None = None
) -> tuple[Array, tuple[Array, Array]]:
    """On which side of the image plane each bone is placed: [N, B], 1 (toward the camera) or -1.

    A bone can change sides only where it lies in the plane. Between two such moments it keeps the side for which the
    typical depths vote. A stream continues from `before`: depths [B] and votes so far [B] of the frame before; the
    second return value is that of the last frame.
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


def place(tree: Tree, x: Array, lengths: Array, side: Array) -> Array:
    """Poses [3, N, J] with these bone lengths over targets [2, N, J], bones on these sides of the image plane."""
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
