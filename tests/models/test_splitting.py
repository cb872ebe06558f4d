from __future__ import annotations

import pytest
import torch

from dfcore.errors import ConfigError
from dfcore.models import DetectorConfig, build_detector, fold_batch_norm
from tests.models.conftest import settled
from tests.tolerances import TOLERANCE

SHAPES = {
    "efficientnet_b0": (24, 16, 16),
    "efficientvit": (24, 16, 16),
    "xception": (256, 8, 8),
    "resnet10_narrow": (48, 8, 8),
    "convnext_atto": (80, 8, 8),
}


@pytest.mark.parametrize("backbone", SHAPES)
def test_the_halves_are_the_whole(backbone: str, images: torch.Tensor) -> None:
    detector = settled(backbone)
    detector.calibrate(1.5, -0.25)
    pixels = images.requires_grad_()
    shallow, deep = detector.split_forward(2)
    maps = shallow(pixels)
    assert tuple(maps.shape[1:]) == SHAPES[backbone]
    logits = deep(maps)
    torch.testing.assert_close(logits, detector(pixels), **TOLERANCE[torch.float32])
    torch.testing.assert_close(
        torch.autograd.grad(logits.sum(), pixels)[0],
        torch.autograd.grad(detector(pixels).sum(), pixels)[0],
        **TOLERANCE[torch.float32],
    )


def test_splitting_changes_no_mode_and_follows_it(images: torch.Tensor) -> None:
    detector = settled("resnet10_narrow").train()
    detector.backbone.layer1.eval()
    flags = [module.training for module in detector.modules()]
    statistics = detector.backbone.layer3[0].bn1.running_mean.clone()
    split = detector.split_forward(1)
    assert [module.training for module in detector.modules()] == flags
    assert torch.equal(detector.backbone.layer3[0].bn1.running_mean, statistics)
    split.deep(split.shallow(images))
    assert not torch.equal(detector.backbone.layer3[0].bn1.running_mean, statistics)


def test_the_folded_twin_splits_too(images: torch.Tensor) -> None:
    detector = settled("efficientnet_b0")
    shallow, deep = fold_batch_norm(detector).split_forward(3)
    torch.testing.assert_close(deep(shallow(images)), detector(images), **TOLERANCE[torch.float32])


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "densenet121", "swin_tiny_patch4_window7_224"])
def test_what_is_no_chain_of_maps_is_refused(backbone: str) -> None:
    with pytest.raises(ConfigError, match=f"chain of blocks, got {backbone}"):
        build_detector(DetectorConfig(backbone=backbone, image_size=64)).split_forward()


@pytest.mark.parametrize("blocks", [0, 4])
def test_both_halves_need_a_block(blocks: int) -> None:
    detector = build_detector(DetectorConfig(backbone="resnet10t", image_size=64))
    with pytest.raises(ConfigError, match=f"block 1 to 3 of resnet10t, got {blocks}"):
        detector.split_forward(blocks)
