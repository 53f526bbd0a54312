"""Training on a GPU: the host never waits, nothing lies on the wrong device, and what is drawn there is distributed as
on the CPU. Without a GPU the same code runs on the CPU, or on `meta`, where no value can be asked for.
"""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from rtskel.engine.weights import save_weights
from rtskel.model import Skeletor
from rtskel.refine.canonical import canonical_frames
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50
from rtskel.training import batches, config, corrupt, data, device
from rtskel.training.batches import Batches
from rtskel.training.corrupt import TRAINING, Poses
from rtskel.training.data import Corpus, canonical_origin, write_corpus
from rtskel.training.loss import Loss
from rtskel.training.train import Trainer
from tests.test_data import Sequence, motion
from tests.test_paired import clip
from tests.test_train import CONFIG, TINY, same

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "corpus"
    splits = [(Sequence(f"s{k}", "ab"[k % 2], "train", 25.0, 0, 0), motion(40 + k, k)) for k in range(4)]
    write_corpus(folder, splits)
    return folder


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A config that uses whatever there is: every kind, triples, pairs, a teacher, positions."""
    folder = tmp_path_factory.mktemp("everything")
    (folder / "pairs").mkdir()
    for k in range(4):
        np.savez(folder / f"pairs/{k:05d}.npz", **clip(seed=k, noise=0.01))
    save_weights(Skeletor(TINY).eval(), folder / "teacher.safetensors", name="tiny")
    return replace(
        CONFIG, sources={"a": 1.0, "b": 2.0}, batch=32, triples=2, sampled=1, pairs=str(folder / "pairs"),
        teacher=str(folder / "teacher.safetensors"), taught=("live",), paired=config.PairedConfig(triples=2, holdout=4),
    )  # fmt: skip


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The CPU is treated as a device that works behind the host."""
    for module in (device, batches, corrupt, data):
        monkeypatch.setattr(module, "behind", lambda device: True)


class Unasked(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "bincount", "multinomial", "_unique2", "equal")
    WAITS += ("lift_fresh", "is_nonzero")  # the first: a tensor made on the host, to be copied

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        assert name not in self.WAITS, f"{name} waits"
        assert not by_mask, "indexing by a mask waits"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: bool(x.any()),
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x[:, [0, 1]],
        lambda x: x * torch.tensor([1.0, 2.0, 3.0]),
        lambda x: torch.bincount(x.long()[0]),
        lambda x: torch.multinomial(x[0], 1),
    ],
)
def test_what_waits_is_refused(wait):
    with pytest.raises(AssertionError, match="waits"), Unasked():
        wait(torch.ones(2, 3))


def test_neither_a_draw_nor_its_loss_waits_for_the_device(everything, corpus, as_on_a_gpu):
    trainer = Trainer(everything, Corpus(corpus))
    trainer.batches.draw()  # constants are made when they are first needed
    with Unasked():
        drawn = trainer.batches.draw()
        trainer.measure(drawn).backward()
    assert all(torch.isfinite(part.float()).all() for part in drawn)


def test_a_draw_and_its_loss_lie_on_one_device(everything, corpus, monkeypatch):
    """On `meta` no value can be asked for, and tensors of the CPU do not mix with its own."""

    class OnMeta:
        device = torch.device("meta")

    for name in ("rand", "randn", "randint", "randperm"):
        whole = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, generator, whole=whole, **options: whole(*size, **options))
    made = Batches(replace(everything, teacher=""), Corpus(corpus), OnMeta())
    drawn = made.draw()
    assert {part.device.type for part in drawn} == {"meta"}
    assert drawn.x.shape == (32 + 6, TINY.window, 50, 3)
    model = Skeletor(TINY).to("meta")
    Loss(everything, len(made.kinds), made.triples, OnMeta())(model, drawn, 1e-3).backward()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def likeness(a, b):
    """The largest distance between two empirical distributions, in units in which 1.95 is exceeded by chance once in
    a thousand times (Kolmogorov and Smirnov)."""
    both = torch.cat([a, b]).double().sort().values
    below = [torch.searchsorted(part.double().sort().values, both, right=True) / len(part) for part in (a, b)]
    return float((below[0] - below[1]).abs().max()) * math.sqrt(len(a) * len(b) / (len(a) + len(b)))


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 8), (2, 20), (5, 15), (3, 40)])
@pytest.mark.parametrize("inside", [False, True])
def test_runs_drawn_at_once_are_distributed_as_runs_drawn_one_by_one(shortest, longest, inside, monkeypatch):
    like, share = torch.zeros(3000, 32), torch.rand(3000, generator=rng(5)) * (0.6 if inside else 1.0)
    one = corrupt.runs(like, share, shortest, longest, rng(1), inside)
    monkeypatch.setattr(corrupt, "behind", lambda device: True)
    other = corrupt.runs(like, share, shortest, longest, rng(2), inside)
    assert not torch.equal(one, other)
    edges = [torch.nn.functional.pad(taken.int(), (1, 1)).diff(dim=1) for taken in (one, other)]
    assert likeness(*(taken.sum(1) for taken in (one, other))) < 1.95
    assert likeness(*((edge > 0).sum(1) for edge in edges)) < 1.95
    frequency = [taken.float().mean(0) for taken in (one, other)]
    torch.testing.assert_close(*frequency, atol=0.05, rtol=0)


