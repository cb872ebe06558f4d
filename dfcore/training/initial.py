"""Where training starts: fresh weights, or those of a detector that was trained before."""

from __future__ import annotations

from pathlib import Path

from dfcore.errors import ConfigError
from dfcore.models import Detector, InitialWeights, build_detector, load_detector
from dfcore.models.card import WEIGHTS_FILE
from dfcore.provenance import sha256_file
from dfcore.training.recipe import Recipe

__all__ = ["initial_digest", "starting_point"]


def initial_digest(recipe: Recipe, initial: Path | None) -> str | None:
    """Return the SHA-256 of the weights that training starts from, or None for fresh ones.

    Raises:
        ConfigError: a detector is missing where the recipe asks for one, or given where it does not.
    """
    folder = _wanted(recipe, initial)
    if folder is None:
        return None
    try:
        return sha256_file(folder / WEIGHTS_FILE)
    except OSError as error:
        raise ConfigError(
            f"expected initial weights at {folder / WEIGHTS_FILE}, got: {error.strerror}; give a detector's "
            "folder"
        ) from error


def starting_point(recipe: Recipe, initial: Path | None) -> Detector:
    """Return the detector that training starts from.

    Args:
        recipe: says whether it starts from another detector.
        initial: that detector's folder.

    Raises:
        ConfigError: it is missing where the recipe asks for one, given where it does not, or of another
            architecture.
    """
    folder = _wanted(recipe, initial)
    if folder is None:
        return build_detector(recipe.model, seed=recipe.seed)
    loaded = load_detector(folder)
    fresh = {"weights": None, "pretrained": False}
    free = {**fresh, "drop_rate": 0.0}
    if loaded.config.model_copy(update=free) != recipe.model.model_copy(update=free):
        raise ConfigError(
            f"expected initial weights of {recipe.model}, got {loaded.config}; change the recipe's model"
        )
    detector = build_detector(recipe.model.model_copy(update=fresh), seed=recipe.seed)
    detector.load_state_dict(loaded.state_dict())
    detector.initial_weights = InitialWeights.of_file("detector", folder / WEIGHTS_FILE)
    detector.card = loaded.card  # whose crops these weights have seen, the next ones have seen too
    detector.calibrate(1.0, 0.0)  # training works on raw logits; calibration comes last
    return detector


def _wanted(recipe: Recipe, initial: Path | None) -> Path | None:
    if recipe.initialise_from_baseline and initial is None:
        raise ConfigError(
            f"expected initial weights for recipe {recipe.name!r}, got none; give a baseline's folder"
        )
    if not recipe.initialise_from_baseline and initial is not None:
        raise ConfigError(
            f"expected no initial weights for recipe {recipe.name!r}, which starts from fresh ones, got "
            f"{initial}; leave them out or set initialise_from_baseline=true"
        )
    return initial
