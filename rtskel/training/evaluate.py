"""How well an engine refines: the conditions of the accuracy protocol, measured through the refiner itself.

Whole sequences are corrupted with fixed seeds, so that every engine sees the same input. All joints but the neck are
scored in the units of the recordings: pooled over the frames of all sequences, and as the smallest, average and largest
value of a sequence, as in the paper's tables. A look-ahead of L never uses a frame after i + L: the refiner's law.

`CONDITIONS` are for whole skeletons. The condition `ESTIMATOR` is for motion-capture bodies that no model was trained
on (`kept_out`), whose true positions are known.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import ArgumentParser
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
from rtskel.formats import SKELS_UNIT, Recording, read
from rtskel.model import Skeletor
from rtskel.refine import RefinerBank
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training import corrupt
from rtskel.training.corrupt import Poses, runs
from rtskel.training.data import BODY, Corpus, bandai_bodies, held_out, in_canonical_units
from rtskel.training.score import CANONICAL_MM, aligned, errors, joint_groups, log_mean

Array = NDArray[np.float32]
Condition = Callable[[Poses, torch.Generator], Poses]

SHARE = 0.15
"""Share of the frames or joints that a condition masks or moves."""

CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        **{kind: corrupt.recipe(f"{kind}@{SHARE}")[1] for kind in ("frame_mask", "joint_mask")},
        **{f"frame_noise_{s}": corrupt.recipe(f"frame_noise@{SHARE},{s}")[1] for s in (0.1, 0.5, 0.9)},
        **{f"joint_noise_{s}": corrupt.recipe(f"joint_noise@{SHARE},{s}")[1] for s in (0.5, 0.9)},
        "burst_mask": lambda x, g: corrupt.burst_mask(x, SHARE, g, inside=True),
        "static_joint_mask": corrupt.recipe(f"static_joint_mask@{SHARE}")[1],
        "dense_noise_0.3": lambda x, g: corrupt.dense_noise(x, 0.3, g),
        "clean": lambda x, g: x,
    }
)
"""The ten conditions of the protocol, and `clean`, whose input should be returned unchanged."""

TEN = tuple(name for name in CONDITIONS if name != "clean")
ESTIMATOR = "estimator"
CLIPS, SHORTEST = 24, 60
"""Clips that `ESTIMATOR` is scored on, and the least number of frames of each."""
MEASURES = ("mse", "mpjpe", "pa_mpjpe", "acceleration")


@dataclass(frozen=True)
class Score:
    """Errors of one condition at one lookahead, over one group of joints, in the units of the sequences.

    Attributes:
        lookahead: in frames; None: offline.
        group: "all", "body", "hands", or the joints of each frame that are "corrupted" or "untouched".
        mse, mpjpe, acceleration: see `rtskel.training.score.Errors`; pooled over frames.
        pa_mpjpe: MPJPE after each pose is moved, turned and scaled to fit the truth best.
        sequences: smallest, average and largest value of a sequence, for each measure.
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
    """A model in memory as an engine, for validation during training. Computes on the model's device."""

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

    Joints err independently, the neck too (`rtskel.training.corrupt.measured_error`). Each wrist is missing in runs of
    5 to 20 frames for a tenth of the time.
    """
    g = torch.Generator().manual_seed(seed)
    n, joints, _ = body.shape
    like = torch.zeros(1, n, joints, 3)
    drift, jitter = corrupt.measured_error((1, n, joints), g, like)
    missing = torch.zeros(n, joints, dtype=torch.bool)
    for wrist, _ in reversed(UPPER_BODY_50.hands):
        missing[:, wrist] = runs(like, 0.1, 5, 20, g, inside=True)[0]
    seen = torch.from_numpy(body) + (drift + jitter)[0] / CANONICAL_MM
    return seen.masked_fill(missing[..., None], 0.0).numpy(), (~missing).float().numpy()


def corrupted(xyz: Array, condition: str, seed: int) -> tuple[Array, Array]:
    """A sequence [N, J, 3] under a condition: positions (0 where missing) and confidence [N, J] (0 where missing).

    Beyond `CONDITIONS` and `ESTIMATOR`, any kind of `rtskel.training.corrupt.recipe` is a condition.
    """
    return _corrupted(xyz, condition, seed)[:2]


def _corrupted(xyz: Array, condition: str, seed: int) -> tuple[Array, Array, Array]:
    """What `corrupted` returns, and what should be recovered [N, J, 3], which is not always the sequence itself."""
    if condition == ESTIMATOR:
        return *estimator(xyz, seed), xyz
    generator = torch.Generator().manual_seed(seed)
    function = CONDITIONS[condition] if condition in CONDITIONS else corrupt.recipe(condition)[1]
    poses = function(Poses.clean(torch.from_numpy(np.ascontiguousarray(xyz))[None]), generator)
    return poses.xyz[0].numpy(), (~poses.missing[0]).float().numpy(), poses.truth[0].numpy()


def kept_out(clips: Iterable[tuple[str, Array]]) -> list[Array]:
    """The clips (name, xyz) that `ESTIMATOR` is scored on: `CLIPS` of those kept out of training, evenly spread."""
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

    Sequences may have only the engine's first joints: the others are missing. A look-ahead of None is offline.
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
    truth: Sequence[Array | Recording],
    engine: Engine | None,
    *,
    lookaheads: Sequence[int | None] = (0, 4),
    radius: int = 2,
    conditions: Sequence[str] = tuple(CONDITIONS),
    seed: int = 0,
) -> list[Score]:
    """Scores an engine, or the corrupted input itself if the engine is None.

    Args:
        truth: clean recordings, or sequences [N, J, 3] in canonical axes and units, neck at the origin; for `ESTIMATOR`
            bodies [N, 8, 3] in canonical units. Errors are measured from them, or from the truth that a kind of
            corruption defines.
        lookaheads: in frames; None is offline.
        seed: masks and noise of sequence k are drawn with seed 1000 seed + k.

    Returns:
        A score for each condition, lookahead and group of joints that has any.
    """
    clean = [canonical(sequence) if isinstance(sequence, Recording) else sequence for sequence in truth]
    scores = []
    groups = joint_groups(engine.info.skeleton_id if engine else UPPER_BODY_50.id)
    for condition in conditions:
        drawn = [_corrupted(xyz, condition, 1000 * seed + k) for k, xyz in enumerate(clean)]
        sequences, goals = [(seen, confidence) for seen, confidence, _ in drawn], [goal for *_, goal in drawn]
        if engine is None:
            refined = {lookahead: [xyz for xyz, _ in sequences] for lookahead in lookaheads}
        else:
            refined = refine_all(sequences, engine, lookaheads, radius)
        touched = [(seen != goal).any(-1) | (confidence == 0) for seen, confidence, goal in drawn]
        wholly = groups if condition != ESTIMATOR else {"body": groups["body"]}
        scored = next(iter(wholly.values()))  # the joints that poses are aligned by
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
    """The measures of a `Score`, from poses and from the same poses aligned to the truth."""

    def pooled(over: slice) -> tuple[float, float, float, float]:
        counts = None if where is None else where[over]
        plain = errors(poses[over], truth[over], joints, counts)
        return plain.mse, plain.mpjpe, errors(fitted[over], truth[over], joints, counts).mpjpe, plain.acceleration

    counted = [k for k in range(len(poses)) if where is None or where[k][:, joints].any()]
    rows = np.array([pooled(slice(k, k + 1)) for k in counted])
    table = np.stack([rows.min(0), rows.mean(0), rows.max(0)], -1).tolist()
    return *pooled(slice(None)), {measure: tuple(row) for measure, row in zip(MEASURES, table, strict=True)}


def geometric_mean(scores: Sequence[Score], lookahead: int | None) -> float:
    """Geometric mean of the MSE of all joints over the ten conditions."""
    return log_mean([s.mse for s in scores if s.lookahead == lookahead and s.group == "all" and s.condition in TEN])


def sequences_of(path: str | Path) -> tuple[list[Array], list[Array]]:
    """The sequences to score: whole [N, J, 3] for `CONDITIONS`, and bodies [N, 8, 3] for `ESTIMATOR`.

    Both in canonical axes and units (`.skels` as they are: they define the unit).

    Args:
        path: a recording of clean poses; a corpus, of which the dev sequences of PHOENIX14T (if it has none: of all
            sources) and the Bandai-Namco clips kept out of training are scored; or the Bandai-Namco file itself.

    Raises:
        FormatError: the path cannot be read, or poses are incomplete.
    """
    path = Path(path)
    if path.is_dir():
        corpus = Corpus(path)
        whole = [corpus.frames(s) for s in corpus.select("dev", "phoenix")]
        bodies = kept_out((s.name, corpus.frames(s)[:, BODY]) for s in corpus.select("dev", "bandai"))
        if not whole and not bodies:
            whole = [corpus.frames(s) for s in corpus.select("dev")]
        if not whole and not bodies:
            raise FormatError(f"{path}: a corpus without dev sequences")
        _check(path, ((f"sequence {k}", xyz, 0) for k, xyz in enumerate([*whole, *bodies])))
        return whole, bodies
    if path.suffix == ".npz" and _is_bandai(path):
        return [], kept_out(bandai_bodies(path))
    recordings = read(path)
    if any(recording.dims == 2 for recording in recordings):
        raise FormatError(f"{path}: poses in two dimensions: errors are measured in three")
    whole = [canonical(recording) for recording in recordings]
    missing = [int(r.missing.sum() + (np.diff(r.slots) - 1).sum() * r.xyz.shape[1]) for r in recordings]
    _check(path, zip((r.name for r in recordings), whole, missing, strict=True))
    return whole, []


def canonical(recording: Recording) -> Array:
    """A recording's positions [N, J, 3] in canonical axes and units.

    Raises:
        FormatError: the recording is 2D, or shows no shoulders from which to tell its unit.
    """
    if recording.dims == 2:
        raise FormatError(f"recording {recording.name!r} is 2D: errors are measured in 3D")
    return recording.canonical() if recording.unit == SKELS_UNIT else in_canonical_units(recording)


def _is_bandai(path: Path) -> bool:
    try:
        with np.load(path) as file:
            return {"hips", "position", "length", "clip"} <= set(file.files)
    except (OSError, ValueError):
        return False  # the reader of recordings reports what is wrong with it


def _check(path: Path, sequences: Iterable[tuple[str, Array, int]]) -> None:
    """FormatError unless the sequences (name, xyz, number of missing joints) can serve as the truth."""
    for name, xyz, missing in sequences:
        if not len(xyz):
            raise FormatError(f"{path}: {name}: no frames")
        if missing or not np.isfinite(xyz).all():
            bad = missing or int((~np.isfinite(xyz)).any(-1).sum())
            raise FormatError(f"{path}: {name}: {bad} joints are missing: errors are measured from clean poses")


def main(argv: Sequence[str] | None = None, parser_class: type[ArgumentParser] = ArgumentParser) -> int:
    """`rtskel evaluate`: see `--help`."""
    parser = parser_class(
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
    parser.add_argument("--seed", type=int, default=0, help="seed of masks and noise (default 0)")
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
    """A table for each look-ahead and measure: groups of joints pooled over frames, then all joints by sequence.

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
            table.add_row(label, *(f"{cell * CANONICAL_MM:.2f}" for cell in cells))
        made.append(table)
    return made


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
