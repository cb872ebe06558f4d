"""The trial of attack scores, and the attacker who knows them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from dfcore.attacks import build_attack
from dfcore.models import Detector
from dfcore.monitoring import VARIANTS, AttackScorer, FingerprintConfig, ScoreAware
from dfcore.monitoring.trial import Adaptive, _auc, _rates, trial, trial_queries
from tests.monitoring.conftest import PGD, make_crops

CROPS = make_crops(64, seed=6, prefix="trial")
STRONG = {"kind": "pgd", "epsilon": "8/255", "step_size": "1/255", "steps": 20}


@pytest.fixture(scope="module")
def scorer(trained: Detector, reference: dict[str, Any]) -> AttackScorer:
    return AttackScorer(trained, reference, VARIANTS[1])


PROXIES = {"jpeg_75": lambda images: images}


def test_score_aware_is_the_joint_loss(scorer: AttackScorer) -> None:
    images, labels = CROPS.tensor(indices=range(0, 64, 4)), torch.from_numpy(CROPS.labels[::4])
    struck = build_attack(PGD)(scorer.detector, images, labels)
    aware = ScoreAware(scorer, labels, 2.0, PROXIES)
    with torch.no_grad():
        found = scorer.measure(struck)
        excess = (found.surprise[:, -1] - 0.8 * scorer.calibration.limit).clamp_min(0)
        margin = (1 - 2 * labels) * found.logits
        torch.testing.assert_close((1 - 2 * labels) * aware(struck), margin - 2.0 * excess)
    assert (excess > 0).any()


def test_the_joint_loss_has_the_scores_gradient(scorer: AttackScorer) -> None:
    """Going down the excess's gradient for a small step lowers it, JPEG's rounding notwithstanding."""
    labels = torch.from_numpy(CROPS.labels[:16])
    struck = build_attack(PGD)(scorer.detector, CROPS.tensor(indices=range(16)), labels).requires_grad_()
    aware = ScoreAware(scorer, labels, 1.0, PROXIES)
    sign = 1 - 2 * labels
    excess = lambda images: (sign * (scorer.detector(images) - aware(images))).sum()  # noqa: E731
    value = excess(struck)
    (slope,) = torch.autograd.grad(value, struck)
    assert torch.isfinite(slope).all()
    with torch.no_grad():
        assert excess((struck - slope.sign() * 2 / 255).clamp(0, 1)) < value


def test_an_adaptive_attacker_shows_less(scorer: AttackScorer) -> None:
    attackers = {
        "static": build_attack(STRONG),
        "adaptive": Adaptive(build_attack(STRONG), scorer, PROXIES, weights=(0.3, 3.0)),
    }
    calls: list[tuple[int, int]] = []
    found = trial(scorer, CROPS, attackers, progress=lambda *done: calls.append(done))
    json.dumps(found, allow_nan=False)
    static, adaptive = (found["attackers"][name] for name in attackers)
    assert calls == [(1, 2), (2, 2)]
    assert static["signs"]["combined"]["auc"] > 0.95
    assert adaptive["signs"]["combined"]["auc"] < static["signs"]["combined"]["auc"]
    assert adaptive["undetected"] >= static["undetected"]
    low, high = static["signs"]["combined"]["auc_interval"]
    assert low <= static["signs"]["combined"]["auc"] <= high
    assert set(found["clean"]) == {"all", "compression=c23", "compression=c40"}
    assert found["clean"]["all"]["combined"] <= 0.1
    assert static["roc"]["tpr"] == sorted(static["roc"]["tpr"])
    assert static["fooled"] > 0.5
    assert 0 <= static["fooling"]["combined"]["flagged"] <= 1


def test_the_best_of_all_weights_is_kept(scorer: AttackScorer) -> None:
    """What an adaptive attacker returns is in the budget, and no worse for it than the plain attack."""
    labels, images = torch.from_numpy(CROPS.labels), CROPS.tensor()
    plain = build_attack(STRONG)(scorer.detector, images, labels, generator=torch.Generator().manual_seed(0))
    adaptive = Adaptive(build_attack(STRONG), scorer, PROXIES, weights=(1.0,))
    best = adaptive(scorer.detector, images, labels, generator=torch.Generator().manual_seed(0))
    assert (best - images).abs().max() <= 8 / 255 + 1e-6
    with torch.no_grad():
        before, after = scorer.measure((plain * 255).round() / 255), scorer.measure(best)
    turned = [(1 - 2 * labels) * one.logits > 0 for one in (before, after)]
    assert (turned[1] | ~turned[0]).all()
    both = turned[0] & turned[1]
    assert (after.surprise[both, -1] <= before.surprise[both, -1] + 1e-3).all()


def test_an_attack_that_fools_nobody(scorer: AttackScorer) -> None:
    found = trial(scorer, CROPS, {"none": build_attack({"kind": "noise", "epsilon": "1/255"})})
    one = found["attackers"]["none"]
    assert one["fooled"] < 0.2
    assert one["undetected"] <= one["fooled"]


def test_rates_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    clean, attacked = rng.integers(0, 9, 80) / 1.0, rng.integers(3, 12, 60) / 1.0
    sides = np.r_[np.zeros(80), np.ones(60)]
    values = np.r_[clean, attacked]
    fpr, tpr = _rates(clean, attacked)
    expected = roc_curve(sides, values, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0], atol=1e-12)
    np.testing.assert_allclose(tpr, expected[1], atol=1e-12)
    assert _auc(clean, attacked) == pytest.approx(roc_auc_score(sides, values))


def test_searches_are_noticed(trained: Detector) -> None:
    square = build_attack({"kind": "square", "epsilon": "8/255", "queries": 60})
    config = FingerprintConfig(side=24, window=3, alarm_after=20)
    found = trial_queries(trained, CROPS.subset([0, 20, 40]), square, config)
    assert found["n"] == 3
    assert found["detected"] > 0.5
    assert found["queries_to_alarm"] >= 20
    assert 0 <= found["before_alarm"] <= found["fooled"] <= 1
    few = trial_queries(trained, CROPS.subset([0]), build_attack({"kind": "square", "queries": 5}), config)
    assert few["detected"] == 0
    assert few["queries_to_alarm"] is None
