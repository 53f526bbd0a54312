"""Pairs: which motion goes where, files, and runs of several processes that can be interrupted."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from rtskel.cli import main
from rtskel.errors import FormatError, RtskelError
from rtskel.formats import Recording, write
from rtskel.manifest import MANIFEST
from rtskel.pairs import motion as module
from rtskel.pairs import needs
from rtskel.pairs.clip import KEPT, NC, OPEN, OWN, TRAIN, Clip, clips_in, read_clip, write_clip
from rtskel.pairs.make import Outcome, Plan, Task, make, tasks
from rtskel.pairs.motion import (
    FASTEST,
    LONGEST,
    SHORTEST,
    SOURCES,
    Motion,
    Motions,
    bandai_split,
    mesh2motion_split,
    mirrored,
    resampled,
    usable,
    varied,
)
from rtskel.pairs.strokes import KINDS, strokes
from rtskel.skeleton import NECK, UPPER_BODY_50
from rtskel.training.data import held_out
from rtskel.training.synthesize import synthesize
from tests.shared_data import ROOT, shared_data

SPLITS = (TRAIN, KEPT)


def clip_of(frames=6, **changes):
    random = np.random.default_rng(0)
    hidden = random.random((frames, 50)) < 0.3
    confidence = np.where(hidden, 0, random.uniform(0.1, 1, (frames, 50))).astype(np.float32)
    positions = random.normal(0, 1, (4, frames, 50, 3)).astype(np.float32)
    made = Clip(
        positions[0],
        positions[1, ..., :2],
        positions[2],
        confidence,
        positions[3],
        confidence,
        fps=25.0,
        image_size=(64, 48),
        name="00001-signing",
        source="signing",
        motion="signing-4",
        licence=OPEN,
        split=TRAIN,
        speed=1.5,
        seed=(1, 0, 1, 1),
        settings={"dark": 0.5, "skin": [1, 2, 3]},
    )
    return replace(made, **changes)


# Files


def test_a_clip_comes_back_as_it_was(tmp_path):
    clip = clip_of()
    path = tmp_path / "a.npz"
    write_clip(path, clip)
    back = read_clip(path)
    for name in ("truth", "truth_px", "confidence", "confidence_px"):
        np.testing.assert_array_equal(getattr(back, name), getattr(clip, name))
    there = clip.confidence > 0
    np.testing.assert_array_equal(back.estimate[there], clip.estimate[there])
    assert np.isnan(back.estimate[~there]).all()
    assert np.isnan(back.estimate_px[~there]).all()
    for name in ("fps", "image_size", "name", "source", "motion", "licence", "split", "speed", "seed", "settings"):
        assert getattr(back, name) == getattr(clip, name), name
    with np.load(path) as file:
        assert (str(file["axes"]), str(file["unit"])) == ("RDA", "m")
        np.testing.assert_allclose(file["time_s"], np.arange(6) / 25)
        np.testing.assert_array_equal(file["body_swapped"], clip.body_swapped)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_person_taken_for_one_seen_from_behind():
    clip = clip_of(2, confidence_px=np.ones((2, 50), np.float32))
    clip.truth_px[:, 5, 0], clip.truth_px[:, 2, 0] = 30, 10
    clip.estimate_px[:, 5, 0], clip.estimate_px[:, 2, 0] = (29, 11), (11, 29)
    assert clip.body_swapped.tolist() == [False, True]
    clip.confidence_px[1, 5] = 0
    assert not clip.body_swapped.any(), "who is not found is not swapped"


def test_what_is_no_clip_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FormatError, match="confidence has shape"):
        write_clip(path, clip_of(confidence=np.ones((5, 50), np.float32)))
    wrong = clip_of()
    wrong.truth[0, 0, 0] = np.nan
    with pytest.raises(FormatError, match="truth is not finite"):
        write_clip(path, wrong)
    with pytest.raises(FormatError, match="cannot be written"):
        write_clip(tmp_path / "nowhere" / "a.npz", clip_of())
    assert list(tmp_path.iterdir()) == []
    np.savez(path, truth=np.zeros(3))
    with pytest.raises(FormatError, match="not a pair"):
        read_clip(path)
    write_clip(path, clip_of())
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FormatError, match="not a pair"):
        read_clip(path)


def test_unfinished_files_are_no_clips(tmp_path):
    (tmp_path / TRAIN).mkdir()
    for name in ("00002-beats.npz", "00001-signing.npz", ".00003-beats.npz.part", ".00004-beats.npz", "notes.txt"):
        (tmp_path / TRAIN / name).touch()
    assert [path.name for path in clips_in(tmp_path, TRAIN)] == ["00001-signing.npz", "00002-beats.npz"]
    assert clips_in(tmp_path, KEPT) == []


# Motion


def test_strokes_are_fast_and_of_one_body():
    kinds = set()
    fastest = []
    for seed in range(12):
        kind, xyz = strokes(np.random.default_rng(seed), 4.0, 30.0)
        kinds.add(kind)
        assert xyz.shape == (120, 50, 3)
        bones = np.linalg.norm(xyz - xyz[:, list(UPPER_BODY_50.parents)], axis=-1)
        assert np.delete(bones.std(axis=0), NECK).max() < 1e-6
        wrists = xyz[:, [4, 7]] - xyz[:, [1]]
        fastest.append(np.linalg.norm(np.diff(wrists, axis=0), axis=-1).max() * 30)
        np.testing.assert_array_equal(xyz, strokes(np.random.default_rng(seed), 4.0, 30.0)[1])
    assert kinds >= set(KINDS) - {"conduct"}
    assert 1.5 < np.median(fastest) < 5


def test_drums_are_beaten_more_often_than_signs_are_made():
    def reversals(xyz):
        """Of the wrists' vertical velocity, a second."""
        velocity = np.diff(xyz[:, [4, 7], 1] - xyz[:, [1], 1], axis=0)
        return (np.diff(np.sign(velocity), axis=0) != 0).mean() * 30

    drums = [xyz for kind, xyz in (strokes(np.random.default_rng(s), 6.0, 30.0) for s in range(10)) if kind == "drum"]
    signs = [synthesize(6.0, 30.0, seed).xyz.astype(float) for seed in range(4)]
    assert np.mean([reversals(x) for x in drums]) > 1.3 * np.mean([reversals(x) for x in signs])


