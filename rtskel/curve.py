"""CURVE keys, the list of clients that a server admits, and the rule on which addresses need keys.

`rtskel keygen DIR` makes two folders, and one more for each further client:

    DIR/server/server.key_secret    the server's key pair: stays on the server
    DIR/server/clients/NAME.key     public keys of the admitted clients; remove one to lock that client out
    DIR/server/clients/publish/     move a key here if that client may only publish,
    DIR/server/clients/subscribe/   or here if it may only subscribe
    DIR/NAME/client.key_secret      a client's key pair: move the folder to that client's machine
    DIR/NAME/server.key             the server's public key, by which the client recognises it

Every file is readable by its owner only; a secret key that others can read is refused. The files have the format of
ZeroMQ certificates (ZPL), so `zmq.auth` and czmq can read them too.

CURVE alone encrypts, but admits any key. A ZAP handler (ZeroMQ RFC 27, `rtskel.admission`) decides who is admitted, so
the server sets a ZAP domain and enforces it: without a running handler nobody is admitted.
"""

from __future__ import annotations

import ipaddress
import os
import socket as sockets
import stat
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import zmq
from zmq.auth import load_certificate
from zmq.utils.z85 import Z85CHARS, encode

from rtskel.errors import RtskelError, ServeError

PUBLISH = "publish"
SUBSCRIBE = "subscribe"
"""What a client may do. The ZAP domain of the socket for it is `rtskel/publish` or `rtskel/subscribe`."""

MAX_IDS = 4096
"""Stream ids that one client's key may use."""

VANISHED_S = 60
"""After so many seconds without a sign of life, the kernel gives up a connection: its host has vanished, or its process
has been stopped and can take nothing any more. What waits for it is lost then.
"""


@dataclass(frozen=True)
class ClientKeys:
    """A client's key pair and the public key of the server it trusts, each 40 characters of Z85."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ClientKeys:
        """Reads client.key_secret and server.key. RtskelError names a file that is absent, damaged or public."""
        folder = Path(folder)
        public, secret = _read_pair(folder / "client.key_secret")
        return cls(public, secret, _read_public(folder / "server.key"))

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Call before the socket connects: it then talks to that server only."""
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret
        socket.curve_serverkey = self.server


@dataclass(frozen=True)
class ServerKeys:
    """The server's key pair and the public keys of the clients it admits, each 40 characters of Z85.

    Attributes:
        clients: keys that may publish and subscribe.
        publishers, subscribers: keys that may only publish, or only subscribe.
        folder: where the keys were read from; None: the list never changes.
    """

    public: bytes
    secret: bytes = field(repr=False)
    clients: frozenset[bytes]
    publishers: frozenset[bytes] = frozenset()
    subscribers: frozenset[bytes] = frozenset()
    folder: Path | None = None

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ServerKeys:
        """Reads server.key_secret and clients/**/*.key. RtskelError names a file that is absent, damaged or public."""
        folder = Path(folder)
        public, secret = _read_pair(folder / "server.key_secret")
        keys, problems = cls(public, secret, frozenset(), folder=folder).reloaded()
        if problems:
            raise RtskelError(problems[0])
        return keys

    def reloaded(self) -> tuple[ServerKeys, list[str]]:
        """With the list of clients as it is in the folder now, and the files that could not be read."""
        if self.folder is None:
            return self, []
        lists, problems = [], []
        for role in "", PUBLISH, SUBSCRIBE:
            keys = set()
            for path in sorted((self.folder / "clients" / role).glob("*.key")):
                try:
                    keys.add(_read_public(path))
                except RtskelError as error:
                    problems.append(str(error))
            lists.append(frozenset(keys))
        return replace(self, clients=lists[0], publishers=lists[1], subscribers=lists[2]), problems

    def signature(self) -> object:
        """Differs after the list in the folder was changed."""
        found = []
        for path in sorted((self.folder / "clients").glob("**/*.key")) if self.folder else ():
            with suppress(OSError):  # removed meanwhile
                found.append((path, path.stat().st_mtime_ns, path.stat().st_ino))
        return found

    def may(self, key: bytes, role: str) -> bool:
        """Whether the client with that key may `PUBLISH` or `SUBSCRIBE`."""
        return key in self.clients or key in (self.publishers if role == PUBLISH else self.subscribers)

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Call before the socket binds: it then talks only to clients that its context's ZAP handler admits."""
        role = PUBLISH if socket.type in (zmq.SUB, zmq.XSUB) else SUBSCRIBE
        socket.curve_server = True
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret
        socket.zap_domain = f"rtskel/{role}".encode()
        socket.zap_enforce_domain = True

    def admission(self, context: zmq.Context[Any]) -> Admission:
        """The context's ZAP handler, a context manager: inside, the clients on the list are admitted."""
        return Admission(self, context)


