"""Does refining beat every filter on what a real estimator says, where the truth is known?

Pairs (`rtskel.training.paired`) that were kept out of training, through the refiner, beside One-Euro, Savitzky-Golay,
Gaussian and Kalman filters with all their settings at equal lookahead. Rivals get what is no merit of a network: hands
are filled in and smoothed about their wrists. In a second run, everybody gets the one linear map from the estimator's
joints to the body's (`rtskel.formats.jointmap`), as `rtskel estimate` applies it. A filter that follows more is nearer
and shakier, so two questions are asked: which is the nearest that is at least as smooth as ours, and which the
smoothest that is at least as near?

    mpjpe         mean distance from the truth in mm, after one similarity a clip, the same for everybody; all frames
                  count. "across": in the image plane, "depth": along its normal
    acceleration  mean norm of the second difference of the error, mm a frame squared
    ours / it     ours over the best filter that is no worse in the other figure

Then motion that no model was trained on (captured, keyed by hand, and the truth of the pairs): lost bursts, beside the
fill alone, and clean input, which should come back unchanged; and what stays of a group of joints that is off for one
frame (PHOENIX14T dev).

    python bench/real.py --pairs ../pairs/kept --training ../pairs/train --save real
    python bench/real.py --pairs ../pairs/kept --training ../pairs/train --engine other.safetensors
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure.report import WEIGHTS, arguments, bench, table
from numpy.typing import NDArray
from peers import Body, Gaussian, Hold, Kalman, Linear, Median, OneEuro, Peer, SavitzkyGolay, Sequences, Setting

from rtskel.cli import positive
from rtskel.engine import Engine, open_engine
from rtskel.engine.weights import load_weights
from rtskel.formats import Recording, read
from rtskel.formats.jointmap import mediapipe_map
from rtskel.pairs.clip import KEPT
from rtskel.pairs.motion import UNOC_KEPT, mesh2motion_split
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.evaluate import SHORTEST, ModelEngine, canonical, corrupted, refine_all
from rtskel.training.paired import Pair, PairedErrors, paired_errors, read_pairs
from rtskel.training.score import CANONICAL_MM, errors, joint_groups

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Known = tuple[NDArray[np.float32], Mask]
"""Poses [N, 50, 3] and which joints of them are known [N, 50]."""

LOOKAHEADS = (0, 4)
RADIUS = 2
FILTERS: tuple[type[Peer], ...] = (OneEuro, SavitzkyGolay, Gaussian, Kalman)
GROUPS = {name: joints for name, joints in joint_groups(UPPER_BODY_50.id).items() if name != "all"}
MOTION = ("unoc", "mesh2motion")
"""Motion of which some clips are kept out of training: capture of bodies and gloves, and what animators keyed."""
SIZES_MM = (50, 150, 500)
OFF = {
    "wrist": [4], "wrist and hand": [4, *UPPER_BODY_50.groups["right_hand"]], "head": [0], "finger tip": [36],
    "elbow, wrist and hand": [3, 4, *UPPER_BODY_50.groups["right_hand"]], "everything": list(range(50)),
}  # fmt: skip
"""Groups of joints that are off for one frame."""
REACH = 8
"""Frames on either side that `limits` predicts from: more gain nothing."""
BONES = {"forearms": [4, 7], "fingers": [j for j in GROUPS["hands"] if j not in (8, 29)]}
"""Bones by the joint in which they end."""


def hung(xyz: Array, missing: Mask | None = None) -> tuple[Array, Mask]:
    """Hands relative to their wrists: a hand that is found without its wrist is missing."""
    xyz, missing = xyz.copy(), np.zeros(xyz.shape[:2], np.bool_) if missing is None else missing.copy()
    for wrist, hand in UPPER_BODY_50.hands:
        xyz[:, hand] -= xyz[:, [wrist]]
        missing[:, hand] |= missing[:, [wrist]]
    return xyz, missing


def placed(xyz: Array) -> Array:
    """The inverse of `hung`."""
    xyz = xyz.copy()
    for wrist, hand in UPPER_BODY_50.hands:
        xyz[:, hand] += xyz[:, [wrist]]
    return xyz


class Point(NamedTuple):
    """One setting of one filter: its errors by group of joints."""

    name: str
    setting: Setting
    errors: dict[str, PairedErrors]


def scored(out: Sequence[NDArray[Any]], pairs: Sequence[Pair], name: str, setting: Setting = None) -> Point:
    """The errors of poses."""
    return Point(name, setting, {group: paired_errors(out, pairs, joints) for group, joints in GROUPS.items()})


def measure_filter(job: tuple[Peer, int], pairs: Sequence[Pair]) -> list[Point]:
    """All points of a filter at a lookahead."""
    (peer, lookahead), points = job, []
    sequences: Sequences = [hung(p.seen.astype(np.float64), p.missing) for p in pairs]
    for setting in peer.settings:
        out = peer.apply_all(sequences, lookahead, setting)
        points.append(scored([placed(xyz) for xyz in out], pairs, peer.name, setting))
    return points


QUESTIONS = {
    "nearest_as_smooth": ("mpjpe", "acceleration", "position_ratio"),
    "smoothest_as_near": ("acceleration", "mpjpe", "acceleration_ratio"),
}
"""Which figure is least, which is no worse than ours, and the name of our ratio."""


def front(ours: Point, rivals: Sequence[Point], group: str) -> dict[str, Any]:
    """Ours beside the nearest rival that is at least as smooth and the smoothest that is at least as near."""
    own, result = ours.errors[group]._asdict(), dict[str, Any]()
    for question, (least, no_worse, ratio) in QUESTIONS.items():
        told = [{"filter": p.name, "setting": p.setting, **p.errors[group]._asdict()} for p in rivals]
        allowed = [p for p in told if p[no_worse] <= own[no_worse]]
        result[question] = best = min(allowed, key=lambda p: p[least], default=None)
        if best:
            result[ratio] = own[least] / best[least]
    return result


def bone_spread(out: Sequence[NDArray[Any]]) -> dict[str, float]:
    """Standard deviation of a bone's length within a clip over its mean, in percent; mean of clips and bones."""
    found = {}
    for name, joints in BONES.items():
        parents = [UPPER_BODY_50.parents[j] for j in joints]
        lengths = [np.linalg.norm(xyz[:, joints] - xyz[:, parents], axis=-1) for xyz in out]
        found[name] = 100 * float(np.mean([x.std(0) / np.maximum(x.mean(0), 1e-9) for x in lengths]))
    return found


