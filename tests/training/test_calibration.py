from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from dfcore.training.calibration import best_threshold, platt


def scores(count: int = 400, shift: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random(count) < 0.7).astype(np.int64)
    return rng.normal(30 + shift * labels, 1.5), labels


def test_platt_agrees_with_logistic_regression() -> None:
    logits, labels = scores(4000)
    reference = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-8).fit(logits[:, None], labels)
    scale, bias = platt(logits, labels)
    # the smoothed targets differ from 0 and 1 by about 1 / 1000
    assert scale == pytest.approx(float(reference.coef_[0, 0]), rel=0.02)
    assert bias == pytest.approx(float(reference.intercept_[0]), rel=0.02)


def test_separable_scores_stay_finite() -> None:
    scale, bias = platt(np.array([-5.0, -4.0, 4.0, 5.0]), np.array([0, 0, 1, 1]))
    assert 0 < scale < 100
    assert abs(bias) < 1


def test_logits_that_point_the_wrong_way_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    logits, labels = scores()
    with caplog.at_level(logging.WARNING):
        assert platt(-logits, labels) == (1.0, 0.0)
    assert "do not rise" in caplog.text


def test_threshold_has_the_best_balanced_accuracy() -> None:
    logits, labels = scores()
    values = expit((logits - 31) / 2)
    found = best_threshold(values, labels)
    ours = balanced_accuracy_score(labels, values >= found)
    best = max(balanced_accuracy_score(labels, values >= candidate) for candidate in values)
    assert ours == pytest.approx(best)
    assert not np.isin(found, values)
