"""The recipe: everything that decides a training run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dfcore.attacks import PGD
from dfcore.config import Config, Epsilon
from dfcore.data.augmentation import Augmentation, AugmentationConfig
from dfcore.data.sampling import SamplingConfig
from dfcore.defences import AnyDefence, PlainTraining
from dfcore.models import DetectorConfig

__all__ = [
    "AugmentationConfig",
    "CheckpointConfig",
    "DataConfig",
    "OptimiserConfig",
    "Recipe",
    "ValidationConfig",
]


class DataConfig(SamplingConfig):
    """Which crops are read, where they lie meanwhile, and how they become batches.

    Attributes:
        compressions: compression levels to use, or None for all.
        max_train_crops: a seeded choice of so many crops, or None for all.
        max_frames_per_video: or None for all.
        residence: where crops are kept: all on the "device", all in "memory", or on disk ("stream"); "auto"
            takes the first of which half of what is free suffices. Streamed crops are shuffled within windows
            only. No part of a run's identity.
        augmentation: settings, or a preset: "none", "light", "strong", "wide".
    """

    compressions: tuple[str, ...] | None = None
    train_split: str = "train"
    val_split: str = "val"
    max_train_crops: int | None = Field(default=None, ge=2)
    max_val_crops: int | None = Field(default=None, ge=2)
    max_frames_per_video: int | None = Field(default=None, ge=1)
    residence: Literal["auto", "device", "memory", "stream"] = "auto"
    augmentation: Augmentation = AugmentationConfig()


class OptimiserConfig(Config):
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        ema_decay: decay of the averaged weights (and batch statistics) that are validated and kept;
            None keeps the last weights instead.
        gradient_clip: largest gradient norm, or None.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    epochs: int = Field(default=10, ge=1)
    warmup_epochs: float = Field(default=0.5, ge=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    gradient_clip: float | None = Field(default=1.0, gt=0)


class ValidationConfig(Config):
    """The attack whose AUC is recorded each epoch and selects adversarially trained weights."""

    epsilon: Epsilon = Field(default=2 / 255)
    step_size: Epsilon = Field(default=1 / 255)
    steps: int = Field(default=5, ge=1)
    crops: int = Field(default=128, ge=2)

    def attack(self) -> PGD:
        """Return it."""
        return PGD(epsilon=self.epsilon, step_size=self.step_size, steps=self.steps)


class CheckpointConfig(Config):
    """How often a run saves what it needs to go on, beside the end of each epoch; no part of its identity.

    Attributes:
        every_seconds: at most so much work is done twice after a kill.
        every_steps: the same, counted; None leaves it to the seconds.
    """

    every_seconds: float = Field(default=300.0, gt=0)
    every_steps: int | None = Field(default=None, ge=1)


class Recipe(Config):
    """Everything that decides a training run beside the data itself.

    Attributes:
        name: under which it is known; a changed recipe keeps the name of what it was derived from.
        initialise_from_baseline: start from the weights of an earlier run, which the caller must give.
    """

    name: str
    model: DetectorConfig = DetectorConfig()
    data: DataConfig = DataConfig()
    defence: AnyDefence = PlainTraining()
    optimiser: OptimiserConfig = OptimiserConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    seed: int = Field(default=0, ge=0)
    initialise_from_baseline: bool = False

    def identity(self) -> dict[str, Any]:
        """Return what decides the result, as JSON: all but where crops lie and how often the run is saved."""
        return self.model_dump(mode="json", exclude={"checkpoint": True, "data": {"residence"}})
