"""CURVE keys, the list of clients that a server admits, and the rule on which addresses need keys.

`rtskel keygen DIR` makes two folders, and one more for each further client:

    DIR/server/server.key_secret    the server's key pair: stays on the server
    DIR/server/clients/NAME.key     public keys of the admitted clients; remove one to lock that client out
    DIR/NAME/client.key_secret      a client's key pair: move the folder to that client's machine
    DIR/NAME/server.key             the server's public key, by which the client recognises it

Every file is readable by its owner only; a secret key that others can read is refused. The files have the format of
ZeroMQ certificates (ZPL), so `zmq.auth` and czmq can read them too.

CURVE alone encrypts, but admits any key. A ZAP handler (ZeroMQ RFC 27) decides who is admitted, so the server sets a
ZAP domain and enforces it: without a running handler nobody is admitted.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from zmq.auth import load_certificate
from zmq.utils.z85 import Z85CHARS

from rtskel.errors import RtskelError, ServeError

ZAP_DOMAIN = b"rtskel"


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
    """The server's key pair and the public keys of the clients it admits, each 40 characters of Z85."""

    public: bytes
    secret: bytes = field(repr=False)
    clients: frozenset[bytes]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ServerKeys:
        """Reads server.key_secret and clients/*.key. RtskelError names a file that is absent, damaged or public."""
        folder = Path(folder)
        public, secret = _read_pair(folder / "server.key_secret")
        return cls(public, secret, frozenset(map(_read_public, sorted((folder / "clients").glob("*.key")))))

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Call before the socket binds: it then talks only to clients that its context's ZAP handler admits."""
        socket.curve_server = True
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret
        socket.zap_domain = ZAP_DOMAIN
        socket.zap_enforce_domain = True

    @contextmanager
    def admission(self, context: zmq.Context[Any]) -> Iterator[None]:
        """Runs the context's ZAP handler in its own thread; inside, the clients on the list are admitted.

        Enter it before sockets bind, leave it after they are closed. A context can have one such handler.
        """
        from zmq.auth.thread import ThreadAuthenticator  # imports asyncio, so only for servers with keys

        handler = ThreadAuthenticator(context)
        handler.configure_curve_callback(ZAP_DOMAIN.decode(), _AllowList(self.clients))
        try:
            handler.start()
            yield
        finally:
            handler.stop()


@dataclass(frozen=True)
class _AllowList:
    clients: frozenset[bytes]

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self.clients


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
        ServeError: other machines could connect, and there are neither keys nor consent; or the endpoint is not valid.
    """
    if not (_is_local(endpoint) or keys is not None or insecure):
        raise ServeError(
            f"{endpoint}: other machines can connect to this address; give --keys (see rtskel keygen), or --insecure"
        )


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
