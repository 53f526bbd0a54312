"""How well an engine refines: the ten conditions (and clean input) of the accuracy protocol, through the
refiner itself.

Sequences are corrupted whole, with fixed seeds, so that every engine sees the same. Errors are pooled over the
frames of all sequences, over all joints but the neck, in the units of the recordings: MSE of each coordinate,
MPJPE, and the mean norm of the second difference of the error. A lookahead of L never lets a frame beyond i +
L be used: that is the refiner's law.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rtskel import corrupt
from rtskel.corrupt import Poses
from rtskel.engine import open_engine
from rtskel.engine.base import Engine, EngineInfo
from rtskel.errors import RtskelError
from rtskel.formats import read
from rtskel.model import Skeletor, describe
from rtskel.refine import RefinerBank
from rtskel.score import errors, joint_groups

Array = NDArray[np.float32]
Condition = Callable[[Poses, torch.Generator], Poses]

SHARE = 0.15

CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        "frame_mask": lambda x, g: corrupt.frame_mask(x, SHARE, g),
        "joint_mask": lambda x, g: corrupt.joint_mask(x, SHARE, g),
        "frame_noise_0.1": lambda x, g: corrupt.frame_noise(x, SHARE, 0.1, g),
        "frame_noise_0.5": lambda x, g: corrupt.frame_noise(x, SHARE, 0.5, g),
        "frame_noise_0.9": lambda x, g: corrupt.frame_noise(x, SHARE, 0.9, g),
        "joint_noise_0.5": lambda x, g: corrupt.joint_noise(x, SHARE, 0.5, g),
        "joint_noise_0.9": lambda x, g: corrupt.joint_noise(x, SHARE, 0.9, g),
        "burst_mask": lambda x, g: corrupt.burst_mask(x, SHARE, g, inside=True),
        "static_joint_mask": lambda x, g: corrupt.static_joint_mask(x, SHARE, g),
        "dense_noise_0.3": lambda x, g: corrupt.dense_noise(x, 0.3, g),
        "clean": lambda x, g: x,
    }
)
"""The ten conditions that count, and `clean`, which must come back as it was."""


@dataclass(frozen=True)
class Score:
    """Errors of one condition at one lookahead, over one group of joints ("all", "body", "hands")."""

    condition: str
    lookahead: int
    group: str
    mse: float
    mpjpe: float
    acceleration: float


class ModelEngine(Engine):
    """A model in memory as an engine: for validation during training. Computes on the model's device, in
    `autocast` if given.
    """

    def __init__(self, model: Skeletor, max_batch: int = 64, autocast: torch.dtype | None = None) -> None:
        header = describe(model)
        super().__init__(EngineInfo.from_metadata("model", "", header), max_batch)
        self._model, self._autocast = model, autocast

    def _run(self, x: Array, missing: NDArray[np.bool_]) -> Array:
        device = next(self._model.parameters()).device
        with (
            torch.inference_mode(),
            torch.autocast(device.type, self._autocast or torch.bfloat16, enabled=self._autocast is not None),
        ):
            y = self._model(torch.tensor(x, device=device), torch.tensor(missing, device=device))
        refined: Array = y.float().cpu().numpy()
        return refined


def corrupted(xyz: Array, condition: str, seed: int) -> tuple[Array, Array]:
    """A sequence [N, J, 3] under a condition: positions (0 where missing) and confidence [N, J] (0 where missing)."""
    generator = torch.Generator().manual_seed(seed)
    poses = CONDITIONS[condition](Poses.clean(torch.from_numpy(np.ascontiguousarray(xyz))[None]), generator)
    return poses.xyz[0].numpy(), (~poses.missing[0]).float().numpy()


def refine_all(
    sequences: Sequence[tuple[Array, Array]],
    engine: Engine,
    lookaheads: Sequence[int],
    radius: int,
    native: bool = True,
) -> dict[int, list[Array]]:
    """Refines sequences (xyz [N, J, 3], confidence [N, J]) in shared engine batches: by lookahead, [N, J, 3] each."""
    longest = max(len(xyz) for xyz, _ in sequences)
    bank = RefinerBank(
        engine, lookahead=tuple(lookaheads), radius=radius, streams=len(sequences), ahead=longest + 1, native=native
    )
    for s, (xyz, confidence) in enumerate(sequences):
        bank.put(np.full(len(xyz), s), np.arange(len(xyz)), xyz, confidence)
        bank.end(s)
    out = {lookahead: [np.zeros_like(xyz) for xyz, _ in sequences] for lookahead in lookaheads}
    while bank.pending:
        done = bank.step()
        for row in range(len(done)):
            out[int(done.lookahead[row])][int(done.stream[row])][int(done.slot[row])] = done.xyz[row]
    return out


def evaluate(
    truth: Sequence[Array],
    engine: Engine | None,
    *,
    lookaheads: Sequence[int] = (0, 4),
    radius: int = 2,
    conditions: Sequence[str] = tuple(CONDITIONS),
    seed: int = 0,
    native: bool = True,
) -> list[Score]:
    """Scores an engine, or the corrupted input itself where it is None.

    Args:
        truth: clean sequences [N, J, 3], canonical axes, neck at the origin.
        seed: the masks and noise of sequence k are drawn with seed 1000 seed + k.
    """
    scores = []
    groups = joint_groups(engine.info.skeleton_id if engine else "upper-body-50")
    for condition in conditions:
        sequences = [corrupted(xyz, condition, 1000 * seed + k) for k, xyz in enumerate(truth)]
        if engine is None:
            refined = {lookahead: [xyz for xyz, _ in sequences] for lookahead in lookaheads}
        else:
            refined = refine_all(sequences, engine, lookaheads, radius, native)
        for lookahead in lookaheads:
            for group, joints in groups.items():
                scores.append(Score(condition, lookahead, group, *errors(refined[lookahead], truth, joints)))
    return scores


def geometric_mean(scores: Sequence[Score], lookahead: int, group: str = "all") -> float:
    """Geometric mean of the MSE over the ten conditions that count."""
    chosen = [s.mse for s in scores if s.lookahead == lookahead and s.group == group and s.condition != "clean"]
    return float(np.exp(np.mean(np.log(np.maximum(chosen, 1e-12)))))


def main(argv: Sequence[str] | None = None) -> int:
    """`rtskel evaluate`: see `--help`."""
    parser = argparse.ArgumentParser(
        prog="rtskel evaluate", description="Score an engine under the conditions of the accuracy protocol."
    )
    parser.add_argument("recording", help="clean poses, such as phoenix14t/dev.skels")
    parser.add_argument("--engine", help="an engine file (default: the bundled weights)")
    parser.add_argument("--lookahead", default="0,4", help="lookaheads in frames (default 0,4)")
    parser.add_argument("--radius", type=int, default=2, help="2 r + 1 predictions are averaged (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the masks and the noise (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    try:
        lookaheads = [int(part) for part in args.lookahead.split(",")]
    except ValueError:
        raise RtskelError(f"--lookahead {args.lookahead!r}: numbers of frames with commas between expected") from None
    truth = [recording.canonical() for recording in read(args.recording)]
    with open_engine(args.engine) as engine:
        scores = evaluate(truth, engine, lookaheads=lookaheads, radius=args.radius, seed=args.seed)
        about = {"engine": engine.info.model_id, "recording": args.recording, "radius": args.radius, "seed": args.seed}
    if args.json:
        print(json.dumps(about | {"scores": [asdict(score) for score in scores]}))
        return 0
    table = Table(title=f"{about['engine']}, radius {args.radius}: MSE x 1e-4 | MPJPE x 1e-3 | acceleration x 1e-3")
    table.add_column("condition")
    columns = [(lookahead, group) for lookahead in lookaheads for group in ("all", "body", "hands")]
    for lookahead, group in columns:
        table.add_column(f"L={lookahead} {group}", justify="right")
    for condition in CONDITIONS:
        row = {(s.lookahead, s.group): s for s in scores if s.condition == condition}
        cells = [row[column] for column in columns]
        table.add_row(
            condition, *(f"{s.mse * 1e4:.4f} | {s.mpjpe * 1e3:.3f} | {s.acceleration * 1e3:.3f}" for s in cells)
        )
    means = [f"{geometric_mean(scores, lookahead, group) * 1e4:.4f}" for lookahead, group in columns]
    table.add_row("geometric mean of ten", *means)
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
