"""Poses from a video or camera by MediaPipe Holistic: as a recording, or published live.

Poses are in metres (`rtskel.formats.mediapipe` places the hands), whose depth is far steadier than that of the image,
or in pixels, to draw over the video. A hand that was not found is missing; where nobody was found, all joints are. The
confidence of a body joint is MediaPipe's visibility: low where it only guesses, hidden or outside the image.

MediaPipe's own smoothing is off by default: it adds delay, and hides from refinement what the estimator saw.

`mediapipe` is imported when it is used, and nowhere else in rtskel (`INSTALL` is the command that installs it).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rtskel.closing import Closing
from rtskel.errors import RtskelError
from rtskel.formats import Recording
from rtskel.formats.mediapipe import AXES, Assembler, landmarks
from rtskel.rates import reconcile
from rtskel.tools.replay import Sender, wait_for_subscriber
from rtskel.tools.video import Frame, Image, Video, silent

INSTALL = "pip install 'rtskel[estimate]' && pip install --no-deps mediapipe==0.10.21"
"""Installs MediaPipe without its pinned dependencies, one of which excludes the numpy that rtskel needs."""

Found = tuple[Mapping[str, NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]
"""What an estimator found in one image, as `rtskel.formats.mediapipe.Assembler.joints` takes it."""


class Estimator(Protocol):
    """Finds a person in images."""

    def find(self, image: Image) -> Found:
        """Landmarks in the next image."""


class Holistic(Closing):
    """MediaPipe Holistic, loaded; a context manager."""

    def __init__(self, *, complexity: int = 1, smooth: bool = False) -> None:
        """Loads the models, which are in the package.

        Args:
            complexity: of the body model: 0 (fastest), 1 or 2 (most accurate).
            smooth: MediaPipe's own smoothing over time.

        Raises:
            RtskelError: MediaPipe is not installed, or cannot be loaded.
        """
        try:
            solution = importlib.import_module("mediapipe.python.solutions.holistic")
        except ImportError as error:
            absent = (error.name or "").partition(".")[0] == "mediapipe"
            what = "is not installed" if absent else f"cannot be loaded ({error})"
            raise RtskelError(f"estimate needs mediapipe, which {what}: {INSTALL}") from None
        with silent():
            self._model = solution.Holistic(model_complexity=complexity, smooth_landmarks=smooth)
            # Models load in background threads, and are ready once an image has passed. This one is empty.
            self._model.process(np.zeros((64, 64, 3), np.uint8))
        self._used = False

    def find(self, image: Image) -> Found:
        """Landmarks in the next image."""
        height, width, _ = image.shape
        with nullcontext() if self._used else silent():  # the first image causes further warnings
            results = self._model.process(image)
        self._used = True
        return landmarks(results, (width, height))

    def close(self) -> None:
        """Frees the models."""
        self._model.close()


def check_installed() -> None:
    """Before anything is opened: whether all that `Holistic` and videos need is there.

    Raises:
        RtskelError: names everything that is not installed, and the command that installs it.
    """
    needed = {"cv2": "OpenCV", "mediapipe": "mediapipe"}
    absent = [name for module, name in needed.items() if not _is_there(module)]
    if absent:
        are = "is" if len(absent) == 1 else "are"
        raise RtskelError(f"estimate needs {' and '.join(absent)}, which {are} not installed: {INSTALL}")


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


class Pose(NamedTuple):
    """The pose in one frame.

    Attributes:
        number: of the frame; numbers of frames that were not estimated are left out.
        time_ns: when the frame was taken: on the monotonic clock if live, else since the first frame.
        xyz: float32 [50, 3].
        confidence: float32 [50], 0 = missing.
    """

    number: int
    time_ns: int
    xyz: NDArray[np.float32]
    confidence: NDArray[np.float32]


def poses(frames: Iterable[Frame], estimator: Estimator, *, pixels: bool = False) -> Iterator[Pose]:
    """The poses in the frames of one video, in metres or pixels."""
    assembler = Assembler(world=not pixels)
    for frame in frames:
        yield Pose(frame.number, frame.time_ns, *assembler.joints(*estimator.find(frame.image)))


def recording(found: Sequence[Pose], video: Video, name: str, *, pixels: bool = False) -> Recording:
    """Poses of one video as a recording; its rate and frame numbers agree with the times of its frames.

    Raises:
        RtskelError: there are none.
    """
    if not found:
        raise RtskelError(f"{video.name}: no frames")
    slot = np.array([pose.number for pose in found], np.int64)
    clock = reconcile(video.fps, slot, np.array([pose.time_ns for pose in found], np.int64))
    return Recording(
        np.stack([pose.xyz for pose in found]),
        clock.fps or video.fps,
        name,
        confidence=np.stack([pose.confidence for pose in found]),
        axes=AXES,
        unit="px" if pixels else "m",
        slot=slot if clock.slot is None else clock.slot,
        time_ns=clock.time_ns,
        image_size=(video.width, video.height),
        notes=tuple(filter(None, dict.fromkeys((video.note, clock.note)))),
    )


def live(
    video: Video, *, now_ns: Callable[[], int] = time.monotonic_ns, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Frame]:
    """Frames in real time: each request gets the newest frame, or waits for the next.

    A file is played as a camera would deliver it, from the moment the first frame is requested. Frames taken while the
    caller was busy are lost, except the newest; a file's last frame is never lost. A camera's frames are numbered from
    the first one requested. Times are those of `now_ns`.
    """
    if video.camera:
        yield from _newest(video)
        return
    frames = iter(video)
    held = next(frames, None)
    start = now_ns()
    while held is not None:
        asked = now_ns()
        following = next(frames, None)
        # A camera does not wait for us, but reading a file takes time: that time does not count.
        read = now_ns()
        start += max(min(read - asked, read - start - held.time_ns), 0)
        if following is None or now_ns() < start + following.time_ns:
            wait = start + held.time_ns - now_ns()
            if wait > 0:
                sleep(wait / 1e9)
            yield held._replace(time_ns=start + held.time_ns)
        held = following


def _newest(camera: Video) -> Iterator[Frame]:
    """A camera's frames. It is read all the time, or its driver would deliver frames that have waited in a queue."""
    changed = threading.Condition()
    newest: Frame | None = None
    ended = stop = False

    def read() -> None:
        nonlocal newest, ended
        try:
            for frame in camera:
                with changed:
                    newest = frame
                    changed.notify()
                if stop:
                    break
        finally:
            with changed:
                ended = True
                changed.notify()

    reader = threading.Thread(target=read, name="camera", daemon=True)
    reader.start()
    first: int | None = None
    try:
        while True:
            with changed:
                while newest is None and not ended:
                    changed.wait(0.1)  # with a timeout, so that Ctrl-C works on every system
                frame, newest = newest, None
            if frame is None:
                return
            first = frame.number if first is None else first
            yield Frame(frame.number - first, frame.time_ns, frame.image)
    finally:
        stop = True
        reader.join(1.0)


