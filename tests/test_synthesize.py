import itertools
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from rtskel.formats import Recording, read, sides_look_swapped
from rtskel.skeleton import NECK, SHOULDER_WIDTH, UPPER_BODY_50, axes_matrix
from rtskel.training import synthesize as module
from rtskel.training.synthesize import (
    EstimatorErrors,
    Track,
    demo_recording,
    estimator_errors,
    minimum_jerk,
    synthesize,
)

PARENTS = np.array(UPPER_BODY_50.parents)
JOINT = {name: joint for joint, name in enumerate(UPPER_BODY_50.names)}
SEEDS = range(6)


@pytest.fixture(scope="module")
def takes() -> list[Recording]:
    return [synthesize(8, 25, seed) for seed in SEEDS]


def bones(xyz: np.ndarray) -> np.ndarray:
    vectors = xyz - xyz[:, PARENTS]
    vectors[:, NECK] = 0
    return vectors


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_shape_and_seed() -> None:
    take = synthesize(2.0, 30, 7)
    assert take.xyz.shape == (60, 50, 3)
    assert (take.fps, take.unit, take.axes, take.mirrored) == (30, "m", "RDT", False)
    assert not take.missing.any()
    np.testing.assert_array_equal(take.xyz, synthesize(2.0, 30, 7).xyz)
    assert np.abs(take.xyz - synthesize(2.0, 30, 8).xyz).max() > 0.1
    with pytest.raises(ValueError, match="no frame"):
        synthesize(0.0, 25, 0)
    assert synthesize(0.04, 25, 0).frames == 1


def test_bones_are_those_of_one_body(takes: list[Recording]) -> None:
    typical = np.array(UPPER_BODY_50.bone_length)
    for take in takes:
        length = np.linalg.norm(bones(take.xyz), axis=-1)
        assert length.std(axis=0).max() < 2e-6
        length = length[0]
        np.testing.assert_allclose(length, length[list(UPPER_BODY_50.mirror)], rtol=1e-4)
        width = np.median(np.linalg.norm(take.xyz[:, 2] - take.xyz[:, 5], axis=-1))
        assert 0.3 < width < 0.44
        ratio = (length * SHOULDER_WIDTH / width)[[0, 3, 4, *range(9, 29)]] / typical[[0, 3, 4, *range(9, 29)]]
        assert 0.6 < ratio.min() < ratio.max() < 1.5
    assert len({round(float(np.linalg.norm(bones(t.xyz)[0, 3])), 4) for t in takes}) == len(takes), "bodies differ"


def test_axes_and_sides(takes: list[Recording]) -> None:
    for take in takes:
        assert not sides_look_swapped(take)
        x, y, z = np.moveaxis(take.xyz, -1, 0)
        for left, right in ((5, 2), (6, 3)):  # shoulders, elbows
            assert (x[:, left] > x[:, right]).all()
        assert (y[:, 0] < y[:, NECK] - 0.1).all(), "the head is up, y is down"
        assert (z[:, 0] > z[:, NECK]).mean() > 0.95, "the nose is in front of the neck"
        for wrist in (4, 7):
            assert (z[:, wrist] > z[:, NECK] + 0.03).all(), "hands are in front of the trunk"
        assert np.linalg.norm(take.xyz[:, NECK], axis=-1).max() < 0.12


def test_elbows_bend_as_elbows_do(takes: list[Recording]) -> None:
    for take in takes:
        vectors = bones(take.xyz)
        for shoulder in (2, 5):
            upper, fore = vectors[:, shoulder + 1], vectors[:, shoulder + 2]
            angle = np.degrees(np.arccos(np.sum(unit(upper) * unit(fore), axis=-1)))
            assert angle.min() > 5, "never stretched to a line, where the hinge would be undefined"
            assert angle.max() < 160
            # The elbow is below the line from shoulder to wrist, at most a little above, and outside.
            along = unit(upper + fore)
            out = upper - np.sum(upper * along, axis=-1, keepdims=True) * along
            assert (out[:, 1] > -0.12).all()
            assert np.mean(out[:, 1] > 0) > 0.9
            assert np.mean(out[:, 0] * (1 if shoulder == 5 else -1) > -0.03) > 0.95


