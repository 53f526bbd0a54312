"""The bench of pairs measures what was put in."""

import numpy as np
import pairs as bench
import pytest

from tests.test_pairs import clip_of


def wandering(memory, spread, frames=4000, seed=0):
    """A clip whose estimate errs by first-order noise in every coordinate, at another scale and place."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, 0.3, (1, 50, 3)) + random.normal(0, 0.05, (frames, 50, 3)).cumsum(0) / 30
    fresh = random.normal(0, spread * np.sqrt(1 - memory**2), (frames, 50, 3))
    error = np.empty_like(fresh)
    error[0] = random.normal(0, spread, (50, 3))
    for frame in range(1, frames):
        error[frame] = memory * error[frame - 1] + fresh[frame]
    estimate = (truth + error / 1000) / 1.2 + [0.3, -0.1, 2]
    ones = np.ones((frames, 50), np.float32)
    return clip_of(
        frames,
        truth=truth.astype(np.float32),
        estimate=estimate.astype(np.float32),
        confidence=ones,
        truth_px=np.zeros((frames, 50, 2), np.float32),
        estimate_px=np.zeros((frames, 50, 3), np.float32),
        confidence_px=ones,
    )


def test_spread_and_autocorrelation_are_recovered():
    figures = bench.measured([wandering(0.9, 20.0)])["errors"]
    for axis in ("across", "depth"):
        of = figures[f"wrists and elbows, {axis}"]
        assert of["sd"] == pytest.approx(20, rel=0.15)
        assert of["lag1"] == pytest.approx(0.9, abs=0.02)
        assert of["lag5"] == pytest.approx(0.9**5, abs=0.06)
    white = bench.measured([wandering(0.0, 20.0)])["errors"]["wrists, across"]
    assert abs(white["lag1"]) < 0.05
    assert white["left"] == pytest.approx(20 * np.sqrt(8 / 9), rel=0.1)


def test_a_constant_offset_stays_and_is_no_spread():
    clip = wandering(0.9, 5.0)
    clip.estimate[:, 4, 0] += 0.05  # 60 mm of the body
    of = bench.measured([clip])["errors"]
    assert of["wrists, across"]["stays"] > 2 * of["shoulders, across"]["stays"]
    assert of["wrists, across"]["sd"] == pytest.approx(5, rel=0.2)


def test_what_is_lost_is_counted_and_is_no_error():
    clip = wandering(0.9, 20.0)
    clip.confidence[100:130, 29:50] = clip.confidence[500:510, 29:50] = 0
    clip.estimate[clip.confidence == 0] = np.nan
    found = bench.measured([clip])
    assert found["found"]["right hand"] == {
        "found": pytest.approx(1 - 40 / 4000),
        "median": 20,
        "p90": pytest.approx(28),
        "longest": 30,
    }
    assert found["found"]["left hand"]["found"] == 1
    assert np.isfinite(found["errors"]["fingers about the wrist, depth"]["sd"])
    assert bench.missing_runs(np.array([False, True, False, False])) == [1, 2]


def test_clips_without_a_person_have_no_errors():
    nobody = wandering(0.9, 20.0, frames=50)
    nobody.confidence[:] = 0
    nobody.estimate[:] = np.nan
    assert bench.measured([nobody])["errors"] == {}
