"""Does refinement help a reader? A sign language translator reads poses as they are, filtered and refined.

Sentences are *composed*: clips of real signs (MediaPipe on webcams, 32 signs of ASL) one after another, in an order of
glosses that differs from English, by the rules below; no person signed them. Clips are disjoint by split: of the takes
of a sign, in order, the first 60% are for training, the next 15% for dev, the rest for test. A translator learns from
the raw poses; then it reads test poses that are raw, corrupted (noise of half a limb's length on every joint, hands
lost in bursts 30% of the time), or with the error that a monocular estimator was measured to have, each as they are,
with the filter that is best on dev for that condition, and with Skeletor, whose handling of gaps is chosen on dev too.

    python bench/translate.py --runs runs/translate --save translate

What is prepared and trained is kept in the folder of --runs, and an interrupted bench continues where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure.report import arguments, names, numbers, report, table
from numpy.typing import NDArray

from rtskel.cli import positive
from rtskel.engine import open_engine
from rtskel.errors import RtskelError
from rtskel.filters import FILLS
from rtskel.formats import SKELS_UNIT, Recording, write
from rtskel.recordings import lift
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH, UPPER_BODY_50
from rtskel.training import corrupt
from rtskel.training.corrupt import Poses
from rtskel.translate.data import Sentence, sentences
from rtskel.translate.inputs import BUNDLED, Frames, Inputs
from rtskel.translate.metrics import bleu, compare, score, signatures
from rtskel.translate.network import TranslatorConfig
from rtskel.translate.train import TrainConfig, train
from rtskel.translate.translator import Search, Translator

COUNTS = {"train": 3000, "dev": 250, "test": 500}
"""Sentences of each split."""
TAKES = {"train": (0.0, 0.6), "dev": (0.6, 0.75), "test": (0.75, 1.0)}
"""Shares of a sign's takes, in order."""
TRANSITION = 2
"""Frames between two signs, interpolated."""
FPS = 25.0
NETWORK = TranslatorConfig(stack=2, longest=30)
EPOCHS = 8
"""Of training a translator: about three minutes of one core."""
BLOCK = 50
"""Sentences that are refined and kept together."""
ASPECT = 0.75
"""Height by width of the images; the file does not state it."""

LETTERS = "bcefghjklstuvwxyz"
SIZES, DRINKS = ("small", "medium", "large"), ("coffee", "tea", "water", "muffin")


# Sentences by rule


def item(random: np.random.Generator) -> tuple[list[str], list[str]]:
    """What is ordered, in English and in glosses: the thing comes first, then its size."""
    thing = str(random.choice(DRINKS))
    size = [str(random.choice(SIZES))] if random.random() < 0.75 else []
    return ["a", *size, thing], [thing.upper(), *(s.upper() for s in size), "A"]


def sentence(random: np.random.Generator) -> tuple[str, str]:
    """A sentence and its glosses.

    Names come before what is ordered, what is asked comes last, and PLEASE before everything but HELLO; English has
    them elsewhere.
    """
    english, gloss = item(random)
    if random.random() < 0.25:
        more = item(random)
        english, gloss = [*english, "and", *more[0]], [*gloss, *more[1]]
    kind = random.choice(4, p=[0.35, 0.25, 0.2, 0.2])
    if kind == 0:
        english, gloss = ["can", "i", "get", *english], [*gloss, "I", "GET", "CAN"]
    elif kind == 1:
        english, gloss = ["i", "can", "get", *english], [*gloss, "I", "CAN", "GET"]
    elif kind == 2:
        english, gloss = ["get", *english], [*gloss, "GET"]
    else:
        english, gloss = ["no", *english[1:]], [*gloss[:-1], "NO"]
    if random.random() < 0.5:
        name = [str(letter) for letter in random.choice(list(LETTERS), random.integers(2, 5))]
        english, gloss = [*english, "for", *name], [*(letter.upper() for letter in name), *gloss]
    ending = random.random()
    if ending < 0.3:
        english, gloss = [*english, "please"], ["PLEASE", *gloss]
    elif ending < 0.6:
        english, gloss = [*english, "thank", "you"], [*gloss, "THANK-YOU"]
    if random.random() < 0.35:
        english, gloss = ["hello", *english], ["HELLO", *gloss]
    return " ".join(english), " ".join(gloss)


