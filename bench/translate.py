"""Does refinement help a reader? A sign language translator reads poses as they are, filtered and refined.

Sentences are composed of clips of real signs (`measure.composed`), by rule or with the texts of PHOENIX14T. Their poses
are raw, corrupted (noise of half a limb's length on every joint, hands lost in bursts 30% of the time), or have the
error that MediaPipe was measured to have on pictures whose true joints are known (`rtskel pairs`), each as they are,
with the filter that is best on dev for that condition, and with Skeletor, whose handling of gaps is chosen on dev too.
Two questions are asked:

    read         one translator, which has learned from raw poses, reads each of these
    retrained    for each of these, a translator that has learned from the like

Translations of the true glosses show what is possible at best.

    rtskel pairs pairs --frames 60000 --data ../shared/data
    python bench/translate.py --runs runs/translate --pairs pairs --retrain 0 --save translate
    python bench/translate.py --sentences phoenix --runs runs/translate --pairs pairs --seeds 0 --save translate-phoenix

What is prepared and trained is kept in the folder of --runs, and an interrupted bench continues where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import composed
from measure.report import arguments, bench, names, table
from sacrebleu.metrics.chrf import CHRF

from rtskel.cli import positive
from rtskel.cli.options import frames_list
from rtskel.engine import describe, located
from rtskel.errors import RtskelError
from rtskel.filters import FILLS
from rtskel.formats import write
from rtskel.formats.jointmap import mediapipe_map
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training import corrupt
from rtskel.training.corrupt import Poses
from rtskel.training.paired import read_pairs
from rtskel.translate import train as training
from rtskel.translate.data import Sentence, sentences
from rtskel.translate.inputs import BUNDLED, Frames, Inputs
from rtskel.translate.metrics import SAMPLES, SEED, bleu, bleu_metric, rouge_l, signatures
from rtskel.translate.network import TranslatorConfig
from rtskel.translate.train import TrainConfig
from rtskel.translate.translator import Search, Translator

BLOCK = 50
"""Sentences that are refined and kept together."""


@dataclass(frozen=True)
class Kind:
    """A kind of sentences, and how its translator is trained.

    Attributes:
        counts: sentences of each split.
        make: sentences of a split, of the takes of signs.
        config: of the translator.
        words: kinds of words that are counted.
    """

    counts: dict[str, int]
    make: Callable[[Path, composed.Clips, str, int], list[Sentence]]
    config: TrainConfig
    words: dict[str, Callable[[str], bool]]


SCHEDULE: dict[str, Any] = {"patience": 2, "factor": 0.5, "beams": (1,), "alphas": (0.0,)}
"""Of all translators; the search is greedy."""

KINDS = {
    "rule": Kind(
        {"train": 3000, "dev": 250, "test": 500},
        lambda data, takes, split, count: composed.by_rule(takes, split, count),
        TrainConfig(network=TranslatorConfig(stack=2, longest=30), epochs=8, **SCHEDULE),
        {
            "letters": lambda word: word in composed.LETTERS and word != "i",
            "things": lambda word: word in (*composed.SIZES, *composed.DRINKS),
            "others": lambda word: word in ("hello", "please", "thank", "can", "get", "no", "i"),
        },
    ),
    "phoenix": Kind(
        {"train": 7096, "dev": 519, "test": 642},
        lambda data, *of: composed.phoenix(data / "signs" / "phoenix14t.jsonl.gz", *of),
        TrainConfig(network=TranslatorConfig(stack=2), epochs=24, ctc=5.0, **SCHEDULE),
        {"words": lambda word: True},
    ),
}


# Conditions


def corrupted(poses: Poses, g: torch.Generator) -> Poses:
    """Noise of half a limb's length on every joint; each hand lost in bursts of 3 to 40 frames, 30% of the time."""
    return corrupt.hand_gone(corrupt.dense_noise(poses, 0.5, g), 0.3, g)


