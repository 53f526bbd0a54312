"""Training a translator; `train` is `rtskel translate train`.

A run's folder holds the config, `last.safetensors` (everything that a resumed run needs to continue, on a CPU bit for
bit), `best.safetensors` (the translator that is best on dev, with the beam and length penalty that are), and
`log.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from rtskel.configs import Config
from rtskel.errors import RtskelError
from rtskel.skeleton import skeleton
from rtskel.training.checkpoint import moments, read_tensors, restore, under, write_tensors
from rtskel.translate.data import Sentence
from rtskel.translate.inputs import Frames, Inputs
from rtskel.translate.metrics import bleu
from rtskel.translate.network import TranslationNetwork, TranslatorConfig
from rtskel.translate.text import BEGIN, END, PAD, Vocabulary
from rtskel.translate.translator import Search, Translator

POOL = 8
"""Batches whose sentences are sorted by length together, so that little is padded."""

RUN = "rtskel.translation run"


@dataclass(frozen=True)
class TrainConfig(Config, option="training option"):
    """A training run; the defaults are the Skeletor paper's (section 5.6) and its translator's.

    Attributes:
        batch, lr, weight_decay: sentences of a batch; of Adam, with L2 in the gradient as the authors' code has it.
        ctc: weight of the CTC loss on glosses beside the translation's; 0: glosses are not used.
        least: words that occur less often in the training texts are unknown.
        epochs, time_budget: the run ends after so many, or after so many seconds.
        validate_every: epochs between validations on dev (BLEU-4 by greedy search).
        patience, factor, least_lr: after so many validations without a better one the learning rate is multiplied by
            `factor`; the run ends when it falls below `least_lr`.
        beams, alphas: beam sizes and length penalties to choose from on dev.
    """

    network: TranslatorConfig = field(default_factory=TranslatorConfig)
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-3
    clip: float = 1.0
    ctc: float = 0.0
    least: int = 1
    epochs: int = 200
    time_budget: float = math.inf
    validate_every: int = 1
    patience: int = 8
    factor: float = 0.7
    least_lr: float = 1e-5
    beams: tuple[int, ...] = (1, 3, 5)
    alphas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "least", "epochs", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "clip", "time_budget"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not (0 < self.factor < 1 and self.least_lr > 0 and self.ctc >= 0 and self.weight_decay >= 0):
            raise ValueError("factor in 0..1, least_lr above 0, ctc and weight_decay of at least 0 expected")
        if not (self.beams and self.alphas and min(self.beams) >= 1):
            raise ValueError("beams and alphas: some to choose from expected")


@dataclass(frozen=True)
class Prepared:
    """The sentences of a split as training needs them."""

    x: list[np.ndarray[Any, Any]]
    known: list[np.ndarray[Any, Any]]
    frames: list[Frames]
    texts: list[str]
    glosses: list[str]


def prepare(
    sentences: Sequence[Sentence],
    inputs: Inputs,
    config: TranslatorConfig,
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> Prepared:
    """Prepares the sentences of a split."""
    frames = inputs.prepare([sentence.poses for sentence in sentences], config.skeleton, progress, threads)
    features = [f.features(skeleton(config.skeleton), config.bones) for f in frames]
    return Prepared(
        [x for x, _ in features],
        [known for _, known in features],
        frames,
        [sentence.text for sentence in sentences],
        [sentence.gloss or "" for sentence in sentences],
    )


class Trainer:
    """The state of a run: network, optimiser, randomness, and how far it is. `epoch()` goes once through the data.

    Raises:
        RtskelError: no sentences; CTC without glosses.
    """

    def __init__(
        self, config: TrainConfig, train: Prepared, dev: Prepared, inputs: Inputs, device: str = "cpu"
    ) -> None:
        if not train.x or not dev.x:
            raise RtskelError("no sentences to train on or to validate with")
        if config.ctc and not all(train.glosses):
            number = next(number for number, gloss in enumerate(train.glosses, 1) if not gloss)
            raise RtskelError(f"training sentence {number} has no glosses, which CTC needs (--set ctc=0 does without)")
        self.config, self.train, self.dev = config, train, dev
        torch.manual_seed(config.seed)
        words = Vocabulary.of(train.texts, config.least)
        glosses = Vocabulary.of(train.glosses) if config.ctc else None
        network = TranslationNetwork(config.network, len(words), len(glosses) if glosses else 0)
        network.standardise(train.x, train.known)
        self.translator = Translator(network.to(device), words, glosses, inputs)
        self.optimiser = torch.optim.Adam(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.texts = [[BEGIN, *words.encode(text), END] for text in train.texts]
        self.signs = [glosses.encode(gloss) for gloss in train.glosses] if glosses else []
        self.epochs = self.stale = 0
        self.elapsed = 0.0
        self.lr = config.lr
        self.best: tuple[float, float] = (-1.0, -math.inf)

    @property
    def progress(self) -> float:
        """Progress of the run, 0 to 1: by epochs or by time, whichever is further."""
        return min(1.0, max(self.epochs / self.config.epochs, self.elapsed / self.config.time_budget))

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.progress >= 1.0 or self.lr < self.config.least_lr

    def batches(self) -> list[list[int]]:
        """The sentences of an epoch by batch: in an order that depends on the seed and the epoch only."""
        random = np.random.default_rng([self.config.seed, self.epochs])
        order, size = random.permutation(len(self.train.x)), self.config.batch
        found = []
        for first in range(0, len(order), POOL * size):
            pool = sorted(order[first : first + POOL * size].tolist(), key=lambda row: len(self.train.x[row]))
            found += [pool[k : k + size] for k in range(0, len(pool), size)]
        return [found[k] for k in random.permutation(len(found))]

    def loss(self, rows: Sequence[int]) -> Tensor:
        """The loss of a batch of the training sentences: summed over words, averaged over sentences."""
        network, device = self.translator.network, self.translator.network.mean.device
        x, hidden = network.tokens([self.train.x[row] for row in rows], [self.train.known[row] for row in rows])
        texts = _padded([self.texts[row] for row in rows]).to(device)
        h = network.encode(x, hidden)
        said = network.decode(h, hidden, texts[:, :-1])
        loss = F.nll_loss(said.flatten(0, 1), texts[:, 1:].flatten(), ignore_index=PAD, reduction="sum") / len(rows)
        if self.config.ctc:
            lengths = (~hidden).sum(1).cpu()
            signs = _padded([self.signs[row] for row in rows])
            counts = torch.tensor([len(self.signs[row]) for row in rows])
            likely = network.glosses(h).transpose(0, 1).cpu()
            ctc = F.ctc_loss(likely, signs, lengths, counts, blank=PAD, reduction="sum", zero_infinity=True)
            loss = loss + self.config.ctc * ctc.to(device) / len(rows)
        return loss

    def epoch(self, tell: Callable[[float], None] | None = None) -> float:
        """Goes once through the training sentences; returns the mean loss. `tell` gets the share that is done."""
        began, total, network = time.monotonic(), 0.0, self.translator.network.train()
        batches = self.batches()
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        for number, rows in enumerate(batches, 1):
            loss = self.loss(rows)
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.clip)
            self.optimiser.step()
            total += float(loss.detach()) * len(rows)
            if tell is not None:
                tell(number / len(batches))
        self.epochs += 1
        self.elapsed += time.monotonic() - began
        return total / len(self.train.x)

    def validate(self) -> float:
        """BLEU-4 of greedy search on dev; lowers the learning rate where it has not risen for long."""
        began = time.monotonic()
        said = self.translator.translate(self.dev.frames, Search())
        # While nothing has four words right, the better of two is the one with more single words right.
        found = bleu(said, self.dev.texts), bleu(said, self.dev.texts, 1)
        self.improved = found > self.best
        self.stale = 0 if self.improved else self.stale + 1
        self.best = max(self.best, found)
        if self.stale >= self.config.patience:
            self.lr, self.stale = self.lr * self.config.factor, 0
        self.elapsed += time.monotonic() - began
        return found[0]

    def save(self, path: Path) -> None:
        """Writes a checkpoint, complete or not at all."""
        tensors = {f"network.{k}": v for k, v in self.translator.network.state_dict().items()}
        tensors |= moments(self.optimiser)
        tensors["random"] = torch.get_rng_state()
        books = {"epochs": self.epochs, "stale": self.stale, "elapsed": self.elapsed, "lr": self.lr, "best": self.best}
        about = {"books": books, "of": self._identity()}
        write_tensors(path, tensors, {RUN: json.dumps(about)})

    def load(self, path: Path) -> None:
        """Continues from a checkpoint of the same config, sentences and inputs.

        Raises:
            RtskelError: not a checkpoint, or one of another run; then nothing has changed.
        """
        tensors, header = read_tensors(path, RUN, "translation run")
        about = json.loads(header[RUN])
        if about["of"] != self._identity():
            raise RtskelError(f"{path}: a checkpoint of another config, of other sentences or inputs")
        self.translator.network.load_state_dict(under("network.", tensors))
        restore(self.optimiser, tensors)
        torch.set_rng_state(tensors["random"])
        books = about["books"]
        self.epochs, self.stale, self.elapsed, self.lr = (books[k] for k in ("epochs", "stale", "elapsed", "lr"))
        self.best = tuple(books["best"])

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to; how long to train may change."""
        config = self.config.to_dict()
        for key in ("epochs", "time_budget", "beams", "alphas"):
            del config[key]
        sizes = [[len(x) for x in data.x] for data in (self.train, self.dev)]
        texts = [data.texts for data in (self.train, self.dev)]
        digest = hashlib.sha256(json.dumps([sizes, texts]).encode()).hexdigest()[:16]
        made: dict[str, Any] = json.loads(
            json.dumps({"config": config, "inputs": self.translator.inputs.to_dict(), "sentences": digest})
        )
        return made


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])


