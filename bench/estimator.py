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

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure.processes import serving
from measure.report import arguments, report, table
from numpy.typing import NDArray
from scipy.signal import butter, filtfilt

from rtskel import UPPER_BODY_50, Recording, read, to_canonical
from rtskel.serve import ServeConfig, StreamConfig

LOOKAHEADS = (0, 4)
SIDES = ("right", "left")
CUTOFF_HZ = 6.0
TIMEOUT_S = 300

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def cli(*arguments: str) -> list[str]:
    """A command line of rtskel."""
    return [sys.executable, "-P", "-m", "rtskel.cli", *arguments]


def refined(raw: Path, video: Path | None, engine: str) -> list[Recording]:
    """The recording, or the video if there is none yet, through a server; what a subscriber saves."""
    # A large slack for late frames, so that a slow machine changes nothing.
    config = ServeConfig(lookaheads=LOOKAHEADS, streams=StreamConfig(slack_s=2.0))
    with serving(engine, config) as running, tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "refined.npz"
        subscribe = subprocess.Popen(
            cli("subscribe", "--refined", running.refined, "--json", "--until-end", "--save", str(out)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert subscribe.stdout is not None
            assert json.loads(subscribe.stdout.readline())["kind"] == "heartbeat"  # the subscription is in force
            if raw.exists():
                send = cli("publish", str(raw), "--raw", running.raw, "--stream", raw.stem)
            else:
                send = cli("estimate", str(video), "--raw", running.raw, "--stream", raw.stem, "--save", str(raw))
            subprocess.run(send, check=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
            subscribe.communicate(timeout=60)
        finally:
            subscribe.kill()
            subscribe.wait()
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
    hands = {side: list(UPPER_BODY_50.groups[f"{side}_hand"]) for side in SIDES}
    wrists = {side: UPPER_BODY_50.names.index(f"{side}_wrist") for side in SIDES}
    found = {side: seen[:, hand].all(axis=1) for side, hand in hands.items()}
    result: dict[str, Any] = {
        "fps": raw.fps,
        "slots": slots,
        "hand_seen": {side: float(there.mean()) for side, there in found.items()},
        "raw": {"acceleration": {}, "filtered_acceleration": {}, "rms": {}},
        "lookahead": {},
    }
    lengths = {side: bones(path[found[side]], hand) for side, hand in hands.items()}
    smooth = {}
    for side, wrist in wrists.items():
        there = seen[:, wrist]
        smooth[side] = filtered(path[:, wrist], there, raw.fps)
        result["raw"]["acceleration"][side] = median_acceleration(path[:, wrist], there)
        result["raw"]["filtered_acceleration"][side] = median_acceleration(smooth[side], there)
        result["raw"]["rms"][side] = rms(path[there, wrist] - smooth[side][there])
    for output in outputs:
        refined_path, _ = on_slots(output, slots, scale)
        came = np.zeros(slots, np.bool_)
        came[output.slots] = True
        of: dict[str, Any] = {"slots": int(came.sum()), "acceleration": {}, "ratio": {}, "rms": {}, "bones": {}}
        for side, wrist in wrists.items():
            of["acceleration"][side] = median_acceleration(refined_path[:, wrist], seen[:, wrist] & came)
            of["ratio"][side] = result["raw"]["acceleration"][side] / of["acceleration"][side]
            of["rms"][side] = rms((refined_path[:, wrist] - smooth[side])[came])
            reference = lengths[side] if len(lengths[side]) else lengths["left" if side == "right" else "right"]
            filled = came & ~found[side]
            if filled.any() and len(reference):
                filled_in = bones(refined_path[filled], hands[side])
                within = (filled_in >= reference.min(axis=0)) & (filled_in <= reference.max(axis=0))
                of["bones"][side] = float(within.mean())
        result["lookahead"][str(output.lookahead)] = of
    return result


def lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """The result as a table."""
    rows, falls = {}, {ahead: list[float]() for ahead in LOOKAHEADS}
    for name, result in results.items():
        raw, of = result["raw"], {ahead: result["lookahead"][str(ahead)] for ahead in LOOKAHEADS}
        last = of[LOOKAHEADS[-1]]
        for side in SIDES:
            row = {"slots": f"{last['slots']}/{result['slots']}", "acceleration": raw["acceleration"][side]}
            row["filter"] = raw["filtered_acceleration"][side]
            for ahead, each in of.items():
                row |= {f"L={ahead}": each["acceleration"][side], f"falls at {ahead}": f"{each['ratio'][side]:.2f}x"}
                falls[ahead].append(each["ratio"][side])
            row["RMS"] = raw["rms"][side]
            row |= {f"RMS at {ahead}": each["rms"][side] for ahead, each in of.items()}
            row["hand seen"] = f"{result['hand_seen'][side]:.0%}"
            row["bones"] = f"{last['bones'][side]:.0%}" if side in last["bones"] else None
            rows[f"{name} {side}"] = row
    medians = ", ".join(f"{np.median(ratios):.2f}x at L={ahead}" for ahead, ratios in falls.items())
    return [*table("wrist", rows, ".2f"), f"acceleration falls in the median of the wrists: {medians}"]


def main() -> None:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos; default: the recordings in --recordings")
    parser.add_argument("--recordings", type=Path, required=True, help="folder of the estimator's recordings")
    parser.add_argument("--engine", default="bundled", help="engine file")
    options = parser.parse_args()
    videos = {video.stem: video for video in options.videos}
    names = list(videos) or sorted(path.stem for path in options.recordings.glob("*.npz"))
    if not names:
        parser.error(f"no videos given, and no recordings in {options.recordings}")
    options.recordings.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in names:
        path = options.recordings / f"{name}.npz"
        outputs = refined(path, videos.get(name), options.engine)
        results[name] = compare(read(path)[0], outputs)
    report({"lookaheads": LOOKAHEADS, "cutoff_hz": CUTOFF_HZ, "videos": results}, lines(results), options)


if __name__ == "__main__":
    main()
