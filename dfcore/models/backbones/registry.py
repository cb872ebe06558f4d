"""Names of our own backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import timm
from torch import nn

from dfcore.errors import ConfigError

if TYPE_CHECKING:
    from dfcore.models.detector import DetectorConfig

__all__ = ["BACKBONES", "BackboneFactory", "register_backbone"]

BackboneFactory = Callable[["DetectorConfig"], nn.Module]

BACKBONES: dict[str, BackboneFactory] = {}
"""Backbones of our own; every timm name works besides."""


def register_backbone(name: str) -> Callable[[BackboneFactory], BackboneFactory]:
    """Register a factory for a backbone of our own.

    The module it returns has `forward` -> (N, 1), `forward_features` and `forward_head(maps, pre_logits)`.

    Raises:
        ConfigError: the name is taken, here or in timm.
    """
    if name in BACKBONES or timm.is_model(name):
        raise ConfigError(f"expected a new backbone name, got {name!r}, which exists; choose another")

    def register(factory: BackboneFactory) -> BackboneFactory:
        BACKBONES[name] = factory
        return factory

    return register
