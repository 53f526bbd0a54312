"""Publishers send the raw poses of an estimator to a server: `Publisher` one stream, `GroupPublisher` several people.

A publisher belongs to the thread that made it, like its ZeroMQ socket. Make it after a fork, never before: ZeroMQ's
threads do not survive one.
"""

from __future__ import annotations

import copy
import math
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from rtskel import wire
from rtskel.client.routes import Routes
from rtskel.client.socket import Context, deadline_of
from rtskel.client.uplink import Frame, Uplink, log
from rtskel.closing import Closing
from rtskel.curve import ClientKeys
from rtskel.errors import AccessError, WireError
from rtskel.skeleton import CANONICAL_AXES, SKELETONS, UPPER_BODY_50

_CLOCKS: Mapping[str, Callable[[], int]] = {"monotonic": time.monotonic_ns, "unix": time.time_ns}

_STALL_S = 0.2
"""An estimator that sends nothing for so long, and for four frames, stands still: its frame count goes on."""

_TOGETHER = 8
"""The most poses in a message of frames that must not be lost. A server that lags reads from all publishers in turn,
message by message: whoever sends few poses in each would wait for those of many.
"""

_now = time.monotonic


@dataclass(kw_only=True, eq=False, repr=False)
class _Sender(Closing):
    """What both publishers share. The fields are the keyword arguments that `Publisher` explains."""

    endpoint: str = field(default=wire.RAW_ENDPOINT, kw_only=False)
    fps: float
    skeleton: str = UPPER_BODY_50.id
    axes: str = CANONICAL_AXES
    mirrored: bool = False
    unit: str | None = None
    view: str | None = None
    image_size: tuple[int, int] | None = None
    clock: str = "monotonic"
    keys: ClientKeys | None = None
    queue: int = 256
    linger: float = 2.0
    wait: float = 1.0
    context: Context = None

    def __post_init__(self) -> None:
        self._begin()
        self._routes = Routes(self.endpoint, self.keys, self.queue, self.context).join(self)

    def __enter__(self) -> Self:
        try:
            self._routes.wait(self._topic, self._only, deadline_of(self.wait))
        except AccessError as error:
            self._why = str(error)  # for what comes next, a frame or another wait
        return self

    def _begin(self) -> None:
        """Checks the arguments, names the sender and resets its counters."""
        self.fps = float(self.fps)
        self._about = self._known()
        self.sent = self.dropped = self.non_finite = self.unconfirmed = 0
        self.refusals: Counter[str] = Counter()
        self._refused: dict[tuple[str, str], int] = {}  # by stream and reason, as the server last said
        self._joints = SKELETONS[self.skeleton].joints if self.skeleton in SKELETONS else None
        self._open: dict[str, int | None] = {}  # streams that were sent and not ended, and the number after the last
        self._closed = self._warned = self._lossless = False
        self._why = ""  # the server refused this client
        self._epochs: deque[int] = deque(maxlen=64)  # the last ones
        self._start_afresh()
        self._topic: bytes
        self._name, self._topic = self._checked()

    @property
    def _only(self) -> str | None:
        """The stream that this sends; None: several."""
        return None

    @property
    def _uplink(self) -> Uplink:
        """The connection to a server, that of the stream if this sends one only."""
        return self._routes.all(self._only)[0]

    def _start_afresh(self) -> None:
        self.epoch = secrets.randbits(48)
        self._epochs.append(self.epoch)
        self._next: int | None = 0  # number of the next frame; None once a frame was placed by its time
        self._last = _now()  # when the last frame was sent

    def _known(self) -> wire.About:
        """What the poses are of."""
        size: Any = self.image_size  # checked when it is encoded
        if isinstance(size, Sequence | np.ndarray):
            size = tuple(int(side) if isinstance(side, np.integer) else side for side in size)
        return wire.About(self.unit, None, self.view, size)

    def _checked(self) -> tuple[str, bytes]:
        """The sender's name for errors, and the topic of its frames; WireError names an invalid argument."""
        raise NotImplementedError

    @property
    def has_subscriber(self) -> bool:
        """Whether a server is connected and takes these frames; of a group with several servers, whether all do."""
        return self._routes.reaches(self._topic, self._only)

    def wait_for_subscriber(self, timeout: float | None = None) -> None:
        """Returns as soon as a server takes these frames. Frames sent before that are dropped.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: no server came in that time.
            AccessError: the server does not admit this client.
        """
        if not self._routes.wait(self._topic, self._only, deadline_of(timeout)):
            raise TimeoutError(f"no server takes raw poses of {self._name} at {self.endpoint}")

    def close(self) -> None:
        """Ends open streams; the last of siblings waits until the server has taken everything.

        It waits up to `linger` seconds, for frames that were sent with `block` longer: as long as the server is
        connected, and has said something in the last minute.
        What the server has not taken by then moves from `sent` to `dropped`, and a warning says so.
        """
        if self._closed:
            return
        try:
            self._end(dict(self._open))
        finally:
            self._closed = True
            self._routes.close(self.linger)

    def summary(self) -> str:
        """What has not reached the server, in a line; "" if everything has."""
        return f"{self.dropped} messages of {self._name} did not reach a server at {self.endpoint}" * bool(self.dropped)

    def missed(self, poses: int) -> None:
        """So many poses that were counted as sent have not reached the server."""
        self.sent -= poses
        self.dropped += poses

    def refused(self, event: wire.Event) -> None:
        """The server has refused something of these streams, if not of another publisher with the same ids."""
        if event.source_epoch not in (None, *self._epochs):
            return
        for reason, count in event.counts.items():
            before = self._refused.get((event.stream, reason), 0)
            if not self.refusals[reason]:
                self._routes.say(f"the server at {self.endpoint} on stream {event.stream!r}: {event.detail}")
            # The server counts from the stream's start on; a new server begins anew.
            self.refusals[reason] += count - before if count > before else count
            self._refused[event.stream, reason] = count

    def _frame(
        self, xyz: ArrayLike, confidence: ArrayLike | None, seq: int | None, time_ns: int | None, lead: tuple[int, ...]
    ) -> tuple[dict[str, Any], int]:
        """The fields of a raw message whose arrays are [*lead, J, 3] and [*lead, J], checked and cleaned.

        Also the number of joints that were not finite.
        """
        points = _floats("xyz", xyz)
        dims = 2 if points.ndim == len(lead) + 2 and points.shape[-1] == 2 else 3
        if dims == 2:
            points = np.concatenate([points, np.zeros_like(points[..., :1])], axis=-1)
        joints = points.shape[len(lead)] if self._joints is None and points.ndim > len(lead) else self._joints
        if points.shape != (*lead, joints, 3):
            expected = ", ".join(map(str, [*lead, joints or "J", 3]))
            raise ValueError(f"{self._name}: xyz has shape {list(points.shape)}, not [{expected}]")
        each = points.shape[:-1]
        trust = np.ones(each, np.float32) if confidence is None else _floats("confidence", confidence)
        if trust.shape != each:
            raise ValueError(f"{self._name}: confidence has shape {list(trust.shape)}, not {list(each)}")
        points, trust, not_finite = wire.clean_joints(points, trust)
        frame = {
            "epoch": self.epoch,
            "seq": index(seq) if seq is not None else self._counted() if time_ns is None else None,
            "time_ns": self._time(time_ns),
            "clock": self.clock,
            "fps": self.fps,
            "xyz": points,
            "confidence": np.clip(trust, 0, 1),
            "skeleton": self.skeleton,
            "axes": self.axes,
            "mirrored": self.mirrored,
            "dims": dims,
            "about": self._about,
        }
        return frame, not_finite

    def _counted(self) -> int | None:
        """The number of a frame that comes without one: the count goes on while the estimator stands still."""
        pause = _now() - self._last
        if not self._next or pause < max(_STALL_S, 4 / self.fps):
            return self._next
        return self._next + round(pause * self.fps) - 1

    def _count(self, streams: Sequence[str], number: int | None, not_finite: int, block: bool) -> None:
        """A frame with that number is about to be sent."""
        self._next = None if number is None else max(self._next or 0, number + 1)  # frames may come out of order
        self._last = math.inf if block else _now()  # a recording that waits for the server does not stand still
        self._open |= dict.fromkeys(streams, self._next)
        self._routes.senders.update(dict.fromkeys(streams, self))
        self._lossless = block
        self.non_finite += not_finite

    def _time(self, time_ns: int | None) -> int:
        if time_ns is not None:
            return index(time_ns)
        if self.clock not in _CLOCKS:
            raise ValueError(f"{self._name}: time_ns is needed, rtskel cannot read clock {self.clock!r}")
        return _CLOCKS[self.clock]()

    def _end(self, streams: Mapping[str, int | None]) -> bool:
        """Ends these streams, each with its number of slots."""
        time_ns = self._time(None) if self.clock in _CLOCKS else 0
        sent, until = True, time.monotonic() + self.linger  # for all of them together
        for number, (stream, seq) in enumerate(streams.items(), 1):
            end = wire.StreamEnd(stream, self.epoch, seq, time_ns, self.clock)
            # Without a server there is nothing to wait for: it does not know this stream.
            heard = self._lossless or self._routes.reaches(self._topic, stream)
            timeout = max(0.0, until - time.monotonic()) if heard else 0.0
            sent &= self._send(stream, *wire.encode(end), self._lossless, timeout, last=number == len(streams))
            self._open.pop(stream, None)
        return sent

    def _send(
        self,
        stream: str,
        topic: bytes,
        body: bytes,
        block: bool,
        timeout: float | None,
        poses: int = 1,
        *,
        last: bool = False,
    ) -> bool:
        if self._closed:
            raise ValueError(f"the publisher of {self._name} is closed")
        sent = self._routes.send(Frame(self, stream, topic, body, poses, block, last), deadline_of(timeout))
        self.sent += poses * sent
        self.dropped += poses * (not sent)
        if not sent and not self._warned and not self.has_subscriber:
            self._warned = True
            why = self._routes.refusal() or self._why or f"no server takes raw poses of {self._name} at {self.endpoint}"
            log.warning("%s: they are dropped", why)
        return sent


