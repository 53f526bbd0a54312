"""Poses from a video or camera by MediaPipe Holistic: as recordings, or published live; of one person or of several.

Poses are in metres (`rtskel.formats.mediapipe` places the hands), whose depth is far steadier than that of the image,
or in pixels, to draw over the video. A hand that was not found is missing; where nobody was found, all joints are. The
confidence of a body joint is MediaPipe's visibility: low where it only guesses, hidden or outside the image.

MediaPipe's own smoothing is off by default: it adds delay, and hides from refinement what the estimator saw.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rtskel.client import GroupPublisher
from rtskel.closing import Closing
from rtskel.errors import RtskelError
from rtskel.formats import Recording
from rtskel.formats.mediapipe import AXES, Assembler
from rtskel.formats.people import Follower
from rtskel.rates import reconcile
from rtskel.skeleton import LEFT_SHOULDER, RIGHT_SHOULDER, UPPER_BODY_50
from rtskel.tools.holistic import Found
from rtskel.tools.replay import Sender, wait_for_subscriber
from rtskel.tools.video import Frame, Image, Video

COLOURS = 4**3
"""Into how many colours a person's looks are sorted."""


class Estimator(Protocol):
    """Finds a person in images."""

    def find(self, image: Image) -> Found:
        """Landmarks in the next image."""


class PeopleEstimator(Protocol):
    """Finds several people in images."""

    def find(self, image: Image) -> Mapping[int, Found]:
        """Landmarks of each in the next image, by a number that he keeps while the estimator follows him."""

    def drop(self, number: int) -> None:
        """Follow somebody no longer: he is another one, too, or nobody who is asked for."""


class Pose(NamedTuple):
    """The pose in one frame, or those of P people.

    Attributes:
        number: of the frame; numbers of frames that were not estimated are left out.
        time_ns: when the frame was taken: on the monotonic clock if live, else since the first frame.
        xyz: float32 [50, 3] or [P, 50, 3].
        confidence: float32 [50] or [P, 50], 0 = missing.
    """

    number: int
    time_ns: int
    xyz: NDArray[np.float32]
    confidence: NDArray[np.float32]


Poses = Callable[[Iterable[Frame]], Iterator[Pose]]
"""Finds poses in the frames of one video: `poses` or `people` with an estimator."""


def poses(
    frames: Iterable[Frame], estimator: Estimator, *, pixels: bool = False, corrected: bool = True
) -> Iterator[Pose]:
    """The poses in the frames of one video.

    Args:
        pixels: in image coordinates, instead of metres from the hips.
        corrected: of poses in metres, joints where the body has them, not where MediaPipe puts them
            (`rtskel.formats.jointmap`).
    """
    assembler = Assembler(world=not pixels, corrected=corrected)
    for frame in frames:
        yield Pose(frame.number, frame.time_ns, *assembler.joints(*estimator.find(frame.image)))


def people(
    frames: Iterable[Frame], estimator: PeopleEstimator, most: int, *, pixels: bool = False, corrected: bool = True
) -> Iterator[Pose]:
    """The poses of everybody who has been seen in the frames of one video so far, each in his own place of P.

    Who is out of sight has no joints, and gets his place back when he returns: `rtskel.formats.people` has the rule.

    Args:
        frames: of one video.
        estimator: finds people, and follows them.
        most: people in the video at most.
        pixels: poses in image coordinates, instead of metres from each person's own hips.
        corrected: as in `poses`.
    """
    follower = Follower(most)
    assemblers = [Assembler(world=not pixels, corrected=corrected) for _ in range(most)]
    for frame in frames:
        found = estimator.find(frame.image)
        image = np.zeros((len(found), UPPER_BODY_50.joints, 3), np.float32)
        seen = np.zeros(image.shape[:2], np.float32)
        looks = np.zeros((len(found), COLOURS), np.float32)
        for row, person in enumerate(found.values()):
            image[row], seen[row] = Assembler().joints(*person)
            looks[row] = look(frame.image, image[row], seen[row])
        tracks = np.array(list(found), np.int64)
        streams = follower.place(frame.number, image[..., :2], seen, tracks, looks)
        xyz = np.zeros((follower.streams, UPPER_BODY_50.joints, 3), np.float32)
        confidence = np.zeros(xyz.shape[:2], np.float32)
        for number, stream in zip(tracks.tolist(), streams.tolist(), strict=True):
            if stream >= 0:
                xyz[stream], confidence[stream] = assemblers[stream].joints(*found[number])
            elif stream != Follower.HIDDEN:
                estimator.drop(number)
        yield Pose(frame.number, frame.time_ns, xyz, confidence)


