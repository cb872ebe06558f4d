"""Which epoch's weights are kept, and when a run ends before its last epoch."""

from __future__ import annotations

import math

from dfcore.defences.inner_attack import InnerAttack
from dfcore.training.progress import Record
from dfcore.training.recipe import Recipe

__all__ = ["standing", "why_stop"]


def standing(recipe: Recipe, record: Record) -> tuple[float, ...]:
    """Return what orders epochs: robust AUC where attacks were trained on, clean AUC, lower loss."""
    robust = (record["val_robust_auc"],) if recipe.defence.adversarial else ()
    return (*robust, record["val_clean_auc"], -record["val_loss"])


def why_stop(recipe: Recipe, records: list[Record], best_epoch: int) -> str | None:
    """Say why training ends after these epochs, or None to go on; the same records give the same answer.

    Epochs in which the defence's budget still grows are not judged.

    Args:
        recipe: says patience and collapse.
        records: of the epochs done.
        best_epoch: counts from 1; whose weights are kept.
    """
    if not records or len(records) >= recipe.optimiser.epochs:
        return None
    limits, defence, epoch = recipe.validation, recipe.defence, len(records)
    # while the budget of an attack grows, robustness comes and goes
    ramp = math.ceil(defence.warmup_epochs) if isinstance(defence, InnerAttack) else 0
    settled = [record["val_robust_auc"] for record in records[ramp:]]
    # who trains on other attacks (blur, flow) has not promised to withstand this one
    if isinstance(defence, InnerAttack) and settled and max(settled) - settled[-1] > limits.collapse:
        best, now = max(settled), settled[-1]
        return (
            f"catastrophic overfitting: robust validation AUC fell from {best:.3f} to {now:.3f} by epoch "
            f"{epoch}; the weights of epoch {best_epoch} are kept. More attack steps or a random start in "
            "the defence, or a lower learning rate, prevent it"
        )
    if limits.patience is not None and epoch - max(best_epoch, ramp) >= limits.patience:
        kind = "robust" if recipe.defence.adversarial else "clean"
        return (
            f"early stop: {kind} validation AUC has not risen for {limits.patience} epochs; the weights of "
            f"epoch {best_epoch} are kept"
        )
    return None
