"""Many recordings, one result each: refined, lifted or converted, by several processes, resumable.

`find` lists the recordings in files, folders and patterns, with the name of each one's result. `run` makes the results
in a folder, which also holds a manifest, one JSON object a line: what was asked for, then one line for each recording
that is done or that failed, with the reason.

What must hold:

- The results are the same bytes for any number of workers, with Ray or without: each worker has an engine with the same
  number of threads.
- A result is complete under its name or absent. A run that was killed, even by SIGKILL, is continued by the same call:
  what is done is not done again, what failed or was interrupted is.
- A recording that cannot be read, or that kills its worker, fails alone.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rtskel import __version__
from rtskel.engine import describe, located, open_engine
from rtskel.errors import RtskelError
from rtskel.formats import SUFFIXES, Recording, check_writable, read, write
from rtskel.manifest import Manifest
from rtskel.recordings import lift_recording, refine_in_bulk, refine_recording
from rtskel.refine import BulkRefiner, RefinerBank
from rtskel.refine.bulk import STREAMS
from rtskel.workers import outcomes

GPU_WINDOWS = 4096
"""Windows of a batch on a GPU, from all recordings that are refined at once; they take some 2 GB of its memory."""

Process = Callable[[Recording], Recording | None]
"""A recording to its result; None leaves it out."""


class Task(Protocol):
    """What is done with each recording. A frozen dataclass that can be pickled."""

    def opened(self) -> AbstractContextManager[Process]:
        """What does it, with the engine open if it needs one."""

    def side_by_side(self) -> int:
        """Recordings that a worker takes at once, each in a thread."""

    def resources(self) -> dict[str, float]:
        """CPUs and GPUs of a worker, as Ray names them: num_cpus, num_gpus."""

    def identity(self) -> dict[str, Any]:
        """Everything that the results depend on, as JSON."""


@dataclass(frozen=True)
class Refine:
    """Refinement; arguments as in `rtskel.open_engine` and `rtskel.refine`. Threads, on a CPU: 1 unless given."""

    engine: str | None = None
    precision: str | None = None
    threads: int | None = None
    device: str | None = None
    lookahead: int | None = None
    radius: int = 2
    min_confidence: float = 0.0

    @contextmanager
    def opened(self) -> Iterator[Process]:
        """See `Task`.

        Raises:
            RtskelError: the engine cannot be opened, or an option is out of range.
        """
        threads = self.threads or (None if self._on_gpu() or self._kind() == "null" else 1)
        how: dict[str, Any] = {"precision": self.precision, "threads": threads, "device": self.device}
        if self._on_gpu():
            how |= {"max_batch": GPU_WINDOWS, "warm_up": False}
        with open_engine(self.engine, **how) as engine:
            options: dict[str, Any] = {
                "lookahead": self.lookahead,
                "radius": self.radius,
                "min_confidence": self.min_confidence,
            }
            try:
                together = BulkRefiner(engine, **options) if self._on_gpu() else RefinerBank(engine, **options)
            except ValueError as error:
                raise RtskelError(str(error)) from None
            if isinstance(together, BulkRefiner):
                with together:
                    yield lambda recording: refine_in_bulk(recording, together)
            else:
                yield lambda recording: refine_recording(recording, engine=engine, **options)

    def side_by_side(self) -> int:
        """See `Task`: as many as a GPU refines at once."""
        return STREAMS if self._on_gpu() else 1

    def identity(self) -> dict[str, Any]:
        """See `Task`; the engine by the hash of its weights, not by its path."""
        model = "null" if self.engine == "null" else describe(located(self.engine)).model_id
        return {"task": "refine", **asdict(self), "engine": model}

    def resources(self) -> dict[str, float]:
        """See `Task`: a GPU, or the engine's threads."""
        return {"num_gpus": 1.0} if self._on_gpu() else {"num_cpus": float(self.threads or 1)}

    def _on_gpu(self) -> bool:
        return self.device is not None or self._kind() == "plan"

    def _kind(self) -> str:
        return "null" if self.engine == "null" else describe(located(self.engine)).kind


@dataclass(frozen=True)
class Lift:
    """Lifting from 2D; arguments as in `rtskel.recordings.lift_recording`."""

    lookahead: int | None = None
    min_confidence: float = 0.0

    def opened(self) -> AbstractContextManager[Process]:
        """See `Task`."""
        options = asdict(self)
        return nullcontext(lambda recording: lift_recording(recording, **options))

    def identity(self) -> dict[str, Any]:
        """See `Task`."""
        return {"task": "lift", **asdict(self)}

    def side_by_side(self) -> int:
        """See `Task`."""
        return 1

    def resources(self) -> dict[str, float]:
        """See `Task`."""
        return {"num_cpus": 1.0}


@dataclass(frozen=True)
class Convert:
    """Another format; of each file only the sequences with these names, None: all."""

    names: tuple[str, ...] | None = None

    def opened(self) -> AbstractContextManager[Process]:
        """See `Task`."""
        return nullcontext(lambda recording: recording if self.names is None or recording.name in self.names else None)

    def identity(self) -> dict[str, Any]:
        """See `Task`."""
        return {"task": "convert", "names": None if self.names is None else list(self.names)}

    def side_by_side(self) -> int:
        """See `Task`."""
        return 1

    def resources(self) -> dict[str, float]:
        """See `Task`."""
        return {"num_cpus": 1.0}


