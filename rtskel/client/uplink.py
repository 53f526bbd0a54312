"""The connection of publishers to one server: what is on the way, and what the server has taken."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import zmq

from rtskel import wire
from rtskel.client.socket import Context, Socket, deadline_of, remaining_ms
from rtskel.curve import ClientKeys
from rtskel.errors import AccessError, WireError

log = logging.getLogger("rtskel.client")

ASK_FRAMES = 64
ASK_S = 0.5
"""The server is asked what it has taken after so many frames or seconds."""

SILENCE_S = 3.0
"""After so many seconds a publisher that waits says what for, and gives up a server that is not connected."""

HANG_S = 60.0
"""After so many seconds without a word, a server that is connected is given up."""


class Sender(Protocol):
    """A publisher, as its uplink knows it.

    Attributes:
        unconfirmed: poses that were sent and that the server has not yet taken, as far as is known.
    """

    unconfirmed: int

    def missed(self, poses: int) -> None:
        """So many poses that were sent have not reached the server."""

    def refused(self, event: wire.Event) -> None:
        """The server has refused something of this sender's."""

    def summary(self) -> str:
        """What has not reached the server, in a line; "" if everything has."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message on the way to the server.

    Attributes:
        stream: whose it is; of a group, one of those that it holds.
        poses: in it.
        lossless: it is sent again if the connection breaks before the server has taken it.
        last: the server is asked at once whether it has taken it; perhaps nothing follows.
    """

    sender: Sender
    stream: str
    topic: bytes
    body: bytes
    poses: int = 1
    lossless: bool = False
    last: bool = False


