"""One conformance suite over every engine kind, and what the kinds do on their own: files, options, missing hardware.

Plans run on the stand-ins of `fake_gpu` here: the logic of the engine is real, the GPU is not.
"""

import dataclasses
import itertools
import json
import struct
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from rtskel.engine import NAMES, Engine, NullEngine, bundled, describe, located, open_engine, takes
from rtskel.engine.base import bucket, buckets
from rtskel.engine.metadata import MAGIC, read_metadata
from rtskel.engine.openvino import PIECES, largest_piece, pieces
from rtskel.errors import EngineError
from rtskel.refine import Refiner, refine
from rtskel.refine.ring import native_ring
from tests import contract, fake_gpu
from tests.fake_gpu import fake_metadata, write_fake_plan
from tests.test_refine import together

torch = pytest.importorskip("torch")

from rtskel.engine.onnx_export import export_onnx  # noqa: E402
from rtskel.engine.weights import save_weights  # noqa: E402
from rtskel.model import Skeletor, SkeletorConfig  # noqa: E402

WINDOW, JOINTS, MAX_BATCH = 12, 50, 6  # a window of 12 has room for every radius up to 5
CONFIG = SkeletorConfig(
    window=WINDOW, d_model=32, heads=2, d_ff=48, layers=2, missing_channel=True, bones=True, bone_deviation=True,
    fill=True, gate=True, unmirror=True,
)  # fmt: skip

ONNX_KINDS = ["onnx", "onnx-bf16", "onnx-int8", "onnx-older"]
CUDA_KINDS = ["safetensors-cuda", "safetensors-cuda-bf16", "safetensors-cuda-no-graphs"]
KINDS = ["null", *ONNX_KINDS, "safetensors", *CUDA_KINDS, "plan", "plan-rtx", "plan-no-graphs", "plan-older"]
"""`older`: files made before engines could be asked for some positions only."""
TOLERANCE = {"onnx-bf16": 5e-2, "onnx-int8": 5e-2, "safetensors-cuda-bf16": 5e-2}
"""Canonical units (shoulders are 1/3 apart), 1e-5 where nothing is said. bf16 rounds to 8 bits, int8 to 7 and a sign;
weights are random.
"""


NO_BF16 = "does not compute in bf16"
"""What a processor that lacks it answers."""


def tolerance(kind):
    return TOLERANCE.get(kind, 1e-5)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """tiny.safetensors, tiny.onnx and tiny.plan (which only the stand-ins run), of the same weights."""
    folder = tmp_path_factory.mktemp("engines")
    torch.manual_seed(0)
    model = Skeletor(CONFIG).eval()
    for parameter in model.trunk.out.parameters():  # a fresh network changes nothing, which would hide every mistake
        torch.nn.init.normal_(parameter, std=0.3)
    save_weights(model, folder / "tiny.safetensors", name="tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns about PyTorch
        export_onnx(folder / "tiny.safetensors", folder / "tiny.onnx", precision="fp32")
    without_positions(folder / "tiny.onnx", folder / "older.onnx")
    write_fake_plan(folder / "tiny.plan", read_metadata(folder / "tiny.onnx"))
    return folder


def without_positions(path, older):
    """The same network as it was exported before: no input `positions`, an answer for every frame."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    del model.graph.input[2]
    every = onnx.numpy_helper.from_array(np.arange(WINDOW), "positions")
    model.graph.initializer.append(every)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = WINDOW
    onnx.save(model, older)


@pytest.fixture
def open_kind(folder, gpu, torch_gpu, tmp_path):
    """Opens engines by kind and closes them."""
    opened = []

    def open_it(kind, max_batch=MAX_BATCH, **options):
        paths = {"null": "null", "safetensors": folder / "tiny.safetensors", "onnx-older": folder / "older.onnx"}
        path = paths.get(kind, folder / "tiny.onnx")
        if kind == "null":
            options |= {"window": WINDOW, "joints": JOINTS}
        if kind in ("onnx-bf16", "onnx-int8"):
            options["precision"] = kind.removeprefix("onnx-")
        if kind in CUDA_KINDS:
            torch_gpu()
            path, precision = folder / "tiny.safetensors", "bf16" if kind.endswith("bf16") else "fp32"
            # The stand-ins here have no kernels of rings, whatever was compiled: those are in test_torch_cuda.py.
            rings = None if torch.cuda.is_available() else False
            graphs = not kind.endswith("no-graphs")
            options = {"device": "cuda", "precision": precision, "graphs": graphs, "rings": rings} | options
        if kind.startswith("plan"):
            gpu(rtx=kind == "plan-rtx")
            path = tmp_path / "tiny.plan"
            module = "tensorrt_rtx" if kind == "plan-rtx" else "tensorrt"
            plan = fake_gpu.fake_plan(WINDOW, JOINTS, 16, selects=kind != "plan-older")
            write_fake_plan(path, read_metadata(folder / "tiny.onnx"), module, plan)
            options["graphs"] = kind != "plan-no-graphs"
        try:
            engine = open_engine(path, max_batch=max_batch, **options)
        except EngineError as error:
            if NO_BF16 in str(error):
                pytest.skip(str(error))
            raise
        opened.append(engine)
        return engine

    yield open_it
    for engine in opened:
        engine.close()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def engine(kind, open_kind):
    return open_kind(kind)


def windows(batch, seed=0):
    """Random poses, a tenth of the joints missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, WINDOW, JOINTS, 3)).astype(np.float32)
    missing = rng.uniform(size=x.shape[:3]) < 0.1
    x[missing] = 0
    return x, missing


