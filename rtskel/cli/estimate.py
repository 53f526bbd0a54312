"""`rtskel estimate`."""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtskel.cli.options import Command, Parser, client_keys, duration, endpoint_option, not_negative, positive
from rtskel.cli.output import Progress, note, undelivered
from rtskel.cli.status import OK, Incomplete, until_terminated
from rtskel.client import RAW_ENDPOINT
from rtskel.errors import RtskelError

if TYPE_CHECKING:
    from rtskel.client import GroupPublisher, Publisher
    from rtskel.tools.replay import Sender
    from rtskel.tools.video import Video

MORE = """\
Waits for a server, then plays VIDEO as a camera would: a frame that comes while the estimator is busy is dropped. Poses
are in metres. MediaPipe's elbows, for instance, lie inward of the body's and above: joints are moved to where bodies
have them, as far as that is the same for everybody; --uncorrected leaves them. --pixels keeps image coordinates, to
draw over the video.

With --people N, up to N people become streams ID-1, ID-2, ... of their own, in the order in which they are seen first.
Who leaves keeps his stream, and gets it back when he returns near where he was, or within the image while nobody else
is missing. The time of a frame grows with the people in it.

examples:
  rtskel estimate signer.mp4
  rtskel estimate --camera 0 --stream cam1
  rtskel estimate --camera 0 --people 2                      two signers: camera0-1 and camera0-2
  rtskel estimate signer.mp4 --fast                          every frame, however long it takes
  rtskel estimate signer.mp4 -o raw.npz                      no server: every frame into a recording
  rtskel estimate signer.mp4 -o pixels.npz --pixels && rtskel draw pixels.npz -o over.mp4 --video signer.mp4"""


def _options(parser: Parser) -> None:
    parser.add_argument("video", metavar="VIDEO", nargs="?", help="video file")
    parser.add_argument("--camera", type=not_negative, metavar="N", help="use camera number N instead, until Ctrl-C")
    endpoint_option(parser, "--raw", RAW_ENDPOINT, "where the server takes raw poses")
    parser.add_argument("--stream", metavar="ID", help="stream id (default: the video's name, or cameraN)")
    parser.add_argument("--wait", type=duration, metavar="S", help="give up after S seconds without a server")
    parser.add_argument("--fast", action="store_true", help="estimate every frame of VIDEO, faster or slower than live")
    parser.add_argument("--save", metavar="FILE", help="also write the published poses to this recording")
    parser.add_argument("-o", "--out", metavar="FILE", help="write every frame to this recording, publish nothing")
    parser.add_argument("--pixels", action="store_true", help="poses in image coordinates, not in metres")
    parser.add_argument("--uncorrected", action="store_true", help="leave joints where MediaPipe puts them")
    parser.add_argument(
        "--complexity", type=int, choices=[0, 1, 2], default=1, help="of MediaPipe's body model (default 1)"
    )
    parser.add_argument(
        "--people", type=positive, metavar="N", help="up to N people, each a stream of his own (default: one person)"
    )
    parser.add_argument("--smooth", action="store_true", help="let MediaPipe smooth, too, which adds delay")


def _check(args: argparse.Namespace) -> None:
    """Before anything is opened: options that exclude each other, files, and what is not installed."""
    from rtskel.tools.collect import check_savable
    from rtskel.tools.holistic import check_installed

    if (args.video is None) == (args.camera is None):
        raise RtskelError("estimate: a VIDEO or --camera N expected (see rtskel estimate --help)")
    if args.out and (args.camera is not None or args.save):
        raise RtskelError("estimate: -o writes every frame of a VIDEO and publishes nothing; see --save")
    file = args.out or args.save
    if file and (lacks := check_savable(file)):
        note(lacks)
    if args.video is not None and not Path(args.video).is_file():
        raise RtskelError(f"{args.video}: no such video file")
    check_installed()


def _run(args: argparse.Namespace) -> int:
    from rtskel.tools import estimate
    from rtskel.tools.collect import save
    from rtskel.tools.holistic import Holistic, HolisticPeople
    from rtskel.tools.replay import stream_id
    from rtskel.tools.video import Video

    _check(args)
    name = args.stream or (stream_id(Path(args.video).stem) if args.video else f"camera{args.camera}")
    file = args.out or args.save
    found: list[estimate.Pose] = []
    numbers: list[int] = []

    def save_found() -> None:
        if found:
            if args.people:
                note(save(estimate.recordings(found, video, name, pixels=args.pixels), file))
            else:
                note(save([estimate.recording(found, video, name, pixels=args.pixels)], file))

    with (
        contextlib.ExitStack() as stack,
        Video(args.camera if args.video is None else args.video) as video,
    ):
        options = {"complexity": args.complexity, "smooth": args.smooth}
        find: estimate.Poses
        kind = {"pixels": args.pixels, "corrected": not args.uncorrected}
        if args.people:
            several = stack.enter_context(HolisticPeople(args.people, **options))
            find = partial(estimate.people, estimator=several, most=args.people, **kind)
        else:
            find = partial(estimate.poses, estimator=stack.enter_context(Holistic(**options)), **kind)
        if video.note:
            note(f"{video.name}: {video.note}")
        if file:
            stack.callback(save_found)  # however this ends
        stack.enter_context(until_terminated())
        bar = stack.enter_context(Progress("frames", video.frames or None))

        def each(pose: estimate.Pose) -> None:
            numbers.append(pose.number)
            if file:
                found.append(pose)
            bar.update(name, pose.number + 1)

        if args.out:
            for pose in find(video):
                each(pose)
            return OK
        publisher, sender = _sender(args, name, video)
        stack.enter_context(sender)
        estimate.publish(video, find, sender, fast=args.fast, wait_s=args.wait, waiting=bar.waiting, each=each)
    came = numbers[-1] + 1 - video.pauses if numbers else 0
    if (lost := came - len(numbers)) > 0:
        more = "" if args.video is None else "; --fast takes every frame"
        note(f"{lost} of {came} frames came while the estimator was busy, and were lost{more}")
    if problem := undelivered(args.raw, publisher.dropped, {name: publisher.refusals} if publisher.refusals else {}):
        raise Incomplete(problem)
    return OK


def _sender(args: argparse.Namespace, name: str, video: Video) -> tuple[Publisher | GroupPublisher, Sender]:
    """What publishes, and what poses are given to."""
    from rtskel.client import GroupPublisher, Publisher
    from rtskel.formats.mediapipe import AXES
    from rtskel.tools.estimate import PeopleSender

    options: dict[str, Any] = {
        "fps": video.fps,
        "axes": AXES,
        "unit": "px" if args.pixels else "m",
        "image_size": (video.width, video.height),
        "keys": client_keys(args),
        "wait": 0,
    }
    if args.people:
        group = GroupPublisher(args.raw, group=name, **options)
        return group, PeopleSender(group, name)
    publisher = Publisher(args.raw, stream=name, **options)
    return publisher, publisher


COMMAND = Command(
    "estimate", "find poses in a video or camera by MediaPipe Holistic, and publish them", MORE, _options, _run
)
