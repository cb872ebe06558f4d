"""Projected gradient ascent that finds its step size itself."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks.template import Found, NormAttack, search_again

__all__ = ["APGD"]

_MOMENTUM = 0.75  # share of the new step; the rest repeats the last move
_ENOUGH = 0.75  # a window in which fewer steps than this share climb asks for a smaller step
_FIRST_WINDOW, _SHRINK, _SMALLEST_WINDOW = 0.22, 0.03, 0.06  # shares of all steps


class APGD(NormAttack):
    """Auto-PGD on the margin: no step size to tune, so that a weak choice can't flatter the detector.

    The step starts at twice epsilon. At checkpoints it is halved, image by image, where the margin climbed in
    too few of the last steps or the best point has not moved; the search then goes on from the best point.

    Attributes:
        steps: gradient steps of each restart.
        restarts: independent random starts; the worst result counts, for each image.
        until_fooled: a restart leaves out the images whose decision has turned. That is enough for accuracy;
            rankings (AUC) want each image pushed as far as it goes.

    Source: Croce & Hein, arXiv:2003.01690, algorithm 1.
    """

    kind: Literal["apgd"] = "apgd"
    steps: int = Field(default=100, ge=1)
    restarts: int = Field(default=1, ge=1)
    until_fooled: bool = False

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Climb from each start and keep what is worst for the detector."""

        def climb(images: torch.Tensor, labels: torch.Tensor, found: Found) -> Found:
            reached = self._climb(detector, images, labels, threshold, self.start(images, generator))
            return self.keep(found, *reached)

        clean = (images, self.value(detector, images, labels, threshold))
        found = search_again(
            climb, self.restarts, images, labels, clean, until_fooled=self.until_fooled
        )  # fmt: skip
        return found[0]

    def _climb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        start: torch.Tensor,
    ) -> Found:
        """Climb once; every decision is taken by masks, so that nothing waits for the device."""
        windows = checkpoints(self.steps)
        value, slope = self.gradient(detector, start, labels, threshold)
        best: Found = (start, value)
        best_slope, before, current = slope, start, start
        size = torch.full((len(images), 1, 1, 1), 2 * self.epsilon, device=images.device)
        climbs = torch.zeros_like(value)
        halved, highest_then = torch.ones_like(value, dtype=torch.bool), value
        for step in range(1, self.steps + 1):
            before, current = current, self.advance(before, current, slope, size, images, first=step == 1)
            last = value
            if step < self.steps:
                value, slope = self.gradient(detector, current, labels, threshold)
            else:
                value = self.value(detector, current, labels, threshold)
            climbs += value > last
            best_slope = torch.where(_spread(value > best[1]), slope, best_slope)
            best = self.keep(best, current, value)
            if step in windows:
                halved = self.stalls(climbs, windows[step], halved, best[1] <= highest_then)
                size = torch.where(_spread(halved), size / 2, size)
                current = self.turn_back(halved, current, best[0])
                slope = torch.where(_spread(halved), best_slope, slope)
                climbs, highest_then = torch.zeros_like(climbs), best[1]
        return best

    def advance(
        self,
        before: torch.Tensor,
        current: torch.Tensor,
        slope: torch.Tensor,
        size: torch.Tensor,
        images: torch.Tensor,
        *,
        first: bool,
    ) -> torch.Tensor:
        """Step with momentum, then return to the ball and the box."""
        stepped = self.clamp(self.project(self.step(current, slope, size), images))
        if first:
            return stepped
        moved = current + _MOMENTUM * (stepped - current) + (1 - _MOMENTUM) * (current - before)
        return self.clamp(self.project(moved, images))

    def stalls(
        self, climbs: torch.Tensor, window: int, halved: torch.Tensor, unmoved: torch.Tensor
    ) -> torch.Tensor:
        """Say for which images (N,) the step is to be halved.

        Args:
            climbs: steps of this window in which the margin rose.
            window: its length.
            halved: whether the step was halved at the last checkpoint.
            unmoved: whether the best margin is still the one of the last checkpoint.
        """
        return (climbs < _ENOUGH * window) | (~halved & unmoved)

    def turn_back(self, halved: torch.Tensor, current: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """Return to the best point where the step was halved."""
        return torch.where(_spread(halved), best, current)


def checkpoints(steps: int) -> dict[int, int]:
    """Return the steps after which the step size is judged, each with the length of the window before it.

    >>> checkpoints(100)
    {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    """
    shares = [0.0, _FIRST_WINDOW]
    while shares[-1] <= 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - _SHRINK, _SMALLEST_WINDOW))
    # rounding first: 0.22 + 0.19 is a hair more than 0.41, and would be a step later
    places = sorted({math.ceil(round(share * steps, 6)) for share in shares if share <= 1})
    return {place: place - last for last, place in pairwise(places)}


def _spread(mask: torch.Tensor) -> torch.Tensor:
    return mask.view(-1, 1, 1, 1)
