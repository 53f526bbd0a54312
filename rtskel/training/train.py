"""Training by corruption: clean windows are corrupted, and the model learns to undo it (the paper's section 4.1).

`main(["--data", corpus, "--out", run])` is `rtskel train`. A run's folder holds its resolved config and the
corpus' fingerprint, `last.safetensors` (everything a resumed run needs to go on bit for bit),
`best.safetensors` (weights, moving average, best on dev), `log.jsonl` and TensorBoard's files.

Under `torchrun` the processes draw batches of their own and average gradients and running errors, so that all of them
hold the same weights; the first writes the run's folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from rtskel.engine.weights import load_weights, save_weights
from rtskel.errors import RtskelError
from rtskel.model import PRESETS, Skeletor, SkeletorConfig, facing, open_gate
from rtskel.skeleton import skeleton
from rtskel.training.corrupt import TRAINING, Poses, recipe
from rtskel.training.data import AugmentConfig, Corpus, Windows, bone_statistics, pad_windows, to_canonical_windows
from rtskel.training.evaluate import ModelEngine, Score, evaluate, geometric_mean
from rtskel.training.score import joint_groups

BAD = 1e-7
"""Squared error of a coordinate, canonical units, beyond which the gate is told that a joint is bad."""

TAIL = 30.0
"""Errors this many times the usual count half of what they are: a few windows would drown out all others."""

SHAKY = ("dense_noise", "estimator_low", "estimator_high", "estimator_body", "jitter_low", "jitter_high", "live")
"""Kinds of corruption that shake every frame: what refined poses do from one frame to the next is trained on these."""

PAPER_KINDS = ("frame_mask", "joint_mask", "frame_noise_mid", "joint_noise_mid")


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The schedule runs over `steps`, or over `time_budget` seconds, whichever ends first.

    sources: how often windows are drawn from each part of the corpus; by default, of the shared data.
    kinds: corruptions of `rtskel.training.corrupt.TRAINING` to draw from; empty: all of them.
    balance: each kind of corruption, source and group of joints counts by its error relative to its own running error,
        so that what is learned is the logarithm of each; without it, the loss is the paper's plain MSE.
    shares: with `balance`, shares of the loss of the window's last position (which lookahead 0 uses), of the four
        before it (lookaheads to 4), and of those from there to the middle (longer lookaheads), each with running
        errors of its own. No output is taken from positions further in front.
    triples: of the batch, 3 `triples` windows are three consecutive ones each, of the `SHAKY` kinds: what is published
        from them is to accelerate as the truth does. `smoothness` is the weight of that loss, by positions as in
        `shares` (what is too smooth without lookahead lags). It needs `balance`.
    floors: running errors below the first (at the start) to the second (at the end of the run) count as that.
    proposal, gate: weights of the loss of ungated corrections and of the gate as a classifier of bad joints.
    ema: decay of the moving average of the weights, which is what is validated and kept.
    validate_every: steps between validations (and checkpoints); 0: never, and the average at the end counts as best.
    compile: compiles the network, which costs a minute and pays on an accelerator.
    init: weights file to start from; of the same model, or of one with fewer options (`Skeletor.grow_from`).
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

    def __post_init__(self) -> None:
        if self.batch < 1 or self.steps < 1 or self.validate_every < 0:
            raise ValueError("batch and steps must be at least 1, validate_every at least 0")
        if not 0 <= 3 * self.triples < self.batch:
            raise ValueError(f"{self.triples} triples of windows do not fit a batch of {self.batch} beside others")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: fp32 or bf16 expected")
        for kind in self.kinds:
            recipe(kind)

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it."""
        return {key: None if value == math.inf else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; a key that is not a field raises ValueError."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown training option {unknown[0]!r}")
        made = dict(values)
        if isinstance(made.get("model"), Mapping):
            made["model"] = SkeletorConfig.from_dict(made["model"])
        if isinstance(made.get("augment"), Mapping):
            augment = dict(made["augment"])
            extra = sorted(set(augment) - {f.name for f in fields(AugmentConfig)})
            if extra:
                raise ValueError(f"unknown augmentation option {extra[0]!r}")
            made["augment"] = AugmentConfig(
                **augment | ({"rates": tuple(augment["rates"])} if "rates" in augment else {})
            )
        for key in ("kinds", "floors", "shares", "smoothness"):
            if key in made and not isinstance(made[key], list | tuple):
                raise ValueError(f"{key} {made[key]!r}: a list expected")
            made |= {key: tuple(made[key])} if key in made else {}
        made |= {key: math.inf for key in ("time_budget", "clip") if made.get(key, 0.0) is None}
        return cls(**made)


