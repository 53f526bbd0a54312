"""What cameras and codecs do to pictures: motion blur, darkness, grain, soft lenses, JPEG, H.264.

A shutter closes at the frame's time and was open for a share of the frame before. So a blurred picture is, on average,
of half that share earlier: `Exposure.middle` is the truth that it shows.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

MARGIN = 64
"""Pixels by which the grain is larger than the picture: it lies elsewhere in each frame."""


@dataclass(frozen=True)
class Exposure:
    """How pictures of one clip are taken.

    Attributes:
        instants: pictures that a frame is the mean of; 1: no motion blur.
        shutter: share of a frame for which it is open; 0 with one instant.
        dark: factor on all values.
        noise: standard deviation of the grain, of 255.
        soft: standard deviation in pixels of the lens's blur; 0: none.
        jpeg: quality of JPEG, as of a web camera; 0: none.
        crf: constant rate factor of H.264, 0 to 51, larger is worse.
    """

    instants: int = 1
    shutter: float = 0.0
    dark: float = 1.0
    noise: float = 0.0
    soft: float = 0.0
    jpeg: int = 0
    crf: int = 23

    @classmethod
    def drawn(cls, random: np.random.Generator, *, fast: bool) -> Exposure:
        """A random one; fast motion is blurred more often."""
        blurred = random.uniform() < 0.8
        instants = int(random.choice([2, 3, 3] if fast else [1, 1, 2, 3])) if blurred else 1
        shutter = float(random.uniform(0.2, 1.0)) if instants > 1 else 0.0
        dark = float(random.uniform(0.15, 0.5)) if random.uniform() < 0.15 else 1.0
        noise = float(abs(random.normal(0, 4 if dark == 1 else 9)))
        soft = float(random.choice([0, 0, 0.6, 1.0]))
        jpeg = int(random.choice([0, 0, 30, 60, 85]))
        return cls(instants, shutter, dark, noise, soft, jpeg, int(random.integers(18, 36)))

    @property
    def settings(self) -> dict[str, float]:
        """As numbers."""
        return asdict(self)

    def middle(self, positions: F64) -> F64:
        """Positions [N, ...] at the frames' times, as they were in the middle of the exposures."""
        before = positions[np.maximum(np.arange(len(positions)) - 1, 0)]
        return positions + self.shutter / 2 * (before - positions)

    def moments(self, vertices: F32, frame: int) -> Iterator[F32]:
        """The vertices [V, 3] at each instant of a frame, of those at the frames' times [N, V, 3]."""
        now, before = vertices[frame], vertices[max(frame - 1, 0)]
        for instant in range(self.instants):
            late = self.instants - 1 - instant
            yield now + (before - now) * np.float32(self.shutter * late / (self.instants - 1)) if late else now

    def grain(self, random: np.random.Generator, width: int, height: int) -> NDArray[np.int16] | None:
        """Noise [height + MARGIN, width + MARGIN, 3], coarse if it is weak; None if there is hardly any."""
        cv2: Any = importlib.import_module("cv2")
        if self.noise < 0.5:
            return None
        coarse = 2 if self.noise < 2 else 1
        shape = ((height + MARGIN) // coarse, (width + MARGIN) // coarse, 3)
        noise = random.standard_normal(shape, np.float32) * np.float32(self.noise)
        whole = noise if coarse == 1 else cv2.resize(noise, (width + MARGIN, height + MARGIN))
        return np.asarray(np.round(whole), np.int16)

    def taken(
        self, random: np.random.Generator, instants: Iterable[U8], behind: U8, grain: NDArray[np.int16] | None
    ) -> U8:
        """A frame [H, W, 3].

        Args:
            random: places the grain.
            instants: as many pictures [H, W, 4] of the body as the exposure has instants.
            behind: [H, W, 3] what is seen where a picture's fourth value is 0.
            grain: see `grain`.
        """
        cv2: Any = importlib.import_module("cv2")
        seen: list[Any] = [np.where(picture[..., 3:] > 0, picture[..., :3], behind) for picture in instants]
        image: Any = seen[0] if self.instants == 1 else np.sum(seen, axis=0, dtype=np.uint16)
        if self.instants > 1 or self.dark < 1:
            image = cv2.convertScaleAbs(image, alpha=self.dark / self.instants)
        if self.soft:
            image = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), self.soft)
        if grain is not None:
            height, width, _ = image.shape
            y, x = (int(value) for value in random.integers(0, MARGIN, 2))
            noisy = np.add(image, grain[y : y + height, x : x + width], dtype=np.int16)
            image = np.clip(noisy, 0, 255).astype(np.uint8)
        if self.jpeg:
            quality = [cv2.IMWRITE_JPEG_QUALITY, self.jpeg]
            image = cv2.imdecode(cv2.imencode(".jpg", np.ascontiguousarray(image), quality)[1], 1)
        return np.ascontiguousarray(image, np.uint8)


def compressed(frames: Iterable[U8], width: int, height: int, fps: float, crf: int) -> Iterator[U8]:
    """The frames [H, W, 3] as H.264 leaves them, without a file."""
    av: Any = importlib.import_module("av")
    rate = round(fps)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, rate), Fraction(rate)
    encoder.options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "tune": "zerolatency"}
    decoder = av.CodecContext.create("h264", "r")
    encoder.thread_count = decoder.thread_count = 1

    def decoded(packets: Iterable[Any]) -> Iterator[U8]:
        for packet in packets:
            for frame in decoder.decode(packet):
                yield np.ascontiguousarray(frame.to_ndarray(format="rgb24"))

    for number, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number
        yield from decoded(encoder.encode(frame))
    yield from decoded([*encoder.encode(None), None])
