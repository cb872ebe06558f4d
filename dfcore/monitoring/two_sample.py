"""The classifier two-sample test: can a classifier tell the samples apart on rows that it has not seen?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dfcore.monitoring.mmd import check_samples, median_distance

__all__ = ["TwoSample", "classifier_test", "rank_auc"]

Floats = NDArray[np.float64]

_FOLDS = 5
_COMPONENTS = 32
_FOURIER = 64  # random features; a straight line alone sees only that means differ
_RIDGE = 1e-2  # of the mean squared feature, for each row


class TwoSample(NamedTuple):
    """The result: AUC on unseen rows (0.5 equal, 1 told apart), and its permutation p-value."""

    auc: float
    p_value: float


def classifier_test(
    reference: Floats, current: Floats, *, permutations: int = 200, seed: int = 0
) -> TwoSample:
    """Tell two samples apart by ridge regression, cross-validated, and test the AUC by permutation.

    The features are the first principal components and random Fourier features of them (a Gaussian kernel of
    the median distance). All permutations share each fold's factorisation, so that 200 cost little more
    than one.

    Args:
        reference: (n, D).
        current: (m, D).
        permutations: how many.
        seed: of folds, features and permutations.

    Raises:
        ShapeError: samples that are not finite, have other columns, or fewer than two rows.

    Source: Lopez-Paz and Oquab, arXiv:1610.06545; Rahimi and Recht, "Random Features for Large-Scale Kernel
        Machines" (NeurIPS 2007).
    """
    check_samples(reference, current)
    rng = np.random.default_rng(seed)
    sides = np.r_[np.zeros(len(reference)), np.ones(len(current))]
    features = _features(np.concatenate([reference, current]).astype(np.float64), rng)
    folds = np.empty(len(sides), dtype=np.int64)
    for side in (0, 1):
        rows = np.flatnonzero(sides == side)
        folds[rows] = rng.permutation(len(rows)) % _FOLDS
    labels = np.stack([sides, *(rng.permutation(sides) for _ in range(permutations))], axis=1)
    scores = _out_of_fold(features, labels, folds)
    aucs = np.array([rank_auc(scores[:, column], labels[:, column]) for column in range(labels.shape[1])])
    return TwoSample(float(aucs[0]), float((aucs >= aucs[0] - 1e-12).mean()))


def rank_auc(scores: Floats, labels: Floats) -> float:
    """Return P(score of a 1 > score of a 0), ties one half."""
    from scipy.stats import rankdata

    ones = labels > 0.5
    count = int(ones.sum())
    ranks = rankdata(scores)[ones].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(labels) - count)))


def _features(values: Floats, rng: np.random.Generator) -> Floats:
    """Return (n, K + F): principal components and Fourier features of them; labels are not used."""
    centred = values - values.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    count = min(_COMPONENTS, int((lengths > 1e-9 * max(lengths[0], 1e-300)).sum()))
    points = left[:, :count] * lengths[:count]
    if not count:
        return np.zeros((len(values), 1))
    width = median_distance(points, rng)
    waves = points @ rng.normal(0, 1 / width, (count, _FOURIER)) + rng.uniform(0, 2 * np.pi, _FOURIER)
    return np.concatenate([points / width, np.cos(waves) * np.sqrt(2 / _FOURIER)], axis=1)


def _out_of_fold(features: Floats, labels: Floats, folds: NDArray[np.int64]) -> Floats:
    """Return what ridge regression on the other folds says of each row (n,) and column of labels (P,)."""
    scores = np.empty_like(labels)
    for fold in np.unique(folds):
        test = folds == fold
        train = features[~test]
        mean, target = train.mean(axis=0), labels[~test].mean(axis=0)
        centred = train - mean
        gram = centred.T @ centred
        penalty = _RIDGE * max(np.trace(gram), 1e-12) / len(gram)
        solved = np.linalg.solve(gram + penalty * np.eye(len(gram)), centred.T @ (labels[~test] - target))
        scores[test] = (features[test] - mean) @ solved  # no intercept: folds would differ by it alone
    return scores
