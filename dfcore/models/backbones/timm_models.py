"""Backbones by timm, with fresh or ImageNet weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
from torch import nn

from dfcore.models.imagenet import fetch_imagenet_weights

if TYPE_CHECKING:
    from dfcore.models.detector import DetectorConfig

__all__ = ["create_timm_model"]


def create_timm_model(name: str, config: DetectorConfig, num_classes: int = 1) -> nn.Module:
    """Build one of timm's models.

    Args:
        name: as timm spells it.
        config: of the detector; `pretrained` asks for ImageNet weights, else they are random.
        num_classes: 0 leaves the classifier out.

    Raises:
        ConfigError: ImageNet weights are asked for and can't be had.
    """
    options: dict[str, Any] = {"num_classes": num_classes, "drop_rate": config.drop_rate}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options["img_size"] = config.image_size
    if config.pretrained:
        # timm reads a local file as it reads its own download: resized positions, another classifier
        weights = fetch_imagenet_weights(name)
        options["pretrained_cfg_overlay"] = {"file": str(weights)}
    model: nn.Module = timm.create_model(name, pretrained=config.pretrained, **options)
    return model