def test_mirrored_and_resampled():
    xyz = synthesize(2.0, 25.0, 1).xyz.astype(float)
    np.testing.assert_array_equal(mirrored(mirrored(xyz)), xyz)
    np.testing.assert_array_equal(mirrored(xyz)[:, 4], xyz[:, 7] * [-1, 1, 1])
    assert resampled(xyz, 1) is xyz
    twice = resampled(xyz, 2.0)
    np.testing.assert_allclose(twice, xyz[::2], atol=1e-9)
    assert len(resampled(xyz, 1.5)) == 1 + int(49 / 1.5)


def test_recordings_are_varied_but_what_is_unknown_stays_unknown():
    xyz = synthesize(8.0, 25.0, 1).xyz.astype(float)
    xyz[:, 12] = xyz[:, 33] = 0  # thumbs' tips
    seen = set()
    for seed in range(20):
        out = varied(np.random.default_rng(seed), Motion("a", 25.0, xyz), 100, 1.4)
        assert out.xyz.shape == (100, 50, 3)
        assert out.speed == 1.4
        assert (out.xyz[:, [12, 33]] == 0).all()
        seen.add((np.sign(out.xyz[0, 5, 0]), round(float(out.xyz[0, 4, 1]), 6)))
    assert len(seen) > 10


def test_the_splits_share_no_seed_of_signing():
    names = {}
    for split in SPLITS:
        random = np.random.default_rng(0)  # even if the same numbers are drawn
        names[split] = {SOURCES["signing"].opened(Path()).draw(random, split, 30, 1.0).name for _ in range(20)}
    assert not names[TRAIN] & names[KEPT]


def test_recorded_motion_is_parted_by_name():
    clips = [f"dataset-2_{kind}_normal_{n:03d}" for kind in ("wave-left-hand", "wave-both-hands") for n in range(200)]
    split = {clip: bandai_split(clip) for clip in clips}
    assert {split[clip] for clip in clips[:200]} == {TRAIN, None}
    assert {split[clip] for clip in clips[200:]} == {KEPT, None}
    assert all(held_out(clip) == (kind == KEPT) for clip, kind in split.items() if kind)
    walks = [bandai_split(f"dataset-2_walk_normal_{n:03d}") for n in range(200)]
    assert 20 <= walks.count(TRAIN) <= 50
    assert mesh2motion_split("addon/Victory") == KEPT
    assert mesh2motion_split("addon/Victory Fist Pump") == TRAIN
    assert mesh2motion_split("base/Roll_RM") is None


