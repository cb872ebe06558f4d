"""Named full configurations; each is a function that derives from another.

`rampart train --recipe pgd_at_efficientnet_b0 --data STORE --out DIR`
"""

from __future__ import annotations

from collections.abc import Callable

from dfcore.config import suggest
from dfcore.data.augmentation import Colour, Noise
from dfcore.defences import PGDAdversarialTraining
from dfcore.errors import ConfigError
from dfcore.models import DetectorConfig
from dfcore.training import AugmentationConfig, DataConfig, OptimiserConfig, Recipe, ValidationConfig

__all__ = [
    "RECIPES",
    "baseline_efficientnet_b0",
    "demo_baseline",
    "demo_robust",
    "get_recipe",
    "pgd_at_efficientnet_b0",
]


def baseline_efficientnet_b0() -> Recipe:
    """EfficientNet-B0 at 224 px without a defence."""
    return Recipe(
        name="baseline_efficientnet_b0",
        model=DetectorConfig(backbone="efficientnet_b0", image_size=224, drop_rate=0.2),
        data=DataConfig(
            batch_size=32,
            augmentation=AugmentationConfig(
                noise=Noise(probability=1, std=(0, 2 / 255)), colour=Colour(probability=1, brightness=4 / 255)
            ),
        ),
        optimiser=OptimiserConfig(
            learning_rate=5e-4, weight_decay=0.01, epochs=20, warmup_epochs=1, ema_decay=0.999
        ),
        precision="bf16-mixed",
    )


def pgd_at_efficientnet_b0() -> Recipe:
    """The same, then adversarially trained from the baseline's weights."""
    base = baseline_efficientnet_b0()
    return base.model_copy(
        update={
            "name": "pgd_at_efficientnet_b0",
            "defence": PGDAdversarialTraining(
                epsilon=4 / 255, step_size=2 / 255, steps=3, clean_weight=0.5, warmup_epochs=5
            ),
            "optimiser": base.optimiser.model_copy(update={"epochs": 50, "learning_rate": 2e-4}),
            "validation": ValidationConfig(epsilon=4 / 255, step_size=1 / 255, steps=10, crops=512),
            "initialise_from_baseline": True,
        }
    )


def demo_baseline() -> Recipe:
    """Minutes on two CPU cores: a small network on small crops."""
    return Recipe(
        name="demo_baseline",
        model=DetectorConfig(backbone="resnet10_narrow", image_size=64),
        data=DataConfig(batch_size=64),
        optimiser=OptimiserConfig(learning_rate=2e-3, weight_decay=5e-4, epochs=10, warmup_epochs=1.5),
    )


def demo_robust() -> Recipe:
    """The demo's defence: two-step PGD training from the demo's baseline, beyond the gate's budget."""
    base = demo_baseline()
    return base.model_copy(
        update={
            "name": "demo_robust",
            # a few people are soon learnt by heart; changing light and noise keep the robust AUC of others up
            "data": base.data.model_copy(
                update={
                    "augmentation": AugmentationConfig(
                        colour=Colour(probability=1, brightness=24 / 255),
                        noise=Noise(probability=1, std=(0, 12 / 255)),
                    )
                }
            ),
            "defence": PGDAdversarialTraining(
                epsilon=4 / 255, step_size=3 / 255, steps=2, clean_weight=0.3, warmup_epochs=6
            ),
            "optimiser": base.optimiser.model_copy(
                update={"epochs": 12, "warmup_epochs": 2, "ema_decay": 0.99}
            ),
            "validation": ValidationConfig(epsilon=2 / 255, step_size=0.75 / 255, steps=5, crops=128),
            "initialise_from_baseline": True,
        }
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "baseline_efficientnet_b0": baseline_efficientnet_b0,
    "demo_baseline": demo_baseline,
    "demo_robust": demo_robust,
    "pgd_at_efficientnet_b0": pgd_at_efficientnet_b0,
}


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
