"""What the command line says about the files that it reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from rtskel.cli import main
from rtskel.formats import Recording, read, write
from tests import person
from tests.person import pixels


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    """A folder of OpenPose's in which a hidden file lies, and the last one is not finished."""
    folder = person.openpose_folder(tmp_path / "op", ([person.openpose(pixels(n / 25))] for n in range(6)))
    (folder / "._clip_000000000000_keypoints.json").write_bytes(b"\0\5\x16\7")
    (folder / "clip_000000000005_keypoints.json").write_text("")
    return folder


def test_info_shows_what_was_dropped(doubtful: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(doubtful), "--fps", "25"]) == 0
    shown = capsys.readouterr()
    assert "note: hidden files skipped: 1" in shown.out
    assert "note: unfinished last file skipped: clip_000000000005_keypoints.json" in shown.out
    assert shown.err == ""
    assert main(["info", str(doubtful), "--fps", "25", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [words.partition(":")[0] for words in facts["notes"]] == [
        "hidden files skipped",
        "unfinished last file skipped",
    ]


def test_other_commands_say_it_on_stderr(doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(doubtful), str(tmp_path / "out.npz"), "--fps", "25"]) == 0
    assert f"rtskel: {doubtful}: hidden files skipped: 1" in capsys.readouterr().err
    assert read(tmp_path / "out.npz")[0].frames == 5


@pytest.mark.parametrize("command", ["info", "convert"])
def test_strict_refuses(doubtful: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = [str(tmp_path / "out.npz")] if command == "convert" else []
    assert main([command, str(doubtful), *out, "--fps", "25", "--strict"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "hidden files skipped" in error
    assert not (tmp_path / "out.npz").exists()


def test_info_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = Recording(np.stack([person.joints(n / 25) for n in range(8)]), 25, "a")
    for suffix in ("trc", "npy", "bvh"):
        write(tmp_path / f"a.{suffix}", original)
    assert main(["info", str(tmp_path / "a.trc"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"][0]["frames"] == 8
    assert main(["info", str(tmp_path / "a.npy"), "--unit", "mm", "--axes", "RAU", "--fps", "25", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"][0]["frames"] == 8
    assert main(["info", str(tmp_path / "a.bvh"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["frames"], facts["fps"], facts["seconds"]) == ("bvh", 8, 25.0, 0.32)
    assert main(["info", str(tmp_path / "a.bvh")]) == 0
    assert "fps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["none.npy", "none.bvh", "none.trc", "none.c3d", "none.npz", "none.json"])
def test_info_of_a_file_that_is_not_there(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error == f"rtskel: error: {tmp_path / name}: No such file or directory\n"


def test_info_of_half_a_bvh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("", "HIERARCHY\nROOT a\n", "HIERARCHY\nROOT a\nMOTION\nFrames: 3\nFrame Time: 0\n"):
        (tmp_path / "a.bvh").write_text(content)
        assert main(["info", str(tmp_path / "a.bvh")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