# Clips


def clips(path: Path, lifted: bool = True) -> dict[str, list[Frames]]:
    """The takes of each sign in order: canonical axes, neck at the origin and shoulders 1/3 apart in the median.

    Args:
        lifted: depth comes from the image, by `rtskel.lift`, as that of PHOENIX14T did; else it is MediaPipe's, with
            which forearms are three times as long as in the image.
    """
    if not path.exists():
        raise RtskelError(f"{path}: no such file")
    with np.load(path) as file:
        points, label, number = file["points"], file["label"].astype(str), file["number"]
    found: dict[str, list[Frames]] = {}
    for row in np.lexsort((number, label)):
        if label[row] != "-":
            found.setdefault(str(label[row]).upper(), []).append(_clip(points[row], lifted))
    return found


def takes(options: argparse.Namespace) -> dict[str, list[Frames]]:
    """`clips`, lifted at the first call."""
    path = options.runs / "clips.npz"
    if not path.exists():
        print("clips are read and lifted", file=sys.stderr)
        found = clips(options.data / "signs" / "words.npz", not options.estimated_depth)
        every = [(sign, clip) for sign, of in found.items() for clip in of]
        xyz, missing = (np.stack([clip[k] for _, clip in every]) for k in range(2))
        np.savez(path, sign=np.array([sign for sign, _ in every]), xyz=xyz, missing=missing)
    kept: dict[str, list[Frames]] = {}
    with np.load(path) as file:
        for sign, xyz, missing in zip(file["sign"], file["xyz"], file["missing"], strict=True):
            kept.setdefault(str(sign), []).append(Frames(xyz, missing))
    return kept


def _clip(points: NDArray[np.int16], lifted: bool) -> Frames:
    """Landmarks [N, 49, 3] as joints."""
    seen = (points != 0).any(-1)
    xyz = points.astype(np.float32) / 8192 * np.array([1.0, ASPECT, -1.0], np.float32)  # z away from the camera
    nose, body = xyz[:, :1], xyz[:, [2, 4, 6, 1, 3, 5]]
    neck = 0.5 * (xyz[:, 1:2] + xyz[:, 2:3])
    joints = np.concatenate([nose, neck, body, xyz[:, 7:]], 1)
    here = [seen[:, :1], seen[:, 1:2] & seen[:, 2:3], seen[:, [2, 4, 6, 1, 3, 5]], seen[:, 7:]]
    missing = ~np.concatenate(here, 1)
    for wrist, hand in UPPER_BODY_50.hands:  # a hand's depth starts at the body's wrist
        joints[:, hand, 2] += joints[:, [wrist], 2] - joints[:, hand[:1], 2]
        missing[:, hand] |= missing[:, [wrist]]
    if lifted:
        joints = lift(joints[..., :2], (~missing).astype(np.float32), fps=FPS).xyz
    width = np.median(np.linalg.norm(joints[:, LEFT_SHOULDER] - joints[:, RIGHT_SHOULDER], axis=-1))
    joints = (joints - np.median(joints[:, NECK], axis=0)) * np.float32(SHOULDER_WIDTH / width)
    return Frames(np.where(missing[..., None], np.float32(0), joints).astype(np.float32), missing)


def composed(takes: dict[str, list[Frames]], split: str, count: int, seed: int) -> list[Sentence]:
    """Sentences made of the takes of a split."""
    random, found = np.random.default_rng([seed, *split.encode()]), list[Sentence]()
    low, high = TAKES[split]
    for number in range(count):
        text, gloss = sentence(random)
        parts = []
        for sign in gloss.split():
            of = takes[sign]
            parts.append(of[random.integers(int(low * len(of)), int(high * len(of)))])
        xyz, missing = joined(parts)
        poses = Recording(xyz, FPS, f"{split}-{number + 1}", confidence=(~missing).astype(np.float32), unit=SKELS_UNIT)
        found.append(Sentence(poses, text, gloss))
    return found