# -- the contract, for every kind --------------------------------------------------------------------------------------


def test_it_says_what_it_is(engine, kind):
    info = engine.info
    assert info.kind == kind.split("-")[0]
    assert (info.window, info.joints, info.skeleton_id) == (WINDOW, JOINTS, "upper-body-50")
    assert (engine.window, engine.joints, engine.max_batch) == (WINDOW, JOINTS, MAX_BATCH)
    assert info.model_id == ("null" if kind == "null" else f"tiny-{info.weights_hash[:12]}")
    last = kind.split("-")[-1]
    assert info.precision == (last if last in ("bf16", "int8") else "fp32")
    assert info.builder
    assert hash(info) == hash(dataclasses.replace(info))


def test_every_batch_size(engine, kind):
    """A window's result does not depend on the size of its batch nor on its place in it."""
    x, missing = windows(MAX_BATCH)
    alone = np.concatenate([engine.run(x[k : k + 1], missing[k : k + 1]).copy() for k in range(MAX_BATCH)])
    assert alone.shape == x.shape
    assert alone.dtype == np.float32
    assert np.isfinite(alone).all()
    for batch in [*range(1, MAX_BATCH + 1), 2, MAX_BATCH, 1]:
        y = engine.run(x[-batch:], missing[-batch:])
        assert y.shape == (batch, WINDOW, JOINTS, 3)
        assert y.flags.c_contiguous
        np.testing.assert_allclose(y, alone[-batch:], rtol=0, atol=tolerance(kind))


def test_positions(engine, kind):
    """Any positions in any order, even twice, are those of all; and each run answers for its own."""
    x, missing = windows(3)
    every = engine.run(x, missing).copy()
    for chosen in ([WINDOW - 1], [8, 9, 10, 11], [5, 2, 2], [*range(WINDOW)], [3, 7, 0, 1, 4], [11]):
        positions = np.array(chosen)
        y = engine.run(x, missing, positions)
        assert y.shape == (3, len(chosen), JOINTS, 3)
        assert y.flags.c_contiguous
        np.testing.assert_allclose(y, every[:, chosen], rtol=0, atol=tolerance(kind))
    assert np.array_equal(engine.run(x, missing), every)


def test_windows_are_independent(engine, kind):
    """Whatever a window holds, even NaN, leaves the others in its batch as they were, to the bit."""
    x, missing = windows(4)
    before = engine.run(x, missing).copy()
    for poison in (1e3, np.nan):
        other = x.copy()
        other[2, 3, 7] = poison
        after = engine._run(other, missing, engine._every)  # `run` refuses what comes of it
        for row in (0, 1, 3):
            assert np.array_equal(before[row], after[row])
    assert np.array_equal(engine.run(x, missing), before)  # and nothing of it stays behind


def test_the_mask_counts(engine, kind):
    if kind == "null":
        pytest.skip("the identity reads no mask")
    x, missing = windows(1)
    before = engine.run(x, missing).copy()
    assert np.abs(engine.run(x, np.zeros_like(missing)) - before).max() > 1e-3


def test_inputs_of_any_layout(engine):
    """Strided, reversed and read-only inputs give what contiguous ones do, and no input is written to."""
    x, missing = windows(4)
    expected = engine.run(x, missing).copy()
    wide = np.zeros((8, WINDOW, JOINTS, 4), np.float32)
    wide[::2, ..., 1:] = x
    assert np.array_equal(engine.run(wide[::2, ..., 1:], missing), expected)
    reverse_x, reverse_missing = x[::-1].copy()[::-1], np.asfortranarray(missing)
    assert not reverse_x.flags.c_contiguous
    assert np.array_equal(engine.run(reverse_x, reverse_missing), expected)
    kept_x, kept_missing = x.copy(), missing.copy()
    for array in (x, missing):
        array.flags.writeable = False
    assert np.array_equal(engine.run(x, missing), expected)
    assert np.array_equal(x, kept_x)
    assert np.array_equal(missing, kept_missing)


def test_the_engine_owns_the_result(engine):
    """The buffer is not the caller's input, may be scribbled on, and survives the engine."""
    x, missing = windows(2)
    y = engine.run(x, missing)
    assert not np.shares_memory(x, y)
    expected = y.copy()
    y[:] = np.nan
    assert np.array_equal(engine.run(x, missing), expected)
    y = engine.run(x, missing)
    engine.close()
    assert np.isfinite(y).all()


