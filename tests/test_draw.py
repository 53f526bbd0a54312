"""Pictures are checked by what was drawn, not by their pixels; moving ones by what a reader finds in the file."""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from PIL import Image as Pillow

from rtskel import UPPER_BODY_50, FormatError, Recording, RtskelError
from rtskel.cli import main
from rtskel.formats import write
from rtskel.tools.draw import COLORS, FILLED, GHOST, animate, figure
from rtskel.tools.video import Video, write_mp4
from rtskel.training.synthesize import synthesize

BONES = UPPER_BODY_50.joints - 1
RIGHT_WRIST = UPPER_BODY_50.names.index("right_wrist")
LEFT_HAND = list(UPPER_BODY_50.groups["left_hand"])


@pytest.fixture(scope="module")
def truth() -> Recording:
    return replace(synthesize(2, 25, 3), name="truth")


def without(recording: Recording, frames: slice, joints: list[int]) -> Recording:
    confidence = recording.confidence.copy()
    confidence[frames, joints] = 0
    return replace(recording, confidence=confidence, xyz=recording.xyz * (confidence > 0)[..., None])


def bones(axes, color: str) -> LineCollection:
    """The layer of that colour; one that is empty has none."""
    layers = [layer for layer in axes.collections if isinstance(layer, LineCollection)]
    found = [layer for layer in layers if any(tuple(c[:3]) == to_rgba(color)[:3] for c in layer.get_colors())]
    assert len(found) <= 1
    return found[0] if found else LineCollection([])


def shaded(axes) -> list[tuple[float, float]]:
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]


# Skeletons by frame


def test_a_row_for_each_recording_a_column_for_each_frame(truth):
    other = replace(truth, name="other", lookahead=4)
    plot = figure([truth, other], slots=[0, 7, 49], traces=["nose.x"])
    axes = plot.axes
    assert len(axes) == 2 * 3 + 1
    titles = [a.get_title(loc="left") for a in axes]
    assert titles == ["truth", "", "", "other, lookahead 4", "", "", "nose, right (mm)"]
    assert [a.texts[-1].get_text() for a in axes[3:6]] == ["0", "7", "49"]
    assert len(bones(axes[0], COLORS[0]).get_segments()) == BONES
    assert len(bones(axes[3], COLORS[1]).get_segments()) == BONES


def test_slots_are_spread_over_the_span(truth):
    def numbers(**options) -> list[int]:
        return [int(a.texts[-1].get_text()) for a in figure([truth], **options).axes]

    assert numbers(columns=3, span=(10, 21)) == [10, 15, 20]
    assert numbers(columns=9, span=(10, 13)) == [10, 11, 12], "no frame twice"
    assert numbers(columns=2) == [0, truth.frames - 1]


def test_missing_joints_are_not_drawn_and_filled_ones_are_lighter(truth):
    raw = without(truth, slice(5, 8), LEFT_HAND)
    refined = replace(truth, confidence=raw.confidence, lookahead=0)
    plot = figure([raw, refined], slots=[4, 6])
    before, lost, _, filled = plot.axes
    assert len(bones(before, COLORS[0]).get_segments()) == BONES
    assert len(bones(lost, COLORS[0]).get_segments()) == BONES - len(LEFT_HAND)
    alphas = bones(filled, COLORS[1]).get_colors()[:, 3]
    assert len(alphas) == BONES
    assert np.count_nonzero(np.isclose(alphas, FILLED)) == len(LEFT_HAND)


def test_a_bone_needs_both_ends(truth):
    axes = figure([without(truth, slice(0, 1), [RIGHT_WRIST])], slots=[0]).axes[0]
    assert len(bones(axes, COLORS[0]).get_segments()) == BONES - 2, "to the elbow, and to the hand"


def test_dropped_frames_and_frames_without_anybody(truth):
    keep = [0, 1, 4, 5]
    raw = replace(truth, xyz=truth.xyz[keep], confidence=truth.confidence[keep], slot=np.array(keep))
    raw = without(raw, slice(2, 3), list(range(50)))
    plot = figure([raw, truth], slots=[1, 2, 4, 9])
    assert [a.texts[0].get_text() for a in plot.axes[:4]] == ["", "dropped", "nobody", ""]
    assert not bones(plot.axes[3], COLORS[0]).get_segments(), "behind its end"


