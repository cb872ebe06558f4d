"""The template of attacks that climb on a map of parameters, one value or vector for each pixel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks.template import Attack, Found

__all__ = ["MapAttack", "unit_rms"]

Render = Callable[[torch.Tensor], torch.Tensor]
"""Maps to images (N, 3, H, W)."""


def unit_rms(gradient: torch.Tensor) -> torch.Tensor:
    """Scale each sample's gradient (N, ...) to root mean square 1, so that a step has the map's own unit.

    A gradient of zero stays zero. The largest value goes first: the squares of a tiny gradient would be 0.
    """
    flat = gradient.flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-30)
    size = flat.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
    return (flat / size).view_as(gradient)


class MapAttack(Attack):
    """Gradient ascent on a map, from one start; a family says what the map does to the image.

    `bound`, `ascend` and `clamp` are hooks, so that a test can take one out and see the property checks fail.

    Attributes:
        steps: gradient steps.
        keep_best: return the worst image met, the clean one included, for two more forward passes; otherwise
            the last, as training takes it.
    """

    restarts: ClassVar[int] = 1
    steps: int = Field(default=10, ge=1)
    keep_best: bool = True

    @abstractmethod
    def renderer(self, images: torch.Tensor) -> Render:
        """Return the function from map to image; what depends on the images alone is done here, once."""

    @abstractmethod
    def begin(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return the map to start from."""

    @abstractmethod
    def bound(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the nearest map within the budget."""

    @abstractmethod
    def ascend(self, maps: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Go uphill on the margin; `slope` is its gradient to the map."""

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Climb, and keep what is worst for the detector."""
        render = self.renderer(images)
        maps = self.bound(self.begin(images, generator))
        found = (images, self.value(detector, images, labels, threshold)) if self.keep_best else None
        for _ in range(self.steps):
            candidates, value, maps = self.climb(detector, render, maps, labels, threshold)
            if found is not None:
                found = self.keep(found, candidates, value)
        last = self.clamp(render(maps))
        if found is None:
            return last
        return self.keep(found, last, self.value(detector, last, labels, threshold))[0]

    def climb(
        self,
        detector: nn.Module,
        render: Render,
        maps: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Take one step; return the images of the old map, their margins (N,), and the new map."""
        variable = maps.detach().requires_grad_()
        candidates = self.clamp(render(variable))
        value, pixel_slope = self.gradient(detector, candidates, labels, threshold)
        (slope,) = torch.autograd.grad(candidates, variable, pixel_slope)
        return candidates.detach(), value, self.bound(self.ascend(maps, slope))

    def keep(self, found: Found, candidates: torch.Tensor, value: torch.Tensor) -> Found:
        """Replace what was found where the candidate is worse for the detector."""
        better = value > found[1]
        worst = torch.where(better.view(-1, 1, 1, 1), candidates, found[0])
        return worst, torch.where(better, value, found[1])
