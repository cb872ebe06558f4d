from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dfcore.errors import ConfigError
from dfcore.models import BACKBONES, DetectorConfig, build_detector, crafting_mode, register_backbone
from tests.models.conftest import settled


def test_logits_are_calibrated_affinely(images: torch.Tensor) -> None:
    detector = settled("resnet10t")
    raw = detector(images)
    detector.calibrate(2.0, -1.0)
    assert raw.shape == (4,)
    assert raw.dtype == torch.float32
    torch.testing.assert_close(detector(images), 2 * raw - 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert detector(images).dtype == torch.float32


def test_logits_are_the_backbone_of_normalised_pixels(images: torch.Tensor) -> None:
    detector = settled("resnet10t")
    expected = detector.backbone((images - detector.mean) / detector.std)[:, 0]
    torch.testing.assert_close(detector(images), expected)


@pytest.mark.parametrize("backbone", ["resnet10t", "efficientnet_b0"])
def test_features_feed_the_classifier(backbone: str, images: torch.Tensor) -> None:
    detector = settled(backbone)
    features = detector.features(images)
    torch.testing.assert_close(detector.backbone.get_classifier()(features)[:, 0], detector(images))
    maps: list[torch.Tensor] = []
    detector.cam_layer.register_forward_hook(lambda _m, _i, output: maps.append(output))
    detector(images)
    assert maps[0].ndim == 4


def test_same_seed_same_weights_and_global_state_is_kept() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = (build_detector(DetectorConfig(backbone="resnet10t"), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_unknown_backbone_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet10t'"):
        build_detector(DetectorConfig(backbone="resnet10tt"))
    with pytest.raises(ConfigError, match="list_models"):
        build_detector(DetectorConfig(backbone="zzzzzzzzzzzz"))


def test_own_backbone_is_built_and_names_are_unique(images: torch.Tensor) -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 1)

        def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.conv(pixels)

        def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
            pooled = maps.mean((2, 3))
            return pooled if pre_logits else self.head(pooled)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.forward_head(self.forward_features(pixels))

    try:
        register_backbone("tiny_for_test")(lambda config: Tiny())
        detector = build_detector(DetectorConfig(backbone="tiny_for_test"))
        assert detector(images).shape == (4,)
        assert detector.cam_layer is detector.backbone.conv
        with pytest.raises(ConfigError, match="choose another"):
            register_backbone("tiny_for_test")
    finally:
        del BACKBONES["tiny_for_test"]
    with pytest.raises(ConfigError, match="choose another"):
        register_backbone("resnet10t")


def test_cam_needs_a_convolution() -> None:
    detector = build_detector(DetectorConfig(backbone="resnet10t"))
    detector.backbone = nn.Linear(3, 1)
    with pytest.raises(ConfigError, match="convolutional"):
        _ = detector.cam_layer


def test_negative_calibration_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive"):
        build_detector(DetectorConfig(backbone="resnet10t")).calibrate(-1.0, 0.0)


def test_initial_backbone_weights(tmp_path: Path) -> None:
    source = settled("resnet10t").backbone.state_dict()
    weights = {name: value.contiguous() for name, value in source.items() if not name.startswith("fc.")}
    save_file(weights, tmp_path / "w.safetensors")
    config = DetectorConfig(backbone="resnet10t", weights=tmp_path / "w.safetensors")
    assert torch.equal(build_detector(config).backbone.conv1[0].weight, weights["conv1.0.weight"])
    del weights["conv1.0.weight"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"conv1.0.weight"):
        build_detector(config)
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match="safetensors file"):
        build_detector(config)


def test_crafting_mode_restores_each_flag() -> None:
    detector = build_detector(DetectorConfig(backbone="resnet10t")).train()
    detector.backbone.layer1.eval()
    detector.backbone.fc.requires_grad_(False)
    modes = [module.training for module in detector.modules()]
    flags = [parameter.requires_grad for parameter in detector.parameters()]
    with crafting_mode(detector):
        assert not any(module.training for module in detector.modules())
        assert not any(parameter.requires_grad for parameter in detector.parameters())
    assert [module.training for module in detector.modules()] == modes
    with pytest.raises(ZeroDivisionError), crafting_mode(detector):
        _ = 1 / 0
    assert [module.training for module in detector.modules()] == modes
    assert [parameter.requires_grad for parameter in detector.parameters()] == flags
