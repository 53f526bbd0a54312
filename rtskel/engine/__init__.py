"""Engines: windows of poses in, refined windows out, one contract (`Engine`) for every runtime.

`open_engine(path)` picks by suffix: `.onnx` (CPU, the default), `.plan` (NVIDIA GPUs), `.safetensors` (PyTorch: the
reference on the CPU or, with `device`, compiled for a GPU). Words instead of a path are "realtime" and "open", the
weights that come with rtskel, and "null", the identity. Importing this package imports no runtime; opening an engine
imports its own. What cannot be opened or run is an EngineError of one line that names the file.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtskel.engine.base import Engine, NullEngine
from rtskel.engine.metadata import EngineInfo, describe
from rtskel.errors import EngineError

__all__ = ["NAMES", "Engine", "EngineInfo", "NullEngine", "bundled", "describe", "located", "open_engine", "takes"]

NAMES: Mapping[str, str] = {"realtime": "skeletor-realtime.onnx", "open": "skeletor-open.onnx"}
"""The weights that come with rtskel, by name: all data, not for commercial use; and data that anyone may use."""

_ON_A_GPU = ("graphs", "warm_up", "rings")

# kind -> module, class, and the options that it takes.
_KINDS: Mapping[str, tuple[str, str, frozenset[str]]] = {
    "null": ("rtskel.engine.base", "NullEngine", frozenset({"window", "joints"})),
    "onnx": ("rtskel.engine.openvino", "OnnxEngine", frozenset({"precision", "threads"})),
    "safetensors": ("rtskel.engine.pytorch", "SafetensorsEngine", frozenset({"threads"})),
    "plan": ("rtskel.engine.tensorrt", "PlanEngine", frozenset({"device", *_ON_A_GPU})),
    "safetensors on a GPU": (
        "rtskel.engine.torch_cuda",
        "TorchEngine",
        frozenset({"device", "precision", *_ON_A_GPU}),
    ),
}


def bundled(name: str = "realtime") -> Path:
    """The file of weights in `NAMES`: package data when installed, in `engines/` in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "weights" / NAMES[name], package.parent / "engines" / NAMES[name]):
        if path.is_file():
            return path
    raise EngineError(f"the bundled weights {NAMES[name]} are not installed: name an engine file")


def located(engine: str | Path | None) -> str | Path:
    """The file that is meant by None or by a name in `NAMES`; a path, and "null", as they are.

    Raises:
        EngineError: bundled weights are not installed.
    """
    if engine is None:
        return bundled()
    return bundled(str(engine)) if str(engine) in NAMES else engine


def takes(path: str | Path | None, option: str) -> bool:
    """Whether that kind of engine has an option of `open_engine`; EngineError if it is none."""
    path = located(path)
    return option in _KINDS["null" if str(path) == "null" else describe(path).kind][2]


def open_engine(
    path: str | Path | None = None,
    *,
    max_batch: int = 64,
    precision: str | None = None,
    threads: int | None = None,
    device: int | str | None = None,
    window: int | None = None,
    joints: int | None = None,
    graphs: bool | None = None,
    warm_up: bool | None = None,
    rings: bool | None = None,
) -> Engine:
    """Opens an engine. Close it when done, or use it as a context manager.

    Args:
        path: an engine file; "realtime" (or None) or "open" for the bundled weights; "null" for the identity.
        max_batch: the most windows of one `run`; a plan may have been built for fewer.
        precision: "fp32", "bf16" or "int8", for `.onnx`; "bf16" or "fp32" for `.safetensors` on a GPU; other kinds
            refuse any but their own.
        threads: CPU threads, for `.onnx` (default: one a core) and `.safetensors` (default: PyTorch's choice).
        device: the GPU, for `.plan` (default: the first) and `.safetensors` (default: the CPU): "cuda", "cuda:1", or
            its index; "cpu".
        window: frames in a window. Sets that of the null engine (default 32); any other engine must have it already.
        joints: joints in a frame, likewise (default 50).
        graphs: CUDA graphs, on a GPU; see `rtskel.engine.tensorrt.PlanEngine`.
        warm_up: prepare every batch size now, on a GPU.
        rings: keep the rings of refinement on the GPU.

    Raises:
        EngineError: one line that names the file and what is wrong with it, what this machine lacks to run it, or an
            option that this kind of engine does not have.
    """
    path = located(path)
    info = None if str(path) == "null" else describe(path)
    kind = info.kind if info else "null"
    gpu = _gpu(path, device)
    if kind == "safetensors" and gpu is not None:
        kind = "safetensors on a GPU"
    elif kind == "onnx" and gpu is not None:
        raise EngineError(
            f"{path}: option device does not apply: .onnx runs on the CPU (on a GPU: .safetensors, .plan)"
        )
    elif kind == "plan" and device == "cpu":
        raise EngineError(f"{path}: a plan runs on a GPU only")
    module, name, accepted = _KINDS[kind]
    options: dict[str, Any] = {
        "precision": precision,
        "threads": threads,
        "device": gpu,
        "window": window,
        "joints": joints,
        "graphs": graphs,
        "warm_up": warm_up,
        "rings": rings,
    }
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in {"max_batch": max_batch, **given}.items():
        if option in ("max_batch", "threads", "window", "joints") and value < 1:
            raise EngineError(f"{path}: {option} must be at least 1, not {value}")
        if option == "max_batch" or option in accepted:
            continue
        if info is None or option not in ("precision", "window", "joints"):
            raise EngineError(f"{path}: option {option} does not apply to this kind of engine ({kind})")
        if getattr(info, option) != value:  # fixed by the file
            raise EngineError(f"{path}: its {option} is {getattr(info, option)}, not {value}")
    arguments = {option: value for option, value in given.items() if option in accepted}
    engine_class = getattr(importlib.import_module(module), name)
    engine: Engine = engine_class(*([] if info is None else [path]), max_batch=max_batch, **arguments)
    return engine


def _gpu(path: str | Path, device: int | str | None) -> int | None:
    """The index of the GPU that is meant; None: none was named, or the CPU."""
    if device is None or device == "cpu" or (isinstance(device, int) and device >= 0):
        return None if isinstance(device, str) else device
    found = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if not found:
        raise EngineError(f"{path}: device must be 'cpu', 'cuda', 'cuda:1' or the index of a GPU, not {device!r}")
    return int(found[1] or 0)
