from __future__ import annotations

import pytest
import torch

from dfcore.data import CropStore
from dfcore.training import AugmentationConfig, Recipe
from dfcore.training.batches import augment, batch_indices, class_weights, load_split


def test_balanced_batches_hold_both_classes_equally() -> None:
    labels = torch.tensor([0] * 5 + [1] * 35)
    generator = torch.Generator().manual_seed(0)
    batches = list(batch_indices(labels, 8, balanced=True, generator=generator))
    assert len(batches) == 5
    assert all(labels[batch].sum() == 4 for batch in batches)
    real = torch.cat(batches)[labels[torch.cat(batches)] == 0]
    assert set(real.tolist()) == set(range(5)), "a real crop was never used"


def test_plain_batches_visit_each_crop_once() -> None:
    labels = torch.arange(20) % 2
    batches = list(batch_indices(labels, 5, balanced=False, generator=torch.Generator()))
    assert sorted(torch.cat(batches).tolist()) == list(range(20))


def test_class_weights() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    assert class_weights(labels, balanced=True).tolist() == [1, 1]
    weights = class_weights(labels, balanced=False)
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert float(weights[0]) == pytest.approx(3 * float(weights[1]))


def test_augmentation_stays_in_the_box_and_repeats() -> None:
    images = torch.rand((16, 3, 8, 8), generator=torch.Generator().manual_seed(1))

    def change(config: AugmentationConfig) -> torch.Tensor:
        return augment(images, config, torch.Generator().manual_seed(2))

    assert torch.equal(change(AugmentationConfig(flip=0)), images)
    assert torch.equal(change(AugmentationConfig(flip=1)), images.flip(3))
    half = change(AugmentationConfig(flip=0.5))
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(half, images, strict=True)]
    assert 0 < sum(flipped) < 16
    strong = AugmentationConfig(noise=0.5, brightness=0.5)
    assert torch.equal(change(strong), change(strong))
    assert 0 <= float(change(strong).min()) <= float(change(strong).max()) <= 1


def test_load_split_takes_what_the_recipe_asks_for(plain: Recipe, store: CropStore) -> None:
    recipe = plain.override(["data.max_frames_per_video=1", "data.compressions=[raw]"])
    crops = load_split(store, recipe, "train", None, torch.device("cpu"))
    assert len(crops) == 12
    images, labels = crops.take(torch.tensor([3, 4]))
    assert images.shape == (2, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert labels.dtype == torch.int64
    few = load_split(store, plain, "train", 10, torch.device("cpu"))
    again = load_split(store, plain, "train", 10, torch.device("cpu"))
    assert len(few) == 10
    assert torch.equal(few.images, again.images)
