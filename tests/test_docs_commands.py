"""Every shell command on the pages runs, as it stands: page by page, line by line, where a newcomer would type it.

The lines of a page share a folder, in which is what the page takes for granted (`furnish`), and a network of their own,
in which the ports and addresses that the page names are free and are this machine's. A command that ends must end with
status 0. One that serves until Ctrl-C must have done what the page says before that, as a `WITNESS` sees it, and must
end by Ctrl-C. What a line needs beside it, such as a server for `rtskel view`, is started beside it.

`SMALLER` says which lines run with smaller sizes, `REFUSED` which need what a machine may lack and must say so in one
line, and `NOT_RUN` which do not run, each with the reason. An entry of these that no line needs fails.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from measure.browser import NoBrowserError, chromium

from rtskel import Recording, write
from rtskel.formats import SKELS_UNIT
from rtskel.pairs.clip import AXES, Clip, write_clip
from rtskel.tools.video import write_mp4
from rtskel.training.data import Sequence, write_corpus
from rtskel.training.synthesize import estimator_errors, synthesize
from tests.test_docs import PAGES, ROOT, blocks
from tests.test_formats_estimators import POINTS, instance, openpose_folder, openpose_person
from tests.test_formats_spellings import both
from tests.test_translate import folder_of, planted

WAIT_S = 100  # for what a command that serves says or does; for one that ends, it is three times as long

ADDRESSES = ("10.0.0.5", "10.0.0.6", "192.168.1.20")
"""Hosts that the pages name: all of them are this machine."""

PACKAGES = "installs packages: the tests' own environment stays as it is; extras are checked in test_docs.py"
CI = "the tests and the lint would run within the tests: CI runs them"
TRAINED = "trains and tunes for minutes, with sizes that no option makes smaller; "

NOT_RUN = {
    r"^pip install '": PACKAGES,
    r"^sudo apt install": PACKAGES,
    r"^npm install": PACKAGES,
    r"^RTSKEL_PICTURES=\. pytest": CI,
    r"^pytest$": CI,
    r"^ruff check": CI,
    r"^sudo (cp|systemctl)": "changes the machine; the command in the unit is parsed in test_docs.py",
    r"^docker compose": "needs a container engine; the file is checked in test_manifests.py",
    r"^kubectl": "needs a cluster; the file is checked in test_manifests.py",
    r"^ssh -L": "needs another machine",
    r"^python bench/accuracy\.py": TRAINED + "test_bench_accuracy.py runs its parts, test_docs.py checks its options",
    r"^python bench/real\.py": TRAINED + "test_bench_real.py runs it whole with two filters",
    r"^python bench/translate\.py": TRAINED + "test_bench_translate.py runs it whole with small networks",
}

TINY = """--set 'model={"window": 32, "d_model": 16, "heads": 2, "d_ff": 16, "layers": 1, "fill": true}'"""
SMALL = '{"d_model": 8, "heads": 2, "d_ff": 8, "layers": 1, "stack": 4}'

SMALLER = {
    r"(^rtskel train .*)--time-budget 3600": (rf"\1--steps 2 --set batch=8 --set validate_every=0 {TINY}", "an hour"),
    r"(^rtskel train .*--resume)": (rf"\1 --steps 3 --set batch=8 --set validate_every=0 {TINY}", "what is left of it"),
    r"(^rtskel train .*--set 'pairs=.*)": (r"\1 --steps 2 --set batch=8 --set validate_every=0", "hours"),
    r"(^rtskel translate train .*)": (rf"\1 --set 'network={SMALL}' --set epochs=1", "half an hour"),
    r"(^rtskel pairs .*--frames) \d+": (r"\1 12", "an hour and more"),
    r"<this repository> && cd rtskel": (f"{ROOT} cloned && cd cloned", "where the project will lie is not known"),
    r"^python bench/gpu\.py --out": ("python bench/gpu.py --smoke --parts stream --out", "needs a GPU"),
    r"^python bench/gpu\.py --smoke": ("python bench/gpu.py --smoke --parts right", "half a minute for each part"),
    r"(^python bench/latency\.py.*)--save latency$": (
        r"\1--engine null --streams 1 --fps 60 --seconds 4 --rounds 1", "minutes; keeps no figures of a test",
    ),
    r"(^python bench/latency\.py.*)--rounds 8 --save latency-60fps": (
        r"\1--engine null --seconds 4 --rounds 1", "minutes; keeps no figures of a test",
    ),
    r"(^python bench/throughput\.py.*)--save throughput": (
        r"\1--engine null --streams 16 --people 16 --frames 2000 --rounds 1", "minutes; keeps no figures of a test",
    ),
    r"(^python bench/scale\.py.*)--save scale": (
        r"\1--streams 10 --frames 400", "minutes; keeps no figures of a test",
    ),
    r"(^python bench/view\.py)": (r"\1 --people 1 --seconds 1 --rounds 1 --viewers 2", "a minute"),
}  # fmt: skip


def installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


@cache
def cuda() -> bool:
    """Whether there is an NVIDIA GPU."""
    return shutil.which("nvidia-smi") is not None and not subprocess.run(["nvidia-smi", "-L"]).returncode


@cache
def browser() -> bool:
    try:
        with chromium():
            return True
    except NoBrowserError:
        return False


class Refusal(NamedTuple):
    """A line that needs what a machine may lack: whether it is there, and what the line says if it is not."""

    there: Callable[[], bool]
    words: str


REFUSED = {
    r"--gpu\b": Refusal(cuda, r"CUDA|GPU"),
    r"--engine skeletor\.plan": Refusal(cuda, r"CUDA|GPU"),
    r"^rtskel estimate --camera": Refusal(
        lambda: installed("mediapipe") and Path("/dev/video0").exists(), r"needs mediapipe|camera 0"
    ),
    r"^rtskel estimate signer\.mp4": Refusal(lambda: installed("mediapipe"), r"needs mediapipe"),
    r"^rtskel pairs": Refusal(lambda: installed("mediapipe", "anny", "OpenGL"), r"needs|not installed"),
    r"^python bench/view\.py": Refusal(browser, r"[Bb]rowser|[Cc]hromium|[Pp]laywright"),
}


# --- what serves for ever, and how it is seen that it does what the page says ----------------------------------------


def python(code: str, *words: object) -> str:
    return shlex.join([sys.executable, "-P", "-c", code, *map(str, words)])


FETCH = "import sys, urllib.request; assert urllib.request.urlopen(sys.argv[1], timeout=60).status == 200"

PACKET = """
import socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind((sys.argv[1], 39539))
receiver.settimeout(60)
assert b"/VMC/Ext/Bone/Pos" in receiver.recv(1 << 16)
"""

INLET = """
import pylsl
(found, *_) = pylsl.resolve_byprop("name", "rtskel-cam1", 1, 60)
sample, _ = pylsl.StreamInlet(found).pull_sample(60)
assert len(sample) == 200
"""

OUTLET = """
import pylsl, time
from rtskel.skeleton import UPPER_BODY_50
labels = [f"{joint}_{part}" for joint in UPPER_BODY_50.names for part in "xyz"]
info = pylsl.StreamInfo("tracker", "MoCap", len(labels), 25.0, "float32", "tracker")
channels = info.desc().append_child("channels")
for label in labels:
    channels.append_child("channel").append_child_value("label", label)
