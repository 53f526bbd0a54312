"""Processes of their own: for opponents, and `rtskel` as users start it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

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


def rtskel(*words: object) -> list[str]:
    """A command line of rtskel."""
    return [sys.executable, "-P", "-m", "rtskel", *map(str, words)]


@contextmanager
def running(*words: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A command of rtskel that runs until SIGTERM, which it gets at the end: the first line it prints; its process."""
    process = subprocess.Popen(rtskel(*words), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"rtskel {words[0]} did not start: see its message above")
        yield line, process
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


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

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time so far of all threads of all processes, and of main threads (loops, without ZeroMQ's threads)."""
        tasks = [task for pid in self.processes for task in Path(f"/proc/{pid}/task").iterdir()]
        used = {int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks}
        return {"process": sum(used.values()), "loop": sum(used[pid] for pid in self.processes)}


@contextmanager
def serving(engine: str, lookaheads: Sequence[int], streams: int, *options: object) -> Iterator[Service]:
    """`rtskel serve` on ports that the system chooses.

    Args:
        engine: "null", "bundled" or a path.
        streams: how many may be open at once.
    """
    with running(
        "serve", "--json", "--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*",
        "--lookahead", ",".join(map(str, lookaheads)), "--max-streams", streams,
        *(() if engine == "bundled" else ("--engine", engine)), *options,
    ) as (line, process):  # fmt: skip
        where = json.loads(line)
        shards = where.get("shards", [])
        own = [(shard["raw"], shard["refined"]) for shard in shards] or [(where["raw"], where["refined"])]
        yield Service(where["raw"], where["refined"], own, [process.pid, *(shard["pid"] for shard in shards)])
