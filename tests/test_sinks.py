"""Poses to other programs and from them: the VMC protocol, the Lab Streaming Layer, and plugins of anybody."""

import argparse
import dataclasses
import gc
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import zmq

from rtskel import Recording, RtskelError, Subscriber, read, wire
from rtskel.avatar import BONES, Motion, Rig
from rtskel.avatar.rotation import matrices
from rtskel.cli import main, plugins
from rtskel.sinks import Sink, SinkPlugin, forward
from rtskel.skeleton import NECK, UPPER_BODY_50, from_canonical
from rtskel.sources import Frame, Source, publish
from rtskel.training.synthesize import synthesize
from tests.shared_data import shared_data
from tests.sockets import TIMEOUT, RawReceiver, RefinedSender
from tests.test_avatar import beyond_the_shape, positions_of
from tests.test_exports import refined as recording
from tests.test_view import HEARTBEAT
from tests.test_view import refined as pose_of

J = UPPER_BODY_50.joints
END = wire.Event(stream="cam1", kind="end", epoch=HEARTBEAT.epoch, seq=20, time_ns=5)


def poses(stream="cam1", frames=20, **more):
    """The poses of a recording as a server publishes them."""
    made = recording(20)
    start = time.monotonic_ns()
    sent = [
        pose_of(stream, seq, fps=25.0, xyz=made.xyz[seq], source_time_ns=start + 40_000_000 * seq, **more)
        for seq in range(frames)
    ]
    return sent, made


class Kept(Sink):
    """Keeps what it gets."""

    def __init__(self):
        self.got = []
        self.closed = False

    def pose(self, pose):
        self.got.append((pose.stream, pose.lookahead, pose.seq))

    def end(self, stream):
        self.got.append((stream, "end"))

    def close(self):
        self.closed = True


@contextmanager
def served(*messages):
    """A server that says these things to the first one who subscribes, after a heartbeat."""
    with RefinedSender() as sender:

        def say():
            sender.wait_for_subscriptions()
            sender.send(HEARTBEAT, *messages)

        thread = threading.Thread(target=say)
        thread.start()
        yield sender
        thread.join()


def forwarded(sink, *messages, **options):
    with served(*messages) as sender, Subscriber(sender.endpoint) as subscriber:
        return forward(subscriber, sink, until_end=True, **options)


# --- plugins ----------------------------------------------------------------------------------------------------------


def test_a_sink_gets_the_longest_lookahead_and_the_ends():
    sink = Kept()
    sent = forwarded(sink, pose_of(lookahead=0), pose_of(), pose_of(seq=1), END)
    assert sink.got == [("cam1", 4, 0), ("cam1", 4, 1), ("cam1", "end")]
    assert sent == 2


def test_a_sink_gets_the_lookahead_that_was_asked_for():
    sink = Kept()
    assert forwarded(sink, pose_of(lookahead=0), pose_of(), END, lookahead=0) == 1
    assert sink.got == [("cam1", 0, 0), ("cam1", "end")]


def test_forwarding_ends_when_it_is_told_to():
    with RefinedSender() as sender, Subscriber(sender.endpoint) as subscriber:
        assert forward(subscriber, Kept(), running=lambda: False) == 0


@pytest.fixture
def installed(monkeypatch):
    """Makes a plugin of this module known under a name, as an installed package's would be."""

    def install(group, **values):
        points = {name: EntryPoint(name, value, group) for name, value in values.items()}
        monkeypatch.setattr(plugins, "found", lambda wanted: points if wanted == group else {})

    return install


KEPT = Kept()
PLUGIN = SinkPlugin("keep poses", "example:\n  rtskel send kept", lambda parser: None, lambda args: KEPT)


def test_anybodys_sink_is_found_by_its_entry_point(installed, capsys):
    installed("rtskel.sinks", kept="tests.test_sinks:PLUGIN")
    assert main(["send"]) == 0
    assert "rtskel send kept" in capsys.readouterr().out
    with served(pose_of(), END) as sender:
        assert main(["send", "kept", "--refined", sender.endpoint, "--until-end"]) == 0
    assert capsys.readouterr().err == "rtskel: 1 poses sent\n"
    assert KEPT.got == [("cam1", 4, 0), ("cam1", "end")]
    assert KEPT.closed


