"""Where the poses of the picture come from: a running server, or recordings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rtskel import wire
from rtskel.client import ServerBack, ServerGone, Subscriber
from rtskel.client.reader import Given
from rtskel.errors import FormatError
from rtskel.formats import Recording
from rtskel.skeleton import SKELETONS, to_canonical
from rtskel.tools.collect import Beats
from rtskel.view.packets import Track, pack, text

MOST_STREAMS = 64
"""Streams that a picture can show. Those beyond it are counted, and the page says so."""

GATHER_S = 0.004
"""How long poses are gathered into one message: far less than a screen's refresh."""

CHUNK = 256
"""Frames of a recording in one packet."""


def now_ms() -> float:
    """The clock of the view: the machine's monotonic one."""
    return time.monotonic_ns() / 1e6


class Feed(Protocol):
    """What a `Site` shows.

    Attributes:
        source: what it is called on the page.
        live: whether poses go on coming.
    """

    source: str
    live: bool

    def backlog(self) -> Iterable[str | bytes]:
        """What a page that opens now must get first. Called in the thread of the site."""

    def run(self, emit: Callable[[list[str | bytes]], None], running: Callable[[], bool]) -> None:
        """Gives messages to `emit` until `running()` is false or nothing more comes. Runs in a thread of its own."""


def hello(feed: Feed) -> str:
    """The first message of each page."""
    skeletons = {
        name: {"names": body.names, "parents": body.parents, "bones": body.bone_length}
        for name, body in SKELETONS.items()
    }
    return text("hello", live=feed.live, source=feed.source, now=now_ms(), skeletons=skeletons)


class LiveFeed:
    """All that a server publishes.

    Args:
        subscriber: to read from; closed by its owner. It should give raw poses, heartbeats and events.
        streams: those to show; None: all.
    """

    live = True

    def __init__(self, subscriber: Subscriber, streams: Sequence[str] | None = None) -> None:
        self._streams = streams
        self.source = subscriber.endpoint
        self._subscriber = subscriber
        self._tracks: dict[tuple[str, int | None], Track] = {}
        self._made = 0
        self._unshown: set[str] = set()
        self._beats = Beats()

    def backlog(self) -> list[str | bytes]:
        """What a viewer who joins now needs first: a description of each track."""
        return [track.describe() for track in list(self._tracks.values())]

    def run(self, emit: Callable[[list[str | bytes]], None], running: Callable[[], bool]) -> None:
        """Emit what arrives while `running()` is true."""
        while running():
            messages = self._gather()
            if messages:
                emit([part for message in messages for part in self._translate(message, time.monotonic_ns())])

    def _gather(self) -> list[Given]:
        """What comes within `GATHER_S` of the next message; nothing if none comes for a while."""
        messages: list[Given] = []
        left = 0.2
        while left >= 0:
            try:
                messages.append(self._subscriber.recv(left))
            except TimeoutError:
                break
            if len(messages) == 1:
                until = time.monotonic() + GATHER_S
            left = until - time.monotonic()
        return messages

    def _translate(self, message: Given, arrived_ns: int) -> Iterator[str | bytes]:
        self._beats.add(message, arrived_ns)
        match message:
            case wire.RefinedPose():
                yield from self._refined(message, arrived_ns)
            case wire.RawPose() | wire.RawBatch():
                yield from self._raw(message, arrived_ns)
            case wire.Event():
                if message.kind == "evicted":
                    self._forget(message.stream)
                yield text(
                    "event", stream=message.stream, kind=message.kind, detail=message.detail, now=arrived_ns / 1e6
                )
            case wire.Heartbeat():
                beat = self._beats.together(arrived_ns) or message
                yield text(
                    "beat",
                    now=arrived_ns / 1e6,
                    interval=beat.interval_ns / 1e6,
                    model=beat.model,
                    lookaheads=list(beat.lookaheads),
                    streams=beat.streams,
                    fps=beat.loop_fps,
                    counts=dict(beat.counts),
                    unshown=len(self._unshown),
                )
            case ServerGone():
                yield text("event", stream="", kind="gone", detail="nothing comes any more", now=arrived_ns / 1e6)
            case ServerBack():
                detail = "another server" if message.restarted else "the server is back"
                yield text("event", stream="", kind="back", detail=detail, now=arrived_ns / 1e6)
            case _:  # of a later version, and nothing that can be drawn
                return

    def _refined(self, pose: wire.RefinedPose, arrived_ns: int) -> Iterator[str | bytes]:
        published = arrived_ns
        if pose.clock == "monotonic" and 0 <= arrived_ns - pose.publish_ns < 60_000_000_000:
            published = pose.publish_ns  # of this machine's clock, or by chance close to it
        track = yield from self._track(pose.stream, pose.lookahead, pose.fps, pose.skeleton)
        if track is not None:
            age = (arrived_ns - pose.source_time_ns) / 1e6 if pose.source_clock == "monotonic" else math.nan
            yield pack(
                track.id,
                [pose.source_time_ns / 1e6],
                [published / 1e6],
                [age],
                to_canonical(pose.xyz, pose.axes, pose.mirrored)[None],
                pose.sigma[None],
                pose.confidence[None],
                [int(pose.flags)],
            )

    def _raw(self, poses: wire.RawPose | wire.RawBatch, arrived_ns: int) -> Iterator[str | bytes]:
        streams = [poses.stream] if isinstance(poses, wire.RawPose) else poses.streams
        joints = poses.xyz.shape[-2]
        xyz = to_canonical(poses.xyz, poses.axes, poses.mirrored).reshape(len(streams), joints, 3)
        confidence = poses.confidence.reshape(len(streams), joints)
        for which, stream in enumerate(streams):
            track = yield from self._track(stream, None, poses.fps, poses.skeleton)
            if track is not None:
                rows = slice(which, which + 1)
                times = [poses.time_ns / 1e6], [arrived_ns / 1e6], [math.nan]
                yield pack(track.id, *times, xyz[rows], None, confidence[rows], [0])

    def _track(
        self, stream: str, lookahead: int | None, fps: float, skeleton: str
    ) -> Generator[str, None, Track | None]:
        """The track of these poses, which is announced first if it is new; None if it cannot be shown."""
        track = self._tracks.get((stream, lookahead))
        if track is None or (track.fps, track.skeleton) != (fps, skeleton):
            if skeleton not in SKELETONS or not self._room_for(stream):
                return None
            self._made += 1
            track = self._tracks[stream, lookahead] = Track(self._made, stream, lookahead, fps, skeleton)
            yield track.describe()
        return track

    def _room_for(self, stream: str) -> bool:
        shown = {name for name, _ in self._tracks}
        if self._streams is not None and stream not in self._streams:
            return False  # somebody else in a batch of raw poses
        if stream in shown or len(shown) < MOST_STREAMS:
            self._unshown.discard(stream)
            return True
        self._unshown.add(stream)
        return False

    def _forget(self, stream: str) -> None:
        self._unshown.discard(stream)
        for key in [key for key in self._tracks if key[0] == stream]:
            del self._tracks[key]


