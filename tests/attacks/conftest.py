from __future__ import annotations

import pytest
import torch
from torch import nn

from dfcore.models import Detector, DetectorConfig


class TinyNet(nn.Module):
    """A small smooth network with batch norm and dropout, so that modes matter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU()
        )
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.body(pixels).mean((2, 3)))) * 200


@pytest.fixture(scope="session")
def detector() -> Detector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = Detector(DetectorConfig(backbone="tiny", image_size=32), TinyNet())
        built.train()
        with torch.no_grad():
            for _ in range(3):
                built(torch.rand((16, 3, 32, 32)))
            # centre the logits, so that both decisions occur
            built.eval()
            built.backbone.head.bias -= built(torch.rand((64, 3, 32, 32))).mean() / 200
    return built
