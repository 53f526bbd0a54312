"""Rings on the GPU: the law over the very kernels, compiled for the host, and the whole sequence around them on the
stand-ins of `fake_gpu`.
"""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from rtskel import native
from rtskel.engine import device_ring as device
from rtskel.engine import open_engine
from rtskel.errors import EngineError
from rtskel.refine import Put, Refined, Refiner, RefinerBank, refine
from rtskel.refine.ring import EngineRing, native_ring
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER
from tests import contract, fake_gpu
from tests.oracles.ring import NumpyRing
from tests.test_serve import Reader, publisher, serving

WINDOW, JOINTS = 12, 50
FIELDS = ("stream", "slot", "lookahead", "xyz", "sigma", "confidence", "windows", "flags")


@pytest.fixture
def opened(gpu_with_kernels, tmp_path):
    """Opens a plan that only the stand-ins run, with rings on the GPU or without."""
    engines = []

    def open_it(rings=True, *, window=WINDOW, max_batch=6, selects=True, install=True, **options):
        if install:
            open_it.cuda = gpu_with_kernels(rtx=options.pop("rtx", False), **options.pop("behaviour", {}))
        plan = fake_gpu.fake_plan(window, JOINTS, 16, selects)
        module = "tensorrt_rtx" if hasattr(sys.modules.get("tensorrt_rtx"), "_cuda") else "tensorrt"
        fake_gpu.write_fake_plan(tmp_path / "tiny.plan", fake_gpu.fake_metadata(window, JOINTS), module, plan)
        engine = open_engine(tmp_path / "tiny.plan", max_batch=max_batch, rings=rings, **options)
        engines.append(engine)
        return engine

    yield open_it
    for engine in engines:
        engine.close()


def same(got, want):
    """Bit for bit, but for the last bit of numbers that other sums lead to."""
    for name in FIELDS:
        mine, theirs = getattr(got, name), getattr(want, name)
        if name in ("xyz", "sigma"):
            np.testing.assert_allclose(mine, theirs, rtol=3e-7, atol=1e-7, err_msg=name)
        else:
            assert (mine == theirs).all(), name


def test_arguments_are_laid_out_as_the_kernels_read_them(kernels):
    from ctypes import sizeof

    assert sizeof(device.RingArguments) == kernels.rtskel_sizes(0)
    assert sizeof(device.StepArguments) == kernels.rtskel_sizes(1)
    source = fake_gpu.KERNELS.read_text()
    for structure, arguments in (("Ring", device.RingArguments), ("Step", device.StepArguments)):
        body = source.split(f"struct {structure} {{")[1].split("};")[0]
        text = " ".join(line.split("//")[0] for line in body.splitlines())
        names = [name.split()[-1].strip("* ") for part in text.split(";") for name in part.split(",") if name.strip()]
        assert names == [name for name, *_ in arguments._fields_]


@pytest.mark.parametrize("check", contract.ALL, ids=lambda check: check.__name__)
def test_the_law(check, opened):
    engine = opened()
    assert isinstance(RefinerBank(engine)._ring, EngineRing)
    options = {"radii": range(0, 6, 5)} if check is contract.lengths_radii_lookaheads else {}
    check(engine, native_ring, 1e-5, **options)


@pytest.mark.parametrize("selects", [True, False])
@pytest.mark.parametrize("rtx", [False, True])
def test_the_same_as_the_numpy_twin(selects, rtx, opened):
    """Streams with missing joints, frames and necks, bodies of odd sizes, through both, step by step."""
    ours = opened(selects=selects, rtx=rtx)
    theirs = opened(False, selects=selects, install=False)
    options = {"lookahead": (0, 4, 9), "radius": 2, "streams": 5, "ahead": 40, "min_confidence": 0.3}
    banks = [RefinerBank(ours, **options), RefinerBank(theirs, ring=NumpyRing, **options)]
    clips = [contract.sequence(60, seed=s, missing=0.3, unit=10.0 ** (s - 2), place=s) for s in range(5)]
    clips[1][1][:, [NECK]] = 0
    clips[2][1][:, [NECK, RIGHT_SHOULDER, LEFT_SHOULDER]] = 0
    clips[3][1][:, :8] = 0
    clips[4][0][20:40, LEFT_SHOULDER] *= 40
    clips[0][0][25:29, 30], clips[0][1][25:29, 30] = 1e4, 1
    clips[4][0][30:34, 7, 2], clips[4][1][30:34, 7] = np.inf, 1
    rng = np.random.default_rng(0)
    order = sorted((slot + rng.uniform(0, 6), s, slot) for s in range(5) for slot in range(60) if rng.uniform() > 0.1)
    for number, (_, s, slot) in enumerate(order):
        xyz, confidence = clips[s]
        put = [bank.put(s, slot, xyz[slot, None], confidence[slot, None])[0] for bank in banks]
        assert put[0] == put[1]
        if number % 7 == 0:
            for bank in banks:
                bank.settle(s, max(0, slot - 3))
        if number % 3 == 0:
            same(*[bank.step(4) for bank in banks])
        if number == 150:
            for bank in banks:
                bank.reset([1, 2])
        if number % 41 == 40:
            same(*[bank.skip([0, 3]) for bank in banks])
        for name in ("watermark", "newest", "next_window", "ended", "pending"):
            assert np.array_equal(*[getattr(bank, name) for bank in banks]), name
    for bank in banks:
        bank.end(range(5))
    same(*[contract.drain(bank) for bank in banks])
    assert banks[0].drained.all()


