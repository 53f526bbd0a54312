"""What the demo compares with: a recording's truth by slot, beside the raw stream as a consumer sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rtskel.formats import Recording
from rtskel.training.score import held


@dataclass(frozen=True, eq=False)
class Truth:
    """One stream's truth, up to the last slot that the estimator delivered.

    Attributes:
        xyz: [S, J, 3], the true positions.
        missing: [S, J], joints that the truth itself lacks.
        raw: [S, J, 3], the raw stream without refinement: each joint where it was last seen.
        mm: millimetres per unit.
    """

    xyz: NDArray[np.float32]
    missing: NDArray[np.bool_]
    raw: NDArray[np.float32]
    mm: float

    @classmethod
    def of(cls, truth: Recording, estimate: Recording) -> Self:
        """From a clean recording and what the estimator delivered of it."""
        slots = int(estimate.slots[-1]) + 1
        xyz = np.zeros((slots, *truth.xyz.shape[1:]), np.float32)
        missing = np.ones(xyz.shape[:2], np.bool_)
        here = truth.slots < slots
        xyz[truth.slots[here]], missing[truth.slots[here]] = truth.xyz[here], truth.missing[here]
        raw = held(estimate.by_slot(estimate.xyz), ~estimate.by_slot(~estimate.missing))
        return cls(xyz, missing, raw, truth.mm_per_unit())

    def in_mm(self, poses: NDArray[np.float32]) -> NDArray[np.float32]:
        """Poses [S, J, 3] in mm, with the truth wherever the truth lacks a joint: it counts as right on both sides."""
        return np.where(self.missing[..., None], self.xyz, poses) * np.float32(self.mm)