@dataclass(kw_only=True, eq=False, repr=False)
class Publisher(_Sender):
    """Sends the raw poses of one stream to a server. Nothing is lost silently: what cannot be sent is counted.

    Making one begins to connect and returns at once, whether or not a server is there.

    Args:
        endpoint: where the server takes raw poses. Several servers, with commas between them or in a file
            (`file:servers.txt`, see `rtskel.client.servers`), share the streams: each goes to one of them.
        stream: stream id, 1..64 of [A-Za-z0-9._-].
        fps: frames per second of the camera.
        skeleton: skeleton id, which fixes the number of joints J and their order.
        axes: directions in which x, y and z grow, see `rtskel.skeleton.axes_matrix`; MediaPipe's are "RDA".
        mirrored: the image is mirrored, as in selfie cameras.
        unit: of positions: "m", "cm", "mm", "px", or any other name. Subscribers and what they save then know it. None:
            not said; likewise below.
        person: who it is.
        view: which camera it is.
        image_size: (width, height) in pixels of the image in which the poses were found.
        clock: of the frames' times; other than "monotonic" and "unix" only with `send(time_ns=...)`.
        keys: of this client, for a server with CURVE keys.
        queue: frames that may wait for a slow server, for all siblings together.
        linger: seconds that `end` and `close` may take to deliver waiting frames.
        wait: seconds that entering a `with` block may wait for a server; 0: it does not wait.
        context: to share one (inproc endpoints need that). `close` does not terminate it, and then does not wait for
            the last frames to be sent; terminating the context does.

    Attributes:
        stream, fps, epoch: as in the messages; each `end` draws another epoch.
        sent: frames (and ends of streams) that the server has taken, and `unconfirmed` ones. After `close`, the last
            one of siblings, there are none of those. (Servers of older versions confirm nothing; `sent` is then what
            was handed to ZeroMQ.)
        unconfirmed: those of `sent` of which it is not yet known.
        dropped: frames (and ends of streams) that did not reach the server: the queue was full, there was no server,
            or it went away before it had taken them. The server sees a hole in the numbering and fills it in.
        refusals: what the server refused of this stream, by reason.
        non_finite: joints that were sent as missing because a coordinate or their confidence was NaN or infinite.

    Raises:
        WireError: the stream id, fps, axes, unit, person, view or image size are not valid.
    """

    stream: str
    person: str | None = None

    @property
    def _only(self) -> str:
        return self.stream

    def sibling(self, stream: str, *, fps: float | None = None, person: str | None = None) -> Publisher:
        """A publisher of another stream over the same socket, with the same options but for the person, and its own
        counters.

        The last sibling to be closed closes the socket. All siblings belong to one thread.
        """
        other = copy.copy(self)
        other.stream, other.fps, other.person = stream, self.fps if fps is None else fps, person
        other._begin()
        other._routes.join(other)
        return other

    def _known(self) -> wire.About:
        return replace(super()._known(), person=self.person)

    def _checked(self) -> tuple[str, bytes]:
        frame, _ = self._frame(np.zeros((self._joints or 1, 3), np.float32), None, 0, 0, ())
        return f"stream {self.stream!r}", wire.encode(wire.RawPose(self.stream, **frame))[0]

    def send(
        self,
        xyz: ArrayLike,
        confidence: ArrayLike | None = None,
        *,
        seq: int | None = None,
        time_ns: int | None = None,
        block: bool = False,
    ) -> bool:
        """Sends one frame.

        The frame's number is its place in the stream. Give the camera's as `seq` if the estimator may skip frames;
        without it, frames are counted, and after a pause of four frames (and 0.2 s) the count has gone on with fps as
        if frames had been sent, unless they are sent with `block`. A frame with a capture time and no number is placed
        by that time and fps, and so are later frames that have neither.

        Args:
            xyz: [J, 3] positions in any unit, or [J, 2] from an estimator without depth, for a server that lifts them.
                A joint with a NaN or an infinity is sent as missing, and counted.
            confidence: [J], clipped to 0..1; 0 = missing; default: all 1.
            seq: frame number, 0, 1, 2, ...
            time_ns: capture time in ns of the publisher's clock; default: now.
            block: keep every frame: wait for a server and for room in the queue instead of giving up at once, and send
                it again if the connection breaks before the server has taken it. An overloaded server, too, then
                delays this stream instead of taking its newest frames first.

        Returns:
            Whether it was sent; if not, it was counted in `dropped`. `close` finds out whether it has arrived.

        Raises:
            ValueError: xyz or confidence are not numbers of these shapes.
            WireError: seq or time_ns are negative or too large.
            AccessError: the server does not admit this client (only with `block`).
        """
        frame, not_finite = self._frame(xyz, confidence, seq, time_ns, ())
        topic, body = wire.encode(wire.RawPose(self.stream, **frame, lossless=block))
        self._count([self.stream], frame["seq"], not_finite, block)
        return self._send(self.stream, topic, body, block, None if block else 0.0)

    def end(self, seq: int | None = None) -> bool:
        """Ends the stream, so that the server flushes its last frames at once. Later frames start it afresh, in another
        epoch.

        Args:
            seq: number of slots in the stream, if frames are missing at its end; default: up to the last frame.

        Returns:
            Whether it was sent, for which it waits up to `linger` seconds while the queue is full. Also True if there
            is nothing to end.
        """
        if not self._open and seq is None:
            return True
        sent = self._end({self.stream: self._next if seq is None else index(seq)})
        self._start_afresh()
        return sent


