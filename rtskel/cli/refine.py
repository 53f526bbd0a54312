"""`rtskel refine`."""

from __future__ import annotations

import argparse

from rtskel.cli.archive import MORE as MANY
from rtskel.cli.archive import in_and_out, in_out_options, run_archive
from rtskel.cli.options import Command, Parser, engine_options, lookahead_option, read, reading_options
from rtskel.cli.output import Progress
from rtskel.cli.status import OK, options_in_range, until_terminated

MORE = """\
Dropped frames are filled in. An .npz output also holds sigma, the spread of the averaged predictions.

examples:
  rtskel refine in.skels out.skels             the offline protocol: every frame uses all frames around it
  rtskel refine in.npz out.npz --lookahead 4   exactly what `rtskel serve --lookahead 4` would publish""" + MANY.format(
    name="refine"
)


def _options(parser: Parser) -> None:
    in_out_options(parser, "refine")
    lookahead_option(parser)
    engine_options(parser)
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    if args.out is not None:
        return _archive(args)
    from rtskel.engine import open_engine
    from rtskel.errors import RtskelError
    from rtskel.formats import check_writable, write
    from rtskel.recordings import refine_recording

    file, out = in_and_out(args)
    check_writable(out)
    recordings = read(args, file)
    total = sum(recording.frames + recording.dropped for recording in recordings)
    refined = []
    with (
        open_engine(args.engine, precision=args.precision, threads=args.threads) as engine,
        until_terminated(),
        Progress("frames", total) as bar,
    ):
        before = 0
        for recording in recordings:
            bar.update(recording.name)
            try:
                with options_in_range():
                    refined.append(
                        refine_recording(
                            recording,
                            engine=engine,
                            lookahead=args.lookahead,
                            radius=args.radius,
                            min_confidence=args.min_confidence,
                            progress=lambda done, before=before: bar.update(done=before + done),  # type: ignore[misc]
                        )
                    )
            except RtskelError as error:
                raise RtskelError(f"{file}: {error}") from None
            before += recording.frames + recording.dropped
    write(out, refined)
    return OK


def _archive(args: argparse.Namespace) -> int:
    from rtskel.archive import Refine

    how = {"lookahead": args.lookahead, "radius": args.radius, "min_confidence": args.min_confidence}
    return run_archive(args, Refine(args.engine, args.precision, args.threads, **how))


COMMAND = Command("refine", "refine a recording, from file to file", MORE, _options, _run)
