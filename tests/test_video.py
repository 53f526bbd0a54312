"""Frames in and out of video files, and what is said of files that are none."""

import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.tools.video import Video, write_mp4


def gray(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, (gray(8 * number) for number in range(20)), 25)
    with Video(path) as video:
        assert (video.name, video.fps, video.width, video.height) == (str(path), 25, 64, 48)
        assert video.frames == 20
        assert not video.camera
        assert video.first.number == 0
        frames = list(video)
    assert [frame.number for frame in frames] == list(range(20)), "the first frame, too"
    assert [round(frame.time_ns / 1e6) for frame in frames] == [40 * number for number in range(20)]
    assert all(abs(float(frame.image.mean()) - 8 * frame.number) < 5 for frame in frames)


def test_colors_are_red_green_blue(tmp_path: Path) -> None:
    red = gray(0)
    red[..., 0] = 220
    write_mp4(tmp_path / "a.mp4", [red] * 3, 25)
    with Video(tmp_path / "a.mp4") as video:
        assert np.abs(video.first.image.mean(axis=(0, 1)) - [220, 0, 0]).max() < 12


def test_odd_sizes_lose_a_row(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", [gray(9, 49, 65)] * 3, 25)
    with Video(tmp_path / "a.mp4") as video:
        assert (video.width, video.height) == (64, 48)


def test_a_clock_that_stands_still_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "a.mp4", [gray(9)] * 4, 25)

    def stopped(source: str) -> SimpleNamespace:
        capture = open_capture(source)  # no subclass of it: OpenCV does not survive that
        rest = {name: getattr(capture, name) for name in ("isOpened", "read", "release")}
        return SimpleNamespace(get=lambda which: 0.0 if which == cv2.CAP_PROP_POS_MSEC else capture.get(which), **rest)

    open_capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", stopped)
    with Video(tmp_path / "a.mp4") as video:
        assert [round(frame.time_ns / 1e6, 3) for frame in video] == [0, 40, 80, 120]


def test_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.mp4: no such video file"):
        Video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(FormatError, match=r"text\.mp4: cannot be opened as a video"):
        Video(tmp_path / "text.mp4")
    with pytest.raises(FormatError, match="camera 97: cannot be opened as a video"):
        Video(97)
    with pytest.raises(FormatError, match=r"a\.mp4: cannot be written as an \.mp4 video"):
        write_mp4(tmp_path / "nowhere" / "a.mp4", [gray(1)], 25)


FFMPEG = """#!{python}
import sys
if "-encoders" in sys.argv:
    print(" V....D {encoder} H.264 / AVC")
    sys.exit()
size = sys.argv[sys.argv.index("-s") + 1]
data = sys.stdin.buffer.read()
if "full" in sys.argv[-1]:
    print("av_interleaved_write_frame(): No space left on device", file=sys.stderr)
    sys.exit(1)
open(sys.argv[-1], "w").write(f"{{size}} {{len(data)}} {{sys.argv[sys.argv.index('-r') + 1]}} {{data[0]}}")
"""


def ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, encoder: str = "libx264") -> None:
    """An ffmpeg that writes down what it was given."""
    (folder / "bin").mkdir()
    (folder / "bin" / "ffmpeg").write_text(FFMPEG.format(python=sys.executable, encoder=encoder))
    (folder / "bin" / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


def test_h264_by_ffmpeg(tmp_path, monkeypatch):
    ffmpeg(tmp_path, monkeypatch)
    assert write_mp4(tmp_path / "a.mp4", [gray(9, 49, 65)] * 3, 12.5) == ""
    assert (tmp_path / "a.mp4").read_text() == f"64x48 {3 * 48 * 64 * 3} 12.5 9"
    with pytest.raises(FormatError, match=r"full\.mp4: cannot be written as an \.mp4 video \(.*No space left"):
        write_mp4(tmp_path / "full.mp4", [gray(9)] * 3, 25)


def test_where_nothing_writes_h264_the_players_are_named(tmp_path, monkeypatch):
    ffmpeg(tmp_path, monkeypatch, encoder="mpeg4")
    about = write_mp4(tmp_path / "a.mp4", [gray(9)] * 3, 25)
    with Video(tmp_path / "a.mp4") as video:
        assert len(list(video)) == 3
    assert about == "" or "VLC and mpv play it" in about
    with pytest.raises(FormatError, match="no images"):
        write_mp4(tmp_path / "b.mp4", [], 25)
