"""Training by corruption: clean windows are corrupted, and the model learns to undo it (the paper's section 4.1).

`main(["--data", corpus, "--out", run])` is `rtskel train`. A run's folder holds the resolved config with the corpus'
fingerprint, `last.safetensors` (everything that a resumed run needs to continue bit for bit), `best.safetensors`
(moving average of the weights, best on dev), `log.jsonl`, and TensorBoard's files.

Under `torchrun` each process draws its own batches; gradients and running errors are averaged, so that all processes
hold the same weights. The first process writes the run's folder.
"""

from __future__ import annotations

import json
import math
import os
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F

from rtskel.configs import Config
from rtskel.engine import Engine
from rtskel.engine.weights import load_weights, save_weights
from rtskel.errors import RtskelError
from rtskel.formats.jointmap import mediapipe_map
from rtskel.model import PRESETS, Skeletor, SkeletorConfig, at, facing, open_gate
from rtskel.skeleton import skeleton
from rtskel.training.checkpoint import moments, read_tensors, restore, under, write_tensors
from rtskel.training.corrupt import TRAINING, Poses, recipe
from rtskel.training.data import AugmentConfig, Corpus, Windows, bone_statistics, pad_windows, to_canonical_windows
from rtskel.training.evaluate import ModelEngine, Score, evaluate, geometric_mean, refine_all
from rtskel.training.paired import (
    Pair,
    PairedConfig,
    PairedErrors,
    PairedWindows,
    paired_errors,
    read_pairs,
    split_pairs,
)
from rtskel.training.score import joint_groups, log_mean

BAD = 1e-7
"""Squared error of a coordinate in canonical units above which a joint is labelled bad for the gate."""

TAIL = 30.0
"""Relative errors are compressed above about this value: otherwise a few windows would dominate the loss."""

SHAKY = ("dense_noise", "estimator_low", "estimator_high", "estimator_body", "jitter_low", "jitter_high", "live")
"""Kinds of corruption that move every frame: the loss on acceleration is trained on these."""

VALIDATED = 300
"""Frames of each source of motion on which a run without PHOENIX14T is validated, at least."""

PAPER_KINDS = ("frame_mask", "joint_mask", "frame_noise_mid", "joint_noise_mid")


