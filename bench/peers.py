"""Classical filters that fill in and smooth poses, behind one interface, for `bench/accuracy.py`.

A peer maps a corrupted sequence, xyz [N, J, 3] and missing [N, J], to an estimate [N, J, 3] with some look-ahead: the
estimate of frame i uses frames up to i + lookahead (None: all). Coordinates of missing joints are ignored. `settings`
are what a peer can be tuned to; the setting None only fills in missing joints.

The plain fill, unless a peer has its own: a missing joint is interpolated in time between the nearest frames that have
it if the later one is within the look-ahead, else held; its mean position until it is first seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from measure.poses import Array, Example, Mask
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from rtskel.filters import (
    Lookahead,
    ahead,
    fill_in_time,
    last_seen,
    next_seen,
    normal_taps,
    one_euro,
    polynomial_taps,
    weighted,
    window,
)

Setting = tuple[float, ...] | None
Sequences = Sequence[tuple[Array, Mask]]


@dataclass(frozen=True)
class Body:
    """Statistics of clean motion.

    Attributes:
        parents: [J], -1 for the root. up: the same, but the root is its own parent.
        order: joints, parents before their children.
        mean: [J, 3] mean position. bone: [J, 3] mean vector from the parent, 0 for the root.
        covariance: [3 J, 3 J] of the positions.
        noisy: [J] mean square of the second difference over that of the limb, geometric mean 1.
    """

    parents: tuple[int, ...]
    up: NDArray[np.int64]
    order: tuple[int, ...]
    mean: Array
    bone: Array
    covariance: Array
    noisy: Array

    @classmethod
    def learn(cls, truth: Sequence[Array], parents: tuple[int, ...], order: tuple[int, ...]) -> Self:
        """From clean sequences [N, J, 3]."""
        x = np.concatenate(truth).astype(np.float64)
        up = np.where(np.less(parents, 0), np.arange(len(parents)), parents)
        limb = np.square(x - x[:, up]).sum(-1).mean(0)
        bend = np.concatenate([np.square(np.diff(t, 2, axis=0)).sum(-1) for t in truth]).mean(0)
        moving = (limb > 1e-12) & (bend > 1e-12)
        noisy = np.where(moving, bend / np.maximum(limb, 1e-12), 1.0)
        noisy[moving] /= np.exp(np.log(noisy[moving]).mean()) if moving.any() else 1.0
        covariance = np.cov(x.reshape(len(x), -1), rowvar=False)
        return cls(parents, up, order, x.mean(0), (x - x[:, up]).mean(0), covariance, noisy)


class Peer:
    """A filter that smooths the plainly filled sequence.

    `fit` is called before `apply`, for each condition and look-ahead, with examples from the training sequences.
    """

    name: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = (None,)
    learns: ClassVar[bool] = False
    """Whether it learns from clean motion: then settings are chosen on sequences that it did not learn from."""

    def __init__(self, body: Body) -> None:
        self.body = body

    def fit(self, examples: Sequence[Example], lookahead: Lookahead) -> None:
        """Learn what one condition needs; most need nothing."""

    def _fill(self, xyz: Array, missing: Mask, lookahead: Lookahead) -> Array:
        """The result of the setting None."""
        return fill_in_time(xyz, missing, lookahead, self.body.mean)

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        """The result [N, J, 3] of another setting."""
        raise NotImplementedError

    def _smooth_all(self, sequences: Sequences, lookahead: Lookahead, setting: tuple[float, ...]) -> list[Array]:
        """`_smooth` of several sequences."""
        return [self._smooth(xyz, missing, lookahead, *setting) for xyz, missing in sequences]

    def apply(self, xyz: Array, missing: Mask, lookahead: Lookahead, setting: Setting = None) -> Array:
        """The estimate [N, J, 3] of a sequence."""
        return self.apply_all([(xyz, missing)], lookahead, setting)[0]

    def apply_all(self, sequences: Sequences, lookahead: Lookahead, setting: Setting = None) -> list[Array]:
        """The estimates of several sequences."""
        if setting is None:
            return [self._fill(xyz, missing, lookahead) for xyz, missing in sequences]
        return self._smooth_all(sequences, lookahead, setting)

    def window(self, xyz: Array, missing: Mask, lookahead: Lookahead, past: int) -> list[Array]:
        """The frames [N, J, 3] around each frame, plainly filled: see `rtskel.filters.window`."""
        return window(lambda left: self._fill(xyz, missing, left), lookahead, past, whole=not missing.any())


class Hold(Peer):
    """Every joint where it was last seen."""

    name = "hold last"

    def _fill(self, xyz: Array, missing: Mask, lookahead: Lookahead) -> Array:
        return fill_in_time(xyz, missing, 0, self.body.mean)


class Linear(Peer):
    """Joints interpolated in time."""

    name = "linear interpolation"


class ParentRelative(Peer):
    """Missing joints placed from their parents outward, by bone vectors filled in time."""

    name = "parent-relative"

    def _fill(self, xyz: Array, missing: Mask, lookahead: Lookahead) -> Array:
        body = self.body
        bone = fill_in_time(xyz - xyz[:, body.up], missing | missing[:, body.up], lookahead, body.bone)
        filled = fill_in_time(xyz, missing, lookahead, body.mean)
        for joint in body.order:
            if body.parents[joint] >= 0:
                placed = filled[:, body.parents[joint]] + bone[:, joint]
                filled[:, joint] = np.where(missing[:, joint, None], placed, xyz[:, joint])
        return filled


class SpatialGaussian(Peer):
    """The mean of missing joints given the other joints of the frame, if poses are normally distributed.

    Setting: variance unknown to the distribution. Frames that have no joint but the root are filled in time.
    """

    name = "spatial Gaussian"
    settings = tuple((10.0**e,) for e in (-8, -7, -6, -5.5, -5, -4.5, -4, -3))
    learns = True

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        filled, body = self._fill(xyz, missing, lookahead), self.body
        partly = missing.any(1) & ~np.delete(missing, body.parents.index(-1), 1).all(1)
        patterns, which = np.unique(missing[partly], axis=0, return_inverse=True)
        frames = np.flatnonzero(partly)
        for k, pattern in enumerate(patterns):
            lost = np.repeat(pattern, 3)
            seen = ~lost
            rows = frames[which.ravel() == k]
            inner = body.covariance[np.ix_(seen, seen)] + setting[0] * np.eye(int(seen.sum()))
            off = (xyz[rows] - body.mean).reshape(len(rows), -1)[:, seen]
            guess = body.covariance[np.ix_(lost, seen)] @ cho_solve(cho_factor(inner), off.T)
            filled[np.ix_(rows, pattern.nonzero()[0])] = body.mean[pattern] + guess.T.reshape(len(rows), -1, 3)
        return filled


class SavitzkyGolay(Peer):
    """A polynomial fitted to a window. Setting: frames before (and, if allowed, after), the polynomial's order."""

    name = "Savitzky-Golay"
    settings = (None, *((past, order) for order in (0, 1, 2, 3) for past in (1, 2, 3, 5, 8, 12) if past > order))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        past, order = map(int, setting)
        frames = self.window(xyz, missing, lookahead, past)
        return weighted(frames, polynomial_taps(len(frames), order, past))


