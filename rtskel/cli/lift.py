"""`rtskel lift`."""

from __future__ import annotations

import argparse

from rtskel.cli.archive import MORE as MANY
from rtskel.cli.archive import in_and_out, in_out_options, run_archive
from rtskel.cli.options import Command, Parser, lookahead_option, min_confidence_option, read, reading_options
from rtskel.cli.output import progress
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
    from rtskel.formats import write
    from rtskel.recordings import lift_recording

    if args.out is not None:
        from rtskel.archive import Lift

        return run_archive(args, Lift(args.lookahead, args.min_confidence))
    file, out = in_and_out(args)
    recordings = read(args, file)
    lifted = []
    with until_terminated(), progress("frames") as bar:
        task = bar.add_task("lifting", total=sum(recording.frames + recording.dropped for recording in recordings))
        before = 0
        for recording in recordings:
            bar.update(task, description=recording.name)
            lifted.append(
                lift_recording(
                    recording,
                    lookahead=args.lookahead,
                    min_confidence=args.min_confidence,
                    progress=lambda done, before=before: bar.update(task, completed=before + done),  # type: ignore[misc]
                )
            )
            before += recording.frames + recording.dropped
            bar.update(task, completed=before)
    write(out, lifted)
    return OK


COMMAND = Command("lift", "estimate the depth of a 2D recording", MORE, _options, _run)
