"""Xception under the name that the field uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from dfcore.models.backbones.registry import BACKBONES
from dfcore.models.backbones.timm_models import create_timm_model

if TYPE_CHECKING:
    from dfcore.models.detector import DetectorConfig

__all__ = ["xception"]


def xception(config: DetectorConfig) -> nn.Module:
    """Build the original Xception: 299 px, pixels normalised to [-1, 1].

    Source: Chollet, arXiv:1610.02357.
    """
    return create_timm_model("legacy_xception", config)


# Not by `register_backbone`, which guards timm's names: this one is timm's former name for the same network.
BACKBONES["xception"] = xception
