"""What `rtskel subscribe --save` keeps: whatever happens, what came before is on disk and can be read."""

import errno
import io
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rtskel.cli import main
from rtskel.errors import FormatError, RtskelError
from rtskel.formats import read
from rtskel.formats.capture import Collector
from rtskel.tools.capture import Capture
from tests.test_collect import pose

UNFINISHED = "an unfinished capture: what came after its last pose is not in it"


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out.npz")


def filled(capture: Capture, poses: int = 5, stream: str = "cam", **fields) -> None:
    for seq in range(poses):
        capture.add(pose(seq, stream, **fields))


def test_a_capture_becomes_a_recording(out: str, tmp_path: Path) -> None:
    with Capture(out) as capture:
        filled(capture)
        filled(capture, lookahead=4)
        capture.flush(now=True)
        filled(capture, 3, "other")
        assert capture.finish() == f"13 poses of 2 streams saved to {out}"
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]
    collector = Collector()
    for lookahead in (0, 4):
        for seq in range(5):
            collector.add(pose(seq, lookahead=lookahead))
    for seq in range(3):
        collector.add(pose(seq, "other"))
    for saved, expected in zip(read(out), collector.recordings(), strict=True):
        assert (saved.name, saved.lookahead) == (expected.name, expected.lookahead)
        for name in ("xyz", "confidence", "sigma", "slot", "time_ns", "windows", "flags"):
            np.testing.assert_array_equal(getattr(saved, name), getattr(expected, name))


def test_nothing_came(out: str, tmp_path: Path) -> None:
    with Capture(out) as capture:
        assert capture.finish() == f"no poses came: {out} is not written"
    assert not list(tmp_path.iterdir())


def test_what_a_crash_leaves_can_be_read(out: str, tmp_path: Path) -> None:
    capture = Capture(out)
    filled(capture, 7)
    capture.flush(now=True)
    filled(capture, 2)  # is lost
    capture.close()  # without an end
    part = Path(f"{out}.part")
    (whole,) = read(part)
    assert (whole.name, whole.frames, whole.notes) == ("cam", 7, (UNFINISHED,))
    with pytest.raises(FormatError, match=rf"out\.npz\.part: {UNFINISHED}"):
        read(part, strict=True)
    data = part.read_bytes()
    for cut in (1, 30, 400):
        part.write_bytes(data[:-cut])
        (rest,) = read(part)
        assert rest.frames == 6, "an incomplete message at the end is left out"
        assert rest.notes == (UNFINISHED, "an unfinished last message skipped")
    # The next capture of that name takes another file, and every command reads the old one.
    with Capture(out) as following:
        assert following.part == f"{out}.2.part"
        filled(following, 1)
        following.finish()
    assert main(["convert", str(part), str(tmp_path / "saved.npz")]) == 0
    assert read(tmp_path / "saved.npz")[0].frames == 6
    assert part.exists()


def test_one_process_saves_to_a_file(out: str, tmp_path: Path) -> None:
    """Another one is refused, also beside what a crash has left; once the first is done, it may."""
    Path(f"{out}.part").write_bytes(b"left over")
    with Capture(out) as first:
        assert first.part == f"{out}.2.part"
        for _ in range(2):
            with pytest.raises(FormatError, match=r"out\.npz: another process is saving to it \(in .*\.2\.part\)"):
                Capture(out)
        filled(first)
        first.finish()
    with Capture(out) as second:
        filled(second)
        second.finish()
    assert {path.name for path in tmp_path.iterdir()} == {"out.npz", "out.npz.part"}


def test_another_file_is_no_capture(tmp_path: Path, capsys) -> None:
    other = tmp_path / "x.part"
    other.write_bytes(b"something else")
    with pytest.raises(FormatError, match=r"x\.part: not a capture"):
        read(other)
    assert main(["info", str(tmp_path / "none.part")]) == 2
    assert "none.part: No such file" in capsys.readouterr().err


def test_each_stream_is_saved_for_itself(out: str) -> None:
    with Capture(out) as capture:
        filled(capture)
        filled(capture, 1, "fast", fps=2000.0)
        filled(capture, 2, "foreign", skeleton="horse")
        with pytest.raises(RtskelError) as error:
            capture.finish()
    text = str(error.value)
    assert re.search(r"'fast': .*fps.* 2000", text), "by the recording, or by the wire format"
    assert "'foreign': unknown skeleton 'horse'" in text
    assert f"kept in {out}.part" in text
    assert "5 poses of 1 streams saved" in text
    assert [(r.name, r.frames) for r in read(out)] == [("cam", 5)]
    (kept,) = read(f"{out}.part")
    assert kept.frames == 5, "nothing is lost"
    assert [note for note in kept.notes if "'foreign': unknown skeleton 'horse'" in note]


