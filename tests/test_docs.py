"""The documentation: it builds without warnings, its commands parse, its Python runs, and so do the examples."""

import importlib
import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rtskel import UPPER_BODY_50, Recording, write
from rtskel.cli import plugins, settings
from rtskel.cli.main import COMMANDS, TRAINING, main
from rtskel.cli.options import Parser
from rtskel.errors import RtskelError
from tests.sockets import TIMEOUT, RawReceiver, RefinedSender
from tests.test_avatar import moving
from tests.test_sinks import END, Marionette
from tests.test_view import HEARTBEAT
from tests.test_view import refined as pose_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def blocks(language):
    """(where, code) of each block of that language on any page."""
    found = []
    for page in PAGES:
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
            line = page.read_text()[: match.start()].count("\n") + 2
            found.append(pytest.param(match[1], id=f"{page.name}:{line}"))
    return found


def lines_of(*start):
    """(where, the words that follow) of each command on any page that begins so."""
    found = []
    for block in blocks("sh"):
        code = block.values[0].replace("\\\n", " ")
        for line in code.splitlines():
            for part in re.split(r"&&|\|", line):
                words = shlex.split(part, comments=True)
                if tuple(words[: len(start)]) == start:
                    found.append(pytest.param(words[len(start) :], id=f"{block.id} {' '.join(words)}"[:90]))
    return found


def command_lines():
    return lines_of("rtskel")


