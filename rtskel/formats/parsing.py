"""What readers and writers share: the registry entry, options, files, JSON, arrays, and errors that name the place."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.recording import Recording
from rtskel.text import printable


@dataclass(frozen=True)
class Options:
    """What the caller states because the file does not, or states it wrongly; see `rtskel.read`.

    Attributes:
        notes: what the reader dropped or doubted, in the order in which it was found.
        texts: ids of people that are no numbers, and the number that each of them has got, see `identity`.
    """

    fps: float | None = None
    unit: str | None = None
    axes: str | None = None
    image_size: tuple[int, int] | None = None
    depth_scale: float | None = None
    world: bool = False
    corrected: bool = False
    notes: list[str] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)

    def note(self, words: str) -> None:
        """State, once, what was dropped or doubted."""
        if words not in self.notes:
            self.notes.append(words)

    def person(self, number: int) -> str:
        """Who has this number: as the file calls him, see `identity`."""
        return next((text for text, of_text in self.texts.items() if of_text == number), str(number))

    def need(self, path: Path | str, key: str, what: str) -> Any:
        """A value that this file needs; FormatError names the option if the caller does not state it."""
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
        folders: a folder with one file per frame can be of this format.
        own: rtskel's own format: numbers mean what it says.
        convention: files do not state their axes, which are the format's convention.
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
    folders: bool = False
    own: bool = False
    convention: bool = False


BOM = rb"\A(?:\xef\xbb\xbf)?"
"""How a mark begins: at the start of the file, after a byte order mark."""

DEPTH = frozenset({"depth_scale", "world", "corrected"})
"""The options of formats with MediaPipe's landmarks."""


def named(path: Path | str, make: Callable[..., Recording], *args: Any, **fields: Any) -> Recording:
    """`make(...)`; an error it raises is prefixed with the name of the file."""
    try:
        return make(*args, **fields)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def content(path: Path | str, size: int = -1) -> bytes:
    """The first `size` bytes of a file, or all."""
    try:
        with open(path, "rb", buffering=0) as file:  # a buffer costs more than it saves, and there may be 50,000 files
            return file.read(size)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None


_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def head_of(path: Path) -> bytes:
    """The first 64 KiB of a file, for marks; UTF-16 as UTF-8."""
    head = content(path, 1 << 16)
    for mark, coding in _MARKS[1:]:
        if head.startswith(mark):
            return head[len(mark) :].decode(coding, "ignore").encode()
    return head