@pytest.mark.parametrize("name", [name for name, kind in SOURCES.items() if kind.data])
def test_the_shared_data_give_motion_of_both_splits(name):
    kind = SOURCES[name]
    shared_data(kind.data)
    source = kind.opened(ROOT)
    recordings = {}
    for split in SPLITS:
        drawn = [source.draw(np.random.default_rng(seed), split, 120, 1.3) for seed in range(12)]
        for one in drawn:
            assert 2 <= len(one.xyz) <= 120
            assert np.isfinite(one.xyz).all()
            across = (one.xyz[:, 5] - one.xyz[:, 2]).mean(axis=0)
            assert across[0] > abs(across[2]), "the person faces the camera, the left at the image's right"
            assert (one.xyz[:, 0, 1] < one.xyz[:, 1, 1]).mean() > 0.9, "upright"
        recordings[split] = {one.name.rpartition("-")[0] if name == "unoc" else one.name for one in drawn}
        again = source.draw(np.random.default_rng(3), split, 120, 1.3)
        np.testing.assert_array_equal(again.xyz, drawn[3].xyz)
    assert len(recordings[TRAIN]) > 1
    assert not recordings[TRAIN] & recordings[KEPT]


def test_sources_that_can_be_used(tmp_path):
    assert usable(None) == usable(tmp_path) == ["signing", "beats"]
    (tmp_path / "mocap_hands").mkdir()
    (tmp_path / "bandai_namco").mkdir()
    (tmp_path / "mocap_hands" / "unoc.npz").touch()
    (tmp_path / "bandai_namco" / "motion.npz").touch()
    assert usable(tmp_path) == ["signing", "beats", "unoc", "bandai"]
    assert usable(tmp_path, only_open=True) == ["signing", "beats", "unoc"]
    assert {kind.licence for kind in SOURCES.values()} == {OPEN, NC}


def test_own_recordings(tmp_path):
    paths = []
    for number in range(3):
        path = tmp_path / f"take{number}.npz"
        write(path, [Recording(synthesize(6.0, 25.0, number).xyz, 25.0, f"take{number}")])
        paths.append(path)
    motions = Motions(["signing"], None, paths)
    drawn = [motions.draw(np.random.default_rng(seed), split) for split in SPLITS for seed in range(16)]
    own = {(one.motion.name.partition("/")[0], one.licence) for one in drawn if one.source == module.RECORDINGS}
    assert own == {("take0.npz", OWN), ("take1.npz", OWN), ("take2.npz", OWN)}
    assert {one.licence for one in drawn if one.source == "signing"} == {OPEN}
    kept = {d.motion.name.partition("/")[0] for d in drawn[16:] if d.source == module.RECORDINGS}
    assert kept == {"take0.npz"}
    with pytest.raises(RtskelError, match="no motion for the clips of 'train'"):
        Motions([], None, paths[:1])
    with pytest.raises(RtskelError, match="no sources"):
        Motions([])


# Plans


def test_a_plan_is_the_same_each_time_and_a_longer_one_begins_with_it():
    motions = Motions(["signing", "beats"])
    short, again, longer = (list(tasks(Plan(frames), motions)) for frames in (1500, 1500, 3000))
    assert [task.result for task in short] == [task.result for task in again]
    assert [task.result for task in longer[: len(short)]] == [task.result for task in short]
    for one, other in zip(short, again, strict=True):
        assert one.seed == other.seed
        np.testing.assert_array_equal(one.drawn.motion.xyz, other.drawn.motion.xyz)
    lengths = [len(task.drawn.motion.xyz) for task in longer]
    assert sum(lengths) >= 3000 > sum(lengths[:-1])
    assert all(SHORTEST <= n <= LONGEST for n in lengths)
    assert [task.number for task in longer if task.split == KEPT] == list(range(3, len(longer), 7))
    assert len({task.seed for task in longer}) == len(longer)
    assert any(task.drawn.motion.speed > 1 for task in longer)
    assert all(task.drawn.motion.speed <= FASTEST for task in longer)
    (first,) = (task for task in tasks(Plan(1, seed=2), motions))
    assert first.drawn.motion.name != short[0].drawn.motion.name or first.seed != short[0].seed


