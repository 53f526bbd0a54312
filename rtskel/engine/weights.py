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

from rtskel.engine.metadata import EngineInfo, describe, engine_metadata, tensor_shapes
from rtskel.errors import EngineError, RtskelError
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


def _check_sizes(config: SkeletorConfig, info: EngineInfo, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError unless the file holds weights as large as its config says: before memory is taken for them."""
    if (config.window, config.joints) != (info.window, info.joints):
        raise ValueError(f"windows of {config.window} frames and {config.joints} joints")
    up, size = "trunk.layers.{}.up.weight", (config.d_ff, config.d_model)
    if shapes.get(up.format(config.layers - 1)) != size or up.format(config.layers) in shapes:
        raise ValueError(f"it says {config.layers} layers of {config.d_model} and {config.d_ff}")
    if len(shapes) < config.layers:
        raise ValueError(f"it says {config.layers} layers and holds {len(shapes)} tensors")


def load_weights(path: str | Path) -> Skeletor:
    """The model of a weights file, in float32 and in evaluation mode; EngineError names what is wrong with the file."""
    info = describe(path)
    if info.kind != "safetensors":
        raise EngineError(f"{path}: not a safetensors file")
    shapes = tensor_shapes(path)
    try:
        config = SkeletorConfig.from_dict(json.loads(info.extra["config"]))
        _check_sizes(config, info, shapes)
        model = Skeletor(config)
        model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except (
        SafetensorError,
        RtskelError,
        ArithmeticError,
        LookupError,
        RuntimeError,
        OSError,
        TypeError,
        ValueError,
    ) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0][:200]  # RecursionError is a RuntimeError
        raise EngineError(f"{path}: the weights do not fit their config ({reason})") from None
    return model.eval()