@pytest.mark.parametrize(("hop", "seed"), [(1, 0), (1, 1), (3, 2)])
def test_the_books_are_those_of_the_specification(hop, seed, opened):
    """Whatever is put, settled, ended, skipped and reset in whatever order, with groups, and with more frames at once
    than wait for a step.
    """
    streams, options = 7, {"lookahead": (4, 0), "radius": 1, "ahead": 30, "hop": hop}
    ours, theirs = opened(), opened(False, install=False)
    banks = [
        RefinerBank(ours, streams=streams, **options),
        RefinerBank(theirs, streams=streams, ring=NumpyRing, **options),
    ]
    clips = [contract.sequence(200, seed=s, missing=0.2) for s in range(streams)]
    rng = np.random.default_rng(seed)
    for bank in banks:
        bank.group[:] = rng.permutation(streams) % 3 if bank is banks[0] else banks[0].group
    given = rows = 0
    for _ in range(60):
        of = rng.integers(0, streams, int(rng.choice([0, 3, 20, 150])))
        slots = np.maximum(0, banks[1].next_window[of] + rng.integers(-8, 33, len(of)))
        xyz, sure = (np.array([clips[s][k][j % 200] for s, j in zip(of, slots, strict=True)]) for k in range(2))
        shape = (len(of), JOINTS)
        put = [bank.put(of, slots, xyz.reshape(*shape, 3), sure.reshape(shape)) for bank in banks]
        assert (put[0] == put[1]).all()
        given += (put[0] == Put.TAKEN).sum()
        one, some = rng.integers(0, streams, 1), rng.permutation(streams)[:2]
        event = rng.integers(0, 12)
        for bank in banks:
            bank.settle(one, banks[1].newest[one] - 2)
            if event == 0:
                bank.reset(some)
            if event == 1:
                bank.end(one)
        if event == 2:
            alive = some[~banks[1].ended[some]]
            same(*[bank.skip(alive) for bank in banks])
        room = int(rng.integers(1, 9))
        out = [bank.step(room) for bank in banks]
        same(*out)
        rows += len(out[0])
        for name in ("watermark", "newest", "next_window", "ended", "drained", "pending"):
            assert np.array_equal(*[getattr(bank, name) for bank in banks]), name
    assert given > 500
    assert rows > 100


def test_as_many_calls_for_many_streams_as_for_one(opened):
    """Nothing in Python is done once for every frame, window or pose."""
    package = str(Path(device.__file__).parents[1])

    def profile(frame, event, _):
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(package):
            names.append((event, frame.f_code.co_name))

    def calls(streams):
        bank = RefinerBank(engine, lookahead=(0, 4), streams=streams)
        of, xyz = np.arange(streams), np.stack([clip] * streams, 1)
        for slot in range(12):
            slots, frames = np.full(streams, slot), xyz[slot]
            if slot == 11:
                names.clear()
                sys.setprofile(profile)
            try:
                bank.put(of, slots, frames)
                out = bank.step()
            finally:
                sys.setprofile(None)
        assert len(out) == 2 * streams
        return list(names)

    names = []
    clip = contract.sequence(12, missing=0)[0]
    engine = opened(max_batch=6)
    alone = calls(1)
    assert ("call", "submit") in alone
    assert len(alone) < 100
    assert alone == calls(2) == calls(6)


