"""The server: raw poses in, refined poses, events and heartbeats out.

In: messages of estimators from a ZeroMQ socket. Out: refined poses of every stream, within their deadlines.
One thread, one loop: a heartbeat means that poses are being refined.
"""

from rtskel.serve.server import Outlet, ServeConfig, Server, Subscriptions, run_server

__all__ = ["Outlet", "ServeConfig", "Server", "Subscriptions", "run_server"]
