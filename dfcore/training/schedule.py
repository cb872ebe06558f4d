"""What follows from a step's number: the learning rate, and how weights are averaged."""

from __future__ import annotations

import math

import torch

from dfcore.models import Detector
from dfcore.training.recipe import Recipe

__all__ = ["learning_rate", "move_average"]


def learning_rate(recipe: Recipe, number: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak; `number` counts from 1."""
    optimiser = recipe.optimiser
    warmup = optimiser.warmup_epochs * steps_per_epoch
    if number < warmup:
        return optimiser.learning_rate * number / warmup
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
