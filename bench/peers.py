"""Classical filters that fill in and smooth poses, behind one small interface, for `bench/accuracy.py`.

A peer maps a corrupted sequence, xyz [N, J, 3] and missing [N, J], to an estimate [N, J, 3] for a lookahead: the
estimate of frame i uses frames up to i + lookahead only (None: all of them). Coordinates of missing joints mean
nothing. What a peer may be set to is its `settings`; the setting None only fills in what is missing.

Peers fill a missing joint plainly unless they say otherwise: interpolated in time between the nearest frames that
have it if the later one is within the lookahead, else held, and at its mean place while it was never seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.signal import savgol_coeffs
from scipy.signal.windows import gaussian

from rtskel.training.synthesize import estimator_errors, synthesize

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Setting = tuple[float, ...] | None
Lookahead = int | None


class Example(NamedTuple):
    """A corrupted sequence: truth [N, J, 3], xyz [N, J, 3] and missing [N, J]."""

    truth: Array
    xyz: Array
    missing: Mask


def synthetic(seconds: float, seed: int) -> Example:
    """A signer and what a live estimator makes of him, in metres, with dropped frames as missing ones."""
    clean = synthesize(seconds, seed=seed)
    seen = estimator_errors(clean, seed)
    xyz, missing = np.zeros(clean.xyz.shape), np.ones(clean.xyz.shape[:2], np.bool_)
    xyz[seen.slots], missing[seen.slots] = seen.xyz, seen.missing
    return Example(clean.xyz.astype(np.float64), xyz, missing)


@dataclass(frozen=True)
class Body:
    """What is known of clean motion.

    Attributes:
        parents: [J], -1 for the root.
        up: [J] the same, but the root is its own parent.
        order: joints, parents before their children.
        mean: [J, 3] mean position.
        bone: [J, 3] mean vector from the parent, 0 for the root.
        covariance: [3 J, 3 J] of the positions.
        noisy: [J] how fast a joint's motion bends, over its limb's length; both in mean squares, geometric mean 1.
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


def last_seen(missing: Mask) -> NDArray[np.int64]:
    """[N, J] the newest frame up to each frame that has the joint, -1 where there is none."""
    return np.maximum.accumulate(np.where(missing, -1, np.arange(len(missing))[:, None]), axis=0)


def next_seen(missing: Mask, lookahead: Lookahead) -> NDArray[np.int64]:
    """[N, J] the first frame from each frame on, within the lookahead, that has the joint, -1 where there is none."""
    frames, never = np.arange(len(missing))[:, None], len(missing)
    found = np.minimum.accumulate(np.where(missing, never, frames)[::-1], axis=0)[::-1]
    reach = never - 1 if lookahead is None else np.minimum(frames + lookahead, never - 1)
    return np.where(found <= reach, found, -1)


def fill_in_time(xyz: Array, missing: Mask, lookahead: Lookahead, default: Array) -> Array:
    """xyz [N, J, 3] with what is missing interpolated, else held, else taken from what comes, else `default` [J, 3]."""
    before, after = last_seen(missing), next_seen(missing, lookahead)
    rows, joints = np.arange(len(xyz))[:, None], np.arange(xyz.shape[1])
    a, b = np.where(before < 0, after, before), np.where(after < 0, before, after)
    weight = (rows - a) / np.maximum(b - a, 1)
    start, end = xyz[np.maximum(a, 0), joints], xyz[np.maximum(b, 0), joints]
    filled = start + weight[..., None] * (end - start)
    filled = np.where((a < 0)[..., None], default, filled)
    return np.where(missing[..., None], filled, xyz)


def fill_bones(xyz: Array, missing: Mask, lookahead: Lookahead, body: Body) -> Array:
    """Every missing joint from its parent outward, by its bone vector filled in time, the mean bone where there is
    none.
    """
    bone = fill_in_time(xyz - xyz[:, body.up], missing | missing[:, body.up], lookahead, body.bone)
    filled = fill_in_time(xyz, missing, lookahead, body.mean)
    for joint in body.order:
        if body.parents[joint] >= 0:
            placed = filled[:, body.parents[joint]] + bone[:, joint]
            filled[:, joint] = np.where(missing[:, joint, None], placed, xyz[:, joint])
    return filled