def test_kinds_have_their_shares_in_each_batch_and_exactly_on_average():
    chance = [2.5, 0.0, 1.0, 0.7, 3.1]
    sample = batches._Systematic(chance, 17, rng())
    expected = torch.tensor(chance) * 17 / sum(chance)
    total, count = torch.zeros(5), 1500
    for _ in range(count):
        kind, most, rows, back = sample.draw()
        found = torch.bincount(kind, minlength=5)
        assert ((found - expected).abs() < 1).all()
        assert (kind.diff() >= 0).all()
        assert sum(most) == len(rows)
        assert (found <= torch.tensor(most)).all()
        # Of what was corrupted, each row's own is kept, by its own kind.
        assert torch.equal(rows[back], torch.arange(17))
        assert torch.equal(torch.arange(5).repeat_interleave(torch.tensor(most))[back], kind)
        total += found
    torch.testing.assert_close(total / count, expected, atol=0.05, rtol=0)


def test_choices_are_those_of_a_multinomial(monkeypatch):
    chance = torch.tensor([0.0, 3.0, 1.0, 0.0, 4.0])
    monkeypatch.setattr(device, "behind", lambda device: True)
    drawn = device.Choice(chance).draw(20000, rng())
    torch.testing.assert_close(torch.bincount(drawn, minlength=5) / 20000, chance / 8, atol=0.02, rtol=0)
    assert not (drawn == 0).any()
    assert not (drawn == 3).any()


def test_batches_drawn_as_on_a_gpu_are_distributed_as_on_the_cpu(corpus, monkeypatch):
    """By kind of corruption: how much is missing, how far what is seen is off, how it moves; and of all, the scale."""
    kinds = ("clean", "burst_mask", "jitter_high", "live", "group_off_mid")
    settings = replace(CONFIG, sources={"a": 1.0, "b": 2.0}, kinds=kinds, batch=1200, triples=300)
    settings = replace(settings, model=replace(TINY, window=16))
    found = [Batches(settings, Corpus(corpus), rng(1)).draw()]
    for module in (device, batches, corrupt, data):
        monkeypatch.setattr(module, "behind", lambda device: True)
    found.append(Batches(settings, Corpus(corpus), rng(2)).draw())

    def of_each(drawn, rows):
        seen = ~drawn.missing[rows]
        off = (drawn.x - drawn.clean)[rows].square().sum(-1) * seen
        yield "missing", drawn.missing[rows].float().mean((1, 2))
        yield "off", (off.sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)).sqrt() / drawn.scale[rows]
        yield "motion", drawn.clean[rows].diff(n=2, dim=1).square().mean((1, 2, 3))
        yield "scale", drawn.scale[rows]
        yield "source", drawn.source[rows]

    for kind in range(len(kinds)):
        for rows in (slice(0, 300), slice(300, None, 3)):
            chosen = [torch.arange(1200)[rows][drawn.kind[rows] == kind] for drawn in found]
            counts = [len(rows) for rows in chosen]
            assert abs(counts[0] - counts[1]) < 40
            if min(counts) < 20:
                continue
            for (name, one), (_, other) in zip(*map(of_each, found, chosen), strict=True):
                assert likeness(one, other) < 1.95, (kinds[kind], name)


def test_canonical_frames_on_a_device_are_those_of_refinement():
    g = rng(3)
    x = torch.randn(60, 9, 50, 3, generator=g) * torch.rand(60, 1, 1, 1, generator=g) * 3 + 5
    valid = torch.rand(60, 9, 50, generator=g) < torch.rand(60, 1, 1, generator=g)
    valid[:12, :, NECK] = False
    valid[6:12, :, LEFT_SHOULDER] = False
    valid[12:18, :, RIGHT_SHOULDER] = False
    valid[18:20] = False
    x[20:24, :, RIGHT_SHOULDER] = x[20:24, :, LEFT_SHOULDER]
    x[24:28, :, RIGHT_SHOULDER] += 40
    x = x.masked_fill(~valid[..., None], 0.0)
    origin, scale, _ = canonical_frames(x.numpy(), valid.numpy(), UPPER_BODY_50)
    got = canonical_origin(x, valid, UPPER_BODY_50)
    np.testing.assert_allclose(got[0], origin, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got[1], scale, rtol=1e-5)
    assert len(np.unique(scale)) > 40


