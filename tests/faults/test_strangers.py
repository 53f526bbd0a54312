"""CURVE keys: strangers are kept out, counted and told of; whose key is taken off the list is out at once."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest
import zmq

from rtskel.client import Publisher
from rtskel.curve import ClientKeys, keygen
from tests.faults.processes import ANY, PATIENCE, Neighbour, ServerProcess, clip, wait_for
from tests.faults.processes import Reader as AnyReader

HAMMER = """
import sys, zmq, time
context = zmq.Context()
server = sys.argv[2].encode()
print(flush=True)
while True:
    sockets = []
    for _ in range(20):
        s = context.socket(zmq.XPUB if sys.argv[3] == "raw" else zmq.SUB)
        s.linger = 0
        if server:
            s.curve_publickey, s.curve_secretkey = zmq.curve_keypair()
            s.curve_serverkey = server
        s.connect(sys.argv[1])
        if sys.argv[3] != "raw": s.subscribe(b"")
        sockets.append(s)
    time.sleep(0.05)
    for s in sockets: s.close()
"""


@pytest.fixture
def folder(tmp_path):
    keygen(tmp_path / "keys", ["neighbour", "guest"])
    return tmp_path / "keys"


@pytest.fixture
def server(folder):
    with ServerProcess("--keys", folder / "server") as made:
        yield made


@pytest.mark.parametrize("kind", ["no keys", "other keys"])
def test_strangers_are_kept_out_counted_and_told(server, folder, kind):
    keys = ClientKeys.load(folder / "guest")
    with (
        Neighbour(server, folder=str(folder / "neighbour")) as neighbour,
        AnyReader(server.refined, keys=keys) as reader,
    ):
        neighbour.served(10)
        neighbour.mark()
        with ExitStack() as stack:
            for port in ("raw", "refined"):
                key = keys.server.decode() if kind == "other keys" else ""
                command = [sys.executable, "-P", "-c", HAMMER, getattr(server, port), key, port]
                process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
                stack.callback(process.kill)
                assert process.stdout is not None
                process.stdout.readline()
            neighbour.served(40)
            reader.until(lambda reader: any("refused" in name for name in reader.counts()), "refused clients", 15)
            reader.until(lambda reader: any(event.kind == "error" and not event.stream for event in reader.events))
        neighbour.served(10)
        neighbour.check()


def test_a_key_that_is_taken_off_the_list_is_out(server, folder):
    keys = ClientKeys.load(folder / "guest")
    with Neighbour(server, folder=str(folder / "neighbour")) as neighbour:
        neighbour.served(10)
        with Publisher(server.raw, stream="guest", fps=25, keys=keys) as sender:
            sender.wait_for_subscriber(PATIENCE)
            sender.send(clip(1)[0], seq=0)
            neighbour.mark()
            (folder / "server" / "clients" / "guest.key").unlink()
            wait_for(lambda: not sender.has_subscriber, "the guest is out", 15)
        neighbour.served(10)
        neighbour.check()


def test_a_key_that_is_put_on_the_list_is_let_in(server, folder):
    keygen(folder, ["later"])
    with Publisher(server.raw, stream="later", fps=25, keys=ClientKeys.load(folder / "later")) as sender:
        sender.wait_for_subscriber(15)


def test_nobody_is_let_in_without_keys_from_elsewhere():
    with pytest.raises(RuntimeError, match="--keys"):
        ServerProcess(raw="tcp://0.0.0.0:*", refined=ANY)
    assert zmq.has("curve")
