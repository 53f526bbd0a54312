"""What the benches share: a server process, figures, and where they were measured."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel import Engine, open_engine
from rtskel.cli import positive
from rtskel.refine import RingConfig
from rtskel.serve import ServeConfig, Server, run_server
from rtskel.skeleton import UPPER_BODY_50

RESULTS = Path(__file__).resolve().parent / "results"
WEIGHTS = RESULTS.parents[1] / "engines" / "skeletor-realtime.safetensors"
"""The released weights. Their graph, skeletor-realtime.onnx, is beside them; where rtskel is installed, it is alone."""

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every bench has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--save", metavar="NAME", help="also keep the JSON as bench/results/NAME.json")
    return parser


def numbers(text: str) -> list[int]:
    """Numbers with commas between them, as an option says them; none is negative."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text}: 0 or more expected")
    return values


def counts(text: str) -> list[int]:
    """Likewise, but 1 or more each."""
    return [positive(part) for part in text.split(",")]


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """Some of these names with commas between them, as an option says them."""

    def parsed(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r} (known: {', '.join(known)})")
        return found

    return parsed


def machine() -> dict[str, Any]:
    """Where and with what the figures were measured."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    versions = {}
    for package in ("rtskel", "numpy", "pyzmq", "msgpack", "openvino", "torch", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def report(result: dict[str, Any], lines: Sequence[str], options: argparse.Namespace) -> None:
    """Print a result as a table's lines or, if asked to, as JSON; keep it if asked to."""
    result = {**result, "machine": machine()}
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if options.json else "\n".join(lines))


def unavailable(error: BaseException) -> dict[str, str]:
    """What a result holds of what does not run here: why not, in one line. That is a result too, not the end."""
    return {"unavailable": " ".join(str(error).split())[:300] or type(error).__name__}


def keep_profile(name: str, text: str) -> None:
    """Keep a profile as bench/results/NAME.txt, below the command and the commit that it is of."""
    RESULTS.mkdir(exist_ok=True)
    said = f"python bench/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}\n{_commit()}"
    (RESULTS / f"{name}.txt").write_text(said + text)


def percentiles(ms: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    """p50, p90, p99, p99.9 and the worst of a sample."""
    values = np.asarray(ms, np.float64)
    found = {f"p{p:g}": float(np.percentile(values, p)) for p in PERCENTILES}
    return {**found, "max": float(values.max()), "n": len(values)}


def share_the_last_core() -> None:
    """For loads: they stay on one core, so that they do not push what is measured off the others."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])


SPAWN = multiprocessing.get_context("spawn")
"""Every opponent has a process of its own."""


def apart(function: Callable[..., None], *given: Any) -> Any:
    """What a function sends through the connection that is its last argument, run in a process of its own."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=function, args=(*given, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} did not finish: see its message above") from None
    finally:
        process.join()


def opened(engine: str, max_batch: int = 64) -> Engine:
    """An engine by what the benches call it: "null", "bundled" or a path."""
    return open_engine(None if engine == "bundled" else engine, max_batch=max_batch)


def ring_config(window: int, lookaheads: Sequence[int], radius: int) -> RingConfig:
    """The ring of a server of one stream: it knows the positions of a window that the server asks an engine for."""
    return RingConfig(1, window, tuple(lookaheads), radius, ahead=1, min_confidence=0.0, skeleton=UPPER_BODY_50)


