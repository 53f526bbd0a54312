"""Processes that do one task after the other; one that dies loses the task that it had, and no other."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Generic, Protocol, TypeVar

from rtskel.errors import RtskelError

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
_Task = TypeVar("_Task", contravariant=True)
_Outcome = TypeVar("_Outcome", covariant=True)


class Work(Protocol[_Task, _Outcome]):
    """What is done with tasks. It can be pickled, as can tasks and outcomes."""

    def opened(self) -> AbstractContextManager[Callable[[_Task], _Outcome]]:
        """What does one, with all open that it needs. A `RtskelError` from here ends the whole run."""

    def died(self, task: _Task, status: int | None) -> _Outcome:
        """The outcome of a task whose process ended with that exit status."""


SPAWN = multiprocessing.get_context("spawn")


class _Worker(Generic[Task, Outcome]):
    """A process that works on one task at a time."""

    def __init__(self, work: Work[Task, Outcome]) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_do, args=(work, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None

    def send(self, task: Task | None) -> None:
        """Give it a task, or None to end it."""
        self.task = task
        self.connection.send(task)

    def end(self) -> None:
        """Stop it, whatever it does."""
        self.process.terminate()
        self.process.join()
        self.connection.close()


def _do(work: Work[Task, Outcome], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    try:
        with work.opened() as process:
            connection.send(None)
            while (task := connection.recv()) is not None:
                connection.send(process(task))
    except RtskelError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError):  # the parent is gone
        pass


def outcomes(work: Work[Task, Outcome], tasks: Iterable[Task], count: int, threads: int = 1) -> Iterator[Outcome]:
    """Outcomes of tasks in the order in which they come, from that many processes; 1: this one; 0: nothing is done.

    Args:
        threads: tasks that this process does at once, where it is the only one.

    Raises:
        RtskelError: the work cannot be opened, or a process died before its first task.
    """
    if count > 1:
        yield from _in_processes(work, tasks, count)
    elif count == 1:
        with work.opened() as process:
            if threads > 1:
                yield from _in_threads(process, tasks, threads)
                return
            for task in tasks:
                yield process(task)


def _in_threads(process: Callable[[Task], Outcome], tasks: Iterable[Task], count: int) -> Iterator[Outcome]:
    """Outcomes from that many threads; as many tasks again wait for one."""
    left = iter(tasks)
    with ThreadPoolExecutor(count) as pool:
        doing = {pool.submit(process, task) for task in islice(left, 2 * count)}
        try:
            while doing:
                done, doing = futures.wait(doing, return_when=futures.FIRST_COMPLETED)
                doing |= {pool.submit(process, task) for task in islice(left, len(done))}
                for each in done:
                    yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _in_processes(work: Work[Task, Outcome], tasks: Iterable[Task], count: int) -> Iterator[Outcome]:
    left = iter(tasks)
    workers = {worker.connection: worker for worker in (_Worker(work) for _ in range(count))}
    try:
        while workers:
            for ready in wait(list(workers)):
                worker = workers[ready]  # type: ignore[index]
                try:
                    said = worker.connection.recv()
                except EOFError:
                    said = _death(work, worker)
                    del workers[worker.connection]
                    worker.end()
                    worker = _Worker(work)  # says that it is ready, and takes the next task
                    workers[worker.connection] = worker
                    yield said
                    continue
                if isinstance(said, RtskelError):
                    raise said
                if (task := next(left, None)) is None:
                    worker.send(None)
                    del workers[worker.connection]
                    worker.process.join()
                    worker.connection.close()
                else:
                    worker.send(task)
                if said is not None:
                    yield said
    finally:
        for worker in workers.values():
            worker.end()


def _death(work: Work[Task, Outcome], worker: _Worker[Task, Outcome]) -> Outcome:
    """The outcome of a task whose worker has died."""
    worker.process.join()
    status = worker.process.exitcode
    if worker.task is None:
        raise RtskelError(f"a worker process ended with status {status} before its first task")
    return work.died(worker.task, status)
