"""EfficientNet-B0 at 224 px: a baseline, and what is known to help against L-infinity attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfcore.data.augmentation import Colour, Noise
from dfcore.defences import AFSL, MART, TRADES, AnyDefence, FGSMAdversarialTraining, PGDAdversarialTraining
from dfcore.models import DetectorConfig
from dfcore.training import (
    AugmentationConfig,
    DataConfig,
    OptimiserConfig,
    Recipe,
    ValidationConfig,
    WeightPerturbation,
)

__all__ = ["EFFICIENTNET"]

_BUDGET: dict[str, Any] = {"epsilon": 4 / 255, "warmup_epochs": 5}
_PGD_3: dict[str, Any] = {**_BUDGET, "step_size": 2 / 255, "steps": 3}


def baseline_efficientnet_b0() -> Recipe:
    """Plain training."""
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
    """The baseline, then adversarially trained from its weights."""
    base = baseline_efficientnet_b0()
    return base.model_copy(
        update={
            "name": "pgd_at_efficientnet_b0",
            "defence": PGDAdversarialTraining(**_PGD_3, clean_weight=0.5),
            "optimiser": base.optimiser.model_copy(update={"epochs": 50, "learning_rate": 2e-4}),
            "validation": ValidationConfig(epsilon=4 / 255, step_size=1 / 255, steps=10, crops=512),
            "initialise_from_baseline": True,
        }
    )


def _instead(name: str, defence: AnyDefence, **changes: Any) -> Recipe:
    """PGD training with another defence."""
    return pgd_at_efficientnet_b0().model_copy(update={"name": name, "defence": defence, **changes})


def apgd_at_efficientnet_b0() -> Recipe:
    """PGD training with two steps of APGD inside, as the strongest open ImageNet recipe has it."""
    defence = PGDAdversarialTraining(**_BUDGET, attack="apgd", steps=2, clean_weight=0.5)
    return _instead("apgd_at_efficientnet_b0", defence)


def nfgsm_efficientnet_b0() -> Recipe:
    """One step from strong noise: the cheapest, and the one whose guard on robust AUC is needed most."""
    return _instead("nfgsm_efficientnet_b0", FGSMAdversarialTraining(**_BUDGET, noise="n-fgsm"))


def trades_efficientnet_b0() -> Recipe:
    """TRADES."""
    return _instead("trades_efficientnet_b0", TRADES(**_PGD_3, beta=6))


def mart_efficientnet_b0() -> Recipe:
    """MART."""
    return _instead("mart_efficientnet_b0", MART(**_PGD_3, beta=5))


def afsl_efficientnet_b0() -> Recipe:
    """AFSL, without the dropout that it would take for a change of features."""
    model = baseline_efficientnet_b0().model.model_copy(update={"drop_rate": 0.0})
    return _instead("afsl_efficientnet_b0", AFSL(**_PGD_3), model=model)


def awp_efficientnet_b0() -> Recipe:
    """PGD training with weights perturbed, after an epsilon that has grown up."""
    base = pgd_at_efficientnet_b0()
    perturbation = WeightPerturbation(gamma=0.005, warmup_epochs=5)
    return _instead("awp_efficientnet_b0", base.defence, weight_perturbation=perturbation)


def rampart_default() -> Recipe:
    """The one to start with: TRADES with two steps inside, and time to learn at a high learning rate."""
    base = trades_efficientnet_b0()
    return base.model_copy(
        update={
            "name": "rampart_default",
            "defence": TRADES(**_BUDGET, step_size=3 / 255, steps=2, beta=3),
            "optimiser": base.optimiser.model_copy(update={"epochs": 100}),
            "validation": base.validation.model_copy(update={"patience": 15}),
        }
    )


EFFICIENTNET: dict[str, Callable[[], Recipe]] = {
    "afsl_efficientnet_b0": afsl_efficientnet_b0,
    "apgd_at_efficientnet_b0": apgd_at_efficientnet_b0,
    "awp_efficientnet_b0": awp_efficientnet_b0,
    "baseline_efficientnet_b0": baseline_efficientnet_b0,
    "mart_efficientnet_b0": mart_efficientnet_b0,
    "nfgsm_efficientnet_b0": nfgsm_efficientnet_b0,
    "pgd_at_efficientnet_b0": pgd_at_efficientnet_b0,
    "rampart_default": rampart_default,
    "trades_efficientnet_b0": trades_efficientnet_b0,
}
