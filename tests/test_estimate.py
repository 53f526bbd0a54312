"""An estimator that is not there, and a clock that is set, show what is published when. The real one, where it is."""

import importlib.util
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

from rtskel.cli import main
from rtskel.errors import RtskelError
from rtskel.formats import read
from rtskel.formats.jointmap import mediapipe_map
from rtskel.formats.mappings import HOLISTIC, HOLISTIC_WORLD
from rtskel.skeleton import RIGHT_SHOULDER, UPPER_BODY_50
from rtskel.tools.estimate import Pose, live, look, people, person_id, poses, publish, recording
from rtskel.tools.holistic import INSTALL, SEEK_EVERY, Holistic, HolisticPeople
from rtskel.tools.video import Frame, Video, write_mp4
from rtskel.wire import RAW_BATCH_PREFIX, RawPose, StreamEnd
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
        find = partial(poses, estimator=estimator, corrected=False)
        publish(video, find, sender, now_ns=clock.now_ns, sleep=clock.sleep, **options)


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
        kept = [pose for pose in poses(video, Estimator(clock), corrected=False) if pose.number not in (2, 3)]
        take = recording(kept, video, "take")
        assert (take.unit, take.axes, take.fps, take.image_size) == ("m", "RDA", FPS, (160, 120))
        assert take.slots.tolist() == [0, 1, *range(4, FRAMES)]
        assert take.xyz[:, 0, 0].tolist() == take.slots.tolist()
        assert np.diff(take.time_ns)[-1] == pytest.approx(4e7)
        assert recording(kept, video, "take", pixels=True).unit == "px"
        with pytest.raises(RtskelError, match="no frames"):
            recording([], video, "take")


# What MediaPipe's results become


class Mark(SimpleNamespace):
    """A landmark as MediaPipe's protocol buffers have it."""

    def ClearField(self, name: str) -> None:
        assert name == "presence"
        self.presence = 0.0


def marks(points: np.ndarray, visibility: float = 0.9) -> SimpleNamespace:
    return SimpleNamespace(landmark=[Mark(x=x, y=y, z=z, visibility=visibility, presence=0.5) for x, y, z in points])


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
        def __init__(self, graph_config, side_inputs) -> None:
            assert "Face" not in graph_config
            asked.append(side_inputs)

        def process(self, inputs):
            asked.append(round(float(inputs["image"].mean()) / 8))
            return signer(asked[-1])

        def close(self) -> None:
            asked.append("close")

    for name in ("mediapipe", "mediapipe.python", "mediapipe.python.solution_base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mediapipe.python.solution_base"].SolutionBase = Solution
    download = ModuleType("mediapipe.python.solutions.download_utils")
    download.download_oss_model = asked.append
    for name in ("mediapipe.python.solutions", download.__name__):
        monkeypatch.setitem(sys.modules, name, download)
    return asked


def test_metres(mediapipe):
    with Holistic(complexity=2, smooth=True) as model:
        (pose,) = poses([Frame(0, 0, np.zeros((120, 160, 3), np.uint8))], model, corrected=False)
    nobody = 0  # in the first image, by which models are loaded
    heavy = "mediapipe/modules/pose_landmark/pose_landmark_heavy.tflite"
    assert mediapipe == [heavy, {"model_complexity": 2, "smooth_landmarks": True}, nobody, 0, "close"]
    at = dict(zip(NAMES, pose.xyz, strict=True))
    np.testing.assert_allclose(at["neck"], [0, -0.5, 0], atol=1e-6)
    np.testing.assert_allclose(at["left_wrist"], [0.4, -0.25, -0.3], atol=1e-6)
    np.testing.assert_allclose(at["left_hand_root"], at["left_wrist"], atol=1e-6)
    np.testing.assert_allclose(at["right_hand_root"], at["right_wrist"], atol=1e-6)
    # Shoulders are 0.4 m and 40 px apart, so a pixel is 1 cm; point 8 of a hand is 8% of 120 px above its wrist.
    np.testing.assert_allclose(at["right_index_4"] - at["right_wrist"], [0, -0.096, 0], atol=1e-6)
    np.testing.assert_allclose(at["left_index_4"] - at["left_wrist"], [0, -0.096, -0.04], atol=1e-6)
    np.testing.assert_allclose(pose.confidence, [0.9] * 8 + [1.0] * 42)


