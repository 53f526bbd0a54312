"""How much better than a filter is a refined pose, at the same look-ahead?

Every peer of `peers.py` is tuned, on train and dev, for each condition, look-ahead and measure separately. What it
learns from motion (means, a covariance, taps) comes from train. SmoothNet (`smoothnet.py`) is trained here on the
windows and corruptions that Skeletor was trained on. The engine is one model for everything.

Scored are PHOENIX14T dev under the conditions, masks and noise of `rtskel evaluate`, the same with every bone made
longer or shorter, and, with the error of a monocular estimator, Bandai-Namco clips that no model was trained on. "Best
of each" is the best peer of each condition; "best single" is the best peer with one setting for all conditions, as a
user of a filter has it.

    python bench/accuracy.py --save accuracy

`--tables` instead trains models for the paper's Tables 1 to 4 and prints those tables (`tables.py`); `--figures` draws
the paper's Figures 3 to 6. Needs the packages of the extras `bench` and `train`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peers
import smoothnet
import tables
import torch
from measure.poses import Example
from measure.report import arguments, bench, names, table
from numpy.typing import NDArray
from peers import PEERS, Body, Peer
from smoothnet import SmoothNetPeer

from rtskel.cli import positive
from rtskel.engine import Engine, open_engine
from rtskel.errors import RtskelError
from rtskel.filters import Lookahead
from rtskel.formats import SKELS_UNIT, Recording, read
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.data import AugmentConfig, BuildConfig, augment_windows, bandai_bodies, build_corpus, held_out
from rtskel.training.evaluate import (
    CLIPS,
    CONDITIONS,
    ESTIMATOR,
    SHORTEST,
    TEN,
    corrupted,
    kept_out,
    refine_all,
    spread,
)
from rtskel.training.score import CANONICAL_MM, errors, joint_groups, log_mean

Array = NDArray[np.float32]

LOOKAHEADS: dict[str, Lookahead] = {"0": 0, "1": 1, "2": 2, "4": 4, "8": 8, "offline": None}
"""Of the engine; peers are measured at those of `COMPARED`."""
COMPARED = ("0", "4", "offline")
RADII = (2, 0)
SEED, TUNING_SEED, FITTING_SEEDS = 0, 1, (2, 3)
"""Seeds of masks and noise: for scores (as in `rtskel evaluate`), for tuning, and for peers that learn."""
JITTERED = AugmentConfig(
    warp=0, reverse=0, exchange=0, negate=0, bone=0, asymmetry=0.05, hands=0, wander=0, still=0, breathe=0, yaw=0,
    pitch=0, roll=0, front_padding=0, tail_padding=0,
)  # fmt: skip
"""Every bone longer or shorter by a standard deviation of 5%, constant in a sequence."""
LEARNT = 120
"""Bandai-Namco clips that peers learn from."""
SYNTHETIC = 200
"""Synthetic clips in a corpus that is built here."""
MEASURES = ("mse", "mpjpe", "acceleration")
TUNED_FOR = ("mse", "mpjpe")
"""Peers are tuned for each of these on PHOENIX14T."""


class Task(NamedTuple):
    """One condition. `sets`: scored examples by name; `network`: path of SmoothNet's weights, "" to leave it out."""

    condition: str
    body: Body
    fitting: list[Example]
    train: list[Example]
    dev: list[Example]
    sets: dict[str, list[Example]]
    joints: list[int]
    lookaheads: list[str]
    network: str = ""


def examples(truth: Sequence[Array], condition: str, seed: int) -> list[Example]:
    """Sequences under a condition; sequence k is corrupted with seed 1000 seed + k."""
    made = []
    for k, xyz in enumerate(truth):
        seen, confidence = corrupted(xyz, condition, 1000 * seed + k)
        made.append(Example(xyz.astype(np.float64), seen.astype(np.float64), confidence == 0))
    return made


def other_bones(truth: Sequence[Array]) -> list[Array]:
    """Sequences with every bone's length changed by about 5%, each with its own body."""
    out = []
    for k, xyz in enumerate(truth):
        windows = torch.from_numpy(xyz.copy())[None]
        out.append(augment_windows(windows, JITTERED, torch.Generator().manual_seed(7000 + k))[0].numpy())
    return out


