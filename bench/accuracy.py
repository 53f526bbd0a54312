"""How much better than a classical filter is a refined pose, at the same lookahead?

Every peer of `peers.py` is tuned, on train and dev, for each condition, lookahead and measure by itself: it knows
what is coming. What it learns from motion (means, a covariance, taps) it learns from train. The engine is one model
for everything. Scored on PHOENIX14T dev under the conditions, masks and noise of `rtskel evaluate`, and there once
more with every bone made longer or shorter; and, as a monocular estimator errs, on Bandai-Namco clips that no model
was trained on. "Best of each" is the best peer of each condition; "best single" is the best peer with one setting
for all conditions, which is what a user of a filter has.

    python bench/accuracy.py --data ../shared/data --save accuracy

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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peers
import torch
from harness import arguments, report
from numpy.typing import NDArray
from peers import PEERS, Body, Example, Lookahead

from rtskel.corrupt import autoregressive, runs
from rtskel.data import MM_PER_UNIT, AugmentConfig, augment_windows, bandai_bodies, held_out
from rtskel.engine import Engine, open_engine
from rtskel.errors import RtskelError
from rtskel.evaluate import CONDITIONS, corrupted, refine_all
from rtskel.formats import read
from rtskel.score import errors, joint_groups
from rtskel.skeleton import UPPER_BODY_50

Array = NDArray[np.float32]

LOOKAHEADS: dict[str, Lookahead] = {"0": 0, "4": 4, "offline": None}
RADII = (2, 0)
TEN = tuple(name for name in CONDITIONS if name != "clean")
ESTIMATOR = "estimator"
SEED, TUNING_SEED, FITTING_SEEDS = 0, 1, (2, 3)
"""Of the masks and noise: scored (as in `rtskel evaluate`), tuned on, and learnt from by peers that learn."""
JITTERED = AugmentConfig(
    warp=0, reverse=0, exchange=0, negate=0, bone=0, asymmetry=0.05, hands=0, wander=0, still=0, breathe=0, yaw=0,
    pitch=0, roll=0, front_padding=0, tail_padding=0,
)  # fmt: skip
"""Every bone 5% (a standard deviation) longer or shorter, the same throughout a sequence."""
CLIPS, LEARNT, SHORTEST = 24, 120, 60
"""Bandai-Namco clips scored, and as many tuned on; clips learnt from; frames a clip must have."""
MEASURES = ("mse", "mpjpe", "acceleration")
TUNED_FOR = ("mse", "mpjpe")
"""Peers are tuned for each of these on PHOENIX14T (and scored in it)."""


class Task(NamedTuple):
    """What the peers are measured on: one condition. `sets` maps names of scored sets to their examples."""

    condition: str
    body: Body
    fitting: list[Example]
    train: list[Example]
    dev: list[Example]
    sets: dict[str, list[Example]]
    joints: list[int]
    lookaheads: list[str]


def estimator(truth: Array, seed: int) -> tuple[Array, NDArray[np.bool_]]:
    """A body [N, 8, 3] as a live estimator sees it: positions, and which joints are missing [N, 8].

    Each joint errs by itself, the neck too: slowly (first-order autoregressive: coefficient 0.96 and deviation 17 mm
    in x and y, 0.99 and 100 mm in z) and from frame to frame (5, 5 and 13 mm, three times that in 8% of the frames).
    Each wrist is missing in runs of 5 to 20 frames for a tenth of the time.
    """
    g = torch.Generator().manual_seed(seed)
    n, joints, _ = truth.shape
    like = torch.zeros(1, n, joints, 3)
    across = 17.0 * autoregressive((1, n, joints, 2), 0.96, g, like)
    depth = 100.0 * autoregressive((1, n, joints, 1), 0.99, g, like)
    white = torch.randn(1, n, joints, 3, generator=g) * torch.tensor([5.0, 5.0, 13.0])
    white = white * torch.where(torch.rand(1, n, 1, 1, generator=g) < 0.08, 3.0, 1.0)
    missing = torch.zeros(n, joints, dtype=torch.bool)
    for wrist in ("right_wrist", "left_wrist"):
        missing[:, UPPER_BODY_50.names.index(wrist)] = runs(like, 0.1, 5, 20, g, inside=True)[0]
    seen = torch.from_numpy(truth) + (torch.cat([across, depth], -1) + white)[0] / MM_PER_UNIT
    return seen.masked_fill(missing[..., None], 0.0).numpy(), missing.numpy()


def examples(truth: Sequence[Array], condition: str, seed: int) -> list[Example]:
    """Sequences under a condition; sequence k is drawn with seed 1000 seed + k."""
    made = []
    for k, xyz in enumerate(truth):
        if condition == ESTIMATOR:
            seen, missing = estimator(xyz, 1000 * seed + k)
        else:
            seen, confidence = corrupted(xyz, condition, 1000 * seed + k)
            missing = confidence == 0
        made.append(Example(xyz.astype(np.float64), seen.astype(np.float64), missing))
    return made


def other_bones(truth: Sequence[Array]) -> list[Array]:
    """Sequences with every bone's length changed by about 5%, each sequence with a body of its own."""
    out = []
    for k, xyz in enumerate(truth):
        windows = torch.from_numpy(xyz.copy())[None]
        out.append(augment_windows(windows, JITTERED, torch.Generator().manual_seed(7000 + k))[0].numpy())
    return out


