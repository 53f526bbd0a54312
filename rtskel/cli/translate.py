"""`rtskel translate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtskel.cli.options import (
    Command,
    Layout,
    Parser,
    lookahead_or_offline,
    not_negative,
    positive,
    reading,
    reading_options,
    speed,
)
from rtskel.cli.output import Progress, note, print_json, print_table
from rtskel.cli.status import FAILED, OK, until_terminated
from rtskel.errors import FormatError

if TYPE_CHECKING:
    from rtskel.translate.inputs import Inputs
    from rtskel.translate.translator import Translator

MORE = """\
A folder of sentences holds for each split NAME.skels and NAME.text (and NAME.gloss), line by line; recordings
elsewhere need a table with the columns name, text (and split, gloss). See docs/translate.md.

examples:
  rtskel translate train --data phoenix --out runs/raw
  rtskel translate train --data phoenix --out runs/refined --refine bundled --set ctc=5
  rtskel translate evaluate runs/raw --data phoenix --split test --refine none --refine bundled --refine gaussian:1.4
  rtskel translate run runs/raw signer.npz"""


def _options(parser: Parser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True, parser_class=Parser)
    for name, summary, options in (
        ("train", "train a translator on recordings with texts", _train_options),
        ("evaluate", "score a translator: BLEU, chrF, ROUGE-L, WER", _evaluate_options),
        ("run", "translate recordings", _run_options),
    ):
        action = actions.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", formatter_class=Layout
        )
        options(action)
        action.set_defaults(parser=action)


def _input_options(parser: Parser, several: bool) -> None:
    group = parser.add_argument_group("what is done with poses before they are translated")
    group.add_argument(
        "--refine",
        metavar="ENGINE|FILTER|none",
        action="append" if several else "store",
        help="an engine's file, `bundled`, a filter such as gaussian:1.4 or linear+savitzky-golay:3,2, or none"
        + ("; several: a row each, the first is what the others are compared with" if several else ""),
    )
    group.add_argument(
        "--lookahead", metavar="N|offline", type=lookahead_or_offline, default=argparse.SUPPRESS,
        help="frames of the future that it may use (default: offline)",
    )  # fmt: skip
    group.add_argument("--radius", metavar="R", type=not_negative, help="average 2R+1 predictions (default 2)")
    group.add_argument("--precision", choices=["fp32", "bf16", "int8"], help="compute in this precision, if possible")
    group.add_argument(
        "--unseen", choices=["keep", "fill"], help="joints that are never seen: left missing (default), or filled in"
    )
    group.add_argument(
        "--max-gap", metavar="N", type=not_negative, default=argparse.SUPPRESS,
        help="joints missing for more than N frames in a row stay missing (default: all are filled in)",
    )  # fmt: skip


def _data_options(parser: Parser) -> None:
    parser.add_argument("--data", metavar="DIR", required=True, help="folder of sentences, or with --table recordings")
    parser.add_argument("--table", metavar="FILE", help=".tsv or .csv with columns name, text (and split, gloss)")


def _train_options(parser: Parser) -> None:
    _data_options(parser)
    parser.add_argument("--train", metavar="SPLIT", default="train", help="split to learn from (default train)")
    parser.add_argument("--dev", metavar="SPLIT", default="dev", help="split to validate with (default dev)")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the run")
    parser.add_argument("--config", metavar="FILE", help="JSON file with options that replace the defaults")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="replace one option (JSON value), such as ctc=5 or network.stack=2",
    )  # fmt: skip
    parser.add_argument("--time-budget", metavar="SECONDS", type=speed, help="end after this many seconds")
    parser.add_argument("--seed", metavar="N", type=not_negative, help="of initial weights, order and dropout")
    parser.add_argument("--resume", action="store_true", help="continue from the folder's last checkpoint")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads")
    _input_options(parser, several=False)
    reading_options(parser)


def _evaluate_options(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a translator: its file, or the folder of its run")
    _data_options(parser)
    parser.add_argument("--split", metavar="SPLIT", default="test", help="split to translate (default test)")
    parser.add_argument("--save", metavar="FILE", help="write the translations of the last row, a line a sentence")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads")
    _input_options(parser, several=True)
    reading_options(parser)


def _run_options(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a translator: its file, or the folder of its run")
    parser.add_argument("file", metavar="RECORDING", help="a recording, or a folder of them")
    parser.add_argument("--json", action="store_true", help="print JSON, a line a recording")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads")
    _input_options(parser, several=False)
    reading_options(parser)


def _run(args: argparse.Namespace) -> int:
    import torch

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with until_terminated():
        return {"train": _train, "evaluate": _evaluate, "run": _translate}[args.action](args)


def _inputs(args: argparse.Namespace, refine: str | None, learned: Inputs | None = None) -> Inputs:
    """What the options say; the rest is as the translator was trained."""
    from dataclasses import replace

    from rtskel.translate.inputs import Inputs

    given: dict[str, Any] = {key: getattr(args, key) for key in ("radius", "precision", "unseen")} | {"refine": refine}
    given = {key: value for key, value in given.items() if value is not None}
    given |= {key: getattr(args, key) for key in ("lookahead", "max_gap") if hasattr(args, key)}
    return replace(learned or Inputs(), **given)


def _train(args: argparse.Namespace) -> int:
    from rtskel.errors import RtskelError
    from rtskel.translate.data import sentences
    from rtskel.translate.train import TrainConfig, train

    try:
        given = json.loads(Path(args.config).read_text()) if args.config else {}
        for item in args.set:
            key, equals, value = item.partition("=")
            if not equals:
                raise RtskelError(f"--set {item}: KEY=VALUE expected (see {args.parser.prog} --help)")
            place, _, option = key.rpartition(".")
            (given.setdefault(place, {}) if place else given)[option] = json.loads(value)
        for key in ("time_budget", "seed"):
            if getattr(args, key) is not None:
                given[key] = getattr(args, key)
        config = TrainConfig.from_dict(given)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RtskelError(f"training config: {error}") from None
    splits = [sentences(args.data, split, args.table, **reading(args)) for split in (args.train, args.dev)]
    how = {"resume": args.resume, "threads": args.threads}
    train(config, (splits[0], splits[1]), _inputs(args, args.refine), args.out, **how)
    return OK


def _opened(model: str) -> Translator:
    from rtskel.translate.translator import Translator

    path = Path(model)
    return Translator.load(path / "best.safetensors" if path.is_dir() else path)


def _evaluate(args: argparse.Namespace) -> int:
    from rtskel.translate.data import sentences
    from rtskel.translate.evaluate import evaluate, header, rows, signatures

    translator = _opened(args.model)
    inputs = [_inputs(args, refine, translator.inputs) for refine in args.refine or [None]]
    chosen = sentences(args.data, args.split, args.table, **reading(args))
    with Progress("sentences", len(chosen)) as bar:
        results = evaluate(translator, chosen, inputs, bar.update, args.threads)
    if args.save:
        Path(args.save).write_text("".join(f"{text}\n" for text in results[-1].translations), encoding="utf-8")
    about = {"model": args.model, "data": args.data, "split": args.split, "sentences": len(chosen)}
    about |= {"learned from": str(translator.inputs), "beam": translator.search.beam, "alpha": translator.search.alpha}
    if args.json:
        print_json(about | {"signatures": signatures(), "results": [result.to_dict() for result in results]})
        return OK
    title = ", ".join(f"{key} {value}" for key, value in about.items())
    print_table(title, header(), rows(results))
    for name, signature in signatures().items():
        print(f"{name}: {signature}")
    return OK


def _translate(args: argparse.Namespace) -> int:
    from rtskel.translate.data import recordings_of

    translator = _opened(args.model)
    unread = dict[str, FormatError]()
    recordings = list(recordings_of(Path(args.file), reading(args), unread))
    for error in unread.values():
        if not recordings:
            raise error
        note(f"left out: {error}")
    for words in dict.fromkeys(words for recording in recordings for words in recording.notes):
        note(f"{args.file}: {words}")
    inputs = _inputs(args, args.refine, translator.inputs)
    frames = inputs.prepare(recordings, translator.network.config.skeleton, threads=args.threads)
    for recording, text in zip(recordings, translator.translate(frames), strict=True):
        if args.json:
            print_json({"name": recording.name, "text": text, "inputs": inputs.to_dict()})
        else:
            print(text if len(recordings) == 1 else f"{recording.name}\t{text}", flush=True)
    return FAILED if unread else OK


COMMAND = Command("translate", "train a sign language translator on poses, score it, use it", MORE, _options, _run)
