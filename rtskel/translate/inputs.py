"""What is done with poses before they are translated: refinement or a filter, and which joints stay missing after it.

A hand that nobody has seen decides the result: a translator that has learned that it is absent reads an invented one
as signing. So `Inputs` says what is done with it, and every result says the `Inputs`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel.configs import Config
from rtskel.engine import NAMES, Engine, open_engine
from rtskel.errors import RtskelError
from rtskel.filters import Filter, last_seen, next_seen
from rtskel.formats import Recording
from rtskel.refine.canonical import canonical_frames
from rtskel.skeleton import Skeleton, skeleton
from rtskel.training.evaluate import refine_all

TOGETHER = 32
"""Recordings that are refined in shared batches."""

BUNDLED = "bundled"
"""The engine that `open_engine()` opens."""


class Frames(NamedTuple):
    """A sentence as a translator sees it: xyz [N, J, 3] in canonical axes and any unit, missing [N, J]."""

    xyz: NDArray[np.float32]
    missing: NDArray[np.bool_]

    def features(self, tree: Skeleton, bones: bool = True) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Positions in the canonical frame of the sentence and, with `bones`, bone vectors: [N, D].

        Also which of them are known [N, D]; the others are 0.
        """
        origin, scale, _ = canonical_frames(self.xyz[None], ~self.missing[None], tree)
        xyz, known = (self.xyz - origin) * scale, ~self.missing
        parts = [(xyz, known)]
        if bones:
            up = tree.parents_or_self
            parts.append((xyz - xyz[:, up], known & known[:, up]))
        x, k = (np.concatenate([part[which] for part in parts], 1) for which in (0, 1))
        seen = np.repeat(k, 3, axis=1)
        return np.where(seen, x.reshape(len(x), -1), np.float32(0)).astype(np.float32), seen


@dataclass(frozen=True)
class Inputs(Config, option="option of inputs"):
    """What is done with poses before they are translated.

    Attributes:
        refine: "none"; a filter (`rtskel.filters.Filter.parse`); `BUNDLED`; or an engine's file or name.
        lookahead: frames of the future that it may use; None: all (offline).
        radius: 2 radius + 1 predictions of an engine are averaged.
        precision: what an engine computes in; None: in its own.
        unseen: joints that are never seen in a recording are "keep": left missing, or "fill": filled in.
        max_gap: joints that are missing for more frames than this on end stay missing, too. None: all gaps are filled.

    Raises:
        RtskelError: an option out of range, an unknown filter.
    """

    refine: str = "none"
    lookahead: int | None = None
    radius: int = 2
    precision: str | None = None
    unseen: str = "keep"
    max_gap: int | None = None

    def __post_init__(self) -> None:
        if self.unseen not in ("keep", "fill"):
            raise RtskelError(f"unseen {self.unseen!r}: keep or fill expected")
        for name in ("lookahead", "max_gap", "radius"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise RtskelError(f"{name} {value}: 0 or more expected")
        self.filter()

    def __str__(self) -> str:
        if self.refine == "none":
            return "as it is"
        ahead = "offline" if self.lookahead is None else f"lookahead {self.lookahead}"
        gap = "" if self.max_gap is None else f", gaps up to {self.max_gap}"
        return f"{self.refine} ({ahead}, unseen: {self.unseen}{gap})"

    def filter(self) -> Filter | None:
        """The filter, if it is one: its name is of letters, where a file's has a suffix."""
        plain = re.fullmatch(r"[a-z+-]+(:.*)?", self.refine) and self.refine not in ("none", BUNDLED, *NAMES)
        return Filter.parse(self.refine) if plain else None

    def prepare(
        self,
        recordings: Sequence[Recording],
        skeleton_id: str,
        progress: Callable[[int], None] | None = None,
        threads: int | None = None,
    ) -> list[Frames]:
        """The recordings as a translator for that skeleton sees them, dropped frames included.

        Args:
            progress: called with the number of recordings that are done.
            threads: of an engine on the CPU; None: its default.

        Raises:
            RtskelError: a recording that is 2D or of another skeleton; an engine that cannot be opened or is of another
                skeleton.
        """
        tree, tell = skeleton(skeleton_id), progress or (lambda done: None)
        for recording in recordings:
            if recording.dims != 3:
                raise RtskelError(f"recording {recording.name!r} is 2D, 3D is translated (see rtskel lift)")
            if recording.skeleton != skeleton_id:
                raise RtskelError(f"recording {recording.name!r} has skeleton {recording.skeleton!r}, the translator "
                                  f"reads {skeleton_id!r}")  # fmt: skip
        chosen, made = self.filter(), list[Frames]()
        with ExitStack() as stack:
            engine: Engine | None = None
            if chosen is None and self.refine != "none":
                path = None if self.refine == BUNDLED else self.refine
                engine = stack.enter_context(open_engine(path, precision=self.precision, threads=threads))
                self._check(engine, skeleton_id)
            for first in range(0, len(recordings), TOGETHER):
                raw = [_raw(recording) for recording in recordings[first : first + TOGETHER]]
                if engine is not None:
                    seen = [(xyz, (~missing).astype(np.float32)) for xyz, missing in raw]
                    (done,) = refine_all(seen, engine, [self.lookahead], self.radius).values()
                elif chosen is not None:
                    done = [chosen.apply(*frames, self.lookahead, tree).astype(np.float32) for frames in raw]
                if engine is not None or chosen is not None:
                    raw = [self.kept(xyz, frames.missing) for xyz, frames in zip(done, raw, strict=True)]
                made += raw
                tell(len(made))
        return made

    def _check(self, engine: Engine, skeleton_id: str) -> None:
        if engine.info.skeleton_id != skeleton_id:
            raise RtskelError(f"{self.refine}: an engine of another skeleton, {engine.info.skeleton_id!r}")
        if not 2 * self.radius < engine.window:
            raise RtskelError(f"radius {self.radius}: 0 to {(engine.window - 1) // 2} expected")
        if self.lookahead is not None and self.lookahead >= engine.window:
            raise RtskelError(f"lookahead {self.lookahead}: 0 to {engine.window - 1} expected")

    def kept(self, xyz: NDArray[np.float32], missing: NDArray[np.bool_]) -> Frames:
        """Filled-in poses, with those joints missing again that are not to be filled in."""
        gone = np.zeros_like(missing)
        if self.unseen == "keep":
            gone |= missing.all(0)
        if self.max_gap is not None:
            after = next_seen(missing, None)
            length = np.where(after < 0, len(missing), after) - last_seen(missing) - 1
            gone |= missing & (length > self.max_gap) & ~missing.all(0)
        return Frames(np.where(gone[..., None], np.float32(0), xyz), gone)


def _raw(recording: Recording) -> Frames:
    confidence = recording.by_slot(recording.confidence)
    return Frames(recording.by_slot(recording.canonical()), np.equal(confidence, 0))