@dataclass(frozen=True)
class _Part:
    track: Track
    recording: Recording


class RecordingFeed:
    """Recordings of files, each of which is shown with the refined ones of its name.

    Args:
        files: of each file its name and its recordings. Where every file holds one recording, these are taken for the
            same person, whatever they are called.

    Raises:
        FormatError: nothing to show, or more streams than fit into a picture.
    """

    live = False

    def __init__(self, files: Sequence[tuple[str, Sequence[Recording]]]) -> None:
        self.source = ", ".join(name for name, _ in files)
        same = len(files) > 1 and all(len(recordings) == 1 for _, recordings in files)
        self._parts: list[_Part] = []
        taken: set[tuple[str, int | None]] = set()
        for name, recordings in files:
            for recording in recordings:
                stream = files[0][1][0].name if same else recording.name
                if (stream, recording.lookahead) in taken:
                    stream = f"{stream} ({name})"
                taken.add((stream, recording.lookahead))
                number = len(self._parts) + 1
                track = Track(number, stream, recording.lookahead, recording.fps, recording.skeleton)
                self._parts.append(_Part(track, recording))
        streams = {part.track.stream for part in self._parts}
        if len(streams) > MOST_STREAMS:
            raise FormatError(
                f"{self.source}: {len(streams)} sequences are more than a picture shows ({MOST_STREAMS}): choose some "
                "with --stream"
            )

    def backlog(self) -> Iterator[str | bytes]:
        """Everything: all tracks, then all poses."""
        for part in self._parts:
            yield part.track.describe()
        for part in self._parts:
            yield from _packets(part.track, part.recording)
        yield text("done")

    def run(self, emit: Callable[[list[str | bytes]], None], running: Callable[[], bool]) -> None:
        """Emit nothing: the backlog holds everything."""
        return


def _packets(track: Track, recording: Recording) -> Iterator[bytes]:
    xyz = recording.canonical()
    times = recording.slots.astype(np.float64) * (1000 / recording.fps)
    flags = np.zeros(recording.frames, np.int32) if recording.flags is None else recording.flags
    nothing = np.zeros(recording.frames)
    for first in range(0, recording.frames, CHUNK):
        rows = slice(first, first + CHUNK)
        yield pack(
            track.id,
            times[rows],
            nothing[rows],
            np.full(len(times[rows]), np.nan),
            xyz[rows],
            None if recording.sigma is None else recording.sigma[rows],
            recording.confidence[rows],
            flags[rows],
        )
