"""The manifest of an output folder: what was asked for, then one line for each result that is done or that failed.

One JSON object a line. It makes a run resumable: the same call again does what is not done yet, and a call for
something else is refused.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rtskel.closing import Closing
from rtskel.errors import RtskelError

MANIFEST = "manifest.jsonl"


class Manifest(Closing):
    """The manifest of a folder, which is made if need be; locked while it is open; a context manager.

    Args:
        folder: for the results.
        identity: everything that the results depend on, as JSON.

    Attributes:
        done: what was recorded of each result that is done, by its name.

    Raises:
        RtskelError: another run has it open, it is of another job, or it cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._path = folder / MANIFEST
        self.done: dict[str, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self._path.open("a+b")
        except OSError as error:
            raise RtskelError(f"{self._path}: cannot be written ({error.strerror or error})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load(json.loads(json.dumps(identity)))
        except BlockingIOError:
            self._file.close()
            raise RtskelError(f"{folder}: another run is writing there") from None
        except BaseException:
            self._file.close()
            raise

    def _load(self, identity: dict[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        if lines[-1]:  # a line cut short by a kill
            self._file.truncate(sum(len(line) + 1 for line in lines[:-1]))
        entries = [self._parsed(number, line) for number, line in enumerate(lines[:-1], 1)]
        if not entries:
            self._write({"job": identity})
            return
        before = entries[0].get("job")
        if not isinstance(before, dict):
            raise RtskelError(f"{self._path}: not a manifest of rtskel")
        if before != identity and all(entry["status"] != "done" for entry in entries[1:]):
            self._file.truncate(0)  # nothing was made by the other job
            self._write({"job": identity})
            return
        for key in sorted(before.keys() | identity.keys()):
            if before.get(key) != identity.get(key):
                raise RtskelError(
                    f"{self._path}: of another job ({key} {before.get(key)!r}, now {identity.get(key)!r}): "
                    "choose another folder, or delete this one"
                )
        self.done = {entry["result"]: entry for entry in entries[1:] if entry["status"] == "done"}

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError
        except ValueError:
            raise RtskelError(f"{self._path}: line {number} is not a manifest's") from None
        return entry

    def add(self, result: str, error: str | None, **what: Any) -> None:
        """Record that a result is done, or why it failed.

        Args:
            result: its name.
            error: why it failed; None: it is done.
            what: more to record.
        """
        entry: dict[str, Any] = {"result": result, "status": "done" if error is None else "failed"}
        entry |= {} if error is None else {"error": error}
        self._write(entry | what)

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise RtskelError(f"{self._path}: cannot be written ({error.strerror or error})") from None

    def close(self) -> None:
        """Lets go of the folder."""
        self._file.close()
