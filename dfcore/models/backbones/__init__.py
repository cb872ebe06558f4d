"""Backbones beyond timm's, and the detectors that are offered by name."""

from __future__ import annotations

from dfcore.models.backbones import efficientvit, resnet10_narrow, xception
from dfcore.models.backbones.efficientvit import EfficientViT
from dfcore.models.backbones.registry import BACKBONES, BackboneFactory, register_backbone
from dfcore.models.backbones.timm_models import create_timm_model

__all__ = ["BACKBONES", "BackboneFactory", "EfficientViT", "create_timm_model", "register_backbone"]

_REGISTERED = (efficientvit, resnet10_narrow, xception)  # importing a module registers its backbones
