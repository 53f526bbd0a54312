"""Makes pairs: any number of clips, by several processes, resumable. `make` is `rtskel pairs`.

Clips are numbered. What a clip shows depends on the seed and its number alone; one in seven is kept for testing. There
are as many as it takes to have the frames that were asked for. The folder holds `train/` and `kept/` with one file a
clip, and a manifest of what is done and what failed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel import __version__
from rtskel.errors import RtskelError
from rtskel.formats.mediapipe import Assembler
from rtskel.manifest import Manifest
from rtskel.pairs.body import BodyModel, Build
from rtskel.pairs.camera import Camera
from rtskel.pairs.clip import KEPT, TRAIN, Clip, write_clip
from rtskel.pairs.exposure import Exposure, compressed
from rtskel.pairs.motion import Draw, Motions
from rtskel.pairs.painter import Painter
from rtskel.pairs.scene import Light, Looks, backdrop, weave
from rtskel.skeleton import UPPER_BODY_50
from rtskel.tools.estimate import Estimator
from rtskel.tools.holistic import Holistic
from rtskel.tools.video import silent
from rtskel.workers import Work, outcomes

U8 = NDArray[np.uint8]

KEPT_EVERY = 7
"""One clip in this many is kept for testing; the fourth is the first."""

QUICK = 1.2
"""Speed from which motion counts as fast."""

LEFT_HAND, RIGHT_HAND = (hand[0] for _, hand in UPPER_BODY_50.hands)

THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
"""For each process: clips are made side by side."""


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    Attributes:
        frames: in all clips together, at least.
        seed: of everything.
        sources: names of `motion.SOURCES`.
        recordings: paths of the user's own motion.
    """

    frames: int
    seed: int = 1
    sources: tuple[str, ...] = ("signing", "beats")
    recordings: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Everything that clips depend on; more frames are more clips, the same first."""
        chosen = {"seed": self.seed, "sources": self.sources, "recordings": self.recordings}
        return {"rtskel": __version__, "task": "pairs", **chosen}


class Task(NamedTuple):
    """One clip to make."""

    number: int
    split: str
    seed: tuple[int, ...]
    drawn: Draw

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{self.number:05d}-{self.drawn.source}"

    @property
    def result(self) -> str:
        """Its path in the folder."""
        return f"{self.split}/{self.name}.npz"


class Outcome(NamedTuple):
    """What became of a clip: its frames, how often each hand was found in them, or why it failed."""

    result: str
    frames: int
    right_found: float
    left_found: float
    seconds: float
    error: str | None


def tasks(plan: Plan, motions: Motions) -> Iterator[Task]:
    """The clips of a plan, in order."""
    number = frames = 0
    while frames < plan.frames:
        kept = number % KEPT_EVERY == 3
        split = KEPT if kept else TRAIN
        drawn = motions.draw(np.random.default_rng([plan.seed, int(kept), number]), split)
        yield Task(number, split, (plan.seed, int(kept), number, 1), drawn)
        frames += len(drawn.motion.xyz)
        number += 1


# One clip


class Shot(NamedTuple):
    """A clip's pictures, to be taken, and what they show.

    Attributes:
        frames: uint8 [H, W, 3], one after the other.
        truth: float32 [N, 50, 3], camera axes, metres.
        pixels: float32 [N, 50, 2].
        camera: which sees it.
        exposure: how they are taken.
        settings: how everything was drawn.
    """

    frames: Iterator[U8]
    truth: NDArray[np.float32]
    pixels: NDArray[np.float32]
    camera: Camera
    exposure: Exposure
    settings: dict[str, Any]


def shot(model: BodyModel, motion: NDArray[np.float64], seed: Sequence[int], *, fast: bool) -> Shot:
    """A random person who does a motion [N, 50, 3], before a random camera."""
    random = np.random.default_rng(seed)
    build = Build.drawn(random)
    body = model.body(build)
    posed = body.posed(motion)
    camera = Camera.drawn(random, posed.joints)
    looks, light = Looks.drawn(random, body), Light.drawn(random)
    behind, picture = backdrop(random, camera.width, camera.height)
    exposure = Exposure.drawn(random, fast=fast)
    stripes = weave(random)

    def frames() -> Iterator[U8]:
        grain = exposure.grain(random, camera.width, camera.height)
        with Painter(camera, body.faces, body.vertices, looks, light, stripes) as painter:
            for number, normals in enumerate(posed.normals):
                moments = exposure.moments(posed.vertices, number)
                instants = (painter.draw(vertices, normals) for vertices in moments)
                yield exposure.taken(random, instants, picture, grain)

    seen = exposure.middle(camera.seen(posed.joints))
    settings = {"build": asdict(build), **camera.settings, **looks.settings, **light.settings}
    settings |= {"backdrop": behind, **exposure.settings}
    truth, pixels = seen.astype(np.float32), camera.pixels(seen).astype(np.float32)
    return Shot(frames(), truth, pixels, camera, exposure, settings)


def said(frames: Iterable[U8], estimator: Estimator) -> tuple[NDArray[np.float32], ...]:
    """What an estimator says of frames: positions [N, 50, 3] and confidences [N, 50] in metres, and in pixels."""
    assemblers = Assembler(world=True), Assembler()
    rows = []
    for image in frames:
        found = estimator.find(image)
        rows.append([part for assembler in assemblers for part in assembler.joints(*found)])
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


def make_clip(model: BodyModel, task: Task) -> Clip:
    """Makes one clip.

    Raises:
        RtskelError: the pictures came out in another number than they went in.
    """
    motion = task.drawn.motion
    fast = task.drawn.source == "beats" or motion.speed > QUICK
    taken = shot(model, motion.xyz, task.seed, fast=fast)
    camera = taken.camera
    with Holistic() as estimator:
        frames = compressed(taken.frames, camera.width, camera.height, motion.fps, taken.exposure.crf)
        estimate, confidence, estimate_px, confidence_px = said(frames, estimator)
    if len(estimate) != len(taken.truth):
        raise RtskelError(f"{task.name}: {len(estimate)} of {len(taken.truth)} pictures came out of the codec")
    return Clip(
        taken.truth,
        taken.pixels,
        estimate,
        confidence,
        estimate_px,
        confidence_px,
        motion.fps,
        (camera.width, camera.height),
        name=task.name,
        source=task.drawn.source,
        motion=motion.name,
        licence=task.drawn.licence,
        split=task.split,
        speed=motion.speed,
        seed=task.seed,
        settings=taken.settings,
    )


# Many clips


@dataclass(frozen=True)
class Making:
    """Clips into a folder, as workers make them."""

    out: Path

    @contextmanager
    def opened(self) -> Iterator[Callable[[Task], Outcome]]:
        """See `rtskel.workers.Work`."""
        with silent():
            model = BodyModel()
        yield lambda task: self._outcome(model, task)

    def died(self, task: Task, status: int | None) -> Outcome:
        """See `rtskel.workers.Work`."""
        error = f"the worker process ended with status {status} (out of memory, or a crash)"
        return Outcome(task.result, 0, 0.0, 0.0, 0.0, error)

    def _outcome(self, model: BodyModel, task: Task) -> Outcome:
        start = time.monotonic()
        try:
            with silent():  # MediaPipe warns of what is as it should be
                clip = make_clip(model, task)
            write_clip(self.out / task.result, clip)
        except Exception as error:  # whatever a clip does to a renderer, the others go on
            words = str(error) if isinstance(error, RtskelError) else f"{type(error).__name__}: {error}"
            return Outcome(task.result, 0, 0.0, 0.0, time.monotonic() - start, " ".join(words.split()))
        right, left = clip.found(RIGHT_HAND), clip.found(LEFT_HAND)
        return Outcome(task.result, clip.frames, right, left, time.monotonic() - start, None)


@dataclass(frozen=True)
class Summary:
    """Clips and frames that were made now and before, and what failed."""

    clips: int
    frames: int
    before: int
    failed: tuple[Outcome, ...]


def make(
    plan: Plan,
    out: Path,
    *,
    data: Path | None = None,
    workers: int = 1,
    work: Work[Task, Outcome] | None = None,
    progress: Callable[[Outcome | None, int], None] | None = None,
) -> Summary:
    """Makes the clips of a plan that are not there yet.

    Args:
        plan: which clips.
        out: the folder.
        data: the folder of the shared data, if the plan's sources need it.
        workers: processes; 1: this one.
        work: makes each clip; None: `Making`.
        progress: called with each outcome, or None for a clip that was there, and its frames.

    Raises:
        RtskelError: the folder holds clips of another plan or cannot be written, or a source cannot be opened.
    """
    tell = progress or (lambda outcome, frames: None)
    made = frames = before = 0
    failed = list[Outcome]()
    with Manifest(out, plan.identity()) as manifest, _environment(THREADS):
        for split in (TRAIN, KEPT):
            (out / split).mkdir(exist_ok=True)
            for part in (out / split).glob(".*.npz.part"):
                part.unlink()
        motions = Motions(plan.sources, data, [Path(path) for path in plan.recordings])

        def todo() -> Iterator[Task]:
            nonlocal before
            for task in tasks(plan, motions):
                if task.result in manifest.done and (out / task.result).is_file():
                    before += 1
                    tell(None, len(task.drawn.motion.xyz))
                else:
                    yield task

        for outcome in outcomes(work or Making(out), todo(), workers):
            found = {"right_found": round(outcome.right_found, 3), "left_found": round(outcome.left_found, 3)}
            what = {} if outcome.error else {"frames": outcome.frames, **found}
            manifest.add(outcome.result, outcome.error, **what, seconds=round(outcome.seconds, 3))
            if outcome.error is None:
                made, frames = made + 1, frames + outcome.frames
            else:
                failed.append(outcome)
            tell(outcome, outcome.frames)
    return Summary(made, frames, before, tuple(failed))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that processes inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
