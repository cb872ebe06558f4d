"""What a detector costs: parameters and operations."""

from __future__ import annotations

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from dfcore.config import Config
from dfcore.models.build import outline_detector
from dfcore.models.detector import DetectorConfig

__all__ = ["DetectorCost", "detector_cost"]


class DetectorCost(Config):
    """The size of a detector and of one forward pass.

    Attributes:
        parameters: trainable numbers.
        flops: of convolutions and matrix products for one image; a multiply and an add count as two.
    """

    parameters: int
    flops: int


def detector_cost(config: DetectorConfig) -> DetectorCost:
    """Count parameters and operations; no image is computed, and no weights are fetched.

    Args:
        config: backbone and image size; where weights come from does not matter.

    Raises:
        ConfigError: the backbone is unknown or does not fit the image size.
    """
    return _count(config.model_copy(update={"weights": None, "pretrained": False}))


@cache
def _count(config: DetectorConfig) -> DetectorCost:
    detector = outline_detector(config).eval()
    image = torch.empty(1, 3, config.image_size, config.image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        detector(image)
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return DetectorCost(parameters=parameters, flops=int(counter.get_total_flops()))
