import numpy as np
import pytest

from rtskel.score import errors, held, joint_groups


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


def test_groups_leave_out_the_root() -> None:
    groups = joint_groups("upper-body-50")
    assert (len(groups["all"]), len(groups["body"]), len(groups["hands"])) == (49, 7, 42)
    assert 1 not in groups["all"]


def test_held() -> None:
    xyz = np.arange(5, dtype=np.float32)[:, None, None] + np.zeros((5, 2, 3), np.float32)
    missing = np.array([[0, 1], [1, 1], [0, 0], [1, 1], [0, 1]], bool)
    assert held(xyz, missing)[..., 0].T.tolist() == [[0, 0, 2, 2, 4], [0, 0, 2, 2, 2]]
    assert not held(xyz, np.ones((5, 2), bool)).any()
