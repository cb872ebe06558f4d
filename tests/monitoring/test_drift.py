"""Two-sample tests against scikit-learn and the definition; drift by slice."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

from dfcore.errors import DataError, ShapeError
from dfcore.monitoring import PAYLOAD_SCHEMA, Record
from dfcore.monitoring.drift import DriftConfig, holm, measure_drift
from dfcore.monitoring.mmd import median_distance, mmd_test
from dfcore.monitoring.payloads import _decode, _encode
from dfcore.monitoring.two_sample import _RIDGE, _out_of_fold, classifier_test, rank_auc


def sample(count: int, seed: int, shift: float = 0.0, scale: float = 1.0, columns: int = 6) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, columns)) * scale
    values[:, 0] += shift
    return values


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_mmd_agrees_with_the_definition(chunk: int) -> None:
    x, y = sample(31, 0), sample(24, 1, shift=0.7)
    found = mmd_test(x, y, permutations=10, bandwidth=1.7, chunk=chunk)
    gamma = 1 / (2 * 1.7**2)
    xx, yy, xy = rbf_kernel(x, x, gamma), rbf_kernel(y, y, gamma), rbf_kernel(x, y, gamma)
    within_x = (xx.sum() - np.trace(xx)) / (31 * 30)
    within_y = (yy.sum() - np.trace(yy)) / (24 * 23)
    expected = within_x + within_y - 2 * xy.mean()
    assert found.squared == pytest.approx(expected)
    assert found.effect == pytest.approx(expected / (within_x + within_y))


def test_mmd_permutations_agree_with_doing_it_again() -> None:
    x, y = sample(20, 0), sample(15, 1, shift=0.4)
    found = mmd_test(x, y, permutations=60, seed=3)
    rng = np.random.default_rng(3)
    pooled = np.concatenate([x, y])
    width = median_distance(pooled - pooled.mean(axis=0), rng)
    sides = np.r_[np.ones(20), np.zeros(15)]
    values = [mmd_test(x, y, permutations=0, bandwidth=width).squared]
    for _ in range(60):
        drawn = rng.permutation(sides) == 1
        values.append(mmd_test(pooled[drawn], pooled[~drawn], permutations=0, bandwidth=width).squared)
    assert found.bandwidth == pytest.approx(width)
    assert found.p_value == pytest.approx(np.mean(np.array(values) >= values[0] - 1e-12))


def test_mmd_is_unbiased_and_its_p_value_is_even() -> None:
    found = [mmd_test(sample(40, 2 * k), sample(40, 2 * k + 1), permutations=49, seed=k) for k in range(60)]
    squared = np.array([one.squared for one in found])
    assert abs(squared.mean()) < 3 * squared.std() / np.sqrt(len(squared))
    assert 0.02 <= np.mean([one.p_value <= 0.2 for one in found]) <= 0.36


def test_mmd_sees_other_spread_and_far_samples() -> None:
    assert mmd_test(sample(150, 0), sample(150, 1, scale=1.5), permutations=99).p_value == 0.01
    far = mmd_test(sample(50, 0), sample(50, 1) + 1e4, permutations=99)
    assert far.effect > 0.35  # the pooled median is then the way from one to the other
    assert mmd_test(sample(50, 0), sample(50, 1) + 1e4, permutations=9, bandwidth=9.0).effect > 0.99
    same = np.ones((20, 3))
    assert mmd_test(same, same, permutations=9).p_value == 1


def test_rank_auc_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 200).astype(float), rng.integers(0, 2, 200).astype(float)
    assert rank_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_out_of_fold_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)), rng.integers(0, 2, (60, 3)).astype(float)
    folds = np.arange(60) % 4
    found = _out_of_fold(features, labels, folds)
    for fold in range(4):
        train, test = folds != fold, folds == fold
        centre = features[train].mean(axis=0)
        penalty = _RIDGE * np.trace((features[train] - centre).T @ (features[train] - centre)) / 5
        model = Ridge(alpha=penalty).fit(features[train], labels[train])
        np.testing.assert_allclose(found[test], (features[test] - centre) @ model.coef_.T, atol=1e-8)


def test_the_classifier_tells_what_is_apart() -> None:
    assert classifier_test(sample(300, 0), sample(300, 1, shift=1.0)).auc == pytest.approx(0.74, abs=0.05)
    spread = classifier_test(sample(300, 0), sample(300, 1, scale=2.0))  # the means are equal
    assert spread.auc > 0.7
    assert spread.p_value <= 1 / 201 + 1e-9


def test_the_classifier_does_not_tell_what_is_equal() -> None:
    found = [
        classifier_test(sample(60, 2 * k), sample(60, 2 * k + 1), permutations=49, seed=k) for k in range(40)
    ]
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([one.p_value <= 0.1 for one in found]) <= 0.3
    same = np.ones((20, 3))
    assert classifier_test(same, same, permutations=9).auc == 0.5


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), "two samples"),
        (np.zeros(3), np.zeros((3, 4)), "two samples"),
        (np.zeros((1, 2)), np.zeros((3, 2)), "two rows"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "finite"),
    ],
)
def test_samples_are_checked(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        mmd_test(x, y)
    with pytest.raises(ShapeError, match=message):
        classifier_test(x, y)


def test_holm_agrees_with_the_definition() -> None:
    p_values = np.random.default_rng(0).uniform(0, 0.2, 12)
    found = holm(p_values.tolist())
    for place, value in enumerate(p_values):
        before = np.sort(p_values)[: (p_values <= value).sum()]
        expected = max((12 - rank) * one for rank, one in enumerate(before))
        assert found[place] == pytest.approx(min(1, expected))
    assert holm([]) == []


def table(embeddings: np.ndarray, seed: int, shift: float = 0.0, **slices: list[str]) -> pa.Table:
    rng = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-rng.normal(size=len(embeddings)) - shift))
    return _decode(_encode([
        Record(
            time=float(row), request=str(row), model="m", version="1", weights="w", score=float(scores[row]),
            attack={"combined": float(rng.uniform())}, embedding=embeddings[row],
            slices={key: values[row % len(values)] for key, values in slices.items()},
        )
        for row in range(len(embeddings))
    ]), "a test")  # fmt: skip


def test_no_drift_between_equal_logs() -> None:
    report = measure_drift(
        table(sample(400, 0), 0, kind=["a", "b"]), table(sample(400, 1), 1, kind=["a", "b"])
    )
    assert not report.drifted
    assert [one.slice for one in report.slices] == ["all", "kind=a", "kind=b"]
    assert all(not one.reasons for one in report.slices)
    assert report.slices[0].psi.keys() == {"score", "combined"}


def test_drift_in_one_slice_is_named() -> None:
    shifted = sample(400, 1)
    shifted[::2, 0] += 1.5
    report = measure_drift(table(sample(400, 0), 0, kind=["a", "b"]), table(shifted, 1, kind=["a", "b"]))
    verdicts = {one.slice: one.reasons for one in report.slices}
    assert report.drifted
    assert any(reason.startswith("auc") for reason in verdicts["kind=a"])
    assert not verdicts["kind=b"]


def test_a_significant_but_small_effect_is_no_drift() -> None:
    report = measure_drift(table(sample(2000, 0), 0), table(sample(2000, 1, shift=0.3), 1))
    (found,) = report.slices
    assert found.auc_p is not None
    assert found.auc_p <= 0.05
    assert not report.drifted


def test_more_of_one_kind_is_no_drift_within_it() -> None:
    def mixed(seed: int, kinds: list[str]) -> pa.Table:
        embeddings = sample(600, seed)
        embeddings[[kinds[row % len(kinds)] == "b" for row in range(600)], 0] += 3
        return table(embeddings, seed, kind=kinds)

    report = measure_drift(mixed(0, ["a", "a", "a", "b"]), mixed(1, ["a", "b", "b", "b"]))
    verdicts = {one.slice: one.reasons for one in report.slices}
    assert verdicts["all"]
    assert not verdicts["kind=a"]
    assert not verdicts["kind=b"]


def test_drift_of_scores_needs_rows() -> None:
    few = measure_drift(table(sample(100, 0), 0), table(sample(100, 1), 1, shift=2.0))
    assert few.slices[0].psi["score"] > 0.25
    assert not few.drifted
    many = measure_drift(table(sample(300, 0), 0), table(sample(300, 1), 1, shift=2.0))
    assert any(reason.startswith("psi of score") for reason in many.slices[0].reasons)


def test_logs_without_embeddings_are_compared_by_their_scores() -> None:
    bare = table(sample(60, 0), 0).drop_columns(["embedding"])
    bare = bare.append_column(
        PAYLOAD_SCHEMA.field("embedding"), pa.nulls(60, PAYLOAD_SCHEMA.field("embedding").type)
    )
    (found,) = measure_drift(bare, bare).slices
    assert found.auc is None
    assert found.psi["score"] == 0


def test_rare_slices_are_skipped_and_large_ones_drawn_from() -> None:
    config = DriftConfig(most=60, fewest=50)
    rare = ["a"] * 60 + ["b"]
    calls: list[tuple[int, int]] = []
    report = measure_drift(
        table(sample(200, 0), 0, kind=rare), table(sample(200, 1), 1, kind=rare), config,
        lambda *done: calls.append(done),
    )  # fmt: skip
    assert report.skipped == {"kind=b": "3 and 3 rows"}
    assert calls[-1] == (2, 2)


def test_drift_refuses() -> None:
    known = table(sample(60, 0), 0)
    with pytest.raises(DataError, match="expected 50 rows"):
        measure_drift(known, known.slice(0, 20))
    others = known.set_column(
        known.schema.get_field_index("weights"), PAYLOAD_SCHEMA.field("weights"), pa.array(["x"] * 60)
    )
    with pytest.raises(DataError, match="one detector"):
        measure_drift(known, others)
    ragged = pa.concat_tables([known, table(sample(60, 1, columns=5), 1)])
    with pytest.raises(DataError, match="one length"):
        measure_drift(ragged, ragged)
