"""One split of a store, as the recipe asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
from lightning_fabric import Fabric

from dfcore.data.loader import SplitCrops
from dfcore.data.shards import Residence, choose_residence
from dfcore.errors import ConfigError, DataError
from dfcore.training.processes import largest, started_by_torchrun
from dfcore.training.recipe import Recipe

if TYPE_CHECKING:
    from dfcore.data import CropStore

__all__ = ["check_classes", "load_split"]

_CLASSES = ("real", "fake")
# from the one that takes most room
_RESIDENCES: tuple[Residence, ...] = get_args(Residence)


def load_split(store: CropStore, recipe: Recipe, split: str, limit: int | None, fabric: Fabric) -> SplitCrops:
    """Choose one split's crops and bring them where the recipe wants them, alike in every process.

    Raises:
        ConfigError: the crops have another size than the model asks for, or do not fit where they should lie.
        DataError: no crops are left, or a shard is damaged.
    """
    config = recipe.data
    if store.config.image_size != recipe.model.image_size:
        raise ConfigError(
            f"expected crops of model.image_size = {recipe.model.image_size} px, got a store of "
            f"{store.config.image_size} px; prepare again or set model.image_size"
        )
    rows = store.rows(
        split=split, compression=config.compressions, max_frames_per_video=config.max_frames_per_video
    )
    if limit is not None and len(rows) > limit:
        # its own seed: the choice must not change with anything else
        rows = rows[np.sort(np.random.default_rng(recipe.seed).choice(len(rows), limit, replace=False))]
    here, _, _ = started_by_torchrun()
    num_bytes = len(rows) * store.config.image_size**2 * 3
    chosen = choose_residence(config.residence, num_bytes, fabric.device, processes=here)
    # streamed crops are shuffled otherwise: processes of different minds would not share the same batches
    agreed = _RESIDENCES[largest(_RESIDENCES.index(chosen), fabric)]
    return SplitCrops(store, rows, device=fabric.device, residence=agreed)


def check_classes(crops: SplitCrops, split: str) -> None:
    """Require both classes, which calibration and AUC need.

    Raises:
        DataError: one is missing.
    """
    for value, name in enumerate(_CLASSES):
        if not (crops.labels == value).any():
            raise DataError(
                f"expected real and fake crops in split {split!r}, got no {name} one among {len(crops)}; "
                "check data.compressions and the corpus"
            )
