"""Many messages at once, in C++ (engines/native/bulk.h): recognises raw messages, and encodes refined poses.

The messages of a stream differ only in a few numbers and their arrays (`rtskel.wire.raw_template`,
`rtskel.wire.RefinedEncoder`), in whatever order and form a client writes its fields. Once one of them was decoded or
encoded with every check, the others need only be compared with it or copied from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.wire.messages import RefinedPose
from rtskel.wire.templates import RawTemplate, RefinedEncoder, raw_template

MAX_EXPECTED = 64
"""How many different messages are expected on one topic, and of one stream: no sender fills the memory. Of more, the
oldest are forgotten.
"""


class RawReader:
    """Recognises raw messages by comparing them with one that was accepted before.

    Args:
        joints: of a pose, J.

    Attributes:
        compiled: what compares messages with those that are expected.
    """

    def __init__(self, joints: int) -> None:
        self._joints = joints
        self.compiled: Any = self._made(joints)
        self._expected: dict[RawTemplate, list[int]] = {}  # places
        self._by_topic: defaultdict[bytes, dict[RawTemplate, None]] = defaultdict(dict)  # oldest first
        self._by_place: defaultdict[int, dict[RawTemplate, None]] = defaultdict(dict)

    @staticmethod
    def _made(joints: int) -> Any:
        from rtskel import native

        return native.RawReader(joints)

    def expect(self, topic: bytes, body: bytes, places: Sequence[int]) -> None:
        """From now on, messages that equal this one except for seq, time_ns and arrays belong to these places.

        Its poses have J joints, and a place each.
        """
        template = raw_template(topic, body)
        if template is None or template in self._expected:
            return
        assert template.cells == len(places) * self._joints
        for others in self._by_topic[topic], *(self._by_place[place] for place in places):
            if len(others) == MAX_EXPECTED:
                self._drop(next(iter(others)))
        self._expected[template] = list(places)
        self.compiled.add(template, self._expected[template])
        self._by_topic[topic][template] = None
        for place in places:
            self._by_place[place][template] = None

    def forget(self, place: int) -> None:
        """Expect no messages of that place any more."""
        for template in list(self._by_place.get(place, ())):
            self._drop(template)

    def _drop(self, template: RawTemplate) -> None:
        places = self._expected.pop(template)
        self.compiled.remove(template)
        indices: list[tuple[Any, Any]] = [(self._by_topic, template.topic)]
        for index, entry in [*indices, *((self._by_place, place) for place in places)]:
            del index[entry][template]
            if not index[entry]:
                del index[entry]


class PoseWriter:
    """Encodes refined poses; those of one stream and lookahead share all but a few fields, see `RefinedEncoder`.

    Args:
        joints: of a pose, J.
    """

    def __init__(self, joints: int) -> None:
        self._writer = self._made(joints)
        self.topics: list[bytes] = []
        """By kind."""

    @staticmethod
    def _made(joints: int) -> Any:
        from rtskel import native

        return native.PoseWriter(joints)

    def add(self, sample: RefinedPose) -> int:
        """Adds a kind of poses, given one of them; returns its number for `write`. WireError: it cannot be encoded."""
        encoder = RefinedEncoder(sample)
        kind: int = self._writer.add(encoder)
        if kind == len(self.topics):
            self.topics.append(encoder.topic)
        else:
            self.topics[kind] = encoder.topic
        return kind

    def discard(self, kind: int) -> None:
        """There are no more poses of that kind; its number may be reused."""
        self._writer.discard(kind)

    def write(
        self,
        kinds: list[int],
        numbers: NDArray[np.int64],
        infer_start_ns: int,
        infer_end_ns: int,
        publish_ns: int,
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32],
        sigma: NDArray[np.float32],
    ) -> list[bytes]:
        """The bodies of M poses. Nothing is checked, as in `RefinedEncoder`.

        Args:
            kinds: [M], as `add` gave them.
            numbers: [M, 6], the columns of `RefinedBatch.numbers`.
            xyz: [M, J, 3], and the others [M, J]. Joints of confidence 0 are those that are missing.
        """
        times = infer_start_ns, infer_end_ns, publish_ns
        bodies: list[bytes] = self._writer.write(kinds, numbers, *times, xyz, confidence, sigma)
        return bodies
