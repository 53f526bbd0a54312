"""A corpus of bodies that move: the truth of `rtskel pairs`, without pictures and without an estimator.

Each sequence is a person of another build who does what a drawn motion does, as a camera sees it. A frame takes a
millisecond where a pair takes a hundred, so that there can be many more.

    python -m rtskel.pairs.corpus --frames 400000 CORPUS                               # what is synthesized
    python -m rtskel.pairs.corpus --frames 400000 --data ../shared/data --open CORPUS  # and what anyone may use
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import RtskelError
from rtskel.pairs.body import BodyModel, Build
from rtskel.pairs.camera import Camera
from rtskel.pairs.clip import KEPT
from rtskel.pairs.make import Plan, Task, tasks
from rtskel.pairs.motion import Motions, usable
from rtskel.pairs.needs import check_installed
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH
from rtskel.tools.video import silent
from rtskel.training.data import Sequence as Entry
from rtskel.training.data import print_summary, synthetic_sequences, write_corpus

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

WALKING = 0.5
"""Share of the sequences in which the person walks about and turns."""
SLOWEST, FASTEST = 0.05, 0.5
"""Cycles a second of the waves that a walk is made of."""
FARTHEST = 1.2
"""Metres to either side that a walk goes, at most."""


def bodies(plan: Plan, data: Path | None = None) -> Iterator[tuple[Entry, F32]]:
    """The motions of a plan, each by a body of its own: sequences of a corpus, in training units about the neck.

    Clips that `rtskel pairs` would keep for testing are for validation.
    """
    with silent():
        model = BodyModel()
    for task in tasks(plan, Motions(plan.sources, data, [Path(path) for path in plan.recordings])):
        yield _entry(task), _seen(model, task)


def _entry(task: Task) -> Entry:
    split = "dev" if task.split == KEPT else "train"
    return Entry(task.name, task.drawn.source, split, task.drawn.motion.fps, 0, 0)


def _seen(model: BodyModel, task: Task) -> F32:
    """The joints [N, 50, 3] of a random person who does the task's motion, before a random camera."""
    random = np.random.default_rng(task.seed)
    joints = model.body(Build.drawn(random)).moved(task.drawn.motion.xyz)
    if random.random() < WALKING:
        joints = walked(joints, task.drawn.motion.fps, random)
    camera = Camera.drawn(random, joints)
    xyz = camera.seen(joints) * [1.0, 1.0, -1.0]  # canonical axes: z toward the camera
    width = np.median(np.linalg.norm(xyz[:, LEFT_SHOULDER] - xyz[:, RIGHT_SHOULDER], axis=-1))
    seen: F32 = ((xyz - np.median(xyz[:, [NECK]], axis=0)) * (SHOULDER_WIDTH / width)).astype(np.float32)
    return seen


def walked(joints: F64, fps: float, random: np.random.Generator) -> F64:
    """A body [N, 50, 3] (metres, z up) that walks about on a random path and, perhaps, turns as it goes.

    Without it a network takes the motion of a whole body for an error of the estimator.
    """
    x, y, turn = (_wave(len(joints), fps, random) for _ in range(3))
    angle = turn * random.uniform(0, np.pi) * (random.random() < 0.6)
    cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    about = np.array([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]]).transpose(2, 0, 1)
    centre = joints[:, [NECK]] * [1.0, 1.0, 0.0]
    path = random.uniform(0, FARTHEST) * np.stack([x, y, zero], axis=-1)[:, None]
    placed: F64 = (joints - centre) @ about.transpose(0, 2, 1) + centre + path
    return placed


def _wave(frames: int, fps: float, random: np.random.Generator) -> F64:
    """A smooth random path [N] within -1 and 1."""
    time = np.arange(frames)[:, None] / fps
    pace, start = random.uniform(SLOWEST, FASTEST, 3), random.uniform(0, 2 * np.pi, 3)
    wave: F64 = np.sin(2 * np.pi * pace * time + start).mean(axis=1)
    return wave


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m rtskel.pairs.corpus CORPUS`: builds a corpus and prints what went in."""
    parser = argparse.ArgumentParser(prog="python -m rtskel.pairs.corpus", description=main.__doc__)
    parser.add_argument("out", help="folder of the corpus")
    parser.add_argument("--frames", type=int, required=True, help="of bodies that move")
    parser.add_argument("--synthetic", type=int, default=0, help="clips of synthetic signing beside them (default 0)")
    parser.add_argument("--seed", type=int, default=1, help="of everything (default 1)")
    parser.add_argument("--data", type=Path, help="folder with recorded motion (see docs/pairs.md)")
    parser.add_argument("--open", action="store_true", help="only motion whose licence lets anyone use it")
    args = parser.parse_args(argv)
    try:
        check_installed()
        plan = Plan(args.frames, args.seed, tuple(usable(args.data, only_open=args.open)))
        sequences = chain(bodies(plan, args.data), synthetic_sequences(args.synthetic))
        summary = write_corpus(args.out, sequences)
    except RtskelError as error:
        print(f"rtskel.pairs.corpus: error: {error}", file=sys.stderr)
        return 2
    print_summary(args.out, summary)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
