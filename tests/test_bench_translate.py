"""The bench of back-translation: sentences by rule, clips, conditions, and the whole of it on a small scale."""

import argparse
import gzip
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import translate as bench
from measure import composed

from rtskel.engine.weights import save_weights
from rtskel.model import Skeletor, SkeletorConfig
from rtskel.skeleton import UPPER_BODY_50
from rtskel.translate.inputs import Frames, Inputs
from rtskel.translate.metrics import compare
from rtskel.translate.network import TranslatorConfig

SIGNS = [*composed.LETTERS, "no", "a", "coffee", "can", "medium", "tea", "get", "hello", "thank-you", "muffin", "small",
         "large", "please", "water", "i"]  # fmt: skip
FRAMES = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file like words.npz: 20 takes of every sign, each sign with a pose of its own, the left hand never seen."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    points, label, number = [], [], []
    for sign in (*SIGNS, "-"):
        body = np.array([(0.5, 0.4), (0.6, 0.6), (0.4, 0.6), (0.65, 0.8), (0.35, 0.8), (0.6, 0.9), (0.4, 0.9)])
        pose = np.zeros((49, 3))
        pose[:7, :2] = body + random.normal(0, 0.03, (7, 2)) * (np.arange(7) > 2)[:, None]
        pose[28:, :2] = pose[6, :2] + random.normal(0, 0.02, (21, 2))
        for take in range(20):
            frames = pose + random.normal(0, 1e-3, (FRAMES, 49, 3)) * (pose.any(-1, keepdims=True))
            points.append(np.round(frames * 8192).astype(np.int16))
            label.append(sign)
            number.append(take)
    (folder / "signs").mkdir()
    order = random.permutation(len(label))
    np.savez(
        folder / "signs" / "words.npz", points=np.stack(points)[order], label=np.array(label)[order],
        number=np.array(number, np.int16)[order],
    )  # fmt: skip
    return folder


def test_sentences_follow_the_rules():
    random = np.random.default_rng(0)
    made = [composed.sentence(random) for _ in range(400)]
    for text, gloss in made:
        signs = gloss.split()
        assert {sign.lower() for sign in signs} <= set(SIGNS)
        english = text.replace("thank you", "thank-you").split()
        silent = Counter(english) - Counter(sign.lower() for sign in signs)
        assert set(silent) <= {"for", "and", "a"}, "every other word is signed"
        assert english != [sign.lower() for sign in signs]
        if "please" in english:
            assert english[-1] == "please"
            assert "PLEASE" in signs[:2]
    by_gloss = {}
    for text, gloss in made:
        assert by_gloss.setdefault(gloss, text) == text, "a gloss has one text: a perfect reader scores 100"
    assert len({text for text, _ in made}) > 300


def test_clips_are_bodies_with_hands_on_their_wrists(data):
    takes = composed.clips(data / "signs" / "words.npz", lifted=False)
    assert sorted(takes) == sorted(sign.upper() for sign in SIGNS)
    assert {len(of) for of in takes.values()} == {20}
    clip = takes["COFFEE"][3]
    (_, left), (wrist, right) = UPPER_BODY_50.hands
    assert clip.missing[:, left].all()
    assert not clip.missing[:, right].any()
    assert np.allclose(np.median(clip.xyz[:, 1], axis=0), 0, atol=1e-6)
    assert np.median(np.linalg.norm(clip.xyz[:, 5] - clip.xyz[:, 2], axis=-1)) == pytest.approx(1 / 3)
    assert clip.xyz[:, 5, 0].mean() > 0.1, "the left shoulder is at the image's right"
    assert np.allclose(clip.xyz[:, right[0], 2], clip.xyz[:, wrist, 2], atol=1e-6)