def look(image: Image, xyz: NDArray[np.float32], seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """[COLOURS] shares of colours from a person's shoulders to a shoulder width below; all 0 where they are not seen.

    Args:
        image: with the person.
        xyz: [50, 3] his joints in pixels.
        seen: [50] their confidences.
    """
    shares = np.zeros(COLOURS, np.float32)
    shoulders = xyz[[LEFT_SHOULDER, RIGHT_SHOULDER], :2]
    if seen[[LEFT_SHOULDER, RIGHT_SHOULDER]].min() > 0:
        low, high = shoulders.min(axis=0), shoulders.max(axis=0)
        high[1] += high[0] - low[0]
        left, top = np.clip(low, 0, 1e6).astype(int)
        right, bottom = np.clip(high, 0, 1e6).astype(int)
        step = max(1, (right - left) // 32)
        pixels = image[top:bottom:step, left:right:step].reshape(-1, 3) // 64
        if len(pixels):
            shares[:] = np.bincount(pixels @ np.array((16, 4, 1)), minlength=COLOURS) / len(pixels)
    return shares


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


def recordings(found: Sequence[Pose], video: Video, name: str, *, pixels: bool = False) -> list[Recording]:
    """Poses of several people in one video as recordings, `name`-1, `name`-2, ..., each from where he is seen first.

    Raises:
        RtskelError: there are none.
    """
    most = max((len(pose.xyz) for pose in found), default=0)
    if not most:
        raise RtskelError(f"{video.name}: nobody is found in any frame")
    return [
        recording(
            [pose._replace(xyz=pose.xyz[k], confidence=pose.confidence[k]) for pose in found if len(pose.xyz) > k],
            video,
            person_id(name, k),
            pixels=pixels,
        )
        for k in range(most)
    ]


def person_id(name: str, number: int) -> str:
    """What the stream of a person is called: 0, 1, ... of those in a video or camera."""
    return f"{name[:61]}-{number + 1}"  # stream ids have at most 64 characters


class PeopleSender(Closing):
    """Sends the poses of several people, each as a stream of his own. A context manager that owns its publisher."""

    def __init__(self, publisher: GroupPublisher, name: str) -> None:
        self._publisher, self._name = publisher, name

    def wait_for_subscriber(self, timeout: float | None = None) -> None:
        """See `rtskel.client.Publisher.wait_for_subscriber`."""
        self._publisher.wait_for_subscriber(timeout)

    def send(
        self,
        xyz: NDArray[np.float32],
        confidence: NDArray[np.float32] | None = None,
        *,
        seq: int | None = None,
        time_ns: int | None = None,
        block: bool = False,
    ) -> bool:
        """As `rtskel.client.Publisher.send`, of poses [P, 50, 3]."""
        streams = [person_id(self._name, number) for number in range(len(xyz))]
        return self._publisher.send(streams, xyz, confidence, seq=seq, time_ns=time_ns, block=block)

    def end(self, seq: int | None = None) -> bool:
        """Ends the streams of all people."""
        return self._publisher.end(seq=seq)

    def close(self) -> None:
        """Closes the publisher."""
        self._publisher.close()


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
    find: Poses,
    sender: Sender,
    *,
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
        video: a video or camera.
        find: finds the poses in frames.
        sender: sends them.
        fast: every frame of a file, however long it takes; otherwise as from a camera, see `live`.
        wait_s: how long to wait for a subscriber; None: as long as it takes.
        waiting: told what is waited for, once that takes longer than a second.
        each: called with every pose that was sent.
        now_ns, sleep: the clock of the frames' times, and how to wait.

    Raises:
        RtskelError: no subscriber came in time.
    """
    next(find([video.first]))
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
        for pose in find(frames):
            time_ns = taken.pop() if as_fast_as_possible else pose.time_ns
            sender.send(pose.xyz, pose.confidence, seq=pose.number, time_ns=time_ns, block=True)
            slots = pose.number + 1
            if each is not None:
                each(pose)
    finally:
        sender.end(slots)
