"""Plans built for real: TensorRT-RTX's builder and parser need no GPU."""

import errno
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

from rtskel.engine import describe, open_engine
from rtskel.engine.device_ring import compiled
from rtskel.engine.metadata import MAGIC, read_metadata, read_plan
from rtskel.engine.tensorrt_build import COMPUTE_CAPABILITIES, build_plan
from rtskel.errors import EngineError
from tests import fake_gpu

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
trt = pytest.importorskip("tensorrt_rtx", reason="plans are built by tensorrt-rtx-cu13 here")

from rtskel.engine.onnx_export import export_model  # noqa: E402
from rtskel.model import PRESETS, Skeletor, SkeletorConfig  # noqa: E402

# No geometric fill: with it the builder takes ten seconds for windows this short, and one for the released size below.
TINY = SkeletorConfig(window=8, d_model=32, heads=2, d_ff=48, layers=2, missing_channel=True)


def export(config, path, precision="fp32"):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns about PyTorch
        export_model(Skeletor(config).eval(), path, precision=precision, name="tiny")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """tiny.onnx in fp32."""
    return export(TINY, tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_precision(precision, tiny, tmp_path):
    """Built for all default GPUs in one file, which says what it is without a GPU."""
    path = tiny if precision == "fp32" else export(TINY, tmp_path / "tiny.onnx", precision)
    info = build_plan(path, tmp_path / "tiny.plan", max_batch=16)
    assert info == describe(tmp_path / "tiny.plan")
    assert (info.kind, info.precision, info.window, info.joints) == ("plan", precision, 8, 50)
    assert info.extra["compute_capabilities"] == "8.0, 8.6, 8.9, 12.0"
    assert info.builder == f"tensorrt_rtx {trt.__version__}"
    assert (info.extra["max_batch"], info.extra["opt_batch"]) == ("16", "8")
    onnx_info = describe(path)
    assert (info.model_id, info.weights_hash) == (onnx_info.model_id, onnx_info.weights_hash)
    header, plan = read_plan(tmp_path / "tiny.plan")
    assert header.metadata == read_metadata(path)
    assert len(plan) == header.plan_bytes > 10_000
    assert (tmp_path / "tiny.plan").read_bytes().startswith(MAGIC)
    assert os.listdir(tmp_path) == ["tiny.plan"] if precision == "fp32" else True


@pytest.mark.parametrize("capability", COMPUTE_CAPABILITIES)
def test_every_gpu(capability, tiny, tmp_path):
    info = build_plan(tiny, tmp_path / "one.plan", compute_capabilities=[capability], max_batch=4)
    assert info.extra["compute_capabilities"] == capability
    assert (info.extra["max_batch"], info.extra["opt_batch"]) == ("4", "4")


def test_the_released_size(tmp_path):
    """The realtime preset in half precision, as it is meant to be deployed."""
    path = export(PRESETS["realtime"], tmp_path / "realtime.onnx", "fp16")
    assert build_plan(path, tmp_path / "realtime.plan").window == PRESETS["realtime"].window


@pytest.mark.usefixtures("without_a_gpu")
def test_a_built_plan_without_a_gpu(tiny, tmp_path):
    """The plan is whole, but nothing here can run it: one line that says so."""
    path = tmp_path / "tiny.plan"
    build_plan(tiny, path)
    with pytest.raises(EngineError) as error:
        open_engine(path)
    assert str(error.value).startswith(f"{path}: this needs an NVIDIA GPU and its driver")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("with_a_gpu")
def test_a_built_plan_on_a_gpu(tiny, tmp_path):
    """Where there is a GPU: it agrees with the CPU, with and without graphs, at every batch size."""
    path = tmp_path / "tiny.plan"
    build_plan(tiny, path, max_batch=6)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 8, 50, 3)).astype(np.float32)
    missing = rng.uniform(size=x.shape[:3]) < 0.1
    x[missing] = 0
    with open_engine(tiny) as cpu:
        expected = cpu.run(x, missing).copy()
    for graphs in (False, True):
        with open_engine(path, graphs=graphs) as engine:
            for batch in (1, 2, 3, 5, 6, 1):
                y = engine.run(x[:batch], missing[:batch])
                np.testing.assert_allclose(y, expected[:batch], rtol=0, atol=1e-4 * np.abs(expected).max())


# -- the kernels -------------------------------------------------------------------------------------------------------


