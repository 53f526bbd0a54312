"""Composed sentences: clips of real signs (MediaPipe on webcams, 32 signs of ASL) one after another. No person signed
them.

Clips are disjoint by split: of the takes of a sign, in order, the first 60% are for training, the next 15% for dev, the
rest for test. There are two kinds of sentences:

    by rule    English by the rules of `sentence`, in an order of glosses that differs from English
    phoenix    the texts, glosses and splits of PHOENIX14T, the duration of each gloss from its alignment; each gloss is
               an ordered pair of the 32 signs, so that no sign means its gloss
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import RtskelError
from rtskel.formats import SKELS_UNIT, Recording
from rtskel.recordings import lift
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, SHOULDER_WIDTH, UPPER_BODY_50
from rtskel.translate.data import Sentence
from rtskel.translate.inputs import Frames

TAKES = {"train": (0.0, 0.6), "dev": (0.6, 0.75), "test": (0.75, 1.0)}
"""Shares of a sign's takes, in order."""
TRANSITION = 2
"""Frames between two signs, interpolated."""
FPS = 25.0
ASPECT = 0.75
"""Height by width of the images; the file does not state it."""

Clips = dict[str, list[Frames]]
"""The takes of each sign, in order."""


# Clips


def clips(path: Path, lifted: bool = True) -> Clips:
    """The takes of each sign in order: canonical axes, neck at the origin and shoulders 1/3 apart in the median.

    Args:
        lifted: depth comes from the image, by `rtskel.lift`, as that of PHOENIX14T did; else it is MediaPipe's, with
            which forearms are three times as long as in the image.
    """
    if not path.exists():
        raise RtskelError(f"{path}: no such file")
    with np.load(path) as file:
        points, label, number = file["points"], file["label"].astype(str), file["number"]
    found: Clips = {}
    for row in np.lexsort((number, label)):
        if label[row] != "-":
            found.setdefault(str(label[row]).upper(), []).append(clip(points[row], lifted))
    return found


def clip(points: NDArray[np.int16], lifted: bool) -> Frames:
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


def drawn(takes: Clips, sign: str, split: str, random: np.random.Generator) -> Frames:
    """A take of a sign that belongs to the split."""
    of, (low, high) = takes[sign], TAKES[split]
    return of[random.integers(int(low * len(of)), int(high * len(of)))]


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


def squeezed(whole: Frames, frames: int) -> Frames:
    """A clip in so many frames, from its first to its last; a joint is there if it is in both frames around."""
    time = np.linspace(0, len(whole.xyz) - 1, frames)
    before = np.minimum(time.astype(int), len(whole.xyz) - 2)
    share = (time - before).astype(np.float32)[:, None, None]
    gone = whole.missing[before] & (share[..., 0] < 1) | whole.missing[before + 1] & (share[..., 0] > 0)
    xyz = (1 - share) * whole.xyz[before] + share * whole.xyz[before + 1]
    return Frames(np.where(gone[..., None], np.float32(0), xyz), gone)


def signed(parts: Sequence[Frames], name: str, text: str, gloss: str) -> Sentence:
    """A sentence of these clips."""
    xyz, missing = joined(parts)
    return Sentence(Recording(xyz, FPS, name, confidence=(~missing).astype(np.float32), unit=SKELS_UNIT), text, gloss)


# Sentences by rule

LETTERS = "bcefghjklstuvwxyz"
SIZES, DRINKS = ("small", "medium", "large"), ("coffee", "tea", "water", "muffin")


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


def by_rule(takes: Clips, split: str, count: int) -> list[Sentence]:
    """Sentences by rule, made of the takes of a split."""
    random, found = np.random.default_rng([0, *split.encode()]), list[Sentence]()
    for number in range(count):
        text, gloss = sentence(random)
        parts = [drawn(takes, sign, split, random) for sign in gloss.split()]
        found.append(signed(parts, f"{split}-{number + 1}", text, gloss))
    return found


# Sentences of PHOENIX14T

BETWEEN = (1057, 1058)
"""Models of an alignment that are no gloss: what comes before and after signing."""
SHORTEST = 2
"""Frames of a sign, at least."""


def durations(row: dict[str, Any]) -> list[int]:
    """Frames of each gloss of a sentence: the runs of its alignment, whose states 3k + 1 to 3k + 3 are a gloss; where
    these are more or fewer than the glosses, and in test, where most are, all glosses are equally long.
    """
    runs = list[list[int]]()
    for state in map(int, row["alignment"].split()):
        model = (state - 1) // 3
        if state and model not in BETWEEN:
            if runs and runs[-1][0] == model:
                runs[-1][1] += 1
            else:
                runs.append([model, 1])
    count = len(row["gloss"].split())
    if row["split"] != "test" and len(runs) == count:
        return [length for _, length in runs]
    return [int(row["num_frames"]) // count] * count


def pairs_of_signs(rows: Sequence[dict[str, Any]], signs: Sequence[str]) -> dict[str, tuple[str, str]]:
    """An ordered pair of two signs for each gloss: the glosses that are most frequent in training have one of their
    own, the rarest share one with another if there are more glosses than pairs.
    """
    often = Counter(gloss for row in rows if row["split"] == "train" for gloss in row["gloss"].split())
    glosses = sorted({gloss for row in rows for gloss in row["gloss"].split()}, key=lambda g: (-often[g], g))
    pairs = list(permutations(sorted(signs), 2))
    order = np.random.default_rng(0).permutation(len(pairs))
    return {gloss: pairs[order[k % len(pairs)]] for k, gloss in enumerate(glosses)}


def phoenix(path: Path, takes: Clips, split: str, count: int) -> list[Sentence]:
    """The first sentences of a split of PHOENIX14T, made of the takes of that split.

    The two signs of a gloss and the transitions after each have the gloss's duration, if it is long enough.
    """
    if not path.exists():
        raise RtskelError(f"{path}: no such file")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    signs, found = pairs_of_signs(rows, list(takes)), list[Sentence]()
    random = np.random.default_rng([0, *split.encode()])
    for row in [row for row in rows if row["split"] == split][:count]:
        parts = []
        for gloss, frames in zip(row["gloss"].split(), durations(row), strict=True):
            left = max(frames - 2 * TRANSITION, 2 * SHORTEST)
            for sign, length in zip(signs[gloss], (left // 2, left - left // 2), strict=True):
                parts.append(squeezed(drawn(takes, sign, split, random), length))
        found.append(signed(parts, row["name"].replace("/", "-"), row["text"], row["gloss"]))
    return found
