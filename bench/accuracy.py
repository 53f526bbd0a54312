"""How much better than a filter is a refined pose, at the same lookahead?

Every peer of `peers.py` is tuned, on train and dev, for each condition, lookahead and measure by itself: it knows
what is coming. What it learns from motion (means, a covariance, taps) it learns from train. SmoothNet (`smoothnet.py`)
is trained here on the windows and corruptions that Skeletor learned from. The engine is one model for everything.
Scored on PHOENIX14T dev under the conditions, masks and noise of `rtskel evaluate`, and there once more with every bone
made longer or shorter; and, as a monocular estimator errs, on Bandai-Namco clips that no model was trained on. "Best of
each" is the best peer of each condition; "best single" is the best peer with one setting for all conditions, which is
what a user of a filter has.

    python bench/accuracy.py --data ../shared/data --save accuracy

`--tables` trains models as the paper's Tables 1 to 4 want them and prints those tables instead (`tables.py`),
`--figures` draws the paper's Figures 3 to 6.

Needs the packages of the extra `bench` and that of `train`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peers
import smoothnet
import tables
import torch
from harness import arguments, report
from numpy.typing import NDArray
from peers import PEERS, Body, Example, Lookahead, Peer
from smoothnet import SmoothNetPeer

from rtskel.cli import positive
from rtskel.engine import Engine, open_engine
from rtskel.errors import RtskelError
from rtskel.formats import SKELS_UNIT, Recording, read
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.data import (
    MM_PER_UNIT,
    AugmentConfig,
    BuildConfig,
    augment_windows,
    bandai_bodies,
    build_corpus,
    held_out,
)
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
)  # fmt: skip
from rtskel.training.score import errors, joint_groups, log_mean

Array = NDArray[np.float32]

LOOKAHEADS: dict[str, Lookahead] = {"0": 0, "1": 1, "2": 2, "4": 4, "8": 8, "offline": None}
"""That the engine is measured at; peers at those of `COMPARED`."""
COMPARED = ("0", "4", "offline")
RADII = (2, 0)
SEED, TUNING_SEED, FITTING_SEEDS = 0, 1, (2, 3)
"""Of the masks and noise: scored (as in `rtskel evaluate`), tuned on, and learnt from by peers that learn."""
JITTERED = AugmentConfig(
    warp=0, reverse=0, exchange=0, negate=0, bone=0, asymmetry=0.05, hands=0, wander=0, still=0, breathe=0, yaw=0,
    pitch=0, roll=0, front_padding=0, tail_padding=0,
)  # fmt: skip
"""Every bone 5% (a standard deviation) longer or shorter, the same throughout a sequence."""
LEARNT = 120
"""Bandai-Namco clips that peers learn from; they are tuned on as many as are scored."""
SYNTHETIC = 200
"""Synthetic clips in a corpus that is built here."""
MEASURES = ("mse", "mpjpe", "acceleration")
TUNED_FOR = ("mse", "mpjpe")
"""Peers are tuned for each of these on PHOENIX14T (and scored in it)."""


class Task(NamedTuple):
    """What the peers are measured on: one condition. `sets` maps names of scored sets to their examples.

    network: path of SmoothNet's weights, "" to leave it out.
    """

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
    """Sequences under a condition; sequence k is drawn with seed 1000 seed + k."""
    made = []
    for k, xyz in enumerate(truth):
        seen, confidence = corrupted(xyz, condition, 1000 * seed + k)
        made.append(Example(xyz.astype(np.float64), seen.astype(np.float64), confidence == 0))
    return made


def other_bones(truth: Sequence[Array]) -> list[Array]:
    """Sequences with every bone's length changed by about 5%, each sequence with a body of its own."""
    out = []
    for k, xyz in enumerate(truth):
        windows = torch.from_numpy(xyz.copy())[None]
        out.append(augment_windows(windows, JITTERED, torch.Generator().manual_seed(7000 + k))[0].numpy())
    return out


