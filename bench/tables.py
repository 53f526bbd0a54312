"""The paper's Tables 1 to 4 (Jiang, Camgoz, Bowden, CVPRW 2021), for models trained here at one level of corruption.

Scaled down are the network (the paper states 8 layers and no other size) and the training: hundreds of updates instead
of 300,000, at a higher learning rate. No model is chosen by its score: the last weights count, so that PHOENIX14T dev,
which they never saw, stands for the paper's test set. `dev` is the error of single windows there, as in a training
loop; `test` is that of offline refinement, windows averaged as in the paper, by sequence. The paper does not state its
unit: compare shapes (each table also relative to its middle row), not values.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure.report import names, table

from rtskel.engine import open_engine
from rtskel.formats import read
from rtskel.training.config import RECIPES, TrainConfig, present_sources
from rtskel.training.data import Corpus
from rtskel.training.evaluate import SHARE, evaluate
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `--tables`."""
    words = f"train models and print these tables instead, with commas between: {', '.join(TABLES)} (no value: all)"
    parser.add_argument("--tables", type=names(TABLES), nargs="?", const=[*TABLES], help=words)
    parser.add_argument("--recipes", type=names(UPDATES), default=[*UPDATES], help="of the tables' models; likewise")


def config(recipe: str, kind: str, corpus: Corpus) -> TrainConfig:
    """The scaled-down training of a model: the recipe's, but from all sources."""
    made = replace(RECIPES[recipe], kinds=(kind,), steps=UPDATES[recipe], batch=16, validate_every=0)
    if recipe == "paper":
        small = replace(made.model, window=32, d_ff=512, layers=3)
        made = replace(made, model=small, lr=1e-3, final_lr=0.02, warmup=50, clip=1.0, precision="bf16")
    return replace(made, triples=0, sources=present_sources(RECIPES["realtime"], corpus))


class Model(NamedTuple):
    """A model to train and score in its own process."""

    config: TrainConfig
    corpus: str
    runs: str
    recording: str


def measure(model: Model) -> dict[str, Any]:
    """Trains the model on one thread, unless that was already done, and scores it."""
    torch.set_num_threads(1)
    corpus, kind = Corpus(model.corpus), model.config.kinds[0]
    known = json.dumps([model.config.to_dict(), corpus.fingerprint], sort_keys=True)
    out = Path(model.runs) / f"table-{kind.replace('@', '-')}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"
    if not (out / "seconds.json").exists():
        shutil.rmtree(out, ignore_errors=True)  # left by an interrupted call
        began = time.process_time()
        train(model.config, model.corpus, out, quiet=True)
        (out / "seconds.json").write_text(json.dumps(time.process_time() - began))
        print(f"trained: {kind}", file=sys.stderr)
    truth = [recording.canonical() for recording in read(model.recording)]
    with open_engine(out / "best.safetensors") as engine:
        averaged, single = (
            next(s for s in evaluate(truth, engine, lookaheads=[None], radius=r, conditions=[kind]) if s.group == "all")
            for r in (RADIUS, 0)
        )
    raw = next(s for s in evaluate(truth, None, lookaheads=[None], conditions=[kind]) if s.group == "all")
    least, average, most = averaged.sequences["mse"]
    return {
        "kind": kind,
        "input": raw.sequences["mse"][1],
        "dev": single.mse,
        "min": least,
        "ave": average,
        "max": most,
        "seconds": json.loads((out / "seconds.json").read_text()),
    }


def run(options: argparse.Namespace, runs: Path, corpus: Path) -> dict[str, Any]:
    """Trains and scores the models of the chosen tables: rows by table, in MSE of canonical units."""
    recording = options.data / "phoenix14t" / "dev.skels"
    read(recording)  # reports errors before anything is trained
    opened = Corpus(corpus)
    cells = list(product(options.recipes, options.tables))
    configs = [config(recipe, kind, opened) for recipe, name in cells for kind in TABLES[name].kinds]
    models = [Model(made, str(corpus), str(runs), str(recording)) for made in configs]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(min(options.jobs, len(models))) as pool:
        rows = iter(pool.imap(measure, models))
        found: dict[str, Any] = {recipe: {} for recipe in options.recipes}
        for recipe, name in cells:
            found[recipe][name] = [next(rows) for _ in TABLES[name].kinds]
    first = {recipe: config(recipe, TABLES[options.tables[0]].kinds[0], opened).to_dict() for recipe in found}
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
