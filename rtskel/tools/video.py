"""Frames of a video file or a camera by OpenCV, which is loaded only here, and frames into a video file."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtskel.closing import Closing
from rtskel.errors import FormatError
from rtskel.rates import LEAST_FPS, MOST_FPS, Placer, reconcile

Image = NDArray[np.uint8]
"""An image [height, width, 3], red, green, blue."""

MEASURED_FRAMES = 60
"""Frames of a file whose times are compared with the frame rate that it states."""

CAMERA_FPS = 30.0
"""The assumed frame rate of a camera that states none."""


class Frame(NamedTuple):
    """One frame.

    Attributes:
        number: of a file, on the frame clock: 0, 1, 2, ..., and a hole where the file pauses; of a camera, 0, 1, 2, ...
            in the order of reading.
        time_ns: from a file: since the first frame, by the file's clock; from a camera: when it arrived, on the
            monotonic clock.
        image: the picture.
    """

    number: int
    time_ns: int
    image: Image


class Video(Closing):
    """A video file or camera, opened; iterating, which can be done once, reads its frames.

    Attributes:
        name: the file, or "camera N".
        fps: frames a second: as the file states it if its times agree, else by its times; of a camera, as it states it.
        note: what is doubtful about the stated rate, in one line; empty: nothing.
        width, height: of a frame, in pixels.
        frames: number of frames, as the file states it; 0: unknown.
        camera: whether it is a camera, whose frames do not wait.
        pauses: frame numbers up to the frame read last that no frame of the file has.
        first: the first frame. Iterating over a file begins with it, over a camera with the next one.
    """

    def __init__(self, source: str | Path | int) -> None:
        """Open a source.

        Args:
            source: a file, or the number of a camera.

        Raises:
            FormatError: OpenCV is not installed; no such file or camera; no frame that OpenCV can read.
        """
        self.camera = isinstance(source, int)
        self.name = f"camera {source}" if self.camera else str(source)
        if not self.camera and not os.path.isfile(source):
            raise FormatError(f"{source}: no such video file")
        cv2 = _opencv(self.name)
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            raise FormatError(f"{self.name}: cannot be opened as a video")
        stated = float(self._capture.get(cv2.CAP_PROP_FPS))
        fps = stated if math.isfinite(stated) and LEAST_FPS <= stated <= MOST_FPS else None
        self.note = ""
        if not self.camera:
            clock = reconcile(fps, None, _first_times(cv2, str(source)))
            fps, self.note = clock.fps, clock.note if clock.time_ns is not None else ""
        self.fps = fps or CAMERA_FPS
        self._placer = Placer(1 / self.fps)
        self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.frames = 0 if self.camera else max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self._milliseconds = cv2.CAP_PROP_POS_MSEC
        self._number = self.pauses = 0
        self._begins_ns = self._last_ns = -1
        first = self._read()
        if first is None:
            self.close()
            raise FormatError(f"{self.name}: no frame can be read")
        self.first = first
        self._held = None if self.camera else first

    def _read(self) -> Frame | None:
        there, image = self._capture.read()
        if not there:
            return None
        if self.camera:
            taken = time.monotonic_ns()
        else:
            stated = round(float(self._capture.get(self._milliseconds)) * 1e6)  # of the frame that was just read
            if self._number == 0:
                self._begins_ns = stated
            # Some files have no clock, or one that does not advance.
            taken = stated - self._begins_ns
            taken = taken if taken > self._last_ns else self._last_ns + round(1e9 / self.fps)
            self._last_ns = taken
        number = self._number if self.camera else self._placer.place(taken / 1e9)
        frame = Frame(number, taken, np.ascontiguousarray(image[..., ::-1], np.uint8))
        self._number += 1
        self.pauses = number + 1 - self._number
        return frame

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """The next frame; of a camera, the next that it takes."""
        frame, self._held = self._held or self._read(), None
        if frame is None:
            raise StopIteration
        return frame

    def close(self) -> None:
        """Release the file or camera."""
        self._capture.release()


def _first_times(cv2: Any, source: str) -> NDArray[np.int64]:
    """Times in ns of the first frames of a file, by its own clock."""
    capture = cv2.VideoCapture(source)
    times: list[int] = []
    while len(times) < MEASURED_FRAMES and capture.read()[0]:
        times.append(round(float(capture.get(cv2.CAP_PROP_POS_MSEC)) * 1e6))
    capture.release()
    return np.array(times, np.int64)


OTHER_PLAYERS = (
    "is in MPEG-4 Part 2: VLC and mpv play it, browsers, QuickTime and PowerPoint do not "
    "(with ffmpeg on the PATH it is H.264, which all of them play)"
)


def write_mp4(path: str | Path, images: Iterable[Image], fps: float) -> str:
    """Write images of one size as an .mp4 video: in H.264 if ffmpeg or OpenCV can, else in MPEG-4 Part 2. An odd last
    row or column is left out.

    Returns:
        Which players can play it; empty if all can.

    Raises:
        FormatError: neither ffmpeg nor OpenCV is installed, or they cannot write there.
    """
    images = iter(images)
    first = next(images, None)
    if first is None:
        raise FormatError(f"{path}: no images to write")
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2  # what the codecs take
    even = (image[:height, :width] for image in itertools.chain([first], images))
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is not None and "libx264" in _encoders(ffmpeg):
        _write_by_ffmpeg(ffmpeg, path, even, fps, (width, height))
        return ""
    return _write_by_opencv(path, even, fps, (width, height))


def _encoders(ffmpeg: str) -> str:
    try:
        return subprocess.run([ffmpeg, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def _write_by_ffmpeg(ffmpeg: str, path: str | Path, images: Iterable[Image], fps: float, size: tuple[int, int]) -> None:
    command = [ffmpeg, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{size[0]}x{size[1]}", "-r", f"{fps:g}", "-i", "-"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(Path(path).absolute())]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # the reason is reported below
                for image in images:
                    process.stdin.write(np.ascontiguousarray(image).tobytes())
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
        if process.returncode:
            log.seek(0)
            said = log.read().strip().splitlines() or [f"ffmpeg ended with {process.returncode}"]
            raise FormatError(f"{path}: cannot be written as an .mp4 video ({said[-1]})")


def _write_by_opencv(path: str | Path, images: Iterable[Image], fps: float, size: tuple[int, int]) -> str:
    cv2 = _opencv(str(path))
    for codec in ("avc1", "mp4v"):
        with silent():  # FFmpeg's libraries explain on file descriptor 2 why an encoder is not there
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
        if writer.isOpened():
            break
        writer.release()
    else:
        raise FormatError(f"{path}: cannot be written as an .mp4 video")
    try:
        for image in images:
            writer.write(np.ascontiguousarray(image[..., ::-1]))
    finally:
        writer.release()
    return "" if codec == "avc1" else f"{path} {OTHER_PLAYERS}"


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hides what libraries write straight to file descriptor 2, which none of their options can suppress."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _opencv(what: str) -> Any:
    try:
        import cv2
    except ModuleNotFoundError:
        raise FormatError(f"{what}: video needs OpenCV, which is not installed: pip install 'rtskel[draw]'") from None
    opencv: Any = cv2
    opencv.utils.logging.setLogLevel(opencv.utils.logging.LOG_LEVEL_SILENT)  # rtskel reports errors itself, in one line
    return opencv
