import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from rtskel.client import ServerBack, ServerGone
from rtskel.skeleton import UPPER_BODY_50
from rtskel.tools.collect import Beats
from rtskel.tools.watch import JsonLines, LiveTable, as_json
from rtskel.wire import Event, Flag, Heartbeat, StreamEnd
from tests.test_collect import MS, pose


def shown(table: LiveTable, now_ns: int = 0) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table.render(now_ns))
    return capture.get()


def beat(time_ns: int) -> Heartbeat:
    return Heartbeat(
        epoch=7,
        seq=1,
        time_ns=time_ns,
        interval_ns=1000 * MS,
        streams=2,
        frames_in=10,
        frames_out=20,
        counts={"late": 3, "malformed": 0},
        model="skeletor-123",
        skeleton="upper-body-50",
        lookaheads=(0, 4),
        loop_fps=50.0,
    )


def test_a_pose_in_json() -> None:
    message = pose(3, lookahead=4, flags=Flag.WARM_UP | Flag.INTERPOLATED, missing=np.arange(50) == 7)
    entry = json.loads(json.dumps(as_json(message, 290 * MS), allow_nan=False))
    assert (entry["kind"], entry["stream"], entry["lookahead"], entry["slot"], entry["seq"]) == (
        "pose",
        "cam",
        4,
        103,
        3,
    )
    assert entry["flags"] == ["warm_up", "interpolated"]
    assert entry["missing"] == [7]
    assert entry["latency_ms"] == pytest.approx(170)
    np.testing.assert_array_equal(np.array(entry["xyz"], np.float32), message.xyz)
    np.testing.assert_array_equal(np.array(entry["sigma"], np.float32), message.sigma)
    assert as_json(pose(3, source_clock="unix"), 0)["latency_ms"] is None


def test_other_messages_in_json() -> None:
    entry = as_json(Event("cam", "gap", 7, 12, 5, "30 slots", {"slots": 30}), 0)
    assert (entry["kind"], entry["event"], entry["seq"], entry["counts"]) == ("event", "gap", 12, {"slots": 30})
    assert as_json(beat(5), 0)["counts"] == {"late": 3, "malformed": 0}
    json.dumps(as_json(beat(5), 0))
    with pytest.raises(TypeError, match="StreamEnd"):
        as_json(StreamEnd("cam", 1, 2, 3, "monotonic"), 0)


def test_the_table_says_what_came() -> None:
    table = LiveTable("tcp://here:1")
    assert "waiting for a server at tcp://here:1" in shown(table)
    table.add(beat(0), 0)
    assert "skeletor-123" in shown(table)
    assert "late 3" in shown(table)
    assert "malformed" not in shown(table)
    assert "no sign of the server at tcp://here:1 for 4 s" in shown(table, 4000 * MS)
    for seq in range(10):
        missing = np.arange(50) < 5 if seq % 2 else np.zeros(50, bool)
        table.add(pose(seq, missing=missing, flags=Flag.INTERPOLATED if seq == 3 else Flag(0)), (seq * 40 + 12) * MS)
    table.lost({("cam", 0): 6, ("else", 0): 2})
    (row,) = (line.split() for line in shown(table).splitlines() if line.strip().startswith("cam"))
    assert row == ["cam", "0", "10", "25.0", "5.0%", "1", "6", "12.0", "12.0"]
    table.add(Event("cam", "end", 7, 10, 5, "idle"), 0)
    assert "cam: end (idle)" in shown(table)
    assert "ended" in shown(table)
    table.add(pose(11), 0)
    assert "ended" not in shown(table)


def test_the_table_fits_80_columns() -> None:
    table = LiveTable("tcp://127.0.0.1:5556")
    for seq in range(300):
        missing = np.arange(50) < 25
        message = pose(100_000 + seq, "camera-number-1", 12, missing=missing, flags=Flag.INTERPOLATED)
        table.add(message, (100_000 + seq) * 40 * MS + 1234 * MS)
    table._rows["camera-number-1", 12].poses = 1_234_567
    table.lost({("camera-number-1", 12): 12_345})
    table.add(Event("camera-number-1", "end", 7, 10, 5, "end"), 0)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table.render(0))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if "camera-number-1" in line and "1234567" in line]
    assert row[0:3] == ["camera-number-1", "12", "1234567"]
    assert row[-1] == "ended"
    assert "…" not in capture.get(), "nothing is cut"


