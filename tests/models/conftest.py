from __future__ import annotations

import pytest
import torch

from dfcore.models import Detector, DetectorConfig, build_detector


def settled(backbone: str, size: int = 64) -> Detector:
    """A detector whose batch statistics are no longer the defaults."""
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=size), seed=1)
    generator = torch.Generator().manual_seed(0)
    detector.train()
    with torch.no_grad():
        for _ in range(3):
            detector(torch.rand((8, 3, size, size), generator=generator))
    return detector.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(5))
