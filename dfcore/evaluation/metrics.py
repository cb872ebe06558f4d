"""Metrics on scores in [0, 1], and their intervals by resampling videos.

Every metric is computed for many weightings of the crops at once: one row of ones gives the figure itself,
one row for each resample gives its interval. real = 0, fake = 1, score = P(fake); score >= threshold is
fake. docs/metrics.md says where each definition is from.

Definitions:
    auc                 P(score of a fake > score of a real), ties count one half
    average_precision   sum over thresholds of (recall step) x precision, no interpolation
    eer                 (FPR + FNR) / 2 at the threshold of least |FPR - FNR|
    tpr_at_1_fpr        the largest TPR among thresholds with FPR <= 1 %
    tpr_at_0_1_fpr      the same with FPR <= 0.1 %; below 1,000 reals that is: no real called fake
    accuracy, macro_f1  at the deployed threshold; F1 averaged over the two classes
    fake_as_real        share of fakes called real: attack success in the direction an attacker wants
    real_as_fake        share of reals called fake: the other direction
    ece                 expected calibration error, 15 equal-width bins of P(fake)
    brier               mean squared distance between score and label
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dfcore.errors import ShapeError

__all__ = [
    "METRICS",
    "Estimate",
    "accuracy",
    "attack_success",
    "auc",
    "average_precision",
    "brier",
    "ece",
    "eer",
    "macro_f1",
    "measure",
    "measure_mean",
    "paired_difference",
    "scores_from_logits",
    "tpr_at_fpr",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# what names a video: its identifier, or its number
Keys = NDArray[np.str_] | NDArray[np.int64]
# 2**22 weights (32 MiB) at a time keep the resamples of a large corpus within the cache's reach.
_CHUNK = 2**22
_BINS = 15


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def scores_from_logits(logits: NDArray[np.floating]) -> Floats:
    """Return sigmoid(logits) in float64, in [0, 1]; NaN stays NaN."""
    clipped = np.clip(logits.astype(np.float64), -700.0, 700.0)
    return np.asarray(1.0 / (1.0 + np.exp(-clipped)), dtype=np.float64)


def _check(scores: Floats, labels: Integers) -> None:
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise ShapeError(f"expected scores and labels (n,), n > 0, got {scores.shape} and {labels.shape}")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ShapeError(
            "expected finite scores in [0, 1], got "
            f"{scores.min():.4g} to {scores.max():.4g}; call scores_from_logits on logits"
        )
    if not bool(np.isin(labels, (0, 1)).all()):
        raise ShapeError(f"expected labels 0 (real) or 1 (fake), got {np.unique(labels).tolist()}")


class _Ranking:
    """Cumulative weights of fakes and reals at or above each distinct score, highest score first."""

    def __init__(self, scores: Floats, labels: Integers, weights: Floats) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        fakes = weights[:, order] * labels[order]
        reals = weights[:, order] * (1 - labels[order])
        self.true_positives = np.cumsum(np.add.reduceat(fakes, starts, axis=1), axis=1)
        self.false_positives = np.cumsum(np.add.reduceat(reals, starts, axis=1), axis=1)
        self.positives = self.true_positives[:, -1:]
        self.negatives = self.false_positives[:, -1:]

    def rates(self) -> tuple[Floats, Floats]:
        """Return (TPR, FPR), from the threshold above every score downwards."""
        zero = np.zeros((len(self.positives), 1))
        tpr = np.hstack([zero, self.true_positives / self.positives])
        return tpr, np.hstack([zero, self.false_positives / self.negatives])


def _auc(ranking: _Ranking) -> Floats:
    tpr, fpr = ranking.rates()
    return np.asarray((np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1]) / 2).sum(axis=1))


def _average_precision(ranking: _Ranking) -> Floats:
    tpr, _ = ranking.rates()
    called = ranking.true_positives + ranking.false_positives
    precision = ranking.true_positives / np.maximum(called, np.finfo(np.float64).tiny)
    return np.asarray((np.diff(tpr, axis=1) * precision).sum(axis=1))


def _eer(ranking: _Ranking) -> Floats:
    tpr, fpr = ranking.rates()
    best = np.abs(fpr - (1 - tpr)).argmin(axis=1)
    rows = np.arange(len(best))
    return np.asarray((fpr[rows, best] + 1 - tpr[rows, best]) / 2)


def _tpr_at_fpr(ranking: _Ranking, level: float) -> Floats:
    tpr, fpr = ranking.rates()
    return np.asarray(np.where(fpr <= level, tpr, 0.0).max(axis=1))


def _share(mask: NDArray[np.bool_], weights: Floats) -> Floats:
    """Return the weighted share of the masked samples; an empty class is given no share by the caller."""
    return np.asarray((weights @ mask) / weights.sum(axis=1))


def _macro_f1(called: NDArray[np.bool_], labels: Integers, weights: Floats) -> Floats:
    parts = []
    for label in (0, 1):
        said, truth = called == bool(label), labels == label
        both = weights @ (said & truth).astype(np.float64)
        total = weights @ said.astype(np.float64) + weights @ truth.astype(np.float64)
        parts.append(2 * both / np.maximum(total, np.finfo(np.float64).tiny))
    return np.asarray((parts[0] + parts[1]) / 2)


def _ece(scores: Floats, labels: Integers, weights: Floats) -> Floats:
    bins = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    member = np.eye(_BINS)[bins]
    gap = weights @ (member * (scores - labels)[:, None])
    return np.asarray(np.abs(gap).sum(axis=1) / weights.sum(axis=1))


def _all(scores: Floats, labels: Integers, threshold: float, weights: Floats) -> dict[str, Floats]:
    """Return every metric that the classes present allow, one value for each row of weights."""
    called = scores >= threshold
    fake = labels == 1
    found = {
        "accuracy": _share(called == fake, weights),
        "ece": _ece(scores, labels, weights),
        "brier": np.asarray((weights @ (scores - labels) ** 2) / weights.sum(axis=1)),
    }
    if fake.any():
        found["fake_as_real"] = _share(~called[fake], weights[:, fake])
    if (~fake).any():
        found["real_as_fake"] = _share(called[~fake], weights[:, ~fake])
    if fake.any() and (~fake).any():
        ranking = _Ranking(scores, labels, weights)
        found["auc"] = _auc(ranking)
        found["average_precision"] = _average_precision(ranking)
        found["eer"] = _eer(ranking)
        found["tpr_at_1_fpr"] = _tpr_at_fpr(ranking, 0.01)
        found["tpr_at_0_1_fpr"] = _tpr_at_fpr(ranking, 0.001)
        found["macro_f1"] = _macro_f1(called, labels, weights)
    return {name: found[name] for name in METRICS if name in found}


METRICS = (
    "auc", "accuracy", "macro_f1", "average_precision", "eer", "tpr_at_1_fpr", "tpr_at_0_1_fpr",
    "fake_as_real", "real_as_fake", "ece", "brier",
)  # fmt: skip


def _ones(scores: Floats) -> Floats:
    return np.ones((1, len(scores)))


def _ranked(scores: Floats, labels: Integers) -> _Ranking:
    _check(scores, labels)
    if len(np.unique(labels)) < 2:
        raise ShapeError(
            f"expected both classes, got only label {labels[0]}; a ranking needs reals and fakes"
        )
    return _Ranking(scores, labels, _ones(scores))


def auc(scores: Floats, labels: Integers) -> float:
    """Area under the ROC curve, in [0, 1].

    Raises:
        ShapeError: scores outside [0, 1], other labels than 0 and 1, or a single class.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    return float(_auc(_ranked(scores, labels))[0])