def test_a_plugin_that_cannot_be_loaded_is_one_line(installed, capsys):
    installed("rtskel.sinks", broken="tests.nowhere:PLUGIN")
    assert main(["send", "broken"]) == 2
    assert "send broken: tests.nowhere:PLUGIN cannot be loaded" in capsys.readouterr().err
    assert main(["send", "unknown"]) == 2
    assert "unknown 'unknown' (installed: broken)" in capsys.readouterr().err


def test_what_is_installed_is_listed_and_explained(capsys):
    for command, names in (("send", ["lsl", "vmc"]), ("receive", ["lsl"])):
        assert main([command]) == 0
        assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == names
        for name in names:
            with pytest.raises(SystemExit) as leave:
                main([command, name, "--help"])
            assert leave.value.code == 0
            assert f"rtskel {command} {name}" in capsys.readouterr().out.partition("example")[2]


class Numbers(Source):
    """Three frames, and a pause."""

    stream, fps, clock, axes = "numbers", 30.0, "unix", "RUA"

    def __init__(self):
        self.left = [Frame(np.full((J, 3), k, np.float32), time_ns=100 + k, seq=k) for k in (0, 1, 3)]
        self.left.insert(1, None)

    def frame(self, timeout):
        if not self.left:
            raise EOFError("no more")
        return self.left.pop(0)


def test_a_source_is_published_as_it_says():
    with RawReceiver() as server, Numbers() as source:
        assert publish(source, server.endpoint, wait=TIMEOUT) == 3
        *frames, end = server.take(4)
    assert [(frame.seq, frame.time_ns) for frame in frames] == [(0, 100), (1, 101), (3, 103)]
    (about,) = {(frame.stream, frame.fps, frame.clock, frame.axes) for frame in frames}
    assert about == ("numbers", 30.0, "unix", "RUA")
    assert isinstance(end, wire.StreamEnd)


# --- VMC --------------------------------------------------------------------------------------------------------------


def said(packet):
    """Address and values of each message of a packet, by python-osc."""
    bundle = pytest.importorskip("pythonosc.osc_bundle")
    assert bundle.OscBundle.dgram_is_bundle(packet), "one bundle a pose"
    return [(message.address, list(message)) for message in bundle.OscBundle(packet)]


