"""A golden input: crops with the logits that they must give, so that a changed library is caught at load.

On trained detectors, other kernels and thread counts moved a logit by 1e-6 of its size at most, and pixels
divided by 256 instead of 255 by 5e-3 at least. TOLERANCE lies between.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from dfcore.errors import BundleError
from dfcore.models.tensor_file import save_tensors

if TYPE_CHECKING:
    from dfcore.models.detector import Detector

__all__ = ["GOLDEN_FILE", "TOLERANCE", "check_golden", "write_golden"]

GOLDEN_FILE = "golden.safetensors"
# Largest accepted difference of a logit, relative to it where it exceeds 1.
TOLERANCE = 1e-3
_COUNT = 2
_CELLS = (4, 16, 64)


def write_golden(path: Path, detector: Detector) -> None:
    """Write crops of the detector's size and its logits for them.

    The crops are coloured noise, coarse and fine: no person's face travels with a bundle.
    """
    crops = _crops(detector.config.image_size)
    tensors = {"crops": crops, "logits": _logits(detector, crops)}
    save_tensors(path, tensors, metadata={"tolerance": repr(TOLERANCE)})


def check_golden(path: Path, detector: Detector) -> None:
    """Compare a loaded detector with the golden file of its bundle.

    Raises:
        BundleError: it gives other logits, or the file is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            crops, expected = file.get_tensor("crops"), file.get_tensor("logits")
            tolerance = float(file.metadata()["tolerance"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"expected golden crops and logits in {path}, got: {error}; rebuild") from error
    found = _logits(detector, crops)
    difference = (found - expected).abs() / expected.abs().clamp_min(1)
    if not bool((difference <= tolerance).all()):  # so that NaN fails too
        raise BundleError(
            f"expected the logits {_shown(expected)} of {path} within {tolerance:g}, got {_shown(found)}: "
            "these libraries or this device score differently from those that were evaluated; "
            "install the versions in detector.json, or evaluate and publish again"
        )


def _crops(size: int) -> torch.Tensor:
    """Return (N, size, size, 3) uint8, the same on every machine."""
    rng = np.random.default_rng(20_250_101)
    crops = np.full((_COUNT, size, size, 3), 127.0)
    for cells in _CELLS:
        coarse = rng.uniform(-60, 60, (_COUNT, cells, cells, 3))
        index = np.arange(size) * cells // size
        crops += coarse[:, index][:, :, index]
    return torch.from_numpy(crops.clip(0, 255).astype(np.uint8))


def _logits(detector: Detector, crops: torch.Tensor) -> torch.Tensor:
    device = detector.mean.device
    images = crops.to(device).permute(0, 3, 1, 2).float() / 255
    # TF32, cuDNN's default, rounds to 1e-3 of a logit, which would hide what is looked for.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits: torch.Tensor = detector(images).float().cpu()
    return logits


def _shown(logits: torch.Tensor) -> str:
    return "[" + ", ".join(f"{float(value):.4f}" for value in logits) + "]"