def test_bad_arguments(engine):
    """Each is refused by name, and leaves the engine as it was."""
    x, missing = windows(2)
    expected = engine.run(x, missing).copy()
    bad = [
        (x.tolist(), missing, "x must be a numpy array"),
        (x.astype(np.float64), missing, "x must be float32, not float64"),
        (x.astype(">f4"), missing, "x must be float32"),
        (x, missing.astype(np.uint8), "missing must be bool, not uint8"),
        (x, missing.astype(np.float32), "missing must be bool, not float32"),
        (x[0], missing, "x must be"),
        (x, missing[0], "missing must be"),
        (x[:, 1:], missing[:, 1:], "x must be"),
        (x[:, :, 1:], missing[:, :, 1:], "x must be"),
        (x[..., :2], missing, "x must be"),
        (x, missing[:, :-1], "missing must be"),
        (x, missing[:1], "x holds 2 windows but missing holds 1"),
        (x[:0], missing[:0], "batch of 0 windows"),
        (*windows(MAX_BATCH + 1), f"batch of {MAX_BATCH + 1} windows: this engine takes 1 to {MAX_BATCH}"),
    ]
    bad = [(*arguments[:-1], None, arguments[-1]) for arguments in bad]
    kinds = "positions must be a numpy array of int64"
    bad += [(x, missing, odd, kinds) for odd in ([1, 2], np.arange(3, dtype=np.int32), np.array([[1]]), np.array(1))]
    values = f"positions must be 1 to {WINDOW} of 0..{WINDOW - 1}"
    odd_ones = ([-1], [WINDOW], [], [0] * (WINDOW + 1))
    bad += [(x, missing, np.array(odd, np.int64), values) for odd in odd_ones]
    for bad_x, bad_missing, positions, message in bad:
        with pytest.raises(ValueError, match="^" + message.replace("[", r"\[")):
            engine.run(bad_x, bad_missing, positions)
    assert np.array_equal(engine.run(x, missing), expected)


class Answering(NullEngine):
    """Answers what `answer` makes of the right answer."""

    def __init__(self):
        super().__init__(window=WINDOW, max_batch=MAX_BATCH)
        self.answer = lambda y: y

    def _run(self, x, missing, positions):
        return self.answer(super()._run(x, missing, positions))


def spoilt(y, value):
    y = y.copy()
    y[-1, -1, -1, -1] = value
    return y


def failing(error):
    def fail(y):
        raise error

    return fail


WRONG_ANSWERS = {
    "nan": (lambda y: spoilt(y, np.nan), "numbers in the engine's answer are not finite"),
    "inf": (lambda y: spoilt(y, -np.inf), "numbers in the engine's answer are not finite"),
    "huge": (lambda y: spoilt(y, 1e30), "numbers in the engine's answer are too large"),
    "large": (lambda y: spoilt(y, -1001), "numbers in the engine's answer are too large"),
    "fewer frames": (
        lambda y: y[:, :-1],
        r"the engine's answer is float32 \[2, 11, 50, 3\], not float32 \[2, 12",
    ),
    "fewer windows": (lambda y: y[:1], "the engine's answer is"),
    "two coordinates": (lambda y: y[..., :2], "the engine's answer is"),
    "float64": (lambda y: y.astype(np.float64), "the engine's answer is float64"),
    "None": (lambda y: None, "the engine answered with NoneType, not with an array"),
    "a list": (lambda y: y.tolist(), "the engine answered with list"),
    "an exception": (failing(RuntimeError("device\nlost")), r"the engine failed \(RuntimeError: device lost\)"),
    "no memory": (failing(MemoryError()), r"the engine failed \(MemoryError: \)"),
    "SystemExit": (failing(SystemExit(3)), r"the engine failed \(SystemExit: 3\)"),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
def test_answers_that_make_no_sense(wrong):
    """Each is an EngineError of one line that names the engine; the next run is right again."""
    x, missing = windows(2)
    engine = Answering()
    engine.answer, message = WRONG_ANSWERS[wrong]
    with pytest.raises(EngineError, match="^null: " + message) as error:
        engine.run(x, missing)
    assert "\n" not in str(error.value)
    engine.answer = lambda y: y[::1, ::1]
    assert np.array_equal(engine.run(x, missing), x)


def test_answers_of_any_layout():
    x, missing = windows(2)
    engine = Answering()
    engine.answer = np.asfortranarray
    y = engine.run(x, missing)
    assert y.flags.c_contiguous
    assert np.array_equal(y, x)
    engine.answer = lambda y: np.full_like(y, 999)  # far, but not absurd
    assert (engine.run(x, missing) == 999).all()


def test_threads_share_an_engine():
    """Refiners of several threads that share one engine: each gets what it gets alone."""
    engine = NullEngine(window=WINDOW, max_batch=1)
    clips = [contract.sequence(120, seed=seed) for seed in range(4)]
    want = [refine(xyz, engine=engine, confidence=confidence, lookahead=4) for xyz, confidence in clips]
    got, start = {}, threading.Barrier(len(clips))

    def work(number):
        xyz, confidence = clips[number]
        refiner = Refiner(engine, lookahead=4)
        start.wait()
        parts = [refiner.push(xyz[k], confidence[k]).xyz for k in range(len(xyz))]
        got[number] = np.concatenate([*parts, refiner.flush().xyz])

    together([lambda number=number: work(number) for number in range(len(clips))])
    for number, expected in enumerate(want):
        assert np.array_equal(got[number], expected)


def test_closing(engine):
    with engine as entered:
        assert entered is engine
        engine.run(*windows(1))
    with pytest.raises(EngineError, match="closed"):
        engine.run(*windows(1))
    engine.close()


def test_another_thread(engine):
    x, missing = windows(3)
    expected, got = engine.run(x, missing).copy(), []
    thread = threading.Thread(target=lambda: got.append(engine.run(x, missing).copy()))
    thread.start()
    thread.join()
    assert np.array_equal(got[0], expected)


@pytest.mark.parametrize("check", contract.ALL, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CUDA_KINDS[1:]])
def test_law(check, engine, kind):
    less = kind in CUDA_KINDS and check is contract.lengths_radii_lookaheads
    check(engine, native_ring, tolerance(kind), **({"radii": range(0, 6, 5)} if less else {}))


