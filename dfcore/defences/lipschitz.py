"""A penalty on how fast the logit changes with the pixels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch.nn.attention import SDPBackend, sdpa_kernel

from dfcore.attacks import NORMS
from dfcore.config import Config, Epsilon
from dfcore.defences.template import TrainingState
from dfcore.models import crafting_mode, gradient_scale

__all__ = ["Lipschitz"]


class Lipschitz(Config):
    """`weight * mean(|d logit / d pixel| ** power)`, the mean over all pixels, channels and images.

    With one logit an image, the gradient of their sum is every image's own gradient. In training mode batch
    norm couples the images a little; that is part of the term.

    Attributes:
        mode: "exact" differentiates the gradient once more, for two to three times a step's time; it runs in
            eager mode only. "finite_difference" compares the logit with that of an image moved along its
            gradient: one more image in the pass and one gradient to the pixels, first order only.
        weight: in front of the mean; the published sweep is 5 to 5000.
        power: of the absolute gradient; the finite difference is defined for 2.
        step: of the finite difference: root mean square change of a pixel. As long as the network is linear
            over it, the two modes are the same number.

    Raises:
        ConfigError: another power than 2 with the finite difference.

    Source: Gandhi & Jain, arXiv:2003.10596 (exact); Finlay & Oberman, arXiv:1905.11468 (finite difference).
    """

    mode: Literal["exact", "finite_difference"] = "exact"
    weight: float = Field(default=1000.0, ge=0)
    power: float = Field(default=2.0, ge=1)
    step: Epsilon = Field(default=1 / 255, gt=0)

    @model_validator(mode="after")
    def _one_direction(self) -> Self:
        if self.mode == "finite_difference" and self.power != 2:
            raise ValueError(
                f"expected power 2 with mode finite_difference, got {self.power:g}; a step along the "
                "gradient measures its length and no other norm"
            )
        return self

    def moved(self, images: torch.Tensor, state: TrainingState) -> tuple[torch.Tensor, ...]:
        """Return what `penalty` compares the images with.

        Args:
            images: (N, 3, H, W) float32.
            state: the direction is the gradient of `state.crafting`.

        Returns:
            Nothing in mode "exact"; else the images (N, 3, H, W), moved uphill. They may leave the box: a
            derivative has no border.
        """
        if self.mode == "exact":
            return ()
        with torch.enable_grad(), crafting_mode(state.crafting):
            pixels = images.detach().requires_grad_()
            scale = gradient_scale(pixels.device)  # of no account for a direction
            (slope,) = torch.autograd.grad(scale * state.crafting(pixels).sum(), pixels)
        length = self.step * images[0].numel() ** 0.5
        return (images.detach() + length * NORMS["l2"].normalise(slope.float()),)

    def passing(self) -> AbstractContextManager[None]:
        """Return the context in which images must be passed: fused attention has no second derivative."""
        return sdpa_kernel(SDPBackend.MATH) if self.mode == "exact" else nullcontext()

    def watched(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images in the form in which they must be passed for `penalty`."""
        return images.detach().requires_grad_() if self.mode == "exact" else images

    def penalty(
        self, images: torch.Tensor, logits: torch.Tensor, moved: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the term, a scalar with a graph to the detector's parameters.

        Args:
            images: (N, 3, H, W), as `watched` returned them.
            logits: (N,) of these images.
            moved: (N,), logits of what `moved` returned, if anything.
        """
        if moved is None:
            (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            return self.weight * slope.abs().pow(self.power).mean()
        # the change is step * sqrt(D) * |slope|, and the mean square of a pixel's slope |slope|^2 / D
        return self.weight * ((moved - logits) / (self.step * images[0].numel())).square().mean()
