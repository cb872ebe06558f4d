"""Where training starts: fresh weights, or those of a detector that was trained before."""

from __future__ import annotations

import logging
from pathlib import Path

from dfcore.errors import ConfigError
from dfcore.models import Detector, InitialWeights, build_detector, load_detector
from dfcore.models.card import WEIGHTS_FILE
from dfcore.training.recipe import Recipe

__all__ = ["starting_point"]

logger = logging.getLogger(__name__)


def starting_point(recipe: Recipe, initial: Path | None) -> Detector:
    """Return the detector that training starts from.

    Args:
        recipe: says whether it starts from another detector.
        initial: that detector's folder.

    Raises:
        ConfigError: it is missing where the recipe asks for one, or of another architecture.
    """
    if not recipe.initialise_from_baseline:
        if initial is not None:
            logger.warning(
                "initial weights ignored: recipe %s has initialise_from_baseline=false", recipe.name
            )
        return build_detector(recipe.model, seed=recipe.seed)
    if initial is None:
        raise ConfigError(
            f"expected initial weights for recipe {recipe.name!r}, got none; give a baseline's folder"
        )
    loaded = load_detector(initial)
    fresh = {"weights": None, "pretrained": False}
    free = {**fresh, "drop_rate": 0.0}
    if loaded.config.model_copy(update=free) != recipe.model.model_copy(update=free):
        raise ConfigError(
            f"expected initial weights of {recipe.model}, got {loaded.config}; change the recipe's model"
        )
    detector = build_detector(recipe.model.model_copy(update=fresh), seed=recipe.seed)
    detector.load_state_dict(loaded.state_dict())
    detector.initial_weights = InitialWeights.of_file("detector", initial / WEIGHTS_FILE)
    detector.card = loaded.card  # whose crops these weights have seen, the next ones have seen too
    detector.calibrate(1.0, 0.0)  # training works on raw logits; calibration comes last
    return detector
