"""What `rtskel refine`, `lift` and `convert` share: IN and OUT, or any number of recordings and a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rtskel.cli.options import Parser, positive, reading
from rtskel.cli.output import Progress, note
from rtskel.cli.status import FAILED, OK, until_terminated
from rtskel.errors import RtskelError

if TYPE_CHECKING:
    from rtskel.archive import Outcome, Task
    from rtskel.formats import Recording

MORE = """

many recordings, into a folder:
  rtskel {name} in/ more.npz --out done/           files, folders, '*' patterns; the same call again continues
  rtskel {name} --list files.txt --out done/       one path a line
done/manifest.jsonl lists what is done and why others failed (exit status 1). The results are the same for any number of
workers."""


def in_out_options(parser: Parser, name: str) -> None:
    """IN and OUT, or IN ... and --out."""
    parser.usage = f"rtskel {name} [options] IN OUT\n       rtskel {name} [options] IN ... --out DIR"
    parser.add_argument(
        "paths", metavar="IN OUT", nargs="*", help="recording to read (see rtskel convert), and to write"
    )
    group = parser.add_argument_group("many recordings")
    group.add_argument("--out", metavar="DIR", type=Path, help="folder for the results, one for each recording")
    group.add_argument("--list", metavar="FILE", type=Path, help="file with more INs, one a line")
    group.add_argument("--to", metavar="SUFFIX", default=".npz", help="format of the results (default .npz)")
    group.add_argument("--workers", metavar="N", type=positive, help="processes (default: one a core)")
    group.add_argument(
        "--ray", metavar="ADDRESS", nargs="?", const="local", help="workers on a Ray cluster (default: of this machine)"
    )


def in_and_out(args: argparse.Namespace) -> tuple[str, str]:
    """IN and OUT of a call without --out."""
    for option in ("list", "workers", "ray"):
        if getattr(args, option) is not None:
            raise RtskelError(f"--{option} is for many recordings, which need --out DIR")
    if len(args.paths) != 2:
        raise RtskelError(
            f"IN and OUT expected, or --out DIR with any number of INs (see rtskel {args.command} --help)"
        )
    return args.paths[0], args.paths[1]


def each_recording(recordings: list[Recording], work: Callable[..., Recording]) -> list[Recording]:
    """What `work` makes of each recording, while a line shows the progress."""
    made: list[Recording] = []
    before = 0
    total = sum(recording.frames + recording.dropped for recording in recordings)
    with until_terminated(), Progress("frames", total) as bar:
        for recording in recordings:
            bar.update(recording.name)
            made.append(work(recording, progress=lambda done, before=before: bar.update(done=before + done)))
            before += recording.frames + recording.dropped
    return made


def run_archive(args: argparse.Namespace, task: Task) -> int:
    """Do a task for many recordings."""
    from rtskel.archive import Job, find, run
    from rtskel.manifest import MANIFEST

    paths = [*args.paths, *(_listed(args.list) if args.list else [])]
    if not paths:
        raise RtskelError(f"no recordings given (see rtskel {args.command} --help)")
    items = find(paths, args.out, "." + args.to.removeprefix("."))
    job = Job(task, args.out, reading(args))
    workers = args.workers or len(os.sched_getaffinity(0))
    with until_terminated(), Progress("recordings", len(items)) as bar:
        count = 0

        def tell(outcome: Outcome | None) -> None:
            nonlocal count
            count += 1
            bar.update(args.command, count)
            if outcome is not None and outcome.error is not None:
                note(f"{outcome.item.source}: {outcome.error}")

        summary = run(job, items, workers=workers, ray=args.ray, progress=tell)
    before = f", {summary.before} done before" if summary.before else ""
    failed = f", {len(summary.failed)} failed (see {args.out / MANIFEST})" if summary.failed else ""
    note(f"{args.out}: {summary.done} recordings done{before}{failed}")
    return FAILED if summary.failed else OK


def _listed(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RtskelError(f"{path}: cannot be read ({error})") from None
