"""An estimator that is not there, and a clock that is set, show what is published when. The real one, where it is."""

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rtskel.cli import main
from rtskel.errors import RtskelError
from rtskel.formats import read
from rtskel.formats.mappings import HOLISTIC, HOLISTIC_WORLD
from rtskel.skeleton import UPPER_BODY_50
from rtskel.tools.estimate import INSTALL, Holistic, Pose, live, poses, publish, recording
from rtskel.tools.video import Frame, Video, write_mp4
from rtskel.wire import RawPose, StreamEnd
from tests.shared_data import shared_data
from tests.sockets import RawReceiver

NAMES = list(UPPER_BODY_50.names)
FRAMES, FPS = 12, 25


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Frame n is gray 8 n."""
    path = tmp_path_factory.mktemp("video") / "my clip.mp4"
    write_mp4(path, (np.full((120, 160, 3), 8 * number, np.uint8) for number in range(FRAMES)), FPS)
    return path


class Clock:
    """Moves when somebody sleeps or works."""

    def __init__(self) -> None:
        self.ms = 1000.0

    def now_ns(self) -> int:
        return round(self.ms * 1e6)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.ms += 1000 * seconds


class Estimator:
    """Takes its time, and finds the number of the frame: every joint there, at x = number."""

    def __init__(self, clock: Clock, ms: float = 0.0, fails_at: int | None = None) -> None:
        self.clock, self.ms, self.fails_at = clock, ms, fails_at
        self.seen: list[int] = []

    def find(self, image):
        number = round(float(image.mean()) / 8)
        self.seen.append(number)
        self.clock.ms += self.ms
        if number == self.fails_at:
            raise KeyboardInterrupt
        return found(number)


def found(x: float) -> tuple[dict, dict]:
    components = {**HOLISTIC.components, **HOLISTIC_WORLD.components}
    points = {part: np.full((len(names), 3), float(x)) for part, names in components.items()}
    return points, {part: np.ones(len(array)) for part, array in points.items()}


class Sender:
    """Remembers what a publisher would have sent."""

    def __init__(self, clock: Clock, waits_ms: float | None = 0.0) -> None:
        self.clock, self.waits_ms = clock, waits_ms
        self.sent: list[tuple[Any, ...]] = []

    def wait_for_subscriber(self, timeout=None) -> None:
        if self.waits_ms is None:
            raise TimeoutError("no server")
        self.clock.ms += self.waits_ms
        self.sent.append(("subscriber",))

    def send(self, xyz, confidence=None, *, seq=None, time_ns=None, block=False) -> None:
        assert block
        assert xyz.shape == (50, 3)
        assert confidence.shape == (50,)
        self.sent.append((seq, time_ns / 1e6))

    def end(self, seq=None) -> None:
        self.sent.append(("end", seq))

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass


# When frames are estimated


def test_a_file_is_played_in_time(clip):
    clock = Clock()
    with Video(clip) as video:
        frames = live(video, now_ns=clock.now_ns, sleep=clock.sleep)
        came = [(frame.number, frame.time_ns / 1e6, clock.ms) for frame in frames]
    assert came == [(n, 1000 + 40 * n, 1000 + 40 * n) for n in range(FRAMES)]


def test_a_slow_estimator_gets_the_newest_frame_and_the_last(clip):
    clock = Clock()
    came = []
    with Video(clip) as video:
        for frame in live(video, now_ns=clock.now_ns, sleep=clock.sleep):
            assert clock.ms >= frame.time_ns / 1e6, "not before it was taken"
            came.append((frame.number, frame.time_ns / 1e6 - 1000, clock.ms - 1000))
            clock.ms += 100
    # Frames are taken at 0, 40, 80, ...; the estimator is free at 0, 100, 200, ...
    assert came == [(0, 0, 0), (2, 80, 100), (5, 200, 200), (7, 280, 300), (10, 400, 400), (11, 440, 500)]


def test_one_slow_frame_costs_only_those_that_came_meanwhile(clip):
    clock = Clock()
    came = []
    with Video(clip) as video:
        for frame in live(video, now_ns=clock.now_ns, sleep=clock.sleep):
            came.append(frame.number)
            clock.ms += 90 if frame.number == 3 else 10
    assert came == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]


def test_a_slow_file_costs_no_frame(clip):
    clock = Clock()
    came = []
    with Video(clip) as video:

        def frames() -> Iterator[Frame]:
            for frame in video:
                clock.ms += 90
                yield frame

        slow = type("Slow", (), {"camera": False, "__iter__": lambda self: frames()})()
        for frame in live(slow, now_ns=clock.now_ns, sleep=clock.sleep):
            came.append((frame.number, frame.time_ns / 1e6 <= clock.ms))
            clock.ms += 30
    assert came == [(n, True) for n in range(FRAMES)]


class Camera:
    """Gives frames as the test lets it."""

    camera = True

    def __init__(self) -> None:
        self.give = threading.Semaphore(0)
        self.read = threading.Semaphore(0)

    def __iter__(self) -> Iterator[Frame]:
        for number in range(7, 13):
            self.read.release()  # all frames before this one have been taken in
            self.give.acquire()
            yield Frame(number, 1000 * number, np.zeros((2, 2, 3), np.uint8))
        self.read.release()

    def let(self, frames: int) -> None:
        for _ in range(frames):
            self.give.release()
            assert self.read.acquire(timeout=20)


def test_a_camera_is_read_while_the_estimator_works():
    camera = Camera()
    frames = live(camera)
    camera.give.release()
    first = next(frames)
    assert camera.read.acquire(timeout=20)
    assert camera.read.acquire(timeout=20)
    camera.let(3)
    newest = next(frames)
    camera.let(1)
    following = next(frames)
    camera.let(1)
    last = list(frames)
    assert [(frame.number, frame.time_ns) for frame in (first, newest, following, *last)] == [
        (0, 7000),
        (3, 10000),
        (4, 11000),
        (5, 12000),
    ]


def test_whoever_leaves_a_camera_stops_it():
    camera = Camera()
    camera.give.release()
    frames = live(camera)
    next(frames)
    camera.give.release()
    frames.close()
    assert not any(thread.name == "camera" for thread in threading.enumerate())


# What is published


def run(clip, sender: Sender, estimator: Estimator, **options) -> None:
    with Video(clip) as video:
        clock = sender.clock
        publish(video, estimator, sender, now_ns=clock.now_ns, sleep=clock.sleep, **options)


def test_published_as_they_are_found(clip):
    clock = Clock()
    sender, estimator = Sender(clock, waits_ms=500), Estimator(clock, 30)
    done = []
    run(clip, sender, estimator, each=lambda pose: done.append((pose.number, float(pose.xyz[0, 0]))))
    # Loaded by one frame, then after half a second a server came, then from the beginning.
    assert estimator.seen == [0, *range(FRAMES)]
    assert sender.sent == [("subscriber",), *((n, 1530 + 40 * n) for n in range(FRAMES)), ("end", FRAMES)]
    assert done == [(n, n) for n in range(FRAMES)]


def test_frames_that_the_estimator_misses_are_holes(clip):
    clock = Clock()
    sender, estimator = Sender(clock), Estimator(clock, 100)
    run(clip, sender, estimator)
    assert estimator.seen == [0, 0, 2, 5, 7, 10, 11]
    assert [entry[0] for entry in sender.sent] == ["subscriber", 0, 2, 5, 7, 10, 11, "end"]
    assert sender.sent[-1] == ("end", FRAMES)


def test_fast_is_every_frame(clip):
    clock = Clock()
    sender, estimator = Sender(clock), Estimator(clock, 100)
    run(clip, sender, estimator, fast=True)
    assert sender.sent[1:-1] == [(n, 1100 + 100 * n) for n in range(FRAMES)]


def test_an_interrupted_stream_is_ended(clip):
    clock = Clock()
    sender = Sender(clock)
    with pytest.raises(KeyboardInterrupt):
        run(clip, sender, Estimator(clock, fails_at=5))
    assert [entry[0] for entry in sender.sent] == ["subscriber", 0, 1, 2, 3, 4, "end"]
    assert sender.sent[-1] == ("end", 5)


def test_without_a_server_nothing_is_sent(clip):
    sender = Sender(Clock(), waits_ms=None)
    with pytest.raises(RtskelError, match="no server within 3 s"):
        run(clip, sender, Estimator(sender.clock), wait_s=3)
    assert sender.sent == []


def test_as_a_recording(clip):
    clock = Clock()
    with Video(clip) as video:
        kept = [pose for pose in poses(video, Estimator(clock)) if pose.number not in (2, 3)]
        take = recording(kept, video, "take")
        assert (take.unit, take.axes, take.fps, take.image_size) == ("m", "RDA", FPS, (160, 120))
        assert take.slots.tolist() == [0, 1, *range(4, FRAMES)]
        assert take.xyz[:, 0, 0].tolist() == take.slots.tolist()
        assert np.diff(take.time_ns)[-1] == pytest.approx(4e7)
        assert recording(kept, video, "take", pixels=True).unit == "px"
        with pytest.raises(RtskelError, match="no frames"):
            recording([], video, "take")


# What MediaPipe's results become


def marks(points: np.ndarray, visibility: float = 0.9) -> SimpleNamespace:
    return SimpleNamespace(landmark=[SimpleNamespace(x=x, y=y, z=z, visibility=visibility) for x, y, z in points])


def signer(number: int) -> SimpleNamespace:
    """A person of whom MediaPipe finds both hands, in frame 3 only the right one, in frame 5 nobody."""
    if number == 5:
        return SimpleNamespace(
            pose_landmarks=None, pose_world_landmarks=None, left_hand_landmarks=None, right_hand_landmarks=None
        )
    names = list(HOLISTIC.components["POSE_LANDMARKS"])
    image, world = np.full((33, 3), 0.5), np.zeros((33, 3))
    for side, sign in (("LEFT", 1), ("RIGHT", -1)):  # who faces the camera has the left hand at the image's right
        image[names.index(f"{side}_SHOULDER")] = 0.5 + sign * 0.125, 0.5, 0
        world[names.index(f"{side}_SHOULDER")] = sign * 0.2, -0.5, 0
        image[names.index(f"{side}_WRIST")] = 0.5 + sign * 0.25, 0.75, -0.1
        world[names.index(f"{side}_WRIST")] = sign * 0.4, -0.25, -0.3
    hand = np.zeros((21, 3))
    hand[:, 1] = 0.75 - 0.01 * np.arange(21)  # of the height, upward
    left, right = hand.copy(), hand.copy()
    left[:, 0], right[:, 0] = 0.76, 0.24
    left[8, 2] = -0.025  # the tip of the index finger points to the camera
    return SimpleNamespace(
        pose_landmarks=marks(image),
        pose_world_landmarks=marks(world),
        left_hand_landmarks=None if number == 3 else marks(left, 0.0),
        right_hand_landmarks=marks(right, 0.0),
    )


@pytest.fixture
def mediapipe(monkeypatch) -> list[Any]:
    """A package of that name; the list is what was asked of it."""
    asked: list[Any] = []

    class Solution:
        def __init__(self, **options) -> None:
            asked.append(options)

        def process(self, image):
            asked.append(round(float(image.mean()) / 8))
            return signer(asked[-1])

        def close(self) -> None:
            asked.append("close")

    for name in ("mediapipe", "mediapipe.python", "mediapipe.python.solutions", "mediapipe.python.solutions.holistic"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mediapipe.python.solutions.holistic"].Holistic = Solution
    return asked


def test_metres(mediapipe):
    with Holistic(complexity=2, smooth=True) as model:
        (pose,) = poses([Frame(0, 0, np.zeros((120, 160, 3), np.uint8))], model)
    nobody = 0  # in the first image, by which models are loaded
    assert mediapipe == [{"model_complexity": 2, "smooth_landmarks": True}, nobody, 0, "close"]
    at = dict(zip(NAMES, pose.xyz, strict=True))
    np.testing.assert_allclose(at["neck"], [0, -0.5, 0], atol=1e-6)
    np.testing.assert_allclose(at["left_wrist"], [0.4, -0.25, -0.3], atol=1e-6)
    np.testing.assert_allclose(at["left_hand_root"], at["left_wrist"], atol=1e-6)
    np.testing.assert_allclose(at["right_hand_root"], at["right_wrist"], atol=1e-6)
    # Shoulders are 0.4 m and 40 px apart, so a pixel is 1 cm; point 8 of a hand is 8% of 120 px above its wrist.
    np.testing.assert_allclose(at["right_index_4"] - at["right_wrist"], [0, -0.096, 0], atol=1e-6)
    np.testing.assert_allclose(at["left_index_4"] - at["left_wrist"], [0, -0.096, -0.04], atol=1e-6)
    np.testing.assert_allclose(pose.confidence, [0.9] * 8 + [1.0] * 42)


def test_pixels(mediapipe):
    with Holistic() as model:
        (pose,) = poses([Frame(0, 0, np.zeros((120, 160, 3), np.uint8))], model, pixels=True)
    assert mediapipe[0] == {"model_complexity": 1, "smooth_landmarks": False}
    at = dict(zip(NAMES, pose.xyz, strict=True))
    np.testing.assert_allclose(at["left_wrist"], [120, 90, -16], atol=1e-4)
    np.testing.assert_allclose(at["left_hand_root"], [121.6, 90, -16], atol=1e-4)
    np.testing.assert_allclose(at["left_index_4"], [121.6, 80.4, -20], atol=1e-4)


def test_without_mediapipe(clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    assert main(["estimate", str(clip)]) == 2
    assert capsys.readouterr().err == f"rtskel: error: estimate needs mediapipe, which is not installed: {INSTALL}\n"


def test_all_that_is_absent_is_named_at_once(clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main(["estimate", str(clip)]) == 2
    error = f"rtskel: error: estimate needs OpenCV and mediapipe, which are not installed: {INSTALL}\n"
    assert capsys.readouterr().err == error


# The command


def test_estimate_into_a_file(clip, mediapipe, tmp_path):
    assert main(["estimate", str(clip), "-o", str(tmp_path / "raw.npz")]) == 0
    (take,) = read(tmp_path / "raw.npz")
    assert (take.name, take.frames, take.unit) == ("my-clip", FRAMES, "m")
    left, right = (list(UPPER_BODY_50.groups[f"{side}_hand"]) for side in ("left", "right"))
    assert np.flatnonzero(take.missing[:, left].any(axis=1)).tolist() == [3, 5]
    assert np.flatnonzero(take.missing[:, right].any(axis=1)).tolist() == [5]
    assert take.missing[5].all()


def test_estimate_publishes(clip, mediapipe, tmp_path):
    argv = ["estimate", str(clip), "--fast", "--stream", "cam1", "--save", str(tmp_path / "raw.npz")]
    with RawReceiver() as server:
        assert main([*argv, "--raw", server.endpoint, "--wait", "20"]) == 0
        came = [server.messages.get(timeout=20) for _ in range(FRAMES + 1)]
    assert all(isinstance(message, RawPose) for message in came[:-1])
    assert {(m.stream, m.axes, m.fps, m.clock) for m in came[:-1]} == {("cam1", "RDA", FPS, "monotonic")}
    (about,) = {m.about for m in came[:-1]}
    assert [m.seq for m in came[:-1]] == list(range(FRAMES))
    assert isinstance(came[-1], StreamEnd)
    assert came[-1].seq == FRAMES
    (take,) = read(tmp_path / "raw.npz")
    assert (about.unit, about.image_size) == (take.unit, take.image_size) == ("m", take.image_size)
    np.testing.assert_array_equal(take.xyz, np.stack([m.xyz for m in came[:-1]]))
    np.testing.assert_allclose(take.time_ns, np.arange(FRAMES) * (1e9 / FPS), atol=1e6, err_msg="the video's own times")
    assert take.fps == FPS
    assert (np.diff([m.time_ns for m in came[:-1]]) > 0).all(), "sent with the time of sending"


def test_frames_lost_by_a_slow_estimator_are_told(clip, mediapipe, monkeypatch, capsys):
    def publish(video, model, sender, *, each, **options) -> None:
        for number in (0, 3, 6):
            each(Pose(number, 0, np.zeros((50, 3), np.float32), np.zeros(50, np.float32)))

    monkeypatch.setattr("rtskel.tools.estimate.publish", publish)
    assert main(["estimate", str(clip), "--raw", "tcp://127.0.0.1:9"]) == 0
    assert "4 of 7 frames came while the estimator was busy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "a VIDEO or --camera N expected"),
        (["a.mp4", "--camera", "0"], "a VIDEO or --camera N expected"),
        (["--camera", "0", "-o", "a.npz"], "-o writes every frame of a VIDEO"),
        (["none.mp4"], "none.mp4: no such video file"),
        (["none.mp4", "-o", "raw.txt"], "raw.txt"),
    ],
)
def test_mistakes(argv, message, capsys):
    assert main(["estimate", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rtskel: error: ")
    assert message in error
    assert error.count("\n") == 1


# The real one


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason=f"mediapipe is not installed: {INSTALL}")
def test_mediapipe_finds_the_signer():
    path = shared_data("video/SOUP.mp4")
    with Video(path) as video, Holistic() as model:
        take = recording(list(poses(video, model)), video, "soup")
    assert take.frames == 41
    seen = ~take.missing
    assert seen[:, :8].all()
    for side in ("left", "right"):
        assert seen[:, UPPER_BODY_50.groups[f"{side}_hand"][0]].mean() > 0.7
    xyz = take.canonical()
    assert (xyz[:, NAMES.index("left_shoulder"), 0] > xyz[:, NAMES.index("right_shoulder"), 0]).all()
    assert (xyz[:, NAMES.index("nose"), 1] < xyz[:, NAMES.index("neck"), 1]).all(), "the head is up"
    assert (xyz[:, NAMES.index("right_wrist"), 2] > xyz[:, NAMES.index("right_shoulder"), 2]).all(), "before the body"
    assert 0.25 < np.median(np.linalg.norm(xyz[:, 2] - xyz[:, 5], axis=-1)) < 0.45
