"""The GPU's bench: what it says where there is no GPU, and that it measures on the stand-ins."""

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import gpu as bench
import pytest
import torch

from rtskel.engine.base import NullEngine
from rtskel.engine.weights import save_weights
from rtskel.errors import EngineError
from rtskel.model import PRESETS, Skeletor
from tests.fake_gpu import fake_metadata, write_fake_plan


@pytest.mark.usefixtures("without_a_gpu")
def test_without_a_gpu():
    """One line that says what is missing, and status 2."""
    command = [sys.executable, bench.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rtskel: error: bench/gpu.py: ")
    assert "needs an NVIDIA GPU and its driver" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_network_that_copies(gpu_with_kernels):
    """All that is measured without TensorRT, on the stand-ins: right, with one graph a step."""
    cuda = gpu_with_kernels()
    found = bench.difference(bench.Copying, lambda batch: NullEngine(window=bench.WINDOW, max_batch=batch), 12, 2)
    assert found["books equal"]
    assert found["poses"] == 24
    assert found["xyz"] < 1e-6
    assert bench.latency(bench.Copying, 12)["n"] > 0
    found = bench.by_batch(bench.Copying, [2], {}, 0.0)
    assert found["batch 2"]["windows_per_second"] > 0
    assert json.dumps(found)
    assert any("windows_per_second" in line for line in bench.lines({"copy": found}))
    assert cuda._handles == []


def test_plans(gpu_with_kernels, tmp_path, monkeypatch):
    """With a plan that runs and one that does not: each question has an answer, or says why it has none."""
    cuda = gpu_with_kernels()
    plan = tmp_path / "tiny.plan"
    write_fake_plan(plan, fake_metadata())
    monkeypatch.setattr(bench, "plans", lambda *_: {"this": str(plan), "that": EngineError("not for\nthis GPU")})
    weights = str(tmp_path / "absent.safetensors")
    found = bench.of_plans(Namespace(weights=weights, batches=[2], frames=12, sequence=12, seconds=0.0))
    assert found["that"] == {"unavailable": "not for this GPU"}
    assert found["this: against the host's rings"]["books equal"]
    assert found["this: against the host's rings"]["xyz"] < 1e-5
    assert "absent.safetensors" in found["this: against PyTorch in float32 on the CPU"]["unavailable"]
    assert found["this: us a frame, one stream"]["n"] > 0
    assert found["this: streams"]["batch 2"]["us of host"] > 0
    assert cuda._handles == []


@pytest.mark.parametrize("part", ["stream", "bulk"])
def test_parts_on_the_stand_ins(part, gpu_with_kernels, torch_gpu, tmp_path):
    """Every engine that a part opens runs: nothing is unavailable."""
    torch_gpu(gpu_with_kernels)
    torch.manual_seed(0)
    config = {"window": bench.WINDOW, "d_model": 16, "heads": 2, "d_ff": 16, "layers": 1}
    save_weights(Skeletor(replace(PRESETS["realtime"], **config)), tmp_path / "tiny.safetensors")
    options = bench.options_of(["--smoke", "--weights", str(tmp_path / "tiny.safetensors")])
    found = bench.PARTS[part][0](options)
    assert len(found) == {"stream": 5, "bulk": 2}[part]
    assert not [name for name, value in found.items() if "unavailable" in value]


def test_a_part_that_fails_or_hangs_loses_its_own_figures_only(tmp_path):
    options = bench.options_of(["--smoke", "--weights", str(tmp_path / "absent.safetensors")])
    assert bench.part_in_a_process("bulk", options, 0.01) == {"unavailable": "not done after 0 s"}
    options.given = ["--minutes", "none"]
    assert "none" in bench.part_in_a_process("bulk", options, 250.0)["unavailable"]


def test_targets_stand_beside_what_was_measured():
    found = bench.beside_targets({})
    assert found.keys() == bench.TARGETS.keys()
    assert {each["met"] for each in found.values()} == {None}
    measured = {
        "right": {"bf16, against float32 on the CPU": {"mm RMS": 0.05}},
        "stream": {"us": {"p50": 201.0}, "us around the network": {"unavailable": "no"}},
        "streams": {"ours": {"batch 1024": {"windows_per_second": 4e5, "us of host": 1.5}}},
        "training": {"batch 1024, eager": {"ms": 1.0, "share of drawing": 0.2, "windows": 1.0}},
    }
    met = {name.split(", batch")[0]: each["met"] for name, each in bench.beside_targets(measured).items()}
    assert met == {
        "right: mm RMS from float32 on the CPU": True,
        "start: seconds, second start": None,
        "stream: us, p50": False,
        "stream: us around the network, p50": None,
        "streams: windows a second": True,
        "streams: us of host a window": False,
        "bulk: frames a second": None,
        "training: share of drawing": True,
        "training: windows a second": False,
    }


def test_share_of_the_limit():
    limit = {"FLOP/s": 100.0, "FLOPs a window": 20.0}
    assert bench.share(limit, 4.0) == {"peak": 0.8}
    del limit["FLOP/s"]
    assert bench.share(limit, 4.0) == {}, "torch without CUDA"


def test_what_does_not_run_is_a_result():
    measured = {}
    bench.attempt(measured, "absent", lambda: Path("/nowhere").read_bytes())
    assert bench.lines(measured) == ["absent: [Errno 2] No such file or directory: '/nowhere'"]
