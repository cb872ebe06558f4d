from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from dfcore.defences import AFSL, weighted_bce
from dfcore.defences.afsl import features_and_logits
from dfcore.errors import ConfigError
from dfcore.models import DetectorConfig, build_detector
from tests.defences.toys import LinearNet, TinyNet, assert_same_slopes, fresh, settled, state_for, toy
from tests.tolerances import TOLERANCE


def test_loss_is_the_formula() -> None:
    detector = settled()
    detector.calibrate(2.0, 0.3)
    images, labels = toy(0, 6)
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    state = state_for(detector, weights=(1.5, 0.75), smoothing=0.1)
    attacked = images.flip(0)
    value, scalars = AFSL(attack_weight=0.8, class_weight=0.3).loss(
        detector, images, labels, (attacked,), state
    )
    clean, turned = detector.features(images).double(), detector.features(attacked).double()
    # twice as many fakes as reals
    adjusted = detector(images) + torch.log(torch.tensor(2.0))
    expected = weighted_bce(adjusted, labels, torch.ones(2), 0.1).double()
    torch.testing.assert_close(scalars["clean_loss"].double(), expected.detach(), rtol=1e-5, atol=1e-6)
    own = torch.stack([torch.cosine_similarity(a, b, dim=0) for a, b in zip(clean, turned, strict=True)])
    pairs = torch.stack([
        torch.cosine_similarity(clean[a], clean[b], dim=0)
        for a, b in itertools.product(range(6), repeat=2) if labels[a] == 0 and labels[b] == 1
    ])  # fmt: skip
    expected = expected + 0.8 * (1 - own).mean() + 0.3 * pairs.mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert_same_slopes(value, expected, detector)


def test_without_prices_and_with_even_classes_it_is_plain_training() -> None:
    detector = settled()
    images, labels = toy(0, 8)
    state = state_for(detector)
    value, _ = AFSL(attack_weight=0, class_weight=0).loss(detector, images, labels, (images.flip(0),), state)
    torch.testing.assert_close(value, state.bce(detector(images), labels))


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_has_no_pairs(label: int) -> None:
    detector = fresh()
    images, _ = toy(0, 4)
    labels = torch.full((4,), label)
    value, scalars = AFSL().loss(detector, images, labels, (images.flip(0),), state_for(detector))
    value.backward()
    assert scalars["alike"] == 0
    assert all(bool(parameter.grad.isfinite().all()) for parameter in detector.parameters())


def test_features_of_length_zero_have_no_direction() -> None:
    detector = fresh()
    images, labels = toy(0, 4)
    last = detector.backbone.blocks[-1][1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # SiLU(0) = 0
    value, scalars = AFSL().loss(detector, images, labels, (images.flip(0),), state_for(detector))
    value.backward()
    assert scalars["turned"] == 1
    assert all(bool(parameter.grad.isfinite().all()) for parameter in detector.parameters())


@pytest.mark.parametrize(
    "backbone",
    ["resnet10_narrow", "mobilenetv3_small_050", "convnext_atto", "efficientvit", "vit_tiny_patch16_224"],
)
def test_features_and_logits_are_the_detectors_own(backbone: str) -> None:
    detector = build_detector(DetectorConfig(backbone=backbone, image_size=32)).eval()
    detector.calibrate(1.5, -0.2)
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    features, logits = features_and_logits(detector, images)
    torch.testing.assert_close(logits, detector(images), **TOLERANCE[torch.float32])
    torch.testing.assert_close(features, detector.features(images))


class NoHead(TinyNet):
    def get_classifier(self) -> nn.Module:
        return nn.Identity()


class Headless(LinearNet):
    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return maps.flatten(1)


@pytest.mark.parametrize("network", [NoHead, Headless])
def test_a_backbone_without_a_linear_end_is_refused(network: type[nn.Module]) -> None:
    detector = fresh(network)
    images, labels = toy(0, 4)
    with pytest.raises(ConfigError, match=f"ends in one linear layer, got {network.__name__}"):
        AFSL().loss(detector, images, labels, (images,), state_for(detector))


def test_a_detector_that_does_not_fit_is_refused_before_work() -> None:
    fits = DetectorConfig(backbone="resnet10_narrow", image_size=32)
    AFSL().check(build_detector(fits))
    with pytest.raises(ConfigError, match=r"drop_rate 0 with AFSL, got 0\.2"):
        AFSL().check(build_detector(fits.model_copy(update={"drop_rate": 0.2})))
    with pytest.raises(ConfigError, match="ends in one linear layer"):
        AFSL().check(fresh(NoHead))
