"""From publishers through a server to readers: what is taken, what is refused, what is missed, and who may do it."""

import threading
import time

import numpy as np
import pytest

from rtskel import wire
from rtskel.client import GroupPublisher, Publisher, ServerBack, Subscriber
from rtskel.curve import ClientKeys, ServerKeys, keygen
from rtskel.errors import AccessError, ServeError
from rtskel.serve import ServeConfig, Server
from rtskel.serve import kept as kept_module
from rtskel.serve.kept import Kept
from rtskel.serve.reports import SECOND
from tests.sockets import Cable, no_socket_left_open
from tests.test_serve import ANY, PATIENCE, BlendEngine, Reader, publisher, recording, serving


@pytest.fixture(autouse=True)
def _sockets(monkeypatch):
    with no_socket_left_open(monkeypatch):
        yield


class SlowEngine(BlendEngine):
    """Takes its time."""

    def run(self, x, missing, positions):
        time.sleep(0.01)
        return super().run(x, missing, positions)


# --- what is taken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [True, False])
def test_a_publisher_ends_when_the_server_has_taken_everything(block):
    config = {"receive_queue": 10, "max_waiting": 16}
    with serving(SlowEngine(), config=config, behind_s=PATIENCE) as server, Reader(server) as reader:
        with publisher(server, "a", linger=PATIENCE, queue=2000) as first, first.sibling("b") as second:
            for pose in recording(400):
                for sender in first, second:
                    assert sender.send(pose, block=block)
        # At the moment at which it has ended.
        assert server._reading.frames == 800
        for sender in first, second:
            assert (sender.sent, sender.unconfirmed, sender.dropped) == (401, 0, 0)
        reader.until_ended(2)
    assert [pose.seq for pose in reader.select("b", 4)] == [*range(400)]


def test_what_a_server_took_that_ended_first_is_not_missed():
    sender = None
    try:
        with serving() as server, Reader(server) as reader:
            sender = publisher(server, "a")
            for pose in recording(10):
                assert sender.send(pose)
            sender.end()
            reader.until_ended(1)
    finally:
        if sender is not None:
            sender.close()
    assert (sender.sent, sender.unconfirmed, sender.dropped) == (11, 0, 0)


@pytest.mark.parametrize(
    ("sent", "options", "reason", "said"),
    [
        ({"xyz": recording(1)[0, :, :2]}, {}, "flat", "2D poses"),
        ({"stream": "b"}, {"max_streams": 1}, "full", "max_streams"),
        ({"xyz": np.zeros((21, 3), np.float32), "skeleton": "hand-21"}, {}, "skeleton", "hand-21"),
    ],
)
def test_what_the_server_refuses_is_said_on_both_sides(sent, options, reason, said, caplog):
    sent = {"stream": "a", "xyz": recording(1)[0]} | sent
    xyz = sent.pop("xyz")
    with serving(**options) as server, publisher(server, "first") as first:
        first.send(recording(1)[0], block=True)
        with Publisher(server.raw_endpoint, fps=25, **sent) as sender:
            sender.wait_for_subscriber(PATIENCE)
            for _ in range(5):
                sender.send(xyz)
        assert sender.refusals
        assert not first.refusals
    lines = [record for record in caplog.records if said in record.getMessage()]
    assert {record.name for record in lines} == {"rtskel.client", "rtskel.serve"}
    assert len([record for record in lines if record.name == "rtskel.serve"]) == 1, "once, not with every frame"


def test_answers_go_to_publishers_that_ask():
    with serving() as server:
        with publisher(server, "a") as sender:
            for pose in recording(5):
                sender.send(pose)
            while sender._uplink.heartbeat is None:
                sender._uplink.socket.poll(100)
                assert sender.has_subscriber
        assert sender._uplink.heartbeat.epoch == server.epoch


def test_questions_are_bounded_and_what_is_none_is_left_out():
    with Server(ServeConfig(raw=ANY, refined=ANY), BlendEngine()) as server:
        sockets, refused = server._sockets, []
        question = wire.encode(wire.Sync(1, 2))[1]
        for body in (question, question[:-1], b"", wire.encode(wire.Sync(3, 4))[1]):
            sockets._ask(body, 0, -1, lambda *why: refused.append(why))
        assert sockets._asked == {1: 2, 3: 4}
        assert [kind for _, kind, *_ in refused] == ["malformed", "malformed"]
        for client in range(1000):
            sockets._ask(wire.encode(wire.Sync(client, 1))[1], 0, -1, None)
        assert len(sockets._asked) == 256