class Peer(ABC):
    """A filter. `fit` is called before `apply` with examples from the training sequences, for each condition and
    lookahead.
    """

    name: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = (None,)
    learns: ClassVar[bool] = False
    """Whether it learns from clean motion: then settings are chosen on sequences that it did not learn from."""

    def __init__(self, body: Body) -> None:
        self.body = body

    def fit(self, examples: Sequence[Example], lookahead: Lookahead) -> None:  # noqa: B027 - most need nothing
        """Learn what one condition needs."""

    def fill(self, xyz: Array, missing: Mask, lookahead: Lookahead) -> Array:
        """What the setting None gives."""
        return fill_in_time(xyz, missing, lookahead, self.body.mean)

    def apply(self, xyz: Array, missing: Mask, lookahead: Lookahead, setting: Setting = None) -> Array:
        """The estimate [N, J, 3] of a sequence."""
        return self.apply_all([(xyz, missing)], lookahead, setting)[0]

    def apply_all(
        self, sequences: Sequence[tuple[Array, Mask]], lookahead: Lookahead, setting: Setting = None
    ) -> list[Array]:
        """The estimates of several sequences."""
        if setting is None:
            return [self.fill(xyz, missing, lookahead) for xyz, missing in sequences]
        return self._apply_all(sequences, lookahead, setting)

    @abstractmethod
    def _apply_all(
        self, sequences: Sequence[tuple[Array, Mask]], lookahead: Lookahead, setting: tuple[float, ...]
    ) -> list[Array]:
        """`apply_all` with a setting that is not None."""


class _Filling(Peer):
    """A peer that only fills in."""

    def _apply_all(
        self, sequences: Sequence[tuple[Array, Mask]], lookahead: Lookahead, setting: tuple[float, ...]
    ) -> list[Array]:
        raise NotImplementedError


class Hold(_Filling):
    """Every joint where it was last seen."""

    name = "hold last"

    def fill(self, xyz: Array, missing: Mask, lookahead: Lookahead) -> Array:
        return fill_in_time(xyz, missing, 0, self.body.mean)


class Linear(_Filling):
    """Joints interpolated in time."""

    name = "linear interpolation"


class ParentRelative(_Filling):
    """Bone vectors interpolated in time."""

    name = "parent-relative"

    def fill(self, xyz: Array, missing: Mask, lookahead: Lookahead) -> Array:
        return fill_bones(xyz, missing, lookahead, self.body)


class SpatialGaussian(Peer):
    """The mean of the missing joints given those of the same frame, poses being normally distributed (as in training).

    Setting: variance of what the distribution does not know of. Frames that have no joint but the root are filled in
    time.
    """

    name = "spatial Gaussian"
    settings = tuple((10.0**e,) for e in (-8, -7, -6, -5.5, -5, -4.5, -4, -3))
    learns = True

    def _apply_all(
        self, sequences: Sequence[tuple[Array, Mask]], lookahead: Lookahead, setting: tuple[float, ...]
    ) -> list[Array]:
        return [self._conditional(xyz, missing, lookahead, setting[0]) for xyz, missing in sequences]

    def _conditional(self, xyz: Array, missing: Mask, lookahead: Lookahead, ridge: float) -> Array:
        filled, joints = self.fill(xyz, missing, lookahead), xyz.shape[1]
        root = self.body.parents.index(-1)
        partly = missing.any(1) & ~np.delete(missing, root, 1).all(1)
        patterns, which = np.unique(missing[partly], axis=0, return_inverse=True)
        frames = np.flatnonzero(partly)
        for k, pattern in enumerate(patterns):
            lost = np.repeat(pattern, 3)
            seen = ~lost
            rows = frames[which.ravel() == k]
            inner = self.body.covariance[np.ix_(seen, seen)] + ridge * np.eye(int(seen.sum()))
            off = (xyz[rows] - self.body.mean).reshape(len(rows), 3 * joints)[:, seen]
            guess = self.body.covariance[np.ix_(lost, seen)] @ cho_solve(cho_factor(inner), off.T)
            filled[np.ix_(rows, pattern.nonzero()[0])] = self.body.mean[pattern] + guess.T.reshape(len(rows), -1, 3)
        return filled