def test_names_do_not_reach_the_terminal_as_they_are() -> None:
    table = LiveTable("tcp://here:1")
    table.add(replace(beat(0), model="\x1b[2Jmodel", counts={"\x1b]0;x\x07": 3}), 0)
    table.add(pose(0, "cam\x1b[31m"), 0)
    table.add(Event("c\x9b1m", "gap", 7, 1, 0, "two\nlines\x1b[H", {}), 0)
    text = shown(table)
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    for words in (r"\x1b[2Jmodel", r"cam\x1b[31m", r"c\x9b1m", r"two\nlines\x1b[H"):
        assert words in text


def test_many_streams_take_bounded_work() -> None:
    """Names without end: work and memory are those of the rows that are kept."""
    table = LiveTable("tcp://here:1")
    one = pose(0)
    for number in range(3 * LiveTable.MAX_ROWS):
        table.add(replace(one, stream=f"s{number}"), number)
        table.add(Event(f"s{number}", "end", 7, 1, 0, "end"), number)
    assert len(table._rows) == LiveTable.MAX_ROWS
    text = shown(table)
    last = 3 * LiveTable.MAX_ROWS - 1
    assert f"s{last} " in text
    assert text.count("ended") == LiveTable.SHOWN
    assert f"and {last + 1 - LiveTable.SHOWN} more rows" in text


def test_json_lines_name_the_joints_once(capsys) -> None:
    lines = JsonLines()
    for seq in range(3):
        lines.add(pose(seq), 0)
    lines.add(pose(3, skeleton="horse"), 0)
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["kind"] for entry in entries] == ["skeleton", "pose", "pose", "pose", "pose"]
    tree = UPPER_BODY_50
    assert entries[0] == {
        "kind": "skeleton",
        "skeleton": tree.id,
        "joints": list(tree.names),
        "parents": list(tree.parents),
    }
    assert (entries[1]["skeleton"], entries[1]["unit"]) == (tree.id, "unknown")


def test_a_server_that_goes_and_comes() -> None:
    changes = ServerGone(7, 3.04), ServerBack(8, True), ServerBack(8, False), ServerGone(None, 5.0)
    assert as_json(changes[0], 0) == {"kind": "server", "event": "gone", "epoch": 7, "silent_s": 3.04}
    assert as_json(changes[1], 0) == {"kind": "server", "event": "back", "epoch": 8, "restarted": True}
    table = LiveTable("tcp://here:1")
    for change in changes:
        table.add(change, 0)
    text = shown(table)
    assert "no sign of the server for 3 s" in text
    assert "a new server is there, its streams start afresh" in text
    assert "the server is back" in text
    assert "no server for 5 s" in text


def test_heartbeats_of_several_servers_are_added_up():
    def beat(epoch, **values):
        given = {"seq": 0, "time_ns": 0, "interval_ns": 10**9, "model": "m", "skeleton": "s", "lookaheads": (0,)}
        return Heartbeat(**given | {"epoch": epoch, "frames_in": 1, "frames_out": 2, "loop_fps": 5.0} | values)

    beats = Beats()
    assert beats.together(0) is None
    beats.add(beat(1, streams=3, counts={"late": 1}), 0)
    beats.add(beat(2, streams=4, counts={"late": 2, "missing": 1}), 10**9)
    beats.add(beat(1, streams=5, counts={"late": 1}), 2 * 10**9)
    both = beats.together(2 * 10**9)
    assert (both.epoch, both.streams, both.loop_fps, both.counts) == (1, 9, 10.0, {"late": 3, "missing": 1})
    assert beats.together(5 * 10**9).streams == 5, "the other one is silent"
    assert beats.together(90 * 10**9).streams == 5, "the newest, if all are"
    beats.add(ServerBack(3, restarted=True), 3 * 10**9)
    beats.add(beat(3, streams=1, counts={}), 3 * 10**9)
    assert beats.together(3 * 10**9).streams == 1
