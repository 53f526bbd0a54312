"""Pairs: what a real estimator said of pictures whose true joints are known.

A folder of pairs holds one `.npz` a clip: `estimate` float32 [N, J, 3] and `confidence` [N, J] as the estimator gave
them (0: not found, the estimate may then be NaN), `truth` [N, J, 3] in metres, both along `axes`, `fps`, and perhaps
`source`. `read_pairs` brings a clip into one frame and unit: one similarity maps the truth onto the estimate, so that
what is left between the two is what refinement can mend: what an estimator means by a joint, its bias in depth, its
noise, its lost hands.

A constant part of that, where an estimator puts a joint that the body has elsewhere, is a linear map's to mend
(`rtskel.formats.jointmap`): `learn_map` learns it, and `read_pairs` applies it if it is told to.

`PairedWindows` draws training windows from pairs; `paired_errors` measures.

    python -m rtskel.training.paired PAIRS/train rtskel/formats/mediapipe_joints.npz    # learn the map
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtskel.configs import Config
from rtskel.errors import FormatError, RtskelError
from rtskel.formats.jointmap import JointMap
from rtskel.skeleton import (
    LEFT_SHOULDER,
    RIGHT_SHOULDER,
    SHOULDER_WIDTH,
    UPPER_BODY_50,
    Skeleton,
    axes_matrix,
)
from rtskel.training.corrupt import rotations
from rtskel.training.device import Choice, constant, tree

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

FOUND = 0.3
"""Least share of the frames of a clip in which the person must have been found."""
TURNED = 0.1
"""Largest share of these in which the person may have been taken for one seen from behind."""
OF_HANDS = 0.1
"""Weight of a joint of a hand in the similarity; a joint of the body has 1, the neck, which is made of others, 0."""


@dataclass(frozen=True)
class Pair:
    """A clip in canonical axes, in units in which the estimate's shoulders are 1/3 apart in the median.

    Attributes:
        seen: [N, J, 3], what the estimator said; 0 where `missing` [N, J].
        truth: [N, J, 3] in the estimate's frame.
        mm: millimetres of the real body in one unit.
        unit: units in a metre of the estimator's.
        source: where the motion is from, if the file says so.
    """

    name: str
    fps: float
    seen: Array
    missing: Mask
    truth: Array
    mm: float
    unit: float = 1.0
    source: str = ""


def similarity(
    points: NDArray[np.float64], onto: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Scale k, rotation R [3, 3], shift t [3] with the least weighted squared distance of k points R + t from `onto`.

    Points [M, 3], weights [M]; never a reflection (Umeyama, PAMI 1991).
    """
    weight = weight / weight.sum()
    centre, target = weight @ points, weight @ onto
    p, g = points - centre, onto - target
    left, size, right = np.linalg.svd((p * weight[:, None]).T @ g)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    turn = (left * sign) @ right
    scale = float((size * sign).sum() / (weight @ np.square(p).sum(1)))
    return scale, turn, target - scale * centre @ turn


