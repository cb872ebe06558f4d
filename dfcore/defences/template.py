"""What every training method shares: its state, its protocol and the weighted loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch.nn import functional as F

from dfcore.attacks import LearnedAttack, Player
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
        label_smoothing: what the recipe asks for, 0..1: a label is this much closer to one half.
        players: the learned attackers of `Defence.attackers` under the same names, as they are now.
    """

    epoch: float
    class_weights: torch.Tensor
    crafting: Detector
    generator: torch.Generator
    label_smoothing: float = 0.0
    players: Mapping[str, Player] = field(default_factory=dict)

    def bce(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the run's `weighted_bce` of logits (N,) and labels (N,)."""
        return weighted_bce(logits, labels, self.class_weights, self.label_smoothing)


class Defence(Config, ABC):
    """A training method: how one batch becomes a loss.

    For each batch the engine calls `craft`, then `loss` (twice where the recipe perturbs the weights, on the
    same attacked images), then the backward pass, then `finish`.

    Attributes:
        kind: the method's name.
        adversarial: whether it makes attacks, so that the engine keeps `TrainingState.crafting` fresh and
            selects on robust validation AUC.
    """

    adversarial: ClassVar[bool] = False
    kind: str

    def attackers(self) -> dict[str, LearnedAttack]:
        """Return the learned attackers of the game by name, unfitted; the engine makes a player of each."""
        return {}

    def check(self, detector: Detector) -> None:
        """Raise a ConfigError if this detector can't be trained so; asked before data are read."""
        del detector

    def craft(
        self, images: torch.Tensor, labels: torch.Tensor, state: TrainingState
    ) -> tuple[torch.Tensor, ...]:
        """Return what `loss` needs and must not depend on the detector's graph: attacked images, mostly.

        Args:
            images: (N, 3, H, W) float32 in [0, 1].
            labels: (N,) int64, real = 0, fake = 1.
            state: everything else; attacks are made against `state.crafting`.

        Returns:
            Tensors without a graph; none by default.
        """
        del images, labels, state
        return ()

    @abstractmethod
    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of one batch, and scalars worth recording (on the device, detached).

        Args:
            detector: in training mode; returns (N,) logits.
            images: (N, 3, H, W) float32 in [0, 1].
            labels: (N,) int64, real = 0, fake = 1.
            attacked: what `craft` returned for them.
            state: everything else.
        """

    def finish(self, state: TrainingState) -> None:
        """Do what has to follow the backward pass: a player that moved in it takes its step."""
        del state


def weighted_bce(
    logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Class-weighted binary cross-entropy of logits, averaged over the batch.

    Args:
        logits: (N,) float32.
        labels: (N,) int64, real = 0, fake = 1.
        class_weights: (2,) float32.
        label_smoothing: in [0, 1]; labels become `label * (1 - label_smoothing) + label_smoothing / 2`.
    """
    targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets, weight=class_weights[labels])
