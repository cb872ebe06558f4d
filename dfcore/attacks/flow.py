"""Adversarial flow: the attacker moves pixels by a fraction of their spacing."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from dfcore.attacks.parametric import MapAttack, Render, unit_rms

__all__ = ["Flow", "smooth", "warp", "warper"]

_SMOOTHING_STEPS = 4  # enough for neighbours to meet; wide plateaus stay


def warper(images: torch.Tensor) -> Render:
    """Return the function that samples these images (N, C, H, W) at displaced positions.

    `grid_sample` normalises its positions, which moves a pixel by some 1e-5 even for zero flow. So the change
    against a sampling without displacement is added to the image: zero flow is the identity, exactly.
    """
    height, width = images.shape[-2:]
    rows, columns = (torch.arange(size, device=images.device, dtype=images.dtype) for size in (height, width))

    def sample(down: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        across, along = (columns + right) * _scale(width) - 1, (rows[:, None] + down) * _scale(height) - 1
        grid = torch.stack([across, along], -1)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)

    still = torch.zeros((len(images), height, width), device=images.device, dtype=images.dtype)
    unmoved = sample(still, still)
    return lambda flow: images + (sample(flow[:, 0], flow[:, 1]) - unmoved)


def warp(images: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Sample images at displaced positions, bilinearly; beyond the border its edge is repeated.

    Args:
        images: (N, C, H, W).
        flow: (N, 2, H, W): displacement down, then right, in pixels.

    Returns:
        (N, C, H, W); differentiable in both.
    """
    return warper(images)(flow)


def _scale(size: int) -> float:
    return 2 / max(size - 1, 1)


def _length(vectors: torch.Tensor) -> torch.Tensor:
    """Length (N, 1, H, W) of vectors (N, 2, H, W); a norm over a dimension of two is ten times slower."""
    return (vectors[:, :1].square() + vectors[:, 1:].square()).sqrt()


def smooth(flow: torch.Tensor, weight: float) -> torch.Tensor:
    """Take total variation out of a flow: a few steps towards argmin |u - flow|^2 / 2 + weight * TV(u).

    Subtracting the variation's gradient instead would add jitter of its own at every step.

    Args:
        flow: (N, 2, H, W).
        weight: in the flow's unit; a pixel unlike all its neighbours moves to them by up to 4 times this.

    Source: Chambolle, An algorithm for total variation minimization, JMIV 2004 (here with the sum of absolute
    differences, for which projecting is clamping).
    """
    if weight == 0:
        return flow
    smoothed = flow
    down, right = torch.zeros_like(flow.diff(dim=2)), torch.zeros_like(flow.diff(dim=3))
    for _ in range(_SMOOTHING_STEPS):
        # 1/8: the largest step that is sure to converge in two dimensions
        down = (down + smoothed.diff(dim=2) / 8).clamp(-weight, weight)
        right = (right + smoothed.diff(dim=3) / 8).clamp(-weight, weight)
        pushed = F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))
        smoothed = flow - pushed - (F.pad(right, (1, 0)) - F.pad(right, (0, 1)))
    return smoothed


class Flow(MapAttack):
    """A flow climbs on the margin and is smoothed as it climbs.

    Attributes:
        max_flow: the budget: largest length of a displacement, in pixels; at 0 the image stays as it is.
        step_size: largest change of a displacement in one step, in pixels; pixels whose gradient is below the
            image's root mean square change less.
        smoothness: weight of the flow's total variation, against 1 for a pixel's steepest climb. From .25 on
            no single pixel can leave its neighbours; at 0 the attack paints with displaced pixels.

    Source: Xiao et al., arXiv:1801.02612; in training: Wang et al., arXiv:2103.13567.
    """

    kind: Literal["flow"] = "flow"
    max_flow: float = Field(default=1.0, ge=0, le=16)
    step_size: float = Field(default=0.25, gt=0)
    smoothness: float = Field(default=0.25, ge=0)

    def renderer(self, images: torch.Tensor) -> Render:
        """Warp the clean images, never a warped one."""
        return warper(images)

    def begin(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return no displacement; nothing is random here."""
        count, _, height, width = images.shape
        return images.new_zeros(count, 2, height, width)

    def bound(self, maps: torch.Tensor) -> torch.Tensor:
        """Shorten displacements that are too long."""
        length = _length(maps)
        shorter: torch.Tensor = maps * (self.max_flow / length.clamp_min(1e-12)).clamp_max(1)
        return shorter

    def ascend(self, maps: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Go uphill on the margin, then smooth."""
        slope = unit_rms(slope)
        length = _length(slope)
        direction = slope / length.clamp_min(1)
        return smooth(maps + self.step_size * direction, self.step_size * self.smoothness)
