"""A publisher and a subscriber as load for a server, each in a process of its own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import zmq

from measure.processes import started

Messages = Iterable[tuple[Sequence[Any], int]]
"""Messages, as parts, and the flags to send them with; NOBLOCK: a message that does not fit is dropped and counted."""


def publish(endpoint: str, messages: Callable[..., Messages], given: tuple[Any, ...], high: int, control: Any) -> None:
    """Send messages once the server has subscribed and we are told to; send how many were dropped."""
    made = messages(*given)
    context = zmq.Context()
    gc.disable()
    with context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.setsockopt(zmq.SNDHWM, high)
        socket.connect(endpoint)
        socket.recv()  # the server's subscription
        control.send("ready")
        control.recv()
        dropped = 0
        for parts, flags in made:
            try:
                socket.send_multipart(parts, flags, copy=False)
            except zmq.Again:
                dropped += 1
        control.send(dropped)
        control.recv()
    context.term()


@contextmanager
def subscribed(endpoint: str, topics: Iterable[bytes]) -> Iterator[zmq.Socket[bytes]]:
    """A socket without high-water marks (for subscriptions too) that subscribes to these topics."""
    context = zmq.Context()
    gc.disable()
    with context.socket(zmq.SUB) as socket:
        socket.rcvhwm = socket.sndhwm = 0
        for topic in topics:
            socket.subscribe(topic)
        socket.connect(endpoint)
        yield socket
    context.term()


@contextmanager
def load(publisher: tuple[Any, ...], subscriber: tuple[Any, ...]) -> Iterator[tuple[Connection, Connection]]:
    """Both processes, each as (function, *arguments), once they are ready and the publisher was told to send."""
    with started(*subscriber) as (_, received):
        received.recv()
        with started(*publisher) as (_, sent):
            sent.recv()
            sent.send("go")
            yield sent, received
            sent.send("done")
