"""ONNX export: the same numbers in every runtime, the same identity in every file."""

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open

from rtskel.engine import open_engine
from rtskel.engine.metadata import read_metadata
from rtskel.engine.onnx_export import export_onnx, release
from rtskel.engine.weights import load_weights, save_weights
from rtskel.errors import EngineError
from rtskel.model import SkeletorConfig
from tests.test_model import TINY, trained, windows

PLAIN = SkeletorConfig(window=8, d_model=16, heads=2, d_ff=16, layers=1)


@pytest.fixture(scope="module", params=["realtime", "paper"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = trained(TINY if request.param == "realtime" else PLAIN)
    save_weights(model, folder / "w.safetensors", dtype=torch.float16, name="tiny")
    export_onnx(folder / "w.safetensors", folder / "w.onnx")
    return load_weights(folder / "w.safetensors"), folder


def sample(batch):
    x = windows(batch, seed=batch)
    missing = torch.rand(batch, 8, 50, generator=torch.Generator().manual_seed(batch)) < 0.3
    missing[0, :, 3] = True
    return x.masked_fill(missing[..., None], 0.0), missing


EVERY = np.arange(8)
POSITIONS = [EVERY, np.array([7]), np.array([4, 5, 6, 7]), np.array([3, 3, 0])]


@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_equals_torch(exported, batch):
    ort = pytest.importorskip("onnxruntime")
    model, folder = exported
    session = ort.InferenceSession(str(folder / "w.onnx"), providers=["CPUExecutionProvider"])
    x, missing = sample(batch)
    expected = model(x, missing).detach().numpy()
    for positions in POSITIONS:
        got = session.run(None, {"x": x.numpy(), "missing": missing.numpy(), "positions": positions})[0]
        assert np.abs(got - expected[:, positions]).max() < 1e-5


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_equals_torch(exported, batch):
    openvino = pytest.importorskip("openvino")
    model, folder = exported
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(folder / "w.onnx"), "CPU", options)
    x, missing = sample(batch)
    expected = model(x, missing).detach().numpy()
    for positions in POSITIONS:
        got = compiled([x.numpy(), missing.numpy(), positions])[0]
        assert np.abs(got - expected[:, positions]).max() < 1e-5


def test_metadata_inputs_and_stored_halves(exported):
    _, folder = exported
    proto = onnx.load(str(folder / "w.onnx"))
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    with safe_open(str(folder / "w.safetensors"), framework="pt") as file:
        weights = file.metadata()
    shared = ("name", "window", "joints", "skeleton", "preset", "config", "weights_hash", "format", "precision")
    assert all(metadata[f"rtskel.{key}"] == weights[f"rtskel.{key}"] for key in shared)
    assert [value.name for value in proto.graph.input] == ["x", "missing", "positions"]
    assert [value.name for value in proto.graph.output] == ["y"]
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [d.dim_value for d in shape[1:]] == [8, 50, 3]
    large = [i for i in proto.graph.initializer if int(np.prod(i.dims)) >= 1024]
    assert large
    assert all(i.data_type == onnx.TensorProto.FLOAT16 for i in large)
    assert b"/" not in b"".join(node.doc_string.encode() for node in proto.graph.node)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precision_is_in_the_trunk_only_and_close(exported, precision):
    openvino = pytest.importorskip("openvino")
    model, folder = exported
    path = folder / f"w.{precision}.onnx"
    export_onnx(folder / "w.safetensors", path, precision)
    proto = onnx.load(str(path))
    assert {e.key: e.value for e in proto.metadata_props}["rtskel.precision"] == precision
    assert all(
        v.type.tensor_type.elem_type != onnx.TensorProto.FLOAT16 for v in (*proto.graph.input, *proto.graph.output)
    )
    x, missing = sample(2)
    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with open_engine(path, max_batch=2, threads=1) as engine:
        assert engine.info.precision == ("bf16" if precision == "bf16" and native else "fp32")
        y = engine.run(x.numpy(), missing.numpy())
    assert np.abs(y - model(x, missing).detach().numpy()).max() < 0.05


def test_unknown_precision_and_foreign_files_are_named(exported, tmp_path):
    _, folder = exported
    with pytest.raises(EngineError, match="int4"):
        export_onnx(folder / "w.safetensors", tmp_path / "x.onnx", "int4")
    with pytest.raises(EngineError, match=r"w\.onnx"):
        export_onnx(folder / "w.onnx", tmp_path / "x.onnx")


def test_a_release_is_the_mean_of_its_seeds(tmp_path):
    seeds = []
    for seed, scale in enumerate((1.0, 3.0)):
        model = trained(TINY)
        with torch.no_grad():
            model.trunk.out.weight.mul_(scale)
        seeds.append(tmp_path / f"{seed}.safetensors")
        save_weights(model, seeds[-1], name="run", corpus="abc")
    release(seeds, tmp_path / "both", "tiny")
    released, one = load_weights(tmp_path / "both.safetensors"), load_weights(seeds[0])
    expected = (2 * one.trunk.out.weight).half().float()
    torch.testing.assert_close(released.trunk.out.weight, expected, rtol=0, atol=0)
    metadata = read_metadata(tmp_path / "both.safetensors")
    assert (metadata["rtskel.name"], metadata["rtskel.corpus"]) == ("tiny", "abc")
    with open_engine(tmp_path / "both.onnx") as engine:
        assert engine.info.weights_hash == metadata["rtskel.weights_hash"]
    other = tmp_path / "other.safetensors"
    save_weights(trained(PLAIN), other, name="run")
    with pytest.raises(EngineError, match=r"other\.safetensors: another model than that of .*0\.safetensors"):
        release([*seeds, other], tmp_path / "wrong", "tiny")
    assert not (tmp_path / "wrong.safetensors").exists()
