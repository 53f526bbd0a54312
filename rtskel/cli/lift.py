"""`rtskel lift`."""

from __future__ import annotations

import argparse
from functools import partial

from rtskel.cli.archive import MORE as MANY
from rtskel.cli.archive import each_recording, in_and_out, in_out_options, run_archive
from rtskel.cli.options import Command, Parser, lookahead_option, min_confidence_option, read, reading_options
from rtskel.cli.status import OK

MORE = """\
Finds a skeleton with constant bone lengths whose image is what the estimator saw, for a person who faces the camera.
Unit and place stay those of the image; z is measured from the neck, toward the camera.

examples:
  rtskel lift openpose_output/ lifted.npz --fps 24
  rtskel lift in.npz lifted.npz --lookahead 4   frame by frame, as a live stream is lifted""" + MANY.format(name="lift")


def _options(parser: Parser) -> None:
    in_out_options(parser, "lift")
    lookahead_option(parser)
    min_confidence_option(parser)
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    from rtskel.formats import check_writable, write
    from rtskel.recordings import lift_recording

    if args.out is not None:
        from rtskel.archive import Lift

        return run_archive(args, Lift(args.lookahead, args.min_confidence))
    file, out = in_and_out(args)
    check_writable(out)
    work = partial(lift_recording, lookahead=args.lookahead, min_confidence=args.min_confidence)
    write(out, each_recording(read(args, file), work))
    return OK


COMMAND = Command("lift", "estimate the depth of a 2D recording", MORE, _options, _run)
