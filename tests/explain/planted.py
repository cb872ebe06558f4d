"""Detectors whose logit one patch decides, of any backbone and without training.

Everything that mixes cells before the last layer is stilled: convolutions and pools keep their middle,
channels are not gated by their means, and of the attentions only the last writes. What lies in a cell stays
in it, and pictures with and without a patch differ in one direction, along which the classifier is laid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from dfcore.models import Detector, DetectorConfig, build_detector

SIDE, PATCH = 128, 32


class Planted(NamedTuple):
    """A detector, pictures (N, 3, SIDE, SIDE) that it calls fake, and where the reason lies."""

    detector: Detector
    images: torch.Tensor
    masks: NDArray[np.bool_]


@torch.no_grad()
def planted_detector(backbone: str) -> Planted:
    """Lay a classifier so that a patch, wherever it is, turns the logit from about -.5 to about .5."""
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=SIDE), seed=1).eval()
    images, masks = _pictures(detector.mean)
    _still(detector.backbone)
    _keep_in_range(detector, images)
    features = detector.features(images).double()
    empty, patched = features[0], features[1:].mean(0)
    weight = (patched - empty) / (patched - empty).square().sum()
    classifier = detector.backbone.get_classifier()
    classifier.weight.copy_(weight[None])
    classifier.bias.copy_(-(weight @ (patched + empty) / 2))
    logits = detector(images)
    assert logits[0] < -0.1 < 0.1 < logits[1:].min(), logits
    return Planted(detector, images[1:], masks[1:])


def _still(backbone: nn.Module) -> None:
    attentions = [module for name, module in backbone.named_modules() if name.endswith(".attn")]
    for attention in attentions[:-1]:
        _zero(attention.get_submodule("proj"))
    for module in backbone.modules():
        if isinstance(module, SqueezeExcite):
            _zero(module.conv_reduce)
        if isinstance(module, nn.MaxPool2d):
            module.kernel_size, module.padding = 1, 0
        # a patch embedding cuts the picture into cells that do not overlap
        if isinstance(module, nn.Conv2d) and module.kernel_size != module.stride:
            middle = torch.zeros(module.kernel_size)
            middle[module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
            module.weight.mul_(middle)


def _keep_in_range(detector: Detector, images: torch.Tensor) -> None:
    """Let batch norms divide by the size of what they read, so that signals neither fade nor explode."""

    def adjust(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        norm.get_buffer("running_var").fill_(inputs[0].square().mean())

    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(adjust) for norm in norms]
    detector(images)
    for handle in handles:
        handle.remove()


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


def _pictures(mean: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """A picture of the mean colour, and five with a brighter patch, each at a place of its own."""
    places = [(0, 0), (0, 3), (1, 2), (2, 0), (3, 2)]
    images = mean.expand(1 + len(places), 3, SIDE, SIDE).clone()
    masks = np.zeros((len(images), SIDE, SIDE), dtype=bool)
    for picture, (row, column) in enumerate(places, 1):
        where = np.s_[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        images[picture, :, *where] += 0.4
        masks[picture][where] = True
    return images, masks
