"""Which of several servers a stream belongs to, and how a front tells its clients of them. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgpack

from rtskel.errors import WireError
from rtskel.wire import fields as f

SHARDS_PREFIX: Final = b"rts1/shards/"
"""A front subscribes to this, with the endpoints of its shards behind it, instead of to raw poses."""

ANY_HOST: Final = "tcp://*:"
"""How endpoints begin whose host is the one by which the client has reached the front."""


@lru_cache(maxsize=1 << 17)
def choose(stream: str, names: tuple[str, ...]) -> int:
    """Which of these servers a stream belongs to: the one whose name and the stream's have the greatest hash.

    Every client chooses alike, whatever the order of the names. A server that is added takes its share of the streams
    from all others, one that is removed gives its streams to all others; no other stream moves.
    """
    if len(names) == 1:
        return 0
    return max(range(len(names)), key=lambda which: sha256(f"{names[which]}/{stream}".encode()).digest())


@lru_cache(maxsize=64)
def shard_names(count: int) -> tuple[str, ...]:
    """The names by which streams are divided among the shards of a front."""
    return tuple(map(str, range(count)))


def check_shards(endpoints: Any) -> tuple[str, ...]:
    """The endpoints of a front's shards; WireError if these are none."""
    f.check_elements("heartbeat", None, "shards", endpoints)
    return tuple(f.checked(endpoint, f.TEXT, "heartbeat", None, "shards") for endpoint in endpoints)


def shards_topic(endpoints: Sequence[str]) -> bytes:
    """What a front subscribes to, to tell publishers where its shards take raw poses."""
    packed: bytes = msgpack.packb(list(check_shards(list(endpoints))))
    return SHARDS_PREFIX + packed


def told_shards(topic: bytes) -> tuple[str, ...]:
    """The endpoints in a `shards_topic`; WireError if there are none."""
    try:
        endpoints = msgpack.unpackb(topic[len(SHARDS_PREFIX) :], max_array_len=f.MAX_ELEMENTS)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"shards: not msgpack: {error}") from None
    return check_shards(endpoints)


def reached(shard: str, front: str) -> str:
    """A shard's endpoint as a client connects to it that has reached the front by that endpoint."""
    if not (shard.startswith(ANY_HOST) and front.startswith("tcp://")):
        return shard
    return f"{front.rpartition(':')[0]}:{shard.removeprefix(ANY_HOST)}"