def joined(parts: Sequence[Frames]) -> Frames:
    """Clips one after another, with `TRANSITION` frames between them in which what both have moves evenly."""
    xyz, missing = [parts[0].xyz], [parts[0].missing]
    share = (np.arange(1, TRANSITION + 1, dtype=np.float32) / (TRANSITION + 1))[:, None, None]
    for part in parts[1:]:
        gone = missing[-1][-1] | part.missing[0]
        between = (1 - share) * xyz[-1][-1] + share * part.xyz[0]
        xyz += [np.where(gone[:, None], np.float32(0), between), part.xyz]
        missing += [np.repeat(gone[None], TRANSITION, 0), part.missing]
    return Frames(np.concatenate(xyz), np.concatenate(missing))


# Conditions


def corrupted(poses: Poses, g: torch.Generator) -> Poses:
    """Noise of half a limb's length on every joint; each hand lost in bursts of 3 to 40 frames, 30% of the time."""
    return corrupt.hand_gone(corrupt.dense_noise(poses, 0.5, g), 0.3, g)


def measured(poses: Poses, g: torch.Generator) -> Poses:
    """The drift and jitter of a monocular estimator against optical capture."""
    return corrupt.estimator_error(poses, 1.0, 1.0, 1.0, g)


CONDITIONS: dict[str, Callable[[Poses, torch.Generator], Poses] | None] = {
    "raw": None,
    "corrupted": corrupted,
    "measured": measured,
}


def under(condition: str, clean: Sequence[Sentence], seed: int) -> list[Sentence]:
    """Sentences under a condition; sentence k is corrupted with seed 1000 seed + k."""
    function = CONDITIONS[condition]
    if function is None:
        return list(clean)
    made = []
    for k, of in enumerate(clean):
        xyz, missing = torch.from_numpy(of.poses.xyz)[None], torch.from_numpy(of.poses.missing)[None]
        poses = function(Poses.clean(xyz).hide(missing), torch.Generator().manual_seed(1000 * seed + k))
        confidence = (~poses.missing[0]).float().numpy()
        made.append(replace(of, poses=replace(of.poses, xyz=poses.xyz[0].numpy(), confidence=confidence)))
    return made


def store(folder: Path, split: str, found: Sequence[Sentence]) -> None:
    """Writes sentences as `rtskel translate` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{split}.npz", [of.poses for of in found])
    for suffix in ("gloss", "text"):  # the texts last: a split that has them is complete
        lines = "".join(f"{getattr(of, suffix)}\n" for of in found)
        (folder / f"{split}.{suffix}").write_text(lines, encoding="utf-8")


def stored(options: argparse.Namespace, condition: str, split: str) -> list[Sentence]:
    """The sentences of a split under a condition, made at the first call."""
    folder = options.runs / condition
    if not (folder / f"{split}.text").exists():
        if condition == "raw":
            made = composed(takes(options), split, COUNTS[split], seed=0)
        else:
            made = under(condition, stored(options, "raw", split), list(COUNTS).index(split))
        store(folder, split, made)
    return sentences(folder, split)


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

    def __init__(self, options: argparse.Namespace, condition: str, split: str) -> None:
        count = options.dev if split == "dev" else options.test
        self.sentences = stored(options, condition, split)[:count]
        self.poses = [of.poses for of in self.sentences]
        self.raw = Inputs().prepare(self.poses, UPPER_BODY_50.id)
        self._engine = options.engine or BUNDLED
        self._base = options.runs / condition / f"{split}-{engine_id(self._engine)}"
        self._filled = dict[str, list[Frames]]()

    def filled(self, inputs: Inputs) -> list[Frames]:
        """Poses in which every joint is filled in."""
        if inputs.refine not in self._filled:
            whole = replace(inputs, unseen="fill", max_gap=None)
            if inputs.refine != self._engine:
                self._filled[inputs.refine] = whole.prepare(self.poses, UPPER_BODY_50.id)
            else:
                blocks = range(0, len(self.poses), BLOCK)
                self._filled[inputs.refine] = [frames for first in blocks for frames in self._block(whole, first)]
        return self._filled[inputs.refine]

    def _block(self, inputs: Inputs, first: int) -> list[Frames]:
        """`BLOCK` sentences, refined."""
        path, poses = self._base.with_name(f"{self._base.name}-{first}.npz"), self.poses[first : first + BLOCK]
        ends = np.cumsum([len(frames.xyz) for frames in self.raw[first : first + BLOCK]])
        if path.exists():
            with np.load(path) as file:
                xyz = file["xyz"]
            if len(xyz) >= ends[-1]:
                parts = np.split(xyz[: ends[-1]], ends[:-1])
                return [Frames(part, np.zeros(part.shape[:2], np.bool_)) for part in parts]
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
    texts = [of.text for of in dev.sentences]

    def reached(inputs: Inputs) -> float:
        return bleu(translator.translate(dev.frames(inputs), Search()), texts)

    values = {str(inputs): (reached(inputs), inputs) for inputs in ways}
    _, best = max(values.values(), key=lambda item: item[0])
    options = [replace(best, unseen="fill"), *(replace(best, max_gap=gap) for gap in GAPS)]
    values |= {str(inputs): (reached(inputs), inputs) for inputs in options}
    chosen = max(values.values(), key=lambda item: item[0])[1]
    return chosen.to_dict(), {name: value for name, (value, _) in values.items()}


# Results


def recall(said: Sequence[str], wanted: Sequence[str], of: Callable[[str], bool]) -> float:
    """Percent of the references' words of a kind that are in the translations."""
    hits = total = 0
    for a, b in zip(said, wanted, strict=True):
        counts, there = Counter(word for word in b.split() if of(word)), Counter(a.split())
        hits, total = hits + sum(min(n, there[word]) for word, n in counts.items()), total + sum(counts.values())
    return 100.0 * hits / max(total, 1)