outlet = pylsl.StreamOutlet(info)
print("rtskel: an outlet", flush=True)
while True:
    outlet.push_sample([0.1 * (k % 7) for k in range(len(labels))])
    time.sleep(0.04)
"""


def options_of(command: str, *names: str) -> str:
    """These options of a command, as they stand there."""
    return " ".join(match[0] for name in names for match in re.finditer(rf"{name} \S+", command))


def sent_to(command: str) -> str:
    """Publishes a recording to the server that a command starts."""
    raw = re.sub(r"--raw tcp://0\.0\.0\.0", f"--raw tcp://{ADDRESSES[0]}", options_of(command, "--raw"))
    keys = "--keys keys/cam1" if "--keys" in command else ""
    return f"rtskel publish recording.npz --stream witness --speed inf --wait 60 {raw} {keys}"


class Witness(NamedTuple):
    """What is seen of a command that serves.

    Attributes:
        says: what its output must hold at some time.
        saw: given the command and what it said, a command that ends with status 0 once it has seen it work; or "".
        last: whether it says so only when it ends.
    """

    says: str
    saw: Callable[[str, re.Match[str]], str] = lambda command, said: ""
    last: bool = False


WITNESS = {
    r"^rtskel serve (?!.*--print-config)|^rtskel serve$": Witness("raw poses at", lambda command, _: sent_to(command)),
    r"^rtskel serve .*--metrics|^rtskel serve --config": Witness(
        r"metrics at (http[^\s/]+//[^\s/]+)", lambda _, said: python(FETCH, f"{said[1]}/metrics")
    ),
    r"^rtskel view|^rtskel serve .*--view": Witness(r"view at (http\S+)", lambda _, said: python(FETCH, said[1])),
    r"^rtskel subscribe(?!.*--json)(?!.*--until-end)": Witness(
        "cam1", lambda command, _: f"{command} --frames 25 --wait 60", last=True
    ),
    r"^rtskel subscribe .*--json": Witness('"kind": "pose"'),
    r"^rtskel send vmc": Witness(
        "", lambda command, _: python(PACKET, (re.findall(r"--host (\S+)", command) or ["127.0.0.1"])[0])
    ),
    r"^rtskel send lsl": Witness("", lambda command, _: python(INLET)),
    r"^rtskel receive lsl": Witness("", lambda command, _: "rtskel subscribe --stream tracker --frames 1 --wait 60"),
    r"^rtskel publish .*--loop": Witness(""),
}

READS = r"^rtskel (subscribe|send \w|view(?!.*\.npz))"
PUBLISHES = r"^rtskel (publish|receive \w|estimate (?!.*-o ))"
SERVES = r"^rtskel serve(?!.*--print-config)"

SERVER, CAMERA = "rtskel serve --lookahead 0,4", "rtskel publish recording.npz --loop"
KEYED = "--refined tcp://10.0.0.5:5556 --keys keys/viewer"

BESIDE = {
    f"rtskel view {KEYED}": [
        "rtskel keygen keys --client cam1 --client viewer",
        "rtskel serve --raw tcp://10.0.0.5:5555 --refined tcp://10.0.0.5:5556 --keys keys/server",
        "rtskel publish recording.npz --loop --raw tcp://10.0.0.5:5555 --keys keys/cam1",
    ],
    "rtskel keygen keys --client cam1 --client viewer": [],  # its page opens without poses, too
    "rtskel publish recording.npz --raw file:servers.txt": [
        *(f"rtskel serve --insecure --raw tcp://{host}:5555 --refined tcp://{host}:5556" for host in ADDRESSES[:2]),
        "rtskel publish recording.npz --stream cam1-again --loop --raw file:servers.txt",
    ],
    "rtskel receive lsl --name tracker --axes RUA": [SERVER, python(OUTLET)],
    "rtskel subscribe --save session.mcap --until-end": [SERVER, "rtskel publish recording.npz --speed 0.3"],
}
"""By the first line of a block, what its lines need beside them; for others `beside` knows it."""


def beside(commands: list[str]) -> list[str]:
    """What the commands of a block need beside them: a server to be clients of, and somebody who publishes."""
    if commands and commands[0] in BESIDE:
        return BESIDE[commands[0]]
    serves, reads, publishes = (any(re.search(kind, c) for c in commands) for kind in (SERVES, READS, PUBLISHES))
    camera = f"{CAMERA} --stream cam1-again" if publishes else CAMERA
    return [SERVER] * ((reads or publishes) and not serves) + [camera] * reads


# --- what the pages take for granted ---------------------------------------------------------------------------------


def pairs(folder: Path, split: str, count: int) -> None:
    """Clips as `rtskel pairs` makes them: the estimate is the truth of another size, with noise, without a hand."""
    (folder / split).mkdir(parents=True)
    for k in range(count):
        motion = synthesize(2.0, seed=10 * len(split) + k)
        truth = motion.canonical().astype(np.float32) * [1.0, 1.0, -1.0] * 0.9 + [0.0, 0.0, 2.0]
        seen = 0.8 * truth + np.random.default_rng(k).normal(0, 0.01, truth.shape)
        confidence = np.ones(truth.shape[:2], np.float32)
        confidence[10:20, 8:29] = 0
        pixels = 500 * truth / truth[..., 2:]
        write_clip(
            folder / split / f"{k:05}.npz",
            Clip(
                truth, pixels[..., :2], seen, confidence, pixels, confidence, 25.0, (640, 480), f"{k:05}", "signing",
                "signing", "open", split, settings={"axes": AXES},
            ),
        )  # fmt: skip


def furnish(home: Path) -> None:
    """The folder that a newcomer stands in: the project, and what the pages call recordings, corpora, videos."""
    for name in ("rtskel", "engines", "examples"):
        (home / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "bench", home / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "skeletor-realtime.safetensors").symlink_to(ROOT / "engines" / "skeletor-realtime.safetensors")
    seen = replace(estimator_errors(synthesize(1.6, seed=1), 1), name="cam1")
    for name in ("recording", "raw", "signer", "refined", "takes/a", "takes/b"):
        (home / name).parent.mkdir(exist_ok=True)
        write(home / f"{name}.npz", [seen])
    openpose_folder(home / "openpose_output", {k: [openpose_person(k)] for k in range(10)})
    points = np.stack([POINTS + k for k in range(10)])
    np.savez(home / "rtmw.npz", keypoints=np.dstack([points, points[..., :1]]) / 100, scores=np.full((10, 133), 0.5))
    frames = [{"frame_id": k, "instances": [instance(k)]} for k in range(10)]
    (home / "results.json").write_text(json.dumps(frames))
    (home / "tasks.json").write_text(json.dumps([both(k) for k in range(10)]))
    clean = [synthesize(2.0, seed=k) for k in range(4)]
    xyz = [take.canonical() / 0.37 * (1 / 3) for take in clean]
    write(home / "dev.skels", [Recording(x, 25.0, f"d{k}", unit=SKELS_UNIT) for k, x in enumerate(xyz[:2])])
    parts = [(f"s{k}", "phoenix", "dev" if k == 3 else "train") for k in range(4)]
    write_corpus(home / "corpus", [(Sequence(*part, 25.0, 0, 0), x) for part, x in zip(parts, xyz, strict=True)])
    pairs(home / "pairs", "train", 3)
    pairs(home / "pairs", "kept", 2)
    images = (np.full((120, 160, 3), 8 * number, np.uint8) for number in range(12))
    write_mp4(home / "signer.mp4", images, 25)
    for split in ("train", "dev", "test"):
        folder_of(home / "phoenix", split, planted(6, len(split)))
    spoken = planted(8, 9)
    (home / "recordings").mkdir()
    rows = ["name\ttext\tsplit\tgloss"]
    for k, sentence in enumerate(spoken):
        write(home / "recordings" / f"{sentence.poses.name}.npz", [sentence.poses])
        rows.append(f"{sentence.poses.name}\t{sentence.text}\t{'dev' if k % 4 == 3 else 'train'}\t{sentence.gloss}")
    (home / "texts.tsv").write_text("\n".join(rows) + "\n")


# --- pages -----------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line of a page: its page, its block, and what stands there."""

    page: str
    block: int
    text: str


