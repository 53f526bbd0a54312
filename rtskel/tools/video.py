"""Frames of a video file or a camera, and frames into a video file; both by OpenCV, which is loaded only here."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError

Image = NDArray[np.uint8]
"""An image [height, width, 3], red, green, blue."""

CAMERA_FPS = 30.0
"""The assumed frame rate of a camera that states none."""


class Frame(NamedTuple):
    """One frame.

    Attributes:
        number: 0, 1, 2, ... in the order of reading.
        time_ns: from a file: since the first frame, by the file's clock; from a camera: when it arrived, on the
            monotonic clock.
        image: the picture.
    """

    number: int
    time_ns: int
    image: Image


class Video:
    """A video file or camera, opened; iterating, which can be done once, reads its frames.

    Attributes:
        name: the file, or "camera N".
        fps: frames a second.
        width, height: of a frame, in pixels.
        frames: number of frames, as the file states it; 0: unknown.
        camera: whether it is a camera, whose frames do not wait.
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
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else CAMERA_FPS
        self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.frames = 0 if self.camera else max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self._milliseconds = cv2.CAP_PROP_POS_MSEC
        self._number = 0
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
        frame = Frame(self._number, taken, np.ascontiguousarray(image[..., ::-1], np.uint8))
        self._number += 1
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_mp4(path: str | Path, images: Iterable[Image], fps: float) -> None:
    """Write images of one size as an MPEG-4 video. An odd last row or column is left out.

    Raises:
        FormatError: OpenCV is not installed, or cannot write there.
    """
    cv2 = _opencv(str(path))
    writer = None
    try:
        for image in images:
            height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2  # what the codec takes
            if writer is None:
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
                if not writer.isOpened():
                    raise FormatError(f"{path}: cannot be written as an .mp4 video")
            writer.write(np.ascontiguousarray(image[:height, :width, ::-1]))
    finally:
        if writer is not None:
            writer.release()


def _opencv(what: str) -> Any:
    try:
        import cv2
    except ModuleNotFoundError:
        raise FormatError(f"{what}: video needs OpenCV, which is not installed: pip install 'rtskel[draw]'") from None
    opencv: Any = cv2
    opencv.utils.logging.setLogLevel(opencv.utils.logging.LOG_LEVEL_SILENT)  # rtskel reports errors itself, in one line
    return opencv
