"""Corpora and windows: what is read is what was written, augmentation keeps what it must, padding repeats frames."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch

from rtskel.errors import FormatError
from rtskel.formats import Recording, write
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50
from rtskel.training.corrupt import rotations
from rtskel.training.data import (
    AugmentConfig,
    BuildConfig,
    Corpus,
    Sequence,
    Windows,
    augment_windows,
    bone_statistics,
    build_corpus,
    main,
    pad_windows,
    to_canonical_windows,
    write_corpus,
)
from tests.shared_data import shared_data

PLAIN = AugmentConfig(
    warp=0, reverse=0, beginning=0, exchange=0, negate=0, bone=0, hand_size=0, asymmetry=0, hands=0, wander=0,
    still=0, breathe=0, yaw=0, pitch=0, roll=0, front_padding=0, tail_padding=0,
)  # fmt: skip


def motion(frames, seed=0):
    """A smooth made-up sequence [N, J, 3] whose frame k is recognisable: the nose's z is k."""
    random = np.random.default_rng(seed)
    xyz = np.cumsum(0.01 * random.standard_normal((frames, 50, 3)), axis=0) + 0.2 * random.standard_normal((50, 3))
    xyz[:, NECK] = 0
    xyz[:, LEFT_SHOULDER], xyz[:, RIGHT_SHOULDER] = (1 / 6, 0, 0), (-1 / 6, 0, 0)
    xyz[:, 0, 2] = np.arange(frames)
    return xyz.astype(np.float32)


def corpus(folder, lengths=(50, 20, 40), splits=("train", "train", "dev"), sources=("a", "b", "a")):
    write_corpus(
        folder,
        [
            (Sequence(f"s{k}", source, split, 25.0, 0, 0), motion(length, k))
            for k, (length, split, source) in enumerate(zip(lengths, splits, sources, strict=True))
        ],
    )
    return Corpus(folder)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_corpus_round_trip(tmp_path):
    got = corpus(tmp_path)
    assert isinstance(got.xyz, np.memmap)
    assert [s.name for s in got.select("train")] == ["s0", "s1"]
    assert [s.name for s in got.select("train", "b")] == ["s1"]
    s = got.select("dev")[0]
    assert np.array_equal(got.xyz[s.first : s.first + s.length], motion(40, 2))


def test_fingerprint_is_that_of_the_content(tmp_path):
    same = corpus(tmp_path / "a").fingerprint == corpus(tmp_path / "b").fingerprint
    assert same
    assert corpus(tmp_path / "c", lengths=(50, 20, 41)).fingerprint != corpus(tmp_path / "a").fingerprint


def test_bad_corpora_are_named(tmp_path):
    with pytest.raises(FormatError, match="nowhere"):
        Corpus(tmp_path / "nowhere")
    corpus(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    index["sequences"][0]["length"] = 10_000
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="10000 frames"):
        Corpus(tmp_path)
    index["sequences"] = []
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="empty"):
        Corpus(tmp_path)
    broken = motion(5)
    broken[2, 3] = np.nan
    with pytest.raises(FormatError, match="'bad'"):
        write_corpus(tmp_path, [(Sequence("bad", "a", "train", 25.0, 0, 0), broken)])


def test_windows_are_consecutive_frames_of_one_sequence(tmp_path):
    windows = Windows(corpus(tmp_path), 16, augment=PLAIN, generator=rng())
    x, source = windows.draw(64)
    assert x.shape == (64, 16, 50, 3)
    assert torch.equal(x[:, 1:, 0, 2] - x[:, :-1, 0, 2], torch.ones(64, 15))
    assert set(source.tolist()) == {0, 1}


def test_sequences_shorter_than_a_window_repeat_their_last_frame(tmp_path):
    windows = Windows(corpus(tmp_path), 32, augment=PLAIN, weights={"b": 1.0}, generator=rng())
    x, _ = windows.draw(4)
    assert torch.equal(x[:, 20:], x[:, 19:20].expand(-1, 12, -1, -1))


def test_weights_choose_sources_and_unknown_ones_raise(tmp_path):
    got = corpus(tmp_path)
    _, source = Windows(got, 16, weights={"b": 1.0, "a": 0.0}, generator=rng()).draw(32)
    assert source.tolist() == [0] * 32
    with pytest.raises(FormatError, match="'c'"):
        Windows(got, 16, weights={"c": 1.0}, generator=rng())


