"""The weighted sum of losses on several versions of one batch, in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from dfcore.defences.template import TrainingState

__all__ = ["Term", "weighted_terms"]


class Term(NamedTuple):
    """One version of the batch.

    Attributes:
        weight: of its loss; at 0 it is not passed at all.
        images: (N, 3, H, W) float32 in [0, 1].
    """

    weight: float
    images: torch.Tensor


def weighted_terms(
    detector: torch.nn.Module, labels: torch.Tensor, terms: Mapping[str, Term], state: TrainingState
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pass all versions together and weigh their losses.

    One pass instead of several: a third of the launches, and batch norm normalises with the statistics of
    the mixture, which are also what its running statistics follow. With batch norm in eval, or without any,
    the value is that of separate passes.

    Args:
        detector: returns (N,) logits.
        labels: (N,) int64, real = 0, fake = 1; the same for each version.
        terms: the versions by name; at least one weighs more than 0.
        state: of the run.

    Returns:
        The sum of weight times loss, and each loss as `NAME_loss`, detached.
    """
    passed = {name: term for name, term in terms.items() if term.weight > 0}
    logits = detector(torch.cat([term.images for term in passed.values()]))
    total, scalars = logits.new_zeros(()), {}
    for (name, term), part in zip(passed.items(), logits.split(len(labels)), strict=True):
        loss = state.bce(part, labels)
        total = total + term.weight * loss
        scalars[f"{name}_loss"] = loss.detach()
    return total, scalars