@dataclass(frozen=True)
class TrainConfig(Config, option="training option"):
    """A training run. The schedule runs over `steps`, or over `time_budget` seconds, whichever ends first.

    Attributes:
        sources: how often windows are drawn from each source of the corpus. Sources that the corpus lacks are refused;
            the command line leaves them out of the recipe's sources (see `present_sources`).
        kinds: kinds of corruption to draw from (`rtskel.training.corrupt.recipe`); empty: all of `TRAINING`.
        balance: each kind of corruption, source and group of joints counts by its error relative to its own running
            error, so that the logarithm of each is learned. Without it, the loss is the paper's plain MSE.
        shares: with `balance`, shares of the loss for the window's last position (look-ahead 0), the four before it
            (look-ahead up to 4), and those from there to the middle (longer look-ahead), each with its own running
            errors. Earlier positions are never output.
        sampled: how many of the positions of longer look-ahead are computed in a step, chosen at random; 0: all, and
            those that are never output. The last encoder layer computes only these.
        triples: 3 `triples` windows of the batch are groups of three consecutive ones, of the `SHAKY` kinds; their
            outputs should accelerate as the truth does. Needs `balance`.
        smoothness: weight of that loss, by positions as in `shares` (without look-ahead, too smooth means late).
        floors: lower limit of the running errors, at the start and at the end of the run.
        proposal, gate: weights of the loss of ungated corrections, and of the gate as a classifier of bad joints.
        ema: decay of the moving average of the weights, which is validated and kept.
        validate_every: steps between validations (and checkpoints); 0: none, and the final average counts as best.
        compile: compile the network, which takes a minute and pays off on an accelerator.
        init: weights file to start from, of the same model or of one with fewer options (`Skeletor.grow_from`).
        teacher: weights file of a model of the same window and joints; "": none. What it makes of windows of the kinds
            `taught` takes the place of their truth, so that what it can do is not forgotten while learning from pairs.
        taught: kinds of corruption; empty: all that are drawn.
        pairs: folder of pairs to learn from too (`rtskel.training.paired`); "": none. Needs `balance`.
        corrected: joints of pairs are where `rtskel.formats.jointmap` says, as `rtskel estimate` gives them.
        paired: how windows of pairs are drawn and what counts; they come on top of `batch`.
    """

    model: SkeletorConfig = PRESETS["realtime"]
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sources: Mapping[str, float] = field(
        default_factory=lambda: {"phoenix": 0.42, "synthetic": 0.33, "bandai": 0.18, "how2sign": 0.07}
    )
    kinds: tuple[str, ...] = ()
    batch: int = 32
    steps: int = 300_000
    time_budget: float = math.inf
    lr: float = 6e-4
    final_lr: float = 0.01
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    balance: bool = True
    shares: tuple[float, float, float] = (0.25, 0.35, 0.4)
    sampled: int = 0
    triples: int = 2
    smoothness: tuple[float, float, float] = (0.5, 1.0, 1.0)
    floors: tuple[float, float] = (3e-4, 5e-7)
    proposal: float = 0.5
    gate: float = 0.1
    precision: str = "bf16"
    validate_every: int = 1500
    validate_radius: int = 0
    seed: int = 0
    compile: bool = False
    init: str = ""
    teacher: str = ""
    taught: tuple[str, ...] = ()
    pairs: str = ""
    corrected: bool = True
    paired: PairedConfig = field(default_factory=PairedConfig)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.steps < 1 or self.validate_every < 0:
            raise ValueError("batch and steps must be at least 1, validate_every at least 0")
        if not 0 <= 3 * self.triples < self.batch:
            raise ValueError(f"{self.triples} triples of windows leave no other windows in a batch of {self.batch}")
        if self.pairs and not (self.balance and self.paired.triples > 0):
            raise ValueError("pairs without balance, or without triples of their windows")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: fp32 or bf16 expected")
        for kind in (*self.kinds, *self.taught):
            recipe(kind)


RECIPES: Mapping[str, TrainConfig] = MappingProxyType(
    {
        "realtime": TrainConfig(),
        "open": TrainConfig(
            model=PRESETS["open"],
            sources={"synthetic": 0.3, "signing": 0.24, "beats": 0.18, "unoc": 0.18, "mesh2motion": 0.1},
        ),
        "paper": TrainConfig(
            model=PRESETS["paper"], sources={"phoenix": 1.0}, kinds=PAPER_KINDS, lr=1e-5, final_lr=1.0, warmup=1,
            weight_decay=0.0, clip=math.inf, ema=0.0, balance=False, triples=0, precision="fp32",
        ),
    }
)  # fmt: skip
"""The recipes of the released weights, and the paper's (Adam with its defaults, 1e-5, MSE, 300,000 iterations)."""


def present_sources(config: TrainConfig, corpus: Corpus) -> dict[str, float]:
    """The weights of the config's sources that a corpus has for training; if it has none of them, 1 for each source."""
    present = sorted({sequence.source for sequence in corpus.select("train")})
    return {s: config.sources[s] for s in present if s in config.sources} or dict.fromkeys(present, 1.0)


