"""Processes of their own for opponents and for a server."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from measure.engines import opened
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


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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


@dataclass
class Service:
    """What `rtskel serve` has started.

    Attributes:
        raw, refined: where clients find it.
        servers: each server's own endpoints; several with --shards.
        processes: those of the servers, and of what looks after them.
    """

    raw: str
    refined: str
    servers: list[tuple[str, str]]
    processes: list[int]

    def cpu_seconds(self) -> float:
        """CPU time so far of all processes, all threads."""
        tasks = (task for pid in self.processes for task in Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def command_line(*options: object) -> Iterator[Service]:
    """`rtskel serve` with these options, on ports that the system chooses; ended by SIGTERM."""
    command = [sys.executable, "-P", "-m", "rtskel", "serve", "--json"]
    command += ["--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        where = json.loads(process.stdout.readline() or "null")
        if where is None:
            raise SystemExit("the server did not start: see its message above")
        shards = where.get("shards", [])
        own = [(shard["raw"], shard["refined"]) for shard in shards] or [(where["raw"], where["refined"])]
        yield Service(where["raw"], where["refined"], own, [process.pid, *(shard["pid"] for shard in shards)])
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


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
