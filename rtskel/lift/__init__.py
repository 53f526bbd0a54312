"""Lifting: 2D poses get a depth.

In: 2D poses of one person, a sequence or frame by frame. Out: 3D poses, root and bone lengths.
Bones keep one length and the image of the result is what the estimator saw.
"""

from rtskel.lift.lifter import LiftConfig, Lifted, Lifter, lift

__all__ = ["LiftConfig", "Lifted", "Lifter", "lift"]
