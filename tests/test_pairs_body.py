"""Motions onto bodies: bones aim where the motion's do, lengths are the body's, and hands stay out of the trunk."""

import numpy as np
import pytest

from rtskel.pairs.retarget import (
    HEAD_TURN,
    SIDES,
    TRUNK_TURN,
    aim,
    body_axes,
    bone_heads,
    facing_camera,
    limited,
    turned_away,
    turns,
    unit,
)
from rtskel.skeleton import UPPER_BODY_50
from rtskel.training.synthesize import synthesize
from tests.puppet import puppet

PARENTS = np.array(UPPER_BODY_50.parents)


@pytest.fixture(scope="module")
def body():
    return puppet()


@pytest.fixture(scope="module")
def signing():
    return synthesize(2.0, 25.0, 3).xyz.astype(np.float64)


def bones(xyz, joints):
    return xyz[:, joints] - xyz[:, PARENTS[joints]]


def angle(turn):
    return np.arccos(np.clip((np.trace(turn, axis1=-2, axis2=-1) - 1) / 2, -1, 1))


def turning(xyz, degrees):
    a = np.radians(degrees)
    return xyz @ np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])


def test_arms_and_fingers_point_where_the_motions_do(body, signing):
    turn = turns(signing, body.rig)
    done = body.joints(turn, bone_heads(turn, body.rig))
    fingers = [j for _, hand in UPPER_BODY_50.hands for j in hand[1:] if PARENTS[j] != hand[0]]
    # A forearm is two bones, not quite in line, of which each takes its share of the hand's twist.
    for joints, most in (([3, 6], 1e-6), ([4, 7], 0.02), (fingers, 1e-6)):
        wanted, got = unit(body_axes(bones(signing, joints))), unit(bones(done, joints))
        np.testing.assert_allclose(got, wanted, atol=most)
    for side in SIDES:  # the palm: along the middle finger's base, in the plane of index and little finger
        wanted, got = (x[:, side.hand + 9] - x[:, side.hand] for x in (body_axes(signing), done))
        across = np.cross(unit(wanted), unit(got))
        assert np.abs(np.linalg.norm(across, axis=-1)).max() < 0.35, "hands of other proportions"


def test_lengths_are_the_bodys(body, signing):
    turn = turns(signing, body.rig)
    done = body.joints(turn, bone_heads(turn, body.rig))
    at_rest = body.joints(np.tile(np.eye(3), (1, len(body.rig.labels), 1, 1)), body.rig.heads[None])
    joints = np.array([3, 4, 6, 7, *(j for _, hand in UPPER_BODY_50.hands for j in hand[1:])])
    length, own = (np.linalg.norm(bones(xyz, joints), axis=-1) for xyz in (done, at_rest))
    own = np.tile(own, (len(done), 1))
    rest = [k for k in range(len(joints)) if k not in (1, 3)]
    np.testing.assert_allclose(length[:, rest], own[:, rest], atol=1e-9)
    np.testing.assert_allclose(length[:, [1, 3]], own[:, [1, 3]], rtol=5e-3)  # a forearm is two bones
    np.testing.assert_allclose(done[:, 1], (done[:, 2] + done[:, 5]) / 2)
    np.testing.assert_allclose(done[:, [29, 8]], done[:, [4, 7]])


def test_every_turn_is_a_rotation(body, signing):
    turn = turns(turning(signing, 50), body.rig)
    np.testing.assert_allclose(turn @ np.swapaxes(turn, -1, -2), np.broadcast_to(np.eye(3), turn.shape), atol=1e-8)
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-8)


def test_trunk_and_head_turn_only_so_far(body, signing):
    turn = turns(turning(signing, 80), body.rig)
    assert angle(turn[:, body.rig["spine01"]]).max() <= TRUNK_TURN + 1e-6
    head, trunk = turn[:, body.rig["head"]], turn[:, body.rig["spine01"]]
    assert angle(head @ np.swapaxes(trunk, -1, -2)).max() <= HEAD_TURN + 1e-6
    assert angle(turn[:, body.rig["upperleg01.L"]]).max() < 1e-6


def test_the_nose_moves_about_where_it_is_at_rest(body, signing):
    turn = turns(signing, body.rig)
    head = turn[:, body.rig["head"]] @ np.swapaxes(turn[:, body.rig["spine01"]], -1, -2)
    rest = head[:, 2, 2].mean()
    assert rest > 0.95, "upright on average, whatever the motion's proportions"


