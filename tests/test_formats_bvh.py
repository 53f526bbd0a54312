from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtskel.errors import FormatError
from rtskel.formats import Recording, read, write
from rtskel.skeleton import NECK, UPPER_BODY_50, from_canonical
from rtskel.training.synthesize import synthesize
from tests.bvh_reader import read_bvh
from tests.shared_data import shared_data

BODY = UPPER_BODY_50


def standard(joint: str) -> str:
    """Where a joint is in a file: at the origin of this joint of the file, or at the end of it (+)."""
    side, _, part = joint.partition("_")
    if not part:
        return {"nose": "Head+", "neck": "Neck"}[joint]
    name = {"shoulder": "Arm", "elbow": "ForeArm", "wrist": "Wrist", "hand_root": "Hand"}.get(part)
    if name is None:
        finger, _, number = part.partition("_")
        finger = {"little": "Pinky"}.get(finger, finger.capitalize())
        name = f"Hand{finger}3+" if number == "4" else f"Hand{finger}{number}"
    return side.capitalize() + name


def written(path: Path, recording: Recording) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Positions [F, J, 3] in cm as another program finds them, the offsets of the rest pose, and the frame time."""
    write(path, recording)
    position, frame_time, offsets = read_bvh(path)
    return np.stack([position[standard(name)] for name in BODY.names], axis=1), offsets, frame_time


def wanted(recording: Recording) -> np.ndarray:
    return from_canonical(recording.canonical(), "RUT") * recording.mm_per_unit() / 10


def test_rigid_bodies_are_exact(tmp_path: Path) -> None:
    recording = synthesize(3, 25, 4)
    found, offsets, frame_time = written(tmp_path / "a.bvh", recording)
    np.testing.assert_allclose(found, wanted(recording), atol=1e-3)
    assert frame_time == pytest.approx(1 / 25)
    assert offsets["LeftForeArm"][0] > 20, "the rest pose: arms out, the left one to the image's right"
    assert offsets["RightForeArm"][0] < -20
    other = replace(recording, axes="LUA", mirrored=True)
    np.testing.assert_allclose(written(tmp_path / "b.bvh", other)[0], wanted(other), atol=1e-3)


def test_joints_are_called_as_other_programs_expect(tmp_path: Path) -> None:
    write(tmp_path / "a.bvh", synthesize(1, 25, 0))
    position, _, offsets = read_bvh(tmp_path / "a.bvh")
    expected = {"Hips", "Spine", "Neck", "Head"}
    for side in ("Left", "Right"):
        expected |= {f"{side}{part}" for part in ("Shoulder", "Arm", "ForeArm", "Wrist", "Hand")}
        expected |= {f"{side}{part}" for part in ("UpLeg", "Leg", "Foot")}
        for finger in ("Thumb", "Index", "Middle", "Ring", "Pinky"):
            expected |= {f"{side}InHand{finger}", *(f"{side}Hand{finger}{number}" for number in (1, 2, 3))}
    assert {name for name in position if not name.endswith("+")} == expected
    parents = {"Spine": "Hips", "Neck": "Spine", "LeftArm": "LeftShoulder", "RightHandPinky1": "RightInHandPinky"}
    for joint, parent in parents.items():
        apart = np.linalg.norm(position[joint] - position[parent], axis=-1)
        np.testing.assert_allclose(apart, np.linalg.norm(offsets[joint]), atol=1e-4)
    assert not offsets["Hips"].any(), "the root's place is in its channels alone"
    assert (position["LeftFoot"][:, 1] < position["LeftLeg"][:, 1]).all()
    assert (position["LeftLeg"][:, 1] < position["Hips"][:, 1]).all()


def test_bones_keep_their_length_whatever_the_estimator_says(tmp_path: Path) -> None:
    recording = synthesize(2, 25, 6)
    noise = np.random.default_rng(6).normal(0, 0.01, recording.xyz.shape).astype(np.float32)
    found, _, _ = written(tmp_path / "a.bvh", replace(recording, xyz=recording.xyz + noise))
    bones = np.linalg.norm(found - found[:, BODY.parents_or_self], axis=-1)
    assert np.ptp(bones, axis=0).max() < 1e-4


def test_bones_point_where_they_do_whatever_their_length(tmp_path: Path) -> None:
    """Random joints: no bone keeps its length or its angle to another, half turns included."""
    rng = np.random.default_rng(0)
    recording = Recording(rng.normal(0, 1, (20, 50, 3)), 30, "a")
    recording.xyz[0] *= 0  # all joints in one place
    recording.xyz[1, 3] = recording.xyz[1, 2] + [1, 0, 0]  # against the rest pose
    found, _, _ = written(tmp_path / "a.bvh", recording)
    for joint, parent in enumerate(BODY.parents):
        if parent >= 0:
            bone = found[1:, joint] - found[1:, parent]
            truth = (wanted(recording)[:, joint] - wanted(recording)[:, parent])[1:]
            cosine = (bone * truth).sum(-1) / np.linalg.norm(bone, axis=-1) / np.linalg.norm(truth, axis=-1)
            np.testing.assert_allclose(cosine, 1, atol=1e-6)
    assert np.isfinite(found).all()


def test_what_is_missing_keeps_its_direction(tmp_path: Path) -> None:
    truth = synthesize(1, 25, 2)
    confidence = truth.confidence.copy()
    confidence[5:10, 8:29] = 0
    confidence[:, 34:38] = 0  # a finger that is never seen
    slot = np.arange(truth.frames) + 2 * (np.arange(truth.frames) >= 15)
    found, _, _ = written(tmp_path / "a.bvh", replace(truth, confidence=confidence, slot=slot))
    assert len(found) == truth.frames + 2
    hand = found[:, 9] - found[:, 8]
    np.testing.assert_allclose(hand[4:10], np.tile(hand[4], (6, 1)), atol=1e-3)
    np.testing.assert_allclose(found[14:17], np.tile(found[14], (3, 1, 1)), atol=1e-3)
    finger = np.linalg.norm(np.diff(found[:, 34:38], axis=1), axis=-1)
    assert (finger > 1).all(), "as long as fingers are"


def test_what_it_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.bvh"
    recording = synthesize(1, 25, 0)
    with pytest.raises(FormatError, match="holds one recording, these are 2"):
        write(path, [recording, recording])
    with pytest.raises(FormatError, match="is 2D"):
        write(path, replace(recording, xyz=recording.xyz * np.float32([1, 1, 0]), dims=2))
    confidence = np.ones((recording.frames, 50), np.float32)
    confidence[:, NECK] = 0
    with pytest.raises(FormatError, match="never shows the neck"):
        write(path, replace(recording, confidence=confidence))
    assert not path.exists()


def test_phoenix(tmp_path: Path) -> None:
    """Bones there change their lengths: a centimetre on average is lost, and no direction."""
    for recording in read(shared_data("phoenix14t/dev.skels"), mirrored=True)[:2]:
        found, _, _ = written(tmp_path / "a.bvh", recording)
        assert np.linalg.norm(found - wanted(recording), axis=-1).mean() < 1.0
