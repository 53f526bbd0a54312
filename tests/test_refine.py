"""The law, over both rings, with an engine on which every mistake shows."""

import numpy as np
import pytest

from rtskel.refine import Put, Refined, Refiner, RefinerBank, refine
from rtskel.refine.ring import native_ring
from rtskel.wire import Flag
from tests import contract
from tests.contract import MixingEngine, drain, sequence
from tests.oracles.ring import NumpyRing

BOTH = pytest.mark.parametrize("ring", [native_ring, NumpyRing], ids=["native", "numpy"])


@BOTH
@pytest.mark.parametrize("window", [1, 2, 7, 8])
@pytest.mark.parametrize("check", contract.ALL, ids=lambda check: check.__name__)
def test_law(check, window, ring):
    check(MixingEngine(window=window), ring, 1e-5)


def test_the_bound_is_exact():
    """One frame less than W // 2 + r of lookahead is not the offline protocol: the later of two equally central
    windows counts.
    """
    for window in (7, 8):
        engine = MixingEngine(window=window)
        xyz, _ = sequence(30, missing=0)
        offline = refine(xyz, engine=engine, radius=1)
        bound = window // 2 + 1
        assert np.array_equal(refine(xyz, engine=engine, radius=1, lookahead=bound), offline)
        assert np.abs(refine(xyz, engine=engine, radius=1, lookahead=bound - 1) - offline).max() > 1e-4


