"""Where a detector looks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from torch import nn

from dfcore.models import Detector
from dfcore.shapes import check_images

__all__ = ["grad_cam"]


class _Column(nn.Module):
    """Gives the logit a class axis, which the CAM library expects."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.detector(images)
        return logits.unsqueeze(1)


def grad_cam(detector: Detector, images: torch.Tensor) -> NDArray[np.float32]:
    """Return the regions that speak for "fake".

    Args:
        detector: any mode; modes, flags and gradients are left as they were.
        images: (N, 3, H, W) float32 in [0, 1].

    Returns:
        (N, H, W) float32 in [0, 1], each image scaled by its own maximum; all zero where nothing says "fake".

    Raises:
        ShapeError: images of another shape, type or range.

    Source: Selvaraju et al., arXiv:1610.02391, as implemented by pytorch-grad-cam.
    """
    check_images(images)
    if not len(images):
        return np.zeros((0, *images.shape[2:]), dtype=np.float32)
    modes = [(module, module.training) for module in detector.modules()]
    gradients = [(parameter, parameter.grad) for parameter in detector.parameters()]
    try:
        with torch.enable_grad(), _library(detector, images) as cam:
            # a leaf that asks for a gradient lets it reach the maps of a frozen detector
            pixels = images.detach().clone().requires_grad_()
            maps = cam(input_tensor=pixels, targets=[_logit] * len(images))
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
    return np.asarray(np.clip(np.nan_to_num(maps), 0, 1), dtype=np.float32)


def _library(detector: Detector, images: torch.Tensor) -> GradCAM:
    height, width = images.shape[2:]
    return GradCAM(
        model=_Column(detector),
        target_layers=[detector.cam_layer],
        reshape_transform=lambda output: detector.cam_maps(output, (height, width)),
    )


def _logit(output: torch.Tensor) -> torch.Tensor:
    return output[0]