def ahead(lookahead: Lookahead, most: float) -> int:
    """How many frames ahead a window of `most` frames either side of its centre may reach."""
    return int(most) if lookahead is None else min(lookahead, int(most))


class Smoother(Peer):
    """A peer that smooths the plainly filled sequence in windows."""

    def _apply_all(
        self, sequences: Sequence[tuple[Array, Mask]], lookahead: Lookahead, setting: tuple[float, ...]
    ) -> list[Array]:
        return [self._smooth(xyz, missing, lookahead, *setting) for xyz, missing in sequences]

    @abstractmethod
    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        """The smoothed sequence [N, J, 3]."""

    def window(self, xyz: Array, missing: Mask, lookahead: Lookahead, past: int) -> list[Array]:
        """The frames [N, J, 3] from `past` before each frame to as many behind it as the lookahead allows.

        Oldest first; the first frame is repeated in front and the last behind. A frame k ahead is filled with what
        comes up to lookahead - k frames behind it: the window must not know more than the frame that it is for.
        """
        future, frames = ahead(lookahead, past), []
        filled = padded(self.fill(xyz, missing, lookahead), past, future)
        for k in range(-past, future + 1):
            if k > 0 and lookahead is not None and missing.any():
                filled = padded(self.fill(xyz, missing, lookahead - k), past, future)
            frames.append(filled[past + k : past + k + len(xyz)])
        return frames


def padded(x: Array, past: int, future: int) -> Array:
    """Frames [N, ...] with the first repeated in front and the last behind."""
    return np.concatenate([np.repeat(x[:1], past, 0), x, np.repeat(x[-1:], future, 0)])


def weighted(frames: Sequence[Array], taps: Array) -> Array:
    """The sum of the frames, each times its tap."""
    out = np.zeros_like(frames[0])
    for frame, tap in zip(frames, taps, strict=True):
        out += tap * frame
    return out


class SavitzkyGolay(Smoother):
    """A polynomial fitted to a window. Setting: frames before (and, where allowed, behind), the polynomial's order."""

    name = "Savitzky-Golay"
    settings = (None, *((past, order) for order in (0, 1, 2, 3) for past in (1, 2, 3, 5, 8, 12) if past > order))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        past, order = map(int, setting)
        frames = self.window(xyz, missing, lookahead, past)
        return weighted(frames, savgol_coeffs(len(frames), order, pos=past, use="dot"))


class Gaussian(Smoother):
    """Frames weighted with a normal curve, cut off where the lookahead ends. Setting: its width in frames."""

    name = "Gaussian"
    settings = (None, *((sigma,) for sigma in (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.4, 2.0, 3.0, 5.0, 8.0)))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        past = max(1, int(np.ceil(3 * setting[0])))
        frames = self.window(xyz, missing, lookahead, past)
        taps = gaussian(2 * past + 1, setting[0])[: len(frames)]
        return weighted(frames, taps / taps.sum())


class Median(Smoother):
    """The median of a window. Setting: frames before (and, where allowed, behind)."""

    name = "median"
    settings = (None, *((past,) for past in (1, 2, 3, 4, 6)))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        return np.median(np.stack(self.window(xyz, missing, lookahead, int(setting[0])), -1), axis=-1)


