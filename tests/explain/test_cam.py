"""Grad-CAM: its range, what it points at, and that it leaves the detector alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfcore.errors import ShapeError
from dfcore.explain import grad_cam
from dfcore.models import Detector, DetectorConfig, build_detector, fold_batch_norm


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector(DetectorConfig(backbone="resnet10t", image_size=64)).eval()


def _images(n: int = 3) -> torch.Tensor:
    return torch.rand((n, 3, 64, 64), generator=torch.Generator().manual_seed(0))


def test_shape_type_and_range(detector: Detector) -> None:
    maps = grad_cam(detector, _images())
    assert maps.shape == (3, 64, 64)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_batch_equals_one_by_one(detector: Detector) -> None:
    images = _images()
    together = grad_cam(detector, images)
    apart = np.concatenate([grad_cam(detector, images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, apart, atol=1e-3)


def test_detector_is_left_as_it_was(detector: Detector) -> None:
    detector.train()
    detector.backbone.conv1.eval()
    marker = torch.full_like(detector.backbone.fc.weight, 3.0)
    detector.backbone.fc.weight.grad = marker
    try:
        grad_cam(detector, _images(1))
        assert detector.training
        assert not detector.backbone.conv1.training
        assert detector.backbone.fc.weight.grad is marker
        assert detector.backbone.conv1[0].weight.grad is None
        assert not detector.cam_layer._forward_hooks
    finally:
        detector.backbone.fc.weight.grad = None
        detector.eval()


def test_frozen_detector_has_the_same_maps(detector: Detector) -> None:
    np.testing.assert_allclose(
        grad_cam(fold_batch_norm(detector), _images()), grad_cam(detector, _images()), atol=5e-3
    )


def test_no_images_and_wrong_images(detector: Detector) -> None:
    assert grad_cam(detector, torch.zeros((0, 3, 64, 64))).shape == (0, 64, 64)
    with pytest.raises(ShapeError, match="divide by 255"):
        grad_cam(detector, _images() * 255)