class Uplink:
    """The XPUB socket of one or more publishers.

    Args:
        endpoint: of the server.
        senders: who sends which stream; filled in by whoever uses this.
        queue: messages that may wait for a slow server.

    Attributes:
        socket: the ZeroMQ socket.
        context: its context.
        heartbeat: the server's newest heartbeat; servers of older versions send none to publishers.
        shards: if there is a front at the endpoint, where its shards take raw poses: it takes none itself.
    """

    def __init__(
        self,
        endpoint: str,
        keys: ClientKeys | None,
        queue: int,
        context: Context,
        senders: Mapping[str, Sender],
    ) -> None:
        self.endpoint = endpoint
        self.heartbeat: wire.Heartbeat | None = None
        self.shards: tuple[str, ...] = ()
        self._heard = 0.0  # when the server last said something
        self._senders = senders
        self._subscriptions: Counter[bytes] = Counter()
        self._connection = 0  # counts connections that broke
        self._flight: deque[Frame | int] = deque()  # frames on the way, and the questions between them
        self._waiting: deque[Frame] = deque()  # to be sent; also lossless frames of a connection that broke
        self._client = secrets.randbits(62)
        self._asked, self._asked_at, self._since = 0, 0.0, 0  # the last question, when, and frames since
        self._known = False  # the server of this connection knows that somebody listens to it
        self._socket = Socket(zmq.XPUB, endpoint, keys, context)
        self.socket, self.context = self._socket.zmq, self._socket.context
        with self._socket.closed_on_error():
            self.socket.xpub_verboser = True  # report every subscription and its end, so that the count is exact
            self.socket.xpub_nodrop = True  # a full queue is an error that can be counted, not a silent loss
            self.socket.immediate = True  # a server that has gone is no subscriber: its queue ends with the connection
            self.socket.sndhwm = queue
            self._socket.connect()

    def close(self, linger: float) -> None:
        """Waits until the server has taken everything, and closes the socket.

        It waits up to `linger` seconds; if lossless frames are on the way, longer, as long as the server is connected
        and says something. What it has not taken by then is counted as missed.
        """
        try:
            self._confirm(linger)
        finally:
            # A server that does not say what it has taken may still take what is queued.
            self._socket.close(0 if self.answers else linger)
            for frame in [*self._flight, *self._waiting]:
                if isinstance(frame, Frame):
                    self._missed(frame)

    @property
    def answers(self) -> bool:
        """Whether the server says what it has taken."""
        return wire.SYNC_TOPIC in self._subscriptions

    def refusal(self) -> str:
        """Why the server has refused this client since the last call; "" if it has not."""
        return self._socket.refusal()

    def reaches(self, topic: bytes) -> bool:
        """Whether the server has subscribed to that topic, as far as is known now."""
        self.listen()
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    @property
    def known(self) -> bool:
        """Whether somebody is there who has said what he takes."""
        return bool(self._subscriptions)

    def listen(self) -> None:
        """Takes in what the server has said."""
        while int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            message = self.socket.recv(zmq.NOBLOCK)
            if message[:1] == b"\1":
                self._subscriptions[message[1:]] += 1
                self._notice(message[1:])
            elif message[:1] == b"\0":
                self._subscriptions -= Counter([message[1:]])  # removes what is no longer subscribed to
                if not self._subscriptions:
                    self._broken()
            else:
                self._hear(message)

    def _notice(self, topic: bytes) -> None:
        """The server takes that: it is one that works, or a front."""
        if topic.startswith(wire.SHARDS_PREFIX):
            try:
                self.shards = wire.told_shards(topic)
            except WireError as error:
                log.warning("%s: %s", self.endpoint, error)
        elif topic == wire.RAW_PREFIX:
            self.shards = ()

    def wait(self, topic: bytes, deadline: float | None) -> bool:
        """Waits until the server subscribes to that topic; False if the deadline passes, or it is a front.

        Raises:
            AccessError: the server does not admit this client.
        """
        tell = deadline_of(SILENCE_S)
        while not self.reaches(topic):
            left = remaining_ms(deadline)
            if left == 0 or self.shards:
                return False
            if remaining_ms(tell) == 0:
                log.warning("waiting for a server that takes raw poses at %s", self.endpoint)
                tell = None
            self._socket.wait(min((ms for ms in (left, remaining_ms(tell)) if ms >= 0), default=-1))
        return True

    def send(self, frame: Frame, deadline: float | None) -> bool:
        """Whether the frame was queued for a server before the deadline, after all that wait to be sent again.

        Raises:
            AccessError: the server does not admit this client.
        """
        frame.sender.unconfirmed += frame.poses
        self._waiting.append(frame)
        sent = False
        try:
            sent = self._send_waiting(deadline)
        finally:
            if not sent and frame in self._waiting:  # an interrupt may come just after it was sent
                self._waiting.remove(frame)
                frame.sender.unconfirmed -= frame.poses
        return sent

    def recall(self) -> list[Frame]:
        """Takes back the frames that wait to be sent."""
        frames = [*self._waiting]
        self._waiting.clear()
        return frames

    def take_over(self, frames: Iterable[Frame]) -> None:
        """Frames that another connection has given back wait here to be sent."""
        self._waiting.extend(frames)

    def _confirm(self, linger: float) -> None:
        start = time.monotonic()
        told = False
        self.listen()
        while self._flight or self._waiting:
            asked = not self._since and time.monotonic() - self._asked_at < ASK_S
            if self.answers and self._send_waiting(0.0) and not asked:
                self._ask()
            deadline = start + linger
            if any(isinstance(each, Frame) and each.lossless for each in (*self._waiting, *self._flight)):
                patience = HANG_S if self._subscriptions else SILENCE_S
                deadline = max(deadline, max(start, self._heard) + patience)
            left = remaining_ms(deadline)
            if left == 0:
                return
            if not told and time.monotonic() - start > SILENCE_S:
                told = True
                log.warning("waiting until the server at %s has taken everything", self.endpoint)
            try:
                self._socket.wait(min(100, left))
            except AccessError as error:
                log.warning("%s", error)
                return
            self.listen()

    def _send_waiting(self, deadline: float | None) -> bool:
        """Whether all waiting frames were queued for a server before the deadline, in order."""
        while self._waiting:
            frame = self._waiting[0]
            if not self.wait(frame.topic, deadline):
                return False
            if frame is not self._waiting[0]:
                continue  # a connection that broke meanwhile has left older ones
            connection, answers = self._connection, self.answers
            if answers and not self._known:
                self._known = True
                self._ask()  # so that it says what it refuses of the first frame
            self._waiting.popleft()
            if answers:
                self._flight.append(frame)
            queued = self._queue(frame.topic, frame.body, zmq.NOBLOCK)
            left = remaining_ms(deadline)
            if not queued and left:
                # An XPUB socket always polls as writable, so the sending call itself has to wait for room. It also
                # returns without an error if the server goes away meanwhile: then nobody has the message.
                self.socket.sndtimeo = 1000 if left < 0 else min(left, 1000)
                queued = self._queue(frame.topic, frame.body, 0)
                self.listen()
            if connection != self._connection:
                if not answers:
                    self._waiting.appendleft(frame)
            elif queued:
                self._since += 1
                if not answers:
                    frame.sender.unconfirmed -= frame.poses
                elif frame.last or self._since >= ASK_FRAMES or time.monotonic() - self._asked_at > ASK_S:
                    self._ask()
            else:
                if answers:
                    self._flight.pop()
                self._waiting.appendleft(frame)
                if not left:
                    return False
        return True

    def _queue(self, topic: bytes, body: bytes, flags: int) -> bool:
        try:
            self.socket.send_multipart((topic, body), flags)
        except zmq.Again:
            return False
        return True

    def _ask(self) -> None:
        """Asks the server what it has taken."""
        self._asked, self._asked_at = self._asked + 1, time.monotonic()
        if self._queue(*wire.encode(wire.Sync(self._client, self._asked)), zmq.NOBLOCK):
            self._flight.append(self._asked)
            self._since = 0

    def _hear(self, body: bytes) -> None:
        """Something that the server says to all its publishers."""
        try:
            message = wire.decode_answer(body)
        except WireError:  # of a later version
            return
        self._heard = time.monotonic()
        if isinstance(message, wire.Heartbeat):
            self.heartbeat = message
        elif isinstance(message, wire.Event) and message.kind == "error" and message.stream in self._senders:
            self._senders[message.stream].refused(message)
        elif isinstance(message, wire.Taken):
            for client, number in message.numbers.tolist():
                if client == self._client:
                    self._taken(number)

    def _taken(self, number: int) -> None:
        """The server has taken what was sent before that question."""
        while (first := next((each for each in self._flight if isinstance(each, int)), None)) is not None:
            if first > number:
                return
            while isinstance(frame := self._flight.popleft(), Frame):
                frame.sender.unconfirmed -= frame.poses

    def _broken(self) -> None:
        """The connection has broken, and with it goes what was on the way."""
        self._connection += 1
        self._known = False
        frames = [each for each in self._flight if isinstance(each, Frame)]
        self._flight.clear()
        self._waiting.extendleft(frame for frame in reversed(frames) if frame.lossless)
        for frame in frames:
            if not frame.lossless:
                self._missed(frame)

    @staticmethod
    def _missed(frame: Frame) -> None:
        frame.sender.unconfirmed -= frame.poses
        frame.sender.missed(frame.poses)
