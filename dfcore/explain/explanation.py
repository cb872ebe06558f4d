"""What the report and the endpoint say of an image: where the detector looks, on which part of the face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dfcore.errors import ShapeError
from dfcore.explain.cam import Target, cams_and_logits
from dfcore.explain.frequency import FrequencyConfig, FrequencySensitivity, frequency_sensitivity
from dfcore.explain.regions import face_regions, region_areas, region_energies
from dfcore.models import Detector
from dfcore.shapes import check_images

__all__ = ["Explanation", "explain"]

Figures = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where a detector looks in each of N images.

    Attributes:
        target: what the CAMs speak for.
        logits: (N,) float32.
        cams: (N, H, W) float32 in [0, 1], each scaled by its own maximum; all zero where nothing speaks for
            the target.
        regions: (N, H, W) int8, places in `REGIONS`, or -1 where no face is known.
        energies: share of each CAM in each part of the face, (N,) by its name; NaN where it is not defined.
        areas: the part's share of the image, (N,) by its name: what `energies` would be if the detector
            looked everywhere alike.
        frequency: how the logit reacts to each frequency band, or None where it was not asked for.
    """

    target: Target
    logits: NDArray[np.float32]
    cams: NDArray[np.float32]
    regions: NDArray[np.int8]
    energies: dict[str, Figures]
    areas: dict[str, Figures]
    frequency: FrequencySensitivity | None = None


def explain(
    detector: Detector,
    images: torch.Tensor,
    landmarks: NDArray[np.floating] | None = None,
    *,
    target: Target = "fake",
    frequency: FrequencyConfig | None = None,
    batch_size: int = 32,
) -> Explanation:
    """Explain a detector's scores.

    It costs one forward and one backward pass an image; a frequency curve is extra, see
    `frequency_sensitivity`.

    Args:
        detector: any mode; modes, flags and gradients are left as they were.
        images: (N, 3, H, W) float32 in [0, 1].
        landmarks: (N, 5, 2) in pixels, as the crop store and the face detectors give them; None or NaN where
            they are not known.
        target: "fake", or "decision": what speaks for the label that the image gets.
        frequency: measure frequency sensitivity too.
        batch_size: images at a time.

    Raises:
        ShapeError: images of another shape, type or range; landmarks of another shape or number.
        ConfigError: an unknown target.
    """
    check_images(images)
    if landmarks is None:
        landmarks = np.full((len(images), 5, 2), np.nan)
    if len(landmarks) != len(images):
        raise ShapeError(f"expected landmarks of {len(images)} images, got {len(landmarks)}")
    regions = face_regions(landmarks, (images.shape[2], images.shape[3]))
    cams, logits = cams_and_logits(detector, images, target, batch_size)
    return Explanation(
        target=target,
        logits=logits,
        cams=cams,
        regions=regions,
        energies=region_energies(cams, regions),
        areas=region_areas(regions),
        frequency=None if frequency is None else frequency_sensitivity(detector, images, frequency),
    )