def tasks(data: Path, conditions: Sequence[str], network: str = "") -> list[Task]:
    """The conditions, with their data."""
    made, tree = [], UPPER_BODY_50
    if set(conditions) - {ESTIMATOR}:
        files = [data / "phoenix14t" / f"{split}.skels" for split in ("train", "dev")]
        train, dev = ([r.canonical() for r in read(path)] for path in files)
        body = Body.learn([x.astype(np.float64) for x in train], tree.parents, tree.order)
        jittered, joints = other_bones(dev), joint_groups(tree.id)["all"]
        for condition in conditions:
            if condition != ESTIMATOR:
                tuning = examples([*train, *dev], condition, TUNING_SEED)
                sets = {"scored": examples(dev, condition, SEED)}
                if condition in TEN:
                    sets["jittered"] = examples(jittered, condition, SEED)
                fitting = [e for seed in FITTING_SEEDS for e in examples(train, condition, seed)]
                halves = tuning[: len(train)], tuning[len(train) :]
                made.append(Task(condition, body, fitting, *halves, sets, joints, list(COMPARED), network))
    if ESTIMATOR in conditions:
        path = data / "bandai_namco" / "motion.npz"
        if not path.exists():
            raise RtskelError(f"{path}: no such file")
        clips = list(bandai_bodies(path))
        kept = kept_out(clips)
        others = spread([x for name, x in clips if not held_out(name) and len(x) >= SHORTEST], CLIPS + LEARNT)
        step = len(others) // CLIPS
        tuned_on, learnt = others[::step][:CLIPS], [x for k, x in enumerate(others) if k % step or k >= CLIPS * step]
        joints = list(tree.groups["body"])
        order = tuple(joint for joint in tree.order if joint in joints)
        body = Body.learn([x.astype(np.float64) for x in learnt], tree.parents[: len(joints)], order)
        fitting = examples(learnt, ESTIMATOR, FITTING_SEEDS[0])
        sets = {"scored": examples(kept, ESTIMATOR, SEED)}
        tuning = examples(tuned_on, ESTIMATOR, TUNING_SEED)
        scored = joint_groups(tree.id)["body"]
        made.append(Task(ESTIMATOR, body, fitting, [], tuning, sets, scored, ["0", "4"], network))
    return made


def tuned(found: dict[str, Any], measures: Sequence[str]) -> int:
    """The setting whose geometric mean of the measures is least on the tuning sequences."""
    at = [MEASURES.index(measure) for measure in measures]
    return int(np.argmin([log_mean([row[k] for k in at]) for row in found["tuned"]]))


def measure_peers(task: Task) -> dict[str, Any]:
    """Errors of every setting of every peer: result[lookahead][peer] has `settings`, and for "tuned" and each scored
    set a list of (MSE, MPJPE, acceleration); for the set "jittered" only of settings that tuning chooses.
    """
    torch.set_num_threads(1)  # every task has its own process
    result: dict[str, Any] = {}
    for label in task.lookaheads:
        result[label] = {}
        peers_: list[Peer] = [kind(task.body) for kind in PEERS]
        for peer in [*peers_, *([SmoothNetPeer(task.body, task.network)] if task.network else [])]:
            peer.fit(task.fitting, LOOKAHEADS[label])
            found: dict[str, Any] = {"settings": peer.settings}
            sets = {"tuned": task.dev if peer.learns else task.train + task.dev, **task.sets}
            for name, chosen in sets.items():
                truth = [e.truth.astype(np.float32) for e in chosen]
                sequences = [(e.xyz, e.missing) for e in chosen]
                wanted = set(range(len(peer.settings)))
                if name == "jittered":
                    wanted = {tuned(found, [measure]) for measure in TUNED_FOR}
                found[name] = [None] * len(peer.settings)
                for k in wanted:
                    out = peer.apply_all(sequences, LOOKAHEADS[label], peer.settings[k])
                    found[name][k] = errors([x.astype(np.float32) for x in out], truth, task.joints)
            result[label][peer.name] = found
    return result


