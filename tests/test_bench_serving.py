"""The benches of a running server: what they make of what they measure."""

import argparse
import itertools
import json
import sys

import latency
import numpy as np
import pytest
import throughput
import view
from measure.browser import NoBrowserError


def test_shares_are_of_their_own_round(monkeypatch):
    """The engine alone, then the server, three times: the median of three shares, and their spread."""
    alone, served = iter([100.0, 100.0, 50.0, 200.0]), iter([90.0, 50.0, 40.0])
    monkeypatch.setattr(throughput, "bare_engine", lambda engine, batches, *_: dict.fromkeys(batches, next(alone)))

    def run(engine, streams, people, frames):
        figures = {"frames_per_second": next(served), "wall_us": 1.0, "cpu_us": 1.0, "loop_us": 1.0, "poses_lost": 0}
        return {"streams": streams, "people": people, **figures}

    monkeypatch.setattr(throughput, "run", run)
    options = argparse.Namespace(streams=[1, 3], people=[16], frames=100, seconds=1.0, rounds=3)
    result = throughput.measure("null", options)
    assert [(found["streams"], found["people"]) for found in result["rounds"]] == [(1, 1)] * 3, (
        "3: under 40 frames each"
    )
    assert [found["share"] for found in result["rounds"]] == [0.9, 1.0, 0.2]
    assert result["alone_by_round"] == [100.0, 50.0, 200.0]
    assert "90.0% (20.0% to 100.0%)" in "\n".join(throughput.lines({"engines": [result]}))


def test_the_time_beyond_the_lookahead_is_split():
    """Frames of 10 ms: read 1 ms late, started 1 ms later, 3 ms in the engine, sent 1 ms later, there after 1 ms."""
    ms = 1_000_000
    rows = []
    for slot in range(6):
        due, last = 10 * slot * ms, 10 * min(slot + 2, 5) * ms
        times = (due + ms, last + 2 * ms, last + 5 * ms, last + 6 * ms, last + 7 * ms)
        rows.append((0, 2, slot, latency.Flag.FLUSHED * (slot > 3), due, *times))
    found = latency.split(np.array(rows), 2, 2, 1)
    assert {part: times.tolist() for part, times in found.items()} == {
        "total": [7.0] * 3, "transport": [2.0] * 3, "server": [2.0] * 3, "engine": [3.0] * 3, "around": [4.0] * 3,
    }  # fmt: skip


def test_what_would_saturate_is_left_out(monkeypatch, capsys):
    """Above half of what the engine does one at a time the relay with it; above half of all that it can do the case."""

    def run(engine, fps, streams, lookaheads, seconds):
        """One pose, of the first stream's frame 30, that took the next time of `rounds`."""
        assert (engine, list(lookaheads)) == ("null", [0])
        total = next(rounds) * 1_000_000
        return np.array([(0, 0, 30, 0, 0, 1, 2, 3, 4, total)]), 1

    rounds = itertools.cycle([3, 9, 4])  # of which all count
    monkeypatch.setattr(latency, "bare_engine", lambda *_: {1: 100.0, 16: 1000.0})
    monkeypatch.setattr(latency, "run", run)
    monkeypatch.setattr(latency, "run_relay", lambda engine, *_: np.array([1.0 if engine else 0.5]))
    options = ["--engine", "null", "--fps", "25", "--streams", "2,16,256", "--lookahead", "0"]
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["latency.py", *options, *more])
        latency.main()
    table, line = capsys.readouterr().out.rsplit("\n", 2)[:2]
    few, many = json.loads(line)["cases"]
    assert few["lookaheads"]["0"]["ms"]["total"]["n"] == 3
    assert (few["poses_lost"], few["frames_dropped"]) == (3 * 2 * 5 * 25 - 3, 3)
    assert few["added_ms"]["p50"] == pytest.approx(4.0 - 1.0)
    assert many["peers_ms"].keys() == {"relay"}
    assert "added_ms" not in many
    assert table.count("added to relay+engine") == 1
    assert "256 streams at 25 fps: left out" in table


def test_the_view_is_measured(monkeypatch, capsys):
    """A short run of everything: two people, one start, three viewers beside the page."""
    short = ["--people", "2", "--fps", "20", "--seconds", "0.5", "--rounds", "1", "--viewers", "3"]
    monkeypatch.setattr(sys, "argv", ["view.py", "--json", *short])
    try:
        with view.chromium():
            pass
    except NoBrowserError as error:
        pytest.skip(f"{error}: the view is not measured")
    assert view.main() == 0
    result = json.loads(capsys.readouterr().out)
    (start,) = result["start"]
    assert 0 < start["address_s"] < start["picture_s"]
    for case in ("alone", "crowd"):
        assert result[case]["poses_skipped"] == 0
        assert result[case]["added_ms"] is None or result[case]["added_ms"]["p50"] > 0  # None: a very busy machine
        assert 0 < result[case]["drawn_per_s"] <= result[case]["refreshes_per_s"] + 4
    assert 0.5 < result["crowd"]["least_share"] <= 1
    assert "2 people at 20 fps" in view.lines(result)[0]
