"""Who is let in with CURVE keys, how keys are kept, and which addresses need them."""

import dataclasses
import os
import stat
import time
from contextlib import ExitStack

import numpy as np
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from rtskel import Publisher, RtskelError, ServeError, Subscriber, wire
from rtskel.curve import MAX_IDS, ClientKeys, ServerKeys, check_bind, keygen
from rtskel.serve.connections import Connections
from tests.sockets import ANY_PORT, TIMEOUT, RawReceiver, RefinedSender, no_socket_left_open

POSE = np.zeros((50, 3), np.float32)
BEAT = wire.Heartbeat(1, 0, 0, 60 * 10**9, 0, 0, 0, {}, "null", "upper-body-50", (0,), 25.0)


@pytest.fixture(autouse=True)
def _sockets(monkeypatch):
    with no_socket_left_open(monkeypatch):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "keys"
    keygen(folder, ["client", "other"])
    return folder


@pytest.fixture
def server_keys(folder):
    return ServerKeys.load(folder / "server")


@pytest.fixture
def client_keys(folder):
    return ClientKeys.load(folder / "client")


# --- over sockets -----------------------------------------------------------------------------------------------------


HANDSHAKES = {
    zmq.Event.HANDSHAKE_SUCCEEDED: "let in",
    zmq.Event.HANDSHAKE_FAILED_AUTH: "not on the list",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "wrong key",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "refused",
}


def handshake(context, keys, client_class, client_keys):
    """How the first handshake of a client ends at a server socket with keys."""
    with context.socket(zmq.SUB if client_class is Publisher else zmq.XPUB) as socket:
        socket.linger = 0
        if keys is not None:
            keys.apply(socket)
        socket.bind("tcp://127.0.0.1:*")
        monitor = socket.get_monitor_socket(sum(HANDSHAKES))
        options = {"stream": "a", "fps": 25} if client_class is Publisher else {}
        try:
            with client_class(socket.last_endpoint.decode(), keys=client_keys, **options):
                assert monitor.poll(1000 * TIMEOUT)
                event = recv_monitor_message(monitor)["event"]
        finally:
            socket.disable_monitor()
            monitor.close()
    return HANDSHAKES[event]


def test_clients_on_the_list_are_let_in(server_keys, client_keys):
    with zmq.Context() as context, server_keys.admission(context):
        with (
            RawReceiver(keys=server_keys, context=context) as server,
            Publisher(server.endpoint, stream="a", fps=25, keys=client_keys) as publisher,
        ):
            publisher.wait_for_subscriber(TIMEOUT)
            publisher.send(POSE)
            assert server.next().seq == 0
        with (
            RefinedSender(keys=server_keys, context=context) as server,
            Subscriber(server.endpoint, keys=client_keys) as subscriber,
        ):
            server.wait_for_subscriptions()
            server.send(BEAT)
            assert subscriber.wait_for_server(TIMEOUT).lookaheads == (0,)


@pytest.mark.parametrize("client_class", [Publisher, Subscriber])
def test_everybody_else_is_refused(folder, server_keys, client_keys, client_class):
    unknown = ClientKeys(*zmq.curve_keypair(), server_keys.public)
    misled = dataclasses.replace(client_keys, server=zmq.curve_keypair()[0])
    only_other = dataclasses.replace(server_keys, clients=frozenset([ClientKeys.load(folder / "other").public]))
    nobody = dataclasses.replace(server_keys, clients=frozenset())
    with zmq.Context() as context, server_keys.admission(context):
        assert handshake(context, server_keys, client_class, client_keys) == "let in"
        assert handshake(context, server_keys, client_class, unknown) == "not on the list"
        assert handshake(context, server_keys, client_class, misled) == "wrong key"
        assert handshake(context, server_keys, client_class, None) != "let in"
    for keys in only_other, nobody:
        with zmq.Context() as context, keys.admission(context):
            assert handshake(context, keys, client_class, client_keys) == "not on the list"


@pytest.mark.parametrize("client_class", [Publisher, Subscriber])
def test_without_a_running_handler_everybody_is_refused(server_keys, client_keys, client_class):
    with zmq.Context() as context:
        assert handshake(context, server_keys, client_class, client_keys) == "refused"


@pytest.mark.parametrize("client_class", [Publisher, Subscriber])
def test_a_client_with_keys_does_not_talk_to_a_server_without(client_keys, client_class):
    with zmq.Context() as context:
        assert handshake(context, None, client_class, client_keys) != "let in"


