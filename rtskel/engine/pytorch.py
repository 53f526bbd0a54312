"""safetensors weights in PyTorch on the CPU: slow, but the reference that the other engines are checked against."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtskel.engine.base import Engine
from rtskel.engine.metadata import EngineInfo, describe
from rtskel.errors import EngineError


def load_model(path: str | Path) -> tuple[EngineInfo, Any, Any]:
    """What the file of weights says of itself, PyTorch's module, and the model in float32 on the CPU.

    Raises:
        EngineError: PyTorch is not installed; unreadable or unfitting file, or weights that are not what their hash
            says.
    """
    info = describe(path)
    try:
        torch: Any = importlib.import_module("torch")
        weights: Any = importlib.import_module("rtskel.engine.weights")
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{path}: running safetensors weights needs {error.name} (pip install 'rtskel[train]'); "
            "an exported .onnx needs neither"
        ) from None
    model = weights.load_weights(path)
    if weights.weights_hash(model.state_dict()) != info.weights_hash:
        raise EngineError(f"{path}: damaged (its weights are not the ones of rtskel.weights_hash)")
    return info, torch, model


class SafetensorsEngine(Engine):
    """Runs weights that `rtskel train` wrote, in float32 on the CPU, exactly as `rtskel.model` writes the equations.

    Args:
        path: the file.
        max_batch: the most windows of one `run`.
        threads: PyTorch's threads, for the whole process; default: left as they are.

    Raises:
        EngineError: see `load_model`.
    """

    def __init__(self, path: str | Path, *, max_batch: int = 64, threads: int | None = None) -> None:
        info, self._torch, self._model = load_model(path)
        if threads is not None:
            self._torch.set_num_threads(threads)
        super().__init__(replace(info, precision="fp32", builder=f"torch {self._torch.__version__}"), max_batch)

    def _run(
        self, x: NDArray[np.float32], missing: NDArray[np.bool_], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        torch = self._torch
        with torch.inference_mode():
            # Copies, because torch warns about read-only arrays; the reference need not be fast.
            wanted = None if positions is self._every else torch.tensor(positions)
            y: NDArray[np.float32] = self._model(torch.tensor(x), torch.tensor(missing), wanted).contiguous().numpy()
        return y

    def _close(self) -> None:
        del self._model