class Gaussian(Peer):
    """Frames weighted with a normal curve, cut off at the look-ahead. Setting: its standard deviation in frames."""

    name = "Gaussian"
    settings = (None, *((sigma,) for sigma in (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.4, 2.0, 3.0, 5.0, 8.0)))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        past = max(1, int(np.ceil(3 * setting[0])))
        frames = self.window(xyz, missing, lookahead, past)
        return weighted(frames, normal_taps(setting[0], past, len(frames)))


class Median(Peer):
    """The median of a window. Setting: frames before (and, if allowed, after)."""

    name = "median"
    settings = (None, *((past,) for past in (1, 2, 3, 4, 6)))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        return np.median(np.stack(self.window(xyz, missing, lookahead, int(setting[0])), -1), axis=-1)


class Hampel(Peer):
    """The median of a window where a frame is further from it than k deviations (1.4826 times the median distance).

    Setting: frames before (and, if allowed, after), k.
    """

    name = "Hampel"
    settings = (None, *((past, k) for past in (2, 3, 5) for k in (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 25.0)))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        past = int(setting[0])
        frames = np.stack(self.window(xyz, missing, lookahead, past), -1)
        median, x = np.median(frames, axis=-1), frames[..., past]
        spread = 1.4826 * np.median(np.abs(frames - median[..., None]), axis=-1)
        return np.where(np.abs(x - median) > setting[1] * spread, median, x)


def packed(sequences: Sequences) -> tuple[Array, Mask]:
    """Sequences side by side, [N, S J, 3] and [N, S J], shorter ones padded with missing joints."""
    longest = max(len(xyz) for xyz, _ in sequences)
    xyz = [np.pad(x, ((0, longest - len(x)), (0, 0), (0, 0)), mode="edge") for x, _ in sequences]
    missing = [np.pad(m, ((0, longest - len(m)), (0, 0)), constant_values=True) for _, m in sequences]
    return np.concatenate(xyz, 1), np.concatenate(missing, 1)


