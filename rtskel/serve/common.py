"""What all streams of a table share, and the states that each of them is in (see `rtskel.serve.stream`)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

from rtskel.refine import RefinerBank
from rtskel.serve.arrays import PlaceTable, StreamArrays
from rtskel.serve.config import StreamConfig
from rtskel.serve.reports import SECOND, Reports
from rtskel.serve.room import Room
from rtskel.wire import RawPose, StreamEnd

if TYPE_CHECKING:
    from rtskel.serve.intake import Intake
    from rtskel.serve.stream import Stream

MAX_NUMBER = 2**62
"""Largest frame number and source time taken: what is derived from them stays within 64 bits."""

MIN_FPS = 0.1
"""Lowest rate taken: deadlines are counted in frames."""

NEVER = float("inf")

Message: TypeAlias = RawPose | StreamEnd
"""What one stream is sent; a `RawBatch` is taken as its poses."""


class State(Enum):
    """Of a stream."""

    OPEN = auto()
    HELD = auto()
    ENDING = auto()
    DRAINING = auto()
    CLOSED = auto()


@dataclass
class Common:
    """What all streams of a table share.

    Attributes:
        furthest: slots by which the last window of an average ends after the slot it is for.
        ending: streams that are ENDING. draining: those that are DRAINING.
        blocked: those with messages that wait, by name.
        backlog: how many messages wait.
        suspects: streams with frames that went back, by name.
        changed: places whose poses are of another kind than before.
        stopping: nothing else will come.
    """

    bank: RefinerBank
    config: StreamConfig
    arrays: StreamArrays
    places: PlaceTable
    reports: Reports
    intake: Intake
    room: Room
    furthest: int
    ending: list[Stream] = field(default_factory=list)
    draining: list[Stream] = field(default_factory=list)
    blocked: OrderedDict[str, Stream] = field(default_factory=OrderedDict)
    backlog: int = 0
    suspects: dict[str, Stream] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)
    stopping: bool = False

    @property
    def jump(self) -> int:
        """A frame may be this many slots after the newest one."""
        return self.config.max_gap + 1

    @property
    def slack(self) -> float:
        """How long a frame may come after it was due, in ns."""
        return self.config.slack_s * SECOND

    def acceptable(self, msg: RawPose, now: int) -> bool:
        """Whether the bank can refine such frames; else the offender is named."""
        skeleton, joints = self.bank.config.skeleton.id, self.bank.joints
        if msg.skeleton != skeleton:
            kind, what = "skeleton", f"skeleton {msg.skeleton!r}, the engine refines {skeleton!r}"
        elif len(msg.xyz) != joints:
            kind, what = "joints", f"{len(msg.xyz)} joints, the engine refines {joints}"
        elif max(msg.seq or 0, msg.time_ns) > MAX_NUMBER:
            kind, what = "number", f"seq {msg.seq} or time {msg.time_ns} beyond 2**62"
        elif msg.fps < MIN_FPS:
            kind, what = "fps", f"{msg.fps:.4g} frames a second, less than {MIN_FPS}"
        elif msg.dims == 2 and not self.bank.lifts:
            kind, what = "flat", "2D poses, which are served with --lift only"
        else:
            return True
        detail = f"frame {msg.seq} of stream {msg.stream}: {what}"
        self.reports.offend(msg.stream, kind, detail, now, epoch=msg.epoch)
        return False
