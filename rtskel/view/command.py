"""`rtskel view`: the command line of the picture."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rtskel.client import REFINED_ENDPOINT, Subscriber
from rtskel.curve import ClientKeys
from rtskel.errors import FormatError
from rtskel.formats import read
from rtskel.view.feed import Feed, LiveFeed, RecordingFeed
from rtskel.view.site import Site, SiteConfig, check_address

EXAMPLES = """\
Shows every stream that the server publishes in three dimensions: raw and refined, joints that were filled in, joints
over time; pauses, and goes back over the last minute. Or plays recordings: the refined one over the raw one. The page is
on this machine only, unless --listen says otherwise; then its address holds a token, which is sent in the clear.

examples:
  rtskel view                                  what `rtskel serve` publishes
  rtskel view --open                           and open the page in the browser
  rtskel view raw.npz refined.npz              recordings
  rtskel view --stream cam1,cam2 --listen 127.0.0.1:8500"""


def add_parser(commands: Any, **options: Any) -> argparse.ArgumentParser:
    """Adds the command to an `argparse` collection of subparsers."""
    summary = "show streams or recordings in the browser, in 3D"
    parser: argparse.ArgumentParser = commands.add_parser(
        "view", help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=EXAMPLES, **options
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help="recordings (default: live, from a server)")
    parser.add_argument(
        "--refined",
        metavar="ENDPOINT",
        default=REFINED_ENDPOINT,
        help=f"where the server publishes (default {REFINED_ENDPOINT})",
    )
    parser.add_argument("--keys", metavar="DIR", help="this client's keys, made by rtskel keygen")
    parser.add_argument("--stream", metavar="ID,...", help="only these streams, or sequences (default: all)")
    parser.add_argument("--fps", type=float, help="frames a second, for recordings that do not say it")
    parser.add_argument("--axes", metavar="CODE", help="where x, y, z grow, for recordings that do not say it")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", default="127.0.0.1:8400", help="where the page is (default 127.0.0.1:8400)"
    )
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C or SIGTERM."""
    host, port = check_address(args.listen)
    streams = args.stream.split(",") if args.stream else None
    with ExitStack() as stack:
        feed: Feed
        if args.files:
            feed = _recordings(args.files, streams, fps=args.fps, axes=args.axes)
        else:
            keys = None if args.keys is None else ClientKeys.load(args.keys)
            subscriber = Subscriber(args.refined, streams=streams, heartbeats=True, keys=keys)
            feed = LiveFeed(stack.enter_context(subscriber))
        site = stack.enter_context(Site(feed, SiteConfig(host, port)))
        print(f"rtskel: view on {site.url} (Ctrl-C ends it)", flush=True)
        if args.open:
            import webbrowser

            webbrowser.open(site.url)
        site.wait()
    return 0


def _recordings(files: Sequence[str], streams: Sequence[str] | None, **stated: Any) -> RecordingFeed:
    read_files = []
    for file in files:
        recordings = [each for each in read(file, **stated) if streams is None or each.name in streams]
        if not recordings:
            raise FormatError(f"{file}: no sequence is called {', '.join(streams or ())} (see rtskel info {file})")
        read_files.append((file, recordings))
    return RecordingFeed(read_files)


@contextmanager
def beside(refined: str, listen: str) -> Iterator[None]:
    """Runs `rtskel view` of a server in a process of its own, which takes no time from that server's.

    Args:
        refined: endpoint at which the server publishes.
        listen: HOST:PORT of the page.
    """
    command = [sys.executable, "-P", "-m", "rtskel", "view", "--refined", refined, "--listen", listen]
    process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is for the server: it ends this one
    try:
        yield
    finally:
        process.terminate()
        process.wait()
