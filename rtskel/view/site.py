"""The web server of the picture: the page's files by HTTP, what it shows by WebSocket, both on one port.

It only sends: what a page says is a clock question, and nothing else is answered. A page that reads slowly loses
its oldest poses; nothing else waits for it. Other machines need the token, and pages of other sites get nothing: a
connection must come from a page of the very address that it asks (`Origin` and `Host`), and where the server listens on
this machine only, that address must be a name of this machine (or a foreign name could be pointed here).
"""

from __future__ import annotations

import asyncio
import hmac
import importlib.resources
import ipaddress
import json
import secrets
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from rtskel.errors import ServeError
from rtskel.view.feed import Feed, hello, now_ms
from rtskel.view.packets import text

MOST_WAITING = 8 << 20
"""Bytes that may wait for a page; then its oldest poses are dropped."""

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class SiteConfig:
    """Where the page is served.

    Attributes:
        host: address to listen on.
        port: 0 is chosen by the system.
        token: what a page must know. Default: none on this machine's own addresses, a random one on others.
    """

    host: str = "127.0.0.1"
    port: int = 8400
    token: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Site:
    """Serves the page of one feed, from a thread of its own, between entering and leaving a `with` block.

    Attributes:
        url: where the page is; it holds the token, if there is one.
        viewers: pages that are connected now.

    Raises:
        ServeError: on entering, if the address cannot be listened on.
    """

    def __init__(self, feed: Feed, config: SiteConfig | None = None) -> None:
        self.config = config or SiteConfig()
        self.url = ""
        self._feed = feed
        self._token = self.config.token or ("" if self.config.local else secrets.token_urlsafe(18))
        self._files = _page_files()
        self._viewers: set[_Viewer] = set()
        self._loop: asyncio.AbstractEventLoop
        self._stopped: asyncio.Event
        self._running = False
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="rtskel-view")

    @property
    def viewers(self) -> int:
        """How many browsers are connected."""
        return len(self._viewers)

    def __enter__(self) -> Self:
        self._running = True
        self._thread.start()
        self._started.wait()
        if self._failure is not None and not self.url:  # else the feed has failed already, which `wait` tells
            self._thread.join()
            raise self._failure
        return self

    def wait(self) -> None:
        """Returns only if the feed fails, with its error."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        try:
            server = await serve(
                self._connected,
                self.config.host,
                self.config.port,
                process_request=self._request,
                compression=None,
                max_size=4096,
                server_header="rtskel",
            )
        except OSError as error:
            where = f"{self.config.host}:{self.config.port}"
            self._failure = ServeError(f"{where}: {(error.strerror or str(error)).lower()} (see --listen)")
            self._started.set()
            return
        async with server:
            self.url = self._url(server)
            self._started.set()
            reading = asyncio.create_task(asyncio.to_thread(self._read))
            await self._stopped.wait()
            await reading

    def _read(self) -> None:
        """Reads the feed, in a thread of its own. Its failure ends the site, which would show nothing more."""
        try:
            self._feed.run(self._emit, lambda: self._running)
        except BaseException as error:
            self._failure = error
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _url(self, server: Server) -> str:
        port = next(iter(server.sockets)).getsockname()[1]
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.config.host, self.config.host)
        name = f"[{name}]" if ":" in name and not name.startswith("[") else name
        return f"http://{name}:{port}/" + (f"#{self._token}" if self._token else "")

    def _emit(self, messages: list[str | bytes]) -> None:
        """Gives messages to every page. Called by the feed's thread."""
        if messages:
            self._loop.call_soon_threadsafe(self._broadcast, messages)

    def _broadcast(self, messages: list[str | bytes]) -> None:
        for viewer in self._viewers:
            viewer.put(messages)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to a request; None goes on to the WebSocket."""
        host = request.headers.get("Host", "")
        if self.config.local and not _names_this_machine(host):
            return _answer(HTTPStatus.FORBIDDEN, b"this page is served on this machine only\n")
        path = urlsplit(request.path)
        if path.path == "/live":
            origin = request.headers.get("Origin")
            if origin is None or urlsplit(origin).netloc != host:
                return _answer(HTTPStatus.FORBIDDEN, b"a page of another site\n")
            given = parse_qs(path.query).get("token", [""])[0]
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return _answer(HTTPStatus.UNAUTHORIZED, b"the token is wrong\n")
            return None
        name = path.path.removeprefix("/") or "index.html"
        if name not in self._files:
            return _answer(HTTPStatus.NOT_FOUND, b"no such page\n")
        return _answer(HTTPStatus.OK, self._files[name], _TYPES[name.rpartition(".")[2]])

    async def _connected(self, socket: ServerConnection) -> None:
        """Serves one page until it goes."""
        viewer = _Viewer(socket)
        try:
            await socket.send(hello(self._feed))
            if self._feed.live:
                viewer.put(list(self._feed.backlog()))
                self._viewers.add(viewer)
            else:  # as fast as the page takes them: a recording is too long to wait for it in one piece
                for message in self._feed.backlog():
                    await socket.send(message)
            sending = asyncio.create_task(viewer.send())
            try:
                async for question in socket:
                    viewer.answer(question)
            finally:
                sending.cancel()
        except ConnectionClosed:
            pass
        finally:
            self._viewers.discard(viewer)


class _Viewer:
    """A connected page, and what waits for it."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self._waiting: deque[str | bytes] = deque()
        self._bytes = 0
        self._skipped = 0
        self._some = asyncio.Event()

    def put(self, messages: list[str | bytes]) -> None:
        """Queues messages. Beyond `MOST_WAITING` the oldest poses go, and the page is told how many packets."""
        self._waiting.extend(messages)
        self._bytes += sum(map(len, messages))
        if self._bytes > MOST_WAITING:
            kept: deque[str | bytes] = deque()
            while self._waiting and self._bytes > MOST_WAITING // 2:
                message = self._waiting.popleft()
                if isinstance(message, str):
                    kept.append(message)
                else:
                    self._bytes -= len(message)
                    self._skipped += 1
            self._waiting.extendleft(reversed(kept))
        self._some.set()

    def answer(self, question: str | bytes) -> None:
        """A page asks what time it is, to know the latency of what it draws. Anything else is ignored."""
        try:
            asked = json.loads(question)["ping"]
        except (ValueError, TypeError, KeyError):
            return
        if isinstance(asked, int | float):
            self.put([text("pong", ping=asked, now=now_ms())])

    async def send(self) -> None:
        """Sends what waits: consecutive packets as one message."""
        while True:
            await self._some.wait()
            self._some.clear()
            waiting, self._waiting, self._bytes = self._waiting, deque(), 0
            if self._skipped:
                await self._socket.send(text("skipped", packets=self._skipped))
                self._skipped = 0
            packets: list[bytes] = []
            for message in waiting:
                if isinstance(message, bytes):
                    packets.append(message)
                    continue
                if packets:
                    await self._socket.send(b"".join(packets))
                    packets = []
                await self._socket.send(message)
            if packets:
                await self._socket.send(b"".join(packets))


def _answer(status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> Response:
    headers = Headers({**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, body)


def _names_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _page_files() -> dict[str, bytes]:
    folder = importlib.resources.files("rtskel.view").joinpath("page")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES}


def address(listen: str) -> SiteConfig:
    """Where "HOST:PORT" or "[V6]:PORT" says that the page is served.

    Raises:
        ServeError: it is neither.
    """
    host, _, port = listen.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ServeError(f"{listen!r}: HOST:PORT expected, such as 127.0.0.1:8400")
    return SiteConfig(host.strip("[]"), int(port))
