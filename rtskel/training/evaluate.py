"""How well an engine refines: the conditions of the accuracy protocol, through the refiner itself.

Sequences are corrupted whole, with fixed seeds, so that every engine sees the same. Scored are all joints but the neck,
in the units of the recordings: pooled over the frames of all sequences, and as the least, the average and the largest
value of a sequence, as in the paper's tables. A lookahead of L never lets a frame beyond i + L be used: that is
the refiner's law.

`CONDITIONS` are for whole skeletons. The condition `ESTIMATOR` is for bodies of motion capture that no model was
trained on (`kept_out`), whose true positions are known.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rtskel.engine import Engine, EngineInfo, open_engine
from rtskel.engine.weights import model_metadata
from rtskel.errors import FormatError, RtskelError
from rtskel.formats import SKELS_UNIT, read
from rtskel.model import Skeletor
from rtskel.refine import RefinerBank
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training import corrupt
from rtskel.training.corrupt import Poses, runs
from rtskel.training.data import MM_PER_UNIT, Corpus, bandai_bodies, held_out
from rtskel.training.score import aligned, errors, joint_groups, log_mean

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

TEN = tuple(name for name in CONDITIONS if name != "clean")
ESTIMATOR = "estimator"
CLIPS, SHORTEST = 24, 60
"""Clips that `ESTIMATOR` is scored on, and the frames that each must have."""
BODY = len(UPPER_BODY_50.groups["body"])
"""The first joints of the skeleton, which motion capture without hands has."""
MEASURES = ("mse", "mpjpe", "pa_mpjpe", "acceleration")


@dataclass(frozen=True)
class Score:
    """Errors of one condition at one lookahead, over one group of joints, in the units of the sequences.

    Attributes:
        lookahead: in frames; None: offline.
        group: "all", "body", "hands", or those joints of each frame that are "corrupted" or "untouched".
        mse: mean squared error of a coordinate. mpjpe: mean distance of a joint from where it should be. pa_mpjpe: that
            distance once each pose is moved, turned and scaled to fit the truth best. acceleration: mean norm of
            the error's second difference, per frame squared. All pooled over frames.
        sequences: least, average and largest value of a sequence, for each measure.
    """

    condition: str
    lookahead: int | None
    group: str
    mse: float
    mpjpe: float
    pa_mpjpe: float
    acceleration: float
    sequences: Mapping[str, tuple[float, float, float]]


class ModelEngine(Engine):
    """A model in memory as an engine: for validation during training. Computes on the model's device."""

    def __init__(self, model: Skeletor, max_batch: int = 64) -> None:
        header = model_metadata(model)
        super().__init__(EngineInfo.from_metadata("model", "", header), max_batch)
        self._model = model

    def _run(self, x: Array, missing: NDArray[np.bool_], positions: NDArray[np.int64]) -> Array:
        device = next(self._model.parameters()).device
        wanted = None if positions is self._every else torch.tensor(positions, device=device)
        with torch.inference_mode():
            y = self._model(torch.tensor(x, device=device), torch.tensor(missing, device=device), wanted)
        refined: Array = y.contiguous().cpu().numpy()
        return refined


def estimator(body: Array, seed: int) -> tuple[Array, Array]:
    """A body [N, 8, 3] as a live estimator sees it: positions, and confidence [N, 8] (0 where missing).

    Each joint errs by itself, the neck too (`rtskel.training.corrupt.measured_error`). Each wrist is missing in runs
    of 5 to 20 frames for a tenth of the time.
    """
    g = torch.Generator().manual_seed(seed)
    n, joints, _ = body.shape
    like = torch.zeros(1, n, joints, 3)
    drift, jitter = corrupt.measured_error((1, n, joints), g, like)
    missing = torch.zeros(n, joints, dtype=torch.bool)
    for wrist in ("right_wrist", "left_wrist"):
        missing[:, UPPER_BODY_50.names.index(wrist)] = runs(like, 0.1, 5, 20, g, inside=True)[0]
    seen = torch.from_numpy(body) + (drift + jitter)[0] / MM_PER_UNIT
    return seen.masked_fill(missing[..., None], 0.0).numpy(), (~missing).float().numpy()


def corrupted(xyz: Array, condition: str, seed: int) -> tuple[Array, Array]:
    """A sequence [N, J, 3] under a condition: positions (0 where missing) and confidence [N, J] (0 where missing).

    Beyond `CONDITIONS` and `ESTIMATOR`, any kind of `rtskel.training.corrupt.recipe` is a condition.
    """
    return _corrupted(xyz, condition, seed)[:2]


