"""How well is 2D lifted to 3D, and how fast, offline and live?

How2Sign (real OpenPose output, 5 clips): distance of the image of the lifted poses from OpenPose's, in percent of the
shoulder width (root mean square over joints with a confidence above 0.5); how far live lifting is from offline lifting;
CPU time a frame, of all threads.

Bandai-Namco (motion capture, body joints): clips that no model was trained on, each with its own body (bones longer or
shorter by a standard deviation of 10%), seen from the front and from 3 m by a camera that follows them. Mean distance
in mm of the seven joints from the truth, both relative to the neck, without depth and lifted. Noise is in percent of
the shoulder width in the image; joints are missing in runs of five frames on average.

    OPENBLAS_NUM_THREADS=1 python bench/lifting.py --save lifting

Needs the packages of the extra `train`.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure.report import arguments, bench, table
from numpy.typing import NDArray

from rtskel.formats import Recording, read
from rtskel.lift import LiftConfig, Lifted, Lifter, lift
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50
from rtskel.training.data import BODY, bandai_bodies, held_out
from rtskel.training.score import CANONICAL_MM, errors

Array = NDArray[Any]

LOOKAHEADS = (4, 2, 0)
FPS_HOW2SIGN = 24.0
SCORED = [joint for joint in BODY if joint != NECK]
CLIPS = 16
DISTANCE_MM, FOCAL_PX = 3000.0, 900.0
CONDITIONS = {"clean": (0.0, 0.0), "noise 2%": (0.02, 0.0), "noise 2%, 10% missing": (0.02, 0.1)}


def live(xy: Array, confidence: Array, fps: float, lookahead: int) -> Lifted:
    """As a stream is lifted, frame by frame."""
    lifter = Lifter(lookahead=lookahead, fps=fps)
    parts = [lifter.push(xy[k], confidence[k]) for k in range(len(xy))]
    return Lifted.concatenate([*parts, lifter.flush()])


def centred(poses: Array) -> Array:
    """Relative to the neck, float32."""
    return np.asarray(poses - poses[:, [NECK]], np.float32)


def of_clip(recording: Recording) -> dict[str, dict[str, float]]:
    """The figures of one How2Sign clip, by how it was lifted."""
    xy, confidence = recording.canonical()[..., :2].astype(np.float64), recording.confidence
    width = float(np.median(np.linalg.norm(xy[:, LEFT_SHOULDER] - xy[:, RIGHT_SHOULDER], axis=-1)))
    sure = confidence > 0.5
    ways = {"offline": partial(lift, xy, confidence, fps=recording.fps)}
    ways |= {f"live {n}": partial(live, xy, confidence, recording.fps, n) for n in LOOKAHEADS}
    out, whole = {}, None
    for way, run in ways.items():
        start = time.process_time()
        poses = run().xyz.astype(np.float64)
        spent = time.process_time() - start
        whole = poses if whole is None else whole
        off = ((poses[..., :2] - xy) ** 2).sum(axis=-1)[sure]
        out[way] = {
            "reprojection_percent": 100 * float(np.sqrt(off.mean())) / width,
            "from_offline_percent": 100 * errors([centred(poses)], [centred(whole)], range(50)).mpjpe / width,
            "cpu_ms_a_frame": 1000 * spent / len(xy),
        }
    return out


def seen(body: Array, noise: float, missing: float, random: np.random.Generator) -> tuple[Array, Array, Array]:
    """Truth [N, 8, 3] in mm, its image [N, 50, 2] in px and confidence [N, 50]."""
    stretch = np.exp(0.1 * random.normal(size=50))
    stretch = np.sqrt(stretch * stretch[list(UPPER_BODY_50.mirror)])
    xyz = np.zeros_like(body)  # the camera follows the neck
    for joint in UPPER_BODY_50.order[1:]:
        parent = UPPER_BODY_50.parents[joint]
        if joint in BODY:
            xyz[:, joint] = xyz[:, parent] + (body[:, joint] - body[:, parent]) * stretch[joint]
    random.choice([-1, 1])  # unused; without it, noise differs from that of the published figures
    image = FOCAL_PX * xyz[..., :2] / (DISTANCE_MM - xyz[..., 2:])
    width = float(np.median(np.linalg.norm(image[:, LEFT_SHOULDER] - image[:, RIGHT_SHOULDER], axis=-1)))
    xy, confidence = np.zeros((len(xyz), 50, 2)), np.zeros((len(xyz), 50))
    xy[:, : len(BODY)] = image + noise * width * random.normal(size=image.shape)
    gone = np.zeros(image.shape[:2], np.bool_)
    for joint in BODY:
        at = 0
        while missing and at < len(gone):
            at += int(random.geometric(missing / 5 / (1 - missing)))
            length = int(random.geometric(1 / 5))
            gone[at : at + length, joint] = True
            at += length
    confidence[:, : len(BODY)] = ~gone
    return xyz, xy, confidence


def bandai(data: Path) -> dict[str, dict[str, float]]:
    """Mean errors in mm by condition, without depth and lifted."""
    bodies = [body for name, body in bandai_bodies(data / "bandai_namco" / "motion.npz") if held_out(name)]
    bodies = bodies[:: max(1, len(bodies) // CLIPS)][:CLIPS]
    measured = {}
    for condition, (noise, missing) in CONDITIONS.items():
        random = np.random.default_rng(0)
        found: dict[str, list[Array]] = {"flat": [], "lifted": []}
        truth = []
        for body in bodies:
            xyz, xy, sure = seen(body.astype(np.float64) * CANONICAL_MM, noise, missing, random)
            truth.append(centred(xyz))
            placed = lift(xy, sure, fps=30, config=LiftConfig(iterations=0)).xyz
            flat = np.where(sure[..., None] > 0, xy, placed[..., :2])  # missing joints filled in as lifting begins
            found["flat"].append(np.concatenate([flat, 0 * flat[..., :1]], axis=-1))
            found["lifted"].append(lift(xy, sure, fps=30).xyz)
        measured[condition] = {
            stage: errors([centred(x[:, : len(BODY)] * (DISTANCE_MM / FOCAL_PX)) for x in poses], truth, SCORED).mpjpe
            for stage, poses in found.items()
        }
    return measured


def how2sign(data: Path) -> dict[str, Any]:
    """Means over all frames, by how they were lifted; of the distances, which are root mean squares, likewise."""
    folders = [folder for folder in sorted((data / "how2sign_openpose").iterdir()) if folder.is_dir()]
    recordings = [read(folder, fps=FPS_HOW2SIGN)[0] for folder in folders]
    of_clip(recordings[0])  # warms up
    clips, frames = [of_clip(recording) for recording in recordings], [recording.frames for recording in recordings]

    def pooled(way: str, name: str) -> float:
        power = 2 if name == "reprojection_percent" else 1
        return float(np.average([clip[way][name] ** power for clip in clips], weights=frames) ** (1 / power))

    return {way: {name: pooled(way, name) for name in figures} for way, figures in clips[0].items()}


def lines(result: dict[str, Any]) -> list[str]:
    """Both tables."""
    of_mocap = table(f"Bandai-Namco, {CLIPS} clips, mm", result["bandai_namco_mm"], ".1f")
    return [*table("How2Sign", result["how2sign"]), "", *of_mocap]


def main() -> int:
    """Command line."""

    def run(options: argparse.Namespace) -> dict[str, Any]:
        return {"how2sign": how2sign(options.data), "bandai_namco_mm": bandai(options.data)}

    return bench("lifting", arguments(__doc__, data=True).parse_args(), run, lines)


if __name__ == "__main__":
    raise SystemExit(main())
