"""`rtskel publish`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rtskel.cli.options import Command, Parser, client_keys, endpoint_option, read, reading_options
from rtskel.cli.output import progress
from rtskel.cli.status import FAILED, OK, until_terminated
from rtskel.client import RAW_ENDPOINT, Publisher

HARMLESS = {"late", "duplicate", "nonfinite"}
"""What a server may refuse of a replay: frames that came late or twice, joints that are not numbers."""

MORE = """\
Waits for a server, then sends each sequence of FILE as a stream of its own, in real time.

examples:
  rtskel publish recording.npz
  rtskel publish dev.skels --drop 0.1 --jitter-ms 15
  rtskel publish recording.npz --stream cam1 --loop
  rtskel publish dev.skels --together --speed inf    as fast as the server accepts them"""


def _options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="recording, a file or a folder (see rtskel convert --help)")
    endpoint_option(parser, "--raw", RAW_ENDPOINT, "where the server takes raw poses")
    parser.add_argument("--stream", metavar="ID", help="stream id (default: each sequence's name)")
    parser.add_argument("--drop", type=float, default=0.0, metavar="SHARE", help="leave out this share of the frames")
    parser.add_argument("--jitter-ms", type=float, default=0.0, metavar="MS", help="delay frames by up to this much")
    parser.add_argument("--speed", type=float, default=1.0, help="replay this many times as fast; inf: no waiting")
    parser.add_argument("--together", action="store_true", help="all sequences at once, not one after another")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C")
    parser.add_argument("--wait", type=float, metavar="S", help="give up after S seconds without a server")
    parser.add_argument("--seed", type=int, default=0, help="random seed of --drop and --jitter-ms (default 0)")
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    from rtskel.tools.replay import Item, ReplayConfig, publishers, replay, stream_ids

    recordings = read(args)
    streams = stream_ids(recordings, args.stream)
    keys = client_keys(args)
    config = ReplayConfig(
        drop=args.drop, jitter_ms=args.jitter_ms, speed=args.speed, together=args.together, seed=args.seed
    )
    frames = sum(recording.frames for recording in recordings)
    with until_terminated(), progress("frames") as bar:
        while True:
            task = bar.add_task("waiting for a server", total=frames)

            def show(item: Item, task: Any = task) -> None:
                bar.update(task, advance=item.row >= 0, description=streams[item.recording])

            senders: list[Publisher] = []
            connect = _remembering(publishers(recordings, streams, args.raw, keys), senders)
            sent = replay(recordings, connect, config, wait_s=args.wait, progress=show)
            if any(sender.dropped or sender.refusals.keys() - HARMLESS for sender in senders):
                return FAILED  # its publisher has said what and why
            bar.update(task, completed=frames, description=f"{sent} frames of {len(streams)} streams sent")
            if not args.loop:
                return OK
            bar.remove_task(task)


def _remembering(
    connect: Callable[[int, float], Publisher], senders: list[Publisher]
) -> Callable[[int, float], Publisher]:
    def connect_and_remember(number: int, fps: float) -> Publisher:
        senders.append(connect(number, fps))
        return senders[-1]

    return connect_and_remember


COMMAND = Command("publish", "replay a recording as a pose estimator would publish it", MORE, _options, _run)