# What is there


@dataclass(frozen=True)
class Item:
    """A recording, a file or a folder, and its result's path in the output folder."""

    source: Path
    result: Path

    def stamp(self) -> list[int]:
        """Changes when the recording does: files, their size, newest change in ns; empty if unreadable."""
        try:
            files = list(self.source.iterdir()) if self.source.is_dir() else [self.source]
            stats = [path.stat() for path in files]
        except OSError:
            return []
        return [len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]


def find(paths: Iterable[str | Path], out: str | Path, suffix: str = ".npz") -> list[Item]:
    """The recordings in files, folders and patterns (`*`, `**`), in a fixed order.

    A folder with OpenPose's `*_keypoints.json` is one recording. Of other folders, every file below with a suffix that
    `rtskel.formats.read` knows is one; hidden files and the output folder are left out. The results of a folder's files
    keep their place below it; if several folders are given, below the folder's name.

    Args:
        paths: what to process.
        out: the output folder.
        suffix: format of the results.

    Raises:
        RtskelError: a path does not exist or holds no recording, or two results would have one name.
    """
    given = [Path(path) for path in paths]
    several = len(given) > 1
    out, found = Path(out).resolve(), dict[Path, Item]()
    for path in given:
        for source, name in _sources(path, out, several):
            item = Item(source, name.with_name((name.name if source.is_dir() else name.stem) + suffix))
            other = found.setdefault(item.result, item)
            if other.source.resolve() != source.resolve():
                raise RtskelError(
                    f"{source} and {other.source} would both become {item.result}: rename one, or give their folder"
                )
    return list(found.values())


def _sources(path: Path, out: Path, several: bool) -> list[tuple[Path, Path]]:
    """Recordings of one path, and the name of each below the output folder."""
    if not path.exists():
        pattern = str(path)
        if not glob.has_magic(pattern):
            raise RtskelError(f"{path}: No such file or directory")
        root = Path(*_until(path.parts, glob.has_magic))
        matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        found = [match for match in matches if not match.is_dir() or _is_clip(match) for match in _below(match, out)]
        return _named(path, found, root, None)
    if path.is_dir() and not _is_clip(path):
        return _named(path, list(_below(path, out)), path, path.resolve().name if several else None)
    return [(path, Path(path.resolve().name))]


def _named(path: Path, sources: list[Path], root: Path, prefix: str | None) -> list[tuple[Path, Path]]:
    if not sources:
        raise RtskelError(f"{path}: no recordings ({', '.join(SUFFIXES)}, folders of OpenPose's)")
    return [(source, Path(prefix or "", source.relative_to(root))) for source in sources]


def _until(parts: Iterable[str], ends: Callable[[str], bool]) -> Iterator[str]:
    for part in parts:
        if ends(part):
            return
        yield part


def _below(path: Path, out: Path) -> Iterator[Path]:
    """The recordings at and below a path, sorted."""
    if path.name.startswith(".") or path.resolve() == out:
        return
    if not path.is_dir():
        if path.suffix.lower() in SUFFIXES:
            yield path
    elif _is_clip(path):
        yield path
    else:
        for child in sorted(path.iterdir()):
            yield from _below(child, out)


def _is_clip(path: Path) -> bool:
    """Whether a folder is one recording of OpenPose's."""
    return path.is_dir() and next(path.glob("*_keypoints.json"), None) is not None


# What is done