@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_agreement_with_the_reference(kind, open_kind):
    """fp32 to 1e-4 of canonical units, others to what they state; windows with all, some and no joints missing."""
    x, missing = windows(5, seed=3)
    missing[1], missing[2], missing[3, :, 1] = True, False, True
    x[missing] = 0
    expected = open_kind("safetensors").run(x, missing)
    got = open_kind(kind).run(x, missing)
    np.testing.assert_allclose(got, expected, rtol=0, atol=max(1e-4, tolerance(kind)) * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("kind", ["onnx", "onnx-bf16", "onnx-int8"])
def test_batches_in_pieces(kind, open_kind):
    """Batches that are cut up, with as many threads as there are and with more, hold each window at its place."""
    engine = open_kind(kind, max_batch=21, threads=2)
    x, missing = windows(21)
    positions = np.array([7, 8, 9, 11])
    alone = np.concatenate([engine.run(x[k : k + 1], missing[k : k + 1], positions) for k in range(21)])
    for batch in (21, 16, 9, 5):
        y = engine.run(x[:batch], missing[:batch], positions)
        np.testing.assert_allclose(y, alone[:batch], rtol=0, atol=tolerance(kind))
    if kind != "onnx":  # less precision must have had an effect, and the same for a window in every piece
        exact = open_kind("onnx", max_batch=1, threads=1).run(x[:1], missing[:1], positions)
        assert np.abs(alone[0] - exact[0]).max() > 1e-5


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_pieces(threads):
    """They cover the batch in order, in sizes that graphs are compiled for; no thread waits where there is work."""
    for batch in range(1, 70):
        cut = pieces(batch, threads)
        sizes = [piece.stop - piece.start for piece in cut]
        assert [row for piece in cut for row in range(batch)[piece]] == [*range(batch)]
        assert {*sizes} <= {size for size in PIECES if size <= largest_piece(batch, threads)}
        assert largest_piece(batch, threads) <= largest_piece(batch + 1, threads)  # which is prepared before
        assert 2 * len(cut) >= min(threads, batch)
        assert sizes == sorted(sizes, reverse=True)


def test_the_identity_is_one(open_kind):
    x, missing = windows(3)
    assert np.array_equal(open_kind("null").run(x, missing), x)


# -- opening -----------------------------------------------------------------------------------------------------------


def one_line(error, path):
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


def test_importing_imports_no_runtime():
    code = (
        "import sys, rtskel.engine, rtskel.engine.tensorrt_build; "
        "print([m for m in ('torch', 'onnx', 'openvino', 'tensorrt', 'tensorrt_rtx', 'cuda', 'safetensors') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["missing.onnx", "folder.plan", "weights.pt", "tiny", "missing.safetensors"])
def test_files_that_are_not_there(name, tmp_path):
    (tmp_path / "folder.plan").mkdir()
    with pytest.raises(EngineError) as error:
        open_engine(tmp_path / name)
    one_line(error, tmp_path / name)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".plan"])
