"""Adversarial training with one step."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dfcore.attacks import FGSM, PGD
from dfcore.defences.inner_attack import InnerAttack
from dfcore.defences.template import TrainingState
from dfcore.defences.terms import Term, weighted_terms

__all__ = ["FGSMAdversarialTraining"]

_RS_STEP = 1.25  # of epsilon, as published: a step of epsilon from a random point seldom reaches the border
_N_RADIUS = 2.0  # of epsilon


class _NoiseFGSM(FGSM):
    """A step from strong noise that is never brought back into the ball: training data, no attack."""

    def perturb(
        self,
        detector: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        threshold: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Step once from a noisy image; only the box holds."""
        noise = self.distance.random_start(images, _N_RADIUS * self.epsilon, generator)
        noisy = self.clamp(images + noise)
        _, slope = self.gradient(detector, noisy, labels, threshold)
        return self.clamp(self.step(noisy, slope, self.epsilon))


class FGSMAdversarialTraining(InnerAttack):
    """Train on images that one step has attacked: the cheapest adversarial training there is.

    It can break down from one epoch to the next: the detector learns to resist this one step and nothing else
    ("catastrophic overfitting"). Noise puts that off; the robust validation AUC, measured with many steps,
    shows it.

    Attributes (beside those of `InnerAttack`):
        noise: "none" steps by epsilon from the clean image (FGSM); "uniform" by 1.25 epsilon from a random
            point of the ball, and back into it (FGSM-RS); "n-fgsm" by epsilon from noise in
            [-2 epsilon, 2 epsilon], and stays up to 3 epsilon away.
        attacked_weight: the loss is clean + attacked_weight * attacked; None trains on attacked images alone.

    Source: Goodfellow et al., arXiv:1412.6572; Wong et al., arXiv:2001.03994 (FGSM-RS); de Jorge et al.,
    arXiv:2202.01181 (N-FGSM).
    """

    kind: Literal["fgsm_at"] = "fgsm_at"
    noise: Literal["none", "uniform", "n-fgsm"] = "n-fgsm"
    attacked_weight: float | None = Field(default=1.0, ge=0)

    def attack_at(self, epoch: float) -> FGSM | PGD:
        """Return the inner attack after `epoch` epochs."""
        epsilon = self.epsilon * self.growth(epoch)
        if self.noise == "n-fgsm":
            return _NoiseFGSM(epsilon=epsilon)
        if self.noise == "none":
            return FGSM(epsilon=epsilon)
        return PGD(epsilon=epsilon, step_size=min(_RS_STEP * epsilon, 1.0), steps=1, keep_best=False)

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum clean and attacked loss, or return the attacked one alone."""
        alone = self.attacked_weight is None
        terms = {
            "clean": Term(0.0 if alone else 1.0, images),
            "robust": Term(1.0 if self.attacked_weight is None else self.attacked_weight, attacked[0]),
        }
        return weighted_terms(detector, labels, terms, state)
