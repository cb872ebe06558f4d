"""A small U-Net that paints a bounded perturbation in one pass."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from dfcore.attacks.learned import LearnedAttack
from dfcore.attacks.norms import NormName
from dfcore.attacks.realism import low_frequency_energy, total_variation
from dfcore.config import Epsilon

__all__ = ["UNetAttack", "convolutions"]


def convolutions(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with group norm, which treats an image alike in every batch."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )


class _UNet(nn.Module):
    """Widths 16 and 32, then 64, 128, 64 at a quarter of the size, and back; 0.45 M parameters, any size."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = convolutions(3, 16)
        self.middle = convolutions(16, 32)
        self.coarse = nn.Sequential(convolutions(32, 64), convolutions(64, 128), convolutions(128, 64))
        self.back_middle = convolutions(64 + 32, 32)
        self.back_fine = convolutions(32 + 16, 16)
        self.paint = nn.Conv2d(16, 6, 1)
        # no perturbation at first: a game starts from the clean task
        for value in self.paint.parameters():
            nn.init.zeros_(value)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N, 6, H, W): three planes for reals, three for fakes."""
        fine = self.fine(2 * images - 1)
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        middle = self.back_middle(torch.cat([_enlarge(coarse, middle), middle], 1))
        fine = self.back_fine(torch.cat([_enlarge(middle, fine), fine], 1))
        painted: torch.Tensor = self.paint(fine)
        return painted


def _enlarge(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear")


class UNetAttack(LearnedAttack):
    """A network that sees the image and its class, and paints epsilon * tanh(.) on it.

    Its loss is -margin + tv_weight * TV + frequency_weight * low-frequency energy, with the margin in units
    of `pull` and both other terms of the perturbation divided by epsilon, so that the weights compare with 1
    whatever the detector and the budget. It paints one set of planes for each class, as an attacker knows
    what he sends.

    Attributes:
        epsilon: the budget, in pixel units of [0, 1].
        tv_weight: of the total variation, 0..4 for a perturbation at the budget.
        frequency_weight: of the energy near zero frequency, 0..1 for a perturbation at the budget.
        frequency_radius: of the disc that counts as near, as a share of the shorter side, in cycles an image.
    """

    kind: Literal["unet"] = "unet"
    norm: ClassVar[NormName] = "linf"
    epsilon: Epsilon = Field(default=8 / 255)
    tv_weight: float = Field(default=0.2, ge=0)
    frequency_weight: float = Field(default=1.0, ge=0)
    frequency_radius: float = Field(default=0.125, gt=0, le=0.5)

    def build(self) -> nn.Module:
        """Return a fresh U-Net, which paints nothing yet."""
        return _UNet()

    def generate(
        self, network: nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Paint the planes of each image's class; pay for roughness and for broad washes."""
        planes = network(images).float()
        raw = torch.where(labels.view(-1, 1, 1, 1) == 1, planes[:, 3:], planes[:, :3])
        share = self.gate(raw)
        unreal = self.tv_weight * total_variation(share)
        unreal = unreal + self.frequency_weight * low_frequency_energy(share, self.frequency_radius)
        return self.clamp(images + self.epsilon * share), unreal

    def gate(self, raw: torch.Tensor) -> torch.Tensor:
        """Squash to the share of the budget, -1..1."""
        return raw.tanh()

    def pull(self, slope: torch.Tensor) -> torch.Tensor:
        """As for every learned attack, for pixels in units of epsilon."""
        return super().pull(slope) / max(self.epsilon, 1e-12)
