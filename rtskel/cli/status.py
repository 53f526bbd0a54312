"""How a command ends: exit statuses, SIGTERM, and errors in options."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn

from rtskel.errors import RtskelError

OK, FAILED, USAGE, INTERRUPTED, TERMINATED, NO_READER = 0, 1, 2, 130, 143, 141


class Terminated(BaseException):
    """SIGTERM came. It unwinds as Ctrl-C does, so that files and streams are completed."""


@contextlib.contextmanager
def until_terminated() -> Iterator[None]:
    """Within this context, SIGTERM raises `Terminated`."""

    def stop(*_: object) -> NoReturn:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def options_in_range() -> Iterator[None]:
    """Turns the library's ValueError about a number into a user's error: the number came from an option."""
    try:
        yield
    except ValueError as error:
        raise RtskelError(str(error)) from None
