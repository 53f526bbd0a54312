"""`rtskel demo`."""

from __future__ import annotations

import argparse

from rtskel.cli.options import Command, Parser, lookaheads_option, speed

MORE = """\
Starts a real server, replays a bundled recording with jitter, lost hands and dropped frames at its own frame rate, and
compares the refined poses with the truth. Exits with 0 only if every pose arrived exactly once and refinement reduced
every error.

examples:
  rtskel demo
  rtskel demo --recording clean.skels --lookahead 0,4,12
  rtskel demo --json > result.json"""


def _options(parser: Parser) -> None:
    parser.add_argument(
        "--recording", metavar="FILE", help="clean recording to use as the truth (default: a bundled one)"
    )
    lookaheads_option(parser, "0,4")
    parser.add_argument("--engine", metavar="FILE", help="engine to serve with (default: realtime)")
    parser.add_argument("--speed", type=speed, default=1.0, help="replay this many times as fast (default 1)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def _run(args: argparse.Namespace) -> int:
    from rtskel.tools.demo import DemoConfig, run

    return run(
        DemoConfig(
            recording=args.recording, lookaheads=args.lookahead, engine=args.engine, speed=args.speed, json=args.json
        )
    )


COMMAND = Command(
    "demo", "see it work: a server, a jittery replay, and the errors before and after", MORE, _options, _run
)
