"""Talking to `rtskel serve` from Python: Publisher and GroupPublisher send raw poses, Subscriber receives refined ones.

    with Publisher(stream="cam1", fps=25) as publisher:
        publisher.wait_for_subscriber(timeout=5)
        for number, (xyz, confidence) in enumerate(estimator):
            publisher.send(xyz, confidence, seq=number)

    with Subscriber(streams="cam1", lookahead=4) as subscriber:
        for message in subscriber:
            ...

Threads: an object of this module is used by the thread that made it, like the ZeroMQ socket inside it. Processes: make
it after a fork, never before, because the threads of ZeroMQ do not survive one. Both hold a socket and an I/O thread
until `close()`, which leaving the `with` block calls.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import index
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import zmq
from numpy.typing import ArrayLike

from rtskel import wire
from rtskel.curve import ClientKeys
from rtskel.errors import WireError
from rtskel.skeleton import CANONICAL_AXES, SKELETONS, UPPER_BODY_50

RAW_ENDPOINT = "tcp://127.0.0.1:5555"
"""Where a server takes raw poses unless told otherwise."""

REFINED_ENDPOINT = "tcp://127.0.0.1:5556"
"""Where a server publishes refined poses unless told otherwise."""

_CLOCKS: Mapping[str, Callable[[], int]] = {"monotonic": time.monotonic_ns, "unix": time.time_ns}

_Context: TypeAlias = "zmq.Context[Any] | None"

_DRAIN = 4096  # messages that one call takes at the most, so that it returns however fast they come

_ZMTP_HEARTBEAT_MS = 5000  # finds a host that has vanished without closing its connections


class _Sender:
    """What publishers of one person and of several have in common."""

    fps: float
    epoch: int
    _topic: bytes
    _name: str  # for errors

    def _configure(self, name: str, fps: float, skeleton: str, axes: str, mirrored: bool, clock: str) -> None:
        self.fps = float(fps)
        self.epoch = _new_epoch()
        self.sent = 0
        self.dropped = 0
        self.non_finite = 0
        self._name = name
        self._skeleton = skeleton
        self._axes = axes
        self._mirrored = mirrored
        self._clock = clock
        self._joints = SKELETONS[skeleton].joints if skeleton in SKELETONS else None
        self._next: int | None = 0  # the next frame's number; None once a frame was placed by its time
        self._closed = False

    def _link(self, endpoint: str, keys: ClientKeys | None, queue: int, linger: float, context: _Context) -> None:
        self._uplink = _Uplink(endpoint, keys, queue, linger, context)

    @property
    def has_subscriber(self) -> bool:
        """A server is connected and takes what is sent here."""
        return self._uplink.reaches(self._topic)

    def wait_for_subscriber(self, timeout: float | None = None) -> None:
        """Returns as soon as a server takes what is sent here, so that nothing is lost from then on for want of one.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: none came in that time.
        """
        if not self._uplink.wait(self._topic, _deadline(timeout)):
            raise TimeoutError(f"no server takes raw poses of {self._name} at {self._uplink.endpoint}")

    def end(self) -> bool:
        raise NotImplementedError

    def _is_open(self) -> bool:
        """Whether frames were sent that no end has followed."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what has not been ended, and waits up to `linger` seconds until all is sent."""
        if self._closed:
            return
        try:
            if self._is_open():
                self.end()
        finally:
            self._closed = True
            self._uplink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _frame(
        self, xyz: ArrayLike, confidence: ArrayLike | None, seq: int | None, time_ns: int | None, lead: tuple[int, ...]
    ) -> dict[str, Any]:
        """What a raw message says of a frame whose arrays are [*lead, J, 3] and [*lead, J], checked and cleaned."""
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
        points, trust, self._dirty = wire.clean_joints(points, trust)

        number = None if seq is None else index(seq)
        if seq is None and time_ns is None:
            number = self._next
        return {
            "epoch": self.epoch,
            "seq": number,
            "time_ns": self._time(time_ns),
            "clock": self._clock,
            "fps": self.fps,
            "xyz": points,
            "confidence": np.clip(trust, 0, 1),
            "skeleton": self._skeleton,
            "axes": self._axes,
            "mirrored": self._mirrored,
            "dims": dims,
        }

    def _framed(self, number: int | None) -> None:
        """A frame with that number is about to be sent."""
        self._next = None if number is None else max(self._next or 0, number + 1)  # frames may come out of order
        self.non_finite += self._dirty

    def _time(self, time_ns: int | None) -> int:
        if time_ns is not None:
            return index(time_ns)
        if self._clock not in _CLOCKS:
            raise ValueError(f"{self._name}: time_ns is needed, rtskel cannot read clock {self._clock!r}")
        return _CLOCKS[self._clock]()

    def _send_end(self, stream: str, seq: int | None) -> bool:
        end = wire.StreamEnd(
            stream=stream,
            epoch=self.epoch,
            seq=seq,
            time_ns=self._time(None) if self._clock in _CLOCKS else 0,
            clock=self._clock,
        )
        # Without a server there is nothing to wait for: it would know nothing of this stream either.
        return self._send(*wire.encode(end), self._uplink.linger if self.has_subscriber else 0.0)

    def _send(self, topic: bytes, body: bytes, timeout: float | None, poses: int = 1) -> bool:
        if self._closed:
            raise ValueError(f"the publisher of {self._name} is closed")
        sent = self._uplink.send(topic, body, _deadline(timeout))
        self.sent += poses * sent
        self.dropped += poses * (not sent)
        return sent


