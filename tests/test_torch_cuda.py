"""PyTorch's engine on a GPU: on stand-ins that compute on the CPU, or on a GPU where there is one."""

import gc
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rtskel.archive import Job, Refine, find, run  # noqa: E402
from rtskel.cli import main  # noqa: E402
from rtskel.engine import open_engine, torch_cuda  # noqa: E402
from rtskel.engine.weights import save_weights  # noqa: E402
from rtskel.errors import EngineError  # noqa: E402
from rtskel.formats import read, write  # noqa: E402
from rtskel.model import Skeletor, SkeletorConfig  # noqa: E402
from rtskel.recordings import refine_recording  # noqa: E402
from rtskel.refine import BulkRefiner, RefinerBank, refine  # noqa: E402
from rtskel.refine.ring import EngineRing, native_ring  # noqa: E402
from rtskel.training.synthesize import estimator_errors, synthesize  # noqa: E402
from tests import contract, fake_gpu  # noqa: E402

WINDOW, JOINTS = 12, 50
CONFIG = SkeletorConfig(
    window=WINDOW, d_model=16, heads=2, d_ff=16, layers=1, missing_channel=True, bones=True, bone_deviation=True,
    fill=True, gate=True, local_regression=True, unmirror=True, pre_norm=True,
)  # fmt: skip

stand_ins_only = pytest.mark.skipif(torch_cuda.available(), reason="asks the stand-ins what they were told")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    model = Skeletor(CONFIG).eval()
    torch.nn.init.normal_(model.trunk.out.weight, std=0.1)  # a fresh network changes nothing, which would hide mistakes
    save_weights(model, path, name="tiny")
    return path


@pytest.fixture
def opened(weights, torch_gpu, gpu_with_kernels):
    """Opens the weights on the GPU, with rings there unless told otherwise."""
    engines = []

    def open_it(**options):
        if not engines:
            open_it.cuda = torch_gpu(gpu_with_kernels)
        engine = open_engine(weights, device="cuda", **{"precision": "fp32", "max_batch": 6, "rings": True} | options)
        engines.append(engine)
        return engine

    yield open_it
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("check", contract.ALL, ids=lambda check: check.__name__)
def test_the_law_with_rings_on_the_gpu(check, opened):
    engine = opened()
    assert isinstance(RefinerBank(engine)._ring, EngineRing)
    options = {"radii": range(0, 6, 5)} if check is contract.lengths_radii_lookaheads else {}
    check(engine, native_ring, 1e-5, **options)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_what_the_reference_says(precision, tolerance, opened, weights):
    """The same poses as float32 on the CPU, through rings on the GPU; in bf16 nearly."""
    xyz, confidence = contract.sequence(40, seed=3, missing=0.2)
    with open_engine(weights) as reference:
        want = refine(xyz, engine=reference, confidence=confidence, lookahead=4)
    got = refine(xyz, engine=opened(precision=precision), confidence=confidence, lookahead=4)
    assert np.abs(got - want).max() < tolerance
    if precision == "bf16":
        assert np.abs(got - want).max() > 1e-5, "it computed in float32"


@pytest.mark.parametrize("rings", [True, False])
def test_in_bulk(rings, opened):
    """Sequences side by side, two steps in flight: the poses of one after the other."""
    engine = opened(rings=rings)
    given = [contract.sequence(length, seed=length, missing=0.2) for length in (40, 1, 13, 90, 7)]
    with BulkRefiner(engine, lookahead=4, streams=3) as refiner:
        assert refiner._bank.on_device == rings
        found = [refiner.submit(*each) for each in given]
        for (xyz, confidence), out in zip(given, found, strict=True):
            want = refine(xyz, engine=engine, confidence=confidence, lookahead=4)
            assert np.abs(out.result(60).xyz - want).max() < 1e-5


def test_an_archive(opened, weights, tmp_path):
    """`refine --gpu` on many recordings at once: the results of one after the other; one that fails fails alone."""
    opened().close()
    (tmp_path / "in").mkdir()
    for k, seconds in enumerate((1.2, 0.2, 2.8, 0.5)):
        take = estimator_errors(synthesize(seconds, 25.0, k), k)
        write(tmp_path / "in" / f"{k}.npz", take)
    (tmp_path / "in" / "broken.npz").write_bytes(b"no recording")
    job = Job(Refine(str(weights), precision="fp32", device="cuda", lookahead=4), tmp_path / "out")
    told = []
    summary = run(job, find([tmp_path / "in"], tmp_path / "out"), progress=told.append)
    assert (summary.done, [str(each.item.result) for each in summary.failed]) == (4, ["broken.npz"])
    assert len(told) == 5
    with open_engine(weights) as engine:
        for k in range(4):
            (recording,), (got,) = read(tmp_path / "in" / f"{k}.npz"), read(tmp_path / "out" / f"{k}.npz")
            want = refine_recording(recording, engine=engine, lookahead=4)
            assert np.abs(got.xyz - want.xyz).max() < 1e-5
            assert np.array_equal(got.flags, want.flags)
    assert run(job, find([tmp_path / "in"], tmp_path / "out")).before == 4


