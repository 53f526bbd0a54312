"""`.pose` files, versions 0.0, 0.1 and 0.2 (github.com/sign-language-processing/pose, docs/specs).

Points are mapped by the names of components and points in the file (`rtskel.formats.mappings.BY_COMPONENT`): MediaPipe
Holistic with all or some of its points (joints without points are missing), OpenPose with BODY_25 or BODY_135,
COCO-WholeBody, AlphaPose. The file states frame rate and image size; versions 0.0 and 0.1 truncate the frame rate.

The unit of MediaPipe's z is not stated, see `rtskel.formats.mediapipe`: `depth_scale` gives its pixels; without it a
recording is 2D. `world` reads world landmarks, in metres, if the file has them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtskel.errors import FormatError
from rtskel.formats.mappings import BY_COMPONENT, HOLISTIC, HOLISTIC_WORLD, Layout, gather
from rtskel.formats.mediapipe import AXES, Assembler, with_depth
from rtskel.formats.parsing import DEPTH, Format, Options, content, listed
from rtskel.formats.people import recordings_of_people
from rtskel.formats.recording import Recording

VERSIONS = (0.0, 0.1, 0.2)


@dataclass(frozen=True)
class _Component:
    name: str
    format: str  # one letter per number of a point: X, Y, Z, ..., and last C, the confidence
    points: tuple[str, ...]


class _Bytes:
    """Little-endian values one after another; FormatError where the file ends too early."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, form: str) -> tuple[float, ...]:
        try:
            values = struct.unpack_from("<" + form, self.data, self.at)
        except struct.error:
            raise self.truncated() from None
        self.at += struct.calcsize("<" + form)
        return values

    def count(self, form: str = "H") -> int:
        return int(self.take(form)[0])

    def name(self) -> str:
        length = self.count()
        raw = self.data[self.at : self.at + length]
        if len(raw) < length:
            raise self.truncated()
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{self.path}: not a .pose file, or damaged (a name at byte {self.at})") from None

    def floats(self, *shape: int) -> NDArray[np.float32]:
        count = int(np.prod(shape, dtype=object))
        if self.at + 4 * count > len(self.data):
            raise self.truncated()
        values = np.frombuffer(self.data, "<f4", count, self.at).reshape(shape)
        self.at += 4 * count
        return values

    def truncated(self) -> FormatError:
        return FormatError(f"{self.path}: truncated ({len(self.data)} bytes)")


def _header(source: _Bytes) -> tuple[float, tuple[int, int], list[_Component]]:
    """Version, image size and components."""
    version = round(source.take("f")[0], 3)
    if version not in VERSIONS:
        raise FormatError(f"{source.path}: not a .pose file, or of an unknown version ({version})")
    width, height, _ = (int(value) for value in source.take("HHH"))
    components = []
    for _ in range(source.count()):
        name, form = source.name(), source.name()
        count, limbs, colors = (int(value) for value in source.take("HHH"))
        components.append(_Component(name, form, tuple(source.name() for _ in range(count))))
        source.take(f"{2 * limbs + 3 * colors}H")
        if not form.endswith("C") or not form.startswith("XY"):
            raise FormatError(f"{source.path}: component {name!r} has format {form!r}, XY...C expected")
    return version, (width, height), components


