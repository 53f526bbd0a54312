"""Rotations of an avatar's bones: forward kinematics give the positions back, and bones turn as bodies do."""

import numpy as np
import pytest

from rtskel.avatar import BONES, Motion, Rig, Solver, quaternions, rest_directions
from rtskel.avatar.rig import BONE
from rtskel.avatar.rotation import about, apply, closest, matrices, swing, twist
from rtskel.formats import Recording
from rtskel.skeleton import UPPER_BODY_50, from_canonical
from rtskel.training.synthesize import estimator_errors, synthesize
from tests.shared_data import shared_data

BODY = UPPER_BODY_50
J = BODY.joints
AT = {name: joint for joint, name in enumerate(BODY.names)}
SEEN = np.ones((1, J), bool)


def angle(rotation):
    """Degrees by which rotations [..., 3, 3] turn."""
    return np.degrees(np.arccos(np.clip((np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2, -1, 1)))


def turned(**bones):
    """Joints [1, J, 3] of a person of standard proportions whose bones are turned so, the others at rest."""
    local = np.tile(np.eye(3), (1, len(BONES), 1, 1))
    for name, (axis, degrees) in bones.items():
        local[:, BONE[name]] = about(np.array(axis, float), np.radians([degrees]))
    return Motion(local, np.zeros((1, 3)), Rig.standard()).positions()


def solved(xyz, rig=None):
    return Solver(rig).push(xyz, np.ones(xyz.shape[:2], bool))


def test_bones_are_those_of_vrm():
    fingers = {"Index", "Middle", "Ring", "Little"}
    expected = {"hips", "spine", "head"}
    for side in ("left", "right"):
        expected |= {f"{side}{part}" for part in ("Shoulder", "UpperArm", "LowerArm", "Hand")}
        expected |= {f"{side}{name}{part}" for name in fingers for part in ("Proximal", "Intermediate", "Distal")}
        expected |= {f"{side}Thumb{part}" for part in ("Metacarpal", "Proximal", "Distal")}
    assert {bone.name for bone in BONES} == expected
    assert all(bone.parent < number for number, bone in enumerate(BONES))
    assert sorted(joint for bone in BONES for joint in bone.drives) == list(range(J)), (
        "each joint has one bone that moves it"
    )


def test_the_rest_pose_is_no_rotation():
    motion = solved(Rig.standard().positions[None])
    np.testing.assert_allclose(motion.rotation, np.broadcast_to(np.eye(3), motion.rotation.shape), atol=1e-9)
    hips, left, right = motion.hips[0], AT["left_hand_root"], AT["right_hand_root"]
    assert hips[1] < -0.4
    assert motion.positions()[0, left, 0] > 0.5 > -0.5 > motion.positions()[0, right, 0]
    assert rest_directions()[AT["nose"], 1] > 0.9


def moving(frames=80):
    """Rotations of a person who moves arms, hands and every finger, and turns around."""
    rng, time = np.random.default_rng(3), np.arange(frames) / 25
    local = np.tile(np.eye(3), (frames, len(BONES), 1, 1))
    for number, bone in enumerate(BONES):
        axis = rng.normal(size=3)
        most = {"hips": 2.8, "spine": 0.0}.get(bone.name, 1.3 if "Arm" in bone.name or "Hand" in bone.name else 0.6)
        axis = np.array([0.0, 1.0, 0.0]) if bone.name == "hips" else axis / np.linalg.norm(axis)
        angles = most * np.sin(2 * np.pi * time * rng.uniform(0.2, 0.8) + rng.uniform(0, 6))
        local[:, number] = about(axis, angles)
    neck = np.cumsum(rng.normal(0, 0.005, (frames, 3)), axis=0)
    return Motion(local, neck, Rig.standard())


def test_forward_kinematics_give_a_body_of_constant_bones_back_exactly():
    xyz = moving().positions()
    known = np.ones(xyz.shape[:2], bool)
    for rig in (Rig.of(xyz, known), Rig.standard()):
        back = solved(xyz, rig).positions()
        assert np.linalg.norm(back - xyz, axis=-1).max() < 1e-9  # in shoulder widths / 3, so nm


def beyond_the_shape(xyz, motion):
    """How far [N, J] the positions that kinematics give back are off beyond what the lengths of the bones, and the
    shapes of the palms, differ from the rig's on the way from the neck."""
    error = np.linalg.norm(motion.positions() - xyz, axis=-1)
    bones = xyz - xyz[:, BODY.parents_or_self]
    allowed = np.zeros(error.shape)
    for joint in BODY.order[1:]:
        rigid = np.linalg.norm(motion.rig.offsets[joint])
        own = np.abs(np.linalg.norm(bones[:, joint], axis=-1) - rigid)
        if "hand_root" in BODY.names[joint] or BODY.names[joint].endswith(
            "_1"
        ):  # of the palm: where it is in its own axes
            hand = motion.world[:, BONE[BODY.names[joint].partition("_")[0] + "Hand"]]
            own = np.linalg.norm(apply(np.swapaxes(hand, -1, -2), bones[:, joint]) - motion.rig.offsets[joint], axis=-1)
        allowed[:, joint] = allowed[:, BODY.parents[joint]] + own
    return error - allowed


def whole_way(known):
    """[N, J] joints that are known, and all between them and the neck."""
    return ~((~known).astype(float) @ BODY.chain.T > 0)


def positions_of(recording):
    return from_canonical(recording.canonical(), "RUT").astype(np.float64) * recording.mm_per_unit()


def test_a_jittery_recording_is_off_by_its_changes_of_length_alone():
    recording = estimator_errors(synthesize(4, 25, 5), 5)
    xyz, known = positions_of(recording), ~recording.missing
    motion = Solver(Rig.of(xyz, known)).push(xyz, known)
    there = whole_way(known)
    assert 0.5 < there.mean() < 1
    assert beyond_the_shape(xyz, motion)[there].max() < 1.0  # mm


@pytest.mark.parametrize("name", ["unoc", "mesh2motion"])
def test_motion_capture_with_fingers_comes_back(name):
    with np.load(shared_data(f"mocap_hands/{name}.npz")) as data:
        frames = int(data["length"][0])
        xyz = np.where(data["missing"][:frames, :, None], np.nan, data["xyz"][:frames])
        recording = Recording(xyz.astype(np.float32), float(data["fps"][0]), name)
    xyz, known = positions_of(recording), ~recording.missing
    motion = Solver(Rig.of(xyz, known)).push(xyz, known)
    assert beyond_the_shape(xyz, motion)[whole_way(known)].max() < 1.0  # mm
    for side in ("left", "right"):  # fingers bend toward the palm
        bends = motion.rotation[
            :, [BONE[f"{side}{finger}Intermediate"] for finger in ("Index", "Middle", "Ring")], :, 0
        ]
        degrees = np.degrees(np.arctan2(bends[..., 1], bends[..., 0])) * (-1 if side == "left" else 1)
        assert np.median(degrees) > -5


def test_frames_one_by_one_are_the_same_as_at_once():
    xyz = moving(30).positions()
    known = np.random.default_rng(0).random(xyz.shape[:2]) > 0.2
    whole = Solver().push(xyz, known)
    solver = Solver()
    parts = [solver.push(xyz[a:b], known[a:b]) for a, b in ((0, 1), (1, 1), (1, 9), (9, 30))]
    np.testing.assert_allclose(np.concatenate([part.rotation for part in parts]), whole.rotation, atol=1e-12)
    np.testing.assert_array_equal(np.concatenate([part.neck for part in parts]), whole.neck)
    solver.reset()
    np.testing.assert_allclose(solver.push(xyz, known).rotation, whole.rotation, atol=1e-12)


def test_what_is_not_known_stays_as_it_was_and_at_rest_before():
    xyz = np.concatenate([turned(), turned(leftLowerArm=((0, 1, 0), -60)), turned()])
    known = np.ones((3, J), bool)
    known[0, AT["right_elbow"] :] = known[2, AT["left_wrist"]] = False
    xyz[~known] = 1e6
    motion = Solver().push(xyz, known)
    assert np.isfinite(motion.rotation).all()
    assert angle(motion.rotation[0]).max() < 1e-5
    assert angle(motion.rotation[2, BONE["leftLowerArm"]]) == pytest.approx(60)


def test_an_elbow_bends_forward_whatever_the_shoulder_does():
    for swing_axis, degrees in (((0, 0, 1), -85), ((0, 0, 1), 50), ((0, 1, 0), -70)):
        motion = solved(turned(leftUpperArm=(swing_axis, degrees), leftLowerArm=((0, 1, 0), -90)))
        lower = motion.rotation[0, BONE["leftLowerArm"]]
        np.testing.assert_allclose(lower, about(np.array([0.0, 1.0, 0.0]), np.radians([-90.0]))[0], atol=1e-6)


def test_a_stretched_arm_does_not_turn_with_noise():
    twists = []
    for degrees in np.linspace(0, 360, 13):  # the forearm is off by 3 degrees, this way and that
        axis = (0.0, np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))
        motion = solved(turned(leftLowerArm=(axis, 3)))
        twists.append(twist(motion.rotation[0, BONE["leftUpperArm"]], np.array([1.0, 0.0, 0.0])))
    assert np.abs(np.degrees(twists)).max() < 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_forearm_takes_half_of_the_hands_twist(side):
    along = np.array([1.0 if side == "left" else -1.0, 0.0, 0.0])
    motion = solved(
        turned(**{f"{side}Hand": (along, 80), f"{side}LowerArm": ((0, 1, 0), -70 if side == "left" else 70)})
    )
    for bone in ("LowerArm", "Hand"):
        assert np.degrees(twist(motion.rotation[0, BONE[f"{side}{bone}"]], along)) == pytest.approx(40, abs=1e-6)


