"""A generator that blurs away what gives an image's class away."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from dfcore.attacks.blur import SMALLEST_SIGMA, Window, blur_rings, pixelwise_blur
from dfcore.attacks.learned import LearnedAttack
from dfcore.attacks.unet import convolutions

__all__ = ["BlurGenerator", "Width"]

Width = Annotated[int, Field(ge=8, multiple_of=8)]  # the group norm has eight groups


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = convolutions(width, width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = maps + self.body(maps)
        return changed


class _Painter(nn.Module):
    """An image-to-image ResNet: halved twice, three residual blocks, enlarged twice; one plane out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolutions(3, width),
            convolutions(width, 2 * width, stride=2),
            convolutions(2 * width, 4 * width, stride=2),
            *(_Residual(4 * width) for _ in range(3)),
        )
        self.back_middle = convolutions(4 * width, 2 * width)
        self.back_fine = convolutions(2 * width, width)
        self.paint = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.body(2 * images - 1)
        height, width = images.shape[-2:]
        middle = ((height + 1) // 2, (width + 1) // 2)
        maps = self.back_middle(F.interpolate(maps, middle, mode="bilinear"))
        maps = self.back_fine(F.interpolate(maps, (height, width), mode="bilinear"))
        painted: torch.Tensor = self.paint(maps)
        return painted


class _Pair(nn.Module):
    """One network for reals and one for fakes, each for its own images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.real = _Painter(width)
        self.fake = _Painter(width)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        fake = labels == 1
        if images.is_cuda:  # a choice of rows would wait for the GPU, and every batch have other shapes
            return torch.where(fake.view(-1, 1, 1, 1), self.fake(images), self.real(images))
        order = torch.argsort(torch.cat([fake.nonzero(), (~fake).nonzero()]).flatten())
        return torch.cat([self.fake(images[fake]), self.real(images[~fake])])[order]


class BlurGenerator(LearnedAttack):
    """Two networks, one for each class, that paint a map of standard deviations for a pixel-wise blur.

    Attributes:
        max_sigma: the budget: largest standard deviation, in pixels; at 0 the image stays as it is.
        window: odd side of the neighbourhood, in pixels.
        width: channels at full size, in eights; twice and four times as many at a half and a quarter. The
            published networks have 64, at about sixteen times the cost of the default.

    Source: Wang et al., arXiv:2103.13567 (generative game).
    """

    kind: Literal["blur_generator"] = "blur_generator"
    max_sigma: float = Field(default=2.0, ge=0, le=16)
    window: Window = 5
    width: Width = 16

    def build(self) -> nn.Module:
        """Return fresh networks."""
        return _Pair(self.width)

    def generate(
        self, network: nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blur with the painted map; a blur within the budget is real enough and pays nothing."""
        sigma = self.gate(network(images, labels).float())
        blurred = pixelwise_blur(blur_rings(images, self.window), sigma, self.window)
        return self.clamp(blurred), sigma.new_zeros(len(sigma))

    def gate(self, raw: torch.Tensor) -> torch.Tensor:
        """Squash to standard deviations within the budget."""
        lowest = min(SMALLEST_SIGMA, self.max_sigma)
        return lowest + (self.max_sigma - lowest) * raw.sigmoid()
