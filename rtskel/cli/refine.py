"""`rtskel refine`."""

from __future__ import annotations

import argparse
from functools import partial

from rtskel.cli.archive import MORE as MANY
from rtskel.cli.archive import each_recording, in_and_out, in_out_options, run_archive
from rtskel.cli.options import Command, Parser, engine_options, lookahead_option, read, reading_options
from rtskel.cli.status import OK, options_in_range

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
    how = {"lookahead": args.lookahead, "radius": args.radius, "min_confidence": args.min_confidence}
    device = "cuda" if args.gpu else None
    with open_engine(args.engine, precision=args.precision, threads=args.threads, device=device) as engine:
        try:
            with options_in_range():
                refined = each_recording(recordings, partial(refine_recording, engine=engine, **how))
        except RtskelError as error:
            raise RtskelError(f"{file}: {error}") from None
    write(out, refined)
    return OK


def _archive(args: argparse.Namespace) -> int:
    from rtskel.archive import Refine

    how = {"lookahead": args.lookahead, "radius": args.radius, "min_confidence": args.min_confidence}
    device = "cuda" if args.gpu else None
    return run_archive(args, Refine(args.engine, args.precision, args.threads, device, **how))


COMMAND = Command("refine", "refine a recording, from file to file", MORE, _options, _run)
