"""Refinement: windows of a stream through an engine, overlapping predictions averaged with a bounded look-ahead.

In: poses in canonical axes, slot by slot, and an engine. Out: refined poses with sigma and flags.
The law holds: whatever the chunks and orders, refining a stream equals refining the sequence (`tests/contract.py`).
"""

from rtskel.refine.refiner import Refiner, RefinerBank, WindowEngine, refine
from rtskel.refine.ring import Put, Refined, RingConfig

__all__ = ["Put", "Refined", "Refiner", "RefinerBank", "RingConfig", "WindowEngine", "refine"]