def limits(pairs: Sequence[Pair], training: Sequence[Pair], fill: Linear) -> dict[str, dict[str, float]]:
    """Errors of acceleration, by group: of a pose that stands still, and of the linear prediction from `REACH` frames
    on either side that the training pairs ask for, joint by joint, across the image and in depth.
    """

    def bends(pair: Pair) -> tuple[Array, Array]:
        """Second differences of what was seen [M, 50, 3, 2 REACH + 1], and of the truth [M, 50, 3]."""
        seen = placed(fill.apply_all([hung(pair.seen.astype(np.float64), pair.missing)], None, None)[0])
        x, y = (np.diff(xyz, 2, axis=0) * pair.mm for xyz in (seen, pair.truth.astype(np.float64)))
        return np.lib.stride_tricks.sliding_window_view(x, 2 * REACH + 1, axis=0), y[REACH:-REACH]

    (x, y), (fit_x, fit_y) = (map(np.concatenate, zip(*map(bends, of), strict=True)) for of in (pairs, training))
    left = y.copy()
    for joint, axes in product(range(y.shape[1]), ([0, 1], [2])):
        rows = fit_x[:, joint, axes].reshape(-1, fit_x.shape[-1])
        weights = np.linalg.lstsq(rows.T @ rows, rows.T @ fit_y[:, joint, axes].ravel(), rcond=1e-6)[0]
        left[:, joint, axes] -= x[:, joint, axes] @ weights
    return {
        who: {group: float(np.linalg.norm(of[:, joints], axis=-1).mean()) for group, joints in GROUPS.items()}
        for who, of in (("still", y), ("linear", left))
    }


def measure_pairs(folder: Path, training: Path | None, engine: Engine, jobs: int) -> dict[str, Any]:
    """Ours and every filter on pairs: result[lookahead][which], for joints where the estimator has them ("as_found"),
    and where the body has them ("corrected").
    """
    hang = [hung(p.truth.astype(np.float64))[0] for p in read_pairs(training or folder)]
    body = Body.learn(hang, UPPER_BODY_50.parents, UPPER_BODY_50.order)
    rivals: list[type[Peer]] = [Hold, *FILTERS]
    versions = {"as_found": read_pairs(folder), "corrected": read_pairs(folder, mediapipe_map())}
    result: dict[str, Any] = {str(lookahead): {} for lookahead in LOOKAHEADS}
    for which, pairs in versions.items():
        refined = refine_all([(p.seen, (~p.missing).astype(np.float32)) for p in pairs], engine, LOOKAHEADS, RADIUS)
        todo = [(peer(body), lookahead) for lookahead in LOOKAHEADS for peer in rivals]
        points: dict[int, list[Point]] = {lookahead: [] for lookahead in LOOKAHEADS}
        with get_context("spawn").Pool(min(jobs, len(todo))) as pool:
            every_point = pool.imap(partial(measure_filter, pairs=pairs), todo)
            for (peer, lookahead), measured in zip(todo, every_point, strict=True):
                points[lookahead] += measured
                print(f"measured: {which}, {peer.name}, lookahead {lookahead}", file=sys.stderr)
        taught = read_pairs(training, mediapipe_map() if which == "corrected" else None) if training else pairs
        bounds = limits(pairs, taught, Linear(body))
        for lookahead, every in points.items():
            ours = scored(refined[lookahead], pairs, "ours")
            held = next(p for p in every if p.name == Hold.name)
            result[str(lookahead)][which] = {
                "held": {name: e._asdict() for name, e in held.errors.items()},
                "ours": {name: e._asdict() for name, e in ours.errors.items()},
                "rivals": {name: front(ours, every, name) for name in GROUPS},
                "limits": bounds,
                "bones": {
                    "seen": bone_spread([p.seen[~p.missing.any(1)] for p in pairs if not p.missing.any(1).all()]),
                    "ours": bone_spread(refined[lookahead]),
                },
            }
    pairs = versions["as_found"]
    return result | {"clips": len(pairs), "frames": sum(len(p.truth) for p in pairs)}


