"""The peers of the accuracy bench: none looks beyond its lookahead, and each does what its name says."""

import argparse
from dataclasses import replace
from pathlib import Path

import accuracy
import numpy as np
import peers
import pytest
import smoothnet
import tables
import torch
from filterpy.kalman import KalmanFilter, rts_smoother
from measure.poses import Example
from OneEuroFilter import OneEuroFilter
from peers import PEERS, Body
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.signal import savgol_filter
from scipy.stats import median_abs_deviation

from rtskel.engine.base import NullEngine
from rtskel.formats import SKELS_UNIT, Recording, write
from rtskel.model import SkeletorConfig
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.data import Corpus, Sequence, write_corpus
from rtskel.training.evaluate import ESTIMATOR, evaluate
from tests.test_data import motion

J = UPPER_BODY_50.joints
ALL = (*PEERS, smoothnet.SmoothNetPeer)
TINY = SkeletorConfig(window=32, d_model=16, heads=2, d_ff=16, layers=1, fill=True)


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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of made-up motion, two sources of it."""
    folder = tmp_path_factory.mktemp("corpus")
    parts = [("s0", "phoenix", "train"), ("s1", "bandai", "train"), ("d0", "phoenix", "dev")]
    write_corpus(
        folder,
        [
            (Sequence(name, source, split, 25.0, 0, 0), clean(k, 80).astype(np.float32))
            for k, (name, source, split) in enumerate(parts)
        ],
    )
    return folder


@pytest.fixture(scope="module")
def network(corpus, tmp_path_factory):
    """SmoothNet's weights after a few updates."""
    path = tmp_path_factory.mktemp("network") / "smoothnet.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoothnet, "CONFIG", replace(smoothnet.CONFIG, model=TINY, sources={"phoenix": 1.0}))
        smoothnet.train(path, corpus, 5)
    return path


def made(kind, body, network):
    return kind(body, network) if kind is smoothnet.SmoothNetPeer else kind(body)


def fitted(kind, body, lookahead, network):
    peer = made(kind, body, network)
    peer.fit([damaged(clean(k), k) for k in range(2)], lookahead)
    return peer


@pytest.mark.parametrize("lookahead", [0, 4])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_no_peer_uses_frames_beyond_its_lookahead(kind, lookahead, body, network):
    peer, (_, xyz, missing) = fitted(kind, body, lookahead, network), damaged(clean(9), lost=0.5)
    for setting in (kind.settings[0], *kind.settings[1::5], kind.settings[-1]):
        whole = peer.apply(xyz, missing, lookahead, setting)
        assert np.isfinite(whole).all()
        for frames in (12, 13, 20, 27, 39):
            part = peer.apply(xyz[:frames], missing[:frames], lookahead, setting)
            known = frames - lookahead
            assert np.allclose(part[:known], whole[:known], atol=1e-9 if kind in PEERS else 1e-6), setting


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_sequences_together_are_sequences_alone(kind, body, network):
    peer = fitted(kind, body, None, network)
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


def test_interpolation_is_numpys(body):
    truth, xyz, missing = damaged(clean(3), 3)
    out = peers.Linear(body).apply(xyz, missing, None)
    for joint in (0, 5, 33):
        seen = np.flatnonzero(~missing[:, joint])
        for axis in range(3):
            expected = np.interp(np.arange(len(xyz)), seen, xyz[seen, joint, axis])
            assert np.allclose(out[:, joint, axis], expected)
    assert np.isfinite(truth).all()


def test_window_filters_are_scipys(body):
    """Offline, where nothing is missing; at the ends too where the package repeats the last value."""
    xyz = clean(3) + 0.02 * np.random.default_rng(3).standard_normal(clean(3).shape)
    there = np.zeros(xyz.shape[:2], bool)

    def smooth(peer, *setting):
        return peer(body).apply(xyz, there, None, setting)

    assert np.allclose(smooth(peers.SavitzkyGolay, 5, 2), savgol_filter(xyz, 11, 2, axis=0, mode="nearest"))
    assert np.allclose(smooth(peers.Gaussian, 1.4), gaussian_filter1d(xyz, 1.4, axis=0, mode="nearest", radius=5))
    median = median_filter(xyz, size=(7, 1, 1), mode="nearest")
    assert np.allclose(smooth(peers.Median, 3), median)
    windows = np.lib.stride_tricks.sliding_window_view(xyz, 7, axis=0)
    deviation = median_abs_deviation(windows, axis=-1, scale="normal")
    inner = slice(3, -3)
    expected = np.where(np.abs(xyz - median)[inner] > 2 * deviation, median[inner], xyz[inner])
    out = smooth(peers.Hampel, 3, 2.0)[inner]
    assert np.mean(np.isclose(out, expected)) > 0.999  # 1.4826 is rounded
    assert 0.01 < np.mean(out != xyz[inner]) < 0.5


