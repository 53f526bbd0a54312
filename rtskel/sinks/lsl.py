"""`rtskel send lsl`: an outlet of the Lab Streaming Layer for each stream of refined poses.

Four channels a joint: x, y, z and confidence (0: filled in), labelled `nose_x`, `nose_y`, ... A sample's time stamp is
when the frame was taken, on LSL's clock: the delay of lookahead and refinement is accounted for, and recorders align
the poses with other devices by it. Needs the package pylsl (extra `lsl`), which carries liblsl.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from rtskel.errors import RtskelError
from rtskel.sinks import Sink, SinkPlugin
from rtskel.skeleton import skeleton
from rtskel.wire import RefinedPose

TYPE = "MoCap"
PARTS = (("x", "PositionX"), ("y", "PositionY"), ("z", "PositionZ"), ("confidence", "Confidence"))
"""Ending of a channel's label, and its type by LSL's conventions for motion capture."""
UNITS = {"m": "meters", "cm": "centimeters", "mm": "millimeters", "px": "pixels"}
"""What LSL calls units."""


class LslSink(Sink):
    """One outlet for each stream, opened with its first pose and closed with its end.

    Args:
        prefix: what the outlets' names begin with; the stream's id follows.
        unit: of positions, as the channels state it; None: as the stream says.
    """

    def __init__(self, prefix: str = "rtskel-", unit: str | None = None) -> None:
        try:
            import pylsl
        except (ModuleNotFoundError, RuntimeError) as error:  # RuntimeError: no liblsl for this machine
            raise RtskelError(f"lsl needs the package pylsl: pip install 'rtskel[lsl]' ({error})") from None
        self._lsl = pylsl
        self._prefix, self._unit = prefix, unit
        self._outlets: dict[str, Any] = {}
        self._shifts: dict[str, float] = {}
        self._of: dict[str, tuple[object, ...]] = {}

    def pose(self, pose: RefinedPose) -> None:
        """Push one pose into the outlet of its stream."""
        kind = (pose.skeleton, pose.fps, pose.lookahead, pose.axes, pose.mirrored, pose.model, pose.about)
        if self._of.get(pose.stream) != kind:
            self._of[pose.stream] = kind
            self._outlets[pose.stream] = self._lsl.StreamOutlet(self._describe(pose))
        sample = np.concatenate([pose.xyz, pose.confidence[:, None]], axis=1).ravel()
        self._outlets[pose.stream].push_sample(sample, self._stamp(pose))

    def end(self, stream: str) -> None:
        """Close the outlet of a stream."""
        self._outlets.pop(stream, None)
        self._shifts.pop(stream, None)
        self._of.pop(stream, None)

    def close(self) -> None:
        """Close all outlets."""
        for stream in list(self._outlets):
            self.end(stream)

    def _stamp(self, pose: RefinedPose) -> float:
        """When the frame was taken, in seconds of LSL's clock, which is the machine's monotonic one."""
        taken = pose.source_time_ns / 1e9
        if pose.source_clock == "monotonic":
            return taken
        if pose.source_clock == "unix":
            return taken + float(self._lsl.local_clock()) - time.time()
        # Another clock: by the least delay so far between a frame's time and the server's reading of it.
        if pose.clock == "monotonic" and pose.receive_ns:
            shift = pose.receive_ns / 1e9 - taken
        else:
            shift = float(self._lsl.local_clock()) - pose.lookahead / pose.fps - taken
        self._shifts[pose.stream] = min(shift, self._shifts.get(pose.stream, shift))
        return taken + self._shifts[pose.stream]

    def _describe(self, pose: RefinedPose) -> Any:
        names = skeleton(pose.skeleton).names
        name = self._prefix + pose.stream
        info = self._lsl.StreamInfo(
            name, TYPE, len(PARTS) * len(names), pose.fps, "float32", f"rtskel-{pose.stream}-{pose.epoch:x}"
        )
        unit = self._unit or UNITS.get(pose.about.unit or "", pose.about.unit) or "unknown"
        about = info.desc()
        channels = about.append_child("channels")
        for joint in names:
            for ending, kind in PARTS:
                channel = channels.append_child("channel")
                channel.append_child_value("label", f"{joint}_{ending}")
                channel.append_child_value("object", joint)
                channel.append_child_value("type", kind)
                channel.append_child_value("unit", "normalized" if kind == "Confidence" else unit)
        setup = about.append_child("setup")
        for label, value in (
            ("skeleton", pose.skeleton),
            ("axes", pose.axes),
            ("mirrored", str(pose.mirrored).lower()),
            ("lookahead_frames", pose.lookahead),
            ("model", pose.model),
        ):
            setup.append_child_value(label, str(value))
        about.append_child("synchronization").append_child_value("offset_mean", "0")
        return info


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", default="rtskel-", help="outlets are called that and the stream (default rtskel-)")
    parser.add_argument("--unit", help="of positions, such as meters, for the channels' description (default: as sent)")


MORE = """\
Opens an outlet for each stream. LabRecorder and other programs find it by its name or its type, MoCap.

examples:
  rtskel send lsl
  rtskel send lsl --stream cam1 --lookahead 12 --unit meters"""

PLUGIN = SinkPlugin(
    "offer poses on the Lab Streaming Layer, with time stamps",
    MORE,
    _options,
    lambda args: LslSink(args.prefix, args.unit),
)