def test_joints_are_moved_to_where_bodies_have_them(mediapipe):
    images = [Frame(n, 0, np.zeros((120, 160, 3), np.uint8)) for n in range(2)]
    with Holistic() as model:
        (found, _), (moved, _) = (list(poses(images, model, corrected=corrected)) for corrected in (False, True))
    expected = mediapipe_map().apply(found.xyz[None], found.confidence[None] == 0)[0]
    np.testing.assert_array_equal(moved.xyz, expected)
    assert np.abs(moved.xyz - found.xyz).max() > 0.005


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


# Several people

RED, BLUE, GREEN = (250, 20, 20), (20, 20, 250), (20, 250, 20)
PICTURE = (120, 400, 3)


def picture(**people: int) -> np.ndarray:
    """People as blocks of 30 pixels in their colours, at an x; the later ones are in front."""
    image = np.zeros(PICTURE, np.uint8)
    for name, x in people.items():
        image[40:70, x : x + 30] = {"red": RED, "blue": BLUE, "green": GREEN}[name]
    return image


class Region(NamedTuple):
    """Where a block begins; what MediaPipe says is between the hips, as shares of the picture."""

    x: int
    x_center = property(lambda self: (self.x + 15) / PICTURE[1])
    y_center = 70 / PICTURE[0]


def block(x: int) -> SimpleNamespace:
    """What MediaPipe would say of a person there: joints fill his block, both shoulders in its upper half."""
    height, width, _ = PICTURE
    shares = np.random.default_rng(0).uniform(0.05, 0.95, (33, 2))
    names = list(HOLISTIC.components["POSE_LANDMARKS"])
    shares[names.index("LEFT_SHOULDER")], shares[names.index("RIGHT_SHOULDER")] = (0.9, 0.2), (0.1, 0.2)
    shares[names.index("NOSE")], shares[names.index("LEFT_ELBOW")] = (0.5, 0.0), (1.0, 1.0)
    image = np.concatenate([(shares * 30 + [x, 40]) / [width, height], np.zeros((33, 1))], axis=1)
    world = np.concatenate([shares, np.zeros((33, 1))], axis=1)
    return SimpleNamespace(
        pose_landmarks=marks(image),
        pose_world_landmarks=marks(world),
        left_hand_landmarks=None,
        right_hand_landmarks=None,
        next_roi=Region(x),
    )


NOBODY = SimpleNamespace(
    pose_landmarks=None, pose_world_landmarks=None, left_hand_landmarks=None, right_hand_landmarks=None, next_roi=None
)


class Detector:
    """MediaPipe's graphs for several people, which find blocks: regions are the x of where one begins."""

    def __init__(self, graph_config, side_inputs) -> None:
        self.seeks = "PoseDetectionCpu" in graph_config
        assert self.seeks == (not side_inputs)
        self.restarts = self.closed = 0
        DETECTORS.append(self)

    def process(self, inputs):
        lit = inputs["image"][55].max(axis=1) > 128
        begins = np.flatnonzero(lit & ~np.append(False, lit[:-1]))
        if self.seeks:
            return SimpleNamespace(rois=[Region(int(x)) for x in begins] or None)
        near = begins[np.abs(begins - inputs["roi"].x) < 15]
        return block(int(near[0])) if len(near) else NOBODY

    def reset(self) -> None:
        self.restarts += 1

    def close(self) -> None:
        self.closed += 1


DETECTORS: list[Detector] = []


@pytest.fixture
def detectors(mediapipe) -> list[Detector]:
    DETECTORS.clear()
    sys.modules["mediapipe.python.solution_base"].SolutionBase = Detector
    return DETECTORS


def test_everybody_is_followed_and_sought_in_what_is_left(detectors):
    with HolisticPeople(2) as model:
        seek, *graphs = detectors
        assert (seek.seeks, len(graphs)) == (True, 2)
        assert list(model.find(picture(red=50))) == [0]
        for _ in range(SEEK_EVERY - 1):
            assert list(model.find(picture(red=52, blue=200))) == [0], "sought now and then"
        found = model.find(picture(red=54, blue=200))
        assert [points["POSE_LANDMARKS"][:, 0].min() > 190 for points, _ in found.values()] == [False, True]
        assert list(model.find(picture(blue=202, green=300))) == [1], "who is gone makes room"
        for _ in range(SEEK_EVERY - 1):
            found = model.find(picture(blue=204, green=300))
        assert list(found) == [1, 2]
        model.drop(1)
        assert list(model.find(picture(blue=206, green=300))) == [2]
        assert sorted(graph.restarts for graph in graphs) == [1, 2], "whoever is new is met without memories"
    assert [each.closed for each in detectors] == [1, 1, 1]


