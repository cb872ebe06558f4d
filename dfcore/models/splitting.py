"""Cut a CNN in two, so that a defence can work on its shallow feature maps."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from dfcore.errors import ConfigError

if TYPE_CHECKING:
    from dfcore.models.detector import DetectorConfig

__all__ = ["SplitForward", "split_backbone"]

_Map = Callable[[torch.Tensor], torch.Tensor]

_CONTAINERS = ("blocks", "stages", "layers")
_NUMBERED_STAGE = re.compile(r"(layer|block|stage|s)\d+")
_TOLERANCE = 1e-4


class SplitForward(NamedTuple):
    """The two halves of a detector.

    Attributes:
        shallow: images (N, 3, H, W) -> maps (N, C, h, w).
        deep: maps -> logits (N,).
    """

    shallow: _Map
    deep: _Map


def split_backbone(backbone: Any, blocks: int, config: DetectorConfig) -> tuple[_Map, _Map]:
    """Return the part of a backbone up to a block, and the rest.

    A backbone counts as a chain if running its children one after the other gives what `forward_features`
    gives; that is tried, and not read from its name.

    Raises:
        ConfigError: it is no such chain, or has no block left behind the cut.
    """
    cnn = getattr(backbone, "cnn", backbone)
    chain = _chain(cnn)
    stages = [index for index, (is_stage, _) in enumerate(chain) if is_stage]
    if (
        not stages
        or getattr(cnn, "output_fmt", "NCHW") == "NHWC"
        or not _is_chain(cnn, chain, config.image_size)
    ):
        raise ConfigError(
            f"expected a CNN that is a chain of blocks, got {config.backbone}; "
            "a split is defined for EfficientNet, ResNet, Xception, ConvNeXt and their like"
        )
    if not 1 <= blocks < len(stages):
        raise ConfigError(
            f"expected a split behind block 1 to {len(stages) - 1} of {config.backbone}, got {blocks}"
        )
    cut = stages[blocks - 1] + 1
    modules = [module for _, module in chain]

    def deep(maps: torch.Tensor) -> torch.Tensor:
        features = _run(modules[cut:], maps)
        if cnn is not backbone:
            features = backbone.encode(features)
        logits: torch.Tensor = backbone.forward_head(features)
        return logits

    return lambda pixels: _run(modules[:cut], pixels), deep


def _chain(cnn: nn.Module) -> list[tuple[bool, nn.Module]]:
    """List what `forward_features` should run, in order; True marks a stage."""
    found: list[tuple[bool, nn.Module]] = []
    for name, module in cnn.named_children():
        if name in {"global_pool", "head", "classifier"}:
            break
        if name in _CONTAINERS and isinstance(module, nn.Sequential | nn.ModuleList):
            found.extend((True, stage) for stage in module)
        else:
            found.append((bool(_NUMBERED_STAGE.fullmatch(name)), module))
    return found


def _run(modules: list[nn.Module], maps: torch.Tensor) -> torch.Tensor:
    for module in modules:
        maps = module(maps)
    return maps


@torch.no_grad()
def _is_chain(cnn: Any, chain: list[tuple[bool, nn.Module]], size: int) -> bool:
    parameter = next(cnn.parameters())
    probe = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0)).to(parameter)
    flags = [(module, module.training) for module in cnn.modules()]
    try:
        cnn.eval()
        expected, actual = cnn.forward_features(probe), _run([module for _, module in chain], probe)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError):
        return False  # its children take other inputs than their neighbour's output
    finally:
        for module, flag in flags:
            module.training = flag
    return expected.shape == actual.shape and bool(
        (expected - actual).abs().max() <= _TOLERANCE * expected.abs().max().clamp_min(1e-6)
    )
