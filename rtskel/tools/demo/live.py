"""The demo's live part: a server process, a replay into it, and the poses that come out."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rtskel.client import Subscriber
from rtskel.formats import Recording
from rtskel.tools.collect import Latency, latency
from rtskel.tools.demo.processes import ReplayThread, ServerProcess
from rtskel.tools.demo.truth import Truth
from rtskel.tools.demo.view import View
from rtskel.tools.replay import ReplayConfig, schedule, stream_ids
from rtskel.tools.watch import Display
from rtskel.training.score import joint_groups
from rtskel.wire import Event, RefinedPose

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class DemoConfig:
    """What to show.

    Attributes:
        recording: a clean recording to use as the truth; None: the bundled one, which includes an estimate.
        lookaheads: in frames.
        engine: engine file; None: the bundled one.
        speed: how many times as fast as recorded to replay.
        json: print one JSON object instead of tables.
        seed: random seed of the estimator's errors that are added to `recording`.
    """

    recording: str | None = None
    lookaheads: tuple[int, ...] = (0, 4)
    engine: str | None = None
    speed: float = 1.0
    json: bool = False
    seed: int = 1

    @property
    def source(self) -> str:
        """What is replayed, in words."""
        return "the bundled recording" if self.recording is None else self.recording

    @property
    def replay(self) -> ReplayConfig:
        """How it is replayed."""
        return ReplayConfig(speed=self.speed)


@dataclass(frozen=True)
class Arrival:
    """A pose that arrived, and where its latency comes from."""

    pose: RefinedPose
    spent: Latency | None


@dataclass
class Run:
    """What arrived, by stream and lookahead, in order."""

    arrivals: dict[tuple[int, int], list[Arrival]]
    model: str = ""
    ended: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def play(config: DemoConfig, truths: list[Recording], estimates: list[Recording], out: Console | None) -> Run:
    """Replay the estimates through a server and collect its poses; `out` shows figures meanwhile."""
    streams = stream_ids(estimates)
    run = Run({(number, lookahead): [] for number in range(len(streams)) for lookahead in config.lookaheads})
    patience = 30 + 1.5 * schedule(estimates, config.replay)[-1].due
    view = View(
        [Truth.of(truth, estimate) for truth, estimate in zip(truths, estimates, strict=True)],
        joint_groups(truths[0].skeleton)["all"],
        round(2 * truths[0].fps),
        config.lookaheads,
    )
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ServerProcess(config.lookaheads, config.engine))
        ready = server.ready()
        run.model = ready["model"]
        subscriber = stack.enter_context(
            Subscriber(ready["refined"], lookahead=config.lookaheads, queue=100_000, everything=True)
        )
        while not subscriber.connected:  # from then on, everything published is received
            server.check()
            with contextlib.suppress(TimeoutError):
                subscriber.wait_for_server(timeout=0.2)
        deadline = time.monotonic() + patience
        shown = None if out is None else stack.enter_context(Display(out, view.lines))
        with ReplayThread(estimates, streams, ready["raw"], config.replay) as sender:
            while len(run.ended) < len(streams):
                sender.check()
                server.check()
                if time.monotonic() > deadline:
                    run.problems.append(f"{len(streams) - len(run.ended)} streams did not end in time")
                    break
                _receive(subscriber, streams, run, view)
                if shown is not None:
                    shown.update(view)
        run.problems += [f"{count} poses of {key} were lost on the way" for key, count in subscriber.lost.items()]
    return run


def _receive(subscriber: Subscriber, streams: list[str], run: Run, view: View) -> None:
    """Wait a moment for the next message."""
    try:
        message = subscriber.recv(timeout=0.2)
    except TimeoutError:
        return
    if isinstance(message, RefinedPose):
        number = streams.index(message.stream)
        arrival = Arrival(message, latency(message, time.monotonic_ns()))
        run.arrivals[number, message.lookahead].append(arrival)
        view.add(number, arrival.pose, arrival.spent)
    elif isinstance(message, Event) and message.kind == "end":
        run.ended.add(streams.index(message.stream))
