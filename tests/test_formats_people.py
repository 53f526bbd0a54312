"""Who is who, in files and live: people who swap order, vanish, return, and cross."""

import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.formats.people import GONE, Follower, follow, recordings_of_people
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
    """Somebody of whom only hands are seen is compared by hands; who shares no joint is the same if he is there."""
    frame, xyz, _ = people({"a": 0.0}, {"a": 0.0}, {"a": 0.0})
    confidence = np.ones((3, J), np.float32)
    confidence[1, :8] = 0
    assert follow(frame, xyz, confidence).tolist() == [0, 0, 0]
    confidence[:, 8:] = 0
    confidence[1] = 1 - confidence[0]
    assert follow(frame, xyz, confidence).tolist() == [0, 0, 0]
    xyz[1] += 400
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


# --- live -------------------------------------------------------------------------------------------------------------


def placed(follower: Follower, frame: int, *people: tuple[int, float]) -> list[int]:
    """The streams of people who are followed by a number, and stand at an x."""
    xyz = np.array([SHAPE + np.float32([x, 0]) for _, x in people], np.float32).reshape(-1, J, 2)
    tracks = np.array([track for track, _ in people], np.int64)
    return follower.place(frame, xyz, np.ones(xyz.shape[:2], np.float32), tracks).tolist()


def test_live_is_as_in_files() -> None:
    """People who wander, come and go, found anew in every frame: one rule."""
    random = np.random.default_rng(1)
    walk = np.cumsum(random.normal(0, 12, (300, 4, 2)), axis=0)
    walk[..., 0] += 500 * np.arange(4)
    rows = [(n, k) for n in range(300) for k in random.permutation(4) if random.random() > 0.2]
    frame = np.array([n for n, _ in rows])
    xyz = np.stack([SHAPE + walk[n, k] for n, k in rows]).astype(np.float32)
    confidence = (random.random((len(rows), J)) > 0.3).astype(np.float32)
    follower = Follower()
    live = [follower.place(n, xyz[frame == n], confidence[frame == n]) for n in range(300)]
    np.testing.assert_array_equal(np.concatenate(live), follow(frame, xyz, confidence))
    assert follower.streams >= 4


def test_live_people_who_pass_each_other_in_sight() -> None:
    """Two who look alike are one for the moment in which they are at one place; then each goes on as himself."""
    follower, hidden = Follower(2), 0
    for frame in range(60):
        people = [(5, 10.0 * frame), (9, 400 - 10.0 * frame)]
        streams = placed(follower, frame, *(people if frame % 2 else people[::-1]))
        streams = streams if frame % 2 else streams[::-1]
        hidden += Follower.HIDDEN in streams
        assert all(stream in (expected, Follower.HIDDEN) for stream, expected in zip(streams, [1, 0], strict=True))
    assert 1 <= hidden <= 3


def test_live_who_is_hidden_while_somebody_passes_is_the_same_again() -> None:
    follower = Follower(2)
    for frame in range(60):
        ahead, behind = (1, -300 + 10.0 * frame), (2 if frame < 20 else 3, 300 - 10.0 * frame)
        hidden = 20 <= frame < 40  # and then found anew, on the other side
        assert placed(follower, frame, ahead, *[behind] * (not hidden)) == [0, 1][: 2 - hidden]


def test_live_of_two_at_one_place_the_one_who_jumped_there_is_given_up() -> None:
    follower = Follower(2)
    assert placed(follower, 0, (1, 0.0), (2, 200.0)) == [0, 1]
    for frame in range(1, 11):
        assert placed(follower, frame, (1, 2.0), (2, 5.0)) == [0, Follower.HIDDEN], "the first is found twice"
    assert placed(follower, 11, (1, 2.0), (2, 2.0)) == [0, -1]
    assert placed(follower, 12, (4, 9.0), (1, 4.0)) == [-1, 0], "and once more, by a search"
    assert placed(follower, 13, (1, 6.0), (5, 210.0)) == [0, 1], "until the second is found"


def test_live_who_is_found_anew_while_his_number_is_hidden_has_the_new_one() -> None:
    follower = Follower(2)
    assert placed(follower, 0, (1, 0.0), (2, 200.0)) == [0, 1]
    assert placed(follower, 1, (1, 2.0), (2, 5.0)) == [0, Follower.HIDDEN]
    assert placed(follower, 2, (1, 2.0), (2, 5.0), (3, 205.0)) == [0, Follower.HIDDEN, 1]
    assert placed(follower, 3, (1, 2.0), (2, 90.0), (3, 205.0)) == [0, -1, 1]


def test_live_who_left_comes_back_anywhere_once_nobody_else_is_missing() -> None:
    follower = Follower(2)
    assert placed(follower, 0, (1, 0.0), (2, 400.0)) == [0, 1]
    for frame in range(1, GONE + 1):
        assert placed(follower, frame, (2, 400.0), (3, 5000.0)) == [1, -1], "too far, too soon: he may be a third"
    assert placed(follower, GONE + 1, (2, 400.0), (4, 5000.0)) == [1, 0]
    assert placed(follower, GONE + 2, (4, 5003.0), (2, 400.0), (5, 900.0)) == [0, 1, -1], "who is too many"
    assert follower.streams == 2
    anybody = Follower()
    assert [placed(anybody, frame, (frame, 5000.0 * frame)) for frame in range(3)] == [[0], [1], [2]]


