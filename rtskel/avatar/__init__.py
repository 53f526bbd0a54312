"""Joint rotations from joint positions, for avatars: VRM's humanoid bones, and forward kinematics back to positions.

In: positions of joints. Out: one rotation for each bone, relative to the bone that carries it (`Motion`).
Arrays in, arrays out: files are written by `rtskel.formats`, live avatars moved by `rtskel.sinks`.
"""

from rtskel.avatar.rig import AXES, BONES, Bone, Rig, rest_directions
from rtskel.avatar.rotation import quaternions
from rtskel.avatar.solver import Motion, Solver

__all__ = ["AXES", "BONES", "Bone", "Motion", "Rig", "Solver", "quaternions", "rest_directions"]
