from __future__ import annotations

import pytest

from dfcore.errors import ConfigError
from dfcore.recipes import RECIPES, get_recipe
from dfcore.training import Recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_has_its_name_and_survives_json(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.name == name
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again.model_dump_json() == recipe.model_dump_json()


def test_settings_are_overridden_and_typos_found() -> None:
    recipe = get_recipe("demo_robust").override(["defence.epsilon=1/255", "optimiser.epochs=2"])
    assert recipe.defence.model_dump()["epsilon"] == pytest.approx(1 / 255)
    assert recipe.optimiser.epochs == 2
    with pytest.raises(ConfigError, match="did you mean 'epsilon'"):
        recipe.override(["defence.epsilom=1/255"])
    with pytest.raises(ConfigError, match="did you mean 'demo_robust'"):
        get_recipe("demo_robsut")
