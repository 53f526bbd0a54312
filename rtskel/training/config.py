"""What a training run does: `TrainConfig`, and the recipes of the released weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rtskel.configs import Config
from rtskel.model import PRESETS, SkeletorConfig
from rtskel.training.corrupt import recipe
from rtskel.training.data import AugmentConfig, Corpus
from rtskel.training.paired import PairedConfig

SHAKY = ("dense_noise", "estimator_low", "estimator_high", "estimator_body", "jitter_low", "jitter_high", "live")
"""Kinds of corruption that move every frame: the loss on acceleration is trained on these."""

PAPER_KINDS = ("frame_mask", "joint_mask", "frame_noise_mid", "joint_noise_mid")


@dataclass(frozen=True)
class TrainConfig(Config, option="training option"):
    """A training run. The schedule runs over `steps`, or over `time_budget` seconds, whichever ends first.

    Attributes:
        sources: how often windows are drawn from each source of the corpus. Sources that the corpus lacks are refused;
            the command line leaves them out of the recipe's sources (see `present_sources`).
        kinds: kinds of corruption to draw from (`rtskel.training.corrupt.recipe`); empty: all of `TRAINING`.
        balance: each kind of corruption, source and group of joints counts by its error relative to its own running
            error, so that the logarithm of each is learned. Without it, the loss is the paper's plain MSE.
        shares: with `balance`, shares of the loss for the window's last position (look-ahead 0), the four before it
            (look-ahead up to 4), and those from there to the middle (longer look-ahead), each with its own running
            errors. Earlier positions are never output.
        sampled: how many of the positions of longer look-ahead are computed in a step, chosen at random; 0: all, and
            those that are never output. The last encoder layer computes only these.
        triples: 3 `triples` windows of the batch are groups of three consecutive ones, of the `SHAKY` kinds; their
            outputs should accelerate as the truth does. Needs `balance`.
        smoothness: weight of that loss, by positions as in `shares` (without look-ahead, too smooth means late).
        floors: lower limit of the running errors, at the start and at the end of the run.
        proposal, gate: weights of the loss of ungated corrections, and of the gate as a classifier of bad joints.
        ema: decay of the moving average of the weights, which is validated and kept.
        validate_every: steps between validations (and checkpoints); 0: none, and the final average counts as best.
        compile: compile network and loss together, which takes a minute or two and pays off on an accelerator.
        graph: on a GPU, batches are drawn as one CUDA graph; false: kernel by kernel, which takes the host longer.
        init: weights file to start from, of the same model or of one with fewer options (`Skeletor.grow_from`).
        teacher: weights file of a model of the same window and joints; "": none. What it makes of windows of the kinds
            `taught` takes the place of their truth, so that what it can do is not forgotten while learning from pairs.
        taught: kinds of corruption; empty: all that are drawn.
        pairs: folder of pairs to learn from too (`rtskel.training.paired`); "": none. Needs `balance`.
        corrected: joints of pairs are where `rtskel.formats.jointmap` says, as `rtskel estimate` gives them.
        paired: how windows of pairs are drawn and what counts; they come on top of `batch`.
    """

    model: SkeletorConfig = PRESETS["realtime"]
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sources: Mapping[str, float] = field(
        default_factory=lambda: {"phoenix": 0.42, "synthetic": 0.33, "bandai": 0.18, "how2sign": 0.07}
    )
    kinds: tuple[str, ...] = ()
    batch: int = 32
    steps: int = 300_000
    time_budget: float = math.inf
    lr: float = 6e-4
    final_lr: float = 0.01
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    balance: bool = True
    shares: tuple[float, float, float] = (0.25, 0.35, 0.4)
    sampled: int = 0
    triples: int = 2
    smoothness: tuple[float, float, float] = (0.5, 1.0, 1.0)
    floors: tuple[float, float] = (3e-4, 5e-7)
    proposal: float = 0.5
    gate: float = 0.1
    precision: str = "bf16"
    validate_every: int = 1500
    validate_radius: int = 0
    seed: int = 0
    compile: bool = False
    graph: bool = True
    init: str = ""
    teacher: str = ""
    taught: tuple[str, ...] = ()
    pairs: str = ""
    corrected: bool = True
    paired: PairedConfig = field(default_factory=PairedConfig)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.steps < 1 or self.validate_every < 0:
            raise ValueError("batch and steps must be at least 1, validate_every at least 0")
        if not 0 <= 3 * self.triples < self.batch:
            raise ValueError(f"{self.triples} triples of windows leave no other windows in a batch of {self.batch}")
        if self.pairs and not (self.balance and self.paired.triples > 0):
            raise ValueError("pairs without balance, or without triples of their windows")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: fp32 or bf16 expected")
        for kind in (*self.kinds, *self.taught):
            recipe(kind)


RECIPES: Mapping[str, TrainConfig] = MappingProxyType(
    {
        "realtime": TrainConfig(),
        "open": TrainConfig(
            model=PRESETS["open"],
            sources={"synthetic": 0.3, "signing": 0.24, "beats": 0.18, "unoc": 0.18, "mesh2motion": 0.1},
        ),
        "paper": TrainConfig(
            model=PRESETS["paper"], sources={"phoenix": 1.0}, kinds=PAPER_KINDS, lr=1e-5, final_lr=1.0, warmup=1,
            weight_decay=0.0, clip=math.inf, ema=0.0, balance=False, triples=0, precision="fp32",
        ),
    }
)  # fmt: skip
"""The recipes of the released weights, and the paper's (Adam with its defaults, 1e-5, MSE, 300,000 iterations)."""


def present_sources(config: TrainConfig, corpus: Corpus) -> dict[str, float]:
    """The weights of the config's sources that a corpus has for training; if it has none of them, 1 for each source."""
    present = sorted({sequence.source for sequence in corpus.select("train")})
    return {s: config.sources[s] for s in present if s in config.sources} or dict.fromkeys(present, 1.0)
