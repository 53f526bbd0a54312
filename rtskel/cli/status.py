"""How a command ends: exit statuses, SIGTERM, and errors in options."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

from rtskel.errors import RtskelError

OK, FAILED, USAGE, INTERRUPTED, NO_READER = 0, 1, 2, 130, 141


class Incomplete(RtskelError):
    """The command did only part of its work, and the message says which: status 1 instead of 2."""


class Terminated(BaseException):
    """A signal asked the process to end. It unwinds as Ctrl-C does, so that files and streams are completed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


@contextlib.contextmanager
def until_terminated() -> Iterator[None]:
    """Within this context, SIGTERM and SIGHUP (the terminal was closed) raise `Terminated`."""

    def stop(number: int, _: object) -> NoReturn:
        raise Terminated(number)

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                before.setdefault(number, signal.signal(number, stop))
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Within this context, Ctrl-C ends the process as SIGTERM does, also while a library hangs: Python does not hear of
    it then.
    """
    try:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # not the main thread: the caller handles signals
        ours = False
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def options_in_range() -> Iterator[None]:
    """Turns the library's ValueError about a number into a user's error: the number came from an option."""
    try:
        yield
    except ValueError as error:
        raise RtskelError(str(error)) from None