def tasks(data: Path, conditions: Sequence[str], network: str = "") -> list[Task]:
    """The conditions, with their data."""
    made = []
    tree = UPPER_BODY_50
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
        made.append(
            Task(ESTIMATOR, body, fitting, [], tuning, sets, joint_groups(tree.id)["body"], ["0", "4"], network)
        )
    return made


def tuned(found: dict[str, Any], measures: Sequence[str]) -> int:
    """The setting whose geometric mean of the measures is least on the tuning sequences."""
    at = [MEASURES.index(measure) for measure in measures]
    return int(np.argmin([log_mean([row[k] for k in at]) for row in found["tuned"]]))


def contestants(task: Task) -> list[Peer]:
    """The peers of a task."""
    classical: list[Peer] = [kind(task.body) for kind in PEERS]
    return [*classical, SmoothNetPeer(task.body, task.network)] if task.network else classical


def measure_peers(task: Task) -> dict[str, Any]:
    """Errors of every setting of every peer: result[lookahead][peer] has `settings`, and a list of (MSE, MPJPE,
    acceleration) for "tuned" and for each scored set; of the jittered one only for settings that tuning chooses.
    """
    torch.set_num_threads(1)  # every task has a process of its own
    result: dict[str, Any] = {}
    for label in task.lookaheads:
        result[label] = {}
        for peer in contestants(task):
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


def fingerprint(task: Task) -> str:
    """Changes when the data, the corruptions or the peers do."""
    sources: list[Any] = [peers, measure_peers, *([SmoothNetPeer] if task.network else [])]
    digest = hashlib.sha256("".join(map(inspect.getsource, sources)).encode())
    digest.update(repr((task.condition, task.joints, task.lookaheads)).encode())
    digest.update(Path(task.network).read_bytes() if task.network else b"")
    for example in (*task.fitting, *task.train, *task.dev, *(e for s in task.sets.values() for e in s)):
        for array in example:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def all_peers(todo: Sequence[Task], cache: Path | None, jobs: int) -> dict[str, Any]:
    """`measure_peers` of every task, or what the cache has of it; the cache is brought up to date."""
    known: dict[str, Any] = {}
    if cache is not None and cache.exists():
        try:
            known = json.loads(cache.read_text())
        except ValueError:
            raise RtskelError(f"{cache}: not a cache of this bench") from None
    keys = {task.condition: fingerprint(task) for task in todo}
    missing = [task for task in todo if keys[task.condition] not in known]
    if missing:
        with multiprocessing.get_context("spawn").Pool(min(jobs, len(missing))) as pool:
            for task, found in zip(missing, pool.imap(measure_peers, missing), strict=True):
                known[keys[task.condition]] = json.loads(json.dumps(found))  # tuples become lists, as in the cache
                print(f"peers tuned: {task.condition}", file=sys.stderr)
                if cache is not None:
                    cache.write_text(json.dumps(known))
    return {condition: known[key] for condition, key in keys.items()}


