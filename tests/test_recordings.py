"""Recordings, and arrays in any axes: every way gives the result of `rtskel refine` and `rtskel lift`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rtskel
from rtskel import Recording
from rtskel.cli import main
from rtskel.engine import Engine
from rtskel.formats import read, write
from rtskel.recordings import MAX_HELD
from rtskel.refine import Refined
from rtskel.training.evaluate import evaluate
from rtskel.training.score import CANONICAL_MM
from rtskel.training.synthesize import estimator_errors, synthesize

STEP_NS = 33_333_333


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with rtskel.open_engine() as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What MediaPipe delivers: in its axes (RDA), in cm, mirrored, with times, lost hands and dropped frames."""
    estimate = estimator_errors(synthesize(3, 25, 1), 1)
    assert estimate.dropped > 0
    raw = replace(
        estimate,
        xyz=rtskel.from_canonical(estimate.xyz * np.float32(100), "RDA", True),
        axes="RDA",
        mirrored=True,
        unit="cm",
        name="take",
        slot=estimate.slots,
        time_ns=estimate.slots * STEP_NS + 5 * 10**18,
        image_size=(1280, 720),
    )
    path = tmp_path_factory.mktemp("files") / "raw.npz"
    write(path, raw)
    return path


@pytest.fixture(scope="module")
def refined(file: Path) -> dict[int | None, Recording]:
    """What `rtskel refine` makes of the file, by lookahead."""
    done = {}
    for lookahead in (None, 4, 0):
        out = file.with_name(f"refined-{lookahead}.npz")
        option = "offline" if lookahead is None else str(lookahead)
        assert main(["refine", str(file), str(out), "--lookahead", option]) == 0
        (done[lookahead],) = read(out)
    return done


@pytest.mark.parametrize("lookahead", [None, 4])
def test_a_recording_gives_what_the_command_line_gives(file, refined, engine, lookahead) -> None:
    raw = rtskel.read(file)[0]
    smooth = rtskel.refine(raw, engine=engine, lookahead=lookahead)
    expected = refined[lookahead]
    np.testing.assert_allclose(smooth.xyz, expected.xyz, atol=1e-6 * 100)  # cm
    np.testing.assert_allclose(smooth.sigma, expected.sigma, atol=1e-6 * 100)
    for name in ("name", "fps", "axes", "mirrored", "unit", "image_size", "lookahead", "skeleton"):
        assert getattr(smooth, name) == getattr(expected, name), name
    assert (smooth.axes, smooth.mirrored, smooth.unit, smooth.image_size) == ("RDA", True, "cm", (1280, 720))
    assert smooth.time_ns.tolist() == [5 * 10**18 + slot * STEP_NS for slot in smooth.slots.tolist()], "to the ns"
    known = ~raw.by_slot(raw.missing) & raw.by_slot(np.ones(raw.frames, bool))[:, None]
    off = np.linalg.norm(smooth.xyz - raw.by_slot(raw.xyz), axis=-1)[known]
    assert np.median(off) < 3, "in the raw recording's own axes: within 3 cm of it"


def by_slot(raw: Recording) -> tuple[np.ndarray, np.ndarray]:
    return raw.by_slot(raw.xyz), raw.by_slot(raw.confidence)


def test_arrays_with_their_axes(file, refined, engine) -> None:
    raw = rtskel.read(file)[0]
    xyz, confidence = by_slot(raw)
    smooth = rtskel.refine(xyz, confidence=confidence, engine=engine, axes=raw.axes, mirrored=raw.mirrored)
    np.testing.assert_allclose(smooth, refined[None].xyz, atol=1e-6 * 100)
    canonical = rtskel.to_canonical(xyz, raw.axes, raw.mirrored)
    smooth = rtskel.refine(canonical, confidence=confidence, engine=engine)
    np.testing.assert_allclose(smooth, refined[None].canonical(), atol=1e-6 * 100)