def spread(items: Sequence[Array], count: int) -> list[Array]:
    """`count` of the items, evenly spread."""
    return [items[k] for k in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]


def tasks(data: Path, conditions: Sequence[str]) -> list[Task]:
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
                made.append(Task(condition, body, fitting, *halves, sets, joints, list(LOOKAHEADS)))
    if ESTIMATOR in conditions:
        path = data / "bandai_namco" / "motion.npz"
        if not path.exists():
            raise RtskelError(f"{path}: no such file")
        clips = [(held_out(name), xyz) for name, xyz in bandai_bodies(path) if len(xyz) >= SHORTEST]
        kept = spread([xyz for held, xyz in clips if held], CLIPS)
        others = spread([xyz for held, xyz in clips if not held], CLIPS + LEARNT)
        step = len(others) // CLIPS
        tuned_on, learnt = others[::step][:CLIPS], [x for k, x in enumerate(others) if k % step or k >= CLIPS * step]
        joints = list(tree.groups["body"])
        order = tuple(joint for joint in tree.order if joint in joints)
        body = Body.learn([x.astype(np.float64) for x in learnt], tree.parents[: len(joints)], order)
        fitting = examples(learnt, ESTIMATOR, FITTING_SEEDS[0])
        sets = {"scored": examples(kept, ESTIMATOR, SEED)}
        tuning = examples(tuned_on, ESTIMATOR, TUNING_SEED)
        made.append(Task(ESTIMATOR, body, fitting, [], tuning, sets, joint_groups(tree.id)["body"], ["0", "4"]))
    return made


def mean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-15)))))


def tuned(found: dict[str, Any], measures: Sequence[str]) -> int:
    """The setting whose geometric mean of the measures is least on the tuning sequences."""
    at = [MEASURES.index(measure) for measure in measures]
    return int(np.argmin([mean([row[k] for k in at]) for row in found["tuned"]]))


def measure_peers(task: Task) -> dict[str, Any]:
    """Errors of every setting of every peer: result[lookahead][peer] has `settings`, and a list of (MSE, MPJPE,
    acceleration) for "tuned" and for each scored set; of the jittered one only for settings that tuning chooses.
    """
    result: dict[str, Any] = {}
    for label in task.lookaheads:
        result[label] = {}
        for kind in PEERS:
            peer = kind(task.body)
            peer.fit(task.fitting, LOOKAHEADS[label])
            found: dict[str, Any] = {"settings": kind.settings}
            sets = {"tuned": task.dev if kind.learns else task.train + task.dev, **task.sets}
            for name, chosen in sets.items():
                truth = [e.truth.astype(np.float32) for e in chosen]
                sequences = [(e.xyz, e.missing) for e in chosen]
                wanted = set(range(len(kind.settings)))
                if name == "jittered":
                    wanted = {tuned(found, [measure]) for measure in TUNED_FOR}
                found[name] = [None] * len(kind.settings)
                for k in wanted:
                    out = peer.apply_all(sequences, LOOKAHEADS[label], kind.settings[k])
                    found[name][k] = errors([x.astype(np.float32) for x in out], truth, task.joints)
            result[label][kind.name] = found
    return result


def fingerprint(task: Task) -> str:
    """Changes when the data, the corruptions or the peers do."""
    digest = hashlib.sha256((inspect.getsource(peers) + inspect.getsource(measure_peers)).encode())
    digest.update(repr((task.condition, task.joints, task.lookaheads)).encode())
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

    def _run(self, x: Array, missing: NDArray[np.bool_]) -> Array:
        keys = [hashlib.sha256(w.tobytes() + m.tobytes()).digest() for w, m in zip(x, missing, strict=True)]
        new = [k for k, key in enumerate(keys) if key not in self._known]
        if new:
            for k, y in zip(new, self._engine.run(x[new], missing[new]), strict=True):
                self._known[keys[k]] = y.copy()
        return np.stack([self._known[key] for key in keys])