class Remembering(Engine):
    """An engine that does not compute the same window twice: windows are averaged with two radii here.

    Does not close the engine it asks.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.info, engine.max_batch)
        self._engine = engine
        self._known: dict[bytes, Array] = {}

    def forget(self) -> None:
        """Forget all windows."""
        self._known.clear()

    def _run(self, x: Array, missing: NDArray[np.bool_], positions: NDArray[np.int64] | None = None) -> Array:
        keys = [hashlib.sha256(w.tobytes() + m.tobytes()).digest() for w, m in zip(x, missing, strict=True)]
        new = [k for k, key in enumerate(keys) if key not in self._known]
        if new:
            for k, y in zip(new, self._engine.run(x[new], missing[new]), strict=True):
                self._known[keys[k]] = y.copy()
        refined = np.stack([self._known[key] for key in keys])
        return refined if positions is None else np.take(refined, positions, axis=1)


def measure_engine(todo: Sequence[Task], engine: Engine) -> dict[str, Any]:
    """Errors of the engine: result[condition][set][lookahead][radius] is (MSE, MPJPE, acceleration)."""
    asked, result = Remembering(engine), dict[str, Any]()
    for task in todo:
        result[task.condition] = {}
        for name, chosen in task.sets.items():
            sequences = [(e.xyz.astype(np.float32), (~e.missing).astype(np.float32)) for e in chosen]
            truth = [e.truth.astype(np.float32) for e in chosen]
            labels = LOOKAHEADS if name == "scored" else task.lookaheads
            found: dict[str, Any] = {label: {} for label in labels}
            for radius in RADII if name == "scored" else RADII[:1]:
                refined = refine_all(sequences, asked, [LOOKAHEADS[label] for label in labels], radius)
                for label in labels:
                    found[label][str(radius)] = errors(refined[LOOKAHEADS[label]], truth, task.joints)
            result[task.condition][name] = found
            asked.forget()
        print(f"engine measured: {task.condition}", file=sys.stderr)
    return result


def peer_table(measured: dict[str, Any], measure: str, label: str, name: str = "scored") -> dict[str, Any]:
    """Of each condition: every peer's error, tuned for it by that measure, with its setting, and the best peer."""
    at, table = MEASURES.index(measure), {}
    for condition, by_lookahead in measured.items():
        row = {}
        for peer, found in by_lookahead[label].items():
            k = tuned(found, [measure])
            row[peer] = {"error": found[name][k][at], "setting": found["settings"][k]}
        table[condition] = {"peers": row, "best": min(row, key=lambda peer: row[peer]["error"])}
    return table


def best_single(measured: dict[str, Any], measure: str, label: str) -> dict[str, Any]:
    """The peer that is best with one setting for all conditions: setting chosen and peer compared by geometric mean.

    Peers that are fitted to the condition (Wiener) have no such setting.
    """
    at, found = MEASURES.index(measure), {}
    for peer in next(iter(measured.values()))[label]:
        if peer == peers.Wiener.name:
            continue
        rows = [measured[condition][label][peer] for condition in measured]
        means = [log_mean([row["tuned"][k][at] for row in rows]) for k in range(len(rows[0]["settings"]))]
        k = int(np.argmin(means))
        scored = {condition: measured[condition][label][peer]["scored"][k][at] for condition in measured}
        found[peer] = {"setting": rows[0]["settings"][k], "errors": scored, "mean": log_mean(list(scored.values()))}
    best = min(found, key=lambda peer: float(found[peer]["mean"]))
    return {"best": best, "peers": found}


def compare(measured: dict[str, Any], ours: dict[str, Any] | None) -> dict[str, Any]:
    """Tables and ratios over the ten conditions (those of them that were measured): result[lookahead][measure]."""
    ten = {condition: measured[condition] for condition in TEN if condition in measured}
    result: dict[str, Any] = {}
    for label in COMPARED if ten else ():
        result[label] = {}
        for measure in TUNED_FOR:
            at = MEASURES.index(measure)
            table, single = peer_table(ten, measure, label), best_single(ten, measure, label)
            best = {condition: row["peers"][row["best"]]["error"] for condition, row in table.items()}
            entry: dict[str, Any] = {"table": table, "single": single, "best_mean": log_mean(list(best.values()))}
            entry["single_to_best"] = single["peers"][single["best"]]["mean"] / entry["best_mean"]
            if ours:
                own = {c: {r: ours[c]["scored"][label][r][at] for r in map(str, RADII)} for c in ten}
                ratio = {c: own[c]["2"] / best[c] for c in ten}
                other = peer_table(ten, measure, label, "jittered")
                jitter = {
                    c: ours[c]["jittered"][label]["2"][at] / row["peers"][row["best"]]["error"]
                    for c, row in other.items()
                }
                entry |= {
                    "ours": own,
                    "ratio": ratio,
                    "ratio_mean": log_mean(list(ratio.values())),
                    "ratio_worst": max(ratio.values()),
                    "ratio_to_single": log_mean([o["2"] for o in own.values()])
                    / single["peers"][single["best"]]["mean"],
                    "jittered_ratio": jitter,
                    "jittered_ratio_mean": log_mean(list(jitter.values())),
                    "radius_2_over_0": {c: o["2"] / o["0"] for c, o in own.items()},
                }
            result[label][measure] = entry
    return result