def laid_over(errors: Sequence[Frames], poses: Poses, g: torch.Generator) -> Poses:
    """Poses with a stretch of one of these errors, and the joints missing that were missing there.

    A stretch begins anywhere and goes back and forth where it is shorter than the sentence, so that errors go on from
    frame to frame as they did.
    """
    error = errors[int(torch.randint(len(errors), (), generator=g))]
    length = len(error.xyz)
    time = (int(torch.randint(length, (), generator=g)) + torch.arange(poses.xyz.shape[1])) % (2 * length - 2)
    time = torch.minimum(time, 2 * length - 2 - time)
    xyz, missing = (torch.from_numpy(of)[time][None] for of in error)
    return poses.move(xyz).hide(missing)


def measured_errors(options: argparse.Namespace, split: str) -> list[Frames]:
    """What MediaPipe, as `rtskel estimate` uses it, was off on the clips of pairs for a split, in canonical units.

    No clip is for two splits: those for training are for training, of those that are kept every third is for dev, the
    others for test. The clips that are there at the first call are kept.
    """
    path = options.runs / "errors.npz"
    if not path.exists():
        pairs = {folder: read_pairs(options.pairs / folder, mediapipe_map()) for folder in ("train", "kept")}
        splits = ["train"] * len(pairs["train"]) + ["test" if k % 3 else "dev" for k in range(len(pairs["kept"]))]
        every = [*pairs["train"], *pairs["kept"]]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            split=splits,
            name=[f"{folder}/{pair.name}" for folder, of in pairs.items() for pair in of],
            length=[len(pair.missing) for pair in every],
            xyz=np.concatenate([np.where(p.missing[..., None], np.float32(0), p.seen - p.truth) for p in every]),
            missing=np.concatenate([pair.missing for pair in every]),
        )
    with np.load(path) as file:
        ends = np.cumsum(file["length"])[:-1]
        errors = zip(file["split"], np.split(file["xyz"], ends), np.split(file["missing"], ends), strict=True)
        return [Frames(xyz, missing) for of, xyz, missing in errors if of == split]


CONDITIONS = ("raw", "corrupted", "measured")
"""What poses are like; `measured` needs pairs, see `measured_errors`."""


def under(function: Callable[[Poses, torch.Generator], Poses], clean: Sequence[Sentence], seed: int) -> list[Sentence]:
    """Sentences under a condition; sentence k is corrupted with seed 1000 seed + k."""
    made = []
    for k, of in enumerate(clean):
        xyz, missing = torch.from_numpy(of.poses.xyz)[None], torch.from_numpy(of.poses.missing)[None]
        poses = function(Poses.clean(xyz).hide(missing), torch.Generator().manual_seed(1000 * seed + k))
        made.append(posed(of, Frames(poses.xyz[0].numpy(), poses.missing[0].numpy())))
    return made


def posed(of: Sentence, frames: Frames) -> Sentence:
    """A sentence with other poses."""
    confidence = (~frames.missing).astype(np.float32)
    return replace(of, poses=replace(of.poses, xyz=frames.xyz, confidence=confidence))