def measure_engine(todo: Sequence[Task], engine: Engine) -> dict[str, Any]:
    """Errors of the engine: result[condition][set][lookahead][radius] is (MSE, MPJPE, acceleration)."""
    asked, result = Remembering(engine), dict[str, Any]()
    for task in todo:
        result[task.condition] = {name: {label: {} for label in task.lookaheads} for name in task.sets}
        for name, chosen in task.sets.items():
            sequences = []
            for example in chosen:
                xyz = np.zeros((len(example.xyz), UPPER_BODY_50.joints, 3), np.float32)
                confidence = np.zeros(xyz.shape[:2], np.float32)
                xyz[:, : example.xyz.shape[1]] = example.xyz  # joints that a task does not have are missing
                confidence[:, : example.xyz.shape[1]] = ~example.missing
                sequences.append((xyz, confidence))
            truth = [example.truth.astype(np.float32) for example in chosen]
            # A lookahead of a window is beyond what helps: that is the offline protocol.
            numbers = {label: engine.window if (n := LOOKAHEADS[label]) is None else n for label in task.lookaheads}
            for radius in RADII if name == "scored" else RADII[:1]:
                refined = refine_all(sequences, asked, sorted(set(numbers.values())), radius)
                for label, number in numbers.items():
                    out = [x[:, : t.shape[1]] for x, t in zip(refined[number], truth, strict=True)]
                    result[task.condition][name][label][str(radius)] = errors(out, truth, task.joints)
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
        means = [mean([row["tuned"][k][at] for row in rows]) for k in range(len(rows[0]["settings"]))]
        k = int(np.argmin(means))
        scored = {condition: measured[condition][label][peer]["scored"][k][at] for condition in measured}
        found[peer] = {"setting": rows[0]["settings"][k], "errors": scored, "mean": mean(list(scored.values()))}
    best = min(found, key=lambda peer: float(found[peer]["mean"]))
    return {"best": best, "peers": found}


def compare(measured: dict[str, Any], ours: dict[str, Any] | None) -> dict[str, Any]:
    """Tables and ratios over the ten conditions (those of them that were measured): result[lookahead][measure]."""
    ten = {condition: measured[condition] for condition in TEN if condition in measured}
    result: dict[str, Any] = {}
    for label in LOOKAHEADS if ten else ():
        result[label] = {}
        for measure in TUNED_FOR:
            at = MEASURES.index(measure)
            table, single = peer_table(ten, measure, label), best_single(ten, measure, label)
            best = {condition: row["peers"][row["best"]]["error"] for condition, row in table.items()}
            entry: dict[str, Any] = {"table": table, "single": single, "best_mean": mean(list(best.values()))}
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
                    "ratio_mean": mean(list(ratio.values())),
                    "ratio_worst": max(ratio.values()),
                    "ratio_to_single": mean([o["2"] for o in own.values()]) / single["peers"][single["best"]]["mean"],
                    "jittered_ratio": jitter,
                    "jittered_ratio_mean": mean(list(jitter.values())),
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
            entry |= {"ours_mm": own, "together": together, "together_mean": mean(together)}
            entry |= {"apart": [o / a for o, a in zip(own["2"], apart, strict=True)]}
            entry |= {"apart_mean": mean(entry["apart"])}
        result[label] = entry
    return result


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
                cells = [*values, mean(values) if total is None else total]
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


def summary_lines(result: dict[str, Any]) -> list[str]:
    """What the project promises, in a few lines."""
    lines = []
    for label, measures in result["phoenix"].items():
        for measure, entry in measures.items():
            if "ratio_mean" in entry:
                worst = max(entry["ratio"], key=lambda c: float(entry["ratio"][c]))
                lines.append(
                    f"lookahead {label:7} {measure:5}: ours / best of each {entry['ratio_mean']:.3f} (worst {worst} "
                    f"{entry['ratio_worst']:.2f}), bones jittered {entry['jittered_ratio_mean']:.3f}, "
                    f"/ best single {entry['ratio_to_single']:.3f}"
                )
    for measure in TUNED_FOR:
        own = [entry[measure]["ours"] for entry in result["phoenix"].values() if "ours" in entry[measure]]
        grows = [b[c]["2"] / a[c]["2"] for a, b in itertools.pairwise(own) for c in a]
        averaged = [row["2"] / row["0"] for by_condition in own for row in by_condition.values()]
        if own:
            lines.append(
                f"{measure}: at worst {max(grows):.3f} times as large with more lookahead, "
                f"{max(averaged):.3f} times with windows averaged"
            )
    for label, entry in result["estimator"].items():
        if "together_mean" in entry:
            means = entry["together_mean"], entry["apart_mean"]
            lines.append(f"lookahead {label:7} estimator: ours / best {means[0]:.3f} (apart {means[1]:.3f})")
    if result["clean_mse"]:
        lines.append("clean MSE: " + ", ".join(f"{label} {e:.2g}" for label, e in result["clean_mse"].items()))
    return lines


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the options ask for."""
    conditions = options.conditions.split(",")
    if unknown := set(conditions) - {*CONDITIONS, ESTIMATOR}:
        known = ", ".join([*CONDITIONS, ESTIMATOR])
        raise RtskelError(f"--conditions: unknown {min(unknown)!r} (known: {known})")
    start = time.monotonic()
    todo = tasks(options.data, conditions)
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
        "clean_mse": clean,
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
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that tune peers")
    options = parser.parse_args()
    try:
        result = run(options)
    except RtskelError as error:
        print(f"rtskel: error: {error}", file=sys.stderr)
        return 2
    lines = [*phoenix_lines(result["phoenix"]), *estimator_lines(result["estimator"]), *summary_lines(result)]
    lines.append(f"peers {result['seconds']['peers']:.0f} s, all {result['seconds']['all']:.0f} s")
    report({"bench": "accuracy", **result}, lines, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