def compare_estimator(measured: dict[str, Any], ours: dict[str, Any] | None) -> dict[str, Any]:
    """MPJPE (mm) and acceleration error (mm a frame squared), in two comparisons: result[lookahead].

    `together`: peers tuned for, and compared by, the geometric mean of both errors. `apart`: each error against the
    peer that is best in it, tuned for it alone; such a filter may be useless in the other (one that never moves
    hardly accelerates).
    """
    result: dict[str, Any] = {}
    for label, by_peer in measured.items():
        rows: dict[str, Any] = {}
        for peer, found in by_peer.items():
            rows[peer] = {}
            for criterion in (("mpjpe",), ("acceleration",), ("mpjpe", "acceleration")):
                k = tuned(found, criterion)
                off, bend = (found["scored"][k][MEASURES.index(m)] * MM_PER_UNIT for m in ("mpjpe", "acceleration"))
                row = {"mpjpe_mm": off, "acceleration_mm": bend, "setting": found["settings"][k]}
                rows[peer]["+".join(criterion)] = row
        both = "mpjpe+acceleration"
        best = min(rows, key=lambda p: rows[p][both]["mpjpe_mm"] * rows[p][both]["acceleration_mm"])
        apart = [min(row[m][f"{m}_mm"] for row in rows.values()) for m in ("mpjpe", "acceleration")]
        entry: dict[str, Any] = {"peers": rows, "best": best, "best_apart_mm": apart}
        if ours:
            own = {r: [e * MM_PER_UNIT for e in ours["scored"][label][r][1:]] for r in map(str, RADII)}
            together = [own["2"][0] / rows[best][both]["mpjpe_mm"], own["2"][1] / rows[best][both]["acceleration_mm"]]
            entry |= {"ours_mm": own, "together": together, "together_mean": log_mean(together)}
            entry |= {"apart": [o / a for o, a in zip(own["2"], apart, strict=True)]}
            entry |= {"apart_mean": log_mean(entry["apart"])}
        result[label] = entry
    return result


def by_lookahead(ours: dict[str, Any]) -> dict[str, Any]:
    """The engine's errors as result[measure][condition][radius][lookahead]: canonical units, for `ESTIMATOR` mm."""
    result: dict[str, Any] = {measure: {} for measure in MEASURES}
    for condition, sets in ours.items():
        for at, measure in enumerate(MEASURES):
            unit = MM_PER_UNIT ** (2 if measure == "mse" else 1) if condition == ESTIMATOR else 1.0
            result[measure][condition] = {
                str(radius): {label: row[str(radius)][at] * unit for label, row in sets["scored"].items()}
                for radius in RADII
            }
    return result


def worst(ratios: dict[str, float]) -> tuple[float, str]:
    """The largest ratio and its name."""
    name = max(ratios, key=ratios.__getitem__)
    return ratios[name], name


def averaging(table: dict[str, Any]) -> dict[str, float]:
    """Errors with windows averaged over those without, by "condition at lookahead", of a measure of `by_lookahead`."""
    return {
        f"{condition} at {label}": error / rows["0"][label]
        for condition, rows in table.items()
        if condition != "clean"
        for label, error in rows["2"].items()
    }


def growth(table: dict[str, Any], radius: str = "2") -> dict[str, float]:
    """Errors over those with the next shorter lookahead, by "condition, from to", of a measure of `by_lookahead`."""
    return {
        f"{condition}, {a} to {b}": rows[radius][b] / rows[radius][a]
        for condition, rows in table.items()
        if condition != "clean"
        for a, b in itertools.pairwise(rows[radius])
    }