class Hampel(Smoother):
    """The median of a window where a frame lies further from it than k deviations (1.4826 times the median distance).

    Setting: frames before (and, where allowed, behind), k.
    """

    name = "Hampel"
    settings = (None, *((past, k) for past in (2, 3, 5) for k in (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 25.0)))

    def _smooth(self, xyz: Array, missing: Mask, lookahead: Lookahead, *setting: float) -> Array:
        past = int(setting[0])
        frames = np.stack(self.window(xyz, missing, lookahead, past), -1)
        median, x = np.median(frames, axis=-1), frames[..., past]
        spread = 1.4826 * np.median(np.abs(frames - median[..., None]), axis=-1)
        return np.where(np.abs(x - median) > setting[1] * spread, median, x)


def packed(sequences: Sequence[tuple[Array, Mask]]) -> tuple[Array, Mask]:
    """Sequences side by side, [N, S J, 3] and [N, S J]: what is behind the end of a shorter one is missing.

    A filter that runs frame by frame is then paid for once, not once a sequence.
    """
    longest = max(len(xyz) for xyz, _ in sequences)
    behind = [longest - len(xyz) for xyz, _ in sequences]
    xyz = [np.pad(x, ((0, n), (0, 0), (0, 0)), mode="edge") for (x, _), n in zip(sequences, behind, strict=True)]
    missing = [np.pad(m, ((0, n), (0, 0)), constant_values=True) for (_, m), n in zip(sequences, behind, strict=True)]
    return np.concatenate(xyz, 1), np.concatenate(missing, 1)


def unpacked(out: Array, sequences: Sequence[tuple[Array, Mask]]) -> list[Array]:
    """The inverse of `packed`."""
    parts = np.split(out, len(sequences), axis=1)
    return [part[: len(xyz)] for part, (xyz, _) in zip(parts, sequences, strict=True)]


class OneEuro(Peer):
    """The 1 Euro filter (Casiez, Roussel, Vogel, CHI 2012), on every coordinate.

    Frequencies are in cycles a frame. Setting: least cutoff, its growth with speed, the speed's cutoff, and by how many
    frames (within the lookahead) the output is moved back to make up for its delay. The package OneEuroFilter takes one
    number at a time, which is 50 times slower; the tests compare.
    """

    name = "One-Euro"
    settings = (
        None,
        *(
            (least, beta, speed, back)
            for least in (0.008, 0.02, 0.05, 0.12, 0.3)
            for beta in (0.0, 1.0, 5.0, 25.0)
            for speed in (0.04, 0.3)
            for back in (0, 1)
        ),
    )

    def _apply_all(
        self, sequences: Sequence[tuple[Array, Mask]], lookahead: Lookahead, setting: tuple[float, ...]
    ) -> list[Array]:
        back = ahead(lookahead, setting[3])
        left = None if lookahead is None else lookahead - back
        filled = [(self.fill(xyz, missing, left), missing) for xyz, missing in sequences]
        out = unpacked(one_euro(packed(filled)[0], *setting[:3]), sequences)
        return [np.concatenate([x[back:], np.repeat(x[-1:], back, 0)])[: len(x)] for x in out]


def one_euro(x: Array, least: float, beta: float, speed: float) -> Array:
    """x [N, ...] through 1 Euro filters."""

    def share(cutoff: Array | float) -> Array | float:
        return 1.0 / (1.0 + 1.0 / (2.0 * np.pi * cutoff))

    out = np.empty_like(x)
    out[0], slope, follow = x[0], np.zeros_like(x[0]), share(speed)
    for t in range(1, len(x)):
        slope = slope + follow * (x[t] - out[t - 1] - slope)
        out[t] = out[t - 1] + share(least + beta * np.abs(slope)) * (x[t] - out[t - 1])
    return out