def test_every_finger_bends_by_any_angle():
    for side, sign in (("left", -1), ("right", 1)):
        for finger in ("Index", "Middle", "Ring", "Little"):
            for part in ("Proximal", "Intermediate", "Distal"):
                name = f"{side}{finger}{part}"
                for degrees in (10, 90, 179, 181):
                    motion = solved(turned(**{name: ((0, 0, sign), degrees)}))
                    expected = about(np.array([0.0, 0.0, float(sign)]), np.radians([float(degrees)]))[0]
                    np.testing.assert_allclose(motion.rotation[0, BONE[name]], expected, atol=1e-6)


def test_a_person_who_turns_around_turns_the_hips():
    for degrees in (30, 90, 179):
        motion = solved(turned(hips=((0, 1, 0), degrees)))
        assert angle(motion.rotation[0, BONE["hips"]]) == pytest.approx(degrees, abs=1e-5)
        assert angle(motion.rotation[0, 1:]).max() < 1e-5
    leaning = solved(turned(spine=((0, 0, 1), 15)))
    assert angle(leaning.rotation[0, BONE["spine"]]) == pytest.approx(15, abs=1e-5)


def test_shoulders_above_each_other_do_not_break_it():
    xyz = turned(spine=((0, 0, 1), 90))
    assert np.isfinite(solved(xyz).rotation).all()
    assert np.isfinite(solved(np.zeros_like(xyz)).rotation).all()