def store(folder: Path, split: str, found: Sequence[Sentence]) -> None:
    """Writes sentences as `rtskel translate` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{split}.npz", [of.poses for of in found])
    for suffix in ("gloss", "text"):  # the texts last: a split that has them is complete
        lines = "".join(f"{getattr(of, suffix)}\n" for of in found)
        (folder / f"{split}.{suffix}").write_text(lines, encoding="utf-8")


def takes(options: argparse.Namespace) -> composed.Clips:
    """`composed.clips`, lifted at the first call."""
    path = options.runs / "clips.npz"
    if not path.exists():
        print("clips are read and lifted", file=sys.stderr)
        found = composed.clips(options.data / "signs" / "words.npz", not options.estimated_depth)
        every = [(sign, clip) for sign, of in found.items() for clip in of]
        xyz, missing = (np.stack([clip[k] for _, clip in every]) for k in range(2))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, sign=np.array([sign for sign, _ in every]), xyz=xyz, missing=missing)
    kept: composed.Clips = {}
    with np.load(path) as file:
        for sign, xyz, missing in zip(file["sign"], file["xyz"], file["missing"], strict=True):
            kept.setdefault(str(sign), []).append(Frames(xyz, missing))
    return kept


def stored(options: argparse.Namespace, condition: str, split: str) -> list[Sentence]:
    """The sentences of a split under a condition, made at the first call."""
    folder, kind = base(options) / condition, KINDS[options.sentences]
    if not (folder / f"{split}.text").exists():
        if condition == "raw":
            made = kind.make(options.data, takes(options), split, kind.counts[split])
        else:
            measured = condition == "measured"
            function = partial(laid_over, measured_errors(options, split)) if measured else corrupted
            made = under(function, stored(options, "raw", split), list(kind.counts).index(split))
        store(folder, split, made)
    return sentences(folder, split)


def base(options: argparse.Namespace) -> Path:
    """The folder of a kind of sentences."""
    folder: Path = options.runs / options.sentences
    return folder


# Preparation

FILTERS = (
    *FILLS,
    *(f"{fill}+{smoother}" for fill in ("linear", "parents") for smoother in (
        "gaussian:1", "gaussian:2", "gaussian:3", "savitzky-golay:4,2", "savitzky-golay:8,2", "median:2",
        "one-euro:0.1,5,0.3")),
)  # fmt: skip
"""What "the best filter" is chosen from."""

GAPS = (24, 12, 3)
"""Longest gaps that are filled in, to choose from for the best filter and for Skeletor, beside any."""


class Prepared:
    """The first sentences of a condition as translators read them; what an engine makes of them is kept on disk."""

    def __init__(self, options: argparse.Namespace, condition: str, split: str, count: int | None = None) -> None:
        self.sentences = stored(options, condition, split)[: count or getattr(options, split)]
        self.texts = [of.text for of in self.sentences]
        self.poses = [of.poses for of in self.sentences]
        self.raw = Inputs().prepare(self.poses, UPPER_BODY_50.id)
        self._base = base(options) / condition / split
        self._filled = dict[str, list[Frames]]()

    def filled(self, inputs: Inputs) -> list[Frames]:
        """Poses in which every joint is filled in."""
        if inputs.refine not in self._filled:
            whole, blocks = replace(inputs, unseen="fill", max_gap=None), range(0, len(self.poses), BLOCK)
            self._filled[inputs.refine] = (
                whole.prepare(self.poses, UPPER_BODY_50.id)
                if inputs.filter()
                else [frames for first in blocks for frames in self._block(whole, first)]
            )
        return self._filled[inputs.refine]

    def _block(self, inputs: Inputs, first: int) -> list[Frames]:
        """`BLOCK` sentences, refined by an engine."""
        path = self._base.with_name(f"{self._base.name}-{engine_id(inputs.refine)}-{first}.npz")
        ends = np.cumsum([len(frames.xyz) for frames in self.raw[first : first + BLOCK]])
        if path.exists():
            with np.load(path) as file:
                xyz = file["xyz"]
            if len(xyz) >= ends[-1]:
                parts = np.split(xyz[: ends[-1]], ends[:-1])
                return [Frames(part, np.zeros(part.shape[:2], np.bool_)) for part in parts]
        poses = self.poses[first : first + BLOCK]
        made = inputs.prepare(poses, UPPER_BODY_50.id, threads=torch.get_num_threads())
        np.savez(path, xyz=np.concatenate([frames.xyz for frames in made]))
        print(f"refined: {path.name}", file=sys.stderr, flush=True)
        return made

    def frames(self, inputs: Inputs) -> list[Frames]:
        """As `inputs.prepare` makes them."""
        if inputs.refine == "none":
            return self.raw
        filled = self.filled(inputs)
        return [inputs.kept(f.xyz, raw.missing) for f, raw in zip(filled, self.raw, strict=True)]

    def prepared(self, inputs: Inputs) -> list[Sentence]:
        """The sentences, to be read as they are."""
        return [posed(of, frames) for of, frames in zip(self.sentences, self.frames(inputs), strict=True)]


def kept(path: Path, key: dict[str, Any], make: Callable[[], Any]) -> Any:
    """What `make` returns, as JSON holds it; from the file if that has it for the same key."""
    wanted = json.loads(json.dumps(key))
    if path.exists() and (found := json.loads(path.read_text()))["key"] == wanted:
        return found["value"]
    value = make()
    path.write_text(json.dumps({"key": wanted, "value": value}))
    return value


def choose(translator: Translator, dev: Prepared, ways: Sequence[Inputs]) -> tuple[dict[str, Any], dict[str, float]]:
    """The best way to refine, with the best handling of gaps, and what each reached: BLEU-4 of greedy search on dev."""
    reached = dict[str, tuple[float, Inputs]]()

    def best_of(several: Sequence[Inputs]) -> Inputs:
        for inputs in several:
            score = bleu(translator.translate(dev.frames(inputs), Search()), dev.texts)
            reached[str(inputs)] = score, inputs
        return max(reached.values(), key=lambda item: item[0])[1]

    best = best_of(ways)
    best = best_of([replace(best, unseen="fill"), *(replace(best, max_gap=gap) for gap in GAPS)])
    return best.to_dict(), {name: score for name, (score, _) in reached.items()}


# Translators


def translator(
    options: argparse.Namespace, seed: int, condition: str = "raw", name: str = "as is", inputs: Inputs | None = None
) -> tuple[Translator, dict[str, Any]]:
    """The translator of a seed that learns from a condition's poses, prepared so; goes on with what was left."""
    inputs, config = inputs or Inputs(), KINDS[options.sentences].config
    out = base(options) / condition / f"translator-{name}-{seed}"
    done = out / "done.json"
    if not done.exists():
        splits = [Prepared(options, condition, split).prepared(inputs) for split in ("train", "dev")]
        config = replace(config, seed=seed, epochs=options.epochs or config.epochs)
        resume = (out / "last.safetensors").exists()
        training.train(config, (splits[0], splits[1]), Inputs(), out, resume=resume)
        last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        done.write_text(json.dumps({key: last[key] for key in ("epoch", "elapsed")} | {"inputs": inputs.to_dict()}))
    about = json.loads(done.read_text())
    if about.pop("inputs") != inputs.to_dict():
        raise RtskelError(f"{out}: trained with other inputs than {inputs}")
    return Translator.load(out / "best.safetensors"), about


