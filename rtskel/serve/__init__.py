"""The server: raw poses in, refined poses, events and heartbeats out.

In: messages of estimators from a ZeroMQ socket. Out: refined poses of every stream, within their deadlines.
One thread, one loop: a heartbeat means that poses are being refined.
"""

from rtskel.serve.config import ServeConfig, StreamConfig
from rtskel.serve.emission import Emission
from rtskel.serve.lifting_bank import LiftingBank
from rtskel.serve.outlet import Outlet, Subscriptions
from rtskel.serve.process import run_server
from rtskel.serve.server import Server
from rtskel.serve.table import StreamTable

__all__ = [
    "Emission",
    "LiftingBank",
    "Outlet",
    "ServeConfig",
    "Server",
    "StreamConfig",
    "StreamTable",
    "Subscriptions",
    "run_server",
]
