"""Lifting: 2D poses get a depth.

In: 2D poses of one person, a whole sequence or frame by frame. Out: 3D poses in the unit and place of the image.
Must hold: bones have constant lengths, the image of the result is what the estimator saw, and chunks do not matter.
"""

from rtskel.lift.config import LiftConfig
from rtskel.lift.lifter import Lifted, Lifter, lift

__all__ = ["LiftConfig", "Lifted", "Lifter", "lift"]
