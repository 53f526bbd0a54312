"""What a subscriber keeps of the refined poses it receives: saved recordings, latencies, and which streams ended."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtskel.client import ServerBack
from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording, check_writable, write, write_apart
from rtskel.wire import Event, Flag, Heartbeat, RefinedPose


def check_savable(path: str) -> str:
    """Checks, before hours of poses are collected, that they can be saved there.

    Returns:
        A line that says what the format cannot hold; empty if it holds everything.

    Raises:
        FormatError: unknown suffix, or a place where no file can be written.
    """
    lacks = check_writable(path)
    return lacks and f"{path} will not hold {lacks} (.npz, .csv and .jsonl do)"


def save(recordings: list[Recording], path: str) -> str:
    """Save recordings, into several files where the format cannot hold them all in one.

    Returns:
        A line that says what was saved.

    Raises:
        RtskelError: the format refuses some of them. The message says which, why, and where they are instead. The
            others are saved.
    """
    if not recordings:
        return f"no poses came: {path} is not written"
    refused: list[Recording] = []
    problem = ""
    try:
        files = write_apart(path, recordings)
    except (FormatError, MemoryError) as error:
        if path.endswith(".npz"):
            raise
        problem = str(error) or "out of memory"
        refused = [recording for recording in recordings if not _can_write(recording, path)] or recordings
        recordings = [recording for recording in recordings if recording not in refused]
        files = write_apart(path, recordings) if recordings else []
    poses = sum(recording.frames for recording in recordings)
    streams = len({recording.name for recording in recordings})
    saved = f"{poses} poses of {streams} streams saved to {', '.join(map(str, files))}"
    if not refused:
        return saved
    rescue = f"{path}.npz"
    write(rescue, refused)
    if not recordings:
        raise RtskelError(f"{problem}; all is in {rescue} instead")
    names = ", ".join(repr(recording.name) for recording in refused)
    raise RtskelError(f"{problem}; {names} in {rescue} instead; {saved}")


def _can_write(recording: Recording, path: str) -> bool:
    """Whether the format of `path` can hold this recording alone."""
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        try:
            write_apart(Path(folder, Path(path).name), [recording])
        except (FormatError, MemoryError):
            return False
    return True


class Ends:
    """Tells whether every stream that was seen has ended and none has begun for a while."""

    QUIET = 2.0

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._seen = False
        self._changed = 0.0

    @property
    def open(self) -> int:
        """Number of streams that were seen and have not ended."""
        return len(self._open)

    def add(self, message: object, now: float) -> None:
        """Take a message that came at `now`, in seconds."""
        if isinstance(message, RefinedPose):
            self._open.add(message.stream)
        elif isinstance(message, Event) and message.stream and message.kind in ("start", "end", "evicted"):
            (self._open.add if message.kind == "start" else self._open.discard)(message.stream)
        else:
            return
        self._seen, self._changed = True, now

    def over(self, now: float) -> bool:
        """Whether all streams have ended, and none has begun in the `QUIET` seconds before `now`."""
        return self._seen and not self._open and now - self._changed >= self.QUIET


class Beats:
    """The newest heartbeat of each server that is alive, as one of all of them."""

    def __init__(self) -> None:
        self._beats: dict[int, tuple[Heartbeat, int]] = {}  # by the server's epoch; and when it came

    def add(self, message: object, now_ns: int) -> None:
        """Take a message that came then."""
        if isinstance(message, Heartbeat):
            self._beats.pop(message.epoch, None)
            self._beats[message.epoch] = message, now_ns
        elif isinstance(message, ServerBack) and message.restarted:  # which was another one before
            self._beats.clear()

    def together(self, now_ns: int) -> Heartbeat | None:
        """The newest one, with the streams, frames and counts of all; None if there is none yet."""
        if not self._beats:
            return None
        newest, _ = next(reversed(self._beats.values()))
        beats = [beat for beat, came in self._beats.values() if now_ns - came <= 3 * beat.interval_ns] or [newest]
        return replace(
            newest,
            streams=sum(beat.streams for beat in beats),
            frames_in=sum(beat.frames_in for beat in beats),
            frames_out=sum(beat.frames_out for beat in beats),
            loop_fps=sum(beat.loop_fps for beat in beats),
            counts=dict(sum((Counter(beat.counts) for beat in beats), Counter())),
        )


PARTS = ("lookahead", "queue", "engine", "transport")


@dataclass(frozen=True)
class Latency:
    """Where the time between a camera frame and its refined pose went, in ms; the four parts add up to the total.

    Attributes:
        lookahead: waiting for the frames of the lookahead, at the camera's rate.
        queue: all other waiting: for a late or missing frame, for the lookahead of lifting, for the engine, in the
            server.
        engine: the engine call.
        transport: from the estimator to the server, and from the server to here.
    """

    lookahead: float
    queue: float
    engine: float
    transport: float

    @property
    def total(self) -> float:
        """Milliseconds from when the frame was taken until the pose arrived."""
        return self.lookahead + self.queue + self.engine + self.transport


def latency(pose: RefinedPose, arrived_ns: int) -> Latency | None:
    """The latency of a pose that arrived at `arrived_ns` on this machine's monotonic clock.

    None if the estimator's clock is another one. For a slot without a frame, latency counts from when its frame
    would have been taken, and transport is only the way from the server. Where a stream ended within its lookahead,
    only the time that it waited counts as lookahead.
    """
    if pose.source_clock != "monotonic" or pose.clock != "monotonic":
        return None
    total = (arrived_ns - pose.source_time_ns) / 1e6
    engine = (pose.infer_end_ns - pose.infer_start_ns) / 1e6
    transport = (arrived_ns - pose.publish_ns) / 1e6
    if pose.receive_ns:
        transport += (pose.receive_ns - pose.source_time_ns) / 1e6
    rest = total - engine - transport
    ahead = min(pose.lookahead / pose.fps * 1e3, max(rest, 0.0))
    return Latency(lookahead=ahead, queue=rest - ahead, engine=engine, transport=transport)


def percentiles(latencies: Iterable[Latency]) -> dict[str, dict[str, float]]:
    """Percentiles in ms of the total and of each part: {"total": {"p50": ..., "p99": ...}, "lookahead": ...}.

    Each part has percentiles of its own, so they do not add up to the total's.
    """
    rows = list(latencies)
    columns: dict[str, NDArray[np.float64]] = {
        name: np.array([getattr(row, name) for row in rows], float) for name in ("total", *PARTS)
    }
    return {
        name: {f"p{share}": float(np.percentile(column, share)) if len(column) else 0.0 for share in (50, 99)}
        for name, column in columns.items()
    }


def filled(poses: Iterable[RefinedPose]) -> tuple[int, int]:
    """How many joints, and how many whole frames, were filled in."""
    joints = frames = 0
    for pose in poses:
        joints += int(pose.missing.sum())
        frames += bool(pose.flags & Flag.INTERPOLATED)
    return joints, frames