def fill_alone(weights: Path) -> ModelEngine:
    """The fill of missing joints without a network, and with the constant momentum that the first releases had."""
    model = load_weights(weights)
    model.config = replace(model.config, persistence=False)
    model.trunk.out.weight.data.zero_()
    model.trunk.out.bias.data.zero_()
    return ModelEngine(model)


def recorded(data: Path, name: str) -> list[Known]:
    """The clips of one of `MOTION` that are kept out of training, in canonical axes and units."""
    with np.load(data / "mocap_hands" / f"{name}.npz") as file:
        ends, fps, axes = np.cumsum(file["length"])[:-1], float(file["fps"][0]), str(file["axes"])
        clips = zip(file["clip"], np.split(file["xyz"], ends), np.split(file["missing"], ends), strict=True)
        found = []
        for k, (clip, xyz, missing) in enumerate(clips):
            kept = k in UNOC_KEPT if name == "unoc" else mesh2motion_split(str(clip)) == KEPT
            if kept and len(xyz) >= SHORTEST:
                there, known = (~missing).astype(np.float32), np.where(missing[..., None], np.float32(0), xyz)
                recording = Recording(known, fps, name, confidence=there, unit="m", axes=axes)
                found.append((canonical(recording), ~missing))
        return found


def measure_motion(clips: Sequence[Known], engine: Engine, weights: Path) -> dict[str, Any]:
    """Lost bursts and clean input: result[condition][lookahead][who][group] is (MSE, MPJPE, acceleration)."""
    truth, known = [xyz for xyz, _ in clips], [there for _, there in clips]
    result = dict[str, Any]()
    for condition in ("burst_mask", "clean"):
        sequences = []
        for k, (xyz, there) in enumerate(clips):
            seen, confidence = corrupted(xyz, condition, k)
            sequences.append((seen * there[..., None], confidence * there))
        result[condition] = {str(lookahead): {} for lookahead in LOOKAHEADS}
        for who, tried in (("ours", engine), ("fill", fill_alone(weights))):
            for lookahead, out in refine_all(sequences, tried, LOOKAHEADS, RADIUS).items():
                of_groups = {name: errors(out, truth, joints, known) for name, joints in GROUPS.items()}
                result[condition][str(lookahead)][who] = of_groups
    return result


def stays(poses: Sequence[NDArray[Any]], truth: Sequence[NDArray[Any]], joints: list[int]) -> float:
    """Mean distance in millimetres of the joints in the frames that were off."""
    hit = [np.linalg.norm(p - t, axis=-1)[20:-20:25, joints].ravel() for p, t in zip(poses, truth, strict=True)]
    return CANONICAL_MM * float(np.mean(np.concatenate(hit)))