def flops(model: Any, positions: NDArray[np.int64] | None = None) -> int:
    """Floating-point operations of one window in a `Skeletor`: of the products that these positions need, or all."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, model.config.window, model.config.joints, 3)
    asked = None if positions is None else torch.from_numpy(positions)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(x, torch.zeros(x.shape[:3], dtype=torch.bool), asked)
    return int(counter.get_total_flops())


def bare_engine(engine: str, batches: Sequence[int], lookaheads: Sequence[int], radius: int) -> dict[int, float]:
    """Windows a second that the engine alone does at each batch size, asked for what a server asks it for."""
    rng = np.random.default_rng(0)
    rates = {}
    with opened(engine, max(batches)) as engine_:
        positions = ring_config(engine_.window, lookaheads, radius).positions
        x = rng.normal(size=(max(batches), engine_.window, engine_.joints, 3)).astype(np.float32)
        missing = np.zeros(x.shape[:3], np.bool_)
        for batch in batches:
            times: list[float] = []
            until = time.perf_counter() + 1.0
            while time.perf_counter() < until or len(times) < 8:
                start = time.perf_counter()
                engine_.run(x[:batch], missing[:batch], positions)
                times.append(time.perf_counter() - start)
            rates[batch] = batch / float(np.median(times[len(times) // 4 :]))
    return rates


@dataclass
class ServerProcess:
    """A running server.

    Attributes:
        pid: its process.
        raw, refined: its endpoints.
        stamps: after it has ended, every time it has read its clock, in ns; empty unless asked for.
    """

    pid: int
    raw: str
    refined: str
    stamps: NDArray[np.int64]

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time used so far by the whole process and by its main thread alone (the loop, without ZeroMQ's I/O
        thread).
        """
        return {"process": _cpu(f"/proc/{self.pid}"), "loop": _cpu(f"/proc/{self.pid}/task/{self.pid}")}

    @contextmanager
    def profiled(self, name: str | None) -> Iterator[None]:
        """Meanwhile, sample where it is (py-spy must be installed) and keep that as bench/results/NAME.txt."""
        if name is None:
            yield
            return
        if (py_spy := shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")) is None:
            raise SystemExit("--profile needs py-spy: pip install py-spy")
        command = [py_spy, "record", "--native", "-r", "250", "-d", "3600", "-f", "raw", "-o", "/dev/stdout"]
        process = subprocess.Popen(
            [*command, "--pid", str(self.pid)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
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


def _commit() -> str:
    """A line that names the commit, where there is one."""
    where = ["git", "-C", str(RESULTS.parent), "log", "-1", "--format=at commit %h"]
    return subprocess.run(where, capture_output=True, text=True, check=False).stdout if shutil.which("git") else ""


def _cpu(path: str) -> float:
    """Seconds, of a task by the scheduler's own nanoseconds, of a process by summing its tasks."""
    if Path(path, "task").is_dir() and "task" not in Path(path).parts:
        return sum(_cpu(str(task)) for task in Path(path, "task").iterdir())
    return int(Path(path, "schedstat").read_text().split()[0]) / 1e9


def _profile(lines: Sequence[str]) -> str:
    """Where samples lay, as a table: of folded stacks, which functions they were in at the top, and anywhere."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.strip().rpartition(" ")
        if not count.isdigit():
            continue
        frames = [re.sub(r":\d+\)", ")", frame) for frame in stack.split(";")]
        frames = [re.sub(r"^0x[0-9a-f]+ ", "? ", frame) for frame in frames]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            within[frame] += int(count)
    total = max(1, own.total())
    table = [f"{total} samples; share of them in the function itself and in all that it calls, %", ""]
    table += [f"{100 * own[f] / total:6.1f} {100 * n / total:6.1f}  {f}" for f, n in within.most_common(60)]
    return "\n".join(table) + "\n"


@contextmanager
def serving(engine: str, config: ServeConfig, *, max_batch: int = 64, record: bool = False) -> Iterator[ServerProcess]:
    """A server in its own process, on ports that the system chooses; ended by SIGTERM.

    Args:
        engine: "null", "bundled" or a path.
        config: what to do; its endpoints do not matter.
        max_batch: of the engine.
        record: keep every time that the server reads.
    """
    ours, theirs = SPAWN.Pipe()
    config = replace(config, raw="tcp://127.0.0.1:*", refined="tcp://127.0.0.1:*")
    process = SPAWN.Process(target=_serve, args=(engine, config, max_batch, record, theirs))
    process.start()
    theirs.close()
    try:
        try:
            raw, refined = ours.recv()
        except EOFError:
            raise SystemExit("the server did not start: see its message above") from None
        assert process.pid is not None
        found = ServerProcess(process.pid, raw, refined, np.zeros(0, np.int64))
        yield found
        process.terminate()
        found.stamps = np.frombuffer(ours.recv_bytes(), np.int64)
    finally:
        process.terminate()
        process.join(60)


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


@contextmanager
def server(*options: str) -> Iterator[ServerProcess]:
    """`rtskel serve` with these options, on ports that the system chooses; ended by SIGTERM."""
    command = [sys.executable, "-P", "-m", "rtskel.cli", "serve", "--json"]
    command += ["--raw", "tcp://127.0.0.1:*", "--refined", "tcp://127.0.0.1:*"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            raise SystemExit("rtskel serve did not start: see its message above")
        endpoints = json.loads(ready)
        yield ServerProcess(process.pid, endpoints["raw"], endpoints["refined"], np.zeros(0, np.int64))
    finally:
        process.terminate()
        process.communicate(timeout=60)
