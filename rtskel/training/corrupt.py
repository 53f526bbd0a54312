"""Corruptions of clean poses, batched in torch on whatever device the poses are on, reproducible from a generator.

The first four are the paper's (section 5.1): a share p of the frames, or of the joints of each frame, is
masked or moved by uniform noise in [-s limb, s limb], where limb is the length of the bone that ends in the
joint; the frames and joints of the highest confidence are taken, ties at random. The others are what live
estimators do: bursts of lost frames, a hand gone for a while, a joint never seen, small noise everywhere,
slowly wandering error with noisy depth, frozen frames, exchanged sides.

Every function takes `poses` and returns new `Poses`. Shares and strengths are numbers, or tensors [B] with one for each
window. The root (the neck, origin of the canonical frame) is left alone unless it is said that it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from rtskel.skeleton import UPPER_BODY_50, Skeleton

Amount = float | Tensor


@dataclass(frozen=True)
class Poses:
    """A batch of pose windows: xyz [B, W, J, 3], missing [B, W, J] bool (xyz is 0 there), confidence [B, W, J].

    truth [B, W, J, 3] is what is to be recovered from them.
    """

    xyz: Tensor
    missing: Tensor
    confidence: Tensor
    truth: Tensor
    skeleton: Skeleton = UPPER_BODY_50

    @classmethod
    def clean(cls, xyz: Tensor, confidence: Tensor | None = None, skeleton: Skeleton = UPPER_BODY_50) -> Poses:
        """Poses with no joint missing; confidence is 1 where none is given."""
        ones = torch.ones(xyz.shape[:3], device=xyz.device)
        return cls(
            xyz,
            torch.zeros(xyz.shape[:3], dtype=torch.bool, device=xyz.device),
            ones if confidence is None else confidence,
            xyz,
            skeleton,
        )

    def hide(self, where: Tensor) -> Poses:
        """The poses with the joints `where` [B, W, J] missing."""
        missing = self.missing | where
        return replace(self, xyz=self.xyz.masked_fill(missing[..., None], 0.0), missing=missing)

    def move(self, by: Tensor) -> Poses:
        """The poses with every joint that is not missing moved by [B, W, J, 3]."""
        return replace(self, xyz=self.xyz + by.masked_fill(self.missing[..., None], 0.0))

    def limb(self) -> Tensor:
        """Length of the bone that ends in each joint [B, W, J], 0 for the root."""
        parents = torch.tensor(self.skeleton.parents_or_self, device=self.xyz.device)
        length: Tensor = torch.linalg.vector_norm(self.xyz - self.xyz[:, :, parents], dim=-1)
        return length

    def movable(self) -> Tensor:
        """[J] bool: every joint but the root."""
        keep = torch.ones(self.skeleton.joints, dtype=torch.bool, device=self.xyz.device)
        keep[self.skeleton.root] = False
        return keep


def _rand(generator: torch.Generator, *shape: int, like: Tensor) -> Tensor:
    return torch.rand(*shape, generator=generator, device=like.device)


def _column(amount: Amount, dims: int, like: Tensor) -> Tensor:
    """A number or a [B] tensor, shaped to broadcast over `dims` dimensions, the batch first."""
    amount = torch.as_tensor(amount, device=like.device, dtype=torch.float32)
    return amount.view(-1, *[1] * (dims - 1)) if amount.dim() else amount


def top(confidence: Tensor, share: Amount, generator: torch.Generator) -> Tensor:
    """The round(share * n) entries of highest confidence along the last dimension, ties at random: bool like
    [..., n].
    """
    tie = torch.rand(confidence.shape, generator=generator, device=confidence.device).argsort(-1)
    order = tie.gather(-1, confidence.gather(-1, tie).argsort(dim=-1, descending=True, stable=True))
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return rank < (_column(share, confidence.dim(), confidence) * confidence.shape[-1]).round()


def frames(poses: Poses, share: Amount, generator: torch.Generator) -> Tensor:
    """A share of the frames, those of highest mean confidence first: [B, W, J] bool, without the root."""
    return top(poses.confidence.mean(-1), share, generator)[..., None] & poses.movable()


def joints(poses: Poses, share: Amount, generator: torch.Generator, static: bool = False) -> Tensor:
    """A share of each frame's joints, those of highest confidence first (`static`: the same throughout): [B,
    W, J] bool.
    """
    confidence = poses.confidence.mean(1, keepdim=True) if static else poses.confidence
    keep = poses.movable()
    chosen = torch.zeros(confidence.shape, dtype=torch.bool, device=confidence.device)
    chosen[..., keep] = top(confidence[..., keep], share, generator)
    return chosen.expand_as(poses.missing)


def limb_noise(poses: Poses, where: Tensor, strength: Amount, generator: torch.Generator) -> Poses:
    """Uniform noise in [-s limb, s limb] on every coordinate of the joints `where` [B, W, J]; confidence stays
    as it is.
    """
    noise = 2.0 * torch.rand(poses.xyz.shape, generator=generator, device=poses.xyz.device) - 1.0
    size = poses.limb() * _column(strength, 3, poses.xyz) * where
    return poses.move(noise * size[..., None])


def frame_mask(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """The paper's first corruption: a share of the frames without any joint (but the root)."""
    return poses.hide(frames(poses, share, generator))


