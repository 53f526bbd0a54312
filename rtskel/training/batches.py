"""What a training step learns from: clean windows of a corpus, corrupted, and windows of pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rtskel.engine.weights import load_weights
from rtskel.errors import RtskelError
from rtskel.formats.jointmap import mediapipe_map
from rtskel.model import Skeletor
from rtskel.skeleton import skeleton
from rtskel.training.config import SHAKY, TrainConfig
from rtskel.training.corrupt import TRAINING, Poses, recipe
from rtskel.training.data import Corpus, Windows, pad_windows, to_canonical_windows
from rtskel.training.paired import Pair, PairedWindows, read_pairs, split_pairs


class Batch(NamedTuple):
    """Windows in canonical frames.

    Attributes:
        clean, x: [B, W, J, 3], what a model should say, and what it sees; x is 0 where `missing` [B, W, J].
        scale: [B], canonical units in a unit of the corpus.
        kind: [B], of corruption, numbered in the order of `Batches.kinds`.
        source: [B], numbered in the order of `TrainConfig.sources`.

    The last 3 `TrainConfig.triples` windows of the corpus are groups of three consecutive ones. Those of pairs come
    after them, in groups of three, too; their kind is 1 if their motion is the corpus', else 0, and their source is 0.
    """

    clean: Tensor
    x: Tensor
    missing: Tensor
    scale: Tensor
    kind: Tensor
    source: Tensor


class Batches:
    """Draws batches.

    Attributes:
        kinds: names of the kinds of corruption.
        triples: see `TrainConfig`; 0 if no kind that is drawn shakes every frame.
        validated: the pairs that are for validation.

    Args:
        generator: source of all randomness, on the device of the batches.

    Raises:
        RtskelError: the corpus lacks a source, or the teacher does not fit.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus, generator: torch.Generator) -> None:
        self.config, self.generator, self.tree = config, generator, skeleton(config.model.skeleton)
        device = generator.device
        self._windows, self._longer = (
            Windows(
                corpus,
                window,
                weights=config.sources,
                augment=config.augment,
                skeleton=self.tree,
                generator=generator,
            )
            for window in (config.model.window, config.model.window + 2)
        )
        self.validated, self._paired = list[Pair](), None
        if config.pairs:
            joint_map = mediapipe_map() if config.corrected else None
            learnt, self.validated = split_pairs(read_pairs(config.pairs, joint_map), config.paired.holdout)
            window = config.model.window + 2
            self._paired = PairedWindows(learnt, window, config.paired, skeleton=self.tree, generator=generator)
        self.kinds = config.kinds or tuple(TRAINING)
        self._chance = torch.tensor([recipe(kind)[0] for kind in self.kinds], device=device)
        self._shaky = self._chance * torch.tensor([float(kind in SHAKY) for kind in self.kinds], device=device)
        self.triples = config.triples if bool(self._shaky.any()) else 0
        taught = config.taught or self.kinds
        self._taught = torch.tensor([kind in taught for kind in self.kinds], device=device)
        self._teacher = self._open_teacher().to(device) if config.teacher else None

    def _open_teacher(self) -> Skeletor:
        config = self.config
        teacher = load_weights(config.teacher)
        if (teacher.config.window, teacher.config.joints) != (config.model.window, config.model.joints):
            raise RtskelError(f"{config.teacher}: does not fit the model to be trained (another window or skeleton)")
        if config.precision == "bf16":
            teacher.trunk.autocast = torch.bfloat16
        return teacher

    def draw(self) -> Batch:
        """The next batch."""
        g, count, window = self.generator, self.triples, self.config.model.window

        def three(sequence: Tensor) -> Tensor:
            return torch.stack([sequence[:, k : k + window] for k in range(3)], 1).flatten(0, 1)

        clean, source = self._windows.draw(self.config.batch - 3 * count)
        clean, x, missing, kind = self._corrupt(clean, self._chance)
        clean, x, missing = pad_windows(clean, x, missing, self.config.augment, g)
        if count:
            longer, longer_source = self._longer.draw(count)
            longer, shaken, hidden, longer_kind = self._corrupt(longer, self._shaky)
            clean, x = torch.cat([clean, three(longer)]), torch.cat([x, three(shaken)])
            missing = torch.cat([missing, three(hidden)])
            kind = torch.cat([kind, longer_kind.repeat_interleave(3)])
            source = torch.cat([source, longer_source.repeat_interleave(3)])
        if self._paired:
            groups = self.config.paired.triples
            lent = int((torch.rand(groups, generator=g, device=g.device) < self.config.paired.transplanted).sum())
            seen, lost, truth = self._paired.draw(groups, self._longer.draw(lent)[0] if lent else None)
            clean, x = torch.cat([clean, three(truth)]), torch.cat([x, three(seen)])
            missing = torch.cat([missing, three(lost)])
            borrowed = torch.arange(groups, device=g.device) >= groups - lent
            kind = torch.cat([kind, borrowed.long().repeat_interleave(3)])
            source = torch.cat([source, source.new_zeros(3 * groups)])
        clean, x, scale = to_canonical_windows(clean, x, missing, self.tree)
        if self._teacher:
            rows = self._taught[kind[: self.config.batch]].nonzero()[:, 0]
            if len(rows):
                with torch.no_grad():
                    clean[rows] = self._teacher(x[rows], missing[rows])
        return Batch(clean, x, missing, scale, kind, source)

    def _corrupt(self, clean: Tensor, chance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Truth, corrupted sequences, their missing joints and their kinds (ascending), drawn by chance [kinds]."""
        kind = torch.multinomial(chance, len(clean), replacement=True, generator=self.generator).sort().values
        truth, x = torch.empty_like(clean), torch.empty_like(clean)
        missing = torch.empty(clean.shape[:3], dtype=torch.bool, device=clean.device)
        first = 0
        for k, count in enumerate(torch.bincount(kind, minlength=len(self.kinds)).tolist()):
            if count:
                rows = slice(first, first + count)
                poses = recipe(self.kinds[k])[1](Poses.clean(clean[rows], skeleton=self.tree), self.generator)
                truth[rows], x[rows], missing[rows] = poses.truth, poses.xyz, poses.missing
                first += count
        return truth, x, missing, kind
