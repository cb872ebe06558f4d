"""Training without a defence: the baseline that every defence is compared with."""

from __future__ import annotations

from typing import Literal

import torch

from dfcore.defences.template import Defence, TrainingState

__all__ = ["PlainTraining"]


class PlainTraining(Defence):
    """Class-weighted binary cross-entropy on clean images."""

    kind: Literal["plain"] = "plain"

    def loss(
        self,
        detector: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        attacked: tuple[torch.Tensor, ...],
        state: TrainingState,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weighted loss."""
        value = state.bce(detector(images), labels)
        return value, {"clean_loss": value.detach()}