def test_passing_through(opened):
    """Where nothing ran, the frame as it came, missing joints at the neck; of nothing, the last that was seen."""
    options = {"lookahead": 0, "radius": 0, "ahead": 40}
    banks = [
        RefinerBank(opened(), **options),
        RefinerBank(opened(False, install=False), ring=NumpyRing, **options),
    ]
    xyz, confidence = contract.sequence(30, seed=3, missing=0.4)
    for bank in banks:
        bank.put(np.zeros(30, int), np.arange(30), xyz, confidence)
    out = [bank.skip(0) for bank in banks]
    assert len(out[0]) == 29
    assert (out[0].flags & 8).all()
    same(*out)
    same(*[contract.drain(bank) for bank in banks])


def test_two_steps_in_flight(opened):
    """The second is packed and launched before the first is taken; the same comes out, and a third must wait."""
    engine = opened()
    want = RefinerBank(opened(False, install=False), lookahead=(0, 4), streams=3, ring=NumpyRing)
    bank = RefinerBank(engine, lookahead=(0, 4), streams=3)
    ring = bank._ring
    clips = [contract.sequence(40, seed=s) for s in range(3)]
    parts, expected = [], []
    for slot in range(40):
        for each in (bank, want):
            each.put(range(3), [slot] * 3, np.stack([c[0][slot] for c in clips]), np.stack([c[1][slot] for c in clips]))
        assert ring.submit(6)
        expected.append(want.step())
        if slot % 2:
            with pytest.raises(ValueError, match="two steps are in flight"):
                ring.submit(6)
            parts += [ring.collect(), ring.collect()]
    with pytest.raises(ValueError, match="no step is in flight"):
        ring.collect()
    same(Refined.concatenate(parts), Refined.concatenate(expected))


def test_one_graph_a_step_and_only_frames_travel(opened):
    """What a step asks of CUDA: one launch, one event; up go frames, not windows."""
    engine = opened(max_batch=4)
    cuda = opened.cuda
    bank = RefinerBank(engine, lookahead=4)
    xyz, confidence = contract.sequence(20, seed=1)
    for slot in range(20):
        bank.put(0, slot, xyz[slot, None], confidence[slot, None])
        cuda._calls.clear()
        bank.step()
        names = [name for name, _ in cuda._calls]
        assert names == ["cudaSetDevice", "cudaGraphLaunch", "cudaEventRecord", "cudaEventSynchronize"]
    (_, count), _, (_, results) = bank._ring._buckets[1]._blocks
    assert count < WINDOW * JOINTS * 12 / 1.5  # less than its window, though every array begins at 256 bytes
    assert results < 2000


def test_without_graphs(opened):
    engine = opened(graphs=False)
    xyz, confidence = contract.sequence(30, seed=2)
    got = refine(xyz, engine=engine, confidence=confidence)
    assert not [name for name, _ in opened.cuda._calls if "Graph" in name]
    want = refine(xyz, engine=opened(False, install=False), confidence=confidence, ring=NumpyRing)
    np.testing.assert_allclose(got, want, rtol=3e-7, atol=1e-7)


def test_all_is_given_back(opened):
    """A forgotten ring's memory with the next ring, the rest when the engine closes; a closed engine says so."""
    engine = opened(max_batch=2)
    cuda = opened.cuda
    refiner = Refiner(engine, lookahead=2)
    refiner.push(np.zeros((5, JOINTS, 3), np.float32))
    del refiner
    gc.collect()
    before = cuda._live()
    for _ in range(5):
        Refiner(engine, lookahead=2).push(np.zeros((5, JOINTS, 3), np.float32))
        gc.collect()
    assert cuda._live() == before
    bank = RefinerBank(engine)
    bank.put(0, 0, np.zeros((1, JOINTS, 3), np.float32))
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        bank.step()
    del bank
    gc.collect()
    assert cuda._live() == (0, 0)


def test_a_step_that_fails_changes_nothing(opened):
    engine = opened()
    cuda = opened.cuda
    bank = RefinerBank(engine, lookahead=0)
    xyz, confidence = contract.sequence(2, seed=5)
    assert bank.put(0, 0, xyz[:1], confidence[:1])[0] == Put.TAKEN
    cuda._refused.add("cudaGraphLaunch")
    with pytest.raises(EngineError, match="cudaGraphLaunch failed"):
        bank.step()
    cuda._refused.clear()
    assert bank.pending == 1
    assert len(bank.step()) == 1