def average_precision(scores: Floats, labels: Integers) -> float:
    """Average precision of the fakes, in [0, 1]; raises as `auc`."""
    return float(_average_precision(_ranked(scores, labels))[0])


def eer(scores: Floats, labels: Integers) -> float:
    """Equal error rate: (FPR + FNR) / 2 at the threshold of least |FPR - FNR|; raises as `auc`."""
    return float(_eer(_ranked(scores, labels))[0])


def tpr_at_fpr(scores: Floats, labels: Integers, level: float = 0.01) -> float:
    """Largest TPR among thresholds whose FPR is at most `level`; raises as `auc`."""
    return float(_tpr_at_fpr(_ranked(scores, labels), level)[0])


def accuracy(scores: Floats, labels: Integers, threshold: float = 0.5) -> float:
    """Share of right decisions; raises ShapeError for unusable scores or labels."""
    _check(scores, labels)
    return float(((scores >= threshold) == (labels == 1)).mean())


def macro_f1(scores: Floats, labels: Integers, threshold: float = 0.5) -> float:
    """F1 averaged over the two classes; raises ShapeError for unusable scores or labels."""
    _check(scores, labels)
    return float(_macro_f1(scores >= threshold, labels, _ones(scores))[0])


def attack_success(scores: Floats, labels: Integers, threshold: float = 0.5) -> tuple[float, float]:
    """Return (share of fakes called real, share of reals called fake) among attacked samples.

    Raises:
        ShapeError: unusable scores or labels, or a single class.
    """
    _ranked(scores, labels)
    called = scores >= threshold
    return float((~called[labels == 1]).mean()), float(called[labels == 0].mean())


