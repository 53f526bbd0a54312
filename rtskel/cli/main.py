"""The `rtskel` command.

Every subcommand is one function that returns the exit status. What a user can do wrong ends as one line on stderr and
status 2; Ctrl-C ends cleanly with 130, and a reader that goes away (`| head`) with 141. Anything heavy is imported by
the subcommand that needs it, so that `rtskel --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rtskel import __version__
from rtskel.errors import RtskelError

if TYPE_CHECKING:
    from rich.progress import Progress

    from rtskel.formats import Recording

RAW = "tcp://127.0.0.1:5555"
REFINED = "tcp://127.0.0.1:5556"

LIFT_LOOKAHEAD = 2
"""On motion capture with noise and holes, two frames take 9% off the error; two more frames take off 1%."""

OK, FAILED, USAGE, INTERRUPTED, TERMINATED, NO_READER = 0, 1, 2, 130, 143, 141

EXTRAS = {"torch": "train", "safetensors": "train", "onnx": "train", "onnxscript": "train", "tensorboard": "train"}
EXTRAS |= {"matplotlib": "draw"}
"""Which extra brings a package that a subcommand may find absent."""


_APART = {"train": "train a model", "evaluate": "measure an engine against the truth"}
"""Commands that parse their own options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own); returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            if argv[:1] and argv[0] in _APART:
                return _module(argv[0], argv[1:])
            args = _parser().parse_args(argv)
            status: int = args.run(args)
            sys.stdout.flush()
            return status
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            raise RtskelError(
                f"{argv[0]} needs {package}, which is not installed: pip install 'rtskel[{EXTRAS[package]}]'"
            ) from None
    except RtskelError as error:
        with contextlib.suppress(BrokenPipeError):
            print(f"rtskel: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except _Terminated:
        return TERMINATED
    except BrokenPipeError:  # before its parent, OSError
        # Whatever is still buffered goes nowhere, or Python would complain about it at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except OSError as error:  # such as a full disk under stdout
        print(f"rtskel: error: {error}", file=sys.stderr)
        return USAGE


# What can be typed


class _Layout(argparse.RawDescriptionHelpFormatter):
    """Examples stay as they are written, and every command's summary stands beside its name."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        self._action_max_length = 15  # argparse forgets the names of subcommands when it takes the measure


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RtskelError(f"{message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="rtskel",
        description="Refines 3D skeletal poses in real time: less jitter, no lost hands, no dropped frames.",
        epilog="""\
start here:
  rtskel demo                                  see it work: server, jittery stream, before and after

live, in three terminals:
  rtskel serve --lookahead 0,4                 refine whatever is published to it
  rtskel subscribe                             watch the refined poses (--json, --save out.npz)
  rtskel publish recording.npz                 replay a recording as a pose estimator would, or
  rtskel estimate --camera 0                   be one: MediaPipe Holistic on a camera or a video

files:
  rtskel refine in.npz out.npz --lookahead 4   refine a recording
  rtskel convert in.pose out.npz               from any format to another
  rtskel info in.npz                           what is in a recording, or in an engine

`rtskel COMMAND --help` explains each command with examples.""",
        formatter_class=_Layout,
    )
    parser.add_argument("--version", action="version", version=f"rtskel {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = "") -> _Parser:
        sub: _Parser = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=more,
            formatter_class=_Layout,
        )
        sub.set_defaults(run=run)
        return sub

    demo = command(
        "demo",
        _demo,
        "see it work: a server, a jittery replay, and the errors before and after",
        """\
Starts a real server, replays a bundled recording with jitter, lost hands and dropped frames at its frame rate, and
compares what comes out with the truth. Ends with 0 only if every pose arrived once and refinement helped on every row.

examples:
  rtskel demo
  rtskel demo --recording clean.skels --lookahead 0,4,12
  rtskel demo --json > result.json""",
    )
    demo.add_argument("--recording", metavar="FILE", help="clean recording to use as truth instead of the bundled one")
    _lookahead_option(demo, "0,4")
    demo.add_argument("--engine", metavar="FILE", help="engine to serve with (default: the bundled one)")
    demo.add_argument("--speed", type=float, default=1.0, help="replay this many times as fast (default 1)")
    demo.add_argument("--json", action="store_true", help="print the result as one JSON object")

    serve = command(
        "serve",
        _serve,
        "refine every stream that is published to it",
        """\
Estimators publish raw poses to --raw; consumers subscribe to refined poses at --refined (the format of both is in
rtskel/wire/WIRE.md). Each lookahead is a topic of its own: a pose leaves that many frames after its own frame came,
and is the better for it; 0 waits for nothing. Ctrl-C or SIGTERM completes all streams first.

examples:
  rtskel serve
  rtskel serve --lookahead 0,4,12
  rtskel serve --engine skeletor.plan
  rtskel serve --lift --min-confidence 0.3     estimators that know no depth, such as OpenPose
  rtskel serve --raw tcp://0.0.0.0:5555 --refined tcp://0.0.0.0:5556 --keys keys/server""",
    )
    _serve_options(serve)

    publish = command(
        "publish",
        _publish,
        "replay a recording as a pose estimator would publish it",
        """\
Waits for a server, then sends each sequence of FILE as a stream of its own, in real time.

examples:
  rtskel publish recording.npz
  rtskel publish dev.skels --drop 0.1 --jitter-ms 15
  rtskel publish recording.npz --stream cam1 --loop
  rtskel publish dev.skels --together --speed inf    as fast as the server takes them""",
    )
    publish.add_argument("file", metavar="FILE", help="recording, a file or a folder (see rtskel convert --help)")
    _endpoint_option(publish, "--raw", RAW, "where the server takes raw poses")
    publish.add_argument("--stream", metavar="ID", help="stream id (default: each sequence's name)")
    publish.add_argument("--drop", type=float, default=0.0, metavar="SHARE", help="leave out this share of the frames")
    publish.add_argument("--jitter-ms", type=float, default=0.0, metavar="MS", help="delay frames by up to this much")
    publish.add_argument("--speed", type=float, default=1.0, help="replay this many times as fast; inf: no waiting")
    publish.add_argument("--together", action="store_true", help="all sequences at once, not one after another")
    publish.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C")
    publish.add_argument("--wait", type=float, metavar="S", help="give up after S seconds without a server")
    publish.add_argument("--seed", type=int, default=0, help="of what --drop and --jitter-ms draw (default 0)")
    _reading_options(publish)

    subscribe = command(
        "subscribe",
        _subscribe,
        "watch, print or save refined poses",
        """\
Shows a live table; with --json, prints one JSON object a line for every pose, event and heartbeat. Whatever is
published after the first heartbeat came is received. --save writes .npz, .csv or .jsonl, which hold everything, or
.skels or .bvh, of which several files are written where one cannot hold all.

examples:
  rtskel subscribe
  rtskel subscribe --stream cam1 --lookahead 4 --json | jq 'select(.kind == "pose").xyz[4]'
  rtskel subscribe --save out.npz --until-end""",
    )
    _endpoint_option(subscribe, "--refined", REFINED, "where the server publishes refined poses")
    subscribe.add_argument("--stream", metavar="ID,...", help="only these streams (default: all)")
    subscribe.add_argument(
        "--lookahead", metavar="N,...", type=_frames_list, help="only these lookaheads (default: all)"
    )
    subscribe.add_argument("--json", action="store_true", help="print one JSON object a line")
    subscribe.add_argument("--save", metavar="FILE", help="write all poses to this recording at the end")
    subscribe.add_argument("--frames", type=positive, metavar="N", help="end after N poses")
    subscribe.add_argument(
        "--until-end", action="store_true", help="end once every stream seen has ended and 2 s brought no other"
    )

    estimate = command(
        "estimate",
        _estimate,
        "find poses in a video or camera by MediaPipe Holistic, and publish them",
        """\
Waits for a server, then plays VIDEO as if a camera took it: a frame that comes while the estimator is busy is lost. In
metres, of which MediaPipe's own are the body's; --pixels for pictures over the video.

examples:
  rtskel estimate signer.mp4
  rtskel estimate --camera 0 --stream cam1
  rtskel estimate signer.mp4 --fast                          every frame, however long it takes
  rtskel estimate signer.mp4 -o raw.npz                      no server: every frame into a recording
  rtskel estimate signer.mp4 -o pixels.npz --pixels && rtskel draw pixels.npz -o over.mp4 --video signer.mp4""",
    )
    estimate.add_argument("video", metavar="VIDEO", nargs="?", help="video file")
    estimate.add_argument("--camera", type=int, metavar="N", help="a camera instead, by its number; until Ctrl-C")
    _endpoint_option(estimate, "--raw", RAW, "where the server takes raw poses")
    estimate.add_argument("--stream", metavar="ID", help="stream id (default: the video's name, or cameraN)")
    estimate.add_argument("--wait", type=float, metavar="S", help="give up after S seconds without a server")
    estimate.add_argument("--fast", action="store_true", help="every frame of VIDEO as fast, or slowly, as it goes")
    estimate.add_argument("--save", metavar="FILE", help="also write what was published to this recording")
    estimate.add_argument("-o", "--out", metavar="FILE", help="write every frame to this recording, publish nothing")
    estimate.add_argument("--pixels", action="store_true", help="poses as they lie in the image, not in metres")
    estimate.add_argument(
        "--complexity", type=int, choices=[0, 1, 2], default=1, help="of MediaPipe's body model (default 1)"
    )
    estimate.add_argument("--smooth", action="store_true", help="let MediaPipe smooth, too; it delays")

    refine = command(
        "refine",
        _refine,
        "refine a recording, from file to file",
        """\
Dropped frames are filled in. An .npz output also holds sigma (how far the averaged predictions lie apart).

examples:
  rtskel refine in.skels out.skels             the offline protocol: every frame sees all around it
  rtskel refine in.npz out.npz --lookahead 4   exactly what `rtskel serve --lookahead 4` would publish""",
    )
    refine.add_argument("file", metavar="IN", help="recording, a file or a folder (see rtskel convert --help)")
    refine.add_argument("out", metavar="OUT", help="recording to write")
    refine.add_argument(
        "--lookahead", metavar="N|offline", type=_lookahead_or_offline, default=None, help="frames (default: offline)"
    )
    _engine_options(refine)
    _reading_options(refine)

    lift = command(
        "lift",
        _lift,
        "give the poses of a 2D recording a depth",
        """\
Finds a skeleton of constant bones whose image is what the estimator saw, for somebody who faces the camera. Unit and
place stay those of the image; z is counted from the neck, toward the camera.

examples:
  rtskel lift openpose_output/ lifted.npz --fps 24
  rtskel lift in.npz lifted.npz --lookahead 4   frame by frame, as a live stream is lifted""",
    )
    lift.add_argument("file", metavar="IN", help="recording, a file or a folder (see rtskel convert --help)")
    lift.add_argument("out", metavar="OUT", help="recording to write")
    lift.add_argument(
        "--lookahead", metavar="N|offline", type=_lookahead_or_offline, default=None, help="frames (default: offline)"
    )
    lift.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="C", help="joints below it count as missing (default 0)"
    )
    _reading_options(lift)

    draw = command(
        "draw",
        _draw,
        "draw recordings: skeletons by frame, joints over time, over a video",
        """\
Every recording of every IN is a row of skeletons, or in a .gif or .mp4 a moving one beside the others. Joints that are
missing are not drawn; what refinement filled in is drawn lighter, and shaded where joints are followed over time.

examples:
  rtskel draw raw.npz refined.npz -o refined.png
  rtskel draw raw.npz refined.npz -o refined.png --traces right_wrist.y,left_index_4 --slots 100:220
  rtskel draw raw.npz refined.npz -o refined.mp4
  rtskel draw pixels.npz -o overlay.gif --video signer.mp4     poses in the pixels of the video""",
    )
    draw.add_argument("files", metavar="IN", nargs="+", help="recordings")
    draw.add_argument("-o", "--out", metavar="FILE", required=True, help=".png, .pdf, .svg, .jpg, .gif or .mp4")
    draw.add_argument("--stream", metavar="NAME,...", help="only recordings of these names")
    draw.add_argument("--lookahead", metavar="N,...", type=_frames_list, help="of refined ones, only these lookaheads")
    draw.add_argument("--labels", metavar="TEXT,...", help="one for each recording (default: its name)")
    draw.add_argument("--traces", metavar="JOINT,...", help="joints to follow over time, such as right_wrist.y")
    draw.add_argument("--slots", metavar="A:B|N,...", type=_slots, help="frames A to B, or exactly these frames")
    draw.add_argument("--columns", type=positive, default=10, metavar="N", help="skeletons of A:B (default 10)")
    draw.add_argument("--truth", metavar="FILE", help="recording to draw in grey behind all others")
    draw.add_argument("--video", metavar="FILE", help="video to draw over; poses are in its pixels")
    _reading_options(draw)

    convert = command(
        "convert",
        _convert,
        "turn a recording into another format",
        """\
IN is recognised by what is in it: .npz, .csv and .jsonl of rtskel's own, .skels, a folder of OpenPose's JSON, MMPose's
COCO-WholeBody JSON or RTMW's arrays, .pose, MediaPipe Holistic's landmarks in an .npz. Several people in it become
several sequences. OUT is .npz, .csv, .jsonl, .skels or .bvh (one sequence, for animation software).

examples:
  rtskel convert openpose_output/ out.npz --fps 24
  rtskel convert in.pose out.csv
  rtskel convert refined.npz signer.bvh --stream cam1""",
    )
    convert.add_argument("file", metavar="IN", help="recording to read, a file or a folder")
    convert.add_argument("out", metavar="OUT", help="recording to write")
    convert.add_argument("--stream", metavar="ID,...", help="only these sequences (default: all)")
    _reading_options(convert)

    info = command(
        "info",
        _info,
        "say what an engine or a recording is",
        """\
examples:
  rtskel info                    the bundled engine
  rtskel info skeletor.plan
  rtskel info recording.npz --json""",
    )
    info.add_argument("file", metavar="FILE", nargs="?", help="engine or recording (default: the bundled engine)")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    _reading_options(info)

    export = command(
        "export",
        _export,
        "turn weights into an ONNX engine",
        "example:\n  rtskel export skeletor.safetensors -o skeletor.onnx --precision bf16",
    )
    export.add_argument("weights", metavar="WEIGHTS", help="a .safetensors file")
    export.add_argument("-o", "--out", metavar="FILE", required=True, help="the .onnx file to write")
    export.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default fp32")

    build = command(
        "build",
        _build,
        "turn an ONNX engine into a TensorRT plan; with TensorRT-RTX, no GPU is needed",
        """\
examples:
  rtskel build skeletor.onnx -o skeletor.plan
  rtskel build skeletor.onnx -o skeletor.plan --gpu 8.9,12.0 --max-batch 256""",
    )
    build.add_argument("onnx", metavar="ONNX", help="an .onnx file made by rtskel export")
    build.add_argument("-o", "--out", metavar="FILE", required=True, help="the .plan file to write")
    build.add_argument("--gpu", type=_capabilities, metavar="CC,...", help="compute capabilities, such as 8.9,12.0")
    build.add_argument("--max-batch", type=positive, default=64, metavar="N", help="largest batch (default 64)")
    build.add_argument("--opt-batch", type=positive, metavar="N", help="batch to tune for (default 8)")
    build.add_argument("--backend", choices=["auto", "tensorrt", "tensorrt_rtx"], default="auto", help="default auto")

    keygen = command(
        "keygen",
        _keygen,
        "make the keys with which a server can be opened to other machines",
        """\
DIR/server stays on the server; each client's folder moves to its machine. Run again to add clients.

example:
  rtskel keygen keys --client cam1 --client viewer""",
    )
    keygen.add_argument("dir", metavar="DIR", help="folder to put them in")
    keygen.add_argument("--client", metavar="NAME", action="append", help="a client (default: one, called client)")

    for name, summary in _APART.items():
        commands.add_parser(name, help=summary + f" (see rtskel {name} --help)", add_help=False)
    parser.set_defaults(run=lambda _: _no_command(parser))
    return parser


