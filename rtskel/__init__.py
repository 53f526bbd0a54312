"""rtskel refines 3D skeletal poses in real time.

>>> import rtskel
>>> engine = rtskel.open_engine()                                   # the bundled Skeletor weights, on the CPU
>>> rtskel.refine(xyz, confidence=c, engine=engine, lookahead=4)    # [N, 50, 3] -> [N, 50, 3]
>>> refiner = rtskel.Refiner(engine, lookahead=4)                   # or frame by frame: push, flush, reset, latency
"""

from rtskel.client import GroupPublisher, Publisher, Subscriber
from rtskel.engine import Engine, EngineInfo, open_engine
from rtskel.errors import EngineError, FormatError, RtskelError, ServeError, WireError
from rtskel.flags import Flag
from rtskel.formats import Recording, read, write
from rtskel.lift import Lifted, Lifter, lift
from rtskel.refine import Put, Refined, Refiner, RefinerBank, refine
from rtskel.skeleton import SKELETONS, UPPER_BODY_50, Skeleton, from_canonical, to_canonical

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
