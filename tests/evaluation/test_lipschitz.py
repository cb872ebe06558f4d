"""The local Lipschitz estimate on functions whose constant is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfcore.evaluation import local_lipschitz


class Linear(nn.Module):
    """z = w x: the constant in L-infinity is the L1 norm of w, everywhere."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn((3, 6, 6), generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.weight).sum(dim=(1, 2, 3))


def test_of_a_linear_function_it_is_exact() -> None:
    detector = Linear()
    images = torch.full((3, 3, 6, 6), 0.5)
    found = local_lipschitz(detector, images, epsilon=8 / 255, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, detector.weight.detach().abs().sum().expand(3), rtol=1e-3, atol=1e-3)
    assert detector.weight.grad is None


def test_it_finds_the_steep_part_of_the_ball() -> None:
    class Kink(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            mean = images.mean(dim=(1, 2, 3))
            return mean + 100 * (mean - 0.52).clamp_min(0)

    images = torch.full((2, 3, 4, 4), 0.5)
    flat, steep = (float(local_lipschitz(Kink(), images, epsilon=eps)[0]) for eps in (4 / 255, 16 / 255))
    assert flat == pytest.approx(1, rel=1e-2)
    # at the ball's far end: (.0627 + 100 * .0427) / .0627
    assert steep == pytest.approx(1 + 100 * (16 / 255 - 0.02) / (16 / 255), rel=0.05)
    assert float(local_lipschitz(Kink(), images * 0, epsilon=1 / 255)[0]) == pytest.approx(1, rel=1e-2)
