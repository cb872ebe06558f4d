"""What defences share that attack each batch in a norm: a budget that grows, and PGD inside."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field

from dfcore.attacks import APGD, PGD, Attack
from dfcore.config import Epsilon
from dfcore.defences.template import Defence, TrainingState

__all__ = ["InnerAttack", "InnerPGD"]


class InnerAttack(Defence):
    """Attack each batch within a budget that grows.

    Attributes:
        epsilon: final budget.
        warmup_epochs: epochs over which epsilon grows from 0; 0 means the full budget from the start.
    """

    adversarial: ClassVar[bool] = True
    epsilon: Epsilon = Field(default=4 / 255)
    warmup_epochs: float = Field(default=2.0, ge=0)

    def growth(self, epoch: float) -> float:
        """Return the share of the final budget that is spent after `epoch` epochs, 0..1."""
        return min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs > 0 else 1.0

    @abstractmethod
    def attack_at(self, epoch: float) -> Attack:
        """Return the inner attack after `epoch` epochs."""

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Return the batch under attack, (N, 3, H, W)."""
        attack = self.attack_at(state.epoch)
        return (attack.craft(state.crafting, images, labels, generator=state.generator),)


class InnerPGD(InnerAttack):
    """Attack each batch with a few steps.

    Attributes (beside those of `InnerAttack`):
        attack: "pgd", or "apgd", which sets its step size itself and keeps the worst point for two forward
            passes more; two steps of it, from a clean model's weights, are a strong recipe at 224 px.
        step_size: of PGD at the final budget; it grows with the budget.
        steps: a few are enough where many would cost the budget of epochs.
        random_start: start PGD inside the ball; APGD always does.
    """

    attack: Literal["pgd", "apgd"] = "pgd"
    step_size: Epsilon = Field(default=2 / 255)
    steps: int = Field(default=3, ge=1)
    random_start: bool = True

    def attack_at(self, epoch: float) -> PGD | APGD:
        """Return the inner attack after `epoch` epochs."""
        grown = self.growth(epoch)
        if self.attack == "apgd":
            return APGD(epsilon=self.epsilon * grown, steps=self.steps)
        return PGD(
            epsilon=self.epsilon * grown,
            step_size=self.step_size * grown,
            steps=self.steps,
            random_start=self.random_start,
            keep_best=False,
        )
