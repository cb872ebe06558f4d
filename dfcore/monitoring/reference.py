"""The frozen reference that a served detector is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dfcore.errors import DataError
from dfcore.models import Detector
from dfcore.monitoring.attack_score import JPEG_QUALITY, score_crops
from dfcore.monitoring.buckets import SCORE_BUCKETS, bucket_counts
from dfcore.monitoring.fitting import FEWEST_CROPS, Attacker, AttackScoreConfig, fit_attack_scores
from dfcore.preprocessing import blur

if TYPE_CHECKING:
    from dfcore.data import Crops

__all__ = ["build_reference"]

_QUALITY_BUCKETS = tuple(float(2**power) for power in range(15))
_LARGEST_PRECISION = 512  # a (D, D) matrix as JSON text beyond this outweighs the weights it describes
_BATCH = 64


def build_reference(
    detector: Detector,
    crops: Crops,
    quality: Mapping[str, np.ndarray] | None = None,
    *,
    attackers: Sequence[Attacker] = (),
    config: AttackScoreConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Describe how a detector sees the data that it was accepted on.

    Args:
        detector: in eval mode, calibrated.
        crops: the crops, usually of the validation split.
        quality: more measures, one value a crop, such as `face_size` from the store's index.
        attackers: what the combined attack score is fitted against; see `fit_attack_scores`.
        config: of the attack scores.
        seed: of the attacks.

    Returns:
        The content of `reference.json`: `histograms` (each with `le`, the upper edges, None for infinity, and
        `counts`), `features` (mean, and the shrunk precision where the dimension is at most 512), and
        `attack_scores` where there are crops enough to fit them on (16).

    Raises:
        DataError: there are no crops, or a measure has another length.
    """
    count = len(crops)
    if not count:
        raise DataError("expected crops to build a reference from, got none")
    scores, inconsistency = score_crops(detector, crops.images)
    measures = {"blur": np.array([blur(image) for image in crops.images]), **(quality or {})}
    histograms = {
        "fake_score": _histogram(scores, SCORE_BUCKETS),
        f"attack_score_jpeg_{JPEG_QUALITY}": _histogram(inconsistency, SCORE_BUCKETS),
    }
    for name, values in measures.items():
        if len(values) != count:
            raise DataError(f"expected {count} values of {name}, one a crop, got {len(values)}")
        histograms[name] = _histogram(values, _QUALITY_BUCKETS)
    document = {
        "format_version": 1,
        "count": count,
        "histograms": histograms,
        "features": _features(detector, crops),
    }
    if count >= FEWEST_CROPS:
        document["attack_scores"] = fit_attack_scores(detector, crops, attackers, config, seed)
    return document


def _histogram(values: np.ndarray, edges: Sequence[float]) -> dict[str, Any]:
    return {"le": [*edges, None], "counts": bucket_counts(values, edges)}


def _features(detector: Detector, crops: Crops) -> dict[str, Any]:
    device = next(detector.parameters()).device
    rows = []
    with torch.inference_mode():
        for start in range(0, len(crops), _BATCH):
            chunk = np.arange(start, min(start + _BATCH, len(crops)))
            rows.append(detector.features(crops.tensor(device, chunk)).double().cpu().numpy())
    values = np.concatenate(rows)
    described: dict[str, Any] = {"dimension": values.shape[1], "mean": _rounded(values.mean(axis=0))}
    if values.shape[1] <= _LARGEST_PRECISION and len(values) > 1:
        from sklearn.covariance import ledoit_wolf  # here: the server reads references, it never builds one

        covariance, shrinkage = ledoit_wolf(values)
        # the floor keeps constant features invertible
        floor = 1e-6 * max(float(np.trace(covariance)) / len(covariance), 1e-12)
        precision = np.linalg.inv(covariance + floor * np.eye(len(covariance)))
        described |= {
            "shrinkage": float(f"{shrinkage:.6g}"),
            "precision": [_rounded(row) for row in precision],
        }
    return described


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
