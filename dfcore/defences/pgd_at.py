"""Adversarial training with PGD."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from pydantic import Field

from dfcore.defences.inner_attack import InnerPGD
from dfcore.defences.lipschitz import Lipschitz
from dfcore.defences.template import TrainingState

__all__ = ["PGDAdversarialTraining"]


class PGDAdversarialTraining(InnerPGD):
    """Train on clean and attacked images in one batch, with a budget that grows.

    Attributes (beside those of `InnerPGD`):
        clean_weight: share of the clean loss, 0..1; at 0 clean images are not passed at all.
        lipschitz: a penalty on the logit's gradient at the attacked images, or None.

    Source: Madry et al., arXiv:1706.06083; clean term as in Goodfellow et al., arXiv:1412.6572; two-step APGD
    as in Singh et al., arXiv:2303.01870.
    """

    kind: Literal["pgd_at"] = "pgd_at"
    clean_weight: float = Field(default=0.5, ge=0, lt=1)
    lipschitz: Lipschitz | None = None

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Return the batch under attack, (N, 3, H, W), and what the penalty compares it with, if anything."""
        (adversarial,) = super().craft(images, labels, state)
        moved = () if self.lipschitz is None else self.lipschitz.moved(adversarial, state)
        return adversarial, *moved

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weigh clean and attacked loss; add the penalty."""
        adversarial, *moved = attacked
        if self.lipschitz is not None:
            adversarial = self.lipschitz.watched(adversarial)
        clean_images = [images] if self.clean_weight > 0 else []
        with nullcontext() if self.lipschitz is None else self.lipschitz.passing():
            # one pass over all: batch statistics then fit all
            logits = detector(torch.cat([*clean_images, adversarial, *moved])).split(len(images))
        robust_logits, *moved_logits = logits[len(clean_images) :]
        value = robust = state.bce(robust_logits, labels)
        scalars = {"robust_loss": robust.detach()}
        if clean_images:
            clean = state.bce(logits[0], labels)
            value = self.clean_weight * clean + (1 - self.clean_weight) * robust
            scalars = {"clean_loss": clean.detach(), **scalars}
        if self.lipschitz is not None:
            term = self.lipschitz.penalty(adversarial, robust_logits, *moved_logits)
            value, scalars = value + term, {**scalars, "lipschitz": term.detach()}
        return value, scalars
