"""Where the real recordings lie that some tests read but that the project may not contain."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("RTSKEL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def shared_data(relative: str) -> Path:
    """The path of a shared recording; the calling test is skipped where it is absent."""
    path = ROOT / relative
    if not path.exists():
        pytest.skip(f"real data {relative} not found under {ROOT} (set RTSKEL_DATA)")
    return path
