"""`rtskel serve`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from rtskel.cli.options import (
    Command,
    Parser,
    duration,
    engine_options,
    lookaheads_option,
    not_negative,
    number,
    positive,
)
from rtskel.cli.output import log_json, notes, print_json
from rtskel.cli.settings import printed, settings_options
from rtskel.cli.status import INTERRUPTED, OK, Incomplete, ended_by_ctrl_c, options_in_range
from rtskel.cli.view import LISTEN, listen_option, viewing
from rtskel.client import RAW_ENDPOINT, REFINED_ENDPOINT
from rtskel.errors import RtskelError
from rtskel.text import printable

if TYPE_CHECKING:
    from rtskel.engine import Engine
    from rtskel.serve import ServeConfig, Server
    from rtskel.serve.shards import Link

    Ready: TypeAlias = Callable[[Server, Engine, contextlib.ExitStack], None]

LIFT_LOOKAHEAD = 2
"""On motion capture with noise and holes, two frames reduce the error by 9%; two more reduce it by 1%."""

MORE = """\
Estimators publish raw poses to --raw; consumers subscribe to refined poses at --refined (rtskel/wire/WIRE.md specifies
both). Each lookahead is a topic of its own: a pose is published that many frames after its own frame arrived, and a
longer lookahead refines it better; 0 waits for nothing. Ctrl-C or SIGTERM completes all streams first. SIGUSR1 opens
the engine's file again and switches to it between two batches.

examples:
  rtskel serve
  rtskel serve --lookahead 0,4,12
  rtskel serve --view                          and show the streams in the browser, see rtskel view
  rtskel serve --engine skeletor.plan
  rtskel serve --engine skeletor.safetensors --gpu
  rtskel serve --lift --min-confidence 0.3     estimators without depth, such as OpenPose
  rtskel serve --metrics 9400                  figures for Prometheus
  rtskel serve --shards 4                      four processes behind one pair of endpoints
  rtskel serve --config rtskel.toml            options from a file; --print-config writes one
  rtskel serve --raw tcp://0.0.0.0:5555 --refined tcp://0.0.0.0:5556 --keys keys/server"""


def _options(parser: Parser) -> None:
    parser.add_argument(
        "--raw", metavar="ENDPOINT", default=RAW_ENDPOINT, help=f"where estimators publish (default {RAW_ENDPOINT})"
    )
    parser.add_argument(
        "--refined",
        metavar="ENDPOINT",
        default=REFINED_ENDPOINT,
        help=f"where consumers subscribe (default {REFINED_ENDPOINT})",
    )
    parser.add_argument("--keys", metavar="DIR", help="the server's keys, made by rtskel keygen")
    parser.add_argument("--insecure", action="store_true", help="let anybody connect, from other machines too")
    parser.add_argument("--json", action="store_true", help="print the endpoints as one JSON object")
    parser.add_argument(
        "--metrics",
        metavar="[HOST:]PORT",
        help="serve /metrics for Prometheus, /healthz and /readyz there (default host 127.0.0.1)",
    )
    parser.add_argument(
        "--shards",
        type=positive,
        default=1,
        metavar="N",
        help="serve with N processes, each with an engine, which share the streams (default 1)",
    )
    parser.add_argument("--log-json", action="store_true", help="log to stderr as JSON objects, one a line")
    settings_options(parser)
    listen_option(parser, "--view", "also run rtskel view, and serve its page there", nargs="?", const=LISTEN)
    lookaheads_option(parser, "4")
    engine_options(parser)
    parser.add_argument("--gpu-rings", action="store_true", help="keep the streams' frames on the GPU, too")
    parser.add_argument("--lift", action="store_true", help="also accept 2D poses, and estimate their depth")
    parser.add_argument(
        "--lift-lookahead",
        type=not_negative,
        default=LIFT_LOOKAHEAD,
        metavar="N",
        help=f"frames that lifting waits for, added to --lookahead (default {LIFT_LOOKAHEAD})",
    )
    _stream_options(parser)


