"""Maps from an estimator's joints to the body's: learnt from pairs, applied frame by frame, kept in a file."""

import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.formats.jointmap import JointMap, mediapipe_map
from rtskel.formats.mediapipe import Assembler
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, UPPER_BODY_50
from rtskel.training.paired import learn_map, read_pairs
from tests.test_paired import clip

SHOULDERS = [LEFT_SHOULDER, RIGHT_SHOULDER]
HAND = list(UPPER_BODY_50.groups["left_hand"])


@pytest.fixture
def folder(tmp_path):
    """Pairs of an estimator that sees shoulders 50 mm too high."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for k in range(3):
        content = clip(seed=k, lost=False)
        content["estimate"][:, SHOULDERS, 1] -= 0.05
        np.savez(folder / f"{k}.npz", **content)
    return folder


@pytest.mark.parametrize("axes", ["RDA", "RUT"])
def test_a_map_mends_what_an_estimator_means_by_a_joint(folder, axes):
    pairs = read_pairs(folder)
    mapped = read_pairs(folder, learn_map(pairs, axes))
    for before, after in zip(pairs, mapped, strict=True):
        np.testing.assert_array_equal(after.truth, before.truth)
        off = [np.abs(p.seen - p.truth)[:, SHOULDERS, 1].mean() for p in (before, after)]
        assert off[1] < 0.2 * off[0]


def test_it_applies_where_the_whole_body_was_found(folder):
    (pair, *_) = pairs = read_pairs(folder)
    learnt = learn_map(pairs)
    missing = np.zeros_like(pair.missing)
    missing[3, 4] = True
    missing[5, HAND] = True
    xyz = pair.seen.astype(np.float64)
    out, shift = learnt.apply(xyz, missing), np.array([1.0, 2, 3])
    np.testing.assert_array_equal(out[3], xyz[3])  # a wrist is missing
    np.testing.assert_array_equal(out[5, HAND], xyz[5, HAND])
    assert np.abs(out - xyz)[[0, 5]][:, SHOULDERS].max() > 0.01
    np.testing.assert_allclose(learnt.apply(xyz + shift, missing), out + shift, atol=1e-6)  # anywhere


def test_it_is_kept_in_a_file(folder, tmp_path):
    learnt = learn_map(read_pairs(folder))
    learnt.save(tmp_path / "map.npz")
    again = JointMap.load(tmp_path / "map.npz")
    assert again.axes == learnt.axes
    np.testing.assert_array_equal(again.weights, learnt.weights)
    np.savez(tmp_path / "other.npz", weights=np.zeros((3, 50, 3)), axes="RDA")
    for name in ("other.npz", "none.npz"):
        with pytest.raises(FormatError, match="not a map of joints"):
            JointMap.load(tmp_path / name)


def test_that_of_mediapipe_is_mild_and_the_same_on_both_sides():
    """Left and right are mirror images, for it was learnt from both."""
    xyz = np.zeros((1, 50, 3))
    xyz[0, [0, 2, 3, 4]] = [[0, -0.15, -0.1], [-0.18, 0, 0], [-0.22, 0.25, 0], [-0.2, 0.3, -0.2]]
    xyz[0, 5:8] = xyz[0, 2:5] * [-1, 1, 1]
    offset = (mediapipe_map().apply(xyz, np.zeros((1, 50), bool)) - xyz)[0]

    np.testing.assert_allclose(offset, offset[list(UPPER_BODY_50.mirror)] * [-1, 1, 1], atol=2e-4)
    assert np.linalg.norm(offset, axis=-1).max() < 0.15


def test_landmarks_are_corrected_where_that_is_asked_for():
    rng = np.random.default_rng(0)
    points = {"POSE_WORLD_LANDMARKS": rng.normal(0, 0.3, (33, 3)), "POSE_LANDMARKS": rng.uniform(0, 500, (33, 3))}
    sure = {name: np.ones(33) for name in points}
    plain, confidence = Assembler(world=True).joints(points, sure)
    mended, also = Assembler(world=True, corrected=True).joints(points, sure)
    np.testing.assert_array_equal(confidence, also)
    expected = mediapipe_map().apply(plain[None], confidence[None] == 0)[0]
    np.testing.assert_array_equal(mended, expected)
    assert np.abs(mended - plain).max() > 0.005