SHORT = {
    "frame_mask": "FM", "joint_mask": "JM", "frame_noise_0.1": "FN.1", "frame_noise_0.5": "FN.5",
    "frame_noise_0.9": "FN.9", "joint_noise_0.5": "JN.5", "joint_noise_0.9": "JN.9", "burst_mask": "burst",
    "static_joint_mask": "static", "dense_noise_0.3": "dense",
}  # fmt: skip


def phoenix_lines(result: dict[str, Any]) -> list[str]:
    """The tables of `compare`."""
    lines = []
    for label, measures in result.items():
        for measure, entry in measures.items():
            unit = 1e4 if measure == "mse" else 1e3
            table, conditions = entry["table"], list(entry["table"])

            def line(name: str, values: Sequence[float], scale: float = unit, total: float | None = None) -> str:
                cells = [*values, log_mean(values) if total is None else total]
                return f"{name:22}" + "".join(f"{value * scale:8.3g}" for value in cells)

            lines.append(f"lookahead {label}, {measure.upper()} x {1 / unit:.0e}: tuned for each condition")
            lines.append(f"{'':22}" + "".join(f"{SHORT[c]:>8}" for c in conditions) + f"{'mean':>8}")
            rows = {p: [table[c]["peers"][p]["error"] for c in conditions] for p in table[conditions[0]]["peers"]}
            lines += [line(peer, row) for peer, row in rows.items()]
            lines.append(line("best of each", [table[c]["peers"][table[c]["best"]]["error"] for c in conditions]))
            single = entry["single"]
            chosen = single["peers"][single["best"]]
            lines.append(line(f"one: {single['best']}", list(chosen["errors"].values())))
            means = [f"{peer} {row['mean'] * unit:.3g}" for peer, row in single["peers"].items()]
            lines.append(f"one setting for all conditions, mean: {', '.join(means)}")
            if "ours" in entry:
                lines.append(line("ours", [o["2"] for o in entry["ours"].values()]))
                lines.append(line("ours, radius 0", [o["0"] for o in entry["ours"].values()]))
                lines.append(line("ours / best of each", list(entry["ratio"].values()), 1.0))
                lines.append(line("  bones jittered 5%", list(entry["jittered_ratio"].values()), 1.0))
                lines.append(line("  radius 2 / radius 0", list(entry["radius_2_over_0"].values()), 1.0))
                lines.append(f"{'ours / one setting':22}{'':{8 * len(conditions)}}{entry['ratio_to_single']:8.3g}")
            lines.append("")
    return lines


def estimator_lines(result: dict[str, Any]) -> list[str]:
    """The tables of `compare_estimator`."""
    lines = []
    for label, entry in result.items():
        lines.append(f"estimator, lookahead {label}: MPJPE and acceleration, mm; tuned for both, MPJPE, acceleration")
        for peer, rows in entry["peers"].items():
            cells = [rows[key] for key in ("mpjpe+acceleration", "mpjpe", "acceleration")]
            lines.append(f"{peer:22}" + "".join(f"{c['mpjpe_mm']:10.2f} {c['acceleration_mm']:8.2f}" for c in cells))
        if "ours_mm" in entry:
            lines += [f"{f'ours, radius {r}':22}{a:10.2f} {b:8.2f}" for r, (a, b) in entry["ours_mm"].items()]
            for kind, against in (("together", entry["best"]), ("apart", "the best in each")):
                a, b = entry[kind]
                lines.append(f"ours / {against}: {a:.3f}, {b:.3f}, geometric mean {entry[f'{kind}_mean']:.3f}")
        lines.append("")
    return lines


