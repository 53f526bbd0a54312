"""`rtskel send vmc`: moves an avatar by the VMC protocol (Virtual Motion Capture, OSC over UDP).

Unity (EVMC4U), Unreal (VMC4UE), Blender (VMC4B), VSeeFace, Warudo and others receive it. One bundle a pose, with
`/VMC/Ext/OK`, `/VMC/Ext/T`, the root and every bone of `rtskel.avatar`. Coordinates are Unity's: metres, y up,
left-handed, the avatar faces +z, rotations relative to the T pose.
Specification: protocol.vmc.info.
"""

from __future__ import annotations

import argparse
import socket
import sys
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from rtskel.avatar import AXES, BONES, Rig, Solver, quaternions
from rtskel.avatar.rig import BONE
from rtskel.errors import RtskelError
from rtskel.sinks import SHOULDER_WIDTH_M, Sink, SinkPlugin
from rtskel.sinks.osc import bundle, message
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50, from_canonical, to_canonical
from rtskel.wire import Flag, RefinedPose

PORT = 39539
"""Where receivers of the VMC protocol ("marionettes") listen unless told otherwise."""

HIPS_HEIGHT = 0.9
"""Metres from the floor to the hips of the avatar at its first pose."""

_UNITY = {"ThumbProximal": "ThumbIntermediate", "ThumbMetacarpal": "ThumbProximal"}


def unity_name(bone: str) -> str:
    """What Unity's HumanBodyBones calls a bone of VRM 1.0: its thumb has no metacarpal."""
    for vrm, unity in _UNITY.items():
        if bone.endswith(vrm):
            bone = bone.removesuffix(vrm) + unity
            break
    return bone[0].upper() + bone[1:]


NAMES = tuple(unity_name(bone.name) for bone in BONES)


class VmcSink(Sink):
    """Sends one person: the first stream that comes, until it ends.

    Args:
        host, port: of the receiver.
        height: metres from the floor to the hips at the first pose.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = PORT, height: float = HIPS_HEIGHT) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.connect(address)
        except OSError as error:
            raise RtskelError(f"{host}:{port}: {error.strerror or error}") from None
        self._height = height
        self._stream: str | None = None
        self._ignored: set[str] = set()
        self._solver = Solver()
        self._offsets = unity_positions(Rig.standard().origins * 3 * SHOULDER_WIDTH_M)
        self._start()

    def _start(self) -> None:
        self._solver.reset()
        self._widths: list[float] = []
        self._first: NDArray[np.float64] | None = None
        self._began = 0

    def pose(self, pose: RefinedPose) -> None:
        """Send one pose, if it is of the stream that is shown."""
        if pose.skeleton != UPPER_BODY_50.id:
            raise RtskelError(f"stream {pose.stream!r} has skeleton {pose.skeleton!r}: vmc knows {UPPER_BODY_50.id!r}")
        if self._stream is None:
            self._stream = pose.stream
        elif pose.stream != self._stream:
            if pose.stream not in self._ignored:
                self._ignored.add(pose.stream)
                print(f"rtskel: vmc moves one person, {self._stream}: {pose.stream} is left out", file=sys.stderr)
            return
        if Flag.RESET in pose.flags:
            self._start()
        with suppress(ConnectionRefusedError):  # nobody listens yet, or any more: the next packet may find somebody
            self._socket.send(self._packet(pose))

    def end(self, stream: str) -> None:
        """Let another stream take over."""
        if stream == self._stream:
            self._stream = None
            self._ignored.clear()
            self._start()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _packet(self, pose: RefinedPose) -> bytes:
        xyz = from_canonical(to_canonical(pose.xyz, pose.axes, pose.mirrored), AXES).astype(np.float64)[None]
        motion = self._solver.push(xyz, np.ones(xyz.shape[:2], np.bool_))
        # The unit is not known: the shoulders tell it, by their median so far, so that the avatar does not breathe.
        if len(self._widths) < 250:
            self._widths.append(float(np.linalg.norm(xyz[0, LEFT_SHOULDER] - xyz[0, RIGHT_SHOULDER])))
        scale = SHOULDER_WIDTH_M / max(float(np.median(self._widths)), 1e-9)
        if self._first is None:
            self._first, self._began = xyz[0, NECK], pose.source_time_ns
        places = self._offsets.copy()
        moved = unity_positions((xyz[0, NECK] - self._first) * scale)
        places[BONE["hips"]] = moved + np.array((0.0, self._height, 0.0))
        turns = unity_quaternions(quaternions(motion.rotation[0]))
        messages = [_OK, message("/VMC/Ext/T", "f", (pose.source_time_ns - self._began) / 1e9), _ROOT]
        messages += map(bytes.__add__, _PREFIXES, map(bytes, np.concatenate([places, turns], axis=1).astype(">f4")))
        return bundle(messages)


_OK = message("/VMC/Ext/OK", "i", 1)
_PREFIXES = [message("/VMC/Ext/Bone/Pos", "sfffffff", name) for name in NAMES]
_ROOT = message("/VMC/Ext/Root/Pos", "sfffffff", "root", *[0.0] * 6, 1.0)


def unity_positions(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions [..., 3] along `AXES`, which are right-handed, in Unity's left-handed axes: x grows the other way."""
    return positions * (-1.0, 1.0, 1.0)


def unity_quaternions(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quaternions [..., 4] (x, y, z, w) of the same rotations in Unity's axes."""
    return turns * (1.0, -1.0, -1.0, 1.0)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="where the receiver runs (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, help=f"UDP port of the receiver (default {PORT})")
    parser.add_argument(
        "--height", type=float, default=HIPS_HEIGHT, metavar="M", help=f"of the hips at first (default {HIPS_HEIGHT})"
    )


MORE = """\
Moves the avatar of one person: the first stream that comes, or --stream. The receiver needs no more than its port.

examples:
  rtskel send vmc                                 an avatar on this machine
  rtskel send vmc --host 192.168.1.20 --stream cam1 --lookahead 4"""

PLUGIN = SinkPlugin(
    "move an avatar in Unity, Unreal, Blender or VSeeFace by the VMC protocol",
    MORE,
    _options,
    lambda args: VmcSink(args.host, args.port, args.height),
)