def test_sizes(opened):
    """The powers of eight and the largest batch are prepared, each with one graph, by the bank that needs them."""
    engine = opened(max_batch=20, rings=False)
    assert engine.captured == ((1, 2),)
    bank = RefinerBank(engine, lookahead=4, radius=2)
    count = 1 << (len(bank.config.positions) - 1).bit_length()
    sizes = {(1, 2), *((size, count) for size in (1, 8, 20))}
    assert set(engine.captured) == sizes
    xyz, confidence = contract.sequence(30, seed=1)
    bank.put(np.zeros(30, int), np.arange(30), xyz, confidence)
    contract.drain(bank)
    assert set(engine.captured) == sizes, "something was prepared while poses waited"


@stand_ins_only
def test_one_graph_a_step(opened):
    """Frames up, the ring's kernels, the network and poses down: one launch a step, and one event to wait for."""
    bank = RefinerBank(opened(), lookahead=4)
    xyz, confidence = contract.sequence(10, seed=1)
    for slot in range(10):
        bank.put(0, slot, xyz[slot, None], confidence[slot, None])
        opened.cuda._calls.clear()
        bank.step()
        names = [name for name, _ in opened.cuda._calls]
        assert names == ["cudaSetDevice", "cudaGraphLaunch", "cudaEventRecord", "cudaEventSynchronize"]


@stand_ins_only
def test_all_is_given_back(opened):
    engine = opened()
    refine(contract.sequence(20)[0], engine=engine)
    engine.close()
    gc.collect()
    assert opened.cuda._live() == (0, 0)


@stand_ins_only
@pytest.mark.parametrize("graphs", [None, True])
def test_a_network_that_cannot_be_captured(graphs, opened, monkeypatch):
    """An error of one line where graphs are required; else it runs without."""
    opened().close()
    of_stand_in = torch_cuda.TorchCuda.enqueue

    def enqueue(self, stream, work):
        if stream.capturing is not None:
            raise RuntimeError("not permitted when stream is capturing\na long story")
        of_stand_in(self, stream, work)

    monkeypatch.setattr(torch_cuda.TorchCuda, "enqueue", enqueue)
    if graphs:
        with pytest.raises(EngineError, match=r"no CUDA graph .*not permitted when.*ing\)") as error:
            opened(graphs=True)
        assert "\n" not in str(error.value)
    else:
        xyz = contract.sequence(20)[0]
        engine = opened()
        assert np.isfinite(refine(xyz, engine=engine)).all()
        assert engine.captured == ()


@pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch was built with CUDA")
def test_pytorch_without_cuda(weights, capsys):
    with pytest.raises(EngineError, match="was built without CUDA; install one with it") as error:
        open_engine(weights, device="cuda")
    assert str(error.value).startswith(f"{weights}: ")
    assert main(["serve", "--engine", str(weights), "--gpu", "--raw", "tcp://127.0.0.1:*"]) == 2
    assert "was built without CUDA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "'cuda:1' or the index"), (-1, "not -1"), ("cuda:x", "not 'cuda:x'"), ("cuda:7", "there is no GPU 7")],
)
def test_devices_that_there_are_not(device, message, weights, torch_gpu):
    torch_gpu()
    with pytest.raises(EngineError, match=message):
        open_engine(weights, device=device)


def test_options_that_do_not_fit(weights, torch_gpu):
    torch_gpu()
    with pytest.raises(EngineError, match=r"precision 'int8' cannot be had in PyTorch \(bf16 or fp32\)"):
        open_engine(weights, device="cuda", precision="int8")
    with pytest.raises(EngineError, match="option threads does not apply"):
        open_engine(weights, device="cuda", threads=2)
    with pytest.raises(EngineError, match="option rings does not apply"):
        open_engine(weights, rings=True)


def test_the_network_is_one_graph_to_the_compiler():
    """Nothing in `forward` makes the compiler fall back to Python: it would break a capture, too."""
    model = Skeletor(CONFIG).eval()
    x, missing = torch.zeros(2, WINDOW, JOINTS, 3), torch.zeros(2, WINDOW, JOINTS, dtype=torch.bool)
    compiled = torch.compile(model, dynamic=False, fullgraph=True, backend="eager")
    with torch.inference_mode():
        y = compiled(x, missing, torch.arange(4))
    assert y.shape == (2, 4, JOINTS, 3)


def test_a_first_start_says_what_it_does(tmp_path, monkeypatch, caplog):
    """While nothing compiled is kept yet, and where: a place that outlives a boot, unless another was chosen."""
    monkeypatch.setenv(torch_cuda.CACHE, "")
    monkeypatch.delenv(torch_cuda.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(torch.version, "cuda", "13.0")
        of = torch_cuda.TorchCuda(torch, "a.safetensors", 0)
    model = torch.nn.Identity()
    of.compiled(model)
    folder = tmp_path / "rtskel" / "torch"
    assert os.environ[torch_cuda.CACHE] == str(folder)
    assert "a.safetensors: first start on this GPU: compiling" in caplog.text
    assert str(folder) in caplog.text
    caplog.clear()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel").touch()
    of.compiled(model)
    assert caplog.text == ""


def test_what_pytorch_is_asked_for_exists():
    """Names that only a PyTorch with a GPU runs."""
    for name in ("MemPool", "use_mem_pool", "ExternalStream", "stream"):
        assert hasattr(torch.cuda, name), name
    with torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=1024):
        assert torch._dynamo.config.recompile_limit == 1024


def test_stand_ins_have_no_name_of_their_own():
    fake = {name for name in vars(fake_gpu.fake_torch(None)) if not name.startswith("_")}
    assert fake <= {"builder", *vars(torch_cuda.TorchCuda)}