RECIPES: Mapping[str, TrainConfig] = MappingProxyType(
    {
        "realtime": TrainConfig(),
        "paper": TrainConfig(
            model=PRESETS["paper"], sources={"phoenix": 1.0}, kinds=PAPER_KINDS, lr=1e-5, final_lr=1.0, warmup=1,
            weight_decay=0.0, clip=math.inf, ema=0.0, balance=False, triples=0, precision="fp32",
        ),
    }
)  # fmt: skip
"""The paper's recipe (Adam with its defaults, 1e-5, MSE, 300,000 iterations) and the one the released weights
came from.
"""


class Trainer:
    """The state of a run: model, moving average, optimiser, running errors, randomness. `step()` is one update.

    The whole state goes through `save` and `load`, so that a resumed run continues bit for bit on the same machine.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus, device: str = "cpu") -> None:
        self.config, self.corpus, self.device = config, corpus, torch.device(device)
        self.tree = skeleton(config.model.skeleton)
        torch.manual_seed(config.seed)
        self.model = Skeletor(config.model)
        if config.init:
            try:
                self.model.grow_from(load_weights(config.init))
            except ValueError as error:
                raise RtskelError(f"{config.init}: does not fit the model to be trained ({error})") from None
        if not config.init and config.model.fill:
            self.model.set_bone_statistics(*bone_statistics(corpus, config.sources, self.tree))
        self.model.to(self.device).train()
        self.average = Skeletor(config.model).to(self.device).eval()
        self.average.load_state_dict(self.model.state_dict())
        if config.precision == "bf16":
            self.model.trunk.autocast = self.average.trunk.autocast = torch.bfloat16
        if config.compile:
            self.model.trunk.compile()
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in self.model.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in self.model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=(0.9, 0.999),
            fused=True,
        )
        self.generator = torch.Generator(device=self.device).manual_seed(config.seed + rank())
        self.windows, self.longer = (
            Windows(
                corpus, window, weights=config.sources, augment=config.augment, skeleton=self.tree,
                generator=self.generator,
            )
            for window in (config.model.window, config.model.window + 2)
        )  # fmt: skip
        self.kinds = config.kinds or tuple(TRAINING)
        self.chance = torch.tensor([recipe(kind)[0] for kind in self.kinds], device=self.device)
        self.shaky = self.chance * torch.tensor([float(kind in SHAKY) for kind in self.kinds], device=self.device)
        self.triples = config.triples if bool(self.shaky.any()) else 0
        groups = joint_groups(config.model.skeleton)
        self.groups = torch.zeros(len(groups), self.tree.joints, device=self.device)  # each row sums to 1
        for row, joints in enumerate(groups.values()):
            self.groups[row, joints] = 1.0 / len(joints)
        window = config.model.window
        self.positions = torch.zeros(3, window, device=self.device)  # each row sums to 1
        edges = sorted({max(0, window // 2 - 3), max(0, window - 5), window - 1, window})
        for row, (first, end) in enumerate(reversed(list(pairwise(edges)))):
            self.positions[row, first:end] = 1.0 / (end - first)
        shares = torch.tensor(config.shares, device=self.device)[:, None]
        self.shares = torch.stack(
            [shares, shares, shares * torch.tensor(config.smoothness, device=self.device)[:, None]]
        )
        # Running errors by kind, source, positions and group: of the output, of the ungated proposal, and of the
        # acceleration; 0 = not seen yet.
        cells = (len(self.kinds), len(config.sources), len(self.positions), len(groups))
        self.running = torch.zeros(3, *cells, device=self.device)
        self.steps = 0
        self.elapsed = 0.0
        self.best = math.inf

    @property
    def progress(self) -> float:
        """How far the run is, 0 to 1: by steps or by time, whichever is further."""
        return min(1.0, max(self.steps / self.config.steps, self.elapsed / self.config.time_budget))

    @property
    def floor(self) -> float:
        """Running errors below this count as this. Falls during the run: as long as clean input counts for too
        much, nothing else is learned.
        """
        high, low = self.config.floors
        return float(high * (low / high) ** self.progress)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A training batch: clean, corrupted [B, W, J, 3], missing [B, W, J], scale [B], kind [B], source [B].

        Its last 3 `triples` windows are three consecutive ones each.
        """
        g, count, window = self.generator, self.triples, self.config.model.window
        clean, source = self.windows.draw(self.config.batch - 3 * count)
        clean, x, missing, kind = self._corrupt(clean, self.chance)
        clean, x, missing = pad_windows(clean, x, missing, self.config.augment, g)
        if count:
            longer, longer_source = self.longer.draw(count)
            longer, shaken, hidden, longer_kind = self._corrupt(longer, self.shaky)

            def three(sequence: Tensor) -> Tensor:
                return torch.stack([sequence[:, k : k + window] for k in range(3)], 1).flatten(0, 1)

            clean, x = torch.cat([clean, three(longer)]), torch.cat([x, three(shaken)])
            missing = torch.cat([missing, three(hidden)])
            kind = torch.cat([kind, longer_kind.repeat_interleave(3)])
            source = torch.cat([source, longer_source.repeat_interleave(3)])
        clean, x, scale = to_canonical_windows(clean, x, missing, self.tree)
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
        base, correction, logits = self.model.propose(x, missing)
        proposal = base + correction
        y = proposal if logits is None else base + open_gate(logits, missing)[..., None] * correction
        unscale = scale[:, None, None].square()

        def off(prediction: Tensor) -> Tensor:
            squared: Tensor = (prediction - clean).square().mean(-1) / unscale  # [B, W, J]
            return squared

        def grouped(squared: Tensor) -> Tensor:
            means: Tensor = torch.einsum("bwj,pw,gj->bpg", squared, self.positions, self.groups)
            return means

        error = off(y)
        if not config.balance:
            return (error @ self.groups[0]).mean()
        total = self._balanced(grouped(error), kind, source, 0, self.floor)
        if logits is not None:
            # What is proposed for good joints does not matter: the gate keeps it back.
            bad = (off(base) > BAD).float()
            off_bad = grouped(off(proposal) * bad)
            total = total + config.proposal * self._balanced(off_bad, kind, source, 1, self.floor)
            guess = F.binary_cross_entropy_with_logits(logits, bad, reduction="none")
            total = total + config.gate * guess[~missing].mean()
        if self.triples:
            # Position p of three consecutive windows: what is published of three frames at one lookahead.
            first = -3 * self.triples
            apart = ((y - clean) * side / scale[:, None, None, None])[first:].view(-1, 3, *y.shape[1:])
            acceleration = apart[:, 0] - 2 * apart[:, 1] + apart[:, 2]
            acceleration = (acceleration.square().sum(-1) + 1e-12).sqrt()
            total = total + self._balanced(grouped(acceleration), kind[first::3], source[first::3], 2, self.floor**0.5)
        return total

    def _balanced(self, error: Tensor, kind: Tensor, source: Tensor, which: int, floor: float) -> Tensor:
        """Error [B, positions, groups] over its running mean for the window's kind and source; updates that mean."""
        running = self.running[which]
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
        held: Tensor = self.shares[which] * TAIL * (relative / TAIL).log1p()
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
            dist.all_reduce(spent)  # so that all end together
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
        """Every tensor that the run's future depends on, by name."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for k, parameter in enumerate(p for group in self.optimiser.param_groups for p in group["params"]):
            tensors |= {f"optimiser.{k}.{n}": v for n, v in self.optimiser.state[parameter].items()}
        generators = [self.generator.get_state()] * processes()
        if processes() > 1:
            dist.all_gather_object(generators, self.generator.get_state())
        return tensors | {"running": self.running, "generators": torch.stack(generators)}

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint; it is complete under its name, or not there. Every process of a run must call it."""
        path = Path(path)
        tensors = {k: v.detach().cpu().clone().contiguous() for k, v in self.state().items()}
        if rank():
            return
        books = {"steps": self.steps, "elapsed": self.elapsed, "best": self.best if math.isfinite(self.best) else None}
        header = {
            "config": json.dumps(replace(self.config, kinds=self.kinds).to_dict()),  # `TRAINING` may change
            "corpus": self.corpus.fingerprint,
            "books": json.dumps(books),
        }
        partial = path.with_name(path.name + ".partial")
        try:
            save_file(tensors, str(partial), header)
            partial.replace(path)
        except (SafetensorError, OSError) as error:
            raise RtskelError(f"{path}: cannot be written ({error}); the checkpoint before it is kept") from None

    def load(self, path: str | Path) -> None:
        """Continues from a checkpoint of the same model config, kinds, sources and corpus.

        Raises:
            RtskelError: not a checkpoint, or one of something else; then nothing has changed.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            values, books, fingerprint = json.loads(header["config"]), json.loads(header["books"]), header["corpus"]
            running, generators = tensors["running"], tensors["generators"]
        except (SafetensorError, OSError, KeyError, ValueError) as error:
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

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(under("model."))
        self.average.load_state_dict(under("average."))
        for k, parameter in enumerate(p for group in self.optimiser.param_groups for p in group["params"]):
            moments = under(f"optimiser.{k}.")
            self.optimiser.state[parameter] = {n: v.to(self.device) if v.dim() else v for n, v in moments.items()}
        self.running.copy_(running)
        self.generator.set_state(generators[rank()].clone())
        self.steps, self.elapsed = books["steps"], books["elapsed"]
        self.best = math.inf if books["best"] is None else books["best"]

    def validate(self, truth: Sequence[Any]) -> list[Score]:
        """Scores of the moving average on clean sequences [N, J, 3] under the conditions of the protocol, L =
        0 and 4.
        """
        return evaluate(truth, ModelEngine(self.average), lookaheads=(0, 4), radius=self.config.validate_radius)


def validation_sequences(corpus: Corpus, source: str = "phoenix") -> list[Any]:
    """The dev sequences of a source (of the whole corpus if that has none), as arrays [N, J, 3]."""
    chosen = corpus.select("dev", source) or corpus.select("dev")
    return [np.array(corpus.xyz[s.first : s.first + s.length]) for s in chosen]


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def train(
    config: TrainConfig, data: str | Path, out: str | Path, *, resume: bool = False, quiet: bool = False
) -> Trainer:
    """Trains until the schedule ends; see the module's docstring for what `out` holds then.

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
                if both < trainer.best:
                    trainer.best = both
                    save_weights(trainer.average, out / "best.safetensors", name="skeletor", corpus=corpus.fingerprint)
                entry = {"step": trainer.steps, "elapsed": trainer.elapsed, "loss": smooth, "geometric_mean": both}
                with (out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(entry | {"scores": [asdict(s) for s in scores]}) + "\n")
                if board:
                    board.add_scalar("dev/geometric mean", both, trainer.steps)
                    for score in (s for s in scores if s.group == "all"):
                        board.add_scalar(f"dev mse L={score.lookahead}/{score.condition}", score.mse, trainer.steps)
                best_note = f"dev {both * 1e4:.3f}e-4"
            trainer.save(out / "last.safetensors")
    if board:
        board.close()