def lines() -> Iterator[Line]:
    for block in blocks("sh"):
        page, number = block.id.split(":")
        for text in block.values[0].replace("\\\n", " ").splitlines():
            if words := re.sub(r"\s+#\s.*$", "", text).strip():
                yield Line(page, int(number), words)


LINES = [*lines()]


def entry(table: dict, text: str):  # type: ignore[type-arg,no-untyped-def]
    """What a table says of a line, or None."""
    found = [value for pattern, value in table.items() if re.search(pattern, text)]
    assert len(found) < 2, f"{text}: more than one entry"
    return found[0] if found else None


def smaller(text: str) -> str:
    """What is run for a line."""
    for pattern, (replacement, _) in SMALLER.items():
        text = re.sub(pattern, lambda match, to=replacement: match.expand(to.replace("\\{", "{")), text)
    return text


RUN = [line for line in LINES if entry(NOT_RUN, line.text) is None]


@dataclass
class Running:
    """A process that serves until Ctrl-C, and all that it has said."""

    command: str
    process: subprocess.Popen
    line: str = ""  # of the page that it runs for; "" beside one
    said: list[str] = field(default_factory=list)
    heard: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._threads = [
            threading.Thread(target=self._listen, args=(p,)) for p in (self.process.stdout, self.process.stderr)
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, pipe) -> None:
        for line in pipe:
            with self.heard:
                self.said.append(line)
                self.heard.notify_all()
        with self.heard:
            self.heard.notify_all()

    def text(self) -> str:
        return "".join(self.said)

    def says(self, pattern: str) -> re.Match[str]:
        """Waits until it has said so."""
        with self.heard:
            self.heard.wait_for(lambda: re.search(pattern, self.text()) or self.process.poll() is not None, WAIT_S)
            found = re.search(pattern, self.text())
        assert found, f"{self.command}: {pattern!r} was not said: {self.text()[-2000:]}"
        return found

    def stop(self) -> None:
        """Ctrl-C."""
        with ExitStack() as stack:
            stack.callback(self._closed)
            ended = self.process.poll()
            assert ended is None or (ended, self.line) == (0, ""), f"{self.command}: ended: {self.text()[-2000:]}"
            if ended is None:
                os.killpg(self.process.pid, signal.SIGINT)
            try:
                status = self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{self.command}: goes on after Ctrl-C: {self.text()[-2000:]}") from None
            assert status in (ended, 130) or not self.line, (
                f"{self.command}: status {status} after Ctrl-C: {self.text()[-2000:]}"
            )
            assert "Traceback" not in self.text() or not self.line, self.text()[-2000:]

    def _closed(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for thread, pipe in zip(self._threads, (self.process.stdout, self.process.stderr), strict=True):
            thread.join(WAIT_S)
            pipe.close()


class Shell:
    """Runs the lines of a page in a folder, in a network."""

    def __init__(self, home: Path, network: str) -> None:
        self.home, self.network = home, network
        scripts = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = os.environ | {
            "PATH": scripts, "BROWSER": "true", "RTSKEL_DATA": str(home.parent / "shared" / "data"),
            "PYTHONUNBUFFERED": "1", "PYTHONPATH": "",
        }  # fmt: skip
        self.running: list[Running] = []

    def _started(self, command: str) -> subprocess.Popen:
        inside = ["ip", "netns", "exec", self.network, "bash", "-c", command]
        return subprocess.Popen(
            inside, cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def ends(self, command: str) -> tuple[int, str]:
        """Runs a command that ends; its status, and what it said."""
        with self._started(command) as process:
            try:
                out, error = process.communicate(timeout=3 * WAIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"{command}: does not end: {process.communicate()}") from None
        return process.returncode, out + error

    def succeeds(self, command: str) -> None:
        status, said = self.ends(command)
        assert status == 0, f"{command}: status {status}: {said[-3000:]}"

    def starts(self, command: str, line: str = "") -> Running:
        """Starts a command that serves, for a line of the page; one that serves at the same place is ended first."""
        for place in (r"^rtskel serve(?!.*10\.0\.0)", r"^rtskel view|--view"):
            if re.search(place, command):
                for other in [other for other in self.running if re.search(place, other.command)]:
                    self.sees(other)
                    self.end(other)
        started = Running(command, self._started(f"exec {command}"), line)
        self.running.append(started)
        if re.search(SERVES, command):
            started.says("raw poses at")
        return started

    def sees(self, running: Running) -> None:
        """That it works, if it is a line of the page."""
        for witness in witnesses(running.line):
            said = re.match("", "") if witness.last else running.says(witness.says)
            if saw := witness.saw(running.command, said):
                self.succeeds(saw)

    def end(self, running: Running) -> None:
        """Ctrl-C."""
        self.running.remove(running)
        running.stop()
        for witness in witnesses(running.line):
            running.says(witness.says)

    def run(self, line: str) -> None:
        """Runs a line that ends, starts one that serves."""
        command, refusal = smaller(line), refused(line)
        if refusal:
            status, said = self.ends(command)
            assert status, f"{command}: succeeded without what it needs"
            assert re.search(refusal.words, said), f"{command}: status {status}: {said[-3000:]}"
            assert "Traceback" not in said, said[-3000:]
        elif witnesses(line):
            self.starts(command, line)
        else:
            self.succeeds(command)

    def block(self, lines: list[str]) -> dict[str, str]:
        """Runs the lines of a block; what went wrong with each, "" if nothing."""
        problems = dict.fromkeys(lines, "")

        def attempt(line: str, action: Callable[..., object], *given: object) -> None:
            try:
                action(*given)
            except AssertionError as error:
                problems[line] = problems[line] or str(error)

        for command in beside([line for line in lines if not refused(line)]):
            attempt(lines[0], self.succeeds if command.startswith("rtskel keygen") else self.starts, command)
        for line in lines:
            attempt(line, self.run, line)
        for running in list(self.running):
            attempt(running.line or lines[0], self.sees, running)

        def last(each: Running) -> tuple[bool, bool]:  # servers, and before them what is beside the page's lines
            return bool(re.search(SERVES, each.command)), not each.line

        for running in sorted(self.running, key=last):
            attempt(running.line or lines[0], self.end, running)
        return problems


def refused(line: str) -> Refusal | None:
    """How a line is refused here; None if it runs."""
    refusal = entry(REFUSED, line)
    return None if refusal is None or refusal.there() else refusal


def witnesses(line: str) -> list[Witness]:
    """Of a line that serves; none if it ends."""
    return [witness for pattern, witness in WITNESS.items() if re.search(pattern, line)]


@pytest.fixture(scope="module")
def network():
    """A network of its own, in which the hosts that the pages name are this machine."""
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("network namespaces need ip, and root")
    name = f"rtskeldocs{os.getpid()}"
    steps = [f"ip netns add {name}", f"ip -n {name} link set lo up", f"ip -n {name} link set lo multicast on"]
    steps += [f"ip -n {name} addr add {address}/32 dev lo" for address in ADDRESSES]
    steps += [f"ip -n {name} route add 224.0.0.0/4 dev lo"]
    try:
        for step in steps:
            made = subprocess.run(step.split(), capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"no network namespaces here: {step}: {made.stderr.strip()}")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture(scope="module")
def page(network, tmp_path_factory):
    """What became of the lines of a page, which are run when the first of them is asked for."""

    @cache
    def outcome(name: str) -> dict[tuple[int, str], str]:
        home = tmp_path_factory.mktemp(Path(name).stem) / "rtskel"
        shutil.copytree(furnished(), home, symlinks=True)
        (home.parent / "shared" / "data").mkdir(parents=True)
        (text,) = [path.read_text() for path in PAGES if path.name == name]
        for title, body in re.findall(r'^```text title="([\w.]+)"\n(.*?)^```$', text, re.DOTALL | re.MULTILINE):
            (home / title).write_text(body)
        for body in re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            (home / "rtskel.toml").write_text(body)
        shell, found = Shell(home, network), {}
        for block in sorted({line.block for line in RUN if line.page == name}):
            given = [line.text for line in RUN if (line.page, line.block) == (name, block)]
            found |= {(block, text): problem for text, problem in shell.block(given).items()}
        return found

    @cache
    def furnished() -> Path:
        home = tmp_path_factory.mktemp("furnished")
        furnish(home)
        return home

    return outcome


@pytest.mark.timeout(900)
@pytest.mark.parametrize("line", [pytest.param(line, id=f"{line.page}:{line.block} {line.text}"[:100]) for line in RUN])
def test_it_runs(line, page):
    problem = page(line.page)[line.block, line.text]
    assert not problem, problem


@pytest.mark.parametrize("table", [NOT_RUN, SMALLER, REFUSED, WITNESS])
def test_no_entry_is_left_over(table):
    texts = [line.text for line in LINES]
    assert [pattern for pattern in table if not any(re.search(pattern, text) for text in texts)] == []


def test_nothing_is_left_beside_a_line_that_is_gone():
    assert {*BESIDE} <= {line.text for line in LINES}


def test_few_lines_do_not_run():
    assert len(RUN) > 90
