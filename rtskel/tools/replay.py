"""Replays recordings through a `Publisher` as a live estimator would send them, on time or with jitter and drops.

`schedule` computes what is sent when, without clocks or sockets; `replay` sends it by an absolute clock, so that a late
frame delays no other, and an hour's recording takes an hour.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rtskel.client import Publisher
from rtskel.curve import ClientKeys
from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording
from rtskel.wire import MAX_TIME

MAX_FPS = 10_000.0
"""Frames a second that the wire format can state."""

RECORDED = "recorded"
"""The clock of frames that are sent with the times at which they were recorded."""


@dataclass(frozen=True)
class ReplayConfig:
    """How to replay.

    Attributes:
        drop: share of frames that are not sent, chosen at random, besides those that the recording lacks.
        jitter_ms: every frame is sent up to this much later than it was taken, at random. Frames overtake each other
            where that exceeds the frame interval.
        speed: 1 is the recorded frame rate, 2 twice as fast; infinite: as fast as the receiver takes frames. Streams
            state the rate at which they are replayed. Frames have the times of the replay, as from a live estimator;
            at infinite speed those of the recording, if it has any.
        together: all recordings at once instead of one after another.
        seed: random seed.
    """

    drop: float = 0.0
    jitter_ms: float = 0.0
    speed: float = 1.0
    together: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise RtskelError(f"drop {self.drop:g}: a share in [0, 1) expected")
        if not 0 <= self.jitter_ms < math.inf:
            raise RtskelError(f"jitter {self.jitter_ms:g} ms: 0 or more expected")
        if not self.speed > 0:
            raise RtskelError(f"speed {self.speed:g}: more than 0 expected")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to do.

    Attributes:
        due: when, in seconds since the start.
        taken: when the frame was taken, in seconds since the start.
        recording: index of the recording.
        row: which of its frames is sent; -1: the stream ends.
    """

    due: float
    taken: float
    recording: int
    row: int


def schedule(recordings: Sequence[Recording], config: ReplayConfig) -> list[Item]:
    """What `replay` does, in order. Each recording's last item is its end.

    Raises:
        FormatError: a recording's replay rate exceeds what the wire format can state.
    """
    rng = np.random.default_rng(config.seed)
    items: list[Item] = []
    start = 0.0
    for number, recording in enumerate(recordings):
        rate = stated_fps(recording, config) if math.isfinite(config.speed) else math.inf
        kept = np.flatnonzero(np.greater_equal(rng.random(recording.frames), config.drop))
        late = rng.uniform(0, config.jitter_ms / 1000, recording.frames)
        taken = start + recording.slots / rate
        of_stream = [Item(float(taken[row] + late[row]), float(taken[row]), number, int(row)) for row in kept]
        end = start + float(recording.slots[-1] + 1) / rate
        end = max([end, *(item.due for item in of_stream)])
        items += [*of_stream, Item(end, end, number, -1)]
        if not config.together:
            start = end
    items.sort(key=lambda item: item.due)  # stable: a stream's end stays after its frames
    return items


def stated_fps(recording: Recording, config: ReplayConfig) -> float:
    """Frames a second that a replayed stream states."""
    rate = recording.fps * (config.speed if math.isfinite(config.speed) else 1.0)
    if rate > MAX_FPS:
        raise FormatError(
            f"recording {recording.name!r}: {recording.fps:g} frames a second at speed {config.speed:g} are more than "
            f"{MAX_FPS:g} (speed inf sends as fast as the server takes them)"
        )
    return rate


def keeps_times(recording: Recording, config: ReplayConfig) -> bool:
    """Whether frames are sent with the times at which they were recorded, instead of those of the replay.

    That is so where the replay follows no clock and the wire format can state the times.
    """
    times = recording.time_ns
    return math.isinf(config.speed) and times is not None and bool((times >= 0).all() and (times <= MAX_TIME).all())


