"""The bench of back-translation: sentences by rule, clips, conditions, and the whole of it on a small scale."""

import argparse
from collections import Counter

import numpy as np
import pytest
import torch
import translate as bench

from rtskel.engine.weights import save_weights
from rtskel.model import Skeletor, SkeletorConfig
from rtskel.skeleton import UPPER_BODY_50
from rtskel.translate.inputs import Frames, Inputs
from rtskel.translate.network import TranslatorConfig

SIGNS = [*bench.LETTERS, "no", "a", "coffee", "can", "medium", "tea", "get", "hello", "thank-you", "muffin", "small",
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
    made = [bench.sentence(random) for _ in range(400)]
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
    takes = bench.clips(data / "signs" / "words.npz", lifted=False)
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
    flat, lifted = (bench._clip(points, lifted) for lifted in (False, True))
    assert np.array_equal(flat.missing, lifted.missing)
    seen = ~flat.missing
    for axis in (0, 1):
        assert np.corrcoef(lifted.xyz[seen][:, axis], flat.xyz[seen][:, axis])[0, 1] > 0.97
    forearm = np.linalg.norm(lifted.xyz[:, 4] - lifted.xyz[:, 3], axis=-1)
    assert forearm.std() < 0.02 * forearm.mean()


def test_splits_share_no_clip(data):
    takes = bench.clips(data / "signs" / "words.npz", lifted=False)
    used = {}
    for split in bench.COUNTS:
        low, high = bench.TAKES[split]
        used[split] = set(range(int(low * 20), int(high * 20)))
        for of in bench.composed(takes, split, 20, seed=0):
            first = of.poses.xyz[:FRAMES]
            sign = of.gloss.split()[0]
            assert any(np.array_equal(first, takes[sign][take].xyz) for take in used[split])
            assert of.poses.frames == (FRAMES + bench.TRANSITION) * len(of.gloss.split()) - bench.TRANSITION
    assert not used["train"] & used["dev"]
    assert not used["test"] & (used["dev"] | used["train"])
    a, b = (bench.composed(takes, "dev", 3, seed=0) for _ in range(2))
    assert [of.text for of in a] == [of.text for of in b]
    assert all(np.array_equal(x.poses.xyz, y.poses.xyz) for x, y in zip(a, b, strict=True))


def test_transitions_move_evenly():
    a = Frames(np.zeros((2, 50, 3), np.float32), np.zeros((2, 50), bool))
    b = Frames(np.ones((3, 50, 3), np.float32), np.zeros((3, 50), bool))
    b.missing[0, 9] = True
    joined = bench.joined([a, b])
    assert len(joined.xyz) == 7
    assert np.allclose(joined.xyz[2:4, 8, 0], [1 / 3, 2 / 3])
    assert joined.missing[2:4, 9].all()
    assert not joined.missing[2:4, 8].any()
    assert not joined.xyz[2:4, 9].any()


def test_conditions_do_what_they_say(data):
    clean = bench.composed(bench.clips(data / "signs" / "words.npz", lifted=False), "test", 6, seed=0)
    assert bench.under("raw", clean, 0) == clean
    corrupted = bench.under("corrupted", clean, 1)
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
    again = bench.under("corrupted", clean, 1)
    assert all(np.array_equal(x.poses.xyz, y.poses.xyz) for x, y in zip(corrupted, again, strict=True))
    measured = bench.under("measured", clean, 1)
    assert not np.allclose(measured[0].poses.xyz, clean[0].poses.xyz, atol=0.01)


def test_recall_counts_words_of_a_kind():
    said, wanted = ["a small tea for k v", "no tea"], ["a small tea for k v v", "no large tea"]
    assert bench.recall(said, wanted, bench.KINDS["letters"]) == pytest.approx(100 * 2 / 3)
    assert bench.recall(said, wanted, bench.KINDS["things"]) == pytest.approx(100 * 3 / 4)


def test_the_whole_bench(data, tmp_path, monkeypatch):
    torch.manual_seed(0)
    engine = tmp_path / "small.safetensors"
    save_weights(Skeletor(SkeletorConfig(window=8, d_model=16, heads=2, d_ff=16, layers=1)), engine, name="small")
    monkeypatch.setattr(bench, "COUNTS", {"train": 12, "dev": 4, "test": 5})
    monkeypatch.setattr(bench, "FILTERS", ("hold", "parents+gaussian:1"))
    monkeypatch.setattr(bench, "GAPS", (3,))
    monkeypatch.setattr(bench, "BLOCK", 2)
    monkeypatch.setattr(bench, "NETWORK", TranslatorConfig(d_model=8, heads=2, d_ff=8, layers=1, stack=4, longest=6))
    options = argparse.Namespace(
        runs=tmp_path / "runs", data=data, engine=str(engine), precision=None, seeds=[0, 1], epochs=1, dev=3, test=5,
        conditions=["raw", "corrupted"], estimated_depth=False,
    )  # fmt: skip
    result = bench.run(options)
    rows = result["conditions"]["corrupted"]["rows"]
    assert set(rows) == {"as is", "filter", "Skeletor", "Skeletor, all filled", "Skeletor, never seen kept"}
    assert all(len(of["bleu"]) == 2 for of in rows.values())
    assert len(rows["Skeletor"]["p against filter"]) == 2
    assert Inputs.from_dict(rows["Skeletor"]["inputs"]).refine == str(engine)
    assert any("corrupted" in line for line in bench.lines(result))
    kept = sorted(path.name for path in (tmp_path / "runs" / "raw").glob("test-small*.npz"))
    assert [name.rsplit("-", 1)[1] for name in kept] == ["0.npz", "2.npz", "4.npz"]
    stamps = [path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.npz")]
    assert bench.run(options) == result, "what was trained and refined is taken up"
    assert stamps == [path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.npz")]
