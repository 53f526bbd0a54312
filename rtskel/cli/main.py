"""The `rtskel` command: finds the subcommand, and turns how it ends into an exit status.

A user's mistake is one line on stderr and status 2; work that could only be done in part is status 1. Ctrl-C ends with
130, SIGTERM with 143, and a reader that goes away (`| head`) with 141. Subcommands import heavy packages when they run,
so that `rtskel --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence

from rtskel import __version__
from rtskel.cli import (
    completion,
    convert,
    demo,
    draw,
    engines,
    estimate,
    info,
    keygen,
    lift,
    pairs,
    plugins,
    publish,
    refine,
    serve,
    settings,
    subscribe,
    translate,
    view,
)
from rtskel.cli.options import Layout, Parser
from rtskel.cli.output import note, notes
from rtskel.cli.status import FAILED, INTERRUPTED, NO_READER, USAGE, Incomplete, Terminated
from rtskel.errors import RtskelError

COMMANDS = (
    demo.COMMAND,
    serve.COMMAND,
    publish.COMMAND,
    subscribe.COMMAND,
    view.COMMAND,
    plugins.SEND,
    plugins.RECEIVE,
    estimate.COMMAND,
    refine.COMMAND,
    lift.COMMAND,
    draw.COMMAND,
    convert.COMMAND,
    info.COMMAND,
    translate.COMMAND,
    engines.EXPORT,
    engines.BUILD,
    pairs.COMMAND,
    keygen.COMMAND,
    completion.COMMAND,
)

TRAINING = {"train": "train a model", "evaluate": "measure an engine against the truth"}
"""Commands that are the `main` of a module in `rtskel.training`, which parses their options."""

EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "tensorboard": "train",
    "matplotlib": "draw",
    "openvino": "serve",
    "rich": "serve",
    "sacrebleu": "train",
    "websockets": "view",
    "prometheus_client": "metrics",
}
"""Packages that a subcommand may find missing, and the extra that installs them."""

OVERVIEW = """\
start here:
  rtskel demo                                  see it work: server, jittery stream, before and after

live, in three terminals:
  rtskel serve --lookahead 0,4                 refine whatever is published to it
  rtskel subscribe                             watch the refined poses (--json, --save out.npz)
  rtskel view                                  see them in the browser, in 3D
  rtskel publish recording.npz                 replay a recording as a pose estimator would, or
  rtskel estimate --camera 0                   be one: MediaPipe Holistic on a camera or a video

files:
  rtskel refine in.npz out.npz --lookahead 4   refine a recording
  rtskel convert in.pose out.npz               from any format to another
  rtskel info in.npz                           what is in a recording, or in an engine

`rtskel COMMAND --help` explains each command with examples."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own); returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    notes()
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except RtskelError as error:
        _error(error)
        return FAILED if isinstance(error, Incomplete) else USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated as signal:
        return signal.status
    except BrokenPipeError:  # before its base class, OSError
        # Discard what is still buffered, or Python would complain about it at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except OSError as error:  # such as a full disk under stdout
        _error(error)
        return USAGE


def _error(error: Exception) -> None:
    with contextlib.suppress(BrokenPipeError):
        note(f"error: {error}")


def _run(argv: list[str]) -> int:
    try:
        if argv[:1] and argv[0] in TRAINING:
            trained: int = importlib.import_module(f"rtskel.training.{argv[0]}").main(argv[1:], Parser)
            return trained
        top = parser()
        args, unknown = top.parse_known_args(argv)
        if unknown:
            getattr(args, "parser", top).unknown(unknown)
        if "run" not in args:
            top.print_help(sys.stderr)
            return USAGE
        if getattr(args, "config", None):
            args = top.parse_args([argv[0], *settings.arguments(args.parser, args.config), *argv[1:]])
        status: int = args.run(args)
        return status
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise RtskelError(
            f"{argv[0]} needs {package}, which is not installed: pip install 'rtskel[{EXTRAS[package]}]'"
        ) from None


def commands() -> dict[str, argparse.ArgumentParser]:
    """Each command's parser, by its name."""
    return dict(parser().get_default("commands"))


def parser() -> Parser:
    """The parser of the whole command line."""
    top = Parser(
        prog="rtskel",
        description="Refines 3D skeletal poses in real time: less jitter, no lost hands, no dropped frames.",
        epilog=OVERVIEW,
        formatter_class=Layout,
    )
    top.add_argument("--version", action="version", version=f"rtskel {__version__}")
    subparsers = top.add_subparsers(metavar="COMMAND", parser_class=Parser)
    top.set_defaults(commands=subparsers.choices)
    for command in COMMANDS:
        sub = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=command.more,
            formatter_class=Layout,
        )
        command.options(sub)
        sub.set_defaults(run=command.run, parser=sub, command=command.name)
    for name, summary in TRAINING.items():
        subparsers.add_parser(name, help=f"{summary} (see rtskel {name} --help)", add_help=False)
    return top
