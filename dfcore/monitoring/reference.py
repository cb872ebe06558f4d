"""The frozen reference that drift is measured against, and the population stability index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dfcore.errors import DataError, ShapeError
from dfcore.models import Detector
from dfcore.monitoring.attack_score import JPEG_QUALITY, score_crops
from dfcore.preprocessing import blur

if TYPE_CHECKING:
    from dfcore.data import Crops

__all__ = ["SCORE_BUCKETS", "bucket_counts", "build_reference", "psi"]

SCORE_BUCKETS = tuple(round(step / 20, 2) for step in range(1, 21))
_QUALITY_BUCKETS = tuple(float(2**power) for power in range(15))
_LARGEST_PRECISION = 512  # a (D, D) matrix as JSON text beyond this outweighs the weights it describes
_BATCH = 64


def bucket_counts(values: np.ndarray, edges: Sequence[float]) -> list[int]:
    """Count values into buckets (previous edge, edge], as Prometheus does, plus one beyond the last edge.

    >>> bucket_counts(np.array([0.0, 0.5, 0.6, 7.0]), [0.5, 1.0])
    [2, 1, 1]
    """
    places = np.searchsorted(np.asarray(edges), np.asarray(values), side="left")
    return [int(count) for count in np.bincount(places, minlength=len(edges) + 1)]


def psi(reference_counts: Sequence[float], counts: Sequence[float]) -> float:
    """Return the population stability index: sum((p - q) * ln(p / q)), half a count added to each bucket.

    Below 0.1 is usually read as stable, above 0.25 as shifted.

    Args:
        reference_counts: (B,) counts of the reference.
        counts: (B,) counts of what came since.

    Raises:
        ShapeError: different lengths, none, or a negative count.
        DataError: one of the two is empty.

    Source: Siddiqi, "Credit Risk Scorecards" (2006), chapter 9.

    >>> psi([10, 10], [10, 10])
    0.0
    >>> round(psi([90, 10], [10, 90]), 2)
    3.41
    """
    expected, actual = (np.asarray(values, dtype=np.float64) for values in (reference_counts, counts))
    if expected.ndim != 1 or expected.shape != actual.shape or not expected.size:
        raise ShapeError(f"expected two histograms (B,), got {expected.shape} and {actual.shape}")
    if (expected < 0).any() or (actual < 0).any():
        raise ShapeError("expected counts of at least 0, got a negative one")
    if not expected.sum() or not actual.sum():
        raise DataError("expected counts in both histograms, got an empty one")
    p, q = ((values + 0.5) / (values + 0.5).sum() for values in (actual, expected))
    return float(((p - q) * np.log(p / q)).sum())


def build_reference(
    detector: Detector, crops: Crops, quality: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Describe how a detector sees the data that it was accepted on.

    Args:
        detector: in eval mode, calibrated.
        crops: the crops, usually of the validation split.
        quality: more measures, one value a crop, such as `face_size` from the store's index.

    Returns:
        The content of `reference.json`: `histograms` (each with `le`, the upper edges, None for infinity, and
        `counts`) and `features` (mean, and the shrunk precision where the dimension is at most 512).

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
    features = _features(detector, crops)
    return {"format_version": 1, "count": count, "histograms": histograms, "features": features}


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