def test_people_keep_their_places(detectors):
    """Blue passes behind red, when his region goes over to red, and red's to him; later red leaves and comes back."""
    moments = [{"blue": 260 - 4 * k, "red": 40 + 4 * k} for k in range(60)]
    moments += [{"blue": 20}] * 60 + [{"blue": 20, "red": 150}] * 10
    where = []
    with HolisticPeople(2) as model:
        frames = (Frame(n, n, picture(**moment)) for n, moment in enumerate(moments))
        for pose, moment in zip(people(frames, model, 2, pixels=True), moments, strict=True):
            seen = (pose.confidence > 0).any(axis=1)
            x = np.where(seen, pose.xyz[:, RIGHT_SHOULDER, 0], np.nan)
            where.append({name: (np.abs(x - at) < 10).tolist() for name, at in moment.items()})
    red = [True, False] if where[5]["red"][0] else [False, True]
    both = {"red": red, "blue": red[::-1]}
    assert where[1] == where[20] == both
    assert where[59] == where[-1] == both
    assert where[100] == {"blue": red[::-1]}
    assert pose.xyz.shape == (2, 50, 3)


def test_one_person_found_twice_is_followed_once():
    class Twice:
        dropped: ClassVar[list[int]] = []

        def find(self, image):
            return {n: found(7 * n if n < 3 else 0) for n in range(4) if n not in self.dropped}

        def drop(self, number):
            self.dropped.append(number)

    assert list(people([], Twice(), 4)) == []
    counts = [len(pose.xyz) for pose in people([Frame(n, n, picture()) for n in range(3)], Twice(), 4)]
    assert Twice.dropped == [3]
    assert counts == [3, 3, 3]


def test_looks():
    image = picture(red=50, blue=100)
    xyz, seen = np.zeros((50, 3), np.float32), np.ones(50, np.float32)

    def at(left, right, y=45.0):
        xyz[2, :2], xyz[5, :2] = (left, y), (right, y)
        return look(image, xyz, seen)

    assert np.flatnonzero(at(55, 75)).tolist() == [48]  # red
    assert np.flatnonzero(at(105, 125)).tolist() == [3]
    half = at(70, 90)
    assert half[48] == pytest.approx(half[0], rel=0.2)
    for nowhere in ((500, 600), (-80, -20), (60, 60)):
        assert not at(*nowhere).any()
    seen[2] = 0
    assert not at(55, 75).any()


def test_names_of_people_are_stream_ids():
    assert person_id("cam1", 0) == "cam1-1"
    assert len(person_id("x" * 64, 11)) == 64


def test_estimate_of_people_into_a_file_and_published(detectors, tmp_path, capsys):
    path = tmp_path / "two.mp4"
    moments = [{"red": 60}] * 3 + [{"red": 60, "blue": 240}] * 9
    write_mp4(path, (picture(**moment) for moment in moments), FPS)
    assert main(["estimate", str(path), "--people", "2", "-o", str(tmp_path / "raw.npz")]) == 0
    first, second = read(tmp_path / "raw.npz")
    assert (first.name, first.slots.tolist()) == ("two-1", list(range(12)))
    assert (second.name, second.slots.tolist()) == ("two-2", list(range(SEEK_EVERY, 12)))
    assert first.unit == "m"
    with RawReceiver(prefix=RAW_BATCH_PREFIX) as server:
        ends = ["--raw", server.endpoint, "--wait", "20"]
        assert main(["estimate", str(path), "--people", "2", "--fast", "--stream", "cam1", *ends]) == 0
        came = [server.messages.get(timeout=20) for _ in range(14)]
    assert [list(message.streams) for message in came[:12]] == [["cam1-1"]] * 4 + [["cam1-1", "cam1-2"]] * 8
    assert [message.seq for message in came[:12]] == list(range(12))
    assert {(m.axes, m.fps, m.about.unit, m.about.image_size) for m in came[:12]} == {("RDA", FPS, "m", (400, 120))}
    assert {(end.stream, end.seq) for end in came[12:]} == {("cam1-1", 12), ("cam1-2", 12)}
    write_mp4(path, (picture() for _ in range(3)), FPS)
    assert main(["estimate", str(path), "--people", "2", "-o", str(tmp_path / "none.npz")]) == 2
    assert "nobody is found in any frame" in capsys.readouterr().err


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


