"""What recordings become for other programs, read back by those programs' own libraries where there is one."""

import json
import sys

import numpy as np
import pytest

from rtskel import FormatError, Recording, read, write
from rtskel.avatar import BONES
from rtskel.avatar.rotation import matrices
from rtskel.cli import main
from rtskel.formats import to_frame, to_xarray
from rtskel.formats.vrma import motion
from rtskel.skeleton import UPPER_BODY_50
from tests.test_avatar import moving

NAMES = UPPER_BODY_50.names
J = len(NAMES)


def recording(frames=20, name="cam1", **more):
    """Somebody who moves, 0.37 m wide, in canonical axes."""
    xyz = moving(frames).positions() * 3 * 0.37 * (1, -1, 1)
    return Recording(xyz.astype(np.float32), 25.0, name, **more)


def refined(frames=20, name="cam1", **more):
    confidence = np.ones((frames, J), np.float32)
    confidence[5, 8:29] = 0
    values = {"confidence": confidence, "sigma": 0.01 * np.ones((frames, J), np.float32), "lookahead": 4}
    return recording(frames, name, flags=np.arange(frames, dtype=np.int32), **values | more)


# --- .vrma, .glb ------------------------------------------------------------------------------------------------------


def gltf(path):
    """The animation of a file by pygltflib: the document, and what each channel's accessors hold."""
    library = pytest.importorskip("pygltflib")
    document = library.GLTF2().load_binary(str(path))
    blob = document.binary_blob()

    def values(number):
        accessor = document.accessors[number]
        view = document.bufferViews[accessor.bufferView]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
        found = np.frombuffer(blob, "<f4", accessor.count * width, view.byteOffset).reshape(accessor.count, width)
        assert found.nbytes == view.byteLength
        return found

    (animation,) = document.animations
    channels = {}
    for channel in animation.channels:
        sampler = animation.samplers[channel.sampler]
        channels[channel.target.node, channel.target.path] = values(sampler.input)[:, 0], values(sampler.output)
    return document, channels


@pytest.mark.parametrize("suffix", ["vrma", "glb"])
def test_a_gltf_reader_poses_the_bones_so_that_the_positions_come_back(tmp_path, suffix):
    made = recording()
    path = tmp_path / f"a.{suffix}"
    write(path, made)
    document, channels = gltf(path)
    about = document.extensions["VRMC_vrm_animation"]
    assert about["specVersion"] == "1.0"
    nodes = {name: bone["node"] for name, bone in about["humanoid"]["humanBones"].items()}
    assert set(nodes) == {bone.name for bone in BONES}
    parents = {child: number for number, node in enumerate(document.nodes) for child in node.children or []}

    world, places = {}, {}
    for bone in BONES:  # as any reader of glTF would, knowing nothing of rtskel
        node = nodes[bone.name]
        times, turns = channels[node, "rotation"]
        np.testing.assert_allclose(times, np.arange(20) / 25, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(turns, axis=-1), 1, atol=1e-6)
        assert ((turns[1:] * turns[:-1]).sum(axis=-1) > 0).all(), "the short way from frame to frame"
        at = np.array(document.nodes[node].translation)
        own = matrices(turns.astype(float))
        if node in parents:
            places[node] = places[parents[node]] + world[parents[node]] @ at
            world[node] = world[parents[node]] @ own
        else:
            places[node], world[node] = channels[node, "translation"][1], own
    assert places[nodes["hips"]][0, 1] == pytest.approx(2.4 * 0.37, rel=0.01)
    metres = made.xyz * (1, -1, 1)
    for bone in BONES[2:]:
        joint = metres[:, bone.joint] - metres[:, NAMES.index("neck")]
        got = places[nodes[bone.name]] - places[nodes["head"]]
        np.testing.assert_allclose(got, joint, atol=1e-4)


def test_vrma_holds_one_recording_in_three_dimensions(tmp_path):
    for wrong, words in (
        ([recording(), recording(name="two")], "holds one recording, these are 2"),
        (flat(), "is 2D"),
        (Recording(np.full((2, J, 3), np.nan, np.float32), 25.0, "nobody"), "never shows the neck"),
    ):
        with pytest.raises(FormatError, match=words):
            write(tmp_path / "a.vrma", wrong)
    assert not list(tmp_path.iterdir())


def flat():
    xyz = recording().xyz.copy()
    xyz[..., 2] = 0
    return Recording(xyz, 25.0, "flat", dims=2, unit="px")


def test_vrma_of_a_recording_with_holes_holds_the_pose(tmp_path):
    made = refined(slot=np.r_[0:10, 15:25].astype(np.int64))
    write(tmp_path / "a.vrma", made)
    _, channels = gltf(tmp_path / "a.vrma")
    times, turns = channels[5, "rotation"]
    assert len(times) == 25
    assert (turns[9] == turns[10:15]).all()
    assert motion(tmp_path, made).rotation.shape[0] == 25


def test_vrma_from_the_command_line(tmp_path):
    write(tmp_path / "in.npz", refined())
    assert main(["convert", str(tmp_path / "in.npz"), str(tmp_path / "out.vrma")]) == 0
    assert (tmp_path / "out.vrma").read_bytes()[:4] == b"glTF"


# --- .mcap ------------------------------------------------------------------------------------------------------------


def messages(path):
    reader = pytest.importorskip("mcap.reader")
    with path.open("rb") as file:
        return [
            (channel.topic, schema.name, message.log_time, json.loads(message.data))
            for schema, channel, message in reader.make_reader(file).iter_messages(log_time_order=False)
        ]


