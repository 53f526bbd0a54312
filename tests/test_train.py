"""Training: it learns, it resumes bit for bit, and what it cannot do is said before anything is lost."""

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rtskel.engine.weights import load_weights, save_weights
from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording, write
from rtskel.model import PRESETS, Skeletor, SkeletorConfig, facing
from rtskel.training.batches import Batch
from rtskel.training.config import RECIPES, SHAKY, TrainConfig, present_sources
from rtskel.training.corrupt import TRAINING
from rtskel.training.data import Corpus, write_corpus
from rtskel.training.data import main as build
from rtskel.training.evaluate import CONDITIONS, evaluate, geometric_mean
from rtskel.training.train import Trainer, main, train, validation_sequences
from tests.test_data import Sequence, motion

TINY = SkeletorConfig(
    window=8, d_model=16, heads=2, d_ff=16, layers=1, missing_channel=True, bones=True, bone_deviation=True, fill=True,
    gate=True, local_regression=True, unmirror=True,
)  # fmt: skip
CONFIG = TrainConfig(
    model=TINY, sources={"a": 1.0}, batch=8, triples=1, steps=6, warmup=2, validate_every=3, precision="fp32", lr=1e-2
)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    make = [("s0", "train", 40), ("s1", "train", 30), ("d0", "dev", 20)]
    write_corpus(
        folder, [(Sequence(name, "a", split, 25.0, 0, 0), motion(n, k)) for k, (name, split, n) in enumerate(make)]
    )
    return folder


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key].cpu(), b[key].cpu()) for key in a)


def test_a_run_holds_what_it_was_and_its_best_weights(corpus, tmp_path):
    trainer = train(CONFIG, corpus, tmp_path / "run", quiet=True)
    assert trainer.steps == 6
    about = json.loads((tmp_path / "run/config.json").read_text())
    assert about["corpus"] == Corpus(corpus).fingerprint
    assert about["model"]["d_model"] == 16
    best = load_weights(tmp_path / "run/best.safetensors")
    assert best.config == TINY
    entries = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [3, 6]
    assert trainer.best == min(entry["geometric_mean"] for entry in entries)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_corpus_of_ones_own_recordings_needs_no_sources(tmp_path, recipe, capsys):
    """The recipes' sources are those of the shared data; a corpus without them is trained on as a whole."""
    paths = [tmp_path / f"r{k}.npz" for k in range(3)]
    for k, path in enumerate(paths):
        write(path, [Recording(500 * motion(60, k), 25.0, path.stem)])
    assert build([*map(str, paths), str(tmp_path / "corpus")]) == 0
    options = {"model": TINY.to_dict(), "batch": 8, "precision": "fp32", "validate_every": 0}
    (tmp_path / "options.json").write_text(json.dumps(options))
    run = ["--data", str(tmp_path / "corpus"), "--recipe", recipe, "--config", str(tmp_path / "options.json")]
    assert main([*run, "--out", str(tmp_path / "run"), "--steps", "2"]) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["sources"] == {"recordings": 1.0}
    assert main([*run, "--out", str(tmp_path / "run"), "--steps", "3", "--resume"]) == 0
    with pytest.raises(RtskelError, match=r"no sequences of source 'recordigs' .*\(there is recordings\)"):
        main([*run, "--out", str(tmp_path / "other"), "--set", 'sources={"recordigs": 1.0}'])
    capsys.readouterr()
    assert build([str(paths[0]), str(tmp_path / "one")]) == 0
    assert "nothing to train on: the first recording is for validation" in capsys.readouterr().err
    with pytest.raises(RtskelError, match=r"no sequences in split 'train' \(there is dev\)"):
        main([*run, "--data", str(tmp_path / "one"), "--out", str(tmp_path / "other")])


def test_sources_that_a_corpus_lacks_are_left_out_of_the_recipes(tmp_path):
    parts = [("a", "phoenix", "train"), ("b", "bandai", "train"), ("c", "how2sign", "dev")]
    made = [(Sequence(name, source, split, 25.0, 0, 0), motion(40)) for name, source, split in parts]
    write_corpus(tmp_path, made)
    weights = RECIPES["realtime"].sources
    expected = {source: weights[source] for source in ("bandai", "phoenix")}
    assert present_sources(RECIPES["realtime"], Corpus(tmp_path)) == expected