class Kalman(Peer):
    """A Kalman filter for a position and a velocity that decays, with a smoother as far as the lookahead goes.

    v' = d v + w, x' = x + v', seen with noise; missing joints are predicted. With a lookahead of L every frame is
    smoothed over L frames (fixed lag), without a limit over all (Rauch, Tung, Striebel 1965).

    Setting: variance of w over that of the noise, d, and whether that ratio is the same for all joints (0) or in
    proportion to how the joint moves and to its limb's length (1).

    filterpy's filter holds one state at a time with matrices of its own: 150 coordinates of a sequence take it
    seconds. Here all coordinates of all sequences run side by side; the tests compare with filterpy.
    """

    name = "Kalman"
    settings = (
        None,
        *(
            (10.0**ratio, damping, scaled)
            for ratio in (-4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 2, 3, 4)
            for damping in (0.0, 0.5, 0.8, 0.95)
            for scaled in (0, 1)
        ),
    )

    def _apply_all(
        self, sequences: Sequence[tuple[Array, Mask]], lookahead: Lookahead, setting: tuple[float, ...]
    ) -> list[Array]:
        x, missing = packed(sequences)
        ratio = setting[0] * (self.body.noisy if setting[2] else np.ones_like(self.body.noisy))
        start = np.tile(self.body.mean, (len(sequences), 1))
        return unpacked(
            kalman(x, missing, np.tile(ratio, len(sequences)), setting[1], start, lookahead),
            sequences,
        )


def kalman(x: Array, missing: Mask, ratio: Array, damping: float, start: Array, lookahead: Lookahead) -> Array:
    """x [N, J, 3], missing [N, J] through the filter of `Kalman`, noise variance 1, ratio [J], from `start` [J, 3]."""
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
        """Frames smoothed with what their next frames, smoothed already, say."""
        g, off = gain[frames, ..., None], later - ahead_of[frames.start + 1 : frames.stop + 1]
        moved = g[:, :, 0] * off[:, None, 0] + g[:, :, 1] * off[:, None, 1]
        return np.asarray(state[frames] + moved)

    smooth = state.copy()
    if lookahead is None:
        for t in range(n - 2, -1, -1):
            smooth[t : t + 1] = back(slice(t, t + 1), smooth[t + 1 : t + 2])
    else:  # k rounds smooth every frame over k frames
        for _ in range(min(lookahead, n - 1)):
            smooth[:-1] = back(slice(0, n - 1), smooth[1:])
    return smooth[:, 0]


class Wiener(Smoother):
    """The linear filter with the least squared error on the training sequences under the condition.

    It corrects the plainly filled sequence, separately for frames that are there, and for those missing by how long
    the joint has been gone and whether it comes back within the lookahead.

    Setting: frames before (and, where allowed, behind), and whether joints share their taps (0) or not (1).
    """

    name = "Wiener FIR"
    settings = (None, *((past, own) for past in (2, 4, 8) for own in (0, 1)))
    learns = True

    PAST = 8
    GONE = 4
    """Joints gone for as many frames or more are treated alike."""
    KINDS = 1 + 2 * GONE

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self._taps: dict[tuple[float, ...], Array] = {}

    def _others(self, xyz: Array, missing: Mask, past: int, lookahead: Lookahead) -> tuple[Array, Array]:
        """Frames [N, J, 3] and the other frames of their windows, relative to them [N, J, 3, K]."""
        frames = self.window(xyz, missing, lookahead, past)
        return frames[past], np.stack([x - frames[past] for x in frames[:past] + frames[past + 1 :]], -1)

    def _kinds(self, missing: Mask, lookahead: Lookahead) -> NDArray[np.int64]:
        """[N, J] which filter a frame takes: 0 where the joint is there."""
        frames = np.arange(len(missing))[:, None]
        gone = np.minimum(frames - last_seen(missing), self.GONE)
        returns = next_seen(missing, lookahead) >= 0
        return np.where(missing, 2 * gone - 1 + returns, 0)

    def fit(self, examples: Sequence[Example], lookahead: Lookahead) -> None:
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
        self._taps = {}
        for setting in self.settings:
            if setting is not None:
                past, own = map(int, setting)
                used = slice(self.PAST - past, self.PAST + ahead(lookahead, past))
                left, right = a[:, :, used, used], b[:, :, used]
                # What few frames say of one joint is drawn toward what all joints say.
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
    Hold,
    Linear,
    ParentRelative,
    OneEuro,
    SavitzkyGolay,
    Gaussian,
    Median,
    Hampel,
    Kalman,
    Wiener,
    SpatialGaussian,
)
