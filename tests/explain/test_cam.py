"""Grad-CAM: its formula and range, what it points at, and that it leaves the detector alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dfcore.errors import ConfigError, ShapeError
from dfcore.explain import grad_cam
from dfcore.models import Detector, DetectorConfig, build_detector, fold_batch_norm
from tests.explain.planted import planted_detector


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


@pytest.mark.parametrize("backbone", ["resnet10t", "efficientvit"])
def test_maps_are_the_published_formula(backbone: str) -> None:
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=64)).eval()
    output: list[torch.Tensor] = []
    with detector.cam_layer.register_forward_hook(lambda _m, _i, maps: output.append(maps)):
        logits = detector(_images())
    gradient = torch.autograd.grad(logits.sum(), output[0])[0]
    features, slopes = (detector.cam_maps(value.detach(), (64, 64)) for value in (output[0], gradient))
    weights = slopes.mean((2, 3), keepdim=True)
    maps = F.relu((weights * features).sum(1, keepdim=True))
    large = F.interpolate(maps, (64, 64), mode="bilinear", align_corners=False)[:, 0]
    peaks = large.amax((1, 2), keepdim=True)
    expected = torch.where(peaks > 0, large / peaks.clamp_min(1e-30), large)
    np.testing.assert_allclose(grad_cam(detector, _images()), expected.numpy(), atol=1e-3)


@pytest.mark.parametrize(
    "backbone",
    ["efficientnet_b0", "efficientvit", "efficientvit_published", "resnet10_narrow", "vit_tiny_patch16_224",
     "xception"],
)  # fmt: skip
def test_cam_looks_at_the_patch_that_decides(backbone: str) -> None:
    planted = planted_detector(backbone)
    cams = grad_cam(planted.detector, planted.images)
    for cam, mask in zip(cams, planted.masks, strict=True):
        assert mask[np.unravel_index(cam.argmax(), cam.shape)]
        # the map is bilinear between cells: about half of it lies beside the only cell that is lit
        assert cam[mask].sum() > 4 * mask.mean() * cam.sum()


def test_decision_speaks_for_the_label_that_the_image_gets(detector: Detector) -> None:
    images = _images(6)
    with torch.no_grad():
        logits = detector(images)
    level = float(logits.sort().values[2:4].mean())
    split = build_detector(detector.config).eval()
    split.load_state_dict(detector.state_dict())
    split.threshold = float(torch.sigmoid(torch.tensor(level)))
    fake = logits >= level
    assert fake.any()
    assert not fake.all()
    decided, for_fake = grad_cam(split, images, "decision"), grad_cam(split, images)
    np.testing.assert_array_equal(decided[fake.numpy()], for_fake[fake.numpy()])
    # what speaks for "real" is what speaks for "fake" in a detector that says the opposite
    with torch.no_grad():
        split.backbone.get_classifier().weight.mul_(-1)
        split.backbone.get_classifier().bias.mul_(-1)
    opposite = grad_cam(split, images)
    np.testing.assert_allclose(decided[~fake.numpy()], opposite[~fake.numpy()], atol=1e-5)


def test_batch_equals_one_by_one(detector: Detector) -> None:
    images = _images()
    together = grad_cam(detector, images)
    apart = np.concatenate([grad_cam(detector, images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, apart, atol=1e-3)
    np.testing.assert_allclose(together, grad_cam(detector, images, batch_size=2), atol=1e-3)


def test_detector_is_left_as_it_was(detector: Detector) -> None:
    detector.train()
    detector.backbone.conv1.eval()
    detector.backbone.layer1.requires_grad_(False)
    marker = torch.full_like(detector.backbone.fc.weight, 3.0)
    detector.backbone.fc.weight.grad = marker
    try:
        grad_cam(detector, _images(1))
        assert detector.training
        assert not detector.backbone.conv1.training
        assert detector.backbone.fc.weight.grad is marker
        assert detector.backbone.conv1[0].weight.grad is None
        assert detector.backbone.conv1[0].weight.requires_grad
        assert not any(parameter.requires_grad for parameter in detector.backbone.layer1.parameters())
        assert not detector.cam_layer._forward_hooks
    finally:
        detector.backbone.fc.weight.grad = None
        detector.requires_grad_(True).eval()


def test_detector_is_left_as_it_was_when_the_work_breaks_off(detector: Detector) -> None:
    fixed = build_detector(DetectorConfig(backbone="vit_tiny_patch16_224", image_size=64))
    with pytest.raises(ShapeError, match="64 px"):
        grad_cam(fixed, torch.rand(1, 3, 96, 96))
    assert fixed.training
    assert not fixed.cam_layer._forward_hooks


def test_inference_mode_and_autocast_change_nothing(detector: Detector) -> None:
    expected = grad_cam(detector, _images())
    with torch.inference_mode():
        np.testing.assert_array_equal(grad_cam(detector, _images()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(grad_cam(detector, _images()), expected)


def test_frozen_detector_has_the_same_maps(detector: Detector) -> None:
    np.testing.assert_allclose(
        grad_cam(fold_batch_norm(detector), _images()), grad_cam(detector, _images()), atol=5e-3
    )


def test_a_detector_without_an_opinion_has_an_empty_map() -> None:
    blank = build_detector(DetectorConfig(backbone="resnet10t", image_size=64))
    with torch.no_grad():
        blank.backbone.fc.weight.zero_()
        assert not grad_cam(blank, _images()).any()
        blank.backbone.fc.weight.fill_(float("nan"))
    assert not grad_cam(blank, _images()).any()


def test_the_scale_of_the_logit_changes_nothing(detector: Detector) -> None:
    scaled = build_detector(detector.config).eval()
    scaled.load_state_dict(detector.state_dict())
    scaled.calibrate(1e-9, 0.0)
    np.testing.assert_allclose(grad_cam(scaled, _images()), grad_cam(detector, _images()), atol=1e-3)


def test_no_images_and_wrong_input(detector: Detector) -> None:
    assert grad_cam(detector, torch.zeros((0, 3, 64, 64))).shape == (0, 64, 64)
    with pytest.raises(ShapeError, match="divide by 255"):
        grad_cam(detector, _images() * 255)
    with pytest.raises(ConfigError, match="did you mean 'fake'"):
        grad_cam(detector, _images(), "fakes")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_matches_cpu(detector: Detector) -> None:
    moved = build_detector(detector.config).eval()
    moved.load_state_dict(detector.state_dict())
    moved.to("cuda")
    np.testing.assert_allclose(grad_cam(moved, _images().cuda()), grad_cam(detector, _images()), atol=1e-2)