def all_peers(todo: Sequence[Task], jobs: int) -> dict[str, Any]:
    """`measure_peers` of every task, by condition; each task in a process of its own."""
    found = {}
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(todo))) as pool:
        for task, of_task in zip(todo, pool.imap(measure_peers, todo), strict=True):
            found[task.condition] = of_task
            print(f"peers tuned: {task.condition}", file=sys.stderr)
    return found


def measure_engine(todo: Sequence[Task], engine: Engine) -> dict[str, Any]:
    """Errors of the engine: result[condition][set][lookahead][radius] is (MSE, MPJPE, acceleration)."""
    result: dict[str, Any] = {}
    for task in todo:
        result[task.condition] = {}
        for name, chosen in task.sets.items():
            sequences = [(e.xyz.astype(np.float32), (~e.missing).astype(np.float32)) for e in chosen]
            truth = [e.truth.astype(np.float32) for e in chosen]
            labels = LOOKAHEADS if name == "scored" else task.lookaheads
            found: dict[str, Any] = {label: {} for label in labels}
            for radius in RADII if name == "scored" else RADII[:1]:
                refined = refine_all(sequences, engine, [LOOKAHEADS[label] for label in labels], radius)
                for label in labels:
                    found[label][str(radius)] = errors(refined[LOOKAHEADS[label]], truth, task.joints)
            result[task.condition][name] = found
        print(f"engine measured: {task.condition}", file=sys.stderr)
    return result