def test_lifted_clips_look_the_same_and_have_bones_of_people(data):
    with np.load(data / "signs" / "words.npz") as file:
        points = file["points"][list(file["label"]).index("coffee")]
    flat, lifted = (composed.clip(points, lifted) for lifted in (False, True))
    assert np.array_equal(flat.missing, lifted.missing)
    seen = ~flat.missing
    for axis in (0, 1):
        assert np.corrcoef(lifted.xyz[seen][:, axis], flat.xyz[seen][:, axis])[0, 1] > 0.97
    forearm = np.linalg.norm(lifted.xyz[:, 4] - lifted.xyz[:, 3], axis=-1)
    assert forearm.std() < 0.02 * forearm.mean()


def test_splits_share_no_clip(data):
    takes = composed.clips(data / "signs" / "words.npz", lifted=False)
    used = {}
    for split in composed.TAKES:
        low, high = composed.TAKES[split]
        used[split] = set(range(int(low * 20), int(high * 20)))
        for of in composed.by_rule(takes, split, 20):
            first = of.poses.xyz[:FRAMES]
            sign = of.gloss.split()[0]
            assert any(np.array_equal(first, takes[sign][take].xyz) for take in used[split])
            assert of.poses.frames == (FRAMES + composed.TRANSITION) * len(of.gloss.split()) - composed.TRANSITION
    assert not used["train"] & used["dev"]
    assert not used["test"] & (used["dev"] | used["train"])
    a, b = (composed.by_rule(takes, "dev", 3) for _ in range(2))
    assert [of.text for of in a] == [of.text for of in b]
    assert all(np.array_equal(x.poses.xyz, y.poses.xyz) for x, y in zip(a, b, strict=True))


def test_transitions_move_evenly():
    a = Frames(np.zeros((2, 50, 3), np.float32), np.zeros((2, 50), bool))
    b = Frames(np.ones((3, 50, 3), np.float32), np.zeros((3, 50), bool))
    b.missing[0, 9] = True
    joined = composed.joined([a, b])
    assert len(joined.xyz) == 7
    assert np.allclose(joined.xyz[2:4, 8, 0], [1 / 3, 2 / 3])
    assert joined.missing[2:4, 9].all()
    assert not joined.missing[2:4, 8].any()
    assert not joined.xyz[2:4, 9].any()


def test_conditions_do_what_they_say(data):
    clean = composed.by_rule(composed.clips(data / "signs" / "words.npz", lifted=False), "test", 6)
    corrupted = bench.under(bench.corrupted, clean, 1)
    tree = UPPER_BODY_50
    lost = []
    (_, left), (_, right) = tree.hands
    for before, after in zip(clean, corrupted, strict=True):
        a, b = before.poses, after.poses
        assert (after.text, b.missing[:, left].all()) == (before.text, True)
        lost.append(b.missing[:, right].mean())
        limb = np.linalg.norm(a.xyz - a.xyz[:, tree.parents_or_self], axis=-1)
        off = np.abs(b.xyz - a.xyz).max(-1)[~b.missing]
        assert (off <= 0.5 * limb[~b.missing] + 1e-6).all()
        assert off.max() > 0
    assert 0.2 < np.mean(lost) < 0.4
    again = bench.under(bench.corrupted, clean, 1)
    assert all(np.array_equal(x.poses.xyz, y.poses.xyz) for x, y in zip(corrupted, again, strict=True))


def test_recall_counts_words_of_a_kind():
    said, wanted = ["a small tea for k v", "no tea"], ["a small tea for k v v", "no large tea"]
    assert bench.recall(said, wanted, bench.KINDS["rule"].words["letters"]) == pytest.approx(100 * 2 / 3)
    assert bench.recall(said, wanted, bench.KINDS["rule"].words["things"]) == pytest.approx(100 * 3 / 4)


