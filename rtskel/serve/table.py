"""What the server knows about its streams: slots, deadlines, restarts and ends. No sockets, no clock of its own.

`StreamTable` takes the messages of estimators with the time each was read, keeps a `rtskel.refine.RefinerBank`
fed, and gives back refined poses and events. Every time is an int in ns of one monotonic clock that the caller
reads.

What a user can rely on, for a stream of `fps` frames a second:

- *Slots.* A frame's slot is its `seq`; without one it follows the phase of the frames, see `rtskel.serve.phase`: no
  frame that came in order of time is refused for a rate that is nearly right, or wrong, which is corrected (event
  `rate`). Rates below 0.1 frames a second are refused. A stream whose first number is at most `max_gap` starts at
  number 0 (its first frames were lost on the way), else at that number. Every slot from there to the end of the
  stream is published once at each lookahead, in order; a slot without a frame is filled in and flagged
  INTERPOLATED. Where nobody is seen, so that no window knows anything, the last known pose is held for at most
  `max_gap` slots (HELD, confidence 0, sigma growing); after that, and before anybody was seen, there is no pose
  (events `lost` and `found`), or with `unseen` one without coordinates. The first frame of a slot wins; one whose
  slot is out at every lookahead is dropped as `late`.
- *Due.* A slot is due when it usually arrives, by the arrivals of the stream's recent frames and its fps; see
  `rtskel.serve.arrival`. A wrong fps, a drifting clock or a replay at another speed shifts what is due instead of
  making every frame late.
- *Deadline.* A slot that has not come at `due + slack` counts as missing, so slot i at lookahead L is computed no
  later than `due(i) + L / fps + slack`, with a hop of h up to h - 1 frames later, and 2D streams by the lookahead
  of their lifting. While nothing is missing, nothing waits for a deadline. The default slack of 50 ms is more than
  one frame at 25 fps and three at 60: an estimator's usual jitter stays below it, and a dropped frame delays
  nothing by more than that. Frames that are shuffled by less than the slack come out as if they had not been.
  Deadlines count only time in which the server ran (`pause`). A slot after which `MAX_EARLY` frames wait is given
  up. So is one for longer than a second, and the slack, after a frame that came behind it: slow streams do not
  wait for several of their frames. Where no more frames can wait for holes, they are given up at once.
- *Stall.* When frames stop coming, missing slots are published at their deadlines up to `max_gap` after the last
  frame, but no more than the stream had before; of one of fewer than three slots, which may be a tracker's mistake,
  none: no frame causes more than its own work once more. After `max_gap` slots the rest that is due comes out, flagged
  FLUSHED, and the event `stale` says that nothing follows until a frame does. A `lossless` stream is not given up: its
  next frame is waited for until `idle_s`.
- *Starting afresh* (all memory gone, first pose flagged RESET, its number in the output going on): after a gap of more
  than `max_gap` slots (also GAP_BEFORE, event `gap`), at another epoch, other axes or another unit, person, view or
  image size, or where numbers or times go back (event `reset`). What was due before comes out first. A number that
  leaps ahead while frames are coming in is held until the next frame confirms it, or one frame and the slack have
  passed; if the next frame goes on where the stream was, the leap is dropped as `jump`. Frames that go back, to slots
  that are out, are confirmed by the next one, and by the fifth where they may be stragglers (less than `max_gap` back,
  in number and in time); else they are `late` or `duplicate`. Another epoch takes an id over once the present one has
  been silent for a frame and the slack, and its frames wait for that long; if the present one goes on, they are
  dropped as `other_epoch` (`old_epoch` if it was replaced before).
- *End.* StreamEnd with `seq` N: the stream has N slots. Those still missing have `slack` to arrive, the tail is
  flushed, event `end`. A frame of the same epoch after it starts afresh if its number is N or more, or if it was
  captured after the end; else it is late.
- *Idle.* A stream that sends nothing for `idle_s` is ended if it was not (event `end`, detail "idle") and forgotten
  (event `evicted`): its place is free for another, and its number in the output begins at 0 again.
- *Room* is shared by publisher (the connection a message came by), not by stream: see `rtskel.serve.room`. Where
  `max_streams` are served, frames of other streams are refused. Two things then make room for the next frame of another
  stream: one of fewer than three slots that has been silent for a fifth of a second (and the slack) ends; else, if the
  publisher that asks has fewer places than another one by at least two, the youngest stream of the one with the most
  ends (`stale`). Whoever has no more than an equal share keeps its streams and every slot of them.
- *Overload.* No frame is dropped here, and every slot is published. But where a live stream's frames have waited
  for the engine for longer than `behind_s`, its newest window is refined next and the older ones are left out; and
  where no more can wait, or that has happened and the engine has not caught up since, so it is with the publishers that
  have as many windows waiting as others have on average, or more, and with those of their streams of which the same is
  true. Each batch of the engine is shared equally by the publishers that have windows waiting. Slots that wanted the
  windows left out are averaged over the ones that did run (PARTIAL_AVERAGE), or pass through as they came
  (PASSTHROUGH). The windows left out are counted as `overload`. So it is with a stream whose end has come: what waits
  of it does not delay others once the load is over. `max_age_s` bounds the age of what comes out, see `StreamConfig`.
  Streams that are `lossless` have every window refined: the server stops reading when too many of their frames wait, so
  that the queues of the publishers fill, and these wait, or count what they lose. Frames further ahead of the engine
  than its ring holds wait in the order they came.
- *Offenders* are counted by kind in `counts` and named in `error` events: the first of a kind and stream at once,
  then the running count at most once a second.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace

from rtskel.errors import WireError
from rtskel.refine import RefinerBank
from rtskel.serve.arrays import PlaceTable, StreamArrays
from rtskel.serve.common import NEVER, Common, Message, State
from rtskel.serve.config import StreamConfig
from rtskel.serve.deadlines import Deadlines
from rtskel.serve.emission import Batches, Emission
from rtskel.serve.intake import Intake, decoded
from rtskel.serve.progress import Progress
from rtskel.serve.reports import SECOND, UNKNOWN, Reports
from rtskel.serve.room import Room
from rtskel.serve.stream import Stream
from rtskel.wire import Event, RawBatch, RawPose, RefinedPose, StreamEnd

CLOCK = "monotonic"
"""Name of the clock of every time that the table gives out."""


class StreamTable:
    """The streams of one server.

    The caller repeats: `receive` what was read, `advance` to the time up to which everything was read, then `run` while
    there is `pending` work, and sends `take_events()` after each of these. `next_deadline` says how long it may sleep.
    `shutdown` ends all.

    Args:
        bank: a fresh bank of at least `config.max_streams` streams and of `config.ahead`. One that `lifts` takes 2D
            streams, too, which are refused else.
        config: how streams are treated.
        epoch: of this server, for poses and events.
        model: id of the engine's weights, for poses.
    """

    def __init__(self, bank: RefinerBank, config: StreamConfig, *, epoch: int, model: str) -> None:
        self.bank = bank
        self.config = config
        self.epoch = epoch
        self._model = model
        furthest = max(map(bank.config.reach, bank.lookaheads))
        self._arrays = StreamArrays(config.max_streams, bank.config.ahead + furthest + 3, len(bank.lookaheads))
        self._places = PlaceTable(config.max_streams)
        self._reports = Reports(epoch)
        options = {"jump": config.max_gap + 1, "furthest": furthest}
        self._intake = Intake(bank, self._arrays, self._places, self._reports, **options)
        config = replace(config, behind_s=config.patience_s)
        self._room = Room(bank, self._arrays, self._places, self._reports, config.slack_s * SECOND)
        given = self._arrays, self._places, self._reports, self._intake, self._room
        self._common = Common(bank, config, *given, furthest)
        self._batches = Batches(self._common)
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._idle = round(config.idle_s * SECOND)
        self._sweep_at = NEVER
        self._deadlines = Deadlines(self._common)
        self._unfinished = Progress(self._common, self._deadlines, self._forget, self._stop)
        self._progress = self._unfinished.make

    # --- what the caller asks -----------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counter[str]:
        """Totals by kind of what went wrong, for heartbeats; `missing` are the slots for which no frame came."""
        return self._reports.counts

    @property
    def frames_out(self) -> int:
        """Refined poses that came out."""
        return self._batches.frames_out

    @property
    def backlog(self) -> int:
        """Messages that wait for the engine."""
        return self._common.backlog

    @property
    def waiting(self) -> int:
        """Frames that wait for the engine. Tails of ended streams and slots that were given up are no frames: reading
        does not stop for them.
        """
        bank = self.bank
        return self.backlog + self._arrays.waiting(self._places.used, bank.next_window, bank.refinable)

    @property
    def streams(self) -> int:
        """How many streams hold a place."""
        return len(self._places)

    @property
    def pending(self) -> int:
        """How many windows can run now: `run` has work."""
        return self.bank.pending

    @property
    def idle(self) -> bool:
        """Whether nothing is due and nothing waits."""
        return self.streams == 0 and self.backlog == 0

    def take_events(self) -> list[Event]:
        """The events since the last call, in order."""
        return self._reports.take()

    def take_changed(self) -> list[int]:
        """Places of which `sample` may give something else than before the last call."""
        changed, self._common.changed = self._common.changed, []
        return changed

    def next_deadline(self) -> float:
        """When `advance` has something to do at the latest, in ns; infinity if never."""
        return min(self._sweep_at, self._reports.next_deadline(), self._deadlines.next())

    def offend(self, stream: str, kind: str, detail: str, now: int, count: int = 1, *, source: int = UNKNOWN) -> None:
        """Count an offence, and say so at times: see `Reports.offend`."""
        self._reports.source = source
        self._reports.offend(stream, kind, detail, now, count)
        self._reports.source = UNKNOWN

    def left(self, publishers: Collection[int]) -> None:
        """Those publishers are gone, and others may get their numbers: whoever goes on with their streams has them."""
        for stream in self._room.left(self._streams.values(), publishers):
            if stream.place >= 0:
                self._intake.forget(stream.place)

    def model_changed(self, model: str, now: int) -> None:
        """Another engine refines from now on: the poses that come say so, and an event."""
        self._model = model
        self._reports.event("", "engine", f"the engine was replaced: {model}", None, now)

    # --- messages in --------------------------------------------------------------------------------------------------

    def receive(
        self,
        topics: list[bytes],
        bodies: list[bytes],
        read: list[int],
        refuse: Callable[[int, WireError], None],
        sources: list[int] | None = None,
    ) -> int:
        """Take messages as they came, each with the time at which it was read and the publisher it is from (a number);
        returns how many frames they were.

        `refuse` is told which message (its index) cannot be decoded or has no business here, and why.
        """
        if (count := self._intake.take_all(topics, bodies, read)) >= 0:
            return count  # nothing changed that what waits, drains or ends could wait for
        unexpected = self._intake.unexpected(topics, bodies)
        messages = decoded(unexpected, topics, bodies, refuse)
        count, left = self._intake.take(read, self._busy(messages))
        messages |= decoded(left, topics, bodies, refuse)
        for k in sorted(messages):
            message = messages[k]
            self._reports.source = UNKNOWN if sources is None else sources[k]
            poses = message.poses() if isinstance(message, RawBatch) else [message]
            count += len(poses) if not isinstance(message, StreamEnd) else 0
            places = [self._feed(pose, read[k]) for pose in poses]
            if min(places) >= 0:
                self._intake.expect(topics[k], bodies[k], places)
        self._intake.put()
        self._reports.source = UNKNOWN
        self._progress(None)
        return count

    def _busy(self, messages: dict[int, Message | RawBatch]) -> list[int]:
        """The places of the streams that these messages are of."""
        names: list[str] = []
        for message in messages.values():
            names += message.streams if isinstance(message, RawBatch) else [message.stream]
        streams = map(self._streams.get, names)
        return [stream.place for stream in streams if stream is not None and stream.place >= 0]

    def _feed(self, msg: Message, now: int) -> int:
        """Take one stream's message the plain way; its place if others like it may take the fast way, else -1."""
        stream, source = self._streams.get(msg.stream), self._reports.source
        if stream is None:
            stream = self._admit(msg, now)
        else:
            if source not in (UNKNOWN, stream.publisher) and (stream.publisher == UNKNOWN or stream.place < 0):
                self._room.belongs(stream, source)
            if stream.waiting or not stream.take(msg, now):
                stream.wait(msg, now)
        if stream is not None and isinstance(msg, RawPose) and stream.expects(msg):
            return stream.place
        return -1

    def _admit(self, msg: Message, now: int) -> Stream | None:
        common, publisher = self._common, self._reports.source
        if isinstance(msg, StreamEnd):
            detail = f"end of stream {msg.stream} at epoch {msg.epoch}, of which no frame came"
            self._reports.offend(msg.stream, "unexpected_end", detail, now, epoch=msg.epoch)
            return None
        if not common.acceptable(msg, now):
            return None
        if not self._room.admits(msg.stream, publisher, msg.fps, len(common.draining), now):
            return None
        while len(self._streams) >= 2 * self.config.max_streams:
            self._forget(self._room.to_forget(self._streams.values()), "room", now)
        stream = self._streams[msg.stream] = Stream(msg.stream, common, publisher)
        self._room.named(stream)
        stream.start(msg, now, base=0, kind="start")
        self._sweep_at = min(self._sweep_at, now + self._idle)
        return stream

    def _forget(self, stream: Stream, why: str, now: int) -> None:
        stream.returning.drop()
        if not self._common.stopping:
            stream.event("evicted", why, now)
        self._room.forgotten(stream)
        del self._streams[stream.name]

    # --- time ---------------------------------------------------------------------------------------------------------

    def advance(self, now: int) -> None:
        """Act on the deadlines up to `now`, a time up to which every message was read and fed."""
        self._deadlines.expire(now)
        if now >= self._sweep_at:
            self._sweep(now)
        self._reports.tell(now)
        self._progress(now)

    def pause(self, ns: int) -> None:
        """The server did not run for that long: deadlines count only the time in which it did."""
        self._arrays.pause(ns)
        self._sweep_at += ns

    def give_up_holes(self) -> None:
        """Whatever waits behind a slot that did not come, waits no longer."""
        self._unfinished.give_up_holes()

    def _sweep(self, now: int) -> None:
        """Forget streams that have been silent for long."""
        self._sweep_at = NEVER
        for stream in list(self._streams.values()):
            if now < stream.segment.heard + self._idle:
                self._sweep_at = min(self._sweep_at, stream.segment.heard + self._idle)
            elif stream.state is State.CLOSED:
                if not stream.ended:
                    stream.event("end", "idle", now)
                self._forget(stream, "idle", now)
            elif stream.state is State.OPEN and not stream.waiting:
                stream.evict = True
                stream.close("end", "idle")
            else:  # on its way out, or its frames wait for the engine
                self._sweep_at = min(self._sweep_at, now + self._idle)

    # --- poses out ----------------------------------------------------------------------------------------------------

    def run(
        self,
        deliver: Callable[[Emission], None],
        clock: Callable[[], int],
        engine_times: Callable[[], tuple[int, int]] | None = None,
        *,
        crowded: bool = False,
    ) -> None:
        """Run one engine batch and `deliver` the poses it completes; `take_events` may have more afterwards.

        `engine_times` is called right after the engine and gives when that call began and ended, which is known less
        well from around the whole step; here the caller may say `engine_failed`. `crowded` says that no more frames can
        wait, so that newer ones are not even read.
        """
        left_out = self.counts["overload"]
        end = self._batches.run(deliver, clock, engine_times, crowded)
        overloaded = self._unfinished.overloaded and self.bank.pending > 0
        self._unfinished.overloaded = overloaded or self.counts["overload"] > left_out
        self._progress(end)
        self._batches.rest()

    def leave_out(self, deliver: Callable[[Emission], None], now: int) -> None:
        """No more frames can wait, and others are unread: windows are left out at once, as `run` does where it is
        `crowded`; `deliver` gets the poses of these.
        """
        left_out = self.counts["overload"]
        self._batches.leave_out(deliver, now)
        self._unfinished.overloaded = self._unfinished.overloaded or self.counts["overload"] > left_out
        self._progress(now)

    def engine_failed(self, error: str, now: int) -> None:
        """The engine did not refine its batch: what these windows complete, now or later, is flagged PASSTHROUGH."""
        self._batches.failed(error, now)

    def sample(self, place: int, lookahead: int) -> RefinedPose:
        """A pose of the stream at that place: what all its poses at one lookahead have in common."""
        stream = self._places[place]
        return stream.segment.sample(stream.name, lookahead, epoch=self.epoch, clock=CLOCK, model=self._model)

    # --- the end ------------------------------------------------------------------------------------------------------

    def shutdown(self, now: int) -> None:
        """End every stream where it stands. `run` until `idle` for all that is due; give nothing more."""
        self._common.stopping = True
        self._intake.put()
        for stream in list(self._common.suspects.values()):
            stream.returning.drop()
        self._reports.tell(now, everything=True)
        for stream in list(self._streams.values()):
            if not stream.waiting:
                self._stop(stream, now)
        self._progress(now)

    def _stop(self, stream: Stream, now: int) -> None:
        if stream.state is not State.CLOSED:
            stream.stop(now)
            return
        if not stream.ended:
            stream.event("end", "shutdown", now)
        self._forget(stream, "shutdown", now)
