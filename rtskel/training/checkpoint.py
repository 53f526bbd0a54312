"""Checkpoints of training: tensors with a header in one .safetensors file, and the state of an optimiser as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rtskel.errors import RtskelError

Tensors = dict[str, Tensor]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Writes a file, complete or not at all.

    Raises:
        RtskelError: it cannot be written; what was there is kept.
    """
    partial = path.with_name(path.name + ".partial")
    kept = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    try:
        save_file(kept, str(partial), header)
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        raise RtskelError(f"{path}: cannot be written ({error}); what was there is kept") from None


def read_tensors(path: str | Path, key: str, what: str) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a file and its header, which has the entry `key` if the file is `what` it should be.

    Raises:
        RtskelError: it cannot be read, or its header has no such entry.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise RtskelError(f"{path}: cannot be read ({error})") from None
    except SafetensorError as error:
        raise RtskelError(f"{path}: cannot be read, not a {what} ({error})") from None
    if key not in header:
        raise RtskelError(f"{path}: not a {what}")
    return tensors, header


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def moments(optimiser: torch.optim.Optimizer) -> Tensors:
    """What an optimiser keeps of each parameter, by name."""
    return {
        f"optimiser.{k}.{name}": value
        for k, parameter in enumerate(_parameters(optimiser))
        for name, value in optimiser.state.get(parameter, {}).items()
    }


def restore(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives back to an optimiser what `moments` took."""
    for k, parameter in enumerate(_parameters(optimiser)):
        if found := under(f"optimiser.{k}.", tensors):
            device = parameter.device
            optimiser.state[parameter] = {n: v.to(device) if v.dim() else v for n, v in found.items()}


def _parameters(optimiser: torch.optim.Optimizer) -> Iterable[Tensor]:
    return (parameter for group in optimiser.param_groups for parameter in group["params"])
