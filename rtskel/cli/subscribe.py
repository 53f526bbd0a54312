"""`rtskel subscribe`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtskel.cli.options import Command, Parser, client_keys, duration, endpoint_option, frames_list, positive
from rtskel.cli.output import note
from rtskel.cli.status import OK, Incomplete, until_terminated
from rtskel.client import REFINED_ENDPOINT
from rtskel.errors import RtskelError

if TYPE_CHECKING:
    from rtskel.client import ServerBack, ServerGone, Subscriber
    from rtskel.client.reader import Given
    from rtskel.tools.capture import Capture
    from rtskel.tools.watch import JsonLines, LiveTable

PATIENCE_S = 10.0
"""How long --until-end waits for a server that is gone to come back."""

MORE = """\
Shows a live table; with --json, prints one JSON object a line for every pose, event and heartbeat. Everything published
after the first heartbeat is received. --save writes .npz, .csv or .jsonl, which hold everything, or .skels or .bvh,
which may take several files. Poses are collected in FILE.part as they come, and a crash leaves it: rtskel convert
FILE.part OUT reads it. One process saves to a FILE: another one is refused.

examples:
  rtskel subscribe
  rtskel subscribe --stream cam1 --lookahead 4 --json | jq 'select(.kind == "pose").xyz[4]'
  rtskel subscribe --save out.npz --until-end"""


def _options(parser: Parser) -> None:
    endpoint_option(parser, "--refined", REFINED_ENDPOINT, "where the server publishes refined poses")
    parser.add_argument("--stream", metavar="ID,...", help="only these streams (default: all)")
    parser.add_argument("--lookahead", metavar="N,...", type=frames_list, help="only these lookaheads (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--save", metavar="FILE", help="save all poses in this recording")
    parser.add_argument("--wait", type=duration, metavar="S", help="give up after S seconds without a server")
    parser.add_argument("--frames", type=positive, metavar="N", help="end after N poses")
    parser.add_argument(
        "--until-end", action="store_true", help="end once all streams have ended and no other began within 2 s"
    )


def _run(args: argparse.Namespace) -> int:
    from rtskel.client import Subscriber
    from rtskel.tools.collect import check_savable
    from rtskel.tools.watch import JsonLines, LiveTable

    if args.save == "":  # such as a variable of a script that is not set
        raise RtskelError("--save needs the name of a file")
    table = not args.json and importlib.util.find_spec("rich") is not None
    if not (table or args.json or args.save):
        raise RtskelError(
            "the live table of subscribe needs rich, which is not installed: pip install 'rtskel[serve]', or rich "
            "alone; --json and --save need neither"
        )
    if args.save and (lacks := check_savable(args.save)):
        note(lacks)
    with (
        contextlib.ExitStack() as stack,
        Subscriber(
            args.refined,
            streams=args.stream.split(",") if args.stream else None,
            lookahead=args.lookahead,
            heartbeats=True,
            everything=bool(args.json or args.save),  # the live table skips to the newest
            keys=client_keys(args),
            queue=100_000,  # a pause of this process loses nothing
        ) as subscriber,
    ):
        capture = stack.enter_context(_saving(args.save)) if args.save else None
        stack.enter_context(until_terminated())
        output: JsonLines | LiveTable | _Unseen
        output = JsonLines() if args.json else LiveTable(args.refined) if table else _Unseen()
        poses = _receive(args, subscriber, output, capture, stack)
    lost = sum(subscriber.lost.values())
    if lost:
        note(f"{lost} of {poses + lost} poses were lost on the way")
    return OK


@contextlib.contextmanager
def _saving(path: str) -> Iterator[Capture]:
    """A capture that is completed however the command ends."""
    from rtskel.tools.capture import Capture

    with Capture(path) as capture:
        if capture.part != f"{path}.part":
            note(f"{path}.part is left over from a capture that was cut off: rtskel convert {path}.part FILE")
        try:
            yield capture
        finally:
            try:
                note(capture.finish())
            except RtskelError as error:
                raise Incomplete(str(error)) from None


def _receive(
    args: argparse.Namespace,
    subscriber: Subscriber,
    output: JsonLines | LiveTable | _Unseen,
    capture: Capture | None,
    stack: contextlib.ExitStack,
) -> int:
    """Take messages until the command is done; returns how many poses arrived."""
    from rtskel.client import ServerBack, ServerGone
    from rtskel.tools.collect import Ends
    from rtskel.tools.watch import Display, LiveTable, console, in_words
    from rtskel.wire import RefinedPose

    shown = stack.enter_context(Display(console())) if isinstance(output, LiveTable) else None
    gone = _Gone()
    ends, poses, silence = Ends(), 0, _Silence(args.refined, args.wait, told=shown is not None and shown.live)
    while not (poses == args.frames or (args.until_end and ends.over(time.monotonic()))):
        try:
            message = subscriber.recv(timeout=0.1)
        except TimeoutError:
            message = None
        if subscriber.heartbeat is None:
            silence.check()
        if message is not None:
            arrived_ns = time.monotonic_ns()
            ends.add(message, arrived_ns / 1e9)
            if isinstance(message, RefinedPose):
                poses += 1
                if capture is not None:
                    capture.add(message)
            output.add(message, arrived_ns)
            if isinstance(message, ServerGone | ServerBack):
                if shown is None or not shown.live:
                    note(in_words(message))
                gone.add(message)
        if args.until_end and (where := gone.for_good()):
            if ends.open:
                raise Incomplete(f"the server at {where} is gone, and {ends.open} streams had not ended")
            break
        if capture is not None:
            try:
                capture.flush()
            except RtskelError as error:  # the disk is full
                raise Incomplete(str(error)) from None
        if shown is not None and isinstance(output, LiveTable):
            shown.update(output, lambda: output.lost(subscriber.lost))
    return poses


class _Unseen:
    """Shows nothing, where poses are only saved."""

    def add(self, message: Given, arrived_ns: int) -> None:
        """Take no notice of a message."""


class _Gone:
    """Servers that have stopped, and when that was known."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def add(self, change: ServerGone | ServerBack) -> None:
        from rtskel.client import ServerGone

        self._since.pop(change.endpoint, None)
        if isinstance(change, ServerGone) and change.epoch is not None:
            self._since[change.endpoint] = time.monotonic()

    def for_good(self) -> str:
        """The endpoint of one that has not come back for PATIENCE_S; "" if there is none."""
        now = time.monotonic()
        return next((endpoint for endpoint, since in self._since.items() if now - since > PATIENCE_S), "")


class _Silence:
    """Says what the command waits for while no server is there, and gives up after `--wait`."""

    def __init__(self, endpoint: str, wait_s: float | None, *, told: bool) -> None:
        self._endpoint, self._wait_s, self._said = endpoint, wait_s, told
        self._since = time.monotonic()

    def check(self) -> None:
        waited = time.monotonic() - self._since
        if self._wait_s is not None and waited >= self._wait_s:
            raise RtskelError(f"no heartbeat from a server at {self._endpoint} within {self._wait_s:g} s")
        if not self._said and waited >= 1:
            note(f"waiting for a server at {self._endpoint}")
            self._said = True


COMMAND = Command("subscribe", "watch, print or save refined poses", MORE, _options, _run)
