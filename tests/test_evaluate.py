"""Evaluation: the conditions are what the protocol says, the same for every engine, and scored through the refiner."""

import json

import numpy as np
import pytest
import torch

from rtskel import evaluate
from rtskel.engine.base import NullEngine
from rtskel.errors import RtskelError
from rtskel.evaluate import CONDITIONS, ModelEngine, corrupted, geometric_mean, refine_all
from rtskel.export import release
from rtskel.formats import SKELS_UNIT, Recording, write
from rtskel.model import Skeletor, load_weights, save_weights
from rtskel.refine import refine
from tests.test_data import motion
from tests.test_model import TINY, trained


def truth(frames=60):
    xyz = motion(frames)
    xyz[:, 0, 2] = 0.1
    return xyz


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_touch_their_share_and_repeat(condition):
    xyz = truth(100)
    got, confidence = corrupted(xyz, condition, 3)
    again, _ = corrupted(xyz, condition, 3)
    assert np.array_equal(got, again)
    moved = (got != xyz).any(-1)
    assert not moved[:, 1].any()
    assert (confidence == 0).sum() == (moved.sum() if "mask" in condition else 0)
    share = moved.sum() / (49 * 100)
    expected = {"clean": 0, "dense_noise_0.3": 1}.get(condition, 7 / 49 if "joint" in condition else 0.15)
    assert share == pytest.approx(expected, abs=0.06 if condition == "burst_mask" else 0.01)


def test_batched_refinement_is_refinement():
    engine = ModelEngine(trained(), max_batch=5)
    sequences = [corrupted(truth(n), "joint_mask", n) for n in (3, 20, 41)]
    got = refine_all(sequences, engine, (0, 4), radius=1, native=False)
    for k, (xyz, confidence) in enumerate(sequences):
        for lookahead in (0, 4):
            expected = refine(xyz, engine=engine, confidence=confidence, lookahead=lookahead, radius=1, native=False)
            assert np.allclose(got[lookahead][k], expected, atol=1e-5)


def test_identity_scores_zero_on_clean_and_the_input_elsewhere():
    engine = NullEngine(window=8)
    scores = evaluate.evaluate([truth()], engine, conditions=["clean", "frame_noise_0.5"], radius=0, native=False)
    raw = evaluate.evaluate([truth()], None, conditions=["clean", "frame_noise_0.5"])
    for ours, theirs in zip(scores, raw, strict=True):
        assert (ours.condition, ours.lookahead, ours.group) == (theirs.condition, theirs.lookahead, theirs.group)
        assert ours.mse == pytest.approx(theirs.mse, rel=1e-3, abs=1e-12)


def test_geometric_mean_leaves_clean_out():
    def score(condition, mse):
        return evaluate.Score(condition, 0, "all", mse, 0.0, 0.0)

    scores = [score("frame_mask", 1e-4), score("joint_mask", 1e-6), score("clean", 1.0)]
    assert geometric_mean(scores, 0) == pytest.approx(1e-5)


def test_released_weights_are_rounded_and_evaluate_from_the_command_line(tmp_path, capsys):
    save_weights(trained(), tmp_path / "best.safetensors", corpus="abc")
    release(tmp_path / "best.safetensors", tmp_path / "skeletor-tiny", "skeletor-tiny")
    model = load_weights(tmp_path / "skeletor-tiny.safetensors")
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())
    recording = Recording(truth(12), 25.0, "a", unit=SKELS_UNIT)
    write(tmp_path / "a.skels", recording)
    run = [str(tmp_path / "a.skels"), "--engine", str(tmp_path / "skeletor-tiny.onnx"), "--lookahead", "2"]
    assert evaluate.main([*run, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["engine"].startswith("skeletor-tiny-")
    assert {s["condition"] for s in result["scores"]} == set(CONDITIONS)
    assert evaluate.main(run) == 0
    assert "geometric mean of ten" in capsys.readouterr().out
    with pytest.raises(RtskelError, match="--lookahead"):
        evaluate.main([*run[:-1], "two"])


def test_untrained_model_through_refinement_leaves_clean_motion_alone():
    engine = ModelEngine(Skeletor(TINY).eval())
    scores = evaluate.evaluate([truth()], engine, conditions=["clean"], native=False)
    assert all(s.mse < 1e-12 for s in scores)
