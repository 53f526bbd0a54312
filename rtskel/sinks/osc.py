"""Messages of Open Sound Control 1.0 as bytes. Specification: opensoundcontrol.org."""

from __future__ import annotations

import struct


def message(address: str, types: str, *values: str | float) -> bytes:
    """Address, type tags, and values that are strings (s), ints (i) or floats (f).

    With fewer values than type tags: what all messages that go on like that begin with.
    """
    parts = [_text(address), _text("," + types)]
    for kind, value in zip(types, values, strict=False):
        parts.append(_text(value) if isinstance(value, str) else struct.pack(f">{kind}", value))
    return b"".join(parts)


def bundle(messages: list[bytes]) -> bytes:
    """Messages that take effect together and at once."""
    return b"#bundle\0" + struct.pack(">Q", 1) + b"".join(struct.pack(">i", len(each)) + each for each in messages)


def _text(value: str) -> bytes:
    data = value.encode()
    return data + bytes(4 - len(data) % 4)
