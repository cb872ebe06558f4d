"""Training: recipes in, calibrated detectors out."""

from __future__ import annotations

from dfcore.training.engine import TrainingProgress, train
from dfcore.training.recipe import (
    AugmentationConfig,
    CheckpointConfig,
    DataConfig,
    OptimiserConfig,
    Recipe,
    ValidationConfig,
)

__all__ = [
    "AugmentationConfig",
    "CheckpointConfig",
    "DataConfig",
    "OptimiserConfig",
    "Recipe",
    "TrainingProgress",
    "ValidationConfig",
    "train",
]
