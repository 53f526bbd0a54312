"""`rtskel subscribe`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time

from rtskel.cli.options import Command, Parser, client_keys, endpoint_option, frames_list, positive
from rtskel.cli.output import note
from rtskel.cli.status import FAILED, OK, until_terminated
from rtskel.client import REFINED_ENDPOINT

PATIENCE_S = 10.0
"""How long --until-end waits for a server that is gone to come back."""

MORE = """\
Shows a live table; with --json, prints one JSON object a line for every pose, event and heartbeat. Everything published
after the first heartbeat is received. --save writes .npz, .csv or .jsonl, which hold everything, or .skels or .bvh,
which may take several files.

examples:
  rtskel subscribe
  rtskel subscribe --stream cam1 --lookahead 4 --json | jq 'select(.kind == "pose").xyz[4]'
  rtskel subscribe --save out.npz --until-end"""


def _options(parser: Parser) -> None:
    endpoint_option(parser, "--refined", REFINED_ENDPOINT, "where the server publishes refined poses")
    parser.add_argument("--stream", metavar="ID,...", help="only these streams (default: all)")
    parser.add_argument("--lookahead", metavar="N,...", type=frames_list, help="only these lookaheads (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--save", metavar="FILE", help="write all poses to this recording at the end")
    parser.add_argument("--frames", type=positive, metavar="N", help="end after N poses")
    parser.add_argument(
        "--until-end", action="store_true", help="end once all streams have ended and no other began within 2 s"
    )


def _run(args: argparse.Namespace) -> int:
    from rtskel.client import ServerBack, ServerGone, Subscriber
    from rtskel.tools.collect import Collector, Ends, check_savable, save
    from rtskel.tools.watch import Display, LiveTable, as_json, console
    from rtskel.wire import RefinedPose

    if args.save and (lacks := check_savable(args.save)):
        note(lacks)
    collector, table, ends, poses = Collector(), LiveTable(args.refined), Ends(), 0
    gone_at: float | None = None
    with (
        contextlib.ExitStack() as stack,
        Subscriber(
            args.refined,
            streams=args.stream.split(",") if args.stream else None,
            lookahead=args.lookahead,
            heartbeats=True,
            everything=bool(args.save or args.json),
            keys=client_keys(args),
            queue=100_000,  # a pause of this process loses nothing
        ) as subscriber,
    ):
        if args.save:
            stack.callback(lambda: note(save(collector.recordings(), args.save)))  # however this ends
        stack.enter_context(until_terminated())
        shown = None if args.json else stack.enter_context(Display(console()))
        while not (poses == args.frames or (args.until_end and ends.over(time.monotonic()))):
            try:
                message = subscriber.recv(timeout=0.1)
            except TimeoutError:
                message = None
            arrived = time.monotonic_ns()
            if isinstance(message, ServerGone):
                note(f"nothing comes from a server at {args.refined} any more")
                gone_at = time.monotonic()
            elif isinstance(message, ServerBack):
                note(f"the server at {args.refined} is back" + ", started again" * message.restarted)
                gone_at = None
            elif message is not None:
                ends.add(message, time.monotonic())
                if isinstance(message, RefinedPose):
                    poses += 1
                    if args.save:
                        collector.add(message)
                if args.json:
                    print(json.dumps(as_json(message, arrived), allow_nan=False))
                table.add(message, arrived)
            if args.json:
                if not isinstance(message, RefinedPose):
                    sys.stdout.flush()
            elif shown is not None:
                table.lost(subscriber.lost)
                shown.update(table)
            if args.until_end and gone_at is not None and time.monotonic() - gone_at > PATIENCE_S:
                note("the streams have not ended, but the server is gone")
                break
    lost = sum(subscriber.lost.values())
    if lost:
        note(f"{lost} of {poses + lost} poses were lost on the way")
    return OK if gone_at is None else FAILED


COMMAND = Command("subscribe", "watch, print or save refined poses", MORE, _options, _run)
