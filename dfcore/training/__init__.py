"""Training: recipes in, calibrated detectors out."""

from __future__ import annotations

from dfcore.training.engine import train
from dfcore.training.preflight import Preflight, preflight
from dfcore.training.progress import TrainingProgress
from dfcore.training.recipe import (
    AugmentationConfig,
    CheckpointConfig,
    DataConfig,
    OptimiserConfig,
    Recipe,
    ValidationConfig,
    WeightPerturbation,
)

__all__ = [
    "AugmentationConfig",
    "CheckpointConfig",
    "DataConfig",
    "OptimiserConfig",
    "Preflight",
    "Recipe",
    "TrainingProgress",
    "ValidationConfig",
    "WeightPerturbation",
    "preflight",
    "train",
]