def test_damaged_files(suffix, folder, tmp_path, gpu):
    """Foreign, empty and cut short anywhere, or too long: one line that names the file, from `describe` already."""
    gpu()
    whole = (folder / f"tiny{suffix}").read_bytes()
    rng = np.random.default_rng(0)
    cuts = [0, 1, 7, 8, 9, 20, len(whole) // 2, len(whole) - 1, *rng.integers(1, len(whole), 20).tolist()]
    foreign = [b"#!/bin/sh\necho hello\n" * 50, b"\x00" * 1000, b"PK\x03\x04" + bytes(rng.bytes(500)), rng.bytes(4000)]
    foreign += [struct.pack("<Q", len(text)) + text for text in (b"[1]", b"{}", b'{"__metadata__": 3}', b"\xff{")]
    if suffix != ".onnx":  # protobuf has no end of its own
        foreign.append(whole + b"\0")
    for number, content in enumerate([*(whole[:cut] for cut in cuts), *foreign]):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        for opens in (describe, open_engine):
            with pytest.raises(EngineError) as error:
                opens(path)
            one_line(error, path)


def packed(header, rest=b"", magic=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return magic + struct.pack("<Q", len(text)) + text + rest


PLAN_HEADER = {
    "metadata": fake_metadata(),
    "module": "tensorrt",
    "module_version": "10",
    "compute_capabilities": ["9.0"],
    "max_batch": 64,
    "opt_batch": 8,
    "plan_bytes": 4,
    "plan_sha256": "",
}
HOSTILE = {
    "nested.safetensors": packed(b"[" * 200_000),
    "nested2.safetensors": packed(b'{"__metadata__":' + b"[" * 200_000),
    "infinity.safetensors": packed(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}'),
    "negative.safetensors": packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, -5]}}),
    "larger.safetensors": packed({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, b"abcd"),
    "digits.safetensors": packed({"__metadata__": fake_metadata() | {"rtskel.window": "1" * 5000}}),
    "window.safetensors": packed({"__metadata__": fake_metadata() | {"rtskel.window": str(1 << 20)}}),
    "name.safetensors": packed({"__metadata__": fake_metadata() | {"rtskel.name": "n" * 300}}),
    "id.safetensors": packed({"__metadata__": fake_metadata() | {"rtskel.name": "n" * 120}}),
    "escape.safetensors": packed({"__metadata__": fake_metadata() | {"rtskel.name": "\x1b]0;title\x07"}}),
    "nested.plan": packed(b"[" * 200_000, magic=MAGIC),
    "infinity.plan": packed(PLAN_HEADER | {"max_batch": float("inf")}, b"abcd", MAGIC),
    "length.plan": packed(PLAN_HEADER | {"plan_bytes": float("inf")}, b"abcd", MAGIC),
    "negative.plan": packed(PLAN_HEADER | {"plan_bytes": -100}, b"abcd", MAGIC),
    "none.plan": packed(PLAN_HEADER | {"max_batch": 0, "opt_batch": 0}, b"abcd", MAGIC),
    "many.plan": packed(PLAN_HEADER | {"max_batch": 1 << 62}, b"abcd", MAGIC),
    "module.plan": packed(PLAN_HEADER | {"module": "\x1b]0;title\x07"}, b"abcd", MAGIC),
    "fields.onnx": b"\x08\x01" * (10 << 20),
    "length.onnx": b"\x0a" + b"\xff" * 8 + b"\x7f",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name, tmp_path):
    """What is declared is checked against what is there; one line, whatever the header holds."""
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    for opens in (describe, open_engine):
        with pytest.raises(EngineError) as error:
            opens(path)
        message = one_line(error, path)
        assert message.isprintable()
        assert len(message) < 400


@pytest.mark.parametrize(
    "config",
    [
        {"layers": 10**9},
        {"d_ff": 10**9},
        {"d_model": 1 << 30},
        {"window": 4096},
        {"skeleton": "x"},
        [],
        {"layers": "2"},
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_weights(config, folder, tmp_path):
    """Found before memory is taken for a network that is not in the file."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(folder / "tiny.safetensors", framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    said = json.loads(metadata["rtskel.config"]) | config if isinstance(config, dict) else config
    path = tmp_path / "odd.safetensors"
    save_file(tensors, path, metadata | {"rtskel.config": json.dumps(said)})
    with pytest.raises(EngineError, match="the weights do not fit their config") as error:
        open_engine(path)
    one_line(error, path)


def endless(onnx, model):
    """A loop that never ends, which a runtime may run while it loads the file."""
    helper, proto = onnx.helper, onnx.TensorProto
    values = {name: helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (
        ("i", proto.INT64, []), ("c", proto.BOOL, []), ("v", proto.FLOAT, None),
        ("c2", proto.BOOL, []), ("v2", proto.FLOAT, None),
    )}  # fmt: skip
    nodes = [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])]
    ins, outs = [values[name] for name in "icv"], [values[name] for name in ("c2", "v2")]
    body = helper.make_graph(nodes, "body", ins, outs)
    model.graph.node.append(helper.make_node("Loop", ["", "", "x"], ["unused"], body=body))


def elsewhere(onnx, model):
    """Weights that are in another file."""
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/dev/zero"


def larger(onnx, model):
    """A tensor that says that it is larger than its data."""
    max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data)).dims[0] = 1 << 40


@pytest.mark.parametrize(
    ("change", "message"), [(endless, "control flow"), (elsewhere, "another file"), (larger, "damaged")]
)
def test_hostile_graphs(change, message, folder, tmp_path):
    """Refused before a runtime sees them."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(folder / "tiny.onnx")
    change(onnx, model)
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=message) as error:
        open_engine(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtskel.format": "2"}, "engine format 2 is not supported"),
        ({"rtskel.format": None}, "not an rtskel engine"),
        ({"rtskel.window": "0"}, "rtskel.window '0' is not a positive number"),
        ({"rtskel.window": "eight"}, "rtskel.window 'eight' is not a positive number"),
        ({"rtskel.window": str(WINDOW + 1)}, "its tensors are not"),
        ({"rtskel.joints": "49"}, "49 joints, but upper-body-50 has 50"),
        ({"rtskel.precision": "fp4"}, "unknown rtskel.precision 'fp4'"),
        ({"rtskel.weights_hash": None}, "does not say its rtskel.weights_hash"),
        ({"rtskel.skeleton": ""}, "does not say its rtskel.skeleton"),
    ],
)
def test_metadata_that_makes_no_sense(change, message, folder, tmp_path, gpu):
    onnx = pytest.importorskip("onnx")
    gpu()
    metadata = {**read_metadata(folder / "tiny.onnx"), **change}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    model = onnx.load(folder / "tiny.onnx")
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "odd.onnx")
    write_fake_plan(tmp_path / "odd.plan", metadata)
    for name in ("odd.onnx", "odd.plan"):
        with pytest.raises(EngineError) as error:
            open_engine(tmp_path / name)
        assert message in one_line(error, tmp_path / name)


