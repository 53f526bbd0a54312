"""What a server tells its operators over HTTP: figures for Prometheus, and whether it is well.

It answers from threads of its own, from what the loop has left there: the last heartbeat, and how many poses fell into
which interval of latency. The loop waits for none of it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import numpy as np
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from rtskel import __version__
from rtskel.closing import Closing
from rtskel.errors import ServeError
from rtskel.serve.emission import Emission
from rtskel.serve.server import Server
from rtskel.wire import ROW

BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the intervals of latency, in seconds."""

STAGES = ("wait", "engine", "send", "total")
"""From the arrival of a pose's own frame to the engine call that completed it (lookahead included), that call, from
its end to the sending, and all of it."""

PATIENCE_S = 10
"""How long a client may take over its request."""

_BOUNDS_NS = np.array(BOUNDS_S) * 1e9
_RECEIVED = ROW.index("receive_ns")


class Latencies:
    """Counts poses by stage and interval of latency; poses whose frame never came have none."""

    def __init__(self) -> None:
        self._counts = np.zeros((len(STAGES), len(BOUNDS_S) + 1), np.int64)
        self._sums_s = np.zeros(len(STAGES))

    def add(self, emission: Emission, now: int) -> None:
        """These poses are sent at `now`, in ns."""
        received = emission.numbers[:, _RECEIVED]
        received = received[received > 0]
        if not len(received):
            return
        start, end = emission.infer_start_ns, emission.infer_end_ns
        for stage, ages in enumerate((start - received, end - start, now - end, now - received)):
            each = np.broadcast_to(np.maximum(np.asarray(ages, np.int64), 0), received.shape)
            self._counts[stage] += np.bincount(np.searchsorted(_BOUNDS_NS, each), minlength=len(BOUNDS_S) + 1)
            self._sums_s[stage] += each.sum() / 1e9

    def histogram(self, stage: str) -> tuple[list[tuple[str, float]], float]:
        """Upper bounds with how many poses are below them, and the sum in seconds."""
        which = STAGES.index(stage)
        bounds = [*map(repr, BOUNDS_S), "+Inf"]
        below = np.cumsum(self._counts[which]).tolist()
        return list(zip(bounds, below, strict=True)), float(self._sums_s[which])


class Watched(Protocol):
    """What can be asked whether it is well, from any thread."""

    def unhealthy(self) -> str:
        """Why it does not run as it should; "" if it does."""

    def unready(self) -> str:
        """Why frames are not refined now; "" if they are."""


class Pages(Closing):
    """Serves `/metrics`, `/healthz` and `/readyz` until it is closed.

    Args:
        watched: whose health it is.
        figures: what `/metrics` says.
        host, port: to listen on; port 0 is chosen by the system.

    Attributes:
        url: where it is.

    Raises:
        ServeError: the address cannot be listened on.
    """

    def __init__(self, watched: Watched, figures: Sequence[Collector], host: str, port: int) -> None:
        self._watched = watched
        registry = CollectorRegistry()
        for collector in figures:
            registry.register(collector)
        self._figures = make_wsgi_app(registry)
        try:
            self._http = _http(host, port)
        except (OSError, OverflowError) as error:
            raise ServeError(f"metrics at {host}:{port}: {getattr(error, 'strerror', None) or error}") from None
        self._http.set_app(self._answer)
        where = f"[{host}]" if ":" in host else host
        self.url = f"http://{where}:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, name="rtskel-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops answering."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            figures: Iterable[bytes] = self._figures(environ, start)
            return figures
        if path not in ("/healthz", "/readyz"):
            return _text(start, HTTPStatus.NOT_FOUND, "/metrics, /healthz and /readyz are here")
        problem = self._watched.unhealthy() or (self._watched.unready() if path == "/readyz" else "")
        return _text(start, HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK, problem or "ok")


class Metrics(Pages):
    """Those of a server.

    Args:
        server: to watch; nothing of it is changed.
        host, port: as in `Pages`.
    """

    def __init__(self, server: Server, host: str, port: int) -> None:
        latencies = Latencies()
        server.on_poses.append(latencies.add)
        own = ProcessCollector(registry=None), PlatformCollector(registry=None)
        super().__init__(server, [_Figures(server, latencies), *own], host, port)


def _text(start: Callable[..., Any], status: HTTPStatus, words: str) -> Iterable[bytes]:
    start(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{words}\n".encode()]


class _Figures(Collector):
    """What `/metrics` says of the server."""

    def __init__(self, server: Server, latencies: Latencies) -> None:
        self._server, self._latencies = server, latencies

    def collect(self) -> Iterator[Metric]:
        """The metrics, named after the conventions of Prometheus."""
        yield InfoMetricFamily("rtskel_build", "The running software.", {"version": __version__})
        engine = self._server.engine_info
        model = {"model": engine.model_id, "skeleton": engine.skeleton_id, "runs_on": engine.builder}
        yield InfoMetricFamily("rtskel_model", "The engine.", model)
        yield GaugeMetricFamily("rtskel_ready", "1 if frames are refined.", int(not self._server.unready()))
        beat = self._server.last_heartbeat
        if beat is not None:
            yield GaugeMetricFamily("rtskel_streams", "Streams that are served.", beat.streams)
            yield CounterMetricFamily("rtskel_frames", "Frames that were read.", beat.frames_in)
            yield CounterMetricFamily("rtskel_poses", "Refined poses, of all lookaheads.", beat.frames_out)
            incidents = CounterMetricFamily(
                "rtskel_incidents", "What went wrong, by kind: late, missing, malformed, overload, ...", labels=["kind"]
            )
            for kind, count in beat.counts.items():
                incidents.add_metric([kind], count)
            yield incidents
        latency = HistogramMetricFamily(
            "rtskel_pose_latency_seconds",
            "Of poses whose frame came: wait (arrival of the frame to the engine call that completed its pose), engine "
            "(that call), send, total.",
            labels=["stage"],
        )
        for stage in STAGES:
            latency.add_metric([stage], *self._latencies.histogram(stage))
        yield latency


class _Http(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # As WSGIServer does, but for a reverse lookup of the address, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:
        pass


def _http(host: str, port: int) -> _Http:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    kind = type("_Http", (_Http,), {"address_family": family})
    http: _Http = kind((host, port), _Handler)
    return http
