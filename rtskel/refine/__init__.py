"""Refinement: windows of a stream through an engine, overlapping predictions averaged with a bounded lookahead.

In: poses in canonical axes, slot by slot, and an engine. Out: refined poses with sigma and flags.
The law holds: whatever the chunks and orders, refining a stream equals refining the sequence (`tests/contract.py`).
"""

from rtskel.refine.bank import RefinerBank, WindowEngine
from rtskel.refine.bulk import BulkRefiner
from rtskel.refine.config import Put, Refined, RingConfig
from rtskel.refine.refiner import Refiner, refine

__all__ = ["BulkRefiner", "Put", "Refined", "Refiner", "RefinerBank", "RingConfig", "WindowEngine", "refine"]