def choose_search(translator: Translator, dev: Prepared, config: TrainConfig) -> tuple[Search, float]:
    """The beam and length penalty with the highest BLEU-4 on dev (the first, if several have it), and that."""
    tried = []
    for beam in config.beams:
        for alpha in config.alphas:
            search = Search(beam, alpha)
            tried.append((bleu(translator.translate(dev.frames, search), dev.texts), search))
    value, search = max(tried, key=lambda item: item[0])
    return search, value


def train(
    config: TrainConfig,
    sentences: tuple[Sequence[Sentence], Sequence[Sentence]],
    inputs: Inputs,
    out: str | Path,
    *,
    resume: bool = False,
    threads: int | None = None,
    quiet: bool = False,
) -> Translator:
    """Trains on sentences (train, dev) until the schedule ends; the module's docstring lists what `out` holds then.

    Args:
        threads: of an engine on the CPU that refines the poses; None: its default.

    Raises:
        RtskelError: a folder that holds a run or cannot be written, a checkpoint that does not fit, a loss that is not
            finite. The last checkpoint is kept.
    """
    out = Path(out)
    console = Console(stderr=True, quiet=quiet)
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}")]
    try:
        if out.exists() and any(out.iterdir()) and not resume:
            raise RtskelError(f"{out}: already holds a run (resume it, or name another folder)")
        if resume and not (out / "last.safetensors").exists():
            raise RtskelError(f"{out}: holds no run to resume")
        out.mkdir(parents=True, exist_ok=True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
            splits = []
            for name, of in zip(("train", "dev"), sentences, strict=True):
                task = bar.add_task(f"{name}: poses", total=len(of), note="")
                tell = partial(_completed, bar, task)
                splits.append(prepare(of, inputs, config.network, tell, threads))
            trainer = Trainer(config, splits[0], splits[1], inputs, device)
            if resume:
                trainer.load(out / "last.safetensors")
            about = config.to_dict() | {"inputs": inputs.to_dict(), "torch": torch.__version__}
            (out / "config.json").write_text(json.dumps(about, indent=1))
            _run(trainer, out, bar)
            translator = Translator.load(out / "best.safetensors")
            task = bar.add_task("choosing beam and length penalty", total=None, note="")
            search, value = choose_search(translator, splits[1], config)
            bar.update(task, total=1, completed=1, note=f"{search.beam}, {search.alpha:g}: dev BLEU-4 {value:.2f}")
        translator = translator.with_search(search)
        translator.save(out / "best.safetensors")
    except OSError as error:
        raise RtskelError(f"{out}: cannot be written ({error}); the last checkpoint is kept") from None
    return translator


def _completed(bar: Progress, task: TaskID, done: int) -> None:
    bar.update(task, completed=done)


def _run(trainer: Trainer, out: Path, bar: Progress) -> None:
    task = bar.add_task("training", total=1.0, note="")
    bar.update(task, completed=trainer.progress)
    note = ""
    while not trainer.ended:
        share = 1.0 / trainer.config.epochs

        def tell(done: float, before: float = trainer.progress, share: float = share) -> None:
            bar.update(task, completed=before + done * share)

        loss = trainer.epoch(tell)
        if not math.isfinite(loss):
            raise RtskelError(f"{out}: the loss became {loss} in epoch {trainer.epochs}; the last checkpoint is kept")
        last = trainer.progress >= 1.0
        if last or trainer.epochs % trainer.config.validate_every == 0:
            found = trainer.validate()
            if trainer.improved:
                trainer.translator.save(out / "best.safetensors")
            entry = {
                "epoch": trainer.epochs,
                "elapsed": trainer.elapsed,
                "loss": loss,
                "lr": trainer.lr,
                "bleu4": found,
            }
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            note = f" dev BLEU-4 {found:.2f} best {trainer.best[0]:.2f}"
            trainer.save(out / "last.safetensors")
        bar.update(task, completed=trainer.progress, note=f"epoch {trainer.epochs} loss {loss:.3f}{note}")
    bar.update(task, completed=1.0)
