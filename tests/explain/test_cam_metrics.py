"""Distances between attention maps: their limits, and figures computed by hand or by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score
from sklearn.metrics.pairwise import cosine_similarity

from dfcore.errors import ConfigError, ShapeError
from dfcore.explain import cam_cosine, cam_ssim, compare_cams, iinc, top_iou

SIDE = 16
MEASURES = [iinc, cam_ssim, cam_cosine, top_iou]


def _half(side: str) -> NDArray[np.float32]:
    maps = np.zeros((1, SIDE, SIDE), dtype=np.float32)
    (maps[:, :, : SIDE // 2] if side == "left" else maps[:, :, SIDE // 2 :])[...] = 1
    return maps


def _random(seed: int, count: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, SIDE, SIDE), dtype=np.float32)


@given(
    hnp.arrays(np.float32, (2, 12, 12), elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.float32, (2, 12, 12), elements=st.floats(0, 1, width=32)),
)
def test_range_symmetry_and_identity(first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    for measure, least in ((iinc, 0), (cam_ssim, -1), (cam_cosine, 0), (top_iou, 0)):
        values = measure(first, second)
        assert values.shape == (2,)
        assert values.dtype == np.float64
        assert (values >= least).all()
        assert (values <= 1 + 1e-12).all()
        np.testing.assert_allclose(values, measure(second, first), atol=1e-9)
        np.testing.assert_allclose(measure(first, first), 0 if measure is iinc else 1, atol=1e-6)


def test_iinc_of_disjoint_maps_is_2_over_3_minus_the_union() -> None:
    left, right = _half("left"), _half("right")
    assert iinc(left, right) == pytest.approx([1.0])
    quarter = left.copy()
    quarter[:, SIDE // 2 :] = 0
    assert iinc(quarter, right) == pytest.approx([2 / (3 - 0.75)])


def test_iinc_by_hand() -> None:
    # half of the image, and a quarter of it inside: |I| = |B| = 1/4, |A| = |U| = 1/2
    left = _half("left")
    inside = left.copy()
    inside[:, SIDE // 2 :] = 0
    assert iinc(left, inside) == pytest.approx([(2 - 0.5 - 1) / (3 - 0.5)])


def test_iinc_of_empty_maps() -> None:
    empty, left = np.zeros((1, SIDE, SIDE), dtype=np.float32), _half("left")
    assert iinc(empty, empty) == pytest.approx([0.0])
    assert iinc(empty, left) == iinc(left, empty) == pytest.approx([1 / (3 - 0.5)])


def test_iinc_takes_a_manipulation_mask_and_a_level() -> None:
    mask = _half("left") > 0
    cam = _half("left") * np.float32(0.7)
    assert iinc(mask, cam) == pytest.approx([0.0])
    assert iinc(mask, cam, level=0.8) == pytest.approx([1 / 2.5])


def test_ssim_drops_with_displacement_and_not_with_order() -> None:
    near, far = np.zeros((2, 1, 32, 32), dtype=np.float32)
    base = np.zeros((1, 32, 32), dtype=np.float32)
    base[:, 8:16, 8:16] = near[:, 9:17, 8:16] = far[:, 16:24, 16:24] = 1
    assert 1 > cam_ssim(base, near)[0] > cam_ssim(base, far)[0]


def test_ssim_is_the_published_one() -> None:
    # one window, written out: Gaussian of sigma 1.5 over 11 x 11 pixels, population variances
    first, second = _random(0, 1)[:, :11, :11].astype(float), _random(1, 1)[:, :11, :11].astype(float)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    mean = [(weights * maps[0]).sum() for maps in (first, second)]
    variance = [(weights * (maps[0] - m) ** 2).sum() for maps, m in zip((first, second), mean, strict=True)]
    covariance = (weights * (first[0] - mean[0]) * (second[0] - mean[1])).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mean[0] * mean[1] + c1) * (2 * covariance + c2)
    expected /= (mean[0] ** 2 + mean[1] ** 2 + c1) * (sum(variance) + c2)
    assert cam_ssim(first, second) == pytest.approx([expected], abs=1e-6)


def test_cosine_is_scikit_learns() -> None:
    first, second = _random(2), _random(3)
    expected = np.diag(cosine_similarity(first.reshape(3, -1), second.reshape(3, -1)))
    np.testing.assert_allclose(cam_cosine(first, second), expected, rtol=1e-6)


def test_cosine_of_empty_maps() -> None:
    empty, left = np.zeros((1, SIDE, SIDE), dtype=np.float32), _half("left")
    assert cam_cosine(empty, empty) == [1.0]
    assert cam_cosine(empty, left) == [0.0]


def test_top_iou_is_scikit_learns() -> None:
    first, second = _random(4), _random(5)
    count = round(0.3 * SIDE * SIDE)
    expected = []
    for one, two in zip(first.reshape(3, -1), second.reshape(3, -1), strict=True):
        tops = [np.isin(np.arange(SIDE**2), np.argsort(-maps)[:count]) for maps in (one, two)]
        expected.append(jaccard_score(*tops))
    np.testing.assert_allclose(top_iou(first, second, share=0.3), expected)


def test_dark_pixels_are_nobodys_top() -> None:
    # two single bright pixels: the rest of the top fifth would be zeros that agree
    first, second = np.zeros((2, 1, SIDE, SIDE), dtype=np.float32)
    first[:, 2, 2] = second[:, 9, 9] = 1
    assert top_iou(first, second) == [0.0]
    assert top_iou(first, np.zeros_like(first)) == [0.0]
    assert top_iou(np.zeros_like(first), np.zeros_like(first)) == [1.0]
    assert top_iou(_half("left"), _half("left"), share=0.001) == [1.0]


def test_comparison_holds_every_measure() -> None:
    first, second = _random(6), _random(7)
    found = compare_cams(first, second, share=0.1)
    np.testing.assert_array_equal(found.iinc, iinc(first, second))
    np.testing.assert_array_equal(found.ssim, cam_ssim(first, second))
    np.testing.assert_array_equal(found.cosine, cam_cosine(first, second))
    np.testing.assert_array_equal(found.top_iou, top_iou(first, second, 0.1))
    assert found.means() == {name: values.mean() for name, values in vars(found).items()}


def test_no_maps_have_no_mean() -> None:
    empty = np.zeros((0, SIDE, SIDE), dtype=np.float32)
    assert all(np.isnan(value) for value in compare_cams(empty, empty).means().values())


@pytest.mark.parametrize("measure", MEASURES)
def test_wrong_maps_are_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ShapeError, match=r"expected two times maps \(N, h, w\), got \(3, 16, 16\)"):
        measure(_random(0), _random(1)[:2])
    with pytest.raises(ShapeError, match="expected two times maps"):
        measure(_random(0)[0], _random(1)[0])
    with pytest.raises(ShapeError, match=r"expected maps in \[0, 1\], got 0 to 2"):
        measure(_half("left"), _half("left") * 2)
    with pytest.raises(ShapeError, match=r"in \[0, 1\]"):
        measure(_half("left"), _half("left") * np.float32("nan"))


def test_maps_smaller_than_the_window_and_impossible_shares_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least 11 px for SSIM"):
        cam_ssim(_random(0)[:, :7, :7], _random(1)[:, :7, :7])
    for share in (0.0, 1.5):
        with pytest.raises(ConfigError, match="share of the pixels"):
            top_iou(_random(0), _random(1), share=share)
