"""The options of lifting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LiftConfig:
    """Weights of the objective, and when to stop minimising it.

    Attributes:
        trajectory: weight of the squared path from frame to frame, at 25 frames a second. It grows with the square of
            the frame rate, so that motion is smoothed over the same time.
        lengths: weight of the sum of bone lengths.
        depth: weight of the squared difference between a bone's depth and its typical depth. The length of a bone near
            the image plane says little about its depth (an error of 1% in length is one of 14% in depth) and nothing
            about the sign. 0: the paper's objective.
        proportions: typical bone lengths weigh as much as this many frames of the recording.
        iterations: maximum of L-BFGS iterations for a recording.
        tolerance: stop when an iteration gains less than this share of the objective.
        stream_iterations, stream_tolerance: the same for each frame of a stream.
        memory_s: seconds over which a stream learns bone lengths.
        least_body: frames are masked whose mean confidence over the joints of the body is below this.
    """

    trajectory: float = 0.1
    lengths: float = 1e-4
    depth: float = 0.03
    proportions: float = 10.0
    iterations: int = 200
    tolerance: float = 1e-6
    stream_iterations: int = 15
    stream_tolerance: float = 1e-4
    memory_s: float = 10.0
    least_body: float = 0.3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < np.inf and name != "memory_s":
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not self.memory_s > 0:
            raise ValueError(f"memory_s must be above 0, got {self.memory_s}")
