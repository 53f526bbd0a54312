"""Many messages of one kind: what the messages of a stream have in common is parsed or packed once.

In: a message that was decoded or encoded with every check. Out: what all others like it share (`RawTemplate`), or
encoders that pack only what varies. These must give, byte for byte, what `rtskel.wire.encode` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from rtskel.wire.codec import encode_refined as _encode_refined
from rtskel.wire.codec import encode_refined_batch as _encode_refined_batch
from rtskel.wire.codec import packing as _packing
from rtskel.wire.codec import source_body as _source_body
from rtskel.wire.fields import ABOUT as _ABOUT
from rtskel.wire.fields import F4 as _F4
from rtskel.wire.fields import I8 as _I8
from rtskel.wire.fields import MAX_BODY, MAX_ELEMENTS, VERSION
from rtskel.wire.fields import SOURCE as _SOURCE
from rtskel.wire.fields import SPACE as _SPACE
from rtskel.wire.fields import pack_bits as _pack_bits
from rtskel.wire.messages import F32, I64, RefinedBatch, RefinedPose, Source
from rtskel.wire.messages import ROW as _ROW


class RawTemplate(NamedTuple):
    """The bytes that all messages of a stream (or of the same people of a group) have in common, if one client sends
    them.

    The body is `pieces[0]`, `varying[0]`, `pieces[1]`, `varying[1]`, `pieces[2]`, `varying[2]`, `pieces[3]`. What
    varies is, in the client's order: "numbers", which are seq and time_ns as msgpack integers; "xyz", three float32 a
    joint; and "confidence", `cells` float32 of all poses.
    """

    topic: bytes
    pieces: tuple[bytes, ...]
    varying: tuple[str, ...]
    cells: int


_RAW_FIELDS = frozenset(
    ("v", "kind", "stream", "group", "streams", "source", "space", "lossless", "dims", "about", "xyz", "confidence")
)


def raw_template(topic: bytes, body: bytes) -> RawTemplate | None:
    """What messages like this one have in common, whatever their seq, time and coordinates.

    Args:
        topic, body: of a `RawPose` or `RawBatch`, which `decode` has accepted.

    Returns:
        None if there are fields or elements that this version does not know: they may vary as well.
    """
    unpacker = msgpack.Unpacker()
    unpacker.feed(body)
    spans: list[tuple[str, int, int]] = []
    cells = 0
    for _ in range(unpacker.read_map_header()):
        name = unpacker.unpack()
        if name not in _RAW_FIELDS:
            return None
        if name in ("source", "space"):
            known = _SOURCE if name == "source" else _SPACE
            if unpacker.read_array_header() != len(known):
                return None
            edges = []
            for _ in known:
                edges.append(unpacker.tell())
                unpacker.skip()
            if name == "source":
                spans.append(("numbers", edges[1], edges[3]))  # seq and time_ns
        elif name in ("xyz", "confidence"):
            size = len(unpacker.unpack())
            spans.append((name, unpacker.tell() - size, unpacker.tell()))
            cells = size // 4 if name == "confidence" else cells
        elif name == "about":
            if not unpacker.unpack().keys() <= set(_ABOUT):
                return None
        else:
            unpacker.skip()
    if len(spans) != 3:  # a field came twice
        return None
    ends = [0, *(end for _, _, end in spans)]
    begins = [*(begin for _, begin, _ in spans), len(body)]
    pieces = tuple(body[end:begin] for end, begin in zip(ends, begins, strict=True))
    return RawTemplate(topic, pieces, tuple(name for name, _, _ in spans), cells)


def _binary_header(length: int) -> bytes:
    return _packing.pack(bytes(length))[:-length] if length else b"\xc4\x00"


_le_bytes: Callable[[F32], bytes] = np.ndarray.tobytes if _F4.isnative else lambda floats: floats.astype(_F4).tobytes()


class RefinedEncoder:
    """`encode` for the refined poses of one stream at one lookahead: byte for byte the same, in a third of the time.

    What they have in common is checked and packed once. What varies is not checked: the caller ensures that numbers are
    in 0..MAX_COUNT and floats are finite. Used by one thread.

    Attributes:
        topic: of all these poses.
        pieces: what is in front of seq, source_seq, receive_ns, xyz, confidence, sigma and missing; the numbers in
            between are in the order of `__call__`, except windows and flags, which follow seq.

    Args:
        sample: any of these poses.

    Raises:
        WireError: the sample cannot be encoded.
    """

    def __init__(self, sample: RefinedPose) -> None:
        self.topic, body = _encode_refined(sample)
        pack = self._pack = _packing.pack
        pieces = [bytes([0x80 + len(body)])]
        for name, value in body.items():
            pieces[-1] += pack(name)
            if name == "slot":
                lookahead, epoch, *_ = value
                pieces[-1] += b"\x95" + pack(lookahead) + pack(epoch)
                pieces.append(b"")
            elif name == "source":
                epoch, _, _, clock, fps = value
                pieces[-1] += b"\x95" + pack(epoch)
                pieces.append(pack(clock) + pack(fps))
            elif name == "times":
                pieces[-1] += b"\x95"
                pieces.append(pack(value[-1]))
            elif name in ("xyz", "confidence", "sigma", "missing"):
                pieces[-1] += _binary_header(len(value))
                pieces.append(b"")
            else:
                pieces[-1] += pack(value)
        self.pieces = tuple(pieces[:-1])  # the last field varies

    def __call__(
        self,
        seq: int,
        source_seq: int | None,
        source_time_ns: int,
        receive_ns: int,
        infer_start_ns: int,
        infer_end_ns: int,
        publish_ns: int,
        windows: int,
        flags: int,
        xyz: F32,
        confidence: F32,
        missing: NDArray[np.bool_],
        sigma: F32,
    ) -> bytes:
        """The body of one pose."""
        pack = self._pack
        to_seq, to_source_seq, to_receive, to_xyz, to_confidence, to_sigma, to_missing = self.pieces
        return b"".join(
            (
                to_seq,
                pack(seq),
                pack(windows),
                pack(flags),
                to_source_seq,
                pack(source_seq),
                pack(source_time_ns),
                to_receive,
                pack(receive_ns),
                pack(infer_start_ns),
                pack(infer_end_ns),
                pack(publish_ns),
                to_xyz,
                _le_bytes(xyz),
                to_confidence,
                _le_bytes(confidence),
                to_sigma,
                _le_bytes(sigma),
                to_missing,
                _pack_bits(missing.tobytes()),
            )
        )


class RefinedBatchEncoder:
    """`encode` for the batches of one lookahead, without its checks, as `RefinedEncoder` is for single poses.

    Attributes:
        topic: of all these batches.

    Args:
        sample: any of these batches.
    """

    def __init__(self, sample: RefinedBatch) -> None:
        self.topic, body = _encode_refined_batch(sample)
        self._lookahead, self._epoch, _ = body["batch"]
        self._clock, self._space, self._model = sample.clock, body["space"], sample.model
        joints: int = body["space"][1]
        self._each = 20 * joints + (joints + 7) // 8 + 8 * len(_ROW)  # bytes of a pose but for its source
        empty = dict.fromkeys(("sources", "numbers", "xyz", "confidence", "sigma", "missing"), b"")
        self._rest: int = len(_packing.pack(body | empty)) + 64  # with room for longer lengths and times

    @staticmethod
    def source(source: Source) -> bytes:
        """A packed source, for `__call__`.

        Raises:
            WireError: it cannot be encoded.
        """
        return _packing.pack(_source_body(source))

    def most(self, sources: Sequence[bytes]) -> int:
        """How many poses of such sources one batch can hold."""
        longest: int = max(map(len, sources))
        return min(MAX_ELEMENTS, (MAX_BODY - self._rest) // (self._each + longest))

    def __call__(
        self,
        infer_start_ns: int,
        infer_end_ns: int,
        publish_ns: int,
        sources: Sequence[bytes],
        numbers: I64,
        xyz: F32,
        confidence: F32,
        missing: NDArray[np.bool_],
        sigma: F32,
    ) -> bytes:
        """The body of a batch of at most `most(sources)` poses."""
        poses = len(sources)
        fields = {
            "v": VERSION,
            "kind": "refined_batch",
            "batch": (self._lookahead, self._epoch, poses),
            "times": (infer_start_ns, infer_end_ns, publish_ns, self._clock),
            "space": self._space,
            "model": self._model,
            "sources": (),
            "numbers": numbers.astype(_I8, copy=False).tobytes(),
            "xyz": _le_bytes(xyz),
            "confidence": _le_bytes(confidence),
            "sigma": _le_bytes(sigma),
            "missing": np.packbits(missing, axis=1).tobytes(),
        }
        pack = _packing.pack
        body = [bytes([0x80 + len(fields)])]
        for name, value in fields.items():
            body.append(pack(name))
            if name == "sources":
                body += [_array_header(poses), *sources]
            else:
                body.append(pack(value))
        return b"".join(body)


def _array_header(length: int) -> bytes:
    return bytes([0x90 + length]) if length < 16 else b"\xdc" + length.to_bytes(2, "big")