def test_hands_face_and_curl_as_hands_do(takes: list[Recording]) -> None:
    for take in takes:
        vectors = bones(take.xyz)
        for name, sign in (("left", 1.0), ("right", -1.0)):
            index, little = (unit(vectors[:, JOINT[f"{name}_{finger}_1"]]) for finger in ("index", "little"))
            # Out of the palm: in canonical components, the cross product from fingers to thumb for the left hand.
            palm = unit(sign * np.cross(index, little))
            for finger in ("index", "middle", "ring", "little"):
                along = [unit(vectors[:, JOINT[f"{name}_{finger}_{segment}"]]) for segment in (1, 2, 3, 4)]
                curl = np.sum(along[2] * palm, axis=-1) - np.sum(along[1] * palm, axis=-1)
                straight = np.sum(along[1] * along[2], axis=-1)
                bent = (straight < 0.9) & (np.sum(along[0] * along[1], axis=-1) > 0.7)
                assert (curl[bent] > 0).all(), f"{name} {finger} curls away from the palm"
                for first, second in itertools.pairwise(along):
                    angle = np.degrees(np.arccos(np.clip(np.sum(first * second, axis=-1), -1, 1)))
                    assert angle.max() < 115


def test_palms_face_the_middle_when_the_forearm_is_not_turned() -> None:
    body = module.random_body(np.random.default_rng(0))
    upper, fore = np.array([[0.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 1.0]])  # elbow at the side, forearm to the front
    for name, sign in (("left", 1.0), ("right", -1.0)):
        for pronation, thumb_points in ((0, (0, -1, 0)), (90, (-sign, 0, 0))):  # up; inward, palm down
            turn = np.radians([[pronation, 0, 0]])
            hand = module._hand(body, name, sign, upper, fore, turn, module.HAND_SHAPES["open"][None])[0]
            thumb = hand[4] - hand[1]
            assert unit(thumb) @ thumb_points > 0.6, (name, pronation)
            flat = module._hand(body, name, sign, upper, fore, turn, module.HAND_SHAPES["fist, thumb beside"][None])[0]
            palm = flat[10] - flat[9]  # the middle finger's first segment, bent by 82 degrees
            assert unit(palm) @ ((-sign, 0, 0) if pronation == 0 else (0, 1, 0)) > 0.9


def test_motion_is_smooth_and_as_fast_as_signing(takes: list[Recording]) -> None:
    wrists = [take.xyz[:, [4, 7]] - take.xyz[:, [NECK]] for take in takes]
    speed = np.concatenate([np.linalg.norm(np.diff(w, axis=0), axis=-1).ravel() for w in wrists]) * 25
    turn = np.concatenate([np.linalg.norm(np.diff(w, 2, axis=0), axis=-1).ravel() for w in wrists]) * 25
    assert 0.2 < speed.mean() < 0.7  # m/s; PHOENIX14T smoothed over 5 frames: 0.5
    assert 1.0 < np.percentile(speed, 95) < 2.5
    assert turn.mean() < 0.6 * speed.mean(), "jitter would make acceleration as large as velocity"
    assert max(np.abs(np.diff(take.xyz, axis=0)).max() for take in takes) * 25 < 8


def test_more_frames_a_second_sample_the_same_motion() -> None:
    np.testing.assert_allclose(synthesize(4, 25, 3).xyz, synthesize(4, 50, 3).xyz[::2], atol=1e-6)


def test_tracks() -> None:
    track = Track(np.array([1.0]))
    assert track.at(np.array([0.0, 9.0])).tolist() == [[1], [1]]
    track.move(1, 2, np.array([3.0]), bulge=np.array([0.5]))
    track.move(4, 1, np.array([2.0]))
    np.testing.assert_allclose(track.at(np.array([0, 1, 2, 3, 4, 5, 9.0]))[:, 0], [1, 1, 2.5, 3, 3, 2, 2])
    assert minimum_jerk(np.array([-1, 0, 0.5, 1, 2])).tolist() == [0, 0, 0.5, 1, 1]


def test_rotations_are_rotations() -> None:
    angles = np.random.default_rng(0).normal(0, 0.4, (20, 3))
    matrix = module._rotation(angles)
    np.testing.assert_allclose(matrix @ matrix.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrix), 1)
    yaw, pitch, roll = (module._rotation(0.1 * np.eye(3)[[k]])[0] for k in range(3))
    assert (yaw @ [0, 0, 1])[0] > 0
    assert (pitch @ [0, -1, 0])[2] > 0
    assert (roll @ [0, -1, 0])[0] > 0
    assert axes_matrix("RDT").tolist() == np.eye(3).tolist()


# An estimator's errors


