"""A sink of your own: sends each pose as a line of JSON by UDP. `rtskel send udp --port 9000` once it is installed."""

import argparse
import json
import socket

from rtskel.sinks import Sink, SinkPlugin
from rtskel.wire import RefinedPose


class UdpSink(Sink):
    """Send every pose as one JSON line in a UDP datagram."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._address = ("127.0.0.1", port)

    def pose(self, pose: RefinedPose) -> None:
        """Send one pose."""
        line = {"stream": pose.stream, "seq": pose.seq, "xyz": pose.xyz.tolist()}
        self._socket.sendto(json.dumps(line).encode(), self._address)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=9000, help="UDP port of the receiver (default 9000)")


PLUGIN = SinkPlugin(
    summary="send poses as JSON by UDP",
    more="example:\n  rtskel send udp --port 9000",
    options=_options,
    open=lambda args: UdpSink(args.port),
)