def stream_id(name: str) -> str:
    """A stream id from a name: without folders, other characters replaced by dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/").rpartition("/")[2])[-64:] or "recording"


def stream_ids(recordings: Sequence[Recording], stream: str | None = None) -> list[str]:
    """A stream id for each recording, all different.

    Args:
        stream: the id of a single recording, or the prefix of the ids of several. Default: the recordings' names, by
            `stream_id`.
    """
    if stream is not None:
        return [stream] if len(recordings) == 1 else [f"{stream}-{number}" for number in range(1, len(recordings) + 1)]
    ids: list[str] = []
    for recording in recordings:
        name = stream_id(recording.name)
        unique, number = name, 2
        while unique in ids:
            unique = f"{name[: 60 - len(str(number))]}-{number}"
            number += 1
        ids.append(unique)
    return ids


class Sender(Protocol):
    """What `replay` needs of a `rtskel.client.Publisher`."""

    def wait_for_subscriber(self, timeout: float | None = None) -> None:
        """See `rtskel.client.Publisher.wait_for_subscriber`."""

    def send(
        self,
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32] | None = None,
        *,
        seq: int | None = None,
        time_ns: int | None = None,
        block: bool = False,
    ) -> Any:
        """See `rtskel.client.Publisher.send`."""

    def end(self, seq: int | None = None) -> Any:
        """See `rtskel.client.Publisher.end`."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Publishers:
    """The `connect` of `replay`: a `Publisher` for each recording; recordings of one layout share a socket."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        streams: Sequence[str],
        endpoint: str,
        config: ReplayConfig,
        keys: ClientKeys | None = None,
    ) -> None:
        self._recordings, self._streams, self._endpoint, self._keys = recordings, streams, endpoint, keys
        self._config = config
        self._first: dict[tuple[object, ...], Publisher] = {}
        self._all: list[Publisher] = []

    def __call__(self, number: int, fps: float) -> Publisher:
        """The publisher of that recording, stating that frame rate."""
        recording, stream = self._recordings[number], self._streams[number]
        person = recording.person or None
        layout: dict[str, Any] = {
            "skeleton": recording.skeleton,
            "axes": recording.axes,
            "mirrored": recording.mirrored,
            "unit": recording.unit or None,
            "view": recording.view or None,
            "image_size": recording.image_size,
            "clock": RECORDED if keeps_times(recording, self._config) else "monotonic",
        }
        first = self._first.get(tuple(layout.values()))
        if first is not None:
            publisher = first.sibling(stream, fps=fps, person=person)
        else:
            # `replay` waits itself.
            publisher = Publisher(
                self._endpoint, stream=stream, fps=fps, person=person, keys=self._keys, wait=0, **layout
            )
            self._first[tuple(layout.values())] = publisher
        self._all.append(publisher)
        return publisher

    @property
    def dropped(self) -> int:
        """Messages that did not reach the server; known once all publishers are closed."""
        return sum(publisher.dropped for publisher in self._all)

    @property
    def refusals(self) -> dict[str, Counter[str]]:
        """What the server refused, by stream and reason."""
        return {publisher.stream: publisher.refusals for publisher in self._all if publisher.refusals}


def wait_for_subscriber(sender: Sender, wait_s: float | None, waiting: Callable[[str], None] | None) -> None:
    """Wait until a server takes what `sender` sends.

    Args:
        wait_s: give up after this many seconds; None: never.
        waiting: told what is waited for, once that takes longer than a second.

    Raises:
        RtskelError: no subscriber came in time.
    """
    first = 1.0 if wait_s is None else min(wait_s, 1.0)
    try:
        try:
            sender.wait_for_subscriber(first)
        except TimeoutError as error:
            if first == wait_s:
                raise
            if waiting is not None:
                waiting(f"waiting: {error} yet")
            sender.wait_for_subscriber(None if wait_s is None else wait_s - first)
    except TimeoutError as error:
        raise RtskelError(f"{error} within {wait_s:g} s") from None


def replay(
    recordings: Sequence[Recording],
    connect: Callable[[int, float], Sender],
    config: ReplayConfig,
    *,
    wait_s: float | None = None,
    progress: Callable[[Item], None] | None = None,
    waiting: Callable[[str], None] | None = None,
    now_ns: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Send recordings; returns how many frames were sent.

    Nothing is sent before a subscriber is there. Each stream ends with the number of its slots, so that a receiver
    learns of frames dropped at its end. If interrupted, it ends the streams that have begun.

    Args:
        connect: makes the sender for a recording, from its index and the frame rate to state.
        wait_s: how long to wait for a subscriber of each stream; None: as long as it takes.
        progress: called after each item.
        waiting: told what is waited for, once that takes longer than a second.
        now_ns, sleep: the clock of the frames' times, and how to wait.

    Raises:
        RtskelError: no subscriber came in time.
    """
    items = schedule(recordings, config)
    with ExitStack() as stack:
        senders = _Senders(recordings, connect, config, stack)
        if config.together:
            for number in range(len(recordings)):
                senders.open(number)
        try:
            start = -1
            for item in items:
                if item.recording not in senders.begun:
                    waiting_since = now_ns()
                    senders.begin(item.recording, wait_s, waiting)
                    # Waiting makes no frame late: the replay's clock stands still until the subscriber is there.
                    start = now_ns() if start < 0 else start + now_ns() - waiting_since
                wait = start + round(item.due * 1e9) - now_ns()
                if wait > 0:
                    sleep(wait / 1e9)
                senders.send(item, now_ns() if math.isinf(config.speed) else start + round(item.taken * 1e9))
                if progress is not None:
                    progress(item)
        except BaseException:
            senders.end_all()
            raise
    return sum(item.row >= 0 for item in items)


