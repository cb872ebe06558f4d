"""Noise of the same size as an attack: the control that hardly hurts a sound detector."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from dfcore.attacks.template import Knowledge, NormAttack

__all__ = ["RandomNoise"]


class RandomNoise(NormAttack):
    """A uniform point of the ball; the detector is not asked."""

    knowledge: ClassVar[Knowledge] = "none"
    kind: Literal["noise"] = "noise"

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Draw once."""
        return self.start(images, generator)
