"""Sinks take refined poses to other programs: `rtskel send NAME`. Each is a plugin in a file of its own.

In: refined poses of a server. Out: whatever the other program speaks. To write one, subclass `Sink`, describe it in a
`SinkPlugin`, and name that in your package's entry points:

    [project.entry-points."rtskel.sinks"]
    osc = "my_package.osc:PLUGIN"
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from rtskel.client import Subscriber
from rtskel.closing import Closing
from rtskel.wire import Event, RefinedPose

GROUP = "rtskel.sinks"
"""The group of entry points where sinks are found."""

SHOULDER_WIDTH_M = 0.37
"""What a shoulder width is taken for where the unit of poses is not known."""


class Sink(Closing, ABC):
    """Where refined poses go. A context manager; closed when sending ends, however it ends."""

    @abstractmethod
    def pose(self, pose: RefinedPose) -> None:
        """Takes the next pose of a stream. Called in the order in which poses are published."""

    def end(self, stream: str) -> None:
        """The stream is over: no pose of it comes any more, or one of a new life."""
        return

    def close(self) -> None:
        """Frees what the sink holds."""
        return


@dataclass(frozen=True)
class SinkPlugin:
    """What `rtskel send` knows of a sink.

    Attributes:
        summary: where it takes poses, in one line.
        more: shown below the options: details, and examples.
        options: adds the sink's own options to its parser.
        open: makes the sink from the parsed options. Heavy imports belong in here. RtskelError says why it cannot.
    """

    summary: str
    more: str
    options: Callable[[argparse.ArgumentParser], None]
    open: Callable[[argparse.Namespace], Sink]


def forward(
    subscriber: Subscriber,
    sink: Sink,
    *,
    lookahead: int | None = None,
    until_end: bool = False,
    running: Callable[[], bool] = lambda: True,
) -> int:
    """Gives a sink what a subscriber receives.

    Args:
        subscriber: must give events.
        lookahead: of the poses; None: the longest that the server publishes.
        until_end: end as soon as every stream that was seen has ended.
        running: ends when this is false.

    Returns:
        How many poses were sent.
    """
    sent, open_streams, any_ended = 0, set[str](), False
    while lookahead is None and running():
        with suppress(TimeoutError):  # what comes meanwhile is kept
            lookahead = max(subscriber.wait_for_server(0.1).lookaheads, default=0)
    while running() and not (until_end and any_ended and not open_streams):
        try:
            message = subscriber.recv(timeout=0.1)
        except TimeoutError:
            continue
        if isinstance(message, RefinedPose):
            if message.lookahead == lookahead:
                sink.pose(message)
                sent += 1
                open_streams.add(message.stream)
        elif isinstance(message, Event) and message.kind in ("end", "evicted") and message.stream in open_streams:
            sink.end(message.stream)
            open_streams.discard(message.stream)
            any_ended = True
    return sent
