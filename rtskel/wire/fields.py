"""What every field of a message must be: limits, types, ranges and arrays. Both directions share these checks.

The first offending field is named in one `WireError` of one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import permutations, product
from operator import itemgetter
from types import NoneType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import WireError
from rtskel.wire.messages import F32, NOTHING, About, Source

VERSION: Final = 1
"""Major version: `v` in a body and `rts1` in a topic. Additions keep it, so readers ignore unknown fields of a map and
trailing elements of an array."""

MAX_BODY: Final = 65536
"""Longest body in bytes. A pose of MAX_JOINTS joints takes less than a third of it."""

MAX_JOINTS: Final = 1024
MAX_TEXT: Final = 128
"""Longest clock, skeleton, model and event name, in characters."""

MAX_SIDE: Final = 1_000_000
"""Largest width and height of an image, in pixels."""

MAX_COUNT: Final = 2**63 - 1
"""Integers are in 0..MAX_COUNT, so that languages without unsigned integers can hold them."""

MIN_FPS: Final = 0.1
MAX_FPS: Final = 1000.0

MAX_TIME: Final = 2**62 - 1
"""Latest capture time in ns: the year 2116 of the clock "unix"."""

MAX_SPAN_S: Final = 3_000_000_000
"""Largest `seq / fps` in seconds, about 95 years. With it, MAX_TIME and the bounds of fps, the time in ns of every slot
of a stream fits into a signed 64-bit integer."""

MAX_ELEMENTS: Final = 256
"""Most elements of a msgpack array or map, and so most poses of a batch."""

Types: TypeAlias = tuple[type, ...]
Body: TypeAlias = dict[str, Any]

COUNT = (int,)
COUNT_OR_NIL = (int, NoneType)
REAL = (float, int)  # some languages write 25.0 as an integer
TEXT = (str,)
BOOL = (bool,)
_NAMES = {int: "an integer", NoneType: "nil", float: "a number", str: "a string", bool: "a boolean"}

_AXES = frozenset("".join(code) for pairs in permutations(("RL", "DU", "TA")) for code in product(*pairs))

_FRAME = {"epoch": COUNT, "seq": COUNT_OR_NIL, "time_ns": COUNT, "clock": TEXT}
_INFER = {"infer_start_ns": COUNT, "infer_end_ns": COUNT, "publish_ns": COUNT, "clock": TEXT}
_SLOT = {"lookahead": COUNT, "epoch": COUNT, "seq": COUNT, "windows": COUNT, "flags": COUNT}
_BATCH = {"lookahead": COUNT, "epoch": COUNT, "poses": COUNT}
_BATCH_SPACE = {"skeleton": TEXT, "joints": COUNT}
SOURCE = {**_FRAME, "fps": REAL}
SPACE = {**_BATCH_SPACE, "axes": TEXT, "mirrored": BOOL}
BATCH_SOURCE = dict(zip(Source._fields[:-1], (TEXT, COUNT, TEXT, REAL, TEXT, BOOL), strict=True))
"""The elements of a source, of which the last may be absent: `about`."""

ABOUT = ("unit", "person", "view", "image_size")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Header:
    """The arrays of a body that hold its header: which fields, in which order, of which types.

    One test of all types, one of the range of all integers and one of the length of all texts accept the usual
    message. Only if one fails, the fields are checked one by one, to name the offender or to accept what is valid but
    unusual: a nil, or an array that a later version has made longer.
    """

    def __init__(self, kind: str, **arrays: Mapping[str, Types]) -> None:
        self.kind = kind
        self._arrays = arrays
        fields = [types for array in arrays.values() for types in array.values()]
        self._usual = [types[0] for types in fields]
        self._counts = itemgetter(*[k for k, types in enumerate(fields) if types in (COUNT, COUNT_OR_NIL)])
        texts = [k for k, types in enumerate(fields) if types == TEXT]
        self._texts = itemgetter(*texts, texts[0])  # a single index would not give a tuple

    def check(self, stream: object, *arrays: list[Any]) -> list[Any]:
        """All fields of the arrays, in order; WireError if one is not valid."""
        try:
            values: list[Any] = sum(arrays, [])  # noqa: RUF017 (four short ones)
        except TypeError:  # one is not an array
            return self._check_each(stream, arrays)
        if [*map(type, values)] == self._usual:
            counts = self._counts(values)
            if min(counts) >= 0 and max(counts) <= MAX_COUNT and max(map(len, self._texts(values))) <= MAX_TEXT:
                return values
        return self._check_each(stream, arrays)

    def _check_each(self, stream: object, arrays: tuple[Any, ...]) -> list[Any]:
        values: list[Any] = []
        for (name, fields), elements in zip(self._arrays.items(), arrays, strict=True):
            if type(elements) is not list or len(elements) < len(fields):
                raise offence(self.kind, stream, f"{name} is {show(elements)}, not [{', '.join(fields)}]")
            for (field_name, types), value in zip(fields.items(), elements, strict=False):
                values.append(checked(value, types, self.kind, stream, f"{name}.{field_name}"))
        return values


RAW = Header("raw", source=SOURCE, space=SPACE)
RAW_BATCH = Header("raw_batch", source=SOURCE, space=SPACE)
END = Header("end", source=_FRAME)
REFINED = Header("refined", slot=_SLOT, source=SOURCE, times={"receive_ns": COUNT, **_INFER}, space=SPACE)
REFINED_BATCH = Header("refined_batch", batch=_BATCH, times=_INFER, space=_BATCH_SPACE)


def checked(value: Any, types: Types, kind: str, stream: object, name: str) -> Any:
    """The value, if it is of one of these types and within its limits."""
    if type(value) not in types:  # not isinstance: True is not a count
        expected = " or ".join(map(_NAMES.__getitem__, types))
        raise offence(kind, stream, f"{name} is {show(value)}, not {expected}")
    if type(value) is int and not 0 <= value <= MAX_COUNT:
        raise offence(kind, stream, f"{name} is {show(value)}, not in 0..2**63-1")
    if type(value) is str and len(value) > MAX_TEXT:
        raise offence(kind, stream, f"{name} has {len(value)} characters, more than {MAX_TEXT}")
    return value


def check_place(kind: str, stream: str, seq: int | None, time_ns: int, fps: float = MAX_FPS) -> None:
    """Checks number and time of a raw frame, so that no time computed from them overflows."""
    if time_ns > MAX_TIME:
        raise offence(kind, stream, f"source.time_ns is {time_ns}, more than 2**62-1")
    if seq is not None and seq > fps * MAX_SPAN_S:
        raise offence(kind, stream, f"source.seq is {seq}, more than {MAX_SPAN_S} seconds of frames")


def check_view(kind: str, stream: str, fps: float, axes: str) -> None:
    """Rate and axes of a frame."""
    if not MIN_FPS <= fps <= MAX_FPS:  # NaN too
        raise offence(kind, stream, f"source.fps is {show(fps)}, not in {MIN_FPS:g}..{MAX_FPS:g}")
    if axes not in _AXES:
        raise offence(kind, stream, f"space.axes is {show(axes)}, not one letter of each of R/L, D/U, T/A")


def check_joints(kind: str, stream: str | None, joints: int) -> None:
    """The number of joints."""
    if not 0 < joints <= MAX_JOINTS:
        raise offence(kind, stream, f"space.joints is {show(joints)}, not in 1..{MAX_JOINTS}")


def check_dims(kind: str, stream: str, dims: Any, axes: str) -> int:
    """2 or 3; in 2D, x and y must be those of the image."""
    if type(dims) is not int or dims not in (2, 3):
        raise offence(kind, stream, f"dims is {show(dims)}, not 2 or 3")
    if dims == 2 and axes[2] not in "TA":
        raise offence(kind, stream, f"dims is 2, and axes {axes} do not have x and y in the image")
    return dims


def pack_about(kind: str, stream: object, about: Any) -> Body:
    """The field `about` of a message; empty if there is nothing to say."""
    if about is NOTHING:
        return {}
    if type(about) is not About:
        raise offence(kind, stream, f"about is {show(about)}, not an About")
    body = {name: value for name in ABOUT if (value := getattr(about, name)) is not None}
    read_about(kind, stream, body)
    return body


def read_about(kind: str, stream: object, body: Any) -> About:
    """What the field `about` says; keys that this version does not know are left out."""
    if type(body) is not dict:
        raise offence(kind, stream, f"about is {show(body)}, not a map")
    if kind == "raw_batch" and "person" in body:
        raise offence(kind, stream, "about.person is for single streams: stream ids tell people of a batch apart")
    known: dict[str, Any] = {name: _about_text(kind, stream, name, body[name]) for name in ABOUT[:-1] if name in body}
    if "image_size" not in body:
        return About(**known)
    size = body["image_size"]
    sides = type(size) in (list, tuple) and len(size) == 2 and all(type(side) is int for side in size)
    if not sides or not 0 < min(size) <= max(size) <= MAX_SIDE:
        raise offence(kind, stream, f"about.image_size is {_short(ascii(size))}, not [width, height] in 1..{MAX_SIDE}")
    return About(**known, image_size=tuple(size))


def _about_text(kind: str, stream: object, name: str, text: Any) -> str:
    checked(text, TEXT, kind, stream, f"about.{name}")
    if not text or _CONTROL.search(text):
        raise offence(kind, stream, f"about.{name} is {show(text)}, not 1 to {MAX_TEXT} characters without controls")
    return text  # type: ignore[no-any-return]


def check_counts(kind: str, stream: object, counts: Any) -> dict[str, int]:
    """A map of names to integers."""
    if type(counts) is not dict or len(counts) > MAX_ELEMENTS:
        raise offence(kind, stream, f"counts is {show(counts)}, not a map of at most {MAX_ELEMENTS}")
    for name, value in counts.items():
        checked(name, TEXT, kind, stream, "a name in counts")
        checked(value, COUNT, kind, stream, f"counts.{name}")
    return counts


def check_elements(kind: str, stream: str | None, name: str, value: Any, least: int = 1) -> Any:
    """An array (a list or a tuple) of `least` to MAX_ELEMENTS elements."""
    if type(value) not in (list, tuple) or not least <= len(value) <= MAX_ELEMENTS:
        raise offence(kind, stream, f"{name} is {show(value)}, not an array of {least} to {MAX_ELEMENTS}")
    return value


@lru_cache(maxsize=256, typed=True)  # typed, or 1 would pass for True
def usual_space(*space: Any) -> list[Any]:
    """The fields of `space`, checked once for the many messages that share them."""
    return [checked(value, types, "", None, name) for (name, types), value in zip(SPACE.items(), space, strict=True)]


# --- arrays -----------------------------------------------------------------------------------------------------------

F4 = np.dtype("<f4")
I8 = np.dtype("<i8")
_NATIVE_F4 = np.dtype(np.float32)


def clean_joints(xyz: F32, confidence: F32) -> tuple[F32, F32, int]:
    """Turns every joint that holds a NaN or an infinity into a missing one.

    Args:
        xyz: float32 [..., J, 3].
        confidence: float32 [..., J].

    Returns:
        xyz and confidence with zeros in those joints, and their number. If there are none, the arrays that were given,
        not copies.
    """
    if _all_finite(xyz) and _all_finite(confidence):
        return xyz, confidence, 0
    good = np.isfinite(xyz).all(axis=-1) & np.isfinite(confidence)
    return np.where(good[..., None], xyz, 0), np.where(good, confidence, 0), int((~good).sum())


def _all_finite(array: F32) -> bool:
    return 0 not in np.isfinite(array).tobytes()  # a third of the time of .all()


def leading_shape(kind: str, stream: str | None, xyz: F32, poses: int | None = None) -> tuple[int, ...]:
    """[J] of one pose, or [K, J] of a batch of that many."""
    lead = () if poses is None else (poses,)
    if type(xyz) is not np.ndarray or xyz.ndim != len(lead) + 2 or xyz.shape[: len(lead)] != lead:
        expected = ", ".join([*map(str, lead), "J", "3"])
        raise offence(kind, stream, f"xyz is {_show_array(xyz)}, not float32 [{expected}]")
    return xyz.shape[:-1]


def check_array(
    kind: str, stream: str | None, name: str, array: Any, shape: tuple[int, ...], dtype: Any = _NATIVE_F4
) -> Any:
    """An array of exactly that type and shape."""
    if type(array) is not np.ndarray or array.dtype != dtype or array.shape != shape:
        raise offence(kind, stream, f"{name} is {_show_array(array)}, not {np.dtype(dtype)} {list(shape)}")
    return array


def pack_floats(kind: str, stream: str | None, each: tuple[int, ...], message: Any, *names: str) -> dict[str, bytes]:
    """These attributes of a message as bytes: float32 [*each, 3] of "xyz", float32 [*each] of the others."""
    packed = {}
    for name in names:
        array = check_array(kind, stream, name, getattr(message, name), (*each, 3) if name == "xyz" else each)
        packed[name] = array.astype(F4, copy=False).tobytes()
    finite_floats(kind, stream, packed)
    return packed


def finite_floats(kind: str, stream: str | None, packed: dict[str, bytes]) -> F32:
    """All arrays concatenated."""
    floats = np.frombuffer(b"".join(packed.values()), F4)
    if not _all_finite(floats):
        name = next(name for name, data in packed.items() if not np.isfinite(np.frombuffer(data, F4)).all())
        raise offence(kind, stream, f"{name} holds a NaN or an infinity")
    return floats


def check_length(kind: str, stream: str | None, name: str, data: bytes, length: int) -> None:
    """Bytes of exactly that length."""
    if type(data) is not bytes or len(data) != length:
        raise offence(kind, stream, f"{name} is {show(data)}, not bytes of length {length}")


# The same joints are missing in many consecutive frames, so both directions cache their last results.


@lru_cache(maxsize=1024)
def pack_bits(bools: bytes) -> bytes:
    """Booleans of one byte each as bits."""
    return np.packbits(np.frombuffer(bools, np.bool_)).tobytes()


@lru_cache(maxsize=1024)
def unpack_bits(data: bytes, length: int) -> NDArray[np.bool_]:
    """That many booleans of bits, read-only."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=length).view(np.bool_)
    bits.flags.writeable = False
    return bits


# --- error texts ------------------------------------------------------------------------------------------------------


def offence(kind: str, stream: object, what: str) -> WireError:
    """The error for a message of that kind and stream (or group)."""
    whose = f" of {'group' if kind == 'raw_batch' else 'stream'} {show(stream)}" if stream else ""
    return WireError(f"{kind} message{whose}: {what}")


def show(value: object) -> str:
    """A foreign value for people to read: one short line."""
    if isinstance(value, (bytes, list, tuple, dict)):
        return f"{type(value).__name__} of length {len(value)}"
    return _short(ascii(value))


def show_topic(topic: bytes) -> str:
    """A foreign topic, likewise."""
    return _short(ascii(topic)[1:])


def show_error(error: Exception) -> str:
    """The text of an error of another library, likewise."""
    return _short(" ".join(str(error).split()) or type(error).__name__)


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


def _show_array(array: object) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else show(array)
