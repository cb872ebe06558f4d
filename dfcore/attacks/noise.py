"""Noise of the same size as an attack: the control that hardly hurts a sound detector."""

from __future__ import annotations

from typing import Literal

import torch

from dfcore.attacks.template import Attack
from dfcore.models import Detector

__all__ = ["RandomNoise"]


class RandomNoise(Attack):
    """A uniform point of the ball; the detector is not asked."""

    kind: Literal["noise"] = "noise"

    def perturb(
        self,
        detector: Detector,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Draw once."""
        return self.start(images, generator)