def test_draws_repeat_with_the_seed(tmp_path):
    got = corpus(tmp_path)
    a, b, c = (Windows(got, 16, generator=rng(seed)).draw(8)[0] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.isfinite(a).all()


def batch(seed=0):
    return torch.from_numpy(np.stack([motion(16, seed + k) for k in range(4)]))


def test_exchange_mirrors_with_sides_and_negation_without():
    x = batch()
    flip = torch.tensor([-1.0, 1.0, 1.0])
    always = {**PLAIN.__dict__, "exchange": 1.0}
    got = augment_windows(x.clone(), AugmentConfig(**always), rng())
    assert torch.allclose(got, x[:, :, list(UPPER_BODY_50.mirror)] * flip, atol=1e-5)
    always = {**PLAIN.__dict__, "negate": 1.0}
    assert torch.allclose(augment_windows(x.clone(), AugmentConfig(**always), rng()), x * flip, atol=1e-5)


def test_bone_jitter_scales_bones_by_constant_factors_and_keeps_directions():
    x = batch()
    got = augment_windows(x.clone(), AugmentConfig(**{**PLAIN.__dict__, "bone": 0.1}), rng())
    parents = [max(p, 0) for p in UPPER_BODY_50.parents]
    before, after = x - x[:, :, parents], got - got[:, :, parents]
    keep = [j for j in range(2, 50)]
    factor = after[:, :, keep].norm(dim=-1) / before[:, :, keep].norm(dim=-1)
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), rtol=1e-2)
    assert factor.std() > 0.03
    cosine = torch.cosine_similarity(before[:, :, keep], after[:, :, keep], dim=-1)
    assert (cosine > 0.999).all()


def test_hands_as_a_whole_take_any_size_and_nothing_else_does():
    x = batch()
    got = augment_windows(x.clone(), AugmentConfig(**{**PLAIN.__dict__, "hand_size": 0.3}), rng())
    fingers = [j for side in ("left_hand", "right_hand") for j in UPPER_BODY_50.groups[side]]
    parents = list(UPPER_BODY_50.parents_or_self)
    factor = (got - got[:, :, parents]).norm(dim=-1) / (x - x[:, :, parents]).norm(dim=-1)
    assert torch.allclose(
        factor[:, :, fingers], factor[:, :1, fingers[:1]].expand(-1, x.shape[1], len(fingers)), rtol=1e-2
    )
    assert factor[:, 0, fingers[0]].log().std() > 0.05
    rest = [j for j in range(2, 50) if j not in fingers]
    assert torch.allclose(factor[:, :, rest], torch.ones(()), rtol=1e-2)


def test_bones_and_chain_are_each_others_inverse():
    x = motion(5)
    bones = x - x[:, UPPER_BODY_50.parents_or_self]
    assert not bones[:, NECK].any()
    bones[:, NECK] = x[:, NECK]
    np.testing.assert_allclose(UPPER_BODY_50.chain @ bones, x, atol=1e-5)
    assert UPPER_BODY_50.chain[UPPER_BODY_50.names.index("left_wrist")].nonzero()[0].tolist() == [1, 5, 6, 7]


def test_rotations_are_rotations():
    r = rotations(torch.randn(5, 3, generator=rng()))
    assert torch.allclose(r @ r.transpose(1, 2), torch.eye(3).expand(5, 3, 3), atol=1e-6)
    assert torch.allclose(torch.det(r), torch.ones(5), atol=1e-6)


def test_padding_repeats_the_first_frame_or_the_last_as_it_was_corrupted():
    clean = batch()
    x, missing = clean + 1, torch.zeros(4, 16, 50, dtype=torch.bool)
    missing[:, 0, 5] = True
    front = AugmentConfig(**{**PLAIN.__dict__, "front_padding": 1.0})
    c, y, m = pad_windows(clean, x, missing, front, rng())
    for b in range(4):
        pad = int((y[b, :, 0, 2] == y[b, 0, 0, 2]).sum()) - 1
        assert pad >= 1
        assert torch.equal(y[b, pad:], x[b, : 16 - pad])
        assert torch.equal(c[b, pad:], clean[b, : 16 - pad])
        assert m[b, : pad + 1, 5].all()
        assert not m[b, pad + 1 :, 5].any()
    tail = AugmentConfig(**{**PLAIN.__dict__, "tail_padding": 1.0})
    c, y, m = pad_windows(clean, x, missing, tail, rng(3))
    assert torch.equal(y[:, -1], x[:, -1])
    assert (y[:, 0, 0, 2] >= x[:, 0, 0, 2]).all()
    assert (y[:, 0, 0, 2] > x[:, 0, 0, 2]).any()


