"""Pixel-wise Gaussian blur: the attacker chooses how much each pixel is smoothed."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch.nn import functional as F

from dfcore.attacks.parametric import MapAttack, Render, unit_rms
from dfcore.attacks.template import draw

__all__ = ["SMALLEST_SIGMA", "PixelBlur", "Window", "blur_rings", "pixelwise_blur"]

SMALLEST_SIGMA = 0.2
"""In pixels: the nearest neighbours weigh 4e-6 there, no visible blur, but still a gradient to climb out."""


def _odd(window: int) -> int:
    if window % 2 == 0:
        raise ValueError(f"expected an odd window, got {window}; the pixel is its centre")
    return window


Window = Annotated[int, Field(ge=3, le=31), AfterValidator(_odd)]
"""Odd side of a neighbourhood, in pixels."""


def blur_rings(images: torch.Tensor, window: int) -> torch.Tensor:
    """Sum each pixel's neighbours that lie equally far away.

    A Gaussian's weight depends on the distance alone, so that a blur needs no more of the image than these
    sums: 6 maps instead of 25 for a window of 5, computed once for all steps.

    Args:
        images: (N, C, H, W).
        window: odd side of the neighbourhood; borders are reflected.

    Returns:
        (N, C, R, H, W) in order of distance, the pixel itself first; R = `len(ring_distances(window))`.
    """
    radius = window // 2
    height, width = images.shape[-2:]
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    sums: dict[int, torch.Tensor] = {}
    # over offsets, never over pixels; each is a view, and adding is exact where a convolution is not
    for row in range(window):
        for column in range(window):
            square = (row - radius) ** 2 + (column - radius) ** 2
            shifted = padded[..., row : row + height, column : column + width]
            sums[square] = sums[square] + shifted if square in sums else shifted
    return torch.stack([sums[square] for square in sorted(sums)], dim=2)


def pixelwise_blur(rings: torch.Tensor, sigma: torch.Tensor, window: int) -> torch.Tensor:
    """Blur each pixel with a Gaussian of its own.

    Args:
        rings: (N, C, R, H, W) from `blur_rings` with the same window.
        sigma: (N, 1, H, W) standard deviations in pixels, at least 0.
        window: odd side of the neighbourhood; the weights in it sum to 1.

    Returns:
        (N, C, H, W); exactly the image where sigma is below .07.

    Source: Wang et al., arXiv:2103.13567.
    """
    squares, counts = _ring_sizes(window, sigma)
    # below 1e-3 every weight but the pixel's own is 0 already, and so must be the gradient, not NaN
    weights = torch.exp(-squares / (2 * sigma.clamp_min(1e-3) ** 2))
    weights = weights / (weights * counts).sum(1, keepdim=True)
    # product and sum take a fifth of einsum's time here, which turns this into tiny matrix products
    return (rings * weights[:, None]).sum(2)


def _ring_sizes(window: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distance and number of neighbours of each ring, (1, R, 1, 1)."""
    radius = window // 2
    offsets = torch.arange(-radius, radius + 1) ** 2
    squares, counts = torch.unique(offsets[:, None] + offsets, return_counts=True)
    sizes = torch.stack([squares, counts]).to(like, non_blocking=True).view(2, 1, -1, 1, 1)
    return sizes[0], sizes[1]


class PixelBlur(MapAttack):
    """A map of standard deviations climbs on the margin.

    Attributes:
        max_sigma: the budget: largest standard deviation, in pixels; at 0 the image stays as it is.
        window: odd side of the neighbourhood, in pixels.
        ascent: "normalised" scales each image's gradient to root mean square 1, so that `step_size` is in
            pixels and holds for every detector and size; "raw" adds `step_size` times the gradient itself, as
            published.
        step_size: of one step.

    Source: Wang et al., arXiv:2103.13567. The released code climbs on 1/sigma^2, rescaled to a fixed L2 norm;
    that ties the mean blur of an image to its size, so that it is not offered.
    """

    kind: Literal["blur"] = "blur"
    max_sigma: float = Field(default=2.0, ge=0, le=16)
    window: Window = 5
    ascent: Literal["normalised", "raw"] = "normalised"
    step_size: float = Field(default=0.5, gt=0)

    def renderer(self, images: torch.Tensor) -> Render:
        """Gather the neighbourhoods once."""
        rings = blur_rings(images, self.window)
        return lambda sigma: pixelwise_blur(rings, sigma, self.window)

    def begin(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return uniform standard deviations within the budget."""
        return self.max_sigma * draw(images[:, :1], generator)

    def bound(self, maps: torch.Tensor) -> torch.Tensor:
        """Return standard deviations within the budget."""
        return maps.clamp(min(SMALLEST_SIGMA, self.max_sigma), self.max_sigma)

    def ascend(self, maps: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Add the gradient, without its sign being taken."""
        return maps + self.step_size * (unit_rms(slope) if self.ascent == "normalised" else slope)
