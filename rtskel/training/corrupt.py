"""Corruptions of clean poses, batched in torch on the device of the poses, reproducible from a generator.

The first four are the paper's (section 5.1): a share p of the frames, or of the joints of each frame, is masked, or
moved by uniform noise in [-s limb, s limb], where limb is the length of the bone that ends in the joint. The frames and
joints with the highest confidence are chosen, ties at random. The others are what live estimators do: bursts of lost
frames, a hand lost for a while, a joint never seen, small noise everywhere, slow drift with noisy depth, frozen frames,
exchanged sides, a hand, an arm or everything off for some frames.

Every function takes `poses` and returns new `Poses`. Shares and strengths are numbers, or tensors [B] with one value a
window. The root (the neck, origin of the canonical frame) is not corrupted unless a function says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from rtskel.skeleton import UPPER_BODY_50, Skeleton
from rtskel.training.device import Choice, Tree, behind, constant, covered, covered_at_once, tree
from rtskel.training.score import CANONICAL_MM

Amount = float | Tensor


@dataclass(frozen=True)
class Poses:
    """A batch of pose windows: xyz [B, W, J, 3], missing [B, W, J] bool (xyz is 0 there), confidence [B, W, J].

    truth [B, W, J, 3] is what a model should recover.
    """

    xyz: Tensor
    missing: Tensor
    confidence: Tensor
    truth: Tensor
    skeleton: Skeleton = UPPER_BODY_50

    @classmethod
    def clean(cls, xyz: Tensor, confidence: Tensor | None = None, skeleton: Skeleton = UPPER_BODY_50) -> Poses:
        """Poses without missing joints; confidence is 1 unless given."""
        ones = torch.ones(xyz.shape[:3], device=xyz.device)
        return cls(xyz, ones == 0, ones if confidence is None else confidence, xyz, skeleton)

    @property
    def tree(self) -> Tree:
        """The skeleton on the device of the poses."""
        return tree(self.skeleton, self.xyz.device)

    def hide(self, where: Tensor) -> Poses:
        """The poses with the joints `where` [B, W, J] missing."""
        missing = self.missing | where
        return replace(self, xyz=self.xyz.masked_fill(missing[..., None], 0.0), missing=missing)

    def move(self, by: Tensor) -> Poses:
        """The poses with every joint that is not missing moved by [B, W, J, 3]."""
        return replace(self, xyz=self.xyz + by.masked_fill(self.missing[..., None], 0.0))

    def limb(self) -> Tensor:
        """Length of the bone that ends in each joint [B, W, J], 0 for the root."""
        length: Tensor = torch.linalg.vector_norm(self.xyz - self.xyz[:, :, self.tree.parents], dim=-1)
        return length

    def movable(self) -> Tensor:
        """[J] bool: every joint but the root."""
        return self.tree.movable


def _rand(generator: torch.Generator, *shape: int, like: Tensor) -> Tensor:
    return torch.rand(*shape, generator=generator, device=like.device)


def _column(amount: Amount, dims: int, like: Tensor) -> Tensor:
    """A number or a [B] tensor, shaped to broadcast over `dims` dimensions, the batch first."""
    if not isinstance(amount, Tensor):
        return torch.full((), amount, dtype=torch.float32, device=like.device)
    return amount.view(-1, *[1] * (dims - 1)) if amount.dim() else amount


def top(confidence: Tensor, share: Amount, generator: torch.Generator) -> Tensor:
    """The round(share * n) entries of the last dimension with the highest confidence, ties at random: [..., n] bool."""
    tie = torch.rand(confidence.shape, generator=generator, device=confidence.device).argsort(-1)
    order = tie.gather(-1, confidence.gather(-1, tie).argsort(dim=-1, descending=True, stable=True))
    ranks = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, ranks)
    return rank < (_column(share, confidence.dim(), confidence) * confidence.shape[-1]).round()


def frames(poses: Poses, share: Amount, generator: torch.Generator) -> Tensor:
    """A share of the frames, highest mean confidence first: [B, W, J] bool, without the root."""
    return top(poses.confidence.mean(-1), share, generator)[..., None] & poses.movable()


def joints(poses: Poses, share: Amount, generator: torch.Generator, static: bool = False) -> Tensor:
    """A share of each frame's joints, highest confidence first; `static`: the same in all frames: [B, W, J] bool."""
    confidence = poses.confidence.mean(1, keepdim=True) if static else poses.confidence
    moving = poses.tree.moving
    chosen = torch.zeros(confidence.shape, dtype=torch.bool, device=confidence.device)
    chosen.index_copy_(2, moving, top(confidence.index_select(2, moving), share, generator))
    return chosen.expand_as(poses.missing)


