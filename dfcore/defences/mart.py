"""MART: robustness first for what the detector gets wrong."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from dfcore.defences.inner_attack import InnerPGD
from dfcore.defences.template import TrainingState
from dfcore.defences.trades import bernoulli_kl

__all__ = ["MART"]


class MART(InnerPGD):
    """Boosted attacked loss + beta * mean(KL(clean || attacked) * P_clean(the other class)).

    Both terms are weighted by class. The boost adds -log(1 - P_attacked(the likeliest wrong class)) to the
    cross-entropy. With two classes that is the cross-entropy once more, so that the boosted loss is twice the
    attacked one.

    Attributes (beside those of `InnerPGD`):
        beta: of the divergence.

    Source: Wang et al., "Improving adversarial robustness requires revisiting misclassified examples", ICLR
    2020.
    """

    kind: Literal["mart"] = "mart"
    beta: float = Field(default=5.0, ge=0)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return boosted loss and weighted divergence."""
        # one pass over both: batch statistics then fit both
        clean_logits, logits = detector(torch.cat([images, attacked[0]])).split(len(images))
        boosted = 2 * state.bce(logits, labels)
        doubt = torch.sigmoid((1 - 2 * labels) * clean_logits)
        divergence = (state.class_weights[labels] * doubt * bernoulli_kl(clean_logits, logits)).mean()
        value = boosted + self.beta * divergence
        return value, {"boosted_loss": boosted.detach(), "divergence": divergence.detach()}
