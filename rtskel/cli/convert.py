"""`rtskel convert`."""

from __future__ import annotations

import argparse

from rtskel.cli.options import Command, Parser, read, reading_options
from rtskel.cli.status import OK
from rtskel.errors import RtskelError

MORE = """\
IN is recognised by its content: rtskel's own .npz, .csv and .jsonl, .skels, a folder of OpenPose's JSON, MMPose's
COCO-WholeBody JSON or RTMW's arrays, .pose, MediaPipe Holistic's landmarks in an .npz. Several people become several
sequences. OUT is .npz, .csv, .jsonl, .skels or .bvh (one sequence, for animation software).

examples:
  rtskel convert openpose_output/ out.npz --fps 24
  rtskel convert in.pose out.csv
  rtskel convert refined.npz signer.bvh --stream cam1"""


def _options(parser: Parser) -> None:
    parser.add_argument("file", metavar="IN", help="recording to read, a file or a folder")
    parser.add_argument("out", metavar="OUT", help="recording to write")
    parser.add_argument("--stream", metavar="ID,...", help="only these sequences (default: all)")
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    from rtskel.formats import write

    recordings = read(args)
    if args.stream is not None:
        names = args.stream.split(",")
        absent = set(names) - {recording.name for recording in recordings}
        if absent:
            raise RtskelError(f"{args.file}: no sequence is called {min(absent)!r} (see rtskel info {args.file})")
        recordings = [recording for recording in recordings if recording.name in names]
    write(args.out, recordings)
    return OK


COMMAND = Command("convert", "turn a recording into another format", MORE, _options, _run)
