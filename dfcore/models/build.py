"""From a configuration to a detector."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import nn

from dfcore.config import suggest
from dfcore.errors import ConfigError
from dfcore.models.backbones import BACKBONES, create_timm_model
from dfcore.models.detector import Detector, DetectorConfig, crafting_mode
from dfcore.models.weights import InitialWeights, load_weights

__all__ = ["DETECTORS", "build_detector", "outline_detector"]

DETECTORS: dict[str, DetectorConfig] = {
    "efficientnet_b0": DetectorConfig(backbone="efficientnet_b0"),
    "efficientvit": DetectorConfig(backbone="efficientvit"),
    "efficientvit_published": DetectorConfig(backbone="efficientvit_published"),
    "resnet10_narrow": DetectorConfig(backbone="resnet10_narrow", image_size=64),
    "xception": DetectorConfig(backbone="xception", image_size=299),
}
"""The detectors that we offer, each at the image size that it was designed for."""


def build_detector(config: DetectorConfig, seed: int = 0) -> Detector:
    """Build a detector with fresh weights, or those that `config` names.

    Args:
        config: backbone, size, initial weights. Nothing is downloaded unless it says `pretrained`.
        seed: of the random weights; the caller's random state is left as it was.

    Raises:
        ConfigError: the backbone is unknown, does not fit the image size or gives no single logit, or the
            weights do not fit it or can't be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _create(config)
    origin = InitialWeights()
    if config.pretrained:
        origin = _published_weights(backbone)
    if config.weights is not None:
        origin = load_weights(backbone, config.weights)
    detector = Detector(config, backbone)
    detector.initial_weights = origin
    _check_output(detector)
    return detector


def outline_detector(config: DetectorConfig) -> Detector:
    """Build a detector of shapes without numbers, on PyTorch's meta device.

    Raises:
        ConfigError: the backbone is unknown, does not fit the image size or gives no single logit.
    """
    plain = config.model_copy(update={"weights": None, "pretrained": False})
    with torch.device("meta"):
        detector = Detector(plain, _create(plain))
    _check_output(detector)
    return detector


def _create(config: DetectorConfig) -> nn.Module:
    name = config.backbone
    if name not in BACKBONES and not timm.is_model(name):
        hint = suggest(name, [*BACKBONES, *timm.list_models()]) if len(name) > 2 else ""
        # the list of a thousand timm names helps nobody
        raise ConfigError(
            f"unknown backbone {name!r}{hint if 'did you mean' in hint else '; see timm.list_models()'}"
        )
    try:
        return BACKBONES[name](config) if name in BACKBONES else create_timm_model(name, config)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"expected a backbone that timm can build with one logit at {config.image_size} px, "
            f"got {name!r}: {error}; choose another backbone or model.image_size"
        ) from error


def _published_weights(backbone: nn.Module) -> InitialWeights:
    """Say which published weights timm has put into the backbone or a part of it."""
    for part in (backbone, getattr(backbone, "cnn", None)):
        published = getattr(part, "pretrained_cfg", None) or {}
        if file := published.get("file"):
            name = f"{published.get('architecture')}.{published.get('tag')}"
            return InitialWeights.of_file(
                "imagenet", Path(file), name=name, part="backbone" if part is backbone else "cnn"
            )
    raise ConfigError(
        f"expected a backbone with published weights, got {type(backbone).__name__}; "
        "set model.pretrained=false to train from scratch, or give a file as model.weights"
    )


def _check_output(detector: Detector) -> None:
    """Run one image, so that a wrong size shows now and not in the first training step."""
    size = detector.config.image_size
    try:
        with crafting_mode(detector), torch.no_grad():
            logits = detector(torch.zeros(1, 3, size, size, device=detector.mean.device))
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"expected an image size that {detector.config.backbone} can read, got {size}: {error}; "
            "change model.image_size"
        ) from error
    if logits.shape != (1,):
        raise ConfigError(
            f"expected one logit an image from {detector.config.backbone}, got {tuple(logits.shape)}; "
            "give it a classifier with one output"
        )