def test_weights_that_were_changed(folder, tmp_path):
    """One flipped bit of one weight is found by the hash."""
    content = bytearray((folder / "tiny.safetensors").read_bytes())
    content[-2] ^= 1
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(content)
    with pytest.raises(EngineError) as error:
        open_engine(path)
    assert "damaged" in one_line(error, path)


def test_description_of_files(folder):
    """What `describe` reads off a file is what the engine says once open, as far as the file can know."""
    infos = [describe(folder / f"tiny{suffix}") for suffix in (".safetensors", ".onnx", ".plan")]
    assert [info.kind for info in infos] == ["safetensors", "onnx", "plan"]
    assert len({(info.model_id, info.weights_hash, info.window, info.joints, info.preset) for info in infos}) == 1
    assert all(json.loads(info.extra["config"])["d_model"] == 32 for info in infos)
    assert infos[2].extra["compute_capabilities"] == "8.9"
    assert infos[2].extra["max_batch"] == "16"
    assert read_metadata(folder / "tiny.onnx").keys() >= {"rtskel.format", "rtskel.config"}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("null", {"precision": "bf16"}, "option precision does not apply"),
        ("null", {"threads": 2}, "option threads does not apply"),
        ("onnx", {"device": 1}, "option device does not apply"),
        ("onnx", {"graphs": False}, "option graphs does not apply"),
        ("onnx", {"precision": "fp16"}, r"precision 'fp16' cannot be had on a CPU \(fp32, bf16 or int8\)"),
        ("onnx", {"precision": "int4"}, "cannot be had on a CPU"),
        ("onnx", {"threads": 0}, "threads must be at least 1, not 0"),
        ("onnx", {"window": 9}, "its window is 12, not 9"),
        ("onnx", {"joints": 21}, "its joints is 50, not 21"),
        ("safetensors", {"precision": "bf16"}, "its precision is fp32, not bf16"),
        ("plan", {"precision": "fp16"}, "its precision is fp32, not fp16"),
        ("plan", {"threads": 2}, "option threads does not apply"),
        ("onnx", {"max_batch": 0}, "max_batch must be at least 1, not 0"),
    ],
)
def test_options_that_do_not_fit(kind, options, message, open_kind):
    with pytest.raises(EngineError, match=message):
        open_kind(kind, **options)


def test_options_that_fit(open_kind):
    assert open_kind("onnx", precision="fp32", threads=1, window=WINDOW, joints=JOINTS).info.extra["threads"] == "1"
    assert open_kind("plan", precision="fp32", warm_up=False).info.precision == "fp32"


