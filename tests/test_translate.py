"""Back-translation: sentences and tables, what is done with poses, search, scores, training, and the command."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rtskel import Recording, open_engine, write
from rtskel.cli import main
from rtskel.engine.weights import save_weights
from rtskel.errors import RtskelError
from rtskel.formats import SKELS_UNIT
from rtskel.model import Skeletor, SkeletorConfig
from rtskel.recordings import refine_recording
from rtskel.skeleton import UPPER_BODY_50
from rtskel.translate import metrics
from rtskel.translate.data import Sentence, sentences
from rtskel.translate.inputs import BUNDLED, Inputs
from rtskel.translate.network import TranslationNetwork, TranslatorConfig
from rtskel.translate.search import beam_search, penalty
from rtskel.translate.text import BEGIN, END, PAD, SPECIAL, UNKNOWN, Vocabulary
from rtskel.translate.train import TrainConfig, Trainer, prepare, train
from rtskel.translate.translator import Search, Translator
from tests.shared_data import shared_data

J = UPPER_BODY_50.joints
SMALL = TranslatorConfig(d_model=32, heads=4, d_ff=64, layers=1, dropout=0.0, stack=4, longest=8)
WORDS = ("rain", "sun", "wind", "snow", "cloud", "fog")


def pose(seed):
    """A person with hands somewhere: [J, 3], neck at the origin, shoulders 1/3 apart."""
    xyz = np.random.default_rng(seed).uniform(-0.3, 0.3, (J, 3))
    xyz[:8] = [(0, -0.2, 0), (0, 0, 0), (-1 / 6, 0, 0), (-0.2, 0.3, 0), (-0.1, 0.4, 0.1), (1 / 6, 0, 0), (0.2, 0.3, 0),
               (0.1, 0.4, 0.1)]  # fmt: skip
    return xyz.astype(np.float32)


POSES = {word: pose(seed) for seed, word in enumerate(WORDS)}


def spoken(text, name="a", seed=0, **options):
    """A recording of a text: every word is a pose, held for four frames, with a little noise."""
    noise = np.random.default_rng(seed).normal(0, 0.005, (4 * len(text.split()), J, 3))
    xyz = np.repeat([POSES[word] for word in text.split()], 4, axis=0) + noise
    return Recording(xyz.astype(np.float32), 25.0, name, unit=SKELS_UNIT, **options)


def planted(count, seed):
    """Sentences of two or three different words, which their poses say in order."""
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, random.integers(2, 4), replace=False)) for _ in range(count)]
    return [Sentence(spoken(text, f"s{k}", seed * 1000 + k), text, text.upper()) for k, text in enumerate(texts)]


def folder_of(path, split, found, gloss=True, recordings="skels"):
    path.mkdir(exist_ok=True)
    write(path / f"{split}.{recordings}", [sentence.poses for sentence in found])
    (path / f"{split}.text").write_text("".join(f"{sentence.text}\n" for sentence in found))
    if gloss:
        (path / f"{split}.gloss").write_text("".join(f"{sentence.gloss}\n" for sentence in found))
    return path


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_vocabulary_counts_and_comes_back():
    words = Vocabulary.of(["b a b", "c b a"], least=2)
    assert words.words == ("b", "a")
    assert len(words) == 6
    assert words.encode("a c b") == [5, UNKNOWN, 4]
    assert words.decode([BEGIN, 5, PAD, 4, UNKNOWN, END, 4]) == "a b <unk>"
    assert words.decode(words.encode("")) == ""
    assert Vocabulary.of(["<s> a"]).encode("<s> a") == [UNKNOWN, 4], "no text can contain what is no word"


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recordings", ["skels", "npz"])
def test_a_folder_is_read_line_by_line(tmp_path, recordings):
    found = planted(3, 0)
    folder_of(tmp_path, "dev", found, recordings=recordings)
    read = sentences(tmp_path, "dev")
    assert [(s.name, s.text, s.gloss) for s in read] == [(s.name, s.text, s.gloss) for s in found]
    assert np.allclose(read[1].poses.xyz, found[1].poses.xyz, atol=1e-6)
    (tmp_path / "dev.gloss").unlink()
    assert [s.gloss for s in sentences(tmp_path, "dev")] == [None] * 3


def test_a_table_says_what_is_signed(tmp_path):
    found = planted(4, 0)
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "one.npz", [s.poses for s in found[:3]])
    write(tmp_path / "files" / "two.skels", [found[3].poses])
    table = tmp_path / "texts.tsv"
    table.write_text("split\tname\ttext\n" + "".join(f"{'dev' if k % 2 else 'train'}\ts{k}\t{s.text}\n"
                                                     for k, s in enumerate(found)))  # fmt: skip
    read = sentences(tmp_path / "files", "dev", table)
    assert [(s.name, s.text, s.gloss) for s in read] == [(s.name, s.text, None) for s in found[1::2]]
    whole = tmp_path / "texts.csv"
    whole.write_text('name,text,gloss\ns0,"rain , sun",RAIN\n')
    (only,) = sentences(tmp_path / "files" / "one.npz", "anything", whole)
    assert (only.text, only.gloss) == ("rain , sun", "RAIN")


def test_beside_recordings_that_a_table_names_may_lie_other_files(tmp_path):
    write(tmp_path / "a.npz", [spoken("rain", "a")])
    write(tmp_path / "of another split.npz", [spoken("sun", "b")])
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (tmp_path / "notes.txt").write_text("Tuesday")
    (tmp_path / "t.tsv").write_text("name\ttext\na\train\n")
    (only,) = sentences(tmp_path, "dev", tmp_path / "t.tsv")
    assert only.text == "rain"
    (tmp_path / "t.tsv").write_text("name\ttext\na\train\nnotes\tsun\n")
    assert "notes.txt" in error_of(sentences, tmp_path, "dev", tmp_path / "t.tsv")
    write(tmp_path / "again.npz", [spoken("rain", "a")])
    assert "two recordings are named 'a'" in error_of(sentences, tmp_path, "dev", tmp_path / "t.tsv")


def error_of(function, *given, **options):
    with pytest.raises(RtskelError) as error:
        function(*given, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path):
    folder_of(tmp_path, "dev", planted(3, 0))
    assert "no split 'test': test.text is absent (splits: dev)" in error_of(sentences, tmp_path, "test")
    assert "no such folder" in error_of(sentences, tmp_path / "none", "dev")
    (tmp_path / "dev.text").write_text("rain\nsun\n")
    assert "dev.text: 2 lines for the 3 recordings of dev.skels" in error_of(sentences, tmp_path, "dev")
    (tmp_path / "dev.text").write_text("rain\n  \nsun\n")
    assert "sentence 2 (s1): empty text" in error_of(sentences, tmp_path, "dev")
    (tmp_path / "dev.text").write_text("rain\nwind\nsun\n")
    (tmp_path / "dev.gloss").write_text("RAIN\n")
    assert "dev.gloss: 1 lines for the 3 recordings" in error_of(sentences, tmp_path, "dev")
    (tmp_path / "dev.npz").write_bytes(b"")
    assert "found dev.npz and dev.skels" in error_of(sentences, tmp_path, "dev")
    (tmp_path / "test.text").write_text("rain\n")
    assert "found no test.skels" in error_of(sentences, tmp_path, "test")


def test_what_is_wrong_with_a_table_is_one_line(tmp_path):
    write(tmp_path / "one.npz", [spoken("rain", "a"), spoken("sun", "b")])
    table, path = tmp_path / "t.tsv", tmp_path / "one.npz"
    for content, words in (
        ("name\tgloss\na\tRAIN\n", "no column 'text' (found: name, gloss)"),
        ("name\ttext\na\train\na\tsun\n", "name 'a' is repeated"),
        ("name\ttext\na\train\nz\tsun\n", "no recording 'z'"),
        ("name\ttext\tsplit\na\train\ttrain\n", "no split 'dev' (splits: train)"),
        ("name\ttext\na\t\n", "(a): empty text"),
        ("name\ttext\n", "no rows"),
        ("", "no column"),
    ):
        table.write_text(content)
        assert words in error_of(sentences, path, "dev", table)
    assert "cannot be read" in error_of(sentences, path, "dev", tmp_path / "absent.tsv")


def test_flat_poses_are_refused(tmp_path):
    flat = Recording(spoken("rain").xyz * (1, 1, 0), 25.0, "a", dims=2, unit="px")
    write(tmp_path / "a.npz", [flat])
    (tmp_path / "t.csv").write_text("name,text\na,rain\n")
    assert "'a' is 2D, 3D is translated (see rtskel lift)" in error_of(
        sentences, tmp_path / "a.npz", "x", tmp_path / "t.csv"
    )
    assert "is 2D" in error_of(Inputs().prepare, [flat], UPPER_BODY_50.id)


# --- inputs -----------------------------------------------------------------------------------------------------------


def with_gaps():
    """Sixty frames: the left hand is never seen, the right one is lost for 3 and for 20 frames."""
    recording = spoken(" ".join(WORDS[:5] * 3))
    left, right = (hand for _, hand in UPPER_BODY_50.hands)
    confidence = np.ones(recording.xyz.shape[:2], np.float32)
    confidence[:, left] = 0
    confidence[10:13, right] = 0
    confidence[30:50, right] = 0
    return replace(recording, confidence=confidence), left, right


@pytest.fixture(scope="module")
def engine_file(tmp_path_factory):
    """A small engine that has learned nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("engine") / "small.safetensors"
    sizes = SkeletorConfig(window=8, d_model=16, heads=2, d_ff=16, layers=1)
    save_weights(Skeletor(sizes), path, name="small")
    return str(path)