def test_errors_are_laid_over_poses_in_one_stretch(data):
    clean = composed.by_rule(composed.clips(data / "signs" / "words.npz", lifted=False), "dev", 4)
    random = np.random.default_rng(0)
    walk = np.cumsum(random.normal(0, 1e-3, (9, 50, 3)), 0).astype(np.float32)
    missing = np.zeros((9, 50), bool)
    missing[2:5, 29:] = True
    walk[missing] = 0
    made = bench.under(lambda *of: bench.laid_over([Frames(walk, missing)], *of), clean, 2)
    starts = set()
    for before, after in zip(clean, made, strict=True):
        a, b = before.poses, after.poses
        error = b.xyz - a.xyz
        which = [int(np.abs(walk[:, 2] - frame[2]).sum(-1).argmin()) for frame in error]
        assert {abs(step) for step in np.diff(which)} == {1}, "back and forth, one frame after another"
        assert set(which) == set(range(9))
        assert np.array_equal(b.missing, a.missing | missing[which])
        seen = ~b.missing
        assert np.allclose(error[seen], walk[which][seen], atol=1e-6)
        assert not b.xyz[b.missing].any()
        starts.add(which[0])
    assert len(starts) > 1


def pairs(folder, clips):
    """Pairs whose truth is a body that moves, estimated with noise and a hand that is lost at times."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(clips))
    body = person()
    for name in clips:
        truth = body + np.cumsum(random.normal(0, 2e-3, (30, 50, 3)), 0)
        confidence = np.ones((30, 50))
        confidence[8:15, 29:] = 0
        np.savez(
            folder / f"{name}.npz", estimate=truth + random.normal(0, 0.01, truth.shape), truth=truth,
            confidence=confidence, fps=25.0, axes="RUT",
        )  # fmt: skip


def person():
    """A pose in metres: x to the right, y up."""
    random, xyz = np.random.default_rng(3), np.zeros((50, 3))
    xyz[:8, :2] = (0, 0.2), (0, 0), (-0.2, 0), (-0.25, -0.3), (-0.2, -0.5), (0.2, 0), (0.25, -0.3), (0.2, -0.5)
    for wrist, hand in UPPER_BODY_50.hands:
        xyz[hand] = xyz[wrist] + random.normal(0, 0.04, (21, 3))
    return xyz


def test_no_clip_of_pairs_is_for_two_splits(tmp_path):
    pairs(tmp_path / "pairs" / "train", ["a", "b"])
    pairs(tmp_path / "pairs" / "kept", ["k", "l", "m", "n"])
    options = argparse.Namespace(runs=tmp_path / "runs", pairs=tmp_path / "pairs")
    found = {split: bench.measured_errors(options, split) for split in ("train", "dev", "test")}
    assert {split: len(of) for split, of in found.items()} == {"train": 2, "dev": 2, "test": 2}
    every = [error for of in found.values() for error in of]
    assert len({error.xyz.tobytes() for error in every}) == 6
    for error in every:
        assert error.missing[8:15, 29:].all()
        assert error.missing.sum() == 7 * 21
        assert not error.xyz[error.missing].any()
        assert 0 < np.abs(error.xyz[~error.missing]).mean() < 0.2
    pairs(tmp_path / "pairs" / "more", ["x"])
    again = bench.measured_errors(argparse.Namespace(runs=tmp_path / "runs", pairs=tmp_path / "pairs" / "more"), "dev")
    assert all(np.array_equal(x.xyz, y.xyz) for x, y in zip(again, found["dev"], strict=True)), "kept"


def phoenix_row(split, number, gloss, alignment, frames):
    return {
        "split": split, "name": f"{split}/{number}", "gloss": gloss, "text": f"text {split} {number} .",
        "num_frames": frames, "alignment": " ".join(map(str, alignment)),
    }  # fmt: skip


def test_durations_are_the_alignments():
    states = [0, 3175, 3176, 4, 4, 5, 6, 6, 10, 11, 11, 12, 3172, 0]
    assert composed.durations(phoenix_row("train", 1, "A B", states, 14)) == [5, 4]
    assert composed.durations(phoenix_row("train", 1, "A B C", states, 14)) == [4, 4, 4], "runs are not the glosses"
    assert composed.durations(phoenix_row("test", 1, "A B", states, 14)) == [7, 7]


def test_squeezed_clips_begin_and_end_as_they_did():
    xyz = np.arange(20, dtype=np.float32)[:, None, None] * np.ones((20, 50, 3), np.float32)
    missing = np.zeros((20, 50), bool)
    missing[[5, 7], 3] = True
    short = composed.squeezed(Frames(xyz, missing), 5)  # frames 0, 4.75, 9.5, 14.25, 19
    assert np.allclose(short.xyz[:, 0, 0], np.linspace(0, 19, 5))
    assert np.argwhere(short.missing).tolist() == [[1, 3]]
    assert not short.xyz[1, 3].any()
    same = composed.squeezed(Frames(xyz, missing), 20)
    assert np.array_equal(same.missing, missing)
    assert np.allclose(same.xyz[~missing], xyz[~missing])


def test_sentences_of_phoenix(data, tmp_path):
    rows = [
        phoenix_row("train", 1, "REGEN SONNE", [1] * 20 + [4] * 30, 60),
        phoenix_row("train", 2, "REGEN", [1] * 2, 9),
        phoenix_row("dev", 1, "SONNE REGEN WIND", [1] * 4, 66),
        phoenix_row("test", 1, "WIND", [7] * 4, 12),
    ]
    path = tmp_path / "phoenix14t.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    takes = composed.clips(data / "signs" / "words.npz", lifted=False)
    train, dev, test = (composed.phoenix(path, takes, split, 5) for split in composed.TAKES)
    assert [of.text for of in (*train, *dev, *test)] == [row["text"] for row in rows]
    assert [of.poses.frames for of in train] == [20 + 30 - composed.TRANSITION, 4 + composed.TRANSITION]
    assert [of.poses.frames for of in (*dev, *test)] == [66 - composed.TRANSITION, 12 - composed.TRANSITION]
    signs = composed.pairs_of_signs(rows, list(takes))
    assert len(set(signs.values())) == 3
    assert all(a != b for a, b in signs.values())
    low, high = composed.TAKES["test"]
    first = [takes[signs["WIND"][0]][take].xyz[0] for take in range(int(low * 20), int(high * 20))]
    assert any(np.array_equal(test[0].poses.xyz[0], pose) for pose in first)


def test_more_glosses_than_pairs_share_the_rarest():
    rows = [phoenix_row("train", 1, "A A A B B C D", [], 9)]
    signs = composed.pairs_of_signs(rows, ["X", "Y"])
    assert signs["A"] != signs["B"]
    assert (signs["C"], signs["D"]) == (signs["A"], signs["B"])


def test_bleu_of_counts_is_sacrebleus():
    texts = ["a b c d e", "f g h i j k", "a c e g"]
    said = ["a b c d", "f g h x j k i", "a c e g"]
    counts = bench.counted(said, texts)
    assert bench.bleu_of(counts.sum(0)) == pytest.approx(bench.bleu(said, texts))
    assert bench.bleu_of(counts[2:].sum(0)) == pytest.approx(100)
    assert bench.bleu_of(bench.counted(["x"], ["a b c d"])[0]) == 0


def test_p_over_seeds_sees_a_difference_that_all_seeds_have():
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdef"), 8)) for _ in range(80)]

    def worse(share, seed):
        random = np.random.default_rng(seed)
        return [" ".join("x" if random.random() < share else word for word in text.split()) for text in texts]

    good, bad = [worse(0.1, seed) for seed in (1, 2, 3)], [worse(0.3, seed) for seed in (4, 5, 6)]
    assert bench.by_chance(good, bad, texts) < 0.01
    assert bench.by_chance(good, [worse(0.1, seed) for seed in (7, 8, 9)], texts) > 0.05
    assert bench.by_chance(good, good, texts) == 1
    similar = [bad[0], worse(0.25, 10)]
    (_, p), *_ = compare({"first": similar[0], "second": similar[1]}, texts).values()
    assert bench.by_chance([similar[0]], [similar[1]], texts) == pytest.approx(p, abs=0.03), "sacrebleu's test"


def test_the_topline_learns_its_glosses(data, tmp_path, monkeypatch):
    counts = {"train": 200, "dev": 10, "test": 10}
    monkeypatch.setitem(bench.KINDS, "rule", small(bench.KINDS["rule"], epochs=1, **counts))
    monkeypatch.setattr(bench, "TOPLINE", 4)
    options = argparse.Namespace(runs=tmp_path, data=data, sentences="rule", estimated_depth=False, **counts)
    texts = [of.text for of in bench.stored(options, "raw", "test")]
    assert bench.bleu(bench.topline(options, 0), texts, 1) > 40, "the commonest words alone would be some 20"


def small(kind, epochs, **counts):
    """A kind of few sentences with a small translator."""
    network = TranslatorConfig(d_model=32, heads=2, d_ff=32, layers=1, stack=4, longest=25)
    config = replace(kind.config, network=network, epochs=epochs, batch=4, lr=3e-3, weight_decay=0.0)
    return replace(kind, counts=counts, config=config)


def test_the_whole_bench(data, tmp_path, monkeypatch):
    torch.manual_seed(0)
    engines = [tmp_path / f"{name}.safetensors" for name in ("small", "other")]
    for path in engines:
        model = Skeletor(SkeletorConfig(window=8, d_model=16, heads=2, d_ff=16, layers=1))
        save_weights(model, path, name=path.stem)
    pairs(tmp_path / "pairs" / "train", ["a", "b"])
    pairs(tmp_path / "pairs" / "kept", ["k", "l"])
    monkeypatch.setitem(bench.KINDS, "rule", small(bench.KINDS["rule"], epochs=1, train=12, dev=4, test=5))
    monkeypatch.setattr(bench, "FILTERS", ("hold", "parents+gaussian:1"))
    monkeypatch.setattr(bench, "GAPS", (3,))
    monkeypatch.setattr(bench, "BLOCK", 2)
    monkeypatch.setattr(bench, "TOPLINE", 1)
    options = argparse.Namespace(
        sentences="rule", runs=tmp_path / "runs", data=data, engine=list(map(str, engines)), precision=None,
        seeds=[0, 1], retrain=[0], epochs=1, train=12, dev=3, choose=2, test=5, pairs=tmp_path / "pairs",
        conditions=["raw", "corrupted", "measured"], estimated_depth=False,
    )  # fmt: skip
    result = bench.run(options)
    other = result["engines"].keys() - {"Skeletor"}
    assert len(other) == 1
    for condition in ("raw", "corrupted", "measured"):
        rows = result["read"][condition]["rows"]
        assert set(rows) == {"as is", "filter", "Skeletor", *other, *bench.FILLED}
        assert all(len(of["bleu"]) == 2 for of in rows.values())
        assert len(rows["Skeletor"]["p against filter"]) == 2
        assert 0 < rows["Skeletor"]["p over seeds"] <= 1
        assert Inputs.from_dict(rows["Skeletor"]["inputs"]).refine == str(engines[0])
        again = result["retrained"][condition]["rows"]
        assert set(again) == {"as is", "filter", "Skeletor", *other}
        assert all(len(of["bleu"]) == 1 for of in again.values())
    assert result["errors"]["test"]["clips"] == 1
    raw = [result[question]["raw"]["rows"]["as is"]["bleu"][0] for question in ("read", "retrained")]
    assert raw[0] == raw[1], "the same translator"
    assert sum("corrupted" in line for line in bench.lines(result)) == 2
    found = sorted(path.name for path in (tmp_path / "runs" / "rule" / "raw").glob("test-small*.npz"))
    assert [name.rsplit("-", 1)[1] for name in found] == ["0.npz", "2.npz", "4.npz"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.*")}
    assert bench.run(options) == result, "what was trained, refined and read is taken up"
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.*")}


def test_without_pairs_their_condition_is_left_out(tmp_path, capsys):
    options = argparse.Namespace(runs=tmp_path, pairs=None, conditions=["raw", "measured"])
    conditions, absent = bench.available(options)
    assert conditions == ["raw"]
    assert "--pairs" in absent["measured"]
    assert "measured: left out: needs --pairs" in capsys.readouterr().err
    options.pairs = tmp_path
    assert bench.available(options) == (["raw", "measured"], {})
