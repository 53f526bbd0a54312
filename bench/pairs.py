"""What is an estimator's error like on pairs: how large, how fast does it wander, and how often are hands lost?

Each clip's estimate is brought onto its truth by one scale and one shift (no rotation), from the body joints that were
found. A track is one coordinate of one joint in one clip, in the frames in which it was found, without its mean.

    sd         standard deviation of a track in mm, median over tracks
    lags       autocorrelation after 1, 2, 5 and 10 frames, pooled over tracks, each in units of its deviation
    left       what is left of tracks after a mean of 9 frames, pooled: its standard deviation in mm, by the median of
               absolute values, and in the column beside that of all, bursts included
    stays      RMS over clips and joints of the track's mean, in mm
    found      share of frames in which a hand was found; runs of missing frames: median, 90th percentile, longest

"across" is in the image plane, "depth" along the camera's axis. Hands are taken about their wrist, with a scale of
their own. Clips in which the person was taken for one seen from behind in over 30% of the frames are left out.

    python bench/pairs.py pairs/train pairs/kept --save pairs
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measure.report import arguments, report, table
from numpy.typing import NDArray

from rtskel.pairs.clip import Clip, read_clip
from rtskel.skeleton import UPPER_BODY_50

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

BODY = [0, 2, 3, 4, 5, 6, 7]
GROUPS: Mapping[str, list[int]] = {"wrists and elbows": [3, 4, 6, 7], "wrists": [4, 7], "shoulders": [2, 5]}
FINGERS = "fingers about the wrist"
AXES: Mapping[str, list[int]] = {"across": [0, 1], "depth": [2]}
LAGS = (1, 2, 5, 10)
SHORTEST = 20
"""Frames in which a joint must have been found to be a track."""
MEAN = 9


def fitted(estimate: Array, truth: Array) -> tuple[float, Array]:
    """Scale and shift of points [M, 3] with the least squares to others."""
    off, on = estimate - estimate.mean(0), truth - truth.mean(0)
    scale = float((off * on).sum() / max((off * off).sum(), 1e-12))
    shift: Array = truth.mean(0) - scale * estimate.mean(0)
    return scale, shift


def body_errors(clip: Clip) -> tuple[Array, Mask]:
    """In mm [N, 50, 3], and where joints were found [N, 50]; no joint is, if the person is hardly there."""
    found = clip.confidence > 0
    used = found & np.isin(np.arange(50), BODY)
    if used.sum() < SHORTEST or clip.body_swapped.mean() > 0.3:
        return np.zeros(clip.truth.shape), np.zeros_like(found)
    estimate = np.where(found[..., None], clip.estimate, 0).astype(np.float64)
    truth = clip.truth.astype(np.float64)
    scale, shift = fitted(estimate[used], truth[used])
    return 1000 * (scale * estimate + shift - truth), found


def finger_errors(clip: Clip) -> tuple[Array, Mask]:
    """As `body_errors`, of the joints of hands relative to their wrists."""
    error, found = np.zeros(clip.truth.shape), np.zeros(clip.confidence.shape, np.bool_)
    if clip.body_swapped.mean() > 0.3:
        return error, found
    for _, (root, *fingers) in UPPER_BODY_50.hands:
        there = clip.confidence[:, root] > 0
        if there.sum() < SHORTEST:
            continue
        estimate, truth = (x[:, fingers].astype(np.float64) - x[:, [root]] for x in (clip.estimate, clip.truth))
        estimate[~there] = 0
        scale = (estimate * truth)[there].sum() / max((estimate**2).sum(), 1e-12)
        error[:, fingers] = 1000 * (scale * estimate - truth)
        found[:, fingers] = there[:, None]
    return error, found


def wander(errors: Iterable[tuple[Array, Mask]], joints: list[int], columns: list[int]) -> dict[str, float]:
    """The figures of one group of joints along some axes."""
    spread, means, left = list[float](), list[float](), list[Array]()
    lags = {lag: np.zeros(3) for lag in LAGS}
    for error, found in errors:
        for joint in joints:
            there = found[:, joint]
            if there.sum() < SHORTEST:
                continue
            for column in columns:
                track = error[:, joint, column]
                means.append(float(track[there].mean()))
                track = np.where(there, track - means[-1], 0)
                spread.append(float(track[there].std()))
                for lag, sums in lags.items():
                    both = there[:-lag] & there[lag:]
                    a, b = (part[both] / max(spread[-1], 1e-9) for part in (track[:-lag], track[lag:]))
                    sums += a @ b, a @ a, b @ b
                if len(track) >= MEAN:
                    whole = np.convolve(there, np.ones(MEAN), "valid") > MEAN - 0.5
                    smooth = np.convolve(track, np.ones(MEAN) / MEAN, "valid")
                    left.append((track[MEAN // 2 : -(MEAN // 2)] - smooth)[whole])
    if not spread:
        return {}
    of_lags = {f"lag{lag}": float(both / np.sqrt(a * b)) for lag, (both, a, b) in lags.items()}
    pooled = np.concatenate(left)
    stays = float(np.sqrt(np.mean(np.square(means))))
    return {
        "tracks": len(spread),
        "sd": float(np.median(spread)),
        "stays": stays,
        **of_lags,
        "left": 1.4826 * float(np.median(np.abs(pooled))),
        "left_rms": float(pooled.std()),
    }


def missing_runs(there: Mask) -> list[int]:
    """Lengths of the runs of False in [N]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], there, [True]]).astype(int)))
    lengths: list[int] = (edges[1::2] - edges[::2]).tolist()
    return lengths


