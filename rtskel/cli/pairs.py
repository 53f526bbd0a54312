"""`rtskel pairs`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rtskel.cli.options import Command, Parser, not_negative, positive
from rtskel.cli.output import Progress, note
from rtskel.cli.status import FAILED, OK, until_terminated
from rtskel.errors import RtskelError

if TYPE_CHECKING:
    from rtskel.pairs.make import Outcome

MORE = """\
People of many builds are rendered while they move, and MediaPipe, as `rtskel estimate` uses it, says what it sees. OUT
gets a file for each clip: in train/, and one in seven in kept/, which is for testing and shares no motion, body or
camera with the others. The same call again continues; the same seed gives the same clips.

examples:
  rtskel pairs pairs --frames 60000                         signing and fast arms, synthesized: no data needed
  rtskel pairs pairs --frames 60000 --data ../shared/data   motion of all sources that are there
  rtskel pairs pairs --frames 60000 --data ../shared/data --open    only of those that anyone may use
  rtskel pairs mine --frames 20000 --motion capture/*.npz   and of your own recordings of complete 3D poses"""


def _options(parser: Parser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the clips")
    parser.add_argument("--frames", type=positive, required=True, metavar="N", help="in all clips together, at least")
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--seed", type=not_negative, default=1, metavar="N", help="of everything (default 1)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with recorded motion (see docs/pairs.md)")
    parser.add_argument("--open", action="store_true", help="only motion whose licence lets anyone use it")
    parser.add_argument("--motion", metavar="FILE", nargs="+", default=[], help="recordings of complete 3D poses")


def _run(args: argparse.Namespace) -> int:
    from rtskel.manifest import MANIFEST
    from rtskel.pairs.needs import check_installed

    if args.data is not None and not args.data.is_dir():
        raise RtskelError(f"{args.data}: no such folder")
    if args.out.exists() and not args.out.is_dir():
        raise RtskelError(f"{args.out}: not a folder")
    for path in args.motion:
        if not Path(path).exists():
            raise RtskelError(f"{path}: No such file or directory")
    check_installed()
    from rtskel.pairs.make import Plan, make
    from rtskel.pairs.motion import usable

    sources = usable(args.data, only_open=args.open)
    plan = Plan(args.frames, args.seed, tuple(sources), tuple(args.motion))
    note(f"motion: {', '.join([*sources, *args.motion])}")
    with until_terminated(), Progress("frames", args.frames) as bar:
        so_far = 0

        def tell(outcome: Outcome | None, frames: int) -> None:
            nonlocal so_far
            so_far += frames
            bar.update("pairs", so_far)
            if outcome is not None and outcome.error is not None:
                note(f"{outcome.result}: {outcome.error}")

        summary = make(plan, args.out, data=args.data, workers=args.workers, progress=tell)
    before = f", {summary.before} done before" if summary.before else ""
    failed = f", {len(summary.failed)} failed (see {args.out / MANIFEST})" if summary.failed else ""
    note(f"{args.out}: {summary.clips} clips of {summary.frames} frames done{before}{failed}")
    return FAILED if summary.failed else OK


COMMAND = Command("pairs", "render people, and what an estimator says of them, to learn from", MORE, _options, _run)
