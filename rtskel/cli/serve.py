"""`rtskel serve`."""

from __future__ import annotations

import argparse
import contextlib
import signal

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
from rtskel.cli.output import log_json, print_json
from rtskel.cli.settings import printed, settings_options
from rtskel.cli.status import INTERRUPTED, OK, Incomplete, options_in_range
from rtskel.cli.view import LISTEN, listen_option, viewing
from rtskel.client import RAW_ENDPOINT, REFINED_ENDPOINT
from rtskel.errors import RtskelError
from rtskel.text import printable

LIFT_LOOKAHEAD = 2
"""On motion capture with noise and holes, two frames reduce the error by 9%; two more reduce it by 1%."""

MORE = """\
Estimators publish raw poses to --raw; consumers subscribe to refined poses at --refined (rtskel/wire/WIRE.md specifies
both). Each lookahead is a topic of its own: a pose is published that many frames after its own frame arrived, and a
longer lookahead refines it better; 0 waits for nothing. Ctrl-C or SIGTERM completes all streams first. SIGUSR1 opens
the engine's file anew and goes on with that engine between two batches.

examples:
  rtskel serve
  rtskel serve --lookahead 0,4,12
  rtskel serve --view                          and show the streams in the browser, see rtskel view
  rtskel serve --engine skeletor.plan
  rtskel serve --engine skeletor.safetensors --gpu
  rtskel serve --lift --min-confidence 0.3     estimators without depth, such as OpenPose
  rtskel serve --metrics 9400                  figures for Prometheus
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
        help="in overload, live poses come out this long after their frame came at most (default twice --behind-ms)",
    )
    group.add_argument(
        "--unseen",
        action="store_true",
        help="where nobody has been seen for long, publish flagged poses without coordinates, instead of nothing",
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
    from rtskel.curve import ServerKeys
    from rtskel.engine import Engine, open_engine
    from rtskel.serve import ServeConfig, Server, StreamConfig, run_server
    from rtskel.serve.notify import notify

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
    if args.metrics:
        from rtskel.serve.metrics import Metrics

        host, port = _metrics_at(args.metrics)
    with options_in_range():
        config = ServeConfig(
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

    def ready(server: Server) -> None:
        where = {"raw": server.raw_endpoint, "refined": server.refined_endpoint, "model": engine.info.model_id}
        if args.metrics:
            where["metrics"] = stack.enter_context(Metrics(server, host, port)).url
        if args.json:
            ahead = {"lookaheads": config.lookaheads, "lift_lookahead": config.lift}
            print_json(where | ahead | {"runs_on": engine.info.builder})
        else:
            lifting = "" if config.lift is None else f", of 2D poses {config.lift} frames more"
            line = (
                f"raw poses at {where['raw']}, refined poses at {where['refined']} with lookahead "
                f"{', '.join(map(str, config.lookaheads))}{lifting}; {where['model']} on {engine.info.builder}"
            )
            line += f"; metrics at {where['metrics']}" if args.metrics else ""
            print(f"rtskel: {printable(line)}", flush=True)
        if args.view:
            stack.enter_context(viewing(server.refined_endpoint, args.view))
        server.on_heartbeat.append(lambda _: notify("WATCHDOG=1"))
        notify("READY=1")

    device = "cuda" if args.gpu else None
    options = {"precision": args.precision, "threads": args.threads, "device": device, "rings": args.gpu_rings or None}
    undrained: list[int] = []

    def ended(server: Server) -> None:
        notify("STOPPING=1")
        undrained.append(server.undrained)

    def reopen() -> Engine:
        return open_engine(args.engine, **options)

    with reopen() as engine, contextlib.ExitStack() as stack:
        number = run_server(config, engine, ready, on_end=ended, reopen=reopen)
    if any(undrained):
        raise Incomplete(f"{undrained[0]} windows and messages were left after {args.drain_s:g} s")
    return INTERRUPTED if number == signal.SIGINT else OK


def _metrics_at(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or (colon and not host):
        raise RtskelError(f"argument --metrics: {text!r}: PORT or HOST:PORT expected, such as 9400")
    return host.strip("[]") or "127.0.0.1", int(port)


COMMAND = Command("serve", "refine every stream that is published to it", MORE, _options, _run)
