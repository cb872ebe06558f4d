"""Attacks that look for the nearest point with the wrong decision, whatever the budget."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

from dfcore.attacks.template import Found, NormAttack, check_batch
from dfcore.models import crafting_mode

__all__ = ["MinimalAttack"]

_BISECTIONS = 8


class MinimalAttack(NormAttack):
    """An attack whose result is a distance; within a budget it returns what lies nearest, projected."""

    @abstractmethod
    def search(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> Found:
        """Return points (N, 3, H, W) and distances (N,): 0 where the decision was wrong already, infinity
        where none was found, with any point that comes close."""

    def nearest(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the nearest points found with the wrong decision, whatever epsilon is.

        Args and errors are those of `__call__`.

        Returns:
            Points (N, 3, H, W), the clean image where none was found, and their distances (N,) in the norm: 0
            where the decision was wrong already, infinity where none was found.
        """
        check_batch(images, labels, threshold)
        with torch.inference_mode(False), torch.enable_grad(), crafting_mode(detector):
            clean = images.detach().clone()
            point, distance = self.search(detector, clean, labels.clone(), threshold, generator)
        return torch.where(torch.isfinite(distance).view(-1, 1, 1, 1), point, clean), distance

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Search; what lies beyond epsilon is projected and kept if it hurts."""
        clean: Found = (images, self.value(detector, images, labels, threshold))
        point, _ = self.search(detector, images, labels, threshold, generator)
        return self.within(detector, images, labels, threshold, clean, point)[0]

    def within(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        found: Found,
        point: torch.Tensor,
    ) -> Found:
        """Project a point and keep it where it is worse for the detector than what was found."""
        point = self.clamp(self.project(point, images))
        return self.keep(found, point, self.value(detector, point, labels, threshold))

    def shorten(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        best: Found,
    ) -> Found:
        """Bisect the way from the clean image as far as the decision stays wrong."""
        move = best[0] - images
        low, high = torch.zeros_like(best[1]), torch.ones_like(best[1])
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            point = images + middle.view(-1, 1, 1, 1) * move
            wrong = self.value(detector, point, labels, threshold) > 0
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
            best = nearer_of(best, point, torch.where(wrong, self.distance.size(point - images), torch.inf))
        return best


def nearer_of(best: Found, points: torch.Tensor, distance: torch.Tensor) -> Found:
    """Replace the images (N, 3, H, W) for which the distance (N,) is smaller."""
    nearer = distance < best[1]
    return torch.where(nearer.view(-1, 1, 1, 1), points, best[0]), torch.where(nearer, distance, best[1])
