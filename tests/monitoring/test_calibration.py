"""Gaussians and tails against scikit-learn, NumPy and the definition."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from dfcore.errors import DataError
from dfcore.monitoring.calibration import Calibration, fit_calibration
from dfcore.monitoring.gaussian import Gaussian, Projection, fit_gaussian, fit_projection

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def test_mahalanobis_agrees_with_scikit_learn() -> None:
    classes = np.arange(200) % 2
    values = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6)) + classes[:, None] * 3
    document = json.loads(json.dumps(fit_gaussian(values, classes)))
    means = np.stack([values[classes == label].mean(axis=0) for label in (0, 1)])
    centred = values - means[classes]
    spread = np.sqrt((centred**2).mean(axis=0))
    known = LedoitWolf(assume_centered=True).fit(centred / spread)
    assert document["shrinkage"] == pytest.approx(known.shrinkage_, rel=1e-4)
    new = RNG.normal(size=(50, 6)) * 4
    expected = np.minimum(*(known.mahalanobis((new - mean) / spread) for mean in means))
    found = Gaussian(document, CPU)(torch.from_numpy(new).float()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_constant_features_stay_finite() -> None:
    values = np.c_[RNG.normal(size=40), np.ones(40)]
    document = fit_gaussian(values, np.zeros(40, dtype=np.int64))
    assert torch.isfinite(Gaussian(document, CPU)(torch.ones(3, 2))).all()


def test_projection_agrees_with_pca_and_keeps_what_is_left_out() -> None:
    features = RNG.normal(size=(120, 20)) * np.linspace(5, 0.1, 20)
    project = Projection(json.loads(json.dumps(fit_projection(features, 8))), CPU)
    found = project(torch.from_numpy(features).float()).numpy()
    pca = PCA(8, svd_solver="full").fit(features)
    expected = pca.transform(features)
    np.testing.assert_allclose(np.abs(found[:, :8]), np.abs(expected), atol=2e-2)
    left = ((features - pca.inverse_transform(expected)) ** 2).sum(axis=1)
    np.testing.assert_allclose(found[:, 8], np.log(left), atol=0.05)
    assert project(torch.zeros(1, 20)).shape == (1, 9)


def test_projection_of_few_dimensions_leaves_nothing_out() -> None:
    features = RNG.normal(size=(40, 3))
    assert Projection(fit_projection(features, 8), CPU)(torch.zeros(2, 3)).shape == (2, 3)


def test_thresholds_hold_on_new_crops_of_each_quality() -> None:
    quality = RNG.uniform(0, 3, 6000)
    values = RNG.exponential(1 + quality)  # what is usual depends on the quality
    document = fit_calibration({"a": values}, quality, [1.0, 2.0], 0.02)
    calibration = Calibration(json.loads(json.dumps(document)), CPU)
    new_quality = torch.from_numpy(RNG.uniform(0, 3, 30000)).float()
    new = torch.from_numpy(RNG.exponential(1 + new_quality.numpy())).float()[:, None]
    bins = calibration.bins(new_quality)
    raised = calibration.raised(new, bins, ["a"])[:, 0]
    for place in range(3):
        assert 0.01 < raised[bins == place].float().mean() < 0.03
    surprise = calibration.surprise(new, bins, ["a"])[:, 0]
    assert torch.equal(raised, surprise > calibration.limit) or (
        (raised != (surprise > calibration.limit)).float().mean() < 0.01
    )
    # the share of clean crops above a value of surprise s is exp(-s)
    for level in (1.0, 2.0, 3.5):
        assert (surprise > level).float().mean() == pytest.approx(math.exp(-level), rel=0.25)


def test_a_threshold_is_conformal() -> None:
    """Over many fits of 199 crops, a new one is above the threshold of 1 % in 1 % of the cases."""
    values = RNG.normal(size=(20000, 200))
    above = 0
    for row in values[:2000]:
        document = fit_calibration({"a": row[:199]}, np.zeros(199), [], 0.01)
        above += row[199] > document["thresholds"]["a"][0]
    assert above / 2000 == pytest.approx(0.01, abs=0.007)


def test_few_crops_take_the_largest_value_and_say_so() -> None:
    values = np.arange(20.0)
    document = fit_calibration({"a": values}, values, [15.0], 0.01)
    assert document["thresholds"]["a"] == [19.0, 19.0]  # no bin has fifty crops: both take all
    assert document["attained"] == [1 / 21] * 2
    assert document["counts"] == [16, 4]
    assert max(document["levels"]) <= 20 / 21


def test_surprise_grows_without_end_and_has_a_gradient() -> None:
    values = RNG.exponential(size=2000)
    calibration = Calibration(fit_calibration({"a": values}, values, [], 0.01), CPU)
    points = torch.linspace(0.05, 60, 50, requires_grad=True)
    surprise = calibration.surprise(points[:, None], torch.zeros(50, dtype=torch.int64), ["a"])[:, 0]
    assert (surprise.diff() > 0).all()
    assert surprise[-1].item() == pytest.approx(60, rel=0.3)  # of an exponential the surprise is the value
    (slope,) = torch.autograd.grad(surprise.sum(), points)
    assert (slope > 0).all()


@pytest.mark.parametrize("bad", [np.zeros(0), np.array([1.0, np.nan])])
def test_calibration_refuses(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="finite signs"):
        fit_calibration({"a": bad}, np.zeros(len(bad)), [], 0.01)