@pytest.mark.parametrize(
    ("says", "precision"), [("fp16", "bf16"), ("fp16", "int8"), ("bf16", "fp32"), ("bf16", "int8")]
)
def test_precisions_that_a_file_lacks(says, precision, folder, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(folder / "tiny.onnx")
    onnx.helper.set_model_props(model, {**read_metadata(folder / "tiny.onnx"), "rtskel.precision": says})
    onnx.save(model, tmp_path / "less.onnx")
    with pytest.raises(EngineError) as error:
        open_engine(tmp_path / "less.onnx", precision=precision)
    assert f"its precision is {says}, not {precision}" in one_line(error, tmp_path / "less.onnx")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_older_graphs_in_less_precision(precision, folder, open_kind):
    engine = open_kind("onnx-older", max_batch=2, precision=precision)
    x, missing = windows(2)
    expected = open_kind("safetensors").run(x, missing)
    np.testing.assert_allclose(engine.run(x, missing), expected, rtol=0, atol=tolerance("onnx-bf16"))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_graphs_whose_trunk_cannot_be_told(precision, folder, tmp_path):
    """A graph in which no parameter has the name that we gave it computes in fp32 and in nothing else."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(folder / "tiny.onnx")
    for name in [initializer.name for initializer in model.graph.initializer if "trunk" in initializer.name]:
        for node in model.graph.node:
            node.input[:] = [text.replace(name, f"other{hash(name)}") for text in node.input]
            node.output[:] = [text.replace(name, f"other{hash(name)}") for text in node.output]
        next(i for i in model.graph.initializer if i.name == name).name = f"other{hash(name)}"
    onnx.save(model, tmp_path / "foreign.onnx")
    open_engine(tmp_path / "foreign.onnx", max_batch=1).close()
    with pytest.raises(EngineError) as error:
        open_engine(tmp_path / "foreign.onnx", precision=precision)
    message = one_line(error, tmp_path / "foreign.onnx")
    if precision == "bf16" and NO_BF16 in message:
        pytest.skip(message)
    assert "only files that `rtskel export` wrote" in message


def test_the_null_engine_by_itself():
    engine = NullEngine()
    assert isinstance(engine, Engine)
    assert (engine.window, engine.joints, engine.max_batch) == (32, 50, 64)
    with pytest.raises(ValueError, match="window"):
        NullEngine(window=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_weights(name):
    """A name opens what `bundled` says, whatever that file is called where rtskel is installed."""
    try:
        path = bundled(name)
    except EngineError as error:
        pytest.skip(str(error))
    assert located(name) == path
    assert takes(name, "threads")
    with open_engine(name, max_batch=2) as engine:
        assert engine.info.path == str(path)
        assert engine.info.preset == name
        x = np.zeros((1, engine.window, engine.joints, 3), np.float32)
        assert np.isfinite(engine.run(x, np.zeros(x.shape[:3], np.bool_))).all()


def test_a_name_is_not_a_path():
    assert located(None) == bundled() == bundled("realtime")
    assert located("./open") == "./open"
    assert located("null") == "null"
    with pytest.raises(EngineError, match="open: unknown kind of engine"):
        open_engine("./open")


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("warm_up", [False, True])
def test_one_graph_per_batch_size(rtx, warm_up, folder, tmp_path, gpu):
    """Sizes are rounded up to powers of two; every one is captured once, on demand or with the first run; all is given
    back.
    """
    cuda = gpu(rtx=rtx)
    path = tmp_path / "tiny.plan"
    write_fake_plan(path, read_metadata(folder / "tiny.onnx"), "tensorrt_rtx" if rtx else "tensorrt")
    engine = open_engine(path, max_batch=6, warm_up=warm_up)
    assert engine.captured == ((1, 4),)
    results = []
    for batch in (3, 1, 6, 3, 5):
        x, missing = windows(batch, seed=batch)
        positions = np.arange(batch, batch + 3)
        y = engine.run(x, missing, positions)
        np.testing.assert_allclose(y, fake_gpu.network(x, missing)[:, positions], atol=1e-6)
        results.append(y)
    assert engine.captured == tuple((size, 4) for size in ((1, 2, 4, 6) if warm_up else (1, 4, 6)))
    assert [name for name, _ in cuda._calls].count("cudaGraphLaunch") == 5
    # One copy up, one down, for the run that warms up and for the one that is captured; launches copy by themselves.
    assert [name for name, _ in cuda._calls].count("cudaMemcpyAsync") == 4 * len(engine.captured)
    engine.close()
    assert np.isfinite(results[1]).all()
    results.clear()
    del y
    assert cuda._live() == (0, 0)


def test_results_outlive_a_plan(folder, gpu):
    """What shows pinned memory keeps it, and nothing else does."""
    cuda = gpu()
    engine = open_engine(folder / "tiny.plan")
    y = engine.run(*windows(2))
    engine.close()
    assert cuda._live() == (1, 0)
    assert np.isfinite(y).all()
    del y
    assert cuda._live() == (0, 0)


def test_without_graphs(folder, gpu):
    cuda = gpu()
    with open_engine(folder / "tiny.plan", graphs=False) as engine:
        engine.run(*windows(2))
        assert engine.captured == ()
    assert not [name for name, _ in cuda._calls if "Graph" in name]
    assert cuda._live() == (0, 0)


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "tensorrt_rtx"])
def test_what_cannot_be_captured(rtx, folder, tmp_path, gpu):
    """Graphs are given up where they are optional, and an error where they are demanded."""
    cuda = gpu(rtx=rtx, capturable=False)
    path = tmp_path / "tiny.plan"
    write_fake_plan(path, read_metadata(folder / "tiny.onnx"), "tensorrt_rtx" if rtx else "tensorrt")
    x, missing = windows(2)
    with open_engine(path) as engine:
        np.testing.assert_allclose(engine.run(x, missing), fake_gpu.network(x, missing), atol=1e-6)
        assert engine.captured == ()
    with pytest.raises(EngineError, match="no CUDA graph"):
        open_engine(path, graphs=True)
    assert cuda._live() == (0, 0)


def test_another_gpu(folder, gpu):
    """Every call, from whichever thread, comes with the engine's GPU current."""
    cuda = gpu(devices=2)
    with open_engine(folder / "tiny.plan", device=1, warm_up=False) as engine:
        for _ in range(2):
            thread = threading.Thread(target=engine.run, args=windows(2))
            thread.start()
            thread.join()
        engine.run(*windows(2))
    assert cuda._used_on == {1}


def test_a_plan_decides_the_largest_batch(folder, gpu):
    gpu()
    with open_engine(folder / "tiny.plan", max_batch=64, warm_up=False) as engine:
        assert engine.max_batch == 16


@pytest.mark.parametrize(
    ("behaviour", "options", "message"),
    [
        ({"status": fake_gpu.cudaError_t.cudaErrorInsufficientDriver}, {}, "needs an NVIDIA GPU and its driver"),
        ({"status": fake_gpu.cudaError_t.cudaErrorNoDevice}, {}, "needs an NVIDIA GPU"),
        ({"devices": 1}, {"device": 1}, r"there is no GPU 1 \(1 found\)"),
        ({"runs": False}, {}, "does not run here; does not fit"),
        ({"memory": 10_000}, {}, r"failed \(cudaErrorMemoryAllocation\)"),
        ({"memory": 100_000}, {}, r"failed \(cudaErrorMemoryAllocation\)"),
    ],
)
def test_what_a_machine_lacks(behaviour, options, message, folder, gpu):
    """One line, and nothing is left behind."""
    cuda = gpu(**behaviour)
    path = folder / "tiny.plan"
    with pytest.raises(EngineError, match=message) as error, open_engine(path, **options) as engine:
        engine.run(*windows(1))
    one_line(error, path)
    del error
    assert cuda._live() == (0, 0)


def test_a_plan_for_another_machine(folder, tmp_path, gpu):
    gpu(rtx=True, runs=False)
    path = tmp_path / "other.plan"
    changes = {"module_version": "0.9", "compute_capabilities": ("8.0", "12.0")}
    write_fake_plan(path, read_metadata(folder / "tiny.onnx"), "tensorrt_rtx", **changes)
    with pytest.raises(EngineError) as error:
        open_engine(path)
    message = one_line(error, path)
    assert "built for GPUs of compute capability 8.0, 12.0, this is 8.9" in message
    assert "built by tensorrt_rtx 0.9, installed is 1.0.0" in message
    assert "UNSUPPORTED_CC" in message


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("cuda.bindings.runtime", "needs cuda-python"),
        ("tensorrt", r"needs tensorrt \(pip install 'rtskel\[tensorrt\]'"),
    ],
)
def test_modules_that_are_not_installed(absent, message, folder, gpu, monkeypatch):
    gpu()
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(EngineError, match=message) as error:
        open_engine(folder / "tiny.plan")
    one_line(error, folder / "tiny.plan")