def test_smoothnet_sees_each_coordinate_alone_and_starts_as_the_identity(body, network):
    x = torch.randn(7, 3, smoothnet.WINDOW)
    assert torch.equal(smoothnet.SmoothNet()(x), x)
    peer = smoothnet.SmoothNetPeer(body, network)
    assert not torch.equal(peer.network(x), x)
    assert torch.allclose(peer.network(x + 3.0), peer.network(x) + 3.0, atol=1e-4)
    moved = x.clone()
    moved[:, 1] += torch.randn(smoothnet.WINDOW)
    assert torch.equal(peer.network(moved)[:, [0, 2]], peer.network(x)[:, [0, 2]])


@pytest.mark.timeout(900)  # 60 updates are minutes where other processes want the cores
def test_smoothnet_learns(corpus):
    random = np.random.default_rng(0)
    config = replace(smoothnet.CONFIG, model=TINY, sources={"phoenix": 1.0}, kinds=("dense_noise",))
    network = smoothnet.learn(corpus, 60, config)
    wanted = clean(0, 200)[:160].reshape(5, 32, -1).transpose(0, 2, 1)
    noisy = torch.from_numpy(wanted + 0.02 * random.standard_normal(wanted.shape)).float()
    with torch.inference_mode():
        out = network(noisy).numpy()
    assert np.square(out - wanted).mean() < 0.8 * np.square(noisy.numpy() - wanted).mean()


def test_tuning_leaves_clean_input_alone(body):
    truth = [clean(k).astype(np.float32) for k in (8, 9)]
    fitting, tuning = (accuracy.examples(truth, "clean", seed) for seed in (2, 1))
    task = accuracy.Task("clean", body, fitting, [], tuning, {"scored": tuning}, list(range(J)), ["4"])
    for name, found in accuracy.measure_peers(task)["4"].items():
        assert found["scored"][accuracy.tuned(found, ["mse"])].mse < 1e-12, name


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
    assert list(found) == ["0", "1", "2", "4", "8", "offline"]
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
    assert entry["errors"]["best of each"] == {"frame_mask": 1.0, "dense_noise_0.3": 2.0}
    assert entry["settings"]["a"] == {"frame_mask": None, "dense_noise_0.3": [1]}
    assert entry["errors"]["one setting: a"] == {"frame_mask": 1.0, "dense_noise_0.3": 8.0}
    assert entry["ratios"]["ours / best of each"] == {"frame_mask": 1.0, "dense_noise_0.3": 0.5}
    assert entry["ratios"]["ours / one setting"] == {"frame_mask": 1.0, "dense_noise_0.3": 0.125}
    text = "\n".join(accuracy.phoenix_lines(accuracy.compare(measured, ours)))
    assert text.count("ours / best of each") == len(accuracy.COMPARED) * len(accuracy.TUNED_FOR)
    assert text.count("  bones jittered 5%") == text.count("one setting: a") == text.count("ours / best of each")


def test_the_estimators_ratio_is_of_both_errors():
    found = {"0": {"a": {"settings": [None, [1]], "tuned": [[0, 2, 1], [0, 1, 1]], "scored": [[0, 9, 9], [0, 2, 4]]}}}
    found["0"]["b"] = {"settings": [None], "tuned": [[0, 1, 1]], "scored": [[0, 1, 9]]}
    ours = {"scored": {"0": {"2": [0, 1, 1], "0": [0, 3, 3]}}}
    rows = accuracy.compare_estimator(found, ours)["0"]
    assert rows["ours / a"] == pytest.approx({"mpjpe": 0.5, "acceleration": 0.25, "mean": 0.125**0.5})
    assert rows["ours, radius 0"]["mpjpe"] == pytest.approx(3 * accuracy.CANONICAL_MM)
    result = {"phoenix": {}, "estimator": {"0": rows}, "by_lookahead": {"mse": {}}, "smoothnet": ""}
    assert any(line.startswith("ours / a") for line in accuracy.lines(result))