def read_pair(
    path: str | Path, skeleton: Skeleton = UPPER_BODY_50, *, joint_map: JointMap | None = None
) -> Pair | None:
    """One clip; None if its person was hardly found, or now and then taken for one seen from behind.

    Args:
        joint_map: applied to what was seen; the truth stays as it would be without.

    Raises:
        FormatError: not a file of pairs.
    """
    try:
        with np.load(path) as file:
            estimate, truth = file["estimate"].astype(np.float64), file["truth"].astype(np.float64)
            missing, fps, axes = ~(file["confidence"] > 0), float(file["fps"]), str(file["axes"])
            source = str(file["source"]) if "source" in file else ""
        matrix = axes_matrix(axes).astype(np.float64)
    except (RtskelError, OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not a file of pairs ({error})") from None
    shape = (len(truth), skeleton.joints, 3)
    if estimate.shape != shape or truth.shape != shape or missing.shape != shape[:2] or not np.isfinite(truth).all():
        raise FormatError(
            f"{path}: not a file of pairs (estimate {estimate.shape}, truth {truth.shape}, {shape} expected)"
        )
    missing |= ~np.isfinite(estimate).all(-1)
    estimate, truth = np.where(missing[..., None], 0.0, estimate) @ matrix, truth @ matrix
    across = [x[:, LEFT_SHOULDER] - x[:, RIGHT_SHOULDER] for x in (estimate, truth)]
    found = ~(missing[:, LEFT_SHOULDER] | missing[:, RIGHT_SHOULDER])
    right = found & (across[0][:, 0] * across[1][:, 0] >= 0)
    if not right.any() or found.mean() < FOUND or right[found].mean() < 1 - TURNED:
        return None
    weight = np.where(missing, 0.0, 1.0)
    weight[:, [j for j in range(skeleton.joints) if j not in skeleton.groups["body"]]] *= OF_HANDS
    weight[:, skeleton.root] = 0
    used = weight > 0
    scale, turn, shift = similarity(estimate[used], truth[used], weight[used])
    width = float(np.median(np.linalg.norm(across[0][found], axis=-1)))
    if not scale > 0 or not width > 0:
        return None
    unit = SHOULDER_WIDTH / width
    if joint_map is not None:
        own = axes_matrix(joint_map.axes).astype(np.float64)
        estimate = joint_map.apply(estimate @ own.T, missing) @ own
    goal = (truth - shift) @ turn.T * (unit / scale)
    return Pair(
        Path(path).stem,
        fps,
        (estimate * unit).astype(np.float32),
        missing,
        goal.astype(np.float32),
        1000 * scale / unit,
        unit,
        source,
    )


def read_pairs(folder: str | Path, joint_map: JointMap | None = None) -> list[Pair]:
    """The clips of a folder, by name, without those that `read_pair` leaves out.

    Raises:
        FormatError: one is not a file of pairs, or none is left.
    """
    paths = sorted(Path(folder).glob("[!.]*.npz"))
    found = [pair for path in paths if (pair := read_pair(path, joint_map=joint_map))]
    if not found:
        raise FormatError(f"{folder}: no pairs")
    return found


def split_pairs(pairs: Sequence[Pair], holdout: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from, and one in `holdout`, chosen by name, for validation: at least one each if there are two."""
    chosen = [zlib.crc32(p.name.encode()) % holdout == 0 for p in pairs]
    if len(pairs) > 1 and (all(chosen) or not any(chosen)):
        chosen[-1] = not chosen[-1]
    return [p for p, c in zip(pairs, chosen, strict=True) if not c], [
        p for p, c in zip(pairs, chosen, strict=True) if c
    ]


@dataclass(frozen=True)
class PairedConfig(Config, option="option of pairs"):
    """How windows of pairs are drawn and varied. What is done to the truth is done to the estimate.

    Attributes:
        triples: groups of three consecutive windows in a batch.
        transplanted: share of the groups whose motion is the corpus': the estimator's error rides on it.
        faster: probabilities of playing at two and at three times the speed, where the clip is long enough.
        ends: probability of a window that reaches over the clip's beginning or end, which repeat its frame there.
        mirror: probability of left and right exchanged.
        bone, hand_size: standard deviation of the log of each bone's length, alike on both sides, and of both hands'.
        yaw, pitch, roll: largest rotation in degrees.
        hand_lost: probability that a hand is lost for a part of the window.
        weight: of the whole loss on pairs. across, depth: of the distance in the image plane, and in depth.
        bones: of the error of bones' lengths: a mean of poses in which a bone may point anywhere has it too short.
        smoothness: of the error of acceleration, for each of both, by positions as in `TrainConfig.shares`.
        brisk: speed in the image plane, in canonical units a frame, at which the distance there counts double; thrice
            at twice that speed, and so on: else strokes, which are few, come out flat and late.
        stillness: acceleration, in canonical units a frame squared, that is added to the true one to which errors of
            acceleration are relative: fast strokes may err by more.
        holdout: one clip in this many is for validation.
    """

    triples: int = 4
    transplanted: float = 0.3
    faster: tuple[float, float] = (0.3, 0.15)
    ends: float = 0.08
    mirror: float = 0.5
    bone: float = 0.08
    hand_size: float = 0.1
    yaw: float = 10.0
    pitch: float = 6.0
    roll: float = 8.0
    hand_lost: float = 0.15
    weight: float = 1.0
    across: float = 0.5
    depth: float = 0.5
    bones: float = 0.2
    smoothness: tuple[float, float, float] = (0.12, 0.25, 0.35)
    brisk: float = 0.006
    stillness: float = 0.006
    holdout: int = 10


class PairedWindows:
    """Draws windows [B, W, J, 3] of pairs, varied as a `PairedConfig` says, on the generator's device."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        window: int,
        config: PairedConfig,
        *,
        skeleton: Skeleton = UPPER_BODY_50,
        generator: torch.Generator,
    ) -> None:
        self.window, self.config, self.skeleton, self.generator = window, config, skeleton, generator
        device = generator.device

        def joined(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
            return torch.from_numpy(np.concatenate(arrays)).to(device)

        self.seen, self.truth = joined([p.seen for p in pairs]), joined([p.truth for p in pairs])
        self.missing = joined([p.missing for p in pairs])
        self.length = torch.tensor([len(p.truth) for p in pairs]).to(device)
        self.first = self.length.cumsum(0) - self.length
        self._choice = Choice(self.length.double())

    def draw(
        self, count: int, motion: Tensor | None = None, borrowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of what an estimator saw, what it missed [B, W, J], and the truth.

        Args:
            motion: clean windows [B, W, J, 3]: those that are `borrowed` [B] bool are these, with the error of the
                pairs.
        """
        g, c, device, window = self.generator, self.config, self.generator.device, self.window
        clip = self._choice.draw(count, g)
        length = self.length[clip]
        u = torch.rand(count, 4, generator=g, device=device)
        faster = (u[:, 0] < c.faster[1]).long() + (u[:, 0] < sum(c.faster)).long()
        stride = torch.minimum(1 + faster, ((length - 1) // (window - 1)).clamp(min=1))
        slack = (length - 1 - stride * (window - 1)).clamp(min=0)
        over = (u[:, 1] < c.ends).long() * torch.where(u[:, 2] < 0.5, -1, 1) * (u[:, 3] * (window - 1)).long()
        start = (u[:, 2] * (slack + 1)).long() + over
        steps = start[:, None] + stride[:, None] * torch.arange(window, device=device)
        frames = self.first[clip][:, None] + torch.minimum(steps.clamp(min=0), length[:, None] - 1)
        seen, missing, truth = self.seen[frames], self.missing[frames], self.truth[frames]
        error, truth = self._vary(seen - truth, missing, truth)
        if motion is not None and borrowed is not None:
            truth = torch.where(borrowed[:, None, None, None], motion, truth)
        missing = self._lose_hands(missing)
        return (truth + error).masked_fill(missing[..., None], 0.0), missing, truth

    def _vary(self, error: Tensor, missing: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Mirrored (`missing` in place), other bones, rotated."""
        g, c, device = self.generator, self.config, self.generator.device
        count, body = len(truth), tree(self.skeleton, device)
        mirror, flip = body.mirror, constant((-1.0, 1.0, 1.0), device)
        other = torch.rand(count, 1, 1, 1, generator=g, device=device) < c.mirror
        error, truth = (torch.where(other, x[:, :, mirror] * flip, x) for x in (error, truth))
        missing.copy_(torch.where(other[..., 0], missing[:, :, mirror], missing))
        factor = torch.randn(count, 1, self.skeleton.joints, 1, generator=g, device=device) * c.bone
        factor = (factor + factor[:, :, mirror]) * 0.5**0.5
        whole = c.hand_size * torch.randn(count, 1, 1, 1, generator=g, device=device)
        factor = factor + whole * body.of_hands[:, None]
        bone = truth - truth[:, :, body.parents]
        truth = truth + body.chain @ (bone * (factor.exp() - 1))
        angles = 2 * torch.rand(count, 3, generator=g, device=device) - 1
        angles = angles * constant((c.yaw, c.pitch, c.roll), device) * (torch.pi / 180)
        turn = rotations(angles)[:, None].transpose(-1, -2)
        return error @ turn, truth @ turn

    def _lose_hands(self, missing: Tensor) -> Tensor:
        """Some hands are lost until, from, or between frames of the window."""
        g, c, device = self.generator, self.config, self.generator.device
        time = torch.arange(self.window, device=device)
        for _, _, _, hand in tree(self.skeleton, device).hands:
            u = torch.rand(len(missing), 3, generator=g, device=device)
            ends = ((2 * u[:, 1:] - 0.5) * self.window).sort(-1).values  # half of the time beyond the window
            gone = (time >= ends[:, :1]) & (time < ends[:, 1:]) & (u[:, :1] < c.hand_lost)
            missing = missing | (hand & gone[..., None])
        return missing


RIDGE = 1e-3
"""Of a map of joints, relative to the number of frames; joints are in metres."""


def learn_map(pairs: Sequence[Pair], axes: str = "RDA") -> JointMap:
    """A map from what was seen to the truth, by ridge regression on the frames in which the body (and the hand) was
    found, and on their mirror images.

    Args:
        axes: in which the map takes positions.
    """
    own = axes_matrix(axes).astype(np.float64)
    mirror = list(UPPER_BODY_50.mirror)
    seen, offset, there = list[NDArray[np.float64]](), list[NDArray[np.float64]](), list[Mask]()
    for pair in pairs:
        rows = ~pair.missing[:, JointMap.BODY].any(1)
        for order, flip in ((list(range(UPPER_BODY_50.joints)), 1.0), (mirror, -1.0)):
            x, truth = (a[rows][:, order] * [flip, 1.0, 1.0] @ own.T / pair.unit for a in (pair.seen, pair.truth))
            seen.append(x)
            offset.append(truth - x)
            there.append(~pair.missing[rows][:, order])
    inputs, target, found = JointMap.inputs(np.concatenate(seen)), np.concatenate(offset), np.concatenate(there)
    weights = np.zeros((inputs.shape[1], UPPER_BODY_50.joints, 3))
    for joints in (JointMap.BODY, *(hand for _, hand in UPPER_BODY_50.hands)):
        rows = found[:, joints].all(1)
        if rows.any():
            a = inputs[rows]
            ridge = RIDGE * len(a) * np.diag([1.0] * (a.shape[1] - 1) + [1e-6])
            solved = np.linalg.solve(a.T @ a + ridge, a.T @ target[rows][:, joints].reshape(len(a), -1))
            weights[:, joints] = solved.reshape(-1, len(joints), 3)
    return JointMap(weights.astype(np.float32), axes)


class PairedErrors(NamedTuple):
    """Errors against the truth of pairs, in millimetres (a frame squared), pooled over frames and joints.

    Attributes:
        mpjpe: mean distance. across, depth: mean distance in the image plane, mean absolute distance in depth.
        acceleration: mean norm of the second difference of the error; in the image plane; in depth.
    """

    mpjpe: float
    across: float
    depth: float
    acceleration: float
    acceleration_across: float
    acceleration_depth: float


def paired_errors(poses: Sequence[NDArray[np.floating]], pairs: Sequence[Pair], joints: Sequence[int]) -> PairedErrors:
    """Errors of poses [N, J, 3] in the frame and unit of the pairs, over every frame, found or not."""
    sums, counts = np.zeros(6), np.zeros(6)
    for pose, pair in zip(poses, pairs, strict=True):
        off = (pose[:, joints].astype(np.float64) - pair.truth[:, joints]) * pair.mm
        bend = np.diff(off, 2, axis=0)
        parts = [np.linalg.norm(x[..., axes], axis=-1) for x in (off, bend) for axes in ([0, 1, 2], [0, 1], [2])]
        sums += [part.sum() for part in parts]
        counts += [part.size for part in parts]
    return PairedErrors(*(sums / np.maximum(counts, 1)).tolist())


if __name__ == "__main__":
    learn_map(read_pairs(sys.argv[1])).save(sys.argv[2])
