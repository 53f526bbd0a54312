"""`rtskel view`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rtskel.cli.options import Command, Parser, client_keys, endpoint_option, read, reading_options
from rtskel.cli.output import note
from rtskel.cli.status import OK, until_terminated
from rtskel.client import REFINED_ENDPOINT
from rtskel.errors import FormatError

if TYPE_CHECKING:
    from rtskel.formats import Recording

LISTEN = "127.0.0.1:8400"

MORE = """\
Shows every stream that the server publishes in 3D: raw and refined poses, joints that were filled in, the spread of
the predictions, joints over time. Can pause, and go back over the last minute. With FILEs, plays recordings: raw
and refined over each other. Only this machine can open the page unless --listen says otherwise; the page's address then
holds a token. The connection is not encrypted: on networks that you do not trust, use an SSH tunnel or a TLS proxy.

examples:
  rtskel view                                  what `rtskel serve` publishes
  rtskel view --open                           and open the page in the browser
  rtskel view raw.npz refined.npz              recordings
  rtskel view --stream cam1,cam2 --listen 127.0.0.1:8500"""


def listen_option(parser: Parser, name: str, what: str, **options: str) -> None:
    """Where the page is served."""
    parser.add_argument(name, metavar="HOST:PORT", help=f"{what} (default {LISTEN})", **options)  # type: ignore[arg-type]


def _options(parser: Parser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="*", help="recordings (default: live, from a server)")
    endpoint_option(parser, "--refined", REFINED_ENDPOINT, "where the server publishes refined poses")
    parser.add_argument("--stream", metavar="ID,...", help="only these streams, or sequences of FILEs (default: all)")
    listen_option(parser, "--listen", "where the page is served", default=LISTEN)
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    from rtskel.client import Subscriber
    from rtskel.view import Feed, LiveFeed, RecordingFeed, Site, address

    streams = args.stream.split(",") if args.stream else None
    where = address(args.listen)
    with ExitStack() as stack:
        stack.enter_context(until_terminated())
        feed: Feed
        if args.files:
            feed = RecordingFeed([(file, _chosen(args, file, streams)) for file in args.files])
        else:
            subscriber = Subscriber(args.refined, streams=streams, raw=True, heartbeats=True, keys=client_keys(args))
            feed = LiveFeed(stack.enter_context(subscriber), streams)
        site = stack.enter_context(Site(feed, where))
        print(f"rtskel: view at {site.url} (Ctrl-C ends it)", flush=True)
        if args.open:
            import webbrowser

            if not webbrowser.open(site.url):
                note("no browser was found: open the address yourself")
        site.wait()
    return OK


def _chosen(args: argparse.Namespace, file: str, streams: list[str] | None) -> list[Recording]:
    recordings = [each for each in read(args, file) if streams is None or each.name in streams]
    if not recordings:
        raise FormatError(f"{file}: no sequence is called {' or '.join(streams or ())} (see rtskel info {file})")
    return recordings


@contextmanager
def viewing(refined: str, listen: str) -> Iterator[None]:
    """Runs `rtskel view` of a server in a process of its own, so that it takes no time from the server's loop.

    Args:
        refined: endpoint where the server publishes.
        listen: HOST:PORT of the page.
    """
    command = [sys.executable, "-P", "-m", "rtskel", "view", "--refined", refined, "--listen", listen]
    process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is for the server, which ends this one
    try:
        yield
    finally:
        process.terminate()
        process.wait()


COMMAND = Command("view", "show streams or recordings in the browser, in 3D", MORE, _options, _run)
