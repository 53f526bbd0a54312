"""What the server knows about its streams: slots, deadlines, restarts and ends. No sockets, no clock of its own.

`StreamTable` takes the messages of estimators with the time each was read, keeps a `rtskel.refine.RefinerBank`
fed, and gives back refined poses and events. Every time is an int in ns of one monotonic clock that the caller
reads.

What a user can rely on, for a stream of `fps` frames a second:

- *Slots.* A frame's slot is its `seq`; without one it is `round((time - first time) * fps)`. A stream whose
  first number is at most `max_gap` starts at number 0 (its first frames were lost on the way), else at that
  number. Every slot from there to the end of the stream is published once at each lookahead, in order; a slot
  without a frame is filled in and flagged INTERPOLATED. The first frame of a slot wins; one whose slot is out
  at every lookahead is dropped as `late`.
- *Due.* A slot is due when it usually arrives, by the arrivals of the stream's recent frames and its fps; see
  `rtskel.serve.arrival`. A wrong fps, a drifting clock or a replay at another speed shifts what is due instead of
  making every frame late.
- *Deadline.* A slot that has not come at `due + slack` counts as missing, so slot i at lookahead L is computed
  no later than `due(i) + L / fps + slack`, with a hop of h up to h - 1 frames later, and 2D streams by the lookahead
  of their lifting. While nothing is
  missing, nothing waits for a deadline. The default slack of 50 ms is more than one frame at 25 fps and three at 60:
  an estimator's usual jitter stays below it, and a dropped frame delays nothing by more than that. Frames that are
  shuffled by less than the slack come out as if they had not been.
- *Stall.* When frames stop coming, missing slots are published at their deadlines up to `max_gap` behind the
  last frame. Then the rest that is due comes out, flagged FLUSHED, and the event `stale` says that nothing
  follows until a frame does.
- *Starting afresh* (all memory gone, first pose flagged RESET, its number in the output going on): after a gap
  of more than `max_gap` slots (also GAP_BEFORE, event `gap`), at another epoch or other axes (event `reset`).
  What was due before comes out first. A number that leaps ahead while frames are coming in is held until the
  next frame confirms it, or one frame and the slack have passed; if the next frame goes on where the stream
  was, the leap is dropped as `jump`. Frames of an epoch that was replaced are dropped as `old_epoch`.
- *End.* StreamEnd with `seq` N: the stream has N slots. Those still missing have `slack` to arrive, the tail is
  flushed, event `end`. A frame of the same epoch after it starts afresh if its number is N or more, or if it
  was captured after the end; else it is late.
- *Idle.* A stream that sends nothing for `idle_s` is ended if it was not (event `end`, detail "idle") and forgotten
  (event `evicted`): its place is free for another, and its number in the output begins at 0 again.
- *Overload.* No frame is dropped here, and every slot is published. But where a live stream's frames have waited
  for the engine for longer than `behind_s`, or no more can wait, its newest window is refined next and the older
  ones are left out, and so it goes on until the engine has caught up. Slots that wanted those windows are averaged
  over the ones that did run (PARTIAL_AVERAGE), or pass through as they came (PASSTHROUGH). The windows left out are
  counted as `overload`. Streams that are `lossless` have every window refined: the server stops reading when too
  many of their frames wait, so that the queues of the publishers fill, and these wait, or count what they lose.
  Frames further ahead of the engine than its ring holds wait in the order they came.
- *Offenders* are counted by kind in `counts` and named in `error` events: the first of a kind and stream at
  once, then the running count at most once a second.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from operator import itemgetter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import WireError
from rtskel.refine import Put, Refined, RefinerBank
from rtskel.serve.arrays import StreamArrays
from rtskel.serve.lifting_bank import LiftingBank
from rtskel.skeleton import signed_axes
from rtskel.wire import Event, Flag, RawBatch, RawPose, RefinedPose, StreamEnd, decode
from rtskel.wire.fast import RawFrames, RawReader

CLOCK = "monotonic"
"""Name of the clock of every time that the table gives out."""

SECOND = 1_000_000_000

REPORT_EVERY = SECOND
"""Shortest time between two `error` events of one kind about one stream."""

MOST_NOTED = 4096
"""Offenders (stream and kind) that are remembered; of more the longest silent one is forgotten."""

MOST_NUMBER = 2**62
"""Largest frame number and source time taken: what is derived from them stays within 64 bits."""

_LOOK_EVERY = SECOND // 100
"""How often at the most it is asked which streams are behind."""

_NEVER = math.inf

_FLAGS = [Flag(bits) for bits in range(2 * Flag.FLUSHED)]  # looking one up is far cheaper than Flag(bits)

Message = RawPose | StreamEnd
"""What one stream is sent; a `RawBatch` is taken as its poses."""

Offence = Callable[[int, str], None]
"""Told which of the messages given is refused, and why."""

Out = TypeVar("Out")


@dataclass(frozen=True)
class StreamConfig:
    """How streams are treated.

    Attributes:
        max_streams: how many are served at once.
        max_gap: most slots in a row that are filled in; a longer gap starts the stream afresh.
        slack_s: seconds that a frame may come after it was due.
        idle_s: seconds of silence after which a stream is forgotten.
        behind_s: seconds that frames of a live stream may wait for the engine before the newest come first.
        ahead: how many slots ahead of the engine a stream's frames are kept in the ring; more wait in a queue.
    """

    max_streams: int = 256
    max_gap: int = 25
    slack_s: float = 0.05
    idle_s: float = 30.0
    behind_s: float = 1.0
    ahead: int = 64

    def __post_init__(self) -> None:
        if self.max_streams < 1:
            raise ValueError(f"max_streams must be at least 1, got {self.max_streams}")
        if self.max_gap < 0:
            raise ValueError(f"max_gap must be at least 0, got {self.max_gap}")
        if not 0 <= self.slack_s < math.inf:
            raise ValueError(f"slack_s must be at least 0, got {self.slack_s}")
        if not 0 < self.idle_s < math.inf:
            raise ValueError(f"idle_s must be above 0, got {self.idle_s}")
        if not self.behind_s >= 0:
            raise ValueError(f"behind_s must be at least 0, got {self.behind_s}")
        if self.ahead <= self.max_gap:
            raise ValueError(f"ahead must exceed max_gap ({self.max_gap}), got {self.ahead}")


class _State(IntEnum):
    OPEN = 0  # frames are coming
    ENDING = 1  # StreamEnd came; frames before it may still come
    DRAINING = 2  # no more frames of this segment; its tail is being computed
    CLOSED = 3  # nothing is due, and no place in the bank is held


class _Stream:
    """One stream. A segment is what lies between two fresh starts: slots 0, 1, ... at one place in the bank."""

    __slots__ = (
        *("_heard", "_newest", "axes", "base", "books", "clock", "closed_time", "closing", "dims", "end_slot", "ended"),
        *("epoch", "evict", "fast", "first", "first_time", "fps", "held", "index", "last", "like", "lossless"),
        *("mirrored", "name", "next_number", "origin", "out", "past", "period", "restart", "state", "time_zero"),
        *("timed", "waiting"),
    )

    def __init__(self, name: str, books: StreamArrays) -> None:
        self.name = name
        self.books = books
        self.state = _State.CLOSED
        self.index = -1  # place in the bank
        self.base = 0  # number in the output of slot 0
        self.epoch = -1
        self.past: deque[int] = deque(maxlen=8)  # epochs that a newer one has replaced
        self._heard = 0  # `heard` without a place
        self.evict = False  # forget the stream once it is drained
        self.waiting: deque[tuple[Message, int]] = deque()  # messages that cannot be taken yet, in order
        self.held: tuple[RawPose, int] | None = None  # a number that leapt ahead, and when it was read
        self.fast = False  # whether frames may take the short way in `feed`
        self.restart: tuple[str, str, Flag] | None = None  # event kind, detail and flags of a fresh start under way
        self.closing = ("", "")  # event kind and detail for when the segment is drained
        self.ended = False  # closed by StreamEnd
        self.next_number = 0  # frame number behind those of the closed segment
        self.closed_time = 0  # source time at which it closed
        # The segment:
        self.out: dict[int, Any] = {}  # by lookahead: what makes poses
        self.like: RawPose | None = None  # a message like all others, but for seq, time_ns and arrays
        self.fps = 0.0
        self.period = 0.0  # ns a slot, as claimed
        self.clock = self.axes = ""
        self.mirrored = self.lossless = False
        self.dims = 3
        self.timed = False  # slots come from timestamps
        self.time_zero = 0.0  # source time of slot 0 then
        self.origin = 0  # frame number of slot 0
        self._newest = -1  # `newest` without a place
        self.first = 0  # slot of the first frame that came
        self.first_time = 0
        self.end_slot = -1  # last slot, once StreamEnd said so
        self.last = -1  # last slot, once closed

    @property
    def plain(self) -> bool:
        """Whether frames are numbered and nothing has to be decided before the next."""
        return self.state is _State.OPEN and not self.timed and not self.waiting and self.held is None

    @property
    def newest(self) -> int:
        """Last slot for which a frame came."""
        return self._newest if self.index < 0 else int(self.books.newest[self.index])

    @newest.setter
    def newest(self, slot: int) -> None:
        self._newest = slot
        if self.index >= 0:
            self.books.newest[self.index] = slot

    @property
    def heard(self) -> int:
        """When the last accepted message was read."""
        return self._heard if self.index < 0 else int(self.books.heard[self.index])

    @heard.setter
    def heard(self, now: int) -> None:
        self._heard = now
        if self.index >= 0:
            self.books.heard[self.index] = now

    def leave(self) -> None:
        """Give up the place."""
        self._newest, self._heard = self.newest, self.heard
        self.index = -1

    def number(self, msg: RawPose) -> int:
        """The frame number of a message: as sent, or by its time."""
        if msg.seq is not None:
            return msg.seq
        return round((msg.time_ns - self.time_zero) * msg.fps / SECOND)


_Row = tuple[_Stream, RawPose, int]
"""A frame for the bank, and when it was read."""


@dataclass(slots=True)
class Emission:
    """The refined poses that one engine batch completed, a row each; see `rtskel.wire.RefinedBatch`.

    Attributes:
        place: [M] int32, see `StreamTable.sample`.
        lookahead: [M] int32.
        numbers: [M, 6] int64.
        xyz: [M, J, 3] float32. confidence, sigma: [M, J] float32.
        infer_start_ns, infer_end_ns: around the engine's run.
    """

    place: NDArray[np.int32]
    lookahead: NDArray[np.int32]
    numbers: NDArray[np.int64]
    xyz: NDArray[np.float32]
    confidence: NDArray[np.float32]
    sigma: NDArray[np.float32]
    infer_start_ns: int
    infer_end_ns: int

    def __len__(self) -> int:
        return len(self.place)

    @property
    def missing(self) -> NDArray[np.bool_]:
        """[M, J] the joints that were not seen."""
        return np.equal(self.confidence, 0)

    def select(self, rows: NDArray[np.bool_]) -> Emission:
        """Some of the rows."""
        return Emission(
            *(self.place[rows], self.lookahead[rows], self.numbers[rows], self.xyz[rows], self.confidence[rows]),
            *(self.sigma[rows], self.infer_start_ns, self.infer_end_ns),
        )


_VARYING = (
    *("seq", "source_seq", "source_time_ns", "receive_ns", "infer_start_ns", "infer_end_ns", "publish_ns"),
    *("windows", "flags", "xyz", "confidence", "missing", "sigma"),
)
"""What differs between the poses of a segment at one lookahead, in the order in which it is handed on."""


def whole_pose(sample: RefinedPose) -> Callable[..., RefinedPose]:
    """Poses as they are: the simplest `output` of a StreamTable."""

    def make(*varying: Any) -> RefinedPose:
        return replace(sample, **dict(zip(_VARYING, varying, strict=True)))

    return make


class StreamTable(Generic[Out]):
    """The streams of one server.

    The caller repeats: `receive` what was read (or `feed` it, decoded), `advance` to the time up to which everything
    was read, then `run` (or `step`) while there is `pending` work, and sends `take_events()` after each of these.
    `next_deadline` says how long it may sleep. `shutdown` ends all.

    Args:
        bank: a fresh bank of at least `config.max_streams` streams and of `config.ahead`. A `LiftingBank` takes 2D
            streams, too, which are refused else.
        config: how streams are treated.
        epoch: of this server, for poses and events.
        model: id of the engine's weights, for poses.
        output: what `step` makes of refined poses, such as `whole_pose` or `rtskel.wire.RefinedEncoder`: called with a
            sample once for all poses of a segment at one lookahead, it gives what is called for each with what varies.
        native: read messages in C++, or in Python.
    """

    def __init__(
        self,
        bank: RefinerBank,
        config: StreamConfig,
        *,
        epoch: int,
        model: str,
        output: Callable[[RefinedPose], Callable[..., Out]],
        native: bool = True,
    ) -> None:
        self.bank = bank
        self.config = config
        self.epoch = epoch
        self.counts: Counter[str] = Counter()
        """Totals by kind of what went wrong, for heartbeats; `missing` are the slots for which no frame came."""
        self.frames_out = 0
        self.backlog = 0
        """Messages that wait for the engine."""
        self._skeleton = bank.config.skeleton.id
        self._model = model
        self._output = output
        self._joints = bank.joints
        self._jump = config.max_gap + 1  # a frame may be this many slots behind the newest one
        self._slack = config.slack_s * SECOND
        self._idle = round(config.idle_s * SECOND)
        self._behind = config.behind_s * SECOND
        self._look_at = 0.0 if self._behind < _NEVER else _NEVER  # when to see again who is behind
        self._hurried = False  # windows were left out, and the engine has not been done with all since
        self._reach = {lookahead: bank.config.reach(lookahead) for lookahead in bank.lookaheads}
        self._furthest = max(self._reach.values())
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._draining: list[_Stream] = []
        self._blocked: OrderedDict[str, _Stream] = OrderedDict()  # streams with waiting messages
        self._ending: list[_Stream] = []
        self._stopping = False
        self._events: list[Event] = []
        self._notes: OrderedDict[tuple[str, str], _Note] = OrderedDict()
        self._untold: dict[tuple[str, str], _Note] = {}
        self._sweep_at = _NEVER

        places = config.max_streams
        self._place: list[_Stream | None] = [None] * places
        self._free = list(range(places))  # a heap: low places first, so that loops over the used ones stay short
        self._used = 0  # places from here up are free
        self._books = StreamArrays(places, bank.config.ahead + self._furthest + 3, native=native)
        self._arrival = self._books.arrival
        self._reader = RawReader(bank.joints, native=native)
        self._fast_path = _fast_path(self._reader, self._books, bank, self._jump)
        self._failed = False  # whether the engine ever did
        self._changed: list[int] = []  # places whose poses are of another kind than before
        # Frames accepted but not yet given to the bank: parallel lists.
        self._rows: list[_Row] = []
        self._row_place: list[int] = []
        self._row_slot: list[int] = []

    # --- what the caller asks -----------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many streams hold a place."""
        return self.config.max_streams - len(self._free)

    @property
    def pending(self) -> int:
        """How many windows can run now: `step` has work."""
        return self.bank.pending

    @property
    def idle(self) -> bool:
        """Whether nothing is due and nothing waits."""
        return self.streams == 0 and self.backlog == 0

    def take_events(self) -> list[Event]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def next_deadline(self) -> float:
        """When `advance` has something to do at the latest, in ns; infinity if never."""
        deadline = self._sweep_at
        if self._used:
            deadline = min(deadline, float(self._deadlines().min()))
        for note in self._untold.values():
            deadline = min(deadline, note.next_ns)
        return deadline

    # --- messages in --------------------------------------------------------------------------------------------------

    def receive(self, topics: list[bytes], bodies: list[bytes], read: list[int], refuse: Offence) -> int:
        """Take messages as they came, each with the time at which it was read; returns how many frames they were.

        `refuse` is told which message (its index) cannot be decoded or has no business here, and why.
        """
        # The short way of nearly all, in one call. It changes nothing that what waits, drains or ends could wait for.
        if self._fast_path is not None and (count := self._fast_path.take(topics, bodies, read)) > 0:
            return int(count)
        frames, others = self._reader.read(topics, bodies)
        count = len(frames)
        messages: list[tuple[int, Message | RawBatch]] = []
        for k in others:
            try:
                message = decode(topics[k], bodies[k])
            except WireError as error:
                refuse(k, str(error))
                continue
            if isinstance(message, (RawPose, RawBatch)):
                count += 1 if isinstance(message, RawPose) else len(message.streams)
            elif not isinstance(message, StreamEnd):
                refuse(k, f"{type(message).__name__} where raw poses belong")
                continue
            messages.append((k, message))
        if len(frames):
            aside = self._take_frames(frames, np.array(read, np.int64), messages)
            if aside:
                messages = sorted([*messages, *aside], key=itemgetter(0))  # stable
        new = set(others)
        for k, message in messages:
            places = self._feed(message, read[k])
            if places and k in new:
                self._reader.expect(topics[k], bodies[k], places)
        self._put()
        self._progress(None)
        return count

    def _take_frames(
        self, frames: RawFrames, read: NDArray[np.int64], others: list[tuple[int, Message | RawBatch]]
    ) -> list[tuple[int, RawPose]]:
        """Give the bank all frames but those of streams that need a closer look, which are returned as messages.

        A closer look is needed where `others`, the messages that came with them, has one of the same stream, for their
        order matters, and where a number is not one that just follows.
        """
        place, number, time = frames.place, frames.seq, frames.time_ns
        limits = self._jump, MOST_NUMBER
        slot, usual = self._books.slots(place, number, time, *limits)
        unusual = [] if usual else place[~self._books.follow(place, slot, number, time, *limits)].tolist()
        for _, message in others:
            names = message.streams if isinstance(message, RawBatch) else (message.stream,)
            unusual += [stream.index for stream in map(self._streams.get, names) if stream is not None]
        aside: list[tuple[int, RawPose]] = []
        if unusual:
            closer = np.isin(place, unusual)
            if closer.any():
                aside = [
                    (int(frames.message[row]), self._message(frames, row)) for row in np.flatnonzero(closer).tolist()
                ]
                frames, slot = frames.select(~closer), slot[~closer]
                place, time = frames.place, frames.time_ns
        if len(frames):
            came = read[frames.message]
            self._books.accept(place, slot, came)
            arrays = frames.xyz, frames.confidence, frames.finite
            self._store(place, slot, came, time, *arrays, lambda row: self._message(frames, row))
        return aside

    def _message(self, frames: RawFrames, row: int) -> RawPose:
        """A frame as the message it came as."""
        like = self._at(frames.place[row]).like
        assert like is not None
        seq, time_ns = int(frames.seq[row]), int(frames.time_ns[row])
        return replace(like, seq=seq, time_ns=time_ns, xyz=frames.xyz[row], confidence=frames.confidence[row])

    def feed(self, messages: Iterable[tuple[Message | RawBatch, int]]) -> None:
        """Take messages, each with the time at which it was read. Nothing runs yet."""
        for msg, now in messages:
            self._feed(msg, now)
        self._put()
        self._progress(None)

    def _feed(self, msg: Message | RawBatch, now: int) -> list[int]:
        """Take one message; the places of its streams if others like it can be taken together, else none."""
        poses = msg.poses() if isinstance(msg, RawBatch) else [msg]
        places = [self._feed_one(pose, now) for pose in poses]
        return places if min(places) >= 0 else []

    def _feed_one(self, msg: Message, now: int) -> int:
        """Take one stream's message; its place if others like it can be taken together, else -1."""
        stream = self._streams.get(msg.stream)
        if stream is None:
            self._admit(msg, now)
            return -1
        # The short way of nearly every frame; everything it does not settle goes through `_take`.
        if (
            stream.fast
            and type(msg) is RawPose
            and msg.seq is not None
            and msg.epoch == stream.epoch
            and msg.fps == stream.fps
            and msg.clock == stream.clock
            and msg.axes == stream.axes
            and msg.mirrored is stream.mirrored
            and msg.lossless is stream.lossless
            and msg.dims == stream.dims
            and msg.skeleton == self._skeleton
            and len(msg.xyz) == self._joints
        ):
            slot = msg.seq - stream.origin
            if 0 <= slot <= stream.newest + self._jump and msg.seq <= MOST_NUMBER and msg.time_ns <= MOST_NUMBER:
                self._accept(stream, msg, slot, now)
                return stream.index
        if stream.waiting or not self._take(stream, msg, now):
            self._wait(stream, msg, now)
        return -1

    def _slow(self, stream: _Stream) -> None:
        """Frames may not take the short way until further notice."""
        stream.fast = False
        if stream.index >= 0:
            self._reader.forget(stream.index)

    def _changes(self, stream: _Stream, msg: RawPose) -> None:
        """What the stream's messages have in common, and so its poses, is from now on what this one says."""
        stream.like = msg
        stream.out.clear()
        self._changed.append(stream.index)
        self._reader.forget(stream.index)

    def _admit(self, msg: Message, now: int) -> None:
        if isinstance(msg, StreamEnd):
            detail = f"end of stream {msg.stream} at epoch {msg.epoch}, of which no frame came"
            self.offend(msg.stream, "unexpected_end", detail, now)
        elif self._acceptable(msg, now) and self._has_room(msg, now):
            stream = self._streams[msg.stream] = _Stream(msg.stream, self._books)
            while len(self._streams) > 2 * self.config.max_streams:
                self._forget(
                    next(other for other in self._streams.values() if other.state is _State.CLOSED), "room", now
                )
            self._start(stream, msg, now, base=0, kind="start")
            self._sweep_at = min(self._sweep_at, now + self._idle)

    def _acceptable(self, msg: RawPose, now: int) -> bool:
        if msg.skeleton != self._skeleton:
            kind, what = "skeleton", f"skeleton {msg.skeleton!r}, the engine refines {self._skeleton!r}"
        elif len(msg.xyz) != self._joints:
            kind, what = "joints", f"{len(msg.xyz)} joints, the engine refines {self._joints}"
        elif max(msg.seq or 0, msg.time_ns) > MOST_NUMBER:
            kind, what = "number", f"seq {msg.seq} or time {msg.time_ns} beyond 2**62"
        elif msg.dims == 2 and not isinstance(self.bank, LiftingBank):
            kind, what = "flat", "2D poses, which are served with --lift only"
        else:
            return True
        self.offend(msg.stream, kind, f"frame {msg.seq} of stream {msg.stream}: {what}", now)
        return False

    def _has_room(self, msg: RawPose, now: int) -> bool:
        if not self._free:
            detail = f"stream {msg.stream} refused: {self.streams} streams are served already (max_streams)"
            self.offend(msg.stream, "refused", detail, now)
        return bool(self._free)

    def _take(self, stream: _Stream, msg: Message, now: int) -> bool:
        """Act on one message; False if it has to wait until the segment is drained or the engine catches up."""
        if isinstance(msg, StreamEnd):
            return self._take_end(stream, msg, now)
        if not self._acceptable(msg, now):
            return True
        if stream.state is _State.DRAINING:
            return False
        if msg.epoch in stream.past:
            detail = f"frame {msg.seq} of stream {stream.name}: epoch {msg.epoch} was replaced by {stream.epoch}"
            self.offend(stream.name, "old_epoch", detail, now)
            return True
        if stream.state is _State.CLOSED:
            self._reopen(stream, msg, now)
            return True
        if msg.epoch != stream.epoch:
            return self._restart(stream, msg, now, "reset", f"epoch {msg.epoch} after {stream.epoch}")
        if (view := _view(msg)) != (before := _view(stream)):
            return self._restart(stream, msg, now, "reset", f"{_show_view(*view)} after {_show_view(*before)}")
        if msg.fps != stream.fps:
            self._retime(stream, msg)
        if msg.clock != stream.clock or msg.lossless is not stream.lossless:
            stream.clock, stream.lossless = msg.clock, msg.lossless
            self._books.lossless[stream.index] = msg.lossless
            self._changes(stream, msg)
        slot = stream.number(msg) - stream.origin
        if slot < 0:
            self._late(stream, msg, now)
            return True
        if stream.state is _State.ENDING and slot > stream.end_slot:
            return False
        if slot > stream.newest + self._jump:
            return self._leap(stream, msg, slot, now)
        if stream.held is not None and slot > stream.newest:
            self._drop_held(stream, now)
        self._accept(stream, msg, slot, now)
        return True

    def _accept(self, stream: _Stream, msg: RawPose, slot: int, now: int) -> None:
        stream.heard = now
        stream.newest = max(stream.newest, slot)
        self._rows.append((stream, msg, now))
        self._row_place.append(stream.index)
        self._row_slot.append(slot)

    def _wait(self, stream: _Stream, msg: Message, now: int) -> None:
        stream.waiting.append((msg, now))
        self._slow(stream)
        self.backlog += 1
        self._blocked[stream.name] = stream

    def _settled(self, stream: _Stream, msg: Message | None) -> bool:
        """Whether the bank has all frames that came before `msg`; else some wait for the engine, and so must it."""
        self._put()
        return not stream.waiting or stream.waiting[0][0] is msg

    def _late(self, stream: _Stream, msg: RawPose, now: int) -> None:
        detail = f"frame {stream.number(msg)} of stream {stream.name} came after its slot was out"
        self.offend(stream.name, "late", detail, now)

    # A number that leaps ahead is either real (frames were lost) or a defect of one message; the next frame tells.

    def _leap(self, stream: _Stream, msg: RawPose, slot: int, now: int) -> bool:
        if stream.held is not None:
            behind = slot - (stream.number(stream.held[0]) - stream.origin)
            if 0 < behind <= self._jump:
                return self._confirm_held(stream, msg, now)
            self._drop_held(stream, now)
        stream.held = (msg, now)
        stream.heard = now
        self._slow(stream)
        self._books.until[stream.index] = now + self._arrival.period(stream.index) + self._slack
        return True

    def _confirm_held(self, stream: _Stream, msg: Message | None, now: int) -> bool:
        """The leap was real: start afresh with the held frame. False, for the message that confirmed it goes behind."""
        assert stream.held is not None
        if not self._settled(stream, msg):
            return False
        held, read = stream.held
        detail = f"frames {stream.origin + stream.newest + 1}..{stream.number(held) - 1} did not come"
        stream.held = None
        self._restart(stream, msg, now, "gap", detail)
        stream.waiting.appendleft((held, read))
        self.backlog += 1
        self._blocked[stream.name] = stream
        return False

    def _drop_held(self, stream: _Stream, now: int) -> None:
        assert stream.held is not None
        number = stream.number(stream.held[0])
        stream.held = None
        stream.fast = stream.plain
        self._books.until[stream.index] = _NEVER
        detail = f"frame {number} of stream {stream.name} follows {stream.origin + stream.newest}: dropped"
        self.offend(stream.name, "jump", detail, now)

    def _take_end(self, stream: _Stream, msg: StreamEnd, now: int) -> bool:
        if stream.state is _State.DRAINING or not self._settled(stream, msg):
            return False
        if msg.epoch != stream.epoch:
            detail = f"end of stream {stream.name} at epoch {msg.epoch}, not {stream.epoch}"
            self.offend(stream.name, "unexpected_end", detail, now)
            return True
        stream.heard = now
        if stream.state is _State.ENDING or (stream.state is _State.CLOSED and stream.ended):
            return True  # said twice
        if stream.state is _State.CLOSED:  # stale: its tail is out
            stream.ended = True
            stream.closed_time = msg.time_ns
            self._event(stream, "end", "end", now)
            return True
        stated = None if msg.seq is None or stream.timed else msg.seq - stream.origin  # slots, by the message
        if stream.held is not None:
            if stated is not None and 0 < stated - (stream.number(stream.held[0]) - stream.origin) <= self._jump:
                return self._confirm_held(stream, msg, now)
            self._drop_held(stream, now)
        if stated is not None and not 0 <= stated - 1 - stream.newest <= self.config.max_gap:
            last = stream.origin + stream.newest
            detail = f"end of stream {stream.name}: {msg.seq} frames stated, the last one was {last}"
            self.offend(stream.name, "unexpected_end", detail, now)
            stated = None
        stream.end_slot = stream.newest if stated is None else stated - 1
        stream.closed_time = msg.time_ns
        stream.state = _State.ENDING
        self._slow(stream)
        self._ending.append(stream)
        self._books.until[stream.index] = now + self._slack
        return True

    # --- segments -----------------------------------------------------------------------------------------------------

    def _reopen(self, stream: _Stream, msg: RawPose, now: int) -> None:
        """A frame for a stream that is closed: it starts afresh, unless the frame is an old one."""
        if not self._has_room(msg, now):
            return
        same = msg.epoch == stream.epoch
        kind = "start" if stream.ended else "reset"
        if stream.restart is not None:
            kind, detail, flags = stream.restart
            self._start(stream, msg, now, base=None if same else 0, kind=kind, detail=detail, flags=flags)
            return
        if not same:
            self._start(stream, msg, now, base=0, kind=kind, detail=f"epoch {msg.epoch} after {stream.epoch}")
            return
        number, newest = stream.number(msg), stream.origin + stream.newest
        if number >= stream.next_number:
            if stream.ended:
                self._start(stream, msg, now, base=stream.next_number, kind="start")
            else:
                detail = f"frames {newest + 1}..{number - 1} did not come"
                self._start(stream, msg, now, base=None, kind="gap", detail=detail, flags=Flag.GAP_BEFORE)
        elif msg.time_ns > stream.closed_time and (stream.ended or number <= newest):
            detail = f"frame {number} after {stream.next_number - 1}: counting starts again"
            self._start(stream, msg, now, base=0, kind=kind, detail=detail)
        else:
            self._late(stream, msg, now)

    def _start(
        self,
        stream: _Stream,
        msg: RawPose,
        now: int,
        *,
        base: int | None,
        kind: str,
        detail: str = "",
        flags: Flag = _FLAGS[0],
    ) -> None:
        """Open a segment with its first frame. `base`: the number it would have started with if nothing was lost."""
        if msg.epoch != stream.epoch and stream.epoch >= 0:
            stream.past.append(stream.epoch)
        stream.epoch = msg.epoch
        stream.timed = msg.seq is None
        stream.time_zero = float(msg.time_ns)
        number = stream.number(msg)
        lost = 0 if base is None or stream.timed else number - base
        slot = lost if 0 <= lost <= self.config.max_gap else 0
        stream.origin = number - slot
        stream.first = slot
        stream.first_time = msg.time_ns
        stream.fps, stream.period = msg.fps, SECOND / msg.fps
        stream.clock, stream.axes, stream.mirrored = msg.clock, msg.axes, msg.mirrored
        stream.lossless, stream.dims = msg.lossless, msg.dims
        stream.restart = stream.held = None
        stream.ended = stream.evict = False
        stream.state = _State.OPEN
        stream.fast = stream.plain

        books, place = self._books, heapq.heappop(self._free)
        stream.index = place
        stream.newest = slot
        self._place[place] = stream
        self._used = max(self._used, place + 1)
        books.live[place] = True
        books.until[place] = _NEVER
        books.origin[place] = stream.origin
        books.timed[place] = stream.timed
        books.lossless[place] = stream.lossless
        books.base[place] = stream.base
        books.flags[place] = flags | Flag.RESET
        books.faulty[place] = -1
        books.axes[place] = signed_axes(msg.axes, msg.mirrored)
        books.slot[place] = -1
        self._lift(stream)
        self._changes(stream, msg)
        # Frames before the first one may be on their way, shuffled within the lookahead: they are not overdue yet.
        self._arrival.start(place, max(0, slot - self._furthest), now, newest=slot, period=stream.period)
        self._event(stream, kind, detail, now)
        self._accept(stream, msg, slot, now)

    def _lift(self, stream: _Stream) -> None:
        if stream.dims == 2:
            assert isinstance(self.bank, LiftingBank)
            self.bank.lift(stream.index, stream.fps)

    def _retime(self, stream: _Stream, msg: RawPose) -> None:
        """Another fps: slots go on, the clock ticks differently from the newest slot on."""
        self._put()
        self._changes(stream, msg)
        stream.fps, stream.period = msg.fps, SECOND / msg.fps
        self._lift(stream)
        self._arrival.retime(stream.index, stream.newest, stream.period)
        if stream.timed:
            captured = float(self._books.captured[stream.index, stream.newest % self._books.ring])
            stream.time_zero = captured - stream.newest * stream.period

    def _restart(self, stream: _Stream, msg: Message | None, now: int, kind: str, detail: str) -> bool:
        """The segment is over because another one begins; False, for the message that begins it has to wait."""
        if stream.state is _State.ENDING or not self._settled(stream, msg):
            return False
        if stream.held is not None:
            self._drop_held(stream, now)
        self._close(stream, kind, detail)
        stream.restart = (kind, detail, Flag.GAP_BEFORE if kind == "gap" else Flag(0))
        return False

    def _close(self, stream: _Stream, kind: str, detail: str, last: int = -1) -> None:
        """No more frames for this segment: what is due comes out with the next steps. `last`: as StreamEnd said."""
        self._put()
        place = stream.index
        last = max(last, int(self.bank.newest[place]))
        self._give_up(stream, int(self.bank.watermark[place]) + 1, last)
        self.bank.end(place, last)
        stream.last = last
        stream.state = _State.DRAINING
        self._slow(stream)
        stream.closing = (kind, detail)
        stream.next_number = stream.origin + last + 1
        if kind != "end":
            stream.closed_time = int(self._books.captured[place, stream.newest % self._books.ring])
        self._books.live[place] = False
        self._draining.append(stream)

    def _finish(self, stream: _Stream, now: int) -> None:
        """The segment's output is out: its place is free."""
        place = stream.index
        self.bank.reset(place)
        self._place[place] = None
        heapq.heappush(self._free, place)
        while self._used and self._place[self._used - 1] is None:
            self._used -= 1
        stream.leave()
        stream.base += stream.last + 1
        stream.state = _State.CLOSED
        kind, detail = stream.closing
        stream.ended = kind == "end"
        if kind in ("end", "stale"):
            self._event(stream, kind, detail, now)
        if stream.evict and not stream.waiting:
            self._forget(stream, detail, now)

    def _forget(self, stream: _Stream, why: str, now: int) -> None:
        if not self._stopping:
            self._event(stream, "evicted", why, now)
        del self._streams[stream.name]

    def _give_up(self, stream: _Stream, first: int, last: int) -> None:
        """Slots first..last count as missing where no frame came: note the time that their frames would have had."""
        place = stream.index
        slots, received, captured = self._books.slot[place], self._books.received[place], self._books.captured[place]
        for slot in range(first, last + 1):
            at = slot % self._books.ring
            if slots[at] == slot:
                continue
            if slot < stream.first:
                time = stream.first_time - round((stream.first - slot) * stream.period)
            else:
                time = int(captured[(slot - 1) % self._books.ring]) + round(stream.period)
            received[at] = 0
            captured[at] = max(0, time)
            self.counts["missing"] += 1

    # --- frames to the bank -------------------------------------------------------------------------------------------

    def _put(self) -> None:
        """Give the bank all accepted frames in one call."""
        if not self._rows:
            return
        rows = self._rows.copy()
        place, slot = np.array(self._row_place, np.int32), np.array(self._row_slot, np.int64)
        for taken in (self._rows, self._row_place, self._row_slot):
            taken.clear()
        shape = (len(rows), self._joints)
        read = np.array([now for _, _, now in rows], np.int64)
        captured = np.array([msg.time_ns for _, msg, _ in rows], np.int64)
        xyz = np.concatenate([msg.xyz for _, msg, _ in rows]).reshape(*shape, 3)
        confidence = np.concatenate([msg.confidence for _, msg, _ in rows]).reshape(shape)
        finite = bool(np.isfinite(xyz).all() and np.isfinite(confidence).all())
        self._store(place, slot, read, captured, xyz, confidence, finite, lambda row: rows[row][1])

    def _store(
        self,
        place: NDArray[np.int32],
        slot: NDArray[np.int64],
        read: NDArray[np.int64],
        captured: NDArray[np.int64],
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        finite: bool,
        message: Callable[[int], RawPose],
    ) -> None:
        """Give the bank accepted frames [M], and let their arrival set the clocks. `message` gives that of a row."""
        canonical = xyz
        if self._books.turned(place):
            canonical = xyz.copy()  # frames that have to wait come again as they are
            self._books.turn_in(place, canonical)
        before = self.bank.watermark[place]
        status = self.bank.put(place, slot, canonical, confidence)
        if not finite:
            self._count_nonfinite(place, read, xyz, confidence, message, status != Put.AHEAD)
        if status.any():
            self._sort_out(place, read, status, message)
        self._books.came(place, slot, read, captured, before, status, self.bank.watermark)

    def _count_nonfinite(
        self,
        place: NDArray[np.int32],
        read: NDArray[np.int64],
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        message: Callable[[int], RawPose],
        settled: NDArray[np.bool_],
    ) -> None:
        bad = ~(np.isfinite(xyz).all(axis=2) & np.isfinite(confidence)) & settled[:, None]
        for row in np.flatnonzero(bad.any(axis=1)).tolist():
            stream = self._at(place[row])
            which = f"frame {stream.number(message(row))} of stream {stream.name}"
            detail = f"{which}: {int(bad[row].sum())} joints are NaN or infinite, taken as missing"
            self.offend(stream.name, "nonfinite", detail, int(read[row]))

    def _sort_out(
        self,
        place: NDArray[np.int32],
        read: NDArray[np.int64],
        status: NDArray[np.uint8],
        message: Callable[[int], RawPose],
    ) -> None:
        """What becomes of frames that the bank did not take."""
        for row in np.flatnonzero(status).tolist():
            stream, msg, now = self._at(place[row]), message(row), int(read[row])
            if status[row] == Put.AHEAD:
                self._wait(stream, msg, now)
            elif status[row] == Put.DUPLICATE:
                detail = f"frame {stream.number(msg)} of stream {stream.name} came before"
                self.offend(stream.name, "duplicate", detail, now)
            else:
                self._late(stream, msg, now)

    def _at(self, place: int) -> _Stream:
        stream = self._place[place]
        assert stream is not None
        return stream

    # --- time ---------------------------------------------------------------------------------------------------------

    def _deadlines(self) -> NDArray[np.float64]:
        """[used places] when the first slot that is not there has to be given up, or something else be decided."""
        return self._books.deadlines(self._used, self.bank.watermark, self._slack)

    def advance(self, now: int) -> None:
        """Act on the deadlines up to `now`, a time up to which every message was read and fed."""
        if self._used:
            expired = np.flatnonzero(self._deadlines() <= now).tolist()
            if expired:
                self._expire(list(map(self._at, expired)), now)
        if now >= self._sweep_at:
            self._sweep(now)
        for (name, kind), note in list(self._untold.items()):
            if now >= note.next_ns:
                self._tell(name, kind, note, now)
        self._progress(now)

    def _expire(self, streams: list[_Stream], now: int) -> None:
        settle = []
        watermark = self.bank.watermark
        for stream in streams:
            place = stream.index
            last = self._overdue(stream, now)
            if stream.state is _State.ENDING:
                last = stream.end_slot if now >= self._books.until[place] else min(last, stream.end_slot)
            else:
                last = min(last, stream.newest + self.config.max_gap)
            first = int(watermark[place]) + 1
            for slot in self._waiting_slots(stream):  # they came: not missing, only too early for the ring
                if first < slot <= last:
                    last = slot - 1
            if last >= first:
                self._give_up(stream, first, last)
                settle.append((place, last))
        if settle:
            self._settle(np.array([p for p, _ in settle], np.int32), np.array([last for _, last in settle], np.int64))
        for stream in streams:
            if stream.waiting or stream.state is not _State.OPEN:
                continue
            stale = self._overdue(stream, now) > stream.newest + self.config.max_gap
            if stream.held is not None and (stale or now >= self._books.until[stream.index]):
                self._confirm_held(stream, None, now)
            elif stale:
                silence = (now - self._arrival.last_arrival(stream.index)) / SECOND
                self._close(stream, "stale", f"no frame for {silence:.1f} s")

    def _overdue(self, stream: _Stream, now: int) -> int:
        """The last slot whose deadline has passed."""
        if self._stopping:  # nothing else will come
            return MOST_NUMBER
        return self._arrival.due_until(stream.index, now - self._slack)

    def _settle(self, place: NDArray[np.int32], last: NDArray[np.int64]) -> None:
        self.bank.settle(place, last)
        # Where frames were waiting behind the hole, the last of them says when the slots up to it were complete.
        reached = self.bank.watermark[place]
        came = self._books.slot[place, reached % self._books.ring] == reached
        place, reached = place[came], reached[came]
        received = self._books.received[place, reached % self._books.ring]
        # What was given up may still be on its way, unless much has overtaken it, as in a replay at full speed.
        sure = self._books.newest[place] - reached > 2 * self._furthest
        self._arrival.follow(place[sure], reached[sure], received[sure])
        self._arrival.follow(place[~sure], reached[~sure], received[~sure], early=_EARLY_IF_UNSURE)

    def _sweep(self, now: int) -> None:
        """Forget streams that have been silent for long."""
        self._sweep_at = _NEVER
        for stream in list(self._streams.values()):
            if now < stream.heard + self._idle:
                self._sweep_at = min(self._sweep_at, stream.heard + self._idle)
            elif stream.state is _State.CLOSED:
                if not stream.ended:
                    self._event(stream, "end", "idle", now)
                self._forget(stream, "idle", now)
            elif stream.state is _State.OPEN and not stream.waiting and stream.held is None:
                stream.evict = True
                self._close(stream, "end", "idle")
            else:  # on its way out, or its frames wait for the engine
                self._sweep_at = min(self._sweep_at, now + self._idle)

    def _progress(self, now: int | None) -> None:
        """Finish what has become possible: ends all of whose frames are there, drained segments, waiting messages."""
        while True:
            if self._ending:
                watermark = self.bank.watermark
                for stream in self._ending:
                    if stream.state is _State.ENDING and watermark[stream.index] >= stream.end_slot:
                        self._close(stream, "end", "end", stream.end_slot)
                self._ending = [stream for stream in self._ending if stream.state is _State.ENDING]
            drained: list[_Stream] = []
            if self._draining:
                following = self.bank.next_window
                drained = [s for s in self._draining if following[s.index] > s.last + self._furthest]
                for stream in drained:
                    self._draining.remove(stream)
                    self._finish(stream, stream.heard if now is None else now)
            if not self._resume() and not drained:
                return

    def _resume(self) -> bool:
        """Take waiting messages as far as possible; whether there was any."""
        if not self._blocked:
            return False
        taken = False
        room = self.bank.next_window + self.bank.config.ahead  # a step moves it, nothing here does
        for stream in list(self._blocked.values()):
            if self._stopping and stream.index >= 0 and self._books.live[stream.index]:
                self._expire([stream], stream.heard)
            while stream.waiting and stream.state is not _State.DRAINING:
                slot = next(self._waiting_slots(stream), -1)
                if stream.index >= 0 and room[stream.index] <= slot <= stream.newest + self._jump:
                    taken |= self._take_in_reach(stream, int(room[stream.index]))
                    break  # the first one is still too far ahead of the engine
                if not self._take(stream, *stream.waiting[0]):
                    break
                stream.waiting.popleft()
                self.backlog -= 1
                taken = True
            if not stream.waiting:
                del self._blocked[stream.name]
                stream.fast = stream.plain
                if self._stopping:
                    self._stop(stream, stream.heard)
        self._put()
        return taken

    def _waiting_slots(self, stream: _Stream) -> Iterator[int]:
        """The slots of the waiting frames that belong to the present segment, in the order in which they came."""
        for msg, _ in stream.waiting:
            if isinstance(msg, StreamEnd) or msg.epoch != stream.epoch or _view(msg) != _view(stream):
                return
            yield stream.number(msg) - stream.origin

    def _take_in_reach(self, stream: _Stream, room: int) -> bool:
        """Take waiting frames below slot `room`, though others wait before them: the engine may be waiting for one."""
        refinable = self.bank.config.whole_hops(int(self.bank.refinable[stream.index]))
        if self.bank.next_window[stream.index] <= refinable:
            return False  # it has other work, and order is kept
        within = [slot < room for slot in self._waiting_slots(stream)]
        rest = deque(stream.waiting)
        for message, reaches in zip(stream.waiting, within, strict=False):
            if reaches and self._take(stream, *message):
                rest.remove(message)
        taken = len(stream.waiting) - len(rest)
        stream.waiting = rest
        self.backlog -= taken
        return taken > 0

    # --- poses out ----------------------------------------------------------------------------------------------------

    def step(
        self,
        clock: Callable[[], int],
        engine_times: Callable[[], tuple[int, int]] | None = None,
        *,
        crowded: bool = False,
    ) -> Iterator[Out]:
        """As `run`, but gives the poses one by one, as `output` makes them, each stamped with `clock()`. They are to be
        taken to the last.
        """
        for emission in self._emissions(clock, engine_times, crowded):
            start, end = emission.infer_start_ns, emission.infer_end_ns
            rows = (emission.xyz, emission.confidence, emission.missing, emission.sigma)
            for place, lookahead, numbers, *arrays in zip(
                emission.place.tolist(), emission.lookahead.tolist(), emission.numbers.tolist(), *rows, strict=True
            ):
                seq, source_seq, captured, received, windows, flags = numbers
                stream = self._at(place)
                out = stream.out.get(lookahead)
                if out is None:
                    out = stream.out[lookahead] = self._output(self.sample(place, lookahead))
                source = None if source_seq < 0 else source_seq
                times = received, start, end, clock()
                yield out(seq, source, captured, *times, windows, _FLAGS[flags], *arrays)

    def run(
        self,
        deliver: Callable[[Emission], None],
        clock: Callable[[], int],
        engine_times: Callable[[], tuple[int, int]] | None = None,
        *,
        crowded: bool = False,
    ) -> None:
        """Run one engine batch and `deliver` the poses it completes; `take_events` may have more afterwards.

        `engine_times` is called right behind the engine and gives when that call began and ended, which is known less
        well from around the whole step; here the caller may say `engine_failed`. `crowded` says that no more frames can
        wait, so that newer ones are not even read.
        """
        for emission in self._emissions(clock, engine_times, crowded):
            deliver(emission)

    def _emissions(
        self, clock: Callable[[], int], engine_times: Callable[[], tuple[int, int]] | None, crowded: bool
    ) -> Iterator[Emission]:
        start = clock()
        if start >= self._look_at and self.bank.pending > 1:  # one alone is the newest
            skipped = self._leave_out(start, 0.0 if crowded or self._hurried else self._behind)
            if skipped is not None and len(skipped):
                yield self._emission(skipped, start, start)
        refined = self.bank.step()
        end = clock()
        if engine_times is not None:
            start, end = engine_times()
        if len(refined):
            yield self._emission(refined, start, end)
        self._progress(end)
        self._hurried = self._hurried and self.bank.pending > 0

    def _leave_out(self, now: int, behind: float) -> Refined | None:
        """Of live streams whose next window has waited for that long, the newest first: what older ones complete."""
        self._look_at = now + _LOOK_EVERY
        places = self._books.behind(self._used, self.bank.next_window, self.bank.refinable, now - behind)
        if not len(places):
            return None
        before = self.bank.next_window[places]
        skipped = self.bank.skip(places)
        if windows := int((self.bank.next_window[places] - before).sum()):
            self._hurried = True
            detail = f"the engine is behind: {windows} windows of {len(places)} streams left out for newer ones"
            self.offend("", "overload", detail, now, windows)
        return skipped

    def take_changed(self) -> list[int]:
        """Places of which `sample` may give something else than before the last call."""
        changed, self._changed = self._changed, []
        return changed

    def engine_failed(self, error: str, now: int) -> None:
        """The engine did not refine its batch: what these windows complete, now or later, is flagged PASSTHROUGH."""
        self._failed = True
        used = slice(self._used)
        # Any window that could run may have been in that batch; the outputs of the 2r windows behind average it in.
        tail = np.where(self._books.live[used], 0, self._furthest)
        self._books.faulty[used] = self.bank.refinable[used] + tail + 2 * self.bank.radius
        self.offend("", "engine", f"engine failed, poses pass through unrefined: {error}", now)

    def _emission(self, refined: Refined, start: int, end: int) -> Emission:
        # What is rare is asked for once a batch: for hundreds of streams this is most of what Python does.
        books, place, slot = self._books, refined.stream, refined.slot
        xyz, sigma, confidence, flags = refined.xyz, refined.sigma, refined.confidence, refined.flags
        books.turn_out(place, xyz)
        if self._failed:
            reach = np.array([self._reach[lookahead] for lookahead in refined.lookahead.tolist()], np.int64)
            flags = flags | np.where(slot + reach <= books.faulty[place], np.uint32(Flag.PASSTHROUGH), np.uint32(0))
        numbers = books.numbers(place, slot, refined.windows, flags)
        self.frames_out += len(refined)
        return Emission(place, refined.lookahead, numbers, xyz, confidence, sigma, start, end)

    def sample(self, place: int, lookahead: int) -> RefinedPose:
        """A pose of the stream at that place: what all its poses at one lookahead have in common."""
        stream = self._at(place)
        nothing = np.zeros((self._joints, 3), np.float32)
        return RefinedPose(
            stream=stream.name,
            lookahead=lookahead,
            epoch=self.epoch,
            seq=0,
            source_epoch=stream.epoch,
            source_seq=None,
            source_time_ns=0,
            source_clock=stream.clock,
            fps=stream.fps,
            receive_ns=0,
            infer_start_ns=0,
            infer_end_ns=0,
            publish_ns=0,
            clock=CLOCK,
            windows=0,
            flags=Flag(0),
            skeleton=self._skeleton,
            model=self._model,
            axes=stream.axes,
            mirrored=stream.mirrored,
            xyz=nothing,
            confidence=nothing[:, 0],
            missing=nothing[:, 0] == 0,
            sigma=nothing[:, 0],
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    def shutdown(self, now: int) -> None:
        """End every stream where it stands. `step` until `idle` for all that is due; feed nothing more."""
        self._stopping = True
        self._put()
        for (name, kind), note in list(self._untold.items()):
            self._tell(name, kind, note, now)
        for stream in list(self._streams.values()):
            if not stream.waiting:
                self._stop(stream, now)
        self._progress(now)

    def _stop(self, stream: _Stream, now: int) -> None:
        if stream.state is _State.ENDING:
            stream.evict = True
            self._close(stream, "end", "end", stream.end_slot)
        elif stream.state is _State.OPEN:
            if stream.held is not None:  # no other frame can say any more that it was wrong
                self._confirm_held(stream, None, now)
            else:
                stream.evict = True
                self._close(stream, "end", "shutdown")
        elif stream.state is _State.CLOSED:
            if not stream.ended:
                self._event(stream, "end", "shutdown", now)
            self._forget(stream, "shutdown", now)

    # --- events -------------------------------------------------------------------------------------------------------

    def _event(self, stream: _Stream, kind: str, detail: str, now: int) -> None:
        self._events.append(Event(stream.name, kind, self.epoch, stream.base, now, detail))

    def offend(self, stream: str, kind: str, detail: str, now: int, count: int = 1) -> None:
        """Count an offence of that kind by that stream ("": the server's own, or nobody known), and say so at times."""
        self.counts[kind] += count
        key = (stream, kind)
        note = self._notes.get(key)
        if note is None:
            note = self._notes[key] = _Note()
            if len(self._notes) > MOST_NOTED:
                forgotten, _ = self._notes.popitem(last=False)
                self._untold.pop(forgotten, None)
        else:
            self._notes.move_to_end(key)
        note.count += count
        note.last = count
        note.detail = detail
        if now >= note.next_ns:
            self._tell(stream, kind, note, now)
        else:
            self._untold[key] = note

    def _tell(self, name: str, kind: str, note: _Note, now: int) -> None:
        more = note.count - note.told - note.last
        note.told = note.count
        note.next_ns = now + REPORT_EVERY
        self._untold.pop((name, kind), None)
        detail = f"{note.detail} (and {more} more)" if more else note.detail
        self._events.append(Event(name, "error", self.epoch, None, now, detail, {kind: note.count}))


@dataclass
class _Note:
    """Offences of one kind by one stream."""

    count: int = 0
    last: int = 0  # how many of these at last
    told: int = 0  # how many the last event counted
    next_ns: int = 0  # when the next event may go out
    detail: str = ""


def _fast_path(reader: RawReader, books: StreamArrays, bank: RefinerBank, jump: int) -> Any:
    """What takes messages into the ring in one call, where all three parts are in C++ (engines/native/fast_path.h)."""
    ring = bank.compiled_ring
    if ring is None or reader.compiled is None or books.compiled is None:
        return None
    from rtskel import _native

    return _native.FastPath(reader.compiled, books.compiled, ring, jump, MOST_NUMBER)


_EARLY_IF_UNSURE = 1 / 16
"""Share by which frames behind a slot that was given up move what is due, if they came early."""


def _view(source: RawPose | _Stream) -> tuple[str, bool, bool, int]:
    """What may not change within a segment beside the epoch: axes, mirrored, whether slots come from timestamps, and
    whether the estimator knows depths.
    """
    timed = source.timed if isinstance(source, _Stream) else source.seq is None
    return source.axes, source.mirrored, timed, source.dims


def _show_view(axes: str, mirrored: bool, timed: bool, dims: int) -> str:
    view = f"axes {axes}{' mirrored' if mirrored else ''}, {'timed' if timed else 'numbered'}"
    return view if dims == 3 else f"{view}, 2D"
