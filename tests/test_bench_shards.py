"""The benches of shards and of the archive: what they make of what they measure, and that they run at all."""

import argparse
import os

import archive
import pytest
import shards
import soak


def test_a_hop_is_the_difference_to_one_server():
    rates = {
        "alone": [{"frames_per_second": 100.0, "cpu_us": us, "poses_lost": 0} for us in (10.0, 12.0, 11.0)],
        "2 shards": [{"frames_per_second": 180.0, "cpu_us": 11.5, "poses_lost": 0}] * 3,
        "broker": [{"frames_per_second": 90.0, "cpu_us": 16.0, "poses_lost": 1}] * 3,
    }
    times = {
        name: [{"ms": [ms] * 100, "poses_lost": 2}] * 3
        for name, ms in (("alone", 1.0), ("2 shards", 1.1), ("broker", 1.5))
    }
    result = shards.summary(rates, times)
    assert result["hop"] == pytest.approx({"CPU us/frame": 5.0, "p50 ms": 0.5, "p99 ms": 0.5})
    assert result["rows"]["alone"]["frames/s"] == 100
    assert result["rows"]["broker"]["lost"] == 3 + 6
    lines = shards.lines({"streams": 64, "cameras": 16, **result})
    assert lines[-1].split("broker")[1].split() == ["-", "5.00", "0.50", "0.50", "-"]


@pytest.mark.parametrize("arrangement", shards.ARRANGEMENTS)
def test_each_arrangement_loses_nothing(arrangement):
    found = shards.throughput(arrangement, 8, 400)
    assert found["poses_lost"] == 0
    assert found["frames_per_second"] > 0
    assert found["cpu_us"] > 0


def test_latency_is_that_of_all_poses_after_the_first_second():
    found = shards.latency("2 shards", 3, 1.4)
    assert found["poses_lost"] == 0
    assert len(found["ms"]) == 3 * 10


def test_shards_can_be_soaked():
    options = {"engine": "null", "minutes": 0.03, "warm_up": 0.0, "streams": 4, "slack": 5.0}
    found = soak.soak(argparse.Namespace(**options, every=0.5, shards=2))
    assert found["every slot once"]
    assert found["lost"] == 0
    assert found["samples"]


def test_what_a_killed_run_leaves_is_found(tmp_path, monkeypatch):
    """A result that was recorded twice, one that was made again, one that is absent, and a part that is left over."""
    out, entries = tmp_path / "out", []

    def run(*_, **__):
        (out / "a.npz").write_bytes(b"again")
        entries.append({"result": "b.npz", "status": "done"})

    class Process:
        pid = 0

        def __init__(self, *_, **__):
            out.mkdir()
            for name in ("a.npz", "b.npz", ".c.npz.1.part"):
                (out / name).write_bytes(b"first")
            os.utime(out / "a.npz", (0, 0))
            entries.extend({"result": f"{name}.npz", "status": "done"} for name in "ab")

        def poll(self):
            return None

        wait = poll

    monkeypatch.setattr(archive, "recorded", lambda _: list(entries))
    monkeypatch.setattr(archive.subprocess, "Popen", Process)
    monkeypatch.setattr(archive.subprocess, "run", run)
    monkeypatch.setattr(archive.os, "killpg", lambda *_: None)
    assert archive.killed_and_resumed([], out, 3) == {
        "recorded before the kill": 2,
        "recorded twice": 1,
        "made again": 1,
        "lost": 1,
        "left over": 1,
    }


def test_two_workers_make_what_one_makes(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "HOW", {name: how for name, how in archive.HOW.items() if "--ray" not in how})
    rows = archive.measure(12, tmp_path)
    assert rows["one process"]["other bytes"] == 0
    two = rows["2 workers"]
    assert [two[name] for name in ("other bytes", "recorded twice", "made again", "lost", "left over")] == [0] * 5
    assert rows["one process"]["ms a file"] > 0
