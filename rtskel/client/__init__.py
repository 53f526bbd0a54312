"""Clients of a server: publishers of raw poses, subscribers to refined ones.

In: arrays from an estimator, or messages of a server. Out: messages, or poses, events and heartbeats.
Needs numpy, pyzmq and msgpack only.

    with Publisher(stream="cam1", fps=25) as publisher:
        publisher.wait_for_subscriber(timeout=5)
        for number, (xyz, confidence) in enumerate(estimator):
            publisher.send(xyz, confidence, seq=number)

    with Subscriber(streams="cam1", lookahead=4) as subscriber:
        for message in subscriber:
            ...
"""

from rtskel.client.publisher import GroupPublisher, Publisher
from rtskel.client.reader import ServerBack, ServerGone
from rtskel.client.subscriber import Subscriber
from rtskel.wire import RAW_ENDPOINT, REFINED_ENDPOINT

__all__ = ["RAW_ENDPOINT", "REFINED_ENDPOINT", "GroupPublisher", "Publisher", "ServerBack", "ServerGone", "Subscriber"]