def test_mcap_is_read_by_its_own_library(tmp_path):
    times = 1_700_000_000_000_000_000 + np.arange(20) * 40_000_000
    made = refined(time_ns=times.astype(np.int64))
    raw = recording(confidence=made.confidence)
    write(tmp_path / "a.mcap", [raw, made])
    found = messages(tmp_path / "a.mcap")
    topics = ["/cam1/raw/pose", "/cam1/raw/scene", "/cam1/L4/pose", "/cam1/L4/scene"]
    assert [topic for topic, *_ in found[::20]][:1] == topics[:1]
    assert {topic for topic, *_ in found} == set(topics)
    poses = [(time, data) for topic, name, time, data in found if topic == topics[2] and name == "rtskel.Pose"]
    assert [time for time, _ in poses] == times.tolist()
    np.testing.assert_array_equal(np.array([data["xyz"] for _, data in poses], np.float32), made.xyz)
    np.testing.assert_array_equal(np.array([data["sigma"] for _, data in poses], np.float32), made.sigma)
    assert [data["flags"] for _, data in poses] == list(range(20))
    assert poses[0][1]["lookahead"] == 4
    assert [time for topic, _, time, _ in found if topic == topics[0]] == [40_000_000 * slot for slot in range(20)]

    scenes = {topic: [data for t, name, _, data in found if t == topic] for topic in (topics[1], topics[3])}
    (entity,) = scenes[topics[3]][5]["entities"]
    assert entity["timestamp"] == {"sec": 1_700_000_000, "nsec": 200_000_000}
    assert len(entity["spheres"]) == J
    assert len(entity["lines"][0]["points"]) == 2 * (J - 1)
    assert len({tuple(sphere["color"].values()) for sphere in entity["spheres"]}) == 2, "filled in joints stand out"
    assert len(scenes[topics[1]][5]["entities"][0]["spheres"]) == J - 21, "raw joints that are missing are not drawn"
    up = entity["spheres"][0]["pose"]["position"]["z"] - entity["spheres"][1]["pose"]["position"]["z"]
    assert up > 0, "the nose is above the neck"


def test_mcap_without_its_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    with pytest.raises(FormatError, match=r"a\.mcap.*pip install 'rtskel\[mcap\]'"):
        write(tmp_path / "a.mcap", recording())


# --- pandas, xarray ---------------------------------------------------------------------------------------------------


def test_a_frame_has_a_row_for_each_joint():
    pytest.importorskip("pandas")
    made = refined(slot=np.r_[0:10, 15:25].astype(np.int64))
    table = to_frame(made)
    assert list(table.columns) == ["slot", "time", "joint", "x", "y", "z", "confidence", "sigma", "filled"]
    assert len(table) == 20 * J
    wrist = table[table.joint == "left_wrist"]
    np.testing.assert_array_equal(wrist[["x", "y", "z"]].to_numpy(), made.xyz[:, NAMES.index("left_wrist")])
    assert wrist.time.tolist() == [slot / 25 for slot in made.slots]
    assert table.filled.sum() == 21
    assert (table.attrs["fps"], table.attrs["lookahead"]) == (25.0, 4)
    raw = to_frame(recording(confidence=made.confidence))
    assert raw.x.isna().sum() == 21
    assert "sigma" not in raw
    table.loc[:, "x"] = 0
    assert made.xyz[..., 0].any(), "a copy"


def test_a_data_set_is_as_movement_has_it():
    pytest.importorskip("xarray")
    one, two = refined(name="one", slot=np.r_[0:10, 15:25].astype(np.int64)), refined(10, "two")
    data = to_xarray(one, two)
    assert data.position.dims == ("time", "space", "keypoints", "individuals")
    assert data.confidence.dims == ("time", "keypoints", "individuals")
    assert dict(data.sizes) == {"time": 25, "space": 3, "keypoints": J, "individuals": 2}
    person = data.position.sel(individuals="one", keypoints="right_wrist")
    np.testing.assert_array_equal(person.isel(time=one.slots).to_numpy(), one.xyz[:, NAMES.index("right_wrist")])
    assert bool(person.isel(time=slice(10, 15)).isnull().all())
    assert bool(data.position.sel(individuals="two").isel(time=slice(10, None)).isnull().all())
    assert (data.attrs["ds_type"], data.attrs["fps"], data.attrs["time_unit"]) == ("poses", 25.0, "seconds")
    assert float(data.time[5]) == 0.2
    assert to_xarray(recording()).attrs["name"] == ""


def test_data_sets_of_what_does_not_belong_together():
    pytest.importorskip("xarray")
    with pytest.raises(FormatError, match=r"'two'.*lookahead"):
        to_xarray(recording(name="one"), refined(name="two"))
    with pytest.raises(FormatError, match="names of their own"):
        to_xarray(recording(), recording())
    with pytest.raises(FormatError, match="one or several"):
        to_xarray()


@pytest.mark.parametrize(("package", "convert"), [("pandas", to_frame), ("xarray", to_xarray)])
def test_an_absent_package_is_named(package, convert, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FormatError, match=rf"needs {package}: pip install 'rtskel\[data\]'"):
        convert(recording())


def test_what_is_only_written_is_not_read(tmp_path):
    write(tmp_path / "a.vrma", recording())
    with pytest.raises(FormatError, match="vrma"):
        read(tmp_path / "a.vrma")
