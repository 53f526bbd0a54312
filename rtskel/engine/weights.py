"""Weights files: a `rtskel.model.Skeletor` as safetensors, its config in the metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rtskel.engine.metadata import describe, engine_metadata
from rtskel.errors import EngineError
from rtskel.model import PRESETS, Skeletor, SkeletorConfig


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values, so that every file made from the same weights has the same."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def model_metadata(model: Skeletor, precision: str = "fp32", name: str = "skeletor", **extra: str) -> dict[str, str]:
    """The metadata of every engine file made from this model; `extra` is kept as well."""
    config = model.config
    values = {"weights_hash": weights_hash(model.state_dict())} | extra
    return engine_metadata(
        name=name,
        window=config.window,
        joints=config.joints,
        skeleton=config.skeleton,
        preset=next((preset for preset, known in PRESETS.items() if known == config), "custom"),
        precision=precision,
        config=json.dumps(config.to_dict(), sort_keys=True),
        **values,
    )


def save_weights(model: Skeletor, path: str | Path, *, dtype: torch.dtype = torch.float32, **metadata: str) -> None:
    """Writes the weights, stored as `dtype`, as safetensors with the model's config in the metadata.

    Args:
        metadata: `name="..."` names the model; other keys are kept as `rtskel.<key>`.

    Raises:
        EngineError: the file cannot be written.
    """
    stored = {key: value.detach().cpu().to(dtype).contiguous() for key, value in model.state_dict().items()}
    name = metadata.pop("name", Path(path).stem)
    try:
        save_file(stored, str(path), model_metadata(model, name=name, weights_hash=weights_hash(stored), **metadata))
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{path}: cannot be written ({error})") from None


def load_weights(path: str | Path) -> Skeletor:
    """The model of a weights file, in float32 and in evaluation mode; EngineError names what is wrong with the file."""
    info = describe(path)
    if info.kind != "safetensors":
        raise EngineError(f"{path}: not a safetensors file")
    try:
        model = Skeletor(SkeletorConfig.from_dict(json.loads(info.extra["config"])))
        model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise EngineError(f"{path}: the weights do not fit their config ({reason})") from None
    return model.eval()
