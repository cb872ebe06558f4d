"""What is measured on the validation split after each epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from dfcore.attacks import PGD
from dfcore.data.loader import SplitCrops
from dfcore.models import Detector

__all__ = ["attack_batch", "balanced_slice", "logits_of", "validate"]

_BATCH = 64


def attack_batch(accumulate: int) -> int:
    """Return the crops that are attacked at once: fewer where batches are worked through in parts."""
    return max(_BATCH // accumulate, 1)


def balanced_slice(crops: SplitCrops, size: int, seed: int) -> torch.Tensor:
    """Choose up to `size` crops, half of each class where there are enough.

    Returns:
        Indices on the CPU, the same for the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for value in (0, 1):
        members = torch.nonzero(crops.labels == value).squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        parts.append(members[order[: max(1, size // 2)]])
    return torch.cat(parts)


@torch.no_grad()
def logits_of(detector: Detector, crops: SplitCrops) -> npt.NDArray[np.float64]:
    """Return the logit of each crop, (n,)."""
    found = [detector(images) for images in crops.sweep(_BATCH)]
    return torch.cat(found).cpu().double().numpy()


def validate(
    detector: Detector, crops: SplitCrops, attack: PGD, chosen: torch.Tensor, seed: int, batch_size: int
) -> dict[str, float]:
    """Measure clean loss and AUC on all crops, and AUC under attack on the chosen ones.

    Args:
        detector: in eval.
        crops: the validation split.
        attack: white-box, on both classes.
        chosen: indices that are attacked.
        seed: of the attack's random start.
        batch_size: crops that are attacked at once.
    """
    logits = logits_of(detector, crops)
    generator = torch.Generator(crops.device).manual_seed(seed)
    attacked = []
    parts = torch.split(chosen, batch_size)
    for part, images in zip(parts, crops.feed(parts), strict=True):
        targets = crops.labels[part].to(images.device)
        adversarial = attack.craft(
            detector, images, targets, threshold=detector.threshold, generator=generator
        )
        with torch.no_grad():
            attacked.append(detector(adversarial))
    robust = torch.cat(attacked).cpu().double().numpy()
    loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), crops.labels.double())
    finite = bool(np.isfinite(logits).all() and np.isfinite(robust).all())
    return {
        "val_loss": float(loss),
        "val_clean_auc": float(roc_auc_score(crops.labels.numpy(), logits)) if finite else float("nan"),
        "val_robust_auc": float(roc_auc_score(crops.labels[chosen].numpy(), robust))
        if finite
        else float("nan"),
    }
