"""A corpus of bodies that move."""

import importlib.util

import numpy as np
import pytest

from rtskel.pairs import corpus
from rtskel.pairs.make import Plan
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH
from rtskel.training.data import Corpus
from rtskel.training.synthesize import synthesize


def apart(xyz):
    """Distances between all joints of each frame."""
    return np.linalg.norm(xyz[:, :, None] - xyz[:, None], axis=-1)


def test_a_walk_moves_and_turns_the_body_as_a_whole():
    joints = synthesize(4.0, seed=1).xyz.astype(np.float64)
    walks = [corpus.walked(joints, 25.0, np.random.default_rng(seed)) for seed in range(20)]
    for walk in walks:
        np.testing.assert_allclose(apart(walk), apart(joints), atol=1e-9)
        np.testing.assert_allclose(walk[..., 2], joints[..., 2], atol=1e-9)
        assert np.abs(walk[:, NECK, :2] - joints[:, NECK, :2]).max() <= corpus.FARTHEST
    far = [np.ptp(walk[:, NECK, :2] - joints[:, NECK, :2], axis=0).max() for walk in walks]
    assert max(far) > 0.3

    def heading(xyz):
        across = xyz[:, LEFT_SHOULDER, :2] - xyz[:, RIGHT_SHOULDER, :2]
        return np.unwrap(np.arctan2(across[:, 1], across[:, 0]))

    turned = [np.ptp(heading(walk) - heading(joints)) for walk in walks]
    assert max(turned) > 1.0
    assert min(turned) < 1e-9


@pytest.mark.skipif(importlib.util.find_spec("anny") is None, reason="the body model is not installed (rtskel[pairs])")
def test_sequences_are_in_training_units(tmp_path, capsys):
    assert corpus.main([str(tmp_path / "corpus"), "--frames", "700", "--synthetic", "1", "--seed", "3"]) == 0
    assert "fingerprint" in capsys.readouterr().out
    made = Corpus(tmp_path / "corpus")
    assert {s.source for s in made.sequences} <= {"signing", "beats", "synthetic"}
    assert {s.split for s in made.sequences} == {"train", "dev"}
    for sequence in made.sequences[:-1]:
        xyz = made.frames(sequence)
        width = np.linalg.norm(xyz[:, LEFT_SHOULDER] - xyz[:, RIGHT_SHOULDER], axis=-1)
        assert np.median(width) == pytest.approx(SHOULDER_WIDTH, rel=1e-4)
        assert np.abs(np.median(xyz[:, NECK], axis=0)).max() < 1e-4
    again = list(corpus.bodies(Plan(700, 3)))
    assert all(np.array_equal(xyz, made.frames(s)) for (_, xyz), s in zip(again, made.sequences, strict=False))


def test_what_is_missing_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    monkeypatch.setitem(__import__("sys").modules, "anny", None)
    assert corpus.main([str(tmp_path / "corpus"), "--frames", "10"]) == 2
    assert capsys.readouterr().err.startswith("rtskel.pairs.corpus: error: pairs needs what is not installed")
