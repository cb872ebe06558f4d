"""What every training method shares: its state, its protocol and the weighted loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from dfcore.config import Config
from dfcore.models import Detector

__all__ = ["Defence", "TrainingState", "weighted_bce"]


@dataclass(frozen=True)
class TrainingState:
    """What a defence may know beside the batch.

    Attributes:
        epoch: epochs done, with fraction; drives ramps.
        class_weights: (2,) float32 on the batch's device, mean 1: weight of real and of fake.
        crafting: a detector in eval with the current weights (batch norm folded), for making attacks.
        generator: of random starts.
    """

    epoch: float
    class_weights: torch.Tensor
    crafting: Detector
    generator: torch.Generator


class Defence(Config, ABC):
    """A training method: how one batch becomes a loss.

    Attributes:
        kind: the method's name.
        adversarial: whether it makes attacks, so that the engine keeps `TrainingState.crafting` fresh and
            selects on robust validation AUC.
    """

    adversarial: ClassVar[bool] = False
    kind: str

    @abstractmethod
    def loss(
        self, detector: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of one batch, and scalars worth recording (on the device, detached).

        Args:
            detector: in training mode; returns (N,) logits.
            images: (N, 3, H, W) float32 in [0, 1].
            labels: (N,) int64, real = 0, fake = 1.
            state: everything else.
        """


def weighted_bce(logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Class-weighted binary cross-entropy of logits, averaged over the batch.

    Args:
        logits: (N,) float32.
        labels: (N,) int64, real = 0, fake = 1.
        class_weights: (2,) float32.
    """
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), weight=class_weights[labels])