# Runs


@dataclass(frozen=True)
class Stub:
    """Writes clips without drawing anything; some fail, some kill their process."""

    out: Path
    fails: str = ""
    kills: str = ""

    @contextmanager
    def opened(self) -> Iterator[Callable[[Task], Outcome]]:
        yield self.one

    def one(self, task: Task) -> Outcome:
        if self.kills and self.kills in task.result:
            sys.exit(3)
        if self.fails and self.fails in task.result:
            return Outcome(task.result, 0, 0.0, 0.0, 0.0, "nothing is seen")
        frames = len(task.drawn.motion.xyz)
        write_clip(self.out / task.result, clip_of(frames, name=task.name, split=task.split, seed=task.seed))
        return Outcome(task.result, frames, 0.5, 0.25, 0.1, None)

    def died(self, task: Task, status: int | None) -> Outcome:
        return Outcome(task.result, 0, 0.0, 0.0, 0.0, f"the worker process ended with status {status}")


@pytest.fixture
def quick(monkeypatch):
    """Plans whose motion costs nothing."""

    class Still:
        def draw(self, random, split, frames, speed):
            return Motion(f"still-{random.integers(1000)}", 25.0, np.zeros((70, 50, 3)))

    kind = module.Kind(OPEN, (1.0, 1.0), "", lambda _: Still())
    monkeypatch.setattr(module, "SOURCES", {"signing": kind})
    return Plan(600, sources=("signing",))


def entries(out):
    lines = (out / MANIFEST).read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def files(out):
    return {str(path.relative_to(out)): read_clip(path).seed for split in SPLITS for path in clips_in(out, split)}