def test_errors_by_lookahead():
    def rows(*errors):
        return {k: {"2": [e, e, e], "0": [1.0, 1.0, 1.0]} for k, e in zip(accuracy.LOOKAHEADS, errors, strict=True)}

    errors = {"frame_mask": (1.0, 0.9, 0.8, 0.7, 0.6, 0.66), ESTIMATOR: (1, 1, 1, 1, 1.5, 1)}
    table = accuracy.by_lookahead({condition: {"scored": rows(*e)} for condition, e in errors.items()})
    assert table["mpjpe"][ESTIMATOR]["2"]["8"] == pytest.approx(1.5 * accuracy.CANONICAL_MM)
    assert table["mse"]["frame_mask"]["2"]["offline"] == 0.66
    text = "\n".join(accuracy.lookahead_lines(table))
    assert "by lookahead, radius 2" in text
    assert "mean of ten" in text


def options(tmp_path, **given):
    folder = tmp_path / "data" / "phoenix14t"
    folder.mkdir(parents=True)
    truth = [motion(n, n) for n in (10, 16)]
    for xyz in truth:
        xyz[:, 0, 2] = 0.1
    write(folder / "dev.skels", [Recording(x, 25.0, f"s{len(x)}", unit=SKELS_UNIT) for x in truth])
    given = {"data": tmp_path / "data", "jobs": 2, "engine": None} | given
    return argparse.Namespace(**given)


def test_tables_are_of_models_trained_for_their_level(tmp_path, corpus, monkeypatch):
    small = replace(tables.RECIPES["paper"], model=replace(TINY, fill=False))
    monkeypatch.setattr(tables, "RECIPES", {"paper": small, "realtime": tables.RECIPES["realtime"]})
    monkeypatch.setattr(tables, "UPDATES", {"paper": 2})
    scaled = replace(tables.config("paper", "frame_mask@0.05", Corpus(corpus)), model=small.model)
    assert (scaled.kinds, scaled.steps, scaled.validate_every) == (("frame_mask@0.05",), 2, 0)
    weights = tables.RECIPES["realtime"].sources
    assert scaled.sources == {source: weights[source] for source in ("bandai", "phoenix")}
    recording = options(tmp_path).data / "phoenix14t" / "dev.skels"
    row = tables.measure(scaled, corpus, recording)
    assert row["kind"] == "frame_mask@0.05"
    assert 0 < row["min"] < row["ave"] < row["max"]


def test_tables_have_the_papers_layout(corpus):
    row = {"input": 2e-4, "dev": 1e-4, "min": 5e-5, "ave": 1e-4, "max": 2e-4, "seconds": 60.0}
    found = {
        "configs": {"paper": tables.config("paper", "frame_mask@0.05", Corpus(corpus)).to_dict()},
        "tables": {
            "paper": {
                name: [row | {"ave": (k + 1) * (1e-3 if name == "2" else 1e-4)} for k in range(5)]
                for name in tables.TABLES
            }
        },
        "seconds": 700.0,
    }
    text = tables.lines(found)
    assert sum(line.startswith("Table ") for line in text) == len(tables.TABLES)
    at = text.index("Table 3")
    assert text[at + 2].split() == ["0.1", "2", "1", "0.5", "1", "2", "0.33", "-", "0.117", "0.29"]
    assert list(tables.TABLES["4"].kinds[:2]) == ["joint_noise@0.15,0.1", "joint_noise@0.15,0.3"]


def test_unknown_tables_are_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["accuracy.py", "--tables", "1,5"])
    with pytest.raises(SystemExit):
        accuracy.main()
    assert "unknown '5'" in capsys.readouterr().err


def test_figures_show_every_corruption(tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "open_engine", lambda path: NullEngine(window=8))
    made = accuracy.draw_figures(options(tmp_path, figures=tmp_path / "figures"))["files"]
    assert [Path(path).name for path in made] == [
        "figure3-frame_mask.png", "figure4-joint_mask.png", "figure5-frame_noise_0.9.png",
        "figure6-joint_noise_0.9.png",
    ]  # fmt: skip
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in made)
