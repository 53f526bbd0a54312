"""The peers of the accuracy bench: none looks beyond its lookahead, and each does what its name says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from filterpy.kalman import KalmanFilter, rts_smoother
from OneEuroFilter import OneEuroFilter

from rtskel.engine.base import NullEngine
from rtskel.evaluate import evaluate
from rtskel.skeleton import UPPER_BODY_50
from tests.test_data import motion

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))  # the benches are scripts, not a package

import accuracy
import peers
from peers import PEERS, Body, Example

J = UPPER_BODY_50.joints


def clean(seed=0, frames=40):
    """Smooth motion of a body whose joints hang together: [N, J, 3]."""
    random = np.random.default_rng(seed)
    phase = 2 * np.pi * random.random((4, 1))
    drive = np.sin(np.arange(frames) * random.uniform(0.1, 0.3, (4, 1)) + phase).T  # [N, 4]
    shape = np.random.default_rng(7)
    rest = 0.1 * shape.standard_normal((J, 3))
    xyz = rest + np.einsum("nk,kjc->njc", drive, 0.05 * shape.standard_normal((4, J, 3)))
    for joint in UPPER_BODY_50.order:
        if UPPER_BODY_50.parents[joint] >= 0:
            xyz[:, joint] += xyz[:, UPPER_BODY_50.parents[joint]]
    return xyz - xyz[:, [UPPER_BODY_50.root]]


def damaged(truth, seed=0, noise=0.02, lost=0.3):
    random = np.random.default_rng(seed)
    missing = random.random(truth.shape[:2]) < lost
    missing[10:14] = True
    missing[:, 20] = True
    missing[:, UPPER_BODY_50.root] = False
    xyz = truth + noise * random.standard_normal(truth.shape)
    return Example(truth, np.where(missing[..., None], 0.0, xyz), missing)


@pytest.fixture(scope="module")
def body():
    return Body.learn([clean(k) for k in range(6)], UPPER_BODY_50.parents, UPPER_BODY_50.order)


def fitted(kind, body, lookahead):
    peer = kind(body)
    peer.fit([damaged(clean(k), k) for k in range(2)], lookahead)
    return peer


@pytest.mark.parametrize("lookahead", [0, 4])
@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
def test_no_peer_uses_frames_beyond_its_lookahead(kind, lookahead, body):
    peer, (_, xyz, missing) = fitted(kind, body, lookahead), damaged(clean(9), lost=0.5)
    for setting in (kind.settings[0], *kind.settings[1::5], kind.settings[-1]):
        whole = peer.apply(xyz, missing, lookahead, setting)
        assert np.isfinite(whole).all()
        for frames in (12, 13, 20, 27, 39):
            part = peer.apply(xyz[:frames], missing[:frames], lookahead, setting)
            known = frames - lookahead
            assert np.allclose(part[:known], whole[:known], atol=1e-9), setting


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
def test_sequences_together_are_sequences_alone(kind, body):
    peer = fitted(kind, body, None)
    sequences = [(e.xyz, e.missing) for e in (damaged(clean(k, n), k) for k, n in enumerate((40, 25, 31)))]
    for setting in (kind.settings[0], kind.settings[-1]):
        together = peer.apply_all(sequences, None, setting)
        for out, (xyz, missing) in zip(together, sequences, strict=True):
            assert np.allclose(out, peer.apply(xyz, missing, None, setting), atol=1e-9)


def test_linear_interpolation_is_exact_on_linear_motion(body):
    truth = np.arange(30.0)[:, None, None] * np.ones((J, 3)) + np.arange(J)[:, None]
    missing = np.random.default_rng(1).random((30, J)) < 0.4
    missing[[0, -1]] = False
    xyz = np.where(missing[..., None], 1e9, truth)
    assert np.allclose(peers.Linear(body).apply(xyz, missing, None), truth)
    held = peers.Hold(body).apply(xyz, missing, 4)
    assert held[missing].max() < 1e8
    assert np.allclose(held[~missing], truth[~missing])
    assert np.allclose(peers.ParentRelative(body).apply(xyz, missing, None), truth)


def test_joints_never_seen_are_at_their_mean_or_at_the_end_of_their_mean_bone(body):
    truth = clean(9)
    missing = np.zeros(truth.shape[:2], bool)
    missing[:, 20] = True
    assert np.allclose(peers.Linear(body).apply(truth, missing, 4)[:, 20], body.mean[20])
    bone = peers.ParentRelative(body).apply(truth, missing, 4)[:, 20] - truth[:, UPPER_BODY_50.parents[20]]
    assert np.allclose(bone, body.bone[20])


def test_spatial_gaussian_fills_a_missing_joint_better_than_the_mean(body):
    truth = clean(9)
    missing = np.zeros(truth.shape[:2], bool)
    missing[:, [4, 20]] = True
    out = peers.SpatialGaussian(body).apply(np.where(missing[..., None], 0, truth), missing, 0, (1e-6,))
    assert np.array_equal(out[~missing], truth[~missing])
    off, usual = (np.square(x[:, [4, 20]] - truth[:, [4, 20]]).mean() for x in (out, body.mean[None]))
    assert off < 0.05 * usual


def test_wiener_learns_what_is_to_be_removed(body):
    peer = peers.Wiener(body)
    peer.fit([damaged(clean(k, 80), k, lost=0.1) for k in range(3)], 4)
    truth, xyz, missing = damaged(clean(9), 9, lost=0.1)
    raw, out = peer.apply(xyz, missing, 4), peer.apply(xyz, missing, 4, (4, 0))
    seen = ~missing
    assert np.square(out - truth)[seen].mean() < 0.5 * np.square(raw - truth)[seen].mean()


def test_one_euro_is_the_package(body):
    x = damaged(clean(3), 3).xyz[:, 4]
    least, beta, speed = 0.05, 5.0, 0.3
    out = peers.one_euro(x, least, beta, speed)
    for axis in range(3):
        reference = OneEuroFilter(1.0, least, beta, speed)
        assert np.allclose(out[:, axis], [reference(value) for value in x[:, axis]])


@pytest.mark.parametrize("lookahead", [0, 3, None])
def test_kalman_is_filterpy(lookahead):
    _, xyz, missing = damaged(clean(3), 3)
    q, d, joint = 0.3, 0.8, 12
    start = np.zeros((J, 3))
    out = peers.kalman(xyz, missing, np.full(J, q), d, start, lookahead)[:, joint, 1]

    kf = KalmanFilter(dim_x=2, dim_z=1)
    kf.F, kf.H, kf.Q = np.array([[1, d], [0, d]]), np.array([[1.0, 0.0]]), np.full((2, 2), q)
    kf.R, kf.P, kf.x = np.eye(1), np.diag([1e8, q / (1 - d * d)]), np.zeros((2, 1))
    means, covariances, predicted = [], [], []
    for t in range(len(xyz)):
        if t:
            kf.predict()
        predicted.append(kf.P)
        kf.update(None if missing[t, joint] else xyz[t, joint, 1])
        means.append(kf.x.copy())
        covariances.append(kf.P.copy())
    means, covariances = np.array(means), np.array(covariances)
    for t in range(len(xyz)):
        last = len(xyz) if lookahead is None else min(t + lookahead + 1, len(xyz))
        size = last - t
        smooth, *_ = rts_smoother(means[t:last], covariances[t:last], np.array([kf.F] * size), np.array([kf.Q] * size))
        assert out[t] == pytest.approx(smooth[0, 0, 0], abs=1e-5)


def test_tuning_leaves_clean_input_alone(body):
    truth = [clean(k).astype(np.float32) for k in (8, 9)]
    fitting, tuning = (accuracy.examples(truth, "clean", seed) for seed in (2, 1))
    task = accuracy.Task("clean", body, fitting, [], tuning, {"scored": tuning}, list(range(J)), ["4"])
    for name, found in accuracy.measure_peers(task)["4"].items():
        assert found["scored"][accuracy.tuned(found, ["mse"])].mse < 1e-12, name


def test_estimator_errors_are_what_the_protocol_says():
    truth = np.zeros((20000, 8, 3), np.float32)
    seen, missing = accuracy.estimator(truth, 1)
    again, _ = accuracy.estimator(truth, 1)
    assert np.array_equal(seen, again)
    wrists = [UPPER_BODY_50.names.index(name) for name in ("left_wrist", "right_wrist")]
    assert missing[:, wrists].mean() == pytest.approx(0.1, abs=0.01)
    assert missing.sum() == missing[:, wrists].sum()
    error = seen[:, 0] * accuracy.MM_PER_UNIT
    white = np.sqrt(np.array([5.0, 5.0, 13.0]) ** 2 * (0.92 + 0.08 * 9))
    assert error.std(0) == pytest.approx(np.hypot([17, 17, 100], white), rel=0.2)
    step = np.diff(error, axis=0)
    assert step.std(0) == pytest.approx(np.sqrt(2 * white**2 + [17**2 * 0.08, 17**2 * 0.08, 100**2 * 0.02]), rel=0.05)


def test_other_bones_are_five_percent_off():
    truth = clean(2).astype(np.float32)
    (out,) = accuracy.other_bones([truth])
    up = [max(p, 0) for p in UPPER_BODY_50.parents]
    bones = [j for j, p in enumerate(UPPER_BODY_50.parents) if p >= 0]
    factor = (np.linalg.norm(x - x[:, up], axis=-1)[:, bones] for x in (out, truth))
    factor = np.log(np.divide(*factor))
    assert np.allclose(factor, factor[0], atol=1e-4)
    assert factor[0].std() == pytest.approx(0.05, rel=0.4)


def test_engine_is_measured_as_evaluate_measures_it(body):
    truth = [motion(20, seed) for seed in range(2)]
    examples = accuracy.examples(truth, "frame_noise_0.5", accuracy.SEED)
    joints = accuracy.joint_groups(UPPER_BODY_50.id)["all"]
    task = accuracy.Task("frame_noise_0.5", body, [], [], [], {"scored": examples}, joints, list(accuracy.LOOKAHEADS))
    engine = NullEngine(window=8)
    found = accuracy.measure_engine([task], engine)["frame_noise_0.5"]["scored"]
    assert list(found) == ["0", "4", "offline"]
    expected = evaluate(truth, engine, conditions=["frame_noise_0.5"], lookaheads=(4,))
    assert found["4"]["2"] == pytest.approx((expected[0].mse, expected[0].mpjpe, expected[0].acceleration))


def made_up(errors):
    """Peers "a" and "b" with two settings each, by their errors under two conditions."""
    return {
        condition: {
            label: {
                peer: {"settings": [None, [1]]}
                | {key: [[e, e, e] for e in row] for key in ("tuned", "scored", "jittered")}
                for peer, row in by_peer.items()
            }
            for label in accuracy.LOOKAHEADS
        }
        for condition, by_peer in errors.items()
    }


def test_ratios():
    measured = made_up(
        {
            "frame_mask": {"a": [1.0, 4.0], "b": [3.0, 2.0]},
            "dense_noise_0.3": {"a": [8.0, 2.0], "b": [3.0, 8.0]},
        }
    )
    ours = {
        c: {name: {label: {"2": [1.0, 1, 1], "0": [2.0, 1, 1]} for label in accuracy.LOOKAHEADS} for name in sets}
        for c in measured
        for sets in [("scored", "jittered")]
    }
    entry = accuracy.compare(measured, ours)["0"]["mse"]
    assert entry["best_mean"] == pytest.approx(2**0.5)
    assert (entry["single"]["best"], entry["single_to_best"]) == ("a", pytest.approx(2.0))
    assert entry["ratio"] == {"frame_mask": 1.0, "dense_noise_0.3": 0.5}
    assert (entry["ratio_mean"], entry["ratio_worst"]) == (pytest.approx(0.5**0.5), 1.0)
    assert entry["ratio_to_single"] == pytest.approx(1 / 8**0.5)
    assert set(entry["radius_2_over_0"].values()) == {0.5}
    assert "ours / best of each" in "\n".join(accuracy.phoenix_lines(accuracy.compare(measured, ours)))


def test_cache_is_used_until_something_changes(tmp_path, body, monkeypatch):
    truth = [clean(8).astype(np.float32)]
    made = accuracy.examples(truth, "frame_mask", 1)
    task = accuracy.Task("frame_mask", body, made, made, made, {"scored": made}, [2, 3], ["0"])
    assert accuracy.fingerprint(task) == accuracy.fingerprint(task)
    assert accuracy.fingerprint(task) != accuracy.fingerprint(task._replace(train=[]))
    cache = tmp_path / "peers.json"
    cache.write_text(json.dumps({accuracy.fingerprint(task): {"0": "known"}}))
    assert accuracy.all_peers([task], cache, jobs=1) == {"frame_mask": {"0": "known"}}
    cache.write_text("no")
    with pytest.raises(accuracy.RtskelError, match=r"peers\.json"):
        accuracy.all_peers([task], cache, jobs=1)
