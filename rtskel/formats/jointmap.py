"""What an estimator means by a joint, and where the body has it.

Every estimator has its own idea of a joint: MediaPipe's elbows, for instance, lie some 40 mm inward of the body's, and
above. Such an error is no noise: no filter removes it, and no network should have to. A `JointMap` is a fixed linear
correction, learnt from pairs of true and estimated joints (`rtskel.training.paired.learn_map`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.skeleton import NECK, UPPER_BODY_50


@dataclass(frozen=True)
class JointMap:
    """An offset for every joint, linear in the positions of the body's joints about the neck.

    Attributes:
        weights: [25, 50, 3]: of the 8 joints' coordinates in metres, and of a constant.
        axes: of the coordinates.
    """

    weights: NDArray[np.float32]
    axes: str

    BODY: ClassVar[list[int]] = list(UPPER_BODY_50.groups["body"])

    @classmethod
    def inputs(cls, xyz: NDArray[Any]) -> NDArray[Any]:
        """What offsets depend on [N, 25], of poses [N, 50, 3] in metres."""
        about = (xyz[:, cls.BODY] - xyz[:, [NECK]]).reshape(len(xyz), -1)
        return np.concatenate([about, np.ones_like(about[:, :1])], 1)

    def apply(self, xyz: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
        """Poses [N, 50, 3] in metres along `axes`, corrected where every joint of the body was found.

        Args:
            missing: [N, 50]; the positions of missing joints stay as they are.
        """
        offset = np.einsum("ni,ijc->njc", self.inputs(xyz), self.weights.astype(xyz.dtype, copy=False))
        known = ~missing & ~missing[:, self.BODY].any(1, keepdims=True)
        return np.where(known[..., None], xyz + offset, xyz)

    def save(self, path: str | Path) -> None:
        """Write an `.npz` of a few tens of kilobytes."""
        np.savez_compressed(path, weights=self.weights.astype(np.float32), axes=self.axes)

    @classmethod
    def load(cls, path: Any) -> Self:
        """Read what `save` wrote.

        Raises:
            FormatError: it is not such a file.
        """
        try:
            with np.load(path) as file:
                weights, axes = file["weights"], str(file["axes"])
        except (OSError, ValueError, KeyError) as error:
            raise FormatError(f"{path}: not a map of joints ({error})") from None
        if weights.shape != (3 * len(cls.BODY) + 1, UPPER_BODY_50.joints, 3) or not np.isfinite(weights).all():
            raise FormatError(f"{path}: not a map of joints (weights {weights.shape})")
        return cls(weights.astype(np.float32), axes)


@functools.cache
def mediapipe_map() -> JointMap:
    """Of MediaPipe's world landmarks, as `rtskel.formats.mediapipe` places them."""
    with (files("rtskel.formats") / "mediapipe_joints.npz").open("rb") as file:
        return JointMap.load(file)
