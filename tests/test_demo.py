import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rtskel.formats import Recording, read, write
from rtskel.tools.demo import DemoConfig, Result, run
from rtskel.tools.demo.live import Arrival, Run
from rtskel.tools.demo.result import print_result, result_of
from rtskel.tools.demo.truth import Truth
from rtskel.training.score import held
from rtskel.training.synthesize import EstimatorErrors, estimator_errors, synthesize
from rtskel.wire import Flag
from tests.shared_data import shared_data
from tests.test_collect import pose


def result(lookaheads: tuple[int, ...], gain: float, spoil=lambda slots: slots) -> Result:
    """What the demo finds when the server takes away all but `gain` of the error, and `spoil`s the order of slots."""
    truth = synthesize(3, 25, 3)
    estimate = estimator_errors(truth, 3)
    raw, absent = np.zeros_like(truth.xyz), np.ones((75, 50), bool)
    raw[estimate.slots], absent[estimate.slots] = estimate.xyz, estimate.missing
    better = truth.xyz + gain * (held(raw, absent) - truth.xyz)
    run_ = Run({(0, lookahead): [] for lookahead in lookaheads}, model="m")
    for lookahead in lookaheads:
        for slot in spoil(list(range(estimate.slots[-1] + 1))):
            message = pose(slot, "truth", lookahead, source_seq=slot, xyz=better[slot], missing=absent[slot])
            if absent[slot].all():
                message = replace(message, flags=Flag.INTERPOLATED)
            run_.arrivals[0, lookahead].append(Arrival(message, None))
    return result_of(DemoConfig(lookaheads=lookaheads), [truth], [estimate], run_)


def test_help_on_every_row() -> None:
    found = result((0, 4), gain=0.5)
    assert found.helps
    assert len(found.rows) == 6
    for row in found.rows:
        assert row.after.mpjpe == pytest.approx(0.5 * row.before.mpjpe, rel=1e-3)
        assert row.after.mse == pytest.approx(0.25 * row.before.mse, rel=1e-3)
        assert row.after.acceleration == pytest.approx(0.5 * row.before.acceleration, rel=1e-3)
        assert 1 < row.before.mpjpe < 100, "millimetres"
    assert found.filled[0]["frames"] == found.dropped_frames
    assert found.filled[0]["joints"] == 50 * found.dropped_frames + found.missing_joints
    entry = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert entry["helps"] is True
    assert entry["errors"][0]["mpjpe"]["ratio"] == pytest.approx(0.5, rel=1e-3)
    assert "last showed" in entry["before"]


def test_no_help_is_named_row_by_row() -> None:
    found = result((4,), gain=1.01)
    assert not found.helps
    assert len(found.worse) == 3
    assert "lookahead 4, hands: mse, mpjpe, acceleration" in found.worse
    console = Console(width=140)
    with console.capture() as capture:
        print_result(console, found)
    assert "no help: lookahead 4, hands: mse, mpjpe, acceleration" in capture.get()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda slots: slots[:-2], "2 of 75 poses are missing, 0 repeated"),
        (lambda slots: [0, *slots], "0 of 75 poses are missing, 1 repeated"),
        (lambda slots: [1, 0, *slots[2:]], "out of order"),
    ],
)
def test_poses_must_come_exactly_once_and_in_order(spoil, words: str) -> None:
    found = result((0,), 0.5, spoil)
    assert not found.helps
    assert not found.worse
    (problem,) = found.problems
    assert words in problem
    assert found.to_json()["exactly_once"] is False


def test_joints_that_the_truth_lacks_do_not_count() -> None:
    truth = synthesize(2, 25, 3)
    gap = Recording(truth.xyz, 25, "gap", confidence=np.ones((50, 50)) * (np.arange(50) != 12))
    stream = Truth.of(gap, estimator_errors(gap, 1))
    assert stream.missing[:, 12].all()
    assert stream.xyz.shape == stream.raw.shape == (50, 50, 3)
    np.testing.assert_array_equal(stream.in_mm(stream.raw)[:, 12], stream.in_mm(stream.xyz)[:, 12])


def small(path: Path, seconds: float = 2.0) -> Path:
    write(path, [replace(synthesize(seconds, 25, seed), name=f"take {seed}") for seed in (1, 2)])
    return path


@pytest.mark.parametrize("as_json", [True, False])
def test_through_a_real_server_without_refinement(as_json: bool, tmp_path: Path, capsys) -> None:
    """The null engine leaves missing joints where they are, so nothing helps; but every pose comes, once."""
    path = small(tmp_path / "clean.npz")
    config = DemoConfig(recording=str(path), engine="null", lookaheads=(0, 4), speed=4, json=as_json)
    assert run(config) == 1
    out = capsys.readouterr().out
    if not as_json:
        assert "no help: lookahead 0, all" in out
        assert "Every pose" not in out
        return
    found = json.loads(out)
    assert found["exactly_once"], found["problems"]
    assert (found["streams"], found["frames"], found["model"], found["fps"]) == (2, 100, "null", 100)
    assert [entry["lookahead"] for entry in found["errors"]] == [0, 0, 0, 4, 4, 4]
    for lookahead in ("0", "4"):
        assert found["filled"][lookahead]["joints"] >= found["missing_joints"]
        parts = found["latency_ms"][lookahead]
        assert set(parts) == {"total", "lookahead", "queue", "engine", "transport"}
        assert all(part["p50"] <= part["p99"] for part in parts.values())
    assert found["latency_ms"]["4"]["lookahead"]["p50"] == pytest.approx(40, abs=0.1)


def test_the_bundled_engine_helps_on_the_bundled_recording(capsys) -> None:
    assert run(DemoConfig(json=True, speed=2)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["helps"]
    assert found["frames"] == 300


def test_phoenix(tmp_path: Path, capsys) -> None:
    write(tmp_path / "dev.skels", read(shared_data("phoenix14t/dev.skels"))[:1])
    assert run(DemoConfig(recording=str(tmp_path / "dev.skels"), engine="null", json=True, speed=2)) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["exactly_once"], found["problems"]
    assert 5 < found["errors"][0]["mpjpe"]["before"] < 60


def test_estimator_errors_of_the_demo_are_a_mixture() -> None:
    errors = EstimatorErrors()
    assert errors.hand_lost > 0
    assert errors.frame_dropped > 0