def _board(out: Path, console: Console) -> Any:
    """TensorBoard's writer for the run, or None where it is not installed or this process writes nothing."""
    if rank():
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print("TensorBoard is not installed: no curves will be written (log.jsonl holds the validations)")
        return None
    return SummaryWriter(str(out / "tensorboard"))


def main(argv: Sequence[str] | None = None) -> int:
    """`rtskel train`: see `--help`."""
    parser = argparse.ArgumentParser(prog="rtskel train", description="Train Skeletor on a corpus of clean poses.")
    parser.add_argument("--data", required=True, help="corpus folder (made by `python -m rtskel.training.data`)")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--recipe", default="realtime", choices=sorted(RECIPES))
    parser.add_argument("--config", help="JSON file with options that replace the recipe's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace one option (JSON value)"
    )
    parser.add_argument("--steps", type=int, help="end after this many updates")
    parser.add_argument("--time-budget", type=float, metavar="SECONDS", help="end after this many seconds of training")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last checkpoint")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args(argv)
    values = RECIPES[args.recipe].to_dict()
    try:
        if args.config:
            values |= json.loads(Path(args.config).read_text())
        for item in args.set:
            key, _, value = item.partition("=")
            values[key] = json.loads(value)
        config = TrainConfig.from_dict(values)
    except (OSError, ValueError, TypeError) as error:
        raise RtskelError(f"training config: {error}") from None
    if args.steps is not None:
        config = replace(config, steps=args.steps)
    if args.time_budget is not None:
        config = replace(config, time_budget=args.time_budget)
    if args.threads:
        torch.set_num_threads(args.threads)
    train(config, args.data, args.out, resume=args.resume)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
