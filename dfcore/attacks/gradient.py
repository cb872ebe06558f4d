"""White-box attacks that follow the gradient's sign."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from dfcore.attacks.template import Attack, margin
from dfcore.config import Epsilon
from dfcore.models import Detector

__all__ = ["FGSM", "PGD"]


class FGSM(Attack):
    """One step of size epsilon.

    Source: Goodfellow et al., arXiv:1412.6572.
    """

    kind: Literal["fgsm"] = "fgsm"

    def perturb(
        self,
        detector: Detector,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,  # nothing is random here
    ) -> torch.Tensor:
        """Step once from the clean image."""
        _, slope = self.gradient(detector, images, labels, threshold)
        return self.clamp(self.project(self.step(images, slope, self.epsilon), images))


class PGD(Attack):
    """Projected gradient ascent on the margin; projection is around the clean image.

    Attributes:
        step_size: in pixel units.
        steps: gradient steps of each restart.
        restarts: independent starts; the worst result counts, for each image.
        random_start: start at a uniform point of the ball; otherwise at the clean image.
        keep_best: return the worst point met, the clean image included, for two more forward passes.
            Otherwise the last point of one start, as training takes it; restarts are ignored.

    Source: Madry et al., arXiv:1706.06083.
    """

    kind: Literal["pgd"] = "pgd"
    step_size: Epsilon = Field(default=2 / 255)
    steps: int = Field(default=20, ge=1)
    restarts: int = Field(default=1, ge=1)
    random_start: bool = True
    keep_best: bool = True

    def perturb(
        self,
        detector: Detector,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Climb from each start and keep what is worst for the detector."""
        if not self.keep_best:
            return self._last(detector, images, labels, threshold, generator)
        best = images
        with torch.no_grad():
            highest = margin(detector, images, labels, threshold)
        for _ in range(self.restarts):
            current = self.start(images, generator) if self.random_start else images
            for step in range(self.steps + 1):
                if step < self.steps:
                    value, slope = self.gradient(detector, current, labels, threshold)
                else:
                    with torch.no_grad():
                        value = margin(detector, current, labels, threshold)
                # where, and no branch: a branch would wait for the device
                better = value > highest
                best = torch.where(better.view(-1, 1, 1, 1), current, best)
                highest = torch.where(better, value, highest)
                if step < self.steps:
                    current = self.advance(current, slope, images)
        return best

    def advance(self, current: torch.Tensor, slope: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Step, then return to the ball and the box."""
        return self.clamp(self.project(self.step(current, slope, self.step_size), images))

    def _last(
        self,
        detector: Detector,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        current = self.start(images, generator) if self.random_start else images
        for _ in range(self.steps):
            _, slope = self.gradient(detector, current, labels, threshold)
            current = self.advance(current, slope, images)
        return current
