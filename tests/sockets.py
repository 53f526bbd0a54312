"""The server's side of the wire, as small as tests need it, and the check that no socket is left open."""

import contextlib
import queue
import socket
import threading
from contextlib import contextmanager

import numpy as np
import zmq

from rtskel import wire

ANY_PORT = "tcp://127.0.0.1:*"
TIMEOUT = 20  # seconds that only a failing test waits


@contextmanager
def no_socket_left_open(monkeypatch):
    """Every ZeroMQ context that is made inside must be terminated inside, which takes that its sockets are closed."""
    made = []
    context = zmq.Context

    def recorded(*arguments, **options):
        made.append(context(*arguments, **options))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(zmq, "Context", recorded)
        yield
    left = [each for each in made if not each.closed]
    for each in left:
        each.destroy(linger=0)
    assert not left, f"{len(left)} ZeroMQ contexts were left open"


class RawReceiver:
    """An XSUB socket as the server binds it, read in a thread of its own. A context manager.

    Attributes:
        endpoint: the address it is bound to.
        messages: queue.Queue of what came, decoded.
        epoch: of its answers to `wire.Sync`, if it is to answer; servers of older versions do not.
    """

    def __init__(self, endpoint=ANY_PORT, *, hwm=1000, keys=None, context=None, prefix=wire.RAW_PREFIX, epoch=None):
        self.messages = queue.Queue()
        self.epoch = epoch
        self._own = zmq.Context() if context is None else None
        self._context = context or self._own
        self._sub = self._context.socket(zmq.XSUB)
        self._sub.rcvhwm = hwm
        self._sub.rcvbuf = 4096
        if keys is not None:
            keys.apply(self._sub)
        self._sub.bind(endpoint)
        for topics in {prefix, wire.RAW_PREFIX, *([wire.SYNC_TOPIC] if epoch is not None else [])}:
            self._sub.send(b"\1" + topics)
        self.endpoint = self._sub.last_endpoint.decode() if endpoint.startswith("tcp") else endpoint
        self._commands = self._context.socket(zmq.PAIR)
        self._commands.bind(f"inproc://commands-{id(self)}")
        self._replies = self._context.socket(zmq.PAIR)
        self._replies.connect(f"inproc://commands-{id(self)}")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        reading = True
        while True:
            readable = zmq.select([self._replies, *[self._sub] * reading], [], [])[0]
            if self._replies in readable:
                command = self._replies.recv()
                if command.startswith(b"say"):
                    self._sub.send(command[3:])
                self._replies.send(command)
                if command == b"stop":
                    return
                if command in (b"read", b"pause"):
                    reading = command == b"read"
            elif self._sub in readable:
                message = wire.decode(*self._sub.recv_multipart())
                if isinstance(message, wire.Sync):
                    numbers = np.array([[1, 1], [message.client, message.number]])
                    self._sub.send(wire.encode(wire.Taken(self.epoch, numbers))[1])
                else:
                    self.messages.put(message)

    def _command(self, command):
        self._commands.send(command)
        assert self._commands.poll(1000 * TIMEOUT)
        self._commands.recv()

    def say(self, message):
        """To all publishers."""
        self._command(b"say" + wire.encode(message)[1])

    def pause(self):
        self._command(b"pause")

    def read(self):
        self._command(b"read")

    def next(self):
        return self.messages.get(timeout=TIMEOUT)

    def take(self, count):
        return [self.next() for _ in range(count)]

    def close(self):
        self._command(b"stop")
        self._thread.join()
        for each in self._sub, self._commands, self._replies:
            each.close(0)
        if self._own is not None:
            self._own.term()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class RefinedSender:
    """An XPUB socket as the server binds it. A context manager.

    Attributes:
        endpoint: the address it is bound to.
        socket: the socket.
    """

    def __init__(self, endpoint=ANY_PORT, *, keys=None, hwm=1000, context=None):
        self._own = zmq.Context() if context is None else None
        self.socket = (context or self._own).socket(zmq.XPUB)
        self.socket.sndhwm = hwm
        self.socket.xpub_verbose = True
        if keys is not None:
            keys.apply(self.socket)
        self.socket.bind(endpoint)
        self.endpoint = self.socket.last_endpoint.decode()

    def wait_for_subscriptions(self):
        """All subscriptions of one Subscriber, of which that to heartbeats is the last."""
        prefixes = []
        while prefixes[-1:] != [wire.HEARTBEAT_TOPIC]:
            assert self.socket.poll(1000 * TIMEOUT), f"only {prefixes} were subscribed to"
            prefixes.append(self.socket.recv()[1:])
        return prefixes

    def send(self, *messages):
        for message in messages:
            self.socket.send_multipart(wire.encode(message))

    def close(self):
        self.socket.close(0)
        if self._own is not None:
            self._own.term()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Cable:
    """A TCP connection to a server, which can be cut. A context manager.

    Attributes:
        endpoint: to connect to.
    """

    def __init__(self, endpoint):
        host, port = endpoint.removeprefix("tcp://").split(":")
        self._to = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends = []  # of connections that were not cut
        self._all = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            pair = client, socket.create_connection(self._to)
            self._ends += pair
            self._all += pair
            for one, other in pair, pair[::-1]:
                self._threads.append(threading.Thread(target=self._forward, args=(one, other)))
                self._threads[-1].start()

    @staticmethod
    def _forward(one, other):
        try:
            while data := one.recv(1 << 16):
                other.sendall(data)
        except OSError:
            pass
        finally:
            for end in one, other:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """Breaks all connections; new ones are taken."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()
        for each in self._all:
            each.close()