def unpacked(out: Array, sequences: Sequences) -> list[Array]:
    """The inverse of `packed`."""
    parts = np.split(out, len(sequences), axis=1)
    return [part[: len(xyz)] for part, (xyz, _) in zip(parts, sequences, strict=True)]


class OneEuro(Peer):
    """The 1 Euro filter (Casiez, Roussel, Vogel, CHI 2012) on every coordinate, as the package OneEuroFilter.

    Setting: least cutoff, its growth with speed, the speed's cutoff (cycles a frame), and by how many frames (within
    the look-ahead) the output is moved back to make up for its delay.
    """

    name = "One-Euro"
    settings = (
        None,
        *((least, beta, speed, back) for least in (0.008, 0.02, 0.05, 0.12, 0.3) for beta in (0.0, 1.0, 5.0, 25.0)
          for speed in (0.04, 0.3) for back in (0, 1)),
    )  # fmt: skip

    def _smooth_all(self, sequences: Sequences, lookahead: Lookahead, setting: tuple[float, ...]) -> list[Array]:
        back = ahead(lookahead, setting[3])
        left = None if lookahead is None else lookahead - back
        filled = [(self._fill(xyz, missing, left), missing) for xyz, missing in sequences]
        out = unpacked(one_euro(packed(filled)[0], *setting[:3]), sequences)
        return [np.concatenate([x[back:], np.repeat(x[-1:], back, 0)])[: len(x)] for x in out]


class Kalman(Peer):
    """A Kalman filter for position and decaying velocity, and a smoother over the look-ahead.

    v' = d v + w, x' = x + v', observed with noise; missing joints are predicted. With a look-ahead of L every frame is
    smoothed over L frames (fixed lag), offline over all (Rauch, Tung, Striebel 1965). Tested against filterpy.

    Setting: variance of w over that of the noise, d, and whether that ratio is equal for all joints (0) or proportional
    to how a joint moves relative to its limb (1).
    """

    name = "Kalman"
    settings = (
        None,
        *((10.0**ratio, damping, scaled) for ratio in (-4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 2, 3, 4)
          for damping in (0.0, 0.5, 0.8, 0.95) for scaled in (0, 1)),
    )  # fmt: skip

    def _smooth_all(self, sequences: Sequences, lookahead: Lookahead, setting: tuple[float, ...]) -> list[Array]:
        x, missing = packed(sequences)
        ratio = setting[0] * (self.body.noisy if setting[2] else np.ones_like(self.body.noisy))
        start, count = np.tile(self.body.mean, (len(sequences), 1)), len(sequences)
        return unpacked(kalman(x, missing, np.tile(ratio, count), setting[1], start, lookahead), sequences)


def kalman(x: Array, missing: Mask, ratio: Array, damping: float, start: Array, lookahead: Lookahead) -> Array:
    """The filter of `Kalman` along x [N, J, 3], missing [N, J]; noise variance 1, ratio [J], from `start` [J, 3]."""
    n, joints = missing.shape
    state = np.empty((n, 2, joints, 3))  # position and velocity after the update
    ahead_of = np.empty((n, 2, joints, 3))  # and before it
    gain = np.empty((n, 2, 2, joints))  # of the smoother: covariance x transition^T x predicted covariance^-1
    d = damping
    position, velocity = start, np.zeros_like(start)
    pp, pv, vv = np.full(joints, 1e8), np.zeros(joints), ratio / (1.0 - d * d)
    for t in range(n):
        if t:
            position, velocity = position + d * velocity, d * velocity
            # covariance x transition^T, then the predicted covariance
            a, b, c, e = pp + d * pv, d * pv, pv + d * vv, d * vv
            pp, pv, vv = a + d * c + ratio, d * c + ratio, d * e + ratio
            det = pp * vv - pv * pv
            gain[t - 1, 0, 0], gain[t - 1, 0, 1] = (a * vv - b * pv) / det, (b * pp - a * pv) / det
            gain[t - 1, 1, 0], gain[t - 1, 1, 1] = (c * vv - e * pv) / det, (e * pp - c * pv) / det
        ahead_of[t, 0], ahead_of[t, 1] = position, velocity
        seen = ~missing[t] / (pp + 1.0)
        kp, kv = pp * seen, pv * seen
        off = x[t] - position
        position, velocity = position + kp[:, None] * off, velocity + kv[:, None] * off
        pp, pv, vv = pp - kp * pp, pv - kp * pv, vv - kv * pv
        state[t, 0], state[t, 1] = position, velocity

    def back(frames: slice, later: Array) -> Array:
        """Frames smoothed with their next frames, already smoothed."""
        g, off = gain[frames, ..., None], later - ahead_of[frames.start + 1 : frames.stop + 1]
        return np.asarray(state[frames] + g[:, :, 0] * off[:, None, 0] + g[:, :, 1] * off[:, None, 1])

    smooth = state.copy()
    if lookahead is None:
        for t in range(n - 2, -1, -1):
            smooth[t : t + 1] = back(slice(t, t + 1), smooth[t + 1 : t + 2])
    else:  # k rounds smooth every frame over k frames
        for _ in range(min(lookahead, n - 1)):
            smooth[:-1] = back(slice(0, n - 1), smooth[1:])
    return smooth[:, 0]