class Publisher(_Sender):
    """Sends the raw poses of one stream to a server. Nothing is lost silently: what cannot be sent is counted.

    Attributes:
        stream, fps, epoch: as in the messages; each `end` draws another epoch.
        sent: frames handed to ZeroMQ.
        dropped: frames (and ends of streams) that were not sent, because the queue was full or no server is there. The
            server sees a hole in the numbering and fills it in.
        non_finite: joints that were sent as missing because a coordinate or their confidence was NaN or infinite.
    """

    def __init__(
        self,
        endpoint: str = RAW_ENDPOINT,
        *,
        stream: str,
        fps: float,
        skeleton: str = UPPER_BODY_50.id,
        axes: str = CANONICAL_AXES,
        mirrored: bool = False,
        clock: str = "monotonic",
        keys: ClientKeys | None = None,
        queue: int = 256,
        linger: float = 2.0,
        context: _Context = None,
    ) -> None:
        """Begins to connect; returns at once, whether or not a server is there.

        Args:
            endpoint: where the server takes raw poses.
            stream: stream id, 1..64 of [A-Za-z0-9._-].
            fps: frames per second of the camera.
            skeleton: skeleton id, which fixes the number of joints J and their order.
            axes: where x, y and z grow, see `rtskel.skeleton.axes_matrix`; MediaPipe's are "RDA".
            mirrored: the image was mirrored, as selfie cameras do.
            clock: of the frames' times; other than "monotonic" and "unix" only with `send(time_ns=...)`.
            keys: of this client, for a server with CURVE keys.
            queue: frames that may wait for a slow server, for all siblings together.
            linger: seconds that `end` and `close` may take to send what waits.
            context: to share one (inproc endpoints need that). It is not terminated by `close`, which then does not
                wait for the tail to be sent: terminating the context does.

        Raises:
            WireError: the stream id, fps or axes are not valid.
        """
        self._begin(stream, fps, skeleton, axes, mirrored, clock)
        self._link(endpoint, keys, queue, linger, context)

    def sibling(self, stream: str, *, fps: float | None = None) -> Publisher:
        """A publisher of another stream over the same socket, of the same kind and with counters of its own.

        The socket is closed with the last of the siblings. All of them belong to one thread.
        """
        other = type(self).__new__(type(self))
        fps = self.fps if fps is None else fps
        other._begin(stream, fps, self._skeleton, self._axes, self._mirrored, self._clock)
        other._uplink = self._uplink.shared()
        return other

    def _begin(self, stream: str, fps: float, skeleton: str, axes: str, mirrored: bool, clock: str) -> None:
        self.stream = stream
        self._configure(f"stream {stream!r}", fps, skeleton, axes, mirrored, clock)
        self._open = False
        # So that a bad argument is named now.
        frame = self._frame(np.zeros((self._joints or 1, 3), np.float32), None, 0, 0, ())
        self._topic, _ = wire.encode(wire.RawPose(stream, **frame))

    def _is_open(self) -> bool:
        return self._open

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

        The frame's place on the stream is its number. Give the camera's as `seq` whenever the estimator may skip
        frames; without it, frames are counted. A frame that has a capture time and no number is placed by that time
        and fps, and so are those behind it that have neither.

        Args:
            xyz: [J, 3] positions in any unit, or [J, 2] from an estimator without depth, for a server that lifts them.
                A joint with a NaN or an infinity is sent as missing, and counted.
            confidence: [J] in 0..1 (what lies outside is clipped); 0 = missing; default: all 1.
            seq: frame number, 0, 1, 2, ...
            time_ns: capture time in ns of the publisher's clock; default: now.
            block: every frame counts: wait for a server and for room in the queue, instead of giving up at once. An
                overloaded server, too, then lets this stream wait instead of taking its newest frames first.

        Returns:
            Whether it was handed to ZeroMQ; if not, it was counted in `dropped`.

        Raises:
            ValueError: xyz or confidence are not numbers of these shapes.
            WireError: seq or time_ns are negative or too large.
        """
        frame = self._frame(xyz, confidence, seq, time_ns, ())
        topic, body = wire.encode(wire.RawPose(self.stream, **frame, lossless=block))
        self._framed(frame["seq"])
        self._open = True
        return self._send(topic, body, None if block else 0.0)

    def end(self, seq: int | None = None) -> bool:
        """Says that the stream is over, so that the server flushes its last frames at once. Frames sent afterwards
        begin it afresh, in another epoch.

        Args:
            seq: how many slots the stream has, for frames missing at its end; default: up to the last frame.

        Returns:
            Whether it was handed to ZeroMQ, for which it waits up to `linger` seconds while the queue is full. True,
            too, if there is nothing to end.
        """
        if not self._open and seq is None:
            return True
        sent = self._send_end(self.stream, self._next if seq is None else index(seq))
        self.epoch = _new_epoch()
        self._next = 0
        self._open = False
        return sent


class GroupPublisher(_Sender):
    """Sends the raw poses of several people that one camera sees: each frame in one message, each person a stream.

    Attributes:
        group, fps, epoch: as in the messages.
        sent: poses handed to ZeroMQ.
        dropped: poses (and ends of streams) that were not sent, because the queue was full or no server is there.
        non_finite: joints that were sent as missing because a coordinate or their confidence was NaN or infinite.

    Example:
        >>> with GroupPublisher(group="room", fps=30) as camera:
        ...     for number, people in enumerate(estimator):           # {"ann": xyz [J, 3], "ben": ...}
        ...         camera.send(list(people), np.stack(list(people.values())), seq=number)
    """

    def __init__(
        self,
        endpoint: str = RAW_ENDPOINT,
        *,
        group: str,
        fps: float,
        skeleton: str = UPPER_BODY_50.id,
        axes: str = CANONICAL_AXES,
        mirrored: bool = False,
        clock: str = "monotonic",
        keys: ClientKeys | None = None,
        queue: int = 256,
        linger: float = 2.0,
        context: _Context = None,
    ) -> None:
        """Begins to connect; returns at once, whether or not a server is there.

        Args:
            group: who sends, such as the camera's name: 1..64 of [A-Za-z0-9._-].
            queue: messages that may wait for a slow server.

        The others, and what is raised: as in `Publisher`.
        """
        self.group = group
        self._configure(f"group {group!r}", fps, skeleton, axes, mirrored, clock)
        self._people: dict[str, int | None] = {}  # who was sent and not ended, and the number behind their last frame
        frame = self._frame(np.zeros((1, self._joints or 1, 3), np.float32), None, 0, 0, (1,))
        self._topic, _ = wire.encode(wire.RawBatch(group, ["a"], **frame))
        self._link(endpoint, keys, queue, linger, context)

    def _is_open(self) -> bool:
        return bool(self._people)

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

        Somebody who is out of sight for a while is best sent all the same, with confidence 0: of who is left out, the
        server cannot know at once that no frame comes.

        Args:
            streams: K different stream ids, one a person.
            xyz: [K, J, 3], or [K, J, 2], see `Publisher.send`.
            confidence: [K, J].
            seq, time_ns, block: as in `Publisher.send`.

        Returns:
            Whether all were handed to ZeroMQ; if not, they were counted in `dropped`.

        Raises:
            ValueError: xyz or confidence are not numbers of these shapes.
            WireError: a stream id is not valid or comes twice; seq or time_ns are negative or too large.
        """
        if not streams:
            return True
        frame = self._frame(xyz, confidence, seq, time_ns, (len(streams),))
        points, trust = frame.pop("xyz"), frame.pop("confidence")
        # As many messages as it takes, seldom more than one: of what a body can hold, ids and header take the rest.
        most = min(wire.MAX_ELEMENTS, (wire.MAX_BODY - 1024) // (16 * points.shape[1] + 72)) or 1
        parts = [slice(first, first + most) for first in range(0, len(streams), most)]
        batches = [
            wire.RawBatch(self.group, streams[part], **frame, xyz=points[part], confidence=trust[part], lossless=block)
            for part in parts
        ]
        if len(parts) > 1 and len(set(streams)) < len(streams):
            raise WireError(f"{self._name}: streams names one twice")
        messages = [wire.encode(batch) for batch in batches]
        self._framed(frame["seq"])
        self._people |= dict.fromkeys(streams, self._next)
        timeout = None if block else 0.0
        return all([self._send(*m, timeout, len(b.streams)) for m, b in zip(messages, batches, strict=True)])

    def end(self, stream: str | None = None, seq: int | None = None) -> bool:
        """Says that a person's stream is over, or everybody's, so that the server flushes their last frames at once.

        Args:
            stream: whose; default: of all who were sent. What is sent afterwards is then in another epoch.
            seq: how many slots the stream has, for frames missing at its end; default: up to the person's last frame.

        Returns:
            As in `Publisher.end`.
        """
        if stream is not None and stream not in self._people and seq is None:
            return True
        people = dict(self._people) if stream is None else {stream: self._people.get(stream)}
        sent = [self._send_end(person, last if seq is None else index(seq)) for person, last in people.items()]
        for person in people:
            self._people.pop(person, None)
        if stream is None:
            self.epoch = _new_epoch()
            self._next = 0
        return all(sent)


class _Uplink:
    """The XPUB socket of one or more publishers, which knows what the server has subscribed to."""

    def __init__(self, endpoint: str, keys: ClientKeys | None, queue: int, linger: float, context: _Context) -> None:
        self.endpoint = endpoint
        self.linger = linger
        self._users = 1
        self._subscriptions: Counter[bytes] = Counter()
        self._socket = _Socket(zmq.XPUB, context)
        zmq_socket = self.socket = self._socket.zmq
        zmq_socket.xpub_verboser = True  # every subscription and every end of one is told, so that counting is exact
        zmq_socket.xpub_nodrop = True  # a full queue is an error that we can count, not a silent loss
        zmq_socket.immediate = True  # a server that has gone is no subscriber: its queue ends with the connection
        zmq_socket.sndhwm = queue
        self._socket.connect(endpoint, keys)

    def shared(self) -> _Uplink:
        self._users += 1
        return self

    def close(self) -> None:
        self._users -= 1
        if not self._users:
            self._socket.close(self.linger)

    def reaches(self, topic: bytes) -> bool:
        """Whether the server has subscribed to that topic, as far as is known now."""
        while int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            message = self.socket.recv(zmq.NOBLOCK)
            if message[:1] == b"\1":
                self._subscriptions[message[1:]] += 1
            elif message[:1] == b"\0":
                self._subscriptions -= Counter([message[1:]])  # drops what is no longer subscribed to
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    def wait(self, topic: bytes, deadline: float | None) -> bool:
        while not self.reaches(topic):
            if not self.socket.poll(_remaining_ms(deadline), zmq.POLLIN):
                return self.reaches(topic)
        return True

    def send(self, topic: bytes, body: bytes, deadline: float | None) -> bool:
        """Whether both parts were queued for a server before the deadline."""
        while self.wait(topic, deadline):
            if self._queue(topic, body, zmq.NOBLOCK):
                return True
            left = _remaining_ms(deadline)
            if left == 0:
                return False
            # An XPUB socket always polls as writable, so the sending call has to wait for room. It returns without an
            # error, too, when the server goes away meanwhile; then nobody has the message, and another is waited for.
            self.socket.sndtimeo = left
            if self._queue(topic, body, 0) and self.reaches(topic):
                return True
        return False

    def _queue(self, topic: bytes, body: bytes, flags: int) -> bool:
        try:
            self.socket.send_multipart((topic, body), flags)
        except zmq.Again:
            return False
        return True


class Subscriber:
    """Receives refined poses, events and heartbeats from a server.

    Iterating gives `wire.RefinedPose` (or `wire.RefinedBatch`) and, as asked for, `wire.Event` and `wire.Heartbeat`
    objects for ever.

    Attributes:
        lost: poses missed on the way, by (stream, lookahead), which are holes in `seq`: the reader was too slow, or the
            connection broke.
        skipped: poses left out on purpose by `latest=True`, by (stream, lookahead).
        errors: malformed messages, which are skipped.
        last_error: the newest of those errors.
        heartbeat: the newest heartbeat.
    """

    def __init__(
        self,
        endpoint: str = REFINED_ENDPOINT,
        *,
        streams: str | Sequence[str] | None = None,
        lookahead: int | Sequence[int] | None = None,
        events: bool = True,
        heartbeats: bool = False,
        latest: bool = False,
        batches: bool = False,
        keys: ClientKeys | None = None,
        queue: int | None = None,
        context: _Context = None,
    ) -> None:
        """Begins to connect; returns at once, whether or not a server is there.

        Args:
            endpoint: where the server publishes refined poses.
            streams: stream ids; None: every stream.
            lookahead: those of the server's lookaheads (frames) to receive; None: all of them.
            events: give events of these streams, and of the server, too.
            heartbeats: give heartbeats too.
            latest: for a reader that must not lag, such as a display: of the poses that wait, give only the newest of
                each stream and lookahead.
            batches: receive the poses of all streams together, as `wire.RefinedBatch`: for who reads hundreds of them.
            keys: of this client, for a server with CURVE keys.
            queue: messages that may wait for this reader before the server drops more; default: 10000, and 256 with
                `latest`.
            context: to share one (inproc endpoints need that); `close` does not terminate it.

        Raises:
            WireError: a stream id is not valid.
            ValueError: a lookahead is negative, or batches of some streams or of the latest poses are asked for.
        """
        if batches and (streams is not None or latest):
            raise ValueError("batches hold every pose of all streams: neither streams nor latest can choose among them")
        ids = (streams,) if isinstance(streams, str) else streams
        lookaheads = (lookahead,) if isinstance(lookahead, int) else lookahead
        if lookaheads is not None and min(lookaheads, default=0) < 0:
            raise ValueError(f"lookahead {min(lookaheads)} is negative")
        topics = _subscriptions(ids, lookaheads, events, batches)

        self.endpoint = endpoint
        self.lost: Counter[tuple[str, int]] = Counter()
        self.skipped: Counter[tuple[str, int]] = Counter()
        self.errors = 0
        self.last_error: WireError | None = None
        self.heartbeat: wire.Heartbeat | None = None
        self._heartbeat_came = 0.0
        self._heartbeats = heartbeats
        self._latest = latest
        # Without stream ids the topics cannot choose the lookahead: ZeroMQ matches prefixes, and the stream is first.
        self._suffixes = None if lookaheads is None or batches else tuple(b"/L%d/" % number for number in lookaheads)
        self._expected: dict[tuple[str, int], tuple[int, int]] = {}  # (epoch, seq) of the next pose
        self._ready: OrderedDict[object, wire.Message] = OrderedDict()
        self._socket = _Socket(zmq.SUB, context)
        self._zmq = self._socket.zmq
        self._zmq.rcvhwm = (256 if latest else 10_000) if queue is None else queue
        self._zmq.sndhwm = 0  # subscriptions are messages too: those above the mark would never reach the server
        self._socket.connect(endpoint, keys)
        for topic in topics:
            self._zmq.subscribe(topic)
        # Last, so that when a heartbeat comes, the server knows of the other subscriptions.
        self._zmq.subscribe(wire.HEARTBEAT_TOPIC)

    @property
    def connected(self) -> bool:
        """The server is alive: a heartbeat came within the last three of its intervals.

        Known only as far as messages were received: a reader that does not read is not connected in this sense.
        """
        return (
            self.heartbeat is not None
            and time.monotonic() - self._heartbeat_came < 3 * self.heartbeat.interval_ns * 1e-9
        )

    def wait_for_server(self, timeout: float | None = None) -> wire.Heartbeat:
        """Returns the server's next heartbeat, or the last one while it is fresh: what the server publishes from then
        on will be received. Messages that come meanwhile are kept for `recv`.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: none came in that time.
        """
        deadline = _deadline(timeout)
        while not self.connected:
            if not self._take() and not self._zmq.poll(_remaining_ms(deadline)):
                raise TimeoutError(f"no heartbeat from a server at {self.endpoint}")
        assert self.heartbeat is not None
        return self.heartbeat

    def recv(self, timeout: float | None = None) -> wire.Message:
        """The next message.

        Args:
            timeout: seconds; None waits for ever, 0 gives only what is there.

        Raises:
            TimeoutError: none came in that time.
        """
        deadline = _deadline(timeout)
        while True:
            for _ in range(_DRAIN):
                if (self._ready and not self._latest) or not self._take():
                    break
            if self._ready:
                return self._ready.popitem(last=False)[1]
            left = _remaining_ms(deadline)
            if left == 0 or not self._zmq.poll(left):
                raise TimeoutError(f"no message from a server at {self.endpoint}")

    def __iter__(self) -> Iterator[wire.Message]:
        while not self._zmq.closed:
            yield self.recv()

    def close(self) -> None:
        """Disconnects. What has not been received is gone."""
        self._socket.close(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> bool:
        """Puts one message that is there among those ready to be given; False if none is there."""
        try:
            parts = self._zmq.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        try:
            if len(parts) != 2:
                raise WireError(f"message of {len(parts)} parts, not topic and body")
            topic, body = parts
            if self._suffixes is None or not topic.startswith(wire.REFINED_PREFIX) or topic.endswith(self._suffixes):
                self._keep(wire.decode(topic, body))
        except WireError as error:
            self.errors += 1
            self.last_error = error
        return True

    def _keep(self, message: wire.Message) -> None:
        place: object = object()
        if isinstance(message, wire.RefinedBatch):
            for source, seq in zip(message.sources, message.numbers[:, 0].tolist(), strict=True):
                self._account((source.stream, message.lookahead), message.epoch, seq)
        elif isinstance(message, wire.RefinedPose):
            key = message.stream, message.lookahead
            self._account(key, message.epoch, message.seq)
            if self._latest:
                place = key
                self.skipped[key] += key in self._ready
        elif isinstance(message, wire.Heartbeat):
            self.heartbeat = message
            self._heartbeat_came = time.monotonic()
            if not self._heartbeats:
                return
        # A newer pose takes the place in the line of the one it replaces, so that no stream starves.
        self._ready[place] = message

    def _account(self, key: tuple[str, int], epoch: int, seq: int) -> None:
        before, expected = self._expected.get(key, (epoch, seq))
        if epoch == before and seq > expected:
            self.lost[key] += seq - expected
        self._expected[key] = epoch, seq + 1


def _subscriptions(
    streams: Sequence[str] | None, lookaheads: Sequence[int] | None, events: bool, batches: bool
) -> list[bytes]:
    if batches:
        chosen = [wire.REFINED_BATCH_PREFIX] if lookaheads is None else map(wire.refined_batch_topic, lookaheads)
        return [*chosen] + [wire.EVENT_PREFIX] * events
    if streams is None:
        return [wire.REFINED_PREFIX] + [wire.EVENT_PREFIX] * events
    topics = []
    for stream in streams:
        if lookaheads is None:
            topics.append(wire.refined_topic(stream, 0).removesuffix(b"L0/"))
        else:
            topics += [wire.refined_topic(stream, number) for number in lookaheads]
        if events:
            topics.append(wire.event_topic(stream))
    return topics + [wire.event_topic("")] * events


class _Socket:
    """A ZeroMQ socket and, unless it is shared, the context around it."""

    def __init__(self, kind: int, context: _Context) -> None:
        # A context of its own, because only terminating it waits until the tail is sent.
        self._own: zmq.Context[Any] | None = None
        if context is None:
            context = self._own = zmq.Context()
        self.zmq: zmq.Socket[bytes] = context.socket(kind)

    def connect(self, endpoint: str, keys: ClientKeys | None) -> None:
        try:
            self.zmq.heartbeat_ivl = _ZMTP_HEARTBEAT_MS
            self.zmq.ipv6 = "[" in endpoint
            if keys is not None:
                keys.apply(self.zmq)
            self.zmq.connect(endpoint)
        except zmq.ZMQError as error:
            self.close(0)
            raise WireError(f"cannot connect to {endpoint}: {error}") from None

    def close(self, linger: float) -> None:
        self.zmq.close(round(1000 * linger))
        if self._own is not None:
            self._own.term()


def _new_epoch() -> int:
    return secrets.randbits(48)


def _floats(name: str, values: ArrayLike) -> wire.F32:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is of type {array.dtype}, not of numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is counted as such
        return array.astype(np.float32, copy=False)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _remaining_ms(deadline: float | None) -> int:
    """Milliseconds until a deadline, rounded up, for ZeroMQ: -1 waits for ever."""
    return -1 if deadline is None else max(0, -int(-1000 * (deadline - time.monotonic()) // 1))
