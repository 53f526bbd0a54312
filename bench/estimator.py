"""What does the user of a real estimator get: MediaPipe Holistic on videos, refined live?

Each video goes through three processes: `rtskel estimate`, a server, and `rtskel subscribe --save`. The estimator's
recording is kept in --recordings; if it is already there, it is replayed (`rtskel publish`), so that measuring again,
with other weights, needs neither MediaPipe nor the videos.

    slots         published, of those of the video
    acceleration  median norm of the second difference of a wrist in mm, over frames whose neighbours the estimator saw
                  too; "filter": of its raw path after a zero-phase 6 Hz Butterworth (second order, forward and
                  backward), for which missing spans are interpolated linearly
    RMS           distance of the wrist from that filtered path
    bones         of hands that were filled in: share of those within the range of lengths of the same bones where the
                  hand was seen (of the other hand's, if it was never seen)

    python bench/estimator.py ../shared/data/video/*.mp4 --recordings ../raw --save estimator
    python bench/estimator.py --recordings ../raw --engine other.safetensors
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure.processes import rtskel, running, serving
from measure.report import arguments, bench, table
from numpy.typing import NDArray
from scipy.signal import butter, filtfilt

from rtskel import UPPER_BODY_50, Recording, read, to_canonical
from rtskel.errors import RtskelError

LOOKAHEADS = [0, 4]
SIDES = ("right", "left")
CUTOFF_HZ = 6.0
TIMEOUT_S = 300

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def refined(raw: Path, video: Path | None, engine: str) -> list[Recording]:
    """The recording, or the video if there is none yet, through a server; what a subscriber saves."""
    # A large slack for late frames, so that a slow machine changes nothing.
    with tempfile.TemporaryDirectory() as folder, serving(engine, LOOKAHEADS, 256, "--slack-ms", 2000) as server:
        out = f"{folder}/refined.npz"
        with running("subscribe", "--refined", server.refined, "--json", "--until-end", "--save", out) as (
            line,
            taking,
        ):
            assert json.loads(line)["kind"] == "heartbeat"  # the subscription is in force
            given = ["publish", raw] if raw.exists() else ["estimate", video, "--save", raw]
            send = rtskel(*given, "--raw", server.raw, "--stream", raw.stem)
            subprocess.run(send, check=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
            taking.communicate(timeout=60)
        return read(out)


def on_slots(recording: Recording, slots: int, scale: float) -> tuple[Array, Mask]:
    """Positions [slots, J, 3] in mm in canonical axes, and which joints were seen."""
    xyz = np.zeros((slots, UPPER_BODY_50.joints, 3))
    seen = np.zeros((slots, UPPER_BODY_50.joints), np.bool_)
    xyz[recording.slots] = to_canonical(recording.xyz, recording.axes, recording.mirrored) * scale
    seen[recording.slots] = ~recording.missing
    return xyz, seen


def median_acceleration(path: Array, seen: Mask) -> float:
    """In mm per frame squared."""
    three = seen[:-2] & seen[1:-1] & seen[2:]
    if not three.any():
        raise SystemExit("too few frames to measure a wrist's acceleration (`rtskel estimate --fast` takes all)")
    return float(np.median(np.linalg.norm(np.diff(path, 2, axis=0), axis=-1)[three]))


def filtered(path: Array, seen: Mask, fps: float) -> Array:
    """The zero-phase reference for a raw path [N, 3]."""
    frames = np.arange(len(path))
    whole = np.stack([np.interp(frames, frames[seen], column[seen]) for column in path.T], axis=-1)
    numerator, denominator = butter(2, CUTOFF_HZ, fs=fps)
    return np.asarray(filtfilt(numerator, denominator, whole, axis=0))


def rms(off: Array) -> float:
    """Of distances [N, 3]."""
    return float(np.sqrt((off**2).sum(axis=-1).mean()))


def bones(xyz: Array, hand: list[int]) -> Array:
    """Lengths [N, 20] of a hand's bones in mm, without the bone from the wrist to its root."""
    inner = hand[1:]
    return np.asarray(np.linalg.norm(xyz[:, inner] - xyz[:, [UPPER_BODY_50.parents[j] for j in inner]], axis=-1))


