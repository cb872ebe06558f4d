"""Detectors on disk: weights as safetensors, and a card that says what they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file

from dfcore.config import Config
from dfcore.errors import BundleError, ConfigError
from dfcore.models.build import build_detector
from dfcore.models.detector import Detector, DetectorConfig
from dfcore.models.golden import GOLDEN_FILE, check_golden
from dfcore.models.tensor_file import save_tensors
from dfcore.models.weights import InitialWeights
from dfcore.preprocessing import PreprocessingConfig
from dfcore.storage import write_atomic

__all__ = ["CARD_FILE", "WEIGHTS_FILE", "Calibration", "DetectorCard", "load_detector", "save_detector"]

CARD_FILE = "detector.json"
WEIGHTS_FILE = "weights.safetensors"


class Calibration(Config):
    """logit = scale * raw + bias."""

    scale: float = Field(default=1.0, gt=0)
    bias: float = 0.0


class DetectorCard(Config):
    """What travels with the weights.

    Attributes:
        architecture: what to build.
        preprocessing: how crops were made; serving does the same.
        threshold: score from which an image is called fake.
        calibration: fitted on the validation split.
        provenance: commit, data digest, recipe, seed, versions, `training_groups` and `validation_groups` (of
            the detector that it started from too), `initial_weights`.
    """

    format_version: Literal[1] = 1
    architecture: DetectorConfig
    preprocessing: PreprocessingConfig
    threshold: float = Field(gt=0, lt=1)
    calibration: Calibration = Calibration()
    provenance: dict[str, Any] = Field(default_factory=dict)


def save_detector(folder: Path, detector: Detector, card: DetectorCard) -> None:
    """Write `weights.safetensors`, then `detector.json`, each atomically.

    The card's provenance gets `initial_weights` from the detector unless it states its own.

    Raises:
        ConfigError: the card's calibration is not the detector's.
        WorkFailed: a file can't be written.
    """
    _check_calibration(detector, card, ConfigError)
    save_tensors(folder / WEIGHTS_FILE, detector.state_dict())
    origin = {"initial_weights": detector.initial_weights.model_dump(mode="json")}
    card = card.model_copy(update={"provenance": {**origin, **card.provenance}})
    write_atomic(folder / CARD_FILE, f"{card.model_dump_json(indent=2)}\n".encode())


def load_detector(uri: str | Path, device: str = "cpu", public_key: Path | None = None) -> Detector:
    """Load a detector in eval mode, with its `.card` and `.threshold`.

    Args:
        uri: bundle or training folder, `file://…`, `s3://…` or `registry://NAME@CHANNEL`.
        device: where to put it.
        public_key: what a bundle's signature must match.

    Raises:
        BundleError: a file is missing, altered, or does not fit the others; or the golden input of a bundle
            gets another logit here than where it was built.
    """
    from dfcore.models.bundle import fetch  # here, since storage's clients are slow to import

    folder = fetch(str(uri), public_key)
    card = _read_card(folder / CARD_FILE)
    detector = build_detector(card.architecture.model_copy(update={"weights": None, "pretrained": False}))
    try:
        detector.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(
            f"expected weights of {card.architecture.backbone} in {folder}, got: {error}"
        ) from error
    _check_calibration(detector, card, BundleError)
    detector.card = card
    detector.threshold = card.threshold
    if "initial_weights" in card.provenance:  # bundles of the first version have none
        detector.initial_weights = InitialWeights.parse(card.provenance["initial_weights"], CARD_FILE)
    detector = detector.to(torch.device(device)).eval()
    if (folder / GOLDEN_FILE).is_file():  # training outputs have none
        check_golden(folder / GOLDEN_FILE, detector)
    return detector


def _read_card(path: Path) -> DetectorCard:
    if not path.is_file():
        raise BundleError(
            f"expected {path.name} in {path.parent}, but it is missing; give a detector's folder"
        )
    try:
        return DetectorCard.from_yaml(path)
    except ConfigError as error:
        raise BundleError(f"expected a detector card, got: {error}") from error


def _check_calibration(
    detector: Detector, card: DetectorCard, error: type[ConfigError] | type[BundleError]
) -> None:
    for name in ("scale", "bias"):
        stated = float(getattr(card.calibration, name))
        actual = float(getattr(detector, name))
        if not math.isclose(stated, actual, rel_tol=1e-5, abs_tol=1e-6):
            raise error(
                f"expected calibration {name} {stated} as in {CARD_FILE}, got {actual} in the weights"
            )