@dataclass(frozen=True)
class GlossConfig(TranslatorConfig, option="option of the network"):
    """A network that reads one of so many glosses in each frame."""

    glosses: int = 0

    @property
    def features(self) -> int:
        """Numbers that describe a frame."""
        return self.glosses


@dataclass(frozen=True)
class Glosses:
    """A sentence of glosses as a translator reads it: a frame each, 1 at the gloss's place [N, glosses]."""

    xyz: Any

    def features(self, *_: object) -> tuple[Any, Any]:
        """As of `Frames`."""
        return self.xyz, np.ones(self.xyz.shape, np.bool_)


def topline(options: argparse.Namespace, seed: int) -> list[str]:
    """Translations of the true glosses of test by a network of the same sizes."""
    kind, epochs = KINDS[options.sentences], TOPLINE
    splits = [stored(options, "raw", split)[: getattr(options, split)] for split in ("train", "dev", "test")]
    known = {gloss: k for k, gloss in enumerate(sorted({g for of in splits[0] for g in str(of.gloss).split()}))}

    def prepared(found: Sequence[Sentence]) -> training.Prepared:
        rows = [[known.get(gloss, -1) for gloss in str(of.gloss).split()] for of in found]
        frames: list[Any] = [Glosses(np.float32(np.array(row)[:, None] == np.arange(len(known)))) for row in rows]
        x, there = zip(*(of.features() for of in frames), strict=True)
        return training.Prepared(list(x), list(there), frames, [of.text for of in found], [""] * len(found))

    train, dev, test = map(prepared, splits)
    network = GlossConfig(longest=kind.config.network.longest, glosses=len(known))
    config = replace(kind.config, network=network, seed=seed, epochs=epochs, ctc=0.0)
    trainer = training.Trainer(config, train, dev, Inputs())
    trainer.translator.network.mean.zero_()
    trainer.translator.network.deviation.fill_(1.0)
    best = trainer.translator
    while not trainer.ended:
        trainer.epoch()
        trainer.validate()
        if trainer.improved:
            best = replace(trainer.translator, network=copy.deepcopy(trainer.translator.network))
    search, _ = training.choose_search(best, dev, config)
    return best.translate(test.frames, search)


TOPLINE = 10
"""Epochs of training on glosses."""


# Results


