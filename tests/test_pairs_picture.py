"""Pictures: where a camera sees points, what a shutter averages, what codecs leave."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from rtskel.pairs.camera import Camera
from rtskel.pairs.exposure import MARGIN, Exposure, compressed
from rtskel.pairs.scene import Light, Looks, backdrop, weave
from rtskel.training.synthesize import synthesize
from tests.puppet import puppet

SEEDS = range(12)


@pytest.fixture(scope="module")
def joints():
    return puppet().posed(synthesize(1.0, 25.0, 3).xyz.astype(np.float64)).joints


@pytest.fixture(scope="module")
def cameras(joints):
    return [Camera.drawn(np.random.default_rng(seed), joints) for seed in SEEDS]


def test_opengl_and_pixels_agree(cameras, joints):
    for camera in cameras:
        clip = np.concatenate([joints, np.ones((*joints.shape[:2], 1))], axis=-1) @ camera.matrix.T
        assert (np.abs(clip[..., 2]) < clip[..., 3]).all(), "between the planes near and far"
        x, y = clip[..., 0] / clip[..., 3], clip[..., 1] / clip[..., 3]
        drawn = np.stack([(x + 1) / 2 * camera.width, (1 - y) / 2 * camera.height], axis=-1)
        np.testing.assert_allclose(camera.pixels(camera.seen(joints)), drawn, atol=1e-6)


def test_a_camera_sees_a_person_upright_from_in_front(cameras, joints):
    for camera in cameras:
        seen = camera.seen(joints)
        assert (seen[..., 2] > 0.1).all(), "z grows away from the camera"
        assert (seen[:, 0, 1] < seen[:, 1, 1]).all(), "y grows downward: the nose is above the neck"
        assert (seen[:, 5, 0] > seen[:, 2, 0]).all(), "the person's left is at the right"
        np.testing.assert_allclose(camera.axes @ camera.axes.T, np.eye(3), atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(seen, axis=-1), np.linalg.norm(joints - camera.eye, axis=-1))


def test_the_whole_person_is_in_the_picture_unless_it_is_cropped(cameras, joints):
    cropped = 0
    for camera in cameras:
        at = camera.pixels(camera.seen(joints))
        inside = ((at >= 0) & (at < [camera.width, camera.height])).all(-1)
        if camera.settings["cropped"]:
            cropped += 1
        else:
            assert inside.mean() > 0.97
    assert 0 < cropped < len(cameras)


def test_the_same_seed_draws_the_same(joints):
    one, again, other = (Camera.drawn(np.random.default_rng(seed), joints) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.matrix, again.matrix)
    assert (one.matrix != other.matrix).any()


# Looks


def test_clothes_and_hair_stand_off_the_skin_and_hands_are_bare():
    body = puppet()
    bare = 0
    for seed in SEEDS:
        looks = Looks.drawn(np.random.default_rng(seed), body)
        hand = body.share_of(body.rig.named(("finger", "wrist"))) > 0.5
        trunk = body.share_of([body.rig["spine01"]]) > 0.5
        assert looks.dressed[trunk].all()
        assert not looks.dressed[hand].any()
        assert (looks.thickness[hand] == 0).all()
        assert looks.thickness[trunk].max() > 0
        assert 0 <= looks.thickness.min() <= looks.thickness.max() < 0.15
        assert 0 <= looks.color.min() <= looks.color.max() <= 1
        fore = body.share_of(body.rig.named(("lowerarm01",))) > 0.5
        bare += not looks.dressed[fore].any()
    assert 0 < bare < len(SEEDS), "sleeves of several lengths"


def test_light_comes_from_in_front_and_backdrops_fill_the_picture():
    kinds = set()
    for seed in range(30):
        random = np.random.default_rng(seed)
        light = Light.drawn(random)
        assert light.key_from[1] < 0
        np.testing.assert_allclose(np.linalg.norm([light.key_from, light.fill_from], axis=-1), 1)
        kind, picture = backdrop(random, 64, 48)
        kinds.add(kind)
        assert picture.shape == (48, 64, 3)
        assert picture.dtype == np.uint8
        assert len(weave(random)) == 4
    assert kinds == {"plain", "gradient", "noise", "blocks"}


# Exposure


def test_the_truth_is_that_of_mid_exposure():
    exposure = Exposure(instants=3, shutter=0.5)
    position = np.arange(5.0)[:, None] * [1, 2]  # one unit a frame
    vertices = position[:, None].astype(np.float32)
    mean = [np.mean(list(exposure.moments(vertices, frame)), axis=0)[0] for frame in range(5)]
    np.testing.assert_allclose(mean, exposure.middle(position), atol=1e-6)
    np.testing.assert_allclose(exposure.middle(position)[3], [3 - 0.25, 6 - 0.5])
    still = Exposure()
    np.testing.assert_array_equal(still.middle(position), position)
    (only,) = still.moments(vertices, 3)
    np.testing.assert_array_equal(only, vertices[3])


def body_at(x, size=20):
    """A picture in which the body is one white column."""
    picture = np.zeros((size, size, 4), np.uint8)
    picture[:, x] = 255
    return picture


def test_a_frame_is_the_mean_of_its_instants():
    behind = np.full((20, 20, 3), 55, np.uint8)
    random = np.random.default_rng(0)
    taken = Exposure(instants=2, shutter=0.5).taken(random, [body_at(3), body_at(4)], behind, None)
    assert taken[0, :6, 0].tolist() == [55, 55, 55, 155, 155, 55]
    dark = Exposure(dark=0.5).taken(random, [body_at(3)], behind, None)
    assert dark[0, 2:5, 1].tolist() == [28, 128, 28]
    soft = Exposure(soft=1.0).taken(random, [body_at(3)], behind, None)
    assert 55 < soft[0, 2, 0] < soft[0, 3, 0] < 255
    worse = Exposure(jpeg=30).taken(random, [body_at(3)], behind, None)
    assert np.abs(worse.astype(int) - Exposure().taken(random, [body_at(3)], behind, None)).max() > 0


@pytest.mark.parametrize("noise", [1.0, 6.0])
def test_grain_is_as_strong_as_asked_and_elsewhere_in_each_frame(noise):
    exposure = Exposure(noise=noise)
    random = np.random.default_rng(0)
    grain = exposure.grain(random, 40, 30)
    assert grain.shape == (30 + MARGIN, 40 + MARGIN, 3)
    behind = np.full((30, 40, 3), 100, np.uint8)
    nobody = np.zeros((30, 40, 4), np.uint8)
    frames = [exposure.taken(random, [nobody], behind, grain).astype(float) for _ in range(2)]
    assert 0.4 * noise < np.std(frames[0]) < 1.3 * noise
    assert (frames[0] != frames[1]).any()
    assert Exposure(noise=0.2).grain(random, 40, 30) is None


def test_exposures_are_drawn_within_their_ranges():
    drawn = [Exposure.drawn(np.random.default_rng(seed), fast=seed % 2 == 0) for seed in range(200)]
    assert all((e.shutter > 0) == (e.instants > 1) and 0 <= e.shutter <= 1 and 18 <= e.crf < 36 for e in drawn)
    fast, slow = (np.mean([e.instants > 1 for e in drawn[first::2]]) for first in (0, 1))
    assert fast > slow + 0.1
    assert 0.05 < np.mean([e.dark < 1 for e in drawn]) < 0.3


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="av is not installed")
def test_every_frame_comes_out_of_the_codec_in_order_and_worse():
    frames = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(10)]
    frames[4][10:20, 10:20] = 255
    out = list(compressed(iter(frames), 64, 48, 25.0, 30))
    assert len(out) == 10
    for number, (before, after) in enumerate(zip(frames, out, strict=True)):
        assert after.shape == (48, 64, 3)
        assert np.abs(after[40, 60].astype(int) - before[40, 60]).max() < 12, number
    low, high = (np.abs(a[0].astype(int) - b[0]).sum() for a, b in ((noisy(18), noisy()), (noisy(35), noisy())))
    assert high > low > 0


def noisy(crf=None):
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return [picture] if crf is None else list(compressed([picture], 64, 48, 25.0, crf))


def test_settings_are_numbers():
    assert replace(Exposure(), dark=0.5).settings["dark"] == 0.5
