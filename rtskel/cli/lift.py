"""`rtskel lift`."""

from __future__ import annotations

import argparse

from rtskel.cli.archive import MORE as MANY
from rtskel.cli.archive import in_and_out, in_out_options, run_archive
from rtskel.cli.options import Command, Parser, lookahead_option, min_confidence_option, read, reading_options
from rtskel.cli.output import Progress
from rtskel.cli.status import OK, until_terminated

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
    recordings = read(args, file)
    total = sum(recording.frames + recording.dropped for recording in recordings)
    lifted = []
    with (
        until_terminated(),
        Progress("frames", total) as bar,
    ):
        before = 0
        for recording in recordings:
            bar.update(recording.name)
            lifted.append(
                lift_recording(
                    recording,
                    lookahead=args.lookahead,
                    min_confidence=args.min_confidence,
                    progress=lambda done, before=before: bar.update(done=before + done),  # type: ignore[misc]
                )
            )
            before += recording.frames + recording.dropped
    write(out, lifted)
    return OK


COMMAND = Command("lift", "estimate the depth of a 2D recording", MORE, _options, _run)
