"""`rtskel info`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtskel.cli.options import Command, Parser, doubts, read, reading_options
from rtskel.cli.output import print_json, print_table
from rtskel.cli.status import OK
from rtskel.text import printable

if TYPE_CHECKING:
    from rtskel.formats import Recording

MORE = """\
examples:
  rtskel info                    the bundled engine
  rtskel info skeletor.plan
  rtskel info recording.npz --json"""


def _options(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help="engine or recording (default: the bundled engine)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    from rtskel.engine import describe, located
    from rtskel.engine.metadata import SUFFIXES
    from rtskel.formats.bvh import describe_bvh

    path = Path(located(args.file))
    if path.suffix.lower() == ".bvh":
        _show_facts(args, path, {"kind": "bvh", **describe_bvh(path)})
        return OK
    if args.format or path.suffix.lower() not in SUFFIXES or path.is_dir():
        recordings = read(args, say=False)
        if args.json:
            facts = [_facts(recording) for recording in recordings]
            print_json({"kind": "recording", "path": str(path), "recordings": facts, "notes": doubts(recordings)})
        else:
            _show_recordings(path, recordings)
        return OK
    engine = describe(path)
    _show_facts(args, path, {key: value for key, value in vars(engine).items() if key != "extra"} | dict(engine.extra))
    return OK


def _show_facts(args: argparse.Namespace, path: Path, facts: dict[str, Any]) -> None:
    if args.json:
        print_json(facts)
    else:
        print(printable(path))
        for key, value in facts.items():
            if key != "path":
                print(f"{key:<14}{printable(value)}")


def _facts(recording: Recording) -> dict[str, Any]:
    """A recording's properties as plain numbers and words."""
    from rtskel.formats import sides_look_swapped

    return {
        "name": recording.name,
        "frames": recording.frames,
        "dropped": recording.dropped,
        "seconds": round(recording.seconds, 3),
        "fps": recording.fps,
        "skeleton": recording.skeleton,
        "joints": recording.xyz.shape[1],
        "missing": round(float(recording.missing.mean()), 4),
        "dims": recording.dims,
        "unit": recording.unit,
        "image_size": recording.image_size,
        "axes": recording.axes,
        "mirrored": recording.mirrored,
        "sides_look_swapped": sides_look_swapped(recording),
        "lookahead": recording.lookahead,
        "person": recording.person,
        "view": recording.view,
    }


def _show_recordings(path: Path, recordings: list[Recording]) -> None:
    facts = [_facts(recording) for recording in recordings]
    rows = [
        [
            fact["name"],
            str(fact["frames"]),
            str(fact["dropped"]),
            f"{fact['seconds']:.2f}",
            f"{fact['fps']:g}",
            f"{fact['missing']:.1%}",
            fact["unit"] + (", 2D" if fact["dims"] == 2 else ""),
            fact["axes"] + (", mirrored" if fact["mirrored"] else ""),
            "-" if fact["lookahead"] is None else str(fact["lookahead"]),
        ]
        for fact in facts
    ]
    header = ["sequence", "frames", "dropped", "seconds", "fps", "missing", "unit", "axes", "lookahead"]
    count = "1 sequence" if len(facts) == 1 else f"{len(facts)} sequences"
    print_table(f"{path}: {count}, {facts[0]['joints']} joints ({facts[0]['skeleton']})", header, rows)
    for words in doubts(recordings):
        print(f"note: {printable(words)}")
    swapped = sum(fact["sides_look_swapped"] for fact in facts)
    if swapped:
        print(
            f"{swapped} of {len(facts)}: the right shoulder is on the image's right, so the image is mirrored "
            "(--mirrored), the sides are exchanged (--swap-sides), or the person turns away"
        )


COMMAND = Command("info", "describe an engine or a recording", MORE, _options, _run)