KINDS: dict[str, Callable[[str], bool]] = {
    "letters": lambda word: word in LETTERS and word != "i",
    "things": lambda word: word in (*SIZES, *DRINKS),
    "others": lambda word: word in ("hello", "please", "thank", "can", "get", "no", "i"),
}


def seed_run(options: argparse.Namespace, seed: int) -> tuple[Translator, dict[str, Any]]:
    """The translator of a seed, trained on raw poses; goes on with what an earlier call has left."""
    out = options.runs / f"translator-{seed}"
    done = out / "done.json"
    config = TrainConfig(
        network=NETWORK, seed=seed, epochs=options.epochs, patience=2, factor=0.5, beams=(1, 3), alphas=(0.0, 1.0)
    )
    if not done.exists():
        splits = [stored(options, "raw", split) for split in ("train", "dev")]
        train(config, (splits[0], splits[1]), Inputs(), out, resume=(out / "last.safetensors").exists())
        last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        done.write_text(json.dumps({key: last[key] for key in ("epoch", "elapsed")}))
    return Translator.load(out / "best.safetensors"), json.loads(done.read_text())


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every condition, read by the translator of every seed."""
    options.runs.mkdir(parents=True, exist_ok=True)
    translators, trained = zip(*(seed_run(options, seed) for seed in options.seeds), strict=True)
    model = engine_id(options.engine or BUNDLED)
    about = {"engine": model, "precision": options.precision, "seed": options.seeds[0], **trained[0]}
    found = {}
    for condition in options.conditions:
        print(f"condition {condition}", file=sys.stderr)
        found[condition] = read_by_all(options, condition, translators, about)
    return {
        "engine": model,
        "depth": "estimated" if options.estimated_depth else "lifted",
        "sentences": {"train": COUNTS["train"], "dev": options.dev, "test": options.test},
        "trained": dict(zip(map(str, options.seeds), trained, strict=True)),
        "conditions": found,
        "signatures": signatures(),
    }


def read_by_all(
    options: argparse.Namespace, condition: str, translators: Sequence[Translator], about: dict[str, Any]
) -> dict[str, Any]:
    """The scores of each way to prepare the poses of a condition; the first translator chooses on dev."""
    dev, test = (Prepared(options, condition, split) for split in ("dev", "test"))
    texts, folder, chosen = [of.text for of in test.sentences], options.runs / condition, {}
    skeletor = Inputs(options.engine or BUNDLED, precision=options.precision)
    for name, of in {"filter": [Inputs(way) for way in FILTERS], "Skeletor": [skeletor]}.items():
        key = about | {"dev": options.dev, "ways": [way.to_dict() for way in of], "gaps": GAPS}
        path = folder / f"{name}-{about['engine']}.json"
        chosen[name] = kept(path, key, partial(choose, translators[0], dev, of))
    ways = {"as is": Inputs()} | {name: Inputs.from_dict(best) for name, (best, _) in chosen.items()}
    ways |= {"Skeletor, all filled": replace(skeletor, unseen="fill"), "Skeletor, never seen kept": skeletor}
    said: dict[str, list[list[str]]] = {way: [] for way in ways}
    for seed, translator in zip(options.seeds, translators, strict=True):
        for way, inputs in ways.items():
            key = about | {"seed": seed, "test": options.test, "inputs": inputs.to_dict()}
            path = folder / f"{way}-{seed}-{about['engine']}.json"
            said[way].append(kept(path, key, partial(translated, translator, test, inputs)))
    rows: dict[str, Any] = {}
    for way, inputs in ways.items():
        scores = [score(of_seed, texts) for of_seed in said[way]]
        rows[way] = {
            "inputs": inputs.to_dict(),
            "bleu": [[interval.score for interval in s.bleu] for s in scores],
            "margin": [s.bleu[3].margin for s in scores],
            "chrf": [s.chrf.score for s in scores],
            "rouge": [s.rouge.score for s in scores],
            "recall": {kind: [recall(x, texts, of_kind) for x in said[way]] for kind, of_kind in KINDS.items()},
        }
    for way, other in (("Skeletor", "filter"), ("filter", "as is")):
        rows[way][f"p against {other}"] = [
            compare({"first": a, "second": b}, texts)["second"][1] for a, b in zip(said[other], said[way], strict=True)
        ]
    return {"rows": rows, "on dev": {name: tried for name, (_, tried) in chosen.items()}}


def translated(translator: Translator, test: Prepared, inputs: Inputs) -> list[str]:
    """Translations of sentences that are prepared in that way."""
    return translator.translate(test.frames(inputs))


def engine_id(engine: str) -> str:
    """The model that refines."""
    with open_engine(None if engine == BUNDLED else engine) as opened:
        return opened.info.model_id


def lines(result: dict[str, Any]) -> list[str]:
    """The result as tables."""
    made = []
    for condition, found in result["conditions"].items():
        rows: dict[str, dict[str, Any]] = {}
        for way, of in found["rows"].items():
            bleu4 = [b[3] for b in of["bleu"]]
            rows[way] = {
                "BLEU-4": float(np.mean(bleu4)),
                "+- seeds": float(np.std(bleu4)),
                "+- sentences": float(np.mean(of["margin"])),
                "chrF": float(np.mean(of["chrf"])),
                "ROUGE-L": float(np.mean(of["rouge"])),
                **{kind: float(np.mean(values)) for kind, values in of["recall"].items()},
                "p": next((", ".join(f"{p:.3f}" for p in v) for k, v in of.items() if k.startswith("p against")), None),
                "how": str(Inputs.from_dict(of["inputs"])),
            }
        made += [*table(condition, rows, ".2f"), ""]
    return made


def main() -> int:
    """Command line."""
    parser = arguments(__doc__, data=True)
    parser.add_argument("--engine", help="an engine file (default: the bundled weights)")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps what is prepared and trained")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="with commas between; one translator each")
    parser.add_argument("--epochs", type=positive, default=EPOCHS, help="of training a translator")
    parser.add_argument("--estimated-depth", action="store_true", help="depth is MediaPipe's, instead of lifted")
    parser.add_argument("--precision", help="what the engine computes in (default: its own)")
    parser.add_argument("--dev", type=positive, default=COUNTS["dev"], help="sentences that settings are chosen on")
    parser.add_argument("--test", type=positive, default=COUNTS["test"], help="sentences that are scored")
    parser.add_argument("--threads", type=positive, default=1, help="of training")
    parser.add_argument("--conditions", type=names(list(CONDITIONS)), default=list(CONDITIONS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        result = run(options)
    except RtskelError as error:
        print(f"rtskel: error: {error}", file=sys.stderr)
        return 2
    report({"bench": "translate", **result}, lines(result), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
