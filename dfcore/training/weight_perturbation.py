"""Adversarial weight perturbation: the loss is taken where the weights, moved a little, make it worst."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from pydantic import Field

from dfcore.config import Config
from dfcore.models import Detector

__all__ = ["WeightPerturbation", "perturbed"]

_TINY = 1e-20


class WeightPerturbation(Config):
    """How far weights are moved, and from when on.

    Attributes:
        gamma: length of each layer's move in units of the layer's own length.
        warmup_epochs: epochs that are trained without it first.

    Source: Wu et al., arXiv:2004.05884.
    """

    gamma: float = Field(default=0.005, gt=0, lt=1)
    warmup_epochs: float = Field(default=0.0, ge=0)


@contextmanager
def perturbed(
    detector: Detector,
    gamma: float,
    loss: Callable[[], torch.Tensor],
    average: Callable[[list[torch.Tensor]], None],
) -> Iterator[None]:
    """Move the weights uphill on the loss; put back the very same bits afterwards.

    Vectors (biases, batch norm) stay where they are. The pass that finds the direction leaves no trace in
    batch statistics and reaches no `.grad` of the detector. Where its gradient is not finite, nothing moves:
    the loss that follows shows what is wrong, or the scaler skips the step.

    Args:
        detector: in training mode.
        gamma: length of a move by the length of the layer's weights.
        loss: runs the pass whose gradient shows the way.
        average: makes gradients the mean over all processes, in place.
    """
    weights: list[torch.Tensor] = [
        value for value in detector.parameters() if value.ndim > 1 and value.requires_grad
    ]
    buffers = list(detector.buffers())
    before = [value.clone() for value in buffers]
    found = torch.autograd.grad(loss(), weights, allow_unused=True)
    gradients = [
        torch.zeros_like(weight) if slope is None else slope
        for weight, slope in zip(weights, found, strict=True)
    ]
    with torch.no_grad():
        torch._foreach_copy_(buffers, before)
        average(gradients)
        kept = [weight.clone() for weight in weights]
        lengths, slopes = torch._foreach_norm(weights), torch._foreach_norm(gradients)
        moves = [
            torch.where(slope.isfinite(), gamma * length / slope.clamp_min(_TINY), 0.0)
            for length, slope in zip(lengths, slopes, strict=True)
        ]
        for weight, move, gradient in zip(weights, moves, gradients, strict=True):
            # where, and no product: zero times infinity would not stay at zero
            weight.add_(torch.where(move > 0, move * gradient, 0.0))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, kept)
