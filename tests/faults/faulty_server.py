"""A server process whose engine does with its next call what a file says; run as `faulty_server.py FILE [OPTIONS]`.

The file holds one of `FAULTS`, or "hang", "hang with the lock" or "hang and write": then the call returns once the file
FILE.go exists; the last one writes into its input meanwhile. Each is done once. OPTIONS are fields of `ServeConfig` as
JSON. The endpoints are printed as JSON.
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


def overwritten(x, missing):
    x[:] = 1000.0
    missing[:] = False
    raise RuntimeError("injected failure after writing into its input")


FAULTS = {
    "raise": lambda y, *_: raising(RuntimeError("injected failure")),
    "memory": lambda y, *_: raising(MemoryError()),
    "exit": lambda y, *_: raising(SystemExit(3)),
    "interrupt": lambda y, *_: raising(KeyboardInterrupt()),
    "nan": lambda y, *_: spoilt(y, np.nan),
    "nan in one window": lambda y, *_: spoilt(y, np.nan, 0),
    "inf": lambda y, *_: spoilt(y, np.inf, 0),
    "huge": lambda y, *_: spoilt(y, 1e30, 0),
    "fewer frames": lambda y, *_: y[:, :-1],
    "fewer windows": lambda y, *_: y[:-1],
    "two coordinates": lambda y, *_: y[..., :2],
    "float64": lambda y, *_: y.astype(np.float64),
    "objects": lambda y, *_: y.astype(object),
    "none": lambda y, *_: None,
    "writes and raises": lambda y, *given: overwritten(*given),
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
            return FAULTS[fault](y, x, missing)
        go = Path(f"{self.control}.go")
        # PyDLL holds the GIL during a call, CDLL does not.
        sleep = (ctypes.PyDLL if "lock" in fault else ctypes.CDLL)(None).usleep
        while not go.exists():
            if fault == "hang and write":
                x[:] = 1000.0
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