def test_canonical_windows_are_those_of_refinement():
    clean = batch()
    for joint, place in {0: (0, -0.2), 3: (-1 / 6, 0.3), 4: (-1 / 6, 0.5), 6: (1 / 6, 0.3), 7: (1 / 6, 0.5)}.items():
        clean[:, :, joint] = torch.tensor([*place, 0.0])  # bones that do not contradict the shoulders
    x = 3.0 * clean + torch.tensor([5.0, -2.0, 1.0])
    missing = torch.zeros(4, 16, 50, dtype=torch.bool)
    c, y, scale = to_canonical_windows(x, x, missing, UPPER_BODY_50)
    assert torch.allclose(y[:, :, NECK], torch.zeros(4, 16, 3), atol=1e-5)
    width = (y[:, :, LEFT_SHOULDER] - y[:, :, RIGHT_SHOULDER]).norm(dim=-1)
    assert torch.allclose(c, y)
    assert torch.allclose(y, (x - x[:, :1, NECK : NECK + 1]) * scale[:, None, None, None], atol=1e-5)
    assert width.std() < 1e-5


def test_bone_statistics_are_of_unmirrored_poses(tmp_path):
    mean, spread = bone_statistics(corpus(tmp_path), {"a": 1.0, "b": 1.0}, UPPER_BODY_50)
    assert mean[LEFT_SHOULDER, 0] > 0.1
    assert torch.allclose(mean, mean[list(UPPER_BODY_50.mirror)] * torch.tensor([-1.0, 1.0, 1.0]), atol=1e-5)
    assert (spread >= 0).all()


def test_shared_data_builds_a_corpus_without_touching_dev(tmp_path):
    root = shared_data("phoenix14t/dev.skels").parents[1]
    summary = build_corpus(root, tmp_path, BuildConfig(bandai=False, synthetic=0))
    assert summary == {"phoenix/train": (5, 636), "phoenix/dev": (5, 536), "how2sign/train": (5, 684)}
    names = {s.split: {t.name for t in Corpus(tmp_path).select(s.split)} for s in Corpus(tmp_path).sequences}
    assert not names["train"] & names["dev"]


def test_a_corpus_is_written_one_sequence_at_a_time_and_memory_is_let_go(tmp_path):
    alive = []

    def sequences():
        for k in range(4):
            xyz = motion(30 + k, k)
            alive.append(weakref.ref(xyz))
            yield Sequence(f"s{k}", "a", "train", 25.0, 0, 0), xyz
            del xyz
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1

    assert write_corpus(tmp_path, sequences()) == {"a/train": (4, 126)}
    got = Corpus(tmp_path)
    assert got.xyz.shape == (126, 50, 3)
    before = np.array(got.xyz)
    got.release()
    assert (got.xyz == before).all()
    np.testing.assert_array_equal(before[93:], motion(33, 3))


def test_a_corpus_that_was_broken_off_is_none(tmp_path):
    corpus(tmp_path)

    def broken():
        yield Sequence("s0", "a", "train", 25.0, 0, 0), motion(30)
        yield Sequence("s1", "a", "train", 25.0, 0, 0), motion(30)[:, :20]

    with pytest.raises(FormatError, match=r"'s1'.*\(30, 20, 3\)"):
        write_corpus(tmp_path, broken())
    with pytest.raises(FormatError, match="not a corpus"):
        Corpus(tmp_path)
    with pytest.raises(FormatError, match="nothing to build"):
        write_corpus(tmp_path, [])
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="cannot be written"):
        write_corpus(tmp_path / "file" / "corpus", broken())


@pytest.mark.parametrize("part", ["bandai", "how2sign"])
def test_a_source_that_is_not_there_is_named_and_not_the_corpus(tmp_path, part):
    parts = {"phoenix": False, "bandai": False, "how2sign": False, part: True}
    with pytest.raises(FormatError, match=r"data/.*: cannot be read \(No such file") as error:
        build_corpus(tmp_path / "data", tmp_path / "corpus", BuildConfig(**parts))
    assert str(tmp_path / "corpus") not in str(error.value)


def test_recordings_give_their_complete_stretches_in_training_units(tmp_path, capsys):
    xyz = 500 * motion(100)
    xyz[60, 3] = np.nan
    slot = np.arange(40) + 5 * (np.arange(40) >= 12)  # five frames dropped behind the twelfth
    write(tmp_path / "a.npz", [Recording(xyz, 25.0, "a")])
    write(tmp_path / "b.npz", [Recording(500 * motion(40), 25.0, "b", slot=slot)])
    assert main([str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), str(tmp_path / "corpus")]) == 0
    assert "recordings/dev" in capsys.readouterr().out
    got = Corpus(tmp_path / "corpus")
    assert [(s.name, s.split, s.length) for s in got.sequences] == [
        ("a.npz/a/0", "dev", 60), ("a.npz/a/61", "dev", 39), ("b.npz/b/12", "train", 28),
    ]  # fmt: skip
    np.testing.assert_allclose(got.xyz[99:], motion(40)[12:], rtol=1e-5, atol=1e-5)
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "corpus")]) == 2
    assert "nowhere" in capsys.readouterr().err