@dataclass(frozen=True)
class Job:
    """What to make of recordings.

    Attributes:
        task: what is done with each.
        out: the output folder.
        reading: arguments of `rtskel.formats.read`.
    """

    task: Task
    out: Path
    reading: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Everything that the results depend on besides the recordings, as JSON."""
        reading = {key: value for key, value in self.reading.items() if value not in (None, False)}
        return {"rtskel": __version__, **self.task.identity(), "reading": reading}


@dataclass(frozen=True)
class Outcome:
    """What became of a recording: its frames, or the reason why it failed."""

    item: Item
    frames: int
    seconds: float
    error: str | None


def _outcome(job: Job, process: Process, item: Item) -> Outcome:
    start, frames, error = time.monotonic(), 0, None
    try:
        results = [process(recording) for recording in read(item.source, **job.reading)]
        kept = [result for result in results if result is not None]
        frames = sum(result.frames for result in kept)
        path = job.out / item.result
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, kept)
    except (RtskelError, OSError) as failure:
        error = str(failure)
    except Exception as failure:  # whatever a file does to a reader, the others go on
        error = f"{type(failure).__name__}: {failure}"
    return Outcome(item, frames, time.monotonic() - start, None if error is None else " ".join(error.split()))


def _is_done(manifest: Manifest, job: Job, item: Item) -> bool:
    """Whether the result is there, made from the recording as it is now."""
    entry = manifest.done.get(str(item.result))
    return entry is not None and (job.out / item.result).is_file() and entry["stamp"] == item.stamp()


def _record(manifest: Manifest, outcome: Outcome, stamp: list[int]) -> None:
    """Record an outcome; `stamp` is of before the recording was read."""
    what = {"frames": outcome.frames} if outcome.error is None else {}
    what |= {"seconds": round(outcome.seconds, 3), "stamp": stamp}  # type: ignore[dict-item]
    manifest.add(str(outcome.item.result), outcome.error, source=str(outcome.item.source), **what)


@dataclass(frozen=True)
class Summary:
    """How many recordings were done now and before, and what failed."""

    done: int
    before: int
    failed: list[Outcome]


def run(
    job: Job,
    items: Iterable[Item],
    *,
    workers: int = 1,
    ray: str | None = None,
    progress: Callable[[Outcome | None], None] | None = None,
) -> Summary:
    """Make the results that are not there yet.

    Args:
        workers: processes, each with an engine of its own; 1: this process.
        ray: address of a Ray cluster whose actors are the workers, "local" for one of this machine. Every machine must
            reach the recordings and the output folder under the same paths.
        progress: called with each outcome, and with None for each recording that was done before.

    Raises:
        RtskelError: the manifest is of another job or cannot be written, an unknown suffix, or a task cannot be opened.
    """
    tell, items = progress or (lambda outcome: None), list(items)
    done, before, failed = 0, 0, list[Outcome]()
    with Manifest(job.out, job.identity()) as manifest:
        for item in items[:1]:
            check_writable(job.out / item.result.name)  # an unknown suffix, before anything is read
        todo = []
        for item in items:
            if _is_done(manifest, job, item):
                before += 1
                tell(None)
            else:
                _remove_parts(job.out / item.result)
                todo.append(item)
        stamps = {item: item.stamp() for item in todo}
        count = min(workers, len(todo))
        if ray and todo:
            made = _on_ray(job, todo, count, ray)
        else:
            made = outcomes(_Archiving(job), todo, count, job.task.side_by_side())
        for outcome in made:
            _record(manifest, outcome, stamps[outcome.item])
            if outcome.error is None:
                done += 1
            else:
                failed.append(outcome)
            tell(outcome)
    return Summary(done, before, failed)


def _remove_parts(path: Path) -> None:
    """Remove what a killed process has left of a result."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if re.fullmatch(r"\d+", part.name.removeprefix(f".{path.name}.").removesuffix(".part")):
            part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Archiving:
    """A job, as workers do it."""

    job: Job

    @contextmanager
    def opened(self) -> Iterator[Callable[[Item], Outcome]]:
        """See `rtskel.workers.Work`."""
        with self.job.task.opened() as process:
            yield lambda item: _outcome(self.job, process, item)

    def died(self, item: Item, status: int | None) -> Outcome:
        """See `rtskel.workers.Work`."""
        return Outcome(item, 0, 0.0, f"the worker process ended with status {status} (out of memory, or a crash)")


class _Actor:
    """A worker of Ray Data: rows of item numbers to rows of outcomes."""

    def __init__(self, job: Job, todo: list[Item]) -> None:
        self._job, self._todo, self._opened = job, todo, job.task.opened()
        self._process = self._opened.__enter__()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        outcomes = [_outcome(self._job, self._process, self._todo[int(number)]) for number in batch["number"]]
        rows: dict[str, list[Any]] = {name: [getattr(o, name) for o in outcomes] for name in ("frames", "seconds")}
        return {"number": [int(n) for n in batch["number"]], "error": [o.error or "" for o in outcomes], **rows}


def _on_ray(job: Job, todo: list[Item], count: int, address: str) -> Iterator[Outcome]:
    """Outcomes in the order in which they come, from actors of Ray Data; Ray starts an actor that dies again."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise RtskelError("--ray needs Ray Data, which is not installed: pip install 'rtskel[ray]'") from None
    with job.task.opened():  # what is wrong with the task is found here, not in an actor
        pass
    # Actors run elsewhere, in another folder.
    task = replace(job.task, engine=_absolute(job.task.engine)) if isinstance(job.task, Refine) else job.task
    there = Job(task, job.out.resolve(), job.reading)
    items = [Item(item.source.resolve(), item.result) for item in todo]
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # a plain one, where a node does not start in time
        raise RtskelError(f"--ray {address}: {' '.join(str(error).split())}") from None
    resources: dict[str, Any] = dict(job.task.resources())
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        # One block each: actors take one block at a time, and it is computed again if the actor dies.
        numbers = ray.data.from_items([{"number": n} for n in range(len(todo))], override_num_blocks=len(todo))
        rows = numbers.map_batches(
            _Actor,
            fn_constructor_args=(there, items),
            batch_size=1,
            concurrency=count,
            **resources,
        )
        for row in rows.iter_rows():
            yield Outcome(todo[row["number"]], row["frames"], row["seconds"], row["error"] or None)
    finally:
        ray.shutdown()


def _absolute(engine: str | None) -> str:
    path = located(engine)
    return "null" if path == "null" else str(Path(path).resolve())
