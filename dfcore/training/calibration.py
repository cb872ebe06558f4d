"""Calibration and the decision's threshold, both fitted on validation scores."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

__all__ = ["best_threshold", "platt"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

_LIMIT = 1e-4


def platt(logits: Array, labels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Fit P(fake) = sigmoid(scale * logit + bias), both classes weighing the same.

    Targets are smoothed as by Platt, so that the fit is finite on separable data.

    Args:
        logits: (N,) raw.
        labels: (N,), both classes present.

    Returns:
        scale > 0 and bias; (1, 0) where the logits do not point towards fakes at all.

    Source: Platt (1999); Lin, Lin and Weng (2007) for the targets.
    """
    positive = labels == 1
    n1, n0 = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    weights = np.where(positive, 0.5 / n1, 0.5 / n0)
    centre, spread = float(logits.mean()), max(float(logits.std()), 1e-6)
    standard = (logits - centre) / spread  # well-conditioned whatever the logits' size

    def cost(values: Array) -> tuple[float, Array]:
        z = values[0] * standard + values[1]
        loss = float(np.sum(weights * (np.logaddexp(0, z) - targets * z)))
        residual = weights * (expit(z) - targets)
        return loss, np.array([np.sum(residual * standard), np.sum(residual)])

    found = minimize(cost, np.array([1.0, 0.0]), jac=True, method="BFGS")
    scale = float(found.x[0]) / spread
    if not np.isfinite(found.x).all() or scale <= 0:
        logger.warning("validation logits do not rise towards fakes; calibration is left at scale 1, bias 0")
        return 1.0, 0.0
    return scale, float(found.x[1]) - scale * centre


def best_threshold(scores: Array, labels: npt.NDArray[np.int64]) -> float:
    """Return the threshold with the best balanced accuracy; among equals the one nearest to 0.5.

    Args:
        scores: (N,) in [0, 1].
        labels: (N,), both classes present.

    Returns:
        In [1e-4, 1 - 1e-4]; midway between two scores, so that no score lies on it.

    >>> best_threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    0.5
    """
    distinct = np.unique(scores)
    candidates = np.clip(np.concatenate([[0.5], (distinct[:-1] + distinct[1:]) / 2]), _LIMIT, 1 - _LIMIT)
    real, fake = np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
    true_negatives = np.searchsorted(real, candidates, side="left") / len(real)
    true_positives = 1 - np.searchsorted(fake, candidates, side="left") / len(fake)
    balanced = true_negatives + true_positives
    best = candidates[balanced >= balanced.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])