def test_a_list_per_role(tmp_path):
    keygen(tmp_path, ["camera", "screen", "both"])
    clients = tmp_path / "server" / "clients"
    for role, name in ("publish", "camera"), ("subscribe", "screen"):
        (clients / role).mkdir()
        (clients / f"{name}.key").rename(clients / role / f"{name}.key")
    keys = ServerKeys.load(tmp_path / "server")
    camera, screen, both = (ClientKeys.load(tmp_path / name) for name in ("camera", "screen", "both"))
    with zmq.Context() as context, keys.admission(context) as admission:
        assert handshake(context, keys, Publisher, camera) == "let in"
        assert handshake(context, keys, Publisher, both) == "let in"
        assert handshake(context, keys, Subscriber, screen) == "let in"
        assert handshake(context, keys, Subscriber, both) == "let in"
        assert not admission.refused
        assert handshake(context, keys, Publisher, screen) == "not on the list"
        assert handshake(context, keys, Subscriber, camera) == "not on the list"
        assert admission.refused == {"may not publish": 1, "may not subscribe": 1}


def test_the_list_is_read_again_and_a_removed_key_is_out_at_once(tmp_path):
    keygen(tmp_path, ["stays", "goes"])
    keys = ServerKeys.load(tmp_path / "server")
    stays, goes = (ClientKeys.load(tmp_path / name) for name in ("stays", "goes"))
    with zmq.Context() as context, keys.admission(context) as admission:
        raw, refined = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
        with raw, refined:
            for socket in raw, refined:
                socket.linger = 0
                keys.apply(socket)
                socket.bind(ANY_PORT)
            raw.send(b"\1")
            refined.xpub_verboser = True
            endpoints = [socket.last_endpoint.decode() for socket in (raw, refined)]

            def subscribed(count):
                """The keys of that many subscribers and unsubscribers."""
                came = []
                while len(came) < count:
                    assert refined.poll(1000 * TIMEOUT)
                    frame = refined.recv(copy=False)
                    if frame.bytes[1:] == wire.HEARTBEAT_TOPIC:
                        came.append((frame.bytes[0], admission.key_of(frame, "subscribe")))
                return came

            with (
                Publisher(endpoints[0], stream="a", fps=25, keys=goes) as publisher,
                Subscriber(endpoints[1], keys=goes),
                Subscriber(endpoints[1], keys=stays) as other,
            ):
                while not publisher.has_subscriber:
                    raw.poll(10)  # a socket takes connections while it is used
                publisher.send(POSE)
                assert raw.poll(1000 * TIMEOUT)
                topic = raw.recv_multipart(copy=False)[0]
                assert admission.key_of(topic, "publish") == goes.public
                assert set(subscribed(2)) == {(1, goes.public), (1, stays.public)}
                admission.check()
                assert publisher.has_subscriber

                (tmp_path / "server" / "clients" / "goes.key").unlink()
                admission.check()
                assert admission.key_of(topic, "publish") is None, "what it has sent before is refused, too"
                assert subscribed(1) == [(0, None)]
                while publisher.has_subscriber:
                    raw.poll(10)
                refined.send_multipart(wire.encode(BEAT))
                assert other.wait_for_server(TIMEOUT), "the others stay connected"

                # Back on the list, without a restart.
                (tmp_path / "server" / "clients" / "again.key").write_bytes(
                    (tmp_path / "goes" / "client.key_secret").read_bytes()
                )
                with Subscriber(endpoints[1], keys=goes):
                    assert subscribed(1) == [(1, goes.public)]


def test_a_damaged_file_of_the_list_is_named_and_hinders_no_other(tmp_path):
    keygen(tmp_path, ["client", "goes"])
    keys, client = ServerKeys.load(tmp_path / "server"), ClientKeys.load(tmp_path / "client")
    with zmq.Context() as context, keys.admission(context) as admission:
        (tmp_path / "server" / "clients" / "half.key").write_text("meta")
        (tmp_path / "server" / "clients" / "goes.key").unlink()
        admission.check()
        assert "half.key" in admission.problems[0]
        assert handshake(context, keys, Subscriber, client) == "let in"
        assert handshake(context, keys, Subscriber, ClientKeys.load(tmp_path / "goes")) == "not on the list"
        (tmp_path / "server" / "clients" / "half.key").unlink()
        admission.check()
        assert not admission.problems
    (tmp_path / "server" / "clients" / "half.key").write_text("meta")
    with pytest.raises(RtskelError, match=r"half\.key"):
        ServerKeys.load(tmp_path / "server")


