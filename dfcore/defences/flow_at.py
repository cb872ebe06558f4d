"""Adversarial training with flow: the attacker moves pixels."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from dfcore.attacks import Flow
from dfcore.defences.template import Defence, TrainingState
from dfcore.defences.terms import Term, weighted_terms

__all__ = ["FlowAdversarialTraining"]


class FlowAdversarialTraining(Defence):
    """Train on clean images and on images that an attacker warps.

    It teaches a detector not to rely on where exactly a trace lies; it is no defence against perturbations
    that are bounded in a norm.

    Attributes:
        max_flow: largest displacement, in pixels.
        step_size: largest change of a displacement in one step of the attacker, in pixels.
        smoothness: weight of the flow's total variation; below .25 it paints with single pixels.
        steps: of the attacker, from no displacement.
        clean_weight: share of the clean loss, 0..1; at 0 clean images are not passed at all.

    Source: Wang et al., arXiv:2103.13567, with the flow of Xiao et al., arXiv:1801.02612; equal weights. The
    budget and the steps are ours: two steps reach it.
    """

    adversarial: ClassVar[bool] = True
    kind: Literal["flow_at"] = "flow_at"
    max_flow: float = Field(default=1.0, ge=0, le=16)
    step_size: float = Field(default=0.5, gt=0)
    smoothness: float = Field(default=0.25, ge=0)
    steps: int = Field(default=2, ge=1)
    clean_weight: float = Field(default=0.5, ge=0, lt=1)

    @property
    def attack(self) -> Flow:
        """The attacker, as training plays it: the last flow counts."""
        return Flow(
            max_flow=self.max_flow,
            step_size=self.step_size,
            smoothness=self.smoothness,
            steps=self.steps,
            keep_best=False,
        )

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Return the batch warped, (N, 3, H, W)."""
        return (self.attack.craft(state.crafting, images, labels, generator=state.generator),)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weigh clean and warped loss."""
        terms = {
            "clean": Term(self.clean_weight, images),
            "flow": Term(1 - self.clean_weight, attacked[0]),
        }
        return weighted_terms(detector, labels, terms, state)