def test_a_runtime_that_fails_later(folder, gpu):
    """A failure while running is an EngineError, and closing the engine afterwards is quiet."""
    cuda = gpu()
    engine = open_engine(folder / "tiny.plan")
    cuda._refused.add("cudaGraphLaunch")
    with pytest.raises(EngineError, match="cudaGraphLaunch failed"):
        engine.run(*windows(1))
    cuda._refused.update(("cudaFree", "cudaStreamSynchronize", "cudaGraphExecDestroy"))
    cuda._refused.update(("cudaStreamDestroy", "cudaSetDevice"))
    engine.close()


def test_sizes_to_prepare_for():
    assert [buckets(n) for n in (1, 2, 3, 8, 9)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 9]]
    assert [buckets(n, 8) for n in (1, 2, 8, 9, 64, 65)] == [[1], [1, 2], [1, 8], [1, 8, 9], [1, 8, 64], [1, 8, 64, 65]]
    for most, growth in itertools.product(range(1, 70), (2, 4, 8)):
        sizes = buckets(most, growth)
        wanted = [min(size for size in sizes if size >= n) for n in range(1, most + 1)]
        assert [bucket(n, most, growth) for n in range(1, most + 1)] == wanted


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_")}


def test_the_stand_ins_have_no_name_of_their_own():
    """Every function, method and constant that the plan engine uses exists in the real modules."""
    cuda = pytest.importorskip("cuda.bindings.runtime")
    driver = pytest.importorskip("cuda.bindings.driver")
    real = pytest.importorskip("tensorrt_rtx")
    for fake, of in ((fake_gpu.FakeRuntime, cuda), (fake_gpu.FakeDriver, driver)):
        for name in public(fake):
            assert hasattr(of, name), name
    for member in fake_gpu.CUresult:
        assert int(getattr(driver.CUresult, member.name)) == int(member)
    for enumeration in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode", "cudaDeviceAttr"):
        for member in getattr(fake_gpu, enumeration):
            assert int(getattr(getattr(cuda, enumeration), member.name)) == int(member)
    module = fake_gpu.fake_tensorrt(None, rtx=True)
    for name in public(module):
        assert hasattr(real, name), name
    for name in ("DataType", "TensorIOMode", "ExecutionContextAllocationStrategy", "CudaGraphStrategy"):
        assert public_members(getattr(fake_gpu, name)) <= getattr(real, name).__members__.keys()
    for name in ("DynamicShapesKernelSpecializationStrategy", "EngineInvalidityDiagnostics"):
        assert public_members(getattr(fake_gpu, name)) <= getattr(real, name).__members__.keys()
    for fake, name in [
        (fake_gpu.RtxRuntime, "Runtime"),
        (fake_gpu.Runtime, "Runtime"),
        (fake_gpu.ICudaEngine, "ICudaEngine"),
        (fake_gpu.IExecutionContext, "IExecutionContext"),
        (fake_gpu.RtxExecutionContext, "IExecutionContext"),
        (fake_gpu.IRuntimeConfig, "IRuntimeConfig"),
        (fake_gpu.ILogger, "ILogger"),
    ]:
        for method in public(fake):
            assert hasattr(getattr(real, name), method), f"{name}.{method}"


def public_members(enumeration):
    return set(enumeration.__members__)


def test_the_real_runtime_takes_our_arguments(folder, gpu, without_a_gpu):
    """Every CUDA call of a plan engine's life, made on the real cuda-python where there is no driver: each must be
    refused for that, and not for its arguments' types.
    """
    real, cuda = without_a_gpu, gpu()
    with open_engine(folder / "tiny.plan") as engine:
        engine.run(*windows(3))
    kinds = {"stream": "cudaStream_t", "graph": "cudaGraph_t", "executable": "cudaGraphExec_t"}
    calls = {name: arguments for name, arguments in cuda._calls if name not in ("cudaGetErrorString",)}
    assert len(calls) >= 15
    for name, arguments in calls.items():
        status, *_ = getattr(real, name)(*[fake_gpu.genuine(value, real, kinds) for value in arguments])
        assert status.name in fake_gpu.REFUSED, name
