"""Adversarial training with pixel-wise Gaussian blur."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from dfcore.attacks import PixelBlur
from dfcore.attacks.blur import Window
from dfcore.defences.template import Defence, TrainingState
from dfcore.defences.terms import Term, weighted_terms

__all__ = ["BlurAdversarialTraining"]


class BlurAdversarialTraining(Defence):
    """Train on clean images and on images whose class an attacker blurs away, pixel by pixel.

    It makes a detector look beyond the finest traces, which other generators and compression do not share;
    it is no defence against perturbations that are bounded in a norm.

    Attributes:
        max_sigma: largest standard deviation of the blur, in pixels.
        window: odd side of the neighbourhood, in pixels.
        step_size: of the attacker, in pixels for a gradient of root mean square 1.
        steps: of the attacker, from a random map.
        clean_weight: share of the clean loss, 0..1; at 0 clean images are not passed at all.

    Source: Wang et al., arXiv:2103.13567: one step in a 3 x 3 window at a sigma of about 2, equal weights.
    Their step multiplies a raw gradient that shrinks with batch size and confidence, so that it is replaced
    by one of half the range.
    """

    adversarial: ClassVar[bool] = True
    kind: Literal["blur_at"] = "blur_at"
    max_sigma: float = Field(default=2.0, ge=0, le=16)
    window: Window = 3
    step_size: float = Field(default=1.0, gt=0)
    steps: int = Field(default=1, ge=1)
    clean_weight: float = Field(default=0.5, ge=0, lt=1)

    @property
    def attack(self) -> PixelBlur:
        """The attacker, as training plays it: the last map counts."""
        return PixelBlur(
            max_sigma=self.max_sigma,
            window=self.window,
            step_size=self.step_size,
            steps=self.steps,
            keep_best=False,
        )

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Return the batch blurred, (N, 3, H, W)."""
        return (self.attack.craft(state.crafting, images, labels, generator=state.generator),)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weigh clean and blurred loss."""
        terms = {
            "clean": Term(self.clean_weight, images),
            "blur": Term(1 - self.clean_weight, attacked[0]),
        }
        return weighted_terms(detector, labels, terms, state)