def test_live_nobody() -> None:
    follower = Follower(1)
    assert placed(follower, 0) == []
    assert placed(follower, 3, (0, 1.0)) == [0]
    assert placed(follower, 4) == []
    assert placed(follower, 9, (1, 1.0)) == [0]


def test_live_of_two_who_left_each_gets_his_own_stream_back_by_his_looks() -> None:
    def standing(follower: Follower, frame: int, *people: tuple[float, list[float]]) -> list[int]:
        xyz = np.stack([SHAPE + np.float32([x, 0]) for x, _ in people])
        looks = np.array([look for _, look in people], np.float32)
        return follower.place(frame, xyz, np.ones(xyz.shape[:2], np.float32), looks=looks).tolist()

    red, blue, nothing = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.0, 0.0, 0.0]
    follower = Follower(2)
    assert standing(follower, 0, (0.0, red), (250.0, blue)) == [0, 1]
    assert standing(follower, 30, (100.0, blue)) == [1], "though the other was nearer"
    assert standing(follower, 60, (150.0, red)) == [0], "though the other was nearer"
    assert standing(follower, 100, (160.0, nothing)) == [0], "who cannot be told by his looks is told by his place"
    assert standing(follower, 101, (160.0, red)) == [0]


def test_live_numbers_that_go_over_to_each_other_are_seen_by_looks() -> None:
    red, blue = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]
    follower = Follower(2)
    xyz = np.stack([SHAPE, SHAPE + np.float32([300, 0])])
    sure = np.ones(xyz.shape[:2], np.float32)

    def standing(frame: int, *tracks: int) -> list[int]:
        return follower.place(frame, xyz, sure, np.array(tracks), np.array([red, blue], np.float32)).tolist()

    assert standing(0, 7, 8) == [0, 1]
    assert [standing(1 + n, 8, 7) for n in range(10)] == [[1, 0]] * 10, "somebody may be before them for a moment"
    assert standing(11, 8, 7) == [0, 1]
    assert standing(12, 8, 7) == [0, 1]


def test_live_another_light_changes_nobody() -> None:
    follower = Follower(2)
    xyz = np.stack([SHAPE, SHAPE + np.float32([300, 0])])
    for frame in range(60):
        looks = [[0.8, 0.1, 0.1, 0.0], [0.1, 0.8, 0.1, 0.0]] if frame < 20 else [[0.0, 0.0, 0.2, 0.8]] * 2
        at = follower.place(frame, xyz, np.ones(xyz.shape[:2], np.float32), np.array([4, 6]), np.array(looks, "f"))
        assert at.tolist() == [0, 1]


def test_live_a_row_without_joints_is_nobody() -> None:
    follower = Follower(2)
    assert follower.place(0, SHAPE[None], np.zeros((1, J), np.float32), np.array([3])).tolist() == [-1]
    assert follower.streams == 0


@pytest.mark.parametrize("seed", range(4))
def test_live_three_people_who_walk_to_and_fro_keep_their_streams(seed: int) -> None:
    """Each goes his own way at his own depth. Who is behind somebody is not found, others are lost at random for up to
    a second, and whoever is found again has a new number: some 30 times each in 2000 frames."""
    random = np.random.default_rng(seed)
    time = np.arange(2000)[:, None]
    x = 640 + 500 * np.sin(time * random.uniform(0.008, 0.02, 3) + random.uniform(0, 6, 3))
    shapes = [SHAPE * scale + np.float32([0, 40 * scale]) for scale in (1.0, 0.9, 0.8)]  # the nearest comes first
    colours = np.random.default_rng(5).dirichlet(np.full(8, 0.5), 3)
    follower, lost, tracks, fresh = Follower(3), np.zeros(3, int), [0, 1, 2], 3
    switches, unshown, of = 0, 0, {}
    for frame in range(2000):
        seen = []
        for person in range(3):
            hidden = any(abs(x[frame, person] - x[frame, other]) < 60 for other in range(person))
            lost[person] = max(lost[person] - 1, random.integers(1, 25) if random.random() < 0.002 else 0)
            if hidden or lost[person]:
                tracks[person] = -1
                continue
            if tracks[person] < 0:
                tracks[person], fresh = fresh, fresh + 1
            seen.append(person)
        xyz = np.array([shapes[k] + [x[frame, k], 0] + random.normal(0, 3, (J, 2)) for k in seen], np.float32)
        looks = np.abs(colours[seen] + random.normal(0, 0.03, (len(seen), 8))).astype(np.float32)
        streams = follower.place(
            frame,
            xyz.reshape(-1, J, 2),
            np.ones((len(seen), J), np.float32),
            np.array([tracks[k] for k in seen], np.int64),
            looks / looks.sum(axis=1, keepdims=True),
        )
        for person, stream in zip(seen, streams.tolist(), strict=True):
            unshown += stream < 0
            switches += stream >= 0 and stream != of.setdefault(person, stream)
            of[person] = stream if stream >= 0 else of[person]
    assert fresh > 25
    assert switches == 0
    assert unshown < 20
    assert follower.streams == 3
