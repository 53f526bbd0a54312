"""`rtskel convert`."""

from __future__ import annotations

import argparse

from rtskel.cli.archive import MORE as MANY
from rtskel.cli.archive import in_and_out, in_out_options, run_archive
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
  rtskel convert refined.npz signer.bvh --stream cam1""" + MANY.format(name="convert")


def _options(parser: Parser) -> None:
    in_out_options(parser, "convert")
    parser.add_argument("--stream", metavar="ID,...", help="only these sequences (default: all)")
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    from rtskel.formats import check_writable, write

    names = None if args.stream is None else tuple(args.stream.split(","))
    if args.out is not None:
        from rtskel.archive import Convert

        return run_archive(args, Convert(names))
    file, out = in_and_out(args)
    check_writable(out)
    recordings = read(args, file)
    if names is not None:
        absent = set(names) - {recording.name for recording in recordings}
        if absent:
            raise RtskelError(f"{file}: no sequence is called {min(absent)!r} (see rtskel info {file})")
        recordings = [recording for recording in recordings if recording.name in names]
    write(out, recordings)
    return OK


COMMAND = Command("convert", "turn a recording into another format", MORE, _options, _run)