@cache
def help_of(name):
    """What a command of training says of itself, which takes a process that imports torch."""
    command = [sys.executable, "-P", "-m", "rtskel", name, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout


def parsed(argv):
    """Parses a command line as the command does, without running it."""
    name, *rest = argv
    if name in TRAINING:
        for word in rest:
            assert not word.startswith("--") or word in help_of(name), f"rtskel {name} has no option {word}"
        return None
    (command,) = [command for command in COMMANDS if command.name == name]
    parser = Parser(prog=f"rtskel {name}")
    command.options(parser)
    args = parser.parse_args(rest)
    if name in ("send", "receive") and args.name and args.name != "udp":  # an example's own
        own, _ = plugins.parser_of(name, f"rtskel.{'sinks' if name == 'send' else 'sources'}", args.name)
        return own.parse_args(args.rest)
    return args


@pytest.mark.parametrize("argv", command_lines())
def test_commands_on_the_pages_parse(argv):
    if argv[-1:] == ["--help"]:
        with pytest.raises(SystemExit) as leave:
            main(argv)
        assert leave.value.code == 0
    else:
        parsed(argv)


def test_a_command_that_does_not_exist_would_be_found():
    for *wrong, option in (["serve", "--fast"], ["send", "vmc", "--speed"]):
        with pytest.raises(RtskelError, match=f"unknown option {option}"):
            parsed([*wrong, option])
    assert len(command_lines()) > 50


@pytest.mark.parametrize("argv", lines_of("python"))
def test_scripts_on_the_pages_have_these_options(argv, monkeypatch, capsys):
    module, *rest = argv[1:] if argv[0] == "-m" else [Path(argv[0]).stem, *argv[1:]]
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as leave:
        importlib.import_module(module).main()
    assert leave.value.code == 0
    known = re.findall(r"--[\w-]+", capsys.readouterr().out)
    assert [word for word in rest if word.startswith("--") and word not in known] == []


def test_extras_on_the_pages_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {}
    for page in PAGES:
        for match in re.finditer(r"(?:'\.|rtskel)\[([\w,-]+)\]'", page.read_text()):
            named |= dict.fromkeys(match[1].split(","), page.name)
    assert {extra: page for extra, page in named.items() if extra not in extras} == {}
    assert len(named) > 8


def test_the_service_starts_as_the_page_says(tmp_path):
    (serve,) = [command for command in COMMANDS if command.name == "serve"]
    parser = Parser(prog="rtskel serve")
    serve.options(parser)
    for number, block in enumerate(blocks("toml")):
        if "entry-points" not in block.values[0]:
            file = tmp_path / f"{number}.toml"
            file.write_text(block.values[0])
            assert parser.parse_args(settings.arguments(parser, str(file))).lookahead == (0, 4)
    (start,) = re.findall(r"^ExecStart=\S+/rtskel (.*)$", (ROOT / "examples/service/rtskel.service").read_text(), re.M)
    parsed(shlex.split(start))
    (start,) = re.findall(r"^CMD (.*)$", (ROOT / "examples/service/Dockerfile").read_text(), re.M)
    parsed(json.loads(start))


@pytest.mark.parametrize("code", blocks("python"))
def test_python_on_the_pages_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    xyz = moving(40).positions() * (1, -1, 1)
    confidence = np.ones(xyz.shape[:2], np.float32)
    confidence[10:14, 8:20] = 0
    write("recording.npz", Recording(xyz.astype(np.float32), 25.0, "signer", confidence=confidence))
    for package in ("pandas", "xarray"):
        if package in code or f"to_{'frame' if package == 'pandas' else 'xarray'}" in code:
            pytest.importorskip(package)
    if "estimator):" in code or "rtskel.Publisher(" in code:  # takes an estimator: only its grammar is checked
        compile(code, "page", "exec")
        return
    exec(compile(code, "page", "exec"), {"__name__": "page"})


def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the site's packages are not installed (extra docs)")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("index.html")}
    assert {page.stem for page in PAGES[:-2]} - {"index"} <= pages
    assert "polyline" in (tmp_path / "lookahead/index.html").read_text()
    assert "Subscriber" in (tmp_path / "api/index.html").read_text()
    assert "http://" not in re.sub(r"http://(127\.0\.0\.1|www\.w3\.org)", "", (tmp_path / "index.html").read_text())


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield lambda name: importlib.import_module(name)
    for name in ("estimator", "consumer", "sink"):
        sys.modules.pop(name, None)


def test_the_estimator_publishes(example):
    with RawReceiver() as server:
        thread = threading.Thread(target=example("estimator").main, args=(server.endpoint, 3, 1000))
        thread.start()
        frames = server.take(3)
        thread.join()
    assert [(frame.stream, frame.seq) for frame in frames] == [("mine", 0), ("mine", 1), ("mine", 2)]
    assert frames[0].xyz.shape == (50, 3)
    assert (frames[0].confidence == 0).any()


def test_the_consumer_prints_what_comes(example, capsys):
    with RefinedSender() as sender:
        thread = threading.Thread(target=example("consumer").main, args=(sender.endpoint,))
        thread.start()
        sender.wait_for_subscriptions()
        sender.send(HEARTBEAT, pose_of(), pose_of(lookahead=0), END)
        thread.join(TIMEOUT)
    wrist = pose_of().xyz[UPPER_BODY_50.names.index("right_wrist")]
    assert capsys.readouterr().out == "cam1 0: {:.3f} {:.3f} {:.3f} +- 0.010\ncam1 has ended\n".format(*wrist)


def test_the_sink_sends(example):
    with Marionette() as receiver:
        plugin = example("sink").PLUGIN
        parser = Parser()
        plugin.options(parser)
        with plugin.open(parser.parse_args(["--port", str(receiver.port)])) as sink:
            sink.pose(pose_of(seq=7))
        line = json.loads(receiver.socket.recv(1 << 16))
    assert (line["stream"], line["seq"], len(line["xyz"])) == ("cam1", 7, 50)


def test_the_notebook_runs(capsys):
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    matplotlib.use("agg")
    notebook = json.loads((ROOT / "examples/recording.ipynb").read_text())
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "committed without outputs"
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    matplotlib.pyplot.close("all")
    assert names["error"](names["smooth"]) < names["error"](names["xyz"])
    assert "refined" in capsys.readouterr().out


def test_versions_agree():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