def compare(measured: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Errors by condition, and ratios to the best peer's, over those of the ten conditions that were measured:
    result[lookahead][measure] has "errors", "ratios" (of radius 2) and the peers' "settings", by row and condition.

    "Best of each" is the best peer of each condition, tuned for it; the peer with one setting is the best over all
    conditions, without those that are fitted to the condition (Wiener).
    """
    ten = [condition for condition in TEN if condition in measured]
    result: dict[str, Any] = {label: {} for label in (COMPARED if ten else ())}
    for label, measure in product(result, TUNED_FOR):
        at = MEASURES.index(measure)
        peers_ = {peer: {c: measured[c][label][peer] for c in ten} for peer in measured[ten[0]][label]}
        chosen = {peer: {c: tuned(of[c], [measure]) for c in ten} for peer, of in peers_.items()}
        scored, jittered = (
            {peer: {c: of[c][name][chosen[peer][c]][at] for c in ten} for peer, of in peers_.items()}
            for name in ("scored", "jittered")
        )
        best, least = ({c: min(row[c] for row in rows.values()) for c in ten} for rows in (scored, jittered))
        singles = {}
        for peer, of in peers_.items():
            if peer != peers.Wiener.name:
                over_all = [[of[c]["tuned"][k][at] for c in ten] for k in range(len(of[ten[0]]["settings"]))]
                k = int(np.argmin([log_mean(row) for row in over_all]))
                singles[peer] = {c: of[c]["scored"][k][at] for c in ten}
        single = min(singles, key=lambda peer: log_mean([*singles[peer].values()]))
        own = {f"ours, radius {r}": {c: ours[c]["scored"][label][str(r)][at] for c in ten} for r in RADII}
        first, shaken = own[f"ours, radius {RADII[0]}"], {c: ours[c]["jittered"][label][str(RADII[0])][at] for c in ten}
        result[label][measure] = {
            "errors": {**scored, "best of each": best, f"one setting: {single}": singles[single], **own},
            "ratios": {
                "ours / best of each": {c: first[c] / best[c] for c in ten},
                "  bones jittered 5%": {c: shaken[c] / least[c] for c in ten},
                "ours / one setting": {c: first[c] / singles[single][c] for c in ten},
            },
            "settings": {peer: {c: of[c]["settings"][chosen[peer][c]] for c in ten} for peer, of in peers_.items()},
        }
    return result


def compare_estimator(measured: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """MPJPE (mm) and acceleration error (mm a frame squared) by look-ahead, and their ratios to the best peer's.

    Peers are tuned for, and compared by, the geometric mean of both errors.
    """
    result, both = {}, ("mpjpe", "acceleration")

    def errors_of(row: Sequence[float]) -> dict[str, float]:
        return {measure: row[MEASURES.index(measure)] * CANONICAL_MM for measure in both}

    for label, by_peer in measured.items():
        rows = {peer: errors_of(found["scored"][tuned(found, both)]) for peer, found in by_peer.items()}
        best = min(rows, key=lambda peer: log_mean([*rows[peer].values()]))
        own = {f"ours, radius {r}": errors_of(ours["scored"][label][str(r)]) for r in RADII}
        ratio = {measure: own[f"ours, radius {RADII[0]}"][measure] / rows[best][measure] for measure in both}
        ratio["mean"] = log_mean([*ratio.values()])
        result[label] = {**rows, **own, f"ours / {best}": ratio}
    return result


def by_lookahead(ours: dict[str, Any]) -> dict[str, Any]:
    """The engine's errors as result[measure][condition][radius][lookahead]: canonical units, for `ESTIMATOR` mm."""
    result: dict[str, Any] = {measure: {} for measure in MEASURES}
    for condition, sets in ours.items():
        for at, measure in enumerate(MEASURES):
            unit = CANONICAL_MM ** (2 if measure == "mse" else 1) if condition == ESTIMATOR else 1.0
            result[measure][condition] = {
                str(radius): {label: row[str(radius)][at] * unit for label, row in sets["scored"].items()}
                for radius in RADII
            }
    return result


SHORT = {
    "frame_mask": "FM", "joint_mask": "JM", "frame_noise_0.1": "FN.1", "frame_noise_0.5": "FN.5",
    "frame_noise_0.9": "FN.9", "joint_noise_0.5": "JN.5", "joint_noise_0.9": "JN.9", "burst_mask": "burst",
    "static_joint_mask": "static", "dense_noise_0.3": "dense",
}  # fmt: skip


def phoenix_lines(result: dict[str, Any]) -> list[str]:
    """The tables of `compare`."""
    lines = []
    for label, measure in product(result, TUNED_FOR):
        entry, unit = result[label][measure], 1e4 if measure == "mse" else 1e3
        scaled = {name: {c: error * unit for c, error in row.items()} for name, row in entry["errors"].items()}
        rows = {
            name: {**{SHORT[c]: value for c, value in row.items()}, "mean": log_mean([*row.values()])}
            for name, row in (scaled | entry["ratios"]).items()
        }
        title = f"lookahead {label}, {measure.upper()} x {1 / unit:.0e}: tuned for each condition"
        lines += [*table(title, rows, ".3g"), ""]
    return lines


def lookahead_lines(result: dict[str, Any]) -> list[str]:
    """The table of `by_lookahead`, for MSE (the condition `ESTIMATOR`: MPJPE) with averaged windows and without."""
    lines = []
    for radius in map(str, RADII):
        rows = {
            condition: {label: error * 1e4 for label, error in of[radius].items()}
            for condition, of in result["mse"].items()
        }
        if ten := [rows[condition] for condition in TEN if condition in rows]:
            rows["mean of ten"] = {label: log_mean([row[label] for row in ten]) for label in LOOKAHEADS}
        if ESTIMATOR in rows:
            rows[ESTIMATOR] = result["mpjpe"][ESTIMATOR][radius]
        lines += [*table(f"by lookahead, radius {radius}: MSE x 1e-04 ({ESTIMATOR}: MPJPE, mm)", rows, ".4g"), ""]
    return lines


def lines(result: dict[str, Any]) -> list[str]:
    """All tables."""
    text = phoenix_lines(result["phoenix"])
    for label, rows in result["estimator"].items():
        text += [*table(f"estimator, lookahead {label}: mm", rows, ".3f"), ""]
    return [*text, *lookahead_lines(result["by_lookahead"]), result["smoothnet"]]


FIGURES = {3: "frame_mask", 4: "joint_mask", 5: "frame_noise_0.9", 6: "joint_noise_0.9"}
"""The paper's figures and the conditions that they show."""


def draw_figures(options: argparse.Namespace) -> dict[str, Any]:
    """Ten frames: original, corrupted, and refined offline, for each of `FIGURES`; gives the files' names."""
    from rtskel.tools.draw import figure  # matplotlib takes seconds to import

    recording = max(read(options.data / "phoenix14t" / "dev.skels"), key=lambda r: r.frames)
    truth, made = recording.canonical(), []
    original = Recording(truth, recording.fps, recording.name, unit=SKELS_UNIT)
    options.figures.mkdir(parents=True, exist_ok=True)
    with open_engine(options.engine) as engine:
        for number, condition in FIGURES.items():
            seen, confidence = corrupted(truth, condition, 1000 * SEED)
            ((refined,),) = refine_all([(seen, confidence)], engine, [None], RADII[0]).values()
            # The ten consecutive frames with the most motion in corrupted frames.
            moving = np.linalg.norm(np.diff(truth, axis=0, prepend=truth[:1]), axis=-1).mean(1)
            shown = np.convolve((seen != truth).any((1, 2)) * moving, np.ones(10), "valid").argmax()
            rows = [original, replace(original, xyz=seen, confidence=confidence)]
            rows.append(replace(original, xyz=refined, confidence=confidence, lookahead=engine.window))
            path = options.figures / f"figure{number}-{condition}.png"
            slots = range(int(shown), int(shown) + 10)
            figure(rows, labels=["original", f"corrupted: {condition}", "refined"], slots=slots).savefig(path)
            made.append(str(path))
    return {"files": made}


def corpus(data: Path, folder: str) -> Path:
    """A corpus to train on."""
    built = Path(folder) / "corpus"
    print(f"building a corpus with {SYNTHETIC} synthetic clips", file=sys.stderr)
    build_corpus(data, built, BuildConfig(synthetic=SYNTHETIC))
    return built


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the peers and the engine."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        network = f"{folder}/smoothnet.safetensors"
        trained = smoothnet.train(network, corpus(options.data, folder))
        print(trained, file=sys.stderr)
        todo = tasks(options.data, options.conditions, network)
        measured = all_peers(todo, options.jobs)
    peers_seconds = time.monotonic() - start
    with open_engine(options.engine) as engine:
        model, ours = engine.info.model_id, measure_engine(todo, engine)
    return {
        "engine": model,
        "phoenix": compare(measured, ours),
        "estimator": compare_estimator(measured[ESTIMATOR], ours[ESTIMATOR]) if ESTIMATOR in measured else {},
        "by_lookahead": by_lookahead(ours),
        "smoothnet": trained,
        "seconds": {"peers": peers_seconds, "all": time.monotonic() - start},
    }


def train_for_tables(options: argparse.Namespace) -> dict[str, Any]:
    """The models of `--tables`, trained and scored."""
    recording = options.data / "phoenix14t" / "dev.skels"
    read(recording)  # reports errors before anything is trained
    with tempfile.TemporaryDirectory() as folder:
        return tables.run(options.tables, recording, corpus(options.data, folder), options.jobs)


def main() -> int:
    """Command line."""
    parser = arguments(__doc__, data=True)
    parser.add_argument("--engine", help="an engine file (default: the bundled weights)")
    known = [*CONDITIONS, ESTIMATOR]
    parser.add_argument("--conditions", type=names(known), default=known, help="with commas between")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="processes that tune or train")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="draw the paper's Figures 3 to 6 instead")
    words = (
        f"train models and print these tables instead, with commas between: {', '.join(tables.TABLES)} (no value: all)"
    )
    parser.add_argument("--tables", type=names(tables.TABLES), nargs="?", const=[*tables.TABLES], help=words)
    options = parser.parse_args()
    if options.figures:
        return bench("figures", options, draw_figures, lambda result: result["files"])
    if options.tables:
        return bench("tables", options, train_for_tables, tables.lines)
    return bench("accuracy", options, run, lines)


if __name__ == "__main__":
    raise SystemExit(main())
