"""What is an estimator's error like on pairs: how large, how fast does it wander, and how often are hands lost?

Each clip's estimate is brought onto its truth by one scale and one shift (no rotation), from the body joints that were
found. A track is one coordinate of one joint in one clip, in the frames in which it was found, without its mean.

    sd         standard deviation of a track in mm, median over tracks
    lags       autocorrelation after 1, 2, 5 and 10 frames, pooled over tracks, each in units of its deviation
    left       what is left of tracks after a mean of 9 frames, pooled: its standard deviation in mm, by the median of
               absolute values
    stays      RMS over clips and joints of the track's mean, in mm
    found      share of frames in which a hand was found; runs of missing frames: median, 90th percentile, longest

"across" is in the image plane, "depth" along the camera's axis. Hands are taken about their wrist, with a scale of
their own. Clips in which the person was taken for one seen from behind in over 30% of the frames are left out.

    python bench/pairs.py pairs/train pairs/kept --save pairs
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure.report import arguments, bench, table
from numpy.typing import NDArray

from rtskel.errors import RtskelError
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
MEAN, BEHIND = 9, 0.3


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
    if used.sum() < SHORTEST or clip.body_swapped.mean() > BEHIND:
        return np.zeros(clip.truth.shape), np.zeros_like(found)
    estimate = np.where(found[..., None], clip.estimate, 0).astype(np.float64)
    truth = clip.truth.astype(np.float64)
    scale, shift = fitted(estimate[used], truth[used])
    return 1000 * (scale * estimate + shift - truth), found


def finger_errors(clip: Clip) -> tuple[Array, Mask]:
    """As `body_errors`, of the joints of hands relative to their wrists."""
    error, found = np.zeros(clip.truth.shape), np.zeros(clip.confidence.shape, np.bool_)
    for _, (root, *fingers) in UPPER_BODY_50.hands:
        there = clip.confidence[:, root] > 0
        if there.sum() < SHORTEST or clip.body_swapped.mean() > BEHIND:
            continue
        estimate, truth = (x[:, fingers].astype(np.float64) - x[:, [root]] for x in (clip.estimate, clip.truth))
        estimate[~there] = 0
        scale = (estimate * truth)[there].sum() / max((estimate**2).sum(), 1e-12)
        error[:, fingers] = 1000 * (scale * estimate - truth)
        found[:, fingers] = there[:, None]
    return error, found


def wander(errors: Sequence[tuple[Array, Mask]], joints: list[int], columns: list[int]) -> dict[str, float]:
    """The figures of one group of joints along some axes."""
    there = [found[:, joint] for _, found in errors for joint in joints for _ in columns]
    tracks = [error[:, joint, column] for error, _ in errors for joint in joints for column in columns]
    known = [(track, here) for track, here in zip(tracks, there, strict=True) if here.sum() >= SHORTEST]
    if not known:
        return {}
    means = [track[here].mean() for track, here in known]
    centred = [(np.where(here, track - mean, 0), here) for (track, here), mean in zip(known, means, strict=True)]
    spread = [track[here].std() for track, here in centred]

    def autocorrelation(lag: int) -> float:
        parts = [
            np.stack([track[:-lag], track[lag:]])[:, here[:-lag] & here[lag:]] / max(sd, 1e-9)
            for (track, here), sd in zip(centred, spread, strict=True)
        ]
        a, b = np.concatenate(parts, 1)
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    left = [track[middle] - smooth for track, here in centred for middle, smooth in [smoothed(track, here)]]
    return {
        "tracks": len(known),
        "sd": float(np.median(spread)),
        "stays": float(np.sqrt(np.mean(np.square(means)))),
        **{f"lag{lag}": autocorrelation(lag) for lag in LAGS},
        "left": 1.4826 * float(np.median(np.abs(np.concatenate(left)))),
    }


def smoothed(track: Array, here: Mask) -> tuple[NDArray[np.int64], Array]:
    """The frames in whose mean of `MEAN` frames none is missing, and that mean."""
    whole = np.flatnonzero(np.convolve(here, np.ones(MEAN), "valid") > MEAN - 0.5)
    return whole + MEAN // 2, np.convolve(track, np.ones(MEAN) / MEAN, "valid")[whole]


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
    groups = {name: (body, joints) for name, joints in GROUPS.items()}
    groups[FINGERS] = fingers, [joint for _, hand in UPPER_BODY_50.hands for joint in hand[1:]]
    errors = {f"{name}, {axis}": wander(*of, columns) for name, of in groups.items() for axis, columns in AXES.items()}
    return {
        "clips": len(clips),
        "frames": sum(clip.frames for clip in clips),
        "swapped": float(np.concatenate([clip.body_swapped for clip in clips]).mean()),
        "found": losses(clips),
        "errors": {name: figures for name, figures in errors.items() if figures},
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All clips, and those of each source."""
    paths = [path for folder in options.folders for path in sorted(folder.glob("[!.]*.npz"))]
    if not paths:
        raise RtskelError("no clips")
    clips = [read_clip(path) for path in paths]
    sources = {clip.source: [of for of in clips if of.source == clip.source] for clip in clips}
    return {"all": measured(clips)} | {source: measured(sources[source]) for source in sorted(sources)}


def lines(result: dict[str, Any]) -> list[str]:
    """Tables of all clips, and how often hands were found by source."""
    of = result["all"]
    text = [f"{of['clips']} clips, {of['frames']} frames, swapped {of['swapped']:.1%}"]
    text += [*table("found", of["found"], ".2f"), "", *table("errors, mm", of["errors"], ".2f"), ""]
    sources = {name: each["found"] for name, each in result.items() if isinstance(each, dict) and "found" in each}
    return text + table("found by source", {s: {k: r[k]["found"] for k in r} for s, r in sources.items()}, ".2f")


def main() -> int:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="of clips, such as pairs/train")
    return bench("pairs", parser.parse_args(), run, lines)


if __name__ == "__main__":
    raise SystemExit(main())