@pytest.mark.parametrize("refine", ["linear", "gaussian:1", "engine"])
def test_what_stays_missing_is_an_option(refine, engine_file):
    recording, left, right = with_gaps()
    refine = engine_file if refine == "engine" else refine
    how = {
        "keep": (Inputs(refine), True, 0),
        "fill": (Inputs(refine, unseen="fill"), False, 0),
        "short": (Inputs(refine, max_gap=3), True, 20),
        "none": (Inputs(refine, max_gap=2), True, 23),
    }
    for inputs, unseen, gaps in how.values():
        (frames,) = inputs.prepare([recording], UPPER_BODY_50.id)
        assert frames.xyz.shape == (60, J, 3)
        assert frames.missing[:, left].all() == frames.missing[:, left].any() == unseen
        assert frames.missing[:, right].sum() == gaps * 21
        assert not frames.missing[:, :8].any()
        assert not frames.xyz[frames.missing].any()
    (plain,) = Inputs().prepare([recording], UPPER_BODY_50.id)
    assert np.array_equal(plain.missing, recording.missing)
    assert np.allclose(plain.xyz[~plain.missing], recording.xyz[~plain.missing])


def test_the_engine_refines_as_the_command_does():
    recording = spoken("sun rain wind snow")
    (frames,) = Inputs(BUNDLED, lookahead=4, unseen="fill").prepare([recording], UPPER_BODY_50.id)
    with open_engine() as engine:
        refined = refine_recording(recording, engine=engine, lookahead=4)
    assert np.allclose(frames.xyz, refined.xyz, atol=2e-5)


