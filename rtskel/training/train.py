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
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from rtskel.engine import Engine
from rtskel.engine.weights import load_weights, save_weights
from rtskel.errors import RtskelError
from rtskel.model import Skeletor
from rtskel.skeleton import skeleton
from rtskel.training.batches import Batch, Batches
from rtskel.training.checkpoint import moments, read_tensors, restore, under, write_tensors
from rtskel.training.config import RECIPES, TrainConfig, present_sources
from rtskel.training.data import Corpus, bone_statistics
from rtskel.training.device import behind
from rtskel.training.evaluate import ModelEngine, Score, evaluate, geometric_mean, refine_all
from rtskel.training.loss import Loss
from rtskel.training.paired import Pair, PairedErrors, paired_errors
from rtskel.training.score import joint_groups, log_mean

AHEAD = 3
"""Updates that a GPU may have to do still when the host prepares the next one."""

VALIDATED = 300
"""Frames of each source of motion on which a run without PHOENIX14T is validated, at least."""


class Trainer:
    """The state of a run: model, moving average, optimiser, running errors, randomness. `step()` is one update.

    `save` and `load` hold the whole state, so that a resumed run continues bit for bit on the same machine.

    Raises:
        RtskelError: the corpus lacks a source, or the weights to start from do not fit.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus, device: str = "cpu") -> None:
        self.config, self.corpus, self.device = config, corpus, torch.device(device)
        self.generator = torch.Generator(device=self.device).manual_seed(config.seed + rank())
        self.batches = Batches(config, corpus, self.generator)
        self.loss = Loss(config, len(self.batches.kinds), self.batches.triples, self.generator)
        self.model = self._initial_model().to(self.device).train()
        self.average = Skeletor(config.model).to(self.device).eval()
        self.average.load_state_dict(self.model.state_dict())
        if config.precision == "bf16":
            for model in (self.model, self.average):
                model.trunk.autocast = torch.bfloat16
        self._compiled = torch.compile(self.loss.at_positions, dynamic=False) if config.compile else None
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        parameters = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.999), fused=True)
        self.steps = 0
        self.elapsed = 0.0
        self.best = math.inf
        self._pending, self._known = deque[_Spent](), math.nan

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
            model.set_bone_statistics(*bone_statistics(self.corpus, config.sources, skeleton(config.model.skeleton)))
        return model

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

    def step(self) -> float:
        """One update; returns its loss. On a GPU that of an earlier one: the host goes on to the next update, up to
        `AHEAD` of them (see `settle`).
        """
        config, began = self.config, time.monotonic()
        warm = min(1.0, (self.steps + 1) / config.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * warm * (config.final_lr + (1 - config.final_lr) * cosine)
        loss = self.measure(self.batches.draw())
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.update()
        ahead = AHEAD if behind(self.device) and not math.isnan(self._known) else 0
        self._read(ahead - 1)  # the wait counts as time of this update
        spent = torch.full((2,), time.monotonic() - began, dtype=torch.float64, device=self.device)
        spent[1] = loss.detach()
        if processes() > 1:
            dist.all_reduce(spent)  # so that all processes end together
        self._pending.append(_Spent(spent))
        self._read(ahead)
        return self._known

    def measure(self, batch: Batch) -> Tensor:
        """The loss on a batch, compiled if the config says so."""
        if self._compiled is None:
            return self.loss(self.model, batch, self.floor)
        floor = torch.full((), self.floor, device=self.device)
        measured: Tensor = self._compiled(self.loss.positions(), self.model, batch, floor)
        return measured

    def update(self) -> None:
        """Weights and their moving average follow the gradients."""
        if processes() > 1:
            self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimiser.step()
        self.steps += 1
        decay = min(self.config.ema, self.steps / (self.steps + 10.0))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def settle(self) -> float:
        """Waits for the updates so far; returns the loss of the last one."""
        self._read(0)
        return self._known

    def _read(self, left: int) -> None:
        """Reads the losses and times of all updates but the last `left`."""
        while len(self._pending) > max(left, 0):
            elapsed, loss = self._pending.popleft().read()
            self.elapsed += elapsed / processes()
            self._known = loss / processes()

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
        self.settle()
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= moments(self.optimiser)
        generators = [self.generator.get_state()] * processes()
        if processes() > 1:
            dist.all_gather_object(generators, self.generator.get_state())
        if self.config.pairs:
            tensors["of_pairs"] = self.loss.of_pairs
        return tensors | {"running": self.loss.running, "generators": torch.stack(generators)}

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint, complete or not at all. Every process of a run must call it."""
        tensors = self.state()
        if rank():
            return
        best = self.best if math.isfinite(self.best) else None
        header = {
            "config": json.dumps(replace(self.config, kinds=self.batches.kinds).to_dict()),  # `TRAINING` may change
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
            of_pairs = tensors["of_pairs"] if self.config.pairs else None
        except (KeyError, ValueError) as error:
            raise RtskelError(f"{path}: not a checkpoint ({error})") from None
        try:
            stored = TrainConfig.from_dict(values)
        except (ValueError, TypeError) as error:
            raise RtskelError(f"{path}: a checkpoint of another config ({error})") from None
        kinds = self.batches.kinds
        same = stored.model == self.config.model and (stored.kinds or kinds) == kinds
        same = same and list(stored.sources) == list(self.config.sources)
        if not same or running.shape != self.loss.running.shape:
            raise RtskelError(f"{path}: a checkpoint of another config")
        if fingerprint != self.corpus.fingerprint:
            raise RtskelError(f"{path}: a checkpoint of another corpus")
        if len(generators) != processes():
            raise RtskelError(f"{path}: a checkpoint of {len(generators)} processes, not of {processes()}")

        self.model.load_state_dict(under("model.", tensors))
        self.average.load_state_dict(under("average.", tensors))
        restore(self.optimiser, tensors)
        self.loss.running.copy_(running)
        if of_pairs is not None:
            self.loss.of_pairs.copy_(of_pairs)
        self.generator.set_state(generators[rank()].clone())
        self.steps, self.elapsed = books["steps"], books["elapsed"]
        self.best = math.inf if books["best"] is None else books["best"]
        self._pending, self._known = deque[_Spent](), math.nan

    def validate(self, truth: Sequence[Any]) -> list[Score]:
        """Scores of the moving average on clean sequences [N, J, 3] under the protocol's conditions, L = 0 and 4."""
        return evaluate(truth, ModelEngine(self.average), lookaheads=(0, 4), radius=self.config.validate_radius)

    def validate_pairs(self) -> dict[str, PairedErrors]:
        """Errors of the moving average on the pairs that are for validation, radius 2, by lookahead and group."""
        return score_pairs(ModelEngine(self.average), self.batches.validated)


class _Spent:
    """Time and loss of an update, on their way from the device."""

    def __init__(self, spent: Tensor) -> None:
        self._there, self._arrived = spent, None
        if spent.is_cuda:
            self._there = torch.empty(spent.shape, dtype=spent.dtype, pin_memory=True)
            self._there.copy_(spent, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(spent.device))

    def read(self) -> list[float]:
        """Both; waits for the update."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._there.tolist()


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
            ended = trainer.progress >= 1.0
            checked = ended or (config.validate_every > 0 and trainer.steps % config.validate_every == 0)
            loss = trainer.settle() if checked else loss
            if not math.isfinite(loss):
                raise RtskelError(f"{out}: the loss became {loss} at step {trainer.steps}; the last checkpoint is kept")
            smooth = loss if smooth == 0.0 else smooth + 0.01 * (loss - smooth)
            bar.update(task, completed=trainer.progress, note=f"step {trainer.steps} loss {smooth:.3f} {best_note}")
            if board and trainer.steps % 20 == 0:
                board.add_scalar("loss", smooth, trainer.steps)
                board.add_scalar("learning rate", trainer.optimiser.param_groups[0]["lr"], trainer.steps)
                board.add_scalar("floor", trainer.floor, trainer.steps)
            if not checked:
                continue
            if rank() == 0:
                scores = trainer.validate(truth) if truth else []
                both = math.sqrt(geometric_mean(scores, 0) * geometric_mean(scores, 4)) if scores else 0.0
                paired = trainer.validate_pairs() if scores and trainer.batches.validated else {}
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
