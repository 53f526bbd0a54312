"""rtskel refines 3D skeletal poses in real time.

>>> import rtskel
>>> engine = rtskel.open_engine()                                   # the bundled Skeletor weights, on the CPU
>>> raw = rtskel.read("recording.npz")[0]                           # a Recording, in its own axes and unit
>>> rtskel.refine(raw, engine=engine, lookahead=4)                  # the refined Recording, in the same axes and unit
>>> rtskel.refine(xyz, confidence=c, axes="RDA", engine=engine)     # arrays: [N, 50, 3] -> [N, 50, 3]
>>> refiner = rtskel.Refiner(engine, lookahead=4, axes="RDA")       # or frame by frame: push, flush, reset, latency
"""

from rtskel.client import GroupPublisher, Publisher, Subscriber
from rtskel.engine import Engine, EngineInfo, open_engine
from rtskel.errors import EngineError, FormatError, RtskelError, ServeError, WireError
from rtskel.flags import Flag
from rtskel.formats import Recording, read, write
from rtskel.lift import Lifted, Lifter
from rtskel.recordings import Refiner, lift, refine
from rtskel.refine import Put, Refined, RefinerBank
from rtskel.skeleton import SKELETONS, UPPER_BODY_50, Skeleton, from_canonical, to_canonical
from rtskel.wire import RefinedPose

__version__ = "0.1.0"

__all__ = [
    "SKELETONS",
    "UPPER_BODY_50",
    "Engine",
    "EngineError",
    "EngineInfo",
    "Flag",
    "FormatError",
    "GroupPublisher",
    "Lifted",
    "Lifter",
    "Publisher",
    "Put",
    "Recording",
    "Refined",
    "RefinedPose",
    "Refiner",
    "RefinerBank",
    "RtskelError",
    "ServeError",
    "Skeleton",
    "Subscriber",
    "WireError",
    "__version__",
    "from_canonical",
    "lift",
    "open_engine",
    "read",
    "refine",
    "to_canonical",
    "write",
]
