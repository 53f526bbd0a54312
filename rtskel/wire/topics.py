"""Topics, and the endpoints that clients and server use unless told otherwise.

The slash at the end is part of a topic: ZeroMQ matches prefixes, and `cam1` would also match `cam10`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from rtskel.errors import WireError
from rtskel.wire.fields import show

RAW_ENDPOINT: Final = "tcp://127.0.0.1:5555"
"""Where a server takes raw poses by default."""

REFINED_ENDPOINT: Final = "tcp://127.0.0.1:5556"
"""Where a server publishes refined poses by default."""

RAW_PREFIX: Final = b"rts1/raw/"
RAW_BATCH_PREFIX: Final = b"rts1/raw_batch/"
REFINED_PREFIX: Final = b"rts1/refined/"
REFINED_BATCH_PREFIX: Final = b"rts1/refined_batch/"
EVENT_PREFIX: Final = b"rts1/event/"
HEARTBEAT_TOPIC: Final = b"rts1/heartbeat/"
SYNC_TOPIC: Final = b"rts1/sync/"
TAKEN_TOPIC: Final = b"rts1/taken/"
AGAIN_PREFIX: Final = b"rts1/again/"

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def is_id(text: object) -> bool:
    """Whether this is a valid stream or group id."""
    return type(text) is str and _ID.fullmatch(text) is not None


def id_bytes(text: str, what: str = "stream") -> bytes:
    """A stream or group id as bytes; WireError if it is not valid."""
    if not is_id(text):
        raise WireError(f"{what} id {show(text)}: 1 to 64 of A-Z a-z 0-9 . _ - expected")
    return text.encode("ascii")


@lru_cache(maxsize=4096)
def raw_topic(stream: str) -> bytes:
    """Topic of a stream's raw poses. WireError names a bad stream id; the same holds for the other topics."""
    return b"%b%b/" % (RAW_PREFIX, id_bytes(stream))


@lru_cache(maxsize=4096)
def raw_batch_topic(group: str) -> bytes:
    """Topic of the raw poses of several people in one camera frame."""
    return b"%b%b/" % (RAW_BATCH_PREFIX, id_bytes(group, "group"))


@lru_cache(maxsize=4096)
def refined_topic(stream: str, lookahead: int) -> bytes:
    """Topic of a stream's refined poses at one lookahead (frames)."""
    return b"%b%b/L%d/" % (REFINED_PREFIX, id_bytes(stream), lookahead)


def refined_batch_topic(lookahead: int) -> bytes:
    """Topic of the refined poses of all streams at one lookahead (frames)."""
    return b"%bL%d/" % (REFINED_BATCH_PREFIX, lookahead)


def again_topic(reader: str, prefix: bytes) -> bytes:
    """Topic on which a reader asks for, and gets, what was published last on topics with that prefix.

    Args:
        reader: an id that is unique to the reader.
        prefix: of topics of single refined poses, or of events.
    """
    return b"%b%b/%b" % (AGAIN_PREFIX, id_bytes(reader, "reader"), prefix)


def asked_again(topic: bytes) -> bytes | None:
    """The prefix of an `again_topic`; None if this is not one."""
    _, _, reader, prefix = topic.split(b"/", 3) if topic.count(b"/") >= 3 else (b"",) * 4
    valid = topic.startswith(AGAIN_PREFIX) and is_id(reader.decode("ascii", "replace"))
    return prefix if valid and prefix.startswith((REFINED_PREFIX, EVENT_PREFIX)) else None


@lru_cache(maxsize=4096)
def event_topic(stream: str) -> bytes:
    """Topic of a stream's events; of the server's own events for an empty id."""
    return b"%b%b/" % (EVENT_PREFIX, id_bytes(stream) if stream else b"")


def stream_of(topic: bytes) -> str | None:
    """The stream (or group) id in a topic, for counting messages whose body cannot be read; None if there is none."""
    parts = topic.split(b"/")
    if len(parts) < 4 or parts[0] != b"rts1" or parts[1] not in (b"raw", b"raw_batch", b"refined", b"event"):
        return None
    stream = parts[2].decode("ascii", "replace")
    return stream if is_id(stream) else None