def limb_noise(poses: Poses, where: Tensor, strength: Amount, generator: torch.Generator) -> Poses:
    """Uniform noise in [-s limb, s limb] on all coordinates of the joints `where` [B, W, J]; same confidence."""
    noise = 2.0 * torch.rand(poses.xyz.shape, generator=generator, device=poses.xyz.device) - 1.0
    size = poses.limb() * _column(strength, 3, poses.xyz) * where
    return poses.move(noise * size[..., None])


def frame_mask(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """The paper's first corruption: all joints but the root missing in a share of the frames."""
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
    """Runs of `shortest` to `longest` frames along dim 1 of `like` [B, W, ...], until a share of each row is covered.

    Rows are independent. The last run is shortened, down to `shortest`, to cover no more than the share. Runs lie
    anywhere and are cut at both ends of the row, as in a window; `inside`: whole runs, never on the first frame.

    Returns:
        bool [B, W].
    """
    batch, window = like.shape[:2]
    wanted = (_column(share, 1, like) * window).round().long().expand(batch)
    tries = 4 * window // shortest + 4

    def draw(runs: int) -> tuple[Tensor, Tensor]:
        length = torch.randint(shortest, longest + 1, (batch, runs), generator=generator, device=like.device)
        return length, _rand(generator, batch, runs, like=like)

    if behind(like.device):
        return covered_at_once(wanted, *draw(tries), shortest, window, inside)
    return covered(wanted, lambda k: draw(1), shortest, window, tries, inside)


def burst_mask(poses: Poses, share: Amount, generator: torch.Generator, inside: bool = False) -> Poses:
    """All joints but the root missing in bursts of 5 to 15 frames, for a share of the frames.

    inside: whole bursts only, never on the first frame: for whole sequences, in which nothing precedes it.
    """
    gone = runs(poses.missing, share, 5, 15, generator, inside)
    return poses.hide(gone[..., None] & poses.movable())


def drop_frames(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """A share of the frames lost, the root too, as when a camera or an estimator skips frames."""
    lost = _rand(generator, *poses.missing.shape[:2], like=poses.xyz) < _column(share, 2, poses.xyz)
    return poses.hide(lost[..., None].expand_as(poses.missing))


def hand_gone(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """Each hand missing in runs of 3 to 40 frames for a share of the time, its 21 joints together; not the wrist."""
    where = torch.zeros_like(poses.missing)
    for _, _, _, hand in poses.tree.hands:
        where = where | (hand & runs(poses.missing, share, 3, 40, generator)[..., None])
    return poses.hide(where)


def autoregressive(shape: tuple[int, ...], coefficient: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """First-order autoregressive noise of unit variance along dim 1 of `shape`."""
    white = torch.randn(shape, generator=generator, device=like.device).flatten(2)
    # Frame by frame, x[t] = a x[t - 1] + sqrt(1 - a^2) white[t]; here a stretch of frames at once.
    parts = list(torch.split(white, _STRETCH, 1))
    for k, part in enumerate(parts):
        response, carried = _response(part.shape[1], coefficient, k > 0, like.device)
        parts[k] = response @ part
        if k:
            parts[k] = parts[k] + carried * parts[k - 1][:, -1:]
    return torch.cat(parts, 1).view(shape)


_STRETCH = 64


@cache
def _response(count: int, a: float, fresh: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """What white noise in a stretch [count, count], and the frame before it [count, 1], are in each of its frames.

    fresh: whether there is such a frame; else the first frame's variance is that of its own noise.
    """
    with torch.inference_mode(False):
        steps = torch.arange(count, dtype=torch.float64)
        response = (a ** (steps[:, None] - steps).clamp(min=0)).tril() * math.sqrt(1 - a * a)
        if not fresh:
            response[:, 0] = a**steps
        return response.float().to(device), (a ** (steps + 1))[:, None].float().to(device)


def rotations(angles: Tensor) -> Tensor:
    """Rotation matrices [B, 3, 3] of yaw (about y), pitch (about x) and roll (about z), angles [B, 3] in radians."""
    (cy, cx, cz), (sy, sx, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    zero, one = torch.zeros_like(cy), torch.ones_like(cy)
    yaw = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).view(-1, 3, 3)
    pitch = torch.stack([one, zero, zero, zero, cx, -sx, zero, sx, cx], -1).view(-1, 3, 3)
    roll = torch.stack([cz, -sz, zero, sz, cz, zero, zero, zero, one], -1).view(-1, 3, 3)
    return roll @ pitch @ yaw


def measured_error(
    shape: tuple[int, int, int], generator: torch.Generator, like: Tensor, before: int = 0
) -> tuple[Tensor, Tensor]:
    """The error of a monocular estimator against optical capture, measured at wrists and elbows, in millimetres.

    Drift is slow: first-order autoregressive with coefficient 0.96 and standard deviation 17 mm across the image, 0.99
    and 100 mm in depth. Jitter is white: 5 and 13 mm, three times that in 8% of the frames.

    Args:
        shape: (B, W, J); joints err independently.
        like: a tensor on the device of the errors.
        before: how many more frames of drift to draw.

    Returns:
        Drift [B, W + before, J, 3] and jitter [B, W, J, 3].
    """
    batch, window, joints = shape
    longer = (batch, window + before, joints)
    across = 17.0 * autoregressive((*longer, 2), 0.96, generator, like)
    depth = 100.0 * autoregressive((*longer, 1), 0.99, generator, like)
    white = torch.randn((*shape, 3), generator=generator, device=like.device)
    white = white * constant((5.0, 5.0, 13.0), like.device)
    wild = torch.where(_rand(generator, batch, window, 1, 1, like=like) < 0.08, 3.0, 1.0)
    return torch.cat([across, depth], -1), white * wild


def estimator_error(
    poses: Poses,
    drift: Amount,
    depth_drift: Amount,
    jitter: Amount,
    generator: torch.Generator,
    even: bool = False,
    kept: bool = False,
) -> Poses:
    """`measured_error` for the whole body: smaller near the trunk (unless `even`), and a hand moves with its wrist.

    The root moves too. Poses are in canonical units.

    Args:
        drift, depth_drift, jitter: strength of each; 1: as measured.
        even: every joint of the body errs as much as the wrists.
        kept: drift is smooth and belongs to the truth, because slow error cannot be told from motion. Where there is
            jitter, the truth is what a filter without delay makes of the poses (`smoothed`).
    """
    batch, window, joints = poses.missing.shape
    slow, white = measured_error((batch, window, joints), generator, poses.xyz, before=2 * _AROUND * kept)
    across, deep = (_column(amount, 3, poses.xyz).expand(batch, 1, 1) for amount in (drift, depth_drift))
    slow = slow * torch.stack([across, across, deep], -1)
    for _ in range(_AROUND * kept):
        slow = means_of_three(slow)
    white = white * _column(jitter, 4, poses.xyz)
    nearness, carrier, carried = _rigid(poses.skeleton, even, poses.xyz.device)

    def spread(error: Tensor, of_hand: float) -> Tensor:
        own = torch.where(poses.tree.of_hands[:, None], of_hand, nearness)
        return (carried * error[:, :, carrier] + own * error) * (1 / CANONICAL_MM)

    slow, white = spread(slow, 0.07), spread(white, 0.35)
    if kept:
        shaken = _column(jitter, 4, poses.xyz) > 0
        left = torch.zeros_like(white)  # what the filter leaves; 0 at the ends, where it would need frames beyond
        left[:, 2:-2] = smoothed(white)[:, 2:-2]
        poses = replace(poses, truth=torch.where(shaken, smoothed(poses.truth) + left, poses.truth) + slow)
    return poses.move(slow + white)


@cache
def _rigid(skeleton: Skeleton, even: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """How far each joint of the body errs [J, 1], the joint that takes it along [J], and how far [J, 1]."""
    with torch.inference_mode(False):
        above = torch.tensor(skeleton.chain.sum(1) - 1)  # how many joints
        nearness = torch.ones_like(above) if even else (0.4 + 0.2 * above).clamp(max=1.0)
        carrier, carried = torch.arange(skeleton.joints), torch.zeros(skeleton.joints)
        for wrist, hand in skeleton.hands:
            carrier[hand] = wrist
            carried[hand] = nearness[wrist]
        return nearness[:, None].to(device), carrier.to(device), carried[:, None].to(device)


_AROUND = 4
"""Passes that smooth kept drift, each of which uses one frame on either side: a standard deviation of 1.4 frames."""


def smoothed(xyz: Tensor) -> Tensor:
    """Means of five frames [B, W, J, 3] with weights [1, 4, 6, 4, 1] / 16, which halve motion at a fifth of the frame
    rate; of three frames next to the ends. The first and the last frame are unchanged.
    """
    out, once = xyz.clone(), means_of_three(xyz)
    out[:, 1:-1] = once
    out[:, 2:-2] = means_of_three(once)
    return out


Frames = TypeVar("Frames", Tensor, NDArray[Any])


def means_of_three(xyz: Frames) -> Frames:
    """Means of three frames with weights [1, 2, 1] / 4: [..., W, J, 3] -> [..., W - 2, J, 3]."""
    means: Frames = 0.25 * (xyz[..., :-2, :, :] + xyz[..., 2:, :, :]) + 0.5 * xyz[..., 1:-1, :, :]
    return means


def depth_noise(poses: Poses, strength: Amount, generator: torch.Generator) -> Poses:
    """White noise on every joint: `strength` canonical units in depth, a fifth of that across the image."""
    return poses.move(_deep_noise(poses.xyz.shape, strength, generator, poses.xyz) * poses.movable()[:, None])


def _deep_noise(shape: Sequence[int], strength: Amount, generator: torch.Generator, like: Tensor) -> Tensor:
    """White noise [B, ..., 3] of that strength in depth, a fifth of it across the image."""
    noise = torch.randn(shape, generator=generator, device=like.device)
    return noise * constant((0.2, 0.2, 1.0), like.device) * _column(strength, len(shape), like)


def depth_leaps(poses: Poses, strength: Amount, generator: torch.Generator) -> Poses:
    """A hand that jumps in depth, about once in 12 frames, and stays there, as when an estimator loses and finds it.

    The truth follows, smoothed, as in `estimator_error(kept=True)`. The wrist moves with its hand, the elbow by half as
    much. `strength` is the standard deviation in canonical units (0.05: 55 mm); across the image a fifth of it.
    """
    batch, window, _ = poses.missing.shape
    error = torch.zeros_like(poses.xyz)
    time = torch.arange(window, device=error.device)[:, None]
    for along in _arms(poses.skeleton, error.device):
        since = torch.where(_rand(generator, batch, window, 1, like=error) < 1 / 12, time, 0).cummax(1).values
        levels = _deep_noise((batch, window, 3), strength, generator, error)
        arm = levels.gather(1, since.expand_as(levels))[:, :, None]
        error = error + arm * along
    return replace(poses, truth=poses.truth + smoothed(error)).move(error)


@cache
def _arms(skeleton: Skeleton, device: torch.device) -> list[Tensor]:
    """How far each joint goes along with the left and the right wrist: [J, 1] each."""
    of, parents = tree(skeleton, device), skeleton.parents
    with torch.inference_mode(False):
        return [
            of.per_joint({parents[wrist]: 0.5} | dict.fromkeys([wrist, *hand], 1.0))[:, None]
            for wrist, hand in skeleton.hands
        ]


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
    """Left and right exchanged (arms and hands, or only hands) in runs of 1 to 5 frames for a share of the time."""
    swapped = runs(poses.missing, share, 1, 5, generator)
    mirror, hands = poses.tree.mirror, poses.tree.of_hands
    only_hands = _rand(generator, swapped.shape[0], 1, 1, like=poses.xyz) < 0.5
    where = swapped[..., None] & (hands | ~only_hands)
    return replace(
        poses,
        xyz=torch.where(where[..., None], poses.xyz[:, :, mirror], poses.xyz),
        missing=torch.where(where, poses.missing[:, :, mirror], poses.missing),
        confidence=torch.where(where, poses.confidence[:, :, mirror], poses.confidence),
    )


def group_off(
    poses: Poses, share: Amount, size: Amount, generator: torch.Generator, shortest: int = 1, longest: int = 8
) -> Poses:
    """A rigid group off by `size` canonical units in runs of `shortest` to `longest` frames, for a share of the frames.

    Each window has one group: a joint with all that hang on it (the head, a finger, a hand, an arm, or everything, the
    root too), or a wrist or an elbow alone. Each run has a direction of its own.
    """
    batch, window, _ = poses.missing.shape
    device = poses.xyz.device
    choice, groups = _groups(poses.skeleton, device)
    group = choice.draw(batch, generator)
    off = runs(poses.missing, share, shortest, longest, generator)
    began = torch.where(off & ~torch.nn.functional.pad(off, (1, 0))[:, :-1], torch.arange(window, device=device), 0)
    way = torch.nn.functional.normalize(torch.randn(batch, window, 3, generator=generator, device=device), dim=-1)
    way = way.gather(1, began.cummax(1).values[..., None].expand_as(way)) * _column(size, 3, poses.xyz)
    where = off[..., None] & groups[group][:, None]  # [B, W, J]
    return poses.move(way[:, :, None] * where[..., None])


@cache
def _groups(skeleton: Skeleton, device: torch.device) -> tuple[Choice, Tensor]:
    """How often each group is off, and which joints are in it: [2 J, J] bool."""
    joints = skeleton.joints
    often = torch.zeros(2, joints)
    often[0, skeleton.root] = 2.0
    often[0, [j for j in skeleton.groups["body"] if skeleton.parents[j] == skeleton.root]] = 0.7
    for wrist, hand in skeleton.hands:
        often[0, hand] = 1.0 / len(hand)
        often[0, [wrist, hand[0], skeleton.parents[wrist]]] = 2.0
        often[1, [wrist, skeleton.parents[wrist]]] = 0.5
    with torch.inference_mode(False):
        whole, alone = torch.tensor(skeleton.chain).T > 0, torch.eye(joints) > 0
        return Choice(often.flatten().to(device)), torch.cat([whole, alone]).to(device)


BODY_OFF = 4.0
"""How much oftener `joint_off` takes a joint of the body than one of a hand, of which there are many."""


def joint_off(poses: Poses, share: Amount, size: Amount, generator: torch.Generator) -> Poses:
    """Single joints, without those that hang on them, off by `size` canonical units for one frame, each in a direction
    of its own; for a share of the frames of each joint of a hand, `BODY_OFF` times that of the body's.
    """
    often = torch.where(poses.tree.of_hands, 1.0, BODY_OFF)
    drawn = _rand(generator, *poses.missing.shape, like=poses.xyz)
    where = (drawn < often * _column(share, 3, poses.xyz)) & poses.movable()
    way = torch.randn(poses.xyz.shape, generator=generator, device=poses.xyz.device)
    way = torch.nn.functional.normalize(way, dim=-1) * _column(size, 4, poses.xyz)
    return poses.move(way * where[..., None])


def doubled_hand(poses: Poses, share: Amount, generator: torch.Generator) -> Poses:
    """One hand's points lie on the other hand, in runs of 1 to 8 frames for a share of the time."""
    twin = poses.tree.mirror
    chosen = _some(0.5, poses, generator)
    where = torch.zeros_like(poses.missing)
    for (_, _, _, hand), this in zip(poses.tree.hands, (chosen, ~chosen), strict=True):
        where = where | (hand & (runs(poses.missing, share, 1, 8, generator) & this[:, None])[..., None])
    return replace(
        poses,
        xyz=torch.where(where[..., None], poses.xyz[:, :, twin], poses.xyz),
        missing=torch.where(where, poses.missing[:, :, twin], poses.missing),
        confidence=torch.where(where, poses.confidence[:, :, twin], poses.confidence),
    )


Recipe = Callable[[Poses, torch.Generator], Poses]


def _uniform(poses: Poses, g: torch.Generator, low: float, high: float) -> Tensor:
    """A number for each window: [B]."""
    return low + (high - low) * _rand(g, poses.xyz.shape[0], like=poses.xyz)


def _share(poses: Poses, g: torch.Generator) -> Tensor:
    return _uniform(poses, g, 0.05, 0.25)


def _estimator(low: float, high: float) -> Recipe:
    """Estimator error, `low` to `high` times the measured drift; half of the windows also lose joints and frames."""

    def recipe(poses: Poses, g: torch.Generator) -> Poses:
        drift, depth_drift = _uniform(poses, g, low, high), 0.7 * _uniform(poses, g, low, high)
        poses = estimator_error(poses, drift, depth_drift, _uniform(poses, g, 0.3, 1.6), g)
        where = _wrists_lost(poses, 0.3, g)
        lossy = _some(0.5, poses, g)
        poses = poses.hide(where & lossy[:, None, None])
        share = _uniform(poses, g, 0.0, 0.1) * ~lossy
        return drop_frames(joint_mask(hand_gone(poses, 1.5 * share, g), 0.5 * share, g), share, g)

    return recipe


def _estimator_body(poses: Poses, g: torch.Generator) -> Poses:
    """About the measured error, alike on every joint of the body; wrists lost a tenth of the time; often no hands."""
    drift, depth_drift, jitter = (_uniform(poses, g, 0.7, 1.3) for _ in range(3))
    poses = estimator_error(poses, drift, depth_drift, jitter, g, even=True)
    return poses.hide(_wrists_lost(poses, 0.7, g))


def _wrists_lost(poses: Poses, handless: float, g: torch.Generator) -> Tensor:
    """Each wrist lost a tenth of the time; both hands lost in the share `handless` of the windows: [B, W, J]."""
    where = poses.tree.of_hands & _some(handless, poses, g)[:, None, None]
    for _, _, wrist, _ in poses.tree.hands:
        where = where | (wrist & runs(poses.missing, 0.1, 5, 20, g)[..., None])
    return where


def _jitter(low: float, high: float) -> Recipe:
    """Estimator error whose drift is part of the truth, with `low` to `high` times the measured jitter.

    Half of the windows also lose joints and frames; in some, hands jump in depth; in some, hands are hardly seen.
    """

    def recipe(poses: Poses, g: torch.Generator) -> Poses:
        drift, depth_drift = _uniform(poses, g, 0.0, 1.0), _uniform(poses, g, 0.0, 1.0)
        poses = estimator_error(poses, drift, depth_drift, _uniform(poses, g, low, high), g, kept=True)
        poses = depth_leaps(poses, _uniform(poses, g, 0.0, 0.08) * _some(0.4, poses, g), g)
        share = _uniform(poses, g, 0.0, 0.1) * _some(0.5, poses, g)
        poses = _hardly_a_hand(hand_gone(poses, 4 * share, g), _some(0.4, poses, g), g)
        return drop_frames(joint_mask(poses, 0.5 * share, g), share, g)

    return recipe


def _some(share: float, poses: Poses, g: torch.Generator) -> Tensor:
    """A random share of the windows: [B] bool."""
    return _rand(g, poses.xyz.shape[0], like=poses.xyz) < share


def _hardly_a_hand(poses: Poses, chosen: Tensor, g: torch.Generator) -> Poses:
    """In the windows `chosen` [B] one hand is never seen, and the other only at times."""
    where = torch.zeros_like(poses.missing)
    first = _some(0.5, poses, g)
    for (_, _, _, hand), never in zip(poses.tree.hands, (first, ~first), strict=True):
        gone = runs(poses.missing, _uniform(poses, g, 0.3, 0.9), 2, 20, g)
        where = where | (hand & (chosen[:, None] & (never[:, None] | gone))[..., None])
    return poses.hide(where)


def _live(poses: Poses, g: torch.Generator) -> Poses:
    """Several failures at once, each in some of the windows."""

    def some(low: float, high: float, probability: float) -> Tensor:
        return _uniform(poses, g, low, high) * _some(probability, poses, g)

    drift = some(0.05, 0.5, 0.5)
    poses = estimator_error(poses, drift, 0.6 * drift, some(0.1, 1.5, 0.6), g, kept=True)
    poses = dense_noise(poses, some(0.02, 0.2, 0.3), g)
    poses = depth_noise(poses, some(0.005, 0.03, 0.3), g)
    poses = joint_noise(poses, some(0.02, 0.2, 0.4), _uniform(poses, g, 0.2, 1.0), g)
    poses = swap_sides(poses, some(0.02, 0.15, 0.2), g)
    poses = frozen_frames(poses, some(0.02, 0.2, 0.2), g)
    poses = hand_gone(poses, some(0.1, 1.0, 0.5), g)
    poses = joint_mask(poses, some(0.02, 0.2, 0.4), g)
    poses = static_joint_mask(poses, some(0.02, 0.1, 0.3), g)
    return drop_frames(poses, some(0.02, 0.3, 0.6), g)


def _size_off(poses: Poses, g: torch.Generator, low: float, high: float) -> Tensor:
    """`low` to `high` metres in canonical units [B], alike for each order of size."""
    return low * (high / low) ** _uniform(poses, g, 0.0, 1.0) * (1000 / CANONICAL_MM)


def _group_off(low: float, high: float, doubled: float = 0.0) -> Recipe:
    """A group off by `low` to `high` metres for single frames, at times another for longer; in a share of the windows
    `doubled`, a doubled hand.
    """

    def recipe(poses: Poses, g: torch.Generator) -> Poses:
        if doubled:
            poses = doubled_hand(poses, _uniform(poses, g, 0.05, 0.25) * _some(doubled, poses, g), g)
        poses = group_off(poses, _uniform(poses, g, 0.02, 0.15), _size_off(poses, g, low, high), g, longest=1)
        share = _uniform(poses, g, 0.05, 0.25) * _some(0.5, poses, g)
        return group_off(poses, share, _size_off(poses, g, low, high), g, shortest=2)

    return recipe


def _joint_off(low: float, high: float) -> Recipe:
    """Single joints off by `low` to `high` metres."""

    def recipe(poses: Poses, g: torch.Generator) -> Poses:
        size = _size_off(poses, g, low, high)
        return joint_off(poses, 0.001 * 20 ** _uniform(poses, g, 0.0, 1.0), size, g)

    return recipe


TRAINING: dict[str, tuple[float, Recipe]] = {
    "clean": (2.5, lambda x, g: x),
    "frame_mask": (1.6, lambda x, g: frame_mask(x, _share(x, g), g)),
    "joint_mask": (1.4, lambda x, g: joint_mask(x, _share(x, g), g)),
    "frame_noise_low": (1.0, lambda x, g: frame_noise(x, _share(x, g), _uniform(x, g, 0.05, 0.2), g)),
    "frame_noise_mid": (1.0, lambda x, g: frame_noise(x, _share(x, g), _uniform(x, g, 0.2, 0.6), g)),
    "frame_noise_high": (1.0, lambda x, g: frame_noise(x, _share(x, g), _uniform(x, g, 0.6, 1.0), g)),
    "joint_noise_low": (0.7, lambda x, g: joint_noise(x, _share(x, g), _uniform(x, g, 0.05, 0.2), g)),
    "joint_noise_mid": (1.0, lambda x, g: joint_noise(x, _share(x, g), _uniform(x, g, 0.2, 0.6), g)),
    "joint_noise_high": (1.0, lambda x, g: joint_noise(x, _share(x, g), _uniform(x, g, 0.6, 1.0), g)),
    "burst_mask": (1.6, lambda x, g: burst_mask(x, _share(x, g), g)),
    "static_joint_mask": (2.0, lambda x, g: static_joint_mask(x, _share(x, g), g)),
    "dense_noise": (1.2, lambda x, g: dense_noise(x, _uniform(x, g, 0.05, 0.45), g)),
    "estimator_low": (2.0, _estimator(0.1, 0.45)),
    "estimator_high": (1.2, _estimator(0.45, 1.2)),
    "estimator_body": (1.6, _estimator_body),
    "jitter_low": (1.6, _jitter(0.1, 0.5)),
    "jitter_high": (2.0, _jitter(0.5, 1.6)),
    "live": (2.0, _live),
    "group_off_low": (2.2, _group_off(0.04, 0.09)),
    "group_off_mid": (2.0, _group_off(0.09, 0.22)),
    "group_off_high": (1.4, _group_off(0.22, 0.5, doubled=0.5)),
    "joint_off_low": (1.4, _joint_off(0.04, 0.14)),
    "joint_off_high": (1.4, _joint_off(0.14, 0.5)),
}
"""Kinds of corruption in training: how often each is drawn, and what it does.

Strengths are split so that errors of one kind have one order of magnitude: training balances kinds by running error.
"""

FIXED: dict[str, tuple[int, Callable[..., Poses]]] = {
    "frame_mask": (1, frame_mask),
    "joint_mask": (1, joint_mask),
    "static_joint_mask": (1, static_joint_mask),
    "frame_noise": (2, frame_noise),
    "joint_noise": (2, joint_noise),
}
"""Corruptions that `recipe` takes with fixed amounts, and how many amounts: a share, then a strength."""


def recipe(kind: str) -> tuple[float, Recipe]:
    """How often training draws a kind of corruption, and the corruption.

    Args:
        kind: a name of `TRAINING`, or a name of `FIXED` with its amounts, as in "frame_mask@0.15" (a share) and
            "joint_noise@0.15,0.5" (a share and a strength).

    Raises:
        ValueError: unknown kind or wrong amounts.
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
