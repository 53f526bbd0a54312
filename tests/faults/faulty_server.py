"""A server process whose engine does with its next call what a file says; run as `faulty_server.py FILE [OPTIONS]`.

The file holds one of `FAULTS`, or "hang" or "hang with the lock": then the call returns once the file FILE.go exists.
Each is done once. OPTIONS are fields of `ServeConfig` as JSON. The endpoints are printed as JSON.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

import numpy as np

from rtskel.engine import NullEngine
from rtskel.serve import ServeConfig, run_server
from rtskel.serve.config import StreamConfig


def spoilt(y, value, rows=slice(None)):
    y = y.copy()
    y[rows] = value
    return y


def raising(error):
    raise error


FAULTS = {
    "raise": lambda y: raising(RuntimeError("injected failure")),
    "memory": lambda y: raising(MemoryError()),
    "exit": lambda y: raising(SystemExit(3)),
    "nan": lambda y: spoilt(y, np.nan),
    "nan in one window": lambda y: spoilt(y, np.nan, 0),
    "inf": lambda y: spoilt(y, np.inf, 0),
    "huge": lambda y: spoilt(y, 1e30, 0),
    "fewer frames": lambda y: y[:, :-1],
    "two coordinates": lambda y: y[..., :2],
    "float64": lambda y: y.astype(np.float64),
    "none": lambda y: None,
}


class FaultyEngine(NullEngine):
    """The identity, but for what the file says."""

    may_hang = True

    def __init__(self, control: Path):
        super().__init__(window=8)
        self.control = control

    def _run(self, x, missing, positions):
        y = super()._run(x, missing, positions)
        try:
            fault = self.control.read_text()
        except FileNotFoundError:
            return y
        os.remove(self.control)
        if not fault.startswith("hang"):
            return FAULTS[fault](y)
        go = Path(f"{self.control}.go")
        # PyDLL holds the GIL during a call, CDLL does not.
        sleep = (ctypes.PyDLL if "lock" in fault else ctypes.CDLL)(None).usleep
        while not go.exists():
            sleep(10_000 if "lock" not in fault else 3_600_000_000)
        return y


def ready(server):
    print(json.dumps({"raw": server.raw_endpoint, "refined": server.refined_endpoint}), flush=True)


if __name__ == "__main__":
    fields = {"raw": "tcp://127.0.0.1:*", "refined": "tcp://127.0.0.1:*", "lookaheads": (0, 4), "heartbeat_s": 0.1}
    fields |= json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    config = ServeConfig(**fields, streams=StreamConfig(slack_s=20.0, behind_s=20.0))
    with FaultyEngine(Path(sys.argv[1])) as engine:
        number = run_server(config, engine, ready)
    sys.exit(128 + number if number == 2 else 0)
