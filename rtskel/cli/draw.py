"""`rtskel draw`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtskel.cli.options import Command, Parser, frames_list, positive, read, reading_options, slots
from rtskel.cli.output import Progress, note
from rtskel.cli.status import OK
from rtskel.errors import RtskelError

if TYPE_CHECKING:
    from rtskel.formats import Recording

MORE = """\
Each recording of each IN is a row of skeletons, or in a .gif or .mp4 a moving skeleton beside the others. Missing
joints are not drawn; what refinement filled in is drawn lighter, and shaded where joints are followed over time.

examples:
  rtskel draw raw.npz refined.npz -o refined.png
  rtskel draw raw.npz refined.npz -o refined.png --traces right_wrist.y,left_index_4 --slots 100:220
  rtskel draw raw.npz refined.npz -o refined.mp4
  rtskel draw lifted.npz -o lifted.png --view front,side,top
  rtskel draw pixels.npz -o overlay.gif --video signer.mp4     poses in the pixels of the video"""


def _options(parser: Parser) -> None:
    parser.add_argument("files", metavar="IN", nargs="+", help="recordings")
    parser.add_argument("-o", "--out", metavar="FILE", required=True, help=".png, .pdf, .svg, .jpg, .gif or .mp4")
    parser.add_argument("--stream", metavar="NAME,...", help="only recordings of these names")
    parser.add_argument("--lookahead", metavar="N,...", type=frames_list, help="of refined ones, only these lookaheads")
    parser.add_argument("--labels", metavar="TEXT,...", help="one for each recording (default: its name)")
    parser.add_argument("--traces", metavar="JOINT,...", help="joints to follow over time, such as right_wrist.y")
    parser.add_argument("--slots", metavar="A:B|N,...", type=slots, help="frames A to B, or exactly these frames")
    parser.add_argument("--columns", type=positive, default=10, metavar="N", help="skeletons of A:B (default 10)")
    parser.add_argument("--truth", metavar="FILE", help="recording to draw in grey behind all others")
    parser.add_argument(
        "--view", metavar="VIEW,...", default="front", help="front, side, top, or several (default front)"
    )
    parser.add_argument("--video", metavar="FILE", help="video to draw over; poses are in its pixels")
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    from rtskel.tools.draw import MOVING, STILL, animate, figure

    out = Path(args.out)
    if out.suffix.lower() not in STILL + MOVING:
        raise RtskelError(f"{out}: unknown picture format {out.suffix!r} (known: {', '.join(STILL + MOVING)})")
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise RtskelError(f"{out}: cannot be written")
    chosen = [
        (file, recording)
        for file in args.files
        for recording in read(args, file)
        if (args.stream is None or recording.name in args.stream.split(","))
        and (args.lookahead is None or recording.lookahead in (None, *args.lookahead))
    ]
    recordings = [recording for _, recording in chosen]
    if not recordings:
        raise RtskelError(f"{', '.join(args.files)}: no recording of that name and lookahead")
    options: dict[str, Any] = {
        "labels": args.labels.split(",") if args.labels else _labels(chosen),
        "traces": args.traces.split(",") if args.traces else (),
        "truth": None if args.truth is None else read(args, args.truth)[0],
        "video": args.video,
        "views": args.view.split(","),
    }
    if isinstance(args.slots, tuple):
        options["span"] = args.slots
    if out.suffix.lower() in STILL:
        if isinstance(args.slots, list):
            options["slots"] = args.slots
        figure(recordings, columns=args.columns, **options).savefig(out)
        return OK
    if isinstance(args.slots, list):
        raise RtskelError(f"{out}: frames A:B expected for a moving picture, not single ones")
    with Progress("frames") as bar:
        about = animate(recordings, out, progress=lambda done, total: bar.update(out.name, done, total), **options)
    if about:
        note(about)
    return OK


def _labels(chosen: list[tuple[str, Recording]]) -> list[str]:
    """Each recording's name, preceded by its file's where names are the same, as those of raw and lifted recordings."""
    from rtskel.tools.tracks import label_of

    labels = [label_of(recording) for _, recording in chosen]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{Path(file).stem}: {label}" for (file, _), label in zip(chosen, labels, strict=True)]


COMMAND = Command("draw", "draw recordings: skeletons by frame, joints over time, over a video", MORE, _options, _run)
