"""Options from a TOML file: a key for each long option of a command. The command line takes precedence."""

from __future__ import annotations

import argparse
import difflib
import json
import tomllib
from collections.abc import Iterator
from typing import Any

from rtskel.cli.options import Parser
from rtskel.errors import RtskelError


def settings_options(parser: Parser) -> None:
    """`--config` and `--print-config`."""
    parser.add_argument("--config", metavar="FILE", help="options from a TOML file; those given here take precedence")
    parser.add_argument("--print-config", action="store_true", help="print all options as such a file, and exit")


def arguments(parser: argparse.ArgumentParser, file: str) -> list[str]:
    """The options in a file, as a command line.

    Args:
        parser: of the command.
        file: TOML: `max-streams = 64`, `lift = true`, `lookahead = [0, 4]`.

    Raises:
        RtskelError: not TOML, a key that is not an option of the command, or a value that an option cannot have.
    """
    try:
        with open(file, "rb") as opened:
            table = tomllib.load(opened)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RtskelError(f"{file}: not TOML: {error}") from None
    except RecursionError:
        raise RtskelError(f"{file}: not TOML that can be read: nested too deeply") from None
    options = dict(_options(parser))
    found: list[str] = []
    for key, value in table.items():
        if key not in options:
            near = difflib.get_close_matches(key, options, 1, 0.6)
            raise RtskelError(f"{file}: no option is called {key!r}" + (f", did you mean {near[0]}?" if near else ""))
        found += _argument(options[key], key, value, file)
    return found


def printed(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[str]:
    """Lines of a TOML file with the options of a command line, each explained."""
    for key, action in _options(parser):
        value = getattr(args, action.dest)
        yield f"# {(action.help or '').replace('%%', '%')}"
        yield f"# {key} =" if value is None else f"{key} = {_toml(value)}"


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--") and action.dest not in ("help", "config", "print_config"):
                yield option[2:], action


def _argument(action: argparse.Action, key: str, value: Any, file: str) -> list[str]:
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise RtskelError(f"{file}: {key} is {value!r}: true or false expected")
        return [f"--{key}"] * value
    if value is True and action.nargs == "?":
        return [f"--{key}"]
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values) or not values:
        raise RtskelError(f"{file}: {key} is {value!r}: a number, a text or a list of them expected")
    return [f"--{key}={','.join(map(str, values))}"]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