def test_what_is_let_go_while_a_graph_is_captured_is_freed_behind_it(opened):
    engine = opened(warm_up=False)
    cuda, frees = opened.cuda, []
    bank, end = RefinerBank(engine, lookahead=0), cuda.cudaStreamEndCapture
    staging = [bank._ring._aside.staging[0]]

    def ending(stream):
        staging.clear()  # as when the collector finds an old ring just now
        frees.append(sum(name == "cudaFreeHost" for name, _ in cuda._calls))
        return end(stream)

    del bank
    gc.collect()
    cuda.cudaStreamEndCapture = ending
    before = sum(name == "cudaFreeHost" for name, _ in cuda._calls)
    engine.slot(2, 1)
    assert frees == [before]
    assert sum(name == "cudaFreeHost" for name, _ in cuda._calls) == before + 2


def test_a_server_uses_them(opened):
    xyz = contract.sequence(40, missing=0)[0]
    want = refine(xyz, engine=opened(rings=False), lookahead=4)
    with serving(opened(), config={"lookaheads": (4,)}) as server, Reader(server) as reader:
        assert server._table.bank.on_device
        with publisher(server) as sender:
            for n in range(40):
                sender.send(xyz[n], seq=n, block=True)
            sender.end()
            reader.until_ended()
        poses = reader.select("a", 4)
        assert [pose.seq for pose in poses] == list(range(40))
        np.testing.assert_allclose([pose.xyz for pose in poses], want, atol=1e-5)
        assert all(pose.receive_ns <= pose.infer_start_ns <= pose.infer_end_ns <= pose.publish_ns for pose in poses)


def test_a_server_whose_gpu_fails_says_so_and_ends(opened):
    def one_frame():
        with serving(opened()) as server, publisher(server) as sender:
            opened.cuda._refused.add("cudaGraphLaunch")
            sender.send(contract.sequence(1)[0][0], seq=0)

    with pytest.raises(AssertionError, match="cudaGraphLaunch failed"):
        one_frame()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"behaviour": {"memory": 300_000}}, "cudaErrorMemoryAllocation"), ({"window": 250}, "too long for rings")],
)
def test_what_does_not_fit(options, message, opened):
    engine = opened(max_batch=2, warm_up=False, **options)
    with pytest.raises(EngineError, match=message) as error:
        RefinerBank(engine)
    assert "\n" not in str(error.value)
    engine.close()
    del error
    gc.collect()
    assert opened.cuda._live() == (0, 0)


def test_built_without_nvcc(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    with pytest.raises(EngineError, match="built where no nvcc was found"):
        device.compiled()


def test_the_real_modules_take_our_arguments(opened, without_a_gpu):
    """Every call that plans without rings do not make, on the real cuda-python where there is no driver: each must fail
    for that, and not for its arguments' types.
    """
    real_driver = pytest.importorskip("cuda.bindings.driver")
    engine = opened()
    driver = sys.modules["cuda.bindings.driver"]
    refine(contract.sequence(20)[0], engine=engine)
    engine.close()
    kinds = {"stream": "cudaStream_t", "graph": "cudaGraph_t", "executable": "cudaGraphExec_t", "event": "cudaEvent_t"}
    driver_kinds = {"library": "CUlibrary", "kernel": "CUfunction", "stream": "CUstream"}

    ours = {
        "cudaEventCreateWithFlags",
        "cudaEventRecord",
        "cudaEventSynchronize",
        "cudaEventDestroy",
        "cudaMemsetAsync",
    }
    calls = {name: arguments for name, arguments in opened.cuda._calls if name in ours}
    assert calls.keys() == ours
    for name, arguments in calls.items():
        given = [fake_gpu.genuine(value, without_a_gpu, kinds) for value in arguments]
        status, *_ = getattr(without_a_gpu, name)(*given)
        assert status.name in fake_gpu.REFUSED, name
    calls = dict(driver._calls)
    assert calls.keys() == {"cuLibraryLoadData", "cuLibraryGetKernel", "cuLaunchKernel", "cuLibraryUnload"}
    for name, arguments in calls.items():
        given = [fake_gpu.genuine(value, real_driver, driver_kinds) for value in arguments]
        try:
            status, *_ = getattr(real_driver, name)(*given)
            assert int(status)
        except RuntimeError as error:  # there is no driver to load
            assert "driver" in str(error), name  # noqa: PT017