def test_what_is_kept_is_bounded_and_sent_again_in_order(monkeypatch):
    kept = Kept()
    pose, event, other = wire.refined_topic("a", 4), wire.event_topic("a"), wire.refined_topic("b", 4)
    kept.add([(event, b"start")], 0)
    for k in range(10):
        kept.add([(pose, b"%d" % k), (other, b"x"), (wire.refined_batch_topic(4), b"all")], SECOND * k)
    kept.add([(event, b"end")], 9 * SECOND)
    asked = [wire.again_topic(reader, prefix) for reader, prefix in [("r", event), ("r", pose), ("s", pose[:13])]]
    for topic in (*asked, b"rts1/again/r/rts1/heartbeat/", b"rts1/again/", b"rts1/again/r", b"rts1/again//" + pose):
        kept.ask(topic)
    assert kept.answer_due() == 0
    answers = [*kept.answers(9 * SECOND, b"beat")]
    r_event, r_pose, s = asked
    assert [(topic, body) for topic, body in answers if topic != s] == [
        *((r_pose, b"%d" % k) for k in (7, 8, 9)),
        (r_event, b"end"),
        (r_event, b"beat"),
        (r_pose, b"beat"),
    ]
    assert [body for topic, body in answers if topic == s] == [b"7", b"x", b"8", b"x", b"9", b"x", b"beat"]
    assert kept.answer_due() == float("inf")
    kept.ask(asked[0])
    assert kept.answer_due() > 9 * SECOND, "not at once"
    assert not [*kept.answers(9 * SECOND, b"beat")]
    monkeypatch.setattr(kept_module, "MAX_KEPT", 1000)
    for k in range(100):
        kept.add([(pose, bytes(100))], 9 * SECOND + k)
    assert len(kept._sent) == 10


# --- readers that have missed something -------------------------------------------------------------------------------


def read(subscriber, last):
    """The slots that come, up to the last one."""
    got = []
    while not got or got[-1] < last:
        message = subscriber.recv(PATIENCE)
        got.extend([message.seq] * isinstance(message, wire.RefinedPose))
    return got


def test_a_reader_whose_connection_broke_gets_what_it_missed():
    xyz = recording(80)
    with (
        serving() as server,
        Cable(server.refined_endpoint) as cable,
        publisher(server) as sender,
        Subscriber(cable.endpoint, lookahead=0) as subscriber,
    ):
        subscriber.wait_for_server(PATIENCE)
        for pose in xyz[:40]:
            sender.send(pose, block=True)
        assert read(subscriber, 39) == [*range(40)]
        cable.cut()
        for pose in xyz[40:]:
            sender.send(pose, block=True)
        sender.end()
        while server._table.frames_out < 160:  # before it is connected again
            threading.Event().wait(0.001)
        assert read(subscriber, 79) == [*range(40, 80)]
        assert not subscriber.lost
        while not isinstance(message := subscriber.recv(PATIENCE), wire.Event):
            pass
        assert message.kind == "end"


def test_a_new_server_is_read_from_its_first_pose():
    xyz = recording(80)
    ports = {}
    with serving() as server:
        ports = {"raw": server.raw_endpoint, "refined": server.refined_endpoint}
        subscriber = Subscriber(server.refined_endpoint, lookahead=0)
        subscriber.wait_for_server(PATIENCE)
        sender = publisher(server)
        sender.send(xyz[0], block=True)
        while not isinstance(first := subscriber.recv(PATIENCE), wire.RefinedPose):
            pass
    with serving(config=ports) as again, sender, subscriber:
        for pose in xyz:
            sender.send(pose, block=True)
        while again._table.frames_out < 2 * 76:  # all of it is out before the reader is there
            if sender.has_subscriber:  # what the server before had not taken is sent again when the publisher is used
                sender._uplink._send_waiting(0.0)
            threading.Event().wait(0.01)
        came = []
        while not came or not isinstance(came[-1], wire.RefinedPose) or came[-1].seq < 75:
            came.append(subscriber.recv(PATIENCE))
    poses = [message for message in came if isinstance(message, wire.RefinedPose) and message.epoch != first.epoch]
    assert [pose.seq for pose in poses] == [*range(76)]
    assert wire.Flag.RESET in poses[0].flags
    assert ServerBack(again.epoch, restarted=True) in came
    assert "start" in [message.kind for message in came if isinstance(message, wire.Event)]
    assert not subscriber.lost


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    keygen(tmp_path, ["ann", "ben"])
    return tmp_path


