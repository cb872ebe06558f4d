"""Every metric against scikit-learn, and the bootstrap against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from dfcore.errors import ShapeError
from dfcore.evaluation import metrics, videos


def _data(seed: int, n: int = 120) -> tuple[metrics.Floats, metrics.Integers, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    labels[:2] = (0, 1)
    # rounding makes ties
    scores = np.round(np.clip(0.35 * labels + generator.random(n) * 0.65, 0, 1), 2)
    videos = np.array([f"{label}-{i % 9}" for i, label in enumerate(labels)])
    return scores, labels, videos


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_sklearn(seed: int) -> None:
    scores, labels, _ = _data(seed)
    called = scores >= 0.5
    assert metrics.auc(scores, labels) == pytest.approx(oracle.roc_auc_score(labels, scores))
    assert metrics.average_precision(scores, labels) == pytest.approx(
        oracle.average_precision_score(labels, scores)
    )
    assert metrics.accuracy(scores, labels) == pytest.approx(oracle.accuracy_score(labels, called))
    assert metrics.macro_f1(scores, labels) == pytest.approx(oracle.f1_score(labels, called, average="macro"))
    assert metrics.brier(scores, labels) == pytest.approx(oracle.brier_score_loss(labels, scores))
    fpr, tpr, _ = oracle.roc_curve(labels, scores, drop_intermediate=False)
    best = np.abs(fpr - (1 - tpr)).argmin()
    assert metrics.eer(scores, labels) == pytest.approx((fpr[best] + 1 - tpr[best]) / 2)
    assert metrics.tpr_at_fpr(scores, labels, 0.1) == pytest.approx(tpr[fpr <= 0.1].max())


@pytest.mark.parametrize(("level", "name"), [(0.01, "tpr_at_1_fpr"), (0.001, "tpr_at_0_1_fpr")])
def test_tpr_at_small_fpr_agrees_with_sklearn(level: float, name: str) -> None:
    scores, labels, videos = _data(11, n=4000)
    fpr, tpr, _ = oracle.roc_curve(labels, scores, drop_intermediate=False)
    found = metrics.measure(scores, labels, videos, threshold=0.5, resamples=20)
    assert found[name].value == pytest.approx(tpr[fpr <= level].max())
    assert found["tpr_at_0_1_fpr"].value <= found["tpr_at_1_fpr"].value


def test_tpr_below_one_real_is_that_without_any_false_alarm() -> None:
    scores, labels = np.array([0.9, 0.7, 0.8, 0.1]), np.array([1, 1, 0, 0])
    assert metrics.tpr_at_fpr(scores, labels, 0.001) == 0.5


def test_attack_success_counts_each_direction() -> None:
    scores = np.array([0.9, 0.2, 0.1, 0.8])
    labels = np.array([1, 1, 0, 0])
    assert metrics.attack_success(scores, labels) == (0.5, 0.5)
    assert metrics.attack_success(scores, labels, 0.15) == (0.0, 0.5)


def test_ece_of_a_calibrated_and_of_a_wrong_score() -> None:
    labels = np.array([0, 1] * 50)
    assert metrics.ece(np.full(100, 0.5), labels) == pytest.approx(0)
    assert metrics.ece(np.full(100, 0.9), labels) == pytest.approx(0.4)


def test_intervals_equal_a_plain_loop_over_resampled_videos() -> None:
    scores, labels, videos = _data(7)
    found = metrics.measure(scores, labels, videos, threshold=0.5, resamples=60, seed=3)
    counts, index = metrics._resample(labels, videos, 60, 3)
    drawn = []
    for row in counts:
        repeat = np.repeat(np.arange(len(scores)), row[index])
        drawn.append(oracle.roc_auc_score(labels[repeat], scores[repeat]))
    assert found["auc"].value == pytest.approx(oracle.roc_auc_score(labels, scores))
    assert found["auc"].low == pytest.approx(np.quantile(drawn, 0.025))
    assert found["auc"].high == pytest.approx(np.quantile(drawn, 0.975))
    assert list(found) == list(metrics.METRICS)


def test_one_video_per_class_gives_no_false_precision_of_crops() -> None:
    scores, labels, _ = _data(1)
    few = np.array([f"{label}" for label in labels])
    found = metrics.measure(scores, labels, few, threshold=0.5, resamples=50)
    assert (
        found["auc"].low == found["auc"].high
    )  # nothing else can be drawn: the interval knows only two videos


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels, videos = _data(2)
    whole = metrics.measure(scores, labels, videos, threshold=0.5, resamples=50)
    monkeypatch.setattr(metrics, "_CHUNK", 1000)
    parts = metrics.measure(scores, labels, videos, threshold=0.5, resamples=50)
    for name, estimate in whole.items():  # BLAS may sum a shorter matrix in another order
        assert parts[name] == pytest.approx(estimate, abs=1e-12)


def test_paired_difference_is_tighter_than_two_intervals() -> None:
    scores, labels, videos = _data(4)
    better = np.clip(scores + 0.05 * (2 * labels - 1), 0, 1)
    found = metrics.paired_difference((better, 0.5), (scores, 0.5), labels, videos)["auc"]
    assert found.value == pytest.approx(metrics.auc(better, labels) - metrics.auc(scores, labels))
    assert 0 < found.low <= found.value <= found.high
    same = metrics.paired_difference((scores, 0.5), (scores, 0.5), labels, videos)["auc"]
    assert same == (0, 0, 0)


def test_video_scores_are_means() -> None:
    scores, labels, names = videos.video_scores(
        np.array([0.2, 0.9, 0.4]), np.array([0, 1, 0]), np.array(["b", "a", "b"])
    )
    np.testing.assert_allclose(scores, [0.9, 0.3])
    assert labels.tolist() == [1, 0]
    assert names.tolist() == ["a", "b"]


def test_video_medians_resist_one_crop() -> None:
    scores = np.array([0.1, 0.2, 0.9, 0.6, 0.3, 0.8, 0.7])
    ids = np.array([3, 3, 3, 1, 1, 1, 1])
    found, labels, names = videos.video_scores(scores, np.array([0, 0, 0, 1, 1, 1, 1]), ids, "median")
    np.testing.assert_allclose(found, [np.median([0.6, 0.3, 0.8, 0.7]), 0.2])
    assert labels.tolist() == [1, 0]
    assert names.tolist() == [1, 3]


def test_mean_of_a_value_agrees_with_a_plain_loop() -> None:
    values, labels, ids = _data(9)
    found = metrics.measure_mean(values, labels, ids, resamples=40, seed=2)
    counts, index = metrics._resample(labels, ids, 40, 2)
    drawn = [np.repeat(values, row[index]).mean() for row in counts]
    assert found.value == pytest.approx(values.mean())
    assert found[1:] == pytest.approx(np.quantile(drawn, (0.025, 0.975)))
    with pytest.raises(ShapeError, match="finite value for each of 2 crops"):
        metrics.measure_mean(np.array([1.0, np.nan]), np.array([0, 1]), np.array(["a", "b"]))


def test_single_class_has_no_ranking_metric() -> None:
    found = metrics.measure(np.array([0.2, 0.7]), np.array([1, 1]), np.array(["a", "b"]), threshold=0.5)
    assert "auc" not in found
    assert found["fake_as_real"].value == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 1.2], [0, 1], "scores_from_logits"),
        ([0.1, np.nan], [0, 1], "finite scores"),
        ([0.1, 0.2], [0, 2], "labels 0"),
        ([0.1, 0.2], [1, 1], "both classes"),
        ([0.1], [0, 1], "n > 0"),
    ],
)
def test_unusable_input_is_refused(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        metrics.auc(np.array(scores), np.array(labels))


def test_a_video_with_two_labels_is_refused() -> None:
    with pytest.raises(ShapeError, match="one label for each video"):
        videos.video_scores(np.array([0.1, 0.2]), np.array([0, 1]), np.array(["a", "a"]))


def test_scores_from_logits_neither_overflows_nor_hides_nan() -> None:
    scores = metrics.scores_from_logits(np.array([-1e30, 0, 1e30, np.nan], dtype=np.float32))
    assert scores[0] < 1e-300
    assert scores[1] == 0.5
    assert scores[2] == 1
    assert np.isnan(scores[3])
