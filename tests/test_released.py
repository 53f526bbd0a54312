"""The released weights keep the law and know what they are, in every engine that runs them here."""

from pathlib import Path

import numpy as np
import pytest

from rtskel.engine import NAMES, bundled, open_engine
from rtskel.refine.ring import native_ring
from tests import contract

ENGINES = Path(__file__).resolve().parents[1] / "engines"

TOLERANCE = 1e-4
"""Canonical units. The network is deep and rounds differently from one batch size to the next."""


def reference_of(name):
    """The file for PyTorch of bundled weights."""
    return (ENGINES / NAMES[name]).with_suffix(".safetensors")


@pytest.fixture(scope="module", params=[*NAMES, "null"])
def engine(request):
    """The engines that a server without a GPU runs, with the real window."""
    with open_engine(request.param, max_batch=16, window=32) as engine:
        yield engine


@pytest.mark.parametrize("check", contract.ALL, ids=lambda check: check.__name__)
def test_law(check, engine):
    check(engine, native_ring, TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_both_files_hold_the_same_weights(name):
    pytest.importorskip("torch")
    xyz, confidence = contract.sequence(96)
    x = np.stack([xyz[k : k + 32] for k in range(0, 65, 16)])
    missing = np.stack([confidence[k : k + 32] == 0 for k in range(0, 65, 16)])
    with open_engine(name, max_batch=8) as fast, open_engine(reference_of(name), max_batch=8) as reference:
        assert fast.info.weights_hash == reference.info.weights_hash
        assert fast.info.model_id == reference.info.model_id
        np.testing.assert_allclose(fast.run(x, missing), reference.run(x, missing), rtol=0, atol=TOLERANCE)


def test_they_are_small_enough():
    assert sum(bundled(name).stat().st_size + reference_of(name).stat().st_size for name in NAMES) <= 40_000_000
