"""A pair: one clip of a body whose joints are known, and what an estimator says of its pictures. One `.npz` file each.

- `truth`: float32 [N, 50, 3], the joints in metres, RDA (x right in the picture, y down, z away from the camera), the
  camera's centre at the origin, in the middle of each exposure.
- `truth_px`: float32 [N, 50, 2], the same in pixels of the picture, which joints may be outside of.
- `estimate`: float32 [N, 50, 3], as `rtskel estimate` publishes it: metres, RDA, the origin between the hips; NaN where
  missing. `confidence`: float32 [N, 50], 0 where missing.
- `estimate_px`, `confidence_px`: float32 [N, 50, 3] and [N, 50], the same as `rtskel estimate --pixels` has it.
- `body_swapped`: bool [N], whether left and right are exchanged: a person taken for one seen from behind.
- `time_s`: float64 [N]; `fps`: frames a second; `image_size`: width and height of the picture.
- `name` of the file; `source` of the motion, and which `motion`; `licence`, what the motion's licence allows ("open",
  "nc" or "own"); `split`, "train" or "kept"; `speed`, how much faster than recorded the motion is played.
- `seed`: int64 of the clip; `settings`: JSON, of body, camera and picture; `axes`: "RDA"; `unit`: "m".

The neck of the truth is the middle of the shoulders, and its hands' roots are the wrists. The estimate knows neither
the person's size nor where the camera stands: align the two, or take both about the neck.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER

F32 = NDArray[np.float32]

AXES, UNIT = "RDA", "m"
TRAIN, KEPT = "train", "kept"
OPEN, NC, OWN = "open", "nc", "own"
"""Licence classes of motion: for anyone; not for commercial use; the user's."""

ARRAYS = {
    "truth": (50, 3),
    "truth_px": (50, 2),
    "estimate": (50, 3),
    "confidence": (50,),
    "estimate_px": (50, 3),
    "confidence_px": (50,),
}
WORDS = ("name", "source", "motion", "licence", "split")


@dataclass(frozen=True, eq=False)
class Clip:
    """See the module."""

    truth: F32
    truth_px: F32
    estimate: F32
    confidence: F32
    estimate_px: F32
    confidence_px: F32
    fps: float
    image_size: tuple[int, int]
    name: str
    source: str
    motion: str
    licence: str
    split: str
    speed: float = 1.0
    seed: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.truth)

    @property
    def body_swapped(self) -> NDArray[np.bool_]:
        """[N] whether the estimate's shoulders are in the other order in the picture than the true ones."""
        both = (self.confidence_px[:, [RIGHT_SHOULDER, LEFT_SHOULDER]] > 0).all(axis=1)
        said, true = (x[:, LEFT_SHOULDER, 0] - x[:, RIGHT_SHOULDER, 0] for x in (self.estimate_px, self.truth_px))
        swapped: NDArray[np.bool_] = both & (said * true < 0)
        return swapped

    def found(self, joint: int) -> float:
        """Share of the frames in which a joint was found."""
        return float((self.confidence[:, joint] > 0).mean())


def write_clip(path: Path, clip: Clip) -> None:
    """Writes a clip: complete under its name, or not at all.

    Raises:
        FormatError: an array has another shape, the truth is not finite, or the file cannot be written.
    """
    arrays = {name: np.asarray(getattr(clip, name), np.float32) for name in ARRAYS}
    for name, shape in ARRAYS.items():
        if arrays[name].shape != (clip.frames, *shape):
            raise FormatError(f"{path}: {name} has shape {arrays[name].shape}, expected {(clip.frames, *shape)}")
    if not np.isfinite(clip.truth).all():
        raise FormatError(f"{path}: the truth is not finite")
    for positions, confidence in (("estimate", "confidence"), ("estimate_px", "confidence_px")):
        arrays[positions] = np.where(arrays[confidence][..., None] > 0, arrays[positions], np.float32(np.nan))
    values: dict[str, Any] = {
        **arrays,
        **{name: getattr(clip, name) for name in (*WORDS, "fps", "image_size", "speed", "body_swapped")},
        "time_s": np.arange(clip.frames) / clip.fps,
        "seed": np.array(clip.seed, np.int64),
        "settings": json.dumps(clip.settings),
        "axes": AXES,
        "unit": UNIT,
    }
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **values)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FormatError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_clip(path: Path) -> Clip:
    """Reads a clip.

    Raises:
        FormatError: the file cannot be read or is no pair.
    """
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            values: dict[str, Any] = {name: file[name] for name in ARRAYS}
            values |= {name: str(file[name]) for name in WORDS}
            values |= {"fps": float(file["fps"]), "speed": float(file["speed"])}
            width, height = file["image_size"].tolist()
            clip = Clip(
                **values,
                image_size=(width, height),
                seed=tuple(file["seed"].tolist()),
                settings=json.loads(str(file["settings"])),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not a pair ({error})") from None
    for name, shape in ARRAYS.items():
        if getattr(clip, name).shape != (clip.frames, *shape):
            raise FormatError(f"{path}: not a pair ({name} has shape {getattr(clip, name).shape})")
    return clip


def clips_in(folder: Path, split: str) -> list[Path]:
    """The clips of a split ("train" or "kept") in a folder that `rtskel pairs` made, in order."""
    return sorted(path for path in (folder / split).glob("*.npz") if not path.name.startswith("."))
