"""`rtskel demo`: what refinement does to a live stream, measured end to end.

A server runs as a process of its own. A recording whose truth is known is replayed to it at its frame rate, with an
estimator's errors, lost hands and dropped frames; its refined poses are received over the wire, at each lookahead, and
compared with the truth. The bundled recording is generated (`rtskel.training.synthesize`).

*Before* is what a consumer of the raw stream would see: every joint where it was last seen, so a joint that is
missing and a frame that was dropped repeat the value before. *After* is what the server published. Errors are pooled
over all frames; joints that the recording itself lacks count as right on both sides.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rtskel.client import Subscriber
from rtskel.errors import RtskelError
from rtskel.formats import Recording, read
from rtskel.tools.collect import Latency, latency, percentiles, slot_of
from rtskel.tools.replay import Item, ReplayConfig, publishers, replay, schedule, stated_fps, stream_ids
from rtskel.tools.watch import Display, console
from rtskel.training.score import Errors, errors, held, joint_groups
from rtskel.training.synthesize import estimator_errors
from rtskel.wire import Event, Flag, RefinedPose

if TYPE_CHECKING:
    from rich.console import Console, Group

BEFORE = "each joint where the raw stream last showed it: missing joints and dropped frames repeat the value before"

METRICS = {"mse": "MSE mm^2", "mpjpe": "MPJPE mm", "acceleration": "acceleration mm/frame^2"}

START_S = 120.0
"""How long the server may take to start: opening a plan compiles its kernels."""


@dataclass(frozen=True)
class DemoConfig:
    """What to show.

    Attributes:
        recording: a clean recording to take for the truth; None: the bundled one, which comes with its errors.
        lookaheads: in frames.
        engine: engine file; None: the bundled one.
        speed: of the replay.
        json: print one JSON object instead of tables.
        seed: of the errors of an estimator that are put on `recording`.
    """

    recording: str | None = None
    lookaheads: tuple[int, ...] = (0, 4)
    engine: str | None = None
    speed: float = 1.0
    json: bool = False
    seed: int = 1


@dataclass(frozen=True)
class Row:
    """Errors before and after, in mm, of a group of joints at one lookahead."""

    lookahead: int
    joints: str
    before: Errors
    after: Errors

    @property
    def worse(self) -> list[str]:
        """Metrics on which refinement does not help."""
        return [name for name in METRICS if not getattr(self.after, name) < getattr(self.before, name)]


@dataclass(frozen=True)
class Result:
    """What the demo found. `asdict` of it, with `helps`, is what `--json` prints."""

    recording: str
    model: str
    streams: int
    frames: int
    dropped_frames: int
    missing_joints: int
    fps: float
    lookaheads: tuple[int, ...]
    rows: list[Row]
    filled: dict[int, dict[str, int]]
    latency_ms: dict[int, dict[str, dict[str, float]]]
    problems: list[str]

    @property
    def worse(self) -> list[str]:
        """What did not get better, row by row."""
        return [f"lookahead {row.lookahead}, {row.joints}: {', '.join(row.worse)}" for row in self.rows if row.worse]

    @property
    def helps(self) -> bool:
        """Every pose came exactly once and in order, and every error is smaller than before."""
        return not self.problems and not self.worse

    def to_json(self) -> dict[str, Any]:
        """As plain numbers and words."""
        table = []
        for row in self.rows:
            entry: dict[str, Any] = {"lookahead": row.lookahead, "joints": row.joints}
            for name in METRICS:
                before, after = getattr(row.before, name), getattr(row.after, name)
                entry[name] = {"before": before, "after": after, "ratio": after / before if before else None}
            table.append(entry)
        facts = {key: value for key, value in asdict(self).items() if key != "rows"}
        return {
            **facts,
            "before": BEFORE,
            "units": METRICS,
            "errors": table,
            "exactly_once": not self.problems,
            "worse": self.worse,
            "helps": self.helps,
        }


def run(config: DemoConfig) -> int:
    """Show it; returns 0 if every pose came once and refinement helped on every row, else 1.

    Raises:
        RtskelError: a recording or engine that cannot be used.
    """
    truths, estimates = _recordings(config)
    out = console()
    if not config.json:
        seconds = schedule(estimates, _replay_config(config))[-1].due
        out.print(
            f"Starting a server, and replaying {_source(config)} as a live estimator would see it: {seconds:.0f} s."
        )
    run_ = _play(config, truths, estimates, None if config.json else out)
    result = _result(config, truths, estimates, run_)
    if config.json:
        print(json.dumps(result.to_json(), allow_nan=False))
    else:
        _print_result(out, result)
    return 0 if result.helps else 1


def _source(config: DemoConfig) -> str:
    return "the bundled recording" if config.recording is None else config.recording


def _replay_config(config: DemoConfig) -> ReplayConfig:
    return ReplayConfig(speed=config.speed)


def _recordings(config: DemoConfig) -> tuple[list[Recording], list[Recording]]:
    """Truths, and what the estimator delivers of each."""
    if config.recording is None:
        with as_file(files("rtskel") / "assets" / "demo.npz") as path:
            truth, estimate = read(path)
        return [truth], [estimate]
    truths = read(config.recording)
    return truths, [estimator_errors(truth, config.seed + number) for number, truth in enumerate(truths)]


# Playing


@dataclass
class _Arrival:
    pose: RefinedPose
    spent: Latency | None


@dataclass
class _Run:
    """What came, by stream and lookahead, in order."""

    arrivals: dict[tuple[int, int], list[_Arrival]]
    model: str = ""
    ended: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def _play(config: DemoConfig, truths: list[Recording], estimates: list[Recording], out: Console | None) -> _Run:
    """Replay, and collect what comes; shown on `out` meanwhile."""
    streams = stream_ids(estimates)
    number_of = {stream: number for number, stream in enumerate(streams)}
    run_ = _Run({(number, lookahead): [] for number in range(len(streams)) for lookahead in config.lookaheads})
    replay_config = _replay_config(config)
    patience = 30 + 1.5 * schedule(estimates, replay_config)[-1].due
    view = _View(truths, estimates, config.lookaheads)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_Server(config))
        ready = server.ready()
        run_.model = ready["model"]
        subscriber = stack.enter_context(Subscriber(ready["refined"], lookahead=config.lookaheads, queue=100_000))
        while not subscriber.connected:  # from now on nothing that it publishes is missed
            server.check()
            with contextlib.suppress(TimeoutError):
                subscriber.wait_for_server(timeout=0.2)
        deadline = time.monotonic() + patience
        shown = None if out is None else stack.enter_context(Display(out, view.lines))
        with _Replay(estimates, streams, ready["raw"], replay_config) as sender:
            while len(run_.ended) < len(streams):
                sender.check()
                server.check()
                if time.monotonic() > deadline:
                    run_.problems.append(f"{len(streams) - len(run_.ended)} streams did not end in time")
                    break
                try:
                    message = subscriber.recv(timeout=0.2)
                except TimeoutError:
                    message = None
                now = time.monotonic_ns()
                if isinstance(message, RefinedPose):
                    number = number_of[message.stream]
                    arrival = _Arrival(message, latency(message, now))
                    run_.arrivals[number, message.lookahead].append(arrival)
                    view.add(number, arrival)
                elif isinstance(message, Event) and message.kind == "end":
                    run_.ended.add(number_of[message.stream])
                if shown is not None:
                    shown.update(view)
        run_.problems += [f"{count} poses of {key} were lost on the way" for key, count in subscriber.lost.items()]
    return run_


class _Server:
    """A server process on ports of the system's choice."""

    def __init__(self, config: DemoConfig) -> None:
        # -P: what is installed, also where the current folder holds a source tree of rtskel.
        command = [sys.executable, "-P", "-m", "rtskel.cli", "serve", "--json"]
        command += ["--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*"]
        command += ["--lookahead", ",".join(map(str, config.lookaheads))]
        command += [] if config.engine is None else ["--engine", config.engine]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would fill up and stop it
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)

    def ready(self) -> dict[str, str]:
        """What it says once it serves.

        Raises:
            RtskelError: it does not start; the message is its own.
        """
        out = self._process.stdout
        assert out is not None
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: lines.put(out.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=START_S)
        except queue.Empty:
            raise RtskelError(f"the server did not start within {START_S:g} s") from None
        if not line:
            self._process.wait()
            self.check()
        said: dict[str, str] = json.loads(line)
        return said

    def check(self) -> None:
        """Raise what it died of, if it died."""
        if self._process.poll() is not None:
            self._log.seek(0)
            said = self._log.read().strip().splitlines() or ["it says nothing"]
            raise RtskelError(f"the server stopped: {said[-1].removeprefix('rtskel: error: ')}")

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # SIGTERM: it completes what is due first
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()