def test_truth_lies_behind(truth):
    moved = replace(truth, name="moved", xyz=truth.xyz + np.float32(0.05))
    axes = figure([moved], slots=[0], truth=truth, traces=["nose.y"]).axes
    front, behind = (np.array(bones(axes[0], color).get_segments()) for color in (COLORS[0], GHOST))
    np.testing.assert_allclose(front - behind, 50.0, atol=1e-2)  # mm, both in the place of the first
    assert [line.get_label() for line in axes[1].lines] == ["truth", "moved"]


def test_what_shows_the_same_shares_a_scale_and_the_rest_is_brought_to_size(truth):
    def drawn(recording: Recording) -> np.ndarray:
        return np.array(bones(figure([truth, recording], slots=[3]).axes[1], COLORS[1]).get_segments())

    here = drawn(truth)
    served = replace(truth, unit="unknown", lookahead=4)
    np.testing.assert_allclose(drawn(served), here, atol=1e-3)
    unity = replace(truth, axes="RUA", xyz=truth.xyz * np.float32([1, -1, -1]))
    np.testing.assert_allclose(drawn(unity), here, atol=1e-3)
    pixels = replace(truth, unit="px", xyz=truth.xyz * np.float32(700) + np.float32([640, 300, 0]))
    shoulders = 370 / np.median(np.linalg.norm(truth.xyz[:, 2] - truth.xyz[:, 5], axis=-1)) / 1000
    np.testing.assert_allclose(drawn(pixels), here * shoulders, atol=0.1)


# Traces


def test_missing_spans_are_shaded_once(truth):
    raw = without(without(truth, slice(5, 8), [RIGHT_WRIST]), slice(20, 21), [RIGHT_WRIST])
    refined = replace(truth, confidence=raw.confidence, lookahead=0)
    axes = figure([raw, refined], slots=[0], traces=["right_wrist.z"], span=(6, 40)).axes[-1]
    np.testing.assert_allclose(shaded(axes), [(5.5 / 25, 7.5 / 25), (19.5 / 25, 20.5 / 25)], atol=1e-9)
    seen, complete = (line.get_ydata() for line in axes.lines)
    assert np.flatnonzero(np.isnan(seen)).tolist() == [0, 1, 14]
    assert np.isfinite(complete).all()
    assert len(complete) == 34
    alone = figure([refined], slots=[0], traces=["right_wrist.z"]).axes[-1]
    assert len(shaded(alone)) == 2, "of refined poses alone, what was filled in"


def test_a_joint_is_three_traces(truth):
    titles = [axes.get_title(loc="left") for axes in figure([truth], slots=[0], traces=["nose"]).axes[1:]]
    assert titles == ["nose, right (mm)", "nose, down (mm)", "nose, toward the camera (mm)"]


# Over a video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_mp4(path, (np.full((120, 160, 3), 8 * number, np.uint8) for number in range(30)), 25)
    return path


def in_pixels(truth: Recording) -> Recording:
    return replace(truth, unit="px", xyz=truth.xyz * np.float32(60) + np.float32([80, 40, 0]))