# --- rotations --------------------------------------------------------------------------------------------------------


def vectors(count, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, 3))
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def test_swing_turns_one_direction_into_the_other_by_the_smallest_angle():
    start, end = vectors(50), vectors(50, 1)
    end[0], end[1], end[2] = start[0], -start[1], -start[2]
    turn = swing(start, end)
    np.testing.assert_allclose(apply(turn, start), end, atol=1e-9)
    np.testing.assert_allclose(turn @ np.swapaxes(turn, -1, -2), np.broadcast_to(np.eye(3), turn.shape), atol=1e-9)
    np.testing.assert_allclose(angle(turn), np.degrees(np.arccos(np.clip((start * end).sum(-1), -1, 1))), atol=1e-5)


def test_twist_is_what_is_left_without_the_swing():
    axis = vectors(30)
    angles = np.linspace(-3, 3, 30)
    turn = swing(axis, vectors(30, 1)) @ about(axis, angles)
    np.testing.assert_allclose(twist(turn, axis), angles, atol=1e-9)


def test_quaternions_are_those_of_their_matrices():
    axis = np.concatenate([vectors(60), np.eye(3)])
    angles = np.concatenate([np.linspace(0, np.pi, 60), np.full(3, np.pi)])
    turn = about(axis, angles)
    quaternion = quaternions(turn)
    assert (quaternion[:, 3] >= 0).all()
    np.testing.assert_allclose(matrices(quaternion), turn, atol=1e-9)
    np.testing.assert_allclose(quaternion[30, :3], axis[30] * np.sin(angles[30] / 2), atol=1e-9)


def test_closest_finds_the_rotation_of_a_rigid_shape():
    rest = vectors(5)
    turn = about(vectors(8, 2), np.linspace(0, 3, 8))
    np.testing.assert_allclose(closest(rest, rest @ np.swapaxes(turn, -1, -2)), turn, atol=1e-9)
