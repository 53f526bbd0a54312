"""What a subscriber keeps of the refined poses it receives: recordings to save, latencies, and which streams ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording, check_writable, write, write_apart
from rtskel.wire import Event, Flag, Message, RefinedPose


class Collector:
    """Gathers refined poses into recordings, one for each stream and lookahead.

    Poses are kept in the order of arrival; nothing is sorted or discarded. Where a stream restarts (a new epoch of its
    estimator, or a frame number that does not ascend), a new recording begins, called `name@2`, `name@3`, ...
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], list[list[RefinedPose]]] = {}

    def add(self, pose: RefinedPose) -> None:
        """Take one pose."""
        parts = self._parts.setdefault((pose.stream, pose.lookahead), [])
        if not parts or parts[-1][-1].source_epoch != pose.source_epoch or slot_of(pose) <= slot_of(parts[-1][-1]):
            parts.append([])
        parts[-1].append(pose)

    def recordings(self) -> list[Recording]:
        """All poses so far, as recordings ready for `rtskel.formats.write`; in the order in which streams appeared."""
        return [
            _recording(f"{stream}@{number}" if number > 1 else stream, poses)
            for (stream, _), parts in self._parts.items()
            for number, poses in enumerate(parts, 1)
        ]


def slot_of(pose: RefinedPose) -> int:
    """The estimator's frame number, or the output's number if the estimator has none."""
    return pose.seq if pose.source_seq is None else pose.source_seq


def _recording(name: str, poses: list[RefinedPose]) -> Recording:
    first = poses[0]
    return Recording(
        np.stack([pose.xyz for pose in poses]),
        first.fps,
        name,
        confidence=np.stack([pose.confidence for pose in poses]),
        skeleton=first.skeleton,
        axes=first.axes,
        mirrored=first.mirrored,
        unit="unknown",
        slot=np.array([slot_of(pose) for pose in poses], np.int64),
        time_ns=np.array([pose.source_time_ns for pose in poses], np.int64),
        lookahead=first.lookahead,
        sigma=np.stack([pose.sigma for pose in poses]),
        windows=np.array([pose.windows for pose in poses], np.int32),
        flags=np.array([int(pose.flags) for pose in poses], np.int32),
    )


def check_savable(path: str) -> str:
    """Before hours of poses are collected: check that they can be saved there.

    Returns:
        A line that says what of them the format cannot hold; empty if it holds everything.

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
        RtskelError: they could not be saved there; what the format refused is in `path`.npz.
    """
    if not recordings:
        return f"no poses came: {path} is not written"
    try:
        files = write_apart(path, recordings)
    except FormatError as error:
        if path.endswith(".npz"):
            raise
        rescue = f"{path}.npz"
        write(rescue, recordings)
        raise RtskelError(f"{error}; all is in {rescue} instead") from None
    poses = sum(recording.frames for recording in recordings)
    streams = len({recording.name for recording in recordings})
    return f"{poses} poses of {streams} streams saved to {', '.join(map(str, files))}"


class Ends:
    """Knows whether every stream that was seen has ended, and none has begun for a while."""

    QUIET = 2.0

    def __init__(self) -> None:
        self._open: dict[str, bool] = {}
        self._changed = 0.0

    def add(self, message: Message, now: float) -> None:
        """Take a message that came at `now`, in seconds."""
        if isinstance(message, RefinedPose):
            self._open[message.stream] = True
            self._changed = now
        elif isinstance(message, Event) and message.stream and message.kind in ("start", "end", "evicted"):
            self._open[message.stream] = message.kind == "start"
            self._changed = now

    def over(self, now: float) -> bool:
        """Whether all streams have ended, and none has begun in the `QUIET` seconds before `now`."""
        return bool(self._open) and not any(self._open.values()) and now - self._changed >= self.QUIET


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
        """ms from when the frame was taken until the pose arrived."""
        return self.lookahead + self.queue + self.engine + self.transport


def latency(pose: RefinedPose, arrived_ns: int) -> Latency | None:
    """The latency of a pose that arrived at `arrived_ns` on this machine's monotonic clock.

    None if the estimator's clock is another one. For a slot without a frame, latency is measured from when its frame
    would have been taken, and transport has one leg only. Where a stream ended within its lookahead, only the time
    that was waited counts as lookahead.
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


def percentiles(latencies: Iterable[Latency], shares: tuple[float, ...] = (50, 99)) -> dict[str, dict[str, float]]:
    """Percentiles in ms of the total and of each part: {"total": {"p50": ..., "p99": ...}, "lookahead": ...}.

    Each part has percentiles of its own, so they do not add up to the total's.
    """
    rows = list(latencies)
    columns: dict[str, NDArray[np.float64]] = {
        name: np.array([getattr(row, name) for row in rows], float) for name in ("total", *PARTS)
    }
    return {
        name: {f"p{share:g}": float(np.percentile(column, share)) if len(column) else 0.0 for share in shares}
        for name, column in columns.items()
    }


def filled(poses: Iterable[RefinedPose]) -> tuple[int, int]:
    """How many joints, and how many whole frames, were filled in."""
    joints = frames = 0
    for pose in poses:
        joints += int(pose.missing.sum())
        frames += bool(pose.flags & Flag.INTERPOLATED)
    return joints, frames