def test_a_stream_belongs_to_the_key_that_first_used_it(server_keys):
    with zmq.Context() as context, server_keys.admission(context) as admission:
        assert admission.owns(b"ann", "cam1")
        assert admission.owns(b"ben", "cam2")
        assert admission.owns(b"ann", "cam1")
        assert not admission.owns(b"ben", "cam1")
        for k in range(MAX_IDS):
            admission.owns(b"ben", f"s{k}")
        assert not admission.owns(b"ben", "one-more")
        assert admission.owns(b"ann", "one-more"), "one client's ids do not use up another's"


def test_clients_without_the_right_keys_are_counted(server_keys, client_keys):
    misled = dataclasses.replace(client_keys, server=zmq.curve_keypair()[0])
    with (
        zmq.Context() as context,
        server_keys.admission(context) as admission,
        context.socket(zmq.XPUB) as socket,
        ExitStack() as stack,
    ):
        socket.linger = 0
        server_keys.apply(socket)
        connections = Connections(stack, context, socket, "refined")
        socket.bind(ANY_PORT)
        for keys in misled, None:
            before = connections.failed
            with Subscriber(socket.last_endpoint.decode(), keys=keys):
                until = time.monotonic() + TIMEOUT
                while connections.failed == before:
                    assert time.monotonic() < until
                    connections.wait(0.1)
                    list(connections.changed())
        admission.check(connections.failed)
        assert set(admission.refused) == {"no keys, or another server's"}


def test_the_death_of_the_handler_is_told(server_keys, monkeypatch):
    with zmq.Context() as context, server_keys.admission(context) as admission:
        admission.check()
        monkeypatch.setattr(admission, "_answer", lambda request: 1 / 0)
        client = ClientKeys(*zmq.curve_keypair(), server_keys.public)
        with context.socket(zmq.XPUB) as socket:
            socket.linger = 0
            server_keys.apply(socket)
            socket.bind(ANY_PORT)
            with Subscriber(socket.last_endpoint.decode(), keys=client):
                admission._thread.join(TIMEOUT)
        with pytest.raises(ServeError, match=r"admits clients has died.*division"):
            admission.check()


def test_a_context_has_one_handler(server_keys):
    with zmq.Context() as context, server_keys.admission(context):
        second = server_keys.admission(context)
        with pytest.raises(zmq.ZMQError):
            second.__enter__()


# --- files ------------------------------------------------------------------------------------------------------------


def test_keygen_writes_private_files_that_match(folder, server_keys, client_keys):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [str(path.relative_to(folder)) for path in files] == [
        "client/client.key_secret",
        "client/server.key",
        "other/client.key_secret",
        "other/server.key",
        "server/clients/client.key",
        "server/clients/other.key",
        "server/server.key_secret",
    ]
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in folder / "client", folder / "server":
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert client_keys.server == server_keys.public
    assert client_keys.public in server_keys.clients
    assert len(server_keys.clients) == 2
    assert zmq.curve_public(client_keys.secret) == client_keys.public
    assert server_keys.secret.decode() not in repr(server_keys)
    assert client_keys.secret.decode() not in repr(client_keys)


def test_keygen_adds_clients_and_never_overwrites(tmp_path):
    assert keygen(tmp_path) == [tmp_path / "server", tmp_path / "client"]
    before = ServerKeys.load(tmp_path / "server")
    with pytest.raises(RtskelError, match=r"client.*overwritten"):
        keygen(tmp_path, ["late", "client"])
    assert not (tmp_path / "late").exists()
    assert keygen(tmp_path, ["late"]) == [tmp_path / "late"]
    after = ServerKeys.load(tmp_path / "server")
    assert (after.public, after.secret) == (before.public, before.secret)
    assert after.clients == before.clients | {ClientKeys.load(tmp_path / "late").public}


@pytest.mark.parametrize("name", ["server", "", ".", "..", "a/b", "/tmp", ".hidden"])
def test_client_names_that_are_no_folder_names(tmp_path, name):
    with pytest.raises(RtskelError, match="client name"):
        keygen(tmp_path, [name])
    assert not list(tmp_path.iterdir())