def compare(raw: Recording, outputs: list[Recording]) -> dict[str, Any]:
    """All figures of one video."""
    slots, scale = int(raw.slots[-1]) + 1, raw.mm_per_unit()
    path, seen = on_slots(raw, slots, scale)
    poses = {str(output.lookahead): on_slots(output, slots, scale)[0] for output in outputs}
    came = {str(output.lookahead): np.isin(np.arange(slots), output.slots) for output in outputs}
    result: dict[str, Any] = {"fps": raw.fps, "slots": slots, "hand_seen": {}, "raw": {}, "lookahead": {}}
    result["raw"] = {"acceleration": {}, "filtered_acceleration": {}, "rms": {}}
    for lookahead, there in came.items():
        result["lookahead"][lookahead] = {"slots": int(there.sum())}
        result["lookahead"][lookahead] |= {name: {} for name in ("acceleration", "ratio", "rms", "bones")}
    hands = {side: list(UPPER_BODY_50.groups[f"{side}_hand"]) for side in SIDES}
    found = {side: seen[:, hand].all(axis=1) for side, hand in hands.items()}
    lengths = {side: bones(path[found[side]], hand) for side, hand in hands.items()}
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        wrist = UPPER_BODY_50.names.index(f"{side}_wrist")
        there = seen[:, wrist]
        smooth = filtered(path[:, wrist], there, raw.fps)
        shaking = median_acceleration(path[:, wrist], there)
        result["hand_seen"][side] = float(found[side].mean())
        result["raw"]["acceleration"][side] = shaking
        result["raw"]["filtered_acceleration"][side] = median_acceleration(smooth, there)
        result["raw"]["rms"][side] = rms(path[there, wrist] - smooth[there])
        reference = lengths[side] if len(lengths[side]) else lengths[other]
        for lookahead, of in result["lookahead"].items():
            xyz, here = poses[lookahead], came[lookahead]
            of["acceleration"][side] = median_acceleration(xyz[:, wrist], there & here)
            of["ratio"][side] = shaking / of["acceleration"][side]
            of["rms"][side] = rms((xyz[:, wrist] - smooth)[here])
            if (filled := here & ~found[side]).any() and len(reference):
                length = bones(xyz[filled], hands[side])
                within = (length >= reference.min(axis=0)) & (length <= reference.max(axis=0))
                of["bones"][side] = float(within.mean())
    return result


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All videos, or else all recordings."""
    videos = {video.stem: video for video in options.videos}
    names = list(videos) or sorted(path.stem for path in options.recordings.glob("*.npz"))
    if not names:
        raise RtskelError(f"no videos given, and no recordings in {options.recordings}")
    options.recordings.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in names:
        path = options.recordings / f"{name}.npz"
        outputs = refined(path, videos.get(name), options.engine)
        results[name] = compare(read(path)[0], outputs)
    return {"lookaheads": LOOKAHEADS, "cutoff_hz": CUTOFF_HZ, "videos": results}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as a table."""
    rows, falls = {}, {str(ahead): list[float]() for ahead in LOOKAHEADS}
    for name, video in result["videos"].items():
        raw = video["raw"]
        for side in SIDES:
            row = {"hand seen": f"{video['hand_seen'][side]:.0%}", "acceleration": raw["acceleration"][side]}
            row |= {"filter": raw["filtered_acceleration"][side], "RMS": raw["rms"][side]}
            for ahead, of in video["lookahead"].items():
                falls[ahead].append(of["ratio"][side])
                row |= {f"L={ahead}": of["acceleration"][side], f"falls at {ahead}": f"{of['ratio'][side]:.2f}x"}
                row |= {f"RMS at {ahead}": of["rms"][side], f"bones at {ahead}": of["bones"].get(side)}
                row["slots"] = f"{of['slots']}/{video['slots']}"
            rows[f"{name} {side}"] = row
    medians = ", ".join(f"{np.median(ratios):.2f}x at L={ahead}" for ahead, ratios in falls.items())
    return [*table("wrist", rows, ".2f"), f"acceleration falls in the median of the wrists: {medians}"]


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos; default: the recordings in --recordings")
    parser.add_argument("--recordings", type=Path, required=True, help="folder of the estimator's recordings")
    parser.add_argument("--engine", default="bundled", help="engine file")
    return bench("estimator", parser.parse_args(), measure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
