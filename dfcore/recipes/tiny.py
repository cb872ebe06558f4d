"""The demo's recipes, and every defence at its scale: minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dfcore.data.augmentation import Colour, Noise
from dfcore.defences import (
    AFSL,
    MART,
    TRADES,
    AnyDefence,
    BlurAdversarialTraining,
    DualAttackerGame,
    FGSMAdversarialTraining,
    FlowAdversarialTraining,
    GenerativeGame,
    GradientRegularisation,
    Lipschitz,
    PGDAdversarialTraining,
    PlainTraining,
)
from dfcore.models import DetectorConfig
from dfcore.training import (
    AugmentationConfig,
    DataConfig,
    OptimiserConfig,
    Recipe,
    ValidationConfig,
    WeightPerturbation,
)

__all__ = ["TINY"]


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


_BUDGET: dict[str, Any] = {"epsilon": 4 / 255, "warmup_epochs": 6}
_PGD_2: dict[str, Any] = {**_BUDGET, "step_size": 3 / 255, "steps": 2}
# Blur and flow are no defence in a norm: a budget of 0 makes the selection go by clean AUC.
_CLEAN = ValidationConfig(epsilon=0, steps=1, crops=128)
_PERTURBATION = WeightPerturbation(gamma=0.005, warmup_epochs=2)


def _tiny(name: str, defence: AnyDefence, **changes: Any) -> Recipe:
    """The demo's robust recipe with another defence, so that a table compares defences and nothing else."""
    return demo_robust().model_copy(update={"name": name, "defence": defence, **changes})


# (defence, other changes): one line for each method
_METHODS: dict[str, tuple[AnyDefence, dict[str, Any]]] = {
    "tiny_afsl": (AFSL(**_PGD_2), {}),
    "tiny_apgd_at": (
        PGDAdversarialTraining(**_BUDGET, attack="apgd", steps=2, clean_weight=0.3), {}
    ),
    "tiny_awp": (
        PGDAdversarialTraining(**_PGD_2, clean_weight=0.3), {"weight_perturbation": _PERTURBATION}
    ),
    "tiny_blur_at": (BlurAdversarialTraining(), {"validation": _CLEAN}),
    "tiny_dual_game": (DualAttackerGame(**_PGD_2, unet_learning_rate=1e-3), {}),
    "tiny_dual_game_joint": (DualAttackerGame(**_PGD_2, unet_learning_rate=1e-3, mode="joint"), {}),
    "tiny_fgsm_at": (FGSMAdversarialTraining(**_BUDGET, noise="none"), {}),
    "tiny_fgsm_rs": (FGSMAdversarialTraining(**_BUDGET, noise="uniform"), {}),
    "tiny_flow_at": (FlowAdversarialTraining(), {"validation": _CLEAN}),
    "tiny_generative_game": (GenerativeGame(), {"validation": _CLEAN}),
    "tiny_gradient_regularisation": (GradientRegularisation(), {}),
    "tiny_gradient_regularisation_random": (GradientRegularisation(mode="random"), {}),
    "tiny_mart": (MART(**_PGD_2), {}),
    "tiny_nfgsm": (FGSMAdversarialTraining(**_BUDGET, noise="n-fgsm"), {}),
    "tiny_pgd_lipschitz": (
        PGDAdversarialTraining(**_PGD_2, clean_weight=0.3, lipschitz=Lipschitz()), {}
    ),
    "tiny_pgd_lipschitz_difference": (
        PGDAdversarialTraining(**_PGD_2, clean_weight=0.3, lipschitz=Lipschitz(mode="finite_difference")), {}
    ),
    "tiny_plain": (PlainTraining(), {}),
    "tiny_rampart_default": (
        TRADES(**_PGD_2, beta=3), {"optimiser": demo_robust().optimiser.model_copy(update={"epochs": 40})}
    ),
    "tiny_trades": (TRADES(**_PGD_2), {}),
}  # fmt: skip

TINY: dict[str, Callable[[], Recipe]] = {
    "demo_baseline": demo_baseline,
    "demo_robust": demo_robust,
    **{name: partial(_tiny, name, defence, **changes) for name, (defence, changes) in _METHODS.items()},
}
