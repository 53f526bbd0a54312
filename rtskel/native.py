"""The compiled part of rtskel (engines/native), imported here and nowhere else."""

from pathlib import Path

try:
    from rtskel import _native
except ImportError as error:
    raise ImportError(
        f"rtskel's compiled part is not beside {__file__} ({error}): run `pip install .` and import rtskel from "
        "elsewhere than its source tree"
    ) from error

DeviceRing = _native.DeviceRing
FastPath = _native.FastPath
HoardWatch = _native.HoardWatch
PoseWriter = _native.PoseWriter
RawReader = _native.RawReader
Ring = _native.Ring
StagedStep = _native.StagedStep
StreamArrays = _native.StreamArrays
guard_signals = _native.guard_signals
valid_rows = _native.valid_rows
within = _native.within

FOLDER = Path(_native.__file__).parent
"""Where the build puts compiled parts, the GPU kernels among them."""

__all__ = [
    "FOLDER",
    "DeviceRing",
    "FastPath",
    "HoardWatch",
    "PoseWriter",
    "RawReader",
    "Ring",
    "StagedStep",
    "StreamArrays",
    "guard_signals",
    "valid_rows",
    "within",
]
