"""Adversarial training with PGD."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from dfcore.attacks import PGD
from dfcore.config import Epsilon
from dfcore.defences.template import Defence, TrainingState

__all__ = ["PGDAdversarialTraining"]


class PGDAdversarialTraining(Defence):
    """Train on clean and attacked images in one batch, with a budget that grows.

    Attributes:
        epsilon: final budget.
        step_size: of the inner attack at the final budget; it grows with the budget.
        steps: of the inner attack; a few are enough where many would cost the budget of epochs.
        random_start: start the inner attack inside the ball.
        clean_weight: share of the clean loss, 0..1; at 0 clean images are not passed at all.
        warmup_epochs: epochs over which epsilon grows from 0; 0 means the full budget from the start.

    Source: Madry et al., arXiv:1706.06083; clean term as in Goodfellow et al., arXiv:1412.6572.
    """

    adversarial: ClassVar[bool] = True
    kind: Literal["pgd_at"] = "pgd_at"
    epsilon: Epsilon = Field(default=4 / 255)
    step_size: Epsilon = Field(default=2 / 255)
    steps: int = Field(default=3, ge=1)
    random_start: bool = True
    clean_weight: float = Field(default=0.5, ge=0, lt=1)
    warmup_epochs: float = Field(default=2.0, ge=0)

    def attack_at(self, epoch: float) -> PGD:
        """Return the inner attack after `epoch` epochs."""
        grown = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs > 0 else 1.0
        return PGD(
            epsilon=self.epsilon * grown,
            step_size=self.step_size * grown,
            steps=self.steps,
            random_start=self.random_start,
            keep_best=False,
        )

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Return the batch under attack, (N, 3, H, W)."""
        attack = self.attack_at(state.epoch)
        return (attack.craft(state.crafting, images, labels, generator=state.generator),)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weigh clean and attacked loss."""
        (adversarial,) = attacked
        if self.clean_weight == 0:
            value = state.bce(detector(adversarial), labels)
            return value, {"robust_loss": value.detach()}
        # one pass over both: batch statistics then fit both
        logits = detector(torch.cat([images, adversarial]))
        clean = state.bce(logits[: len(images)], labels)
        robust = state.bce(logits[len(images) :], labels)
        value = self.clean_weight * clean + (1 - self.clean_weight) * robust
        return value, {"clean_loss": clean.detach(), "robust_loss": robust.detach()}
