from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from dfcore.data import CropStore
from dfcore.errors import ConfigError, DataError
from dfcore.training import Recipe
from dfcore.training.batches import check_classes, load_split
from tests.training.conftest import MakeStore

CPU = Fabric(accelerator="cpu", devices=1)


def test_load_split_takes_what_the_recipe_asks_for(plain: Recipe, store: CropStore) -> None:
    recipe = plain.override(["data.max_frames_per_video=1", "data.compressions=[raw]"])
    assert len(load_split(store, recipe, "train", None, CPU)) == 12
    few, again = (load_split(store, plain, "train", 10, CPU) for _ in range(2))
    assert len(few) == 10
    assert torch.equal(few.take(torch.arange(10)), again.take(torch.arange(10)))
    assert (
        load_split(store, plain.override(["data.residence=stream"]), "val", None, CPU).residence == "stream"
    )


def test_what_does_not_fit_is_refused(plain: Recipe, make_store: MakeStore, store: CropStore) -> None:
    with pytest.raises(ConfigError, match=r"model.image_size = 64 px"):
        load_split(store, plain.override(["model.image_size=64"]), "train", None, CPU)
    real = load_split(make_store(labels=(0,)), plain, "val", None, CPU)
    with pytest.raises(DataError, match="'val', got no fake one"):
        check_classes(real, "val")
