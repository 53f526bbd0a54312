"""Sources bring raw poses of other programs to a server: `rtskel receive NAME`. Each is a plugin in a file of its own.

In: whatever the other program speaks. Out: raw poses, published to a server. To write one, subclass `Source`, describe
it in a `SourcePlugin`, and name that in your package's entry points:

    [project.entry-points."rtskel.sources"]
    tracker = "my_package.tracker:PLUGIN"
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtskel.client import Publisher
from rtskel.closing import Closing
from rtskel.curve import ClientKeys
from rtskel.skeleton import CANONICAL_AXES, UPPER_BODY_50

GROUP = "rtskel.sources"
"""The group of entry points where sources are found."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One pose.

    Attributes:
        xyz: float32 [J, 3] in any unit, or [J, 2] without depth.
        confidence: float32 [J] in 0..1, 0 = missing; None: every joint that is finite is there.
        time_ns: when it was taken, on the source's clock; None: now.
        seq: frame number; None: placed by its time.
    """

    xyz: NDArray[np.float32]
    confidence: NDArray[np.float32] | None = None
    time_ns: int | None = None
    seq: int | None = None


class Source(Closing, ABC):
    """Where raw poses of one person come from. A context manager.

    Attributes:
        stream: what the stream is called unless the user says otherwise.
        fps: frames a second.
        clock: the clock of `Frame.time_ns`: "monotonic", "unix", or a name.
        axes, mirrored, skeleton, unit: what positions mean, as in `rtskel.Publisher`.
    """

    stream: str
    fps: float
    clock: str = "monotonic"
    axes: str = CANONICAL_AXES
    mirrored: bool = False
    skeleton: str = UPPER_BODY_50.id
    unit: str | None = None

    @abstractmethod
    def frame(self, timeout: float) -> Frame | None:
        """The next frame; None if none came in that many seconds. EOFError: there will be no other."""

    def close(self) -> None:
        """Frees what the source holds."""
        return


@dataclass(frozen=True)
class SourcePlugin:
    """What `rtskel receive` knows of a source.

    Attributes:
        summary: where poses come from, in one line.
        more: shown below the options: details, and examples.
        options: adds the source's own options to its parser.
        open: makes the source from the parsed options. Heavy imports belong in here. RtskelError says why it cannot.
    """

    summary: str
    more: str
    options: Callable[[argparse.ArgumentParser], None]
    open: Callable[[argparse.Namespace], Source]


def publish(
    source: Source,
    endpoint: str,
    *,
    stream: str | None = None,
    keys: ClientKeys | None = None,
    wait: float | None = None,
    running: Callable[[], bool] = lambda: True,
) -> int:
    """Publishes what a source gives, until it ends.

    Args:
        endpoint: where the server takes raw poses.
        stream: id; default: the source's.
        wait: seconds to wait for a server; None: for ever.
        running: ends when this is false.

    Returns:
        How many frames were sent.

    Raises:
        TimeoutError: no server in that time.
    """
    with Publisher(
        endpoint,
        stream=stream or source.stream,
        fps=source.fps,
        clock=source.clock,
        axes=source.axes,
        mirrored=source.mirrored,
        skeleton=source.skeleton,
        unit=source.unit,
        keys=keys,
    ) as publisher:
        publisher.wait_for_subscriber(wait)
        while running():
            try:
                frame = source.frame(0.1)
            except EOFError:
                break
            if frame is not None:
                publisher.send(frame.xyz, frame.confidence, seq=frame.seq, time_ns=frame.time_ns)
        return publisher.sent
