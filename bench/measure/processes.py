"""Processes of their own for opponents and for a server."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from measure.engines import opened
from measure.report import keep_profile
from rtskel.serve import ServeConfig, Server, run_server

SPAWN = multiprocessing.get_context("spawn")


def apart(function: Callable[..., None], *given: Any) -> Any:
    """Runs a function in its own process; returns what it sends through the connection that is its last argument."""
    with started(function, *given) as (_, connection):
        try:
            return connection.recv()
        except EOFError:
            raise SystemExit(f"{function.__name__} did not finish: see its message above") from None


@contextmanager
def started(function: Callable[..., None], *given: Any) -> Iterator[tuple[Any, Connection]]:
    """A process and our end of the connection that is its function's last argument; joined at the end."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=function, args=(*given, there))
    process.start()
    there.close()
    try:
        yield process, here
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()


@dataclass
class ServerProcess:
    """A running server.

    Attributes:
        raw, refined: its endpoints.
        stamps: after its end, every time that it has read from its clock, in ns; empty unless asked for.
    """

    pid: int
    raw: str
    refined: str
    stamps: NDArray[np.int64]

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time so far of the whole process, and of its main thread (the loop, without ZeroMQ's I/O thread)."""
        tasks = Path(f"/proc/{self.pid}/task")
        used = {task.name: int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks.iterdir()}
        return {"process": sum(used.values()), "loop": used[str(self.pid)]}

    @contextmanager
    def profiled(self, name: str | None) -> Iterator[None]:
        """Meanwhile, sample the server with py-spy and keep the profile as bench/results/NAME.txt."""
        if name is None:
            yield
            return
        if (py_spy := shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")) is None:
            raise SystemExit("--profile needs py-spy: pip install py-spy")
        command = [py_spy, "record", "--native", "-r", "250", "-d", "3600", "-f", "raw", "-o", "/dev/stdout"]
        command += ["--pid", str(self.pid)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(process.stdout,))
        reader.start()
        try:
            yield
        finally:
            process.send_signal(2)
            reader.join()
            process.wait()
            keep_profile(name, _profile(lines))


def _profile(lines: Sequence[str]) -> str:
    """Folded stacks as a table: share of the samples in each function alone, and with all that it calls."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.strip().rpartition(" ")
        if count.isdigit():
            frames = [re.sub(r":\d+\)", ")", re.sub(r"^0x[0-9a-f]+ ", "? ", frame)) for frame in stack.split(";")]
            own[frames[-1]] += int(count)
            within.update(dict.fromkeys(frames, int(count)))
    total = max(1, own.total())
    rows = [f"{100 * own[f] / total:6.1f} {100 * n / total:6.1f}  {f}" for f, n in within.most_common(60)]
    return "\n".join([f"{total} samples; % in the function itself and in all that it calls", "", *rows, ""])


@contextmanager
def serving(engine: str, config: ServeConfig, *, max_batch: int = 64, record: bool = False) -> Iterator[ServerProcess]:
    """A server in its own process, on ports that the system chooses; ended by SIGTERM.

    Args:
        engine: "null", "bundled" or a path.
        config: of the server; its endpoints are replaced.
        record: keep every time that the server reads from its clock.
    """
    config = replace(config, raw="tcp://127.0.0.1:*", refined="tcp://127.0.0.1:*")
    with started(_serve, engine, config, max_batch, record) as (process, connection):
        try:
            raw, refined = connection.recv()
        except EOFError:
            raise SystemExit("the server did not start: see its message above") from None
        found = ServerProcess(process.pid, raw, refined, np.zeros(0, np.int64))
        yield found
        process.terminate()
        found.stamps = np.frombuffer(connection.recv_bytes(), np.int64)


def _serve(engine: str, config: ServeConfig, max_batch: int, record: bool, control: Connection) -> None:
    stamps = array("q")
    keep, now = stamps.append, time.monotonic_ns

    def recording() -> int:
        stamp = now()
        keep(stamp)
        return stamp

    def ready(server: Server) -> None:
        control.send((server.raw_endpoint, server.refined_endpoint))

    with opened(engine, max_batch) as engine_:
        run_server(config, engine_, ready, clock=recording if record else now)
    control.send_bytes(stamps.tobytes())
