"""What does a real estimator's user get: MediaPipe Holistic on videos, refined live?

Each video goes through three processes, `rtskel estimate`, `rtskel serve` and `rtskel subscribe --save`. What the
estimator published is kept in --recordings; where it already lies there, it is replayed (`rtskel publish`) instead, so
that measuring again, with other weights, needs neither MediaPipe nor the videos.

    slots         that came, of those that the video has; in the JSON also "late", frames that the server gave up
    acceleration  median norm of the second difference of a wrist in mm, over frames that the estimator saw on either
                  side; "filter": of its raw path after a zero-phase 6 Hz Butterworth (second order, there and back),
                  for which missing spans are interpolated linearly
    RMS           distance of the wrist from that filtered path
    bones         of hands that were filled in, against the same bones where the hand was seen (the other hand, where
                  it was never seen): difference from their median length, median and 95th percentile, and the share
                  of those within the range of lengths that were seen

    python bench/estimator.py ../shared/data/video/*.mp4 --recordings ../raw --save estimator
    python bench/estimator.py --recordings ../raw --engine other.safetensors --pictures ../pictures
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import arguments, report, server
from numpy.typing import NDArray
from scipy.signal import butter, filtfilt

from rtskel import UPPER_BODY_50, Recording, read, to_canonical

LOOKAHEADS = (0, 4)
SIDES = ("right", "left")
CUTOFF_HZ = 6.0
TIMEOUT_S = 300

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def cli(*arguments: str) -> list[str]:
    """A command line of rtskel."""
    return [sys.executable, "-P", "-m", "rtskel.cli", *arguments]


def refined(raw: Path, video: Path | None, engine: list[str], fast: bool) -> list[Recording]:
    """The recording, or if it is not there yet the video, through a server; what a subscriber saves of it."""
    with (
        # It waits long for late frames, so that a slow machine changes nothing: this is not about time.
        server("--lookahead", ",".join(map(str, LOOKAHEADS)), "--slack-ms", "2000", *engine) as running,
        tempfile.TemporaryDirectory() as folder,
    ):
        out = Path(folder) / "refined.npz"
        subscribe = subprocess.Popen(
            cli("subscribe", "--refined", running.refined, "--json", "--until-end", "--save", str(out)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert subscribe.stdout is not None
            assert json.loads(subscribe.stdout.readline())["kind"] == "heartbeat"  # from now on nothing is missed
            if raw.exists():
                send = cli("publish", str(raw), "--raw", running.raw, "--stream", raw.stem)
            else:
                send = cli("estimate", str(video), "--raw", running.raw, "--stream", raw.stem, "--save", str(raw))
                send += ["--fast"] if fast else []
            subprocess.run(send, check=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
            subscribe.communicate(timeout=60)
        finally:
            subscribe.kill()
            subscribe.wait()
        return read(out)


def on_slots(recording: Recording, slots: int, scale: float) -> tuple[Array, Mask]:
    """Positions [slots, J, 3] in mm along canonical axes, and which joints were seen."""
    xyz = np.zeros((slots, UPPER_BODY_50.joints, 3))
    seen = np.zeros((slots, UPPER_BODY_50.joints), np.bool_)
    xyz[recording.slots] = to_canonical(recording.xyz, recording.axes, recording.mirrored) * scale
    seen[recording.slots] = ~recording.missing
    return xyz, seen


def median_acceleration(path: Array, seen: Mask) -> float:
    """mm per frame squared."""
    three = seen[:-2] & seen[1:-1] & seen[2:]
    if not three.any():
        raise SystemExit("too few frames were estimated to tell a wrist's acceleration (--fast estimates all)")
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
    """Lengths [N, 20] of a hand's bones in mm; its root's, which joins it to the wrist, is not one of them."""
    inner = hand[1:]
    return np.asarray(np.linalg.norm(xyz[:, inner] - xyz[:, [UPPER_BODY_50.parents[j] for j in inner]], axis=-1))


def compare(raw: Recording, outputs: list[Recording]) -> dict[str, Any]:
    """All figures of one video."""
    slots = int(raw.slots[-1]) + 1
    scale = raw.mm_per_unit()
    path, seen = on_slots(raw, slots, scale)
    names = UPPER_BODY_50.names
    hands = {side: list(UPPER_BODY_50.groups[f"{side}_hand"]) for side in SIDES}
    found = {side: seen[:, hand].all(axis=1) for side, hand in hands.items()}
    result: dict[str, Any] = {
        "fps": raw.fps,
        "slots": slots,
        "not_estimated": slots - raw.frames,
        "hand_seen": {side: float(there.mean()) for side, there in found.items()},
        "raw": {"acceleration": {}, "filtered_acceleration": {}, "rms": {}, "bones": {}},
        "lookahead": {},
    }
    lengths = {side: bones(path[found[side]], hand) for side, hand in hands.items()}
    for side in hands:
        wrist = names.index(f"{side}_wrist")
        there = seen[:, wrist]
        smooth = filtered(path[:, wrist], there, raw.fps)
        result["raw"]["acceleration"][side] = median_acceleration(path[:, wrist], there)
        result["raw"]["filtered_acceleration"][side] = median_acceleration(smooth, there)
        result["raw"]["rms"][side] = rms(path[there, wrist] - smooth[there])
        if len(lengths[side]):
            result["raw"]["bones"][side] = against(lengths[side], lengths[side])
    for output in outputs:
        refined_path, taken = on_slots(output, slots, scale)
        came = np.zeros(slots, np.bool_)
        came[output.slots] = True
        of: dict[str, Any] = {"slots": int(came.sum()), "late": int((seen & ~taken).any(axis=1).sum())}
        of |= {"acceleration": {}, "ratio": {}, "rms": {}, "bones": {}}
        for side, hand in hands.items():
            wrist = names.index(f"{side}_wrist")
            there = seen[:, wrist]
            off = (refined_path[:, wrist] - filtered(path[:, wrist], there, raw.fps))[came]
            of["acceleration"][side] = median_acceleration(refined_path[:, wrist], there & came)
            of["ratio"][side] = result["raw"]["acceleration"][side] / of["acceleration"][side]
            of["rms"][side] = rms(off)
            other = "left" if side == "right" else "right"
            reference = lengths[side] if len(lengths[side]) else lengths[other]
            filled = came & ~found[side]
            if filled.any() and len(reference):
                of["bones"][side] = {"slots": int(filled.sum())} | against(bones(refined_path[filled], hand), reference)
        result["lookahead"][str(output.lookahead)] = of
    return result


def against(lengths: Array, reference: Array) -> dict[str, float]:
    """Lengths of bones [N, 20] against those that were seen."""
    off = np.abs(lengths / np.median(reference, axis=0) - 1)
    within = (lengths >= reference.min(axis=0)) & (lengths <= reference.max(axis=0))
    return {"p50": float(np.median(off)), "p95": float(np.percentile(off, 95)), "within": float(within.mean())}


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The result for people."""
    rows = [["video", "wrist", "slots", "acceleration", "filter"]]
    for lookahead in LOOKAHEADS:
        rows[0] += [f"L={lookahead}", "falls"]
    rows[0] += ["RMS", *(f"L={lookahead}" for lookahead in LOOKAHEADS), "hand seen", "bones p50", "p95", "in range"]
    for name, result in results.items():
        raw, of = result["raw"], [result["lookahead"][str(lookahead)] for lookahead in LOOKAHEADS]
        for side in SIDES:
            row = [name, side, f"{of[-1]['slots']}/{result['slots']}"]
            row += [f"{raw['acceleration'][side]:.2f}", f"{raw['filtered_acceleration'][side]:.2f}"]
            for each in of:
                row += [f"{each['acceleration'][side]:.2f}", f"{each['ratio'][side]:.2f}x"]
            row += [f"{each['rms'][side]:.1f}" for each in (raw, *of)]
            row += [f"{result['hand_seen'][side]:.0%}"]
            filled = of[-1]["bones"].get(side)
            row += [f"{filled[key]:.0%}" for key in ("p50", "p95", "within")] if filled else ["-"] * 3
            rows.append(row)
    falls = [
        np.median([each["lookahead"][str(lookahead)]["ratio"][side] for each in results.values() for side in SIDES])
        for lookahead in LOOKAHEADS
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    medians = ", ".join(f"{fall:.2f}x at L={lookahead}" for fall, lookahead in zip(falls, LOOKAHEADS, strict=True))
    return [*lines, f"acceleration falls in the median of the wrists: {medians}"]


def main() -> None:
    """Command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, help="videos; default: the recordings that there are")
    parser.add_argument("--recordings", type=Path, required=True, help="folder of the estimator's recordings")
    parser.add_argument("--fast", action="store_true", help="estimate every frame, however long it takes")
    parser.add_argument("--engine", help="engine file (default: the bundled one)")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each video, raw above refined")
    options = parser.parse_args()
    videos = {video.stem: video for video in options.videos}
    names = list(videos) or sorted(path.stem for path in options.recordings.glob("*.npz"))
    if not names:
        parser.error(f"no videos given, and no recordings in {options.recordings}")
    options.recordings.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in names:
        path = options.recordings / f"{name}.npz"
        engine = [] if options.engine is None else ["--engine", options.engine]
        outputs = refined(path, videos.get(name), engine, options.fast)
        raw = read(path)[0]
        results[name] = compare(raw, outputs)
        if options.pictures is not None:
            from rtskel.tools.draw import figure

            options.pictures.mkdir(parents=True, exist_ok=True)
            labels = ["MediaPipe Holistic", f"refined, lookahead {outputs[-1].lookahead}"]
            traces = ["right_wrist.y", "right_wrist.z", "left_wrist.y", "right_index_4.y"]
            figure([raw, outputs[-1]], labels=labels, traces=traces).savefig(options.pictures / f"{name}.png")
    report({"lookaheads": LOOKAHEADS, "cutoff_hz": CUTOFF_HZ, "videos": results}, table(results), options)


if __name__ == "__main__":
    main()
