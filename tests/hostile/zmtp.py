"""A bare ZMTP 3.0 client without keys: sends what no ZeroMQ library would. https://rfc.zeromq.org/spec/23/"""

from __future__ import annotations

import socket
import struct
from typing import Self


class Peer:
    """A connection to a ZeroMQ socket, through the handshake. A context manager.

    Args:
        endpoint: tcp://HOST:PORT.
        kind: what it says it is: XSUB to an XPUB socket, XPUB (or PUB) to a SUB socket.
    """

    def __init__(self, endpoint: str, kind: str = "XSUB") -> None:
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31))
        self._read(64)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind.encode()
        self.socket.sendall(b"\x04" + bytes([len(ready)]) + ready)
        self._read(self._read(2)[1])

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self.socket.recv(size - len(data))
            if not got:
                raise ConnectionError("the server closed the connection")
            data += got
        return data

    @staticmethod
    def frame(data: bytes, more: bool = False) -> bytes:
        """One frame as it goes over the wire."""
        if len(data) < 256:
            return bytes([more, len(data)]) + data
        return bytes([2 | more]) + struct.pack(">Q", len(data)) + data

    @classmethod
    def message(cls, *parts: bytes) -> bytes:
        """A whole message."""
        return b"".join(cls.frame(part, part is not parts[-1]) for part in parts)

    def send(self, data: bytes, seconds: float = 30.0) -> bool:
        """Bytes as they are; False if the server has closed the connection, or takes no more for so long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def wait_closed(self, seconds: float) -> bool:
        """Whether the server closes the connection within that time."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(4096):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        """Go away."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
