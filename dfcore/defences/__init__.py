"""Training methods, one file each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dfcore.defences.afsl import AFSL
from dfcore.defences.blur_at import BlurAdversarialTraining
from dfcore.defences.deep_image_prior import DeepImagePrior, Reconstruction
from dfcore.defences.dual_game import DualAttackerGame
from dfcore.defences.fgsm_at import FGSMAdversarialTraining
from dfcore.defences.flow_at import FlowAdversarialTraining
from dfcore.defences.generative_game import GenerativeGame
from dfcore.defences.gradient_regularisation import GradientRegularisation
from dfcore.defences.lipschitz import Lipschitz
from dfcore.defences.mart import MART
from dfcore.defences.pgd_at import PGDAdversarialTraining
from dfcore.defences.plain import PlainTraining
from dfcore.defences.template import Defence, TrainingState, weighted_bce
from dfcore.defences.trades import TRADES

__all__ = [
    "AFSL",
    "MART",
    "TRADES",
    "AnyDefence",
    "BlurAdversarialTraining",
    "DeepImagePrior",
    "Defence",
    "DualAttackerGame",
    "FGSMAdversarialTraining",
    "FlowAdversarialTraining",
    "GenerativeGame",
    "GradientRegularisation",
    "Lipschitz",
    "PGDAdversarialTraining",
    "PlainTraining",
    "Reconstruction",
    "TrainingState",
    "weighted_bce",
]

# One line for each method.
AnyDefence = Annotated[
    AFSL
    | BlurAdversarialTraining
    | DualAttackerGame
    | FGSMAdversarialTraining
    | FlowAdversarialTraining
    | GenerativeGame
    | GradientRegularisation
    | MART
    | PGDAdversarialTraining
    | PlainTraining
    | TRADES,
    Field(discriminator="kind"),
]  # fmt: skip
"""A defence as a field of a recipe; `kind` says which."""
