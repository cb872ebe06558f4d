"""Detectors: building, folding, saving, loading."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfcore.models.backbones import BACKBONES, register_backbone
    from dfcore.models.build import DETECTORS, build_detector
    from dfcore.models.card import Calibration, DetectorCard, load_detector, save_detector
    from dfcore.models.cost import DetectorCost, detector_cost
    from dfcore.models.detector import Detector, DetectorConfig, crafting_mode, gradient_scale
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
    "gradient_scale",
    "load_detector",
    "register_backbone",
    "save_detector",
    "save_tensors",
]

_HOMES = {
    "BACKBONES": "models.backbones",
    "Calibration": "models.card",
    "DETECTORS": "models.build",
    "Detector": "models.detector",
    "DetectorCard": "models.card",
    "DetectorConfig": "models.detector",
    "DetectorCost": "models.cost",
    "FoldedDetector": "models.folding",
    "InitialWeights": "models.weights",
    "SplitForward": "models.splitting",
    "build_detector": "models.build",
    "crafting_mode": "models.detector",
    "detector_cost": "models.cost",
    "fold_batch_norm": "models.folding",
    "gradient_scale": "models.detector",
    "load_detector": "models.card",
    "register_backbone": "models.backbones",
    "save_detector": "models.card",
    "save_tensors": "models.tensor_file",
}


def __getattr__(name: str) -> Any:
    # on demand: who reads a bundle's files needs no torch
    if name not in _HOMES:
        raise AttributeError(f"module 'dfcore.models' has no attribute {name!r}")
    return getattr(import_module(f"dfcore.{_HOMES[name]}"), name)
