"""`rtskel publish`."""

from __future__ import annotations

import argparse

from rtskel.cli.options import (
    Command,
    Parser,
    client_keys,
    duration,
    endpoint_option,
    read,
    reading_options,
    share,
    speed,
)
from rtskel.cli.output import Progress, undelivered
from rtskel.cli.status import OK, Incomplete, until_terminated
from rtskel.client import RAW_ENDPOINT

MORE = """\
Waits for a server, then sends each sequence of FILE as a stream of its own, in real time. Unit, person, view and image
size go with it. Frames have the times of the replay; with --speed inf those of the recording, if it has any.

examples:
  rtskel publish recording.npz
  rtskel publish dev.skels --drop 0.1 --jitter-ms 15
  rtskel publish recording.npz --stream cam1 --loop
  rtskel publish dev.skels --together --speed inf    as fast as the server accepts them"""


def _options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="recording, a file or a folder (see rtskel convert --help)")
    endpoint_option(parser, "--raw", RAW_ENDPOINT, "where the server takes raw poses")
    parser.add_argument("--stream", metavar="ID", help="stream id (default: each sequence's name)")
    parser.add_argument("--drop", type=share, default=0.0, metavar="SHARE", help="leave out this share of the frames")
    parser.add_argument("--jitter-ms", type=duration, default=0.0, metavar="MS", help="delay frames by up to this much")
    parser.add_argument("--speed", type=speed, default=1.0, help="replay this many times as fast; inf: no waiting")
    parser.add_argument("--together", action="store_true", help="all sequences at once, not one after another")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C")
    parser.add_argument("--wait", type=duration, metavar="S", help="give up after S seconds without a server")
    parser.add_argument("--seed", type=int, default=0, help="random seed of --drop and --jitter-ms (default 0)")
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    from rtskel.tools.replay import Item, Publishers, ReplayConfig, replay, stream_ids

    recordings = read(args)
    streams = stream_ids(recordings, args.stream)
    keys = client_keys(args)
    config = ReplayConfig(
        drop=args.drop, jitter_ms=args.jitter_ms, speed=args.speed, together=args.together, seed=args.seed
    )
    with until_terminated(), Progress("frames", sum(recording.frames for recording in recordings)) as bar:
        while True:
            done = 0

            def show(item: Item) -> None:
                nonlocal done
                done += item.row >= 0
                bar.update(streams[item.recording], done)

            connect = Publishers(recordings, streams, args.raw, config, keys)
            sent = replay(recordings, connect, config, wait_s=args.wait, progress=show, waiting=bar.waiting)
            if problem := undelivered(args.raw, connect.dropped, connect.refusals):
                raise Incomplete(problem)
            bar.update(f"{sent} frames of {len(streams)} streams sent,")
            if not args.loop:
                return OK


COMMAND = Command("publish", "replay a recording as a pose estimator would publish it", MORE, _options, _run)
