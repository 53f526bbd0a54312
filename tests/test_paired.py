"""Pairs: brought into one frame, drawn alike on both sides, learnt from, measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording, write
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH, UPPER_BODY_50
from rtskel.training.config import TrainConfig
from rtskel.training.data import Corpus, write_corpus
from rtskel.training.data import main as build
from rtskel.training.paired import (
    PairedConfig,
    PairedWindows,
    paired_errors,
    read_pair,
    read_pairs,
    split_pairs,
)
from rtskel.training.train import Trainer, main, train
from tests.test_data import Sequence, motion
from tests.test_train import TINY, same

BODY = [j for j in UPPER_BODY_50.groups["body"] if j != NECK]
HANDS = [j for j in range(50) if j not in UPPER_BODY_50.groups["body"]]


def clip(frames=40, seed=0, noise=0.0, lost=True):
    """What a file of pairs holds: a body in metres before a camera, and an estimate of another place, size and turn."""
    g = np.random.default_rng(seed)
    body = motion(frames, seed).astype(np.float64)
    truth = body * [1.0, 1.0, -1.0] * 1.1 + [0.3, 0.1, 2.0]  # axes RDA
    c, s = np.cos(0.1), np.sin(0.1)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    estimate = 0.8 * (truth - [0.3, 0.1, 2.0]) @ turn + [0.0, -0.5, 0.1] + noise * g.normal(size=truth.shape)
    confidence = np.ones(truth.shape[:2], np.float32)
    if lost:
        confidence[10:20, 8:29] = 0
        estimate[10:20, 8:29] = np.nan
    return {"estimate": estimate.astype(np.float32), "confidence": confidence, "truth": truth.astype(np.float32),
            "fps": 25.0, "axes": "RDA", "source": "signing"}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pairs"
    made.mkdir()
    for k in range(4):
        np.savez(made / f"{k:05d}.npz", **clip(seed=k, noise=0.01))
    (made / ".00009.tmp.npz").write_bytes(b"half of a file")
    return made


def test_a_perfect_estimate_of_another_size_place_and_turn_is_the_truth(tmp_path):
    np.savez(tmp_path / "a.npz", **clip())
    pair = read_pair(tmp_path / "a.npz")
    assert (pair.name, pair.fps, pair.source) == ("a", 25.0, "signing")
    there = ~pair.missing
    np.testing.assert_allclose(pair.seen[there], pair.truth[there], atol=2e-5)
    assert not pair.seen[pair.missing].any()
    assert pair.missing[10:20, 8:29].all()
    assert pair.missing.sum() == 210
    width = np.median(np.linalg.norm(pair.seen[:, LEFT_SHOULDER] - pair.seen[:, RIGHT_SHOULDER], axis=-1))
    assert width == pytest.approx(SHOULDER_WIDTH, rel=1e-4)
    apart = np.linalg.norm(np.diff(clip()["truth"][:, [3, 4]], axis=1), axis=-1).mean()
    assert np.linalg.norm(np.diff(pair.truth[:, [3, 4]], axis=1), axis=-1).mean() * pair.mm == pytest.approx(
        1000 * apart, rel=1e-4
    )
    up = clip()["truth"][:, 0, 1] - clip()["truth"][:, 4, 1]
    assert np.corrcoef(up, pair.truth[:, 0, 1] - pair.truth[:, 4, 1])[0, 1] > 0.99  # y still grows downward


def test_a_person_hardly_found_or_taken_for_one_seen_from_behind_is_left_out(folder, tmp_path):
    np.savez(folder / "behind.npz", **(behind := clip()) | {"estimate": behind["estimate"] * np.float32([-1, 1, 1])})
    gone = clip()
    gone["confidence"][8:] = 0
    np.savez(folder / "gone.npz", **gone)
    assert [p.name for p in read_pairs(folder)] == ["00000", "00001", "00002", "00003"]
    with pytest.raises(FormatError, match="no pairs"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"truth": None}, {"axes": "RRR"}, {"estimate": np.zeros((3, 50, 3))}, {"truth": np.full((40, 50, 3), np.nan)}],
)
def test_what_is_no_file_of_pairs_is_named(tmp_path, change):
    content = {k: v for k, v in (clip() | change).items() if v is not None}
    np.savez(tmp_path / "odd.npz", **content)
    with pytest.raises(FormatError, match=r"odd\.npz: not a file of pairs"):
        read_pair(tmp_path / "odd.npz")


def test_some_pairs_are_for_validation(folder):
    pairs = read_pairs(folder)
    for holdout in (1, 2, 10**9):
        learnt, kept = split_pairs(pairs, holdout)
        assert learnt
        assert kept
        assert sorted(p.name for p in learnt + kept) == [p.name for p in pairs]
    assert split_pairs(pairs[:1], 10**9) == (pairs[:1], [])


def test_the_truth_is_a_source_of_motion_too(folder, tmp_path, capsys):
    write(tmp_path / "a.npz", [Recording(500 * motion(60, k), 25.0, str(k)) for k in range(2)])
    assert build([str(tmp_path / "a.npz"), str(tmp_path / "corpus"), "--pairs", str(folder)]) == 0
    corpus = Corpus(tmp_path / "corpus")
    learnt, _ = split_pairs(read_pairs(folder), PairedConfig.holdout)
    assert "pairs/train" in capsys.readouterr().out
    made = corpus.select("train", "pairs")
    assert [s.name for s in made] == [p.name for p in learnt]
    moved = corpus.frames(made[0]) - learnt[0].truth
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:1, :1], moved.shape), atol=1e-6)


def test_windows_vary_both_sides_alike(folder):
    """Without noise the estimate is the truth, and so it is in each window, however it is varied."""
    for k in range(4):
        np.savez(folder / f"{k:05d}.npz", **clip(seed=k))
    config = PairedConfig(faster=(0.5, 0.3), ends=0.5, hand_lost=0.5)
    windows = PairedWindows(read_pairs(folder), 16, config, generator=torch.Generator().manual_seed(0))
    seen, missing, truth = windows.draw(64)
    assert seen.shape == truth.shape == (64, 16, 50, 3)
    torch.testing.assert_close(seen[~missing], truth[~missing], rtol=0, atol=5e-5)
    assert not seen[missing].any()
    hands = [missing[:, :, h] for h in (slice(8, 29), slice(29, 50))]
    for hand in hands:  # the left one is lost in the file, mirrored it is the right one, and more are lost here
        assert (hand.all(-1) == hand.any(-1)).all()
        assert 0.05 < hand.float().mean() < 0.9
    bones = (truth - truth[:, :, list(UPPER_BODY_50.parents_or_self)]).norm(dim=-1)
    assert bones[:, 0, 3].std() > 0.005
    assert ((truth[:, 1:] - truth[:, :-1]).abs().amax((2, 3)) == 0).any()  # a frame repeated at an end


def test_the_error_rides_on_other_motion(folder):
    pairs = read_pairs(folder)
    config = PairedConfig(hand_lost=0.0, ends=0.0)
    windows = PairedWindows(pairs, 16, config, generator=torch.Generator().manual_seed(0))
    other, borrowed = torch.rand(5, 16, 50, 3), torch.tensor([False, True, False, True, True])
    seen, missing, truth = windows.draw(5, other, borrowed)
    assert torch.equal(truth[borrowed], other[borrowed])
    error = (seen - truth)[~missing]
    size = 0.01 / 1.1 / 0.8  # of the noise in units of the clip
    assert error.std().item() == pytest.approx(size, rel=0.5)
    for own in (0, 2):
        assert not torch.equal(truth[own], other[own])


CONFIG = TrainConfig(
    model=TINY, sources={"a": 1.0}, batch=8, triples=1, sampled=1, steps=6, warmup=2, validate_every=3, lr=1e-2,
    precision="fp32", paired=PairedConfig(triples=2, holdout=4),
)  # fmt: skip


@pytest.fixture
def config(folder):
    return replace(CONFIG, pairs=str(folder))


@pytest.fixture
def corpus(tmp_path):
    make = [("s0", "train", 40), ("s1", "train", 30), ("d0", "dev", 20)]
    made = [(Sequence(name, "a", split, 25.0, 0, 0), motion(n, k)) for k, (name, split, n) in enumerate(make)]
    write_corpus(tmp_path / "corpus", made)
    return tmp_path / "corpus"


def test_a_run_learns_from_pairs_and_keeps_what_is_best_on_both(config, corpus, tmp_path):
    trainer = train(config, corpus, tmp_path / "run", quiet=True)
    entries = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [sorted(entry["pairs"]) for entry in entries] == 2 * [["0/body", "0/hands", "4/body", "4/hands"]]
    assert trainer.best == min(entry["geometric_mean"] for entry in entries)
    assert (trainer.loss.of_pairs > 0).any(-1).any(-1).any(1).all()  # each part of the loss has counted
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert TrainConfig.from_dict({k: stored[k] for k in CONFIG.to_dict()}) == config


def test_it_learns_what_the_estimator_does(folder, config, corpus):
    """An estimator whose shoulders sit too high: what it says is moved down."""
    for k in range(4):
        content = clip(seed=k, lost=False)
        content["estimate"][:, [LEFT_SHOULDER, RIGHT_SHOULDER], 1] -= 0.08
        np.savez(folder / f"{k:05d}.npz", **content)
    config = replace(config, model=replace(TINY, gate=False), kinds=("clean",), steps=120, validate_every=0, triples=0)
    config = replace(config, floors=(0.1, 0.1), corrected=False)  # the other windows hardly count
    trainer = Trainer(config, Corpus(corpus))
    before = trainer.validate_pairs()
    while trainer.progress < 1:
        trainer.step()
    after = trainer.validate_pairs()
    assert after["0/body"].mpjpe < 0.8 * before["0/body"].mpjpe
    assert after["4/body"].across < 0.8 * before["4/body"].across


def test_resuming_with_pairs_is_bit_exact(config, corpus, tmp_path):
    def run(trainer, steps):
        for _ in range(steps):
            trainer.step()
        return trainer

    straight = run(Trainer(config, Corpus(corpus)), 6)
    run(Trainer(config, Corpus(corpus)), 3).save(tmp_path / "last.safetensors")
    second = Trainer(config, Corpus(corpus))
    second.load(tmp_path / "last.safetensors")
    assert same(straight.state(), run(second, 3).state())
    without = replace(config, pairs="")
    run(Trainer(without, Corpus(corpus)), 1).save(tmp_path / "without.safetensors")
    with pytest.raises(RtskelError, match="not a checkpoint"):
        second.load(tmp_path / "without.safetensors")


def test_options_of_pairs_are_checked(config, corpus, tmp_path):
    with pytest.raises(ValueError, match="pairs without balance"):
        replace(config, balance=False)
    with pytest.raises(ValueError, match="pairs without balance, or without triples"):
        replace(config, paired=PairedConfig(triples=0))
    with pytest.raises(ValueError, match="unknown option of pairs 'tripels'"):
        TrainConfig.from_dict({"paired": {"tripels": 3}})
    with pytest.raises(RtskelError, match="no pairs"):
        main(["--data", str(corpus), "--out", str(tmp_path / "run"), "--set", f'pairs="{tmp_path}"'])


def test_errors_are_in_millimetres_across_and_in_depth(folder):
    (pair, *_) = read_pairs(folder)
    bend = np.zeros_like(pair.truth)
    bend[::2] = np.float32([3.0, 4.0, 12.0]) / pair.mm
    found = paired_errors([pair.truth + bend], [pair], BODY)
    assert found.mpjpe == pytest.approx(6.5, rel=1e-3)
    assert found.across == pytest.approx(2.5, rel=1e-3)
    assert found.depth == pytest.approx(6.0, rel=1e-3)
    assert found.acceleration == pytest.approx(26.0, rel=1e-3)
    assert found.acceleration_across == pytest.approx(10.0, rel=1e-3)
    assert found.acceleration_depth == pytest.approx(24.0, rel=1e-3)
    assert paired_errors([pair.truth], [pair], HANDS) == (0,) * 6
