"""The four sources' methods at their published settings; where a source is silent, the recipe says so.

Each is named after the data set of its source and runs on any store of it. None fetches weights: a run that
begins with ImageNet's is had with `--set model.pretrained=true`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfcore.data.augmentation import PRESETS
from dfcore.defences import (
    AnyDefence,
    BlurAdversarialTraining,
    DualAttackerGame,
    FGSMAdversarialTraining,
    FlowAdversarialTraining,
    GenerativeGame,
    GradientRegularisation,
    Lipschitz,
    PGDAdversarialTraining,
)
from dfcore.models import DetectorConfig
from dfcore.training import DataConfig, OptimiserConfig, Recipe, ValidationConfig

__all__ = ["PUBLISHED"]

# Plain training is not guarded by it, only watched.
_PGD_10 = ValidationConfig(epsilon=4 / 255, step_size=1 / 255, steps=10, crops=512)
# For who trains on PGD: twice its steps and more, from two starts, at its own budget.
_STRONG = _PGD_10.model_copy(update={"steps": 20, "restarts": 2})
# Blur and flow are no defence in a norm: a budget of 0 makes the selection go by clean AUC.
_CLEAN = ValidationConfig(epsilon=0, steps=1, crops=512)


def _derive(base: Recipe, name: str, **changes: Any) -> Recipe:
    return base.model_copy(update={"name": name, **changes})


def baseline_efficientnet_dffd() -> Recipe:
    """Class-weighted cross-entropy on EfficientNet-B0; Adam 1e-4 is published, 20 epochs are ours."""
    return Recipe(
        name="baseline_efficientnet_dffd",
        model=DetectorConfig(backbone="efficientnet_b0", image_size=224),
        # each crop once an epoch: the class weights do the balancing
        data=DataConfig(batch_size=32, sampling="natural"),
        optimiser=OptimiserConfig(
            name="adam", learning_rate=1e-4, weight_decay=0, epochs=20, warmup_epochs=0, gradient_clip=None
        ),
        validation=_PGD_10,
        precision="bf16-mixed",
    )


def gradient_regularisation_dffd() -> Recipe:
    """Perturbed statistics of shallow features, behind block 2: r .05, alpha .5.

    Source: Guan et al., IEEE TIFS 19 (2024), doi:10.1109/TIFS.2024.3396064.
    """
    defence = GradientRegularisation(mode="gradient", radius=0.05, alpha=0.5, blocks=2)
    return _derive(baseline_efficientnet_dffd(), "gradient_regularisation_dffd", defence=defence)


def baseline_xception_celebdf() -> Recipe:
    """Xception at 299 px: Adam 1e-4, batch 32, 20 epochs, cosine."""
    return Recipe(
        name="baseline_xception_celebdf",
        model=DetectorConfig(backbone="xception", image_size=299),
        data=DataConfig(batch_size=32),
        optimiser=OptimiserConfig(
            name="adam", learning_rate=1e-4, weight_decay=0, epochs=20, warmup_epochs=0, gradient_clip=None
        ),
        validation=_PGD_10,
    )


def pgd_lipschitz_xception_celebdf() -> Recipe:
    """Strong augmentation, PGD on it, and a Lipschitz term (psi 1000, z 2); 50 epochs.

    Start, clean term and budget are ours: its own attack never moved beyond one step of 1/255.

    Source: the PGD and Lipschitz work on Celeb-DF; the term is Gandhi & Jain's, arXiv:2003.10596.
    """
    base = baseline_xception_celebdf()
    return _derive(
        base,
        "pgd_lipschitz_xception_celebdf",
        data=base.data.model_copy(update={"augmentation": PRESETS["strong"]}),
        defence=PGDAdversarialTraining(
            epsilon=4 / 255, step_size=1 / 255, steps=7, warmup_epochs=5, lipschitz=Lipschitz()
        ),
        optimiser=base.optimiser.model_copy(update={"epochs": 50}),
        validation=_STRONG,
        initialise_from_baseline=True,
    )


def baseline_ffpp() -> Recipe:
    """EfficientNet-B5 at 256 px: RAdam 5e-4, weight decay 5e-4, 16 + 16 crops, 120 epochs, x .1 each 15."""
    return Recipe(
        name="baseline_ffpp",
        model=DetectorConfig(backbone="efficientnet_b5", image_size=256),
        data=DataConfig(batch_size=32, compressions=("c23",)),
        optimiser=OptimiserConfig(
            name="radam",
            learning_rate=5e-4,
            weight_decay=5e-4,
            epochs=120,
            warmup_epochs=0,
            schedule="steps",
            decay_every_epochs=15,
            decay_factor=0.1,
            gradient_clip=None,
        ),
        validation=_CLEAN,
        precision="bf16-mixed",
    )


def _forensic_game(name: str, defence: AnyDefence, **changes: Any) -> Recipe:
    return _derive(baseline_ffpp(), name, defence=defence, **changes)


def fgsm_at_ffpp() -> Recipe:
    """FGSM at 1/255, clean + attacked; `--set defence.attacked_weight=null` for attacked images alone.

    Source: Wang et al., arXiv:2103.13567.
    """
    defence = FGSMAdversarialTraining(epsilon=1 / 255, noise="none", warmup_epochs=0)
    guard = ValidationConfig(epsilon=1 / 255, step_size=0.25 / 255, steps=10, crops=512)
    return _forensic_game("fgsm_at_ffpp", defence, validation=guard)


def blur_at_ffpp() -> Recipe:
    """Pixel-wise blur, clean + blurred.

    Source: Wang et al., arXiv:2103.13567.
    """
    return _forensic_game("blur_at_ffpp", BlurAdversarialTraining())


def flow_at_ffpp() -> Recipe:
    """Adversarial flow, clean + warped.

    Source: Wang et al., arXiv:2103.13567.
    """
    return _forensic_game("flow_at_ffpp", FlowAdversarialTraining())


def generative_game_ffpp() -> Recipe:
    """A generator of 64 filters for each class that blurs: three steps of it at 2e-3 for one of the detector.

    Source: Wang et al., arXiv:2103.13567.
    """
    return _forensic_game("generative_game_ffpp", GenerativeGame(width=64))


def baseline_efficientvit_ffpp() -> Recipe:
    """EfficientNet-B0 and a small Transformer; `model.backbone=efficientvit_published` is the large one."""
    return Recipe(
        name="baseline_efficientvit_ffpp",
        model=DetectorConfig(backbone="efficientvit", image_size=224),
        data=DataConfig(batch_size=32, compressions=("c23",)),
        optimiser=OptimiserConfig(learning_rate=2e-4, weight_decay=0.01, epochs=8, gradient_clip=1.0),
        validation=_PGD_10,
        label_smoothing=0.05,
        precision="bf16-mixed",
    )


def dual_game_efficientvit_ffpp() -> Recipe:
    """PGD (8/255, 2/255, 10) and a U-Net against the detector, from the baseline's weights; 8 epochs.

    Source: the dual-attacker game, FaceForensics++ to Celeb-DF v2.
    """
    return _derive(
        baseline_efficientvit_ffpp(),
        "dual_game_efficientvit_ffpp",
        defence=DualAttackerGame(),
        validation=_STRONG.model_copy(update={"epsilon": 8 / 255, "step_size": 2 / 255}),
        initialise_from_baseline=True,
    )


PUBLISHED: dict[str, Callable[[], Recipe]] = {
    "baseline_efficientnet_dffd": baseline_efficientnet_dffd,
    "baseline_efficientvit_ffpp": baseline_efficientvit_ffpp,
    "baseline_ffpp": baseline_ffpp,
    "baseline_xception_celebdf": baseline_xception_celebdf,
    "blur_at_ffpp": blur_at_ffpp,
    "dual_game_efficientvit_ffpp": dual_game_efficientvit_ffpp,
    "fgsm_at_ffpp": fgsm_at_ffpp,
    "flow_at_ffpp": flow_at_ffpp,
    "generative_game_ffpp": generative_game_ffpp,
    "gradient_regularisation_dffd": gradient_regularisation_dffd,
    "pgd_lipschitz_xception_celebdf": pgd_lipschitz_xception_celebdf,
}
