from __future__ import annotations

import pytest
import torch

from dfcore.models import build_detector
from dfcore.training import OptimiserConfig, Recipe
from dfcore.training.schedule import build_optimiser, learning_rate


def test_steps_fall_by_a_factor_every_few_epochs(plain: Recipe) -> None:
    recipe = plain.override([
        "optimiser.schedule=steps", "optimiser.decay_every_epochs=2", "optimiser.decay_factor=0.1",
        "optimiser.warmup_epochs=0.5", "optimiser.epochs=6", "optimiser.learning_rate=1",
    ])  # fmt: skip
    rates = [learning_rate(recipe, number, 4) for number in range(1, 25)]
    assert rates[:2] == [0.5, 1]
    assert rates[7:9] == pytest.approx([1, 0.1])
    assert rates[15:17] == pytest.approx([0.1, 0.01])


def test_cosine_ends_at_one_percent(plain: Recipe) -> None:
    peak = plain.optimiser.learning_rate
    assert learning_rate(plain, 30, 10) == pytest.approx(0.01 * peak)
    assert learning_rate(plain, 5, 10) == pytest.approx(peak)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("radam", torch.optim.RAdam), ("adam", torch.optim.Adam)],
)
def test_vectors_are_not_decayed(plain: Recipe, name: str, kind: type[torch.optim.Optimizer]) -> None:
    optimiser = build_optimiser(
        build_detector(plain.model), OptimiserConfig(name=name, weight_decay=0.3)  # type: ignore[arg-type]
    )  # fmt: skip
    assert type(optimiser) is kind
    matrices, vectors = optimiser.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {value.ndim for value in vectors["params"]} == {1}
