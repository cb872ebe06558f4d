"""Training on perturbed statistics of shallow feature maps."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, cast

import torch
from pydantic import Field

from dfcore.defences.template import Defence, TrainingState
from dfcore.models import Detector, SplitForward, gradient_scale

__all__ = ["GradientRegularisation"]

_VARIANCE_FLOOR = 1e-8
_TINY = 1e-30


class GradientRegularisation(Defence):
    """(1 - alpha) * clean loss + alpha * loss on feature maps of another mean and spread.

    Behind the first blocks, each map's mean mu and standard deviation sigma over its pixels are moved:
    f' = (f - mu) / sigma * (sigma + d_sigma) + (mu + d_mu). It regularises what the shallow layers pass on;
    no claim about attacks on pixels follows from it.

    The pass that gives the gradient to mu and sigma is the clean pass itself. So the cost beside plain
    training is one backward through the deep part, to its input alone, and the pass over the moved maps.

    Attributes:
        mode: "gradient" moves mu and sigma uphill on the loss, as sharpness-aware minimisation does with
            weights: by `radius` in all, the norm taken over both and over the whole batch. "random" moves
            each by normal noise of standard deviation `radius`.
        radius: how far.
        alpha: share of the perturbed loss, 0..1.
        blocks: how many blocks are shallow.

    Source: Guan et al., doi:10.1109/TIFS.2024.3396064; random mode as its replications describe it.
    """

    kind: Literal["gradient_regularisation"] = "gradient_regularisation"
    mode: Literal["gradient", "random"] = "gradient"
    radius: float = Field(default=0.05, ge=0)
    alpha: float = Field(default=0.5, ge=0, le=1)
    blocks: int = Field(default=2, ge=1)

    def check(self, detector: Detector) -> None:
        """Require a backbone that is a chain of more blocks than are shallow.

        Raises:
            ConfigError: it is none, or has too few.
        """
        _split(detector, self.blocks)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weigh clean and perturbed loss."""
        split = _split(cast(Detector, detector), self.blocks)
        # in float32 even under autocast: bfloat16 would swallow a change of this size
        maps = split.shallow(images).float()
        mean = maps.mean((2, 3), keepdim=True)
        spread = (maps.var((2, 3), keepdim=True, unbiased=False) + _VARIANCE_FLOOR).sqrt()
        standard = (maps - mean) / spread
        if self.mode == "random":
            shift, stretch = _noise(mean, state.generator), _noise(spread, state.generator)
            moved = maps + self.radius * (standard * stretch + shift)
            clean_logits, logits = torch.split(split.deep(torch.cat([maps, moved])), len(images))
            clean = state.bce(clean_logits, labels)
        else:
            shift = torch.zeros_like(mean, requires_grad=True)
            stretch = torch.zeros_like(spread, requires_grad=True)
            clean = state.bce(split.deep(maps + standard.detach() * stretch + shift), labels)
            d_mean, d_spread = _uphill(clean, shift, stretch)
            logits = split.deep(maps + self.radius * (standard * d_spread + d_mean))
        perturbed = state.bce(logits, labels)
        value = (1 - self.alpha) * clean + self.alpha * perturbed
        return value, {"clean_loss": clean.detach(), "perturbed_loss": perturbed.detach()}


@lru_cache(maxsize=1)
def _split(detector: Detector, blocks: int) -> SplitForward:
    """Split once for a run: whether a detector can be split is tried by passing an image."""
    return detector.split_forward(blocks)


def _noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(like.shape, generator=generator, device=generator.device)
    return noise.to(like.device)


def _uphill(
    loss: torch.Tensor, shift: torch.Tensor, stretch: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients to both, (N, C, 1, 1) each, of length 1 together; the graph stays."""
    scale = gradient_scale(shift.device)  # of no account for a direction
    slopes = torch.autograd.grad(scale * loss, (shift, stretch), retain_graph=True)
    length = torch.linalg.vector_norm(torch.stack(slopes))
    return slopes[0] / length.clamp_min(_TINY), slopes[1] / length.clamp_min(_TINY)
