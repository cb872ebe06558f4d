"""Where a detector looks: Grad-CAM for networks whose last layer is a map or a row of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from torch import nn

from dfcore.config import suggest
from dfcore.errors import ConfigError
from dfcore.models import Detector, crafting_mode
from dfcore.shapes import check_images

__all__ = ["Target", "cams_and_logits", "grad_cam"]

Maps = NDArray[np.float32]
Target = Literal["fake", "decision"]


def grad_cam(
    detector: Detector, images: torch.Tensor, target: Target = "fake", *, batch_size: int = 32
) -> Maps:
    """Return the regions that speak for "fake", or for what the detector decided.

    Args:
        detector: any mode; modes, flags and gradients are left as they were.
        images: (N, 3, H, W) float32 in [0, 1].
        target: "fake" asks the same of every image, so that maps of clean and attacked images compare;
            "decision" asks what speaks for "real" where the score is below the detector's threshold.
        batch_size: images at a time; it changes no map.

    Returns:
        (N, H, W) float32 in [0, 1], each image scaled by its own maximum; all zero where nothing speaks for
        the target, or where the detector gives no finite number.

    Raises:
        ShapeError: images of another shape, type or range.
        ConfigError: an unknown target.

    Source: Selvaraju et al., arXiv:1610.02391, equations 1 and 2, as implemented by pytorch-grad-cam.
    """
    return cams_and_logits(detector, images, target, batch_size)[0]


def cams_and_logits(
    detector: Detector, images: torch.Tensor, target: Target = "fake", batch_size: int = 32
) -> tuple[Maps, Maps]:
    """Return `grad_cam` and, from the same pass, the logits (N,) float32."""
    check_images(images)
    if target not in get_args(Target):
        raise ConfigError(f"expected a CAM target, got {target!r}{suggest(target, get_args(Target))}")
    cams = np.zeros((len(images), *images.shape[2:]), dtype=np.float32)
    logits = np.zeros(len(images), dtype=np.float32)
    gradients = [(parameter, parameter.grad) for parameter in detector.parameters()]
    try:
        # an image alone asks for gradients; who calls may be in inference mode or under autocast
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(detector.mean.device.type, enabled=False),
            crafting_mode(detector),
            _library(detector, (images.shape[2], images.shape[3])) as library,
        ):
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size].detach().clone().requires_grad_()
                maps = library(input_tensor=batch, targets=[_TARGETS[target](detector)] * len(batch))
                cams[start : start + batch_size] = _scaled(maps, (images.shape[2], images.shape[3]))
                logits[start : start + batch_size] = library.outputs.detach()[:, 0].cpu().numpy()
    finally:
        # the library empties them before its backward pass
        for parameter, gradient in gradients:
            parameter.grad = gradient
    return cams, logits


class _Column(nn.Module):
    """Gives the logit a class axis, which the CAM library expects."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.detector(images)
        return logits.unsqueeze(1)


class _RawMaps(GradCAM):  # type: ignore[misc]  # the library ships no types
    """The library's weighted sums (N, h, w), before it stretches each from its least value to its greatest.

    Stretched, a map that speaks for "fake" everywhere would be dark wherever it speaks least.
    """

    def compute_cam_per_layer(self, input_tensor: torch.Tensor, targets: Any, eigen_smooth: bool) -> Any:
        (activations,), (gradients,) = (
            self.activations_and_grads.activations,
            self.activations_and_grads.gradients,
        )
        return self.get_cam_image(
            input_tensor, self.target_layers[0], targets, activations.numpy(), gradients.numpy(), eigen_smooth
        )

    def aggregate_multi_layers(self, cam_per_target_layer: Any) -> Any:
        return cam_per_target_layer


@contextmanager
def _library(detector: Detector, size: tuple[int, int]) -> Iterator[_RawMaps]:
    def maps(output: torch.Tensor) -> torch.Tensor:
        # a copy, as an activation behind the layer may overwrite its output
        return detector.cam_maps(output, size).float().clone()

    library = _RawMaps(model=_Column(detector), target_layers=[detector.cam_layer], reshape_transform=maps)
    try:
        # not the library's own context, which would swallow an IndexError
        yield library
    finally:
        library.activations_and_grads.release()


def _for_fake(_detector: Detector) -> Any:
    return lambda output: output[0]


def _for_decision(detector: Detector) -> Any:
    level = math.log(detector.threshold / (1 - detector.threshold))
    return lambda output: torch.where(output[0] >= level, output[0], -output[0])


_TARGETS = {"fake": _for_fake, "decision": _for_decision}


def _scaled(maps: NDArray[np.floating], size: tuple[int, int]) -> Maps:
    """Keep what is positive, bring it to the image's size, and scale each map by its own maximum."""
    positive = torch.from_numpy(np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)).float().relu()
    # double: a network that hardly reacts has maps near the smallest numbers of float32
    large = F.interpolate(positive[:, None].double(), size, mode="bilinear", align_corners=False)[:, 0]
    peaks = large.amax((1, 2), keepdim=True)
    scaled = torch.where(peaks > 0, large / peaks.clamp_min(torch.finfo(torch.float64).tiny), large)
    return np.asarray(scaled.float().numpy(), dtype=np.float32)
