"""The messages of the wire format as frozen objects. WIRE.md specifies the format.

Arrays are float32 unless stated; J is the number of joints, K the number of poses in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rtskel.flags import Flag

F32: TypeAlias = NDArray[np.float32]
I64: TypeAlias = NDArray[np.int64]

_M = TypeVar("_M")


@dataclass(frozen=True, slots=True)
class About:
    """What poses are of, as far as their sender says. Refined poses say the same as the raw ones.

    It does not change within a stream's life: a message that says something else restarts the stream.

    Attributes:
        unit: of positions: "m", "cm", "mm", "px", or any other name. None: unknown; likewise below.
        person: who it is. Of single streams: in a batch, stream ids tell people apart.
        view: which camera it is.
        image_size: (width, height) in pixels of the image in which the poses were found.
    """

    unit: str | None = None
    person: str | None = None
    view: str | None = None
    image_size: tuple[int, int] | None = None


NOTHING = About()


@dataclass(frozen=True, slots=True, eq=False)
class RawPose:
    """One frame from a pose estimator.

    Attributes:
        stream: stream id, 1..64 of [A-Za-z0-9._-].
        epoch: random number, drawn when the estimator starts; a new epoch restarts the stream.
        seq: frame number on the camera's clock, 0, 1, 2, ...; a dropped frame leaves a hole. None: the server places
            the frame by `time_ns` and `fps`.
        time_ns: capture time, in ns of `clock`.
        clock: "monotonic", "unix", or a name that the estimator chooses.
        fps: frames per second of the camera.
        xyz: [J, 3] positions in any unit, along `axes`.
        confidence: [J] in 0..1. 0 means missing; `xyz` is then meaningless, but finite.
        skeleton: skeleton id, such as "upper-body-50".
        axes: directions in which x, y and z grow, see `rtskel.skeleton.axes_matrix`.
        mirrored: the image is mirrored, as in selfie cameras.
        lossless: keep every frame. An overloaded server delays this stream; of other streams it takes the newest
            frames first.
        dims: 3, or 2 if the estimator has no depth; z is then meaningless.
        about: what the pose is of.
    """

    stream: str
    epoch: int
    seq: int | None
    time_ns: int
    clock: str
    fps: float
    xyz: F32
    confidence: F32
    skeleton: str
    axes: str = "RDT"
    mirrored: bool = False
    lossless: bool = False
    dims: int = 3
    about: About = NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class RawBatch:
    """One camera frame with several people: the raw poses of all of them in one message.

    A known person who is out of sight should be included with confidence 0. Otherwise the server waits for a frame of
    that person.

    Attributes:
        group: id of the sender, such as the camera; same characters as a stream id.
        streams: K different stream ids, one per person.
        epoch, seq, time_ns, clock, fps, skeleton, axes, mirrored, lossless, dims, about: as in `RawPose`, common to
            all.
        xyz: [K, J, 3].
        confidence: [K, J].
    """

    group: str
    streams: Sequence[str]
    epoch: int
    seq: int | None
    time_ns: int
    clock: str
    fps: float
    xyz: F32
    confidence: F32
    skeleton: str
    axes: str = "RDT"
    mirrored: bool = False
    lossless: bool = False
    dims: int = 3
    about: About = NOTHING

    def poses(self) -> list[RawPose]:
        """The same frame as one message per person. The arrays are views."""
        source = self.epoch, self.seq, self.time_ns, self.clock, self.fps
        space = self.skeleton, self.axes, self.mirrored, self.lossless, self.dims, self.about
        people = zip(self.streams, self.xyz, self.confidence, strict=True)
        return [make_raw(stream, *source, xyz, confidence, *space) for stream, xyz, confidence in people]


@dataclass(frozen=True, slots=True, eq=False)
class StreamEnd:
    """The estimator ends a stream. Sent on the stream's raw topic.

    Attributes:
        seq: number of slots in the stream, which is the next frame number. None: the last frame sent was the last one.
    """

    stream: str
    epoch: int
    seq: int | None
    time_ns: int
    clock: str


@dataclass(frozen=True, slots=True, eq=False)
class RefinedPose:
    """One refined slot at one lookahead.

    Attributes:
        lookahead: number of later frames that the refinement could use.
        epoch: random number, drawn when the server starts.
        seq: output slot of this stream, 0, 1, 2, ... in each epoch. A hole means that the reader lost poses.
        source_epoch, source_seq, source_time_ns, source_clock, fps: as in the raw frame. An interpolated slot has the
            number (None in streams without numbers) and the time that its frame would have had.
        receive_ns: when the server read the raw frame, in ns of `clock`; 0 if no frame came.
        infer_start_ns, infer_end_ns: start and end of the engine call that completed this pose.
        publish_ns: just before sending.
        clock: of these four times; "monotonic" is the server's CLOCK_MONOTONIC.
        windows: number of predictions averaged.
        flags: a set of `Flag`.
        model: id of the engine's weights.
        xyz: [J, 3], in the unit, axes and place of the raw pose.
        confidence: [J] as received; 0 where the joint is filled in.
        missing: bool [J]; the joint was not seen, so `xyz` comes from the model alone.
        sigma: [J] spread of the averaged predictions, in the unit of `xyz`.
        about: as in the raw frame.
    """

    stream: str
    lookahead: int
    epoch: int
    seq: int
    source_epoch: int
    source_seq: int | None
    source_time_ns: int
    source_clock: str
    fps: float
    receive_ns: int
    infer_start_ns: int
    infer_end_ns: int
    publish_ns: int
    clock: str
    windows: int
    flags: Flag
    skeleton: str
    model: str
    axes: str
    mirrored: bool
    xyz: F32
    confidence: F32
    missing: NDArray[np.bool_]
    sigma: F32
    about: About = NOTHING


class Source(NamedTuple):
    """Origin of one pose in a `RefinedBatch`; the fields are those of `RefinedPose` (`source_epoch`, ...)."""

    stream: str
    epoch: int
    clock: str
    fps: float
    axes: str
    mirrored: bool
    about: About = NOTHING


ROW = ("seq", "source_seq", "source_time_ns", "receive_ns", "windows", "flags")
"""Columns of `RefinedBatch.numbers`."""


@dataclass(frozen=True, slots=True, eq=False)
class RefinedBatch:
    """Refined poses of many streams at one lookahead in one message, for readers of all streams.

    Attributes:
        lookahead, epoch, infer_start_ns, infer_end_ns, publish_ns, clock, skeleton, model: as in `RefinedPose`, common
            to all.
        sources: K of `Source`. A stream may occur several times, in the order of its slots.
        numbers: int64 [K, 6]: the columns `ROW` of each pose; source_seq is -1 for None.
        xyz: [K, J, 3].
        confidence: [K, J].
        missing: bool [K, J].
        sigma: [K, J].
    """

    lookahead: int
    epoch: int
    infer_start_ns: int
    infer_end_ns: int
    publish_ns: int
    clock: str
    skeleton: str
    model: str
    sources: Sequence[Source]
    numbers: I64
    xyz: F32
    confidence: F32
    missing: NDArray[np.bool_]
    sigma: F32

    def poses(self) -> list[RefinedPose]:
        """The same poses as one message each. The arrays are views."""
        times = self.infer_start_ns, self.infer_end_ns, self.publish_ns, self.clock
        columns = self.sources, self.numbers.tolist(), self.xyz, self.confidence, self.missing, self.sigma
        poses = []
        for source, (seq, source_seq, time_ns, receive_ns, windows, flags), *arrays in zip(*columns, strict=True):
            number = None if source_seq < 0 else source_seq
            slot = source.stream, self.lookahead, self.epoch, seq
            origin = source.epoch, number, time_ns, source.clock, source.fps
            space = self.skeleton, self.model, source.axes, source.mirrored
            known = *slot, *origin, receive_ns, *times, windows, to_flags(flags), *space
            poses.append(make_refined(*known, *arrays, source.about))
        return poses


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something happened to a stream, or to the server itself if `stream` is empty.

    Attributes:
        kind: "start", "gap", "stale", "end", "reset", "evicted", "engine", "error", or a name that a later version
            adds.
        epoch: the server's.
        seq: the first output slot that it concerns; None if it concerns none.
        detail: one line for people.
        counts: numbers for programs, by name, such as {"late": 3}.
        source_epoch: of an error, that of the estimator whose messages these were; None: of several, or not known.
    """

    stream: str
    kind: str
    epoch: int
    seq: int | None
    time_ns: int
    detail: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    clock: str = "monotonic"
    source_epoch: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Heartbeat:
    """The server's inference loop is alive. The loop itself sends it, so heartbeats stop if the loop hangs.

    Attributes:
        epoch: the server's.
        seq: number of earlier heartbeats.
        interval_ns: time until the next heartbeat is due.
        streams: number of active streams.
        frames_in, frames_out: raw frames received and refined poses published since the start, all streams.
        counts: totals of what went wrong since the start, by reason, such as {"late": 3, "malformed": 1}.
        model, skeleton: of the engine.
        lookaheads: those that are published.
        loop_fps: raw frames per second since the last heartbeat.
        shards: of a front: where its shards, which do the work, publish refined poses (see `wire.reached`).
    """

    epoch: int
    seq: int
    time_ns: int
    interval_ns: int
    streams: int
    frames_in: int
    frames_out: int
    counts: Mapping[str, int]
    model: str
    skeleton: str
    lookaheads: Sequence[int]
    loop_fps: float
    clock: str = "monotonic"
    shards: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Sync:
    """A publisher asks how far the server has read what it sends. The server answers with `Taken`.

    Attributes:
        client: random number of the publisher's connection.
        number: counts the connection's questions.
    """

    client: int
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """The server's answer to `Sync` messages: it has read everything that these clients sent before them.

    The server sends it to publishers on the raw socket, in the opposite direction to the poses.

    Attributes:
        epoch: the server's.
        numbers: int64 [N, 2]: client and number of each answered `Sync`.
    """

    epoch: int
    numbers: I64


Message: TypeAlias = RawPose | RawBatch | StreamEnd | RefinedPose | RefinedBatch | Event | Heartbeat | Sync | Taken


def _maker(cls: type[_M]) -> Callable[..., _M]:
    """A constructor of a frozen, slotted dataclass that takes a quarter of the time of its own.

    A frozen dataclass makes one call per field to initialise itself. This makes an instance of an unfrozen class of the
    same layout, which stores the fields directly, and then changes its class.
    """
    twin: Any = make_dataclass(cls.__name__, [f.name for f in dataclass_fields(cls)], slots=True, eq=False)  # type: ignore[arg-type]

    def make(*values: Any) -> _M:
        message = twin(*values)
        message.__class__ = cls
        return message  # type: ignore[no-any-return]

    return make


make_raw = _maker(RawPose)
make_refined = _maker(RefinedPose)

# Looking up a combination of known flags is far cheaper than Flag(bits).
_FLAGS = [Flag(bits) for bits in range(2 * Flag.FLUSHED)]


def to_flags(bits: int) -> Flag:
    """The flags of an integer, unknown ones included."""
    return _FLAGS[bits] if bits < len(_FLAGS) else Flag(bits)