def _no_command(parser: _Parser) -> int:
    parser.print_help(sys.stderr)
    return USAGE


def positive(text: str) -> int:
    """An option's whole number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more expected")
    return value


def _frames_list(text: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = (-1,)
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of frames such as 0,4 expected")
    return tuple(dict.fromkeys(values))


def _slots(text: str) -> tuple[int, int] | list[int]:
    """A span, or frame numbers."""
    try:
        first, colon, end = text.partition(":")
        return (int(first or 0), int(end)) if colon else [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: A:B, or frame numbers such as 10,20 expected") from None


def _lookahead_or_offline(text: str) -> int | None:
    if text == "offline":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of frames, or offline expected")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: a size such as 1280x720 expected")
    return int(found[1]), int(found[2])


def _capabilities(text: str) -> tuple[str, ...]:
    """8.9,12.0 and sm89,SM120 alike."""
    parts = [part.lower().removeprefix("sm").removeprefix("_") for part in text.split(",")]
    return tuple(part if "." in part else f"{part[:-1]}.{part[-1:]}" for part in parts)


def _endpoint_option(parser: _Parser, name: str, default: str, what: str) -> None:
    parser.add_argument(name, metavar="ENDPOINT", default=default, help=f"{what} (default {default})")
    parser.add_argument("--keys", metavar="DIR", help="this client's keys, made by rtskel keygen")


def _lookahead_option(parser: _Parser, default: str) -> None:
    parser.add_argument(
        "--lookahead",
        metavar="N,...",
        type=_frames_list,
        default=_frames_list(default),
        help=f"frames that a pose waits for (default {default})",
    )


def _engine_options(parser: _Parser) -> None:
    parser.add_argument("--engine", metavar="FILE", help=".onnx, .plan or .safetensors (default: the bundled one)")
    parser.add_argument("--precision", choices=["fp32", "bf16", "int8"], help="compute in it, if the engine can")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the engine")
    parser.add_argument("--radius", type=int, default=2, metavar="R", help="average 2R+1 predictions (default 2)")
    parser.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="C", help="joints below it count as missing (default 0)"
    )


def _serve_options(parser: _Parser) -> None:
    parser.add_argument("--raw", metavar="ENDPOINT", default=RAW, help=f"where estimators publish (default {RAW})")
    parser.add_argument(
        "--refined", metavar="ENDPOINT", default=REFINED, help=f"where consumers subscribe (default {REFINED})"
    )
    _lookahead_option(parser, "4")
    _engine_options(parser)
    parser.add_argument("--max-streams", type=positive, default=256, metavar="N", help="at once (default 256)")
    parser.add_argument(
        "--max-gap", type=int, default=25, metavar="N", help="fill at most N missing frames in a row (default 25)"
    )
    parser.add_argument(
        "--slack-ms", type=float, default=50.0, metavar="MS", help="a frame counts as missing this late (default 50)"
    )
    parser.add_argument(
        "--idle", type=float, default=30.0, metavar="S", help="forget streams silent for S s (default 30)"
    )
    parser.add_argument(
        "--hop", type=positive, default=1, metavar="H", help="refine H frames at once, up to H - 1 later (default 1)"
    )
    parser.add_argument("--gpu-rings", action="store_true", help="with a .plan: keep frames on the GPU, too")
    parser.add_argument(
        "--behind-ms",
        type=float,
        default=1000.0,
        metavar="MS",
        help="live frames that wait this long for the engine make way for newer ones; inf: never (default 1000)",
    )
    parser.add_argument(
        "--unseen",
        action="store_true",
        help="where nobody has been seen for long, publish poses without coordinates, flagged, instead of nothing",
    )
    parser.add_argument(
        "--drain-s",
        type=float,
        default=30.0,
        metavar="S",
        help="at the end, refine what was received for at most S s; 1 is the exit status where that is too short "
        "(default 30)",
    )
    parser.add_argument(
        "--batch-wait-ms", type=float, default=0.0, metavar="MS", help="wait for frames to refine together (default 0)"
    )
    parser.add_argument("--lift", action="store_true", help="take 2D poses, too, and give them a depth")
    parser.add_argument(
        "--lift-lookahead",
        type=int,
        default=LIFT_LOOKAHEAD,
        metavar="N",
        help=f"frames that lifting waits for, on top of --lookahead (default {LIFT_LOOKAHEAD})",
    )
    parser.add_argument("--keys", metavar="DIR", help="the server's keys, made by rtskel keygen")
    parser.add_argument("--insecure", action="store_true", help="let anybody connect, from other machines too")
    parser.add_argument("--json", action="store_true", help="say where it serves as one JSON object")


def _reading_options(parser: _Parser) -> None:
    group = parser.add_argument_group("what the recording does not say, or says wrongly")
    group.add_argument("--format", metavar="NAME", help="what it is (default: recognised by what is in it)")
    group.add_argument("--fps", type=float, help="frames a second")
    group.add_argument("--unit", help="of positions: m, cm, mm, px, or any other name")
    group.add_argument("--axes", metavar="CODE", help="where x, y, z grow: R/L, D/U, T(oward)/A(way); RDT, RDA, RUA")
    group.add_argument("--mirrored", action="store_true", default=None, help="the image is mirrored")
    group.add_argument("--swap-sides", action="store_true", help="left and right joints are exchanged")
    group.add_argument("--image-size", type=_size, metavar="WxH", help="of the image in pixels, such as 1280x720")
    group.add_argument(
        "--depth-scale", type=float, metavar="PX", help="pixels in a unit of MediaPipe's z (default: z is left out, 2D)"
    )
    group.add_argument("--world", action="store_true", help="MediaPipe's world landmarks, in metres")


# What the commands do


def _demo(args: argparse.Namespace) -> int:
    from rtskel.tools.demo import DemoConfig, run

    return run(
        DemoConfig(
            recording=args.recording, lookaheads=args.lookahead, engine=args.engine, speed=args.speed, json=args.json
        )
    )


def _serve(args: argparse.Namespace) -> int:
    from rtskel.curve import ServerKeys
    from rtskel.engine import open_engine
    from rtskel.serve import ServeConfig, Server, StreamConfig, run_server

    with _options_in_range():
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
                unseen=args.unseen,
                ahead=max(64, args.max_gap + 1, args.lift_lookahead + args.hop),
            ),
            lift=args.lift_lookahead if args.lift else None,
            hop=args.hop,
            batch_wait_s=args.batch_wait_ms / 1000,
            drain_s=args.drain_s,
            keys=None if args.keys is None else ServerKeys.load(args.keys),
            insecure=args.insecure,
        )

    def ready(server: Server) -> None:
        where = {"raw": server.raw_endpoint, "refined": server.refined_endpoint, "model": engine.info.model_id}
        if args.json:
            ahead = {"lookaheads": config.lookaheads, "lift_lookahead": config.lift}
            _print_json(where | ahead | {"runs_on": engine.info.builder})
        else:
            lifting = "" if config.lift is None else f", of 2D poses {config.lift} frames more"
            print(
                f"rtskel: raw poses at {where['raw']}, refined poses at {where['refined']} with lookahead "
                f"{', '.join(map(str, config.lookaheads))}{lifting}; {where['model']} on {engine.info.builder}",
                flush=True,
            )

    options = {"precision": args.precision, "threads": args.threads, "rings": args.gpu_rings or None}
    undrained: list[int] = []

    def over(server: Server) -> None:
        if server.undrained:
            undrained.append(server.undrained)

    with open_engine(args.engine, **options) as engine:
        number = run_server(config, engine, ready, on_end=over)
    if undrained:
        print(f"rtskel: {undrained[0]} windows and messages were left after {args.drain_s:g} s", file=sys.stderr)
        return FAILED
    return INTERRUPTED if number == signal.SIGINT else OK


def _publish(args: argparse.Namespace) -> int:
    from rtskel.tools.replay import Item, ReplayConfig, publishers, replay, stream_ids

    recordings = _read(args)
    streams = stream_ids(recordings, args.stream)
    keys = _client_keys(args)
    config = ReplayConfig(
        drop=args.drop, jitter_ms=args.jitter_ms, speed=args.speed, together=args.together, seed=args.seed
    )

    frames = sum(recording.frames for recording in recordings)
    with _until_terminated(), _progress("frames") as bar:
        while True:
            task = bar.add_task("waiting for a server", total=frames)

            def show(item: Item, task: Any = task) -> None:
                bar.update(task, advance=item.row >= 0, description=streams[item.recording])

            connect = publishers(recordings, streams, args.raw, keys)
            sent = replay(recordings, connect, config, wait_s=args.wait, progress=show)
            bar.update(task, completed=frames, description=f"{sent} frames of {len(streams)} streams sent")
            if not args.loop:
                return OK
            bar.remove_task(task)


def _estimate(args: argparse.Namespace) -> int:
    from rtskel.client import Publisher
    from rtskel.formats.mediapipe import AXES
    from rtskel.tools import estimate
    from rtskel.tools.replay import stream_id
    from rtskel.tools.video import Video

    if (args.video is None) == (args.camera is None):
        raise RtskelError("estimate: a VIDEO or --camera N expected (see rtskel estimate --help)")
    if args.out and (args.camera is not None or args.save):
        raise RtskelError("estimate: -o writes every frame of a VIDEO and publishes nothing; see --save")
    name = args.stream or (stream_id(Path(args.video).stem) if args.video else f"camera{args.camera}")
    file = args.out or args.save
    if file:
        _check_savable(file)
    found: list[estimate.Pose] = []

    def save() -> None:
        if found:
            _save([estimate.recording(found, video, name, pixels=args.pixels)], file)

    with (
        contextlib.ExitStack() as stack,
        Video(args.camera if args.video is None else args.video) as video,
        estimate.Holistic(complexity=args.complexity, smooth=args.smooth) as model,
    ):
        if file:
            stack.callback(save)  # however this ends
        stack.enter_context(_until_terminated())
        bar = stack.enter_context(_progress("frames"))
        task = bar.add_task("waiting for a server" if args.out is None else name, total=video.frames or None)

        numbers: list[int] = []

        def each(pose: estimate.Pose) -> None:
            numbers.append(pose.number)
            if file:
                found.append(pose)
            bar.update(task, completed=pose.number + 1, description=name)

        if args.out:
            for pose in estimate.poses(video, model, pixels=args.pixels):
                each(pose)
            return OK
        publisher = stack.enter_context(
            Publisher(args.raw, stream=name, fps=video.fps, axes=AXES, keys=_client_keys(args))
        )
        estimate.publish(video, model, publisher, pixels=args.pixels, fast=args.fast, wait_s=args.wait, each=each)
    if numbers and (lost := numbers[-1] + 1 - len(numbers)):
        more = "" if args.video is None else "; --fast takes every frame"
        print(
            f"rtskel: {lost} of {numbers[-1] + 1} frames came while the estimator was busy, and were lost{more}",
            file=sys.stderr,
        )
    return OK


def _subscribe(args: argparse.Namespace) -> int:
    from rtskel.client import Subscriber
    from rtskel.tools.collect import Collector
    from rtskel.tools.watch import Display, LiveTable, as_json, console
    from rtskel.wire import RefinedPose

    if args.save:
        _check_savable(args.save)
    collector = Collector()
    table = LiveTable(args.refined)
    ends = _Ends()
    poses = 0
    with (
        contextlib.ExitStack() as stack,
        Subscriber(
            args.refined,
            streams=args.stream.split(",") if args.stream else None,
            lookahead=args.lookahead,
            heartbeats=True,
            keys=_client_keys(args),
            queue=100_000,  # a pause of this process loses nothing
        ) as subscriber,
    ):
        if args.save:
            stack.callback(lambda: _save(collector.recordings(), args.save))  # however this ends
        stack.enter_context(_until_terminated())
        shown = None if args.json else stack.enter_context(Display(console()))
        while not (poses == args.frames or (args.until_end and ends.over(time.monotonic()))):
            try:
                message = subscriber.recv(timeout=0.1)
            except TimeoutError:
                message = None
            arrived = time.monotonic_ns()
            if message is not None:
                ends.add(message, time.monotonic())
                if isinstance(message, RefinedPose):
                    poses += 1
                    if args.save:
                        collector.add(message)
                if args.json:
                    print(json.dumps(as_json(message, arrived), allow_nan=False))
                table.add(message, arrived)
            if args.json:
                if not isinstance(message, RefinedPose):
                    sys.stdout.flush()
            elif shown is not None:
                table.lost(subscriber.lost)
                shown.update(table)
    lost = sum(subscriber.lost.values())
    if lost:
        print(f"rtskel: {lost} of {poses + lost} poses were lost on the way", file=sys.stderr)
    return OK


def _save(recordings: list[Recording], path: str) -> None:
    from rtskel.errors import FormatError
    from rtskel.formats import write, write_apart

    if not recordings:
        print(f"rtskel: no poses came: {path} is not written", file=sys.stderr)
        return
    try:
        files = write_apart(path, recordings)
    except FormatError as error:
        if path.endswith(".npz"):
            raise
        rescue = f"{path}.npz"
        write(rescue, recordings)
        raise RtskelError(f"{error}; all is in {rescue} instead") from None
    poses = sum(recording.frames for recording in recordings)
    where = ", ".join(map(str, files))
    print(f"rtskel: {poses} poses of {len({r.name for r in recordings})} streams saved to {where}", file=sys.stderr)


class _Ends:
    """Knows when every stream that was seen has ended, and none has begun for a while."""

    QUIET = 2.0

    def __init__(self) -> None:
        self._open: dict[str, bool] = {}
        self._changed = 0.0

    def add(self, message: Any, now: float) -> None:
        from rtskel.wire import Event, RefinedPose

        if isinstance(message, RefinedPose):
            self._open[message.stream] = True
            self._changed = now
        elif isinstance(message, Event) and message.stream and message.kind in ("start", "end", "evicted"):
            self._open[message.stream] = message.kind == "start"
            self._changed = now

    def over(self, now: float) -> bool:
        return bool(self._open) and not any(self._open.values()) and now - self._changed >= self.QUIET


def _check_savable(path: str) -> None:
    """Before hours of poses are collected: whether they can be saved, and what of them."""
    from rtskel.formats import check_writable

    lacks = check_writable(path)
    if lacks:
        print(f"rtskel: {path} will not hold {lacks} (.npz, .csv and .jsonl do)", file=sys.stderr)


def _refine(args: argparse.Namespace) -> int:
    import numpy as np

    from rtskel.engine import open_engine
    from rtskel.formats import Recording, write
    from rtskel.refine import Refined, Refiner
    from rtskel.skeleton import from_canonical

    recordings = _read(args)
    done = []
    with (
        open_engine(args.engine, precision=args.precision, threads=args.threads) as engine,
        _until_terminated(),
        _progress("frames") as bar,
    ):
        task = bar.add_task("refining", total=sum(recording.frames + recording.dropped for recording in recordings))
        for recording in recordings:
            if recording.dims == 2:
                raise RtskelError(f"{args.file}: recording {recording.name!r} is 2D, 3D is refined (see rtskel lift)")
            if recording.skeleton != engine.info.skeleton_id:
                raise RtskelError(
                    f"{args.file}: recording {recording.name!r} has skeleton {recording.skeleton!r}, "
                    f"the engine refines {engine.info.skeleton_id!r}"
                )
            with _options_in_range():
                refiner = Refiner(
                    engine, lookahead=args.lookahead, radius=args.radius, min_confidence=args.min_confidence
                )
            # Dropped frames become slots without a joint.
            xyz, confidence = recording.by_slot(recording.canonical()), recording.by_slot(recording.confidence)
            parts: list[Refined] = []
            for first in range(0, len(xyz), 64):
                chunk = slice(first, first + 64)
                parts.append(refiner.push(xyz[chunk], confidence[chunk]))
                bar.update(task, advance=len(xyz[chunk]), description=recording.name)
            parts.append(refiner.flush())
            refined = Refined.concatenate(parts)
            done.append(
                Recording(
                    from_canonical(refined.xyz, recording.axes, recording.mirrored),
                    recording.fps,
                    recording.name,
                    # Every joint has a position now. Confidence says how sure the estimator was: 0 where it is filled
                    # in.
                    confidence=refined.confidence,
                    skeleton=recording.skeleton,
                    axes=recording.axes,
                    mirrored=recording.mirrored,
                    unit=recording.unit,
                    slot=refined.slot,
                    lookahead=int(refined.lookahead[0]),
                    sigma=refined.sigma,
                    windows=refined.windows,
                    flags=refined.flags.astype(np.int32),
                    image_size=recording.image_size,
                )
            )
    write(args.out, done)
    return OK


def _lift(args: argparse.Namespace) -> int:
    from rtskel.formats import write
    from rtskel.lift import lift_recording

    recordings = _read(args)
    done = []
    with _until_terminated(), _progress("frames") as bar:
        task = bar.add_task("lifting", total=sum(recording.frames + recording.dropped for recording in recordings))
        before = 0
        for recording in recordings:
            bar.update(task, description=recording.name)
            done.append(
                lift_recording(
                    recording,
                    lookahead=args.lookahead,
                    min_confidence=args.min_confidence,
                    progress=lambda frames, before=before: bar.update(task, completed=before + frames),  # type: ignore[misc]
                )
            )
            before += recording.frames + recording.dropped
            bar.update(task, completed=before)
    write(args.out, done)
    return OK


def _draw(args: argparse.Namespace) -> int:
    from rtskel.tools.draw import MOVING, STILL, animate, figure

    out = Path(args.out)
    if out.suffix.lower() not in STILL + MOVING:
        raise RtskelError(f"{out}: unknown picture format {out.suffix!r} (known: {', '.join(STILL + MOVING)})")
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise RtskelError(f"{out}: cannot be written")
    recordings = [
        recording
        for file in args.files
        for recording in _read(args, file)
        if (args.stream is None or recording.name in args.stream.split(","))
        and (args.lookahead is None or recording.lookahead in (None, *args.lookahead))
    ]
    if not recordings:
        raise RtskelError(f"{', '.join(args.files)}: no recording of that name and lookahead")
    options: dict[str, Any] = {
        "labels": args.labels.split(",") if args.labels else None,
        "traces": args.traces.split(",") if args.traces else (),
        "truth": None if args.truth is None else _read(args, args.truth)[0],
        "video": args.video,
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
    with _progress("frames") as bar:
        task = bar.add_task(out.name)
        animate(recordings, out, progress=lambda done, all_: bar.update(task, completed=done, total=all_), **options)
    return OK


def _convert(args: argparse.Namespace) -> int:
    from rtskel.formats import write

    recordings = _read(args)
    if args.stream is not None:
        names = args.stream.split(",")
        absent = set(names) - {recording.name for recording in recordings}
        if absent:
            raise RtskelError(f"{args.file}: no sequence is called {min(absent)!r} (see rtskel info {args.file})")
        recordings = [recording for recording in recordings if recording.name in names]
    write(args.out, recordings)
    return OK


def _info(args: argparse.Namespace) -> int:
    from rtskel.engine import bundled, describe
    from rtskel.formats import SUFFIXES

    path = bundled() if args.file is None else Path(args.file)
    if path.suffix.lower() in SUFFIXES or path.is_dir() or args.format:
        recordings = _read(args)
        if args.json:
            _print_json({"kind": "recording", "path": str(path), "recordings": [_facts(r) for r in recordings]})
        else:
            _show_recordings(path, recordings)
        return OK
    engine = describe(path)
    facts = {key: value for key, value in vars(engine).items() if key != "extra"} | dict(engine.extra)
    if args.json:
        _print_json(facts)
    else:
        _show_table(None, ["", str(path)], [[key, str(value)] for key, value in facts.items() if key != "path"])
    return OK


def _facts(recording: Recording) -> dict[str, Any]:
    """What there is to say about a recording, as plain numbers and words."""
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
    _show_table(f"{path}: {len(facts)} sequences, {facts[0]['joints']} joints ({facts[0]['skeleton']})", header, rows)
    swapped = sum(fact["sides_look_swapped"] for fact in facts)
    if swapped:
        print(
            f"{swapped} of {len(facts)}: the right shoulder is on the image's right, so the image is mirrored "
            "(--mirrored), the sides are exchanged (--swap-sides), or the person turns away"
        )


def _export(args: argparse.Namespace) -> int:
    from rtskel.engine.onnx_export import export_onnx

    export_onnx(args.weights, args.out, precision=args.precision)
    return OK


def _build(args: argparse.Namespace) -> int:
    from rtskel.engine.tensorrt_build import build_plan

    info = build_plan(
        args.onnx,
        args.out,
        compute_capabilities=args.gpu,
        max_batch=args.max_batch,
        opt_batch=args.opt_batch,
        backend=args.backend,
    )
    print(f"{args.out}: {info.model_id}, {info.precision}, for {info.extra['compute_capabilities']}")
    return OK


def _keygen(args: argparse.Namespace) -> int:
    from rtskel.curve import keygen

    for folder in keygen(args.dir, args.client or ("client",)):
        print(folder)
    return OK


def _client_keys(args: argparse.Namespace) -> Any:
    if args.keys is None:
        return None
    from rtskel.curve import ClientKeys

    return ClientKeys.load(args.keys)


def _module(name: str, argv: list[str]) -> int:
    """A subcommand that is a module's own `main`."""
    import importlib

    status: int = importlib.import_module(f"rtskel.training.{name}").main(argv)
    return status