def lookahead_lines(result: dict[str, Any]) -> list[str]:
    """The table of `by_lookahead`, for MSE (the condition `ESTIMATOR`: MPJPE) with windows averaged and without."""
    lines = []
    for radius in map(str, RADII):
        lines.append(f"by lookahead, radius {radius}: MSE x 1e-04 ({ESTIMATOR}: MPJPE, mm)")
        lines.append(f"{'':22}" + "".join(f"{label:>9}" for label in LOOKAHEADS))
        for condition in result["mse"]:
            live = condition == ESTIMATOR
            row = result["mpjpe" if live else "mse"][condition][radius]
            lines.append(f"{condition:22}" + "".join(f"{row[k] * (1 if live else 1e4):9.4g}" for k in LOOKAHEADS))
        ten = [result["mse"][condition][radius] for condition in TEN if condition in result["mse"]]
        if ten:
            means = [log_mean([row[label] for row in ten]) * 1e4 for label in LOOKAHEADS]
            lines.append(f"{'mean of ten':22}" + "".join(f"{value:9.4g}" for value in means))
        lines.append("")
    return lines


def summary_lines(result: dict[str, Any]) -> list[str]:
    """What the project promises, in a few lines."""
    lines = []
    for label, measures in result["phoenix"].items():
        for measure, entry in measures.items():
            if "ratio_mean" in entry:
                where = worst(entry["ratio"])[1]
                lines.append(
                    f"lookahead {label:7} {measure:5}: ours / best of each {entry['ratio_mean']:.3f} (worst {where} "
                    f"{entry['ratio_worst']:.2f}), bones jittered {entry['jittered_ratio_mean']:.3f}, "
                    f"/ best single {entry['ratio_to_single']:.3f}"
                )
    for measure in TUNED_FOR if result["by_lookahead"] else ():
        table = result["by_lookahead"][measure]
        for what, ratios, most in (
            ("windows averaged / not", averaging(table), 1.02),
            ("more lookahead / less", growth(table), 1.0),
        ):
            ratio, where = worst(ratios)
            kept = sum(r <= most for r in ratios.values())
            lines.append(f"{measure}: {what}: {kept} of {len(ratios)} at most {most:g}, largest {ratio:.3f} ({where})")
    for label, entry in result["estimator"].items():
        if "together_mean" in entry:
            means = entry["together_mean"], entry["apart_mean"]
            lines.append(f"lookahead {label:7} estimator: ours / best {means[0]:.3f} (apart {means[1]:.3f})")
    if result["clean_mse"]:
        lines.append("clean MSE: " + ", ".join(f"{label} {e:.2g}" for label, e in result["clean_mse"].items()))
    return lines


@contextmanager
def working_folder(chosen: Path | None) -> Iterator[Path]:
    """The folder that keeps what is trained here; none chosen: one that is gone afterwards."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def corpus(options: argparse.Namespace, runs: Path) -> Path:
    """The corpus that is trained on: the one named, else one built from the recordings."""
    if options.corpus is not None:
        return Path(options.corpus)
    built = runs / "corpus"
    if not (built / "index.json").exists():
        print(f"building a corpus with {SYNTHETIC} synthetic clips", file=sys.stderr)
        build_corpus(options.data, built, BuildConfig(synthetic=SYNTHETIC))
    return built


FIGURES = {3: "frame_mask", 4: "joint_mask", 5: "frame_noise_0.9", 6: "joint_noise_0.9"}
"""The paper's figures, and the conditions that they show."""


