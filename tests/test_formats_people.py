"""Who is who: people who swap order, vanish, return, and cross."""

import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.formats.people import follow, recordings_of_people
from rtskel.skeleton import UPPER_BODY_50

J = UPPER_BODY_50.joints
SHAPE = np.random.default_rng(0).uniform(-100, 100, (J, 2)).astype(np.float32)  # a person about 280 pixels in size


def people(*frames: dict[str, float] | list[tuple[str, float]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Frame numbers, positions and names of people, each standing at an x, in the order in which they are listed."""
    rows = [
        (number, who, x)
        for number, frame in enumerate(frames)
        for who, x in (frame.items() if isinstance(frame, dict) else frame)
    ]
    xyz = np.stack([SHAPE + np.float32([x, 0]) for _, _, x in rows])
    return np.array([row[0] for row in rows]), xyz, [row[1] for row in rows]


def followed(*frames: dict[str, float], identity: list[int] | None = None) -> dict[str, set[int]]:
    """The streams that each person was taken for."""
    frame, xyz, names = people(*frames)
    numbers = None if identity is None else np.array(identity)
    stream = follow(frame, xyz, np.ones(xyz.shape[:2], np.float32), numbers)
    found: dict[str, set[int]] = {}
    for who, number in zip(names, stream.tolist(), strict=True):
        found.setdefault(who, set()).add(number)
    return found


def test_order_in_the_file_does_not_matter() -> None:
    there = {"a": 0.0, "b": 400.0}
    back = {"b": 400.0, "a": 0.0}
    assert followed(there, back, there, back) == {"a": {0}, "b": {1}}


def test_people_who_move() -> None:
    frames = [{"b": 600.0 - 8 * k, "a": 4.0 * k} if k % 2 else {"a": 4.0 * k, "b": 600.0 - 8 * k} for k in range(30)]
    assert followed(*frames) == {"a": {0}, "b": {1}}


def test_who_vanishes_and_returns_is_the_same() -> None:
    both, one = {"a": 0.0, "b": 400.0}, {"b": 400.0}
    assert followed(both, *[one] * 30, both) == {"a": {0}, "b": {1}}
    assert followed({"a": 0.0}, *[{}] * 500, {"a": 20.0}) == {"a": {0}}


def test_who_appears_far_away_is_new() -> None:
    assert followed({"a": 0.0}, {"c": 500.0}) == {"a": {0}, "c": {1}}
    assert followed({"a": 0.0}, *[{}] * 500, {"c": 500.0}) == {"a": {0}, "c": {1}}
    assert followed({"a": 0.0}, {"a": 0.0, "c": 30.0}) == {"a": {0}, "c": {1}}, "a is taken already"


def test_reach_grows_while_nobody_is_seen() -> None:
    assert followed({"a": 0.0}, {"c": 200.0}) == {"a": {0}, "c": {1}}
    assert followed({"a": 0.0}, *[{}] * 5, {"a": 200.0}) == {"a": {0}}


def test_identities_of_the_file_come_first() -> None:
    frames = ({"a": 0.0, "b": 400.0}, {"b": 0.0, "a": 400.0})
    assert followed(*frames, identity=[7, 3, 3, 7]) == {"a": {0}, "b": {1}}
    for no_identity in ([7, -1, 3, 7], [7, 7, 3, 7]):  # one has none; two alike in a frame
        assert followed(*frames, identity=no_identity) == {"a": {0, 1}, "b": {0, 1}}


def test_people_who_show_other_joints() -> None:
    """Somebody of whom only hands are seen for a while is compared by hands; who shares no joint is somebody else."""
    frame, xyz, _ = people({"a": 0.0}, {"a": 0.0}, {"a": 0.0})
    confidence = np.ones((3, J), np.float32)
    confidence[1, :8] = 0
    assert follow(frame, xyz, confidence).tolist() == [0, 0, 0]
    confidence[:, 8:] = 0
    confidence[1] = 1 - confidence[0]
    assert follow(frame, xyz, confidence).tolist() == [0, 1, 0]


def test_recordings() -> None:
    frame, xyz, _ = people({}, {"a": 0.0, "b": 400.0}, {"b": 400.0}, {"b": 400.0, "a": 0.0})
    confidence = np.full(xyz.shape[:2], 0.5, np.float32)
    a, b = recordings_of_people("f", "clip", frame, xyz, confidence, fps=25, unit="px")
    assert (a.name, a.slots.tolist(), b.name, b.slots.tolist()) == ("clip-1", [1, 3], "clip-2", [1, 2, 3])
    assert a.dims == b.dims == 2
    np.testing.assert_array_equal(b.xyz[..., :2], xyz[[1, 2, 3]])
    assert (a.confidence == 0.5).all()
    confidence[[0, 4]] = 0  # a row without a joint is nobody
    (only,) = recordings_of_people("f", "clip", frame, xyz, confidence, fps=25)
    assert (only.name, only.frames) == ("clip", 3)
    with pytest.raises(FormatError, match="f: nobody"):
        recordings_of_people("f", "clip", frame, xyz, 0 * confidence, fps=25)
