"""The training loss: errors relative to their own running means, by kind of corruption, source, look-ahead and joints.

So the logarithm of each condition's error is learned, which is what a geometric mean over conditions asks for.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from rtskel.model import Skeletor, at, facing, open_gate
from rtskel.training.batches import Batch
from rtskel.training.config import TrainConfig
from rtskel.training.score import joint_groups

BAD = 1e-7
"""Squared error of a coordinate in canonical units above which a joint is labelled bad for the gate."""

TAIL = 30.0
"""Relative errors are compressed above about this value: otherwise a few windows would dominate the loss."""

FLOOR_OF_PAIRS = 1e-4
"""Lower limit of the running errors of pairs, in canonical units."""


class _Prediction(NamedTuple):
    """What a model says of a batch, and the truth, at P positions of the windows."""

    y: Tensor  # [B, P, J, 3], as all but the logits
    base: Tensor
    proposal: Tensor
    clean: Tensor
    missing: Tensor  # [B, P, J], as the logits
    logits: Tensor | None


class Loss:
    """The loss of batches, and the running errors that it goes by.

    Attributes:
        running: by part, kind, source, positions and group: of the output, of the ungated proposal, and of the
            acceleration. 0: not seen yet.
        of_pairs: the same of pairs, by whose motion it is (their own, the corpus'), for distance and acceleration,
            across the image and in depth, and for the lengths of bones.

    Args:
        kinds: number of kinds of corruption. triples: of windows in a batch (`Batches.triples`).
        generator: draws positions.
    """

    def __init__(self, config: TrainConfig, kinds: int, triples: int, generator: torch.Generator) -> None:
        self.config, self.triples, self.generator = config, triples, generator
        device, window = generator.device, config.model.window
        groups = joint_groups(config.model.skeleton)
        self._groups = torch.zeros(len(groups), config.model.joints, device=device)  # each row sums to 1
        for row, joints in enumerate(groups.values()):
            self._groups[row, joints] = 1.0 / len(joints)
        ranges = torch.zeros(3, window)  # of positions; each row sums to 1
        edges = sorted({max(0, window // 2 - 3), max(0, window - 5), window - 1, window})
        for row, (first, end) in enumerate(reversed(list(pairwise(edges)))):
            ranges[row, first:end] = 1.0 / (end - first)
        self._ranges = ranges.to(device)
        self._longer = ranges[2].nonzero()[:, 0].to(device)
        self._shorter = ranges[:2].sum(0).nonzero()[:, 0].to(device)
        shares, smoothness, of_pairs = (
            torch.tensor(values, device=device)[:, None]
            for values in (config.shares, config.smoothness, config.paired.smoothness)
        )
        self._shares = torch.stack([shares, shares, shares * smoothness])
        parts = [shares * config.paired.across, shares * config.paired.depth, shares * of_pairs, shares * of_pairs]
        parts.append(shares * config.paired.bones)
        self._pair_shares = config.paired.weight * torch.stack(parts)
        self.running = torch.zeros(3, kinds, len(config.sources), 3, len(groups), device=device)
        self.of_pairs = torch.zeros(len(parts), 2, 1, 3, len(groups), device=device)

    def __call__(self, model: Skeletor, batch: Batch, floor: float | Tensor) -> Tensor:
        """The loss of a model on a batch; updates the running errors, which count as `floor` at least."""
        return self.at_positions(self.positions(), model, batch, floor)

    def at_positions(self, positions: Tensor | None, model: Skeletor, batch: Batch, floor: float | Tensor) -> Tensor:
        """The loss at some positions (None: all). This can be compiled; then the floor must be a tensor, as each
        number would be compiled anew.
        """
        config, scale, missing = self.config, batch.scale, batch.missing
        side = facing(batch.x, missing) if config.model.unmirror else torch.ones(1, device=scale.device)
        clean, x = batch.clean * side, batch.x * side
        base, correction, logits = model.propose(x, missing, positions)
        proposal = base + correction
        there = at(missing, positions)
        y = proposal if logits is None else base + open_gate(logits, there)[..., None] * correction
        said = _Prediction(y, base, proposal, at(clean, positions), there, logits)
        if not config.balance:
            return (_off(y, said.clean, scale) @ self._groups[0]).mean()
        weights = at(self._ranges, positions)
        weights = weights / weights.sum(1, keepdim=True)
        total = self._of_corruption(said, batch, weights, floor)
        off = (y - said.clean) / scale[:, None, None, None]
        apart = off * side
        if self.triples:
            rows = slice(config.batch - 3 * self.triples, config.batch)
            bend = self._grouped(length(bent(apart[rows])), weights)
            kind, source = batch.kind[rows][::3], batch.source[rows][::3]
            total = total + _balanced(bend, kind, source, self.running[2], self._shares[2], floor**0.5)
        if config.pairs:
            rows = slice(config.batch, None)
            true = clean[rows] / scale[rows, None, None, None]
            pace, bend = at(speed(true[..., :2]), positions), at(acceleration(true[1::3]), positions)
            here = at(true, positions)
            stretch = bone_lengths(here + off[rows], model.parents) - bone_lengths(here, model.parents)
            total = total + self._on_pairs(apart[rows], pace, bend, stretch.abs(), batch.kind[rows], weights)
        return total

    def _of_corruption(self, said: _Prediction, batch: Batch, weights: Tensor, floor: float | Tensor) -> Tensor:
        """The loss on the windows of the corpus: of outputs, of ungated proposals, and of the gate."""
        config, own = self.config, slice(0, self.config.batch)

        def balanced(error: Tensor, which: int) -> Tensor:
            grouped = self._grouped(error, weights)[own]
            kind, source = batch.kind[own], batch.source[own]
            return _balanced(grouped, kind, source, self.running[which], self._shares[which], floor)

        total = balanced(_off(said.y, said.clean, batch.scale), 0)
        if said.logits is not None:
            # Corrections of good joints do not matter: the gate suppresses them.
            bad = (_off(said.base, said.clean, batch.scale) > BAD).float()
            total = total + config.proposal * balanced(_off(said.proposal, said.clean, batch.scale) * bad, 1)
            guess = F.binary_cross_entropy_with_logits(said.logits, bad, reduction="none")
            there = (~said.missing).float()
            total = total + config.gate * (guess * there).sum() / there.sum().clamp(min=1.0)
        return total

    def _on_pairs(
        self, apart: Tensor, pace: Tensor, bend: Tensor, stretch: Tensor, kind: Tensor, weights: Tensor
    ) -> Tensor:
        """The loss on pairs: errors [3 N, P, J, 3] of N groups of consecutive windows.

        Args:
            pace: true speed in the image plane [3 N, P, J].
            bend: size of the true acceleration [N, P, J].
            stretch: absolute error of the length of the bone that ends in each joint [3 N, P, J].
        """
        paired, first = self.config.paired, kind[::3]
        parts = [
            (kind, length(apart[..., :2]) * (1 + pace / paired.brisk)),
            (kind, length(apart[..., 2:])),
            (first, length(bent(apart)[..., :2]) / (paired.stillness + bend)),
            (first, length(bent(apart)[..., 2:]) / (paired.stillness + bend)),
            (kind, stretch),
        ]
        total = apart.new_zeros(())
        for part, (rows, error) in enumerate(parts):
            grouped, nowhere = self._grouped(error, weights), torch.zeros_like(rows)
            shares = self._pair_shares[part]
            total = total + _balanced(grouped, rows, nowhere, self.of_pairs[part], shares, FLOOR_OF_PAIRS)
        return total

    def positions(self) -> Tensor | None:
        """The positions to compute in this step: None for all."""
        if not self.config.sampled:
            return None
        g = self.generator
        few = torch.randperm(len(self._longer), generator=g, device=g.device)[: self.config.sampled]
        return torch.cat([self._longer[few.sort().values], self._shorter])

    def _grouped(self, error: Tensor, weights: Tensor) -> Tensor:
        """Means of errors [B, P, J] over ranges of positions and groups of joints: [B, 3, groups]."""
        means: Tensor = torch.einsum("bwj,pw,gj->bpg", error, weights, self._groups)
        return means


def _off(prediction: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
    """Mean squared error of coordinates [B, P, J], in units of the corpus."""
    squared: Tensor = (prediction - clean).square().mean(-1) / scale[:, None, None].square()
    return squared


def _balanced(
    error: Tensor, kind: Tensor, source: Tensor, running: Tensor, shares: Tensor, floor: float | Tensor
) -> Tensor:
    """Mean of errors [B, positions, groups] relative to the running mean of their kind and source; updates that."""
    cell = kind * running.shape[1] + source
    flat = running.view(-1, *running.shape[2:])
    count = torch.zeros_like(flat[:, 0, 0]).index_add_(0, cell, torch.ones_like(error[:, 0, 0]))[:, None, None]
    sums = torch.zeros_like(flat).index_add_(0, cell, error.detach().float())
    if dist.is_initialized():
        dist.all_reduce(sums)
        dist.all_reduce(count)
    fresh = torch.where(count > 0, sums / count.clamp(min=1), flat)
    pace = 1 - 0.99**count
    flat.copy_(torch.where(flat == 0, fresh, flat + pace * (fresh - flat)))
    relative = error / flat[cell].clamp(min=floor)
    held: Tensor = shares * TAIL * (relative / TAIL).log1p()
    return held.sum(1).mean()


def length(x: Tensor) -> Tensor:
    """The norm of vectors [..., 3], with a gradient at 0."""
    norm: Tensor = (x.square().sum(-1) + 1e-12).sqrt()
    return norm


def bone_lengths(x: Tensor, parents: Tensor) -> Tensor:
    """Length of the bone that ends in each joint, of poses [B, P, J, 3]: [B, P, J], 0 for the root."""
    return length(x - x.index_select(2, parents))


def speed(x: Tensor) -> Tensor:
    """The size of the velocity of sequences [N, W, J, 2 or 3], over a frame before and after: [N, W, J]."""
    size = 0.5 * length(x[:, 2:] - x[:, :-2])
    return F.pad(size.transpose(1, 2), (1, 1), mode="replicate").transpose(1, 2)


def acceleration(x: Tensor) -> Tensor:
    """The size of the acceleration of sequences [N, W, J, 3], as a mean over three frames: [N, W, J]."""
    size = length(x.diff(n=2, dim=1))  # of the frames 1 to W - 2
    return F.avg_pool1d(F.pad(size.transpose(1, 2), (2, 2), mode="replicate"), 3, 1).transpose(1, 2)


def bent(x: Tensor) -> Tensor:
    """Second differences [N, W, ...] of what N groups of three consecutive windows [3 N, W, ...] say at each position:
    three consecutive output frames at one look-ahead.
    """
    three = x.view(-1, 3, *x.shape[1:])
    return three[:, 0] - 2 * three[:, 1] + three[:, 2]
