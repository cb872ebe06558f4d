"""EfficientNet-B0 whose last feature map is read by a small Transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn

from dfcore.models.backbones.registry import register_backbone
from dfcore.models.backbones.timm_models import create_timm_model

if TYPE_CHECKING:
    from dfcore.models.detector import DetectorConfig

__all__ = ["EfficientViT"]

_GRID = 7  # EfficientNet-B0's map of a 224 px crop
_LAYERS = 4
_HEADS = 4
_HIDDEN = 256
_INIT_STD = 0.02


class EfficientViT(nn.Module):
    """Local traces by a CNN, relations between them by self-attention.

    The map becomes one token a cell, behind a CLS token; positions are learned for 7 x 7 cells and
    interpolated for other image sizes. Encoder layers are pre-LN; the head reads the CLS token.

    Args:
        cnn: a timm CNN without a classifier.
        width: of a token; a map with other channels is projected to it.
        drop_rate: before the classifier.
    """

    num_prefix_tokens = 1

    def __init__(self, cnn: Any, width: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.cnn = cnn
        self.pretrained_cfg = cnn.pretrained_cfg
        channels = int(self.cnn.num_features)
        self.project = nn.Identity() if channels == width else nn.Linear(channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + _GRID**2, width))
        self.blocks = nn.Sequential(*(Block(width, _HEADS, qkv_bias=True) for _ in range(_LAYERS)))
        for block in self.blocks:
            attention: Any = block.get_submodule("attn")
            # the fused kernels have no second derivative, which Lipschitz training takes; 50 tokens are few
            attention.fused_attn = False
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, _HIDDEN)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(_HIDDEN, 1)
        self._initialise()

    @property
    def cam_layer(self) -> nn.Module:
        """The last module whose patch tokens reach the logit; behind it only the CLS token does."""
        last: Any = self.blocks[-1]
        found: nn.Module = last.norm1
        return found

    def get_classifier(self) -> nn.Module:
        """Return the final layer, as timm's models do."""
        return self.classifier

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 1) of normalised pixels (N, 3, H, W)."""
        return self.forward_head(self.forward_features(pixels))

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return tokens (N, 1 + cells, width), CLS first."""
        return self.encode(self.cnn.forward_features(pixels))

    def encode(self, maps: torch.Tensor) -> torch.Tensor:
        """Return tokens (N, 1 + cells, width) of the CNN's maps (N, C, h, w)."""
        cells = self.project(maps.flatten(2).transpose(1, 2))
        tokens = torch.cat([self.cls_token.expand(cells.shape[0], -1, -1), cells], dim=1)
        encoded: torch.Tensor = self.blocks(tokens + self._positions_for(maps.shape[2], maps.shape[3]))
        return encoded

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits (N, 1), or what the classifier reads (N, 256)."""
        features: torch.Tensor = self.act(self.hidden(self.norm(tokens[:, 0])))
        if pre_logits:
            return features
        logits: torch.Tensor = self.classifier(self.drop(features))
        return logits

    def _positions_for(self, height: int, width: int) -> torch.Tensor:
        if (height, width) == (_GRID, _GRID):
            return self.positions
        own, grid = self.positions[:, :1], self.positions[:, 1:]
        maps = grid.transpose(1, 2).reshape(1, -1, _GRID, _GRID)
        resized = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False, antialias=True)
        return torch.cat([own, resized.flatten(2).transpose(1, 2)], dim=1)

    def _initialise(self) -> None:
        for value in (self.cls_token, self.positions):
            nn.init.trunc_normal_(value, std=_INIT_STD)
        for part in (self.project, self.blocks, self.hidden, self.classifier):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                    nn.init.zeros_(module.bias)


@register_backbone("efficientvit")
def _efficientvit(config: DetectorConfig) -> nn.Module:
    """The compact one: tokens of 256, 7.6 M parameters."""
    return EfficientViT(create_timm_model("efficientnet_b0", config, num_classes=0), 256, config.drop_rate)


@register_backbone("efficientvit_published")
def _efficientvit_published(config: DetectorConfig) -> nn.Module:
    """The published one: tokens as wide as the map, 1280, and 83 M parameters."""
    return EfficientViT(create_timm_model("efficientnet_b0", config, num_classes=0), 1280, config.drop_rate)