class Marionette:
    """A receiver of the VMC protocol. A context manager."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.settimeout(TIMEOUT)
        self.port = self.socket.getsockname()[1]

    def packet(self):
        """What one packet says: address and values of each message."""
        return said(self.socket.recv(1 << 16))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def vmc(port, **options):
    from rtskel.sinks.vmc import VmcSink

    return VmcSink(port=port, **options)


PARENTS = {"Spine": "Hips", "Head": "Spine"}
for _side in ("Left", "Right"):
    PARENTS |= {
        f"{_side}Shoulder": "Spine",
        f"{_side}UpperArm": f"{_side}Shoulder",
        f"{_side}LowerArm": f"{_side}UpperArm",
    }
    PARENTS[f"{_side}Hand"] = f"{_side}LowerArm"
    for _finger in ("Thumb", "Index", "Middle", "Ring", "Little"):
        PARENTS[f"{_side}{_finger}Proximal"] = f"{_side}Hand"
        PARENTS[f"{_side}{_finger}Intermediate"] = f"{_side}{_finger}Proximal"
        PARENTS[f"{_side}{_finger}Distal"] = f"{_side}{_finger}Intermediate"


def unity_pose(messages):
    """What Unity does with a packet: world position of every bone, in its own axes."""
    bones = {values[0]: values[1:] for address, values in messages if address == "/VMC/Ext/Bone/Pos"}
    places, turns = {}, {}
    for name in ("Hips", *PARENTS):
        at, own = np.array(bones[name][:3]), matrices(np.array(bones[name][3:]))
        parent = PARENTS.get(name)
        places[name] = at if parent is None else places[parent] + turns[parent] @ at
        turns[name] = own if parent is None else turns[parent] @ own
    return places


def test_an_avatar_moved_by_vmc_stands_where_the_person_stood():
    sent, made = poses(axes="RDT")
    metres = from_canonical(made.canonical(), "LUT").astype(float)  # Unity's axes, of somebody who faces +z
    with Marionette() as unity, vmc(unity.port) as sink:
        for seq, pose in enumerate(sent):
            sink.pose(pose)
            messages = unity.packet()
            assert [address for address, _ in messages[:3]] == ["/VMC/Ext/OK", "/VMC/Ext/T", "/VMC/Ext/Root/Pos"]
            assert messages[0][1] == [1]
            assert messages[1][1][0] == pytest.approx(seq / 25, abs=1e-5)
            assert {values[0] for _, values in messages[3:]} == {"Hips", *PARENTS}
            places = unity_pose(messages)
            for name, bone in zip(plugin_names(), BONES, strict=True):
                if bone.joint >= 0:  # in proportions of the avatar's own: here nearly the person's
                    got = places[name] - places["Head"]
                    assert np.linalg.norm(got - (metres[seq, bone.joint] - metres[seq, 1])) < 0.002
    assert places["Hips"][1] == pytest.approx(0.9, abs=0.1)


def plugin_names():
    from rtskel.sinks.vmc import NAMES

    return NAMES


def test_vmc_moves_one_person_until_he_goes(capsys):
    one, _ = poses(frames=2)
    two, _ = poses("cam2", frames=2)
    with Marionette() as unity, vmc(unity.port) as sink:
        for pose in (one[0], two[0], two[1]):
            sink.pose(pose)
        sink.end("cam2")
        assert len(unity.packet()) == 3 + len(BONES)
        unity.socket.settimeout(0)
        with pytest.raises(BlockingIOError):
            unity.packet()
        sink.end("cam1")
        unity.socket.settimeout(TIMEOUT)
        sink.pose(two[0])
        unity.packet()
    assert capsys.readouterr().err == "rtskel: vmc moves one person, cam1: cam2 is left out\n"


def test_vmc_goes_on_without_a_receiver_and_says_what_is_wrong():
    (pose, *_), _ = poses(frames=1)
    with Marionette() as unity:
        port = unity.port
    with vmc(port) as sink:
        for _ in range(3):
            sink.pose(pose)
        with pytest.raises(RtskelError, match="skeleton 'two'"):
            sink.pose(dataclasses.replace(pose, skeleton="two"))
    with pytest.raises(RtskelError, match=r"no\.such\.host\.invalid:1"):
        vmc(1, host="no.such.host.invalid")


def captured(name):
    """A whole recording of motion capture, the frames that have all joints; or of an estimator, lifted."""
    if name == "phoenix14t":
        return max(read(shared_data("phoenix14t/dev.skels"), mirrored=True), key=lambda each: each.frames)
    with np.load(shared_data(f"mocap_hands/{name}.npz")) as data:
        frames = int(data["length"][0])
        whole = ~data["missing"][:frames].any(axis=1)
        return Recording(data["xyz"][:frames][whole].astype(np.float32), float(data["fps"][0]), name)


def jittery():
    """A recording whose bones change their lengths by some mm from frame to frame."""
    made = synthesize(12, 25, 7)
    noise = np.random.default_rng(7).normal(0, 0.004, made.xyz.shape).astype(np.float32)
    return dataclasses.replace(made, xyz=made.xyz + noise)


@pytest.mark.parametrize("kind", ["jittery", "unoc", "phoenix14t"])
def test_rotations_of_a_whole_recording_give_its_positions_back(kind):
    """What a receiver finds by forward kinematics of the packets alone, on the person's median bones: off by no more
    than the recording's own changes of length, and 1 mm."""
    made = jittery() if kind == "jittery" else captured(kind)
    xyz = positions_of(made)
    first = pose_of(fps=made.fps, axes=made.axes, mirrored=made.mirrored)
    rotation = np.empty((made.frames, len(BONES), 3, 3))
    with Marionette() as unity, vmc(unity.port) as sink:
        for seq in range(made.frames):
            sink.pose(dataclasses.replace(first, seq=seq, xyz=made.xyz[seq]))
            turns = {values[0]: values[4:] for address, values in unity.packet() if address == "/VMC/Ext/Bone/Pos"}
            turned = np.array([turns[name] for name in plugin_names()])
            rotation[seq] = matrices(turned * (1, -1, -1, 1))  # out of Unity's axes
    motion = Motion(rotation, xyz[:, NECK], Rig.of(xyz, np.ones(xyz.shape[:2], bool)))
    assert made.frames > 100
    assert beyond_the_shape(xyz, motion).max() < 1.0  # mm