def test_the_kernels_compile_for_a_gpu(tmp_path):
    """Where nvcc is: the source compiles without a warning, every kernel is there, and none spills or asks for much."""
    if (nvcc := shutil.which("nvcc")) is None:
        pytest.skip("no nvcc: the kernels are not compiled for a GPU here")
    options = ["-std=c++17", "-fmad=false", "-Werror", "all-warnings", "-Xptxas", "-v", "-arch=sm_90", "-cubin"]
    command = [nvcc, *options, str(fake_gpu.KERNELS), "-o", str(tmp_path / "device.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    cubin = (tmp_path / "device.cubin").read_bytes()
    for name in ("store", "gather", "average"):
        assert f"rtskel_{name}".encode() in cubin
    assert done.stderr.count("0 bytes spill stores, 0 bytes spill loads") == 3, done.stderr


def test_the_kernels_come_with_a_build_that_found_nvcc():
    """What is installed says whether it has them."""
    try:
        path = compiled()
    except EngineError as error:
        pytest.skip(str(error))
    content = path.read_bytes()
    assert content[:4] == b"\x50\xed\x55\xba"  # what a fat binary begins with
    assert len(content) > 100_000


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capabilities": ["9.9"]}, r"compute capability '9\.9' \(known: .*8\.0.*12\.0"),
        ({"compute_capabilities": ["8.0", "nonsense"]}, "compute capability 'nonsense'"),
        ({"compute_capabilities": []}, "no compute capability"),
        ({"compute_capabilities": ["7.5"]}, "tensorrt_rtx cannot build a plan for 7.5"),
        ({"max_batch": 4, "opt_batch": 8}, "opt_batch 8 must lie between 1 and max_batch 4"),
        ({"max_batch": 0}, "opt_batch 0 must lie"),
        ({"backend": "tflite"}, "unknown backend 'tflite'"),
        ({"backend": "tensorrt"}, "tensorrt_rtx builds without a GPU"),
    ],
)
def test_options_that_cannot_be(options, message, tiny, tmp_path, monkeypatch):
    cuda = fake_gpu.FakeRuntime(status=fake_gpu.cudaError_t.cudaErrorNoDevice)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    with pytest.raises(EngineError, match=message) as error:
        build_plan(tiny, tmp_path / "tiny.plan", **options)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_tensorrt_builds_for_the_gpu_that_is_present(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_gpu.FakeRuntime())
    with pytest.raises(EngineError, match=r"the GPU that is present \(8\.9\), not for 8\.0; use tensorrt_rtx"):
        build_plan(tiny, tmp_path / "tiny.plan", backend="tensorrt", compute_capabilities=["8.0"])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"needs tensorrt \(pip install 'rtskel\[tensorrt\]'\)"):
        build_plan(tiny, tmp_path / "tiny.plan", backend="tensorrt")


def test_a_builder_that_is_not_installed(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r"needs tensorrt_rtx \(pip install 'rtskel\[tensorrt-rtx\]'\)"):
        build_plan(tiny, tmp_path / "tiny.plan", backend="tensorrt_rtx")


def test_files_that_are_not_models(tiny, tmp_path):
    """Foreign files, our own of another kind, and an operator that TensorRT does not know: named, in one line."""
    (tmp_path / "foreign.onnx").write_bytes(b"hello" * 100)
    (tmp_path / "cut.onnx").write_bytes(tiny.read_bytes()[:5000])
    model = onnx.load(tiny)
    model.graph.node[3].op_type, model.graph.node[3].name = "Wobble", "the odd one"
    onnx.save(model, tmp_path / "odd.onnx")
    build_plan(tiny, tmp_path / "whole.plan", max_batch=1)
    for name, message in [
        ("foreign.onnx", "not an ONNX file"),
        ("cut.onnx", "truncated"),
        ("absent.onnx", "cannot be read"),
        ("odd.onnx", "'the odd one' (Wobble)"),
        ("whole.plan", "a plan is built from an .onnx file"),
    ]:
        with pytest.raises(EngineError) as error:
            build_plan(tmp_path / name, tmp_path / "out.plan")
        assert message in str(error.value)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out.plan").exists()


def test_output_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    """Whatever fails, the name holds what it held before, and no half file is left."""
    for name in ("plan.bin", "nowhere/tiny.plan"):
        with pytest.raises(EngineError, match=r"must be named \*\.plan|cannot be written"):
            build_plan(tiny, tmp_path / name, max_batch=1)
    path = tmp_path / "tiny.plan"
    path.write_bytes(b"before")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"tiny\.plan: cannot be written \(No space left on device\)"):
        build_plan(tiny, path, max_batch=1)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["tiny.plan"]
    monkeypatch.undo()
    build_plan(tiny, path, max_batch=1)
    assert describe(path).kind == "plan"
    assert path.stat().st_mode & 0o044  # readable as any new file, not only by its owner
