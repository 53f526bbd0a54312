"""`rtskel send` and `rtskel receive`: commands whose own commands are plugins, found by entry points."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rtskel.cli.options import Command, Layout, Parser, client_keys, duration, endpoint_option
from rtskel.cli.output import note
from rtskel.cli.status import OK, until_terminated
from rtskel.client import RAW_ENDPOINT, REFINED_ENDPOINT
from rtskel.errors import RtskelError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

SEND_MORE = """\
Without NAME, lists what is installed; `rtskel send NAME --help` explains each. More can be installed: a sink is a class
of a few lines, see the documentation.

examples:
  rtskel send
  rtskel send vmc                              move an avatar in Unity, Unreal, Blender
  rtskel send lsl --stream cam1                offer poses to a laboratory's recorder"""

RECEIVE_MORE = """\
Without NAME, lists what is installed; `rtskel receive NAME --help` explains each.

examples:
  rtskel receive
  rtskel receive lsl --name tracker"""


def found(group: str) -> dict[str, EntryPoint]:
    """The plugins that are installed, by name."""
    from importlib.metadata import entry_points

    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load(command: str, group: str, name: str) -> Any:
    """A plugin. RtskelError: there is none of that name, or its module cannot be imported."""
    points = found(group)
    if name not in points:
        raise RtskelError(f"{command}: unknown {name!r} (installed: {', '.join(points) or 'none'})")
    try:
        return points[name].load()
    except Exception as error:  # a plugin is anybody's code
        raise RtskelError(f"{command} {name}: {points[name].value} cannot be loaded: {error}") from error


def parser_of(command: str, group: str, name: str) -> tuple[Parser, Any]:
    """The parser of a plugin's command line, and the plugin."""
    plugin = load(command, group, name)
    parser = Parser(
        prog=f"rtskel {command} {name}",
        description=plugin.summary[0].upper() + plugin.summary[1:] + ".",
        epilog=plugin.more,
        formatter_class=Layout,
    )
    if command == "send":
        endpoint_option(parser, "--refined", REFINED_ENDPOINT, "where the server publishes refined poses")
        parser.add_argument("--stream", metavar="ID,...", help="only these streams (default: all)")
        parser.add_argument("--lookahead", type=int, metavar="N", help="of poses (default: the server's longest)")
        parser.add_argument("--until-end", action="store_true", help="end once all streams have ended")
    else:
        endpoint_option(parser, "--raw", RAW_ENDPOINT, "where the server takes raw poses")
        parser.add_argument("--stream", metavar="ID", help="stream id (default: the source's name)")
        parser.add_argument("--wait", type=duration, metavar="S", help="give up after S seconds without a server")
    plugin.options(parser)
    return parser, plugin


def _options(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="which plugin (default: list them)")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its options")


def _list(command: str, group: str) -> int:
    for name in found(group):
        print(f"  rtskel {command} {name:<10} {load(command, group, name).summary}")
    return OK


def _send(args: argparse.Namespace) -> int:
    from rtskel.client import Subscriber
    from rtskel.sinks import GROUP, forward

    if args.name is None:
        return _list("send", GROUP)
    parser, plugin = parser_of("send", GROUP, args.name)
    own = parser.parse_args(args.rest)
    streams = own.stream.split(",") if own.stream else None
    with (
        until_terminated(),
        plugin.open(own) as sink,
        Subscriber(own.refined, streams=streams, lookahead=own.lookahead, keys=client_keys(own)) as subscriber,
    ):
        try:
            subscriber.wait_for_server(1.0)  # what comes meanwhile is kept
        except TimeoutError:
            note(f"waiting for a server at {own.refined}")
        sent = forward(subscriber, sink, lookahead=own.lookahead, until_end=own.until_end)
        note(f"{sent} poses sent")
    return OK


def _receive(args: argparse.Namespace) -> int:
    from rtskel.client import Publisher
    from rtskel.sources import GROUP, publish

    if args.name is None:
        return _list("receive", GROUP)
    parser, plugin = parser_of("receive", GROUP, args.name)
    own = parser.parse_args(args.rest)
    keys = client_keys(own)
    # Checks these before looking for the source, which may take long.
    Publisher(own.raw, stream=own.stream or "any", fps=1.0, keys=keys).close()
    with until_terminated(), plugin.open(own) as source:
        try:
            sent = publish(source, own.raw, stream=own.stream, keys=keys, wait=own.wait)
        except TimeoutError as error:
            raise RtskelError(str(error)) from None
        note(f"{sent} frames sent")
    return OK


SEND = Command("send", "take refined poses to other programs: avatars, laboratories", SEND_MORE, _options, _send)
RECEIVE = Command("receive", "publish poses of other programs", RECEIVE_MORE, _options, _receive)
