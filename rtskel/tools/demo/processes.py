"""The demo's server, in a process of its own, and its replay, in a thread of its own."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from typing import Self

from rtskel.closing import Closing
from rtskel.errors import RtskelError
from rtskel.formats import Recording
from rtskel.tools.replay import Item, Publishers, ReplayConfig, replay

START_S = 120.0
"""How long the server may take to start: opening a plan compiles its kernels."""


class ServerProcess(Closing):
    """A server process on ports of the system's choice."""

    def __init__(self, lookaheads: tuple[int, ...], engine: str | None) -> None:
        # -P: the installed package, even if the current folder is a source tree of rtskel.
        command = [sys.executable, "-P", "-m", "rtskel.cli", "serve", "--json"]
        command += ["--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*"]
        command += ["--lookahead", ",".join(map(str, lookaheads))]
        command += [] if engine is None else ["--engine", engine]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - an unread pipe would fill up and block the server
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)

    def ready(self) -> dict[str, str]:
        """Its `--json` line, once it serves.

        Raises:
            RtskelError: it does not start; with the server's own message.
        """
        out = self._process.stdout
        assert out is not None
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: lines.put(out.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=START_S)
        except queue.Empty:
            raise RtskelError(f"the server did not start within {START_S:g} s") from None
        if not line:
            self._process.wait()
            self.check()
        said: dict[str, str] = json.loads(line)
        return said

    def check(self) -> None:
        """Raise the error that stopped it, if it stopped."""
        if self._process.poll() is not None:
            self._log.seek(0)
            said = self._log.read().strip().splitlines() or ["without a message"]
            raise RtskelError(f"the server stopped: {said[-1].removeprefix('rtskel: error: ')}")

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()  # SIGTERM: it completes all streams first
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()


class ReplayThread:
    """Replays in a thread of its own, so that receiving and drawing never delay it."""

    def __init__(self, recordings: list[Recording], streams: list[str], endpoint: str, config: ReplayConfig) -> None:
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._arguments = recordings, Publishers(recordings, streams, endpoint, config), config
        self._thread = threading.Thread(target=self._run, name="replay")

    def _run(self) -> None:
        try:
            replay(*self._arguments, wait_s=START_S, progress=self._go_on)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error

    def _go_on(self, _: Item) -> None:
        if self._stop.is_set():
            raise _Stopped

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class _Stopped(Exception):
    pass
