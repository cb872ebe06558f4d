"""Detectors: building, folding, saving, loading."""

from __future__ import annotations

from dfcore.models.backbones import BACKBONES, register_backbone
from dfcore.models.build import DETECTORS, build_detector
from dfcore.models.card import Calibration, DetectorCard, load_detector, save_detector
from dfcore.models.cost import DetectorCost, detector_cost
from dfcore.models.detector import Detector, DetectorConfig, crafting_mode
from dfcore.models.folding import FoldedDetector, fold_batch_norm
from dfcore.models.splitting import SplitForward
from dfcore.models.tensor_file import save_tensors
from dfcore.models.weights import InitialWeights

__all__ = [
    "BACKBONES",
    "DETECTORS",
    "Calibration",
    "Detector",
    "DetectorCard",
    "DetectorConfig",
    "DetectorCost",
    "FoldedDetector",
    "InitialWeights",
    "SplitForward",
    "build_detector",
    "crafting_mode",
    "detector_cost",
    "fold_batch_norm",
    "load_detector",
    "register_backbone",
    "save_detector",
    "save_tensors",
]
