"""What moves the weights: the optimiser, the learning rate of each step, and how weights are averaged."""

from __future__ import annotations

import math
from typing import Any

import torch

from dfcore.models import Detector
from dfcore.training.recipe import OptimiserConfig, Recipe

__all__ = ["build_optimiser", "learning_rate", "move_average"]


def build_optimiser(detector: Detector, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over a detector's weights, which lie where they stay."""
    decayed = [parameter for parameter in detector.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in detector.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.name == "radam":
        return torch.optim.RAdam(groups, decoupled_weight_decay=True, **shared)
    # one kernel, which also leaves out a bad step without asking the host
    shared["fused"] = detector.mean.device.type == "cuda" or None
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, **shared)


def learning_rate(recipe: Recipe, number: int, steps_per_epoch: int) -> float:
    """Return the rate of a step; `number` counts from 1.

    Linear warm-up, then half a cosine down to 1 % of the peak, or a fall by a factor every few epochs.
    """
    optimiser = recipe.optimiser
    warmup = optimiser.warmup_epochs * steps_per_epoch
    if number < warmup:
        return optimiser.learning_rate * number / warmup
    if optimiser.decay_every_epochs is not None:
        falls = (number - 1) // (optimiser.decay_every_epochs * steps_per_epoch)
        return optimiser.learning_rate * float(optimiser.decay_factor**falls)
    left = max(optimiser.epochs * steps_per_epoch - warmup, 1)
    done = min(max((number - warmup) / left, 0.0), 1.0)
    return optimiser.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def move_average(average: Detector, detector: Detector, decay: float) -> None:
    """Move the average, batch statistics included, towards the current weights."""
    mine, theirs = average.state_dict(), detector.state_dict()
    floats = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name in mine.keys() - set(floats):
        mine[name].copy_(theirs[name])
