"""Weights and images that depend on nothing but names and numpy's frozen generator."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import nn

from dfcore.models import Detector, DetectorConfig, build_detector

_GAIN = 2.0
"""Variance of a weight times its fan-in."""


def golden_detector(backbone: str, image_size: int) -> Detector:
    """Build a float64 detector whose weights no library's initialisation decides."""
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=image_size)).double()
    for name, value in detector.backbone.state_dict().items():
        if not value.is_floating_point():
            continue
        # RandomState's stream is frozen for good, unlike torch's and unlike numpy's newer generators
        draws = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))
        if "running" in name:
            continue
        if value.ndim > 1:
            draws = draws * (_GAIN / value[0].numel()) ** 0.5
        elif name.endswith("weight"):
            draws = 1 + 0.1 * draws
        else:
            draws = 0.1 * draws
        value.copy_(torch.from_numpy(draws))
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics become those of the one batch that follows
    with torch.no_grad():
        detector.train()(golden_images(4, image_size, seed=8))
    return detector.eval()


def golden_images(n: int, image_size: int, seed: int = 7) -> torch.Tensor:
    """Draw images (n, 3, image_size, image_size) float64 in [0, 1]."""
    return torch.from_numpy(np.random.RandomState(seed).random_sample((n, 3, image_size, image_size)))
