"""The paper's Tables 1 to 4 (Jiang, Camgoz, Bowden, CVPRW 2021), for models trained here at one level of corruption.

Scaled down are the network (the paper states 8 layers and no other size) and the training: hundreds of updates instead
of 300,000, at a higher learning rate. No model is chosen by its score: the last weights count, so that PHOENIX14T dev,
which they never saw, stands for the paper's test set. `dev` is the error of single windows there, as in a training
loop; `test` is that of offline refinement, windows averaged as in the paper, by sequence. The paper does not state its
unit: compare shapes (each table also relative to its middle row), not values.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure.report import table

from rtskel.engine import Engine, open_engine
from rtskel.formats import read
from rtskel.training.config import RECIPES, TrainConfig, present_sources
from rtskel.training.data import Corpus
from rtskel.training.evaluate import SHARE, Score, evaluate
from rtskel.training.train import train

RADIUS = 2
MASKED, NOISE = (0.05, 0.1, 0.15, 0.2, 0.25), (0.1, 0.3, 0.5, 0.7, 0.9)
MIDDLE = 2


class Paper(NamedTuple):
    """A table of the paper: its rows, the kind of corruption of each, and its figures where they are known."""

    title: str
    levels: tuple[float, ...]
    kinds: tuple[str, ...]
    dev: tuple[float, ...] | None
    test: tuple[float, ...]


TABLES = {
    "1": Paper(
        "share of frames masked", MASKED, tuple(f"frame_mask@{p}" for p in MASKED),
        (1.103, 0.581, 0.874, 0.856, 0.971), (1.833, 0.875, 1.266, 1.250, 1.147),
    ),
    "2": Paper(
        "share of joints masked", MASKED, tuple(f"joint_mask@{p}" for p in MASKED),
        (13.645, 13.521, 14.640, 17.914, 16.418), (4.543, 3.555, 4.181, 6.390, 5.031),
    ),
    "3": Paper(
        f"noise on {SHARE:.0%} of frames", NOISE, tuple(f"frame_noise@{SHARE},{s}" for s in NOISE),
        None, (0.117, 0.215, 0.409, 0.689, 1.100),
    ),
    "4": Paper(
        f"noise on {SHARE:.0%} of joints", NOISE, tuple(f"joint_noise@{SHARE},{s}" for s in NOISE),
        None, (0.452, 0.508, 0.616, 0.770, 0.965),
    ),
}  # fmt: skip

UPDATES = {"paper": 600, "realtime": 350}
"""By recipe: about 60 s of one thread of a Zen 4 core each."""


def config(recipe: str, kind: str, corpus: Corpus) -> TrainConfig:
    """The scaled-down training of a model: the recipe's, but from all sources."""
    made = replace(RECIPES[recipe], kinds=(kind,), steps=UPDATES[recipe], batch=16, validate_every=0)
    if recipe == "paper":
        small = replace(made.model, window=32, d_ff=512, layers=3)
        made = replace(made, model=small, lr=1e-3, final_lr=0.02, warmup=50, clip=1.0, precision="bf16")
    return replace(made, triples=0, sources=present_sources(RECIPES["realtime"], corpus))


def measure(config: TrainConfig, corpus: Path, recording: Path) -> dict[str, Any]:
    """Trains a model on one thread, and scores it."""
    torch.set_num_threads(1)
    kind, began = config.kinds[0], time.process_time()
    truth = [each.canonical() for each in read(recording)]

    def scored(engine: Engine | None, radius: int = RADIUS) -> Score:
        scores = evaluate(truth, engine, lookaheads=[None], radius=radius, conditions=[kind])
        return next(score for score in scores if score.group == "all")

    with tempfile.TemporaryDirectory() as folder:
        train(config, corpus, f"{folder}/model", quiet=True)
        seconds = time.process_time() - began
        print(f"trained: {kind}", file=sys.stderr)
        with open_engine(f"{folder}/model/best.safetensors") as engine:
            least, average, most = scored(engine).sequences["mse"]
            single = scored(engine, 0).mse
    raw = scored(None).sequences["mse"][1]
    return {"kind": kind, "input": raw, "dev": single, "min": least, "ave": average, "max": most, "seconds": seconds}


def run(chosen: Sequence[str], recording: Path, corpus: Path, jobs: int) -> dict[str, Any]:
    """Trains and scores the models of the chosen tables: rows by recipe and table, in MSE of canonical units."""
    opened, began = Corpus(corpus), time.monotonic()
    cells = [(recipe, name, kind) for recipe in UPDATES for name in chosen for kind in TABLES[name].kinds]
    configs = [config(recipe, kind, opened) for recipe, _, kind in cells]
    found: dict[str, Any] = {recipe: {name: [] for name in chosen} for recipe in UPDATES}
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(cells))) as pool:
        rows = pool.imap(partial(measure, corpus=corpus, recording=recording), configs)
        for (recipe, name, _), row in zip(cells, rows, strict=True):
            found[recipe][name].append(row)
    first = {recipe: config(recipe, TABLES[chosen[0]].kinds[0], opened).to_dict() for recipe in found}
    return {"configs": first, "tables": found, "seconds": time.monotonic() - began}


def lines(found: dict[str, Any]) -> list[str]:
    """The tables in the paper's layout, the paper's figures on the right."""
    unit = 1e4
    out = [f"MSE x {1 / unit:.0e}, offline; input: the corrupted sequences; rel: relative to the middle row", ""]
    for recipe, how in found["configs"].items():
        model = how["model"]
        out.append(
            f"Recipe {recipe}: {model['layers']} layers, d_model {model['d_model']}, {model['window']} frames; "
            f"{how['steps']} updates of {how['batch']} windows (the paper: 8 layers, 300,000 updates)"
        )
        for name, rows in found["tables"][recipe].items():
            paper, cells = TABLES[name], dict[str, dict[str, str]]()
            for k, (level, row) in enumerate(zip(paper.levels, rows, strict=True)):
                cells[f"{level:g}"] = {
                    **{key: f"{row[key] * unit:.4g}" for key in ("input", "dev", "min", "ave", "max")},
                    "rel": f"{row['ave'] / rows[MIDDLE]['ave']:.2f}",
                    "paper's dev": "-" if paper.dev is None else f"{paper.dev[k]:.3f}",
                    "ave ": f"{paper.test[k]:.3f}",
                    "rel ": f"{paper.test[k] / paper.test[MIDDLE]:.2f}",
                }
            out += ["", f"Table {name}", *table(paper.title, cells)]
        out.append("")
    trained = sum(row["seconds"] for by in found["tables"].values() for rows in by.values() for row in rows)
    return [*out, f"trained for {trained:.0f} s of one thread in all; the command took {found['seconds']:.0f} s"]