def check(poses: Refined, refined: dict[int | None, Recording]) -> None:
    for lookahead in (0, 4):
        of = poses.select(lookahead=lookahead)
        assert of.slot.tolist() == refined[lookahead].slots.tolist()
        np.testing.assert_allclose(of.xyz, refined[lookahead].xyz, atol=1e-6 * 100)


def test_refiner_frame_by_frame(file, refined, engine) -> None:
    raw = rtskel.read(file)[0]
    refiner = rtskel.Refiner(engine, lookahead=(0, 4), axes=raw.axes, mirrored=raw.mirrored)
    for _ in range(2):  # fresh again after a flush
        poses = [refiner.push(*frame) for frame in zip(*by_slot(raw), strict=True)]
        check(Refined.concatenate([*poses, refiner.flush()]), refined)


@pytest.mark.parametrize("parts", [1, 3])
def test_refiner_takes_recordings(file, refined, engine, parts) -> None:
    raw = rtskel.read(file)[0]
    refiner = rtskel.Refiner(engine, lookahead=(0, 4))
    poses = []
    for rows in np.array_split(np.arange(raw.frames), parts):
        part = replace(
            raw, xyz=raw.xyz[rows], confidence=raw.confidence[rows], slot=raw.slots[rows], time_ns=raw.time_ns[rows]
        )
        poses.append(refiner.push(part))
    check(Refined.concatenate([*poses, refiner.flush()]), refined)


def test_refiner_refuses_what_would_be_wrong(file, engine) -> None:
    raw = rtskel.read(file)[0]
    refiner = rtskel.Refiner(engine, lookahead=0)
    refiner.push(raw)
    with pytest.raises(ValueError, match="slot 0 was pushed before"):
        refiner.push(raw)
    with pytest.raises(ValueError, match="'take' has axes RUA, mirrored, expected RDA, mirrored"):
        refiner.push(replace(raw, axes="RUA", slot=raw.slots + 1000))
    with pytest.raises(ValueError, match="its own confidence"):
        refiner.push(raw, raw.confidence)
    with pytest.raises(rtskel.RtskelError, match="'take' is 2D"):
        refiner.push(replace(raw, xyz=raw.xyz * np.float32([1, 1, 0]), dims=2))
    refiner.reset()
    assert len(refiner.push(replace(raw, axes="RUA"))) == raw.slots[-1] + 1
    with pytest.raises(ValueError, match="has axes RDA, mirrored, expected RUA"):
        rtskel.Refiner(engine, axes="RUA").push(raw)
    with pytest.raises(rtskel.RtskelError, match="axes 'XYZ'"):
        rtskel.Refiner(engine, axes="XYZ")


def test_bank(file, refined, engine) -> None:
    """A bank's arrays are canonical."""
    raw = rtskel.read(file)[0]
    bank = rtskel.RefinerBank(engine, lookahead=(0, 4), streams=2, ahead=200)
    bank.put(np.ones(raw.frames, int), raw.slots, raw.canonical(), raw.confidence)
    bank.end(1)
    poses = []
    while bank.pending:
        poses.append(bank.step())
    done = Refined.concatenate(poses)
    check(replace(done, xyz=rtskel.from_canonical(done.xyz, raw.axes, raw.mirrored)), refined)


def test_what_a_recording_states_is_not_stated_again(file, engine) -> None:
    raw = rtskel.read(file)[0]
    for options in ({"confidence": raw.confidence}, {"axes": "RDT"}, {"mirrored": True}):
        with pytest.raises(ValueError, match="recording 'take' has its own"):
            rtskel.refine(raw, engine=engine, **options)
    with pytest.raises(ValueError, match="fps: recording 'take' has its own"):
        rtskel.lift(raw, fps=30)
    with pytest.raises(rtskel.RtskelError, match="has depth already"):
        rtskel.lift(raw)
    with pytest.raises(ValueError, match=r"xyz has shape \(3, 50, 2\)"):
        rtskel.refine(np.zeros((3, 50, 2)), engine=engine)