def test_keygen_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RtskelError, match="file"):
        keygen(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_secret_key_that_others_can_read_is_refused(tmp_path):
    keygen(tmp_path)
    for load, path in [
        (ServerKeys.load, tmp_path / "server" / "server.key_secret"),
        (ClientKeys.load, tmp_path / "client" / "client.key_secret"),
    ]:
        path.chmod(0o640)
        with pytest.raises(RtskelError, match=r"key_secret.*chmod"):
            load(path.parent)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "curve\n",
        'curve\n    public-key = "short"\n',
        'curve\n    public-key = "' + "~" * 40 + '"\n    secret-key = "' + "~" * 40 + '"\n',
        'curve\n    public-key = "' + "a" * 40 + '"\n    secret-key = "' + "b" * 40 + '"\n',
        'curve\n    public-key = "' + "a" * 40 + '"\n',
        "\0\xff" * 100,
    ],
)
def test_damaged_key_files_are_named(tmp_path, content):
    keygen(tmp_path)
    for folder in "server", "client":
        path = tmp_path / folder / f"{folder}.key_secret"
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(RtskelError, match=f"{folder}.key_secret"):
            (ServerKeys if folder == "server" else ClientKeys).load(tmp_path / folder)


def test_absent_key_files_are_named(tmp_path):
    keygen(tmp_path)
    (tmp_path / "client" / "server.key").unlink()
    with pytest.raises(RtskelError, match=r"server\.key"):
        ClientKeys.load(tmp_path / "client")
    with pytest.raises(RtskelError, match=r"server\.key_secret"):
        ServerKeys.load(tmp_path / "nowhere")


# --- addresses --------------------------------------------------------------------------------------------------------

LOCAL = [
    "tcp://127.0.0.1:5555",
    "tcp://127.8.9.10:*",
    "tcp://localhost:0",
    "tcp://lo:5555",
    "tcp://[::1]:5555",
    "tcp://[::1%lo]:5555",
    "tcp://[::ffff:127.0.0.1]:5555",
    "ipc:///tmp/rtskel",
    "ipc://@abstract",
    "inproc://raw",
]
OPEN = [
    "tcp://*:5555",
    "tcp://0.0.0.0:5555",
    "tcp://0:5555",
    "tcp://[::]:5555",
    "tcp://:::5555",
    "tcp://[::ffff:0.0.0.0]:5555",
    "tcp://192.168.1.5:5555",
    "tcp://[fe80::1%eth0]:5555",
    "tcp://eth0:5555",
    "tcp://localhost.example.org:5555",
    "tcp://127.0.0.1.example.org:5555",
    "tcp://128.0.0.1:5555",
]


@pytest.mark.parametrize("endpoint", LOCAL)
def test_local_addresses_need_no_keys(endpoint):
    check_bind(endpoint, None)


@pytest.mark.parametrize("endpoint", OPEN)
def test_other_addresses_need_keys_or_consent(endpoint, server_keys):
    with pytest.raises(ServeError, match=r"--keys.*--insecure") as refused:
        check_bind(endpoint, None)
    assert endpoint in str(refused.value)
    check_bind(endpoint, server_keys)
    check_bind(endpoint, None, insecure=True)


def test_a_path_that_is_no_socket_is_left_alone(tmp_path):
    """ZeroMQ would remove a file, and bind its path."""
    for name in ("recording.npz", "folder"):
        path = tmp_path / name
        path.write_text("mine") if name.endswith("npz") else path.mkdir()
        with pytest.raises(ServeError, match="no socket"):
            check_bind(f"ipc://{path}", None)
        assert path.exists()
    check_bind(f"ipc://{tmp_path}/new", None)


@pytest.mark.parametrize(
    "endpoint",
    ["", "tcp://", "tcp://:5555", "tcp://127.0.0.1", "tcp://127.0.0.1:port", "127.0.0.1:5555", "udp://127.0.0.1:5555",
     "TCP://127.0.0.1:1", "ipc://", "tcp://127.0.0.1:-1", " tcp://127.0.0.1:5"],
)  # fmt: skip
def test_what_is_no_address_is_named(endpoint, server_keys):
    for keys in None, server_keys:
        with pytest.raises(ServeError, match="expected"):
            check_bind(endpoint, keys, insecure=True)