def ece(scores: Floats, labels: Integers) -> float:
    """Expected calibration error over 15 equal-width bins, in [0, 1]; raises as `accuracy`."""
    _check(scores, labels)
    return float(_ece(scores, labels, _ones(scores))[0])


def brier(scores: Floats, labels: Integers) -> float:
    """Mean squared distance between score and label, in [0, 1]; raises ShapeError for unusable input."""
    _check(scores, labels)
    return float(((scores - labels) ** 2).mean())


def _resample(labels: Integers, video_ids: Keys, resamples: int, seed: int) -> tuple[Integers, Integers]:
    """Draw how often each video appears in each resample; classes are resampled apart, so both are there.

    Returns:
        counts (resamples, videos) and the video of each crop (n,).
    """
    _, first, index = np.unique(video_ids, return_index=True, return_inverse=True)
    generator = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(first)), dtype=np.int64)
    for label in (0, 1):
        members = np.flatnonzero(labels[first] == label)
        if len(members):
            share = np.full(len(members), 1 / len(members))
            counts[:, members] = generator.multinomial(len(members), share, size=resamples)
    return counts, np.asarray(index, dtype=np.int64)


def _bootstrap(
    function: Callable[[Floats], dict[str, Floats]],
    labels: Integers,
    video_ids: Keys,
    resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    values = {name: float(row[0]) for name, row in function(np.ones((1, len(labels)))).items()}
    counts, index = _resample(labels, video_ids, resamples, seed)
    rows = max(1, _CHUNK // len(labels))
    parts = [function(counts[i : i + rows][:, index].astype(np.float64)) for i in range(0, resamples, rows)]
    found = {}
    for name in values:
        drawn = np.concatenate([part[name] for part in parts])
        low, high = np.quantile(drawn, (0.025, 0.975))
        found[name] = Estimate(values[name], float(low), float(high))
    return found


def measure(
    scores: Floats,
    labels: Integers,
    video_ids: Keys,
    *,
    threshold: float,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Measure everything, with 95 % percentile intervals over resampled videos.

    Args:
        scores: (n,) in [0, 1].
        labels: (n,) with real = 0, fake = 1.
        video_ids: (n,), what is resampled together.
        threshold: the deployed one.
        resamples: how many resamples give the interval.
        seed: the same seed draws the same videos, so figures of two models are paired.

    Returns:
        An estimate by name, in the order of METRICS; ranking metrics only where both classes are present.

    Raises:
        ShapeError: unusable scores or labels.
    """
    _check(scores, labels)
    return _bootstrap(
        lambda weights: _all(scores, labels, threshold, weights), labels, video_ids, resamples, seed
    )


def measure_mean(
    values: NDArray[np.floating],
    labels: Integers,
    video_ids: Keys,
    *,
    resamples: int = 500,
    seed: int = 0,
) -> Estimate:
    """Return the mean of a value of each crop (n,), with its 95 % interval over resampled videos.

    Raises:
        ShapeError: values that are no numbers, or as many as there are not labels.
    """
    if values.shape != labels.shape or not len(values) or not bool(np.isfinite(values).all()):
        raise ShapeError(f"expected a finite value for each of {len(labels)} crops, got {values.shape}")
    column = values.astype(np.float64)
    found = _bootstrap(
        lambda weights: {"mean": np.asarray((weights @ column) / weights.sum(axis=1))},
        labels, video_ids, resamples, seed,
    )  # fmt: skip
    return found["mean"]


def paired_difference(
    candidate: tuple[Floats, float],
    reference: tuple[Floats, float],
    labels: Integers,
    video_ids: Keys,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Compare two models on the same crops: candidate minus reference, each resample drawn once for both.

    Args:
        candidate: (scores (n,), threshold) of the model in question.
        reference: (scores (n,), threshold) of the model that it is compared with, same order.
        labels: (n,).
        video_ids: (n,).
        resamples: how many resamples give the interval.
        seed: of the resampling.

    Returns:
        The difference of every metric with its 95 % interval.

    Raises:
        ShapeError: unusable scores or labels.
    """
    _check(candidate[0], labels)
    _check(reference[0], labels)

    def difference(weights: Floats) -> dict[str, Floats]:
        ours = _all(candidate[0], labels, candidate[1], weights)
        theirs = _all(reference[0], labels, reference[1], weights)
        return {name: ours[name] - theirs[name] for name in ours}

    return _bootstrap(difference, labels, video_ids, resamples, seed)