def test_several_workers_make_the_same_clips_and_one_that_dies_loses_only_its_own(quick, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    summary = make(quick, one, work=Stub(one))
    assert (summary.clips, summary.frames, summary.before, summary.failed) == (9, 630, 0, ())
    assert len(clips_in(one, KEPT)) == 1
    summary = make(quick, two, workers=2, work=Stub(two, kills="00002"))
    assert summary.clips == 8
    (failed,) = summary.failed
    assert (failed.result, failed.error) == ("train/00002-signing.npz", "the worker process ended with status 3")
    made = files(one)
    assert made.pop(failed.result)
    assert files(two) == made
    done = [entry for entry in entries(two) if entry["status"] == "done"]
    assert sorted(entry["result"] for entry in done) == sorted(made)
    assert {(entry["frames"], entry["right_found"], entry["left_found"]) for entry in done} == {(70, 0.5, 0.25)}


def test_a_run_goes_on_where_it_was(quick, tmp_path):
    told = []
    first = make(quick, tmp_path, work=Stub(tmp_path, fails="00004"))
    assert (first.clips, [outcome.error for outcome in first.failed]) == (8, ["nothing is seen"])
    (tmp_path / TRAIN / "00001-signing.npz").unlink()
    (tmp_path / TRAIN / ".00005-signing.npz.part").write_bytes(b"cut short")
    again = make(quick, tmp_path, work=Stub(tmp_path), progress=lambda outcome, frames: told.append((outcome, frames)))
    assert (again.clips, again.before) == (2, 7), "the one that failed, and the one that is gone"
    assert sum(frames for _, frames in told) == 630
    assert sum(outcome is None for outcome, _ in told) == 7
    assert not list(tmp_path.rglob(".*"))
    more = make(replace(quick, frames=900), tmp_path, work=Stub(tmp_path))
    assert (more.clips, more.before) == (4, 9), "more frames are more clips"
    with pytest.raises(RtskelError, match=r"another job \(seed 1, now 2\)"):
        make(replace(quick, seed=2), tmp_path, work=Stub(tmp_path))


# The command


def test_everything_that_is_missing_is_named_at_once(monkeypatch, tmp_path, capsys):
    for name in ("anny", "av"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(needs.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(needs, "PACKAGES", {"anny": "anny", "av": "av", "numpy": "numpy"})
    assert main(["pairs", str(tmp_path / "out"), "--frames", "10"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "anny, av (pip install 'rtskel[pairs,estimate]'" in said[0]
    assert "OSMesa (Debian's libosmesa6): apt install libosmesa6" in said[0]
    assert "numpy" not in said[0].replace("--no-deps", "")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_missed(monkeypatch):
    monkeypatch.setattr(needs.ctypes.util, "find_library", lambda name: "libOSMesa.so.8")
    monkeypatch.setattr(needs, "PACKAGES", {"numpy": "numpy", "json": "json"})
    needs.check_installed()


def test_mistakes_on_the_command_line(tmp_path, capsys):
    for words, said in (
        (["pairs", str(tmp_path)], "--frames"),
        (["pairs", str(tmp_path), "--frames", "0"], "1 or more expected"),
        (["pairs", str(tmp_path), "--frames", "9", "--data", str(tmp_path / "no")], "no such folder"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_the_command_says_what_it_did(monkeypatch, tmp_path, capsys, quick):
    from rtskel.pairs import make as maker

    monkeypatch.setattr(needs, "check_installed", lambda: None)
    monkeypatch.setattr(maker, "Making", lambda out: Stub(out, fails="00001"))
    assert main(["pairs", str(tmp_path / "out"), "--frames", "200"]) == 1
    said = capsys.readouterr().err
    assert "motion: signing" in said
    assert "train/00001-signing.npz: nothing is seen" in said
    assert "2 clips of 140 frames done, 1 failed" in said
    monkeypatch.setattr(maker, "Making", Stub)
    assert main(["pairs", str(tmp_path / "out"), "--frames", "200"]) == 0
    assert "1 clips of 70 frames done, 2 done before" in capsys.readouterr().err


# The real thing


@pytest.fixture(scope="module")
def body_model():
    for name in ("anny", "OpenGL", "av", "mediapipe"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: no real pairs")
    try:
        needs.check_installed()
    except RtskelError as error:
        pytest.skip(str(error))
    from rtskel.pairs.body import BodyModel

    return BodyModel()


def test_the_skin_is_annys_own(body_model):
    import torch

    from rtskel.pairs.body import Build
    from rtskel.pairs.retarget import bone_heads, turns

    build = Build.drawn(np.random.default_rng(1))
    body = body_model.body(build)
    xyz = synthesize(0.2, 25.0, 4).xyz.astype(float)
    turn = turns(xyz, body.rig)
    vertices, _ = body._skinned(turn, bone_heads(turn, body.rig))
    model = body_model._model
    looks = {name: torch.tensor([value]) for name, value in vars(build).items()}
    still = torch.eye(4)[None, None].repeat(1, model.bone_count, 1, 1)
    rest = model(pose_parameters=still, phenotype_kwargs=looks)["rest_bone_poses"][0].numpy()
    pose = np.tile(np.eye(4), (len(xyz), model.bone_count, 1, 1))
    pose[..., :3, :3] = turn @ rest[:, :3, :3]
    pose[:, 0, :3, 3] = body.rig.heads[0]
    looks = {name: value.repeat(len(xyz)) for name, value in looks.items()}
    own = model(pose_parameters=torch.tensor(pose, dtype=torch.float32), phenotype_kwargs=looks)
    np.testing.assert_allclose(vertices, own["vertices"].numpy(), atol=1e-5)


def test_an_estimator_finds_who_was_drawn(body_model):
    from rtskel.pairs.make import make_clip, shot
    from rtskel.pairs.motion import Draw

    def easy(number):
        drawn = shot(body_model, xyz[:1], (5, number), fast=False).settings
        return drawn["dark"] == 1 and abs(drawn["yaw_deg"]) < 25 and not drawn["cropped"]

    xyz = synthesize(0.8, 25.0, 4).xyz.astype(float)
    seed = (5, next(number for number in range(50) if easy(number)))
    clip = make_clip(body_model, Task(0, TRAIN, seed, Draw("signing", OPEN, Motion("signing-4", 25.0, xyz))))
    assert clip.frames == 20
    assert (clip.confidence[:, 1] > 0).mean() > 0.9
    assert not clip.body_swapped.any()
    body = [0, 2, 3, 5, 6]
    off = np.linalg.norm(clip.estimate_px[..., :2] - clip.truth_px, axis=-1)[:, body]
    across = np.linalg.norm(clip.truth_px[:, 2] - clip.truth_px[:, 5], axis=-1)
    assert np.nanmedian(off) < 0.25 * np.median(across)
    width = np.linalg.norm(clip.truth[:, 2] - clip.truth[:, 5], axis=-1)
    assert 0.2 < np.median(width) < 0.5, "metres"
