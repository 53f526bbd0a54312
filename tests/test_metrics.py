"""What a server tells its operators: metrics, health, the service manager; and options from a file."""

import json
import re
import socket
import tomllib
import urllib.error
import urllib.request
from datetime import datetime

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import rtskel
from rtskel.cli import main
from rtskel.cli.main import commands
from rtskel.cli.settings import arguments, printed
from rtskel.engine import NullEngine
from rtskel.errors import RtskelError, ServeError
from rtskel.serve import ServeConfig, Server
from rtskel.serve.emission import Emission
from rtskel.serve.metrics import BOUNDS_S, STAGES, Latencies, Metrics
from rtskel.serve.notify import notify
from tests.faults.processes import ServerProcess, publisher, undisturbed, wait_for

MS = 1_000_000


def get(url):
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figures(url):
    """What `/metrics` says: {(name, labels): value}."""
    status, text = get(f"{url}/metrics")
    assert status == 200
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def emission(received, start, end):
    """Poses whose frames arrived then."""
    numbers = np.zeros((len(received), 6), np.int64)
    numbers[:, 3] = received
    count, zeros = len(received), np.zeros((len(received), 1), np.float32)
    return Emission(
        np.zeros(count, np.int32), np.zeros(count, np.int32), numbers, zeros[..., None], zeros, zeros, start, end
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def test_latencies_are_counted_by_stage():
    latencies = Latencies()
    # Arrived 4 and 40 ms before the engine's call, which took 8 ms; sent 1 ms after. The third has no frame.
    latencies.add(emission([996 * MS, 960 * MS, 0], 1000 * MS, 1008 * MS), 1009 * MS)
    latencies.add(emission([0], 2000 * MS, 2008 * MS), 2009 * MS)
    found = {stage: latencies.histogram(stage) for stage in STAGES}
    below = {stage: dict(buckets) for stage, (buckets, _) in found.items()}
    assert [bound for bound, _ in found["wait"][0]] == [*map(repr, BOUNDS_S), "+Inf"]
    assert (below["wait"]["0.002"], below["wait"]["0.005"], below["wait"]["0.05"]) == (0, 1, 2)
    assert (below["engine"]["0.005"], below["engine"]["0.01"]) == (0, 2)
    assert below["send"]["0.001"] == 2
    assert (below["total"]["0.01"], below["total"]["0.02"], below["total"]["0.05"]) == (0, 1, 2)
    assert {buckets["+Inf"] for buckets in below.values()} == {2}
    sums = {stage: total for stage, (_, total) in found.items()}
    assert sums == pytest.approx({"wait": 0.044, "engine": 0.016, "send": 0.002, "total": 0.062})


def test_a_stream_is_counted_while_its_neighbour_is_served():
    with ServerProcess("--metrics", "0") as server, undisturbed(server):
        before = figures(server.metrics)
        assert before["rtskel_build_info", rtskel.__version__] == 1
        assert before["rtskel_ready",] == 1
        with publisher(server, "cam") as cam:
            for k in range(20):
                cam.send(np.ones((50, 3), np.float32) * k, seq=k)
            cam.send(np.zeros((50, 3), np.float32), seq=3)

            def all_counted():
                now = figures(server.metrics)
                done = now.get(("rtskel_incidents_total", "late"), 0) + now.get(
                    ("rtskel_incidents_total", "duplicate"), 0
                )
                return now if done else None

            after = wait_for(all_counted, "the late frame in the metrics")
        assert after["rtskel_streams",] == 2
        assert after["rtskel_frames_total",] >= before.get(("rtskel_frames_total",), 0) + 21
        for stage in STAGES:
            assert after["rtskel_pose_latency_seconds_count", stage] >= 20
            assert (
                after["rtskel_pose_latency_seconds_bucket", *sorted(["+Inf", stage])]
                == (after["rtskel_pose_latency_seconds_count", stage])
            )
        assert get(f"{server.metrics}/healthz") == (200, "ok\n")
        assert get(f"{server.metrics}/readyz") == (200, "ok\n")
        assert get(f"{server.metrics}/")[0] == 404


# --- health -----------------------------------------------------------------------------------------------------------


class Clock:
    """Time that stands still."""

    now = 5_000_000_000

    def __call__(self):
        return self.now


def test_health():
    """The loop's own calls, without its thread: when each page says what."""
    config = ServeConfig(raw="tcp://127.0.0.1:*", refined="tcp://127.0.0.1:*", lookaheads=(0,))
    engine, clock = NullEngine(), Clock()
    with Server(config, engine, clock=clock) as server, Metrics(server, "127.0.0.1", 0) as metrics:

        def pages():
            return [get(f"{metrics.url}/{page}") for page in ("healthz", "readyz")]

        assert pages() == [(503, "no heartbeat yet\n")] * 2
        server._heartbeat(clock.now)
        assert pages() == [(200, "ok\n")] * 2
        clock.now += 3_900_000_000
        assert pages() == [(200, "ok\n")] * 2
        clock.now += 200_000_000
        assert pages() == [(503, "the last heartbeat is 3.1 s late\n")] * 2
        server._heartbeat(clock.now)
        server._engine.error = "out of memory"
        assert pages() == [(200, "ok\n"), (503, "the engine failed: out of memory\n")]
        assert figures(metrics.url)["rtskel_ready",] == 0
        server._engine.error = ""
        assert pages() == [(200, "ok\n")] * 2
        server.stop()
        assert pages() == [(200, "ok\n"), (503, "the server is ending\n")]
    with pytest.raises(urllib.error.URLError):
        get(f"{metrics.url}/healthz")


def test_an_address_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = ServeConfig(raw="tcp://127.0.0.1:*", refined="tcp://127.0.0.1:*")
        engine = NullEngine()
        with Server(config, engine) as server:
            with pytest.raises(ServeError, match=rf"metrics at 127.0.0.1:{port}: "):
                Metrics(server, "127.0.0.1", port)
            with pytest.raises(ServeError, match=r"no\.such\.host"):
                Metrics(server, "no.such.host.invalid", 0)


@pytest.mark.parametrize("where", ["here", "127.0.0.1:", ":9400", "70000", "-1"])
def test_no_address(where, capsys):
    assert main(["serve", "--engine", "null", "--metrics", where]) == 2
    assert re.fullmatch(rf"rtskel: error: argument --metrics: .*{re.escape(where)}.*\n", capsys.readouterr().err)


# --- the service manager ----------------------------------------------------------------------------------------------


def test_the_service_manager_is_told(tmp_path, monkeypatch):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(40)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        with ServerProcess() as server:
            said = [manager.recv(100).decode() for _ in range(3)]
            status, _ = server.end()
        said.append(manager.recv(100).decode())
        while said[-1] == "WATCHDOG=1":
            said.append(manager.recv(100).decode())
    assert status == 0
    assert said[:3] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    assert said[-1] == "STOPPING=1"


def test_nobody_to_tell(tmp_path, monkeypatch):
    for path in ("", "relative", str(tmp_path / "nobody"), "@rtskel-nobody"):
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")


# --- options from a file ----------------------------------------------------------------------------------------------


def config_file(tmp_path, text):
    path = tmp_path / "rtskel.toml"
    path.write_text(text)
    return str(path)


def test_what_is_printed_says_the_same(tmp_path, capsys):
    argv = ["serve", "--lookahead", "0,4", "--lift", "--max-age", "inf", "--slack-ms", "20", "--raw", 'ipc:///a "b\\c']
    assert main([*argv, "--print-config"]) == 0
    text = capsys.readouterr().out
    parser = commands()["serve"]
    table = tomllib.loads(text)
    assert table["lookahead"] == [0, 4]
    assert (table["lift"], table["insecure"]) == (True, False)
    keys = {line.removeprefix("# ").partition(" =")[0] for line in text.splitlines() if " =" in line}
    assert {"engine", "max-streams", "keys", "metrics", "view"} <= keys
    again = parser.parse_args(arguments(parser, config_file(tmp_path, text)))
    assert vars(again) == vars(parser.parse_args(argv[1:]))
    assert "\n".join(printed(parser, again)) + "\n" == text


def test_the_command_line_goes_before(tmp_path, capsys):
    path = config_file(tmp_path, "max-streams = 7\nhop = 3\nlift = true\nmetrics = 9400\nview = true\nlookahead = 2\n")
    assert main(["serve", "--hop", "2", "--config", path, "--print-config"]) == 0
    table = tomllib.loads(capsys.readouterr().out)
    assert (table["max-streams"], table["hop"], table["lift"], table["metrics"]) == (7, 2, True, "9400")
    assert (table["view"], table["lookahead"]) == ("127.0.0.1:8400", [2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max-stream = 7", "'max-stream', did you mean max-streams"),
        ("config = 'a'", "'config'"),
        ("max-streams = ", "not TOML"),
        ("max-streams = 0", "--max-streams.*'0'"),
        ("max-streams = 1.5", "--max-streams.*'1.5'"),
        ("lift = 1", "lift is 1: true or false"),
        ("hop = true", "hop is True"),
        ("lookahead = []", "lookahead is"),
        ("lookahead = [[1]]", "lookahead is"),
        ("[streams]\nhop = 1", "'streams'"),
        ("precision = 'fp64'", "fp64"),
    ],
)
def test_mistakes_in_a_file(text, words, tmp_path, capsys):
    path = config_file(tmp_path, text)
    assert main(["serve", "--config", path]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(words, error), error


def test_a_file_that_is_absent(capsys):
    assert main(["serve", "--config", "none.toml"]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_a_file_of_other_bytes(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RtskelError, match=r"a\.toml: not TOML"):
        arguments(commands()["serve"], str(tmp_path / "a.toml"))


def test_notes_as_json():
    with ServerProcess("--log-json") as server:
        with publisher(server, "cam") as cam:
            for seq in [*range(20), 3]:
                cam.send(np.ones((50, 3), np.float32), seq=seq)
        status, said = server.end()
    assert status == 0
    (line,) = said.splitlines()
    note = json.loads(line)
    assert set(note) == {"time", "message"}
    assert "cam" in note["message"]
    assert datetime.fromisoformat(note["time"]).tzinfo is not None
