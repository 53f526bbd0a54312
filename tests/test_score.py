import numpy as np
import pytest

from rtskel.training.score import aligned, errors, held, joint_groups


def test_errors() -> None:
    truth = np.zeros((4, 3, 3), np.float32)
    poses = truth.copy()
    poses[:, 1] = (3, 0, 4)
    poses[2, 1] += (0, 1, 0)  # a bend of 1, 2, 1 in a row of four frames: 1 and 2 are seen whole, as 1 and -2
    mse, mpjpe, acceleration = errors([poses], [truth], [1])
    assert mse == pytest.approx((4 * 25 + 1) / 12)
    assert mpjpe == pytest.approx((15 + np.sqrt(26)) / 4)
    assert acceleration == pytest.approx(1.5)
    assert errors([poses], [truth], [0, 2]) == (0, 0, 0)
    both = errors([poses, truth], [truth, truth], [1])
    assert both.mse == pytest.approx(mse / 2)
    assert errors([poses[:2]], [truth[:2]], [1]).acceleration == 0, "two frames have no acceleration"


def test_errors_of_some_joints_of_some_frames() -> None:
    random = np.random.default_rng(0)
    truth, poses = random.standard_normal((2, 6, 4, 3)).astype(np.float32)
    where = random.random((6, 4)) < 0.4
    mse, mpjpe, acceleration = errors([poses], [truth], [1, 2, 3], [where])
    off, counts = (poses - truth)[:, 1:], where[:, 1:]
    assert mse == pytest.approx(np.square(off[counts]).mean(), rel=1e-5)
    assert mpjpe == pytest.approx(np.linalg.norm(off[counts], axis=-1).mean(), rel=1e-5)
    bend = np.linalg.norm(off[2:] - 2 * off[1:-1] + off[:-2], axis=-1)
    assert acceleration == pytest.approx(bend[counts[1:-1]].mean(), rel=1e-5)
    assert errors([poses], [truth], [0], [np.zeros((6, 4), bool)]) == (0, 0, 0)
    every = errors([poses], [truth], [1, 2], [np.ones((6, 4), bool)])
    assert every == pytest.approx(errors([poses], [truth], [1, 2]))


def test_alignment_undoes_a_similarity_but_no_reflection() -> None:
    random = np.random.default_rng(1)
    truth = random.standard_normal((5, 8, 3)).astype(np.float32)
    poses = np.empty_like(truth)
    for k in range(5):
        q, _ = np.linalg.qr(random.standard_normal((3, 3)))
        q *= np.sign(np.linalg.det(q))
        poses[k] = random.uniform(0.1, 9) * truth[k] @ q.T + random.standard_normal(3)
    assert np.allclose(aligned(poses, truth, range(8)), truth, atol=1e-4)
    poses[:, 7] += 5  # a joint that does not take part in the alignment
    out = aligned(poses, truth, range(7))
    assert np.allclose(out[:, :7], truth[:, :7], atol=1e-4)
    assert np.linalg.norm(out[:, 7] - truth[:, 7], axis=-1).min() > 0.1
    mirrored = aligned(truth * np.float32([-1, 1, 1]), truth, range(8))
    assert np.square(mirrored - truth).mean() > 0.05
    noisy = truth + np.float32(0.1) * random.standard_normal(truth.shape).astype(np.float32)
    assert np.square(aligned(noisy, truth, range(8)) - truth).sum() < np.square(noisy - truth).sum()
    assert np.allclose(aligned(np.zeros_like(truth), truth, range(8)), truth.mean(1, keepdims=True), atol=1e-6)


def test_groups_leave_out_the_root() -> None:
    groups = joint_groups("upper-body-50")
    assert (len(groups["all"]), len(groups["body"]), len(groups["hands"])) == (49, 7, 42)
    assert 1 not in groups["all"]


def test_held() -> None:
    xyz = np.arange(5, dtype=np.float32)[:, None, None] + np.zeros((5, 2, 3), np.float32)
    missing = np.array([[0, 1], [1, 1], [0, 0], [1, 1], [0, 1]], bool)
    assert held(xyz, missing)[..., 0].T.tolist() == [[0, 0, 2, 2, 4], [0, 0, 2, 2, 2]]
    assert not held(xyz, np.ones((5, 2), bool)).any()
