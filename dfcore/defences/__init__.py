"""Training methods, one file each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dfcore.defences.pgd_at import PGDAdversarialTraining
from dfcore.defences.plain import PlainTraining
from dfcore.defences.template import Defence, TrainingState, weighted_bce

__all__ = [
    "AnyDefence",
    "Defence",
    "PGDAdversarialTraining",
    "PlainTraining",
    "TrainingState",
    "weighted_bce",
]

AnyDefence = Annotated[PlainTraining | PGDAdversarialTraining, Field(discriminator="kind")]
"""A defence as a field of a recipe; `kind` says which."""