def test_unknown_finger_tips_go_on_as_the_bone_before(body, signing):
    tips = [hand[4 * finger + 4] for _, hand in UPPER_BODY_50.hands for finger in range(5)]
    without = signing.copy()
    without[:, tips] = 0
    turn = turns(without, body.rig)
    for side in SIDES:
        for finger in range(1, 6):
            before, last = (turn[:, body.rig[f"finger{finger}-{k}.{side.suffix}"]] for k in (2, 3))
            np.testing.assert_allclose(before, last, atol=1e-9)
    known = turns(signing, body.rig)
    first = [body.rig[f"finger{finger}-1.{side.suffix}"] for finger in range(1, 6) for side in SIDES]
    np.testing.assert_allclose(turn[:, first], known[:, first], atol=1e-9)


def test_limited_rotations():
    turn = aim(np.array([1.0, 0, 0]), np.array([[1.0, 0.1, 0], [0, 1, 0], [-1, 0.01, 0]]))
    short = limited(turn, 0.5)
    np.testing.assert_allclose(short[0], turn[0], atol=1e-12)
    np.testing.assert_allclose(angle(short[1:]), 0.5, atol=1e-9)
    np.testing.assert_allclose(limited(np.eye(3)[None], 0.5)[0], np.eye(3), atol=1e-12)
    assert (np.cross(short[1] @ [1, 0, 0], [1.0, 0, 0])[2] < 0) == (np.cross(turn[1] @ [1, 0, 0], [1.0, 0, 0])[2] < 0)


def test_facing_the_camera(signing):
    turned = turning(signing, 40)
    assert turned_away(turned) > np.radians(30)
    straight = facing_camera(turned)
    assert turned_away(straight) < turned_away(turned) / 2
    reach = [np.linalg.norm(xyz[:, 4] - xyz[:, 37], axis=-1) for xyz in (straight, turned)]
    np.testing.assert_allclose(*reach)


def test_hands_stay_out_of_the_trunk(body, signing):
    through = signing.copy()
    for _, shoulder, hand in SIDES:
        through[:, [shoulder + 2, *range(hand, hand + 21)], 2] -= 0.45  # far into the chest
        through[:, shoulder + 1, 2] -= 0.2
    turn = turns(through, body.rig)
    assert worst(body, body.joints(turn, bone_heads(turn, body.rig))) > 0.1, "a motion that goes through the trunk"
    before = through.copy()
    posed = body.posed(through)
    np.testing.assert_array_equal(through, before)
    assert worst(body, posed.joints) < 0.05
    free = body.posed(signing)
    assert worst(body, free.joints) < 0.02


def worst(body, joints):
    """How deep in metres a hand is behind the sheet that is the trunk's front."""
    trunk = body.vertices[body.bones[:, 0] == body.rig["spine01"]]
    hands = joints[:, [*range(8, 50)]]
    over = (np.abs(hands[..., 0]) < trunk[:, 0].max() - 0.03) & (hands[..., 2] > 0.95) & (hands[..., 2] < 1.4)
    return np.where(over, hands[..., 1] + 0.1, 0).max()


def test_the_skin_moves_with_its_bones(body, signing):
    posed = body.posed(signing[:5])
    assert posed.vertices.shape == posed.normals.shape == (5, len(body.vertices), 3)
    np.testing.assert_allclose(np.linalg.norm(posed.normals, axis=-1), 1, atol=1e-4)
    for number, side in enumerate(SIDES):
        for finger in range(5):
            tip = posed.vertices[:, body.tips[number][finger]]
            np.testing.assert_allclose(tip, posed.joints[:, side.hand + 4 + 4 * finger], atol=1e-5)
        wrist = np.flatnonzero(body.bones[:, 0] == body.rig[f"wrist.{side.suffix}"])
        spans = posed.vertices[:, wrist[1:]] - posed.vertices[:, wrist[:1]]
        rest = body.vertices[wrist[1:]] - body.vertices[wrist[0]]
        np.testing.assert_allclose(
            np.linalg.norm(spans, axis=-1), np.tile(np.linalg.norm(rest, axis=-1), (5, 1)), atol=1e-5
        )
    np.testing.assert_allclose(posed.vertices[:, body.nose], posed.joints[:, 0], atol=1e-5)
