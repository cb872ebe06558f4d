"""Attack scores of a small trained detector: rates on clean crops, sight of attacks, the file's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dfcore.attacks import build_attack
from dfcore.errors import BundleError, ConfigError, DataError, ShapeError
from dfcore.models import Detector, DetectorConfig, build_detector
from dfcore.monitoring import VARIANTS, AttackScoreConfig, AttackScorer, MonitoringPolicy, fit_attack_scores
from dfcore.monitoring.fitting import SIGNS, to_bytes
from dfcore.monitoring.scorer import affordable
from tests.monitoring.conftest import PGD, make_crops

CROPS = make_crops(240, seed=4, prefix="test")


@pytest.fixture(scope="module", params=VARIANTS, ids=len)
def scorer(trained: Detector, reference: dict[str, Any], request: pytest.FixtureRequest) -> AttackScorer:
    return AttackScorer(trained, json.loads(json.dumps(reference)), request.param)


def test_clean_crops_are_rarely_flagged_and_attacked_ones_are(scorer: AttackScorer) -> None:
    clean = scorer.score(CROPS.images)
    np.testing.assert_allclose(clean.scores, scorer.detector(CROPS.tensor()).sigmoid().detach(), rtol=1e-4)
    for kind, raised in clean.flags.items():
        assert raised.mean() <= 0.05, kind
    for values in (*clean.parts.values(), clean.combined):
        assert ((values >= 0) & (values < 1)).all()
        assert 0.3 < values.mean() < 0.7  # uniform on clean crops
    struck = build_attack(PGD)(scorer.detector, CROPS.tensor(), torch.from_numpy(CROPS.labels))
    attacked = scorer.score(to_bytes(struck))
    sides = np.r_[np.zeros(240), np.ones(240)]
    assert roc_auc_score(sides, np.r_[clean.combined, attacked.combined]) > 0.95
    assert attacked.flags["combined"].mean() > 0.9


def test_batch_and_judge_are_score(scorer: AttackScorer) -> None:
    images = CROPS.tensor(indices=range(6))
    assert len(scorer.batch(images)) == scorer.copies * 6
    with torch.inference_mode():
        seen = [scorer.detector(scorer.batch(images)), scorer.detector.features(images)]
        found = scorer.report(scorer.judge(images, *seen))
    whole = scorer.score(CROPS.images[:6])
    np.testing.assert_allclose(found.combined, whole.combined, atol=1e-4)
    assert set(found.parts) == set(scorer.parts)
    assert set(found.flags) == {*scorer.parts, "combined"}


def test_no_crops_and_wrong_crops(scorer: AttackScorer) -> None:
    assert scorer.score(CROPS.images[:0]).combined.shape == (0,)
    with pytest.raises(ShapeError, match="uint8"):
        scorer.score(CROPS.images.astype(np.float32))


def test_a_video_is_judged_by_its_median(trained: Detector, reference: dict[str, Any]) -> None:
    judged = AttackScorer(trained, reference).score(CROPS.images[:5])
    judged.flags["combined"][:] = [True, True, True, False, False]
    judged.flags["frequency"][:] = [True, True, False, False, False]
    one = judged.pooled()
    assert one.scores[0] == pytest.approx(judged.scores.mean())
    assert one.combined[0] == np.median(judged.combined)
    assert one.flags["combined"][0]
    assert not one.flags["frequency"][0]
    assert one.features.shape == (1, 16)


def test_the_reference_is_small_plain_json(reference: dict[str, Any]) -> None:
    text = json.dumps(reference["attack_scores"], allow_nan=False)
    assert len(text) < 60_000
    fitted = reference["attack_scores"]
    assert fitted["fitted_against"][0]["epsilon"] == "8/255"
    for squeezers in VARIANTS:
        weights = fitted["weights"][f"combined_{len(squeezers)}"]
        assert set(weights) == {*squeezers, "mahalanobis", "frequency"}
        assert min(weights.values()) >= 0
        assert sum(weights.values()) == pytest.approx(len(weights), rel=1e-3)
    assert set(fitted["histograms"]) == {*SIGNS, "combined_0", "combined_1", "combined_3"}


def test_histograms_are_of_the_chosen_variant(scorer: AttackScorer) -> None:
    assert set(scorer.histograms) == {f"attack_score_{kind}" for kind in (*scorer.parts, "combined")}
    for histogram in scorer.histograms.values():
        counts = histogram["counts"]
        assert sum(counts) == 480
        assert len(counts) == len(histogram["le"])
        assert counts[-1] == 0
        assert max(counts) < 480 / 3


def test_weights_agree_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    from dfcore.monitoring.fitting import _RIDGE, _fit_weights

    rng = np.random.default_rng(0)
    clean, attacked = rng.exponential(1, (300, 3)), rng.exponential([3, 2, 1.5], (150, 3))
    found = _fit_weights(clean, attacked)
    # the mean of n losses with a penalty r |w|^2 is scikit-learn's sum with C = 1 / (2 r n)
    model = LogisticRegression(C=1 / (2 * _RIDGE * 450), class_weight="balanced", tol=1e-8, max_iter=1000)
    model.fit(np.r_[clean, attacked], np.r_[np.zeros(300), np.ones(150)])
    expected = model.coef_[0]
    assert (expected > 0).all()
    np.testing.assert_allclose(found, expected * 3 / expected.sum(), rtol=1e-2)
    against = _fit_weights(clean, np.c_[attacked[:, :2], np.zeros(150)])
    assert against[2] == 0  # what is larger on clean crops must not count


def test_without_attackers_all_signs_weigh_alike(trained: Detector) -> None:
    document = fit_attack_scores(trained, make_crops(64, seed=5), config=AttackScoreConfig(quality_bins=1))
    assert set(document["weights"]["combined_3"].values()) == {1.0}
    assert document["attacked"] == 0
    assert document["quality_edges"] == []
    assert document["attained"] == [1 / 65]


def test_too_few_crops(trained: Detector) -> None:
    with pytest.raises(DataError, match="at least 16"):
        fit_attack_scores(trained, make_crops(8, seed=5))


def test_one_person_is_fitted_too(trained: Detector) -> None:
    crops = make_crops(16, seed=5)
    crops.group_ids[:] = "one"
    assert fit_attack_scores(trained, crops)["clean"] == 16


def test_squeezers_are_what_a_request_can_afford(trained: Detector) -> None:
    assert affordable(trained) == VARIANTS[-1]
    large = build_detector(DetectorConfig(backbone="efficientnet_b0", image_size=224)).eval()
    assert affordable(large) == ()
    with pytest.raises(ConfigError, match="squeezers"):
        AttackScorer(trained, {"attack_scores": {}}, ("blur",))


def test_load(trained: Detector, reference: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    with pytest.raises(BundleError, match=r"a reference at"):
        AttackScorer.load(trained, path)
    path.write_text(json.dumps(reference), encoding="utf-8")
    assert AttackScorer.load(trained, path).parts == SIGNS
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(BundleError, match="got none or"):
        AttackScorer.load(trained, path)
    path.write_text('{"attack_scores": {"version": 1, "parts": ["blur"]}}', encoding="utf-8")
    with pytest.raises(BundleError, match="rebuild"):
        AttackScorer.load(trained, path)


def test_policy_takes_the_severest() -> None:
    policy = MonitoringPolicy(combined="abstain", queries="refuse", parts={"frequency": "flag"})
    assert policy.decide([]) == "log"
    assert policy.decide(["blur"]) == "log"
    assert policy.decide(["frequency", "blur"]) == "flag"
    assert policy.decide(["combined", "frequency"]) == "abstain"
    assert policy.decide(["combined", "queries"]) == "refuse"
    with pytest.raises(ConfigError, match="combined"):
        MonitoringPolicy.parse({"combined": "explode"})