def test_an_id_belongs_to_the_key_that_first_used_it(folder):
    ann, ben = (ClientKeys.load(folder / name) for name in ("ann", "ben"))
    xyz = recording(20)
    with (
        serving(config={"keys": ServerKeys.load(folder / "server")}) as server,
        Reader(server, keys=ann) as reader,
        publisher(server, keys=ann) as owner,
        publisher(server, keys=ben) as thief,
        GroupPublisher(server.raw_endpoint, group="room", fps=25, keys=ben, wait=PATIENCE) as crowd,
    ):
        owner.send(xyz[0], block=True)
        reader.until(lambda reader: reader.poses)  # it was the first one
        for pose in xyz[1:]:
            owner.send(pose, block=True)
            thief.send(pose + 1)
            crowd.send(["b", "a"], np.stack([pose, pose + 1]))
        owner.end()
        reader.until_ended()
        reader.until_counted(forbidden=38)
    reader.check("a", xyz, range(20), 20)
    assert not reader.select("b", 0)
    assert "belongs to another client's key" in reader.errors("a")[0]


def test_a_removed_key_is_out_at_once(folder):
    ann, ben = (ClientKeys.load(folder / name) for name in ("ann", "ben"))
    pose = recording(1)[0]
    with (
        serving(config={"keys": ServerKeys.load(folder / "server"), "heartbeat_s": 0.05}) as server,
        Reader(server, keys=ann) as reader,
        Reader(server, keys=ben) as outsider,
        publisher(server, "a", keys=ann) as stays,
        publisher(server, "b", keys=ben, linger=0) as goes,
    ):
        stays.send(pose, block=True)
        goes.send(pose, block=True)
        outsider.until(lambda reader: len(reader.poses) == 2)
        (folder / "server" / "clients" / "ben.key").unlink()
        with pytest.raises(AccessError, match="not on the server's list"):
            outsider.until(lambda reader: False)
        while goes.has_subscriber:
            goes._uplink.socket.poll(10)
        with pytest.raises(AccessError, match="not on the server's list"):
            goes.wait_for_subscriber(PATIENCE)
        reader.until_counted(refused=2)
        reader.until(lambda reader: reader.errors(""))
        assert stays.send(pose)
        assert stays.has_subscriber
    assert "not on the list" in reader.errors("")[0]


def test_a_server_whose_admission_has_died_ends_with_a_word(folder):
    config = ServeConfig(raw=ANY, refined=ANY, keys=ServerKeys.load(folder / "server"), heartbeat_s=0.05)
    with Server(config, BlendEngine()) as server:
        server._sockets.admission._answer = None
        with (
            Subscriber(server.refined_endpoint, keys=ClientKeys.load(folder / "ann")),
            pytest.raises(ServeError, match="admits clients has died"),
        ):
            server.run()


# --- the start --------------------------------------------------------------------------------------------------------


def test_a_second_server_does_not_take_the_path_of_a_living_one(tmp_path):
    config = ServeConfig(raw=f"ipc://{tmp_path}/raw", refined=f"ipc://{tmp_path}/refined")
    with Server(config, BlendEngine()):
        with pytest.raises(ServeError, match=r"raw: another process listens at this path"):
            Server(config, BlendEngine())
        with pytest.raises(ServeError, match=r"refined: another process listens at this path"):
            Server(ServeConfig(raw=ANY, refined=config.refined), BlendEngine())
    (tmp_path / "raw").touch()  # left behind by a server that was killed
    with Server(config, BlendEngine()):
        pass


def test_a_long_name_of_an_engine_is_shortened():
    engine = BlendEngine()
    engine.info.model_id = "n" * 300
    with serving(engine) as server, Reader(server) as reader, publisher(server) as sender:
        sender.send(recording(1)[0], block=True)
        sender.end()
        reader.until_ended()
        reader.until(lambda reader: reader.heartbeats)
    assert {pose.model for pose in reader.poses} | {beat.model for beat in reader.heartbeats} == {"n" * 128}
