"""The bench on pairs: rivals keep the law, the front is a front."""

import json

import numpy as np
import pytest
import real
import torch
from peers import Body, Gaussian, Hold, SavitzkyGolay

from rtskel.engine.base import NullEngine
from rtskel.engine.weights import save_weights
from rtskel.formats import SKELS_UNIT, Recording, write
from rtskel.model import Skeletor, SkeletorConfig
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.paired import PairedErrors, read_pairs
from tests.test_data import motion
from tests.test_paired import clip

HAND = list(UPPER_BODY_50.groups["left_hand"])


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pairs"
    made.mkdir()
    for k in range(3):
        np.savez(made / f"{k}.npz", **clip(50, seed=k, noise=0.01))
    return made


@pytest.fixture
def body(folder):
    truth = [real.hung(p.truth.astype(np.float64))[0] for p in read_pairs(folder)]
    return Body.learn(truth, UPPER_BODY_50.parents, UPPER_BODY_50.order)


def test_a_hand_hangs_on_its_wrist(folder):
    (pair, *_) = read_pairs(folder)
    xyz, missing = pair.seen.astype(np.float64), pair.missing.copy()
    missing[5, 7] = True  # the left wrist
    hung, lost = real.hung(xyz, missing)
    np.testing.assert_allclose(real.placed(hung), xyz, atol=1e-12)
    assert lost[5, HAND].all()
    assert lost.sum() == missing.sum() + 21
    filled = real.placed(Hold(Body.learn([hung], UPPER_BODY_50.parents, UPPER_BODY_50.order)).apply(hung, lost, 0))
    for t in range(10, 20):  # the hand was lost: it goes where its wrist goes
        np.testing.assert_allclose(filled[t, HAND] - filled[t, 7], xyz[9, HAND] - xyz[9, 7], atol=1e-6)


@pytest.mark.parametrize("peer", real.FILTERS)
def test_no_rival_looks_beyond_its_lookahead(peer, folder, body):
    """Hung hands and all: cutting the future off changes nothing that was due before."""
    (pair, *_) = read_pairs(folder)
    xyz, missing = real.hung(pair.seen.astype(np.float64), pair.missing)
    for setting in peer.settings[:: max(1, len(peer.settings) // 6)]:
        for lookahead in real.LOOKAHEADS:
            whole = real.placed(peer(body).apply(xyz, missing, lookahead, setting))
            cut = real.placed(peer(body).apply(xyz[:30], missing[:30], lookahead, setting))
            np.testing.assert_allclose(cut[: 30 - lookahead], whole[: 30 - lookahead], atol=1e-9)


def point(name, mpjpe, acceleration):
    return real.Point(name, None, {"body": PairedErrors(mpjpe, 0, 0, acceleration, 0, 0)})


def test_the_front_compares_with_the_best_that_is_no_worse_in_the_other_figure():
    ours = point("ours", 60.0, 6.0)
    rivals = [point("a", 80.0, 5.0), point("b", 70.0, 9.0), point("c", 58.0, 12.0), point("d", 90.0, 6.5)]
    found = real.front(ours, rivals, "body")
    assert found["nearest_as_smooth"]["filter"] == "a"
    assert found["position_ratio"] == pytest.approx(0.75)
    assert found["smoothest_as_near"]["filter"] == "c"
    assert found["acceleration_ratio"] == pytest.approx(0.5)
    alone = real.front(ours, rivals[:2], "body")
    assert alone["smoothest_as_near"] is None
    assert "acceleration_ratio" not in alone


@pytest.fixture
def data(tmp_path):
    """Stands in for the shared data: UNOC's clips and PHOENIX14T dev."""
    shared = tmp_path / "data"
    (shared / "mocap_hands").mkdir(parents=True)
    (shared / "phoenix14t").mkdir()
    length = np.full(6, 70, np.int32)
    xyz = np.concatenate([motion(70, k) for k in range(6)])
    missing = np.zeros(xyz.shape[:2], np.bool_)
    missing[:, 12] = True  # a finger tip
    names = {"unoc": ["a"] * 6, "mesh2motion": ["base/Greeting", *["base/Walk"] * 5]}
    for name, clips in names.items():
        arrays = {"clip": clips, "length": length, "fps": np.full(6, 30.0), "axes": "RDT", "missing": missing}
        np.savez(shared / "mocap_hands" / f"{name}.npz", xyz=xyz, **arrays)
    write(shared / "phoenix14t" / "dev.skels", [Recording(motion(60, 9), 25.0, "d", unit=SKELS_UNIT)])
    return shared


def test_the_bench_runs_whole_and_says_what_the_null_engine_does(folder, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real, "FILTERS", (SavitzkyGolay,))
    monkeypatch.setattr(SavitzkyGolay, "settings", (None, (2, 1)))
    torch.manual_seed(0)
    tiny = SkeletorConfig(window=32, d_model=16, heads=2, d_ff=16, layers=1, fill=True)
    save_weights(Skeletor(tiny), tmp_path / "tiny.safetensors", name="tiny")
    options = ["--data", str(data), "--pairs", str(folder), "--training", str(folder), "--jobs", "1", "--json"]
    monkeypatch.setattr("sys.argv", ["real.py", *options, "--engine", str(tmp_path / "tiny.safetensors")])
    assert real.main() == 0
    found = json.loads(capsys.readouterr().out)
    of_pairs = found["pairs"]
    assert (of_pairs["clips"], of_pairs["frames"]) == (3, 150)
    for lookahead in ("0", "4"):
        for which in ("as_found", "corrected"):
            assert of_pairs[lookahead][which]["held"]["body"]["mpjpe"] > 0
            assert set(of_pairs[lookahead][which]["rivals"]) == set(real.GROUPS)
    # An untrained network is its own fill: it leaves the body as it is, and outliers where they are.
    assert set(found["motion"]) == {"unoc", "mesh2motion", "pairs"}
    for of in found["motion"].values():
        assert of["burst_mask"]["4"]["ours"] == of["burst_mask"]["4"]["fill"]
        assert of["clean"]["0"]["ours"]["body"][0] == pytest.approx(0, abs=1e-9)
        # A finger tip that is not known is not scored.
        assert of["clean"]["0"]["ours"]["hands"][0] == pytest.approx(0, abs=1e-9)
    assert found["outliers"]["wrist and hand"]["150"]["ours 4"] == pytest.approx(150, rel=1e-3)


def test_what_cannot_be_read_is_one_line(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(real, "open_engine", lambda path: NullEngine())
    monkeypatch.setattr(real, "fill_alone", lambda weights: NullEngine())
    monkeypatch.setattr("sys.argv", ["real.py", "--data", str(data), "--pairs", str(tmp_path)])
    assert real.main() == 2
    assert "no pairs" in capsys.readouterr().err


def test_a_filter_is_measured_with_all_its_settings(folder, body):
    points = real.measure_filter((Gaussian(body), 4), read_pairs(folder))
    assert len(points) == len(Gaussian.settings)
    plain = {p.setting: p.errors["body"] for p in points}
    assert plain[(2.0,)].acceleration < 0.4 * plain[None].acceleration