@dataclass(kw_only=True, eq=False, repr=False)
class GroupPublisher(_Sender):
    """Sends the raw poses of several people in one camera's view: each frame is one message, each person a stream.

    Args:
        group: id of the sender, such as the camera's name: 1..64 of [A-Za-z0-9._-].
        queue: messages that may wait for a slow server.

    All other arguments, and errors, are as in `Publisher`.

    Attributes:
        group, fps, epoch: as in the messages.
        sent, unconfirmed, dropped: poses and ends of streams, as in `Publisher`.
        refusals: what the server refused of these streams, by reason.
        non_finite: joints that were sent as missing because a coordinate or their confidence was NaN or infinite.

    Example:
        >>> with GroupPublisher(group="room", fps=30) as camera:
        ...     for number, people in enumerate(estimator):           # {"ann": xyz [J, 3], "ben": ...}
        ...         camera.send(list(people), np.stack(list(people.values())), seq=number)
    """

    group: str

    def _checked(self) -> tuple[str, bytes]:
        frame, _ = self._frame(np.zeros((1, self._joints or 1, 3), np.float32), None, 0, 0, (1,))
        return f"group {self.group!r}", wire.encode(wire.RawBatch(self.group, ["a"], **frame))[0]

    def send(
        self,
        streams: Sequence[str],
        xyz: ArrayLike,
        confidence: ArrayLike | None = None,
        *,
        seq: int | None = None,
        time_ns: int | None = None,
        block: bool = False,
    ) -> bool:
        """Sends one frame of the camera.

        Include people who are out of sight for a while with confidence 0. If they are left out, the server cannot know
        at once that no frame of theirs comes.

        Args:
            streams: K different stream ids, one per person.
            xyz: [K, J, 3], or [K, J, 2], see `Publisher.send`.
            confidence: [K, J].
            seq, time_ns, block: as in `Publisher.send`.

        Returns:
            Whether all were sent; if not, they were counted in `dropped`.

        Raises:
            ValueError: xyz or confidence are not numbers of these shapes.
            WireError: a stream id is not valid or comes twice; seq or time_ns are negative or too large.
        """
        if not streams:
            return True
        frame, not_finite = self._frame(xyz, confidence, seq, time_ns, (len(streams),))
        points, trust = frame.pop("xyz"), frame.pop("confidence")
        if len(set(streams)) < len(streams):
            raise WireError(f"{self._name}: streams names one twice")
        if block:
            self._routes.wait_to_split(self._topic)
        # Rarely more than one message. Ids and header take what the poses leave of a body.
        header = 1024 if self._about == wire.About() else 4096
        most = min(wire.MAX_ELEMENTS, (wire.MAX_BODY - header) // (16 * points.shape[1] + 72)) or 1
        most = min(most, _TOGETHER) if block else most
        parts = [own[first : first + most] for own in self._routes.split(streams) for first in range(0, len(own), most)]
        batches = [
            wire.RawBatch(
                self.group,
                [streams[k] for k in part],
                **frame,
                xyz=points[part],
                confidence=trust[part],
                lossless=block,
            )
            for part in parts
        ]
        messages = [(batch.streams[0], *wire.encode(batch)) for batch in batches]
        self._count(streams, frame["seq"], not_finite, block)
        timeout = None if block else 0.0
        return all([self._send(*m, block, timeout, len(b.streams)) for m, b in zip(messages, batches, strict=True)])

    def end(self, stream: str | None = None, seq: int | None = None) -> bool:
        """Ends a person's stream, or everybody's, so that the server flushes their last frames at once.

        Args:
            stream: whose; default: all people who were sent. Later frames are then in another epoch.
            seq: number of slots in the stream, if frames are missing at its end; default: up to the person's last one.

        Returns:
            As in `Publisher.end`.
        """
        if stream is not None and stream not in self._open and seq is None:
            return True
        people = dict(self._open) if stream is None else {stream: self._open.get(stream)}
        sent = self._end(people if seq is None else dict.fromkeys(people, index(seq)))
        if stream is None:
            self._start_afresh()
        return sent


def _floats(name: str, values: ArrayLike) -> wire.F32:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is of type {array.dtype}, not of numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is counted as such
        return array.astype(np.float32, copy=False)
