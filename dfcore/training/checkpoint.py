"""Checkpoints for resume: one safetensors file, written atomically; no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dfcore.errors import WorkFailed
from dfcore.models import save_tensors

__all__ = ["load_checkpoint", "optimiser_tensors", "restore_optimiser", "save_checkpoint"]

_KEY = "rampart"


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], document: dict[str, Any]) -> None:
    """Write tensors and a JSON document into one file, atomically.

    Args:
        path: replaced if it exists.
        tensors: on any device.
        document: JSON-able.
    """
    save_tensors(path, tensors, {_KEY: json.dumps(document)})


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Raises:
        WorkFailed: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            document = json.loads((stream.metadata() or {})[_KEY])
            return {name: stream.get_tensor(name) for name in stream.keys()}, document  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise WorkFailed(
            f"expected a checkpoint at {path}, got: {error}; delete it to start again"
        ) from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Flatten an optimiser's state to named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimiser_tensors` returned."""
    document = optimiser.state_dict()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if value.ndim and value.shape == parameter.shape:
            # fused kernels want moments to lie as the weights do, and a file holds them row by row
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**document, "state": state})
