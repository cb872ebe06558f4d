"""Named full configurations; each is a function that derives from another.

`rampart train --recipe rampart_default --data STORE --initial BASELINE --out DIR`

`docs/recipes.md` says where each comes from, what it costs and what was measured.
"""

from __future__ import annotations

from collections.abc import Callable

from dfcore.config import suggest
from dfcore.errors import ConfigError
from dfcore.recipes.efficientnet import EFFICIENTNET
from dfcore.recipes.published import PUBLISHED
from dfcore.recipes.tiny import TINY
from dfcore.training import Recipe

__all__ = ["RECIPES", "get_recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {**EFFICIENTNET, **PUBLISHED, **TINY}
"""Every recipe by its name."""


def get_recipe(name: str) -> Recipe:
    """Return a named recipe.

    Raises:
        ConfigError: the name is unknown.

    >>> get_recipe("demo_robust").defence.kind
    'pgd_at'
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}{suggest(name, RECIPES)}")
    return RECIPES[name]()