def _corrupted(xyz: Array, condition: str, seed: int) -> tuple[Array, Array, Array]:
    """What `corrupted` returns, and what is to be recovered from it [N, J, 3]: not always the sequence itself."""
    if condition == ESTIMATOR:
        return *estimator(xyz, seed), xyz
    generator = torch.Generator().manual_seed(seed)
    function = CONDITIONS[condition] if condition in CONDITIONS else corrupt.recipe(condition)[1]
    poses = function(Poses.clean(torch.from_numpy(np.ascontiguousarray(xyz))[None]), generator)
    return poses.xyz[0].numpy(), (~poses.missing[0]).float().numpy(), poses.truth[0].numpy()


def kept_out(clips: Iterable[tuple[str, Array]]) -> list[Array]:
    """The clips (name, xyz) that `ESTIMATOR` is scored on: of those kept out of training and long enough, `CLIPS`,
    evenly spread.
    """
    return spread([xyz for name, xyz in clips if held_out(name) and len(xyz) >= SHORTEST], CLIPS)


def spread(items: Sequence[Array], count: int) -> list[Array]:
    """`count` of the items, evenly spread."""
    return [items[k] for k in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]


def refine_all(
    sequences: Sequence[tuple[Array, Array]],
    engine: Engine,
    lookaheads: Sequence[int | None],
    radius: int,
) -> dict[int | None, list[Array]]:
    """Refines sequences (xyz [N, J, 3], confidence [N, J]) in shared engine batches: by lookahead, [N, J, 3] each.

    Sequences may have the engine's first joints only: the others are missing. A lookahead of None is offline.
    """
    longest = max(len(xyz) for xyz, _ in sequences)
    frames = {lookahead: engine.window // 2 + radius if lookahead is None else lookahead for lookahead in lookaheads}
    bank = RefinerBank(
        engine,
        lookahead=sorted(set(frames.values())),
        radius=radius,
        streams=len(sequences),
        ahead=longest + 1,
    )
    for s, (xyz, confidence) in enumerate(sequences):
        absent = engine.joints - xyz.shape[1]
        whole = np.pad(xyz, ((0, 0), (0, absent), (0, 0))), np.pad(confidence, ((0, 0), (0, absent)))
        bank.put(np.full(len(xyz), s), np.arange(len(xyz)), *whole)
        bank.end(s)
    out = {number: [np.zeros_like(xyz) for xyz, _ in sequences] for number in bank.lookaheads}
    while bank.pending:
        done = bank.step()
        for row in range(len(done)):
            place = out[int(done.lookahead[row])][int(done.stream[row])]
            place[int(done.slot[row])] = done.xyz[row, : place.shape[1]]
    return {lookahead: out[number] for lookahead, number in frames.items()}


def evaluate(
    truth: Sequence[Array],
    engine: Engine | None,
    *,
    lookaheads: Sequence[int | None] = (0, 4),
    radius: int = 2,
    conditions: Sequence[str] = tuple(CONDITIONS),
    seed: int = 0,
) -> list[Score]:
    """Scores an engine, or the corrupted input itself where it is None.

    Args:
        truth: clean sequences [N, J, 3], canonical axes, neck at the origin; for `ESTIMATOR` bodies [N, 8, 3] in
            canonical units. Errors are measured from them, or from what a kind of corruption moves them to.
        lookaheads: in frames; None is offline.
        seed: the masks and noise of sequence k are drawn with seed 1000 seed + k.

    Returns:
        A score for each condition, lookahead and group of joints that has any.
    """
    scores = []
    groups = joint_groups(engine.info.skeleton_id if engine else UPPER_BODY_50.id)
    for condition in conditions:
        drawn = [_corrupted(xyz, condition, 1000 * seed + k) for k, xyz in enumerate(truth)]
        sequences, goals = [(seen, confidence) for seen, confidence, _ in drawn], [goal for *_, goal in drawn]
        if engine is None:
            refined = {lookahead: [xyz for xyz, _ in sequences] for lookahead in lookaheads}
        else:
            refined = refine_all(sequences, engine, lookaheads, radius)
        touched = [(seen != goal).any(-1) | (confidence == 0) for seen, confidence, goal in drawn]
        wholly = groups if condition != ESTIMATOR else {"body": groups["body"]}
        scored = next(iter(wholly.values()))  # what poses are aligned by
        for lookahead in lookaheads:
            poses = refined[lookahead]
            fitted = [aligned(p, t, scored) for p, t in zip(poses, goals, strict=True)]
            chosen: list[tuple[str, list[int], list[NDArray[np.bool_]] | None]]
            chosen = [(group, joints, None) for group, joints in wholly.items()]
            if condition != ESTIMATOR:
                chosen += [("corrupted", scored, touched), ("untouched", scored, [~t for t in touched])]
            for group, joints, where in chosen:
                if where is None or any(w[:, joints].any() for w in where):
                    scores.append(Score(condition, lookahead, group, *_measure(poses, fitted, goals, joints, where)))
    return scores


def _measure(
    poses: Sequence[Array],
    fitted: Sequence[Array],
    truth: Sequence[Array],
    joints: Sequence[int],
    where: Sequence[NDArray[np.bool_]] | None,
) -> tuple[float, float, float, float, Mapping[str, tuple[float, float, float]]]:
    """What a `Score` holds of poses, and of the same aligned to the truth."""

    def pooled(over: slice) -> tuple[float, float, float, float]:
        counts = None if where is None else where[over]
        plain = errors(poses[over], truth[over], joints, counts)
        return plain.mse, plain.mpjpe, errors(fitted[over], truth[over], joints, counts).mpjpe, plain.acceleration

    counted = [k for k in range(len(poses)) if where is None or where[k][:, joints].any()]
    rows = np.array([pooled(slice(k, k + 1)) for k in counted])
    table = np.stack([rows.min(0), rows.mean(0), rows.max(0)], -1).tolist()
    return *pooled(slice(None)), {measure: tuple(row) for measure, row in zip(MEASURES, table, strict=True)}


def geometric_mean(scores: Sequence[Score], lookahead: int | None, group: str = "all") -> float:
    """Geometric mean of the MSE over the ten conditions that count."""
    return log_mean([s.mse for s in scores if s.lookahead == lookahead and s.group == group and s.condition in TEN])


def sequences_of(path: str | Path) -> tuple[list[Array], list[Array]]:
    """What a path holds to be scored: whole sequences [N, J, 3] for `CONDITIONS`, bodies [N, 8, 3] for `ESTIMATOR`.

    Both in canonical axes and units (`.skels` as they are: they define the unit).

    Args:
        path: a recording of clean poses; a corpus, of which the dev sequences of PHOENIX14T (of all sources where it
            has none) and the Bandai-Namco clips kept out of training are scored; or the Bandai-Namco file itself.

    Raises:
        FormatError: nothing that can be read, or poses that are not complete.
    """
    path = Path(path)
    if path.is_dir():
        corpus = Corpus(path)
        taken = {
            source: [(s.name, np.array(corpus.xyz[s.first : s.first + s.length])) for s in corpus.select("dev", source)]
            for source in ("phoenix", "bandai")
        }
        whole, bodies = [xyz for _, xyz in taken["phoenix"]], kept_out((n, xyz[:, :BODY]) for n, xyz in taken["bandai"])
        if not whole and not bodies:
            whole = [np.array(corpus.xyz[s.first : s.first + s.length]) for s in corpus.select("dev")]
        if not whole and not bodies:
            raise FormatError(f"{path}: a corpus without dev sequences")
        _check(path, ((f"sequence {k}", xyz, 0) for k, xyz in enumerate([*whole, *bodies])))
        return whole, bodies
    if path.suffix == ".npz" and _is_bandai(path):
        return [], kept_out(bandai_bodies(path))
    recordings = read(path)
    if any(recording.dims == 2 for recording in recordings):
        raise FormatError(f"{path}: poses in two dimensions: errors are measured in three")
    whole = [
        r.canonical() if r.unit == SKELS_UNIT else r.canonical() * np.float32(r.mm_per_unit() / MM_PER_UNIT)
        for r in recordings
    ]
    _check(
        path,
        (
            (r.name, xyz, int(r.missing.sum() + (np.diff(r.slots) - 1).sum() * r.xyz.shape[1]))
            for r, xyz in zip(recordings, whole, strict=True)
        ),
    )
    return whole, []


def _is_bandai(path: Path) -> bool:
    try:
        with np.load(path) as file:
            return {"hips", "position", "length", "clip"} <= set(file.files)
    except (OSError, ValueError):
        return False  # the reader of recordings says what is wrong with it


def _check(path: Path, sequences: Iterable[tuple[str, Array, int]]) -> None:
    """FormatError unless the sequences (name, xyz, missing joints) can be the truth."""
    for name, xyz, missing in sequences:
        if not len(xyz):
            raise FormatError(f"{path}: {name}: no frames")
        if missing or not np.isfinite(xyz).all():
            bad = missing or int((~np.isfinite(xyz)).any(-1).sum())
            raise FormatError(
                f"{path}: {name}: {bad} joints are missing: clean poses are what errors are measured from"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """`rtskel evaluate`: see `--help`."""
    parser = argparse.ArgumentParser(
        prog="rtskel evaluate",
        description="Score an engine under the conditions of the accuracy protocol, through refinement itself.",
    )
    parser.add_argument(
        "recordings",
        nargs="+",
        metavar="RECORDING",
        help="clean poses, such as phoenix14t/dev.skels; a corpus folder; bandai_namco/motion.npz for the condition "
        f"`{ESTIMATOR}`",
    )
    parser.add_argument("--engine", help="an engine file (default: the bundled weights)")
    parser.add_argument(
        "--lookahead", default="0,4", help="lookaheads in frames, or `offline`, with commas between (default 0,4)"
    )
    parser.add_argument("--radius", type=int, default=2, help="2 r + 1 predictions are averaged (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the masks and the noise (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    lookaheads = _lookaheads(args.lookahead)
    whole, bodies = list[Array](), list[Array]()
    for path in args.recordings:
        more, clips = sequences_of(path)
        whole, bodies = whole + more, bodies + clips
    with open_engine(args.engine) as engine:
        if engine.info.skeleton_id != UPPER_BODY_50.id or any(xyz.shape[1] != engine.joints for xyz in whole):
            raise RtskelError(f"{args.engine or engine.info.model_id}: an engine of another skeleton")
        if not 0 <= 2 * args.radius < engine.window:
            raise RtskelError(f"--radius {args.radius}: 0 to {(engine.window - 1) // 2} expected")
        scores, how = list[Score](), {"lookaheads": lookaheads, "radius": args.radius, "seed": args.seed}
        if whole:
            scores += evaluate(whole, engine, **how)
        if bodies:
            scores += evaluate(bodies, engine, conditions=[ESTIMATOR], **how)
        about = {"engine": engine.info.model_id, "recordings": args.recordings, **how}
    if args.json:
        print(json.dumps(about | {"scores": [asdict(score) for score in scores]}))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(
        f"{about['engine']}, radius {args.radius}, seed {args.seed}: {len(whole)} sequences of "
        f"{sum(map(len, whole))} frames, {len(bodies)} clips of {sum(map(len, bodies))}"
    )
    for table in tables(scores):
        console.print(table)
    return 0


def _lookaheads(text: str) -> list[int | None]:
    try:
        lookaheads = [None if part == "offline" else int(part) for part in text.split(",")]
    except ValueError:
        lookaheads = [-1]
    if any(lookahead is not None and lookahead < 0 for lookahead in lookaheads):
        raise RtskelError(f"--lookahead {text!r}: numbers of frames, or offline, with commas between expected")
    return lookaheads


GROUPS = ("all", "body", "hands", "corrupted", "untouched")
UNITS = {"mse": 1e4, "mpjpe": 1e3, "pa_mpjpe": 1e3, "acceleration": 1e3}
TITLES = {
    "mse": "MSE x 1e-4",
    "mpjpe": "MPJPE x 1e-3",
    "pa_mpjpe": "PA-MPJPE x 1e-3",
    "acceleration": "acceleration x 1e-3",
}


def tables(scores: Sequence[Score]) -> list[Table]:
    """A table for each lookahead and measure: groups of joints pooled over frames, then all joints by sequence.

    The mean of the ten conditions is geometric.
    """
    made = []
    for lookahead in dict.fromkeys(s.lookahead for s in scores if s.condition != ESTIMATOR):
        label = "offline" if lookahead is None else f"lookahead {lookahead}"
        for measure in MEASURES:
            table = _table(f"{label}: {TITLES[measure]}, pooled over frames; min, ave, max over sequences (all joints)")
            for name in ("condition", *GROUPS, "min", "ave", "max"):
                table.add_column(name, justify="left" if name == "condition" else "right")
            at = {(s.condition, s.group): s for s in scores if s.lookahead == lookahead}
            values: dict[str, list[float]] = {}
            for condition in CONDITIONS:
                row = [at.get((condition, group)) for group in GROUPS]
                pooled = [math.nan if s is None else float(getattr(s, measure)) for s in row]
                values[condition] = pooled + list(at[condition, "all"].sequences[measure])
                table.add_row(condition, *(_cell(value * UNITS[measure]) for value in values[condition]))
            columns = zip(*(values[condition] for condition in TEN), strict=True)
            table.add_row("mean of ten", *(_cell(log_mean(column) * UNITS[measure]) for column in columns))
            made.append(table)
    if live := [s for s in scores if s.condition == ESTIMATOR]:
        table = _table(f"{ESTIMATOR}: body joints, mm; min, ave, max of the MPJPE over clips")
        for name in ("lookahead", "MPJPE", "PA-MPJPE", "acceleration", "min", "ave", "max"):
            table.add_column(name, justify="right")
        for score in live:
            label = "offline" if score.lookahead is None else str(score.lookahead)
            cells = [score.mpjpe, score.pa_mpjpe, score.acceleration, *score.sequences["mpjpe"]]
            table.add_row(label, *(f"{cell * MM_PER_UNIT:.2f}" for cell in cells))
        made.append(table)
    return made


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