@pytest.mark.parametrize("frames", [1, 2, 63, 64, 65, 200])
def test_drift_is_the_recursion_over_time(frames):
    got = corrupt.autoregressive((3, frames, 2, 3), 0.96, rng(), torch.zeros(1))
    white = torch.randn(3, frames, 2, 3, generator=rng())
    steps = [white[:, 0]]
    for t in range(1, frames):
        steps.append(0.96 * steps[-1] + math.sqrt(1 - 0.96**2) * white[:, t])
    torch.testing.assert_close(got, torch.stack(steps, 1), atol=2e-6, rtol=1e-5)


def test_network_and_loss_compile_as_a_whole_and_once(corpus):
    """Without a break of the graph; the lower limit of the errors, which changes with each step, does not count."""
    trainer = Trainer(replace(CONFIG, sources={"a": 1.0}), Corpus(corpus))
    drawn = trainer.batches.draw()
    eager = trainer.loss(trainer.model, drawn, torch.tensor(1e-3))
    trainer.loss.running.zero_()
    counter = CompileCounter()
    compiled = torch.compile(trainer.loss.at_positions, dynamic=False, fullgraph=True, backend=counter)
    torch.testing.assert_close(compiled(None, trainer.model, drawn, torch.tensor(1e-3)), eager)
    compiled(None, trainer.model, trainer.batches.draw(), torch.tensor(1e-4))
    assert counter.frame_count == 1


def test_a_kernel_covers_rows_as_the_loop_does():
    """On a GPU, or interpreted where Triton is installed (TRITON_INTERPRET=1)."""
    kernels = pytest.importorskip("rtskel.training.kernels", exc_type=ImportError)
    there = "cuda" if torch.cuda.is_available() else "cpu"
    if there == "cpu" and "TRITON_INTERPRET" not in os.environ:
        pytest.skip("no GPU, and Triton does not interpret")
    for shortest, longest, window in ((1, 1, 34), (5, 15, 32), (3, 40, 64), (1, 8, 7)):
        for inside in (False, True):
            tries = 4 * window // shortest + 4
            wanted = torch.randint(0, window - 1, (30,), generator=rng())
            length = torch.randint(shortest, longest + 1, (30, tries), generator=rng())
            u = torch.rand(30, tries, generator=rng())
            expected = device.covered_at_once(wanted, length, u, shortest, window, inside)
            given = (part.to(there) for part in (wanted, length, u))
            assert torch.equal(kernels.cover(*given, shortest, window, inside).cpu(), expected)


@CUDA
def test_a_graph_draws_what_kernels_draw_one_by_one(everything, corpus):
    drawn = []
    for graph in (True, False):
        generator = torch.Generator("cuda").manual_seed(3)
        made = Batches(replace(everything, graph=graph), Corpus(corpus), generator)
        drawn.append([made.draw() for _ in range(3)])
    for one, other in zip(*drawn, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)
    assert not torch.equal(drawn[0][0].x, drawn[0][1].x)


@CUDA
def test_a_run_on_a_gpu_resumes_with_the_batches_that_would_have_come(everything, corpus, tmp_path):
    first, second = (Trainer(everything, Corpus(corpus), "cuda") for _ in range(2))
    for _ in range(4):
        assert math.isfinite(first.step())
    first.save(tmp_path / "last.safetensors")
    second.load(tmp_path / "last.safetensors")
    assert same(first.state(), second.state())
    for a, b in zip(first.batches.draw(), second.batches.draw(), strict=True):
        torch.testing.assert_close(a, b)
    for _ in range(5):
        assert math.isfinite(second.step())
    assert math.isfinite(second.settle())
    assert second.steps == 9


def test_every_kind_draws_at_the_same_length_for_any_values(as_on_a_gpu):
    """A graph repeats the same kernels: what a kind does must not depend on values."""

    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(function.name())
            return function(*args, **(kwargs or {}))

    for name, (_, recipe) in TRAINING.items():
        told = []
        for seed in (0, 1, 2):
            poses = Poses.clean(torch.randn(2, 12, 50, 3, generator=rng(seed)))
            with Names() as names:
                recipe(poses, rng(seed))
            told.append(names.names)
        assert told[1] == told[2], name
