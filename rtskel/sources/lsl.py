"""`rtskel receive lsl`: raw poses from an inlet of the Lab Streaming Layer.

The outlet's channels must be labelled by joint and part, `nose_x`, `nose_y`, `nose_z` and, if it has them,
`nose_confidence`, as `rtskel send lsl` labels its own. Joints without channels are missing; without any z, poses are
2D. Frames keep their time stamps, on this machine's clock. Needs the package pylsl (extra `lsl`).
"""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import RtskelError
from rtskel.sinks.lsl import UNITS
from rtskel.skeleton import CANONICAL_AXES, UPPER_BODY_50, axes_matrix
from rtskel.sources import Frame, Source, SourcePlugin

LOST = "the outlet has gone"


class LslSource(Source):
    """The poses of one outlet.

    Args:
        name: of the outlet; None: the only one of that type.
        type: of the outlet.
        timeout: seconds to look for it.
        axes: where x, y and z grow; None: as the outlet says, else canonical.

    Raises:
        RtskelError: invalid axes or timeout; none is found, or several; its channels name no joint; it states no rate.
    """

    def __init__(
        self, name: str | None = None, type: str = "MoCap", timeout: float = 10.0, axes: str | None = None
    ) -> None:
        if axes is not None:
            axes_matrix(axes)
        if not 0 < timeout < math.inf:
            raise RtskelError(f"lsl: {timeout:g} s to find an outlet: a number above 0 expected")
        try:
            import pylsl
            from pylsl.util import LostError
        except (ModuleNotFoundError, RuntimeError) as error:
            raise RtskelError(f"lsl needs the package pylsl: pip install 'rtskel[lsl]' ({error})") from None
        self._lost = LostError
        wanted = f"type={type!r}" if name is None else f"name={name!r}"
        predicate = f"type='{type}'" if name is None else f"name='{name}'"
        found = pylsl.resolve_bypred(predicate, 1, timeout)
        if not found:
            raise RtskelError(f"lsl: no outlet with {wanted} within {timeout:g} s")
        if len(found) > 1 and name is None:
            names = ", ".join(sorted(info.name() for info in found))
            raise RtskelError(f"lsl: {len(found)} outlets with {wanted}: choose one by --name ({names})")
        self._inlet = pylsl.StreamInlet(found[0], recover=False, processing_flags=pylsl.proc_clocksync)
        info = self._inlet.info(timeout)
        self.stream = re.sub(r"[^A-Za-z0-9._-]+", "-", info.name())[:64] or "lsl"
        self.fps = info.nominal_srate()
        if not self.fps > 0:
            raise RtskelError(f"lsl: outlet {info.name()!r} states no rate: refinement needs one")
        self._joints, self._parts, self._channels = _layout(info)
        self.unit = _unit(info, int(self._channels[0]))
        self.mirrored = _setup(info, "mirrored") == "true"
        self.axes = axes or _setup(info, "axes") or CANONICAL_AXES
        axes_matrix(self.axes)
        self._dims = 3 if 2 in self._parts else 2

    def frame(self, timeout: float) -> Frame | None:
        """The next frame, or None if none came within `timeout` seconds."""
        try:
            sample, stamp = self._inlet.pull_sample(timeout)
        except self._lost:
            raise EOFError(LOST) from None
        if sample is None:
            return None
        values = np.full((UPPER_BODY_50.joints, 4), np.nan, np.float32)
        values[self._joints, self._parts] = np.asarray(sample, np.float32)[self._channels]
        confidence = values[:, 3].copy()
        there = np.logical_and.reduce(np.isfinite(values[:, : self._dims]), axis=1, keepdims=True)
        if 3 not in self._parts:
            confidence[:] = 1
        confidence[~there[:, 0] | ~(confidence > 0)] = 0
        confidence = np.minimum(confidence, 1)
        xyz: NDArray[np.float32] = np.where(there, values[:, : self._dims], np.float32(0))
        return Frame(xyz, confidence, round(stamp * 1e9))

    def close(self) -> None:
        """Close the inlet."""
        self._inlet.close_stream()


def _layout(info: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Joint and part (0..3: x, y, z, confidence) of each channel that is one, and the channels' numbers."""
    parts = {"x": 0, "y": 1, "z": 2, "confidence": 3}
    found = []
    channel = info.desc().child("channels").child("channel")
    for number in range(info.channel_count()):
        joint, _, part = channel.child_value("label").rpartition("_")
        if joint in UPPER_BODY_50.names and part in parts:
            found.append((UPPER_BODY_50.names.index(joint), parts[part], number))
        channel = channel.next_sibling("channel")
    if not found:
        raise RtskelError(
            f"lsl: no channel of outlet {info.name()!r} has a label such as nose_x (see rtskel.UPPER_BODY_50)"
        )
    joints, of, channels = np.array(found, np.int64).T
    return joints, of, channels


def _unit(info: Any, number: int) -> str | None:
    """The unit that a channel states; None: none, or an unknown one."""
    channel = info.desc().child("channels").child("channel")
    for _ in range(number):
        channel = channel.next_sibling("channel")
    unit: str = channel.child_value("unit")
    known = {theirs: ours for ours, theirs in UNITS.items()}
    return None if unit in ("", "unknown") else known.get(unit, unit)


def _setup(info: Any, name: str) -> str:
    value: str = info.desc().child("setup").child_value(name)
    return value


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="of the outlet (default: the only one of --type)")
    parser.add_argument("--type", default="MoCap", help="of the outlet (default MoCap)")
    parser.add_argument("--find", type=float, default=10.0, metavar="S", help="look for it this long (default 10)")
    parser.add_argument("--axes", metavar="CODE", help="where x, y, z grow, if the outlet does not say (default RDT)")


MORE = """\
Finds an outlet whose channels are labelled by joints (nose_x, nose_y, nose_z, nose_confidence, ...) and publishes its
poses with their time stamps. Ends when the outlet goes.

examples:
  rtskel receive lsl
  rtskel receive lsl --name tracker --axes RUA"""

PLUGIN = SourcePlugin(
    "take poses from the Lab Streaming Layer",
    MORE,
    _options,
    lambda args: LslSource(args.name, args.type, args.find, args.axes),
)
