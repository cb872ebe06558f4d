"""Detectors: building, folding, saving, loading."""

from __future__ import annotations

from dfcore.models.card import Calibration, DetectorCard, load_detector, save_detector
from dfcore.models.detector import (
    BACKBONES,
    Detector,
    DetectorConfig,
    build_detector,
    crafting_mode,
    register_backbone,
)
from dfcore.models.folding import FoldedDetector, fold_batch_norm

__all__ = [
    "BACKBONES",
    "Calibration",
    "Detector",
    "DetectorCard",
    "DetectorConfig",
    "FoldedDetector",
    "build_detector",
    "crafting_mode",
    "fold_batch_norm",
    "load_detector",
    "register_backbone",
    "save_detector",
]
