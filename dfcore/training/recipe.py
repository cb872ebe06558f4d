"""The recipe: everything that decides a training run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dfcore.attacks import PGD
from dfcore.config import Config, Epsilon
from dfcore.data.augmentation import Augmentation, AugmentationConfig
from dfcore.data.sampling import SamplingConfig
from dfcore.defences import AnyDefence, PlainTraining
from dfcore.models import DetectorConfig
from dfcore.training.weight_perturbation import WeightPerturbation

__all__ = [
    "AugmentationConfig",
    "CheckpointConfig",
    "DataConfig",
    "OptimiserConfig",
    "Recipe",
    "ValidationConfig",
    "WeightPerturbation",
]

_LEAST_PART = 2  # batch statistics of one crop are none


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
    """What moves the weights, how far and how long.

    Attributes:
        name: "adamw", "radam" (both with decoupled weight decay) or "adam" (decay within the gradient).
        weight_decay: of weights; vectors (biases, batch norm) have none.
        warmup_epochs: the learning rate rises linearly meanwhile.
        schedule: then it follows half a "cosine" down to 1 % of the peak, or falls in "steps".
        decay_every_epochs: of "steps": after each so many epochs the rate is multiplied
        decay_factor: by this.
        accumulate: parts in which each batch is worked through. Memory is that of one part; the step is that
            of the whole batch, but for batch statistics, weight perturbation and the moves of learned
            attackers, which are each part's own.
        ema_decay: decay of the averaged weights (and batch statistics) that are validated and kept;
            None keeps the last weights instead.
        gradient_clip: largest gradient norm, or None.
    """

    name: Literal["adamw", "radam", "adam"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    epochs: int = Field(default=10, ge=1)
    warmup_epochs: float = Field(default=0.5, ge=0)
    schedule: Literal["cosine", "steps"] = "cosine"
    decay_every_epochs: int | None = Field(default=None, ge=1)
    decay_factor: float = Field(default=0.1, gt=0, lt=1)
    accumulate: int = Field(default=1, ge=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    gradient_clip: float | None = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if (self.schedule == "steps") != (self.decay_every_epochs is not None):
            raise ValueError(
                f"expected decay_every_epochs with schedule=steps and only with it, got {self.schedule} and "
                f"{self.decay_every_epochs}; set both or neither"
            )
        return self


class ValidationConfig(Config):
    """The attack whose AUC guards the run: recorded each epoch, it selects the weights and may end the run.

    Make it much stronger than the attack that is trained on, in steps and restarts: a detector that learns to
    answer weak attacks alone (catastrophic overfitting) shows only so.

    Attributes:
        steps: of PGD.
        restarts: of PGD; the worst of them counts for each crop.
        crops: so many of the validation split are attacked, half of each class.
        patience: epochs without better weights after which the run ends; None trains all epochs.
        collapse: a fall of the robust AUC below the best so far that ends the run, if the defence trains on
            attacks bounded in a norm; 1 never does. Epochs in which their budget grows are not judged.
    """

    epsilon: Epsilon = Field(default=2 / 255)
    step_size: Epsilon = Field(default=1 / 255)
    steps: int = Field(default=5, ge=1)
    restarts: int = Field(default=1, ge=1)
    crops: int = Field(default=128, ge=2)
    patience: int | None = Field(default=None, ge=1)
    collapse: float = Field(default=0.2, gt=0, le=1)

    def attack(self) -> PGD:
        """Return it."""
        return PGD(epsilon=self.epsilon, step_size=self.step_size, steps=self.steps, restarts=self.restarts)


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
        label_smoothing: a label is this much closer to one half, in [0, 1).
        weight_perturbation: take the loss where slightly moved weights make it worst, or None; over any
            defence.
        precision: "bf16-mixed" needs no loss scaling and is the better one where the GPU has it; with
            "16-mixed" a scaled loss may overflow, and such steps are skipped, counted and recorded.
        initialise_from_baseline: start from the weights of an earlier run, which the caller must give.
    """

    name: str
    model: DetectorConfig = DetectorConfig()
    data: DataConfig = DataConfig()
    defence: AnyDefence = PlainTraining()
    optimiser: OptimiserConfig = OptimiserConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    weight_perturbation: WeightPerturbation | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    seed: int = Field(default=0, ge=0)
    initialise_from_baseline: bool = False

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        size, parts, epochs = self.data.batch_size, self.optimiser.accumulate, self.optimiser.epochs
        if size % parts or size // parts < _LEAST_PART:
            raise ValueError(
                "expected data.batch_size to be a multiple of optimiser.accumulate, with at least "
                f"{_LEAST_PART} crops in a part, got {size} and {parts}; change one"
            )
        patience, perturbation = self.validation.patience, self.weight_perturbation
        if patience is not None and patience >= epochs:
            raise ValueError(
                "expected validation.patience below optimiser.epochs, or it never ends a run, got "
                f"{patience} and {epochs}; lower it or set it to null"
            )
        if perturbation is not None and perturbation.warmup_epochs >= epochs:
            raise ValueError(
                "expected weight_perturbation.warmup_epochs below optimiser.epochs, or it never begins, "
                f"got {perturbation.warmup_epochs} and {epochs}; lower it or set weight_perturbation=null"
            )
        for name, warmup in (
            ("optimiser.warmup_epochs", self.optimiser.warmup_epochs),
            ("defence.warmup_epochs", getattr(self.defence, "warmup_epochs", 0)),
        ):
            if warmup >= epochs:
                raise ValueError(
                    f"expected {name} below optimiser.epochs, or the full size is never reached, got "
                    f"{warmup:g} and {epochs}; lower it"
                )
        if self.precision == "16-mixed" and self.defence.attackers():
            raise ValueError(
                "expected bf16-mixed or 32-true with a defence that trains an attacker, got 16-mixed, in "
                "which the attacker's gradients round to zero; change precision"
            )
        lipschitz = getattr(self.defence, "lipschitz", None)
        if self.precision == "16-mixed" and lipschitz is not None and lipschitz.mode == "exact":
            raise ValueError(
                "expected bf16-mixed or 32-true with the exact Lipschitz term, got 16-mixed, in which its "
                "second derivatives round to zero; change precision, or set defence.lipschitz.mode="
                "finite_difference"
            )
        return self

    @model_validator(mode="after")
    def _starts_once(self) -> Self:
        if self.initialise_from_baseline and (self.model.pretrained or self.model.weights is not None):
            given = (
                "model.pretrained=true" if self.model.pretrained else f"model.weights={self.model.weights}"
            )
            raise ValueError(
                "expected one start: a baseline's weights (initialise_from_baseline=true) or published ones, "
                f"got both and {given}; remove one"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return what decides the result, as JSON: all but where crops lie and how often the run is saved."""
        return self.model_dump(mode="json", exclude={"checkpoint": True, "data": {"residence"}})
