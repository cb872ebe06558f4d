from __future__ import annotations

import math

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


class SmallNet(nn.Module):
    """A network with enough bends that one step is worse than many."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(width, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(pixels).mean((2, 3)))


def faces(seed: int, count: int, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth random images; the fakes carry a faint fine grating of any direction and phase.

    No single linear filter finds it, so that the boundary of a detector that does is bent.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 4, 4), generator=generator)
    images = nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    images = images + 0.03 * torch.randn(images.shape, generator=generator)
    angle, phase = (torch.rand((2, count, 1, 1), generator=generator) * 2 * math.pi).unbind()
    grid = torch.arange(side)
    wave = torch.cos(2.2 * (angle.cos() * grid[:, None] + angle.sin() * grid) + phase).unsqueeze(1)
    labels = torch.arange(count) % 2
    return (images + 0.08 * wave * labels.view(-1, 1, 1, 1)).clamp(0, 1), labels


def train_small(seed: int, steps: int = 80) -> Detector:
    """A tiny detector that has learned to tell the two apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = Detector(DetectorConfig(backbone=f"small{seed}", image_size=24), SmallNet())
        optimiser = torch.optim.Adam(built.parameters(), lr=0.01)
        for step in range(steps):
            images, labels = faces(1000 * seed + step, 32)
            loss = nn.functional.binary_cross_entropy_with_logits(built(images), labels.float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return built.requires_grad_(True).eval()


@pytest.fixture(scope="session")
def trained() -> Detector:
    return train_small(1)


@pytest.fixture(scope="session")
def sibling() -> Detector:
    """Another detector, trained on other images of the same kind."""
    return train_small(2)
