"""Lifting: its gradient, its stages, its law as a stream, and how2sign."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

from rtskel.cli import main
from rtskel.errors import RtskelError
from rtskel.formats import Recording, read, write
from rtskel.lift import LiftConfig, Lifted, Lifter, lift
from rtskel.recordings import lift_recording
from rtskel.skeleton import LEFT_SHOULDER, NECK, RIGHT_SHOULDER, UPPER_BODY_50, to_canonical
from rtskel.training.score import errors
from rtskel.training.synthesize import synthesize
from tests.shared_data import shared_data

module = importlib.import_module("rtskel.lift.lifter")
tree = module._tree(UPPER_BODY_50)
J = UPPER_BODY_50.joints
LEFT = list(UPPER_BODY_50.groups["left_hand"])
CLIP = synthesize(3.0, 25.0, 7)


def truth(frames: int = 60) -> np.ndarray:
    """A signing body in shoulder widths, seen in pixels of an orthographic camera."""
    xyz = CLIP.canonical()[:frames].astype(np.float64)
    width = np.linalg.norm(xyz[:, LEFT_SHOULDER] - xyz[:, RIGHT_SHOULDER], axis=-1).mean()
    return xyz * (200 / width) + np.array([640, 300, 0])


def seen(frames: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What an estimator makes of it: jitter, lost joints in runs, one lost frame."""
    rng = np.random.default_rng(seed)
    xy = truth(frames)[..., :2] + rng.normal(size=(frames, J, 2)) * 3
    confidence = rng.uniform(0.3, 1, (frames, J)).astype(np.float32)
    for start in range(5, frames, 17):
        confidence[start : start + 6, LEFT] = 0
    confidence[frames // 2] = 0
    return xy, confidence


def lengths_of(xyz: np.ndarray) -> np.ndarray:
    return np.linalg.norm(xyz[:, tree.joint].astype(np.float64) - xyz[:, tree.parent], axis=-1)


def streamed(lifter: Lifter, xy: np.ndarray, confidence: np.ndarray, chunks: list[int]) -> Lifted:
    parts, at = [], 0
    for size in chunks:
        parts.append(lifter.push(xy[at : at + size], confidence[at : at + size]))
        at += size
    assert at == len(xy)
    return Lifted.concatenate([*parts, lifter.flush()])


def test_gradient():
    rng = np.random.default_rng(0)
    n, kinds = 4, len(tree.typical)
    pose = rng.normal(size=(3, n, J))
    lengths = np.exp(rng.normal(size=kinds) * 0.3)
    objective = module._Objective(
        tree,
        rng.normal(size=(2, n, J)),
        rng.uniform(0, 1, (n, J)),
        rng.uniform(-1, 1, (n, J - 1)),
        LiftConfig(trajectory=0.3, lengths=0.2, depth=0.7),
        30.0,
        rng.uniform(0, 1, J),
        (lengths * 1.1, 3.0),
        before=rng.normal(size=(3, J)),
        dtype=np.float64,
    )
    q = np.log(lengths)
    _, by_pose, by_q = objective(pose, q)
    for _ in range(20):
        along, along_q = rng.normal(size=pose.shape), rng.normal(size=kinds)
        step = 1e-5
        ahead, behind = (objective(pose + s * along, q + s * along_q)[0] for s in (step, -step))
        slope = float((by_pose * along).sum() + by_q @ along_q)
        assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_the_tree():
    """Bones lead from the head down, joints are their sums, and symmetric ones have one length."""
    rng = np.random.default_rng(1)
    pose = rng.normal(size=(5, J))
    bones = pose @ tree.across
    assert np.allclose(pose[:, [tree.head]] + bones @ tree.down, pose)
    assert np.allclose((pose - pose[:, [NECK]]), bones @ tree.down_z)
    assert tree.names[0] == "neck"
    assert len(tree.typical) == 25  # nose to neck, and one of each of 24 pairs
    for bone, joint in enumerate(tree.joint):
        twin = tree.twin[bone]
        assert tree.joint[twin] == (UPPER_BODY_50.mirror[joint] if bone else joint)
        assert tree.kind[bone] == tree.kind[twin]


def test_placing_by_true_lengths_and_sides_is_exact():
    pose = truth(5).transpose(2, 0, 1)
    size = lengths_of(truth(5)).mean(axis=0)
    size = np.bincount(tree.kind, size) / np.bincount(tree.kind)
    # Symmetric bones of the truth are equal, and constant.
    assert np.allclose(lengths_of(truth(5)), size[tree.kind], rtol=1e-4)
    sides = np.where(pose[2] @ tree.across < 0, -1.0, 1.0)
    placed = module._place(tree, pose[:2], size, sides)
    assert np.abs(placed[:2] - pose[:2]).max() < 0.1
    assert np.abs(placed[2] - (pose[2] - pose[2][:, [NECK]])).max() < 3  # where length and image agree to rounding


def test_each_stage_helps():
    true, (xy, confidence) = truth(), seen()
    flat = np.concatenate([module._targets(tree, *_targets_of(xy, confidence)).transpose(1, 2, 0), xy[..., :1] * 0], -1)
    stages = {
        "flat": flat,
        "placed": lift(xy, confidence, config=LiftConfig(iterations=0)).xyz,
        "lifted": lift(xy, confidence).xyz,
    }
    centred = {name: pose - pose[:, [NECK]] for name, pose in (stages | {"truth": true}).items()}
    mpjpe = {name: errors([centred[name]], [centred["truth"]], range(J)).mpjpe for name in stages}
    assert mpjpe["lifted"] < mpjpe["placed"] < mpjpe["flat"]
    assert mpjpe["lifted"] < 0.7 * mpjpe["flat"]


def _targets_of(xy: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, w = module._checked(xy, confidence, tree, 0.0, LiftConfig())
    return x, w, module._first_lengths(tree, x, w)[1]


def test_image_bones_and_smoothness():
    xy, confidence = seen()
    lifted = lift(xy, confidence)
    assert lifted.xyz.shape == (60, J, 3)
    assert lifted.xyz.dtype == lifted.confidence.dtype == np.float32
    sure = lifted.confidence > 0.5
    off = np.linalg.norm(lifted.xyz[..., :2] - xy, axis=-1)[sure]
    assert np.sqrt((off**2).mean()) < 0.03 * 200
    size = lengths_of(lifted.xyz)
    assert (np.ptp(size, axis=0) < 2e-3 * size.mean(axis=0)).all()
    assert np.allclose(size, size[:, tree.twin], rtol=2e-3)
    seen_twice = np.abs(np.diff(xy, 2, axis=0)).mean()
    assert np.abs(np.diff(lifted.xyz[..., :2].astype(np.float64), 2, axis=0)).mean() < 0.7 * seen_twice
    assert np.abs(lifted.xyz[:, NECK, 2]).max() == 0


def test_translation_and_scale():
    xy, confidence = seen(20)
    once = lift(xy, confidence).xyz
    assert np.array_equal(lift(xy * 4, confidence).xyz, once * 4)
    moved = lift(xy + np.array([1000, -50]), confidence).xyz - np.array([1000, -50, 0])
    assert np.abs(moved - once)[..., :2].max() < 0.05 * 200  # rounding, through an optimiser that stops early


def test_what_is_missing():
    xy, confidence = seen()
    xy[confidence == 0] = np.nan
    lifted = lift(xy, confidence)
    assert np.isfinite(lifted.xyz).all()
    assert (lifted.confidence[:, LEFT][5:11] == 0).all()
    assert not lifted.confidence[30].any()
    filled = lift(truth()[..., :2], confidence).xyz
    off = np.linalg.norm(filled[..., :2] - truth()[..., :2], axis=-1)
    assert off[confidence > 0].mean() < off[confidence == 0].mean() < 0.1 * 200


def test_a_lost_hand_follows_its_wrist():
    xy = truth(20)[..., :2]
    xy[:, :, 0] += 10 * np.arange(20)[:, None]
    confidence = np.ones((20, J), np.float32)
    confidence[8:12, LEFT[1:]] = 0
    x, w, lengths = _targets_of(xy, confidence)
    targets = module._targets(tree, x, w, lengths)
    hand = targets[:, :, LEFT] - targets[:, :, LEFT[:1]]
    steps = np.abs(np.diff(hand, axis=1)).max()
    assert steps < 15, "it does not stay behind in the image"


def test_a_hand_never_seen_mirrors_the_other():
    xy, confidence = truth(20)[..., :2], np.ones((20, J), np.float32)
    confidence[:, LEFT] = 0
    lifted = lift(xy, confidence)
    size = lengths_of(lifted.xyz)
    assert np.allclose(size, size[:, tree.twin], rtol=1e-3)
    assert np.isfinite(lifted.xyz).all()
    both = confidence.copy()
    both[:, UPPER_BODY_50.groups["right_hand"]] = 0
    neither = lift(xy, both)
    assert np.isfinite(neither.xyz).all()
    reach = np.linalg.norm(neither.xyz[:, LEFT[12]] - neither.xyz[:, LEFT[0]], axis=-1) / 200
    assert ((reach > 0.3) & (reach < 0.8)).all(), "a hand of the size that goes with the shoulders"


def test_nobody():
    nothing = lift(np.full((5, J, 2), np.nan))
    assert not nothing.xyz.any()
    assert not nothing.confidence.any()
    assert len(lift(np.zeros((0, J, 2)))) == 0
    xy, confidence = seen(10)
    confidence[:, 2:8] = 0.01  # a head and hands without arms
    assert not lift(xy, confidence).confidence.any()


def test_a_bone_keeps_its_side_until_it_lies_in_the_plane():
    angle = np.linspace(-1.2, 1.2, 41)  # of a forearm that swings through the image plane
    x = np.zeros((2, 41, J))
    bone = tree.names.index("right_wrist")
    x[0, :, tree.joint[bone]] = np.cos(angle)
    lengths = np.ones(len(tree.typical))
    typical = np.zeros((41, J - 1))
    typical[:, bone] = np.where(np.arange(41) % 3, -0.1, 0.1)  # votes that do not agree, more of them behind
    typical[-5:, bone] = 1
    side = module._sides(tree, x, lengths, typical)[0][:, bone]
    deep = np.abs(np.sin(angle)) > module.PLANE
    assert (side[deep & (angle < 0)] == -1).all()
    assert (side[deep & (angle > 0)] == 1).all()


def test_shoulders_turn_where_the_nose_points():
    pose = truth(3).transpose(2, 0, 1)
    lengths = tree.typical
    for sign in (1, -1):
        x = pose[:2] / 200
        x[0, :, 0] = x[0, :, NECK] + sign * 0.3
        typical = module._typical_depth(tree, x, lengths)
        right, left = (typical[:, tree.names.index(f"{side}_shoulder")] for side in ("right", "left"))
        assert (right * sign > 0).all()
        assert np.array_equal(left, -right)


@pytest.mark.parametrize("lookahead", [0, 1, 4])
def test_chunks_do_not_matter(lookahead):
    xy, confidence = seen(24)
    lifter = Lifter(lookahead=lookahead)
    assert lifter.latency == lookahead
    once = streamed(lifter, xy, confidence, [24])
    assert once.xyz.shape == (24, J, 3)
    for chunks in ([1] * 24, [0, 5, 2, 17], [23, 1]):
        again = streamed(lifter, xy, confidence, chunks)  # fresh again after the flush
        assert np.array_equal(once.xyz, again.xyz)
        assert np.array_equal(once.confidence, again.confidence)
    lifter.push(xy[5:9], confidence[5:9])
    lifter.reset()
    assert np.array_equal(once.xyz, streamed(lifter, xy, confidence, [24]).xyz)
    assert len(lifter.flush()) == 0


@pytest.mark.parametrize("lookahead", [0, 3])
def test_poses_come_after_their_lookahead_and_use_no_more(lookahead):
    xy, confidence = seen(16)
    lifter = Lifter(lookahead=lookahead)
    ready = np.cumsum([len(lifter.push(xy[k], confidence[k])) for k in range(16)])
    assert ready.tolist() == [max(0, k + 1 - lookahead) for k in range(16)]
    lifter.reset()
    out = lifter.push(xy, confidence).xyz
    lifter.reset()
    other = xy.copy()
    other[10 + lookahead + 1 :] = np.nan
    changed = lifter.push(other, confidence).xyz
    assert np.array_equal(out[:11], changed[:11])
    assert np.isfinite(changed).all()
    if lookahead:
        assert not np.array_equal(out[11], changed[11])


def test_shorter_than_the_lookahead():
    xy, confidence = seen(3)
    lifter = Lifter(lookahead=8)
    assert len(lifter.push(xy, confidence)) == 0
    tail = lifter.flush()
    assert len(tail) == 3
    assert np.abs(tail.xyz[..., :2] - xy).mean() < 0.05 * 200


def test_a_stream_that_begins_with_nobody():
    xy, confidence = seen(20)
    confidence[:7] = 0
    lifted = streamed(Lifter(lookahead=2), xy, confidence, [20])
    assert not lifted.xyz[:5].any()
    assert not lifted.confidence[:7].any()
    sure = lifted.confidence > 0
    off = np.linalg.norm(lifted.xyz[..., :2] - xy, axis=-1)
    assert np.sqrt((off[sure] ** 2).mean()) < 0.05 * 200


def test_streams_come_close_to_the_whole():
    xy, confidence = seen()
    whole = lift(xy, confidence)
    sure = whole.confidence > 0.5

    def off(lifted: Lifted) -> float:
        return float(np.sqrt((((lifted.xyz[..., :2] - xy) ** 2).sum(axis=-1)[sure]).mean()))

    live = streamed(Lifter(lookahead=4), xy, confidence, [60])
    assert off(live) < 1.3 * off(whole)
    size = lengths_of(live.xyz)
    assert (np.abs(np.diff(size, axis=0)) < 0.05 * size[:-1]).all()
    centred = [pose - pose[:, [NECK]] for pose in (live.xyz, whole.xyz)]
    assert errors([centred[0]], [centred[1]], range(J)).mpjpe < 0.25 * 200


def test_recordings():
    xy, confidence = seen(12)
    flat = np.concatenate([xy, xy[..., :1] * 0], -1).astype(np.float32)
    plain = Recording(flat, 25, "r", confidence=confidence, unit="px", dims=2, image_size=(1280, 720))
    lifted = lift_recording(plain)
    assert (lifted.dims, lifted.unit, lifted.image_size, lifted.fps) == (3, "px", (1280, 720), 25)
    assert np.abs(lifted.xyz - lift(flat[..., :2], confidence).xyz).max() < 1e-3
    upward = replace(plain, xyz=to_canonical(plain.xyz, "LUA"), axes="LUA")
    again = lift_recording(upward)
    assert again.axes == "LUA"
    assert np.abs(again.canonical() - lifted.xyz).max() < 1e-3
    holes = np.array([3, 4, 5, 9, 10, 11, 12, 14, 15, 16, 17, 18])
    told: list[int] = []
    for lookahead in (None, 2):
        dropped = lift_recording(replace(plain, slot=holes), lookahead=lookahead, progress=told.append)
        assert np.array_equal(dropped.slots, holes)
        assert np.isfinite(dropped.xyz).all()
    assert max(told) == 16
    with pytest.raises(RtskelError, match="'r' has depth already"):
        lift_recording(lifted)


def test_command(tmp_path, capsys):
    xy, confidence = seen(12)
    flat = np.concatenate([xy, xy[..., :1] * 0], -1).astype(np.float32)
    path, out = tmp_path / "flat.npz", tmp_path / "lifted.npz"
    write(path, [Recording(flat, 25, name, confidence=confidence, unit="px", dims=2) for name in ("a", "b")])
    assert main(["lift", str(path), str(out)]) == 0
    lifted = read(out)
    assert [(r.name, r.dims, r.unit) for r in lifted] == [("a", 3, "px"), ("b", 3, "px")]
    assert np.array_equal(lifted[0].xyz, lift(flat[..., :2], confidence).xyz)
    assert main(["lift", str(path), str(out), "--lookahead", "2"]) == 0
    assert np.array_equal(read(out)[1].xyz, streamed(Lifter(lookahead=2), flat[..., :2], confidence, [12]).xyz)
    assert main(["lift", str(out), str(out)]) == 2
    assert "has depth already" in capsys.readouterr().err


def test_arguments():
    with pytest.raises(ValueError, match="xy has shape"):
        lift(np.zeros((3, 49, 2)))
    with pytest.raises(ValueError, match="confidence has shape"):
        lift(np.zeros((3, J, 2)), np.ones((3, 49)))
    with pytest.raises(ValueError, match="lookahead"):
        Lifter(lookahead=-1)
    with pytest.raises(ValueError, match="fps"):
        Lifter(fps=0)
    with pytest.raises(ValueError, match="trajectory"):
        LiftConfig(trajectory=-1)
    with pytest.raises(ValueError, match="iterations"):
        LiftConfig(iterations=-1)
    with pytest.raises(ValueError, match="memory_s"):
        LiftConfig(memory_s=0)


@pytest.mark.parametrize("clip", ["_2FBDaOPYig_3-3-rgb_front", "_2FBDaOPYig_4-3-rgb_front"])
def test_how2sign(clip):
    """Real OpenPose output: within 3% of the shoulder width, smoother than it came, live within 1.3 of that."""
    folder = shared_data(f"how2sign_openpose/{clip}")
    (recording,) = read(folder, fps=24)
    xy, confidence = recording.canonical()[..., :2], recording.confidence
    width = np.median(np.linalg.norm(xy[:, RIGHT_SHOULDER] - xy[:, LEFT_SHOULDER], axis=-1))
    sure = confidence > 0.5

    def off(poses: np.ndarray) -> float:
        return float(np.sqrt((((poses[..., :2] - xy) ** 2).sum(axis=-1)[sure]).mean()) / width)

    def bend(poses: np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(poses.astype(np.float64), 2, axis=0), axis=-1).mean())

    whole = lift_recording(recording).xyz
    assert off(whole) < 0.03
    assert bend(whole) < 0.7 * bend(xy)
    size = lengths_of(whole)
    assert (np.ptp(size, axis=0) < 2e-3 * size.mean(axis=0)).all()
    live = lift_recording(recording, lookahead=4).xyz
    assert off(live) < 1.3 * off(whole)
    assert bend(live) < bend(xy)
