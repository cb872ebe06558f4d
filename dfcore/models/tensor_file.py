"""Tensors on disk: safetensors files that are whole and that others may read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dfcore.storage.writing import staged

__all__ = ["save_tensors"]


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors so that a reader sees the old file or the new one, never a part.

    Args:
        path: replaced if it exists; its folder is made. Others may read it, as they may read what stands
            beside it: safetensors alone leaves a file to its owner.
        tensors: on any device, of any shape.
        metadata: text beside them.

    Raises:
        WorkFailed: the file can't be written (full disk, no permission).
    """
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with staged(path) as temporary:
        try:
            save_file(state, temporary.path, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error  # `staged` names the file
        with temporary.path.open("rb") as stream:  # safetensors has put another file in its place
            os.fsync(stream.fileno())
        temporary.replace(path)