def measure_outliers(data: Path, engine: Engine) -> dict[str, Any]:
    """Millimetres that stay of a group off for one frame in 25: result[group][size][who].

    "told": what ours makes of the same frames when it is told that these joints are missing, the limit of finding them.
    """
    truth = [canonical(recording) for recording in read(data / "phoenix14t" / "dev.skels")]
    body = Body.learn([t.astype(np.float64) for t in truth], UPPER_BODY_50.parents, UPPER_BODY_50.order)
    result: dict[str, Any] = {name: {} for name in OFF}
    refined = partial(refine_all, engine=engine, lookaheads=LOOKAHEADS, radius=RADIUS)
    for name, joints in OFF.items():
        hit = [np.ix_(np.arange(20, len(xyz) - 20, 25), np.array(joints)) for xyz in truth]
        known = [np.ones(xyz.shape[:2], np.float32) for xyz in truth]
        without = [there.copy() for there in known]
        for there, where in zip(without, hit, strict=True):
            there[where] = 0.0
        told = refined(list(zip(truth, without, strict=True)))
        for size in SIZES_MM:
            shaken = [xyz.copy() for xyz in truth]
            for xyz, where in zip(shaken, hit, strict=True):
                xyz[where] += np.array([0.8, -0.6, 0], np.float32) * (size / CANONICAL_MM)
            ours = refined(list(zip(shaken, known, strict=True)))
            tried: dict[str, Sequence[NDArray[Any]]] = {f"ours {lookahead}": poses for lookahead, poses in ours.items()}
            tried |= {f"told {lookahead}": poses for lookahead, poses in told.items()}
            none = [(xyz.astype(np.float64), np.zeros(xyz.shape[:2], np.bool_)) for xyz in shaken]
            tried["median of 5"] = Median(body).apply_all(none, 2, (2,))
            result[name][str(size)] = {who: stays(poses, truth, joints) for who, poses in tried.items()}
    return result


FIGURES = ("mpjpe", "acceleration", "across", "depth", "acceleration_across", "acceleration_depth")


def pair_lines(result: dict[str, Any]) -> list[str]:
    """The tables of `measure_pairs`."""
    lines = [f"{result['clips']} clips, {result['frames']} frames"]
    for lookahead, which in product(map(str, LOOKAHEADS), ("as_found", "corrected")):
        at, where = result[lookahead][which], f"lookahead {lookahead}, joints {which.replace('_', ' ')}"
        for group in GROUPS:
            rows: dict[str, dict[str, Any]] = {who: {f: at[who][group][f] for f in FIGURES} for who in ("held", "ours")}
            entry = at["rivals"][group]
            for question, (_, _, ratio) in QUESTIONS.items():
                if rival := entry[question]:
                    name = f"{question.replace('_', ' ')}: {rival['filter']} {rival['setting']}"
                    rows[name] = {f: rival[f] for f in FIGURES} | {"ours / it": entry[ratio]}
            lines += ["", *table(f"{where}, {group}: mm", rows, ".2f")]
        lines += ["", *table(f"{where}: bones' deviation, %", at["bones"], ".1f")]
        lines += [
            "",
            *table(f"{where}: acceleration of a still pose, and what the best linear leaves, mm", at["limits"], ".2f"),
        ]
    return lines


def other_lines(result: dict[str, Any]) -> list[str]:
    """The tables of motion and of outliers."""
    lines = []
    for (source, conditions), condition in product(result["motion"].items(), ("burst_mask", "clean")):
        rows = {
            f"{who}, lookahead {lookahead}": {
                f"{group} {label}": scale * of[group][k]
                for group in GROUPS
                for label, k, scale in (("MSE x 1e-4", 0, 1e4), ("MPJPE mm", 1, CANONICAL_MM))
            }
            for lookahead, entry in conditions[condition].items()
            for who, of in entry.items()
        }
        lines += ["", *table(f"{source}, {condition}", rows, ".3f")]
    rows = {f"{group}, {size} mm": of for group, sizes in result["outliers"].items() for size, of in sizes.items()}
    return [*lines, "", *table("off for one frame: mm that stay, by lookahead", rows, ".1f")]


def lines(result: dict[str, Any]) -> list[str]:
    """All tables."""
    return (pair_lines(result["pairs"]) if "pairs" in result else []) + other_lines(result)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Motion, outliers, and pairs if there are any."""
    with open_engine(options.engine) as engine:
        result: dict[str, Any] = {"engine": engine.info.model_id}
        weights = Path(options.engine or WEIGHTS).with_suffix(".safetensors")
        clips = {name: recorded(options.data, name) for name in MOTION}
        if options.pairs:
            truth = [p.truth for p in read_pairs(options.pairs)]
            clips["pairs"] = [(xyz, np.ones(xyz.shape[:2], np.bool_)) for xyz in truth]
        result["motion"] = {name: measure_motion(of, engine, weights) for name, of in clips.items()}
        result["outliers"] = measure_outliers(options.data, engine)
        if options.pairs:
            result["pairs"] = measure_pairs(options.pairs, options.training, engine, options.jobs)
    return result


def main() -> int:
    """Command line."""
    parser = arguments(__doc__, data=True)
    parser.add_argument("--pairs", type=Path, help="folder of pairs to measure on, kept out of training")
    parser.add_argument("--training", type=Path, help="folder of pairs that mean bones are learnt from")
    parser.add_argument("--engine", help="an engine file (default: the bundled weights)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="processes that measure filters")
    return bench("real", parser.parse_args(), run, lines)


if __name__ == "__main__":
    raise SystemExit(main())
