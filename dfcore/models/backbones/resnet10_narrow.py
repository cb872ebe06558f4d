"""A ResNet for minutes on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from dfcore.models.backbones.registry import register_backbone

if TYPE_CHECKING:
    from dfcore.models.detector import DetectorConfig

__all__ = ["resnet10_narrow"]


@register_backbone("resnet10_narrow")
def resnet10_narrow(config: DetectorConfig) -> nn.Module:
    """Build a ResNet-10 of 0.7 M parameters: a third of the usual widths, deep stem."""
    stem_width = 12
    return ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm annotates the instance and takes the class
        (1, 1, 1, 1),
        num_classes=1,
        channels=(24, 48, 96, 192),
        stem_width=stem_width,
        stem_type="deep",
        avg_down=True,
        drop_rate=config.drop_rate,
    )
