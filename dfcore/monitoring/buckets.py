"""Histograms as Prometheus counts them, and the population stability index between two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfcore.errors import DataError, ShapeError

__all__ = ["SCORE_BUCKETS", "bucket_counts", "psi"]

SCORE_BUCKETS = tuple(round(step / 20, 2) for step in range(1, 21))
"""Upper edges for what lies in [0, 1]."""


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