class _Replay:
    """Replays in a thread of its own, so that sending is never late because of receiving or drawing."""

    def __init__(self, recordings: list[Recording], streams: list[str], endpoint: str, config: ReplayConfig) -> None:
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._arguments = recordings, publishers(recordings, streams, endpoint), config
        self._thread = threading.Thread(target=self._run, name="replay")

    def _run(self) -> None:
        try:
            replay(*self._arguments, wait_s=START_S, progress=self._go_on)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error

    def _go_on(self, _: Item) -> None:
        if self._stop.is_set():
            raise _Stopped

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> _Replay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class _Stopped(Exception):
    pass


# What came of it


def _result(config: DemoConfig, truths: list[Recording], estimates: list[Recording], run_: _Run) -> Result:
    names = stream_ids(estimates)
    problems = list(run_.problems)
    rows: list[Row] = []
    refined: dict[int, list[NDArray[np.float32]]] = {}
    dense = [_dense(truth, estimate) for truth, estimate in zip(truths, estimates, strict=True)]
    for lookahead in config.lookaheads:
        refined[lookahead] = []
        for number, (truth, _, raw) in enumerate(dense):
            arrivals = run_.arrivals[number, lookahead]
            slots = [slot_of(arrival.pose) for arrival in arrivals]
            if slots != list(range(len(truth))):
                problems.append(f"stream {names[number]}, lookahead {lookahead}: {_disorder(slots, len(truth))}")
            out = raw.copy()  # only where a pose did not come, which is a failure already
            for slot, arrival in zip(slots, arrivals, strict=True):
                if slot < len(out):
                    out[slot] = arrival.pose.xyz
            refined[lookahead].append(out)
    scale = [truth.mm_per_unit() for truth in truths]
    known = [~missing for _, missing, _ in dense]

    def score(poses: Sequence[NDArray[np.float32]], joints: list[int]) -> Errors:
        right = [np.where(k[..., None], p, t) for p, (t, _, _), k in zip(poses, dense, known, strict=True)]
        return errors(
            [p * np.float32(s) for p, s in zip(right, scale, strict=True)],
            [t * np.float32(s) for (t, _, _), s in zip(dense, scale, strict=True)],
            joints,
        )

    for lookahead in config.lookaheads:
        for group, joints in joint_groups(truths[0].skeleton).items():
            before = score([raw for _, _, raw in dense], joints)
            rows.append(Row(lookahead, group, before, score(refined[lookahead], joints)))

    filled: dict[int, dict[str, int]] = {}
    latencies: dict[int, dict[str, dict[str, float]]] = {}
    for lookahead in config.lookaheads:
        arrivals = [a for number in range(len(truths)) for a in run_.arrivals[number, lookahead]]
        filled[lookahead] = {
            "joints": sum(int(a.pose.missing.sum()) for a in arrivals),
            "frames": sum(Flag.INTERPOLATED in a.pose.flags for a in arrivals),
        }
        latencies[lookahead] = percentiles(a.spent for a in arrivals if a.spent is not None)
    return Result(
        recording=_source(config),
        model=run_.model,
        streams=len(truths),
        frames=sum(len(truth) for truth, _, _ in dense),
        dropped_frames=sum(len(truth) for truth, _, _ in dense) - sum(estimate.frames for estimate in estimates),
        missing_joints=sum(int(estimate.missing.sum()) for estimate in estimates),
        fps=stated_fps(estimates[0], _replay_config(config)),
        lookaheads=config.lookaheads,
        rows=rows,
        filled=filled,
        latency_ms=latencies,
        problems=problems,
    )