def read_pose(path: Path, options: Options) -> list[Recording]:
    """Read a .pose file."""
    source = _Bytes(path, content(path))
    version, image_size, components = _header(source)
    by_name = {component.name: component for component in components}
    if not any(component.points for component in components):
        raise FormatError(f"{path}: its components have no points")
    layout = next((BY_COMPONENT[name] for name in by_name if name in BY_COMPONENT), None)
    if layout is None:
        raise FormatError(f"{path}: components {listed(by_name)}: none of {', '.join(BY_COMPONENT)}")

    fps, frame, identity, points, sure = _body(source, version, components)
    if options.fps is not None or not fps > 0:
        fps = options.need(path, "fps", f"the file says {fps:g} frames a second")
    names = {component.name: component.points for component in components}

    def joints(of: Layout, dims: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = [name for name in of.components if name in by_name]
        return gather(
            of, {name: points[name][..., :dims] for name in parts}, {name: sure[name] for name in parts}, names
        )

    has_depth = layout is HOLISTIC and all(
        by_name[name].format.startswith("XYZ") for name in layout.components if name in by_name
    )
    (world,) = HOLISTIC_WORLD.components
    if options.world and world not in by_name:
        raise FormatError(f"{path}: has no world landmarks")
    scale = options.depth_scale
    if options.world:
        scale = options.need(path, "depth_scale", "the file does not say in what the depth of its hands is")
    if scale is not None and not has_depth:
        raise FormatError(f"{path}: has no depth to scale")
    xyz, confidence = joints(layout, 2 if scale is None else 3)
    if options.world and scale is not None:
        if len(set(frame.tolist())) < len(frame):
            raise FormatError(f"{path}: has several people, of whom world landmarks cannot be told apart")
        assembler = Assembler(world=True, corrected=options.corrected)
        image = xyz * np.array([1.0, 1.0, scale], np.float32)
        rows = [assembler.place(*row) for row in zip(*joints(HOLISTIC_WORLD, 3), image, confidence, strict=True)]
        xyz, confidence = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
    elif scale is not None:
        xyz, confidence = with_depth(xyz, confidence, scale)
    return recordings_of_people(
        path,
        path.stem,
        frame,
        xyz,
        confidence,
        identity,
        note=options.note,
        fps=fps,
        unit="m" if options.world else "px",
        axes=AXES if layout is HOLISTIC else "RDT",
        image_size=image_size if all(image_size) else None,
    )


_Body = tuple[
    float, NDArray[np.int64], NDArray[np.int64] | None, dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]
]


def _body(source: _Bytes, version: float, components: list[_Component]) -> _Body:
    """Frame rate, and of each person of each frame: frame number, identity, points and confidences by component."""
    counts = [len(component.points) for component in components]
    if version == 0.0:
        fps, frames = source.take("HH")
        sizes = [count * len(component.format) for count, component in zip(counts, components, strict=True)]
        rows, frame, identity = [], [], []
        for number in range(int(frames)):
            for _ in range(source.count()):
                frame.append(number)
                identity.append(source.count("h"))
                rows.append(source.floats(sum(sizes)))
        if not rows:
            raise FormatError(f"{source.path}: nobody is found in any frame")
        parts = np.split(np.stack(rows), np.cumsum(sizes)[:-1], axis=-1)
        points, sure = {}, {}
        for component, part in zip(components, parts, strict=True):
            values = part.reshape(len(rows), len(component.points), len(component.format))
            points[component.name], sure[component.name] = values[..., :-1], values[..., -1]
        return fps, np.array(frame), np.array(identity), points, sure

    dims = max(len(component.format) for component in components) - 1
    if version == 0.1:
        fps, _, people = source.take("HHH")  # the stated number of frames overflows: use the file's size
        row = int(people) * sum(counts) * (dims + 1) * 4
        left = len(source.data) - source.at
        if not row or left % row:
            raise FormatError(f"{source.path}: truncated, or damaged: {left} bytes are no whole number of frames")
        frames = left // row
    else:
        fps, frames, people = source.take("fIH")
    if not frames or not people:
        raise FormatError(f"{source.path}: nobody is found in any frame")
    rows_of_all = int(frames) * int(people)
    data = source.floats(rows_of_all, sum(counts), dims)
    sure_of_all = source.floats(rows_of_all, sum(counts))
    cuts = np.cumsum(counts)[:-1]
    names = [component.name for component in components]
    points = dict(zip(names, np.split(data, cuts, axis=1), strict=True))
    sure = dict(zip(names, np.split(sure_of_all, cuts, axis=1), strict=True))
    return float(fps), np.repeat(np.arange(int(frames)), int(people)), None, points, sure


FORMAT = Format(
    "pose",
    (".pose",),
    read_pose,
    mark=rb"\A(?:\0\0\0\0|\xcd\xcc\xcc\x3d|\xcd\xcc\x4c\x3e).{6}[\1-\x20]\0[\1-\x40]\0[A-Za-z_]",
    takes=DEPTH,
)
