"""Evaluation: the conditions are what the protocol says, the same for every engine, and scored through the refiner."""

import json

import numpy as np
import pytest
import torch

from rtskel.engine.base import NullEngine
from rtskel.engine.onnx_export import release
from rtskel.engine.weights import load_weights, save_weights
from rtskel.errors import RtskelError
from rtskel.formats import SKELS_UNIT, Recording, write
from rtskel.model import Skeletor
from rtskel.refine import refine
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training import evaluate
from rtskel.training.corrupt import Poses, recipe
from rtskel.training.data import MM_PER_UNIT, Sequence, bandai_bodies, held_out, write_corpus
from rtskel.training.evaluate import (
    CONDITIONS,
    ESTIMATOR,
    ModelEngine,
    Score,
    corrupted,
    estimator,
    geometric_mean,
    refine_all,
    sequences_of,
)
from tests.shared_data import shared_data
from tests.test_data import motion
from tests.test_model import TINY, trained, windows


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
    got = refine_all(sequences, engine, (0, 4), radius=1)
    for k, (xyz, confidence) in enumerate(sequences):
        for lookahead in (0, 4):
            expected = refine(xyz, engine=engine, confidence=confidence, lookahead=lookahead, radius=1)
            assert np.allclose(got[lookahead][k], expected, atol=1e-5)


def test_identity_scores_zero_on_clean_and_the_input_elsewhere():
    engine = NullEngine(window=8)
    scores = evaluate.evaluate([truth()], engine, conditions=["clean", "frame_noise_0.5"], radius=0)
    raw = evaluate.evaluate([truth()], None, conditions=["clean", "frame_noise_0.5"])
    for ours, theirs in zip(scores, raw, strict=True):
        assert (ours.condition, ours.lookahead, ours.group) == (theirs.condition, theirs.lookahead, theirs.group)
        assert ours.mse == pytest.approx(theirs.mse, rel=1e-3, abs=1e-12)


def test_geometric_mean_leaves_clean_out():
    def score(condition, mse):
        return Score(condition, 0, "all", mse, 0.0, 0.0, 0.0, {})

    scores = [score("frame_mask", 1e-4), score("joint_mask", 1e-6), score("clean", 1.0), score(ESTIMATOR, 1.0)]
    assert geometric_mean(scores, 0) == pytest.approx(1e-5)


def test_groups_and_sequences_add_up():
    sequences = [truth(n) for n in (12, 40, 60)]
    scores = evaluate.evaluate(sequences, None, conditions=["joint_noise_0.5", "clean"], lookaheads=(0,))
    at = {(s.condition, s.group): s for s in scores}
    assert set(at) == {("joint_noise_0.5", g) for g in evaluate.GROUPS} | {("clean", g) for g in evaluate.GROUPS} - {
        ("clean", "corrupted")
    }
    noisy = {group: s for (condition, group), s in at.items() if condition != "clean"}
    assert noisy["untouched"].mse == noisy["untouched"].mpjpe == 0
    assert noisy["untouched"].pa_mpjpe > 0, "aligning a pose moves its untouched joints too"
    assert noisy["corrupted"].mse == pytest.approx(7 * noisy["all"].mse, rel=1e-3)  # 7 of 49 joints
    assert noisy["all"].mse == pytest.approx((7 * noisy["body"].mse + 42 * noisy["hands"].mse) / 49, rel=1e-5)
    alone = []
    for k, xyz in enumerate(sequences):
        seen, _ = corrupted(xyz, "joint_noise_0.5", k)
        alone.append(np.square(seen - xyz)[:, evaluate.joint_groups("upper-body-50")["all"]].mean())
    expected = (min(alone), np.mean(alone), max(alone))
    assert noisy["all"].sequences["mse"] == pytest.approx(expected, rel=1e-4)
    assert np.average(alone, weights=[12, 40, 60]) == pytest.approx(noisy["all"].mse, rel=1e-4)


def test_lookahead_none_is_offline_refinement():
    engine, xyz = ModelEngine(trained()), truth(30)
    got = refine_all([(xyz, np.ones((30, 50), np.float32))], engine, (4, None), radius=1)
    assert np.allclose(got[None][0], refine(xyz, engine=engine, lookahead=None, radius=1), atol=1e-5)
    assert list(got) == [4, None]


