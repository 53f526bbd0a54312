"""The command line, mostly in process. What needs a server, and separate processes, is at the end."""

import ctypes.util
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtskel
from rtskel.cli import main
from rtskel.cli.output import undelivered
from rtskel.client import Subscriber
from rtskel.engine import NullEngine
from rtskel.errors import RtskelError
from rtskel.formats import read, write
from rtskel.recordings import lift_recording
from rtskel.tools.replay import ReplayConfig, schedule
from rtskel.training.synthesize import estimator_errors, synthesize
from rtskel.wire import Event, RefinedPose


@pytest.fixture
def take(tmp_path: Path) -> Path:
    path = tmp_path / "take.npz"
    truth = synthesize(2, 25, 1)
    write(
        path, [replace(estimator_errors(truth, 1), name="one"), replace(truth, name="two", axes="RUA", mirrored=True)]
    )
    return path


def failed(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that an error is."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rtskel: error: ")
    assert err.count("\n") == 1
    return err


# Help, and mistakes


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    commands = ["demo", "serve", "publish", "subscribe", "estimate", "refine", "draw", "info", "export", "build"]
    for name in [*commands, "keygen", "train"]:
        assert f"\n    {name} " in text
    assert "rtskel serve --lookahead 0,4" in text


@pytest.mark.parametrize(
    "name", ["demo", "serve", "publish", "subscribe", "estimate", "refine", "draw", "info", "export", "build", "keygen"]
)
def test_each_command_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main([name, "--help"])
    assert leave.value.code == 0
    assert f"rtskel {name}" in capsys.readouterr().out.partition("example")[2]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"rtskel {rtskel.__version__}\n"


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "rtskel demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["dance"], ["dance", "rtskel --help"]),
        (["refine", "a.npz"], ["OUT", "rtskel refine --help"]),
        (["refine", "none.npz", "out.npz"], ["none.npz", "No such file"]),
        (["refine", "a.bvh", "out.npz"], [".bvh"]),
        (["refine", "a.npz", "b.npz", "--lookahead", "-1"], ["--lookahead", "'-1'"]),
        (["refine", "a.npz", "b.npz", "--lookahead", "some"], ["'some'", "offline"]),
        (["publish", "none.skels"], ["none.skels"]),
        (["publish", "none.skels", "--speed", "fast"], ["--speed", "fast"]),
        (["subscribe", "--lookahead", "0,x"], ["'0,x'"]),
        (["subscribe", "--frames", "0"], ["--frames"]),
        (["subscribe", "--save", "out.txt"], ["out.txt", ".npz, .csv, .jsonl, .bvh"]),
        (["subscribe", "--save", "no/such/out.npz"], ["no/such/out.npz", "there is no folder no/such"]),
        (["subscribe", "--save", ""], ["--save needs the name of a file"]),
        (["subscribe", "--stream", "a b"], ["'a b'"]),
        (["subscribe", "--keys", "nowhere"], ["nowhere"]),
        (["info", "none.onnx"], ["none.onnx"]),
        (["info", "photo.jpg"], ["photo.jpg"]),
        (["build", "none.onnx", "-o", "a.plan"], ["none.onnx"]),
        (["build", "none.onnx"], ["-o"]),
        (["serve", "--engine", "none.onnx"], ["none.onnx"]),
        (["serve", "--lookahead", "4,-1"], ["4,-1"]),
        (["serve", "--engine", "null", "--lift", "--lift-lookahead", "-1"], ["--lift-lookahead", "-1"]),
        (["demo", "--recording", "none.skels"], ["none.skels"]),
    ],
)
def test_mistakes_are_one_line(argv: list[str], words: list[str], capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = failed(capsys)
    for word in words:
        assert word in error


def test_a_package_that_is_absent_is_named(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "rtskel.engine.onnx_export", raising=False)
    monkeypatch.delitem(sys.modules, "rtskel.model", raising=False)
    assert main(["export", "a.safetensors", "-o", "b.onnx"]) == 2
    assert "pip install 'rtskel[train]'" in failed(capsys)


def test_text_from_elsewhere_is_escaped(tmp_path: Path, capsys) -> None:
    hostile = replace(synthesize(1, 25, 1), name="\x1b]0;pwned\x07\x1b[2Jcam", unit="\x1b[31mm\u202e")
    write(tmp_path / "a.npz", hostile)
    assert main(["info", str(tmp_path / "a.npz")]) == 0
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "a.npz"), "--stream", "\x1b[2J"]) == 2
    assert main(["info", str(tmp_path / "\x1b[2J\n.npz")]) == 2
    assert main(["\x1b[2J"]) == 2
    out, err = capsys.readouterr()
    assert r"\x1b]0;pwned\x07\x1b[2Jcam" in out
    assert r"\x1b[31mm\u202e" in out
    assert err.count("\n") == 3
    assert not {"\x1b", "\x07", "\u202e"} & set(out + err)