class _Senders:
    """The senders of a replay, one for each recording, and how far each has got."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        connect: Callable[[int, float], Sender],
        config: ReplayConfig,
        stack: ExitStack,
    ) -> None:
        self._recordings, self._connect, self._config, self._stack = recordings, connect, config, stack
        self._senders: dict[int, Sender] = {}
        self.begun: dict[int, int] = {}  # slots sent so far, by recording; -1: ended

    def open(self, number: int) -> None:
        """Connect the sender of a recording, unless it is connected or there is no such recording."""
        if number not in self._senders and number < len(self._recordings):
            fps = stated_fps(self._recordings[number], self._config)
            self._senders[number] = self._stack.enter_context(self._connect(number, fps))

    def begin(self, number: int, wait_s: float | None, waiting: Callable[[str], None] | None) -> None:
        """Wait for a subscriber; the sender of the next recording connects while this one plays. RtskelError."""
        self.open(number)
        wait_for_subscriber(self._senders[number], wait_s, waiting)
        self.begun[number] = 0
        self.open(number + 1)

    def send(self, item: Item, time_ns: int) -> None:
        """Send the item's frame, taken at `time_ns` of the replay, or end its stream."""
        recording, number = self._recordings[item.recording], item.recording
        if item.row < 0:
            self._senders[number].end(int(recording.slots[-1]) + 1)
            self.begun[number] = -1
            return
        slot = int(recording.slots[item.row])
        if recording.time_ns is not None and keeps_times(recording, self._config):
            time_ns = int(recording.time_ns[item.row])
        xyz, confidence = recording.xyz[item.row, :, : recording.dims], recording.confidence[item.row]
        self._senders[number].send(xyz, confidence, seq=slot, time_ns=time_ns, block=True)
        self.begun[number] = max(self.begun[number], slot + 1)

    def end_all(self) -> None:
        """End every stream that has begun and not ended."""
        for number, slots in self.begun.items():
            if slots > 0:
                self._senders[number].end(slots)
