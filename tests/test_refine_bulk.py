"""Sequences side by side in one bank: the same poses as one after the other, whoever else is in the batch."""

import threading

import numpy as np
import pytest

from rtskel.engine import NullEngine
from rtskel.errors import EngineError
from rtskel.refine import BulkRefiner, Refiner
from tests import contract

LENGTHS = (1, 2, 40, 7, 130, 64, 65, 3, 200, 12)


class Squeezing(NullEngine):
    """Says something of the whole window, and of no other."""

    def _run(self, x, missing, positions):
        y = np.tanh(x + np.where(missing[..., None], 0, x).mean(1, keepdims=True))
        return np.ascontiguousarray(y[:, positions], np.float32)


class Failing(Squeezing):
    fails = True

    def _run(self, x, missing, positions):
        if self.fails:
            raise EngineError("x.onnx: it broke")
        return super()._run(x, missing, positions)


def sequences(seed=0):
    for k, length in enumerate(LENGTHS):
        yield contract.sequence(length, seed=seed + k, missing=0.2)


def one_by_one(engine, xyz, confidence, **options):
    refiner = Refiner(engine, **options)
    return type(out := refiner.push(xyz, confidence)).concatenate([out, refiner.flush()])


@pytest.mark.parametrize("options", [{"lookahead": 4}, {"lookahead": 0, "radius": 0}, {"lookahead": None}])
@pytest.mark.parametrize("streams", [1, 3, 64])
@pytest.mark.parametrize("batch", [1, 16])
def test_the_same_as_one_by_one(options, streams, batch):
    given = list(sequences())
    with Squeezing(window=12, max_batch=batch) as engine, BulkRefiner(engine, streams=streams, **options) as refiner:
        found = [refiner.submit(*each) for each in given]
        for (xyz, confidence), out in zip(given, found, strict=True):
            want = one_by_one(engine, xyz, confidence, **options)
            for k, (a, b) in enumerate(zip(want.columns, out.result(60).columns, strict=True)):
                assert np.array_equal(a, b), k


def test_threads():
    given = list(sequences())
    with Squeezing(window=12, max_batch=16) as engine, BulkRefiner(engine, lookahead=4, streams=4) as refiner:
        found = [None] * len(given)

        def refine(k):
            found[k] = refiner.refine(*given[k])

        threads = [threading.Thread(target=refine, args=(k,)) for k in range(len(given))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for (xyz, confidence), out in zip(given, found, strict=True):
            assert np.array_equal(out.xyz, one_by_one(engine, xyz, confidence, lookahead=4).xyz)


def test_an_engine_that_fails():
    """The sequences that are on their way fail with its error; the next ones are refined."""
    with Failing(window=12, max_batch=4) as engine, BulkRefiner(engine, lookahead=4, streams=2) as refiner:
        waiting = [refiner.submit(*each) for each in sequences()]
        for each in waiting:
            with pytest.raises(EngineError, match="it broke"):
                each.result(60)
        engine.fails = False
        xyz, confidence = contract.sequence(50, seed=9)
        assert np.array_equal(refiner.refine(xyz, confidence).xyz, one_by_one(engine, xyz, confidence, lookahead=4).xyz)


def test_what_is_refused():
    with Squeezing(window=12, max_batch=4) as engine:
        with BulkRefiner(engine, lookahead=4) as refiner:
            with pytest.raises(ValueError, match=r"xyz has shape \(3, 50\), expected \[N, 50, 3\]"):
                refiner.refine(np.zeros((3, 50)))
            with pytest.raises(ValueError, match="confidence has shape"):
                refiner.refine(np.zeros((3, 50, 3)), np.ones((2, 50)))
            assert len(refiner.refine(np.zeros((0, 50, 3)))) == 0
        with pytest.raises(ValueError, match="closed"):
            refiner.refine(np.zeros((3, 50, 3)))
        with pytest.raises(ValueError, match="streams must be at least 1"):
            BulkRefiner(engine, streams=0)