def test_vmc_does_not_grow():
    """Two minutes at 60 packets a second, by the poses' own clock: every packet comes, and memory stays."""
    sent, _ = poses()
    page = resource.getpagesize()
    blocks, resident = [], []
    with Marionette() as unity, vmc(unity.port) as sink:
        for seq in range(7200):
            pose = dataclasses.replace(sent[seq % len(sent)], seq=seq, source_time_ns=round(seq * 1e9 / 60))
            sink.pose(pose)
            packet = unity.socket.recv(1 << 16)
            if seq % 900 == 899:
                gc.collect()
                blocks.append(sys.getallocatedblocks())
                resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
    assert dict(said(packet))["/VMC/Ext/T"] == pytest.approx([7199 / 60], abs=1e-4)
    # The widths of the first 250 poses are kept; then a single object or 200 bytes a packet would be seen.
    assert blocks[-1] - blocks[1] < 1000, blocks
    assert resident[-1] - resident[1] < 1 << 20, resident


def test_vmc_from_the_command_line():
    sent, _ = poses(frames=3)
    with Marionette() as unity, served(*sent, END) as sender:
        assert main(["send", "vmc", "--port", str(unity.port), "--refined", sender.endpoint, "--until-end"]) == 0
        assert len([unity.packet() for _ in sent]) == 3


# --- LSL --------------------------------------------------------------------------------------------------------------

INLET = """
import json, sys, pylsl
found = pylsl.resolve_byprop("name", sys.argv[1], 1, 20)
inlet = pylsl.StreamInlet(found[0])
inlet.open_stream(20)
info = inlet.info(20)
channel, labels = info.desc().child("channels").child("channel"), []
for _ in range(info.channel_count()):
    labels.append([channel.child_value(name) for name in ("label", "type", "unit")])
    channel = channel.next_sibling("channel")
lookahead = info.desc().child("setup").child_value("lookahead_frames")
print(json.dumps({"labels": labels, "rate": info.nominal_srate(), "lookahead": lookahead}), flush=True)
for _ in range(int(sys.argv[2])):
    print(json.dumps(inlet.pull_sample(20)), flush=True)
"""