def _stream_options(parser: Parser) -> None:
    group = parser.add_argument_group("streams")
    group.add_argument("--max-streams", type=positive, default=256, metavar="N", help="at once (default 256)")
    group.add_argument(
        "--max-gap",
        type=not_negative,
        default=25,
        metavar="N",
        help="fill at most N missing frames in a row (default 25)",
    )
    group.add_argument(
        "--slack-ms", type=duration, default=50.0, metavar="MS", help="a frame counts as missing this late (default 50)"
    )
    group.add_argument(
        "--idle", type=duration, default=30.0, metavar="S", help="forget streams silent for S s (default 30)"
    )
    group.add_argument(
        "--hop", type=positive, default=1, metavar="H", help="refine H frames at once, up to H - 1 later (default 1)"
    )
    group.add_argument(
        "--behind-ms",
        type=number("a number above 0, or inf", lambda value: value > 0),
        default=1000.0,
        metavar="MS",
        help="once live frames wait this long for the engine, newer ones come first; inf: never (default 1000)",
    )
    group.add_argument(
        "--max-age",
        type=number("a number above 0, or inf", lambda value: value > 0),
        metavar="S",
        help="in overload, live poses come out at most this long after their frame came (default twice --behind-ms)",
    )
    group.add_argument(
        "--unseen",
        action="store_true",
        help="when nobody has been seen for long, publish flagged poses without coordinates instead of nothing",
    )
    group.add_argument(
        "--engine-timeout",
        type=duration,
        default=5.0,
        metavar="S",
        help="an engine call that takes longer counts as a hang: poses pass through until it returns (default 5)",
    )
    group.add_argument(
        "--drain-s",
        type=duration,
        default=30.0,
        metavar="S",
        help="at the end, refine what was received for at most S s; exit status 1 if that is too short (default 30)",
    )
    group.add_argument(
        "--batch-wait-ms",
        type=duration,
        default=0.0,
        metavar="MS",
        help="wait for frames to refine together (default 0)",
    )


def _run(args: argparse.Namespace) -> int:
    if args.print_config:
        print("\n".join(printed(args.parser, args)))
        return OK
    if args.log_json:
        log_json()
    if args.view and args.keys:
        raise RtskelError("--view with --keys: run rtskel view beside it, with the keys of a client")
    if args.view:
        from rtskel.view import address

        address(args.view)  # and the package that it needs is there: before anything is served
    where = _metrics_at(args.metrics) if args.metrics else None
    number, undrained = (_alone if args.shards == 1 else _together)(args, _config(args), where)
    if undrained:
        raise Incomplete(f"{undrained} windows and messages were left after {args.drain_s:g} s")
    return INTERRUPTED if number == signal.SIGINT else OK


def _config(args: argparse.Namespace) -> ServeConfig:
    from rtskel.curve import ServerKeys
    from rtskel.serve import ServeConfig, StreamConfig

    with options_in_range():
        return ServeConfig(
            raw=args.raw,
            refined=args.refined,
            lookaheads=args.lookahead,
            radius=args.radius,
            min_confidence=args.min_confidence,
            streams=StreamConfig(
                max_streams=args.max_streams,
                max_gap=args.max_gap,
                slack_s=args.slack_ms / 1000,
                idle_s=args.idle,
                behind_s=args.behind_ms / 1000,
                max_age_s=args.max_age,
                unseen=args.unseen,
                ahead=max(64, args.max_gap + 1, args.lift_lookahead + args.hop),
            ),
            lift=args.lift_lookahead if args.lift else None,
            hop=args.hop,
            batch_wait_s=args.batch_wait_ms / 1000,
            drain_s=args.drain_s,
            engine_timeout_s=args.engine_timeout,
            keys=None if args.keys is None else ServerKeys.load(args.keys),
            insecure=args.insecure,
        )


@dataclass(frozen=True)
class _EngineOptions:
    """How to open the engine; can be sent to another process."""

    file: str | None
    precision: str | None
    threads: int | None
    device: str | None
    rings: bool | None

    @classmethod
    def of(cls, args: argparse.Namespace, threads: int | None) -> _EngineOptions:
        return cls(args.engine, args.precision, threads, "cuda" if args.gpu else None, args.gpu_rings or None)

    def open(self) -> Engine:
        from rtskel.engine import open_engine

        return open_engine(
            self.file, precision=self.precision, threads=self.threads, device=self.device, rings=self.rings
        )


def _serve(config: ServeConfig, options: _EngineOptions, ready: Ready) -> tuple[int, int]:
    """Serve until a signal comes; gives it, and how much was left undone at the end.

    Args:
        ready: called with the server, its engine, and what is to be closed at the end.
    """
    from rtskel.serve import run_server
    from rtskel.serve.notify import notify

    undrained: list[int] = []

    def ended(server: Server) -> None:
        notify("STOPPING=1")
        undrained.append(server.undrained)

    with ended_by_ctrl_c(), options.open() as engine, contextlib.ExitStack() as stack:
        number = run_server(
            config,
            engine,
            lambda server: ready(server, engine, stack),
            on_end=ended,
            reopen=options.open,
        )
    return number, sum(undrained)