def test_features_do_not_depend_on_place_and_size():
    recording, left, _ = with_gaps()
    moved = replace(recording, xyz=recording.xyz * 500 + np.float32(70), unit="mm")
    tree = UPPER_BODY_50
    (a, known), (b, also) = (Inputs().prepare([r], tree.id)[0].features(tree) for r in (recording, moved))
    assert a.shape == (60, 6 * J)
    assert np.array_equal(known, also)
    assert np.allclose(a, b, atol=1e-4)
    assert not a[:, np.repeat(np.isin(np.arange(2 * J) % J, left), 3)].any()
    assert known.mean() < 0.6


def test_options_out_of_range_are_one_line(engine_file):
    assert "unseen 'guess': keep or fill expected" in error_of(Inputs, unseen="guess")
    assert "max_gap -1" in error_of(Inputs, max_gap=-1)
    assert "unknown 'butterworth'" in error_of(Inputs, "butterworth:2")
    prepare = Inputs(engine_file, lookahead=99).prepare
    assert "lookahead 99: 0 to 7 expected" in error_of(prepare, [spoken("rain sun")], UPPER_BODY_50.id)
    assert "absent.onnx" in error_of(Inputs("absent.onnx").prepare, [spoken("rain")], UPPER_BODY_50.id)
    other = replace(spoken("rain"))
    object.__setattr__(other, "skeleton", "another")
    assert "has skeleton 'another', the translator reads 'upper-body-50'" in error_of(
        Inputs().prepare, [other], UPPER_BODY_50.id
    )


# --- search -----------------------------------------------------------------------------------------------------------

SIZE = len(SPECIAL) + 2


