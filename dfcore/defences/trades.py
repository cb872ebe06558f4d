"""TRADES: accuracy on clean images, and predictions that do not move under attack."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from dfcore.defences.inner_attack import InnerPGD
from dfcore.defences.template import TrainingState
from dfcore.models import crafting_mode

__all__ = ["TRADES", "bernoulli_kl"]


def bernoulli_kl(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence from sigmoid(others) to sigmoid(logits), image by image.

    Written by logarithms of both probabilities on both sides, so that it keeps its relative precision where
    float32 has rounded a probability to 1.

    Args:
        logits: (N,), of the distribution that the expectation is over.
        others: (N,).

    Returns:
        (N,), at least 0 but for rounding.

    >>> bernoulli_kl(torch.zeros(1), torch.zeros(1))
    tensor([0.])
    """
    fake = torch.sigmoid(logits) * (F.logsigmoid(logits) - F.logsigmoid(others))
    real = torch.sigmoid(-logits) * (F.logsigmoid(-logits) - F.logsigmoid(-others))
    return fake + real


class _Shift(nn.Module):
    """How far each image's logit has moved; what the inner attack pushes up.

    With one logit, the divergence grows with the shift on either side of the clean logit, so that both have
    gradients of the same sign. But that of the shift does not vanish where the detector is confident; that
    of the divergence would, at a logit of 17 in float16 and of 90 in float32.
    """

    clean: torch.Tensor

    def __init__(self, detector: nn.Module, images: torch.Tensor) -> None:
        super().__init__()
        self.detector = detector
        with torch.no_grad(), crafting_mode(detector):
            self.register_buffer("clean", detector(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the shift (N,) of the images given first."""
        shift: torch.Tensor = (self.detector(images) - self.clean).abs()
        return shift


class TRADES(InnerPGD):
    """Clean loss + beta * mean(KL(clean || attacked)), both weighted by class.

    The inner attack maximises the divergence and never sees the labels; the clean logits that it needs are
    computed once.

    Attributes (beside those of `InnerPGD`):
        random_start: must be true: at the clean image the divergence has no slope.
        beta: what robustness is worth, 1 to 10 as a rule; at 0 this is plain training.

    Source: Zhang et al., arXiv:1901.08573.
    """

    kind: Literal["trades"] = "trades"
    random_start: Literal[True] = True
    beta: float = Field(default=6.0, ge=0)

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Return the batch (N, 3, H, W) whose predictions have moved."""
        shift = _Shift(state.crafting, images)
        # as margins of reals at one half, shifts are maximised as they are
        attack = self.attack_at(state.epoch)
        return (attack.craft(shift, images, torch.zeros_like(labels), generator=state.generator),)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return clean loss and weighted divergence."""
        # one pass over both: batch statistics then fit both
        clean_logits, logits = detector(torch.cat([images, attacked[0]])).split(len(images))
        clean = state.bce(clean_logits, labels)
        divergence = (state.class_weights[labels] * bernoulli_kl(clean_logits, logits)).mean()
        value = clean + self.beta * divergence
        return value, {"clean_loss": clean.detach(), "divergence": divergence.detach()}