def _dense(truth: Recording, estimate: Recording) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """By slot: the truth, which of it is missing, and the raw stream as a consumer without refinement has it."""
    slots = int(estimate.slots[-1]) + 1
    xyz = np.zeros((slots, *truth.xyz.shape[1:]), np.float32)
    missing = np.ones(xyz.shape[:2], np.bool_)
    here = truth.slots < slots
    xyz[truth.slots[here]], missing[truth.slots[here]] = truth.xyz[here], truth.missing[here]
    return xyz, missing, held(estimate.by_slot(estimate.xyz), ~estimate.by_slot(~estimate.missing))


def _disorder(slots: list[int], expected: int) -> str:
    missing = expected - len(set(slots) & set(range(expected)))
    repeated = len(slots) - len(set(slots))
    return f"{missing} of {expected} poses are missing, {repeated} repeated" + (
        "" if slots == sorted(slots) else ", out of order"
    )


# Showing it


class _View:
    """Running figures for the display: errors over the last two seconds, and what has come."""

    def __init__(self, truths: list[Recording], estimates: list[Recording], lookaheads: tuple[int, ...]) -> None:
        self._dense = [_dense(truth, estimate) for truth, estimate in zip(truths, estimates, strict=True)]
        self._scale = [truth.mm_per_unit() for truth in truths]
        self._total = sum(len(truth) for truth, _, _ in self._dense)
        self._joints = joint_groups(truths[0].skeleton)["all"]
        self._recent = round(2 * truths[0].fps)
        self.poses = dict.fromkeys(lookaheads, 0)
        self._filled = dict.fromkeys(lookaheads, 0)
        self._off: dict[int, list[tuple[float, float]]] = {lookahead: [] for lookahead in lookaheads}
        self._total_ms: dict[int, list[float]] = {lookahead: [] for lookahead in lookaheads}

    def add(self, number: int, arrival: _Arrival) -> None:
        pose, slot = arrival.pose, slot_of(arrival.pose)
        truth, missing, raw = self._dense[number]
        self.poses[pose.lookahead] += 1
        self._filled[pose.lookahead] += int(pose.missing.sum())
        if arrival.spent is not None:
            self._total_ms[pose.lookahead].append(arrival.spent.total)
        if slot < len(truth):
            known = np.array(self._joints)[~missing[slot, self._joints]]
            if len(known):
                off = [np.linalg.norm(p[known] - truth[slot, known], axis=-1) for p in (raw[slot], pose.xyz)]
                before, after = (float(o.mean()) * self._scale[number] for o in off)
                self._off[pose.lookahead].append((before, after))

    def lines(self) -> list[str]:
        """A line for each lookahead."""
        return [
            f"lookahead {lookahead}: {poses} poses, {filled} joints filled in, error {before} -> {after} mm, "
            f"latency {spent} ms"
            for lookahead, poses, filled, before, after, spent in self._cells()
        ]

    def _cells(self) -> list[list[str]]:
        """A row for each lookahead, under HEADER."""
        rows = []
        for lookahead, off in self._off.items():
            before, after = np.mean(off[-self._recent :], axis=0) if off else (0.0, 0.0)
            latest = self._total_ms[lookahead][-self._recent :]
            rows.append(
                [
                    str(lookahead),
                    f"{self.poses[lookahead]}/{self._total}",
                    str(self._filled[lookahead]),
                    f"{before:.1f}",
                    f"{after:.1f}",
                    f"{np.median(latest):.1f}" if latest else "-",
                ]
            )
        return rows

    HEADER = ("lookahead", "poses", "filled joints", "raw error mm", "refined error mm", "latency ms")

    def render(self) -> Group:
        """As a table."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, title="live (last 2 s)", title_justify="left", title_style="")
        for name in self.HEADER:
            table.add_column(name, justify="right")
        for row in self._cells():
            table.add_row(*row)
        return Group(table)


def _print_result(out: Console, result: Result) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def table(title: str, *columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
        for name in columns:
            made.add_column(name, justify="right")
        return made

    out.print(
        f"\n{result.frames} frames of {result.streams} stream(s), {result.fps:g} a second, refined by {result.model}.\n"
        f"The estimator dropped {result.dropped_frames} frames and missed {result.missing_joints} joints in the others."
    )
    scores = table("Errors before and after (ratio)", "lookahead", "joints", *METRICS.values())
    for row in result.rows:
        cells: list[str | Text] = [str(row.lookahead), row.joints]
        for name in METRICS:
            before, after = getattr(row.before, name), getattr(row.after, name)
            ratio = f"{after / before:.2f}" if before else "-"
            cells.append(Text(f"{before:.1f} -> {after:.1f} ({ratio})", style="red" if name in row.worse else "green"))
        scores.add_row(*cells)
    out.print(scores)
    out.print(f"Before: {BEFORE}.\n")
    filled = table("Filled in", "lookahead", "joints", "whole frames")
    for lookahead, counts in result.filled.items():
        filled.add_row(str(lookahead), str(counts["joints"]), str(counts["frames"]))
    out.print(filled)
    names = ("total", "lookahead", "queue", "engine", "transport")
    spent = table("Latency in ms, p50 / p99, from the camera's clock to here", "lookahead ", *names)
    for lookahead, parts in result.latency_ms.items():
        spent.add_row(str(lookahead), *(f"{parts[name]['p50']:.1f} / {parts[name]['p99']:.1f}" for name in names))
    out.print(spent)
    if result.helps:
        out.print("Every pose came exactly once and in order, and refinement helped on every row.")
    for problem in [*result.problems, *(f"no help: {row}" for row in result.worse)]:
        out.print(problem, style="red")
