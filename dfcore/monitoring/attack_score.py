"""Signs that an input was tampered with, cheap enough for every request."""

from __future__ import annotations

import numpy as np
import torch

from dfcore.errors import ShapeError
from dfcore.models import Detector
from dfcore.preprocessing import jpeg_roundtrip

__all__ = ["JPEG_QUALITY", "score_crops"]

JPEG_QUALITY = 75
_BATCH = 64


def score_crops(detector: Detector, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score crops, and how far compression moves each score.

    A perturbation fitted to one detector tends to be brittle: re-encoding it as JPEG moves the score further
    than it moves a clean crop's. It is one signal, not a proof; an attacker who optimises against it passes.

    Args:
        detector: in eval mode; gives calibrated logits.
        crops: uint8 (N, H, W, 3) RGB.

    Returns:
        P(fake) and |P(fake) - P(fake after JPEG quality 75)|, each float64 (N,) in [0, 1].

    Raises:
        ShapeError: another shape or type.

    Source: Guo et al., "Countering Adversarial Images using Input Transformations" (ICLR 2018); Xu et al.,
        "Feature Squeezing" (NDSS 2018).
    """
    if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
        raise ShapeError(f"expected crops uint8 (N, H, W, 3), got {crops.dtype} {crops.shape}")
    if not len(crops):
        return np.zeros(0), np.zeros(0)
    scores = _probabilities(detector, crops)
    compressed = _probabilities(detector, jpeg_roundtrip(crops, JPEG_QUALITY))
    return scores, np.abs(scores - compressed)


@torch.inference_mode()
def _probabilities(detector: Detector, crops: np.ndarray) -> np.ndarray:
    device = next(detector.parameters()).device
    logits = []
    for start in range(0, len(crops), _BATCH):
        chunk = torch.from_numpy(np.ascontiguousarray(crops[start : start + _BATCH])).to(device)
        logits.append(detector(chunk.permute(0, 3, 1, 2).float() / 255).double())
    return np.asarray(torch.cat(logits).sigmoid().cpu().numpy())