def test_poses_lie_where_they_are_in_the_image(truth, clip):
    pixels = in_pixels(truth)
    axes = figure([pixels, replace(pixels, unit="unknown", lookahead=4)], slots=[12, 3], video=clip).axes
    (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
    assert 0 <= left < pixels.xyz[..., 0].min() < pixels.xyz[..., 0].max() < right <= 160
    assert 0 <= top < pixels.xyz[..., 1].min() < min(pixels.xyz[..., 1].max(), 119) < bottom <= 120
    assert axes[0].images[0].get_extent() == [0, 160, 120, 0], "each pixel in its place"
    assert abs(float(np.mean(axes[0].images[0].get_array())) - 96) < 6
    assert abs(float(np.mean(axes[1].images[0].get_array())) - 24) < 6
    ends = np.array(bones(axes[0], COLORS[0]).get_segments())[:, 1]
    assert np.abs(ends - pixels.xyz[12, [j for j in range(50) if j != 1], :2]).max() < 1e-4


def test_what_cannot_lie_over_a_video(truth, clip):
    with pytest.raises(RtskelError, match="'truth' is in m: over a video, poses in its pixels are expected"):
        figure([truth], video=clip)
    with pytest.raises(FormatError, match=r"clip\.mp4: 30 frames, so there is no frame 40"):
        figure([in_pixels(truth)], slots=[2, 40], video=clip)
    with pytest.raises(FormatError, match=r"none\.mp4: no such video file"):
        figure([in_pixels(truth)], video="none.mp4")


# Moving


def test_gif_keeps_time(truth, tmp_path):
    done = []
    raw = without(truth, slice(3, 6), LEFT_HAND)
    animate([raw, truth], tmp_path / "a.gif", span=(0, 9), traces=["nose.y"], progress=lambda *n: done.append(n))
    with Pillow.open(tmp_path / "a.gif") as picture:
        durations = []
        for frame in range(picture.n_frames):
            picture.seek(frame)
            durations.append(picture.info["duration"])
    assert sum(durations) == 360  # 9 frames at 25 a second
    assert done == [(n, 9) for n in range(1, 10)]


def test_gif_leaves_out_what_viewers_cannot_show(truth, tmp_path):
    animate([replace(truth, fps=120)], tmp_path / "a.gif", span=(0, 24))
    with Pillow.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 8


def test_mp4(truth, clip, tmp_path):
    animate([in_pixels(truth)] * 2, tmp_path / "a.mp4", span=(2, 12), video=clip)
    with Video(tmp_path / "a.mp4") as video:
        frames = [frame.image for frame in video]
        assert video.fps == 25
    assert len(frames) == 10
    assert np.abs(frames[9].astype(int) - frames[0]).max() > 40, "the video behind goes on"
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.isOpened()
    capture.release()


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"traces": ["left_tail"]}, "unknown joint 'left_tail'"),
        ({"traces": ["nose.w"]}, r"'nose.w': x, y or z expected after the joint, such as nose.y"),
        ({"slots": []}, "no frames"),
        ({"slots": [3, 50]}, r"frame 50: frame numbers in 0\.\.49 expected"),
        ({"span": (9, 9)}, "frames 9:9: two frame numbers within 0:50 expected"),
        ({"labels": ["a", "b"]}, "2 labels for 1 recordings"),
    ],
)
def test_mistakes_are_named(truth, options, message):
    with pytest.raises(RtskelError, match=message):
        figure([truth], **options)


def test_nothing_and_too_much(truth):
    with pytest.raises(RtskelError, match="no recordings"):
        figure([])
    with pytest.raises(RtskelError, match="13 recordings: at most 12"):
        figure([truth] * 13)


def test_an_empty_recording_is_drawn(truth):
    empty = without(truth, slice(None), list(range(50)))
    assert [a.texts[0].get_text() for a in figure([empty], slots=[0, 1], traces=["nose"]).axes[:2]] == ["nobody"] * 2


# The command


@pytest.fixture
def files(truth, tmp_path) -> tuple[str, str]:
    raw, refined = tmp_path / "raw.npz", tmp_path / "refined.npz"
    write(raw, without(truth, slice(5, 8), LEFT_HAND))
    write(refined, [replace(truth, lookahead=lookahead, unit="unknown") for lookahead in (0, 4)])
    return str(raw), str(refined)


def test_draw(files, tmp_path):
    out = tmp_path / "out.png"
    assert main(["draw", *files, "-o", str(out), "--columns", "4", "--lookahead", "4", "--traces", "nose.x"]) == 0
    with Pillow.open(out) as picture:
        two = picture.size
    assert main(["draw", *files, "-o", str(out), "--slots", "1,2,3,4", "--traces", "nose.x"]) == 0
    with Pillow.open(out) as picture:
        assert picture.size[0] == two[0]
        assert picture.size[1] > two[1], "three rows, not two"
    assert main(["draw", *files, "-o", str(tmp_path / "out.gif"), "--slots", "0:3", "--stream", "truth"]) == 0
    assert (tmp_path / "out.gif").read_bytes()[:4] == b"GIF8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "out.bmp"], "unknown picture format '.bmp'"),
        (["-o", "/nowhere/out.png"], "cannot be written"),
        (["-o", "out.gif", "--slots", "1,2"], "frames A:B expected for a moving picture"),
        (["-o", "out.png", "--slots", "a:b"], "A:B, or frame numbers such as 10,20 expected"),
        (["-o", "out.png", "--stream", "nobody"], "no recording of that name and lookahead"),
    ],
)
def test_mistakes_at_the_command_line(files, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["draw", files[0], *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rtskel: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "options"), [("matplotlib", ["-o", "a.png"]), ("cv2", ["-o", "a.mp4"])], ids=["matplotlib", "OpenCV"]
)
def test_what_is_not_installed_is_named(files, package, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == package or name.startswith("rtskel.tools.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["draw", files[0], *options]) == 2
    error = capsys.readouterr().err
    assert "which is not installed: pip install 'rtskel[draw]'" in error
    assert error.count("\n") == 1
