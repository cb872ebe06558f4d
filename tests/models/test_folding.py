from __future__ import annotations

import logging

import pytest
import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from dfcore.models import fold_batch_norm
from dfcore.models.detector import Detector, DetectorConfig
from tests.models.conftest import settled
from tests.tolerances import TOLERANCE


def gradient(detector: Detector, images: torch.Tensor) -> torch.Tensor:
    pixels = images.clone().requires_grad_()
    return torch.autograd.grad(detector(pixels).sum(), pixels)[0]


@pytest.mark.parametrize("backbone", ["resnet10t", "efficientnet_b0", "efficientvit", "xception"])
def test_folded_equals_original(backbone: str, images: torch.Tensor) -> None:
    detector = settled(backbone)
    detector.calibrate(1.5, 0.25)
    folded = fold_batch_norm(detector)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left == 0
    torch.testing.assert_close(folded(images), detector(images), **TOLERANCE[torch.float32])
    torch.testing.assert_close(
        gradient(folded, images), gradient(detector, images), **TOLERANCE[torch.float32]
    )
    torch.testing.assert_close(folded.features(images), detector.features(images), **TOLERANCE[torch.float32])


def test_refresh_follows_the_original_and_leaves_it_alone(images: torch.Tensor) -> None:
    detector = settled("efficientnet_b0")
    folded = fold_batch_norm(detector.train())
    optimiser = torch.optim.SGD(detector.parameters(), lr=0.01)
    detector(images).sum().backward()
    optimiser.step()
    detector.threshold = 0.3
    folded.refresh(detector)
    assert all(module.training for module in detector.modules())
    assert not any(module.training for module in folded.train().modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert folded.threshold == 0.3
    torch.testing.assert_close(folded(images), detector.eval()(images), **TOLERANCE[torch.float32])


def test_the_twin_saves_passes_and_keeps_names(images: torch.Tensor) -> None:
    detector = settled("efficientnet_b0")
    folded = fold_batch_norm(detector)
    assert not any(module.inplace for module in folded.modules() if isinstance(module, nn.SiLU))
    assert any(module.inplace for module in detector.modules() if isinstance(module, nn.SiLU))
    assert folded.backbone.conv_head.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(isinstance(module, SqueezeExcite) for module in folded.modules())
    assert any(isinstance(module, SqueezeExcite) for module in detector.modules())
    gates = {name for name in detector.state_dict() if ".se." in name}
    assert gates <= set(folded.state_dict())


class Branching(nn.Module):
    """The convolution's output is used beside the batch norm, so that it can't be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = self.conv(pixels)
        return self.head((maps.square() + self.bn(maps)).mean((2, 3)))


def test_what_cannot_be_folded_stays_whole(images: torch.Tensor, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    detector = Detector(DetectorConfig(backbone="branching", image_size=64), Branching()).train()
    detector(images)
    with caplog.at_level(logging.WARNING):
        folded = fold_batch_norm(detector.eval())
    assert "can't be folded" in caplog.text
    torch.testing.assert_close(folded(images), detector(images))
