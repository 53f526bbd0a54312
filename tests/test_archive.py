"""Archives: what is found, the same bytes by any number of workers, and nothing lost or done twice after a kill."""

import fcntl
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from rtskel.archive import Convert, Item, Job, Lift, Refine, find, run
from rtskel.cli import main
from rtskel.errors import RtskelError
from rtskel.formats import read, write
from rtskel.manifest import MANIFEST
from rtskel.training.synthesize import estimator_errors, synthesize


def take(name, seconds=1.2, seed=0):
    return replace(estimator_errors(synthesize(seconds, 25.0, seed), seed), name=name)


@pytest.fixture
def takes(tmp_path):
    """A folder with six recordings, two of them in a subfolder."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for k in range(6):
        write(folder / ("deep" if k > 3 else "") / f"take{k}.npz", take(f"take{k}", 1.0 + 0.2 * k, k))
    return folder


def entries(out):
    """The manifest's lines after the first."""
    return [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()][1:]


def results(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.npz"))}


@dataclass(frozen=True)
class Deadly:
    """A task that kills its process over one recording."""

    name: str

    def opened(self):
        return nullcontext(lambda recording: os._exit(7) if recording.name == self.name else recording)

    def identity(self):
        return {"task": "deadly"}

    def side_by_side(self):
        return 1

    def resources(self):
        return {"num_cpus": 1.0}


# What is found


def test_folders_files_and_patterns(takes, tmp_path):
    out = tmp_path / "out"
    names = [f"take{k}.npz" for k in range(4)] + ["deep/take4.npz", "deep/take5.npz"]
    (takes / ".hidden.npz").touch()
    (takes / "README.md").touch()
    assert sorted(str(item.result) for item in find([takes], out)) == sorted(names)
    assert [str(item.result) for item in find([takes / "take1.npz"], out, ".csv")] == ["take1.csv"]
    assert [str(item.result) for item in find([f"{takes}/**/take[45].npz"], out)] == [
        "deep/take4.npz",
        "deep/take5.npz",
    ]
    both = find([takes / "deep", takes / "take0.npz", takes / "deep" / "take4.npz"], out)
    assert [str(item.result) for item in both] == ["deep/take4.npz", "deep/take5.npz", "take0.npz", "take4.npz"]
    run(Job(Convert(), takes / "done"), find([takes], takes / "done"))
    assert sorted(str(item.result) for item in find([takes], takes / "done")) == sorted(names), "results are no input"


def test_a_folder_of_openposes_is_one_recording(tmp_path):
    for clip in ("clip.1", "clip.2"):
        (tmp_path / "in" / clip).mkdir(parents=True)
        for k in range(3):
            (tmp_path / "in" / clip / f"v_{k:012d}_keypoints.json").write_text('{"people": []}')
    assert [str(item.result) for item in find([tmp_path / "in"], tmp_path)] == ["clip.1.npz", "clip.2.npz"]
    (item,) = find([tmp_path / "in" / "clip.1"], tmp_path)
    assert (item.source, str(item.result)) == (tmp_path / "in" / "clip.1", "clip.1.npz")
    assert item.stamp()[0] == 3


def test_what_cannot_be_found_is_named(takes, tmp_path):
    with pytest.raises(RtskelError, match=r"nowhere: No such file"):
        find([tmp_path / "nowhere"], tmp_path)
    with pytest.raises(RtskelError, match=r"\*\.bvh: no recordings"):
        find([f"{takes}/*.bvh"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RtskelError, match=r"empty: no recordings \(.*\.npz"):
        find([tmp_path / "empty"], tmp_path)
    write(takes / "take0.csv", take("a"))
    with pytest.raises(RtskelError, match=r"take0.npz and .*take0.csv would both become take0.npz"):
        find([takes], tmp_path)


# What is done


def test_any_number_of_workers_gives_the_same_bytes(takes, tmp_path):
    """With the released weights: their rounding depends on how windows are split among threads, not on workers."""
    made = {}
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        summary = run(Job(Refine(lookahead=4), out), find([takes], out), workers=workers)
        assert (summary.done, summary.before, summary.failed) == (6, 0, [])
        made[workers] = results(out)
    assert made[1] == made[2]
    assert (
        main(["refine", str(takes / "take2.npz"), str(tmp_path / "one.npz"), "--lookahead", "4", "--threads", "1"]) == 0
    )
    assert made[1]["take2.npz"] == (tmp_path / "one.npz").read_bytes()
    assert [entry["frames"] for entry in entries(tmp_path / "out2") if entry["result"] == "take0.npz"] == [25]


def test_what_fails_fails_alone_and_is_tried_again(takes, tmp_path):
    out = tmp_path / "out"
    (takes / "take3.npz").write_bytes(b"PK broken")
    job = Job(Refine("null"), out)
    for workers in (1, 2):
        summary = run(job, find([takes], out), workers=workers)
        assert [str(outcome.item.result) for outcome in summary.failed] == ["take3.npz"]
        assert "take3.npz" in summary.failed[0].error
    assert summary.before == 5
    write(takes / "take3.npz", take("take3"))
    assert run(job, find([takes], out)).done == 1
    status = [(entry["result"], entry["status"]) for entry in entries(out)]
    assert sorted(result for result, how in status if how == "done") == sorted(results(out))
    assert [how for result, how in status if result == "take3.npz"] == ["failed", "failed", "done"]
    write(takes / "take3.npz", take("take3", seed=9))
    (out / "take1.npz").unlink()
    assert run(job, find([takes], out)).done == 2, "one changed, one lost its result"


def test_a_recording_that_kills_its_worker_fails_alone(takes, tmp_path):
    out = tmp_path / "out"
    summary = run(Job(Deadly("take2"), out), find([takes], out), workers=2)
    assert (summary.done, len(summary.failed)) == (5, 1)
    assert str(summary.failed[0].item.result) == "take2.npz"
    assert "ended with status 7" in summary.failed[0].error


def test_killed_and_continued_nothing_is_lost_or_done_twice(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for k in range(40):
        write(folder / f"t{k:02d}.npz", take("t", 1.0, k % 4))
    command = [sys.executable, "-P", "-m", "rtskel.cli", "refine", str(folder), "--out", str(out), "--engine", "null"]
    process = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not (out / MANIFEST).exists() or len(entries_so_far(out)) < 8:
            assert process.poll() is None or len(entries_so_far(out)) == 40
    finally:
        process.kill()
        process.wait()
    with (out / MANIFEST).open("ab") as file:  # as if a line had been cut short
        file.write(b'{"result": "t0')
    (out / ".t39.npz.123.part").write_bytes(b"left by a killed worker")
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, timeout=250, check=True)
    assert "done before" in done.stderr
    finished = [entry["result"] for entry in entries(out)]
    assert sorted(finished) == [f"t{k:02d}.npz" for k in range(40)]
    assert not list(out.glob(".*"))
    straight = tmp_path / "straight"
    run(Job(Refine("null"), straight), find([folder], straight))
    assert results(out) == results(straight)


def entries_so_far(out):
    return (out / MANIFEST).read_bytes().split(b"\n")[1:-1]


def test_another_job_is_refused(takes, tmp_path):
    out = tmp_path / "out"
    run(Job(Refine("null"), out), find([takes], out))
    with pytest.raises(RtskelError, match=r"another job \(radius 2, now 1\): choose another folder"):
        run(Job(Refine("null", radius=1), out), find([takes], out))
    with pytest.raises(RtskelError, match="another job"):
        run(Job(Refine("null"), out, {"unit": "mm"}), find([takes], out))
    with (out / MANIFEST).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RtskelError, match="another run is writing there"):
            run(Job(Refine("null"), out), find([takes], out))
    (out / MANIFEST).write_text("notes\n")
    with pytest.raises(RtskelError, match="line 1 is not a manifest's"):
        run(Job(Refine("null"), out), find([takes], out))


@pytest.mark.parametrize("workers", [1, 2])
def test_options_out_of_range_are_refused_before_anything_is_read(takes, tmp_path, workers):
    out = tmp_path / "out"
    with pytest.raises(RtskelError, match="radius"):
        run(Job(Refine("null", radius=99), out), find([takes], out), workers=workers)
    with pytest.raises(RtskelError, match="txt"):
        run(Job(Refine("null"), out), find([takes], out, ".txt"), workers=workers)
    assert entries(out) == []


def test_lift_and_convert(tmp_path):
    flat = take("flat")
    flat = replace(flat, xyz=flat.xyz * np.float32([1, 1, 0]), dims=2)
    write(tmp_path / "flat.npz", flat)
    write(tmp_path / "two.npz", [take("a"), take("b", seed=1)])
    run(Job(Lift(), tmp_path / "lifted"), [Item(tmp_path / "flat.npz", Path("flat.npz"))])
    assert read(tmp_path / "lifted" / "flat.npz")[0].dims == 3
    run(Job(Convert(("b",)), tmp_path / "b"), [Item(tmp_path / "two.npz", Path("two.csv"))])
    assert [recording.name for recording in read(tmp_path / "b" / "two.csv")] == ["b"]
    summary = run(Job(Convert(("c",)), tmp_path / "c"), [Item(tmp_path / "two.npz", Path("two.csv"))])
    assert "no recordings to write" in summary.failed[0].error


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_bytes(takes, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it would write a token into the home folder
    monkeypatch.chdir(tmp_path)  # actors import from the current folder first
    pytest.importorskip("ray.data", reason="the extra `ray` is not installed")
    (takes / "take3.npz").write_bytes(b"PK broken")
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    run(Job(Refine("null", lookahead=4), alone), find([takes], alone))
    summary = run(Job(Refine("null", lookahead=4), cluster), find([takes], cluster), workers=2, ray="local")
    assert (summary.done, len(summary.failed)) == (5, 1)
    assert results(cluster) == results(alone)
    again = run(Job(Refine("null", lookahead=4), cluster), find([takes], cluster), workers=2, ray="local")
    assert (again.done, again.before, len(again.failed)) == (0, 5, 1)


def test_without_ray_its_extra_is_named(takes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RtskelError, match=r"pip install 'rtskel\[ray\]'"):
        run(Job(Convert(), tmp_path / "out"), find([takes], tmp_path / "out"), ray="local")


# The command line


def test_command_line(takes, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "list.txt").write_text(f"{takes / 'take1.npz'}\n\n{takes / 'deep'}\n")
    refine = ["refine", "--engine", "null", "--list", str(tmp_path / "list.txt"), "--out", str(out), "--workers", "1"]
    assert main(refine) == 0
    assert f"{out}: 3 recordings done" in capsys.readouterr().err
    assert main(refine) == 0
    assert "0 recordings done, 3 done before" in capsys.readouterr().err
    (takes / "take0.npz").write_text("nonsense")
    assert main(["convert", str(takes), "--out", str(tmp_path / "csv"), "--to", "csv", "--workers", "2"]) == 1
    err = capsys.readouterr().err
    assert "take0.npz" in err
    assert "5 recordings done, 1 failed (see" in err
    assert sorted(path.name for path in (tmp_path / "csv").rglob("*.csv")) == [f"take{k}.csv" for k in range(1, 6)]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["refine", "a.npz", "b.npz", "c.npz"], ["IN and OUT", "--out DIR"]),
        (["lift", "a.npz", "b.npz", "--workers", "2"], ["--workers", "--out DIR"]),
        (["convert", "--out", "done"], ["no recordings given"]),
        (["convert", "--out", "done", "--list", "none.txt"], ["none.txt", "cannot be read"]),
        (["refine", "none.npz", "--out", "done"], ["none.npz", "No such file"]),
        (["refine", "none.npz", "--out", "done", "--workers", "0"], ["--workers", "1 or more"]),
    ],
)
def test_wrong_use_is_one_line(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