def joint_mask(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """The paper's second: a share of the joints of each frame missing."""
    return poses.hide(joints(poses, share, generator))


def frame_noise(poses: Poses, share: Amount, strength: Amount, generator: torch.Generator) -> Poses:
    """The paper's third: noise on every joint of a share of the frames."""
    return limb_noise(poses, frames(poses, share, generator), strength, generator)


def joint_noise(poses: Poses, share: Amount, strength: Amount, generator: torch.Generator) -> Poses:
    """The paper's fourth: noise on a share of the joints of each frame."""
    return limb_noise(poses, joints(poses, share, generator), strength, generator)


def static_joint_mask(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """The same share of the joints missing throughout."""
    return poses.hide(joints(poses, share, generator, static=True))


def dense_noise(poses: Poses, strength: Amount, generator: torch.Generator) -> Poses:
    """Noise on every joint of every frame."""
    return limb_noise(poses, torch.ones_like(poses.missing) & poses.movable(), strength, generator)


def runs(
    like: Tensor, share: Amount, shortest: int, longest: int, generator: torch.Generator, inside: bool = False
) -> Tensor:
    """Runs of `shortest` to `longest` frames along dim 1 of `like` [B, W, ...], until a share of each row is taken.

    Rows are independent; the last run is shortened, down to `shortest`, so that no more than that is taken.
    Runs lie anywhere, cut by both ends of the row, as a window sees them; `inside`: whole, and never on the
    first frame. Returns bool [B, W].
    """
    batch, window = like.shape[:2]
    wanted = (_column(share, 1, like) * window).round().long().expand(batch)
    taken = torch.zeros(batch, window, dtype=torch.bool, device=like.device)
    time = torch.arange(window, device=like.device)
    for _ in range(4 * window // shortest + 4):
        left = (wanted - taken.sum(1))[:, None]
        if not bool((left > 0).any()):
            break
        length = torch.randint(shortest, longest + 1, (batch, 1), generator=generator, device=like.device)
        length = torch.minimum(length, left.clamp(min=shortest))
        u = _rand(generator, batch, 1, like=like)
        if inside:
            first = 1 + (u * (window - length).clamp(min=0)).long()
        else:
            first = (u * (window + length - 1)).long() - length + 1
        taken |= (left > 0) & (time >= first) & (time < first + length)
    return taken


def burst_mask(
    poses: Poses,
    share: Amount,
    generator: torch.Generator,
    shortest: int = 5,
    longest: int = 15,
    inside: bool = False,
) -> Poses:
    """Bursts of `shortest` to `longest` frames without any joint (but the root), until a share of the frames is gone.

    inside: whole bursts only, never on the first frame: for whole sequences, of which nothing is known before it.
    """
    gone = runs(poses.missing, share, shortest, longest, generator, inside)
    return poses.hide(gone[..., None] & poses.movable())


def drop_frames(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """A share of the frames lost whole, the root too, as when a camera or an estimator skips."""
    lost = _rand(generator, *poses.missing.shape[:2], like=poses.xyz) < _column(share, 2, poses.xyz)
    return poses.hide(lost[..., None].expand_as(poses.missing))


def hand_gone(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """Each hand lost in runs of 3 to 40 frames for a share of the time, its 21 joints together; the wrist stays."""
    where = torch.zeros_like(poses.missing)
    for hand in ("left_hand", "right_hand"):
        gone = runs(poses.missing, share, 3, 40, generator)
        where[:, :, list(poses.skeleton.groups[hand])] = gone[..., None]
    return poses.hide(where)


def autoregressive(shape: tuple[int, ...], coefficient: Amount, generator: torch.Generator, like: Tensor) -> Tensor:
    """First-order autoregressive noise of unit variance along dim 1 of `shape`."""
    white = torch.randn(shape, generator=generator, device=like.device)
    a = _column(coefficient, len(shape) - 1, like)
    fresh = (1 - a * a).sqrt()
    steps = [white[:, 0]]
    for t in range(1, shape[1]):
        steps.append(a * steps[-1] + fresh * white[:, t])
    return torch.stack(steps, 1)


def measured_error(
    shape: tuple[int, int, int], generator: torch.Generator, like: Tensor, before: int = 0
) -> tuple[Tensor, Tensor]:
    """The error measured between a monocular estimator and optical capture, at wrists and elbows, in millimetres.

    Drift is slow, first-order autoregressive with coefficient 0.96 and deviation 17 mm across the image, 0.99 and
    100 mm in depth; jitter is white, 5 and 13 mm, three times that in 8% of the frames.

    Args:
        shape: (B, W, J); every joint errs by itself.
        like: on whose device the errors shall be.
        before: how many frames of drift more there shall be.

    Returns:
        Drift [B, W + before, J, 3] and jitter [B, W, J, 3].
    """
    batch, window, joints = shape
    longer = (batch, window + before, joints)
    across = 17.0 * autoregressive((*longer, 2), 0.96, generator, like)
    depth = 100.0 * autoregressive((*longer, 1), 0.99, generator, like)
    white = torch.randn((*shape, 3), generator=generator, device=like.device)
    white = white * torch.tensor([5.0, 5.0, 13.0], device=like.device)
    wild = torch.where(_rand(generator, batch, window, 1, 1, like=like) < 0.08, 3.0, 1.0)
    return torch.cat([across, depth], -1), white * wild


def estimator_error(
    poses: Poses,
    drift: Amount,
    depth_drift: Amount,
    jitter: Amount,
    generator: torch.Generator,
    millimetre: float = 1 / 3 / 370,
    even: bool = False,
    kept: bool = False,
) -> Poses:
    """`measured_error` for the whole body: less nearer to the trunk (unless `even`), and a hand moves with its wrist.

    The root moves too.

    Args:
        drift, depth_drift, jitter: how much of each, 1 being as measured.
        millimetre: length of a millimetre in the units of `poses` (default: canonical, shoulders 370 mm apart).
        even: every joint of the body errs as much as the wrists.
        kept: drift is smooth, and the truth drifts with it; where there is jitter, it is what a filter without delay
            makes of the poses (`smoothed`). In a video of one person nobody can tell slow error from motion.
    """
    batch, window, joints = poses.missing.shape
    slow, white = measured_error((batch, window, joints), generator, poses.xyz, before=2 * _AROUND * kept)
    slow = torch.cat(
        [slow[..., :2] * _column(drift, 4, poses.xyz), slow[..., 2:] * _column(depth_drift, 4, poses.xyz)], -1
    )
    if kept:
        for _ in range(_AROUND):
            slow = means_of_three(slow)
    white = white * _column(jitter, 4, poses.xyz)
    above = torch.tensor(poses.skeleton.chain.sum(1) - 1, device=poses.xyz.device)  # how many joints
    nearness = 1.0 if even else (0.4 + 0.2 * above).clamp(max=1.0)[:, None]

    def spread(error: Tensor, of_hand: float) -> Tensor:
        whole = error * nearness
        for wrist, hand in _hands(poses.skeleton):
            whole[:, :, hand] = whole[:, :, [wrist]] + of_hand * error[:, :, hand]
        return whole * millimetre

    slow, white = spread(slow, 0.07), spread(white, 0.35)
    if kept:
        shaken = _column(jitter, 4, poses.xyz) > 0
        left = torch.zeros_like(white)  # of the jitter: none at the ends, where a filter would have to see beyond them
        left[:, 2:-2] = smoothed(white)[:, 2:-2]
        poses = replace(poses, truth=torch.where(shaken, smoothed(poses.truth) + left, poses.truth) + slow)
    return poses.move(slow + white)


_AROUND = 4
"""How often drift that is kept is smoothed, which takes as many frames on either side: a deviation of 1.4 frames."""


def smoothed(xyz: Tensor) -> Tensor:
    """Binomially weighted means [1, 4, 6, 4, 1] / 16 of five frames [B, W, J, 3], which halve what moves at a fifth of
    the frame rate; of three next to the ends, and the ends themselves stay.
    """
    out, once = xyz.clone(), means_of_three(xyz)
    out[:, 1:-1] = once
    out[:, 2:-2] = means_of_three(once)
    return out


Frames = TypeVar("Frames", Tensor, NDArray[Any])


def means_of_three(xyz: Frames) -> Frames:
    """Binomially weighted means [1, 2, 1] / 4 of three frames each: [..., W, J, 3] -> [..., W - 2, J, 3]."""
    means: Frames = 0.25 * xyz[..., :-2, :, :] + 0.5 * xyz[..., 1:-1, :, :] + 0.25 * xyz[..., 2:, :, :]
    return means


def depth_noise(poses: Poses, strength: Amount, generator: torch.Generator) -> Poses:
    """White noise of `strength` canonical units in depth, a fifth of that across the image, on every joint."""
    noise = torch.randn(poses.xyz.shape, generator=generator, device=poses.xyz.device)
    noise = noise * torch.tensor([0.2, 0.2, 1.0], device=poses.xyz.device) * _column(strength, 4, poses.xyz)
    return poses.move(noise * poses.movable()[:, None])


def depth_leaps(poses: Poses, strength: Amount, generator: torch.Generator) -> Poses:
    """A hand that leaps in depth, about once in 12 frames, and stays there: an estimator that finds it and loses it.

    The truth follows, smoothed, as in `estimator_error(kept=True)`. The wrist moves with its hand, the elbow by half of
    that. `strength` is the deviation in canonical units (0.05: 55 mm); across the image a fifth of it.
    """
    batch, window, _ = poses.missing.shape
    error = torch.zeros_like(poses.xyz)
    time = torch.arange(window, device=error.device)[:, None]
    for wrist, hand in _hands(poses.skeleton):
        since = torch.where(_rand(generator, batch, window, 1, like=error) < 1 / 12, time, 0).cummax(1).values
        levels = torch.randn((batch, window, 3), generator=generator, device=error.device)
        levels = levels * torch.tensor([0.2, 0.2, 1.0], device=error.device) * _column(strength, 3, error)
        arm = levels.gather(1, since.expand_as(levels))[:, :, None]
        error[:, :, [wrist, *hand]] = arm
        error[:, :, [poses.skeleton.parents[wrist]]] = 0.5 * arm
    return replace(poses, truth=poses.truth + smoothed(error)).move(error)


def frozen_frames(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """An estimator that stalls: for runs of 2 to 6 frames it repeats the frame before the run."""
    held = runs(poses.missing, share, 2, 6, generator)
    time = torch.arange(held.shape[1], device=held.device).expand_as(held)
    source = torch.where(held, 0, time).cummax(1).values
    index = source[:, :, None].expand_as(poses.missing)
    return replace(
        poses,
        xyz=poses.xyz.gather(1, index[..., None].expand_as(poses.xyz)),
        missing=poses.missing.gather(1, index),
        confidence=poses.confidence.gather(1, index),
    )


def swap_sides(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """Left and right exchanged, arms and hands or the hands alone, in runs of 1 to 5 frames for a share of the time."""
    swapped = runs(poses.missing, share, 1, 5, generator)
    mirror = torch.tensor(poses.skeleton.mirror, device=poses.xyz.device)
    hands = torch.zeros_like(poses.movable())
    for _, hand in _hands(poses.skeleton):
        hands[hand] = True
    only_hands = _rand(generator, swapped.shape[0], 1, 1, like=poses.xyz) < 0.5
    where = swapped[..., None] & (hands | ~only_hands)
    return replace(
        poses,
        xyz=torch.where(where[..., None], poses.xyz[:, :, mirror], poses.xyz),
        missing=torch.where(where, poses.missing[:, :, mirror], poses.missing),
        confidence=torch.where(where, poses.confidence[:, :, mirror], poses.confidence),
    )


def _hands(skeleton: Skeleton) -> list[tuple[int, list[int]]]:
    """(wrist of the body, joints of the hand) for both sides."""
    hands = [list(skeleton.groups[name]) for name in ("left_hand", "right_hand")]
    return [(skeleton.parents[hand[0]], hand) for hand in hands]


Recipe = Callable[[Poses, torch.Generator], Poses]


def _uniform(low: float, high: float) -> Callable[[Poses, torch.Generator], Tensor]:
    return lambda poses, g: low + (high - low) * _rand(g, poses.xyz.shape[0], like=poses.xyz)


def _estimator(low: float, high: float) -> Recipe:
    """Estimator error with drift of `low` to `high` times the measured, half of the windows with losses on top."""

    def recipe(poses: Poses, g: torch.Generator) -> Poses:
        drift = _uniform(low, high)
        poses = estimator_error(poses, drift(poses, g), 0.7 * drift(poses, g), _uniform(0.3, 1.6)(poses, g), g)
        where = _wrists_lost(poses, 0.3, g)
        lossy = _some(0.5, poses, g)
        poses = poses.hide(where & lossy[:, None, None])
        share = _uniform(0.0, 0.1)(poses, g) * ~lossy
        return drop_frames(joint_mask(hand_gone(poses, 1.5 * share, g), 0.5 * share, g), share, g)

    return recipe


def _estimator_body(poses: Poses, g: torch.Generator) -> Poses:
    """About the measured error on every joint of the body alike, wrists lost a tenth of the time; often handless."""
    strength = _uniform(0.7, 1.3)
    poses = estimator_error(poses, strength(poses, g), strength(poses, g), strength(poses, g), g, even=True)
    return poses.hide(_wrists_lost(poses, 0.7, g))


def _wrists_lost(poses: Poses, handless: float, g: torch.Generator) -> Tensor:
    """Each wrist lost a tenth of the time, and in the share `handless` of the windows both hands: [B, W, J]."""
    where = torch.zeros_like(poses.missing)
    without = _some(handless, poses, g)[:, None, None]
    for wrist, hand in _hands(poses.skeleton):
        where[:, :, [wrist]] = runs(poses.missing, 0.1, 5, 20, g)[..., None]
        where[:, :, hand] = without
    return where


def _jitter(low: float, high: float) -> Recipe:
    """What is left of an estimator's error when drift is let be, with `low` to `high` times the measured jitter.

    Half of the windows have losses; in some, hands leap in depth; in some, hardly a hand is seen.
    """

    def recipe(poses: Poses, g: torch.Generator) -> Poses:
        drift = _uniform(0.0, 1.0)
        poses = estimator_error(poses, drift(poses, g), drift(poses, g), _uniform(low, high)(poses, g), g, kept=True)
        poses = depth_leaps(poses, _uniform(0.0, 0.08)(poses, g) * _some(0.4, poses, g), g)
        share = _uniform(0.0, 0.1)(poses, g) * _some(0.5, poses, g)
        poses = _hardly_a_hand(hand_gone(poses, 4 * share, g), _some(0.4, poses, g), g)
        return drop_frames(joint_mask(poses, 0.5 * share, g), share, g)

    return recipe


def _some(share: float, poses: Poses, g: torch.Generator) -> Tensor:
    """That share of the windows [B]."""
    return _rand(g, poses.xyz.shape[0], like=poses.xyz) < share


def _hardly_a_hand(poses: Poses, chosen: Tensor, g: torch.Generator) -> Poses:
    """In the windows `chosen` [B] one hand is never seen and the other now and then."""
    where = torch.zeros_like(poses.missing)
    first = _some(0.5, poses, g)
    for (_, hand), never in zip(_hands(poses.skeleton), (first, ~first), strict=True):
        gone = runs(poses.missing, _uniform(0.3, 0.9)(poses, g), 2, 20, g)
        where[:, :, hand] = (chosen[:, None] & (never[:, None] | gone))[..., None]
    return poses.hide(where)


def _live(poses: Poses, g: torch.Generator) -> Poses:
    """Several failures at once, each in some of the windows only."""

    def some(low: float, high: float, probability: float) -> Tensor:
        return _uniform(low, high)(poses, g) * _some(probability, poses, g)

    drift = some(0.05, 0.5, 0.5)
    poses = estimator_error(poses, drift, 0.6 * drift, some(0.1, 1.5, 0.6), g, kept=True)
    poses = dense_noise(poses, some(0.02, 0.2, 0.3), g)
    poses = depth_noise(poses, some(0.005, 0.03, 0.3), g)
    poses = joint_noise(poses, some(0.02, 0.2, 0.4), _uniform(0.2, 1.0)(poses, g), g)
    poses = swap_sides(poses, some(0.02, 0.15, 0.2), g)
    poses = frozen_frames(poses, some(0.02, 0.2, 0.2), g)
    poses = hand_gone(poses, some(0.1, 1.0, 0.5), g)
    poses = joint_mask(poses, some(0.02, 0.2, 0.4), g)
    poses = static_joint_mask(poses, some(0.02, 0.1, 0.3), g)
    return drop_frames(poses, some(0.02, 0.3, 0.6), g)


# What training draws from: a recipe for each kind, and how often. Strengths are split so that each kind has
# errors of one order of magnitude: training balances the kinds by their running error.
_SHARE = _uniform(0.05, 0.25)
TRAINING: dict[str, tuple[float, Recipe]] = {
    "clean": (1.0, lambda x, g: x),
    "frame_mask": (1.6, lambda x, g: frame_mask(x, _SHARE(x, g), g)),
    "joint_mask": (1.4, lambda x, g: joint_mask(x, _SHARE(x, g), g)),
    "frame_noise_low": (1.0, lambda x, g: frame_noise(x, _SHARE(x, g), _uniform(0.05, 0.2)(x, g), g)),
    "frame_noise_mid": (1.0, lambda x, g: frame_noise(x, _SHARE(x, g), _uniform(0.2, 0.6)(x, g), g)),
    "frame_noise_high": (1.0, lambda x, g: frame_noise(x, _SHARE(x, g), _uniform(0.6, 1.0)(x, g), g)),
    "joint_noise_low": (0.7, lambda x, g: joint_noise(x, _SHARE(x, g), _uniform(0.05, 0.2)(x, g), g)),
    "joint_noise_mid": (1.0, lambda x, g: joint_noise(x, _SHARE(x, g), _uniform(0.2, 0.6)(x, g), g)),
    "joint_noise_high": (1.0, lambda x, g: joint_noise(x, _SHARE(x, g), _uniform(0.6, 1.0)(x, g), g)),
    "burst_mask": (1.6, lambda x, g: burst_mask(x, _SHARE(x, g), g)),
    "static_joint_mask": (2.0, lambda x, g: static_joint_mask(x, _SHARE(x, g), g)),
    "dense_noise": (1.2, lambda x, g: dense_noise(x, _uniform(0.05, 0.45)(x, g), g)),
    "estimator_low": (2.0, _estimator(0.1, 0.45)),
    "estimator_high": (1.2, _estimator(0.45, 1.2)),
    "estimator_body": (1.6, _estimator_body),
    "jitter_low": (1.6, _jitter(0.1, 0.5)),
    "jitter_high": (2.0, _jitter(0.5, 1.6)),
    "live": (2.0, _live),
}

FIXED: dict[str, tuple[int, Callable[..., Poses]]] = {
    "frame_mask": (1, frame_mask),
    "joint_mask": (1, joint_mask),
    "static_joint_mask": (1, static_joint_mask),
    "frame_noise": (2, frame_noise),
    "joint_noise": (2, joint_noise),
}
"""What `recipe` takes at fixed amounts, and how many of them: a share, then a strength."""


def recipe(kind: str) -> tuple[float, Recipe]:
    """How often training draws a kind of corruption, and the corruption.

    A kind is a name of `TRAINING`, or a name of `FIXED` with its amounts, as in "frame_mask@0.15" (a share) and
    "joint_noise@0.15,0.5" (a share and a strength). Anything else raises ValueError.
    """
    if kind in TRAINING:
        return TRAINING[kind]
    name, _, text = kind.partition("@")
    try:
        count, function = FIXED[name]
        amounts = [float(amount) for amount in text.split(",")]
        if len(amounts) != count or not all(0.0 <= amount < math.inf for amount in amounts) or amounts[0] > 1.0:
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"unknown kind of corruption {kind!r}") from None
    return 1.0, lambda poses, g: function(poses, *amounts, g)