def test_errors_are_of_the_stated_size() -> None:
    truth = synthesize(40, 25, 0)
    errors = EstimatorErrors(hand_lost=0, joint_lost=0, frame_dropped=0, bad_frames=0)
    noisy = estimator_errors(truth, 1, errors)
    assert noisy.frames == truth.frames
    assert not noisy.missing.any()
    error = (noisy.xyz - truth.xyz) * 1000
    step = np.diff(error[:, [4, 7]], axis=0)  # the wander hardly moves in one frame: what moves is the jitter
    np.testing.assert_allclose(step.std(axis=(0, 1)) / np.sqrt(2), errors.jitter_mm, rtol=0.15)
    within = error[:, 9:29] - error[:, [8]]
    np.testing.assert_allclose(within.std(axis=(0, 1)) / np.sqrt(2), errors.finger_mm, rtol=0.1)
    slow = error[:, [4, 7], 2]
    assert np.corrcoef(slow[:-10].ravel(), slow[10:].ravel())[0, 1] > 0.3, "the error wanders"
    assert error[:, NECK].std() < 0.6 * error[:, 4].std()


def test_losses_are_of_the_stated_size() -> None:
    truth = synthesize(40, 25, 0)
    errors = EstimatorErrors(joint_lost=0)
    noisy = estimator_errors(truth, 2, errors)
    assert noisy.slots[0] == 0
    assert 0.05 < 1 - noisy.frames / truth.frames < 0.11
    lost = noisy.missing[:, [8, 29]].mean(axis=0)
    assert (lost > 0.06).all()
    assert (lost < 0.18).all()
    assert not noisy.missing[:, :8].any()
    assert not noisy.missing[0].any()
    single = estimator_errors(truth, 2, EstimatorErrors(hand_lost=0, frame_dropped=0, joint_lost=0.03))
    assert single.missing.mean() == pytest.approx(0.03, rel=0.1)
    assert (noisy.confidence[~noisy.missing] >= 0.3).all()


def test_errors_are_reproducible_and_keep_what_the_recording_says() -> None:
    truth = synthesize(3, 25, 0)
    a, b = estimator_errors(truth, 1), estimator_errors(truth, 1)
    np.testing.assert_array_equal(a.xyz, b.xyz)
    np.testing.assert_array_equal(a.slots, b.slots)
    assert (a.fps, a.unit, a.axes) == (truth.fps, truth.unit, truth.axes)
    none = EstimatorErrors((0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), 0, 1, 0, (1, 1), 0, 0)
    np.testing.assert_array_equal(estimator_errors(truth, 1, none).xyz, truth.xyz)
    hole = Recording(truth.xyz, 25, "a", confidence=np.where(np.arange(50) == 9, 0, 1) * np.ones((75, 1)))
    assert estimator_errors(hole, 1).missing[:, 9].all()


def test_errors_come_in_the_unit_of_the_recording() -> None:
    truth = synthesize(3, 25, 0)
    millimetres = Recording(truth.xyz * 1000, 25, "mm", unit="mm")
    a, b = estimator_errors(truth, 1), estimator_errors(millimetres, 1)
    np.testing.assert_allclose(a.xyz * 1000, b.xyz, atol=1e-2)


@pytest.mark.parametrize("change", [{"joint_lost": 1.5}, {"jitter_mm": (1, -1, 1)}, {"frame_dropped": float("nan")}])
def test_impossible_errors(change: dict) -> None:
    with pytest.raises(ValueError, match=r"share|0 or more expected"):
        EstimatorErrors(**change)


# The demo's recording


def test_bundled_recording_is_what_the_command_makes(tmp_path: Path) -> None:
    bundled = files("rtskel") / "assets" / "demo.npz"
    assert len(bundled.read_bytes()) < 300_000
    module.main([str(tmp_path / "demo.npz")])
    for made, kept in zip(read(tmp_path / "demo.npz"), read(Path(str(bundled))), strict=True):
        np.testing.assert_allclose(made.xyz, kept.xyz, atol=1.1 * 2**-14)  # rounding may tip over elsewhere
        np.testing.assert_array_equal(made.missing, kept.missing)
        np.testing.assert_array_equal(made.slots, kept.slots)
        assert (made.name, made.fps, made.unit) == (kept.name, kept.fps, kept.unit)


def test_demo_recording_shows_what_it_should() -> None:
    truth, estimate = demo_recording()
    assert (truth.name, estimate.name) == ("truth", "estimate")
    assert truth.frames == 300
    assert estimate.dropped > 10
    assert estimate.missing[:, 8:].mean() > 0.08
