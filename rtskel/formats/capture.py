"""Captures: refined poses in the order in which they arrived. `rtskel subscribe --save` appends them to `FILE.part`.

A first line is followed by messages of the wire format, each preceded by the lengths of its two parts (two uint32,
little-endian). A capture that is left over because the program or the machine died can be read at any time; an
incomplete last message is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError, WireError
from rtskel.formats.parsing import Format, Options
from rtskel.formats.recording import Recording
from rtskel.wire import RefinedPose, decode

MAGIC = b"rtskel-capture-1\n"

SUFFIX = ".part"

LENGTHS = struct.Struct("<II")

MAX_HOLE_S = 60.0
"""A hole longer than this begins a new recording: formats without frame numbers write every dropped frame."""

BLOCK = 512
"""Poses are kept as arrays of this many."""


class Collector:
    """Gathers refined poses into recordings, one for each stream and lookahead.

    Poses are kept in the order of arrival; nothing is sorted or discarded. Where a stream restarts (a new epoch of its
    estimator, another layout, a frame number that goes back or leaps), a new recording begins, called `name@2`,
    `name@3`, ...
    """

    def __init__(self) -> None:
        self._takes: dict[tuple[str, int], list[_Take]] = {}

    def add(self, pose: RefinedPose) -> None:
        """Take one pose."""
        takes = self._takes.setdefault((pose.stream, pose.lookahead), [])
        if not takes or not takes[-1].continues(pose):
            takes.append(_Take(f"{pose.stream}@{len(takes) + 1}" if takes else pose.stream))
        takes[-1].add(pose)

    def recordings(self) -> list[Recording]:
        """All poses so far, as recordings ready for `rtskel.formats.write`; in the order in which streams appeared.

        Raises:
            FormatError: a stream cannot be a recording, such as one of 2000 frames a second.
        """
        return [take.recording() for takes in self._takes.values() for take in takes]

    def valid_recordings(self) -> tuple[list[Recording], list[str]]:
        """As `recordings`, but without the streams that cannot be recordings, and a line for each of those."""
        recordings, refused = [], []
        for takes in self._takes.values():
            for take in takes:
                try:
                    recordings.append(take.recording())
                except FormatError as error:
                    refused.append(str(error))
        return recordings, refused


class _Take:
    """Consecutive poses of one stream at one lookahead."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pending: list[RefinedPose] = []
        self._blocks: list[dict[str, NDArray[Any]]] = []
        self._last: RefinedPose | None = None

    def continues(self, pose: RefinedPose) -> bool:
        """Whether `pose` follows the last one."""
        last = self._last
        if last is None:
            return True
        alike = pose.xyz.shape == last.xyz.shape and all(
            getattr(pose, name) == getattr(last, name)
            for name in ("source_epoch", "skeleton", "axes", "mirrored", "about")
        )
        step = slot_of(pose) - slot_of(last)
        return alike and (step == 1 or 0 < step <= MAX_HOLE_S * last.fps)

    def add(self, pose: RefinedPose) -> None:
        self._last = pose
        self._pending.append(pose)
        if len(self._pending) == BLOCK:
            self._pack()

    def _pack(self) -> None:
        poses, self._pending = self._pending, []
        if poses:
            self._blocks.append(
                {
                    "xyz": np.stack([pose.xyz for pose in poses]),
                    "confidence": np.stack([pose.confidence for pose in poses]),
                    "sigma": np.stack([pose.sigma for pose in poses]),
                    "slot": np.array([slot_of(pose) for pose in poses], np.int64),
                    "time_ns": np.array([pose.source_time_ns for pose in poses], np.int64),
                    "windows": np.array([pose.windows for pose in poses], np.int32),
                    "flags": np.array([int(pose.flags) for pose in poses], np.int32),
                }
            )

    def recording(self) -> Recording:
        self._pack()
        last = self._last
        assert last is not None
        columns: dict[str, Any] = {
            name: np.concatenate([block[name] for block in self._blocks]) for name in self._blocks[0]
        }
        return Recording(
            fps=last.fps,
            name=self._name,
            skeleton=last.skeleton,
            axes=last.axes,
            mirrored=last.mirrored,
            unit=last.about.unit or "unknown",
            person=last.about.person,
            view=last.about.view,
            image_size=last.about.image_size,
            lookahead=last.lookahead,
            **columns,
        )


def slot_of(pose: RefinedPose) -> int:
    """The estimator's frame number, or the output's number if the estimator has none."""
    return pose.seq if pose.source_seq is None else pose.source_seq


def collected(file: IO[bytes]) -> tuple[Collector, bool]:
    """The poses in a capture, and whether its last message is complete.

    Raises:
        FormatError: not a capture.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise FormatError("not a capture of rtskel subscribe --save")
    collector = Collector()
    for pose in (poses := _Poses(file)):
        collector.add(pose)
    return collector, poses.whole


class _Poses:
    """Iterates over the poses of a capture, after its first line.

    Attributes:
        whole: whether all messages so far were complete.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.whole = True

    def __iter__(self) -> Iterator[RefinedPose]:
        while header := self._file.read(LENGTHS.size):
            message = self._message(header)
            if message is None:
                self.whole = False
                return
            if isinstance(message, RefinedPose):
                yield message

    def _message(self, header: bytes) -> object:
        """The next message; None if the capture is cut off in it, or damaged: a machine that lost power may leave
        anything at the end.
        """
        if len(header) < LENGTHS.size:
            return None
        topic, body = map(self._file.read, LENGTHS.unpack(header))
        try:
            return decode(topic, body)
        except WireError:
            return None


def read_capture(path: Path, options: Options) -> list[Recording]:
    """Read the recordings in an unfinished capture."""
    try:
        with open(path, "rb") as file:
            collector, whole = collected(file)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    recordings, refused = collector.valid_recordings()
    if not recordings:
        raise FormatError(f"{path}: {'; '.join(refused) or 'no poses'}")
    options.note("an unfinished capture: what came after its last pose is not in it")
    if not whole:
        options.note("an unfinished last message skipped")
    for words in refused:
        options.note(f"left out: {words}")
    return recordings


FORMAT = Format("capture", (SUFFIX,), read_capture, mark=rb"\A" + MAGIC, own=True)
