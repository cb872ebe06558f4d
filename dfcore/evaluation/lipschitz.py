"""How steep a detector is around an image: an estimate of its local Lipschitz constant."""

from __future__ import annotations

import torch
from torch import nn

from dfcore.attacks import NORMS
from dfcore.models import crafting_mode

__all__ = ["LIPSCHITZ_PASSES", "local_lipschitz"]

_STEPS = 10
# of the ball: published are steps of a tenth, with which a pixel that starts on the wrong side stays short of
# the edge, and even a linear function's constant comes out too small
_STEP_SHARE = 0.2
_START_SHARE = 0.03
_SMALLEST = 1e-6

LIPSCHITZ_PASSES = 2 * _STEPS
"""Forward passes over one image."""


def local_lipschitz(
    detector: nn.Module, images: torch.Tensor, *, epsilon: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Estimate max |z(x') - z(x)| / |x' - x| over x' within epsilon, the distance in L-infinity.

    Ten steps uphill and ten downhill on the logit, along the sign of its gradient, from a point close to x;
    the largest ratio met on the way counts. A search from below: the true constant may be larger. (The
    gradient of the ratio itself, as published, pulls the farthest pixel back at each step and misses the
    corners, where a linear function has its constant; and it follows one side only.)

    Args:
        detector: maps images to logits (N,); left as it was.
        images: (N, 3, H, W) float32 in [0, 1].
        epsilon: of the ball, in pixel units of [0, 1], above 0.
        generator: of the starting points.

    Returns:
        (N,) float32, at least 0: logits for each unit of pixel value.

    Source: Yang et al., "A Closer Look at Accuracy vs. Robustness", arXiv:2003.02460.
    """
    norm = NORMS["linf"]
    with torch.enable_grad(), crafting_mode(detector):
        clean = images.detach()
        with torch.no_grad():
            logits = detector(clean)
        best = torch.zeros_like(logits)
        for side in (1.0, -1.0):
            current = (clean + norm.random_start(clean, _START_SHARE * epsilon, generator)).clamp(0, 1)
            for step in range(_STEPS + 1):
                pixels = current.detach().requires_grad_(step < _STEPS)
                distance = (current - clean).abs().flatten(1).amax(1).clamp_min(_SMALLEST)
                found = detector(pixels)
                best = torch.maximum(best, (found.detach() - logits).abs() / distance)
                if step < _STEPS:
                    (slope,) = torch.autograd.grad(found.sum(), pixels)
                    moved = current + side * _STEP_SHARE * epsilon * norm.normalise(slope)
                    current = (clean + norm.project(moved - clean, epsilon)).clamp(0, 1)
    return best
