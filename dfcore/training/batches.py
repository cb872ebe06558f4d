"""Crops on the device, and the batches made of them; nothing in here waits for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dfcore.errors import ConfigError, DataError
from dfcore.training.recipe import AugmentationConfig, DataConfig, Recipe

if TYPE_CHECKING:
    from dfcore.data import CropStore

__all__ = ["DeviceCrops", "augment", "batch_indices", "class_weights", "load_split"]

_CLASSES = ("real", "fake")


@dataclass(frozen=True)
class DeviceCrops:
    """One split in the device's memory.

    Attributes:
        images: (n, H, W, 3) uint8.
        labels: (n,) int64.
        group_ids: distinct, sorted.
    """

    images: torch.Tensor
    labels: torch.Tensor
    group_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (N, 3, H, W) float32 in [0, 1], channels last in memory, and labels (N,)."""
        indices = indices.to(self.labels.device)
        images = self.images.index_select(0, indices).permute(0, 3, 1, 2).float().div_(255)
        return images, self.labels.index_select(0, indices)


def load_split(
    store: CropStore, recipe: Recipe, split: str, limit: int | None, device: torch.device
) -> DeviceCrops:
    """Read one split into the device's memory.

    Raises:
        ConfigError: the crops have another size than the model asks for.
        DataError: the split lacks a class.
    """
    config = recipe.data
    if store.config.image_size != recipe.model.image_size:
        raise ConfigError(
            f"expected crops of model.image_size = {recipe.model.image_size} px, got a store of "
            f"{store.config.image_size} px; prepare again or set model.image_size"
        )
    crops = store.select(
        split=split, compression=config.compressions, max_frames_per_video=config.max_frames_per_video
    )
    chosen = np.arange(len(crops))
    if limit is not None and len(chosen) > limit:
        # its own seed: the choice must not change with anything else
        chosen = np.sort(np.random.default_rng(recipe.seed).choice(chosen, limit, replace=False))
    labels = np.asarray(crops.labels)[chosen]
    for value, name in enumerate(_CLASSES):
        if not (labels == value).any():
            raise DataError(
                f"expected real and fake crops in split {split!r}, got no {name} one among {len(labels)}; "
                f"check data.compressions {_or_all(config)} and the corpus"
            )
    return DeviceCrops(
        images=torch.from_numpy(np.ascontiguousarray(crops.images[chosen])).to(device),
        labels=torch.from_numpy(labels.astype(np.int64)).to(device),
        group_ids=tuple(sorted({str(group) for group in np.asarray(crops.group_ids)[chosen]})),
    )


def class_weights(labels: torch.Tensor, *, balanced: bool) -> torch.Tensor:
    """Return loss weights (2,) of real and fake with mean 1 over the batch's expected content.

    Balanced batches need none; otherwise n / (2 * count).
    """
    if balanced:
        return torch.ones(2, device=labels.device)
    counts = torch.bincount(labels, minlength=2).float()
    return len(labels) / (2 * counts)


def batch_indices(
    labels: torch.Tensor, batch_size: int, *, balanced: bool, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield index tensors (batch_size,) on the CPU for one epoch; every batch has the same size.

    Args:
        labels: (n,) on the CPU.
        batch_size: at most n is used.
        balanced: half real (one fewer if odd), half fake; the rarer class is repeated in fresh orders.
        generator: on the CPU.
    """
    size = min(batch_size, len(labels))
    batches = len(labels) // size
    if not balanced or size < 2:
        order = torch.randperm(len(labels), generator=generator)
        yield from order[: batches * size].view(batches, size)
        return
    halves = []
    for value, share in ((0, size // 2), (1, size - size // 2)):
        members = torch.nonzero(labels == value).squeeze(1)
        rounds = math.ceil(batches * share / len(members))
        orders = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
        halves.append(torch.cat(orders)[: batches * share].view(batches, share))
    yield from torch.cat(halves, dim=1)


def augment(images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator) -> torch.Tensor:
    """Mirror, shift and add noise.

    Args:
        images: (N, 3, H, W) float32 in [0, 1].
        config: how much.
        generator: on the images' device.

    Returns:
        (N, 3, H, W) float32 in [0, 1].
    """
    shape = (len(images), 1, 1, 1)

    def uniform() -> torch.Tensor:
        return torch.rand(shape, generator=generator, device=images.device)

    changed = False
    if config.flip:
        images = torch.where(uniform() < config.flip, images.flip(3), images)
    if config.brightness:
        images, changed = images + config.brightness * (2 * uniform() - 1), True
    if config.noise:
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        images, changed = images + config.noise * uniform() * noise, True
    return images.clamp(0, 1) if changed else images


def _or_all(config: DataConfig) -> str:
    return "(all)" if config.compressions is None else repr(config.compressions)
