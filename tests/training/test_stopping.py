from __future__ import annotations

import pytest

from dfcore.training import Recipe
from dfcore.training.stopping import why_stop


def records(*robust: float) -> list[dict[str, float]]:
    return [{"val_robust_auc": value, "val_clean_auc": 0.9, "val_loss": 0.3} for value in robust]


def test_a_fall_from_the_best_is_catastrophic_overfitting(robust: Recipe) -> None:
    recipe = robust.override(["optimiser.epochs=9", "defence.warmup_epochs=0"])
    assert why_stop(recipe, [], 0) is None
    assert why_stop(recipe, records(0.5, 0.7, 0.51), 2) is None
    reason = why_stop(recipe, records(0.5, 0.7, 0.45), 2)
    assert reason is not None
    assert "fell from 0.700 to 0.450 by epoch 3" in reason
    assert "weights of epoch 2 are kept" in reason
    assert why_stop(recipe.override(["validation.collapse=1"]), records(0.5, 0.7, 0.1), 2) is None


def test_epochs_of_a_growing_budget_are_not_judged(robust: Recipe) -> None:
    recipe = robust.override(["optimiser.epochs=9", "defence.warmup_epochs=1.5", "validation.patience=2"])
    assert why_stop(recipe, records(0.7, 0.3), 1) is None
    assert why_stop(recipe, records(0.7, 0.3, 0.1), 1) is None
    assert "early stop" in str(why_stop(recipe, records(0.7, 0.3, 0.1, 0.2), 1))
    assert "fell from 0.500 to 0.200 by epoch 4" in str(why_stop(recipe, records(0.7, 0.3, 0.5, 0.2), 1))


@pytest.mark.parametrize("defence", ["{kind: plain}", "{kind: blur_at}"])
def test_who_does_not_train_on_norm_bounded_attacks_does_not_collapse(plain: Recipe, defence: str) -> None:
    recipe = plain.override(["optimiser.epochs=9", f"defence={defence}"])
    assert why_stop(recipe, records(0.7, 0.1), 1) is None


def test_patience_counts_epochs_since_the_best(robust: Recipe) -> None:
    recipe = robust.override(["optimiser.epochs=9", "validation.patience=2", "defence.warmup_epochs=0"])
    assert why_stop(recipe, records(0.5, 0.7, 0.69), 2) is None
    reason = why_stop(recipe, records(0.5, 0.7, 0.69, 0.7), 2)
    assert reason is not None
    assert "early stop: robust validation AUC has not risen for 2 epochs" in reason


def test_the_last_epoch_ends_a_run_without_a_reason(robust: Recipe) -> None:
    recipe = robust.override(["optimiser.epochs=3", "validation.patience=1", "defence.warmup_epochs=0"])
    assert why_stop(recipe, records(0.5, 0.7, 0.3), 2) is None