def draw_figures(options: argparse.Namespace) -> list[str]:
    """Ten frames as they were, corrupted, and refined offline, for each of `FIGURES`; returns the files' names."""
    from rtskel.tools.draw import figure  # not before it is needed: matplotlib takes seconds

    recording = max(read(options.data / "phoenix14t" / "dev.skels"), key=lambda r: r.frames)
    truth, made = recording.canonical(), []
    original = Recording(truth, recording.fps, recording.name, unit=SKELS_UNIT)
    options.figures.mkdir(parents=True, exist_ok=True)
    with open_engine(options.engine) as engine:
        for number, condition in FIGURES.items():
            seen, confidence = corrupted(truth, condition, 1000 * SEED)
            ((refined,),) = refine_all([(seen, confidence)], engine, [None], RADII[0]).values()
            # Ten frames in a row: those with the most motion in frames that are changed.
            moving = np.linalg.norm(np.diff(truth, axis=0, prepend=truth[:1]), axis=-1).mean(1)
            shown = np.convolve((seen != truth).any((1, 2)) * moving, np.ones(10), "valid").argmax()
            rows = [original, replace(original, xyz=seen, confidence=confidence)]
            rows.append(replace(original, xyz=refined, confidence=confidence, lookahead=engine.window))
            path = options.figures / f"figure{number}-{condition}.png"
            slots = range(int(shown), int(shown) + 10)
            figure(rows, labels=["original", f"corrupted: {condition}", "refined"], slots=slots).savefig(path)
            made.append(str(path))
    return made


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the options ask for."""
    conditions = options.conditions.split(",")
    if unknown := set(conditions) - {*CONDITIONS, ESTIMATOR}:
        known = ", ".join([*CONDITIONS, ESTIMATOR])
        raise RtskelError(f"--conditions: unknown {min(unknown)!r} (known: {known})")
    start = time.monotonic()
    with working_folder(options.runs) as runs:
        network, trained = "", ""
        if not options.no_smoothnet:
            network = str(runs / "smoothnet.safetensors")
            trained = smoothnet.trained(Path(network), corpus(options, runs), options.smoothnet_updates)
            print(trained, file=sys.stderr)
        todo = tasks(options.data, conditions, network)
        measured = all_peers(todo, options.cache, options.jobs)
    peers_seconds = time.monotonic() - start
    ours, about = None, None
    if not options.peers_only:
        with open_engine(options.engine) as engine:
            about = engine.info.model_id
            ours = measure_engine(todo, engine)
    found = measured.get(ESTIMATOR, {})
    clean = {label: e["2"][0] for label, e in ours["clean"]["scored"].items()} if ours and "clean" in ours else {}
    return {
        "engine": about,
        "phoenix": compare(measured, ours),
        "estimator": compare_estimator(found, ours[ESTIMATOR] if ours and found else None),
        "by_lookahead": by_lookahead(ours) if ours else {},
        "clean_mse": clean,
        "smoothnet": trained,
        "seconds": {"peers": peers_seconds, "all": time.monotonic() - start},
    }


def main() -> int:
    """Command line."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the recordings")
    parser.add_argument("--engine", help="an engine file (default: the bundled weights)")
    parser.add_argument("--peers-only", action="store_true", help="measure no engine")
    parser.add_argument("--conditions", default=",".join([*CONDITIONS, ESTIMATOR]), help="with commas between")
    parser.add_argument("--cache", type=Path, help="file that keeps what was measured of the peers")
    parser.add_argument(
        "--jobs", type=positive, default=os.cpu_count() or 1, help="processes that tune peers, or train"
    )
    parser.add_argument("--runs", type=Path, help="folder that keeps what is trained here (default: none)")
    parser.add_argument("--corpus", type=Path, help="corpus to train on (default: one built from the recordings)")
    parser.add_argument("--no-smoothnet", action="store_true", help="leave out the peer that has to be trained")
    parser.add_argument("--smoothnet-updates", type=positive, default=smoothnet.UPDATES, help="how long it is trained")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="draw the paper's Figures 3 to 6 instead")
    tables.add_arguments(parser)
    options = parser.parse_args()
    try:
        if options.figures:
            report({"bench": "figures"}, draw_figures(options), options)
        elif options.tables:
            with working_folder(options.runs) as runs:
                found = tables.run(options, runs, corpus(options, runs))
            report({"bench": "tables", **found}, tables.lines(found), options)
        else:
            result = run(options)
            lines = [*phoenix_lines(result["phoenix"]), *estimator_lines(result["estimator"])]
            lines += lookahead_lines(result["by_lookahead"]) if result["by_lookahead"] else []
            lines += [*summary_lines(result), result["smoothnet"]]
            lines.append(f"peers {result['seconds']['peers']:.0f} s, all {result['seconds']['all']:.0f} s")
            report({"bench": "accuracy", **result}, lines, options)
    except RtskelError as error:
        print(f"rtskel: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
