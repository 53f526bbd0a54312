"""Corruptions: how many frames and joints, how strong, reproducible, and the root left alone."""

from dataclasses import replace

import pytest
import torch

from rtskel.skeleton import NECK, UPPER_BODY_50
from rtskel.training import corrupt
from rtskel.training.corrupt import TRAINING, Poses, recipe


def clean(batch=3, window=40, seed=0):
    x = 0.3 * torch.randn(batch, window, 50, 3, generator=torch.Generator().manual_seed(seed))
    x[:, :, NECK] = 0
    return Poses.clean(x)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("frames", range(1, 8))
def test_smoothing_keeps_the_number_of_frames_and_both_ends(frames):
    x = torch.zeros(1, frames, 1, 3)
    x[:, frames // 2] = 16.0
    expected = {1: [16], 2: [0, 16], 3: [0, 8, 0], 4: [0, 4, 8, 0], 5: [0, 4, 6, 4, 0]}
    expected |= {6: [0, 0, 4, 6, 4, 0], 7: [0, 0, 4, 6, 4, 0, 0]}
    got = corrupt.smoothed(x)
    assert got.shape == x.shape
    assert got[0, :, 0, 0].tolist() == expected[frames]


def test_frame_mask_takes_the_share_of_frames_whole():
    got = corrupt.frame_mask(clean(), 0.15, rng())
    joints = got.missing.sum(-1)
    assert ((joints == 0) | (joints == 49)).all()
    assert ((joints == 49).sum(1) == 6).all()  # round(0.15 * 40)
    assert not got.missing[..., NECK].any()
    assert (got.xyz[got.missing] == 0).all()


def test_joint_mask_takes_seven_joints_of_each_frame():
    got = corrupt.joint_mask(clean(), 0.15, rng())
    assert (got.missing.sum(-1) == 7).all()
    assert not (got.missing == got.missing[:, :1]).all()


def test_static_joint_mask_takes_the_same_joints_throughout():
    got = corrupt.static_joint_mask(clean(), 0.15, rng())
    assert (got.missing.sum(-1) == 7).all()
    assert (got.missing == got.missing[:, :1]).all()


def test_most_confident_go_first():
    poses = clean()
    confidence = torch.rand(poses.missing.shape, generator=rng(1))
    poses = replace(poses, confidence=confidence)
    masked = corrupt.frame_mask(poses, 0.2, rng()).missing[..., 0]
    frame = confidence.mean(-1)
    for b in range(3):
        assert frame[b][masked[b]].min() > frame[b][~masked[b]].max()
    masked = corrupt.joint_mask(poses, 0.2, rng()).missing
    movable = [j for j in range(50) if j != NECK]
    taken = masked[0, 0, movable]
    assert confidence[0, 0, movable][taken].min() > confidence[0, 0, movable][~taken].max()


def test_ties_are_broken_at_random_and_seeds_repeat():
    a, b, c = (corrupt.frame_mask(clean(), 0.15, rng(seed)).missing for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("strength", [0.1, 0.9])
def test_noise_is_within_the_limb_and_only_where_it_should_be(strength):
    poses = clean()
    got = corrupt.frame_noise(poses, 0.15, strength, rng())
    off = (got.xyz - poses.xyz).abs()
    assert (off <= strength * poses.limb()[..., None] + 1e-6).all()
    assert off.max() > 0.9 * strength * poses.limb().max() * 0.5
    moved = off.sum((-1, -2)) > 0
    assert (moved.sum(1) == 6).all()
    assert not got.missing.any()
    moved = (corrupt.joint_noise(poses, 0.15, strength, rng()).xyz != poses.xyz).any(-1)
    assert (moved.sum(-1) == 7).all()
    assert not moved[..., NECK].any()


def test_shares_and_strengths_can_differ_by_window():
    got = corrupt.frame_mask(clean(), torch.tensor([0.0, 0.25, 1.0]), rng())
    assert got.missing[..., 0].sum(1).tolist() == [0, 10, 40]
    poses = clean()
    moved = corrupt.dense_noise(poses, torch.tensor([0.0, 0.1, 0.1]), rng()).xyz - poses.xyz
    assert (moved[0] == 0).all()
    assert (moved[1:] != 0).any()


def test_bursts_inside_are_whole_and_leave_the_first_frame():
    for seed in range(20):
        gone = corrupt.burst_mask(clean(2, 120), 0.15, rng(seed), inside=True).missing[..., 0]
        assert not gone[:, 0].any()
        for row in gone:
            total = int(row.sum())
            assert 18 <= total <= 18 + 5
            edges = torch.diff(torch.cat([torch.zeros(1), row.float(), torch.zeros(1)]))
            starts, ends = (edges > 0).nonzero()[:, 0], (edges < 0).nonzero()[:, 0]
            assert ((ends - starts) >= 5).all()


def test_swapped_sides_exchange_left_and_right():
    poses = clean()
    got = corrupt.swap_sides(poses, 0.5, rng())
    changed = (got.xyz != poses.xyz).any(-1)
    mirrored = poses.xyz[:, :, list(UPPER_BODY_50.mirror)]
    assert torch.equal(got.xyz[changed], mirrored[changed])
    assert changed.any()


def test_frozen_frames_repeat_the_frame_before():
    poses = clean()
    got = corrupt.frozen_frames(poses, 0.3, rng())
    frozen = (got.xyz != poses.xyz).any(-1).any(-1)
    assert frozen.any()
    for b, t in frozen.nonzero().tolist():
        assert torch.equal(got.xyz[b, t], got.xyz[b, t - 1])


def test_autoregressive_noise_has_unit_variance_and_its_correlation():
    e = corrupt.autoregressive((2000, 30, 1), 0.9, rng(), torch.zeros(1))
    assert e.std().item() == pytest.approx(1.0, abs=0.05)
    lagged = (e[:, 1:] * e[:, :-1]).mean().item()
    assert lagged == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("kind", TRAINING)
def test_every_training_kind_is_finite_zero_where_missing_and_reproducible(kind):
    poses = clean(4, 32)
    before = poses.xyz.clone()
    a, b = (TRAINING[kind][1](poses, rng(7)) for _ in range(2))
    assert torch.equal(a.xyz, b.xyz)
    assert torch.equal(a.missing, b.missing)
    assert torch.isfinite(a.xyz).all()
    assert (a.xyz[a.missing] == 0).all()
    assert torch.equal(poses.xyz, before)
    if kind == "clean":
        assert torch.equal(a.xyz, before)
    else:
        assert a.missing.any() or not torch.equal(a.xyz, before)


def test_a_kind_at_a_fixed_level():
    poses = Poses.clean(torch.randn(2, 40, 50, 3))
    g = torch.Generator().manual_seed(0)
    assert (recipe("frame_mask@0.1")[1](poses, g).missing[:, :, 0].sum(1) == 4).all()
    moved = (recipe("joint_noise@0.2,0.5")[1](poses, g).xyz != poses.xyz).any(-1)
    assert (moved.sum(-1) == round(0.2 * 49)).all()
    assert recipe("clean") is TRAINING["clean"]


@pytest.mark.parametrize(
    "kind", ["fog", "fog@1", "frame_mask@", "frame_mask@2", "frame_mask@0.1,0.2", "frame_noise@0.1", "frame_mask@nan"]
)
def test_unknown_kinds_raise(kind):
    with pytest.raises(ValueError, match="unknown kind"):
        recipe(kind)


def test_drift_that_is_kept_moves_the_truth_and_jitter_does_as_far_as_a_filter_lets_it_through():
    poses = clean(batch=4, window=60)
    got = corrupt.estimator_error(poses, 1.0, 1.0, 0.0, rng(), kept=True)
    assert torch.equal(got.xyz, got.truth)  # nothing shakes, so nothing is to be smoothed
    moved = got.xyz - poses.xyz
    assert moved[..., 2].std() > 0.03
    rough = corrupt.estimator_error(poses, 1.0, 1.0, 0.0, rng())
    assert rough.truth is poses.truth
    jumps = [(x - poses.xyz).diff(n=2, dim=1).std() for x in (got.xyz, rough.xyz)]
    assert jumps[0] < 0.2 * jumps[1]
    shaken = corrupt.estimator_error(poses, 0.0, 0.0, 1.0, rng(), kept=True)
    torch.testing.assert_close(shaken.truth[:, 2:-2], corrupt.smoothed(shaken.xyz)[:, 2:-2])
    torch.testing.assert_close(shaken.truth[:, [0, 1, -2, -1]], corrupt.smoothed(poses.xyz)[:, [0, 1, -2, -1]])
    some = corrupt.estimator_error(poses, 0.0, 0.0, torch.tensor([0.0, 1.0, 0.0, 0.5]), rng(), kept=True)
    assert torch.equal(some.truth[[0, 2]], poses.xyz[[0, 2]])
    torch.testing.assert_close(some.truth[[1, 3], 2:-2], corrupt.smoothed(some.xyz)[[1, 3], 2:-2])


def test_smoothing_is_symmetric_and_leaves_lines_and_ends():
    line = torch.arange(12.0).view(1, 12, 1, 1).expand(1, 12, 2, 3)
    torch.testing.assert_close(corrupt.smoothed(line), line)
    pulse = torch.zeros(1, 11, 1, 3)
    pulse[:, 5] = 16.0
    assert corrupt.smoothed(pulse)[0, :, 0, 0].tolist() == [0, 0, 0, 1, 4, 6, 4, 1, 0, 0, 0]
    shaken = torch.rand(2, 9, 3, 3, generator=rng())
    assert torch.equal(corrupt.smoothed(shaken)[:, [0, -1]], shaken[:, [0, -1]])


def test_hands_that_leap_in_depth_take_the_wrist_and_half_of_the_elbow_along():
    poses = clean(batch=8, window=60)
    got = corrupt.depth_leaps(poses, torch.tensor([0.0, *[0.05] * 7]), rng())
    error = got.xyz - poses.xyz
    names = UPPER_BODY_50.names
    wrist, elbow = names.index("right_wrist"), names.index("right_elbow")
    assert torch.equal(got.xyz[0], poses.xyz[0])
    torch.testing.assert_close(got.truth, poses.xyz + corrupt.smoothed(error))
    torch.testing.assert_close(error[:, :, elbow], 0.5 * error[:, :, wrist])
    for joint in UPPER_BODY_50.groups["right_hand"]:
        torch.testing.assert_close(error[:, :, joint], error[:, :, wrist])
    assert not error[:, :, names.index("neck")].any()
    leaps = (error[1:, :, wrist, 2].diff(dim=1).abs() > 1e-5).float().mean().item()
    assert 0.04 < leaps < 0.13
    across, depth = error[1:, :, wrist, 0].std(), error[1:, :, wrist, 2].std()
    assert 0.03 < depth < 0.07
    assert across < 0.4 * depth


def test_jitter_also_comes_with_one_hand_never_seen_and_the_other_now_and_then():
    missing = recipe("jitter_high")[1](clean(batch=200, window=32), rng()).missing
    hands = [missing[:, :, list(UPPER_BODY_50.groups[f"{side}_hand"])].all(2) for side in ("left", "right")]
    for never, other in (hands, hands[::-1]):
        chosen = never.all(1) & ~other.all(1)
        assert 0.1 < chosen.float().mean() < 0.35
        assert 0.3 < other[chosen].float().mean() < 0.9


def test_groups_are_off_rigidly_for_a_few_frames_and_the_truth_is_not():
    poses = clean(batch=300, window=60)
    got = corrupt.group_off(poses, 0.1, 0.2, rng(), shortest=1, longest=1)
    assert got.truth is poses.truth
    off = got.xyz - poses.xyz
    away = off.norm(dim=-1)
    hit = away > 1e-4
    torch.testing.assert_close(away[hit], torch.full_like(away[hit], 0.2), rtol=1e-3, atol=1e-4)
    assert (hit.any(-1).sum(1) == 6).all()  # round(0.1 * 60) single frames
    groups = set()
    for window in range(300):
        frames = hit[window].any(-1).nonzero()[:, 0]
        members = hit[window, frames]
        assert (members == members[0]).all()  # one group a window
        groups.add(tuple(members[0].nonzero()[:, 0].tolist()))
        vectors = off[window, frames][:, members[0]]
        torch.testing.assert_close(vectors, vectors[:, :1].expand_as(vectors), rtol=0, atol=1e-5)
        steps = (vectors[1:, 0] - vectors[:-1, 0]).norm(dim=-1)
        apart = frames.diff() > 1
        assert (steps[apart] > 1e-3).all()  # each run goes its own way
    right = list(UPPER_BODY_50.groups["right_hand"])
    assert {(4, *right), (3, 4, *right), (4,), (0,), tuple(range(50)), (right[4],)} <= groups
    off = (corrupt.group_off(poses, 0.3, 0.2, rng(), shortest=4, longest=8).xyz - poses.xyz).abs().amax((2, 3)) > 1e-3
    for row in off:
        inside = "".join(str(int(x)) for x in row).strip("1").split("0")  # runs at the ends are cut
        assert all(len(run) >= 4 for run in inside if run)


def test_single_joints_are_off_alone_each_its_own_way():
    poses = clean(batch=300, window=60)
    got = corrupt.joint_off(poses, 0.02, 0.2, rng())
    assert got.truth is poses.truth
    off = got.xyz - poses.xyz
    away = off.norm(dim=-1)
    hit = away > 1e-4
    torch.testing.assert_close(away[hit], torch.full_like(away[hit], 0.2), rtol=1e-3, atol=1e-4)
    often = hit.float().mean((0, 1))
    hands = torch.tensor([j not in UPPER_BODY_50.groups["body"] for j in range(50)])
    assert often[UPPER_BODY_50.root] == 0
    torch.testing.assert_close(often[hands], torch.full((42,), 0.02), rtol=0.2, atol=0)
    torch.testing.assert_close(often[~hands][often[~hands] > 0], torch.full((7,), 0.08), rtol=0.2, atol=0)
    assert off[hit].mean(0).norm() < 0.02  # no way is preferred


def test_a_doubled_hand_lies_on_the_other():
    poses = clean(batch=20)
    got = corrupt.doubled_hand(poses, 0.3, rng())
    changed = (got.xyz != poses.xyz).any(-1)
    left, right = (list(UPPER_BODY_50.groups[f"{side}_hand"]) for side in ("left", "right"))
    assert changed[..., left].any()
    assert changed[..., right].any()
    assert not (changed[..., left].any(-1) & changed[..., right].any(-1)).any()
    twins = poses.xyz[:, :, list(UPPER_BODY_50.mirror)]
    assert torch.equal(got.xyz[changed], twins[changed])
