"""The nearest point with another decision, by projections on the linearised boundary."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks.minimal import MinimalAttack, nearer_of
from dfcore.attacks.norms import draw
from dfcore.attacks.template import Found, search_again

__all__ = ["FAB"]

_OVERSHOOT = 1.05  # go a little beyond the boundary
_PULL = 0.1  # largest share of the move that starts at the clean image
_BACKWARD = 0.9  # what is kept of the distance once the decision has turned


class FAB(MinimalAttack):
    """Fast adaptive boundary attack for one logit: the smallest change that turns the decision.

    With one logit there is one boundary, so that each step is one projection, and it has a closed form.

    Attributes:
        steps: of each restart.
        restarts: the first starts at the clean image, the others at random points near it.
        until_fooled: a restart leaves out the images for which a change within epsilon was found.

    Source: Croce & Hein, arXiv:1907.02044.
    """

    kind: Literal["fab"] = "fab"
    norm: Literal["linf"] = "linf"
    steps: int = Field(default=100, ge=1)
    restarts: int = Field(default=1, ge=1)
    until_fooled: bool = False

    def search(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> Found:
        """Search from the clean image, then from random points no further than what is known."""
        best = self._descend(detector, images, labels, threshold, images)
        for _ in range(self.restarts - 1):
            start = self._restart(images, best[1], generator)
            best = nearer_of(best, *self._descend(detector, images, labels, threshold, start))
        return best

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Search from each start; what lies beyond epsilon is projected and kept if it hurts."""
        again = False

        def once(images: torch.Tensor, labels: torch.Tensor, found: Found) -> Found:
            start = self._restart(images, torch.full_like(found[1], self.epsilon), generator)
            point, _ = self._descend(detector, images, labels, threshold, start if again else images)
            return self.within(detector, images, labels, threshold, found, point)

        found: Found = (images, self.value(detector, images, labels, threshold))
        for _ in range(self.restarts):
            found = search_again(once, 1, images, labels, found, until_fooled=self.until_fooled)
            again = True
        return found[0]

    def hyperplane(self, points: torch.Tensor, slope: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
        """Return the smallest move within the box after which slope . move = gap.

        Every pixel moves equally far, until it meets the box: the move's size is where a rising, piecewise
        linear function meets |gap|. Its corners are the pixels' distances to the box in sorted order.

        Args:
            points: (N, 3, H, W) in [0, 1].
            slope: (N, 3, H, W), the boundary's normal.
            gap: (N,), how far the linearised margin must change.

        Returns:
            (N, 3, H, W); the largest possible move where the box does not reach the boundary.
        """
        direction = (slope * gap.view(-1, 1, 1, 1)).sign()
        room = torch.where(direction > 0, 1 - points, points).flatten(1)
        weight = slope.abs().flatten(1)
        corners, order = room.sort(dim=1)
        weight = weight.gather(1, order)
        # up to the k-th corner: what the pixels stopped before it give, and the weight that still moves
        stopped = (weight * corners).cumsum(1) - weight * corners
        moving = weight.flip(1).cumsum(1).flip(1)
        reach = stopped + moving * corners
        wanted = gap.abs().unsqueeze(1)
        place = torch.searchsorted(reach, wanted).clamp_max(corners.shape[1] - 1)
        size = (wanted - stopped.gather(1, place)) / moving.gather(1, place).clamp_min(1e-30)
        size = torch.minimum(size.clamp_min(0), corners.gather(1, place))
        return direction * torch.minimum(room, size).view_as(points)

    def _restart(
        self, images: torch.Tensor, distance: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Return random points at most half as far away as what is already known."""
        radius = distance.clamp_max(self.epsilon).view(-1, 1, 1, 1) / 2
        return (images + radius * (2 * draw(images, generator) - 1)).clamp(0, 1)

    def _descend(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        start: torch.Tensor,
    ) -> Found:
        clean = self.value(detector, images, labels, threshold)
        infinite = torch.full_like(clean, torch.inf)
        best: Found = (images, torch.where(clean > 0, torch.zeros_like(clean), infinite))
        current = start
        for _ in range(self.steps):
            value, slope = self.gradient(detector, current, labels, threshold)
            current = self.advance(current, value, slope, images)
            wrong = self.value(detector, current, labels, threshold) > 0
            size = self.distance.size(current - images)
            best = nearer_of(best, current, torch.where(wrong, size, infinite))
            closer = images + _BACKWARD * (current - images)
            current = torch.where(wrong.view(-1, 1, 1, 1), closer, current)
        return self.shorten(detector, images, labels, threshold, best)

    def advance(
        self, current: torch.Tensor, value: torch.Tensor, slope: torch.Tensor, images: torch.Tensor
    ) -> torch.Tensor:
        """Step to the linearised boundary, partly from the clean image, which keeps the search near it."""
        from_here = self.hyperplane(current, slope, -value)
        linear = value + (slope * (images - current)).flatten(1).sum(1)
        from_clean = self.hyperplane(images, slope, -linear)
        here, clean = self.distance.size(from_here), self.distance.size(from_clean)
        pull = (here / (here + clean).clamp_min(1e-30)).clamp_max(_PULL).view(-1, 1, 1, 1)
        moved = (1 - pull) * (current + _OVERSHOOT * from_here)
        return self.clamp(moved + pull * (images + _OVERSHOOT * from_clean))