# Shared by the commands


def _read(args: argparse.Namespace, file: str | None = None) -> list[Recording]:
    """The recordings of a file (default: the one of the command line), by the options about reading."""
    from rtskel.formats import read

    return read(
        args.file if file is None else file,
        format=args.format,
        fps=args.fps,
        unit=args.unit,
        axes=args.axes,
        mirrored=args.mirrored,
        swap_sides=args.swap_sides,
        image_size=args.image_size,
        depth_scale=args.depth_scale,
        world=args.world,
    )


@contextlib.contextmanager
def _options_in_range() -> Iterator[None]:
    """The library's checks of numbers that came from options are the user's to read."""
    try:
        yield
    except ValueError as error:
        raise RtskelError(str(error)) from None


def _print_json(value: Any) -> None:
    print(json.dumps(value, allow_nan=False), flush=True)


def _show_table(title: str | None, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table

    from rtskel.tools.watch import console

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for name in header:
        numbers = all(re.fullmatch(r"[\d.]+%?|-", row[header.index(name)]) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _progress(unit: str) -> Progress:
    """A progress bar on stderr, only where somebody looks at it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rtskel.tools.watch import console

    err = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


class _Terminated(BaseException):
    """SIGTERM came: unwind as for Ctrl-C, so that files and streams are completed."""


@contextlib.contextmanager
def _until_terminated() -> Iterator[None]:
    def stop(*_: object) -> NoReturn:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever called is in charge of signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
