"""`rtskel keygen`."""

from __future__ import annotations

import argparse

from rtskel.cli.options import Command, Parser
from rtskel.cli.status import OK

MORE = """\
DIR/server stays on the server; each client's folder moves to its machine. Run again to add clients.

example:
  rtskel keygen keys --client cam1 --client viewer"""


def _options(parser: Parser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder to put them in")
    parser.add_argument("--client", metavar="NAME", action="append", help="a client (default: one, called client)")


def _run(args: argparse.Namespace) -> int:
    from rtskel.curve import keygen

    for folder in keygen(args.dir, args.client or ("client",)):
        print(folder)
    return OK


COMMAND = Command("keygen", "make the keys that open a server to other machines", MORE, _options, _run)
