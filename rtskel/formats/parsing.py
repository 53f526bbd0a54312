"""What readers and writers share: what a caller states, files, JSON, and errors that name the place."""

from __future__ import annotations

import json
import os
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
    """What is stated about a file from outside, because it does not say it or says it wrongly; see `rtskel.read`."""

    fps: float | None = None
    unit: str | None = None
    axes: str | None = None
    image_size: tuple[int, int] | None = None
    depth_scale: float | None = None
    world: bool = False

    def need(self, path: Path | str, key: str, what: str) -> Any:
        """A value that the file cannot do without; FormatError names the option if nobody states it."""
        value = getattr(self, key)
        if value is None:
            raise FormatError(f"{path}: {what}: state it (--{key.replace('_', '-')}, in Python {key}=)")
        return value


def named(path: Path | str, make: Callable[..., Recording], *args: Any, **fields: Any) -> Recording:
    """`make(...)`, with the file's name in front of what it finds wrong."""
    try:
        return make(*args, **fields)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def content(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None


def text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, with its line ends as they are."""
    try:
        return content(path).decode(encoding)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file (byte {error.object[error.start]:#04x} at {error.start})") from None


def parse_json(place: Path | str, source: str) -> Any:
    """A JSON value; NaN and Infinity are numbers, as many a writer has it."""
    try:
        return json.loads(source)
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{place}: not JSON, or truncated (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None
    except (RecursionError, ValueError) as error:  # nested beyond reason, a number of thousands of digits
        raise FormatError(f"{place}: not JSON that can be read ({str(error).splitlines()[0]})") from None


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
    """Put data, or text as UTF-8, under that name in one step, so that nobody ever sees half a file."""
    if isinstance(data, str):
        try:
            data = data.encode("utf-8")
        except UnicodeEncodeError as error:  # a name that came from bytes which are no text
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