def test_filled_in_frames_have_times_and_real_ones_keep_theirs(engine) -> None:
    truth = synthesize(1, 25, 2)
    rows = np.array([2, 3, 7, 8])
    times = np.array([1_000, 2_000, 10_000, 10_500]) * 10**6
    raw = replace(truth, xyz=truth.xyz[rows], confidence=truth.confidence[rows], slot=rows, time_ns=times)
    smooth = rtskel.refine(raw, engine=engine, lookahead=4)
    expected = [920, 960, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000, 10_500]
    assert smooth.time_ns.tolist() == [ms * 10**6 for ms in expected]


def test_evaluate_takes_recordings(engine) -> None:
    truth = synthesize(2, 25, 2)
    turned = replace(truth, xyz=rtskel.from_canonical(truth.xyz * np.float32(1000), "RUA"), axes="RUA", unit="mm")
    options = {"lookaheads": (0,), "conditions": ("joint_noise_0.5",)}
    by_array = evaluate([truth.canonical() * np.float32(1000 / CANONICAL_MM)], engine, **options)
    by_recording = evaluate([turned], engine, **options)
    assert [score.mse for score in by_recording] == pytest.approx([score.mse for score in by_array], rel=1e-3)
    with pytest.raises(rtskel.FormatError, match="'flat' is 2D"):
        evaluate([flat("RDT")], engine)


def flat(axes: str) -> Recording:
    truth = synthesize(1, 25, 2)
    xyz = rtskel.from_canonical(truth.xyz * np.float32([300, 300, 0]), axes)
    return replace(truth, xyz=xyz, axes=axes, unit="px", dims=2, name="flat")


def test_lift(tmp_path: Path) -> None:
    raw = flat("LUA")
    write(tmp_path / "flat.npz", raw)
    assert main(["lift", str(tmp_path / "flat.npz"), str(tmp_path / "lifted.npz")]) == 0
    (expected,) = read(tmp_path / "lifted.npz")
    lifted = rtskel.lift(rtskel.read(tmp_path / "flat.npz")[0])
    assert (lifted.dims, lifted.axes, lifted.unit, lifted.name) == (3, "LUA", "px", "flat")
    np.testing.assert_allclose(lifted.xyz, expected.xyz, atol=1e-6 * 300)
    arrays = rtskel.lift(raw.xyz[..., :2], raw.confidence, axes="LUA", fps=raw.fps)
    np.testing.assert_allclose(arrays.xyz, expected.xyz, atol=1e-3)
    canonical = rtskel.lift(raw.canonical()[..., :2], raw.confidence, fps=raw.fps)
    np.testing.assert_allclose(canonical.xyz, expected.canonical(), atol=1e-3)
    with pytest.raises(rtskel.RtskelError, match="lie in the image"):
        rtskel.lift(raw.xyz[..., :2], axes="TDR")


def test_no_body_at_the_origin_where_nobody_is_seen(engine, tmp_path) -> None:
    """The last pose is held, then slots are left out; nothing is written for the time before anybody came."""
    truth = synthesize(6, 25, 3)
    confidence = np.ones((150, 50), np.float32)
    confidence[:40] = confidence[60:140] = 0
    refined = rtskel.refine(replace(truth, confidence=confidence), engine=engine, lookahead=0)
    slots = refined.slots.tolist()
    assert slots[0] == 40
    assert set(slots[-10:]) == set(range(140, 150))
    held = (refined.flags & rtskel.Flag.HELD) > 0
    assert held.sum() == MAX_HELD
    gone = refined.slots[held][-1]
    assert not set(slots) & set(range(gone + 1, 140)), "after the held poses there are none"
    assert (np.abs(refined.xyz).max(axis=(1, 2)) > 0.1).all()
    assert (refined.xyz[held] == refined.xyz[held][0]).all()
    assert not refined.confidence[held].any()
    assert (np.diff(refined.sigma[held].mean(axis=1)) > 0).all()
    write(tmp_path / "out.npz", [refined])
    assert read(tmp_path / "out.npz")[0].slots.tolist() == slots
    with pytest.raises(rtskel.RtskelError, match="nobody is seen"):
        rtskel.refine(replace(truth, confidence=np.zeros((150, 50), np.float32)), engine=engine)
