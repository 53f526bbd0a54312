"""Rates and frame numbers from times; and videos whose container states a wrong rate."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rtskel.rates import Placer, frame_numbers, reconcile
from rtskel.tools.estimate import Pose, poses, publish, recording
from rtskel.tools.video import CAMERA_FPS, Video, write_mp4


@pytest.mark.parametrize("fps", [5.0, 23.976, 29.97, 60.0, 239.7])
@pytest.mark.parametrize("jitter", [0.0, 0.15, 0.3])
def test_jitter_neither_drops_nor_invents(fps: float, jitter: float) -> None:
    random = np.random.default_rng(0)
    seconds = np.maximum.accumulate((np.arange(500) + random.uniform(-jitter, jitter, 500)) / fps)
    assert frame_numbers(seconds).tolist() == list(range(500))


def test_a_rate_that_is_nearly_right_is_followed() -> None:
    """29.97 frames a second placed as 30, and 30 as 29.97: no number is lost in ten minutes."""
    for real, stated in ((29.97, 30.0), (30.0, 29.97), (25.0, 24.6)):
        placer = Placer(1 / stated)
        assert [placer.place(k / real) for k in range(18_000)] == list(range(18_000))


def test_pauses_are_holes() -> None:
    kept = np.flatnonzero(np.arange(200) % 17 % 5 != 3)
    assert frame_numbers(kept / 30.0).tolist() == (kept - kept[0]).tolist()


def test_bursts_and_coarse_clocks_stay_in_order() -> None:
    """Times in whole seconds, or frames that arrive four at a time: every frame gets a number of its own."""
    for seconds in (np.arange(300) // 30, np.arange(300) // 4 * (4 / 30)):
        numbers = frame_numbers(seconds.astype(float))
        assert (np.diff(numbers) >= 1).all()
        clock = reconcile(1000.0, None, np.rint(seconds * 1e9).astype(np.int64))
        assert clock.fps == pytest.approx(30, rel=0.12)  # whole seconds cannot tell it better


def test_what_agrees_is_left_alone() -> None:
    slot = np.array([0, 1, 5, 6])
    times = np.rint(slot * 1e9 / 30).astype(np.int64)
    clock = reconcile(30.0, slot, times)
    assert (clock.fps, clock.slot is slot, clock.note) == (30.0, True, "")
    unknown = np.array([-1, 40_000_000, -1, 240_000_000])
    assert reconcile(20.0, slot, unknown).fps == pytest.approx(25)
    assert reconcile(20.0, slot, np.full(4, -1)).fps == 20


def test_a_clock_that_was_set_back_once() -> None:
    times = np.arange(100) * 40_000_000
    times[60:] -= 3_600_000_000_000
    clock = reconcile(60.0, None, times)
    assert clock.fps == pytest.approx(25)
    assert "go back at frame 60" in clock.note
    np.testing.assert_array_equal(clock.time_ns, times)


# Videos


def video(path: Path, monkeypatch: pytest.MonkeyPatch, *, milliseconds: list[int], stated: float) -> Path:
    """A video whose container states these times and this rate, as OpenCV reads a browser's `.webm`."""
    write_mp4(path, [np.full((48, 64, 3), 9, np.uint8)] * len(milliseconds), 25)
    opened = cv2.VideoCapture

    def capture(source: str) -> SimpleNamespace:
        inner, at = opened(source), [-1]

        def read() -> tuple[bool, np.ndarray]:
            at[0] += 1
            return inner.read()

        def get(which: int) -> float:
            if which == cv2.CAP_PROP_POS_MSEC:
                return float(milliseconds[at[0]])
            return stated if which == cv2.CAP_PROP_FPS else inner.get(which)

        return SimpleNamespace(get=get, read=read, isOpened=inner.isOpened, release=inner.release)

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    return path


def browsers_times(frames: int = 41) -> list[int]:
    random = np.random.default_rng(0)
    steps = [600 if n == 20 else int(random.choice([33, 34, 40, 27, 50])) for n in range(frames - 1)]
    return [0, *np.cumsum(steps).tolist()]


@pytest.mark.parametrize("stated", [1000.0, 0.0, float("nan"), 29.0, 90_000.0, 60.0])
def test_a_wrong_rate_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: float) -> None:
    times = [round(k * 1000 / 29.97) for k in range(50)]
    with Video(video(tmp_path / "a.mp4", monkeypatch, milliseconds=times, stated=stated)) as source:
        assert source.fps == pytest.approx(29.97, rel=1e-3)
        assert bool(source.note) == (stated in (1000.0, 29.0, 60.0))
        assert [frame.number for frame in source] == list(range(50))


def test_a_browsers_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = browsers_times()
    with Video(video(tmp_path / "a.mp4", monkeypatch, milliseconds=times, stated=1000.0)) as source:
        frames = list(source)
        assert 25 < source.fps < 31
        assert "1000 frames per second are stated" in source.note
        assert [frame.time_ns for frame in frames] == [time * 1_000_000 for time in times]
        assert source.pauses == frames[-1].number + 1 - 41 > 10
        found = [Pose(f.number, f.time_ns, np.ones((50, 3), np.float32), np.ones(50, np.float32)) for f in frames]
        result = recording(found, source, "a")
    assert result.fps == pytest.approx(source.fps, rel=0.01)
    assert (result.slots[-1] - result.slots[0]) / result.fps == pytest.approx(times[-1] / 1000, rel=0.01)
    assert np.flatnonzero(np.diff(result.slots) > 1).tolist() == [20]
    assert result.notes


def test_saved_poses_keep_the_files_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published as fast as they are found, poses are sent with the time of sending and saved with their own."""
    times = [40 * k for k in range(12)]
    saved, sent = [], []
    sender = SimpleNamespace(
        wait_for_subscriber=lambda timeout: None,
        send=lambda *pose, time_ns, **rest: sent.append(time_ns),
        end=lambda slots: None,
    )
    with Video(video(tmp_path / "a.mp4", monkeypatch, milliseconds=times, stated=1000.0)) as source:
        finder = SimpleNamespace(find=lambda image: ({}, {}))
        publish(source, partial(poses, estimator=finder), sender, fast=True, each=saved.append, now_ns=lambda: 7)
        result = recording(saved, source, "a")
    assert result.time_ns.tolist() == [time * 1_000_000 for time in times]
    assert (result.fps, set(sent)) == (25, {7})


def test_a_right_rate_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [round(k * 1000 / 29.97) for k in range(50)]
    with Video(video(tmp_path / "a.mp4", monkeypatch, milliseconds=times, stated=30.0)) as source:
        assert (source.fps, source.note) == (30.0, "")


def test_one_frame_without_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Video(video(tmp_path / "a.mp4", monkeypatch, milliseconds=[0], stated=0.0)) as source:
        assert source.fps == CAMERA_FPS