def test_an_inlet_in_another_process_gets_every_pose_once_with_its_time():
    pytest.importorskip("pylsl")
    from rtskel.sinks.lsl import LslSink

    name = f"test-{time.monotonic_ns()}"
    sent = [dataclasses.replace(pose, about=wire.About(unit="mm")) for pose in poses(name)[0]]
    with LslSink("") as sink:
        sink.pose(sent[0])
        outlet = sink._outlets[name]
        command = [sys.executable, "-P", "-c", INLET, name, str(len(sent) - 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as inlet:
            about = json.loads(inlet.stdout.readline())
            assert outlet.wait_for_consumers(TIMEOUT)
            for pose in sent[1:]:
                sink.pose(pose)
            samples = [json.loads(line) for line in inlet.stdout]
        assert len(samples) == len(sent) - 1
    for pose, (values, stamp) in zip(sent[1:], samples, strict=True):
        got = np.array(values, np.float32).reshape(J, 4)
        np.testing.assert_array_equal(got[:, :3], pose.xyz)
        np.testing.assert_array_equal(got[:, 3], pose.confidence)
        assert abs(stamp - pose.source_time_ns / 1e9) < 1e-3
    assert about["labels"][:2] == [["nose_x", "PositionX", "millimeters"], ["nose_y", "PositionY", "millimeters"]]
    assert (about["rate"], about["lookahead"]) == (25.0, "4")


def test_times_of_other_clocks_are_brought_to_that_of_lsl():
    pytest.importorskip("pylsl")
    from rtskel.sinks.lsl import LslSink

    sink = LslSink()
    now = time.monotonic_ns()
    unix = dataclasses.replace(pose_of(), source_clock="unix", source_time_ns=time.time_ns() - 200_000_000)
    assert sink._stamp(unix) == pytest.approx((now - 200_000_000) / 1e9, abs=0.05)
    camera = dataclasses.replace(pose_of(), source_clock="camera", source_time_ns=1_000_000_000, receive_ns=now)
    late = dataclasses.replace(camera, source_time_ns=2_000_000_000, receive_ns=now + 1_500_000_000)
    assert sink._stamp(camera) == pytest.approx(now / 1e9)
    assert sink._stamp(late) == pytest.approx(now / 1e9 + 1), "a frame that was read late was not taken late"


def outlet(pylsl, name, labels, rate=25.0, unit="", **setup):
    info = pylsl.StreamInfo(name, "MoCap", len(labels), rate, "float32", name)
    channels = info.desc().append_child("channels")
    for label in labels:
        channel = channels.append_child("channel")
        channel.append_child_value("label", label)
        if unit:
            channel.append_child_value("unit", unit)
    for key, value in setup.items():
        info.desc().append_child("setup").append_child_value(key, value)
    return pylsl.StreamOutlet(info)


def test_poses_of_an_outlet_are_published():
    pylsl = pytest.importorskip("pylsl")
    from rtskel.sources.lsl import LslSource

    name = f"tracker {time.monotonic_ns()}"
    labels = [
        "something",
        "neck_x",
        "neck_y",
        "neck_z",
        "neck_confidence",
        "nose_x",
        "nose_y",
        "nose_z",
        "nose_confidence",
    ]
    made = outlet(pylsl, name, labels, axes="RUA", unit="millimeters")
    with LslSource(name, timeout=TIMEOUT) as source, RawReceiver() as server:
        stop = []
        arguments = {"wait": TIMEOUT, "running": lambda: not stop}
        thread = threading.Thread(target=publish, args=(source, server.endpoint), kwargs=arguments)
        thread.start()
        assert made.wait_for_consumers(TIMEOUT)
        stamp = pylsl.local_clock()
        made.push_sample([9, 1, 2, 3, 0.5, 4, 5, np.nan, 1], stamp)
        frame = server.next()
        stop.append(True)
        thread.join()
    assert frame.stream == name.replace(" ", "-")
    assert (frame.axes, frame.fps, frame.clock, frame.seq) == ("RUA", 25.0, "monotonic", None)
    assert frame.about == wire.About(unit="mm")
    assert abs(frame.time_ns / 1e9 - stamp) < 1e-3
    np.testing.assert_array_equal(frame.xyz[1], [1, 2, 3])
    assert frame.confidence[1] == 0.5
    assert np.flatnonzero(frame.confidence).tolist() == [1], "a NaN and joints without channels are missing"


def test_receiving_ends_when_the_outlet_goes(capsys):
    pylsl = pytest.importorskip("pylsl")
    name = f"tracker-{time.monotonic_ns()}"
    kept = [outlet(pylsl, name, ["neck_x", "neck_y"])]

    def push():
        assert kept[0].wait_for_consumers(TIMEOUT)
        for k in range(3):
            kept[0].push_sample([k, 0])
        frames.extend(server.take(3))
        kept.clear()

    frames = []
    with RawReceiver() as server:
        thread = threading.Thread(target=push)
        thread.start()
        ends = ["--raw", server.endpoint, "--stream", "mine"]
        assert main(["receive", "lsl", "--name", name, *ends]) == 0
        thread.join()
    assert [(frame.stream, frame.dims, frame.xyz[1, 0]) for frame in frames] == [("mine", 2, k) for k in range(3)]
    assert capsys.readouterr().err == "rtskel: 3 frames sent\n"


def test_outlets_that_are_no_poses_are_one_line():
    pylsl = pytest.importorskip("pylsl")
    from rtskel.sources.lsl import LslSource

    name = f"eeg-{time.monotonic_ns()}"
    kept = [outlet(pylsl, name, ["Fp1", "Fp2"]), outlet(pylsl, f"{name}-0", ["nose_x"], rate=0.0)]
    with pytest.raises(RtskelError, match=rf"'{name}'.*nose_x"):
        LslSource(name, timeout=TIMEOUT)
    with pytest.raises(RtskelError, match="states no rate"):
        LslSource(f"{name}-0", timeout=TIMEOUT)
    with pytest.raises(RtskelError, match="no outlet with name='nobody'"):
        LslSource("nobody", timeout=0.1)
    assert len(kept) == 2


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pylsl", None)
    for command, name in (("send", "lsl"), ("receive", "lsl")):
        parser, plugin = plugins.parser_of(command, f"rtskel.{'sinks' if command == 'send' else 'sources'}", name)
        assert isinstance(parser, argparse.ArgumentParser)
        with pytest.raises(RtskelError, match=rf"pip install 'rtskel\[{name}\]'"):
            plugin.open(parser.parse_args([]))


def test_send_says_which_server_it_waits_for():
    with zmq.Context() as context, context.socket(zmq.XPUB) as nobody:  # a port on which nobody says anything
        port = nobody.bind_to_random_port("tcp://127.0.0.1")
        endpoint = f"tcp://127.0.0.1:{port}"
        command = [sys.executable, "-P", "-m", "rtskel", "send", "vmc", "--refined", endpoint]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as sending:
            assert sending.stderr.readline() == f"rtskel: waiting for a server at {endpoint}\n"
            sending.send_signal(signal.SIGINT)
            assert sending.wait(TIMEOUT) == 130
