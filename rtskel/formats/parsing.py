"""What readers and writers share: the registry entry, options, files, JSON, arrays, and errors that name the place."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.recording import Recording


@dataclass(frozen=True)
class Options:
    """What the caller states because the file does not say it, or says it wrongly; see `rtskel.read`."""

    fps: float | None = None
    unit: str | None = None
    axes: str | None = None
    image_size: tuple[int, int] | None = None
    depth_scale: float | None = None
    world: bool = False

    def need(self, path: Path | str, key: str, what: str) -> Any:
        """A value that the file cannot do without; FormatError names the option if the caller does not state it."""
        value = getattr(self, key)
        if value is None:
            raise FormatError(f"{path}: {what}: state it (--{key.replace('_', '-')}, in Python {key}=)")
        return value


@dataclass(frozen=True)
class Format:
    """One file format: how it is recognised, read and written.

    Attributes:
        name: what `rtskel.read(format=...)` calls it.
        suffixes: of its files; `write` picks the format by the first one.
        read, write: None where rtskel cannot do that.
        mark: regular expression that finds the format in the first 64 KiB of a file.
        arrays: whether an `.npz` file with these array names is of this format.
        takes: options that only this format understands.
        lacks: what of a recording a file of this format cannot hold.
        together: which recordings one file holds: "all", those of one "lookahead", or only "one".
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, Options], list[Recording]] | None = None
    write: Callable[[Path, list[Recording]], None] | None = None
    mark: bytes | None = None
    arrays: Callable[[set[str]], bool] = lambda names: False
    takes: frozenset[str] = frozenset()
    lacks: str = ""
    together: str = "all"


DEPTH = frozenset({"depth_scale", "world"})
"""The options of formats with MediaPipe's landmarks."""


def named(path: Path | str, make: Callable[..., Recording], *args: Any, **fields: Any) -> Recording:
    """`make(...)`; an error it raises is prefixed with the name of the file."""
    try:
        return make(*args, **fields)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def content(path: Path, size: int = -1) -> bytes:
    """The first `size` bytes of a file, or all."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None


def text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file; line ends stay as they are."""
    try:
        return content(path).decode(encoding)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file (byte {error.object[error.start]:#04x} at {error.start})") from None


def parse_json(place: Path | str, source: str) -> Any:
    """A JSON value; NaN and Infinity are accepted as numbers, because many writers produce them."""
    try:
        return json.loads(source)
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{place}: not JSON, or truncated (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deep, a number of thousands of digits
        raise FormatError(f"{place}: not JSON that can be read ({str(error).splitlines()[0]})") from None


# What zipfile, zlib and numpy raise on bytes that are not what they claim to be.
_DAMAGE = (
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file by name."""
    data = content(path)
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise FormatError(f"{path}: not an .npz file, or truncated ({len(data)} bytes)")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            columns = {key: archive[key] for key in archive.files}
    except _DAMAGE as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in words:
            words = "holds pickled Python objects, which are never read"
        raise FormatError(f"{path}: {words}") from None
    for key, array in columns.items():
        if not isinstance(array, np.ndarray):  # numpy returns members that are not arrays as bytes
            raise FormatError(f"{path}: member {key!r} is not an array")
    return columns


def numbers(place: str, value: Any) -> NDArray[np.float64]:
    """Nested lists of numbers as an array; null is NaN."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.array("")
    if array.dtype.kind not in "fiu":
        raise FormatError(f"{place}: numbers expected, found {shown(value)}")
    return array.astype(np.float64)


def shown(value: Any) -> str:
    """A value in an error message: short, and on one line."""
    words = repr(value)
    return words if len(words) <= 60 else words[:57] + "..."


def integer(place: str, value: Any) -> int:
    """A whole number from JSON."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise FormatError(f"{place}: a whole number expected, found {shown(value)}")
    return value


def replace_file(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, under a temporary name and rename: a reader never sees half a file."""
    if isinstance(data, str):
        try:
            data = data.encode("utf-8")
        except UnicodeEncodeError as error:  # a name that was decoded from bytes that are not text
            raise FormatError(
                f"{path}: {shown(error.object[max(error.start - 20, 0) : error.end])} is no text"
            ) from None
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise FormatError(f"{path}: cannot be written ({error.strerror or error})") from None