def table_of(seed, batch=1):
    """A step function that looks up random log-probabilities by the words so far and the sentence."""
    drawn = {}

    def row(prefix, of):
        if (prefix, of) not in drawn:
            g = torch.Generator().manual_seed(hash((seed, prefix, of)) % (1 << 31))
            drawn[prefix, of] = torch.log_softmax(2.0 * torch.randn(SIZE, generator=g), -1)
        return drawn[prefix, of]

    def step(tokens):
        beam = len(tokens) // batch
        return torch.stack([row(tuple(t.tolist()), k // beam) for k, t in enumerate(tokens)])

    return step, row


def exhaustive(row, of, alpha, longest):
    """The best text of all: every sequence of words, ended."""
    best = (-math.inf, ())
    words = [number for number in range(SIZE) if number not in (PAD, BEGIN, END)]
    for length in range(longest):
        for text in itertools.product(words, repeat=length):
            prefix, total = (BEGIN,), 0.0
            for word in (*text, END):
                total += float(row(prefix, of)[word])
                prefix = (*prefix, word)
            best = max(best, (total / penalty(length + 1, alpha), text))
    return best


@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0, -0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_the_best_of_all(alpha, seed):
    step, row = table_of(seed, 3)
    texts, scores = beam_search(step, 3, beam=81, alpha=alpha, longest=4)
    for of, (text, score) in enumerate(zip(texts, scores, strict=True)):
        wanted, best = exhaustive(row, of, alpha, 4)
        assert tuple(text) == best
        assert score == pytest.approx(wanted)


def test_a_beam_of_one_is_greedy_and_wider_ones_are_no_worse():
    for seed in range(8):
        step, row = table_of(seed)
        (greedy,), (score,) = beam_search(step, 1, beam=1, alpha=0.0, longest=6)
        prefix = (BEGIN,)
        while len(prefix) <= 6:
            chances = row(prefix, 0).clone()
            chances[[PAD, BEGIN]] = -math.inf
            if (word := int(chances.argmax())) == END:
                break
            prefix = (*prefix, word)
        if len(prefix) <= 6:
            assert (BEGIN, *greedy) == prefix
        assert beam_search(step, 1, beam=81, alpha=0.0, longest=6)[1][0] >= score


def test_the_length_penalty():
    assert penalty(1, 3.0) == 1.0
    assert penalty(7, 2.0) == 4.0
    step, _ = table_of(5)
    lengths = [len(beam_search(step, 1, beam=81, alpha=alpha, longest=4)[0][0]) for alpha in (-3.0, 0.0, 8.0)]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


# --- metrics ----------------------------------------------------------------------------------------------------------

SAID = ["the cat sat on a mat today", "rain in the north", "sun"]
TRUE = ["the cat sat on the mat", "rain and wind in the north", "much sun in the south"]


def test_bleu_is_the_fields():
    """Against the formula, written out: clipped n-gram precisions and the brevity penalty of the whole corpus."""

    def grams(words, n):
        return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]

    logs = []
    for n in range(1, 5):
        hits = total = 0
        for a, b in zip(SAID, TRUE, strict=True):
            said, true = grams(a.split(), n), grams(b.split(), n)
            hits += sum(min(said.count(g), true.count(g)) for g in set(said))
            total += len(said)
        logs.append(math.log(hits / total))
        lengths = sum(len(t.split()) for t in SAID), sum(len(t.split()) for t in TRUE)
        wanted = 100 * math.exp(min(0, 1 - lengths[1] / lengths[0]) + sum(logs) / n)
        assert metrics.bleu(SAID, TRUE, n) == pytest.approx(wanted, abs=1e-4)
    assert metrics.bleu(TRUE, TRUE) == pytest.approx(100)
    assert metrics.bleu(["a b c"], ["d e f"]) == 0
    assert "smooth:none" in metrics.signatures()["BLEU-4"]
    assert "tok:none" in metrics.signatures()["BLEU-4"]


def test_rouge_and_error_rates_by_hand():
    # Longest common subsequence "a c": P = 2/3, R = 2/4; (1 + 1.44) P R / (R + 1.44 P).
    assert metrics.rouge_l("a b c", "a c d e") == pytest.approx(100 * 2.44 * (2 / 3) * 0.5 / (0.5 + 1.44 * 2 / 3))
    assert metrics.rouge_l("a b", "a b") == pytest.approx(100)
    assert metrics.rouge_l("", "a") == metrics.rouge_l("b", "a") == 0
    assert metrics.edits(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert metrics.edits([], ["a", "b"]) == metrics.edits(["a", "b"], []) == 2
    assert metrics.word_error_rate(["a b c", "e"], ["a x c d", "e"]) == pytest.approx(100 * 2 / 5)


def test_scores_are_sacrebleus():
    from sacrebleu.metrics import BLEU, CHRF

    found = metrics.score(SAID, TRUE, (SAID, TRUE), samples=50)
    for order in range(1, 5):
        theirs = BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)
        assert found.bleu[order - 1].score == theirs.corpus_score(SAID, [TRUE]).score
    assert found.chrf.score == CHRF().corpus_score(SAID, [TRUE]).score
    assert found.rouge.score == pytest.approx(np.mean([metrics.rouge_l(*p) for p in zip(SAID, TRUE, strict=True)]))
    assert found.wer == metrics.word_error_rate(SAID, TRUE)
    assert found.bleu[0].margin > 0
    assert found == metrics.score(SAID, TRUE, (SAID, TRUE), samples=50), "the bootstrap is seeded"
    assert metrics.score(SAID, TRUE, samples=50).wer is None


def test_the_paired_bootstrap_tells_systems_apart():
    random = np.random.default_rng(0)
    true = [" ".join(random.choice(WORDS, 8)) for _ in range(60)]

    def wrong(share):
        return [" ".join("x" if random.random() < share else w for w in text.split()) for text in true]

    a, b = wrong(0.1), wrong(0.3)
    found = metrics.compare({"a": a, "b": b, "again": list(a)}, true, samples=200)
    assert found["b"][0] == metrics.bleu(b, true)
    assert found["b"][1] < 0.01
    assert found["again"][1] == 1
    nothing = {"x": ["x y z q"] * 60, "y": ["y z"] * 60}
    assert metrics.compare(nothing, true, samples=200)["y"] == (0, 1), "both reach nothing, in other words"


# --- network ----------------------------------------------------------------------------------------------------------


def test_neither_padding_nor_later_words_are_seen():
    torch.manual_seed(0)
    network = TranslationNetwork(replace(SMALL, layers=2), 12, 7).eval()
    a, b = (np.random.default_rng(k).normal(size=(n, SMALL.features)).astype(np.float32) for k, n in ((0, 9), (1, 23)))
    known = [np.ones(x.shape, bool) for x in (a, b)]
    alone, hidden_alone = network.tokens([a], known[:1])
    both, hidden = network.tokens([a, b], known)
    assert both.shape == (2, 6, 4 * SMALL.features)
    assert hidden.sum(1).tolist() == [3, 0]
    words = torch.tensor([[BEGIN, 5, 6, 7]])
    with torch.inference_mode():
        h, padded = network.encode(alone, hidden_alone), network.encode(both, hidden)
        assert torch.allclose(h, padded[:1, :3], atol=1e-5)
        said = network.decode(h, hidden_alone, words)
        assert torch.allclose(said, network.decode(padded[:1], hidden[:1], words), atol=1e-5)
        changed = network.decode(h, hidden_alone, torch.tensor([[BEGIN, 5, 8, 9]]))
        assert torch.allclose(said[:, :2], changed[:, :2], atol=1e-6)
        assert not torch.allclose(said[:, 2], changed[:, 2], atol=1e-3)
        assert torch.allclose(said.exp().sum(-1), torch.ones(1, 4), atol=1e-5)
        several = torch.tensor([[BEGIN, 5, 6, 7], [BEGIN, 8, 5, 9], [BEGIN, 9, 9, 5], [BEGIN, 5, 6, 7]])
        of_both = network.decode(padded, hidden, several)
        for row, text in enumerate(several):
            one = slice(row // 2, row // 2 + 1)
            assert torch.allclose(network.decode(padded[one], hidden[one], text[None])[0], of_both[row], atol=1e-5)
        assert network.glosses(h).shape == (1, 3, 7)


def test_features_are_standardised_where_they_are_known():
    network = TranslationNetwork(replace(SMALL, stack=1), 6)
    random = np.random.default_rng(0)
    x = random.normal(3.0, 2.0, (500, SMALL.features)).astype(np.float32)
    known = random.random(x.shape) < 0.7
    known[:, 5] = False
    x[:, 7] = 1.5
    network.standardise([np.where(known, x, 0)], [known])
    (scaled,), _ = network.tokens([np.where(known, x, 0).astype(np.float32)], [known])
    values = scaled.numpy()
    assert not values[~known].any()
    for column in (0, 1, 2):
        seen = values[known[:, column], column]
        assert abs(seen.mean()) < 1e-3
        assert seen.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(values[:, 7]).max() < 1e-3, "what does not vary says nothing"


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="multiple of heads"):
        TranslatorConfig(d_model=30, heads=4)
    with pytest.raises(ValueError, match="stack must be a whole number of at least 1"):
        TranslatorConfig(stack=0)
    with pytest.raises(ValueError, match="unknown option of the network 'depth'"):
        TranslatorConfig.from_dict({"depth": 3})
    with pytest.raises(ValueError, match="unknown training option 'speed'"):
        TrainConfig.from_dict({"speed": 3})
    config = TrainConfig(network=SMALL, time_budget=3.0, beams=(2,))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    default = TrainConfig()
    assert TrainConfig.from_dict(json.loads(json.dumps(default.to_dict()))) == default


# --- training ---------------------------------------------------------------------------------------------------------

QUICK = TrainConfig(network=SMALL, batch=16, lr=4e-3, epochs=14, ctc=1.0, beams=(1, 3), alphas=(0.0, 1.0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 300), ("dev", 20), ("test", 30)):
        folder_of(folder, split, planted(count, len(split)), recordings="npz")
    out = folder / "run"
    splits = [sentences(folder, split) for split in ("train", "dev")]
    return folder, out, train(QUICK, (splits[0], splits[1]), Inputs(), out, quiet=True)


def test_a_planted_task_is_learned(trained):
    folder, out, translator = trained
    found = sentences(folder, "test")
    frames = Inputs().prepare([s.poses for s in found], UPPER_BODY_50.id)
    said = translator.translate(frames)
    assert metrics.bleu(said, [s.text for s in found], 1) == pytest.approx(100)
    assert said == [s.text for s in found]
    assert metrics.word_error_rate(translator.recognise(frames), [s.gloss for s in found]) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == list(range(1, 1 + len(log)))
    assert log[-1]["bleu4"] >= log[0]["bleu4"]


def test_what_is_saved_translates_alike(trained):
    folder, out, translator = trained
    loaded = Translator.load(out / "best.safetensors")
    assert loaded.search == translator.search
    assert loaded.inputs == Inputs()
    frames = Inputs().prepare([s.poses for s in planted(9, 3)], UPPER_BODY_50.id)
    assert loaded.translate(frames, Search(3, 1.0)) == translator.translate(frames, Search(3, 1.0))
    assert "not a translator" in error_of(Translator.load, out / "last.safetensors")
    assert "cannot be read" in error_of(Translator.load, folder / "train.npz")
    assert "absent" in error_of(Translator.load, folder / "absent.safetensors")


def test_a_resumed_run_continues_bit_for_bit(tmp_path):
    config = replace(QUICK, network=replace(SMALL, dropout=0.1), epochs=4, seed=3)
    some, dev = (prepare(planted(40, k), Inputs(), config.network) for k in (1, 2))

    def trainer(config=config):
        return Trainer(config, some, dev, Inputs())

    whole = trainer()
    for _ in range(4):
        whole.epoch()
        whole.validate()
    first = trainer()
    for _ in range(2):
        first.epoch()
        first.validate()
    first.save(tmp_path / "last.safetensors")
    torch.rand(7)  # whatever else is drawn
    second = trainer()
    second.load(tmp_path / "last.safetensors")
    assert (second.epochs, second.best, second.lr) == (2, first.best, first.lr)
    for _ in range(2):
        second.epoch()
        second.validate()
    for a, b in zip(whole.translator.network.parameters(), second.translator.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert "a checkpoint of another config" in error_of(
        trainer(replace(config, lr=1e-3)).load, tmp_path / "last.safetensors"
    )
    trainer(replace(config, epochs=9)).load(tmp_path / "last.safetensors")  # longer is the same run


def test_the_learning_rate_falls_on_a_plateau():
    config = replace(QUICK, patience=2, factor=0.5, least_lr=1e-3)
    trainer = Trainer(config, *(prepare(planted(20, k), Inputs(), config.network) for k in (1, 2)), Inputs())
    trainer.best = (101.0, 101.0)
    rates = []
    while not trainer.ended:
        trainer.validate()
        rates.append(trainer.lr)
    assert rates == [4e-3, 2e-3, 2e-3, 1e-3, 1e-3, 5e-4]


def test_training_says_what_is_wrong(tmp_path):
    some = planted(4, 0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").write_text("")
    assert "already holds a run" in error_of(train, QUICK, (some, some), Inputs(), tmp_path / "run", quiet=True)
    assert "holds no run to resume" in error_of(
        train, QUICK, (some, some), Inputs(), tmp_path / "run", quiet=True, resume=True
    )
    silent = [replace(s, gloss=None) for s in some]
    assert "training sentence 1 has no glosses" in error_of(
        train, QUICK, (silent, some), Inputs(), tmp_path / "new", quiet=True
    )


# --- the command ------------------------------------------------------------------------------------------------------


def command(capsys, *argv):
    status = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_evaluate_prints_a_table(trained, capsys, tmp_path):
    folder, out, _ = trained
    lines = tmp_path / "said.txt"
    status, text, _ = command(
        capsys, "translate", "evaluate", out, "--data", folder, "--refine", "none", "--refine", "gaussian:9",
        "--save", lines,
    )  # fmt: skip
    assert status == 0
    assert "BLEU-4" in text
    assert "as it is" in text
    assert "gaussian:9 (offline, unseen: keep)" in text
    assert "nrefs:1" in text
    assert len(lines.read_text().splitlines()) == 30
    status, text, _ = command(capsys, "translate", "evaluate", out, "--data", folder, "--json", "--split", "dev")
    (result,) = json.loads(text)["results"]
    assert result["bleu"][0] == [pytest.approx(100), 0]
    assert result["wer"] == 0
    assert result["inputs"]["refine"] == "none"


def test_run_translates_recordings(trained, capsys, tmp_path):
    _, out, _ = trained
    write(tmp_path / "one.npz", [spoken("wind snow fog", "mine")])
    assert command(capsys, "translate", "run", out, tmp_path / "one.npz")[:2] == (0, "wind snow fog\n")
    write(tmp_path / "two.skels", [spoken("sun rain", "a"), spoken("fog wind", "b")])
    assert command(capsys, "translate", "run", out, tmp_path / "two.skels")[1] == "a\tsun rain\nb\tfog wind\n"
    status, text, _ = command(
        capsys, "translate", "run", out, tmp_path / "one.npz", "--json", "--refine", "linear", "--max-gap", "5",
        "--lookahead", "2",
    )  # fmt: skip
    found = json.loads(text)
    assert (status, found["text"]) == (0, "wind snow fog")
    assert found["inputs"] == Inputs("linear", 2, max_gap=5).to_dict()


def test_train_on_a_folder_and_go_on(capsys, tmp_path):
    folder = tmp_path / "data"
    for split in ("train", "dev"):
        folder_of(folder, split, planted(6, len(split)))
    tiny = ["--set", 'network={"d_model": 8, "heads": 2, "d_ff": 8, "layers": 1}', "--set", "network.stack=4"]
    common = ["translate", "train", "--data", folder, "--out", tmp_path / "run", *tiny, "--threads", 1]
    assert command(capsys, *common, "--set", "epochs=1", "--refine", "linear", "--seed", 5)[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["seed"], config["network"]["stack"], config["inputs"]["refine"]) == (5, 4, "linear")
    status, _, error = command(capsys, *common)
    assert (status, "already holds a run" in error) == (2, True)
    again = [*common, "--set", "epochs=2", "--refine", "linear", "--seed", 5, "--resume"]
    assert command(capsys, *again)[0] == 0
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2
    status, _, error = command(capsys, *common, "--resume")
    assert (status, "another config, of other sentences or inputs" in error) == (2, True)


def test_five_real_sentences_go_through(capsys, tmp_path):
    """No more than that: five sentences of PHOENIX14T to learn from teach nothing about translation."""
    folder = shared_data("phoenix14t")
    assert [len(sentences(folder, split)) for split in ("train", "dev")] == [5, 5]
    options = ["--set", "epochs=1", "--set", "ctc=1", "--refine", "gaussian:1"]
    assert command(capsys, "translate", "train", "--data", folder, "--out", tmp_path / "run", *options)[0] == 0
    status, out, _ = command(capsys, "translate", "evaluate", tmp_path / "run", "--data", folder, "--split", "dev")
    assert (status, "sentences 5" in out) == (0, True)
    skels = folder / "dev.skels"
    status, out, _ = command(capsys, "translate", "run", tmp_path / "run", skels)
    assert (status, len(out.splitlines())) == (0, 5)