def test_shorter_than_a_window_and_bodies_without_hands():
    engine = NullEngine(window=32)
    for frames in (1, 2, 5):
        scores = evaluate.evaluate([truth(frames)], engine, lookaheads=(0, None))
        assert all(np.isfinite((s.mse, s.mpjpe, s.pa_mpjpe, s.acceleration)).all() for s in scores)
    (score,) = evaluate.evaluate([truth(40)[:, :8]], engine, conditions=[ESTIMATOR], lookaheads=(0,))
    assert (score.condition, score.group) == (ESTIMATOR, "body")
    assert 20 < score.mpjpe * MM_PER_UNIT < 200


def test_estimator_errors_are_what_the_protocol_says():
    seen, confidence = estimator(np.zeros((20000, 8, 3), np.float32), 1)
    again, _ = corrupted(np.zeros((20000, 8, 3), np.float32), ESTIMATOR, 1)
    assert np.array_equal(seen, again)
    missing = confidence == 0
    wrists = [UPPER_BODY_50.names.index(name) for name in ("left_wrist", "right_wrist")]
    assert missing[:, wrists].mean() == pytest.approx(0.1, abs=0.01)
    assert missing.sum() == missing[:, wrists].sum()
    error = seen[:, 0] * MM_PER_UNIT
    white = np.sqrt(np.array([5.0, 5.0, 13.0]) ** 2 * (0.92 + 0.08 * 9))
    assert error.std(0) == pytest.approx(np.hypot([17, 17, 100], white), rel=0.2)
    step = np.diff(error, axis=0)
    assert step.std(0) == pytest.approx(np.sqrt(2 * white**2 + [17**2 * 0.08, 17**2 * 0.08, 100**2 * 0.02]), rel=0.05)


@pytest.mark.parametrize("kind", ["jitter_low", "live", "estimator_low"])
def test_errors_are_measured_from_what_is_to_be_recovered(kind):
    xyz = truth(80)
    poses = recipe(kind)[1](Poses.clean(torch.from_numpy(xyz)[None]), torch.Generator().manual_seed(0))
    assert torch.equal(poses.truth[0], torch.from_numpy(xyz)) == (kind == "estimator_low")
    off = (poses.xyz - poses.truth)[0].numpy()[:, evaluate.joint_groups("upper-body-50")["all"]]
    scores = evaluate.evaluate([xyz], None, conditions=[kind], lookaheads=(0,))
    score = next(s for s in scores if s.group == "all")
    assert score.mse == pytest.approx(np.square(off).mean(), rel=1e-4)


def test_a_model_computes_only_the_frames_that_are_wanted():
    model, asked = trained(), []
    model.register_forward_pre_hook(lambda module, args: asked.append(args[2]))
    engine = ModelEngine(model, max_batch=3)
    x, missing = windows(3).numpy(), np.zeros((3, 8, 50), np.bool_)
    every, some = engine.run(x, missing), engine.run(x, missing, np.array([5, 7]))
    assert asked[0] is None
    assert asked[1].tolist() == [5, 7]
    assert some.flags.c_contiguous
    assert np.allclose(some, every[:, [5, 7]], atol=1e-6)


def test_what_is_scored_of_a_corpus(tmp_path):
    kept = [name for name in (f"clip{k}" for k in range(300)) if held_out(name)]
    parts = [("p", "phoenix", "dev", 20), ("q", "phoenix", "train", 30), ("short", "bandai", "dev", 59)]
    parts += [(name, "bandai", "dev", 60 + k) for k, name in enumerate(kept)]
    write_corpus(tmp_path, [(Sequence(n, source, split, 25.0, 0, 0), motion(f)) for n, source, split, f in parts])
    whole, bodies = sequences_of(tmp_path)
    assert [xyz.shape for xyz in whole] == [(20, 50, 3)]
    assert {xyz.shape[1] for xyz in bodies} == {8}
    assert len(bodies) == min(evaluate.CLIPS, len(kept))
    assert min(map(len, bodies)) == 60
    write_corpus(tmp_path, [(Sequence("s", "other", "dev", 25.0, 0, 0), motion(9))])
    whole, bodies = sequences_of(tmp_path)
    assert (len(whole), len(bodies)) == (1, 0)
    write_corpus(tmp_path, [(Sequence("s", "other", "train", 25.0, 0, 0), motion(9))])
    with pytest.raises(RtskelError, match="without dev"):
        sequences_of(tmp_path)


def test_the_bandai_file_is_scored_as_the_corpus_made_of_it(tmp_path):
    path = shared_data("bandai_namco/motion.npz")
    whole, bodies = sequences_of(path)
    assert not whole
    assert (len(bodies), {xyz.shape[1:] for xyz in bodies}) == (24, {(8, 3)})
    clips = [(name, xyz) for name, xyz in bandai_bodies(path) if held_out(name)]
    write_corpus(
        tmp_path,
        [
            (Sequence(n, "bandai", "dev", 30.0, 0, 0), np.concatenate([xyz, np.zeros((len(xyz), 42, 3))], 1))
            for n, xyz in clips
        ],
    )
    _, again = sequences_of(tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(bodies, again, strict=True))