def losses(clips: list[Clip]) -> dict[str, dict[str, float]]:
    """How often hands, and persons, were found."""
    result = {}
    for name, joint in {"person": 1, "right hand": 29, "left hand": 8}.items():
        there = [clip.confidence[:, joint] > 0 for clip in clips]
        runs = [length for one in there for length in missing_runs(one)] or [0]
        share = float(np.concatenate(there).mean())
        median, many = np.percentile(runs, [50, 90])
        result[name] = {"found": share, "median": float(median), "p90": float(many), "longest": float(max(runs))}
    return result


def measured(clips: list[Clip]) -> dict[str, Any]:
    """All figures of some clips."""
    body, fingers = [body_errors(clip) for clip in clips], [finger_errors(clip) for clip in clips]
    errors = {
        f"{name}, {axis}": wander(of, joints, columns)
        for name, of, joints in (
            *((name, body, joints) for name, joints in GROUPS.items()),
            (FINGERS, fingers, [joint for _, hand in UPPER_BODY_50.hands for joint in hand[1:]]),
        )
        for axis, columns in AXES.items()
    }
    return {
        "clips": len(clips),
        "frames": sum(clip.frames for clip in clips),
        "swapped": float(np.concatenate([clip.body_swapped for clip in clips]).mean()),
        "found": losses(clips),
        "errors": {name: figures for name, figures in errors.items() if figures},
    }


def main() -> None:
    """See the module."""
    parser = arguments(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="of clips, such as pairs/train")
    options = parser.parse_args()
    paths = [path for folder in options.folders for path in sorted(folder.glob("[!.]*.npz"))]
    if not paths:
        raise SystemExit("no clips")
    clips = [read_clip(path) for path in paths]
    result = {"all": measured(clips)}
    for source in sorted({clip.source for clip in clips}):
        result[source] = measured([clip for clip in clips if clip.source == source])
    lines = [
        f"{result['all']['clips']} clips, {result['all']['frames']} frames, swapped {result['all']['swapped']:.1%}"
    ]
    lines += table("found", result["all"]["found"], ".2f")
    lines += table("errors, mm", result["all"]["errors"], ".2f")
    lines.append(json.dumps({s: {k: r["found"][k]["found"] for k in r["found"]} for s, r in result.items()}))
    report({"bench": "pairs", **result}, lines, options)


if __name__ == "__main__":
    main()
