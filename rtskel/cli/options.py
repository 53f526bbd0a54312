"""What a command is made of: its parser, and the options and argument types that commands share."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from rtskel.cli.output import note
from rtskel.errors import RtskelError

if TYPE_CHECKING:
    from rtskel.curve import ClientKeys
    from rtskel.formats import Recording


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `RtskelError`s, and that takes options by their full names only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Raise `RtskelError` instead of ending the process."""
        raise RtskelError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with `unknown` for what no option takes."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.unknown(unknown)
        return found

    def unknown(self, arguments: Sequence[str]) -> NoReturn:
        """Raise the error for arguments that no option takes."""
        name = arguments[0].partition("=")[0]
        options = [option for action in self._actions for option in action.option_strings]
        near = [option for option in options if name.startswith("--") and option.startswith(name)]
        near += difflib.get_close_matches(name, options, 1, 0.7) if name.startswith("-") else []
        what = "unknown option" if name.startswith("-") else "unexpected argument"
        self.error(f"{what} {name}" + (f", did you mean {near[0]}?" if near else ""))


class Layout(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the line breaks of examples and puts each command's summary beside its name."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        self._action_max_length = 15  # argparse does not count the names of subcommands


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        name: as typed.
        summary: what it does, in one line without a full stop.
        more: shown below the options: details, and examples.
        options: adds its options to its parser.
        run: does it; returns the exit status. Heavy imports belong in here.
    """

    name: str
    summary: str
    more: str
    options: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]


# Argument types


def whole(least: int) -> Callable[[str], int]:
    """A type: a whole number, `least` or more."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r}: a whole number, {least} or more expected")
        return value

    return parse


def number(expected: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    """A type: a number that `fits`, in words `expected`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value) or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r}: {expected} expected")
        return value

    return parse


positive = whole(1)
not_negative = whole(0)
share = number("a share in 0..1", lambda value: 0 <= value <= 1)
duration = number("a finite number, 0 or more", lambda value: 0 <= value < math.inf)
"""Of time, in whatever unit the option says."""
speed = number("a number above 0", lambda value: value > 0)
frame_rate = number("frames a second, above 0 and at most 1000,", lambda value: 0 < value <= 1000)


def frames_list(text: str) -> tuple[int, ...]:
    """Lookaheads with commas between them, such as 0,4."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = (-1,)
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of frames such as 0,4 expected")
    return tuple(dict.fromkeys(values))


def slots(text: str) -> tuple[int, int] | list[int]:
    """A span of frames A:B, or frame numbers with commas between them."""
    try:
        first, colon, end = text.partition(":")
        return (int(first or 0), int(end)) if colon else [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: A:B, or frame numbers such as 10,20 expected") from None


def lookahead_or_offline(text: str) -> int | None:
    """A number of frames, or None for `offline`."""
    if text == "offline":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of frames, or offline expected")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: a size such as 1280x720 expected")
    return int(found[1]), int(found[2])


# Options that commands share


def endpoint_option(parser: Parser, name: str, default: str, what: str) -> None:
    """Where a client connects to, and with which keys."""
    parser.add_argument(name, metavar="ENDPOINT", default=default, help=f"{what} (default {default})")
    parser.add_argument("--keys", metavar="DIR", help="this client's keys, made by rtskel keygen")


def client_keys(args: argparse.Namespace) -> ClientKeys | None:
    """The keys in `--keys`, None without the option."""
    if args.keys is None:
        return None
    from rtskel.curve import ClientKeys

    return ClientKeys.load(args.keys)


def lookaheads_option(parser: Parser, default: str) -> None:
    """Several lookaheads."""
    parser.add_argument(
        "--lookahead",
        metavar="N,...",
        type=frames_list,
        default=frames_list(default),
        help=f"frames that a pose waits for (default {default})",
    )


def lookahead_option(parser: Parser) -> None:
    """One lookahead, or offline."""
    parser.add_argument(
        "--lookahead", metavar="N|offline", type=lookahead_or_offline, default=None, help="frames (default: offline)"
    )


def min_confidence_option(parser: Parser) -> None:
    """The confidence below which a joint counts as missing."""
    parser.add_argument(
        "--min-confidence", type=share, default=0.0, metavar="C", help="joints below it count as missing (default 0)"
    )


def engine_options(parser: Parser) -> None:
    """Which engine, and how it refines."""
    parser.add_argument("--engine", metavar="FILE", help=".onnx, .plan or .safetensors; `realtime` (default) or `open`")
    parser.add_argument("--gpu", action="store_true", help="with .safetensors or a .plan: run it on an NVIDIA GPU")
    parser.add_argument("--precision", choices=["fp32", "bf16", "int8"], help="compute in this precision, if possible")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the engine")
    parser.add_argument(
        "--radius", type=not_negative, default=2, metavar="R", help="average 2R+1 predictions (default 2)"
    )
    min_confidence_option(parser)


def reading_options(parser: Parser) -> None:
    """What a reader is told about a recording; `read` uses them."""
    group = parser.add_argument_group("what the recording does not state, or states wrongly")
    group.add_argument("--format", metavar="NAME", help="its format (default: recognised by its content)")
    group.add_argument("--fps", type=frame_rate, metavar="N", help="frames a second")
    group.add_argument("--unit", help="unit of positions: m, cm, mm, px, or any other name")
    group.add_argument("--axes", metavar="CODE", help="where x, y, z grow: R/L, D/U, T(oward)/A(way); RDT, RDA, RUA")
    group.add_argument("--mirrored", action="store_true", default=None, help="the image is mirrored")
    group.add_argument("--swap-sides", action="store_true", help="left and right joints are exchanged")
    group.add_argument("--image-size", type=image_size, metavar="WxH", help="image size in pixels, such as 1280x720")
    group.add_argument(
        "--depth-scale", type=speed, metavar="PX", help="pixels in a unit of MediaPipe's z (default: z is left out, 2D)"
    )
    group.add_argument("--world", action="store_true", help="read MediaPipe's world landmarks, in metres")
    group.add_argument(
        "--corrected", action="store_true", help="with --world: move joints to where bodies have them, as estimate does"
    )
    group.add_argument("--strict", action="store_true", help="refuse a file if anything in it is doubtful")


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `reading_options`, as arguments of `rtskel.formats.read`."""
    names = ("format", "fps", "unit", "axes", "mirrored", "swap_sides", "image_size", "depth_scale")
    return {name: getattr(args, name) for name in (*names, "world", "corrected", "strict")}


def read(args: argparse.Namespace, file: str | None = None, *, say: bool = True) -> list[Recording]:
    """The recordings in a file (default: the command line's), read with the options of `reading_options`.

    Args:
        say: print what the reader dropped or doubted on stderr.
    """
    from rtskel import formats

    file = args.file if file is None else file
    recordings = formats.read(file, **reading(args))
    for words in doubts(recordings) if say else ():
        note(f"{file}: {words}")
    return recordings


def doubts(recordings: list[Recording]) -> list[str]:
    """What the reader dropped or doubted, each thing once."""
    return list(dict.fromkeys(words for recording in recordings for words in recording.notes))
