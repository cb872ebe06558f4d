"""Attacks whose change is small in the Euclidean norm."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks.gradient import RestartedAscent
from dfcore.attacks.minimal import MinimalAttack
from dfcore.attacks.norms import Budget
from dfcore.attacks.template import Found

__all__ = ["CWL2", "PGDL2"]

_EDGE = 1 - 1e-6  # the inverse of tanh is infinite at the box's edge
_FIRST_DECAY, _SECOND_DECAY, _TINY = 0.9, 0.999, 1e-8  # Adam's


class PGDL2(RestartedAscent):
    """PGD with an L2 budget; the settings are PGD's, sizes are distances.

    Attributes:
        epsilon: a distance over all pixels and channels, such as 1.0.
        step_size: a distance.

    Source: Madry et al., arXiv:1706.06083.
    """

    kind: Literal["pgd-l2"] = "pgd-l2"
    norm: Literal["l2"] = "l2"
    epsilon: Budget = Field(default=1.0)
    step_size: Budget = Field(default=0.2)


class CWL2(MinimalAttack):
    """Carlini and Wagner's attack: the smallest L2 change that turns the decision.

    It minimises |change|^2 + c * max(0, -margin) over pixels written as a tanh, so that no projection
    disturbs the optimiser, and searches c for each image.

    Attributes:
        epsilon: a distance; what lies beyond it is projected.
        steps: of Adam for each c.
        searches: values of c that are tried.
        learning_rate: of Adam.
        constant: the first c. One tenth or ten times is tried next until both outcomes are met.

    Source: Carlini & Wagner, arXiv:1608.04644.
    """

    kind: Literal["cw-l2"] = "cw-l2"
    norm: Literal["l2"] = "l2"
    epsilon: Budget = Field(default=1.0)
    steps: int = Field(default=100, ge=1)
    searches: int = Field(default=9, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    constant: float = Field(default=1e-2, gt=0)

    def search(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,  # nothing is random here
    ) -> Found:
        """Minimise for one c after another; nothing waits for the device."""
        clean = self.value(detector, images, labels, threshold)
        distance = torch.where(clean > 0, 0.0, torch.inf)
        best = images
        constant = torch.full_like(clean, self.constant)
        low, high = torch.zeros_like(clean), torch.full_like(clean, torch.inf)
        for _ in range(self.searches):
            point, reached = self._descend(detector, images, labels, threshold, constant)
            # until something turns the decision, the furthest push seen is the best there is
            nearer = (reached < distance) | torch.isinf(distance)
            best = torch.where(nearer.view(-1, 1, 1, 1), point, best)
            distance = torch.where(nearer, reached, distance)
            turned = torch.isfinite(reached)
            low, high = torch.where(turned, low, constant), torch.where(turned, constant, high)
            outwards = torch.where(turned, constant / 10, constant * 10)
            bracketed = (low > 0) & torch.isfinite(high)
            constant = torch.where(bracketed, (low + high) / 2, outwards)
        return self.shorten(detector, images, labels, threshold, (best, distance))

    def _descend(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        constant: torch.Tensor,
    ) -> Found:
        """Minimise for one c by Adam; the chain through tanh is written out."""
        hidden = torch.atanh((2 * images - 1) * _EDGE)
        first, second = torch.zeros_like(images), torch.zeros_like(images)
        best, distance = images, torch.full_like(constant, torch.inf)
        highest = torch.full_like(constant, -torch.inf)
        for step in range(1, self.steps + 1):
            bent = torch.tanh(hidden)
            point = (bent + 1) / 2
            value, slope = self.gradient(detector, point, labels, threshold)
            size = self.distance.size(point - images)
            turned = (value > 0) & (size < distance)
            pushed = torch.isinf(distance) & (value > highest)
            best = torch.where((turned | pushed).view(-1, 1, 1, 1), point, best)
            distance = torch.where(turned, size, distance)
            highest = torch.maximum(highest, value)
            push = torch.where(value > 0, 0.0, constant).view(-1, 1, 1, 1)
            descent = (2 * (point - images) - push * slope) * (1 - bent**2) / 2
            first = first + (1 - _FIRST_DECAY) * (descent - first)
            second = second + (1 - _SECOND_DECAY) * (descent**2 - second)
            scale = (second / (1 - _SECOND_DECAY**step)).sqrt() + _TINY
            hidden = hidden - self.learning_rate * first / (1 - _FIRST_DECAY**step) / scale
        return best, distance
