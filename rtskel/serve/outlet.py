"""Refined poses on their way out: who wants which, and their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from rtskel import wire
from rtskel.serve.emission import Emission
from rtskel.serve.table import StreamTable
from rtskel.wire.fast import PoseWriter


class Wants(Protocol):
    """Who says what is to be written: `Subscriptions`, or `rtskel.serve.kept.Wanted`."""

    def want(self, topic: bytes) -> bool:
        """Whether a message on that topic is."""

    def want_some(self, prefix: bytes) -> bool:
        """Whether any messages on topics that begin so are."""


class Outlet:
    """Refined poses on their way out: encoded for those topics that somebody reads."""

    def __init__(self, table: StreamTable, lookaheads: Sequence[int], joints: int, subscriptions: Wants) -> None:
        self._table = table
        self._lookaheads = lookaheads
        self._subscriptions = subscriptions
        self._writer = PoseWriter(joints)
        # By place and lookahead: which kind of the writer's the poses are; and, once that was asked, whether they are
        # wanted: the same number, or _UNWANTED.
        self._kinds: dict[tuple[int, int], int] = {}
        self._wanted: dict[tuple[int, int], int] = {}
        # By place: the packed `wire.Source`. By lookahead: what packs batches; and which lookaheads are wanted so.
        self._sources: dict[int, bytes] = {}
        self._encoders: dict[int, wire.RefinedBatchEncoder] = {}
        self._in_batches: list[int] = []
        self._singly = False  # whether any poses are wanted in messages of their own
        self._raw = False  # whether raw poses are wanted, too

    def subscribed(self) -> None:
        """The subscriptions have changed."""
        self._wanted.clear()
        want = self._subscriptions.want
        self._in_batches = [lookahead for lookahead in self._lookaheads if want(wire.refined_batch_topic(lookahead))]
        self._singly = self._subscriptions.want_some(wire.REFINED_PREFIX)
        self._raw = any(map(self._subscriptions.want_some, (wire.RAW_PREFIX, wire.RAW_BATCH_PREFIX)))

    def model_changed(self) -> None:
        """The poses of every stream are of another kind than before."""
        for place in {place for place, _ in self._kinds}:
            self._forget(place)
        self._encoders.clear()

    def messages(self, emission: Emission, now: int) -> list[tuple[bytes, bytes]]:
        """What is to be sent of these poses at `now`."""
        for place in self._table.take_changed():
            self._forget(place)
        messages = self._alone(emission, now) if self._singly else []
        for lookahead in self._in_batches:
            rows = emission.lookahead == lookahead
            if rows.any():
                messages += self._batches(lookahead, emission if rows.all() else emission.select(rows), now)
        return messages

    def raw(self, topics: list[bytes], bodies: list[bytes], refused: set[int]) -> Iterator[tuple[bytes, bytes]]:
        """Of raw messages, those that somebody reads; not the refused ones, given by their places in the lists."""
        if self._raw:
            for which, topic in enumerate(topics):
                if which not in refused and self._subscriptions.want(topic):
                    yield topic, bodies[which]

    def _alone(self, emission: Emission, now: int) -> list[tuple[bytes, bytes]]:
        # Of few poses, and most often there are few, lists are read faster than arrays.
        poses = list(zip(emission.place.tolist(), emission.lookahead.tolist(), strict=True))
        kinds = [kind if (kind := self._wanted.get(pose)) is not None else self._ask(pose) for pose in poses]
        if min(kinds) == _UNWANTED:
            emission = emission.select(np.array(kinds) != _UNWANTED)
            kinds = [kind for kind in kinds if kind != _UNWANTED]
        if not kinds:
            return []
        times = emission.infer_start_ns, emission.infer_end_ns, now
        arrays = emission.xyz, emission.confidence, emission.sigma
        bodies = self._writer.write(kinds, emission.numbers, *times, *arrays)
        return [*zip(map(self._writer.topics.__getitem__, kinds), bodies, strict=True)]

    def _forget(self, place: int) -> None:
        """The poses of that place are of another kind than before."""
        for pose in [(place, lookahead) for lookahead in self._lookaheads]:
            self._wanted.pop(pose, None)
            if (kind := self._kinds.pop(pose, None)) is not None:
                self._writer.discard(kind)
        self._sources.pop(place, None)

    def _ask(self, pose: tuple[int, int]) -> int:
        """The kind of the poses of that place and lookahead, if they are wanted."""
        sample = self._table.sample(*pose)
        self._wanted[pose] = _UNWANTED
        if self._subscriptions.want(wire.refined_topic(sample.stream, sample.lookahead)):
            if pose not in self._kinds:
                self._kinds[pose] = self._writer.add(sample)
            self._wanted[pose] = self._kinds[pose]
        return self._wanted[pose]

    def _batches(self, lookahead: int, emission: Emission, now: int) -> Iterator[tuple[bytes, bytes]]:
        encoder = self._encoders.get(lookahead)
        if encoder is None:
            encoder = self._encoders[lookahead] = wire.RefinedBatchEncoder(self._sample(emission))
        known = self._sources
        sources = [known.get(place) or self._packed_source(place) for place in emission.place.tolist()]
        most = encoder.most(sources)
        parts = -(-len(sources) // most)
        edges = [len(sources) * part // parts for part in range(parts + 1)]  # of about the same size
        for first, end in pairwise(edges):
            rows = slice(first, end)
            body = encoder(
                *(emission.infer_start_ns, emission.infer_end_ns, now, sources[rows], emission.numbers[rows]),
                *(emission.xyz[rows], emission.confidence[rows], emission.missing[rows], emission.sigma[rows]),
            )
            yield encoder.topic, body

    def _packed_source(self, place: int) -> bytes:
        source = _source(self._table.sample(place, 0))
        packed = self._sources[place] = wire.RefinedBatchEncoder.source(source)
        return packed

    def _sample(self, emission: Emission) -> wire.RefinedBatch:
        """A batch with one of these poses."""
        pose = self._table.sample(int(emission.place[0]), int(emission.lookahead[0]))
        return wire.RefinedBatch(
            pose.lookahead,
            pose.epoch,
            *(0, 0, 0, pose.clock, pose.skeleton, pose.model),
            [_source(pose)],
            np.zeros((1, 6), np.int64),
            *(emission.xyz[:1], emission.confidence[:1], emission.missing[:1], emission.sigma[:1]),
        )


_UNWANTED = -1


def _source(pose: wire.RefinedPose) -> wire.Source:
    origin = pose.stream, pose.source_epoch, pose.source_clock, pose.fps
    return wire.Source(*origin, pose.axes, pose.mirrored, pose.about)