class Admission:
    """The ZAP handler of a server's context: it decides which clients may connect, in its own thread.

    A context manager; enter it before sockets bind, leave it after they are closed. A context can have one. The list of
    clients is read again when the folder has changed: for each new connection, and by `check`.

    Attributes:
        keys: with the list as it was read last.
        refused: connections that were refused, by reason.
        problems: files of the list that cannot be read. Their clients are not admitted.
    """

    def __init__(self, keys: ServerKeys, context: zmq.Context[Any]) -> None:
        self.keys = keys
        self.refused: Counter[str] = Counter()
        self.problems: list[str] = []
        self._context = context
        self._signature = keys.signature()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rtskel admission", daemon=True)
        self._connections: dict[int, tuple[bytes, str]] = {}  # by file descriptor: key and role
        self._owners: dict[str, bytes] = {}  # by stream: the key that first used it
        self._owned: Counter[bytes] = Counter()

    def __enter__(self) -> Self:
        self._zap = self._context.socket(zmq.REP)
        self._control = self._context.socket(zmq.PAIR)
        try:
            self._zap.bind("inproc://zeromq.zap.01")
            self._control.bind(f"inproc://rtskel-admission-{id(self)}")
        except zmq.ZMQError:
            self._zap.close(0)
            self._control.close(0)
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._control.send(b"stop")
            self._thread.join()
        for each in (self._control, self._zap):
            each.close(0)

    def check(self, failed: int = 0) -> None:
        """To be called about once a second: reads a changed list, and disconnects clients that are no longer on it.

        Raises:
            ServeError: the handler's thread has died, so that no client could connect any more.
        """
        if not self._thread.is_alive():
            raise ServeError(f"the thread that admits clients has died ({self._failure!r}): nobody could connect")
        if failed:
            self.refused["no keys, or another server's"] += failed
        self._refresh()
        for descriptor, (key, role) in [*self._connections.items()]:
            if not self.keys.may(key, role):
                del self._connections[descriptor]
                # ZeroMQ cannot disconnect a single client, but notices that its connection was shut down.
                with suppress(OSError), sockets.socket(fileno=os.dup(descriptor)) as connection:
                    connection.shutdown(sockets.SHUT_RDWR)

    def key_of(self, frame: zmq.Frame, role: str) -> bytes | None:
        """The key of the client that sent this frame; None if it is no longer admitted to that role."""
        try:
            key = str(frame.get("User-Id")).encode()
            self._connections[int(frame.get(zmq.SRCFD))] = key, role
        except zmq.ZMQError:  # a closed connection's last message
            return None
        return key if self.keys.may(key, role) else None

    def owns(self, key: bytes, stream: str) -> bool:
        """Whether that client may use that stream id: it was the first to use it."""
        owner = self._owners.get(stream)
        if owner is None and self._owned[key] < MAX_IDS:
            self._owners[stream] = owner = key
            self._owned[key] += 1
        return owner == key

    def _refresh(self) -> None:
        signature = self.keys.signature()
        if signature != self._signature:
            self.keys, self.problems = self.keys.reloaded()
            self._signature = signature

    def _run(self) -> None:
        control = self._context.socket(zmq.PAIR)
        try:
            control.connect(f"inproc://rtskel-admission-{id(self)}")
            while control not in zmq.select([control, self._zap], [], [])[0]:
                self._zap.send_multipart(self._answer(self._zap.recv_multipart()))
        except BaseException as failure:
            self._failure = failure
        finally:
            control.close(0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """The reply to a request of RFC 27."""
        self._refresh()
        version, number, domain, _, _, mechanism, *credentials = request
        key = encode(credentials[0]) if mechanism == b"CURVE" else b""
        role = domain.decode(errors="replace").removeprefix("rtskel/")
        if role in (PUBLISH, SUBSCRIBE) and self.keys.may(key, role):
            return [version, number, b"200", b"OK", key, b""]
        known = any(self.keys.may(key, each) for each in (PUBLISH, SUBSCRIBE))
        self.refused[f"may not {role}" if known else "key not on the list"] += 1
        return [version, number, b"400", b"not on the list", b"", b""]


def prepare(socket: zmq.Socket[bytes], endpoint: str, keys: ClientKeys | ServerKeys | None) -> None:
    """Sets what all sockets of rtskel have in common: keep-alive, IPv6 and keys. Call before it binds or connects.

    Hosts that vanish are found by the kernel, not by ZMTP's heartbeats: libzmq 4.3.5 ends the process (`!_io_error`) if
    one is due while a connection has broken whose queue here is full.
    """
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = socket.tcp_keepalive_intvl = VANISHED_S // 4
    socket.tcp_keepalive_cnt = 3
    socket.tcp_maxrt = 1000 * VANISHED_S
    socket.ipv6 = "[" in endpoint
    if keys is not None:
        keys.apply(socket)


def keygen(folder: str | os.PathLike[str], clients: Sequence[str] = ("client",)) -> list[Path]:
    """Makes key pairs for each named client, and for a server unless the folder has one.

    Args:
        folder: where to write; made if absent.
        clients: names of the folders to make in it, see this module's docstring.

    Returns:
        The new folders.

    Raises:
        RtskelError: a client exists already (no key is ever overwritten), a name is not a plain folder name, or the
            files cannot be written.
    """
    folder = Path(folder)
    made = []
    for name in clients:
        if name in ("", "server") or name.startswith(".") or Path(name).name != name:
            raise RtskelError(f"client name {name!r}: a plain folder name other than 'server' expected")
        if (folder / name).exists():
            raise RtskelError(f"{folder / name}: exists already, and no key is ever overwritten")
    server = folder / "server"
    try:
        if not server.exists():
            _write_key(server / "server.key_secret", *zmq.curve_keypair())
            made.append(server)
        server_public, _ = _read_pair(server / "server.key_secret")
        for name in clients:
            public, secret = zmq.curve_keypair()
            _write_key(folder / name / "client.key_secret", public, secret)
            _write_key(folder / name / "server.key", server_public)
            _write_key(server / "clients" / f"{name}.key", public)  # last: it admits the client
            made.append(folder / name)
    except OSError as error:
        raise RtskelError(f"{error.filename}: {error.strerror}") from None
    return made


def check_bind(endpoint: str, keys: ServerKeys | None, insecure: bool = False) -> None:
    """Refuses to expose a server to other machines by accident.

    Args:
        endpoint: what a socket is about to bind: tcp://HOST:PORT, ipc://PATH or inproc://NAME.
        keys: the server's keys, if it has any.
        insecure: the user asked for it.

    Raises:
        ServeError: other machines could connect, and there are neither keys nor consent; another process listens at
            this path, or something else than a socket is there; or the endpoint is not valid.
    """
    if not (_is_local(endpoint) or keys is not None or insecure):
        raise ServeError(
            f"{endpoint}: other machines can connect to this address; give --keys (see rtskel keygen), or --insecure"
        )

    if endpoint.startswith("ipc://") and not (path := endpoint.removeprefix("ipc://")).startswith("@"):
        _check_path(endpoint, path)


def _check_path(endpoint: str, path: str) -> None:
    """ZeroMQ would take the path from a process that listens there, or remove a file, without an error."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # it will say so if that is no place for a socket
    if not stat.S_ISSOCK(mode):
        raise ServeError(f"{endpoint}: there is a file or folder at this path already, and it is no socket")
    with sockets.socket(sockets.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise ServeError(f"{endpoint}: another process listens at this path")


def _is_local(endpoint: str) -> bool:
    transport, separator, address = endpoint.partition("://")
    if separator and address and transport in ("ipc", "inproc"):
        return True
    host, colon, port = address.rpartition(":")
    if transport != "tcp" or not colon or not host or not (port == "*" or (port.isascii() and port.isdigit())):
        raise ServeError(f"{endpoint}: tcp://HOST:PORT, ipc://PATH or inproc://NAME expected")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if host in ("localhost", "lo", "lo0"):
        return True
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False  # all addresses, a network interface, or an unusual form of a number
    mapped = getattr(number, "ipv4_mapped", None)
    return bool((mapped or number).is_loopback)


def _write_key(path: Path, public: bytes, secret: bytes | None = None) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = ["metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    # Exclusive and private from the start: nothing is overwritten, and nobody can open the file before a chmod.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _read_pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _read(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise RtskelError(f"{path}: others can read this secret key; chmod 600 it")
    if secret is None or not _is_key(secret) or zmq.curve_public(secret) != public:
        raise RtskelError(f"{path}: no key pair in this file")
    return public, secret


def _read_public(path: Path) -> bytes:
    return _read(path)[0]


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
    except OSError as error:
        raise RtskelError(f"{path}: {error.strerror or 'no such key file'}") from None
    except ValueError:
        public, secret = b"", None
    if not _is_key(public):
        raise RtskelError(f"{path}: no public key in this file")
    return public, secret


def _is_key(text: bytes) -> bool:
    return len(text) == 40 and not text.strip(Z85CHARS)
