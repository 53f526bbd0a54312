"""One segment of a stream: what lies between two fresh starts, slots 0, 1, ... at one place of the bank.

Here is which slot a frame is for, how long a slot is, and what the segment's messages have in common. What may be done
with a frame is decided in `rtskel.serve.stream`.
"""

from __future__ import annotations

import numpy as np

from rtskel.serve.common import NEVER, Common
from rtskel.serve.phase import Phase
from rtskel.serve.reports import SECOND
from rtskel.serve.room import YOUNG
from rtskel.skeleton import signed_axes
from rtskel.wire import About, Flag, RawPose, RefinedPose


class Segment:
    """A segment that begins at a place, with a first frame.

    Args:
        common: what streams share.
        place: in the bank and the arrays.
        first: the frame, read at `now`. It still has to be accepted.
        expected: frame number with which the segment would have begun if nothing was lost; None: not known.
        base: number in the output of slot 0.
        dropped: slots without a pose before this segment, by lookahead.
        flags: of the first pose.

    Attributes:
        like: a message like all of the segment, but for seq, time_ns and arrays.
        origin: frame number of slot 0.
        end_slot: last slot, once an end said so.
        last: last slot, once it is closed. next_number: frame number after that one.
        last_number: number of the last frame that came, once the segment is out.
        end_ns: source time of its end, or of its last frame.
    """

    __slots__ = (
        *("_common", "_corrected", "_first", "_heard", "_phase"),
        *("end_ns", "end_slot", "last", "last_number", "like", "next_number", "origin", "place"),
    )

    def __init__(
        self,
        common: Common,
        place: int,
        first: RawPose,
        now: int,
        *,
        expected: int | None,
        base: int,
        dropped: list[int],
        flags: Flag,
    ) -> None:
        self._common, self.place = common, place
        self._phase = Phase(first, 0) if first.seq is None else None  # where slots come from timestamps
        self._corrected = 0.0  # frames a second, where the claim was wrong
        self._heard = self.end_slot = self.last = -1
        self.next_number = self.last_number = self.end_ns = 0
        number = self.number(first)
        lost = 0 if expected is None or first.seq is None else number - expected
        slot = lost if 0 <= lost <= common.config.max_gap else 0
        self.origin = number - slot
        self._first = (slot, first.time_ns)

        arrays = common.arrays
        arrays.newest[place] = arrays.first[place] = slot
        arrays.live[place] = True
        arrays.until[place] = NEVER
        arrays.origin[place] = self.origin
        arrays.timed[place] = first.seq is None
        arrays.lossless[place] = first.lossless
        arrays.base[place] = base
        arrays.flags[place] = flags | Flag.RESET
        arrays.faulty[place] = -1
        arrays.axes[place] = signed_axes(first.axes, first.mirrored)
        arrays.slot[place] = -1
        arrays.compiled.begin(place, dropped)
        self._announce(first)
        self._lift()
        # Frames before the first one may be on their way, shuffled within the lookahead: they are not overdue yet.
        arrays.arrival.start(place, max(0, slot - common.furthest), now, slot, self.period)

    def sample(self, stream: str, lookahead: int, *, epoch: int, clock: str, model: str) -> RefinedPose:
        """A pose of the segment: what all its poses at one lookahead have in common, and nothing else."""
        bank, source = self._common.bank, self.like
        nothing = np.zeros((bank.joints, 3), np.float32)
        return RefinedPose(
            stream=stream,
            lookahead=lookahead,
            epoch=epoch,
            seq=0,
            source_epoch=source.epoch,
            source_seq=None,
            source_time_ns=0,
            source_clock=source.clock,
            fps=self.fps,
            receive_ns=0,
            infer_start_ns=0,
            infer_end_ns=0,
            publish_ns=0,
            clock=clock,
            windows=0,
            flags=Flag(0),
            skeleton=bank.config.skeleton.id,
            model=model,
            axes=source.axes,
            mirrored=source.mirrored,
            xyz=nothing,
            confidence=nothing[:, 0],
            missing=nothing[:, 0] == 0,
            sigma=nothing[:, 0],
            about=source.about,
        )

    # --- slots and times ----------------------------------------------------------------------------------------------

    def number(self, msg: RawPose) -> int:
        """The frame number of a message: as sent, or by its time."""
        if msg.seq is not None:
            return msg.seq
        return self._phase.slot(msg) if self._phase is not None else 0

    def slot(self, msg: RawPose) -> int:
        """The slot that a message is for."""
        return self.number(msg) - self.origin

    @property
    def timed(self) -> bool:
        """Whether slots come from timestamps."""
        return self.like.seq is None

    @property
    def period(self) -> float:
        """Nanoseconds a slot, as claimed."""
        return self._phase.period if self._phase is not None else SECOND / self.like.fps

    @property
    def fps(self) -> float:
        """Frames a second, as claimed, or as they turned out to come."""
        return self._corrected or self.like.fps

    @property
    def newest(self) -> int:
        """Last slot for which a frame came, of a segment that has a place."""
        return int(self._common.arrays.newest[self.place])

    @property
    def heard(self) -> int:
        """When the last accepted message was read, in ns."""
        return self._heard if self.place < 0 else int(self._common.arrays.heard[self.place])

    def hear(self, now: int) -> None:
        """A message was accepted."""
        if self.place < 0:
            self._heard = now
        else:
            self._common.arrays.heard[self.place] = now

    def captured(self, slot: int) -> int:
        """The source time of a slot that is not out."""
        arrays = self._common.arrays
        return int(arrays.captured[self.place, slot % arrays.ring])

    @property
    def filled(self) -> int:
        """How many slots are filled in where no later frame has come: none of a recording, whose next frame is waited
        for, nor of a young stream, which may be somebody's mistake; of others as many as there were before.
        """
        slots = self.newest - self._first[0] + 1
        return 0 if self.like.lossless or slots < YOUNG else min(slots, self._common.config.max_gap)

    def has(self, slot: int) -> bool:
        """Whether a frame came for that slot, as far as that is remembered."""
        arrays = self._common.arrays
        return self.place >= 0 and slot >= 0 and bool(arrays.slot[self.place, slot % arrays.ring] == slot)

    def is_out(self, slot: int) -> bool:
        """Whether a frame came for that slot, or it is out at every lookahead."""
        common = self._common
        return slot < 0 or slot + common.furthest < common.bank.next_window[self.place] or self.has(slot)

    # --- what its messages have in common -----------------------------------------------------------------------------

    def follow_changes(self, msg: RawPose) -> None:
        """What may change within a segment is from now on what this message says."""
        like, common = self.like, self._common
        if msg.fps == like.fps and msg.clock == like.clock and msg.lossless is like.lossless:
            return
        if msg.fps != like.fps:
            common.intake.put()
        self._announce(msg)
        common.arrays.lossless[self.place] = msg.lossless
        if msg.fps != like.fps:  # slots go on, the clock ticks differently from the newest slot on
            self._lift()
            if self._phase is not None:
                self._phase.correct(SECOND / msg.fps, self.newest)
            self._corrected = 0.0
            common.arrays.arrival.retime(self.place, self.newest, self.period)

    def follow(self, msg: RawPose, slot: int) -> float:
        """That frame was accepted; gives the period, in ns, that frames placed by time turn out to have, or 0."""
        if self._phase is None:
            return 0.0
        self._phase.follow(msg, slot)
        return self._phase.contradicted()

    def agrees(self, held: RawPose, msg: RawPose) -> float:
        """The period by which a frame that leapt and the next one just follow, if there is one; else 0."""
        return 0.0 if self._phase is None else self._phase.agrees(held, msg)

    def correct(self, period: float) -> None:
        """Frames placed by time come every `period` ns, and not as they claim."""
        assert self._phase is not None
        common = self._common
        common.intake.put()
        self._phase.correct(period, int(common.bank.watermark[self.place]))
        self._corrected = SECOND / period
        common.changed.append(self.place)
        self._lift()
        common.arrays.arrival.retime(self.place, self.newest, period)

    def _announce(self, msg: RawPose) -> None:
        """What the segment's messages have in common, and so its poses, is from now on what this one says."""
        self.like = msg
        self._common.changed.append(self.place)
        self._common.intake.forget(self.place)

    def _lift(self) -> None:
        if self.like.dims == 2:
            self._common.bank.lift(self.place, self.fps)

    # --- the end ------------------------------------------------------------------------------------------------------

    def give_up(self, first: int, last: int) -> None:
        """Slots first..last count as missing where no frame came: note the time that their frames would have had."""
        arrays, place, period = self._common.arrays, self.place, self.period
        slots, received, captured = arrays.slot[place], arrays.received[place], arrays.captured[place]
        first_slot, first_time = self._first
        for slot in range(first, last + 1):
            at = slot % arrays.ring
            if slots[at] == slot:
                continue
            if slot < first_slot:
                time = first_time - round((first_slot - slot) * period)
            else:
                time = int(captured[(slot - 1) % arrays.ring]) + round(period)
            received[at] = 0
            captured[at] = max(0, time)
            self._common.reports.counts["missing"] += 1

    def close(self, last: int) -> None:
        """No more frames: what is due comes out, up to slot `last` at least."""
        common, place = self._common, self.place
        last = max(last, int(common.bank.newest[place]))
        self.give_up(int(common.bank.watermark[place]) + 1, last)
        common.bank.end(place, last)
        self.last = last
        self.next_number = self.origin + last + 1
        common.arrays.live[place] = False
        common.intake.forget(place)

    def leave(self) -> list[int]:
        """Its output is out, and it has no place any more; gives slots without a pose, by lookahead."""
        self.last_number, self._heard = self.origin + self.newest, self.heard
        dropped: list[int] = self._common.arrays.compiled.dropped(self.place)
        self._common.bank.reset(self.place)
        self.place = -1
        return dropped


def kind(msg: RawPose) -> tuple[object, ...]:
    """What the messages of a stream that take the fast way have in common."""
    return (
        *(msg.epoch, msg.clock, msg.fps, msg.skeleton, msg.axes, msg.mirrored, msg.lossless, msg.dims, msg.about),
        *(msg.seq is None, len(msg.xyz)),
    )


def view(msg: RawPose) -> tuple[str, bool, bool, int, About]:
    """What may not change within a segment beside the epoch: axes, mirrored, whether slots come from timestamps,
    whether the estimator knows depths, and what the poses are of.
    """
    return msg.axes, msg.mirrored, msg.seq is None, msg.dims, msg.about


def show_view(msg: RawPose) -> str:
    """For people."""
    axes, mirrored, timed, dims, about = view(msg)
    shown = f"axes {axes}{' mirrored' if mirrored else ''}, {'timed' if timed else 'numbered'}"
    said = [(name, getattr(about, name)) for name in ("unit", "person", "view", "image_size")]
    known = [f"{name} {value!r}" for name, value in said if value is not None]
    return ", ".join([shown, *(["2D"] if dims == 2 else []), *known])
