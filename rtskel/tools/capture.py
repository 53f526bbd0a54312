"""Saves refined poses while they arrive: a crash loses at most the last second.

Poses are appended to `FILE.part`, a capture (`rtskel.formats.capture`). At the end they become the recording FILE, and
`FILE.part` is removed unless something in it could not be saved. It is locked meanwhile: one process saves to a FILE.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import IO

from rtskel.closing import Closing
from rtskel.errors import FormatError, RtskelError, WireError
from rtskel.formats.capture import LENGTHS, MAGIC, SUFFIX, collected
from rtskel.tools.collect import save
from rtskel.wire import RefinedPose, encode

FLUSH_S = 0.5
"""Poses are appended this often."""


class Capture(Closing):
    """Appends poses to `path`.part; `finish` turns them into the recording `path`. A context manager.

    Attributes:
        part: the file that is appended to: `path`.part, or `path`.2.part, ... if that exists already.
        poses: how many poses were added.

    Raises:
        FormatError: the file cannot be created, or another process is saving to `path`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._pending: list[bytes] = []
        self._due = time.monotonic() + FLUSH_S
        self.poses = 0
        self.part, self._file = _create(path)
        try:
            self._file.write(MAGIC)
        except OSError as error:
            self._remove()
            raise FormatError(f"{self.part}: cannot be written ({error.strerror or error})") from None
        self._good = len(MAGIC)
        self._cut = False
        self._refused: dict[str, str] = {}

    def add(self, pose: RefinedPose) -> None:
        """Take one pose. `finish` names what the wire format cannot hold."""
        try:
            topic, body = encode(pose)
        except WireError as error:
            self._refused.setdefault(pose.stream, str(error))
            return
        self._pending.append(LENGTHS.pack(len(topic), len(body)) + topic + body)
        self.poses += 1

    def flush(self, *, now: bool = False) -> None:
        """Append what was added, if it is due (call this often) or `now`.

        Raises:
            RtskelError: the disk is full, or fails; what was appended before stays readable.
        """
        if not self._pending or not (now or time.monotonic() >= self._due):
            return
        messages, self._pending = self._pending, []
        self._due = time.monotonic() + FLUSH_S
        data, written = memoryview(b"".join(messages)), 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            # Keep the messages that were written completely.
            whole = max(end for end in itertools.accumulate(map(len, messages), initial=0) if end <= written)
            self._good += whole
            self._cut = True
            with contextlib.suppress(OSError):
                self._file.truncate(self._good)
                self._file.seek(self._good)
            raise RtskelError(f"{self.part}: {error.strerror or error}") from None
        self._good += written

    def finish(self) -> str:
        """Write the recording and remove the `.part` file; returns a line that says what was saved.

        Raises:
            RtskelError: not everything could be saved. The message names what, why, and the file that still holds it.
        """
        problems = list(self._refused.values())
        try:
            self.flush(now=True)
        except RtskelError as error:
            problems.append(str(error))
        if not self._good > len(MAGIC):
            self._remove()
            if problems:
                raise RtskelError(f"{problems[0]}: nothing is saved")
            return f"{'nothing could be written' if self._cut else 'no poses came'}: {self._path} is not written"
        self._file.seek(0)
        recordings, refused = collected(self._file)[0].valid_recordings()
        problems += refused
        saved = ""
        if self._cut and os.path.exists(self._path):
            problems.append(f"{self._path} is left as it was, for the disk is full")
        elif recordings:
            try:
                saved = save(recordings, self._path)
            except RtskelError as error:
                problems.append(str(error))
        if not problems:
            self._remove()
            return saved
        text = "; ".join(problems) + f"; everything is kept in {self._keep()} (see rtskel convert --help)"
        raise RtskelError(text + (f"; {saved}" if saved else ""))

    def _remove(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(self.part)

    def _keep(self) -> str:
        """The `.part` file, or a copy of it where its folder was removed meanwhile."""
        if os.path.exists(self.part):
            return self.part
        self._file.seek(0)
        copy = Path(tempfile.mkdtemp(prefix="rtskel-"), Path(self.part).name)
        copy.write_bytes(self._file.read())
        return str(copy)

    def close(self) -> None:
        """Close the `.part` file, which stays where it is."""
        self._file.close()


def _create(path: str) -> tuple[str, IO[bytes]]:
    number = 1
    while True:
        part = f"{path}{SUFFIX}" if number == 1 else f"{path}.{number}{SUFFIX}"
        try:
            file = open(part, "x+b", buffering=0)  # noqa: SIM115 (the capture closes it)
        except FileExistsError:
            if _in_use(part):
                raise FormatError(f"{path}: another process is saving to it (in {part})") from None
            number += 1
        except OSError as error:
            raise FormatError(f"{part}: cannot be written ({error.strerror or error})") from None
        else:
            _lock(file)
            return part, file


def _in_use(part: str) -> bool:
    """Whether a process appends to it; otherwise one was cut off that did."""
    try:
        with open(part, "rb") as file:
            return not _lock(file)
    except OSError:  # it has just gone, or is somebody else's
        return False


def _lock(file: IO[bytes]) -> bool:
    """Whether nobody else has it; also True where files cannot be locked. Closing the file ends it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; some file systems
        pass
    return True