def recall(said: Sequence[str], wanted: Sequence[str], of: Callable[[str], bool]) -> float:
    """Percent of the references' words of a kind that are in the translations."""
    hits = total = 0
    for a, b in zip(said, wanted, strict=True):
        counts, there = Counter(word for word in b.split() if of(word)), Counter(a.split())
        hits, total = hits + sum(min(n, there[word]) for word, n in counts.items()), total + sum(counts.values())
    return 100.0 * hits / max(total, 1)


def scored(said: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """Translations and their scores; `margin` is half the 95% interval of BLEU-4 over sentences (bootstrap)."""
    low, high = np.percentile(resampled([said], texts)[1:], [2.5, 97.5])
    return {
        "said": list(said),
        "bleu": [bleu(said, texts, order) for order in range(1, 5)],
        "margin": float(high - low) / 2,
        "chrf": float(CHRF().corpus_score(list(said), [list(texts)]).score),
        "rouge": float(np.mean([rouge_l(*pair) for pair in zip(said, texts, strict=True)])),
    }


def row(options: argparse.Namespace, read: Sequence[dict[str, Any]], texts: Sequence[str]) -> dict[str, Any]:
    """Scores of each seed, and how many of the words of each kind were read."""
    return {
        **{key: [of[key] for of in read] for key in ("bleu", "margin", "chrf", "rouge")},
        "recall": {
            kind: [recall(of["said"], texts, is_one) for of in read]
            for kind, is_one in KINDS[options.sentences].words.items()
        },
    }


def counted(said: Sequence[str], texts: Sequence[str]) -> Any:
    """What BLEU-4 is made of, of each sentence [N, 10]: matches and n-grams of 1 to 4 words, lengths."""
    metric = bleu_metric()
    found = [metric.corpus_score([a], [[b]]) for a, b in zip(said, texts, strict=True)]
    return np.array([[*of.counts, *of.totals, of.sys_len, of.ref_len] for of in found], np.float64)


def bleu_of(counts: Any) -> Any:
    """BLEU-4 of sums of `counted` [..., 10]."""
    matches, totals, said, wanted = counts[..., :4], counts[..., 4:8], counts[..., 8], counts[..., 9]
    with np.errstate(divide="ignore"):
        precision = np.log(matches / np.maximum(totals, 1)).mean(-1)
        return 100 * np.exp(precision + np.minimum(0, 1 - wanted / np.maximum(said, 1)))


def resampled(ways: Sequence[Sequence[str]], texts: Sequence[str]) -> Any:
    """The mean BLEU-4 of several translations of the same texts: of all sentences, and of each bootstrap sample."""
    drawn = np.random.default_rng(SEED).integers(len(texts), size=(SAMPLES, len(texts)))
    of_each = [counted(said, texts) for said in ways]
    found = [[bleu_of(counts.sum(0)), *(bleu_of(counts[rows].sum(0)) for rows in drawn)] for counts in of_each]
    return np.mean(found, 0)


def by_chance(first: Sequence[Sequence[str]], second: Sequence[Sequence[str]], texts: Sequence[str]) -> float:
    """The p-value that the mean BLEU-4 of two ways differs by chance: sacrebleu's paired bootstrap over sentences, with
    the translations of a sentence by all seeds together.
    """
    difference = np.abs(resampled(second, texts) - resampled(first, texts))
    beyond = difference[1:] - difference[1:].mean() > difference[0]
    return 1.0 if difference[0] == 0 else float((beyond.sum() + 1) / (SAMPLES + 1))


def against(read: dict[str, list[dict[str, Any]]], texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """p-values of BLEU-4 of ways against others, for each seed and over all seeds."""
    found: dict[str, dict[str, Any]] = {way: {} for way in read}
    for way in read:
        other = "as is" if way == "filter" else "filter"
        if way not in ("as is", *FILLED) and other in read:
            first, second = ([of["said"] for of in read[name]] for name in (other, way))
            each = [by_chance([a], [b], texts) for a, b in zip(first, second, strict=True)]
            found[way] = {f"p against {other}": each, "p over seeds": by_chance(first, second, texts)}
    return found


FILLED = ("Skeletor, all filled", "Skeletor, never seen kept")
"""Ways to handle gaps that are shown beside the best."""


def engine_id(engine: str) -> str:
    """The model that refines."""
    return describe(located(None if engine == BUNDLED else engine)).model_id


Read = tuple[str, Translator, dict[str, Any]]
Reader = Callable[[str, int], Read]
"""Of a way and a seed: the file that keeps the translations, the translator, and which one it is."""


class Bench:
    """What was chosen on dev and read of test, condition by condition."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.engines = {"Skeletor" if k == 0 else engine_id(e): e for k, e in enumerate(options.engine or [BUNDLED])}
        self.models = {name: engine_id(engine) for name, engine in self.engines.items()}
        self.translators = {seed: translator(options, seed) for seed in options.seeds}

    def ways(self, condition: str) -> tuple[dict[str, Inputs], dict[str, dict[str, float]]]:
        """What is done to the poses of a condition, the best on dev by the first translator; and all that was tried."""
        options, dev = self.options, Prepared(self.options, condition, "dev", self.options.choose)
        (seed, (first, about)), *_ = self.translators.items()
        found, tried = {"as is": Inputs()}, {}
        tries = {"filter": [Inputs(way) for way in FILTERS]}
        tries |= {name: [Inputs(engine, precision=options.precision)] for name, engine in self.engines.items()}
        for name, of in tries.items():
            path = base(options) / condition / f"chosen-{self.models.get(name, name)}.json"
            by = {"seed": seed, **about}
            key = {"dev": options.choose, "ways": [way.to_dict() for way in of], "gaps": GAPS, "by": by}
            best, tried[name] = kept(path, key, partial(choose, first, dev, of))
            found[name] = Inputs.from_dict(best)
        whole = Inputs(self.engines["Skeletor"], precision=options.precision)
        return found | dict(zip(FILLED, (replace(whole, unseen="fill"), whole), strict=True)), tried

    def read(self, condition: str) -> dict[str, Any]:
        """Question "read": the scores of each way to prepare the poses of a condition."""
        ways, tried = self.ways(condition)

        def reader(way: str, seed: int) -> Read:
            by, about = self.translators[seed]
            plain = ways[way].filter() or ways[way].refine == "none"
            model = "" if plain else f"-{engine_id(ways[way].refine)}"
            return f"read-{way}-{seed}{model}", by, {"seed": seed, **about}

        return self._rows(condition, ways, self.options.seeds, reader) | {"on dev": tried}

    def retrained(self, condition: str) -> dict[str, Any]:
        """Question "retrained": the same with a translator of its own for each way."""
        ways = {way: inputs for way, inputs in self.ways(condition)[0].items() if way not in FILLED}

        def reader(way: str, seed: int) -> Read:
            name = self.models.get(way, way)
            return f"retrained-{name}-{seed}", *translator(self.options, seed, condition, name, ways[way])

        return self._rows(condition, ways, self.options.retrain, reader)

    def _rows(self, condition: str, ways: dict[str, Inputs], seeds: Sequence[int], reader: Reader) -> dict[str, Any]:
        """Scores of translations of test in each way, by what `reader` names: a file, a translator, and which it is."""
        print(f"condition {condition}", file=sys.stderr)
        options, test = self.options, Prepared(self.options, condition, "test")

        def translated(by: Translator, inputs: Inputs) -> dict[str, Any]:
            return scored(by.translate(test.frames(inputs)), test.texts)

        read: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for (way, inputs), seed in product(ways.items(), seeds):
            name, by, about = reader(way, seed)
            key = {"test": options.test, "inputs": inputs.to_dict(), "by": about}
            path = base(options) / condition / f"{name}.json"
            read[way].append(kept(path, key, partial(translated, by, inputs)))
        p = against(read, test.texts)
        rows = {
            way: {"inputs": ways[way].to_dict(), **row(options, of, test.texts), **p[way]} for way, of in read.items()
        }
        return {"rows": rows}

    def topline(self) -> dict[str, Any]:
        """Translations of true glosses."""
        options, texts = self.options, [of.text for of in stored(self.options, "raw", "test")[: self.options.test]]
        read = []
        for seed in options.seeds:
            key = {"train": options.train, "dev": options.dev, "test": options.test, "epochs": TOPLINE}
            path = base(options) / f"topline-{seed}.json"
            read.append(kept(path, key, lambda seed=seed: scored(topline(options, seed), texts)))  # type: ignore[misc]
        return row(options, read, texts)


def available(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """The conditions that can be measured, and why others cannot."""
    absent = {}
    if "measured" in options.conditions and options.pairs is None and not (options.runs / "errors.npz").exists():
        absent["measured"] = "needs --pairs, a folder that rtskel pairs has made"
        print(f"measured: left out: {absent['measured']}", file=sys.stderr)
    return [condition for condition in options.conditions if condition not in absent], absent


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both questions for every condition."""
    conditions, absent = available(options)
    asked = Bench(options)
    return {
        "composed": options.sentences,
        "engines": asked.models,
        "depth": "estimated" if options.estimated_depth else "lifted",
        "sentences": {of: getattr(options, of) for of in ("train", "dev", "choose", "test")},
        "trained": {str(seed): about for seed, (_, about) in asked.translators.items()},
        "errors": of_errors(options) if "measured" in conditions else None,
        "left out": absent,
        "read": {condition: asked.read(condition) for condition in conditions},
        "glosses": asked.topline(),
        "retrained": {condition: asked.retrained(condition) for condition in conditions if options.retrain},
        "signatures": signatures(),
    }


def of_errors(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Clips and frames that errors were measured on, by split."""
    found = {split: [len(of.xyz) for of in measured_errors(options, split)] for split in ("train", "dev", "test")}
    return {split: {"clips": len(lengths), "frames": sum(lengths)} for split, lengths in found.items()}


def lines(result: dict[str, Any]) -> list[str]:
    """The result as tables."""
    made = []
    tables = {f"{condition}, {question}": of["rows"] for question in ("read", "retrained")
              for condition, of in result[question].items()}  # fmt: skip
    for title, found in {"true glosses": {"": result["glosses"]}, **tables}.items():
        rows: dict[str, dict[str, Any]] = {}
        for way, of in found.items():
            bleu4 = [b[3] for b in of["bleu"]]
            rows[way] = {
                "BLEU-4": float(np.mean(bleu4)),
                "+- seeds": float(np.std(bleu4)),
                "+- sentences": float(np.mean(of["margin"])),
                "chrF": float(np.mean(of["chrf"])),
                "ROUGE-L": float(np.mean(of["rouge"])),
                **{kind: float(np.mean(values)) for kind, values in of["recall"].items()},
                "p": next((", ".join(f"{p:.3f}" for p in v) for k, v in of.items() if k.startswith("p against")), None),
                "p over seeds": of.get("p over seeds"),
                "how": str(Inputs.from_dict(of["inputs"])) if "inputs" in of else None,
            }
        made += [*table(title, rows, ".2f"), ""]
    return made


def main() -> int:
    """Command line."""
    parser = arguments(__doc__, data=True)
    parser.add_argument("--sentences", choices=list(KINDS), default="rule", help="by rule, or texts of PHOENIX14T")
    parser.add_argument("--engine", action="append", help="an engine file, or bundled; more than once: several engines")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps what is prepared and trained")
    parser.add_argument("--pairs", type=Path, help="folder of rtskel pairs; without it `measured` is left out")
    parser.add_argument("--seeds", type=frames_list, default=[0, 1, 2], help="with commas between; one translator each")
    parser.add_argument(
        "--retrain", type=frames_list, default=[], help="seeds of translators for each condition and way"
    )
    parser.add_argument("--epochs", type=positive, help="of training a translator")
    parser.add_argument("--estimated-depth", action="store_true", help="depth is MediaPipe's, instead of lifted")
    parser.add_argument("--precision", help="what the engine computes in (default: its own)")
    for split in ("train", "dev", "test"):
        parser.add_argument(f"--{split}", type=positive, help=f"sentences of {split} (default: all)")
    parser.add_argument("--choose", type=positive, help="sentences of dev that ways are chosen on (default: all)")
    parser.add_argument("--threads", type=positive, default=1, help="of training")
    parser.add_argument("--conditions", type=names(CONDITIONS), default=[*CONDITIONS])
    options = parser.parse_args()
    for split, count in KINDS[options.sentences].counts.items():
        setattr(options, split, getattr(options, split) or count)
    options.choose = options.choose or options.dev
    torch.set_num_threads(options.threads)
    return bench("translate", options, run, lines)


if __name__ == "__main__":
    raise SystemExit(main())