def text(path: Path | str, options: Options | None = None, encoding: str = "utf-8") -> str:
    """The text of a file without its byte order mark; line ends stay as they are."""
    data = content(path)
    for mark, coding in _MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], coding
            if options is not None:
                options.note("a byte order mark was skipped")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not a text file (byte {error.object[error.start]:#04x} at {error.start})") from None


class Unfinished(FormatError):
    """JSON that is incomplete: the file is empty, cut off, or still being written."""


def parse_json(place: Path | str, source: str) -> Any:
    """A JSON value; NaN and Infinity are accepted as numbers, because many writers produce them.

    Raises:
        Unfinished: the text ends before the value does.
        FormatError: no JSON, or nested too deep.
    """
    try:
        return json.loads(source)
    except json.JSONDecodeError as error:
        half = re.fullmatch(r"[-+.\w]{0,8}", source[error.pos :].strip("\0 \t\r\n"), re.ASCII)  # of a word, or nothing
        at_end = half is not None or error.msg.startswith("Unterminated")
        kind = Unfinished if at_end else FormatError
        raise kind(
            f"{place}: not JSON, or truncated (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deep, a number of thousands of digits
        raise FormatError(f"{place}: not JSON that can be read ({str(error).splitlines()[0]})") from None


def read_json(path: Path | str, options: Options) -> Any:
    """The JSON value of a file; of one with a value in every line (JSON Lines), the list of them.

    An unfinished last line is left out and reported.
    """
    source = text(path, options)
    try:
        return parse_json(path, source)
    except FormatError as error:
        lines = source.rstrip().split("\n")
        if len(lines) < 2 or isinstance(error, Unfinished):
            raise
        try:
            values = [parse_json(path, lines[0])]
        except FormatError:
            raise error from None
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            try:
                values.append(parse_json(f"{path}, line {number}", line))
            except Unfinished:
                if number < len(lines):
                    raise
                options.note(f"unfinished last line skipped: {number}")
    return values


NO_VALUE = {"", "null", "none", "na", "n/a", "#n/a", "-"}
"""What programs write into a cell for which they have no number."""

_WITH_COMMA = re.compile(r"\A\s*([-+]?\d*),(\d+(?:[eE][-+]?\d+)?)\s*\Z")
"""A number with a decimal comma."""


def cells_of(path: Path, options: Options) -> tuple[list[str], list[list[str]], list[int]]:
    """A table in text: its header, the cells of each row, and the line number of each row.

    Cells are parted by commas, or by semicolons or tabs, then with decimal commas if there are any. An unfinished last
    line is left out and reported.
    """
    source = text(path, options)
    first = source.lstrip().split("\n", 1)[0]
    between = max(",;\t", key=first.count)
    table = csv.reader(io.StringIO(source, newline=""), strict=True, delimiter=between)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in table:
            if row:
                rows.append(row)
                lines.append(table.line_num)
    except csv.Error as error:
        raise FormatError(f"{path}, line {table.line_num}: {error}") from None
    if len(rows) < 2:
        raise FormatError(f"{path}: {'no poses' if rows else 'empty file'}")
    header = [name.strip() for name in rows[0]]
    if header != rows[0]:
        rows = [[cell.strip() for cell in row] for row in rows]
    if between != ",":
        options.note(f"cells are parted by {'tabs' if between == chr(9) else 'semicolons'}")
        rows = [[_WITH_COMMA.sub(r"\1.\2", cell) for cell in row] for row in rows]
    if len(rows) > 2 and len(rows[-1]) < len(header) and not source.endswith(("\n", "\r")):
        options.note(f"unfinished last line skipped: {lines.pop()}")
        rows.pop()
    return header, rows[1:], lines[1:]


def check_width(path: Path, header: list[str], rows: list[list[str]], lines: list[int]) -> None:
    """FormatError if a row has not as many cells as the header."""
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise FormatError(f"{path}, line {line}: {len(row)} cells, {len(header)} expected")


MOST_BYTES = 2 << 30
"""Unpacked size up to which arrays are read."""

_MOST_DEFLATED = 1100
"""Unpacked bytes per packed one beyond which a member is no data: deflate, which numpy uses, reaches 1032."""


def load_npz(path: Path, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file by name: those in `wanted`, or all.

    Before a member is unpacked, the size that it declares is compared with its real size. Nothing is ever unpickled.
    """
    data = content(path)
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise FormatError(f"{path}: not an .npz file, or truncated ({len(data)} bytes)")
    columns: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if wanted is None or _array_name(member) in wanted]
            for member in members:
                if member.file_size > _MOST_DEFLATED * member.compress_size + 4096:
                    raise FormatError(f"member {member.filename!r} declares {member.file_size} bytes in "
                                      f"{member.compress_size}: damaged")  # fmt: skip
            if sum(member.file_size for member in members) > MOST_BYTES:
                raise FormatError(f"more than {MOST_BYTES >> 30} GiB of arrays: cut the file into several")
            for member in members:
                columns[_array_name(member)] = array_of(f"member {_array_name(member)!r}", archive.read(member))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    except Exception as error:  # whatever zipfile and its codecs raise on damaged bytes: no list of them is complete
        raise FormatError(f"{path}: damaged, or not an .npz file ({reason(error)})") from None
    return columns


def _array_name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def npz_names(path: Path) -> set[str]:
    """The names of the arrays in an `.npz` file; none if it is damaged, which `load_npz` reports."""
    return {name.removesuffix(".npy") for name in zipped(path)}


def zipped(path: Path) -> list[str]:
    """The names of the files in a zip archive, as an `.npz` file is; none if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # as in `load_npz`
        return []


def array_of(place: str, data: bytes) -> NDArray[Any]:
    """The array in the bytes of an `.npy` file; what its header declares is checked before memory is taken."""
    stream = io.BytesIO(data)
    form = np.lib.format
    try:
        if not data.startswith(form.MAGIC_PREFIX):
            raise FormatError("is not an array")
        version = form.read_magic(stream)
        readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
        if version not in readers:
            raise FormatError(f"has version {version}: not supported")
        shape, fortran, dtype = readers[version](stream)
        if dtype.hasobject:
            raise FormatError("holds pickled Python objects, which are never read")
        declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if min(shape, default=0) < 0 or dtype.itemsize == 0 or declared != len(data) - stream.tell():
            raise FormatError(f"declares {declared} bytes ({dtype}, {list(shape)}) and has {len(data) - stream.tell()}")
        array = np.frombuffer(data, dtype, offset=stream.tell()).copy()  # writable and aligned
        return array.reshape(shape, order="F" if fortran else "C")
    except FormatError as error:
        raise FormatError(f"{place} {error}") from None
    except Exception as error:  # numpy reads the header with Python's own parser, which raises whatever it likes
        raise FormatError(f"{place} has a damaged header ({reason(error)})") from None


def reason(error: BaseException) -> str:
    """An error in a few words on one line."""
    words = str(error).strip().splitlines()
    return printable(words[0][:120] if words else type(error).__name__)


def numbers(place: str, value: Any) -> NDArray[np.float64]:
    """Nested lists of numbers as an array; null is NaN."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError):
        array = np.array("")
    if array.dtype.kind not in "fiu":
        raise FormatError(f"{place}: numbers expected, found {shown(_no_number(value))}")
    return array.astype(np.float64, copy=False)


def _no_number(value: Any) -> Any:
    """The first value in lists of one level or two that is no number; the lists themselves if there is none."""
    for part in value if isinstance(value, (list, tuple)) else ():
        for one in part if isinstance(part, (list, tuple)) else (part,):
            if one is not None and not isinstance(one, (int, float, list, tuple)):
                return one
    return value


def rate(value: Any) -> float | None:
    """Frames a second, as a number, or as a text with one or a fraction (30000/1001); None: no such thing."""
    if isinstance(value, str):
        found = re.fullmatch(
            r"\s*(\d{1,9}(?:\.\d*)?)\s*(?:/\s*(\d{1,9}))?\s*(?:fps|hz)?\s*", value, re.ASCII | re.IGNORECASE
        )
        if found is None:
            return None
        below = int(found[2]) if found[2] else 1
        return float(found[1]) / below if below else 0.0
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if number else None


def shown(value: Any) -> str:
    """A value in an error message: short, and on one line."""
    if isinstance(value, (list, str, dict)) and len(value) > 60:  # no megabytes of repr
        value = value[:60] if not isinstance(value, dict) else list(value)[:60]
    try:
        words = repr(value)
    except (RecursionError, ValueError):  # nested too deep, a number of thousands of digits
        words = f"a {type(value).__name__}"
    return printable(words if len(words) <= 60 else words[:57] + "...")


def listed(names: Collection[str], most: int = 8) -> str:
    """Names in a message: the first few, and how many more there are."""
    shortened = [printable(name if len(name) <= 40 else name[:37] + "...") or "''" for name in sorted(names)[:most]]
    more = len(names) - len(shortened)
    return (", ".join(shortened) or "nothing") + (f" and {more} more" if more > 0 else "")


NUMBER_KEYS = ("frame", "frame_id", "frame_index", "frameIndex", "frame_number", "frameNumber", "frame_idx")
"""What programs call the number of a frame."""


def integer(place: str, value: Any) -> int:
    """A whole number from JSON, also as text."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value, re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise FormatError(f"{place}: a whole number expected, found {shown(value)}")
    return value


_FIRST_OF_TEXTS = 2**62
"""Numbers of people whose ids are texts begin here: no file numbers its people so high."""


def identity(place: str, value: Any, options: Options) -> int:
    """The id of a tracked person: a whole number, or a text, which gets a number; also in a list of one; -1: none."""
    while isinstance(value, list) and len(value) == 1:
        (value,) = value
    if value is None or isinstance(value, list):
        return -1
    if isinstance(value, str):
        if re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
            return int(value)
        if value.strip().lower() in ("", "none", "null", "nan", "unknown"):
            return -1
        return options.texts.setdefault(value, _FIRST_OF_TEXTS + len(options.texts))
    return (
        int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else integer(place, value)
    )


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