def test_the_rings_agree():
    """Native and numpy: the same bookkeeping to the bit, the same numbers to rounding, on a stream with everything in
    it.
    """
    engine = MixingEngine(max_batch=5)
    outs = []
    for ring in (native_ring, NumpyRing):
        bank = RefinerBank(engine, lookahead=(0, 3), radius=2, streams=4, min_confidence=0.3, ring=ring, ahead=20)
        rng = np.random.default_rng(0)
        parts, statuses = [], []
        for step in range(120):
            m = int(rng.integers(0, 6))
            stream = rng.integers(0, 4, m)
            slot = np.maximum(0, step // 3 + rng.integers(-6, 9, m))
            xyz = rng.normal(size=(m, 50, 3)) * 10.0 ** rng.integers(-2, 3)
            xyz[rng.uniform(size=xyz.shape) < 0.01] = np.nan
            statuses += bank.put(stream, slot, xyz, rng.uniform(-0.2, 1.2, (m, 50))).tolist()
            bank.settle([int(rng.integers(0, 4))], step // 3 - 3)
            if step == 80:
                bank.end([1, 2], [bank.newest[1], 60])
            if step == 100:
                bank.reset(1)
            parts.append(bank.step(max_windows=int(rng.integers(1, 9))))
            statuses += [bank.pending, *bank.watermark, *bank.newest, *bank.next_window, *bank.ended, *bank.drained]
        outs.append((Refined.concatenate([*parts, drain(bank)]), statuses))
    (a, states_a), (b, states_b) = outs
    assert states_a == states_b
    assert len(a) > 100
    assert set(Put) == set(np.unique([s for s in states_a if s in set(Put)]))
    for name in ("stream", "slot", "lookahead", "windows", "flags", "confidence"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    np.testing.assert_allclose(a.xyz, b.xyz, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.sigma, b.sigma, rtol=1e-4, atol=1e-5)


@BOTH
def test_flags(ring):
    engine = MixingEngine(window=8)
    xyz, confidence = sequence(30, missing=0)
    confidence[12] = 0
    refiner = Refiner(engine, lookahead=(0, 4), radius=1, ring=ring)
    out = Refined.concatenate([refiner.push(xyz, confidence), refiner.flush()])
    at0, at4 = out.select(lookahead=0), out.select(lookahead=4)
    assert (at0.windows == 1).all()
    assert (at4.windows == 2).all()
    for rows, warm in ((at0, 7), (at4, 4)):  # the first windows without padding: 7 for L=0, 4 + 4 - 1 for L=4
        assert not (rows.flags & Flag.PARTIAL_AVERAGE).any()
        assert np.flatnonzero(rows.flags & Flag.WARM_UP).tolist() == list(range(warm))
        assert np.flatnonzero(rows.flags & Flag.INTERPOLATED).tolist() == [12]
    assert not (at0.flags & Flag.FLUSHED).any()
    assert np.flatnonzero(at4.flags & Flag.FLUSHED).tolist() == [26, 27, 28, 29]


@BOTH
def test_nothing_known(ring):
    """Where no joint was ever seen the output is 0 from no windows, and a NaN from the engine never comes out."""
    refiner = Refiner(MixingEngine(), lookahead=2, ring=ring)
    out = Refined.concatenate([refiner.push(np.full((5, 50, 3), np.nan)), refiner.flush()])
    assert not out.xyz.any()
    assert not out.windows.any()
    assert (out.flags & Flag.PARTIAL_AVERAGE > 0).all()

    class Broken(MixingEngine):
        def run(self, x, missing, positions):
            y = super().run(x, missing, positions)
            y[0] = np.nan
            return y

    out = Refiner(Broken(max_batch=4), lookahead=4, ring=ring).push(sequence(40)[0])
    assert np.isfinite(out.xyz).all()
    assert set(out.windows) == {2, 3}, "broken predictions are left out of the average"
    assert ((out.flags & Flag.PARTIAL_AVERAGE > 0) == (out.windows < 3)).all()


@BOTH
def test_an_engine_that_fails_changes_nothing(ring):
    class Failing(MixingEngine):
        fail = False

        def run(self, x, missing, positions):
            if self.fail:
                raise RuntimeError("device lost")
            return super().run(x, missing, positions)

    engine = Failing()
    xyz, confidence = sequence(30)
    want = refine(xyz, engine=engine, confidence=confidence, lookahead=4, ring=ring)
    bank = RefinerBank(engine, lookahead=4, ring=ring)
    bank.put(np.zeros(30), np.arange(30), xyz, confidence)
    first = bank.step()
    engine.fail = True
    with pytest.raises(RuntimeError, match="device lost"):
        bank.step()
    engine.fail = False
    bank.end(0)
    np.testing.assert_array_equal(Refined.concatenate([first, drain(bank)]).xyz, want)


@BOTH
def test_streams_share_a_batch_fairly(ring):
    """A stream with a long backlog does not keep the others waiting."""
    bank = RefinerBank(MixingEngine(max_batch=8), lookahead=0, streams=5, ring=ring, ahead=200)
    xyz, _ = sequence(200)
    bank.put(np.zeros(200), np.arange(200), xyz)
    for s in range(1, 5):
        bank.put(s, 0, xyz[:1])
    first = bank.step()
    assert len(first) == 8
    assert set(first.stream) == {0, 1, 2, 3, 4}


@BOTH
def test_ahead(ring):
    bank = RefinerBank(MixingEngine(), lookahead=0, ring=ring, ahead=10)
    xyz, _ = sequence(30)
    status = bank.put(np.zeros(30), np.arange(30), xyz)
    assert (status == [Put.TAKEN] * 10 + [Put.AHEAD] * 20).all()
    drain(bank)
    assert (bank.put(np.zeros(20), np.arange(10, 30), xyz[10:])[:10] == Put.TAKEN).all()
    drain(bank)
    bank.settle(0, 100)
    assert len(drain(bank)) == 81
    assert bank.put(0, 50, xyz[:1])[0] == Put.LATE


@BOTH
def test_end_before_the_first_frame(ring):
    bank = RefinerBank(MixingEngine(), lookahead=4, ring=ring)
    bank.end(0)
    assert bank.pending == 0
    assert bank.drained.all()
    assert len(Refiner(MixingEngine(), ring=ring).flush()) == 0
    assert refine(np.zeros((0, 50, 3)), engine=MixingEngine(), ring=ring).shape == (0, 50, 3)


@BOTH
def test_misuse_names_the_offender(ring):
    engine = MixingEngine(window=8)
    for wrong, words in (
        ({"radius": 4}, "radius must be 0..3 for a window of 8, got 4"),
        ({"radius": -1}, "got -1"),
        ({"lookahead": -1}, "lookaheads"),
        ({"lookahead": (4, 4)}, "lookaheads"),
        ({"min_confidence": 2}, "min_confidence"),
    ):
        with pytest.raises(ValueError, match=words):
            Refiner(engine, ring=ring, **wrong)
    refiner = Refiner(engine, lookahead=2, ring=ring)
    with pytest.raises(ValueError, match=r"\(49, 3\)"):
        refiner.push(np.zeros((49, 3)))
    with pytest.raises(ValueError, match="confidence"):
        refiner.push(np.zeros((2, 50, 3)), np.ones(50))
    with pytest.raises(ValueError, match=r"\[N, J, 3\]"):
        refine(np.zeros((50, 3)), engine=engine, ring=ring)
    bank = RefinerBank(engine, streams=2, ring=ring)
    with pytest.raises(ValueError, match="out of range"):
        bank.put([0, 2], [0, 0], np.zeros((2, 50, 3)))
    with pytest.raises(ValueError, match="negative"):
        bank.put([0], [-1], np.zeros((1, 50, 3)))
    assert (bank.newest == -1).all()