def publish(
    video: Video,
    estimator: Estimator,
    sender: Sender,
    *,
    pixels: bool = False,
    fast: bool = False,
    wait_s: float | None = None,
    waiting: Callable[[str], None] | None = None,
    each: Callable[[Pose], None] | None = None,
    now_ns: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Send the poses of a video or camera as they are found; ends the stream, also if interrupted.

    Starts once a subscriber is there and the estimator has seen a frame, because its first frame takes longest.

    Args:
        pixels: poses in image coordinates, instead of metres.
        fast: every frame of a file, however long it takes; otherwise as from a camera, see `live`.
        wait_s: how long to wait for a subscriber; None: as long as it takes.
        waiting: told what is waited for, once that takes longer than a second.
        each: called with every pose that was sent.
        now_ns, sleep: the clock of the frames' times, and how to wait.

    Raises:
        RtskelError: no subscriber came in time.
    """
    estimator.find(video.first.image)
    wait_for_subscriber(sender, wait_s, waiting)
    taken: list[int] = []  # when frames were read, which is what their poses are sent with

    def read() -> Iterator[Frame]:
        for frame in video:
            taken.append(now_ns())
            yield frame

    as_fast_as_possible = fast and not video.camera
    frames = read() if as_fast_as_possible else live(video, now_ns=now_ns, sleep=sleep)
    slots = 0
    try:
        for pose in poses(frames, estimator, pixels=pixels):
            time_ns = taken.pop() if as_fast_as_possible else pose.time_ns
            sender.send(pose.xyz, pose.confidence, seq=pose.number, time_ns=time_ns, block=True)
            slots = pose.number + 1
            if each is not None:
                each(pose)
    finally:
        sender.end(slots)
