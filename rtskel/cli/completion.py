"""`rtskel completion`: scripts with which a shell completes commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from rtskel.cli.options import Command, Parser
from rtskel.cli.status import OK

MORE = """\
examples:
  eval "$(rtskel completion bash)"                                   in ~/.bashrc
  eval "$(rtskel completion zsh)"                                    in ~/.zshrc, after compinit
  rtskel completion fish > ~/.config/fish/completions/rtskel.fish"""

BASH = """\
_rtskel() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="%(commands)s --help --version"
    else
        case "${COMP_WORDS[1]} $before" in
%(choices)s
        esac
        if [ -z "$words" ]; then
            case "$word" in
                -*) case "${COMP_WORDS[1]}" in
%(options)s
                esac ;;
            esac
        fi
    fi
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -o bashdefault -o default -F _rtskel rtskel"""


def _options(parser: Parser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="bash, zsh or fish")


def _run(args: argparse.Namespace) -> int:
    print(_fish(args.commands) if args.shell == "fish" else _bash(args.commands, zsh=args.shell == "zsh"))
    return OK


def _bash(parsers: dict[str, argparse.ArgumentParser], *, zsh: bool) -> str:
    options, choices = [], []
    for name, parser in parsers.items():
        strings = [string for action in _visible(parser) for string in action.option_strings]
        options.append(f'                    {name}) words="{" ".join(strings)}" ;;')
        for action in _visible(parser):
            if action.choices:
                values = " ".join(map(str, action.choices))
                keys = [f'"{name} {string}"' for string in action.option_strings or [name]]
                choices.append(f'            {"|".join(keys)}) words="{values}" ;;')
    script = BASH % {"commands": " ".join(parsers), "options": "\n".join(options), "choices": "\n".join(choices)}
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if zsh else script


def _fish(parsers: dict[str, argparse.ArgumentParser]) -> str:
    first = "not __fish_seen_subcommand_from " + " ".join(parsers)
    lines = [f"complete -c rtskel -n '{first}' -l version -d 'print the version'"]
    for name, parser in parsers.items():
        lines.append(f"complete -c rtskel -f -n '{first}' -a {name} -d {_quoted(parser.description or '')}")
        for action in _visible(parser):
            words = [f"complete -c rtskel -n '__fish_seen_subcommand_from {name}'"]
            words += [f"-l {s[2:]}" if s.startswith("--") else f"-s {s[1:]}" for s in action.option_strings]
            if action.choices:
                words.append(f"-x -a {_quoted(' '.join(map(str, action.choices)))}")
            elif not action.option_strings:
                continue
            elif action.nargs != 0:
                words.append("-r")
            lines.append(" ".join([*words, f"-d {_quoted(action.help or '')}"]))
    return "\n".join(lines)


def _visible(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if action.help != argparse.SUPPRESS)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


COMMAND = Command("completion", "print a script that completes commands in your shell", MORE, _options, _run)