@pytest.mark.parametrize("suffix", [".skels", ".npz", ".csv", ".jsonl"])
def test_a_leap_in_numbers_begins_another_recording(suffix: str, tmp_path: Path) -> None:
    with Capture(str(tmp_path / f"out{suffix}")) as capture:
        filled(capture)
        for seq in range(3):
            capture.add(pose(5 + seq, source_seq=10**10 + seq))
        capture.finish()
    assert [r.frames for r in read(tmp_path / f"out{suffix}", fps=25)] == [5, 3]
    assert (tmp_path / f"out{suffix}").stat().st_size < 100_000


def test_a_layout_that_changes_begins_another_recording(out: str) -> None:
    with Capture(out) as capture:
        filled(capture)
        for seq in range(5, 8):
            capture.add(pose(seq, axes="RUA"))
        capture.finish()
    assert [(r.name, r.axes, r.frames) for r in read(out)] == [("cam", "RDA", 5), ("cam@2", "RUA", 3)]


def test_a_full_disk(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Capture(out) as capture:
        filled(capture, 4)
        capture.flush(now=True)
        for seq in range(4, 8):
            capture.add(pose(seq))
        disk = capture._file

        class Full:
            room = 2000  # bytes: one and a half messages go through

            def write(self, data: memoryview) -> int:
                if not self.room:
                    raise OSError(errno.ENOSPC, "No space left on device")
                room, self.room = self.room, 0
                return disk.write(data[:room])

            def __getattr__(self, name: str):
                return getattr(disk, name)

        monkeypatch.setattr(capture, "_file", Full())
        with pytest.raises(RtskelError, match=r"out\.npz\.part: No space left on device"):
            capture.flush(now=True)
        assert read(capture.part)[0].frames == 5, "what was written stays readable"
        assert "5 poses of 1 streams saved" in capture.finish(), "and there may be room for a smaller file"


def test_a_full_disk_leaves_an_older_file_alone(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(out).write_bytes(b"older")
    with Capture(out) as capture:
        filled(capture, 4)
        capture.flush(now=True)
        capture.add(pose(4))

        def full(_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        disk = capture._file
        monkeypatch.setattr(capture, "_file", SimpleNamespace(write=full, truncate=disk.truncate, seek=disk.seek))
        with pytest.raises(RtskelError, match="No space left"):
            capture.flush(now=True)
        monkeypatch.setattr(capture, "_file", disk)
        with pytest.raises(RtskelError, match=r"out\.npz is left as it was.*kept in .*out\.npz\.part"):
            capture.finish()
    assert Path(out).read_bytes() == b"older"
    assert read(f"{out}.part")[0].frames == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_is_full_from_the_start(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", lambda path, mode, buffering: io.FileIO("/dev/full", "r+"))
    with pytest.raises(FormatError, match=r"out\.npz\.part: cannot be written \(No space left"):
        Capture(out)


def test_a_place_that_goes_away(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with Capture(str(folder / "out.npz")) as capture:
        filled(capture)
        shutil.rmtree(folder)
        with pytest.raises(RtskelError, match=r"everything is kept in (.*out\.npz\.part)") as error:
            capture.finish()
    (kept,) = [word for word in str(error.value).split() if word.endswith(".part")]
    assert read(kept)[0].frames == 5
    shutil.rmtree(Path(kept).parent)


def test_what_the_format_refuses_is_saved_beside_it(tmp_path: Path) -> None:
    out = str(tmp_path / "out.bvh")
    with Capture(out) as capture:
        filled(capture)
        filled(capture, 5, "unseen", confidence=np.zeros(50, np.float32), missing=np.ones(50, bool))
        with pytest.raises(
            RtskelError, match=r"no shoulders.*'unseen' in .*out\.bvh\.npz instead.*5 poses of 1 streams"
        ):
            capture.finish()
    assert [r.name for r in read(f"{out}.npz")] == ["unseen"]
    assert (tmp_path / "out.bvh").read_text().startswith("HIERARCHY")


def test_long_captures_take_little_memory() -> None:
    """Poses are kept as arrays, however many there are."""
    collector = Collector()
    for seq in range(2000):
        collector.add(pose(seq))
    ((take,),) = collector._takes.values()
    assert len(take._pending) < 600
    assert collector.recordings()[0].slots.tolist() == list(range(100, 2100))