def test_released_weights_are_rounded_and_evaluate_from_the_command_line(tmp_path, capsys):
    save_weights(trained(), tmp_path / "best.safetensors", corpus="abc")
    release([tmp_path / "best.safetensors"], tmp_path / "skeletor-tiny", "skeletor-tiny")
    model = load_weights(tmp_path / "skeletor-tiny.safetensors")
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())
    write(tmp_path / "a.skels", Recording(truth(12), 25.0, "a", unit=SKELS_UNIT))
    write_corpus(tmp_path / "corpus", [(Sequence("clip3", "bandai", "dev", 30.0, 0, 0), motion(70))])
    assert held_out("clip3")
    run = [str(tmp_path / "a.skels"), str(tmp_path / "corpus")]
    run += ["--engine", str(tmp_path / "skeletor-tiny.onnx"), "--lookahead", "2,offline"]
    assert evaluate.main([*run, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["engine"].startswith("skeletor-tiny-")
    assert {s["condition"] for s in result["scores"]} == {*CONDITIONS, ESTIMATOR}
    assert {s["lookahead"] for s in result["scores"]} == {2, None}
    assert all(set(s["sequences"]) == set(evaluate.MEASURES) for s in result["scores"])
    assert evaluate.main(run) == 0
    out = capsys.readouterr().out
    for words in ("mean of ten", "lookahead 2: PA-MPJPE", "offline: MSE", "untouched", "estimator: body joints"):
        assert words in out
    for wrong in ("two", "-1"):
        with pytest.raises(RtskelError, match="--lookahead"):
            evaluate.main([*run[:-1], wrong])
    with pytest.raises(RtskelError, match="--radius 16"):
        evaluate.main([*run, "--radius", "16"])


def test_recordings_are_scored_in_canonical_units(tmp_path):
    xyz = truth(12)
    write(tmp_path / "a.skels", Recording(xyz, 25.0, "a", unit=SKELS_UNIT))
    write(tmp_path / "b.npz", Recording(xyz * np.float32(1110), 25.0, "b", unit="mm"))
    (a,), _ = sequences_of(tmp_path / "a.skels")
    (b,), _ = sequences_of(tmp_path / "b.npz")
    assert np.allclose(a, xyz, atol=1e-5)
    assert np.allclose(b, xyz, rtol=1e-3, atol=1e-4)
    flat = Recording(xyz * np.float32([1, 1, 0]), 25.0, "c", unit="px", axes="RDT", dims=2)
    write(tmp_path / "c.npz", flat)
    with pytest.raises(RtskelError, match=r"c\.npz: poses in two dimensions"):
        sequences_of(tmp_path / "c.npz")


def test_what_cannot_be_scored_is_said(tmp_path):
    (tmp_path / "empty.skels").write_text("")
    with pytest.raises(RtskelError, match=r"empty\.skels: empty"):
        evaluate.main([str(tmp_path / "empty.skels")])
    xyz = truth(12)
    xyz[3, 20] = np.nan
    write(tmp_path / "nan.npz", Recording(xyz, 25.0, "hole"))
    with pytest.raises(RtskelError, match=r"nan\.npz: hole: 1 joints are missing"):
        evaluate.main([str(tmp_path / "nan.npz")])
    late = np.array([7, 8, 10], np.int64)  # what is before the first frame is not dropped
    write(tmp_path / "gap.npz", Recording(truth(3), 25.0, "gap", slot=late))
    with pytest.raises(RtskelError, match=r"gap\.npz: gap: 50 joints are missing"):
        evaluate.main([str(tmp_path / "gap.npz")])
    with pytest.raises(RtskelError, match="nowhere"):
        evaluate.main([str(tmp_path / "nowhere.npz")])
    write(tmp_path / "a.skels", Recording(truth(12), 25.0, "a", unit=SKELS_UNIT))
    (tmp_path / "foreign.safetensors").write_bytes(b"foreign")
    with pytest.raises(RtskelError, match="foreign"):
        evaluate.main([str(tmp_path / "a.skels"), "--engine", str(tmp_path / "foreign.safetensors")])


def test_untrained_model_through_refinement_leaves_clean_motion_alone():
    engine = ModelEngine(Skeletor(TINY).eval())
    scores = evaluate.evaluate([truth()], engine, conditions=["clean"])
    assert all(s.mse < 1e-12 for s in scores)