def _alone(args: argparse.Namespace, config: ServeConfig, metrics: tuple[str, int] | None) -> tuple[int, int]:
    """One server, in this process."""
    from rtskel.serve.notify import notify

    if metrics is not None:
        from rtskel.serve.metrics import Metrics

    def ready(server: Server, engine: Engine, stack: contextlib.ExitStack) -> None:
        where: dict[str, Any] = {"raw": server.raw_endpoint, "refined": server.refined_endpoint}
        where["model"] = engine.info.model_id
        if metrics is not None:
            where["metrics"] = stack.enter_context(Metrics(server, *metrics)).url
        _say(args, config, where, engine.info.builder)
        if args.view:
            stack.enter_context(viewing(server.refined_endpoint, args.view))
        server.on_heartbeat.append(lambda _: notify("WATCHDOG=1"))
        notify("READY=1")

    return _serve(config, _EngineOptions.of(args, args.threads), ready)


def _together(args: argparse.Namespace, config: ServeConfig, metrics: tuple[str, int] | None) -> tuple[int, int]:
    """Several shards, which this process looks after."""
    from rtskel.engine import takes
    from rtskel.serve.notify import notify
    from rtskel.serve.shards import Shards, threads_of_each

    if metrics is not None:
        from rtskel.serve.shard_metrics import ShardMetrics

    threads = args.threads
    if threads is None and takes(args.engine, "threads"):
        threads = threads_of_each(args.shards)
    options = _EngineOptions.of(args, threads)
    shard = partial(_shard, options, args.log_json, metrics is not None)
    with contextlib.ExitStack() as stack:
        shards = stack.enter_context(Shards(config, args.shards, shard))
        first = shards.first
        where: dict[str, Any] = {"raw": shards.raw_endpoint, "refined": shards.refined_endpoint, "model": first.model}
        told = shards.serving.values()
        where["shards"] = [{"pid": pid, "raw": ready.raw, "refined": ready.refined} for pid, ready in told]
        if metrics is not None:
            where["metrics"] = stack.enter_context(ShardMetrics(shards, *metrics)).url
        _say(args, config, where, f"{first.runs_on}, {args.shards} shards")
        if args.view:
            stack.enter_context(viewing(shards.refined_endpoint, args.view))
        notify("READY=1")
        number = shards.run(lambda: notify("WATCHDOG=1"))
        return number, shards.undrained


def _shard(options: _EngineOptions, as_json: bool, metrics: bool, config: ServeConfig, link: Link) -> None:
    """One of them, in a process of its own."""
    from rtskel.serve.shards import Ready

    os.environ.pop("NOTIFY_SOCKET", None)  # the service manager hears of the parent
    notes(f"shard {config.shard[0]}: " if config.shard else "")
    if as_json:
        log_json()
    if metrics:
        from rtskel.serve.metrics import Metrics

    def ready(server: Server, engine: Engine, stack: contextlib.ExitStack) -> None:
        url = stack.enter_context(Metrics(server, "127.0.0.1", 0)).url if metrics else ""
        info = engine.info
        link.ready(
            Ready(server.raw_endpoint, server.refined_endpoint, info.model_id, info.skeleton_id, info.builder, url)
        )
        server.on_heartbeat.append(lambda _: link.beat())

    _, undrained = _serve(config, options, ready)
    link.end(undrained)


def _say(args: argparse.Namespace, config: ServeConfig, where: dict[str, Any], runs_on: str) -> None:
    """Where clients find what, on stdout."""
    if args.json:
        print_json(where | {"lookaheads": config.lookaheads, "lift_lookahead": config.lift, "runs_on": runs_on})
        return
    lifting = "" if config.lift is None else f", of 2D poses {config.lift} frames more"
    line = (
        f"raw poses at {where['raw']}, refined poses at {where['refined']} with lookahead "
        f"{', '.join(map(str, config.lookaheads))}{lifting}; {where['model']} on {runs_on}"
    )
    line += f"; metrics at {where['metrics']}" if "metrics" in where else ""
    print(f"rtskel: {printable(line)}", flush=True)


def _metrics_at(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or (colon and not host):
        raise RtskelError(f"argument --metrics: {text!r}: PORT or HOST:PORT expected, such as 9400")
    return host.strip("[]") or "127.0.0.1", int(port)


COMMAND = Command("serve", "refine every stream that is published to it", MORE, _options, _run)
