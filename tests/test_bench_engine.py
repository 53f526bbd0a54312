"""The benches of engines and of what users would pick instead: run tiny, and what they compute by hand."""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

import engine as bench  # noqa: E402
import instead  # noqa: E402
import peers  # noqa: E402
from measure import poses, processes  # noqa: E402

from rtskel.engine import describe  # noqa: E402
from rtskel.engine.onnx_export import export_onnx  # noqa: E402
from rtskel.engine.weights import save_weights  # noqa: E402
from rtskel.model import SkeletorConfig  # noqa: E402
from tests.test_model import trained  # noqa: E402

CONFIG = SkeletorConfig(window=12, d_model=16, heads=2, d_ff=16, layers=1, fill=True, gate=True)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """tiny.onnx, with tiny.safetensors beside it."""
    folder = tmp_path_factory.mktemp("bench")
    save_weights(trained(CONFIG), folder / "tiny.safetensors", name="tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns about PyTorch
        export_onnx(folder / "tiny.safetensors", folder / "tiny.onnx")
    return str(folder / "tiny.onnx")


def run(main, monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["bench", *options, "--json"])
    main()
    return json.loads(capsys.readouterr().out)


def test_engines(graph, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    names = "rtskel onnx int8,ONNX Runtime"
    options = ("--engine", graph, "--only", names, "--batches", "1,2", "--seconds", "0", "--runs", "2")
    found = run(bench.main, monkeypatch, capsys, *options, "--gemm", "32")
    assert [*found["opponents"]] == names.split(",")
    int8, plain = found["opponents"].values()
    assert int8["precision"] == "int8"
    assert plain["error"]["max"] < 1e-5 < int8["error"]["max"] < 0.1
    assert 0 < found["flops"]["asked"] < found["flops"]["all"]
    assert {*int8["ms"]} == {"1", "2"}
    assert all(opponent["ms"]["1"]["p99"] >= opponent["ms"]["1"]["p50"] > 0 for opponent in (int8, plain))
    assert plain["ms"]["2"]["share"] > 0
    table = "\n".join(bench.lines(found))
    assert "ONNX Runtime (onnxruntime" in table
    assert "rms error" in table


def test_what_does_not_run_is_told(monkeypatch):
    monkeypatch.setitem(bench.OPPONENTS, "absent", lambda files: Path(files.graph).read_bytes())
    here, there = processes.SPAWN.Pipe()
    bench.measure("absent", bench.Files("", "/nowhere", ""), argparse.Namespace(), np.zeros(0), there)
    assert "/nowhere" in here.recv()["unavailable"]


def test_shares_are_of_the_ceiling_in_the_same_precision():
    measured = {
        "rtskel onnx bf16": {"precision": "bf16", "asked": "asked", "ms": {"1": {"p50": 2.0}, "16": {"p50": 16.0}}},
        "ONNX Runtime": {"precision": "fp32", "asked": "all", "ms": {"1": {"p50": 5.0}}},
        "odd": {"precision": "int8", "asked": "all", "ms": {"1": {"p50": 5.0}}},
        "torch.compile": {"unavailable": "no compiler"},
    }
    bench.add_shares(measured, {"asked": 3e8, "all": 4e8}, {"fp32": 1e11, "bf16": 4e11})
    assert measured["rtskel onnx bf16"]["ms"]["16"]["share"] == pytest.approx(0.75)
    assert measured["ONNX Runtime"]["ms"]["1"]["share"] == pytest.approx(0.8)
    assert measured["odd"]["ms"]["1"]["share"] is None
    assert "share" not in measured["torch.compile"]


def test_instead(graph, monkeypatch, capsys):
    names = "hold last,Savitzky-Golay (SciPy),rtskel"
    options = ("--engine", graph, "--only", names, "--lookaheads", "2", "--clip", "2")
    result = run(instead.main, monkeypatch, capsys, *options)
    assert result["model"] == describe(graph).model_id
    found = result["lookaheads"]["2"]
    assert [*found] == names.split(",")
    assert all(opponent["us"]["p50"] > 0 and opponent["mse"] > 0 for opponent in found.values())
    assert found["Savitzky-Golay (SciPy)"]["acceleration"] < found["hold last"]["acceleration"]


@pytest.mark.parametrize("main", [bench.main, instead.main])
def test_unknown_opponents_are_named(main, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(main, monkeypatch, capsys, "--only", "nobody")
    assert "unknown 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hold last", "One-Euro (OneEuroFilter)", "Savitzky-Golay (SciPy)"])
@pytest.mark.parametrize("lookahead", [0, 3])
def test_frame_by_frame_is_the_whole_sequence(name, lookahead):
    """What is timed is what the settings were chosen with."""
    if "One-Euro" in name:
        pytest.importorskip("OneEuroFilter")
    opponent = instead.OPPONENTS[name](lookahead, argparse.Namespace(clip=1.0))
    example = poses.synthetic(1.0, seed=4)
    expected = seen = instead.held(example)
    out = np.stack([opponent.push(x, m) for x, m in zip(seen, example.missing, strict=True)])[lookahead:]
    if "One-Euro" in name:
        least, beta, speed, back = opponent.setting
        expected = np.roll(peers.one_euro(seen, least, beta, speed), -int(back), 0)
    if "Savitzky" in name:
        past, order = map(int, opponent.setting)
        padded = np.concatenate([np.repeat(seen[:1], past, 0), seen])
        rows = np.lib.stride_tricks.sliding_window_view(padded, past + 1 + lookahead, 0)
        taps = instead.savgol_coeffs(past + 1 + lookahead, order, pos=past, use="dot")
        expected = rows @ taps
    np.testing.assert_allclose(out, expected[: len(out)], atol=1e-9)
