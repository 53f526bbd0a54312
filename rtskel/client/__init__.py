"""Clients of a server: publishers of raw poses, subscribers to refined ones.

In: arrays from an estimator, or messages of a server. Out: messages, or poses, events and heartbeats.
Needs numpy, pyzmq and msgpack only.
"""

from rtskel.client.endpoints import RAW_ENDPOINT, REFINED_ENDPOINT, GroupPublisher, Publisher, Subscriber

__all__ = ["RAW_ENDPOINT", "REFINED_ENDPOINT", "GroupPublisher", "Publisher", "Subscriber"]