class Trainer:
    """The state of a run: model, moving average, optimiser, running errors, randomness. `step()` is one update.

    `save` and `load` hold the whole state, so that a resumed run continues bit for bit on the same machine.

    Raises:
        RtskelError: the corpus lacks a source, or the weights to start from do not fit.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus, device: str = "cpu") -> None:
        self.config, self.corpus, self.device = config, corpus, torch.device(device)
        self.tree = skeleton(config.model.skeleton)
        self.generator = torch.Generator(device=self.device).manual_seed(config.seed + rank())
        options: dict[str, Any] = {"weights": config.sources, "augment": config.augment, "skeleton": self.tree}
        self.windows, self.longer = (
            Windows(corpus, window, generator=self.generator, **options)
            for window in (config.model.window, config.model.window + 2)
        )
        self.pairs, self.paired = list[Pair](), None
        if config.pairs:
            learnt, self.pairs = split_pairs(
                read_pairs(config.pairs, mediapipe_map() if config.corrected else None), config.paired.holdout
            )
            window = config.model.window + 2
            self.paired = PairedWindows(learnt, window, config.paired, skeleton=self.tree, generator=self.generator)
        self.model = self._initial_model().to(self.device).train()
        self.teacher = load_weights(config.teacher).to(self.device) if config.teacher else None
        if self.teacher and (self.teacher.config.window, self.teacher.config.joints) != (
            config.model.window,
            config.model.joints,
        ):
            raise RtskelError(f"{config.teacher}: does not fit the model to be trained (another window or skeleton)")
        self.average = Skeletor(config.model).to(self.device).eval()
        self.average.load_state_dict(self.model.state_dict())
        if config.precision == "bf16":
            for model in filter(None, (self.model, self.average, self.teacher)):
                model.trunk.autocast = torch.bfloat16
        if config.compile:
            self.model.trunk.compile()
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        parameters = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.999), fused=True)
        self.kinds = config.kinds or tuple(TRAINING)
        self.chance = torch.tensor([recipe(kind)[0] for kind in self.kinds], device=self.device)
        self.shaky = self.chance * torch.tensor([float(kind in SHAKY) for kind in self.kinds], device=self.device)
        self.triples = config.triples if bool(self.shaky.any()) else 0
        taught = config.taught or self.kinds
        self.taught = torch.tensor([kind in taught for kind in self.kinds], device=self.device)
        self._weigh_loss()
        self.steps = 0
        self.elapsed = 0.0
        self.best = math.inf

    def _initial_model(self) -> Skeletor:
        config = self.config
        torch.manual_seed(config.seed)
        model = Skeletor(config.model)
        if config.init:
            try:
                model.grow_from(load_weights(config.init))
            except ValueError as error:
                raise RtskelError(f"{config.init}: does not fit the model to be trained ({error})") from None
        elif config.model.fill:
            model.set_bone_statistics(*bone_statistics(self.corpus, config.sources, self.tree))
        return model

    def _weigh_loss(self) -> None:
        """Groups of joints, ranges of positions, their shares of the loss, and the running errors."""
        config, window = self.config, self.config.model.window
        groups = joint_groups(config.model.skeleton)
        self.groups = torch.zeros(len(groups), self.tree.joints, device=self.device)  # each row sums to 1
        for row, joints in enumerate(groups.values()):
            self.groups[row, joints] = 1.0 / len(joints)
        self.positions = torch.zeros(3, window, device=self.device)  # each row sums to 1
        edges = sorted({max(0, window // 2 - 3), max(0, window - 5), window - 1, window})
        for row, (first, end) in enumerate(reversed(list(pairwise(edges)))):
            self.positions[row, first:end] = 1.0 / (end - first)
        shares, smoothness = (
            torch.tensor(values, device=self.device)[:, None] for values in (config.shares, config.smoothness)
        )
        self.shares = torch.stack([shares, shares, shares * smoothness])
        # Running errors by kind, source, positions and group: of the output, of the ungated proposal, and of the
        # acceleration; 0 = not seen yet.
        cells = (len(self.kinds), len(config.sources), len(self.positions), len(groups))
        self.running = torch.zeros(3, *cells, device=self.device)
        # The same of pairs: by motion (their own, the corpus') for distance and acceleration, across and in depth.
        self.of_pairs = torch.zeros(4, 2, 1, *cells[2:], device=self.device)
        smoothness = torch.tensor(config.paired.smoothness, device=self.device)[:, None]
        parts = [shares * config.paired.across, shares * config.paired.depth, shares * smoothness, shares * smoothness]
        self.pair_shares = config.paired.weight * torch.stack(parts)

    @property
    def progress(self) -> float:
        """Progress of the run, 0 to 1: by steps or by time, whichever is further."""
        return min(1.0, max(self.steps / self.config.steps, self.elapsed / self.config.time_budget))

    @property
    def floor(self) -> float:
        """Lower limit of the running errors. It falls during the run: while clean input has too large a weight, nothing
        else is learned.
        """
        high, low = self.config.floors
        return float(high * (low / high) ** self.progress)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A training batch: clean, corrupted [B, W, J, 3], missing [B, W, J], scale [B], kind [B], source [B].

        Its last 3 `triples` windows are groups of three consecutive ones. Those of pairs come after them, in groups of
        three, too; kind is 1 and source 0 for those whose motion is the corpus', else both are 0.
        """
        g, count, window = self.generator, self.triples, self.config.model.window

        def three(sequence: Tensor) -> Tensor:
            return torch.stack([sequence[:, k : k + window] for k in range(3)], 1).flatten(0, 1)

        clean, source = self.windows.draw(self.config.batch - 3 * count)
        clean, x, missing, kind = self._corrupt(clean, self.chance)
        clean, x, missing = pad_windows(clean, x, missing, self.config.augment, g)
        if count:
            longer, longer_source = self.longer.draw(count)
            longer, shaken, hidden, longer_kind = self._corrupt(longer, self.shaky)
            clean, x = torch.cat([clean, three(longer)]), torch.cat([x, three(shaken)])
            missing = torch.cat([missing, three(hidden)])
            kind = torch.cat([kind, longer_kind.repeat_interleave(3)])
            source = torch.cat([source, longer_source.repeat_interleave(3)])
        if self.paired:
            groups = self.config.paired.triples
            lent = int((torch.rand(groups, generator=g, device=self.device) < self.config.paired.transplanted).sum())
            seen, lost, truth = self.paired.draw(groups, self.longer.draw(lent)[0] if lent else None)
            clean, x = torch.cat([clean, three(truth)]), torch.cat([x, three(seen)])
            missing = torch.cat([missing, three(lost)])
            own = torch.arange(groups, device=self.device) >= groups - lent
            kind = torch.cat([kind, own.long().repeat_interleave(3)])
            source = torch.cat([source, source.new_zeros(3 * groups)])
        clean, x, scale = to_canonical_windows(clean, x, missing, self.tree)
        if self.teacher:
            rows = self.taught[kind[: self.config.batch]].nonzero()[:, 0]
            with torch.no_grad():
                clean[rows] = self.teacher(x[rows], missing[rows])
        return clean, x, missing, scale, kind, source

    def _corrupt(self, clean: Tensor, chance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Truth, corrupted sequences, their missing joints and their kinds (ascending), drawn by chance [kinds]."""
        kind = torch.multinomial(chance, len(clean), replacement=True, generator=self.generator).sort().values
        truth, x = torch.empty_like(clean), torch.empty_like(clean)
        missing = torch.empty(clean.shape[:3], dtype=torch.bool, device=self.device)
        first = 0
        for k, count in enumerate(torch.bincount(kind, minlength=len(self.kinds)).tolist()):
            if count:
                rows = slice(first, first + count)
                poses = recipe(self.kinds[k])[1](Poses.clean(clean[rows], skeleton=self.tree), self.generator)
                truth[rows], x[rows], missing[rows] = poses.truth, poses.xyz, poses.missing
                first += count
        return truth, x, missing, kind

    def loss(self, clean: Tensor, x: Tensor, missing: Tensor, scale: Tensor, kind: Tensor, source: Tensor) -> Tensor:
        """The training loss of a batch from `draw`; also updates the running errors."""
        config = self.config
        side = facing(x, missing) if config.model.unmirror else torch.ones(1, device=self.device)
        clean, x = clean * side, x * side
        wanted = self._positions()
        base, correction, logits = self.model.propose(x, missing, wanted)
        whole, clean, missing = clean, at(clean, wanted), at(missing, wanted)
        proposal = base + correction
        y = proposal if logits is None else base + open_gate(logits, missing)[..., None] * correction
        weights = at(self.positions, wanted)
        weights = weights / weights.sum(1, keepdim=True)
        unscale = scale[:, None, None].square()

        def off(prediction: Tensor) -> Tensor:
            squared: Tensor = (prediction - clean).square().mean(-1) / unscale  # [B, W, J]
            return squared

        def grouped(squared: Tensor) -> Tensor:
            means: Tensor = torch.einsum("bwj,pw,gj->bpg", squared, weights, self.groups)
            return means

        error = off(y)
        if not config.balance:
            return (error @ self.groups[0]).mean()
        own = slice(0, config.batch)  # the windows of pairs come after them

        def balanced(error: Tensor, which: int) -> Tensor:
            return self._balanced(
                grouped(error)[own], kind[own], source[own], self.running, self.shares, which, self.floor
            )

        total = balanced(error, 0)
        if logits is not None:
            # Corrections of good joints do not matter: the gate suppresses them.
            bad = (off(base) > BAD).float()
            total = total + config.proposal * balanced(off(proposal) * bad, 1)
            guess = F.binary_cross_entropy_with_logits(logits, bad, reduction="none")
            total = total + config.gate * guess[~missing].mean()
        apart = (y - clean) * side / scale[:, None, None, None]
        if self.triples:
            rows = slice(config.batch - 3 * self.triples, config.batch)
            at_three = slice(rows.start, rows.stop, 3)
            total = total + self._balanced(
                grouped(length(bent(apart[rows]))), kind[at_three], source[at_three], self.running, self.shares, 2,
                self.floor**0.5,
            )  # fmt: skip
        if self.paired:
            rows = slice(config.batch, None)
            true = whole[rows] / scale[rows, None, None, None]
            pace, bend = at(speed(true[..., :2]), wanted), at(acceleration(true[1::3]), wanted)
            total = total + self._paired_loss(apart[rows], pace, bend, kind[rows], grouped)
        return total

    def _positions(self) -> Tensor | None:
        """The positions to compute in this step: None for all."""
        if not self.config.sampled:
            return None
        longer = self.positions[2].nonzero()[:, 0]
        few = torch.randperm(len(longer), generator=self.generator, device=self.device)[: self.config.sampled]
        return torch.cat([longer[few.sort().values], self.positions[:2].sum(0).nonzero()[:, 0]])

    def _paired_loss(
        self, apart: Tensor, pace: Tensor, bend: Tensor, kind: Tensor, grouped: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The loss on pairs: errors [3 N, P, J, 3] of N groups of consecutive windows.

        Args:
            pace: true speed in the image plane [3 N, P, J].
            bend: size of the true acceleration [N, P, J].
        """
        paired, first = self.config.paired, kind[::3]
        parts = [
            (kind, length(apart[..., :2]) * (1 + pace / paired.brisk)),
            (kind, length(apart[..., 2:])),
            (first, length(bent(apart)[..., :2]) / (paired.stillness + bend)),
            (first, length(bent(apart)[..., 2:]) / (paired.stillness + bend)),
        ]
        total = apart.new_zeros(())
        for part, (rows, error) in enumerate(parts):
            nowhere = torch.zeros_like(rows)
            total = total + self._balanced(grouped(error), rows, nowhere, self.of_pairs, self.pair_shares, part, 1e-4)
        return total

    def _balanced(
        self, error: Tensor, kind: Tensor, source: Tensor, every: Tensor, shares: Tensor, which: int, floor: float
    ) -> Tensor:
        """Mean of errors [B, positions, groups] relative to the running mean, in `every`, of their kind and source;
        updates that.
        """
        running = every[which]
        cell = kind * running.shape[1] + source
        flat = running.view(-1, *running.shape[2:])
        count = torch.bincount(cell, minlength=len(flat)).float()[:, None, None]
        sums = torch.zeros_like(flat).index_add_(0, cell, error.detach().float())
        if processes() > 1:
            dist.all_reduce(sums)
            dist.all_reduce(count)
        fresh = torch.where(count > 0, sums / count.clamp(min=1), flat)
        pace = 1 - 0.99**count
        flat.copy_(torch.where(flat == 0, fresh, flat + pace * (fresh - flat)))
        relative = error / flat[cell].clamp(min=floor)
        held: Tensor = shares[which] * TAIL * (relative / TAIL).log1p()
        return held.sum(1).mean()

    def step(self) -> float:
        """One update; returns its loss."""
        config, began = self.config, time.monotonic()
        warm = min(1.0, (self.steps + 1) / config.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * warm * (config.final_lr + (1 - config.final_lr) * cosine)
        batch = self.draw()
        loss = self.loss(*batch)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if processes() > 1:
            self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimiser.step()
        self.steps += 1
        decay = min(config.ema, self.steps / (self.steps + 10.0))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        spent = torch.tensor([time.monotonic() - began, float(loss.detach())], dtype=torch.float64, device=self.device)
        if processes() > 1:
            dist.all_reduce(spent)  # so that all processes end together
        self.elapsed += float(spent[0]) / processes()
        return float(spent[1]) / processes()

    def _average_gradients(self) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= processes()
        first = 0
        for gradient in gradients:
            gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
            first += gradient.numel()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the rest of the run depends on, by name."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= moments(self.optimiser)
        generators = [self.generator.get_state()] * processes()
        if processes() > 1:
            dist.all_gather_object(generators, self.generator.get_state())
        if self.paired:
            tensors["of_pairs"] = self.of_pairs
        return tensors | {"running": self.running, "generators": torch.stack(generators)}

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint, complete or not at all. Every process of a run must call it."""
        tensors = self.state()
        if rank():
            return
        best = self.best if math.isfinite(self.best) else None
        header = {
            "config": json.dumps(replace(self.config, kinds=self.kinds).to_dict()),  # `TRAINING` may change
            "corpus": self.corpus.fingerprint,
            "books": json.dumps({"steps": self.steps, "elapsed": self.elapsed, "best": best}),
        }
        write_tensors(Path(path), tensors, header)

    def load(self, path: str | Path) -> None:
        """Continues from a checkpoint of the same model config, kinds, sources and corpus.

        Raises:
            RtskelError: not a checkpoint, or one of another run; then nothing has changed.
        """
        tensors, header = read_tensors(path, "books", "checkpoint")
        try:
            values, books, fingerprint = json.loads(header["config"]), json.loads(header["books"]), header["corpus"]
            running, generators = tensors["running"], tensors["generators"]
            of_pairs = tensors["of_pairs"] if self.paired else None
        except (KeyError, ValueError) as error:
            raise RtskelError(f"{path}: not a checkpoint ({error})") from None
        try:
            stored = TrainConfig.from_dict(values)
        except (ValueError, TypeError) as error:
            raise RtskelError(f"{path}: a checkpoint of another config ({error})") from None
        same = stored.model == self.config.model and (stored.kinds or self.kinds) == self.kinds
        same = same and list(stored.sources) == list(self.config.sources)
        if not same or running.shape != self.running.shape:
            raise RtskelError(f"{path}: a checkpoint of another config")
        if fingerprint != self.corpus.fingerprint:
            raise RtskelError(f"{path}: a checkpoint of another corpus")
        if len(generators) != processes():
            raise RtskelError(f"{path}: a checkpoint of {len(generators)} processes, not of {processes()}")

        self.model.load_state_dict(under("model.", tensors))
        self.average.load_state_dict(under("average.", tensors))
        restore(self.optimiser, tensors)
        self.running.copy_(running)
        if of_pairs is not None:
            self.of_pairs.copy_(of_pairs)
        self.generator.set_state(generators[rank()].clone())
        self.steps, self.elapsed = books["steps"], books["elapsed"]
        self.best = math.inf if books["best"] is None else books["best"]

    def validate(self, truth: Sequence[Any]) -> list[Score]:
        """Scores of the moving average on clean sequences [N, J, 3] under the protocol's conditions, L = 0 and 4."""
        return evaluate(truth, ModelEngine(self.average), lookaheads=(0, 4), radius=self.config.validate_radius)

    def validate_pairs(self) -> dict[str, PairedErrors]:
        """Errors of the moving average on the pairs that are for validation, radius 2, by lookahead and group."""
        return score_pairs(ModelEngine(self.average), self.pairs)


def length(x: Tensor) -> Tensor:
    """The norm of vectors [..., 3], with a gradient at 0."""
    norm: Tensor = (x.square().sum(-1) + 1e-12).sqrt()
    return norm


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


def score_pairs(engine: Engine, pairs: Sequence[Pair]) -> dict[str, PairedErrors]:
    """An engine's errors on pairs, radius 2, by "lookahead/group": "0/body", "0/hands", "4/body", "4/hands"."""
    refined = refine_all([(p.seen, (~p.missing).astype(np.float32)) for p in pairs], engine, (0, 4), 2)
    groups = {k: v for k, v in joint_groups(engine.info.skeleton_id).items() if k != "all"}
    return {
        f"{ahead}/{k}": paired_errors(out, pairs, joints)
        for ahead, out in refined.items()
        for k, joints in groups.items()
    }


def validation_sequences(corpus: Corpus) -> list[Any]:
    """The dev sequences of PHOENIX14T, as arrays [N, J, 3]; without it, the first of each source, up to
    `VALIDATED` frames of each.
    """
    chosen = corpus.select("dev", "phoenix")
    if not chosen:
        frames: Counter[str] = Counter()
        for sequence in corpus.select("dev"):
            if frames[sequence.source] < VALIDATED:
                chosen.append(sequence)
                frames[sequence.source] += sequence.length
    return [corpus.frames(s) for s in chosen]


def processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; process 0 writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def train(
    config: TrainConfig, data: str | Path, out: str | Path, *, resume: bool = False, quiet: bool = False
) -> Trainer:
    """Trains until the schedule ends; the module's docstring lists what `out` holds then.

    Raises:
        RtskelError: no corpus, a folder that holds a run or cannot be written, a checkpoint that does not fit, a loss
            that is not finite. The last checkpoint is kept.
    """
    out, corpus = Path(out), Corpus(data)
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()  # set by torchrun
    if together:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        if rank() == 0:
            if out.exists() and any(out.iterdir()) and not resume:
                raise RtskelError(f"{out}: already holds a run (resume it, or name another folder)")
            out.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(config, corpus, device)
        if resume:
            trainer.load(out / "last.safetensors")
        if rank() == 0:
            about = config.to_dict() | {
                "corpus": corpus.fingerprint,
                "torch": torch.__version__,
                "processes": processes(),
            }
            (out / "config.json").write_text(json.dumps(about, indent=1))
        _run(trainer, out, Console(stderr=True, quiet=quiet or rank() > 0))
    except OSError as error:
        raise RtskelError(f"{out}: cannot be written ({error}); the last checkpoint is kept") from None
    finally:
        if together:
            dist.destroy_process_group()
    return trainer


def _run(trainer: Trainer, out: Path, console: Console) -> None:
    config, corpus, board = trainer.config, trainer.corpus, _board(out, console)
    truth = validation_sequences(corpus) if config.validate_every and rank() == 0 else []
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}")]
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("training", total=1.0, note="")
        smooth, best_note = 0.0, ""
        while trainer.progress < 1.0:
            loss = trainer.step()
            if not math.isfinite(loss):
                raise RtskelError(f"{out}: the loss became {loss} at step {trainer.steps}; the last checkpoint is kept")
            smooth = loss if smooth == 0.0 else smooth + 0.01 * (loss - smooth)
            bar.update(task, completed=trainer.progress, note=f"step {trainer.steps} loss {smooth:.3f} {best_note}")
            if board and trainer.steps % 20 == 0:
                board.add_scalar("loss", smooth, trainer.steps)
                board.add_scalar("learning rate", trainer.optimiser.param_groups[0]["lr"], trainer.steps)
                board.add_scalar("floor", trainer.floor, trainer.steps)
            ended = trainer.progress >= 1.0
            if not ended and (config.validate_every == 0 or trainer.steps % config.validate_every):
                continue
            if rank() == 0:
                scores = trainer.validate(truth) if truth else []
                both = math.sqrt(geometric_mean(scores, 0) * geometric_mean(scores, 4)) if scores else 0.0
                paired = trainer.validate_pairs() if scores and trainer.pairs else {}
                if paired:
                    both = math.sqrt(both) * log_mean(
                        [e for of in paired.values() for e in (of.mpjpe, of.acceleration)]
                    )
                if both < trainer.best:
                    trainer.best = both
                    save_weights(trainer.average, out / "best.safetensors", name="skeletor", corpus=corpus.fingerprint)
                entry = {"step": trainer.steps, "elapsed": trainer.elapsed, "loss": smooth, "geometric_mean": both}
                scored: dict[str, Any] = {"scores": [asdict(s) for s in scores]}
                if paired:
                    scored["pairs"] = {name: of._asdict() for name, of in paired.items()}
                with (out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(entry | scored) + "\n")
                if board:
                    board.add_scalar("dev/geometric mean", both, trainer.steps)
                    for score in (s for s in scores if s.group == "all"):
                        board.add_scalar(f"dev mse L={score.lookahead}/{score.condition}", score.mse, trainer.steps)
                best_note = f"dev {both * 1e4:.3f}e-4"
            trainer.save(out / "last.safetensors")
    if board:
        board.close()


def _board(out: Path, console: Console) -> Any:
    """TensorBoard's writer for the run, or None if it is not installed or another process writes."""
    if rank():
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print("TensorBoard is not installed: no curves will be written (log.jsonl holds the validations)")
        return None
    return SummaryWriter(str(out / "tensorboard"))


def main(argv: Sequence[str] | None = None, parser_class: type[ArgumentParser] = ArgumentParser) -> int:
    """`rtskel train`: see `--help`."""
    parser = parser_class(prog="rtskel train", description="Train Skeletor on a corpus of clean poses.")
    parser.add_argument("--data", required=True, help="corpus folder (made by `python -m rtskel.training.data`)")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--recipe", default="realtime", choices=sorted(RECIPES))
    parser.add_argument("--config", help="JSON file with options that replace the recipe's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace one option (JSON value)"
    )
    parser.add_argument("--steps", type=int, help="end after this many updates")
    parser.add_argument("--time-budget", type=float, metavar="SECONDS", help="end after this many seconds of training")
    parser.add_argument("--resume", action="store_true", help="continue from the folder's last checkpoint")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args(argv)
    for name, value in (("--steps", args.steps), ("--time-budget", args.time_budget), ("--threads", args.threads)):
        if value is not None and not value > 0:
            raise RtskelError(f"{name} {value}: more than 0 expected (see rtskel train --help)")
    for item in args.set:
        if "=" not in item:
            raise RtskelError(f"--set {item}: KEY=VALUE expected (see rtskel train --help)")
    try:
        given = json.loads(Path(args.config).read_text()) if args.config else {}
        for item in args.set:
            key, _, value = item.partition("=")
            given[key] = json.loads(value)
        config = TrainConfig.from_dict(RECIPES[args.recipe].to_dict() | given)
    except (OSError, ValueError, TypeError) as error:
        raise RtskelError(f"training config: {error}") from None
    if args.steps is not None:
        config = replace(config, steps=args.steps)
    if args.time_budget is not None:
        config = replace(config, time_budget=args.time_budget)
    if "sources" not in given:
        config = replace(config, sources=present_sources(config, Corpus(args.data)))
    if args.threads:
        torch.set_num_threads(args.threads)
    train(config, args.data, args.out, resume=args.resume)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