class Wiener(Peer):
    """The linear filter with the least squared error on the training sequences under the condition.

    It corrects the plainly filled sequence, separately for joints that are present, and for missing ones by how long
    the joint has been gone and whether it returns within the look-ahead.

    Setting: frames before (and, if allowed, after), and whether joints share their taps (0) or not (1).
    """

    name = "Wiener FIR"
    settings = (None, *((past, own) for past in (2, 4, 8) for own in (0, 1)))
    learns = True

    PAST = 8
    GONE = 4
    """Joints gone for this many frames or more are treated alike."""
    KINDS = 1 + 2 * GONE

    def _others(self, xyz: Array, missing: Mask, past: int, lookahead: Lookahead) -> tuple[Array, Array]:
        """Frames [N, J, 3] and the other frames of their windows relative to them [N, J, 3, K]."""
        frames = self.window(xyz, missing, lookahead, past)
        return frames[past], np.stack([x - frames[past] for x in frames[:past] + frames[past + 1 :]], -1)

    def _kinds(self, missing: Mask, lookahead: Lookahead) -> NDArray[np.int64]:
        """[N, J] the number of each frame's filter: 0 where the joint is present."""
        gone = np.minimum(np.arange(len(missing))[:, None] - last_seen(missing), self.GONE)
        return np.where(missing, 2 * gone - 1 + (next_seen(missing, lookahead) >= 0), 0)

    def fit(self, examples: Sequence[Example], lookahead: Lookahead) -> None:
        """Accumulate the normal equations by joint and kind, and solve them for each setting."""
        joints = len(self.body.parents)
        size = self.PAST + ahead(lookahead, self.PAST)
        a, b = np.zeros((self.KINDS, joints, size, size)), np.zeros((self.KINDS, joints, size))
        for truth, xyz, missing in examples:
            filled, windows = self._others(xyz, missing, self.PAST, lookahead)
            kinds = self._kinds(missing, lookahead)
            for joint in range(joints):
                for kind in np.unique(kinds[:, joint]):
                    rows = kinds[:, joint] == kind
                    w = windows[rows, joint].reshape(-1, size)
                    a[kind, joint] += w.T @ w
                    b[kind, joint] += w.T @ (truth - filled)[rows, joint].ravel()
        self._taps: dict[tuple[float, ...], Array] = {}
        for setting in filter(None, self.settings):
            past, own = map(int, setting)
            used = slice(self.PAST - past, self.PAST + ahead(lookahead, past))
            left, right = a[:, :, used, used], b[:, :, used]
            # A joint with few frames is drawn toward the taps of all joints.
            pooled = left.sum(1, keepdims=True), right.sum(1, keepdims=True)
            weight = 1.0 if not own else 1.0 / joints
            left, right = own * left + weight * pooled[0], own * right + weight * pooled[1]
            trace = np.trace(left, axis1=-2, axis2=-1)[..., None, None]
            ridge = (1e-6 * trace + 1e-12) * np.eye(left.shape[-1])
            taps = np.linalg.solve(left + ridge, right[..., None])[..., 0]
            self._taps[setting] = np.broadcast_to(taps, (self.KINDS, joints, taps.shape[-1]))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        filled, windows = self._others(xyz, missing, int(setting[0]), lookahead)
        taps = self._taps[setting][self._kinds(missing, lookahead), np.arange(xyz.shape[1])]
        return np.asarray(filled + np.einsum("njck,njk->njc", windows, taps))


PEERS: tuple[type[Peer], ...] = (
    Hold, Linear, ParentRelative, OneEuro, SavitzkyGolay, Gaussian, Median, Hampel, Kalman, Wiener, SpatialGaussian,
)  # fmt: skip