def test_names_that_the_output_cannot_encode(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", replace(synthesize(1, 25, 1), name="Größe"))
    done = rtskel_process("info", str(tmp_path / "a.npz"), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert r"Gr\xf6\xdfe" in done.stdout


def test_completion(capsys, tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        for word in ("subscribe", "until-end", "bf16"):
            assert word in script
    assert main(["completion", "bash"]) == 0
    (tmp_path / "rtskel.bash").write_text(capsys.readouterr().out)
    asked = [["ser"], ["serve", "--gpu"], ["serve", "--precision", ""], ["refine", "x"]]
    ask = "; ".join(
        f"COMP_WORDS=(rtskel {shlex.join(words)}); COMP_CWORD={len(words)}; _rtskel; echo ${{COMPREPLY[@]}}"
        for words in asked
    )
    done = subprocess.run(
        ["bash", "-c", f". {tmp_path}/rtskel.bash; {ask}"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["serve", "--gpu --gpu-rings", "fp32 bf16 int8", ""]


def test_python_m_rtskel() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "rtskel", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"rtskel {rtskel.__version__}\n"


def test_the_librarys_warnings_are_notes(take: Path, capsys, monkeypatch) -> None:
    def read_with_warning(*_: object, **__: object) -> list:
        logging.getLogger("rtskel.formats").warning("%s: \x1b[2J doubtful", take)
        raise RtskelError("and wrong")

    monkeypatch.setattr("rtskel.formats.read", read_with_warning)
    assert main(["info", str(take)]) == 2
    assert capsys.readouterr().err == f"rtskel: {take}: \\x1b[2J doubtful\nrtskel: error: and wrong\n"


# Files


def test_refine_is_the_library_on_files(take: Path, tmp_path: Path) -> None:
    for lookahead in ("0", "4", "offline"):
        out = tmp_path / f"out-{lookahead}.npz"
        assert main(["refine", str(take), str(out), "--engine", "null", "--lookahead", lookahead]) == 0
        with NullEngine() as engine:
            for before, after in zip(read(take), read(out), strict=True):
                xyz = np.zeros((before.slots[-1] + 1, 50, 3), np.float32)
                confidence = np.zeros(xyz.shape[:2], np.float32)
                xyz[before.slots], confidence[before.slots] = before.canonical(), before.confidence
                expected = rtskel.refine(
                    xyz,
                    confidence=confidence,
                    engine=engine,
                    lookahead=None if lookahead == "offline" else int(lookahead),
                )
                np.testing.assert_allclose(after.canonical(), expected, atol=1e-6)
                np.testing.assert_array_equal(after.confidence, confidence)
                assert after.slots.tolist() == list(range(len(xyz)))
                assert (after.name, after.fps, after.axes, after.mirrored, after.unit) == (
                    before.name,
                    before.fps,
                    before.axes,
                    before.mirrored,
                    before.unit,
                )
                assert after.lookahead == (18 if lookahead == "offline" else int(lookahead))
                assert after.sigma is not None
                assert after.windows is not None


def test_refine_writes_skels_without_holes(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.skels"
    assert main(["refine", str(take), str(out), "--engine", "null", "--radius", "0"]) == 0
    assert [recording.name for recording in read(out)] == ["one", "two"]
    assert [recording.frames for recording in read(out)] == [50, 50]


@pytest.mark.parametrize(
    ("options", "word"), [(["--radius", "99"], "radius"), (["--min-confidence", "2"], "--min-confidence")]
)
def test_refine_out_of_range(options: list[str], word: str, take: Path, tmp_path: Path, capsys) -> None:
    assert main(["refine", str(take), str(tmp_path / "out.npz"), "--engine", "null", *options]) == 2
    assert word in failed(capsys)


def test_reading_options_reach_the_reader(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    options = ["--fps", "50", "--axes", "RDA", "--mirrored", "--swap-sides"]
    assert main(["refine", str(take), str(out), "--engine", "null", *options]) == 0
    assert {(r.fps, r.axes, r.mirrored) for r in read(out)} == {(50, "RDA", True)}


def openpose_folder(folder: Path) -> Path:
    """Two frames of one person as OpenPose writes them."""
    folder.mkdir()
    for number in range(2):
        person = {"pose_keypoints_2d": [float(k + number) if k % 3 < 2 else 0.5 for k in range(75)]}
        (folder / f"{number:04}_keypoints.json").write_text(json.dumps({"people": [person]}))
    return folder


def test_convert(take: Path, tmp_path: Path, capsys) -> None:
    for suffix in (".csv", ".jsonl", ".npz"):
        assert main(["convert", str(take), str(tmp_path / f"x{suffix}")]) == 0
        for original, again in zip(read(take), read(tmp_path / f"x{suffix}"), strict=True):
            np.testing.assert_array_equal(original.xyz, again.xyz)
            assert (original.name, original.axes, original.unit) == (again.name, again.axes, again.unit)
    assert main(["convert", str(take), str(tmp_path / "one.bvh"), "--stream", "one"]) == 0
    assert (tmp_path / "one.bvh").read_text().startswith("HIERARCHY")
    capsys.readouterr()
    assert main(["convert", str(take), str(tmp_path / "all.bvh")]) == 2
    assert "choose one" in failed(capsys)
    assert main(["convert", str(take), str(tmp_path / "x.npz"), "--stream", "three"]) == 2
    assert "'three'" in failed(capsys)


def test_convert_asks_for_what_a_format_cannot_say(tmp_path: Path, capsys) -> None:
    folder, out = openpose_folder(tmp_path / "take"), tmp_path / "out.npz"
    assert main(["convert", str(folder), str(out)]) == 2
    assert "--fps" in failed(capsys)
    options = ["--fps", "24", "--image-size", "1280x720", "--swap-sides", "--mirrored", "--format", "openpose"]
    assert main(["convert", str(folder), str(out), *options]) == 0
    (recording,) = read(out)
    assert (recording.fps, recording.image_size, recording.dims, recording.mirrored) == (24, (1280, 720), 2, True)
    assert main(["convert", str(out), str(out), "--unit", "cm"]) == 0
    assert read(out)[0].unit == "cm"
    assert main(["info", str(folder), "--fps", "24", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["recordings"][0]
    assert (facts["dims"], facts["image_size"], facts["fps"]) == (2, None, 24)
    assert main(["convert", str(folder), str(out), "--image-size", "1280"]) == 2
    assert "--image-size" in failed(capsys)
    assert main(["convert", str(folder), str(out), "--fps", "24", "--depth-scale", "3"]) == 2
    assert "MediaPipe" in failed(capsys)


def test_2d_is_not_refined(tmp_path: Path, capsys) -> None:
    folder = openpose_folder(tmp_path / "take")
    assert main(["refine", str(folder), str(tmp_path / "out.npz"), "--fps", "24"]) == 2
    assert "is 2D" in failed(capsys)


def test_info_of_a_recording(take: Path, capsys) -> None:
    assert main(["info", str(take), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "recording"
    one, two = facts["recordings"]
    assert (one["name"], one["joints"], one["fps"]) == ("one", 50, 25)
    assert one["dropped"] > 0
    assert one["missing"] > 0
    assert (two["frames"], two["axes"], two["mirrored"], two["sides_look_swapped"]) == (50, "RUA", True, True)
    assert main(["info", str(take)]) == 0
    text = capsys.readouterr().out
    assert "RUA, mirrored" in text
    assert "--swap-sides" in text


def test_keygen(tmp_path: Path, capsys) -> None:
    assert main(["keygen", str(tmp_path / "keys"), "--client", "cam1"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "keys" / "server"), str(tmp_path / "keys" / "cam1")]
    assert main(["keygen", str(tmp_path / "keys"), "--client", "cam1"]) == 2
    assert "cam1" in failed(capsys)


def test_from_weights_to_a_plan(tmp_path: Path, capsys) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    pytest.importorskip("tensorrt_rtx")
    from rtskel.engine.weights import save_weights
    from rtskel.model import Skeletor
    from tests.test_build import TINY

    weights, onnx, plan = (str(tmp_path / f"tiny.{suffix}") for suffix in ("safetensors", "onnx", "plan"))
    save_weights(Skeletor(TINY), weights, name="tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns about PyTorch
        assert main(["export", weights, "-o", onnx, "--precision", "bf16"]) == 0
    assert main(["build", onnx, "-o", plan, "--gpu", "sm89,12.0", "--max-batch", "4"]) == 0
    assert "8.9, 12.0" in capsys.readouterr().out
    for path, kind in ((weights, "safetensors"), (onnx, "onnx"), (plan, "plan")):
        assert main(["info", path, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["kind"], facts["window"], facts["joints"]) == (kind, TINY.window, 50)
        assert facts["model_id"].startswith("tiny-")
        assert main(["info", path]) == 0
        assert facts["weights_hash"] in capsys.readouterr().out.replace("\n", "")
    if ctypes.util.find_library("cuda") is None:
        assert main(["serve", "--engine", plan]) == 2
        assert "tiny.plan" in failed(capsys)


# The process


def rtskel_process(*argv: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-m", "rtskel.cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_a_reader_that_goes_away(take: Path) -> None:
    script = f'"{sys.executable}" -P -m rtskel.cli info "{take}" --json | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() in ("0", "141")  # 0 where it was all written before
    assert done.stderr == ""


# With a server


@dataclass
class Served:
    raw: str
    refined: str
    process: subprocess.Popen


@contextmanager
def serving(*options: str) -> Iterator[Served]:
    """A server in a process of its own. It waits long for late frames, so that a slow machine changes nothing."""
    command = [sys.executable, "-P", "-m", "rtskel.cli", "serve", "--json", "--engine", "null", "--slack-ms", "2000"]
    command += ["--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield Served(ready["raw"], ready["refined"], process)
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


@dataclass
class Subscribing:
    process: subprocess.Popen
    entries: list[dict] = field(default_factory=list)
    errors: str = ""

    def until(self, kind: str) -> None:
        while not self.entries or self.entries[-1]["kind"] != kind:
            self.entries.append(json.loads(self.process.stdout.readline()))


@contextmanager
def subscribing(server: Served, *options: str, status: int = 0) -> Iterator[Subscribing]:
    """A subscriber in a process of its own, from when it receives everything; waits at the end until it has ended."""
    command = [sys.executable, "-P", "-m", "rtskel.cli", "subscribe", "--refined", server.refined, "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        watch = Subscribing(process)
        try:
            watch.until("heartbeat")
            yield watch
            watch.entries += [json.loads(line) for line in process.stdout]  # communicate() forgets what readline() read
            watch.errors = process.stderr.read()
            process.wait(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status, watch.errors


def test_what_is_published_is_refined_and_saved(take: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.npz"
    with serving("--lookahead", "0,4") as server, subscribing(server, "--save", str(out), "--until-end") as watch:
        argv = ["publish", str(take), "--raw", server.raw, "--drop", "0.2", "--speed", "8", "--seed", "5"]
        assert main(argv) == 0
    saved = {(recording.name, recording.lookahead): recording for recording in read(out)}
    recordings = read(take)
    assert set(saved) == {("one", 0), ("one", 4), ("two", 0), ("two", 4)}
    items = schedule(recordings, ReplayConfig(drop=0.2, speed=8, seed=5))
    for number, recording in enumerate(recordings):
        xyz = np.zeros((recording.slots[-1] + 1, 50, 3), np.float32)
        confidence = np.zeros(xyz.shape[:2], np.float32)
        for row in (item.row for item in items if item.recording == number and item.row >= 0):
            slot = recording.slots[row]
            xyz[slot], confidence[slot] = recording.canonical()[row], recording.confidence[row]
        seen = int(
            confidence.any(axis=1).argmax()
        )  # before it nothing is known without lookahead, so nothing is published
        for lookahead, first in (0, seen), (4, 0):
            got = saved[recording.name, lookahead]
            assert got.slots.tolist() == list(range(first, len(xyz)))
            with NullEngine() as engine:
                expected = rtskel.refine(xyz, confidence=confidence, engine=engine, lookahead=lookahead)
            np.testing.assert_allclose(got.canonical(), expected[first:], atol=1e-5)
            np.testing.assert_array_equal(got.confidence, confidence[first:])
            assert (got.axes, got.mirrored) == (recording.axes, recording.mirrored)
            assert got.fps == 200
    poses = sum(len(recording.slots) for recording in saved.values())
    assert f"{poses} poses of 2 streams saved" in watch.errors


def test_what_a_recording_says_of_its_poses_comes_back(tmp_path: Path) -> None:
    truth = synthesize(1, 25, 1)
    rng = np.random.default_rng(0)
    times = 10**18 + np.cumsum(rng.integers(30, 50, truth.frames)) * 1_000_000
    told = replace(truth, xyz=truth.xyz * 1000, unit="mm", axes="RDA", name="ann", person="Ann", time_ns=times)
    told = replace(told, image_size=(1280, 720), view="left")
    flat = replace(truth, xyz=truth.xyz * np.float32([300, 300, 0]), dims=2, unit="px", name="ben", person="Ben")
    flat = replace(flat, image_size=(640, 480))
    write(tmp_path / "take.npz", [told, flat, replace(truth, name="who", unit="unknown")])
    for suffix in (".npz", ".jsonl"):
        out = tmp_path / f"out{suffix}"
        options = ["--lookahead", "0", "--lift", "--lift-lookahead", "0"]
        with serving(*options) as server, subscribing(server, "--save", str(out), "--until-end") as watch:
            argv = ["publish", str(tmp_path / "take.npz"), "--raw", server.raw, "--speed", "inf", "--together"]
            assert main(argv) == 0
        saved = {recording.name: recording for recording in read(out)}
        ann, ben, who = saved["ann"], saved["ben"], saved["who"]
        assert (ann.unit, ann.person, ann.view, ann.image_size) == ("mm", "Ann", "left", (1280, 720))
        assert (ben.unit, ben.person, ben.view, ben.image_size) == ("px", "Ben", None, (640, 480))
        assert (who.unit, who.person, who.view, who.image_size) == ("unknown", None, None, None)
        assert ann.time_ns is not None
        assert ann.time_ns.tolist() == times.tolist()
        np.testing.assert_allclose(ann.xyz, told.xyz, atol=0.01)  # the engine changes nothing
        line = next(entry for entry in watch.entries if entry.get("stream") == "ann" and entry["kind"] == "pose")
        assert (line["unit"], line["person"], line["view"]) == ("mm", "Ann", "left")
        assert (line["image_width"], line["image_height"], line["clock"]) == (1280, 720, "recorded")
        lines = tmp_path / "lines.jsonl"
        lines.write_text("".join(json.dumps(entry) + "\n" for entry in watch.entries if entry["kind"] == "pose"))
        again = {recording.name: recording for recording in read(lines)}["ann"]
        assert (again.unit, again.person, again.view, again.image_size) == ("mm", "Ann", "left", (1280, 720))


def test_json_lines_and_a_limit(take: Path) -> None:
    options = ["--frames", "60", "--stream", "cam-1,cam-2"]
    with serving("--lookahead", "0") as server, subscribing(server, *options) as watch:
        argv = ["publish", str(take), "--raw", server.raw, "--speed", "inf", "--together", "--stream", "cam"]
        assert main(argv) == 0
    poses = [entry for entry in watch.entries if entry["kind"] == "pose"]
    assert len(poses) == 60
    assert {entry["stream"] for entry in poses} <= {"cam-1", "cam-2"}
    assert all(len(entry["xyz"]) == 50 for entry in poses)
    assert {"start"} <= {entry["event"] for entry in watch.entries if entry["kind"] == "event"}


def test_2d_is_lifted_live_as_offline(take: Path, tmp_path: Path) -> None:
    one = read(take)[0]
    flat = replace(one, xyz=one.xyz * np.float32([300, 300, 0]), unit="px", dims=2)
    write(tmp_path / "flat.npz", flat)
    options = ["--lift", "--lift-lookahead", "3", "--lookahead", "0"]
    out = tmp_path / "out.npz"
    with serving(*options) as server, subscribing(server, "--save", str(out), "--until-end"):
        assert main(["publish", str(tmp_path / "flat.npz"), "--raw", server.raw, "--speed", "inf"]) == 0
    offline = lift_recording(flat, lookahead=3)
    (live,) = read(out)
    there = ~live.missing
    assert live.slots.tolist() == list(range(50))
    assert np.array_equal(live.missing[offline.slots], offline.missing)
    assert np.abs(live.xyz[offline.slots] - offline.xyz)[there[offline.slots]].max() < 0.01


def test_what_a_format_cannot_hold_is_said_before_and_nothing_is_lost(take: Path, tmp_path: Path, capsys) -> None:
    from rtskel.tools.collect import save

    options = ["--save", str(tmp_path / "out.skels"), "--until-end"]
    with serving("--lookahead", "0,4") as server, subscribing(server, *options) as watch:
        assert main(["publish", str(take), "--raw", server.raw, "--speed", "inf"]) == 0
    assert "out.skels will not hold frame rate" in watch.errors
    for name in ("out.L0.skels", "out.L4.skels"):
        assert str(tmp_path / name) in watch.errors
        assert sum(recording.frames for recording in read(tmp_path / name)) == 100
    # What the format refuses at the end is not lost either.
    unseen = replace(read(tmp_path / "out.L0.skels")[0], confidence=np.zeros((50, 50), np.float32))
    with pytest.raises(RtskelError, match=r"no shoulders.*all is in .*out\.bvh\.npz instead"):
        save([unseen], str(tmp_path / "out.bvh"))
    assert read(tmp_path / "out.bvh.npz")[0].frames == 50


def test_ctrl_c_saves_what_came(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    with serving() as server:
        with subscribing(server, "--save", str(out), status=130) as watch:
            argv = ["publish", str(take), "--raw", server.raw, "--speed", "20", "--loop", "--stream", "cam"]
            with subprocess.Popen([sys.executable, "-P", "-m", "rtskel.cli", *argv]) as publisher:
                watch.until("pose")
                watch.process.send_signal(signal.SIGINT)
                publisher.terminate()
        assert publisher.returncode == 143
    assert read(out)[0].frames > 0


def test_ctrl_c_ends_published_streams(take: Path, tmp_path: Path) -> None:
    with serving("--lookahead", "4") as server, Subscriber(server.refined) as subscriber:
        subscriber.wait_for_server(timeout=60)
        command = [sys.executable, "-P", "-m", "rtskel.cli", "publish", str(take)]
        command += ["--raw", server.raw, "--stream", "cam"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as publisher:
            wait_for(subscriber, RefinedPose)
            publisher.send_signal(signal.SIGINT)
            _, errors = publisher.communicate(timeout=60)
        assert publisher.returncode == 130, errors
        assert errors == ""
        while wait_for(subscriber, Event).kind != "end":
            pass


def wait_for(subscriber: Subscriber, kind: type) -> Any:
    while True:
        message = subscriber.recv(timeout=60)
        if isinstance(message, kind):
            return message


def test_nobody_takes_what_is_published(take: Path, capsys) -> None:
    argv = ["publish", str(take), "--raw", "tcp://127.0.0.1:9", "--wait", "0.1"]
    assert main(argv) == 2
    assert "tcp://127.0.0.1:9 within 0.1 s" in failed(capsys)


def test_what_a_command_waits_for_is_said(take: Path) -> None:
    """Off a terminal, too; and it ends when told to."""
    for argv, words in (
        (["publish", str(take)], "no server takes raw poses of stream 'one' at tcp://127.0.0.1:9 yet"),
        (["subscribe", "--json"], "waiting for a server at tcp://127.0.0.1:9"),
    ):
        endpoint = ["--raw" if argv[0] == "publish" else "--refined", "tcp://127.0.0.1:9"]
        command = [sys.executable, "-P", "-m", "rtskel.cli", *argv, *endpoint]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                assert words in process.stderr.readline()
                process.terminate()
                assert process.wait(timeout=60) == 143
            finally:
                process.kill()


def test_until_end_does_not_wait_for_a_server_that_is_gone(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    command = [sys.executable, "-P", "-m", "rtskel.cli", "serve", "--json", "--engine", "null"]
    command += ["--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        server = Served(ready["raw"], ready["refined"], process)
        with subscribing(server, "--save", str(out), "--until-end", status=1) as watch:
            argv = ["publish", str(take), "--raw", server.raw, "--loop", "--stream", "cam"]
            with subprocess.Popen([sys.executable, "-P", "-m", "rtskel.cli", *argv]) as publisher:
                watch.until("pose")
                process.kill()
                watch.until("server")
                publisher.terminate()
    assert watch.entries[-1]["event"] == "gone"
    assert "is gone, and 1 streams had not ended" in watch.errors
    assert read(out)[0].frames > 0


def test_what_a_server_did_not_take_is_named() -> None:
    assert undelivered("tcp://x:1", 0, {}) == ""
    problem = undelivered("tcp://x:1", 3, {"cam": {"2D": 7, "late": 1}})
    assert problem == "the server at tcp://x:1: 3 messages did not reach it; it refused stream 'cam' (2D 7, late 1)"


def test_what_was_saved_outlives_a_kill(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    with serving() as server, subscribing(server, "--save", str(out), status=-signal.SIGKILL) as watch:
        argv = ["publish", str(take), "--raw", server.raw, "--speed", "20", "--loop", "--stream", "cam"]
        with subprocess.Popen([sys.executable, "-P", "-m", "rtskel.cli", *argv]) as publisher:
            part = tmp_path / "out.npz.part"
            while part.stat().st_size < 100_000:  # it grows while poses come
                watch.until("pose")
                watch.entries.append({"kind": ""})
            watch.process.kill()
            publisher.terminate()
    assert not out.exists()
    assert main(["convert", str(part), str(out)]) == 0
    assert sum(recording.frames for recording in read(out)) > 20


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP on this system")
def test_a_closed_terminal_saves_what_came(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    with serving() as server, subscribing(server, "--save", str(out), status=128 + signal.SIGHUP) as watch:
        argv = ["publish", str(take), "--raw", server.raw, "--speed", "20", "--loop", "--stream", "cam"]
        with subprocess.Popen([sys.executable, "-P", "-m", "rtskel.cli", *argv]) as publisher:
            watch.until("pose")
            watch.process.send_signal(signal.SIGHUP)
            publisher.terminate()
    assert read(out)[0].frames > 0


def test_a_port_in_use(capsys) -> None:
    with serving() as server:
        done = rtskel_process("serve", "--engine", "null", "--raw", server.raw, "--refined", server.refined)
        assert done.returncode == 2
        assert done.stderr.startswith("rtskel: error: ")
        assert server.raw in done.stderr
        assert done.stderr.count("\n") == 1


def test_other_machines_need_keys() -> None:
    done = rtskel_process("serve", "--engine", "null", "--raw", "tcp://0.0.0.0:*")
    assert done.returncode == 2
    assert "--insecure" in done.stderr


def test_keys(take: Path, tmp_path: Path) -> None:
    keys, out = tmp_path / "keys", tmp_path / "out.npz"
    assert main(["keygen", str(keys)]) == 0
    with serving("--keys", str(keys / "server")) as server:
        own = ["--keys", str(keys / "client")]
        with subscribing(server, "--save", str(out), "--frames", "50", *own):
            assert main(["publish", str(take), "--raw", server.raw, "--speed", "8", *own]) == 0
    assert read(out)[0].frames > 0
