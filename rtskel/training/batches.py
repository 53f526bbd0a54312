"""What a training step learns from: clean windows of a corpus, corrupted, and windows of pairs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
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
from rtskel.training.device import behind
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

    On a GPU the host never waits for a draw: nothing that it does depends on a value, and the whole of it is one CUDA
    graph (see `TrainConfig.graph`). There the kinds of a batch are a systematic sample: each kind has its share of the
    rows, rounded down or up at random so that it is exact on average. On the CPU the kind of each row is drawn alone.

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
        chance = [recipe(kind)[0] for kind in self.kinds]
        shaky = [c * (kind in SHAKY) for c, kind in zip(chance, self.kinds, strict=True)]
        self.triples = config.triples if any(shaky) else 0
        sample = _Systematic if behind(device) else _Independent
        self._all = sample(chance, config.batch - 3 * self.triples, generator)
        self._shaky = sample(shaky, self.triples, generator) if self.triples else None
        taught = config.taught or self.kinds
        self._taught = torch.tensor([kind in taught for kind in self.kinds]).to(device)
        self._teacher = self._open_teacher().to(device).requires_grad_(False) if config.teacher else None
        self._graph: _Graph | None = None

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
        if self.generator.device.type != "cuda" or not self.config.graph:
            return self._draw()
        if self._graph is None:
            self._graph = _Graph(self._draw, self.generator)
        return self._graph.replay()

    def _draw(self) -> Batch:
        g, count, window = self.generator, self.triples, self.config.model.window
        groups = self.config.paired.triples if self._paired else 0

        def three(sequence: Tensor) -> Tensor:
            return torch.stack([sequence[:, k : k + window] for k in range(3)], 1).flatten(0, 1)

        clean, source = self._windows.draw(self.config.batch - 3 * count)
        clean, x, missing, kind = self._corrupt(clean, self._all)
        clean, x, missing = pad_windows(clean, x, missing, self.config.augment, g)
        parts = [(clean, x, missing, kind, source)]
        if self._shaky or self._paired:
            longer, longer_source = self._longer.draw(count + groups)
        if self._shaky:
            truth, shaken, hidden, longer_kind = self._corrupt(longer[:count], self._shaky)
            thrice = longer_kind.repeat_interleave(3), longer_source[:count].repeat_interleave(3)
            parts.append((three(truth), three(shaken), three(hidden), *thrice))
        if self._paired:
            borrowed = torch.rand(groups, generator=g, device=g.device) < self.config.paired.transplanted
            seen, lost, truth = self._paired.draw(groups, longer[count:], borrowed)
            kind = borrowed.long().repeat_interleave(3)
            parts.append((three(truth), three(seen), three(lost), kind, torch.zeros_like(kind)))
        clean, x, missing, kind, source = (torch.cat(part) for part in zip(*parts, strict=True))
        clean, x, scale = to_canonical_windows(clean, x, missing, self.tree)
        if self._teacher:
            self._teach(clean, x, missing, kind)
        return Batch(clean, x, missing, scale, kind, source)

    def _teach(self, clean: Tensor, x: Tensor, missing: Tensor, kind: Tensor) -> None:
        """Puts what the teacher says in the place of the truth of the kinds that it teaches."""
        assert self._teacher
        own = slice(0, self.config.batch)
        rows = self._taught[kind[own]]
        with torch.no_grad():
            if behind(x.device):
                clean[own] = torch.where(rows[:, None, None, None], self._teacher(x[own], missing[own]), clean[own])
            elif len(chosen := rows.nonzero()[:, 0]):
                clean[chosen] = self._teacher(x[chosen], missing[chosen])

    def _corrupt(self, clean: Tensor, sample: _Independent | _Systematic) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Truth, corrupted sequences, their missing joints and their kinds (ascending)."""
        kind, counts, rows, back = sample.draw()
        clean = clean if rows is None else clean[rows]
        truth, x = torch.empty_like(clean), torch.empty_like(clean)
        missing = torch.empty(clean.shape[:3], dtype=torch.bool, device=clean.device)
        first = 0
        for name, count in zip(self.kinds, counts, strict=True):
            if count:
                part = slice(first, first + count)
                poses = recipe(name)[1](Poses.clean(clean[part], skeleton=self.tree), self.generator)
                truth[part], x[part], missing[part] = poses.truth, poses.xyz, poses.missing
                first += count
        if back is None:
            return truth, x, missing, kind
        return truth[back], x[back], missing[back], kind


class _Independent:
    """The kinds of rows, each drawn alone."""

    def __init__(self, chance: list[float], rows: int, generator: torch.Generator) -> None:
        self.rows, self.generator = rows, generator
        self._chance = torch.tensor(chance).to(generator.device)

    def draw(self) -> tuple[Tensor, list[int], None, None]:
        """Kinds [rows], ascending, and how many rows each has."""
        kind = torch.multinomial(self._chance, self.rows, replacement=True, generator=self.generator).sort().values
        return kind, torch.bincount(kind, minlength=len(self._chance)).tolist(), None, None


class _Systematic:
    """The kinds of rows, a systematic sample (Madow 1949): of n rows, a kind with the chance p has n p, rounded down or
    up, and n p on average. The host knows only that: each kind is given the larger number of rows to corrupt.
    """

    def __init__(self, chance: list[float], rows: int, generator: torch.Generator) -> None:
        self.generator, device = generator, generator.device
        expected = [rows * c / sum(chance) for c in chance]
        self._most = [int(e + 1e-6) + 1 if e else 0 for e in expected]
        self._rows = torch.arange(rows).to(device)
        self._upto = torch.tensor([*list(accumulate(expected))[:-1], float(rows)], dtype=torch.float64).to(device)
        places = [(kind, k) for kind, most in enumerate(self._most) for k in range(most)]
        self._kind, self._place = (torch.tensor(part).to(device) for part in zip(*places, strict=True))
        self._offset = torch.tensor([0, *accumulate(self._most)][:-1]).to(device)

    def draw(self) -> tuple[Tensor, list[int], Tensor, Tensor]:
        """Kinds [rows], ascending; how many rows of each to corrupt, P in all; which rows [P] these are; and which of
        them [rows] to keep.
        """
        u = torch.rand(1, generator=self.generator, device=self._upto.device, dtype=torch.float64)
        ends = (self._upto + u).floor().long().clamp(max=len(self._rows))
        starts = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
        kind = torch.searchsorted(ends, self._rows, right=True)
        taken = (starts[self._kind] + self._place).clamp(max=len(self._rows) - 1)
        return kind, self._most, taken, self._offset[kind] + self._rows - starts[kind]


class _Graph:
    """A draw as one CUDA graph: thousands of kernels for the host's price of one."""

    def __init__(self, draw: Callable[[], Batch], generator: torch.Generator) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        state = generator.get_state()
        aside = torch.cuda.Stream(generator.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(generator.device))
        with torch.cuda.stream(aside):
            for _ in range(2):  # kernels are compiled and loaded, libraries take their memory
                draw()
        torch.cuda.current_stream(generator.device).wait_stream(aside)
        generator.set_state(state)
        with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
            self._batch = draw()
        generator.set_state(state)

    def replay(self) -> Batch:
        """A batch of its own."""
        self._graph.replay()
        return Batch(*(part.clone() for part in self._batch))