def test_resuming_is_bit_exact(corpus, tmp_path):
    straight = Trainer(CONFIG, Corpus(corpus))
    for _ in range(6):
        straight.step()
    first = Trainer(CONFIG, Corpus(corpus))
    for _ in range(3):
        first.step()
    first.save(tmp_path / "last.safetensors")
    second = Trainer(CONFIG, Corpus(corpus))
    second.load(tmp_path / "last.safetensors")
    for _ in range(3):
        second.step()
    assert same(straight.state(), second.state())
    assert not same(straight.state(), first.state())


def test_a_teachers_output_is_the_truth_of_the_kinds_it_teaches(corpus, tmp_path):
    torch.manual_seed(1)
    teacher = Skeletor(TINY)
    torch.nn.init.normal_(teacher.trunk.out.weight, std=0.1)
    save_weights(teacher.eval(), tmp_path / "teacher.safetensors", name="tiny")
    kinds = ("clean", "dense_noise")
    config = replace(CONFIG, kinds=kinds, teacher=str(tmp_path / "teacher.safetensors"), taught=("dense_noise",))
    taught, alone = (Trainer(c, Corpus(corpus)).batches.draw() for c in (config, replace(config, teacher="")))
    (goal, x, missing, _, kind, _), (truth, *_) = taught, alone
    with torch.no_grad():
        made = teacher(x, missing)
    noisy = kind == kinds.index("dense_noise")
    assert noisy.any()
    assert not noisy.all()
    torch.testing.assert_close(goal[noisy], made[noisy])
    assert torch.equal(goal[~noisy], truth[~noisy])
    small = Skeletor(replace(TINY, window=4))
    save_weights(small, tmp_path / "small.safetensors", name="tiny")
    with pytest.raises(RtskelError, match=r"small\.safetensors: does not fit the model to be trained"):
        Trainer(replace(config, teacher=str(tmp_path / "small.safetensors")), Corpus(corpus))
    with pytest.raises(ValueError, match="unknown kind"):
        replace(config, taught=("fog",))