@pytest.mark.parametrize(("pauses", "words"), [(0, "4 of 7 frames came"), (3, "1 of 4 frames came"), (4, "")])
def test_frames_lost_by_a_slow_estimator_are_told(clip, mediapipe, monkeypatch, capsys, pauses, words):
    """And nothing else: where the video itself pauses, no frame came."""

    def publish(video, find, sender, *, each, **options) -> None:
        video.pauses = pauses
        for number in (0, 3, 6):
            each(Pose(number, 0, np.zeros((50, 3), np.float32), np.zeros(50, np.float32)))

    monkeypatch.setattr("rtskel.tools.estimate.publish", publish)
    assert main(["estimate", str(clip), "--raw", "tcp://127.0.0.1:9"]) == 0
    said = capsys.readouterr().err
    assert ("came while the estimator was busy" in said) == bool(words)
    assert words in said


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


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason=f"mediapipe is not installed: {INSTALL}")
def test_mediapipe_without_its_face_mesh_says_the_same():
    """Bit for bit; and so does, up to rounding, the copy of it that follows one of several people."""
    from mediapipe.python.solutions.holistic import Holistic as Whole

    from rtskel.formats.mediapipe import landmarks

    with Video(shared_data("video/SOUP.mp4")) as video:
        images = [frame.image for frame in video][:20]
    with Holistic() as ours, HolisticPeople(1) as several, Whole(smooth_landmarks=False) as theirs:
        theirs.process(np.zeros((64, 64, 3), np.uint8))
        for image in images:
            expected, sure = landmarks(theirs.process(image), (image.shape[1], image.shape[0]))
            points, confidence = ours.find(image)
            (copy,) = several.find(image).values()
            assert points.keys() == copy[0].keys() == expected.keys()
            for part, wanted in expected.items():
                np.testing.assert_array_equal(points[part], wanted)
                np.testing.assert_array_equal(confidence[part], sure[part])
                np.testing.assert_allclose(copy[0][part], wanted, atol=0.01)
                np.testing.assert_allclose(copy[1][part], sure[part], atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason=f"mediapipe is not installed: {INSTALL}")
def test_mediapipe_keeps_two_people_apart():
    """One signer passes before the other, goes away, and comes back elsewhere."""
    import cv2

    def signer_of(name):
        with Video(shared_data(f"video/{name}.mp4")) as video:
            images = [cv2.resize(frame.image, (360 * video.width // video.height, 360)) for frame in video]
        middle = images[0].shape[1] // 2
        images = [image[:, middle - 150 : middle + 150] for image in images]
        return lambda n: images[n % len(images) if n // len(images) % 2 == 0 else -1 - n % len(images)]

    front, behind = signer_of("SOUP"), signer_of("human_signer")
    moments = [(20 + 14 * n, 780 - 14 * n) for n in range(54)] + [(None, 24)] * 20 + [(400, 24)] * 26
    frames = []
    for number, (x_front, x_behind) in enumerate(moments):
        image = np.full((360, 1100, 3), 90, np.uint8)
        for panel, x in ((behind(number), x_behind), (front(number), x_front)):
            if x is not None:
                image[:, x : x + 300] = panel
        frames.append(Frame(number, number, image))
    right = wrong = hidden = 0
    with HolisticPeople(2) as model:
        for pose, places in zip(people(frames, model, 2, pixels=True), moments, strict=True):
            for k, x in enumerate(places):
                at = pose.xyz[k, 1, 0] - 150 if len(pose.xyz) > k and pose.confidence[k, 1] > 0 else None
                right += x is not None and at is not None and abs(at - x) < 60
                wrong += at is not None and (x is None or abs(at - x) >= 60)
                hidden += x is not None and at is None
    assert wrong <= 3
    assert hidden <= 40
    assert right + hidden > 170
