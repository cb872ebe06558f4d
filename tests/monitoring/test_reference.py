"""References and the population stability index, against independent computations."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry, Histogram

from dfcore.errors import DataError, ShapeError
from dfcore.models import Detector, DetectorConfig, build_detector
from dfcore.monitoring import SCORE_BUCKETS, bucket_counts, build_reference, psi, score_crops

SIZE = 64


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.set_num_threads(1)
    return build_detector(DetectorConfig(backbone="mobilenetv3_small_050", image_size=SIZE), seed=1).eval()


def make_crops(count: int) -> Any:
    images = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)

    def tensor(device: torch.device, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images[indices]).to(device).permute(0, 3, 1, 2).float() / 255

    class Stand(SimpleNamespace):
        def __len__(self) -> int:
            return count

    groups = np.array([f"person-{index // 2}" for index in range(count)])
    return Stand(images=images, tensor=tensor, labels=np.arange(count) % 2, group_ids=groups)


def test_bucket_counts_agree_with_prometheus() -> None:
    values = np.concatenate([np.linspace(0, 1, 101), np.array(SCORE_BUCKETS), [1.5]])
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", buckets=SCORE_BUCKETS, registry=registry)
    for value in values:
        histogram.observe(value)
    cumulative = [
        sample.value for sample in next(iter(registry.collect())).samples if sample.name == "h_bucket"
    ]
    assert bucket_counts(values, SCORE_BUCKETS) == np.diff(cumulative, prepend=0).tolist()


def test_psi_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(1)
    reference, actual = rng.integers(1, 99, 20), rng.integers(1, 99, 20)
    p, q = (actual + 0.5) / (actual + 0.5).sum(), (reference + 0.5) / (reference + 0.5).sum()
    expected = sum((a - b) * np.log(a / b) for a, b in zip(p, q, strict=True))
    assert psi(reference.tolist(), actual.tolist()) == pytest.approx(expected)
    assert psi(actual.tolist(), reference.tolist()) == pytest.approx(expected)  # symmetric
    assert psi([0, 10], [10, 0]) > 1  # empty buckets stay finite


@pytest.mark.parametrize(
    ("reference", "counts", "error", "message"),
    [
        ([1, 2], [1], ShapeError, "two histograms"),
        ([], [], ShapeError, "two histograms"),
        ([1, -2], [1, 2], ShapeError, "negative"),
        ([0, 0], [1, 2], DataError, "empty"),
    ],
)
def test_psi_refuses(
    reference: list[float], counts: list[float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        psi(reference, counts)


def test_score_crops(detector: Detector) -> None:
    crops = make_crops(5)
    scores, moved = score_crops(detector, crops.images)
    with torch.inference_mode():
        expected = detector(crops.tensor(torch.device("cpu"), np.arange(5))).sigmoid().numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert moved.shape == (5,)
    assert (moved > 0).all()  # noise does not survive JPEG
    flat_scores, flat_moved = score_crops(detector, np.full((1, SIZE, SIZE, 3), 128, dtype=np.uint8))
    assert flat_moved[0] < moved.mean()  # a grey image does
    assert flat_scores.shape == (1,)
    assert score_crops(detector, crops.images[:0])[0].shape == (0,)
    with pytest.raises(ShapeError, match="uint8"):
        score_crops(detector, crops.images.astype(np.float32))


def test_build_reference(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = make_crops(70)
    document = json.loads(json.dumps(build_reference(detector, crops, {"face_size": np.full(70, 100.0)})))
    histograms = document["histograms"]
    assert set(histograms) == {"fake_score", "attack_score_jpeg_75", "blur", "face_size"}
    for histogram in histograms.values():
        assert len(histogram["le"]) == len(histogram["counts"])
        assert sum(histogram["counts"]) == 70
    assert histograms["fake_score"]["le"] == [*SCORE_BUCKETS, None]
    with torch.inference_mode():
        features = detector.features(crops.tensor(torch.device("cpu"), np.arange(70))).numpy()
    np.testing.assert_allclose(document["features"]["mean"], features.mean(axis=0), rtol=1e-3, atol=1e-5)
    assert "precision" not in document["features"]  # 1024 features
    assert document["attack_scores"]["clean"] == 70
    assert len(json.dumps(document["attack_scores"])) < 500_000
    monkeypatch.setattr("dfcore.monitoring.reference._LARGEST_PRECISION", 2048)
    precision = np.array(build_reference(detector, crops)["features"]["precision"])
    assert precision.shape == (features.shape[1],) * 2
    np.testing.assert_allclose(precision, precision.T, rtol=1e-3, atol=abs(precision).max() * 1e-4)


def test_few_crops_give_no_attack_scores(detector: Detector) -> None:
    assert "attack_scores" not in build_reference(detector, make_crops(15))


def test_build_reference_refuses(detector: Detector) -> None:
    with pytest.raises(DataError, match="got none"):
        build_reference(detector, make_crops(0))
    with pytest.raises(DataError, match="2 values of face_size"):
        build_reference(detector, make_crops(2), {"face_size": np.zeros(3)})
