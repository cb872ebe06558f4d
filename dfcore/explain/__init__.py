"""Explanations: where a detector looks, which frequencies it reads, and how an attack moves both."""

from __future__ import annotations

from dfcore.explain.cam import Target, grad_cam
from dfcore.explain.cam_metrics import CamComparison, cam_cosine, cam_ssim, compare_cams, iinc, top_iou
from dfcore.explain.explanation import Explanation, explain
from dfcore.explain.frequency import (
    DeltaSpectrum,
    FrequencyConfig,
    FrequencySensitivity,
    band_energies,
    band_shares,
    delta_spectrum,
    frequency_sensitivity,
)
from dfcore.explain.pictures import (
    CamPair,
    cam_grid,
    cam_overlay,
    delta_curves,
    figure_png,
    figure_svg,
    overlay_png,
    region_bars,
    region_picture,
    sensitivity_curves,
)
from dfcore.explain.regions import REGIONS, face_regions, region_areas, region_energies

__all__ = [
    "REGIONS",
    "CamComparison",
    "CamPair",
    "DeltaSpectrum",
    "Explanation",
    "FrequencyConfig",
    "FrequencySensitivity",
    "Target",
    "band_energies",
    "band_shares",
    "cam_cosine",
    "cam_grid",
    "cam_overlay",
    "cam_ssim",
    "compare_cams",
    "delta_curves",
    "delta_spectrum",
    "explain",
    "face_regions",
    "figure_png",
    "figure_svg",
    "frequency_sensitivity",
    "grad_cam",
    "iinc",
    "overlay_png",
    "region_areas",
    "region_bars",
    "region_energies",
    "region_picture",
    "sensitivity_curves",
    "top_iou",
]