def test_it_learns(corpus, monkeypatch):
    config = replace(CONFIG, kinds=("static_joint_mask",), steps=60, balance=False)
    trainer = Trainer(config, Corpus(corpus))
    batch = trainer.batches.draw()
    monkeypatch.setattr(trainer.batches, "draw", lambda: batch)
    losses = [trainer.step() for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_papers_recipe_is_plain_mse_on_the_whole_window(corpus):
    paper = RECIPES["paper"]
    assert (paper.lr, paper.steps, paper.weight_decay, paper.ema) == (1e-5, 300_000, 0.0, 0.0)
    assert paper.model == PRESETS["paper"]
    small = SkeletorConfig(window=8, d_model=16, heads=2, d_ff=16, layers=1)
    trainer = Trainer(replace(paper, model=small, sources={"a": 1.0}, batch=4), Corpus(corpus))
    batch = trainer.batches.draw()
    clean, x, missing, scale = batch[:4]
    off = (trainer.model(x, missing) - clean) / scale[:, None, None, None]
    keep = [j for j in range(50) if j != 1]
    assert trainer.loss(trainer.model, batch, trainer.floor).item() == pytest.approx(
        off[:, :, keep].square().mean().item(), rel=1e-4
    )


def test_the_last_windows_of_a_batch_are_triples_of_consecutive_ones(corpus):
    trainer = Trainer(replace(CONFIG, triples=2), Corpus(corpus))
    clean, _, missing, scale, kind, source = trainer.batches.draw()
    assert len(clean) == CONFIG.batch
    for first in (2, 5):
        assert trainer.batches.kinds[kind[first]] in SHAKY
        assert (kind[first : first + 3] == kind[first]).all()
        assert (source[first : first + 3] == source[first]).all()
        bones = (clean - clean[:, :, [1]])[first : first + 3] / scale[first : first + 3, None, None, None]
        torch.testing.assert_close(bones[0, 1:], bones[1, :-1])
        torch.testing.assert_close(bones[1, 1:], bones[2, :-1])
        assert torch.equal(missing[first, 2:], missing[first + 2, :-2])


def test_a_jump_between_consecutive_windows_costs_only_with_smoothness(corpus, monkeypatch):
    """The same errors, once alternating between the windows of a triple and once constant."""
    losses = {}
    for smoothness in (0.0, 1.0):
        trainer = Trainer(replace(CONFIG, smoothness=(smoothness,) * 3, kinds=("dense_noise",)), Corpus(corpus))
        clean, x, missing, scale, kind, source = trainer.batches.draw()
        for name, sign in (("steady", torch.ones(8)), ("jumping", torch.tensor([1.0, 1, 1, 1, 1, 1, -1, 1]))):
            y = clean + 0.01 * (sign * scale)[:, None, None, None]
            monkeypatch.setattr(
                trainer.model, "propose", lambda x, missing, positions, y=y: (y, torch.zeros_like(y), None)
            )
            trainer.loss.running.fill_(1e-3)
            side = facing(x, missing)
            batch = Batch(clean * side, y * side, missing, scale, kind, source)
            losses[smoothness, name] = trainer.loss(trainer.model, batch, trainer.floor).item()
    assert losses[0.0, "steady"] == pytest.approx(losses[0.0, "jumping"], rel=1e-3)
    assert losses[1.0, "jumping"] > 1.5 * losses[1.0, "steady"]


def test_validation_goes_through_refinement_and_knows_every_condition(corpus):
    trainer = Trainer(CONFIG, Corpus(corpus))
    truth = validation_sequences(Corpus(corpus))
    assert len(truth) == 1
    scores = trainer.validate(truth)
    assert {s.condition for s in scores} == set(CONDITIONS)
    clean = [s for s in scores if s.condition == "clean" and s.group == "all"]
    assert all(s.mse < 1e-12 for s in clean)  # untrained: the gate's correction is still zero
    assert geometric_mean(scores, 4) < geometric_mean(evaluate(truth, None), 4)  # filled in, where nothing is done


def test_unknown_options_raise():
    with pytest.raises(ValueError, match="'wramup'"):
        TrainConfig.from_dict({"wramup": 1})
    with pytest.raises(ValueError, match="'layer'"):
        TrainConfig.from_dict({"model": {"layer": 1}})
    with pytest.raises(ValueError, match="'spin'"):
        TrainConfig.from_dict({"augment": {"spin": 1}})
    with pytest.raises(ValueError, match="'fog'"):
        TrainConfig(kinds=("fog",))
    for config in (CONFIG, *RECIPES.values()):
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_command_line_says_what_is_wrong(corpus, tmp_path):
    run = ["--data", str(corpus), "--out", str(tmp_path / "run")]
    with pytest.raises(RtskelError, match="wramup"):
        main([*run, "--set", "wramup=1"])
    with pytest.raises(FormatError, match="nowhere"):
        main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_overwritten_and_foreign_checkpoints_are_refused(corpus, tmp_path):
    train(replace(CONFIG, steps=1), corpus, tmp_path / "run", quiet=True)
    with pytest.raises(RtskelError, match="already holds a run"):
        train(CONFIG, corpus, tmp_path / "run", quiet=True)
    other = Trainer(replace(CONFIG, model=replace(TINY, layers=2)), Corpus(corpus))
    with pytest.raises(RtskelError, match="another config"):
        other.load(tmp_path / "run/last.safetensors")
    with pytest.raises(RtskelError, match="cannot be written"):
        other.save(tmp_path / "nowhere/last.safetensors")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    with pytest.raises(RtskelError, match="not a checkpoint"):
        other.load(tmp_path / "garbage.safetensors")


def rewritten(path, change, **tensors):
    """The checkpoint with its stored config changed, and some of its tensors."""
    with safe_open(str(path), framework="pt") as file:
        held, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    config = json.loads(header["config"])
    change(config)
    save_file(held | tensors, str(path), header | {"config": json.dumps(config)})
    return path


def test_checkpoints_of_older_and_of_other_configs_are_refused(corpus, tmp_path):
    trainer = Trainer(CONFIG, Corpus(corpus))
    trainer.step()
    before = {key: value.clone() for key, value in trainer.state().items()}

    def refused(by, words, change, **tensors):
        trainer.save(tmp_path / "last.safetensors")
        with pytest.raises(RtskelError, match=words):
            by.load(rewritten(tmp_path / "last.safetensors", change, **tensors))
        assert same(before, trainer.state())

    refused(trainer, "another config.*smoothness 0.4", lambda config: config.update(smoothness=0.4))
    refused(trainer, "another config.*'fog'", lambda config: config.update(kinds=["fog"]))
    # Made before the last kind of today's was: it names none, or those there were.
    fewer = trainer.loss.running[:, :-1].contiguous()
    refused(trainer, "another config", lambda config: config.update(kinds=[]), running=fewer)
    refused(trainer, "another config", lambda config: config.update(kinds=list(TRAINING)[:-1]), running=fewer)
    refused(trainer, "another config", lambda config: config.update(sources={"b": 1.0}))
    narrow = Trainer(replace(CONFIG, kinds=tuple(TRAINING)[:1]), Corpus(corpus))
    refused(narrow, "another config", lambda config: config.update(kinds=[]))
    trainer.load(rewritten(tmp_path / "last.safetensors", lambda config: config.update(kinds=[], steps=99)))
    assert same(before, trainer.state())


def test_two_processes_average_their_gradients_and_resume(corpus, tmp_path, monkeypatch):
    """Under `torchrun`, with gloo, one step: the weights are those that the mean of both gradients gives."""
    config = replace(CONFIG, steps=1, validate_every=0, balance=False, triples=0, model=replace(TINY, gate=False))
    (tmp_path / "config").write_text(json.dumps(config.to_dict()))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "rtskel.training.train",
        "--data", str(corpus), "--out", str(tmp_path / "run"), "--config", str(tmp_path / "config"), "--threads", "1",
    ]  # fmt: skip

    def torchrun(*more):
        run = subprocess.run(
            [*command, *more],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr

    torchrun()
    assert json.loads((tmp_path / "run/config.json").read_text())["processes"] == 2
    with safe_open(str(tmp_path / "run/last.safetensors"), framework="pt") as file:
        got = {key.removeprefix("model."): file.get_tensor(key) for key in file.keys() if key.startswith("model.")}  # noqa: SIM118
        assert not torch.equal(*file.get_tensor("generators"))

    first, second = (Trainer(config, Corpus(corpus)) for _ in range(2))
    second.generator.manual_seed(config.seed + 1)
    second.loss(second.model, second.batches.draw(), second.floor).backward()
    others = [p.grad for p in second.model.parameters()]

    def average():
        for mine, other in zip(first.model.parameters(), others, strict=True):
            mine.grad.add_(other).div_(2)

    monkeypatch.setattr("rtskel.training.train.processes", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(first, "_average_gradients", average)
    first.step()
    for key, value in first.model.state_dict().items():
        torch.testing.assert_close(got[key], value, atol=1e-5, rtol=1e-3)
    monkeypatch.undo()

    torchrun("--resume", "--steps", "2")
    with pytest.raises(RtskelError, match="of 2 processes, not of 1"):
        Trainer(config, Corpus(corpus)).load(tmp_path / "run/last.safetensors")


def test_a_full_disk_is_named_and_the_checkpoint_before_it_kept(corpus, tmp_path, monkeypatch):
    trainer = Trainer(CONFIG, Corpus(corpus))
    trainer.step()
    trainer.save(tmp_path / "last.safetensors")
    before = (tmp_path / "last.safetensors").read_bytes()

    def full(tensors, path, header):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rtskel.training.checkpoint.save_file", full)
    with pytest.raises(RtskelError, match="No space left on device"):
        trainer.save(tmp_path / "last.safetensors")
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_without_validation_the_average_at_the_end_is_kept(tmp_path):
    write_corpus(tmp_path / "corpus", [(Sequence("s", "a", "train", 25.0, 0, 0), motion(40, 0))])
    train(replace(CONFIG, validate_every=0), tmp_path / "corpus", tmp_path / "run", quiet=True)
    assert load_weights(tmp_path / "run/best.safetensors").config == TINY
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_a_loss_that_is_not_finite_ends_the_run_and_says_so(corpus, tmp_path):
    with pytest.raises(RtskelError, match="the loss became"):
        train(replace(CONFIG, lr=1e30, clip=math.inf, steps=50), corpus, tmp_path / "run", quiet=True)
