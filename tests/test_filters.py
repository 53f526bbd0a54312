"""Filters: against SciPy's and the package's, what they fill in, and that none looks further ahead than it may."""

import numpy as np
import pytest
from OneEuroFilter import OneEuroFilter
from scipy.ndimage import gaussian_filter1d
from scipy.signal import savgol_filter

from rtskel.errors import RtskelError
from rtskel.filters import FILLS, Filter
from rtskel.skeleton import UPPER_BODY_50

J = UPPER_BODY_50.joints
SPECS = [*FILLS, "gaussian:1.4", "linear+savitzky-golay:3,2", "median:2", "hold+one-euro:0.1,1,0.3"]


def poses(frames=60, seed=0):
    random = np.random.default_rng(seed)
    return np.cumsum(random.normal(0, 0.01, (frames, J, 3)), axis=0) + random.normal(0, 0.3, (J, 3))


def apply(spec, xyz, missing=None, lookahead=None):
    missing = np.zeros(xyz.shape[:2], bool) if missing is None else missing
    return Filter.parse(spec).apply(xyz, missing, lookahead, UPPER_BODY_50)


def test_complete_poses_are_smoothed_as_others_do():
    xyz = poses()
    gaussian = gaussian_filter1d(xyz, 1.4, axis=0, mode="nearest", radius=5)
    assert np.allclose(apply("gaussian:1.4", xyz), gaussian)
    assert np.allclose(apply("savitzky-golay:5,2", xyz), savgol_filter(xyz, 11, 2, axis=0, mode="nearest"))
    assert np.allclose(apply("median:1", xyz)[1:-1], np.median([xyz[:-2], xyz[1:-1], xyz[2:]], axis=0))
    package = OneEuroFilter(1.0, 0.05, 2.0, 0.3)
    assert np.allclose(apply("one-euro:0.05,2,0.3", xyz)[:, 9, 1], [package(x) for x in xyz[:, 9, 1]])
    assert np.array_equal(apply("parents", xyz), xyz)


def test_a_gap_is_filled_in():
    xyz, missing = poses(), np.zeros((60, J), bool)
    wrist, hand = UPPER_BODY_50.hands[1]
    missing[10:20, hand] = True
    seen = np.where(missing[..., None], 1e6, xyz)
    share = np.linspace(0, 1, 12)[1:-1, None, None]
    between = xyz[9, hand] + share * (xyz[20, hand] - xyz[9, hand])
    assert np.allclose(apply("linear", seen, missing)[10:20, hand], between)
    assert np.allclose(apply("hold", seen, missing)[10:20, hand], xyz[9, hand])
    assert np.allclose(apply("linear", seen, missing, 2)[10:18, hand], xyz[9, hand]), "the return is not seen yet"
    root = apply("parents", seen, missing)[10:20, hand[0]] - xyz[10:20, wrist]
    ends = xyz[[9, 20], hand[0]] - xyz[[9, 20], wrist]
    assert np.allclose(root, ends[0] + share[:, 0] * (ends[1] - ends[0])), "the hand moves with the arm"


@pytest.mark.parametrize("fill", FILLS)
def test_what_nobody_saw_lies_on_its_parent(fill):
    xyz, missing = poses(), np.zeros((60, J), bool)
    wrist, hand = UPPER_BODY_50.hands[0]
    missing[:, hand] = True
    assert np.allclose(apply(fill, np.where(missing[..., None], 0, xyz), missing)[:, hand], xyz[:, [wrist]])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("lookahead", [0, 3])
def test_no_filter_looks_further_ahead(spec, lookahead):
    xyz, random = poses(), np.random.default_rng(1)
    missing = random.random((60, J)) < 0.3
    whole = apply(spec, xyz, missing, lookahead)
    later = apply(spec, np.where(np.arange(60)[:, None, None] > 30, 5.0, xyz), missing, lookahead)
    assert np.array_equal(whole[: 31 - lookahead], later[: 31 - lookahead])
    assert not np.allclose(whole[31:], later[31:])


@pytest.mark.parametrize("spec", SPECS)
def test_a_name_is_read_as_it_is_written(spec):
    chosen = Filter.parse(spec)
    assert Filter.parse(str(chosen)) == chosen


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("butterworth:3", "unknown 'butterworth' (known: hold, linear"),
        ("nearest+gaussian:1", "unknown 'nearest'"),
        ("gaussian", "gaussian takes standard deviation in frames"),
        ("gaussian:x", "gaussian takes"),
        ("gaussian:0", "out of range"),
        ("savitzky-golay:2,3", "out of range"),
        ("median:1.5", "whole numbers"),
        ("one-euro:1,2", "least cutoff, its growth with speed, cutoff of the speed"),
        ("linear+", "unknown ''"),
    ],
)
def test_a_wrong_name_is_one_line(spec, words):
    with pytest.raises(RtskelError) as error:
        Filter.parse(spec)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
